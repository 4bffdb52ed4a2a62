"""Checks for what is known of one receiver: how each end of a request changes whether it may be asked."""

from __future__ import annotations

import random
import time

import pytest

from gateway.core.contracts import Signal, TryLaterError
from gateway.uplinks.breaker import Breaker, Limits, State
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    Left,
    NotYetError,
    PassedOnError,
    StatusRefusedError,
    TooLargeError,
    UnheardError,
    UnreachableError,
)
from gateway.uplinks.health import Health

LOST = InTransitError("no answer within 10 s", answer_lost=True)


def make(**limits) -> Health:
    return Health(Breaker(Limits(**limits), random.Random(1)))


def end(health: Health, outcome: Answer | Exception, *, now_s: float = 0.0, signal: Signal = Signal.METRICS) -> None:
    """Have a request go there and end."""
    health.begin(now_s)
    if isinstance(outcome, Exception):
        health.failed(signal, outcome, now_s=now_s)
    else:
        health.answered(signal, outcome, size_bytes=1000, now_s=now_s, wall_s=1_790_000_000)


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("no connection"), LOST, PassedOnError("status 502", answer_lost=True),
        TryLaterError("status 503"), TryLaterError("a login page", answer_lost=True), StatusRefusedError("500", 500),
    ],
)  # fmt: skip
def test_who_fails_again_and_again_is_left_out(error: Exception) -> None:
    """Whatever it is that shows that it is not well."""
    health = make(failures=2)
    end(health, error)
    assert health.allows(Signal.LOGS, 0)
    end(health, error)
    assert not health.allows(Signal.LOGS, 0)
    assert health.soonest_s(Signal.LOGS, 0) == health.breaker.until_s
    assert health.told(0)["state"] == "open"


def test_who_has_refused_what_another_took_is_not_well() -> None:
    """A wrong port refuses whatever comes; by itself a refusal says nothing of it, good or bad."""
    health = make(failures=2)
    end(health, LOST)
    end(health, StatusRefusedError("status 400", 400))
    assert (health.breaker.failures, health.last_error) == (1, str(LOST))
    health.blamed(StatusRefusedError("status 400", 400), now_s=0)
    assert not health.allows(Signal.METRICS, 0)
    assert health.last_error == "status 400; another one took it"


@pytest.mark.parametrize("error", [TooLargeError("status 413"), UnheardError(Left(None, "no stream listens", 1.0))])
def test_who_wants_it_smaller_or_elsewhere_is_well(error: Exception) -> None:
    """It has looked at it."""
    health = make(failures=2)
    end(health, LOST)
    end(health, error)
    end(health, LOST)
    assert health.breaker.state is State.CLOSED


@pytest.mark.parametrize("error", [NotYetError("over budget", 60), RuntimeError("a mistake of ours")])
def test_what_is_on_this_side_says_nothing(error: Exception) -> None:
    """A probe that did not take place leaves its place to the next."""
    health = make(failures=1)
    end(health, LOST)
    now_s = health.breaker.until_s
    end(health, error, now_s=now_s)
    assert (health.breaker.state, health.allows(Signal.METRICS, now_s)) == (State.HALF_OPEN, True)
    assert health.last_error == str(LOST)


def test_who_asks_to_wait_is_not_asked_before() -> None:
    """For no signal, whatever its breaker says; then it is."""
    health = make()
    end(health, TryLaterError("status 429: asks to wait 30 s", 30.0), now_s=100)
    assert (health.is_asked(129), health.allows(Signal.LOGS, 129), health.soonest_s(Signal.LOGS, 110)) == (
        True,
        False,
        20,
    )
    assert health.told(110)["state"] == "asked to wait"
    why = health.why_not(Signal.LOGS, 110)
    assert (type(why), why.after_s, str(why)) == (TryLaterError, 20, "status 429: asks to wait 30 s")
    assert health.allows(Signal.LOGS, 130)


def test_a_way_that_is_wrong_is_held_for_its_signal() -> None:
    """Logs have another path. Whoever mended it is found after the time of the hold."""
    health = make(failures=1)
    end(health, HoldError("status 404"), now_s=100)
    assert not health.allows(Signal.METRICS, 159)
    assert health.allows(Signal.LOGS, 159)
    why = health.why_not(Signal.METRICS, 150)
    assert (type(why), why.after_s) == (HoldError, 10)
    assert health.told(110)["held_back"] == ["metrics"]
    assert health.allows(Signal.METRICS, 160)
    end(health, Answer(), now_s=160)
    assert health.told(160)["held_back"] == []


def test_what_is_known_of_the_line_follows_it() -> None:
    """The first answer as it is, then by a quarter of what is new."""
    health = make()
    end(health, Answer(seconds=0.5, rtt_s=0.2))
    assert (health.goodput, health.rtt_s) == (2000, 0.2)
    end(health, Answer(seconds=0.25, rtt_s=0.4))
    assert (health.goodput, health.rtt_s) == (2500, pytest.approx(0.25))
    told = health.told(0)
    assert (told["goodput_bytes_s"], told["rtt_ms"], told["last_success_unix_s"]) == (2500, 250.0, 1_790_000_000)


@pytest.mark.slow
def test_a_decision_takes_no_time() -> None:
    """Under 20 µs, the best of some rounds on a box that others use."""
    health, rounds = make(), []
    for _ in range(20):
        began_ns = time.perf_counter_ns()
        for k in range(200):
            health.allows(Signal.METRICS, k)
            end(health, LOST if k % 3 == 0 else Answer(seconds=0.1), now_s=k)
        rounds.append((time.perf_counter_ns() - began_ns) / 200)
    assert min(rounds) < 20_000
