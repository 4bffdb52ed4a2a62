"""Where a segment stands is in its row id, in order of importance to nobody but SQLite."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import Priority, Signal
from gateway.store.records import SEQUENCE_END, STATE_ID, place, where_from


@given(st.sampled_from(Priority), st.sampled_from(Signal), st.integers(0, SEQUENCE_END - 1))
def test_a_place_can_be_read_back(priority, signal, sequence) -> None:
    """Every place is one of its own, below the state row and within SQLite's integers."""
    number = place(priority, signal, sequence)
    assert where_from(number) == (priority, signal, sequence)
    assert 0 < number < STATE_ID < 1 << 63


@pytest.mark.parametrize("number", [0, -1, STATE_ID])
def test_other_numbers_are_no_place(number) -> None:
    """The state row's is none either."""
    with pytest.raises(ValueError, match="no segment's id"):
        where_from(number)


def test_the_busiest_shelf_is_beside_the_state() -> None:
    """One page holds both."""
    assert max((place(p, s, 1), p, s) for p in Priority for s in Signal)[1:] == (Priority.NORMAL, Signal.METRICS)
