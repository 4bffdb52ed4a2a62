"""What the URL of a NATS server means, and which others may be gone to. Must not connect to anything."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gateway.net.addresses import packed_address

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


class Pattern(NamedTuple):
    """Hosts that may be gone to: a name, all below one (`suffix`), or a network of so many bits."""

    name: str = ""
    suffix: str = ""
    network: bytes = b""
    bits: int = 0

    def allows(self, host: str) -> bool:
        """Whether a host is one of them."""
        packed = packed_address(host)
        if packed or self.network:
            return len(packed) == len(self.network) and _start(packed, self.bits) == _start(self.network, self.bits)
        name = host.lower().rstrip(".")
        if self.suffix:
            first, dot, rest = name.partition(".")
            return bool(first and dot) and rest == self.suffix
        return name == self.name


def parse_pattern(text: str) -> Pattern:
    """Return what a pattern means; raise ValueError with what would be right.

    >>> parse_pattern("10.20.0.0/16").allows("10.20.3.4"), parse_pattern("*.nats.example").allows("a.b.nats.example")
    (True, False)
    """
    host, slash, digits = text.partition("/")
    packed = packed_address(host)
    if packed:
        most = len(packed) * 8
        if slash and not (digits.isascii() and digits.isdigit() and 0 < int(digits) <= most):
            raise ValueError(f"{text!r} is no network; write how many bits of it are fixed, like 10.20.0.0/16")
        bits = int(digits) if slash else most
        if _start(packed, bits) << (most - bits) != int.from_bytes(packed):
            raise ValueError(f"{text!r} has more in it than {bits} bits; write its first address, like 10.20.0.0/16")
        return Pattern(network=packed, bits=bits)
    name = host.removeprefix("*.").lower().rstrip(".")
    is_name = bool(name) and all(part and part.isascii() and _is_label(part) for part in name.split("."))
    if slash or not is_name or ("." not in name and host.startswith("*.")):
        raise ValueError(f"{text!r} is no host; write a name, *.name.example, an address or a network")
    return Pattern(suffix=name) if host.startswith("*.") else Pattern(name=name)


def _is_label(part: str) -> bool:
    return part.replace("-", "").replace("_", "").isalnum()


def _start(packed: bytes, bits: int) -> int:
    return int.from_bytes(packed) >> (len(packed) * 8 - bits)
