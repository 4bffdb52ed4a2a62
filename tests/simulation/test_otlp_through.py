"""OTLP through a real gateway: what the receiver gets is what programs sent, kills and full disks or not (P1, P2)."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.codecs import protobuf
from gateway.net.ports import free_port
from hil.children import python, wait_until
from hil.gateway_child import Site
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from google.protobuf.message import Message

    from hil.children import Child
    from hil.otlp_sink import OtlpSink

REQUESTS = {
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}
OURS = {"tidegate.gateway.id", "tidegate.backfill", "site"}
# A field of a version that is still to come.
NEWER = protobuf.text(300, "from the future")


class Place(Site):
    """A gateway with an OTLP receiver, and a program beside it."""

    def __init__(self, folder: Path, *, more: str = "", protocol: str = "http/protobuf", **options: object) -> None:
        self.otlp = free_port()
        source = f'[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:{self.otlp}"\n{more}'
        super().__init__(folder, source=source, gateway='attributes = { "site" = "7" }', **options)
        text = self.config.read_text().replace('name = "cloud"', f'name = "cloud"\nprotocol = "{protocol}"')
        self.config.write_text(text)

    def send(self, signal_name: str, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
        """Send one request; return status and headers of the answer, 0 where there was none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.otlp, timeout=60)
        try:
            said = {"Content-Type": "application/x-protobuf"} | {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request("POST", f"/v1/{signal_name}", body, said)
            answer = connection.getresponse()
            answer.read()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}
        except (OSError, http.client.HTTPException):
            return 0, {}
        finally:
            connection.close()


def spans(*names: str) -> bytes:
    request = ExportTraceServiceRequest()
    message = request.resource_spans.add()
    message.resource.attributes.add(key="service.name").value.string_value = "app"
    for name in names:
        message.scope_spans.add().spans.add(name=name, trace_id=os.urandom(16), span_id=os.urandom(8))
    return request.SerializeToString()


def everything() -> dict[str, bytes]:
    """A request of each signal that uses much of what there is, with fields of the future at each level."""
    metrics = ExportMetricsServiceRequest()
    message = metrics.resource_metrics.add(schema_url="https://schema/1")
    message.resource.attributes.add(key="service.name").value.string_value = "app"
    message.resource.dropped_attributes_count = 3
    scope = message.scope_metrics.add(schema_url="https://schema/2")
    scope.scope.name = "lib"
    for kind in ("gauge", "sum", "histogram", "exponential_histogram", "summary"):
        point = getattr(scope.metrics.add(name=kind, unit="s"), kind).data_points.add(time_unix_nano=5, flags=1)
        point.attributes.add(key="list").value.array_value.values.add(bool_value=True)
        if kind != "summary":
            exemplar = point.exemplars.add(as_double=1.5, trace_id=bytes(range(16)), span_id=bytes(range(8)))
            exemplar.filtered_attributes.add(key="k").value.bytes_value = b"\xff"
    point.quantile_values.add(quantile=0.5, value=2.0)
    logs = ExportLogsServiceRequest()
    for _ in range(2):
        record = logs.resource_logs.add().scope_logs.add().log_records.add(trace_id=bytes(16), event_name="e")
        record.body.kvlist_value.values.add(key="deep").value.kvlist_value.values.add(key="er").value.int_value = -1
    traces = ExportTraceServiceRequest.FromString(spans("GET"))
    span = traces.resource_spans[0].scope_spans[0].spans[0]
    span.links.add(trace_id=bytes(range(16)), trace_state="a=b")
    span.events.add(name="event", time_unix_nano=7).attributes.add(key="k").value.double_value = 0.1
    span.status.message = "no"
    found = {}
    for name, request in (("metrics", metrics), ("logs", logs), ("traces", traces)):
        messages = protobuf.messages(request.SerializeToString(), 1)
        found[name] = b"".join(protobuf.delimited(1, message + NEWER) for message in messages)
    return found


def messages_of(signal_name: str, *bodies: bytes) -> list[bytes]:
    """Every resource message of requests, without the attributes that are ours, in a form that can be compared."""
    found = []
    for body in bodies:
        request: Message = REQUESTS[signal_name].FromString(body)
        for message in getattr(request, request.DESCRIPTOR.fields[0].name):
            kept = [pair for pair in message.resource.attributes if pair.key not in OURS]
            is_empty = not kept and not message.resource.dropped_attributes_count
            del message.resource.attributes[:]
            message.resource.attributes.extend(kept)
            if is_empty:
                message.ClearField("resource")
            found.append(message.SerializeToString(deterministic=True))
    return sorted(found)


@pytest.fixture
def place(tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]) -> Callable[..., Place]:
    """Make the gateway's place."""

    def make(**options: object) -> Place:
        return Place(tmp_path, endpoint=otlp_sink.url, make_child=make_child, **options)

    return make


def bodies_of(sink: OtlpSink, signal_name: str) -> list[bytes]:
    return [request.body for request in sink.requests if request.signal == signal_name and request.is_taken]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_what_arrives_is_what_was_sent(place, otlp_sink: OtlpSink, protocol: str) -> None:
    """Byte for byte but for the resource's own attributes; in JSON all but what is not known there."""
    site = place(protocol=protocol)
    child = site.start()
    sent = everything()
    for name, body in sent.items():
        assert site.send(name, body)[0] == 200
        assert site.send(name, gzip.compress(body), Content_Encoding="gzip")[0] == 200
    account = site.drain()
    assert (account.accepted, account.gap, account.ledger) == (2 * (5 + 2 + 1), 0, {})
    for name, body in sent.items():
        found = messages_of(name, *bodies_of(otlp_sink, name))
        expected = messages_of(name, body, body)
        if protocol == "http/json":
            expected = [message.replace(NEWER, b"") for message in expected]
        assert found == expected, name
        for request in map(REQUESTS[name].FromString, bodies_of(otlp_sink, name)):
            for message in getattr(request, request.DESCRIPTOR.fields[0].name):
                keys = [pair.key for pair in message.resource.attributes]
                assert {"tidegate.gateway.id", "site"} <= set(keys)
                assert len(keys) == len(set(keys))
    source = site.status()["sources"]["local"]
    assert (source["data_points"], source["log_records"], source["spans"]) == (10, 4, 2)
    assert (source["received"], source["acknowledged"], source["refused"]) == (6, 6, {})
    child.terminate()


@pytest.mark.slow
def test_what_was_answered_survives_any_kill(place, otlp_sink: OtlpSink) -> None:
    """Killed in the moment of the answer, again and again, with a receiver that is away half of the time."""
    rng = random.Random(7)
    site = place()
    answered: set[str] = set()
    number = 0
    for turn in range(12):
        child = site.start()
        otlp_sink.always = Behaviour(status=503) if turn % 2 else Behaviour()
        for _ in range(rng.randrange(1, 6)):
            names = [f"span {number + k}" for k in range(rng.choice([1, 3, 50]))]
            number += len(names)
            if site.send("traces", spans(*names))[0] == 200:
                answered.update(names)
        child.kill()
    otlp_sink.always = Behaviour()
    child = site.start()
    account = site.drain()
    came = Counter(
        span.name
        for body in bodies_of(otlp_sink, "traces")
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    )
    assert answered <= came.keys()
    assert len(answered) > 20
    assert (account.gap, account.ledger) == (0, {})
    assert sum(came.values()) - len(came) <= account.maybe_twice
    child.terminate()
    assert site.verify()[0] == 0


@pytest.mark.slow
def test_a_full_store_says_so_and_keeps_nothing_more(place, otlp_sink: OtlpSink) -> None:
    """429 with how long to wait; what was refused is nowhere, what was answered is all there."""
    otlp_sink.always = Behaviour(status=503)
    site = place(store='max_bytes = "2MiB"\nwhen_full = "refuse"')
    child = site.start()
    answered = refused = 0
    while refused < 5:
        names = [os.urandom(300).hex() for _ in range(200)]
        status, headers = site.send("traces", spans(*names))
        answered += 200 * (status == 200)
        refused += status == 429
        assert status in {200, 429}, status
        if status == 429:
            assert int(headers["retry-after"]) >= 1
            assert headers["content-type"] == "application/x-protobuf"
    account = site.account()
    assert (account.accepted, account.gap) == (answered, 0)
    assert site.status()["sources"]["local"]["pushed_back"] == 5
    otlp_sink.always = Behaviour()
    assert site.drain().delivered == answered
    assert site.send("traces", spans("after"))[0] == 200
    child.terminate()


@pytest.mark.slow
def test_what_is_held_can_be_carried_away(place, otlp_sink: OtlpSink, tmp_path: Path) -> None:
    """`export` writes it as OTLP JSON, `verify` finds it whole, as long as nobody takes it."""
    otlp_sink.always = Behaviour(status=503)
    site = place()
    child = site.start()
    for name, body in everything().items():
        assert site.send(name, body)[0] == 200
    child.terminate()
    assert site.verify()[0] == 0
    out = tmp_path / "held.jsonl"
    command = [sys.executable, "-m", "gateway", "export", "--state-dir", str(site.state_dir), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5 readings and 2 log records and 1 span in" in done.stdout
    lists = {key for line in out.read_text().splitlines() for key in json.loads(line)}
    assert lists == {"resourceMetrics", "resourceLogs", "resourceSpans"}
    assert "00010203-" not in out.read_text()
    assert bytes(range(16)).hex() in out.read_text()


@pytest.mark.slow
def test_a_receiver_without_traces_holds_nobody_else_back(place, otlp_sink: OtlpSink) -> None:
    """Its 404 is about their path alone; they leave when it has one."""
    otlp_sink.always = Behaviour(knows_not="traces")
    site = place()
    child = site.start()
    sent = everything()
    for name, body in sent.items():
        assert site.send(name, body)[0] == 200
    wait_until(lambda: site.account().held == 1, "all but the span to leave")
    wait_until(lambda: "traces" in site.status()["uplinks"]["cloud"]["held_back"], "the span to be held back")
    assert "/v1/traces" in site.status()["uplinks"]["cloud"]["held_back"]["traces"]
    otlp_sink.always = Behaviour()
    # A wrong path is looked at again after a minute; a new start looks at once.
    child.terminate()
    child = site.start()
    account = site.drain()
    assert (account.delivered, account.gap, account.ledger) == (8, 0, {})
    assert messages_of("traces", *bodies_of(otlp_sink, "traces")) == messages_of("traces", sent["traces"])
    child.terminate()


@pytest.mark.slow
def test_one_point_that_is_refused_takes_no_other_with_it(place, otlp_sink: OtlpSink) -> None:
    """Of one message with a hundred: it is found, in the ledger, and shown by its name."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="level")
    for k in range(100):
        metric.gauge.data_points.add(as_int=k, time_unix_nano=k + 1)
    otlp_sink.always = Behaviour(refuses=lambda reading: reading.value == 13, message="no thirteen")
    site = place()
    child = site.start()
    assert site.send("metrics", request.SerializeToString())[0] == 200
    account = site.drain()
    assert (account.delivered, account.ledger, account.gap) == (99, {"refused": 1}, 0)
    assert sorted(int(reading.value) for reading in otlp_sink.readings()) == [k for k in range(100) if k != 13]
    child.terminate()
    command = [sys.executable, "-m", "gateway", "quarantine", "--refused", "--state-dir", str(site.state_dir)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "no thirteen" in shown
    assert "level" in shown


def sdk_is_here() -> bool:
    return all(find_spec(f"opentelemetry.{name}") for name in ("sdk", "exporter"))


@pytest.mark.slow
@pytest.mark.skipif(not sdk_is_here(), reason="OpenTelemetry's SDK is not installed (pip install -e .[dev])")
def test_programs_with_opentelemetrys_own_sdk(place, otlp_sink: OtlpSink, make_child: Callable[..., Child]) -> None:
    """Traces, logs and metrics of a program, while the gateway is killed twice: what its exporters got rid of arrives."""
    site = place()
    child = site.start()
    program = make_child(python("-m", "hil.otlp_program", "--endpoint", f"http://127.0.0.1:{site.otlp}"))
    for _ in range(2):
        before = site.status()["accepted"]
        wait_until(lambda before=before: site.status()["accepted"] > before + 50, "the program to be heard")
        child.kill()
        child = site.start()
    program.write_line("that is enough")
    said = json.loads(program.wait_for('{"steps"'))
    account = site.drain()
    span_names = {
        span.name
        for body in bodies_of(otlp_sink, "traces")
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    texts = {line.body for line in otlp_sink.logs()}
    steps = [reading.value for reading in otlp_sink.readings() if reading.metric == "steps"]
    assert set(said["spans"]) <= span_names
    assert set(said["logs"]) <= texts
    assert (max(steps), len(steps) >= said["metrics"]) == (said["steps"], True)
    assert min(len(said["spans"]), len(said["logs"])) > 50
    assert account.gap == 0
    child.terminate()
