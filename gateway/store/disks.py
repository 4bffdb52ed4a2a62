"""The disk below the state directory: where it is mounted, what it has left, what to tell people when it fails them.

Must not write to it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.core.words import amount
from gateway.store.files import NAMES

if TYPE_CHECKING:
    from pathlib import Path

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_FAILING: Final = {errno.EIO, errno.ENODEV, errno.ENXIO}
_UNWRITABLE: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_UNWRITABLE_CODES: Final = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}

_TRIAL_BYTES: Final = 4096


def free_bytes(path: Path) -> int:
    """Return how much a process that is not root may still write there."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def whole_bytes(path: Path) -> int:
    """Return how large the file system is, 0 for one that has no size."""
    disk = os.statvfs(path)
    return disk.f_blocks * disk.f_frsize


def is_mounted_read_only(path: Path) -> bool:
    """Whether the file system that `path` is on takes nothing, and says so."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def mount_of(path: Path) -> Path:
    """Return where the file system is mounted that `path` is on, or would be."""
    here = path.resolve()
    while here != here.parent and not os.path.ismount(here):
        here = here.parent
    return here


def is_full(error: Exception) -> bool:
    """Whether there is no room left."""
    # SHMSIZE: a file of its own that SQLite cannot make larger.
    name = getattr(error, "sqlite_errorname", "") or ""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_FULL or "SHMSIZE" in name or getattr(error, "errno", 0) in _FULL


def is_unwritable(error: Exception) -> bool:
    """Whether nothing may be written there."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _UNWRITABLE_CODES or getattr(error, "errno", 0) in _UNWRITABLE


def keeps_from_writing(error: Exception) -> bool:
    """Whether an error may leave what is there to be read: as opposed to somebody else who has it open."""
    return is_full(error) or is_unwritable(error) or is_failing(error)


def is_failing(error: Exception) -> bool:
    """Whether the disk did not do what it was asked to."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_IOERR or getattr(error, "errno", 0) in _FAILING


def is_unsynced(error: BaseException) -> bool:
    """Whether what was written may be there all the same: only that it reached the medium is not known."""
    return "FSYNC" in (getattr(error, "sqlite_errorname", "") or "")


def takes_writes(folder: Path) -> bool:
    """Whether what is written there reaches the medium. May take as long as a failing disk takes to say no."""
    return _try_to_write(folder, bytes(_TRIAL_BYTES)) is None


def why(error: Exception, path: Path) -> str:
    """Return what an error means for `path`, a file or a directory, and what to do."""
    folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
    if is_full(error):
        return when_full(folder)
    if is_unwritable(error) or is_failing(error):
        # A file system that turned read-only by itself is met as an error of what was written last.
        refused = when_unwritable(folder, is_read_only=getattr(error, "errno", 0) == errno.EROFS)
        if refused:
            return refused
        for file in (path, *_ours(folder)):
            if file.is_file() and not os.access(file, os.W_OK):
                return f"writing to {file} is not allowed; give it to the user that runs the gateway"
    code = getattr(error, "sqlite_errorname", "") or ""
    said = f"{getattr(error, 'strerror', None) or error} {code}".rstrip()
    return when_failing(folder, said) if is_failing(error) else said


def check_may_write(path: Path) -> None:
    """Raise PermissionError where this user may not write to a database or its log.

    SQLite opens them all the same, to read, and says so when it is to write; by then the doors are open.
    """
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))


def _ours(folder: Path) -> list[Path]:
    """Return what may be the gateway's in a folder, as far as one may look."""
    try:
        return sorted(file for file in folder.iterdir() if file.name.startswith(NAMES))
    except OSError:
        return []


def when_full(folder: Path) -> str:
    """Say that a disk is full, how full, and what to do."""
    disk = os.statvfs(folder)
    left = "no inodes" if disk.f_files and not disk.f_favail else amount(disk.f_bavail * disk.f_frsize)
    return (
        f"the disk is full: {left} left where {folder} is, mounted at {mount_of(folder)}; free some room there, "
        "or give the gateway a disk of its own ([gateway] state_dir)"
    )


def when_failing(folder: Path, said: str) -> str:
    """Say that a disk does not work, in the words that it came with, and what to do."""
    return (
        f"the disk where {folder} is, mounted at {mount_of(folder)}, fails ({said}); look for its errors in the "
        "kernel's log (dmesg), check it (fsck), and replace it if it is worn out"
    )


def when_unwritable(folder: Path, *, is_read_only: bool = False) -> str:
    """Say why nothing can be written into `folder`, and what to do; "" where it can."""
    mount = mount_of(folder)
    reason = ""
    is_read_only |= is_mounted_read_only(folder)
    # One that turned read-only by itself does not say so before it is asked to write.
    if (error := _try_to_write(folder)) is not None:
        is_read_only |= error.errno == errno.EROFS
        reason = (error.strerror or "") if error.errno in _UNWRITABLE else ""
    if is_read_only:
        return (
            f"the disk is read-only (mounted at {mount}); make it writable (mount -o remount,rw {mount}); "
            "if it turned so by itself, check it first (fsck), and replace it if it is worn out"
        )
    if not reason:
        return ""
    return f"writing to {folder} is not allowed ({reason}); give it to the user that runs the gateway"


def when_unusable(folder: Path) -> str:
    """Say why no file can be made in `folder`, whatever its mode says, and what to do; "" where one can, or is full."""
    error = _try_to_write(folder)
    if error is None:
        return ""
    if refused := when_unwritable(folder):
        return refused
    try:
        # There are file systems without unnamed files, and such as have no files of anybody's making at all.
        trial = folder / f".tidegate-{os.getpid()}"
        trial.mkdir()
        trial.rmdir()
    except OSError as failure:
        return "" if is_full(failure) else f"{failure.strerror}; choose another directory"
    return ""


def _try_to_write(folder: Path, data: bytes = b"") -> OSError | None:
    """Make a file without a name that holds `data`, and let it go; return what kept it from being made."""
    try:
        file = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            if data:
                os.write(file, data)
                os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        return error
    return None
