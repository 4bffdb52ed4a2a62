"""The figures behind z-score and quartiles; what all detectors promise is in tests/contracts."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.detect.statistics import (
    BLOCK,
    BLOCK_YOUNG,
    KEPT_ENOUGH,
    ROUGH,
    SCORE_MAX,
    YOUNG,
    InterquartileRange,
    ZScore,
    blocks,
    quartiles,
    rounds,
    running_sums,
)


def fed(detector, values):
    detector.grow(1)
    return detector.update(np.asarray(values, float), np.zeros(len(values), np.intp), np.arange(len(values)))


def test_a_z_score_is_a_distance_in_standard_deviations() -> None:
    """Against a long plain history it agrees with the textbook."""
    values = np.random.default_rng(1).normal(50.0, 2.0, 20_000)
    scores = fed(ZScore(warmup=64, span=10_000), np.append(values, 60.0))
    assert scores[-1] == pytest.approx(5.0, rel=0.08)


def test_an_interquartile_score_is_a_distance_outside_the_quartiles() -> None:
    """Quartiles of 0 … 99 are about 25 and 75: 175 is two ranges above, -25 one below, 50 inside."""
    values = np.random.default_rng(2).permutation(np.tile(np.arange(100.0), 60))
    detector = InterquartileRange(warmup=64, window=1024, stride=1)
    scores = fed(detector, np.append(values, [175.0, -25.0, 50.0]))
    assert scores[-3:] == pytest.approx([2.0, 1.0, 0.0], abs=0.15)


@pytest.mark.parametrize(("window", "stride"), [(128, 8), (8, 1), (8, 50), (9, 7), (39, 5), (100, 3), (8, 4096)])
def test_what_is_kept_lies_evenly_over_the_whole_life_or_the_last_of_it(window: int, stride: int) -> None:
    """Whatever window and stride are, at the end of every block: a row is no younger than it says, and never short."""
    detector = InterquartileRange(warmup=8, window=window, stride=stride)
    detector.grow(1)
    place, row = 0, np.zeros(1, np.intp)
    while place < 3 * window * stride and place < 40_000:
        length = BLOCK_YOUNG if place < YOUNG else BLOCK
        part = np.arange(place, place + length)
        detector.update(part.astype(float), np.zeros(length, np.intp), part)
        place += length
        state = detector.state()
        spacing = int(state["spacing"][0])
        held = np.sort(state["kept"][0, : min(-(-place // max(spacing, 1)), window)])
        spread = max(spacing, 1)
        assert spread <= stride
        assert len(held) >= min(window // 4, place)
        # Where the stride is no multiple, what was kept closer before is the nearest there was.
        assert (np.abs(np.diff(held) - spread) < spread).all()
        assert held[-1] >= place - 2 * spread
        assert held[0] == 0 or (spread == stride and held[-1] - held[0] > (window - 2) * stride)
    assert detector.expected(row)[0] == pytest.approx(
        place - window * stride / 2 if place > window * stride else place / 2, rel=0.35
    )


def test_the_fences_are_wider_where_they_are_of_few_readings() -> None:
    """The same quartiles of 16 readings and of 1024: the former are a guess, and the same distance says less."""
    few = fed(InterquartileRange(warmup=64, window=16, stride=1), np.append(np.tile([0.0, 1.0], 64), 8.0))
    many = fed(InterquartileRange(warmup=64, window=1024, stride=1), np.append(np.tile([0.0, 1.0], 1024), 8.0))
    assert (few[-1], many[-1]) == pytest.approx((7 / (1 + ROUGH / 16), 7 / (1 + ROUGH / 1024)))


def test_quartiles_of_too_few_judge_nobody() -> None:
    """A `warmup` that is shorter than what they need is over when there are enough."""
    values = np.random.default_rng(6).normal(0.0, 1.0, 64)
    values[[20, 31]] = 1e6
    values[40] = 1e6
    scores = fed(InterquartileRange(warmup=8, window=128), values)
    assert np.flatnonzero(scores > 100).tolist() == [40]
    assert not scores[:KEPT_ENOUGH].any()


def test_a_floor_can_be_set() -> None:
    """A scale below `scale_min` counts as that."""
    values = np.append(np.tile([1.0, 1.001], 200), 2.0)
    assert fed(ZScore(warmup=16, span=100, scale_min=0.5), values)[-1] == pytest.approx(2.0, rel=0.01)
    assert fed(InterquartileRange(warmup=16, window=16, stride=1, scale_min=0.5), values)[-1] == pytest.approx(
        2.0, rel=0.01
    )


def test_scores_have_an_end() -> None:
    """Enormous is enough."""
    noise = np.random.default_rng(3).normal(0, 1e-3, 500)
    assert fed(ZScore(warmup=16, span=100), np.append(noise, 1e300))[-1] == SCORE_MAX


def test_a_score_that_no_double_can_say_has_an_end_too() -> None:
    """Without a warning on stderr, which is an error here."""
    values = np.append(np.zeros(100), [5e-324, 1e308])
    assert fed(ZScore(warmup=16, span=100, scale_min=1e-300), values)[-1] == SCORE_MAX


def test_a_lull_does_not_make_the_next_move_a_sensation() -> None:
    """After a lively past a standstill keeps a tenth of the old scale, for a while."""
    lively = np.random.default_rng(4).normal(0, 10.0, 5000)
    values = np.concatenate([lively, np.zeros(3000), [2.0]])
    assert fed(ZScore(warmup=64, span=200), values)[-1] < 10


def test_quartiles_are_members() -> None:
    """One value is all three; many rows at once."""
    assert [part.tolist() for part in quartiles(np.array([[7.0], [8.0]]))] == [[7.0, 8.0]] * 3


def test_blocks_are_short_in_youth() -> None:
    """Block numbers never step back and grow by one at the boundaries."""
    steps = np.diff(blocks(np.arange(YOUNG + 10 * BLOCK)))
    assert set(steps.tolist()) == {0, 1}
    assert np.flatnonzero(steps)[:2].tolist() == [7, 15]
    assert np.flatnonzero(steps)[-1] == YOUNG + 9 * BLOCK - 1


def test_rounds_cover_every_finite_reading_once_in_order() -> None:
    """Each row's readings come in their order, each round within one block of its row."""
    random = np.random.default_rng(5)
    index = random.integers(0, 4, 2000)
    values = np.where(random.random(2000) < 0.1, np.nan, 1.0)
    seen = np.array([0, 3, 511, 600])
    met = []
    for turn in rounds(values, index, seen):
        assert (np.diff(turn.rows) > 0).all()
        assert (turn.rows[turn.run] == index[turn.part]).all()
        for row in range(len(turn.rows)):
            assert len(set(blocks(turn.place[turn.run == row]).tolist())) == 1
        seen = seen.copy()
        seen[turn.rows] += np.bincount(turn.run)
        met += turn.part.tolist()
    assert sorted(met) == np.flatnonzero(np.isfinite(values)).tolist()
    for row in range(4):
        mine = [part for part in met if index[part] == row]
        assert mine == sorted(mine)


def test_sums_are_added_in_order() -> None:
    """So that 0.1 thrice is what it is one by one."""
    once = running_sums(np.zeros(1), np.zeros(3, np.intp), np.full(3, 0.1))
    total = np.zeros(1)
    for _ in range(3):
        total = running_sums(total, np.zeros(1, np.intp), np.array([0.1]))
    assert once.tolist() == total.tolist() == [0.1 + 0.1 + 0.1]


def test_room_grows_by_halves() -> None:
    """A thousand series arriving one by one copy the state a dozen times, not a thousand."""
    detector = ZScore(warmup=16, span=100)
    sizes = set()
    for rows in range(1, 1001):
        detector.grow(rows)
        assert detector.rows >= rows
        sizes.add(detector.rows)
    assert len(sizes) < 15
