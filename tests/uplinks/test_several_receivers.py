"""Checks for one uplink with several receivers on the real store: nothing is lost, nothing doubled that is not counted."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, Batch, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.endpoint_settings import BreakerSettings
from gateway.uplinks.settings import OtlpUplinkSettings, RetrySettings
from hil.link_proxy import LinkProxy, Mode
from hil.otlp_sink import Behaviour, OtlpSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CLOCK = SystemClock()
OPEN_S = 0.4
# A receiver that answers has all the time that a busy machine needs; of one that hangs it is said in its test.
TIMEOUT_S = 20
# Whoever waits once waits too long.
PATIENT = RetrySettings(strategy="fixed", initial=Duration(50), max=Duration(50), unreachable_max=Duration(50))


@dataclass
class Plant:
    """A store, an uplink with two receivers `a` and `b`, the link to each, and what was accepted so far."""

    store: Store
    uplink: Uplink
    sinks: list[OtlpSink]
    links: list[LinkProxy]
    accepted: int = 0

    async def accept(self, count: int) -> None:
        """Have the store take so many readings, each with a value of its own."""
        number = self.store.resolve(Series((("device.id", "a"),), "n"))
        values = np.arange(self.accepted, self.accepted + count)
        batch = Batch.of(number, CLOCK.monotonic_ns() + np.arange(count), values, flags=MONOTONIC)
        await self.store.append([(Priority.NORMAL, batch)])
        self.accepted += count

    def account(self) -> dict:
        """Return what became of all of it; the sums are right at any moment."""
        status = self.store.status()
        account = status["uplinks"]["cloud"]
        assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
        return account

    async def until(self, is_so: Callable[[], bool], *, within_s: float = 60.0) -> float:
        """Wait until something is so, the sums being right all the while; return the seconds that it took."""
        began_s = time.monotonic()
        async with asyncio.timeout(within_s):
            while not is_so():
                self.account()
                await asyncio.sleep(0.005)
        return time.monotonic() - began_s

    async def until_sent(self) -> float:
        return await self.until(lambda: self.account()["held"] == 0)

    def taken(self) -> list[int]:
        """Return how many readings each receiver has taken."""
        return [sink.totals.readings for sink in self.sinks]

    def states(self) -> list[str]:
        return [one["state"] for one in self.uplink.status()["endpoints"]]

    def check(self) -> None:
        """Everything has arrived, and what came more than once was counted as that."""
        account = self.account()
        came = [reading.value for sink in self.sinks for reading in sink.readings().elements() if reading.metric == "n"]
        assert set(came) == set(range(self.accepted))
        assert len(came) - self.accepted <= account["maybe_twice"]
        assert account["delivered"] == self.accepted
        for sink, link in zip(self.sinks, self.links, strict=True):
            # An answer that drips has been given, and is not there.
            assert link.down.trickle_s or sink.unexplained_duplicates() == []


@pytest.fixture
async def plant(tmp_path, make_otlp_sink, make_link) -> AsyncIterator[Callable]:
    """Build one with settings of the uplink and start it; it is stopped at the end."""
    started: list[tuple[Store, asyncio.Task]] = []

    async def build(**settings) -> Plant:
        store = await Store.open(
            state_dir=tmp_path,
            settings=StoreSettings(),
            clock=CLOCK,
            uplinks=["cloud"],
            max_series=1000,
            telemetry=Telemetry(),
            commit_interval_s=0.01,
        )
        sinks = [make_otlp_sink(), make_otlp_sink()]
        links = [make_link(sink.address) for sink in sinks]
        chosen = {
            "endpoints": tuple(link.url for link in links),
            "timeout": Duration(TIMEOUT_S),
            "batch_interval": Duration(0.02),
            "batch_readings_max": 50,
            "retry": RetrySettings(initial=Duration(0.05), max=Duration(0.1)),
            "breaker": BreakerSettings(open_for=Duration(OPEN_S), open_max=Duration(OPEN_S)),
            **settings,
        }
        uplink = Uplink(
            OtlpUplinkSettings(name="cloud", **chosen),
            store=store,
            gateway_attributes=(),
            version="0.1.0",
            clock=CLOCK,
            telemetry=Telemetry(),
            random=random.Random(1),
        )
        started.append((store, asyncio.create_task(uplink.run())))
        return Plant(store, uplink, sinks, links)

    yield build
    for store, task in started:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store.close()


async def test_the_preferred_one_dies_in_the_middle_of_a_backlog_and_comes_back(plant) -> None:
    """The other takes over without a wait, and gives back as soon as the first is well."""
    here = await plant(retry=PATIENT)
    here.links[0].up.rate = 20_000
    for _ in range(40):
        await here.accept(50)
    await here.until(lambda: here.taken()[0] >= 100)
    assert here.taken()[1] == 0
    here.links[0].down_for_good()
    assert await here.until(lambda: here.taken()[1] > 0) < 40
    await here.until_sent()
    assert here.uplink.status()["endpoint"] == here.links[1].url
    here.links[0].up.rate = 0
    here.links[0].mode = Mode.UP
    before = here.taken()

    async def trickle() -> None:
        while here.taken()[0] == before[0]:
            await here.accept(10)
            await asyncio.sleep(0.02)

    await asyncio.wait_for(trickle(), 60)
    await here.until_sent()
    await here.accept(50)
    await here.until_sent()
    assert here.uplink.status()["endpoint"] == here.links[0].url
    assert here.states() == ["closed", "closed"]
    here.check()


async def test_both_die_and_one_comes_back(plant) -> None:
    """Nothing is lost meanwhile, and whichever is back takes all."""
    here = await plant()
    await here.accept(200)
    await here.until_sent()
    for link in here.links:
        link.down_for_good()
    await here.accept(500)
    await here.until(lambda: here.states() == ["open", "open"])
    assert here.account()["held"] == 500
    here.links[1].mode = Mode.UP
    await here.until_sent()
    assert here.taken()[1] >= 500
    here.check()


async def test_who_asks_to_wait_is_left_alone_while_the_other_takes_all(plant) -> None:
    """The uplink does not wait with it."""
    here = await plant(retry=PATIENT)
    here.sinks[0].always = Behaviour(status=503, retry_after="30")
    for _ in range(10):
        await here.accept(50)
    assert await here.until_sent() < 40
    assert here.sinks[0].totals.requests == 1
    assert here.taken() == [0, 500]
    assert here.states() == ["asked to wait", "closed"]
    assert here.account()["maybe_twice"] == 0
    here.check()


@pytest.mark.parametrize("what", ["silent", "slow-loris", "half-open"])
async def test_who_hangs_costs_its_timeouts_and_not_the_uplink(plant, what: str) -> None:
    """What it may have taken is counted and goes to the other at once; after three times it is left out."""
    here = await plant(retry=PATIENT, timeout=Duration(1), connect_timeout=Duration(TIMEOUT_S))
    if what == "silent":
        here.sinks[0].always = Behaviour(delay_s=30)
    elif what == "slow-loris":
        here.links[0].down.trickle_s = 0.1
    else:
        here.links[0].mode = Mode.STALL
    began_s = time.monotonic()
    for _ in range(20):
        await here.accept(50)
    assert await here.until(lambda: here.taken()[1] > 0) < 40
    await here.until_sent()
    # Three timeouts until it is left out, and one each time it is tried again.
    assert time.monotonic() - began_s < 40
    assert here.taken()[1] >= 950
    assert here.account()["maybe_twice"] >= 50
    if what == "half-open":
        here.links[0].down_for_good()
    here.check()


@pytest.mark.parametrize("balance", ["round_robin", "weighted", "least_outstanding"])
async def test_requests_are_spread_and_one_of_them_may_die(plant, balance: str) -> None:
    """Both take their part; then the one that is left takes all."""
    here = await plant(balance=balance)
    # By how long each takes it may be a while until the one that was slow once has its turn again.
    for sent in range(80 if balance == "least_outstanding" else 8):
        if sent >= 8 and min(here.taken()) >= 100:
            break
        await here.accept(50)
        await here.until_sent()
    assert min(here.taken()) >= 100
    here.links[0].down_for_good()
    for _ in range(20):
        await here.accept(50)
    await here.until_sent()
    here.check()


@pytest.mark.alone
async def test_a_slow_one_gets_less_by_least_outstanding(plant) -> None:
    """In proportion to how long it has each request."""
    here = await plant(balance="least_outstanding")
    here.links[0].down.delay_s = 0.18
    here.links[1].down.delay_s = 0.06
    for _ in range(60):
        await here.accept(50)
    await here.until_sent()
    slow, fast = (sink.totals.requests for sink in here.sinks)
    assert 1.3 < fast / slow < 4.5
    here.check()


@pytest.mark.parametrize("balance", ["failover", "round_robin"])
async def test_a_wrong_port_among_them_costs_no_data(plant, balance: str) -> None:
    """What it refuses the other takes: nothing is given up, and it is left out."""
    here = await plant(retry=PATIENT, balance=balance)
    here.sinks[0].always = Behaviour(status=400, message="what is this?")
    for _ in range(10):
        await here.accept(50)
    assert await here.until_sent() < 40
    account = here.account()
    assert (account["ledger"], here.taken()) == ({}, [0, 500])
    assert "what is this?; another one took it" in here.uplink.status()["endpoints"][0]["last_error"]
    here.check()


async def test_data_that_all_of_them_refuse_is_given_up_and_nothing_else(plant) -> None:
    """As with one receiver: the guilty alone."""
    here = await plant(balance="round_robin")
    for sink in here.sinks:
        sink.always = Behaviour(refuses=lambda reading: reading.metric == "n" and reading.value == 77, message="no 77")
    for _ in range(6):
        await here.accept(50)
    await here.until_sent()
    account = here.account()
    assert account["ledger"] == {"refused": 1}
    came = {reading.value for sink in here.sinks for reading in sink.readings()}
    assert came == set(range(300)) - {77}
    assert here.states() == ["closed", "closed"]


@pytest.mark.parametrize("balance", ["failover", "round_robin"])
async def test_data_that_makes_one_of_them_fail_goes_to_the_other(plant, balance: str) -> None:
    """At once and counted: nothing is given up that another one takes, and it is not waited for."""
    here = await plant(retry=PATIENT, balance=balance)
    here.sinks[0].always = Behaviour(refuses=lambda reading: reading.value == 77, refuses_with=500)
    for _ in range(6):
        await here.accept(50)
    assert await here.until_sent() < 40
    assert here.account()["ledger"] == {}
    here.check()


async def test_a_wrong_path_at_one_of_them_holds_nothing_back(plant) -> None:
    """Its 404 is about it; the uplink holds nothing, and says where it is wrong."""
    here = await plant(retry=PATIENT)
    here.sinks[0].always = Behaviour(knows_not="metrics")
    await here.accept(300)
    assert await here.until_sent() < 40
    status = here.uplink.status()
    assert status["held_back"] == {}
    assert status["endpoints"][0]["held_back"] == ["metrics"]
    assert "404" in status["endpoints"][0]["last_error"]
    here.check()
