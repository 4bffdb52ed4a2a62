"""A desk leases in order, never twice, never what is gone, and remembers no more than it has to."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gateway.core.batch import Batch
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store import leases as leases_module
from gateway.store.allowance import READINGS_MIN, Allowance
from gateway.store.leases import LOOK_MAX, LOOK_MIN, Desk
from gateway.store.policy import Lane, LaneScheduler
from gateway.store.recent import READABLE_MAX, Recent, Row
from gateway.store.records import place
from gateway.store.segments import encode_metrics
from gateway.store.taking import EVERYTHING, taking

METRICS = (Priority.NORMAL, Signal.METRICS)


def came(shelf) -> Row:
    """A row that a commit has just written."""
    return Row(place(*shelf, 1), 1, 1, 500)


def body_of(sequence: int, readings: int = 1) -> bytes:
    batch = Batch.of(1, range(readings), np.arange(readings))
    return encode_metrics(batch, sequence=sequence, boot=BootId(1), previous_hash=bytes(16))


class FakeReader:
    """A shelf in a dict: id → (body, done)."""

    def __init__(self) -> None:
        self.shelf: dict[int, tuple[bytes, int]] = {}
        self.reads = 0
        self.meanwhile = self.meanwhile_reading = None
        self.fails = False

    def put(self, sequence: int, *, shelf=METRICS, readings: int = 1) -> int:
        number = place(*shelf, sequence)
        self.shelf[number] = (body_of(sequence, readings), 0)
        return number

    async def rows(self, start, end, *, lacking, limit, newest):
        self.reads += 1
        found = sorted(n for n, (_, done) in self.shelf.items() if start <= n < end and not done & lacking)
        rows = [Row(n, 1, 1, len(self.shelf[n][0])) for n in (found[::-1] if newest else found)[:limit]]
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return rows

    async def bodies(self, ids):
        meanwhile, self.meanwhile_reading = self.meanwhile_reading, None
        if meanwhile is not None:
            meanwhile()
        if self.fails:
            raise OSError("gone")
        return {n: self.shelf[n][0] for n in ids if n in self.shelf}


@pytest.fixture
def reader():
    return FakeReader()


@pytest.fixture
def make_desk(reader):
    def make(*, live_from=1000, floor=1000, bytes_max=1 << 20, is_free=True, takes=EVERYTHING):
        desk = Desk(
            "a",
            bit=2,
            live_from=live_from,
            reader=reader,
            recent=Recent(bytes_max=bytes_max, floor=floor),
            scheduler=LaneScheduler(backlog_share=0.5),
            damaged=lambda name, rows: desk.lost.extend(row.id for row in rows),
            allowance=Allowance(lambda: desk.asks.append(desk.allowance.left)),
            takes=takes,
        )
        if is_free:
            desk.allowance.mute()
        desk.allowance.rest(0.0)
        return desk

    Desk.lost, Desk.asks = [], []
    yield make
    del Desk.lost, Desk.asks


def sequences(lease) -> list[int]:
    return [segment.sequence for segment in lease.segments]


async def take(desk, readings_max=100, bytes_max=1 << 20):
    return await desk.lease(readings_max=readings_max, bytes_max=bytes_max)


async def test_the_newest_first_then_the_oldest(reader, make_desk) -> None:
    """A lease holds as many as fit, at least one."""
    desk = make_desk()
    for sequence in range(1, 8):
        reader.put(sequence)
    assert sequences(await take(desk)) == [7]
    assert sequences(await take(desk, readings_max=3)) == [1, 2, 3]
    assert sequences(await take(desk, bytes_max=1)) == [4]
    assert sequences(await take(desk)) == [5, 6]
    assert await take(desk) is None
    assert not desk.has_some.is_set()


async def test_what_is_not_taken_is_looked_for_nowhere(reader, make_desk) -> None:
    """Not when the link comes up, nor around a finding, nor when what was to make room stays after all."""
    desk = make_desk(takes=taking(classes=["critical"], signals=["metrics", "logs"]))
    desk.evidence_s = 60.0
    others = [reader.put(sequence, shelf=(priority, Signal.METRICS)) for sequence, priority in enumerate(Priority, 1)]
    desk.hide(others)
    desk.show(others[1:])
    desk.link_up(1, held=1)
    desk._add_evidence(1, 9, desk._shelves)
    assert {(lane, shelf) for lane, shelf in desk._maybe} == {
        (Lane.BACKLOG, (Priority.CRITICAL, Signal.METRICS)),
        (Lane.BACKLOG, (Priority.CRITICAL, Signal.LOGS)),
        (Lane.EVIDENCE, (Priority.CRITICAL, Signal.METRICS)),
        (Lane.EVIDENCE, (Priority.CRITICAL, Signal.LOGS)),
    }
    desk.show(others[:1])
    assert sequences(await take(desk)) == [1]
    assert await take(desk) is None


async def test_what_is_around_a_finding_is_late_where_it_was_held_before_the_road_was_there(reader, make_desk) -> None:
    """It goes first, and says so all the same: one lease is late, the next one is not."""
    desk = make_desk()
    desk.evidence_s = 60.0
    for sequence in range(1, 6):
        reader.put(sequence)
    desk.link_up(4, held=3)
    desk._add_evidence(2, 9, desk._shelves)
    leases = [await take(desk) for _ in range(3)]
    assert [(lease.lane, lease.is_late, sequences(lease)) for lease in leases] == [
        ("evidence", True, [2, 3]),
        ("evidence", False, [4, 5]),
        ("backlog", False, [1]),
    ]


async def test_what_comes_back_is_leased_again(reader, make_desk) -> None:
    """The place moves back to it."""
    desk = make_desk()
    for sequence in range(1, 4):
        reader.put(sequence)
    first, second = await take(desk), await take(desk, readings_max=1)
    assert desk.close(second, settled=False)
    assert not desk.close(second, settled=False)
    assert sequences(await take(desk, readings_max=1)) == [1]
    assert desk.leased_readings == 2
    assert desk.close(first, settled=True)


async def test_the_newest_that_did_not_arrive_is_still_the_first(reader, make_desk) -> None:
    """A road that breaks once more while it comes up costs nobody what is fresh; what was refused is not owed."""
    desk = make_desk()
    for sequence in range(1, 4):
        reader.put(sequence)
    lease = await take(desk)
    assert sequences(await take(desk, readings_max=1)) == [1]
    desk.close(lease, settled=False)
    reader.put(4)
    desk.arrived([came(METRICS)], now_s=0.0)
    lease = await take(desk)
    assert sequences(lease) == [4]
    desk.close(lease, settled=True)
    assert sequences(await take(desk)) == [2, 3]


async def test_what_is_put_off_lets_others_go_first(reader, make_desk) -> None:
    """It may be about this data; when its time is over it is the oldest again, and somebody who waits is told."""
    desk = make_desk()
    for sequence in range(1, 4):
        reader.put(sequence)
    await desk.lease(readings_max=1, bytes_max=10**6)
    lease = await desk.lease(readings_max=1, bytes_max=10**6)
    assert sequences(lease) == [1]
    desk.put_off(lease, 0.05)
    desk.close(lease, settled=False)
    assert sequences(await desk.lease(readings_max=9, bytes_max=10**6)) == [2]
    assert await desk.lease(readings_max=9, bytes_max=10**6) is None
    assert not desk.has_some.is_set()
    async with asyncio.timeout(60):
        await desk.has_some.wait()
    assert sequences(await desk.lease(readings_max=9, bytes_max=10**6)) == [1]


async def test_what_is_put_off_may_go_meanwhile(reader, make_desk) -> None:
    """Evicted, it does not come back when its time is over."""
    desk = make_desk()
    number = reader.put(1)
    lease = await desk.lease(readings_max=1, bytes_max=10**6)
    desk.put_off(lease, 0.01)
    desk.close(lease, settled=False)
    desk.hide([number])
    await asyncio.sleep(0.02)
    assert await desk.lease(readings_max=1, bytes_max=10**6) is None
    del reader.shelf[number]
    desk.gone([number])
    assert await desk.lease(readings_max=1, bytes_max=10**6) is None


async def test_the_last_that_is_taken_up_says_how_long_it_lasts(reader, make_desk) -> None:
    """Whichever was put off last: data that failed often waits for a minute, and other data for two seconds."""
    desk = make_desk()
    now_s = asyncio.get_running_loop().time()
    for sequence, seconds in ((1, 60), (2, 2)):
        reader.put(sequence)
        lease = await desk.lease(readings_max=1, bytes_max=10**6)
        desk.put_off(lease, seconds)
        desk.close(lease, settled=False)
    assert 59 < desk.put_off_until_s - now_s < 61


async def test_not_everything_is_put_off(reader, make_desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many it is not about each: past a bound they stay in their turn, as what is given back already does."""
    monkeypatch.setattr(leases_module, "PUT_OFF_MAX", 1)
    desk = make_desk()
    for sequence in (1, 2):
        reader.put(sequence)
    for _ in range(2):
        lease = await desk.lease(readings_max=1, bytes_max=10**6)
        desk.put_off(lease, 60)
        desk.close(lease, settled=False)
        desk.put_off(lease, 60)
    left = await desk.lease(readings_max=1, bytes_max=10**6)
    assert sequences(left) == sequences(lease)


async def test_a_signal_that_is_held_back_keeps_only_itself(reader, make_desk) -> None:
    """Until its time is over; who waits is woken then."""
    desk = make_desk()
    reader.put(1)
    desk.hold(Signal.METRICS, 60.0)
    desk.hold(Signal.METRICS, 0.01)
    assert await take(desk) is None
    assert not desk.has_some.is_set()
    async with asyncio.timeout(60):
        await desk.has_some.wait()
    assert sequences(await take(desk)) == [1]


async def test_who_was_held_back_is_leased_from_the_other_end(reader, make_desk) -> None:
    """So that what is not taken hides nothing; held once more, from where it was before.

    It is one segment, as what is newest is, and says that it is late: all that came since would go before it.
    """
    desk = make_desk()
    for sequence in (1, 2, 3):
        reader.put(sequence)
    # The newest is owed a turn, since the link has come up.
    for found in ([3], [1], [3]):
        lease = await take(desk)
        assert (sequences(lease), lease.is_late) == (found, found == [1])
        desk.hold(Signal.METRICS, 0.001)
        desk.close(lease, settled=False, maybe_delivered=False)
        assert await take(desk) is None
        async with asyncio.timeout(60):
            await desk.has_some.wait()
    desk.link_up(4)
    assert desk._other_end == set()


async def test_what_comes_for_a_signal_that_is_held_back_wakes_nobody(reader, make_desk) -> None:
    """What comes for another does."""
    desk = make_desk()
    desk.hold(Signal.METRICS, 60.0)
    assert await take(desk) is None
    reader.put(1)
    desk.arrived([came(METRICS)], now_s=0.0)
    assert not desk.has_some.is_set()
    desk.arrived([came((Priority.NORMAL, Signal.LOGS))], now_s=0.0)
    assert desk.has_some.is_set()


async def test_more_on_their_way_than_one_look_sees(reader, make_desk) -> None:
    """They are passed over without listing the backlog."""
    desk = make_desk()
    ids = [reader.put(sequence) for sequence in range(1, LOOK_MAX + 3)]
    await take(desk)
    desk.hide(ids[:LOOK_MAX])
    assert sequences(await take(desk)) == [LOOK_MAX + 1]
    desk.show(ids[:1])
    assert sequences(await take(desk)) == [1]


async def test_a_read_that_missed_a_commit_is_done_again(reader, make_desk) -> None:
    """What was deleted meanwhile is not leased."""
    desk = make_desk()
    first, second = reader.put(1), reader.put(2)
    await take(desk)

    def commit() -> None:
        desk.hide([first])
        del reader.shelf[first]
        desk.gone([first])

    reader.meanwhile = commit
    assert await take(desk) is None
    assert desk.is_leased(second)


async def test_live_segments_come_from_memory(reader, make_desk) -> None:
    """The disk is not asked for what has just been committed."""
    desk = make_desk(live_from=1, floor=1)
    assert await take(desk) is None
    for sequence, shelf in ((6, METRICS), (7, (Priority.BULK, Signal.METRICS))):
        number = place(*shelf, sequence)
        body = body_of(sequence)
        desk._recent.add([(Row(number, 1, 1, len(body)), body, None)])
        desk.arrived([came(shelf)], now_s=0.0)
    reads = reader.reads
    assert {sequences(await take(desk))[0], sequences(await take(desk))[0]} == {6, 7}
    assert reader.reads == reads


async def test_a_failed_read_gives_everything_back(reader, make_desk) -> None:
    """The next try finds the same."""
    desk = make_desk()
    reader.put(1)
    reader.fails = True
    with pytest.raises(OSError):
        await take(desk)
    reader.fails = False
    assert sequences(await take(desk)) == [1]


async def test_damaged_segments_are_told_and_passed_over(reader, make_desk) -> None:
    """The others of the same lease go out; one that is missing altogether is damage too."""
    desk = make_desk()
    ids = [reader.put(sequence) for sequence in range(1, 6)]
    await take(desk)
    body, done = reader.shelf[ids[1]]
    reader.shelf[ids[1]] = (body[:-1] + b"\0\0", done)
    bodies = reader.bodies

    async def without_third(wanted):
        return {n: b for n, b in (await bodies(wanted)).items() if n != ids[2]}

    reader.bodies = without_third
    assert sequences(await take(desk)) == [1, 4]
    assert desk.lost == ids[1:3]
    reader.shelf[ids[1]] = (b"", 0)
    assert await take(desk) is None


async def test_all_damaged_means_no_lease(reader, make_desk) -> None:
    """The desk goes on to what else there is."""
    desk = make_desk()
    first = reader.put(1)
    reader.put(2, shelf=(Priority.BULK, Signal.METRICS))
    reader.shelf[first] = (b"TGS1", 0)
    assert sequences(await take(desk)) == [2]
    assert desk.lost == [first]


async def test_link_up_makes_a_backlog_of_what_came_before(reader, make_desk) -> None:
    """The lanes meet at the boundary."""
    desk = make_desk(live_from=1, floor=1)
    for sequence in (1, 2, 3):
        reader.put(sequence)
    desk.link_up(4)
    lease = await take(desk)
    assert (str(lease.lane), sequences(lease)) == ("backlog", [3])
    assert sequences(await take(desk)) == [1, 2]


async def test_signals_of_a_class_take_turns(reader, make_desk) -> None:
    """A flood of logs does not keep metrics waiting."""
    desk = make_desk()
    logs = (Priority.NORMAL, Signal.LOGS)
    for sequence in range(1, 7):
        reader.put(sequence, shelf=logs if sequence < 4 else METRICS)
    await take(desk)
    signals = [(await take(desk, readings_max=1)).signal for _ in range(4)]
    assert set(signals[:2]) == {Signal.LOGS, Signal.METRICS}


async def test_no_more_is_looked_at_than_a_lease_takes(reader, make_desk) -> None:
    """Each row that is looked at for nothing is a page read for nothing; it follows what leases take."""
    desk = make_desk()
    for sequence in range(1, 2001):
        reader.put(sequence)
    limits = []
    rows = reader.rows

    async def count(*where, limit, newest, **how):
        found = await rows(*where, limit=limit, newest=newest, **how)
        if found and not newest:
            limits.append(limit)
        return found

    reader.rows = count
    await take(desk)
    limits.clear()
    for _ in range(3):
        assert len(sequences(await take(desk, readings_max=1))) == 1
    assert limits == [LOOK_MIN] * 3
    limits.clear()
    assert len(sequences(await take(desk, readings_max=300))) == 300
    assert limits == [4, 16, 64, 256, LOOK_MAX]
    limits.clear()
    assert len(sequences(await take(desk, readings_max=300))) == 300
    assert limits == [LOOK_MAX]


async def test_the_newest_is_found_in_memory(reader, make_desk) -> None:
    """What is settled or on its way there is passed over; the disk is asked where nothing is left in memory."""
    desk = make_desk(live_from=5, floor=8)
    for sequence in range(5, 10):
        number = reader.put(sequence)
        if sequence >= 8:
            desk._recent.add([(Row(number, 1, 1, 10), body_of(sequence), None)])
    looked = []
    rows = reader.rows

    async def count(start, end, **how):
        found = await rows(start, end, **how)
        looked.extend(row.id for row in found)
        return found

    reader.rows = count
    for sequence in (9, 8, 7):
        desk.link_up(5)
        desk.arrived([came(METRICS)], now_s=0.0)
        assert sequences(await take(desk)) == [sequence]
        assert bool(looked) is (sequence == 7)


async def test_shares_are_of_what_went_over_the_road(reader, make_desk) -> None:
    """What is small on the shelf for being kept together is not sent ten times as much of."""
    desk = make_desk(live_from=100, floor=100)
    for sequence in range(1, 50):
        reader.put(sequence)
        number = reader.put(100 + sequence)
        body = body_of(100 + sequence)
        desk._recent.add([(Row(number, 1, 1, len(body)), body, None)])
        desk.arrived([came(METRICS)], now_s=0.0)
    lanes = []
    for _ in range(44):
        lease = await take(desk, readings_max=1)
        lanes.append(lease.lane)
        lease.sent_bytes = lease.size_bytes * (10 if lease.lane == "backlog" else 1)
        desk.close(lease, settled=True)
    assert lanes.count("backlog") == 4


async def test_how_far_it_is_behind(reader, make_desk) -> None:
    """Bytes that came in and were not leased; a lease of what is older does not count."""
    desk = make_desk(live_from=5, floor=5)
    reader.put(1)
    number = reader.put(5)
    desk._recent.add([(Row(number, 1, 1, 10), body_of(5), None)])
    desk.arrived([came(METRICS)], now_s=0.0)
    live = await take(desk)
    assert live.lane == "live"
    assert desk.behind_bytes == 500 - live.size_bytes
    behind = desk.behind_bytes
    assert (await take(desk)).lane == "backlog"
    assert desk.behind_bytes == behind


async def test_small_segments_stay_readable_for_a_while(make_desk) -> None:
    """Nobody reads back what was written a moment ago; of very many the oldest are read all the same."""
    desk = make_desk()
    batch = Batch.of(1, [1], np.array([1]))
    for number in range(READABLE_MAX + 1):
        desk._recent.add([(Row(place(*METRICS, 1000 + number), 1, 1, 10), body_of(1000 + number), batch)])
    desk.arrived([came(METRICS)], now_s=0.0)
    found = [await take(desk, readings_max=READABLE_MAX + 1)]
    found.append(await take(desk, readings_max=READABLE_MAX + 1))
    by_sequence = {segment.sequence: segment.readable for lease in found for segment in lease.segments}
    assert by_sequence.pop(1000) is None
    assert set(map(id, by_sequence.values())) == {id(batch)}
    assert len(by_sequence) == READABLE_MAX


# What the disk allows.


def commit(desk, *, by_s: float = 0.0) -> int:
    allowed = desk.allowance.plan(by_s=by_s)
    desk.allowance.written()
    return allowed


async def test_nothing_is_leased_that_no_commit_allows(reader, make_desk) -> None:
    """It waits for one, and asks for it."""
    desk = make_desk(is_free=False)
    reader.put(1)
    assert await desk.lease(readings_max=100, bytes_max=1 << 20, may_wait=False) is None
    assert desk.has_some.is_set()
    waiting = asyncio.ensure_future(take(desk))
    await asyncio.sleep(0)
    assert desk.asks == [0]
    commit(desk)
    assert sequences(await waiting) == [1]


async def test_a_segment_larger_than_all_is_allowed_by_the_next_commit(reader, make_desk) -> None:
    """However much it holds."""
    desk = make_desk(is_free=False)
    commit(desk)
    large = READINGS_MIN + 1
    desk._recent.add([(Row(place(*METRICS, 1000), large, 1, 1), body_of(1000, large), None)])
    desk.arrived([came(METRICS)], now_s=0.0)
    waiting = asyncio.ensure_future(take(desk))
    await asyncio.sleep(0)
    assert commit(desk) == 2 * large
    assert (await waiting).readings == large


async def test_what_was_not_sent_may_be_leased_again(reader, make_desk) -> None:
    """Given back, it costs nothing of what is allowed; in doubt, all of it until a commit has said so."""
    desk = make_desk(is_free=False)
    reader.put(1)
    commit(desk)
    left = desk.allowance.left
    desk.close(await take(desk), settled=False, maybe_delivered=False)
    assert desk.allowance.left == left
    desk.close(await take(desk), settled=False, maybe_delivered=True)
    assert desk.allowance.is_in_doubt
    assert await desk.lease(readings_max=100, bytes_max=1 << 20, may_wait=False) is None
    commit(desk)
    assert sequences(await take(desk)) == [1]


async def test_what_no_commit_has_brought_is_not_there(reader, make_desk) -> None:
    """A commit is seen on the disk before it is through."""
    desk = make_desk(bytes_max=1)
    for sequence in (1000, 1001):
        reader.put(sequence)
        desk._recent.add([(Row(place(*METRICS, sequence), 1, 1, 1), body_of(sequence), None)])
        desk.arrived([came(METRICS)], now_s=0.0)
        reader.put(sequence + 1)
        assert sequences(await take(desk)) == [sequence]
        assert await take(desk) is None


async def test_what_is_still_being_read_is_in_hand(reader, make_desk) -> None:
    """A commit that is planned meanwhile allows others, and a dead process has sent both."""
    desk = make_desk()
    ids = [reader.put(sequence) for sequence in (1, 2, 3)]
    spans = []
    reader.meanwhile_reading = lambda: spans.append(desk.spans)
    assert sequences(await take(desk)) == [3]
    reader.meanwhile_reading = lambda: spans.append(desk.spans)
    await take(desk)
    assert spans == [[(ids[2], ids[2])], [(ids[2], ids[2]), (ids[0], ids[1])]]
    assert desk.spans == spans[1]
    reader.put(4)
    desk.link_up(1000)
    reader.fails = True
    with pytest.raises(OSError, match="gone"):
        await take(desk)
    assert desk.spans == spans[1]


async def test_a_store_that_closes_lets_go_of_who_waits(reader, make_desk) -> None:
    """There is no other commit to wait for."""
    desk = make_desk(is_free=False)
    reader.put(1)
    waiting = asyncio.ensure_future(take(desk))
    await asyncio.sleep(0)
    desk.allowance.close()
    assert await waiting is None
    assert await take(desk) is None
