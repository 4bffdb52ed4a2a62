"""A copy of a shelf that may be in use, as of one moment, made without a lock. Must not write beside the original.

First the log is read, then the database is copied, then the log is read again. If it only grew in between, every
page that a checkpoint may have changed meanwhile is in it: its newest pages over the copy are the database as of
the log's last commit. If the log began anew, all is done once more.

No log before and none after says nothing of what was in between: a gateway that starts, writes and stops leaves none.
Then the file itself has to be as it was (`stamp_of`): who has written to it has moved its time.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.core.units import Size
from gateway.store.connection import PAGE_BYTES
from gateway.store.pagefile import LOG_BYTES_MAX, read_log_bytes
from gateway.store.pages import LOG_HEADER_BYTES, read_log
from gateway.store.records import StoreError

if TYPE_CHECKING:
    from typing import Self

ATTEMPTS_MAX: Final = 5
CHUNK_BYTES: Final = 1 << 20


def stamp_of(source: Path) -> tuple[int, int, int]:
    """Return what differs once a file was written, or another put in its place; raise OSError.

    Taken before the log is looked at: of what is written later, nothing can have the time that is noted here.
    """
    found = source.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class Snapshot:
    """A copy in a directory for temporary files; gone with `close`."""

    def __init__(self, source: Path) -> None:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="tidegate-look-"))
        except OSError as error:
            raise StoreError(
                f"there is no place for a copy of {source}: {error.strerror}; set TMPDIR to a disk that can be written"
            ) from error
        self.path = self._folder / source.name
        try:
            self._copy(source)
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, source: Path) -> Self | None:
        """Return a copy where one is needed, None where the file can be read as it is; raise StoreError."""
        return cls(source) if _read(source) else None

    def _copy(self, source: Path) -> None:
        wanted = source.stat().st_size + len(_read(source))
        if shutil.disk_usage(self._folder).free < 2 * wanted:
            raise StoreError(
                f"no room to copy {Size(wanted)} to {self._folder.parent}; stop the gateway first (a store that is "
                "closed is read in its place), or set TMPDIR to a disk with more room"
            )
        for _ in range(ATTEMPTS_MAX):
            stamp, before = stamp_of(source), _read(source)
            with source.open("rb") as original, self.path.open("wb") as copy:
                shutil.copyfileobj(original, copy, CHUNK_BYTES)
            after = _read(source)
            is_same_log = before[:LOG_HEADER_BYTES] == after[:LOG_HEADER_BYTES]
            if is_same_log and (before or stamp == stamp_of(source)):
                self._lay_over(after)
                return
        raise StoreError(f"{source} changes faster than it can be copied; stop the gateway, or try again later")

    def _lay_over(self, data: bytes) -> None:
        log = read_log(data, page_bytes=PAGE_BYTES)
        with self.path.open("r+b") as copy:
            for number, place in log.newest.items():
                copy.seek((number - 1) * log.page_bytes)
                copy.write(log.page(place))

    def close(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _read(source: Path) -> bytes:
    """Return the log of a database, nothing where there is none; raise StoreError for one that is none of ours."""
    data = read_log_bytes(source)
    if len(data) == LOG_BYTES_MAX:
        raise StoreError(f"{source}-wal is larger than any log that a gateway writes; move it elsewhere")
    return data
