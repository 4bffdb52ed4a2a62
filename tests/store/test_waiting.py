"""Who waits is served in turn, and who gives up holds nobody up."""

from __future__ import annotations

import asyncio

import pytest

from gateway.store.waiting import RoomQueue, Watchers


class Room:
    """So many places."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.served: list[str] = []
        self.queue = RoomQueue(lambda: self.places > 0)

    async def come(self, name: str, *, within_s: float = 60) -> None:
        await self.queue.wait(within_s=within_s)
        self.places -= 1
        self.served.append(name)

    def leave(self) -> None:
        self.places += 1
        self.queue.call_next()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_where_there_is_room_nobody_waits() -> None:
    """Not even for a turn of the loop."""
    room = Room(1)
    coroutine = room.come("a")
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert room.served == ["a"]


async def test_first_come_first_served() -> None:
    """One at a time, as room comes; a newcomer stands at the end even where there is room just now."""
    room = Room(0)
    tasks = [asyncio.create_task(room.come(name)) for name in "abc"]
    await settle()
    room.leave()
    room.leave()
    late = asyncio.create_task(room.come("late"))
    await settle()
    assert room.served == ["a", "b"]
    room.leave()
    room.leave()
    await asyncio.gather(*tasks, late)
    assert room.served == ["a", "b", "c", "late"]


async def test_who_gives_up_is_passed_over() -> None:
    """By time or by being cancelled, before or after the call."""
    room = Room(0)
    with pytest.raises(TimeoutError):
        await room.come("a", within_s=0)
    gone, called, stays = (asyncio.create_task(room.come(name)) for name in "bcd")
    await settle()
    gone.cancel()
    await settle()
    room.leave()
    called.cancel()
    await asyncio.wait({stays})
    assert room.served == ["d"]


async def test_a_watcher_is_told_when_there_is_enough() -> None:
    """At a look, not before; the one whose readings are there already does not wait."""
    held = {"cloud": 5, "other": 0}
    watchers = Watchers(held.__getitem__)
    await watchers.wait("cloud", 5)
    waiting = asyncio.create_task(watchers.wait("cloud", 6))
    other = asyncio.create_task(watchers.wait("other", 1))
    await settle()
    held["cloud"] = 6
    watchers.look()
    watchers.look()
    await waiting
    assert not other.done()
    other.cancel()
    await settle()
    held["other"] = 1
    watchers.look()


async def test_who_takes_away_has_a_turn_first() -> None:
    """While they are behind those who bring wait, in turn; but for that alone nobody is turned away."""
    is_behind = True
    queue = RoomQueue(lambda: True, lambda: is_behind)
    await queue.wait(within_s=0.01)
    waiting = asyncio.create_task(queue.wait(within_s=60))
    await settle()
    queue.call_next()
    await settle()
    assert not waiting.done()
    is_behind = False
    queue.call_next()
    await waiting
