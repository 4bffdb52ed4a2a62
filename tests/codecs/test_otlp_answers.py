"""Checks for reading answers: what a receiver says, and what none would say who took it."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from gateway.codecs import otlp_answers, protobuf
from gateway.codecs.otlp_answers import PartialSuccess


@pytest.mark.parametrize(
    "answer",
    [
        ExportMetricsServiceResponse(
            partial_success=ExportMetricsPartialSuccess(rejected_data_points=3, error_message="no")
        ),
        ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(rejected_log_records=3, error_message="no")),
    ],
)
def test_a_partial_success_is_read(answer) -> None:
    """The signals' answers share their field numbers."""
    assert otlp_answers.read_response(answer.SerializeToString()) == PartialSuccess(3, "no")


@pytest.mark.parametrize("size", [20, 700, 4_000])
def test_a_partial_success_that_is_cut_says_how_many(size: int) -> None:
    """A sentence for each reading makes it longer than is read; sent again, it would be as long each time."""
    long = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=3, error_message="too old; " * 500)
    ).SerializeToString()
    found = otlp_answers.read_response(long[:size], is_cut=True)
    assert found.rejected == 3
    assert found.message.startswith("too old")
    with pytest.raises(otlp_answers.NoResponseError):
        otlp_answers.read_response(long[:size])


LONG_JSON = (
    b'{"note":[{"a":"\\"}"},[1,2.5]],"partialSuccess":{"rejectedDataPoints":"31","errorMessage":"too \\u00e4lt\\n\xc3\xa4; '
    b'say \\"no\\"","more":[{"k":null},true,-1.5e3,{}]}, "last" : "x"}'
)


@pytest.mark.parametrize("size", range(1, len(LONG_JSON)))
def test_a_partial_success_in_json_may_be_cut_anywhere(size: int) -> None:
    """From its name on it is one. What is read of it counts, and what stands behind cannot unsay it."""
    body = LONG_JSON[:size]
    for content_type in ("application/json", ""):
        if b'"partialSuccess":{' not in body:
            with pytest.raises(otlp_answers.NoResponseError):
                otlp_answers.read_response(body, content_type=content_type, is_cut=True)
            continue
        found = otlp_answers.read_response(body, content_type=content_type, is_cut=True)
        whole = otlp_answers.read_response(LONG_JSON, content_type=content_type)
        # Half of a number would be another one.
        assert found.rejected == (31 if b'"31",' in body else 0)
        assert whole.message.startswith(found.message)
        assert found.message or b"too" not in body
        assert found == whole or b"more" not in body


def test_json_that_is_nothing_but_strings_takes_linear_time() -> None:
    """Each was looked at with all that stood before it: an answer of 64 KB took two seconds."""

    def seconds(size: int) -> float:
        body = b"{" + b" " * size + b'""' * size
        # Its own time: a machine that has something else to do in between says nothing of it.
        started = time.thread_time()
        with pytest.raises(otlp_answers.NoResponseError):
            otlp_answers.read_response(body, is_cut=True)
        return time.thread_time() - started

    small, large = min(seconds(2_000) for _ in range(3)), min(seconds(32_000) for _ in range(3))
    assert large < small * 16 * 3


def test_a_count_that_stands_behind_a_long_sentence_is_not_known() -> None:
    """It was taken all the same, and the sentence is told."""
    body = b'{"partialSuccess":{"errorMessage":"' + b"too old; " * 500
    found = otlp_answers.read_response(body, content_type="application/json", is_cut=True)
    assert (found.rejected, found.message[:7]) == (0, "too old")


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"code":7},"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"' + b"x" * 100,
        b'{"captive":true,"user-portal-url":"' + b"x" * 100,
        b'{"message":"partialSuccess: ' + b"x" * 100,
        b'{"deep":' + b"[" * 60_000,
        b'[{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"' + b"x" * 100,
        b'{"partialSuccess":}' + b" " * 100,
    ],
)
def test_json_that_is_cut_and_no_answer_is_none(body: bytes) -> None:
    """Somebody's no, or what may go on to be one; what was broken before it was cut."""
    with pytest.raises(otlp_answers.NoResponseError):
        otlp_answers.read_response(body, content_type="application/json", is_cut=True)


@pytest.mark.parametrize("body", [b"\x00" * 100, b"<html>" * 100, b"\n<html>" * 100, b"\xff" * 100])
def test_what_is_cut_and_no_answer_is_none(body: bytes) -> None:
    """The beginning of a flood, or of a page."""
    with pytest.raises(otlp_answers.NoResponseError):
        otlp_answers.read_response(body, is_cut=True)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"no"}}', PartialSuccess(3, "no")),
        (b'{"partialSuccess":{"rejectedLogRecords":2}}', PartialSuccess(2)),
        (b'{"partialSuccess":{"rejectedSpans":"1"}}', PartialSuccess(1)),
        (b'{"partialSuccess":{"rejectedDataPoints":"0","errorMessage":"slow"}}', PartialSuccess(0, "slow")),
        (b'{"partial_success":{"rejected_data_points":5,"error_message":"no"}}', PartialSuccess(5, "no")),
        (b'{"partial_success":{"rejected_log_records":"4"}}', PartialSuccess(4)),
        (b'{"partialSuccess":null}', PartialSuccess()),
        (b"{}", PartialSuccess()),
        (b"null", PartialSuccess()),
        (b"", PartialSuccess()),
        (b'{"partialSuccess":{"rejectedDataPoints":"many"}}', PartialSuccess()),
        (b'{"partialSuccess":{"rejectedDataPoints":-4}}', PartialSuccess()),
        (b'{"partialSuccess":{"rejectedDataPoints":{}}}', PartialSuccess()),
        (b'{"partialSuccess":{"rejectedDataPoints":1e999}}', PartialSuccess()),
    ],
)
def test_json_answers_are_tolerated(body: bytes, found: PartialSuccess) -> None:
    """Null, absent, nonsense: the request was taken and nothing is known to be rejected."""
    assert otlp_answers.read_response(body, content_type="application/json; charset=utf-8") == found


@pytest.mark.parametrize(
    "body", [b"[]", b"[" * 100_000, b"\xff\xfe", b"7", b'{"error":{"code":8}}', b'{"errors":["no"]}']
)
def test_json_that_no_receiver_says(body: bytes) -> None:
    """A list, a number, garbage or somebody else's error is no answer."""
    with pytest.raises(otlp_answers.NoResponseError):
        otlp_answers.read_response(body, content_type="application/json")


@pytest.mark.parametrize(
    "body",
    [
        b'{"captive":true,"user-portal-url":"https://login.example/"}',
        b'{"code":16,"message":"unauthenticated"}',
        b'{"code":"16"}',
        b'{"code":"UNAUTHENTICATED"}',
        b'{"success":false,"message":"invalid token"}',
        b'{"success":"false"}',
        b'{"ok":0}',
        b'{"status":"error","message":"quota"}',
        b'{"status":"Failed"}',
        b'{"status":"unauthorized"}',
        b'{"status":401,"title":"Unauthorized"}',
        b'{"status":{"code":7}}',
        b'{"status":false}',
    ],
)
def test_a_no_that_comes_as_success_is_no_delivery(body: bytes) -> None:
    """A captive portal's JSON (RFC 8908), a google.rpc.Status, homemade ones: to believe them would lose the data."""
    with pytest.raises(otlp_answers.NoResponseError):
        otlp_answers.read_response(body, content_type="application/json")


@pytest.mark.parametrize(
    "body",
    [
        b'{"captive":false,"code":0,"message":""}',
        b'{"code":200,"message":"ok"}',
        b'{"code":"0"}',
        b'{"success":true,"error":null,"errors":[]}',
        b'{"ok":true,"status":"accepted"}',
        b'{"ok":null,"status":202}',
        b'{"status":{"code":0}}',
    ],
)
def test_a_yes_of_somebodys_own_is_one(body: bytes) -> None:
    """Homemade receivers say yes in many ways: to hold what they took would send it for ever."""
    assert otlp_answers.read_response(body, content_type="application/json") == PartialSuccess()


def test_a_status_in_protobuf_is_no_delivery() -> None:
    """google.rpc.Status has its code where a response has its message."""
    status = protobuf.integer(1, 16) + protobuf.text(2, "unauthenticated")
    with pytest.raises(otlp_answers.NoResponseError):
        otlp_answers.read_response(status, content_type="application/x-protobuf")


@given(st.binary(max_size=80), st.sampled_from(["", "application/json", "application/x-protobuf", "text/plain"]))
def test_any_answer_is_read(body: bytes, content_type: str) -> None:
    """Whatever a server answers, reading ends with a count and a bounded printable sentence, or says that it is none."""
    for is_cut in (False, True):
        with contextlib.suppress(otlp_answers.NoResponseError):
            assert otlp_answers.read_response(body, content_type=content_type, is_cut=is_cut).rejected >= 0
    message = otlp_answers.read_status_message(body, content_type=content_type)
    assert len(message) <= otlp_answers.MESSAGE_CHARS_MAX
    assert message.isprintable()


def test_protobuf_answers_with_odd_fields_are_tolerated() -> None:
    """Wrong wire types and unknown fields are passed over; a long message is cut."""
    odd = protobuf.delimited(1, b"") + protobuf.integer(2, 1) + protobuf.integer(9, 1)
    assert otlp_answers.read_response(protobuf.delimited(1, odd)) == PartialSuccess()
    long = protobuf.text(2, "x" * 10_000)
    assert len(otlp_answers.read_response(protobuf.delimited(1, long)).message) == otlp_answers.MESSAGE_CHARS_MAX
    odd = protobuf.delimited(1, protobuf.text(2, "no\x1b[2J\u202e\r\nfake"))
    assert otlp_answers.read_response(odd).message == "no [2J fake"


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b'{"code":3,"message":"bad\\nname"}', "application/json", "bad name"),
        (b"too\r\nlarge \x1b[31m", "text/plain; charset=utf-8", "too large [31m"),
        (protobuf.integer(1, 3) + protobuf.text(2, "bad"), "application/x-protobuf", "bad"),
        (b"", "", ""),
        (b"\x0a", "", ""),
        (b"[]", "application/json", ""),
    ],
)
def test_the_sentence_of_an_error_is_found(body: bytes, content_type: str, message: str) -> None:
    """Whatever form the server chose, people read its sentence on one line."""
    assert otlp_answers.read_status_message(body, content_type=content_type) == message
