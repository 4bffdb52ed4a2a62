"""What is well-formed is what the official classes read, whatever its size; what can be kept is whole."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from gateway.codecs import otlp_intake, protobuf
from gateway.codecs.otlp_intake import TooManyError, open_request
from gateway.core.contracts import Signal

CLASSES = {
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}


def logs(*texts: str, resources: int = 1) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    for _ in range(resources):
        message = request.resource_logs.add()
        message.resource.attributes.add(key="service.name").value.string_value = "app"
        scope = message.scope_logs.add()
        for text in texts:
            scope.log_records.add().body.string_value = text
    return request


def metrics() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    histogram = scope.metrics.add(name="h").exponential_histogram.data_points.add()
    histogram.positive.bucket_counts.extend(range(100_000))
    histogram.exemplars.add(as_double=1.5, trace_id=bytes(16))
    scope.metrics.add(name="n" * 70_000, description="d" * 400_000).gauge.data_points.add(as_int=1)
    return request


@pytest.mark.parametrize("read_bytes_max", [40, 300, 128 * 1024])
def test_messages_are_kept_as_they_came(read_bytes_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are read; unknown fields and all; those without a reading are none."""
    monkeypatch.setattr(otlp_intake, "READ_BYTES_MAX", read_bytes_max)
    request = logs("one", "two" * 100, resources=2)
    request.resource_logs.add()
    bodies = [message.SerializeToString() for message in request.resource_logs]
    bodies[0] += protobuf.text(99, "from the future" * 30)
    body = b"".join(protobuf.delimited(1, one) for one in bodies) + protobuf.text(7, "newer")
    taken = open_request(body, Signal.LOGS)
    assert (taken.bodies, taken.counts, taken.oversize, len(taken)) == (bodies[:2], [2, 2], 0, 4)


def test_large_fields_of_all_kinds_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed numbers, texts, bytes, what is not known."""
    monkeypatch.setattr(otlp_intake, "READ_BYTES_MAX", 1000)
    body = metrics().SerializeToString() + protobuf.text(77, "?" * 5000)
    taken = open_request(body, Signal.METRICS)
    assert taken.counts == [2]
    assert ResourceMetrics.FromString(taken.bodies[0]) == metrics().resource_metrics[0]
    bytes_value = logs("a")
    bytes_value.resource_logs[0].scope_logs[0].log_records[0].body.bytes_value = b"\xff" * 5000
    assert open_request(bytes_value.SerializeToString(), Signal.LOGS).counts == [1]


@pytest.mark.parametrize("size", [10, 5000])
def test_a_text_that_is_none_is_refused_whatever_its_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody upstream would refuse it, and all that is with it."""
    monkeypatch.setattr(otlp_intake, "READ_BYTES_MAX", 1000)
    for end in (b"\xff", b"\xc3"):
        value = protobuf.delimited(5, protobuf.delimited(1, b"x" * size + end))
        body = protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, value)))
        with pytest.raises(ValueError):
            open_request(body, Signal.LOGS)
    value = protobuf.delimited(5, protobuf.text(1, "ö" * size))
    body = protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, value)))
    assert open_request(body, Signal.LOGS).counts == [1]


def test_a_field_that_should_be_a_message_and_is_a_number_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the official classes; and one that should be a number and is a large text."""
    monkeypatch.setattr(otlp_intake, "READ_BYTES_MAX", 100)
    record = protobuf.integer(5, 7) + protobuf.text(2, "severity" * 100)
    body = protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, record)))
    assert CLASSES[Signal.LOGS].FromString(body).resource_logs[0].scope_logs[0].log_records
    assert open_request(body, Signal.LOGS).counts == [1]


def test_a_large_group_is_an_unknown_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing in it to be read."""
    monkeypatch.setattr(otlp_intake, "READ_BYTES_MAX", 100)
    record = b"\xa3\x06" + protobuf.text(1, "x" * 300) + b"\xa4\x06"
    body = protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, record)))
    assert open_request(body, Signal.LOGS).counts == [1]


def nested(depth: int, *, padding: int = 0) -> bytes:
    value = protobuf.text(1, "x" * padding)
    for _ in range(depth):
        value = protobuf.delimited(5, protobuf.delimited(1, value))
    return protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, protobuf.delimited(5, value))))


@pytest.mark.parametrize("padding", [0, 300_000])
def test_values_inside_of_values_are_as_deep_as_others_read_them(padding: int) -> None:
    """Whether they are read in one piece or not."""
    assert open_request(nested(30, padding=padding), Signal.LOGS).counts == [1]
    with pytest.raises(ValueError):
        open_request(nested(60, padding=padding), Signal.LOGS)
    with pytest.raises(ValueError):
        open_request(nested(3000, padding=padding), Signal.LOGS)


def test_what_is_too_large_to_be_kept_is_counted() -> None:
    """One record of more than a megabyte; the others are kept."""
    taken = open_request(logs("a", "b" * (1 << 20), "c").SerializeToString(), Signal.LOGS)
    assert (sum(taken.counts), taken.oversize) == (2, 1)


def test_a_large_message_is_kept_in_pieces() -> None:
    """Each with its resource, none of more than what a segment holds."""
    request = logs(*["x" * 1000] * 3000)
    taken = open_request(request.SerializeToString(), Signal.LOGS)
    assert (len(taken), len(taken.bodies)) == (3000, 3)
    assert max(map(len, taken.bodies)) < (1 << 20) + 1000


def test_two_bytes_that_stand_for_a_record_are_not_taken_by_the_million() -> None:
    """Nor is memory for them."""
    body = protobuf.delimited(1, protobuf.delimited(2, b"\x12\x00" * (1 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(TooManyError, match="1048576 in one request; at most 131072"):
            open_request(body, Signal.LOGS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        with pytest.raises(TooManyError, match="1048576 resources in one request; at most 16384"):
            open_request(b"\x0a\x00" * (1 << 20), Signal.LOGS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=60), st.sampled_from(Signal), st.sampled_from([8, 1000]))
def test_what_is_taken_is_what_the_official_classes_read(data: bytes, signal: Signal, read_bytes_max: int) -> None:
    """Nothing but ValueError comes of anything else."""
    whole = protobuf.delimited(1, protobuf.delimited(2, data))
    for body in (data, whole):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(otlp_intake, "READ_BYTES_MAX", read_bytes_max)
            try:
                taken = open_request(body, signal)
            except ValueError:
                continue
        request = CLASSES[signal].FromString(body)
        assert CLASSES[signal].FromString(b"".join(protobuf.delimited(1, one) for one in taken.bodies)) is not None
        assert len(taken) + taken.oversize >= 0
        assert request is not None


def test_a_request_that_is_cut_anywhere_is_refused_or_shorter() -> None:
    """Never more than the official classes make of it."""
    body = logs("one", "two", resources=2).SerializeToString()
    for end in range(len(body)):
        try:
            taken = open_request(body[:end], Signal.LOGS)
        except ValueError:
            continue
        request = ExportLogsServiceRequest.FromString(body[:end])
        assert len(taken) == sum(len(s.log_records) for r in request.resource_logs for s in r.scope_logs)
