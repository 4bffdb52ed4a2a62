"""Records stand one behind the other, and a reader finds where each begins."""

from __future__ import annotations

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from gateway.codecs.otlp import NO_MARKS
from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.contracts import Signal
from gateway.uplinks.file_records import FILE_JSON, FILE_PROTOBUF, RecordEncoder, delimited
from gateway.uplinks.requests import encoder_of

SERIES = Series((("device.id", "a"),), "temperature", "Cel")


def encoder(protocol: str) -> RecordEncoder:
    made = encoder_of(protocol, series=lambda _: SERIES, gateway_attributes=(), version="1")
    assert isinstance(made, RecordEncoder)
    return made


@pytest.mark.parametrize("protocol", [FILE_JSON, FILE_PROTOBUF])
def test_a_record_is_a_request_with_its_end_or_its_length(protocol) -> None:
    """Of all three kinds; what is written is what a receiver would have been sent."""
    inner = encoder_of(protocol.replace("file", "http"), series=lambda _: SERIES, gateway_attributes=(), version="1")
    batch, logs = [(Batch.of(1, [10**18], np.array([1.5])), NO_MARKS)], LogRecords(np.array([1]), np.array([1]), (b"",))
    body = ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name="x")])]).SerializeToString()
    spans = ResourceRecords(Signal.TRACES, np.array([1]), np.array([0]), (body,))
    records = encoder(protocol)
    records.check(spans)
    for made, request in (
        (records.metrics(batch), inner.metrics(batch)),
        (records.logs(logs, NO_MARKS), inner.logs(logs, NO_MARKS)),
        (records.records(spans, NO_MARKS), inner.records(spans, NO_MARKS)),
    ):
        whole = request + b"\n" if protocol == FILE_JSON else delimited(request)
        assert made == whole
        assert b"\n" not in request or protocol == FILE_PROTOBUF
    assert (set(records.empty.values()), records.messages_bytes_max) == ({b""}, inner.messages_bytes_max)


@pytest.mark.parametrize("protocol", [FILE_JSON, FILE_PROTOBUF])
def test_what_is_no_message_is_refused_as_elsewhere(protocol) -> None:
    """A record that no reader could read is not written."""
    with pytest.raises(ValueError, match=r"."):
        encoder(protocol).check(ResourceRecords(Signal.TRACES, np.array([1]), np.array([0]), (b"\xff",)))


def test_lengths_are_varints() -> None:
    """As protobuf's libraries read them, of one byte and of more."""
    assert delimited(bytes(200))[:3] == b"\xc8\x01\x00"
    assert delimited(b"") == b"\x00"
