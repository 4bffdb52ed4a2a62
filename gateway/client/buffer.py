"""What a program has sent and the shelf has not yet: columns that any thread adds to, bounded, and taken all at once.

No object is kept for a reading: one of a metric is a number in each of three arrays, and an array stays an array. What
the series are called is noted once for each parcel, so that nothing here grows by itself.

The lock is held for the append alone. Must not know the event loop, but for whom to wake.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from gateway.client.errors import ClientError
from gateway.core.batch import ValueKind
from gateway.core.contracts import FullError, Priority, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import numpy.typing as npt

    from gateway.core.batch import Attributes

    Numbers: TypeAlias = npt.NDArray[Any]
    Words: TypeAlias = tuple[Any, Any, Any, Any]  # name, unit, kind and attributes, as a program gives them

# A series' index, a time, a value and what it is, as the shelf counts them.
READING_BYTES: Final = 21
# An array's own, and a record's: the objects around the bytes.
PIECE_BYTES: Final = 512
RECORD_BYTES: Final = 64
SERIES_BYTES: Final = 512
# From here on it is taken without waiting for the commit's time.
EARLY_SHARE: Final = 2
TOO_SLOW: Final = "the disk is slower than what is sent"

_CODES: Final = {ValueKind.DOUBLE: "d", ValueKind.INT: "q", ValueKind.BOOL: "q"}


class Stream(NamedTuple):
    """What is said of a metric with each of its readings."""

    name: str
    unit: str
    kind: Literal["gauge", "sum"]
    attributes: Attributes


class Columns:
    """Readings of one class and kind of value. `times` are Unix ns, or the boot's monotonic time of sending."""

    __slots__ = ("series", "times", "values")

    def __init__(self, kind: ValueKind) -> None:
        self.series = array("I")
        self.times = array("q")
        self.values: array[Any] = array(_CODES[kind])

    def even(self) -> None:
        """Take away what only some of the three have."""
        count = len(self.series)
        del self.values[count:], self.times[count:]


class Sort(NamedTuple):
    """Which columns a reading goes to. `is_stamped`: it has the monotonic time of sending instead of one of its own."""

    priority: Priority
    kind: ValueKind
    is_stamped: bool


SORTS: Final = tuple(
    Sort(priority, kind, is_stamped) for priority in Priority for kind in ValueKind for is_stamped in (False, True)
)


class Samples(NamedTuple):
    """An array of readings of one series; `times` are Unix ns. It was sent at `sent_ns`, monotonic."""

    priority: Priority
    series: int
    times: npt.NDArray[Any]
    values: Numbers
    sent_ns: int


class Records:
    """Encoded log records or spans of one class. Log records have a time of their own (0: none) and that of sending."""

    __slots__ = ("bodies", "sent", "times")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.times = array("q")
        self.sent = array("q")

    def even(self) -> None:
        """Take away what only some of the three have."""
        count = len(self.sent)
        del self.bodies[count:], self.times[count:]


@dataclass(slots=True)
class Parcel:
    """All that was there at one moment. `until` is how much had been sent by then, in readings since the start."""

    streams: list[Stream] = field(default_factory=list)
    columns: dict[int, Columns] = field(default_factory=dict)
    samples: list[Samples] = field(default_factory=list)
    records: dict[tuple[Priority, Signal], Records] = field(default_factory=dict)
    dropped: int = 0
    readings: int = 0
    size_bytes: int = 0
    until: int = 0


@dataclass(slots=True)
class Totals:
    """How many readings were sent of each signal, and how many of all found no room and were dropped."""

    sent: dict[Signal, int] = field(default_factory=lambda: dict.fromkeys(Signal, 0))
    dropped: int = 0
    pushed_back: int = 0


class Buffer:
    """Where threads put what they send. `wake(now)` says that there is something, or that it must be taken now.

    `make` returns the stream of what a program calls a metric by, asked once a parcel; it raises where that is wrong.
    Whoever finds it full, and `may_wait`, waits up to `wait_s`; then what it brings is dropped and counted, or refused
    where it `raises`. Who drops waits once, and not again until a parcel is kept.
    """

    def __init__(
        self,
        *,
        bytes_max: int,
        wait_s: float,
        raises: bool,
        make: Callable[..., Stream],
        wake: Callable[[bool], None],
        may_wait: Callable[[], bool] = lambda: True,
    ) -> None:
        self.trouble = ""  # why nothing can be put on the shelf just now
        self.totals = Totals()
        self._bytes_max = bytes_max
        self._wait_s = wait_s
        self._raises = raises
        self._make = make
        self._wake = wake
        self._may_wait = may_wait
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._open = Parcel()
        # What is being added to: found by whoever comes next, its columns are uneven, since an interrupt came between.
        self._adding: Columns | Records | None = None
        # What may be added before it is full, what is, and what of all is in the parcel that was taken.
        self._room_bytes = bytes_max
        self._open_bytes = 0
        self._indexes: dict[Hashable, int] = {}
        self._taken: Parcel | None = None
        self._sent = self._kept = 0
        self._is_awake = self._is_urgent = self._is_over = self._was_in_vain = False
        self._end = ""

    # For threads.

    def add(self, key: Hashable, words: Words, value: float, time_ns: int, sort: int) -> None:
        """Add one reading to the columns of SORTS[sort]. `words` are what `key` stands for; raise what `meet` does."""
        with self._lock:
            if self._adding is not None:
                self._even()
            if (self._open_bytes >= self._room_bytes or self._end) and not self._wait_for_room(1):
                return
            index = self._indexes.get(key)
            if index is None:
                index = self._meet(key, words)
            columns = self._open.columns.get(sort)
            if columns is None:
                columns = self._open.columns[sort] = Columns(SORTS[sort].kind)
            self._adding = columns
            columns.values.append(value)
            columns.times.append(time_ns)
            columns.series.append(index)
            self._adding = None
            self._open_bytes += READING_BYTES
            self._sent += 1
            if not self._is_urgent:
                self._look()

    def add_many(
        self,
        key: Hashable,
        words: Words,
        values: Numbers,
        times: npt.NDArray[Any],
        *,
        priority: Priority,
        sent_ns: int,
    ) -> None:
        """Add an array of readings, in parts where it is large; a FullError says how many were taken."""
        most = max(self._bytes_max // READING_BYTES // (2 * EARLY_SHARE), 1)
        for start in range(0, len(values), most):
            part = slice(start, start + most)
            count = len(values[part])
            with self._lock:
                if self._open_bytes >= self._room_bytes or self._end:
                    left = len(values) - start
                    try:
                        if not self._wait_for_room(left):
                            return
                    except FullError as error:
                        if not start:
                            raise
                        taken = f"{error}; of {len(values)} readings the first {start} are taken"
                        raise FullError(taken, error.after_s) from error
                index = self._indexes.get(key)
                if index is None:
                    index = self._meet(key, words)
                self._open.samples.append(Samples(priority, index, times[part], values[part], sent_ns))
                self._open_bytes += PIECE_BYTES + READING_BYTES * count
                self._sent += count
                self._look()

    def add_record(self, body: bytes, *, priority: Priority, signal: Signal, time_ns: int = 0, sent_ns: int) -> None:
        """Add an encoded log record or span."""
        with self._lock:
            if self._adding is not None:
                self._even()
            if (self._open_bytes >= self._room_bytes or self._end) and not self._wait_for_room(1):
                return
            records = self._open.records.get((priority, signal))
            if records is None:
                records = self._open.records[priority, signal] = Records()
            self._adding = records
            records.bodies.append(body)
            records.times.append(time_ns)
            records.sent.append(sent_ns)
            self._adding = None
            self._open_bytes += RECORD_BYTES + len(body)
            self._sent += 1
            self._look()

    def flush(self, timeout_s: float) -> bool:
        """Return whether all that was sent until now is on the disk within that time."""
        with self._lock:
            until = self._sent
            if self._kept < until:
                self._is_awake = self._is_urgent = True
                self._wake(True)
            self._changed.wait_for(lambda: self._kept >= until or self._is_over, timeout_s)
            return self._kept >= until

    @property
    def waiting(self) -> int:
        """How many readings are not on the disk yet."""
        with self._lock:
            return self._sent - self._kept

    def close(self, why: str) -> None:
        """Take nothing more: whoever sends, and who waits for room, is told why. What is there can still be taken."""
        with self._lock:
            self._end = why
            self._changed.notify_all()

    def is_over(self) -> None:
        """Take note that nobody takes anything any more: who waits for a flush waits in vain."""
        with self._lock:
            self._is_over = True
            self._changed.notify_all()

    def passed(self, signal: Signal, count: int) -> None:
        """Count readings that went to the shelf by another way."""
        with self._lock:
            self.totals.sent[signal] += count

    # For the door.

    def take(self) -> Parcel | None:
        """Return all that is there, the same again until it is `kept`; None where there is nothing."""
        with self._lock:
            if self._adding is not None:
                self._even()
            self._is_awake = self._is_urgent = False
            if self._taken is None and (self._sent > self._kept or self._open.dropped):
                self._taken, self._open = self._open, Parcel()
                self._taken.until, self._taken.readings = self._sent, self._sent - self._kept
                self._taken.size_bytes, self._open_bytes = self._open_bytes, 0
                self._room_bytes = self._bytes_max - self._taken.size_bytes
                self._indexes = {}
                self._count(self._taken)
            return self._taken

    def kept(self, parcel: Parcel) -> None:
        """Take note that a parcel is on the disk."""
        with self._lock:
            assert parcel is self._taken
            self._taken = None
            self._room_bytes = self._bytes_max
            self._kept = parcel.until
            self._was_in_vain = False
            self.trouble = ""
            if self._sent > self._kept:
                self._look()
            self._changed.notify_all()

    @property
    def is_urgent(self) -> bool:
        """Whether what is there should be taken at once."""
        return self._is_urgent

    @property
    def size_bytes(self) -> int:
        """Memory of what is not on the disk yet."""
        with self._lock:
            return self._open_bytes + self._bytes_max - self._room_bytes

    # With the lock held.

    def _even(self) -> None:
        """Mend what an interrupt left: a column that is longer than the others would shift all that comes."""
        # Noted when it is done: the next interrupt may come here.
        if self._adding is not None:
            self._adding.even()
            self._adding = None

    def _look(self) -> None:
        """Wake whoever takes, once for the first that comes and once when it is much."""
        # Noted when it is done: an interrupt in between wakes somebody twice, and never nobody.
        if not self._is_awake:
            self._wake(False)
            self._is_awake = True
        if not self._is_urgent and self._open_bytes * EARLY_SHARE >= self._bytes_max:
            self._wake(True)
            self._is_urgent = True

    def _meet(self, key: Hashable, words: Words) -> int:
        stream = self._make(*words)
        index = len(self._open.streams)
        self._open.streams.append(stream)
        self._indexes[key] = index
        self._open_bytes += SERIES_BYTES
        return index

    def _wait_for_room(self, count: int) -> bool:
        """Return whether there is room, within `wait_s`; False where `count` readings are dropped. Raise FullError."""
        if not self._end:
            self.totals.pushed_back += 1
            self._is_awake = self._is_urgent = True
            self._wake(True)
            wait_s = self._wait_s if self._may_wait() and not self._was_in_vain else 0
            self._changed.wait_for(lambda: self._open_bytes < self._room_bytes or self._end, wait_s)
        if self._end:
            raise ClientError(self._end)
        if self._open_bytes < self._room_bytes:
            return True
        if self._raises:
            raise FullError(self.trouble or TOO_SLOW)
        # A program that does not want to hear of it is not to be held up by each thing that it sends either.
        self._was_in_vain = True
        self.totals.dropped += count
        self._open.dropped += count
        return False

    def _count(self, parcel: Parcel) -> None:
        sent = self.totals.sent
        sent[Signal.METRICS] += sum(len(columns.series) for columns in parcel.columns.values())
        sent[Signal.METRICS] += sum(len(samples.values) for samples in parcel.samples)
        for (_, signal), records in parcel.records.items():
            sent[signal] += len(records.bodies)
