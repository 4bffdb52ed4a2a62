"""How far the shelf has come, noted in a small file beside it: a log that is cut cannot take that along.

A log that grows for the first time since the start has only its own commits to say how far it went, and one that was
cut short looks as if it had never been longer. So the number of the last commit is written beside it, after that is
on the medium and without a sync of its own, each time that the log has grown by a share: some dozens of times until the
log begins anew, whose length the commits themselves note from then on (store/evidence). What the note says was reached
is true whether it outlives a power cut or an older one does.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import TYPE_CHECKING, Final

from gateway.net.files import create, read_file, write_file
from gateway.store.files import DATABASE

if TYPE_CHECKING:
    from pathlib import Path

REACHED: Final = f"{DATABASE}.reached"
# A log that lost more than this share of itself is known to have lost something.
GROWN_SHARE: Final = 8
GROWN_BYTES_MIN: Final = 4096


class Reached:
    """The note of one shelf. Where it cannot be written the one before stays, and tells less."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / REACHED
        self._next_bytes: int | None = None  # at this length of the log it is noted again

    def begin(self, commit: int, *, log_bytes: int) -> None:
        """Note where a start stands, on the medium: what an earlier database had reached says nothing of this one."""
        with contextlib.suppress(OSError):
            write_file(self._path, _encode(commit), sync=True)
            self._wait(log_bytes)

    def note(self, commit: int, *, log_bytes: int) -> None:
        """Take note of a commit that is on the medium."""
        if self._next_bytes is None or log_bytes < self._next_bytes:
            return
        with contextlib.suppress(OSError):
            file = create(self._path, os.O_WRONLY)
            try:
                os.pwrite(file, _encode(commit), 0)
            finally:
                os.close(file)
        self._wait(log_bytes)

    def _wait(self, log_bytes: int) -> None:
        self._next_bytes = log_bytes + max(log_bytes // GROWN_SHARE, GROWN_BYTES_MIN)


def read_reached(state_dir: Path) -> int:
    """Return a commit that is known to have been on the medium, 0 where none is."""
    try:
        data = read_file(state_dir / REACHED)
        commit = int(data[:20])
    except (OSError, ValueError):
        return 0
    return commit if data == _encode(commit) else 0


def forget_reached(state_dir: Path) -> None:
    """Remove the note: another database takes the place of that of which it is."""
    with contextlib.suppress(OSError):
        (state_dir / REACHED).unlink()


def _encode(commit: int) -> bytes:
    r"""Return the note, of the same length for every commit.

    >>> _encode(7)
    b'00000000000000000007 5ae1d780\n'
    """
    digits = b"%020d" % commit
    return digits + b" %08x\n" % zlib.crc32(digits)
