"""Series are forgotten when nobody needs them, never before, and the shelf is whole afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from typing import Any

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.store import committer, forgetting
from gateway.store.database import SeriesBounds
from gateway.store.reading import read_held, verify
from gateway.store.segments import decode_metrics
from gateway.store.writer import SEGMENT_READINGS_MAX

IDLE_S = 1000
SHORT = SeriesBounds(idle_s=IDLE_S)


class Hand:
    """Holds numbers, and notes which it was told to let go of."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.told: list[int] = []

    def series_in_use(self):
        yield np.array(self.numbers, np.uint32)

    def forget_series(self, numbers) -> None:
        self.told += numbers.tolist()


async def put(store, *names: str) -> list[int]:
    """Append a reading to each of these series; return their numbers."""
    numbers = [store.resolve(Series((), name)) for name in names]
    await store.append([(Priority.NORMAL, Batch.of(numbers, 1, np.arange(len(numbers))))])
    return numbers


async def wait(shelves, store, seconds: int = IDLE_S) -> None:
    """Let time pass, and let the store look after itself. What was acked is gone by then."""
    await store.append([])
    shelves.clock.advance(seconds * NS_PER_S)
    await store.tend()
    await store.append([])


def rows(shelves) -> list[list[int]]:
    """Return the numbers in both tables."""
    connection = sqlite3.connect(shelves.state_dir / "tidegate.db")
    tables = [
        [number for (number,) in connection.execute(f"SELECT number FROM {table} ORDER BY number")]
        for table in ("series", "series_copy")
    ]
    connection.close()
    return tables


def named(shelves) -> list[str]:
    """Return the names of all readings that are held, as somebody from outside reads them."""
    with read_held(shelves.state_dir) as held:
        return [held.series(number).name for s in held for number in decode_metrics(s.body).series.tolist()]


async def test_what_is_idle_and_delivered_is_forgotten(shelves) -> None:
    """In memory and on the disk; counted; its number is not given again, not even after a restart."""
    store = await shelves.open(series=SHORT)
    assert await put(store, "a", "b") == [1, 2]
    await shelves.drain(store)
    await wait(shelves, store, IDLE_S - 1)
    assert store.status()["store"]["series"] == 2
    await put(store, "b")
    await shelves.drain(store)
    await wait(shelves, store, 1)
    status = store.status()["store"]
    assert (status["series"], status["series_forgotten"]) == (1, 1)
    assert shelves.telemetry.value("tidegate_series_forgotten") == 1
    assert rows(shelves) == [[2], [2]]
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open(series=SHORT)
    assert await put(store, "a", "b") == [3, 2]


async def test_what_is_leased_keeps_its_series(shelves) -> None:
    """As long as it is out, released and leased again; only when it is delivered they go."""
    store = await shelves.open(series=SHORT)
    await put(store, "old")
    await put(store, "new")
    newest = await shelves.lease(store, readings_max=1)
    lease = await shelves.lease(store, readings_max=1)
    for _ in range(3):
        await wait(shelves, store)
        (segment,) = lease.segments
        assert [store.series(n).name for n in decode_metrics(segment.body).series.tolist()] == ["old"]
        store.release(lease, maybe_delivered=False)
        lease = await shelves.lease(store, readings_max=1)
    store.ack(lease)
    await wait(shelves, store, 1)
    assert rows(shelves) == [[2], [2]]
    store.release(newest, maybe_delivered=False)
    await shelves.drain(store)
    await wait(shelves, store, 1)
    assert rows(shelves) == [[], []]
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_what_one_uplink_lacks_is_kept_for_it(shelves) -> None:
    """However long ago the other had it."""
    store = await shelves.open(uplinks=("near", "far"), series=SHORT)
    await put(store, "a")
    await shelves.drain(store, "near")
    await wait(shelves, store, 10 * IDLE_S)
    lease = await shelves.lease(store, "far")
    assert store.series(int(decode_metrics(lease.segments[0].body).series[0])).name == "a"
    assert rows(shelves) == [[1], [1]]


async def test_what_was_refused_can_be_seen_by_name_for_a_while(shelves) -> None:
    """Its series count as used when it is set aside, of readings and of log records; a damaged one is no trouble."""
    store = await shelves.open(series=SHORT)
    await put(store, "m")
    await store.append([], logs=shelves.logs(store, "1"))
    shelves.clock.advance(10 * IDLE_S * NS_PER_S)
    for _ in range(2):
        lease = await shelves.lease(store)
        store.refuse(lease, "status_400", "no")
    store._committer.forgetter.refused([dataclasses.replace(lease.segments[0], body=b"nothing")])
    await wait(shelves, store, IDLE_S - 1)
    assert rows(shelves) == [[1, 2], [1, 2]]
    await wait(shelves, store, 1)
    assert rows(shelves) == [[], []]


@pytest.mark.parametrize("readings", [1, SEGMENT_READINGS_MAX])
async def test_what_waits_for_its_commit_keeps_its_series(shelves, readings: int) -> None:
    """Both what a commit writes while it forgets, and what comes while it writes, compressed ahead or not."""
    store = await shelves.open(series=SHORT, commit_interval_s=30)
    numbers = [store.resolve(Series((), name)) for name in ("written", "late", "idle")]
    await store._committer.commit()
    shelves.clock.advance(IDLE_S * NS_PER_S)
    assert store._committer.forgetter.look(store._committer.next_sequence)

    def append(number: int) -> asyncio.Future[None]:
        return store.append([(Priority.NORMAL, Batch.of(number, 1, np.arange(readings)))])

    written = append(numbers[0])
    await asyncio.sleep(0)
    find = store._committer._keeper.find_victims

    async def find_late(*what: Any, **more: Any) -> Any:
        late.append(append(numbers[1]))
        await asyncio.sleep(0)
        return await find(*what, **more)

    late: list[asyncio.Future[None]] = []
    store._committer._keeper.find_victims = find_late
    await store._committer.commit()
    store._committer._keeper.find_victims = find
    await store._committer.commit()
    await asyncio.gather(written, *late)
    assert rows(shelves) == [numbers[:2], numbers[:2]]
    await shelves.close()
    assert named(shelves) == ["written"] * readings + ["late"] * readings
    assert verify(shelves.state_dir).problems == []


async def test_what_somebody_holds_keeps_its_number(shelves) -> None:
    """Until it lets go; who remembers numbers is told of those that went."""
    store = await shelves.open(series=SHORT)
    hand = Hand(2)
    store.add_holder(hand)
    await put(store, "a", "b")
    await shelves.drain(store)
    await wait(shelves, store)
    assert hand.told == [1]
    hand.numbers = ()
    await wait(shelves, store, 1)
    assert hand.told == [1, 2]
    assert rows(shelves) == [[], []]


async def test_a_commit_that_fails_forgets_all_the_same(shelves, monkeypatch) -> None:
    """Its rows go with the next; one that came back meanwhile has a new number, and both are right on the disk."""
    store = await shelves.open(series=SHORT)
    hand = Hand()
    store.add_holder(hand)
    await put(store, "a", "b")
    await shelves.drain(store)
    await store.append([])
    real = committer.write

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    shelves.clock.advance(IDLE_S * NS_PER_S)
    assert store._committer.forgetter.look(store._committer.next_sequence)
    monkeypatch.setattr(committer, "write", fail)
    with pytest.raises(FullError):
        await store.append([])
    assert (hand.told, rows(shelves)) == ([1, 2], [[1, 2], [1, 2]])
    monkeypatch.setattr(committer, "write", real)
    assert await put(store, "a") == [3]
    assert rows(shelves) == [[3], [3]]
    await shelves.close()
    assert (named(shelves), verify(shelves.state_dir).problems) == (["a"], [])


async def test_a_death_before_the_rows_are_gone_brings_series_back(shelves, monkeypatch) -> None:
    """One that had another number since has two: the later one is given, and in time both are forgotten."""
    monkeypatch.setattr(forgetting, "ROWS_MAX", 0)
    store = await shelves.open(series=SHORT)
    await put(store, "a")
    await shelves.drain(store)
    await wait(shelves, store)
    assert await put(store, "a") == [2]
    await shelves.close()
    assert rows(shelves) == [[1, 2], [1, 2]]
    assert verify(shelves.state_dir).problems == []
    monkeypatch.undo()
    store = await shelves.open(series=SHORT)
    assert await put(store, "a") == [2]
    await shelves.drain(store)
    await wait(shelves, store)
    assert rows(shelves) == [[], []]
    assert await put(store, "a") == [3]


async def test_a_salvage_finds_what_is_left(shelves) -> None:
    """Those that were forgotten stay so, and their numbers are not given again."""
    store = await shelves.open(series=SHORT)
    await put(store, *(f"s{k}" for k in range(50)))
    await shelves.drain(store)
    await wait(shelves, store)
    assert await put(store, "s7", "new") == [51, 52]
    await shelves.close()
    (shelves.state_dir / "tidegate.db.suspect").write_text("a test")
    store = await shelves.open(series=SHORT)
    assert "salvaged" in store.events[0]
    assert rows(shelves) == [[51, 52], [51, 52]]
    assert await put(store, "s8", "new") == [53, 52]
    await shelves.close()
    assert sorted(named(shelves)) == ["new", "new", "s7", "s8"]
    assert verify(shelves.state_dir).problems == []


async def test_rows_go_some_at_a_time(shelves, monkeypatch) -> None:
    """A flood's rows are not one long commit; without other work the next ones follow by themselves."""
    monkeypatch.setattr(forgetting, "ROWS_MAX", 10)
    monkeypatch.setattr(committer, "ACK_WAIT_S", 0.0)
    store = await shelves.open(series=SHORT)
    took_effect = store._committer.forgetter.took_effect
    steps: list[int] = []
    all_gone = asyncio.Event()

    def watch(sealed: Any, left: int) -> bool:
        is_more = took_effect(sealed, left)
        steps.append(left)
        if left and not is_more:
            all_gone.set()
        return is_more

    monkeypatch.setattr(store._committer.forgetter, "took_effect", watch)
    await put(store, *(f"s{k}" for k in range(35)))
    await shelves.drain(store)
    await wait(shelves, store)
    assert store.status()["store"]["series"] == 0
    await asyncio.wait_for(all_gone.wait(), 10)
    assert [left for left in steps if left] == [10, 10, 10, 5]
    assert rows(shelves) == [[], []]


async def test_what_was_held_at_the_start_keeps_all_series(shelves) -> None:
    """Which series its segments hold is not known then; when they are gone, it is."""
    store = await shelves.open(series=SHORT)
    await put(store, "a", "b")
    await shelves.drain(store)
    await put(store, "b")
    await shelves.close()
    store = await shelves.open(series=SHORT)
    await wait(shelves, store)
    assert rows(shelves) == [[1, 2], [1, 2]]
    await shelves.drain(store)
    await wait(shelves, store, 1)
    assert rows(shelves) == [[], []]


async def test_an_idle_shelf_is_left_alone(shelves) -> None:
    """Looking costs no commit where nothing is to be forgotten."""
    store = await shelves.open(series=SHORT)
    await put(store, "a")
    await shelves.drain(store)
    await store.append([])
    before = store.status()["store"]["commits"]
    shelves.clock.advance(NS_PER_S)
    await store.tend()
    await asyncio.sleep(0)
    assert store.status()["store"]["commits"] == before


async def test_a_full_registry_makes_room(shelves) -> None:
    """A flood that took all of it is over; ten minutes after it was delivered, others find room again."""
    store = await shelves.open(max_series=20)
    await put(store, *(f"flood{k}" for k in range(20)))
    assert store.resolve(Series((), "new")) is None
    await wait(shelves, store)
    assert store.resolve(Series((), "new")) is None
    await shelves.drain(store)
    await wait(shelves, store, 1)
    await put(store, "new")
    status = store.status()["store"]
    assert status["series_refused"] == {"max_series": 2}
    assert status["series"] == 16
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_a_small_shelf_is_not_full_of_names(shelves) -> None:
    """Series take an eighth of it in memory, a quarter on the disk at most."""
    store = await shelves.open(max_bytes=1 << 20, max_series=10**6)
    names = [f"{k}" + "x" * 1000 for k in range(300)]
    numbers = [store.resolve(Series((), name)) for name in names]
    await store.append([])
    assert numbers.count(None) > 150
    assert store.status()["store"]["max_series_bytes"] == 1 << 17
    assert store.status()["store"]["used_bytes"] < 1 << 19
    put_bytes = await shelves.put(store, 100)
    assert await shelves.drain(store) == put_bytes


async def test_owners_share_the_series(shelves) -> None:
    """Who floods is turned away, the other is not."""
    store = await shelves.open(max_series=40, series=SeriesBounds(owners=("flood", "honest")))
    taken = [store.resolve(Series((), f"f{k}"), "flood") for k in range(50)]
    assert taken.count(None) == 20
    assert store.owner(taken[0]) == "flood"
    assert store.resolve(Series((), "honest"), "honest") is not None
    assert store.status()["store"]["series_refused"] == {"share": 20}
