"""Checks for the way from PUBLISHes to the door and back."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.clock import FakeClock
from gateway.core.contracts import Accepted, Arrivals, FullError, Lost
from gateway.core.telemetry import Telemetry
from gateway.sources.mqtt_server_intake import DOOR_PORTIONS, GATHER_BYTES_MAX, Intake, Receipt
from gateway.sources.mqtt_server_session import Session
from gateway.sources.portion import PORTION_BYTES_MIN, TAKE_S_MAX


class Owner:
    def __init__(self) -> None:
        self.settled = 0
        self.failed = 0

    def settle(self) -> None:
        self.settled += 1

    def fail(self) -> None:
        self.failed += 1


def intake(door, *, bytes_max: int = 10_000_000) -> tuple[Intake, list[bool]]:
    pressure: list[bool] = []
    made = Intake(
        source="direct",
        accept=door,
        clock=FakeClock(),
        telemetry=Telemetry(),
        bytes_max=bytes_max,
        on_pressure=pressure.append,
    )
    return made, pressure


def receipt(owner: Owner, size: int = 10) -> Receipt:
    return Receipt(owner, b"", messages=1, bytes_held=size)


async def test_one_turn_of_the_loop_is_one_offer(door) -> None:
    """Whatever many connections brought."""
    made, _ = intake(door)
    owners = [Owner() for _ in range(100)]
    receipts = [receipt(owner) for owner in owners]
    for k, one in enumerate(receipts):
        made.put(one, [b"t"], [b"%d" % k])
    assert await made.drain(timeout_s=60)
    assert door.offers == 1
    assert door.payloads == [b"%d" % k for k in range(100)]
    assert all(one.is_kept for one in receipts)
    assert {owner.settled for owner in owners} == {1}
    assert (made.received, made.acknowledged, made.bytes_held) == (100, 100, 0)


async def test_an_offer_says_who_sent_its_messages(door) -> None:
    """In runs."""
    made, _ = intake(door)
    for user, count in (("pump", 2), ("", 1), ("fan", 3)):
        topics = [b"t"] * count
        made.put(Receipt(Owner(), b"", messages=count, bytes_held=1, user=user), topics, topics)
    assert await made.drain(timeout_s=60)
    (arrivals,) = door.arrivals
    assert arrivals.users == [(2, "pump"), (1, ""), (3, "fan")]


async def test_while_an_offer_waits_the_next_one_gathers(door) -> None:
    """Several turns of the loop become one offer."""
    made, _ = intake(door)
    door.opened.clear()
    owner = Owner()
    made.put(receipt(owner), [b"t"], [b"0"])
    await door.came.wait()
    for k in range(1, 4):
        made.put(receipt(owner), [b"t"], [b"%d" % k])
        await asyncio.sleep(0)
    door.opened.set()
    assert await made.drain(timeout_s=60)
    assert door.offers == 2
    assert door.payloads == [b"0", b"1", b"2", b"3"]


async def test_a_large_gathering_is_offered_at_once(door) -> None:
    """No offer is much larger than the bound."""
    made, _ = intake(door, bytes_max=1 << 30)
    owner = Owner()
    for _ in range(4):
        made.put(receipt(owner, GATHER_BYTES_MAX // 2), [b"t"], [b""])
    assert await made.drain(timeout_s=60)
    assert door.offers == 2


async def test_pressure_is_said_once_and_taken_back_once(door) -> None:
    """At the bound, and when a quarter of it is free again."""
    made, pressure = intake(door, bytes_max=100)
    door.opened.clear()
    owner = Owner()
    for _ in range(3):
        made.put(receipt(owner, 60), [b"t"], [b""])
    assert pressure == [True]
    door.opened.set()
    assert await made.drain(timeout_s=60)
    assert pressure == [True, False]


async def test_full_is_pressure_too(door) -> None:
    """The same arrivals are offered again until they are kept."""
    made, pressure = intake(door)
    door.full_times = 3
    made.put(receipt(Owner()), [b"t"], [b"1"])
    made.offer()
    await door.came.wait()
    await asyncio.sleep(0)
    assert made.is_full
    assert await made.drain(timeout_s=60)
    assert not made.is_full
    assert pressure == [True, False]
    assert door.payloads == [b"1"]
    assert made.last_error == "full: no room"


async def test_what_fails_is_not_settled(door, caplog) -> None:
    """Its owners are told, and the bytes are given back."""
    made, _ = intake(door)
    door.failure = RuntimeError("a mistake")
    owner = Owner()
    one = receipt(owner)
    made.put(one, [b"t"], [b"1"])
    assert await made.drain(timeout_s=60)
    assert (owner.settled, owner.failed, one.is_kept) == (0, 1, False)
    assert (made.acknowledged, made.bytes_held) == (0, 0)
    assert "a mistake" in caplog.text


async def test_what_was_dropped_goes_with_the_next_offer(door) -> None:
    """By reason, once."""
    made, _ = intake(door)
    made.drop("why")
    made.drop("why")
    made.put(receipt(Owner()), [b"t"], [b"1"])
    made.put(receipt(Owner()), [b"t"], [b"2"])
    assert await made.drain(timeout_s=60)
    made.put(receipt(Owner()), [b"t"], [b"3"])
    assert await made.drain(timeout_s=60)
    assert [arrivals.dropped for arrivals in door.arrivals] == [{"why": 2}, {}]


async def test_what_was_dropped_meanwhile_follows_an_offer_that_is_kept(door) -> None:
    """In an offer of its own, where nothing else comes: one for however many."""
    made, _ = intake(door)
    door.opened.clear()
    made.put(receipt(Owner()), [b"t"], [b"1"])
    await door.came.wait()
    for _ in range(100):
        made.drop("why")
    assert door.offers == 1
    door.opened.set()
    async with asyncio.timeout(60):
        while len(door.arrivals) < 2:
            await asyncio.sleep(0)
    assert [(len(arrivals), arrivals.dropped) for arrivals in door.arrivals] == [(1, {}), (0, {"why": 100})]


async def test_what_was_dropped_survives_an_offer_that_fails(door) -> None:
    """It is said with the next that is kept."""
    made, _ = intake(door)
    door.failure = RuntimeError("a mistake")
    made.drop("why")
    made.put(receipt(Owner()), [b"t"], [b"1"])
    assert await made.drain(timeout_s=60)
    door.failure = None
    made.put(receipt(Owner()), [b"t"], [b"2"])
    assert await made.drain(timeout_s=60)
    assert [arrivals.dropped for arrivals in door.arrivals] == [{"why": 1}]


async def test_one_that_waits_for_its_answer_makes_it_everybodys_last(door) -> None:
    """What is gathered together has one commit, early for whoever sends nothing more before it."""
    made, _ = intake(door)
    for is_last in (False, False, True):
        one = receipt(Owner())
        one.is_last = is_last
        made.put(one, [b"t"], [b"1"])
        if not is_last:
            made.offer()
    assert await made.drain(timeout_s=60)
    assert [arrivals.is_last for arrivals in door.arrivals] == [False, False, True]


async def test_under_pressure_nothing_more_comes(door) -> None:
    """Nobody is read then, so that only a commit can go on."""
    made, _ = intake(door, bytes_max=100)
    made.put(receipt(Owner(), 60), [b"t"], [b"1"])
    made.put(receipt(Owner(), 60), [b"t"], [b"2"])
    assert await made.drain(timeout_s=60)
    assert [arrivals.is_last for arrivals in door.arrivals] == [True]


async def test_draining_gives_up(door) -> None:
    """What is not kept in time is not settled."""
    made, _ = intake(door)
    door.opened.clear()
    owner = Owner()
    made.put(receipt(owner), [b"t"], [b"1"])
    assert not await made.drain(timeout_s=0.01)
    await asyncio.sleep(0)
    assert (owner.settled, owner.failed) == (0, 1)
    assert made.bytes_held == 0
    assert await made.drain(timeout_s=60)


@pytest.mark.parametrize("is_let_in", [False, True])
async def test_what_has_no_room_at_the_end_is_lost_unless_it_comes_again_or_was_let_in(is_let_in: bool) -> None:
    """Without a packet id nobody sends it again; what was let in comes to the disk by itself, and is counted there."""
    told: list[dict[str, int]] = []

    async def door(arrivals: Arrivals, /) -> Accepted:
        if not arrivals.payloads:
            told.append(dict(arrivals.dropped))
            return Accepted(0)
        if not is_let_in:
            raise FullError("no room", after_s=60.0)
        # Whoever makes columns of them leaves nothing in the arrivals.
        arrivals.payloads = ()
        await asyncio.Event().wait()
        raise AssertionError

    made, _ = intake(door)
    one = Receipt(Owner(), b"", messages=5, bytes_held=10, unacknowledged=2, session=Session(("", "d1")))
    made.put(one, [b"t"] * 5, [b"1"] * 5)
    assert not await made.drain(timeout_s=0.05)
    assert told == ([] if is_let_in else [{"no_room": 3}])


async def test_it_is_read_again_when_a_quarter_is_free(door) -> None:
    """Not with each message that is on the disk: that would be a word to all connections for each."""
    made, pressure = intake(door, bytes_max=100)
    for held, said in [(99, []), (100, [True]), (99, [True]), (76, [True]), (75, [True, False]), (99, [True, False])]:
        made.bytes_held = held
        made._weigh()
        assert pressure == said


async def test_what_comes_in_one_round_does_not_wait_for_more(door) -> None:
    """Connections that rested are looked at together: there is nobody to wait for."""
    made, _ = intake(door)
    door.opened.clear()
    made.put(receipt(Owner()), [b"t"], [b"0"])
    await door.came.wait()
    made.is_round = True
    made.put(receipt(Owner()), [b"t"], [b"1"])
    made.put(receipt(Owner()), [b"t"], [b"2"])
    for _ in range(3):
        await asyncio.sleep(0)
    assert door.offers == 2
    assert not made.is_round
    door.opened.set()
    assert await made.drain(timeout_s=60)


async def test_what_waits_at_the_door_as_it_came_is_bounded() -> None:
    """Reading stops while much of it does, and goes on when it has been let in, long before it is kept."""
    offered: list[Arrivals] = []
    kept = asyncio.Event()

    async def door(arrivals: Arrivals) -> Accepted:
        offered.append(arrivals)
        await kept.wait()
        return Accepted(1)

    made, pressure = intake(door, bytes_max=16_000)
    made.put(receipt(Owner(), 1000), [b"t"], [b"0"])
    for _ in range(3):
        await asyncio.sleep(0)
    assert pressure == [True]
    offered[0].payloads = ()
    offered[0].on_prepared(0.0)
    assert pressure == [True, False]
    kept.set()
    assert await made.drain(timeout_s=60)
    made.put(receipt(Owner(), 1000), [b"t"], [b"1"])
    assert await made.drain(timeout_s=60)
    # This time the door did not say that it let anybody in; whoever has an answer is not at it any more.
    assert pressure == [True, False, True, False]


async def test_what_takes_long_to_take_in_is_offered_in_smaller_portions(door) -> None:
    """Until it goes quickly again."""
    made, _ = intake(door, bytes_max=1 << 30)
    door.lets_in = True
    for took_s, portion in ((4 * TAKE_S_MAX, 25_000), (0.0, 50_000)):
        door.took_s = took_s
        made.put(receipt(Owner(), 100_000), [b"t"], [b"0"])
        assert await made.drain(timeout_s=60)
        assert made.portion.size_bytes == portion


async def test_few_small_portions_wait_at_the_door(door) -> None:
    """Whoever comes then waits for no more than these."""
    made, pressure = intake(door, bytes_max=1 << 30)
    made.portion.size_bytes = PORTION_BYTES_MIN
    door.opened.clear()
    for number in range(DOOR_PORTIONS):
        assert pressure == []
        before = door.offers
        made.put(receipt(Owner(), PORTION_BYTES_MIN), [b"t"], [b"0"])
        await asyncio.sleep(0)
        assert door.offers == before + 1, f"portion {number} is offered at once"
    assert pressure == [True]
    door.opened.set()
    assert await made.drain(timeout_s=60)


async def test_what_is_lost_keeps_its_place_in_the_offer(door) -> None:
    """Whoever else's messages stand before it; and the next offer knows nothing of it."""
    made, _ = intake(door)
    for k in range(3):
        one = Receipt(Owner(), b"", messages=2, bytes_held=1)
        made.put(one, [b"t"] * 2, [b"", b""], lost=[Lost(1, "oversize", "")] if k != 1 else ())
    made.offer()
    made.put(receipt(Owner()), [b"t"], [b""])
    assert await made.drain(timeout_s=60)
    assert [list(arrivals.lost) for arrivals in door.arrivals] == [
        [Lost(1, "oversize", ""), Lost(5, "oversize", "")],
        [],
    ]
