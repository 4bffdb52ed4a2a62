"""Which topic goes where, remembered: topics that are used again and again stay. Must not look up or map any.

Each topic has a slot, a small number by which the columns here are looked up. What counts when there are too many
is in how many of the last sixteen minutes a topic was used: however many others come once, or in a burst, a device
that has sent for a while keeps its place, so that its messages cost what they always did.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

SLOTS_FIRST: Final = 64
MINUTE_NS: Final = 60 * NS_PER_S
MINUTES: Final = 16
# What a topic takes beside its texts: places in dicts, lists and columns, and the objects around.
ROUTE_BYTES: Final = 512
# So much is made free at once that looking for the least used is rare.
FREED_SHARE: Final = 8
_BITS_OF_BYTE: Final = np.array([byte.bit_count() for byte in range(256)], np.uint8)
# Scatters slot numbers (Knuth, TAOCP 3, section 6.4: the golden ratio times 2^32).
_SCATTER: Final = 2_654_435_769


class Routes:
    """Topics by source, and for each the number of its plan and the plan's row. At most `count_max`, `bytes_max`.

    What one buffer brings is always taken; `evict` makes it fit afterwards.
    """

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self.size_bytes = 0
        self.plans = np.zeros(SLOTS_FIRST, np.intp)
        self.rows = np.zeros(SLOTS_FIRST, np.intp)
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._by_source: dict[str, dict[bytes, int]] = {}
        # By slot: the topic and its source; bytes, 0 where nothing is; the minutes in which it was used, the latest
        # in the lowest bit; whether it was in the one under way, and whether it came back in that.
        self._topics: list[tuple[str, bytes] | None] = []
        self._sizes = np.zeros(SLOTS_FIRST, np.int64)
        self._history = np.zeros(SLOTS_FIRST, np.uint16)
        self._is_used = np.zeros(SLOTS_FIRST, np.bool_)
        self._is_back = np.zeros(SLOTS_FIRST, np.bool_)
        self._free: list[int] = []
        self._minute = 0
        self._evictions = 0
        # As long as there is plenty of room nobody needs to know who is used how much.
        self._is_watching = False

    def __len__(self) -> int:
        return len(self._topics) - len(self._free)

    @property
    def is_over(self) -> bool:
        """Whether there is more than there may be."""
        return self.size_bytes > self._bytes_max or len(self) > self._count_max

    def of(self, source: str) -> dict[bytes, int]:
        """Return the slots of one source's topics, not to be changed."""
        known = self._by_source.get(source)
        if known is None:
            known = self._by_source[source] = {}
        return known

    def add(self, source: str, topic: bytes, *, plan: int, row: int, texts: Iterable[str], row_bytes: int) -> None:
        """Take a topic; `texts` are those that are kept because of it, `row_bytes` what its row in the plan takes."""
        if self._free:
            slot = self._free.pop()
            self._topics[slot] = (source, topic)
        else:
            slot = len(self._topics)
            self._topics.append((source, topic))
            if slot == len(self.plans):
                self._grow()
        if not self._is_watching and (2 * self.size_bytes > self._bytes_max or 2 * len(self) > self._count_max):
            # Who has come so far is taken for somebody who comes again and again.
            self._is_watching = True
            self._history[:] = 0b11
        size = ROUTE_BYTES + row_bytes + sys.getsizeof(topic) + sum(map(sys.getsizeof, texts))
        self.plans[slot], self.rows[slot], self._sizes[slot] = plan, row, size
        self._history[slot] = self._is_used[slot] = self._is_back[slot] = 0
        self.size_bytes += size
        self.of(source)[topic] = slot

    def _grow(self) -> None:
        for name in ("plans", "rows", "_sizes", "_history", "_is_used", "_is_back"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))

    def note(self, slots: npt.NDArray[np.intp], now_ns: int) -> None:
        """Take note that topics were used. `now_ns` is the boot's monotonic clock."""
        if not self._is_watching:
            return
        minute = now_ns // MINUTE_NS
        if minute > self._minute:
            self._history = (self._history << np.uint16(1)) | self._is_used
            # While nothing at all arrived, nothing was used less than the rest.
            self._is_used = np.zeros_like(self._is_used)
            self._is_back = np.zeros_like(self._is_back)
            self._minute = minute
        self._is_back[slots] = self._is_used[slots]
        self._is_used[slots] = True

    def evict(self) -> list[tuple[int, list[int]]]:
        """Forget the least used, so many that an eighth is free; return their rows by plan."""
        live = np.flatnonzero(self._sizes)
        order = live[self._by_worth(live)]
        count = len(self) - self._count_max + self._count_max // FREED_SHARE
        freed = np.cumsum(self._sizes[order])
        size_bytes = self.size_bytes - self._bytes_max + self._bytes_max // FREED_SHARE
        enough = int(np.searchsorted(freed, size_bytes)) + 1 if size_bytes > 0 else 0
        gone = order[: max(count, enough, 0)]
        for slot in gone.tolist():
            topic = self._topics[slot]
            assert topic is not None
            del self._by_source[topic[0]][topic[1]]
            self._topics[slot] = None
            self._free.append(slot)
        self.size_bytes -= int(self._sizes[gone].sum())
        self._sizes[gone] = 0
        self._evictions += 1
        plans = self.plans[gone]
        return [(plan, self.rows[gone[plans == plan]].tolist()) for plan in sorted(set(plans.tolist()))]

    def _by_worth(self, live: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the order of `live` slots from the least used on; of equals the one that was used longest ago.

        In the minute under way a topic that came back is worth more. Of what is left equal the choice is by chance: a
        topic that will come again must have one, among many that will not.
        """
        history, is_used = self._history[live], self._is_used[live]
        minutes = _BITS_OF_BYTE[history & 0xFF] + _BITS_OF_BYTE[history >> 8] + is_used
        latest = np.where(is_used, 0, history & (~history + np.uint16(1))).astype(np.int64)
        chance = (live + self._evictions * len(self._topics)) * _SCATTER & 0xFFFF_FFFF
        return np.lexsort((chance, -latest, self._is_back[live], minutes))


def owner_name(source: str, user: str) -> str:
    """Return the name by which somebody's share of what is scarce is counted: a user by itself, others as the source.

    >>> owner_name("direct", "pump"), owner_name("direct", "")
    ('direct/pump', 'direct')
    """
    return f"{source}/{user}" if user else source


class Owners:
    """Whose message is which: looks positions up in the runs of `Arrivals.users`.

    Nothing is done before somebody asks: most buffers bring nothing that is counted for anybody.
    """

    def __init__(self, source: str, runs: Sequence[tuple[int, str]]) -> None:
        self._source = source
        self._runs = runs

    @cached_property
    def names(self) -> list[str]:
        """The owners, each once, by number."""
        return list(dict.fromkeys(self._name_of_run))

    @cached_property
    def _name_of_run(self) -> list[str]:
        # What stands behind the last run is the source's.
        return [owner_name(self._source, user) for _, user in (*self._runs, (0, ""))]

    @cached_property
    def _number_of_run(self) -> npt.NDArray[np.intp]:
        numbers = {name: number for number, name in enumerate(self.names)}
        return np.array([numbers[name] for name in self._name_of_run], np.intp)

    @cached_property
    def _ends(self) -> npt.NDArray[np.intp]:
        return np.cumsum([count for count, _ in self._runs], dtype=np.intp)

    def numbers(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the number of the owner of the message at each of `positions`."""
        return self._number_of_run[np.searchsorted(self._ends, positions, side="right")]

    def of(self, position: int) -> str:
        """Return the owner of the message at `position`.

        >>> Owners("line", [(2, "a"), (1, "b")]).of(2)
        'line/b'
        """
        return self._name_of_run[int(np.searchsorted(self._ends, position, side="right"))]
