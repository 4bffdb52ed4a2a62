"""What a disk's failures mean and what to do is said in a sentence that names the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from gateway.store import disks
from gateway.store.disks import (
    free_bytes,
    is_full,
    is_unwritable,
    keeps_from_writing,
    mount_of,
    takes_writes,
    when_full,
    why,
)


def sqlite_error(code: int, name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("said SQLite")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


FULL = [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), sqlite_error(sqlite3.SQLITE_FULL, "SQLITE_FULL")]
FULL.append(sqlite_error(sqlite3.SQLITE_IOERR_SHMSIZE, "SQLITE_IOERR_SHMSIZE"))
UNWRITABLE = [OSError(errno.EROFS, "x"), OSError(errno.EACCES, "x"), sqlite_error(sqlite3.SQLITE_READONLY, "x")]
UNWRITABLE.append(sqlite_error(sqlite3.SQLITE_CANTOPEN, "SQLITE_CANTOPEN"))
FAILING = [
    OSError(errno.EIO, "x"),
    OSError(errno.ENODEV, "x"),
    sqlite_error(sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE"),
]
OTHER = [OSError(errno.ENOENT, "x"), sqlite_error(sqlite3.SQLITE_BUSY, "SQLITE_BUSY"), ValueError("x")]


def test_errors_are_told_apart() -> None:
    """No room, no permission, a failing disk; somebody else in the way is none of them."""
    for errors, kinds in ((FULL, (1, 0, 1)), (UNWRITABLE, (0, 1, 1)), (FAILING, (0, 0, 1)), (OTHER, (0, 0, 0))):
        for error in errors:
            assert (is_full(error), is_unwritable(error), keeps_from_writing(error)) == kinds


def test_a_disk_that_fails_takes_no_writes(loop_disk) -> None:
    """Asked by a file without a name, which leaves nothing behind."""
    assert takes_writes(loop_disk.path)
    before = sorted(loop_disk.path.iterdir())
    loop_disk.shut_down()
    assert not takes_writes(loop_disk.path)
    assert sorted(loop_disk.path.iterdir()) == before


def test_a_full_disk_is_named(make_small_disk) -> None:
    """Its mount point, the directory, what is left, and what to do."""
    disk = make_small_disk(4 << 20)
    folder = disk.path / "state" / "deep"
    folder.mkdir(parents=True)
    disk.fill()
    assert mount_of(folder) == disk.path
    assert free_bytes(folder) == 0
    sentence = why(FULL[0], folder)
    assert sentence == (
        f"the disk is full: 0 B left where {folder} is, mounted at {disk.path}; free some room there, "
        "or give the gateway a disk of its own ([gateway] state_dir)"
    )
    assert why(FULL[0], folder / "not there" / "file") == sentence


def test_a_disk_without_inodes_is_full_too(tmp_path, monkeypatch) -> None:
    """Bytes are left, and nothing can be made of them; some file systems have no inodes to count."""
    real = os.statvfs(tmp_path)
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((*real[:5], 100, 0, 0, *real[8:])))
    assert "no inodes left" in when_full(tmp_path)
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((*real[:5], 0, 0, 0, *real[8:])))
    assert "no inodes" not in when_full(tmp_path)


def test_a_read_only_disk_is_named(make_small_disk) -> None:
    """With the command that mends it, where that is all."""
    disk = make_small_disk(1 << 20)
    disk.read_only()
    assert why(UNWRITABLE[2], disk.path / "file").startswith(
        f"the disk is read-only (mounted at {disk.path}); make it writable (mount -o remount,rw {disk.path})"
    )
    disk.read_only(on=False)


def test_a_disk_that_turned_read_only_by_itself_is_known(loop_disk) -> None:
    """It says that it is writable until somebody writes."""
    loop_disk.go_read_only()
    assert "the disk is read-only" in disks.when_unwritable(loop_disk.path)


@pytest.mark.parametrize("error", FAILING)
def test_an_error_of_a_disk_that_turned_read_only_says_so(loop_disk, error) -> None:
    """Whoever writes to it through SQLite hears of an I/O error alone."""
    loop_disk.go_read_only()
    assert why(error, loop_disk.path / "file").startswith(
        f"the disk is read-only (mounted at {loop_disk.path}); make it writable"
    )


@pytest.mark.parametrize(("error", "said"), [(FAILING[0], "x"), (FAILING[2], "said SQLite SQLITE_IOERR_WRITE")])
def test_a_disk_that_fails_is_named(tmp_path, error, said) -> None:
    """With what it said, and where to look."""
    assert why(error, tmp_path / "file") == (
        f"the disk where {tmp_path} is, mounted at {mount_of(tmp_path)}, fails ({said}); look for its errors in the "
        "kernel's log (dmesg), check it (fsck), and replace it if it is worn out"
    )


def test_a_directory_of_somebody_elses(tmp_path, monkeypatch) -> None:
    """Whose it should be is said, and why it is not."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    assert why(UNWRITABLE[1], tmp_path) == (
        f"writing to {tmp_path} is not allowed (Permission denied); give it to the user that runs the gateway"
    )


def test_a_file_of_somebody_elses(tmp_path, monkeypatch) -> None:
    """The directory is ours, the file in it is not; or nobody knows what is wrong, where the file is ours too."""
    path = tmp_path / "file"
    path.touch()
    assert why(UNWRITABLE[2], path) == "said SQLite x"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why(UNWRITABLE[2], path) == f"writing to {path} is not allowed; give it to the user that runs the gateway"


@pytest.mark.parametrize("name", ["lock", "tidegate.db-wal"])
def test_a_file_of_somebody_elses_beside_it(tmp_path, monkeypatch, name) -> None:
    """Somebody ran it as root once: the file that is in the way is named, and no other."""
    for file in (name, "tidegate.db", "notes.txt"):
        (tmp_path / file).touch()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name not in {name, "notes.txt"} and real(path, mode))
    for path in (tmp_path, tmp_path / "tidegate.db"):
        assert why(UNWRITABLE[1], path) == (
            f"writing to {tmp_path / name} is not allowed; give it to the user that runs the gateway"
        )
    with pytest.raises(PermissionError) if name == "tidegate.db-wal" else contextlib.nullcontext():
        disks.check_may_write(tmp_path / "tidegate.db")


def test_a_directory_that_one_may_not_look_into(tmp_path, monkeypatch) -> None:
    """Then it is said as it is."""

    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert why(UNWRITABLE[2], tmp_path) == "said SQLite x"


def test_a_file_system_without_unnamed_files(tmp_path, monkeypatch) -> None:
    """Whether it takes what is written cannot be told by trying."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "open", refuse)
    assert disks.when_unwritable(tmp_path) == ""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (sqlite_error(sqlite3.SQLITE_BUSY, "SQLITE_BUSY"), "said SQLite SQLITE_BUSY"),
        (ValueError("a mistake"), "a mistake"),
    ],
)
def test_what_is_not_the_disks_fault_is_said_as_it_is(tmp_path, error, sentence) -> None:
    """In the words that it came with."""
    assert why(error, tmp_path) == sentence


def refusing(number: int):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_whether_something_can_be_kept_is_tried(tmp_path, monkeypatch) -> None:
    """Where there are no unnamed files too; nothing is left behind."""
    assert disks.when_unusable(tmp_path) == ""
    monkeypatch.setattr(os, "open", refusing(errno.EOPNOTSUPP))
    assert disks.when_unusable(tmp_path) == ""
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOENT, "No such file or directory; choose another directory"), (errno.ENOSPC, "")]
)
def test_a_place_without_files(tmp_path, monkeypatch, number, said) -> None:
    """As in /proc; a full disk is a place all the same."""
    monkeypatch.setattr(os, "open", refusing(errno.EOPNOTSUPP))
    monkeypatch.setattr(Path, "mkdir", refusing(number))
    assert disks.when_unusable(tmp_path) == said


def test_a_place_that_is_not_ours(tmp_path, monkeypatch) -> None:
    """Whose it should be is said."""
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    assert "give it to the user that runs the gateway" in disks.when_unusable(tmp_path)


def test_the_root_is_a_mount_point() -> None:
    """The search ends there."""
    assert mount_of(Path("/")) == Path("/")


def test_the_size_of_a_disk(make_small_disk) -> None:
    """However much of it is used; what is no disk has none."""
    disk = make_small_disk(1 << 20)
    disk.fill()
    assert disks.whole_bytes(disk.path) == 1 << 20
    assert disks.whole_bytes(Path("/proc")) == 0
