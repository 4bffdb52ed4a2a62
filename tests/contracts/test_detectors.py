"""What every detector promises, run over all of them: a new one is tested by being listed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.detect.engine import build
from gateway.detect.settings import IqrSettings, ZScoreSettings

if TYPE_CHECKING:
    from gateway.detect.statistics import Detector

WARMUP = 32
MAKERS = {
    "zscore": lambda: build(ZScoreSettings(warmup=WARMUP, span=200)),
    "iqr": lambda: build(IqrSettings(warmup=WARMUP, window=32, stride=3)),
}
DEFAULTS = {"zscore": ZScoreSettings(), "iqr": IqrSettings()}
THRESHOLDS = {"zscore": ZScoreSettings().threshold, "iqr": IqrSettings().threshold}

Make = "Callable[[], Detector]"


@pytest.fixture(params=sorted(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str) -> Make:
    return MAKERS[kind]


def run(detector: Detector, values: np.ndarray, index: np.ndarray) -> np.ndarray:
    detector.grow(int(index.max()) + 1)
    return detector.update(values, index, np.arange(len(values)))


def plant(seed: int, series: int, readings: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of different levels and widths, interleaved at random, with odd values strewn in."""
    random = np.random.default_rng(seed)
    index = random.integers(0, series, readings)
    values = random.normal(100.0 * index, 1.0 + index)
    odd = random.random(readings) < 0.02
    values[odd] *= 50
    return values, index


def test_scores_are_finite_and_not_negative(make: Make) -> None:
    """Whatever comes in: infinities, NaN, the largest doubles, steps of 300 orders of magnitude."""
    random = np.random.default_rng(1)
    awful = np.array([np.nan, np.inf, -np.inf, 1.7e308, -1.7e308, 5e-324, 0.0, -0.0, 1e300, 1.0])
    values = random.choice(awful, 5000)
    scores = run(make(), values, random.integers(0, 7, 5000))
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert not scores[~np.isfinite(values)].any()


def test_what_is_not_finite_teaches_nothing(make: Make) -> None:
    """With or without it, the other scores are the same."""
    values, index = plant(2, 5, 3000)
    holes = np.random.default_rng(3).random(3000) < 0.1
    pierced = np.where(holes, np.nan, values)
    assert run(make(), pierced, index)[~holes].tolist() == run(make(), values[~holes], index[~holes]).tolist()


def test_nobody_looks_ahead(make: Make) -> None:
    """The first scores don't change with what comes later in the same call."""
    values, index = plant(4, 3, 2000)
    whole = run(make(), values, index)
    for length in (1, 7, 8, 9, 500, 1234):
        assert run(make(), values[:length], index[:length]).tolist() == whole[:length].tolist()


def test_series_do_not_disturb_each_other(make: Make) -> None:
    """Alone or among others, in another row or another order: a series gets the same scores."""
    values, index = plant(5, 6, 3000)
    whole = run(make(), values, index)
    for row in range(6):
        mine = index == row
        assert run(make(), values[mine], np.zeros(mine.sum(), np.intp)).tolist() == whole[mine].tolist()
    renamed = np.array([3, 5, 0, 1, 4, 2])
    assert run(make(), values, renamed[index]).tolist() == whole.tolist()


@pytest.mark.parametrize("kind", sorted(MAKERS))
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3000), max_size=8), st.integers(0, 2**32), st.sampled_from([1, 3, 200]))
def test_the_cut_into_batches_changes_no_bit(kind: str, cuts: list[int], seed: int, series: int) -> None:
    """One call or many: exactly the same scores."""
    values, index = plant(seed, series, 3000)
    detector = MAKERS[kind]()
    detector.grow(series)
    pieces = np.split(np.arange(3000), sorted(set(cuts)))
    scores = [detector.update(values[piece], index[piece], piece) for piece in pieces]
    assert np.concatenate(scores).tolist() == run(MAKERS[kind](), values, index).tolist()


def test_one_by_one_is_the_same_too(make: Make) -> None:
    """The slowest way to feed it."""
    values, index = plant(6, 2, 700)
    detector = make()
    detector.grow(2)
    alone = [detector.update(values[k : k + 1], index[k : k + 1], index[k : k + 1])[0] for k in range(700)]
    assert alone == run(make(), values, index).tolist()


def test_saved_in_the_middle_it_goes_on_as_if_nothing_had_been(make: Make) -> None:
    """State is all there is, and it is in the arrays."""
    values, index = plant(7, 5, 3000)
    first, second = make(), make()
    first.grow(5)
    first.update(values[:1501], index[:1501], index[:1501])
    second.grow(first.rows)
    for name, array in first.state().items():
        second.state()[name][:] = array
    rest = slice(1501, None)
    later = first.update(values[rest], index[rest], index[rest])
    assert second.update(values[rest], index[rest], index[rest]).tolist() == later.tolist()


def test_rows_that_are_added_start_fresh_and_leave_the_others(make: Make) -> None:
    """Growing in the middle changes nothing for those that are there."""
    values, index = plant(8, 40, 4000)
    late = index >= 20
    detector = make()
    detector.grow(20)
    detector.grow(3)
    early = detector.update(values[~late], index[~late], index[~late])
    detector.grow(40)
    after = detector.update(values[late], index[late], index[late])
    whole = run(make(), values, index)
    assert early.tolist() == whole[~late].tolist()
    assert after.tolist() == whole[late].tolist()


def test_a_constant_series_is_never_odd(make: Make) -> None:
    """Nor is one that moves by a single step of its resolution once in a while."""
    assert not run(make(), np.full(5000, 20.5), np.zeros(5000, np.intp)).any()
    quiet = np.where(np.arange(5000) % 97 == 0, 20.6, 20.5)
    assert run(make(), quiet, np.zeros(5000, np.intp)).max() < 3


def test_a_series_that_never_moved_gives_nothing_to_measure_by(make: Make) -> None:
    """The first move is learnt, not judged, and the new level becomes normal."""
    values = np.concatenate([np.zeros(2000), np.full(4000, 7.0)])
    scores = run(make(), values, np.zeros(6000, np.intp))
    assert scores.max() <= 1
    assert not scores[-1000:].max() > 1


def test_a_spike_is_found_after_the_warmup(make: Make, kind: str) -> None:
    """Ten standard deviations, in each of many series; what came before it stays calm."""
    random = np.random.default_rng(9)
    noise = random.normal(20.0, 0.5, (100, 400))
    noise[:, 350] += 5.0
    scores = run(make(), noise.T.ravel(), np.tile(np.arange(100), 400)).reshape(400, 100)
    over = scores >= THRESHOLDS[kind]
    assert over[350].mean() > 0.97
    assert over[WARMUP:350].mean() < 0.002
    assert not scores[:WARMUP].any()


def by_default(kind: str, values: np.ndarray) -> np.ndarray:
    """Return which of `values` (readings, series) are over the threshold of a detector that nobody has set."""
    readings, series = values.shape
    rows = np.arange(series)
    detector = build(DEFAULTS[kind])
    detector.grow(series)
    # Few readings of many series at a time, as they come.
    scores = [detector.update(part.ravel(), np.tile(rows, len(part)), rows) for part in np.split(values, readings // 8)]
    return np.concatenate(scores).reshape(readings, series) >= DEFAULTS[kind].threshold


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_noise_alone_has_hardly_a_finding_by_default(kind: str, seed: int) -> None:
    """Each finding silences its series for a while: of a thousand series fewer than five may have one at the start."""
    over = by_default(kind, np.random.default_rng(seed).normal(20.0, 0.5, (400, 1000)))
    assert over.any(axis=0).mean() < 0.005


@pytest.mark.parametrize("place", [64, 65, 100, 127, 128, 135, 150, 263, 399])
def test_a_spike_is_found_by_default_as_soon_as_the_warmup_is_over(kind: str, place: int) -> None:
    """Ten standard deviations, from the very reading on that `warmup` promises; the one before it is learnt."""
    noise = np.random.default_rng(24).normal(20.0, 0.5, (400, 1000))
    noise[place] += 5.0
    over = by_default(kind, noise)
    assert over[place].mean() > 0.97
    assert not over[: DEFAULTS[kind].warmup].any()
    noise[DEFAULTS[kind].warmup - 1] += 5.0
    assert not by_default(kind, noise)[: DEFAULTS[kind].warmup].any()


def test_a_steady_climb_is_not_odd_by_default(kind: str) -> None:
    """What is learnt in youth lies evenly over it: who holds on to its beginning calls every climb odd."""
    climb = np.arange(2400.0)[:, np.newaxis] + np.random.default_rng(25).normal(0.0, 0.5, (2400, 20))
    assert not by_default(kind, climb).any()


def test_the_level_does_not_matter(make: Make) -> None:
    """Celsius or Kelvin: a constant that is added leaves the scores, and so does a factor."""
    random = np.random.default_rng(10)
    values = np.round(random.normal(20.0, 0.5, 3000), 2)
    values[2000] += 40
    zeros = np.zeros(3000, np.intp)
    plain = run(make(), values, zeros)
    assert run(make(), values + 1000.0, zeros) == pytest.approx(plain, rel=1e-6, abs=1e-6)
    assert run(make(), values * 1024.0, zeros) == pytest.approx(plain, rel=1e-12)
    assert run(make(), -values, zeros) == pytest.approx(plain, rel=1e-12)


def test_an_anomaly_does_not_become_normal_at_once(make: Make) -> None:
    """A second spike soon after the first still stands out."""
    random = np.random.default_rng(11)
    values = random.normal(0.0, 1.0, 3000)
    values[2000:2003] += 1000.0
    values[2100] += 30.0
    scores = run(make(), values, np.zeros(3000, np.intp))
    assert scores[2100] > 5


def test_a_new_level_becomes_normal_in_the_end(make: Make) -> None:
    """After many readings at a new level nothing is odd there."""
    random = np.random.default_rng(12)
    values = random.normal(0.0, 1.0, 8000)
    values[2000:] += 50.0
    scores = run(make(), values, np.zeros(8000, np.intp))
    assert scores[2000] > 10
    assert scores[-500:].max() < 6


def test_what_is_expected_is_near_what_was_seen(make: Make) -> None:
    """Mean or median, and how many readings it stands on."""
    detector = make()
    values = np.random.default_rng(13).normal(20.0, 0.5, 1000)
    run(detector, values, np.zeros(1000, np.intp))
    assert detector.expected(np.array([0]))[0] == pytest.approx(20.0, abs=0.3)
    assert detector.seen(np.array([0])).tolist() == [1000]


def test_nothing_in_nothing_out(make: Make) -> None:
    """An empty call is fine, before there are rows too."""
    empty = np.empty(0, np.intp)
    assert make().update(np.empty(0), empty, empty).tolist() == []
