"""One client's connection to the gateway's MQTT server. Must not listen, wait, or decide for others.

    bytes → PublishScanner → Publishes → Intake … on disk … → settle → all PUBACKs in one write
                           → other packets, answered here

A connection is a protocol object that the event loop calls; it has no task of its own. Answers to PUBLISHes
leave in the order in which the messages came (MQTT 5.0 section 4.6), so they queue as receipts; the
rest is answered at once. When it has to end, what was taken before is still acknowledged first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt import VERSION_5, VERSION_UNKNOWN, Packet, Publishes, PublishScanner, puback_bytes
from gateway.net.mqtt_fields import PacketType, ProtocolError, ReasonCode, protocol_error
from gateway.net.mqtt_packets import (
    connack_bytes,
    connect_version,
    disconnect_bytes,
    read_connect,
    read_disconnect,
)
from gateway.sources.mqtt_server_admission import Refusal, decide, no_place, welcome_bytes
from gateway.sources.mqtt_server_auth import ANONYMOUS, address_group, certificate_names
from gateway.sources.mqtt_server_hub import Hub, State, will_size
from gateway.sources.mqtt_server_intake import EXACTLY_ONCE_BYTES, MESSAGE_BYTES, RECEIPT_BYTES, RESUME_AT, Receipt
from gateway.sources.mqtt_server_line import Line, Pause
from gateway.sources.mqtt_server_replies import reply, sort_out
from gateway.sources.mqtt_server_talk import SKIPPED_BYTES, TALK_BYTES
from gateway.sources.refusals import lost_words
from gateway.sources.window import Window

if TYPE_CHECKING:
    from gateway.core.contracts import Lost
    from gateway.net.mqtt_packets import Will
    from gateway.sources.mqtt_server_auth import Grant
    from gateway.sources.mqtt_server_session import Session

# A CONNECT is small; nobody unknown may make us hold more than this.
CONNECT_BYTES_MAX: Final = 16 * 1024
# Whoever sends more than this at a time is read at once.
REST_BYTES_MAX: Final = 4 * 1024
# How long a client that was told to go, or does not read its answers, is waited for.
LINGER_S: Final = 2.0
DRAIN_S: Final = 5.0
STALLED_S: Final = 60.0
KEEP_ALIVE_FACTOR: Final = 1.5  # section 3.1.2.10


class Connection(Line):
    """One client. The event loop calls `buffer_updated`, the intake `settle`, the server `tick`."""

    __slots__ = (
        "_answer_timer",
        "_bytes_fresh",
        "_bytes_in_flight",
        "_bytes_kept",
        "_grant",
        "_group",
        "_has_peer_hung_up",
        "_keep_alive_s",
        "_last_words",
        "_limits",
        "_name",
        "_receipts",
        "_replies",
        "_scanner",
        "_session",
        "_talk",
        "_version",
        "_will",
        "_window",
        "address",
        "state",
    )

    def __init__(self, hub: Hub, *, address: str) -> None:
        super().__init__(hub)
        self.state = State.NEW
        self.address = address
        self._group = address_group(address)
        self._limits = hub.limits
        self._scanner = PublishScanner(
            packet_bytes_max=min(CONNECT_BYTES_MAX, hub.limits.packet_bytes_max),
            version=VERSION_UNKNOWN,
            topic_bytes_max=hub.limits.topic_bytes_max,
            topics=hub.topics,
            blocks=hub.blocks,
        )
        self._version = VERSION_UNKNOWN
        self._grant: Grant | None = None
        self._session: Session | None = None
        self._will: Will | None = None
        self._keep_alive_s = 0.0
        self._receipts: deque[Receipt] = deque()
        self._bytes_in_flight = self._bytes_fresh = self._bytes_kept = 0
        self._window = Window(now_s=self._since_s)
        self._name = ""
        self._has_peer_hung_up = False
        self._replies: list[bytes] = []
        self._talk = 0
        self._last_words = b""
        self._answer_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<connection of {self._name or 'nobody yet'} from {self.address}, {self.state.value}>"

    @property
    def owner(self) -> tuple[str, str]:
        """Who it counts for: the user, or for those without a name the address."""
        name = self._grant.name if self._grant is not None else ANONYMOUS
        return name, "" if name else self._group

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits for an answer."""
        return not self._receipts

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. asyncio has set TCP_NODELAY."""
        super().connection_made(transport)
        self._hub.connections[self] = None
        self._hub.place(self, self.state)

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived."""
        if self.state not in {State.NEW, State.OPEN}:
            return
        self.heard_s = self._hub.now_s()
        self._bytes_fresh += nbytes
        self._read(bytes(self._hub.buffer[:nbytes]))
        self._flush_replies()
        if self._scanner.is_skipping:
            self._talk += nbytes // SKIPPED_BYTES
        self._bytes_fresh = self._scanner.bytes_held
        self._hub.weigh_partial(self, self._bytes_fresh, fed=nbytes)
        self._look_bytes = self._hub.looked(self, nbytes, portion=self._look_bytes, talk=self._talk)
        if self._pause & Pause.TALK:
            self._talk = 0
        if nbytes < REST_BYTES_MAX and self._receipts and not self._pause and self.state is State.OPEN:
            self._hub.rest(self)

    def eof_received(self) -> bool:
        """Whether to stay: a client that only half hung up still gets its answers (TLS cannot)."""
        self._has_peer_hung_up = True
        if self.state in {State.OPEN, State.ENDING} and self._receipts and not self.is_tls:
            self._leave(with_will=True)
            self._set_state(State.ENDING)
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  gone is gone
        """Forget the connection; the session may stay."""
        self._leave(with_will=True)
        self._set_state(State.CLOSED)
        self._hub.forget(self)
        # Each knows the other: TLS would keep its memory until Python happens to look for such circles.
        self._transport = None
        # The answer to a wrong password keeps its place in the queue even if nobody waits for it any more:
        # who hangs up early must not guess faster.
        if self._answer_timer is not None and self._hub.is_stopping:
            self._answer_timer.cancel()

    # What the server calls.

    def tick(self, now_s: float) -> None:
        """Look at the clock; called about once a second."""
        since_s = now_s - self._since_s
        self._talk = 0
        if self.state is State.NEW:
            if since_s > self._limits.connect_timeout_s:
                self.drop("connect_timeout", "no CONNECT in time")
        elif self.state is State.OPEN:
            if self._pause & Pause.WRITE and since_s > STALLED_S:
                self.drop("answers_not_read", "does not read its answers")
            elif not self._pause and self._hub.partials.is_late(self, now_s=now_s):
                self.end(ReasonCode.UNSPECIFIED_ERROR, "a packet took too long to come", reason="packet_timeout")
            elif not self._pause and 0 < self._keep_alive_s < now_s - self.heard_s:
                self.end(ReasonCode.KEEP_ALIVE_TIMEOUT, "said nothing for 1.5 times its keep alive")
        elif (self.state is State.CLOSING and since_s > LINGER_S) or (self.state is State.ENDING and since_s > DRAIN_S):
            self.abort()

    def drop(self, reason: str, sentence: str) -> None:
        """Hang up without a word to the client; counted."""
        self._refuse(reason, sentence)
        self.abort()

    def end(self, code: ReasonCode, sentence: str = "", *, reason: str = "") -> None:
        """Stop reading, acknowledge what was taken, say why, hang up. Counted, if there is a sentence."""
        if self.state not in {State.NEW, State.OPEN}:
            return
        if sentence:
            self._refuse(reason or code.name.lower(), sentence)
        if self.state is State.OPEN:
            self._last_words = disconnect_bytes(version=self._version, code=code)
        self._flush_replies()
        self._leave(with_will=True)
        self._set_state(State.ENDING)
        self.pause(Pause.ENDING)
        self.settle()

    # What the intake calls.

    def settle(self) -> None:
        """Write the answers that are due, from the oldest on; one write for all of them."""
        answers: list[bytes] = []
        receipts = self._receipts
        has_ids = False
        while receipts and receipts[0].is_kept:
            receipt = receipts.popleft()
            answers.append(receipt.answers)
            self._bytes_in_flight -= receipt.bytes_held
            self._window.answered(receipt.unacknowledged, now_s=self._hub.now_s())
            if receipt.exactly_once:
                self._hub.remember(receipt, of=self)
                has_ids = True
        if answers:
            self.write(b"".join(answers))
            self.resume(Pause.REST)
        if self._pause & Pause.OWN and self._bytes_in_flight <= self._limits.in_flight_bytes_max * RESUME_AT:
            self.resume(Pause.OWN)
        if self.state is State.ENDING and not receipts:
            self._hang_up()
        if has_ids:
            self._weigh_kept()

    def fail(self) -> None:
        """Hang up without answering: the messages were not kept, so the client must send them again."""
        for receipt in self._receipts:
            if receipt.session is not None and not receipt.is_kept:
                self._hub.lose(receipt)
        self._receipts.clear()
        self.abort()

    # Reading.

    def _read(self, data: bytes) -> None:
        mistake: ProtocolError | None = None
        try:
            items = self._scanner.feed(data)
        except ProtocolError as error:
            items, mistake = error.before, error
        try:
            for item in items:
                if isinstance(item, Publishes):
                    self._take_publishes(item)
                elif self.state is State.NEW:
                    self._take_connect(item)
                else:
                    self._take_packet(item)
                if self.state is not State.OPEN:
                    return
        except ProtocolError as error:
            mistake = error
        if mistake is not None:
            self.end(mistake.code, str(mistake))

    def _take_publishes(self, publishes: Publishes) -> None:
        """Hand in what is allowed. The first branch is the whole of a busy gateway's day."""
        assert self._grant is not None
        count = len(publishes)
        qos = publishes.qos
        of_qos_1 = qos.count(1)
        if (of_qos_1 == count or qos.count(0) == count) and self._grant.knows_all(publishes.topics):
            answers = puback_bytes(publishes.packet_ids, self._version) if of_qos_1 else b""
            self._hand_in(publishes.topics, publishes.payloads, answers, unacknowledged=of_qos_1, lost=publishes.lost)
        else:
            self._sort_out(publishes)
        if self._version == VERSION_5 and self._session is not None:
            # Kept QoS 2 messages count until they are released.
            waiting = self._window.waiting + len(self._session.kept)
            if waiting > self._limits.receive_maximum:
                raise ProtocolError(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, f"{waiting} messages without an answer")
            self._weigh_kept()

    def _sort_out(self, publishes: Publishes) -> None:
        """Hand in what may be, answer what may not."""
        assert self._grant is not None
        assert self._session is not None
        sorted_out = sort_out(publishes, grant=self._grant, session=self._session, version=self._version)
        self._talk += len(publishes) - len(sorted_out.topics)
        for topic in sorted_out.forbidden:
            self._refuse("not_authorized", f'may not publish to "{topic.decode(errors="replace")}"')
        self._hand_in(
            sorted_out.topics,
            sorted_out.payloads,
            b"".join(sorted_out.answers),
            unacknowledged=sorted_out.unacknowledged,
            lost=sorted_out.lost,
            exactly_once=tuple(sorted_out.exactly_once),
        )
        if sorted_out.must_hang_up:
            self.end(ReasonCode.NOT_AUTHORIZED)

    def _hand_in(
        self,
        topics: list[bytes],
        payloads: list[bytes],
        answers: bytes,
        *,
        unacknowledged: int,
        lost: list[Lost],
        exactly_once: tuple[bytes, ...] = (),
    ) -> None:
        for one in lost:
            self._refuse(one.reason, lost_words(one, topics))
        count = len(payloads)
        size, self._bytes_fresh = self._bytes_fresh + MESSAGE_BYTES * count + RECEIPT_BYTES, 0
        size += EXACTLY_ONCE_BYTES * len(exactly_once)
        receipt = Receipt(
            self,
            answers,
            messages=count,
            unacknowledged=unacknowledged,
            bytes_held=size,
            session=self._session,
            exactly_once=exactly_once,
            is_kept=not count,
            user=self._grant.name if self._grant is not None else ANONYMOUS,
        )
        self._receipts.append(receipt)
        self._bytes_in_flight += size
        receipt.is_last = bool(unacknowledged) and self._window.came(unacknowledged, now_s=self._hub.now_s())
        if count:
            self._hub.intake.put(receipt, topics, payloads, lost=lost)
        else:
            self.settle()
        if self._bytes_in_flight >= self._limits.in_flight_bytes_max:
            self.pause(Pause.OWN)

    def _take_packet(self, packet: Packet) -> None:
        """Answer what is not a PUBLISH."""
        assert self._session is not None
        if packet.type is PacketType.DISCONNECT:
            self._take_disconnect(packet)
            return
        kept = self._session.kept
        before = len(kept)
        self._replies.append(reply(packet, kept=kept, version=self._version))
        if len(kept) < before:
            self._weigh_kept()
        else:
            # A PUBREL that releases a message is the other half of a PUBLISH; all else is talk.
            self._talk += 1 + len(packet.body) // TALK_BYTES
        if packet.type is PacketType.SUBSCRIBE:
            # Who insists keeps the connection: many devices subscribe to a command topic beside publishing.
            self._refuse("subscribe", "subscribes; this server takes in and sends nothing")

    def _take_disconnect(self, packet: Packet) -> None:
        code, expiry_s = read_disconnect(packet.body, self._version)
        session = self._session
        assert session is not None
        if expiry_s is not None:
            if expiry_s and not session.expiry_s:
                raise protocol_error("a DISCONNECT that prolongs a session which ends now")
            session.expiry_s = min(expiry_s, self._limits.session_expiry_s_max)
        # Every other code says that it has to leave, and not that it wants to (section 3.14.4).
        self._leave(with_will=code != ReasonCode.SUCCESS)
        self._flush_replies()
        self._set_state(State.ENDING)
        self.pause(Pause.ENDING)
        self.settle()

    # Beginning and ending.

    def _take_connect(self, packet: Packet) -> None:
        if packet.type is not PacketType.CONNECT:
            raise protocol_error(f"a {packet.type.name} before CONNECT")
        hub = self._hub
        try:
            connect = read_connect(packet.body, topic_bytes_max=self._limits.topic_bytes_max)
        except ProtocolError as error:
            self._last_words = connack_bytes(version=connect_version(packet.body), code=error.code)
            raise
        assert self._transport is not None
        self._version = connect.version
        answer = decide(
            connect,
            limits=self._limits,
            authenticator=hub.authenticator,
            attempts=hub.attempts,
            address=self.address,
            peer_names=certificate_names(self._transport.get_extra_info("peercert")),
            now_s=hub.now_s(),
        )
        if isinstance(answer, Refusal):
            self._turn_away(answer)
            return
        self._grant = answer.grant
        if not hub.has_place(answer.session_key, self.owner):
            self._turn_away(no_place(answer, address=self.address, limits=self._limits))
            return
        session, is_resumed = hub.open_session(self, answer.session_key, connect)
        self._session, self._will = session, connect.will
        self._name = f"{answer.client_id.decode()!r} of {answer.grant.name or 'anyone'} at {self.address}"
        self._keep_alive_s = answer.keep_alive_s * KEEP_ALIVE_FACTOR
        self._scanner.version = connect.version
        self._scanner.packet_bytes_max = self._limits.packet_bytes_max
        # A client of MQTT 5 is told how large a packet may be, and has to go for a larger one (section 3.2.2.3.6).
        self._scanner.skips_oversize = connect.version != VERSION_5
        self._scanner.topic_alias_max = hub.topic_alias_max
        self._set_state(State.OPEN)
        if hub.is_pressed:
            self.pause(Pause.SHARED)
        # At once: nothing may come before it.
        self.write(
            welcome_bytes(
                connect,
                answer,
                limits=self._limits,
                topic_alias_max=self._scanner.topic_alias_max,
                session_present=is_resumed,
                session_expiry_s=session.expiry_s,
            )
        )
        self._weigh_kept()
        self._read(b"")

    def _turn_away(self, refusal: Refusal) -> None:
        self._hub.refuse(refusal.reason, refusal.sentence)
        self._last_words = connack_bytes(version=self._version, code=refusal.code)
        self._set_state(State.REFUSED)
        self.pause(Pause.ENDING)
        if refusal.delay_s:
            loop = asyncio.get_running_loop()
            self._answer_timer = loop.call_later(refusal.delay_s, self._answer_late, refusal.username)
        else:
            self._hang_up()

    def _answer_late(self, username: str) -> None:
        self._answer_timer = None
        self._hub.attempts.answered(self.address, username)
        if self.state is State.REFUSED:
            self._hang_up()

    def _weigh_kept(self) -> None:
        """Say what is kept for this client, where that has changed; it may have to go for it."""
        if self.state is not State.OPEN or self._session is None:
            return
        kept = self._scanner.aliases_bytes + self._session.kept.size_bytes
        kept += will_size(self._will) if self._will is not None else 0
        if kept != self._bytes_kept:
            self._bytes_kept = kept
            self._hub.weigh_kept(self, kept)

    def _leave(self, *, with_will: bool) -> None:
        """Part with the session, once."""
        session, will = self._session, self._will
        if session is None:
            return
        self._session = self._will = None
        self._hub.close_session(self, session, will if with_will else None)

    def _hang_up(self) -> None:
        """Say the last words and close; reading on until the client closes keeps a RST from eating them."""
        if self._last_words:
            self.write(self._last_words)
        self._set_state(State.CLOSING)
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._has_peer_hung_up or not transport.can_write_eof() or transport.get_write_buffer_size():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # reset meanwhile
            transport.abort()
            return
        if self._pause:
            self._pause = Pause.NONE
            transport.resume_reading()

    def abort(self) -> None:
        """Hang up now; what is not sent is lost."""
        self._hub.place(self, State.CLOSED)
        if self._transport is not None:
            self._transport.abort()

    def _set_state(self, state: State) -> None:
        self._hub.place(self, state)
        if state is not State.OPEN:
            self._scanner.close()
            self._hub.partials.weigh(self, 0)
            self._hub.kept.weigh(self, 0)
        self.state = state
        self._since_s = self._hub.now_s()

    def _refuse(self, reason: str, sentence: str) -> None:
        self._hub.refuse(reason, f"{self._name or self.address}: {sentence}")

    def _flush_replies(self) -> None:
        if self._replies:
            self.write(b"".join(self._replies))
            self._replies.clear()
