"""What the URL of a NATS server means. Must not connect to anything."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

DEFAULT_PORT: Final = 4222
SCHEMES: Final = ("nats", "tls")


class NatsAddress(NamedTuple):
    """Where a server is."""

    host: str
    port: int
    is_tls: bool


def parse_url(url: str) -> NatsAddress:
    """Return what a server's URL says; raise ValueError with what would be right.

    >>> parse_url("tls://nats.example")
    NatsAddress(host='nats.example', port=4222, is_tls=True)
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a NATS server's: {error}") from None
    if parts.username is not None or parts.password is not None:
        # Not repeated: the message ends up in logs.
        raise ValueError("holds credentials; write username = … and password = { env = … }, or token = … instead")
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(f"{url!r} is not a NATS server's; write nats:// or tls:// and a host")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a path; subjects belong into subject = …")
    if port == 0:
        raise ValueError(f"{url!r} has port 0")
    return NatsAddress(parts.hostname, port or DEFAULT_PORT, parts.scheme == "tls")
