"""gRPC's own words, beside what the official classes make of them."""

from __future__ import annotations

import base64
import re

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import grpc as module
from gateway.codecs import protobuf
from gateway.codecs.grpc import (
    DETAILS,
    METHODS,
    RETRY_ALONE,
    Code,
    Status,
    Unframer,
    prefix,
    read_status,
    read_timeout,
    timeout_header,
    write_status,
)
from gateway.core.contracts import Signal


def details(*infos: object, code: int = 14) -> str:
    status = status_pb2.Status(code=code, message="later")
    for info in infos:
        status.details.add().Pack(info)
    return base64.b64encode(status.SerializeToString()).decode()


def retry(seconds: int, nanos: int = 0) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))


def test_methods_are_those_of_the_services() -> None:
    """As opentelemetry-proto names them."""
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    modules = {Signal.METRICS: metrics_service_pb2, Signal.LOGS: logs_service_pb2, Signal.TRACES: trace_service_pb2}
    for signal, one in modules.items():
        (service,) = one.DESCRIPTOR.services_by_name.values()
        assert METHODS[signal] == f"/{service.full_name}/{service.methods[0].name}"


@given(st.binary(max_size=40), st.booleans(), st.integers(1, 50))
def test_a_message_is_read_in_whatever_pieces_it_comes(message: bytes, is_compressed: bool, size: int) -> None:
    """Whole, byte by byte; and what follows it is none of it."""
    whole = prefix(len(message), is_compressed=is_compressed) + message
    unframer = Unframer(bytes_max=40)
    found = b"".join(unframer.feed(whole[at : at + size]) for at in range(0, len(whole), size))
    assert (found, unframer.is_compressed, unframer.size_bytes) == (message, is_compressed, len(message))
    assert unframer.is_whole
    with pytest.raises(ValueError, match="more than one message"):
        unframer.feed(b"x")


def test_a_message_is_known_to_be_too_long_by_its_first_bytes() -> None:
    """And what is none to be none."""
    with pytest.raises(OverflowError, match="a message of 41 bytes, 40 at most"):
        Unframer(bytes_max=40).feed(prefix(41, is_compressed=False))
    with pytest.raises(ValueError, match="begins with 0 or 1, not with 10"):
        Unframer(bytes_max=40).feed(b"\x0a\x00\x00\x00\x00")
    assert not Unframer(bytes_max=40).is_whole


@pytest.mark.parametrize("padding", [True, False])
def test_retry_info_is_found_among_details(padding: bool) -> None:
    """Whatever stands before it, with or without base64's padding, whoever joined two headers."""
    text = details(error_details_pb2.ErrorInfo(reason="busy"), retry(3, 500_000_000))
    text = text if padding else text.rstrip("=")
    status = read_status({"grpc-status": "8", "grpc-message": "quota", DETAILS: text})
    assert status == Status(8, "quota", 3.5)
    assert read_status({"grpc-status": "8", DETAILS: f"{text},{text}"}).retry_s == 3.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (details(), None),
        (details(error_details_pb2.ErrorInfo(reason="busy")), None),
        (details(error_details_pb2.RetryInfo()), 0.0),
        (details(retry(-5)), 0.0),
        ("%%%", None),
        ("a", None),
        ("CgE", None),
        (base64.b64encode(b"\x1a\xff").decode(), None),
        ("A" * 20_000, None),
        (
            base64.b64encode(
                protobuf.delimited(3, protobuf.text(1, "x/google.rpc.RetryInfo") + b"\x12\x02\x0a\x05")
            ).decode(),
            None,
        ),
        # A duration whose fields are of other kinds than they should be.
        (
            base64.b64encode(
                protobuf.delimited(
                    3,
                    protobuf.text(1, "/google.rpc.RetryInfo")
                    + protobuf.delimited(2, protobuf.delimited(1, protobuf.text(1, "x") + protobuf.integer(3, 1))),
                )
            ).decode(),
            0.0,
        ),
    ],
)
def test_odd_details_say_nothing(text: str, seconds: float | None) -> None:
    """The status stands all the same."""
    assert read_status({"grpc-status": "14", DETAILS: text}) == Status(14, "", seconds)


@pytest.mark.parametrize("code", ["", "-1", "9999", "x", "٣"])
def test_what_is_no_status_is_none(code: str) -> None:
    """Neither words nor numbers that nobody has."""
    assert read_status({"grpc-status": code}) is None


def test_a_message_is_one_line() -> None:
    """Percent-encoded UTF-8, broken where somebody cut it."""
    status = read_status({"grpc-status": "3", "grpc-message": "n%C3%B6%0Aline%E2%82 100%"})
    assert (status.message, status.name, Status(77).name) == ("nö line\ufffd 100%", "INVALID_ARGUMENT", "status 77")


@given(st.sampled_from(Code), st.text(max_size=60), st.none() | st.floats(0, 10_000))
def test_what_is_written_is_read_by_the_official_classes(code: Code, message: str, retry_s: float | None) -> None:
    """And by ours."""
    trailers = dict(write_status(code, message, retry_s))
    assert all(re.fullmatch(r"[ -~]*", value) for value in trailers.values())
    read = read_status(trailers)
    assert (read.code, read.retry_s is None) == (code, retry_s is None)
    if retry_s is None:
        return
    assert abs(read.retry_s - retry_s) < 1e-6
    status = status_pb2.Status.FromString(base64.b64decode(trailers[DETAILS] + "=" * (-len(trailers[DETAILS]) % 4)))
    found = error_details_pb2.RetryInfo()
    assert isinstance(status.details[0], any_pb2.Any)
    assert status.details[0].Unpack(found)
    assert (status.code, abs(found.retry_delay.seconds + found.retry_delay.nanos / 1e9 - retry_s) < 1e-6) == (
        code,
        True,
    )
    alone = trailers[RETRY_ALONE] + "=" * (-len(trailers[RETRY_ALONE]) % 4)
    assert error_details_pb2.RetryInfo.FromString(base64.b64decode(alone)) == found


def test_deadlines() -> None:
    """Eight digits at most; units as the protocol has them."""
    assert [read_timeout(text) for text in ("1H", "2M", "3S", "5u", "7n", "123456789S", "1x")] == [
        3600.0, 120.0, 3.0, pytest.approx(5e-6), pytest.approx(7e-9), None, None,
    ]  # fmt: skip
    for seconds in (0.0, 0.25, 10.0, 86_400.0, 200_000.0):
        found = read_timeout(timeout_header(seconds))
        assert found == pytest.approx(max(seconds, 0.001), abs=1.0)
    assert module.is_grpc("Application/grpc; charset=utf-8")
