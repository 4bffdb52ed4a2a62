"""`tidegate check` looks where files would go, since a stick that is not mounted has its directory on the card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.control.check import check
from gateway.control.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[gateway]
state_dir = "{state}"
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:1884"
[[uplinks]]
type = "file"
name = "stick"
directory = "{directory}"
{more}
"""


def notes(tmp_path: Path, directory: Path, more: str = "") -> list[str]:
    file = tmp_path / "tidegate.toml"
    file.write_text(CONFIG.format(state=tmp_path / "state", directory=directory, more=more))
    return [note for note in check(file).notes if note.startswith("uplinks[0]")]


def test_a_directory_on_the_card_is_named(tmp_path) -> None:
    """It may be meant; what to write if it is not is said."""
    (said,) = notes(tmp_path, tmp_path)
    assert f"{tmp_path} is on the disk of this system" in said
    assert "mount_point" in said


def test_a_stick_that_is_out_is_named(tmp_path) -> None:
    """What comes waits: that is no mistake."""
    (said,) = notes(tmp_path, tmp_path / "gone")
    assert f"there is no directory {tmp_path / 'gone'} now" in said
    (said,) = notes(tmp_path, tmp_path / "mnt" / "out", f'mount_point = "{tmp_path / "mnt"}"')
    assert f"nothing is mounted at {tmp_path / 'mnt'} now" in said


def test_a_stick_that_is_in_is_not(tmp_path, make_small_disk) -> None:
    """With a mount point and without."""
    disk = make_small_disk(1 << 20)
    assert notes(tmp_path, disk.path / "out", f'mount_point = "{disk.path}"') == []
    assert notes(tmp_path, disk.path) == []


def test_deleting_is_named(tmp_path, make_small_disk) -> None:
    """Whoever asks for it is told what it means."""
    (said,) = notes(tmp_path, make_small_disk(1 << 20).path, 'when_full = "drop_oldest"')
    assert "nobody has taken yet are deleted" in said


def test_a_budget_is_refused_in_a_sentence(tmp_path) -> None:
    """Keys of another kind of uplink are named, and what to write instead."""
    for key, words in (
        ("budget = { per_day = '1MiB' }", "max_bytes bounds"),
        ("endpoint = 'http://x'", "name their directory"),
        ("protocol = 'http/json'", "write format"),
    ):
        with pytest.raises(ConfigError, match=words):
            notes(tmp_path, tmp_path, key)
