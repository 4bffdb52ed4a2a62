"""What no uplink takes, on a full shelf: nobody misses it, so it makes room before anything that is still to be sent.

It stays for as long as there is room and it is not too old, for `export` and for an uplink that comes. Must not delete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Priority
from gateway.store.records import SEQUENCE_END, SHELVES, place
from gateway.store.room import find_unneeded, merge_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiosqlite

    from gateway.store.accounts import Accounts
    from gateway.store.room import Candidate

LOOK_MAX: Final = 1024


class Unwanted:
    """Finds it, bulk first and the oldest of each class first.

    What has come since is all that a later look reads: whoever settles something deletes what nobody else needs.
    """

    def __init__(self, connection: aiosqlite.Connection, accounts: Accounts) -> None:
        self._connection = connection
        self._accounts = accounts
        self._next = dict.fromkeys(range(len(SHELVES)), 0)
        self._left_out = -1  # by all uplinks together, when there was no more of it

    @property
    def may_be_some(self) -> bool:
        """Whether there may be some that the last look did not see."""
        return self._accounts.may_be_unwanted and self._left_out != self._left_out_by_now()

    def _left_out_by_now(self) -> int:
        return sum(share.left_out for share in self._accounts.configured)

    async def spare(self, *, bytes_over: int, may_go: Callable[[int], bool]) -> list[Candidate]:
        """Return who of them goes so that `bytes_over` bytes become free; fewer where there are no more.

        The next look begins with these: the commit that lets them go may fail.
        """
        chosen: list[Candidate] = []
        for priority in reversed(Priority) if self._accounts.may_be_unwanted else ():
            bytes_over -= await self._spare_of(priority, bytes_over, may_go, chosen)
            if bytes_over <= 0:
                return chosen
        self._left_out = -1 if chosen else self._left_out_by_now()
        return chosen

    async def _spare_of(
        self, priority: Priority, bytes_over: int, may_go: Callable[[int], bool], chosen: list[Candidate]
    ) -> int:
        """Choose of one class; return how many bytes that frees."""
        shelves = [shelf for shelf, (of, _) in enumerate(SHELVES) if of is priority]
        start, first = {shelf: self._next[shelf] for shelf in shelves}, len(chosen)
        freed = 0
        end: int | None = 0
        while end is not None and freed < bytes_over:
            rows = [await self._look(shelf, start[shelf]) for shelf in shelves]
            found, end = merge_signals(rows, limit=LOOK_MAX)
            for row in found:
                if freed >= bytes_over:
                    break
                if may_go(row.id) and not self._accounts.needed(row.sequence) & ~row.done:
                    chosen.append(row)
                    freed += row.disk_bytes
            start = dict.fromkeys(shelves, SEQUENCE_END if end is None else end)
        begin = chosen[first].sequence if len(chosen) > first else await self._newest(shelves)
        self._next |= dict.fromkeys(shelves, begin)
        return freed

    async def _look(self, shelf: int, first: int) -> list[Candidate]:
        return await find_unneeded(
            self._connection,
            shelf,
            first=place(*SHELVES[shelf], first),
            before=SEQUENCE_END,
            has=self._accounts.active,
            limit=LOOK_MAX,
        )

    async def _newest(self, shelves: list[int]) -> int:
        """Return the sequence after the newest of these shelves: all before it was looked at in vain."""
        newest = [0]
        for shelf in shelves:
            bounds = place(*SHELVES[shelf], 0), place(*SHELVES[shelf], SEQUENCE_END)
            sql = "SELECT coalesce(max(id), ?1 - 1) + 1 - ?1 FROM shelf WHERE id >= ?1 AND id < ?2"
            ((sequence,),) = await self._connection.execute_fetchall(sql, bounds)
            newest.append(sequence)
        return max(newest)
