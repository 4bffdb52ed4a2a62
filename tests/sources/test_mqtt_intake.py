"""Arrivals under way: bounded, held while there is no room, answered in order, never before they are kept."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import Accepted, Arrivals, FullError
from gateway.sources.mqtt_intake import BUFFERS_MAX, GIVE_UP_S_MAX, Intake, ReceivedOnce
from hil import virtual_time


def arrivals(number: int) -> Arrivals:
    return Arrivals("s", [b"t"], [b"%d" % number], number)


class Door:
    """An accept whose every call takes the next of `waits_s`; -1 means: no room this time."""

    def __init__(self, *waits_s: float) -> None:
        self.waits_s = list(waits_s)
        self.kept: list[int] = []

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        wait_s = self.waits_s.pop(0) if self.waits_s else 0
        if wait_s < 0:
            raise FullError("no room", after_s=-wait_s)
        await asyncio.sleep(wait_s)
        self.kept.append(arrivals.arrived_ns)
        return Accepted(1)


@given(st.lists(st.integers(-3, 5), max_size=30))
def test_answers_come_in_order_and_only_for_what_is_kept(waits_s: list[int]) -> None:
    """However long each commit takes and however often there is no room."""

    async def main() -> None:
        door = Door(*waits_s)
        answered: list[int] = []
        intake = Intake(accept=door, bytes_max=10**6, on_change=lambda: None)

        def answer(number: int) -> None:
            assert number in door.kept
            answered.append(number)

        for number in range(15):
            intake.offer(arrivals(number), size_bytes=1, answer=lambda number=number: answer(number))
        await intake.drain(within_s=10**4)
        assert answered == list(range(15))
        assert intake.is_empty
        assert (intake.bytes_pending, intake.messages_held) == (0, 0)

    virtual_time.run(main())


def test_it_is_full_by_bytes_by_number_and_while_something_is_held(run_virtual) -> None:
    """Each of the three asks the source to stop; room is told by `on_change`."""

    async def main() -> None:
        changes: list[bool] = []
        intake = Intake(accept=Door(1, -2, 0), bytes_max=100, on_change=lambda: changes.append(intake.is_full))
        intake.offer(arrivals(1), size_bytes=99, answer=lambda: None)
        assert not intake.is_full
        intake.offer(arrivals(2), size_bytes=1, answer=lambda: None)
        assert intake.is_full
        await asyncio.sleep(1.5)
        assert intake.is_full
        assert intake.messages_held == 1
        assert intake.full_reason == "no room"
        await asyncio.sleep(1)
        assert not intake.is_full
        assert changes[-1] is False
        for number in range(BUFFERS_MAX):
            intake.offer(arrivals(number), size_bytes=0, answer=lambda: None)
        assert intake.is_full
        await intake.drain(within_s=5)

    run_virtual(main())


def test_what_follows_waits_for_what_was_offered_before(run_virtual) -> None:
    """An answer without arrivals of its own keeps its place."""

    async def main() -> None:
        order: list[str] = []
        intake = Intake(accept=Door(1, 0), bytes_max=100, on_change=lambda: None)
        intake.follow(lambda: order.append("at once"))
        intake.offer(arrivals(1), size_bytes=1, answer=lambda: order.append("first"))
        intake.follow(lambda: order.append("second"))
        assert order == ["at once"]
        await intake.drain(within_s=5)
        assert order == ["at once", "first", "second"]

    run_virtual(main())


def test_a_drain_is_bounded(run_virtual) -> None:
    """What is not kept in time is cancelled, unanswered."""

    async def main() -> None:
        answered: list[int] = []
        intake = Intake(accept=Door(100), bytes_max=100, on_change=lambda: None)
        intake.offer(arrivals(1), size_bytes=1, answer=lambda: answered.append(1))
        started_s = asyncio.get_running_loop().time()
        assert not await intake.drain(within_s=5)
        assert asyncio.get_running_loop().time() - started_s == 5
        assert not answered

    run_virtual(main())


def test_a_fault_is_kept_for_the_source(run_virtual) -> None:
    """The first one; nothing behind it is answered out of turn."""

    async def main() -> None:
        async def accept(arrivals: Arrivals, /) -> Accepted:
            if arrivals.arrived_ns == 1:
                raise ValueError("ours")
            return Accepted(1)

        answered: list[int] = []
        intake = Intake(accept=accept, bytes_max=100, on_change=lambda: None)
        for number in (1, 2):
            intake.offer(arrivals(number), size_bytes=1, answer=lambda number=number: answered.append(number))
        await intake.drain(within_s=1)
        with pytest.raises(ValueError, match="ours"):
            await intake.failure
        assert not answered

    run_virtual(main())


def test_a_message_is_new_until_it_is_released() -> None:
    """QoS 2: the same id with the same content is the same message; released, or different, it is another."""
    once = ReceivedOnce()
    receipt, is_new = once.note(b"\0\1", b"t", b"a")
    assert is_new
    assert once.note(b"\0\1", b"t", b"a") == (receipt, False)
    # A broker that lost its memory numbers anew: same id, other content.
    assert once.note(b"\0\1", b"t", b"b")[1]
    once.release(b"\0\1")
    once.release(b"\0\1")
    assert once.note(b"\0\1", b"t", b"b")[1]
    assert len(once) == 1
    once.forget()
    assert len(once) == 0


def test_what_nobody_else_has_and_found_no_room_is_lost_at_the_end(run_virtual) -> None:
    """Whether it waits to be offered again or is just being offered; not what was let in, which comes to the disk."""

    async def main() -> None:
        told: list[dict[str, int]] = []

        async def door(arrivals: Arrivals, /) -> Accepted:
            if not arrivals.payloads:
                told.append(dict(arrivals.dropped))
                return Accepted(0)
            if arrivals.arrived_ns == 1:
                raise FullError("no room", after_s=100)
            if arrivals.arrived_ns == 3:
                arrivals.payloads = ()
            await asyncio.sleep(100)
            return Accepted(1)

        intake = Intake(accept=door, bytes_max=100, on_change=lambda: None)
        for number, only_here in ((1, 1), (2, 2), (3, 4)):
            intake.offer(arrivals(number), size_bytes=1, answer=lambda: None, only_here=only_here)
        assert not await intake.drain(within_s=5)
        assert intake.lost == 3
        await intake.give_up(source="s", now_ns=1)
        assert (told, intake.lost) == ([{"no_room": 3}], 0)

    run_virtual(main())


def test_giving_up_is_bounded(run_virtual) -> None:
    """A shelf that hangs keeps nobody from stopping, and one that is full to the last byte takes not even a loss."""

    async def main() -> None:
        for waits_s in ([100.0], [-1.0]):
            intake = Intake(accept=Door(*waits_s), bytes_max=100, on_change=lambda: None)
            intake.lost = 3
            began_s = asyncio.get_running_loop().time()
            await intake.give_up(source="s", now_ns=1)
            assert asyncio.get_running_loop().time() - began_s <= GIVE_UP_S_MAX

    run_virtual(main())


def test_what_fills_it_asks_for_its_commit(run_virtual) -> None:
    """Nothing more is read before that: waiting for others would be waiting for nobody."""

    async def main() -> None:
        intake = Intake(accept=Door(1, 1, 1), bytes_max=100, on_change=lambda: None)
        sent = [arrivals(number) for number in range(3)]
        for one in sent:
            intake.offer(one, size_bytes=40, answer=lambda: None)
        assert [one.is_last for one in sent] == [False, False, True]
        await intake.drain(within_s=10)

    run_virtual(main())
