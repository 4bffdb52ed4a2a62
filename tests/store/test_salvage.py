"""Whatever happened to the files: the store starts, keeps all that can be read, and says and counts the rest."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, Batch, Series
from gateway.core.clock import NS_PER_S, Quality
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store import filling
from gateway.store.accounts import Dilution, decode_state, encode_state
from gateway.store.asides import ASIDE_MAX
from gateway.store.connection import PAGE_BYTES
from gateway.store.database import Loss
from gateway.store.evidence import look
from gateway.store.names import NAMES
from gateway.store.pages import FRAME_HEADER_BYTES, TABLE_INTERIOR
from gateway.store.reading import find, verify
from gateway.store.reckoning import Missing
from gateway.store.records import STATE_ID, StoreError, place
from gateway.store.salvage import Salvaged, salvage
from gateway.store.segments import decode
from gateway.store.taking import origin_of

DATABASE = "tidegate.db"


@pytest.fixture
def fill(shelves, tmp_path):
    """Fill a shelf with 40 segments of three classes; closed in order, or as a process that died leaves it."""

    async def work(*, dies: bool) -> list[int]:
        store = await shelves.open()
        held = []
        for number in range(40):
            held += await shelves.put(store, 5 + 40 * (number % 3), priority=Priority(number % 3))
        await store.append([], losses=[Loss("syntax", 3)])
        copy = tmp_path / "crashed"
        shutil.copytree(shelves.state_dir, copy)
        await shelves.close()
        shelves.state_dir = copy if dies else shelves.state_dir
        return held

    return work


@pytest.fixture
async def filled(fill):
    return await fill(dies=False)


@pytest.fixture
async def crashed(fill):
    return await fill(dies=True)


def damage(path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def check(shelves, held, *, aside: bool = True) -> tuple[list[int], dict]:
    """Open; what is there is right and in the accounts; return it with the first uplink's status."""
    store = await shelves.open()
    status = store.status()
    uplink = status["uplinks"]["cloud"]
    found = await shelves.drain(store)
    assert set(found) <= set(held)
    assert len(found) == len(set(found)) == uplink["held"]
    shelves.check(store)
    assert await shelves.put(store, 1)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    assert bool(list(shelves.state_dir.glob("tidegate.db.damaged-*"))) == aside
    if aside:
        assert "was damaged" in status["events"][0]
    return found, uplink


async def test_a_log_that_is_whole_is_not_salvaged(shelves, crashed) -> None:
    """A process that died is not damage."""
    found, _ = await check(shelves, crashed, aside=False)
    assert sorted(found) == sorted(crashed)


async def test_a_torn_end_of_the_log_is_not_damage(shelves, crashed) -> None:
    """What was never finished was never acknowledged."""
    log = shelves.state_dir / f"{DATABASE}-wal"
    with log.open("ab") as file:
        file.write(bytes(1000))
    assert look(shelves.state_dir / DATABASE) is None
    found, _ = await check(shelves, crashed, aside=False)
    assert sorted(found) == sorted(crashed)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
async def test_a_flipped_bit_in_the_log_costs_what_it_hit(shelves, crashed, where) -> None:
    """SQLite would forget all that was committed after it, in silence."""
    log = shelves.state_dir / f"{DATABASE}-wal"
    offset = int(log.stat().st_size * where)
    damage(log, offset, bytes([log.read_bytes()[offset] ^ 8]))
    found, uplink = await check(shelves, crashed)
    assert len(crashed) - len(found) <= 100
    assert uplink["ledger"].get("damaged", 0) == len(crashed) - len(found)


async def test_a_log_without_its_header_is_read_all_the_same(shelves, crashed) -> None:
    """The frames are enough."""
    damage(shelves.state_dir / f"{DATABASE}-wal", 0, bytes(32))
    found, _ = await check(shelves, crashed)
    assert sorted(found) == sorted(crashed)


async def test_a_log_of_garbage_is_said_and_set_aside(shelves, filled) -> None:
    """Nobody can tell what it held, so it is not passed over in silence."""
    (shelves.state_dir / f"{DATABASE}-wal").write_bytes(random.Random(1).randbytes(50_000))
    found, _ = await check(shelves, filled)
    assert sorted(found) == sorted(filled)


async def test_a_database_without_a_header_is_read_page_by_page(shelves, filled) -> None:
    """The first page says nothing that is needed."""
    damage(shelves.state_dir / DATABASE, 0, bytes(PAGE_BYTES))
    found, uplink = await check(shelves, filled)
    assert sorted(found) == sorted(filled)
    assert uplink["ledger"] == {"syntax": 3}


async def test_a_database_that_was_cut_short_loses_its_end(shelves, filled) -> None:
    """What was behind the cut is counted as damaged."""
    path = shelves.state_dir / DATABASE
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    found, uplink = await check(shelves, filled)
    assert 0 < len(found) < len(filled)
    assert sum(uplink["ledger"].values()) in {0, 3 + len(filled) - len(found)}


async def test_an_empty_database_starts_anew(shelves, filled) -> None:
    """Nothing is there to salvage, and that is said."""
    (shelves.state_dir / DATABASE).write_bytes(b"")
    found, _ = await check(shelves, filled)
    assert found == []


async def test_a_missing_database_is_made_of_its_log(shelves, crashed) -> None:
    """All pages that were written since the last checkpoint are in the log."""
    (shelves.state_dir / DATABASE).unlink()
    found, _ = await check(shelves, crashed)
    assert sorted(found) == sorted(crashed)


async def test_another_programs_database_is_moved_aside(shelves, filled) -> None:
    """It is not ours to write to."""
    path = shelves.state_dir / DATABASE
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (a, b)")
    connection.execute("INSERT INTO other VALUES (1, x'00')")
    connection.commit()
    connection.close()
    found, _ = await check(shelves, filled)
    assert found == []


async def test_a_text_file_is_moved_aside(shelves, filled) -> None:
    """Nor is this."""
    (shelves.state_dir / DATABASE).write_text("hello\n" * 1000)
    assert (await check(shelves, filled))[0] == []


async def test_what_was_marked_while_running_is_salvaged(shelves, filled) -> None:
    """Damage that shows only when a page is read is mended at the next start."""
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("malformed")
    found, _ = await check(shelves, filled)
    assert sorted(found) == sorted(filled)


async def test_what_was_being_sent_is_counted_after_a_salvage_too(shelves) -> None:
    """The far side may have it whatever became of the file."""
    store = await shelves.open()
    await shelves.put(store, 3)
    await shelves.lease(store)
    await shelves.close()
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("malformed")
    store = await shelves.open()
    assert "salvaged" in store.events[0]
    assert store.status()["uplinks"]["cloud"]["maybe_twice"] == 3


async def test_otlp_messages_are_salvaged_like_all_else(shelves) -> None:
    """A shelf whose header is gone gives them back."""
    store = await shelves.open()
    await store.append([], records=[(Priority.NORMAL, shelves.messages(b"one", b"two", count=4))])
    await shelves.close()
    damage(shelves.state_dir / DATABASE, 0, bytes(100))
    store = await shelves.open()
    lease = await shelves.lease(store)
    assert [decode(segment.body).bodies for segment in lease.segments] == [(b"one", b"two")]
    assert (lease.signal, lease.readings) == (Signal.TRACES, 8)
    shelves.check(store)


async def test_the_state_row_is_found_in_the_log(shelves, crashed) -> None:
    """Its newest version may be damaged: an older one is better than none."""
    path = shelves.state_dir / f"{DATABASE}-wal"
    data = bytearray(path.read_bytes())
    at = data.rindex(b"TGs1")
    data[at + 4] ^= 255
    path.write_bytes(data)
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("state")
    found, _ = await check(shelves, crashed)
    assert len(found) >= len(crashed) - 100


def write_wrong(shelves, statement: str, *, suspect: str) -> None:
    """Have a row written over, with the log still there as a crash would leave it, and found to be suspect."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE, isolation_level=None)
    connection.execute(statement)
    crashed = shelves.state_dir.with_name("wrong")
    shutil.copytree(shelves.state_dir, crashed)
    connection.close()
    shelves.state_dir = crashed
    (crashed / f"{DATABASE}.suspect").write_text(suspect)


async def test_a_state_row_that_was_written_wrong_is_found_in_older_pages(shelves, crashed) -> None:
    """The log still has the page as it was before."""
    write_wrong(shelves, "UPDATE shelf SET body = x'00' WHERE id = (SELECT max(id) FROM shelf)", suspect="state")
    found, uplink = await check(shelves, crashed)
    assert sorted(found) == sorted(crashed)
    assert uplink["ledger"] == {"syntax": 3}


async def test_a_row_that_contradicts_its_segment_is_not_kept(shelves, filled) -> None:
    """It is counted as damaged."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute("UPDATE shelf SET readings = 99 WHERE id = (SELECT min(id) FROM shelf)")
    connection.commit()
    connection.close()
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    found, uplink = await check(shelves, filled)
    assert len(found) < len(filled)
    assert uplink["ledger"]["damaged"] == len(filled) - len(found)


async def test_what_was_deleted_does_not_come_back(shelves, filled) -> None:
    """Free pages still hold it, but are known to be free."""
    store = await shelves.open()
    await shelves.drain(store)
    left = await shelves.put(store, 200)
    await shelves.close()
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    found, uplink = await check(shelves, left)
    assert found == left
    assert uplink["delivered"] == len(filled)


async def test_a_disk_too_full_for_all_of_it(shelves, filled, monkeypatch) -> None:
    """What found room is kept; the rest is still in the damaged file, and that is said."""
    real = filling.Filling._flush
    calls = []

    def flush(self) -> None:
        calls.append(1)
        if len(calls) == 2:
            self._connection.execute("BEGIN")
            raise sqlite3.OperationalError("database or disk is full")
        real(self)

    monkeypatch.setattr(filling.Filling, "_flush", flush)
    monkeypatch.setattr(filling, "BATCH_ROWS", 20)
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    store = await shelves.open()
    assert "no room for the rest" in store.events[0]
    shelves.check(store)


async def test_pages_of_the_log_behind_a_lost_file_may_have_gaps(shelves, crashed) -> None:
    """The file was cut, the log has only some of what was behind the cut."""
    path = shelves.state_dir / DATABASE
    path.write_bytes(path.read_bytes()[:PAGE_BYTES])
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("cut")
    found, _ = await check(shelves, crashed)
    assert set(found) <= set(crashed)


async def test_without_any_state_row_it_starts_with_what_is_there(shelves, filled) -> None:
    """Then nobody knows what was delivered: all that is held counts as accepted, and new series get new numbers."""
    path = shelves.state_dir / DATABASE
    data = path.read_bytes().replace(b"TGs1", b"XXXX")
    path.write_bytes(data)
    store = await shelves.open()
    assert store.status()["accepted"] == len(filled)
    assert "not known" in store.events[0]
    number = store.resolve(type(store.series(1))((), "new"))
    assert number > 1 << 20
    assert sorted(await shelves.drain(store)) == sorted(filled)


async def test_series_survive_in_their_copy(shelves, filled) -> None:
    """Both tables hold all of them; where both are lost, a stand-in says so."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute("UPDATE series SET body = x'00000000'")
    connection.commit()
    store = await shelves.open()
    assert store.series(1).name == "m"
    await shelves.close()
    connection.execute("UPDATE series_copy SET body = x'00000000'")
    connection.execute("UPDATE series SET body = x'00000000'")
    connection.commit()
    connection.close()
    (shelves.state_dir / NAMES).unlink()
    store = await shelves.open()
    assert store.series(1).name == "tidegate.lost_series"
    assert "damaged in both copies" in store.events[0]
    assert store.resolve(type(store.series(1))((), "new")) > 1


async def test_a_salvage_holds_nothing_for_an_uplink_that_was_let_go(shelves) -> None:
    """Though another still needs the same segments: what it lost stays in its ledger, once."""
    store = await shelves.open(uplinks=("stays", "gone"))
    put = await shelves.put(store, 7)
    await shelves.close()
    for suspect in (False, True):
        if suspect:
            (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
        store = await shelves.open(uplinks=("stays",), uplink_grace=0)
        shelves.check(store)
        await shelves.close()
        report = verify(shelves.state_dir)
        assert report.problems == []
        assert report.uplinks["gone"] == {"delivered": 0, "held": 0, "ledger": 7, "removed": True}
        assert report.uplinks["stays"]["held"] == 7
    assert "was damaged" in store.events[0]
    assert await shelves.drain(await shelves.open(uplinks=("stays",)), "stays") == put


@pytest.mark.parametrize("how", ["DELETE FROM boots", "UPDATE boots SET body = x'c1'"])
async def test_a_lost_boot_is_made_of_its_segments(shelves, how) -> None:
    """Without its row nobody could say when its readings were: their own rows tell, as well as it was known then."""
    shelves.clock.boot = "first"
    store = await shelves.open()
    batch = Batch.of(store.resolve(Series((), "m")), shelves.clock.monotonic, np.arange(3), flags=MONOTONIC)
    await store.append([(Priority.NORMAL, batch)])
    began_ns = shelves.clock.wall - shelves.clock.monotonic
    boot = store.timeline.current.boot
    await shelves.close()
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    connection.execute(how)
    connection.commit()
    connection.close()
    (shelves.state_dir / "tidegate.db.suspect").write_text("a test")
    shelves.clock.boot, shelves.clock.monotonic = "second", 10**9
    shelves.clock.wall += 10**15
    store = await shelves.open()
    times_ns, quality = store.timeline.repair(batch.time_ns, boot)
    assert quality is Quality.UNSYNCED
    assert (times_ns - batch.time_ns == began_ns).all()
    assert not await shelves.close()


async def test_a_lost_boot_without_a_clock_is_at_least_known(shelves, filled) -> None:
    """Device times say nothing about the boot's own clock; its order among the others stays."""
    connection = sqlite3.connect(shelves.state_dir / DATABASE)
    ((boot,),) = connection.execute("SELECT number FROM boots").fetchall()
    connection.execute("DELETE FROM boots")
    connection.execute("UPDATE shelf SET first_ns = 1")
    connection.commit()
    connection.close()
    (shelves.state_dir / "tidegate.db.suspect").write_text("a test")
    store = await shelves.open()
    assert boot in {times.boot for times in store.timeline.boots}


@pytest.fixture
async def lose_boots(shelves):
    """Take a reading stamped by the boot's own clock, close, lose the table of boots; return the reading's moment."""

    async def lose(how: str = "DELETE FROM boots") -> int:
        store = await shelves.open()
        moment_ns = shelves.clock.monotonic
        batch = Batch.of(store.resolve(Series((), "m")), moment_ns, np.arange(3), flags=MONOTONIC)
        await store.append([(Priority.NORMAL, batch)])
        await shelves.close()
        connection = sqlite3.connect(shelves.state_dir / DATABASE)
        connection.execute(how)
        connection.commit()
        connection.close()
        (shelves.state_dir / "tidegate.db.suspect").write_text("a test")
        return moment_ns

    return lose


@pytest.mark.parametrize("synced", [True, False])
async def test_the_running_boot_stands_once_though_its_row_was_lost(shelves, lose_boots, synced: bool) -> None:
    """Its readings would stand an uptime too early: a boot that goes before another has to end where that begins."""
    shelves.clock.synced = synced
    moment_ns, wall_ns = await lose_boots(), shelves.clock.wall
    shelves.clock.advance(600 * NS_PER_S)
    store = await shelves.open()
    assert [(times.boot, times.uuid) for times in store.timeline.boots] == [(1, "boot-1")]
    times_ns, _ = store.timeline.repair(np.array([moment_ns]), BootId(1))
    assert times_ns.tolist() == [wall_ns]
    await shelves.put(store, 1)
    await shelves.close()
    store = await shelves.open()
    assert [(times.boot, times.uuid) for times in store.timeline.boots] == [(1, "boot-1")]


@pytest.mark.parametrize(
    ("monotonic_s", "ahead_s"),
    [
        (999, 0),  # it has not run as long as the other had
        (1_600, 1_000),  # it began when the other had just ended
        (1_600, 1),  # a clock that was set: perhaps the same, perhaps not
        (1_600, -1_600),
    ],
)
async def test_a_boot_that_may_be_another_does_not_take_its_place(shelves, lose_boots, monotonic_s, ahead_s) -> None:
    """Only one that has run on, with its wall clock as it was, can be taken for it."""
    await lose_boots()
    shelves.clock.advance(monotonic_s * NS_PER_S - shelves.clock.monotonic)
    shelves.clock.wall += ahead_s * NS_PER_S
    store = await shelves.open()
    assert [times.uuid for times in store.timeline.boots] == ["lost-1", "boot-1"]


async def test_a_boot_too_short_to_be_told_from_the_next_is_not_taken_for_it(shelves, lose_boots) -> None:
    """Within a drift of nothing every boot begins where another does."""
    shelves.clock.monotonic = 10_000_000
    await lose_boots()
    shelves.clock.advance(1_000_000)
    store = await shelves.open()
    assert len(store.timeline.boots) == 2


async def test_a_lost_boot_without_a_clock_is_not_taken_for_this_one(shelves, lose_boots) -> None:
    """There is nothing to know it by."""
    await lose_boots()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("UPDATE shelf SET first_ns = 1")
    connection.close()
    shelves.clock.advance(NS_PER_S)
    store = await shelves.open()
    assert len(store.timeline.boots) == 2


async def test_a_row_of_a_boot_is_found_in_older_pages(shelves, crashed) -> None:
    """With all that it knew of the clock."""
    write_wrong(shelves, "UPDATE boots SET body = x'c1'", suspect="boots")
    shelves.clock.reboot("boot-2", wall=0)
    store = await shelves.open()
    first = store.timeline.boots[0]
    assert (first.uuid, [sample.quality for sample in first.samples]) == ("boot-1", [Quality.SYNCED])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
async def test_any_damage_anywhere(shelves, numbers, fill, seed) -> None:
    """Bits flipped, pages zeroed or swapped, in either file: it starts, and what it has is right."""
    rng = random.Random(seed)
    held = await fill(dies=bool(seed % 2))
    path = shelves.state_dir / (f"{DATABASE}-wal" if seed % 2 else DATABASE)
    for _ in range(rng.randint(1, 4)):
        size = path.stat().st_size
        match rng.randrange(3):
            case 0:
                damage(path, rng.randrange(size), rng.randbytes(1))
            case 1:
                damage(path, rng.randrange(max(size // PAGE_BYTES, 1)) * PAGE_BYTES, bytes(PAGE_BYTES))
            case _:
                data = path.read_bytes()
                one, two = (rng.randrange(max(size // PAGE_BYTES, 1)) * PAGE_BYTES for _ in range(2))
                damage(path, one, data[two : two + PAGE_BYTES])
    store = await shelves.open()
    found = []
    while (lease := await shelves.lease(store)) is not None:
        found += numbers(lease)
        store.ack(lease)
    assert set(found) <= set(held)
    shelves.check(store)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture
def die_at(monkeypatch):
    """Have the process end just before it gives a file its n-th new name, until `revive`."""

    def plan(number: int):
        names = iter(range(1, number))
        real = Path.replace

        def replace(path, target):
            if next(names, None) is None:
                raise KilledError
            return real(path, target)

        patch = pytest.MonkeyPatch()
        patch.setattr(Path, "replace", replace)
        return patch.undo

    return plan


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("again", [0, 1, 2, 3])
async def test_a_salvage_that_is_killed_at_any_rename_is_begun_anew(shelves, crashed, die_at, number, again) -> None:
    """The log holds what came last: beside no database, or with none there, nothing of it would be found."""
    damage(shelves.state_dir / DATABASE, 0, b"XXXX")
    (shelves.state_dir / f"{DATABASE}-shm").touch()
    for deaths in [number, again] if again else [number]:
        revive = die_at(deaths)
        with pytest.raises(KilledError):
            await shelves.open()
        revive()
    assert sorted((await check(shelves, crashed))[0]) == crashed
    assert not list(shelves.state_dir.glob(f"{DATABASE}.ready-*"))
    assert len(list(shelves.state_dir.glob(f"{DATABASE}.damaged-*Z"))) == 1


async def test_what_was_put_in_the_place_of_a_killed_salvage_stays(shelves, crashed, die_at, tmp_path) -> None:
    """Who found no database, and put a copy there, has the last word."""
    copy = shutil.copytree(shelves.state_dir, tmp_path / "copy")
    damage(shelves.state_dir / DATABASE, 0, b"XXXX")
    revive = die_at(5)
    with pytest.raises(KilledError):
        await shelves.open()
    revive()
    for suffix in ("", "-wal"):
        shutil.copy(copy / f"{DATABASE}{suffix}", shelves.state_dir)
    store = await shelves.open()
    assert store.events == []
    assert sorted(await shelves.drain(store)) == crashed
    assert len(list(shelves.state_dir.glob(f"{DATABASE}.damaged-*Z"))) == 1


async def test_a_killed_salvage_on_a_disk_that_takes_nothing_now(shelves, crashed, die_at, monkeypatch) -> None:
    """A new database must not begin where the old one only waits to be put back."""
    damage(shelves.state_dir / DATABASE, 0, b"XXXX")
    revive = die_at(5)
    with pytest.raises(KilledError):
        await shelves.open()
    revive()

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(StoreError, match="was being salvaged when that was interrupted; start the gateway"):
        find(shelves.state_dir)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(
            StoreError, match="was being salvaged, and what was moved cannot be moved back: .*read-only"
        ):
            await shelves.open()
    assert sorted((await check(shelves, crashed))[0]) == crashed


async def test_only_the_last_damaged_files_are_kept(shelves, filled) -> None:
    """They lie outside of the quota."""
    for _ in range(ASIDE_MAX + 2):
        (shelves.state_dir / f"{DATABASE}.suspect").write_text("again")
        await shelves.open()
        await shelves.close()
    assert len(list(shelves.state_dir.glob("tidegate.db.damaged-*"))) == ASIDE_MAX


async def test_what_was_just_set_aside_is_kept_whatever_the_clock_says(shelves, filled, monkeypatch) -> None:
    """Without a clock a box writes in 1970; earlier damage, of days with a clock, seems newer than what is there now."""
    for hour in range(1, ASIDE_MAX + 1):
        (shelves.state_dir / f"{DATABASE}.damaged-20260101T0{hour}0000Z").write_bytes(b"earlier")
    shelves.clock.wall = 5 * NS_PER_S
    monkeypatch.setattr(Path, "touch", lambda path: os.utime(path, (5, 5)))
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("again")
    store = await shelves.open()
    assert "the damaged file is kept as tidegate.db.damaged-19700101T000005Z" in store.events[0]
    names = {path.name for path in shelves.state_dir.glob("tidegate.db.damaged-*")}
    assert names == {f"{DATABASE}.damaged-19700101T000005Z", f"{DATABASE}.damaged-20260101T020000Z"}


def test_a_salvage_says_what_it_could_not_keep() -> None:
    """A disk with no room for the rest is named."""
    found = Salvaged(
        segments=1,
        readings=2,
        lost={"a": Missing(3, 3), "b": Missing(0, 2000), "c": Missing(0, 0), "": Missing(1, 1)},
        aside="x",
        is_complete=False,
        state_found=True,
        is_newest=True,
    )
    assert "lost: 3 readings for a, between 0 and 2,000 readings for b, 1 reading for nobody;" in found.sentence("why")
    assert "no room" in found.sentence("why")
    assert found.outlook("why").startswith("tidegate.db is damaged (why): 1 segment with 2 readings can be salvaged, ")


async def test_what_is_held_of_each_class_is_counted_anew(shelves) -> None:
    """The newest state that is found may be older than what is there: as many readings may be of other classes."""
    store = await shelves.open()
    await shelves.put(store, 5, priority=Priority.CRITICAL)
    await shelves.close()
    path = shelves.state_dir / DATABASE
    with sqlite3.connect(path) as connection:
        ((state,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
    connection.close()
    store = await shelves.open()
    await shelves.put(store, 5, priority=Priority.BULK)
    await shelves.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM shelf WHERE id = ?", (place(Priority.CRITICAL, Signal.METRICS, 1),))
        connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (state, STATE_ID))
    connection.close()
    store = await shelves.open()
    assert "was damaged" in store.events[0]
    assert shelves.by_class(store) == (0, 0, 5)
    shelves.check(store)


@pytest.fixture
async def rewritten(shelves):
    """A shelf of which much was written anew, closed."""
    store = await shelves.open(max_bytes=1 << 20, when_full="dilute")
    number = store.resolve(Series((), "m"))
    noise = np.random.default_rng(6)
    while store.status()["store"]["rewritten"] < 9:
        shelves.clock.advance(3000 * NS_PER_S)
        times = shelves.clock.wall_ns() - np.arange(3000, 0, -1) * NS_PER_S
        await store.append([(Priority.NORMAL, Batch.of(number, times, noise.integers(0, 10**6, 3000) / 100))])
    await shelves.close()
    return shelves


async def test_what_was_written_anew_is_salvaged_and_what_it_stands_for_stays_gone(rewritten) -> None:
    """Old pages still hold what became one: it does not come back beside it."""
    path = rewritten.state_dir / DATABASE
    before = verify(rewritten.state_dir)
    damage(path, PAGE_BYTES, b"\xff" * 8)
    store = await rewritten.open(max_bytes=1 << 20, when_full="dilute")
    rewritten.check(store)
    await rewritten.close()
    after = verify(rewritten.state_dir)
    assert after.problems == []
    assert after.rewritten >= before.rewritten - 1 > 3
    assert after.readings <= before.readings


async def test_what_lies_between_what_became_one_is_found_where_no_page_leads_to_it(shelves) -> None:
    """What another mapping made is no part of that: it is still held."""
    store = await shelves.open(max_bytes=1 << 20, when_full="dilute")
    number = store.resolve(Series((), "m"))
    noise = np.random.default_rng(6)
    while store.status()["store"]["rewritten"] < 9:
        shelves.clock.advance(3000 * NS_PER_S)
        times = shelves.clock.wall_ns() - np.arange(3000, 0, -1) * NS_PER_S
        batches = [Batch.of(number, times, noise.integers(0, 10**6, 3000) / 100) for _ in range(2)]
        pieces = [replace(batch, origin=origin_of(name)) for batch, name in zip(batches, "xy", strict=True)]
        await store.append([(Priority.NORMAL, piece) for piece in pieces])
    await shelves.close()
    before = verify(shelves.state_dir)
    path = shelves.state_dir / DATABASE
    data = path.read_bytes()
    for start in range(PAGE_BYTES, len(data), PAGE_BYTES):
        if data[start] == TABLE_INTERIOR:
            damage(path, start, b"\xff" * PAGE_BYTES)
    damage(path, 0, b"\xff" * PAGE_BYTES)
    store = await shelves.open(max_bytes=1 << 20, when_full="dilute")
    shelves.check(store)
    await shelves.close()
    after = verify(shelves.state_dir)
    assert after.problems == []
    assert after.segments == before.segments


async def test_what_is_found_in_outdated_pages_alone_does_not_come_back_beside_what_it_became(
    shelves, tmp_path
) -> None:
    """Where the last version of a page is lost the one before it may hold what is part of another segment since."""
    store = await shelves.open(max_bytes=1 << 20, when_full="dilute")
    number = store.resolve(Series((), "m"))
    noise = np.random.default_rng(6)
    while store.status()["store"]["rewritten"] < 2:
        for count in (5, 5, 3000):
            shelves.clock.advance(count * NS_PER_S)
            times = shelves.clock.wall_ns() - np.arange(count, 0, -1) * NS_PER_S
            await store.append([(Priority.NORMAL, Batch.of(number, times, noise.integers(0, 10**6, count) / 100))])
    crashed = tmp_path / "crashed"
    shutil.copytree(shelves.state_dir, crashed)
    frame_bytes = FRAME_HEADER_BYTES + PAGE_BYTES
    for frame in range(206, 212):
        work = tmp_path / "work"
        shutil.copytree(crashed, work)
        for one in (74, frame):
            damage(work / f"{DATABASE}-wal", 32 + one * frame_bytes + FRAME_HEADER_BYTES, b"\xff" * PAGE_BYTES)
        salvage(work, wall_ns=10**18)
        assert verify(work).problems == []
        shutil.rmtree(work)


async def test_an_older_state_row_learns_how_much_was_written_anew(rewritten) -> None:
    """So that the next one has a number of its own."""
    connection = sqlite3.connect(rewritten.state_dir / DATABASE)
    with connection:
        ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
        state = decode_state(body)
        older = msgspec.structs.replace(state, dilution=Dilution(3, bytes(16)), commit=state.commit - 1)
        connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (encode_state(older), STATE_ID))
    connection.close()
    assert "does not know that it was written anew" in " ".join(verify(rewritten.state_dir).problems)
    damage(rewritten.state_dir / DATABASE, 0, b"\xff" * 16)
    store = await rewritten.open(max_bytes=1 << 20, when_full="dilute")
    assert store.status()["store"]["rewritten"] == state.dilution.count
    rewritten.check(store)
    await rewritten.close()
    assert verify(rewritten.state_dir).problems == []
