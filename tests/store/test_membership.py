"""An uplink that is configured no more keeps what is its own for a while; then it is in the ledger, not nowhere."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3

import pytest

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.core.units import Duration, Size
from gateway.store import membership
from gateway.store.connection import DATABASE
from gateway.store.database import Loss
from gateway.store.reading import read_held, verify
from gateway.store.room import Candidate
from gateway.store.writer import ROW_BYTES

DAY_S = 86_400
MIB = 1 << 20


def account(store, name: str) -> dict:
    return store.status()["uplinks"][name]


async def reopen(shelves, *uplinks: str, **settings):
    await shelves.close()
    return await shelves.open(uplinks=uplinks, **settings)


@pytest.fixture
async def both(shelves):
    """Two uplinks: `gone` has 3 of 10 readings, `stays` has 5."""
    store = await shelves.open(uplinks=("stays", "gone"))
    for _ in range(10):
        await shelves.put(store, 1)
    for name, count in (("gone", 3), ("stays", 5)):
        for _ in range(count):
            store.ack(await shelves.lease(store, name, readings_max=1))
    await store.append([])
    return store


async def test_what_is_held_for_it_is_kept_and_said(shelves, both, caplog) -> None:
    """In the account, in the status, as an event and in the log."""
    before = account(both, "gone")
    store = await reopen(shelves, "stays")
    gone = account(store, "gone")
    assert (gone["removed"], gone["held"], gone["delivered"]) == (True, before["held"], before["delivered"])
    assert gone["let_go_in_s"] == 7 * DAY_S
    sentence = f"gone is configured no more: the {gone['held']} readings held for it are kept for another 7 days"
    assert sentence in store.events[-1]
    assert sentence in caplog.text
    shelves.check(store)
    assert "removed" not in account(store, "stays")


async def test_the_status_counts_from_the_grace_that_is_configured(shelves, both) -> None:
    """As the letting go itself does."""
    store = await reopen(shelves, "stays", uplink_grace=10 * DAY_S)
    assert account(store, "gone")["let_go_in_s"] == 10 * DAY_S


async def test_what_a_renamed_uplink_gets_twice_is_said(shelves) -> None:
    """It may be the same receiver; where another one was removed and none is new, nobody gets anything twice."""
    store = await shelves.open(uplinks=("stays", "gone"))
    for _ in range(10):
        await shelves.put(store, 1)
    for _ in range(7):
        store.ack(await shelves.lease(store, "gone", readings_max=1))
    store = await reopen(shelves, "stays")
    assert not any("a second time" in event for event in store.events)
    store = await reopen(shelves, "stays", "renamed")
    (event,) = [event for event in store.events if "a second time" in event]
    assert event.startswith("renamed is new, and gone is configured no more: if that is the same receiver under")
    assert " 7 readings that it has had will be sent to it a second time" in event
    assert account(store, "renamed")["held"] == 10
    store = await reopen(shelves, "stays", "renamed", "gone")
    assert not any("a second time" in event for event in store.events)


async def test_who_had_nothing_that_is_still_here_gets_nothing_twice(shelves) -> None:
    """An only uplink that is renamed: what it had is gone from the shelf."""
    store = await shelves.open(uplinks=("before",))
    await shelves.put(store, 3)
    store.ack(await shelves.lease(store, "before", readings_max=1))
    await shelves.put(store, 2)
    store = await reopen(shelves, "after")
    assert not any("a second time" in event for event in store.events)


async def test_it_is_said_at_each_start(shelves, both) -> None:
    """With the time that is left."""
    await reopen(shelves, "stays")
    shelves.clock.advance(3 * DAY_S * NS_PER_S)
    store = await reopen(shelves, "stays")
    assert "kept for another 4 days" in store.events[-1]
    assert account(store, "gone")["let_go_in_s"] == 4 * DAY_S


async def test_an_uplink_that_comes_back_goes_on_where_it_was(shelves, both, numbers) -> None:
    """With its account, what was held for it, and what came meanwhile and is still here."""
    store = await reopen(shelves, "stays")
    meanwhile = await shelves.put(store, 2)
    held = account(store, "gone")["held"]
    assert account(store, "gone")["ledger"] == {"while_removed": 2}
    shelves.check(store)
    store = await reopen(shelves, "stays", "gone")
    gone = account(store, "gone")
    assert (gone["held"], gone["ledger"]) == (held + 2, {})
    assert "removed" not in gone
    assert f"gone is configured again: the {held + 2} readings held for it are sent" in store.events
    found = await shelves.drain(store, "gone")
    assert set(meanwhile) <= set(found)
    assert len(found) == held + 2
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_an_uplink_that_joins_or_comes_back_knows_what_it_is_owed_by_class(shelves) -> None:
    """What was held for it, and of what came since each in its own; so does one that is new."""
    store = await shelves.open(uplinks=("stays", "gone"))
    for priority, count in zip(Priority, (2, 3, 5), strict=True):
        await shelves.put(store, count, priority=priority)
    await store.append([], logs=shelves.logs(store, "11", "12", "13"))
    store = await reopen(shelves, "stays")
    assert shelves.by_class(store, "gone") == (5, 3, 5)
    await shelves.put(store, 7, priority=Priority.CRITICAL)
    await shelves.put(store, 11, priority=Priority.BULK)
    assert shelves.by_class(store, "stays") == (12, 3, 16)
    assert shelves.by_class(store, "gone") == (5, 3, 5)
    store = await reopen(shelves, "stays", "gone", "new")
    for name in ("stays", "gone", "new"):
        assert shelves.by_class(store, name) == (12, 3, 16)
        shelves.check(store)


async def test_what_came_and_went_while_it_was_gone_is_in_its_ledger(shelves, both) -> None:
    """Delivered by the other, and no more here; malformed ones too."""
    store = await reopen(shelves, "stays")
    await shelves.put(store, 2)
    await store.append([], losses=[Loss("syntax", 1)])
    await shelves.drain(store, "stays")
    await store.append([])
    store = await reopen(shelves, "stays", "gone")
    assert account(store, "gone")["ledger"] == {"while_removed": 3}
    shelves.check(store)


async def test_without_uplinks_what_is_held_waits(shelves) -> None:
    """Nobody is no new uplink."""
    await shelves.put(await shelves.open(), 1200)
    store = await reopen(shelves)
    assert "no uplink is configured: 1,200 readings wait for the next one" in store.events
    assert not any("is new" in event for event in store.events)


async def test_nothing_new_is_held_for_it(shelves, both) -> None:
    """What comes leaves the shelf as soon as the others have it."""
    store = await reopen(shelves, "stays")
    before = verify(shelves.state_dir).segments
    for _ in range(5):
        await shelves.put(store, 2)
    await shelves.drain(store, "stays")
    await store.append([])
    await shelves.close()
    assert verify(shelves.state_dir).segments <= before
    assert verify(shelves.state_dir).problems == []


async def test_after_the_grace_time_it_is_in_the_ledger(shelves, both) -> None:
    """With number and time range; the segments that only it wanted leave, and the books agree all along."""
    first_ns = shelves.clock.wall_ns()
    store = await reopen(shelves, "stays")
    await shelves.drain(store, "stays")
    held = account(store, "gone")["held"]
    shelves.clock.advance(7 * DAY_S * NS_PER_S)
    await store.tend()
    gone = account(store, "gone")
    assert (gone["held"], gone["ledger"]) == (0, {"uplink_removed": held})
    assert gone["losses"][0]["first_ns"] == gone["losses"][0]["last_ns"] == first_ns
    assert gone["losses"][0]["since_ns"] == shelves.clock.wall_ns()
    assert "let_go_in_s" not in gone
    shelves.check(store)
    await store.append([])
    await store.tend()
    await store.append([])
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.segments, report.problems) == (0, [])
    assert report.uplinks["gone"] == {"delivered": 3, "held": 0, "ledger": held, "removed": True}
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM shelf").fetchall() == [(1,)]
    connection.close()


async def test_it_lets_go_by_itself_and_says_so_once(shelves, both, caplog) -> None:
    """A minute short of the time it does not; later starts have nothing to say any more."""
    store = await reopen(shelves, "stays", uplink_grace=Duration(60))
    shelves.clock.advance(59 * NS_PER_S)
    await store.tend()
    assert account(store, "gone")["held"] == 7
    shelves.clock.advance(1 * NS_PER_S)
    await store.tend()
    assert "gone is configured no more: the 7 readings held for it are let go" in caplog.text
    assert account(store, "gone")["removed"]
    store = await reopen(shelves, "stays")
    assert store.events == []
    assert list(store.status()["uplinks"]) == ["stays"]
    assert store.lost_at_start == {}


async def test_no_grace_lets_go_at_once(shelves, both) -> None:
    """At the start, and that start says it."""
    store = await reopen(shelves, "stays", uplink_grace=Duration(0))
    gone = account(store, "gone")
    assert (gone["removed"], gone["held"], gone["ledger"]) == (True, 0, {"uplink_removed": 7})
    assert store.events[-1] == "gone is configured no more: the 7 readings held for it are let go"
    assert store.lost_at_start == {("gone", "uplink_removed"): 7}
    shelves.check(store)
    assert account(store, "stays")["held"] == 5


async def test_a_crash_right_after_it_was_let_go_loses_no_count(shelves, both, tmp_path) -> None:
    """Segments go after the accounts are on the disk, never before."""
    store = await reopen(shelves, "stays")
    await shelves.drain(store, "stays")
    await store.append([])
    shelves.clock.advance(7 * DAY_S * NS_PER_S)
    await store._committer.commit()
    for number in range(4):
        copy = tmp_path / f"crash-{number}"
        shutil.copytree(shelves.state_dir, copy)
        report = verify(copy)
        assert report.problems == []
        assert report.uplinks["gone"]["held"] + report.uplinks["gone"]["ledger"] == 7
        await (store.tend() if number % 2 else store.append([]))


async def test_what_is_let_go_is_not_exported(shelves, both) -> None:
    """Though it still lies on the shelf: `verify` and `export` say what the books say."""
    store = await reopen(shelves, "stays", uplink_grace=Duration(0))
    await shelves.drain(store, "stays")
    await store.append([])
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM shelf").fetchall() > [(1,)]
    connection.close()
    assert verify(shelves.state_dir).readings == 0
    with read_held(shelves.state_dir) as held:
        assert list(held) == []


async def test_what_is_kept_is_exported(shelves, both) -> None:
    """It is held, if for nobody who is there."""
    store = await reopen(shelves, "stays")
    await shelves.drain(store, "stays")
    await store.append([])
    await shelves.close()
    with read_held(shelves.state_dir) as held:
        assert sum(segment.readings for segment in held) == 7


async def test_one_that_was_let_go_comes_back_like_a_new_one(shelves, both) -> None:
    """What others still need it gets after all, and that is lost no more; the rest stays in its ledger."""
    store = await reopen(shelves, "stays", uplink_grace=Duration(0))
    await store.tend()
    await store.append([])
    left = account(store, "stays")["held"]
    store = await reopen(shelves, "stays", "gone")
    gone = account(store, "gone")
    assert gone["held"] > 0
    assert gone["held"] <= left
    assert gone["ledger"]["uplink_removed"] == 7 - gone["held"]
    assert gone["delivered"] == 3
    assert shelves.by_class(store, "gone") == (0, gone["held"], 0)
    shelves.check(store)
    assert len(await shelves.drain(store, "gone")) == gone["held"]
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_one_that_has_everything_leaves_nothing(shelves) -> None:
    """No event, no ledger, nothing to sweep."""
    store = await shelves.open(uplinks=("stays", "gone"))
    await shelves.put(store, 2)
    for name in ("stays", "gone"):
        await shelves.drain(store, name)
    store = await reopen(shelves, "stays", uplink_grace=Duration(0))
    assert store.events == []
    assert store._committer._keeper._litter.is_done


async def test_the_last_uplink_is_removed(shelves) -> None:
    """Nobody takes what comes, and the one that comes back gets all of it."""
    store = await shelves.open(uplinks=("cloud",))
    put = await shelves.put(store, 2)
    store = await reopen(shelves)
    assert account(store, "cloud")["held"] == 2
    put += await shelves.put(store, 3)
    shelves.check(store)
    store = await reopen(shelves, "cloud")
    assert sorted(await shelves.drain(store, "cloud")) == put
    shelves.check(store)
    assert account(store, "cloud")["ledger"] == {}


async def test_what_was_held_for_nobody_and_is_wanted_by_nobody_is_swept(shelves) -> None:
    """`a` has it, `b` was let go: when `a` comes back nobody is left for it."""
    store = await shelves.open(uplinks=("a", "b"))
    await shelves.put(store, 4)
    await shelves.drain(store, "a")
    await reopen(shelves, uplink_grace=Duration(0))
    store = await reopen(shelves, "a")
    assert account(store, "a")["held"] == 0
    await store.tend()
    await store.append([])
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM shelf").fetchall() == [(1,)]
    connection.close()
    assert verify(shelves.state_dir).problems == []


async def test_a_rename_gives_the_new_name_what_is_held(shelves) -> None:
    """And when it is undone the old one has lost nothing that is still here."""
    store = await shelves.open(uplinks=("cloud",))
    put = await shelves.put(store, 2)
    store = await reopen(shelves, "clodu")
    put += await shelves.put(store, 1)
    assert account(store, "clodu")["held"] == 3
    store = await reopen(shelves, "cloud")
    assert sorted(await shelves.drain(store, "cloud")) == put
    shelves.check(store)


async def test_time_that_the_box_was_off_counts_where_it_is_known(shelves, both) -> None:
    """By a disciplined clock; one that may be wrong must not let anything go."""
    await reopen(shelves, "stays")
    await shelves.close()
    wall = shelves.clock.wall + 30 * DAY_S * NS_PER_S
    shelves.clock.reboot("boot-2", wall=wall, synced=False)
    store = await shelves.open(uplinks=("stays",))
    await store.tend()
    assert account(store, "gone")["held"] == 7
    await shelves.close()
    shelves.clock.synced = True
    store = await shelves.open(uplinks=("stays",))
    assert account(store, "gone")["ledger"]["uplink_removed"] == 7


async def test_the_boot_in_which_it_left_is_remembered(shelves, both) -> None:
    """Though no segment refers to it: without it nobody could say how long ago that was."""
    store = await reopen(shelves, "stays")
    await shelves.drain(store, "stays")
    await shelves.close()
    shelves.clock.reboot("boot-2", wall=shelves.clock.wall + NS_PER_S, synced=True)
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("DELETE FROM shelf WHERE id < (SELECT max(id) FROM shelf)")
    connection.close()
    store = await shelves.open(uplinks=("stays",))
    await store.tend()
    await store.append([])
    assert [times.boot for times in store.timeline.boots] == [1, 2]


async def test_on_a_full_shelf_what_only_it_wants_goes_first(shelves) -> None:
    """Before anything that a configured uplink needs, however much newer and more important it is."""
    store = await shelves.open(uplinks=("stays", "gone"), max_bytes=Size(MIB))
    older = await shelves.put_noise(store, 100_000, priority=Priority.BULK)
    wanted = [await shelves.put_noise(store, 100_000, priority=Priority.CRITICAL) for _ in range(3)]
    lease = await shelves.lease(store, "stays", readings_max=10**6)
    while lease.segments[0].priority is not Priority.CRITICAL:
        lease = await shelves.lease(store, "stays", readings_max=10**6)
    store.ack(lease)
    done = lease.readings
    store = await reopen(shelves, "stays", max_bytes=Size(MIB))
    held = account(store, "stays")["held"]
    assert held == older + sum(wanted) - done
    put = 0
    while not account(store, "gone")["ledger"].get("evicted_full"):
        put += await shelves.put_noise(store, 50_000, priority=Priority.BULK)
    assert account(store, "gone")["ledger"]["evicted_full"] in wanted
    assert account(store, "stays")["ledger"] == {}
    assert account(store, "stays")["held"] == held + put
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_a_shelf_that_refuses_lets_go_of_what_only_it_wants(shelves) -> None:
    """A configured uplink's sources are not pushed back for what nobody may ever ask for; then they are."""
    settings = {"max_bytes": Size(MIB), "when_full": "refuse"}
    store = await shelves.open(uplinks=("stays", "gone"), **settings)
    with pytest.raises(FullError):
        while True:
            await shelves.put_noise(store, 60_000)
    await shelves.drain(store, "stays")
    for _ in range(2):
        await store.append([])
    held = account(store, "gone")["held"]
    store = await reopen(shelves, "stays", **settings)
    put = [await shelves.put_noise(store, 60_000) for _ in range(5)]
    assert account(store, "stays")["held"] == sum(put)
    assert 0 < account(store, "gone")["ledger"]["evicted_full"] < held
    with pytest.raises(FullError, match=r"when_full is refuse: \[store\] max_bytes \(1MiB\) is reached"):
        while True:
            await shelves.put_noise(store, 60_000)
    assert account(store, "stays")["ledger"] == {}
    shelves.check(store)


async def test_an_ack_of_what_is_kept_for_another_keeps_it(shelves, both) -> None:
    """And what came later goes with the same commit."""
    store = await reopen(shelves, "stays")
    await shelves.put(store, 4)
    await shelves.drain(store, "stays")
    await store.append([])
    await shelves.close()
    report = verify(shelves.state_dir)
    assert report.readings == account(store, "gone")["held"] == 7
    assert report.problems == []


async def test_damage_while_it_is_kept(shelves, both) -> None:
    """A salvage gives both their accounts, and what came while it was gone is not called held for it."""
    store = await reopen(shelves, "stays")
    await shelves.put(store, 4)
    await shelves.close()
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    store = await shelves.open(uplinks=("stays",))
    assert account(store, "gone")["held"] == 7
    assert account(store, "gone")["ledger"] == {"while_removed": 4}
    shelves.check(store)
    store = await reopen(shelves, "stays", "gone")
    assert account(store, "gone")["held"] == 11
    shelves.check(store)


async def test_damage_that_brings_back_what_it_had(shelves, both) -> None:
    """More is there than its account knew: it is counted as possibly sent twice, and the sums are right."""
    await reopen(shelves, "stays")
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("UPDATE shelf SET done = 0 WHERE id < (SELECT max(id) FROM shelf)")
        connection.execute("INSERT INTO ledger VALUES (NULL, 'gone', 'odd', 5, 0, 0, 0, 0)")
    connection.close()
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    store = await shelves.open(uplinks=("stays",))
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


class Rows:
    """Stands for the shelf: ids in order, of one shelf."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def find(self, _, shelf: int, *, first: int, before: int, has: int, limit: int) -> list[Candidate]:
        found = [k for k in self.ids if (k >> 59) - 1 == shelf and k >= first and k & ((1 << 59) - 1) < before]
        return [Candidate(k, has, 1, 1, 0, 0, 0, 100 - ROW_BYTES) for k in found[:limit]]


async def test_what_is_looked_at_and_not_needed_is_found_again(monkeypatch) -> None:
    """No more goes than makes the room that is wanted, and the next who asks begins with the first that stayed."""
    from gateway.store.accounts import Accounts, Removal, Share
    from gateway.store.records import SHELVES, place

    shelf = SHELVES[0]
    rows = Rows([place(*shelf, n) for n in range(1, 8)])
    monkeypatch.setattr(membership, "find_unneeded", rows.find)
    monkeypatch.setattr(membership, "LOOK_MAX", 3)
    gone = Share("gone", 2, held=7, removal=Removal(1, 0, 6, 7))
    leftovers = membership.Leftovers(None, Accounts([Share("stays", 1), gone], {}, accepted=7))
    first = await leftovers.spare(bytes_over=250, may_go=lambda k: k != rows.ids[1])
    assert [row.sequence for row in first] == [1, 3, 4]
    second = await leftovers.spare(bytes_over=10**6, may_go=lambda _: True)
    assert [row.sequence for row in second] == [5]
    assert leftovers.is_done
    leftovers.rewind()
    assert not leftovers.is_done


async def test_of_one_class_the_oldest_is_found_first_whatever_its_signal(monkeypatch) -> None:
    """The order of all that goes."""
    from gateway.store.accounts import Accounts, Removal, Share
    from gateway.store.records import SHELVES, place

    rows = Rows(sorted(place(*SHELVES[shelf], n) for n, shelf in enumerate([1, 4, 4, 7, 1, 0, 8, 7, 4], start=1)))
    monkeypatch.setattr(membership, "find_unneeded", rows.find)
    monkeypatch.setattr(membership, "LOOK_MAX", 2)
    gone = Share("gone", 2, held=7, removal=Removal(1, 0, 100, 9))
    leftovers = membership.Leftovers(None, Accounts([Share("stays", 1), gone], {}, accepted=9))
    found = [row.sequence for row in await leftovers.spare(bytes_over=10**6, may_go=lambda _: True)]
    assert found == [6, 7, 1, 2, 3, 4, 5, 8, 9]


async def test_what_the_last_of_the_others_got_since_goes_first_as_well(shelves) -> None:
    """On a full shelf nobody waits for the next look around, or what somebody waits for would go instead."""
    store = await shelves.open(uplinks=("near", "far"), max_bytes=Size(1 << 20))
    for _ in range(8):
        await shelves.put_noise(store, 60_000)
    await shelves.close()
    store = await shelves.open(uplinks=("near",), max_bytes=Size(1 << 20))
    store.ack(await shelves.lease(store, "near", readings_max=1))
    await store.append([])
    while not account(store, "far")["ledger"].get("evicted_full"):
        await shelves.put_noise(store, 60_000)
    for _ in range(4):
        store.ack(await shelves.lease(store, "near", readings_max=1))
        await store.append([])
        await shelves.put_noise(store, 60_000)
    assert "evicted_full" not in account(store, "near")["ledger"]
    shelves.check(store)


async def test_only_a_whole_walk_that_finds_nothing_ends_the_sweep(monkeypatch) -> None:
    """Some are looked at a turn: until all were, and no litter among them, the uplink is not done with."""
    from gateway.store.accounts import Accounts, Removal, Share, Stage
    from gateway.store.records import SHELVES, place

    rows = Rows([place(*SHELVES[0], n) for n in range(1, 8)])
    monkeypatch.setattr(membership, "find_unneeded", rows.find)
    monkeypatch.setattr(membership, "LOOK_MAX", 3)
    gone = Share("gone", 2, removal=Removal(1, 0, 9, 7, stage=Stage.LET_GO))
    accounts = Accounts([gone], {}, accepted=7)
    leftovers = membership.Leftovers(None, accounts)
    found = [[row.sequence for row in await leftovers.sweep()] for _ in range(4)]
    # Who finds some begins anew: their commit may fail.
    assert found == [[1, 2, 3], [4, 5, 6], [7], [1, 2, 3]]
    assert accounts.shares["gone"].removal.stage is Stage.LET_GO
    leftovers.rewind()
    rows.ids = []
    assert await leftovers.sweep() == []
    assert accounts.shares["gone"].removal.stage is Stage.SWEPT
    assert leftovers.is_done


async def test_litter_that_could_not_be_let_go_is_found_again(shelves, both, monkeypatch) -> None:
    """The commit that takes it away may fail; only when none is left is it over."""
    from gateway.store import committer

    store = await reopen(shelves, "stays", uplink_grace=Duration(0))
    await shelves.drain(store, "stays")
    await store.append([])
    real = committer.write

    async def fails(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(committer, "write", fails)
        await store.tend()
        with pytest.raises(FullError):
            await store.append([])
    monkeypatch.setattr(committer, "write", real)
    for _ in range(2):
        await store.tend()
        await store.append([])
    assert store._committer.accounts.shares["gone"].removal.stage == 2
    await store.tend()
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM shelf").fetchall() == [(1,)]
    connection.close()


async def test_letting_go_waits_for_no_commit_under_way(shelves, both) -> None:
    """Housekeeping and commits are one after the other; whoever appends meanwhile gets an answer."""
    store = await reopen(shelves, "stays", uplink_grace=Duration(60))
    shelves.clock.advance(61 * NS_PER_S)
    await asyncio.gather(store.tend(), shelves.put(store, 1), shelves.put(store, 1))
    shelves.check(store)
