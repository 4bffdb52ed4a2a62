"""Disks that can fail: small, full, read-only, pulled out. Must not touch any disk but its own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from hil.needs import NotHereError, require_root, require_tool

if TYPE_CHECKING:
    from types import TracebackType

# include/uapi/linux/ext4.h: EXT4_IOC_SHUTDOWN = _IOR('X', 125, __u32), and its flag to not flush the log.
EXT4_IOC_SHUTDOWN: Final = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH: Final = 2
UNMOUNT_S: Final = 30.0
TIGHT_BYTES: Final = 4096


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.returncode}")


class _Mounted:
    """A mount point of its own, `path`, that is gone at the end."""

    def __init__(self) -> None:
        require_root()
        self._mount = require_tool("mount", package="mount")
        self._umount = require_tool("umount", package="mount")
        self._folder = Path(tempfile.mkdtemp(prefix="tidegate-disk-"))
        # Whoever makes a namespace meanwhile (`ip netns exec`, a container) has all mounts in it, too, and would keep
        # the disk alive as it is. What is unmounted below a shared mount is so for all of them.
        _run(self._mount, "--bind", self._folder, self._folder)
        _run(self._mount, "--make-shared", self._folder)
        self.path = self._folder / "mnt"
        self.path.mkdir()
        self._filler = self.path / ".filler"
        self.is_mounted = False

    def unmount(self) -> None:
        """Unmount; waits for those who still hold files, up to UNMOUNT_S."""
        deadline_s = time.monotonic() + UNMOUNT_S
        while self.is_mounted:
            try:
                _run(self._umount, self.path)
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)
            else:
                self.is_mounted = False

    def close(self) -> None:
        """Unmount by force where need be, and remove the folder."""
        try:
            self.unmount()
        except OSError:
            _run(self._umount, "--lazy", self.path)
            self.is_mounted = False
        with contextlib.suppress(OSError):
            _run(self._umount, "--lazy", self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)

    def fill(self, *, leave_bytes: int = 0) -> int:
        """Write until only `leave_bytes` are free; return how many bytes that took."""
        written = 0
        with self._filler.open("ab") as file:
            for step in (1 << 20, 1 << 16, TIGHT_BYTES):
                with contextlib.suppress(OSError):
                    while self.free_bytes() - step >= leave_bytes:
                        file.write(bytes(step))
                        file.flush()
                        # ext4 allocates late: without the sync free space is a guess.
                        os.fsync(file.fileno())
                        written += step
        return written

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return what a process may still write."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize


class TmpfsDisk(_Mounted):
    """A small disk in memory, for full disks (ENOSPC) and read-only ones (EROFS)."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        _run(self._mount, "-t", "tmpfs", "-o", f"size={size_bytes},mode=0755", "tidegate-test", self.path)
        self.is_mounted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_only(self, *, on: bool = True) -> None:
        """Remount read-only or back. The kernel refuses (OSError) while a file is open for writing."""
        _run(self._mount, "-o", f"remount,{'ro' if on else 'rw'}", self.path)


class LoopDisk(_Mounted):
    """An ext4 in an image file on a loop device: for power cuts and a disk that fails under open files."""

    def __init__(self, size_bytes: int = 64 << 20) -> None:
        super().__init__()
        self.image = self._folder / "disk.img"
        with self.image.open("wb") as file:
            file.truncate(size_bytes)
        make = require_tool("mkfs.ext4", package="e2fsprogs")
        _run(make, "-q", "-F", "-E", "nodiscard,lazy_itable_init=1", "-m", "0", self.image)
        self.mount()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def mount(self) -> None:
        """Mount the image; ext4 replays its journal as after any crash."""
        # By itself ext4 would write what nobody has synced every five seconds, which a busy machine may take.
        _run(self._mount, "-o", "loop,commit=3600", self.image, self.path)
        self.is_mounted = True

    def sync(self) -> None:
        """Write what waits of this disk alone; the call for all of them would reach into tests beside this one."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(folder):
                raise OSError(ctypes.get_errno(), "syncfs")
        finally:
            os.close(folder)

    def shut_down(self) -> None:
        """Let no byte through from now on, not even the journal's: what was not synced is lost."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(folder)

    def go_read_only(self) -> None:
        """Fail as a worn card does: read-only from one moment to the next, under files open for writing."""
        _run(self._mount, "-o", "remount,abort", self.path)

    def check(self) -> None:
        """Raise OSError when e2fsck finds the unmounted file system damaged beyond its journal."""
        _run(require_tool("e2fsck", package="e2fsprogs"), "-p", self.image)


@functools.cache
def why_no_loop_disk() -> str:
    """Return why this machine cannot mount an ext4 image, or ""; tried once."""
    try:
        with LoopDisk(4 << 20):
            return ""
    except (NotHereError, OSError) as error:
        return f"no ext4 on a loop device here: {error}"


@functools.cache
def why_no_tmpfs() -> str:
    """Return why this machine cannot mount a tmpfs, or ""; tried once."""
    try:
        with TmpfsDisk(1 << 20):
            return ""
    except (NotHereError, OSError) as error:
        return f"no tmpfs here: {error}"
