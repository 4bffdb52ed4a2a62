"""A way that fails is waited for longer and longer, said once, and begins anew when something was taken."""

from __future__ import annotations

import logging
from random import Random

import pytest

from gateway.core.contracts import Signal, TryLaterError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    Left,
    NotYetError,
    UnheardError,
    UnreachableError,
)
from gateway.uplinks.nats_pieces import PiecesPart
from gateway.uplinks.outages import ALONE_MAX, BREAKS_MAX, WHOLE_MAX, Outages
from gateway.uplinks.pacing import READINGS_START, BatchSize
from gateway.uplinks.settings import RetrySettings
from gateway.uplinks.state import Status, Tally


class Way:
    """One uplink, and what it writes to."""

    def __init__(self) -> None:
        self.status, self.telemetry = Status(), Telemetry()
        self.size = BatchSize(50_000, 4_000_000)
        retry = RetrySettings(initial=Duration(1), max=Duration(600), unreachable_max=Duration(15))
        self.outages = Outages(
            "cloud",
            retry,
            random=Random(1),
            size=self.size,
            status=self.status,
            tally=Tally(self.telemetry, "cloud"),
        )

    @property
    def failures(self) -> dict[str, int]:
        return {
            dict(labels)["kind"]: count
            for family in self.telemetry.families()
            if family.name == "tidegate_uplink_failures"
            for labels, count in family.values.items()
        }


@pytest.fixture
def way() -> Way:
    return Way()


def test_waits_grow_and_end_with_the_first_answer(way, caplog) -> None:
    """What is the same is said once; who comes back is said too."""
    caplog.set_level(logging.INFO, logger="tidegate.uplinks")
    waits_s = [way.outages.failed(TryLaterError("status 503"), 5000) for _ in range(30)]
    assert max(waits_s[:3]) <= 4
    assert 300 < max(waits_s) <= 600
    assert way.outages.attempt == 30
    assert way.outages.is_down
    assert way.status.last_error == "status 503"
    assert way.failures == {"later": 30}
    assert way.outages.answered(Signal.METRICS)
    assert not way.outages.answered(Signal.METRICS)
    assert (way.outages.attempt, way.outages.is_down) == (0, False)
    assert [record.message for record in caplog.records] == ["uplink cloud: status 503", "uplink cloud: is back"]


def test_a_part_that_is_taken_ends_a_row_of_failures(way) -> None:
    """A refusal of one says nothing of that."""
    for _ in range(9):
        way.outages.failed(TryLaterError("status 500"), 5000)
    way.outages.heard(None)
    assert way.outages.attempt == 9
    way.outages.heard(Answer())
    assert way.outages.failed(TryLaterError("status 500"), 5000) <= 1


def test_where_others_go_meanwhile_nobody_waits(way) -> None:
    """And however often that was, the next wait is not longer for it."""
    error = TryLaterError("status 500", answer_lost=True, put_off_s=2.0)
    error.at_once = True
    assert [way.outages.failed(error, 5000) for _ in range(9)] == [0.0] * 9
    assert (way.outages.attempt, way.failures) == (0, {"later": 9})


def test_who_cannot_be_reached_is_tried_sooner(way) -> None:
    """It costs some packets, and is how the end of an outage shows."""
    assert max(way.outages.failed(UnreachableError("no route"), 5000) for _ in range(30)) <= 15


def test_what_keeps_it_waiting_here_is_no_failure(way) -> None:
    """Nothing is wrong with the way."""
    assert way.outages.failed(NotYetError("no clock", 60.0), 5000) == 60.0
    assert (way.outages.attempt, way.outages.is_down, way.failures) == (0, False, {})


def test_what_breaks_on_its_way_is_made_smaller(way) -> None:
    """A server that asks to wait says nothing of size."""
    assert way.outages.failed(TryLaterError("429", 30.0), 5000) >= 30
    assert way.size.readings == READINGS_START
    way.outages.failed(InTransitError("cut"), 5000)
    assert way.size.readings < READINGS_START
    assert way.failures == {"throttled": 1, "later": 1}


def test_a_signal_whose_way_is_wrong_is_held_by_itself(way, caplog) -> None:
    """And comes back by itself."""
    for _ in range(3):
        assert way.outages.held(HoldError("404", 60.0), Signal.LOGS, now_s=0.0) >= 60
    assert not way.outages.is_down
    assert way.outages.holding.is_held(Signal.LOGS, 30.0)
    assert way.failures == {"hold": 3}
    assert len(caplog.records) == 1
    assert not way.outages.answered(Signal.METRICS)
    assert way.outages.answered(Signal.LOGS)


def test_what_may_be_about_the_data_alone_makes_nobody_wait(way) -> None:
    """A few times: who fails at the next requests too fails at all of them, until something was taken."""
    poison = TryLaterError("status 500", answer_lost=True, put_off_s=2.0)
    for _ in range(2):
        size = way.size.limit
        for k in range(ALONE_MAX):
            assert not way.outages.is_down
            assert way.outages.wants_proof == (k >= WHOLE_MAX)
            assert way.outages.failed(poison, 100) == 0
            assert way.outages.is_in_doubt
        assert way.size.limit == size
        waits_s = [way.outages.failed(poison, 100) for _ in range(20)]
        assert all(wait_s > 0 for wait_s in waits_s)
        assert way.outages.is_down
        way.outages.answered(Signal.METRICS)
        assert not way.outages.is_in_doubt


def test_what_throttles_says_nothing_of_data(way) -> None:
    """And where it fails for what is in a request after that, it may still be the server."""
    assert way.outages.failed(TryLaterError("status 429", 1.0), 100) >= 1
    assert not way.outages.is_in_doubt
    assert way.outages.failed(TryLaterError("status 500", answer_lost=True, put_off_s=2.0), 100) > 0
    assert way.outages.is_in_doubt


def test_connections_that_break_three_times_in_a_row_want_a_small_request(way) -> None:
    """What breaks them may be what is in it; one that gets through ends the row."""
    for k in range(BREAKS_MAX):
        assert way.outages.wants_proof == (k >= BREAKS_MAX)
        way.outages.failed(InTransitError("cut"), 100)
    assert way.outages.wants_proof
    way.outages.heard(Answer())
    assert not way.outages.wants_proof


def test_a_part_that_fails_says_nothing_of_the_way(way) -> None:
    """It is counted, and shown."""
    way.outages.failed_at_part("status 500")
    assert (way.outages.is_down, way.outages.is_in_doubt, way.outages.attempt) == (False, False, 0)
    assert (way.status.last_error, way.failures) == ("status 500", {"later": 1})


def test_what_nobody_hears_says_nothing_of_the_way(way) -> None:
    """However often: others may be taken."""
    error = UnheardError(Left(PiecesPart([], Signal.METRICS), "no stream listens at a", 5.0))
    assert [way.outages.failed(error, 10) for _ in range(20)] == [0.0] * 20
    assert not way.outages.is_down
    assert not way.outages.is_in_doubt
    assert way.status.last_error == "no stream listens at a"
    assert way.failures == {"later": 20}
