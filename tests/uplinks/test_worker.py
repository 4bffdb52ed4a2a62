"""Checks for the one thread of an uplink."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.uplinks.worker import THREADS_MAX, TooManyThreadsError, Worker


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
    worker._thread.join(60)
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
    worker._thread.join(60)
    assert not worker._thread.is_alive()


async def test_threads_that_are_stuck_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uplinks that start anew again and again leave no more of them behind; when they come back there is room again."""
    monkeypatch.setattr(Worker, "_room", threading.BoundedSemaphore(3))
    go, stuck = threading.Event(), []
    for _ in range(3):
        worker = Worker("w")
        worker.submit(go.wait).cancel()
        assert not worker.close()
        stuck.append(worker)
    with pytest.raises(TooManyThreadsError, match="busy or stuck"):
        Worker("w")
    go.set()
    for worker in stuck:
        worker._thread.join(60)
    for _ in range(10):
        worker = Worker("w")
        assert await worker.submit(lambda: 1) == 1
        assert worker.close()
    assert THREADS_MAX > 2 * 16


async def test_a_thread_that_cannot_begin_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may be short of them for a while."""
    monkeypatch.setattr(Worker, "_room", threading.BoundedSemaphore(1))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            Worker("w")
    assert Worker("w").close()
