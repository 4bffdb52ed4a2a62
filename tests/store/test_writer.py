"""A window's arrivals become few segments, in order, chained, with the range of their times."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, Batch, LogRecords, ResourceRecords
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store import writer
from gateway.store.connection import Guarded, Steps, open_writer
from gateway.store.drawer import Filing
from gateway.store.records import where_from
from gateway.store.segments import (
    FIRST_HASH,
    Form,
    check_link,
    decode_logs,
    decode_metrics,
    decode_records,
    read_header,
    segment_hash,
)
from gateway.store.taking import Takes, taking
from gateway.store.writer import Pending, Transaction, press, seal, time_range


def logs(*texts: bytes) -> LogRecords:
    return LogRecords(np.ones(len(texts), np.uint32), np.arange(len(texts), dtype=np.int64) + 5, texts)


def messages(*bodies: bytes, signal: Signal = Signal.TRACES, count: int = 1, time_ns: int = 5) -> ResourceRecords:
    columns = np.full(len(bodies), count, np.int64), np.full(len(bodies), time_ns, np.int64)
    return ResourceRecords(signal, *columns, bodies)


def test_otlp_messages_are_segments_of_their_own() -> None:
    """One for each class and signal, in the order in which they came; those without a clock say nothing of when."""
    pending = Pending(
        pieces=[(Priority.NORMAL, Batch.of(1, [3], np.array([1])))],
        records=[
            (Priority.NORMAL, messages(b"a", b"b")),
            (Priority.NORMAL, messages(b"c", signal=Signal.METRICS, time_ns=0)),
            (Priority.CRITICAL, messages(b"d", count=3)),
            (Priority.NORMAL, messages(b"e", time_ns=0)),
            (Priority.NORMAL, messages(b"f", time_ns=9)),
        ],
    )
    sealed = seal(pending, sequence=7, previous_hash=FIRST_HASH, boot=BootId(2), offset_ns=None)
    assert [(*where_from(new.row.id), new.row.readings, new.form) for new in sealed.segments] == [
        (Priority.NORMAL, Signal.METRICS, 7, 1, Form.COLUMNS),
        (Priority.CRITICAL, Signal.TRACES, 8, 3, Form.MESSAGES),
        (Priority.NORMAL, Signal.METRICS, 9, 1, Form.MESSAGES),
        (Priority.NORMAL, Signal.TRACES, 10, 4, Form.MESSAGES),
    ]
    assert decode_records(sealed.segments[3].body).bodies == (b"a", b"b", b"e", b"f")
    assert [(new.first_ns, new.last_ns) for new in sealed.segments] == [(3, 3), (5, 5), (0, 0), (5, 9)]
    assert sealed.series.tolist() == [1]


def test_many_otlp_messages_are_cut_by_bytes_and_by_readings(monkeypatch) -> None:
    """A segment is full where either is reached."""
    monkeypatch.setattr(writer, "SEGMENT_LOG_BYTES_MAX", 4)
    monkeypatch.setattr(writer, "SEGMENT_READINGS_MAX", 10)
    by_bytes = [part.pressed.readings for part in writer.press_apart([(Priority.BULK, messages(*[b"ab"] * 5))])]
    by_count = [part.pressed.readings for part in writer.press_apart([(Priority.BULK, messages(*[b""] * 5, count=5))])]
    assert (by_bytes, by_count) == ([2, 2, 1], [10, 10, 5])


def test_one_segment_for_each_priority_and_signal() -> None:
    """Pieces of many appends together; the chain runs through all of them."""
    pending = Pending(
        pieces=[
            (Priority.BULK, Batch.of(1, [3], np.array([1]))),
            (Priority.NORMAL, Batch.of(1, [4, 5], np.array([2, 3]))),
        ]
        * 2,
        logs=[logs(b"a"), logs(b"b")],
    )
    sealed = seal(pending, sequence=7, previous_hash=FIRST_HASH, boot=BootId(2), offset_ns=None)
    assert [where_from(new.row.id) for new in sealed.segments] == [
        (Priority.NORMAL, Signal.METRICS, 7),
        (Priority.BULK, Signal.METRICS, 8),
        (Priority.CRITICAL, Signal.LOGS, 9),
    ]
    chain = FIRST_HASH
    for new in sealed.segments:
        check_link(chain, new.body)
        chain = segment_hash(new.body)
    assert (sealed.previous_hash, sealed.sequence, sealed.readings) == (chain, 10, 8)
    assert sealed.size_bytes > sum(len(new.body) for new in sealed.segments)
    assert decode_metrics(sealed.segments[0].body).bits.tolist() == [2, 2, 3, 3]
    assert decode_logs(sealed.segments[2].body).bodies == (b"a", b"b")
    assert [(new.first_ns, new.last_ns) for new in sealed.segments] == [(4, 5), (3, 3), (5, 5)]


def test_a_transaction_that_sqlite_gave_up_is_not_rolled_back_again() -> None:
    """After some errors there is none left; the error is the caller's all the same."""

    class Gone(Guarded):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if sql == "COMMIT":
                super().execute("ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *values)

    steps = Steps()
    steps.add("CREATE TABLE t (x)", ())
    connection = Gone(":memory:", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        connection.execute(steps)
    connection.close()


async def test_a_transaction_is_all_or_nothing(tmp_path) -> None:
    """What was written before the error is undone."""
    connection = await open_writer(tmp_path / "a.db", log_bytes=1 << 20)
    twice = Filing([(1, 0, "s", "r", "m", b"", b"")] * 2, 0)
    with pytest.raises(sqlite3.IntegrityError):
        await writer.write(connection, Transaction(b"state", series=[(1, b"x")], quarantine=twice))
    assert list(await connection.execute_fetchall("SELECT * FROM series")) == []
    await connection.close()


def test_parts_may_end_where_a_batch_ends() -> None:
    """Nothing is left over."""
    batch = Batch.of(1, range(4), np.arange(4))
    assert [list(map(len, group)) for group in writer.cut([batch, batch], readings_max=4)] == [[4], [4]]


def test_nothing_pending_is_no_segment() -> None:
    """The chain stays where it is."""
    sealed = seal(Pending(), sequence=7, previous_hash=b"h" * 16, boot=BootId(2), offset_ns=None)
    assert (sealed.segments, sealed.sequence, sealed.previous_hash) == ([], 7, b"h" * 16)


def test_what_is_told_apart_shares_no_segment(monkeypatch) -> None:
    """Neither readings nor records, pressed ahead or not; nor does what is cut lose its origin."""
    monkeypatch.setattr(writer, "SEGMENT_LOG_BYTES_MAX", 3)
    some = [replace(Batch.of(1, [k], np.array([k])), origin=k % 2 * 7) for k in range(4)]
    pending = Pending(
        pieces=[(Priority.NORMAL, batch) for batch in some] + [(Priority.BULK, some[1])],
        logs=[logs(b"aa"), replace(logs(b"bb", b"cc", b"dd"), origin=7)],
    )
    full = pending.take_full(readings_max=2)
    assert [(priority, [int(batch.bits[0]) for batch in batches]) for priority, batches in full] == [
        (Priority.NORMAL, [0, 2]),
        (Priority.NORMAL, [1, 3]),
    ]
    pending.parts = [press(*full[1], None)]
    pending.pieces += [(Priority.NORMAL, batch) for batch in full[0][1]]
    takes = {4: taking(classes=["bulk"]), 8: Takes(mappings=frozenset())}
    place = {"sequence": 1, "previous_hash": FIRST_HASH, "boot": BootId(2), "offset_ns": None}
    sealed = seal(pending, **place, takes=takes)
    found = [(where_from(new.row.id)[:2], read_header(new.body).origin, new.left_out) for new in sealed.segments]
    assert found == [
        ((Priority.NORMAL, Signal.METRICS), 7, 12),
        ((Priority.NORMAL, Signal.METRICS), 0, 12),
        ((Priority.BULK, Signal.METRICS), 7, 8),
        ((Priority.CRITICAL, Signal.LOGS), 0, 12),
        ((Priority.CRITICAL, Signal.LOGS), 7, 12),
        ((Priority.CRITICAL, Signal.LOGS), 7, 12),
    ]


def test_many_log_records_are_cut(monkeypatch) -> None:
    """A segment of logs stays small enough to be sent."""
    monkeypatch.setattr(writer, "SEGMENT_LOG_BYTES_MAX", 10)
    pending = Pending(logs=[logs(*[b"12345"] * 5)])
    sealed = seal(pending, sequence=1, previous_hash=FIRST_HASH, boot=BootId(1), offset_ns=None)
    assert [new.row.readings for new in sealed.segments] == [2, 2, 1]


def test_times_that_wait_for_a_clock_are_not_in_the_range() -> None:
    """With a clock they are, as far as it is known now."""
    waiting = Batch.of(1, [10, 20], np.array([1, 2]), flags=MONOTONIC)
    known = Batch.of(1, [1000], np.array([1]))
    assert time_range(waiting, None) == (0, 0)
    assert time_range(waiting, 500) == (510, 520)
    assert time_range(Batch.join([waiting, known]), None) == (1000, 1000)
    assert time_range(Batch.join([waiting, known]), 500) == (510, 1000)
