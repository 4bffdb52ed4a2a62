"""Checks for deadlines that are handed down: nobody gets more than is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.net.deadline import Deadline

seconds = st.floats(0, 1e6)


@given(seconds, st.lists(st.tuples(st.none() | seconds, seconds), max_size=8))
def test_a_part_never_outlives_the_whole(whole_s: float, steps: list[tuple[float | None, float]]) -> None:
    """Whatever is handed down, and however much time goes by in between."""
    now = [5.0]
    whole = part = Deadline.after(whole_s, now_s=lambda: now[0])
    for asked_s, passes_s in steps:
        part = part.within(asked_s)
        assert part.left_s() <= whole.left_s()
        assert asked_s is None or part.at_s <= now[0] + asked_s
        now[0] += passes_s
    assert part.is_over or not whole.is_over


def test_for_ever_is_never_over() -> None:
    """And what is handed down of it has its own time all the same."""
    for_ever = Deadline.after(None)
    assert not for_ever.is_over
    assert for_ever.within(None) is for_ever
    assert 0 < for_ever.within(3).left_s() <= 3


def test_those_who_wait_in_turn_share() -> None:
    """Who needs less than its part leaves the rest to those behind; who needs all of it leaves them theirs."""
    now = [0.0]
    whole = Deadline.after(9.0, now_s=lambda: now[0])
    assert whole.share(3).left_s() == 3.0
    now[0] = 1.0
    assert whole.share(2).left_s() == 4.0
    now[0] = 5.0
    assert whole.share(1).left_s() == 4.0


def test_what_is_over_stays_over() -> None:
    """Nothing is left, not less."""
    now = [0.0]
    whole = Deadline.after(1.0, now_s=lambda: now[0])
    now[0] = 50.0
    assert (whole.is_over, whole.left_s(), whole.within(10).left_s()) == (True, 0.0, 0.0)
