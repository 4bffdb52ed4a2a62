"""Parts are halved without losing anything; how they become requests stands in test_requests.py."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs.otlp import NO_MARKS, Marks
from gateway.core.batch import Batch, LogRecords, ResourceRecords
from gateway.core.contracts import Signal
from gateway.uplinks.parts import Closed, LogsPart, MessagesPart, MetricsPart, small_parts


@given(st.lists(st.integers(0, 9), max_size=5), st.data())
def test_halves_hold_everything_in_order(lengths: list[int], data) -> None:
    """A part of at least two readings is cut into two that are not empty and lose nothing."""
    marks = data.draw(st.lists(st.sampled_from([NO_MARKS, Marks(backfill=True)]), min_size=5, max_size=5))
    groups = [
        (Batch.of(0, np.arange(length) + 100 * k, np.zeros(length)), mark)
        for k, (length, mark) in enumerate(zip(lengths, marks, strict=False))
    ]
    part = MetricsPart(groups)
    if len(part) < 2:
        return
    left, right = part.halves()
    assert abs(len(left) - len(right)) <= 1
    assert len(left) > 0

    def rows(part: MetricsPart) -> list:
        return [(time_ns, marks) for batch, marks in part.groups for time_ns in batch.time_ns.tolist()]

    assert rows(left) + rows(right) == rows(part)


def test_log_records_keep_their_order() -> None:
    """And their marks."""
    records = LogRecords(np.arange(3, dtype=np.uint32), np.arange(3), (b"a", b"b", b"c"))
    left, right = LogsPart(records, Marks(backfill=True)).halves()
    assert (left.records.bodies, right.records.bodies) == ((b"a",), (b"b", b"c"))
    assert (left.marks, right.marks, left.signal) == (Marks(backfill=True),) * 2 + (Signal.LOGS,)


def test_messages_are_cut_until_each_piece_is_small_enough() -> None:
    """Or is a single reading."""
    message = ResourceSpans()
    for k in range(9):
        message.scope_spans.add().spans.add(name=f"{k}" * (200 if k == 4 else 5))
    body = message.SerializeToString()
    part = MessagesPart(ResourceRecords(Signal.TRACES, np.array([9]), np.array([0]), (body,)), NO_MARKS)
    assert list(small_parts(part, 1 << 20)) == [part]
    pieces = list(small_parts(part, 40))
    assert sum(map(len, pieces)) == 9
    assert [len(piece) for piece in pieces if piece.records.size_bytes > 40] == [1]
    spans = [
        span.name
        for piece in pieces
        for one in piece.records.bodies
        for scope in ResourceSpans.FromString(one).scope_spans
        for span in scope.spans
    ]
    assert [name[0] for name in spans] == list("012345678")


def test_what_is_closed_still_counts() -> None:
    """Its readings are those of the lease."""
    assert len(Closed(7)) == 7


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_a_few_are_cut_from_the_rest(lengths: list[int], data) -> None:
    """So many of columns and of log records; of messages as many or fewer, and always one. Nothing is lost."""
    few = data.draw(st.integers(1, max(1, sum(lengths) - 1)))
    total = sum(lengths)
    if total < 2:
        return
    groups = [(Batch.of(0, np.arange(n) + 100 * k, np.zeros(n)), NO_MARKS) for k, n in enumerate(lengths)]
    left, right = MetricsPart(groups).cut(few)
    assert (len(left), len(right)) == (few, total - few)
    records = LogRecords(np.zeros(total, np.uint32), np.arange(total), tuple(b"%d" % k for k in range(total)))
    first, rest = LogsPart(records, NO_MARKS).cut(few)
    assert (first.records.bodies, rest.records.bodies) == (records.bodies[:few], records.bodies[few:])
    bodies = []
    for length in lengths:
        message = ResourceSpans()
        for k in range(length):
            message.scope_spans.add().spans.add(name=f"{k}")
        bodies.append(message.SerializeToString())
    messages = ResourceRecords(Signal.TRACES, np.array(lengths), np.zeros(len(lengths), np.int64), tuple(bodies))
    head, tail = MessagesPart(messages, NO_MARKS).cut(few)
    assert 1 <= len(head) <= few
    assert len(head) + len(tail) == total


def test_each_kind_says_that_it_comes_late() -> None:
    """And goes on saying what it said of its times."""
    batch = Batch.of(0, np.arange(2), np.zeros(2))
    records = LogRecords(np.arange(1, dtype=np.uint32), np.arange(1), (b"a",))
    messages = ResourceRecords(Signal.TRACES, np.array([1]), np.array([0]), (b"",))
    marks = Marks(time_quality="unsynced")
    metrics, logs, others = MetricsPart([(batch, marks)]), LogsPart(records, marks), MessagesPart(messages, marks)
    for part in (metrics, logs, others):
        part.mark_late()
    assert [metrics.groups[0][1], logs.marks, others.marks] == [Marks(backfill=True, time_quality="unsynced")] * 3
