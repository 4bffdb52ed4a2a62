"""What was set aside lies outside of the quota: a few files, and none where the disk is short."""

from __future__ import annotations

import os

import pytest

from gateway.core.contracts import FullError
from gateway.store import asides, keeping
from gateway.store.asides import ASIDE_MAX, aside_name, keep_few, make_room
from gateway.store.connection import DATABASE
from gateway.store.room import Room

DAY_S = 86_400


@pytest.fixture
def put_aside(tmp_path):
    """Put damaged files of so many bytes aside, a day apart, with their logs; return their names, the oldest first."""

    def work(count: int, size_bytes: int = 1000, *, folder=tmp_path) -> list[str]:
        names = [f"{DATABASE}.damaged-2026010{day}T000000Z" for day in range(1, count + 1)]
        for day, name in enumerate(names):
            for suffix in ("", "-wal"):
                (folder / (name + suffix)).write_bytes(bytes(size_bytes))
                os.utime(folder / (name + suffix), (day * DAY_S, day * DAY_S))
        return names

    return work


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{DATABASE}.damaged-*"))


def test_names_are_not_given_twice(tmp_path) -> None:
    """Without a clock two of them may have the same second."""
    name = aside_name(tmp_path, 0)
    (tmp_path / name).touch()
    assert (name, aside_name(tmp_path, 0)) == (f"{DATABASE}.damaged-19700101T000000Z", f"{name}-2")


def test_the_newest_are_kept_with_what_lies_beside_them(tmp_path, put_aside) -> None:
    """And the one that was set aside just now is that, whatever its time says."""
    first, _, _, last = put_aside(4)
    keep_few(tmp_path, newest=first)
    assert left(tmp_path) == sorted(name + suffix for name in (first, last) for suffix in ("", "-wal"))
    assert ASIDE_MAX == 2


def test_they_go_while_the_disk_is_short(tmp_path, put_aside, monkeypatch, caplog) -> None:
    """The oldest first, and as few as need be; that is said."""
    first, second, third = put_aside(3)

    def free_bytes(folder) -> int:
        return 10_000 - sum(path.stat().st_size for path in folder.iterdir())

    monkeypatch.setattr(asides, "free_bytes", free_bytes)
    assert not make_room(tmp_path, wanted_bytes=4000)
    assert make_room(tmp_path, wanted_bytes=7000)
    assert left(tmp_path) == [third, f"{third}-wal"]
    assert [first in caplog.text, second in caplog.text, third in caplog.text] == [True, True, False]
    assert make_room(tmp_path, wanted_bytes=20_000)
    assert left(tmp_path) == []
    assert not make_room(tmp_path, wanted_bytes=20_000)


@pytest.mark.parametrize("name", [f"{DATABASE}.damaged-20250101T000000Z", f"{DATABASE}.damaged-20260101T000000Z-wal"])
def test_a_folder_with_such_a_name_is_somebody_elses(tmp_path, put_aside, monkeypatch, name: str) -> None:
    """Unpacked by a person who looks into one: it stays, it is none of the few, and nothing stops at it."""
    first, second, third = put_aside(3)
    folder = tmp_path / name
    folder.unlink(missing_ok=True)
    folder.mkdir()
    os.utime(folder, (0, 0))
    keep_few(tmp_path, newest=third)
    assert [path for path in left(tmp_path) if "-wal" not in path and path != name] == [second, third]
    monkeypatch.setattr(asides, "free_bytes", lambda _: 0)
    assert make_room(tmp_path, wanted_bytes=1)
    assert left(tmp_path) == [name]
    assert not make_room(tmp_path, wanted_bytes=1)


async def test_a_salvage_has_their_room(shelves, put_aside, make_small_disk) -> None:
    """On a small card earlier damage must not cost what can be read of the last."""
    disk = make_small_disk(12 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open()
    for _ in range(30):
        await shelves.put_noise(store, 100_000)
    held = store.status()["uplinks"]["cloud"]["held"]
    await shelves.close()
    put_aside(2, 1 << 20, folder=shelves.state_dir)
    disk.fill(leave_bytes=1 << 20)
    (shelves.state_dir / f"{DATABASE}.suspect").write_text("why")
    store = await shelves.open()
    assert "lost: nothing; the damaged file" in store.events[0]
    assert store.status()["uplinks"]["cloud"]["held"] == held


@pytest.mark.parametrize("when_full", ["drop_oldest", "refuse"])
async def test_what_is_held_does_not_make_way_for_them(shelves, put_aside, make_small_disk, when_full) -> None:
    """Others fill the disk: what was set aside goes before anything is evicted or turned away."""
    disk = make_small_disk(12 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open(when_full=when_full)
    await shelves.put_noise(store, 100_000)
    put_aside(2, 1 << 20, folder=shelves.state_dir)
    disk.fill(leave_bytes=100_000)
    for _ in range(20):
        try:
            await shelves.put_noise(store, 100_000)
        except FullError:
            await store.tend()
    assert store.status()["uplinks"]["cloud"]["ledger"] == {}
    assert len(left(shelves.state_dir)) < 4


async def test_what_bounds_a_shelf_by_its_own_setting_leaves_them(shelves, put_aside) -> None:
    """They are outside of max_bytes."""
    store = await shelves.open(max_bytes=1 << 20)
    put_aside(1, folder=shelves.state_dir)
    for _ in range(20):
        await shelves.put_noise(store, 100_000)
    assert store.status()["uplinks"]["cloud"]["ledger"]["evicted_full"] > 0
    assert left(shelves.state_dir)


async def test_a_disk_that_is_gone_while_it_is_looked_after(shelves, monkeypatch) -> None:
    """The commit says so; the next look is in half a minute."""
    store = await shelves.open()

    def fail(*_: object) -> int:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(Room, "lacking", fail)
        await store.tend()
    assert keeping.TEND_S == 30
    assert await shelves.put(store, 1)
