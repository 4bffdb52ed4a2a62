"""Names that tell whose a file is, and what an error of a disk means for who stands before it."""

from __future__ import annotations

import errno
import os

import pytest

from gateway.core.contracts import Signal
from gateway.uplinks.file_folder import Naming, Place, may_have_left, open_file, write_at


@pytest.fixture
def folder(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    yield handle
    os.close(handle)


@pytest.mark.parametrize(
    ("gateway_id", "start"),
    [
        ("site-7", "site-7"),
        ("a b/c", "a-b-c"),
        ("../..", "gateway"),
        ("äö", "gateway"),
        ("x" * 99, "x" * 64),
        ("a_b", "a-b"),
    ],
)
def test_a_name_is_one_on_every_disk(gateway_id, start) -> None:
    """Whatever a gateway is called."""
    assert Naming(gateway_id, "stick", ".jsonl").name(Signal.LOGS, 1, 2) == f"{start}_stick_logs_000001_00000002.jsonl"


def test_files_are_told_from_others(tmp_path, folder) -> None:
    """By the whole name: other gateways' and uplinks', a person's copy, links and folders are not ours."""
    naming = Naming("site-7", "stick", ".jsonl")
    mine = [naming.name(Signal.METRICS, k, k) for k in (1, 999_999, 1_000_000)]
    mine.append(Naming("site-7", "stick", ".binpb.gz").name(Signal.TRACES, 5, 5))
    others = ["x", "site-7_stick_metrics_1_00000001.jsonl", f"{mine[0]}~", f"copy of {mine[0]}"]
    others += [Naming("site-7", "stick2", ".jsonl").name(Signal.METRICS, 1, 1)]
    others += [Naming("site-77", "stick", ".jsonl").name(Signal.METRICS, 1, 1)]
    for name in mine + others:
        (tmp_path / name).write_text("four")
    (tmp_path / naming.name(Signal.LOGS, 8, 8)).mkdir()
    (tmp_path / naming.name(Signal.LOGS, 9, 9)).symlink_to(mine[0])
    found = list(naming.files(folder))
    assert {one.name for one in found} == set(mine)
    assert {(one.number, one.tag, one.size_bytes) for one in found if one.signal is Signal.METRICS} == {
        (1, 1, 4),
        (999_999, 999_999, 4),
        (1_000_000, 1_000_000, 4),
    }


def test_errors_say_what_to_do() -> None:
    """In the same words each time, so that a stick that stays full is said once."""
    place = Place("/media/stick", "")
    said = {code: place.why(OSError(code, os.strerror(code))) for code in errno.errorcode}
    assert "another stick" in said[errno.ENOSPC]
    assert said[errno.ENOSPC] == said[errno.EDQUOT]
    assert "read-only" in said[errno.EROFS]
    assert "give it to the user" in said[errno.EACCES]
    assert "links are not followed" in said[errno.ELOOP]
    assert "rotate_bytes" in said[errno.EFBIG]
    assert "Input/output error" in said[errno.EIO]
    assert place.why(OSError("odd")).startswith("the disk of /media/stick fails (odd)")
    assert {code for code, text in said.items() if "/media/stick" not in text} == set()
    assert [may_have_left(OSError(code, "")) for code in (errno.EIO, errno.ENODEV, errno.ENOSPC, errno.EROFS)] == [
        True,
        True,
        False,
        False,
    ]


def test_all_is_written_where_a_disk_takes_a_part_at_a_time(tmp_path, folder, monkeypatch) -> None:
    """A short write is gone on with, at its place."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, bytes(data)[:3], at))
    file = open_file(folder, "x", is_new=True)
    write_at(file, 0, b"abcdefgh")
    write_at(file, 8, b"ij")
    os.close(file)
    assert (tmp_path / "x").read_bytes() == b"abcdefghij"
    with pytest.raises(FileExistsError):
        open_file(folder, "x", is_new=True)


@pytest.mark.parametrize("umask", [0o077, 0])
def test_who_gets_the_stick_may_read_it(tmp_path, folder, make_small_disk, umask) -> None:
    """Owner and group, whatever the umask of the service is; nobody else, and nobody runs anything."""
    disk = make_small_disk(1 << 20)
    before = os.umask(umask)
    try:
        os.close(open_file(folder, "x", is_new=True))
        with Place(str(disk.path / "a" / "b"), str(disk.path)).open():
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o640
    assert (disk.path / "a" / "b").stat().st_mode & 0o7777 == 0o750


def test_a_link_to_the_stick_is_its_owners_way(tmp_path) -> None:
    """The directory itself may be a link; a file is none."""
    (tmp_path / "real").mkdir()
    (tmp_path / "stick").symlink_to(tmp_path / "real")
    with Place(str(tmp_path / "stick"), "").open() as handle:
        assert os.fstat(handle).st_ino == (tmp_path / "real").stat().st_ino
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"), Place(str(tmp_path / "file"), "").open():
        pass
