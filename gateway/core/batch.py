"""Columns: many readings of many series at once, and what a series is. Does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from gateway.core.contracts import Signal

AttributeValue: TypeAlias = "str | bool | int | float"
Attributes: TypeAlias = "tuple[tuple[str, AttributeValue], ...]"


class ValueKind(IntEnum):
    """What the 64 bits of a reading mean. The two low bits of a reading's flags."""

    DOUBLE = 0
    INT = 1
    BOOL = 2


KIND_MASK: Final = 0b0011
MONOTONIC: Final = 0b0100
"""Flag: the time is the boot's monotonic clock at arrival and wants repair before it leaves."""
DEVICE_TIME_REJECTED: Final = 0b1000
"""Flag (with MONOTONIC): the device gave a time, it was not sane, and arrival stands in for it."""
FLAGS_MAX: Final = 0b1111

UNKEPT: Final = 2**32 - 2**20
"""From this number on series are nobody's on the shelf: those that only somebody in this process tells apart."""

# Pieces of this mean length or more are moved one by one, and of shorter ones each reading.
PIECE_READINGS_MIN: Final = 64


@dataclass(frozen=True, slots=True)
class Series:
    """What stays the same from reading to reading. Hashable; attributes are sorted by key.

    `resource` says whose it is, `attributes` stand on each point, `kind` is the OTLP metric kind.
    A series of log records has kind "log" and an empty name. `start_ns` is the Unix time at which a sum stood at
    nothing, 0 where nobody knows, as with every sum of a device.
    """

    resource: Attributes
    name: str
    unit: str = ""
    kind: Literal["gauge", "sum", "log"] = "gauge"
    attributes: Attributes = ()
    scope: str = ""
    start_ns: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings as four columns of one length.

    | column  | dtype  | is                                                                            |
    | ------- | ------ | ----------------------------------------------------------------------------- |
    | series  | uint32 | the series' number                                                            |
    | time_ns | int64  | Unix time, or the boot's monotonic time where flags has MONOTONIC              |
    | bits    | int64  | the value: an integer, 0/1, or the IEEE bits of a double (`bits.view(float64)`) |
    | flags   | uint8  | ValueKind in the low two bits, MONOTONIC, DEVICE_TIME_REJECTED                 |

    `origin` is a number for what made all of them, where somebody tells that apart; 0: nobody does.
    """

    series: npt.NDArray[np.uint32]
    time_ns: npt.NDArray[np.int64]
    bits: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    origin: int = 0

    def __post_init__(self) -> None:
        """Refuse columns that don't belong together; that is our mistake, never the world's."""
        assert len(self.series) == len(self.time_ns) == len(self.bits) == len(self.flags)
        assert self.series.dtype == np.uint32
        assert self.time_ns.dtype == np.int64
        assert self.bits.dtype == np.int64
        assert self.flags.dtype == np.uint8

    def __len__(self) -> int:
        return len(self.series)

    @classmethod
    def empty(cls) -> Batch:
        """Return a batch of no readings."""
        return cls.of([], [], np.empty(0, np.float64))

    @classmethod
    def of(
        cls,
        series: npt.ArrayLike,
        time_ns: npt.ArrayLike,
        values: npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.bool_],
        *,
        flags: int = 0,
    ) -> Batch:
        """Build a batch from one array of values; its dtype gives the kind. `series`, `time_ns` broadcast.

        >>> Batch.of(7, [1, 2], np.array([20.5, 21.0])).bits.view(np.float64).tolist()
        [20.5, 21.0]
        """
        kind, bits = to_bits(values)
        length = len(bits)
        return cls(
            np.ascontiguousarray(np.broadcast_to(np.asarray(series, np.uint32), length)),
            np.ascontiguousarray(np.broadcast_to(np.asarray(time_ns, np.int64), length)),
            bits,
            np.full(length, flags | kind, np.uint8),
        )

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Return all readings of `batches`, which are of one origin, in their order."""
        if len(batches) == 1:
            return batches[0]
        if not batches:
            return cls.empty()
        assert len({batch.origin for batch in batches}) == 1
        return cls(
            np.concatenate([batch.series for batch in batches]),
            np.concatenate([batch.time_ns for batch in batches]),
            np.concatenate([batch.bits for batch in batches]),
            np.concatenate([batch.flags for batch in batches]),
            batches[0].origin,
        )

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Batch:
        """Return the readings that `index` picks, in its order."""
        return Batch(self.series[index], self.time_ns[index], self.bits[index], self.flags[index], self.origin)

    def sorted(self) -> Batch:
        """Return the readings by series, then flags, then time; equal ones keep their order.

        >>> batch = Batch.of([2, 1, 2], [5, 9, 3], np.array([1, 2, 3]))
        >>> batch.sorted().time_ns.tolist()
        [9, 3, 5]
        """
        starts = self.run_starts()
        key = (self.series[starts].astype(np.int64) << 4) | self.flags[starts]
        if np.all(key[1:] > key[:-1]):
            batch = self
        elif len(starts) * 4 > len(self):
            return _sort_singly(self)
        else:
            # Readings come in pieces of one series; moving pieces is much cheaper than sorting readings.
            batch = self._move(starts, np.argsort(key, kind="stable"))
            starts = batch.run_starts()
        backward = batch.time_ns[1:] < batch.time_ns[:-1]
        backward[starts[1:] - 1] = False
        return _sort_singly(batch) if backward.any() else batch

    def _move(self, starts: npt.NDArray[np.intp], order: npt.NDArray[np.intp]) -> Batch:
        """Return the pieces that begin at `starts` in another order."""
        first = np.flatnonzero(np.diff(order, prepend=-2) != 1)
        if len(first) * PIECE_READINGS_MIN > len(self):
            counts = np.diff(starts, append=len(self))[order]
            before = np.cumsum(counts) - counts
            return self.take(np.repeat(starts[order] - before, counts) + np.arange(len(self)))
        # Those that stay side by side are one.
        last = order[np.append(first[1:], len(order)) - 1]
        ends = np.append(starts[1:], len(self))
        pieces = [slice(*bounds) for bounds in zip(starts[order[first]].tolist(), ends[last].tolist(), strict=True)]
        series, time_ns, bits, flags = (
            np.concatenate([column[piece] for piece in pieces])
            for column in (self.series, self.time_ns, self.bits, self.flags)
        )
        return Batch(series, time_ns, bits, flags, self.origin)

    def run_starts(self) -> npt.NDArray[np.intp]:
        """Return where each run of one series with the same flags begins; expects `sorted` order.

        >>> Batch.of([1, 1, 4], [1, 2, 3], np.array([1, 2, 3])).run_starts().tolist()
        [0, 2]
        """
        if not len(self):
            return np.empty(0, np.intp)
        changes = (self.series[1:] != self.series[:-1]) | (self.flags[1:] != self.flags[:-1])
        return np.concatenate([np.zeros(1, np.intp), np.flatnonzero(changes) + 1])

    def values(self) -> npt.NDArray[np.float64]:
        """Return every value as a double, for those who watch (integers over 2^53 are rounded)."""
        doubles = self.bits.view(np.float64)
        whole = (self.flags & KIND_MASK) != ValueKind.DOUBLE
        if not whole.any():
            return doubles
        return np.where(whole, self.bits.astype(np.float64), doubles)


def _sort_singly(batch: Batch) -> Batch:
    key = (batch.series.astype(np.int64) << 4) | batch.flags
    return batch.take(np.lexsort((batch.time_ns, key)))


def to_bits(
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.bool_],
) -> tuple[ValueKind, npt.NDArray[np.int64]]:
    """Return the kind that the dtype gives, and the 64 bits of each value.

    >>> to_bits(np.array([True, False]))
    (<ValueKind.BOOL: 2>, array([1, 0]))
    """
    if values.dtype.kind == "f":
        return ValueKind.DOUBLE, np.ascontiguousarray(values, np.float64).view(np.int64)
    if values.dtype.kind == "b":
        return ValueKind.BOOL, values.astype(np.int64)
    assert values.dtype.kind in "iu", values.dtype
    assert values.dtype != np.uint64, "the codec turns what does not fit int64 into doubles"
    return ValueKind.INT, values.astype(np.int64)


def distinct(values: npt.NDArray[Any], *, is_ordered: bool = False) -> npt.NDArray[Any]:
    """Return each value once, in order. What np.unique does, which imports numpy.ma, 1.6 MB that nothing here uses.

    >>> distinct(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    ordered = values if is_ordered else np.sort(values)
    keep = np.ones(len(ordered), np.bool_)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep]


def is_among(values: npt.NDArray[Any], ordered: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which of `values` are in `ordered`, which are in order. np.isin would import numpy.ma too.

    >>> is_among(np.array([[3, 1], [9, 2]]), np.array([1, 3]))
    array([[ True,  True],
           [False, False]])
    """
    if not len(ordered):
        return np.zeros(values.shape, np.bool_)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[places] == values
    return found


@dataclass(frozen=True, slots=True)
class LogRecords:
    """Encoded OTLP LogRecord messages with their stream and time.

    `series[k]` names the resource and scope (a Series of kind "log"), `time_ns[k]` is Unix time and
    stands in `bodies[k]` too; a record that leaves carries both. `origin` is as in `Batch`.
    """

    series: npt.NDArray[np.uint32]
    time_ns: npt.NDArray[np.int64]
    bodies: tuple[bytes, ...]
    origin: int = 0

    def __post_init__(self) -> None:
        """Refuse columns that don't belong together."""
        assert len(self.series) == len(self.time_ns) == len(self.bodies)

    def __len__(self) -> int:
        return len(self.bodies)

    @classmethod
    def join(cls, records: Iterable[LogRecords]) -> LogRecords:
        """Return all of `records`, which are of one origin, in their order."""
        parts = list(records)
        if not parts:
            return cls(np.empty(0, np.uint32), np.empty(0, np.int64), ())
        assert len({part.origin for part in parts}) == 1
        return cls(
            np.concatenate([part.series for part in parts]),
            np.concatenate([part.time_ns for part in parts]),
            tuple(body for part in parts for body in part.bodies),
            parts[0].origin,
        )


@dataclass(frozen=True, slots=True)
class ResourceRecords:
    """Encoded ResourceMetrics, ResourceLogs or ResourceSpans messages of one signal, byte for byte as they came.

    `counts[k]` is how many data points, log records or spans stand in `bodies[k]`, at least 1; `time_ns[k]` is the Unix
    time at which it arrived, 0 where there was no clock. `len` counts what stands in all of them: that is what all
    accounts go by.
    """

    signal: Signal
    counts: npt.NDArray[np.int64]
    time_ns: npt.NDArray[np.int64]
    bodies: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse columns that don't belong together."""
        assert len(self.counts) == len(self.time_ns) == len(self.bodies)
        assert self.counts.dtype == self.time_ns.dtype == np.int64

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def series(self) -> npt.NDArray[np.uint32]:
        """The numbers of all series in it: they bring their resources along and name none."""
        return np.empty(0, np.uint32)

    @property
    def size_bytes(self) -> int:
        """Bytes of all messages."""
        return sum(map(len, self.bodies))

    def take(self, index: slice) -> ResourceRecords:
        """Return some of the messages, in their order."""
        return ResourceRecords(self.signal, self.counts[index], self.time_ns[index], self.bodies[index])

    @classmethod
    def join(cls, parts: Sequence[ResourceRecords]) -> ResourceRecords:
        """Return all messages of `parts`, which are one or more of one signal, in their order."""
        assert len({part.signal for part in parts}) == 1
        return cls(
            parts[0].signal,
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.time_ns for part in parts]),
            tuple(body for part in parts for body in part.bodies),
        )
