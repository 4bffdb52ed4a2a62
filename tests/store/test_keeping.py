"""Who has to go is found by reason, and never somebody who is being sent."""

from __future__ import annotations

import pytest

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError
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
    await shelves.put_noise(store, 600_000)
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
    await shelves.put_noise(store, 500_000)
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


async def test_where_letting_go_does_not_help_nobody_goes(shelves) -> None:
    """What comes is more than all that may go: it is told so, and what is held stays."""
    store = await shelves.open(max_bytes=Size(1 << 20))
    held = await shelves.put_noise(store, 100_000)
    with pytest.raises(FullError, match=r"what arrives is more than everything that could make way for it: \[store\]"):
        await shelves.put_noise(store, 2_000_000)
    assert store.status()["uplinks"]["cloud"]["held"] == held
    assert store.status()["uplinks"]["cloud"]["ledger"] == {}
    assert not store.is_taking
    assert store.is_writing
    await shelves.put(store, 1)
    assert store.is_taking
