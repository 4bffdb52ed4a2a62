"""Memory follows the medium: what went is not leased, what became something else is leased as that."""

from __future__ import annotations

import numpy as np

from gateway.core.batch import Batch
from gateway.core.contracts import Priority
from gateway.store.segments import decode_metrics
from gateway.store.writer import Transaction


async def test_what_is_hidden_is_not_leased_and_comes_back(shelves) -> None:
    """But not to those who have settled it."""
    store = await shelves.open(uplinks=("near", "far"))
    await shelves.put(store, 3)
    (segment_id,) = store.newest_segments
    effects = store._committer._effects
    effects.hide([segment_id])
    assert await shelves.lease(store, "near") is None
    assert await shelves.lease(store, "far") is None
    effects.show([segment_id], {segment_id: store._committer.accounts.shares["near"].bit})
    assert await shelves.lease(store, "near") is None
    lease = await shelves.lease(store, "far")
    assert [*lease.ids()] == [segment_id]


async def test_a_commit_of_nothing_changes_nothing(shelves) -> None:
    """Whatever it is told to have written."""
    store = await shelves.open()
    numbers = await shelves.put(store, 3)
    store._committer._effects.take_effect(Transaction(b""), now_s=0.0)
    assert await shelves.drain(store) == numbers


async def test_what_was_made_one_is_leased_as_one_from_memory(shelves) -> None:
    """The newest are at hand: they change with the disk."""
    store = await shelves.open(max_bytes=1 << 20, when_full="dilute", recent_bytes=4 << 20)
    rng = np.random.default_rng(4)
    count = 0
    while not store.status()["store"]["rewritten"]:
        batch = shelves.batch(store, shelves.numbers(1))
        values = rng.integers(-(2**62), 2**62, 3)
        await store.append([(Priority.NORMAL, Batch.of(int(batch.series[0]), shelves.clock.wall_ns() + count, values))])
        count += 3
    recent = store._committer._recent
    lease = await shelves.lease(store, readings_max=10**6)
    store.ack(lease)
    lease = await shelves.lease(store, readings_max=10**6)
    first = lease.segments[0]
    assert first.readings > 3
    assert recent.body(first.id) == first.body
    assert len(decode_metrics(first.body)) == first.readings
    assert recent.size_bytes == sum(len(kept.body) for kept in recent._kept.values())
