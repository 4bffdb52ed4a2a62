"""Small files that are written whole, and never through a link: what has a name of ours may not lead elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MODE: Final = 0o640
# What is small.
READ_BYTES_MAX: Final = 16 << 20


def create(path: Path, flags: int = os.O_WRONLY | os.O_TRUNC) -> int:
    """Open a file to write to it, a new one where there is none; raise OSError where the name is a link (ELOOP)."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


def create_anew(path: Path) -> int:
    """Open a new file to write to it, in the place of whatever has its name; raise OSError.

    On a stick or in a folder of others that may be a link that leads elsewhere, a pipe that nobody reads, or a file
    that somebody holds open.
    """
    path.unlink(missing_ok=True)
    return create(path, os.O_WRONLY | os.O_EXCL)


def write_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a whole file in its place."""
    with os.fdopen(create(path), "wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, *, before: Path | None = None) -> None:
    """Write `data` to the medium and put it in the place of `path`; raise OSError with the old file as it was.

    After a power cut it is the old one or the new one, never half of one. `before` is the name that the old one gets;
    for a moment it has no other.
    """
    new = path.with_suffix(path.suffix + ".new")
    write_file(new, data, sync=True)
    if before is not None:
        with suppress(FileNotFoundError):
            path.replace(before)
    new.replace(path)


def sync_folder(folder: Path) -> None:
    """Have what was renamed in a folder until now reach the medium before what comes; raise OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path, *, bytes_max: int = READ_BYTES_MAX) -> bytes:
    """Return a file's bytes; raise OSError where the name is a link (ELOOP), or anything else than a file.

    It is one that is too large (EFBIG), too: a hole takes nothing on the disk, and all of the memory.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > bytes_max:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()
