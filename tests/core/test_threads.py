"""Threads that outlive the main one: results, errors, bounds, an end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import wait

import pytest

from gateway.core.threads import DaemonThreads, threads_of


def test_results_and_errors_come_back() -> None:
    """An error as itself; who is cancelled before its turn is not begun."""
    held, done = threading.Event(), []
    with DaemonThreads(1, name="one") as threads:
        first = threads.submit(held.wait, 60)
        second = threads.submit(done.append, 2)
        third = threads.submit(int, "x")
        assert second.cancel()
        held.set()
        assert first.result(60)
        with pytest.raises(ValueError, match="invalid literal"):
            third.result(60)
    assert done == []
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(int)


def test_there_are_no_more_of_them_than_are_needed() -> None:
    """And never more than may be."""
    threads, held = DaemonThreads(3, name="some"), threading.Event()
    for _ in range(5):
        threads.submit(int).result(60)
        # It is idle a moment after its result is there.
        assert threads._idle.acquire(timeout=60)
        threads._idle.release()
    assert len(threads._begun) == 1
    under_way = [threads.submit(held.wait, 60) for _ in range(10)]
    assert len(threads._begun) == 3
    held.set()
    wait(under_way, 60)
    threads.shutdown(cancel_futures=True)
    # Twice more: what says that it is over may still be there.
    for _ in range(2):
        threads.shutdown(wait=False, cancel_futures=True)
    assert not any(thread.is_alive() for thread in threads._begun)


def test_what_was_not_begun_is_cancelled_where_that_is_asked_for() -> None:
    """What was is not."""
    threads, held, begun = DaemonThreads(1, name="one"), threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        held.wait(60)
        return 7

    first, second = threads.submit(work), threads.submit(int)
    assert begun.wait(60)
    threads.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    held.set()
    assert first.result(60) == 7


async def test_an_event_loop_takes_them() -> None:
    """For `to_thread` and its like."""
    loop = asyncio.get_running_loop()
    with DaemonThreads(2, name="loop") as threads:
        assert await loop.run_in_executor(threads, lambda: threading.current_thread().name) == "loop_0"


def test_a_process_of_our_own_waits_for_its_threads() -> None:
    """What they have begun is written to its end."""
    for is_guest in (False, True):
        with threads_of(2, is_guest=is_guest) as threads:
            assert isinstance(threads, DaemonThreads) == is_guest
            found = threads.submit(lambda: (threading.current_thread().name, threading.current_thread().daemon))
            assert found.result(60) == ("tidegate_0", is_guest)


def test_they_work_when_the_main_thread_has_ended() -> None:
    """Where another thread of the program goes on; what hangs in them is not waited for."""
    program = """
import threading, time
from gateway.core.threads import DaemonThreads

def go():
    threading.main_thread().join()
    threads = DaemonThreads(2, name="late")
    print(threads.submit(lambda: 7).result(60), flush=True)
    threads.submit(time.sleep, 3600)

threading.Thread(target=go).start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)
