"""What left while nothing could be written is noted beside the disk: the next process does not send it again."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from gateway.core.contracts import FullError, Priority
from gateway.store.reading import verify


@pytest.fixture
def notes(shelves, tmp_path):
    """Give the folder that outlives the process."""
    shelves.notes_dir = tmp_path / "run"
    shelves.notes_dir.mkdir()
    return shelves.notes_dir


@pytest.fixture
def fail(failing):
    """Have the disk turn read-only under a shelf that is open."""
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"

    async def turn(store) -> None:
        failing.errors = [error] * 100
        with pytest.raises(FullError):
            await store.append([], is_last=True)

    return turn


async def sends(shelves, store, numbers, *, times, uplink="cloud", rejected=0) -> list[int]:
    """Send so many leases of one segment each."""
    sent = []
    for _ in range(times):
        lease = await shelves.lease(store, uplink, readings_max=1)
        sent += numbers(lease)
        store.ack(lease, rejected=rejected)
    return sent


async def test_a_disk_that_turned_read_only_and_can_be_written_by_the_next_process(
    shelves, notes, numbers, failing, fail, caplog
) -> None:
    """Nothing is sent twice, nothing is counted as if it were, and the note is gone when it is written down."""
    store = await shelves.open(uplinks=("cloud", "spare"))
    put = [number for k in range(9) for number in await shelves.put(store, 5, priority=Priority(k % 3))]
    await fail(store)
    sent = await sends(shelves, store, numbers, times=3, rejected=1)
    spare = await sends(shelves, store, numbers, times=2, uplink="spare")
    before = store.status()
    await shelves.close()
    assert f"22 readings were sent and that could not be written down: that is noted in {notes}" in caplog.text
    failing.errors = []
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert "22 readings that were sent while nothing could be written are not sent again" in caplog.text
    assert store.events == []
    after = store.status()
    for name in ("cloud", "spare"):
        assert after["uplinks"][name] == before["uplinks"][name]
    assert after["uplinks"]["cloud"]["ledger"] == {"rejected": 3}
    assert after["uplinks"]["cloud"]["maybe_twice"] == 0
    assert list(notes.iterdir()) == []
    assert sorted(await shelves.drain(store) + sent) == put
    assert sorted(await shelves.drain(store, "spare") + spare) == put
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.status()["uplinks"]["cloud"]["held"] == 0


async def test_processes_one_after_the_other_on_a_disk_that_stays_read_only(
    shelves, notes, numbers, freeze, tmp_path
) -> None:
    """Each goes on where the one before has stopped; the first that can write has all of it."""
    store = await shelves.open(uplinks=("cloud", "spare"))
    put = [number for _ in range(9) for number in await shelves.put(store, 5)]
    store.rest("cloud", 60.0)
    store.rest("spare", 60.0)
    await store.append([])
    shutil.copytree(shelves.state_dir, tmp_path / "dead")
    await shelves.close()
    shelves.state_dir = tmp_path / "dead"
    disk = freeze()
    sent = []
    for _ in range(3):
        store = await shelves.open(uplinks=("cloud", "spare"))
        assert store.is_frozen
        assert store.status()["uplinks"]["cloud"]["held"] == len(put) - len(sent)
        sent += await sends(shelves, store, numbers, times=2)
        await sends(shelves, store, numbers, times=1, uplink="spare")
        await shelves.close()
    # One that sends nothing leaves the note as it is.
    await shelves.open(uplinks=("cloud", "spare"))
    await shelves.close()
    disk.is_read_only = False
    store = await shelves.open(uplinks=("cloud", "spare"))
    cloud = store.status()["uplinks"]["cloud"]
    assert (cloud["delivered"], cloud["maybe_twice"]) == (30, 0)
    assert sorted(await shelves.drain(store) + sent) == put
    assert len(await shelves.drain(store, "spare")) == 30
    shelves.check(store)
    assert list(notes.iterdir()) == []


async def test_what_is_kept_for_an_uplink_that_is_gone_stays(shelves, notes, numbers, failing, fail) -> None:
    """It may come back, and has not got what the other one has."""
    store = await shelves.open(uplinks=("cloud", "spare"))
    put = await shelves.put(store, 5)
    await shelves.close()
    store = await shelves.open()
    await fail(store)
    assert await sends(shelves, store, numbers, times=1) == put
    await shelves.close()
    failing.errors = []
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert await shelves.drain(store) == []
    assert await shelves.drain(store, "spare") == put
    shelves.check(store)


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_commit_that_failed_and_is_on_the_disk_all_the_same(
    shelves, notes, numbers, monkeypatch, failing, fail, is_held
) -> None:
    """It was written and could not be synced: what it brought was refused, and is held all the same, if it is there."""
    store = await shelves.open(uplinks=("cloud", "spare"))
    put = [number for _ in range(6) for number in await shelves.put(store, 5)]
    store.rest("cloud", 60.0)
    await store.append([])
    sent = await sends(shelves, store, numbers, times=2, rejected=1)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR, "SQLITE_IOERR_FSYNC"

    async def is_not_synced(connection, work):
        if is_held:
            await failing.real(connection, work)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.committer.write", is_not_synced)
        with pytest.raises(FullError):
            await shelves.put(store, 3)
    there = [*put, *(max(put) + number for number in (1, 2, 3))] if is_held else put
    await fail(store)
    sent += await sends(shelves, store, numbers, times=2, rejected=1)
    spare = await sends(shelves, store, numbers, times=1, uplink="spare")
    await shelves.close()
    failing.errors = []
    store = await shelves.open(uplinks=("cloud", "spare"))
    assert store.events == []
    cloud = store.status()["uplinks"]["cloud"]
    assert cloud["ledger"] == {"rejected": 4}
    assert cloud["maybe_twice"] == 0
    shelves.check(store)
    assert sorted(await shelves.drain(store) + sent) == there
    assert sorted(await shelves.drain(store, "spare") + spare) == there
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_an_eviction_that_failed_and_is_on_the_disk_all_the_same_is_not_noted(
    shelves, notes, numbers, monkeypatch, failing, fail
) -> None:
    """What it took away may have been sent since: the note says nothing then, and the accounts add up."""
    store = await shelves.open(max_age=10.0)
    await shelves.put(store, 5)
    shelves.clock.advance(60 * 10**9)
    await shelves.put(store, 5)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR, "SQLITE_IOERR_FSYNC"

    async def is_not_synced(connection, work):
        await failing.real(connection, work)
        raise error

    await store.tend()
    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.committer.write", is_not_synced)
        await store._committer.commit()
    await fail(store)
    await sends(shelves, store, numbers, times=2)
    await shelves.close()
    failing.errors = []
    store = await shelves.open(max_age=10.0)
    assert len(await shelves.drain(store)) == 5
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"expired_age": 5}
    shelves.check(store)


async def test_another_shelf_that_is_used_meanwhile_leaves_the_note_alone(
    shelves, notes, numbers, failing, fail, tmp_path
) -> None:
    """As where the gateway is given another disk until the first is mended."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    await fail(store)
    assert await sends(shelves, store, numbers, times=1) == put
    await shelves.close()
    failing.errors = []
    await shelves.open(state_dir=tmp_path / "another")
    await shelves.close()
    store = await shelves.open()
    assert await shelves.drain(store) == []
    assert store.status()["uplinks"]["cloud"]["delivered"] == 5


async def test_a_shelf_that_went_on_since_is_not_changed(shelves, notes, numbers, failing, fail) -> None:
    """The note is of another time: an old one on another disk must let nothing go that is held."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    await fail(store)
    await sends(shelves, store, numbers, times=1)
    await shelves.close()
    failing.errors = []
    shelves.notes_dir = None
    store = await shelves.open()
    put += await shelves.put(store, 5)
    await shelves.close()
    shelves.notes_dir = notes
    store = await shelves.open()
    assert sorted(await shelves.drain(store)) == put
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize("how", ["flipped", "cut", "not ours", "a link"])
async def test_a_note_that_is_damaged_says_nothing(shelves, notes, numbers, failing, fail, how) -> None:
    """What left is sent again then, as without one."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    await fail(store)
    await sends(shelves, store, numbers, times=1)
    await shelves.close()
    (note,) = notes.iterdir()
    data = bytearray(note.read_bytes())
    data[-1] ^= 1
    changed = {"flipped": data, "cut": data[:6], "not ours": b"x" * 100, "a link": b""}[how]
    if how == "a link":
        note.rename(notes / "other")
        note.symlink_to(notes / "other")
    else:
        note.write_bytes(changed)
    failing.errors = []
    store = await shelves.open()
    assert await shelves.drain(store) == put


@pytest.mark.parametrize("folder", ["none", "gone"])
async def test_without_such_a_folder_it_is_sent_again(shelves, notes, numbers, failing, fail, caplog, folder) -> None:
    """The log says so."""
    if folder == "none":
        shelves.notes_dir = None
    store = await shelves.open()
    put = await shelves.put(store, 5)
    await fail(store)
    await sends(shelves, store, numbers, times=1)
    notes.rmdir()
    await shelves.close()
    assert "5 readings were sent and that could not be written down: they are sent again" in caplog.text
    failing.errors = []
    store = await shelves.open()
    assert await shelves.drain(store) == put


async def test_on_a_real_disk_that_fails_and_is_mended(shelves, notes, numbers, loop_disk) -> None:
    """As the kernel has it: read-only under an open shelf, two processes on it, then mounted again."""
    shelves.state_dir = loop_disk.path / "state"
    store = await shelves.open()
    put = [number for _ in range(20) for number in await shelves.put(store, 30)]
    loop_disk.go_read_only()
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    sent = await sends(shelves, store, numbers, times=4)
    await shelves.close()
    store = await shelves.open()
    assert store.is_frozen
    sent += await sends(shelves, store, numbers, times=4)
    await shelves.close()
    loop_disk.unmount()
    loop_disk.mount()
    store = await shelves.open()
    assert sorted(await shelves.drain(store) + sent) == put
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 0
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_an_uplink_that_is_new_while_nothing_can_be_written(shelves, notes, numbers, freeze, tmp_path) -> None:
    """Its place among the uplinks is noted with what it was sent: else the next new one would be given the same."""
    store = await shelves.open()
    put = [number for _ in range(3) for number in await shelves.put(store, 5)]
    store.rest("cloud", 60.0)
    await store.append([])
    shutil.copytree(shelves.state_dir, tmp_path / "dead")
    await shelves.close()
    shelves.state_dir = tmp_path / "dead"
    disk = freeze()
    store = await shelves.open(uplinks=("cloud", "spare"))
    sent = await sends(shelves, store, numbers, times=1, uplink="spare")
    await shelves.close()
    disk.is_read_only = False
    for _ in range(2):
        store = await shelves.open(uplinks=("cloud", "spare", "third"))
        assert "damaged" not in " ".join(store.events)
        await shelves.close()
    store = await shelves.open(uplinks=("cloud", "spare", "third"))
    assert sorted(await shelves.drain(store, "spare") + sent) == put
    assert sorted(await shelves.drain(store, "third")) == put
    shelves.check(store)


async def test_a_disk_that_takes_little_at_the_end(shelves, notes, numbers, freeze, tmp_path, monkeypatch) -> None:
    """What was sent found no room there, and that the shelf was closed in order did: the note goes on from that too."""
    store = await shelves.open()
    put = [number for _ in range(3) for number in await shelves.put(store, 5)]
    store.rest("cloud", 60.0)
    await store.append([])
    shutil.copytree(shelves.state_dir, tmp_path / "dead")
    await shelves.close()
    shelves.state_dir = tmp_path / "dead"
    disk = freeze()
    store = await shelves.open()
    sent = await sends(shelves, store, numbers, times=2)
    disk.is_read_only = False

    async def fill(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.frozen.transact", fill)
        await shelves.close()
    store = await shelves.open()
    assert sorted(await shelves.drain(store) + sent) == put
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 0
    shelves.check(store)
