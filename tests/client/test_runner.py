"""The thread with the gateway: starts, ends, new starts."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway import app
from gateway.app import StillError
from gateway.client import runner as module
from gateway.client.errors import ClientError
from gateway.client.runner import Runner
from gateway.control.config import parse_table
from gateway.control.profiles import load as load_profile
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Visitor:
    """A door that waits to be closed, and how often there was one."""

    name = "client"

    def __init__(self) -> None:
        self.doors = 0

    def door(self, pipeline: Any, store: Any) -> Visitor:
        self.doors += 1
        return self

    async def run(self) -> None:
        await asyncio.Event().wait()

    def status(self) -> dict[str, object]:
        return {"state": "open"}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Runner]]:
    """Make runners with nothing to send to."""
    monkeypatch.setattr(module, "START_AGAIN_S", 0.02)
    monkeypatch.setattr(app, "HOUSEKEEPING_S", 0.02)
    made: list[Runner] = []

    def build(visitor: Visitor | None = None) -> Runner:
        config = parse_table({"gateway": {"state_dir": str(tmp_path / "state")}})
        made.append(Runner(config, load_profile("x86-64"), program=visitor or Visitor()))
        return made[-1]

    yield build
    for runner in made:
        assert runner.stop(20)


def test_it_runs_what_it_is_asked_in_its_thread(make: Callable[..., Runner]) -> None:
    """And only until its end."""
    runner = make()
    runner.start()

    async def where() -> threading.Thread:
        return threading.current_thread()

    thread = runner.run(where(), 10)
    assert (thread.name, thread.daemon) == ("tidegate client", True)
    with pytest.raises(TimeoutError):
        runner.run(asyncio.sleep(20), 0.02)
    assert runner.stop(20)
    assert runner.final is not None
    with pytest.raises(ClientError, match="thread has ended"):
        runner.run(where(), 10)
    runner.call_soon(print)


def test_who_waits_for_an_answer_when_it_ends_is_told(make: Callable[..., Runner]) -> None:
    """Instead of waiting on."""
    runner = make()
    runner.start()
    waits = threading.Event()

    async def wait() -> None:
        waits.set()
        await asyncio.sleep(300)

    def stop() -> None:
        waits.wait(60)
        runner.stop(0)

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(ClientError, match="shut down meanwhile"):
        runner.run(wait(), 200)
    stopping.join()


def test_a_start_that_fails_says_why(make: Callable[..., Runner], tmp_path: Path) -> None:
    """As the gateway says it."""
    first, second = make(), make()
    first.start()
    with pytest.raises(ClientError, match="another gateway"):
        second.start()
    assert second.stop(20)


def test_a_start_that_takes_too_long(make: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    monkeypatch.setattr(module, "START_S_MAX", 0.0)
    with pytest.raises(ClientError, match="the store is not open after 0 s"):
        make().start()


def test_a_mistake_of_ours_comes_out(make: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start as it is; later in the log."""

    class Broken(app.Gateway):
        async def run(self) -> None:
            raise ZeroDivisionError

    monkeypatch.setattr(module, "Gateway", Broken)
    with pytest.raises(ZeroDivisionError):
        make().start()


def test_later_it_is_started_again(
    make: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a new start helps, again and again, with a wait; also where the store does not open for a while."""
    errors: list[Exception | None] = [None, StillError("it stands still"), StoreError("no disk"), None]

    class Shaky(app.Gateway):
        async def run(self) -> None:
            error = errors.pop(0) if errors else None
            if isinstance(error, StoreError):
                raise error
            ending = asyncio.create_task(self._end_with(error)) if errors else None
            await super().run()
            assert ending is None or ending.done()

        async def _end_with(self, error: Exception | None) -> None:
            await self.ready.wait()
            await asyncio.sleep(0.05)
            self.wants_anew = error is None
            self._end_reason = str(error or "")
            self.stop()

    monkeypatch.setattr(module, "Gateway", Shaky)
    visitor = Visitor()
    runner = make(visitor)
    with caplog.at_level(logging.ERROR, "tidegate.client"):
        runner.start()
        until_s = time.monotonic() + 60
        while errors and time.monotonic() < until_s:
            time.sleep(0.02)
        while runner.gateway is None and time.monotonic() < until_s:
            time.sleep(0.02)
    assert visitor.doors == 3
    said = [record.getMessage() for record in caplog.records if record.name == "tidegate.client"]
    assert [message.partition("; starting")[0] for message in said] == ["it stands still", "no disk"]


def test_it_ends_also_while_it_waits_to_start_again(
    make: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once."""
    monkeypatch.setattr(module, "START_AGAIN_S", 60.0)
    runner = make()
    runner.start()
    gateway = runner.gateway
    assert gateway is not None

    def end() -> None:
        gateway._end_reason = "it stands still"
        gateway.stop()

    runner.call_soon(end)
    until_s = time.monotonic() + 60
    while runner.gateway is not None and time.monotonic() < until_s:
        time.sleep(0.01)
    began_s = time.monotonic()
    assert runner.stop(20)
    assert time.monotonic() - began_s < 20
