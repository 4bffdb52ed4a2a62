"""The file of names follows the commits, costs them nothing, and is mended by the next start."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sqlite3

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.store import disks, naming
from gateway.store.names import ANCHOR, FORGOTTEN, NAME, NAMES, read_records
from gateway.store.naming import ANCHOR_SEGMENTS, WASTE_BYTES_MIN
from gateway.store.reading import verify
from gateway.store.records import StoreError
from gateway.store.series import LOST_NAME, SeriesBounds


def numbers(state_dir, kind: int = NAME) -> list[int]:
    return [record.number for record in read_records(state_dir) if record.kind == kind]


async def put(shelves, store, *names: str) -> None:
    for name in names:
        series = store.resolve(Series((("device.id", "d1"),), name))
        await store.append([(Priority.NORMAL, Batch.of(series, shelves.clock.wall_ns(), np.array([1], np.int64)))])


def lose_tables(state_dir) -> None:
    connection = sqlite3.connect(state_dir / "tidegate.db")
    connection.executescript("UPDATE series SET body = x'00'; UPDATE series_copy SET body = x'00'")
    connection.close()


@pytest.fixture
def syncs(monkeypatch):
    """The files of names that were synced."""
    found = []
    fsync = os.fsync

    def spy(file: int) -> None:
        found.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    monkeypatch.setattr("os.fsync", spy)
    return found


async def test_a_name_is_written_after_its_commit_without_a_sync(shelves, syncs):
    """What a commit brings is in the file when the next one begins; synced it is at the end."""
    store = await shelves.open()
    assert syncs.count(f"{NAMES}.new") == 1
    syncs.clear()
    await put(shelves, store, "a", "b")
    await put(shelves, store, "a")
    assert numbers(shelves.state_dir) == [1, 2]
    assert NAMES not in syncs
    await shelves.close()
    assert syncs.count(NAMES) == 1


async def test_a_start_that_finds_all_in_place_writes_nothing(shelves, syncs):
    """A restart alone changes no byte of it."""
    store = await shelves.open()
    await put(shelves, store, "a")
    await shelves.close()
    before = (shelves.state_dir / NAMES).read_bytes()
    syncs.clear()
    await shelves.open()
    await shelves.close()
    assert (shelves.state_dir / NAMES).read_bytes() == before
    assert not {NAMES, f"{NAMES}.new"} & set(syncs)


async def test_a_kill_between_commit_and_name_is_made_up_for(shelves, tmp_path, monkeypatch):
    """What was committed and is not in the file is added by the next start."""
    store = await shelves.open()
    await put(shelves, store, "a")
    with monkeypatch.context() as patch:
        patch.setattr(store._committer.naming, "committed", lambda *_: None)
        await put(shelves, store, "b", "c")
        killed = tmp_path / "killed"
        shutil.copytree(shelves.state_dir, killed)
    await shelves.close()
    assert numbers(killed) == [1]
    assert "lacks 2 of them" in verify(killed).notes[0]
    store = await shelves.open(state_dir=killed)
    assert numbers(killed) == [1, 2, 3]
    await shelves.close(store)
    assert verify(killed).notes == []
    lose_tables(killed)
    store = await shelves.open(state_dir=killed)
    assert [store.series(number).name for number in (1, 2, 3)] == ["a", "b", "c"]


async def test_a_full_disk_costs_a_warning_and_no_commit(shelves, monkeypatch, caplog):
    """Commits go on; it is said once, counted each time, and made up for when there is room."""
    store = await shelves.open()
    await put(shelves, store, "a")
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(naming.os, "write", full)
        patch.setattr(disks, "free_bytes", lambda _: 0)
        await put(shelves, store, "b", "c")
        await store._committer.naming.tend()
    assert shelves.telemetry.value("tidegate_store_series_file_errors") == 2
    assert caplog.text.count("cannot be written, it is tried again") == 1
    assert numbers(shelves.state_dir) == [1]
    await store.tend()
    assert numbers(shelves.state_dir) == [1, 2, 3]
    await put(shelves, store, "d")
    assert numbers(shelves.state_dir)[-1] == 4
    await shelves.close()
    assert verify(shelves.state_dir).notes == []


async def test_half_a_record_is_not_the_end(shelves, monkeypatch):
    """Where the disk takes only a part, the rest is written anew."""
    store = await shelves.open()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(naming.os, "write", lambda file, data: write(file, data[:9]))
        await put(shelves, store, "a")
    await store.tend()
    assert numbers(shelves.state_dir) == [1]
    await shelves.close()
    assert verify(shelves.state_dir).notes == []


async def test_a_file_that_cannot_be_made_costs_no_start(shelves):
    """With a folder in its place, the gateway starts, takes data and says it."""
    (shelves.state_dir / NAMES).mkdir(parents=True)
    store = await shelves.open()
    await put(shelves, store, "a")
    assert shelves.telemetry.value("tidegate_store_series_file_errors") == 1
    assert not list(shelves.state_dir.glob(f"{NAMES}.new"))
    await shelves.close()
    (shelves.state_dir / NAMES).rmdir()
    await shelves.open()
    assert numbers(shelves.state_dir) == [1]


async def test_a_file_that_is_taken_away_is_made_again(shelves):
    """Removed while the gateway runs, it is there again within half a minute after the next name."""
    store = await shelves.open()
    await put(shelves, store, "a")
    (shelves.state_dir / NAMES).unlink()
    await put(shelves, store, "b")
    assert not (shelves.state_dir / NAMES).exists()
    await store.tend()
    assert numbers(shelves.state_dir) == [1, 2]


async def test_where_no_thread_begins_any_more_it_is_synced_all_the_same(shelves, syncs, monkeypatch):
    """As in a program whose interpreter ends: then nobody waits for the loop."""
    store = await shelves.open()
    await put(shelves, store, "a")

    async def refuse(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(naming.asyncio, "to_thread", refuse)
    await store._committer.naming.close()
    assert NAMES in syncs


async def test_half_a_new_file_is_taken_away(shelves):
    """A kill in the middle of writing it anew leaves nothing behind for good."""
    store = await shelves.open()
    await put(shelves, store, "a")
    await shelves.close()
    new = shelves.state_dir / f"{NAMES}.new"
    new.write_bytes(b"half")
    await shelves.open()
    assert not new.exists()
    assert numbers(shelves.state_dir) == [1]


async def test_a_link_in_its_place_is_refused(shelves, tmp_path):
    """Like all that is the gateway's, it may not lead elsewhere."""
    shelves.state_dir.mkdir()
    (shelves.state_dir / NAMES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        await shelves.open()


async def test_forgotten_names_are_written_off_and_make_it_shorter(shelves, monkeypatch):
    """A forgotten series does not come back, and the file is written anew when half of it is waste."""
    monkeypatch.setattr(naming, "WASTE_BYTES_MIN", 2000)
    store = await shelves.open(max_series=1000, series=SeriesBounds(idle_s=10.0))
    sizes = []
    for wave in range(6):
        await put(shelves, store, *(f"{wave}-{n}" for n in range(20)))
        await shelves.drain(store)
        await store.append([])
        shelves.clock.advance(11 * NS_PER_S)
        await put(shelves, store, "kept")
        await store.tend()
        await store.append([])
        await store.tend()
        sizes.append((shelves.state_dir / NAMES).stat().st_size)
    assert store.status()["store"]["series_forgotten"] >= 60
    # A wave is longer than that by itself.
    assert max(sizes) < 400
    live = {number for number in range(1, 200) if store.series(number).name != LOST_NAME}
    await shelves.close()
    assert set(numbers(shelves.state_dir)) - set(numbers(shelves.state_dir, FORGOTTEN)) == live
    lose_tables(shelves.state_dir)
    store = await shelves.open(max_series=1000)
    assert len(store._registry) == len(live)
    assert WASTE_BYTES_MIN > 2000


async def test_a_segment_of_so_many_is_noted(shelves):
    """Where the state is lost, one that is held tells whose names these are."""
    store = await shelves.open()
    for _ in range(2 * ANCHOR_SEGMENTS + 1):
        await put(shelves, store, "a")
    anchors = numbers(shelves.state_dir, ANCHOR)
    assert len(anchors) <= 5
    assert all(later - earlier <= ANCHOR_SEGMENTS for earlier, later in itertools.pairwise(anchors))
    await shelves.close()
    assert numbers(shelves.state_dir, ANCHOR)[-1] == 2 * ANCHOR_SEGMENTS + 1


async def test_a_long_name_stands_in_the_tables_alone(shelves):
    """What would take the file to its bounds is no reason to write it anew each time."""
    store = await shelves.open()
    await put(shelves, store, "a", "long" * 30_000, "b")
    await shelves.close()
    for _ in range(2):
        await shelves.open()
        await shelves.close()
        assert numbers(shelves.state_dir) == [1, 3]
        assert verify(shelves.state_dir).notes == []
        (shelves.state_dir / NAMES).unlink()
    await shelves.open()
    assert verify(shelves.state_dir).notes == []
