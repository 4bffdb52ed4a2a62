"""Virtual time does what it claims."""

from __future__ import annotations

import asyncio

import pytest

from hil.virtual_time import VirtualHangError, run


def test_a_day_takes_no_time() -> None:
    """Sleeps add up exactly and in order."""
    order: list[tuple[str, float]] = []

    async def nap(name: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        order.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(nap("day", 86400), nap("second", 1), nap("minute", 60))

    run(main())
    assert order == [("second", 1), ("minute", 60), ("day", 86400)]


def test_timeouts_fire_in_virtual_time() -> None:
    """asyncio.timeout goes by the loop's clock."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main()) == 3600


def test_a_hang_is_found_at_once() -> None:
    """A wait that nothing can end is an error, not a minute of silence."""
    with pytest.raises(VirtualHangError, match="hang"):
        run(asyncio.wait_for(_for_ever(), None))


async def _for_ever() -> None:
    await asyncio.Event().wait()


def test_a_task_that_spins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that never moves because a task never waits is an error too."""
    monkeypatch.setattr("gateway.bench.virtual_time.TURNS_MAX", 1000)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(VirtualHangError, match="spins"):
        run(spin())


def test_the_fixture_runs_a_coroutine(run_virtual) -> None:
    """`run_virtual` is `run`."""
    run_virtual(asyncio.sleep(10**6))
