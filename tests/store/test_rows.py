"""A row is whole where its bytes are what was written; as many fit in a lease as its bounds allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gateway.core.batch import Batch
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.recent import Row
from gateway.store.records import place, where_from
from gateway.store.rows import is_whole, leased, of_one_side, origin_in, side_by_side, within
from gateway.store.segments import HEADER_BYTES_MAX, encode_metrics
from gateway.store.taking import ANY

METRICS = (Priority.NORMAL, Signal.METRICS)


def body_of(sequence: int, readings: int = 1) -> bytes:
    batch = Batch.of(1, range(readings), np.arange(readings))
    return encode_metrics(batch, sequence=sequence, boot=BootId(1), previous_hash=bytes(16))


def test_a_whole_segment_says_what_its_row_says() -> None:
    """Number of readings and sequence included."""
    body = body_of(4, 2)
    assert is_whole(Row(place(*METRICS, 4), 2, 1, len(body)), body)
    assert not is_whole(Row(place(*METRICS, 4), 3, 1, len(body)), body)
    assert not is_whole(Row(place(*METRICS, 5), 2, 1, len(body)), body)
    assert not is_whole(Row(place(*METRICS, 4), 2, 1, len(body)), None)
    assert where_from(place(*METRICS, 4))[2] == 4


def test_rows_are_cut_at_a_border() -> None:
    """Those before it come first, by themselves."""
    rows = [Row(place(*METRICS, k), 10, 1, 100) for k in range(1, 6)]
    assert of_one_side(rows, 3) == rows[:2]
    assert of_one_side(rows, 6) == of_one_side(rows, 1) == rows
    assert of_one_side([], 3) == []


def test_one_fits_whatever_its_size() -> None:
    """And then as many as both bounds allow."""
    rows = [Row(place(*METRICS, k), 10, 1, 100) for k in range(1, 6)]
    assert within(rows, 5, 5) == rows[:1]
    assert within(rows, 30, 1000) == rows[:3]
    assert within(rows, 1000, 250) == rows[:2]
    assert within(rows, 1000, 1000) == rows
    assert within([], 5, 5) == []


def test_a_segment_knows_where_it_stands() -> None:
    """By its row id."""
    segment = leased(Row(place(*METRICS, 7), 3, 2, 9), b"body", None)
    assert (segment.sequence, segment.boot, segment.priority, segment.signal) == (7, 2, *METRICS)
    assert segment.id == place(*METRICS, 7)


def test_side_by_side_lies_what_has_nothing_in_between() -> None:
    """Up to the first that is on its way or put off, from behind the last of them before it on."""
    rows = [Row(place(*METRICS, k), 10, 1, 100) for k in (3, 4, 8)]
    ids = [place(*METRICS, k) for k in range(10)]
    assert side_by_side([], 5, away=ids) == ([], 5)
    assert side_by_side(rows, ids[1], away=[]) == (rows, ids[1])
    assert side_by_side(rows, ids[1], away=[ids[0], ids[9]]) == (rows, ids[1])
    assert side_by_side(rows, ids[1], away=[ids[1], ids[6], ids[7]]) == (rows[:2], ids[2])


def test_what_is_no_segment_is_of_nobody_in_particular() -> None:
    """Whoever takes only what some mappings make does not get it."""
    batch = replace(Batch.of(1, [1], np.array([1])), origin=9)
    body = encode_metrics(batch, sequence=1, boot=BootId(1), previous_hash=bytes(16))
    assert [origin_in(head) for head in (body, body[:HEADER_BYTES_MAX], body[:20], b"")] == [9, 9, ANY, ANY]
