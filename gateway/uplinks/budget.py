"""Budgets: how many bytes may go over a link in an hour, a day and a month, and how many went. Does no I/O.

What is spent stands in a note that the store writes with each of its commits, and not one byte leaves that a note on
the disk does not cover: it says what was spent by then, and how much more may be spent before the next note. A process
that dies leaves all of that as spent; one that stops in order gives it back.

| the wall clock                                  | what was spent in a window                                       |
| ----------------------------------------------- | ---------------------------------------------------------------- |
| comes to the end of the window                  | is forgotten: the next one begins                                 |
| jumps into another window, forwards, and knows  | the same: it was wrong before                                     |
| jumps forwards, and nobody knows whether rightly | stays spent, for as long as either of the two windows lasts       |
| is another after a new boot                     | is forgotten: nobody knows how long it was off                    |
| jumps backwards                                 | stays spent, when it comes back from there too                    |
| is not known                                    | stays spent, until nothing went for as long as the window lasts   |

Windows are those of UTC. A month may begin on another day than its first, as bills do. In free hours (uplinks/free)
what goes is counted by itself and in no window; but for their last minutes, so that no request that began in them is
still under way when they end. One that is all the same pays from then on, or is cut off. Where no time server stands
behind the clock, a little of each window is kept for requests that ask a receiver for the time: one that is spent
would else never be known to have ended.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.units import Size
from gateway.core.words import span
from gateway.uplinks.free import FreeHours
from gateway.uplinks.guards import NotYetError
from gateway.uplinks.scheduling import WindowLeft
from gateway.uplinks.settings import DAY, HOUR, MONTH

if TYPE_CHECKING:
    from collections.abc import Callable

# How much of the least allowance a note covers beyond what is spent, and its bounds: a process that dies spends it.
AHEAD_SHARE: Final = 64
AHEAD_BYTES_MIN: Final = 32 * 1024
AHEAD_BYTES_MAX: Final = 4 * 1024 * 1024
# By how much a clock that nobody sets may run away from the steady one: at all, and of the time that has passed.
DRIFT_S: Final = 1.0
DRIFT_SHARE: Final = 0.02
# How long to wait where nobody knows when the window ends.
UNKNOWN_WAIT_S: Final = 60.0
# What is kept for asking for the time, of a window's limit and at most: a request with its connection takes a sixth.
PROBES_SHARE: Final = 32
PROBES_BYTES_MAX: Final = 96 * 1024
# What begins so shortly before free hours end is not free: on a slow line it may take longer.
EDGE_S: Final = 120.0
LENGTH_S_MAX: Final = {HOUR: 3600.0, DAY: 86_400.0, MONTH: 31 * 86_400.0}
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


class Moment(msgspec.Struct, array_like=True, frozen=True):
    """The time of day as far as it is known."""

    boot: str
    steady_s: float  # since that boot, of a clock that never steps
    wall_s: float | None  # Unix time; None where no clock is known
    is_sure: bool  # whether a time server stands behind it


class Spent(msgspec.Struct, array_like=True):
    """What went in one window; `start_s` is its beginning in Unix time, 0 where that is not known.

    `sure_s` is that of the last one in which a time server stood behind the clock: what it said then stays true.
    """

    window: str
    start_s: int = 0
    spent_bytes: int = 0
    sure_s: int = 0


class Note(msgspec.Struct, array_like=True):
    """What the disk knows: what was spent, and how much more may be before it is written anew."""

    ahead_bytes: int = 0
    windows: list[Spent] = []
    looked: Moment | None = None
    free_bytes: int = 0  # that went in free hours, ever


def start_of(window: str, wall_s: float, *, month_begins: int = 1) -> int:
    """Return the beginning in Unix time of the window in which `wall_s` lies.

    >>> [start_of(window, 1_790_000_000) for window in ("hour", "day", "month")]
    [1789999200, 1789948800, 1788220800]
    """
    if window == HOUR:
        return int(wall_s // 3600) * 3600
    if window == DAY:
        return int(wall_s // 86_400) * 86_400
    now = dt.datetime.fromtimestamp(wall_s, dt.UTC)
    first = now.replace(day=month_begins, hour=0, minute=0, second=0, microsecond=0)
    if first > now:
        first = (first.replace(day=1) - dt.timedelta(days=1)).replace(day=month_begins)
    return int(first.timestamp())


def end_of(window: str, start_s: int) -> int:
    """Return where the window ends that begins at `start_s`."""
    if window != MONTH:
        return start_s + (3600 if window == HOUR else 86_400)
    first = dt.datetime.fromtimestamp(start_s, dt.UTC)
    return int((first.replace(day=1) + dt.timedelta(days=32)).replace(day=first.day).timestamp())


@dataclass(slots=True)
class Window:
    """One window's side of a budget."""

    limit_bytes: int
    spent: Spent
    until_s: float = float("-inf")  # when it ends by the steady clock, whatever the other does meanwhile
    _set_s: float = 0.0  # when that was found

    def lasts_until(self, until_s: float, now_s: float) -> None:
        """Take note when it ends by the steady clock, as the wall clock has it now."""
        self.until_s, self._set_s = until_s, now_s

    def has_lasted(self, now_s: float) -> bool:
        """Whether it is over by the steady clock, which may be slow."""
        return now_s + (now_s - self._set_s) * DRIFT_SHARE + DRIFT_S >= self.until_s

    @property
    def left_bytes(self) -> int:
        """How much may still be spent in it."""
        return max(0, self.limit_bytes - self.spent.spent_bytes)

    def end_in_s(self, wall_s: float | None) -> float | None:
        """Return how long it still lasts; None where nobody knows."""
        if wall_s is None or not self.spent.start_s:
            return None
        return max(0.0, end_of(self.spent.window, self.spent.start_s) - wall_s)


def decode_note(data: bytes) -> Note | None:
    """Read what `Budget.plan` returned; None for what is none."""
    try:
        note = msgspec.msgpack.decode(data, type=Note)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    numbers = [
        note.ahead_bytes,
        note.free_bytes,
        *(n for one in note.windows for n in (one.start_s, one.spent_bytes, one.sure_s)),
    ]
    return note if all(0 <= number <= COUNT_MAX for number in numbers) else None


def _has_jumped(now: Moment, before: Moment | None) -> bool:
    """Whether the wall clock went further since the last look than time did."""
    assert now.wall_s is not None
    if before is None or before.wall_s is None:
        return False
    passed_s = (now.steady_s - before.steady_s) * (1 + DRIFT_SHARE) + DRIFT_S
    return now.wall_s - before.wall_s > passed_s


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
        month_begins: int = 1,
        free: FreeHours = NEVER_FREE,
        overdraw_bytes: int = 0,
        where: str = "",
    ) -> None:
        self._now, self._where = now, where
        self._overdraw_bytes = overdraw_bytes
        self._free = free
        self._free_taken: dict[str, int] = {}  # by requests under way that began in free hours, by who pays
        self._month_begins = month_begins
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
        self._windows = [Window(limit, spent.get(window, Spent(window))) for window, limit in limits.items()]
        # What a process that died may have spent of it, nobody knows.
        for window in self._windows:
            window.spent.spent_bytes += known.ahead_bytes
        self._unsure_bytes = known.ahead_bytes
        looked = known.looked
        if looked is not None and looked.wall_s is not None:
            for window in self._windows:
                end_s = end_of(window.spent.window, window.spent.start_s) if window.spent.start_s else 0
                window.lasts_until(looked.steady_s + end_s - looked.wall_s, looked.steady_s)
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
        self._quiet_since_s = self._now().steady_s
        for window in self._windows:
            window.spent.spent_bytes = max(0, window.spent.spent_bytes + size_bytes)
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

    # Time.

    def _look(self) -> None:
        now, before = self._now(), self._looked
        self._looked = now
        if now.wall_s is None:
            self._end_quiet_windows(now)
            return
        for window in self._windows:
            self._look_at(window, now, before)

    def _look_at(self, window: Window, now: Moment, before: Moment | None) -> None:
        assert now.wall_s is not None
        spent = window.spent
        start_s = start_of(spent.window, now.wall_s, month_begins=self._month_begins)
        until_s = now.steady_s + end_of(spent.window, start_s) - now.wall_s
        is_trusted = now.is_sure or before is None or before.wall_s is None or before.boot != now.boot
        # A clock that comes back to the window in which it was set back has not left that.
        is_next = start_s > max(spent.start_s, spent.sure_s) and spent.start_s > 0
        if is_next and (is_trusted or window.has_lasted(now.steady_s)):
            # What is under way may still leave in the new one, and what a dead process left may have.
            spent.spent_bytes = self._taken_bytes + self._unsure_bytes
            window.lasts_until(until_s, now.steady_s)
        elif is_next and not _has_jumped(now, before):
            # Its hours are not over yet by the clock that never steps.
            return
        elif is_trusted or until_s > window.until_s:
            window.lasts_until(until_s, now.steady_s)
        spent.start_s = start_s
        if now.is_sure:
            spent.sure_s = start_s

    def _end_quiet_windows(self, now: Moment) -> None:
        """Let windows begin anew that must have ended, though nobody knows when: in all of that time nothing went."""
        quiet_s = (now.steady_s - self._quiet_since_s) * (1 - DRIFT_SHARE) - DRIFT_S
        for window in self._windows:
            if quiet_s >= LENGTH_S_MAX[window.spent.window]:
                window.spent = Spent(window.spent.window, spent_bytes=self._taken_bytes, sure_s=window.spent.sure_s)

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
            windows = [window.spent for window in self._windows]
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
