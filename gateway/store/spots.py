"""Where an uplink looks for what it sends next: spots, and which stretch of one it looks at. Does no I/O.

A spot is a lane and a shelf. Looking goes on from where it stood, over what lies there in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from gateway.core.contracts import Priority, Signal
from gateway.store.policy import Lane, Order
from gateway.store.records import place

if TYPE_CHECKING:
    from gateway.store.recent import Row
    from gateway.store.spans import Spans

Shelf: TypeAlias = tuple[Priority, Signal]
Spot: TypeAlias = tuple[Lane, Shelf]


class Found(NamedTuple):
    """Rows of one shelf and lane that may be leased, which were looked for from `from_id` on."""

    rows: list[Row]
    from_id: int
    spot: Spot
    order: Order = Order.OLDEST
    step_s: float = 0.0


class Outlook(NamedTuple):
    """What may be held for an uplink: where, how much of it is backlog, and how much came in so far of each class.

    What was sent thinned is no backlog. What was let go unsent since the link is up is still counted as some.
    """

    spots: frozenset[tuple[Lane, Priority]]
    backlog_readings: int
    arrived: tuple[int, ...]
    backlog_share: float


def may_be_evidence(shelf: Shelf) -> bool:
    """Whether what lies there goes first where it is around a finding: readings, and what was found, which tells of it.

    That is a log of class critical: in its turn it would wait as long as readings of that class wait for their step.
    """
    priority, signal = shelf
    return signal is Signal.METRICS or (signal is Signal.LOGS and priority is Priority.CRITICAL)


def next_stretch(
    spot: Spot, start: int, stop: int, *, evidence: Spans, thinned: Spans, newest: bool
) -> tuple[int, int] | None:
    """Return the next row ids to look among, from one up to another; None where there are none left.

    They are from `start` on and before `stop`; with `newest` it is the last stretch there. `evidence` are spans of
    sequences, `thinned` of row ids.
    """
    lane, shelf = spot
    if lane is Lane.EVIDENCE:
        found = evidence.reaching(start - place(*shelf, 0))
        if newest:
            found = evidence.beginning(stop - 1 - place(*shelf, 0))
        span = None if found is None else (place(*shelf, found[0]), place(*shelf, found[1]))
        start, stop = (start, start) if span is None else (max(start, span[0]), min(stop, span[1] + 1))
    elif lane is Lane.THINNED:
        span = thinned.beginning(stop - 1) if newest else thinned.reaching(start)
        start, stop = (start, start) if span is None else (max(start, span[0]), min(stop, span[1] + 1))
    elif newest:
        while (span := thinned.beginning(stop - 1)) is not None and span[1] >= start:
            if span[1] < stop - 1:
                start = span[1] + 1
                break
            stop = span[0]
    else:
        while (span := thinned.reaching(start)) is not None and span[0] < stop:
            if span[0] > start:
                stop = span[0]
                break
            start = span[1] + 1
    return (start, stop) if start < stop else None
