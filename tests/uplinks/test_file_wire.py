"""Files on a stick: what counts as delivered is in them whole and once, whatever is done to the stick and the process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from gateway.codecs.otlp import encode_log_record
from gateway.control.export import export
from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, FakeClock, SystemClock
from gateway.core.contracts import Priority, Signal, TryLaterError
from gateway.core.progress import no_progress
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.store.database import Store, StoreSettings
from gateway.uplinks import delivery, file_folder, file_wire
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.file_folder import AbsentError, FullError
from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.file_wire import FileWire
from gateway.uplinks.guards import InTransitError, Packed, TooLargeError
from gateway.uplinks.settings import RetrySettings
from gateway.uplinks.worker import Seams
from hil.otlp_files import files_in, readings_in, requests_in, signal_of
from hil.otlp_readings import json_to_protobuf, parse_logs, parse_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCK = SystemClock()


@dataclass
class Shelf:
    """The store's side of a note: what it has delivered, and what its last commit wrote."""

    done: int = 0
    note: bytes = b""
    is_sure: bool = True
    kept: list = field(default_factory=list)

    def last(self, uplink: str) -> bytes:
        return self.note

    def keep(self, uplink: str, notebook) -> None:
        self.kept = [notebook]

    def delivered(self, uplink: str) -> int:
        return self.done

    def commit(self) -> None:
        self.note = self.kept[0].plan()


def settings_of(folder: Path, **more) -> FileUplinkSettings:
    return FileUplinkSettings(name="stick", directory=str(folder), **{"compression": "none", **more})


def wire_of(folder: Path, shelf: Shelf | None = None, *, clock=CLOCK, seed: int = 1, **more) -> FileWire:
    settings = settings_of(folder, **more)
    return FileWire(settings, gateway_id="site 7", notes=shelf or Shelf(), clock=clock, random=random.Random(seed))


def put(wire: FileWire, text: str, *, settle: Shelf | None = None, signal: Signal = Signal.METRICS) -> None:
    answer = wire.send(Packed(signal, f"{text}\n".encode(), ""))
    if settle is not None:
        answer.on_settled()
        settle.done += 1


def content(folder: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in files_in(folder)]


# What a file looks like.


def test_records_stand_one_behind_the_other(tmp_path) -> None:
    """One file for each signal, named by who wrote it, which others may not read or write."""
    wire = wire_of(tmp_path)
    for text in ("a", "b"):
        put(wire, text)
    put(wire, "log", signal=Signal.LOGS)
    assert content(tmp_path) == [["a", "b"], ["log"]]
    first, second = files_in(tmp_path)
    assert first.name.startswith("site-7_stick_metrics_000001_")
    assert second.name.startswith("site-7_stick_logs_000002_")
    assert stat.S_IMODE(first.stat().st_mode) & ~0o640 == 0
    told = wire.told()
    assert (told["type"], told["files"], told["files_bytes"], told["file"]) == ("file", 2, 8, second.name)
    assert wire.bytes_sent == 8


def test_a_file_is_followed_by_the_next(tmp_path) -> None:
    """By size, or by age when there is something to write; a clock that was set back far begins one too."""
    clock = FakeClock()
    wire = wire_of(tmp_path, clock=clock, rotate_bytes=Size(64 * 1024), rotate_after=Duration(60))
    put(wire, "x" * 60_000)
    put(wire, "y" * 10_000)
    clock.advance(59 * NS_PER_S)
    put(wire, "z")
    clock.advance(NS_PER_S)
    put(wire, "later")
    clock.wall -= 59 * NS_PER_S
    put(wire, "the same file")
    clock.wall -= NS_PER_S
    put(wire, "the next")
    assert [len(lines) for lines in content(tmp_path)] == [1, 2, 2, 1]


def test_nothing_is_open_between_records(tmp_path) -> None:
    """So that who unmounts a stick is not told that it is busy."""
    wire = wire_of(tmp_path)
    put(wire, "a")
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert [path for path in opened if path.startswith(str(tmp_path))] == []


def test_a_record_is_on_the_medium_before_it_counts(tmp_path, monkeypatch) -> None:
    """The file, and the folder too where the file is new: else a power cut could take the name."""
    synced, real = [], os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    wire = wire_of(tmp_path)
    put(wire, "a")
    file, folder = files_in(tmp_path)[0].stat().st_ino, tmp_path.stat().st_ino
    # Twice, since a file system that fails in the middle of the first says so at the second.
    assert synced == [file, file, folder]
    put(wire, "b")
    assert synced == [file, file, folder, file, file]


# Where it goes.


def test_a_directory_that_is_missing_is_waited_for(tmp_path) -> None:
    """It is not made: below a mount point it would lie on the card. Nothing was taken, so nothing is doubled."""
    wire = wire_of(tmp_path / "stick")
    with pytest.raises(AbsentError, match="there is no directory") as told:
        put(wire, "a")
    assert not told.value.answer_lost
    assert not (tmp_path / "stick").exists()
    (tmp_path / "stick").mkdir()
    put(wire, "a")
    assert content(tmp_path) == [["a"]]


def test_below_a_mount_point_without_a_mount_nothing_is_written(tmp_path) -> None:
    """The directory is there, and it is the card's."""
    (tmp_path / "mnt" / "out").mkdir(parents=True)
    wire = wire_of(tmp_path / "mnt" / "out", mount_point=str(tmp_path / "mnt"))
    with pytest.raises(AbsentError, match="nothing is mounted at"):
        put(wire, "a")
    assert content(tmp_path) == []
    with pytest.raises(AbsentError, match="nothing is mounted at"):
        put(wire_of(tmp_path / "gone" / "out", mount_point=str(tmp_path / "gone")), "a")


def test_on_a_stick_its_directory_is_made(tmp_path, make_small_disk) -> None:
    """A new stick has none; when it is unmounted, what comes waits, and goes on with the next file of another."""
    disk = make_small_disk(1 << 20)
    wire = wire_of(disk.path / "tidegate" / "out", mount_point=str(disk.path))
    put(wire, "a")
    assert content(disk.path) == [["a"]]
    assert stat.S_IMODE((disk.path / "tidegate").stat().st_mode) & 0o7 == 0
    disk.unmount()
    with pytest.raises(AbsentError):
        put(wire, "b")
    assert list(disk.path.iterdir()) == []
    other = make_small_disk(1 << 20)
    wire._place._mount_point, wire._place._directory = str(other.path), str(other.path / "out")
    put(wire, "b")
    assert content(other.path) == [["b"]]
    assert "_000002_" in files_in(other.path)[0].name


def test_links_are_not_followed(tmp_path, make_small_disk) -> None:
    """Neither a file nor a directory below the mount point leads elsewhere; and a pipe keeps nobody waiting."""
    disk, elsewhere = make_small_disk(1 << 20), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (disk.path / "out").symlink_to(elsewhere)
    with pytest.raises(TryLaterError, match="links are not followed"):
        put(wire_of(disk.path / "out", mount_point=str(disk.path)), "a")
    wire = wire_of(disk.path, mount_point=str(disk.path))
    put(wire, "a")
    file = files_in(disk.path)[0]
    file.unlink()
    file.symlink_to(elsewhere / "victim")
    (elsewhere / "victim").write_text("precious" * 10)
    put(wire, "b")
    assert (elsewhere / "victim").read_text() == "precious" * 10
    following = disk.path / wire.told()["file"]
    assert following.read_text() == "b\n"
    following.unlink()
    os.mkfifo(following)
    put(wire, "c")
    assert (disk.path / wire.told()["file"]).read_text() == "c\n"


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_file_is_opened_as_one(tmp_path, what) -> None:
    """Whatever takes its place between the look and the opening."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    os.mkfifo(tmp_path / "pipe")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(OSError, match="Too many levels") as told:
            file_folder.open_file(folder, what, is_new=False)
        assert not file_folder.may_have_left(told.value)
        os.close(reader)
    finally:
        os.close(folder)


# A stick that fails.


def test_a_full_stick_holds_and_leaves_nothing_behind(make_small_disk) -> None:
    """A record that found no room is cut off, so it is not doubled; it goes in when there is room again."""
    disk = make_small_disk(256 * 1024)
    wire = wire_of(disk.path, mount_point=str(disk.path))
    put(wire, "a")
    disk.fill(leave_bytes=8192)
    for text in ("x" * 100_000, "y" * 100_000):
        with pytest.raises(FullError, match="is full") as told:
            put(wire, text)
        assert not told.value.answer_lost
    assert content(disk.path) == [["a"]]
    disk.free()
    put(wire, "b")
    assert content(disk.path) == [["a", "b"]]


def test_a_full_stick_that_is_new_has_no_empty_file(make_small_disk) -> None:
    """What could not be begun is gone."""
    disk = make_small_disk(256 * 1024)
    disk.fill(leave_bytes=8192)
    with pytest.raises(FullError):
        put(wire_of(disk.path), "x" * 100_000)
    assert files_in(disk.path) == []


def test_the_oldest_makes_way_where_that_is_asked_for(make_small_disk) -> None:
    """On a disk that is full, and where max_bytes is reached; counted, and never the file that is written to."""
    disk = make_small_disk(512 * 1024)
    wire = wire_of(disk.path, rotate_bytes=Size(64 * 1024), when_full="drop_oldest")
    for k in range(12):
        put(wire, str(k % 10) * 60_000)
    kept = [lines[0][0] for lines in content(disk.path)]
    assert kept[-1] == "1"
    assert len(kept) + wire.told()["files_deleted"] == 12
    assert wire.told()["bytes_deleted"] == 60_001 * wire.told()["files_deleted"] > 0


@pytest.mark.parametrize("when_full", ["hold", "drop_oldest"])
def test_a_bound_holds(tmp_path, when_full) -> None:
    """max_bytes is never passed; without leave to delete it is waited for somebody who takes files away."""
    most = Size(192 * 1024)
    wire = wire_of(tmp_path, rotate_bytes=Size(64 * 1024), max_bytes=most, when_full=when_full)
    refused = 0
    for k in range(8):
        if when_full == "hold" and k >= 3:
            refused += 1
            with pytest.raises(FullError, match="max_bytes"):
                put(wire, str(k) * 60_000)
        else:
            put(wire, str(k) * 60_000)
        assert sum(path.stat().st_size for path in files_in(tmp_path)) <= most
    assert [lines[0][0] for lines in content(tmp_path)] == (["0", "1", "2"] if refused else ["5", "6", "7"])
    if refused:
        files_in(tmp_path)[0].unlink()
        put(wire, "9")


def test_a_read_only_stick_is_named(make_small_disk) -> None:
    """Nothing can have been written, and when it can be written again it goes on."""
    disk = make_small_disk(1 << 20)
    wire = wire_of(disk.path)
    put(wire, "a")
    disk.read_only()
    with pytest.raises(TryLaterError, match="is read-only") as told:
        put(wire, "b")
    assert not told.value.answer_lost
    disk.read_only(on=False)
    put(wire, "b")
    assert content(disk.path) == [["a", "b"]]


def test_a_stick_that_is_pulled_out_may_have_it(loop_disk) -> None:
    """Where a write broke nobody knows; put in again it is cut off, and written once."""
    wire = wire_of(loop_disk.path / "out", mount_point=str(loop_disk.path))
    put(wire, "a")
    loop_disk.shut_down()
    with pytest.raises(TryLaterError, match="fails"):
        put(wire, "b")
    loop_disk.unmount()
    with pytest.raises(AbsentError):
        put(wire, "b")
    loop_disk.mount()
    put(wire, "b")
    assert content(loop_disk.path) == [["a", "b"]]


def test_a_stick_that_wears_out_is_waited_for(loop_disk) -> None:
    """Read-only from one moment to the next, under the gateway; mounted again it goes on where it was."""
    wire = wire_of(loop_disk.path, mount_point=str(loop_disk.path))
    put(wire, "a")
    loop_disk.go_read_only()
    for _ in range(2):
        with pytest.raises(TryLaterError, match="read-only"):
            put(wire, "b")
    loop_disk.unmount()
    loop_disk.mount()
    put(wire, "b")
    assert content(loop_disk.path) == [["a", "b"]]


def failing_once(monkeypatch, *, after_bytes: int, code: int) -> None:
    """Have the next write break when so much of it is on the medium."""
    real = file_wire.write_at

    def write(file: int, offset: int, data: bytes) -> None:
        monkeypatch.setattr(file_wire, "write_at", real)
        os.pwrite(file, data[:after_bytes], offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(file_wire, "write_at", write)


@pytest.mark.parametrize("after_bytes", [0, 2, 100])
@pytest.mark.parametrize("is_first", [True, False])
def test_what_broke_is_cut_off_when_the_stick_is_back(tmp_path, monkeypatch, after_bytes, is_first) -> None:
    """Half a record or a whole one of which nobody heard: it is there once in the end, and said to be perhaps twice."""
    wire = wire_of(tmp_path)
    if not is_first:
        put(wire, "a")
    failing_once(monkeypatch, after_bytes=after_bytes, code=errno.EIO)
    with pytest.raises(TryLaterError, match="Input/output error") as told:
        put(wire, "broken")
    assert told.value.answer_lost
    put(wire, "b")
    assert content(tmp_path) == [["b"] if is_first else ["a", "b"]]


def test_what_broke_is_cut_off_where_a_next_file_follows(tmp_path, monkeypatch) -> None:
    """A whole record of which nobody heard, at the end of a file that is complete with that."""
    wire = wire_of(tmp_path, rotate_bytes=Size(64 * 1024))
    put(wire, "a" * 60_000)
    failing_once(monkeypatch, after_bytes=100, code=errno.EIO)
    with pytest.raises(TryLaterError):
        put(wire, "b" * 50)
    put(wire, "c" * 10_000)
    assert [[line[0] for line in lines] for lines in content(tmp_path)] == [["a"], ["c"]]
    assert wire.told()["files_bytes"] == 60_001 + 10_001


def test_a_bad_place_is_left_behind(tmp_path, monkeypatch) -> None:
    """Where the medium fails again and again behind what a file holds, the next one is begun; nothing is there twice."""
    wire, real_write, real_cut = wire_of(tmp_path), file_wire.write_at, file_wire.cut
    put(wire, "a")
    (bad,) = [os.stat(path).st_ino for path in files_in(tmp_path)]

    def fail(file: int, offset: int, data: bytes) -> None:
        if os.fstat(file).st_ino == bad:
            os.pwrite(file, data[:2], offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_write(file, offset, data)

    def fail_to_cut(folder: int, name: str, length: int) -> None:
        if os.stat(name, dir_fd=folder).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_cut(folder, name, length)

    monkeypatch.setattr(file_wire, "write_at", fail)
    monkeypatch.setattr(file_wire, "cut", fail_to_cut)
    for kind in (InTransitError, TryLaterError):
        with pytest.raises(kind, match="Input/output error"):
            put(wire, "bb")
    put(wire, "bb")
    put(wire, "c")
    assert content(tmp_path)[1] == ["bb", "c"]
    monkeypatch.setattr(file_wire, "cut", real_cut)
    wire._medium = None
    put(wire, "d")
    assert content(tmp_path) == [["a"], ["bb", "c", "d"]]
    assert not wire._left


def test_a_file_that_can_grow_no_more_is_followed_by_the_next(tmp_path, monkeypatch) -> None:
    """Some file systems and users have a bound of their own; a record that is over it goes in parts."""
    wire, real = wire_of(tmp_path), file_wire.write_at

    def write(file: int, offset: int, data: bytes) -> None:
        if offset + len(data) > 100:
            os.pwrite(file, data[: 100 - offset], offset)
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        real(file, offset, data)

    monkeypatch.setattr(file_wire, "write_at", write)
    for letter in "abc":
        put(wire, letter * 60)
    with pytest.raises(TooLargeError, match="a record of 151 bytes: a file in .* is as large as it can be"):
        put(wire, "d" * 150)
    put(wire, "e")
    assert [[line[0] for line in lines] for lines in content(tmp_path)] == [["a"], ["b"], ["c"], ["e"]]


def test_a_record_over_all_room_goes_in_parts(tmp_path) -> None:
    """Else it would be waited for that somebody makes room that there never is."""
    wire = wire_of(tmp_path, rotate_bytes=Size(64 * 1024), max_bytes=Size(128 * 1024))
    with pytest.raises(TooLargeError, match="a record of 200001 bytes, and max_bytes is 128KiB"):
        put(wire, "a" * 200_000)
    put(wire, "a" * 100_000)


def test_what_cannot_be_taken_back_now_is_later(tmp_path, monkeypatch) -> None:
    """A stick that turns read-only with a new file on it: that goes when the stick can be written again."""
    wire = wire_of(tmp_path)
    failing_once(monkeypatch, after_bytes=100, code=errno.EROFS)
    real = file_wire.cut

    def fail_once(*_: object) -> None:
        monkeypatch.setattr(file_wire, "cut", real)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(file_wire, "cut", fail_once)
    with pytest.raises(TryLaterError, match="read-only"):
        put(wire, "a")
    put(wire, "a")
    assert content(tmp_path) == [["a"]]


def test_nothing_fails_behind_a_record_that_is_good(tmp_path, monkeypatch) -> None:
    """A stick that goes in the moment after: what was written counts, and whatever fails before that wrote nothing."""
    wire, real = wire_of(tmp_path), os.fstatvfs
    put(wire, "a")

    def fail_once(handle: int) -> os.statvfs_result:
        monkeypatch.setattr(os, "fstatvfs", real)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fstatvfs", fail_once)
    with pytest.raises(TryLaterError) as told:
        put(wire, "b")
    assert not told.value.answer_lost
    put(wire, "b")
    assert content(tmp_path) == [["a", "b"]]


def test_a_file_that_has_lost_something_is_left_alone(tmp_path, caplog) -> None:
    """A stick that forgets what it was told to keep is named, and the next file begun."""
    wire = wire_of(tmp_path)
    put(wire, "abc")
    os.truncate(files_in(tmp_path)[0], 2)
    put(wire, "d")
    assert content(tmp_path) == [["ab"], ["d"]]
    assert "has lost 2 bytes" in caplog.text


def test_files_may_be_taken_away_at_any_time(tmp_path) -> None:
    """The one that is written to, too: then there is a next one."""
    wire = wire_of(tmp_path)
    put(wire, "a")
    files_in(tmp_path)[0].rename(tmp_path / "taken")
    put(wire, "b")
    assert content(tmp_path) == [["b"]]


# What a restart finds.


def test_what_the_store_does_not_know_is_cut_off(tmp_path) -> None:
    """Records behind the last commit, a torn one, and whole files that were begun since are sent again, so they go."""
    shelf = Shelf()
    first = wire_of(tmp_path, shelf, rotate_bytes=Size(64 * 1024))
    put(first, "a", settle=shelf)
    shelf.commit()
    for text in ("b", "c" * 64_000, "d" * 64_000):
        first.send(Packed(Signal.METRICS, f"{text}\n".encode(), ""))
    put(first, "log", signal=Signal.LOGS)
    with files_in(tmp_path)[0].open("a") as file:
        file.write("torn")
    again = wire_of(tmp_path, shelf, seed=2)
    put(again, "b")
    assert content(tmp_path) == [["a", "b"]]
    assert again.told()["bytes_cut"] > 128_000


def test_what_was_settled_stays(tmp_path) -> None:
    """To the byte, over three restarts, and with signals apart."""
    shelf = Shelf()
    for k in range(3):
        wire = wire_of(tmp_path, shelf, seed=k)
        put(wire, f"a{k}", settle=shelf)
        put(wire, f"log{k}", settle=shelf, signal=Signal.LOGS)
        shelf.commit()
        put(wire, "lost on the way")
    put(wire_of(tmp_path, shelf, seed=9), "end")
    metrics, logs = content(tmp_path)
    assert metrics == ["a0", "a1", "a2", "end"]
    assert logs == ["log0", "log1", "log2"]


def test_a_process_that_dies_before_it_sees_the_stick_forgets_nothing(tmp_path) -> None:
    """The stick is out for one run of the gateway; the next one still knows what to cut off."""
    shelf, stick = Shelf(), tmp_path / "stick"
    stick.mkdir()
    first = wire_of(stick, shelf)
    put(first, "a", settle=shelf)
    shelf.commit()
    put(first, "b", signal=Signal.LOGS)
    stick.rename(tmp_path / "out")
    second = wire_of(stick, shelf, seed=2)
    with pytest.raises(AbsentError):
        put(second, "b")
    shelf.commit()
    (tmp_path / "out").rename(stick)
    put(wire_of(stick, shelf, seed=3), "b")
    assert content(stick) == [["a", "b"]]


@pytest.mark.parametrize("why", ["salvaged", "another count", "another version", "no note"])
def test_a_note_that_does_not_go_with_the_store_cuts_nothing(tmp_path, why) -> None:
    """What only the stick has is not to be lost: a new file is begun, with a number of its own."""
    shelf = Shelf()
    first = wire_of(tmp_path, shelf)
    put(first, "a", settle=shelf)
    shelf.commit()
    put(first, "b", settle=shelf)
    shelf.is_sure = why != "salvaged"
    if why == "no note":
        shelf.note = b""
    if why == "another version":
        shelf.done, shelf.note = 1, b"\x95" + shelf.note[1:2].replace(b"\x01", b"\x7f") + shelf.note[2:]
    put(wire_of(tmp_path, shelf, seed=2), "c")
    assert content(tmp_path) == [["a", "b"], ["c"]]


def test_too_much_behind_a_note_is_not_cut_off(tmp_path, monkeypatch, caplog) -> None:
    """More than a process writes between two commits: the state directory is an older copy."""
    monkeypatch.setattr(file_wire, "BEHIND_BYTES_MAX", 3)
    shelf = Shelf()
    first = wire_of(tmp_path, shelf)
    put(first, "a", settle=shelf)
    shelf.commit()
    put(first, "bcd")
    put(wire_of(tmp_path, shelf, seed=2), "e")
    assert content(tmp_path) == [["a", "bcd"], ["e"]]
    assert "nothing is cut off" in caplog.text


def test_another_gateways_files_are_left_alone(tmp_path) -> None:
    """A card that was copied: two gateways of one name on one share, neither cuts off what the other wrote."""
    shelf = Shelf()
    put(first := wire_of(tmp_path, shelf), "a", settle=shelf)
    shelf.commit()
    copy = Shelf(done=shelf.done, note=shelf.note)
    put(twin := wire_of(tmp_path, copy, seed=7), "twin", signal=Signal.LOGS)
    put(first, "b")
    put(wire_of(tmp_path, shelf, seed=2), "b")
    assert ["twin"] in content(tmp_path)
    assert twin.told()["bytes_cut"] == 0


def test_a_number_that_is_none_of_ours_is_not_counted_on(tmp_path) -> None:
    """A file that somebody made with the highest one: the next would have a name that no file of ours can have."""
    wire = wire_of(tmp_path)
    (tmp_path / wire._naming.name(Signal.METRICS, 999_999_999_999, 1)).write_text("x\n")
    shelf = Shelf()
    wire = wire_of(tmp_path, shelf, rotate_bytes=Size(64 * 1024), max_bytes=Size(200_000), when_full="drop_oldest")
    for _ in range(6):
        put(wire, "y" * 60_000, settle=shelf)
    assert wire.told()["files_deleted"] > 0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200_000
    shelf.note = msgspec.msgpack.encode([1, [1], 10**12, shelf.done, {}])
    assert wire_of(tmp_path, shelf)._notebook.following == 1


def test_a_write_that_hangs_is_said_and_not_joined_by_another(tmp_path, monkeypatch) -> None:
    """A thread that is stuck with the stick holds it; the next one does not write beside it."""
    monkeypatch.setattr(file_wire, "LOCK_S", 0.01)
    wire = wire_of(tmp_path)
    with wire._lock, pytest.raises(TryLaterError, match="does not answer"):
        put(wire, "a")
    wire._since_ns = CLOCK.monotonic_ns() - 3 * 10**9
    assert wire.told()["writing_s"] >= 3
    wire.stop()
    with pytest.raises(TryLaterError, match="stopping"):
        put(wire, "a")
    wire.abort(), wire.close(), wire.open()
    assert not wire.is_overdue()
    put(wire, "a")


# With the real store and uplink.


async def run_through(tmp_path: Path, stick: Path, work: Callable, **more) -> dict:
    """Run an uplink of files on a real store until `work(store, uplink)` returns; return the account."""
    store = await Store.open(
        state_dir=tmp_path / "state",
        settings=StoreSettings(),
        clock=CLOCK,
        uplinks=["stick"],
        max_series=1000,
        telemetry=Telemetry(),
        commit_interval_s=0.01,
    )
    retry = RetrySettings(initial=Duration(0.02), max=Duration(0.05), unreachable_max=Duration(0.05))
    settings = settings_of(stick, **{"batch_interval": Duration(0.02), "retry": retry, **more})
    wire = FileWire(settings, gateway_id="site-7", notes=store.notes, clock=CLOCK, random=random.Random(1))
    uplink = Uplink(
        settings,
        store=store,
        gateway_attributes=(("tidegate.gateway.id", "site-7"),),
        version="0.1.0",
        clock=CLOCK,
        telemetry=Telemetry(),
        random=random.Random(1),
        seams=Seams(wire=wire),
    )
    task = asyncio.create_task(uplink.run())
    try:
        await work(store, uplink)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        account = store.status()["uplinks"]["stick"]
        assert store.status()["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
        await store.close()
    return account


async def add(store: Store, start: int, count: int) -> None:
    number = store.resolve(Series((("device.id", "a"),), "n"))
    batch = Batch.of(number, CLOCK.wall_ns() + np.arange(count), np.arange(start, start + count))
    await store.append([(Priority.NORMAL, batch)])


async def until(truth: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not truth():
            await asyncio.sleep(0.01)


def held(store: Store) -> int:
    return store.status()["uplinks"]["stick"]["held"]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["json", "protobuf"])
async def test_all_of_it_is_in_the_files_once(tmp_path, kind, compression) -> None:
    """Read by zstd and gzip and the official classes, over several files and a stick that is missing for a while."""
    stick = tmp_path / "stick"

    async def work(store: Store, uplink: Uplink) -> None:
        await add(store, 0, 500)
        await until(lambda: "no directory" in str(uplink.status()["reason"]))
        assert uplink.status()["state"] == "waiting"
        stick.mkdir()
        for k in range(1, 8):
            await add(store, 500 * k, 500)
            await asyncio.sleep(0.03)
        await until(lambda: not held(store))

    options = {"format": kind, "compression": compression, "rotate_bytes": Size(64 * 1024)}
    account = await run_through(tmp_path, stick, work, **options)
    found = readings_in(stick)
    assert sorted(int(reading.value) for reading in found.elements()) == list(range(4000))
    assert (account["delivered"], account["held"], account["maybe_twice"]) == (4000, 0, 0)


async def test_the_files_hold_what_export_writes(tmp_path) -> None:
    """Readings, log records and spans of programs: the same data by both ways, in the same words but for the marks."""
    stick, lines, span = tmp_path / "stick", [], Span(name="x", trace_id=b"t" * 16, span_id=b"s" * 8)

    async def work(store: Store, uplink: Uplink) -> None:
        await add(store, 0, 300)
        log, now_ns = store.resolve(Series((("device.id", "a"),), "", kind="log")), CLOCK.wall_ns()
        body = encode_log_record(
            time_ns=now_ns, observed_ns=0, severity_number=9, severity_text="", body="said", attributes=()
        )
        await store.append([], logs=LogRecords(np.array([log], np.uint32), np.array([now_ns]), (body,)))
        spans = ResourceSpans(scope_spans=[ScopeSpans(spans=[span])]).SerializeToString()
        traces = ResourceRecords(Signal.TRACES, np.array([1]), np.array([1]), (spans,))
        await store.append([], records=[(Priority.NORMAL, traces)])
        await until(lambda: held(store) == 302)
        out = tmp_path / "held.jsonl"
        attributes = (("tidegate.gateway.id", "site-7"),)
        await asyncio.to_thread(export, tmp_path / "state", out, attributes=attributes, progress=no_progress)
        lines.extend(out.read_bytes().splitlines())
        stick.mkdir()
        await until(lambda: not held(store))

    await run_through(tmp_path, stick, work)
    word = {b"resourceMetrics": "metrics", b"resourceLogs": "logs", b"resourceSpans": "traces"}
    exported = {signal: [line for line in lines if key in line] for key, signal in word.items()}
    assert sum(map(len, exported.values())) == len(lines) == 3
    written = {signal_of(path): list(requests_in(path)) for path in files_in(stick)}
    for signal, parse in (("metrics", parse_metrics), ("logs", parse_logs), ("traces", _spans)):
        from_export = [one for line in exported[signal] for one in parse(json_to_protobuf(signal, line))]
        from_files = [one for request in written[signal] for one in parse(request)]
        assert from_export == from_files != []


def _spans(request: bytes) -> list:
    return [
        one
        for resource in ExportTraceServiceRequest.FromString(request).resource_spans
        for scope in resource.scope_spans
        for one in scope.spans
    ]


async def test_a_pulled_stick_is_counted_and_the_rest_goes_on_another(tmp_path, monkeypatch) -> None:
    """What one stick may have had is on the next one for certain; how much that is, is said."""
    stick = tmp_path / "stick"
    stick.mkdir()

    async def work(store: Store, uplink: Uplink) -> None:
        await add(store, 0, 100)
        await until(lambda: not held(store))
        failing_once(monkeypatch, after_bytes=10**9, code=errno.EIO)
        await add(store, 100, 100)
        await until(lambda: "Input/output" in uplink.status()["last_error"])
        stick.rename(tmp_path / "pulled")
        stick.mkdir()
        await until(lambda: not held(store))

    account = await run_through(tmp_path, stick, work)
    found = readings_in(stick) + readings_in(tmp_path / "pulled")
    values = sorted(int(reading.value) for reading in found.elements())
    assert set(values) == set(range(200))
    assert len(values) - 200 <= account["maybe_twice"]
    assert account["maybe_twice"] >= 100


async def test_a_stick_that_hangs_holds_up_nobody_else(tmp_path, monkeypatch) -> None:
    """Readings are accepted meanwhile, status says for how long it writes, and a stop does not wait for it."""
    monkeypatch.setattr(delivery, "FINISH_S", 0.05)
    monkeypatch.setattr(delivery, "ABORT_S", 0.05)
    goes_on, real = threading.Event(), file_wire.write_at

    def hang(file: int, offset: int, data: bytes) -> None:
        goes_on.wait(120)
        real(file, offset, data)

    monkeypatch.setattr(file_wire, "write_at", hang)

    async def work(store: Store, uplink: Uplink) -> None:
        await add(store, 0, 100)
        await until(lambda: uplink.status()["writing_s"] > 0)
        async with asyncio.timeout(60):
            for k in range(1, 20):
                await add(store, 100 * k, 100)
        assert held(store) == 2000

    try:
        account = await run_through(tmp_path, tmp_path, work)
    finally:
        goes_on.set()
    # Nobody knows whether that record was written in the end.
    assert (account["delivered"], account["held"]) == (0, 2000)
    assert account["maybe_twice"] >= 100
