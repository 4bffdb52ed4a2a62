"""Whether this machine can do what a rig asks for; a reason where it cannot. Must not import pytest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Debian keeps daemons and disk tools where a plain user's PATH does not look.
EXTRA_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")


class NotHereError(RuntimeError):
    """This machine lacks what the rig needs; the message says what."""


def find_tool(name: str) -> Path | None:
    """Return the path of a program, or None.

    >>> find_tool("sh").name
    'sh'
    """
    search = os.pathsep.join((os.environ.get("PATH", ""), *EXTRA_FOLDERS))
    found = shutil.which(name, path=search)
    return Path(found) if found else None


def require_tool(name: str, *, package: str) -> Path:
    """Return the path of a program; raise NotHereError that names the Debian package."""
    found = find_tool(name)
    if found is None:
        raise NotHereError(f"{name} is not installed (Debian: apt-get install {package})")
    return found


def require_root() -> None:
    """Raise NotHereError where this is not root."""
    if os.geteuid() != 0:
        raise NotHereError("mounting needs root")
