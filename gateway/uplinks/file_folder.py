"""A directory on a stick that may not be there: opened anew for each record, and never written to below a mount point.

Nothing is kept open between two records, so that a stick can be unmounted at any moment in between. All is done
relative to the open directory: whatever is mounted or linked meanwhile, bytes go where it was looked at. Must not know
what a record is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.core.contracts import Signal, TryLaterError
from gateway.net.files import MODE
from gateway.uplinks.guards import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER_MODE: Final = 0o750
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without NONBLOCK a pipe of that name would have us wait for its reader.
_FILE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
_FORBIDDEN: Final = frozenset((errno.EACCES, errno.EPERM))
_LINK: Final = frozenset((errno.ELOOP, errno.ENOTDIR))
# What a write met that wrote nothing, or what can be taken back. Of a disk that fails nobody knows.
_UNDOABLE: Final = frozenset((*_FULL, errno.EFBIG, errno.EROFS, *_FORBIDDEN, *_LINK))


class AbsentError(UnreachableError):
    """The stick is not there: cheap to look for again."""


class FullError(TryLaterError):
    """There is no room for a record."""


class Found(NamedTuple):
    """One of our files."""

    name: str
    signal: Signal
    number: int
    tag: int
    size_bytes: int


class Naming:
    """How the files of one uplink are called: GATEWAY_UPLINK_SIGNAL_NUMBER_TAG and what says how to read them.

    >>> naming = Naming("Site 7", "stick", ".jsonl.zst")
    >>> naming.name(Signal.METRICS, 42, 0xBEEF)
    'Site-7_stick_metrics_000042_0000beef.jsonl.zst'
    """

    def __init__(self, gateway_id: str, uplink: str, ending: str) -> None:
        plain = re.sub(r"[^A-Za-z0-9.-]+", "-", gateway_id)[:64].strip("-.") or "gateway"
        self.ending = ending
        self._start = f"{plain}_{uplink}_"
        words = "|".join(signal.name.lower() for signal in Signal)
        self._ours = re.compile(
            rf"{re.escape(self._start)}({words})_(\d{{6,12}})_([0-9a-f]{{8}})\.(?:jsonl|binpb)[.a-z]*"
        )

    def name(self, signal: Signal, number: int, tag: int) -> str:
        """Return the name of a file."""
        return f"{self._start}{signal.name.lower()}_{number:06}_{tag:08x}{self.ending}"

    def files(self, folder: int) -> Iterator[Found]:
        """Return ours of an open directory, whatever their endings, in no order; links and all else are left out."""
        with os.scandir(folder) as entries:
            for entry in entries:
                match = self._ours.fullmatch(entry.name)
                if match is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    # Somebody takes files away just now.
                    continue
                if stat.S_ISREG(status.st_mode):
                    signal = Signal[match[1].upper()]
                    yield Found(entry.name, signal, int(match[2]), int(match[3], 16), status.st_size)


class Place:
    """Where the files go. See `FileUplinkSettings` for the arguments."""

    def __init__(self, directory: str, mount_point: str) -> None:
        self._directory = directory
        self._mount_point = mount_point

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """Give the directory, open; raise AbsentError, or OSError."""
        folder = self._open_mounted() if self._mount_point else self._open_plain()
        try:
            yield folder
        finally:
            os.close(folder)

    def _open_plain(self) -> int:
        try:
            return os.open(self._directory, _FOLDER)
        except FileNotFoundError:
            raise AbsentError(f"there is no directory {self._directory}; put the stick in and mount it") from None

    def _open_mounted(self) -> int:
        absent = f"nothing is mounted at {self._mount_point}; put the stick in and mount it"
        try:
            # The directory itself may be a link, as some systems have it.
            mount = Path(self._mount_point).resolve()
            above = mount.parent.stat()
            folder = os.open(mount, _FOLDER)
        except FileNotFoundError:
            raise AbsentError(absent) from None
        try:
            # Of the directory that is open: what is unmounted from now on is not written to below.
            is_mounted = os.fstat(folder).st_dev != above.st_dev
            for part in Path(self._directory).relative_to(self._mount_point).parts if is_mounted else ():
                folder = _enter(folder, part)
        except BaseException:
            os.close(folder)
            raise
        if not is_mounted:
            os.close(folder)
            raise AbsentError(absent)
        return folder

    def why(self, error: OSError) -> str:
        """Return what an error means here, and what to do; the same words for the same cause."""
        if error.errno in _FULL:
            return f"the disk of {self._directory} is full; take files away, or put another stick in"
        if error.errno == errno.EROFS:
            return f"the disk of {self._directory} is read-only; move the stick's lock, remount or replace it"
        if error.errno in _FORBIDDEN:
            return f"writing to {self._directory} is not allowed; give it to the user that runs the gateway"
        if error.errno in _LINK:
            return f"{error.filename or self._directory} is a link, or no directory, and links are not followed"
        if error.errno == errno.EFBIG:
            return f"a file in {self._directory} is as large as it can be; make rotate_bytes smaller"
        said = error.strerror or str(error)
        return f"the disk of {self._directory} fails ({said}); put the stick in again, check it, or replace it"


def _enter(folder: int, part: str) -> int:
    """Return a directory in an open one, made where it is missing; the outer one is closed where that is done."""
    try:
        inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        os.mkdir(part, FOLDER_MODE, dir_fd=folder)
        os.fsync(folder)
        inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        _set_mode(inner, FOLDER_MODE)
    os.close(folder)
    return inner


def is_full(error: OSError) -> bool:
    """Whether there is no room."""
    return error.errno in _FULL


def may_have_left(error: OSError) -> bool:
    """Whether what was to be written may be there all the same, on a stick that was pulled out say."""
    return error.errno not in _UNDOABLE


def open_file(folder: int, name: str, *, is_new: bool) -> int:
    """Open a file of an open directory to write to it; raise OSError, with ELOOP for a link."""
    file = os.open(name, _FILE | (os.O_CREAT | os.O_EXCL if is_new else 0), MODE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    if is_new:
        _set_mode(file, MODE)
    return file


def _set_mode(handle: int, mode: int) -> None:
    """Give what is handed over its mode whatever the umask: that of the service keeps all to itself.

    FAT has no modes but those that it was mounted with.
    """
    with contextlib.suppress(OSError):
        os.fchmod(handle, mode)


def write_at(file: int, offset: int, data: bytes) -> None:
    """Have all of `data` on the medium.

    It is asked twice: where ext4 gives up in the middle of a sync, this one may find nothing left to wait for and say
    that all went well. The next one says that it did not, and costs nothing but a flush.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]
    os.fsync(file)
    os.fsync(file)


def cut(folder: int, name: str, length: int) -> None:
    """Have a file on the medium be `length` bytes long, or be gone where that is 0; raise OSError."""
    if length:
        file = open_file(folder, name, is_new=False)
        try:
            os.ftruncate(file, length)
            os.fsync(file)
        finally:
            os.close(file)
    else:
        os.unlink(name, dir_fd=folder)
        os.fsync(folder)
