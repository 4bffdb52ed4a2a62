"""The gateway's own MQTT server: devices publish straight to it, no broker needed. Takes in, routes nothing.

It speaks MQTT 3.1.1 and 5.0. A PUBACK or PUBREC leaves when the message is on disk. Here the server listens,
looks at the clock for all connections, and stops. Beside it, each as `mqtt_server_…`: what one `connection`
does, what it `replies`, what a `session` remembers, who may publish what (`auth`, `admission`), and how
messages reach the gateway's door (`intake`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from gateway.codecs.routes import owner_name
from gateway.core.checks import Checked, Problem, check, parts
from gateway.core.units import Duration, Size
from gateway.net.addresses import is_loopback, split_address
from gateway.net.mqtt import PACKET_BYTES_MIN
from gateway.net.mqtt_fields import ReasonCode
from gateway.sources.mqtt_server_admission import Limits
from gateway.sources.mqtt_server_auth import (
    ANONYMOUS,
    Attempts,
    Doorkeeper,
    MqttCertificate,
    MqttUser,
    wrong_patterns,
)
from gateway.sources.mqtt_server_connection import Connection
from gateway.sources.mqtt_server_hub import Hub
from gateway.sources.mqtt_server_intake import Intake
from gateway.sources.mqtt_server_line import Pause
from gateway.sources.mqtt_server_refusals import Refusals
from gateway.sources.mqtt_server_session import Session, Sessions

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from gateway.core.clock import Clock
    from gateway.core.contracts import Accept
    from gateway.core.telemetry import Telemetry

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
STOP_S_MAX: Final = 5.0
BACKLOG: Final = 256
# No descriptors or memory left: accept nothing for so long.
ACCEPT_PAUSE_S: Final = 1.0
# Aliases spare a device on a metered link its topic; each is a topic's length of memory.
TOPIC_ALIAS_MAX: Final = 16
# What asyncio keeps ready for each TLS connection to read into, from its first byte on: a TLS record, and not sixteen.
TLS_READ_BYTES: Final = 16 * 1024
# How much of the bytes in flight may be packets that have begun and not ended.
PARTIAL_SHARE: Final = 4
# How many of the connections may be ones that have not said who they are.
CONNECTING_SHARE: Final = 4
CONNECTING_MIN: Final = 16
# How many wills may be on their way to the disk, however few connections there may be.
WILLS_MIN: Final = 64
# The kernel finds peers that are gone without a word, where MQTT's keep alive is off.
TCP_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class MqttTls(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The server's own certificate, and whose clients' certificates it believes."""

    cert_file: Annotated[str, Meta(description="The server's certificate and its chain, PEM.")]
    key_file: Annotated[str, Meta(description="Its private key, PEM.")]
    client_ca_file: Annotated[
        str,
        Meta(description="The authority whose client certificates are believed, PEM; without it none are."),
    ] = ""


class MqttServerSettings(
    Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="mqtt_server"
):
    """Devices publish straight to the gateway; a PUBACK says that the message is on disk."""

    name: Annotated[str, Meta(description="What this source is called in status and in the quarantine.")]
    listen: Annotated[
        str, Meta(description="Address and port; beyond loopback users or certificates must be named.")
    ] = "127.0.0.1:1884"
    users: Annotated[tuple[MqttUser, ...], Meta(description="Who may publish, by name and password.")] = ()
    tls: Annotated[MqttTls | None, Meta(description="TLS; without it passwords travel in the clear.")] = None
    certificates: Annotated[
        tuple[MqttCertificate, ...],
        Meta(description="Who may publish, by client certificate; needs tls.client_ca_file."),
    ] = ()
    anonymous: Annotated[
        bool | None,
        Meta(
            description="Whether clients without a name may publish; only on loopback. "
            "Without it: as long as neither users nor certificates are named."
        ),
    ] = None
    anonymous_topics: Annotated[
        tuple[str, ...], Meta(description="Topics that clients without a name may publish to.")
    ] = ("#",)
    connections_max: Annotated[
        int, Meta(description="Connections at a time; a few more may be saying who they are.", ge=1, le=65536)
    ] = 1000
    connect_timeout: Annotated[Duration, Meta(description="How long a new connection may take to say who it is.")] = (
        Duration(10)
    )
    keep_alive_max: Annotated[
        Duration, Meta(description="Longest keep alive of MQTT 5 clients, and that of those which name none.")
    ] = Duration(3600)
    packet_bytes_max: Annotated[Size, Meta(description="Largest packet.")] = Size(256 * 1024)
    topic_bytes_max: Annotated[int, Meta(description="Longest topic in bytes.", ge=1, le=65535)] = 1024
    receive_maximum: Annotated[
        int,
        Meta(
            description="Messages of one MQTT 5 client that may wait for their answer; many let one commit serve many.",
            ge=1,
            le=65535,
        ),
    ] = 65535
    in_flight_bytes_max: Annotated[
        Size,
        Meta(description="Bytes of one connection that may wait for the commit; past that it is not read."),
    ] = Size(4 * 1024 * 1024)
    in_flight_bytes_total: Annotated[
        Size,
        Meta(description="Bytes of all connections that may wait for the commit; past that none is read."),
    ] = Size(6 * 1024 * 1024)
    coalesce: Annotated[
        Duration,
        Meta(
            description="How long a connection that sends little at a time is let alone while it waits for a commit, "
            "so that fewer looks serve more messages: a quarter of that wait, at most this. Arrival times are that "
            "coarse; 0 looks at once."
        ),
    ] = Duration(0.2)
    sessions_max: Annotated[int, Meta(description="Sessions remembered, of clients that are gone too.", ge=1)] = 4000
    session_expiry_max: Annotated[
        Duration, Meta(description="Longest time that the session of a client that is gone is remembered.")
    ] = Duration(86400)

    @check("listen")
    def _listen_is_an_address(self) -> None:
        split_address(self.listen)

    @check("anonymous_topics")
    def _anonymous_topics_are_patterns(self) -> Iterator[Problem]:
        yield from wrong_patterns("anonymous_topics", self.anonymous_topics)

    @check("anonymous", "listen")
    def _is_not_open_to_everybody(self) -> None:
        if self.anonymous and not is_loopback(split_address(self.listen)[0]):
            raise ValueError(
                f"anonymous clients are let in on loopback only, and listen is {self.listen}; "
                "name users or certificates, or listen on 127.0.0.1"
            )

    @check("listen", "anonymous", "users", "certificates")
    def _knows_who_may_come(self) -> None:
        if not self.users and not self.certificates and not is_loopback(split_address(self.listen)[0]):
            raise ValueError(
                f"is {self.listen}, which other machines reach: name users or certificates, or listen on 127.0.0.1"
            )

    @check("certificates", "tls")
    def _certificates_can_be_believed(self) -> None:
        if self.certificates and (self.tls is None or not self.tls.client_ca_file):
            raise ValueError("certificates need tls.client_ca_file, the authority that signed them")

    @check("users")
    def _users_differ(self) -> Iterator[str]:
        for name, count in Counter(user.name for _, user in parts(self.users, "name")).items():
            if count > 1:
                yield f"user {name!r} is named twice"

    @check("certificates")
    def _certificates_differ(self) -> Iterator[str]:
        for name, count in Counter(one.common_name for _, one in parts(self.certificates, "common_name")).items():
            if count > 1:
                yield f"certificate {name!r} is named twice"

    @check("packet_bytes_max", "in_flight_bytes_max")
    def _packets_have_room(self) -> None:
        if self.packet_bytes_max < PACKET_BYTES_MIN or self.packet_bytes_max > self.in_flight_bytes_max:
            raise ValueError(f"is {PACKET_BYTES_MIN} bytes or more and at most in_flight_bytes_max")

    @property
    def owners(self) -> tuple[str, ...]:
        """Who shares what is scarce: every user and certificate by itself, all without a name together."""
        names = [user.name for user in self.users] + [entry.common_name for entry in self.certificates]
        names += [ANONYMOUS] if self.lets_anyone_in else []
        return tuple(dict.fromkeys(owner_name(self.name, name) for name in names))

    @property
    def lets_anyone_in(self) -> bool:
        """Whether clients without a name may publish."""
        if self.anonymous is not None:
            return self.anonymous
        return not self.users and not self.certificates


class MqttServerSource:
    """The server. `run` listens until it is cancelled; `address` says where, once `listening` is set."""

    def __init__(self, settings: MqttServerSettings, *, accept: Accept, clock: Clock, telemetry: Telemetry) -> None:
        self.name = settings.name
        self.listening = asyncio.Event()
        self.address: tuple[str, int] = ("", 0)
        self._settings = settings
        self._telemetry = telemetry
        self._state = "stopped"
        self._refusals = Refusals(settings.name, telemetry=telemetry, now_s=lambda: asyncio.get_running_loop().time())
        self._refuse = self._refusals.note
        self._last_error = ""
        self._tls = None if settings.tls is None else _tls_context(settings)
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
            doorkeeper=Doorkeeper(
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
        tasks = [
            asyncio.create_task(self._accept_from(listener), name=f"{self.name}: accept") for listener in listeners
        ]
        self.listening.set()
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._tick()
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            self.listening.clear()
            self._state = "stopping"
            for listener, task in zip(listeners, tasks, strict=True):
                # First: asyncio stumbles over who comes in the moment between the end of its waiting and this.
                asyncio.get_running_loop().remove_reader(listener)
                listener.close()
                task.cancel()
            await asyncio.wait(tasks)
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
        host, port = split_address(self._settings.listen)
        loop = asyncio.get_running_loop()
        listeners: list[socket.socket] = []
        try:
            # As bytes, where that will do: Python's tables for international names are half a megabyte.
            name = host.encode() if host.isascii() else host
            found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(found):
                listener = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=False)
                listener.setblocking(False)
                listeners.append(listener)
        except OSError as error:
            for listener in listeners:
                listener.close()
            self._last_error = f"cannot listen on {self._settings.listen}: {error.strerror or error}"
            self._state = "failed"
            raise OSError(error.errno, self._last_error) from error
        self.address = listeners[0].getsockname()[:2]
        return listeners

    async def _accept_from(self, listener: socket.socket) -> None:
        """Take connections: our own loop, since bounds want to be looked at before TLS begins."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, peer = await loop.sock_accept(listener)
            except OSError as error:
                # A client that is gone again is its own affair; no descriptors left is ours.
                if error.errno in _OUT_OF_RESOURCES:
                    self._refuse("out_of_resources", f"cannot take connections: {error.strerror}")
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            await self._admit(connected, str(peer[0]))

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
        connections_max = self._settings.connections_max
        count = len(hub.connections) + len(self._welcoming)
        if count >= connections_max and hub.closing:
            next(iter(hub.closing)).abort()
            count -= 1
        strangers = len(hub.connecting) + len(hub.refused) + len(self._welcoming)
        share = connections_max // CONNECTING_SHARE if count < connections_max else 0
        if strangers < max(CONNECTING_MIN, share) and count < connections_max + CONNECTING_MIN:
            return True
        if hub.refused:
            next(iter(hub.refused)).drop("connecting_max", "made room for a newer connection")
        elif hub.connecting and not (self._tls and self._welcoming):
            next(iter(hub.connecting)).drop("connecting_max", "made room for a newer connection")
        elif self._welcoming:
            oldest = next(iter(self._welcoming))
            del self._welcoming[oldest]
            oldest.cancel()
            self._refuse("connecting_max", "made room for a newer connection in TLS")
        else:
            return False
        return True

    async def _welcome(self, connected: socket.socket, address: str) -> None:
        is_handed_over = False
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in TCP_KEEPALIVE:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)
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
        self._telemetry.gauge(
            "tidegate_source_connections", len(hub.connections), help="Open connections.", source=self.name
        )

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
            async with asyncio.timeout(wait_s):
                if self._hub.connections:
                    await self._hub.all_gone.wait()


def _limits(settings: MqttServerSettings) -> Limits:
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
        wills_max=max(settings.connections_max, WILLS_MIN),
        connections_max=settings.connections_max,
    )


def _tls_context(settings: MqttServerSettings) -> ssl.SSLContext:
    """Build the context; raise ValueError that names the file."""
    import ssl  # noqa: PLC0415  only where it is used: net/tls.py
    from asyncio.sslproto import SSLProtocol  # noqa: PLC0415  another one where ssl came later: net/tls.py

    # No public name, and all of asyncio's TLS reads by it. Without it three hundred strangers who begin a handshake
    # take 60 MB: the buffer is filled with zeros when it is made.
    if hasattr(SSLProtocol, "max_size"):
        SSLProtocol.max_size = TLS_READ_BYTES
    tls = settings.tls
    assert tls is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = [tls.cert_file, tls.key_file, *filter(None, [tls.client_ca_file])]
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"tls: there is no file {name}")
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file:
            context.load_verify_locations(tls.client_ca_file)
    except OSError as error:
        raise ValueError(f"tls: cannot use {', '.join(files)}: {getattr(error, 'reason', None) or error}") from error
    if tls.client_ca_file:
        # Where there are other ways in, a certificate is welcome and not asked for.
        only_certificates = bool(settings.certificates) and not settings.users and not settings.lets_anyone_in
        context.verify_mode = ssl.CERT_REQUIRED if only_certificates else ssl.CERT_OPTIONAL
    return context
