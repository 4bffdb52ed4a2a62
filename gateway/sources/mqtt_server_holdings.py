"""Who of the MQTT server's connections holds how many bytes of something. Counts; must not end anybody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from gateway.sources.mqtt_server_connection import Connection


@dataclass(slots=True)
class Holdings:
    """Bytes by connection; `total` is their sum."""

    total: int = 0
    held: dict[Connection, int] = field(default_factory=dict)

    def weigh(self, connection: Connection, held: int) -> None:
        """Note that a connection now holds so much; 0 is nothing to remember."""
        self.total += held - self.held.pop(connection, 0)
        if held:
            self.held[connection] = held

    def largest(self, strangers: Container[Connection] = ()) -> Connection:
        """Return the largest of whoever holds most in all: of `strangers`, if one holds anything. Somebody must.

        By owner, since many small ones of one login must not push out the one large one of another.
        """
        of_owner: Counter[tuple[str, str]] = Counter()
        for connection, held in self.held.items():
            of_owner[connection.owner] += held
        return max(
            self.held,
            key=lambda connection: (connection in strangers, of_owner[connection.owner], self.held[connection]),
        )
