"""What a receiver answers, held against the official classes."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway.codecs import protobuf
from gateway.codecs.otlp_answers import PartialSuccess, read_response, read_status_message
from gateway.codecs.otlp_replies import JSON, PROTOBUF, failure, success
from gateway.core.contracts import Signal

RESPONSES = {
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points"),
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records"),
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans"),
}


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("kind", [JSON, PROTOBUF])
def test_what_was_taken_is_said(signal: Signal, kind: str) -> None:
    """All of it, which leaves partial_success unset; or all but some, and why."""
    response, field = RESPONSES[signal]
    for rejected, message in ((0, ""), (2**40, "too large")):
        body = success(signal, kind, rejected=rejected, message=message)
        found = response()
        if kind == JSON:
            json_format.Parse(body, found)
        else:
            found.ParseFromString(body)
        assert found.HasField("partial_success") is bool(rejected)
        assert (getattr(found.partial_success, field), found.partial_success.error_message) == (rejected, message)
        assert read_response(body, content_type=kind) == PartialSuccess(rejected, message)


@pytest.mark.parametrize(
    ("status", "code"), [(400, 3), (401, 16), (404, 12), (413, 8), (415, 3), (429, 8), (500, 13), (503, 14)]
)
def test_why_it_was_not_taken_is_said(status: int, code: int) -> None:
    """As google.rpc.Status."""
    assert json.loads(failure(status, JSON, "no")) == {"code": code, "message": "no"}
    assert {n: v for n, _, v in protobuf.fields(failure(status, PROTOBUF, "no"))} == {1: code, 2: b"no"}
    for kind in (JSON, PROTOBUF):
        assert read_status_message(failure(status, kind, "bad name"), content_type=kind) == "bad name"
