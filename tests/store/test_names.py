"""One bad block of the disk costs no name: what both tables lose is in a file of its own, if that is theirs."""

from __future__ import annotations

import shutil
import sqlite3

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.contracts import Priority
from gateway.store.accounts import State, decode_state
from gateway.store.names import (
    ANCHOR,
    DAMAGED,
    FORGOTTEN,
    HEAD_BYTES,
    HEADER,
    NAME,
    NAMES,
    TRIES_MAX,
    VERSION,
    compare,
    encode_record,
    names_beside,
    note_on,
    read_records,
    records_in,
    spare_names,
)
from gateway.store.peeking import peek
from gateway.store.reading import Held, verify
from gateway.store.records import STATE_ID
from gateway.store.segments import decode_metrics
from gateway.store.series import LOST_NAME, encode_series

DATABASE = "tidegate.db"
BLOCK_BYTES = 4096
ID = bytes(range(8))


def series_of(number: int) -> Series:
    return Series((("device.id", f"d{number}"), ("site", "north")), f"m{number}")


async def fill(store, clock, *, series: int, rounds: int, first: int = 0, is_growing: bool = False) -> None:
    """Append readings whose value says of which series they are; with `is_growing` these come one after the other."""
    for known in range(1, series) if is_growing else ():
        await fill(store, clock, series=1, rounds=1, first=first + known)
    for _ in range(rounds):
        some = [
            Batch.of(store.resolve(series_of(n)), clock.wall_ns(), np.array([n], np.int64))
            for n in range(first, first + series)
        ]
        await store.append([(Priority.NORMAL, batch) for batch in some])


async def names_right(shelves, state_dir, **more) -> int:
    """Open, and check that each reading that is held has its name; return how many there are."""
    store = await shelves.open(state_dir=state_dir, max_series=5000, **more)
    count = 0
    while (lease := await shelves.lease(store)) is not None:
        for segment in lease.segments:
            batch = decode_metrics(segment.body)
            for number, value in zip(batch.series.tolist(), batch.bits.tolist(), strict=True):
                assert store.series(number) == series_of(value), (number, value)
                count += 1
        store.ack(lease)
    shelves.check(store)
    await shelves.close(store)
    return count


def spoil(path, block: int) -> None:
    """Fill a block with what no file holds."""
    with path.open("r+b") as file:
        end = path.stat().st_size
        file.seek(block * BLOCK_BYTES)
        file.write((b"\xde\xad" * BLOCK_BYTES)[: min(BLOCK_BYTES, end - block * BLOCK_BYTES)])


def lose_tables(state_dir, *, where: str = "1") -> None:
    connection = sqlite3.connect(state_dir / DATABASE)
    for table in ("series", "series_copy"):
        connection.execute(f"UPDATE {table} SET body = x'00000000' WHERE {where}")
    connection.commit()
    connection.close()


def state_of(state_dir) -> State:
    connection = sqlite3.connect(state_dir / DATABASE)
    ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchall()
    connection.close()
    return decode_state(body)


def records_of(state_dir, kind: int) -> list[int]:
    return [record.number for record in read_records(state_dir) if record.kind == kind]


@pytest.fixture
async def filled(shelves):
    """A shelf of five series, closed in order."""
    store = await shelves.open()
    await fill(store, shelves.clock, series=5, rounds=4)
    await shelves.close()
    return shelves.state_dir


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("is_growing", [False, True])
@pytest.mark.parametrize(("series", "rounds"), [(5, 3), (5, 40), (30, 12), (120, 30)])
async def test_one_bad_block_costs_no_name(shelves, tmp_path, series, rounds, is_growing, dies):
    """Whichever block of the database or its log it is, every reading that is salvaged has its name."""
    store = await shelves.open(max_series=5000)
    await fill(store, shelves.clock, series=series, rounds=rounds, is_growing=is_growing)
    whole = shelves.state_dir
    if dies:
        whole = tmp_path / "died"
        shutil.copytree(shelves.state_dir, whole)
    await shelves.close()
    counts = []
    for name in (DATABASE, f"{DATABASE}-wal"):
        size = (whole / name).stat().st_size if (whole / name).exists() else 0
        for block in range(-(-size // BLOCK_BYTES)):
            copy = tmp_path / f"{name}-{block}"
            shutil.copytree(whole, copy)
            spoil(copy / name, block)
            counts.append(await names_right(shelves, copy))
            shutil.rmtree(copy)
    assert len(counts) > 1
    assert max(counts) > series * rounds // 2


async def test_names_are_needed_in_that(shelves, tmp_path):
    """Without the file, one of the blocks of a middle store takes both copies of a name: the test above can fail."""
    store = await shelves.open(max_series=5000)
    await fill(store, shelves.clock, series=30, rounds=12, is_growing=True)
    await shelves.close()
    failed = 0
    for block in range(-(-(shelves.state_dir / DATABASE).stat().st_size // BLOCK_BYTES)):
        copy = tmp_path / f"{block}"
        shutil.copytree(shelves.state_dir, copy)
        (copy / NAMES).unlink()
        spoil(copy / DATABASE, block)
        try:
            await names_right(shelves, copy)
        except AssertionError:
            failed += 1
            await shelves.close()
    assert failed


async def test_damaged_rows_are_read_from_the_file(shelves, filled):
    """Rows that are damaged in both tables come from the file, and stand in the tables again afterwards."""
    lose_tables(filled)
    assert await names_right(shelves, filled) == 20
    assert verify(filled).problems == []
    (filled / NAMES).unlink()
    store = await shelves.open()
    assert store.series(1) == series_of(0)


async def test_rows_that_are_gone_are_read_from_the_file(shelves, filled):
    """A page of an earlier time lacks rows and is not damaged: they come back all the same."""
    connection = sqlite3.connect(filled / DATABASE)
    connection.executescript("DELETE FROM series WHERE number > 2; DELETE FROM series_copy WHERE number > 2")
    connection.close()
    report = verify(filled)
    assert report.problems == []
    assert "3 of the series' names are only left in tidegate.series" in report.notes[0]
    assert peek(filled, lambda tables: tables.series(4)) == series_of(3)
    lost = peek(filled, lambda tables: [tables.series(number) for number in (40, 41)])
    assert [series.name for series in lost] == [LOST_NAME] * 2
    with Held(filled) as held:
        assert held.series(4) == series_of(3)
    store = await shelves.open()
    assert "the names of 3 series were only left in tidegate.series" in store.events[0]
    await shelves.close()
    assert await names_right(shelves, filled) == 20
    assert verify(filled).notes == []


async def test_a_file_of_another_database_names_nothing(shelves, filled, tmp_path):
    """With another's file beside it a series that is lost stays lost, and the file is made anew."""
    other = tmp_path / "other"
    store = await shelves.open(state_dir=other)
    await fill(store, shelves.clock, series=5, rounds=1, first=50)
    await shelves.close()
    (other / NAMES).replace(filled / NAMES)
    assert "that of another database" in verify(filled).notes[0]
    lose_tables(filled, where="number = 2")
    with Held(filled) as held:
        assert held.series(2).name == LOST_NAME
    store = await shelves.open()
    assert "salvaged" in store.events[0]
    assert store.series(2).name == LOST_NAME
    assert store.series(1) == series_of(0)
    await shelves.close()
    assert sorted(records_of(filled, NAME)) == [1, 3, 4, 5]
    assert "nobody knows its series [2]" in verify(filled).problems[0]


async def test_a_new_database_does_not_take_the_names_of_the_old(shelves, filled):
    """Where the database was deleted its file is made anew, under another id."""
    before = state_of(filled).names_id
    (filled / DATABASE).unlink()
    (filled / f"{DATABASE}.reached").unlink()
    store = await shelves.open()
    await fill(store, shelves.clock, series=2, rounds=1, first=70)
    await shelves.close()
    assert records_of(filled, NAME) == [1, 2]
    assert state_of(filled).names_id not in {before, b""}
    lose_tables(filled)
    store = await shelves.open()
    assert store.series(1) == series_of(70)
    assert store.series(3).name == LOST_NAME


async def test_numbers_of_a_newer_file_are_not_given_again(shelves, filled, tmp_path):
    """An older copy of the database goes on with numbers that no branch ever gave: no name is taken for another."""
    older = tmp_path / "older.db"
    shutil.copy(filled / DATABASE, older)
    store = await shelves.open()
    await fill(store, shelves.clock, series=5, rounds=1, first=20)
    await shelves.close()
    shutil.copy(older, filled / DATABASE)
    assert verify(filled).notes == []
    with Held(filled) as held:
        assert held.series(7).name == LOST_NAME
    store = await shelves.open()
    assert store.resolve(series_of(60)) > 10
    # What was given since names nothing here, and does not come back with the next start.
    assert max(records_of(filled, NAME)) == 5
    await fill(store, shelves.clock, series=3, rounds=1, first=60)
    await shelves.close()
    lose_tables(filled)
    assert await names_right(shelves, filled) == 23


@pytest.mark.parametrize("is_theirs", [True, False])
async def test_where_the_state_is_lost_too_a_segment_tells_whose_file_it_is(shelves, filled, tmp_path, is_theirs):
    """With no id left, the hash of a segment that is held ties the file, and nothing ties another's."""
    if not is_theirs:
        other = tmp_path / "other"
        store = await shelves.open(state_dir=other)
        await fill(store, shelves.clock, series=5, rounds=7, first=50)
        await shelves.close()
        (other / NAMES).replace(filled / NAMES)
    lose_tables(filled)
    connection = sqlite3.connect(filled / DATABASE)
    connection.execute("UPDATE shelf SET body = x'00' WHERE id = ?", (STATE_ID,))
    connection.commit()
    connection.close()
    store = await shelves.open()
    assert "counters are lost too" in store.events[0]
    names = [store.series(number).name for number in range(1, 6)]
    assert names == ([f"m{n}" for n in range(5)] if is_theirs else [LOST_NAME] * 5)
    await shelves.close()
    assert len(records_of(filled, NAME)) == 5 * is_theirs


async def test_what_was_forgotten_since_an_older_copy_is_written_again(shelves, filled):
    """The copy has the name that the file has written off: the file has it again after the start."""
    with (filled / NAMES).open("ab") as file:
        file.write(encode_record(FORGOTTEN, 2))
    await shelves.open()
    await shelves.close()
    lose_tables(filled)
    assert await names_right(shelves, filled) == 20


async def test_no_room_for_names_keeps_what_was_salvaged(shelves, filled, monkeypatch):
    """Where the disk takes no more, the segments and the accounts are in the new database all the same."""

    def full(*_: object, **__: object):
        yield 9, encode_series(series_of(9))
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("gateway.store.salvage.names_beside", full)
    with (filled / DATABASE).open("r+b") as file:
        file.write(b"garbage")
    store = await shelves.open()
    assert "20 readings were salvaged" in store.events[0]
    assert store.series(9).name == LOST_NAME
    assert len(await shelves.drain(store)) == 20


@pytest.mark.parametrize("cut", [0, 1, 30, 60, 150])
async def test_a_file_that_was_cut_is_mended(shelves, filled, cut):
    """Of a file that ends early the start adds what is missing."""
    data = (filled / NAMES).read_bytes()
    (filled / NAMES).write_bytes(data[:cut])
    report = verify(filled)
    assert len(report.notes) == 1
    assert report.problems == []
    await shelves.open()
    await shelves.close()
    assert verify(filled).notes == []
    lose_tables(filled)
    assert await names_right(shelves, filled) == 20


async def test_a_file_that_is_gone_is_made_again(shelves, filled):
    """A missing file is a note, and there again after a start."""
    (filled / NAMES).unlink()
    assert "is missing" in verify(filled).notes[0]
    await shelves.open()
    await shelves.close()
    lose_tables(filled)
    assert await names_right(shelves, filled) == 20


async def test_flipped_bits_cost_one_record(shelves, filled):
    """Wherever a bit is flipped, no name is wrong, at most one is lost, and the next start mends it."""
    data = (filled / NAMES).read_bytes()
    whole = {number: body for kind, number, body in read_records(filled) if kind == NAME}
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        (filled / NAMES).write_bytes(changed)
        found = {number: body for kind, number, body in read_records(filled) if kind == NAME}
        assert found.items() <= whole.items()
        assert len(found) >= len(whole) - 1
        assert compare(filled, sorted(whole.items()), names_id=state_of(filled).names_id, before=6).note()
    assert "damaged in 1 places" in verify(filled).notes[0] or "another database" in verify(filled).notes[0]
    await shelves.open()
    await shelves.close()
    assert verify(filled).notes == []
    assert {number: body for kind, number, body in read_records(filled) if kind == NAME} == whole


async def test_an_earlier_version_had_no_file(shelves, filled):
    """A state row without an id gets one with the first commit, and no file is believed before."""
    state = state_of(filled)
    import msgspec

    from gateway.store.accounts import encode_state

    connection = sqlite3.connect(filled / DATABASE)
    old = encode_state(msgspec.structs.replace(state, names_id=b""))
    connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (old, STATE_ID))
    connection.commit()
    connection.close()
    assert verify(filled).notes == []
    assert spare_names(filled, [], State(), hash_of=lambda _: None) == {}
    await shelves.open()
    await shelves.close()
    assert len(state_of(filled).names_id) == 8
    lose_tables(filled)
    assert await names_right(shelves, filled) == 20


def test_a_hostile_file_is_left_soon():
    """Where records only seem to begin, reading ends."""
    data = b"\xf5N\x01\xff\x00\x00\x00" * 100_000
    tries = []
    assert [record.kind for record in records_in(lambda at: data[at : at + 70_000])] == [DAMAGED]
    assert not tries
    assert TRIES_MAX < 100_000


def test_records_are_found_whatever_they_are_read_in():
    """The pieces in which a file is read make no difference."""
    data = b"".join(
        [
            encode_record(HEADER, VERSION, ID),
            b"\xf5",
            encode_record(NAME, 3, b"abc"),
            b"\0" * 9,
            encode_record(FORGOTTEN, 3),
        ]
    )
    expected = [(HEADER, 1), (DAMAGED, 0), (NAME, 3), (DAMAGED, 0), (FORGOTTEN, 3)]
    for size in (1, 2, 3, 7, 100):
        records = records_in(lambda at, size=size: data[at : at + size])
        assert [(record.kind, record.number) for record in records] == expected
    assert [record.kind for record in records_in(lambda at: data[:-1][at:])][-1] == DAMAGED
    assert len(encode_record(FORGOTTEN, 3)) == HEAD_BYTES


def write(state_dir, *records: bytes) -> None:
    (state_dir / NAMES).write_bytes(b"".join([encode_record(HEADER, VERSION, ID), *records]))


def test_a_file_that_contradicts_the_tables_is_not_theirs(tmp_path):
    """Who calls one series otherwise may do so with all."""
    one, two, other = (encode_series(series_of(n)) for n in (1, 2, 3))
    write(tmp_path, encode_record(NAME, 1, other), encode_record(NAME, 2, two))
    found = compare(tmp_path, [(1, one)], names_id=ID, before=9)
    assert not found.is_theirs
    assert found.found == {}
    assert list(names_beside(tmp_path, names_id=ID, body_of={1: one}.get, is_there=lambda *_: True)) == []


def test_an_anchor_ties_a_file_where_no_state_is_left(tmp_path):
    """A segment that is there proves whose names these are; the hash before the first segment is everybody's."""
    two = encode_series(series_of(2))
    write(tmp_path, encode_record(NAME, 2, two), encode_record(NAME, 4, two), encode_record(FORGOTTEN, 4))
    more = {"names_id": b"", "body_of": {}.get}
    assert list(names_beside(tmp_path, is_there=lambda *_: True, **more)) == []
    with (tmp_path / NAMES).open("ab") as file:
        file.write(encode_record(ANCHOR, 0, bytes(16)))
    assert list(names_beside(tmp_path, is_there=lambda *_: True, **more)) == []
    with (tmp_path / NAMES).open("ab") as file:
        file.write(encode_record(ANCHOR, 7, b"h" * 16))
    assert list(names_beside(tmp_path, is_there=lambda *_: False, **more)) == []
    assert list(names_beside(tmp_path, is_there=lambda *at: at == (7, b"h" * 16), **more)) == [(2, two)]


def test_what_is_no_name_is_passed_over(tmp_path):
    """A record may be whole and hold no name, or a number that none has."""
    write(tmp_path, encode_record(NAME, 2, b"nonsense"), encode_record(NAME, 0, b""))
    assert list(names_beside(tmp_path, names_id=ID, body_of={}.get, is_there=lambda *_: False)) == []
    assert compare(tmp_path, [], names_id=ID, before=9).damaged == 1


def test_a_link_or_a_folder_is_no_file_of_names(tmp_path):
    """Nothing is read through a link."""
    (tmp_path / NAMES).mkdir()
    assert list(read_records(tmp_path)) == []
    (tmp_path / NAMES).rmdir()
    (tmp_path / NAMES).symlink_to("/dev/zero")
    assert list(read_records(tmp_path)) == []
    assert "is missing" in note_on(tmp_path, [], State(names_id=ID))


def test_a_block_that_cannot_be_read_costs_itself(tmp_path, monkeypatch):
    """A disk that gives an error for one block gives the others."""
    body = encode_series(series_of(1))
    write(tmp_path, *(encode_record(NAME, number, body) for number in range(1, 400)))
    import os

    pread = os.pread

    def fail(file: int, count: int, offset: int) -> bytes:
        if offset < 8192 and offset + count > 4096:
            raise OSError(5, "Input/output error")
        return pread(file, count, offset)

    monkeypatch.setattr("os.pread", fail)
    numbers = records_of(tmp_path, NAME)
    assert 270 < len(numbers) < 399
    assert numbers[0] == 1
    assert numbers[-1] == 399


@pytest.fixture
async def branches(shelves, filled, tmp_path):
    """Two copies of one state directory that have gone their own ways, as of a card that was put back or cloned."""
    other = tmp_path / "other"
    shutil.copytree(filled, other)
    for state_dir, first in ((filled, 20), (other, 50)):
        store = await shelves.open(state_dir=state_dir)
        await fill(store, shelves.clock, series=5, rounds=3, first=first)
        await shelves.close(store)
    return filled, other


@pytest.mark.parametrize("way", ["tables", "page"])
async def test_a_file_of_another_branch_names_nothing(shelves, branches, way):
    """It has the id of the tables and other names under their numbers: what they lost stays lost, and takes no other."""
    state_dir, other = branches
    (other / NAMES).replace(state_dir / NAMES)
    lose_tables(state_dir, where="number > 5")
    if way == "page":
        with (state_dir / DATABASE).open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 16)
    else:
        with Held(state_dir) as held:
            assert held.series(6).name == LOST_NAME
        assert peek(state_dir, lambda shelf: shelf.series(6)).name == LOST_NAME
    store = await shelves.open(state_dir=state_dir)
    assert [store.series(number).name for number in (5, 6, 10)] == ["m4", LOST_NAME, LOST_NAME]


async def test_a_file_of_the_same_branch_names_what_is_lost(shelves, branches):
    """However the database has ended."""
    state_dir, _ = branches
    lose_tables(state_dir, where="number > 5")
    with Held(state_dir) as held:
        assert held.series(6) == series_of(20)
    assert await names_right(shelves, state_dir) == 35


def test_what_is_forgotten_while_somebody_looks_is_not_lacking(tmp_path):
    """The tables were read before it: the file is right, and the next start has nothing to mend."""
    rows = [(number, encode_series(series_of(number))) for number in (1, 2, 3)]
    write(tmp_path, *(encode_record(NAME, *row) for row in rows[:2]), encode_record(FORGOTTEN, 2))
    state = State(names_id=ID, series_next=4)
    assert "lacks 1 of them" in note_on(tmp_path, rows, state)
    assert note_on(tmp_path, rows[:2], state) == ""
    assert compare(tmp_path, rows, names_id=ID, before=4).missing == [2, 3]
