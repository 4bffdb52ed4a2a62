"""Files that were set aside for a person to look at: how they are called, how many are kept, which make way.

They lie outside of the quota, so they must never take room from what was accepted: that of the disk neither.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.core.clock import NS_PER_S
from gateway.store.disks import free_bytes
from gateway.store.files import DATABASE

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("tidegate.store")

ASIDE_MAX: Final = 2
DAMAGED_NAME: Final = f"{DATABASE}.damaged-"
# A new database that is whole, while the old one makes way for it: the rest of its name is that of the old one.
READY_NAME: Final = f"{DATABASE}.ready-"


def aside_name(state_dir: Path, wall_ns: int) -> str:
    """Return a name for what is set aside at `wall_ns` that is not taken yet."""
    stamp = datetime.fromtimestamp(wall_ns // NS_PER_S, UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{DAMAGED_NAME}{stamp}"
    number = 1
    while (state_dir / name).exists():
        number += 1
        name = f"{DAMAGED_NAME}{stamp}-{number}"
    return name


def keep_few(state_dir: Path, *, newest: str) -> None:
    """Keep ASIDE_MAX of them; `newest` is that, whatever its time says."""
    for file in _oldest_first(state_dir, newest=newest)[:-ASIDE_MAX]:
        remove(file)


def make_room(state_dir: Path, *, wanted_bytes: int) -> bool:
    """Remove the oldest of them until the disk has so much left, or there are none; return whether any went."""
    went = False
    for file in _oldest_first(state_dir):
        if free_bytes(state_dir) >= wanted_bytes:
            break
        log.warning("the disk is short of room: %s, which was set aside, makes way", file)
        remove(file)
        went = True
    return went


def remove(path: Path) -> None:
    """Remove a database and what lies beside it; a folder of such a name is somebody else's and stays."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            path.with_name(path.name + suffix).unlink()


def _oldest_first(state_dir: Path, *, newest: str = "") -> list[Path]:
    files = [
        file
        for file in state_dir.glob(f"{DAMAGED_NAME}*")
        if not file.name.endswith(("-wal", "-shm")) and not file.is_dir()
    ]
    # A box without a clock writes in 1970.
    return sorted(files, key=lambda file: (file.name == newest, file.lstat().st_mtime_ns))


def interrupted(path: Path) -> str:
    """Return what to do about a database that is not there since its salvage was interrupted, "" where it was not."""
    is_half_done = any(path.parent.glob(f"{READY_NAME}*"))
    return (
        f"{path} was being salvaged when that was interrupted; start the gateway, which goes on" if is_half_done else ""
    )
