"""A database and its log, read by hand, are what SQLite would say of them."""

from __future__ import annotations

import os
import sqlite3

import pytest

from gateway.store.connection import DATABASE
from gateway.store.pagefile import PageFile, held_in, read_log_bytes, state_in
from gateway.store.pages import TreeError, heads_of, last_value, leaves_of
from gateway.store.records import SHELVES, STATE_ID, place


@pytest.fixture
async def used(shelves):
    """A shelf in use, with segments of all sizes in file and log; return path and what SQLite says."""
    store = await shelves.open()
    for number in range(120):
        await shelves.put(store, 1 + 90 * (number % 4))
        if number == 60:
            await store._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    await shelves.put_noise(store, 50_000)
    await shelves.drain(store)
    for number in range(30):
        await shelves.put(store, 1 + 90 * (number % 4))
    rows = await store._connection.execute_fetchall("SELECT * FROM shelf ORDER BY id")
    return shelves.state_dir / DATABASE, [tuple(row) for row in rows], store


async def test_tables_are_read_by_their_trees(used) -> None:
    """Every row once, in order, whatever pages they are on."""
    path, rows, _ = used
    with PageFile(path) as pages:
        assert pages.is_database
        found = [(row_id, *values[1:]) for row_id, values in pages.table(pages.roots()["shelf"])]
    assert found == rows


async def test_a_part_of_a_table(used) -> None:
    """Only the leaves that may hold it are visited."""
    path, rows, _ = used
    wanted = rows[len(rows) // 2][0]
    with PageFile(path) as pages:
        root = pages.roots()["shelf"]
        every = list(leaves_of(pages.page, root))
        some = list(leaves_of(pages.page, root, first=wanted, last=wanted))
        assert set(some) <= set(every)
        assert len(some) < len(every)
        assert wanted in {row_id for leaf in some for row_id, *_ in heads_of(pages.page(leaf), pages.page)}
        first, last = place(*SHELVES[0], 0), place(*SHELVES[0], 5)
        assert len(list(leaves_of(pages.page, root, first=first, last=last))) == 1


async def test_rows_without_their_bodies(used) -> None:
    """All other values, the body's size, and where it stands."""
    path, rows, _ = used
    with PageFile(path) as pages:
        found = []
        for leaf in leaves_of(pages.page, pages.roots()["shelf"]):
            page = pages.page(leaf)
            for head in heads_of(page, pages.page):
                body = last_value(page, head.offset, pages.page)
                assert len(body) == head.last_bytes
                found.append((head.row_id, *head.values[1:], body))
    assert found == rows


async def test_the_state_wherever_it_stands(used, shelves) -> None:
    """In the file as it was at the last checkpoint, in the log as it was at its first and last commit."""
    path, rows, store = used
    with PageFile(path) as pages:
        newest = pages.state()
        first, last = pages.states_of_log()
        in_file = pages.state_of_file()
    assert newest.commit == last.commit == store.status()["store"]["commits"]
    assert first.commit == in_file.commit + 1
    assert state_in(rows[-1]).commit == newest.commit
    await shelves.close()
    with PageFile(path) as pages:
        assert pages.states_of_log() is None
        assert pages.state_of_file().commit == newest.commit + 1
        assert pages.state().log_bytes == 0


async def test_the_state_after_rows_have_moved(shelves) -> None:
    """Pages that a transaction left have the state of an earlier one still."""
    store = await shelves.open()
    for count in range(1, 12):
        for _ in range(count):
            await shelves.put(store, 5)
        await shelves.drain(store)
        await store._committer.commit()
        with PageFile(shelves.state_dir / DATABASE) as pages:
            first, last = pages.states_of_log()
            assert last.commit == pages.state().commit == store.status()["store"]["commits"]
            assert first.commit == pages.state_of_file().commit + 1


def test_a_file_with_nothing_in_it(tmp_path) -> None:
    """No tables, no state, no rows."""
    (tmp_path / "a").write_bytes(b"")
    with PageFile(tmp_path / "a") as pages:
        assert (pages.versions, pages.schema(), pages.states_of_log()) == ((0, 0), [], None)
        assert pages.state_of_file() is None
        assert not pages.is_database
        assert list(pages.written_pages()) == []
        assert list(pages.rows_at(1)) == list(pages.older_rows_at(1)) == []
        with pytest.raises(TreeError):
            pages.state()
    assert read_log_bytes(tmp_path / "a") == b""
    assert state_in(()) is None
    assert state_in((b"x",)) is None


def test_a_table_without_a_state(tmp_path) -> None:
    """Its place is empty, or holds something else."""
    connection = sqlite3.connect(tmp_path / "a", isolation_level=None)
    connection.execute("CREATE TABLE shelf (id INTEGER PRIMARY KEY, body)")
    for body in (None, b"x"):
        if body:
            connection.execute("INSERT INTO shelf VALUES (?, ?)", (STATE_ID, body))
        with PageFile(tmp_path / "a") as pages:
            assert pages.state() is None
            assert pages.state_of_file() is None
    connection.close()


def test_a_table_of_tables_that_is_none(tmp_path, monkeypatch) -> None:
    """More than there can be, or of another shape."""
    connection = sqlite3.connect(tmp_path / "a", isolation_level=None)
    for number in range(5):
        connection.execute(f"CREATE TABLE t{number} (a)")
    connection.close()
    with PageFile(tmp_path / "a") as pages:
        assert len(pages.schema()) == 5
        monkeypatch.setattr("gateway.store.pagefile.SCHEMA_ROWS_MAX", 4)
        with pytest.raises(TreeError, match="table of tables"):
            pages.schema()


def test_holes_are_not_read(tmp_path) -> None:
    """Of a file that is larger than any disk only what was written is looked at."""
    path = tmp_path / "a"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    connection.execute("INSERT INTO t VALUES (7, 'there')")
    connection.close()
    os.truncate(path, 1 << 40)
    with path.open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"\x0d")
    with PageFile(path) as pages:
        numbers = list(pages.written_pages())
        assert len(numbers) < 1000
        assert (7, (None, "there")) in [row for number in numbers for row in pages.rows_at(number)]


def test_a_page_that_only_the_log_has_is_read(tmp_path) -> None:
    """A checkpoint makes the file as long as it will be before it has written all of it."""
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    for number in range(200):
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, b"x" * 200))
    data, log = path.read_bytes(), (tmp_path / "a.db-wal").read_bytes()
    connection.close()
    whole = path.read_bytes()
    path.write_bytes(data)
    os.truncate(path, len(whole))
    (tmp_path / "a.db-wal").write_bytes(log)
    with PageFile(path) as pages:
        found = [row for number in pages.written_pages() for row in pages.rows_at(number)]
        rows = {row_id for row_id, values in found if len(values) == 2}
    assert rows == set(range(200))


async def test_how_much_is_held_is_told_by_the_state_row(shelves, tmp_path) -> None:
    """Without opening it; of what cannot be read, nothing."""
    store = await shelves.open()
    await shelves.put(store, 41)
    await shelves.close()
    assert held_in(shelves.state_dir) == {"cloud": 41}
    assert held_in(tmp_path / "none") == {}
    (tmp_path / DATABASE).write_bytes(b"garbage" * 1000)
    assert held_in(tmp_path) == {}
    connection = sqlite3.connect(tmp_path / "2")
    connection.execute("CREATE TABLE shelf (id INTEGER PRIMARY KEY)")
    connection.close()
    (tmp_path / "2").replace(tmp_path / DATABASE)
    assert held_in(tmp_path) == {}
