"""What goes beyond an allowance in virtual time, with a real store: it is paid dearly, so it goes together."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from gateway.bench.virtual_time import VirtualClock, run
from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.worker import Seams
from hil.at_once import AtOnce, TakingWire

if TYPE_CHECKING:
    from pathlib import Path

NOON_S = 1_789_948_800 + 43_200
TICK_S = 0.1
BROUGHT = {Priority.CRITICAL: 0.5, Priority.NORMAL: 10, Priority.BULK: 100}  # readings a tick


def test_what_may_overdraw_goes_together_though_all_else_is_kept(tmp_path: Path) -> None:
    """What is kept fills no request, and what comes meanwhile begins none: each costs hundreds of bytes."""

    async def live() -> None:
        clock = VirtualClock(NOON_S * NS_PER_S)
        store = await Store.open(
            state_dir=tmp_path, settings=StoreSettings(), clock=clock, uplinks=["far"], max_series=100,
            telemetry=Telemetry(), commit_interval_s=TICK_S,
        )  # fmt: skip
        budget = BudgetSettings(per_hour=Size(64 << 10), overdraw=("critical",), overdraw_max=Size(512 << 10))
        wire = TakingWire()
        uplink = Uplink(
            OtlpUplinkSettings(name="far", endpoint="http://h:1", budget=budget),
            store=store, gateway_attributes=(), version="0", clock=clock, telemetry=Telemetry(), random=Random(4),
            seams=Seams(wire=wire, start_worker=lambda _: AtOnce()),
        )  # fmt: skip
        task = asyncio.create_task(uplink.run())
        series = {priority: store.resolve(Series((("of", priority.name),), "n")) for priority in Priority}
        noise, brought, sent = np.random.default_rng(4), 0, []
        for tick in range(1200):
            pieces = []
            for priority, each in BROUGHT.items():
                count = int((tick + 1) * each) - int(tick * each)
                times = np.full(count, clock.wall_ns()) + np.arange(count)
                brought += count * (priority is Priority.CRITICAL)
                pieces += [(priority, Batch.of(series[priority], times, noise.random(count)))] if count else []
            await store.append(pieces)
            await asyncio.sleep(max(0.0, NOON_S + (tick + 1) * TICK_S - clock.wall_ns() / NS_PER_S))
            sent.append(len(wire.sent))
        status = store.status()["uplinks"]["far"]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await store.close()
        # The first half minute is paid by the allowance; it is spent long before the last one.
        last_s = 60
        window = uplink.status()["budget"]["per_hour"]
        assert window["spent_bytes"] > window["limit_bytes"], window
        # Once an interval, and once more where a commit falls into the round.
        assert 0.5 * last_s <= sent[-1] - sent[-1 - int(last_s / TICK_S)] <= 2.0 * last_s
        assert brought - status["held_by_class"]["critical"] >= 0.97 * brought

    run(live())
