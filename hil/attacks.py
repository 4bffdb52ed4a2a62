"""What a hostile network does to an MQTT server: garbage, halves, huge lengths, silence. Must not hurt anyone else.

Each attack is a function of the server's port and dice; it returns when it is over, and nothing of it stays but the
sockets that it gives back to be closed. None cares what is answered: that the honest are served is the test's affair.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final

import cbor2

from gateway.net.mqtt_packets import connect_bytes, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

CONNECT: Final = connect_bytes(b"evil")
# The largest length that four bytes can say, 268,435,455 (MQTT 3.1.1 section 2.2.3).
LENGTH_MAX: Final = b"\xff\xff\xff\x7f"
PATIENCE_S: Final = 2.0
CHUNK_BYTES: Final = 65536


def connect(port: int) -> socket.socket:
    """Open a connection that gives up after PATIENCE_S."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def throw(port: int, data: bytes) -> None:
    """Send `data` on a connection of its own and go away, whatever the server thinks of it."""
    with contextlib.suppress(OSError), connect(port) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(CHUNK_BYTES):
            pass


def random_bytes(port: int, dice: Random, *, count: int = 100) -> None:
    """Garbage, some of it behind an honest CONNECT."""
    for _ in range(count):
        throw(port, dice.choice([b"", CONNECT]) + dice.randbytes(dice.randint(1, 2000)))


def half_packets(port: int, dice: Random, *, count: int = 100) -> None:
    """Packets that break off, and packets that go on longer than they said."""
    whole = CONNECT + publish_bytes(b"plant/evil/count", b'{"n": 1}', qos=1, packet_id=7)
    for _ in range(count):
        cut = dice.randint(1, len(whole) - 1)
        throw(port, dice.choice([whole[:cut], whole[:cut] + whole, whole + whole[cut:]]))


def huge_lengths(port: int, dice: Random) -> None:
    """Every packet type with the largest length that can be said, five-byte lengths, and a body to go with it."""
    for first in range(0x10, 0x100, 0x10):
        throw(port, bytes([first]) + LENGTH_MAX)
        throw(port, CONNECT + bytes([first | dice.choice([0, 2])]) + LENGTH_MAX + bytes(100_000))
        throw(port, CONNECT + bytes([first]) + b"\xff\xff\xff\xff\x01")
    throw(port, CONNECT + publish_bytes(b"plant/evil/count", bytes(300_000), qos=1, packet_id=9))
    throw(port, b"\x10" + LENGTH_MAX + CONNECT[2:])


def silence(port: int, *, count: int) -> list[socket.socket]:
    """Open connections that say nothing; the caller closes them."""
    streams = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            # A busy server's queue may be full for a moment: what the kernel turns away knocks again a second later.
            streams.append(socket.create_connection(("127.0.0.1", port), timeout=10 * PATIENCE_S))
    return streams


def slow_loris(port: int, *, count: int, seconds: float) -> None:
    """Open connections that say one byte at a time."""
    streams = silence(port, count=count)
    until_s = time.monotonic() + seconds
    at = 0
    while time.monotonic() < until_s:
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.sendall(CONNECT[at % len(CONNECT) : at % len(CONNECT) + 1])
        at += 1
        time.sleep(0.05)
    for stream in streams:
        stream.close()


def odd_topics(port: int, dice: Random) -> None:
    """Topics that are none, and topics that nobody expects; each on a connection of its own."""
    topics: Iterable[bytes] = [
        b"", b"\0", b"plant/\0/count", b"plant/+/count", b"#", b"\xff\xfe", b"\xed\xa0\x80", b"$SYS/broker",
        b"/" * 900, b"a/" * 400, b"x" * 1025, b"x" * 65535, "plant/küche ☃/count".encode(), b"plant//count",
        b"plant/" + b"d" * 800 + b"/count", b"plant/\x01\x7f/count", b"plant/{device}/count", b"plant/%s%n/count",
    ]  # fmt: skip
    for topic in topics:
        packet_id = dice.randint(1, 65535)
        throw(port, CONNECT + publish_bytes(topic, b'{"n": -1}', qos=1, packet_id=packet_id))


def bombs() -> list[tuple[bytes, bytes]]:
    """Return (topic, payload) of messages that are well formed MQTT and poison inside."""
    count, bomb = b"plant/evil/count", b"bomb/evil"
    deep = b"[" * 100_000
    laughs: object = "ha"
    for _ in range(12):
        laughs = [laughs] * 10
    payloads = [
        deep, deep + b"]" * 100_000, b'{"n":' * 20_000, b'{"n": NaN}', b'{"n": Infinity}', b'{"n": 1e999}',
        b'{"n": ' + b"9" * 5000 + b"}", b'{"n": "' + b"x" * 200_000 + b'"}', b'{"n": true}', b'{"n": null}',
        b'{"n": [1, 2]}', b'{"n": {"n": 1}}', b"", b"\0", b"\xef\xbb\xbf{}", b'{"n": 1.5}', b'{"n": 1}{"n": 2}',
        b'{"n": 1', b'{"\\ud800": 1}',
    ]  # fmt: skip
    cbor = [
        b"\x81" * 100_000, b"\xc0" * 100_000, b"\x9b" + b"\xff" * 8, b"\xbb" + b"\x7f" * 8, b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x7f" + b"\x61a" * 60_000, b"\x9f" * 60_000, b"\xbf" * 60_000, b"\xc2\x5a\x00\x02\x00\x00" + b"\xff" * 131_072,
        b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", b"\xf9\x7e\x00", b"\xfb\x7f\xf8" + bytes(6),
        cbor2.dumps(cbor2.CBORTag(28, [cbor2.CBORTag(29, 0)])), cbor2.dumps(cbor2.CBORTag(64, b"x" * 200_000)),
        cbor2.dumps(cbor2.CBORTag(82, b"x" * 7)), cbor2.dumps({"v": cbor2.CBORTag(86, b"\xff" * 200_000)}),
        cbor2.dumps({str(k): k for k in range(20_000)}), cbor2.dumps({"a" * 60_000: 1.5}), b"\xa1\xf6\x01",
        cbor2.dumps({"t": cbor2.CBORTag(1, 1e300), "n": float("nan")}), b"\xff", b"\x1c",
    ]  # fmt: skip
    return [(count, payload) for payload in payloads] + [(bomb, payload) for payload in cbor]


def publish_all(port: int, messages: list[tuple[bytes, bytes]], *, client_id: bytes = b"bomber") -> int:
    """Publish at QoS 1 on one connection; return how many were acknowledged."""
    with connect(port) as stream:
        stream.settimeout(20)
        stream.sendall(connect_bytes(client_id))
        answers = stream.recv(4)
        for number, (topic, payload) in enumerate(messages, start=1):
            stream.sendall(publish_bytes(topic, payload, qos=1, packet_id=number))
        wanted = 4 + 4 * len(messages)
        while len(answers) < wanted and (data := stream.recv(CHUNK_BYTES)):
            answers += data
    return len(answers) // 4 - 1


def never_reads(port: int, *, seconds: float) -> None:
    """Ask and ask and never listen: pings and QoS 1 messages whose answers pile up."""
    ask = b"\xc0\x00" * 2000 + b"".join(
        publish_bytes(b"plant/deaf/count", b'{"n": -2}', qos=1, packet_id=k) for k in range(1, 1000)
    )
    until_s = time.monotonic() + seconds
    with contextlib.suppress(OSError), connect(port) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.sendall(connect_bytes(b"deaf"))
        while time.monotonic() < until_s:
            stream.sendall(ask)


def half_of_qos_2(port: int) -> None:
    """Open every packet id of QoS 2 and never close one."""
    packets = b"".join(publish_bytes(b"plant/two/count", b'{"n": -3}', qos=2, packet_id=k) for k in range(1, 3000))
    throw(port, connect_bytes(b"two") + packets)


def same_name(port: int, *, count: int) -> None:
    """Take over one's own session again and again."""
    streams = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            stream = connect(port)
            stream.sendall(connect_bytes(b"twin"))
            streams.append(stream)
    for stream in streams:
        stream.close()
