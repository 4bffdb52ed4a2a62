"""Messages as JSON and back: hex ids, integers as OTLP wants them, what odd JSON becomes."""

from __future__ import annotations

import contextlib
import json

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.codecs import otlp_messages_json, protobuf
from gateway.codecs.otlp_messages_json import from_json, to_json
from gateway.core.contracts import Signal

TRACE, SPAN, PARENT = bytes(range(16)), bytes(range(8)), bytes(range(8, 16))


def traces() -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    message = request.resource_spans.add()
    message.resource.attributes.add(key="traceId").value.string_value = "not an id"
    span = message.scope_spans.add().spans.add(
        name="GET", trace_id=TRACE, span_id=SPAN, parent_span_id=PARENT, kind=2, start_time_unix_nano=2**63
    )
    span.links.add(trace_id=TRACE, span_id=PARENT)
    span.events.add(name="spanId").attributes.add(key="spanId").value.bytes_value = b"\xff"
    span.status.code = 2
    return request


def metrics() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    for kind in ("gauge", "sum", "histogram", "exponential_histogram"):
        point = getattr(scope.metrics.add(name=kind), kind).data_points.add(time_unix_nano=5)
        point.exemplars.add(trace_id=TRACE, span_id=SPAN, as_double=float("nan") if kind == "gauge" else 1.5)
    summary = scope.metrics.add(name="summary").summary.data_points.add(count=2**63, sum=1.5)
    summary.quantile_values.add(quantile=0.5, value=float("inf"))
    return request


def logs() -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(trace_id=TRACE, span_id=SPAN)
    record.body.kvlist_value.values.add(key="n").value.array_value.values.add(int_value=-(2**63))
    return request


WHOLE = {Signal.METRICS: metrics(), Signal.LOGS: logs(), Signal.TRACES: traces()}


def bodies(request) -> list[bytes]:
    return list(protobuf.messages(request.SerializeToString(), 1))


@pytest.mark.parametrize("signal", Signal)
def test_what_is_written_is_read_back(signal: Signal) -> None:
    """All five kinds of metrics, exemplars, links, nested values, ids and the ends of 64 bits."""
    text = to_json(bodies(WHOLE[signal]), signal)
    assert b"\n" not in text
    assert from_json(text, signal) == WHOLE[signal].SerializeToString(deterministic=True)


def test_ids_are_hex_and_enums_and_64_bits_as_otlp_wants_them() -> None:
    """Where base64 belongs it stays: in values."""
    found = json.loads(to_json(bodies(traces()), Signal.TRACES))
    span = found["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert (span["traceId"], span["spanId"], span["parentSpanId"]) == (TRACE.hex(), SPAN.hex(), PARENT.hex())
    assert span["links"] == [{"traceId": TRACE.hex(), "spanId": PARENT.hex()}]
    assert (span["kind"], span["status"], span["startTimeUnixNano"]) == (2, {"code": 2}, str(2**63))
    assert span["events"][0]["attributes"] == [{"key": "spanId", "value": {"bytesValue": "/w=="}}]


def test_a_large_message_becomes_several(monkeypatch) -> None:
    """So that it is never all there as dicts; each has its resource."""
    monkeypatch.setattr(otlp_messages_json, "PIECE_BYTES_MAX", 300)
    request = ExportLogsServiceRequest()
    message = request.resource_logs.add()
    message.resource.attributes.add(key="a").value.string_value = "b"
    records = message.scope_logs.add().log_records
    for k in range(50):
        records.add(time_unix_nano=k + 1)
    records.add(severity_text="x" * 500)
    found = json_format.Parse(to_json(bodies(request), Signal.LOGS), ExportLogsServiceRequest())
    assert len(found.resource_logs) > 3
    assert all(one.resource == message.resource for one in found.resource_logs)
    assert [r for one in found.resource_logs for r in one.scope_logs[0].log_records] == list(records)


@pytest.mark.parametrize("spelling", [{"traceId": "TRACE", "spanId": None}, {"trace_id": "TRACE"}])
def test_json_as_others_write_it(spelling: dict) -> None:
    """Integers as numbers, both spellings of names, null for nothing, and what is not known here."""
    record = {key: value and TRACE.hex().upper() for key, value in spelling.items()}
    record |= {"timeUnixNano": 5, "observedTimeUnixNano": "6", "severityNumber": 9, "body": None, "newer": [{"x": 1}]}
    text = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}], "newer": 1}], "newest": {}})
    found = ExportLogsServiceRequest.FromString(from_json(text.encode(), Signal.LOGS))
    (parsed,) = found.resource_logs[0].scope_logs[0].log_records
    assert (parsed.trace_id, parsed.time_unix_nano, parsed.observed_time_unix_nano) == (TRACE, 5, 6)
    assert (parsed.severity_number, parsed.HasField("body")) == (9, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "Expected `object`"),
        ('"resourceSpans"', "Expected `object`"),
        ("{", "Input data was truncated"),
        ('{"resourceSpans":[3]}', "not iterable"),
        ('{"resourceSpans":{}}', "must be in"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz"}]}]}]}', "ids are hex digits, not 'xyz'"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":5}]}]}]}', "ids are hex digits, not 5"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":5}]}]}]}', "name"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\\ud800"}]}]}]}', "surrogate|unicode|utf-8|Invalid"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply|depth"),
        ('{"resourceSpans":[{"resource":{"attributes":[' + '{"value":{"arrayValue":{"values":[' * 60, "truncated"),
    ],
)
def test_what_is_wrong_with_json_is_said(text: str, says: str) -> None:
    """As ValueError, whatever it is."""
    with pytest.raises(ValueError, match=says):
        from_json(text.encode(), Signal.TRACES)


def test_values_nested_as_deep_as_json_allows() -> None:
    """Deeper than protobuf reads them: refused here rather than by everybody upstream."""
    deep = '{"arrayValue":{"values":[' * 90 + "{}" + "]}}" * 90
    text = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + deep + "}]}]}]}"
    with pytest.raises(ValueError):
        from_json(text.encode(), Signal.LOGS)


def test_what_is_no_message_is_no_json() -> None:
    """Nothing half."""
    with pytest.raises(ValueError, match="not a message of logs"):
        to_json([b"\x0a\xff"], Signal.LOGS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceLogs", "resource", "attributes", "scopeLogs", "logRecords", "traceId", "body", "key", "value"]
            )
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_refused(value: object) -> None:
    """Nothing but ValueError, and what is read is a request."""
    with contextlib.suppress(ValueError):
        ExportLogsServiceRequest.FromString(from_json(json.dumps({"resourceLogs": [value]}).encode(), Signal.LOGS))


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Or they were JSON."""
    with contextlib.suppress(ValueError):
        from_json(data, Signal.METRICS)


def test_what_the_official_parser_stumbles_over_is_refused(monkeypatch) -> None:
    """It is made for JSON that is right."""

    def stumble(*_: object, **__: object) -> None:
        raise AttributeError("'int' object has no attribute 'items'")

    monkeypatch.setattr(json_format, "ParseDict", stumble)
    with pytest.raises(ValueError, match="not a request of logs: 'int' object has no"):
        from_json(b"{}", Signal.LOGS)
