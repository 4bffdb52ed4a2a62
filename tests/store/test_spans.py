"""Spans hold the numbers that were put in, however they come, and of too many the nearest become one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.store.spans import Spans

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=12)


@given(PAIRS, st.integers(-1, 80))
def test_they_hold_what_a_set_would(pairs, number: int) -> None:
    """In order, and no two of them meet; what lies next is found from either side."""
    spans = Spans(spans_max=100)
    numbers: set[int] = set()
    for first, last in pairs:
        spans.add(first, last)
        numbers |= {*range(first, last + 1)}
    assert {n for first, last in spans for n in range(first, last + 1)} == numbers
    found = [*spans]
    assert all(after[0] > before[1] + 1 for before, after in itertools.pairwise(found))
    assert (number in spans) == (number in numbers)
    assert spans.reaching(number) == next((span for span in found if span[1] >= number), None)
    assert spans.beginning(number) == next((span for span in found[::-1] if span[0] <= number), None)
    assert [*Spans(found, spans_max=100)] == found


@given(PAIRS)
def test_of_too_many_the_nearest_become_one(pairs) -> None:
    """Nothing that was put in is ever left out."""
    spans = Spans(spans_max=3)
    numbers: set[int] = set()
    for first, last in pairs:
        spans.add(first, last)
        numbers |= {*range(first, last + 1)}
        assert len(spans) <= 3
    assert all(number in spans for number in numbers)


def test_the_smallest_gap_goes() -> None:
    """And no other."""
    spans = Spans([(0, 1), (10, 11), (14, 15), (30, 31)], spans_max=3)
    assert [*spans] == [(0, 1), (10, 15), (30, 31)]


def test_what_is_nobodys_any_more_is_forgotten() -> None:
    """One that reaches beyond stays whole; what makes no sense is not taken in."""
    spans = Spans([(0, 5), (10, 15), (20, 25), (9, 3)], spans_max=8)
    spans.forget(first=0, last=15)
    assert [*spans] == [(20, 25)]
    spans.forget(first=21, last=30)
    assert len(spans) == 1
