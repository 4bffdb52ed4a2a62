"""The wire to a NATS server that says anything: each attempt ends in an answer or in what to do next, and in time."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch
from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal, TryLaterError
from gateway.uplinks.guards import HoldError, InTransitError, Packed, TooLargeError, UnreachableError
from gateway.uplinks.nats import NatsWire
from gateway.uplinks.nats_discovery import Discovery
from gateway.uplinks.nats_pieces import Publications, ReadingsPiece, SomeStoredError
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.nats_silence import Silence
from hil.scripted_nats import INFO, NatsScript, ScriptedNats, message, stored

if TYPE_CHECKING:
    from collections.abc import Iterator


def publications(count: int, *, size: int = 1) -> Publications:
    """Return messages of one reading each."""
    batch = Batch.of(0, np.arange(count), np.arange(count, dtype=np.float64))
    body = Publications(b"x" * size * count)
    body.ends = np.arange(1, count + 1) * size
    body.subjects, body.subject_of = [b"a.b"], np.zeros(count, np.int64)
    body.pieces = [ReadingsPiece("K", [(batch, NO_MARKS)], [np.arange(count)], 0, count)]
    body.piece_of, body.places = np.zeros(count, np.int64), np.arange(count)
    body.counts, body.signal, body.overhead_bytes = np.ones(count, np.int64), Signal.METRICS, 0
    return body


def packed(count: int, *, size: int = 1) -> Packed:
    return Packed(Signal.METRICS, publications(count, size=size), "")


@pytest.fixture
def server() -> Iterator[ScriptedNats]:
    with ScriptedNats() as scripted:
        yield scripted


# What is waited for in vain. A server that says something has all the time that it needs to be run, before and after.
SHORT: Final = {"timeout": "300ms", "connect_timeout": "20s"}


def wire_to(url: str, **table: Any) -> NatsWire:
    full = {"type": "nats", "name": "s", "url": url, "timeout": "20s", **table}
    settings = msgspec.convert(full, NatsUplinkSettings, dec_hook=decode_hook)
    shared: dict[str, Any] = {"version": "1", "clock": SystemClock(), "random": random.Random(1), "gateway_id": "g"}
    if settings.discover:
        shared["discovery"] = Discovery(settings.discover, [url])
    return NatsWire(settings, url=url, silence=Silence("s", settings.retry, now_s=time.monotonic), **shared)


def test_each_message_has_its_id_and_is_answered(server: ScriptedNats) -> None:
    """All of them over one connection; what they cost is known."""
    wire = wire_to(server.url, inflight_max=4, stream="S")
    pieces: list[int] = []
    wire.before_piece = pieces.append
    assert wire.send(packed(10)).rejected == 0
    assert wire.send(packed(3)).rejected == 0
    assert [head for _, head, _ in server.taken][:2] == [
        b"NATS/1.0\r\nNats-Msg-Id: K.%d\r\nNats-Expected-Stream: S\r\n\r\n" % number for number in range(2)
    ]
    assert (server.connections, wire.requests) == (1, 2)
    assert sum(pieces) < wire.bytes_sent < wire.wire_bytes
    assert wire.told()["stream"] == "S"
    wire.close()


def test_a_question_in_between_is_answered(server: ScriptedNats) -> None:
    """While it publishes, and when it has been idle; a probe is one of ours."""
    server.script.answer = lambda reply, number: b"PING\r\n" + message(reply, stored(number))
    wire = wire_to(server.url)
    wire.send(packed(5))
    wire.send(Packed(Signal.METRICS, b"", "", is_probe=True))
    # The probe was answered: what was said before it has been read there by now.
    assert server.said.count(b"PONG\r\n") >= 4
    assert server.said.count(b"PING\r\n") == 2
    wire.close()


def test_a_connection_that_ended_meanwhile_is_made_anew(server: ScriptedNats) -> None:
    """Before the next request goes, so nothing is in doubt."""
    wire = wire_to(server.url)
    wire.send(packed(1))
    server.hang_up()
    wire.send(packed(1))
    assert server.connections == 2
    wire.close()


def test_answers_of_one_connection_are_none_on_the_next(server: ScriptedNats) -> None:
    """Each hears of a subject of its own: a cluster's answer may come when its connection is long gone."""
    replies: list[bytes] = []

    def refuse(reply: bytes, number: int) -> bytes:
        replies.append(reply.rpartition(b".")[0])
        return b"-ERR 'Maximum Payload Violation'\r\n" if number == 1 else message(reply, stored(number))

    server.script.answer = refuse
    wire = wire_to(server.url)
    with pytest.raises(TooLargeError):
        wire.send(packed(1))
    server.hang_up()
    wire.send(packed(1))
    server.hang_up()
    wire.send(packed(1))
    assert (server.connections, len(set(replies))) == (3, 3)
    wire.close()


def test_what_another_stream_says_to_have_is_not_delivered(server: ScriptedNats) -> None:
    """A server that heeds no header is one that a person has to look at."""
    wire = wire_to(server.url, stream="OTHER")
    with pytest.raises(HoldError, match="correct stream or subject") as error:
        wire.send(packed(3))
    assert "it went to the stream S" in str(error.value)
    wire.close()


@pytest.mark.parametrize("size", [0, -1])
def test_a_server_that_says_no_size_takes_what_others_take(server: ScriptedNats, size: int) -> None:
    """Whatever does not fit into nothing would be given up as too large."""
    server.script.greeting = INFO.replace(b"1048576", b"%d" % size)
    wire = wire_to(server.url)
    assert wire.send(packed(3, size=2000)).rejected == 0
    wire.close()


def test_a_server_that_takes_next_to_nothing_is_waited_for(server: ScriptedNats) -> None:
    """No reading fits there, and it is not the readings."""
    server.script.greeting = INFO.replace(b"1048576", b"300")
    wire = wire_to(server.url)
    with pytest.raises(HoldError, match="takes messages of 300 bytes"):
        wire.send(packed(3, size=200))
    assert server.taken == []
    wire.close()


@pytest.mark.parametrize(
    ("greeting", "kind", "said"),
    [
        (b"SSH-2.0-OpenSSH\r\n", UnreachableError, "is no NATS"),
        (b"PONG\r\n", UnreachableError, "does not begin with INFO"),
        (b"x" * 100_000, UnreachableError, "a line without an end"),
        (b"INFO {}\r\n-ERR 'maximum connections exceeded'\r\n", TryLaterError, "maximum connections exceeded"),
        (b"-ERR 'Authorization Violation'\r\n", HoldError, "does not know us"),
        (b"", UnreachableError, "within 0.3 s"),
        (b'INFO {"tls_required":true}\r\n', HoldError, "then the url begins with tls://"),
    ],
)
def test_who_greets_otherwise_is_no_server(
    server: ScriptedNats, greeting: bytes, kind: type[Exception], said: str
) -> None:
    """Nothing has left, and it is said in a sentence."""
    server.script = NatsScript(greeting=greeting, hello=b"")
    wire = wire_to(server.url, timeout="20s" if greeting else "300ms")
    with pytest.raises(TryLaterError, match=said) as error:
        wire.send(packed(1))
    assert isinstance(error.value, kind)
    assert not error.value.answer_lost
    assert server.taken == []


def strange(reply: bytes, _: int) -> bytes:
    return message(reply.rpartition(b".")[0] + b".999999", stored(1))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _reply, _number: b"", "no answer within 0.3 s"),
        (lambda reply, _number: message(reply, b"thanks"), "who answers there is no stream"),
        (lambda reply, _number: message(reply, b"{}"), "who answers there is no stream"),
        (lambda _reply, _number: b"HTTP/1.1 200 OK\r\n", "speaks no NATS here"),
        (lambda _reply, _number: b"MSG a 1 9999999\r\n", "speaks no NATS here"),
        (lambda _reply, _number: b"PING\r\n", "no answer within 0.3 s"),
        (lambda _reply, _number: b"-ERR 'Slow Consumer'\r\n", "Slow Consumer"),
        (lambda reply, number: strange(reply, number) * 10_001, "messages that nobody waits for"),
        (lambda reply, _number: message(b"other", stored(1)) + message(reply + b"x", stored(1)), "no answer within"),
    ],
)
def test_what_is_no_answer_leaves_it_in_doubt(server: ScriptedNats, answer: Any, said: str) -> None:
    """It may be stored, and is sent again under its id."""
    server.script.answer = answer
    wire = wire_to(server.url, **(SHORT if said.startswith("no answer") else {}))
    with pytest.raises(TryLaterError, match=said) as error:
        wire.send(packed(1))
    assert error.value.answer_lost
    assert not wire.is_connected


def test_an_answer_that_comes_twice_or_late_counts_once(server: ScriptedNats) -> None:
    """And to a message that is not there, not at all."""
    server.script.answer = lambda reply, number: message(reply, stored(number)) * 2 + strange(reply, number)
    wire = wire_to(server.url, inflight_max=2)
    for _ in range(5):
        assert wire.send(packed(7)).rejected == 0
    assert (len(server.taken), server.connections) == (35, 1)
    wire.close()


def test_some_are_stored_when_it_breaks(server: ScriptedNats) -> None:
    """Those come off; of the others it is said how many may be there."""
    server.script.answer = lambda reply, number: message(reply, stored(number)) if number <= 3 else b"-ERR 'Stale'\r\n"
    wire = wire_to(server.url, inflight_max=2)
    with pytest.raises(SomeStoredError) as error:
        wire.send(packed(10))
    assert error.value.taken == 3
    assert 1 <= error.value.maybe <= 2
    assert isinstance(error.value, InTransitError)


def test_one_that_is_too_large_is_not_sent(server: ScriptedNats) -> None:
    """By what the server has said of itself; from then on it is known."""
    server.script.greeting = INFO.replace(b"1048576", b"4096")
    wire = wire_to(server.url)
    assert wire.payload_bytes_max > 1_000_000
    with pytest.raises(TooLargeError, match="takes 4096 with its headers"):
        wire.send(packed(2, size=5000))
    assert server.taken == []
    assert wire.payload_bytes_max < 4096
    wire.send(packed(2, size=wire.payload_bytes_max))
    wire.close()


def test_what_has_no_room_in_a_budget_is_heard_out(server: ScriptedNats) -> None:
    """What is under way has its answer; the connection stands, unless a message was broken off."""
    wire = wire_to(server.url, inflight_max=4)
    pieces: list[int] = []

    def pay(size: int) -> None:
        pieces.append(size)
        if len(pieces) > 1:
            raise TryLaterError("over budget")

    wire.before_piece = pay
    with pytest.raises(SomeStoredError, match="over budget") as error:
        wire.send(packed(10))
    assert (error.value.taken, error.value.maybe) == (4, 0)
    assert wire.is_connected
    pieces.clear()
    with pytest.raises(TryLaterError, match="over budget") as lost:
        wire.send(packed(1, size=200_000))
    assert lost.value.answer_lost
    assert not wire.is_connected


def test_who_only_asks_for_signs_of_life_is_given_up(server: ScriptedNats) -> None:
    """However often."""
    server.script.answer = lambda _reply, _number: b"".join(b"PING\r\n" for _ in range(1000))

    def ask() -> None:
        while not done.wait(0.05):
            for one in list(server._open):
                with contextlib.suppress(OSError):
                    one.sendall(b"PING\r\n")

    done = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(TryLaterError, match="no answer within 0.3 s"):
            wire_to(server.url, **SHORT).send(packed(1))
    finally:
        done.set()
        asking.join()


def telling(port: int, more: bytes = b"") -> bytes:
    """Return an INFO that tells of a server at this port, beside one that is none."""
    return INFO.replace(b"}", b',"connect_urls":["127.0.0.1:%d","evil.example:4222"]%b}' % (port, more))


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.2"])
def test_a_password_goes_to_no_server_that_nobody_allowed(server: ScriptedNats, allowed: str, monkeypatch) -> None:
    """Whoever else is told of; where it is allowed it is gone to, when there is no other way."""
    monkeypatch.setenv("TIDEGATE_TEST_PASSWORD", "secret")
    with ScriptedNats() as named:
        named.script.greeting = telling(server.port)
        wire = wire_to(named.url, username="u", password={"env": "TIDEGATE_TEST_PASSWORD"}, discover=[allowed])
        wire.send(packed(1))
    if allowed == "127.0.0.1":
        assert wire.send(packed(1)).rejected == 0
        assert any(b"secret" in line for line in server.said)
        assert wire.told()["server_address"] == f"127.0.0.1:{server.port}"
    else:
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{named.port}"):
            wire.send(packed(1))
        assert (server.connections, wire.told()["discovered"]["servers"]) == (0, [])
    wire.close()


def test_who_is_about_to_shut_down_is_left_for_another_of_its_cluster(server: ScriptedNats) -> None:
    """With no request lost on the way; and when that one is gone, too, the one that is named is gone back to."""
    with ScriptedNats() as other:
        server.script.greeting = telling(other.port)
        wire = wire_to(server.url, discover=["127.0.0.1"])
        wire.send(packed(1))
        server.script.answer = lambda reply, number: (
            message(reply, stored(number)) + telling(other.port, b',"ldm":true')
        )
        wire.send(packed(1))
        wire.send(Packed(Signal.METRICS, b"", "", is_probe=True))
        wire.send(packed(1))
        assert (server.connections, len(server.taken), len(other.taken)) == (1, 2, 1)
    server.script.answer = NatsScript.answer
    wire.send(packed(1))
    assert (server.connections, len(server.taken)) == (2, 3)
    wire.close()


def test_a_stop_ends_what_is_under_way(server: ScriptedNats) -> None:
    """And nothing is begun after it."""
    wire = wire_to(server.url)
    wire.stop()
    with pytest.raises(TryLaterError, match="stopping"):
        wire.send(packed(1))
    wire.open()
    wire.before_piece = lambda _: wire.stop()
    with pytest.raises(TryLaterError, match="stopping"):
        wire.send(packed(1))
    assert server.taken == []


def test_nobody_listens() -> None:
    """A sentence with the place."""
    with ScriptedNats() as gone:
        url = gone.url
    with pytest.raises(UnreachableError, match="no connection to 127.0.0.1"):
        wire_to(url).send(packed(1))
    with pytest.raises(HoldError, match="password"):
        wire_to(url, username="u", password={"env": "TIDEGATE_TEST_NOT_SET"})._credentials(None)
