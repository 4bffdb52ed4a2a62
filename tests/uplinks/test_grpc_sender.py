"""The sender of OTLP/gRPC against grpcio's own server that misbehaves, and links that do."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib

import hpack
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs.grpc import prefix, write_status
from gateway.core.clock import Clock, SystemClock
from gateway.core.contracts import RefusedError, Signal, TryLaterError
from gateway.core.units import Duration
from gateway.net.deadline import Deadline
from gateway.net.http2 import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame
from gateway.net.secrets import Secret
from gateway.uplinks.budget import Budget
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.grpc_sender import GrpcSender
from gateway.uplinks.guards import (
    Compressing,
    HoldError,
    InTransitError,
    Packed,
    PassedOnError,
    Request,
    StatusRefusedError,
    TooLargeError,
    UnreachableError,
)
from gateway.uplinks.metered import Metered
from gateway.uplinks.settings import OtlpUplinkSettings, TlsSettings
from gateway.uplinks.windows import Moment
from hil.link_proxy import Mode

pytest.importorskip("grpc", reason="grpcio is not installed: pip install grpcio")

from hil.grpc_sink import Behaviour

NOON = 1_790_000_000


def body(points: int = 1) -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="t")
    for k in range(points):
        metric.gauge.data_points.add(time_unix_nano=10**18 + k, as_double=k)
    return request.SerializeToString()


PACKED = Packed(Signal.METRICS, body(), "")


def gzipped(data: bytes) -> bytes:
    return zlib.compress(data, 6, 31)


@pytest.fixture
def make_sender():
    """Make senders that are closed at the end."""
    made: list[GrpcSender] = []

    def make(endpoint: str, *, clock: Clock | None = None, **settings) -> GrpcSender:
        settings = {"timeout": Duration(20), **settings}
        made.append(
            GrpcSender(
                OtlpUplinkSettings(name="cloud", endpoint=endpoint, protocol="grpc", **settings),
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
    """Answer each connection's calls with frames written by hand, after all of a call has come; return the endpoint."""

    def start(*answers: bytes, hold: threading.Event | None = None) -> str:
        listener = rigs.enter_context(socket.create_server(("127.0.0.1", 0)))

        def run() -> None:
            for data in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
                    stream.read(len(PREFACE))
                    connection.sendall(frame(SETTINGS, 0, 0, b""))
                    while head := stream.read(9):
                        stream.read(int.from_bytes(head[:3], "big"))
                        if head[3] == DATA and head[4] & END_STREAM:
                            break
                    connection.sendall(data)
                    if not data:
                        # An end, and no reset: what has not been read when a connection is closed makes one.
                        connection.shutdown(socket.SHUT_WR)
                        while stream.read(9):
                            pass
                    if hold is not None:
                        hold.wait(60)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def end() -> None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)

        rigs.callback(end)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    return start


def answer(
    *pairs: tuple[str, str], message: bytes | None = None, trailers: list[tuple[str, str]] | None = None
) -> bytes:
    encoder = hpack.Encoder()
    only = END_STREAM if message is None and trailers is None else 0
    data = frame(HEADERS, END_HEADERS | only, 1, encoder.encode(pairs))
    if message is not None:
        data += frame(DATA, END_STREAM if trailers is None else 0, 1, message)
    if trailers is not None:
        data += frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode(trailers))
    return data


GRPC = (":status", "200"), ("content-type", "application/grpc")


@pytest.mark.parametrize(("encoding", "encode"), [("", bytes), ("gzip", gzipped)])
def test_a_call_is_taken(grpc_sink, make_sender, encoding: str, encode) -> None:
    """Method, metadata and message are OTLP's; what was sent is what the far side reads."""
    sender = make_sender(grpc_sink.url, headers={"X-Site": "7"})
    found = sender.send(Packed(Signal.METRICS, encode(body(3)), encoding))
    (call,) = grpc_sink.calls
    assert (call.signal, call.body, call.readings) == ("metrics", body(3), 3)
    assert (call.metadata["x-site"], call.metadata["user-agent"]) == ("7", "tidegate/0.1.0")
    assert call.time_left_s is None or call.time_left_s > 1e6
    assert (found.rejected, found.message) == (0, "")
    assert 0 < found.rtt_s <= found.seconds < 5
    assert (sender.requests, sender.told()["endpoint"]) == (1, grpc_sink.url)
    assert sender.wire_bytes > sender.bytes_sent > len(encode(body(3)))
    for one in (Signal.LOGS, Signal.TRACES):
        sender.send(Packed(one, encode(b""), encoding))
    assert [(call.signal, call.body) for call in grpc_sink.calls[1:]] == [("logs", b""), ("traces", b"")]
    assert len({call.peer for call in grpc_sink.calls}) == 1


def test_a_large_message_goes_as_the_windows_allow(grpc_sink, make_sender) -> None:
    """Of many times a window, whatever the line carries at once."""
    sender = make_sender(grpc_sink.url, timeout=Duration(30))
    for points in (50_000, 100, 40_000):
        assert sender.send(Packed(Signal.METRICS, body(points), "")).rejected == 0
    assert [call.readings for call in grpc_sink.calls] == [50_000, 100, 40_000]


def test_a_partial_success_is_read(grpc_sink, make_sender) -> None:
    """It is never sent again; a warning is one."""
    sender = make_sender(grpc_sink.url)
    grpc_sink.behave(Behaviour(rejected=2, message="too old"), Behaviour(message="slow down, please"))
    found = [sender.send(PACKED) for _ in range(2)]
    assert [(one.rejected, one.message) for one in found] == [(2, "too old"), (0, "slow down, please")]


@pytest.mark.parametrize(
    ("behaviour", "error", "sentence"),
    [
        (Behaviour(code=1), PassedOnError, "CANCELLED"),
        (Behaviour(code=2, message="boom"), StatusRefusedError, "UNKNOWN: boom"),
        (Behaviour(code=3, message="no nö"), StatusRefusedError, "INVALID_ARGUMENT: no nö"),
        (Behaviour(code=4), PassedOnError, "DEADLINE_EXCEEDED"),
        (Behaviour(code=5), HoldError, "NOT_FOUND"),
        (Behaviour(code=6), StatusRefusedError, "ALREADY_EXISTS"),
        (Behaviour(code=7), HoldError, "PERMISSION_DENIED, this token may not write there"),
        (Behaviour(code=8, message="quota"), StatusRefusedError, "RESOURCE_EXHAUSTED: quota"),
        (Behaviour(code=8, message="quota", retry_s=2.5), TryLaterError, "RESOURCE_EXHAUSTED: asks to wait 2 s: quota"),
        (Behaviour(code=8, message="Received message larger than max"), TooLargeError, "larger than max"),
        (Behaviour(code=9), StatusRefusedError, "FAILED_PRECONDITION"),
        (Behaviour(code=10), TryLaterError, "ABORTED"),
        (Behaviour(code=11), PassedOnError, "OUT_OF_RANGE"),
        (Behaviour(code=12), HoldError, "UNIMPLEMENTED"),
        (Behaviour(code=13), StatusRefusedError, "INTERNAL"),
        (Behaviour(code=14, retry_s=7.0), TryLaterError, "UNAVAILABLE: asks to wait 7 s"),
        (Behaviour(code=15), PassedOnError, "DATA_LOSS"),
        (Behaviour(code=16), HoldError, "UNAUTHENTICATED, the token or certificate was not accepted"),
    ],
)
def test_statuses_become_decisions(grpc_sink, make_sender, behaviour: Behaviour, error, sentence: str) -> None:
    """Each once, and the connection serves the next call where it may."""
    sender = make_sender(grpc_sink.url)
    grpc_sink.behave(behaviour)
    with pytest.raises(error, match=sentence) as caught:
        sender.send(PACKED)
    assert getattr(caught.value, "after_s", 0.0) == (behaviour.retry_s or (60.0 if error is HoldError else 0.0))
    assert sender.send(PACKED).rejected == 0


def test_what_the_server_finds_too_large_is_split(make_grpc_sink, make_sender) -> None:
    """By gRPC's own limit, before anything of ours looks at it; and what is below it goes."""
    sink = make_grpc_sink(options=(("grpc.max_receive_message_length", 10_000),))
    sender = make_sender(sink.url)
    with pytest.raises(TooLargeError, match="larger than max"):
        sender.send(Packed(Signal.METRICS, body(5000), ""))
    with pytest.raises(TooLargeError, match="larger than max"):
        sender.send(Packed(Signal.METRICS, gzipped(body(5000)), "gzip"))
    sender.send(Packed(Signal.METRICS, body(100), ""))


def test_a_service_that_is_not_there_holds_its_signal(make_grpc_sink, make_sender) -> None:
    """The others are taken."""
    sender = make_sender(make_grpc_sink(without="logs").url)
    with pytest.raises(HoldError, match="UNIMPLEMENTED, there is no OTLP receiver of this signal"):
        sender.send(Packed(Signal.LOGS, gzipped(b""), "gzip"))
    sender.send(PACKED)


def test_compression_is_gzip_and_none_where_that_is_refused(make_grpc_sink, make_sender) -> None:
    """`auto` begins with what gRPC's receivers know; zstd is for those that know it, and is said where it is not."""
    none_only = (("grpc.compression_enabled_algorithms_bitset", 1),)

    def compress(request: Request, encoding: str) -> bytes:
        return gzipped(request.body) if encoding else request.body

    for sink, encodings in ((make_grpc_sink(), "gzip"), (make_grpc_sink(options=none_only), "")):
        packing = Compressing(make_sender(sink.url), compress, "auto", now_s=time.monotonic, first="gzip")
        packing.send(Request(Signal.METRICS, body(3), 3))
        packing.send(Request(Signal.METRICS, body(3), 3))
        assert (packing.encoding, [call.body for call in sink.calls]) == (encodings, [body(3)] * 2)
    packing = Compressing(make_sender(make_grpc_sink().url), compress, "zstd", now_s=time.monotonic)
    with pytest.raises(HoldError, match="correct endpoint, protocol or compression"):
        packing.send(Request(Signal.METRICS, body(3), 3))


def test_silence_is_a_lost_answer(grpc_sink, make_sender) -> None:
    """The server has it, and nobody says so."""
    ended = threading.Event()
    sender = make_sender(grpc_sink.url, timeout=Duration(0.3), connect_timeout=Duration(20))
    grpc_sink.behave(Behaviour(waits_for=ended))
    with pytest.raises(InTransitError, match=r"no answer within 0.3 s") as caught:
        sender.send(PACKED)
    grpc_sink.wait_for(1)
    ended.set()
    assert caught.value.answer_lost
    assert sum(grpc_sink.readings().values()) == 1


def test_a_deadline_is_told(grpc_sink, make_sender) -> None:
    """So that a server does not work for nobody; what it says when it is over may have been taken."""
    sender = make_sender(grpc_sink.url, attempt_timeout=Duration(30))
    sender.send(PACKED)
    assert 20 < grpc_sink.calls[0].time_left_s <= 30
    ended = threading.Event()
    grpc_sink.behave(Behaviour(waits_for=ended))
    with pytest.raises(TryLaterError) as caught:
        sender.send(PACKED, until=Deadline.after(1.5))
    ended.set()
    assert caught.value.answer_lost


def test_half_open_links_are_found_out(grpc_sink, make_link, make_sender) -> None:
    """A stall before the call has gone is no delivery; one after it may have been."""
    link = make_link(grpc_sink.address)
    sender = make_sender(link.url, timeout=Duration(1.5), connect_timeout=Duration(20))
    sender.send(PACKED)
    link.mode = Mode.STALL
    with pytest.raises(InTransitError) as caught:
        sender.send(Packed(Signal.METRICS, bytes(40_000_000), ""))
    assert not caught.value.answer_lost
    link.mode = Mode.UP
    sender.send(PACKED)
    link.mode = Mode.DISCARD
    with pytest.raises(InTransitError) as caught:
        sender.send(PACKED)
    assert caught.value.answer_lost
    link.mode = Mode.UP
    sender.send(PACKED)


def test_a_call_that_is_cut_on_its_way_was_no_delivery(grpc_sink, make_link, make_sender) -> None:
    """The server says nothing of a message that did not end."""
    link = make_link(grpc_sink.address)
    sender = make_sender(link.url)
    sender.send(PACKED)
    link.up.rate = 400_000
    link.up.cut_after = 100_000
    with pytest.raises(InTransitError, match="broke") as caught:
        sender.send(Packed(Signal.METRICS, bytes(20_000_000), ""))
    assert not caught.value.answer_lost
    assert [call.readings for call in grpc_sink.calls] == [1]


def test_a_server_that_drains_answers_what_it_has_and_is_left(make_grpc_sink, make_sender) -> None:
    """GOAWAY under a call is not its end: nothing is sent twice for it."""
    sink, ended = make_grpc_sink(), threading.Event()
    sender = make_sender(sink.url)
    sender.send(PACKED)
    sink.behave(Behaviour(waits_for=ended))
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(sender.send(Packed(Signal.METRICS, body(2), ""))))
    thread.start()
    sink.wait_for_calls(2)
    stopped = sink.stop(20.0)
    time.sleep(0.2)
    ended.set()
    thread.join(20)
    assert stopped.wait(20)
    assert [one.rejected for one in found] == [0]
    assert [call.readings for call in sink.calls] == [1, 2]
    with pytest.raises(UnreachableError):
        sender.send(PACKED)


def test_a_call_that_was_not_looked_at_is_no_lost_answer(serve, make_sender) -> None:
    """Whoever sends it again doubles nothing."""
    for data, words in (
        (frame(GOAWAY, 0, 0, bytes(8)), "ends the connection"),
        (frame(RST_STREAM, 0, 1, b"\0\0\0\7"), "has not looked"),
    ):
        ended = threading.Event()
        with pytest.raises(TryLaterError, match=words) as caught:
            make_sender(serve(data, hold=ended)).send(PACKED)
        ended.set()
        assert type(caught.value) is TryLaterError
        assert not caught.value.answer_lost


@pytest.mark.parametrize(
    ("data", "error", "sentence", "is_lost"),
    [
        (frame(RST_STREAM, 0, 1, b"\0\0\0\2"), InTransitError, "INTERNAL_ERROR", True),
        (b"", InTransitError, "broke: closed without an answer", True),
        (answer(*GRPC, message=prefix(0, is_compressed=False)), InTransitError, "without a status", True),
        (answer((":status", "200"), ("content-type", "text/html"), message=b"<html>"), TryLaterError, "captive", True),
        (answer((":status", "503"), ("retry-after", "7")), TryLaterError, "status 503: asks to wait 7 s", False),
        (answer((":status", "502")), PassedOnError, "status 502", True),
        (answer((":status", "404")), HoldError, "status 404", False),
        (answer((":status", "413")), TooLargeError, "status 413", None),
        (answer((":status", "400")), StatusRefusedError, "status 400", None),
        (answer((":status", "302"), ("location", "https://x/")), HoldError, "a redirect to https://x/", False),
        (answer((":status", "204")), TryLaterError, "status 204 with", True),
        (answer(*GRPC, message=b"\1\0\0\0\1x", trailers=write_status(0)), TryLaterError, "no OTLP receiver gives", True),
        (answer(*GRPC, message=b"\0\0\0\0\2x", trailers=write_status(0)), TryLaterError, "no OTLP receiver gives", True),
        (answer(*GRPC, message=b"\0\0\0\0\1x", trailers=write_status(0)), TryLaterError, "no OTLP receiver gives", True),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_grpc(serve, make_sender, data: bytes, error, sentence: str, is_lost) -> None:
    """A proxy's, a login page's, a server's that breaks its own rules."""
    with pytest.raises(error, match=sentence) as caught:
        make_sender(serve(data)).send(PACKED)
    assert getattr(caught.value, "answer_lost", None) == is_lost


@pytest.mark.parametrize("trailers", [None, write_status(0)])
def test_ok_without_a_message_is_ok(serve, make_sender, trailers) -> None:
    """There is nothing in one that says so."""
    data = answer(*GRPC, *write_status(0)) if trailers is None else answer(*GRPC, trailers=trailers)
    found = make_sender(serve(data)).send(PACKED)
    assert (found.rejected, found.server_time_s) == (0, None)


def test_a_long_answer_is_a_partial_success(serve, make_sender) -> None:
    """A sentence for each reading is cut, the number is not."""
    from gateway.codecs import protobuf

    message = protobuf.delimited(1, protobuf.integer(1, 5) + protobuf.text(2, "x" * 90_000))
    whole = prefix(len(message), is_compressed=False) + message
    encoder = hpack.Encoder()
    data = frame(HEADERS, END_HEADERS, 1, encoder.encode(GRPC))
    data += b"".join(frame(DATA, 0, 1, whole[at : at + 16_000]) for at in range(0, len(whole), 16_000))
    data += frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode(write_status(0)))
    # Who ends a connection with something unread in it takes back what is on the way.
    heard = threading.Event()
    found = make_sender(serve(data, hold=heard)).send(PACKED)
    heard.set()
    assert (found.rejected, found.message[:3]) == (5, "xxx")


def test_an_ok_before_the_whole_call_is_none(rigs, make_sender) -> None:
    """Whoever says so has not read what it is about."""
    listener = rigs.enter_context(socket.create_server(("127.0.0.1", 0)))

    def run() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            connection.sendall(frame(SETTINGS, 0, 0, b"") + answer(*GRPC, *write_status(0)))
            while connection.recv(65_536):
                pass

    threading.Thread(target=run, daemon=True).start()
    with pytest.raises(TryLaterError, match="OK before the whole request") as caught:
        make_sender(f"http://127.0.0.1:{listener.getsockname()[1]}").send(Packed(Signal.METRICS, bytes(500_000), ""))
    assert not caught.value.answer_lost


def test_a_secret_that_comes_back_is_not_shown(grpc_sink, make_sender, tmp_path) -> None:
    """As a status' sentence, and as that of a partial success."""
    (tmp_path / "token").write_text("Bearer abcdefghij klmnopqrst")
    sender = make_sender(grpc_sink.url, headers={"authorization": Secret(file=str(tmp_path / "token"))})
    grpc_sink.behave(Behaviour(code=16, message="what is abcdefghij?"), Behaviour(message="klmnopqrst is unknown"))
    with pytest.raises(HoldError, match=r"what is \*{10}\?"):
        sender.send(PACKED)
    assert sender.send(PACKED).message == "********** is unknown"


def test_nobody_there(make_sender) -> None:
    """No port, no name."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match="no connection to 127.0.0.1"):
        make_sender(f"http://127.0.0.1:{port}").send(PACKED)


def test_who_speaks_http1_is_named(otlp_sink, make_sender) -> None:
    """With the port that is meant."""
    with pytest.raises(HoldError, match=r"speaks no gRPC here.*a port of its own, mostly 4317"):
        make_sender(otlp_sink.url).send(PACKED)


def test_stopping_ends_a_call_under_way(grpc_sink, make_sender) -> None:
    """At once; nothing is begun after it until it is opened again."""
    ended = threading.Event()
    sender = make_sender(grpc_sink.url, timeout=Duration(30))
    grpc_sink.behave(Behaviour(waits_for=ended))
    errors: list[TryLaterError] = []

    def send() -> None:
        try:
            sender.send(PACKED)
        except TryLaterError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    grpc_sink.wait_for(1)
    began_s = time.monotonic()
    sender.stop()
    thread.join(20)
    ended.set()
    assert time.monotonic() - began_s < 18
    assert [(str(error), error.answer_lost) for error in errors] == [("the uplink is stopping", True)]
    with pytest.raises(TryLaterError, match="stopping"):
        sender.send(PACKED)
    sender.open()
    sender.send(PACKED)


# TLS.


def test_tls_with_the_right_authority(authority, make_grpc_sink, make_sender) -> None:
    """ALPN and all; a wrong one holds, with what to do."""
    sink = make_grpc_sink(identity=authority.issue())
    sender = make_sender(sink.url, tls=TlsSettings(ca_file=str(authority.certificate)))
    sender.send(PACKED)
    sender.send(Packed(Signal.METRICS, body(20_000), ""))
    assert [call.readings for call in sink.calls] == [1, 20_000]
    with pytest.raises(HoldError, match=r"is not accepted: .*name the authority that signed it with tls.ca_file"):
        make_sender(sink.url).send(PACKED)


def test_our_own_certificate_is_shown(authority, make_grpc_sink, make_sender) -> None:
    """Whoever has none is not let in."""
    own = authority.issue("gateway")
    sink = make_grpc_sink(identity=authority.issue(), client_ca=authority.certificate.read_bytes())
    tls = {"ca_file": str(authority.certificate), "cert_file": str(own.certificate), "key_file": str(own.key)}
    make_sender(sink.url, tls=TlsSettings(**tls)).send(PACKED)
    with pytest.raises(TryLaterError):
        make_sender(sink.url, tls=TlsSettings(ca_file=tls["ca_file"])).send(PACKED)
    assert len(sink.calls) == 1


def test_tls_where_plain_is_spoken_and_the_other_way_round(
    authority, grpc_sink, make_grpc_sink, make_otlp_sink, make_sender
) -> None:
    """Each says how the endpoint should begin, or that it is no gRPC."""
    ca = TlsSettings(ca_file=str(authority.certificate))
    with pytest.raises(TryLaterError, match="TLS with 127.0.0.1 failed"):
        make_sender(grpc_sink.url.replace("http:", "https:"), tls=ca).send(PACKED)
    secure = make_grpc_sink(identity=authority.issue())
    with pytest.raises(TryLaterError, match="begins with https://"):
        make_sender(secure.url.replace("https:", "http:")).send(PACKED)
    with pytest.raises(HoldError, match="does not speak HTTP/2 at this port"):
        make_sender(make_otlp_sink(identity=authority.issue()).url, tls=ca).send(PACKED)


def test_secrets_are_metadata(grpc_sink, make_sender, tmp_path) -> None:
    """Read when they are needed, and again after a refusal."""
    token = tmp_path / "token"
    token.write_text("Bearer one\n")
    sender = make_sender(grpc_sink.url, headers={"Authorization": Secret(file=str(token))})
    sender.send(PACKED)
    token.write_text("Bearer two")
    grpc_sink.behave(Behaviour(code=16))
    with pytest.raises(HoldError):
        sender.send(PACKED)
    sender.send(PACKED)
    assert [call.metadata["authorization"] for call in grpc_sink.calls] == ["Bearer one", "Bearer one", "Bearer two"]


# Budgets, rates, several receivers: what is built for HTTP holds.


def a_budget(size_bytes: int) -> Budget:
    budget = Budget({"day": size_bytes}, now=lambda: Moment("boot", 0.0, NOON, True))
    budget.covers(size_bytes // 2)
    budget.plan()
    budget.written()
    return budget


@pytest.mark.parametrize("is_secure", [False, True])
def test_what_is_spent_is_no_less_than_a_judge_counts(
    authority, make_grpc_sink, make_link, make_sender, is_secure: bool
) -> None:
    """Frames, settings, windows and TLS included, as the link between has seen them; through cuts and refusals, too."""
    sink = make_grpc_sink(identity=authority.issue() if is_secure else None)
    link = make_link(sink.address)
    tls = TlsSettings(ca_file=str(authority.certificate)) if is_secure else TlsSettings()
    wire = make_sender(link.url.replace("http:", "https:") if is_secure else link.url, tls=tls)
    budget = a_budget(50_000_000)
    paid = Metered(wire, budget, rate=None, now_s=time.monotonic)
    dice = random.Random(3)
    for k in range(30):
        if k % 7 == 5:
            link.cut()
        if k % 11 == 8:
            sink.behave(Behaviour(code=dice.choice([3, 8, 14])))
        before = link.counts()
        with contextlib.suppress(TryLaterError, RefusedError):
            data = gzipped(body(dice.choice([1, 100, 10_000])))
            paid.send(Packed(Signal.METRICS, data, "gzip"))
            # Taken before it went, for all of it.
            after = link.counts()
            if before.connections == after.connections:
                moved = after.up_wire + after.down_wire - before.up_wire - before.down_wire
                assert moved <= paid.last_cost
    paid.close()
    counts, spent = link.counts(), budget.told()["per_day"]["spent_bytes"]
    assert spent == wire.wire_bytes
    assert counts.up + counts.down < spent
    assert spent < 1.5 * (counts.up_wire + counts.down_wire)


def test_a_rate_is_kept(grpc_sink, make_sender) -> None:
    """From piece to piece of a body."""
    paid = Metered(make_sender(grpc_sink.url), None, rate=200_000.0, now_s=time.monotonic)
    began_s = time.monotonic()
    for _ in range(3):
        paid.send(Packed(Signal.METRICS, body(3000), ""))
    taken_s = time.monotonic() - began_s
    assert taken_s > 0.9 * 2 * len(body(3000)) / 200_000


def test_real_receivers_stand_in_for_each_other(make_grpc_sink, make_link) -> None:
    """Balance, breaker and health are the same; what one has said that it did not take goes to the next at once."""
    first, second = make_grpc_sink(), make_grpc_sink()
    link = make_link(first.address)
    settings = OtlpUplinkSettings(name="cloud", endpoints=(link.url, second.url), protocol="grpc", timeout=Duration(20))
    both = Endpoints.of(settings, version="0", clock=SystemClock(), random=random.Random(1))
    both.send(PACKED)
    both.close()
    link.down_for_good()
    both.send(Packed(Signal.METRICS, body(2), ""))
    link.mode = Mode.UP
    first.behave(Behaviour(code=14, retry_s=30.0))
    both.send(Packed(Signal.METRICS, body(3), ""))
    assert ([call.readings for call in first.calls], [call.readings for call in second.calls]) == ([1, 0], [2, 3])
    told = both.told()["endpoints"]
    assert [one["state"] for one in told] == ["asked to wait", "closed"]
    both.close()


def test_a_server_that_is_killed_in_between(make_sender) -> None:
    """What it had not answered may have been taken; what it had is not sent again."""
    command = [sys.executable, "-m", "hil.grpc_sink"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        url = json.loads(child.stdout.readline())["url"]
        sender = make_sender(url)
        sender.send(PACKED)
        errors: list[TryLaterError] = []

        def send() -> None:
            try:
                while True:
                    sender.send(Packed(Signal.METRICS, body(1000), ""))
            except TryLaterError as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        time.sleep(0.2)
        child.send_signal(signal.SIGKILL)
        thread.join(20)
        child.wait(20)
    (error,) = errors
    assert isinstance(error, InTransitError | UnreachableError)
