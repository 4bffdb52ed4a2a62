"""What was next at a moment is known for the last minutes, to about a second, and never too late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.store.moments import MOMENTS_MAX, STEP_S, Moments


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), max_size=40), st.floats(-5, 130))
def test_it_is_what_was_next_then_or_a_moment_before(steps, at_s: float) -> None:
    """Whatever came after that moment is after it."""
    moments, now_s, sequence, truth = Moments(next_sequence=1), 0.0, 1, [(float("-inf"), 1)]
    for passed_s, segments in steps:
        now_s, sequence = now_s + passed_s, sequence + segments
        moments.committed(now_s, sequence)
        truth.append((now_s, sequence))
    found = moments.next_at(at_s)
    assert moments.next_sequence == sequence
    assert found <= max(number for when_s, number in truth if when_s <= at_s)
    last_s = max(when_s for when_s, _ in truth if when_s <= at_s)
    assert found >= max((number for when_s, number in truth if when_s <= last_s - STEP_S), default=1)


def test_of_long_ago_it_is_the_oldest_that_is_known() -> None:
    """No more is kept."""
    moments = Moments(next_sequence=1)
    for k in range(2 * MOMENTS_MAX):
        moments.committed(float(k), 2 + k)
    assert moments.next_at(10.0) == 2 + MOMENTS_MAX
    assert moments.next_at(2.0 * MOMENTS_MAX) == 1 + 2 * MOMENTS_MAX


def test_a_finding_with_less_around_it_ends_no_other_ones_time() -> None:
    """Two uplinks may want more and less of it."""
    moments = Moments(next_sequence=1)
    moments.committed(100.0, 10)
    moments.found(now_s=100.0, seconds=30.0)
    moments.found(now_s=110.0, seconds=1.0)
    moments.committed(129.0, 20)
    assert [*moments.evidence] == [(1, 19)]


def test_what_comes_after_a_finding_is_evidence_too() -> None:
    """As long as it is told to be; nothing that came in since is forgotten."""
    moments = Moments(next_sequence=1, evidence=[(1, 2)])
    moments.committed(100.0, 10)
    moments.committed(105.0, 20)
    moments.found(now_s=105.5, seconds=3.0)
    for at_s, sequence in [(106.0, 25), (108.0, 25), (108.5, 30), (109.0, 40)]:
        moments.committed(at_s, sequence)
    assert [*moments.evidence] == [(1, 2), (10, 29)]
