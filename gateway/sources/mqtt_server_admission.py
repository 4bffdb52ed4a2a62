"""What to answer a CONNECT: welcome, with what was agreed, or refusal and why. Decides and does no I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt import VERSION_5
from gateway.net.mqtt_fields import Property, ReasonCode
from gateway.net.mqtt_packets import connack_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.net.mqtt_fields import PropertyValue
    from gateway.net.mqtt_packets import Connect
    from gateway.sources.mqtt_server_auth import Attempts, Authenticator, Grant
    from gateway.sources.mqtt_server_session import SessionKey

# What 5.0 assumes where a CONNACK says nothing (section 3.2.2.3.3).
RECEIVE_MAXIMUM_DEFAULT: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection, in bytes and seconds; those of the server as a whole are elsewhere."""

    packet_bytes_max: int
    topic_bytes_max: int
    topic_alias_max: int
    receive_maximum: int
    connect_timeout_s: float
    keep_alive_s_max: int
    session_expiry_s_max: int
    in_flight_bytes_max: int
    partial_bytes_max: int
    kept_bytes_max: int
    unread_bytes_max: int
    wills_max: int
    connections_max: int
    coalesce_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why; said after `delay_s`. A delay of more than 0 wants `Attempts.answered` when it is over.

    `username` is whom the attempt counts for.
    """

    code: ReasonCode
    reason: str
    sentence: str
    delay_s: float = 0.0
    username: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Yes: who it is, under which client id, and how long it may be silent (0: for ever)."""

    grant: Grant
    client_id: bytes
    keep_alive_s: int

    @property
    def session_key(self) -> SessionKey:
        """Where its session is kept."""
        return self.grant.name, self.client_id


def decide(
    connect: Connect,
    *,
    limits: Limits,
    authenticator: Authenticator,
    attempts: Attempts,
    address: str,
    peer_names: Sequence[str],
    now_s: float,
) -> Welcome | Refusal:
    """Look at who it is first; nothing else is told to those who are nobody."""
    who = connect.username or "an unknown client"
    if connect.authentication_method is not None:
        return Refusal(
            ReasonCode.BAD_AUTHENTICATION_METHOD,
            "authentication_method",
            f"{address} asks for an authentication that is not known here; a name and a password are",
        )
    username = connect.username
    is_held = username is not None and attempts.is_held(address, username, now_s=now_s)
    grant = None
    if not is_held:
        grant = authenticator.admit(username=username, password=connect.password, peer_names=peer_names)
    if grant is None:
        refusal = _unknown(username, is_held=is_held, attempts=attempts, address=address, now_s=now_s)
        if username is not None and not authenticator.has_users:
            # Many devices always send one; a wrong password would be looked for in vain.
            why = f"{address} gave the name {username!r} and there are no users: name it in users, or let it send none"
            return replace(refusal, sentence=why)
        return refusal
    if connect.will is not None and not grant.allows(connect.will.topic):
        return Refusal(
            ReasonCode.NOT_AUTHORIZED,
            "not_authorized",
            f"{who!r} may not leave a will at {connect.will.topic!r}",
        )
    keep_alive_s = connect.keep_alive_s
    if connect.version == VERSION_5:
        # 3.1.1 has no way to be told; there TCP's own keepalive finds the dead.
        keep_alive_s = min(keep_alive_s or limits.keep_alive_s_max, limits.keep_alive_s_max)
    return Welcome(grant, connect.client_id or b"tidegate-" + secrets.token_hex(8).encode(), keep_alive_s)


def _unknown(username: str | None, *, is_held: bool, attempts: Attempts, address: str, now_s: float) -> Refusal:
    """Refuse somebody who is nobody: at once without a name, late with a wrong password, at once if held."""
    if username is None:
        return Refusal(ReasonCode.NOT_AUTHORIZED, "no_credentials", f"{address} gave no name and password")
    delay_s = 0.0 if is_held else attempts.failed(address, username, now_s=now_s)
    if delay_s:
        return Refusal(
            ReasonCode.BAD_USER_NAME_OR_PASSWORD,
            "wrong_password",
            f"wrong name or password for {username!r} from {address}",
            delay_s,
            username,
        )
    return Refusal(
        ReasonCode.CONNECTION_RATE_EXCEEDED,
        "attempts_limited",
        f"too many wrong passwords for {username!r} from {address}",
    )


def no_place(welcome: Welcome, *, address: str, limits: Limits) -> Refusal:
    """Refuse somebody who is known, and has as many connections as anybody else where there are no more."""
    who = welcome.grant.name or "anyone"
    return Refusal(
        ReasonCode.SERVER_UNAVAILABLE,
        "too_many_connections",
        f"more than {limits.connections_max} connections; {who!r} from {address} was sent away",
    )


def welcome_bytes(
    connect: Connect,
    welcome: Welcome,
    *,
    limits: Limits,
    topic_alias_max: int,
    session_present: bool,
    session_expiry_s: int,
) -> bytes:
    """Return the CONNACK that says yes, with what differs from what the client asked (3.2.2.3)."""
    properties: list[tuple[Property, PropertyValue]] = [
        (Property.MAXIMUM_PACKET_SIZE, limits.packet_bytes_max),
        (Property.TOPIC_ALIAS_MAXIMUM, topic_alias_max),
    ]
    if limits.receive_maximum != RECEIVE_MAXIMUM_DEFAULT:
        properties.append((Property.RECEIVE_MAXIMUM, limits.receive_maximum))
    if session_expiry_s != connect.session_expiry_s:
        properties.append((Property.SESSION_EXPIRY, session_expiry_s))
    if welcome.client_id != connect.client_id:
        properties.append((Property.ASSIGNED_CLIENT_ID, welcome.client_id))
    if welcome.keep_alive_s != connect.keep_alive_s:
        properties.append((Property.SERVER_KEEP_ALIVE, welcome.keep_alive_s))
    return connack_bytes(
        version=connect.version,
        code=ReasonCode.SUCCESS,
        session_present=session_present,
        properties=properties,
    )
