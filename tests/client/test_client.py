"""The client as a program uses it, with a real store and a real receiver on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import decimal
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway import Client, cli
from gateway.client import ClientError, FullError, buffer
from gateway.control.asking import fetch_status
from gateway.control.config import ConfigError
from gateway.control.metrics import CLIENT_NUMBERS
from gateway.core.contracts import Signal
from gateway.net.ports import free_port
from hil.children import python, wait_until
from hil.client_script import quick
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.children import Child
    from hil.disks import LoopDisk, TmpfsDisk
    from hil.otlp_sink import OtlpSink

NOW_NS = time.time_ns()


def requests(sink: OtlpSink, name: str) -> list[Any]:
    """Every request of a signal, by the official classes."""
    kinds = {
        "metrics": ExportMetricsServiceRequest,
        "logs": ExportLogsServiceRequest,
        "traces": ExportTraceServiceRequest,
    }
    return [kinds[name].FromString(request.body) for request in sink.requests if request.signal == name]


def account(client: Client) -> tuple[int, int, int, dict[str, int]]:
    """Accepted, delivered, held and ledger; and that nothing is missing between them."""
    status: Any = client.status()
    cloud = status["uplinks"]["cloud"]
    assert status["accepted"] == cloud["delivered"] + cloud["held"] + sum(cloud["ledger"].values())
    return status["accepted"], cloud["delivered"], cloud["held"], cloud["ledger"]


# What is sent.


def test_five_lines(tmp_path: Path, otlp_sink: OtlpSink) -> None:
    """An endpoint and a directory are enough; what leaves says which program and which gateway it is of."""
    with Client(otlp_sink.url, state_dir=tmp_path / "state", resource={"service.name": "pump"}) as client:
        client.send_metric("temperature", 20.5, unit="Cel", attributes={"device.id": "d1"})
        client.send_log("started")
        assert client.drain(60)
    ((reading, times),) = otlp_sink.readings().items()
    assert (reading.metric, reading.value, times) == ("temperature", 20.5, 1)
    assert (reading.resource, reading.attributes) == ((("service.name", "pump"),), (("device.id", "d1"),))
    assert abs(reading.time_ns - time.time_ns()) < 20e9
    (request,) = requests(otlp_sink, "metrics")
    attributes = {pair.key: pair.value.string_value for pair in request.resource_metrics[0].resource.attributes}
    assert attributes["tidegate.gateway.id"].endswith("/pump")
    assert request.resource_metrics[0].scope_metrics[0].metrics[0].unit == "Cel"
    assert [line.body for line in otlp_sink.logs()] == ["started"]


def test_values_keep_their_types(client: Client, otlp_sink: OtlpSink) -> None:
    """Floats, ints and bools, numpy's too; a decimal and an int that is too large become floats."""
    sent = {
        "float": 0.1, "int": -(2**63), "bool": True, "double": np.float64(1.5), "single": np.float32(0.5),
        "int16": np.int16(-3), "flag": np.bool_(False), "large": 2**70, "decimal": decimal.Decimal("1.25"),
        "nan": float("nan"),
    }  # fmt: skip
    for name, value in sent.items():
        client.send_metric(name, value)
    assert client.drain(60)
    points = {
        metric.name: metric.gauge.data_points[0]
        for request in requests(otlp_sink, "metrics")
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
    }
    whole = {name: point.as_int for name, point in points.items() if point.WhichOneof("value") == "as_int"}
    assert whole == {"int": -(2**63), "bool": 1, "int16": -3, "flag": 0}
    assert np.isnan(points.pop("nan").as_double)
    doubles = {name: point.as_double for name, point in points.items() if name not in whole}
    assert doubles == {"float": 0.1, "double": 1.5, "single": 0.5, "large": 2.0**70, "decimal": 1.25}


def test_attributes_that_python_takes_for_equal_are_others(client: Client, otlp_sink: OtlpSink) -> None:
    """1, 1.0 and True; and the order in which they are given does not matter."""
    for value in (1, 1.0, True):
        client.send_metric("n", 5, attributes={"a": value})
    client.send_metric("n", 6, attributes={"a": 1, "b": "x"})
    client.send_metric("n", 7, attributes={"b": "x", "a": 1})
    assert client.drain(60)
    kinds = [
        [pair.value.WhichOneof("value") for pair in metric.gauge.data_points[0].attributes]
        for request in requests(otlp_sink, "metrics")
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
    ]
    distinct = {tuple(kind) for kind in kinds}
    assert distinct == {("bool_value",), ("double_value",), ("int_value",), ("int_value", "string_value")}
    assert client.status()["store"]["series"] == 4


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint8, np.bool_])
def test_an_array_is_a_reading_each(client: Client, otlp_sink: OtlpSink, dtype: type) -> None:
    """With a start and a step, or with as many times; and what becomes of the array afterwards does not matter."""
    values = (np.arange(5000) % 2).astype(dtype)
    times = NOW_NS + np.arange(5000) * 1_000_000
    client.send_metric("a", values, time=NOW_NS, step=0.001)
    client.send_metric("b", values, time=times)
    client.send_metric("c", values, time=times.astype("datetime64[ns]"))
    kept = values.copy()
    values[:], times[:] = 0, 0
    assert client.drain(60)
    for name in "abc":
        found = sorted((r.time_ns, r.value) for r in otlp_sink.readings() if r.metric == name)
        assert found == [(NOW_NS + k * 1_000_000, value) for k, value in enumerate(kept.tolist())]


def test_an_array_may_be_larger_than_the_buffer(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """It goes in parts, each as there is room."""
    client = make_client(quick(otlp_sink.url), buffer_bytes=64 << 10, wait=20)
    client.send_metric("a", range(50_000), time=NOW_NS, step=dt.timedelta(milliseconds=1))
    client.send_metric("a", [], time=[])
    assert client.drain(30)
    assert sorted(int(r.value) for r in otlp_sink.readings()) == list(range(50_000))
    assert client.status()["sources"]["client"]["data_points"] == 50_000


def test_times_of_every_kind(client: Client, otlp_sink: OtlpSink) -> None:
    """Nanoseconds, seconds and datetimes are the same moment; without one it is that of the call."""
    moment = dt.datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=dt.UTC)
    ns = int(moment.timestamp()) * 1_000_000_000 + 250_000_000
    given = {"datetime": moment, "ns": ns, "s": moment.timestamp(), "numpy": np.int64(ns)}
    given["datetime64"] = np.datetime64(ns, "ns")
    for name, moment_given in given.items():
        client.send_metric(name, 1.0, time=moment_given)
        client.send_metric(f"{name}s", [1.0], time=[moment_given])
    client.send_metric("sum", 5, kind="sum", time=ns)
    assert client.drain(60)
    assert {r.metric: r.time_ns for r in otlp_sink.readings()} == dict.fromkeys(
        [*given, *(f"{name}s" for name in given), "sum"], ns
    )
    (total,) = (
        metric.sum
        for request in requests(otlp_sink, "metrics")
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "sum"
    )
    assert (total.is_monotonic, total.aggregation_temporality) == (True, 2)


def test_a_time_that_cannot_be_right_is_marked(client: Client, otlp_sink: OtlpSink) -> None:
    """As with devices: the time of sending stands in for it, an array keeps its spacing, and the scope says so."""
    client.send_metric("odd", 1.0, time=5)
    client.send_metric("odds", [1.0, 2.0], time=7, step=2)
    assert client.drain(60)
    found = {(r.metric, r.value): r.time_ns for r in otlp_sink.readings()}
    assert all(abs(ns - time.time_ns()) < 20e9 for ns in found.values())
    assert found["odds", 2.0] - found["odds", 1.0] == 2_000_000_000
    for request in requests(otlp_sink, "metrics"):
        (scope,) = request.resource_metrics[0].scope_metrics
        (quality,) = (pair for pair in scope.scope.attributes if pair.key == "tidegate.time.quality")
        # A clock that nobody has confirmed is the worse news of the two.
        assert quality.value.string_value in {"arrival", "unsynced"}


def test_log_records(client: Client, otlp_sink: OtlpSink) -> None:
    """Body, severity, attributes, ids and time as they are given; without a time that of sending."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    client.send_log({"a": [1, None, b"\xff"]}, severity=18, time=NOW_NS, trace_id=trace, span_id=int(span, 16))
    client.send_log("now", severity="warning", attributes={"n": np.int64(5), "deep": {"x": 1.5}})
    assert client.drain(60)
    found = [
        record
        for request in requests(otlp_sink, "logs")
        for message in request.resource_logs
        for record in message.scope_logs[0].log_records
    ]
    second, first = sorted(found, key=lambda record: record.severity_number)
    assert (first.severity_number, first.severity_text, first.time_unix_nano) == (18, "", NOW_NS)
    assert (first.trace_id.hex(), first.span_id.hex()) == (trace, span)
    (pair,) = first.body.kvlist_value.values
    kinds = [item.WhichOneof("value") for item in pair.value.array_value.values]
    assert (pair.key, kinds) == ("a", ["int_value", None, "bytes_value"])
    assert (second.severity_number, second.severity_text, second.body.string_value) == (13, "WARNING", "now")
    assert [pair.key for pair in second.attributes] == ["n", "deep"]
    assert second.time_unix_nano == second.observed_time_unix_nano
    assert abs(second.time_unix_nano - time.time_ns()) < 20e9


def test_spans(client: Client, otlp_sink: OtlpSink) -> None:
    """A span with all there is, and a child of it by the ids that came back."""
    parent = client.send_trace(
        "GET", start=NOW_NS, end=NOW_NS + 5, kind="server", attributes={"code": 500}, status="error", message="no",
        events=[("began", NOW_NS), ("broke", NOW_NS + 1, {"why": "x"})],
    )  # fmt: skip
    child = client.send_trace("SELECT", start=NOW_NS, end=NOW_NS, trace_id=parent.trace_id, parent_id=parent.span_id)
    assert client.drain(60)
    found = [
        span
        for request in requests(otlp_sink, "traces")
        for message in request.resource_spans
        for span in message.scope_spans[0].spans
    ]
    first, second = sorted(found, key=lambda span: span.name)
    assert (first.trace_id.hex(), first.span_id.hex()) == parent
    assert (first.name, first.kind, first.end_time_unix_nano - first.start_time_unix_nano) == ("GET", 2, 5)
    assert (first.status.code, first.status.message) == (2, "no")
    assert [(e.name, e.time_unix_nano - NOW_NS, len(e.attributes)) for e in first.events] == [
        ("began", 0, 0),
        ("broke", 1, 1),
    ]
    assert (second.trace_id, second.parent_span_id, second.span_id.hex()) == (first.trace_id, first.span_id, child[1])
    assert (second.kind, second.HasField("status")) == (1, False)
    assert account(client) == (2, 2, 0, {})


def test_what_matters_most_goes_first(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """The class is that of the shelf: held by class is what the status says."""
    otlp_sink.always = Behaviour(status=503)
    client = make_client(quick(otlp_sink.url))
    client.send_metric("a", 1, priority="bulk")
    client.send_metric("a", [1, 2], time=[NOW_NS, NOW_NS + 1], priority="critical")
    client.send_log("a", priority="critical")
    client.send_trace("a", start=NOW_NS, end=NOW_NS)
    client.flush()
    status: Any = client.status()
    assert status["uplinks"]["cloud"]["held_by_class"] == {"critical": 3, "normal": 1, "bulk": 1}


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda c: c.send_metric("", 1), ValueError, "1 to 255 letters"),
        (lambda c: c.send_metric(5, 1), TypeError, "the name of a metric is a text, not a int"),
        (lambda c: c.send_metric([], 1), TypeError, "the name of a metric is a text, not a list"),
        (lambda c: c.send_metric("tidegate.held.readings", 1), ValueError, "the gateway's own numbers"),
        (lambda c: c.send_metric("a", "1"), TypeError, "value is a str; give a number"),
        (lambda c: c.send_metric("a", None), TypeError, "value is a NoneType"),
        (lambda c: c.send_metric("a", 1j), TypeError, "value is a complex"),
        (lambda c: c.send_metric("a", ["x"], time=[1]), TypeError, "an array of <U1"),
        (lambda c: c.send_metric("a", [[1]], time=[1]), ValueError, "2 dimensions"),
        (lambda c: c.send_metric("a", [1]), ValueError, "an array has times"),
        (lambda c: c.send_metric("a", [1, 2], time=[NOW_NS]), ValueError, "1 times for 2 values"),
        (lambda c: c.send_metric("a", [1], time=5.0), ValueError, "an array of 0 dimensions for 1 values"),
        (lambda c: c.send_metric("a", 1, step=1), ValueError, "step is for arrays"),
        (lambda c: c.send_metric("a", [1], time=5.0, step="1s"), TypeError, "step is a str; give the seconds"),
        (lambda c: c.send_metric("a", [1], time=5.0, step=-1), ValueError, "step is -1"),
        (lambda c: c.send_metric("a", 1, time=1_790_000_000), ValueError, "as it seems in seconds"),
        (lambda c: c.send_metric("a", 1, time=1_790_000_000_000), ValueError, "as it seems in milliseconds"),
        (lambda c: c.send_metric("a", 1, time="now"), TypeError, "time is a str; give Unix nanoseconds"),
        (lambda c: c.send_metric("a", 1, time=dt.datetime(2026, 1, 1)), ValueError, "without a time zone"),  # noqa: DTZ001  that is the point
        (lambda c: c.send_metric("a", 1, time=1e300), ValueError, "no number of seconds"),
        (lambda c: c.send_metric("a", 1, kind="counter"), ValueError, "kind is 'counter'; it is gauge, sum"),
        (lambda c: c.send_metric("a", 1, priority="high"), ValueError, "priority is 'high'; it is critical"),
        (lambda c: c.send_metric("a", 1, unit=5), TypeError, "a unit is a text"),
        (lambda c: c.send_metric("a", 1, unit="x" * 64), ValueError, "63 letters at most"),
        (lambda c: c.send_metric("a", 1, attributes=["x"]), TypeError, "attributes is a list; give a dict"),
        (lambda c: c.send_metric("a", 1, attributes={"x": [1]}), TypeError, r"attributes\['x'\] is a list"),
        (lambda c: c.send_metric("a", 1, attributes={5: 1}), TypeError, "a key of attributes is 5"),
        (lambda c: c.send_metric("a", 1, attributes={"x": "y" * 1025}), ValueError, "more than 1024 letters"),
        (lambda c: c.send_metric("a", 1, attributes={"x": 2**64}), ValueError, "more than 64 bits"),
        (lambda c: c.send_metric("a", 1, attributes={"x": "\ud800"}), ValueError, "no Unicode"),
        (lambda c: c.send_metric("a\udc00", 1), ValueError, "no Unicode"),
        (lambda c: c.send_log("a", severity="loud"), ValueError, "severity is 'loud'; it is one of TRACE"),
        (lambda c: c.send_log("a", severity=25), ValueError, "number from 1 to 24"),
        (lambda c: c.send_log("a", severity=None), TypeError, "severity is a NoneType"),
        (lambda c: c.send_log(object()), TypeError, "body has a object"),
        (lambda c: c.send_log("x" * (300 << 10)), ValueError, "262144 are the most"),
        (lambda c: c.send_log("x", span_id="b7ad6b7169203331"), ValueError, "give trace_id as well"),
        (lambda c: c.send_log("x", trace_id="5"), ValueError, "give 32 hexadecimal digits"),
        (lambda c: c.send_log("x", trace_id=5.0), TypeError, "trace_id is a float"),
        (lambda c: c.send_log("x", attributes=5), TypeError, "attributes is a int"),
        (lambda c: c.send_trace("", start=NOW_NS, end=NOW_NS), TypeError, "the name of a span"),
        (lambda c: c.send_trace("a", start=NOW_NS, end=NOW_NS - 10**9), ValueError, "end is 1 s before start"),
        (lambda c: c.send_trace("a", start=NOW_NS, end=NOW_NS, kind="x"), ValueError, "kind is 'x'"),
        (lambda c: c.send_trace("a", start=NOW_NS, end=NOW_NS, status="x"), ValueError, "status is 'x'"),
        (lambda c: c.send_trace("a", start=NOW_NS, end=NOW_NS, events=["x"]), TypeError, "an event is"),
        (lambda c: c.send_trace("a", start=NOW_NS, end=NOW_NS, parent_id=5), ValueError, "parent_id is of a trace"),
        (lambda c: c.keep_request(b"\xff", Signal.LOGS), ValueError, "no request of logs that can be kept"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_name(
    client: Client, otlp_sink: OtlpSink, call: Callable[[Client], Any], error: type[Exception], says: str
) -> None:
    """And leaves nothing behind: what is right goes on."""
    with pytest.raises(error, match=says):
        call(client)
    client.send_metric("fine", 1)
    assert client.drain(60)
    assert account(client) == (1, 1, 0, {})


# How a client is made.


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"state_dir": None}, ValueError, "state_dir is missing; give a directory"),
        ({}, ConfigError, "endpoint: is missing"),
        ({"endpoint": "collector:4318"}, ConfigError, "uplinks.0..endpoint"),
        ({"endpoint": "http://127.0.0.1:1", "config": {}}, ValueError, "leave endpoint and headers out"),
        ({"config": 5}, TypeError, "config is a int; give the path"),
        ({"config": "/nowhere/tidegate.toml"}, ConfigError, "there is no such file"),
        ({"config": {"uplinks": [{"type": "otlp"}], "store": {"max_age": 5}}}, ConfigError, "store.max_age"),
        ({"config": {"gateway": {"hw_profile": "vax"}}}, ValueError, "no hardware profile 'vax'"),
        ({"endpoint": "http://127.0.0.1:1", "headers": {"a b": "x"}}, ValueError, "'a b' is not a header's name"),
        ({"endpoint": "http://127.0.0.1:1", "headers": {"a": "x\n"}}, ValueError, "the value of a is no text"),
        ({"endpoint": "http://127.0.0.1:1", "headers": {"Host": "x"}}, ValueError, "Host is written by the gateway"),
        ({"endpoint": "http://127.0.0.1:1", "headers": ["a"]}, TypeError, "headers is a list"),
        ({"endpoint": "http://127.0.0.1:1", "resource": {"a": []}}, TypeError, r"resource\['a'\] is a list"),
        ({"endpoint": "http://127.0.0.1:1", "when_behind": "block"}, ValueError, "when_behind is 'block'"),
        ({"endpoint": "http://127.0.0.1:1", "buffer_bytes": 5}, ValueError, "buffer_bytes is 5; give at least"),
        ({"endpoint": "http://127.0.0.1:1", "wait": -1}, ValueError, "wait is -1; give seconds"),
    ],
)
def test_a_client_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    """With all problems at once where they are of the configuration."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with pytest.raises(error, match=says):
        Client(**{"state_dir": tmp_path / "state", **options})


def test_a_directory_has_one_client(client: Client, tmp_path: Path, otlp_sink: OtlpSink) -> None:
    """Whoever else wants it is told who has it."""
    with pytest.raises(ClientError, match=rf"another gateway \(pid {os.getpid()}\) uses .*state; stop it or give"):
        Client(otlp_sink.url, state_dir=tmp_path / "state")
    client.send_metric("a", 1)
    assert client.drain(60)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A sentence."""
    (tmp_path / "file").touch()
    with pytest.raises((ConfigError, ClientError), match="is a file; name a directory"):
        Client("http://127.0.0.1:1", state_dir=tmp_path / "file")


def test_what_is_kept_is_for_this_user_alone(client: Client, tmp_path: Path) -> None:
    """The umask of a program is not ours to set; the directory is."""
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_the_environment_says_where_to_send(
    tmp_path: Path, otlp_sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry's own variables, as everywhere; a header's secret is shown by nothing."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp_sink.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=7,authorization=old")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named-outside")
    with Client(state_dir=tmp_path / "state", headers={"Authorization": "Bearer hush"}) as client:
        client.send_metric("a", 1)
        assert client.drain(60)
        shown = repr(client) + json.dumps(client.status()) + repr(client._runner._config)
    headers = otlp_sink.requests[0].headers
    assert (headers["x-tenant"], headers["Authorization"], "authorization" in headers) == ("7", "Bearer hush", False)
    assert dict(next(iter(otlp_sink.readings())).resource)["service.name"] == "named-outside"
    assert "hush" not in shown


def test_a_file_for_a_gateway_says_it_too(tmp_path: Path, make_otlp_sink: Callable[..., OtlpSink]) -> None:
    """With several uplinks, budgets and detectors; what it says of sources is not this program's."""
    good, away = make_otlp_sink(), make_otlp_sink()
    away.always = Behaviour(status=503)
    taken = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "tidegate.toml").write_text(
        f"""
[gateway]
id = "site-7"
state_dir = "/nowhere/at/all"
attributes = {{ site = "7" }}
report_interval = "0s"
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:{taken.getsockname()[1]}"
[control]
listen = "127.0.0.1:{taken.getsockname()[1]}"
[[detectors]]
match = {{ metric = "temperature" }}
type = "zscore"
[[uplinks]]
type = "otlp"
name = "good"
endpoint = "{good.url}"
batch_interval = "20ms"
budget = {{ per_day = "20MiB" }}
[[uplinks]]
type = "otlp"
name = "away"
endpoint = "{away.url}"
batch_interval = "20ms"
stop_grace = "0s"
"""
    )
    with taken, Client(config=tmp_path / "tidegate.toml", state_dir=str(tmp_path / "state")) as client:
        for number in range(2000):
            client.send_metric("temperature", 20 + number % 7 / 10, time=NOW_NS + number * 10**9)
        client.send_metric("temperature", 900.0, time=NOW_NS + 2000 * 10**9)
        assert not client.drain(1.5)
        wait_until(lambda: client.status()["uplinks"]["good"]["held"] == 0, "one of them to have all")
        status: Any = client.status()
    assert status["gateway"] == "site-7"
    assert list(status["sources"]) == ["client"]
    assert status["detectors"] != {}
    assert status["uplinks"]["good"]["delivered"] == status["accepted"] == status["uplinks"]["away"]["held"] == 2002
    assert "budget" in status["uplinks"]["good"]
    (line,) = good.logs()
    assert "900" in str(line.body)
    (request,) = requests(good, "metrics")[:1]
    assert {"site", "tidegate.gateway.id"} < {pair.key for pair in request.resource_metrics[0].resource.attributes}


def test_importing_the_package_brings_no_client() -> None:
    """Whoever runs a gateway does not pay for it."""
    code = (
        "import sys, gateway; print(sorted(m for m in sys.modules if m.startswith(('gateway.', 'numpy', 'asyncio'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    import gateway

    with pytest.raises(AttributeError, match="has no attribute 'Server'"):
        gateway.Server  # noqa: B018  asking is the point


# Until it is on the disk, and until it has left.


def test_an_outage_and_the_next_run(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """What is flushed stays; the next client of the directory delivers it, marked as late."""
    otlp_sink.always = Behaviour(status=503)
    first = make_client(quick(otlp_sink.url))
    first.send_metric("a", 1)
    assert not first.drain(0.3)
    assert account(first) == (1, 0, 1, {})
    first.shutdown()
    first.shutdown()
    assert account(first)[2] == 1
    otlp_sink.always = Behaviour()
    second = make_client(quick(otlp_sink.url))
    assert second.drain(60)
    assert account(second) == (1, 1, 0, {})
    assert [reading.value for reading in otlp_sink.readings()] == [1]


def test_after_its_end_it_says_so(client: Client) -> None:
    """Whatever is called."""
    client.shutdown()
    for call in (
        lambda: client.send_metric("a", 1),
        lambda: client.send_log("a"),
        lambda: client.send_trace("a", start=NOW_NS, end=NOW_NS),
        lambda: client.keep_request(b"", Signal.LOGS),
        client.flush,
        client.drain,
    ):
        with pytest.raises(ClientError, match="the client was shut down"):
            call()
    assert "the client was shut down" in repr(client)


def test_threads_together(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """Eight that send all kinds of things, flush and look: nothing is lost, doubled or mixed up."""
    client = make_client(quick(otlp_sink.url), buffer_bytes=64 << 10, wait=30)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for k in range(1500):
                client.send_metric("n", number * 10_000 + k, attributes={"thread": number})
                if k % 50 == 0:
                    client.send_log(f"{number}.{k}")
                    client.send_metric("f", np.arange(20) + 0.5, time=NOW_NS + (number * 1500 + k) * 20, step=1e-9)
                if k % 300 == 0:
                    client.flush()
                    assert client.status()["accepted"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert client.drain(40)
    found = otlp_sink.readings()
    assert set(found.values()) == {1}
    ints = sorted((int(dict(r.attributes)["thread"]), int(r.value)) for r in found if r.metric == "n")
    assert ints == [(number, number * 10_000 + k) for number in range(8) for k in range(1500)]
    assert len([r for r in found if r.metric == "f"]) == 8 * 30 * 20
    assert len(otlp_sink.logs()) == 8 * 30
    assert account(client) == (8 * (1500 + 30 * 21), 8 * (1500 + 30 * 21), 0, {})


def fill(client: Client) -> None:
    """Send what does not compress until there is no room."""
    dice = np.random.default_rng(1)
    for number in range(400):
        client.send_metric("noise", dice.random(4000), time=NOW_NS + number * 10**12, step=0.001)


@pytest.mark.slow
def test_a_full_store_that_refuses_is_felt(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """The caller waits, then gets an error that says why; what was taken before is kept, and leaves when it can."""
    otlp_sink.always = Behaviour(status=503)
    store = {"max_bytes": "2MiB", "when_full": "refuse"}
    client = make_client(quick(otlp_sink.url, store=store), buffer_bytes=256 << 10, wait=2)
    with pytest.raises(FullError, match="max_bytes"):
        fill(client)
    with pytest.raises(TimeoutError, match="max_bytes"):
        client.flush(0.3)
    status: Any = client.status()
    assert (status["sources"]["client"]["state"], status["sources"]["client"]["dropped"]) == ("full", 0)
    otlp_sink.always = Behaviour()
    assert client.drain(40)
    accepted, delivered, held, ledger = account(client)
    assert (held, ledger) == (0, {})
    assert accepted == delivered == otlp_sink.readings().total()
    assert client.status()["sources"]["client"]["data_points"] == accepted


def test_who_rather_drops_finds_it_in_the_ledger(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """No error, and every reading is delivered or counted."""
    otlp_sink.always = Behaviour(status=503)
    store = {"max_bytes": "2MiB", "when_full": "refuse"}
    client = make_client(quick(otlp_sink.url, store=store), buffer_bytes=256 << 10, wait=0.0, when_behind="drop")
    fill(client)
    dropped = client.status()["sources"]["client"]["dropped"]
    assert dropped > 0
    otlp_sink.always = Behaviour()
    assert client.drain(40)
    accepted, delivered, _, ledger = account(client)
    assert ledger == {"no_room": dropped}
    assert accepted == 400 * 4000
    assert delivered == otlp_sink.readings().total() == 400 * 4000 - dropped


def test_too_many_series_are_counted(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """Readings of those beyond go to the ledger."""
    client = make_client({**quick(otlp_sink.url), "gateway": {"max_series": 10, "report_interval": "0s"}})
    for number in range(30):
        client.send_metric(f"m{number}", 1.0)
        client.send_metric(f"m{number}", [1, 2], time=[NOW_NS, NOW_NS + 1])
    assert client.drain(60)
    accepted, delivered, _, ledger = account(client)
    assert (accepted, ledger["max_series"]) == (90, 90 - delivered)
    assert 0 < delivered < 90


def test_a_shelf_that_was_taken_away(make_client: Callable[..., Client], tmp_path: Path, otlp_sink: OtlpSink) -> None:
    """Nothing is said to be on the disk that is not; at the end it is said what is lost, and why."""
    client = make_client(quick(otlp_sink.url))
    client.send_metric("a", 1)
    assert client.drain(60)
    (tmp_path / "state" / "tidegate.db").unlink()
    client.send_metric("a", 2)
    with pytest.raises(TimeoutError, match=r"1 reading not on the disk after 3 s: .*tidegate.db"):
        client.flush(3)


def test_what_could_not_be_written_is_said_at_the_end(
    make_client: Callable[..., Client], otlp_sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error for who shuts down; a line in the log for who has an error already, or just ends."""
    from gateway.client import door

    monkeypatch.setattr(door, "FINISH_S", 0.3)
    otlp_sink.always = Behaviour(status=503)
    store = {"max_bytes": "2MiB", "when_full": "refuse"}
    client = make_client(quick(otlp_sink.url, store=store, uplink={"stop_grace": "0s"}), wait=2)
    with pytest.raises(FullError):
        fill(client)
    with pytest.raises(FullError, match=r"readings lost, never written to the disk: .*max_bytes"):
        client.shutdown()


@pytest.mark.slow
def test_a_card_that_fails(make_client: Callable[..., Client], loop_disk: LoopDisk, otlp_sink: OtlpSink) -> None:
    """What was flushed is still sent; what was not is never said to be kept, and lost with a number in the end."""
    otlp_sink.always = Behaviour(status=503)
    client = make_client(quick(otlp_sink.url), state_dir=loop_disk.path / "state")
    for number in range(100):
        client.send_metric("a", number)
    client.flush()
    loop_disk.go_read_only()
    client.send_metric("a", 1000)
    with pytest.raises(TimeoutError, match="1 reading not on the disk after 4 s: .*read-only"):
        client.flush(4)
    otlp_sink.always = Behaviour()
    otlp_sink.wait_for(100)
    with pytest.raises(FullError, match="1 reading lost, never written to the disk: .*read-only"):
        client.shutdown()
    assert sorted(int(r.value) for r in otlp_sink.readings()) == list(range(100))


@pytest.mark.slow
def test_a_disk_that_cannot_be_written_for_a_while(
    make_client: Callable[..., Client],
    make_small_disk: Callable[..., TmpfsDisk],
    otlp_sink: OtlpSink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it holds is sent from it; what comes waits in memory, and is stored when the disk is back."""
    monkeypatch.setattr("gateway.app.THAW_LOOK_S", 0.2)
    monkeypatch.setattr("gateway.app.HOUSEKEEPING_S", 0.1)
    disk = make_small_disk(16 << 20)
    otlp_sink.always = Behaviour(status=503)
    with make_client(quick(otlp_sink.url), state_dir=disk.path / "state") as first:
        first.send_metric("a", 1)
    disk.read_only()
    otlp_sink.always = Behaviour()
    client = make_client(quick(otlp_sink.url), state_dir=disk.path / "state")
    otlp_sink.wait_for(1)
    client.send_metric("a", 2)
    with pytest.raises(TimeoutError, match="read-only"):
        client.flush(4)
    disk.read_only(on=False)
    client.flush()
    assert client.drain(30)
    assert sorted(int(r.value) for r in otlp_sink.readings()) == [1, 2]
    assert account(client)[3] == {}


def test_an_error_is_not_hidden_by_the_end(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """Whatever a block raises comes out of it, and what it sent is on the disk."""
    with pytest.raises(KeyError), make_client(quick(otlp_sink.url)) as client:
        client.send_metric("a", 1)
        raise KeyError
    assert account(client)[0] == 1


def test_a_new_start_where_the_shelf_needs_one(client: Client, otlp_sink: OtlpSink) -> None:
    """As systemd would do it; what was sent meanwhile waits in memory and comes with the next."""
    client.send_metric("a", 1)
    client.flush()
    first = client._runner.gateway
    assert first is not None

    def end() -> None:
        first._end_reason = "it stands still"
        first.stop()

    client._runner.call_soon(end)
    for number in range(2, 200):
        client.send_metric("a", number)
        time.sleep(0.005)
    client.flush()
    assert client._runner.gateway is not first
    assert client.drain(60)
    assert sorted(int(r.value) for r in otlp_sink.readings()) == list(range(1, 200))


# Around it.


def test_a_program_of_coroutines(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> None:
    """It sends from its loop, and waits in threads; the loop goes on meanwhile."""
    client = make_client(quick(otlp_sink.url))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def main() -> bool:
        ticking = asyncio.create_task(tick())
        for number in range(100):
            client.send_metric("a", number)
            await asyncio.sleep(0)
        await asyncio.to_thread(client.flush)
        found = await asyncio.to_thread(client.drain)
        ticking.cancel()
        return found

    assert asyncio.run(main())
    assert ticks > 5
    assert len(otlp_sink.readings()) == 100


FORKING = """
import gc, os, sys, time
from gateway import Client
from gateway.client import ClientError
state, url = sys.argv[1:]
config = {"gateway": {"report_interval": "0s"}, "store": {"commit_interval": "20ms"},
          "uplinks": [{"type": "otlp", "name": "cloud", "endpoint": url, "batch_interval": "20ms"}]}
client = Client(state_dir=state, config=config)
for number in range(100):
    client.send_metric("a", number)
client.flush()
child = os.fork()
if not child:
    try:
        client.send_metric("a", 1000)
    except ClientError as error:
        print(error, flush=True)
    client.shutdown()
    with Client(state_dir=state + "-child", config=config) as own:
        own.send_metric("child", 1)
        own.drain(60)
    del client, own
    gc.collect()
    sys.exit(0)
sleeper = os.fork()
if not sleeper:
    time.sleep(60)
    os._exit(0)
for number in range(100, 200):
    client.send_metric("a", number)
    time.sleep(0.002)
assert os.waitpid(child, 0)[1] == 0
client.flush()
client.shutdown()
with Client(state_dir=state, config=config) as again:
    assert again.drain(60)
    status = again.status()
os.kill(sleeper, 9)
print(status["accepted"], status["uplinks"]["cloud"]["delivered"], flush=True)
"""


def test_a_fork_is_told_and_harms_nothing(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """In the child an error and a client of its own; the parent's store is whole, and its lock ends with the parent."""
    child = make_child(python("-W", "error::ResourceWarning", "-c", FORKING, tmp_path / "state", otlp_sink.url))
    assert child.wait(within_s=60) == 0, child.tail()
    assert "this client belongs to process" in child.output
    assert "make a Client here, with a state_dir of its own" in child.output
    assert child.lines[-1] == "200 200", child.tail()
    assert sorted(int(r.value) for r in otlp_sink.readings() if r.metric == "a") == list(range(200))
    assert [r.value for r in otlp_sink.readings() if r.metric == "child"] == [1]
    for name in ("state", "state-child"):
        assert cli.main(["verify", "--state-dir", str(tmp_path / name)]) == 0


def test_the_commands_work_on_its_directory(
    make_client: Callable[..., Client], tmp_path: Path, otlp_sink: OtlpSink, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tidegate status` where it is given an address, `verify` and `export` beside it; status() is the same."""
    otlp_sink.always = Behaviour(status=503)
    port = free_port()
    client = make_client(quick(otlp_sink.url), control=f"127.0.0.1:{port}")
    client.send_metric("a", 1.5)
    client.send_trace("work", start=NOW_NS, end=NOW_NS)
    client.flush()
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(url), "the window to open")
    assert cli.main(["status", "--url", url]) == 0
    assert "  client: open\n" in capsys.readouterr().out
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        page = answer.read().decode()
    numbers = {key for key, value in client.status()["sources"]["client"].items() if type(value) is int}
    assert numbers == CLIENT_NUMBERS.keys() | {"bytes_pending"}
    assert all(f"{name}" in page for name in CLIENT_NUMBERS.values())
    assert 'tidegate_client_spans_total{source="client"} 1' in page
    there, here = fetch_status(url, token="", timeout_s=60), client.status()
    assert there.keys() == here.keys()
    assert there["uplinks"]["cloud"].keys() == here["uplinks"]["cloud"].keys()
    assert (there["accepted"], there["uplinks"]["cloud"]["held"]) == (2, 2)
    assert cli.main(["verify", "--state-dir", str(tmp_path / "state")]) == 0
    out = tmp_path / "held.jsonl"
    assert cli.main(["export", "--state-dir", str(tmp_path / "state"), "--out", str(out)]) == 0
    assert {next(iter(json.loads(line))) for line in out.read_text().splitlines()} == {
        "resourceMetrics",
        "resourceSpans",
    }


def answers(url: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(fetch_status(url, token="", timeout_s=60))
    return False


def test_it_does_not_speak_for_the_program(
    make_client: Callable[..., Client], tmp_path: Path, otlp_sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd hears nothing, the umask and root's log stay, and memory and disk are not taken for ours."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(0.2)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr("gateway.app.HOUSEKEEPING_S", 0.02)
    monkeypatch.setattr("gateway.app.FOOTPRINT_S", 0.02)
    with heard, make_client(quick(otlp_sink.url)) as client:
        client.send_metric("a", 1)
        client.flush()
        with pytest.raises(TimeoutError):
            heard.recv(100)
        status: Any = client.status()
    assert (status["memory"]["rss_bytes"], status["flash"]["written_bytes"]) == (None, None)


def test_the_wait_for_an_end_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer is said, and goes on."""
    busy = threading.Event()
    client._runner.call_soon(busy.wait, 60.0)
    client.send_metric("a", 1)
    with pytest.raises(TimeoutError, match="has not stopped after 0.05 s; 1 reading not written yet"):
        client.shutdown(0.05)
    busy.set()
    client._runner._thread.join(60)
    assert account(client)[0] == 1


def test_a_status_needs_an_open_store(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is none, that is said."""
    gateway = client._runner.gateway
    client._runner.gateway = None
    with pytest.raises(ClientError, match="the store is not open just now"):
        client.status()
    client._runner.gateway = gateway


def test_an_interrupt_in_the_middle_of_a_call_leaves_columns_even(client: Client, otlp_sink: OtlpSink) -> None:
    """Ctrl-C may come between any two steps: what is sent afterwards has its own value and time, and is sent."""
    stop = threading.Event()
    interrupted = 0

    class InterruptedHereError(Exception):
        pass

    def raise_it(_: int, frame: Any) -> None:
        nonlocal interrupted
        if frame.f_code.co_filename == buffer.__file__:
            interrupted += 1
            raise InterruptedHereError

    def interrupt() -> None:
        while not stop.wait(0.0005):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR1, raise_it)
    number = 0
    try:
        thread.start()
        until_s = time.monotonic() + 20
        while interrupted < 200 and time.monotonic() < until_s:
            number += 1
            with contextlib.suppress(InterruptedHereError):
                client.send_metric(f"m{number % 5}", number, time=NOW_NS + number)
                if number % 20 == 0:
                    client.send_log(str(number), time=NOW_NS + number)
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert interrupted >= 20, "a machine that is busy gets to fewer, but to some"
    wait_until(lambda: client.status()["sources"]["client"]["waiting"] == 0, "what was sent to be kept by itself")
    assert client.drain(30)
    found = otlp_sink.readings()
    assert all(r.time_ns - NOW_NS == r.value and r.metric == f"m{r.value % 5}" for r in found)
    assert number - interrupted <= len(found) <= number
    assert all(line.time_ns - NOW_NS == int(str(line.body)) for line in otlp_sink.logs())
    assert account(client)[3] == {}


def test_the_module_is_quiet(capsys: pytest.CaptureFixture[str], tmp_path: Path, otlp_sink: OtlpSink) -> None:
    """A library prints nothing."""
    with Client(otlp_sink.url, state_dir=tmp_path / "state") as client:
        client.send_metric("a", 1)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_handler_of_the_clients_own_log_waits_for_nothing(
    make_client: Callable[..., Client], otlp_sink: OtlpSink
) -> None:
    """It runs in the client's thread: what it sends goes in or not, and it may not flush."""
    client = make_client(quick(otlp_sink.url), buffer_bytes=64 << 10, wait=30)
    said: list[str] = []

    def handle() -> None:
        try:
            for _ in range(10_000):
                client.send_metric("own", 1.0)
        except FullError as error:
            said.append(str(error))
        for call in (client.flush, client.drain, client.status, client.shutdown):
            try:
                call()
            except ClientError as error:
                said.append(str(error))

    client._runner.call_soon(handle)
    wait_until(lambda: len(said) == 5, "it to be told")
    assert "slower than what is sent" in said[0]
    assert all("client's own thread" in text for text in said[1:])
    assert client.drain(60)


def test_what_others_can_read_on_the_way_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `tidegate check` says it of a configuration."""
    config = quick("http://192.0.2.1:4318", uplink={"stop_grace": "0s"})
    with Client(config=config, state_dir=tmp_path / "state"):
        pass
    assert "uplink cloud: endpoint: http://192.0.2.1:4318 is not encrypted" in caplog.text


def test_a_wait_may_be_as_long_as_there_are_numbers(client: Client) -> None:
    """Infinity is for ever."""
    client.send_metric("a", 1)
    client.flush(float("inf"))
    assert client.drain(float("inf"))
    client.shutdown(float("inf"))


def test_a_client_of_a_thread_that_goes_on_when_the_main_one_has_ended(tmp_path) -> None:
    """A script that starts its threads and comes to its end: they are the program from then on."""
    code = f"""
import threading
from gateway import Client

def measure():
    threading.main_thread().join()
    client = Client("http://127.0.0.1:1", state_dir={str(tmp_path / "state")!r})
    client.send_metric("m", 1.0)
    client.flush()
    print(client.status()["accepted"])

threading.Thread(target=measure).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "1\n", done.stderr
