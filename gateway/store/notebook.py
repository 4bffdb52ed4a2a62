"""A few bytes of each uplink's own that are written with every commit: what it wants to know after a restart.

Must not know what they mean. They stand in the state row, on the page that every commit writes anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.store.accounts import Accounts
    from gateway.store.leases import Desk


class Notebook(Protocol):
    """Where a note comes from."""

    def plan(self, *, is_last: bool = False) -> bytes:
        """Return what the commit that is made now writes; `is_last` is that of a stop in order."""
        ...

    def written(self) -> None:
        """Take note that what was planned last is on the disk; of an earlier plan without this word nobody knows."""
        ...


class Notes:
    """The notes of all uplinks."""

    def __init__(self, desks: Mapping[str, Desk], accounts: Accounts, *, is_sure: bool = True) -> None:
        # Whether they are of the last commit that there was: a salvage, or a log that was cut, may have lost that.
        self.is_sure = is_sure
        self._desks = desks
        self._accounts = accounts

    def last(self, uplink: str) -> bytes:
        """Return what was written last before this start, nothing where nothing ever was."""
        return self._accounts.shares[uplink].note

    def delivered(self, uplink: str) -> int:
        """Return how many readings it has delivered by now, in all: in `plan` those that the commit knows of."""
        return self._accounts.shares[uplink].delivered

    def keep(self, uplink: str, notebook: Notebook) -> None:
        """From now on have each commit write what `notebook` says."""
        self._desks[uplink].notebook = notebook

    async def write(self, uplink: str) -> bool:
        """Return after the next commit; False where the disk takes none, or none will be."""
        allowance = self._desks[uplink].allowance
        return not allowance.is_mute and await allowance.wait() and not allowance.is_mute
