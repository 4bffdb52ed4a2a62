"""Each failure is waited for in its own way: by time, for a network, a clock, a commit, or the next window."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from gateway.core.contracts import TryLaterError
from gateway.uplinks.budget import OverBudgetError, UnwrittenError
from gateway.uplinks.guards import NoLinkError, UnreachableError
from gateway.uplinks.requests import NoClockError
from gateway.uplinks.waits import Waits
from hil.virtual_time import run

OVER = OverBudgetError("spent", 600.0, size_bytes=50_000, left_bytes=1000, is_end_known=True)


class Around:
    """All that an uplink's waits stand between; what is asked of it is written down."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.said: list[str] = []
        self.share: float | None = None
        self.is_small = False
        self.has_clock = False
        self.held_back_s = 0.0
        self.reasons: list[str] = []
        self.waits = Waits(
            "cloud",
            store=SimpleNamespace(
                rest=lambda uplink, wait_s: self.calls.append(("rest", uplink, wait_s)),
                link_up=lambda uplink: self.calls.append(("link_up", uplink)),
            ),
            wire=SimpleNamespace(stop=lambda: self.calls.append("stop")),
            size=SimpleNamespace(fit=self.fit),
            spending=SimpleNamespace(
                share_that_fits=lambda error: self.share,
                wait=self.wait_window,
                wait_for_commit=self.wait_commit,
                wait_for_link=self.wait_link,
                held_back_s=lambda: self.held_back_s,
            ),
            clock_wait=SimpleNamespace(wait=self.wait_clock, probe=None),
            say=self.say,
        )
        self.waits.begin()

    def say(self, state: str, reason: str, wait_s: float) -> None:
        self.said.append(state)
        self.reasons.append(reason)

    def fit(self, share: float) -> bool:
        self.calls.append(("fit", share))
        return not self.is_small

    async def wait_window(self, error, *, say, ask) -> None:
        self.calls.append("window")
        await asyncio.sleep(error.after_s)

    async def wait_link(self, error, *, say) -> None:
        self.calls.append(("link", str(error)))
        say("no link", str(error), 1.0)

    async def wait_commit(self) -> None:
        self.calls.append("commit")

    async def wait_clock(self, error, wait_s, *, say) -> bool:
        self.calls.append("clock")
        await asyncio.sleep(wait_s)
        return self.has_clock


async def took_s(waits: Waits, error: TryLaterError, wait_s: float = 0.0) -> float:
    began_s = asyncio.get_running_loop().time()
    await waits.until_again(error, wait_s)
    return round(asyncio.get_running_loop().time() - began_s, 3)


def test_back_off_is_time() -> None:
    """And the store hears that nothing is leased meanwhile."""

    async def main() -> None:
        around = Around()
        assert await took_s(around.waits, TryLaterError("429"), 7.0) == 7
        assert around.calls == [("rest", "cloud", 7.0)]
        assert around.said == ["waiting"]

    run(main())


def test_a_network_that_comes_ends_the_wait_for_who_was_unreachable() -> None:
    """And no other: a server that asks to wait is left alone."""

    async def main() -> None:
        around = Around()
        for error, expected_s in ((UnreachableError("no route"), 2), (TryLaterError("429"), 7)):
            asyncio.get_running_loop().call_later(2.0, around.waits.network.end)
            assert await took_s(around.waits, error, 7.0) == expected_s

    run(main())


def test_tries_that_cost_too_much_wait_for_longer_and_say_so() -> None:
    """Not where they have to be over soon, nor where another link is there, nor where somebody answered."""

    async def main() -> None:
        around = Around()
        around.held_back_s = 360.0
        assert await took_s(around.waits, UnreachableError("no route"), 7.0) == 360
        assert around.reasons == ["no route; tries have had their part of what may be spent"]
        assert await took_s(around.waits, TryLaterError("429"), 7.0) == 7
        elsewhere = UnreachableError("no route")
        elsewhere.at_once = True
        assert await took_s(around.waits, elsewhere) == 0
        around.held_back_s = 3.0
        assert await took_s(around.waits, UnreachableError("no route"), 7.0) == 7
        around.held_back_s, around.waits.is_stopping = 360.0, True
        assert await took_s(around.waits, UnreachableError("no route"), 7.0) == 7
        assert around.reasons[1:] == ["429", *["no route"] * 3]

    run(main())


def test_a_clock_that_came_makes_what_is_fresh_go_first() -> None:
    """One that did not is remembered, so that it will."""

    async def main() -> None:
        around = Around()
        assert await took_s(around.waits, NoClockError(), 60.0) == 60
        assert around.waits.lacked_clock
        around.has_clock = True
        await around.waits.until_again(NoClockError(), 1.0)
        assert not around.waits.lacked_clock
        assert around.calls == ["clock", "clock", ("link_up", "cloud")]

    run(main())


def test_a_budget_is_waited_for_where_smaller_requests_do_not_fit() -> None:
    """Where they do, nothing is waited for."""

    async def main() -> None:
        around = Around()
        assert await took_s(around.waits, UnwrittenError()) == 0
        assert await took_s(around.waits, OVER) == 600
        around.share = 0.5
        assert await took_s(around.waits, OVER) == 0
        around.is_small = True
        assert await took_s(around.waits, OVER) == 600
        assert around.calls == ["commit", "window", ("fit", 0.5), ("fit", 0.5), "window"]

    run(main())


def test_nobody_waits_for_the_next_window_with_a_stop() -> None:
    """Nothing more can be sent; a run after that begins anew."""

    async def main() -> None:
        around = Around()
        around.waits.is_stopping = True
        assert await took_s(around.waits, OVER) == 0
        assert around.waits.is_shut
        around.waits.begin()
        assert not around.waits.is_shut
        assert not around.waits.is_stopping

    run(main())


def test_a_thread_that_may_be_stuck_in_a_probe_is_asked_nothing_more() -> None:
    """A stop while the time is asked for: what is fresh is kept, and not sent behind it."""

    async def main() -> None:
        for error in (NoClockError(), OVER):
            around = Around()
            task = asyncio.create_task(around.waits.until_again(error, 60.0))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert around.waits.is_shut
            assert around.calls[-1] == "stop"

    run(main())


def test_a_link_is_waited_for_unless_the_uplink_stops() -> None:
    """Then nothing more can be sent."""

    async def main() -> None:
        around = Around()
        error = NoLinkError("no link of cloud is up", 60.0)
        await around.waits.until_again(error, 60.0)
        assert (around.calls, around.said) == ([("link", "no link of cloud is up")], ["no link"])
        around.waits.is_stopping = True
        await around.waits.until_again(error, 60.0)
        assert (len(around.calls), around.waits.is_shut) == (1, True)

    run(main())
