"""What a commit does to what is in memory: kept from being leased, given back if it fails, gone or changed if not.

Must not commit, and must not know what is written where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.store.accounts import Accounts
    from gateway.store.leases import Desk
    from gateway.store.recent import Recent
    from gateway.store.writer import Transaction


class Effects:
    """The desks of all uplinks, and the newest segments at hand."""

    def __init__(self, desks: Mapping[str, Desk], accounts: Accounts, recent: Recent) -> None:
        self._desks = desks
        self._accounts = accounts
        self._recent = recent

    def hide(self, ids: Sequence[int]) -> None:
        """Keep what is about to go, or to become something else, from being leased."""
        for desk in self._desks.values():
            desk.hide(ids)

    def show(self, ids: Sequence[int], done: Mapping[int, int]) -> None:
        """Let it be leased after all, but not by those who have settled it in `done`: the commit has failed."""
        for name, desk in self._desks.items():
            bit = self._accounts.shares[name].bit
            desk.show(segment_id for segment_id in ids if not done.get(segment_id, 0) & bit)

    def take_effect(self, work: Transaction, *, now_s: float) -> None:
        """Let memory follow what is now on the medium; `now_s` is when."""
        self._recent.leave(work.done, work.removed, all_of=work.active)
        for new in work.rewritten:
            for segment_id in new.replaced[1:]:
                self._recent.remove(segment_id)
            self._recent.replace(new.row, new.body)
        fresh = ((new.row, new.body, new.readable) for new in work.segments)
        left_out = {new.row.id: new.left_out for new in work.segments if new.left_out}
        self._recent.add(fresh, left_out=left_out, all_of=work.active)
        replaced = [segment_id for new in work.rewritten for segment_id in new.replaced]
        there = [new.row.id for new in work.rewritten]
        for name, desk in self._desks.items():
            # What only others had settled stays hidden where this one has settled it since.
            bit = self._accounts.shares[name].bit
            desk.gone([*(segment_id for segment_id, bits in work.done.items() if bits & bit), *work.removed, *replaced])
            if there:
                desk.show(there)
            desk.written()
            if taken := [new.row for new in work.segments if not (new.left_out & bit or new.is_apart)]:
                desk.arrived(taken, now_s=now_s)
