"""What programs give, read or refused; what a client does with it is tests/client/test_client.py."""

from __future__ import annotations

import array
import datetime as dt
import enum
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client import values
from gateway.core.batch import ValueKind
from gateway.core.clock import NS_PER_S

NOW_NS = 1_790_000_000 * NS_PER_S


@given(st.integers(1_700_000_000 * 10**6, 4_000_000_000 * 10**6))
def test_a_moment_is_the_same_however_it_is_given(us: int) -> None:
    """To the microsecond as a float, exactly as a datetime, and each alone as in an array."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
    assert values.unix_ns(moment) == us * 1000
    assert abs(values.unix_ns(us / 1e6) - us * 1000) <= 1000
    assert values.unix_ns(np.datetime64(us, "us")) == us * 1000
    assert values.unix_ns_of_each([us / 1e6], 1).tolist() == [values.unix_ns(us / 1e6)]
    assert values.unix_ns_of_each([moment], 1).tolist() == [us * 1000]


@pytest.mark.parametrize(
    ("time", "error"),
    [
        (True, TypeError), (np.bool_(True), TypeError), (None, TypeError), (1 << 63, ValueError), (-(1 << 70), ValueError),
        (float("nan"), ValueError), (np.datetime64("NaT", "ns"), ValueError), (1_790_000_000_000_000, ValueError),
    ],
)  # fmt: skip
def test_what_is_no_time(time: object, error: type[Exception]) -> None:
    """Each says what would be."""
    with pytest.raises(error, match="nanoseconds"):
        values.unix_ns(time)


@pytest.mark.parametrize(
    "times",
    [[1_790_000_000], [float("inf")], np.array(["NaT"], "datetime64[ns]"), ["now"], [True], [None], [1 << 70]],
)
def test_what_are_no_times(times: object) -> None:
    """Also where only one of many is wrong."""
    with pytest.raises((TypeError, ValueError), match=r"nanoseconds|seconds since|dtype|time is"):
        values.unix_ns_of_each(times, 1)


def test_a_time_of_a_box_without_a_clock_is_no_mistake() -> None:
    """Five minutes after 1970 began: the door marks it."""
    assert values.unix_ns(300 * NS_PER_S) == 300 * NS_PER_S
    assert values.unix_ns(300.0) == 300 * NS_PER_S


def test_steps() -> None:
    """Whole nanoseconds, without drift over a day."""
    times = values.stepped_ns(NOW_NS, 1 / 3, 3 * 86_400)
    assert times[-1] - NOW_NS == round((3 * 86_400 - 1) * NS_PER_S / 3)
    assert values.stepped_ns(5, dt.timedelta(seconds=1), 2).tolist() == [5, 5 + NS_PER_S]
    assert values.stepped_ns(5, np.float32(0.5), 2).tolist() == [5, 5 + NS_PER_S // 2]
    for step in (True, "x", None):
        with pytest.raises(TypeError, match="step is a"):
            values.stepped_ns(5, step, 2)
    for step in (-1, float("inf"), float("nan"), 1e12):
        with pytest.raises(ValueError, match="step is"):
            values.stepped_ns(5, step, 2)


def test_one_or_many() -> None:
    """A text is none of them."""
    many = ([1], (1,), range(3), array.array("d", [1]), memoryview(b"ab"), np.array([1]))
    assert all(values.is_many(value) for value in many)
    assert not any(values.is_many(value) for value in (1, 1.5, "ab", b"ab", None, np.float64(1), np.array(1)))


def test_one_number() -> None:
    """Of each kind, and of types that can be floats."""
    assert values.one_number(5) == (ValueKind.INT, 5)
    assert values.one_number(np.array(5, np.int8)) == (ValueKind.INT, 5)
    assert values.one_number(np.uint64(2**63)) == (ValueKind.DOUBLE, 2.0**63)
    assert values.one_number(np.bool_(True)) == (ValueKind.BOOL, 1)
    assert values.one_number(Fraction(1, 4)) == (ValueKind.DOUBLE, 0.25)
    for value in (b"1", [], object(), np.datetime64(1, "s")):
        with pytest.raises(TypeError, match="give a number"):
            values.one_number(value)


def test_many_numbers() -> None:
    """As columns have them; a copy, whatever they were."""
    given = np.arange(3)
    assert values.many_numbers(given) is not given
    assert values.many_numbers(np.array([2**63], np.uint64)).tolist() == [2.0**63]
    assert values.many_numbers(np.array([2**62], np.uint64)).dtype == np.int64
    assert values.many_numbers([True, False]).dtype == np.bool_
    assert values.many_numbers([]).dtype == np.float64
    assert values.many_numbers(array.array("f", [0.5])).tolist() == [0.5]
    for odd in ([None], ["1"], [1j], [object()]):
        with pytest.raises(TypeError, match="give numbers or bools"):
            values.many_numbers(odd)


def test_attributes_become_plain() -> None:
    """Sorted, and of Python's own types: enumerations are what they are made from."""

    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    found = values.scalar_attributes({"b": Colour.RED, "a": Level.HIGH, "c": np.float32(0.5), "d": np.bool_(True)})
    assert found == (("a", 3), ("b", "red"), ("c", 0.5), ("d", True))
    assert [type(value) for _, value in found] == [int, str, float, bool]
    assert values.scalar_attributes(None) == ()
    with pytest.raises(ValueError, match="65 entries; 64 are the most"):
        values.scalar_attributes({str(n): n for n in range(65)})
