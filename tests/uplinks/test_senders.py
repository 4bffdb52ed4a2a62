"""Checks for the HTTP sender against real servers on loopback that misbehave."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import subprocess
import threading
import time
from email.utils import formatdate

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs import zstd
from gateway.core.clock import NS_PER_S, Clock, FakeClock, SystemClock
from gateway.core.contracts import RefusedError, Signal, TryLaterError
from gateway.core.units import Duration
from gateway.net.deadline import Deadline
from gateway.net.secrets import Secret
from gateway.uplinks.guards import (
    HoldError,
    InTransitError,
    Packed,
    StatusRefusedError,
    TooLargeError,
    UnreachableError,
)
from gateway.uplinks.senders import HttpSender
from gateway.uplinks.settings import OtlpUplinkSettings, TlsSettings
from hil.link_proxy import Mode
from hil.otlp_sink import Behaviour


def body(points: int = 1) -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="t")
    for k in range(points):
        metric.gauge.data_points.add(time_unix_nano=10**18 + k, as_double=k)
    return request.SerializeToString()


PACKED = Packed(Signal.METRICS, body(), "")


@pytest.fixture
def make_sender():
    """Make senders that are closed at the end."""
    made: list[HttpSender] = []

    def make(endpoint: str, *, clock: Clock | None = None, **settings) -> HttpSender:
        settings = {"timeout": Duration(20), **settings}
        made.append(
            HttpSender(
                OtlpUplinkSettings(name="cloud", endpoint=endpoint, **settings),
                version="0.1.0",
                clock=clock or SystemClock(),
            )
        )
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def serve(rigs):
    """Serve each connection with `answer(connection)` in a thread; return the base address."""

    def start(answer, *, times: int = 20, receive_bytes: int = 0) -> str:
        listener = rigs.enter_context(socket.create_server(("127.0.0.1", 0)))
        if receive_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)

        def run() -> None:
            for _ in range(times):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def end() -> None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)

        rigs.callback(end)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    return start


def read_request(connection: socket.socket) -> None:
    """Read one request with a Content-Length."""
    stream = connection.makefile("rb")
    length = 0
    while (line := stream.readline().strip()) != b"":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    stream.read(length)


def say(*pieces: bytes, pause_s: float = 0.0, came=None, after=None):
    """Return an answerer that reads one request and sends `pieces`; `came` is set when the request has come."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        if came is not None:
            came.set()
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        if after is not None:
            after.wait(60)

    return answer


@pytest.mark.parametrize(("encoding", "encode"), [("", bytes), ("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_a_request_is_taken(otlp_sink, make_sender, encoding: str, encode) -> None:
    """Path, type, encoding and length are OTLP's; what was sent is counted as the receiver counts it."""
    sender = make_sender(otlp_sink.url + "/", headers={"x-site": "7"})
    answer = sender.send(Packed(Signal.METRICS, encode(body(3)), encoding))
    (request,) = otlp_sink.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert (request.signal, request.readings, request.encoding) == ("metrics", 3, encoding)
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["user-agent"] == "tidegate/0.1.0"
    assert headers["x-site"] == "7"
    assert answer.rejected == 0
    assert 0 < answer.rtt_s <= answer.seconds < 5
    assert abs(answer.server_time_s - time.time()) < 5
    counted = otlp_sink.totals.body_bytes + otlp_sink.totals.header_bytes
    assert abs(sender.bytes_sent - counted) < 40
    assert sender.requests == 1


def test_signals_have_paths_of_their_own(otlp_sink, make_sender) -> None:
    """Logs go to /v1/logs, below the endpoint's own path where it has one."""
    make_sender(otlp_sink.url).send(Packed(Signal.LOGS, b"", ""))
    assert otlp_sink.requests[0].signal == "logs"
    with pytest.raises(HoldError, match=r"404.*no such path: /prefix/v1/metrics"):
        make_sender(otlp_sink.url + "/prefix/").send(PACKED)


def test_one_connection_serves_many_requests(otlp_sink, make_link, make_sender) -> None:
    """Keep-alive: no handshake per request, not after a refusal either."""
    link = make_link(otlp_sink.address)
    sender = make_sender(f"http://127.0.0.1:{link.port}")
    otlp_sink.behave(Behaviour(), Behaviour(status=400), Behaviour(status=503), Behaviour())
    sender.send(PACKED)
    with pytest.raises(RefusedError):
        sender.send(PACKED)
    with pytest.raises(TryLaterError):
        sender.send(PACKED)
    sender.send(PACKED)
    assert link.connections == 1


def test_an_idle_connection_that_was_closed_is_replaced(serve, make_sender) -> None:
    """A server that closes between requests costs nothing."""
    closed = threading.Semaphore(0)

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_RDWR)
        closed.release()

    sender = make_sender(serve(answer))
    for _ in range(3):
        sender.send(PACKED)
        assert closed.acquire(timeout=20)


@pytest.mark.parametrize(
    ("behaviour", "error", "sentence"),
    [
        (Behaviour(status=429, retry_after="7"), TryLaterError, "status 429"),
        (Behaviour(status=503, message="full"), TryLaterError, "status 503: full"),
        (Behaviour(status=400, message="bad name"), RefusedError, "status 400: bad name"),
        (Behaviour(status=413), TooLargeError, "status 413"),
        (Behaviour(status=401, message="who?"), HoldError, "status 401, the token .* was not accepted: who?"),
        (Behaviour(answer=b"<html>log in", content_type="text/html"), TryLaterError, "captive portal"),
        (Behaviour(answer=b" <!DOCTYPE html>", content_type=""), TryLaterError, "captive portal"),
    ],
)
def test_answers_become_decisions(otlp_sink, make_sender, behaviour, error, sentence: str) -> None:
    """Each with the server's own sentence; what another than the receiver may have said is a lost answer."""
    otlp_sink.behave(behaviour)
    with pytest.raises(error, match=sentence) as caught:
        make_sender(otlp_sink.url).send(PACKED)
    if isinstance(caught.value, TryLaterError):
        assert caught.value.answer_lost == (sentence == "captive portal")
        assert caught.value.after_s == {429: 7, 401: 60}.get(behaviour.status, 0)


def test_a_retry_date_is_seen_from_the_servers_clock(otlp_sink, make_sender) -> None:
    """However wrong this box's clock is, the wait is what the server meant."""
    otlp_sink.behave(Behaviour(status=503, retry_after=formatdate(time.time() + 90, usegmt=True)))
    sender = make_sender(otlp_sink.url)
    sender._clock = FakeClock(wall=0)
    with pytest.raises(TryLaterError) as caught:
        sender.send(PACKED)
    assert 80 < caught.value.after_s <= 91


def test_a_redirect_is_not_followed(serve, otlp_sink, make_sender) -> None:
    """Neither data nor token go where an answer points."""
    address = serve(
        say(f"HTTP/1.1 302 Found\r\nLocation: {otlp_sink.url}/v1/metrics\r\n".encode() + b"Content-Length: 0\r\n\r\n")
    )
    with pytest.raises(HoldError, match=r"a redirect to http://127.0.0.1:.*/v1/metrics"):
        make_sender(address).send(PACKED)
    assert not otlp_sink.requests


@pytest.mark.parametrize("answer", [b"", b"OK\n", b'{"partialSuccess":null}', b'{"code":200}'])
def test_a_success_without_numbers_is_a_success(otlp_sink, make_sender, answer: bytes) -> None:
    """Taken is taken, whatever the media type says."""
    for content_type in ("application/x-protobuf", "application/json", "text/plain"):
        otlp_sink.behave(Behaviour(answer=answer, content_type=content_type))
        assert make_sender(otlp_sink.url).send(PACKED).rejected == 0


@pytest.mark.parametrize(
    ("answer", "content_type"),
    [
        (b"please log in", "text/plain"),
        (b'{"error":"quota exceeded"}', "application/json"),
        (b'{"error":"quota exceeded"}', ""),
        (b"\xff\x00garbage", "application/x-protobuf"),
        (b"<?xml version='1.0'?><portal/>", "application/xml"),
        (b"<!-- WISPr --><HTML>", ""),
        (b'{"partialSuccess":{"rejectedDataPoints":1e999}}' + b"x", "application/json"),
        (b"[" * 60_000, "application/json"),
    ],
)
def test_a_success_that_no_receiver_says_is_tried_later(otlp_sink, make_sender, answer: bytes, content_type) -> None:
    """Portals and quotas say 200 too; it may have been taken all the same, and that is counted."""
    otlp_sink.behave(Behaviour(answer=answer, content_type=content_type))
    with pytest.raises(TryLaterError, match="no OTLP receiver gives") as caught:
        make_sender(otlp_sink.url).send(PACKED)
    assert caught.value.answer_lost
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("answer", "quoted"),
    [
        (b"please log in\n", ": please log in; "),
        ("schön".encode() * 30, ": schönschön"),
        (gzip.compress(b"please log in", mtime=0), " gives; "),
        (b"\xff\xfegarbage", " gives; "),
        (b"\x08\x10\x12\x0funauthenticated", " gives; "),
    ],
)
def test_only_text_is_quoted(otlp_sink, make_sender, answer: bytes, quoted: str) -> None:
    """Bytes tell nobody anything, and their escapes fill the log."""
    otlp_sink.behave(Behaviour(answer=answer, content_type="application/x-protobuf"))
    with pytest.raises(TryLaterError) as caught:
        make_sender(otlp_sink.url).send(PACKED)
    assert quoted in str(caught.value)
    assert "\\x" not in str(caught.value)


def test_text_that_is_packed_is_not_quoted(serve, make_sender) -> None:
    """Neither as somebody's answer nor as an error's sentence."""
    for status in (200, 503):
        head = f"HTTP/1.1 {status} X\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n"
        with pytest.raises(TryLaterError) as caught:
            make_sender(serve(say(head.encode() + b"abcd"))).send(PACKED)
        assert "abcd" not in str(caught.value)


def packed_answer(status: int, body: bytes, coding: str = "gzip") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


@pytest.mark.parametrize("coding", ["gzip", "X-GZip "])
def test_an_answer_that_is_packed_is_read(serve, make_sender, coding: str) -> None:
    """A proxy that packs what nobody asked it to pack does not make each delivery one that is sent again for ever."""
    whole = gzip.compress(b'{"partialSuccess":{"rejectedDataPoints":"2","errorMessage":"too old"}}')
    answer = make_sender(serve(say(packed_answer(200, whole, coding)))).send(PACKED)
    assert (answer.rejected, answer.message) == (2, "too old")
    with pytest.raises(StatusRefusedError, match="status 400: too old"):
        make_sender(serve(say(packed_answer(400, gzip.compress(b'{"message":"too old"}'))))).send(PACKED)


@pytest.mark.parametrize(
    "body", [gzip.compress(b"{}", mtime=0)[:-9], b"abcd", gzip.compress(bytes(10_000_000), mtime=0)]
)
def test_what_is_packed_and_broken_is_no_answer(serve, make_sender, body: bytes) -> None:
    """Half of it, not packed at all, or ten megabytes of nothing: it may have been taken, and is sent again."""
    with pytest.raises(TryLaterError, match="no OTLP receiver") as caught:
        make_sender(serve(say(packed_answer(200, body)))).send(PACKED)
    assert caught.value.answer_lost


def test_nothing_that_is_said_to_be_packed_is_nothing(serve, make_sender) -> None:
    """An empty body is the usual yes, whatever its headers say."""
    assert make_sender(serve(say(packed_answer(200, b"")))).send(PACKED).rejected == 0


def test_the_same_kind_of_strange_answer_is_said_in_the_same_words(otlp_sink, make_sender) -> None:
    """One with the time in it is no news at each attempt; after something was taken it is one again."""
    texts = [b"log in, it is 12:00", b"log in, it is 12:01", b"", b"log in, it is 12:02"]
    otlp_sink.behave(*[Behaviour(answer=text, content_type="text/plain") for text in texts])
    sender, said = make_sender(otlp_sink.url), []
    for text in texts:
        with contextlib.nullcontext() if not text else pytest.raises(TryLaterError) as caught:
            sender.send(PACKED)
        said.append(str(caught.value) if text else "")
    assert said[0] == said[1]
    assert "12:00" in said[1]
    assert "12:02" in said[3]


def test_a_partial_success_is_read(otlp_sink, make_sender) -> None:
    """Rejected points and the reason come with the answer, in protobuf and in JSON."""
    otlp_sink.behave(
        Behaviour(rejected=3, message="too old"),
        Behaviour(
            answer=b'{"partialSuccess":{"rejectedDataPoints":"2"}}',
            content_type="application/json;charset=utf-8",
        ),
    )
    sender = make_sender(otlp_sink.url)
    answer = sender.send(PACKED)
    assert (answer.rejected, answer.message) == (3, "too old")
    assert sender.send(PACKED).rejected == 2


def test_a_partial_success_with_much_to_say_is_one(otlp_sink, make_sender) -> None:
    """More than is read of an answer, all of it in the sentence: it must never be sent again."""
    otlp_sink.behave(Behaviour(rejected=3, message="too old; " * 20_000))
    answer = make_sender(otlp_sink.url).send(PACKED)
    assert answer.rejected == 3
    assert answer.message.startswith("too old; too old")


def test_a_partial_success_with_much_to_say_in_json_is_one(serve, make_sender) -> None:
    """As in protobuf: cut in the midst of its sentence it is no JSON, and still the answer of who took it."""
    said = b'{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"' + b"too old; " * 20_000 + b'"}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(said)
    answer = make_sender(serve(say(head + said))).send(PACKED)
    assert answer.rejected == 3
    assert answer.message.startswith("too old; too old")


def test_a_huge_answer_is_not_read_to_its_end(serve, make_sender) -> None:
    """64 KiB are enough for any answer; the connection is dropped with the rest."""
    sent = []

    def flood(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(500):
                connection.sendall(bytes(1_000_000))
                sent.append(1)

    with pytest.raises(TryLaterError, match="no OTLP receiver"):
        make_sender(serve(flood)).send(PACKED)
    assert len(sent) < 100


def test_a_success_that_breaks_off_is_a_lost_answer(serve, make_sender) -> None:
    """What of it was taken stands in the part that is missing."""
    address = serve(say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
    with pytest.raises(InTransitError) as caught:
        make_sender(address).send(PACKED)
    assert caught.value.answer_lost


def test_an_error_that_breaks_off_counts(serve, make_sender) -> None:
    """Its status says what to do."""
    address = serve(say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nhalf"))
    with pytest.raises(StatusRefusedError):
        make_sender(address).send(PACKED)


@pytest.mark.parametrize("cut", ["after_read", "mid_answer"])
def test_a_lost_answer_may_have_been_a_delivery(otlp_sink, make_sender, cut: str) -> None:
    """The whole request was written and nobody said what became of it."""
    otlp_sink.behave(Behaviour(cut=cut))
    with pytest.raises(InTransitError, match=r"the connection to 127.0.0.1 broke") as caught:
        make_sender(otlp_sink.url).send(PACKED)
    assert caught.value.answer_lost


def test_half_a_request_was_not_a_delivery(make_link, otlp_sink, make_sender) -> None:
    """A body that was cut on the way cannot have been taken."""
    link = make_link(otlp_sink.address)
    link.up.rate = 200_000
    link.up.cut_after = 100_000
    with pytest.raises(InTransitError, match="broke") as caught:
        make_sender(f"http://127.0.0.1:{link.port}").send(Packed(Signal.METRICS, bytes(20_000_000), ""))
    assert not caught.value.answer_lost


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_http_is_tried_later(serve, make_sender, answer: bytes) -> None:
    """A wrong port or a broken proxy: nothing is lost, the sentence is short."""
    with pytest.raises(TryLaterError) as caught:
        make_sender(serve(say(answer))).send(PACKED)
    assert len(str(caught.value)) < 200


def test_what_is_not_http_cannot_write_lines_of_its_own(serve, make_sender) -> None:
    """What the other side sends is shown in the log and the status."""
    with pytest.raises(TryLaterError) as caught:
        make_sender(serve(say(b"\x1b[2J\rfine\x85\n\r\n"))).send(PACKED)
    assert "\\x1b[2J" in str(caught.value)
    assert str(caught.value).isprintable()


def test_nobody_there(make_sender) -> None:
    """A refused connection, in words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match=rf"no connection to 127.0.0.1:{port}: Connection refused") as caught:
        make_sender(f"http://127.0.0.1:{port}").send(PACKED)
    assert not caught.value.answer_lost


def test_no_such_name(make_sender, monkeypatch) -> None:
    """A name that nobody knows, in words."""

    def no_name(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(UnreachableError, match=r"the name otel.invalid cannot be resolved"):
        make_sender("http://otel.invalid").send(PACKED)


def test_a_silent_server(otlp_sink, make_link, make_sender) -> None:
    """The request went out and no answer came in time: it may have been taken."""
    link = make_link(otlp_sink.address)
    link.mode = Mode.STALL
    with pytest.raises(InTransitError, match=r"no answer within 0.2 s") as caught:
        make_sender(link.url, timeout=Duration(0.2), connect_timeout=Duration(20)).send(PACKED)
    assert caught.value.answer_lost


def test_a_line_that_takes_nothing(otlp_sink, make_link, make_sender) -> None:
    """A stall in the middle of a large body: it was not taken."""
    link = make_link(otlp_sink.address)
    link.mode = Mode.STALL
    sender = make_sender(link.url, timeout=Duration(0.3), connect_timeout=Duration(20))
    with pytest.raises(InTransitError, match=r"the line takes nothing within 0.3 s") as caught:
        sender.send(Packed(Signal.METRICS, bytes(50_000_000), ""))
    assert not caught.value.answer_lost
    assert sender.bytes_sent < 50_000_000


def test_a_slow_line_is_not_a_dead_one(serve, make_sender) -> None:
    """A body that takes several times `timeout` goes through as long as it moves."""

    def sip(connection: socket.socket) -> None:
        left = 700_000
        while left > 0:
            left -= len(connection.recv(4096))
            time.sleep(0.01)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    sender = make_sender(serve(sip, receive_bytes=8192), timeout=Duration(1))
    answer = sender.send(Packed(Signal.METRICS, bytes(700_000), ""))
    assert answer.seconds > 1.5


@pytest.mark.parametrize(
    ("through", "sentence"),
    [("", "no answer within 0.3 s"), ("https://otel.invalid:4318", "no connection to 127.0.0.1 within 0.3 s")],
)
def test_an_answer_that_drips_is_not_waited_for(serve, make_sender, through: str, sentence: str) -> None:
    """One byte now and then keeps every read alive; the whole answer has `timeout` as well, and so has a proxy's."""
    address = serve(say(*[b"H"] * 400, pause_s=0.05))
    connect_s = Duration(0.3 if through else 20)
    sender = make_sender(
        through or address, timeout=Duration(0.3), connect_timeout=connect_s, proxy=address if through else ""
    )
    began_s = time.monotonic()
    with pytest.raises(TryLaterError) as caught:
        sender.send(PACKED)
    assert 0.25 < time.monotonic() - began_s < 15
    assert str(caught.value) == sentence
    assert caught.value.answer_lost is not bool(through)


@pytest.mark.parametrize("through", ["", "https://otel.invalid:4318"])
def test_what_is_overdue_can_be_cut(serve, make_sender, through: str) -> None:
    """By whoever watches from outside, should the thread itself not notice."""
    came, done = threading.Event(), threading.Event()
    address, clock, errors = serve(say(came=came, after=done)), FakeClock(), []
    sender = make_sender(through or address, proxy=address if through else "", clock=clock)
    assert not sender.is_overdue()

    def send() -> None:
        try:
            sender.send(PACKED)
        except TryLaterError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    assert came.wait(20)
    deadline_s = time.monotonic() + 20
    while not sender.is_overdue() and time.monotonic() < deadline_s:
        clock.advance(1 * NS_PER_S)
        time.sleep(0.01)
    assert sender.is_overdue()
    sender.abort()
    thread.join(20)
    assert not thread.is_alive()
    assert errors[0].answer_lost is not bool(through)
    assert not sender.is_overdue()
    done.set()


def test_an_attempt_is_over_in_its_time_however_much_moves(serve, make_sender) -> None:
    """A line that sips keeps every piece alive; where the whole is bounded, it was not taken."""

    def sip(connection: socket.socket) -> None:
        while connection.recv(2048):
            time.sleep(0.02)

    sender = make_sender(serve(sip, receive_bytes=8192), attempt_timeout=Duration(0.5))
    began_s = time.monotonic()
    with pytest.raises(InTransitError, match="longer than it may") as caught:
        sender.send(Packed(Signal.METRICS, bytes(3_000_000), ""))
    assert 0.4 < time.monotonic() - began_s < 20
    assert not caught.value.answer_lost


def test_whoever_sends_hands_down_what_is_left(serve, make_sender) -> None:
    """An attempt gets no more than the time of what it is a part of."""
    is_over = threading.Event()
    sender = make_sender(serve(say(after=is_over)), attempt_timeout=Duration(20))
    began_s = time.monotonic()
    with pytest.raises(InTransitError, match="longer than it may") as caught:
        sender.send(PACKED, until=Deadline.after(1.0))
    assert 0.9 < time.monotonic() - began_s < 15
    assert caught.value.answer_lost
    is_over.set()


def test_a_connection_has_a_time_of_its_own(serve, make_sender) -> None:
    """TLS that never ends is not waited for as long as an answer would be."""
    is_over = threading.Event()
    address = serve(lambda connection: is_over.wait(60)).replace("http", "https")
    sender = make_sender(address, connect_timeout=Duration(0.2))
    began_s = time.monotonic()
    with pytest.raises(UnreachableError, match=r"within 0\.2 s"):
        sender.send(PACKED)
    assert time.monotonic() - began_s < 15
    is_over.set()


@pytest.mark.parametrize("limit", ["connection_max_age", "connection_max_idle"])
def test_connections_are_renewed(otlp_sink, make_link, make_sender, limit: str) -> None:
    """One that is too old, or was idle for too long, is closed before the next request; what it has cost stays known."""
    clock, link = FakeClock(), make_link(otlp_sink.address)
    sender = make_sender(link.url, clock=clock, **{limit: Duration(60)})
    sender.send(PACKED)
    clock.advance(40 * NS_PER_S)
    sender.send(PACKED)
    assert link.connections == 1
    before = sender.wire_bytes
    clock.advance(40 * NS_PER_S)
    if limit == "connection_max_idle":
        sender.send(PACKED)
        assert link.connections == 1
        clock.advance(61 * NS_PER_S)
    assert sender.is_connected
    sender.recycle()
    assert not sender.is_connected
    sender.send(PACKED)
    assert link.connections == 2
    assert sender.wire_bytes > before


def test_after_stop_nothing_is_sent_until_opened_again(otlp_sink, make_sender) -> None:
    """Stop is final for the request under way, not for the sender."""
    sender = make_sender(otlp_sink.url)
    sender.stop()
    with pytest.raises(TryLaterError, match="stopping"):
        sender.send(PACKED)
    assert not otlp_sink.requests
    sender.open()
    sender.send(PACKED)


def test_stop_ends_a_body_under_way(otlp_sink, make_link, make_sender) -> None:
    """Between two pieces of a slow body the sender notices."""
    link = make_link(otlp_sink.address)
    link.up.rate = 100_000
    sender = make_sender(f"http://127.0.0.1:{link.port}")
    threading.Timer(0.1, sender.stop).start()
    started_s = time.monotonic()
    with pytest.raises(TryLaterError) as caught:
        sender.send(Packed(Signal.METRICS, bytes(50_000_000), ""))
    assert time.monotonic() - started_s < 20
    assert not caught.value.answer_lost


def test_secrets_are_read_when_they_are_needed(otlp_sink, make_sender, tmp_path) -> None:
    """A token that is missing or refused holds; a new one under the same name is used without a restart."""
    token = tmp_path / "token"
    sender = make_sender(otlp_sink.url, headers={"authorization": Secret(file=str(token))})
    with pytest.raises(HoldError, match=r"header authorization: cannot read the secret .*token"):
        sender.send(PACKED)
    token.write_text("Bearer old\n")
    otlp_sink.behave(Behaviour(status=401))
    with pytest.raises(HoldError, match="status 401"):
        sender.send(PACKED)
    token.write_text("Bearer new\n")
    sender.send(PACKED)
    sent = [{k.lower(): v for k, v in r.headers.items()}["authorization"] for r in otlp_sink.requests]
    assert sent == ["Bearer old", "Bearer new"]


TOKEN = "Bearer eyJhbGciOiJIUzI1NiJ9" + "a" * 600


@pytest.mark.parametrize(
    "answer",
    [
        b"400 no\r\nContent-Type: text/plain\r\n\r\nyou said: authorization: TOKEN",
        b"401 no\r\nContent-Type: application/json\r\n\r\n" + b'{"message": "no: TOKEN"}',
        b"401 no\r\nContent-Type: application/x-protobuf\r\n\r\n\x12\xf6\x04TOKEN and more",
        b"503 no\r\nContent-Type: text/plain\r\n\r\n" + 150 * b"far " + b"TOKEN",
        b"302 no\r\nLocation: http://elsewhere/?token=TOKEN\r\n\r\n",
        b"200 yes\r\nContent-Type: text/plain\r\n\r\nTOKEN",
        b"200 yes\r\nContent-Type: application/json\r\n\r\n" + b'{"partialSuccess": {"errorMessage": "x TOKEN"}}',
        b"200 yes\r\nTransfer-Encoding: TOKEN\r\n\r\n",
        b"TOKEN",
    ],
    ids=["text", "json", "protobuf", "long", "redirect", "page", "warning", "coding", "line"],
)
def test_a_secret_that_comes_back_is_not_shown(serve, make_sender, tmp_path, answer: bytes) -> None:
    """A server that shows what it was sent would have the token in logs, in status and at the next upstream."""
    (tmp_path / "token").write_text(TOKEN)

    def echo(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 " * (answer != b"TOKEN") + answer.replace(b"TOKEN", TOKEN.encode()) + b"\r\n")

    sender = make_sender(serve(echo), headers={"authorization": Secret(file=str(tmp_path / "token"))})
    try:
        said = sender.send(PACKED).message
    except (TryLaterError, RefusedError, TooLargeError) as error:
        said = str(error)
    assert said
    assert "eyJ" not in said
    assert "aaaa" not in said


def test_a_secret_that_no_header_can_hold_is_not_shown(otlp_sink, make_sender, tmp_path) -> None:
    """Line ends in a token would write headers; the sentence names the header alone."""
    token = tmp_path / "token"
    token.write_text("hunter2\r\nx-evil: 1")
    with pytest.raises(HoldError, match="header authorization") as caught:
        make_sender(otlp_sink.url, headers={"authorization": Secret(file=str(token))}).send(PACKED)
    assert "hunter2" not in str(caught.value)
    assert not otlp_sink.requests


def test_the_environments_proxy_is_not_used(otlp_sink, make_sender, monkeypatch) -> None:
    """What some login shell exported must not decide where telemetry goes."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    make_sender(otlp_sink.url).send(PACKED)


def test_a_configured_proxy_is_used(otlp_sink, serve, make_sender) -> None:
    """A plain request goes to the proxy with the whole address; a proxy that is down is named."""
    lines: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        lines.append(connection.recv(65536).split(b"\r\n")[0])
        connection.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(HoldError, match="the proxy wants to know who we are"):
        make_sender("http://otel.invalid:4318", proxy=serve(proxy)).send(PACKED)
    assert lines == [b"POST http://otel.invalid:4318/v1/metrics HTTP/1.1"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TryLaterError, match=r"no connection to 127.0.0.1:\d+: Connection refused"):
        make_sender("http://otel.invalid:4318", proxy=f"http://127.0.0.1:{port}").send(PACKED)


def tls_settings(authority) -> TlsSettings:
    return TlsSettings(ca_file=str(authority.certificate))


def test_tls_with_the_right_certificate(authority, make_otlp_sink, make_sender) -> None:
    """A chain to the given authority and the right name: taken."""
    sink = make_otlp_sink(identity=authority.issue())
    assert make_sender(sink.url, tls=tls_settings(authority)).send(PACKED).rejected == 0


def test_a_wrong_authority_holds(authority, make_otlp_sink, make_sender) -> None:
    """A certificate that the system's authorities don't know: held, with what would be right; nothing was sent."""
    sink = make_otlp_sink(identity=authority.issue())
    said = r"the certificate of 127.0.0.1 is not accepted: .*certificate; name the authority that .* with tls.ca_file"
    with pytest.raises(HoldError, match=said):
        make_sender(sink.url).send(PACKED)
    assert not sink.requests


def test_a_wrong_name_holds(authority, make_otlp_sink, make_sender) -> None:
    """A good certificate for somebody else."""
    sink = make_otlp_sink(identity=authority.issue("other", alternatives="DNS:other.example"))
    with pytest.raises(
        HoldError, match=r"not accepted: .*mismatch.*'; name the host in endpoint as its certificate does"
    ):
        make_sender(sink.url, tls=tls_settings(authority)).send(PACKED)


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("20200101000000Z", "20200201000000Z", "expired"),
        ("21000101000000Z", "21010101000000Z", "not yet valid"),
    ],
)
def test_a_certificate_outside_its_time_holds_and_asks_for_the_clock(
    authority, tmp_path, make_otlp_sink, make_sender, start: str, end: str, words: str
) -> None:
    """Expired, or not yet valid as on a box that started in 1970."""
    identity = authority.issue()
    folder = tmp_path / "ca"
    folder.mkdir()
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("0A\n")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndir={folder}\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    request = identity.certificate.with_suffix(".csr")
    subprocess.run(
        ["openssl", "ca", "-batch", "-config", folder / "ca.cnf", "-cert", authority.certificate,
         "-keyfile", authority.certificate.with_name("ca.key"), "-in", request,
         "-startdate", start, "-enddate", end, "-notext",
         "-extfile", identity.certificate.with_suffix(".ext"), "-out", identity.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    sink = make_otlp_sink(identity=identity)
    with pytest.raises(HoldError, match=f"{words}.*; is this box's clock right"):
        make_sender(sink.url, tls=tls_settings(authority)).send(PACKED)


def test_certificates_that_cannot_be_read_hold(otlp_sink, make_sender, authority, tmp_path) -> None:
    """A missing or broken file is named; once it is there, it works."""
    missing = tmp_path / "ca.pem"
    sender = make_sender("https://127.0.0.1:1", tls=TlsSettings(ca_file=str(missing)))
    with pytest.raises(HoldError, match=r"cannot read the certificates in .*ca.pem: .*No such file"):
        sender.send(PACKED)
    missing.write_text("no certificate")
    with pytest.raises(HoldError, match="cannot read the certificates"):
        sender.send(PACKED)
    missing.write_text(authority.certificate.read_text())
    with pytest.raises(TryLaterError, match="no connection"):
        sender.send(PACKED)


def test_our_own_certificate_is_shown(authority, rigs, make_sender) -> None:
    """Mutual TLS: the receiver sees who we are."""
    server, client = authority.issue(), authority.issue("gateway")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = rigs.enter_context(socket.create_server(("127.0.0.1", 0)))
    seen: list = []

    def run() -> None:
        connection, _ = listener.accept()
        with connection, context.wrap_socket(connection, server_side=True) as stream:
            seen.append(dict(pair for part in stream.getpeercert()["subject"] for pair in part)["commonName"])
            read_request(stream)
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    tls = TlsSettings(ca_file=str(authority.certificate), cert_file=str(client.certificate), key_file=str(client.key))
    make_sender(f"https://127.0.0.1:{listener.getsockname()[1]}", tls=tls).send(PACKED)
    thread.join(5)
    assert seen == ["gateway"]


def test_plain_http_behind_https_is_explained(otlp_sink, make_sender) -> None:
    """https:// to a port that speaks http://: tried later, in words."""
    with pytest.raises(TryLaterError, match=r"TLS with 127.0.0.1 failed: .*plain HTTP .* begins with http://"):
        make_sender(otlp_sink.url.replace("http://", "https://")).send(PACKED)


def test_https_behind_plain_http_is_explained(authority, make_otlp_sink, make_sender) -> None:
    """http:// to a port that speaks TLS: it hangs up without a word."""
    sink = make_otlp_sink(identity=authority.issue())
    with pytest.raises(TryLaterError, match=r"broke: .*speak TLS .* begins with https://"):
        make_sender(sink.url.replace("https://", "http://")).send(PACKED)


@pytest.mark.parametrize(
    "words",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>",
        b"<html>You're speaking plain HTTP to an SSL-enabled server port.</html>",
    ],
)
def test_who_says_that_he_wants_tls_is_no_refusal(serve, make_sender, words: bytes) -> None:
    """A 400 would be about the data, and some of it would be given up."""
    with pytest.raises(HoldError, match="speaks TLS at this port: the endpoint begins with https://"):
        make_sender(serve(say(b"HTTP/1.0 400 Bad Request\r\n\r\n" + words))).send(PACKED)


def test_who_has_answered_is_not_asked_for_tls(serve, make_sender) -> None:
    """A connection that breaks later has other reasons."""

    def answer_once(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.recv(65536)

    sender = make_sender(serve(answer_once))
    sender.send(PACKED)
    with pytest.raises(TryLaterError) as caught:
        sender.send(PACKED)
    assert "TLS" not in str(caught.value)
