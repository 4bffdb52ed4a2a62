"""Virtual time for code that uses threads: what a thread would do is done by the loop, in turn, and takes virtual time.

    with inline_sqlite(disk):                 # aiosqlite.connect gives connections that live in the loop
        run(main())                           # run_in_executor too

So a run depends on nothing but its seed: a simulated day takes a second, and a failure comes back. `Disk` decides
how long a statement takes, which one fails, and when the power is gone. Must not be used beside real threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar
from unittest import mock

import aiosqlite

from gateway.bench.virtual_time import InlineLoop
from gateway.store.connection import COUNT_PAGES, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

T = TypeVar("T")

# Statements that a full or broken disk lets fail; the rest reads, or takes back.
WRITES: Final = ("INSERT", "UPDATE", "DELETE", "COMMIT", "PRAGMA WAL_CHECKPOINT")


class Disk:
    """The medium below every connection of one boot.

    `fails_with` is what writing statements fail with now ("" for not at all); `statement_s` about how long one
    takes. After `cut` nothing comes through any more, as from a process whose power is gone.
    """

    def __init__(self, random: Random, *, statement_s: float = 0.0) -> None:
        self.fails_with = ""
        self.failures = 0
        self.is_cut = False
        self._random = random
        self._statement_s = statement_s

    @classmethod
    def still(cls) -> Disk:
        """Return one on which nothing takes time or fails."""
        return cls(Random(0))

    def cut(self) -> None:
        """Let no statement through from now on."""
        self.is_cut = True

    def wait_s(self) -> float:
        """Return how long the next statement takes."""
        return self._random.expovariate(1 / self._statement_s) if self._statement_s else 0.0

    def check(self, sql: str) -> None:
        """Raise what the medium has to say about a statement."""
        if self.is_cut:
            raise sqlite3.OperationalError("the power is gone")
        if self.fails_with and sql.lstrip().upper().startswith(WRITES):
            self.failures += 1
            error = sqlite3.OperationalError(self.fails_with)
            full = "full" in self.fails_with
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
            error.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
            raise error


class InlineConnection:
    """The part of aiosqlite's connection that the store uses, one statement after the other in the loop."""

    # No power is cut below these files: to sync them would only take real time.
    syncs = False

    def __init__(self, disk: Disk, database: str, **options: Any) -> None:
        self._disk = disk
        self._turn = asyncio.Lock()
        self._connection: Any = None
        self._open = (database, options)

    def __await__(self) -> Any:
        """Open it, as `await aiosqlite.connect(…)` does."""
        return self._connect().__await__()

    async def _connect(self) -> InlineConnection:
        database, options = self._open
        self._connection = await self._do("", lambda: self._open_database(database, options))
        return self

    @staticmethod
    def _open_database(database: str, options: dict[str, Any]) -> Any:
        return sqlite3.connect(database, **options)

    async def _do(self, sql: str, act: Callable[[], T]) -> T:
        async with self._turn:
            await asyncio.sleep(self._disk.wait_s())
            self._disk.check(sql)
            return act()

    @property
    def _db(self) -> Any:
        if self._connection is None:
            raise ValueError("no active connection")
        return self._connection

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._db.in_transaction) and not self._disk.is_cut

    async def execute_fetchall(self, sql: str, parameters: Iterable[Any] = ()) -> list[Any]:
        """Return all rows of one statement; of a transaction, whose statements the disk meets one by one."""
        if isinstance(sql, Steps):
            return await step_by_step(self, sql)
        if sql == "PRAGMA synchronous = FULL" and not self.syncs:
            sql = "PRAGMA synchronous = OFF"
        values: Sequence[Any] = tuple(parameters)
        return await self._do(sql, lambda: list(self._db.execute(sql, values).fetchall()))

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Any:
        """Run a statement once for each of `parameters`."""
        rows = [tuple(row) for row in parameters]
        return await self._do(sql, lambda: self._db.executemany(sql, rows))

    async def executescript(self, sql: str) -> Any:
        """Run several statements."""
        return await self._do(sql, lambda: self._db.executescript(sql))

    async def close(self) -> None:
        """Close it; without power too, since the process lives on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


async def step_by_step(connection: Any, steps: Steps) -> list[Any]:
    """Run a transaction as our connections do in one turn, but so that each of its statements may be the last."""
    await connection.execute_fetchall("BEGIN IMMEDIATE")
    try:
        for sql, rows in steps.statements:
            await connection.executemany(sql, rows)
        pages: list[Any] = await connection.execute_fetchall(COUNT_PAGES)
        await connection.execute_fetchall("COMMIT")
    except BaseException:
        if connection.in_transaction:
            await connection.execute_fetchall("ROLLBACK")
        raise
    return pages


@contextlib.contextmanager
def inline_sqlite(disk: Callable[[], Disk], connection: type[InlineConnection] = InlineConnection) -> Iterator[None]:
    """Let `aiosqlite.connect` give connections on the disk that `disk()` returns at that moment."""

    def connect(database: Any, **options: Any) -> InlineConnection:
        return connection(disk(), str(database), **options)

    with mock.patch.object(aiosqlite, "connect", connect):
        yield


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, executors included.

    >>> async def nap() -> int:
    ...     await asyncio.sleep(86400)
    ...     return await asyncio.get_running_loop().run_in_executor(None, len, "four")
    >>> run(nap())
    4
    """
    with asyncio.Runner(loop_factory=InlineLoop) as runner:
        return runner.run(main)
