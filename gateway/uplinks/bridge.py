"""An MQTT broker as the far side of an uplink: a request goes as one message or as many. Must not retry or choose.

A wire like `senders.HttpSender`, beside which it stands: it belongs to one uplink's thread, and leases, ledger, budget,
breaker and waits are those of every uplink (`endpoints.Endpoints` holds it).

    request → Shipment (bridge_shipment.py) ⇄ BrokerLine (bridge_line.py) ⇄ broker
                   └→ answer, or what to do next (bridge_outcome.py)

A request is taken when the broker has acknowledged every message of it. Each connection begins a session of its own:
why there is nothing to be resumed, bridge_shipment.py says.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.readings_json import SHORT_NAMES, Messages, level
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.net.deadline import Deadline
from gateway.net.mqtt_bulk import Outgoing, Packets
from gateway.net.mqtt_fields import VERSION_5, Property, ProtocolError, write_properties
from gateway.net.wire_bytes import ATTEMPT_BYTES, CLOSE_PACKETS, PACKET_BYTES_V6
from gateway.uplinks.bridge_dial import Dialler
from gateway.uplinks.bridge_encoder import BridgeEncoder
from gateway.uplinks.bridge_line import BrokerLine, EndedLineError, LineError, StalledLineError, reason_of
from gateway.uplinks.bridge_outcome import broken, rejected_of
from gateway.uplinks.bridge_reasons import decide_connection, decide_end
from gateway.uplinks.bridge_settings import HOLD_UNHEARD, fill
from gateway.uplinks.bridge_shipment import Shipment
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.guards import Answer, HoldError, InTransitError, TooLargeError, told_of_wait
from gateway.uplinks.partly import PartlyTakenError
from gateway.uplinks.worker import Seams

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.core.batch import Attributes, Series
    from gateway.core.clock import Clock
    from gateway.uplinks.bridge_settings import MqttUplinkSettings
    from gateway.uplinks.guards import Packed
    from gateway.uplinks.links import Road

log = logging.getLogger("tidegate.uplinks")

# What a message has beside its payload: header, id, topic; and its PUBACK in a packet of its own, which TCP answers.
HEAD_BYTES: Final = 200
ACK_BYTES: Final = 5 + 2 * 52
WRITTEN_AT_ONCE_BYTES: Final = 64 * 1024
# So often in one request another connection is begun since the broker hung up on what it refuses.
RESUMES_MAX: Final = 32
# Behind the time at which the thread itself should have noticed.
OVERDUE_S: Final = 1.0
# A broker that asks for a sign of life has hung up at one and a half times its interval (MQTT 5.0 section 3.1.2.10).
KEEPALIVE_SHARE: Final = 1.25
REASON_CHARS_MAX: Final = 120
NEVER: Final = Deadline.after(None)


class MqttWire:
    """One broker. See `endpoints.EndpointWire` for the contract."""

    def __init__(self, settings: MqttUplinkSettings, *, url: str, gateway_id: str, clock: Clock) -> None:
        self.requests = 0
        self.unheard = 0
        self.before_piece: Callable[[int], None] = lambda _: None
        self.piece_bytes_max = WRITTEN_AT_ONCE_BYTES
        # Here there is one receiver alone.
        self.before_another: Callable[[], None] = lambda: None
        self.device = ""
        self.client_id = settings.client_id or f"tidegate-{gateway_id}-uplink-{settings.name}"
        self._settings = settings
        self._url = url
        self._gateway_id = gateway_id
        self._clock = clock
        self._timeout_s = float(settings.timeout)
        self._connect_s = float(settings.connect_timeout or settings.timeout)
        self._dialler = Dialler(settings, url=url, client_id=self.client_id, clock=clock)
        self._attempt_s = None if settings.attempt_timeout is None else float(settings.attempt_timeout)
        self._line: BrokerLine | None = None
        self._bytes_before = self._wire_before = 0
        self._ended = threading.Event()
        self._is_sending = False
        self._is_at_rest = False  # whether all that was sent has its answer
        self._opened_ns = self._used_ns = 0
        # What a broker said when it ended a connection under which something else was to be settled first.
        self._owed: HoldError | None = None
        self._was_unheard = False

    @property
    def bytes_sent(self) -> int:
        """Packets that were handed to TCP or TLS."""
        return self._bytes_before + (0 if self._line is None else self._line.bytes_sent)

    @property
    def wire_bytes(self) -> int:
        """What went over the wire so far, in both directions, with all headers."""
        client = self._dialler.client
        before = self._wire_before + self._dialler.attempts * ATTEMPT_BYTES
        return before + (0 if client is None else client.wire_bytes)

    @property
    def head_bytes(self) -> int:
        """How long the head of a message is, about."""
        return HEAD_BYTES

    @property
    def is_connected(self) -> bool:
        """Whether the next request finds a connection, as far as is known."""
        return self._line is not None

    @property
    def is_encrypted(self) -> bool:
        """Whether a new connection begins with TLS."""
        return self._dialler.is_encrypted

    def told(self) -> dict[str, Any]:
        """Return where it leads, and on what terms."""
        line = self._line
        told: dict[str, Any] = {
            "endpoint": self._url,
            "protocol": "5" if self._dialler.version == VERSION_5 else "3.1.1",
            "client_id": self.client_id,
            "unheard": self.unheard,
            "advice": "nobody subscribes to what is published here, so the broker throws away what it acknowledges"
            if self._was_unheard
            else "",
            **self._told_of_wait(),
        }
        if line is not None:
            told["qos"] = min(self._settings.qos, line.terms.qos_max)
            told["inflight_max"] = min(self._settings.inflight_max, line.terms.window)
        return told

    def _told_of_wait(self) -> dict[str, Any]:
        line, asked_ns = self._line, self._dialler.asked_ns
        awaited, since_ns, seconds_max = "a connection", asked_ns, self._connect_s
        if asked_ns is None and self._is_sending and line is not None:
            # While anything moves the broker is at it.
            awaited, since_ns, seconds_max = "an answer", line.moved_ns, self._timeout_s
        return told_of_wait(awaited, since_ns, now_ns=self._clock.monotonic_ns(), seconds_max=seconds_max)

    # From the event loop.

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self._dialler.is_aborted = False

    def is_overdue(self) -> bool:
        """Whether the thread should have come to an end by now, which only the system can keep it from."""
        line, asked_ns = self._line, self._dialler.asked_ns
        now_ns = self._clock.monotonic_ns()
        if asked_ns is not None:
            return now_ns - asked_ns > (self._connect_s + OVERDUE_S) * NS_PER_S
        return (
            self._is_sending and line is not None and now_ns - line.moved_ns > (self._timeout_s + OVERDUE_S) * NS_PER_S
        )

    def abort(self) -> None:
        """Cut the connection under the request that is under way."""
        self._dialler.is_cut = True
        self._ended.set()
        client = self._dialler.client
        if client is not None:
            client.abandon()

    def stop(self) -> None:
        """Abort, and start no further request."""
        self._dialler.is_aborted = True
        self.abort()

    # From the thread.

    def pause(self, seconds: float) -> None:
        """Wait, unless the request is ended meanwhile."""
        self._ended.wait(seconds)

    def close(self) -> None:
        """Let go of the connection; the next request reads secrets and certificates anew."""
        line, self._line = self._line, None
        client, self._dialler.client = self._dialler.client, None
        if line is not None:
            line.say_goodbye()
            self._bytes_before += line.bytes_sent
        if client is not None:
            self._wire_before += client.wire_bytes + CLOSE_PACKETS * PACKET_BYTES_V6
            client.drop()

    def recycle(self) -> None:
        """Let go of a connection that is too old, or was of no use for too long."""
        line, settings, now_ns = self._line, self._settings, self._clock.monotonic_ns()
        if line is None:
            return
        limits: list[tuple[int, float | None]] = [
            (self._opened_ns, settings.connection_max_age),
            (self._used_ns, settings.connection_max_idle),
        ]
        if line.terms.keepalive_s:
            limits.append((self._used_ns, KEEPALIVE_SHARE * line.terms.keepalive_s))
        if any(limit is not None and now_ns - since_ns > limit * NS_PER_S for since_ns, limit in limits):
            self.close()

    def send(self, packed: Packed, /, *, until: Deadline = NEVER) -> Answer:
        """Publish `packed`; return when all of it was taken, else raise what to do next."""
        self._check_wanted()
        self._dialler.is_cut = False
        self._ended.clear()
        started_ns = self._clock.monotonic_ns()
        until = until.within(self._attempt_s)
        try:
            line = self._connect(until)
            self._is_sending = True
            self._is_at_rest = False
            line.moved_ns = self._clock.monotonic_ns()
            answer = self._ping(line, until) if packed.is_probe else self._publish(line, packed, until)
        except TryLaterError as error:
            # Whoever mends what is held may do so by a new password or certificate under the same name.
            is_held = isinstance(error, HoldError) or (isinstance(error, PartlyTakenError) and error.is_held)
            if is_held or not self._is_at_rest:
                self.close()
            raise
        except (LineError, OSError, ProtocolError) as error:
            explained = self._explain(error)
            self.close()
            raise explained from error
        finally:
            self._is_sending = False
            self._dialler.asked_ns = None
        self._used_ns = now_ns = self._clock.monotonic_ns()
        return Answer(
            rejected=answer.rejected,
            message=answer.message,
            seconds=(now_ns - started_ns) / NS_PER_S,
            rtt_s=answer.rtt_s,
            maybe_twice=answer.maybe_twice,
            round_trip_s=0.0 if self._dialler.client is None else self._dialler.client.round_trip_s,
        )

    def _check_wanted(self) -> None:
        if self._dialler.is_aborted:
            raise TryLaterError("the uplink is stopping")

    def _ping(self, line: BrokerLine, until: Deadline) -> Answer:
        line.ping(until)
        return Answer()

    # Connecting.

    def _connect(self, until: Deadline) -> BrokerLine:
        owed, self._owed = self._owed, None
        if owed is not None:
            raise owed
        self.recycle()
        if self._line is not None and not self._is_there(self._line):
            self.close()
        if self._line is None:
            self._line = self._dialler.dial(until.within(self._connect_s), device=self.device)
            self._opened_ns = self._used_ns = self._clock.monotonic_ns()
        return self._line

    def _is_there(self, line: BrokerLine) -> bool:
        """Whether an idle connection still stands; raise HoldError where the broker said that a person is needed."""
        try:
            line.look()
        except EndedLineError as error:
            decided = decide_connection(error.code, what="the broker ended the connection", said=error.said)
            if isinstance(decided, HoldError):
                raise decided from error
            return False
        except (LineError, OSError, ProtocolError):
            return False
        return True

    # Publishing.

    def _publish(self, line: BrokerLine, packed: Packed, until: Deadline) -> Answer:
        qos, body = self._qos_of(line), packed.body
        window = self._settings.inflight_max
        shipment = Shipment(
            Packets(self._outgoing(packed), version=line.terms.version, qos=qos),
            is_answered=qos > 0,
            window=min(window, line.terms.window) if qos else window,
            packet_bytes_max=line.terms.packet_bytes_max,
            keeps_unheard=self._settings.unheard == HOLD_UNHEARD,
        )
        line.on_acks, line.scanner.said = shipment.answered, ""
        self.requests += 1
        self._written_ns = self._clock.monotonic_ns()
        try:
            line = self._ship_all(line, shipment, qos, until)
        except (TryLaterError, LineError, OSError, ProtocolError) as error:
            if isinstance(error, TryLaterError):
                # The broker is well: what it has got it answers.
                self._hear_out(line, shipment, qos, until)
            if isinstance(error, EndedLineError) and len(shipment) == 1 and shipment.under_way:
                ended = decide_end(error.code, said=error.said, is_one=True)
                if isinstance(ended, TooLargeError):
                    self.close()
                    raise ended from error
            explained = error if isinstance(error, TryLaterError) else self._explain(error)
            raise self._held_next(broken(shipment, body, explained)) from error
        finally:
            self._note_unheard(shipment)
        self._is_at_rest = True
        rtt_s = (self._clock.monotonic_ns() - self._written_ns) / NS_PER_S
        try:
            rejected, message = rejected_of(shipment, body, said=line.scanner.said)
        except PartlyTakenError as error:
            raise self._held_next(error) from error.__cause__
        return Answer(rejected=rejected, message=message, rtt_s=rtt_s, maybe_twice=shipment.perhaps)

    def _note_end(self, error: Exception) -> None:
        decided = self._explain(error)
        if isinstance(decided, HoldError):
            self._owed = decided

    def _held_next(self, error: TryLaterError) -> TryLaterError:
        """Remember what the next request is to be held for, since this one has to be settled first."""
        if isinstance(error, PartlyTakenError) and error.is_held:
            self._owed = HoldError(str(error))
        return error

    def _qos_of(self, line: BrokerLine) -> int:
        qos = self._settings.qos
        if qos > line.terms.qos_max:
            raise HoldError(
                "the broker takes QoS 0 only, which acknowledges nothing; write qos = 0 if that will do, "
                "or have it take QoS 1"
            )
        return qos

    def _outgoing(self, packed: Packed) -> Outgoing:
        body = packed.body
        if isinstance(body, Messages):
            return Outgoing(body, body.ends, body.topics, body.topic_of)
        properties = [(Property.CONTENT_TYPE, b"application/x-protobuf")]
        user = b""
        if packed.encoding:
            user = bytes((Property.USER,)) + b"\0\x10content-encoding" + len(packed.encoding).to_bytes(2, "big")
            user += packed.encoding.encode()
        values = {"gateway": level(self._gateway_id), "signal": packed.signal.name.lower()}
        topic = fill(self._settings.topic_of_requests(), values).encode()
        written = write_properties(properties)[1:] + user
        return Outgoing.one(topic, body, bytes((len(written),)) + written)

    def _ship_all(self, line: BrokerLine, shipment: Shipment, qos: int, until: Deadline) -> BrokerLine:
        """Send all of it, over another connection where a broker hangs up on what it refuses; return the last one."""
        for left in range(RESUMES_MAX, -1, -1):
            try:
                self._ship(line, shipment, qos, until)
            except (LineError, OSError, ProtocolError) as error:
                if shipment.is_done:
                    # The last answer came before the end, which is the next request's affair.
                    self._note_end(error)
                    return line
                is_stalled = isinstance(error, StalledLineError)
                if not left or is_stalled or not shipment.is_refused or self._dialler.is_cut or len(shipment) == 1:
                    raise
                self.close()
                shipment.resume()
                line = self._connect(until)
                line.on_acks = shipment.answered
            else:
                return line
        raise AssertionError("the last one returns or raises")

    def _ship(self, line: BrokerLine, shipment: Shipment, qos: int, until: Deadline) -> None:
        """Send and hear until each message has its answer."""
        while not shipment.is_done:
            if shipment.may_go:
                self._send_portion(line, shipment, qos, until)
                line.look()
            elif qos:
                line.serve(until)
            else:
                line.ping(until)
                shipment.read()

    @staticmethod
    def _hear_out(line: BrokerLine, shipment: Shipment, qos: int, until: Deadline) -> None:
        """Wait for the answers to what is under way, if they come."""
        with suppress(LineError, OSError, ProtocolError):
            while qos and shipment.under_way:
                line.serve(until)

    def _send_portion(self, line: BrokerLine, shipment: Shipment, qos: int, until: Deadline) -> None:
        piece_bytes = min(WRITTEN_AT_ONCE_BYTES, self.piece_bytes_max)
        count, packets = shipment.portion(piece_bytes)
        line.handed = 0
        owed_bytes = count * ACK_BYTES if qos else 0
        try:
            for packet in packets:
                for start in range(0, len(packet), piece_bytes):
                    piece = packet[start : start + piece_bytes]
                    self._check_wanted()
                    self.before_piece(len(piece) + owed_bytes)
                    owed_bytes = 0
                    # What was waited for was our own turn.
                    line.moved_ns = self._clock.monotonic_ns()
                    line.send(piece, until=until)
        except BaseException:
            shipment.handed(line.handed)
            raise
        self._written_ns = self._clock.monotonic_ns()

    def _explain(self, error: Exception) -> TryLaterError:
        """Return what went wrong as what to do next, in a sentence."""
        if self._dialler.is_aborted:
            return InTransitError("the uplink is stopping")
        if isinstance(error, EndedLineError):
            ended = decide_end(error.code, said=error.said)
            assert isinstance(ended, TryLaterError)
            return ended
        if isinstance(error, StalledLineError) and error.is_overdue:
            return InTransitError("an attempt took longer than it may")
        if isinstance(error, StalledLineError) or self._dialler.is_cut:
            return InTransitError(f"the broker does not answer within {self._timeout_s:g} s")
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        return InTransitError(f"the connection to {self._dialler.where} broke: {printable(why, REASON_CHARS_MAX)}")

    def _note_unheard(self, shipment: Shipment) -> None:
        """Have people hear that nobody wants what they send, once until somebody does."""
        self.unheard += shipment.unheard
        is_unheard = shipment.unheard > 0
        if is_unheard and not self._was_unheard:
            log.warning(
                "uplink %s: nobody subscribes to what it publishes, so the broker throws away what it acknowledges",
                self._settings.name,
            )
        if is_unheard or shipment.is_done:
            self._was_unheard = is_unheard


class Brokers(Endpoints):
    """One broker or several: `Endpoints` that tell what is MQTT's own as well."""

    def told(self) -> dict[str, Any]:
        """Return who is sent to, on what terms, and how each of them is."""
        return {"type": "mqtt", **self._current.wire.told(), **super().told()}


def seams_of(
    settings: MqttUplinkSettings,
    *,
    series: Callable[[int], Series],
    gateway_attributes: Attributes,
    version: str,
    clock: Clock,
    random: Random,
    road: Road | None = None,
) -> Seams:
    """Return what makes an uplink one to brokers: a connection to each of its own, and what is written there.

    No broker says what time it is.
    """
    gateway_id = str(dict(gateway_attributes).get(SHORT_NAMES["gateway"], ""))
    wires = [MqttWire(settings, url=one.url, gateway_id=gateway_id, clock=clock) for one in settings.targets()]
    encoder = BridgeEncoder(settings, series=series, gateway_attributes=gateway_attributes, version=version)
    return Seams(wire=Brokers(settings, wires, clock=clock, random=random), encoder=encoder, road=road)
