"""Who has to go is found by reason, and never somebody who is being sent."""

from __future__ import annotations

import pytest

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.core.units import Size


async def test_what_is_too_old_makes_room_first(shelves) -> None:
    """Nobody is evicted where expiry is enough, and each has its own reason."""
    store = await shelves.open(max_bytes=Size(1 << 20), max_age=60)
    old = 0
    for _ in range(8):
        old += await shelves.put_noise(store, 60_000)
    shelves.clock.advance(100 * NS_PER_S)
    await store.tend()
    for _ in range(8):
        await shelves.put_noise(store, 60_000)
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"expired_age": old}
    await shelves.put_noise(store, 400_000)
    assert store.status()["uplinks"]["cloud"]["ledger"]["evicted_full"] > 0
    shelves.check(store)


async def test_both_reasons_in_one_commit(shelves) -> None:
    """A segment that is too old is not evicted as well."""
    store = await shelves.open(max_bytes=Size(1 << 20), max_age=60)
    old = await shelves.put_noise(store, 50_000)
    shelves.clock.advance(50 * NS_PER_S)
    for _ in range(9):
        await shelves.put_noise(store, 60_000)
    shelves.clock.advance(20 * NS_PER_S)
    await store._committer._keeper.tend()
    await shelves.put_noise(store, 400_000)
    ledger = store.status()["uplinks"]["cloud"]["ledger"]
    assert ledger["expired_age"] == old
    assert ledger["evicted_full"] > 0
    shelves.check(store)


async def test_what_is_sent_does_not_expire(shelves) -> None:
    """Only when it comes back."""
    store = await shelves.open(max_age=60)
    await shelves.put(store, 1)
    lease = await shelves.lease(store)
    shelves.clock.advance(100 * NS_PER_S)
    await store.tend()
    await store.append([])
    assert store.status()["uplinks"]["cloud"]["ledger"] == {}
    store.release(lease, maybe_delivered=False)
    await store.tend()
    await store.append([])
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"expired_age": 1}


async def fill_and_ack_the_important(shelves):
    """Return a full store whose critical part is acked, by no commit yet, and how much of bulk is held."""
    store = await shelves.open(max_bytes=Size(1 << 20))
    held = await shelves.put_noise(store, 200_000, priority=Priority.BULK)
    for _ in range(6):
        await shelves.put_noise(store, 90_000, priority=Priority.CRITICAL)
    # No lease asks for a commit, which would take away what is acked.
    store._desks["cloud"].allowance.mute()
    while (lease := await shelves.lease(store, readings_max=1)) is not None:
        if lease.segments[0].priority is Priority.CRITICAL:
            store.ack(lease)
    for lease in [*store._desks["cloud"].leases.values()]:
        store.release(lease, maybe_delivered=False)
    return store, held


async def test_nothing_goes_where_what_all_have_makes_room(shelves) -> None:
    """It leaves with the same commit: to let go of what nobody has, because it is bulk, would be a loss for nothing."""
    store, held = await fill_and_ack_the_important(shelves)
    await shelves.put_noise(store, 300_000)
    assert "evicted_full" not in store.status()["uplinks"]["cloud"]["ledger"]
    assert store.unleased("cloud") == held + 300_000 // 8


async def test_what_all_have_is_counted_before_anybody_is_looked_for(shelves) -> None:
    """Where the keeper is told; where that is not enough the others go, and never the same twice."""
    store, _ = await fill_and_ack_the_important(shelves)
    keeper, done = store._committer._keeper, store.settling.done
    assert await keeper.find_victims(300_000, done) == []
    found = await keeper.find_victims(300_000)
    assert [reason for reason, _ in found] == ["evicted_full"] * len(found) != []
    found = await keeper.find_victims(420_000, done)
    assert not {row.id for _, row in found} & {*done}


async def test_what_many_small_ones_take_beside_their_readings_makes_room_too(shelves) -> None:
    """More than a third of the shelf comes at once: all that lies there may go for it, with its rows and their pages."""
    store = await shelves.open(max_bytes=1 << 20)
    for _ in range(1200):
        await shelves.put(store, 10)
    await shelves.put_noise(store, 380 << 10)
    assert store.status()["uplinks"]["cloud"]["ledger"].keys() == {"evicted_full"}
    assert store.status()["store"]["used_bytes"] <= 1 << 20
    shelves.check(store)


async def test_more_at_once_than_fits_is_called_that(shelves) -> None:
    """Nothing is being sent, and letting go of all would not help: nothing goes, and the sentence says what to do."""
    store = await shelves.open(max_bytes=Size(1 << 20))
    await shelves.put_noise(store, 60_000)
    with pytest.raises(FullError, match="what arrives is more than everything.*raise it"):
        await shelves.put_noise(store, 700_000)
    assert store.status()["uplinks"]["cloud"]["ledger"] == {}
    shelves.check(store)
