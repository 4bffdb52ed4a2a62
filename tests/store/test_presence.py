"""Files that were deleted, moved or replaced while they are open are noticed, and nobody else's are harmed."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from gateway.core.contracts import FullError
from gateway.store.presence import Presence
from gateway.store.reading import verify


@pytest.fixture
def path(tmp_path):
    """Two files that stand for a database and its log."""
    folder = tmp_path / "state"
    folder.mkdir()
    found = folder / "tidegate.db"
    found.write_bytes(b"database")
    log_of(found).write_bytes(b"log")
    return found


def log_of(path):
    return path.with_name("tidegate.db-wal")


def test_files_in_their_places(path) -> None:
    """However they grow; a log that is made later is the one from then on."""
    log_of(path).unlink()
    presence = Presence(path)
    assert presence.look() == ""
    log_of(path).write_bytes(b"log")
    assert presence.look() == ""
    path.write_bytes(b"more")
    assert presence.look() == ""
    log_of(path).unlink()
    assert presence.look() != ""


@pytest.mark.parametrize("name", ["tidegate.db", "tidegate.db-wal"])
def test_a_file_that_is_deleted_or_replaced_or_comes_back(path, name) -> None:
    """It is named, with what to do; who moves it back sets it right."""
    presence = Presence(path)
    file = path.with_name(name)
    file.rename(path.with_name("aside"))
    words = f"{file} was deleted, moved away or replaced while the gateway uses it: nothing new is taken"
    assert presence.look().startswith(words)
    file.write_bytes(b"another")
    assert presence.look().startswith(words)
    path.with_name("aside").rename(file)
    assert presence.look() == ""


def test_a_directory_that_is_moved_away(path) -> None:
    """Its files are not where they were."""
    presence = Presence(path)
    path.parent.rename(path.parent.with_name("moved"))
    assert presence.look().startswith(f"{path} was deleted, moved away")
    assert "Move it back, or restart" in presence.look()
    path.parent.with_name("moved").rename(path.parent)
    assert presence.look() == ""


def test_a_disk_that_is_unmounted(path) -> None:
    """A new start would go on on another disk: that is for a person to say."""
    presence = Presence(path)
    path.unlink()
    assert presence.may_begin_anew(0)
    assert not presence.may_begin_anew(1)
    device, inode = presence._database
    presence._database = device + 1, inode
    assert presence.look().startswith(f"another disk is mounted at {path.parent}")
    assert not presence.may_begin_anew(0)


def test_a_log_alone_is_no_loss(path) -> None:
    """The database is closed in order, and has all of it then."""
    presence = Presence(path)
    log_of(path).unlink()
    assert presence.has_database
    assert presence.may_begin_anew(5)


@pytest.mark.parametrize("is_other", [False, True])
def test_a_log_of_somebody_elses_stays_when_ours_is_closed(path, is_other) -> None:
    """SQLite removes by name what it takes for its own."""
    presence = Presence(path)
    if is_other:
        log_of(path).rename(path.with_name("aside"))
        log_of(path).write_bytes(b"another")
    with presence.spare_others():
        log_of(path).unlink(missing_ok=True)
    assert log_of(path).exists() == is_other
    assert [file.name for file in path.parent.iterdir() if "kept" in file.name] == []


# A shelf whose files are taken away.


async def test_nothing_is_acknowledged_into_a_deleted_file(shelves, caplog) -> None:
    """It is refused with what to do; what is held is still sent, and then a new start is in order."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    for file in shelves.state_dir.iterdir():
        file.unlink()
    for _ in range(3):
        with pytest.raises(FullError, match="was deleted, moved away or replaced"):
            await shelves.put(store, 1)
    assert store.status()["accepted"] == 5
    assert "nothing new is taken" in store.status()["store"]["trouble"]
    assert [record.message for record in caplog.records] == [store.status()["store"]["trouble"]]
    assert (store.is_taking, store.is_writing, store.is_closed) == (False, False, True)
    assert not await store.can_be_written()
    assert await shelves.drain(store) == put
    assert await store.can_be_written()
    await store.tend()
    await shelves.close()
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


@pytest.mark.parametrize("when_full", ["refuse", "drop_oldest"])
async def test_a_directory_that_is_gone_when_something_comes(shelves, when_full) -> None:
    """Who brings it is told so, before anybody has looked."""
    await shelves.open(when_full=when_full)
    await shelves.close()
    store = await shelves.open(when_full=when_full)
    shelves.state_dir.rename(shelves.state_dir.with_name("moved"))
    with pytest.raises(FullError, match="was deleted, moved away or replaced"):
        await shelves.put(store, 1)


async def test_who_rested_when_the_directory_went_sends_what_is_held(shelves, monkeypatch) -> None:
    """The last commit allowed it nothing, and where none succeeds any more no other does."""

    async def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    store = await shelves.open()
    put = await shelves.put(store, 5)
    store.rest("cloud", 3600.0)
    await store.append([])
    shelves.state_dir.rename(shelves.state_dir.with_name("moved"))
    assert store._desks["cloud"].allowance.left == 0
    monkeypatch.setattr(store._committer, "_write", fail)
    assert await asyncio.wait_for(shelves.drain(store), 10) == put
    monkeypatch.undo()


async def test_a_directory_that_is_moved_and_moved_back(shelves, caplog) -> None:
    """It is noticed while nothing comes, and goes on as if nothing had been."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    moved = shelves.state_dir.with_name("moved")
    shelves.state_dir.rename(moved)
    store.look_at_files()
    assert store.is_closed
    await store.tend()
    store.ack(await shelves.lease(store))
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    moved.rename(shelves.state_dir)
    store.look_at_files()
    assert store.is_taking
    assert store.is_writing
    put = await shelves.put(store, 3)
    assert store.status()["store"]["trouble"] == ""
    assert caplog.records[-1].message == "the files are in their places again: the store takes data again"
    await shelves.close()
    store = await shelves.open()
    assert await shelves.drain(store) == put
    shelves.check(store)


async def test_a_deleted_log_is_saved_by_a_new_start(shelves) -> None:
    """All that it held moves into the database when that is closed."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    (shelves.state_dir / "tidegate.db-wal").unlink()
    with pytest.raises(FullError, match="until it has started anew, which it does by itself"):
        await shelves.put(store, 1)
    assert await store.can_be_written()
    await shelves.close()
    store = await shelves.open()
    assert store.events == []
    assert await shelves.drain(store) == put
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


@pytest.mark.parametrize("notices", ["the next who brings something", "the housekeeping"])
async def test_what_a_deleted_log_holds_is_in_the_file_at_once(shelves, numbers, loop_disk, notices) -> None:
    """A process that is killed before its own restart loses nothing, and what was sent until then is known."""
    shelves.state_dir = loop_disk.path / "state"
    store = await shelves.open()
    put = [number for _ in range(20) for number in await shelves.put(store, 5)]
    (shelves.state_dir / "tidegate.db-wal").unlink()
    if notices == "the housekeeping":
        store.look_at_files()
    else:
        with pytest.raises(FullError, match="until it has started anew"):
            await shelves.put(store, 1)
    lease = await shelves.lease(store, readings_max=5)
    store.ack(lease)
    await store._committer.commit()
    copy = loop_disk.path / "copy"
    copy.mkdir()
    (copy / "tidegate.db").write_bytes((shelves.state_dir / "tidegate.db").read_bytes())
    other = await shelves.open(state_dir=copy)
    assert sorted(numbers(lease) + await shelves.drain(other)) == put
    assert verify(copy).problems == []
    await shelves.close()


async def test_a_database_that_turns_out_damaged_when_a_deleted_log_is_saved(shelves, monkeypatch) -> None:
    """It is salvaged by the next start, and nothing else ends."""
    store = await shelves.open()
    await shelves.put(store, 5)
    (shelves.state_dir / "tidegate.db-wal").unlink()
    real = store._committer.connection.execute_fetchall

    async def fails(sql, *values):
        if "wal_checkpoint" in sql:
            raise sqlite3.DatabaseError("malformed")
        return await real(sql, *values)

    monkeypatch.setattr(store._committer.connection, "execute_fetchall", fails)
    store.look_at_files()
    await store._committer.commit()
    assert store.is_damaged


async def test_what_is_lost_with_a_deleted_file_is_said(shelves, caplog) -> None:
    """When the gateway is stopped all the same."""
    store = await shelves.open()
    await shelves.put(store, 5)
    (shelves.state_dir / "tidegate.db").unlink()
    await shelves.close()
    assert "5 readings that were not sent are in the file that was taken away, or gone with it" in caplog.text


async def test_a_backup_that_is_put_back_while_the_gateway_runs(shelves) -> None:
    """Its log is not removed with ours."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    backup = shelves.state_dir.with_name("backup")
    backup.mkdir()
    for name in ("tidegate.db", "tidegate.db-wal"):
        (backup / name).write_bytes((shelves.state_dir / name).read_bytes())
        (shelves.state_dir / name).unlink()
        (backup / name).rename(shelves.state_dir / name)
    await shelves.close()
    store = await shelves.open()
    assert await shelves.drain(store) == put


async def test_a_damaged_shelf_is_not_looked_for(shelves) -> None:
    """What is wrong with it is said already."""
    store = await shelves.open()
    store._committer.damaged("why")
    (shelves.state_dir / "tidegate.db").unlink()
    store.look_at_files()
    assert "is damaged (why)" in store.status()["store"]["trouble"]
