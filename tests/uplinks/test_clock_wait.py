"""Without a clock a receiver is asked for the time now and then, and who waits hears of it soon."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from gateway.core.clock import Quality
from gateway.uplinks.clock_wait import PROBE_S, ClockWait
from gateway.uplinks.guards import Answer
from gateway.uplinks.requests import NoClockError
from hil.virtual_time import run


class Desk:
    """A store without a clock, and a receiver that may know the time."""

    def __init__(self, *, server_time_s: int | None = None, failure: Exception | None = None) -> None:
        self.timeline = SimpleNamespace(quality=Quality.UNKNOWN)
        self.probes: list[float] = []
        self.said: list[tuple[str, str, float]] = []
        self.heard: list[tuple[int, float]] = []
        self._answer = Answer(server_time_s=server_time_s, rtt_s=0.1)
        self._failure = failure

    def probe(self) -> SimpleNamespace:
        loop = asyncio.get_running_loop()
        self.probes.append(loop.time())
        future = loop.create_future()
        if self._failure is None:
            future.set_result(self._answer)
        else:
            future.set_exception(self._failure)
        return SimpleNamespace(answer=future)

    async def watch(self, future: asyncio.Future) -> None:
        await asyncio.wait({future})

    def hear(self, unix_s: int, rtt_s: float) -> None:
        self.heard.append((unix_s, rtt_s))
        self.timeline.quality = Quality.ESTIMATED

    def waiting(self, *, hears: bool = True) -> ClockWait:
        on_server_time = self.hear if hears else None
        return ClockWait(store=self, sending=self, on_server_time=on_server_time, watch=self.watch)

    def say(self, state: str, reason: str, wait_s: float) -> None:
        self.said.append((state, reason, wait_s))


def test_an_answer_with_a_date_ends_the_wait() -> None:
    """At once."""

    async def main() -> None:
        desk = Desk(server_time_s=1_790_000_000)
        assert await desk.waiting().wait(NoClockError(), 60.0, say=desk.say)
        assert desk.heard == [(1_790_000_000, 0.1)]
        assert desk.said == [("waiting for the clock", str(NoClockError()), 60.0)]
        assert asyncio.get_running_loop().time() < 1

    run(main())


def test_nobody_is_asked_more_often_than_once_a_minute() -> None:
    """Nor by who is not heard; a failure is no reason to ask again sooner."""

    async def main() -> None:
        for desk, hears in (
            (Desk(), True),
            (Desk(failure=OSError("cut")), True),
            (Desk(server_time_s=1_790_000_000), False),
        ):
            waiting = desk.waiting(hears=hears)
            began_s = asyncio.get_running_loop().time()
            for _ in range(12):
                assert not await waiting.wait(NoClockError(), 10.0, say=desk.say)
            assert round(asyncio.get_running_loop().time() - began_s) == 120
            assert [round(at_s - began_s) for at_s in desk.probes] == ([0, round(PROBE_S)] if hears else [])
            assert desk.heard == []

    run(main())


def test_a_clock_that_comes_from_elsewhere_is_noticed() -> None:
    """Within a second or so, and people see how long it may still take."""

    async def main() -> None:
        desk = Desk()
        asyncio.get_running_loop().call_later(7.5, lambda: setattr(desk.timeline, "quality", Quality.SYNCED))
        assert await desk.waiting().wait(NoClockError(), 60.0, say=desk.say)
        assert 7.5 <= asyncio.get_running_loop().time() <= 9
        assert [round(left_s) for _, _, left_s in desk.said][-1] == 53

    run(main())
