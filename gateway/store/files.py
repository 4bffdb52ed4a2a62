"""Files in the state directory: none of ours may be a link out of it. Must not know what is in them."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from gateway.store.records import StoreError

if TYPE_CHECKING:
    from pathlib import Path

DATABASE: Final = "tidegate.db"
# All that the gateway makes there begins with one of these; the first two must be files.
NAMES: Final = (DATABASE, "lock", "ballast", "detectors.state", "links.state", "mqtt-", "tidegate.series")


def check_place(state_dir: Path) -> None:
    """Raise StoreError where something of ours is a link, or no file although it must be one.

    SQLite follows links, and whoever opens a file by its name does: what is written would land elsewhere. That the
    directory itself is a link is its owner's way to move it and fine.
    """
    try:
        names = sorted(path.name for path in state_dir.iterdir() if path.name.startswith(NAMES))
    except OSError as error:
        raise StoreError(
            f"cannot read {state_dir} ({error.strerror}); give it to the user that runs the gateway"
        ) from error
    for name in names:
        check_file(state_dir / name, must_be_file=name.startswith(NAMES[:2]))


def check_file(path: Path, *, must_be_file: bool = True) -> None:
    """Raise StoreError where `path` is a link, or with `must_be_file` anything else than a file; it need not exist."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        raise StoreError(
            f"{path} is a symbolic link to {path.readlink()}, and links are not followed; put the file itself there, "
            "or set state_dir to where it is"
        )
    if must_be_file and not stat.S_ISREG(mode):
        raise StoreError(f"{path} is no file; move it away, or set another state_dir")
