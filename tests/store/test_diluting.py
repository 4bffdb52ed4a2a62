"""A full shelf is written anew, many as one and then thinned, before anything goes; who, in which order, and what not."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.core.thinning import thin
from gateway.core.units import Size
from gateway.store import coarsening, diluting
from gateway.store.apart import Rest
from gateway.store.connection import DATABASE
from gateway.store.policy import Terms
from gateway.store.reading import read_held, verify
from gateway.store.records import STATE_ID, where_from
from gateway.store.room import Room
from gateway.store.segments import Form, decode_metrics, read_header
from gateway.store.taking import origin_of, taking

if TYPE_CHECKING:
    from gateway.store.database import Store

MIB = 1 << 20
SERIES = 5


class Plant:
    """Readings of five series, one a second each, that nothing compresses well; remembered as they came."""

    def __init__(self, shelves) -> None:
        self.shelves = shelves
        self.noise = np.random.default_rng(3)
        self.came: list[tuple[Priority, Batch]] = []

    async def put(self, store: Store, seconds: int = 600, *, priority: Priority = Priority.NORMAL) -> int:
        """Let time pass, and put what came in it in one commit."""
        self.shelves.clock.advance(seconds * NS_PER_S)
        numbers = [store.resolve(Series((), f"{priority.name}{k}")) for k in range(SERIES)]
        times = self.shelves.clock.wall_ns() - np.arange(seconds, 0, -1) * NS_PER_S
        values = self.noise.integers(0, 50_000, seconds * SERIES) / 100
        batch = Batch.of(np.tile(np.array(numbers, np.uint32), seconds), np.repeat(times, SERIES), values)
        await store.append([(priority, batch)])
        self.came.append((priority, batch))
        return len(batch)

    async def fill(self, store: Store, until: str = "diluted", **more) -> None:
        """Go on until the ledger says so."""
        for _ in range(2000):
            if store.status()["uplinks"]["cloud"]["ledger"].get(until):
                return
            await self.put(store, **more)
        pytest.fail(f"never {until}")

    def all_of(self, priority: Priority) -> Batch:
        return Batch.join([batch for of, batch in self.came if of is priority])


@pytest.fixture
def plant(shelves):
    return Plant(shelves)


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    """Half of what the least shelf may have, so that it is soon full."""
    monkeypatch.setattr(Room, "limit_bytes", property(lambda _: MIB // 2))


@pytest.fixture
async def store(shelves):
    return await shelves.open(max_bytes=MIB, when_full="dilute")


def steps_on(shelves) -> dict[Priority, list[int]]:
    """Return at which step each segment of readings is, the oldest first."""
    found: dict[Priority, list[int]] = {priority: [] for priority in Priority}
    with read_held(shelves.state_dir) as held:
        for segment in held:
            found[segment.priority].append(read_header(segment.body).step_s)
    return found


def rows_of(batch: Batch) -> set[tuple[int, int, int]]:
    return {*zip(batch.series.tolist(), batch.time_ns.tolist(), batch.bits.tolist(), strict=True)}


def ranges_of(batch: Batch) -> dict[int, tuple[float, float]]:
    values = batch.values()
    numbers = np.unique(batch.series).tolist()
    return {number: (values[batch.series == number].min(), values[batch.series == number].max()) for number in numbers}


async def leased(store, *, uplink: str = "cloud", **more) -> Batch:
    """Lease and ack all there is; return the readings."""
    found = []
    while (lease := await store.lease(uplink, readings_max=10**6, bytes_max=MIB, **more)) is not None:
        found += [decode_metrics(segment.body) for segment in lease.segments]
        store.ack(lease)
    return Batch.join(found)


async def test_rests_of_what_was_thinned_say_so_and_are_thinned_further(shelves, plant, store) -> None:
    """They stand in the chain of all that was written anew, and so does what becomes of them on a full shelf."""
    await plant.fill(store)
    # What is held is backlog now, and the oldest of it goes first.
    store.link_up("cloud")
    for _ in range(3):
        leases = [await store.lease("cloud", readings_max=4000, bytes_max=MIB) for _ in range(2)]
        rests = []
        for segment in (segment for lease in leases if lease is not None for segment in lease.segments):
            batch, step_s = decode_metrics(segment.body), read_header(segment.body).step_s
            few = batch.take(batch.series == batch.series[0])
            rests.append(Rest(segment.priority, few, step_s=step_s))
        await store.apart.keep("cloud", [lease for lease in leases if lease is not None], rests, put_off_s=0.0)
        shelves.check(store)
        assert any(rest.step_s for rest in rests)
    await shelves.close()
    report = verify(shelves.state_dir)
    assert report.problems == []
    with read_held(shelves.state_dir) as held:
        headers = [read_header(segment.body) for segment in held]
    # What came thinned says that it stands for itself.
    told = [one.ancestors for one in headers if one.step_s and one.ancestors is not None]
    assert any(
        (one.last_sequence, one.readings) == (header.sequence, header.readings) for header in headers for one in told
    )
    before = report.rewritten
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    for _ in range(60):
        await plant.put(store)
    shelves.check(store)
    await shelves.close()
    report = verify(shelves.state_dir)
    assert report.problems == []
    assert report.rewritten != before
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    assert len(await leased(store)) > 0
    shelves.check(store)


async def test_the_oldest_are_thinned_before_any_goes(shelves, plant, store) -> None:
    """Step by step: what came last is whole; of each series the least and greatest are there."""
    await plant.fill(store)
    for _ in range(150):
        await plant.put(store)
    account = store.status()["uplinks"]["cloud"]
    assert set(account["ledger"]) == {"diluted"}
    whole = plant.all_of(Priority.NORMAL)
    assert account["held"] + account["ledger"]["diluted"] == len(whole)
    steps = steps_on(shelves)[Priority.NORMAL]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 0 < steps[0]
    assert store.status()["store"]["used_bytes"] <= MIB
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.problems, report.diluted_from > report.diluted > 0) == ([], True)
    assert "diluted for want of room" in report.summary()
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    shelves.check(store)
    left = await leased(store)
    assert rows_of(left) < rows_of(whole)
    assert ranges_of(left) == ranges_of(whole)
    assert rows_of(thin(whole, 86_400 * NS_PER_S)) <= rows_of(left)
    shelves.check(store)


async def test_status_says_what_was_diluted_and_from_when_to_when(shelves, plant, store) -> None:
    """By class and step; and after a restart."""
    begin_ns = shelves.clock.wall_ns()
    await plant.fill(store)
    (said,) = store.status()["store"]["diluted"]
    assert (said["class"], said["step_s"]) == ("normal", 10)
    assert 0 <= said["first_ns"] - begin_ns <= NS_PER_S
    assert begin_ns < said["last_ns"] <= shelves.clock.wall_ns()
    (loss,) = store.status()["uplinks"]["cloud"]["losses"]
    assert loss["reason"] == "diluted"
    assert abs(loss["first_ns"] - said["first_ns"]) <= NS_PER_S
    assert abs(loss["last_ns"] - said["last_ns"]) <= NS_PER_S
    await shelves.close()
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    assert store.status()["store"]["diluted"] == [said]
    await leased(store)
    await store.tend()
    await store.append([])
    await store.tend()
    await store.append([])
    assert store.status()["store"]["diluted"] == []


async def test_the_least_important_are_thinned_first(shelves, plant, store) -> None:
    """However old the others are."""
    await plant.put(store, priority=Priority.CRITICAL)
    await plant.put(store)
    await plant.fill(store, priority=Priority.BULK)
    for _ in range(50):
        await plant.put(store, priority=Priority.BULK)
    steps = steps_on(shelves)
    assert steps[Priority.CRITICAL] == steps[Priority.NORMAL] == [0]
    assert max(steps[Priority.BULK]) > 0


async def test_many_small_ones_become_one_before_anything_is_thinned(shelves, plant, store) -> None:
    """Of a few readings each most is their heads: that alone makes room for many times as many."""
    for _ in range(3000):
        await plant.put(store, 1)
    status = store.status()
    assert status["uplinks"]["cloud"]["ledger"] == {}
    assert status["store"]["rewritten"] > 0
    assert status["store"]["diluted"] == []
    assert verify(shelves.state_dir).problems == []
    assert rows_of(await leased(store)) == rows_of(plant.all_of(Priority.NORMAL))
    assert store.status()["uplinks"]["cloud"]["delivered"] == 3000 * SERIES


@pytest.mark.parametrize(("seconds", "commits", "expected"), [(1, 3000, set()), (60, 1500, {"diluted"})])
async def test_what_is_told_apart_is_as_if_it_lay_there_alone(shelves, seconds, commits, expected) -> None:
    """Segments of two mappings that lie alternately are joined and thinned each with its own, and nothing goes."""
    takes = {"some": taking(mappings=["x"])}
    plants = {name: Plant(shelves) for name in ("x", "y")}
    opening = {"uplinks": ("cloud", "some"), "takes": takes, "max_bytes": MIB, "when_full": "dilute"}
    store = await shelves.open(**opening)
    for _ in range(commits):
        shelves.clock.advance(seconds * NS_PER_S)
        pieces = []
        for name, plant in plants.items():
            times = shelves.clock.wall_ns() - np.arange(seconds, 0, -1) * NS_PER_S
            batch = Batch.of(store.resolve(Series((), name)), times, plant.noise.integers(0, 50_000, seconds) / 100)
            pieces.append((Priority.NORMAL, replace(batch, origin=origin_of(name))))
            plant.came.append(pieces[-1])
        await store.append(pieces)
    status = store.status()
    assert status["store"]["rewritten"] > 0
    assert status["store"]["used_bytes"] <= MIB
    for uplink in status["uplinks"].values():
        assert set(uplink["ledger"]) == expected
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open(**opening)
    whole = {name: plant.all_of(Priority.NORMAL) for name, plant in plants.items()}
    left = await leased(store)
    assert ranges_of(left) == ranges_of(whole["x"]) | ranges_of(whole["y"])
    left = await leased(store, uplink="some")
    assert rows_of(left) <= rows_of(whole["x"])
    assert ranges_of(left) == ranges_of(whole["x"])
    shelves.check(store)


async def test_only_when_nothing_can_be_thinned_any_more_the_oldest_go(shelves, store) -> None:
    """What is one reading of each of many series stays what it is, at any step."""
    numbers = np.array([store.resolve(Series((), f"m{k}")) for k in range(100)], np.uint32)
    count = 0
    rng = np.random.default_rng(1)
    while not store.status()["uplinks"]["cloud"]["ledger"].get("evicted_full"):
        shelves.clock.advance(86_400 // 4 * NS_PER_S)
        values = rng.integers(-(2**62), 2**62, 100)
        await store.append([(Priority.NORMAL, Batch.of(numbers, shelves.clock.wall_ns(), values))])
        count += 1
        assert count < 3000
    assert set(store.status()["uplinks"]["cloud"]["ledger"]) == {"evicted_full"}
    assert store.status()["store"]["used_bytes"] <= MIB
    shelves.check(store)


@pytest.mark.parametrize(("seconds", "more"), [(2, 12_000), (10, 12_000), (60, 6_000), (600, 600)])
async def test_a_shelf_that_was_filled_before_there_was_thinning_takes_what_comes(shelves, plant, seconds, more):
    """All of it is small and can become one; what makes room for that must not be barred by it."""
    store = await shelves.open(max_bytes=MIB)
    await plant.fill(store, "evicted_full", seconds=seconds)
    await shelves.close()
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    for _ in range(40):
        await plant.put(store, more)
    shelves.check(store)


async def test_where_the_bound_was_lowered_all_is_thinned_again_and_again_before_any_goes(
    shelves, plant, monkeypatch
) -> None:
    """All of it becomes half in one commit, which is not enough yet: the next ones go on with that."""
    monkeypatch.setattr(Room, "limit_bytes", property(lambda room: room._max_bytes))
    store = await shelves.open(max_bytes=MIB * 3 // 2, when_full="dilute")
    number = store.resolve(Series((), "m"))
    for _ in range(10):
        shelves.clock.advance(12_000 * NS_PER_S)
        times = shelves.clock.wall_ns() - np.arange(12_000, 0, -1) * NS_PER_S
        values = plant.noise.integers(-(2**62), 2**62, 12_000)
        await store.append([(Priority.NORMAL, Batch.of(number, times, values))])
    store._committer.room._max_bytes = MIB * 3 // 4
    for _ in range(9):
        await plant.put(store, 1)
    account = store.status()["uplinks"]["cloud"]
    assert set(account["ledger"]) == {"diluted"}
    assert store.status()["store"]["used_bytes"] <= MIB * 3 // 4
    shelves.check(store)


async def test_what_is_put_off_becomes_part_of_nothing_else(shelves, plant, store) -> None:
    """Its neighbours, at which no receiver fails, are not to wait with it, and it is not to come back with them."""
    for _ in range(3):
        await plant.put(store)
    first = await shelves.lease(store, readings_max=1)
    second = await shelves.lease(store, readings_max=1)
    store.release(first, maybe_delivered=False)
    store.release(second, maybe_delivered=False, put_off_s=600.0)
    (put_off,) = second.ids()
    await plant.fill(store)
    for _ in range(100):
        await plant.put(store)
    with read_held(shelves.state_dir) as held:
        ancestors = {segment.id: read_header(segment.body).ancestors for segment in held}
    reached = ancestors[put_off]
    assert reached is None or reached.last_sequence == where_from(put_off)[2]
    assert any(of is not None for of in ancestors.values())
    shelves.check(store)


async def test_what_is_being_sent_is_not_touched(shelves, plant, store) -> None:
    """It is thinned when it is given back, and not before."""
    await plant.put(store)
    await plant.put(store)
    lease = await shelves.lease(store, readings_max=10**6)
    ids = set(lease.ids())
    bodies = {segment.id: segment.body for segment in lease.segments}
    await plant.fill(store)
    for _ in range(40):
        await plant.put(store)
    on_disk = dict(rows_on_disk(shelves))
    assert {segment_id: on_disk[segment_id] for segment_id in ids} == bodies
    store.release(lease, maybe_delivered=False)
    for _ in range(400):
        await plant.put(store)
    assert all(dict(rows_on_disk(shelves)).get(segment_id) != bodies[segment_id] for segment_id in ids)
    shelves.check(store)


async def put_what_cannot_be_thinned(shelves, store) -> None:
    """One reading of each of many series, four times a day."""
    numbers = np.array([store.resolve(Series((), f"m{k}")) for k in range(90)], np.uint32)
    shelves.clock.advance(86_400 // 4 * NS_PER_S)
    values = np.random.default_rng(1).integers(-(2**62), 2**62, 90)
    await store.append([(Priority.NORMAL, Batch.of(numbers, shelves.clock.wall_ns(), values))])


async def test_what_was_given_back_is_thinned_before_any_more_goes(shelves, plant, store) -> None:
    """It was passed over while somebody was sending it, and then there was nothing else."""
    for _ in range(20):
        await plant.put(store)
    # The newest has its turn first; then the oldest.
    store.ack(await shelves.lease(store))
    lease = await shelves.lease(store, readings_max=10**6)
    for _ in range(2000):
        if store.status()["uplinks"]["cloud"]["ledger"]:
            break
        await put_what_cannot_be_thinned(shelves, store)
    assert set(store.status()["uplinks"]["cloud"]["ledger"]) == {"evicted_full"}
    evicted = store.status()["uplinks"]["cloud"]["ledger"]["evicted_full"]
    store.release(lease, maybe_delivered=False)
    for _ in range(100):
        await put_what_cannot_be_thinned(shelves, store)
        ledger = store.status()["uplinks"]["cloud"]["ledger"]
        if ledger.get("diluted"):
            break
    assert ledger["diluted"] > 0
    assert ledger["evicted_full"] == evicted
    shelves.check(store)


def rows_on_disk(shelves) -> list[tuple[int, bytes]]:
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    try:
        return connection.execute("SELECT id, body FROM shelf WHERE id < ? ORDER BY id", (STATE_ID,)).fetchall()
    finally:
        connection.close()


async def test_who_begins_to_be_sent_meanwhile_is_left_out(shelves, plant, store) -> None:
    """Between being looked at and the commit somebody may have begun."""
    for _ in range(15):
        await plant.put(store)
    # The newest has its turn first; then the oldest.
    store.ack(await shelves.lease(store))
    keeper = store._committer._keeper
    real, taken = keeper.diluter.next, []

    async def find():
        found = await real()
        if found is not None and not taken:
            taken.append(await store.lease("cloud", readings_max=1, bytes_max=MIB, may_wait=False))
            assert {*taken[0].ids()} <= {*found.ids}
        return found

    keeper.diluter.next = find
    while not taken:
        await plant.put(store)
    store.ack(taken[0])
    keeper.diluter.next = real
    await store.append([])
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_each_uplink_that_lacks_it_has_it_in_its_ledger_once(shelves, plant) -> None:
    """One that had it by then has not lost it."""
    store = await shelves.open(uplinks=("cloud", "spare"), max_bytes=MIB, when_full="dilute")
    for _ in range(20):
        await plant.put(store)
    while (lease := await shelves.lease(store, "spare", readings_max=30_000)) is not None:
        store.ack(lease)
    delivered = store.status()["uplinks"]["spare"]["delivered"]
    await plant.fill(store)
    shelves.check(store)
    uplinks = store.status()["uplinks"]
    assert uplinks["spare"]["ledger"] == {}
    assert uplinks["spare"]["delivered"] == delivered
    assert uplinks["cloud"]["ledger"]["diluted"] > 0
    for _ in range(200):
        await plant.put(store)
    shelves.check(store)
    uplinks = store.status()["uplinks"]
    assert 0 < uplinks["spare"]["ledger"]["diluted"] < uplinks["cloud"]["ledger"]["diluted"]
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_what_tells_of_a_finding_is_whole_as_long_as_there_is_something_else(shelves, plant, store) -> None:
    """Also across a restart, and whatever class it is of."""
    store.evidence.keep("cloud", 30.0)
    for _ in range(5):
        await plant.put(store, priority=Priority.BULK)
    evidence = plant.all_of(Priority.BULK)
    store.evidence.found()
    for _ in range(20):
        await store.append([])
    store._committer.moments._evidence_until_s = float("-inf")
    await plant.fill(store)
    await shelves.close()
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    for _ in range(300):
        await plant.put(store)
    steps = steps_on(shelves)
    assert steps[Priority.BULK] == [0] * len(steps[Priority.BULK])
    left = [decode_metrics(body) for number, body in rows_on_disk(shelves) if where_from(number)[0] is Priority.BULK]
    assert rows_of(Batch.join(left)) == rows_of(evidence)
    assert max(steps[Priority.NORMAL]) > 10


async def test_logs_and_messages_are_kept_as_they_are(shelves, plant, store) -> None:
    """Nobody knows which of them stand for the others."""
    await store.append([], logs=shelves.logs(store, "7", "8"))
    await store.append([], records=[(Priority.BULK, shelves.messages(b"a" * 3000, b"b" * 3000))])
    before = rows_on_disk(shelves)
    await plant.fill(store)
    await plant.fill(store, priority=Priority.BULK)
    for _ in range(100):
        await plant.put(store, priority=Priority.BULK)
    now = rows_on_disk(shelves)
    assert all(row in now for row in before)
    forms = {read_header(body).form for _, body in before}
    assert forms == {Form.COLUMNS, Form.MESSAGES}


async def test_what_was_sent_thinned_is_diluted_like_all_else(shelves, plant, store) -> None:
    """Neighbours that were not are not made one with it: of them nothing is upstream."""
    for _ in range(40):
        await plant.put(store)
    store.ack(await shelves.lease(store))
    terms = Terms(step_s=((60.0,) * 3,) * 2 + ((0.0,) * 3,) * 2)
    lease = await store.lease("cloud", readings_max=10**6, bytes_max=MIB, terms=terms)
    assert lease.step_s
    store.thinned(lease, readings=5)
    ((first, last),) = store._desks["cloud"].thinned
    await plant.fill(store)
    shelves.check(store)
    for number, body in rows_on_disk(shelves):
        ancestors = read_header(body).ancestors
        if ancestors is not None:
            end = number - where_from(number)[2] + ancestors.last_sequence
            assert (first <= number <= last) == (first <= end <= last)


async def test_what_became_one_is_of_one_boot_and_nearly_one_age(shelves, plant) -> None:
    """A segment has one clock, and goes as one when it is too old."""
    store = await shelves.open(max_bytes=MIB, when_full="dilute", max_age=32 * 3600.0)
    for _ in range(40):
        await plant.put(store)
    await shelves.close()
    shelves.clock.reboot("another", wall=shelves.clock.wall + 60 * NS_PER_S, synced=True)
    store = await shelves.open(max_bytes=MIB, when_full="dilute", max_age=32 * 3600.0)
    await plant.fill(store)
    for _ in range(20):
        await plant.put(store)
    spans = []
    for _, body in rows_on_disk(shelves):
        header = read_header(body)
        if header.ancestors is not None:
            spans.append(header.last_ns - header.first_ns)
    assert 0 < max(spans) <= (3600 + 600) * NS_PER_S
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_a_commit_that_fails_has_changed_nothing(shelves, plant, store, failing) -> None:
    """What was to be written anew is held as it was, and can be leased."""
    await plant.fill(store)
    before = store.status()["uplinks"]["cloud"]
    rows = rows_on_disk(shelves)
    failing.errors = [sqlite3.OperationalError("disk I/O error")] * 3
    work = []
    real = failing.real

    async def look(connection, transaction):
        work.append(len(transaction.rewritten))
        return await real(connection, transaction)

    while failing.errors:
        with pytest.raises(Exception, match="disk I/O"):
            await plant.put(store)
        plant.came.pop()
        assert rows_on_disk(shelves) == rows
    assert store.status()["uplinks"]["cloud"]["ledger"] == before["ledger"]
    failing.real = look
    while not any(work):
        await plant.put(store)
    shelves.check(store)
    assert len(await leased(store)) == store.status()["uplinks"]["cloud"]["delivered"]
    shelves.check(store)


async def test_it_is_done_on_the_newest_too_where_the_shelf_is_small(shelves, plant) -> None:
    """What is at hand in memory is what is on the disk."""
    store = await shelves.open(max_bytes=MIB, when_full="dilute", recent_bytes=Size(2 * MIB))
    await plant.fill(store)
    for _ in range(100):
        await plant.put(store)
    bodies = dict(rows_on_disk(shelves))
    lease = await shelves.lease(store, readings_max=10**6)
    assert {segment.id: segment.body for segment in lease.segments}.items() <= bodies.items()
    store.release(lease, maybe_delivered=False)
    assert len(await leased(store)) == store.status()["uplinks"]["cloud"]["delivered"]
    shelves.check(store)


async def test_one_commit_looks_at_so_much_and_goes_on_with_the_next(shelves, plant, store, monkeypatch) -> None:
    """A bound that was lowered by much is kept by and by; nothing goes that can be thinned."""
    for _ in range(50):
        await plant.put(store)
    await shelves.close()
    monkeypatch.setattr(diluting, "LOOK_BYTES_MAX", 80_000)
    used = store.status()["store"]["used_bytes"]
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    monkeypatch.setattr(Room, "limit_bytes", property(lambda _: used * 2 // 3))
    for _ in range(12):
        await plant.put(store, 60)
    assert set(store.status()["uplinks"]["cloud"]["ledger"]) == {"diluted"}
    assert store.status()["store"]["used_bytes"] < used


async def test_one_commit_decodes_so_much_and_no_more(plant, store, monkeypatch) -> None:
    """However little there is in each: a commit waits for that."""
    decoded = []

    def join(bodies, *, real=diluting.join):
        decoded.append(len(bodies))
        return real(bodies)

    monkeypatch.setattr(diluting, "join", join)
    for _ in range(3000):
        await plant.put(store, 1)
    assert store.status()["store"]["rewritten"] > 3
    assert max(decoded) * diluting.SEGMENT_READINGS <= diluting.READINGS_MAX


async def test_where_no_step_is_worth_it_a_commit_tries_few(shelves, store, monkeypatch) -> None:
    """To try all steps takes long; and until all has been looked at no more goes than has to."""
    tried = [0]

    def coarsen(bodies, *, real=diluting.coarsen, **more):
        tried[-1] += sum(diluting.SEGMENT_READINGS + read_header(body).readings for body in bodies)
        return real(bodies, **more)

    monkeypatch.setattr(diluting, "coarsen", coarsen)
    monkeypatch.setattr(diluting, "LOOK_READINGS_MAX", 3000)
    used = []
    for _ in range(2000):
        await put_what_cannot_be_thinned(shelves, store)
        tried.append(0)
        used.append(store.status()["store"]["used_bytes"])
        if sum(map(bool, tried)) > 10:
            break
    assert 0 < max(tried) <= 6000
    went = max(before - after for before, after in itertools.pairwise(used))
    assert went < MIB // 2 // 64
    shelves.check(store)


async def test_more_series_than_one_segment_may_have_are_thinned_all_the_same(shelves, monkeypatch) -> None:
    """They become several, each with some of the series; none goes, and no series is forgotten that is held."""
    monkeypatch.setattr(coarsening, "READINGS_MAX", 400)
    monkeypatch.setattr(coarsening, "WIDE_SERIES", 100)
    monkeypatch.setattr(diluting, "READINGS_MAX", 1500)
    monkeypatch.setattr(diluting, "SEGMENT_READINGS", 10)
    monkeypatch.setattr(diluting, "LOOK_READINGS_MAX", 100_000)
    store = await shelves.open(max_bytes=MIB, when_full="dilute", max_series=1000)
    noise = np.random.default_rng(3)
    numbers = np.array([store.resolve(Series((), f"m{k}")) for k in range(250)], np.uint32)
    came = []
    for _ in range(2500):
        shelves.clock.advance(NS_PER_S)
        came.append(Batch.of(numbers, shelves.clock.wall_ns(), noise.integers(0, 50_000, 250) / 100))
        await store.append([(Priority.NORMAL, came[-1])])
    status = store.status()
    assert set(status["uplinks"]["cloud"]["ledger"]) == {"diluted"}
    assert status["store"]["used_bytes"] <= MIB
    assert verify(shelves.state_dir).problems == []
    await store.tend()
    await store.append([])
    whole = Batch.join(came)
    left = await leased(store)
    assert rows_of(left) < rows_of(whole)
    assert ranges_of(left) == ranges_of(whole)
    shelves.check(store)


async def test_rows_that_are_not_ours_are_passed_over(shelves, plant, store) -> None:
    """Whoever leases them finds out; what stands around them is thinned all the same."""
    for _ in range(12):
        await plant.put(store)
    ids = [number for number, _ in rows_on_disk(shelves)]
    for sql, segment_id in [
        ("UPDATE shelf SET body = 'text' WHERE id = ?", ids[1]),
        ("UPDATE shelf SET body = x'00' WHERE id = ?", ids[2]),
        ("UPDATE shelf SET readings = readings + 1 WHERE id = ?", ids[4]),
        ("UPDATE shelf SET body = substr(body, 1, 500) WHERE id = ?", ids[8]),
    ]:
        await store._connection.execute_fetchall(sql, (segment_id,))
    await plant.fill(store)
    for _ in range(60):
        await plant.put(store)
    now = dict(rows_on_disk(shelves))
    assert {ids[1], ids[2], ids[4], ids[8]} <= now.keys()
    assert max(read_header(body).step_s for number, body in now.items() if number not in ids[:9]) > 0


async def test_a_finding_that_is_made_meanwhile_keeps_it_whole(shelves, plant, store) -> None:
    """Between being looked at and the commit."""
    await plant.fill(store)
    keeper = store._committer._keeper
    real, found = keeper.diluter.next, []

    async def find():
        rewriting = await real()
        if rewriting is not None and not found:
            found.append(rewriting)
            sequences = [member.row.sequence for member in rewriting.members]
            store._committer.moments.evidence.add(sequences[0], sequences[-1])
        return rewriting

    keeper.diluter.next = find
    before = {}
    while not found:
        before = dict(rows_on_disk(shelves))
        await plant.put(store)
    now = dict(rows_on_disk(shelves))
    assert all(now[segment_id] == before[segment_id] for segment_id in found[0].ids)
    shelves.check(store)


async def test_with_drop_oldest_nothing_is_written_anew(shelves, plant) -> None:
    """It is what was asked for."""
    store = await shelves.open(max_bytes=MIB, when_full="drop_oldest")
    await plant.fill(store, "evicted_full")
    assert store.status()["store"]["rewritten"] == 0
    assert set(store.status()["uplinks"]["cloud"]["ledger"]) == {"evicted_full"}


async def test_a_class_with_too_many_series_to_be_thinned_is_said(shelves, monkeypatch) -> None:
    """Its oldest readings go; where what is looked at can be thinned nothing is said any more."""
    monkeypatch.setattr(coarsening, "READINGS_MAX", 400)
    monkeypatch.setattr(coarsening, "WIDE_SERIES", 100)
    monkeypatch.setattr(coarsening, "PARTS_MAX", 2)
    monkeypatch.setattr(diluting, "READINGS_MAX", 1500)
    monkeypatch.setattr(diluting, "SEGMENT_READINGS", 10)
    monkeypatch.setattr(diluting, "LOOK_READINGS_MAX", 100_000)
    store = await shelves.open(max_bytes=MIB, when_full="dilute", max_series=1000)
    noise = np.random.default_rng(3)
    numbers = np.array([store.resolve(Series((), f"m{k}")) for k in range(300)], np.uint32)

    async def put_until(condition) -> None:
        for _ in range(3000):
            shelves.clock.advance(NS_PER_S)
            values = noise.integers(0, 50_000, 300) / 100
            await store.append([(Priority.NORMAL, Batch.of(numbers, shelves.clock.wall_ns(), values))])
            status = store.status()
            if condition(status["store"]["too_many_series"], status["uplinks"]["cloud"]["ledger"]):
                return
        raise AssertionError("it never came to that")

    await put_until(lambda many, ledger: many and ledger.get("evicted_full"))
    assert store.status()["store"]["too_many_series"] == {"normal": 300}
    shelves.check(store)
    monkeypatch.setattr(coarsening, "PARTS_MAX", 8)
    await put_until(lambda many, ledger: not many and ledger.get("diluted"))
    shelves.check(store)
