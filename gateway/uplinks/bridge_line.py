"""One connection to a broker, from a thread that may wait: bytes go, answers come. Must not know requests, or retry.

paho connects, and speaks TLS and WebSocket; what is published goes past it, and what comes is read by our own scanner.
Whoever sends is woken by what comes as well, so that a broker that waits for us to read never waits for ever. Each wait
ends when nothing has moved for `timeout_s`, or all of it has taken longer than it may.
"""

from __future__ import annotations

import math
import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.net.mqtt_bulk import Acks, AckScanner
from gateway.net.mqtt_fields import (
    DISCONNECT_PROPERTIES,
    VERSION_5,
    PacketType,
    Property,
    ProtocolError,
    ReasonCode,
    read_properties,
)
from gateway.net.mqtt_packets import PINGREQ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.clock import Clock
    from gateway.net.deadline import Deadline
    from gateway.net.mqtt import Packet
    from gateway.net.paho_client import BulkClient

READ_BYTES: Final = 64 * 1024
# So often it reads in one go what is there already.
LOOKS_MAX: Final = 16
NS_PER_S: Final = 1_000_000_000
RECEIVE_MAXIMUM: Final = 65_535
# What a remaining length of four bytes can say, with its header.
PACKET_BYTES_MAX: Final = 268_435_455 + 5
# Linux's TCP_NOTSENT_LOWAT, not named by Python below 3.12.
TCP_NOTSENT_LOWAT: Final = 25
# So many questions without an answer, some seconds between them, and the kernel takes an idle connection for dead.
PROBES: Final = 3
PROBE_INTERVAL_S: Final = 10
_GOODBYE: Final = b"\xe0\x00"
_IN: Final = select.POLLIN
_BOTH: Final = select.POLLIN | select.POLLOUT


class LineError(Exception):
    """The connection broke; the message is the cause in a few words."""


class StalledLineError(LineError):
    """Nothing moved for as long as was to be waited; `is_overdue` where all of it took longer than it may."""

    def __init__(self, reason: str, *, is_overdue: bool = False) -> None:
        super().__init__(reason)
        self.is_overdue = is_overdue


class EndedLineError(LineError):
    """The broker has refused or ended the connection, for the reason `code`, and perhaps `said` why."""

    def __init__(self, code: int, said: str = "") -> None:
        super().__init__(f"reason {code:#04x}")
        self.code = code
        self.said = said


@dataclass(frozen=True, slots=True)
class BrokerTerms:
    """What a broker takes, by its CONNACK (MQTT 5.0 section 3.2.2.3)."""

    version: int
    window: int = RECEIVE_MAXIMUM
    qos_max: int = 1
    packet_bytes_max: int = PACKET_BYTES_MAX
    keepalive_s: int = 0  # its own idea of it; 0: none


class BrokerLine:
    """A dialled client. `on_acks` hears PUBACKs; `handed` counts the bytes of what is sent now.

    `timeout_s` is the longest that nothing may move while something is waited for.
    """

    def __init__(self, client: BulkClient, *, timeout_s: float, clock: Clock) -> None:
        self.client = client
        self.terms = BrokerTerms(client.version)
        self.on_acks: Callable[[Acks], None] = _nobody_waits
        self.bytes_sent = 0
        self.handed = 0
        self.moved_ns = clock.monotonic_ns()
        self.scanner = AckScanner(client.version)
        self.timeout_s = timeout_s
        self._clock = clock
        self._pings = self._pongs = 0
        self._connack: tuple[int, str, BrokerTerms] | None = None
        self._poll = select.poll()
        client.on_connect = self._on_connect

    def greet(self, until: Deadline) -> None:
        """Wait for the CONNACK, which may be to what paho has not sent whole yet; raise LineError."""
        self._poll.register(self.client.fileno(), _IN)
        while self.client.want_write():
            self.client.loop_write()
            self._wait(_BOTH, until)
        while self._connack is None:
            self._wait(_IN, until)
        code, said, self.terms = self._connack
        if code:
            raise EndedLineError(code, said)

    def keep(self, *, probe_after_s: int, unsent_bytes_max: int) -> None:
        """Have the kernel ask now and then whether the broker is there, and hold little that is unsent."""
        options = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_after_s),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES),
            (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, unsent_bytes_max),
        ]
        for option in options:
            self.client.set_option(*option)

    def send(self, data: bytes | memoryview[int], *, until: Deadline) -> None:
        """Hand over all of `data`, and hear what comes meanwhile; raise LineError."""
        view = memoryview(data)
        while view:
            try:
                sent = self.client.send_some(view)
            except OSError as error:
                self._hear_why()
                raise LineError(reason_of(error)) from error
            if sent:
                self.handed += sent
                self.bytes_sent += sent
                self._moved()
                view = view[sent:]
            else:
                self._wait(_BOTH, until)

    def serve(self, until: Deadline) -> None:
        """Wait until something comes, and hear it.

        A broker that gathers small packets (Nagle's algorithm, mosquitto's default) sends one PUBACK, and the others
        when that has its TCP acknowledgement: which would wait for 40 ms to go with something of ours, and we for it.
        """
        self.client.set_option(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._wait(_IN, until)

    def look(self) -> None:
        """Hear what is there, without waiting; raise LineError where that is the end."""
        for _ in range(LOOKS_MAX):
            if not (self.client.pending() or self._poll.poll(0)):
                return
            self._take()

    def ping(self, until: Deadline) -> None:
        """Return when the broker has read all that was sent."""
        self._pings += 1
        self.send(PINGREQ_BYTES, until=until)
        while self._pongs < self._pings:
            self._wait(_IN, until)

    def say_goodbye(self) -> None:
        """Send DISCONNECT, if that can be done at once."""
        with suppress(OSError):
            self.client.send_some(_GOODBYE)

    def _wait(self, events: int, until: Deadline) -> None:
        """Wait for one of `events`; hear what has come."""
        left_s = self.timeout_s - (self._clock.monotonic_ns() - self.moved_ns) / NS_PER_S
        if min(left_s, until.left_s()) <= 0:
            is_overdue = until.is_over
            raise StalledLineError("not over in time" if is_overdue else "nothing moves", is_overdue=is_overdue)
        if not self.client.pending():
            descriptor = self.client.fileno()
            if descriptor < 0:
                raise LineError("closed")
            self._poll.modify(descriptor, events)
            found = self._poll.poll(math.ceil(min(left_s, until.left_s()) * 1000))
            if not any(event & ~select.POLLOUT for _, event in found):
                return
        self._take()

    def _take(self) -> None:
        data = self.client.receive(READ_BYTES)
        if data is None:
            return
        if not data:
            error = self.client.error
            raise LineError("the broker closed the connection" if error is None else reason_of(error))
        self._moved()
        for item in self.scanner.feed(data):
            if isinstance(item, Acks):
                self.on_acks(item)
            else:
                self._hear(item)

    def _hear(self, packet: Packet) -> None:
        kind = packet.first_byte >> 4
        if kind == PacketType.CONNACK and self._connack is None:
            try:
                self.client.take(packet.first_byte, packet.body)
            except ProtocolError:
                # So paho calls a refusal too, which it has told by then.
                if self._connack is None:
                    raise
        elif kind == PacketType.PINGRESP and self._pongs < self._pings:
            self._pongs += 1
        elif kind == PacketType.DISCONNECT and self.client.version == VERSION_5:
            raise _read_goodbye(packet.body)
        else:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"packet {packet.first_byte:#04x} is for no publisher")

    def _hear_why(self) -> None:
        """Raise what the broker said before it hung up, if it said anything."""
        try:
            self.look()
        except EndedLineError:
            raise
        except (LineError, OSError, ProtocolError):
            return

    def _moved(self) -> None:
        self.moved_ns = self._clock.monotonic_ns()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        def told(name: str, default: int) -> int:
            return int(getattr(properties, name, default))

        terms = BrokerTerms(
            self.client.version,
            window=told("ReceiveMaximum", RECEIVE_MAXIMUM),
            qos_max=min(told("MaximumQoS", 1), 1),
            packet_bytes_max=told("MaximumPacketSize", PACKET_BYTES_MAX),
            keepalive_s=told("ServerKeepAlive", 0),
        )
        self._connack = (int(reason.value), str(getattr(properties, "ReasonString", "")), terms)


def reason_of(error: OSError) -> str:
    """Return an error of the system or of OpenSSL in its own few words."""
    return str(getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__)


def _read_goodbye(body: bytes) -> EndedLineError:
    code = body[0] if body else ReasonCode.SUCCESS
    said = b""
    if len(body) > 1:
        properties, _ = read_properties(body, 1, len(body), DISCONNECT_PROPERTIES)
        found = properties.get(Property.REASON_STRING, b"")
        said = found if isinstance(found, bytes) else b""
    return EndedLineError(code, said.decode())


def _nobody_waits(_: Acks) -> None:
    raise ProtocolError(ReasonCode.PACKET_ID_NOT_FOUND, "the broker acknowledges what was not sent")
