"""NATS JetStream as the far side of an uplink: a request goes as messages, each under its id. Must not retry or choose.

A wire like `senders.HttpSender`, beside which it stands: it belongs to one uplink's thread, and leases, ledger, budget,
breaker and waits are those of every uplink (`endpoints.Endpoints` holds it).

    request → Shipment (nats_shipment.py) ⇄ NatsConnection (net/nats_line.py) ⇄ server, its streams
                   └→ answer, or what to do next (nats_reasons.py)

Taken is what a stream has answered to be stored. NATS is spoken over a socket of our own: what a request costs has to
be known before and after it, its pieces are paced, waits are bounded by a thread, and all of it is some lines of text.
The library that there is (nats-py) lives in an event loop, keeps its socket to itself and sends when it pleases.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.readings_json import SHORT_NAMES
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.net.line import Address, BrokenError, ConnectError, HttpError, StalledError
from gateway.net.nats import Info, Message, NotStored, Stored, read_answer, write_publication
from gateway.net.nats_address import parse_url
from gateway.net.nats_line import NatsConnection, NoTlsError, NotNatsError, SaidNoError
from gateway.uplinks.bridge_encoder import BridgeEncoder
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.guards import Answer, HoldError, TooLargeError
from gateway.uplinks.nats_builder import NatsBuilder
from gateway.uplinks.nats_discovery import Discovery, Place
from gateway.uplinks.nats_pieces import Publications
from gateway.uplinks.nats_reasons import BAD_REQUEST, OTHER_STREAM, decide_error, denied_subject
from gateway.uplinks.nats_settings import token_of
from gateway.uplinks.nats_shipment import Shipment
from gateway.uplinks.nats_silence import Silence
from gateway.uplinks.wires import PIECE_BYTES, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX, WRITTEN_AT_ONCE_BYTES, KeptWire
from gateway.uplinks.worker import Seams

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.core.batch import Attributes, Series
    from gateway.core.clock import Clock
    from gateway.net.deadline import Deadline
    from gateway.net.secrets import Secret
    from gateway.uplinks.guards import Packed
    from gateway.uplinks.links import Road
    from gateway.uplinks.nats_settings import NatsUplinkSettings
    from gateway.uplinks.requests import Encoder, Repair, RequestBuilder

log = logging.getLogger("tidegate.uplinks")

HEAD_BYTES: Final = 200
# An id, names of headers, and what a server may count beside the payload.
HEADERS_ROOM_BYTES: Final = 512
PAYLOAD_BYTES_MIN: Final = 1024
# So many messages that nobody waits for, in one request.
STRANGE_MAX: Final = 10_000
INBOX_LETTERS: Final = 8
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# A path that is idle is asked for now and then, so that the end of one shows.
KEEP_IDLE_S: Final = 300
KEEP_INTERVAL_S: Final = 10
KEEP_PROBES: Final = 3


class NatsWire(KeptWire[NatsConnection]):
    """One server. See `endpoints.EndpointWire` for the contract."""

    speaks = "NATS"

    def __init__(
        self,
        settings: NatsUplinkSettings,
        *,
        url: str,
        version: str,
        clock: Clock,
        random: Random,
        gateway_id: str,
        silence: Silence,
        discovery: Discovery | None = None,
    ) -> None:
        # The same keys as those of OTLP's, as far as they are asked for here.
        super().__init__(settings, version=version, clock=clock, endpoint=url)  # type: ignore[arg-type]
        self.duplicates = 0
        self.silence = silence
        self._nats = settings
        self._address = parse_url(url)
        self._named = Place(Address(self._address.host, self._address.port), self._address.host)
        self._place = self._named  # where the connection leads, or led last
        self._discovery = discovery
        # Those that are named come first: who has no other behind it is the last of them.
        self._may_go_elsewhere = url == settings.targets()[-1].url
        self._random = random
        self._client_name = f"tidegate-{gateway_id}-{settings.name}"
        self._info = Info()
        self._stream = ""
        self._replies = 0  # how many messages of this connection may be answered
        self._first = self._strange = 0  # the number of the request's first; what was no answer to any of it
        self._is_well = False  # whether the server was, when we gave up of ourselves

    @property
    def head_bytes(self) -> int:
        """How long the head of a message is, about."""
        return HEAD_BYTES

    @property
    def is_encrypted(self) -> bool:
        """Whether a new connection begins with TLS."""
        return self._address.is_tls

    @property
    def payload_bytes_max(self) -> int:
        """How large the payload of a message may be, as the server said last."""
        return max(PAYLOAD_BYTES_MIN, self._info.message_bytes_max - HEADERS_ROOM_BYTES)

    def told(self) -> dict[str, Any]:
        """Return where it leads, and on what terms."""
        return {
            "endpoint": self._endpoint,
            "protocol": "nats",
            "server": printable(self._info.version, 40),
            "stream": printable(self._stream, 100),
            "payload_bytes_max": self.payload_bytes_max,
            "is_leaving": self._info.ldm,
            "server_address": str(self._place.to),
            **({} if self._discovery is None else {"discovered": self._discovery.told()}),
            "duplicates": self.duplicates,
            "unheard": self.silence.told(),
        }

    # Connecting.

    def _connect(self) -> NatsConnection:
        if self._connection is None:
            self._connection = self._new(
                to=self._place.to,
                timeout_s=self._timeout_s,
                connect_timeout_s=self._connect_s,
                tls=self._build_context() if self.is_encrypted else None,
                options=[
                    (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX),
                    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL_S),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_PROBES),
                ],
                connected=self._connected,
                device=self.device,
                credentials=self._credentials,
            )
        return self._connection

    def _new_inbox(self) -> bytes:
        return f"{self._nats.inbox}.{''.join(self._random.choices(_LETTERS, k=INBOX_LETTERS))}".encode()

    def _new(self, **options: Any) -> NatsConnection:
        return NatsConnection(**options)

    def _credentials(self, info: Info) -> dict[str, Any]:
        settings = self._nats
        said: dict[str, Any] = {"name": self._client_name, "version": self._version}
        if settings.username:
            said["user"] = settings.username
            said["pass"] = _read("password", settings.password)
        elif settings.token is not None:
            said["auth_token"] = _read("token", settings.token)
        elif settings.nkey is not None or settings.credentials is not None:
            said |= self._proof(info)
        return said

    def _proof(self, info: Info) -> dict[str, str]:
        """Return what proves by a key who we are."""
        from gateway.net.nkeys import prove, read_credentials  # noqa: PLC0415  only where one is configured

        settings = self._nats
        what, secret = ("nkey", settings.nkey) if settings.nkey else ("credentials", settings.credentials)
        text = _read(what, secret)
        try:
            if settings.nkey is not None:
                proof = prove(text, info.nonce)
                return {"nkey": proof.public, "sig": proof.signature}
            credentials = read_credentials(text)
            return {"jwt": credentials.jwt, "sig": prove(credentials.seed, info.nonce).signature}
        except ValueError as error:
            raise HoldError(f"{what} {error}") from error

    def _ready(self, connection: NatsConnection, until: Deadline) -> None:
        """Have a connection that stands, as far as can be seen without asking."""
        if connection.is_open:
            try:
                connection.look(until)
            except SaidNoError as error:
                decided = decide_error(str(error), host=self._host())
                if isinstance(decided, HoldError):
                    raise decided from error
                connection.close()
            except (HttpError, OSError):
                connection.close()
        self._note_others(connection)
        if connection.is_open and connection.info.ldm and len(self._nats.targets()) > 1:
            self.close()
            raise TryLaterError(f"{self._host()} shuts down and sends its clients elsewhere (lame duck)")
        if connection.is_open and connection.info.ldm and (others := self._others()):
            connection.close()
            self._place = others[0]
        if not connection.is_open:
            self._open(connection, until)
            # Numbers begin anew: an answer to one of the connection before would be taken for one to another message.
            self._replies = 0
        self._note_others(connection)
        self._info = connection.info

    def _open(self, connection: NatsConnection, until: Deadline) -> None:
        """Connect to where it led last, to the server that is named, or to another of its cluster; raise why not."""
        failed: ConnectError | None = None
        for place in dict.fromkeys((self._place, self._named, *self._others())):
            if failed is not None and (self._is_aborted or until.is_over):
                break
            connection.to, connection.name = place
            connection.inbox = self._new_inbox()
            before, self._place = self._place, place
            try:
                connection.open(until)
            except ConnectError as error:
                self._place = before
                if self._discovery is not None:
                    self._discovery.failed(place)
                # What is said is about the one that is named.
                failed = error if failed is None or place == self._named else failed
            except SaidNoError as error:
                raise decide_error(str(error), host=self._host()) from error
            else:
                if place not in {before, self._named}:
                    log.info("uplink %s: %s is gone to, of which its cluster has told", self._nats.name, place.to)
                return
        self._place = self._named
        assert failed is not None
        raise failed

    def _others(self) -> list[Place]:
        return self._discovery.others() if self._discovery is not None and self._may_go_elsewhere else []

    def _note_others(self, connection: NatsConnection) -> None:
        told = connection.info.connect_urls
        if self._discovery is not None and told and connection.info is not self._info:
            self._discovery.heard(told, by=self._named.name)

    # Publishing.

    def _post(self, connection: NatsConnection, packed: Packed, started_ns: int, until: Deadline) -> Answer:
        self._ready(connection, until)
        self._asked_ns = None
        if packed.is_probe:
            self._written_ns = self._clock.monotonic_ns()
            connection.ping(until)
            return self._done(Answer(), started_ns)
        body = packed.body
        assert isinstance(body, Publications)
        headers = f"Content-Encoding: {packed.encoding}\r\n" if packed.encoding else ""
        if self._nats.stream:
            headers += f"Nats-Expected-Stream: {self._nats.stream}\r\n"
        self._check_sizes(body, connection.info, headers)
        self.requests += 1
        shipment = Shipment(body, window=self._nats.inflight_max, silence=self.silence)
        self._is_well = False
        try:
            self._ship(connection, shipment, headers, until)
        except (HttpError, OSError) as error:
            explained = self._explain(error)
            self.close()
            raise shipment.broken(explained) from error
        except TryLaterError as error:
            if self._is_well:
                self._hear_out(connection, shipment, until)
            else:
                self.close()
            raise shipment.broken(error) from error
        finally:
            self.duplicates += shipment.duplicates
            self._stream = shipment.stream or self._stream
        self._used_ns = self._clock.monotonic_ns()
        return self._done(shipment.answer(), started_ns)

    def _done(self, answer: Answer, started_ns: int) -> Answer:
        self._note_answer()
        return Answer(
            rejected=answer.rejected,
            message=answer.message,
            left=answer.left,
            seconds=(self._used_ns - started_ns) / NS_PER_S,
            rtt_s=(self._used_ns - (self._written_ns or self._used_ns)) / NS_PER_S,
            round_trip_s=0.0 if self._connection is None else self._connection.round_trip_s,
        )

    def _check_sizes(self, body: Publications, info: Info, headers: str) -> None:
        """Raise TooLargeError with nothing sent, where a message is larger than the server takes.

        Where next to nothing is, it is HoldError: readings are not too large because a server takes none.
        """
        previous, most = 0, info.message_bytes_max
        for end in body.ends.tolist():
            size = end - previous + len(headers) + HEADERS_ROOM_BYTES // 2
            if size > most and most < PAYLOAD_BYTES_MIN + HEADERS_ROOM_BYTES:
                raise HoldError(f"{self._host()} takes messages of {most} bytes at most; raise max_payload there")
            if size > most:
                raise TooLargeError(
                    f"a message of {end - previous} bytes, and {self._host()} takes {most} with its headers"
                )
            previous = end

    def _ship(self, connection: NatsConnection, shipment: Shipment, headers: str, until: Deadline) -> None:
        """Send and hear until each message has its answer."""
        self._first, self._replies = self._replies, self._replies + len(shipment)
        self._strange = 0
        while not shipment.is_done:
            if shipment.may_go:
                self._send_portion(connection, shipment, headers, until)
            if not shipment.under_way:
                continue
            self._hear(connection, shipment, until)

    def _hear(self, connection: NatsConnection, shipment: Shipment, until: Deadline) -> None:
        """Wait for what comes; raise StalledError where that has been nothing of use for too long."""
        before = self._strange
        heard = 0
        for said in connection.hear(until):
            heard += 1
            if isinstance(said, Message):
                is_answer = self._take(said, shipment, inbox=connection.inbox)
            else:
                is_answer = self._take_no(said.reason, shipment)
            self._strange += not is_answer
            if self._strange > STRANGE_MAX:
                raise NotNatsError("messages that nobody waits for")
        now_ns = self._clock.monotonic_ns()
        if heard > self._strange - before:
            self._written_ns = now_ns
        elif self._written_ns is not None and now_ns - self._written_ns > self._timeout_s * NS_PER_S:
            # Whoever only asks for signs of life answers nothing.
            raise StalledError("no answer")

    def _hear_out(self, connection: NatsConnection, shipment: Shipment, until: Deadline) -> None:
        """Wait for the answers to what is under way, if they come."""
        try:
            while shipment.under_way:
                self._hear(connection, shipment, until)
        except (HttpError, OSError, TryLaterError):
            self.close()

    def _take(self, message: Message, shipment: Shipment, *, inbox: bytes) -> bool:
        prefix, _, number = message.subject.rpartition(b".")
        if prefix != inbox or not (number.isdigit() and len(number) < 20):
            return False
        answer = read_answer(message)
        if answer is None:
            raise BrokenError("who answers there is no stream of JetStream; is the subject right?")
        index = int(number) - self._first
        if isinstance(answer, Stored) and self._nats.stream not in {"", answer.stream}:
            # Servers heed the header that names it; whoever does not, a person has to look at.
            answer = NotStored(BAD_REQUEST, OTHER_STREAM, f"it went to the stream {answer.stream}")
        shipment.answered(index, answer)
        return 0 <= index < len(shipment)

    def _take_no(self, reason: str, shipment: Shipment) -> bool:
        subject = denied_subject(reason)
        if subject:
            return shipment.denied(subject, reason)
        decided = decide_error(reason, host=self._host())
        raise decided

    def _send_portion(self, connection: NatsConnection, shipment: Shipment, headers: str, until: Deadline) -> None:
        """Send what the window has room for, small ones together."""
        piece_bytes = min(WRITTEN_AT_ONCE_BYTES if self._is_quick else PIECE_BYTES, self.piece_bytes_max)
        waiting: list[int] = []
        data = bytearray()
        while (message := shipment.pop()) is not None:
            waiting.append(message)
            data += write_publication(
                shipment.body.subject(message),
                b"%b.%d" % (connection.inbox, self._first + message),
                f"Nats-Msg-Id: {shipment.body.ident(message)}\r\n{headers}".encode(),
                shipment.body.payload(message),
            )
            if len(data) >= piece_bytes:
                self._send_pieces(connection, shipment, data, waiting, piece_bytes, until)
                waiting, data = [], bytearray()
        if data:
            self._send_pieces(connection, shipment, data, waiting, piece_bytes, until)

    def _send_pieces(
        self,
        connection: NatsConnection,
        shipment: Shipment,
        data: bytearray,
        messages: list[int],
        piece_bytes: int,
        until: Deadline,
    ) -> None:
        self._written_ns = None
        for start in range(0, len(data), piece_bytes):
            if self._is_aborted:
                raise OSError("the uplink is stopping")
            piece = bytes(data[start : start + piece_bytes])
            try:
                self.before_piece(len(piece))
            except BaseException:
                # In the middle of a message nothing else can be said.
                self._is_well = not start
                for message in messages if not start else ():
                    shipment.not_sent(message)
                raise
            connection.write(piece, until)
        self._written_ns = self._clock.monotonic_ns()

    # What went wrong.

    def _explain(self, error: Exception) -> TryLaterError:
        if self._is_aborted:
            return super()._explain(error)
        if isinstance(error, NoTlsError):
            advice = "the url begins with tls://" if error.wants_tls else "the url begins with nats://"
            return HoldError(f"{self._host()}: {error}; then {advice}")
        if isinstance(error, SaidNoError):
            decided = decide_error(str(error), host=self._host())
            return decided if isinstance(decided, TryLaterError) else TryLaterError(str(decided))
        if isinstance(error, NotNatsError):
            return HoldError(f"{self._host()} speaks no NATS here: {error}; is the url right?")
        return super()._explain(error)

    def _hint(self) -> str:
        return ""

    def _host(self) -> str:
        return str(self._place.to)


def _read(what: str, secret: Secret | None) -> str:
    try:
        return "" if secret is None else secret.read()
    except ValueError as error:
        raise HoldError(f"{what}: {error}") from error


class Servers(Endpoints):
    """One server or several: `Endpoints` that tell what is NATS' own as well."""

    def told(self) -> dict[str, Any]:
        """Return who is sent to, on what terms, and how each of them is."""
        wires = [one.wire for one in self._all]
        duplicates = sum(wire.duplicates for wire in wires if isinstance(wire, NatsWire))
        return {"type": "nats", **self._current.wire.told(), "duplicates": duplicates, **super().told()}


def seams_of(
    settings: NatsUplinkSettings,
    *,
    series: Callable[[int], Series],
    gateway_attributes: Attributes,
    version: str,
    clock: Clock,
    random: Random,
    road: Road | None = None,
) -> Seams:
    """Return what makes an uplink one to streams: a connection to each server, and what is written there.

    No server says what time it is.
    """
    gateway_id = str(dict(gateway_attributes).get(SHORT_NAMES["gateway"], ""))
    silence = Silence(settings.name, settings.retry, now_s=lambda: clock.monotonic_ns() / NS_PER_S)
    shared: dict[str, Any] = {"version": version, "clock": clock, "random": random, "silence": silence}
    urls = [one.url for one in settings.targets()]
    if settings.discover:
        shared["discovery"] = Discovery(settings.discover, urls)
    wires = [NatsWire(settings, url=url, gateway_id=gateway_id, **shared) for url in urls]

    def build(*, timeline: Repair, encoder: Encoder, counts_series: bool) -> RequestBuilder:
        return NatsBuilder(
            settings,
            timeline=timeline,
            encoder=encoder,
            gateway_attributes=gateway_attributes,
            payload_bytes_max=lambda: min(wire.payload_bytes_max for wire in wires),
            counts_series=counts_series,
        )

    encoder = BridgeEncoder(
        settings,
        series=series,
        gateway_attributes=gateway_attributes,
        version=version,
        level_of=token_of,
    )
    return Seams(wire=Servers(settings, wires, clock=clock, random=random), encoder=encoder, builder=build, road=road)
