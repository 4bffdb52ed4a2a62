"""What is held for an uplink that it takes no more, or never did, is left out: looked for at a start, once.

An uplink that takes less than before, one that is new and gets what is on the shelf, one that comes back: whatever of
what is held for them they do not take goes from their `held` to their `left_out`, some segments with each commit. How
far that came stands in the segments' rows; only when all is done the state row says what nothing else is held of. So a
process that dies in between goes on at its next start, and one whose uplinks take what they took looks at nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.store.records import SHELVES, place, where_from

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from gateway.store.accounts import Accounts
    from gateway.store.recent import Row
    from gateway.store.rows import Reader
    from gateway.store.settling import Settling
    from gateway.store.spots import Shelf
    from gateway.store.taking import Takes

# Rows looked at in one query, whose ids all fit in another; and left out with one commit.
LOOK_MAX: Final = 512
COMMIT_MAX: Final = 4096


class Leaving:
    """Leaves out, for each uplink, what it does not take. `commit()` writes what was found by then."""

    def __init__(
        self, accounts: Accounts, *, reader: Reader, settling: Settling, commit: Callable[[], Awaitable[None]]
    ) -> None:
        self._accounts = accounts
        self._reader = reader
        self._settling = settling
        self._commit = commit

    async def leave(self, takes: Mapping[str, Takes], *, before: int) -> dict[str, int]:
        """Look through what was committed before a sequence; return how many readings were left out, by uplink."""
        found: dict[str, int] = {}
        for name, one in takes.items():
            share = self._accounts.shares[name]
            if share.takes == one.number:
                continue
            was = share.left_out
            for shelf in SHELVES:
                await self._leave_of(name, one, shelf, before=before)
            share.takes = one.number
            if share.left_out > was:
                found[name] = share.left_out - was
        if found:
            await self._commit()
        return found

    async def _leave_of(self, name: str, takes: Takes, shelf: Shelf, *, before: int) -> None:
        if takes.has_shelf(shelf) and takes.origins is None:
            return
        bit = self._accounts.shares[name].bit
        start, stop = place(*shelf, 0), place(*shelf, before)
        while rows := await self._reader.rows(start, stop, lacking=bit, limit=LOOK_MAX, newest=False):
            start = rows[-1].id + 1
            self._settling.leave_out(name, await self._not_taken(rows, takes))
            if len(self._settling.done) >= COMMIT_MAX:
                await self._commit()

    async def _not_taken(self, rows: Sequence[Row], takes: Takes) -> Sequence[Row]:
        """Return those of one shelf that are not taken."""
        shelf = where_from(rows[0].id)[:2]
        if not takes.has_shelf(shelf):
            return rows
        origins = await self._reader.origins([row.id for row in rows])
        return [row for row in rows if not takes.has(shelf, origins[row.id])]
