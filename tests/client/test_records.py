"""Log records and spans as messages; what is in each stands in tests/client/test_client.py."""

from __future__ import annotations

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs

from gateway.client import records
from gateway.codecs import protobuf
from gateway.codecs.otlp_messages import PATHS, count
from gateway.core.contracts import Signal

HEAD = protobuf.delimited(1, b"")
SCOPE = protobuf.delimited(1, protobuf.text(1, "scope"))


def some(number: int, size: int = 10) -> list[bytes]:
    return [protobuf.delimited(5, protobuf.text(1, f"{k}".ljust(size))) for k in range(number)]


def test_messages_are_bounded_in_records_and_bytes() -> None:
    """All of them are there, in order, each message with its resource and scope."""
    for given in (some(20_000), some(40, 100_000), some(1), []):
        made = list(records.messages(HEAD, SCOPE, given))
        assert sum(number for number, _ in made) == len(given)
        bodies = []
        for number, message in made:
            assert len(message) <= records.MESSAGE_BYTES_MAX + 200_000
            assert number <= records.MESSAGE_RECORDS_MAX
            assert number == count(message, PATHS[Signal.LOGS])
            parsed = ResourceLogs.FromString(message)
            assert parsed.HasField("resource")
            (scope,) = parsed.scope_logs
            assert scope.scope.name == "scope"
            bodies += [record.SerializeToString() for record in scope.log_records]
        assert bodies == [LogRecord.FromString(record).SerializeToString() for record in given]


def test_a_value_has_a_depth() -> None:
    """Lists in lists, but not for ever."""
    deep: object = 1
    for _ in range(records.DEPTH_MAX):
        deep = [deep]
    assert records.any_value(deep, "body")
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        records.any_value([deep], "body")
    with pytest.raises(TypeError, match=r"body\['a'\] has a set"):
        records.any_value({"a": {1}}, "body")
    with pytest.raises(TypeError, match="a key of body is 1"):
        records.any_value({1: 1}, "body")


def test_ids() -> None:
    """As others show them; none is all zeros, or of another length."""
    assert records.identifier("00" * 7 + "01", 8, "span_id") == bytes(7) + b"\1"
    assert records.identifier(1, 8, "span_id") == bytes(7) + b"\1"
    assert records.identifier(bytearray(b"12345678"), 8, "span_id") == b"12345678"
    for odd in ("", "xyz", "00" * 8, 0, -1, 1 << 64, b"1234567"):
        with pytest.raises(ValueError, match="span_id is no id; give 16 hexadecimal digits"):
            records.identifier(odd, 8, "span_id")
    for odd in (True, None, 1.5):
        with pytest.raises(TypeError, match="span_id is a"):
            records.identifier(odd, 8, "span_id")
    assert len({records.span_ids(None, None, None).shown() for _ in range(100)}) == 100


def test_times_before_1970_are_unknown() -> None:
    """As OTLP has it."""
    record = LogRecord.FromString(records.with_times(b"", -5, 7))
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (0, 7)
