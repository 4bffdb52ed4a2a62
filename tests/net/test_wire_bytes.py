"""Checks for what a connection costs: by the kernel's count, against what was really sent."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from gateway.net.wire_bytes import PACKET_BYTES_V4, PACKET_BYTES_V6, count, round_trip_s, wire_bytes


@pytest.fixture
def pair():
    """Two ends of a TCP connection; the other one answers so many bytes as it was told after all it has read."""
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    yield near, far
    for one in (near, far, listener):
        one.close()


def test_a_connection_costs_its_packets_and_what_is_in_them(pair) -> None:
    """Both directions, headers included: more than the payload, and for large ones not much more."""
    near, far = pair
    assert 2 * PACKET_BYTES_V4 <= wire_bytes(near) <= 4 * PACKET_BYTES_V4
    reader = threading.Thread(target=lambda: far.recv(1_000_000, socket.MSG_WAITALL))
    reader.start()
    near.sendall(bytes(1_000_000))
    reader.join()
    far.sendall(bytes(5000))
    near.recv(5000, socket.MSG_WAITALL)
    assert 1_005_000 < wire_bytes(near) < 1_100_000


def test_what_is_no_tcp_connection_costs_nothing_that_is_known() -> None:
    """Nor does one that is closed."""
    with socket.socket(socket.AF_UNIX) as one:
        assert wire_bytes(one) == 0
    assert wire_bytes(one) == 0


@pytest.mark.parametrize(
    ("info", "cost"),
    [
        (bytes(100), 0),
        # Before Linux 4.19: what was acknowledged, and full packets for those that went twice.
        (bytes(16) + struct.pack("=I", 1400) + bytes(80) + struct.pack("=I", 2) + bytes(16) + struct.pack("=QQII", 5000, 100, 4, 2), 5100 + 2800),
    ],
)  # fmt: skip
def test_older_kernels_say_less(info: bytes, cost: int) -> None:
    """What they say is made the most of."""
    packets = 6 if cost else 0
    assert count(info, is_v6=False) == cost + packets * PACKET_BYTES_V4
    assert count(info, is_v6=True) == cost + packets * PACKET_BYTES_V6


def test_the_round_trip_is_the_kernels(pair) -> None:
    """Of a loopback a fraction of a second; who has no connection has none, nor has a kernel that says little."""
    near, far = pair
    near.sendall(b"there")
    far.recv(5)
    assert 0 < round_trip_s(near) < 5
    with socket.socket(socket.AF_UNIX) as one:
        assert round_trip_s(one) == 0

    class Old:
        def getsockopt(self, *_: int) -> bytes:
            return self.info

    old = Old()
    old.info = bytes(68) + struct.pack("=I", 250_000)
    assert round_trip_s(old) == 0.25
    old.info = bytes(68)
    assert round_trip_s(old) == 0
