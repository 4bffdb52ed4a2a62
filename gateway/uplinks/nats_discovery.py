"""Servers that a NATS cluster tells of, and which of them may be gone to. Must not connect.

What a server says of others comes before TLS, where anybody may speak, and a password goes to whoever is believed. So
nobody is gone to unless the configuration allows that, and over TLS the certificate is looked at as for any other:

| `discover` has        | told is          | over TLS its certificate is to be for                   |
| --------------------- | ---------------- | ------------------------------------------------------- |
| a name, or `*.name`   | such a name      | that name                                               |
| an address, a network | an address in it | the host of the `url` whose server has told of it       |
| none that fits        | anybody else     | it is not gone to, and `status` says that there is one  |

An address that was told by a server whose own address stands in `url` has to be in its certificate itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.core.text import printable
from gateway.net.addresses import packed_address
from gateway.net.line import Address
from gateway.net.nats_address import parse_pattern, parse_url

if TYPE_CHECKING:
    from collections.abc import Sequence

# So many are remembered, those that were told last first: the last of a cluster to die knows of nobody any more.
OTHERS_MAX: Final = 16
# So many are tried in one attempt: each may take as long as a connection may.
AT_ONCE_MAX: Final = 3
SHOWN_MAX: Final = 8
SHOWN_CHARS_MAX: Final = 100


class Place(NamedTuple):
    """Where a server listens, and whose certificate it must have, where it has one."""

    to: Address
    name: str


class Discovery:
    """What the servers of one uplink have told. Read from another thread, too."""

    def __init__(self, patterns: Sequence[str], urls: Sequence[str]) -> None:
        self._patterns = [parse_pattern(text) for text in patterns]
        named = [parse_url(url) for url in urls]
        self._named = {Address(one.host, one.port) for one in named}
        self._scheme = "tls" if named[0].is_tls else "nats"
        self._others: dict[Address, Place] = {}
        self._refused: list[str] = []

    def others(self) -> list[Place]:
        """Return who may be gone to now beside those that are named, a few at a time."""
        return list(self._others.values())[:AT_ONCE_MAX]

    def failed(self, place: Place) -> None:
        """Take note that there was no way to one: it is the last from now on."""
        if self._others.pop(place.to, None) is not None:
            self._others[place.to] = place

    def heard(self, told: Sequence[str], *, by: str) -> None:
        """Take note of what a server says, which the configuration has as the host `by`."""
        found: dict[Address, Place] = {}
        refused = []
        for text in told[: OTHERS_MAX * 2]:
            try:
                address = parse_url(f"{self._scheme}://{text}")
            except ValueError:
                continue
            to = Address(address.host, address.port)
            if to in self._named:
                continue
            if not any(pattern.allows(to.host) for pattern in self._patterns):
                refused.append(printable(text, SHOWN_CHARS_MAX))
                continue
            is_like_all = packed_address(to.host) and not packed_address(by)
            found[to] = Place(to, by if is_like_all else to.host)
        known = self._others
        others = {to: place for to, place in found.items() if to not in known}
        others |= {to: found[to] for to in known if to in found}
        others |= {to: place for to, place in known.items() if to not in found}
        self._others = dict(list(others.items())[:OTHERS_MAX])
        self._refused = refused

    def told(self) -> dict[str, Any]:
        """Return who was told of, as `tidegate status` shows it."""
        others, refused = list(self._others), self._refused
        return {
            "servers": [str(to) for to in others[:SHOWN_MAX]],
            "not_allowed": refused[:SHOWN_MAX],
        }
