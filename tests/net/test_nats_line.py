"""A connection to a NATS server: greeted, secured after INFO, asked and answered; each wait has an end."""

from __future__ import annotations

import socket
import ssl

import pytest

from gateway.net.deadline import Deadline
from gateway.net.line import Address, BrokenError, ConnectError, HttpError
from gateway.net.nats import Message
from gateway.net.nats_line import NatsConnection, SaidNoError
from hil.scripted_nats import INFO, NatsScript, ScriptedNats


def soon() -> Deadline:
    return Deadline.after(20)


def connection_to(port: int, **options) -> NatsConnection:
    return NatsConnection(to=Address("127.0.0.1", port), timeout_s=5, **options)


def test_it_stands_once_it_was_greeted() -> None:
    """INFO is kept; a later one takes its place."""
    leaving = b'INFO {"ldm":true}\r\n'
    with ScriptedNats(NatsScript(hello=b"PONG\r\n")) as server:
        line = connection_to(server.port, credentials=lambda info: {"name": str(info.max_payload)})
        line.open(soon())
        assert line.info.max_payload == 1048576
        assert b'"name":"1048576"' in server.said[0]
        server.script.hello = leaving + b"PONG\r\n"
        line.ping(soon())
        assert line.info.ldm
        line.look(soon())
        line.close()


def test_what_is_there_already_is_heard_without_waiting() -> None:
    """A refusal is one, and the end is the end."""
    with ScriptedNats(NatsScript(hello=b"PONG\r\n-ERR 'Stale Connection'\r\n")) as server:
        line = connection_to(server.port)
        with pytest.raises(HttpError):
            line.open(soon())
            for _ in range(100):
                line.look(soon())
                line.ping(soon())
        line.close()
    with ScriptedNats() as server:
        line = connection_to(server.port)
        line.open(soon())
        server.hang_up()
        with pytest.raises(BrokenError, match="closed the connection"):
            list(line.hear(soon()))
        line.close()


def test_messages_come_out_one_by_one() -> None:
    """Questions of the server's are answered on the way."""
    with ScriptedNats(NatsScript(answer=lambda reply, _: b"PING\r\nMSG %b 1 2\r\nhi\r\n" % reply)) as server:
        line = connection_to(server.port, inbox=b"_INBOX.x")
        line.open(soon())
        line.write(b"HPUB a _INBOX.x.1 12 13\r\nNATS/1.0\r\n\r\nx\r\n", soon())
        heard: list[object] = []
        while not heard:
            heard += line.hear(soon())
        assert heard == [Message(b"_INBOX.x.1", b"hi")]
        line.close()


def test_greetings_without_an_end_are_no_greeting() -> None:
    """So a connection is given up whatever comes."""
    with ScriptedNats(NatsScript(hello=b"+OK\r\n" * 10)) as server:
        line = connection_to(server.port)
        with pytest.raises(ConnectError):
            line.open(Deadline.after(1))
        assert not line.is_open


@pytest.mark.parametrize("more", [b"PONG\r\n", b"MSG _INBOX.0.1 1 5\r\nhel"])
def test_what_is_said_in_the_open_is_not_taken_for_what_is_said_over_tls(more: bytes) -> None:
    """Whoever stands in between would put words into the server's mouth."""
    with ScriptedNats(NatsScript(greeting=b'INFO {"tls_required":true}\r\n' + more)) as server:
        line = connection_to(server.port, tls=ssl.create_default_context())
        with pytest.raises(ConnectError, match="says more than INFO before TLS"):
            line.open(soon())
        assert not line.is_open


def test_why_the_server_hung_up_is_heard_while_writing() -> None:
    """Its word stands before the reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = connection_to(listener.getsockname()[1])
        line._connect(soon())
        there, _ = listener.accept()
        there.sendall(INFO + b"-ERR 'Maximum Payload Violation'\r\n")
        there.close()
        with pytest.raises(SaidNoError, match="Maximum Payload"):
            # The first write is answered with a reset, the next one meets it.
            for _ in range(50):
                line.write(b"x" * 65536, soon())
        line.close()
