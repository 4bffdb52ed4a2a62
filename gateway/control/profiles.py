"""Hardware profiles: the limits that go with a board, from hw_profiles/*.toml. Must not measure the machine.

Every file there is one board. `load("auto")` looks at the device tree and the machine's architecture; a name
takes that file, a path any file elsewhere. What no profile fits gets the most careful one.
"""

from __future__ import annotations

import logging
import platform
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from gateway.control.reading import read
from gateway.core.units import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("tidegate")

AUTO: Final = "auto"
MODEL_BYTES_MAX: Final = 256
# Keys of earlier profiles that decide nothing any more. zstd_level: level 1 makes the smallest segments or nearly so,
# in the least time, on every board; higher ones are often larger, since what the columns leave is mostly noise.
RETIRED: Final = ("zstd_level",)
# In a wheel the folder is inside the package; in a checkout it is beside it.
_PACKAGE: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = (_PACKAGE / "hw_profiles", _PACKAGE.parent / "hw_profiles")


class ProfileError(ValueError):
    """There is no such profile, or it is not right; the message says what would be."""


def _about(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class Detect(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How a board is known. A model that fits outweighs an architecture that does."""

    models: Annotated[tuple[str, ...], _about("Patterns (* and ?) of the device tree's model line.")] = ()
    machines: Annotated[tuple[str, ...], _about("Names of the architecture, as `uname -m` gives them.")] = ()


class HardwareProfile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What a gateway may use on one kind of board. Settings in tidegate.toml go before it."""

    name: Annotated[str, _about("The file's name without .toml.", min_length=1)]
    description: Annotated[str, _about("The board in one sentence.", min_length=1)]
    detect: Annotated[Detect, _about("How the board is known.")] = Detect()
    memory_max: Annotated[
        Size, _about("Resident memory to live in: bounds are scaled down until they fit, more is a warning.")
    ]
    commit_interval: Annotated[Duration, _about("Longest wait of an arrival for the commit that keeps it.")]
    flash_bytes_per_day: Annotated[
        Size, _about("What may be written to flash in a day; commits become rarer to keep within it.")
    ]
    wal_bytes: Annotated[Size, _about("Size of SQLite's write-ahead log at which it is folded back.")]
    cache_bytes: Annotated[Size, _about("Pages that SQLite keeps in memory.")]
    pending_bytes: Annotated[Size, _about("Arrivals in memory that wait for their commit, at most.")]
    threads: Annotated[
        int,
        _about(
            "Threads for what may block, like dialling a broker; the store and uplinks have their own.", ge=1, le=64
        ),
    ]
    max_series: Annotated[int, _about("Series kept apart, at most.", ge=1)]
    series_bytes: Annotated[Size, _about("Memory for them.")] = Size(8 << 20)


def load(name_or_path: str = AUTO) -> HardwareProfile:
    """Return the profile of that name, of that file, or ("auto") of this machine; raise ProfileError."""
    if name_or_path == AUTO:
        return detect()
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        return read_profile(Path(name_or_path))
    for path in profile_paths():
        if path.stem == name_or_path:
            return read_profile(path)
    raise ProfileError(f"there is no hardware profile {name_or_path!r}; there are {_listed(names())}")


def names() -> list[str]:
    """Return the names of all profiles, sorted."""
    return [path.stem for path in profile_paths()]


def profile_paths(folders: Sequence[Path] = FOLDERS) -> list[Path]:
    """Return the files of all profiles, sorted by name; raise ProfileError when there are none."""
    for folder in folders:
        found = sorted(folder.glob("*.toml"))
        if found:
            return found
    raise ProfileError(f"no hardware profiles in {' or '.join(map(str, folders))}: the installation is incomplete")


def read_profile(path: Path) -> HardwareProfile:
    """Return the profile in a file; raise ProfileError with everything that is wrong in it."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"there is no file {path}; profiles by name are {_listed(names())}") from None
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ProfileError(f"{path} is not TOML: {error}") from error
    for key in RETIRED:
        if table.pop(key, None) is not None:
            log.warning("%s: %s decides nothing any more; leave it out", path, key)
    profile, problems = read({"name": path.stem, **table}, HardwareProfile)
    if profile is None:
        raise ProfileError("\n".join(f"{path}: {problem}" for problem in problems))
    return profile


def detect(root: Path = Path("/"), *, machine: str | None = None) -> HardwareProfile:
    """Return the profile of the machine whose file system is at `root`.

    The device tree's model decides where there is one, then the architecture (`machine`: this one's). A board
    that nothing fits gets the profile with the least memory: too careful is slow, too bold is dead.
    """
    profiles = [read_profile(path) for path in profile_paths()]
    model = _model(root)
    for profile in profiles:
        if model and any(fnmatchcase(model, pattern) for pattern in profile.detect.models):
            return profile
    wanted = platform.machine() if machine is None else machine
    for profile in profiles:
        if wanted in profile.detect.machines:
            return profile
    return min(profiles, key=lambda profile: (profile.memory_max, profile.name))


def _model(root: Path) -> str:
    """Return the device tree's model line ("Raspberry Pi 4 Model B Rev 1.4"), or "" where there is none."""
    for place in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        try:
            with (root / place).open("rb") as file:
                return file.read(MODEL_BYTES_MAX).rstrip(b"\0\n ").decode("utf-8", "replace")
        except OSError:
            continue
    return ""


def _listed(items: Sequence[str]) -> str:
    return ", ".join([*items, f"{AUTO} or the path of a .toml file"])
