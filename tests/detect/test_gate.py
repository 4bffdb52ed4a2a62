"""Threshold, habituation, silence."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.detect.gate import RECORD_FACTOR, SILENCE_READINGS, Gate

SECOND = 10**9


def make(**changes) -> Gate:
    return Gate(**{"threshold": 5.0, "habituation": 1000, "silence_ns": 0, "findings_max": 10} | changes)


class Row:
    """One row that is shown readings one at a time."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.seen = gate, 0

    def show(self, score: float, *, after: int = 1, at_s: int | None = None, clock: int = 0) -> float | None:
        self.seen += after
        passed = self.gate.judge(
            np.array([score]),
            np.array([0]),
            np.array([(self.seen if at_s is None else at_s) * SECOND]),
            clock=np.array([clock], np.uint8),
            seen=np.array([self.seen]),
        )
        return passed.levels[0] if passed.positions else None


def test_only_what_reaches_the_threshold_is_a_finding() -> None:
    """And says which level it topped."""
    row = Row(make())
    assert row.show(4.9) is None
    assert row.show(5.0) == 5.0


def test_after_a_finding_there_is_silence_for_some_readings() -> None:
    """Also where far more time than the silence has passed."""
    row = Row(make(habituation=0))
    row.show(9)
    assert row.show(9, after=SILENCE_READINGS) is None
    assert row.show(9) == 5.0


def test_after_a_finding_there_is_silence_for_some_time() -> None:
    """However many readings come."""
    row = Row(make(habituation=0, silence_ns=600 * SECOND))
    row.show(9, at_s=1000)
    assert row.show(9, after=10_000, at_s=1599) is None
    assert row.show(9, after=10_000, at_s=401) is None
    assert row.show(9, after=10_000, at_s=1600) == 5.0


def test_times_of_two_clocks_are_not_compared() -> None:
    """A device's time and this box's uptime have nothing in common."""
    row = Row(make(habituation=0, silence_ns=600 * SECOND))
    row.show(9, at_s=1000)
    assert row.show(9, after=10_000, at_s=1000, clock=4) == 5.0


def test_a_finding_must_top_the_record() -> None:
    """The same anomaly again is no news; a larger one is."""
    row = Row(make(habituation=10**9))
    row.show(10)
    assert row.show(10, after=200) is None
    assert row.show(12, after=200) == pytest.approx(10 * RECORD_FACTOR)


def test_what_only_just_tops_the_record_is_no_news_and_raises_it() -> None:
    """Else many small steps, none of them news, would make the next one news."""
    row = Row(make(habituation=10**9))
    row.show(10)
    assert row.show(10.4, after=200) is None
    assert row.show(10.6, after=200) is None
    assert row.show(12, after=200) == pytest.approx(10.6 * RECORD_FACTOR)


def test_a_record_that_nobody_heard_of_counts_too() -> None:
    """The loudest moment falls into the silence; what comes after is measured by it."""
    row = Row(make())
    row.show(6)
    row.show(50)
    assert row.show(20, after=200) is None


def test_a_record_fades() -> None:
    """Half of it is left after `habituation` readings."""
    row = Row(make())
    row.show(40)
    assert row.show(19, after=1000) is None
    row = Row(make())
    row.show(40)
    assert row.show(22, after=1000) == pytest.approx(20 * RECORD_FACTOR)


def test_rows_have_memories_of_their_own() -> None:
    """One series' noise silences no other; places are counted within the call."""
    gate = make()
    passed = gate.judge(
        np.array([9.0, 9.0, 9.0, 1.0]),
        np.array([0, 1, 0, 1]),
        np.zeros(4, np.int64),
        clock=np.zeros(4, np.uint8),
        seen=np.zeros(2, np.int64),
    )
    assert passed.positions == [0, 1]


def test_findings_are_bounded_and_the_rest_is_counted() -> None:
    """A plant-wide event does not become ten thousand messages; those left out fall silent too."""
    gate = make()
    call = {"clock": np.zeros(100, np.uint8), "seen": np.zeros(100, np.int64)}
    passed = gate.judge(np.full(100, 9.0), np.arange(100), np.zeros(100, np.int64), **call)
    assert (len(passed.positions), passed.over_limit) == (10, 90)
    call["seen"] = call["seen"] + 1
    passed = gate.judge(np.full(100, 9.0), np.arange(100), np.zeros(100, np.int64), **call)
    assert (passed.positions, passed.over_limit) == ([], 0)


def test_what_is_remembered_survives() -> None:
    """Record and silence go on, times don't: the next boot has another clock."""
    gate = make(silence_ns=10**18)
    row = Row(gate)
    row.show(40)
    again = make(silence_ns=10**18)
    again.restore(gate.state())
    later = Row(again)
    later.seen = row.seen
    assert later.show(100, after=5) is None
    assert later.show(60, after=1000) is not None
    assert later.show(20, after=10) is None
    assert make().state().shape == (0, 4)
