"""One window of a budget, an hour, a day or a month: when it begins and ends, and what went in it. Does no I/O.

| the wall clock                                  | what was spent in a window                                       |
| ----------------------------------------------- | ---------------------------------------------------------------- |
| comes to the end of the window                  | is forgotten: the next one begins                                 |
| jumps into another window, forwards, and knows  | the same: it was wrong before                                     |
| jumps forwards, and nobody knows whether rightly | stays spent, for as long as either of the two windows lasts       |
| is another after a new boot                     | is forgotten: nobody knows how long it was off                    |
| is first right in another window                | is what went since that began, before anybody knew               |
| comes back to a window that it had left         | is what went in it, and since                                     |
| jumps backwards                                 | stays spent, when it comes back from there too                    |
| is not known                                    | stays spent, until nothing went for as long as the window lasts   |

Windows are those of UTC, or days and months of the box's time zone, with its summer time. A month may begin on another
day than its first, as bills do. Where either is configured otherwise, what was spent stays spent for as long as the
window from before may last.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.uplinks.budget_settings import DAY, HOUR, MONTH

if TYPE_CHECKING:
    from gateway.uplinks.budget_settings import BudgetSettings

# By how much a clock that nobody sets may run away from the steady one: at all, and of the time that has passed.
DRIFT_S: Final = 1.0
DRIFT_SHARE: Final = 0.02
LENGTH_S_MAX: Final = {HOUR: 3600.0, DAY: 86_400.0, MONTH: 31 * 86_400.0}
# By how much a day is longer on which summer time ends, and a month with it.
SUMMER_S: Final = 3600.0
WINDOWS: Final = (HOUR, DAY, MONTH)


class Moment(msgspec.Struct, array_like=True, frozen=True):
    """The time of day as far as it is known."""

    boot: str
    steady_s: float  # since that boot, of a clock that never steps
    wall_s: float | None  # Unix time; None where no clock is known
    is_sure: bool  # whether a time server stands behind it


class Spent(msgspec.Struct, array_like=True):
    """What went in one window; `start_s` is its beginning in Unix time, 0 where that is not known.

    `sure_s` is that of the last one in which a time server stood behind the clock: what it said then stays true.
    `left_s` and `left_bytes` are those of the window that was left for this one, should the clock come back to it.
    `doubt_bytes` of it went while no time server stood behind the clock, and `doubted_bytes` of the one before:
    whatever the clock said by then, that may have been in the window that it is when one does.
    """

    window: str
    start_s: int = 0
    spent_bytes: int = 0
    sure_s: int = 0
    left_s: int = 0
    left_bytes: int = 0
    doubt_bytes: int = 0
    doubted_bytes: int = 0

    def numbers(self) -> tuple[int, ...]:
        """Return all of them."""
        sizes = (self.spent_bytes, self.left_bytes, self.doubt_bytes, self.doubted_bytes)
        return self.start_s, self.sure_s, self.left_s, *sizes

    def spend(self, size_bytes: int, *, is_sure: bool) -> None:
        """Count what went, or less than nothing where it was not as much; `is_sure`: a time server says when."""
        self.spent_bytes = max(0, self.spent_bytes + size_bytes)
        if not is_sure:
            self.doubt_bytes = max(0, self.doubt_bytes + size_bytes)

    def begin(self, spent_bytes: int, *, is_seen: bool) -> None:
        """Leave this window for one in which so much is spent by now; `is_seen`: what went before that is over."""
        # Where nobody knew that those before it are over, all of that may have gone in the last one.
        is_over = self.left_s < self.sure_s
        self.left_s = max(self.start_s, self.sure_s)
        self.left_bytes = self.spent_bytes + (0 if is_over else self.left_bytes)
        self.spent_bytes = spent_bytes
        # What is under way was counted there.
        self.doubted_bytes = self.doubt_bytes + (0 if is_seen else self.doubted_bytes)
        self.doubt_bytes = 0

    def be_sure(self, *, has_gone: bool) -> None:
        """Take note that a time server says that it is this one; `has_gone`: so may what went in the one before."""
        if has_gone:
            self.spent_bytes += self.doubted_bytes
        self.sure_s, self.doubt_bytes, self.doubted_bytes = self.start_s, 0, 0

    def come_back(self) -> None:
        """Count what went in the window that was left: it is not over."""
        self.spent_bytes += self.left_bytes
        self.doubt_bytes += self.doubted_bytes
        self.left_s = self.left_bytes = self.doubted_bytes = 0


class Calendar(msgspec.Struct, frozen=True):
    """When windows begin: on which day a month does, and whether midnight is that of the box's time zone.

    >>> [Calendar().start_of(window, 1_790_000_000) for window in ("hour", "day", "month")]
    [1789999200, 1789948800, 1788220800]
    """

    month_begins: int = 1
    is_local: bool = False

    def start_of(self, window: str, wall_s: float) -> int:
        """Return the beginning in Unix time of the window in which `wall_s` lies."""
        if window == HOUR:
            return int(wall_s // 3600) * 3600
        day = self._day(wall_s)
        if window == MONTH:
            first = day.replace(day=self.month_begins)
            day = first if first <= day else (first.replace(day=1) - dt.timedelta(days=1)).replace(day=first.day)
        return self._midnight(day)

    def end_of(self, window: str, start_s: int) -> int:
        """Return where the window ends that begins at `start_s`."""
        if window == HOUR:
            return start_s + 3600
        day = self._day(start_s)
        if window == DAY:
            return self._midnight(day + dt.timedelta(days=1))
        return self._midnight((day.replace(day=1) + dt.timedelta(days=32)).replace(day=day.day))

    def has(self, window: str, start_s: int) -> bool:
        """Whether a window begins there."""
        return self.start_of(window, start_s) == start_s

    def _day(self, wall_s: float) -> dt.date:
        now = dt.datetime.fromtimestamp(wall_s, dt.UTC)
        return (now.astimezone() if self.is_local else now).date()

    def _midnight(self, day: dt.date) -> int:
        # Without a zone it is the box's: where summer time leaves midnight out, the moment in which it does.
        return int(dt.datetime.combine(day, dt.time(), None if self.is_local else dt.UTC).timestamp())


UTC: Final = Calendar()


def calendar_of(settings: BudgetSettings) -> Calendar:
    """Return the one that a budget has."""
    return Calendar(settings.month_begins, settings.windows == "local")


@dataclass(slots=True)
class Window:
    """One window's side of a budget. What has no limit is counted all the same: it may be given one."""

    spent: Spent
    calendar: Calendar = UTC
    limit_bytes: int = 0
    until_s: float = float("-inf")  # when it ends by the steady clock, whatever the other does meanwhile
    _set_s: float = 0.0  # when that was found
    _found: tuple[int, int] = field(default=(0, 0), init=False)  # where the one was that was looked for last

    def noted(self, looked: Moment | None) -> None:
        """Take note when what stands in `spent` was looked at last."""
        if looked is not None and looked.wall_s is not None:
            start_s = self.spent.start_s
            end_s = self.calendar.end_of(self.spent.window, start_s) if start_s else 0
            self._lasts_until(looked.steady_s + end_s - looked.wall_s, looked.steady_s)

    def _lasts_until(self, until_s: float, now_s: float) -> None:
        """Take note when it ends by the steady clock, as the wall clock has it now."""
        self.until_s, self._set_s = until_s, now_s

    def _has_lasted(self, now_s: float) -> bool:
        """Whether it is over by the steady clock, which may be slow."""
        return now_s + (now_s - self._set_s) * DRIFT_SHARE + DRIFT_S >= self.until_s

    def _find(self, wall_s: float) -> tuple[int, int]:
        """Return where the window begins and ends in which `wall_s` lies."""
        start_s, end_s = self._found
        if not start_s <= wall_s < end_s:
            start_s = self.calendar.start_of(self.spent.window, wall_s)
            self._found = start_s, self.calendar.end_of(self.spent.window, start_s)
        return self._found

    def end_in_s(self, wall_s: float | None) -> float | None:
        """Return how long it still lasts; None where nobody knows."""
        if wall_s is None or not self.spent.start_s:
            return None
        return max(0.0, self.calendar.end_of(self.spent.window, self.spent.start_s) - wall_s)

    def look(self, now: Moment, before: Moment | None, *, under_way_bytes: int, quiet_since_s: float) -> None:
        """Take note of what time it is; `under_way_bytes` may still leave in a window that begins now.

        Nothing went since `quiet_since_s` by the steady clock.
        """
        assert now.wall_s is not None
        spent = self.spent
        start_s, end_s = self._find(now.wall_s)
        until_s = now.steady_s + end_s - now.wall_s
        # When the window that it is now began by the steady clock, if that is right.
        began_s = now.steady_s - (now.wall_s - start_s)
        last_began_s = self._began_s(now, before)
        is_seen = last_began_s is not None and (
            max(0.0, last_began_s) <= began_s + DRIFT_S if now.is_sure else last_began_s >= 0
        )
        is_trusted = now.is_sure or before is None or before.wall_s is None or before.boot != now.boot
        # A clock that comes back to the window in which it was set back has not left that.
        is_next = start_s > max(spent.start_s, spent.sure_s) and spent.start_s > 0
        is_next = is_next and self._is_over_at(start_s)
        if is_next and (is_trusted or self._has_lasted(now.steady_s)):
            spent.begin(under_way_bytes, is_seen=is_seen and (now.is_sure or not is_trusted))
            is_seen = False
            self._lasts_until(until_s, now.steady_s)
        elif is_next and not _has_jumped(now, before):
            # Its hours are not over yet by the clock that never steps.
            return
        elif is_trusted or until_s > self.until_s:
            self._lasts_until(until_s, now.steady_s)
        # One that a time server knows to be over is only come back to by a clock that is astray.
        if start_s <= spent.left_s and (now.is_sure or start_s >= spent.sure_s):
            spent.come_back()
        spent.start_s = start_s
        if now.is_sure:
            spent.be_sure(has_gone=quiet_since_s >= began_s and not is_seen)

    def _began_s(self, now: Moment, before: Moment | None) -> float | None:
        """Return when it began by the steady clock, as the wall clock had it at the last look in this boot."""
        spent = self.spent
        if before is None or before.boot != now.boot or before.wall_s is None or not spent.start_s:
            return None
        return self.until_s - (self.calendar.end_of(spent.window, spent.start_s) - spent.start_s)

    def _is_over_at(self, start_s: int) -> bool:
        """Whether the window that was noted cannot reach beyond `start_s`: it may be one of another calendar."""
        spent = self.spent
        length_s = LENGTH_S_MAX[spent.window] + SUMMER_S
        return self.calendar.has(spent.window, spent.start_s) or start_s >= spent.start_s + length_s

    def end_quiet(self, quiet_s: float, *, under_way_bytes: int) -> None:
        """Let it begin anew if it must have ended, though nobody knows when: in all of that time nothing went."""
        length_s = LENGTH_S_MAX[self.spent.window] + (SUMMER_S if self.calendar.is_local else 0)
        if quiet_s * (1 - DRIFT_SHARE) - DRIFT_S >= length_s:
            self.spent = Spent(self.spent.window, spent_bytes=under_way_bytes, sure_s=self.spent.sure_s)


def _has_jumped(now: Moment, before: Moment | None) -> bool:
    """Whether the wall clock went further since the last look than time did."""
    assert now.wall_s is not None
    if before is None or before.wall_s is None:
        return False
    passed_s = (now.steady_s - before.steady_s) * (1 + DRIFT_SHARE) + DRIFT_S
    return now.wall_s - before.wall_s > passed_s
