"""A subscriber: takes what a broker has and acknowledges it when it is on disk. Must not read payloads.

    broker → Link (bulk reads) → Arrivals → Intake → accept → PUBACK / PUBREC on the connection it came by

The session is persistent: what is not acknowledged, the broker delivers again, to the next connection. So an
answer is only ever sent on the connection that delivered; what was kept meanwhile comes a second time, which
QoS 2 notices (`ReceivedOnce`) and QoS 1 by its nature does not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

from gateway.core.contracts import Arrivals
from gateway.core.text import sentence as one_line
from gateway.net.interfaces import NetworkWait
from gateway.net.mqtt import Publishes, puback_bytes
from gateway.net.mqtt_address import parse_url
from gateway.net.mqtt_fields import VERSION_3_1_1, VERSION_5, PacketType, ReasonCode
from gateway.net.mqtt_packets import answer_bytes
from gateway.net.paho_client import BulkClient, connect_properties
from gateway.net.tls import is_tls_error
from gateway.sources.mqtt_intake import Intake, Receipt, ReceivedOnce
from gateway.sources.mqtt_link import Link, LinkClosed, dial
from gateway.sources.mqtt_settings import (
    MqttSettings,
    MqttTlsSettings,
    TopicSettings,
    subscriptions,
    tls_context,
)
from gateway.sources.mqtt_subscriptions import Subscriptions
from gateway.sources.mqtt_words import (
    NEEDS_A_PERSON,
    REFUSED_QOS,
    Refused,
    Unsupported,
    granted_text,
    sentence,
    tls_trouble,
    window_advice,
)
from gateway.sources.refusals import Refusals, lost_words
from gateway.sources.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.properties import Properties

    from gateway.core.clock import Clock
    from gateway.core.contracts import Accept
    from gateway.core.telemetry import Telemetry

__all__ = ["MqttSettings", "MqttSource", "MqttTlsSettings", "TopicSettings"]

log = logging.getLogger("tidegate.mqtt")

STOP_S: Final = 5.0
CLOSE_S: Final = 1.0
# What a message costs in memory beside its bytes: three objects and their places in lists.
OVERHEAD_BYTES: Final = 128
SUBSCRIBE_RETRY_S: Final = 60.0
# A connection that lasted this long was a good one: the next wait is the first again.
GOOD_S: Final = 30.0
# Without a CONNACK after this many tries, perhaps the broker drops what it does not know: try 3.1.1.
SILENT_DROPS_MAX: Final = 2
# One that has answered in MQTT 5 knows it: it is restarting, or what stands before it has lost it. Only where that
# goes on, for a quarter of an hour at the longest waits, it may have been replaced by an older one.
KNOWN_DROPS_MAX: Final = 20


class MqttSource:
    """One subscription. `run` connects, again and again, until it is cancelled."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        gateway_id: str,
        accept: Accept,
        clock: Clock,
        telemetry: Telemetry,
        state_dir: Path | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self.name = settings.name
        self.client_id = settings.client_id or f"tidegate-{gateway_id}-{settings.name}"
        self._settings = settings
        self._address = parse_url(settings.url)
        broker = f"{self._address.host}:{self._address.port}"
        self._subscriptions = Subscriptions(
            None if settings.clean else state_dir, broker=broker, client_id=self.client_id
        )
        self._accept = accept
        self._clock = clock
        self._telemetry = telemetry
        self._dice = dice or random.Random()  # noqa: S311  jitter, not a secret
        self._version = VERSION_5 if settings.protocol == "5" else VERSION_3_1_1
        self._once = ReceivedOnce()
        self._intake: Intake | None = None
        self._link: Link | None = None
        self._window = Window(now_s=0.0)
        self._said_window = 0
        self._advice = ""
        self._refusals = Refusals(
            self.name, telemetry=telemetry, now_s=lambda: asyncio.get_running_loop().time(), log=log
        )
        self._state = "stopped"
        self._last_error = ""
        self._network = NetworkWait()
        self._silent_drops = 0
        self._has_answered = False  # in the version that is spoken now
        self._session_present = False
        self._granted: dict[str, int] = {}
        self._received = 0
        self._acknowledged = 0
        self._again = 0
        self._connects = 0

    def network_up(self) -> None:
        """Take note that this box may have a network again: who waits for one tries now."""
        self._network.end()

    def status(self) -> dict[str, object]:
        """Say how it is. `received`, `acknowledged` and `pending` count messages."""
        intake, link = self._intake, self._link
        return {
            "state": self._state,
            "url": self._settings.url,
            "client_id": self.client_id,
            "protocol": "5" if self._version == VERSION_5 else "3.1.1",
            "session_present": self._session_present,
            "connects": self._connects,
            "sessions_lost": self._subscriptions.sessions_lost,
            "received": self._received,
            "acknowledged": self._acknowledged,
            "delivered_again": self._again,
            "unacknowledged": self._window.waiting,
            "window": self._window.size,
            "advice": self._advice,
            "bytes_pending": intake.bytes_pending if intake is not None else 0,
            "messages_held": intake.messages_held if intake is not None else 0,
            "held_back": intake is not None and link is not None and intake.is_full,
            "topics": {topic: granted_text(self._granted.get(topic)) for topic, _ in subscriptions(self._settings)},
            **self._refusals.status(),
            "last_error": self._last_error,
        }

    async def run(self) -> None:
        """Serve until cancelled; then let what is under way be kept and acknowledged, at most STOP_S."""
        settings = self._settings
        intake = self._intake = Intake(
            accept=self._accept, bytes_max=settings.buffer_max, on_change=self._hold_or_go_on
        )
        wait_s = float(settings.reconnect_min)
        try:
            while True:
                started_s = asyncio.get_running_loop().time()
                is_final = await self._serve_once(intake)
                if intake.failure.done():
                    intake.failure.result()
                if asyncio.get_running_loop().time() - started_s > GOOD_S:
                    wait_s = float(settings.reconnect_min)
                if is_final:
                    wait_s = float(settings.reconnect_max)
                # Half of it by chance, so that a broker's return is not answered by a whole fleet at once.
                pause_s = wait_s * (0.5 + self._dice.random() / 2)
                await (asyncio.sleep(pause_s) if is_final else self._network.sleep(pause_s))
                wait_s = min(wait_s * 2, float(settings.reconnect_max))
        finally:
            self._state = "stopping"
            await self._stop(intake)
            self._state = "stopped"

    async def _stop(self, intake: Intake) -> None:
        link = self._link
        if link is not None:
            link.pause()
        if not await intake.drain(within_s=STOP_S):
            log.warning("%s: not everything was kept within %.0f s; the broker delivers it again", self.name, STOP_S)
        if intake.lost:
            log.warning("%s: %d messages found no room before the stop: they are lost", self.name, intake.lost)
            await intake.give_up(source=self.name, now_ns=self._clock.monotonic_ns())
        if link is not None:
            await link.close(within_s=CLOSE_S)
            self._link = None

    async def _serve_once(self, intake: Intake) -> bool:
        """Connect and serve until that connection ends; return whether a person has to mend something."""
        self._state = "connecting"
        try:
            link = await self._connect(intake)
            await self._serve(link, intake)
        except Refused as error:
            self._failed("refused", str(error))
            log.error("%s: %s; trying again slowly", self.name, self._last_error)  # noqa: TRY400  the sentence is enough
            return True
        except Unsupported:
            self._fall_back(f"{self._settings.url} does not know MQTT 5")
        except (LinkClosed, OSError, TimeoutError) as error:
            self._failed("disconnected", sentence(error, broker=f"{self._address.host}:{self._address.port}"))
            log.warning("%s: %s", self.name, self._last_error)
        return False

    async def _connect(self, intake: Intake) -> Link:
        """Return a link that the broker has accepted."""
        settings, address = self._settings, self._address
        client = self._make_client()
        try:
            await dial(
                client, address.host, address.port, keepalive_s=round(settings.keepalive), properties=self._properties()
            )
        except OSError as error:
            if not is_tls_error(error):
                raise
            raise tls_trouble(error) from error
        link: Link
        self._window, self._advice = Window(now_s=asyncio.get_running_loop().time()), ""

        def on_publishes(publishes: Publishes, arrived_ns: int, size_bytes: int) -> None:
            self._take(link, intake, publishes, arrived_ns, size_bytes)

        def on_release(packet_id: bytes) -> None:
            self._once.release(packet_id)
            link.send(answer_bytes(PacketType.PUBCOMP, packet_id))

        link = Link(
            client=client,
            packet_bytes_max=settings.packet_max,
            clock=self._clock,
            on_publishes=on_publishes,
            on_release=on_release,
            on_connected=self._on_connected,
        )
        self._link = link
        link.open()
        answers: set[asyncio.Future[Any]] = {link.connected, link.ended}
        try:
            await asyncio.wait(
                answers,
                timeout=settings.connect_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._check_connack(link)
        except (LinkClosed, Refused, Unsupported, TimeoutError):
            link.drop("refused")
            self._link = None
            raise
        self._hold_or_go_on()
        return link

    def _on_connected(self, session_present: bool, code: int) -> None:  # noqa: FBT001  as the protocol has it
        """Note the CONNACK before anything that stands behind it in the same buffer."""
        if code == 0:
            self._session_present = session_present
            if not session_present:
                self._once.forget()

    def _check_connack(self, link: Link) -> None:
        if not link.connected.done():
            if not link.ended.done():
                raise TimeoutError("the broker accepted the connection and said nothing")
            if is_tls_error(link.client.error):
                raise tls_trouble(link.client.error)
            self._silent_drops += 1
            drops_max = KNOWN_DROPS_MAX if self._has_answered else SILENT_DROPS_MAX
            if self._may_fall_back and self._silent_drops >= drops_max:
                raise Unsupported
            hint = ""
            if self._address.is_tls and not self._settings.tls.cert_file:
                # Its alert may be lost when the connection is reset behind it.
                hint = "; does it ask for a client certificate (tls.cert_file)?"
            raise LinkClosed(f"{link.ended.result()}, before it answered{hint}")
        self._silent_drops = 0
        code, text = link.connected.result()
        if code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION and self._may_fall_back:
            raise Unsupported
        self._has_answered = True
        if code in NEEDS_A_PERSON:
            raise Refused(f"the broker refuses {self.client_id}: {text.lower()}")
        if code:
            raise LinkClosed(f"the broker refuses: {text.lower()}")

    async def _serve(self, link: Link, intake: Intake) -> None:
        """Subscribe, then wait for the end, asking again now and then for what was refused."""
        self._connects += 1
        self._telemetry.count("tidegate_mqtt_connects", source=self.name)
        wanted = subscriptions(self._settings)
        ends: set[asyncio.Future[Any]] = {link.ended, intake.failure}
        try:
            if not self._session_present:
                await self._subscriptions.forget(has_kept=any(qos for _, qos in wanted))
            await self._subscriptions.add([topic for topic, _ in wanted])
            wanted = await self._subscribe(link, wanted)
            # Only now: what a new filter lets through instead of an old one must not slip between the two.
            await self._let_go(link)
            while True:
                await asyncio.wait(
                    ends,
                    timeout=SUBSCRIBE_RETRY_S if wanted else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if intake.failure.done():
                    return
                link.check()
                wanted = await self._subscribe(link, wanted)
        except LinkClosed as error:
            link.drop(str(error))
            self._link = None
            raise

    async def _let_go(self, link: Link) -> None:
        """Unsubscribe what only an earlier configuration asked for; what the broker has queued of it still comes."""
        known = self._subscriptions
        wanted = [topic for topic, _ in subscriptions(self._settings)]
        surplus = known.surplus(wanted)
        if not surplus:
            return
        codes = await link.unsubscribe(surplus)
        gone = [topic for topic, code in zip(surplus, codes, strict=False) if code < REFUSED_QOS]
        await known.remove(gone)
        if gone:
            log.info("%s: no longer configured, unsubscribed: %s", self.name, ", ".join(gone))
        if left := known.surplus(wanted):
            log.warning("%s: the broker goes on sending %s, which it was told not to", self.name, ", ".join(left))

    async def _subscribe(self, link: Link, wanted: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Subscribe to `wanted`; return those the broker refused."""
        codes = await link.subscribe(wanted)
        refused = []
        for (topic, qos), code in zip(wanted, codes, strict=False):
            self._granted[topic] = code
            if code >= REFUSED_QOS:
                refused.append((topic, qos))
            elif code < qos:
                log.warning("%s: %s is delivered with QoS %d, not %d", self.name, topic, code, qos)
        if refused:
            topics = ", ".join(topic for topic, _ in refused)
            self._failed("subscription refused", f"the broker refuses the subscription to {topics}")
            log.error("%s: %s; asking again every %.0f s", self.name, self._last_error, SUBSCRIBE_RETRY_S)
            self._telemetry.count("tidegate_mqtt_subscriptions_refused", len(refused), source=self.name)
        else:
            self._state = "connected"
            log.info("%s: connected to %s", self.name, self._settings.url)
        return refused

    def _take(self, link: Link, intake: Intake, publishes: Publishes, arrived_ns: int, size_bytes: int) -> None:
        """Send one buffer's messages on their way; the answers follow when they are on disk."""
        count = len(publishes)
        self._received += count
        qos = publishes.qos
        acks = publishes.packet_ids
        receipts: list[Receipt] = []
        if qos.count(1) != count:
            acks = [packet_id for packet_id, level in zip(acks, qos, strict=True) if level == 1]
            if 2 in qos:
                publishes, receipts = self._drop_known(link, publishes, qos)

        window = self._window
        loop = asyncio.get_running_loop()
        answered = count - qos.count(0)

        def answer() -> None:
            for receipt in receipts:
                receipt.is_kept = True
            # On a later connection these ids mean other messages: the broker delivers those anew.
            if link.is_open:
                link.send(puback_bytes(acks, link.client.version) + _pubrecs(receipts))
                self._acknowledged += count
                window.answered(answered, now_s=loop.time())
                self._look_at(window)

        is_last = bool(answered) and window.came(answered, now_s=loop.time())
        if publishes.payloads:
            for one in publishes.lost:
                self._refusals.note(one.reason, lost_words(one, publishes.topics))
                self._last_error = self._refusals.last_sentence
            arrivals = Arrivals(
                self.name, publishes.topics, publishes.payloads, arrived_ns, lost=publishes.lost, is_last=is_last
            )
            arrivals.on_prepared = lambda took_s: link.portion.took(size_bytes, took_s)
            # QoS 0 is delivered once, and so is everything to a session that is forgotten.
            only_here = count if self._settings.clean else count - answered
            held_bytes = size_bytes + count * OVERHEAD_BYTES
            intake.offer(arrivals, size_bytes=held_bytes, answer=answer, only_here=only_here)
            self._hold_or_go_on()
        else:
            intake.follow(answer)

    def _look_at(self, window: Window) -> None:
        """Say it once for each size: who knows can mend it in a minute."""
        if not window.is_limiting:
            self._advice = ""
        elif not self._advice:
            self._advice = window_advice(
                window.size, version=self._version, receive_maximum=self._settings.receive_maximum
            )
            if window.size != self._said_window:
                self._said_window = window.size
                log.warning("%s: %s", self.name, self._advice)

    def _drop_known(self, link: Link, publishes: Publishes, qos: bytes) -> tuple[Publishes, list[Receipt]]:
        """Return the messages without the QoS 2 ones we have, and what to confirm after the commit.

        What is on disk already is confirmed at once, what is still on its way there with the rest.
        """
        fresh = Publishes()
        later: list[Receipt] = []
        at_once: list[Receipt] = []
        lost = {one.at: one for one in publishes.lost}
        rows = zip(publishes.topics, publishes.payloads, publishes.packet_ids, qos, strict=True)
        for at, (topic, payload, packet_id, level) in enumerate(rows):
            if level == 2:
                receipt, is_new = self._once.note(packet_id, topic, payload)
                (at_once if receipt.is_kept else later).append(receipt)
                if not is_new:
                    self._again += 1
                    continue
            if at in lost:
                fresh.lost.append(lost[at]._replace(at=len(fresh.topics)))
            fresh.topics.append(topic)
            fresh.payloads.append(payload)
        link.send(_pubrecs(at_once))
        return fresh, later

    def _hold_or_go_on(self) -> None:
        """Stop reading while the shelf or the memory is full, go on when there is room."""
        intake, link = self._intake, self._link
        if intake is None or link is None or not link.is_open:
            return
        if intake.is_full:
            # The CONNACK must be heard in any case: without it the broker would seem to be silent.
            if link.connected.done():
                link.pause()
        elif self._state != "stopping":
            link.resume()

    def _make_client(self) -> BulkClient:
        settings, address = self._settings, self._address
        try:
            password = settings.password.read() if settings.password is not None else ""
            tls = tls_context(settings.tls) if address.is_tls else None
        except ValueError as error:
            raise Refused(str(error)) from error
        client = BulkClient(
            client_id=self.client_id,
            version=self._version,
            transport="websockets" if address.is_websocket else "tcp",
            clean=settings.clean,
            tls=tls,
            timeout_s=float(settings.connect_timeout),
            username=settings.username,
            password=password,
        )
        if address.is_websocket:
            client.ws_set_options(path=address.path)
        return client

    def _properties(self) -> Properties | None:
        settings = self._settings
        if self._version != VERSION_5:
            return None
        return connect_properties(
            session_expiry_s=0 if settings.clean else round(settings.session_expiry),
            receive_maximum=settings.receive_maximum,
            # mosquitto's WebSocket brings 40 KB/s (2.0.11): what is too large would hold up all that is behind it.
            packet_bytes_max=settings.packet_max if self._address.is_websocket else None,
        )

    @property
    def _may_fall_back(self) -> bool:
        return self._version == VERSION_5

    def _fall_back(self, why: str) -> None:
        self._version = VERSION_3_1_1
        self._silent_drops = 0
        self._failed("disconnected", f"{why}; going on with 3.1.1")
        log.warning("%s: %s", self.name, self._last_error)

    def _failed(self, state: str, error: str) -> None:
        self._state = state
        self._last_error = one_line(error)
        self._telemetry.count("tidegate_mqtt_failures", source=self.name, state=state)


def _pubrecs(receipts: list[Receipt]) -> bytes:
    """Return one PUBREC for each receipt, in their order."""
    return b"".join([b"\x50\x02" + receipt.packet_id for receipt in receipts])
