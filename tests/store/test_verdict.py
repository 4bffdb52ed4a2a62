"""What verify says in one line, and for machines."""

from __future__ import annotations

from gateway.store.verdict import PROBLEMS_MAX, VerifyReport


def test_a_note_is_no_problem():
    """What the next start mends, and nothing is lost by, leaves all well."""
    report = VerifyReport("x", segments=2, readings=1000, series=1, notes=["a copy is missing"])
    assert report.summary() == "2 segments with 1,000 readings of 1 series: all is well"
    assert report.as_dict()["notes"] == ["a copy is missing"]


def test_problems_are_counted_beyond_those_that_are_listed():
    """However many there are, the report stays small."""
    report = VerifyReport("x")
    for number in range(PROBLEMS_MAX + 5):
        report.problem(f"problem {number}")
    assert len(report.problems) == PROBLEMS_MAX
    assert report.problems_left_out == 5
    assert report.summary().endswith(f"{PROBLEMS_MAX + 5} problems")
