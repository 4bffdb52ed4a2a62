"""Which pages of a damaged file are in use: the tree of each table leads to them, or nothing says that they are free.

Each page of a tree stands for a range of row ids. What a page holds that lies in its range is held for certain; of the
ranges whose page is not what leads to it says, only what no tree leads to can tell, and that is certain where the list
of free pages is whole: a page that is neither free nor led to is a page that was lost. Must not believe what it reads,
nor read what lies behind a row's first page.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.store.pagefile import SQLITE_MAGIC
from gateway.store.pages import (
    DEPTH_MAX,
    ROW_ID_MAX,
    ROW_ID_MIN,
    TABLE_INTERIOR,
    TABLE_LEAF,
    TreeError,
    children_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.store.pagefile import PageFile

UNSEEN: Final = 0
FREE: Final = 1
LED_TO: Final = 2
# Of a file of 4 GiB; what lies behind is read as if nothing led to it.
PAGES_MAX: Final = 1 << 23
# The tables in the order in which they are made: nothing ever moves the page where a tree begins.
TABLES: Final = ("shelf", "series", "series_copy", "ledger", "boots", "quarantine", "refused")
ROOTS: Final = {name: number for number, name in enumerate(TABLES, start=2)}
SHELF: Final = TABLES[0]


class Ranges:
    """Ranges of row ids, both ends included."""

    def __init__(self) -> None:
        self._added: list[tuple[int, int]] = []
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._added or self._firsts)

    def add(self, first: int, last: int) -> None:
        """Add a range."""
        self._added.append((first, last))

    def __contains__(self, row_id: int) -> bool:
        if self._added:
            self._join()
        at = bisect_right(self._firsts, row_id) - 1
        return at >= 0 and row_id <= self._lasts[at]

    def _join(self) -> None:
        ranges = sorted([*self._added, *zip(self._firsts, self._lasts, strict=True)])
        self._added, self._firsts, self._lasts = [], [], []
        for first, last in ranges:
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)


@dataclass(slots=True)
class Tree:
    """The leaf pages of a table in order, with the ranges that lead to them; `gaps` are those that lead to none."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    firsts: array[int] = field(default_factory=lambda: array("q"))
    lasts: array[int] = field(default_factory=lambda: array("q"))
    gaps: Ranges = field(default_factory=Ranges)

    def leaves(self) -> Iterator[tuple[int, int, int]]:
        """Return number, first and last row id of each leaf."""
        return zip(self.numbers, self.firsts, self.lasts, strict=True)

    def leaf(self, at: int) -> tuple[int, int, int]:
        """Return one of them."""
        return self.numbers[at], self.firsts[at], self.lasts[at]


class Survey:
    """What is known of the pages of a file: `trees` by table, whether all free pages are known, and of each page what.

    `is_free_known` is false as well where a tree leads to a page that should be free.
    """

    def __init__(self, pages: PageFile) -> None:
        self._pages = pages
        self._kinds = bytearray(min(pages.page_count, PAGES_MAX) + 1)
        self.misfits = 0  # pages whose last version is damaged, if it is theirs at all
        self.is_free_known = self._list_free()
        self._leads_to_free = False
        self.trees = {name: self._walk(root) for name, root in self._roots().items()}
        self.is_free_known &= not self._leads_to_free

    def copies(self) -> int:
        """Return how many leaves of segments are the same as a page that is not: one that has taken another's place."""
        pages, kinds = self._pages, self._kinds
        leaves = np.frombuffer(array("q", (hash(pages.last(number)) for number in self.trees[SHELF].numbers)), np.int64)
        others = array("q")
        for number in pages.written_pages():
            if number >= len(kinds) or kinds[number] != LED_TO:
                page = pages.last(number)
                if page is not None and page[0] == TABLE_LEAF:
                    others.append(hash(page))
        return int(np.isin(leaves, np.frombuffer(others, np.int64)).sum())

    def forget_free(self) -> None:
        """Take no page for free any more: a list that is wrong about one may be wrong about others."""
        self.is_free_known = False
        self._kinds = self._kinds.replace(bytes([FREE]), bytes([UNSEEN]))

    def unseen(self) -> Iterator[int]:
        """Return the pages that no tree leads to and that are not known to be free."""
        kinds = self._kinds
        return (n for n in self._pages.written_pages() if n >= len(kinds) or kinds[n] == UNSEEN)

    def _roots(self) -> dict[str, int]:
        try:
            found = self._pages.roots()
        except TreeError:
            found = {}
        return {name: found.get(name, number) for name, number in ROOTS.items()}

    def _list_free(self) -> bool:
        """Take note of the pages that hold nothing any more; return whether they are all known."""
        head = self._pages.page(1) or b""
        kinds = self._kinds
        if not head.startswith(SQLITE_MAGIC) or 1 in self._pages.log.broken:
            return False
        trunk, expected = struct.unpack_from(">II", head, 32)
        found = 0
        while 1 < trunk < len(kinds) and kinds[trunk] == UNSEEN:
            kinds[trunk] = FREE
            page = self._pages.page(trunk)
            if page is None or trunk in self._pages.log.broken:
                break
            trunk, count = struct.unpack_from(">II", page)
            count = min(count, len(page) // 4 - 2)
            found += 1
            for number in struct.unpack_from(f">{count}I", page, 8):
                if 1 < number < len(kinds) and kinds[number] == UNSEEN:
                    kinds[number] = FREE
                    found += 1
        return bool(trunk == 0 and found == expected)

    def _walk(self, root: int) -> Tree:
        tree = Tree()
        waiting = [(root, ROW_ID_MIN, ROW_ID_MAX, 0)]
        while waiting:
            number, first, last, depth = waiting.pop()
            page = self._take(number)
            if page is not None and page[0] == TABLE_LEAF:
                tree.numbers.append(number)
                tree.firsts.append(first)
                tree.lasts.append(last)
            elif page is not None and depth < DEPTH_MAX and (inside := _ranges(page, number, first, last)):
                waiting += [(child, start, end, depth + 1) for child, start, end in reversed(inside)]
            else:
                tree.gaps.add(first, last)
                self.misfits += number in self._pages.log.broken
        return tree

    def _take(self, number: int) -> bytes | None:
        """Return a page that a tree leads to, each once."""
        if not 1 < number < len(self._kinds) or self._kinds[number] == LED_TO:
            return None
        self._leads_to_free |= self._kinds[number] == FREE
        self._kinds[number] = LED_TO
        return self._pages.last(number)


def _ranges(page: bytes, number: int, first: int, last: int) -> list[tuple[int, int, int]]:
    """Return the children of an interior page, each with the range it stands for; none where the page is not whole."""
    if page[0] != TABLE_INTERIOR:
        return []
    children = children_of(page, number)
    if len(children) != int.from_bytes(page[3:5], "big") + 1:
        return []
    found: list[tuple[int, int, int]] = []
    for child, highest in children:
        end = last if highest is None else highest
        if not first <= end <= last:
            return []
        found.append((child, first, end))
        first = end + 1
    return found
