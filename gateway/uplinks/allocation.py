"""How a budget is shared out: what goes whole, what at longer intervals, what thinned. Decides; touches nothing.

What may be spent a second is what is left of the tightest window over the time that is left of it. In this order, until
what comes in fits:

| what comes in                        | goes                                                               |
| ------------------------------------ | ------------------------------------------------------------------ |
| fits at the interval that is set     | whole; what is left over is the backlog's, all at once              |
| fits in fewer and larger requests    | whole, each class as often as its part allows                       |
| does not fit                         | thinned where a class's part is too small, at the least step that fits |
|                                      | or whole, as seldom as that step, where it is requests that cost    |
| leaves something over so             | whole by turns: as many of a thinned class's readings as that pays for |

The classes' parts are by weight, and what one does not need is the others' (weighted max-min fairness), so that what is
critical is thinned last and nothing starves. While there is a backlog it has its share beside them, and is thinned
itself where it would else take longer than a day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Priority
from gateway.core.thinning import KEPT_MAX
from gateway.store.policy import CLASS_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS_S: Final = (10.0, 30.0, 60.0, 300.0, 900.0)
# A step at which a class costs more than this part of what it would whole saves too little for what it leaves out: for
# the same bytes more of its readings go whole, by turns with others at a coarser step.
WORTH_SHARE: Final = 0.5
# For so long a finer step must have fitted before it is taken, or all have gone whole by turns.
DWELL_S: Final = 900.0
# What goes whole by turns costs its class's part in so long; what is fresh waits for that, and for less it is not worth
# so many requests' cost.
TURN_S: Final = 60.0
TURN_REQUESTS: Final = 4.0
# What a request costs whatever its size, until it is known: heads, the answer, packets of both directions.
REQUEST_BYTES: Final = 900.0
# How seldom a class may be sent before it is thinned instead: where requests cost more than what is in them.
STRETCHED_S: Final = {Priority.CRITICAL: 30.0, Priority.NORMAL: 300.0, Priority.BULK: 300.0}
BACKLOG_S_MAX: Final = 86_400.0
# Who is thinned is no more when there is so much more room than it needs, else it would go to and fro.
SPARE_SHARE: Final = 0.9
# What live data may need beyond what was measured is not the backlog's.
SAFETY: Final = 1.1

_WEIGHTS: Final = tuple(float(CLASS_WEIGHTS[priority]) for priority in Priority)


@dataclass(frozen=True, slots=True)
class Need:
    """What comes in of one class, in readings a second, of how many series, and what each costs on the wire.

    `request_bytes` is what a request costs whatever is in it. There is none with nothing in it, so that they are so far
    apart at least: `often_s` where each goes as soon as something comes in, `seldom_s` where that gathers first, for
    `gathers_s`.
    """

    readings_s: float
    series: float
    whole_bytes: float
    thinned_bytes: float
    request_bytes: float = REQUEST_BYTES
    often_s: float = 0.0
    seldom_s: float = 0.0
    gathers_s: float = 0.0

    def points_s(self, step_s: float) -> float:
        """Return how many readings a second are left at a step; 0 is all of them."""
        return min(self.readings_s, KEPT_MAX * self.series / step_s) if step_s else self.readings_s

    def saves_at(self, step_s: float) -> bool:
        """Whether thinning at a step is worth it."""
        return self.points_s(step_s) * self.thinned_bytes <= WORTH_SHARE * self.readings_s * self.whole_bytes

    def whole_share(self, step_s: float, bytes_s: float, *, every_s: float) -> float:
        """Return which part of the readings may go whole for so many bytes a second, the others at a step."""
        whole_s, thinned_s = self.cost_s(0.0, every_s=max(every_s, step_s)), self.cost_s(step_s, every_s=every_s)
        if whole_s <= thinned_s or TURN_S * bytes_s < TURN_REQUESTS * self.request_bytes:
            return 0.0
        return min(1.0, max(0.0, (bytes_s - thinned_s) / (whole_s - thinned_s)))

    def cost_s(self, step_s: float, *, every_s: float) -> float:
        """Return the bytes a second at a step, with a request each `every_s`."""
        if not self.readings_s:
            return 0.0
        each = self.thinned_bytes if step_s else self.whole_bytes
        every_s = max(every_s, step_s)
        apart_s = max(every_s, self.seldom_s if every_s >= self.gathers_s else self.often_s)
        return self.points_s(step_s) * each + self.request_bytes * min(1.0 / apart_s, self.readings_s)


@dataclass(frozen=True, slots=True)
class Part:
    """What one class, or the backlog, may spend in bytes a second (None: no bound of its own), and its step.

    `fits_s` is the finest step that has fitted all the time since `since_s`, of one steady clock. Of the readings of a
    class that is thinned `whole_share` go whole all the same.
    """

    bytes_s: float | None
    step_s: float = 0.0
    fits_s: float = 0.0
    since_s: float = 0.0
    whole_share: float = 0.0

    def steadied(self, before: Part, *, now_s: float) -> Part:
        """Return it with a step that is not finer than what has fitted for a while; `before` is what it was.

        What goes whole by turns is not whole sooner; else it is at once.

        >>> part, looks = Part(1.0, 60.0, 60.0), [(10, 30), (20, 10), (909, 10), (910, 10), (920, 60), (921, 0)]
        >>> [(part := Part(2.0, step_s).steadied(part, now_s=at_s)).step_s for at_s, step_s in looks]
        [60.0, 60.0, 60.0, 30, 60, 0]
        """
        if self.step_s >= before.step_s or not (self.step_s or before.whole_share):
            return replace(self, fits_s=self.step_s, since_s=now_s)
        fits_s, since_s = self.step_s, now_s
        if before.fits_s < before.step_s:
            fits_s, since_s = max(fits_s, before.fits_s), before.since_s
        step_s = fits_s if now_s - since_s >= DWELL_S else before.step_s
        return replace(self, step_s=step_s, fits_s=fits_s, since_s=since_s)


@dataclass(frozen=True, slots=True)
class Allocation:
    """What each class has, what the backlog has, and what all would take if it went as it comes."""

    classes: tuple[Part, ...]
    backlog: Part
    wanted_s: float  # bytes a second
    may_s: float

    @property
    def is_short(self) -> bool:
        """Whether not all goes as it comes."""
        return any(part.bytes_s is not None for part in self.classes)

    @property
    def is_thinning(self) -> bool:
        """Whether anything live is thinned."""
        return any(part.step_s for part in self.classes)


def share_out(total: float, needs: Sequence[float], weights: Sequence[float] = _WEIGHTS) -> list[float]:
    """Return each one's part of `total`: by weight, no more than it needs, and what is left over goes to the others.

    >>> share_out(100, [10, 90, 90], [16, 4, 1])
    [10.0, 72.0, 18.0]
    """
    parts = [0.0] * len(needs)
    open_ones = [k for k, need in enumerate(needs) if need > 0]
    while open_ones and total > 0:
        weight = sum(weights[k] for k in open_ones)
        content = [k for k in open_ones if needs[k] <= total * weights[k] / weight]
        if not content:
            for k in open_ones:
                parts[k] = total * weights[k] / weight
            break
        for k in content:
            parts[k] = float(needs[k])
            total -= needs[k]
        open_ones = [k for k in open_ones if k not in content]
    return parts


def least_step(need: Need, bytes_s: float, *, every_s: float, before_s: float = 0.0) -> float:
    """Return the least step at which a class fits in `bytes_s`, or the greatest there is; `before_s` was its last.

    Several steps may go together, `every_s` where one is not longer than that. It is 0 where all fits that has gathered
    for a step: what waits for so long anyway need not be thinned.
    """
    for step_s in STEPS_S:
        if need.cost_s(0.0, every_s=max(every_s, step_s)) <= (SPARE_SHARE if before_s else 1.0) * bytes_s:
            return 0.0
        margin = SPARE_SHARE if step_s < before_s else 1.0
        if need.saves_at(step_s) and need.cost_s(step_s, every_s=every_s) <= margin * bytes_s:
            return step_s
    return STEPS_S[-1]


def allocate(
    may_s: float,
    needs: Sequence[Need],
    *,
    interval_s: float,
    backlog_readings: int,
    backlog_share: float,
    before: Allocation | None = None,
    now_s: float = 0.0,
) -> Allocation:
    """Share out `may_s` bytes a second among the classes, by `Priority`, and the backlog.

    `interval_s` is how often requests go where nothing keeps them; `before` is what was decided last.
    """
    wanted = [need.cost_s(0.0, every_s=interval_s) for need in needs]
    live_s = may_s * (1.0 - backlog_share) if backlog_readings else may_s
    was_short = before is not None and before.is_short
    if sum(wanted) <= live_s * (SPARE_SHARE if was_short else 1.0):
        spare_s = max(0.0, may_s - SAFETY * sum(wanted))
        step_s = _backlog_step(needs, backlog_readings, spare_s)
        return Allocation((Part(None),) * len(needs), Part(spare_s, step_s), sum(wanted), may_s)
    before_s = [0.0] * len(needs) if before is None else [part.step_s for part in before.classes]
    stretched = [
        # Who is thinned asks for more than it needs before it is whole again.
        need.cost_s(0.0, every_s=max(interval_s, STRETCHED_S[priority])) / (SPARE_SHARE if step_s else 1.0)
        for need, priority, step_s in zip(needs, Priority, before_s, strict=True)
    ]
    parts = share_out(live_s, stretched)
    # What is left where all fit makes requests more frequent.
    spare_s = live_s - sum(parts)
    more = share_out(spare_s, [max(0.0, most - least) for most, least in zip(wanted, stretched, strict=True)])
    classes = []
    for k, need in enumerate(needs):
        step_s = 0.0
        if parts[k] < stretched[k]:
            step_s = least_step(need, parts[k], every_s=STRETCHED_S[Priority(k)], before_s=before_s[k])
        classes.append(_turning(Part(parts[k] + more[k], step_s), need, k, before=before, now_s=now_s))
    backlog_s = may_s - live_s
    step_s = _backlog_step(needs, backlog_readings, backlog_s)
    return Allocation(tuple(classes), Part(backlog_s, step_s), sum(wanted), may_s)


def _turning(part: Part, need: Need, k: int, *, before: Allocation | None, now_s: float) -> Part:
    """Return the part of a class with a steady step, and how much of it goes whole all the same."""
    part = part.steadied(part if before is None else before.classes[k], now_s=now_s)
    if not part.step_s:
        return part
    share = need.whole_share(part.step_s, part.bytes_s or 0.0, every_s=STRETCHED_S[Priority(k)])
    return replace(part, whole_share=share)


def _backlog_step(needs: Sequence[Need], readings: int, bytes_s: float) -> float:
    """Return at which step the backlog is sent within a day, as like what comes in now as it may be; 0: whole."""
    readings_s = sum(need.readings_s for need in needs)
    if not readings or not readings_s:
        return 0.0
    seconds = readings / readings_s
    for step_s in (0.0, *STEPS_S):
        cost_s = sum(need.points_s(step_s) * (need.thinned_bytes if step_s else need.whole_bytes) for need in needs)
        if seconds * cost_s <= bytes_s * BACKLOG_S_MAX:
            return step_s
    return STEPS_S[-1]
