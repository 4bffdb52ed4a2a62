"""What a server failed at is put off in hand while there is room, and given back where there is none."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

from gateway.uplinks import parked
from gateway.uplinks.guards import Answer, StatusRefusedError
from hil.otlp_readings import parse_metrics
from hil.virtual_time import run

if TYPE_CHECKING:
    import pytest

    from gateway.core.contracts import Signal


def failing(*values: float):
    """Return what answers 500 to each request that holds one of these values."""

    def judge(signal: Signal, body: bytes) -> Answer | Exception:
        is_bad = any(reading.value in values for reading in parse_metrics(body))
        return StatusRefusedError("status 500", 500) if is_bad else Answer()

    return judge


def test_its_neighbours_arrive_soon_and_it_is_tried_again(make_road, make_readings) -> None:
    """Ever later, and given up after some minutes, alone."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = failing(777)
        road.store.add(make_readings(1000))
        task = await road.start(5)
        assert len({r.value for r in road.wire.readings()}) == 1000
        assert road.uplink.status()["put_off"] == {
            "leases": 1,
            "readings": 1,
            "overflowed": 0,
            "unheard": 0,
            "gives_way": 0,
        }
        assert road.uplink.status()["state"] == "waiting"
        await asyncio.sleep(60)
        assert road.store.held == 1000
        await asyncio.sleep(200)
        assert (road.store.delivered, road.store.ledger) == (999, {"refused": 1})
        tries = [s for s, _, body in road.wire.sent if [r.value for r in parse_metrics(body)] == [777]]
        waits = [after - before for before, after in pairwise(tries)]
        assert all(after > before for before, after in pairwise(waits[:5]))
        assert max(waits) <= 61
        await road.stop(task)

    run(main())


def test_a_receiver_that_takes_it_after_all_gets_it(make_road, make_readings) -> None:
    """What failed for a while is not given up, though its neighbours were taken."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = failing(777, 42)
        road.store.add(make_readings(1000))
        task = await road.start(60)
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(60)
        assert (road.store.delivered, road.store.ledger) == (1000, {})
        await road.stop(task)

    run(main())


def test_what_finds_no_room_waits_in_the_store(make_road, make_readings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole: it is sent in parts when there is room, fresh data does not wait for it, and it is counted."""
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 1)

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100)
        bad = [100 * k + 50 for k in range(6)]
        road.wire.judge = failing(*bad)
        task = await road.start(0.1)
        for k in range(30):
            road.store.add(make_readings(100, start=100 * k))
            await asyncio.sleep(2)
            assert k < 6 or 100.0 * k in {r.value for r in road.wire.readings()}
        status = road.uplink.status()["put_off"]
        assert status["leases"] == 1
        assert status["overflowed"] > 0
        assert len(road.store.away) == 5
        await asyncio.sleep(1800)
        assert (road.store.delivered, road.store.ledger) == (2994, {"refused": 6})
        await road.stop(task)

    run(main())


def test_a_stop_gives_back_what_is_in_hand(make_road, make_readings) -> None:
    """What was taken of it may come twice; what was not begun was counted with each try."""

    async def main() -> None:
        for seconds, is_begun in ((0.5, False), (5.0, True)):
            road = make_road(compression="zstd")
            road.wire.judge = failing(777)
            road.store.add(make_readings(1000))
            task = await road.start(seconds)
            before = road.store.maybe_twice
            await road.stop(task)
            assert road.store.events[-1] == ("release", 1000, is_begun)
            assert road.store.maybe_twice == before + 1000 * is_begun

    run(main())


def test_an_outage_gives_nothing_up(make_road, make_readings) -> None:
    """However long it lasts; what is sent meanwhile is next to nothing, and all of it arrives when it is over."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=1000)
        road.wire.judge = lambda signal, body: StatusRefusedError("status 500", 500)
        task = await road.start(0.1)
        for k in range(20):
            road.store.add(make_readings(1000, start=1000 * k))
            await asyncio.sleep(180)
        assert not road.store.ledger
        assert road.store.held == 20_000
        assert sum(len(parse_metrics(body)) for _, _, body in road.wire.sent) < 3000
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(70)
        assert (road.store.delivered, road.store.ledger) == (20_000, {})
        await road.stop(task)

    run(main())


def test_what_comes_of_a_guilty_series_goes_apart(make_road, make_readings) -> None:
    """The others are taken with the first request; of what went apart no more than the guilty is given up."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = failing(5, 105)
        road.store.add(make_readings(10, series=1))
        task = await road.start(10)
        sent = len(road.wire.sent)
        road.store.add(make_readings(50, series=0, start=1000))
        road.store.add(make_readings(10, series=1, start=100))
        await asyncio.sleep(1)
        sizes = [len(parse_metrics(body)) for _, _, body in road.wire.sent[sent:]]
        assert sizes[:2] == [50, 10]
        await asyncio.sleep(600)
        assert (road.store.delivered, road.store.ledger) == (68, {"refused": 2})
        await road.stop(task)

    run(main())


def test_a_series_that_is_taken_again_is_like_all_others(make_road, make_readings) -> None:
    """Its next readings share a request with them."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = failing(5)
        road.store.add(make_readings(10, series=1))
        task = await road.start(10)
        for start in (100, 200):
            sent = len(road.wire.sent)
            road.store.add(make_readings(50, series=0, start=1000 + start))
            road.store.add(make_readings(10, series=1, start=start))
            await asyncio.sleep(1)
            sizes = [len(parse_metrics(body)) for _, _, body in road.wire.sent[sent:]]
            assert sizes == ([50, 10] if start == 100 else [60])
        await road.stop(task)

    run(main())
