"""A wire to files: each request is a record that is on the medium before it counts as taken. Must not retry or lease.

    packed → open the directory → look what is there, when it is another → room? → append, fsync → answer
                    │                                                        │          │
                    └ absent: try later ─────────────── full: hold or delete ┘          └ broke: cut back, try later

A file grows under its own name and is never written to again once the next one was begun. What was acknowledged is in
it whole, whatever happens; behind that there may be a piece of a record on a stick that was pulled out while it was
written, which a reader leaves out. Where the stick is still there, that piece is cut off before the next record, and
after a restart what the store does not know to be delivered, too (file_note.py). A file behind which the medium fails
again and again, or that can grow no more, is followed by the next: it may be a bad place. All of it runs in the
uplink's thread, but for what is said of the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import TryLaterError
from gateway.uplinks.file_folder import (
    FullError,
    Naming,
    Place,
    cut,
    is_full,
    may_have_left,
    open_file,
    write_at,
)
from gateway.uplinks.file_note import NUMBER_MAX, FileNotebook, Mark, read_note, tag_of
from gateway.uplinks.guards import Answer, InTransitError, TooLargeError

if TYPE_CHECKING:
    from random import Random

    from gateway.core.clock import Clock
    from gateway.core.contracts import Signal
    from gateway.store.notebook import Notes
    from gateway.uplinks.file_note import Note
    from gateway.uplinks.file_settings import FileUplinkSettings
    from gateway.uplinks.guards import Packed

log = logging.getLogger("tidegate.uplinks")

ENDINGS: Final = {"json": ".jsonl", "protobuf": ".binpb"}
PACKED: Final = {"zstd": ".zst", "gzip": ".gz", "none": ""}
# A thread that hangs in a write of its own is left behind when the uplink starts anew; so long it is waited for.
LOCK_S: Final = 5.0
# What a process may have written since its last commit is less; where it is more the store is an older one, and its
# files may hold what nobody else has.
BEHIND_BYTES_MAX: Final = 64 << 20
BROKEN_MAX: Final = 16
# So often the medium fails behind what a file holds until the next one is begun.
FAILURES_MAX: Final = 2


class FileWire:
    """See `Wire` for the contract."""

    def __init__(
        self, settings: FileUplinkSettings, *, gateway_id: str, notes: Notes, clock: Clock, random: Random
    ) -> None:
        self.requests = self.bytes_sent = 0
        self._settings = settings
        self._clock = clock
        self._place = Place(settings.directory, settings.mount_point)
        ending = ENDINGS[settings.format] + PACKED[settings.compression]
        self._naming = Naming(gateway_id, settings.name, ending)
        delivered = partial(notes.delivered, settings.name)
        note = read_note(notes.last(settings.name)) if notes.is_sure else None
        if note is not None and note.delivered != delivered():
            note = None
        self._before: Note | None = note
        self._notebook = FileNotebook(note, seed=random.getrandbits(63), delivered=delivered)
        notes.keep(settings.name, self._notebook)
        self._current: dict[Signal, Mark] = {}
        # Files whose first record broke: nothing of them counts.
        self._broken: deque[str] = deque(maxlen=BROKEN_MAX)
        # And those that were left for the next one: what of them counts.
        self._left: dict[str, int] = {}
        self._failures: Counter[Signal] = Counter()  # in a row, at the current file of each
        self._is_writing = False
        self._medium: tuple[int, int] | None = None
        self._file = ""
        self._files = self._files_bytes = self._free_bytes = 0
        self._files_deleted = self._bytes_deleted = self._bytes_cut = 0
        self._lock = threading.Lock()
        self._since_ns: int | None = None
        self._is_stopped = False

    # From the event loop.

    def told(self) -> dict[str, Any]:
        """Return where it leads and what is there, as far as it was seen."""
        since_ns, settings = self._since_ns, self._settings
        return {
            "type": "file",
            "directory": settings.directory,
            "file": self._file,
            "files": self._files,
            "files_bytes": self._files_bytes,
            "files_bytes_max": settings.max_bytes and int(settings.max_bytes),
            "free_bytes": self._free_bytes,
            "files_deleted": self._files_deleted,
            "bytes_deleted": self._bytes_deleted,
            "bytes_cut": self._bytes_cut,
            "writing_s": 0.0 if since_ns is None else round((self._clock.monotonic_ns() - since_ns) / NS_PER_S, 1),
        }

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self._is_stopped = False

    def is_overdue(self) -> bool:
        """Return False: nobody can break off a write, so it is waited for."""
        return False

    def abort(self) -> None:
        """Leave what is under way: it is written to its end."""

    def stop(self) -> None:
        """Refuse further requests."""
        self._is_stopped = True

    # From the thread.

    def close(self) -> None:
        """Do nothing: between two requests nothing is open."""

    def send(self, packed: Packed, /) -> Answer:
        """Return when the record is on the medium; raise TryLaterError with nothing of it left, unless it says so."""
        if self._is_stopped:
            raise TryLaterError("the uplink is stopping")
        if packed.is_probe:
            return Answer()
        if not self._lock.acquire(timeout=LOCK_S):
            raise TryLaterError(f"the disk of {self._settings.directory} does not answer; put another stick in")
        self._since_ns = started_ns = self._clock.monotonic_ns()
        self.requests += 1
        try:
            mark = self._write(packed.signal, packed.body)
        except OSError as error:
            # What was there is looked at again.
            self._medium = None
            self._failures[packed.signal] += may_have_left(error)
            answer_lost = self._is_writing and may_have_left(error)
            kind = FullError if is_full(error) else InTransitError if answer_lost else TryLaterError
            raise kind(self._place.why(error), answer_lost=answer_lost) from error
        finally:
            self._is_writing = False
            self._since_ns = None
            self._lock.release()
        seconds = (self._clock.monotonic_ns() - started_ns) / NS_PER_S
        settled = partial(self._notebook.settled, packed.signal, mark)
        return Answer(seconds=seconds, rtt_s=seconds, on_settled=settled)

    def _write(self, signal: Signal, record: bytes) -> Mark:
        most = self._settings.max_bytes
        if most is not None and len(record) > most:
            raise TooLargeError(f"a record of {len(record)} bytes, and max_bytes is {most}")
        if self._failures[signal] >= FAILURES_MAX:
            self._leave(signal)
        with self._place.open() as folder:
            status = os.fstat(folder)
            if self._medium != (status.st_dev, status.st_ino):
                self._look(folder)
                self._medium = (status.st_dev, status.st_ino)
            disk = os.fstatvfs(folder)
            self._free_bytes = disk.f_bavail * disk.f_frsize
            while self._lacks_room(len(record)):
                self._drop_oldest(folder, self._why_full())
            while True:
                try:
                    # The last thing that may fail: what is written is good, and is not to be sent again.
                    return self._append(folder, signal, record)
                except OSError as error:
                    if error.errno == errno.EFBIG:
                        # It was taken back.
                        if self._current.pop(signal, None) is None:
                            what = f"a record of {len(record)} bytes: {self._place.why(error)}"
                            raise TooLargeError(what) from error
                        continue
                    if not is_full(error) or self._settings.when_full == "hold":
                        raise
                    self._drop_oldest(folder, self._place.why(error))

    def _look(self, folder: int) -> None:
        """See what is there, cut off what broke; the first time bring it in line with what the store knows."""
        if self._before is not None:
            self._resume(folder, self._before)
            self._before = None
            self._notebook.looked()
        self._files = self._files_bytes = 0
        for found in self._naming.files(folder):
            if found.name in self._broken:
                cut(folder, found.name, 0)
                self._broken.remove(found.name)
                continue
            if (length := self._left.get(found.name, 0)) and found.size_bytes > length:
                # Else a reader leaves it out.
                with contextlib.suppress(OSError):
                    cut(folder, found.name, length)
                    del self._left[found.name]
            size_bytes, mark = found.size_bytes, self._current.get(found.signal)
            if mark is not None and (found.number, found.tag) == (mark.number, mark.tag) and size_bytes > mark.length:
                # Here and not only before the next record, for which there may be a next file.
                cut(folder, found.name, mark.length)
                size_bytes = mark.length
            self._files += 1
            self._files_bytes += size_bytes
            if found.number < NUMBER_MAX:
                # What is beyond would have the names of all that follow be none of ours.
                self._notebook.following = max(self._notebook.following, found.number + 1)

    def _leave(self, signal: Signal) -> None:
        """Have the next record begin the next file: behind what this one holds the medium fails."""
        self._failures[signal] = 0
        mark = self._current.pop(signal, None)
        if mark is not None:
            self._left[self._naming.name(signal, mark.number, mark.tag)] = mark.length
            while len(self._left) > BROKEN_MAX:
                del self._left[next(iter(self._left))]

    def _resume(self, folder: int, note: Note) -> None:
        """Cut off what is sent again, and go on with the files that are as they were noted."""
        behind: list[tuple[str, int, int]] = []
        for found in self._naming.files(folder):
            mark = note.marks.get(found.signal)
            if mark is not None and (found.number, found.tag) == (mark.number, mark.tag):
                self._current[found.signal] = mark
                if found.size_bytes > mark.length:
                    behind.append((found.name, mark.length, found.size_bytes - mark.length))
            elif note.is_behind(found.signal, found.number, found.tag):
                behind.append((found.name, 0, found.size_bytes))
        size = sum(more for _, _, more in behind)
        if size > BEHIND_BYTES_MAX:
            log.warning(
                "uplink %s: the files in %s go on for %d bytes behind what the store knows to be delivered; nothing is "
                "cut off, new files are begun",
                self._settings.name, self._settings.directory, size,
            )  # fmt: skip
            self._current.clear()
            return
        for name, length, more in behind:
            cut(folder, name, length)
            self._bytes_cut += more
        if behind:
            log.info("uplink %s: %d bytes that were written and are sent again were cut off", self._settings.name, size)

    def _lacks_room(self, record_bytes: int) -> bool:
        max_bytes = self._settings.max_bytes
        return max_bytes is not None and self._files_bytes + record_bytes > max_bytes

    def _why_full(self) -> str:
        directory, most = self._settings.directory, self._settings.max_bytes
        return f"the files in {directory} take max_bytes ({most}); take files away, or put another stick in"

    def _drop_oldest(self, folder: int, why: str) -> None:
        """Delete the oldest file that is not written to any more; raise FullError where none may or can be."""
        # What was taken away meanwhile makes room by itself.
        before = self._files_bytes
        self._look(folder)
        if self._files_bytes < before:
            return
        if self._settings.when_full == "hold":
            raise FullError(why)
        current = {(mark.number, mark.tag) for mark in self._current.values()}
        old = (found for found in self._naming.files(folder) if (found.number, found.tag) not in current)
        oldest = min(old, key=lambda found: found.number, default=None)
        if oldest is None:
            raise FullError(why)
        cut(folder, oldest.name, 0)
        log.warning("uplink %s: %s is deleted: %s", self._settings.name, oldest.name, why)
        self._files -= 1
        self._files_bytes -= oldest.size_bytes
        self._files_deleted += 1
        self._bytes_deleted += oldest.size_bytes

    def _append(self, folder: int, signal: Signal, record: bytes) -> Mark:
        """Write behind what is known to be good, and return up to where that is now."""
        mark = self._current.get(signal)
        if mark is not None and (self._is_over(mark, len(record)) or not self._is_there(folder, signal, mark)):
            del self._current[signal]
            mark = None
        if mark is None:
            mark = self._following()
        name = self._naming.name(signal, mark.number, mark.tag)
        file = open_file(folder, name, is_new=not mark.length)
        self._is_writing = True
        try:
            if mark.length:
                # A piece of what broke before, if anything.
                os.ftruncate(file, mark.length)
            write_at(file, mark.length, record)
            if not mark.length:
                os.fsync(folder)
                self._files += 1
        except OSError as error:
            if not mark.length:
                # In case that it cannot be removed now.
                self._broken.append(name)
            if not may_have_left(error):
                self._take_back(folder, name, mark.length, error)
            raise
        finally:
            os.close(file)
        mark = Mark(mark.number, mark.tag, mark.length + len(record), mark.begun_s)
        self._is_writing = False
        self._failures[signal] = 0
        self._current[signal] = mark
        self._file = name
        self._files_bytes += len(record)
        self.bytes_sent += len(record)
        return mark

    def _take_back(self, folder: int, name: str, length: int, error: OSError) -> None:
        """Leave nothing of a record that found no room; raise what keeps that from being done."""
        try:
            cut(folder, name, length)
        except OSError as failure:
            raise failure from error

    def _following(self) -> Mark:
        number = self._notebook.following
        self._notebook.following += 1
        return Mark(number, tag_of(self._notebook.seed, number), 0, self._now_s())

    def _is_over(self, mark: Mark, record_bytes: int) -> bool:
        age_s, rotate_s = self._now_s() - mark.begun_s, self._settings.rotate_after
        is_old = age_s >= rotate_s or age_s <= -rotate_s  # a clock that was wrong
        return is_old or mark.length + record_bytes > self._settings.rotate_bytes

    def _is_there(self, folder: int, signal: Signal, mark: Mark) -> bool:
        """Whether a file is there still, as far as it was written; on another stick it is not."""
        name = self._naming.name(signal, mark.number, mark.tag)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode):
            return False
        size_bytes = status.st_size
        if size_bytes < mark.length:
            log.error(
                "uplink %s: %s has lost %d bytes that were on the medium; check the stick",
                self._settings.name, name, mark.length - size_bytes,
            )  # fmt: skip
        return size_bytes >= mark.length

    def _now_s(self) -> int:
        return self._clock.wall_ns() // NS_PER_S
