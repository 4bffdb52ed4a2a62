"""A server's bytes come apart whatever pieces they come in; what is no NATS, or has no end, is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.nats import (
    LINE_BYTES_MAX,
    Info,
    Message,
    NatsError,
    NotStored,
    Refusal,
    Scanner,
    Stored,
    Word,
    read_answer,
    write_connect,
)

SAID = (
    b'INFO {"version":"2.9.10","headers":true,"max_payload":4096,"extra":[1]} \r\n'
    b"PING\r\n+OK\r\npong\r\n-ERR 'Stale Connection'\r\n"
    b"MSG _INBOX.a.7 1  5\r\nhe\r\no\r\n"
    b"MSG a 1 reply.to 0\r\n\r\n"
    b"HMSG _INBOX.a.8 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nxy\r\n"
)
HEARD = [
    Info(version="2.9.10", headers=True, max_payload=4096),
    Word("PING"),
    Word("+OK"),
    Word("PONG"),
    Refusal("Stale Connection"),
    Message(b"_INBOX.a.7", b"he\r\no"),
    Message(b"a", b""),
    Message(b"_INBOX.a.8", b"", 503),
    Message(b"a", b"xy"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_it_comes_apart_the_same_in_pieces_of_any_size(size: int) -> None:
    """Whole, byte by byte, and between."""
    scanner = Scanner()
    assert [e for at in range(0, len(SAID), size) for e in scanner.feed(SAID[at : at + size])] == HEARD
    assert scanner.feed(b"PIN") == []
    assert scanner.feed(b"G\n") == [Word("PING")]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"x" * (LINE_BYTES_MAX + 1),
        b"x" * (LINE_BYTES_MAX + 1) + b"\r\n",
        b"INFO {\r\n",
        b'INFO {"max_payload":"x"}\r\n',
        b"INFO \xff\r\n",
        b'INFO {"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 x\r\n",
        b"MSG a 1 r s 1\r\n",
        b"MSG a 1 99999999999999999999\r\n",
        b"MSG a 1 65537\r\n",
        b"HMSG a 1 4 3\r\n",
        b"MSG a 1 1\r\nabc",
        b"PING\r\n" * 100_001,
    ],
)
def test_what_is_no_nats_is_an_error(data: bytes) -> None:
    """In a sentence, and nothing is kept waiting for more."""
    with pytest.raises(NatsError):
        Scanner().feed(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_an_event_or_an_error(data: bytes) -> None:
    """Nothing else is raised."""
    try:
        Scanner().feed(data)
    except NatsError as error:
        assert str(error)  # noqa: PT017  it may be none


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (Message(b"r", b'{"stream":"S", "seq":3}'), Stored("S", 3, is_duplicate=False)),
        (Message(b"r", b'{"stream":"S", "seq":3,"duplicate": true}'), Stored("S", 3, is_duplicate=True)),
        (Message(b"r", b'{"error":{"code":503,"err_code":7,"description":"d"},"seq":0}'), NotStored(503, 7, "d")),
        (Message(b"r", b"", 503), NotStored(503, 0, "")),
        (Message(b"r", b"pong"), None),
        (Message(b"r", b"{}"), None),
        (Message(b"r", b'{"stream":"S"}'), None),
        (Message(b"r", b'{"stream":7,"seq":1}'), None),
        (Message(b"r", b"\xff"), None),
        (Message(b"r", b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"), None),
    ],
)
def test_only_a_streams_answer_is_one(message: Message, answer: object) -> None:
    """Whoever else answers there keeps nothing."""
    assert read_answer(message) == answer


def test_a_client_says_who_it_is() -> None:
    """In one line."""
    said = write_connect({"user": "a\r\nb"})
    assert said.startswith(b'CONNECT {"verbose":false')
    assert said.count(b"\n") == 1
    assert b'"no_responders":true' in said
