"""Detectors without a model, for many series at once: z-score, quartiles. Must not know what series are.

A detector holds one row of state per series and is fed columns: `update(values, index, time_ns) -> scores`.
`index[k]` is the row that `values[k]` belongs to; rows repeat where a batch holds many readings of a series.

What makes this quick without making it depend on how readings are cut into batches: the reference that a
reading is scored against (mean and deviation, or quartiles) is renewed once per block of its row's
readings, counted over the row's life and not over the call. So a call is a few rounds of whole-column
arithmetic, each round taking at most one block of every row, and the scores are the same for any cut. The
price is that a reference is at most a block behind: 7 readings while a row is young, 63 later, where it
looks back over many more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from gateway.core.batch import distinct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float64]
    Integers: TypeAlias = npt.NDArray[np.int64]
    Rows: TypeAlias = npt.NDArray[np.intp]

# A block's length in readings: short while a row is younger than YOUNG, so that it learns at once, long
# after.
BLOCK_YOUNG: Final = 8
BLOCK: Final = 64
YOUNG: Final = 512
# Past this a value is treated as this: its square still fits a double, a block of them too.
VALUE_MAX: Final = 1e150
SCORE_MAX: Final = 1e9
# Quartiles of fewer readings judge nobody, where the window is large enough for so many.
KEPT_ENOUGH: Final = 32
# Ranges of n readings are taken as wider by this over n.
ROUGH: Final = 12.0
# How far beyond the deviation a reading may pull the mean: an anomaly must not become the new normal at once.
CLIP: Final = 3.0
# A scale is never taken as smaller than this part of the largest one that the series had lately: a lull
# in a lively series does not make its next ordinary move a sensation.
LULL: Final = 0.1
# The largest scale is forgotten by half in so many spans.
LULL_SPANS: Final = 10.0
# What a double cannot tell apart at a level is not a move.
ROUNDING: Final = 64 * float(np.finfo(np.float64).eps)


class Detector(Protocol):
    """Columns in, scores out. State is arrays of shape (rows, …), which grow and never shrink."""

    @property
    def rows(self) -> int:
        """How many series there is room for."""
        ...

    def grow(self, rows: int) -> None:
        """Make room for `rows` series."""
        ...

    def update(self, values: Floats, index: Rows, time_ns: Integers) -> Floats:
        """Score `values` (k,) of the rows `index` (k,), in order of arrival, and learn from them.

        A score is finite and at least 0; it is 0 while a row warms up, for values that are not finite, and
        for rows that never moved and so give nothing to measure by.
        """
        ...

    def expected(self, index: Rows) -> Floats:
        """Return what the rows `index` are thought to show now, (k,)."""
        ...

    def seen(self, index: Rows) -> Integers:
        """Return how many readings the rows `index` have learnt from, (k,)."""
        ...

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the state's arrays by name; they may be written in place to restore it."""
        ...

    def complete(self, saved: dict[str, npt.NDArray[np.generic] | None], rows: int) -> None:
        """Add to the saved state of `rows` series, by name, what earlier versions did not save."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """One block at most of every row that a call has readings of.

    `part` (p,) picks the round's readings out of the call, ordered by row and arrival. `rows` (r,) are the
    rows there are; `run` (p,) says which of `rows` each reading belongs to, `starts` (r,) where each row
    begins in `part`. `before` (r,) is how many readings each row had seen, `place` (p,) each reading's
    number in its row's life, and `done` (r,) tells which rows end a block here, `length` (r,) long.
    """

    part: Rows
    rows: Rows
    run: Rows
    starts: Rows
    before: Integers
    place: Integers
    done: npt.NDArray[np.bool_]
    length: Integers


class _Columns:
    """State as named arrays with one row per series, and what every detector here keeps.

    `step` is the smallest move the series ever made, which for a sensor is its resolution: no scale is
    taken as smaller, since one step of a quiet sensor is no news.
    """

    def __init__(self, **columns: tuple[int, ...]) -> None:
        self._columns = {"seen": (), "last": (), "step": (), "step_next": (), "peak": (), **columns}
        self._rows = 0
        self._of = {name: np.zeros((0, *shape), _kind(name)) for name, shape in self._columns.items()}

    @property
    def rows(self) -> int:
        """How many series there is room for."""
        return self._rows

    def grow(self, rows: int) -> None:
        """Make room for `rows` series, by half of what there is at least, so that growing stays rare."""
        if rows <= self._rows:
            return
        self._rows = max(rows, self._rows + self._rows // 2, 16)
        for name, shape in self._columns.items():
            array = np.zeros((self._rows, *shape), _kind(name))
            array[: len(self._of[name])] = self._of[name]
            self._of[name] = array

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the state's arrays by name."""
        return dict(self._of)

    def complete(self, saved: dict[str, npt.NDArray[np.generic] | None], rows: int) -> None:
        """Add nothing: all of it was always saved."""

    def seen(self, index: Rows) -> Integers:
        """Return how many readings the rows have learnt from."""
        return self._of["seen"][index].astype(np.int64)

    def _unit(self, rows: Rows, scale: Floats, level: Floats, scale_min: float) -> Floats:
        """Return the scale (r,) with its floors under it."""
        of = self._of
        floor = np.maximum(of["step"][rows], LULL * of["peak"][rows])
        return np.maximum(np.maximum(scale, floor), np.maximum(np.abs(level) * ROUNDING, scale_min))

    def _note(self, turn: Round, value: Floats, fade: float) -> None:
        """Count the round's readings and note their smallest move."""
        of, rows = self._of, turn.rows
        earlier = np.empty_like(value)
        earlier[1:] = value[:-1]
        first = value[turn.starts]
        earlier[turn.starts] = np.where(turn.before == 0, first, of["last"][rows])
        move = np.abs(value - earlier)
        move[move <= np.abs(value) * ROUNDING] = np.inf
        least = np.minimum.reduceat(move, turn.starts)
        known = of["step_next"][rows]
        least = np.minimum(least, np.where(known > 0, known, np.inf))
        least[np.isinf(least)] = 0.0
        of["step_next"][rows] = least
        of["last"][rows] = value[np.append(turn.starts[1:], len(value)) - 1]
        of["seen"][rows] = turn.before + np.diff(turn.starts, append=len(value))
        full = rows[turn.done]
        of["step"][full] = least[turn.done]
        of["peak"][full] *= fade ** turn.length[turn.done]


class ZScore(_Columns):
    """Distance from an exponentially weighted mean, in exponentially weighted standard deviations.

    West's update (D. H. D. West, CACM 22, 1979) by blocks; a reading pulls by CLIP deviations at most.
    """

    def __init__(self, *, warmup: int, span: int, scale_min: float = 0.0) -> None:
        super().__init__(mean=(), variance=(), sum1=(), sum2=())
        self._warmup = warmup
        self._scale_min = scale_min
        self._keep = 1.0 - 2.0 / (span + 1)
        self._fade = 0.5 ** (1.0 / (LULL_SPANS * span))

    def update(self, values: Floats, index: Rows, time_ns: Integers) -> Floats:  # noqa: ARG002  the protocol
        """Score and learn; see Detector."""
        scores = np.zeros(len(values))
        of = self._of
        for turn in rounds(values, index, of["seen"]):
            rows, run = turn.rows, turn.run
            value = np.clip(values[turn.part], -VALUE_MAX, VALUE_MAX)
            fresh = turn.before == 0
            of["mean"][rows[fresh]] = value[turn.starts[fresh]]
            mean = of["mean"][rows]
            unit = self._unit(rows, np.sqrt(of["variance"][rows]), mean, self._scale_min)[run]
            away = value - mean[run]
            judged = turn.place >= self._warmup
            scores[turn.part] = np.where(judged, _ratio(np.abs(away), unit), 0.0)
            reach = np.where(judged, CLIP * unit, np.inf)
            self._note(turn, value, self._fade)
            self._learn(turn, np.clip(away, -reach, reach))
            full = rows[turn.done]
            of["peak"][full] = np.maximum(of["peak"][full], np.sqrt(of["variance"][full]))
        return scores

    def _learn(self, turn: Round, pull: Floats) -> None:
        """Gather the pulls (p,) into moments of the current blocks; fold blocks that end into the state."""
        of, rows, done = self._of, turn.rows, turn.done
        sum1 = running_sums(of["sum1"][rows], turn.run, pull)
        sum2 = running_sums(of["sum2"][rows], turn.run, pull * pull)
        of["sum1"][rows] = np.where(done, 0.0, sum1)
        of["sum2"][rows] = np.where(done, 0.0, sum2)
        full = rows[done]
        length = turn.length[done]
        # A young row weighs all its readings alike, an old one forgets.
        weight = np.maximum(1.0 - self._keep**length, length / of["seen"][full])
        moved, square = sum1[done] / length, sum2[done] / length
        of["mean"][full] += weight * moved
        spread = np.maximum(square - weight * moved * moved, 0.0)
        of["variance"][full] = (1.0 - weight) * of["variance"][full] + weight * spread

    def expected(self, index: Rows) -> Floats:
        """Return the rows' means."""
        return self._of["mean"][index].astype(np.float64)


class InterquartileRange(_Columns):
    """Distance outside the quartiles of the recent past, in interquartile ranges (Tukey's fences).

    Of each row every `stride`-th reading is kept, the last `window` of those; as long as less than a
    quarter of them is odd the quartiles stay where they are.

    A young row keeps more of its readings: all of them, and each time that the window is full only each second
    of those and of what comes. So there are many soon, and they always lie evenly over the row's whole life:
    quartiles of few are so rough that plain noise is far outside of them. `spacing` is how far apart the
    readings are that a row keeps, 0 while it is empty.
    """

    def __init__(self, *, warmup: int, window: int, stride: int = 8, scale_min: float = 0.0) -> None:
        super().__init__(kept=(window,), spacing=(), low=(), middle=(), high=())
        self._warmup = warmup
        self._enough = min(KEPT_ENOUGH, window // 4)
        self._window = window
        self._stride = stride
        self._scale_min = scale_min
        self._fade = 0.5 ** (1.0 / (LULL_SPANS * window * stride))

    def update(self, values: Floats, index: Rows, time_ns: Integers) -> Floats:  # noqa: ARG002  the protocol
        """Score and learn; see Detector."""
        scores = np.zeros(len(values))
        of = self._of
        for turn in rounds(values, index, of["seen"]):
            rows, run = turn.rows, turn.run
            value = np.clip(values[turn.part], -VALUE_MAX, VALUE_MAX)
            low, high = of["low"][rows], of["high"][rows]
            spacing = self._spacing(rows)
            # The quartiles are of no fewer than there were when the block began, wherever the call begins.
            held = self._held(turn.before - turn.before % _block_length(turn.before), spacing)
            wide = (high - low) * (1.0 + ROUGH / np.maximum(held, 1))
            unit = self._unit(rows, wide, of["middle"][rows], self._scale_min)[run]
            outside = np.maximum(np.maximum(low[run] - value, value - high[run]), 0.0)
            judged = (turn.place >= self._warmup) & (held >= self._enough)[run]
            scores[turn.part] = np.where(judged, _ratio(outside, unit), 0.0)
            each = spacing[run]
            keep = turn.place % each == 0
            of["kept"][rows[run[keep]], turn.place[keep] // each[keep] % self._window] = value[keep]
            self._note(turn, value, self._fade)
            self._renew(rows[turn.done])
            self._widen(rows[turn.done])
        return scores

    def complete(self, saved: dict[str, npt.NDArray[np.generic] | None], rows: int) -> None:
        """Add the spacing to what a version saved that kept every `stride`-th reading from the first one on."""
        if saved.get("spacing") is None:
            saved["spacing"] = np.full(rows, self._stride, np.int64)

    def _spacing(self, rows: Rows) -> Integers:
        spacing: Integers = np.maximum(self._of["spacing"][rows], 1)
        return spacing

    def _held(self, seen: Integers, spacing: Integers) -> Integers:
        """Return how many readings are kept of rows (r,) that have seen so many."""
        held: Integers = np.minimum(-(-seen // spacing), self._window)
        return held

    def _widen(self, full: Rows) -> None:
        """Where a young row's next block would push out what it began with, keep each second reading."""
        of = self._of
        spacing, seen = self._spacing(full), of["seen"][full]
        left = self._window * spacing - seen
        is_wide = (spacing < self._stride) & (left < _block_length(seen))
        # A stride that was set smaller since counts once there is enough for it.
        is_wide |= (spacing > self._stride) & (left <= 0)
        for before in distinct(spacing[is_wide]).tolist():
            these = full[is_wide & (spacing == before)]
            after = min(2 * before, self._stride)
            of["spacing"][these] = after
            if after > before:
                places = np.arange(-(-self._window * before // after)) * after // before
                of["kept"][these, : len(places)] = of["kept"][np.ix_(these, places)]

    def _renew(self, full: Rows) -> None:
        """Find the quartiles of rows (r,) that ended a block."""
        of = self._of
        held = self._held(of["seen"][full], self._spacing(full))
        # While the rings fill, rows that hold equally much are taken together; later all hold the same.
        for number in distinct(held):
            these = full[held == number]
            low, middle, high = quartiles(of["kept"][these, :number])
            of["low"][these], of["middle"][these], of["high"][these] = low, middle, high
            of["peak"][these] = np.maximum(of["peak"][these], high - low)

    def expected(self, index: Rows) -> Floats:
        """Return the rows' medians."""
        return self._of["middle"][index].astype(np.float64)


def rounds(values: Floats, index: Rows, seen: Integers) -> Iterator[Round]:
    """Cut a call into rounds in which each row has at most what is left of its current block.

    Readings that are not finite are in none. `seen` (rows,) is how many readings each row has learnt from.

    >>> for turn in rounds(np.ones(3), np.array([1, 0, 1]), np.array([0, 7])):
    ...     print(turn.part.tolist(), turn.rows.tolist(), turn.done.tolist())
    [1, 0] [0, 1] [False, True]
    [2] [1] [False]
    """
    order = np.argsort(index, kind="stable")
    finite = np.isfinite(values)
    if not finite.all():
        order = order[finite[order]]
    if not len(order):
        return
    whole = _round(order, index, seen)
    block = blocks(whole.place) - blocks(whole.before)[whole.run]
    last = int(block.max())
    if not last:
        yield whole
        return
    by_block = np.argsort(block, kind="stable")
    bounds = np.searchsorted(block[by_block], np.arange(last + 2))
    seen = seen.copy()
    for first, end in itertools.pairwise(bounds.tolist()):
        turn = _round(order[by_block[first:end]], index, seen)
        seen[turn.rows] = turn.before + np.diff(turn.starts, append=len(turn.run))
        yield turn


def _round(part: Rows, index: Rows, seen: Integers) -> Round:
    row = index[part]
    changes = np.empty(len(row), np.bool_)
    changes[0] = True
    np.not_equal(row[1:], row[:-1], out=changes[1:])
    starts = np.flatnonzero(changes)
    run = np.cumsum(changes) - 1
    rows = row[starts]
    before = seen[rows]
    counts = np.diff(starts, append=len(row))
    after = before + counts
    length = np.where(after > YOUNG, BLOCK, BLOCK_YOUNG)
    return Round(
        part=part,
        rows=rows,
        run=run,
        starts=starts,
        before=before,
        place=np.arange(len(row)) + (before - starts)[run],
        done=after % length == 0,
        length=length,
    )


def blocks(place: Integers) -> Integers:
    """Return which block of a row's life its `place`-th reading falls into.

    >>> blocks(np.array([0, 7, 8, 511, 512, 575, 576])).tolist()
    [0, 0, 1, 63, 64, 64, 65]
    """
    young = YOUNG // BLOCK_YOUNG
    return np.where(place < YOUNG, place // BLOCK_YOUNG, young + (place - YOUNG) // BLOCK)


def _block_length(place: Integers) -> Integers:
    """Return how long the block is that a row's `place`-th reading falls into."""
    return np.where(place < YOUNG, BLOCK_YOUNG, BLOCK)


def running_sums(before: Floats, run: Rows, values: Floats) -> Floats:
    """Return `before` (r,) plus the values (p,) of each run, added one after the other.

    The order of the additions is that of feeding them one by one, so that cutting a batch changes no bit.

    >>> running_sums(np.array([1.0, 10.0]), np.array([0, 1, 1]), np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 15.0]
    """
    places = np.concatenate([np.arange(len(before)), run])
    sums = np.bincount(places, np.concatenate([before, values]), minlength=len(before))
    return sums.astype(np.float64, copy=False)


def quartiles(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return lower quartile, median and upper quartile of each row of `values` (r, n), as members of the row.

    >>> [part.tolist() for part in quartiles(np.array([[5.0, 1.0, 4.0, 2.0, 3.0]]))]
    [[2.0], [3.0], [4.0]]
    """
    last = values.shape[1] - 1
    places = (last // 4, last // 2, last - last // 4)
    ordered = np.partition(values, places, axis=1)
    return ordered[:, places[0]], ordered[:, places[1]], ordered[:, places[2]]


def _kind(name: str) -> type[np.generic]:
    return np.int64 if name in {"seen", "spacing"} else np.float64


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, at most SCORE_MAX, 0 where whole is 0."""
    # What is more than a double can be is more than enough.
    with np.errstate(over="ignore"):
        return np.minimum(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0), SCORE_MAX)
