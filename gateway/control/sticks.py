"""Looks at where uplinks of files would write: whether that is the disk they are meant for. Must not write or mount."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.core.checks import below
from gateway.store import disks
from gateway.uplinks.file_settings import FileUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.control.settings import Config


def look_at_sticks(config: Config) -> Iterator[str]:
    """Yield what works and is perhaps not meant, on this machine as it is now, as sentences."""
    state_dir = _nearest(Path(config.gateway.state_dir))
    for index, uplink in enumerate(config.uplinks):
        if not isinstance(uplink, FileUplinkSettings):
            continue
        path = below("uplinks", index)
        mount, directory = Path(uplink.mount_point), Path(uplink.directory)
        if uplink.mount_point:
            if not mount.resolve().is_mount():
                yield f"{path}.mount_point: nothing is mounted at {mount} now; what comes waits in the store until then"
        elif not directory.is_dir():
            yield f"{path}.directory: there is no directory {directory} now; what comes waits in the store until then"
        elif _is_same_disk(directory, state_dir) or _is_same_disk(directory, Path("/")):
            disk = f"the disk of this system (mounted at {disks.mount_of(directory)})"
            yield (
                f"{path}.directory: {directory} is on {disk}; "
                "if a stick is to be mounted there, name that place in mount_point, so that nothing is written before"
            )


def _is_same_disk(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False


def _nearest(path: Path) -> Path:
    return next((here for here in (path, *path.parents) if here.exists()), Path(path.anchor))
