"""What of a damaged file comes into the new one, and what of it is certain."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from gateway.core.contracts import Priority
from gateway.store import salvage as salvage_module
from gateway.store.connection import DATABASE, PAGE_BYTES
from gateway.store.pagefile import PageFile
from gateway.store.pages import FRAME_HEADER_BYTES
from gateway.store.reading import verify
from gateway.store.records import STATE_ID, where_from
from gateway.store.salvage import salvage
from gateway.store.survey import SHELF, Survey
from gateway.store.triage import ROOM_LEFT_BYTES, ROOM_SHARE

LOG = f"{DATABASE}-wal"


@pytest.fixture
async def lived(shelves, tmp_path):
    """A shelf whose free pages hold much that was delivered; closed, and as it was before, with a log."""
    store = await shelves.open()
    delivered = []
    for number in range(60):
        delivered += await shelves.put(store, 20 + number)
    await shelves.drain(store)
    held = []
    for number in range(30):
        held += await shelves.put(store, 20 + number, priority=Priority(number % 3))
    crashed = tmp_path / "crashed"
    shutil.copytree(shelves.state_dir, crashed)
    await shelves.close()
    return shelves.state_dir, crashed, held


def change(path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def leaf_in_the_middle(path) -> int:
    with PageFile(path) as pages:
        numbers = Survey(pages).trees[SHELF].numbers
        return numbers[len(numbers) // 2]


def held_in(state_dir) -> tuple[int, dict[str, int]]:
    report = verify(state_dir)
    assert report.problems == []
    return report.readings, report.uplinks["cloud"]


async def test_what_was_delivered_does_not_come_back_where_the_tree_is_whole(lived) -> None:
    """Though nobody knows which pages are free."""
    state_dir, _, held = lived
    change(state_dir / DATABASE, 0, bytes(PAGE_BYTES))
    salvaged = salvage(state_dir, wall_ns=10**18)
    assert "lost: nothing;" in salvaged.sentence("a test")
    assert held_in(state_dir)[0] == len(held)


async def test_only_what_belongs_where_something_is_missing_may_come_back(lived) -> None:
    """Of a page that is gone the range is known."""
    state_dir, _, held = lived
    change(state_dir / DATABASE, 0, bytes(PAGE_BYTES))
    change(state_dir / DATABASE, (leaf_in_the_middle(state_dir / DATABASE) - 1) * PAGE_BYTES, bytes(PAGE_BYTES))
    salvaged = salvage(state_dir, wall_ns=10**18)
    assert salvaged.is_newest
    least, most = salvaged.lost["cloud"]
    assert 0 < least <= most < 500
    readings, uplink = held_in(state_dir)
    assert len(held) - most <= readings <= len(held) - least
    assert uplink["ledger"] == most


async def test_leaves_below_an_inner_page_that_is_gone_are_certain(lived) -> None:
    """They are neither free nor led to."""
    state_dir, _, held = lived
    with PageFile(state_dir / DATABASE) as pages:
        root = pages.roots()["shelf"]
    change(state_dir / DATABASE, (root - 1) * PAGE_BYTES, bytes(PAGE_BYTES))
    salvaged = salvage(state_dir, wall_ns=10**18)
    assert "lost: nothing;" in salvaged.sentence("a test")
    readings, uplink = held_in(state_dir)
    assert (readings, uplink["ledger"]) == (len(held), 0)


async def test_a_frame_that_may_be_any_pages_is_read_and_not_believed(lived) -> None:
    """What is on it is kept; what is on pages that it may have been is as it was before, perhaps."""
    _, crashed, held = lived
    with PageFile(crashed / DATABASE) as pages:
        leaf = leaf_in_the_middle(crashed / DATABASE)
        place, other = pages.log.newest[leaf], pages.log.frames[0][1]
        lost = sum(values[2] for row_id, values in pages.rows_at(leaf) if row_id != STATE_ID)
        head = pages.log.data[other - FRAME_HEADER_BYTES : other]
    change(crashed / LOG, place - FRAME_HEADER_BYTES, head)
    salvaged = salvage(crashed, wall_ns=10**18)
    assert salvaged.is_newest
    least, most = salvaged.lost["cloud"]
    assert (least, lost > 0, most > 0) == (0, True, True)
    assert held_in(crashed)[0] >= len(held)


async def test_what_only_such_a_frame_has_is_kept(lived) -> None:
    """Its rows carry their own checksums."""
    _, crashed, held = lived
    with PageFile(crashed / DATABASE) as pages:
        places = [place for _, place in pages.log.frames]
    for count, place in enumerate(places):
        if count % 3:
            # Its salt says of which log a frame is.
            change(crashed / LOG, place - FRAME_HEADER_BYTES + 8, b"XXXX")
    salvaged = salvage(crashed, wall_ns=10**18)
    assert "lost: nothing;" not in salvaged.sentence("a test")
    with sqlite3.connect(crashed / DATABASE) as connection:
        ((readings,),) = connection.execute("SELECT sum(readings) FROM shelf")
    connection.close()
    assert readings >= len(held)


async def test_a_log_of_an_earlier_time_is_passed_over(lived, shelves) -> None:
    """Its pages would stand before newer ones."""
    state_dir, crashed, held = lived
    store = await shelves.open()
    for number in range(20):
        held += await shelves.put(store, 10 + number)
    await shelves.close()
    shutil.copy(crashed / LOG, state_dir / LOG)
    salvaged = salvage(state_dir, wall_ns=10**18)
    assert "lost: nothing;" in salvaged.sentence("a test")
    assert held_in(state_dir)[0] == len(held)


@pytest.mark.parametrize("share", [0.25, 0.5])
async def test_on_a_small_disk_the_most_important_is_kept(shelves, monkeypatch, share) -> None:
    """And of a class that has not room for all the newest."""
    store = await shelves.open()
    held = sum([await shelves.put_noise(store, 5000, priority=Priority(number % 3)) for number in range(90)])
    await shelves.close()
    path = shelves.state_dir / DATABASE
    room_bytes = int(path.stat().st_size * share / ROOM_SHARE) + ROOM_LEFT_BYTES
    monkeypatch.setattr(salvage_module, "free_bytes", lambda _: room_bytes)
    monkeypatch.setattr(salvage_module, "make_room", lambda *_, **__: False)
    salvaged = salvage(shelves.state_dir, wall_ns=10**18)
    assert "no room for the rest" in salvaged.sentence("a test")
    assert path.stat().st_size < room_bytes
    readings, uplink = held_in(shelves.state_dir)
    assert salvaged.lost["cloud"] == (held - readings, held - readings)
    assert uplink["ledger"] == held - readings
    with sqlite3.connect(path) as connection:
        ids = [row_id for (row_id,) in connection.execute("SELECT id FROM shelf WHERE id < ?", (STATE_ID,))]
    connection.close()
    kept = {
        priority: sorted(where_from(row_id)[2] for row_id in ids if where_from(row_id)[0] is priority)
        for priority in Priority
    }
    assert 90 * share * 0.8 < len(ids) <= 90 * share
    cut = Priority.CRITICAL if share < 1 / 3 else Priority.NORMAL
    # A page that holds two classes is kept as a whole: some old ones stay on it.
    for priority in Priority:
        every = list(range(1 + priority, 91, 3))
        newest = every if priority < cut else every[30 - max(len(kept[priority]) - 8, 0) :] if priority is cut else []
        assert set(newest) <= set(kept[priority])
        assert len(kept[priority]) <= len(newest) + 8
