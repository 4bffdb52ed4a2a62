"""The gateway's own MQTT server: devices publish straight to it, no broker needed. Takes in, routes nothing.

It speaks MQTT 3.1.1 and 5.0. A PUBACK or PUBREC leaves when the message is on disk. Here the server listens,
looks at the clock for all connections, and stops. Beside it, each as `mqtt_server_…`: what one `connection`
does, what it `replies`, what a `session` remembers, who may publish what (`settings`, `auth`, `admission`), and how
messages reach the gateway's door (`intake`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from gateway.core.timeouts import timeout
from gateway.net.listeners import listen, make_ready, start_accepting, stop_accepting
from gateway.net.mqtt_fields import ReasonCode
from gateway.sources.mqtt_server_admission import Limits
from gateway.sources.mqtt_server_auth import Attempts, Authenticator
from gateway.sources.mqtt_server_connection import CONNECT_BYTES_MAX, Connection
from gateway.sources.mqtt_server_hub import Hub
from gateway.sources.mqtt_server_intake import Intake
from gateway.sources.mqtt_server_line import WRITE_BYTES_MAX, Pause
from gateway.sources.mqtt_server_session import Session, Sessions
from gateway.sources.mqtt_server_settings import CONNECTIONS_MAX, tls_context
from gateway.sources.refusals import Refusals

if TYPE_CHECKING:
    import socket

    from gateway.core.clock import Clock
    from gateway.core.contracts import Accept
    from gateway.core.telemetry import Telemetry
    from gateway.sources.mqtt_server_settings import MqttServerSettings

log = logging.getLogger("tidegate.mqtt_server")

TICK_S: Final = 1.0
STOP_S_MAX: Final = 5.0
# Aliases spare a device on a metered link its topic; each is a topic's length of memory.
TOPIC_ALIAS_MAX: Final = 16
# How much of the bytes in flight may be packets that have begun and not ended.
PARTIAL_SHARE: Final = 4
# As much again for what connections keep while they are open: wills, topic aliases, ids of QoS 2.
KEPT_SHARE: Final = 4
# And half of that for answers which wait for those who do not read them.
UNREAD_SHARE: Final = 8
# How many of the connections may be ones that have not said who they are.
CONNECTING_SHARE: Final = 4
CONNECTING_MIN: Final = 16
# How many wills may be on their way to the disk, however few connections there may be.
WILLS_MIN: Final = 64


class MqttServerSource:
    """The server. `run` listens until it is cancelled; `address` says where, once `listening` is set."""

    def __init__(self, settings: MqttServerSettings, *, accept: Accept, clock: Clock, telemetry: Telemetry) -> None:
        self.name = settings.name
        self.listening = asyncio.Event()
        self.address: tuple[str, int] = ("", 0)
        self._settings = settings
        self._telemetry = telemetry
        self._state = "stopped"
        self._refusals = Refusals(
            settings.name,
            telemetry=telemetry,
            now_s=lambda: asyncio.get_running_loop().time(),
            log=logging.getLogger("tidegate.mqtt_server"),
        )
        self._refuse = self._refusals.note
        self._last_error = ""
        self._tls = None if settings.tls is None else tls_context(settings)
        self._welcoming: dict[asyncio.Task[None], None] = {}
        intake = Intake(
            source=settings.name,
            accept=accept,
            clock=clock,
            telemetry=telemetry,
            bytes_max=settings.in_flight_bytes_total,
            on_pressure=self._press,
        )
        self._intake = intake
        self._hub = Hub(
            limits=_limits(settings),
            intake=intake,
            sessions=Sessions(sessions_max=settings.sessions_max, on_evicted=self._end_evicted),
            authenticator=Authenticator(
                users=settings.users,
                certificates=settings.certificates,
                anonymous_topics=settings.anonymous_topics if settings.lets_anyone_in else None,
            ),
            attempts=Attempts(),
            refuse=self._refuse,
        )

    async def run(self) -> None:
        """Serve until cancelled; then acknowledge what was taken, within STOP_S_MAX, and close."""
        listeners = await self._listen()
        self._hub.is_stopping = False
        self._state = "listening"
        accepting = start_accepting(listeners, self._admit, self._lack, name=self.name)
        self.listening.set()
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._tick()
                for task in accepting.values():
                    if task.done():
                        task.result()
        finally:
            self.listening.clear()
            self._state = "stopping"
            await stop_accepting(accepting)
            await self._stop()
            self._state = "stopped"

    def status(self) -> dict[str, object]:
        """Return what people want to know of it."""
        intake = self._intake
        return {
            "state": "full" if intake.is_full and self._state == "listening" else self._state,
            "address": f"{self.address[0]}:{self.address[1]}" if self.address[1] else self._settings.listen,
            "tls": self._tls is not None,
            "clients": len(self._hub.by_session),
            "connections": len(self._hub.connections),
            "sessions": len(self._hub.sessions),
            "received": intake.received,
            "acknowledged": intake.acknowledged,
            "in_flight_bytes": intake.bytes_held,
            **self._refusals.status(),
            "last_error": self._last_words(),
        }

    def _last_words(self) -> str:
        if self._state == "failed" or not self._refusals.last_sentence:
            return self._last_error or self._intake.last_error
        return self._intake.last_error if self._intake.is_full else self._refusals.last_sentence

    # Beginning.

    async def _listen(self) -> list[socket.socket]:
        try:
            listeners = await listen(self._settings.listen)
        except OSError as error:
            self._state, self._last_error = "failed", str(error.strerror)
            raise
        self.address = listeners[0].getsockname()[:2]
        return listeners

    def _lack(self, what: str) -> None:
        self._refuse("out_of_resources", what)

    async def _admit(self, connected: socket.socket, address: str) -> None:
        if not self._make_room():
            connected.close()
            self._refuse("too_many_connections", f"too many connections that end; {address} was sent away")
            return
        if self._tls is None:
            await self._welcome(connected, address)
            return
        # A handshake takes as long as the client likes; others must not wait for it.
        task = asyncio.create_task(self._welcome(connected, address), name=f"{self.name}: TLS with {address}")
        self._welcoming[task] = None
        task.add_done_callback(lambda done: self._welcoming.pop(done, None))
        await asyncio.sleep(0)  # begun, it closes its socket however it ends

    def _make_room(self) -> bool:
        """Whether there is room for a stranger more; who is of least use has to make it.

        Those to whom all is said go first, then those that were nobody, then whoever has said nothing for longest.
        Who is known makes room for known ones only (`Hub.has_place`): a few strangers may be there beyond all places,
        to say who they are.
        """
        hub = self._hub
        connections_max = hub.limits.connections_max
        count = len(hub.connections) + len(self._welcoming)
        if count >= connections_max and hub.closing:
            next(iter(hub.closing)).abort()
            count -= 1
        strangers = len(hub.connecting) + len(hub.refused) + len(self._welcoming)
        share = connections_max // CONNECTING_SHARE if count < connections_max else 0
        if strangers < max(CONNECTING_MIN, share) and count < connections_max + CONNECTING_MIN:
            return True
        # One that is done has a connection by now, and cannot be called off any more.
        in_tls = [task for task in self._welcoming if not task.done()]
        if hub.refused:
            next(iter(hub.refused)).drop("connecting_max", "made room for a newer connection")
        elif hub.connecting and len(hub.connecting) >= len(in_tls):
            # Whoever goes no further than to the end of the handshake must not add up, nor push out those on their way.
            next(iter(hub.connecting)).drop("connecting_max", "made room for a newer connection")
        elif in_tls:
            oldest = in_tls[0]
            del self._welcoming[oldest]
            oldest.cancel()
            self._refuse("connecting_max", "made room for a newer connection in TLS")
        else:
            return False
        return True

    async def _welcome(self, connected: socket.socket, address: str) -> None:
        is_handed_over = False
        try:
            make_ready(connected)
            is_handed_over = True  # from here on a transport owns the socket and closes it
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self._hub, address=address),
                connected,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else float(self._settings.connect_timeout),
            )
        except OSError as error:
            reason = "connection_failed" if self._tls is None else "tls_failed"
            self._refuse(reason, f"{address}: {getattr(error, 'reason', None) or error}")
        finally:
            if not is_handed_over:
                connected.close()

    # Meanwhile.

    def _tick(self) -> None:
        hub = self._hub
        now_s = asyncio.get_running_loop().time()
        for connection in list(hub.connections):
            connection.tick(now_s)
        for session in hub.sessions.expire(now_s=now_s):
            hub.wake_will(session)
        self._telemetry.gauge("tidegate_source_connections", len(hub.connections), source=self.name)

    def _press(self, is_on: bool) -> None:  # noqa: FBT001  a callback with one meaning
        self._hub.is_pressed = is_on
        for connection in list(self._hub.connections) if is_on else self._hub.in_turn():
            # Those that have not said who they are cost nothing yet, and may.
            if is_on and connection not in self._hub.connecting:
                connection.pause(Pause.SHARED)
            elif not is_on:
                connection.resume(Pause.SHARED)

    def _end_evicted(self, session: Session) -> None:
        self._hub.wake_will(session)
        self._refuse("sessions_max", "more sessions than are remembered; one of whoever has most was forgotten")

    # Ending.

    async def _stop(self) -> None:
        """Read no more, acknowledge what was taken, say goodbye; bounded."""
        hub = self._hub
        hub.is_stopping = True
        hub.all_gone.clear()
        for task in list(self._welcoming):
            task.cancel()
        if self._welcoming:
            await asyncio.wait(self._welcoming)
        for session in hub.sessions.waiting_wills():
            hub.wake_will(session)
        for connection in list(hub.connections):
            connection.end(ReasonCode.SERVER_SHUTTING_DOWN)
        if not await self._intake.drain(timeout_s=STOP_S_MAX):
            log.warning("%s: stopped with messages that were not kept; they were not acknowledged", self.name)
        await self._until_closed(1.0)
        for connection in list(hub.connections):
            connection.abort()
        await self._until_closed(1.0)

    async def _until_closed(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with timeout(wait_s):
                if self._hub.connections:
                    await self._hub.all_gone.wait()


def _limits(settings: MqttServerSettings) -> Limits:
    connections_max = settings.connections_max or CONNECTIONS_MAX
    return Limits(
        packet_bytes_max=settings.packet_bytes_max,
        topic_bytes_max=settings.topic_bytes_max,
        topic_alias_max=TOPIC_ALIAS_MAX,
        receive_maximum=settings.receive_maximum,
        connect_timeout_s=float(settings.connect_timeout),
        coalesce_s=float(settings.coalesce),
        keep_alive_s_max=min(int(settings.keep_alive_max), 65535),
        session_expiry_s_max=min(int(settings.session_expiry_max), 0xFFFF_FFFE),
        in_flight_bytes_max=settings.in_flight_bytes_max,
        partial_bytes_max=max(settings.packet_bytes_max, settings.in_flight_bytes_total // PARTIAL_SHARE),
        # What one alone can keep must fit: a will as large as a CONNECT, and every alias.
        kept_bytes_max=max(
            2 * CONNECT_BYTES_MAX + TOPIC_ALIAS_MAX * settings.topic_bytes_max,
            settings.in_flight_bytes_total // KEPT_SHARE,
        ),
        unread_bytes_max=max(2 * WRITE_BYTES_MAX, settings.in_flight_bytes_total // UNREAD_SHARE),
        wills_max=max(connections_max, WILLS_MIN),
        connections_max=connections_max,
    )
