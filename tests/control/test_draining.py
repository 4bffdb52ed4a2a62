"""How long a backlog takes, told from what was seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.control.draining import LOOKS_MAX, UNKNOWN, Draining

if TYPE_CHECKING:
    from collections.abc import Callable


def watched(held: Callable[[int], float], *, seconds: int, step_s: int = 1) -> Draining:
    drain = Draining()
    for second in range(0, seconds, step_s):
        drain.look(second, int(held(second)), is_moving=True)
    return drain


def test_a_steady_drain_has_an_end() -> None:
    """After a quarter of a minute already, and later as well."""
    for seconds in (16, 60, 400):
        outlook = watched(lambda s: 100_000 - 50 * s, seconds=seconds).outlook()
        assert outlook.change_per_s == -50
        assert outlook.eta_s == pytest.approx((100_000 - 50 * seconds) / 50, rel=0.01)


def test_requests_that_go_once_a_minute_are_no_backlog() -> None:
    """What gathers between them leaves whole."""
    drain = Draining()
    for second in range(600):
        drain.look(second, 100 * (second % 60), is_moving=True)
        assert drain.outlook().eta_s is None or second < 60


def test_what_has_only_just_come_in_is_no_backlog() -> None:
    """A stream that is delivered as it comes is neither nearly gone nor does it grow, though some of it is always held."""
    drain = Draining()
    for second in range(300):
        drain.look(second, 76 + (second * 37) % 220, came=155 * second, is_moving=True)
        assert drain.outlook() == UNKNOWN


def test_a_backlog_beside_a_stream_is_seen() -> None:
    """Whether it drains or grows."""
    for rate in (-40, 30):
        drain = Draining()
        for second in range(100):
            drain.look(second, 9000 + rate * second, came=155 * second, is_moving=True)
        assert drain.outlook().change_per_s == rate


def test_a_backlog_below_the_saw_of_the_requests_is_seen() -> None:
    """It is what is left at the lows."""
    outlook = watched(lambda s: 60_000 - 20 * s + 100 * (s % 20), seconds=300).outlook()
    assert outlook.eta_s == pytest.approx((60_000 - 20 * 300) / 20, rel=0.1)


def test_what_has_drained_is_no_backlog() -> None:
    """There is nothing to wait for, and no rate to be told of."""
    assert watched(lambda s: 1000 - 100 * s, seconds=11).outlook() == UNKNOWN


def test_more_than_leaves_has_no_end() -> None:
    """The change says so."""
    outlook = watched(lambda s: 1000 + 30 * s, seconds=100).outlook()
    assert (outlook.change_per_s, outlook.eta_s) == (30, None)


def test_what_was_seen_of_a_closed_road_says_nothing() -> None:
    """After an outage the drain is measured from the link-up on."""
    drain = Draining()
    for second in range(100):
        drain.look(second, 1000 * second, is_moving=second < 5)
    assert drain.outlook() == UNKNOWN
    for second in range(100, 120):
        drain.look(second, 100_000 - 100 * (second - 100), is_moving=True)
    assert drain.outlook().change_per_s == -100


def test_without_a_backlog_nothing_is_said() -> None:
    """Nor at the very start; and what is remembered is bounded."""
    assert Draining().outlook() == UNKNOWN
    assert watched(lambda s: 0, seconds=100).outlook() == UNKNOWN
    assert watched(lambda s: 5, seconds=4).outlook() == UNKNOWN
    assert len(watched(lambda s: 5, seconds=1000)._looks) == LOOKS_MAX
