"""One connection: what is sent goes whole, what comes is heard meanwhile, and each wait has an end."""

from __future__ import annotations

import socket
import time

import pytest

from gateway.core.clock import SystemClock
from gateway.net.deadline import Deadline
from gateway.net.mqtt_fields import ProtocolError
from gateway.net.paho_client import BulkClient
from gateway.uplinks.bridge_line import BrokerLine, EndedLineError, LineError, StalledLineError, reason_of

NEVER = Deadline.after(None)


@pytest.fixture
def wired():
    """A line whose socket is ours, and the other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    client = BulkClient(client_id="c", version=5, transport="tcp", clean=True, tls=None, timeout_s=5)
    client._sock = client._dialled = ours
    line = BrokerLine(client, timeout_s=0.3, clock=SystemClock())
    line._poll.register(ours.fileno(), 1)
    yield line, theirs
    client.drop()
    theirs.close()


def test_an_answer_to_no_ping_keeps_nobody_waiting(wired) -> None:
    """Else a broker that says nothing but PINGRESP is waited for without end, and heard as fast as it talks."""
    line, theirs = wired
    theirs.sendall(bytes.fromhex("d000"))
    with pytest.raises(ProtocolError, match="no publisher"):
        line.serve(NEVER)


def test_a_large_piece_waits_for_the_line(wired) -> None:
    """And hears what comes while it waits."""
    line, theirs = wired
    heard = []
    line.on_acks = heard.append
    theirs.sendall(bytes.fromhex("40020007"))
    with pytest.raises(StalledLineError, match="nothing moves"):
        line.send(bytes(8 << 20), until=NEVER)
    assert line.handed == line.bytes_sent > 0
    assert [acks.ids.tolist() for acks in heard] == [[7]]


def test_an_end_is_told_from_a_stall(wired) -> None:
    """By the deadline that was handed down."""
    line, _ = wired
    with pytest.raises(StalledLineError) as caught:
        line.serve(Deadline.after(0.01))
        line.serve(Deadline.after(0))
    assert caught.value.is_overdue
    line.timeout_s = 0.0
    time.sleep(0.001)
    with pytest.raises(StalledLineError) as caught:
        line.serve(NEVER)
    assert not caught.value.is_overdue


def test_what_the_broker_said_last_is_heard(wired) -> None:
    """Even if the line takes nothing more by then."""
    line, theirs = wired
    theirs.sendall(bytes.fromhex("e00797051f00026e6f"))
    theirs.close()
    line.client._sock.shutdown(socket.SHUT_WR)
    with pytest.raises(EndedLineError) as caught:
        line.send(b"x", until=NEVER)
    assert (caught.value.code, caught.value.said) == (0x97, "no")


def test_a_line_that_broke_without_a_word(wired) -> None:
    """Says why in the system's words."""
    line, theirs = wired
    theirs.close()
    with pytest.raises(LineError, match="Broken pipe"):
        line.send(b"x", until=NEVER)
    with pytest.raises(LineError, match="the broker closed the connection"):
        line.look()


def test_a_plain_goodbye(wired) -> None:
    """Has a reason of nothing."""
    line, theirs = wired
    theirs.sendall(b"\xe0\x00")
    with pytest.raises(EndedLineError) as caught:
        line.look()
    assert (caught.value.code, caught.value.said) == (0, "")


@pytest.mark.parametrize("text", ["40020007", "300300016178", "20020000ff"])
def test_what_nobody_asked_for(wired, text: str) -> None:
    """Is a mistake of the broker's."""
    line, theirs = wired
    line._connack = (0, "", line.terms)
    theirs.sendall(bytes.fromhex(text))
    with pytest.raises(ProtocolError):
        line.look()


def test_a_ping_is_waited_for(wired) -> None:
    """Its answer says that all before it was read."""
    line, theirs = wired
    theirs.sendall(b"\xd0\x00")
    line.ping(NEVER)
    assert theirs.recv(9) == b"\xc0\x00"


def test_nobody_reads_for_ever(wired) -> None:
    """What a broker sends without an end is taken some at a time."""
    line, theirs = wired
    theirs.settimeout(0.05)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += theirs.send(b"\x40\x02\x00\x07" * 25_000)
    heard = []
    line.on_acks = heard.append
    line.look()
    assert heard


def test_a_closed_client(wired) -> None:
    """Cannot be waited for."""
    line, _ = wired
    line.client.drop()
    with pytest.raises(LineError, match="closed"):
        line.serve(NEVER)
    with pytest.raises(LineError):
        line.send(b"x", until=NEVER)
    line.say_goodbye()


def test_errors_in_few_words() -> None:
    """The system's, or the class where there are none."""
    assert reason_of(OSError(111, "Connection refused")) == "Connection refused"
    assert reason_of(OSError()) == "OSError"
    assert reason_of(OSError("odd")) == "odd"
