"""The OTLP receiver on a real socket, with a door that says what was kept."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.codecs import protobuf, zstd
from gateway.codecs.otlp_answers import read_status_message
from gateway.codecs.otlp_intake import Taken, open_request
from gateway.codecs.otlp_replies import JSON, PROTOBUF
from gateway.core.clock import FakeClock
from gateway.core.contracts import FullError, Messages, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.turns import TURN_S_MAX
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.sources import mqtt_server_auth, otlp_counts
from gateway.sources import otlp as module
from gateway.sources.otlp import OtlpSource
from gateway.sources.otlp_settings import OtlpSettings, OtlpUser
from gateway.sources.server_tls import ServerTls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


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
    """A source that listens, and clients of it."""

    def __init__(self, settings: OtlpSettings, **more: object) -> None:
        self.door = Door()
        self.telemetry = Telemetry()
        self.source = OtlpSource(settings, accept=self.door, clock=FakeClock(), telemetry=self.telemetry, **more)

    async def send(
        self, body: bytes, *, path: str = "/v1/logs", kind: str = PROTOBUF, method: str = "POST", **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send one request on a connection of its own; return status, body and headers of the answer."""
        reader, writer = await asyncio.open_connection(*self.source.address)
        try:
            said = {"Host": "127.0.0.1", "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
            said |= {name.replace("_", "-"): value for name, value in headers.items()}
            lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items() if value)]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            answer = await reader.read()
        finally:
            writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        return int(first.split()[1]), content, dict(line.lower().split(": ", 1) for line in rest)

    @property
    def status(self) -> dict:
        return self.source.status()


@pytest.fixture
async def make() -> AsyncIterator[Callable]:
    """Start sources."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, store_bytes_max: int | None = None, **changes: object) -> Site:
            settings = OtlpSettings(**{"name": "local", "http": "127.0.0.1:0"} | changes)
            site = Site(settings, store_bytes_max=store_bytes_max)
            task = asyncio.create_task(site.source.run())
            await site.source.listening.wait()

            async def stop() -> None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

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


def why(answer: tuple[int, bytes, dict[str, str]]) -> tuple[int, str]:
    status, body, headers = answer
    return status, read_status_message(body, content_type=headers["content-type"])


async def test_what_is_taken_is_kept_as_it_came(make) -> None:
    """With its class, its signal and how many readings it holds; the answer is OTLP's own."""
    site = await make(class_="critical")
    body = logs("one", "two")
    unknown = protobuf.delimited(1, next(protobuf.messages(body, 1)) + protobuf.text(99, "from the future"))
    for sent in (body, unknown):
        assert (await site.send(sent))[:2] == (200, b"")
    assert site.door.bodies == [next(protobuf.messages(sent, 1)) for sent in (body, unknown)]
    kept = site.door.kept[0]
    assert (kept.source, kept.priority, kept.records.signal) == ("local", Priority.CRITICAL, Signal.LOGS)
    assert (kept.records.counts.tolist(), kept.dropped) == ([2], {})
    status = site.status
    assert (status["received"], status["acknowledged"], status["log_records"], status["spans"]) == (2, 2, 4, 0)
    assert (status["state"], status["in_flight_bytes"], status["refused"]) == ("listening", 0, {})
    assert site.telemetry.value("tidegate_otlp_readings", source="local", signal="logs") == 4
    while status["connections"]:
        await asyncio.sleep(0)
        status = site.status
    assert site.telemetry.value("tidegate_source_connections", source="local") == 0


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/traces", "/v1/logs?x=1"])
async def test_each_signal_has_its_path(make, path: str) -> None:
    """And an empty request is one."""
    site = await make()
    assert (await site.send(b"", path=path))[:2] == (200, b"")
    assert site.door.kept == []


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity", "GZIP"])
async def test_bodies_may_be_compressed(make, encoding: str) -> None:
    """As the client likes."""
    site = await make()
    pack = {"gzip": gzip.compress, "zstd": zstd.compress}.get(encoding.lower(), bytes)
    assert (await site.send(pack(logs("one")), Content_Encoding=encoding))[0] == 200
    assert site.door.bodies == [next(protobuf.messages(logs("one"), 1))]


async def test_json_becomes_protobuf(make) -> None:
    """With hex ids; the answer is JSON as well."""
    site = await make()
    span = {"name": "GET", "traceId": bytes(range(16)).hex(), "startTimeUnixNano": "5", "kind": 2, "newer": {}}
    text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span] * 100}]}]}).encode()
    for body in (text, text.replace(b" ", b"") + b" " * 20_000):
        status, answer, headers = await site.send(body, path="/v1/traces", kind=f"{JSON}; charset=utf-8")
        assert (status, answer, headers["content-type"]) == (200, b"{}", JSON)
    for body in site.door.bodies:
        request = ExportTraceServiceRequest.FromString(protobuf.delimited(1, body))
        spans = request.resource_spans[0].scope_spans[0].spans
        assert (len(spans), spans[0].trace_id, spans[0].kind) == (100, bytes(range(16)), 2)


async def test_what_is_malformed_is_said(make) -> None:
    """As google.rpc.Status, in the type of the request; nothing is kept."""
    site = await make()
    for body, headers, what in (
        (b"\x0a\xff", {}, "this is no request of logs in protobuf: a varint that does not end"),
        (protobuf.delimited(1, protobuf.delimited(2, protobuf.delimited(2, b"\x1a\x01\xff"))), {}, "ExportLogs"),
        (b"{", {"kind": JSON}, "this is no request of logs in JSON: Input data was truncated"),
        (b"[]", {"kind": JSON}, "object"),
        (b"not gzip", {"Content_Encoding": "gzip"}, "not a gzip stream"),
        (gzip.compress(logs("a"), mtime=0)[:-9], {"Content_Encoding": "gzip"}, "ends in the middle"),
        (zstd.compress(logs("a")) + b"x", {"Content_Encoding": "zstd"}, "bytes behind"),
    ):
        answer = await site.send(body, **headers)
        assert answer[2]["content-type"] == headers.get("kind", PROTOBUF)
        status, sentence = why(answer)
        assert status == 400
        assert any(word in sentence for word in what.split("|")), sentence
    assert (site.door.kept, site.status["refused"]) == ([], {"malformed": 7})
    assert "127.0.0.1" in site.status["refused_last"]["malformed"]


async def test_what_is_no_otlp_is_said(make) -> None:
    """Another path, another method, another type, another encoding."""
    site = await make()
    body = logs("a")
    answers = [
        await site.send(body, path="/v2/logs"),
        await site.send(b"", method="GET"),
        await site.send(body, kind="text/plain"),
        await site.send(body, Content_Type=""),
        await site.send(body, Content_Encoding="br"),
        await site.send(body, Host="evil.example"),
    ]
    assert [status for status, *_ in answers] == [404, 405, 415, 415, 415, 421]
    assert answers[1][2]["allow"] == "post"
    assert site.door.kept == []
    assert set(site.status["refused"]) == {"not_found", "bad_method", "bad_type", "bad_encoding", "bad_host"}


async def test_what_would_fill_the_store_is_too_large(make) -> None:
    """It could be told for ever that there is no room just now: its sender is to make smaller ones."""
    site = await make(store_bytes_max=80_000)
    answers = [await site.send(bytes(20_001)), await site.send(gzip.compress(bytes(20_001)), Content_Encoding="gzip")]
    assert [status for status, *_ in answers] == [413] * 2


async def test_what_is_too_large_is_refused_before_it_is_opened(make) -> None:
    """By its length; by what comes out of it; JSON sooner, and by how much is in it."""
    site = await make(request_bytes_max=Size(20_000), json_bytes_max=Size(10_000))
    text = json.dumps({"resourceLogs": [], "x": "y" * 11_000}).encode()
    answers = [
        await site.send(bytes(20_001)),
        await site.send(gzip.compress(bytes(20_001)), Content_Encoding="gzip"),
        await site.send(zstd.compress(bytes(50 << 20)), Content_Encoding="zstd"),
        await site.send(text, kind=JSON),
        await site.send(gzip.compress(text), kind=JSON, Content_Encoding="gzip"),
    ]
    assert [status for status, *_ in answers] == [413] * 5
    assert (site.door.kept, site.status["in_flight_bytes"], site.status["refused"]) == ([], 0, {"too_large": 5})


async def test_what_is_small_and_becomes_much_is_refused(make, monkeypatch) -> None:
    """Records of two bytes, values of one."""
    monkeypatch.setattr(module, "JSON_ITEMS_MAX", 100)
    site = await make()
    body = protobuf.delimited(1, protobuf.delimited(2, b"\x12\x00" * 140_000))
    assert why(await site.send(body)) == (
        413,
        "140000 in one request; at most 131072 are taken; send smaller requests",
    )
    status, sentence = why(await site.send(b'{"resourceLogs":[' + b"{}," * 100 + b"{}]}", kind=JSON))
    assert (status, sentence) == (413, "more than 100 values in a JSON body; send smaller requests")


class Turns:
    """Counts turns of the event loop while it is entered."""

    def __init__(self) -> None:
        self.now = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self.now += 1
            await asyncio.sleep(0)


async def test_who_sends_what_takes_long_to_open_waits_for_the_others_who_do(make, monkeypatch) -> None:
    """Others have their turn between any two of them: forty small requests at once were seconds without a PUBACK."""
    site = await make()
    opened: list[int] = []

    def open_slowly(body: bytes, signal: Signal) -> Taken:
        opened.append(turns.now)
        time.sleep(2 * TURN_S_MAX)
        return open_request(body, signal)

    monkeypatch.setattr(module, "open_request", open_slowly)
    async with Turns() as turns:
        answers = await asyncio.gather(*(site.send(logs(f"line {number}")) for number in range(40)))
    assert [status for status, *_ in answers] == [200] * 40
    assert len(set(opened)) == 40


@pytest.mark.parametrize("unit", [b"\x12\x00", b"\x0b\x0c"], ids=["records", "groups"])
async def test_what_may_take_long_is_opened_elsewhere(make, monkeypatch, unit: bytes) -> None:
    """A few hundred bytes, compressed, stood for a third of a second in which nobody else was heard."""
    site = await make()
    threads: list[threading.Thread] = []

    def open_and_tell(body: bytes, signal: Signal) -> Taken:
        threads.append(threading.current_thread())
        return open_request(body, signal)

    monkeypatch.setattr(module, "open_request", open_and_tell)
    body = protobuf.delimited(1, protobuf.delimited(2, unit * (16 * 1024)))
    assert (await site.send(gzip.compress(body), content_encoding="gzip"))[0] == 200
    assert threads
    assert threading.main_thread() not in threads


async def test_others_have_their_turn_while_much_comes_out_of_little(make) -> None:
    """A body is decompressed a piece a turn."""
    site = await make()
    bomb = gzip.compress(bytes(4 * 1024 * 1024))
    async with Turns() as turns:
        assert (await site.send(bomb, content_encoding="gzip"))[0] == 400
        assert turns.now > 60


async def test_a_part_that_cannot_be_kept_is_said(make) -> None:
    """The rest is; a client that is told so does not send it again."""
    site = await make()
    status, body, _ = await site.send(logs("a", "b" * (1 << 20), "c"))
    found = ExportLogsServiceResponse.FromString(body).partial_success
    assert (status, found.rejected_log_records) == (200, 1)
    assert "larger than the 1 MiB" in found.error_message
    (kept,) = site.door.kept
    assert (kept.records.counts.sum(), kept.dropped) == (2, {"oversize": 1})
    assert site.status["refused"] == {"oversize": 1}


async def test_nothing_is_answered_before_it_is_kept(make) -> None:
    """The commit is what the client waits for."""
    site = await make()
    site.door.may_commit.clear()
    task = asyncio.create_task(site.send(logs("a")))
    await site.door.came.wait()
    assert (task.done(), site.status["in_flight_bytes"]) == (False, len(logs("a")))
    site.door.may_commit.set()
    assert (await task)[0] == 200


async def test_a_full_store_pushes_back(make) -> None:
    """With how long to wait; nothing is kept, and status says so until something is."""
    site = await make()
    site.door.full = FullError("the store is full", 2.5)
    answer = await site.send(logs("a"))
    assert (why(answer), answer[2]["retry-after"]) == ((429, "the store is full"), "3")
    status = site.status
    assert (status["state"], status["last_error"], status["pushed_back"]) == ("full", "the store is full", 1)
    assert (status["refused"], status["acknowledged"]) == ({}, 0)
    site.door.full = None
    assert (await site.send(logs("a")))[0] == 200
    assert site.status["state"] == "listening"


async def test_too_much_at_once_is_pushed_back(make) -> None:
    """By what has come of requests, and by what comes out of them; what is under way is not disturbed."""
    site = await make(request_bytes_max=Size(16 << 10), in_flight_bytes_total=Size(20 << 10))
    site.door.may_commit.clear()
    first = asyncio.create_task(site.send(logs("x" * 15_000)))
    await site.door.came.wait()
    for body, headers in ((logs("y" * 9000), {}), (gzip.compress(logs("y" * 9000)), {"Content_Encoding": "gzip"})):
        answer = await site.send(body, **headers)
        assert (answer[0], answer[2]["retry-after"]) == (503, "1")
    site.door.may_commit.set()
    assert (await first)[0] == 200
    assert (site.status["in_flight_bytes"], site.status["pushed_back"]) == (0, 2)


async def test_who_stands_still_makes_room(make, monkeypatch) -> None:
    """Half a request that does not go on keeps nobody out for long, however large it says that it is."""
    monkeypatch.setattr(otlp_counts, "STALLED_S", 0.0)
    site = await make(request_bytes_max=Size(16 << 10), in_flight_bytes_total=Size(20 << 10))
    stalled = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*site.source.address)
        writer.write(b"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n")
        writer.write(b"Content-Length: 16000\r\n\r\n" + bytes(10_000))
        stalled.append((reader, writer))
    while site.status["in_flight_bytes"] < 20_000:
        await asyncio.sleep(0)
    assert (await site.send(logs("x" * 2000)))[0] == 503
    for reader, writer in stalled:
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answer
        writer.close()
    assert (await site.send(logs("x" * 2000)))[0] == 200
    assert site.status["in_flight_bytes"] == 0


async def test_who_may_send_shows_it(make, monkeypatch, tmp_path) -> None:
    """A token, or a name and a password; who guesses waits, and is not listened to after a while."""
    monkeypatch.setattr(mqtt_server_auth, "DELAY_S", 0.001)
    (tmp_path / "token").write_text("secret")
    (tmp_path / "password").write_text("p:w")
    site = await make(
        token=Secret(file=str(tmp_path / "token")),
        users=(OtlpUser(name="anna", password=Secret(file=str(tmp_path / "password"))),),
    )
    good = ["Bearer secret", "bearer secret", "Basic " + base64.b64encode(b"anna:p:w").decode()]
    bad = ["", "Bearer wrong", "Bearer", "Basic xx", "Basic " + base64.b64encode(b"anna").decode(), "Digest secret"]
    bad += ["Basic " + base64.b64encode(b"nobody:p:w").decode(), "Bearer " + "x" * 5000, "Basic /w=="]
    for shown in good:
        assert (await site.send(logs("a"), Authorization=shown, Host="evil.example"))[0] == 200
    for shown in bad:
        status, _, headers = await site.send(logs("a"), Authorization=shown)
        assert (status, headers["www-authenticate"].startswith("bearer, basic ")) == (401, True)
    assert len(site.door.kept) == 3
    assert site.status["refused"] == {"not_authorized": len(bad)}


async def test_who_guesses_often_is_not_listened_to(make, monkeypatch, tmp_path) -> None:
    """For a while: whoever has the right token from the same address waits as well, but nobody with a name."""
    monkeypatch.setattr(mqtt_server_auth, "WAITING_PER_ADDRESS_MAX", 0)
    (tmp_path / "token").write_text("secret")
    secret = Secret(file=str(tmp_path / "token"))
    site = await make(token=secret, users=(OtlpUser(name="anna", password=secret),))
    assert (await site.send(logs("a"), Authorization="Bearer wrong"))[0] == 401
    answer = await site.send(logs("a"), Authorization="Bearer secret")
    assert (answer[0], answer[2]["retry-after"]) == (429, "5")
    assert (site.status["state"], site.status["refused"]) == ("listening", {"not_authorized": 1, "too_many_guesses": 1})
    named = "Basic " + base64.b64encode(b"anna:secret").decode()
    assert (await site.send(logs("a"), Authorization=named))[0] == 200


async def test_a_certificate_lets_in(make, tmp_path) -> None:
    """One that the named authority has signed; without it the handshake already fails."""
    import ssl

    from hil.certificates import Authority

    authority = Authority(tmp_path)
    ours, theirs = authority.issue("127.0.0.1"), authority.issue("app")
    tls = ServerTls(cert_file=str(ours.certificate), key_file=str(ours.key), client_ca_file=str(authority.certificate))
    site = await make(tls=tls)
    assert site.status["tls"] is True
    for shows in (True, False):
        trust = ssl.create_default_context(cafile=str(authority.certificate))
        if shows:
            trust.load_cert_chain(theirs.certificate, theirs.key)
        try:
            reader, writer = await asyncio.open_connection(*site.source.address, ssl=trust)
            writer.write(
                b"POST /v1/logs HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: application/x-protobuf\r\n"
                b"Connection: close\r\nContent-Length: 0\r\n\r\n"
            )
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ") is shows
        except (ssl.SSLError, ConnectionError):
            assert not shows
        finally:
            writer.transport.abort()


async def test_a_client_that_goes_in_the_middle_costs_nothing(make) -> None:
    """Nothing of it is kept, nothing is held."""
    site = await make()
    _, writer = await asyncio.open_connection(*site.source.address)
    writer.write(b"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n")
    writer.write(b"Content-Length: 1000\r\n\r\n" + bytes(500))
    while not site.status["in_flight_bytes"]:
        await asyncio.sleep(0)
    writer.close()
    while site.status["in_flight_bytes"]:
        await asyncio.sleep(0)
    while "cut" not in site.status["refused"]:
        await asyncio.sleep(0)
    assert site.door.kept == []


async def test_an_address_that_is_taken_is_named(make) -> None:
    """In the status, too."""
    site = await make()
    second = Site(OtlpSettings(name="second", http=f"127.0.0.1:{site.source.address[1]}"))
    with pytest.raises(OSError, match="another program has this port"):
        await second.source.run()
    status = second.status
    assert (status["state"], status["address"]) == ("failed", f"127.0.0.1:{site.source.address[1]}")
    assert "another program has this port" in status["last_error"]


async def test_stopping_answers_what_is_under_way(make) -> None:
    """And then nobody is listened to."""
    site = await make()
    site.door.may_commit.clear()
    task = asyncio.create_task(site.send(logs("a")))
    await site.door.came.wait()
    stopping = asyncio.create_task(site.stop())
    await asyncio.sleep(0)
    site.door.may_commit.set()
    assert (await task)[0] == 200
    await stopping
    assert site.status["state"] == "stopped"


async def test_a_slow_client_is_told(make) -> None:
    """Its connection ends with that."""
    site = await make(timeout=Duration(0.5))
    reader, writer = await asyncio.open_connection(*site.source.address)
    writer.write(b"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 1000\r\n\r\n{")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'{"code":4,"message":"not all of it came in 0.5 s"}' in answer
    writer.close()
