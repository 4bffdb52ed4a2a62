"""The OTLP receiver over gRPC: grpcio's own client, OpenTelemetry's own exporters, and our own uplink's wire."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from gateway.codecs import protobuf, zstd
from gateway.codecs.grpc import METHODS, prefix
from gateway.core.clock import FakeClock, SystemClock
from gateway.core.contracts import FullError, Messages, Priority, Signal, TryLaterError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.sources import mqtt_server_auth
from gateway.sources.otlp import OtlpSource
from gateway.sources.otlp_grpc import Message
from gateway.sources.otlp_settings import OtlpSettings, OtlpUser
from gateway.sources.server_tls import ServerTls
from gateway.uplinks.grpc_sender import GrpcSender
from gateway.uplinks.guards import HoldError, Packed, StatusRefusedError, TooLargeError
from gateway.uplinks.settings import OtlpUplinkSettings, TlsSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install grpcio")


class Door:
    """Keeps what it is given when it is let; `full` is what it raises instead."""

    def __init__(self) -> None:
        self.kept: list[Messages] = []
        self.full: FullError | None = None
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.came = asyncio.Event()

    async def __call__(self, messages: Messages, /) -> None:
        self.came.set()
        await self.may_commit.wait()
        if self.full is not None:
            raise self.full
        self.kept.append(messages)

    @property
    def bodies(self) -> list[bytes]:
        return [body for messages in self.kept for body in messages.records.bodies]


class Site:
    """A source that listens, and calls to it by grpcio."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.door = Door()
        self.telemetry = Telemetry()
        self.source = OtlpSource(settings, accept=self.door, clock=FakeClock(), telemetry=self.telemetry)
        self.channels: list[Any] = []

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.source.grpc_address[1]}"

    def channel(self, *, credentials: Any = None, **options: object) -> Any:
        given = [("grpc.max_send_message_length", -1), *options.items()]
        found = (
            grpc.insecure_channel(self.target, given)
            if credentials is None
            else grpc.secure_channel(self.target, credentials, given)
        )
        self.channels.append(found)
        return found

    async def call(
        self, body: bytes, *, method: str = METHODS[Signal.LOGS], channel: Any = None, **options: Any
    ) -> tuple[int, Any, dict[str, Any]]:
        """Make one call; return its code, its answer or what was said, and its trailers."""
        one = channel or self.channel()

        def ask() -> tuple[int, Any, dict[str, Any]]:
            try:
                answer, call = one.unary_unary(method).with_call(body, timeout=60, **options)
                return 0, answer, dict(call.trailing_metadata())
            except grpc.RpcError as error:
                return error.code().value[0], error.details(), dict(error.trailing_metadata() or ())

        return await asyncio.to_thread(ask)

    @property
    def status(self) -> dict:
        return self.source.status()


@pytest.fixture
async def make() -> AsyncIterator[Callable]:
    """Start sources."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: object) -> Site:
            site = Site(OtlpSettings(**{"name": "local", "http": "127.0.0.1:0", "grpc": "127.0.0.1:0"} | changes))
            task = asyncio.create_task(site.source.run())
            for server in site.source._servers:
                await server.listening.wait()

            async def stop() -> None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                for channel in site.channels:
                    await asyncio.to_thread(channel.close)

            site.stop = stop
            stack.push_async_callback(stop)
            return site

        yield start


def logs(*texts: str) -> bytes:
    request = ExportLogsServiceRequest()
    message = request.resource_logs.add()
    message.resource.attributes.add(key="service.name").value.string_value = "app"
    for text in texts:
        message.scope_logs.add().log_records.add(trace_id=bytes(range(16))).body.string_value = text
    return request.SerializeToString()


def retry_s(trailers: dict[str, Any]) -> float | None:
    """Return RetryInfo's seconds as the official classes read them."""
    if "grpc-status-details-bin" not in trailers:
        return None
    found = error_details_pb2.RetryInfo()
    # OpenTelemetry's SDK for Python looks for it by itself.
    alone = error_details_pb2.RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"])
    assert status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(found)
    assert alone == found
    return found.retry_delay.seconds + found.retry_delay.nanos / 1e9


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_what_is_taken_is_kept_as_it_came(make, compression) -> None:
    """With its class, its signal and how many readings it holds; fields of other versions, too."""
    site = await make(class_="critical")
    body = logs("one", "two")
    unknown = protobuf.delimited(1, next(protobuf.messages(body, 1)) + protobuf.text(99, "from the future"))
    for sent in (body, unknown):
        assert (await site.call(sent, compression=compression))[:2] == (0, b"")
    assert site.door.bodies == [next(protobuf.messages(sent, 1)) for sent in (body, unknown)]
    kept = site.door.kept[0]
    assert (kept.source, kept.priority, kept.records.signal) == ("local", Priority.CRITICAL, Signal.LOGS)
    status = site.status
    assert (status["received"], status["acknowledged"], status["log_records"]) == (2, 2, 4)
    assert (status["state"], status["in_flight_bytes"], status["refused"]) == ("listening", 0, {})
    assert status["grpc_address"] == site.target
    assert site.telemetry.value("tidegate_otlp_readings", source="local", signal="logs") == 4


@pytest.mark.parametrize("signal", list(Signal))
async def test_each_signal_has_its_method(make, signal: Signal) -> None:
    """And an empty call is one."""
    site = await make()
    assert (await site.call(b"", method=METHODS[signal]))[:2] == (0, b"")
    assert site.door.kept == []


async def test_http_and_grpc_are_one_receiver(make) -> None:
    """What both bring stands in one row of numbers."""
    site = await make()
    reader, writer = await asyncio.open_connection(*site.source.address)
    body = logs("a")
    head = f"POST /v1/logs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    await site.call(logs("b"))
    assert (site.status["log_records"], site.status["connections"]) == (2, 2)
    assert site.telemetry.value("tidegate_source_connections", source="local") == 2
    writer.close()


async def test_nothing_is_answered_before_it_is_kept(make) -> None:
    """The commit is what the client waits for."""
    site = await make()
    site.door.may_commit.clear()
    task = asyncio.create_task(site.call(logs("a")))
    await site.door.came.wait()
    await asyncio.sleep(0.05)
    assert (task.done(), site.status["in_flight_bytes"]) == (False, len(logs("a")))
    site.door.may_commit.set()
    assert (await task)[0] == 0


async def test_a_full_store_pushes_back(make) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo, which makes it one that may come again; nothing is kept."""
    site = await make()
    site.door.full = FullError("the store is full", 2.5)
    code, said, trailers = await site.call(logs("a"))
    assert (code, said, retry_s(trailers)) == (8, "the store is full", 2.5)
    assert (site.status["state"], site.status["pushed_back"], site.status["acknowledged"]) == ("full", 1, 0)
    site.door.full = None
    assert (await site.call(logs("a")))[0] == 0
    assert site.status["state"] == "listening"


async def test_what_cannot_be_read_is_said(make) -> None:
    """Once and for all: no RetryInfo."""
    site = await make()
    for body, what in (
        (b"\x0a\xff", "this is no request of logs in protobuf: a varint that does not end"),
        (protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, b"\x1a\x01\xff"))), "ExportLogs"),
    ):
        code, said, trailers = await site.call(body)
        assert (code, what in said, retry_s(trailers)) == (3, True, None)
    assert (site.door.kept, site.status["refused"]) == ([], {"malformed": 2})


async def test_other_methods_are_not_implemented(make) -> None:
    """With what there is."""
    site = await make()
    for method in ("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", "/x.Y/Z"):
        code, said, _ = await site.call(b"", method=method)
        assert (code, f"there is nothing at {method}" in said) == (12, True)
    assert site.status["refused"] == {"not_found": 2}


async def test_what_is_too_large_is_refused_before_it_is_opened(make) -> None:
    """By its first bytes; by what comes out of it, however little has come. No RetryInfo: it never fits."""
    site = await make(request_bytes_max=Size(20_000))
    bomb = bytes(200 << 20)
    tracemalloc.start()
    for body, compression in (
        (bytes(20_001), grpc.Compression.NoCompression),
        (bomb, grpc.Compression.Gzip),
    ):
        code, said, trailers = await site.call(body, compression=compression)
        assert (code, retry_s(trailers)) == (8, None)
        assert said == "received message larger than max: a request of more than 20000 bytes; send smaller ones"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20
    assert (site.door.kept, site.status["in_flight_bytes"], site.status["refused"]) == ([], 0, {"too_large": 2})


async def test_a_part_that_cannot_be_kept_is_said(make) -> None:
    """The rest is; a client that is told so does not send it again."""
    site = await make()
    code, answer, _ = await site.call(logs("a", "b" * (1 << 20), "c"))
    found = ExportLogsServiceResponse.FromString(answer).partial_success
    assert (code, found.rejected_log_records) == (0, 1)
    assert "larger than the 1 MiB" in found.error_message
    (kept,) = site.door.kept
    assert (kept.records.counts.sum(), kept.dropped) == (2, {"oversize": 1})


async def test_too_much_at_once_is_pushed_back(make) -> None:
    """UNAVAILABLE with RetryInfo; what is under way is not disturbed."""
    site = await make(request_bytes_max=Size(16 << 10), in_flight_bytes_total=Size(20 << 10))
    site.door.may_commit.clear()
    first = asyncio.create_task(site.call(logs("x" * 15_000)))
    await site.door.came.wait()
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        code, _, trailers = await site.call(logs("y" * 9000), compression=compression)
        assert (code, retry_s(trailers)) == (14, 1.0)
    site.door.may_commit.set()
    assert (await first)[0] == 0
    assert (site.status["in_flight_bytes"], site.status["pushed_back"]) == (0, 2)


async def test_who_may_not_send_is_told_so_unread(make) -> None:
    """A token, or a name and password; guesses are answered late, and held back when there are too many."""
    token, password = Secret(env="TEST_TOKEN"), Secret(env="TEST_PASSWORD")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_TOKEN", "right")
        patch.setenv("TEST_PASSWORD", "secret")
        patch.setattr(mqtt_server_auth, "DELAY_S", 0.001)
        patch.setattr(mqtt_server_auth, "DELAY_S_MAX", 0.001)
        site = await make(token=token, users=(OtlpUser(name="app", password=password),))
        for given, wanted in (
            ("Bearer right", 0),
            ("Basic YXBwOnNlY3JldA==", 0),
            ("Bearer wrong", 16),
            ("Basic YXBwOndyb25n", 16),
            ("", 16),
        ):
            metadata = [("authorization", given)] if given else []
            assert (await site.call(logs("a"), metadata=metadata))[0] == wanted, given
    assert (len(site.door.kept), site.status["refused"]) == (2, {"not_authorized": 3})


async def test_who_takes_back_a_guess_does_not_guess_faster(make, monkeypatch) -> None:
    """A wrong token holds its place for as long as its answer would take, whether somebody waits for that or not."""
    monkeypatch.setenv("TEST_TOKEN", "right")
    seen = asyncio.Event()
    failed = mqtt_server_auth.Attempts.failed

    def see(*given: Any, **named: Any) -> float:
        seen.set()
        return failed(*given, **named)

    monkeypatch.setattr(mqtt_server_auth.Attempts, "failed", see)
    site = await make(token=Secret(env="TEST_TOKEN"))
    channel = site.channel()
    for _ in range(mqtt_server_auth.WAITING_PER_NAME_MAX):
        seen.clear()
        metadata = [("authorization", "Bearer wrong")]
        guess = channel.unary_unary(METHODS[Signal.LOGS]).future(logs("a"), metadata=metadata)
        await seen.wait()
        guess.cancel()
    code, said, _ = await site.call(logs("a"), channel=channel, metadata=[("authorization", "Bearer right")])
    assert (code, said) == (8, "too many wrong tokens or passwords")


async def test_a_page_in_a_browser_is_not_let_in(make) -> None:
    """Without a token only who asks by address is answered."""
    site = await make()
    channel = site.channel(**{"grpc.default_authority": "evil.example"})
    assert (await site.call(logs("a"), channel=channel))[0] == 7
    assert (await site.call(logs("a"), channel=site.channel(**{"grpc.default_authority": "localhost:4317"})))[0] == 0


async def test_over_tls(make, authority) -> None:
    """A certificate opens the door, as over HTTP, and so does a token beside it."""
    server, own = authority.issue(), authority.issue("program")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_TOKEN", "right")
        tls = ServerTls(
            cert_file=str(server.certificate), key_file=str(server.key), client_ca_file=str(authority.certificate)
        )
        site = await make(tls=tls, token=Secret(env="TEST_TOKEN"))
        patch.setattr(mqtt_server_auth, "DELAY_S", 0.001)
        ca = authority.certificate.read_bytes()
        with_certificate = grpc.ssl_channel_credentials(ca, own.key.read_bytes(), own.certificate.read_bytes())
        without = grpc.ssl_channel_credentials(ca)
        assert (await site.call(logs("a"), channel=site.channel(credentials=with_certificate)))[0] == 0
        assert (await site.call(logs("a"), channel=site.channel(credentials=without)))[0] == 16
        right = [("authorization", "Bearer right")]
        assert (await site.call(logs("a"), channel=site.channel(credentials=without), metadata=right))[0] == 0
    assert len(site.door.kept) == 2


# What grpcio's client does not send, our own wire does.


@pytest.fixture
def wire():
    """Make our own senders to a site."""
    made: list[GrpcSender] = []

    def make(site: Site, **settings: object) -> GrpcSender:
        scheme = "https" if "tls" in settings else "http"
        made.append(
            GrpcSender(
                OtlpUplinkSettings(name="a", endpoint=f"{scheme}://{site.target}", protocol="grpc", **settings),
                version="1",
                clock=SystemClock(),
            )
        )
        return made[-1]

    yield make
    for sender in made:
        sender.close()


async def test_our_own_wire_comes_through_our_own_door(make, wire, authority) -> None:
    """Plain and over TLS, with every encoding that both know; and each refusal is the decision that it should be."""
    server = authority.issue()
    tls = ServerTls(cert_file=str(server.certificate), key_file=str(server.key))
    for site, settings in (
        (await make(request_bytes_max=Size(100_000)), {}),
        (
            await make(tls=tls, request_bytes_max=Size(100_000)),
            {"tls": TlsSettings(ca_file=str(authority.certificate))},
        ),
    ):
        sender = wire(site, **settings)
        for encoding, encode in (("", bytes), ("gzip", gzip.compress), ("zstd", zstd.compress)):
            answer = await asyncio.to_thread(sender.send, Packed(Signal.LOGS, encode(logs("one")), encoding))
            assert answer.rejected == 0
        assert site.door.bodies == [next(protobuf.messages(logs("one"), 1))] * 3
        for packed, error in (
            (Packed(Signal.LOGS, bytes(200_000), ""), TooLargeError),
            (Packed(Signal.LOGS, gzip.compress(bytes(5 << 20)), "gzip"), TooLargeError),
            (Packed(Signal.LOGS, b"\xff", ""), StatusRefusedError),
            (Packed(Signal.LOGS, b"not gzip", "gzip"), StatusRefusedError),
            (Packed(Signal.LOGS, b"x", "br"), StatusRefusedError),
        ):
            with pytest.raises(error):
                await asyncio.to_thread(sender.send, packed)
        site.door.full = FullError("the store is full", 4.0)
        with pytest.raises(TryLaterError, match="RESOURCE_EXHAUSTED: asks to wait 4 s: the store is full") as caught:
            await asyncio.to_thread(sender.send, Packed(Signal.LOGS, logs("a"), ""))
        assert (caught.value.after_s, caught.value.answer_lost) == (4.0, False)


async def test_a_wrong_token_holds_our_own_wire(make, wire) -> None:
    """It is mended by whoever has the right one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_TOKEN", "right")
        patch.setattr(mqtt_server_auth, "DELAY_S", 0.001)
        site = await make(token=Secret(env="TEST_TOKEN"))
        with pytest.raises(HoldError, match="UNAUTHENTICATED"):
            await asyncio.to_thread(wire(site).send, Packed(Signal.LOGS, logs("a"), ""))


class Pieces:
    """A body that comes in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.has_given_up = False

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def give_up(self) -> None:
        self.has_given_up = True


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ((), "there is no message"),
        ((b"\0\0\0",), "there is no message"),
        ((prefix(5, is_compressed=False), b"abc"), "ends in the middle"),
        ((prefix(2, is_compressed=False) + b"abc",), "more than one message"),
        ((b"\2\0\0\0\0",), "begins with 0 or 1"),
        ((prefix(11, is_compressed=False),), "a request of more than 10 bytes"),
    ],
)
async def test_what_is_no_message_is_said(pieces: tuple[bytes, ...], why: str) -> None:
    """By its prefix, or by how it ends."""
    from gateway.net.http_requests import RequestError

    async def read() -> None:
        message = Message(Pieces(*pieces), bytes_max=10)
        await message.begin()
        while await message.read():
            pass

    with pytest.raises(RequestError, match=why):
        await read()


async def test_a_message_that_has_to_make_room_says_so_to_its_body() -> None:
    """It is the one that is waited for."""
    body = Pieces()
    Message(body, bytes_max=10).give_up()
    assert body.has_given_up


async def test_what_is_compressed_says_how(make) -> None:
    """And what is no gRPC is told by a status of HTTP, as the protocol has it."""
    import hpack

    from gateway.net.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame

    site = await make()
    for kind, data, found in (
        ("application/grpc", prefix(0, is_compressed=True), {"grpc-status": "3", ":status": "200"}),
        ("application/json", b"{}", {":status": "415"}),
    ):
        reader, writer = await asyncio.open_connection(*site.source.grpc_address)
        head = [
            (":method", "POST"), (":scheme", "http"), (":path", METHODS[Signal.LOGS]), (":authority", "127.0.0.1"),
            ("content-type", kind), ("content-length", str(len(data))),
        ]  # fmt: skip
        writer.write(PREFACE + frame(SETTINGS, 0, 0, b""))
        writer.write(frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(head)) + frame(DATA, END_STREAM, 1, data))
        while True:
            start = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(start[:3], "big"))
            if start[3] == HEADERS:
                break
        headers = dict(hpack.Decoder().decode(payload))
        assert {name: headers.get(name) for name in found} == found
        writer.close()
    assert site.status["refused"] == {"malformed": 1, "bad_type": 1}


async def test_a_port_that_is_taken_ends_both(make) -> None:
    """With which one it was."""
    site = await make()
    port = site.source.grpc_address[1]
    other = Site(OtlpSettings(name="b", http="127.0.0.1:0", grpc=f"127.0.0.1:{port}"))
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        await other.source.run()
    assert (other.status["state"], str(port) in other.status["last_error"]) == ("failed", True)


async def test_the_end_answers_what_is_under_way_and_takes_seconds(make, monkeypatch) -> None:
    """A client with a channel that stands is no reason to wait."""
    monkeypatch.setattr("gateway.sources.otlp.STOP_S_MAX", 60.0)
    site = await make()
    channel = site.channel()
    await site.call(logs("a"), channel=channel)
    site.door.may_commit.clear()
    site.door.came.clear()
    task = asyncio.create_task(site.call(logs("b"), channel=channel))
    await site.door.came.wait()
    # Who closes it while its answer is on the way has cancelled the call.
    site.channels.remove(channel)
    began_s = asyncio.get_running_loop().time()
    ending = asyncio.create_task(site.stop())
    await asyncio.sleep(0.05)
    site.door.may_commit.set()
    assert (await task)[0] == 0
    await ending
    await asyncio.to_thread(channel.close)
    assert asyncio.get_running_loop().time() - began_s < 40
    assert len(site.door.kept) == 2


async def test_programs_send_by_opentelemetrys_own_exporters(make) -> None:
    """Metrics of several kinds, logs and spans of a real SDK, each kept that its exporter says was taken."""
    pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.grpc", reason="pip install opentelemetry-exporter-otlp-proto-grpc"
    )
    site = await make()
    command = [sys.executable, "-m", "hil.otlp_program", "--endpoint", f"http://{site.target}", "--seconds", "1.5"]
    child = await asyncio.create_subprocess_exec(*command, "--grpc", stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(child.communicate(), 120)
    said = json.loads(out)
    assert said["steps"] > 5
    assert (len(said["spans"]), len(said["logs"])) == (said["steps"], said["steps"])
    status = site.status
    assert (status["spans"], status["log_records"]) == (said["steps"], said["steps"])
    assert (said["metrics"] > 0, status["data_points"] > 0, status["refused"]) == (True, True, {})
    names = b"".join(site.door.bodies)
    assert all(f"step {number}".encode() in names for number in range(1, said["steps"] + 1))


async def test_many_clients_at_once(make) -> None:
    """Each is answered, and each call is kept once."""
    site = await make(timeout=Duration(20))
    answers = await asyncio.gather(*(site.call(logs(f"n{k}")) for k in range(24)))
    assert {code for code, *_ in answers} == {0}
    assert sorted(site.door.bodies) == sorted(next(protobuf.messages(logs(f"n{k}"), 1)) for k in range(24))
