"""What a TCP connection has cost on the wire, and its round trip, as the kernel has them. Must not send.

A byte budget is a bill: headers, acknowledgements, what was sent a second time and the TLS handshake stand on it, and
nobody but the kernel knows them (struct tcp_info of <linux/tcp.h>).
"""

from __future__ import annotations

import socket
import struct
from typing import Final

# IP and TCP headers of a packet, with timestamps.
PACKET_BYTES_V4: Final = 20 + 20 + 12
PACKET_BYTES_V6: Final = 40 + 20 + 12
# The packets that end a connection are on the way after nobody asks any more: two each.
CLOSE_PACKETS: Final = 4
# A connection that did not come about: its SYN, with repetitions, and the question for its address.
ATTEMPT_BYTES: Final = 4 * 60 + 200

_INFO_BYTES: Final = 256
_NUMBER: Final = struct.Struct("=I")
_MSS_AT: Final = 16
_ROUND_TRIP_AT: Final = 68  # in microseconds, smoothed
_TOTAL_RETRANS_AT: Final = 100
_ACKED: Final = struct.Struct("=QQII")  # bytes_acked, bytes_received, segs_out, segs_in: Linux 4.2
_ACKED_AT: Final = 120
_SENT: Final = struct.Struct("=Q")  # bytes_sent, with repetitions: Linux 4.19
_SENT_AT: Final = 200


def wire_bytes(connection: socket.socket) -> int:
    """Return what went over the wire on a connection so far; 0 where the kernel does not say."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except (OSError, AttributeError):
        return 0
    return count(info, is_v6=connection.family == socket.AF_INET6)


def round_trip_s(connection: socket.socket) -> float:
    """Return how long packets take there and back lately, as the kernel measures it; 0.0 where it does not say."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except (OSError, AttributeError):
        return 0.0
    return 0.0 if len(info) < _ROUND_TRIP_AT + _NUMBER.size else _NUMBER.unpack_from(info, _ROUND_TRIP_AT)[0] / 1e6


def count(info: bytes, *, is_v6: bool) -> int:
    """Return the bytes on the wire that a tcp_info stands for; 0 for one of a kernel before 4.2.

    >>> count(bytes(120) + _ACKED.pack(1000, 50, 3, 2) + bytes(56) + _SENT.pack(1500), is_v6=False)
    1810
    """
    if len(info) < _ACKED_AT + _ACKED.size:
        return 0
    sent, received, packets_out, packets_in = _ACKED.unpack_from(info, _ACKED_AT)
    if len(info) >= _SENT_AT + _SENT.size:
        (sent,) = _SENT.unpack_from(info, _SENT_AT)
    else:
        (repeated,) = _NUMBER.unpack_from(info, _TOTAL_RETRANS_AT)
        (packet_bytes,) = _NUMBER.unpack_from(info, _MSS_AT)
        sent += repeated * packet_bytes
    packets = packets_out + packets_in
    return int(sent + received + packets * (PACKET_BYTES_V6 if is_v6 else PACKET_BYTES_V4))
