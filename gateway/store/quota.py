"""A bounded stock and several owners: half is for whoever comes first, half is divided evenly. Does no I/O.

So who floods can take much, and never what the others are sure of; and who is alone can take all.
"""

from __future__ import annotations

from typing import Final

NOBODY: Final = 0
"""The owner of what nobody is known to own: sure of nothing, all it has is taken from the common half."""


class Quota:
    """At most `most` of something for `owners` owners, numbered from 1, and NOBODY.

    What is there already (after a restart, under other bounds) is counted in whatever it is. As long as nothing
    is added without `room`, every owner can have its own part at any time.
    """

    def __init__(self, most: int, *, owners: int) -> None:
        self.most = most
        self.total = 0
        self.part = most // (2 * owners) if owners else 0
        self._common = most - self.part * owners
        self._common_taken = 0
        self._taken = [0] * (owners + 1)

    def __copy__(self) -> Quota:
        twin = Quota.__new__(Quota)
        twin.__dict__.update(self.__dict__, _taken=[*self._taken])
        return twin

    def taken(self, owner: int) -> int:
        """Return how much `owner` has."""
        return self._taken[owner]

    def room(self, owner: int) -> int:
        """Return how much more `owner` may have now; below 0 where there is more than the bounds allow.

        >>> stock = Quota(100, owners=2)
        >>> stock.add(1, 70)
        >>> stock.room(1), stock.room(2)
        (5, 30)
        """
        own = max(self.part - self._taken[owner], 0) if owner else 0
        return min(self.most - self.total, own + max(self._common - self._common_taken, 0))

    def add(self, owner: int, amount: int) -> None:
        """Count `amount` more for `owner`, or less if it is negative."""
        self._common_taken -= self._from_common(owner)
        self._taken[owner] += amount
        self.total += amount
        self._common_taken += self._from_common(owner)
        assert self._taken[owner] >= 0

    def _from_common(self, owner: int) -> int:
        return max(self._taken[owner] - (self.part if owner else 0), 0)
