"""What the MQTT server's connections hold of packets that have begun and not ended. Counts; must not end anybody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.sources.mqtt_server_holdings import Holdings

if TYPE_CHECKING:
    from gateway.sources.mqtt_server_connection import Connection

# A packet may take so long, and a second more for each of so many bytes that have come: a large one over GPRS does.
PACKET_S: Final = 60.0
PACKET_BYTES_PER_S_MIN: Final = 1024


@dataclass(slots=True)
class Partials(Holdings):
    """Who holds how many bytes of an unfinished packet, since when."""

    _since_s: dict[Connection, float] = field(default_factory=dict)

    def weigh(self, connection: Connection, held: int, *, fed: int = 0, now_s: float = 0.0) -> None:
        """Note that `held` bytes are left after `fed` more came; 0 held is nothing to remember.

        Of what is too large and read past no more is held than its beginning: it has its time anew when more comes.
        """
        before = self.held.get(connection, 0)
        if held != before:
            Holdings.weigh(self, connection, held)
        if not held:
            self._since_s.pop(connection, None)
        # If not all that came was added, a packet has ended and what is held belongs to a later one.
        elif held != before + fed or not before:
            self._since_s[connection] = now_s

    def restart(self, connection: Connection, *, now_s: float) -> None:
        """Give a connection that was not read for a while its time anew."""
        if connection in self._since_s:
            self._since_s[connection] = now_s

    def is_late(self, connection: Connection, *, now_s: float) -> bool:
        """Whether a packet should have ended by now."""
        since_s = self._since_s.get(connection, now_s)
        return now_s - since_s > PACKET_S + self.held.get(connection, 0) / PACKET_BYTES_PER_S_MIN
