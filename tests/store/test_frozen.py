"""A shelf on a disk that cannot be written: what it holds is sent, nothing is taken, and what was sent is said."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3

import msgspec
import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.store import frozen as frozen_module
from gateway.store import room, starting
from gateway.store.accounts import decode_state, encode_state
from gateway.store.connection import DATABASE
from gateway.store.database import Loss, StoreError
from gateway.store.frozen import Frozen
from gateway.store.reading import verify
from gateway.store.records import STATE_ID
from gateway.store.segments import read_header


def read_only() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"
    return error


@pytest.fixture
def fill(shelves, tmp_path):
    """Fill a shelf, some of it acked and some refused; leave it as a process that dies does, or closed."""

    async def work(*, dies: bool, **settings) -> list[int]:
        store = await shelves.open(uplinks=("cloud", "spare"), **settings)
        put = []
        for number in range(30):
            put += await shelves.put(store, 5 + 60 * (number % 3), priority=Priority(number % 3))
        await store.append([], losses=[Loss("syntax", 3)])
        for _ in range(4):
            lease = await shelves.lease(store, readings_max=1)
            sent = set(numbers_of(lease))
            put = [number for number in put if number not in sent]
            store.ack(lease)
        # Nothing is being sent when it ends.
        store.rest("cloud", 60.0)
        await store.append([])
        copy = tmp_path / "dead"
        shutil.copytree(shelves.state_dir, copy)
        await shelves.close()
        shelves.state_dir = copy if dies else shelves.state_dir
        return put

    return work


def numbers_of(lease) -> list[int]:
    from gateway.store.segments import decode_metrics

    return [n for segment in lease.segments for n in decode_metrics(segment.body).bits.tolist()]


@pytest.mark.parametrize("dies", [True, False])
async def test_what_is_held_is_sent(shelves, fill, freeze, dies) -> None:
    """Of file and log together, in the order of classes, and counted as possibly sent twice."""
    put = await fill(dies=dies)
    before = {path.name: path.read_bytes() for path in shelves.state_dir.iterdir()}
    freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.is_frozen
    assert not store.is_writing
    assert store.is_moving()
    cloud = store.status()["uplinks"]["cloud"]
    assert cloud["held"] == len(put)
    assert cloud["ledger"] == {"syntax": 3}
    lease = await shelves.lease(store)
    assert lease.segments[0].priority is Priority.CRITICAL
    store.release(lease, maybe_delivered=False)
    assert sorted(await shelves.drain(store)) == put
    cloud = store.status()["uplinks"]["cloud"]
    assert (cloud["held"], cloud["maybe_twice"]) == (0, len(put))
    shelves.check(store)
    await shelves.close()
    after = {path.name: path.read_bytes() for path in shelves.state_dir.iterdir()}
    for name in (DATABASE, f"{DATABASE}-wal"):
        assert after.get(name) == before.get(name)


async def test_nothing_new_is_taken(shelves, fill, freeze) -> None:
    """Sources are told what is wrong and what to do; so are the status, the events and the log."""
    await fill(dies=True)
    freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    with pytest.raises(
        FullError, match="nothing can be written: .*What is held is sent, nothing new is taken"
    ) as caught:
        await shelves.put(store, 1)
    assert caught.value.after_s > 1
    assert store.status()["store"]["trouble"] == str(caught.value) == store.events[-1]
    assert store.status()["store"]["read_only"]
    await store.tend()
    await store._committer.commit()
    assert store.status()["store"]["trouble"] == str(caught.value)
    assert store.status()["store"]["used_bytes"] > 10_000


async def test_when_it_can_be_written_again_what_was_sent_is_known(shelves, fill, freeze) -> None:
    """Nothing is sent twice then, and nothing is counted as if it were."""
    put = await fill(dies=True)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    lease = await shelves.lease(store, readings_max=200)
    sent = numbers_of(lease)
    store.ack(lease, rejected=1)
    lease = await shelves.lease(store, readings_max=1)
    sent += numbers_of(lease)
    store.refuse(lease, "refused", "no")
    lease = await shelves.lease(store, "spare", readings_max=1)
    store.ack(lease)
    spare = store.status()["uplinks"]["spare"]
    disk.is_read_only = False
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.events == []
    assert not store.is_frozen
    cloud = store.status()["uplinks"]["cloud"]
    assert cloud["maybe_twice"] == 0
    assert cloud["ledger"]["rejected"] == 1
    assert store.status()["uplinks"]["spare"]["held"] == spare["held"]
    assert store.status()["store"]["refused"] == 1
    assert sorted(await shelves.drain(store) + sent) == put
    await shelves.put(store, 1)
    shelves.check(store)


@pytest.mark.parametrize("dies", [True, False])
async def test_what_was_thinned_is_sent_and_known_to_be_sent(shelves, tmp_path, freeze, dies) -> None:
    """A shelf that was full before its disk could be written no more: nothing is written anew there, none comes back."""
    opening = {"max_bytes": 1 << 20, "when_full": "dilute"}
    store = await shelves.open(**opening)
    number = store.resolve(Series((), "m"))
    noise = np.random.default_rng(6)
    while store.status()["store"]["rewritten"] < 9:
        shelves.clock.advance(3000 * NS_PER_S)
        times = shelves.clock.wall_ns() - np.arange(3000, 0, -1) * NS_PER_S
        await store.append([(Priority.NORMAL, Batch.of(number, times, noise.integers(0, 10**6, 3000) / 100))])
    copy = tmp_path / "dead"
    shutil.copytree(shelves.state_dir, copy)
    await shelves.close()
    shelves.state_dir = copy if dies else shelves.state_dir
    before = store.status()
    disk = freeze()
    store = await shelves.open(**opening)
    assert store.is_frozen
    assert store.status()["store"]["diluted"] == before["store"]["diluted"] != []
    lease = await shelves.lease(store, readings_max=60_000)
    assert read_header(lease.segments[-1].body).step_s == 0
    store.ack(lease)
    lease = await shelves.lease(store, readings_max=60_000)
    sent = lease.readings
    assert max(read_header(segment.body).step_s for segment in lease.segments) > 0
    store.ack(lease)
    await store.tend()
    disk.is_read_only = False
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.problems, report.diluted > 0) == ([], True)
    store = await shelves.open(**opening)
    assert not store.is_frozen
    cloud, was = store.status()["uplinks"]["cloud"], before["uplinks"]["cloud"]
    assert cloud["held"] <= was["held"] - sent
    assert cloud["ledger"] == was["ledger"]
    while store.status()["store"]["rewritten"] < before["store"]["rewritten"] + 3:
        shelves.clock.advance(3000 * NS_PER_S)
        times = shelves.clock.wall_ns() - np.arange(3000, 0, -1) * NS_PER_S
        await store.append([(Priority.NORMAL, Batch.of(number, times, noise.integers(0, 10**6, 3000) / 100))])
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


@pytest.mark.parametrize("dies", [True, False])
async def test_a_power_cut_while_it_is_written_down(shelves, fill, tmp_path, freeze, monkeypatch, dies) -> None:
    """What is in the log by then is no damage, and what was sent is known."""
    put = await fill(dies=dies)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    sent = []
    for _ in range(3):
        lease = await shelves.lease(store, readings_max=1)
        sent += numbers_of(lease)
        store.ack(lease)
        await store._committer.commit()
    real = Frozen._write_down

    async def is_cut(self, writer) -> None:
        await real(self, writer)
        shutil.copytree(shelves.state_dir, tmp_path / "cut")

    monkeypatch.setattr(Frozen, "_write_down", is_cut)
    disk.is_read_only = False
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "spare"), state_dir=tmp_path / "cut")
    assert store.events == []
    assert sorted(await shelves.drain(store) + sent) == put
    shelves.check(store)


async def test_what_could_not_be_written_down_is_said(shelves, fill, freeze, caplog) -> None:
    """How much, and that it is sent again."""
    put = await fill(dies=True)
    freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    await shelves.drain(store)
    await shelves.close()
    assert f"{len(put)} readings were sent and that could not be written down: they are sent again" in caplog.text


async def test_a_close_with_nothing_sent_says_nothing(shelves, fill, freeze, caplog) -> None:
    """There is nothing to forget."""
    await fill(dies=True)
    freeze()
    await shelves.open(uplinks=("cloud", "spare"))
    await shelves.close()
    assert "written down" not in caplog.text


async def test_a_disk_that_turns_read_only_while_it_runs(shelves, monkeypatch, caplog) -> None:
    """What is held leaves at once, and what was sent cannot be noted: the end says so."""
    from gateway.store import committer

    store = await shelves.open()
    await shelves.put(store, 7)

    async def fails(*_: object) -> None:
        raise read_only()

    with monkeypatch.context() as patch:
        patch.setattr(committer, "write", fails)
        with pytest.raises(FullError, match="nothing can be written"):
            await shelves.put(store, 1)
        assert not store.is_writing
        await shelves.drain(store)
        await shelves.close()
    assert caplog.text.count("nothing can be written: what is held is sent all the same") == 1
    assert "7 readings were sent and that could not be written down" in caplog.text


async def test_somebody_else_wrote_meanwhile(shelves, fill, freeze, caplog) -> None:
    """What is known here is of another day: nothing is written over theirs."""
    await fill(dies=False)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    await shelves.drain(store)
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchall()
    state = decode_state(body)
    theirs = encode_state(msgspec.structs.replace(state, commit=state.commit + 1))
    connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (theirs, STATE_ID))
    connection.commit()
    connection.close()
    before = (shelves.state_dir / DATABASE).read_bytes()
    disk.is_read_only = False
    assert await store._frozen.write_down(store._around.room) == "somebody else has written to it meanwhile"
    await shelves.close()
    assert "could not be written down" in caplog.text
    assert (shelves.state_dir / DATABASE).read_bytes() == before


async def test_a_write_down_that_fails_half_way_changes_nothing(shelves, fill, freeze, monkeypatch) -> None:
    """One transaction, or none; and the next start has no doubts about the log."""
    put = await fill(dies=True)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    await shelves.drain(store)
    disk.is_read_only = False

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Frozen, "_copy", fail)
        await shelves.close()
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.events == []
    assert sorted(await shelves.drain(store)) == put


async def test_damage_that_shows_while_it_is_written_down_leaves_both_files_as_they_were(
    shelves, fill, freeze, monkeypatch
) -> None:
    """The next start salvages from both."""
    put = await fill(dies=True)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    await shelves.drain(store)
    disk.is_read_only = False
    files = [shelves.state_dir / DATABASE, shelves.state_dir / f"{DATABASE}-wal"]
    before = [path.read_bytes() for path in files]

    async def fail(*_: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    with monkeypatch.context() as patch:
        patch.setattr(Frozen, "_copy", fail)
        assert await store._frozen.write_down(store._around.room) == "malformed"
        await shelves.close()
    assert [path.read_bytes() for path in files] == before
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.events == []
    assert sorted(await shelves.drain(store)) == put


async def test_a_disk_that_is_full_while_it_is_written_down(shelves, fill, freeze, monkeypatch) -> None:
    """SQLite has ended the transaction by itself then: it is said what is wrong, and nothing is changed."""
    put = await fill(dies=True)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    # What is refused is kept in a drawer: that needs pages of its own.
    while (lease := await shelves.lease(store)) is not None:
        store.refuse(lease, "refused", "no")
    await store._committer.commit()
    disk.is_read_only = False
    real = frozen_module.open_writer

    async def open_full(*path: object, **more: object):
        writer = await real(*path, **more)
        # Less than there are already: as many as there are.
        await writer.execute_fetchall("PRAGMA max_page_count = 1")
        return writer

    with monkeypatch.context() as patch:
        patch.setattr(frozen_module, "open_writer", open_full)
        assert "the disk is full" in await store._frozen.write_down(store._around.room)
        await shelves.close()
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.events == []
    assert store.status()["store"]["refused"] == 0
    assert sorted(await shelves.drain(store)) == put


async def test_a_disk_that_fails_while_it_is_written_down(shelves, fill, freeze, monkeypatch, caplog) -> None:
    """It is said, and what was sent is sent again."""
    await fill(dies=True)
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    await shelves.drain(store)
    disk.is_read_only = False
    for failure in (OSError(errno.EIO, "Input/output error"), StoreError("no"), frozen_module.DamagedError("why")):

        def fail(_: object, failure: Exception = failure) -> None:
            raise failure

        monkeypatch.setattr(frozen_module, "look", fail)
        said = getattr(failure, "strerror", None) or str(failure)
        assert said in await store._frozen.write_down(store._around.room)
    await shelves.close()
    assert "could not be written down" in caplog.text


async def test_more_segments_than_memory_has_room_for(shelves, fill, freeze, monkeypatch) -> None:
    """The most important go, the rest is said to wait; the accounts know of all."""
    put = await fill(dies=True)
    monkeypatch.setattr(frozen_module, "ROWS_MAX", 8)
    monkeypatch.setattr(frozen_module, "BATCH_ROWS", 3)
    freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert "22 segments wait for the next start" in store.status()["store"]["trouble"]
    assert store.status()["uplinks"]["cloud"]["held"] == len(put)
    lease = await shelves.lease(store, "spare")
    assert lease.segments[0].priority is Priority.CRITICAL
    sent = await shelves.drain(store)
    assert 0 < len(sent) < len(put)
    shelves.check(store)


async def test_what_is_too_old_goes_as_ever(shelves, fill, freeze) -> None:
    """In memory, and on the disk when that can be written."""
    put = await fill(dies=True, max_age=60)
    disk = freeze()
    shelves.clock.advance(100 * NS_PER_S)
    store = await shelves.open(uplinks=("cloud", "spare"), max_age=60)
    await store.tend()
    await store._committer.commit()
    assert store.status()["uplinks"]["cloud"]["ledger"]["expired_age"] == len(put)
    disk.is_read_only = False
    await shelves.close()
    assert verify(shelves.state_dir).readings == 0
    assert verify(shelves.state_dir).problems == []


async def test_a_body_that_is_damaged_is_in_the_ledger(shelves, fill, freeze, monkeypatch) -> None:
    """Each segment's own checksum tells; one that is gone is as good as damaged."""
    await fill(dies=False)
    freeze()
    store = await shelves.open(uplinks=("cloud", "spare"), recent_bytes=0)
    real = store._frozen.body
    spoilt = iter([None, b"no segment"])
    monkeypatch.setattr(store._frozen, "body", lambda where: next(spoilt, real(where)))
    await shelves.drain(store)
    assert store.status()["uplinks"]["cloud"]["ledger"]["damaged"] > 0
    shelves.check(store)


async def test_a_place_where_nothing_is(shelves, fill) -> None:
    """The file is not what it was when it was read."""
    await fill(dies=False)
    found = await Frozen.open(shelves.state_dir / DATABASE)
    assert found.body(frozen_module._PLACE.pack(10**6, 100, 5)) is None
    assert found.body(frozen_module._PLACE.pack(1, 8, 5)) is None
    await found.close()


async def test_what_can_go_on_is_no_shelf(shelves, freeze, tmp_path) -> None:
    """Nothing to send and nothing to be taken: the start says why."""
    freeze()
    with pytest.raises(StoreError, match="cannot open .*tidegate.db"):
        await shelves.open()


async def test_a_damaged_one_cannot_be_salvaged_there(shelves, fill, freeze) -> None:
    """Both are said: what is wrong with the file, and with the disk."""
    await fill(dies=False)
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute("UPDATE boots SET body = x'c1'")
    connection.commit()
    connection.close()
    freeze()
    with pytest.raises(StoreError, match=r"is damaged \(.*\), and it cannot be salvaged: attempt to write a readonly"):
        await shelves.open(uplinks=("cloud", "spare"))


async def test_a_stale_log_cannot_be_set_aside_there(shelves, fill, freeze, monkeypatch) -> None:
    """To read it as if it belonged to the file would be wrong."""
    monkeypatch.setattr(room, "LOG_BYTES_MIN", 16 << 10)
    monkeypatch.setattr(room, "LOG_SHARE", 1 << 20)
    await fill(dies=True)
    old = (shelves.state_dir / f"{DATABASE}-wal").read_bytes()
    store = await shelves.open(uplinks=("cloud", "spare"))
    for _ in range(30):
        await shelves.put(store, 50)
    await shelves.close()
    (shelves.state_dir / f"{DATABASE}-wal").write_bytes(old)
    freeze()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(starting, "set_log_aside", refuse)
    with pytest.raises(StoreError, match="earlier time.* cannot be salvaged: "):
        await shelves.open(uplinks=("cloud", "spare"))


async def test_a_file_that_cannot_be_read_either(shelves, fill, freeze, monkeypatch) -> None:
    """Then there is nothing left to do."""
    await fill(dies=False)
    freeze()

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(frozen_module, "PageFile", refuse)
    with pytest.raises(StoreError, match="cannot read .*Input/output error"):
        await shelves.open(uplinks=("cloud", "spare"))


async def test_too_many_uplinks_end_it_there_too(shelves, fill, freeze, monkeypatch) -> None:
    """With the sentence that they always end with."""
    await fill(dies=False)
    freeze()
    monkeypatch.setattr("gateway.store.membership.SLOTS_MAX", 2)
    with pytest.raises(StoreError, match="different uplinks"):
        await shelves.open(uplinks=("another",))


@pytest.mark.parametrize("name", [DATABASE, f"{DATABASE}-wal"])
async def test_a_file_of_another_user_is_as_good_as_a_disk_that_is_read_only(shelves, fill, monkeypatch, name) -> None:
    """Somebody ran it as root: SQLite opens the file to read, and only says so when the doors are open."""
    put = await fill(dies=True)
    theirs, real = shelves.state_dir / name, os.access
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: real(path, mode) and not (path == theirs and mode & os.W_OK))
        store = await shelves.open(uplinks=("cloud", "spare"))
        assert (
            f"writing to {theirs} is not allowed; give it to the user that runs" in store.status()["store"]["trouble"]
        )
        assert store.is_frozen
        assert sorted(await shelves.drain(store)) == sorted(put)
        assert not await store.can_be_written()
    assert await store.can_be_written()
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert not store.is_frozen
    assert await shelves.drain(store) == []


async def test_whether_it_can_be_written_is_tried(shelves, fill, freeze, monkeypatch) -> None:
    """A file that can be opened to write, and room for what comes: not before."""
    await fill(dies=True)
    assert not await (await shelves.open(uplinks=("cloud", "spare"))).can_be_written()
    await shelves.close()
    freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert await store.can_be_written()
    with monkeypatch.context() as patch:
        patch.setattr(frozen_module.disks, "free_bytes", lambda _: 0)
        assert not await store.can_be_written()
    with monkeypatch.context() as patch:
        patch.setattr(frozen_module.os, "access", lambda *_: False)
        assert not await store.can_be_written()

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(frozen_module.os, "fsync", refuse)
    assert not await store.can_be_written()


@pytest.mark.parametrize("dies", [True, False])
async def test_on_a_real_disk_that_is_read_only(shelves, loop_disk, dies) -> None:
    """As the kernel has it: after a power cut, or after a clean stop."""
    shelves.state_dir = loop_disk.path / "state"
    store = await shelves.open()
    put = [number for _ in range(20) for number in await shelves.put(store, 30)]
    if dies:
        saved = loop_disk.path / "saved"
        shutil.copytree(shelves.state_dir, saved)
    await shelves.close()
    if dies:
        shutil.rmtree(shelves.state_dir)
        saved.rename(shelves.state_dir)
    loop_disk.sync()
    loop_disk.go_read_only()
    store = await shelves.open()
    assert store.is_frozen
    assert f"the disk is read-only (mounted at {loop_disk.path})" in store.events[-1]
    assert sorted(await shelves.drain(store)) == put
    with pytest.raises(StoreError, match="another gateway"):
        await shelves.open()
    await shelves.close()


async def test_on_a_real_disk_that_was_mounted_read_only(shelves, make_small_disk) -> None:
    """It can be remounted while it runs; then what was sent is noted, and the next start is as ever."""
    disk = make_small_disk(32 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open()
    put = [number for _ in range(20) for number in await shelves.put(store, 30)]
    await shelves.close()
    (shelves.state_dir / "lock").unlink()
    disk.read_only()
    store = await shelves.open()
    lease = await shelves.lease(store, readings_max=1)
    store.ack(lease)
    assert not await store.can_be_written()
    disk.read_only(on=False)
    assert await store.can_be_written()
    await shelves.close()
    store = await shelves.open()
    assert store.events == []
    assert not store.is_frozen
    assert sorted(await shelves.drain(store) + numbers_of(lease)) == put
    await shelves.put(store, 1)
    shelves.check(store)
    await shelves.close()
