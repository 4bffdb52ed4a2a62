"""Whether the files that are open are still those at their paths. Must not open them, nor change what is in them.

On Linux a file that was deleted or moved away can be written as ever by who has it open: commits succeed, and all that
they bring is gone with the process. So before anybody is told that something is kept it is looked, at the cost of two
stat(2). What is held can still be read and sent.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Identity: TypeAlias = tuple[int, int]  # device and inode


class Presence:
    """The database at `path` and its log. Made while both are as they should be; a log that comes later is noted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._folder = path.parent
        self._database = _identity(self._path)
        self._log = _identity(self._log_path)

    def look(self) -> str:
        """Return what became of the files, and what to do; "" where they are in their places."""
        database, log = _identity(self._path), _identity(self._log_path)
        if self._log is None:
            self._log = log
        if database == self._database and log == self._log:
            return ""
        if database == self._database:
            return (
                f"{self._log_path} was deleted, moved away or replaced while the gateway uses it: nothing new is taken "
                "until it has started anew, which it does by itself, and which keeps what is held"
            )
        if not self._is_same_disk():
            return (
                f"another disk is mounted at {self._folder} than when the gateway started, or none: nothing new is "
                "taken, what is held is sent. Mount the disk again, or restart the gateway to go on with this one"
            )
        return (
            f"{self._path} was deleted, moved away or replaced while the gateway uses it: nothing new is taken, what "
            "is held is sent. Move it back, or restart the gateway to go on with a new one, without what is held; when "
            "all that is held is sent it does that by itself"
        )

    @property
    def has_database(self) -> bool:
        """Whether the database is in its place: then a new start finds all that is held, whatever became of the log."""
        return _identity(self._path) == self._database

    def may_begin_anew(self, held: int) -> bool:
        """Whether a new start loses nothing of the `held` readings, and finds the disk that it should."""
        return self.has_database or (not held and self._is_same_disk())

    def _is_same_disk(self) -> bool:
        here = self._folder
        while not here.exists() and here != here.parent:
            here = here.parent
        return self._database is not None and here.stat().st_dev == self._database[0]

    @contextlib.contextmanager
    def spare_others(self) -> Iterator[None]:
        """Keep a log that is not ours while the database is closed: SQLite removes what has its name."""
        kept = self._log_path.with_name(f"{self._log_path.name}.kept")
        is_other = self._log is not None and _identity(self._log_path) not in {None, self._log}
        with contextlib.suppress(OSError):
            if is_other:
                self._log_path.rename(kept)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_other:
                    kept.rename(self._log_path)


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
