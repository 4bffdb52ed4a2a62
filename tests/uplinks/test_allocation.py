"""A budget is shared out by class: whole, then less often, then thinned, and never more than there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import Priority
from gateway.uplinks.allocation import (
    BACKLOG_S_MAX,
    DWELL_S,
    REQUEST_BYTES,
    STEPS_S,
    STRETCHED_S,
    Allocation,
    Need,
    allocate,
    least_step,
    share_out,
)

NOTHING = Need(0.0, 0.0, 2.0, 6.0)
PLANT = Need(200.0, 200.0, 2.0, 6.0)


def shared(
    may_s: float, *needs: Need, backlog: int = 0, before: Allocation | None = None, now_s: float = 0.0
) -> Allocation:
    needs = (*needs, *[NOTHING] * (len(Priority) - len(needs)))
    return allocate(
        may_s, needs, interval_s=1.0, backlog_readings=backlog, backlog_share=0.3, before=before, now_s=now_s
    )


def steps(allocation: Allocation) -> list[float]:
    return [part.step_s for part in allocation.classes]


@given(st.floats(0, 1000), st.lists(st.floats(0, 1000), min_size=3, max_size=3))
def test_parts_are_by_weight_and_never_more_than_there_is(total: float, needs) -> None:
    """Nobody has more than it needs; where not all is given away all have what they need."""
    parts = share_out(total, needs, [16, 4, 1])
    assert sum(parts) <= total * (1 + 1e-9)
    assert all(part <= need * (1 + 1e-9) for part, need in zip(parts, needs, strict=True))
    if sum(parts) < total * (1 - 1e-9):
        assert parts == needs
    for weight, part, need in zip([16, 4, 1], parts, needs, strict=True):
        assert part >= min(need, total * weight / 21) * (1 - 1e-9)


def test_what_fits_goes_as_it_comes() -> None:
    """And what is left over is the backlog's."""
    allocation = shared(2000.0, NOTHING, PLANT, backlog=1000)
    assert not allocation.is_short
    assert allocation.wanted_s == 200 * 2 + REQUEST_BYTES
    assert allocation.backlog.bytes_s == pytest.approx(2000 - 1.1 * 1300)
    assert allocation.backlog.step_s == 0


def test_requests_are_fewer_before_anything_is_thinned() -> None:
    """Where it is they that cost."""
    allocation = shared(500.0, NOTHING, PLANT)
    assert allocation.is_short
    assert not allocation.is_thinning
    assert allocation.classes[Priority.NORMAL].bytes_s == 500
    tiny = shared(15.0, NOTHING, Need(1.0, 1.0, 9.0, 12.0))
    assert not tiny.is_thinning
    assert shared(9.0, NOTHING, Need(1.0, 1.0, 9.0, 12.0)).is_thinning


def test_what_does_not_fit_is_thinned_as_little_as_it_may_be() -> None:
    """The step is the least of those that are tried."""
    found = [shared(may_s, NOTHING, PLANT).classes[Priority.NORMAL].step_s for may_s in (500, 300, 200, 120, 60, 20, 5)]
    assert found == [0.0, 30.0, 30.0, 60.0, 300.0, 300.0, 900.0]
    for may_s, step_s in ((300, 30.0), (120, 60.0), (60, 300.0)):
        assert PLANT.cost_s(step_s, every_s=300.0) <= may_s
        finer_s = STEPS_S[STEPS_S.index(step_s) - 1]
        assert PLANT.cost_s(finer_s, every_s=300.0) > may_s


def test_what_is_critical_is_thinned_last() -> None:
    """And what is bulk has its part still."""
    critical, bulk = Need(20.0, 20.0, 2.0, 6.0), Need(100.0, 100.0, 2.0, 6.0)
    found = [steps(shared(may_s, critical, PLANT, bulk)) for may_s in (800, 500, 300, 100, 40)]
    assert found == [[0, 0, 0], [0, 30.0, 30.0], [0, 30.0, 60.0], [0, 300.0, 900.0], [60.0, 900.0, 900.0]]
    for may_s in (300, 100, 40):
        allocation = shared(may_s, critical, PLANT, bulk)
        assert sum(part.bytes_s for part in allocation.classes) <= may_s * 1.0001
        assert all(part.bytes_s > 0 for part in allocation.classes)


def test_a_step_that_saves_little_is_none() -> None:
    """At 10 s what stands for a reading a second costs more than all of them: whole turns beside a coarser step are more."""
    assert [PLANT.saves_at(step_s) for step_s in STEPS_S[:2]] == [False, True]
    quick = Need(2000.0, 200.0, 2.0, 6.0)
    assert quick.saves_at(STEPS_S[0])
    assert shared(2500.0, NOTHING, quick).classes[Priority.NORMAL].step_s == 10.0


def test_what_a_step_leaves_over_pays_for_whole_readings() -> None:
    """All of a class's part is used, whatever the step, and not more; of very little none of it."""
    for may_s in (390, 300, 200, 120, 62):
        part = shared(may_s, NOTHING, PLANT).classes[Priority.NORMAL]
        cost_s = [PLANT.cost_s(step_s, every_s=300.0) for step_s in (0.0, part.step_s)]
        assert part.whole_share * cost_s[0] + (1 - part.whole_share) * cost_s[1] == pytest.approx(may_s)
    assert PLANT.whole_share(60.0, 1.0, every_s=300.0) == 0.0
    assert PLANT.whole_share(60.0, 1000.0, every_s=300.0) == 1.0
    assert Need(0.0, 1.0, 2.0, 6.0).whole_share(60.0, 500.0, every_s=300.0) == 0.0


def test_what_goes_whole_by_turns_keeps_its_step_for_a_while() -> None:
    """It is coarser at once, and finer, or all of it whole, after a quarter of an hour."""
    before = shared(300.0, NOTHING, PLANT)

    def then(may_s: float, at_s: float) -> float:
        nonlocal before
        before = shared(may_s, NOTHING, PLANT, before=before, now_s=at_s)
        return before.classes[Priority.NORMAL].step_s

    assert before.classes[Priority.NORMAL].step_s == 30.0
    assert then(150.0, 1.0) == 60.0
    assert then(300.0, 2.0) == 60.0
    assert then(300.0, 1.0 + DWELL_S) == 60.0
    assert then(300.0, 2.0 + DWELL_S) == 30.0
    assert then(480.0, 3.0 + DWELL_S) == 30.0
    assert before.classes[Priority.NORMAL].whole_share == 1.0
    assert then(480.0, 3.0 + 2 * DWELL_S) == 0.0


def test_what_gathers_for_a_step_anyway_goes_whole_where_requests_are_what_costs() -> None:
    """Thinned it would come no sooner, and cost as much; who is thinned asks for more than that first."""
    few = Need(0.05, 5.0, 2.5, 6.0, 1000.0)
    every_s = STRETCHED_S[Priority.NORMAL]
    edge = few.cost_s(0.0, every_s=900.0)
    assert few.cost_s(0.0, every_s=every_s) > 2 * edge
    assert few.cost_s(900.0, every_s=every_s) > 0.9 * edge
    assert least_step(few, edge, every_s=every_s) == 0.0
    assert least_step(few, 0.99 * edge, every_s=every_s) == 900.0
    assert least_step(few, edge, every_s=every_s, before_s=900.0) == 900.0
    assert least_step(few, 1.12 * edge, every_s=every_s, before_s=900.0) == 0.0
    allocation = shared(2 * edge, NOTHING, few)
    assert (allocation.is_short, allocation.is_thinning) == (True, False)


def test_requests_cost_no_more_often_than_something_comes() -> None:
    """Each as soon as there is something, or when that has gathered for a while; and one has a reading in it at least."""
    each = Need(1.0, 1.0, 2.0, 6.0, 900.0, often_s=20.0, seldom_s=400.0, gathers_s=300.0)
    assert each.cost_s(0.0, every_s=1.0) == 2.0 + 900 / 20
    assert each.cost_s(0.0, every_s=60.0) == 2.0 + 900 / 60
    assert each.cost_s(0.0, every_s=300.0) == 2.0 + 900 / 400
    assert each.cost_s(0.0, every_s=600.0) == 2.0 + 900 / 600
    assert Need(0.05, 1.0, 2.0, 6.0, 900.0).cost_s(0.0, every_s=1.0) == pytest.approx(0.05 * 902)


def test_few_readings_are_not_made_fewer() -> None:
    """Where there are less than four in a step thinning saves nothing."""
    slow = Need(0.05, 1.0, 2.0, 6.0)
    assert slow.points_s(60.0) == 0.05
    assert slow.points_s(900.0) == pytest.approx(4 / 900)


def test_who_is_thinned_is_not_whole_again_at_the_first_chance() -> None:
    """Else it would go to and fro."""
    edge = PLANT.cost_s(0.0, every_s=STRETCHED_S[Priority.NORMAL])
    before = shared(edge - 1, NOTHING, PLANT)
    assert before.is_thinning
    assert shared(edge + 1, NOTHING, PLANT).is_thinning is False
    assert shared(edge + 1, NOTHING, PLANT, before=before).is_thinning
    # By turns it is.
    assert shared(edge * 1.2, NOTHING, PLANT, before=before).classes[Priority.NORMAL].whole_share == 1.0
    assert least_step(PLANT, 83.0, every_s=300.0, before_s=300.0) == 300.0
    assert least_step(PLANT, 83.0, every_s=300.0) == 60.0


def test_a_backlog_has_its_share_and_comes_within_a_day() -> None:
    """Thinned where it is too much for that, and never by guessing where nothing comes in that it may be like."""
    allocation = shared(300.0, NOTHING, PLANT, backlog=1_000_000)
    assert allocation.backlog.bytes_s == pytest.approx(90)
    assert allocation.backlog.step_s == 0
    many = shared(300.0, NOTHING, PLANT, backlog=19_000_000)
    assert many.backlog.step_s == 60.0
    seconds = 19_000_000 / PLANT.readings_s
    assert seconds * PLANT.points_s(60.0) * 6 <= 90 * BACKLOG_S_MAX
    assert shared(300.0, NOTHING, PLANT, backlog=10**12).backlog.step_s == STEPS_S[-1]
    assert shared(300.0, backlog=10**9).backlog.step_s == 0
