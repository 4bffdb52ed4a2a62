"""The time column of a segment: steps, shared or ranked times. Must not know what the times are of.

Three things are common and cost next to nothing: even steps; several series with the same times, because they
came in one message or on one beat; and many series with one time each out of few, because all messages of a
socket buffer have one arrival time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.store.integers import SegmentError
from gateway.store.runs import Runs, bits_of_steps, even_steps, read_steps, write_steps

if TYPE_CHECKING:
    from gateway.store.integers import Reader, Signed, Writer
    from gateway.store.runs import Bools

# Distinct times are looked for among so many: fewer are not worth the while, more would take long to sort.
RANKED_MIN: Final = 64
_RANKED_MAX: Final = 1 << 14
# Below this there is little to gain.
_RANKED_BITS_MIN: Final = 2.0


def write_times(writer: Writer, runs: Runs, time_ns: Signed) -> None:
    """Write the times of all runs; drawn in store/columns."""
    shared = _shares_times(runs, time_ns)
    writer.bits(shared)
    if shared.any():
        time_ns = time_ns[runs.readings_of(~shared)]
        runs = runs.take(~shared)
    even = even_steps(runs, time_ns)
    if len(runs) > 1 and RANKED_MIN <= len(time_ns) <= _RANKED_MAX:
        bits = bits_of_steps(runs, time_ns, even)
        if bits > _RANKED_BITS_MIN * len(time_ns):
            distinct, places = np.unique(time_ns, return_inverse=True)
            ranks = places.astype(np.int64, copy=False)
            one_run = Runs.of_counts(np.array([len(distinct)]))
            if bits_of_steps(one_run, distinct) + bits_of_steps(runs, ranks) < bits:
                writer.varint(len(distinct))
                write_steps(writer, one_run, distinct)
                write_steps(writer, runs, ranks)
                return
    writer.varint(0)
    write_steps(writer, runs, time_ns, even)


def read_times(reader: Reader, runs: Runs) -> Signed:
    """Return the times of all runs; raise SegmentError."""
    shared = reader.bits(len(runs))
    if shared[0]:
        raise SegmentError("the first run cannot share the times of one before")
    # Which run's times each run has: its own, or those of the last before it that has its own.
    source = np.maximum.accumulate(np.where(shared, 0, np.arange(len(runs))))
    if (runs.counts != runs.counts[source]).any():
        raise SegmentError("runs that share their times differ in length")
    own = runs.take(~shared)
    distinct_count = reader.varint()
    if distinct_count > own.readings:
        raise SegmentError("there are more distinct times than times")
    if distinct_count:
        distinct = read_steps(reader, Runs.of_counts(np.array([distinct_count])))
        ranks = read_steps(reader, own)
        if ranks.min() < 0 or ranks.max() >= distinct_count:
            raise SegmentError("a time's rank is out of range")
        times = distinct[ranks]
    else:
        times = read_steps(reader, own)
    if not shared.any():
        return times
    own_starts = own.starts[np.cumsum(~shared) - 1]
    return times[np.repeat(own_starts - runs.starts, runs.counts) + np.arange(runs.readings)]


def _shares_times(runs: Runs, time_ns: Signed) -> Bools:
    """Return which runs have exactly the times of the run before; (runs,)."""
    shared = np.zeros(len(runs), np.bool_)
    starts, counts = runs.starts, runs.counts
    ends = starts + counts - 1
    shared[1:] = (
        (counts[1:] == counts[:-1])
        & (time_ns[starts[1:]] == time_ns[starts[:-1]])
        & (time_ns[ends[1:]] == time_ns[ends[:-1]])
    )
    unsure = shared & (counts > 2)
    if unsure.any():
        lengths = counts[unsure]
        here = np.flatnonzero(runs.readings_of(unsure))
        equal = time_ns[here] == time_ns[here - np.repeat(lengths, lengths)]
        shared[unsure] = np.logical_and.reduceat(equal, np.cumsum(lengths) - lengths)
    return shared
