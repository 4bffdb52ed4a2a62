"""Which stretch of a shelf is looked at next, between what was sent thinned and around what was found."""

from __future__ import annotations

import pytest

from gateway.core.contracts import Priority, Signal
from gateway.store.policy import Lane
from gateway.store.records import place
from gateway.store.spans import Spans
from gateway.store.spots import may_be_evidence, next_stretch

SHELF = (Priority.NORMAL, Signal.METRICS)


def at(sequence: int) -> int:
    return place(*SHELF, sequence)


def look(lane: Lane, first: int, before: int, *, spans=(), newest: bool = False):
    evidence = Spans(spans, spans_max=9)
    thinned = Spans([(at(one), at(last)) for one, last in spans], spans_max=9)
    found = next_stretch((lane, SHELF), at(first), at(before), evidence=evidence, thinned=thinned, newest=newest)
    return found and (found[0] - at(0), found[1] - at(0))


@pytest.mark.parametrize("lane", [Lane.LIVE, Lane.BACKLOG])
@pytest.mark.parametrize(
    ("spans", "oldest", "newest"),
    [
        ([], (3, 20), (3, 20)),
        ([(1, 2), (20, 30)], (3, 20), (3, 20)),
        ([(3, 5)], (6, 20), (6, 20)),
        ([(8, 9)], (3, 8), (10, 20)),
        ([(8, 9), (15, 19)], (3, 8), (10, 15)),
        ([(1, 30)], None, None),
    ],
)
def test_what_was_sent_thinned_is_passed_over(lane, spans, oldest, newest) -> None:
    """The stretch ends before it, and the next one begins behind it."""
    assert look(lane, 3, 20, spans=spans) == oldest
    assert look(lane, 3, 20, spans=spans, newest=True) == newest


@pytest.mark.parametrize("lane", [Lane.THINNED, Lane.EVIDENCE])
@pytest.mark.parametrize(
    ("spans", "oldest", "newest"),
    [
        ([], None, None),
        ([(1, 2)], None, None),
        ([(8, 9)], (8, 10), (8, 10)),
        ([(1, 4), (8, 9), (15, 40)], (3, 5), (15, 20)),
    ],
)
def test_in_a_lane_of_spans_one_of_them_is_looked_at(lane, spans, oldest, newest) -> None:
    """As far as it lies in what is to be looked at."""
    assert look(lane, 3, 20, spans=spans) == oldest
    assert look(lane, 3, 20, spans=spans, newest=True) == newest


def test_what_goes_first_around_a_finding_is_readings_and_the_finding_itself() -> None:
    """Logs of other classes, and spans, go in their turn."""
    shelves = [(priority, signal) for priority in Priority for signal in Signal]
    first = {shelf for shelf in shelves if may_be_evidence(shelf)}
    assert first == {(priority, Signal.METRICS) for priority in Priority} | {(Priority.CRITICAL, Signal.LOGS)}
