"""What is found at the start is brought in line with the configuration and the clocks of today."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest

from gateway.core.batch import Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.store import membership, starting
from gateway.store.accounts import SERIES_MAX, decode_state, encode_state
from gateway.store.connection import DATABASE
from gateway.store.database import StoreError
from gateway.store.reading import verify
from gateway.store.records import STATE_ID


async def test_a_state_dir_has_had_too_many_uplinks(shelves, monkeypatch) -> None:
    """Each that ever was has a bit of its own in every row."""
    monkeypatch.setattr(membership, "SLOTS_MAX", 3)
    await shelves.open(uplinks=("a", "b"))
    await shelves.close()
    with pytest.raises(StoreError, match="3 different uplinks have used this state_dir"):
        await shelves.open(uplinks=("c",))
    await shelves.open(uplinks=("b",))


async def test_times_before_a_reboot_are_repaired_after_it(shelves) -> None:
    """What the first boot learnt about its clocks is still known in the second."""
    store = await shelves.open()
    await shelves.put(store, 1)
    moment, wall = shelves.clock.monotonic, shelves.clock.wall
    shelves.clock.advance(50 * NS_PER_S)
    await store.append([])
    await shelves.close()
    shelves.clock.reboot("boot-2", wall=0)
    store = await shelves.open()
    import numpy as np

    times, _ = store.timeline.repair(np.array([moment]), 1)
    assert times.tolist() == [wall]
    assert store.timeline.boots[0].last_ns == moment + 50 * NS_PER_S


async def test_a_ledger_row_of_another_type_is_damage(shelves) -> None:
    """The rest is salvaged, and what the row said is in the ledger as damaged."""
    store = await shelves.open()
    await shelves.put(store, 5)
    store.ack(await shelves.lease(store), rejected=2)
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("UPDATE ledger SET readings = 'two'")
    connection.close()
    store = await shelves.open()
    assert "other types" in store.events[0]
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"damaged": 2}
    shelves.check(store)


async def test_a_lease_of_what_is_gone_is_no_doubt(shelves) -> None:
    """Only what is still here can be sent again."""
    store = await shelves.open(max_age=60)
    await shelves.put(store, 1)
    await shelves.lease(store)
    await store.append([])
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("DELETE FROM shelf WHERE id < (SELECT max(id) FROM shelf)")
    connection.close()
    store = await shelves.open()
    assert "1 readings are held for cloud, 0 are there" in store.events[0]
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 0
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"damaged": 1}


async def test_of_what_was_leased_only_what_is_here_may_be_sent_twice(shelves, monkeypatch) -> None:
    """A large shelf is not counted through at its start: a lease of nothing is no event there either."""
    store = await shelves.open()
    for count in (1, 2):
        await shelves.put(store, count)
        await shelves.lease(store)
    await store.append([])
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("DELETE FROM shelf WHERE id = (SELECT min(id) FROM shelf)")
    connection.close()
    monkeypatch.setattr(starting, "SMALL_BYTES_MAX", 0)
    store = await shelves.open()
    assert [event.split(" may")[0] for event in store.events] == ["cloud: up to 2 readings"]
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 2
    assert len(await shelves.drain(store)) == 2


async def test_what_lies_within_another_lease_is_counted_once(shelves) -> None:
    """The newest goes first; what came later and what is older then go together."""
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.put(store, 2)
    newest = await shelves.lease(store)
    await shelves.put(store, 4)
    around = await shelves.lease(store)
    assert (newest.readings, around.readings) == (2, 5)
    await shelves.close()
    store = await shelves.open()
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 7


async def test_a_series_number_that_is_kept_for_none_is_damage(shelves) -> None:
    """The last one that fits: a shelf that believed it could name no new series any more."""
    store = await shelves.open()
    put = await shelves.put(store, 3)
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("INSERT INTO series SELECT ?, body FROM series", (SERIES_MAX,))
    connection.close()
    store = await shelves.open()
    assert f"{SERIES_MAX} is no series' number" in store.events[0]
    assert store.resolve(Series((), "new")) == 2
    assert await shelves.drain(store) == put


async def test_an_uplink_that_joins_an_empty_shelf_says_nothing(shelves) -> None:
    """No event where nothing happened."""
    store = await shelves.open(uplinks=("a",))
    assert store.events == []
    await shelves.close()
    assert (await shelves.open(uplinks=("a", "b"))).events == []


def change_shares(shelves, change) -> None:
    """Have every share in the state row say something else: the fields that `change` returns for it."""
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
        state = decode_state(body)
        state.shares = [msgspec.structs.replace(share, **change(share)) for share in state.shares]
        connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (encode_state(state), STATE_ID))
    connection.close()


@pytest.mark.parametrize(
    "said", [lambda _: (0, 0, 0), lambda share: (-1, 0, share.held + 1), lambda share: (share.held, 1, 0)]
)
async def test_what_is_held_of_each_class_is_counted_where_the_state_row_does_not_say(
    shelves, monkeypatch, said
) -> None:
    """An earlier version's does not, and a lie is as good: counted once, of all uplinks; then it is known."""
    store = await shelves.open(uplinks=("stays", "gone"))
    for priority, count in zip(Priority, (2, 3, 5), strict=True):
        await shelves.put(store, count, priority=priority)
    await store.append([], logs=shelves.logs(store, "11", "12", "13"))
    store.ack(await shelves.lease(store, "gone"))
    await shelves.close()
    store = await shelves.open(uplinks=("stays",))
    await shelves.put(store, 7, priority=Priority.BULK)
    kept = shelves.by_class(store, "gone")
    assert sum(kept) < 13
    store.ack(await shelves.lease(store, "stays"))
    left = shelves.by_class(store, "stays")
    await shelves.close()
    change_shares(shelves, lambda share: {"held_by_class": said(share)})
    for has_counted in (False, True):
        if has_counted:
            monkeypatch.setattr(membership, "count_lacking", None)
        store = await shelves.open(uplinks=("stays",))
        assert (shelves.by_class(store, "stays"), shelves.by_class(store, "gone")) == (left, kept)
        shelves.check(store)
        await shelves.close()
        assert verify(shelves.state_dir).problems == []


async def test_classes_that_do_not_make_up_what_is_held_are_made_to(shelves, monkeypatch) -> None:
    """On a large shelf that lost rows nobody looked for: what is there counts, and the rest is said to be normal."""
    store = await shelves.open()
    await shelves.put(store, 2, priority=Priority.CRITICAL)
    await shelves.put(store, 3, priority=Priority.BULK)
    await shelves.close()
    monkeypatch.setattr(starting, "SMALL_BYTES_MAX", 0)
    for held, by_class in ((9, (2, 4, 3)), (4, (1, 0, 3))):
        lie = {"held": held, "held_by_class": (0, 0, 0)}
        change_shares(shelves, lambda _, lie=lie: lie)
        with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
            ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
            state = msgspec.structs.replace(decode_state(body), accepted=held)
            connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (encode_state(state), STATE_ID))
        connection.close()
        store = await shelves.open()
        assert shelves.by_class(store) == by_class
        shelves.check(store)
        await shelves.close()
