"""The OTLP receiver keeps, counts and misbehaves as it claims."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import ssl
import struct
import time
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hil.children import python
from hil.otlp_count import count_points, count_records
from hil.otlp_sink import Behaviour, zstd


def request(values: list[float], *, device: str = "d1", mark: str = "", attributes: tuple[str, ...] = ()) -> bytes:
    """Return an export request with one gauge of one device."""
    message = ExportMetricsServiceRequest()
    resource = message.resource_metrics.add()
    resource.resource.attributes.add(key="device.id").value.string_value = device
    if mark:
        resource.resource.attributes.add(key="tidegate.backfill").value.string_value = mark
    metric = resource.scope_metrics.add().metrics.add(name="temperature", unit="Cel")
    for index, value in enumerate(values):
        point = metric.gauge.data_points.add(time_unix_nano=10**18 + index, as_double=value)
        for text in attributes:
            point.attributes.add(key=text).value.string_value = text
    return message.SerializeToString()


def post(sink, body: bytes, *, path: str = "/v1/metrics", encoding: str = "") -> tuple[int, bytes, dict[str, str]]:
    """Send a request on a connection of its own."""
    connection = http.client.HTTPConnection(sink.host, sink.port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Encoding": encoding} if encoding else {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers.items())
    finally:
        connection.close()


def test_readings_are_kept_with_how_often_they_came(otlp_sink) -> None:
    """Resource, metric, time and value; a repeat counts twice."""
    post(otlp_sink, request([20.5, 21.0]))
    post(otlp_sink, request([20.5]))
    readings = otlp_sink.readings()
    assert {(r.device, r.metric, r.time_ns, r.value): n for r, n in readings.items()} == {
        ("d1", "temperature", 10**18, 20.5): 2,
        ("d1", "temperature", 10**18 + 1, 21.0): 1,
    }
    assert otlp_sink.totals.readings == 3


def test_the_gateways_own_marks_do_not_make_another_reading(otlp_sink) -> None:
    """The same reading, sent again as backfill, is a duplicate."""
    post(otlp_sink, request([1.0]))
    post(otlp_sink, request([1.0], mark="true"))
    assert list(otlp_sink.readings().values()) == [2]


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("zstd", zstd.compress), ("", bytes)])
def test_encodings(otlp_sink, encoding: str, encode) -> None:
    """gzip, zstd and none are understood; wire and decoded bytes are counted apart."""
    body = request([1.0] * 1000)
    sent = encode(body)
    assert post(otlp_sink, sent, encoding=encoding)[0] == 200
    assert otlp_sink.totals.body_bytes == len(sent)
    assert otlp_sink.totals.decoded_bytes == len(body)
    assert otlp_sink.requests[0].body == body


def test_statuses_and_waits_are_scripted_in_order(otlp_sink) -> None:
    """The script is for the next requests, one each; then `always`."""
    otlp_sink.behave(Behaviour(status=429, retry_after="7"), Behaviour(status=503))
    status, _, headers = post(otlp_sink, request([1.0]))
    assert (status, headers["Retry-After"]) == (429, "7")
    assert post(otlp_sink, request([1.0]))[0] == 503
    assert not otlp_sink.readings()
    assert post(otlp_sink, request([1.0]))[0] == 200
    otlp_sink.always = Behaviour(status=502)
    assert post(otlp_sink, request([1.0]))[0] == 502
    assert otlp_sink.totals.refused == 3


def test_a_cut_before_reading_takes_nothing(otlp_sink) -> None:
    """The sender sees a reset; nothing was received."""
    otlp_sink.behave(Behaviour(cut="before_read"))
    with pytest.raises(ConnectionError):
        post(otlp_sink, request([1.0]))
    assert not otlp_sink.readings()


@pytest.mark.parametrize("cut", ["after_read", "mid_answer"])
def test_a_lost_answer_explains_a_duplicate_and_nothing_else_does(otlp_sink, cut: str) -> None:
    """Taken, not answered: sent again is explained. Answered: sent again is not."""
    otlp_sink.behave(Behaviour(cut=cut))
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        post(otlp_sink, request([1.0]))
    assert sum(otlp_sink.readings().values()) == 1
    post(otlp_sink, request([1.0]))
    assert otlp_sink.unexplained_duplicates() == []
    post(otlp_sink, request([1.0]))
    assert [r.value for r in otlp_sink.unexplained_duplicates()] == [1.0]


def test_a_delay_holds_the_answer_back(otlp_sink) -> None:
    """A slow far side."""
    otlp_sink.behave(Behaviour(delay_s=0.1))
    started_s = time.monotonic()
    post(otlp_sink, request([1.0]))
    assert time.monotonic() - started_s >= 0.1


def test_partial_success(otlp_sink) -> None:
    """Rejected points and a message, as the protocol says them."""
    otlp_sink.behave(Behaviour(rejected=3, message="too old"))
    _, body, _ = post(otlp_sink, request([1.0]))
    answer = ExportMetricsServiceResponse.FromString(body)
    assert (answer.partial_success.rejected_data_points, answer.partial_success.error_message) == (
        3,
        "too old",
    )


def test_garbage_answers(otlp_sink) -> None:
    """Any bytes with any content type can be the answer."""
    otlp_sink.behave(Behaviour(answer=b"<html>", content_type="text/html"))
    status, body, headers = post(otlp_sink, request([1.0]))
    assert (status, body, headers["Content-Type"]) == (200, b"<html>", "text/html")


def test_a_server_that_does_not_know_zstd(otlp_sink) -> None:
    """400 to that encoding, 200 to others."""
    otlp_sink.always = Behaviour(refuse_encoding="zstd")
    assert post(otlp_sink, zstd.compress(request([1.0])), encoding="zstd")[0] == 400
    assert post(otlp_sink, gzip.compress(request([1.0])), encoding="gzip")[0] == 200


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"\xff\xff", ""), (b"not gzip", "gzip"), (b"not zstd", "zstd"), (b"", "br")]
)
@pytest.mark.parametrize("mode", ["keep", "count"])
def test_what_is_not_otlp_is_refused(make_otlp_sink, mode: str, body: bytes, encoding: str) -> None:
    """400, and the sink goes on."""
    sink = make_otlp_sink(mode=mode)
    assert post(sink, body, encoding=encoding)[0] == 400
    assert post(sink, request([1.0]))[0] == 200
    assert sink.totals.readings == 1


def test_traces_are_taken_as_json_too(otlp_sink) -> None:
    """With hex ids, as OTLP has them; metrics of other kinds than gauges and sums are no readings."""
    span = {"name": "GET", "traceId": bytes(range(16)).hex(), "spanId": bytes(8).hex()}
    histogram = {"name": "h", "histogram": {"dataPoints": [{"timeUnixNano": "5"}]}}
    for path, body in (
        ("/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}),
        ("/v1/metrics", {"resourceMetrics": [{"scopeMetrics": [{"metrics": [histogram]}]}]}),
    ):
        asked = urllib.request.Request(otlp_sink.url + path, json.dumps(body).encode(), method="POST")
        asked.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer) == {}
    traces = ExportTraceServiceRequest.FromString(otlp_sink.requests[0].body)
    assert traces.resource_spans[0].scope_spans[0].spans[0].trace_id == bytes(range(16))
    assert (otlp_sink.readings(), otlp_sink.totals.records) == ({}, 1)


def test_unknown_paths_are_404(otlp_sink) -> None:
    """Only the three signals are served."""
    assert post(otlp_sink, b"", path="/v2/metrics")[0] == 404


@pytest.mark.parametrize("mode", ["keep", "count"])
def test_logs_are_kept_or_counted(make_otlp_sink, mode: str) -> None:
    """Records with their body and severity."""
    sink = make_otlp_sink(mode=mode)
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add()
    for text in ("one", "two"):
        records.log_records.add(time_unix_nano=5, severity_number=13).body.string_value = text
    body = message.SerializeToString()
    assert post(sink, body, path="/v1/logs")[0] == 200
    assert sink.totals.records == count_records(body) == 2
    if mode == "keep":
        assert [(line.body, line.severity) for line in sink.logs()] == [("one", 13), ("two", 13)]


def test_tls(make_otlp_sink, authority) -> None:
    """With an identity it speaks HTTPS."""
    sink = make_otlp_sink(identity=authority.issue())
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with urllib.request.urlopen(sink.url + "/stats", context=context, timeout=60) as answer:
        assert json.load(answer)["requests"] == 0
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(sink.url, timeout=60)


def test_waiting_for_readings(otlp_sink) -> None:
    """Returns when they are there, says how many there are when they are not."""
    post(otlp_sink, request([1.0, 2.0]))
    otlp_sink.wait_for(2)
    otlp_sink.wait_for_requests(1)
    with pytest.raises(TimeoutError, match="2 of 3 readings"):
        otlp_sink.wait_for(3, within_s=0.01)


def test_it_runs_as_a_process_of_its_own(make_child) -> None:
    """Says its address, counts, and says its totals when it is ended."""
    child = make_child(python("-m", "hil.otlp_sink", "--count"))
    address = json.loads(child.wait_for("{"))
    connection = http.client.HTTPConnection("127.0.0.1", address["port"], timeout=60)
    connection.request("POST", "/v1/metrics", request([1.0] * 50))
    assert connection.getresponse().status == 200
    connection.close()
    assert child.terminate() == 0
    assert json.loads(child.lines[-1])["readings"] == 50


points = st.lists(st.floats(allow_nan=False), max_size=60)
texts = st.lists(st.text(max_size=200), max_size=3).map(tuple)


@given(st.lists(st.tuples(points, texts), max_size=6))
def test_counting_agrees_with_parsing(metrics: list[tuple[list[float], tuple[str, ...]]]) -> None:
    """For any mix of points of any size the count without objects is the parser's."""
    body = b"".join(request(values, attributes=attributes) for values, attributes in metrics)
    parsed = ExportMetricsServiceRequest.FromString(body)
    assert count_points(body) == sum(
        len(m.gauge.data_points) for r in parsed.resource_metrics for s in r.scope_metrics for m in s.metrics
    )


@given(points, texts, st.data())
def test_counting_a_damaged_request_ends(values, attributes, data) -> None:
    """A flipped byte or a cut end gives a number or ValueError, never anything else."""
    body = bytearray(request(values, attributes=attributes))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    with contextlib.suppress(ValueError):
        assert count_points(bytes(body)) >= 0


def test_runs_of_points_that_differ_in_size_are_told_apart() -> None:
    """Points of a metric may change their size in the middle, and look alike by chance inside."""
    message = ExportMetricsServiceRequest()
    metric = message.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    for index in range(200):
        point = metric.sum.data_points.add(as_double=struct.unpack("<d", b"\x0a\x12" * 4)[0])
        if index % 50 > 30:
            point.time_unix_nano = 0x120A120A120A120A
    assert count_points(message.SerializeToString()) == 200


@pytest.mark.alone
@pytest.mark.slow
def test_counting_is_fast(make_otlp_sink) -> None:
    """Over ten million readings a second through HTTP and zstd, where points of a series stand together."""
    sink = make_otlp_sink(mode="count")
    per_request = 100_000
    message = ExportMetricsServiceRequest()
    scope = message.resource_metrics.add().scope_metrics.add()
    for _ in range(per_request // 800):
        points_of = scope.metrics.add(name="m").gauge.data_points
        for k in range(800):
            points_of.add(time_unix_nano=10**18 + k, as_double=k * 0.1)
    body = message.SerializeToString()
    sent = zstd.compress(body, 1)
    connection = http.client.HTTPConnection(sink.host, sink.port, timeout=20)
    rates = []
    for _ in range(7):
        started_s = time.perf_counter()
        connection.request("POST", "/v1/metrics", sent, {"Content-Encoding": "zstd"})
        connection.getresponse().read()
        rates.append(per_request // 800 * 800 / (time.perf_counter() - started_s))
    connection.close()
    assert sink.totals.readings == 7 * (per_request // 800) * 800
    print(f"{max(rates) / 1e6:.0f} M readings/s")
    assert max(rates) > 10e6
