"""SQLite's own files, read by hand, say the same as through SQLite; damaged ones never end in an error."""

from __future__ import annotations

import random
import sqlite3

import pytest

from gateway.store.pages import children_of, heads_of, read_log, rows_of

PAGE = 512


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A database and its log with rows of all sizes and kinds, some deleted; and the rows."""
    path = tmp_path_factory.mktemp("pages") / "a.db"
    rng = random.Random(5)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)")
    rows = {}
    for number in [-5, *range(1, 120), 2**62]:
        values = (
            rng.choice([0, 1, -5, 300, 2**20, 2**40, 2**60, None, "text"]),
            rng.random(),
            rng.randbytes(rng.choice([3, 100, 440, 480, 2000])),
        )
        rows[number] = values
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (number, *values))
        if number == 60:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(50, 75):
        connection.execute("DELETE FROM t WHERE id = ?", (number,))
        del rows[number]
    database, log = path.read_bytes(), path.with_name("a.db-wal").read_bytes()
    connection.close()
    return database, log, rows


def read(database: bytes, log_data: bytes) -> dict[int, tuple]:
    log = read_log(log_data, page_bytes=PAGE)
    pages = max(len(database) // PAGE, *log.newest, 1)

    def page(number: int) -> bytes | None:
        if number in log.newest:
            return log.page(log.newest[number])
        data = database[(number - 1) * PAGE : number * PAGE] if number > 0 else b""
        return data if len(data) == PAGE else None

    found = {}
    for number in range(1, min(pages, 10_000) + 1):
        if (data := page(number)) is not None:
            found |= {row_id: values[1:] for row_id, values in rows_of(data, number, page) if len(values) == 4}
    return found


def test_all_rows_are_found(files) -> None:
    """Every kind of value, on a page or over many, in the file or in the log."""
    database, log, rows = files
    assert read(database, log) == rows
    assert not read_log(log, page_bytes=4096).is_broken


def test_a_tree_leads_to_its_leaves(tmp_path) -> None:
    """Each child with the last id in it, in order, the ids below zero too; a leaf has none."""
    path = tmp_path / "tree.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    ids = [*range(-20, 0), *range(1, 40), 2**40]
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(number, bytes(90)) for number in ids])
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema").fetchall()
    connection.close()
    data = path.read_bytes()

    def page(number: int) -> bytes:
        return data[(number - 1) * PAGE : number * PAGE]

    children = children_of(page(root), root)
    found = [[row_id for row_id, _ in rows_of(page(child), child, page)] for child, _ in children]
    assert [row_id for rows in found for row_id in rows] == ids
    assert [last for _, last in children] == [*(rows[-1] for rows in found[:-1]), None]
    assert children_of(page(children[0][0]), children[0][0]) == []
    assert children_of(b"", 2) == []


def test_a_damaged_frame_is_left_out_and_said(files) -> None:
    """What comes behind it is read all the same."""
    _, log, _ = files
    whole = read_log(log, page_bytes=PAGE)
    damaged = bytearray(log)
    damaged[len(log) // 2] ^= 1
    found = read_log(bytes(damaged), page_bytes=PAGE)
    assert found.is_broken
    assert len(found.frames) in {len(whole.frames) - 1, len(whole.frames) - 2}


def test_a_torn_last_transaction_is_no_damage(files) -> None:
    """It was never synced, so it was never promised."""
    _, log, _ = files
    for end in (len(log) - 1, len(log) - PAGE, len(log) - 3 * PAGE):
        assert not read_log(log[:end], page_bytes=PAGE).is_broken
    torn = log[: -PAGE - 24] + bytes(PAGE + 24)
    assert not read_log(torn, page_bytes=PAGE).is_broken


def test_a_damaged_end_of_the_last_but_one_transaction_is_damage(files) -> None:
    """The last one could only begin when that one was synced, so this is no torn tail."""
    _, log, _ = files
    whole = read_log(log, page_bytes=PAGE)
    frame = PAGE + 24
    ends = [k for k in range((len(log) - 32) // frame) if int.from_bytes(log[36 + k * frame : 40 + k * frame], "big")]
    damaged = bytearray(log)
    damaged[32 + ends[-2] * frame + 100] ^= 1
    assert len(ends) > 2
    assert not whole.is_broken
    assert read_log(bytes(damaged), page_bytes=PAGE).is_broken


@pytest.mark.parametrize(
    ("is_checked", "is_same", "is_taken"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_of_two_frames_that_say_the_same_the_one_that_can_be_checked_is_believed(
    files, is_checked, is_same, is_taken
) -> None:
    """Where neither can be, since the one before is damaged too, they are one as long as they are the same."""
    _, log, _ = files
    whole, frame = read_log(log, page_bytes=PAGE), PAGE + 24
    places = [place for place in sorted(whole.newest.values()) if 20 * frame < place < len(log) - 20 * frame]
    at = places[len(places) // 2] - 24
    number = int.from_bytes(log[at : at + 4], "big")
    damaged = bytearray(log)
    copy = at + 8 * frame
    damaged[copy : copy + frame] = log[at : at + frame]
    if not is_checked:
        damaged[at - frame : at - frame + 24] = bytes(24)
    if not is_same:
        damaged[copy + 100] ^= 1
    found = read_log(bytes(damaged), page_bytes=PAGE)
    assert found.broken.get(number) == (at + 24 if is_taken else None)
    assert (found.newest.get(number) == at + 24) == is_checked
    assert found.loose[copy + 24] == number
    assert found.unknown == (2 if not is_same else 1) + (not is_checked)


def test_a_log_without_a_header_is_damage_and_readable(files) -> None:
    """Page size and salts are taken from elsewhere."""
    _, log, _ = files
    found = read_log(bytes(32) + log[32:], page_bytes=PAGE)
    assert found.is_broken
    assert found.newest == read_log(log, page_bytes=PAGE).newest


@pytest.mark.parametrize(
    ("data", "broken"), [(b"", False), (bytes(10), False), (b"x" * 10, True), (b"x" * 2000, True), (bytes(2000), False)]
)
def test_odd_logs(data, broken) -> None:
    """Nothing, zeros, half a header, garbage."""
    log = read_log(data, page_bytes=PAGE)
    assert (log.is_broken, log.newest) == (broken, {})


def test_old_generations_of_a_log_are_left_out(tmp_path) -> None:
    """After a checkpoint the log is written from its start; what stands behind is of yesterday."""
    path = tmp_path / "b.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    for number in range(50):
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, bytes(100)))
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    connection.execute("INSERT INTO t VALUES (99, 1)")
    log = read_log((tmp_path / "b.db-wal").read_bytes(), page_bytes=PAGE)
    assert len(log.frames) < 5
    assert not log.is_broken
    connection.close()


@pytest.mark.parametrize("seed", range(150))
def test_damage_never_ends_in_an_error(files, seed) -> None:
    """Whatever the bytes are: some rows, or none."""
    rng = random.Random(seed)
    database, log, _ = (bytearray(files[0]), bytearray(files[1]), None)
    for data in (database, log):
        for _ in range(rng.randint(1, 30)):
            start = rng.randrange(len(data))
            size = rng.choice([1, 1, 2, 4, 64])
            data[start : start + size] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
    read(bytes(database), bytes(log) if seed % 2 else b"")


def test_a_number_that_is_cut_off() -> None:
    """A cell at the very end of its page is no row."""
    leaf = bytearray(PAGE)
    leaf[0], leaf[4], leaf[8:10] = 0x0D, 1, (PAGE - 1).to_bytes(2, "big")
    leaf[PAGE - 1] = 0x81
    assert list(rows_of(bytes(leaf), 3, lambda _: None)) == []


def test_a_damaged_row_has_no_head(tmp_path) -> None:
    """One whose record is longer than itself, one that is empty, one that goes on nowhere: the others are told."""
    path = tmp_path / "heads.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [(n, 1000 + n, bytes(20 + n)) for n in range(1, 6)])
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema").fetchall()
    connection.close()
    page = bytearray(path.read_bytes()[(root - 1) * PAGE : root * PAGE])
    heads = list(heads_of(bytes(page), lambda _: None))
    assert [head[:3] for head in heads] == [(n, (None, 1000 + n), 20 + n) for n in range(1, 6)]
    # A cell: the size of its record, the row's id, the record, which begins with the size of its own header.
    page[heads[1].offset + 2] = 0x7F
    page[heads[2].offset] = 0
    page[heads[4].offset + 2] = 0
    assert list(heads_of(bytes(page), lambda _: None)) == [heads[0], heads[3]]


def test_chains_that_run_in_circles_end() -> None:
    """Of overflow pages."""
    page = bytearray(PAGE)
    page[:4] = (2).to_bytes(4, "big")
    leaf = bytearray(PAGE)
    leaf[0], leaf[4], leaf[8:10] = 0x0D, 1, (100).to_bytes(2, "big")
    leaf[100:104] = bytes([0x87, 0x68, 1, 2])  # 1000 bytes, row 1, a record of one column
    rows = list(rows_of(bytes(leaf), 3, lambda _: bytes(page)))
    assert len(rows) <= 1
    assert list(rows_of(bytes(leaf), 3, lambda _: None)) == []
