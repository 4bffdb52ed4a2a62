"""What an uplink of files notes with every commit: up to where its files hold what counts as delivered. No I/O.

A record is on the disk before the store hears of it, and the store writes that down with its next commit. A process
that dies in between sends the same again. So the commit that says what was delivered says as well up to which byte the
files hold just that. What lies behind is sent again and may go:

    file       ├── delivered ──┤── written, not known to the store ──┤── torn ──┤
    noted                      ^ after a restart the file is cut here

A note is believed only where it goes with what the store knows: as many readings delivered as it says, and no commit
lost by a salvage. Then nothing is cut; new files are begun, and what was sent twice is counted as such.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Callable


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """A file, and up to which byte its records are delivered; `begun_s` is Unix time."""

    number: int
    tag: int
    length: int
    begun_s: int


class Note(msgspec.Struct, array_like=True, frozen=True):
    """What is noted. `seeds` make the tags of the files of single processes: no other gateway's are taken for them."""

    version: int
    seeds: list[int]
    following: int  # the number of the next file
    delivered: int
    marks: dict[int, Mark]  # by signal

    def is_behind(self, signal: Signal, number: int, tag: int) -> bool:
        """Whether a file was begun by the process that noted this, and holds nothing that counts as delivered."""
        mark = self.marks.get(signal)
        is_ours = any(tag == tag_of(seed, number) for seed in self.seeds)
        return is_ours and (mark is None or number > mark.number)


VERSION: Final = 1
# Files are numbered up to here: one a second for thirty years. A stick that has one beyond that has it from elsewhere.
NUMBER_MAX: Final = 10**9
# Processes that ended before they could look at the files of those before them.
SEEDS_MAX: Final = 4


def tag_of(seed: int, number: int) -> int:
    """Return 32 bits that go with both.

    >>> tag_of(1, 1) == tag_of(1, 1), tag_of(1, 1) == tag_of(2, 1)
    (True, False)
    """
    return zlib.crc32(number.to_bytes(8, "little") + seed.to_bytes(8, "little"))


def read_note(data: bytes) -> Note | None:
    """Return what was noted, None where that is nothing that this version knows."""
    try:
        note = msgspec.msgpack.decode(data, type=Note)
    except msgspec.MsgspecError:
        return None
    return note if note.version == VERSION and note.marks.keys() <= set(Signal) else None


class FileNotebook:
    """The `Notebook` of one uplink. Marks are set in the event loop, in the step in which the store counts the same."""

    def __init__(self, before: Note | None, *, seed: int, delivered: Callable[[], int]) -> None:
        self.marks: dict[int, Mark] = {} if before is None else dict(before.marks)
        self.seed = seed
        self._seeds = [seed] if before is None else [*before.seeds, seed][-SEEDS_MAX:]
        self.following = 1 if before is None or before.following > NUMBER_MAX else before.following
        self._delivered = delivered

    def looked(self) -> None:
        """Take note that the files of the processes before this one are in line with the store."""
        self._seeds = [self.seed]

    def settled(self, signal: Signal, mark: Mark) -> None:
        """Take note that what stands before `mark` is delivered."""
        self.marks[signal] = mark

    def plan(self, *, is_last: bool = False) -> bytes:  # noqa: ARG002  at the end it says the same
        """Return what the next commit writes, about a hundred bytes."""
        return msgspec.msgpack.encode(Note(VERSION, self._seeds, self.following, self._delivered(), self.marks))

    def written(self) -> None:
        """Nothing waits for that."""
