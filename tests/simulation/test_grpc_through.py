"""OTLP over gRPC through real gateways: in, out, and from one to the other, while links and gateways are killed."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from gateway.codecs import protobuf
from gateway.codecs.grpc import METHODS, prefix
from gateway.core.contracts import Signal
from gateway.net.http2 import DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame
from gateway.net.ports import free_port
from hil.children import python, wait_until
from hil.gateway_child import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.children import Child

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install grpcio")
Behaviour = pytest.importorskip("hil.grpc_sink").Behaviour

OURS = {"tidegate.gateway.id", "tidegate.backfill"}
RSS_BYTES_MAX = 80 << 20
pytestmark = pytest.mark.slow


class Place(Site):
    """A gateway with an OTLP receiver that listens for gRPC, and an uplink that speaks it."""

    def __init__(self, folder: Path, *, protocol: str = "grpc", more: str = "", **options: object) -> None:
        folder.mkdir(exist_ok=True)
        self.http, self.grpc = free_port(), free_port()
        source = f'[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:{self.http}"\n'
        source += f'grpc = "127.0.0.1:{self.grpc}"\n{more}'
        super().__init__(folder, source=source, **options)
        text = self.config.read_text().replace(
            'name = "cloud"', f'name = "cloud"\nprotocol = "{protocol}"\ntimeout = "3s"'
        )
        self.config.write_text(text)

    def send(self, signal: Signal, body: bytes, **options: Any) -> int:
        """Make one call; return its code."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            try:
                channel.unary_unary(METHODS[signal])(body, timeout=60, **options)
            except grpc.RpcError as error:
                return int(error.code().value[0])
        return 0


def logs(*texts: str) -> bytes:
    request = ExportLogsServiceRequest()
    message = request.resource_logs.add()
    message.resource.attributes.add(key="service.name").value.string_value = "app"
    for text in texts:
        message.scope_logs.add().log_records.add(time_unix_nano=1).body.string_value = text
    return request.SerializeToString()


def taken(sink: Any, signal: str = "logs") -> list[bytes]:
    return [call.body for call in sink.calls if call.signal == signal]


def test_what_arrives_is_what_was_sent(tmp_path: Path, grpc_sink, make_child: Callable[..., Child]) -> None:
    """Byte for byte but for the resource's own attributes, with fields of the future; nothing is sent twice."""
    site = Place(tmp_path, endpoint=grpc_sink.url, make_child=make_child)
    child = site.start()
    newer = protobuf.text(300, "from the future")
    body = protobuf.delimited(1, next(protobuf.messages(logs("one", "two"), 1)) + newer)
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        assert site.send(Signal.LOGS, body, compression=compression) == 0
    assert site.send(Signal.METRICS, b"") == 0
    assert site.send(Signal.TRACES, b"\xff") == 3
    account = site.drain()
    assert (account.accepted, account.delivered, account.gap, account.ledger, account.maybe_twice) == (4, 4, 0, {}, 0)
    found = []
    for request in map(ExportLogsServiceRequest.FromString, taken(grpc_sink)):
        for message in request.resource_logs:
            kept = [pair for pair in message.resource.attributes if pair.key not in OURS]
            assert len(kept) == len(message.resource.attributes) - 1
            del message.resource.attributes[:]
            message.resource.attributes.extend(kept)
            found.append(message.SerializeToString(deterministic=True))
    assert found == [next(protobuf.messages(body, 1))] * 2
    # Compressed as gRPC's receivers know it.
    status = site.status()
    assert status["uplinks"]["cloud"]["endpoint"] == grpc_sink.url
    assert status["sources"]["local"]["refused"] == {"malformed": 1}
    child.terminate()


def test_a_link_that_breaks_under_calls_loses_nothing(
    tmp_path: Path, grpc_sink, make_link, make_child: Callable[..., Child]
) -> None:
    """Cut, stalled and refused at random: all arrives, and what came twice is no more than is counted."""
    dice = random.Random(11)
    link = make_link(grpc_sink.address)
    site = Place(tmp_path, endpoint=link.url, make_child=make_child)
    child = site.start()
    sent = 0
    for _ in range(60):
        assert site.send(Signal.LOGS, logs(*(f"n{sent + k}" for k in range(20)))) == 0
        sent += 20
        fate = dice.random()
        if fate < 0.4:
            # In the middle of a call, as far as chance has it.
            grpc_sink.behave(Behaviour(delay_s=0.05))
            time.sleep(0.07)
            link.cut()
        elif fate < 0.6:
            grpc_sink.behave(Behaviour(code=dice.choice([1, 4, 8, 14]), retry_s=dice.choice([None, 0.05]), takes=False))
    account = site.drain()
    assert (account.gap, account.accepted, account.ledger) == (0, sent, {})
    kept = Counter(line.body for line in grpc_sink.logs())
    assert set(kept) == {f"n{k}" for k in range(sent)}
    assert sum(kept.values()) - len(kept) <= account.maybe_twice
    assert account.maybe_twice > 0
    child.terminate()


def test_from_one_gateway_to_the_other(tmp_path: Path, grpc_sink, make_child: Callable[..., Child]) -> None:
    """Out over gRPC into gRPC; both are killed again and again: nothing is lost, and doubles are counted."""
    far = Place(tmp_path / "far", endpoint=grpc_sink.url, make_child=make_child)
    near = Place(tmp_path / "near", endpoint=f"http://127.0.0.1:{far.grpc}", make_child=make_child)
    children = {far: far.start(), near: near.start()}
    answered: set[str] = set()
    number = 0
    for turn in range(6):
        for _ in range(10):
            names = [f"n{number + k}" for k in range(10)]
            number += 10
            if near.send(Signal.LOGS, logs(*names)) == 0:
                answered.update(names)
        victim = (far, near)[turn % 2]
        children[victim].kill()
        time.sleep(0.1)
        children[victim] = victim.start()
    near_account = near.drain()
    far_account = far.drain()
    kept = Counter(line.body for line in grpc_sink.logs())
    assert answered <= kept.keys()
    assert len(answered) > 400
    for account in (near_account, far_account):
        assert (account.gap, account.ledger) == (0, {})
    assert sum(kept.values()) - len(kept) <= near_account.maybe_twice + far_account.maybe_twice
    for site, child in children.items():
        began_s = time.monotonic()
        child.terminate()
        assert time.monotonic() - began_s < 40
        assert site.verify()[0] == 0


def test_a_full_store_far_away_holds_the_near_one(tmp_path: Path, grpc_sink, make_child: Callable[..., Child]) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo: the near one waits and keeps, and both go on when there is room."""
    grpc_sink.always = Behaviour(code=14)
    store = 'max_bytes = "2MiB"\nwhen_full = "refuse"'
    far = Place(tmp_path / "far", endpoint=grpc_sink.url, make_child=make_child, store=store)
    near = Place(tmp_path / "near", endpoint=f"http://127.0.0.1:{far.grpc}", make_child=make_child)
    far.start()
    near.start()
    dice, sent = random.Random(2), 0
    for _ in range(60):
        texts = [dice.randbytes(300).hex() for _ in range(100)]
        assert near.send(Signal.LOGS, logs(*texts)) == 0
        sent += 100
    wait_until(
        lambda: "RESOURCE_EXHAUSTED" in near.status()["uplinks"]["cloud"]["last_error"], "the far one to be full"
    )
    assert near.account().ledger == {}
    grpc_sink.always = Behaviour()
    assert near.drain().delivered == sent
    account = far.drain()
    assert (account.delivered, account.ledger, account.gap) == (sent, {}, 0)
    assert sum(Counter(line.body for line in grpc_sink.logs()).values()) - sent <= account.maybe_twice


def test_programs_with_opentelemetrys_own_exporters(
    tmp_path: Path, grpc_sink, make_child: Callable[..., Child]
) -> None:
    """Over gRPC, while the gateway is killed twice: what its exporters got rid of arrives."""
    pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.grpc", reason="pip install opentelemetry-exporter-otlp-proto-grpc"
    )
    site = Place(tmp_path, endpoint=grpc_sink.url, make_child=make_child)
    child = site.start()
    program = make_child(python("-m", "hil.otlp_program", "--grpc", "--endpoint", f"http://127.0.0.1:{site.grpc}"))
    for _ in range(2):
        before = site.status()["accepted"]
        wait_until(lambda before=before: site.status()["accepted"] > before + 50, "the program to be heard")
        child.kill()
        child = site.start()
    program.write_line("that is enough")
    said = json.loads(program.wait_for('{"steps"', within_s=90))
    account = site.drain()
    texts = {line.body for line in grpc_sink.logs()}
    assert set(said["logs"]) <= texts
    spans = b"".join(taken(grpc_sink, "traces"))
    assert all(name.encode() in spans for name in said["spans"])
    assert (account.gap, account.ledger) == (0, {})
    assert len(said["logs"]) > 50
    child.terminate()


def test_who_means_no_good_takes_no_memory(tmp_path: Path, grpc_sink, make_child: Callable[..., Child]) -> None:
    """Bombs, messages that do not end and a thousand of them: the honest are served, and memory is bounded."""
    import hpack

    site = Place(tmp_path, endpoint=grpc_sink.url, make_child=make_child)
    child = site.start()
    bomb = gzip.compress(bytes(256 << 20), 9)
    stalled: list[socket.socket] = []
    for number in range(200):
        one = socket.create_connection(("127.0.0.1", site.grpc))
        stalled.append(one)
        one.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        head = [
            (":method", "POST"), (":scheme", "http"), (":path", METHODS[Signal.LOGS]), (":authority", "127.0.0.1"),
            ("content-type", "application/grpc"), ("grpc-encoding", "gzip"), ("te", "trailers"),
        ]  # fmt: skip
        block = hpack.Encoder().encode(head)
        with contextlib.suppress(OSError):
            for stream in range(1, 17, 2):
                one.sendall(frame(HEADERS, END_HEADERS, stream, block))
            if number % 2:
                data = (prefix(4 << 20, is_compressed=True) + bytes(60_000))[:60_000]
            else:
                data = (prefix(len(bomb), is_compressed=True) + bomb)[:65_000]
            for at in range(0, len(data), 16_000):
                one.sendall(frame(DATA, 0, 1, data[at : at + 16_000]))
    deadline_s = time.monotonic() + 60
    while site.send(Signal.LOGS, logs("honest")) != 0:
        assert time.monotonic() < deadline_s, site.status()["sources"]["local"]
    status = site.status()
    assert status["memory"]["rss_bytes"] < RSS_BYTES_MAX
    assert status["sources"]["local"]["connections"] <= 2 * 64
    for one in stalled:
        one.close()
    wait_until(lambda: site.status()["sources"]["local"]["in_flight_bytes"] == 0, "all of it to be let go")
    assert site.drain().delivered >= 1
    child.terminate()
