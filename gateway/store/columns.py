"""Readings as bytes: run directory, time column, value column, before compression. Must not know segments.

A run is all readings of one series with the same flags; runs stand in `Batch.sorted` order. The columns are
those of store/integers, and steps those of store/runs, one behind the other:

| part   | column             | holds                                                                    |
| ------ | ------------------ | ------------------------------------------------------------------------ |
| runs   | varint             | number of runs                                                           |
|        | signed             | series of each run                                                       |
|        | unsigned           | flags of each run                                                        |
|        | unsigned           | readings of each run, less one                                           |
| times  | bits, of runs      | set: the same times as the run before; what follows is of the others     |
|        | varint             | 0: times, or the number of distinct times, of which ranks are kept       |
|        | steps              | the distinct times, if any, as one run                                   |
|        | steps              | times, or ranks                                                          |
| values | unsigned           | form of each run of doubles, as in store/decimals                        |
|        | varint, steps      | if a form is 34: number of distinct values, and these, as one run        |
|        | signed, thrice     | first integer of each run: of all forms but 32 and 33, of 32, of 33      |
|        | bits, of long runs | set: offsets from the run's smallest, else zigzag steps                  |
|        | unsigned           | what the smallest is below the first, of runs with offsets               |
|        | unsigned           | what divides all integers inside a long run, less one                    |
|        | unsigned           | width in bytes of the integers inside a long run                         |
|        | planes, widths 1-8 | the integers inside all long runs of that width                          |
|        | varint             | number of exceptions                                                     |
|        | signed             | positions of the exceptions                                              |
|        | signed             | bits of the exceptions, ordered                                          |

If no run is long, the four columns of long runs are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.batch import FLAGS_MAX, KIND_MASK, Batch, ValueKind
from gateway.store.integers import Reader, SegmentError, Writer
from gateway.store.runs import Runs, counts_of
from gateway.store.times import read_times, write_times
from gateway.store.values import read_values, write_values

if TYPE_CHECKING:
    from gateway.store.integers import Part

SERIES_MAX: Final = 0xFFFF_FFFF


def encode(batch: Batch) -> list[Part]:
    """Return the columns of a sorted batch of at least one reading, in parts that are alike in themselves."""
    starts = batch.run_starts()
    runs = Runs(starts, counts_of(starts, len(batch)))
    flags = batch.flags[starts]
    writer = Writer()
    writer.varint(len(runs))
    writer.signed(batch.series[starts].astype(np.int64))
    writer.unsigned(flags.astype(np.uint64))
    writer.unsigned((runs.counts - 1).astype(np.uint64))
    write_times(writer, runs, batch.time_ns)
    write_values(writer, runs, batch.bits, (flags & KIND_MASK) == ValueKind.DOUBLE)
    return writer.parts


def decode(data: bytes, *, readings: int) -> Batch:
    """Return the batch of `readings` readings that `encode` was given; raise SegmentError."""
    reader = Reader(data)
    count = reader.varint()
    if not 1 <= count <= readings:
        raise SegmentError(f"{count} runs cannot hold {readings} readings")
    series = reader.signed(count)
    flags = reader.unsigned(count)
    if series.min() < 0 or series.max() > SERIES_MAX or flags.max() > FLAGS_MAX:
        raise SegmentError("a run has a series or flags out of range")
    counts = reader.unsigned(count)
    if counts.max() >= readings or int(counts.sum()) + count != readings:
        raise SegmentError(f"the runs do not hold the {readings} readings that the header promises")
    runs = Runs.of_counts(counts.astype(np.intp) + 1)
    time_ns = read_times(reader, runs)
    bits = read_values(reader, runs, (flags & KIND_MASK) == ValueKind.DOUBLE)
    reader.close()
    return Batch(
        np.repeat(series.astype(np.uint32), runs.counts),
        time_ns,
        bits,
        np.repeat(flags.astype(np.uint8), runs.counts),
    )
