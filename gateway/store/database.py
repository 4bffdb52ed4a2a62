"""The store: what was accepted stays here until every uplink has it. SQLite is touched in this room and nowhere else.

    append → group commit → lease → ack, release or refuse

`append` returns when what it was given is on the medium. Leases live in memory. Every number that `status` says
is in SQLite too, from the same transaction as the data that it counts: store/accounts.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from gateway.core.clock import NS_PER_S
from gateway.store import asking, closing
from gateway.store.accounts import NOBODY
from gateway.store.allowance import Allowance
from gateway.store.committer import Committer
from gateway.store.connection import DirectoryLock, share_cache
from gateway.store.leases import Desk
from gateway.store.leaving import Leaving
from gateway.store.moments import Evidence
from gateway.store.notebook import Notes
from gateway.store.policy import ALL, LaneScheduler, Terms
from gateway.store.recent import Recent, Row
from gateway.store.records import Lease, Loss, Quarantined, SetAside, StoreError, StoreStatus
from gateway.store.room import Room
from gateway.store.series import SeriesBounds, SeriesRegistry
from gateway.store.settings import ANY_BOARD, BoardLimits, StoreSettings
from gateway.store.starting import Started, Starter, is_damage
from gateway.store.surroundings import Surroundings
from gateway.store.taking import ANY, EVERYTHING, OWN, Takes
from gateway.store.unwritten import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
    from gateway.core.clock import Clock, Timeline
    from gateway.core.contracts import Priority, Signal
    from gateway.core.telemetry import Telemetry
    from gateway.store.apart import Apart
    from gateway.store.forgetting import Holder
    from gateway.store.spots import Outlook

__all__ = ["BoardLimits", "Lease", "Loss", "SeriesBounds", "SetAside", "Store", "StoreError", "StoreSettings"]

log = logging.getLogger("tidegate.store")

EVENTS_MAX: Final = 32
OPENINGS_MAX: Final = 2
NO_BOUNDS: Final[Mapping[str, Takes]] = {}
SERIES_SHARE: Final = 8
"""What series take in memory is at most so much of the shelf's size: on the disk less than twice as much."""


class Store:
    """An open shelf. Made by `open`; `close` commits what is pending."""

    def __init__(self, started: Started, around: Surroundings, *, lock: DirectoryLock) -> None:
        opened = started.opened
        self.timeline: Timeline = opened.timeline
        self.events = opened.events[-EVENTS_MAX:]
        self.lost_at_start = opened.lost
        self._connection, self._reader, self._shelf = started.writer, started.reading, started.reader
        self._frozen = started.frozen
        self._around = around
        self._lock = lock
        self._forgotten = opened.forgotten
        self._registry = SeriesRegistry(
            opened.series,
            series_max=around.max_series,
            bounds=around.series,
            next_number=opened.state.series_next,
            # Which of them the shelf's segments hold is not known: any of them may be in any.
            held_to=opened.state.sequence - 1,
            now_s=around.clock.monotonic_ns() // NS_PER_S,
            unsaved=opened.restored,
        )
        opened.series.clear()
        recent = Recent(bytes_max=int(around.settings.recent_bytes), floor=opened.state.sequence)
        self._desks = {
            share.name: Desk(
                share.name,
                bit=share.bit,
                live_from=opened.state.sequence,
                reader=started.reader,
                recent=recent,
                scheduler=LaneScheduler(backlog_share=around.settings.backlog_share),
                damaged=self._settle_damaged,
                allowance=Allowance(self._ask),
                thinned=share.thinned,
                evidence=share.evidence,
                takes=around.takes.get(share.name, EVERYTHING),
            )
            for share in opened.accounts.configured
            if share.name != NOBODY
        }
        for share in opened.accounts.configured:
            if share.name in self._desks:
                self._desks[share.name].link_up(opened.state.sequence, held=share.held)
        self._committer = Committer(
            started.writer, opened, around, desks=self._desks, recent=recent, registry=self._registry
        )
        for name, takes in around.takes.items():
            if takes.number:
                opened.accounts.takes[opened.accounts.shares[name].bit] = takes
        self.notes = Notes(self._desks, opened.accounts, is_sure=not opened.was_mended)
        self.evidence = Evidence(self._desks, self._committer.moments)
        self.settling = self._committer.settling
        self.settling.sent = None if self._frozen is None else self._frozen.sent
        self._task: asyncio.Task[None]

    @classmethod
    async def open(  # noqa: PLR0913  by keyword all of them, and what is new has a default
        cls,
        *,
        state_dir: Path,
        settings: StoreSettings,
        clock: Clock,
        uplinks: Sequence[str],
        max_series: int,
        telemetry: Telemetry,
        commit_interval_s: float,
        series: SeriesBounds | None = None,
        board: BoardLimits = ANY_BOARD,
        notes_dir: Path | None = None,
        takes: Mapping[str, Takes] = NO_BOUNDS,
    ) -> Store:
        """Open the shelf in `state_dir`, a new one where there is none; raise StoreError that says what to do.

        A damaged one is salvaged: what can be read is kept, the rest is set aside in a file that `events` name. One
        that cannot be written is read, so that what it holds can be sent; `is_frozen` says so. What was sent by then
        is noted in `notes_dir`, a folder that outlives the process, at the end. `takes` says of uplinks what they take
        (store/taking): of what is held for them no more than that stays so.
        """
        series = series or SeriesBounds()
        # They stand twice on the disk: on a small shelf they must not crowd out what is to be sent.
        series = replace(series, bytes_max=min(series.bytes_max, int(settings.max_bytes) // SERIES_SHARE))
        lock = DirectoryLock(state_dir)
        note_path = path_of(notes_dir, state_dir)
        for _ in range(OPENINGS_MAX):
            async with contextlib.AsyncExitStack() as undo:
                undo.callback(lock.close)
                room = Room(state_dir, settings, log_bytes_max=board.log_bytes_max)
                grace_s = float(settings.uplink_grace)
                starter = Starter(
                    state_dir, uplinks=uplinks, clock=clock, room=room, grace_s=grace_s, note_path=note_path
                )
                started = await starter.start()
                undo.push_async_callback(started.close)
                await share_cache(started.writer, started.reading, board.cache_bytes)
                room.is_frozen = started.frozen is not None
                await room.measure(started.writer)
                room.keep_ballast()
                around = Surroundings(
                    settings,
                    room,
                    clock,
                    telemetry,
                    max_series,
                    series,
                    commit_interval_s,
                    closed=started.closed,
                    note_path=note_path,
                    takes=takes,
                )
                store = cls(started, around, lock=lock)
                await store._committer.begin()
                await store._leave_out()
                undo.pop_all()
            if not store.is_damaged:
                break
            # It only showed when it was written to; the second time it is salvaged first.
            await store._end()
        for event in store.events:
            log.warning("%s", event)
        store._task = asyncio.create_task(store._committer.run(), name="store commits")
        return store

    async def _leave_out(self) -> None:
        """Take from what is held for uplinks what they do not take."""
        committer, takes = self._committer, {name: desk.takes for name, desk in self._desks.items()}
        leaving = Leaving(committer.accounts, reader=self._shelf, settling=self.settling, commit=committer.commit)
        found = await leaving.leave(takes, before=committer.next_sequence)
        for name, readings in found.items():
            self.events.append(f"{name} takes less than it was given: {readings} readings held for it are left out")
            self.link_up(name)

    @cached_property
    def apart(self) -> Apart:
        """Who keeps apart what is left of leases: made for whoever has any such."""
        from gateway.store.apart import Apart  # noqa: PLC0415  memory for those

        return Apart(self._committer, self._desks)

    @property
    def own_origin(self) -> int:
        """What the gateway's own numbers and records are of: told apart where an uplink takes only some mappings."""
        return OWN if any(one.origins is not None for one in self._committer.accounts.takes.values()) else ANY

    def resolve(self, series: Series, owner: str = "", *, is_own: bool = False) -> int | None:
        """Return the number of `series`, a new one where it is new; None where there is no room for it.

        `owner` is one of those who share the series, "" nobody of them; `is_own` is for the gateway's own words. Who
        keeps a number longer than one step of the event loop must be one of those that `add_holder` knows.
        """
        return self._registry.resolve(series, owner, is_own=is_own)

    def owner(self, number: int) -> str:
        """Return who brought the series that has `number`, "" where that is not known."""
        return self._registry.owner(number)

    def add_holder(self, holder: Holder) -> None:
        """From now on ask `holder` before a series is forgotten, and tell it then."""
        self._committer.forgetter.holders.append(holder)

    def started_series(self) -> list[Series]:
        """Return the sums that know since when they count, the oldest first."""
        return self._registry.started()

    def series(self, number: int) -> Series:
        """Return the series that has `number`."""
        return self._registry.series(number)

    @property
    def accepted(self) -> int:
        """How many readings were accepted, ever."""
        return self._committer.accounts.accepted

    async def wait_for_room(self) -> None:
        """Return when something may be appended, or raise FullError; what follows must not await before `append`."""
        await self._committer.gathering.wait_for_room()

    def append(
        self,
        pieces: Sequence[tuple[Priority, Batch]],
        *,
        logs: LogRecords | Sequence[LogRecords] | None = None,
        records: Sequence[tuple[Priority, ResourceRecords]] = (),
        losses: Sequence[Loss] = (),
        set_aside: Sequence[SetAside] = (),
        is_last: bool = False,
    ) -> asyncio.Future[None]:
        """Keep all of this, or raise FullError with nothing kept, now or later. Done after the fsync of its commit.

        With `is_last` the commit comes early: whoever sent this sends nothing more until it is answered.
        """
        gathering = self._committer.gathering
        return gathering.append(pieces, logs=logs, records=records, losses=losses, set_aside=set_aside, is_last=is_last)

    def defer(self, come: Callable[[], None], *, is_last: bool = False) -> bool:
        """Have `come` called when the next commit begins, to `append` to it; False where that is to be done now."""
        return self._committer.gathering.defer(come, is_last=is_last)

    def pace(self, *, interval_s: float, gap_s: float) -> None:
        """Commit `interval_s` after the first arrival from now on, and early ones at least `gap_s` apart."""
        self._committer.pace.interval_s, self._committer.pace.gap_s = interval_s, gap_s

    def hurry(self) -> None:
        """Commit at once what waits, and what comes until `pace` says otherwise."""
        self.pace(interval_s=0, gap_s=0)
        self._committer.want()

    async def lease(
        self, uplink: str, *, readings_max: int, bytes_max: int, may_wait: bool = True, terms: Terms = ALL
    ) -> Lease | None:
        """Return what `uplink` sends next, at least one segment; None when `terms` let nothing go that is held for it.

        What may be sent has to stand on the disk first: it may wait for a commit, or without `may_wait` return None.
        """
        await self.settling.wait()
        desk = self._desks[uplink]
        try:
            lease = await desk.lease(readings_max=readings_max, bytes_max=bytes_max, may_wait=may_wait, terms=terms)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            # What is in memory still leaves; the rest waits for the next start, which salvages, or for the disk.
            await self._committer.met_damage(error)
            desk.has_some.clear()
            return None
        self._committer.gathering.look()
        return lease

    def keeps_up(self, uplink: str, *, keeps_up: bool) -> None:
        """Take note that a road takes what it is given at once: then the doors do not run away from it."""
        desk = self._desks[uplink]
        if desk.keeps_up != keeps_up:
            desk.keeps_up, desk.behind_bytes = keeps_up, 0
            self._committer.gathering.look()

    def has_some(self, uplink: str) -> bool:
        """Whether something can be leased, as far as is known without looking."""
        return self._desks[uplink].has_some.is_set()

    def unleased(self, uplink: str) -> int:
        """Return how many readings are held for `uplink` and not leased."""
        return self._committer.accounts.shares[uplink].held - self._desks[uplink].leased_readings

    async def wait_held(self, uplink: str) -> None:
        """Return when something can be leased."""
        await self._desks[uplink].has_some.wait()

    async def wait_for_readings(self, uplink: str, readings: int) -> None:
        """Return when at least so many readings are held for `uplink`; looked at once a commit."""
        await self._committer.watchers.wait(uplink, readings)

    def ack(
        self,
        lease: Lease,
        *,
        rejected: int = 0,
        reason: str = "rejected",
        aside: Sequence[tuple[str, int, bytes]] = (),
    ) -> None:
        """Settle a lease: delivered, but for `rejected` readings, which go to the ledger. A second ack does nothing.

        `aside` are those of them that a person may want to see: why, how many, and as a segment.
        """
        self.settling.ack(lease, rejected=rejected, reason=reason, aside=aside)

    def thinned(self, lease: Lease, *, readings: int) -> None:
        """Take a lease back for which `readings` arrived that stand for all of it.

        All of it is still held, and goes whole when nothing else does; then those were sent twice. If it has to go
        before that, the ledger says `diluted`.
        """
        self.settling.thinned(lease, readings=readings)

    def release(self, lease: Lease, *, maybe_delivered: bool, put_off_s: float = 0.0) -> None:
        """Put it back to be sent again, after `put_off_s`; with `maybe_delivered` it counts as possibly sent twice."""
        self.settling.release(lease, maybe_delivered=maybe_delivered, put_off_s=put_off_s)

    def put_off_s(self, uplink: str) -> float:
        """Return for how long anything that was put off still lets others go first."""
        return max(0.0, self._desks[uplink].put_off_until_s - asyncio.get_running_loop().time())

    async def count_maybe_twice(self, lease: Lease, readings: int) -> None:
        """Count a part of `lease` that got no answer and is sent again from the hand; return when that is written."""
        self.note_maybe_twice(lease, readings)
        allowance = self._desks[lease.uplink].allowance
        while allowance.is_in_doubt and await allowance.wait():
            pass

    def note_maybe_twice(self, lease: Lease, readings: int) -> None:
        """Count a part of `lease` that is sent again; no other lease leaves before that is written."""
        self.settling.count_maybe_twice(lease.uplink, readings)
        self._desks[lease.uplink].allowance.doubt()

    def rest(self, uplink: str, seconds: float) -> None:
        """Take note that nothing is leased for so long: what is held is not taken for sent if the process dies."""
        self._desks[uplink].allowance.rest(asyncio.get_running_loop().time() + seconds)

    def refuse(self, lease: Lease, reason: str, message: str) -> None:
        """Give up a lease that is never taken: to the ledger, and for a while aside for a person to look at."""
        self.settling.refuse(lease, reason, message)

    def _ask(self) -> None:
        self._committer.want()

    def _settle_damaged(self, name: str, rows: list[Row]) -> None:
        self.settling.damaged(name, rows)

    def share_backlog(self, uplink: str, share: float) -> None:
        """Give the backlog of one uplink another share than `[store] backlog_share`; not after its first lease."""
        self._desks[uplink].scheduler = LaneScheduler(backlog_share=share)

    def hold(self, uplink: str, signal: Signal, seconds: float) -> None:
        """Lease nothing of a signal for so long: its way is wrong, and the others' may be right."""
        self._desks[uplink].hold(signal, seconds)

    def link_up(self, uplink: str) -> None:
        """Take note that the road is open again: from now on what arrives is live, what is older is backlog."""
        self._desks[uplink].link_up(self._committer.next_sequence, held=self._committer.accounts.shares[uplink].held)

    def outlook(self, uplink: str) -> Outlook:
        """Return what may be held for an uplink, and what came in, as far as is known without looking."""
        return self._desks[uplink].outlook()

    async def tend(self) -> None:
        """Look after age, old boots and the ballast now; it happens by itself every half minute."""
        await self._committer.tend()

    @property
    def is_damaged(self) -> bool:
        """Whether the file turned out to be wrong while it was used: the next `open` salvages it."""
        return self._committer.is_damaged

    @property
    def is_frozen(self) -> bool:
        """Whether the shelf could only be read when it was opened: nothing is taken until the next `open`."""
        return self._frozen is not None

    @property
    def is_writing(self) -> bool:
        """Whether the data path moves; `trouble` in `status` says why not.

        A shelf that is full and refuses does what it was told; a full disk that takes nothing, though what is old would
        make way, is in nobody's plans.
        """
        trouble = self._committer.trouble
        is_stuck = trouble.is_starved and self._around.settings.when_full != "refuse"
        return not (self.is_closed or trouble.is_failing or is_stuck)

    @property
    def is_taking(self) -> bool:
        """Whether what comes is taken just now; `trouble` in `status` says why not."""
        return not self.is_closed and self._committer.trouble.is_taking

    @property
    def is_closed(self) -> bool:
        """Whether nothing is taken until the next `open`: it is frozen, or its files were taken away."""
        return bool(self._committer.trouble.closed)

    async def can_be_written(self) -> bool:
        """Whether a shelf that is closed is none after the next `open`, as far as can be told without it.

        One whose file was taken away loses by that what it still holds; so not before all of it is sent.
        """
        frozen, presence = self._frozen, self._committer.trouble.presence
        if frozen is not None:
            return await asyncio.to_thread(frozen.can_be_written, self._around.room)
        return self.is_closed and presence is not None and presence.may_begin_anew(closing.held_by(self._committer))

    def look_at_files(self) -> None:
        """See whether the files that are open are still in their places; each commit looks too."""
        self._committer.look_at_files()

    def look_at_clock(self) -> None:
        """See whether the wall clock was set or confirmed since the last commit, which looks too."""
        self._committer.look_at_clock()

    def is_moving(self) -> bool:
        """Whether commits are not stuck; whether they succeed is in `status`."""
        return self._committer.is_moving()

    @property
    def newest_segments(self) -> dict[int, int]:
        """Row ids and origins of the columns that the last commit wrote: who returns from `append` finds his there."""
        return dict(self._committer.newest)

    async def whereabouts(self, ids: Sequence[int]) -> dict[int, dict[str, str]]:
        """Say where segments (few) are now, for each uplink: held, sending, thinned, settled, left_out, or gone."""
        shares = self._committer.accounts.shares
        origins_of = self._shelf.origins
        return await asking.whereabouts(self._reader, ids, desks=self._desks, shares=shares, origins_of=origins_of)

    async def quarantined(self, *, limit: int = 20) -> list[Quarantined]:
        """Return the last payloads of which not all could be used, the newest first."""
        return await asking.quarantined(self._reader, limit=limit)

    def status(self) -> StoreStatus:
        """Return counts in readings, sizes in bytes, and what is wrong."""
        accounts = self._committer.accounts
        return {
            "accepted": accounts.accepted,
            "uplinks": asking.accounts_of(
                accounts,
                self._desks,
                self.timeline,
                forgotten=self._forgotten,
                grace_s=float(self._around.settings.uplink_grace),
                now_ns=self._around.clock.monotonic_ns,
            ),
            "store": self._committer.status() | self._registry.status() | {"read_only": self.is_frozen},
            "clock": {
                "quality": self.timeline.quality.name.lower(),
                "is_doubted": self.timeline.is_doubted,
                "steps": self.timeline.steps,
                "boot": self.timeline.current.boot,
            },
            "events": list(self.events),
        }

    async def _end(self) -> None:
        await closing.end(self._committer, self._connection, self._reader, self._frozen)

    async def close(self) -> None:
        """Commit what is pending and close. Whoever appends later gets a FullError."""
        self._committer.stop()
        try:
            await self._task
            await self._committer.commit(last=True)
            await self._committer.naming.close()
            await closing.write_down(self._committer, self._frozen, self._around)
        finally:
            await self._end()
            self._lock.close()
