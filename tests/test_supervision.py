"""Parts that fail are started again, later and later; parts that do not stop are waited for no longer than is said."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from gateway.core.telemetry import Telemetry
from gateway.supervision import RESTART_WAIT_S, RESTART_WAIT_S_MAX, STOP_S_MAX, Supervisor, end
from hil import virtual_time

if TYPE_CHECKING:
    import pytest


def test_who_fails_again_and_again_waits_longer_and_longer() -> None:
    """Up to a bound; who ran for long begins anew."""
    began_s: list[float] = []

    async def run() -> None:
        began_s.append(asyncio.get_running_loop().time())
        if len(began_s) == 10:
            await asyncio.sleep(RESTART_WAIT_S_MAX + 1)
        raise ZeroDivisionError

    async def main() -> None:
        supervisor = Supervisor(Telemetry())
        task = supervisor.start("part", run)
        while len(began_s) < 12:
            await asyncio.sleep(0.5)
        await end([task])
        assert supervisor.restarts == {"part": 12}

    virtual_time.run(main())
    waits_s = [round(after_s - before_s) for before_s, after_s in itertools.pairwise(began_s)]
    assert waits_s == [1, 2, 4, 8, 16, 32, 60, 60, 60, RESTART_WAIT_S_MAX + 1 + RESTART_WAIT_S, 2]


def test_what_somebody_else_cancelled_ends_no_part(caplog: pytest.LogCaptureFixture) -> None:
    """A part that waits for it is started again; only its own end is one."""
    runs: list[int] = []

    async def run() -> None:
        runs.append(1)
        future = asyncio.get_running_loop().create_future()
        if len(runs) == 1:
            future.cancel()
        await future

    async def main() -> None:
        supervisor = Supervisor(Telemetry())
        task = supervisor.start("part", run)
        await asyncio.sleep(2 * RESTART_WAIT_S)
        assert (len(runs), supervisor.restarts) == (2, {"part": 1})
        await end([task])
        assert task.cancelled()

    virtual_time.run(main())
    assert "part waited for something that was cancelled" in caplog.text


def test_what_does_not_stop_is_named_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """What was accepted is saved all the same."""

    async def main() -> None:
        release = asyncio.Event()

        async def run() -> None:
            try:
                await release.wait()
            except asyncio.CancelledError:
                await release.wait()
                raise

        loop = asyncio.get_running_loop()
        task = Supervisor(Telemetry()).start("source direct", run)
        await asyncio.sleep(0)
        await end([task])
        assert loop.time() == STOP_S_MAX
        release.set()
        await end([])

    virtual_time.run(main())
    assert "source direct did not stop within 8 s" in caplog.text
