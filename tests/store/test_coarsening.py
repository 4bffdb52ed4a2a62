"""Of some segments one is made that takes half of their room at most: as fine as that allows, of real readings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.batch import MONOTONIC, Batch
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import BootId
from gateway.core.thinning import thin
from gateway.store import coarsening
from gateway.store.coarsening import (
    DECODED_MAX,
    GAIN_BYTES_MIN,
    READINGS_MAX,
    STEPS_S,
    Coarse,
    coarsen,
    is_worth,
    join,
    size_on_disk,
    steps_from,
)
from gateway.store.segments import FIRST_HASH, FRONT_BYTES_MAX, decode_metrics, encode_metrics

NOISE = np.random.default_rng(5)


def sealed(batch: Batch, sequence: int = 1) -> bytes:
    return encode_metrics(batch, sequence=sequence, boot=BootId(1), previous_hash=FIRST_HASH)


def steady(seconds: int, *, start_s: int = 0, series: int = 4, every_s: float = 1.0) -> Batch:
    """Readings of some series, one after the other, that nothing compresses well."""
    steps = np.arange(round(seconds / every_s))
    times = start_s * NS_PER_S + (steps * every_s * NS_PER_S).astype(np.int64)
    values = NOISE.integers(0, 30_000, (len(steps), series)) / 100
    return Batch.of(
        np.tile(np.arange(1, series + 1, dtype=np.uint32), len(steps)), np.repeat(times, series), values.ravel()
    )


def pieces(count: int, seconds: int, **more) -> list[Batch]:
    return [steady(seconds, start_s=k * seconds, **more) for k in range(count)]


def rows_of(batch: Batch) -> list[tuple[int, ...]]:
    columns = batch.series, batch.time_ns, batch.bits, batch.flags
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_each_step_is_a_multiple_of_the_one_before() -> None:
    """So that thinning what was thinned is thinning the whole."""
    assert all(after % before == 0 and 3 <= after / before <= 6 for before, after in pairwise(STEPS_S))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4000), st.integers(-5, 5)), min_size=1, max_size=60))
@settings(deadline=None)
def test_step_after_step_leaves_what_the_last_one_leaves(rows) -> None:
    """Whatever was thinned before, and in whatever parts."""
    series, seconds, values = (np.array(column) for column in zip(*rows, strict=True))
    whole = Batch.of(series.astype(np.uint32), seconds * NS_PER_S, values)
    half = len(whole) // 2
    parts = [thin(whole.take(slice(0, half)), 10 * NS_PER_S), thin(whole.take(slice(half, None)), 10 * NS_PER_S)]
    for step_s in (60, 300):
        parts = [thin(Batch.join(parts), step_s * NS_PER_S)]
    assert rows_of(parts[0]) == rows_of(thin(whole, 300 * NS_PER_S))


def test_many_small_ones_become_one_with_all_of_it() -> None:
    """What three readings take is mostly the head of their segment."""
    batches = pieces(400, 1)
    bodies = [sealed(batch) for batch in batches]
    found = join(bodies)
    assert (found.members, found.step_s) == (400, 0)
    assert found.pressed is not None
    one = found.pressed.seal(sequence=1, boot=BootId(1), previous_hash=FIRST_HASH)
    assert rows_of(decode_metrics(one)) == rows_of(Batch.join(batches))
    assert 8 * len(one) < sum(map(len, bodies))


@pytest.mark.parametrize(
    "bodies",
    [
        [sealed(steady(1000))] * 2,  # their heads are nothing
        [sealed(steady(1))] * 4,  # and these are too few
    ],
)
def test_what_gains_little_is_not_joined(bodies) -> None:
    """Each time costs as much of the card as it writes."""
    assert join(bodies) == Coarse(len(bodies))


def test_what_is_too_much_for_one_is_not_joined() -> None:
    """Decoded it would take many megabytes."""
    batch = Batch.of(1, np.zeros(READINGS_MAX, np.int64), np.zeros(READINGS_MAX))
    assert join([sealed(batch), sealed(batch)]) == Coarse(2)


def test_it_is_thinned_at_the_least_step_that_halves_it() -> None:
    """Ten readings of each step become four at most, which is not always half; sixty do."""
    bodies = [sealed(batch) for batch in pieces(4, 3000)]
    old_bytes = sum(size_on_disk(len(body)) for body in bodies)
    found = coarsen(bodies, step_s=0)
    assert (found.members, found.step_s) == (4, 10)
    assert found.pressed is not None
    whole = Batch.join([decode_metrics(body) for body in bodies])
    one = found.pressed.seal(sequence=1, boot=BootId(1), previous_hash=FIRST_HASH)
    assert rows_of(decode_metrics(one)) == rows_of(thin(whole, 10 * NS_PER_S))
    assert 2 * size_on_disk(FRONT_BYTES_MAX + len(found.pressed.body)) <= old_bytes
    again = coarsen([one], step_s=10)
    assert again.step_s == 60
    assert again.pressed is not None
    assert again.pressed.readings == len(thin(whole, 60 * NS_PER_S))


def test_what_comes_once_a_minute_waits_for_a_step_of_some_minutes() -> None:
    """Ten seconds and a minute leave all of it, five minutes four of five."""
    found = coarsen([sealed(batch) for batch in pieces(10, 60 * 500, every_s=60)], step_s=0)
    assert found.step_s == 900


def test_where_all_is_left_it_is_not_called_diluted() -> None:
    """Small ones with few readings halve by being one."""
    found = coarsen([sealed(batch) for batch in pieces(400, 20, every_s=20)], step_s=0)
    assert found.step_s == 0
    assert found.pressed is not None
    assert found.pressed.readings == 1600


def test_what_is_thinned_as_far_as_it_goes_stays() -> None:
    """A day is the last step."""
    bodies = [sealed(thin(steady(3 * 86_400, series=1, every_s=60), 86_400 * NS_PER_S))]
    assert coarsen(bodies, step_s=86_400) == Coarse(1)
    assert coarsen(bodies, step_s=100_000) == Coarse(1)
    assert steps_from(100_000) == []


def test_what_would_be_too_much_for_one_is_thinned_more() -> None:
    """With many series a step of ten seconds leaves more than one segment may hold."""
    bodies = [sealed(batch) for batch in pieces(10, 10, series=1200, every_s=1)]
    assert sum(len(decode_metrics(body)) for body in bodies) > 2 * READINGS_MAX > 4 * DECODED_MAX / 3
    found = coarsen(bodies, step_s=0)
    assert found.pressed is not None
    assert found.pressed.readings <= READINGS_MAX
    wide = [sealed(batch) for batch in pieces(12, 1, series=12_000)]
    found = coarsen(wide, step_s=0)
    assert found.step_s == 60
    assert found.pressed is not None
    assert found.pressed.readings <= READINGS_MAX


def test_what_has_more_series_than_one_may_have_becomes_several() -> None:
    """Each with the next of the series; together they are what is left of all, and half of it at most."""
    rng = np.random.default_rng(1)
    numbers = np.arange(20_000, dtype=np.uint32)
    batches = [Batch.of(numbers, k * NS_PER_S, rng.integers(0, 50_000, len(numbers)) / 100) for k in range(12)]
    bodies = [sealed(batch) for batch in batches]
    found = coarsen(bodies, step_s=0)
    assert found.pressed is not None
    assert (found.members, len(found.more)) == (12, 1)
    parts = [
        decode_metrics(part.seal(sequence=1, boot=BootId(1), previous_hash=FIRST_HASH))
        for part in (found.pressed, *found.more)
    ]
    assert all(len(part) <= READINGS_MAX for part in parts)
    assert parts[0].series[-1] + 1 == parts[1].series[0]
    assert rows_of(Batch.join(parts)) == rows_of(thin(Batch.join(batches), found.step_s * NS_PER_S))
    assert 2 * sum(size_on_disk(len(part.body)) for part in (found.pressed, *found.more)) < sum(map(len, bodies))


def test_too_little_of_each_of_many_series_is_said() -> None:
    """With more of them it may be worth it."""
    numbers = np.arange(20_000, dtype=np.uint32)
    bodies = [sealed(Batch.of(numbers, k * NS_PER_S, np.random.default_rng(k).random(20_000))) for k in range(3)]
    found = coarsen(bodies, step_s=0)
    assert (found.pressed, found.series) == (None, 20_000)


def test_one_series_that_is_too_much_for_one_is_cut_in_time(monkeypatch) -> None:
    """Beside many others: what is left of each part is all of it."""
    monkeypatch.setattr(coarsening, "READINGS_MAX", 50)
    monkeypatch.setattr(coarsening, "WIDE_SERIES", 10)
    many = [steady(8, series=12, start_s=8 * k) for k in range(10)]
    long = [Batch.of(40, np.arange(40 * k, 40 * k + 40) * 10 * NS_PER_S, np.arange(40.0)) for k in range(10)]
    bodies = [sealed(Batch.join(pair)) for pair in zip(many, long, strict=True)]
    monkeypatch.setattr(coarsening, "is_worth", lambda *_: True)
    found = coarsen(bodies, step_s=60)
    assert found.pressed is not None
    parts = [
        decode_metrics(part.seal(sequence=1, boot=BootId(1), previous_hash=FIRST_HASH))
        for part in (found.pressed, *found.more)
    ]
    assert all(len(part) <= 50 for part in parts)
    for part in parts:
        assert len(thin(part, found.step_s * NS_PER_S)) == len(part)


def test_behind_a_damaged_one_nothing_is_taken() -> None:
    """It stays as it is: whoever leases it counts it."""
    bodies = [sealed(batch) for batch in pieces(6, 2000)]
    bodies[4] = bodies[4][:-1]
    assert coarsen(bodies, step_s=0).members == 4
    assert coarsen(bodies[4:], step_s=0) == Coarse(0)
    assert join(bodies[4:]) == Coarse(0)


def test_times_of_different_clocks_are_thinned_each_for_themselves() -> None:
    """A boot's own seconds are no Unix seconds."""
    unix = steady(5000, series=1)
    boots = Batch(unix.series, unix.time_ns, unix.bits, unix.flags | np.uint8(MONOTONIC))
    found = coarsen([sealed(unix), sealed(boots)], step_s=0)
    assert found.pressed is not None
    assert found.pressed.readings == 2 * len(thin(unix, found.step_s * NS_PER_S))


def test_less_than_some_pages_is_not_worth_it() -> None:
    """Whatever share that is."""
    assert is_worth(2 * GAIN_BYTES_MIN, GAIN_BYTES_MIN)
    assert not is_worth(2 * GAIN_BYTES_MIN, GAIN_BYTES_MIN + 1)
    assert not is_worth(GAIN_BYTES_MIN, 1)


def test_however_many_there_are_they_are_decoded_a_few_at_a_time() -> None:
    """What is left of some is thinned with what is left of others: it is what thinning all at once leaves."""
    bodies = [sealed(batch) for batch in pieces(11, 8000)]
    found = coarsen(bodies, step_s=0)
    assert found.pressed is not None
    one = found.pressed.seal(sequence=1, boot=BootId(1), previous_hash=FIRST_HASH)
    whole = Batch.join([decode_metrics(body) for body in bodies])
    assert rows_of(decode_metrics(one)) == rows_of(thin(whole, found.step_s * NS_PER_S))
