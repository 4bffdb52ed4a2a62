"""Values become typed columns, exactly."""

from __future__ import annotations

import math
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.columns import BOOL, DOUBLE, INT, Column, ValueReader, double_bits
from gateway.codecs.paths import ABSENT

ODD = st.one_of(
    st.none(),
    st.just(ABSENT),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.sampled_from(["n/a", "20.5", "7", "ON", "NaN", [1], {}, b"x", cbor2.undefined, np.zeros(2)]),
)


def unpack(column: Column) -> list[Any]:
    """Return a column's values as Python has them."""
    kinds = np.broadcast_to(np.asarray(column.kinds), len(column.bits)).tolist()
    return [
        float(np.int64(bits).view(np.float64)) if kind == DOUBLE else bool(bits) if kind == BOOL else bits
        for bits, kind in zip(column.bits.tolist(), kinds, strict=True)
    ]


def read(values: list[Any], **options: Any) -> tuple[list[Any], list[tuple[int, str]]]:
    """Return values and (position, reason) of the problems."""
    column = ValueReader("x", **options).read(values)
    return unpack(column), [(at, reason) for at, reason, _ in column.problems]


@pytest.mark.parametrize(
    ("values", "kind", "out"),
    [
        ([1.5, -0.0], DOUBLE, [1.5, -0.0]),
        ([1, 2**63 - 1, -(2**63)], INT, [1, 2**63 - 1, -(2**63)]),
        ([True, False], BOOL, [True, False]),
        ([1, 2.5], DOUBLE, [1.0, 2.5]),
        ([], DOUBLE, []),
    ],
)
def test_a_column_of_one_type_keeps_it(values: list[Any], kind: int, out: list[Any]) -> None:
    """Doubles, integers and booleans; integers among doubles are doubles."""
    column = ValueReader("x").read(values)
    assert (column.kinds, column.which, column.problems) == (kind, None, [])
    assert unpack(column) == out
    assert column.bits.dtype == np.int64


def test_what_is_null_or_absent_is_no_reading_and_no_problem() -> None:
    """Absent ones are told apart."""
    column = ValueReader("x").read([1.5, None, ABSENT, cbor2.undefined, 2.5])
    assert unpack(column) == [1.5, 2.5]
    assert (column.which.tolist(), column.absent, column.problems) == ([0, 4], [2], [])


def test_booleans_among_numbers_stay_booleans() -> None:
    """Each value keeps its kind."""
    assert read([True, 1, 2.5, False])[0] == [True, 1.0, 2.5, False]
    assert list(map(type, read([True, 7])[0])) == [bool, int]


def test_a_metric_that_had_a_double_makes_doubles_of_integers() -> None:
    """From then on, and not before: a temperature of 21 follows 20.5 as 21.0."""
    reader = ValueReader("x")
    assert list(map(type, unpack(reader.read([21])))) == [int]
    reader.read([20.5])
    assert list(map(type, unpack(reader.read([21])))) == [float]


def test_an_integer_that_a_double_would_change_stays_one() -> None:
    """Beyond 2^53 every second integer is no double; the others are."""
    values, _ = read([0.5, 2**53, 2**53 + 1, 2**54])
    assert values == [0.5, 2**53, 2**53 + 1, 2**54]
    assert list(map(type, values)) == [float, float, int, float]
    assert read([0.5, 2**53 + 1])[0] == [0.5, 2**53 + 1]
    assert read([0.5, -(2**53) - 1])[0] == [0.5, -(2**53) - 1]


def test_an_integer_beyond_64_bits_is_a_double_if_that_is_exact() -> None:
    """2^70 is one, 2^70 + 1 has no home, nor has 10^400."""
    assert read([2**70]) == ([float(2**70)], [])
    assert read([1, 2**70 + 1, 10**400]) == ([1], [(1, "out_of_range"), (2, "out_of_range")])
    assert read([0.5, 10**400]) == ([0.5], [(1, "out_of_range")])


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.nan, 1], [1, True, math.nan], [None, math.nan]])
def test_what_is_not_finite_is_dropped_with_its_reason(values: list[Any]) -> None:
    """Wherever it stands in a column."""
    _, problems = read(values)
    assert problems == [
        (k, "not_finite") for k, value in enumerate(values) if isinstance(value, float) and math.isnan(value)
    ]


def test_a_sum_that_overflows_is_no_reason_to_drop_anything() -> None:
    """Two huge doubles are finite though their sum is not."""
    assert read([1.7e308, 1.7e308]) == ([1.7e308, 1.7e308], [])


@pytest.mark.parametrize(
    ("type_", "values", "out", "lost"),
    [
        ("auto", ["20.5", "n/a", [1, 2]], [], [0, 1, 2]),
        ("double", [1, "20.5", True, "n/a", 2**60 + 1], [1.0, 20.5, 1.0, float(2**60)], [3]),
        ("int", [1, 2.0, "7", True, 2.5, "2.5", None], [1, 2, 7, 1], [4, 5]),
        ("bool", [True, 1, 0.0, "ON", 2, "x", {}], [True, True, False, True], [4, 5, 6]),
    ],
)
def test_a_type_converts_what_fits_and_refuses_the_rest(
    type_: Any, values: list[Any], out: list[Any], lost: list[int]
) -> None:
    """Text is read only where a type says so; nothing is rounded to an integer."""
    found, problems = read(values, type=type_)
    assert found == out
    assert list(map(type, found)) == list(map(type, out))
    assert problems == [(k, "wrong_type") for k in lost]


@pytest.mark.parametrize(
    ("type_", "value", "sentence"),
    [
        ("auto", "n/a", 'x is "n/a", not a number'),
        ("auto", "5", 'x is "5", a text; type = "double" reads numbers from text'),
        ("auto", [1, 2], "x is a list of 2, not one value; take one by index like x[0], or say time = { start, step }"),
        ("int", 2.5, "x is 2.5, not a whole number"),
        ("bool", 2, "x is 2, not true or false"),
        ("double", "x", 'x is "x", not a number'),
    ],
)
def test_a_problem_says_what_is_there_and_what_would_be_right(type_: Any, value: Any, sentence: str) -> None:
    """The sentence a person reads."""
    assert ValueReader("x", type=type_).read([value]).problems[0][2].startswith(sentence)


def test_a_flood_of_wrong_values_is_counted_but_not_described_each() -> None:
    """The reasons are all there, the sentences are not."""
    problems = ValueReader("x").read(["n/a"] * 1000).problems
    assert len(problems) == 1000
    assert len({sentence for _, _, sentence in problems}) == 2


def test_scaled_values_are_doubles() -> None:
    """value · scale + offset, of integers and booleans too; what overflows is not finite."""
    assert read([10, 20.5, True], scale=0.5, offset=1)[0] == [6.0, 11.25, 1.5]
    assert read([1e308], scale=10.0)[1] == [(0, "not_finite")]
    assert read([1, 10**400, 2**1020], scale=100.0) == ([100.0], [(1, "out_of_range"), (2, "not_finite")])
    assert ValueReader("x", scale=2.0).read_array(np.array([1, 2], np.int16)).bits.view(np.float64).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("array", "kind", "out"),
    [
        (np.array([1.5, 2.5], "<f2"), DOUBLE, [1.5, 2.5]),
        (np.array([1.5, 2.5], ">f4"), DOUBLE, [1.5, 2.5]),
        (np.array([1, -2], ">i2"), INT, [1, -2]),
        (np.array([1, 2**63 - 1], "<u8"), INT, [1, 2**63 - 1]),
        (np.array([], "<u8"), INT, []),
    ],
)
def test_an_array_is_a_column(array: Any, kind: int, out: list[Any]) -> None:
    """Of any width and byte order."""
    column = ValueReader("x").read_array(array)
    assert (column.kinds, unpack(column)) == (kind, out)


def test_an_array_of_integers_after_a_double_is_one_of_doubles() -> None:
    """Unless that would change one of them."""
    reader = ValueReader("x")
    reader.read_array(np.array([0.5]))
    assert unpack(reader.read_array(np.array([1, 2]))) == [1.0, 2.0]
    assert reader.read_array(np.array([], np.int64)).kinds == DOUBLE
    assert list(map(type, unpack(reader.read_array(np.array([1, 2**53 + 1]))))) == [float, int]


def test_an_array_beyond_int64_is_looked_at_one_by_one() -> None:
    """2^63 is a double, 2^64 - 1 has no home."""
    column = ValueReader("x").read_array(np.array([5, 2**63, 2**64 - 1], np.uint64))
    assert unpack(column) == [5, float(2**63)]
    assert [(at, reason) for at, reason, _ in column.problems] == [(2, "out_of_range")]


@pytest.mark.parametrize("type_", ["auto", "double", "int", "bool"])
def test_an_array_is_read_like_a_list(type_: Any) -> None:
    """By each type."""
    for array in (np.array([0, 1, 3]), np.array([0.0, 1.0, 2.5]), np.array([1.5, np.nan])):
        listed, typed = (
            ValueReader("x", type=type_).read(array.tolist()),
            ValueReader("x", type=type_).read_array(array),
        )
        assert unpack(typed) == unpack(listed)
        assert typed.problems == listed.problems


def test_a_reader_knows_whether_it_changes_doubles() -> None:
    """Only then must they be looked at by metric."""
    assert ValueReader("x").is_plain
    assert ValueReader("x", type="double").is_plain
    assert not ValueReader("x", type="int").is_plain
    assert not ValueReader("x", scale=2.0).is_plain


def naive(value: Any, *, has_double: bool) -> Any:
    """Return the reading that a value is, None if it is none: the rule in the fewest words."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, int):
        return None
    try:
        exact = int(float(value)) == value
    except OverflowError:
        exact = False
    small = -(2**63) <= value < 2**63
    return float(value) if exact and (has_double or not small) else value if small else None


@given(st.lists(ODD, max_size=12), st.booleans())
def test_a_column_agrees_with_looking_at_each_value(values: list[Any], has_double: bool) -> None:
    """Whatever stands beside it."""
    reader = ValueReader("x")
    reader.is_double = has_double
    column = reader.read(values)
    has_double = has_double or any(type(value) is float for value in values)
    expected = {
        k: found for k, value in enumerate(values) if (found := naive(value, has_double=has_double)) is not None
    }
    which = list(range(len(values))) if column.which is None else column.which.tolist()
    assert dict(zip(which, map(repr, unpack(column)), strict=True)) == {k: repr(v) for k, v in expected.items()}
    nothing = {k for k, value in enumerate(values) if value is None or value is ABSENT or value is cbor2.undefined}
    assert {at for at, _, _ in column.problems} == set(range(len(values))) - set(expected) - nothing


@given(st.floats())
def test_bits_are_those_of_the_double(value: float) -> None:
    """As numpy sees them."""
    assert double_bits(value) == int(np.float64(value).view(np.int64))
