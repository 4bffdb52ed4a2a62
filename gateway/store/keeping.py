"""Housekeeping: who goes when the shelf is full or something too old, which boots nobody needs. Must not delete."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import BootId, FullError
from gateway.store.accounts import UPLINK_REMOVED
from gateway.store.asides import make_room
from gateway.store.disks import free_bytes
from gateway.store.membership import Leftovers, let_go_overdue
from gateway.store.planning import EVICTED, EXPIRED
from gateway.store.records import SEQUENCE_END, where_from
from gateway.store.room import find_evictions, find_expired, find_heads, find_settled
from gateway.store.unwanted import Unwanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiosqlite

    from gateway.store.leases import Desk
    from gateway.store.opening import Opened
    from gateway.store.room import Candidate, Room
    from gateway.store.surroundings import Surroundings

log = logging.getLogger("tidegate.store")

TEND_S: Final = 30.0
"""How often `tend` is called."""
NOTHING_DONE: Final[Mapping[int, int]] = {}


class Keeper:
    """Finds what has to go; the next commit lets it go."""

    def __init__(
        self, connection: aiosqlite.Connection, opened: Opened, around: Surroundings, *, desks: Mapping[str, Desk]
    ) -> None:
        self.forget_before = BootId(0)
        # The sequence of the oldest segment at the last look, None for an empty shelf.
        self.oldest: int | None = None
        self._accounts = opened.accounts
        littered_before = opened.state.sequence if opened.is_littered else 0
        self._leftovers = Leftovers(connection, opened.accounts, littered_before=littered_before)
        self._unwanted = Unwanted(connection, opened.accounts)
        self._litter = Leftovers(connection, opened.accounts, littered_before=littered_before)
        self._connection = connection
        self._room = around.room
        self._timeline = opened.timeline
        self._desks = desks
        self._settings = around.settings
        self._clock = around.clock
        self._going: list[tuple[str, Candidate]] = []
        self.turned_away_bytes = 0  # what found no room last

    def may_go(self, segment_id: int) -> bool:
        """Whether nobody is sending it."""
        return not any(desk.is_leased(segment_id) for desk in self._desks.values())

    @property
    def has_leftovers(self) -> bool:
        """Whether something may be there that no configured uplink needs, and that makes way for what comes."""
        return not self._leftovers.is_done or self._leftovers.may_be_more or self._unwanted.may_be_some

    async def find_victims(
        self, incoming_bytes: int, done: Mapping[int, int] = NOTHING_DONE
    ) -> list[tuple[str, Candidate]]:
        """Return who goes in this commit, with the reason; raise FullError where that is not enough.

        `done` is what was acked since the last commit: what all have leaves with this one, and makes room.
        """
        going, self._going = self._going, []
        victims = {row.id: (reason, row) for reason, row in going if self.may_go(row.id)}
        # Acks, state and deletions need a little room too, but never make anybody go by themselves.
        over = self._lacking(incoming_bytes) if incoming_bytes else 0
        over -= sum(row.size_bytes for _, row in victims.values())
        if over <= 0:
            return list(victims.values())
        leaving = await find_settled(self._connection, done, needed=self._accounts.needed)
        over -= sum(size_bytes for segment_id, size_bytes in leaving.items() if segment_id not in victims)
        if over <= 0:
            return list(victims.values())

        def may_go(segment_id: int) -> bool:
            return segment_id not in victims and segment_id not in leaving and self.may_go(segment_id)

        self._leftovers.look_again()
        for some in (self._unwanted, self._leftovers):
            for row in await some.spare(bytes_over=over, may_go=may_go):
                victims[row.id] = (EVICTED, row)
                over -= row.size_bytes
            if over <= 0:
                return list(victims.values())
        if self._settings.when_full == "refuse":
            # They stay, since nothing comes: they are found again by the next who asks.
            self._leftovers.rewind()
            self.turned_away_bytes = incoming_bytes
            raise full_and_refuse(self._room)
        evicted, may_more_go = await find_evictions(
            self._connection, bytes_over=over, incoming_bytes=incoming_bytes, may_go=may_go
        )
        # Where a bound was lowered, or others filled the disk, it may take more than one commit; each takes away more
        # than it brings.
        if not may_more_go and sum(row.size_bytes for row in evicted) + self._room.slack_bytes < over:
            self._leftovers.rewind()
            self.turned_away_bytes = incoming_bytes
            raise FullError(f"{self._why_not_enough()}: {self._room.cause}")
        return [*victims.values(), *((EVICTED, row) for row in evicted)]

    def _why_not_enough(self) -> str:
        if any(desk.leases for desk in self._desks.values()):
            return "the store is full of what is being sent right now"
        return "what arrives is more than everything that could make way for it"

    def _lacking(self, incoming_bytes: int) -> int:
        """Return how many bytes have to go; where it is the disk that is full, damaged files do before what is held."""
        over = self._room.lacking(incoming_bytes)
        if over > 0 and self._room.is_disk_short:
            state_dir = self._room.state_dir
            if make_room(state_dir, wanted_bytes=free_bytes(state_dir) + over):
                over = self._room.lacking(incoming_bytes)
        return over

    async def tend(self) -> bool:
        """Look for what is too old or nobody's, and for boots that nothing refers to; return whether there is work."""
        with contextlib.suppress(OSError):
            # Who refuses at the door asks for no commit that would look.
            self._lacking(0)
        self._room.keep_ballast()
        now_ns = self._clock.monotonic_ns()
        try:
            expired = await find_expired(
                self._connection,
                self._timeline,
                now_ns=now_ns,
                max_age_s=float(self._settings.max_age),
                may_go=self.may_go,
            )
            said = await let_go_overdue(
                self._connection,
                self._accounts,
                self._timeline,
                grace_s=float(self._settings.uplink_grace),
                now_ns=now_ns,
            )
            if said:
                self._litter.rewind()
            self._leftovers.rewind()
            litter = await self._litter.sweep()
            heads = await find_heads(self._connection)
        except sqlite3.Error as error:
            log.warning("looking after the store failed, trying again later: %s", error)
            return False
        for sentence in said:
            log.warning("%s", sentence)
        self._going = [(EXPIRED, row) for row in expired] + [(UPLINK_REMOVED, row) for row in litter]
        self.oldest = min((where_from(head.id)[2] for head in heads), default=None)
        for desk in self._desks.values():
            desk.let_go_below(SEQUENCE_END if self.oldest is None else self.oldest)
        oldest_boot = min((head.boot for head in heads), default=self._timeline.current.boot)
        needed = min([oldest_boot, *(kept.boot for _, kept in self._accounts.kept)])
        if self._timeline.boots[0].boot < needed:
            self.forget_before = BootId(needed)
        return bool(self._going or said)


def full_and_refuse(room: Room) -> FullError:
    """Return what sources are told where nothing is let go to make room for what they bring."""
    return FullError(f"the store is full and when_full is refuse: {room.cause}")
