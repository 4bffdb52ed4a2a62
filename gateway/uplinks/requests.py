"""From a lease to request bodies: decode, repair times, mark, encode, split. Must not send or wait.

What cannot be sent for ever (a damaged segment, a moment of a boot that
nobody remembers) is counted by reason and left out; what only lacks a clock stops the whole lease, so that
no reading leaves with a time that is known to be wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

import numpy as np

from gateway.codecs.otlp import NO_MARKS, Marks, ProtobufEncoder
from gateway.core.batch import DEVICE_TIME_REJECTED, KIND_MASK, MONOTONIC, Batch, LogRecords, ResourceRecords
from gateway.core.clock import NS_PER_S, Quality
from gateway.core.contracts import Signal
from gateway.core.thinning import thin
from gateway.core.words import plural
from gateway.store.segments import (
    HASH_BYTES,
    Form,
    SegmentError,
    decode_logs,
    decode_metrics,
    decode_records,
    press_logs,
    press_metrics,
    press_records,
    read_header,
)
from gateway.uplinks.guards import SERVER_ERROR, TOO_LARGE_STATUS, NotYetError
from gateway.uplinks.parts import Closed, LogsPart, MessagesPart, MetricsPart, small_parts
from gateway.uplinks.settings import HTTP_JSON, HTTP_PROTOBUF
from gateway.uplinks.verdicts import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    import numpy.typing as npt

    from gateway.core.batch import Attributes, Series
    from gateway.core.contracts import BootId
    from gateway.store.records import Lease, LeasedSegment
    from gateway.store.segments import Pressed
    from gateway.uplinks.guards import Left, StatusRefusedError
    from gateway.uplinks.parts import Groups, Part

    # By how good their times are, whether others were rejected, and the step in seconds of dilution on the shelf.
    ByMarks: TypeAlias = dict[tuple[str, bool, int], list[Batch]]

_T = TypeVar("_T")

# Reasons in the ledger.
DAMAGED: Final = "damaged"
TIME_LOST: Final = "time_lost"
REFUSED: Final = "refused"
REJECTED: Final = "rejected"
TOO_LARGE: Final = "too_large"

# What `tidegate.time.quality` says; a good time says nothing.
_WORDS: Final = {
    Quality.SYNCED: "",
    Quality.UNSYNCED: "unsynced",
    Quality.REPAIRED: "repaired",
    Quality.ESTIMATED: "estimated",
}
ARRIVAL: Final = "arrival"

# Readings that are decoded at once on the way to being thinned, and thinned pieces that wait before they become one.
DECODED_MAX: Final = 32_768
THINNED_PIECES_MAX: Final = 8

# A clock that comes is noticed at once; this is how often all is decoded again without one.
CLOCK_POLL_S: Final = 60.0


class NoClockError(NotYetError):
    """The data's times are not known yet, and will be once there is a clock."""

    def __init__(self) -> None:
        super().__init__("waiting for the clock: no right time since this boot", CLOCK_POLL_S)


class Repair(Protocol):
    """The part of `core.clock.Timeline` that is needed here."""

    @property
    def quality(self) -> Quality:
        """How good this boot's wall clock is now."""
        ...

    def repair(self, monotonic_ns: npt.NDArray[np.int64], boot: BootId) -> tuple[npt.NDArray[np.int64], Quality]:
        """Return Unix times for moments of `boot`, and how good they are."""
        ...


@dataclass(slots=True)
class Hand:
    """A lease that is being delivered: what is still to be sent, and what became of the rest, in readings."""

    lease: Lease
    parts: deque[Part | Closed] | None = None
    delivered: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    message: str = ""
    rtt_s: float = 0.0
    server_time_s: int | None = None
    refused: list[tuple[str, Part]] = field(default_factory=list)  # parts, not the whole, and why
    doubted: list[tuple[StatusRefusedError, Part]] = field(default_factory=list)  # and perhaps not to be given up
    refusals: int = 0  # since a part of it was taken
    maybe_taken: int = 0  # by a server that failed, and sent again; not counted yet
    announced: int = 0  # so much of what it may take yet is counted already
    stage: Stage = Stage.WHOLE
    failed: int = 0  # parts that a server failed at and that stand last, since all others were sent
    cuts: int = 0  # how often it was halved for that
    is_suspect: bool = False  # a server failed at all that is left
    is_hurried: bool = False  # many others wait for their last try
    pause_s: float | None = None  # others have their turn now, for so long at least
    unheard: list[Left] = field(default_factory=list)  # parts that nobody takes where they go, for now
    waits_for: str = ""  # why all that is left of it waits, where it is that
    trouble: str = ""  # what a server failed with last
    series: int = 0  # in the parts, where that was looked at
    charged: int = 0  # of what was delivered: the budget has heard of it

    @property
    def is_begun(self) -> bool:
        """Whether something of it has left, so that the lease must be brought to its end."""
        return self.delivered > 0 or any(reason not in {DAMAGED, TIME_LOST} for reason in self.rejected)

    @property
    def is_taken(self) -> bool:
        """Whether a request of it was taken."""
        return self.delivered > 0 or REJECTED in self.rejected

    @property
    def is_thinned(self) -> bool:
        """Whether only what stands for the lease is sent: all of it is held as before, whatever becomes of that."""
        return self.lease.step_s > 0

    @property
    def is_split(self) -> bool:
        """Whether more than one request is still to be sent."""
        return self.parts is not None and len(self.parts) > 1

    @property
    def next_readings(self) -> int:
        """How many readings the next request, or the last one that failed, is about."""
        return len(self.parts[0]) if self.parts else 0

    @property
    def lost(self) -> int:
        """Readings that will never be delivered."""
        return sum(self.rejected.values())

    def reject(self, readings: int, reason: str, message: str = "") -> None:
        """Count `readings` as never to be delivered."""
        if readings:
            self.rejected[reason] = self.rejected.get(reason, 0) + readings
            self.message = message or self.message

    def part(self, random: Random) -> None:
        """Cut the first part in two, send one of the halves next and the other after all else."""
        halves = self._pop().halves()
        assert self.parts is not None
        one = random.randrange(2)
        self.parts.appendleft(halves[one])
        self.parts.append(halves[1 - one])

    def sample(self, random: Random, *, readings_max: int) -> None:
        """Bring a part of so many readings at most to the front, cut from anywhere."""
        assert self.parts
        self.parts.rotate(random.randrange(len(self.parts)))
        while len(self.parts[0]) > readings_max:
            self.part(random)

    def lead(self, random: Random, *, readings_max: int) -> None:
        """Have so many readings at most go first and by themselves, from one end or the other."""
        part = self._pop()
        assert self.parts is not None
        if isinstance(part, MessagesPart) or random.randrange(2):
            few, rest = part.cut(readings_max)
        else:
            rest, few = part.cut(len(part) - readings_max)
        self.parts.extendleft(part for part in (rest, few) if len(part))

    def doubt(self, error: StatusRefusedError) -> None:
        """Lay the first part aside until it is known whether the road takes anything."""
        self.doubted.append((error, self._pop()))

    def take_back(self) -> None:
        """Have what was laid aside sent again after all."""
        assert self.parts is not None
        self.parts.extend(part for _, part in self.doubted)
        self.doubted = []

    def give_up(self) -> None:
        """Count what was laid aside as never to be delivered, but for what a server failed at and may take yet."""
        if self.stage is Stage.CUT and not self.is_thinned:
            failed = [(error, part) for error, part in self.doubted if error.status >= SERVER_ERROR]
            self.doubted = [(error, part) for error, part in self.doubted if error.status < SERVER_ERROR]
            if failed:
                assert self.parts is not None
                self.parts.extend(part for _, part in failed)
                self.stage = Stage.ALONE
        for error, part in self.doubted:
            self.reject(len(part), TOO_LARGE if error.status == TOO_LARGE_STATUS else REFUSED, str(error))
        self.refused += [(str(error), part) for error, part in self.doubted]
        self.doubted = []

    def _pop(self) -> Part:
        assert self.parts
        part = self.parts.popleft()
        assert not isinstance(part, Closed)
        return part

    def aside(self) -> list[tuple[str, int, bytes]]:
        """Return the parts that were given up as a person may see them: why, how many readings, and as a segment."""
        first = self.lease.segments[0]
        pieces: list[tuple[str, int, Pressed]] = []
        for message, part in ((message, part) for message, whole in self.refused for part in whole.plain()):
            if isinstance(part, LogsPart):
                pieces.append((message, len(part), press_logs(part.records)))
            elif isinstance(part, MessagesPart):
                pieces.append((message, len(part), press_records(part.records)))
            else:
                pieces += [(message, len(batch), press_metrics(batch)) for batch, _ in part.groups]
        return [
            (message, readings, piece.seal(sequence=first.sequence, boot=first.boot, previous_hash=bytes(HASH_BYTES)))
            for message, readings, piece in pieces
        ]

    def count_failed(self, readings: int) -> None:
        """Count what a server may have taken that failed, and with it what that comes to in the halves of the part.

        Nothing leaves before a commit has written what was counted: a cut costs one of them, and not one each time.
        """
        if self.stage is Stage.CUT and self.announced < readings:
            self.maybe_taken += 2 * readings
            self.announced += readings
        elif self.stage is Stage.CUT:
            self.announced -= readings
        else:
            self.maybe_taken += readings

    def is_at_end(self, readings: int, least: int) -> bool:
        """Whether a part of so many readings that a server failed at is not cut any further."""
        is_cut = self.stage is Stage.CUT or (self.stage is Stage.LAST and not self.is_hurried)
        return not is_cut or readings <= least or not all(part.may_be_cut for part in list(self.parts or ())[:1])

    def split(self) -> None:
        """Cut the first part in two."""
        halves = self._pop().halves()
        assert self.parts is not None
        self.parts.extendleft(reversed(halves))

    def put_last(self) -> bool:
        """Have the first part, which a server failed at, sent after all others; return whether others are left."""
        assert self.parts
        self.parts.rotate(-1)
        self.failed += 1
        if self.failed < len(self.parts):
            return True
        self.failed, self.is_suspect = 0, True
        return False

    def close(self) -> None:
        """Let go of what was made of the lease, where it can be made again as it was: it is the most memory of all."""
        is_whole = not (self.delivered or self.rejected or self.doubted)
        if self.parts is not None and len(self.parts) == 1 and is_whole:
            self.parts = deque([Closed(len(self.parts[0]))])

    def reason(self) -> str:
        """Return one word for the ledger; where several reasons met in one lease, all of them.

        >>> hand = Hand(lease=None, rejected={"rejected": 1, "damaged": 2})
        >>> hand.reason()
        'damaged+rejected'
        """
        return "+".join(sorted(self.rejected))

    def verdict(self) -> str:
        """Say what was lost and why."""
        return f"{plural(self.lost, 'reading')} {self.reason()}: {self.message}"


class Encoder(Protocol):
    """How requests are written: `codecs.otlp.ProtobufEncoder` or `codecs.otlp_json.JsonEncoder`."""

    empty: dict[Signal, bytes]
    """Requests that ask for nothing."""
    messages_bytes_max: int
    """Bytes of OTLP messages in one request at most, where there is more than one reading."""

    def metrics(self, groups: Groups, /) -> bytes:
        """Return one request of readings, in order of series and kind."""
        ...

    def logs(self, records: LogRecords, marks: Marks, /) -> bytes:
        """Return one request of log records."""
        ...

    def records(self, records: ResourceRecords, marks: Marks, /) -> bytes:
        """Return one request of OTLP messages that are passed on."""
        ...

    def check(self, records: ResourceRecords, /) -> None:
        """Raise ValueError for messages of which no request can be made."""
        ...


def encoder_of(
    protocol: str, *, series: Callable[[int], Series], gateway_attributes: Attributes, version: str
) -> Encoder:
    """Return what writes requests as `protocol` wants them."""
    if protocol.startswith("file/"):
        from gateway.uplinks.file_records import FILE_JSON, FRAMES, RecordEncoder  # noqa: PLC0415  for who has files

        http = HTTP_JSON if protocol == FILE_JSON else HTTP_PROTOBUF
        inner = encoder_of(http, series=series, gateway_attributes=gateway_attributes, version=version)
        return RecordEncoder(inner, FRAMES[protocol])
    if protocol == HTTP_JSON:
        from gateway.codecs.otlp_json import JsonEncoder  # noqa: PLC0415  memory for those who want it

        return JsonEncoder(series=series, gateway_attributes=gateway_attributes, version=version)
    return ProtobufEncoder(series=series, gateway_attributes=gateway_attributes, version=version)


class RequestBuilder:
    """Makes parts of leases and bodies of parts. For one thread."""

    def __init__(self, *, timeline: Repair, encoder: Encoder, counts_series: bool = False) -> None:
        self._timeline = timeline
        self._counts_series = counts_series
        self._encoder = encoder
        self.empty = encoder.empty

    def open(self, hand: Hand) -> Sequence[Part]:
        """Fill `hand.parts` and return them; raise NoClockError, with nothing changed, while times are not known."""
        lease = hand.lease
        late = Marks(backfill=True) if lease.is_backfill else NO_MARKS
        rejected: dict[str, tuple[int, str]] = {}
        found: list[Part] = []
        # What came as messages and what the mappings made stand on one shelf, and leave in requests of their own.
        columns, messages = by_form(lease.segments)
        if messages:
            records = self._decode(messages, self._messages_of, rejected)
            if records:
                part = MessagesPart(ResourceRecords.join([some for _, some in records]), late)
                found += small_parts(part, self._encoder.messages_bytes_max)
        if columns and lease.signal is Signal.LOGS:
            logs = self._decode(columns, lambda segment: decode_logs(segment.body), rejected)
            found.append(LogsPart(LogRecords.join(some for _, some in logs), late))
        elif columns:
            step_s = lease.step_s
            by_marks = self._thin(columns, step_s, rejected) if step_s else self._by_marks(columns, rejected)
            groups = [
                (merge(pieces), Marks(lease.is_backfill, word, is_rejected, max(int(step_s), diluted_s)))
                for (word, is_rejected, diluted_s), pieces in sorted(by_marks.items())
            ]
            found.append(MetricsPart(groups))
            if self._counts_series:
                hand.series = sum(len(batch.run_starts()) for batch, _ in groups)
        for reason, (readings, message) in rejected.items():
            hand.reject(readings, reason, message)
        parts = [part for part in found if len(part)]
        hand.parts = deque(parts)
        return parts

    def encode(self, part: Part) -> bytes:
        """Return the request of a part."""
        if isinstance(part, MetricsPart):
            return self._encoder.metrics(part.groups)
        if isinstance(part, MessagesPart):
            return self._encoder.records(part.records, part.marks)
        assert isinstance(part, LogsPart)
        return self._encoder.logs(part.records, part.marks)

    def _messages_of(self, segment: LeasedSegment) -> ResourceRecords:
        records = decode_records(segment.body)
        try:
            self._encoder.check(records)
        except ValueError as error:
            raise SegmentError(str(error)) from error
        return records

    @staticmethod
    def _decode(
        segments: Sequence[LeasedSegment],
        decode: Callable[[LeasedSegment], _T],
        rejected: dict[str, tuple[int, str]],
    ) -> list[tuple[LeasedSegment, _T]]:
        found = []
        for segment in segments:
            try:
                found.append((segment, decode(segment)))
            except SegmentError as error:
                _add(rejected, DAMAGED, segment.readings, f"segment {segment.sequence}: {error}")
        return found

    def _thin(self, segments: Sequence[LeasedSegment], step_s: float, rejected: dict[str, tuple[int, str]]) -> ByMarks:
        """Return what stands for segments, by marks: some of them at a time, since a step may be long."""
        step_ns = int(step_s * NS_PER_S)
        thinned: ByMarks = {}
        for some in _portions(segments):
            for (word, is_rejected, diluted_s), pieces in self._by_marks(some, rejected).items():
                # What was diluted to a finer step on the shelf becomes what all else does.
                marks = word, is_rejected, diluted_s if diluted_s > step_s else 0
                kept = [*thinned.get(marks, []), thin(Batch.join(pieces), step_ns)]
                thinned[marks] = [thin(Batch.join(kept), step_ns)] if len(kept) > THINNED_PIECES_MAX else kept
        return {marks: [thin(Batch.join(pieces), step_ns)] for marks, pieces in thinned.items()}

    def _by_marks(self, segments: Sequence[LeasedSegment], rejected: dict[str, tuple[int, str]]) -> ByMarks:
        """Return readings with Unix times by how good these are, and the step at which the shelf has diluted them."""
        by_marks: ByMarks = {}
        for segment, batch in self._decode(segments, columns_of, rejected):
            # What came just now has not been diluted.
            diluted_s = read_header(segment.body).step_s if segment.readable is None else 0
            for word, is_rejected, piece in self._repair(segment.boot, batch, rejected):
                by_marks.setdefault((word, is_rejected, diluted_s), []).append(piece)
        return by_marks

    def _repair(
        self, boot: BootId, batch: Batch, rejected: dict[str, tuple[int, str]]
    ) -> list[tuple[str, bool, Batch]]:
        """Return readings with Unix times by how good these are, and whether their devices' times were rejected."""
        is_monotonic = (batch.flags & MONOTONIC) != 0
        if not is_monotonic.any():
            return [("", False, batch)]
        time_ns, quality = self._timeline.repair(batch.time_ns[is_monotonic], boot)
        own = batch.take(~is_monotonic)
        found = [("", False, own)] if len(own) else []
        if quality is Quality.UNKNOWN:
            if self._timeline.quality is Quality.UNKNOWN:
                raise NoClockError
            message = f"boot {boot} is not known any more, so nobody can say when it was"
            _add(rejected, TIME_LOST, len(time_ns), message)
            return found
        stamped = batch.take(is_monotonic)
        stamped = Batch(stamped.series, time_ns, stamped.bits, stamped.flags)
        word = _WORDS[quality]
        was_rejected = (stamped.flags & DEVICE_TIME_REJECTED) != 0
        if not was_rejected.any():
            return [*found, (word, False, stamped)]
        found += [(word or ARRIVAL, True, stamped.take(was_rejected))]
        rest = stamped.take(~was_rejected)
        return [*found, (word, False, rest)] if len(rest) else found


def _portions(segments: Sequence[LeasedSegment]) -> Iterator[list[LeasedSegment]]:
    """Return segments in groups of about so many readings as may be decoded at once."""
    portion: list[LeasedSegment] = []
    readings = 0
    for segment in segments:
        if portion and readings + segment.readings > DECODED_MAX:
            yield portion
            portion, readings = [], 0
        portion.append(segment)
        readings += segment.readings
    yield portion


def by_form(segments: Sequence[LeasedSegment]) -> tuple[list[LeasedSegment], list[LeasedSegment]]:
    """Return those of columns and those of OTLP messages; one that cannot be read is found out with the columns."""
    columns: list[LeasedSegment] = []
    messages: list[LeasedSegment] = []
    for segment in segments:
        try:
            is_messages = segment.readable is None and read_header(segment.body).form is Form.MESSAGES
        except SegmentError:
            is_messages = False
        (messages if is_messages else columns).append(segment)
    return columns, messages


def columns_of(segment: LeasedSegment) -> Batch:
    """Return the readings of a segment, as they stand in it."""
    return decode_metrics(segment.body) if segment.readable is None else segment.readable


def _add(rejected: dict[str, tuple[int, str]], reason: str, readings: int, message: str) -> None:
    rejected[reason] = (rejected.get(reason, (0, ""))[0] + readings, message)


def merge(pieces: Sequence[Batch]) -> Batch:
    """Return all readings by series and kind. Within one series the pieces' order stays: it is that of time.

    Sorting by one key that is already sorted in stretches is a merge, several times quicker than a full sort.
    """
    batch = Batch.join(pieces)
    kinds = batch.flags & np.uint8(KIND_MASK)
    key = (batch.series.astype(np.int64) << 2) | kinds
    batch = Batch(batch.series, batch.time_ns, batch.bits, kinds)
    if not (key[1:] < key[:-1]).any():
        return batch
    return batch.take(np.argsort(key, kind="stable"))
