"""Checks for the OTLP codec: every byte is parsed by the official classes."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs import otlp
from gateway.codecs.otlp import NO_MARKS, Marks, MetricsEncoder, ProtobufEncoder
from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series, ValueKind
from gateway.core.contracts import Signal

NOW_NS = 1_790_000_000 * 10**9
GATEWAY = (("tidegate.gateway.id", "site-7"),)


def encoder_for(*series: Series) -> MetricsEncoder:
    return MetricsEncoder(series=series.__getitem__, gateway_attributes=GATEWAY, version="0.1.0")


def device(name: str, metric: str = "temperature", **more) -> Series:
    return Series((("device.id", name),), metric, **more)


def attributes(pairs) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def readings(request: bytes) -> Counter:
    """Count every point of a request by all that is known of it."""
    found: Counter = Counter()
    for resource in ExportMetricsServiceRequest.FromString(request).resource_metrics:
        whose = tuple(sorted(attributes(resource.resource.attributes).items()))
        for scope in resource.scope_metrics:
            marks = tuple(sorted(attributes(scope.scope.attributes).items()))
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    which = point.WhichOneof("value")
                    bits = point.as_int if which == "as_int" else struct.pack("<d", point.as_double)
                    found[
                        whose, scope.scope.name, marks, metric.name, metric.unit, kind,
                        tuple(attributes(point.attributes).items()), point.start_time_unix_nano,
                        point.time_unix_nano, which, bits,
                    ] += 1  # fmt: skip
    return found


def expected(groups, series) -> Counter:
    found: Counter = Counter()
    for batch, marks in groups:
        for number, time_ns, bits, flags in zip(
            batch.series.tolist(),
            batch.time_ns.tolist(),
            batch.bits.tolist(),
            batch.flags.tolist(),
            strict=True,
        ):
            stream = series[number]
            is_double = flags & 3 == ValueKind.DOUBLE
            found[
                tuple(sorted(otlp.merge_resource(stream.resource, GATEWAY))), stream.scope or "tidegate",
                tuple(sorted(marks.attributes())), stream.name, stream.unit, stream.kind, stream.attributes,
                stream.start_ns if stream.kind == "sum" else 0, time_ns, "as_double" if is_double else "as_int",
                struct.pack("<q", bits) if is_double else bits,
            ] += 1  # fmt: skip
    return found


series_strategy = st.builds(
    Series,
    resource=st.sampled_from([(), (("device.id", "a"),), (("device.id", "b"), ("floor", 2))]),
    name=st.sampled_from(["t", "humidity", "x" * 200]),
    unit=st.sampled_from(["", "Cel"]),
    kind=st.sampled_from(["gauge", "sum"]),
    attributes=st.sampled_from([(), (("axis", "x"),), (("long", "v" * 150), ("ok", True))]),
    scope=st.sampled_from(["", "other"]),
    start_ns=st.sampled_from([0, 1, NOW_NS]),
)
marks_strategy = st.sampled_from(
    [
        NO_MARKS,
        Marks(backfill=True),
        Marks(backfill=True, time_quality="repaired"),
        Marks(time_quality="unsynced", time_rejected=True),
    ]
)


@st.composite
def group_strategy(draw, series_count: int):
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, series_count - 1),
                st.integers(0, 2**63 - 1),
                st.integers(-(2**63), 2**63 - 1),
                st.integers(0, 2),
            ),
            max_size=30,
        )
    )
    series, time_ns, bits, flags = zip(*rows, strict=True) if rows else ((), (), (), ())
    # A NaN's payload may change on its way through Python floats, so quiet ones stand for all.
    bits = [
        b if f or not math.isnan(struct.unpack("<d", struct.pack("<q", b))[0]) else 0
        for b, f in zip(bits, flags, strict=True)
    ]
    batch = Batch(
        np.array(series, np.uint32),
        np.array(time_ns, np.int64),
        np.array(bits, np.int64),
        np.array(flags, np.uint8),
    )
    return batch.sorted(), draw(marks_strategy)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_reading_arrives_as_it_was(data) -> None:
    """Whatever the run structure: each reading is there once with its own names, time, type and bits."""
    series = data.draw(st.lists(series_strategy, min_size=1, max_size=5))
    encoder = encoder_for(*series)
    for _ in range(2):
        groups = data.draw(st.lists(group_strategy(len(series)), max_size=3))
        assert readings(encoder.encode(groups)) == expected(groups, series)
        # The same structure with other numbers goes through the layout that was kept.
        again = [
            (replace(batch, time_ns=batch.time_ns[::-1].copy(), bits=batch.bits & 0xFFFF), m) for batch, m in groups
        ]
        assert readings(encoder.encode(again)) == expected(again, series)


def test_series_of_one_device_share_one_resource() -> None:
    """Resource attributes stand once for all series of a device, wherever their numbers lie."""
    encoder = encoder_for(device("a"), device("b"), device("a", "humidity"))
    request = ExportMetricsServiceRequest.FromString(
        encoder.encode([(Batch.of([0, 1, 2], NOW_NS, np.ones(3)), NO_MARKS)])
    )
    found = [
        (attributes(r.resource.attributes)["device.id"], [m.name for s in r.scope_metrics for m in s.metrics])
        for r in request.resource_metrics
    ]
    assert found == [("a", ["temperature", "humidity"]), ("b", ["temperature"])]


def test_marks_make_scopes_of_their_own() -> None:
    """Readings with different marks of one device share its resource and differ in scope attributes."""
    encoder = encoder_for(device("a"))
    batch = Batch.of(0, [NOW_NS], np.ones(1))
    request = ExportMetricsServiceRequest.FromString(
        encoder.encode([(batch, NO_MARKS), (batch, Marks(backfill=True, time_quality="repaired"))])
    )
    (resource,) = request.resource_metrics
    assert [attributes(scope.scope.attributes) for scope in resource.scope_metrics] == [
        {},
        {"tidegate.backfill": True, "tidegate.time.quality": "repaired"},
    ]
    assert {(scope.scope.name, scope.scope.version) for scope in resource.scope_metrics} == {("tidegate", "0.1.0")}


def test_the_gateway_names_itself_on_every_resource() -> None:
    """A device cannot take the gateway's own attributes; other keys of a mapping stand."""
    encoder = MetricsEncoder(
        series=[Series((("site", "mapped"), ("tidegate.gateway.id", "fake")), "t")].__getitem__,
        gateway_attributes=(("site", "configured"), ("tidegate.gateway.id", "real")),
        version="1",
    )
    request = ExportMetricsServiceRequest.FromString(encoder.encode([(Batch.of(0, [1], np.ones(1)), NO_MARKS)]))
    pairs = request.resource_metrics[0].resource.attributes
    assert sorted((pair.key, pair.value.string_value) for pair in pairs) == [
        ("site", "mapped"),
        ("tidegate.gateway.id", "real"),
    ]


def test_a_sum_is_cumulative_and_monotonic_with_unknown_start() -> None:
    """A counter says what it is, and does not guess when it started."""
    encoder = encoder_for(device("a", "pulses", kind="sum"))
    request = ExportMetricsServiceRequest.FromString(encoder.encode([(Batch.of(0, [NOW_NS], np.array([5])), NO_MARKS)]))
    metric = request.resource_metrics[0].scope_metrics[0].metrics[0]
    assert (metric.sum.aggregation_temporality, metric.sum.is_monotonic) == (2, True)
    assert (metric.sum.data_points[0].as_int, metric.sum.data_points[0].start_time_unix_nano) == (5, 0)


def test_a_sum_that_knows_its_start_says_it_on_every_point() -> None:
    """As OTLP wants it of a cumulative sum; a gauge has none, whatever its series says."""
    encoder = encoder_for(
        device("a", "lost", kind="sum", start_ns=NOW_NS, attributes=(("why", "x"),)), device("a", start_ns=NOW_NS)
    )
    batch = Batch.of([0, 0, 1], [NOW_NS + 1, NOW_NS + 2, NOW_NS], np.array([5, 7, 9]))
    request = ExportMetricsServiceRequest.FromString(encoder.encode([(batch, NO_MARKS)]))
    total, gauge = request.resource_metrics[0].scope_metrics[0].metrics
    assert [(p.start_time_unix_nano, p.time_unix_nano, p.as_int) for p in total.sum.data_points] == [
        (NOW_NS, NOW_NS + 1, 5),
        (NOW_NS, NOW_NS + 2, 7),
    ]
    assert [attributes(p.attributes) for p in total.sum.data_points] == [{"why": "x"}] * 2
    assert gauge.gauge.data_points[0].start_time_unix_nano == 0


def test_a_boolean_is_an_integer() -> None:
    """OTLP has no boolean points."""
    encoder = encoder_for(device("a", "open"))
    found = readings(encoder.encode([(Batch.of(0, [1, 2], np.array([True, False])), NO_MARKS)]))
    assert sorted((key[8], key[9], key[10]) for key in found) == [(1, "as_int", 1), (2, "as_int", 0)]


def test_a_time_before_1970_is_unknown() -> None:
    """A negative time would read as the year 2500; 0 is what OTLP calls unknown."""
    found = readings(encoder_for(device("a")).encode([(Batch.of(0, [-5], np.ones(1)), NO_MARKS)]))
    assert [key[8] for key in found] == [0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0])
def test_odd_doubles_travel(value: float) -> None:
    """NaN and infinities are doubles like others."""
    found = readings(encoder_for(device("a")).encode([(Batch.of(0, [1], np.array([value])), NO_MARKS)]))
    assert [key[10] for key in found] == [struct.pack("<d", value)]


def test_nothing_is_an_empty_request() -> None:
    """No groups and empty groups make the empty message."""
    encoder = encoder_for()
    assert encoder.encode([]) == encoder.encode([(Batch.empty(), NO_MARKS)]) == b""


def test_flags_other_than_the_kind_do_not_split_a_metric() -> None:
    """Where a time came from is no business of the point's type."""
    batch = Batch.of(0, [1, 2], np.ones(2))
    batch.flags[1] |= 4
    request = ExportMetricsServiceRequest.FromString(encoder_for(device("a")).encode([(batch, NO_MARKS)]))
    assert len(request.resource_metrics[0].scope_metrics[0].metrics) == 1


def test_layouts_are_bounded(monkeypatch) -> None:
    """Ever-changing structures don't gather memory; the latest ones are kept."""
    encoder = encoder_for(device("a"), device("b"))
    for count in range(1, 40):
        encoder.encode([(Batch.of(0, range(count), np.ones(count)), NO_MARKS)])
    assert len(encoder._layouts) == otlp.LAYOUTS_MAX
    assert encoder._layouts_bytes == sum(layout.size_bytes for layout in encoder._layouts.values())
    monkeypatch.setattr(otlp, "LAYOUTS_BYTES_MAX", 20_000)
    for count in range(100, otlp.LONG_RUN_READINGS):
        encoder.encode([(Batch.of(1, range(count), np.ones(count)), NO_MARKS)])
    assert 15_000 < encoder._layouts_bytes <= 20_000


def test_long_runs_are_not_laid_out() -> None:
    """A layout of theirs would be as large as the request."""
    encoder = encoder_for(device("a"))
    encoder.encode([(Batch.of(0, range(5000), np.ones(5000)), NO_MARKS)])
    assert not encoder._layouts


def test_long_runs_are_written_as_if_they_were_laid_out(monkeypatch) -> None:
    """Byte for byte, whatever the series, the kinds and the marks."""
    series = [
        device("a", "count", kind="sum", start_ns=NOW_NS, attributes=(("axis", "x"),)),
        device("b"),
        device("a", scope="other", unit="Cel"),
    ]
    numbers = np.repeat([0, 1, 2], [200, 300, 250])
    batch = Batch.of(numbers, NOW_NS + np.arange(750) * 1000, np.arange(750) / 8)
    batch.flags[400:] += np.uint8(ValueKind.INT)
    batch = replace(batch, time_ns=np.where(np.arange(750) == 3, -5, batch.time_ns))
    groups = [(batch, NO_MARKS), (batch.take(slice(200, 600)), Marks(backfill=True))]
    written = encoder_for(*series).encode(groups)
    monkeypatch.setattr(otlp, "LONG_RUN_READINGS", 1000)
    assert written == encoder_for(*series).encode(groups)


def test_a_layout_as_large_as_all_others_is_not_kept(monkeypatch) -> None:
    """It would push the small ones out, which come again more often; it is written all the same."""
    monkeypatch.setattr(otlp, "LAYOUTS_BYTES_MAX", 20_000)
    series = [device(f"d{number}") for number in range(10)]
    encoder = encoder_for(*series)
    encoder.encode([(Batch.of(0, [1], np.ones(1)), NO_MARKS)])
    kept = list(encoder._layouts)
    large = Batch.join([Batch.of(number, range(1, 51), np.ones(50)) for number in range(10)])
    assert readings(encoder.encode([(large, NO_MARKS)])) == expected([(large, NO_MARKS)], series)
    assert list(encoder._layouts) == kept
    assert 0 < encoder._layouts_bytes < 1000


def test_what_is_known_of_series_is_bounded(monkeypatch) -> None:
    """More series than the cache holds are written all the same; so are more run lengths."""
    monkeypatch.setattr(otlp, "PLANS_MAX", 3)
    series = [device(str(k)) for k in range(10)]
    encoder = encoder_for(*series)
    for count in range(1, 12):
        batch = Batch.of(np.arange(10).repeat(count), NOW_NS, np.ones(10 * count))
        assert readings(encoder.encode([(batch, NO_MARKS)])) == expected([(batch, NO_MARKS)], series)
        assert len(encoder._plans) <= 3
    encoder = encoder_for(device("a"))
    for count in range(1, 40):
        encoder.encode([(Batch.of(0, range(count), np.ones(count)), NO_MARKS)])
    assert len(encoder._plans[0].heads) <= otlp.HEADS_PER_PLAN_MAX


def test_what_is_known_of_long_series_is_bounded_in_bytes(monkeypatch) -> None:
    """Fewer of them; they are written all the same."""
    monkeypatch.setattr(otlp, "PLANS_BYTES_MAX", 50_000)
    series = [device(f"{k}" + "x" * 3000) for k in range(40)]
    encoder = encoder_for(*series)
    batch = Batch.of(np.arange(40), NOW_NS, np.ones(40))
    assert readings(encoder.encode([(batch, NO_MARKS)])) == expected([(batch, NO_MARKS)], series)
    assert len(encoder._plans) < 17
    assert encoder._plans_bytes < 55_000


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("x", "string_value", "x"),
        (True, "bool_value", True),
        (-3, "int_value", -3),
        (2**63, "string_value", "9223372036854775808"),
        (2.5, "double_value", 2.5),
    ],
)
def test_attribute_values_keep_their_type(value, kind, read) -> None:
    """An integer too large for OTLP is kept as its digits."""
    record = LogRecord.FromString(
        otlp.encode_log_record(
            time_ns=1,
            observed_ns=2,
            severity_number=9,
            severity_text="INFO",
            body="b",
            attributes=(("k", value),),
        )
    )
    assert record.attributes[0].value.WhichOneof("value") == kind
    assert getattr(record.attributes[0].value, kind) == read


def test_a_log_record_says_what_it_was_given() -> None:
    """Times, severity and body arrive; an unknown time is 0."""
    record = LogRecord.FromString(
        otlp.encode_log_record(
            time_ns=-1,
            observed_ns=NOW_NS,
            severity_number=13,
            severity_text="WARN",
            body="too hot",
            attributes=(),
        )
    )
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (0, NOW_NS)
    assert (record.severity_number, record.severity_text, record.body.string_value) == (13, "WARN", "too hot")


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (LogRecord(body={"string_value": "a text"}).SerializeToString(), "a text"),
        (LogRecord(body={"string_value": "a text"}).SerializeToString()[:-1], ""),
        (LogRecord(body={"int_value": 5}).SerializeToString(), ""),
        (b"\x2a\x03\x0a\x01\xff", "\ufffd"),
        (b"\xff" * 20, ""),
        (b"", ""),
    ],
)
def test_the_text_of_a_log_record_is_read_back(record, body) -> None:
    """For people who look into the drawer: one that is cut short, damaged or holds no text is an empty one."""
    assert otlp.read_log_body(record) == body


def test_logs_go_by_resource_and_scope() -> None:
    """Records of one device share a resource; each scope keeps its records' order."""
    series = [
        Series((("device.id", "a"),), "", kind="log"),
        Series((("device.id", "b"),), "", kind="log"),
        Series((("device.id", "a"),), "", kind="log", scope="app"),
    ]

    def body(text: str) -> bytes:
        return otlp.encode_log_record(
            time_ns=1, observed_ns=1, severity_number=9, severity_text="", body=text, attributes=()
        )

    records = LogRecords(
        np.array([0, 1, 2, 0], np.uint32), np.arange(4), tuple(body(text) for text in ("1", "2", "3", "4"))
    )
    request = ExportLogsServiceRequest.FromString(
        otlp.encode_logs_request(
            records,
            series=series.__getitem__,
            gateway_attributes=GATEWAY,
            version="0.1.0",
            marks=Marks(backfill=True),
        )
    )
    found = [
        (
            attributes(resource.resource.attributes),
            [
                (s.scope.name, attributes(s.scope.attributes), [r.body.string_value for r in s.log_records])
                for s in resource.scope_logs
            ],
        )
        for resource in request.resource_logs
    ]
    late = {"tidegate.backfill": True}
    assert found == [
        ({"device.id": "a", **dict(GATEWAY)}, [("tidegate", late, ["1", "4"]), ("app", late, ["3"])]),
        ({"device.id": "b", **dict(GATEWAY)}, [("tidegate", late, ["2"])]),
    ]


def test_messages_that_are_passed_on_become_a_request() -> None:
    """As they came but for what their resources did not have; marks stand there too, since scopes are not ours."""
    messages = []
    for name in ("a", "b"):
        message = ResourceSpans()
        message.resource.attributes.add(key="service.name").value.string_value = name
        message.scope_spans.add().spans.add(name=f"GET {name}")
        messages.append(message)
    bodies = tuple(message.SerializeToString() for message in messages)
    records = ResourceRecords(Signal.TRACES, np.ones(2, np.int64), np.zeros(2, np.int64), bodies)
    encoder = ProtobufEncoder(series=[].__getitem__, gateway_attributes=GATEWAY, version="0.1.0")
    encoder.check(records)
    for marks, more in ((NO_MARKS, {}), (Marks(backfill=True), {"tidegate.backfill": True})) * 2:
        request = ExportTraceServiceRequest.FromString(encoder.records(records, marks))
        for found, message in zip(request.resource_spans, messages, strict=True):
            name = message.resource.attributes[0].value.string_value
            assert attributes(found.resource.attributes) == {"service.name": name, **dict(GATEWAY), **more}
            assert found.scope_spans == message.scope_spans
