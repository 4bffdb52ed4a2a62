"""A log that is gone, cut, zeroed or of another day is told from none at all, as far as file and log tell."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3

import pytest

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.store import evidence, room
from gateway.store.accounts import State
from gateway.store.connection import DATABASE
from gateway.store.database import StoreError
from gateway.store.evidence import DamagedError, find_loss, look, wrong_with_log
from gateway.store.pagefile import PageFile
from gateway.store.pages import TABLE_LEAF, leaves_of
from gateway.store.reached import REACHED, _encode, read_reached
from gateway.store.reading import verify
from gateway.store.records import STATE_ID

LOG = f"{DATABASE}-wal"
INNER = 5  # the first byte of a page that leads to others (SQLite's file format, 1.6)


@pytest.fixture
def small_log(monkeypatch):
    """Let the log begin anew after a few commits."""
    monkeypatch.setattr(room, "LOG_BYTES_MIN", 16 << 10)
    monkeypatch.setattr(room, "LOG_SHARE", 1 << 20)


@pytest.fixture
def die(shelves, tmp_path):
    """Put and take, then leave the files as a process that dies leaves them; return what was put."""

    async def work(commits: int = 30) -> list[int]:
        store = await shelves.open()
        put = []
        for _ in range(commits):
            put += await shelves.put(store, 20)
            shelves.clock.advance(NS_PER_S)
        copy = tmp_path / "dead"
        shutil.copytree(shelves.state_dir, copy)
        await shelves.close()
        shelves.state_dir = copy
        return put

    return work


async def opened(shelves, put) -> list[str]:
    """Open; what is there is right, counted, and taken on; return the events."""
    store = await shelves.open()
    events = list(store.events)
    found = await shelves.drain(store)
    assert set(found) <= set(put)
    shelves.check(store)
    await shelves.put(store, 1)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open()
    assert store.events == []
    return events


async def test_a_log_that_is_whole_leads_to_nothing(shelves, die, small_log) -> None:
    """A process that died is not a loss."""
    put = await die()
    assert look(shelves.state_dir / DATABASE) is None
    assert await opened(shelves, put) == []


async def test_a_log_that_is_whole_leads_to_nothing_where_the_state_takes_several_pages(
    shelves, tmp_path, small_log
) -> None:
    """Each commit writes these anew: the first one of the log is not read with what the last one put there."""
    names = [f"uplink-{number}" for number in range(20)]
    store = await shelves.open(uplinks=names)
    for number in range(30):
        await shelves.put(store, 20)
        store.ack(await shelves.lease(store, names[-1 - number % 9], readings_max=1))
        copy = tmp_path / str(number)
        shutil.copytree(shelves.state_dir, copy)
        assert look(copy / DATABASE) is None
    shelves.check(store)


async def test_a_log_that_was_deleted(shelves, die) -> None:
    """The file says that it ought to have one; how much is missing nobody knows, since when and up to when it is said.

    Without the note beside it, whoever opened the file may have moved the log into it and removed it.
    """
    put = await die(30)
    (shelves.state_dir / LOG).unlink()
    (shelves.state_dir / REACHED).unlink()
    assert "the write-ahead log is missing" in verify(shelves.state_dir).problems[0]
    (event,) = await opened(shelves, put)
    assert event.startswith(f"{LOG} is missing, and the gateway had not been stopped in order: ")
    assert "unless another program has opened the database since, what was accepted after 20" in event
    assert "may be missing, up to 31 s of it (how many readings nobody knows)" in event


async def test_a_log_that_was_deleted_and_is_nowhere_else(shelves, die) -> None:
    """The note beside it has seen commits that the file has not."""
    put = await die(30)
    (shelves.state_dir / LOG).unlink()
    (event,) = await opened(shelves, put)
    assert "in order: what was accepted after 20" in event
    assert re.search(r"up to 31 s of it \(at least (2[6-9]|3\d) commits, how many readings nobody knows\)", event)


async def test_a_log_that_was_deleted_before_the_first_commit_of_data(shelves, die) -> None:
    """The start itself is noted in the file."""
    put = await die(0)
    (shelves.state_dir / LOG).unlink()
    (event,) = await opened(shelves, put)
    assert "up to 1 s of it" in event


def put_page(path, number: int, page: bytes) -> None:
    """Write a page into a database file."""
    with path.open("r+b") as file:
        file.seek((number - 1) * len(page))
        file.write(page)


def state_leaf(pages: PageFile, page_of) -> int:
    """The number of the page that the state row stands on."""
    (leaf,) = leaves_of(page_of, pages.roots()["shelf"], first=STATE_ID, last=STATE_ID)
    return leaf


@pytest.mark.parametrize("is_old_page_moved", [False, True])
async def test_a_log_that_was_half_moved_into_the_file_is_whole(
    shelves, tmp_path, small_log, is_old_page_moved
) -> None:
    """The inner pages came first when the power went, and lead to a page that was given up long ago.

    What the file says alone is of no one time then. The state that the log goes on from stands on a page that the
    tree does not lead to any more, or that has been written over too.
    """
    store = await shelves.open(recent_bytes=0)
    stale = None
    for turn in range(500):
        await shelves.put(store, 40, priority=Priority(turn % 3))
        if turn > 20 and (lease := await shelves.lease(store, readings_max=300)) is not None:
            store.ack(lease)
        copy = tmp_path / f"at-{turn}"
        shutil.copytree(shelves.state_dir, copy)
        with PageFile(copy / DATABASE) as pages:
            newest = {number: pages.log.page(place) for number, place in pages.log.newest.items()}
            now, before = state_leaf(pages, pages.page), state_leaf(pages, pages.page_of_file)
            stale = stale or pages.page_of_file(before)
            first = next(pages._transactions(), [])
            if stale and now != before and before in dict(first) and newest[before][0] == TABLE_LEAF:
                break
    assert now != before
    assert look(copy / DATABASE) is None
    for number, page in newest.items():
        if page[0] == INNER or (is_old_page_moved and number == before):
            put_page(copy / DATABASE, number, page)
    put_page(copy / DATABASE, now, stale)
    with PageFile(copy / DATABASE) as pages:
        (begin, _), in_file = pages.states_of_log(), pages.state_of_file()
        assert in_file.commit < begin.commit - 1
        assert not pages.is_half_moved(commit=begin.commit) or is_old_page_moved
    assert look(copy / DATABASE) is None
    await shelves.close()


@pytest.mark.parametrize("end", [0.0, 0.3, 0.9])
async def test_a_log_that_was_cut(shelves, die, small_log, end) -> None:
    """It had been longer: each commit notes how long it was by then."""
    put = await die()
    path = shelves.state_dir / LOG
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * end))
    (event,) = await opened(shelves, put)
    assert event.startswith(f"{LOG} {'was cut short' if end else 'is missing'}, and the gateway had not been stopped")


@pytest.mark.parametrize("end", [0.1, 0.5, 0.8])
async def test_a_log_that_was_cut_before_it_was_full_once(shelves, die, end) -> None:
    """Its own commits say nothing of those that were cut off; the note beside it does."""
    put = await die()
    path = shelves.state_dir / LOG
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * end))
    assert "the write-ahead log was cut short" in verify(shelves.state_dir).problems[0]
    (event,) = await opened(shelves, put)
    assert event.startswith(f"{LOG} was cut short, and the gateway had not been stopped in order: what was accepted")
    assert re.search(r"s of it \(at least \d+ commits, how many readings nobody knows\)", event)


async def test_a_log_that_was_zeroed_at_its_end_before_it_was_full_once(shelves, die) -> None:
    """That is as good as cut."""
    put = await die()
    path = shelves.state_dir / LOG
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    (event,) = await opened(shelves, put)
    assert "at least" in event


async def test_a_backup_that_was_put_back(shelves) -> None:
    """Closed in order it is whole; but one that had come further was here since, and what that one held is missing."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    await shelves.close()
    path = shelves.state_dir / DATABASE
    backup = path.read_bytes()
    store = await shelves.open()
    for _ in range(20):
        await shelves.put(store, 50)
        shelves.clock.advance(NS_PER_S)
    await shelves.close()
    path.write_bytes(backup)
    with PageFile(path) as pages:
        assert wrong_with_log(pages, reached=read_reached(shelves.state_dir)) == ""
    (event,) = await opened(shelves, put)
    assert event.startswith("tidegate.db is another one than was here last, or an older copy of it: what was accepted")
    assert "may be missing, up to 21 s of it (at least " in event
    assert "commits, how many readings nobody knows), and what was sent since then is sent again" in event


@pytest.mark.parametrize("dies", [True, False])
async def test_a_database_that_is_gone(shelves, die, dies) -> None:
    """A repair of the disk has put it elsewhere: that it begins anew is said, once."""
    await die()
    if not dies:
        await shelves.open()
        await shelves.close()
    for name in (DATABASE, LOG):
        (shelves.state_dir / name).unlink(missing_ok=True)
    (event,) = await opened(shelves, [])
    assert event.startswith("tidegate.db is gone, which was here before: what it still held is not sent (how many ")
    assert "lost+found" in event


async def test_a_first_start_misses_nothing(shelves) -> None:
    """There is no note of an earlier one."""
    assert (await shelves.open()).events == []


async def test_a_note_of_another_database_says_nothing_of_a_salvaged_one(shelves, die) -> None:
    """It begins to count where its newest commit is."""
    put = await die()
    (shelves.state_dir / REACHED).write_bytes(_encode(10**6))
    path = shelves.state_dir / DATABASE
    path.write_bytes(b"x" + path.read_bytes()[1:])
    store = await shelves.open()
    assert set(await shelves.drain(store)) <= set(put)
    assert read_reached(shelves.state_dir) < 10**6
    await shelves.close()
    store = await shelves.open()
    assert store.events == []


def spoil(path, at: int, count: int = 8) -> None:
    """Overwrite some bytes."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * count)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("missing", "is missing"),
        ("cut", "was cut short"),
        ("cut and broken", "was cut short"),
        ("without an end", "was cut short"),
    ],
)
async def test_a_salvage_says_what_is_missing_of_the_log(shelves, die, how, what) -> None:
    """The accounts are as old as what is left: by them nothing is lost, and of what came last they know nothing."""
    put = await die()
    path, log_path = shelves.state_dir / DATABASE, shelves.state_dir / LOG
    size = log_path.stat().st_size
    if how == "missing":
        log_path.unlink()
    elif how == "without an end":
        spoil(log_path, size // 2, size - size // 2)
    else:
        os.truncate(log_path, size // 2)
    if how == "cut and broken":
        spoil(log_path, size // 4)
    else:
        spoil(path, 0)
    salvaged, missing = await opened(shelves, put)
    assert "lost: nothing that its counters know of, and what came last where that is missing" in salvaged
    assert missing.startswith(f"{LOG} {what}, and the gateway had not been stopped in order: ")
    assert re.search(r"\(at least \d+ commits, how many readings nobody knows\)", missing)


@pytest.mark.parametrize(("end", "what"), [(0.0, "is missing"), (0.5, "was cut short")])
async def test_a_salvage_says_how_long_the_log_had_been(shelves, die, small_log, end, what) -> None:
    """Each commit has noted that."""
    put = await die()
    os.truncate(shelves.state_dir / LOG, int((shelves.state_dir / LOG).stat().st_size * end))
    spoil(shelves.state_dir / DATABASE, 0)
    _, missing = await opened(shelves, put)
    assert missing.startswith(f"{LOG} {what}, and the gateway had not been stopped in order: ")


async def test_a_look_from_outside_at_what_would_be_salvaged_says_so_too(shelves, die) -> None:
    """Who wants to know what a stick would carry is not told that nothing is lost."""
    await die()
    (shelves.state_dir / LOG).unlink()
    spoil(shelves.state_dir / DATABASE, 0)
    assert "lost: nothing that its counters know of, and" in verify(shelves.state_dir).problems[1]


async def test_a_salvage_with_all_of_its_log_misses_nothing(shelves, die, small_log) -> None:
    """The note beside it has not seen more."""
    put = await die()
    spoil(shelves.state_dir / DATABASE, 0)
    (salvaged,) = await opened(shelves, put)
    assert "lost: nothing; the damaged" in salvaged


@pytest.mark.parametrize("begin", [0.0, 0.5])
async def test_a_log_that_was_zeroed(shelves, die, small_log, begin) -> None:
    """What was written once does not become zeros by itself."""
    put = await die()
    path = shelves.state_dir / LOG
    data = path.read_bytes()
    start = int(len(data) * begin)
    path.write_bytes(data[:start] + bytes(len(data) - start))
    (event,) = await opened(shelves, put)
    assert "zeros" in event or "was damaged" in event


async def test_a_log_of_an_earlier_day(shelves, die, small_log) -> None:
    """SQLite would roll the file back page by page. It is set aside, and what it should have held may be missing."""
    put = await die(5)
    old = (shelves.state_dir / LOG).read_bytes()
    store = await shelves.open()
    for _ in range(30):
        put += await shelves.put(store, 20)
    dead = shelves.state_dir.parent / "later"
    shutil.copytree(shelves.state_dir, dead)
    await shelves.close()
    shelves.state_dir = dead
    (dead / LOG).write_bytes(old)
    assert "is of an earlier time" in verify(dead).problems[0]
    (event,) = await opened(shelves, put)
    assert "is of an earlier time than the database and was set aside as tidegate.db.damaged-" in event
    assert "may be missing" in event
    assert [path.read_bytes() for path in dead.glob("*-log")] == [old]


async def test_a_log_of_an_earlier_day_beside_a_shelf_that_was_closed(shelves, die, small_log) -> None:
    """Nothing can be missing: there was no log any more."""
    put = await die(5)
    old = (shelves.state_dir / LOG).read_bytes()
    store = await shelves.open()
    for _ in range(30):
        put += await shelves.put(store, 20)
    await shelves.close()
    (shelves.state_dir / LOG).write_bytes(old)
    (event,) = await opened(shelves, put)
    assert event.endswith("nothing is missing, the gateway had been stopped in order")


async def test_a_file_of_an_earlier_day(shelves, die, small_log) -> None:
    """Commits between file and log are missing: what is there is salvaged, what is not is in the ledger."""
    put = await die(5)
    await shelves.close()
    old = (shelves.state_dir / DATABASE).read_bytes()
    store = await shelves.open()
    for _ in range(40):
        put += await shelves.put(store, 20)
    dead = shelves.state_dir.parent / "later"
    shutil.copytree(shelves.state_dir, dead)
    await shelves.close()
    shelves.state_dir = dead
    (dead / DATABASE).write_bytes(old)
    assert "commits between the file and its log are missing" in verify(dead).problems[0]
    store = await shelves.open()
    assert "commits between the file and its log are missing" in store.events[0]
    cloud = store.status()["uplinks"]["cloud"]
    assert cloud["ledger"]["damaged"] + cloud["held"] == len(put)
    shelves.check(store)


async def test_a_shelf_that_was_closed_needs_no_log(shelves, die) -> None:
    """And one that could not be opened for another reason has been closed too."""
    await die(3)
    await shelves.open()
    await shelves.close()
    assert look(shelves.state_dir / DATABASE) is None
    assert not (shelves.state_dir / LOG).exists()


async def test_a_start_that_fails_leaves_no_doubt_behind(shelves, die, monkeypatch) -> None:
    """It has moved the log into the file before it was told that there are too many uplinks."""
    put = await die(3)
    monkeypatch.setattr("gateway.store.membership.SLOTS_MAX", 2)
    with pytest.raises(StoreError, match="different uplinks"):
        await shelves.open(uplinks=("another",))
    monkeypatch.undo()
    assert await opened(shelves, put) == []


async def test_another_boot_without_a_clock_knows_less(shelves, die) -> None:
    """No span is made up; with a clock on both sides there is one."""
    put = await die(2)
    (shelves.state_dir / LOG).unlink()
    copy = shelves.state_dir.parent / "copy"
    shutil.copytree(shelves.state_dir, copy)
    shelves.clock.reboot("boot-2", wall=0, synced=False)
    (event,) = await opened(shelves, put)
    assert "up to" not in event
    assert "may be missing (how many" in event
    await shelves.close()
    shelves.state_dir = copy
    shelves.clock.reboot("boot-2", wall=1_900_000_000 * NS_PER_S, synced=True)
    store = await shelves.open()
    assert "up to" in store.events[0]


def test_a_commit_without_any_clock_is_named_as_that() -> None:
    """A box that never knew the time."""
    from gateway.core.clock import BootTimes, Timeline

    timeline = Timeline([BootTimes(1, "a"), BootTimes(2, "b")], current=2)
    loss = evidence.LogLoss("is missing", State(commit=3, boot=1, log_bytes=32))
    assert "after the last commit that is left may be missing (how" in loss.sentence(timeline, 0)


async def test_files_in_the_middle_of_a_checkpoint(shelves, die, small_log) -> None:
    """The file alone is no tree then: nothing is concluded from it."""
    put = await die()
    path = shelves.state_dir / DATABASE
    data = path.read_bytes()
    with PageFile(path) as pages:
        lost = max(pages.log.newest)
        assert pages.state_of_file() is not None
    path.write_bytes(data[: min(len(data), (lost - 1) * 512)][: len(data) // 2 // 512 * 512])
    with PageFile(path) as pages:
        assert pages.state_of_file() is None
        assert wrong_with_log(pages) == ""
    store = await shelves.open()
    assert set(await shelves.drain(store)) <= set(put)


async def test_a_log_longer_than_is_ever_read(shelves, die, small_log, monkeypatch) -> None:
    """What it notes beyond that is not taken for a cut."""
    await die()
    size = (shelves.state_dir / LOG).stat().st_size
    monkeypatch.setattr(evidence, "LOG_BYTES_MAX", size - 600)
    monkeypatch.setattr("gateway.store.pagefile.LOG_BYTES_MAX", size - 600)
    with PageFile(shelves.state_dir / DATABASE) as pages:
        assert find_loss(pages) is None


async def test_a_newer_schema_is_left_alone(shelves, die) -> None:
    """Seen before SQLite touches the log: not a byte of either is changed."""
    await die(3)
    path = shelves.state_dir / DATABASE
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    before = {file.name: file.read_bytes() for file in shelves.state_dir.iterdir()}
    with pytest.raises(StoreError, match="newer tidegate"):
        look(path)
    assert {file.name: file.read_bytes() for file in shelves.state_dir.iterdir()} == before
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "CREATE TRIGGER t AFTER UPDATE ON shelf BEGIN DELETE FROM shelf; END",
        "CREATE INDEX i ON shelf (boot)",
        "ALTER TABLE ledger ADD COLUMN more AS (readings + 1)",
        "DROP TABLE boots",
        "ANALYZE",
    ],
)
async def test_what_else_stands_in_the_file_is_not_run(shelves, sql) -> None:
    """One sentence for who looks from outside; the start salvages, keeps all, and sets the file aside."""
    put = await shelves.put(await shelves.open(), 9)
    await shelves.close()
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute(sql)
    connection.commit()
    connection.close()
    assert "its tables are not those of a store" in verify(shelves.state_dir).problems[0]
    store = await shelves.open()
    assert "its tables are not those of a store" in store.events[0]
    assert sorted(await shelves.drain(store)) == put
    shelves.check(store)


async def test_a_view_in_the_place_of_a_table(shelves) -> None:
    """The name is right, what is behind it would be read for ever."""
    await shelves.put(await shelves.open(), 9)
    await shelves.close()
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute("ALTER TABLE series_copy RENAME TO other")
    connection.execute(
        "CREATE VIEW series_copy AS WITH RECURSIVE n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n)"
        " SELECT number, x'00' AS body FROM n"
    )
    connection.commit()
    connection.close()
    assert "series_copy" in verify(shelves.state_dir).problems[0]
    store = await shelves.open()
    shelves.check(store)


async def test_the_same_names_with_other_definitions(shelves) -> None:
    """The text of each definition is compared, to the letter."""
    await shelves.open()
    await shelves.close()
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'TEXT NOT NULL', 'TEXT') WHERE name = 'ledger'")
    connection.commit()
    connection.close()
    with pytest.raises(DamagedError, match="not those of a store: ledger"):
        look(shelves.state_dir / DATABASE)


async def test_a_table_that_leads_in_circles(shelves) -> None:
    """SQLite itself would read it for ever."""
    store = await shelves.open(max_series=1000)
    for number in range(200):
        store.resolve(type(store.series(1))((), f"m{number}"))
    await shelves.put(store, 1)
    await shelves.close()
    path = shelves.state_dir / DATABASE
    with PageFile(path) as pages:
        root = pages.roots()["series"]
    data = bytearray(path.read_bytes())
    start = (root - 1) * 512
    assert data[start] == 5
    data[start + 8 : start + 12] = root.to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=f"page {root} does not belong to a table"):
        look(path)
    assert "does not belong to a table" in verify(shelves.state_dir).problems[0]
    store = await shelves.open(max_series=1000)
    assert "was damaged" in store.events[0]
    shelves.check(store)


def test_a_database_without_any_table_is_one_to_begin_with(tmp_path) -> None:
    """As a process leaves it that died before its first table."""
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version = 0")
    connection.execute("VACUUM")
    connection.close()
    assert (tmp_path / DATABASE).stat().st_size
    assert look(tmp_path / DATABASE) is None
