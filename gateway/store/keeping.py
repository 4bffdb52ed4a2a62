"""Housekeeping: who goes when the shelf is full or something too old, which boots nobody needs. Must not delete."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.contracts import BootId, FullError, Signal
from gateway.core.words import span
from gateway.store.accounts import UPLINK_REMOVED
from gateway.store.asides import make_room
from gateway.store.disks import free_bytes
from gateway.store.membership import Leftovers, let_go_overdue
from gateway.store.planning import DILUTED, EVICTED, EXPIRED
from gateway.store.records import SEQUENCE_END, where_from
from gateway.store.room import find_evictions, find_expired, find_heads, find_settled
from gateway.store.unwanted import Unwanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import aiosqlite

    from gateway.core.contracts import Priority
    from gateway.store.accounts import Dilution
    from gateway.store.diluting import Diluter
    from gateway.store.leases import Desk
    from gateway.store.opening import Opened
    from gateway.store.rewriting import Rewriting, Rewritten
    from gateway.store.room import Candidate, Room
    from gateway.store.spans import Spans
    from gateway.store.surroundings import Surroundings

log = logging.getLogger("tidegate.store")

TEND_S: Final = 30.0
"""How often `tend` is called."""
NOTHING_DONE: Final[Mapping[int, int]] = {}
# Pieces that one commit writes anew so that not each one has to, where it needs none; it may take as many as it needs.
SPARE_PIECES: Final = 2


class Keeper:
    """Finds what has to go; the next commit lets it go."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        opened: Opened,
        around: Surroundings,
        *,
        desks: Mapping[str, Desk],
        evidence: Spans,
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
        self.rewritings: list[Rewriting] = []  # what the next commit writes anew
        self._evidence = evidence
        self._said: set[tuple[Priority, int]] = set()
        self._diluter: Diluter | None = None
        self._places = opened.state.dilution.places
        # The oldest readings of each class at the last look, until a commit has heard of them.
        self._heads: dict[Priority, Candidate] | None = None

    @property
    def diluter(self) -> Diluter:
        """Who looks for what can be thinned: made when a full shelf asks for the first time."""
        if self._diluter is None:
            from gateway.store.diluting import Diluter  # noqa: PLC0415  memory for who has a full shelf

            self._diluter = Diluter(
                self._connection,
                self._accounts,
                self._desks,
                self._evidence,
                max_bytes=int(self._settings.max_bytes),
                max_age_s=float(self._settings.max_age),
            )
            self._diluter.places = self._places
        return self._diluter

    def may_go(self, segment_id: int) -> bool:
        """Whether nobody is sending it."""
        return not any(desk.is_leased(segment_id) for desk in self._desks.values())

    @property
    def has_leftovers(self) -> bool:
        """Whether something may be there that no configured uplink needs, and that makes way for what comes."""
        return not self._leftovers.is_done or self._leftovers.may_be_more or self._unwanted.may_be_some

    async def find_victims(
        self, incoming_bytes: int, done: Mapping[int, int] = NOTHING_DONE, *, may_rewrite: bool = True
    ) -> list[tuple[str, Candidate]]:
        """Return who goes in this commit, with the reason; raise FullError where that is not enough.

        `done` is what was acked since the last commit: what all have leaves with this one, and makes room. What is
        written anew so that fewer have to go is in `rewritings` then, unless not even for that is there room.
        """
        # Of a commit that brought nothing in the end they wait here.
        rewritings, self.rewritings = self.rewritings, []
        may_rewrite &= self._settings.when_full == "dilute" and not self._room.shortage()
        going, self._going = self._going, []
        victims = {row.id: (reason, row) for reason, row in going if self.may_go(row.id)}
        # Acks, state and deletions need a little room too, but never make anybody go by themselves.
        over = self._lacking(incoming_bytes) if incoming_bytes else 0
        over -= sum(row.disk_bytes for _, row in victims.values())
        self.rewritings = rewritings if may_rewrite else []
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
                over -= row.disk_bytes
            if over <= 0:
                return list(victims.values())
        if self._settings.when_full == "refuse":
            if over > self._room.slack_bytes:
                raise self._turn_away(incoming_bytes, full_and_refuse(self._room))
            # There is room, if none to spare: nobody is turned away for that.
            return list(victims.values())
        free: Callable[[int], bool] = may_go
        whole_over, before = over, self._room.lacking(0)
        if may_rewrite:
            ids = [segment_id for of in self.rewritings for segment_id in of.ids]
            self.diluter.begin(done=done, may_go=without(may_go, ids))
            try:
                over, gained = await self._dilute(over, incoming_bytes)
            finally:
                self.diluter.end()
            # As with those who go: where a bound was lowered it may take more than one commit. What this one writes
            # anew may be thinned further by the next.
            is_better = bool(self.rewritings) and before > 0 and over <= before
            is_more = is_better or (gained >= incoming_bytes and not self.diluter.is_exhausted)
            if over <= self._room.slack_bytes or is_more:
                return list(victims.values())
            free = without(may_go, [segment_id for of in self.rewritings for segment_id in of.ids])
        # Where the next one looks further, no more goes than needed.
        is_more = may_rewrite and not self.diluter.is_exhausted
        evicted = await self._find_evictions(over, incoming_bytes, free, has_slack=not is_more)
        if evicted is None and self.rewritings:
            # What was to be thinned is all there is: now it goes, or what comes would be turned away for it.
            self.rewritings = []
            evicted = await self._find_evictions(whole_over, incoming_bytes, may_go)
        if evicted is None:
            raise self._turn_away(incoming_bytes, FullError(f"{self._why_not_enough()}: {self._room.cause}"))
        return [*victims.values(), *((EVICTED, row) for row in evicted)]

    def _turn_away(self, incoming_bytes: int, error: FullError) -> FullError:
        # They stay, since nothing comes: they are found again by the next who asks.
        self._leftovers.rewind()
        self.turned_away_bytes = incoming_bytes
        return error

    async def _find_evictions(
        self, over: int, incoming_bytes: int, free: Callable[[int], bool], *, has_slack: bool = True
    ) -> list[Candidate] | None:
        """Return who goes so that `over` bytes become free, without the slack where so told; None: too few may go.

        Where a bound was lowered, or others filled the disk, it may take more than one commit; each takes away more
        than it brings.
        """
        needed = over - self._room.slack_bytes
        evicted, may_more_go = await find_evictions(
            self._connection, bytes_over=over if has_slack else needed, incoming_bytes=incoming_bytes, may_go=free
        )
        is_enough = may_more_go or sum(row.disk_bytes for row in evicted) >= needed
        return list(evicted) if is_enough else None

    async def _dilute(self, over: int, incoming_bytes: int) -> tuple[int, int]:
        """Find what is written anew so that `over` bytes become free; return how many do not, and how many do."""
        # What that takes comes in beside all else, and has to find room in the log as well.
        first = self._room.lacking(incoming_bytes)
        written = sum(of.new_bytes for of in self.rewritings)
        freed = sum(of.old_bytes for of in self.rewritings)
        while True:
            left = over - first + self._room.lacking(incoming_bytes + written) - freed
            pieces = sum(len(of.parts) for of in self.rewritings)
            is_enough = left <= 0 or (left <= self._room.slack_bytes and pieces >= SPARE_PIECES)
            # What lies between is found with it: only together they make whole pages free.
            is_enough &= not self.diluter.is_between
            if is_enough or (found := await self.diluter.next()) is None:
                return left, freed - written
            self.rewritings.append(found)
            written += found.new_bytes
            freed += found.old_bytes

    def take_rewritings(self, done: Mapping[int, int], gone: Sequence[int]) -> list[Rewriting]:
        """Return what is written anew with the commit that is planned in this moment: nobody has touched it since.

        `done` is what that commit settles, `gone` who goes with it.
        """
        found, self.rewritings = self.rewritings, []
        leaving = set(gone)
        return [of for of in found if leaving.isdisjoint(of.ids) and self.diluter.is_as_it_was(of, done)]

    @property
    def too_many_series(self) -> dict[str, int]:
        """Which classes have too many series to be thinned, and how many, as far as was looked."""
        found = {} if self._diluter is None else self._diluter.too_many
        return {priority.name.lower(): series for priority, series in sorted(found.items())}

    def note(self, before: Dilution, rewritings: Sequence[Rewriting]) -> tuple[list[Rewritten], Dilution]:
        """Return what takes the place of these, and how far all is diluted then."""
        heads, self._heads = self._heads, None
        rows: list[Rewritten] = []
        if rewritings or (heads is not None and before.stretches):
            from gateway.store.rewriting import seal_again, still_held  # noqa: PLC0415  as above

            if heads is not None:
                before = msgspec.structs.replace(before, stretches=still_held(before.stretches, heads))
            rows, before = seal_again(rewritings, before, timeline=self._timeline)
            self._say(rewritings)
        evidence = [*self._evidence] if self._settings.when_full == "dilute" else before.evidence
        places = self._places if self._diluter is None else self._diluter.places
        return rows, msgspec.structs.replace(before, evidence=evidence, places=places)

    def _say(self, rewritings: Sequence[Rewriting]) -> None:
        """Have the log say once of each class and step that it is come to."""
        steps = {(where_from(of.id)[0], of.step_s) for of in rewritings if of.step_s}
        for priority, step_s in sorted(steps - self._said):
            log.warning(
                "the store is full: the oldest %s readings are thinned to four of a series in %s, counted as %s",
                priority.name.lower(),
                span(step_s),
                DILUTED,
            )
        self._said |= steps

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
        self._heads = {
            priority: head
            for head in heads
            for priority, signal, _ in [where_from(head.id)]
            if signal is Signal.METRICS
        }
        for desk in self._desks.values():
            desk.let_go_below(SEQUENCE_END if self.oldest is None else self.oldest)
        oldest_boot = min((head.boot for head in heads), default=self._timeline.current.boot)
        needed = min([oldest_boot, *(kept.boot for _, kept in self._accounts.kept), *self._boots_apart()])
        if self._timeline.boots[0].boot < needed:
            self.forget_before = BootId(needed)
        return bool(self._going or said)

    def _boots_apart(self) -> Iterator[int]:
        """Yield the boots of which rests stand behind what came later, as long as these may be there."""
        for share in self._accounts.shares.values():
            boot, last = share.apart
            if boot and (self.oldest is None or last < self.oldest or not share.held):
                share.apart = (0, 0)
            elif boot:
                yield boot


def without(may_go: Callable[[int], bool], ids: Iterable[int]) -> Callable[[int], bool]:
    """Return what says of the same that they may go, but for some."""
    others = set(ids)
    return lambda segment_id: segment_id not in others and may_go(segment_id)


def full_and_refuse(room: Room) -> FullError:
    """Return what sources are told where nothing is let go to make room for what they bring."""
    return FullError(f"the store is full and when_full is refuse: {room.cause}")
