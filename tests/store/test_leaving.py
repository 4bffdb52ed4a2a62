"""An uplink gets what it takes and nothing else, whatever it took before; what it leaves out is counted, and no loss."""

from __future__ import annotations

import shutil
import sqlite3

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.contracts import Priority, Signal
from gateway.core.units import Duration
from gateway.store import leaving
from gateway.store.accounts import decode_state
from gateway.store.connection import DATABASE
from gateway.store.reading import verify
from gateway.store.records import STATE_ID
from gateway.store.shelf import ShelfReader
from gateway.store.taking import taking

BOTH = ("all", "some")
CRITICAL, BULK = Priority.CRITICAL, Priority.BULK


def account(store, uplink: str = "some") -> tuple[int, int, int]:
    """Return delivered, held and left out."""
    found = store.status()["uplinks"][uplink]
    return found["delivered"], found["held"], found["left_out"]


async def test_what_is_not_taken_is_left_out_as_it_comes(shelves) -> None:
    """By class and signal, of readings, records and messages; the other uplink gets all of it."""
    takes = {"some": taking(classes=["critical", "bulk"], signals=["metrics", "traces"])}
    store = await shelves.open(uplinks=BOTH, takes=takes)
    wanted = await shelves.put(store, 3, priority=CRITICAL)
    others = await shelves.put(store, 5)
    await store.append([], logs=shelves.logs(store, "100", "101"))
    messages = [(priority, shelves.messages(b"7", count=4)) for priority in (Priority.NORMAL, BULK)]
    await store.append([], records=messages)
    assert account(store) == (0, 7, 11)
    assert shelves.by_class(store, "some") == (3, 0, 4)
    while (lease := await shelves.lease(store, "some")) is not None:
        store.ack(lease)
    assert account(store) == (7, 0, 11)
    assert store.status()["uplinks"]["some"]["ledger"] == {}
    assert account(store, "all") == (0, 18, 0)
    assert not store.has_some("some")
    shelves.check(store)
    assert set(wanted).isdisjoint(others)


async def test_what_is_not_taken_wakes_nobody(shelves) -> None:
    """An uplink that waits for something to send does not look again and again for what is not its own."""
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(classes=["critical"])})
    assert await shelves.lease(store, "some") is None
    await shelves.put(store, 5)
    assert not store.has_some("some")
    assert store.has_some("all")
    assert store.outlook("some").arrived == (0, 0, 0)
    await shelves.put(store, 2, priority=CRITICAL)
    assert store.has_some("some")
    assert store.outlook("some").arrived == (2, 0, 0)


async def test_what_nobody_needs_any_more_is_gone_though_one_never_took_it(shelves) -> None:
    """The last one that wanted it has it: that is all."""
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(classes=["critical"])})
    await shelves.put(store, 5)
    await shelves.drain(store, "all")
    await shelves.put(store, 2, priority=CRITICAL)
    await shelves.drain(store, "all")
    await shelves.close()
    assert rows_of(shelves) == [2]


def rows_of(shelves) -> list[int]:
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        rows = connection.execute("SELECT readings FROM shelf WHERE id < ? ORDER BY id", (STATE_ID,)).fetchall()
    connection.close()
    return [readings for (readings,) in rows]


def state_of(shelves):
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchall()
    connection.close()
    return {share.name: share for share in decode_state(body).shares}


async def test_mappings_are_told_apart(shelves) -> None:
    """Each that an uplink names has segments of its own; what nobody names, and what no mapping makes, is not for it."""
    takes = {"some": taking(mappings=["x", "y"])}
    store = await shelves.open(uplinks=BOTH, takes=takes)
    x, y = await shelves.put(store, 3, made_by="x"), await shelves.put(store, 4, made_by="y")
    await shelves.put(store, 5, made_by="z")
    await shelves.put(store, 6)
    await store.append([], records=[(Priority.NORMAL, shelves.messages(b"1", signal=Signal.METRICS))])
    assert account(store) == (0, 7, 12)
    assert sorted(await shelves.drain(store, "some")) == x + y
    shelves.check(store)


async def test_the_gateways_own_words_are_for_everybody(shelves) -> None:
    """They are told apart only where an uplink takes what some mappings make."""
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(classes=["critical"])})
    assert store.own_origin == 0
    await shelves.close()
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(mappings=["x"])})
    series = store.resolve(Series((), "tidegate.own"))
    batch = Batch.of(series, shelves.clock.wall_ns(), np.arange(3))
    own = Batch(batch.series, batch.time_ns, batch.bits, batch.flags, store.own_origin)
    await store.append([(Priority.NORMAL, own)])
    assert account(store) == (0, 3, 0)


async def test_one_that_takes_less_leaves_out_what_is_held_for_it(shelves) -> None:
    """At its next start, exactly; what it has had stays delivered, and the other uplink still gets all."""
    store = await shelves.open(uplinks=BOTH)
    await shelves.put(store, 4)
    await shelves.drain(store, "some")
    await shelves.put(store, 8)
    kept = await shelves.put(store, 2, priority=CRITICAL)
    await shelves.close()
    takes = {"some": taking(classes=["critical"])}
    store = await shelves.open(uplinks=BOTH, takes=takes)
    assert account(store) == (4, 2, 8)
    assert any("8 readings held for it are left out" in event for event in store.events)
    assert store.status()["uplinks"]["some"]["takes"]["classes"] == ["critical"]
    assert "takes" not in store.status()["uplinks"]["all"]
    assert await shelves.drain(store, "some") == kept
    assert account(store, "all") == (0, 14, 0)
    shelves.check(store)
    await shelves.close()
    store = await shelves.open(uplinks=BOTH, takes=takes)
    assert account(store) == (6, 0, 8)
    assert not any("left out" in event for event in store.events)


async def test_one_that_takes_more_gets_what_comes_from_then_on(shelves) -> None:
    """What it left out stays left out, though it is still there for another; a new uplink gets all of that."""
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(signals=["logs"])})
    before = await shelves.put(store, 5)
    await shelves.close()
    store = await shelves.open(uplinks=BOTH)
    assert account(store) == (0, 0, 5)
    after = await shelves.put(store, 3)
    assert await shelves.drain(store, "some") == after
    assert account(store) == (3, 0, 5)
    await shelves.close()
    assert state_of(shelves)["some"].takes == 0
    store = await shelves.open(uplinks=("all", "new"))
    assert sorted(await shelves.drain(store, "new")) == before + after
    shelves.check(store)


async def test_a_new_uplink_gets_of_what_is_held_what_it_takes(shelves) -> None:
    """What some mapping made is known of what was told apart when it came, and of nothing else."""
    store = await shelves.open(uplinks=("all", "old"), takes={"old": taking(mappings=["x"])})
    x = await shelves.put(store, 3, made_by="x")
    await shelves.put(store, 4)
    await shelves.close()
    store = await shelves.open(uplinks=("all", "new"), takes={"new": taking(mappings=["x"])})
    assert account(store, "new") == (0, 3, 4)
    assert await shelves.drain(store, "new") == x
    shelves.check(store)


async def test_one_that_comes_back_gets_of_what_came_meanwhile_what_it_takes(shelves) -> None:
    """It takes what it took: so it has to be looked at what came while nobody asked."""
    takes = {"some": taking(classes=["critical"])}
    await shelves.open(uplinks=BOTH, takes=takes)
    await shelves.close()
    store = await shelves.open(uplinks=("all",))
    await shelves.put(store, 5)
    kept = await shelves.put(store, 2, priority=CRITICAL)
    await shelves.close()
    store = await shelves.open(uplinks=BOTH, takes=takes)
    assert account(store) == (0, 2, 5)
    assert await shelves.drain(store, "some") == kept
    shelves.check(store)


async def test_narrowed_by_mapping_it_keeps_what_these_made(shelves) -> None:
    """Which is read from the segments' headers, not from all of them."""
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(mappings=["x", "y"])})
    await shelves.put(store, 3, made_by="x")
    y = await shelves.put(store, 4, made_by="y")
    await shelves.close()
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(mappings=["y"])})
    assert account(store) == (0, 4, 3)
    assert await shelves.drain(store, "some") == y


async def test_much_is_left_out_with_several_commits(shelves, monkeypatch) -> None:
    """And looked at in parts."""
    monkeypatch.setattr(leaving, "LOOK_MAX", 3)
    monkeypatch.setattr(leaving, "COMMIT_MAX", 4)
    store = await shelves.open(uplinks=BOTH)
    for _ in range(11):
        await shelves.put(store, 2)
    commits = store.status()["store"]["commits"]
    await shelves.close()
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(classes=["critical"])})
    assert account(store) == (0, 0, 22)
    assert store.status()["store"]["commits"] >= commits + 3
    assert store._committer.settling.done == {}
    shelves.check(store)


async def test_a_kill_in_between_costs_nothing(shelves, monkeypatch, tmp_path) -> None:
    """The next start goes on where that one was: each commit is right by itself."""
    monkeypatch.setattr(leaving, "LOOK_MAX", 2)
    monkeypatch.setattr(leaving, "COMMIT_MAX", 2)
    store = await shelves.open(uplinks=BOTH)
    for _ in range(8):
        await shelves.put(store, 1)
    await shelves.close()
    copies = []
    rows = ShelfReader.rows

    async def copy_and_read(reader, start, end, **how):
        copies.append(tmp_path / str(len(copies)))
        shutil.copytree(shelves.state_dir, copies[-1])
        return await rows(reader, start, end, **how)

    takes = {"some": taking(classes=["critical"])}
    with monkeypatch.context() as patch:
        patch.setattr(ShelfReader, "rows", copy_and_read)
        store = await shelves.open(uplinks=BOTH, takes=takes)
    await shelves.close()
    assert len(copies) > 5
    for place in copies:
        assert verify(place).problems == []
        store = await shelves.open(uplinks=BOTH, takes=takes, state_dir=place)
        assert account(store) == (0, 0, 8)
        assert account(store, "all") == (0, 8, 0)
        shelves.check(store)
        await shelves.close()


async def test_who_takes_what_it_took_looks_at_nothing(shelves, monkeypatch) -> None:
    """However much is held."""
    takes = {"some": taking(mappings=["x"], classes=["critical"])}
    store = await shelves.open(uplinks=BOTH, takes=takes)
    await shelves.put(store, 4, priority=CRITICAL, made_by="x")
    await shelves.close()

    async def fail(*_, **__):
        raise AssertionError("it reads")

    with monkeypatch.context() as patch:
        patch.setattr(ShelfReader, "rows", fail)
        patch.setattr(ShelfReader, "origins", fail)
        store = await shelves.open(uplinks=BOTH, takes=takes)
    assert account(store) == (0, 4, 0)


async def test_a_shelf_that_cannot_be_written_gives_only_what_is_taken(shelves, freeze) -> None:
    """What is left out is remembered, and written down when the disk can be written again."""
    store = await shelves.open(uplinks=BOTH)
    x = await shelves.put(store, 3, made_by="x")
    await shelves.put(store, 4, made_by="y")
    await shelves.close()
    disk = freeze()
    takes = {"some": taking(mappings=["x"])}
    store = await shelves.open(uplinks=BOTH, takes=takes)
    assert store.is_frozen
    assert account(store) == (0, 3, 4)
    assert await shelves.drain(store, "some") == x
    disk.is_read_only = False
    await shelves.close()
    store = await shelves.open(uplinks=BOTH, takes=takes)
    assert account(store) == (3, 0, 4)
    shelves.check(store)


async def test_a_salvaged_shelf_gives_only_what_is_taken(shelves) -> None:
    """Nobody knows any more what its rows said of who needs them: so it is looked at anew."""
    takes = {"some": taking(classes=["critical"])}
    store = await shelves.open(uplinks=BOTH, takes=takes, max_age=Duration(10**6))
    kept = await shelves.put(store, 2, priority=CRITICAL)
    for _ in range(4):
        await shelves.put(store, 5)
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("UPDATE shelf SET done = done | (1 << 40) WHERE id < ?", (STATE_ID,))
        connection.execute(
            "UPDATE shelf SET readings = 'none' WHERE id = (SELECT max(id) FROM shelf WHERE id < ?)", (STATE_ID,)
        )
    connection.close()
    store = await shelves.open(uplinks=BOTH, takes=takes)
    assert any("salvaged" in event for event in store.events)
    shelves.check(store)
    assert store.status()["uplinks"]["some"]["held_by_class"]["normal"] == 0
    assert await shelves.drain(store, "some") == kept
    assert store.status()["uplinks"]["some"]["left_out"] >= 15


async def test_who_checks_the_disk_finds_it_counted(shelves) -> None:
    """The account adds up for whoever reads it there, whether all is taken or not."""
    store = await shelves.open(uplinks=BOTH, takes={"some": taking(classes=["critical"])})
    await shelves.put(store, 5)
    await shelves.put(store, 2, priority=CRITICAL, made_by="x")
    await shelves.close()
    report = verify(shelves.state_dir)
    assert report.problems == []
    assert report.uplinks["some"] == {"delivered": 0, "held": 2, "ledger": 0, "left_out": 5}
    assert report.uplinks["all"] == {"delivered": 0, "held": 7, "ledger": 0}


@pytest.mark.parametrize("kind", ["class", "mapping"])
async def test_where_it_is_says_that_it_is_left_out(shelves, kind) -> None:
    """For whoever follows a message: not sent, and nothing to wait for."""
    takes = {"some": taking(classes=["critical"]) if kind == "class" else taking(mappings=["x"])}
    store = await shelves.open(uplinks=BOTH, takes=takes)
    await shelves.put(store, 2, made_by="y")
    (segment_id,) = store.newest_segments
    assert await store.whereabouts([segment_id]) == {segment_id: {"all": "held", "some": "left_out"}}
