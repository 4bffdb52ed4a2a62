"""Reading segments for leases, over a connection that cannot write. Must not decide what is leased."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from gateway.store.recent import Row
from gateway.store.rows import origin_in
from gateway.store.segments import FRONT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiosqlite


class ShelfReader:
    """The `Reader` of store/leases on SQLite."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def rows(self, start: int, end: int, *, lacking: int, limit: int, newest: bool) -> list[Row]:
        """Return up to `limit` rows of a range that these uplinks still need, oldest or newest first."""
        order = "DESC" if newest else "ASC"
        rows = await self._connection.execute_fetchall(
            "SELECT id, readings, boot, length(body) FROM shelf"  # noqa: S608  one of two words of our own
            f" WHERE id >= ? AND id < ? AND done & ? = 0 ORDER BY id {order} LIMIT ?",
            (start, end, lacking, limit),
        )
        found = [Row(*row) for row in rows]
        if not all(isinstance(value, int) and value >= 0 for row in found for value in row):
            raise sqlite3.DatabaseError("a row of the store holds other types than it should")
        return found

    async def bodies(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of those of `ids` that are there."""
        marks = ",".join("?" * len(ids))
        rows = await self._connection.execute_fetchall(
            f"SELECT id, body FROM shelf WHERE id IN ({marks})",  # noqa: S608  question marks only
            list(ids),
        )
        return {int(segment_id): bytes(body) for segment_id, body in rows}

    async def origins(self, ids: Sequence[int]) -> dict[int, int]:
        """Return what each segment's header says of what made it; the rest of it is not read."""
        marks = ",".join("?" * len(ids))
        rows = await self._connection.execute_fetchall(
            f"SELECT id, substr(body, 1, {FRONT_BYTES_MAX}) FROM shelf WHERE id IN ({marks})",  # noqa: S608  marks and a number
            list(ids),
        )
        return {int(segment_id): origin_in(bytes(head)) for segment_id, head in rows}
