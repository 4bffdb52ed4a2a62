"""What no uplink takes makes room before anything that is still to be sent, and is nobody's loss."""

from __future__ import annotations

import pytest

from gateway.core.contracts import FullError, Priority
from gateway.core.units import Duration, Size
from gateway.store import unwanted
from gateway.store.reading import read_held, verify
from gateway.store.segments import decode_metrics
from gateway.store.taking import taking

SMALL = {"max_bytes": Size(1 << 20), "max_age": Duration(3600)}
PIECE = 30_000
CRITICAL, NORMAL, BULK = Priority
TAKES = {"cloud": taking(classes=["normal"])}


def ledger(store) -> dict[str, int]:
    return store.status()["uplinks"]["cloud"]["ledger"]


async def fill(shelves, store, *priorities: Priority) -> int:
    """Put a piece of each; return how many readings there are."""
    return sum([await shelves.put_noise(store, PIECE, priority=priority) for priority in priorities])


async def test_it_stays_while_there_is_room(shelves) -> None:
    """Somebody may want it yet: an uplink that comes gets it."""
    store = await shelves.open(takes=TAKES, **SMALL)
    readings = await fill(shelves, store, BULK, BULK)
    await store.tend()
    await fill(shelves, store, NORMAL)
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "new"), takes=TAKES, **SMALL)
    assert store.status()["uplinks"]["new"]["held_by_class"]["bulk"] == readings
    shelves.check(store)


@pytest.mark.parametrize("look_max", [2, 1024])
async def test_it_makes_room_first(shelves, monkeypatch, look_max) -> None:
    """Whatever its class: nothing is lost while any of it is there."""
    monkeypatch.setattr(unwanted, "LOOK_MAX", look_max)
    store = await shelves.open(takes=TAKES, **SMALL)
    await fill(shelves, store, *[CRITICAL, NORMAL, BULK] * 4)
    assert ledger(store) == {}
    wanted = store.status()["uplinks"]["cloud"]["held"]
    for _ in range(10):
        wanted += await fill(shelves, store, NORMAL)
        assert ledger(store) == {}
        assert store.status()["uplinks"]["cloud"]["held"] == wanted
    while not ledger(store):
        await fill(shelves, store, NORMAL)
    shelves.check(store)


async def test_it_is_looked_for_where_it_may_be(shelves, monkeypatch) -> None:
    """A full shelf without any is looked through once; what comes then is looked at alone."""
    store = await shelves.open(takes=TAKES, **SMALL)
    keeper = store._committer._keeper
    looked: list[int] = []
    look = unwanted.Unwanted._look

    async def count(self, shelf, first):
        rows = await look(self, shelf, first)
        looked.append(len(rows))
        return rows

    monkeypatch.setattr(unwanted.Unwanted, "_look", count)
    await fill(shelves, store, BULK)
    while not ledger(store):
        await fill(shelves, store, NORMAL)
    looked.clear()
    await fill(shelves, store, NORMAL, NORMAL, NORMAL)
    assert sum(looked) == 0
    assert not keeper._unwanted.may_be_some
    await fill(shelves, store, BULK)
    assert keeper._unwanted.may_be_some
    before = ledger(store)
    while not sum(looked):
        assert ledger(store) == before
        await fill(shelves, store, NORMAL)
    assert sum(looked) == 1


async def test_a_shelf_that_refuses_lets_it_go_first(shelves) -> None:
    """What pushes back on the sources is only what is to be sent."""
    store = await shelves.open(takes=TAKES, when_full="refuse", **SMALL)
    for _ in range(12):
        await fill(shelves, store, BULK)
    wanted = 0
    for _ in range(10):
        wanted += await fill(shelves, store, NORMAL)
    assert store.status()["uplinks"]["cloud"]["held"] == wanted
    with pytest.raises(FullError):
        while True:
            wanted += await fill(shelves, store, NORMAL)
    assert store.status()["uplinks"]["cloud"]["held"] == wanted
    assert ledger(store) == {}
    shelves.check(store)


@pytest.mark.parametrize("unwanted_bytes", [2_000, 12_000])
async def test_a_shelf_that_refuses_has_as_much_room_as_without_it(shelves, unwanted_bytes) -> None:
    """Where it is less than what is let go to spare at once, too: nobody is turned away for want of a reserve."""
    there = []
    for has_unwanted in (False, True):
        store = await shelves.open(takes=TAKES, when_full="refuse", **SMALL)
        if has_unwanted:
            await shelves.put_noise(store, unwanted_bytes, priority=BULK)
        with pytest.raises(FullError):
            while True:
                await shelves.put_noise(store, 1_500, priority=NORMAL)
        there.append(store.status()["uplinks"]["cloud"]["held"])
        assert ledger(store) == {}
        shelves.check(store)
        await shelves.close()
        for file in shelves.state_dir.iterdir():
            file.unlink()
    assert there[1] >= 0.99 * there[0], there


@pytest.mark.parametrize("takes", [taking(mappings=["x"]), taking(classes=["normal"])])
async def test_it_stays_though_another_uplink_is_configured_no_more(shelves, takes) -> None:
    """Whether by class or by mapping: what is held for that one alone may leave some day, this is nobody's."""
    both = ("cloud", "old")
    store = await shelves.open(uplinks=both, takes=dict.fromkeys(both, takes))
    await shelves.put(store, 3, made_by="x")
    unwanted = await shelves.put(store, 4, made_by="y", priority=BULK)
    await shelves.drain(store)
    await shelves.close()
    store = await shelves.open(takes={"cloud": takes})
    for _ in range(3):
        await store.tend()
        await store.append([])
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "new"), takes={"cloud": takes})
    assert set(unwanted) <= {*await shelves.drain(store, "new")}
    shelves.check(store)


async def test_it_can_be_exported(shelves) -> None:
    """But is held for nobody."""
    store = await shelves.open(takes=TAKES)
    wanted, unwanted = await shelves.put(store, 3), await shelves.put(store, 4, priority=BULK)
    await shelves.close()
    with read_held(shelves.state_dir) as held:
        assert [n for segment in held for n in decode_metrics(segment.body).bits.tolist()] == wanted + unwanted
    report = verify(shelves.state_dir)
    assert (report.readings, report.left_out) == (len(wanted), len(unwanted))
    assert (
        report.summary() == "1 segment with 3 readings of 1 series, beside 4 readings that no uplink takes: all is well"
    )


async def test_it_goes_when_it_is_too_old(shelves) -> None:
    """As all else; and stands in no ledger."""
    store = await shelves.open(takes=TAKES, **SMALL)
    await fill(shelves, store, BULK)
    shelves.clock.advance(4000 * 10**9)
    await store.tend()
    await fill(shelves, store, NORMAL)
    assert ledger(store) == {}
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "new"), takes=TAKES, **SMALL)
    assert store.status()["uplinks"]["new"]["held_by_class"]["bulk"] == 0


async def test_a_commit_that_fails_finds_it_again(shelves, failing) -> None:
    """What was to make room is still there, and makes room the next time."""
    store = await shelves.open(takes=TAKES, **SMALL)
    for _ in range(16):
        await fill(shelves, store, BULK)
    used = store.status()["store"]["used_bytes"]
    while store.status()["store"]["used_bytes"] >= used:
        used = store.status()["store"]["used_bytes"]
        await fill(shelves, store, NORMAL)
    failing.errors = [OSError("no"), OSError("no")]
    for _ in range(2):
        with pytest.raises(FullError, match=r"^nothing can be written: no; commit failed"):
            await fill(shelves, store, NORMAL)
    for _ in range(8):
        await fill(shelves, store, NORMAL)
    assert ledger(store) == {}
    shelves.check(store)


async def test_what_is_kept_for_one_that_may_come_back_is_not_unwanted(shelves) -> None:
    """It goes first all the same, but is lost for that one."""
    store = await shelves.open(uplinks=("cloud", "old"), takes=TAKES, **SMALL)
    readings = await fill(shelves, store, *[BULK] * 4)
    await shelves.close()
    store = await shelves.open(takes=TAKES, **SMALL)
    old = store.status()["uplinks"]["old"]
    assert (old["held"], old["ledger"]) == (readings, {})
    while "evicted_full" not in store.status()["uplinks"]["old"]["ledger"]:
        await fill(shelves, store, NORMAL)
    assert 0 < store.status()["uplinks"]["old"]["ledger"]["evicted_full"] <= readings
    assert ledger(store) == {}
    shelves.check(store)
