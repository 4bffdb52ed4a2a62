"""The words of the shelf: losses, leases, and where a segment stands. Must hold no behaviour and touch no disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict

from gateway.core.contracts import BootId, Priority, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.core.batch import Batch
    from gateway.store.policy import Lane

# A segment's row id is its shelf (4 bits) over its sequence (59 bits): what has one priority and one signal
# lies together, in order, so that finding the next needs no index. The shelf that sees most comes last, beside
# the state row, so that one commit dirties one page.
SEQUENCE_BITS: Final = 59
SEQUENCE_END: Final = 1 << SEQUENCE_BITS
STATE_ID: Final = 15 << SEQUENCE_BITS
# A segment's `done` as it is written first: a bit that is no uplink's makes the number as wide as it ever gets, so that
# whoever settles the segment changes it where it stands. As 0 it takes no byte at all, and with the first bit all that
# follows moves: SQLite would write the whole body once more.
DONE_BY_NOBODY: Final = 1 << 62
SHELVES: Final[tuple[tuple[Priority, Signal], ...]] = tuple(
    (priority, signal)
    for signal in (Signal.TRACES, Signal.LOGS, Signal.METRICS)
    for priority in (Priority.BULK, Priority.CRITICAL, Priority.NORMAL)
)
_SHELF: Final = {shelf: number for number, shelf in enumerate(SHELVES, start=1)}


def place(priority: Priority, signal: Signal, sequence: int) -> int:
    """Return the row id of a segment.

    >>> where_from(place(Priority.BULK, Signal.LOGS, 7))
    (<Priority.BULK: 2>, <Signal.LOGS: 1>, 7)
    """
    assert 0 <= sequence <= SEQUENCE_END
    return (_SHELF[priority, signal] << SEQUENCE_BITS) + sequence


def where_from(segment_id: int) -> tuple[Priority, Signal, int]:
    """Return what `place` was given; raise ValueError for a number that it never gives."""
    shelf = segment_id >> SEQUENCE_BITS
    if not 1 <= shelf <= len(SHELVES):
        raise ValueError(f"{segment_id} is no segment's id")
    priority, signal = SHELVES[shelf - 1]
    return priority, signal, segment_id & (SEQUENCE_END - 1)


class StoreError(Exception):
    """The shelf cannot be opened; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Readings that were accepted and will never leave, for every uplink. Times are Unix ns, 0: not known."""

    reason: str
    readings: int
    first_ns: int = 0
    last_ns: int = 0


@dataclass(frozen=True, slots=True)
class SetAside:
    """A payload for the quarantine: not all of it could be used, a person may want to see it."""

    source: str
    topic: bytes
    payload: bytes
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A payload that stands in the quarantine since `at_ns` (Unix ns, 0: no clock then). A long one is cut."""

    at_ns: int
    what: SetAside


@dataclass(frozen=True, slots=True)
class LeasedSegment:
    """One segment as an uplink gets it; `body` is in the format of store/segments."""

    sequence: int
    boot: BootId
    signal: Signal
    priority: Priority
    readings: int
    body: bytes
    readable: Batch | None = None  # what its columns are, where nobody has to read them from `body`

    @property
    def id(self) -> int:
        """Its row id."""
        return place(self.priority, self.signal, self.sequence)


@dataclass(eq=False, slots=True)
class Lease:
    """Segments of one signal that one uplink is sending. Give it back by `ack`, `release` or `refuse`."""

    uplink: str
    lane: Lane
    segments: list[LeasedSegment]
    signal: Signal
    allowed_by: int = 0  # which commit allowed it (store/allowance)
    is_fresh: bool = False  # in the turn that the newest of its class has before the others
    step_s: float = 0.0  # at which it is to be thinned; 0: it goes whole
    from_id: int = 0  # there was nothing else to lease from here on
    sent_bytes: int = 0  # what its requests took on the road: the uplink notes it, shares are counted by it
    is_late: bool = False  # it was held, or in hand, before the road was there
    readings: int = field(init=False)
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Count once."""
        self.readings = sum(segment.readings for segment in self.segments)
        self.size_bytes = sum(len(segment.body) for segment in self.segments)

    @property
    def is_backfill(self) -> bool:
        """Whether what leaves with it comes late, and says so."""
        return self.is_late or self.lane in {"backlog", "thinned"}

    def ids(self) -> Iterator[int]:
        """Return the row ids."""
        return (segment.id for segment in self.segments)


class UplinkStatus(TypedDict):
    """One uplink's account, in readings: accepted = delivered + held + sum(ledger) + left_out."""

    delivered: int
    held: int
    held_by_class: dict[str, int]  # all of `held`
    ledger: dict[str, int]
    maybe_twice: int
    thinned: int  # sent so far for readings that are still held then; each is in `maybe_twice` too
    leased: int
    left_out: int  # what it does not take: of a class or signal, or made by a mapping, that it was not given
    losses: list[dict[str, object]]
    removed: NotRequired[bool]  # it is configured no more
    takes: NotRequired[dict[str, list[str] | None]]  # by classes, signals, mappings, where that is not all there is
    let_go_in_s: NotRequired[int]  # what is held for it is kept for so long, should it come back


class StoreStatus(TypedDict):
    """What `Store.status` says."""

    accepted: int
    uplinks: dict[str, UplinkStatus]
    store: dict[str, object]
    clock: dict[str, object]
    events: list[str]
