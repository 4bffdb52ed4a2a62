"""Fresh data does not wait for what a server fails at, and that has its turns all the same."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from gateway.uplinks.guards import Answer, StatusRefusedError
from gateway.uplinks.turns import Turns
from hil.otlp_readings import parse_metrics
from hil.virtual_time import run

if TYPE_CHECKING:
    from gateway.core.contracts import Signal


def failing_at(every: int):
    """Return what answers 500 to each request that holds one of every so many readings."""

    def judge(signal: Signal, body: bytes) -> Answer | Exception:
        is_bad = any(reading.value % every == every // 2 for reading in parse_metrics(body))
        return StatusRefusedError("status 500", 500) if is_bad else Answer(seconds=0.05)

    return judge


@pytest.mark.parametrize("every", [400, 2000])
def test_fresh_data_is_fresh_however_much_a_server_fails_at(make_road, make_readings, every: int) -> None:
    """One reading in every fourth lease, or in each twentieth; an answer takes 50 ms, and ten leases come a second."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100, takes_s=0.05)
        road.wire.judge = failing_at(every)
        task = await road.start(0.1)
        late: list[bool] = []
        arrived: set[float] = set()
        seconds = 30
        for k in range(10 * seconds):
            road.store.add(make_readings(100, start=100 * k))
            done = len(road.wire.sent)
            await asyncio.sleep(0.1)
            arrived.update(r.value for _, _, body in road.wire.sent[done:] for r in parse_metrics(body))
            late.append(not {100.0 * n for n in range(max(0, k - 4), k + 1)} & arrived)
        assert sum(late) <= len(late) // 50
        # All of the first half, whoever shared a request with the guilty.
        assert arrived >= set(map(float, range(500 * seconds)))
        await road.stop(task)

    run(main())


def test_what_the_server_failed_at_and_stands_first_goes_where_there_is_nothing_else(make_road, make_readings) -> None:
    """After an outage it may be all that there is."""

    async def main() -> None:
        road = make_road(*[StatusRefusedError("status 500", 500)] * 12, compression="zstd")
        road.store.add(make_readings(5))
        task = await road.start(3600)
        assert (road.store.delivered, road.store.held) == (5, 0)
        await road.stop(task)

    run(main())


class Shelf:
    """A store that puts nothing off any more, and what else is asked whose turn it is."""

    has_room = True
    is_in_doubt = False

    def __init__(self, *first_ids: int) -> None:
        self.leases = [SimpleNamespace(segments=[SimpleNamespace(id=first_id)]) for first_id in first_ids]
        self.put_off: list[int] = []

    async def next(self) -> SimpleNamespace | None:
        return self.leases.pop(0) if self.leases else None

    async def fresh(self) -> None:
        return None

    def has_failed(self, lease: SimpleNamespace) -> bool:
        return lease.segments[0].id < 100

    def put_off_unseen(self, lease: SimpleNamespace) -> None:
        self.put_off.append(lease.segments[0].id)

    def is_turn(self, now_s: float) -> bool:
        return False

    def pop_due(self, now_s: float, *, may_be_suspect: bool = True) -> None:
        return None


@pytest.mark.parametrize(
    ("held", "next_id", "put_off"),
    [
        ([1, 2, 100, 3], 100, [2, 1]),  # whatever is not suspect goes first
        ([1, 2], 1, [2]),  # where there is nothing else the first does
        ([1, 2, 2, 100], 2, [2, 1]),  # what the store cannot put off stays in its turn
        ([], None, []),
    ],
)
async def test_what_a_server_failed_at_lets_others_go_first(held, next_id, put_off) -> None:
    """As far as the store can put it off."""
    shelf = Shelf(*held)
    turns = Turns(sending=shelf, parked=shelf, outages=shelf, endings=shelf)
    hand = await turns.next(shelf.next, shelf.fresh)
    assert (hand and hand.lease.segments[0].id) == next_id
    assert shelf.put_off == put_off
    assert hand is None or hand.is_suspect == (put_off == [2])
