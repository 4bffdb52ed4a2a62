"""Checks for doubles as integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store import decimals

int64 = st.integers(-(2**63), 2**63 - 1)


def bits_of(values: object) -> np.ndarray:
    """Return the bits of doubles."""
    return np.asarray(values, np.float64).view(np.int64)


def choose(*runs: list[float]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Choose forms for lists of doubles."""
    counts = np.array([len(run) for run in runs])
    forms, integers, wrong = decimals.choose(
        bits_of(np.concatenate([np.asarray(run, np.float64) for run in runs])),
        np.cumsum(counts) - counts,
        counts,
    )
    return forms.tolist(), integers, wrong


@given(st.integers(-(2**40), 2**40), st.integers(0, 15))
def test_a_written_decimal_is_found(whole: int, exponent: int) -> None:
    """What Python reads from a decimal's digits is that decimal, with no more digits than it has."""
    bits = bits_of([float(f"{whole}e-{exponent}")])
    (form,) = decimals.smallest_forms(bits, 0, decimals.DECIMAL_EXPONENT_MAX)
    assert form <= exponent
    integers, wrong = decimals.to_integers(bits, int(form))
    assert not wrong.any()
    assert decimals.to_doubles(integers, int(form)).tolist() == bits.tolist()


@given(st.lists(int64, min_size=1), st.sampled_from([*range(26), 32]))
def test_what_is_not_marked_wrong_comes_back(patterns: list[int], form: int) -> None:
    """For any bits at all and every form: exact, or marked."""
    bits = np.array(patterns, np.int64)
    integers, wrong = decimals.to_integers(bits, form)
    back = decimals.from_single_bits(integers) if form == 32 else decimals.to_doubles(integers, form)
    assert ((back == bits) | wrong).all()


@given(int64)
def test_ordered_is_its_own_inverse(pattern: int) -> None:
    """And so is the one for singles."""
    assert decimals.ordered(decimals.ordered(np.array([pattern]))).tolist() == [pattern]
    single = np.array([pattern % 2**32 - 2**31], np.int32)
    assert decimals.ordered_single(decimals.ordered_single(single)).tolist() == single.tolist()


@given(st.lists(st.floats(allow_nan=False), min_size=2))
def test_ordered_bits_grow_with_the_value(values: list[float]) -> None:
    """Sorting the integers sorts the doubles."""
    column = np.array(values)
    assert (column[decimals.ordered(bits_of(column)).argsort()] == np.sort(column)).all()


def test_each_kind_of_run_has_its_form() -> None:
    """Whole numbers, decimals, decimals in singles, singles, doubles."""
    random = np.random.default_rng(1)
    noise = random.normal(size=50)
    forms, _, wrong = choose(
        [1.0, 2.0, 30.0],
        [20.51, 20.5, 21.0],
        np.float32([20.51, 20.5, 21.25]).tolist(),
        noise.astype(np.float32).tolist(),
        noise.tolist(),
    )
    assert forms == [0, 2, 18, decimals.SINGLE_BITS, decimals.DOUBLE_BITS]
    assert not wrong.any()


def test_a_digit_that_no_sample_shows_is_found() -> None:
    """One reading with more digits among a hundred asks for a longer exponent."""
    run = [20.5] * 100
    run[37:50] = [20.125] * 13
    assert choose(run)[0] == [3]


def test_digits_that_vary_too_much_are_given_up() -> None:
    """After a few tries the run is kept as bits."""
    run = [1.0] * 100
    run[29:42] = [1.123456789] * 13
    assert choose(run)[0] == [decimals.DOUBLE_BITS]


def test_digits_at_the_end_of_the_table_are_given_up() -> None:
    """There is no form behind the last one."""
    tiny = [3e-15] * 100
    tiny[29:42] = [3e-17] * 13
    assert choose(tiny)[0] == [decimals.DOUBLE_BITS]


def test_an_odd_value_out_is_an_exception() -> None:
    """A few NaN, infinities and minus zeros do not spoil a decimal run."""
    run = [20.51] * 100
    run[10], run[20], run[99] = float("nan"), float("inf"), -0.0
    forms, integers, wrong = choose(run, [1.5, 2.5])
    assert forms == [2, 1]
    assert np.flatnonzero(wrong).tolist() == [10, 20, 99]
    assert integers[50] == 2051


def test_too_many_odd_values_spoil_a_run_and_no_other() -> None:
    """Beyond one in eight, bits are shorter."""
    odd = [20.51, float("nan")] * 50
    forms, integers, wrong = choose([1.25] * 3, [0.1 + 0.2] * 30 + [20.51] * 100, odd, [7.25] * 3)
    assert forms == [2, decimals.DOUBLE_BITS, decimals.DOUBLE_BITS, 2]
    assert not wrong.any()
    assert integers[-1] == 725


@pytest.mark.parametrize("count", [1, 4])
def test_short_runs_are_lifted_to_what_most_have(count: int) -> None:
    """One in ten of two-decimal values looks like one decimal; kept alike they are shorter."""
    random = np.random.default_rng(4)
    values = np.round(random.normal(20, 3, 400 * count), 2)
    counts = np.full(400, count)
    starts = np.cumsum(counts) - counts
    forms, integers, _ = decimals.choose(bits_of(values), starts, counts)
    decimals.lift(forms, integers, starts, counts)
    assert set(forms.tolist()) == {2}
    assert (decimals.to_doubles(integers, 2) == bits_of(values)).all()


@pytest.mark.parametrize(
    ("forms", "lifted"),
    [
        ([32, 33], [32, 33]),  # no decimals
        ([2, 2, 2, 3], [2, 2, 2, 3]),  # none lower
        (
            [2] * 501 + [0] * 499,
            [2] * 501 + [0] * 499,
        ),  # half are counters: digits would cost more than forms
        ([2] * 900 + [1] * 99 + [0], [2] * 999 + [0]),  # the last integer has no room for more digits
    ],
)
def test_lifting_is_left_where_it_does_not_pay(forms: list[int], lifted: list[int]) -> None:
    """Other forms, too many digits, too large integers."""
    column = np.array(forms)
    integers = np.full(len(forms), 100)
    integers[-1] = 2**46
    decimals.lift(column, integers, np.arange(len(forms)), np.ones(len(forms), np.intp))
    assert column.tolist() == lifted
    assert integers[-1] == 2**46
