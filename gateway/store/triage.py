"""What of a damaged shelf is kept where the disk has no room for all of it: the most important first, then the newest.

The rows' heads say what they are and how large; all rows of a page are kept or left with the most important of them.
Must not read a row's body.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.contracts import Priority
from gateway.store.connection import PAGE_BYTES
from gateway.store.pages import heads_of
from gateway.store.records import STATE_ID, where_from

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from gateway.store.pages import GetPage, Head

# Of the room that there is so much is used: trees have inner pages, and the gateway has to start with what is left.
ROOM_SHARE: Final = 0.875
ROOM_LEFT_BYTES: Final = 64 << 10
# A row's columns, its cell and its share of the page's header.
ROW_BYTES: Final = 64
FIRST: Final = -1


class Triage:
    """Ranks pages; after `choose` it knows which are kept, of all that were ranked."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._ranks = array("b")
        self._newest = array("q")
        self._sizes = array("q")
        self._kept: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self._rank_of: npt.NDArray[np.int8] = np.zeros(0, np.int8)

    def rank(self, number: int, page: bytes, get_page: GetPage, *, is_sure: bool) -> None:
        """Look at a leaf page; of two of a class that goes first whose rows are certain to be held."""
        heads = list(heads_of(page, get_page))
        if heads:
            rank = min(_rank(head) for head in heads)
            self._numbers.append(number)
            self._ranks.append(rank if rank == FIRST else 2 * rank + (not is_sure))
            self._newest.append(max(_sequence(head) for head in heads))
            self._sizes.append(sum(map(_size, heads)))

    def choose(self, room_bytes: int) -> bool:
        """Choose what is kept; return whether that is all."""
        numbers = np.frombuffer(self._numbers, np.int64)
        ranks = np.frombuffer(self._ranks, np.int8)
        order = np.lexsort((-np.frombuffer(self._newest, np.int64), ranks))
        sizes = np.cumsum(np.frombuffer(self._sizes, np.int64)[order])
        fits = sizes <= room_bytes * ROOM_SHARE - ROOM_LEFT_BYTES
        self._kept = np.zeros(int(numbers.max(initial=0)) + 1, bool)
        self._kept[numbers[order[fits]]] = True
        self._kept[numbers[ranks == FIRST]] = True
        self._rank_of = np.zeros(len(self._kept), np.int8)
        self._rank_of[numbers] = ranks
        return bool(fits.all())

    def kept(self, numbers: Iterable[int]) -> list[int]:
        """Return where in `numbers` those stand that are kept, the most important first and else in their order."""
        asked = np.fromiter(numbers, np.int64)
        places = np.flatnonzero(asked < len(self._kept))
        places = places[self._kept[asked[places]]]
        ranked: list[int] = places[np.argsort(self._rank_of[asked[places]], kind="stable")].tolist()
        return ranked


def _rank(head: Head) -> int:
    if head.row_id == STATE_ID:
        return FIRST
    try:
        return int(where_from(head.row_id)[0])
    except ValueError:
        return max(Priority)


def _sequence(head: Head) -> int:
    try:
        return where_from(head.row_id)[2]
    except ValueError:
        return 0


def _size(head: Head) -> int:
    """Return how much of the new database a row takes, at most."""
    row_bytes = max(head.last_bytes, 0) + ROW_BYTES
    return row_bytes if row_bytes < PAGE_BYTES else -(-row_bytes // (PAGE_BYTES - 4)) * PAGE_BYTES + ROW_BYTES
