"""The one who writes: gathers what waits, makes room, commits, and lets it take effect. Must not know SQL.

Whatever fails, nothing is kept half: those who appended get a FullError and may offer the same again, what was
acked is settled by a later commit, and `trouble` says in a sentence what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.contracts import BootId, FullError
from gateway.core.timeouts import timeout
from gateway.store.accounts import Change, encode_state
from gateway.store.allowance import MUTE_S, allow_all, mute_all
from gateway.store.connection import DATABASE
from gateway.store.disks import is_full, is_unsynced
from gateway.store.drawer import Drawer, cut
from gateway.store.effects import Effects
from gateway.store.forgetting import Forgetter
from gateway.store.gathering import RETRY_S, Gathering
from gateway.store.keeping import TEND_S, Keeper, full_and_refuse
from gateway.store.moments import Moments
from gateway.store.naming import Naming
from gateway.store.pace import Pace
from gateway.store.pages import LOG_HEADER_BYTES
from gateway.store.planning import encode_boot, make_change, next_state
from gateway.store.reached import Reached
from gateway.store.settling import Settling
from gateway.store.starting import is_damage, mark_suspect
from gateway.store.trouble import Trouble
from gateway.store.unwritten import notes_of
from gateway.store.waiting import Watchers
from gateway.store.writer import Pending, Transaction, answer, seal, write

if TYPE_CHECKING:
    import aiosqlite

    from gateway.store.accounts import Accounts, Dilution, State
    from gateway.store.leases import Desk
    from gateway.store.opening import Opened
    from gateway.store.recent import Recent
    from gateway.store.series import SeriesRegistry
    from gateway.store.surroundings import Surroundings
    from gateway.store.unwritten import Unwritten
    from gateway.store.writer import Sealed

log = logging.getLogger("tidegate.store")

# Acks alone don't hurry: they ride with the next arrivals, or go by themselves after this long.
ACK_WAIT_S: Final = 2.0
# Doors that are closed for as long as this store is open are not knocked at every second.
CLOSED_RETRY_S: Final = 10.0
# By so much of the interval the next commit may be late: what is leased until then is allowed by this one.
NEXT_SLACK: Final = 0.5
# An uplink that is behind by less than this share of `recent_bytes` finds all of it in memory.
BEHIND_SHARE: Final = 2
DRAWER_SHARE: Final = 8
"""What is set aside takes an eighth of the shelf at most, however much of it there may be by the settings."""
STUCK_S: Final = 60.0
"""How long a commit may take until the store no longer counts as moving: worn cards stall for many seconds."""


class Committer:
    """The pending work of one store and the loop that commits it."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        opened: Opened,
        around: Surroundings,
        *,
        desks: dict[str, Desk],
        recent: Recent,
        registry: SeriesRegistry,
    ) -> None:
        settings = around.settings
        self.connection = connection
        self.state = opened.state
        self.accounts = opened.accounts
        self.timeline = opened.timeline
        self.room = around.room
        self.trouble = Trouble(around.room, lasting=around.closed)
        # What is set aside counts as used: on a small shelf it must not crowd out what is to be sent.
        drawer_bytes_max = int(settings.max_bytes) // DRAWER_SHARE
        self.quarantine = Drawer(opened.quarantine, bytes_max=min(int(settings.quarantine_bytes), drawer_bytes_max))
        self.refused = Drawer(opened.refused, bytes_max=min(int(settings.refused_bytes), drawer_bytes_max))
        self._reached = Reached(around.room.state_dir)
        self.naming = Naming(around, opened.names, registry)
        self._written = opened.written
        self._unsynced: tuple[State, Change] | None = None  # failed, and may be on the disk all the same
        self._desks = desks
        self._recent = recent
        self._registry = registry
        self._settings = settings
        self.pace = Pace(around.commit_interval_s)
        self._clock = around.clock
        self._telemetry = around.telemetry
        self.gathering = Gathering(
            settings=settings,
            telemetry=self._telemetry,
            pace=self.pace,
            want=self.want,
            offset_ns=self._offset_ns,
            is_refusing=self._is_refusing,
            refusal=self._refusal,
            is_behind=self._is_behind,
        )
        self.watchers = Watchers(lambda uplink: self.accounts.shares[uplink].held)
        self._boots_unsaved = True
        self.forgetter = Forgetter(registry, clock=self._clock, telemetry=self._telemetry)
        self.settling = Settling(
            self.accounts, desks=desks, forgetter=self.forgetter, want=self._want_settled, now_ns=self.now_ns
        )
        self.moments = Moments(next_sequence=opened.state.sequence, evidence=opened.state.dilution.evidence)
        self._effects = Effects(desks, opened.accounts, recent)
        self._keeper = Keeper(connection, opened, around, desks=desks, evidence=self.moments.evidence)
        self._due_s: float | None = None
        self._wake = asyncio.Event()
        self._started_s: float | None = None
        self._tended_s = asyncio.get_running_loop().time()
        self._closing = self.is_damaged = False
        self.newest: dict[
            int, int
        ] = {}  # ids of the segments of columns that the last commit wrote, with their origins

    def look_at_clock(self) -> None:
        """See whether the wall clock was set or confirmed; what is learnt goes to the disk soon."""
        if self.timeline.observe(self._clock):
            self._boots_unsaved = True
            self.want(ACK_WAIT_S)

    def look_at_files(self) -> None:
        """See whether the open files are in their places; a log alone that is not is saved by a commit at once."""
        was_gone = self.trouble.is_log_gone
        self.trouble.look_at_files()
        if self.trouble.is_log_gone and not was_gone:
            self.want()

    def now_ns(self) -> int:
        """Return Unix ns if a clock is known, else 0."""
        return self.timeline.wall_from(self._clock.monotonic_ns()) or 0

    @property
    def next_sequence(self) -> int:
        """The sequence from which on nothing has been committed yet."""
        return self.state.sequence

    def status(self) -> dict[str, object]:
        """Return the shelf's side of the status: bytes, and what is wrong."""
        return {
            "used_bytes": self.room.used_bytes,
            "max_bytes": int(self._settings.max_bytes),
            "pending_bytes": self.gathering.waiting_bytes,
            "quarantined": len(self.quarantine),
            "refused": len(self.refused),
            "commits": self.state.commit,
            "rewritten": self.state.dilution.count,
            "diluted": self._describe_dilution(),
            "too_many_series": self._keeper.too_many_series,
            "trouble": self.trouble.sentence,
        }

    def _describe_dilution(self) -> list[dict[str, object]]:
        if not self.state.dilution.stretches:
            return []
        from gateway.store.rewriting import describe  # noqa: PLC0415  memory for who has a full shelf

        return describe(self.state.dilution.stretches)

    def damaged(self, why: str) -> None:
        """Take note that the file is wrong: nothing here mends it, the next start does."""
        self.trouble.lasting = f"{DATABASE} is damaged ({why}); it is salvaged at the next start"
        self.is_damaged = True
        mark_suspect(self.room.state_dir, why)

    async def met_damage(self, error: sqlite3.Error) -> bool:
        """Take note that SQLite finds the file wrong; False where it is the disk that is, and is asked again."""
        if await self.trouble.is_the_disks_doing():
            return False
        self.damaged(str(error))
        return True

    def is_moving(self) -> bool:
        """Whether the commit under way, if any, is not stuck, and the file is whole."""
        if self.is_damaged:
            return False
        return self._started_s is None or asyncio.get_running_loop().time() - self._started_s < STUCK_S

    def _is_behind(self) -> bool:
        """Whether an uplink that takes all at once has much to take: what comes in would only keep it from it."""
        most = self._settings.recent_bytes // BEHIND_SHARE
        return any(desk.keeps_up and desk.behind_bytes > most for desk in self._desks.values())

    def want(self, wait_s: float = 0.0) -> None:
        """Ask for a commit, so many seconds from now at the latest."""
        due_s = asyncio.get_running_loop().time() + wait_s
        if self._due_s is None or due_s < self._due_s:
            self._due_s = due_s
            self._wake.set()

    def _want_settled(self, now: bool) -> None:  # noqa: FBT001  the one thing to say
        # Where commits are stretched to spare the card, acks must not bring them forward.
        self.want(0 if now else max(ACK_WAIT_S, self.pace.interval_s))

    def unwritten(self) -> list[Unwritten]:
        """Return what is settled and not written."""
        states = [(self.state, Change()), *([] if self._unsynced is None else [self._unsynced])]
        return notes_of(states, self.accounts, done=self.settling.done, written=self._written)

    # The loop.

    async def run(self) -> None:
        """Commit what is due until `close`. Never cancelled: a commit under way must come to its end."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            now_s = loop.time()
            tend_in_s = self._tended_s + TEND_S - now_s
            wait_s = tend_in_s if self._due_s is None else min(self._due_s - now_s, tend_in_s)
            if tend_in_s <= 0:
                self._tended_s = now_s
                await self.tend()
            elif wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with timeout(wait_s):
                        await self._wake.wait()
                self._wake.clear()
            else:
                await self.commit()

    def stop(self) -> None:
        """Take no more, and let `run` return after the commit under way."""
        self._closing = self.gathering.is_closing = True
        for desk in self._desks.values():
            desk.allowance.close()
        self._wake.set()
        self.settling.stop()

    async def begin(self) -> None:
        """Commit what the start changed, and move it into the file, which says from then on that it has a log."""
        await self.commit()
        self.trouble.watch_files()
        if not self.trouble.sentence:
            await self._move_log()
            self._reached.begin(self.state.commit, log_bytes=self.room.log_size_bytes)
            await self.naming.begin(self.state)

    async def commit(self, *, last: bool = False) -> None:
        """Commit what is pending now. Failures end up with those who wait and in `trouble`."""
        pending = self.gathering.take()
        if pending.waiters and (closed := self.trouble.look_at_files()):
            answer(pending, self.gathering.full("closed", closed, CLOSED_RETRY_S))
            pending = Pending()
        # Whatever was wanted until now, those who came just now included, this commit brings.
        self._due_s = None
        self._started_s = asyncio.get_running_loop().time()
        self.pace.began(self._started_s)
        try:
            has_turned_away = await self._attempt(pending, last=last)
            if has_turned_away and (
                last or self.settling.done or any(desk.allowance.is_awaited for desk in self._desks.values())
            ):
                # Who is turned away comes again and again: what makes room must not wait until nobody does.
                await self._attempt(Pending(), last=last)
            if self.trouble.is_log_gone:
                # It has no name any more: what it holds would be gone with this process.
                await self._move_log()
        finally:
            self.gathering.done()
            self._started_s = None

    async def _attempt(self, pending: Pending, *, last: bool) -> bool:
        """Commit `pending` and answer it; return whether it was turned away for want of room."""
        try:
            await self._commit(pending, clean=last)
        except Exception as error:  # noqa: BLE001  supervised here: whatever fails, those who wait get an answer
            await self._failed(pending, error)
            return isinstance(error, FullError)
        if self.trouble.has_disk_failed:
            # Who read nonsense while it did reads again.
            for desk in self._desks.values():
                desk.has_some.set()
        self.trouble.succeeded(when_full=self._settings.when_full, has_brought=pending.size_bytes > 0)
        answer(pending)
        return False

    def _turned_away(self, error: FullError, size_bytes: int = 0) -> FullError:
        """Note that so many bytes found no room, and why; return what to raise."""
        self.trouble.turned_away(str(error), size_bytes)
        return self.gathering.full("full", str(error), RETRY_S)

    def _is_refusing(self, readings: int) -> bool:
        """Whether so many readings are not even taken at the door."""
        may_refuse = self._settings.when_full == "refuse" and readings and not self._keeper.has_leftovers
        try:
            return bool(self.trouble.closed or (may_refuse and self.room.lacking(0)))
        except OSError:
            # The directory is gone, or its disk: the commit says which.
            return False

    def _refusal(self) -> FullError:
        """Note that somebody was refused at the door; return why."""
        if self.trouble.closed:
            return self.gathering.full("closed", self.trouble.closed, CLOSED_RETRY_S)
        return self._turned_away(full_and_refuse(self.room))

    async def _failed(self, pending: Pending, error: Exception) -> None:
        if isinstance(error, FullError):
            full = self._turned_away(error, self._keeper.turned_away_bytes)
            self.want(ACK_WAIT_S)
        elif closed := self.trouble.look_at_files():
            # Whatever failed, it is because of that; who rested at the last commit would wait for the next for ever.
            mute_all((desk.allowance for desk in self._desks.values()), failing_s=0.0)
            full = self.gathering.full("closed", closed, CLOSED_RETRY_S)
            self.want(RETRY_S)
        else:
            if not isinstance(error, sqlite3.Error) or not is_damage(error) or await self.met_damage(error):
                self.trouble.failed(error)
            failing_s = self.trouble.failing_s()
            if self.trouble.has_disk_failed or failing_s >= MUTE_S:
                mute_all((desk.allowance for desk in self._desks.values()), failing_s=failing_s)
            full = self.gathering.full(self.trouble.kind, self.trouble.sentence, RETRY_S)
            self.want(RETRY_S)
        answer(pending, full)

    async def _commit(self, pending: Pending, *, clean: bool) -> None:
        sealed = seal(
            pending,
            sequence=self.state.sequence,
            previous_hash=self.state.previous_hash,
            boot=self.timeline.current.boot,
            offset_ns=self._offset_ns(),
            takes=self.accounts.takes,
            dilution=self.state.dilution,
        )
        try:
            await self._write(pending, sealed, clean=clean)
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise
            # The disk is full, whatever the quota says. Some air for the log, then once more with what is left.
            self.trouble.disk_full()
            self.room.drop_ballast()
            await self._rewind_log()
            await self._write(pending, sealed, clean=clean, may_rewrite=False)

    async def _move_log(self) -> None:
        """Move what the log holds into the file."""
        try:
            await self._rewind_log()
        except sqlite3.DatabaseError as error:
            await self.met_damage(error)

    async def _rewind_log(self) -> None:
        try:
            await self.connection.execute_fetchall("PRAGMA wal_checkpoint(RESTART)")
        except sqlite3.OperationalError as error:
            log.warning("no checkpoint: %s", error)

    def _offset_ns(self) -> int | None:
        """Return what Unix time is ahead of this boot's clock, None where that is not known."""
        now_ns = self._clock.monotonic_ns()
        wall_ns = self.timeline.wall_from(now_ns)
        return None if wall_ns is None else wall_ns - now_ns

    async def _write(self, pending: Pending, sealed: Sealed, *, clean: bool, may_rewrite: bool = True) -> None:
        # New series and what is set aside take room too, but never make anybody go by themselves.
        size_bytes = sealed.size_bytes
        if size_bytes:
            size_bytes += self._registry.unsaved_bytes + self.refused.growth_bytes(self.settling.refusing)
            size_bytes += self.quarantine.growth_bytes([cut(what) for what in pending.set_aside])
        found = await self._keeper.find_victims(size_bytes, sealed.settled(self.settling.done), may_rewrite=may_rewrite)
        # From here to the transaction all is one step of the event loop: nobody acks or leases in between.
        # While victims were looked for, somebody may have begun to send one: it stays, or it would be both
        # delivered and lost.
        victims = [(reason, victim) for reason, victim in found if self._keeper.may_go(victim.id)]
        self._boots_unsaved |= self.timeline.observe(self._clock)
        done, refusing = self.settling.take()
        gone = [victim.id for _, victim in victims]
        rewritings = self._keeper.take_rewritings(done, gone)
        hidden = [*gone, *(segment_id for of in rewritings for segment_id in of.ids)]
        self._effects.hide(hidden)
        tried = None
        try:
            change = make_change(
                self.accounts,
                sealed=sealed,
                losses=pending.losses,
                victims=victims,
                done=done,
                timeline=self.timeline,
                now_ns=self.now_ns(),
                rewritings=rewritings,
            )
            rewritten, dilution = self._keeper.note(sealed.dilution, rewritings)
            leaving = self.forgetter.plan(sealed, self.gathering.pending)
            work, state = self._plan(pending, sealed, change, dilution, clean=clean)
            work.series_left = leaving
            work.removed, work.rewritten = gone, rewritten
            # What fails is taken back without these.
            work.done = sealed.settled(done)
            work.refused = self.refused.plan(self.now_ns(), refusing)
            tried = None if hidden else (state, change)
            pages = await write(self.connection, work)
        except BaseException as error:
            if tried is not None and is_unsynced(error):
                self._unsynced = tried
            self.settling.take_back(done, refusing)
            self._effects.show(hidden, done)
            raise
        self._unsynced = None
        self.accounts.apply(change)
        self.state = state
        self._take_effect(work)
        self.forgetter.moved(rewritings)
        if self.forgetter.took_effect(sealed, len(work.series_left)):
            self.want(ACK_WAIT_S)
        self.room.note(*pages)
        self._reached.note(state.commit, log_bytes=self.room.log_size_bytes)
        self.naming.committed(work.series, work.series_left, state)

    def _plan(
        self, pending: Pending, sealed: Sealed, change: Change, dilution: Dilution, *, clean: bool
    ) -> tuple[Transaction, State]:
        after = self.accounts.copy()
        after.apply(change)
        state = next_state(
            msgspec.structs.replace(self.state, dilution=dilution),
            after,
            sealed=sealed,
            timeline=self.timeline,
            desks=self._desks,
            series_next=self._registry.next_number,
            log_bytes=0 if clean else max(self.room.log_size_bytes, LOG_HEADER_BYTES),
            allowed=self._allow(after, clean=clean),
        )
        work = Transaction(
            encode_state(state),
            segments=sealed.segments,
            stored=(self.timeline.current.boot, self.timeline.current.last_ns),
            active=after.active,
            kept=[(share.bit, removal.sequence) for share, removal in after.kept],
            series=self._registry.unsaved(),
            ledger={key: entry for key, entry in after.ledger.items() if self._written.get(key) != entry},
            boots=[encode_boot(self.timeline.current)] if self._boots_unsaved else [],
            boots_from=self._keeper.forget_before,
            quarantine=self.quarantine.plan(self.now_ns(), [cut(what) for what in pending.set_aside]),
        )
        return work, state

    def _allow(self, after: Accounts, *, clean: bool) -> dict[str, int]:
        """Return how many readings each uplink may lease before the next commit: none after the very last one."""
        # The next commit is due so long after the next arrival, which may come a little later than this one.
        next_s = asyncio.get_running_loop().time() + self.pace.interval_s * (1 + NEXT_SLACK)
        # Whom this commit brings enough leases at once, whenever it meant to.
        called = {name for name in self._desks if self.watchers.has_enough(name, after.shares[name].held)}
        return allow_all(self._desks, next_s=float("-inf") if clean else next_s, called=set() if clean else called)

    def _take_effect(self, work: Transaction) -> None:
        """Let memory follow what is now on the medium."""
        self.settling.written()
        self._registry.saved(len(work.series))
        self._written.update(work.ledger)
        self._boots_unsaved = False
        if work.boots_from:
            self.timeline.forget_before(BootId(work.boots_from))
            self._keeper.forget_before = BootId(0)
        self.quarantine.done(work.quarantine)
        self.refused.done(work.refused)
        self.newest = {new.row.id: new.origin for new in work.segments if new.is_columns and not new.is_apart}
        self.moments.committed(asyncio.get_running_loop().time(), self.state.sequence)
        self._effects.take_effect(work, now_s=self.moments.now_s)
        self.watchers.look()
        self._telemetry.count("tidegate_store_commits")
        if work.rewritten:
            self._telemetry.count("tidegate_store_rewritten_segments", len(work.rewritten))
            self._telemetry.count("tidegate_store_rewritten_bytes", sum(len(new.body) for new in work.rewritten))

    async def tend(self) -> None:
        """Look after the clock, age, old boots and the ballast."""
        # A clock that is set while nothing arrives is noticed too: what is held may be waiting for it.
        if self.timeline.observe(self._clock):
            self._boots_unsaved = True
            self.want(ACK_WAIT_S)
        next_sequence = self.next_sequence
        has_expired = await self._keeper.tend()
        oldest = self._keeper.oldest
        if oldest is not None:
            self.moments.evidence.forget(first=0, last=oldest - 1)
        if self.forgetter.look(next_sequence if oldest is None else min(oldest, next_sequence)) or has_expired:
            self.want(0)
        if not self.trouble.closed:
            await self.naming.tend()
