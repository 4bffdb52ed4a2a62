"""Disks fill, turn read-only and fail as they claim."""

from __future__ import annotations

import errno

import pytest


def test_a_full_disk_refuses_and_can_be_freed(make_small_disk) -> None:
    """ENOSPC after `fill`, room after `free`."""
    disk = make_small_disk(2 << 20)
    disk.fill()
    with pytest.raises(OSError) as caught:
        (disk.path / "more").write_bytes(bytes(8192))
    assert caught.value.errno == errno.ENOSPC
    disk.free()
    (disk.path / "more").write_bytes(bytes(8192))


def test_filling_leaves_what_was_asked(make_small_disk) -> None:
    """`leave_bytes` stay free, to the page."""
    disk = make_small_disk(2 << 20)
    disk.fill(leave_bytes=100_000)
    assert 100_000 <= disk.free_bytes() < 110_000


def test_a_disk_can_be_read_only_and_back(make_small_disk) -> None:
    """EROFS while it lasts."""
    disk = make_small_disk(1 << 20)
    disk.read_only()
    with pytest.raises(OSError) as caught:
        (disk.path / "file").write_bytes(b"x")
    assert caught.value.errno == errno.EROFS
    disk.read_only(on=False)
    (disk.path / "file").write_bytes(b"x")


def test_a_card_fails_under_an_open_file(loop_disk) -> None:
    """Read-only from one moment to the next, though a file is open for writing."""
    with (loop_disk.path / "file").open("wb", buffering=0) as file:
        file.write(b"x")
        loop_disk.go_read_only()
        with pytest.raises(OSError) as caught:
            file.write(b"y")
        assert caught.value.errno in {errno.EROFS, errno.EIO}


def test_nothing_stays_mounted(make_small_disk, rigs) -> None:
    """The mount point is gone with the test."""
    disk = make_small_disk(1 << 20)
    rigs.close()
    assert not disk.path.exists()
