"""What we stand on inside paho is still there and does what we think; fails loudly where paho changes it."""

from __future__ import annotations

import contextlib
import inspect
import socket
import ssl
import threading
from typing import Literal

import pytest
from paho.mqtt.client import Client, _WebsocketWrapper
from paho.mqtt.enums import CallbackAPIVersion

from gateway.net.mqtt import VERSION_3_1_1, VERSION_5, ProtocolError
from gateway.net.paho_client import PRIVATE_PARTS, WEBSOCKET_PARTS, BulkClient, connect_properties


def make_client(version: int = VERSION_5, transport: Literal["tcp", "websockets"] = "tcp") -> BulkClient:
    return BulkClient(
        client_id="test",
        version=version,
        transport=transport,
        clean=True,
        tls=None,
        timeout_s=5,
        username="u",
        password="p",
    )


@pytest.fixture
def wired():
    """A client whose socket is ours, and the other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    client = make_client()
    client._sock = ours
    yield client, theirs
    client.drop()
    theirs.close()


@pytest.mark.parametrize("part", PRIVATE_PARTS)
def test_the_private_parts_are_there(part: str) -> None:
    """One by one, so that the failing name says what has gone."""
    assert hasattr(make_client(), part)


@pytest.fixture
def websocket(monkeypatch):
    """A client with paho's WebSocket after its handshake, and the other end."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(_WebsocketWrapper, "_do_handshake", lambda *_: None)
    client = make_client(transport="websockets")
    client._sock = _WebsocketWrapper(ours, "localhost", 80, False, "/", None)
    ours.setblocking(False)
    theirs.settimeout(5)
    yield client, theirs
    client.drop()
    theirs.close()


def frame(payload: bytes, *, first: int = 0x82, mask: bytes = b"") -> bytes:
    """Return a WebSocket frame (RFC 6455, section 5.2)."""
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 1 << 16:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if mask else payload
    return head + mask + masked


@pytest.mark.parametrize("part", WEBSOCKET_PARTS)
def test_the_private_parts_of_a_websocket_are_there(websocket, part: str) -> None:
    """One by one, likewise."""
    assert hasattr(websocket[0]._sock, part)


@pytest.mark.parametrize("sizes", [[1, 125, 126, 300], [65_535, 65_536, 5], [400_000]])
def test_no_more_is_held_of_a_websocket_frame_than_is_read_at_a_time(websocket, sizes: list[int]) -> None:
    """However large it is, and in whatever pieces it comes."""
    client, theirs = websocket
    payloads = [bytes(at % 251 for at in range(size)) for size in sizes]
    wire = b"".join(frame(payload) + frame(bytes(125), first=0x8A) for payload in payloads)
    got = b""
    for at in range(0, len(wire), 7_001):
        theirs.sendall(wire[at : at + 7_001])
        while data := client.receive(1000):
            got += data
            assert len(client._sock._readbuffer) < 1100
    assert got == b"".join(payloads)


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (frame(bytes(1 << 20), first=0x89), "a long WebSocket frame that is no MQTT"),
        (frame(bytes(1 << 20), first=0x81), "a long WebSocket frame that is no MQTT"),
        (frame(bytes(1 << 20), mask=b"abcd"), "a WebSocket frame that is masked, as only those of clients are"),
    ],
    ids=["ping", "text", "masked"],
)
def test_a_websocket_frame_that_paho_would_hold_is_the_end(websocket, wire: bytes, why: str) -> None:
    """It holds all of it, and copies it at each read: of a gigabyte until there is no memory left."""
    client, theirs = websocket
    theirs.sendall(frame(b"before") + wire[:200_000])
    assert client.receive(6) == b"before"
    assert client.receive(100_000) == b""
    assert client.wrong == why
    assert len(client._sock._readbuffer) < 110_000


@pytest.mark.parametrize("piece", [b"HTTP/1.1 200 OK\r\nX: " + bytes(100), b"A: b\r\n" * 10], ids=["line", "lines"])
def test_an_answer_to_a_websocket_that_does_not_end_is_not_read_for_ever(piece: bytes) -> None:
    """paho reads it a byte at a time and keeps it: a thread, and memory, for as long as somebody likes."""

    def talk() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            for _ in range(2000):
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk)
        thread.start()
        client = make_client(transport="websockets")
        with pytest.raises(OSError, match="does not end"):
            client.dial(*listener.getsockname(), keepalive_s=10, properties=None)
        thread.join(30)
    assert client._dialled is not None
    assert client._dialled.fileno() == -1


def test_an_answer_to_a_websocket_that_comes_slowly_has_its_time_in_all() -> None:
    """And not for each byte."""
    is_over = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not is_over.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        client = make_client(transport="websockets")
        client.connect_timeout = 0.3
        with pytest.raises(TimeoutError):
            client.dial(*listener.getsockname(), keepalive_s=10, properties=None)
        is_over.set()
        thread.join(30)


def test_the_time_of_the_last_bytes_has_one_of_two_names() -> None:
    """paho 2.1 and 2.2 call it differently."""
    plain = Client(CallbackAPIVersion.VERSION2)
    assert hasattr(plain, "_last_bytes_received") or hasattr(plain, "_last_msg_in")


def test_the_private_methods_take_what_we_give_them() -> None:
    """Names of their arguments, as we use them."""
    assert list(inspect.signature(Client._packet_queue).parameters)[:5] == [
        "self",
        "command",
        "packet",
        "mid",
        "qos",
    ]
    assert list(inspect.signature(Client._sock_recv).parameters) == ["self", "bufsize"]
    assert list(inspect.signature(Client._ssl_wrap_socket).parameters) == ["self", "tcp_sock"]
    assert list(inspect.signature(Client._create_socket).parameters) == ["self"]


def test_paho_reads_only_what_it_is_given(wired) -> None:
    """A packet that is handed over is handled; bytes on the socket stay where they are."""
    client, theirs = wired
    heard: list[tuple[bool, int]] = []
    client.on_connect = lambda _c, _d, flags, reason, _p: heard.append((flags.session_present, reason.value))
    theirs.sendall(b"untouched")
    client.take(0x20, b"\x01\x00\x00")
    assert heard == [(True, 0)]
    assert client.receive(100) == b"untouched"


def test_a_ping_is_answered_to_paho(wired) -> None:
    """PINGRESP through `take` ends its waiting; `forgive_silence` does the same without one."""
    client, _ = wired
    client._ping_t = 5.0
    client.take(0xD0, b"")
    assert client._ping_t == 0
    client._ping_t = 5.0
    client.forgive_silence()
    assert client._ping_t == 0


@pytest.mark.parametrize("version", [VERSION_3_1_1, VERSION_5])
@pytest.mark.parametrize(("first", "body"), [(0x20, b""), (0x90, b""), (0xD0, b"x"), (0xF0, b"")])
def test_nonsense_is_a_protocol_error(version: int, first: int, body: bytes) -> None:
    """Whatever paho's parser raises or returns."""
    ours, theirs = socket.socketpair()
    client = make_client(version)
    client._sock = ours
    with theirs, pytest.raises(ProtocolError):
        client.take(first, body)
    client.drop()


def test_raw_packets_and_pahos_own_never_mix(wired) -> None:
    """A long run of PUBACKs, sent piece by piece, ends before the PINGREQ behind it begins."""
    client, theirs = wired
    acks = b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in range(1, 60_001)) * 5
    client.send_raw(acks)
    assert client.want_write()
    client._send_pingreq()
    client.send_raw(b"\x40\x02\xff\xff")
    got = bytearray()
    while len(got) < len(acks) + 6:
        got += theirs.recv(65536)
        client.loop_write()
    assert got == acks + b"\xc0\x00" + b"\x40\x02\xff\xff"
    assert not client.want_write()


def test_receiving(wired) -> None:
    """Nothing, something, the end."""
    client, theirs = wired
    assert client.receive(10) is None
    theirs.sendall(b"0123456789abcdef")
    assert client.receive(10) == b"0123456789"
    theirs.close()
    assert client.receive(10) == b"abcdef"
    assert client.receive(10) == b""
    client.drop()
    assert client.receive(10) == b""
    assert client.fileno() == -1


def test_a_socket_whose_handshake_fails_is_closed(authority) -> None:
    """No descriptor is left to the garbage collector."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = BulkClient(
            client_id="t",
            version=VERSION_5,
            transport="tcp",
            clean=True,
            tls=ssl.create_default_context(),
            timeout_s=0.1,
        )
        with pytest.raises(OSError, match="timed out"):
            client.dial("127.0.0.1", listener.getsockname()[1], keepalive_s=10, properties=None)
    assert client._dialled is not None
    assert client._dialled.fileno() == -1


def test_what_a_connect_says_about_us() -> None:
    """Session expiry, receive maximum and packet size, as MQTT 5 writes them."""
    packed = connect_properties(session_expiry_s=3600, receive_maximum=100, packet_bytes_max=65536).pack()
    assert bytes(packed) == b"\x0d\x11\x00\x00\x0e\x10\x21\x00\x64\x27\x00\x01\x00\x00"
    packed = connect_properties(session_expiry_s=3600, receive_maximum=100, packet_bytes_max=None).pack()
    assert bytes(packed) == b"\x08\x11\x00\x00\x0e\x10\x21\x00\x64"


def test_a_dial_that_nobody_waits_for_sends_nothing() -> None:
    """Its CONNECT would take the session away from whoever has it now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = make_client()
        client.abandon()
        with pytest.raises(ConnectionAbortedError):
            client.dial("127.0.0.1", listener.getsockname()[1], keepalive_s=10, properties=None)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b""


def test_it_leaves_by_the_device_that_is_given() -> None:
    """By the loopback it gets there; by one that is not there it gets nowhere, and that is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = make_client()
        client.device = "lo"
        try:
            client.dial(*server.getsockname(), keepalive_s=0, properties=None)
        except PermissionError as error:
            pytest.skip(f"this kernel lets nobody but root bind to a device ({error})")
        assert client.wire_bytes > 0
        client.drop()
        client = make_client()
        client.device = "wwan9nothere"
        with pytest.raises(OSError, match="No such device"):
            client.dial(*server.getsockname(), keepalive_s=0, properties=None)
