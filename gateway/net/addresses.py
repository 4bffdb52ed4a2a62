"""Where to listen, as people write it. Does no I/O and asks no resolver."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

LISTEN_ADVICE: Final = {
    errno.EADDRINUSE: "another program has this port (`ss -ltnp` names it); stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; use one of its own, or 0.0.0.0 for all of them",
    errno.EACCES: "ports below 1024 are not for everybody; choose a higher one",
}
_LOOPBACK_V6: Final = bytes(15) + b"\1"


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


def cannot_listen(address: str, error: OSError) -> OSError:
    """Return `error` as one that says which address could not be had, why, and what to do about it.

    >>> print(cannot_listen("127.0.0.1:80", OSError(13, "denied")).strerror)
    cannot listen on 127.0.0.1:80: Permission denied; ports below 1024 are not for everybody; choose a higher one
    """
    advice = LISTEN_ADVICE.get(error.errno or 0)
    # Where it is one of these, what Python adds names the address once more.
    why = f"{os.strerror(error.errno)}; {advice}" if advice is not None and error.errno else error.strerror or error
    return OSError(error.errno, f"cannot listen on {address}: {why}")


def packed_address(host: str) -> bytes:
    r"""Return the 4 bytes of an IPv4 or the 16 of an IPv6 address, which may name an interface; b"" for a name.

    As `ipaddress` reads it, which a daemon does without: it takes 0.2 MB.

    >>> packed_address("127.0.0.1"), packed_address("fe80::1%eth0")[:2].hex(), packed_address("127.1")
    (b'\x7f\x00\x00\x01', 'fe80', b'')
    """
    address, percent, device = host.partition("%")
    if percent and (not device or {*device} & {"%", "/"}):
        return b""
    for family in (socket.AF_INET6,) if percent else (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
    return b""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    packed = packed_address(host)
    return host == "localhost" or packed[:-3] == b"\x7f" or packed == _LOOPBACK_V6


def names_this_machine(host: str) -> bool:
    """Whether a Host header names this machine by address or as localhost, or is left out.

    >>> names_this_machine("127.0.0.1:8181"), names_this_machine("[::1]"), names_this_machine("evil.example")
    (True, True, False)
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    return name in {"", "localhost"} or packed_address(name.strip("[]")) != b""
