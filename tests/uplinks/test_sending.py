"""Checks for the way from a lease in hand to the far side: what is begun, what is held back, what is made again."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.codecs.otlp import ProtobufEncoder
from gateway.core.clock import FakeClock
from gateway.core.contracts import Signal, TryLaterError
from gateway.core.units import Duration, Size
from gateway.uplinks import sending as sending_module
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.guards import Answer, Request, TooLargeError
from gateway.uplinks.pacing import FAST_LEVEL, HARD_LEVEL
from gateway.uplinks.parts import Closed
from gateway.uplinks.requests import Hand, RequestBuilder
from gateway.uplinks.sending import NotBegunError, Sending
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.worker import Worker

REQUEST = Request(Signal.METRICS, b"body", 1)


class Wire:
    """Answers by a script; `sent` are the bodies."""

    def __init__(self, *script) -> None:
        self.requests = self.bytes_sent = 0
        self.script = list(script)
        self.sent: list[bytes] = []

    def open(self) -> None:
        pass

    def send(self, packed) -> Answer:
        self.sent.append(packed.body)
        answer = self.script.pop(0) if self.script else Answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def is_overdue(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    stop = close = abort


@pytest.fixture
def start(make_store):
    """Start a sender with a real thread; `start(Answer(), …)` scripts the wire."""
    started: list[Sending] = []

    def build(*script, **settings) -> tuple[Sending, Wire]:
        store, wire, clock = make_store(FakeClock()), Wire(*script), FakeClock()
        sending = Sending(
            OtlpUplinkSettings(
                **{"name": "cloud", "endpoint": "http://127.0.0.1:1", "compression": "none", **settings}
            ),
            wire=wire,
            builder=RequestBuilder(
                timeline=store.timeline,
                encoder=ProtobufEncoder(series=store.series, gateway_attributes=(), version="0"),
            ),
            start_worker=Worker,
            clock=clock,
            random=Random(1),
        )
        sending.store = store
        sending.open()
        started.append(sending)
        return sending, wire

    yield build
    for sending in started:
        sending.close()


async def lease(sending: Sending, readings) -> Hand:
    sending.store.add(readings)
    return Hand(await sending.store.lease("cloud", readings_max=10**6, bytes_max=1 << 30))


async def test_what_stands_behind_a_failure_is_not_begun(start) -> None:
    """Whoever leased it gives it back for certain; what is handed over afterwards is sent."""
    sending, wire = start(TryLaterError("status 503"))
    first, second = sending.post(REQUEST), sending.post(REQUEST)
    with pytest.raises(TryLaterError):
        await first.answer
    with pytest.raises(NotBegunError):
        await second.answer
    await sending.post(REQUEST).answer
    assert len(wire.sent) == 2


async def test_what_is_not_wanted_any_more_is_not_begun(start) -> None:
    """Even where nothing failed."""
    sending, wire = start()
    flight = sending.post(REQUEST)
    behind = sending.post(REQUEST)
    behind.wanted = False
    results = await asyncio.gather(flight.answer, behind.answer, return_exceptions=True)
    assert len(wire.sent) + sum(isinstance(result, NotBegunError) for result in results) == 2


async def test_a_request_that_is_made_lets_go_of_the_columns(start, make_readings) -> None:
    """They are the most memory of all; where they are needed again they are made again, as they were."""
    sending, wire = start(TooLargeError("413"))
    hand = await lease(sending, make_readings(10))
    flight = sending.begin(hand)
    assert [type(part) for part in hand.parts] == [Closed]
    assert not hand.is_split
    await asyncio.wait({flight.answer})
    assert sending.land(hand, flight) is None
    assert [len(part) for part in hand.parts] == [5, 5]
    while (flight := sending.begin(hand)) is not None:
        await flight.answer
        sending.land(hand, flight)
    assert (hand.delivered, hand.lost) == (10, 0)
    assert wire.sent[0] != wire.sent[1] != wire.sent[2]
    # By this the backlog has its share; what was not taken is sent again, and counts then.
    assert hand.lease.sent_bytes == len(wire.sent[1]) + len(wire.sent[2])


async def test_who_is_half_taken_keeps_the_rest(start, make_readings) -> None:
    """What was taken already is not made again with it."""
    sending, _ = start()
    hand = await lease(sending, make_readings(10))
    hand.delivered = 3
    sending.begin(hand)
    assert not isinstance(hand.parts[0], Closed)


async def test_who_is_in_haste_is_not_compressed_hard(start, monkeypatch) -> None:
    """Others wait behind it. The first that is has itself compared."""
    levels: list[int] = []
    monkeypatch.setattr(sending_module.zstd, "compress", lambda body, *, level: levels.append(level) or body)
    sending, _ = start(compression="zstd")
    for in_haste in (False, True):
        await sending.post(Request(Signal.METRICS, b"body" * 100, 1, in_haste)).answer
    assert levels == [HARD_LEVEL, FAST_LEVEL, FAST_LEVEL]


@pytest.mark.parametrize("is_counted", [False, True])
async def test_what_saves_little_is_not_compressed_hard_unless_bytes_are_counted(
    start, monkeypatch, is_counted
) -> None:
    """A link without an allowance gives no processor's time away for 4 % of some bytes."""
    levels: list[int] = []

    def compress(body: bytes, *, level: int) -> bytes:
        levels.append(level)
        return body[: 96 if level == HARD_LEVEL else 100]

    monkeypatch.setattr(sending_module.zstd, "compress", compress)
    budget = BudgetSettings(per_month=Size(1 << 30)) if is_counted else BudgetSettings()
    sending, wire = start(compression="zstd", budget=budget)
    for _ in range(9):
        await sending.post(Request(Signal.METRICS, b"body" * 100, 1)).answer
    assert {len(sent) for sent in wire.sent} == {96} if is_counted else {100, 96}
    assert levels.count(HARD_LEVEL) == (9 if is_counted else 1)


async def test_what_is_put_behind_one_that_has_failed_already_is_not_begun(start) -> None:
    """The loop has not heard of the failure yet, and gives the lease back as not sent when it does."""
    sending, wire = start(TryLaterError("cut"))
    front = sending.post(REQUEST)
    await asyncio.wait({front.answer})
    behind = sending.post(REQUEST, behind=front)
    with pytest.raises(NotBegunError):
        await behind.answer
    assert str(front.answer.exception()) == "cut"
    assert len(wire.sent) == 1
    await sending.post(REQUEST).answer


@pytest.mark.parametrize(("timeout_s", "seconds"), [(10, 2.0), (1, 0.5)])
async def test_requests_take_less_than_is_waited_for_an_answer(start, timeout_s: float, seconds: float) -> None:
    """Else what is taken late is sent again, and the next one is as large."""
    sending, _ = start(timeout=Duration(timeout_s))
    assert sending.size.request_s == seconds
