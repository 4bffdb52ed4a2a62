"""A loop whose time jumps, with SQLite and executors in it. What it has in common with hil's is tested there, too."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import aiosqlite
import pytest

from gateway.bench.virtual_time import InlineConnection, VirtualClock, VirtualHangError, run
from gateway.core.clock import NS_PER_S

if TYPE_CHECKING:
    from pathlib import Path


def test_sqlite_takes_its_turns_in_the_loop(tmp_path: Path) -> None:
    """The part of it that the store uses; afterwards aiosqlite is what it was."""
    before = aiosqlite.connect

    async def main() -> list[tuple[int]]:
        connection = await aiosqlite.connect(str(tmp_path / "x.sqlite"), isolation_level=None)
        assert isinstance(connection, InlineConnection)
        await connection.executescript("CREATE TABLE t (n INTEGER);")
        await connection.execute_fetchall("BEGIN")
        assert connection.in_transaction
        await connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        await connection.execute_fetchall("COMMIT")
        found = await connection.execute_fetchall("SELECT n FROM t WHERE n > ?", (1,))
        await connection.close()
        with pytest.raises(ValueError, match="no active connection"):
            await connection.execute_fetchall("SELECT 1")
        return found

    assert run(main()) == [(2,)]
    assert aiosqlite.connect is before
    assert sqlite3.connect(tmp_path / "x.sqlite").execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_executors_fail_and_are_left_alone() -> None:
    """An error reaches who asked; nobody minds a call that is no more wanted."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        loop.run_in_executor(None, lambda: 1).cancel()
        assert await asyncio.to_thread(len, "four") == 4

    run(main())


def test_the_clocks_go_with_the_loop() -> None:
    """And ahead of it for who works in a thread's place."""

    async def main() -> None:
        clock = VirtualClock(1_790_000_000 * NS_PER_S)
        before_ns = clock.monotonic_ns()
        await asyncio.sleep(3600)
        clock.ahead_s = 2.0
        assert clock.monotonic_ns() - before_ns == 3602 * NS_PER_S
        assert clock.wall_ns() == 1_790_003_602 * NS_PER_S
        assert clock.is_synced()
        assert clock.boot_uuid()

    run(main())


def test_a_hang_is_found_at_once() -> None:
    """A wait that nothing can end is an error."""
    with pytest.raises(VirtualHangError):
        run(asyncio.Event().wait())
