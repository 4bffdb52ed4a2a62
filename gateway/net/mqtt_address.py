"""What a broker's URL means. Must not connect to anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
WEBSOCKET_PATH: Final = "/mqtt"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is. `path` is for WebSockets."""

    host: str
    port: int
    is_tls: bool
    is_websocket: bool
    path: str


def parse_url(url: str) -> BrokerAddress:
    """Return what a broker's URL says; raise ValueError with what would be right.

    >>> parse_url("mqtts://broker.example")
    BrokerAddress(host='broker.example', port=8883, is_tls=True, is_websocket=False, path='')
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a broker's: {error}") from None
    if parts.username is not None or parts.password is not None:
        # Not repeated: the message ends up in logs.
        raise ValueError("holds credentials; write username = … and password = { env = … } instead")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is not a broker's; write mqtt://, mqtts://, ws:// or wss:// and a host")
    is_websocket = parts.scheme in {"ws", "wss"}
    if not is_websocket and (parts.path.strip("/") or parts.query):
        raise ValueError(f"{url!r} has a path; topics belong into topics = [...], or topic = … of an uplink")
    if port == 0:
        raise ValueError(f"{url!r} has port 0")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return BrokerAddress(
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        is_tls=parts.scheme in {"mqtts", "wss"},
        is_websocket=is_websocket,
        path=(path or WEBSOCKET_PATH) if is_websocket else "",
    )
