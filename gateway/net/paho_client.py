"""A paho client that takes bytes in bulk; the one place that touches paho's private parts.

paho connects, speaks TLS, WebSocket, MQTT 5 and every packet but PUBLISH. Its own receive loop costs 20 µs a
message, so that stays unused: we read the socket a buffer at a time, cut it with our own scanner, and hand
paho the packets that it shall handle, one by one (`take`). What we send goes through paho's queue
(`send_raw`), so that packets never mix. `PRIVATE_PARTS` names what this stands on; a test fails loudly where
paho changes it. Must not know sources, arrivals or the event loop.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from paho.mqtt import MQTTException
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.net.mqtt_fields import VERSION_5, PacketType, ProtocolError, ReasonCode
from gateway.net.mqtt_packets import packet_bytes
from gateway.net.tls import is_waiting
from gateway.net.wire_bytes import round_trip_s, wire_bytes

if TYPE_CHECKING:
    import ssl

PRIVATE_PARTS: Final = (
    "_create_socket",
    "_create_socket_connection",
    "_out_packet",
    "_packet_queue",
    "_ping_t",
    "_reset_sockets",
    "_sock",
    "_sock_recv",
    "_ssl_wrap_socket",
)
# And those of what stands for its socket where a WebSocket is spoken.
WEBSOCKET_PARTS: Final = ("_payload_head", "_readbuffer", "_socket")
# What a packet takes beside its bytes while it waits to be sent.
PACKET_BYTES: Final = 512
# What a broker may say before its WebSocket stands: a status and some headers.
GREETING_BYTES_MAX: Final = 16 * 1024
# Of a frame that is no message: its head, and the most that one may hold (RFC 6455, section 5.5).
CONTROL_BYTES_MAX: Final = 14 + 125
_MESSAGE_OPCODES: Final = frozenset({0, 2})  # a continuation, binary
# When to send what is retained (MQTT 5.0 section 3.8.3.1, Retain Handling).
ALWAYS: Final = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
NEW_ONLY: Final = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
# What paho raises on a packet that it cannot read; older versions let the parser's own errors through.
DECODE_ERRORS: Final = (struct.error, IndexError, KeyError, ValueError, MQTTException)


class BulkClient(Client):
    """One connection's client; make a new one for the next connection.

    `version` is 4 (3.1.1) or 5. `transport` is "tcp" or "websockets". Nothing here blocks but `dial`.
    """

    def __init__(
        self,
        *,
        client_id: str,
        version: int,
        transport: Literal["tcp", "websockets"],
        clean: bool,
        tls: ssl.SSLContext | None,
        timeout_s: float,
        username: str = "",
        password: str = "",
    ) -> None:
        is_version_5 = version == VERSION_5
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if is_version_5 else clean,
            protocol=MQTTProtocolVersion.MQTTv5 if is_version_5 else MQTTProtocolVersion.MQTTv311,
            transport=transport,
            # paho would fall back to MQTT 3.1 by itself, with a blocking connect in our event loop.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.version = version
        self._clean = clean
        self.device = ""  # the network device by which it connects, if not as the kernel's routes have it
        self._is_plain = transport == "tcp" and tls is None
        self._is_websocket, self._is_tls = transport == "websockets", tls is not None
        self._fed = b""
        self._fed_at = 0
        self._dialled: socket.socket | None = None
        self.is_abandoned = False
        self.error: OSError | None = None  # what ended the reading, where it was not the broker's FIN
        self.wrong = ""  # what ended it that the broker must not send
        self.connect_timeout = timeout_s
        if tls is not None:
            self.tls_set_context(tls)
        if username:
            self.username_pw_set(username, password or None)

    def dial(self, host: str, port: int, *, keepalive_s: int, properties: Properties | None) -> None:
        """Connect, shake hands, send CONNECT. Blocks: for a thread. Raises OSError (ssl.SSLError is one)."""
        if self.version == VERSION_5:
            self.connect(host, port, keepalive_s, clean_start=self._clean, properties=properties)
        else:
            self.connect(host, port, keepalive_s)

    def ask_for(self, topics: list[tuple[str, int]]) -> int | None:
        """Send SUBSCRIBE for filters with their QoS; return the id that the SUBACK will have, None if not connected.

        With MQTT 5, what the broker retains comes when a filter is new to the session, and not again at each
        reconnect, where a reading of last week would look like one of now. With QoS 0 it does: the broker keeps
        nothing else of what changed meanwhile.
        """
        asked: list[tuple[str, Any]] = list(topics)
        if self.version == VERSION_5:
            asked = [
                (topic, SubscribeOptions(qos=qos, retainHandling=NEW_ONLY if qos else ALWAYS)) for topic, qos in topics
            ]
        return self.subscribe(asked)[1]

    def abandon(self) -> None:
        """Give up a `dial` that another thread is in: it fails soon, and no CONNECT is sent after this."""
        self.is_abandoned = True
        if self._dialled is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: that would pull the TLS object from under the thread.
                socket.socket.shutdown(self._dialled, socket.SHUT_RDWR)

    def fileno(self) -> int:
        """Return the socket's descriptor, or -1."""
        return -1 if self._sock is None else int(self._sock.fileno())

    def receive(self, bytes_max: int) -> bytes | None:
        """Return what has arrived, None where nothing has, b"" at the end. One system call on plain TCP."""
        parts: list[bytes] = []
        size = 0
        while size < bytes_max and self._sock is not None:
            try:
                part = self._sock.recv(bytes_max - size)
            except OSError as error:
                self.wrong = _wrong_frame(self._sock)
                if is_waiting(error) and not self.wrong:
                    # A WebSocket frame that is none of ours, or half a one; TLS may hold the next already.
                    if self.pending():
                        continue
                    return b"".join(parts) if parts else None
                self.error, part = error, b""
            if not part:
                break
            self.wrong = _wrong_frame(self._sock)
            if self.wrong:
                break
            parts.append(part)
            size += len(part)
            if self._is_plain:
                break
            _let_go_of_read(self._sock)
        return b"".join(parts)

    def pending(self) -> int:
        """Return how many decrypted bytes wait where no select sees them."""
        ask = None if self._is_plain else getattr(self._sock, "pending", None)
        return 0 if ask is None else int(ask())

    def take(self, first_byte: int, body: bytes) -> None:
        """Let paho handle a packet; its callbacks run meanwhile. Raises ProtocolError."""
        self._fed, self._fed_at = packet_bytes(first_byte, body), 0
        try:
            outcome = self.loop_read()
        except DECODE_ERRORS as error:
            raise ProtocolError(ReasonCode.MALFORMED_PACKET, f"a packet that makes no sense: {error}") from error
        if outcome == MQTTErrorCode.MQTT_ERR_PROTOCOL:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"a {PacketType(first_byte >> 4).name} out of place")

    def send_raw(self, packets: bytes) -> None:
        """Queue whole packets behind whatever paho is sending, and send what the socket takes."""
        # As PUBACK: paho does things of its own after it has sent a PUBLISH or a DISCONNECT.
        self._packet_queue(PacketType.PUBACK << 4, packets, 0, 1)

    @property
    def unsent_bytes(self) -> int:
        """What waits in paho's queue, and what each packet takes there."""
        return sum(len(packet["packet"]) + PACKET_BYTES for packet in self._out_packet)

    def send_some(self, data: bytes | memoryview[int]) -> int:
        """Send what the socket takes of `data`, past paho's queue; return how much that is, 0 for nothing now.

        Where it is 0 the same data must come next. Raises OSError.
        """
        if self._sock is None:
            raise ConnectionAbortedError("the connection is closed")
        try:
            # Sockets, TLS and paho's WebSocket all take views.
            return int(self._sock.send(data))  # type: ignore[arg-type]
        except OSError as error:
            if is_waiting(error):
                return 0
            raise

    def set_option(self, level: int, name: int, value: int) -> None:
        """Set an option of the socket below TLS and WebSocket, where there is such an option."""
        if self._dialled is not None:
            with contextlib.suppress(OSError):
                self._dialled.setsockopt(level, name, value)

    @property
    def wire_bytes(self) -> int:
        """What went over the wire so far in both directions, with all headers; 0 where the kernel does not say."""
        return 0 if self._dialled is None else wire_bytes(self._dialled)

    @property
    def round_trip_s(self) -> float:
        """How long packets take there and back, as the kernel measures it; 0.0 where it does not say."""
        return 0.0 if self._dialled is None else round_trip_s(self._dialled)

    def end_writing(self) -> None:
        """Say that nothing more comes from here, where the transport can; what the other side sends is still read."""
        if self._is_plain and isinstance(self._sock, socket.socket):
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def forgive_silence(self) -> None:
        """Forget how long nothing was heard: something was, or we did not listen. A missing PINGRESP means nothing."""
        self._ping_t = 0.0
        # paho 2.1 has the second name for the first.
        self._last_bytes_received = self._last_msg_in = time.monotonic()

    def drop(self) -> None:
        """Close the socket without a word."""
        self._reset_sockets()

    def _sock_recv(self, bufsize: int) -> bytes:
        """Serve paho's own reading from the packet that it was given."""
        data = self._fed[self._fed_at : self._fed_at + bufsize]
        if not data:
            raise BlockingIOError
        self._fed_at += len(data)
        return data

    def _create_socket(self) -> Any:
        try:
            made: Any = super()._create_socket()
            if self._is_websocket:
                made._socket = self._dialled  # noqa: SLF001  see WEBSOCKET_PARTS
            self._check_abandoned()
        except BaseException:
            # paho leaves a socket whose handshake failed to the garbage collector.
            if self._dialled is not None:
                with contextlib.suppress(OSError):
                    self._dialled.close()
            raise
        return made

    def _check_abandoned(self) -> None:
        if self.is_abandoned:
            # A CONNECT now would throw our own next connection out of the session.
            raise ConnectionAbortedError("nobody waits for this connection any more")

    def _create_socket_connection(self) -> Any:
        self._dialled = self._connect_by(self.device) if self.device else super()._create_socket_connection()
        self._dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._dialled if self._is_tls else self._to_be_greeted(self._dialled)

    def _to_be_greeted(self, dialled: socket.socket) -> Any:
        return _Greeting(dialled, within_s=self._connect_timeout) if self._is_websocket else dialled

    def _connect_by(self, device: str) -> socket.socket:
        """Return what `create_connection` does, made by one network device: that has to be said before it connects."""
        from gateway.net.devices import bind_to  # noqa: PLC0415  only for who names links

        failure = OSError("its name has no address")
        for family, kind, number, _, where in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            one = socket.socket(family, kind, number)
            try:
                one.settimeout(self._connect_timeout)
                bind_to(one, device)
                one.connect(where)
            except OSError as error:
                one.close()
                failure = error
            else:
                return one
        raise failure

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> Any:
        # As paho does it, but the wrapped socket is known here before its handshake can fail.
        assert self._ssl_context is not None
        wrapped: ssl.SSLSocket = self._ssl_context.wrap_socket(
            tcp_sock, server_hostname=self._host, do_handshake_on_connect=False
        )
        self._dialled = wrapped
        wrapped.settimeout(self._connect_timeout)
        wrapped.do_handshake()
        return self._to_be_greeted(wrapped)


class _Greeting:
    """A socket until its WebSocket stands: paho reads what a broker says to that a byte at a time, without an end."""

    def __init__(self, dialled: socket.socket, *, within_s: float) -> None:
        self._dialled = dialled
        self._until_s = time.monotonic() + within_s
        self._left = GREETING_BYTES_MAX

    def settimeout(self, seconds: float) -> None:
        """Wait no longer than for all of it, whatever is asked for."""

    def send(self, data: bytes) -> int:
        """Send."""
        return self._dialled.send(data)

    def recv(self, size: int) -> bytes:
        """Receive; raise OSError where it takes too long, or is too long."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._dialled.settimeout(left_s)
        data = self._dialled.recv(min(size, self._left))
        self._left -= len(data)
        if not self._left:
            raise ConnectionAbortedError("its answer to the WebSocket does not end")
        return data


def _wrong_frame(sock: Any) -> str:
    """Say what is wrong with the WebSocket frame that paho holds a part of, "" where nothing is.

    It would hold all of one that is no message, however long, and copy it at each read; of one that is masked, too, and
    that look at each byte. Servers mask nothing (RFC 6455, section 5.1).
    """
    held = getattr(sock, "_readbuffer", b"")
    if len(held) < 2:
        return ""
    if held[1] > 0x7F:
        return "a WebSocket frame that is masked, as only those of clients are"
    if held[0] & 0x0F not in _MESSAGE_OPCODES and len(held) > CONTROL_BYTES_MAX:
        return "a long WebSocket frame that is no MQTT"
    return ""


def _let_go_of_read(sock: Any) -> None:
    """Make what was not yet read of a WebSocket frame a frame of its own (RFC 6455, section 5.2).

    paho holds each frame until it is whole, and copies what it holds at each read: a message of 100 MB would be 100 MB
    of memory, and soon a second for each read.
    """
    read = getattr(sock, "_payload_head", 0)
    if not read:
        return
    held = sock._readbuffer  # noqa: SLF001  see PRIVATE_PARTS
    kind = held[1]
    at = {126: 4, 127: 10}.get(kind, 2)
    left = (kind if at == 2 else int.from_bytes(held[2:at], "big")) - read
    sock._readbuffer = held[:1] + b"\x7f" + left.to_bytes(8, "big") + held[at + read :]  # noqa: SLF001
    sock._payload_head = 0  # noqa: SLF001


def connect_properties(*, session_expiry_s: int, receive_maximum: int, packet_bytes_max: int | None) -> Properties:
    """Return what an MQTT 5 CONNECT says about us (section 3.1.2.11).

    A broker drops what is larger than `packet_bytes_max` without a word, and calls it delivered.
    """
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = session_expiry_s
    properties.ReceiveMaximum = receive_maximum
    if packet_bytes_max is not None:
        properties.MaximumPacketSize = packet_bytes_max
    return properties
