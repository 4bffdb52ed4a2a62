"""A link whose notes are damaged has spent what it may have, and never more than that twice."""

from __future__ import annotations

import pytest

from gateway.uplinks.budget import Budget
from gateway.uplinks.lost_notes import note_after, note_of_lost
from gateway.uplinks.windows import Calendar, Moment

MONTH = {"month": 1_000_000}
# Of a month of thirty days ten are over.
TENTH = Moment("boot", 0.0, 1_788_220_800 + 10 * 86_400, True)


def spent(note: bytes, now: Moment = TENTH, limits: dict[str, int] = MONTH) -> dict[str, object]:
    told = Budget(limits, now=lambda: now, note=note).told()
    return {name.removeprefix("per_"): window["spent_bytes"] for name, window in told.items()}


def test_a_lost_last_note_costs_what_it_may_have_covered() -> None:
    """Beside all that the one before it did."""
    budget = Budget(MONTH, now=lambda: TENTH)
    budget.plan()
    budget.written()
    budget.take(10_000)
    before = budget.plan()
    budget.written()
    budget.take(20_000)
    budget.settle(20_000, 20_000)
    budget.plan()
    budget.written()
    budget.take(30_000)
    assert 60_000 <= spent(note_after(before))["month"] == 10_000 + 2 * 32 * 1024  # type: ignore[operator]
    assert note_after(b"") == note_after(b"what") == b""


def test_of_what_is_not_known_the_part_is_spent_whose_time_is_over() -> None:
    """Of each window; it is a note as any other from then on."""
    note = note_of_lost({"day": 1000, **MONTH}, TENTH)
    assert spent(note, limits={"day": 1000, **MONTH}) == {"day": 0, "month": 333_333}
    later = Moment("boot", 3600.0, TENTH.wall_s + 3600, True)  # type: ignore[operator]
    assert spent(note, later)["month"] == 333_333
    next_month = Moment("boot", 30 * 86_400.0, TENTH.wall_s + 30 * 86_400, True)  # type: ignore[operator]
    assert spent(note, next_month)["month"] == 0
    assert spent(note_of_lost(MONTH, TENTH, calendar=Calendar(month_begins=10)))["month"] == 1_000_000 // 30


@pytest.mark.parametrize("is_first_boot", [True, False])
def test_where_no_clock_is_known_all_of_it_is_spent_but_for_asking(*, is_first_boot: bool) -> None:
    """One that asks a receiver for the time has room."""
    dark = Moment("boot", 0.0, None, False)
    note = note_of_lost(MONTH, dark)
    budget = Budget(MONTH, now=lambda: dark if is_first_boot else Moment("other", 5.0, None, False), note=note)
    assert budget.lacking(1) is not None
    budget.covers(1000)
    budget.plan()
    budget.written()
    budget.take(1000, is_probe=True)
