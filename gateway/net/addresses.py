"""Where to listen, as people write it. Does no I/O and asks no resolver."""

from __future__ import annotations

import ipaddress


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "127.0.0.1:8181", "[::1]:8181" or "localhost:8181"; raise ValueError.

    >>> split_address("[::1]:80")
    ('::1', 80)
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError('an IPv6 address stands in brackets, like "[::1]:8181"')
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'{address!r} is not HOST:PORT, like "127.0.0.1:8181"')
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
