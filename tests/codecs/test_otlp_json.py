"""Checks for OTLP JSON: what it says is what the protobuf says, and its odd rules are kept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from gateway.codecs import otlp, otlp_json
from gateway.codecs.otlp import NO_MARKS, Marks, MetricsEncoder
from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.contracts import MalformedError

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


def as_json(groups) -> bytes:
    return otlp_json.metrics_json(groups, series=SERIES.__getitem__, gateway_attributes=GATEWAY, version="0.1.0")


def log_json(*bodies: bytes, marks: Marks = NO_MARKS) -> dict:
    records = LogRecords(np.zeros(len(bodies), np.uint32), np.zeros(len(bodies), np.int64), bodies)
    shared = {
        "series": LOG_SERIES.__getitem__,
        "gateway_attributes": GATEWAY,
        "version": "0.1.0",
        "marks": marks,
    }
    return json.loads(otlp_json.logs_json(records, **shared))


def test_metrics_say_the_same_as_the_protobuf() -> None:
    """Both encoders make the same message of the same batches."""
    batch = Batch.join(
        [
            Batch.of(0, [10, 20], np.array([1.5, -0.25])),
            Batch.of(1, [10, 20], np.array([5, 2**62])),
            Batch.of(2, [10], np.array([True])),
        ]
    )
    groups = [(batch, NO_MARKS), (batch.take(slice(0, 1)), Marks(backfill=True, time_quality="repaired"))]
    encoder = MetricsEncoder(series=SERIES.__getitem__, gateway_attributes=GATEWAY, version="0.1.0")
    line = as_json(groups)
    assert b"\n" not in line
    parsed = json_format.Parse(line, ExportMetricsServiceRequest())
    assert parsed == ExportMetricsServiceRequest.FromString(encoder.encode(groups))


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
    shared = {
        "series": LOG_SERIES.__getitem__,
        "gateway_attributes": GATEWAY,
        "version": "1",
        "marks": Marks(backfill=True),
    }
    parsed = json_format.Parse(otlp_json.logs_json(records, **shared), ExportLogsServiceRequest())
    assert parsed == ExportLogsServiceRequest.FromString(otlp.encode_logs_request(records, **shared))


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


def test_a_damaged_record_is_refused_by_name() -> None:
    """What is not a LogRecord raises MalformedError."""
    with pytest.raises(MalformedError, match="log record is damaged"):
        log_json(b"\xff\xff")


def test_a_lone_surrogate_is_replaced() -> None:
    """JSON from here is always valid UTF-8."""
    line = otlp_json.metrics_json(
        [(Batch.of(0, [1], np.ones(1)), NO_MARKS)],
        series=[Series((("k", "a\ud800"),), "n\udfff")].__getitem__,
        gateway_attributes=(),
        version="1",
    )
    assert json.loads(line)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["name"] == "n?"
