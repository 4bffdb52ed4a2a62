"""Checks for OTLP JSON: what it says is what the protobuf says, and its odd rules are kept."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs import otlp, otlp_json, protobuf
from gateway.codecs.otlp import NO_MARKS, Marks, ProtobufEncoder
from gateway.codecs.otlp_json import JsonEncoder
from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.contracts import Signal

GATEWAY = (("tidegate.gateway.id", "site-7"),)
SERIES = [
    Series((("device.id", "a"), ("n", 3)), "temperature", "Cel"),
    Series(
        (("device.id", "a"), ("n", 3)),
        "pulses",
        kind="sum",
        attributes=(("axis", "x"), ("ok", True), ("f", 0.5)),
        start_ns=5,
    ),
    Series((("device.id", "b"), ("huge", 2**63)), "temperature", scope="other"),
]
LOG_SERIES = [Series((("device.id", "a"),), "", kind="log")]


def encoder(series=SERIES, gateway=GATEWAY) -> JsonEncoder:
    return JsonEncoder(series=series.__getitem__, gateway_attributes=gateway, version="0.1.0")


def as_json(groups) -> bytes:
    return encoder().metrics(groups)


def as_protobuf(groups) -> ExportMetricsServiceRequest:
    official = ProtobufEncoder(series=SERIES.__getitem__, gateway_attributes=GATEWAY, version="0.1.0")
    return ExportMetricsServiceRequest.FromString(official.metrics(groups))


def log_json(*bodies: bytes, marks: Marks = NO_MARKS) -> dict:
    records = LogRecords(np.zeros(len(bodies), np.uint32), np.zeros(len(bodies), np.int64), bodies)
    return json.loads(encoder(LOG_SERIES).logs(records, marks))


def test_metrics_say_the_same_as_the_protobuf() -> None:
    """Both encoders make the same message of the same batches."""
    batch = Batch.join(
        [
            Batch.of(0, [10, 20], np.array([1.5, -0.25])),
            Batch.of(1, [10, 20], np.array([5, 2**62])),
            Batch.of(2, [10], np.array([True])),
        ]
    )
    groups = [
        (batch, NO_MARKS),
        (batch.take(slice(0, 1)), Marks(backfill=True, time_quality="repaired", time_rejected=True)),
    ]
    line = as_json(groups)
    assert b"\n" not in line
    assert json_format.Parse(line, ExportMetricsServiceRequest()) == as_protobuf(groups)


def test_json_has_its_own_numbers() -> None:
    """64-bit integers are strings, enums are integers, what is not finite is a word, an early time is 0."""
    groups = [(Batch.of(0, [-1, 1, 2], np.array([math.nan, math.inf, -math.inf])), NO_MARKS)]
    groups.append((Batch.of(1, [1], np.array([7])), NO_MARKS))
    metrics = json.loads(as_json(groups))["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    points = metrics[0]["gauge"]["dataPoints"]
    assert [(p["timeUnixNano"], p["asDouble"]) for p in points] == [
        ("0", "NaN"),
        ("1", "Infinity"),
        ("2", "-Infinity"),
    ]
    assert metrics[1]["sum"]["aggregationTemporality"] == 2
    assert metrics[1]["sum"]["dataPoints"][0]["asInt"] == "7"
    assert metrics[1]["sum"]["dataPoints"][0]["startTimeUnixNano"] == "5"
    assert "startTimeUnixNano" not in points[0]


def test_nothing_is_an_empty_request() -> None:
    """No readings make a request of no resources."""
    assert json.loads(as_json([(Batch.empty(), NO_MARKS)])) == {"resourceMetrics": []}


def test_logs_say_the_same_as_the_protobuf() -> None:
    """Our own records come through whole, with their scope's marks."""
    body = otlp.encode_log_record(
        time_ns=5,
        observed_ns=6,
        severity_number=13,
        severity_text="WARN",
        body="hot",
        attributes=(("score", 4.5),),
    )
    records = LogRecords(np.zeros(1, np.uint32), np.array([5]), (body,))
    marks = Marks(backfill=True)
    official = ProtobufEncoder(series=LOG_SERIES.__getitem__, gateway_attributes=GATEWAY, version="0.1.0")
    parsed = json_format.Parse(encoder(LOG_SERIES).logs(records, marks), ExportLogsServiceRequest())
    assert parsed == ExportLogsServiceRequest.FromString(official.logs(records, marks))


def test_ids_are_hex_and_every_kind_of_value_has_its_key() -> None:
    """Trace and span ids as hex, bytes as base64, arrays and maps inside each other."""
    body = AnyValue(
        kvlist_value=KeyValueList(
            values=[
                KeyValue(
                    key="a",
                    value=AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue()])),
                ),
                KeyValue(key="b", value=AnyValue(bytes_value=b"\x00\xff")),
                KeyValue(key="c", value=AnyValue(double_value=math.inf)),
            ]
        )
    )
    record = LogRecord(trace_id=b"\xab" * 16, span_id=b"\xcd" * 8, body=body, event_name="e", flags=1)
    (found,) = log_json(record.SerializeToString())["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert found == {
        "traceId": "ab" * 16,
        "spanId": "cd" * 8,
        "eventName": "e",
        "flags": 1,
        "body": {
            "kvlistValue": {
                "values": [
                    {"key": "a", "value": {"arrayValue": {"values": [{"intValue": "1"}, {}]}}},
                    {"key": "b", "value": {"bytesValue": "AP8="}},
                    {"key": "c", "value": {"doubleValue": "Infinity"}},
                ]
            }
        },
    }


DAMAGED_RECORDS = {
    "cut": b"\xff\xff",
    "a time that is text": protobuf.text(1, "noon"),
    "a text that is none": protobuf.delimited(3, b"\xff"),
    "a value that is a number": protobuf.delimited(5, protobuf.integer(1, 7)),
    "an attribute that is cut": protobuf.delimited(6, b"\x0a\x09x"),
}


@pytest.mark.parametrize("body", DAMAGED_RECORDS.values(), ids=DAMAGED_RECORDS)
def test_a_record_that_cannot_be_read_leaves_as_its_bytes(body: bytes) -> None:
    """In its place among the others: what was accepted is not lost for it."""
    whole = LogRecord(severity_text="INFO").SerializeToString()
    found = log_json(whole, body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert found[0] == {"severityText": "INFO"}
    assert base64.b64decode(found[1]["body"]["bytesValue"]) == body


@pytest.mark.parametrize("field", ["severity_text", "event_name"])
def test_a_text_of_nought_is_none_that_is_left_out(field: str) -> None:
    """Only a number's default looks like that."""
    record = LogRecord(**{field: "0"})
    assert json_format.ParseDict(otlp_json.log_record(record.SerializeToString()), LogRecord()) == record


def test_values_too_deep_are_not_followed() -> None:
    """Down to 32 they are; more cost a stack, and are bytes."""

    def nested(depth: int) -> bytes:
        value = AnyValue(int_value=1)
        for _ in range(depth):
            value = AnyValue(array_value=ArrayValue(values=[value]))
        return LogRecord(body=value).SerializeToString()

    assert "arrayValue" in otlp_json.log_record(nested(32))["body"]
    assert list(otlp_json.log_record(nested(33))["body"]) == ["bytesValue"]


def test_what_a_newer_version_adds_is_left_out() -> None:
    """Fields and kinds of values that this version does not know."""
    body = AnyValue(string_value="x").SerializeToString() + protobuf.integer(99, 1)
    record = protobuf.delimited(5, body) + protobuf.text(77, "new") + protobuf.delimited(6, protobuf.integer(9, 1))
    expected = {"body": {"stringValue": "x"}, "attributes": [{"key": "", "value": {}}]}
    assert otlp_json.log_record(record) == expected
    array = protobuf.delimited(5, protobuf.integer(9, 1) + protobuf.delimited(1, protobuf.integer(3, 7)))
    body = {"arrayValue": {"values": [{"intValue": "7"}]}}
    assert otlp_json.log_record(protobuf.delimited(5, array)) == {"body": body}


# The one NaN that JSON has.
doubles = st.floats().map(lambda value: math.nan if math.isnan(value) else value)
any_values = st.recursive(
    st.one_of(
        st.builds(AnyValue),
        st.builds(AnyValue, string_value=st.text()),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        st.builds(AnyValue, double_value=doubles),
        st.builds(AnyValue, bytes_value=st.binary()),
    ),
    lambda inner: st.one_of(
        st.builds(lambda values: AnyValue(array_value=ArrayValue(values=values)), st.lists(inner, max_size=3)),
        st.builds(
            lambda pairs: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=k, value=v) for k, v in pairs])),
            st.lists(st.tuples(st.text(), inner), max_size=3),
        ),
    ),
    max_leaves=8,
)
unix_times = st.integers(0, 2**64 - 1)


@given(
    st.builds(
        LogRecord,
        time_unix_nano=unix_times,
        observed_time_unix_nano=unix_times,
        severity_number=st.integers(0, 24),
        severity_text=st.text(),
        body=any_values,
        attributes=st.lists(st.builds(KeyValue, key=st.text(), value=any_values), max_size=3),
        dropped_attributes_count=st.integers(0, 2**31),
        flags=st.integers(0, 2**32 - 1),
        trace_id=st.sampled_from([b"", b"\xab" * 16]),
        span_id=st.sampled_from([b"", b"\xcd" * 8]),
        event_name=st.text(),
    )
)
def test_any_record_comes_through_whole(record: LogRecord) -> None:
    """Read back by the official parser it is what it was, but for the ids, which that takes for base64."""
    found = otlp_json.log_record(record.SerializeToString())
    for name in ("traceId", "spanId"):
        if name in found:
            found[name] = base64.b64encode(bytes.fromhex(found[name])).decode()
    parsed = json_format.ParseDict(found, LogRecord())
    if not record.body.WhichOneof("value"):
        record.ClearField("body")
    # NaN is not equal to itself, but its bytes are.
    assert parsed.SerializeToString() == record.SerializeToString()


numbers = st.one_of(
    doubles, st.floats(width=32, allow_nan=False), st.integers(-400_000, 400_000).map(lambda k: k / 100)
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.lists(
                st.tuples(st.integers(-(2**63), 2**63 - 1), numbers, st.integers(-(2**63), 2**63 - 1)),
                min_size=1,
                max_size=5,
            ),
            st.sampled_from("dib"),
        ),
        max_size=6,
    )
)
def test_any_columns_say_the_same_as_the_protobuf(runs) -> None:
    """Any mixture of series, kinds and lengths of runs; every double by digits that bring it back."""
    batches = [
        Batch.of(
            number,
            [time_ns for time_ns, _, _ in points],
            np.array([{"d": double, "i": integer, "b": integer > 0}[kind] for _, double, integer in points]),
        )
        for number, points, kind in runs
    ]
    groups = [(Batch.join(batches).sorted(), NO_MARKS)] if batches else []
    parsed = json_format.Parse(as_json(groups), ExportMetricsServiceRequest())
    assert parsed.SerializeToString(deterministic=True) == as_protobuf(groups).SerializeToString(deterministic=True)


def test_what_is_remembered_of_series_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and in bytes; what was forgotten is made anew."""
    for limit in ("PLANS_MAX", "PLANS_BYTES_MAX"):
        monkeypatch.setattr(otlp_json, limit, 2 if limit == "PLANS_MAX" else 1)
        found = encoder()
        batch = Batch.join([Batch.of(number, [1], np.ones(1)) for number in (0, 1, 2)])
        assert found.metrics([(batch, NO_MARKS)]) == found.metrics([(batch, NO_MARKS)])
        assert len(found._plans) <= 2
        monkeypatch.undo()


def test_a_lone_surrogate_is_replaced() -> None:
    """JSON from here is always valid UTF-8."""
    odd = encoder([Series((("k", "a\ud800"),), "n\udfff")], gateway=())
    line = odd.metrics([(Batch.of(0, [1], np.ones(1)), NO_MARKS)])
    assert json.loads(line)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["name"] == "n?"


def test_messages_that_are_passed_on_say_the_same_as_the_protobuf() -> None:
    """With hex ids, which protobuf's own JSON has not."""
    message = ResourceSpans()
    message.scope_spans.add().spans.add(name="GET", trace_id=bytes(range(16)))
    records = ResourceRecords(
        Signal.TRACES, np.ones(1, np.int64), np.zeros(1, np.int64), (message.SerializeToString(),)
    )
    encoder().check(records)
    (found,) = json.loads(encoder().records(records, Marks(backfill=True)))["resourceSpans"]
    assert found["scopeSpans"] == [{"spans": [{"name": "GET", "traceId": bytes(range(16)).hex()}]}]
    late = {"key": "tidegate.backfill", "value": {"boolValue": True}}
    assert found["resource"]["attributes"] == [
        *({"key": key, "value": {"stringValue": value}} for key, value in GATEWAY),
        late,
    ]


def test_what_cannot_be_passed_on_as_json_is_found_before() -> None:
    """A message that is none; or one of other readings than is said."""
    body = protobuf.delimited(2, protobuf.delimited(2, protobuf.delimited(5, b"\xff")))
    records = ResourceRecords(Signal.TRACES, np.ones(1, np.int64), np.zeros(1, np.int64), (body,))
    with pytest.raises(ValueError, match="not a message of traces"):
        encoder().check(records)
    with pytest.raises(ValueError, match="holds 1"):
        encoder().check(ResourceRecords(Signal.TRACES, records.counts + 1, records.time_ns, records.bodies))


def test_a_request_for_nothing_names_its_list() -> None:
    """There are receivers that refuse an empty object; each is a request of its signal, with nothing in it."""
    encoder = JsonEncoder(series=lambda number: Series("a"), gateway_attributes=(), version="1")
    for signal, kind in (
        (Signal.METRICS, ExportMetricsServiceRequest),
        (Signal.LOGS, ExportLogsServiceRequest),
        (Signal.TRACES, ExportTraceServiceRequest),
    ):
        read = json_format.Parse(encoder.empty[signal], kind())
        assert (read, len(json.loads(encoder.empty[signal]))) == (kind(), 1)
