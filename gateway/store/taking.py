"""What an uplink takes: which classes, which signals, what which mappings make. Does no I/O.

It is decided as something comes in, and stands in the segment's row from then on: to an uplink that does not take a
segment it is as good as one that it has, so nobody looks at it again. What an uplink left out stays left out, whatever
it takes later; what is held for it and it takes no more is left out at the next start (store/leaving).

By class and signal whole shelves are left out. What mappings make is told apart by a number, the origin: only where an
uplink names a mapping its readings have segments of their own, which tell the number in their headers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Priority, Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.store.spots import Shelf

ANY: Final = 0
"""The origin of whatever nobody tells apart."""
OWN: Final = 1
"""That of the gateway's own numbers and its ledger, which every uplink gets whose classes and signals they are of."""
_BYTES: Final = 4


def origin_of(mapping: str) -> int:
    """Return the number for a mapping's name: the same in each process, and neither ANY nor OWN.

    >>> origin_of("climate") == origin_of("climate") != origin_of("wave")
    True
    """
    return _number(f"mapping {mapping}")


def _number(text: str) -> int:
    return max(int.from_bytes(blake2b(text.encode(), digest_size=_BYTES).digest(), "little"), OWN + 1)


@dataclass(frozen=True, slots=True)
class Takes:
    """What one uplink takes. `mappings` of None: whatever made it, and so with `origins`, their numbers."""

    classes: frozenset[Priority] = frozenset(Priority)
    signals: frozenset[Signal] = frozenset(Signal)
    mappings: frozenset[str] | None = None
    origins: frozenset[int] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Count the mappings' names once."""
        origins = None if self.mappings is None else frozenset(map(origin_of, self.mappings))
        object.__setattr__(self, "origins", origins)

    def has_shelf(self, shelf: Shelf) -> bool:
        """Whether anything of a class and signal is taken."""
        return shelf[0] in self.classes and shelf[1] in self.signals

    def has(self, shelf: Shelf, origin: int) -> bool:
        """Whether a segment is taken."""
        return self.has_shelf(shelf) and (self.origins is None or origin == OWN or origin in self.origins)

    @property
    def number(self) -> int:
        """A number for just this, the same in each process; 0: all there is."""
        if self == EVERYTHING:
            return 0
        return _number(f"takes {self.told()}")

    def told(self) -> dict[str, list[str] | None]:
        """Return it as `status` shows it."""
        return {
            "classes": [priority.name.lower() for priority in Priority if priority in self.classes],
            "signals": [signal.name.lower() for signal in Signal if signal in self.signals],
            "mappings": None if self.mappings is None else sorted(self.mappings),
        }


EVERYTHING: Final = Takes()


def taking(
    *, classes: Iterable[str] | None = None, signals: Iterable[str] | None = None, mappings: Iterable[str] | None = None
) -> Takes:
    """Return what an uplink takes that names these; None is all of them.

    >>> sorted(taking(classes=["critical"]).classes)
    [<Priority.CRITICAL: 0>]
    """
    return Takes(
        frozenset(Priority) if classes is None else frozenset(Priority[word.upper()] for word in classes),
        frozenset(Signal) if signals is None else frozenset(Signal[word.upper()] for word in signals),
        None if mappings is None else frozenset(mappings),
    )


def left_out(takes: Mapping[int, Takes], shelf: Shelf, origin: int) -> int:
    """Return the bits of those that do not take a segment; `takes` is by bit, and has those that leave out something.

    >>> left_out({2: taking(classes=["bulk"]), 4: taking(signals=["logs"])}, (Priority.BULK, Signal.METRICS), ANY)
    4
    """
    return sum(bit for bit, one in takes.items() if not one.has(shelf, origin))
