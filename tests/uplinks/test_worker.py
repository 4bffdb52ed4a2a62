"""Checks for the one thread of an uplink."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.uplinks.worker import Worker


async def test_results_and_errors_come_back() -> None:
    """A call runs in the named thread; what it returns or raises reaches the one who asked."""
    worker = Worker("uplink cloud")
    assert await worker.submit(lambda: threading.current_thread().name) == "uplink cloud"
    with pytest.raises(ZeroDivisionError):
        await worker.submit(lambda: 1 // 0)
    assert await worker.submit(lambda: 2) == 2
    worker.close()


async def test_an_idle_thread_ends_at_once() -> None:
    """After `close` nothing of it is left."""
    worker = Worker("w")
    await worker.submit(int)
    worker.close()
    assert not worker._thread.is_alive()


async def test_a_busy_thread_is_not_waited_for() -> None:
    """A stuck resolver must not keep the gateway from ending; its result is nobody's any more."""
    worker = Worker("w")
    go = threading.Event()
    future = worker.submit(go.wait)
    worker.close()
    assert worker._thread.is_alive()
    assert worker._thread.daemon
    future.cancel()
    go.set()
    worker._thread.join(5)
    await asyncio.sleep(0)
    assert not worker._thread.is_alive()


def test_a_loop_that_is_gone_is_nobody_to_tell() -> None:
    """The thread ends quietly when the loop has closed before it was done."""
    go = threading.Event()

    async def start() -> Worker:
        worker = Worker("w")
        worker.submit(go.wait).cancel()
        return worker

    worker = asyncio.run(start())
    go.set()
    worker._thread.join(5)
    assert not worker._thread.is_alive()
