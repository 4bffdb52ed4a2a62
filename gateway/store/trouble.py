"""What keeps the shelf from writing: a sentence for the status, said in the log when it begins and when it ends."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.store import disks

if TYPE_CHECKING:
    from gateway.store.room import Room

log = logging.getLogger("tidegate.store")

FULL: Final = "SQLITE_FULL"
# What comes and goes is said once in so long.
QUIET_S: Final = 60.0


class Trouble:
    """At most one trouble at a time. `lasting` is a sentence about one that only a new start ends."""

    def __init__(self, room: Room, *, lasting: str = "") -> None:
        self.lasting = lasting
        self._room = room
        self._kind = ""
        self._sentence = ""
        self._failing_since_s: float | None = None
        self._said_s: dict[str, float] = {}
        self._was_said = False
        self.is_failing = False  # whether nothing can be written, for another reason than want of room

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do; "" where all is well."""
        return self.lasting or self._sentence

    def met(self, kind: str, sentence: str, *, error: Exception | None = None) -> None:
        """Take note of a trouble. The log hears of one `kind` once, with a traceback where `error` is our mistake."""
        now_s = asyncio.get_running_loop().time()
        if kind != self._kind and now_s - self._said_s.get(kind, -QUIET_S) >= QUIET_S:
            self._said_s[kind] = now_s
            self._was_said = True
            log.error("%s", sentence, exc_info=error)
        self._kind, self._sentence = kind, sentence

    def failed(self, error: Exception) -> str:
        """Take note of a commit that failed; return the name of what failed."""
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        sentence = f"nothing can be written: {disks.why(error, self._room.state_dir)}; commit failed, trying again"
        self.is_failing = not disks.is_full(error)
        if self._failing_since_s is None:
            self._failing_since_s = asyncio.get_running_loop().time()
        self.met(name, sentence, error=None if isinstance(error, sqlite3.Error) else error)
        return name

    def failing_s(self) -> float:
        """Return for how long commits have failed without one that succeeded, in seconds."""
        since_s = self._failing_since_s
        return 0.0 if since_s is None else asyncio.get_running_loop().time() - since_s

    def disk_full(self) -> None:
        """Take note that there is no byte left."""
        self.met(FULL, disks.when_full(self._room.state_dir))

    def succeeded(self, *, when_full: str) -> None:
        """Take note that something was written; with `when_full` "refuse" what comes may be turned away still."""
        self.is_failing = False
        self._failing_since_s = None
        try:
            # What is let go because others have filled the disk is their doing.
            shortage = self._room.shortage()
            is_refusing = when_full == "refuse" and self._room.lacking(0) > 0
        except OSError as error:
            self.met(type(error).__name__, f"{self._room.state_dir} is gone: {error.strerror}")
            return
        if shortage:
            self.met(FULL, shortage)
        elif self._kind and not is_refusing:
            if self._was_said:
                log.warning("the shelf takes data again")
            self._kind = self._sentence = ""
            self._was_said = False
