"""Settings of the gateway's own MQTT server, and its side of TLS. Must not listen or let anybody in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from gateway.codecs.mapping_settings import TOPIC_BYTES_MAX
from gateway.codecs.routes import owner_name
from gateway.core.checks import Checked, Problem, check, parts
from gateway.core.units import Duration, Size
from gateway.net.addresses import is_loopback, split_address
from gateway.net.mqtt import PACKET_BYTES_MIN
from gateway.sources.mqtt_server_auth import ANONYMOUS, MqttCertificate, MqttUser, wrong_patterns
from gateway.sources.server_tls import ServerTls, server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

# Where nothing else is said.
CONNECTIONS_MAX: Final = 1000


class MqttServerSettings(
    Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="mqtt_server"
):
    """Devices publish straight to the gateway; a PUBACK says that the message is on disk."""

    name: Annotated[str, Meta(description="What this source is called in status and in the quarantine.", min_length=1)]
    listen: Annotated[
        str, Meta(description="Address and port; beyond loopback users or certificates must be named.")
    ] = "127.0.0.1:1884"
    users: Annotated[tuple[MqttUser, ...], Meta(description="Who may publish, by name and password.")] = ()
    tls: Annotated[ServerTls | None, Meta(description="TLS; without it passwords travel in the clear.")] = None
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
        Annotated[int, Meta(ge=1, le=65536)] | None,
        Meta(
            description="Connections at a time; a few more may be saying who they are. If not given 1000, over TLS as "
            "many of them as fit into a quarter of the board's memory: on the smallest board 273."
        ),
    ] = None
    connect_timeout: Annotated[Duration, Meta(description="How long a new connection may take to say who it is.")] = (
        Duration(10)
    )
    keep_alive_max: Annotated[
        Duration, Meta(description="Longest keep alive of MQTT 5 clients, and that of those which name none.")
    ] = Duration(3600)
    packet_bytes_max: Annotated[
        Size,
        Meta(
            description="Largest packet. A larger message of an MQTT 3.1.1 client is read past, acknowledged, and "
            "counted in the ledger as oversize. Clients of MQTT 5 are told the limit, and disconnected "
            "if they exceed it."
        ),
    ] = Size(256 * 1024)
    topic_bytes_max: Annotated[
        int,
        Meta(
            description="Longest topic in bytes. A message with a longer one is acknowledged and counted in the "
            "ledger as bad_topic.",
            ge=1,
            le=TOPIC_BYTES_MAX,
        ),
    ] = TOPIC_BYTES_MAX
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
    ] = Duration(0.25)
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


def tls_context(settings: MqttServerSettings) -> ssl.SSLContext:
    """Build the context; raise ValueError that names the file."""
    assert settings.tls is not None
    # Where there are other ways in, a certificate is welcome and not asked for.
    only_certificates = bool(settings.certificates) and not settings.users and not settings.lets_anyone_in
    return server_context(settings.tls, only_certificates=only_certificates)
