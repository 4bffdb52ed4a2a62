"""Bounds hold, whatever else becomes of the task."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.timeouts import timeout, timeout_at


async def test_what_takes_too_long_ends() -> None:
    """As asyncio's does; what is done in time does not."""
    with pytest.raises(TimeoutError):
        async with timeout(0.01):
            await asyncio.sleep(60)
    async with timeout(None), timeout_at(asyncio.get_running_loop().time() + 60):
        await asyncio.sleep(0)


async def test_it_can_be_rescheduled() -> None:
    """What it gives is asyncio's own."""
    with pytest.raises(TimeoutError):
        async with timeout(None) as bound:
            bound.reschedule(asyncio.get_running_loop().time() + 0.01)
            await asyncio.sleep(60)


async def test_it_holds_while_a_cancelled_task_cleans_up() -> None:
    """What follows the bound is done as well, and the task is cancelled in the end."""
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                async with timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                done.append("cleaned up")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["cleaned up"]


async def test_who_cancels_meanwhile_is_heard() -> None:
    """That is no timeout."""

    async def work() -> None:
        async with timeout(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_is_that_error() -> None:
    """Also when the time is over."""
    with pytest.raises(ValueError, match="odd"):
        async with timeout(0.0):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ValueError("odd") from None
