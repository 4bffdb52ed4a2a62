"""Signals are held back each by itself, for as long as each asks for."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

from gateway.core.contracts import Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.uplinks.settings import RetrySettings
from gateway.uplinks.state import Holding, Status, Tally


def test_the_one_that_is_tried_next_is_the_one_that_is_told() -> None:
    """With why, and how long it waits still."""
    holding = Holding(RetrySettings(initial=Duration(1), max=Duration(60)), Random(1))
    assert holding.soonest(0.0) == ("", 0.0)
    assert holding.hold(Signal.LOGS, "no path", after_s=60.0, now_s=100.0) >= 60
    wait_s = holding.hold(Signal.METRICS, "no token", after_s=0.0, now_s=100.0)
    assert 0 < wait_s <= 1
    reason, left_s = holding.soonest(100.0)
    assert (reason, round(left_s, 6)) == ("no token", round(wait_s, 6))
    assert holding.over([Signal.LOGS], 159.0) == []
    assert holding.over([Signal.LOGS], 161.0) == [Signal.LOGS]
    assert [holding.is_held(Signal.LOGS, now_s) for now_s in (159.0, 161.0)] == [True, False]
    assert not holding.is_held(Signal.TRACES, 100.0)
    assert holding.soonest(200.0)[1] == 0
    assert holding.reasons == {Signal.LOGS: "no path", Signal.METRICS: "no token"}


def test_the_same_refusal_is_said_once_a_minute() -> None:
    """Another one at once."""
    status = Status()
    said = [status.is_news(message, now_s) for message, now_s in [("a", 0), ("a", 59), ("a", 60), ("b", 61), ("a", 62)]]
    assert said == [True, False, True, True, True]


def test_who_was_taken_begins_anew() -> None:
    """And it is told once that it had been held back."""
    holding = Holding(RetrySettings(initial=Duration(1), max=Duration(60)), Random(1))
    for _ in range(5):
        holding.hold(Signal.LOGS, "no path", after_s=0.0, now_s=0.0)
    assert holding.failures == 5
    assert holding.went(Signal.LOGS)
    assert not holding.went(Signal.LOGS)
    assert not holding.went(Signal.METRICS)
    assert (holding.failures, holding.reasons) == (0, {})


def test_the_wires_own_counters_are_carried_over_as_they_grow() -> None:
    """Each time what was added since."""
    telemetry, wire = Telemetry(), SimpleNamespace(bytes_sent=0, requests=0)
    tally = Tally(telemetry, "cloud")
    for wire.bytes_sent, wire.requests in [(100, 1), (250, 3), (250, 3)]:
        tally.carry(wire)
    tally.sent(7)
    tally.failed("hold")
    assert {family.name: [*family.values.values()] for family in telemetry.families()} == {
        "tidegate_uplink_bytes_sent": [250],
        "tidegate_uplink_requests": [3],
        "tidegate_uplink_readings_sent": [7],
        "tidegate_uplink_failures": [1],
    }


def test_what_is_told_is_in_the_units_that_its_names_say() -> None:
    """Nobody waits for less than nothing."""
    status = Status("waiting", "status 503", retry_at_ns=5 * 10**9, last_success_ns=7 * 10**9, rtt_s=0.0123)
    told = status.told(now_ns=2 * 10**9)
    assert (told["state"], told["retry_in_s"], told["last_success_unix_s"], told["rtt_ms"]) == ("waiting", 3.0, 7, 12.3)
    assert status.told(now_ns=9 * 10**9)["retry_in_s"] == 0


def test_a_signal_is_held_back_as_long_as_the_settings_say() -> None:
    """The first time up to `initial`, then up to twice as long each time, none over `max`."""
    dice = Random(1)
    dice.uniform = lambda _, most: most  # type: ignore[method-assign]
    holding = Holding(RetrySettings(initial=Duration(3), max=Duration(20)), dice)
    waits = [holding.hold(Signal.METRICS, "status 404", after_s=0.0, now_s=0.0) for _ in range(5)]
    assert waits == [3, 6, 12, 20, 20]
