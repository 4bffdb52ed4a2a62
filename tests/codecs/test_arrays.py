"""Arrays become readings together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.codecs.arrays import Gatherer, count_values
from gateway.codecs.columns import ValueReader
from gateway.codecs.device_time import Times
from gateway.codecs.routing import Output
from gateway.core.contracts import Lost, MalformedError, Priority


def gather(*arrays: tuple[ValueReader, Any]) -> tuple[list[tuple[int, int, int]], list[Lost]]:
    """Gather arrays, number k as series k from payload k; return (series, time, bits) and problems."""
    gatherer, output = Gatherer(), Output()
    for k, (reader, values) in enumerate(arrays):
        count = len(values) if isinstance(values, list | np.ndarray) else 1
        gatherer.add(reader, values, series=k, times=Times(np.arange(count) + 100 * k, 0), position=k)
    gatherer.finish(output, Priority.NORMAL)
    rows = [
        row
        for _, batch in output.pieces()
        for row in zip(batch.series.tolist(), batch.time_ns.tolist(), batch.bits.tolist(), strict=True)
    ]
    return sorted(rows), output.malformed


def bits(value: float) -> int:
    """Return the bits of a double."""
    return int(np.float64(value).view(np.int64))


def test_arrays_of_many_kinds_keep_their_series_and_times() -> None:
    """Lists, arrays, single values; floats of several metrics together."""
    a, b, c = ValueReader("a"), ValueReader("b"), ValueReader("c")
    rows, problems = gather(
        (a, [1.5]), (b, np.array([2.5, 3.5], "<f4")), (c, [1, 2]), (c, np.array([3], ">i2")), (b, 7)
    )
    assert rows == [
        (0, 0, bits(1.5)),
        (1, 100, bits(2.5)),
        (1, 101, bits(3.5)),
        (2, 200, 1),
        (2, 201, 2),
        (3, 300, 3),
        (4, 400, bits(7.0)),
    ]
    assert problems == []


def test_floats_that_are_joined_teach_each_metric() -> None:
    """That it has doubles."""
    a, b = ValueReader("a"), ValueReader("b")
    gather((a, [1.5]), (b, np.array([1], np.int8)))
    assert (a.is_double, b.is_double) == (True, False)


def test_problems_are_those_of_their_payload_and_metric() -> None:
    """Wherever they were in what was joined."""
    a, b = ValueReader("a"), ValueReader("b")
    nan = float("nan")
    rows, problems = gather((a, [1.5, nan]), (b, [nan]), (a, np.array([], "f8")), (b, [1, "x"]))
    assert rows == [(0, 0, bits(1.5)), (3, 300, bits(1.0))]
    assert sorted(problems) == [
        (0, "not_finite", "a is not a finite number", 1),
        (1, "not_finite", "b is not a finite number", 1),
        (3, "wrong_type", 'b is "x", not a number', 1),
    ]


def test_arrays_are_counted_before_anything_else() -> None:
    """One dimension, so many values."""
    assert count_values([1, 2], label="a", most=2) == 2
    assert count_values(np.zeros(2), label="a", most=2) == 2
    assert count_values(5, label="a", most=2) is None
    with pytest.raises(MalformedError, match="a has 3 values, more than 2"):
        count_values([1, 2, 3], label="a", most=2)
    with pytest.raises(MalformedError, match="2 dimensions"):
        count_values(np.zeros((2, 2)), label="a", most=9)
