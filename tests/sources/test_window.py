"""Checks for finding out that a sender waits for its answers: simulated senders, and what a commit costs."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gateway.sources.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL_S = 1.0
GAP_S = 0.1
FSYNC_S = 0.01
WIRE_S = 0.0001


@dataclass
class Sender:
    """A broker or a device: a window, and messages that become ready at times of their own or wait all along."""

    size: int
    ready: Iterator[float]
    backlog: int = 0
    round_trip_s: float = 0.002

    def __post_init__(self) -> None:
        self.window = Window(now_s=0.0)
        self.queued, self.under_way, self.pending, self.committing = self.backlog, 0, 0, 0
        self.delivered = 0


def play(*senders: Sender, seconds: float, hurries: bool = True) -> int:
    """Play for `seconds`; return how many commits there were.

    A commit is due INTERVAL_S after the first message that waits for it, or GAP_S after the one before, if a
    window asks for that. `round_trip_s` lies between an answer and what it lets through.
    """
    events: list[tuple[float, int, str, Sender | None, int]] = []
    number = commits = 0
    due_s: float | None = None
    began_s = -INTERVAL_S
    is_busy = False

    def at(when_s: float, what: str, sender: Sender | None = None, count: int = 0) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when_s, number, what, sender, count))

    for sender in senders:
        at(next(sender.ready, 0.0), "ready", sender)
    while events and events[0][0] <= seconds:
        now_s, _, what, sender, count = heapq.heappop(events)
        if sender is None:
            if what == "commit" and due_s is not None and now_s >= due_s and not is_busy:
                for each in senders:
                    each.committing, each.pending = each.pending, 0
                due_s, is_busy, began_s = None, True, now_s
                at(now_s + FSYNC_S, "kept")
            elif what == "kept":
                is_busy = False
                commits += 1
                for each in senders:
                    if each.committing:
                        each.delivered += each.committing
                        each.window.answered(each.committing, now_s=now_s)
                        at(now_s + each.round_trip_s, "answered", each, each.committing)
                if due_s is not None:
                    at(max(due_s, now_s), "commit")
            continue
        if what == "ready":
            sender.queued += 1
            if (next_s := next(sender.ready, None)) is not None:
                at(next_s, "ready", sender)
        elif what == "answered":
            sender.under_way -= count
        else:
            sender.pending += count
            wants = sender.window.came(count, now_s=now_s) and hurries
            wanted_s = max(now_s, began_s + GAP_S) if wants else now_s + INTERVAL_S
            if due_s is None or wanted_s < due_s:
                due_s = wanted_s
                at(due_s, "commit")
        sent = min(sender.queued, sender.size - sender.under_way)
        if sent > 0:
            sender.queued, sender.under_way = sender.queued - sent, sender.under_way + sent
            at(now_s + WIRE_S, "came", sender, sent)
    return commits


def beat(period_s: float, *, jitter_s: float = 0.0, seed: int = 1) -> Iterator[float]:
    dice = random.Random(seed)
    now_s = dice.random() * period_s
    while True:
        now_s += period_s
        yield now_s + dice.random() * jitter_s


def poisson(rate: float, *, seed: int) -> Iterator[float]:
    dice = random.Random(seed)
    now_s = 0.0
    while True:
        now_s += dice.expovariate(rate)
        yield now_s


@pytest.mark.parametrize("size", [1, 20, 1000])
@pytest.mark.parametrize("round_trip_s", [0.0005, 0.01, 0.1])
def test_a_backlog_behind_a_window_flows_with_early_commits(size: int, round_trip_s: float) -> None:
    """Not a window's worth for each interval but for each gap, as far as the link lets it; and it is known for sure."""
    sender = Sender(size, iter([]), backlog=1_000_000, round_trip_s=round_trip_s)
    commits = play(sender, seconds=60)
    assert sender.window.size == size
    assert sender.window.is_limiting
    assert sender.delivered > 0.8 * size * 60 / max(GAP_S, FSYNC_S + round_trip_s)
    assert commits <= 60 / GAP_S


@pytest.mark.parametrize("rate", [0.3, 1, 3, 10, 30, 300])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_is_not_held_back_costs_no_commits(rate: float, seed: int) -> None:
    """Messages as they come, in any number, through a window that never fills: hardly a commit more, after some tries."""
    sender = Sender(30_000, poisson(rate, seed=seed))
    plain = play(Sender(30_000, poisson(rate, seed=seed)), seconds=1800, hurries=False)
    assert play(sender, seconds=1800) <= 1.05 * plain + 30
    assert not sender.window.is_limiting


@pytest.mark.parametrize("period_s", [0.5, 0.95, 1.0, 1.05, 2.0])
@pytest.mark.parametrize("jitter_s", [0.0, 0.05])
@pytest.mark.parametrize("count", [1, 30])
def test_a_beat_is_no_window(period_s: float, jitter_s: float, count: int) -> None:
    """Who says something each second looks like one who is held back: a few tries each, and a fleet wears no card out."""

    def fleet() -> list[Sender]:
        return [Sender(20, beat(period_s, jitter_s=jitter_s, seed=k)) for k in range(count)]

    plain = play(*fleet(), seconds=1800, hurries=False)
    senders = fleet()
    assert play(*senders, seconds=1800) <= 1.05 * plain + 15 * count
    assert not any(sender.window.is_limiting for sender in senders)


def test_a_window_that_was_raised_is_learnt_anew() -> None:
    """More wait than it was: the old guess is given up at once."""
    sender = Sender(20, iter([]), backlog=1_000_000)
    play(sender, seconds=10)
    assert sender.window.size == 20
    more = 21 - sender.window.waiting
    assert not sender.window.came(more, now_s=10.0)
    assert sender.window.size == 0


def test_a_guess_that_was_wrong_makes_the_next_one_slower() -> None:
    """Twice as many of the same in a row are wanted."""
    window = Window(now_s=0.0)
    now_s = 0.0
    needed = []
    for size in (10, 20, 30):
        cycles = 0
        while not window.size:
            window.came(size, now_s=now_s)
            now_s += 1.0
            window.answered(size, now_s=now_s)
            cycles += 1
        needed.append(cycles)
        assert not window.came(size + 1, now_s=now_s)
        window.answered(size + 1, now_s=now_s)
    assert needed == [2, 4, 8]


def test_quiet_times_do_not_disprove_a_window() -> None:
    """A backlog that has drained says nothing about the next one."""
    sender = Sender(20, iter([]), backlog=1999)
    play(sender, seconds=30)
    assert sender.delivered == 2000
    window = sender.window
    for second in range(100):
        assert not window.came(1, now_s=30.0 + second)
        window.answered(1, now_s=30.5 + second)
    assert window.size == 20
    assert not window.is_limiting
