"""Checks for replacing a file whole."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gateway.net.files import create, create_anew, read_file, replace_file, write_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new one under the old name, nothing left beside it."""
    path = tmp_path / "state"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_put_in_its_place_is_on_the_medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut leaves an empty file under the old name."""
    path = tmp_path / "state"
    replace_file(path, b"one")
    synced: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((path.read_bytes(), read_file(tmp_path / "state.new"))))
    replace_file(path, b"two")
    assert synced == [(b"one", b"two")]
    assert path.read_bytes() == b"two"


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Here the new file's name is taken by a folder."""
    path = tmp_path / "state"
    replace_file(path, b"one")
    (tmp_path / "state.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(path, b"two")
    assert path.read_bytes() == b"one"


@pytest.mark.parametrize("name", ["there", "not there"])
@pytest.mark.parametrize("write", [create, lambda path: write_file(path, b"x"), read_file])
def test_a_link_is_not_opened(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    """Neither to what is there nor to what would be made there."""
    (tmp_path / "there").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to(tmp_path / name)
    with pytest.raises(OSError, match="symbolic links") as caught:
        write(tmp_path / "link")
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "there").read_bytes() == b"theirs"
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("is_held", [True, False])
def test_what_is_no_file_is_not_read(tmp_path: Path, is_held: bool) -> None:
    """A pipe has no end, or nothing in it, as whoever else holds it pleases: that is no answer."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR) if is_held else None
    with pytest.raises(OSError, match="not a regular file"):
        read_file(path)
    if held is not None:
        os.close(held)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A hole of any size takes nothing on the disk."""
    path = tmp_path / "hole"
    path.write_bytes(b"12345")
    assert read_file(path, bytes_max=5) == b"12345"
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="File too large"):
        read_file(path)


def test_what_is_replaced_does_not_go_through_a_link(tmp_path: Path) -> None:
    """The file that is written first may be one as well."""
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "detectors.state.new").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        replace_file(tmp_path / "detectors.state", b"ours")
    assert (tmp_path / "target").read_bytes() == b"theirs"


def test_a_new_file_is_in_nobodys_hands(tmp_path: Path) -> None:
    """What had its name before is gone, and what comes in between is not opened."""
    path, kept = tmp_path / "new", tmp_path / "kept"
    kept.write_text("kept")
    path.symlink_to(kept)
    os.close(create_anew(path))
    assert path.is_file()
    assert not path.is_symlink()
    assert kept.read_text() == "kept"
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory|not permitted"):
        create_anew(path)
