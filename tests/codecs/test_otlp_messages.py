"""Messages that are passed on: what is counted, cut and added, held against the official classes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs import protobuf
from gateway.codecs.otlp import Marks, resource_writer
from gateway.codecs.otlp_messages import (
    PATHS,
    ResourceWriter,
    check,
    count,
    cut,
    cut_to_fit,
    first_items,
    halves,
)
from gateway.core.batch import ResourceRecords
from gateway.core.contracts import Signal

# A field of a version that is still to come, a group among them.
UNKNOWN = protobuf.text(200, "from the future") + b"\xa3\x06\x08\x05\xa4\x06"
ROOMY = {"bytes_max": 1 << 20, "readings_max": 1000, "beside_bytes_max": 1 << 16}


def resource(*keys: str) -> bytes:
    pairs = [protobuf.text(1, key) + protobuf.delimited(2, protobuf.text(1, f"{key}!")) for key in keys]
    return protobuf.delimited(1, b"".join(protobuf.delimited(1, pair) for pair in pairs) + UNKNOWN)


def logs(*texts: str, scopes: int = 1) -> bytes:
    """A ResourceLogs with these texts in each scope, and unknown fields wherever there may be some."""
    records = b"".join(protobuf.delimited(2, protobuf.delimited(5, protobuf.text(1, t)) + UNKNOWN) for t in texts)
    scope = protobuf.delimited(1, protobuf.text(1, "app")) + records + UNKNOWN + protobuf.text(3, "https://s/1")
    return resource("a") + protobuf.delimited(2, scope) * scopes + UNKNOWN + protobuf.text(3, "https://s/2")


def all_metrics() -> ResourceMetrics:
    """One metric of each of the five kinds, with one to five points."""
    message = ResourceMetrics()
    metrics = message.scope_metrics.add().metrics
    for points, kind in enumerate(("gauge", "sum", "histogram", "exponential_histogram", "summary"), 1):
        metric = metrics.add(name=kind)
        data = getattr(metric, kind)
        for k in range(points):
            point = data.data_points.add(time_unix_nano=k + 1)
            point.attributes.add(key="k").value.int_value = k
            if kind != "summary":
                point.exemplars.add(span_id=bytes(8)).as_int = k
    return message


def texts(body: bytes) -> list[str]:
    return [r.body.string_value for s in ResourceLogs.FromString(body).scope_logs for r in s.log_records]


def test_readings_of_all_signals_are_counted() -> None:
    """Points of all five kinds of metrics, log records of all scopes, spans."""
    spans = ResourceSpans()
    spans.scope_spans.add().spans.add(name="one").events.add(name="an event is no reading")
    spans.scope_spans.add().spans.add(name="two").links.add(trace_state="nor is a link")
    assert count(all_metrics().SerializeToString(), PATHS[Signal.METRICS]) == 15
    assert count(logs("a", "b", "c", scopes=2), PATHS[Signal.LOGS]) == 6
    assert count(spans.SerializeToString(), PATHS[Signal.TRACES]) == 2
    assert count(b"", PATHS[Signal.TRACES]) == 0


def test_a_field_of_another_type_is_none_of_the_branch() -> None:
    """As a parser takes it for an unknown one."""
    scope = protobuf.integer(2, 5) + protobuf.text(2, "")
    assert count(protobuf.integer(2, 5) + protobuf.delimited(2, scope), PATHS[Signal.LOGS]) == 1


@pytest.mark.parametrize("room", range(7))
def test_what_is_cut_has_all_around_it_on_both_sides(room: int) -> None:
    """Resource, scope, schemas and unknown fields; the records once, in their order."""
    whole = logs("a", "b", "c", scopes=2)
    left, right = cut(whole, PATHS[Signal.LOGS], room)
    assert (texts(left) + texts(right), len(texts(left))) == (list("abcabc"), room)
    for side in (left, right):
        assert side.startswith(resource("a"))
        assert side.endswith(UNKNOWN + protobuf.text(3, "https://s/2"))
        for scope in protobuf.messages(side, 2):
            assert scope.startswith(protobuf.delimited(1, protobuf.text(1, "app")))
            assert scope.endswith(UNKNOWN + protobuf.text(3, "https://s/1"))


@pytest.mark.parametrize("room", range(16))
def test_metrics_are_cut_between_points(room: int) -> None:
    """Each side names its metrics; exemplars stay with their points."""
    whole = all_metrics()
    sides = [ResourceMetrics.FromString(s) for s in cut(whole.SerializeToString(), PATHS[Signal.METRICS], room)]
    assert [count(side.SerializeToString(), PATHS[Signal.METRICS]) for side in sides] == [room, 15 - room]
    points = {}
    for side in sides:
        for metric in side.scope_metrics[0].metrics if side.scope_metrics else ():
            points.setdefault(metric.name, []).extend(getattr(metric, metric.WhichOneof("data")).data_points)
    assert points == {m.name: list(getattr(m, m.name).data_points) for m in whole.scope_metrics[0].metrics}


def test_a_large_message_becomes_pieces() -> None:
    """By bytes or by readings; nothing is left out or comes twice, whatever the limits."""
    whole = logs(*(f"{k:03}" for k in range(100)), scopes=3)
    for limits in ({"readings_max": 7}, {"bytes_max": 200}, {"bytes_max": 2000, "readings_max": 30}, {}):
        found = cut_to_fit(whole, PATHS[Signal.LOGS], **ROOMY | limits)
        assert [text for piece in found.kept for text in texts(piece.body)] == [f"{k:03}" for k in range(100)] * 3
        assert found.oversize == 0
        assert all(piece.readings == len(texts(piece.body)) for piece in found.kept)
        assert all(piece.readings <= limits.get("readings_max", 1000) for piece in found.kept)
        assert len(found.kept) >= -(-300 // limits.get("readings_max", 1000))
    assert found.kept[0].body == whole


def test_what_is_too_large_for_a_piece_is_counted() -> None:
    """A record, or all that stand beside something that is."""
    path = PATHS[Signal.LOGS]
    found = cut_to_fit(logs("a", "b" * 500, "c"), path, **ROOMY | {"bytes_max": 300})
    assert ([texts(piece.body) for piece in found.kept], found.oversize) == ([["a", "c"]], 1)
    assert cut_to_fit(logs("a", "b", scopes=2), path, **ROOMY | {"bytes_max": 99, "beside_bytes_max": 9}) == ([], 4)
    deep = cut_to_fit(logs("a", "b", scopes=2) * 2, path, **ROOMY | {"beside_bytes_max": 200, "bytes_max": 90})
    assert deep.oversize + sum(piece.readings for piece in deep.kept) == 8


def test_scopes_without_a_record_are_on_no_piece() -> None:
    """Where a message is cut; one that is whole has them."""
    empty = protobuf.delimited(2, protobuf.delimited(1, protobuf.text(1, "quiet")))
    path = PATHS[Signal.LOGS]
    whole = cut_to_fit(logs("a", "b") + empty, path, **ROOMY)
    assert whole.kept[0].body.endswith(empty)
    pieces = cut_to_fit(logs("a", "b") + empty * 9, path, **ROOMY | {"bytes_max": 120})
    assert [texts(piece.body) for piece in pieces.kept] == [["a", "b"]]
    assert empty not in pieces.kept[0].body


def test_a_message_without_a_reading_is_none_to_keep() -> None:
    """There is nothing in it that anybody accounts for."""
    assert cut_to_fit(logs(), PATHS[Signal.LOGS], **ROOMY) == ([], 0)


def test_a_resource_gets_what_it_does_not_have() -> None:
    """All else is as it was, byte for byte, unknown fields and all."""
    writer = resource_writer((("a", "other"), ("tidegate.gateway.id", "g1")), Marks(backfill=True))
    whole = logs("x", "y")
    for _ in range(2):
        found = writer.add_to(whole)
        parsed = ResourceLogs.FromString(found)
        assert [(pair.key, pair.value.string_value) for pair in parsed.resource.attributes[:2]] == [
            ("a", "a!"),
            ("tidegate.gateway.id", "g1"),
        ]
        assert parsed.resource.attributes[2].value.bool_value is True
        (_, _, _, start, stop), *_ = protobuf.spans(found)
        (_, _, _, was_start, was_stop), *_ = protobuf.spans(whole)
        assert found[start:stop].startswith(whole[was_start:was_stop])
        assert found[stop:] == whole[was_stop:]


def test_a_message_without_a_resource_gets_one() -> None:
    """And one whose resource comes in pieces, which is allowed, gets one of all of them."""
    writer = resource_writer((("id", 1),), Marks())
    scope = protobuf.delimited(2, b"")
    assert [p.key for p in ResourceLogs.FromString(writer.add_to(scope)).resource.attributes] == ["id"]
    parsed = ResourceLogs.FromString(writer.add_to(resource("a") + scope + resource("id") + scope))
    assert [p.key for p in parsed.resource.attributes] == ["a", "id"]
    assert len(parsed.scope_logs) == 2


def test_a_resource_that_cannot_be_read_is_passed_on() -> None:
    """Its receiver says what is wrong with it."""
    writer = resource_writer((("id", 1),), Marks())
    assert writer.add_to(protobuf.delimited(1, b"\x0a\x05a"))[2:].startswith(b"\x0a\x05a")


def test_resources_are_remembered_up_to_a_bound(monkeypatch) -> None:
    """In number and in bytes; one that is larger than the bound not at all."""
    monkeypatch.setattr(ResourceWriter, "REMEMBERED_MAX", 2)
    monkeypatch.setattr(ResourceWriter, "REMEMBERED_BYTES_MAX", 200)
    writer = ResourceWriter([(b"id", protobuf.delimited(1, protobuf.text(1, "id")))])
    for name in ("a", "b", "c", "d" * 300, "e"):
        found = ResourceLogs.FromString(writer.add_to(resource(name)))
        assert [p.key for p in found.resource.attributes] == [name, "id"]
        assert len(writer._remembered) <= 2
        assert writer._remembered_bytes == sum(len(k) + len(v) for k, v in writer._remembered.items()) <= 200


def records(*bodies: bytes) -> ResourceRecords:
    counts = np.array([count(body, PATHS[Signal.LOGS]) for body in bodies], np.int64)
    return ResourceRecords(Signal.LOGS, counts, np.arange(len(bodies)), bodies)


@pytest.mark.parametrize(
    ("sizes", "left"), [((1, 1), 1), ((5, 1, 1), 1), ((1, 1, 5), 2), ((2, 2, 2, 2), 2), ((1, 9), 1), ((9, 1), 1)]
)
def test_halves_keep_messages_whole_while_they_can(sizes: tuple[int, ...], left: int) -> None:
    """Each side has one at least."""
    whole = records(*(logs(*"abcdefghi"[:n]) for n in sizes))
    sides = halves(whole)
    assert [len(side.bodies) for side in sides] == [left, len(sizes) - left]
    assert sides[0].bodies + sides[1].bodies == whole.bodies


def test_one_message_is_halved_inside() -> None:
    """Down to one reading."""
    one, other = halves(records(logs("a", "b", "c")))
    assert [texts(one.bodies[0]), texts(other.bodies[0])] == [["a"], ["b", "c"]]
    assert (len(one), len(other)) == (1, 2)


def test_messages_hold_what_they_are_said_to() -> None:
    """Else nobody could account for them."""
    good = records(logs("a", "b"))
    check(good)
    with pytest.raises(ValueError, match="a message of 3 readings holds 2"):
        check(ResourceRecords(Signal.LOGS, good.counts + 1, good.time_ns, good.bodies))
    with pytest.raises(ValueError, match="behind its message"):
        check(ResourceRecords(Signal.LOGS, good.counts, good.time_ns, (good.bodies[0][:-1],)))


def test_the_first_items_are_for_people() -> None:
    """As many as are asked for."""
    found = first_items(logs("a", "b", scopes=2), 3)
    assert len(found) == 3
    assert found[0] == found[2]


@given(st.binary(max_size=60), st.sampled_from(Signal), st.integers(0, 3))
def test_odd_bytes_are_no_message(data: bytes, signal: Signal, room: int) -> None:
    """ValueError, or something that adds up."""
    with contextlib.suppress(ValueError):
        readings = count(data, PATHS[signal])
        sides = cut(data, PATHS[signal], min(room, readings))
        assert sum(count(side, PATHS[signal]) for side in sides) == readings
        found = cut_to_fit(data, PATHS[signal], bytes_max=9, readings_max=2, beside_bytes_max=9)
        assert sum(piece.readings for piece in found.kept) + found.oversize == readings


def test_a_message_that_is_cut_anywhere_is_none() -> None:
    """But for where a field ends."""
    whole = all_metrics().SerializeToString()
    ends = {stop for *_, stop in protobuf.spans(whole)} | {0}
    for end in range(len(whole)):
        if end in ends:
            count(whole[:end], PATHS[Signal.METRICS])
        else:
            with pytest.raises(ValueError):
                count(whole[:end], PATHS[Signal.METRICS])
