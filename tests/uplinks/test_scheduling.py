"""What may go just now follows what came in, what it cost and what is left; and it says why."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.core.contracts import Priority
from gateway.store.policy import ALL, NO_BOUND, Lane
from gateway.store.spots import Outlook
from gateway.uplinks.allocation import REQUEST_BYTES, TURN_S
from gateway.uplinks.flow import LOOK_S_MIN, Sent
from gateway.uplinks.scheduling import (
    EVIDENCE_BURST_S,
    EVIDENCE_SHARE,
    IDLE_SHARE,
    KNOWN_S,
    LEASE_REQUESTS,
    LEASE_S,
    SURPLUS_BYTES_MIN,
    WAIT_S_MAX,
    Decision,
    Scheduler,
    WindowLeft,
)

LIVE = (Lane.LIVE, Priority.NORMAL)
BACKLOG = (Lane.BACKLOG, Priority.NORMAL)
THINNED = (Lane.THINNED, Priority.NORMAL)
DAY_S = 86_400.0


class Desk:
    """200 readings a second come in, and so many bytes are left of the day."""

    def __init__(self, left_bytes: float, *, rate: float | None = None, readings_s: float = 200.0) -> None:
        self.scheduler = Scheduler(1.0)
        self.now_s = 1000.0
        self.left_bytes = left_bytes
        self.left_s = DAY_S
        self.rate = rate
        self.arrived = [0.0, 0.0, 0.0]
        self.readings_s = readings_s
        self.spots = {LIVE}
        self.backlog = 5000
        self.decide()
        self.pass_by(KNOWN_S + 10.0)

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds
        self.left_s -= seconds
        self.arrived[Priority.NORMAL] += seconds * self.readings_s

    def decide(self) -> Decision:
        windows = [] if self.rate else [WindowLeft("day", self.left_bytes, self.left_s)]
        outlook = Outlook(frozenset(self.spots), self.backlog, tuple(map(int, self.arrived)), 0.3)
        return self.scheduler.decide(self.now_s, windows=windows, rate=self.rate, outlook=outlook)

    def sent(
        self, wire_bytes: float, *, lane=Lane.LIVE, priority=Priority.NORMAL, step_s=0.0, held=1000, left=1000
    ) -> None:
        self.left_bytes -= wire_bytes
        self.scheduler.sent(Sent(lane, priority, held, left, 200, step_s, wire_bytes), self.now_s)


def test_without_an_end_nothing_is_kept() -> None:
    """Where no clock says how long a window lasts all goes as it comes, to the end of the budget."""
    scheduler = Scheduler(1.0)
    decision = scheduler.decide(5.0, windows=[], rate=None, outlook=Outlook(frozenset({LIVE}), 0, (0, 0, 0), 0.3))
    assert decision.terms == ALL
    assert (decision.wait_s, scheduler.told()) == (0.0, {})


def test_what_fits_goes_and_the_rest_has_what_is_left_over() -> None:
    """Backlog and what was sent thinned, in this order; not what live data will need until the day ends."""
    desk = Desk(300e6)
    desk.spots |= {BACKLOG, THINNED}
    terms = desk.decide().terms
    assert terms.may_take(*LIVE)
    assert terms.may_take(*BACKLOG)
    assert not terms.may_take(*THINNED)
    desk.spots.discard(BACKLOG)
    assert desk.decide().terms.may_take(*THINNED)
    assert desk.scheduler.told()["why"] == "all that comes in fits the allowance, and the rest has what is left over"
    desk.spots.add(BACKLOG)
    wanted_s = desk.scheduler.allocation.wanted_s
    assert wanted_s == pytest.approx(200 * 2.5 + REQUEST_BYTES)
    desk.left_bytes = 1.1 * wanted_s * desk.left_s / 0.7 + SURPLUS_BYTES_MIN
    assert desk.decide().terms.may_take(*BACKLOG)
    desk.left_bytes = 1.1 * wanted_s * desk.left_s + SURPLUS_BYTES_MIN - 1
    terms = desk.decide().terms
    assert not terms.may_take(*BACKLOG)
    assert terms.may_take(*LIVE)


def test_what_does_not_fit_is_thinned_and_paced() -> None:
    """It waits until what it has cost is its part again, and for a whole step; what is there already waits."""
    desk = Desk(12 * (1 << 20))
    desk.spots.add(THINNED)
    decision = desk.decide()
    assert decision.terms.step_of(*LIVE) == 60.0
    assert decision.terms.step_of(*THINNED) == 0.0
    assert decision.terms.may_take(*LIVE)
    assert not decision.terms.may_take(*THINNED)
    assert decision.wait_s == 0
    assert (
        decision.why
        == "normal readings thinned to four a series in 1 min but for 15 % that go whole by turns, to fit what is left of "
        "the day, which lasts for 24 h"
    )
    desk.sent(5000.0, step_s=60.0, held=12_000, left=800)
    decision = desk.decide()
    assert not decision.terms.may_take(*LIVE)
    assert decision.wait_s == 60.0
    desk.pass_by(59.0)
    assert not desk.decide().terms.may_take(*LIVE)
    desk.pass_by(1.1)
    assert desk.decide().terms.may_take(*LIVE)
    desk.sent(50_000.0, step_s=60.0, left=8000)
    desk.pass_by(60.1)
    may_s = desk.scheduler.allocation.classes[Priority.NORMAL].bytes_s
    assert desk.decide().wait_s == pytest.approx(min(WAIT_S_MAX, 50_000 / may_s - 60.1))
    desk.scheduler.begin_window()
    assert desk.decide().terms.may_take(*LIVE)


def test_what_could_not_take_a_whole_step_does_not_wait_for_one() -> None:
    """A lease of many small segments covers less: the rest of the step goes as soon as it is paid for."""
    desk = Desk(12 * (1 << 20))
    desk.decide()
    desk.sent(100.0, step_s=60.0, held=4000, left=0)
    desk.pass_by(19.9)
    assert not desk.decide().terms.may_take(*LIVE)
    desk.pass_by(0.2)
    assert desk.decide().terms.may_take(*LIVE)


def test_no_request_takes_what_others_need() -> None:
    """One costs what its part is in five minutes at most, live or not, thinned or whole; a whole step's at least."""
    desk = Desk(12 * (1 << 20))
    desk.spots.add(BACKLOG)
    terms = desk.decide().terms
    allocation = desk.scheduler.allocation
    part = allocation.classes[Priority.NORMAL]
    live = terms.most_of(*LIVE, is_thinned=False)
    assert live * 2.5 + REQUEST_BYTES == pytest.approx(LEASE_S * part.bytes_s, rel=0.01)
    assert terms.most_of(*BACKLOG, is_thinned=False) * 2.5 + REQUEST_BYTES == pytest.approx(
        LEASE_S * allocation.backlog.bytes_s, rel=0.01
    )
    points_s = 4 * 200 / part.step_s
    assert terms.most_of(*LIVE, is_thinned=True) / 200 * points_s * 6.0 + REQUEST_BYTES == pytest.approx(
        LEASE_S * part.bytes_s, rel=0.01
    )
    desk.left_bytes, desk.backlog = 1e5, 50_000_000
    desk.pass_by(LOOK_S_MIN)
    terms = desk.decide().terms
    assert desk.scheduler.allocation.classes[Priority.NORMAL].step_s == 900.0
    assert terms.most_of(*LIVE, is_thinned=True) >= 900 * 195
    assert terms.most_of(*LIVE, is_thinned=False) == int((LEASE_REQUESTS - 1) * REQUEST_BYTES / 2.5)
    # Nothing came of it, and thinning is no help: each is one that is left.
    critical = (Lane.BACKLOG, Priority.CRITICAL)
    assert terms.most_of(*critical, is_thinned=True) == int((LEASE_REQUESTS - 1) * REQUEST_BYTES / 6.0)


def test_what_is_left_over_bounds_the_backlog_where_all_fits() -> None:
    """And live data costs no more at once than what may be spent in five minutes."""
    desk = Desk(300e6)
    desk.spots.add(BACKLOG)
    terms = desk.decide().terms
    allocation = desk.scheduler.allocation
    surplus = desk.left_bytes - 1.1 * allocation.wanted_s * desk.left_s
    assert terms.most_of(*BACKLOG, is_thinned=False) * 2.5 + REQUEST_BYTES == pytest.approx(surplus, rel=0.01)
    assert terms.most_of(*LIVE, is_thinned=False) * 2.5 + REQUEST_BYTES == pytest.approx(
        LEASE_S * allocation.may_s, rel=0.01
    )
    desk = Desk(0, rate=1e6)
    assert desk.decide().terms.most_of(*BACKLOG, is_thinned=False) == NO_BOUND


def test_a_start_does_not_give_the_backlog_all_that_is_left() -> None:
    """Nothing came in yet, so all seems to be left over: for two minutes the backlog has its share alone."""
    scheduler = Scheduler(1.0)
    outlook = Outlook(frozenset({BACKLOG}), 100_000, (0, 0, 0), 0.3)

    def decide(now_s: float) -> Decision:
        return scheduler.decide(now_s, windows=[WindowLeft("hour", 100_000.0, 1800.0)], rate=None, outlook=outlook)

    terms = decide(0.0).terms
    assert terms.may_take(*BACKLOG)
    assert terms.most_of(*BACKLOG, is_thinned=False) * 2.5 <= LEASE_S * 0.3 * 100_000 / 1800
    scheduler.sent(Sent(Lane.BACKLOG, Priority.NORMAL, 2000, 2000, 200, 0.0, 5000.0), 0.0)
    assert not decide(10.0).terms.may_take(*BACKLOG)
    assert decide(10.0).wait_s > 0
    assert decide(KNOWN_S + 1.0).terms.may_take(*BACKLOG)


def test_a_class_of_which_nothing_came_lately_has_a_little() -> None:
    """A finding goes at once; very many of them do not take it all."""
    desk = Desk(12 * (1 << 20))
    critical = (Lane.LIVE, Priority.CRITICAL)
    assert desk.decide().terms.may_take(*critical)
    desk.sent(3000.0, priority=Priority.CRITICAL)
    decision = desk.decide()
    assert not decision.terms.may_take(*critical)
    desk.pass_by(3000.0 / (IDLE_SHARE * desk.scheduler.allocation.may_s) + 0.1)
    assert desk.decide().terms.may_take(*critical)


def test_a_backlog_is_paced_by_its_share_while_not_all_fits() -> None:
    """Each of its leases waits for the one before to be paid."""
    desk = Desk(12 * (1 << 20))
    desk.spots.add(BACKLOG)
    assert desk.decide().terms.may_take(*BACKLOG)
    desk.sent(10_000.0, lane=Lane.BACKLOG)
    assert not desk.decide().terms.may_take(*BACKLOG)
    bytes_s = desk.scheduler.allocation.backlog.bytes_s
    assert bytes_s == pytest.approx(0.3 * desk.scheduler.allocation.may_s)
    desk.pass_by(10_000 / bytes_s + 0.1)
    assert desk.decide().terms.may_take(*BACKLOG)


def test_what_was_thinned_has_a_share_where_all_goes_whole() -> None:
    """And nothing is thinned for it."""
    desk = Desk(66e6)
    desk.spots.add(THINNED)
    terms = desk.decide().terms
    assert desk.scheduler.allocation.is_short
    assert not desk.scheduler.allocation.is_thinning
    assert terms.may_take(*THINNED)
    desk.sent(10_000.0, lane=Lane.THINNED)
    assert not desk.decide().terms.may_take(*THINNED)
    desk = Desk(46e6)
    desk.spots.add(THINNED)
    assert not desk.decide().terms.may_take(*THINNED)
    assert not desk.scheduler.allocation.is_thinning
    desk.spots.add(BACKLOG)
    assert desk.decide().terms.may_take(*BACKLOG)
    assert desk.scheduler.allocation.is_thinning


def test_what_a_step_leaves_over_goes_to_whole_turns() -> None:
    """So many readings of a class as that pays for go whole, the others thinned; none where nothing is left over."""
    desk = Desk(30 * (1 << 20))
    whole, thinned = 0.0, 0.0
    for _ in range(400):
        terms = desk.decide().terms
        part = desk.scheduler.allocation.classes[Priority.NORMAL]
        assert part.step_s == 30.0
        step_s = terms.step_of(*LIVE)
        assert step_s in {0.0, 30.0}
        most = terms.most_of(*LIVE, is_thinned=False)
        # What is fresh does not wait for longer than for a step.
        assert most * 2.5 <= (LEASE_S if step_s else TURN_S) * part.bytes_s
        held = 12_000
        left = held if not step_s else 1600
        desk.sent(900.0 + left * (6.0 if step_s else 2.5), step_s=step_s, held=held, left=left)
        whole, thinned = whole + held * (not step_s), thinned + held * bool(step_s)
        desk.pass_by(60.0)
    assert 0.4 < part.whole_share < 0.8
    assert whole / (whole + thinned) == pytest.approx(part.whole_share, abs=0.03)
    told = desk.scheduler.told()
    assert told["classes"]["normal"]["whole_share"] == round(part.whole_share, 2)
    assert f" but for {round(100 * part.whole_share)} % that go whole by turns, to fit" in told["why"]
    flow = desk.scheduler.flows[Priority.NORMAL]
    flow.owed = 5.0
    desk.sent(100.0, lane=Lane.BACKLOG)
    assert flow.owed == 5.0
    flow.turn(Sent(Lane.LIVE, Priority.NORMAL, 100, 100, 1, 0.0, 100.0), 0.0)
    assert flow.owed == 0.0


def test_a_rate_alone_thins_too() -> None:
    """And has no end that anything could be kept for."""
    desk = Desk(0, rate=150.0)
    decision = desk.decide()
    assert decision.terms.step_of(*LIVE) == 60.0
    assert decision.why.endswith(
        "thinned to four a series in 1 min but for 14 % that go whole by turns, to fit the rate"
    )
    desk = Desk(0, rate=1e6)
    desk.spots.add(BACKLOG)
    assert desk.decide().terms.may_take(*BACKLOG)


def test_what_readings_and_requests_cost_is_learnt() -> None:
    """Whole and thinned by themselves; small requests say what requests cost, large ones what readings do."""
    desk = Desk(300e6)
    for _ in range(60):
        desk.sent(500.0 + 1.7 * 4000, left=4000)
        desk.sent(500.0 + 5.0 * 4000, step_s=60.0, left=4000)
        desk.sent(500.0 + 1.7 * 10, left=10)
        desk.sent(100.0, left=0)
    flow = desk.scheduler.flows[Priority.NORMAL]
    assert flow.whole_bytes == pytest.approx(1.7, rel=0.02)
    assert flow.thinned_bytes == pytest.approx(5.0, rel=0.02)
    assert desk.scheduler.request_bytes == pytest.approx(500, rel=0.02)
    assert flow.series == 200
    assert flow.need(500).series == 200
    desk.pass_by(LOOK_S_MIN)
    desk.decide()
    assert flow.readings_s == pytest.approx(200, rel=0.02)


def test_what_readings_cost_is_known_once_some_were_sent() -> None:
    """Until then it is guessed, and a guess that is wrong by a lot must not be believed for many leases."""
    desk = Desk(300e6)
    flow = desk.scheduler.flows[Priority.NORMAL]
    desk.sent(900.0 + 13.0 * 4000, left=4000)
    desk.sent(900.0 + 20.0 * 4000, step_s=60.0, left=4000)
    assert (flow.whole_bytes, flow.thinned_bytes) == pytest.approx((13, 20), rel=0.1)
    desk.sent(900.0 + 1.0 * 4000, left=4000)
    assert flow.whole_bytes > 10, "from then on slowly"


def test_who_speaks_each_quarter_of_an_hour_is_not_silent_in_between() -> None:
    """What a day's allowance has left over is not all the backlog's just because nothing came for ten minutes."""
    desk = Desk(3e6, readings_s=0.0)
    for _ in range(12):
        desk.arrived[Priority.NORMAL] += 50_000
        desk.decide()
        desk.pass_by(600)
        desk.decide()
        desk.pass_by(300)
    desk.pass_by(600)
    desk.decide()
    flow = desk.scheduler.flows[Priority.NORMAL]
    assert flow.need(900).readings_s == pytest.approx(50_000 / 900, rel=0.1)
    assert desk.scheduler.allocation is not None
    assert desk.scheduler.allocation.is_short


def test_what_comes_in_is_followed() -> None:
    """Slowly, after the first look; a look too soon says nothing."""
    desk = Desk(300e6)
    desk.decide()
    assert desk.scheduler.flows[Priority.NORMAL].readings_s == pytest.approx(200)
    desk.readings_s = 0.0
    desk.pass_by(LOOK_S_MIN - 1)
    desk.decide()
    assert desk.scheduler.flows[Priority.NORMAL].readings_s == pytest.approx(200)
    desk.pass_by(596.0)
    desk.decide()
    assert desk.scheduler.flows[Priority.NORMAL].readings_s == pytest.approx(0)


def test_the_plan_is_told() -> None:
    """What each class that is there has, in numbers."""
    desk = Desk(12 * (1 << 20))
    desk.decide()
    told = desk.scheduler.told()
    assert told["classes"].keys() == {"normal"}
    assert told["classes"]["normal"]["step_s"] == 60.0
    assert told["classes"]["normal"]["readings_s"] == 200.0
    assert told["may_bytes_s"] == round(12 * (1 << 20) / desk.left_s, 1)
    assert told["backlog"] == {"step_s": 0.0, "bytes_s": 0.0}


def test_evidence_has_an_hours_part_at_once_and_then_its_own_pace() -> None:
    """It goes whole over a link that else carries four readings a minute, and does not take all of it."""
    desk = Desk(12 * (1 << 20))
    evidence = (Lane.EVIDENCE, Priority.NORMAL)
    desk.spots.add(evidence)
    decision = desk.decide()
    assert decision.terms.may_take(*evidence)
    assert decision.terms.step_of(*evidence) == 0
    part_s = EVIDENCE_SHARE * desk.scheduler.allocation.may_s
    for _ in range(3):
        desk.sent(part_s * EVIDENCE_BURST_S / 3 + 10, lane=Lane.EVIDENCE)
    assert not desk.decide().terms.may_take(*evidence)
    desk.pass_by(60.0)
    assert desk.decide().terms.may_take(*evidence)
    for _ in range(2):
        desk.sent(part_s * 600, lane=Lane.EVIDENCE)
    wait_s = desk.scheduler._evidence_wait_s(desk.scheduler.allocation, desk.now_s)
    assert wait_s == pytest.approx(1200, rel=0.1)


def test_what_was_spent_for_later_is_still_there_to_plan_with() -> None:
    """A request that is paid for the minutes that follow leaves all others what they had, at the end of a window too."""
    desk = Desk(12 * (1 << 20))
    desk.spots.add(BACKLOG)
    desk.left_s, desk.left_bytes = 1800.0, 12 * (1 << 20) / DAY_S * 1800.0
    desk.scheduler.begin_window()
    desk.decide()
    may_s = desk.scheduler.allocation.may_s
    seen = []
    while desk.left_s > 120.0:
        terms = desk.decide().terms
        seen.append(desk.scheduler.allocation.may_s)
        for lane in (LIVE, BACKLOG):
            if terms.may_take(*lane):
                held = min(12_000, terms.most_of(*lane, is_thinned=True))
                left = int(held / 200 / 60 * 800)
                desk.sent(900.0 + 6.0 * left, lane=lane[0], step_s=60.0, held=held, left=left)
        desk.pass_by(LOOK_S_MIN)
    assert desk.left_bytes >= 0
    assert min(seen) == pytest.approx(may_s, rel=0.1)
    # What goes thinned costs less than its part: that stays.
    assert all(later > 0.95 * sooner for sooner, later in pairwise(seen))


class Trickle:
    """A few readings a second, those of `burst_s` at once, and next to nothing to spend for a day."""

    def __init__(self, left_bytes: float, *, burst_s: float) -> None:
        self.scheduler = Scheduler(1.0)
        self.left_bytes, self.left_s = left_bytes, DAY_S
        self.readings_s, self.series, self.burst_s = 0.05, 5, burst_s
        self.arrived = self.held = 0.0
        self.whole = 0
        self.steps: list[float] = []

    def pass_by(self, hours: float, *, is_quiet: bool) -> None:
        """Let so many hours pass, and send what may be; `is_quiet` where nobody asks while nothing is held."""
        for _ in range(int(hours * 3600 / LOOK_S_MIN)):
            self.left_s -= LOOK_S_MIN
            now_s = DAY_S - self.left_s
            if not now_s % self.burst_s:
                self.arrived += self.burst_s * self.readings_s
                self.held += self.burst_s * self.readings_s
            if is_quiet and not int(self.held):
                self.scheduler.rest()
                continue
            outlook = Outlook(frozenset({LIVE} if int(self.held) else ()), 0, (0, int(self.arrived), 0), 0.3)
            window = WindowLeft("day", self.left_bytes, self.left_s)
            terms = self.scheduler.decide(now_s, windows=[window], rate=None, outlook=outlook).terms
            self.steps.append(self.scheduler.allocation.classes[Priority.NORMAL].step_s)
            if int(self.held) and terms.may_take(*LIVE):
                self.send(terms.step_of(*LIVE), terms.most_of(*LIVE, is_thinned=terms.step_of(*LIVE) > 0), now_s)

    def send(self, step_s: float, most: int, now_s: float) -> None:
        """Send what is held, as far as there is room for it: what would be over the allowance stays."""
        held = min(int(self.held), most)
        points = 4 * self.series * max(1.0, held / self.readings_s / step_s) if step_s else held
        left = max(1, min(held, int(points)))
        wire_bytes = 1000.0 + left * (6.0 if step_s else 2.5)
        if wire_bytes <= self.left_bytes:
            self.left_bytes -= wire_bytes
            self.held -= held
            self.whole += held * (left == held)
            self.scheduler.sent(Sent(Lane.LIVE, Priority.NORMAL, held, left, self.series, step_s, wire_bytes), now_s)

    @property
    def changes(self) -> int:
        """How often the step was another one than before."""
        return sum(one != other for one, other in pairwise(self.steps))


@pytest.mark.parametrize("is_quiet", [False, True])
@pytest.mark.parametrize(("left_bytes", "burst_s"), [(220e3, 900.0), (260e3, 900.0), (260e3, 5.0), (130e3, 900.0)])
def test_with_little_to_spend_a_step_does_not_come_and_go(left_bytes: float, burst_s: float, is_quiet: bool) -> None:
    """It was thinned and whole by turns, up to forty times in five hours, half of it thinned; and all fits whole."""
    trickle = Trickle(left_bytes, burst_s=burst_s)
    trickle.pass_by(5.0, is_quiet=is_quiet)
    assert trickle.changes <= 3
    assert trickle.whole >= 0.9 * (trickle.arrived - 45)
    before = trickle.changes
    trickle.pass_by(18.0, is_quiet=is_quiet)
    assert trickle.changes - before <= 1
    assert trickle.whole >= 0.95 * (trickle.arrived - 45)
    assert trickle.left_bytes >= 0
