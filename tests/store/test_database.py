"""The store from outside: what was accepted is kept, sent in the right order, and counted."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import deque

import pytest

from gateway.core.clock import NS_PER_S, Quality
from gateway.core.contracts import FullError, Priority, Signal
from gateway.core.units import Size
from gateway.store import committer, disks
from gateway.store.accounts import UNSENT_EVIDENCE_MAX
from gateway.store.database import Loss, SetAside, StoreError
from gateway.store.leases import EVIDENCE_MAX
from gateway.store.policy import Terms
from gateway.store.reading import verify
from gateway.store.records import where_from
from gateway.store.segments import decode
from gateway.store.shelf import ShelfReader
from gateway.store.writer import SEGMENT_READINGS_MAX


async def test_what_was_appended_is_leased(shelves, numbers) -> None:
    """One lease brings it back, bit by bit."""
    store = await shelves.open()
    put = await shelves.put(store, 10)
    lease = await shelves.lease(store)
    assert numbers(lease) == put
    assert (lease.uplink, lease.lane, lease.signal, lease.readings) == ("cloud", "live", Signal.METRICS, 10)
    assert repr(lease.segments[0].id)


async def test_an_empty_append_returns(shelves) -> None:
    """Nothing to keep is kept at once."""
    store = await shelves.open()
    await store.append([])
    assert store.status()["accepted"] == 0


async def test_what_is_leased_is_not_leased_again_before_its_release(shelves, numbers) -> None:
    """Two senders never have the same segment."""
    store = await shelves.open()
    put = await shelves.put(store, 3)
    lease = await shelves.lease(store)
    assert await shelves.lease(store) is None
    store.release(lease, maybe_delivered=False)
    assert numbers(await shelves.lease(store)) == put


async def test_malformed_payloads_count_for_every_uplink_and_can_be_looked_at(shelves) -> None:
    """Accepted and lost: the accounts of both uplinks add up, and the quarantine shows the newest first."""
    store = await shelves.open(uplinks=("a", "b"))
    for number in range(2):
        await store.append(
            [], losses=[Loss("syntax", 1, 5, 5)], set_aside=[SetAside("plant", b"t", b"{%d" % number, "syntax", "no")]
        )
    assert store.status()["accepted"] == 2
    shelves.check(store)
    found = await store.quarantined(limit=1)
    assert [(q.at_ns, q.what.payload, q.what.reason) for q in found] == [(shelves.clock.wall_ns(), b"{1", "syntax")]


async def test_appends_of_one_window_share_a_commit(shelves) -> None:
    """A hundred waiters, one transaction more, one segment."""
    store = await shelves.open(commit_interval_s=0.05)
    before = store.status()["store"]["commits"]
    await asyncio.gather(*(shelves.put(store, 2) for _ in range(100)))
    assert store.status()["store"]["commits"] == before + 1
    assert len((await shelves.lease(store)).segments) == 1


async def test_logs_are_segments_of_their_own(shelves, numbers) -> None:
    """One lease carries one signal; log records are accepted and delivered like readings."""
    store = await shelves.open()
    put = await shelves.put(store, 2, logs=shelves.logs(store, "901", "902"))
    assert store.status()["accepted"] == 4
    first, second = await shelves.lease(store), await shelves.lease(store)
    assert {first.signal, second.signal} == {Signal.LOGS, Signal.METRICS}
    assert sorted(numbers(first) + numbers(second)) == [*put, 901, 902]


async def test_otlp_messages_are_leased_as_they_came(shelves) -> None:
    """Each signal by itself; what the mappings made of the same signal may stand in the same lease."""
    store = await shelves.open()
    numbers = await shelves.put(store, 2, records=[(Priority.NORMAL, shelves.messages(b"m", signal=Signal.METRICS))])
    await store.append([], records=[(Priority.NORMAL, shelves.messages(b"s1", b"s2", count=3))])
    found = {}
    while (lease := await shelves.lease(store)) is not None:
        found.setdefault(lease.signal, []).extend(decode(segment.body) for segment in lease.segments)
        store.ack(lease)
    columns, messages = sorted(found[Signal.METRICS], key=len, reverse=True)
    assert (columns.bits.tolist(), messages.bodies) == (numbers, (b"m",))
    (spans,) = found[Signal.TRACES]
    assert (spans.bodies, len(spans)) == ((b"s1", b"s2"), 6)
    assert store.accepted == 9
    shelves.check(store)


async def test_only_columns_can_be_traced_to_their_message(shelves) -> None:
    """OTLP messages beside them came by another door."""
    store = await shelves.open()
    await shelves.put(store, 2, records=[(Priority.NORMAL, shelves.messages(b"m", signal=Signal.METRICS))])
    (segment_id,) = store.newest_segments
    assert where_from(segment_id) == (Priority.NORMAL, Signal.METRICS, 1)


async def test_large_appends_become_several_segments(shelves) -> None:
    """A segment stays small enough to be sent."""
    store = await shelves.open()
    put = await shelves.put(store, 2 * SEGMENT_READINGS_MAX + 50)
    lease = await shelves.lease(store, readings_max=100)
    assert lease.readings == 50  # the newest goes first
    store.release(lease, maybe_delivered=False)
    assert sorted(await shelves.drain(store)) == put


async def test_nothing_is_sent_twice_nor_forgotten_over_a_restart(shelves) -> None:
    """What was acked is gone, what was leased or waiting is there, in order."""
    store = await shelves.open()
    acked = await shelves.put(store, 2)
    store.ack(await shelves.lease(store))
    left = await shelves.put(store, 2) + await shelves.put(store, 2)
    await shelves.lease(store, readings_max=2)
    await shelves.close()
    store = await shelves.open()
    assert store.status()["uplinks"]["cloud"]["delivered"] == len(acked)
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 2
    assert "up to 2 readings may have been sent" in store.events[0]
    assert sorted(await shelves.drain(store)) == left


async def test_after_link_up_the_newest_goes_first_then_live_and_backlog_share(shelves, numbers) -> None:
    """What came before is backlog; what comes now is live; both flow."""
    store = await shelves.open(backlog_share=0.5)
    old = [await shelves.put(store, 1) for _ in range(6)]
    store.link_up("cloud")
    first = await shelves.lease(store, readings_max=1)
    assert (first.lane, numbers(first)) == ("backlog", old[5])
    new = [await shelves.put(store, 1) for _ in range(3)]
    order = []
    while (lease := await shelves.lease(store, readings_max=1)) is not None:
        order.append((str(lease.lane), numbers(lease)))
        store.ack(lease)
    assert [n for lane, n in order if lane == "live"] == new
    assert [n for lane, n in order if lane == "backlog"] == old[:5]
    assert {lane for lane, _ in order[:3]} == {"live", "backlog"}


async def test_an_uplink_may_have_a_share_of_its_own(shelves) -> None:
    """The backlog of one that has none for it waits until nothing live does; the other is as the store says."""
    store = await shelves.open(uplinks=("cloud", "archive"), backlog_share=0.9)
    store.share_backlog("cloud", 0.0)
    for _ in range(4):
        await shelves.put(store, 1)
    for name in ("cloud", "archive"):
        store.link_up(name)
        store.ack(await shelves.lease(store, name, readings_max=1))
    for _ in range(3):
        await shelves.put(store, 1)
    lanes = {
        name: [(await shelves.lease(store, name, readings_max=1)).lane for _ in range(6)]
        for name in ("cloud", "archive")
    }
    assert lanes["cloud"] == ["live"] * 3 + ["backlog"] * 3
    assert lanes["archive"][:3].count("backlog") == 2


async def test_critical_overtakes(shelves) -> None:
    """The class that matters most is not behind the others."""
    store = await shelves.open()
    await shelves.put(store, 1, priority=Priority.BULK)
    await shelves.put(store, 1, priority=Priority.CRITICAL)
    assert (await shelves.lease(store)).segments[0].priority is Priority.CRITICAL


async def test_waiting_for_something_to_send(shelves) -> None:
    """`wait_held` returns when something is committed, and not before."""
    store = await shelves.open()
    assert await shelves.lease(store) is None
    waiting = asyncio.create_task(store.wait_held("cloud"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await shelves.put(store, 1)
    await asyncio.wait_for(waiting, 60)


async def test_a_backlog_is_drained_from_disk(shelves) -> None:
    """More than memory keeps comes back complete and in order."""
    store = await shelves.open(recent_bytes=500)
    put = [n for _ in range(30) for n in await shelves.put(store, 5)]
    await shelves.close()
    store = await shelves.open(recent_bytes=500)
    put += [n for _ in range(30) for n in await shelves.put(store, 5)]
    assert sorted(await shelves.drain(store)) == put
    shelves.check(store)


@pytest.mark.parametrize(("recent_bytes", "from_disk"), [(100_000, 0), (3500, 7), (0, 10)])
async def test_memory_keeps_the_newest_up_to_its_bound(shelves, monkeypatch, recent_bytes: int, from_disk: int) -> None:
    """Of ten segments of a good thousand bytes; the others are read from the disk."""
    found: list[int] = []
    bodies = ShelfReader.bodies

    async def read(reader: ShelfReader, ids: list[int]) -> dict[int, bytes]:
        found.extend(ids)
        return await bodies(reader, ids)

    monkeypatch.setattr(ShelfReader, "bodies", read)
    store = await shelves.open(recent_bytes=Size(recent_bytes))
    for _ in range(10):
        await shelves.put_noise(store, 1000)
    await shelves.drain(store)
    assert len(found) == from_disk
    assert store.status()["uplinks"]["cloud"]["held"] == 0


async def test_two_uplinks_each_get_everything(shelves) -> None:
    """A segment goes when both have it, and what one has it does not get again after a restart."""
    store = await shelves.open(uplinks=("a", "b"))
    put = await shelves.put(store, 3)
    assert await shelves.drain(store, "a") == put
    await shelves.put(store, 1)
    await shelves.close()
    store = await shelves.open(uplinks=("a", "b"))
    assert len(await shelves.drain(store, "a")) == 1
    assert len(await shelves.drain(store, "b")) == 4
    await shelves.close()
    assert verify(shelves.state_dir).segments == 0


async def test_an_uplink_that_is_added_gets_what_is_held(shelves) -> None:
    """What was gone before it came is in its ledger, so that its account adds up like the others'."""
    store = await shelves.open(uplinks=("a",))
    await shelves.put(store, 2)
    await shelves.drain(store, "a")
    held = await shelves.put(store, 3)
    await shelves.close()
    store = await shelves.open(uplinks=("a", "b"))
    assert store.status()["uplinks"]["b"]["ledger"] == {"before_uplink": 2}
    assert await shelves.drain(store, "b") == held
    shelves.check(store)
    assert "b is new" in store.events[-1]


async def test_without_an_uplink_everything_is_held(shelves) -> None:
    """The first uplink that is configured gets it."""
    store = await shelves.open(uplinks=())
    put = await shelves.put(store, 3)
    await store.append([], losses=[Loss("syntax", 1)])
    assert store.status()["uplinks"] == {}
    await shelves.close()
    store = await shelves.open(uplinks=("cloud",))
    assert await shelves.drain(store) == put
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"before_uplink": 1}
    shelves.check(store)


async def test_series_are_found_again(shelves) -> None:
    """Numbers stay over a restart; beyond `max_series` there are none."""
    store = await shelves.open(max_series=1)
    await shelves.put(store, 1)
    number = shelves.batch(store, [1]).series[0]
    series = store.series(int(number))
    await shelves.close()
    store = await shelves.open(max_series=1)
    assert store.resolve(series) == number
    assert store.resolve(type(series)((), "other")) is None


async def test_the_same_boot_is_found_again_and_a_new_one_gets_a_number(shelves) -> None:
    """A restarted process goes on in its boot; after a reboot there is a new one."""
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.close()
    store = await shelves.open()
    assert store.timeline.current.boot == 1
    await shelves.close()
    shelves.clock.reboot("boot-2", wall=0)
    store = await shelves.open()
    assert store.timeline.current.boot == 2
    assert store.status()["clock"]["quality"] == "unknown"
    assert [times.uuid for times in store.timeline.boots] == ["boot-1", "boot-2"]
    assert (await shelves.lease(store)).segments[0].boot == 1


async def test_nothing_is_taken_while_stopping(shelves) -> None:
    """Appends that wait are committed by `close`; later ones are pushed back."""
    store = await shelves.open(commit_interval_s=30)
    waiting = asyncio.create_task(shelves.put(store, 1))
    await asyncio.sleep(0)
    await shelves.close(store)
    await waiting
    with pytest.raises(FullError, match="stopping"):
        await shelves.put(store, 1)
    assert verify(shelves.state_dir).readings == 1


async def test_the_second_gateway_is_told_who_is_first(shelves) -> None:
    """One state_dir, one gateway."""
    await shelves.open()
    with pytest.raises(StoreError, match=r"another gateway \(pid \d+\) uses"):
        await shelves.open()


async def test_what_is_too_old_goes_to_the_ledger(shelves) -> None:
    """Past max_age it is let go, with the time range of what was lost."""
    store = await shelves.open(max_age=60)
    first_ns = shelves.clock.wall_ns()
    await shelves.put(store, 3)
    shelves.clock.advance(50 * NS_PER_S)
    young = await shelves.put(store, 2)
    shelves.clock.advance(20 * NS_PER_S)
    await store.tend()
    await store.append([])
    uplink = store.status()["uplinks"]["cloud"]
    assert uplink["ledger"] == {"expired_age": 3}
    assert (uplink["losses"][0]["first_ns"], uplink["losses"][0]["last_ns"]) == (first_ns, first_ns)
    assert await shelves.drain(store) == young
    shelves.check(store)


async def test_a_cancelled_append_hurts_nobody(shelves) -> None:
    """Who gave up waiting may find it kept all the same; the others get their answer."""
    store = await shelves.open(commit_interval_s=0.05)
    gone = asyncio.create_task(shelves.put(store, 1))
    stays = asyncio.create_task(shelves.put(store, 1))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert store.status()["accepted"] == 2
    assert store.is_moving()


async def test_a_part_sent_without_an_answer_is_counted(shelves) -> None:
    """A lease that is split may be doubtful in part."""
    store = await shelves.open()
    await shelves.put(store, 5)
    lease = await shelves.lease(store)
    await store.count_maybe_twice(lease, 2)
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 2


async def test_damage_while_running_leaves_a_mark_and_the_next_start_salvages(shelves, numbers) -> None:
    """What is in memory still leaves; sources are pushed back; the watchdog is told; nothing is lost."""
    store = await shelves.open(recent_bytes=0)
    put = await shelves.put(store, 3)
    await shelves.close()
    store = await shelves.open()
    reader = store._reader
    await reader.close()
    store._reader = store._desks["cloud"]._reader._connection = Broken("malformed", 11)
    assert await shelves.lease(store) is None
    assert store.is_damaged
    assert not store.is_moving()
    assert "salvaged at the next start" in store.status()["store"]["trouble"]
    await shelves.put(store, 1)
    assert "salvaged" in store.status()["store"]["trouble"]
    await shelves.close()
    store = await shelves.open()
    assert "was damaged (malformed)" in store.events[0]
    assert sorted(await shelves.drain(store))[:3] == put


async def test_what_is_read_from_a_failing_disk_is_no_damage(shelves, failing, monkeypatch) -> None:
    """Nothing is leased for now; it goes on by itself when the disk does."""
    store = await shelves.open()
    put = await shelves.put(store, 3)
    await shelves.close()
    store = await shelves.open()
    reader, connection = store._desks["cloud"]._reader, store._reader
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    failing.errors = [error]
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(disks, "takes_writes", lambda _: False)
        patch.setattr(reader, "_connection", Broken("malformed", 11))
        assert await shelves.lease(store) is None
    assert not store.is_damaged
    assert not store.has_some("cloud")
    assert reader._connection is connection
    await store.append([])
    assert store.has_some("cloud")
    assert await shelves.drain(store) == put


async def test_an_error_that_is_no_damage_is_the_callers(shelves) -> None:
    """A disk that does not answer now is asked again."""
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.close()
    store = await shelves.open()
    await store._reader.close()
    store._reader = store._desks["cloud"]._reader._connection = Broken("busy", 5)
    with pytest.raises(sqlite3.OperationalError):
        await shelves.lease(store)
    assert not store.is_damaged


class Broken:
    """A connection whose every query fails."""

    def __init__(self, text: str, code: int) -> None:
        self.error = (sqlite3.DatabaseError if code == 11 else sqlite3.OperationalError)(text)
        self.error.sqlite_errorcode = code

    async def execute_fetchall(self, *_: object) -> None:
        raise self.error

    async def close(self) -> None:
        pass


async def test_damage_found_by_the_first_commit_is_salvaged_at_once(shelves, monkeypatch) -> None:
    """Opening goes on with what could be read."""
    store = await shelves.open()
    put = await shelves.put(store, 3)
    await shelves.close()
    real = committer.write
    calls = []

    async def fails_once(connection, work) -> None:
        calls.append(1)
        if len(calls) == 1:
            error = sqlite3.DatabaseError("malformed page")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        await real(connection, work)

    monkeypatch.setattr(committer, "write", fails_once)
    store = await shelves.open()
    assert "malformed page" in store.events[0]
    assert await shelves.drain(store) == put


async def test_damage_that_stays_does_not_keep_it_from_starting(shelves, monkeypatch) -> None:
    """What can go on does: it is open, says what is wrong, and pushes back."""

    async def fails(*_: object) -> None:
        error = sqlite3.DatabaseError("malformed page")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(committer, "write", fails)
        store = await shelves.open()
        assert store.is_damaged
        with pytest.raises(FullError):
            await shelves.put(store, 1)


async def test_a_damaged_segment_is_in_the_ledger(shelves) -> None:
    """The others are sent, it is held no more in its class, and the account adds up."""
    store = await shelves.open()
    for priority in (Priority.NORMAL, Priority.NORMAL, Priority.BULK):
        await shelves.put(store, 4, priority=priority)
    await shelves.close()
    path = shelves.state_dir / "tidegate.db"
    connection = sqlite3.connect(path)
    (body,) = connection.execute("SELECT body FROM shelf ORDER BY id LIMIT 1").fetchone()
    connection.close()
    path.write_bytes(path.read_bytes().replace(body[-20:], bytes(20)))
    store = await shelves.open()
    leases = []
    while (lease := await shelves.lease(store)) is not None:
        leases.append(lease)
    assert shelves.by_class(store) == (0, 8, 0)
    for lease in leases:
        store.ack(lease)
    assert store.status()["uplinks"]["cloud"]["delivered"] == 8
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"damaged": 4}
    shelves.check(store)
    await store.append([])
    await shelves.close()
    assert verify(shelves.state_dir).segments == 0


async def test_the_drawer_of_refused_segments_is_bounded(shelves) -> None:
    """The oldest make way."""
    store = await shelves.open(refused_bytes=400)
    for number in range(5):
        await shelves.put(store, 1)
        lease = await shelves.lease(store)
        store.refuse(lease, "no", f"message {number}")
        store.ack(lease)
        await store.append([])
    assert 0 < store.status()["store"]["refused"] < 5
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / "tidegate.db") as connection:
        messages = [message for (message,) in connection.execute("SELECT message FROM refused")]
    connection.close()
    assert messages[-1] == "message 4"
    assert len(messages) < 5


async def test_a_missing_state_dir_that_cannot_be_made(shelves, tmp_path) -> None:
    """The sentence says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        await shelves.open(state_dir=tmp_path / "file" / "state")


async def test_a_clock_that_is_set_is_seen_without_a_commit_of_data(shelves) -> None:
    """Looked at now and then, it is known at once; nothing has to arrive first."""
    shelves.clock.wall, shelves.clock.synced = 0, False
    store = await shelves.open()
    assert store.timeline.quality is Quality.UNKNOWN
    shelves.clock.wall, shelves.clock.synced = 1_790_000_000 * NS_PER_S, True
    store.look_at_clock()
    store.look_at_clock()
    assert store.timeline.quality is Quality.SYNCED


async def test_a_road_that_keeps_up_has_a_turn_first(shelves) -> None:
    """While it is far behind nobody is let in, until it has taken some or does not keep up any more."""
    store = await shelves.open(recent_bytes=Size(4000))
    await store.wait_for_room()
    store.keeps_up("cloud", keeps_up=True)
    for _ in range(4):
        await shelves.put_noise(store, 1000)
    waiting = asyncio.create_task(store.wait_for_room())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    lease = await shelves.lease(store)
    await shelves.lease(store)
    await waiting
    store.release(lease, maybe_delivered=False)
    for _ in range(4):
        await shelves.put_noise(store, 1000)
    waiting = asyncio.create_task(store.wait_for_room())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    store.keeps_up("cloud", keeps_up=False)
    await waiting
    assert store.unleased("cloud") > 0


async def test_a_road_that_says_twice_that_it_keeps_up_has_not_taken_more(shelves) -> None:
    """What it is behind stands until it takes some: the doors do not open for words."""
    store = await shelves.open(recent_bytes=Size(4000))
    store.keeps_up("cloud", keeps_up=True)
    for _ in range(4):
        await shelves.put_noise(store, 1000)
    waiting = asyncio.create_task(store.wait_for_room())
    store.keeps_up("cloud", keeps_up=True)
    await asyncio.sleep(0.02)
    assert not waiting.done()
    for _ in range(4):
        await shelves.lease(store)
    await waiting


def thinning(step_s: float = 60.0) -> Terms:
    """All may go, and what came in or waits is thinned."""
    return Terms(step_s=((step_s,) * 3, (step_s,) * 3, (0.0,) * 3, (0.0,) * 3))


async def lease_thinned(store, *, readings_max: int = 1):
    """What came in since the link is up; its newest segment goes whole before."""
    return await store.lease("cloud", readings_max=readings_max, bytes_max=1 << 20, terms=thinning())


async def test_what_was_sent_thinned_is_held_and_goes_last(shelves, numbers) -> None:
    """Whatever else comes goes before it; then it goes whole, once, and those that were sent are said to be twice."""
    store = await shelves.open()
    old = [await shelves.put(store, 5) for _ in range(3)]
    newest = await lease_thinned(store)
    assert (newest.step_s, numbers(newest)) == (0.0, old[2])
    store.ack(newest)
    lease = await lease_thinned(store)
    assert (lease.step_s, numbers(lease)) == (60.0, [*old[0], *old[1]])
    store.thinned(lease, readings=4)
    store.thinned(lease, readings=4)
    account = store.status()["uplinks"]["cloud"]
    assert (account["held"], account["thinned"], account["maybe_twice"], account["leased"]) == (10, 4, 4, 0)
    assert [*(await store.whereabouts([segment.id for segment in lease.segments])).values()] == [
        {"cloud": "thinned"}
    ] * 2
    new = await shelves.put(store, 2)
    assert numbers(await shelves.lease(store)) == new
    whole = await lease_thinned(store, readings_max=100)
    assert (whole.lane, whole.step_s, numbers(whole)) == ("thinned", 0.0, [*old[0], *old[1]])
    store.ack(whole)
    await store.append([])
    assert await shelves.lease(store) is None
    assert store.status()["uplinks"]["cloud"]["thinned"] == 4
    shelves.check(store)


async def test_otlp_messages_are_never_thinned(shelves, numbers) -> None:
    """Nobody knows which of their points stand for the others: each goes whole, by itself, in its turn."""
    store = await shelves.open()

    async def put_message(body: bytes) -> None:
        await store.append([], records=[(Priority.NORMAL, shelves.messages(body, signal=Signal.METRICS, count=3))])

    first = await shelves.put(store, 2)
    await put_message(b"one")
    await put_message(b"two")
    last = await shelves.put(store, 2)
    # The newest goes first and whole, whatever it is.
    await shelves.put(store, 1)
    store.ack(await lease_thinned(store))
    found = []
    while (lease := await lease_thinned(store)) is not None and lease.lane != "thinned":
        found.append((lease.step_s, [decode(segment.body) for segment in lease.segments]))
        if lease.step_s:
            store.thinned(lease, readings=lease.readings)
        else:
            store.ack(lease)
    assert [(step_s, len(contents)) for step_s, contents in found] == [(60.0, 1), (0.0, 1), (0.0, 1), (60.0, 1)]
    assert [contents[0].bodies for step_s, contents in found if not step_s] == [(b"one",), (b"two",)]
    assert [contents[0].bits.tolist() for step_s, contents in found if step_s] == [first, last]
    store.ack(lease)
    assert [*numbers(lease), *await shelves.drain(store)] == [*first, *last]
    shelves.check(store)


async def test_a_restart_knows_what_was_sent_thinned(shelves, numbers) -> None:
    """It is in the row that every commit writes; what was not is backlog and goes before it."""
    store = await shelves.open()
    first = [await shelves.put(store, 5) for _ in range(2)]
    store.ack(await lease_thinned(store))
    store.thinned(await lease_thinned(store), readings=4)
    last = await shelves.put(store, 3)
    await shelves.close()
    store = await shelves.open()
    order = []
    while (lease := await shelves.lease(store)) is not None:
        order.append((str(lease.lane), numbers(lease)))
        store.ack(lease)
    assert order == [("backlog", last), ("thinned", first[0])]
    shelves.check(store)


async def test_what_goes_after_it_was_sent_thinned_is_diluted(shelves) -> None:
    """It is not all lost, and the ledger says so; what was sent in no form is."""
    store = await shelves.open(max_age=60)
    for _ in range(3):
        await shelves.put(store, 5)
    store.ack(await lease_thinned(store))
    store.thinned(await lease_thinned(store), readings=4)
    await shelves.put(store, 2)
    shelves.clock.advance(70 * NS_PER_S)
    await store.tend()
    await store.append([])
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"diluted": 10, "expired_age": 2}
    assert store._desks["cloud"].outlook().spots <= {("live", Priority.NORMAL), ("thinned", Priority.NORMAL)}
    await store.tend()
    assert [*store._desks["cloud"].thinned] == []
    shelves.check(store)


async def test_what_may_not_go_stays_and_is_known(shelves, numbers) -> None:
    """By lane and class; who asks for nothing of what is held still sees that there is something."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    nothing = Terms(may=((True, False, True),) * 4)
    assert await store.lease("cloud", readings_max=9, bytes_max=1 << 20, terms=nothing) is None
    assert store.has_some("cloud")
    outlook = store.outlook("cloud")
    assert ("live", Priority.NORMAL) in outlook.spots
    assert outlook.arrived == (0, 5, 0)
    assert numbers(await shelves.lease(store)) == put


async def test_what_is_put_off_is_not_thinned_by_its_neighbours(shelves, numbers) -> None:
    """What made a server fail waits; what is sent thinned meanwhile, before and behind it, does not stand for it."""
    store = await shelves.open()
    put = [await shelves.put(store, 5) for _ in range(5)]
    store.ack(await lease_thinned(store))
    first = await shelves.lease(store, readings_max=5)
    failed = await shelves.lease(store, readings_max=5)
    store.release(failed, maybe_delivered=False, put_off_s=60.0)
    store.release(first, maybe_delivered=False)
    for expected in (put[0], [*put[2], *put[3]]):
        lease = await lease_thinned(store)
        assert (lease.step_s, numbers(lease)) == (60.0, expected)
        store.thinned(lease, readings=1)
    assert [*(await store.whereabouts([segment.id for segment in failed.segments])).values()] == [{"cloud": "held"}]
    shelves.check(store)


async def test_no_lease_takes_more_than_its_terms_say(shelves) -> None:
    """Of what goes whole and of what is thinned; of larger segments one."""
    store = await shelves.open()
    for _ in range(8):
        await shelves.put(store, 5)
    store.ack(await shelves.lease(store))
    steps = ((60.0,) * 3, (0.0,) * 3, (0.0,) * 3, (0.0,) * 3)
    for terms, readings in (
        (Terms(readings_max=((12,) * 3,) * 4), 10),
        (Terms(step_s=steps, readings_max=((1,) * 3,) * 4, thinned_max=((17,) * 3,) * 4), 15),
        (Terms(readings_max=((1,) * 3,) * 4), 5),
    ):
        lease = await store.lease("cloud", readings_max=100, bytes_max=1 << 20, terms=terms)
        assert lease.readings == readings
        store.ack(lease)


async def test_how_much_is_backlog_is_known(shelves) -> None:
    """What was sent thinned is none."""
    store = await shelves.open()
    for _ in range(4):
        await shelves.put(store, 5)
    assert store.outlook("cloud").backlog_readings == 0
    store.link_up("cloud")
    assert store.outlook("cloud").backlog_readings == 20
    store.ack(await shelves.lease(store, readings_max=1))
    assert store.outlook("cloud").backlog_readings == 15
    store.thinned(await lease_thinned(store), readings=4)
    assert store.outlook("cloud").backlog_readings == 0
    store.link_up("cloud")
    assert store.outlook("cloud").backlog_readings == 0
    whole = await shelves.lease(store)
    assert whole.lane == "thinned"
    store.ack(whole)
    await shelves.put(store, 2)
    store.link_up("cloud")
    assert store.outlook("cloud").backlog_readings == 2


async def test_what_came_in_around_a_finding_goes_first_and_whole(shelves, numbers) -> None:
    """Though it was sent thinned, and though all else waits; what came long before or after goes in its turn."""
    store = await shelves.open()
    store.evidence.keep("cloud", 5.0)
    moments = store._committer.moments
    early = await shelves.put(store, 2)
    before = await shelves.put(store, 3)
    # As if the first had come a minute before.
    moments._kept = deque([(moments.now_s - 60.0, moments.next_sequence - 1), (moments.now_s, moments.next_sequence)])
    store.ack(await lease_thinned(store))
    store.thinned(await lease_thinned(store), readings=1)
    store.evidence.found()
    after = await shelves.put(store, 4)
    lease = await lease_thinned(store, readings_max=100)
    assert (lease.lane, lease.step_s, numbers(lease)) == ("evidence", 0.0, after)
    store.ack(lease)
    store._desks["cloud"]._evidence_until_s = 0.0
    late = await shelves.put(store, 1)
    store.release(await shelves.lease(store), maybe_delivered=False)
    store.evidence.found()
    again = await lease_thinned(store, readings_max=100)
    assert again.lane == "evidence"
    store.release(again, maybe_delivered=False)
    again = await lease_thinned(store, readings_max=100)
    assert (again.lane, numbers(again)) == ("evidence", late)
    store.ack(again)
    whole = await lease_thinned(store, readings_max=100)
    assert (whole.lane, numbers(whole)) == ("thinned", early)
    store.ack(whole)
    assert before
    await store.append([])
    shelves.check(store)


async def killed(shelves, **settings):
    """Open a store anew as a kill leaves it."""
    left = shelves.state_dir.with_name("left")
    shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(shelves.state_dir, left)
    return await shelves.open(state_dir=left, **settings)


async def test_evidence_is_remembered_across_a_kill(shelves, numbers) -> None:
    """What came in before the finding, and after it, before the kill and after it: first and whole, and once."""
    store = await shelves.open(uplinks=("cloud", "other"))
    store.evidence.keep("cloud", 3600.0)
    moments = store._committer.moments
    await shelves.put(store, 2)
    moments._kept = deque([(moments.now_s - 7200.0, moments.next_sequence), (moments.now_s, moments.next_sequence)])
    before = await shelves.put(store, 3)
    store.thinned(await lease_thinned(store), readings=1)
    store.evidence.found()
    # One commit for both, and nothing is committed after it.
    after = [shelves.numbers(2), shelves.numbers(4)]
    pieces = [(Priority.NORMAL, shelves.batch(store, after[0])), (Priority.BULK, shelves.batch(store, after[1]))]
    await store.append(pieces)
    again = await killed(shelves, uplinks=("cloud", "other"))
    again.evidence.keep("cloud", 3600.0)
    again.evidence.keep("other", 0.0)
    found = []
    for _ in range(2):
        lease = await lease_thinned(again, readings_max=100)
        assert (lease.lane, lease.step_s) == ("evidence", 0.0)
        found += numbers(lease)
        again.ack(lease)
    assert sorted(found) == sorted(before + after[0] + after[1])
    assert (await lease_thinned(again, readings_max=100)).lane == "thinned"
    # The minute after a finding may not have been over.
    late = await shelves.put(again, 1)
    lease = await lease_thinned(again, readings_max=100)
    assert (lease.lane, numbers(lease)) == ("evidence", late)
    assert (await shelves.lease(again, "other")).lane == "live"
    assert not again._desks["other"].evidence


async def test_evidence_that_was_sent_is_not_remembered(shelves, numbers) -> None:
    """Nor what is evidence no more by the settings; one in hand is, until it was answered."""
    store = await shelves.open()
    store.evidence.keep("cloud", 5.0)
    await shelves.put(store, 1)
    store.ack(await lease_thinned(store, readings_max=100))
    found = await shelves.put(store, 3)
    store.evidence.found()
    lease = await lease_thinned(store, readings_max=100)
    assert (lease.lane, numbers(lease)) == ("evidence", found)
    store._desks["cloud"]._evidence_until_s = 0.0
    await shelves.put(store, 1)
    assert store._committer.state.shares[-1].evidence
    store.ack(lease)
    # The first one after the finding.
    lease = await lease_thinned(store, readings_max=100)
    assert lease.lane == "evidence"
    store.ack(lease)
    await shelves.put(store, 1)
    assert not store._committer.state.shares[-1].evidence
    store.evidence.found()
    await shelves.put(store, 1)
    again = await killed(shelves)
    again.evidence.keep("cloud", 0.0)
    assert (await lease_thinned(again, readings_max=100)).lane == "backlog"


async def test_the_newest_stretches_of_evidence_are_remembered(shelves) -> None:
    """They have to fit a page: of many the oldest go in their turn after a kill."""
    store = await shelves.open()
    store.evidence.keep("cloud", 5.0)
    await shelves.put(store, 1)
    for k in range(UNSENT_EVIDENCE_MAX + 3):
        store._desks["cloud"]._add_evidence(100 * k + 1, 100 * k + 2, [])
    await shelves.put(store, 1)
    share = store._committer.state.shares[-1]
    assert share.evidence == [(100 * k + 1, 100 * k + 2) for k in range(3, UNSENT_EVIDENCE_MAX + 3)]


async def test_evidence_is_bounded(shelves) -> None:
    """Of very many findings the oldest go in their turn; what left the shelf is forgotten."""
    store = await shelves.open()
    desk = store._desks["cloud"]
    store.evidence.found()
    assert not desk.evidence
    for k in range(EVIDENCE_MAX + 5):
        desk._add_evidence(10 * k, 10 * k + 1, [])
    assert len(desk.evidence) == EVIDENCE_MAX
    assert next(iter(desk.evidence)) == (50, 51)
    desk.let_go_below(10_000)
    assert not desk.evidence
    assert await shelves.lease(store) is None
