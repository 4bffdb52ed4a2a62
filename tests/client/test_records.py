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
    assert records.any_value(deep, "body", room=records.Room())
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        records.any_value([deep], "body", room=records.Room())
    with pytest.raises(TypeError, match=r"body\['a'\] has a set"):
        records.any_value({"a": {1}}, "body", room=records.Room())
    with pytest.raises(TypeError, match="a key of body is 1"):
        records.any_value({1: 1}, "body", room=records.Room())


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


def laughing() -> list[object]:
    value: list[object] = ["ha"] * 10
    for _ in range(12):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [range(10**12), laughing(), {"a": [[0] * 1000] * 1000}, ["x" * 1000] * 10**6],
    ids=["range", "tree", "few", "texts"],
)
def test_what_is_too_large_is_not_written_out_first(value: object) -> None:
    """A few bytes of a program's that say themselves again and again would take all of its memory, and hours."""
    with pytest.raises(ValueError, match="262144 are the most"):
        records.log_record("x", severity="INFO", attributes={"k": value}, trace_id=None, span_id=None)
    with pytest.raises(ValueError, match="262144 are the most"):
        records.log_record(value, severity="INFO", attributes=None, trace_id=None, span_id=None)


def test_events_without_an_end_are_not_waited_for() -> None:
    """They are iterated over, whatever makes them."""
    ids = records.span_ids(None, None, None)
    more = {"kind": "internal", "attributes": None, "status": "unset", "message": ""}
    with pytest.raises(ValueError, match="262144 are the most"):
        records.span("x", ids, 0, 1, events=iter(lambda: ("again", 1), None), **more)
