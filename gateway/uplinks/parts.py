"""Parts of a lease: what may go in one request, of each kind, and how it is halved. Must not write a request.

Whatever is refused or too large is cut in two, down to single readings, and loses none on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from gateway.codecs.otlp_messages import halves
from gateway.core.batch import LogRecords, ResourceRecords
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import Batch
    from gateway.uplinks.nats_pieces import PiecesPart

Groups: TypeAlias = "list[tuple[Batch, Marks]]"


@dataclass(slots=True)
class MetricsPart:
    """Readings that may go in one request."""

    may_be_cut: ClassVar[bool] = True

    groups: Groups
    signal: Signal = Signal.METRICS

    def __len__(self) -> int:
        return sum(len(batch) for batch, _ in self.groups)

    def plain(self) -> list[PlainPart]:
        """Return it in parts that every uplink has."""
        return [self]

    def mark_late(self) -> None:
        """Have it say that it comes late."""
        self.groups = late(self.groups)

    def halves(self) -> tuple[MetricsPart, MetricsPart]:
        """Return the first and the second half of the readings, in their order."""
        return self.cut(len(self) // 2)

    def cut(self, readings: int) -> tuple[MetricsPart, MetricsPart]:
        """Return the first `readings` and the rest, in their order."""
        left: Groups = []
        right: Groups = []
        room = readings
        for batch, marks in self.groups:
            cut = min(room, len(batch))
            room -= cut
            if cut:
                left.append((batch.take(slice(0, cut)), marks))
            if cut < len(batch):
                right.append((batch.take(slice(cut, None)), marks))
        return MetricsPart(left), MetricsPart(right)


@dataclass(slots=True)
class LogsPart:
    """Log records that may go in one request."""

    may_be_cut: ClassVar[bool] = True

    records: LogRecords
    marks: Marks
    signal: Signal = Signal.LOGS

    def __len__(self) -> int:
        return len(self.records)

    def plain(self) -> list[PlainPart]:
        """Return it in parts that every uplink has."""
        return [self]

    def mark_late(self) -> None:
        """Have it say that it comes late."""
        self.marks = replace(self.marks, backfill=True)

    def halves(self) -> tuple[LogsPart, LogsPart]:
        """Return the first and the second half of the records, in their order."""
        return self.cut(len(self) // 2)

    def cut(self, readings: int) -> tuple[LogsPart, LogsPart]:
        """Return the first `readings` records and the rest, in their order."""
        return self._take(slice(0, readings)), self._take(slice(readings, None))

    def _take(self, index: slice) -> LogsPart:
        records = self.records
        return LogsPart(LogRecords(records.series[index], records.time_ns[index], records.bodies[index]), self.marks)


@dataclass(slots=True)
class MessagesPart:
    """OTLP messages, as somebody sent them to this gateway, that may go in one request."""

    may_be_cut: ClassVar[bool] = True

    records: ResourceRecords
    marks: Marks

    @property
    def signal(self) -> Signal:
        """What they are messages of."""
        return self.records.signal

    def __len__(self) -> int:
        return len(self.records)

    def plain(self) -> list[PlainPart]:
        """Return it in parts that every uplink has."""
        return [self]

    def mark_late(self) -> None:
        """Have it say that it comes late."""
        self.marks = replace(self.marks, backfill=True)

    def halves(self) -> tuple[MessagesPart, MessagesPart]:
        """Return about the first and the second half of the readings, in their order."""
        left, right = halves(self.records)
        return MessagesPart(left, self.marks), MessagesPart(right, self.marks)

    def cut(self, readings: int) -> tuple[MessagesPart, MessagesPart]:
        """Return the first `readings`, or fewer, and the rest, in their order."""
        left, right = self.halves()
        while len(left) > readings:
            left, more = left.halves()
            right = MessagesPart(ResourceRecords.join([more.records, right.records]), self.marks)
        return left, right


PlainPart: TypeAlias = "MetricsPart | LogsPart | MessagesPart"
# What is sent under ids of its own is cut otherwise.
Part: TypeAlias = "PlainPart | PiecesPart"


@dataclass(frozen=True, slots=True)
class Closed:
    """A whole lease whose request is made: it is opened again in the rare case that it is needed once more."""

    may_be_cut: ClassVar[bool] = True

    readings: int

    def __len__(self) -> int:
        return self.readings


def late(groups: Iterable[tuple[Batch, Marks]]) -> Groups:
    """Return readings that say that they come late."""
    return [(batch, replace(marks, backfill=True)) for batch, marks in groups]


def small_parts(part: MessagesPart, bytes_max: int) -> Iterator[MessagesPart]:
    """Cut a part until each piece is small enough, in their order."""
    if part.records.size_bytes <= bytes_max or len(part) == 1:
        yield part
    else:
        for half in part.halves():
            yield from small_parts(half, bytes_max)
