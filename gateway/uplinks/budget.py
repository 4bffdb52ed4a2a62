"""Budgets: how many bytes may go over a link in an hour, a day and a month, and how many went. Does no I/O.

What is spent stands in a note that the store writes with each of its commits, and not one byte leaves that a note on
the disk does not cover: it says what was spent by then, and how much more may be spent before the next note. A process
that dies leaves all of that as spent; one that stops in order gives it back.

What becomes of it when the wall clock jumps stands in windows.py. In free hours (uplinks/free) what goes is counted by
itself and in no window; but for their last minutes, so that no request that began in them is still under way when they
end. One that is all the same pays from then on, or is cut off. Where no time server stands behind the clock, a little
of each window is kept for requests that ask a receiver for the time: one that is spent would else never be known to
have ended.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.units import Size
from gateway.core.words import span
from gateway.uplinks.free import FreeHours
from gateway.uplinks.guards import NotYetError
from gateway.uplinks.scheduling import WindowLeft
from gateway.uplinks.windows import UTC, WINDOWS, Moment, Spent, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.windows import Calendar

# How much of the least allowance a note covers beyond what is spent, and its bounds: a process that dies spends it.
AHEAD_SHARE: Final = 64
AHEAD_BYTES_MIN: Final = 32 * 1024
AHEAD_BYTES_MAX: Final = 4 * 1024 * 1024
# How long to wait where nobody knows when the window ends.
UNKNOWN_WAIT_S: Final = 60.0
# What is kept for asking for the time, of a window's limit and at most: a request with its connection takes a sixth.
PROBES_SHARE: Final = 32
PROBES_BYTES_MAX: Final = 96 * 1024
# What begins so shortly before free hours end is not free: on a slow line it may take longer.
EDGE_S: Final = 120.0
COUNT_MAX: Final = 1 << 62
NEVER_FREE: Final = FreeHours()


class OverBudgetError(NotYetError):
    """The way has cost what it may for now; what was to go needs `size_bytes`."""

    def __init__(
        self,
        reason: str,
        after_s: float,
        *,
        size_bytes: int,
        left_bytes: int,
        is_end_known: bool,
        may_overdraw: bool = False,
    ) -> None:
        super().__init__(reason, after_s)
        self.may_overdraw = may_overdraw  # and cannot any further
        self.size_bytes = size_bytes
        self.left_bytes = left_bytes  # what would still go
        self.is_end_known = is_end_known


class UnwrittenError(NotYetError):
    """What is to be spent does not stand on the disk yet: it does after the next commit."""

    def __init__(self) -> None:
        super().__init__("waiting for a commit of what is to be spent")


class Note(msgspec.Struct, array_like=True):
    """What the disk knows: what was spent, and how much more may be before it is written anew."""

    ahead_bytes: int = 0
    windows: list[Spent] = []
    looked: Moment | None = None
    free_bytes: int = 0  # that went in free hours, ever


def decode_note(data: bytes) -> Note | None:
    """Read what `Budget.plan` returned; None for what is none."""
    try:
        note = msgspec.msgpack.decode(data, type=Note)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    numbers = [
        note.ahead_bytes,
        note.free_bytes,
        *(number for one in note.windows for number in one.numbers()),
    ]
    return note if all(0 <= number <= COUNT_MAX for number in numbers) else None


def kept_for_probes(limit_bytes: int) -> int:
    """Return what of a window is for asking for the time alone, where no time server stands behind the clock."""
    return min(PROBES_BYTES_MAX, limit_bytes // PROBES_SHARE)


@dataclass(slots=True)
class _Plan:
    """A note that may be on the disk: how much of what it covers is not spent yet."""

    left_bytes: int


class Budget:
    """One uplink's, or a link's for which several pay, each `payer` with one request under way.

    `take`, `go_on` and `settle` are for their threads, the rest for the event loop; each has its moment.
    """

    def __init__(
        self,
        limits: dict[str, int],
        *,
        now: Callable[[], Moment],
        note: bytes = b"",
        calendar: Calendar = UTC,
        free: FreeHours = NEVER_FREE,
        overdraw_bytes: int = 0,
        where: str = "",
    ) -> None:
        self._now, self._where = now, where
        self._overdraw_bytes = overdraw_bytes
        self._free = free
        self._free_taken: dict[str, int] = {}  # by requests under way that began in free hours, by who pays
        self._lock = threading.Lock()
        self._taken_bytes = 0  # by requests under way
        self._wanted_bytes = 0
        self.is_mute = False
        # What the note covers that is on the disk by now is spent already, and the first of ours may not come to it.
        self._plans = [_Plan(0)]
        known = decode_note(note) or Note()
        self._looked = known.looked
        self._free_bytes = known.free_bytes
        spent = {one.window: one for one in known.windows}
        # What goes is counted in all of them: one that is given a limit in its middle knows what went.
        self._counted = [Window(spent.get(name, Spent(name)), calendar, limits.get(name, 0)) for name in WINDOWS]
        self._windows = [window for window in self._counted if window.spent.window in limits]
        # What a process that died may have spent of it, nobody knows.
        for window in self._counted:
            # Nor in which of them: it may have been in the next one.
            window.spent.spend(known.ahead_bytes, is_sure=False)
            window.noted(known.looked)
        self._unsure_bytes = known.ahead_bytes
        # Since when nothing was spent, by the steady clock: of what an earlier boot spent that is all of this one.
        moment = now()
        is_same_boot = known.looked is not None and known.looked.boot == moment.boot
        self._quiet_since_s = moment.steady_s if is_same_boot else 0.0

    def take(self, size_bytes: int, *, is_probe: bool = False, may_overdraw: bool = False, payer: str = "") -> bool:
        """Spend so much, or raise OverBudgetError with nothing spent; UnwrittenError where no note covers it yet.

        What is kept for them is for those that ask for the time alone: `is_probe`. What `may_overdraw` finds room
        beyond the limits, as far as that goes. Returns whether it is free.
        """
        with self._lock:
            self._look()
            is_free = self._free_left_s() > EDGE_S
            if is_free:
                self._free_taken[payer] = self._free_taken.get(payer, 0) + size_bytes
            else:
                self._take(size_bytes, is_probe=is_probe, may_overdraw=may_overdraw)
            return is_free

    def give_back(self, size_bytes: int, *, is_free: bool, payer: str = "") -> None:
        """Take back what `take` has just given, of which nothing goes."""
        with self._lock:
            if is_free:
                self._free_taken[payer] -= size_bytes
            else:
                self._taken_bytes -= size_bytes
                self._spend(-size_bytes)

    def _take(self, size_bytes: int, *, is_probe: bool = False, may_overdraw: bool = False) -> None:
        if (lacking := self._lacking(size_bytes, is_probe=is_probe, may_overdraw=may_overdraw)) is not None:
            raise lacking
        if not self._covers(size_bytes):
            self._wanted_bytes = max(self._wanted_bytes, size_bytes)
            raise UnwrittenError
        self._spend(size_bytes)
        self._taken_bytes += size_bytes

    def go_on(self, spent_bytes: int, *, may_overdraw: bool = False, payer: str = "") -> None:
        """Go on with a request that has cost so much by now: what was free and is no more is taken, as by `take`."""
        with self._lock:
            free_taken_bytes = self._free_taken.get(payer, 0)
            if free_taken_bytes > spent_bytes and not self._free_left_s():
                self._take(free_taken_bytes - spent_bytes, may_overdraw=may_overdraw)
                self._free_taken[payer] = spent_bytes

    def _free_left_s(self) -> float:
        now = self._now()
        return self._free.left_s(now.wall_s, is_sure=now.is_sure)

    @property
    def largest_bytes(self) -> int:
        """The most that one request can ever cost."""
        return min(
            (window.limit_bytes - kept_for_probes(window.limit_bytes) for window in self._windows), default=COUNT_MAX
        )

    def settle(self, taken_bytes: int, spent_bytes: int, *, payer: str = "") -> None:
        """Take note what a request really cost for which `taken_bytes` had been taken."""
        with self._lock:
            self._look()
            free_taken_bytes = self._free_taken.pop(payer, 0)
            free_bytes = min(free_taken_bytes, spent_bytes)
            self._free_bytes += free_bytes
            taken_bytes -= free_taken_bytes
            self._taken_bytes -= taken_bytes
            self._spend(spent_bytes - free_bytes - taken_bytes)

    def _spend(self, size_bytes: int) -> None:
        now = self._now()
        self._quiet_since_s = now.steady_s
        for window in self._counted:
            window.spent.spend(size_bytes, is_sure=now.is_sure)
        for plan in self._plans:
            plan.left_bytes -= size_bytes

    def lacking(self, size_bytes: int, *, may_overdraw: bool = False) -> OverBudgetError | None:
        """Return why so much cannot be spent now and when it can, None if it can."""
        with self._lock:
            self._look()
            is_free = self._free_left_s() > EDGE_S
            return None if is_free else self._lacking(size_bytes, may_overdraw=may_overdraw)

    def _lacking(
        self, size_bytes: int, *, is_probe: bool = False, may_overdraw: bool = False
    ) -> OverBudgetError | None:
        more_bytes = self._overdraw_bytes if may_overdraw else 0
        left = [(self._left(window, is_probe=is_probe, more_bytes=more_bytes), window) for window in self._windows]
        least_bytes = min((left_bytes for left_bytes, _ in left), default=0)
        over = [
            self._over(window, size_bytes, left_bytes=least_bytes, more_bytes=more_bytes)
            for left_bytes, window in left
            if size_bytes > left_bytes
        ]
        # The one that lasts longest is worth saying.
        return max(over, key=lambda error: error.after_s, default=None)

    def _left(self, window: Window, *, is_probe: bool, more_bytes: int = 0) -> int:
        now = self._now()
        is_known = now.is_sure and now.wall_s is not None
        kept_bytes = 0 if is_probe or is_known else kept_for_probes(window.limit_bytes)
        return max(0, window.limit_bytes + more_bytes - window.spent.spent_bytes - kept_bytes)

    def _over(self, window: Window, size_bytes: int, *, left_bytes: int, more_bytes: int) -> OverBudgetError:
        now = self._now()
        after_s = window.end_in_s(now.wall_s)
        free_in_s = self._free.begin_in_s(now.wall_s, is_sure=now.is_sure)
        is_sooner = free_in_s is not None and (after_s is None or free_in_s < after_s)
        more = f", and {Size(more_bytes)} beyond it," if more_bytes else ""
        what = f"the budget of {Size(window.limit_bytes)} per {window.spent.window}{self._where}{more} is spent"
        then = "no clock says when the next begins" if after_s is None else f"the next begins in {span(round(after_s))}"
        if is_sooner and free_in_s is not None:
            after_s, then = free_in_s, f"free hours begin in {span(round(free_in_s))}"
        return OverBudgetError(
            f"{what}, and {then}" if after_s is None else f"{what}; {then}",
            UNKNOWN_WAIT_S if after_s is None else max(1.0, after_s),
            size_bytes=size_bytes,
            left_bytes=left_bytes,
            is_end_known=after_s is not None,
            may_overdraw=more_bytes > 0,
        )

    def _look(self) -> None:
        now, before = self._now(), self._looked
        self._looked = now
        for window in self._counted:
            if now.wall_s is None:
                window.end_quiet(now.steady_s - self._quiet_since_s, under_way_bytes=self._taken_bytes)
            else:
                # What is under way may still leave in the new one, and what a dead process left may have.
                under_way_bytes = self._taken_bytes + (0 if now.is_sure else self._unsure_bytes)
                window.look(now, before, under_way_bytes=under_way_bytes, quiet_since_s=self._quiet_since_s)

    # Around each commit.

    def plan(self, *, is_last: bool = False) -> bytes:
        """Return the note that a commit writes; the last one before a stop covers nothing more."""
        with self._lock:
            self._look()
            least = min((window.limit_bytes for window in self._windows), default=0)
            ahead = max(AHEAD_BYTES_MIN, min(AHEAD_BYTES_MAX, least // AHEAD_SHARE), 2 * self._wanted_bytes)
            # Never more than is left: what a kill leaves as spent must not be more than that.
            left = [self._left(window, is_probe=True, more_bytes=self._overdraw_bytes) for window in self._windows]
            ahead = 0 if is_last else min([ahead, *left])
            # Of an earlier one that was never written nobody knows whether it is on the disk.
            self._plans = [_Plan(min(plan.left_bytes for plan in self._plans)), _Plan(ahead)]
            windows = [window.spent for window in self._counted]
            return msgspec.msgpack.encode(Note(ahead, windows, self._looked, self._free_bytes))

    def written(self) -> None:
        """Take note that what was planned last is on the disk."""
        with self._lock:
            self._plans = self._plans[-1:]
            self.is_mute = False
            self._wanted_bytes = 0
            self._unsure_bytes = 0

    def covers(self, size_bytes: int) -> bool:
        """Whether a note on the disk covers so much; if not, the next one does, as far as there is so much left."""
        with self._lock:
            if self._covers(size_bytes) or self._free_left_s() > EDGE_S:
                return True
            self._wanted_bytes = max(self._wanted_bytes, size_bytes)
            return False

    def _covers(self, size_bytes: int) -> bool:
        return self.is_mute or size_bytes <= min(plan.left_bytes for plan in self._plans)

    @property
    def wants_note(self) -> bool:
        """Whether somebody waits for a note that covers more."""
        return self._wanted_bytes > 0

    def mute(self) -> None:
        """Spend without a note until one is written: the disk takes none."""
        with self._lock:
            self.is_mute = True

    def windows(self) -> list[WindowLeft]:
        """Return what is left of those windows whose end is known; in free hours none of them binds."""
        with self._lock:
            self._look()
            if self._free_left_s() > EDGE_S:
                return []
            wall_s = self._now().wall_s
            return [
                WindowLeft(window.spent.window, self._left(window, is_probe=False), end_in_s)
                for window in self._windows
                if (end_in_s := window.end_in_s(wall_s)) is not None
            ]

    def told(self) -> dict[str, dict[str, object]]:
        """Return limits and what was spent, as `tidegate status` shows it."""
        with self._lock:
            self._look()
            wall_s = self._now().wall_s
            told: dict[str, dict[str, object]] = {
                f"per_{window.spent.window}": {
                    "limit_bytes": window.limit_bytes,
                    "spent_bytes": window.spent.spent_bytes,
                    "ends_in_s": None if (ends_in_s := window.end_in_s(wall_s)) is None else round(ends_in_s),
                }
                for window in self._windows
            }
            if self._overdraw_bytes:
                for window in self._windows:
                    over_bytes = max(0, window.spent.spent_bytes - window.limit_bytes)
                    told[f"per_{window.spent.window}"]["overdrawn_bytes"] = over_bytes
            return told | self._free_told()

    def _free_told(self) -> dict[str, dict[str, object]]:
        if not self._free.hours:
            return {}
        now = self._now()
        begin_in_s = self._free.begin_in_s(now.wall_s, is_sure=now.is_sure)
        left_s = self._free_left_s()
        return {
            "free": {
                "is_free": left_s > EDGE_S,
                "ends_in_s": round(left_s) if left_s else None,
                "begins_in_s": None if left_s or begin_in_s is None else round(begin_in_s),
                "spent_bytes": self._free_bytes,
            }
        }
