"""Fresh data goes between the requests of a lease that takes several, and leaves the backlog its share."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from gateway.core.contracts import Priority
from gateway.store.leases import Outlook
from gateway.store.policy import ALL, Lane, Terms
from gateway.uplinks.fresh_first import FreshFirst, fresh_of
from gateway.uplinks.guards import Answer
from gateway.uplinks.pacing import Rounds
from hil import virtual_time
from hil.otlp_readings import parse_metrics

SLOW_S = 2.0


def test_a_large_segment_of_the_backlog_holds_nothing_fresh_up(make_road, make_readings) -> None:
    """It takes 40 s on this line; what comes meanwhile is there within two requests, and it comes to its end."""

    async def main() -> None:
        road = make_road(takes_s=SLOW_S, batch_readings_max=1000)
        road.store.add(make_readings(20_000), lane="backlog")
        task = await road.start()
        came: dict[int, float] = {}
        for k in range(100):
            came[len(came)] = asyncio.get_running_loop().time()
            road.store.add(make_readings(10, series=1, start=10 * k))
            await asyncio.sleep(1)
        await asyncio.sleep(60)
        late_s = [
            at_s + SLOW_S - came[int(reading.value) // 10]
            for at_s, packed, body in road.wire.sent
            for reading in parse_metrics(body)
            if reading.metric == "humidity"
        ]
        assert len(late_s) == 1000
        assert max(late_s) < 3 * SLOW_S + 1
        await road.stop(task)
        assert road.store.delivered == 21_000
        assert road.store.maybe_twice == 0

    virtual_time.run(main())


def test_what_gives_way_is_not_said_to_fail(make_road, make_readings) -> None:
    """The status has it apart from what the receiver fails at."""

    async def main() -> None:
        road = make_road(takes_s=SLOW_S, batch_readings_max=1000)
        road.store.add(make_readings(20_000), lane="backlog")
        task = await road.start(3)
        told = []
        for k in range(20):
            road.store.add(make_readings(10, series=1, start=10 * k))
            await asyncio.sleep(1)
            told.append(road.uplink.status()["put_off"])
        assert {(one["leases"], one["readings"], one["unheard"]) for one in told} == {(0, 0, 0)}
        assert {one["gives_way"] > 0 for one in told} == {False, True}
        await road.stop(task)

    virtual_time.run(main())


def test_what_gave_way_is_not_lost_at_a_stop(make_road, make_readings) -> None:
    """It goes back, and what was taken of it may come twice."""

    async def main() -> None:
        road = make_road(takes_s=SLOW_S, batch_readings_max=1000, stop_grace=0)
        road.store.add(make_readings(20_000), lane="backlog")
        task = await road.start(3)
        for k in range(5):
            road.store.add(make_readings(10, series=1, start=10 * k))
            await asyncio.sleep(1)
        await road.stop(task)
        assert road.store.maybe_twice >= 20_000
        assert 0 < road.store.delivered <= 50

    virtual_time.run(main())


@pytest.fixture
def make_turns():
    """Make one: `make_turns(share, spots)`; with it a lease of several requests."""

    def build(share: float = 0.3, spots: tuple = ((Lane.LIVE, Priority.NORMAL),), may_go: bool = True) -> FreshFirst:
        store = SimpleNamespace(outlook=lambda _: Outlook(frozenset(spots), 0, (0, 0, 0), share))
        rounds = Rounds(0.0 if may_go else 60.0)
        rounds.begin(asyncio.get_running_loop().time())
        rounds.end()
        return FreshFirst("cloud", store=store, rounds=rounds)

    return build


def in_parts(lane: Lane = Lane.BACKLOG, *, parts: int = 3) -> SimpleNamespace:
    return SimpleNamespace(parts=["x"] * parts, pause_s=None, lease=SimpleNamespace(lane=lane, signal=None))


def test_fresh_data_has_what_leaves_the_backlog_its_share(make_turns) -> None:
    """Three parts of ten are the backlog's: after three seconds of it seven may go, and what was too much counts."""

    async def main() -> None:
        turns, hand = make_turns(), in_parts()
        asked: list[bool] = []

        async def lease_next(*, terms: Terms) -> SimpleNamespace:
            asked.append(terms == fresh_of(ALL))
            return SimpleNamespace(lane=Lane.LIVE)

        for expected in (2, 1, 2):
            asked.clear()
            assert turns.gives_way(hand, Answer(seconds=3.0))
            while (await turns.lease(lease_next, ALL)) is not None:
                await asyncio.sleep(5)
            assert asked == [True] * expected
        asked.clear()
        assert await turns.lease(lease_next, ALL) is None
        assert not asked
        # Of one that took much too long so much is made up for: two turns of two seconds, and a part of one of three.
        assert turns.gives_way(hand, Answer(seconds=3.0))
        await turns.lease(lease_next, ALL)
        await asyncio.sleep(1000)
        assert await turns.lease(lease_next, ALL) is None
        assert not turns.gives_way(hand, Answer(seconds=0.9))
        assert not turns.gives_way(hand, Answer(seconds=0.9))
        assert turns.gives_way(hand, Answer(seconds=1.3))

    virtual_time.run(main())


async def test_it_goes_on_when_nothing_fresh_is_there(make_turns) -> None:
    """And whatever comes then has to wait for its next request."""
    turns, hand = make_turns(), in_parts()
    asked: list[bool] = []

    async def lease_next(*, terms: Terms) -> None:
        asked.append(terms == fresh_of(ALL))

    assert turns.gives_way(hand, Answer(seconds=3.0))
    assert hand.pause_s == 0.0
    assert await turns.lease(lease_next, ALL) is None
    assert await turns.lease(lease_next, ALL) is None
    assert asked == [True]


async def test_who_gives_way_and_who_does_not(make_turns) -> None:
    """Fresh data itself, the last request, a backlog that has all; and one without a share always does."""
    assert not make_turns().gives_way(in_parts(Lane.LIVE), Answer(seconds=1.0))
    assert not make_turns().gives_way(in_parts(Lane.EVIDENCE), Answer(seconds=1.0))
    assert not make_turns().gives_way(in_parts(parts=0), Answer(seconds=1.0))
    assert not make_turns(share=1.0).gives_way(in_parts(), Answer(seconds=1.0))
    assert not make_turns(spots=((Lane.BACKLOG, Priority.BULK), (Lane.THINNED, Priority.BULK))).gives_way(
        in_parts(), Answer(seconds=1.0)
    )
    assert not make_turns(may_go=False).gives_way(in_parts(), Answer(seconds=1.0))
    assert not make_turns().gives_way(in_parts(), Answer(seconds=0.01))
    assert not make_turns().gives_way(in_parts(), None)
    assert make_turns(share=0.0).gives_way(in_parts(Lane.THINNED), Answer(seconds=1.0))


def test_what_is_fresh_is_leased_on_the_same_terms() -> None:
    """But for the lanes."""
    terms = fresh_of(ALL)
    assert [terms.may_take(lane, Priority.NORMAL) for lane in Lane] == [True, False, False, True]
    assert (terms.step_s, terms.readings_max, terms.thinned_max) == (ALL.step_s, ALL.readings_max, ALL.thinned_max)
