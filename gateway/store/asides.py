"""Files that were set aside for a person to look at: how they are called, how many are kept, which make way.

They lie outside of the quota, so they must never take room from what was accepted: that of the disk neither.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.core.clock import NS_PER_S
from gateway.net.files import sync_folder
from gateway.store.disks import free_bytes
from gateway.store.files import DATABASE

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("tidegate.store")

ASIDE_MAX: Final = 2
DAMAGED_NAME: Final = f"{DATABASE}.damaged-"
# A new database that is whole, while the old one makes way for it: the rest of its name is that of the old one.
READY_NAME: Final = f"{DATABASE}.ready-"
BESIDE: Final = ("-wal", "-shm", "")


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


def set_log_aside(state_dir: Path, *, wall_ns: int) -> str:
    """Move a log that does not belong to the database out of SQLite's way; return its new name; raise OSError."""
    name = f"{aside_name(state_dir, wall_ns)}-log"
    (state_dir / f"{DATABASE}-wal").replace(state_dir / name)
    keep_few(state_dir, newest=name)
    return name


def take_back(state_dir: Path) -> None:
    """Undo an exchange of files that a power cut or a kill has interrupted; raise OSError.

    Half of it done, the log is no longer beside its database, or there is none: a start would find next to nothing. So
    what was moved aside comes back, and is salvaged from the beginning.
    """
    path = state_dir / DATABASE
    for ready in state_dir.glob(f"{READY_NAME}*"):
        aside = ready.with_name(ready.name.replace(READY_NAME, DAMAGED_NAME))
        # Where both are there, somebody has put another in the place of the one that went.
        if aside.exists() != path.exists():
            move(aside, path)
        sync_folder(state_dir)
        ready.unlink()


def move(path: Path, to: Path) -> None:
    """Move a database and what lies beside it, itself last."""
    for suffix in BESIDE:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(to.with_name(to.name + suffix))
