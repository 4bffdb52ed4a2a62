"""What keeps the shelf from writing: a sentence for the status, said in the log when it begins and when it ends."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.store import disks
from gateway.store.files import DATABASE
from gateway.store.presence import Presence

if TYPE_CHECKING:
    from gateway.store.room import Room

log = logging.getLogger("tidegate.store")

FULL: Final = "SQLITE_FULL"
# What comes and goes is said once in so long.
QUIET_S: Final = 60.0


class Trouble:
    """At most one trouble at a time. `lasting` is a sentence about one that only a new start ends."""

    def __init__(self, room: Room, *, lasting: str = "") -> None:
        self.lasting = self.closed = lasting  # `closed`: why nothing is taken at all
        self.presence: Presence | None = None
        self._room = room
        self._kind = ""
        self._sentence = ""
        self._failing_since_s: float | None = None
        self._said_s: dict[str, float] = {}
        self._was_said = False
        self._turned_away_bytes: int | None = None
        self.is_failing = False  # whether nothing can be written, for another reason than want of room
        self.has_disk_failed = False  # whether the disk has, and nothing was written since

    @property
    def kind(self) -> str:
        """The name of what is wrong, "" where all is well."""
        return self._kind

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do; "" where all is well."""
        return self.lasting or self._sentence

    def watch_files(self) -> None:
        """From now on look whether the files that are open stay in their places; not where they are only read."""
        if not self.closed:
            self.presence = Presence(self._room.state_dir / DATABASE)

    def look_at_files(self) -> str:
        """Take note where the open files are not in their places any more, or are again; return why nothing is taken.

        A database that is damaged is mended by the next start, wherever it is then.
        """
        if self.presence is None or (self.lasting and not self.closed):
            return self.closed
        found = self.presence.look()
        if found != self.closed:
            level = logging.ERROR if found else logging.WARNING
            log.log(level, "%s", found or "the files are in their places again: the store takes data again")
            self.lasting = self.closed = found
        return found

    @property
    def is_log_gone(self) -> bool:
        """Whether the log is not in its place, and the database is."""
        return self.presence is not None and bool(self.closed) and self.presence.has_database

    def met(self, kind: str, sentence: str, *, error: Exception | None = None) -> None:
        """Take note of a trouble. The log hears of one `kind` once, with a traceback where `error` is our mistake."""
        now_s = asyncio.get_running_loop().time()
        if kind != self._kind and now_s - self._said_s.get(kind, -QUIET_S) >= QUIET_S:
            self._said_s[kind] = now_s
            self._was_said = True
            log.error("%s", sentence, exc_info=error)
        self._kind, self._sentence = kind, sentence

    def failed(self, error: Exception) -> None:
        """Take note of a commit that failed."""
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        sentence = f"nothing can be written: {disks.why(error, self._room.state_dir)}; commit failed, trying again"
        self.is_failing = not disks.is_full(error)
        self.has_disk_failed |= disks.is_unwritable(error) or (disks.is_failing(error) and self.is_failing)
        if self._failing_since_s is None:
            self._failing_since_s = asyncio.get_running_loop().time()
        self.met(name, sentence, error=None if isinstance(error, sqlite3.Error | OSError) else error)

    async def is_the_disks_doing(self) -> bool:
        """Whether what SQLite takes for a damaged file is a disk that has failed and takes nothing still.

        Such a disk gives back what was never written, or nothing: what the file is like only a good one can tell.
        """
        return self.has_disk_failed and not await asyncio.to_thread(disks.takes_writes, self._room.state_dir)

    def turned_away(self, sentence: str, size_bytes: int) -> None:
        """Take note that so many bytes found no room on the shelf, and why."""
        self._turned_away_bytes = size_bytes
        self.met(FULL, sentence)

    @property
    def is_taking(self) -> bool:
        """Whether what comes is taken, as far as can be told: commits succeed, and what came last found room.

        Or there is room for it by now: who asks may be the one who decides whether anything comes.
        """
        if self._failing_since_s is not None:
            return False
        try:
            return self._turned_away_bytes is None or not self._room.lacking(self._turned_away_bytes)
        except OSError:
            return False

    @property
    def is_starved(self) -> bool:
        """Whether nothing is taken since there is next to nothing left of the disk."""
        try:
            return not self.is_taking and bool(self._room.shortage())
        except OSError:
            return False

    def failing_s(self) -> float:
        """Return for how long commits have failed without one that succeeded, in seconds."""
        since_s = self._failing_since_s
        return 0.0 if since_s is None else asyncio.get_running_loop().time() - since_s

    def disk_full(self) -> None:
        """Take note that there is no byte left."""
        self.met(FULL, disks.when_full(self._room.state_dir))

    def succeeded(self, *, when_full: str, has_brought: bool = True) -> None:
        """Take note that something was written; with `when_full` "refuse" what comes may be turned away still.

        So may it where this commit `has_brought` nothing new.
        """
        self.is_failing = self.has_disk_failed = False
        self._failing_since_s = None
        if has_brought:
            self._turned_away_bytes = None
        if self.closed:
            return
        try:
            # What is let go because others have filled the disk is their doing.
            shortage = self._room.shortage()
            is_refusing = not self.is_taking or (when_full == "refuse" and self._room.lacking(0) > 0)
        except OSError as error:
            self.met(type(error).__name__, f"{self._room.state_dir} is gone: {error.strerror}")
            return
        if shortage:
            self.met(FULL, shortage)
        elif self._kind and not is_refusing:
            if self._was_said:
                log.warning("the store takes data again")
            self._kind = self._sentence = ""
            self._was_said = False
