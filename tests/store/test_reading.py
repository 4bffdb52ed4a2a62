"""Looking from outside: everything that is wrong is named, nothing is changed, and nobody is disturbed."""

from __future__ import annotations

import errno
import shutil
import sqlite3

import pytest

from gateway.core.batch import Batch
from gateway.core.contracts import Priority, Signal
from gateway.store import reading
from gateway.store.connection import DATABASE, PAGE_BYTES
from gateway.store.database import Loss, StoreError
from gateway.store.names import NAMES
from gateway.store.reading import (
    PROBLEMS_MAX,
    ChangedError,
    DamagedShelfError,
    VerifyReport,
    look_at_held,
    read_held,
    verify,
)
from gateway.store.records import SEQUENCE_BITS, STATE_ID
from gateway.store.segments import decode_metrics, encode_metrics, read_header


@pytest.fixture
async def filled(shelves):
    """Twenty segments of three classes and a loss."""
    store = await shelves.open()
    held = []
    for number in range(20):
        held += await shelves.put(store, 2, priority=Priority(number % 3))
    await store.append([], losses=[Loss("syntax", 3)], logs=shelves.logs(store, "5"))
    await shelves.close()
    return held


def change(state_dir, sql: str, *values: object) -> None:
    connection = sqlite3.connect(state_dir / DATABASE)
    connection.execute(sql, values)
    connection.commit()
    connection.close()


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_body(state_dir, sequence: int) -> bytes:
    with read_held(state_dir) as held:
        return next(segment.body for segment in held if segment.sequence == sequence)


async def test_a_good_shelf(shelves, filled) -> None:
    """All is well, and not a byte is touched."""
    before = bytes_of(shelves.state_dir)
    report = verify(shelves.state_dir)
    assert report.summary() == "21 segments with 41 readings of 2 series: all is well"
    assert report.as_dict()["uplinks"] == {"cloud": {"delivered": 0, "held": 41, "ledger": 3}}
    assert report.accepted == 44
    assert bytes_of(shelves.state_dir) == before


async def test_segments_come_in_order(shelves, filled, numbers) -> None:
    """Of all classes together, with their series and clocks."""
    with read_held(shelves.state_dir) as held:
        segments = list(held)
        assert [segment.sequence for segment in segments] == list(range(1, 22))
        assert len(held) == 21
        assert held.series(1).name == "m"
        assert held.series(99).name == "tidegate.lost_series"
        assert held.timeline.current.uuid == "boot-1"


async def test_otlp_messages_are_verified_as_readings(shelves) -> None:
    """And read back, in any order of signals."""
    store = await shelves.open()
    await shelves.put(store, 2, records=[(Priority.BULK, shelves.messages(b"one", b"two", count=4))])
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.problems, report.segments, report.readings) == ([], 2, 10)
    with read_held(shelves.state_dir) as held:
        assert [(segment.signal, segment.readings) for segment in held] == [(Signal.METRICS, 2), (Signal.TRACES, 8)]


async def test_while_a_gateway_runs(shelves) -> None:
    """What is committed is seen, what is leased too, and the gateway is not held up."""
    store = await shelves.open()
    await shelves.put(store, 3)
    await shelves.lease(store)
    report = verify(shelves.state_dir)
    assert (report.readings, report.problems) == (3, [])
    with read_held(shelves.state_dir) as held:
        await shelves.put(store, 3)
        assert len(list(held)) == 1
    shelves.check(store)


async def test_after_a_crash(shelves, tmp_path) -> None:
    """The log is read, and the files stay as they were found."""
    store = await shelves.open()
    await shelves.put(store, 3)
    copy = tmp_path / "copy"
    shutil.copytree(shelves.state_dir, copy)
    before = bytes_of(copy)
    assert verify(copy).readings == 3
    assert bytes_of(copy) == before


async def test_a_new_shelf_is_well(shelves) -> None:
    """Nothing is held yet, by nobody."""
    await shelves.open(uplinks=())
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.problems, report.uplinks) == ([], {})


def test_no_shelf_is_an_error(tmp_path) -> None:
    """Both say where they looked."""
    for look in (verify, read_held):
        with pytest.raises(StoreError, match="is this the gateway's state_dir"):
            look(tmp_path)


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("UPDATE shelf SET body = substr(body, 1, 80) WHERE id < {state} AND readings = 1", "segment 21: "),
        ("UPDATE shelf SET readings = 9 WHERE readings = 1", "its row and its header disagree"),
        ("UPDATE shelf SET boot = 9 WHERE readings = 1", "its row and its header disagree"),
        ("UPDATE shelf SET done = -1 WHERE readings = 1", "cloud: 41 readings should be held, 40 are"),
        ("DELETE FROM shelf WHERE readings = 1", "cloud: 41 readings should be held, 40 are"),
        (
            f"UPDATE shelf SET id = id + {1 << SEQUENCE_BITS} WHERE id >> {SEQUENCE_BITS} = 8",
            "cloud: by class [15, 14, 12] readings should be held, [1, 28, 12] are",
        ),
        ("DELETE FROM ledger", "cloud: accepted - delivered - held - ledger - left_out is 3, not 0"),
        ("UPDATE series SET body = x'00' WHERE number = 1", "series 1 in series: a series' checksum does not match"),
        (
            "UPDATE shelf SET body = x'00' WHERE id = {state}",
            "is damaged (the state row's checksum does not match): 21",
        ),
        ("DROP TABLE series", "is damaged (its tables are not those of a store: series): 21 segments with 41 readings"),
    ],
)
async def test_what_is_wrong_is_named(shelves, filled, sql, sentence) -> None:
    """Each kind of damage in a sentence of its own."""
    change(shelves.state_dir, sql.format(state=STATE_ID))
    report = verify(shelves.state_dir)
    assert any(sentence in problem for problem in report.problems), report.problems
    assert "problem" in report.summary()


async def test_a_swapped_segment_breaks_the_chain(shelves, filled) -> None:
    """Each carries the hash of the one before, and the state that of the last."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    store = await shelves.open(state_dir=shelves.state_dir.parent / "other")
    for _ in range(22):
        await shelves.put(store, 2)
    await shelves.close()
    other = sqlite3.connect(shelves.state_dir.parent / "other" / DATABASE)
    for sequence in (4, 21):
        (body,) = other.execute(
            "SELECT body FROM shelf WHERE id & 1023 = ? AND id < ?", (sequence, STATE_ID)
        ).fetchone()
        connection.execute("UPDATE shelf SET body = ? WHERE id & 1023 = ? AND id < ?", (body, sequence, STATE_ID))
    connection.commit()
    for each in (connection, other):
        each.close()
    problems = verify(shelves.state_dir).problems
    assert any("segment 5: it does not follow segment 4" in problem for problem in problems)
    assert any("the chain breaks after segment 21" in problem for problem in problems) or any(
        "segment 21" in problem for problem in problems
    )


async def test_the_state_knows_the_hash_of_the_last_segment(shelves) -> None:
    """One that is whole, follows the one before, and says something else than was written."""
    store = await shelves.open()
    for _ in range(3):
        await shelves.put(store, 2)
    await shelves.close()
    body = read_body(shelves.state_dir, 3)
    header, batch = read_header(body), decode_metrics(body)
    forged = Batch(batch.series, batch.time_ns, batch.bits + 1, batch.flags)
    other = encode_metrics(forged, sequence=3, boot=header.boot, previous_hash=header.previous_hash)
    change(shelves.state_dir, "UPDATE shelf SET body = ? WHERE id & 1023 = 3 AND id < ?", other, STATE_ID)
    assert verify(shelves.state_dir).problems == ["the chain breaks after segment 3: the state row knows another hash"]


async def test_the_state_must_know_the_last_segment(shelves) -> None:
    """No segment may be newer than the state row."""
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.close()
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    (state,) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchone()
    connection.close()
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.close()
    change(shelves.state_dir, "UPDATE shelf SET body = ? WHERE id = ?", state, STATE_ID)
    assert any("newer than the state row" in problem for problem in verify(shelves.state_dir).problems)


async def test_an_unknown_series_is_named(shelves, filled) -> None:
    """Readings that nobody can name are no data."""
    for table in ("series", "series_copy"):
        change(shelves.state_dir, f"DELETE FROM {table} WHERE number = 1")
    (shelves.state_dir / NAMES).unlink()
    assert any("nobody knows its series [1]" in problem for problem in verify(shelves.state_dir).problems)


async def test_a_file_that_is_no_shelf(shelves, filled, tmp_path) -> None:
    """Garbage, somebody else's, or of another version."""
    path = shelves.state_dir / DATABASE
    change(shelves.state_dir, "PRAGMA user_version = 99")
    assert "not a store that this version" in verify(shelves.state_dir).problems[0]
    path.write_bytes(b"garbage" * 1000)
    assert "is damaged (this is no SQLite database): 0 segments" in verify(shelves.state_dir).problems[0]
    with pytest.raises(StoreError, match="cannot be read"):
        read_held(shelves.state_dir)


async def test_damaged_pages_end_the_look_with_a_sentence(shelves) -> None:
    """Of who wants it as it lies; the report is of what can be salvaged, and SQLite's list is one line of it."""
    store = await shelves.open()
    await shelves.put_noise(store, 20_000)
    body = (await shelves.lease(store)).segments[0].body
    await shelves.close()
    path = shelves.state_dir / DATABASE
    data = bytearray(path.read_bytes())
    at = data.index(body[9000:9050])
    data[at - at % 512 : at - at % 512 + 4] = b"\xff" * 4
    path.write_bytes(data)
    (problem,) = verify(shelves.state_dir).problems
    assert "is damaged (On tree page 2 cell 0: invalid page number -1 and 21 more)" in problem
    with read_held(shelves.state_dir) as held, pytest.raises(DamagedShelfError, match="cannot be read: .* malformed"):
        list(held)


async def test_a_damaged_shelf_is_looked_at_as_the_gateway_would_salvage_it(shelves, filled, tmp_path) -> None:
    """What is told and read is what the next start holds, and nothing is changed but by that."""
    path = shelves.state_dir / DATABASE
    data = path.read_bytes()
    where = data.index(read_body(shelves.state_dir, 9))
    page = where // PAGE_BYTES * PAGE_BYTES
    path.write_bytes(data[:page] + b"\xff" * PAGE_BYTES + data[page + PAGE_BYTES :])
    before = bytes_of(shelves.state_dir)
    report = verify(shelves.state_dir)
    assert bytes_of(shelves.state_dir) == before
    assert "is damaged (" in report.problems[0]
    assert report.problems[0].endswith("the gateway does that when it is started")
    found = look_at_held(shelves.state_dir, lambda held: [segment.sequence for segment in held])
    assert 0 < len(found) == report.segments < 21
    store = await shelves.open()
    assert store.status()["uplinks"]["cloud"]["held"] == report.readings
    await shelves.close()


async def test_a_disk_that_fails_is_no_damage(shelves, filled, monkeypatch) -> None:
    """Salvaging would fail like reading; the shelf may be whole."""

    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr("gateway.store.reading._read_series", fail)
    with pytest.raises(StoreError, match="cannot be read: disk I/O error$") as caught:
        read_held(shelves.state_dir)
    assert not isinstance(caught.value, DamagedShelfError)


async def test_a_file_of_somebody_else_is_no_damage(shelves, filled, monkeypatch) -> None:
    """Who to be is said."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gateway.store.reading.PageFile", refuse)
    with pytest.raises(StoreError, match="Permission denied; look at it as the user that runs the gateway"):
        read_held(shelves.state_dir)


async def test_what_fails_for_who_looks_at_what_can_be_salvaged_is_theirs(shelves, filled) -> None:
    """A stick that is full is not the disk of TMPDIR."""
    (shelves.state_dir / DATABASE).write_bytes(b"garbage" * 1000)

    def look(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out.part")

    with pytest.raises(OSError, match=r"out\.part"):
        look_at_held(shelves.state_dir, look)


async def test_without_room_for_what_can_be_salvaged_it_says_so(shelves, filled, monkeypatch) -> None:
    """And what to do."""
    (shelves.state_dir / DATABASE).write_bytes(b"garbage" * 1000)
    monkeypatch.setattr("tempfile.tempdir", str(shelves.state_dir / "none"))
    (problem,) = verify(shelves.state_dir).problems
    assert "is damaged (this is no SQLite database), and what can be salvaged finds no place" in problem
    assert "set TMPDIR" in problem


async def test_a_shelf_without_a_state_row(shelves, filled) -> None:
    """Nobody's account is there; before the first commit that is no problem."""
    change(shelves.state_dir, "DELETE FROM shelf WHERE id = ?", STATE_ID)
    assert any("the state row is gone" in problem for problem in verify(shelves.state_dir).problems)
    change(shelves.state_dir, "DELETE FROM shelf")
    change(shelves.state_dir, "DELETE FROM boots")
    assert verify(shelves.state_dir).problems == []


def test_a_report_has_a_bounded_number_of_problems() -> None:
    """The rest is counted."""
    report = VerifyReport("x")
    for _ in range(PROBLEMS_MAX + 5):
        report.problem("wrong")
    assert len(report.problems) == PROBLEMS_MAX
    assert report.summary().endswith("105 problems")


async def test_a_table_of_segments_that_leads_in_circles(shelves, filled, monkeypatch) -> None:
    """Each row is read once; the second time it is the end of the look."""
    with read_held(shelves.state_dir) as held:
        real = held._connection

        class Twice:
            def execute(self, *arguments):
                rows = real.execute(*arguments).fetchall()
                return iter(rows + rows)

            def close(self) -> None:
                real.close()

        held._connection = Twice()
        with pytest.raises(StoreError, match="leads in circles"):
            list(held)


async def test_sqlite_may_refuse_what_looks_well(shelves, filled, monkeypatch) -> None:
    """In a sentence all the same."""

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("gateway.store.reading.sqlite3.connect", fail)
    with pytest.raises(StoreError, match="cannot be read: unable to open"):
        read_held(shelves.state_dir)


async def test_a_damaged_log_is_a_problem(shelves, filled) -> None:
    """As the next start would say."""
    (shelves.state_dir / f"{DATABASE}-wal").write_bytes(b"x" * 50_000)
    assert any("write-ahead log is damaged" in problem for problem in verify(shelves.state_dir).problems)


async def test_a_gateway_that_comes_and_goes_while_it_is_looked_at(shelves, filled, live) -> None:
    """Pages of before and after are no shelf: what was read of them is not handed out as one."""
    with (
        pytest.raises(ChangedError, match="has written to .* while it was read; try again"),
        read_held(shelves.state_dir) as held,
    ):
        live()
        list(held)


async def test_what_a_gateway_broke_under_the_look_is_looked_at_again(shelves, filled, live) -> None:
    """Once it has stopped the shelf is as it left it."""
    lives = [live]
    seen = []

    def look(held) -> list[int]:
        rows = iter(held)
        seen.append([next(rows).sequence])
        while lives:
            lives.pop()()
        return [segment.sequence for segment in rows]

    rest = look_at_held(shelves.state_dir, look)
    assert seen == [[1], [22]]
    assert rest == list(range(23, 52))


async def test_verify_says_nothing_of_what_moved_while_it_read(shelves, filled, live, monkeypatch) -> None:
    """No damage is told of a shelf that has none."""
    lives = [live]
    check = reading._verify_accounts

    def meanwhile(*arguments) -> None:
        while lives:
            lives.pop()()
        check(*arguments)

    monkeypatch.setattr(reading, "_verify_accounts", meanwhile)
    report = verify(shelves.state_dir)
    assert (report.problems, report.segments, report.readings) == ([], 30, 210)


async def test_a_shelf_that_is_never_left_alone(shelves, filled, live) -> None:
    """After some looks it is a sentence, and for verify a problem."""
    with pytest.raises(ChangedError):
        look_at_held(shelves.state_dir, lambda _: live())


async def test_a_shelf_that_is_gone_while_it_is_looked_at(shelves, filled) -> None:
    """It is not as it was."""
    with pytest.raises(ChangedError), read_held(shelves.state_dir):
        (shelves.state_dir / DATABASE).unlink()


async def test_who_gives_up_looking_is_not_told_that_it_changed(shelves, filled, live) -> None:
    """What ends the look is what is raised."""
    with pytest.raises(KeyboardInterrupt), read_held(shelves.state_dir):
        live()
        raise KeyboardInterrupt


async def test_a_gateway_that_comes_while_it_is_opened(shelves, filled, live, monkeypatch) -> None:
    """What looks damaged then is not called so."""

    def fail(*_: object) -> None:
        live()
        raise StoreError("the state row's checksum does not match")

    monkeypatch.setattr(reading, "_read_state", fail)
    with pytest.raises(ChangedError):
        read_held(shelves.state_dir)
