"""Checks for replacing a file whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.net.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new one under the old name, nothing left beside it."""
    path = tmp_path / "state"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Here the new file's name is taken by a folder."""
    path = tmp_path / "state"
    replace_file(path, b"one")
    (tmp_path / "state.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(path, b"two")
    assert path.read_bytes() == b"one"
