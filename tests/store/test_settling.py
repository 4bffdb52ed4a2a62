"""What uplinks say of leases is counted at once, written by the next commit that succeeds, and never twice."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from gateway.core.contracts import FullError, Priority
from gateway.store import committer, settling
from gateway.store.reading import verify

if TYPE_CHECKING:
    from gateway.store.database import Store


async def test_a_lost_answer_is_counted_as_possibly_twice(shelves) -> None:
    """Released with doubt: sent again, and said so. A second release says nothing new."""
    store = await shelves.open()
    await shelves.put(store, 3)
    lease = await shelves.lease(store)
    store.release(lease, maybe_delivered=True)
    store.release(lease, maybe_delivered=True)
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 3
    assert store.status()["uplinks"]["cloud"]["held"] == 3


async def test_an_ack_settles_and_the_next_commit_deletes(shelves) -> None:
    """Delivered is counted at once; the row goes with the next commit, and nothing is left."""
    store = await shelves.open()
    await shelves.put(store, 3)
    store.ack(await shelves.lease(store))
    assert store.status()["uplinks"]["cloud"]["delivered"] == 3
    await store.append([])
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.segments, report.problems) == (0, [])
    assert report.uplinks == {"cloud": {"delivered": 3, "held": 0, "ledger": 0}}


async def test_rejected_readings_are_in_the_ledger(shelves) -> None:
    """A partial success is delivered but for the rejected ones, with the moment of losing them."""
    store = await shelves.open()
    await shelves.put(store, 5)
    store.ack(await shelves.lease(store), rejected=2, reason="partial")
    uplink = store.status()["uplinks"]["cloud"]
    assert (uplink["delivered"], uplink["ledger"]) == (3, {"partial": 2})
    assert uplink["losses"][0]["since_ns"] == shelves.clock.wall_ns()
    shelves.check(store)


async def test_who_says_what_was_lost_hears_of_each_lease_that_lost_any(shelves) -> None:
    """In the step in which it is counted, and once; of one that was delivered nothing is said."""
    store = await shelves.open()
    heard = []
    store.settling.on_lost = lambda lease, lost: heard.append((lease.uplink, lost, ledger(store)))
    for rejected in (0, 2, 9):
        await shelves.put(store, 3)
        lease = await shelves.lease(store)
        store.ack(lease, rejected=rejected)
        store.ack(lease, rejected=1)
    await shelves.put(store, 4)
    store.refuse(await shelves.lease(store), "refused", "no")
    assert heard == [("cloud", 2, 2), ("cloud", 3, 5), ("cloud", 4, 9)]


def ledger(store: Store) -> int:
    """Return how many readings are lost."""
    return sum(store.status()["uplinks"]["cloud"]["ledger"].values())


async def test_refused_segments_are_set_aside_and_do_not_block(shelves, numbers) -> None:
    """The next segment goes on; the refused one can be looked at."""
    store = await shelves.open()
    await shelves.put(store, 4)
    lease = await shelves.lease(store)
    store.refuse(lease, "status_400", "bad data")
    store.refuse(lease, "status_400", "bad data")
    put = await shelves.put(store, 1)
    assert numbers(await shelves.lease(store)) == put
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"status_400": 4}
    assert store.status()["store"]["refused"] == 1
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / "tidegate.db") as connection:
        assert connection.execute("SELECT uplink, reason, message, readings FROM refused").fetchall() == [
            ("cloud", "status_400", "bad data", 4)
        ]
    connection.close()


async def test_acks_and_refusals_survive_a_failed_commit(shelves, failing) -> None:
    """They are settled by the next, those that came meanwhile too."""
    store = await shelves.open(uplinks=("a", "b"))
    for _ in range(3):
        await shelves.put(store, 2)
    leases = [await shelves.lease(store, name, readings_max=2) for name in "ab" for _ in range(2)]
    store.ack(leases[0])
    store.refuse(leases[1], "no", "no")

    async def meanwhile() -> None:
        store.ack(leases[2])
        store.refuse(leases[3], "no", "later")

    failing.meanwhile = meanwhile
    failing.errors = [sqlite3.OperationalError("disk I/O error")]
    with pytest.raises(FullError):
        await store.append([])
    await store.append([])
    assert store.status()["store"]["refused"] == 2
    shelves.check(store)
    await shelves.close()
    report = verify(shelves.state_dir)
    assert report.problems == []
    assert report.segments == 1


async def test_too_many_acks_in_waiting_hold_the_next_lease(shelves, failing, monkeypatch) -> None:
    """Memory is bounded on a disk that takes no commits; many acks are worth a commit of their own."""
    monkeypatch.setattr(settling, "DONE_MAX", 2)
    monkeypatch.setattr(settling, "DONE_HELD_MAX", 3)
    store = await shelves.open()
    for _ in range(5):
        await shelves.put(store, 1)
    leases = [await shelves.lease(store, readings_max=1) for _ in range(3)]
    failing.errors = [sqlite3.OperationalError("disk I/O error")] * 100
    for lease in leases:
        store.ack(lease)
    # None is under way, and the next attempt is some time off.
    while (store._committer._due_s or 0) < asyncio.get_running_loop().time() + 0.5:
        await asyncio.sleep(0)
    # As when nothing could be written for a minute: what is not written down keeps nobody from leasing then.
    store._desks["cloud"].allowance.mute()
    waiting = asyncio.create_task(shelves.lease(store, readings_max=1))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert len(store.settling.done) == 3
    failing.errors.clear()
    assert (await asyncio.wait_for(waiting, 60)).readings == 1


async def test_acks_do_not_bring_a_stretched_commit_forward(shelves, monkeypatch) -> None:
    """They ride with the arrivals, however long these wait."""
    monkeypatch.setattr(committer, "ACK_WAIT_S", 0.01)
    store = await shelves.open()
    await shelves.put(store, 1)
    store.pace(interval_s=50, gap_s=50)
    lease = await shelves.lease(store)
    now_s = asyncio.get_running_loop().time()
    store.ack(lease)
    assert store._committer._due_s >= now_s + 50


async def test_an_ack_during_the_commit_of_another_uplinks_ack(shelves, failing) -> None:
    """What one has settled since stays settled when a commit says that the other has: nothing is leased twice."""
    store = await shelves.open(uplinks=("cloud", "archive"))
    await shelves.put(store, 3)
    store.ack(await shelves.lease(store, "cloud"))
    lease = await shelves.lease(store, "archive")

    async def meanwhile() -> None:
        store.ack(lease)

    failing.meanwhile = meanwhile
    await shelves.put(store, 1)
    store.link_up("archive")
    assert len(await shelves.drain(store, "archive")) == 1
    assert store.status()["uplinks"]["archive"]["delivered"] == 4
    shelves.check(store)


async def test_what_is_settled_is_held_no_more_in_its_class(shelves) -> None:
    """At once, delivered or refused; what is given back is held still."""
    store = await shelves.open()
    for priority, count in zip(Priority, (2, 3, 5), strict=True):
        await shelves.put(store, count, priority=priority)
    await store.append([], logs=shelves.logs(store, "10", "11"))
    assert shelves.by_class(store) == (4, 3, 5)
    leases = {}
    while (lease := await shelves.lease(store)) is not None:
        leases[lease.segments[0].priority, lease.readings] = lease
    assert shelves.by_class(store) == (4, 3, 5)
    store.ack(leases[Priority.BULK, 5], rejected=1)
    store.refuse(leases[Priority.NORMAL, 3], "status_400", "no")
    store.release(leases[Priority.CRITICAL, 2], maybe_delivered=True)
    assert shelves.by_class(store) == (4, 0, 0)
    shelves.check(store)


async def test_acks_alone_are_committed_in_time(shelves, monkeypatch) -> None:
    """Without arrivals to ride with, after a while."""
    monkeypatch.setattr(committer, "ACK_WAIT_S", 0.02)
    store = await shelves.open()
    await shelves.put(store, 1)
    before = store.status()["store"]["commits"]
    store.ack(await shelves.lease(store))
    deadline = asyncio.get_running_loop().time() + 60
    while store.status()["store"]["commits"] == before and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
    assert store.status()["store"]["commits"] == before + 1
