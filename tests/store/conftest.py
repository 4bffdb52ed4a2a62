"""A shelf for tests: opened with defaults that a test may change, closed at its end."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import FakeClock
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.store import committer, frozen, starting
from gateway.store.database import Lease, Store, StoreSettings
from gateway.store.segments import decode_logs, decode_metrics
from gateway.store.taking import ANY, origin_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Shelves:
    """Opens stores in `state_dir` and speaks in plain numbers: every reading's value is a number of its own."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock = FakeClock()
        self.telemetry = Telemetry()
        self.notes_dir: Path | None = None
        self._next = 1
        self._open: list[Store] = []

    async def open(
        self,
        *,
        uplinks=("cloud",),
        takes=None,
        commit_interval_s=0.0,
        max_series=100,
        series=None,
        state_dir=None,
        **settings: Any,
    ) -> Store:
        # Noise at one moment would be diluted to next to nothing: who tests that asks for it.
        settings.setdefault("when_full", "drop_oldest")
        store = await Store.open(
            state_dir=state_dir or self.state_dir,
            settings=StoreSettings(**settings),
            clock=self.clock,
            uplinks=uplinks,
            max_series=max_series,
            series=series,
            telemetry=self.telemetry,
            commit_interval_s=commit_interval_s,
            notes_dir=self.notes_dir,
            takes=takes or {},
        )
        self._open.append(store)
        return store

    async def close(self, *stores: Store) -> None:
        for store in stores or tuple(self._open):
            if store in self._open:
                self._open.remove(store)
                await store.close()

    def numbers(self, count: int) -> list[int]:
        first, self._next = self._next, self._next + count
        return list(range(first, first + count))

    def batch(self, store: Store, numbers: list[int], *, name: str = "m") -> Batch:
        series = store.resolve(Series((("device.id", "d1"),), name))
        return Batch.of(series, self.clock.wall_ns(), np.array(numbers, np.int64))

    async def put(
        self, store: Store, count: int = 1, *, priority: Priority = Priority.NORMAL, made_by: str = "", **more: Any
    ) -> list[int]:
        """Append readings, which the mapping of some name may have made, and return their numbers."""
        numbers = self.numbers(count)
        batch = replace(self.batch(store, numbers), origin=origin_of(made_by) if made_by else ANY)
        await store.append([(priority, batch)], **more)
        return numbers

    async def put_noise(self, store: Store, size_bytes: int, *, priority: Priority = Priority.NORMAL) -> int:
        """Append about `size_bytes` that nothing compresses; return how many readings that is."""
        rng = np.random.default_rng(self._next)
        self._next += 1
        values = rng.integers(-(2**62), 2**62, size_bytes // 8)
        series = store.resolve(Series((), "noise"))
        await store.append([(priority, Batch.of(series, self.clock.wall_ns(), values))])
        return len(values)

    def logs(self, store: Store, *texts: str) -> LogRecords:
        series = store.resolve(Series((), "", kind="log"))
        times = np.full(len(texts), self.clock.wall_ns(), np.int64)
        return LogRecords(np.full(len(texts), series, np.uint32), times, tuple(t.encode() for t in texts))

    def messages(self, *bodies: bytes, signal: Signal = Signal.TRACES, count: int = 1) -> ResourceRecords:
        """OTLP messages of so many readings each."""
        columns = np.full(len(bodies), count, np.int64), np.full(len(bodies), self.clock.wall_ns(), np.int64)
        return ResourceRecords(signal, *columns, bodies)

    async def lease(self, store: Store, uplink: str = "cloud", *, readings_max=1000, bytes_max=1 << 20) -> Lease | None:
        return await store.lease(uplink, readings_max=readings_max, bytes_max=bytes_max)

    async def drain(self, store: Store, uplink: str = "cloud") -> list[int]:
        """Lease and ack all that is held; return the numbers."""
        numbers: list[int] = []
        while (lease := await self.lease(store, uplink)) is not None:
            numbers += numbers_in(lease)
            store.ack(lease)
        return numbers

    @staticmethod
    def by_class(store: Store, uplink: str = "cloud") -> tuple[int, ...]:
        """Return what is held of each class, the most important first."""
        return tuple(store.status()["uplinks"][uplink]["held_by_class"].values())

    def check(self, store: Store) -> None:
        """Every account adds up."""
        status = store.status()
        for name, uplink in status["uplinks"].items():
            assert sum(self.by_class(store, name)) == uplink["held"]
            known = uplink["delivered"] + uplink["held"] + sum(uplink["ledger"].values())
            assert status["accepted"] == known + uplink["left_out"]


def numbers_in(lease: Lease) -> list[int]:
    """Return the numbers of a lease's readings, in order."""
    found: list[int] = []
    for segment in lease.segments:
        if segment.signal is Signal.LOGS:
            found += [int(body) for body in decode_logs(segment.body).bodies]
        else:
            found += decode_metrics(segment.body).bits.tolist()
    return found


@pytest.fixture
async def shelves(tmp_path: Path, rigs: contextlib.ExitStack) -> AsyncIterator[Shelves]:
    """Give shelves that are closed before the rigs are: no disk can be unmounted under an open file."""
    found = Shelves(tmp_path / "state")
    yield found
    with contextlib.suppress(asyncio.CancelledError):
        await found.close()


@pytest.fixture
def live(shelves: Shelves):
    """A whole life of a gateway on the shelf, in the middle of something else: it delivers all, takes more, stops."""

    async def life() -> None:
        other = Shelves(shelves.state_dir)
        store = await other.open()
        await other.drain(store)
        for _ in range(30):
            await other.put(store, 7)
        await other.close()

    def run() -> None:
        thread = threading.Thread(target=lambda: asyncio.run(life()))
        thread.start()
        thread.join()

    return run


@pytest.fixture
def numbers():
    return numbers_in


class ReadOnly:
    """Stands between the store and its database: read-only as long as it is told so."""

    def __init__(self, monkeypatch) -> None:
        self.is_read_only = True
        self.error = sqlite3.OperationalError("attempt to write a readonly database")
        self.error.sqlite_errorcode, self.error.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"
        for module in (starting, frozen):
            real = module.open_writer
            monkeypatch.setattr(module, "open_writer", lambda path, real=real, **more: self.open(real, path, more))

    async def open(self, real, path, more):
        if self.is_read_only:
            raise self.error
        return await real(path, **more)


@pytest.fixture
def freeze(monkeypatch):
    return lambda: ReadOnly(monkeypatch)


class Failing:
    """Stands before the real `write`: fails as often as it is told, before or after the transaction."""

    def __init__(self, monkeypatch) -> None:
        self.real = committer.write
        self.errors: list[Exception] = []
        self.meanwhile = None
        monkeypatch.setattr(committer, "write", self)

    async def __call__(self, connection, work) -> tuple[int, int]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        if self.errors:
            raise self.errors.pop(0)
        return await self.real(connection, work)


@pytest.fixture
def failing(monkeypatch):
    return Failing(monkeypatch)
