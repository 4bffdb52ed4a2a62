"""A shelf's file may be anybody's: `verify`, `export` and a start come to their end and to a sentence, whatever it holds."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import Any

import msgspec
import pytest

from gateway.control.export import export
from gateway.core.contracts import Priority
from gateway.store.accounts import State, decode_state, encode_state
from gateway.store.connection import DATABASE, Guarded, open_reader
from gateway.store.database import Loss, SetAside, StoreError
from gateway.store.frozen import Frozen
from gateway.store.pagefile import PageFile
from gateway.store.reading import verify
from gateway.store.records import STATE_ID
from gateway.store.starting import is_damage


@pytest.fixture
async def filled(shelves):
    """A shelf with something in every table; closed."""
    store = await shelves.open()
    for number in range(6):
        await shelves.put(store, 2, priority=Priority(number % 3))
    await store.append([], losses=[Loss("syntax", 3)], set_aside=[SetAside("s", b"t", b"{", "syntax", "no")])
    lease = await shelves.lease(store, readings_max=1)
    store.refuse(lease, "refused", "no")
    await store.append([], logs=shelves.logs(store, "5"))
    await shelves.close()


def change(state_dir, *statements: str, values: tuple[Any, ...] = ()) -> None:
    connection = sqlite3.connect(state_dir / DATABASE)
    for statement in statements:
        connection.execute(statement, values)
    connection.commit()
    connection.close()


def without_constraints(state_dir, *statements: str) -> None:
    """Run statements as if no column were NOT NULL; the definitions are as before afterwards."""
    path = state_dir / DATABASE
    schema = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?)"
    for words, sql in ((("NOT NULL", "/*hidden*/"), ()), (None, statements), (("/*hidden*/", "NOT NULL"), ())):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA writable_schema = ON")
        if words:
            connection.execute(schema, words)
        for statement in sql:
            connection.execute(statement)
        connection.close()


def progress(items, **_: object):
    yield from items


async def everything_ends(shelves, tmp_path) -> Any:
    """Look from outside in both ways, then start; return the store."""
    report = verify(shelves.state_dir)
    assert report.summary()
    with contextlib.suppress(StoreError):
        export(shelves.state_dir, tmp_path / "out.jsonl", attributes=(), progress=progress)
    store = await shelves.open()
    shelves.check(store)
    for _ in range(50):
        if (lease := await shelves.lease(store)) is None:
            break
        store.ack(lease)
    shelves.check(store)
    await shelves.put(store, 1)
    await shelves.close()
    if store.is_damaged:
        # What only showed when it was sent is mended by the next start.
        store = await shelves.open()
        assert "was damaged" in store.events[0]
        await shelves.close()
    # A series that is damaged in one of its two copies is good enough.
    assert [problem for problem in verify(shelves.state_dir).problems if " in series" not in problem] == []
    store = await shelves.open()
    await shelves.put(store, 1)
    shelves.check(store)
    return store


COLUMNS = {
    "shelf": ["done", "readings", "boot", "stored_ns", "first_ns", "last_ns", "body"],
    "series": ["body"],
    "series_copy": ["body"],
    "ledger": ["uplink", "reason", "readings", "first_ns", "last_ns", "since_ns", "until_ns"],
    "boots": ["uuid", "body"],
    "quarantine": ["at_ns", "source", "reason", "message", "topic", "payload"],
    "refused": ["at_ns", "uplink", "reason", "message", "readings", "body"],
}
CELLS = [(table, column) for table, columns in COLUMNS.items() for column in columns]
ODD = ["'text'", "CAST(x'ff41fe' AS TEXT)", "x'00ff'", "1e300", "-7", str(2**63 - 1), "zeroblob(34000000)"]


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_a_value_of_another_kind(shelves, filled, tmp_path, table, column) -> None:
    """Text, no text, a blob, a fraction, less than nothing, the largest number there is, more than there is room for."""
    original = tmp_path / "original"
    shutil.copytree(shelves.state_dir, original)
    for number, value in enumerate(ODD):
        if value.startswith("zeroblob") and column not in {"body", "payload"}:
            continue
        shelves.state_dir = tmp_path / str(number)
        shutil.copytree(original, shelves.state_dir)
        change(shelves.state_dir, f"UPDATE {table} SET {column} = {value} WHERE rowid < {STATE_ID}")
        await everything_ends(shelves, tmp_path)
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        await shelves.close()
        shutil.rmtree(shelves.state_dir)


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_nothing_where_something_must_be(shelves, filled, tmp_path, table, column) -> None:
    """Constraints are promises of whoever wrote the file."""
    without_constraints(shelves.state_dir, f"UPDATE {table} SET {column} = NULL WHERE rowid < {STATE_ID}")
    await everything_ends(shelves, tmp_path)


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        (f"INSERT INTO shelf VALUES ({2**59 * 9 + 10**6}, 0, 1, 1, 0, 0, 0, x'00')", "newer than the state row"),
        ("UPDATE quarantine SET topic = NULL", "holds nothing where it should"),
        ("UPDATE refused SET message = NULL", "holds nothing where it should"),
        ("UPDATE shelf SET readings = 'two' WHERE readings = 2", "holds other types than it should"),
    ],
)
async def test_a_large_file_is_not_looked_through_and_yet_not_believed(
    shelves, filled, tmp_path, monkeypatch, sql, sentence
) -> None:
    """What is read of it is looked at; the rest when it is sent."""
    monkeypatch.setattr("gateway.store.starting.SMALL_BYTES_MAX", 0)
    monkeypatch.setattr("gateway.store.starting.QUICK_CHECK_BYTES_MAX", 0)
    without_constraints(shelves.state_dir, sql)
    store = await shelves.open(recent_bytes=0)
    while (lease := await shelves.lease(store)) is not None:
        store.ack(lease)
    trouble = store.status()["store"]["trouble"]
    await shelves.close()
    if store.is_damaged:
        store = await shelves.open()
    assert sentence in trouble + store.events[0]
    shelves.check(store)


LIES = {
    "accepted": [-1, 2**64 - 1],
    "commit": [-1, 2**63],
    "sequence": [0, -5, 2**59],
    "previous_hash": [b"", bytes(100)],
    "boot": [-1],
    "boot_last_ns": [-1, 2**64 - 1],
    "series_next": [0, 2**40],
    "log_bytes": [-1],
    "slots": [{"a": 64}, {"a": -1}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LIES.items() for value in values])
async def test_a_state_row_that_lies(shelves, filled, tmp_path, name, value) -> None:
    """Its checksum is right, what it says cannot be: it is not believed."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchall()
    connection.close()
    state = msgspec.structs.replace(decode_state(body), **{name: value})
    change(shelves.state_dir, "UPDATE shelf SET body = ? WHERE id = ?", values=(encode_state(state), STATE_ID))
    assert "says what cannot be" in verify(shelves.state_dir).problems[0]
    await everything_ends(shelves, tmp_path)


@pytest.mark.parametrize(
    "lie",
    [
        lambda share: {"held": -1},
        lambda share: {"held": share.held + 5},
        lambda share: {"held": 0},
        lambda share: {"delivered": 2**62},
        lambda share: {"slot": 63},
        lambda share: {"leased": [(0, 2**62)]},
        lambda share: {"leased": [(0, 2**63)]},
    ],
)
async def test_a_share_that_lies(shelves, filled, tmp_path, lie) -> None:
    """Held is not what is there, or nothing that can be: a sentence, and no end of the gateway."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchall()
    connection.close()
    state = decode_state(body)
    shares = [msgspec.structs.replace(share, **lie(share)) for share in state.shares]
    body = encode_state(msgspec.structs.replace(state, shares=shares))
    change(shelves.state_dir, "UPDATE shelf SET body = ? WHERE id = ?", values=(body, STATE_ID))
    if shares[0].leased != [(0, 2**62)]:
        assert verify(shelves.state_dir).problems
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.drain(store)
    await store.append([])
    assert store.status()["store"]["trouble"] == ""


@pytest.mark.parametrize(
    "sql",
    [
        f"INSERT INTO shelf VALUES ({2**59 * 9 + 10**6}, 0, 1, 1, 0, 0, 0, x'00')",
        "INSERT INTO shelf VALUES (-5, 0, 1, 1, 0, 0, 0, x'00')",
        f"INSERT INTO shelf VALUES ({2**59 * 12}, 0, 1, 1, 0, 0, 0, x'00')",
        f"INSERT INTO shelf VALUES ({2**63 - 1}, 0, 1, 1, 0, 0, 0, x'00')",
        "UPDATE ledger SET readings = 1 << 61",
        "UPDATE ledger SET readings = -5",
        f"UPDATE series SET number = {2**40} WHERE number = 1",
        "UPDATE series SET number = -5 WHERE number = 1; UPDATE series_copy SET number = -5 WHERE number = 1",
        f"UPDATE boots SET number = {2**62}",
        f"INSERT INTO quarantine VALUES ({2**63 - 1}, 0, '', '', '', '', '')",
        "UPDATE shelf SET readings = -1000 WHERE readings = 2",
        "UPDATE shelf SET readings = 1 << 62 WHERE readings = 2",
    ],
)
async def test_numbers_that_cannot_be_ours(shelves, filled, tmp_path, sql) -> None:
    """Numbers that are taken before we give them, counts that no sum holds."""
    change(shelves.state_dir, *sql.split("; "))
    await everything_ends(shelves, tmp_path)


async def test_a_file_that_is_larger_than_any_disk(shelves, filled, tmp_path) -> None:
    """A hole of a terabyte costs nothing, and is not read."""
    os.truncate(shelves.state_dir / DATABASE, 1 << 40)
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    store = await everything_ends(shelves, tmp_path)
    assert store.status()["accepted"] > 12


async def test_a_log_that_is_larger_than_any_disk(shelves, filled, tmp_path, monkeypatch) -> None:
    """Looking from outside says so; a start leaves it to SQLite."""
    monkeypatch.setattr("gateway.store.pagefile.LOG_BYTES_MAX", 1 << 20)
    monkeypatch.setattr("gateway.store.snapshots.LOG_BYTES_MAX", 1 << 20)
    log = shelves.state_dir / f"{DATABASE}-wal"
    log.touch()
    os.truncate(log, 1 << 40)
    assert any("larger than any log" in problem for problem in verify(shelves.state_dir).problems)
    log.unlink()


async def test_a_file_that_may_not_be_read(shelves, filled, monkeypatch) -> None:
    """A sentence, for both."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for where in ("reading.PageFile", "snapshots.shutil.disk_usage"):
        with monkeypatch.context() as patch:
            (shelves.state_dir / f"{DATABASE}-wal").write_bytes(b"x" * 40 if "disk" in where else b"")
            patch.setattr(f"gateway.store.{where}", refuse)
            with pytest.raises(StoreError, match="Permission denied; look at it as the user that runs the gateway"):
                verify(shelves.state_dir)
                export(shelves.state_dir, shelves.state_dir / "out", attributes=(), progress=progress)


def test_a_statement_that_never_ends_is_ended(tmp_path) -> None:
    """Each has its own allowance, and what is more than that counts as damage."""
    connection = sqlite3.connect(f"file:{tmp_path / 'a.db'}?mode=rwc", uri=True, factory=Guarded)
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="interrupted") as caught:
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            ).fetchall()
        assert is_damage(caught.value)
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(1,)] * 3)
    with pytest.raises(sqlite3.Error, match="too big"):
        connection.execute("SELECT zeroblob(40000000)").fetchall()
    connection.close()


async def test_leasing_from_a_table_that_leads_in_circles(shelves, filled) -> None:
    """Where none of its rows is wanted, the search would go on for ever."""
    store = await shelves.open()
    reader = await open_reader(shelves.state_dir / DATABASE)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        await reader.execute_fetchall(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0"
        )
    await reader.close()
    assert store.status()["accepted"]


async def test_rows_that_go_on_in_circles_are_read_only_so_often(shelves, filled) -> None:
    """A page that is its own continuation is nobody's."""
    store = await shelves.open()
    await shelves.put_noise(store, 20_000)
    await shelves.close()
    path = shelves.state_dir / DATABASE
    with PageFile(path) as pages:
        pages._pages_left = 3
        rows = [row for number in pages.written_pages() for row in pages.rows_at(number)]
        assert max((len(values[-1]) for _, values in rows if isinstance(values[-1], bytes)), default=0) < 20_000
        assert rows


async def test_a_damaged_shelf_that_cannot_be_written_has_no_state(shelves, filled) -> None:
    """Without the accounts nothing is sent: nobody could say what was."""
    change(shelves.state_dir, "UPDATE shelf SET body = 'text' WHERE id = ?", values=(STATE_ID,))
    with pytest.raises(Exception, match="the state row is gone"):
        await Frozen.open(shelves.state_dir / DATABASE)


def test_a_state_is_what_it_says() -> None:
    """The bounds let everything pass that is ours."""
    assert State().is_sane
    assert decode_state(encode_state(State(sequence=2**50, accepted=2**60))).accepted == 2**60
