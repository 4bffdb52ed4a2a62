"""Every board gets its limits, and a wrong profile says what would be right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.control import profiles
from gateway.control.profiles import (
    HardwareProfile,
    ProfileError,
    detect,
    load,
    names,
    profile_paths,
    read_profile,
)
from gateway.core.units import Duration, Size


def board(root: Path, model: bytes | None) -> Path:
    """Return a file system of a board with that device-tree model."""
    if model is not None:
        (root / "proc/device-tree").mkdir(parents=True)
        (root / "proc/device-tree/model").write_bytes(model)
    return root


@pytest.mark.parametrize(
    ("model", "machine", "expected"),
    [
        (b"Raspberry Pi Zero 2 W Rev 1.0\0", "aarch64", "pi-zero-2w"),
        (b"Raspberry Pi 3 Model B Plus Rev 1.3\0", "armv7l", "pi-zero-2w"),
        (b"Raspberry Pi 4 Model B Rev 1.4\0", "aarch64", "pi-4"),
        (b"Raspberry Pi 4 Model B Rev 1.4\0", "armv7l", "pi-4"),
        (b"Raspberry Pi 400 Rev 1.0\0", "aarch64", "pi-4"),
        (b"Raspberry Pi Compute Module 4 Rev 1.0\0", "aarch64", "pi-4"),
        (b"Raspberry Pi 5 Model B Rev 1.0\0", "aarch64", "pi-5"),
        (b"Radxa ROCK 5B\0", "aarch64", "arm64"),
        (b"\xff\xfe\0", "aarch64", "arm64"),
        (b"", "aarch64", "arm64"),
        (None, "arm64", "arm64"),
        (None, "x86_64", "x86-64"),
        (b"Raspberry Pi Model B Rev 2\0", "armv6l", "pi-zero-2w"),
        (None, "riscv64", "pi-zero-2w"),
    ],
)
def test_boards_are_known(tmp_path: Path, model: bytes | None, machine: str, expected: str) -> None:
    """By model, then by architecture; what nothing fits gets the most careful profile."""
    assert detect(board(tmp_path, model), machine=machine).name == expected


def test_the_end_of_the_model_line_is_no_part_of_it(tmp_path: Path) -> None:
    """The kernel ends it with a zero, which a pattern without a star at its end would not fit."""
    assert profiles._model(board(tmp_path, b"Radxa ROCK 5B\0")) == "Radxa ROCK 5B"


def test_this_machine_has_a_profile() -> None:
    """`auto` always finds one."""
    assert load("auto").name in names()
    assert load() == detect()


def test_the_other_place_of_the_device_tree_is_read(tmp_path: Path) -> None:
    """Some kernels have no /proc/device-tree."""
    path = tmp_path / "sys/firmware/devicetree/base/model"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert detect(tmp_path, machine="aarch64").name == "pi-5"


@pytest.mark.parametrize("path", profile_paths(), ids=lambda path: path.stem)
def test_every_profile_hangs_together(path: Path) -> None:
    """What it allows in memory fits into its memory, and every board with a profile can be found."""
    profile = load(path.stem)
    assert profile == read_profile(path)
    assert profile.detect.models or profile.detect.machines
    assert profile.pending_bytes + profile.cache_bytes + profile.wal_bytes < profile.memory_max / 2
    assert Duration(0) < profile.commit_interval <= Duration(1)
    # Core and numpy alone take 45 MB.
    assert profile.memory_max >= Size(64 << 20)


@pytest.mark.parametrize(
    ("name", "terabytes"), [("pi-zero-2w", 1), ("pi-4", 4), ("pi-5", 8), ("arm64", 4), ("x86-64", 32)]
)
def test_a_board_s_flash_outlasts_five_years(name: str, terabytes: int) -> None:
    """What its allowance adds up to: a terabyte is what a small card takes, thirty are an SSD's."""
    assert load(name).flash_bytes_per_day * 365 * 5 <= terabytes * 10**12
    assert set(names()) == {"pi-zero-2w", "pi-4", "pi-5", "arm64", "x86-64"}, "the new one wants a row here"


def test_an_unknown_name_lists_what_there_is() -> None:
    """The sentence says what would be right."""
    with pytest.raises(ProfileError, match=r"no hardware profile 'pi-9'; there are arm64, pi-4, .*auto or the path"):
        load("pi-9")


def test_a_profile_can_be_any_file(tmp_path: Path) -> None:
    """By path; its name is the file's."""
    shutil.copy(next(path for path in profile_paths() if path.stem == "pi-4"), tmp_path / "mine.toml")
    profile = load(str(tmp_path / "mine.toml"))
    assert (profile.name, profile.threads) == ("mine", 6)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("description = ", "is not TOML"),
        ('description = "x"', "memory_max"),
        ('memory_max = "64 apples"', "64 apples"),
        ("turbo = true", "turbo"),
        ("threads = 0", "threads"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, text: str, sentence: str) -> None:
    """The file's name and the setting's stand in the message."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=sentence) as caught:
        read_profile(path)
    assert "mine.toml" in str(caught.value)


def test_a_missing_or_unreadable_file_is_a_sentence(tmp_path: Path) -> None:
    """No traceback for a typing error in a path."""
    with pytest.raises(ProfileError, match=r"there is no file .*gone\.toml; profiles by name are arm64"):
        load(str(tmp_path / "gone.toml"))
    with pytest.raises(ProfileError, match="cannot read"):
        load(f"{tmp_path}/")


def test_an_installation_without_profiles_says_so(tmp_path: Path) -> None:
    """Neither place has any."""
    with pytest.raises(ProfileError, match="installation is incomplete"):
        profile_paths([tmp_path, tmp_path / "gone"])


def test_a_wheel_keeps_them_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first folder that has any is the one; pyproject puts them there."""
    inside = tmp_path / "gateway/hw_profiles"
    shutil.copytree(profile_paths()[0].parent, inside)
    monkeypatch.setattr(profiles, "FOLDERS", (inside, tmp_path / "hw_profiles"))
    assert profile_paths(profiles.FOLDERS)[0].parent == inside
    project = Path(profiles.__file__).parent.parent.parent / "pyproject.toml"
    if project.exists():
        assert '"hw_profiles" = "gateway/hw_profiles"' in project.read_text()


def test_a_profile_cannot_be_changed() -> None:
    """It is shared by everybody."""
    profile = load("pi-4")
    assert isinstance(profile, HardwareProfile)
    with pytest.raises(AttributeError):
        profile.threads = 9


def test_a_key_that_decides_nothing_any_more_is_said_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A profile of one's own must not keep a gateway from starting after an update."""
    path = tmp_path / "mine.toml"
    text = next(path for path in profile_paths() if path.stem == "pi-4").read_text()
    path.write_text(text.replace("max_series", "zstd_level = 3\nmax_series"))
    assert read_profile(path).max_series == load("pi-4").max_series
    assert "zstd_level decides nothing any more" in caplog.text


@pytest.mark.parametrize("name", names())
def test_a_board_has_memory_for_its_series(name: str) -> None:
    """For as many as it may have of usual length; and for a flood of long ones beside all else."""
    profile = load(name)
    assert 380 < profile.series_bytes / profile.max_series < 450
    assert profile.series_bytes <= profile.memory_max / 3
