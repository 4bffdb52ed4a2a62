"""What the MQTT server's connections hold of packets that have begun and not ended. Counts; must not end anybody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

    from gateway.sources.mqtt_server_connection import Connection

# A packet may take so long, and a second more for each of so many bytes that have come: a large one over GPRS does.
PACKET_S: Final = 60.0
PACKET_BYTES_PER_S_MIN: Final = 1024


@dataclass(slots=True)
class Partials:
    """Who holds how many bytes of an unfinished packet, since when; `total` is their sum."""

    total: int = 0
    _held: dict[Connection, tuple[int, float]] = field(default_factory=dict)

    def weigh(self, connection: Connection, held: int, *, fed: int = 0, now_s: float = 0.0) -> None:
        """Note that `held` bytes are left after `fed` more came; 0 held is nothing to remember."""
        before, since_s = self._held.get(connection, (0, now_s))
        self.total += held - before
        if not held:
            self._held.pop(connection, None)
        else:
            # If not all that came was added, a packet has ended and what is held belongs to a later one.
            self._held[connection] = (held, since_s if held == before + fed else now_s)

    def restart(self, connection: Connection, *, now_s: float) -> None:
        """Give a connection that was not read for a while its time anew."""
        if connection in self._held:
            self._held[connection] = (self._held[connection][0], now_s)

    def is_late(self, connection: Connection, *, now_s: float) -> bool:
        """Whether a packet should have ended by now."""
        held, since_s = self._held.get(connection, (0, now_s))
        return now_s - since_s > PACKET_S + held / PACKET_BYTES_PER_S_MIN

    def largest(self, strangers: Container[Connection]) -> Connection:
        """Return the largest of whoever holds most in all: of `strangers`, if one holds anything. Somebody must.

        By owner, since many small ones of one login must not push out the one large packet of another.
        """
        of_owner: Counter[tuple[str, str]] = Counter()
        for connection, (held, _) in self._held.items():
            of_owner[connection.owner] += held
        return max(
            self._held,
            key=lambda connection: (connection in strangers, of_owner[connection.owner], self._held[connection][0]),
        )
