"""Whatever stands in the way of a start is said in a sentence that helps."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3

import pytest

from gateway.store import salvage, starting
from gateway.store.connection import DATABASE
from gateway.store.database import StoreError
from gateway.store.reading import find
from gateway.store.salvage import salvage_into
from gateway.store.starting import SUSPECT, is_damage, mark_suspect

LOG = f"{DATABASE}-wal"


def test_damage_and_what_is_in_the_way() -> None:
    """A wrong file is salvaged; a busy or full disk is not."""
    assert is_damage(sqlite3.DatabaseError("malformed"))
    assert not is_damage(sqlite3.OperationalError("busy"))
    error = sqlite3.OperationalError("no such table")
    error.sqlite_errorcode = sqlite3.SQLITE_ERROR
    assert is_damage(error)
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    assert not is_damage(error)


def test_a_mark_that_cannot_be_written_is_no_matter(tmp_path) -> None:
    """The disk may be full or read-only: the damage will be found again."""
    mark_suspect(tmp_path / "nowhere", "why")
    mark_suspect(tmp_path, "why")
    assert (tmp_path / SUSPECT).read_text() == "why"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full: .* free some room"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "the disk is read-only"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot open .*Input/output error"),
    ],
)
async def test_why_it_does_not_start(shelves, monkeypatch, error, sentence) -> None:
    """After the ballast was given up and it was tried again."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(starting, "look", fail)
    with pytest.raises(StoreError, match=sentence):
        await shelves.open()


async def test_a_disk_that_is_too_full_to_be_read(shelves, monkeypatch) -> None:
    """SQLite itself needs a page to open a file."""

    async def fail(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
        raise error

    monkeypatch.setattr(starting, "open_writer", fail)
    with pytest.raises(StoreError, match="the disk is full: .* free some room"):
        await shelves.open()


async def test_a_salvage_that_fails_says_so(shelves, monkeypatch) -> None:
    """Nothing was moved; with more room it may work."""
    await shelves.open()
    await shelves.close()
    mark_suspect(shelves.state_dir, "why")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(salvage, "salvage", fail)
    with pytest.raises(StoreError, match=r"is damaged \(why\), and salvaging it failed: .*free some room"):
        await shelves.open()


async def test_what_is_damaged_after_the_salvage_is_not_salvaged_for_ever(shelves, monkeypatch) -> None:
    """The sentence says what is left to do."""

    def fail(_: object) -> None:
        raise starting.DamagedError("odd")

    monkeypatch.setattr(starting, "look", fail)
    with pytest.raises(StoreError, match=r"cannot be salvaged \(odd\); move it elsewhere"):
        await shelves.open()


async def test_what_fails_behind_the_opening_lets_go_of_the_files(shelves, monkeypatch) -> None:
    """The connections are closed, and so is the lock: the next start finds a shelf that was closed."""
    from gateway.store.room import Room

    async def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(Room, "measure", fail)
        with pytest.raises(ZeroDivisionError):
            await shelves.open()
    assert (await shelves.open()).events == []


async def test_what_fails_behind_the_opening_lets_go_of_a_shelf_that_cannot_be_written(shelves, monkeypatch) -> None:
    """Its file is read by hand, and that one is closed as well."""
    from gateway.store.room import Room

    put = await shelves.put(await shelves.open(), 3)
    await shelves.close()
    files = {str(shelves.state_dir / DATABASE), str(shelves.state_dir / "lock")}

    async def refuse(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"
        raise error

    seen: set[str] = set()

    async def fail(*_: object) -> None:
        seen.update(open_files() & files)
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(starting, "open_writer", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(Room, "measure", fail)
        with pytest.raises(ZeroDivisionError):
            await shelves.open()
    assert seen == files
    assert not open_files() & files
    store = await shelves.open()
    assert store.is_frozen
    assert await shelves.drain(store) == put


def open_files() -> set[str]:
    """Return what this process has open."""
    found = set()
    for file in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{file}"))
    return found


async def test_a_new_shelf_that_cannot_be_begun_leaves_nothing_behind(shelves, monkeypatch) -> None:
    """An empty file would be taken for one that lost everything."""
    real = starting.open_writer

    async def fail(path, **_: object) -> None:
        path.touch()
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(starting, "open_writer", fail)
        with pytest.raises(StoreError, match=f"cannot open {shelves.state_dir / DATABASE}: the disk is full"):
            await shelves.open()
    assert not (shelves.state_dir / DATABASE).exists()
    monkeypatch.setattr(starting, "open_writer", real)
    assert (await shelves.open()).events == []


async def test_damage_that_shows_when_the_log_begins_anew_is_salvaged_at_once(shelves, monkeypatch) -> None:
    """The first commit went well, moving it into the file did not."""
    from gateway.store.committer import Committer

    put = await shelves.put(await shelves.open(), 3)
    await shelves.close()
    real = Committer._rewind_log
    errors = [sqlite3.DatabaseError("malformed")]

    async def fails_once(self) -> None:
        if errors:
            raise errors.pop()
        await real(self)

    monkeypatch.setattr(Committer, "_rewind_log", fails_once)
    store = await shelves.open()
    assert "malformed" in store.events[0]
    assert await shelves.drain(store) == put


async def test_quick_check_finds_what_reading_does_not(shelves, monkeypatch) -> None:
    """Pages that belong to nobody, for instance."""
    store = await shelves.open()
    for _ in range(30):
        await shelves.put(store, 30)
    await shelves.close()
    path = shelves.state_dir / DATABASE
    data = bytearray(path.read_bytes())
    count = int.from_bytes(data[28:32], "big")
    data[28:32] = (count + 3).to_bytes(4, "big")
    path.write_bytes(bytes(data) + bytes(3 * 512))
    store = await shelves.open()
    assert "was damaged" in store.events[0]
    assert len(await shelves.drain(store)) == 900


async def test_quick_check_is_for_files_of_bearable_size(shelves, monkeypatch) -> None:
    """A large one that was closed in order is believed."""
    await shelves.open()
    await shelves.close()

    async def never(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(starting, "SMALL_BYTES_MAX", 0)
    monkeypatch.setattr(starting, "_quick_check", never)
    await shelves.open()


def files_of(state_dir) -> tuple[bytes, bytes]:
    """Return the database and its log."""
    return (state_dir / DATABASE).read_bytes(), (state_dir / LOG).read_bytes()


@pytest.fixture
async def hurt(shelves, tmp_path) -> int:
    """Hurt a shelf in its database, with a log that is whole; return how many readings it took.

    Closed in order, it was started again, took more, and died.
    """
    store = await shelves.open()
    for _ in range(200):
        await shelves.put(store)
    await shelves.close()
    store = await shelves.open()
    for _ in range(50):
        await shelves.put(store)
    copy = shutil.copytree(shelves.state_dir, tmp_path / "hurt")
    await shelves.close()
    shelves.state_dir = copy
    path = copy / DATABASE
    data = bytearray(path.read_bytes())
    start = len(data) * 2 // 3
    data[start : start + 64] = bytes(byte ^ 0xFF for byte in data[start : start + 64])
    path.write_bytes(data)
    return 250


async def test_what_is_lost_is_what_was_said_before_the_start(shelves, hurt, tmp_path) -> None:
    """SQLite, closing what it finds damaged, would move the log into it and delete it: what came last is there."""
    before = files_of(shelves.state_dir)
    forecast = salvage_into(tmp_path / "other.db", find(shelves.state_dir))
    assert forecast.is_newest
    assert forecast.loss is None
    lost = forecast.lost["cloud"]
    assert 0 < lost.least == lost.most < 20
    store = await shelves.open()
    (event,) = store.events
    said, _, aside = event.partition("; the damaged file is kept as ")
    why = said[said.index("(") + 1 : said.index("): ")]
    assert forecast.outlook(why).replace(" is damaged", " was damaged").replace("can be", "were").startswith(said)
    assert ((shelves.state_dir / aside).read_bytes(), (shelves.state_dir / f"{aside}-wal").read_bytes()) == before
    cloud = store.status()["uplinks"]["cloud"]
    assert (cloud["held"], cloud["maybe_twice"]) == (hurt - lost.most, 0)
    assert cloud["ledger"] == {"damaged": lost.most}
    shelves.check(store)


@pytest.mark.parametrize("what", ["write_down", "_check", "read_shelf", "open_reader"])
@pytest.mark.parametrize(
    "error", [sqlite3.DatabaseError("malformed"), sqlite3.OperationalError("busy"), KeyError("ours")]
)
async def test_an_opening_that_fails_leaves_both_files_as_they_were(shelves, hurt, monkeypatch, what, error) -> None:
    """Wherever it fails, who looks next finds what this one found."""
    before = files_of(shelves.state_dir)
    seen = []

    async def fail(*_: object, **__: object) -> None:
        raise error

    def stop(*_: object, **__: object) -> None:
        seen.append(files_of(shelves.state_dir))
        raise OSError(errno.EIO, "no salvage here")

    async def fine(_: object) -> None:
        pass

    monkeypatch.setattr(starting, "_check", fine)
    monkeypatch.setattr(starting, what, fail)
    monkeypatch.setattr(salvage, "salvage", stop)
    with pytest.raises((StoreError, KeyError)):
        await shelves.open()
    assert files_of(shelves.state_dir) == before
    assert seen == ([before] if str(error) == "malformed" else [])


async def test_a_start_that_is_refused_closes_in_order(shelves, tmp_path) -> None:
    """With nothing damaged the log is moved into the file, as ever: more uplinks than there is room for, for example."""
    await shelves.put(await shelves.open(), 3)
    copy = shutil.copytree(shelves.state_dir, tmp_path / "copy")
    await shelves.close()
    shelves.state_dir = copy
    with pytest.raises(StoreError, match="uplinks"):
        await shelves.open(uplinks=[f"u{k}" for k in range(70)])
    assert not (copy / LOG).exists()
    assert (await shelves.open()).events == []
