"""What is left of a series is its first, least, greatest and last reading in each step, however it came in."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.batch import Batch
from gateway.core.thinning import KEPT_MAX, thin

STEP_NS = 60 * 10**9

VALUES = st.one_of(
    st.floats(width=32, allow_infinity=True, allow_nan=True), st.sampled_from([0.0, -0.0, 1.0, float("nan")])
)
READINGS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-(10**12), 10**12), VALUES),
    min_size=0,
    max_size=60,
    unique_by=lambda r: r[:2],
)


def batch_of(readings) -> Batch:
    if not readings:
        return Batch.empty()
    series, times, values = zip(*readings, strict=True)
    return Batch.of(series, times, np.array(values, np.float64))


def rows(batch: Batch) -> list[tuple[int, int, int, int]]:
    return [*zip(batch.series.tolist(), batch.flags.tolist(), batch.time_ns.tolist(), batch.bits.tolist(), strict=True)]


def by_hand(batch: Batch) -> set[tuple[int, int, int, int]]:
    """The same, one series and step after the other."""
    groups: dict[tuple, list] = defaultdict(list)
    for row, value in zip(rows(batch), batch.values().tolist(), strict=True):
        groups[row[0], row[1], row[2] // STEP_NS].append((row, value))
    kept = set()
    for group in groups.values():
        group.sort(key=lambda pair: pair[0][2])
        numbers = [pair for pair in group if pair[1] == pair[1]] or group[:1]
        kept |= {group[0][0], group[-1][0]}
        kept |= {min(numbers, key=lambda pair: pair[1])[0], max(numbers, key=lambda pair: pair[1])[0]}
    return kept


@given(READINGS)
def test_it_is_what_one_would_pick_by_hand(readings) -> None:
    """Real readings, each once, four of a step at most, in order."""
    batch = batch_of(readings)
    thinned = rows(thin(batch, STEP_NS))
    assert set(thinned) == by_hand(batch)
    assert len(thinned) == len(set(thinned))
    assert [row[:3] for row in thinned] == sorted(row[:3] for row in thinned)


@given(READINGS, st.integers(0, 60))
def test_parts_may_be_thinned_first(readings, cut: int) -> None:
    """What is thinned piece by piece and once more together is what the whole is thinned to."""
    batch = batch_of(readings)
    pieces = [thin(batch.take(slice(0, cut)), STEP_NS), thin(batch.take(slice(cut, None)), STEP_NS)]
    assert rows(thin(Batch.join(pieces), STEP_NS)) == rows(thin(batch, STEP_NS))


def test_whole_numbers_and_doubles_of_one_series_stay_apart() -> None:
    """They are other points upstream."""
    mixed = Batch.join([Batch.of(1, [1, 2, 3], np.array([5, 6, 7])), Batch.of(1, [1, 2, 3], np.array([0.5, 0.1, 0.2]))])
    assert len(thin(mixed, STEP_NS)) == 2 + 3


def test_a_flat_line_is_two_readings_a_step() -> None:
    """Its first is its least and its greatest."""
    flat = Batch.of(1, np.arange(120) * 10**9, np.full(120, 20.5))
    assert thin(flat, STEP_NS).time_ns.tolist() == [0, 59 * 10**9, 60 * 10**9, 119 * 10**9]


def test_a_thousand_series_at_once() -> None:
    """No more than four each."""
    dice = np.random.default_rng(3)
    many = Batch.of(np.tile(np.arange(1000), 60), np.repeat(np.arange(60) * 10**9, 1000), dice.normal(size=60_000))
    thinned = thin(many, STEP_NS)
    assert 2000 <= len(thinned) <= KEPT_MAX * 1000
    assert thinned.run_starts().shape == (1000,)
