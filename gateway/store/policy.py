"""What goes next and what has to go: leases by lane and class, evictions. Decides; touches nothing.

Turns are taken by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996): each
queue carries a tag that grows by what it has sent, divided by its weight, and the lowest tag goes next. A
queue that was empty starts level with the others, so nobody saves up, and nobody with a weight starves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.core.contracts import Priority

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

CLASS_WEIGHTS: Final[Mapping[Priority, int]] = {Priority.CRITICAL: 16, Priority.NORMAL: 4, Priority.BULK: 1}
# Tags are integers of this many steps per byte and weight of one: exact, however long they grow.
_STEPS: Final = 1 << 20
_CLASSES: Final = tuple(Priority)
CLASS_NAMES: Final = tuple(priority.name.lower() for priority in Priority)


class Lane(StrEnum):
    """Whether data came in since the link is up, or before that, or was sent thinned already; or tells of a finding."""

    LIVE = "live"
    BACKLOG = "backlog"
    THINNED = "thinned"
    EVIDENCE = "evidence"


class Order(StrEnum):
    """Which end of a queue a lease takes from: the newest segment alone, or from the oldest on."""

    NEWEST = "newest"
    OLDEST = "oldest"


_LANES: Final = tuple(Lane)
# So many leases of evidence go one after the other while something else waits.
EVIDENCE_RUN: Final = 3
_NOTHING: Final = (0,) * len(_CLASSES)
_T = TypeVar("_T")
NO_BOUND: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Terms:
    """What one lease may take, by lane and class: whether anything, at which step it is to be thinned, and how much.

    A step of 0 is all of them; what was sent thinned is never thinned again. One segment is taken whatever its size.
    """

    may: tuple[tuple[bool, ...], ...] = ((True,) * len(_CLASSES),) * len(_LANES)
    step_s: tuple[tuple[float, ...], ...] = ((0.0,) * len(_CLASSES),) * len(_LANES)
    readings_max: tuple[tuple[int, ...], ...] = ((NO_BOUND,) * len(_CLASSES),) * len(_LANES)  # of what goes whole
    thinned_max: tuple[tuple[int, ...], ...] = ((NO_BOUND,) * len(_CLASSES),) * len(_LANES)  # and of what is thinned

    def may_take(self, lane: Lane, priority: Priority) -> bool:
        """Whether anything of a class may be leased in a lane."""
        return self.may[_PLACE[lane]][priority]

    def step_of(self, lane: Lane, priority: Priority) -> float:
        """Return at which step of so many seconds it is thinned, 0 where it goes whole."""
        return self.step_s[_PLACE[lane]][priority]

    def most_of(self, lane: Lane, priority: Priority, *, is_thinned: bool) -> int:
        """Return how many readings one lease may take, which are thinned or go whole."""
        return (self.thinned_max if is_thinned else self.readings_max)[_PLACE[lane]][priority]

    def letting(self, classes: Collection[Priority], *, alone: bool) -> Terms:
        """Return the same, but these classes go whole and as they come, and with `alone` nothing else."""
        may, steps, most = ([[*lane] for lane in lanes] for lanes in (self.may, self.step_s, self.readings_max))
        for lane, priority in product(range(len(_LANES)), _CLASSES):
            if priority in classes and lane != _PLACE[Lane.THINNED]:
                may[lane][priority], steps[lane][priority], most[lane][priority] = True, 0.0, NO_BOUND
            elif alone:
                may[lane][priority] = False
        return replace(self, may=_fixed(may), step_s=_fixed(steps), readings_max=_fixed(most))


def _fixed(lanes: Iterable[Iterable[_T]]) -> tuple[tuple[_T, ...], ...]:
    return tuple(map(tuple, lanes))


_SHARING: Final = {Lane.LIVE, Lane.BACKLOG}
_PLACE: Final = {lane: index for index, lane in enumerate(_LANES)}
ALL: Final = Terms()
"""No bounds at all."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the policy needs to know of a held segment. Times are Unix ns; 0: not known yet."""

    sequence: int
    priority: Priority
    size_bytes: int
    readings: int
    first_ns: int
    last_ns: int


def choose_evictions(candidates: Iterable[Summary], *, bytes_over: int) -> list[Summary]:
    """Pick what to let go until `bytes_over` bytes are free; take no more from `candidates` than is needed.

    `candidates` come bulk before normal before critical and oldest first within each
    (`ORDER BY priority DESC, sequence`). If all of them are too few, all are returned.
    """
    chosen: list[Summary] = []
    if bytes_over <= 0:
        return chosen
    before: Summary | None = None
    for candidate in candidates:
        assert before is None or (-before.priority, before.sequence) < (
            -candidate.priority,
            candidate.sequence,
        )
        chosen.append(candidate)
        bytes_over -= candidate.size_bytes
        if bytes_over <= 0:
            break
        before = candidate
    return chosen


@dataclass(frozen=True, slots=True)
class Choice:
    """What the next lease takes."""

    lane: Lane
    priority: Priority
    order: Order


class _Turns:
    """Fair queueing among a few queues by weight; the first wins a tie. Weight 0: only when alone."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._steps = tuple(round(_STEPS / weight) if weight else 0 for weight in weights)
        self._tags = [0] * len(weights)
        self._had = [False] * len(weights)
        self._now = 0

    def next(self, held: Sequence[int]) -> int:
        """Return whose turn it is among those that hold something; at least one does."""
        tags, had = self._tags, self._had
        best = spare = -1
        for queue, amount in enumerate(held):
            if not amount:
                had[queue] = False
                continue
            if not had[queue]:
                had[queue] = True
                tags[queue] = max(tags[queue], self._now)
            if not self._steps[queue]:
                spare = queue if spare < 0 else spare
            elif best < 0 or tags[queue] < tags[best]:
                best = queue
        if best < 0:
            return spare
        self._now = max(self._now, tags[best])
        return best

    def add(self, queue: int, size_bytes: int) -> None:
        """Charge a queue for what it has sent."""
        self._tags[queue] += size_bytes * self._steps[queue]


class LaneScheduler:
    """Decides what one uplink leases next.

    Right after the link has come up the newest segment of each class goes first, the most important class
    before the others. From then on the live lane flows in order and the backlog, oldest first, has
    `backlog_share` of the bytes as long as both lanes hold something; a lane alone has all of the road.
    Within each lane the classes share by `weights`. A share of 0 sends backlog only while nothing live waits;
    1, the other way round. What is there in thinned form already goes last, where nothing else waits. What came in
    around a finding goes before all else, but for what is newest when the link has come up, so that it is known what is
    now, and for each fourth lease, so that findings without end keep nobody waiting.
    """

    def __init__(self, *, backlog_share: float = 0.3, weights: Mapping[Priority, float] = CLASS_WEIGHTS) -> None:
        if not 0.0 <= backlog_share <= 1.0:
            raise ValueError(f"backlog_share is a part of the uplink's bytes, 0 to 1, not {backlog_share}")
        by_class = [weights.get(priority, 0) for priority in Priority]
        if min(by_class) <= 0:
            raise ValueError("every class has a weight above 0, else it would starve")
        self.backlog_share = backlog_share
        self._lanes = _Turns((1.0 - backlog_share, backlog_share))
        self._classes = tuple(_Turns(by_class) for _ in _LANES)
        self._bytes = [0, 0]
        self._evidence_run = 0
        self._fresh_owed = [False] * len(_CLASSES)
        self._last: Choice | None = None
        self._why = "nothing has been asked for yet"
        self.link_up()

    def link_up(self) -> None:
        """Take note that the link came up: what is newest goes first, and shares are counted from here."""
        self._fresh_owed = [True] * len(_CLASSES)
        self._passed_over: Priority | None = None
        self._bytes = [0, 0]

    def next(
        self,
        *,
        live: Sequence[int],
        backlog: Sequence[int],
        thinned: Sequence[int] = _NOTHING,
        evidence: Sequence[int] = _NOTHING,
    ) -> Choice | None:
        """Return what to lease next, or None where nothing is held.

        `live[k]` and so on say what may be leased of class `Priority(k)` in that lane: bytes, readings or truth; only
        whether it is 0 counts. Asking changes no share: `sent` does.
        """
        has_live, has_backlog = any(live), any(backlog)
        if any(evidence) and not (
            self._is_owed(live) or (self._evidence_run >= EVIDENCE_RUN and (has_live or has_backlog))
        ):
            lane = _PLACE[Lane.EVIDENCE]
            return self._decide(lane, self._classes[lane].next(evidence), Order.OLDEST, "evidence")
        if not (has_live or has_backlog):
            if any(thinned):
                lane = _PLACE[Lane.THINNED]
                return self._decide(lane, self._classes[lane].next(thinned), Order.OLDEST, "whole")
            self._last, self._why = None, "nothing is held"
            return None
        if self._passed_over is not None:
            others = [[held * (k != self._passed_over) for k, held in enumerate(lane)] for lane in (live, backlog)]
            if any(map(any, others)):
                live, backlog = others
                has_live, has_backlog = any(live), any(backlog)
        for index in range(len(_CLASSES)):
            if self._fresh_owed[index] and (live[index] or backlog[index]):
                lane = 0 if live[index] else 1
                return self._decide(lane, index, Order.NEWEST, "fresh")
        lane = self._lanes.next((has_live, has_backlog))
        index = self._classes[lane].next(backlog if lane else live)
        return self._decide(lane, index, Order.OLDEST, "share" if has_live and has_backlog else "alone")

    def _is_owed(self, live: Sequence[int]) -> bool:
        """Whether the link has just come up and nothing of what is live now has gone."""
        return any(held and owed for held, owed in zip(live, self._fresh_owed, strict=True))

    def _decide(self, lane: int, index: int, order: Order, why: str) -> Choice:
        self._last, self._why = Choice(_LANES[lane], _CLASSES[index], order), why
        return self._last

    def sent(self, lane: Lane | str, priority: Priority, size_bytes: int) -> None:
        """Charge a lease to its lane and class, when it is made; a negative size gives it back on release."""
        self._charge(lane, priority, size_bytes)
        if size_bytes > 0:
            self._evidence_run = self._evidence_run + 1 if lane == Lane.EVIDENCE else 0
            if lane != Lane.EVIDENCE:
                self._fresh_owed[priority] = False
            self._passed_over = None

    def weighed(self, lane: Lane | str, priority: Priority, more_bytes: int) -> None:
        """Charge what a lease took on the road beyond what it takes on the shelf, or less than that, if negative.

        What is kept many readings together is small on the shelf, and on the road it is as large as any.
        """
        self._charge(lane, priority, more_bytes)

    def _charge(self, lane: Lane | str, priority: Priority, size_bytes: int) -> None:
        index = _PLACE[Lane(lane)]
        self._classes[index].add(priority, size_bytes)
        if lane in _SHARING:
            self._lanes.add(index, size_bytes)
            self._bytes[index] += size_bytes

    def gave_back(self, lane: Lane | str, priority: Priority, size_bytes: int, *, is_fresh: bool = False) -> None:
        """Take back the charge for a lease that did not arrive: another class goes first now, if there is one.

        One that `is_fresh` went first for being the newest of its class, which is owed still.
        """
        self.sent(lane, priority, -size_bytes)
        self._fresh_owed[priority] |= is_fresh
        self._passed_over = priority

    def explain(self) -> str:
        """Say why the last choice was made, in a sentence."""
        choice = self._last
        if choice is None:
            return f"{self._why[0].upper()}{self._why[1:]}."
        what = f"{CLASS_NAMES[choice.priority]} data of the {choice.lane} lane"
        if self._why == "fresh":
            return f"The newest {what} goes first, because the link has just come up."
        if self._why == "alone":
            return f"The oldest {what} goes next, because the other lane is empty."
        if self._why == "evidence":
            return f"The {CLASS_NAMES[choice.priority]} data from around a finding goes first, whole."
        if self._why == "whole":
            return (
                f"The oldest {CLASS_NAMES[choice.priority]} data that was sent thinned goes whole: nothing else waits."
            )
        total = sum(self._bytes)
        share = 100.0 * self._bytes[1] / total if total > 0 else 0.0
        return (
            f"The oldest {what} goes next: since link-up the backlog has had {share:.0f} % of the bytes, "
            f"and its share is {100.0 * self.backlog_share:.0f} %."
        )
