"""What is wrong is said in the log when it begins and when it ends, not every second."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from gateway.core.contracts import FullError
from gateway.core.units import Size
from gateway.store import trouble
from gateway.store.trouble import FULL, Trouble


class Room:
    """A disk as a test wants it."""

    def __init__(self, state_dir) -> None:
        self.state_dir = state_dir
        self.short = ""
        self.lacks = 0
        self.is_gone = False  # somebody unmounted it

    def shortage(self) -> str:
        if self.is_gone:
            raise FileNotFoundError(2, "No such file or directory")
        return self.short

    def lacking(self, _: int) -> int:
        if self.is_gone:
            raise FileNotFoundError(2, "No such file or directory")
        return self.lacks


@pytest.fixture
def disk(tmp_path):
    return Room(tmp_path)


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_a_lasting_trouble_is_one_line(disk, caplog) -> None:
    """The sentence in the status is the newest, with today's numbers."""
    found = Trouble(disk)
    for number in range(100):
        found.met(FULL, f"{number} bytes left")
    assert lines(caplog) == ["0 bytes left"]
    assert found.sentence == "99 bytes left"
    found.succeeded(when_full="drop_oldest")
    assert lines(caplog)[1:] == ["the store takes data again"]
    assert found.sentence == ""
    found.succeeded(when_full="drop_oldest")
    assert len(lines(caplog)) == 2


async def test_what_comes_and_goes_is_not_said_each_time(disk, caplog, monkeypatch) -> None:
    """Once in a while it is."""
    found = Trouble(disk)
    for _ in range(50):
        found.met(FULL, "full")
        found.succeeded(when_full="drop_oldest")
    assert lines(caplog) == ["full", "the store takes data again"]
    monkeypatch.setattr(trouble, "QUIET_S", 0.0)
    found.met(FULL, "full")
    assert len(lines(caplog)) == 3


async def test_a_failed_commit_is_said_with_its_cause(disk, caplog) -> None:
    """Our own mistakes with a traceback; want of room does not count as failing."""
    found = Trouble(disk)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR, "SQLITE_IOERR"
    found.failed(error)
    assert found.kind == "SQLITE_IOERR"
    assert found.is_failing
    assert not found.is_taking
    assert found.sentence.startswith(f"nothing can be written: the disk where {disk.state_dir} is, mounted at ")
    assert "fails (disk I/O error SQLITE_IOERR); look for its errors" in found.sentence
    assert found.sentence.endswith("; commit failed, trying again")
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError("ours")
    found.failed(caught.value)
    assert found.kind == "ZeroDivisionError"
    assert "Traceback" in caplog.text
    found.failed(OSError(28, "No space left on device"))
    assert not found.is_failing
    assert "the disk is full" in found.sentence


async def test_while_what_comes_is_turned_away_it_is_not_over(disk) -> None:
    """Acks are written, arrivals are not taken."""
    found = Trouble(disk)
    disk.lacks = 1
    found.met(FULL, "the store is full and when_full is refuse")
    found.succeeded(when_full="refuse")
    assert "refuse" in found.sentence
    found.succeeded(when_full="drop_oldest")
    assert found.sentence == ""


async def test_what_found_no_room_is_over_when_it_would_find_some(disk, caplog) -> None:
    """A commit of acks alone does not end it; one that brings something does, or room."""
    found = Trouble(disk)
    assert found.is_taking
    disk.lacks = 1
    found.turned_away("no room for 10 bytes", 10)
    found.succeeded(when_full="drop_oldest", has_brought=False)
    assert not found.is_taking
    assert found.sentence == "no room for 10 bytes"
    disk.lacks = 0
    assert found.is_taking
    disk.lacks = 1
    found.succeeded(when_full="drop_oldest")
    assert found.is_taking
    assert lines(caplog) == ["no room for 10 bytes", "the store takes data again"]


async def test_a_disk_with_nothing_left_starves_the_shelf(disk) -> None:
    """A shelf that is full as it should be is not starved; nor one on a short disk that goes on."""
    found = Trouble(disk)
    disk.short = "the disk is full"
    assert not found.is_starved
    found.failed(OSError(28, "No space left on device"))
    assert (found.is_taking, found.is_starved, found.is_failing) == (False, True, False)
    disk.short = ""
    assert not found.is_starved
    disk.is_gone = True
    assert not found.is_starved
    found.succeeded(when_full="drop_oldest")
    assert found.is_taking


async def test_a_disk_that_is_gone(disk) -> None:
    """Somebody unmounted it."""
    found = Trouble(disk)
    disk.is_gone = True
    found.turned_away("full", 1)
    assert not found.is_taking
    found.succeeded(when_full="refuse")
    assert "is gone: No such file" in found.sentence


async def test_a_lasting_sentence_stays(disk) -> None:
    """Damage is mended by a start alone."""
    found = Trouble(disk, lasting="damaged")
    found.met(FULL, "full")
    found.succeeded(when_full="refuse")
    assert found.sentence == "damaged"


@pytest.mark.parametrize("when_full", ["refuse", "drop_oldest"])
async def test_a_disk_that_others_fill_is_named_everywhere(shelves, make_small_disk, caplog, when_full) -> None:
    """In the status, in what sources are told, in the log once; and when there is room again, that."""
    disk = make_small_disk(8 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open(when_full=when_full)
    for _ in range(10):
        await shelves.put_noise(store, 50_000)
    disk.fill()
    told = ""
    for _ in range(40):
        try:
            await shelves.put_noise(store, 100_000)
        except FullError as error:
            told = str(error)
            await asyncio.sleep(0)
    words = f"left where {shelves.state_dir} is, mounted at {disk.path}; free some room there"
    assert words in store.status()["store"]["trouble"]
    assert store.is_writing
    if when_full == "refuse":
        assert words in told
    assert sum(words in line for line in lines(caplog)) == 1
    disk.free()
    await shelves.put_noise(store, 1000)
    assert store.status()["store"]["trouble"] == ""
    assert lines(caplog)[-1] == "the store takes data again"
    shelves.check(store)
    await shelves.close()


async def test_a_quota_that_is_reached_is_no_trouble(shelves, caplog) -> None:
    """The shelf is as large as it may be, and lets go: that is what it was told to do."""
    store = await shelves.open(max_bytes=Size(1 << 20))
    for _ in range(30):
        await shelves.put_noise(store, 60_000)
    assert store.status()["uplinks"]["cloud"]["ledger"]["evicted_full"] > 0
    assert store.status()["store"]["trouble"] == ""
    assert lines(caplog) == []
