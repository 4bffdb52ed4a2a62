"""An event loop whose time jumps to the next timer instead of waiting; disk and threads take their turns in it.

What lasts a month of waiting takes as long as its work, and a task that waits for nothing is found at once: when every
task waits and no timer is set, `VirtualHangError` says so. Must not meet threads that report back to the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sqlite3
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiosqlite

from gateway.core.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

T = TypeVar("T")

# Loops of this many turns without time moving are a task that spins.
TURNS_MAX: Final = 1_000_000


class VirtualHangError(RuntimeError):
    """Every task waits for another and no timer will wake any of them, or one spins without end."""


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at sockets without waiting; where the loop would sleep, moves the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise VirtualHangError("every task waits and no timer is set: this would hang")
        if ready or not timeout:
            self._turns += 1
            if self._turns > TURNS_MAX:
                self._turns = 0  # what follows is the loop's own cleaning up
                raise VirtualHangError(f"{TURNS_MAX} turns of the loop and time does not move: a task spins")
            return ready
        self._turns = 0
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `time()` starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # Timers closer than this run in the same turn; the default comes from the real clock's resolution.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jumping.now_s


class InlineLoop(VirtualLoop):
    """Virtual time, and executors that run what they are given in the loop."""

    def run_in_executor(  # type: ignore[override]  # the base's is async only in stubs
        self, _executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` at the loop's next turn."""
        future: asyncio.Future[T] = self.create_future()
        self.call_soon(settle, future, lambda: func(*args))
        return future


class InlineConnection:
    """The part of aiosqlite's connection that the store uses, in the loop's own thread. The files are real ones."""

    def __init__(self, database: Any, **options: Any) -> None:
        self._open = (database, options)
        self._connection: sqlite3.Connection | None = None

    def __await__(self) -> Any:
        """Open it, as `await aiosqlite.connect(…)` does."""
        return self._connect().__await__()

    async def _connect(self) -> InlineConnection:
        database, options = self._open
        self._connection = sqlite3.connect(database, **options)
        return self

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError("no active connection")
        return self._connection

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._db.in_transaction

    async def execute_fetchall(self, sql: str, parameters: Iterable[Any] = ()) -> list[Any]:
        """Return all rows of one statement, or what a transaction of `store.connection` returns."""
        # Others have their turn, as while a thread is at it.
        await asyncio.sleep(0)
        return self._db.execute(sql, tuple(parameters)).fetchall()

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Any:
        """Run a statement once for each of `parameters`."""
        await asyncio.sleep(0)
        return self._db.executemany(sql, [tuple(row) for row in parameters])

    async def executescript(self, sql: str) -> Any:
        """Run several statements."""
        await asyncio.sleep(0)
        return self._db.executescript(sql)

    async def close(self) -> None:
        """Close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class VirtualClock:
    """The clocks of a box in virtual time, which a time server keeps right; the wall clock begins at `started_ns`.

    `ahead_s` is by how much whoever works in a thread's place is ahead of the loop: see `line.LineWorker`.
    """

    def __init__(self, started_ns: int) -> None:
        self.ahead_s = 0.0
        self._started_ns = started_ns

    def now_s(self) -> float:
        """Return virtual seconds since the loop was made."""
        return asyncio.get_running_loop().time() + self.ahead_s

    def monotonic_ns(self) -> int:
        """Nanoseconds since a boot that was a while ago."""
        return 1000 * NS_PER_S + round(self.now_s() * NS_PER_S)

    def wall_ns(self) -> int:
        """Unix time in ns."""
        return self._started_ns + round(self.now_s() * NS_PER_S)

    def is_synced(self) -> bool:
        """Whether a time server keeps it right: always."""
        return True

    def boot_uuid(self) -> str:
        """Name this boot."""
        return "virtual"


@contextlib.contextmanager
def inline_sqlite() -> Iterator[None]:
    """Have `aiosqlite.connect` give connections that live in the loop."""
    connect: Any = aiosqlite.connect
    aiosqlite.connect = InlineConnection  # type: ignore[assignment]  # its thread's place is the loop
    try:
        yield
    finally:
        aiosqlite.connect = connect


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, executors and SQLite included.

    >>> async def nap() -> float:
    ...     await asyncio.sleep(86400)
    ...     return asyncio.get_running_loop().time()
    >>> run(nap())
    86400.0
    """
    with inline_sqlite(), asyncio.Runner(loop_factory=InlineLoop) as runner:
        return runner.run(main)


def settle(future: asyncio.Future[T], act: Callable[[], T]) -> None:
    """Give `future` what `act` returns or raises, as an executor's thread would."""
    if future.cancelled():
        return
    try:
        result = act()
    except Exception as error:  # noqa: BLE001  handed to the one who asked
        future.set_exception(error)
    else:
        future.set_result(result)
