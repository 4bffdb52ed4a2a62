"""What can be said of an uplink of files, and what is refused in a sentence."""

from __future__ import annotations

import pytest

from gateway.core.units import Duration, Size
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.file_settings import FileUplinkSettings


def make(**settings) -> FileUplinkSettings:
    return FileUplinkSettings(**{"name": "stick", "directory": "/media/stick/out", **settings})


def test_a_name_and_a_directory_are_enough() -> None:
    """JSON lines as `tidegate export` writes them, and nothing is deleted."""
    found = make()
    assert (found.format, found.compression, found.when_full, found.max_bytes) == ("json", "zstd", "hold", None)
    assert (found.protocol, found.budget, found.warnings()) == ("file/json", BudgetSettings(), [])
    assert make(format="protobuf").protocol == "file/protobuf"
    assert make(mount_point="/media/stick").mount_point == "/media/stick"
    assert "deleted" in make(when_full="drop_oldest").warnings()[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "a/b"}, "a part of file names"),
        ({"name": "a_b"}, "a part of file names"),
        ({"name": "../x"}, "a part of file names"),
        ({"directory": "stick"}, "not an absolute path"),
        ({"directory": "/"}, "not an absolute path"),
        ({"directory": "/media/../etc"}, "not an absolute path"),
        ({"directory": "/a\0b"}, "not an absolute path"),
        ({"mount_point": "media"}, "not an absolute path"),
        ({"mount_point": "/media/other"}, "is not below /media/other"),
        ({"rotate_bytes": Size(1024)}, "rotate_bytes is"),
        ({"rotate_bytes": Size(4 << 30)}, "rotate_bytes is"),
        ({"max_bytes": Size(1 << 20)}, "room for two files"),
        ({"rotate_after": Duration(0.5)}, "at least 1s"),
        ({"batch_interval": Duration(-1)}, "not negative"),
        ({"stop_grace": Duration(-1)}, "not negative"),
        ({"request_bytes_max": Size(10)}, "1KiB"),
    ],
)
def test_what_cannot_work_is_refused(settings, words) -> None:
    """Each with what would be right."""
    with pytest.raises(ValueError, match=words):
        make(**settings)
