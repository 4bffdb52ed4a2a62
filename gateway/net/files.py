"""A small file that is replaced whole: after a power cut it is the old one or the new one, never half of one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to the medium and put it in the place of `path`; raise OSError with the old file as it was."""
    new = path.with_suffix(path.suffix + ".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
