"""Housekeeping: who goes when the shelf is full or something too old, which boots nobody needs. Must not delete."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import BootId, FullError
from gateway.store.planning import EVICTED, EXPIRED
from gateway.store.records import where_from
from gateway.store.room import find_evictions, find_expired, find_heads

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiosqlite

    from gateway.core.clock import Clock, Timeline
    from gateway.store.leases import Desk
    from gateway.store.room import Candidate, Room
    from gateway.store.settings import StoreSettings

log = logging.getLogger("tidegate.store")

TEND_S: Final = 30.0
"""How often `tend` is called."""


class Keeper:
    """Finds what has to go; the next commit lets it go."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        room: Room,
        timeline: Timeline,
        desks: Mapping[str, Desk],
        settings: StoreSettings,
        clock: Clock,
    ) -> None:
        self.forget_before = BootId(0)
        # The sequence of the oldest segment at the last look, None for an empty shelf.
        self.oldest: int | None = None
        self._connection = connection
        self._room = room
        self._timeline = timeline
        self._desks = desks
        self._settings = settings
        self._clock = clock
        self._expired: list[Candidate] = []

    def may_go(self, segment_id: int) -> bool:
        """Whether nobody is sending it."""
        return not any(desk.is_leased(segment_id) for desk in self._desks.values())

    async def find_victims(self, incoming_bytes: int) -> list[tuple[str, Candidate]]:
        """Return who goes in this commit, with the reason; raise FullError where that is not enough."""
        expired, self._expired = self._expired, []
        victims = [(EXPIRED, row) for row in expired if self.may_go(row.id)]
        # Acks, state and deletions need a little room too, but never make anybody go by themselves.
        over = self._room.lacking(incoming_bytes) if incoming_bytes else 0
        over -= sum(row.size_bytes for _, row in victims)
        if over <= 0:
            return victims
        if self._settings.when_full == "refuse":
            raise FullError("the shelf is full and when_full is refuse")
        chosen = {row.id for _, row in victims}
        evicted = await find_evictions(
            self._connection, bytes_over=over, may_go=lambda row_id: row_id not in chosen and self.may_go(row_id)
        )
        if sum(row.size_bytes for row in evicted) + self._room.slack_bytes < over:
            raise FullError("the shelf is full of what is being sent right now")
        return victims + [(EVICTED, row) for row in evicted]

    async def tend(self) -> bool:
        """Look for what is too old and for boots that nothing refers to; return whether there is work."""
        self._room.keep_ballast()
        try:
            self._expired = await find_expired(
                self._connection,
                self._timeline,
                now_ns=self._clock.monotonic_ns(),
                max_age_s=float(self._settings.max_age),
                may_go=self.may_go,
            )
            heads = await find_heads(self._connection)
        except sqlite3.Error as error:
            log.warning("looking after the shelf failed, trying again later: %s", error)
            return False
        self.oldest = min((where_from(head.id)[2] for head in heads), default=None)
        needed = BootId(min((head.boot for head in heads), default=self._timeline.current.boot))
        if self._timeline.boots[0].boot < needed:
            self.forget_before = needed
        return bool(self._expired)
