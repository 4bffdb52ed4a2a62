"""Checks for what goes next and what has to go."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import Priority
from gateway.store.policy import ALL as NO_BOUNDS
from gateway.store.policy import (
    EVIDENCE_RUN,
    NO_BOUND,
    Choice,
    Lane,
    LaneScheduler,
    Order,
    Summary,
    Terms,
    choose_evictions,
)

ALL = (1, 1, 1)
NONE = (0, 0, 0)
LEASE_MAX = 1000
# In numbers of their own: what the module says is what is looked at here.
WEIGHTS = {Priority.CRITICAL: 16, Priority.NORMAL: 4, Priority.BULK: 1}

summaries = st.lists(
    st.builds(
        Summary,
        sequence=st.integers(1, 999),
        priority=st.sampled_from(Priority),
        size_bytes=st.integers(1, 9),
        readings=st.just(1),
        first_ns=st.just(0),
        last_ns=st.just(0),
    ),
    unique_by=lambda summary: summary.sequence,
)


def in_order(stored: list[Summary]) -> list[Summary]:
    """Return summaries as the store streams them."""
    return sorted(stored, key=lambda summary: (-summary.priority, summary.sequence))


def settled(**options: object) -> LaneScheduler:
    """Return a scheduler that owes nothing fresh."""
    scheduler = LaneScheduler(**options)
    for priority in Priority:
        scheduler.sent(Lane.LIVE, priority, 1)
        scheduler.sent(Lane.LIVE, priority, -1)
    return scheduler


def lease_sizes(seed: int) -> list[int]:
    """Return the sizes of some hundred leases, all large, all small or mixed."""
    random = Random(seed)
    smallest, largest = sorted((random.randint(1, LEASE_MAX), random.randint(1, LEASE_MAX)))
    return [random.randint(smallest, largest) for _ in range(200)]


# Evictions.


@given(summaries, st.integers(-5, 200))
def test_evictions_make_room_and_take_no_more_than_needed(stored: list[Summary], bytes_over: int) -> None:
    """Enough is freed, or everything goes; putting the last one back would not be enough."""
    chosen = choose_evictions(in_order(stored), bytes_over=bytes_over)
    freed = sum(summary.size_bytes for summary in chosen)
    assert freed >= bytes_over or len(chosen) == len(stored)
    assert not chosen or freed - chosen[-1].size_bytes < bytes_over


@given(summaries, st.integers(0, 200))
def test_nothing_more_important_or_newer_goes_before(stored: list[Summary], bytes_over: int) -> None:
    """Bulk before normal before critical, and the oldest first in each."""
    chosen = choose_evictions(in_order(stored), bytes_over=bytes_over)
    assert chosen == in_order(stored)[: len(chosen)]


def test_no_more_is_read_than_is_needed() -> None:
    """A huge store is not listed to free a few bytes."""
    stream = iter([Summary(k, Priority.BULK, 10, 1, 0, 0) for k in range(1, 100)])
    assert [summary.sequence for summary in choose_evictions(stream, bytes_over=25)] == [1, 2, 3]
    assert next(stream).sequence == 4


def test_nothing_is_read_when_nothing_is_over() -> None:
    """Not even the first."""
    stream = iter([Summary(1, Priority.BULK, 10, 1, 0, 0)])
    assert choose_evictions(stream, bytes_over=0) == []
    assert next(stream).sequence == 1


def test_candidates_out_of_order_are_our_mistake() -> None:
    """Normal data offered before bulk would be let go too early."""
    wrong = [Summary(1, Priority.NORMAL, 1, 1, 0, 0), Summary(2, Priority.BULK, 1, 1, 0, 0)]
    with pytest.raises(AssertionError):
        choose_evictions(wrong, bytes_over=5)


# Fresh first.


def test_after_link_up_the_newest_goes_first_class_by_class() -> None:
    """One lease of the newest in each class, live or not; then each lane from its oldest."""
    scheduler = settled()
    scheduler.link_up()
    choices = []
    for live in (NONE, (0, 1, 1), ALL, ALL):
        choice = scheduler.next(live=live, backlog=ALL)
        assert choice is not None
        choices.append((choice.lane, choice.priority, choice.order))
        scheduler.sent(choice.lane, choice.priority, 100)
    assert choices == [
        (Lane.BACKLOG, Priority.CRITICAL, Order.NEWEST),
        (Lane.LIVE, Priority.NORMAL, Order.NEWEST),
        (Lane.LIVE, Priority.BULK, Order.NEWEST),
        (Lane.LIVE, Priority.CRITICAL, Order.OLDEST),
    ]


def test_a_class_that_was_empty_at_link_up_has_its_fresh_lease_later() -> None:
    """What comes first in it is the newest anyway."""
    scheduler = LaneScheduler()
    scheduler.sent(Lane.LIVE, Priority.CRITICAL, 10)
    choice = scheduler.next(live=(1, 0, 0), backlog=NONE)
    assert choice == Choice(Lane.LIVE, Priority.CRITICAL, Order.OLDEST)
    assert scheduler.next(live=(1, 0, 1), backlog=NONE) == Choice(Lane.LIVE, Priority.BULK, Order.NEWEST)


def test_a_fresh_lease_that_was_not_made_is_still_owed() -> None:
    """Asking alone changes nothing."""
    scheduler = LaneScheduler()
    assert scheduler.next(live=ALL, backlog=ALL) == scheduler.next(live=ALL, backlog=ALL)


def test_a_class_that_failed_lets_another_go_first() -> None:
    """Once: a receiver that takes nothing of one class keeps the others from nothing."""
    scheduler = settled()
    choice = scheduler.next(live=ALL, backlog=NONE)
    assert choice.priority is Priority.CRITICAL
    scheduler.sent(choice.lane, choice.priority, 10)
    scheduler.gave_back(choice.lane, choice.priority, 10)
    other = scheduler.next(live=ALL, backlog=NONE)
    assert other.priority is not Priority.CRITICAL
    scheduler.sent(other.lane, other.priority, 10)
    assert scheduler.next(live=(1, 0, 0), backlog=NONE).priority is Priority.CRITICAL
    scheduler.gave_back(other.lane, other.priority, 10)
    assert scheduler.next(live=(0, other.priority == 1, other.priority == 2), backlog=NONE).priority is other.priority


# Shares.


@given(
    st.floats(0.05, 0.95),
    st.integers(0, 2**32),
    st.sampled_from([ALL, (1, 0, 0), (0, 1, 1)]),
    st.sampled_from([ALL, (0, 0, 1)]),
)
def test_the_backlog_has_its_share_within_one_lease(
    share: float, seed: int, live: tuple[int, ...], backlog: tuple[int, ...]
) -> None:
    """At every moment, whatever the leases' sizes, as long as both lanes hold something."""
    scheduler = settled(backlog_share=share)
    sent = {Lane.LIVE: 0, Lane.BACKLOG: 0}
    for size in lease_sizes(seed):
        choice = scheduler.next(live=live, backlog=backlog)
        assert choice is not None
        scheduler.sent(choice.lane, choice.priority, size)
        sent[choice.lane] += size
        total = sent[Lane.LIVE] + sent[Lane.BACKLOG]
        assert abs(sent[Lane.BACKLOG] - share * total) <= LEASE_MAX + 1


@given(st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_it_is_a_share_of_what_leases_turn_out_to_weigh(share: float, seed: int) -> None:
    """Backlog weighs twenty times on the road what it does on the shelf, live data half."""
    scheduler = settled(backlog_share=share)
    sent = {Lane.LIVE: 0, Lane.BACKLOG: 0}
    for size in lease_sizes(seed):
        choice = scheduler.next(live=ALL, backlog=ALL)
        assert choice is not None
        scheduler.sent(choice.lane, choice.priority, size)
        weight = size * 20 if choice.lane is Lane.BACKLOG else size // 2
        scheduler.weighed(choice.lane, choice.priority, weight - size)
        sent[choice.lane] += weight
        total = sent[Lane.LIVE] + sent[Lane.BACKLOG]
        assert abs(sent[Lane.BACKLOG] - share * total) <= 20 * LEASE_MAX + 1


@given(st.integers(0, 2**32))
def test_classes_share_by_weight_and_none_starves(seed: int) -> None:
    """16:4:1 within what SFQ promises: for each pair, one lease each by weight."""
    scheduler = settled()
    sent: Counter[Priority] = Counter()
    for size in lease_sizes(seed):
        choice = scheduler.next(live=ALL, backlog=NONE)
        assert choice is not None
        scheduler.sent(choice.lane, choice.priority, size)
        sent[choice.priority] += size
        by_weight = [sent[priority] / WEIGHTS[priority] for priority in Priority]
        for one in Priority:
            for other in Priority:
                slack = LEASE_MAX / WEIGHTS[one] + LEASE_MAX / WEIGHTS[other]
                assert abs(by_weight[one] - by_weight[other]) <= slack + 1


@pytest.mark.parametrize("lane", Lane)
def test_critical_has_most_of_the_road_and_bulk_some_of_it(lane: Lane) -> None:
    """Of 210 leases of one size 160 are critical, 40 normal and 10 bulk, live or backlog; bulk waits for 21 at most."""
    scheduler = settled()
    leases = []
    for _ in range(210):
        choice = scheduler.next(live=ALL if lane is Lane.LIVE else NONE, backlog=NONE if lane is Lane.LIVE else ALL)
        assert choice is not None
        scheduler.sent(choice.lane, choice.priority, LEASE_MAX)
        leases.append(choice.priority)
    counted = Counter(leases)
    wanted = {Priority.CRITICAL: 160, Priority.NORMAL: 40, Priority.BULK: 10}
    assert all(abs(counted[priority] - wanted[priority]) <= 1 for priority in Priority)
    assert all(Priority.BULK in leases[k : k + 22] for k in range(210 - 22))


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, LEASE_MAX)), max_size=200))
def test_whatever_comes_and_goes_no_one_waits_for_ever(rounds: list[tuple[int, int]]) -> None:
    """A queue that keeps holding is served before the others have sent what their weights allow them."""
    scheduler = settled()
    waited = 0
    for held, size in rounds:
        live = (held & 1, held >> 1 & 1, held >> 2 & 1)
        backlog = (held >> 3 & 1, held >> 4 & 1, 1)
        choice = scheduler.next(live=live, backlog=backlog)
        assert choice is not None
        assert (live if choice.lane is Lane.LIVE else backlog)[choice.priority]
        scheduler.sent(choice.lane, choice.priority, size)
        mine = (choice.lane, choice.priority) == (Lane.BACKLOG, Priority.BULK)
        waited = 0 if mine else waited + size
        # Its weight is 1 of 21 in the lane, and the lane's 0.3: with a lease of each other queue on top.
        assert waited <= 21 / 0.3 * (LEASE_MAX + 1) + 5 * LEASE_MAX


def test_a_lane_alone_has_all_of_the_road_and_saves_nothing_up() -> None:
    """After an hour of live data alone the backlog starts level, not with an hour's share."""
    scheduler = settled()
    for _ in range(100):
        scheduler.sent(Lane.LIVE, Priority.NORMAL, 1000)
        assert scheduler.next(live=ALL, backlog=NONE).lane is Lane.LIVE
    lanes = []
    for _ in range(10):
        choice = scheduler.next(live=ALL, backlog=ALL)
        scheduler.sent(choice.lane, choice.priority, 1000)
        lanes.append(choice.lane)
    assert lanes.count(Lane.BACKLOG) == 3


def test_critical_data_that_arrives_goes_next() -> None:
    """It does not wait for normal data to have its turn."""
    scheduler = settled()
    for _ in range(5):
        scheduler.next(live=(0, 1, 1), backlog=NONE)
        scheduler.sent(Lane.LIVE, Priority.NORMAL, 1000)
    assert scheduler.next(live=ALL, backlog=NONE).priority is Priority.CRITICAL


@pytest.mark.parametrize(("share", "first"), [(0.0, Lane.LIVE), (1.0, Lane.BACKLOG)])
def test_a_share_of_nothing_waits_until_the_other_lane_is_empty(share: float, first: Lane) -> None:
    """0 sends backlog only while nothing live waits; 1 the other way round."""
    scheduler = settled(backlog_share=share)
    for _ in range(5):
        choice = scheduler.next(live=ALL, backlog=ALL)
        scheduler.sent(choice.lane, choice.priority, 1000)
        assert choice.lane is first
    assert scheduler.next(live=NONE, backlog=ALL).lane is Lane.BACKLOG
    assert scheduler.next(live=ALL, backlog=NONE).lane is Lane.LIVE


def test_a_released_lease_is_given_back() -> None:
    """What was not sent after all is not charged."""
    scheduler = settled()
    for _ in range(20):
        choice = scheduler.next(live=ALL, backlog=ALL)
        scheduler.sent(choice.lane, choice.priority, 1000)
        scheduler.sent(choice.lane, choice.priority, -1000)
        assert choice == Choice(Lane.LIVE, Priority.CRITICAL, Order.OLDEST)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backlog_share": 1.1}, "0 to 1, not 1.1"),
        ({"backlog_share": -0.1}, "0 to 1"),
        ({"weights": {Priority.CRITICAL: 1, Priority.NORMAL: 1}}, "would starve"),
    ],
)
def test_impossible_shares_are_refused(options: dict[str, object], says: str) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match=says):
        LaneScheduler(**options)


def test_the_last_choice_is_explained() -> None:
    """In a sentence with the numbers that made it."""
    scheduler = LaneScheduler()
    assert scheduler.explain() == "Nothing has been asked for yet."
    scheduler.next(live=NONE, backlog=NONE)
    assert scheduler.explain() == "Nothing is held."
    scheduler.next(live=ALL, backlog=NONE)
    assert scheduler.explain() == (
        "The newest critical data of the live lane goes first, because the link has just come up."
    )
    for priority in Priority:
        scheduler.sent(Lane.LIVE, priority, 100)
    scheduler.next(live=NONE, backlog=(0, 0, 1))
    assert scheduler.explain() == (
        "The oldest bulk data of the backlog lane goes next, because the other lane is empty."
    )
    scheduler.sent("backlog", Priority.BULK, 100)
    scheduler.next(live=(0, 1, 0), backlog=(0, 0, 1))
    assert scheduler.explain() == (
        "The oldest bulk data of the backlog lane goes next: since link-up the backlog has had 25 % of the bytes, "
        "and its share is 30 %."
    )
    scheduler.link_up()
    for priority in Priority:
        scheduler.sent(Lane.LIVE, priority, 1)
        scheduler.sent(Lane.LIVE, priority, -1)
    scheduler.next(live=ALL, backlog=ALL)
    assert "has had 0 % of the bytes" in scheduler.explain()


def test_who_was_passed_over_has_its_turn_again_once_another_was_sent() -> None:
    """What did not arrive waits for one lease of another class, and not for as long as there are any."""
    scheduler = settled()
    both = {"live": (0, 1, 1), "backlog": NONE}
    scheduler.gave_back(Lane.LIVE, Priority.NORMAL, 0)
    assert scheduler.next(**both).priority is Priority.BULK
    scheduler.sent(Lane.LIVE, Priority.BULK, 100)
    assert scheduler.next(**both).priority is Priority.NORMAL


def test_what_was_sent_thinned_goes_where_nothing_else_waits() -> None:
    """By class, and it is no part of the backlog's share."""
    scheduler = settled()
    assert scheduler.next(live=NONE, backlog=(0, 1, 0), thinned=ALL).lane is Lane.BACKLOG
    taken = []
    for _ in range(21):
        choice = scheduler.next(live=NONE, backlog=NONE, thinned=ALL)
        assert (choice.lane, choice.order) == (Lane.THINNED, Order.OLDEST)
        taken.append(choice.priority)
        scheduler.sent(choice.lane, choice.priority, 100)
    assert [taken.count(priority) for priority in Priority] == [16, 4, 1]
    assert scheduler.explain() == "The oldest critical data that was sent thinned goes whole: nothing else waits."
    scheduler.next(live=ALL, backlog=ALL)
    assert "has had 0 % of the bytes" in scheduler.explain()


def test_terms_are_by_lane_and_class() -> None:
    """Without any all may go, whole."""
    terms = Terms(
        may=((True, False, True), (False,) * 3, (True,) * 3), step_s=((0.0, 60.0, 0.0), (30.0,) * 3, (0.0,) * 3)
    )
    assert [terms.may_take(Lane.LIVE, priority) for priority in Priority] == [True, False, True]
    assert not terms.may_take(Lane.BACKLOG, Priority.CRITICAL)
    assert (terms.step_of(Lane.LIVE, Priority.NORMAL), terms.step_of(Lane.BACKLOG, Priority.BULK)) == (60.0, 30.0)
    assert all(NO_BOUNDS.may_take(lane, priority) for lane in Lane for priority in Priority)
    assert not any(NO_BOUNDS.step_of(lane, priority) for lane in Lane for priority in Priority)


def test_evidence_goes_first_but_for_each_fourth_lease() -> None:
    """Findings without end keep nobody waiting; what is newest of a backlog is owed still."""
    scheduler = LaneScheduler()
    for priority in Priority:
        scheduler.sent(Lane.LIVE, priority, 100)
    taken = []
    for _ in range(12):
        choice = scheduler.next(live=ALL, backlog=NONE, evidence=(0, 1, 0))
        taken.append(choice.lane)
        scheduler.sent(choice.lane, choice.priority, 100)
    assert taken == [*[Lane.EVIDENCE] * EVIDENCE_RUN, Lane.LIVE] * 3
    choice = scheduler.next(live=NONE, backlog=NONE, thinned=ALL, evidence=(0, 1, 0))
    assert choice == Choice(Lane.EVIDENCE, Priority.NORMAL, Order.OLDEST)
    assert scheduler.explain() == "The normal data from around a finding goes first, whole."
    scheduler = LaneScheduler()
    scheduler.sent(Lane.EVIDENCE, Priority.CRITICAL, 100)
    assert scheduler.next(live=NONE, backlog=ALL).order is Order.NEWEST


def test_when_the_link_comes_up_what_is_newest_goes_before_evidence() -> None:
    """What was found in an outage may be many requests: first it is known how things are now, of each class once."""
    scheduler = LaneScheduler()
    everything = {"live": (0, 1, 1), "backlog": ALL, "evidence": (0, 1, 0)}
    taken = []
    for _ in range(6):
        choice = scheduler.next(**everything)
        taken.append((choice.lane, choice.order))
        scheduler.sent(choice.lane, choice.priority, 100)
    newest = [(Lane.BACKLOG, Order.NEWEST), *[(Lane.LIVE, Order.NEWEST)] * 2]
    assert taken == [*newest, *[(Lane.EVIDENCE, Order.OLDEST)] * EVIDENCE_RUN]
    choice = LaneScheduler().next(live=NONE, backlog=ALL, evidence=(0, 1, 0))
    assert choice.lane is Lane.EVIDENCE, "nothing has come in since: then evidence is what is wanted first"


@pytest.mark.parametrize("alone", [True, False])
def test_some_classes_go_whatever_the_terms_say(alone) -> None:
    """Whole and as they come, but for what was sent thinned; with nothing beside them, or all else as it was."""
    never, step, least = ((what,) * len(Priority) for what in (False, 60.0, 7))
    terms = Terms((never, *[(True,) * 3] * 3), (step,) * 4, (least,) * 4, (least,) * 4)
    found = terms.letting({Priority.CRITICAL}, alone=alone)
    for lane in Lane:
        is_let = lane is not Lane.THINNED
        assert found.may_take(lane, Priority.CRITICAL) == (is_let or not alone)
        assert found.step_of(lane, Priority.CRITICAL) == (0.0 if is_let else 60.0)
        assert found.most_of(lane, Priority.CRITICAL, is_thinned=False) == (NO_BOUND if is_let else 7)
        assert found.may_take(lane, Priority.BULK) == (lane is not Lane.LIVE and not alone)
        assert found.step_of(lane, Priority.BULK) == 60.0
        assert found.most_of(lane, Priority.BULK, is_thinned=False) == 7
        assert found.most_of(lane, Priority.CRITICAL, is_thinned=True) == 7
