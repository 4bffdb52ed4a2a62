"""Sealed batches: versioned header, compressed columns, checksum, hash of the one before. Does no I/O.

A segment is one row of the store and one unit of what is sent, kept and given up. All is little-endian:

| offset | size | field                                                                                   |
| ------ | ---- | --------------------------------------------------------------------------------------- |
| 0      | 4    | magic, always b"TGS1"                                                                   |
| 4      | 1    | version of the format: 1, or 2 where an origin is told                                  |
| 5      | 1    | signal: 0 metrics, 1 logs, 2 traces                                                     |
| 6      | 2    | form: 0 columns of readings or log records, 1 OTLP messages, 2 columns written anew     |
| 8      | 8    | sequence, starts at 1                                                                   |
| 16     | 4    | boot: whose monotonic clock unrepaired times are of; 0 unknown                          |
| 20     | 4    | readings (or log records, or spans), at least 1                                         |
| 24     | 8    | earliest time as it stands in the column, ns: Unix or the boot's monotonic              |
| 32     | 8    | latest time                                                                             |
| 40     | 16   | hash of the segment before: BLAKE2b of all of its bytes; 16 zeros for the very first    |
| 56     | 4    | bytes of the columns                                                                    |
| 60     | 4    | bytes of the columns as compressed                                                      |
| 64     | 4    | CRC-32 of all bytes but these four                                                      |
| 68     |      | one zstd frame: the columns of store/columns, or those below                            |

In version 2 the origin stands in 4 bytes more before the CRC: a number for what made the readings (store/taking). Only
segments of which it is told have that version.

Columns of log records, as in store/integers: signed, series; signed, times; unsigned, lengths; the bodies.

Of form 1, for all three signals, whole ResourceMetrics, ResourceLogs or ResourceSpans messages of
opentelemetry-proto as somebody sent them: a varint, how many; unsigned, how many readings each holds; signed, Unix
times of arrival (0: no clock); unsigned, lengths; the messages. What stands in them is not looked at here.

Of form 2, metrics only, are columns that took the place of one segment or of several of one class that followed each
other (store/diluting.py). Between header and frame they say of which, at offsets from the end of the header:

| offset | size | field                                                                                   |
| ------ | ---- | --------------------------------------------------------------------------------------- |
| 0      | 16   | hash of the first one as it was when it came: what the segment after that one carries   |
| 16     | 16   | hash of the segment that was written anew before this one; 16 zeros for the very first  |
| 32     | 8    | number among all that were written anew, starts at 1                                    |
| 40     | 8    | sequence of the last one                                                                |
| 48     | 8    | how many readings all of them had when they came                                        |
| 56     | 4    | step in s, of which the first, least, greatest and last reading of a series are left; 0: all are |

Its sequence and the hash in its header are the first one's. So the chain goes through it as it did before, and what was
written anew is a chain of its own, whose end the state row knows: one that says so of itself and stands in no place of
that chain was not written by the store.

Nothing that is read is believed: every length is bounded before anything of that length is made, and whatever
does not fit raises SegmentError.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs import zstd
from gateway.core.batch import Batch, LogRecords, ResourceRecords, distinct
from gateway.core.contracts import BootId, Signal
from gateway.store import columns, handful
from gateway.store.integers import Reader, SegmentError, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gateway.store.integers import Part

__all__ = [
    "FIRST_HASH",
    "FORMAT_VERSION",
    "FRONT_BYTES_MAX",
    "HEADER_BYTES",
    "HEADER_BYTES_MAX",
    "LOG_BYTES_MAX",
    "ORIGIN_VERSION",
    "READINGS_MAX",
    "Ancestors",
    "Form",
    "Pressed",
    "SegmentError",
    "SegmentHeader",
    "check_link",
    "decode",
    "decode_logs",
    "decode_metrics",
    "decode_records",
    "encode_logs",
    "encode_metrics",
    "link_hash",
    "press_logs",
    "press_metrics",
    "press_records",
    "read_header",
    "segment_hash",
]

FORMAT_VERSION: Final = 1
ORIGIN_VERSION: Final = 2
"""What has an origin: whoever knows none reads the rest as ever."""
MAGIC: Final = b"TGS1"
LEVEL: Final = 1
"""What is left after the columns is mostly noise. On the batches of gateway/bench/segments.py levels 2 to 12 make most
segments 3 to 8 % larger, and 15 and more make them up to 8 % smaller in 2 to 10 times the time: of what a commit costs
the card, less than 1 %. So no board has a reason for another."""
HEADER_BYTES: Final = 68
HEADER_BYTES_MAX: Final = 72
"""With an origin."""
HASH_BYTES: Final = 16
FIRST_HASH: Final = bytes(HASH_BYTES)
"""What stands for the hash of the segment before the very first one."""
READINGS_MAX: Final = 1 << 18
"""Readings or log records in one segment. Decoded they take 21 bytes each, and while decoding some 60."""
LOG_BYTES_MAX: Final = 16 << 20
"""Bytes of all bodies of one segment of logs, or of OTLP messages."""

# At worst runs of one reading each and nothing fits: 8 bytes each for series, flags, count, time, first, and
# for an exception and its position.
_COLUMN_BYTES_MAX: Final = 64
_PART_BYTES_MIN: Final = 256
# Of small segments each byte counts and time does not: both ways are tried.
_TRY_BYTES_MAX: Final = 1 << 14
_LAYOUT: Final = struct.Struct("<4sBBHQIIqq16sII")
_CRC: Final = struct.Struct("<I")
_ORIGIN: Final = struct.Struct("<I")
assert _LAYOUT.size + _CRC.size == HEADER_BYTES
_ANCESTORS: Final = struct.Struct("<16s16sQQQI")
FRONT_BYTES_MAX: Final = HEADER_BYTES_MAX + _ANCESTORS.size
"""What stands before the columns at most: so much of a body is enough for `read_header`."""


class Form(IntEnum):
    """What a segment is made of."""

    COLUMNS = 0
    MESSAGES = 1
    REWRITTEN = 2


# Traces are kept as they came, and in no other way.
_KNOWN: Final = frozenset(
    {
        (Form.COLUMNS, Signal.METRICS),
        (Form.COLUMNS, Signal.LOGS),
        (Form.REWRITTEN, Signal.METRICS),
        *((Form.MESSAGES, signal) for signal in Signal),
    }
)
_READINGS_FORMS: Final = frozenset({Form.COLUMNS, Form.REWRITTEN})


@dataclass(frozen=True, slots=True)
class Ancestors:
    """What a segment that was written anew says of those whose place it has taken."""

    hash: bytes
    previous_hash: bytes
    number: int
    last_sequence: int
    readings: int
    step_s: int


@dataclass(frozen=True, slots=True, repr=False)
class SegmentHeader:
    """What a segment says of itself. Times are ns as they stand in the column, Unix or monotonic."""

    signal: Signal
    sequence: int
    boot: BootId
    readings: int
    first_ns: int
    last_ns: int
    previous_hash: bytes
    columns_bytes: int
    body_bytes: int
    crc32: int
    form: Form = Form.COLUMNS
    origin: int = 0
    ancestors: Ancestors | None = None

    @property
    def header_bytes(self) -> int:
        """How long this header is."""
        return HEADER_BYTES_MAX if self.origin else HEADER_BYTES

    @property
    def step_s(self) -> int:
        """At which step in seconds its readings were thinned; 0: all of them are there."""
        return self.ancestors.step_s if self.ancestors is not None else 0

    @property
    def front_bytes(self) -> int:
        """How much stands before the columns."""
        return self.header_bytes + (0 if self.ancestors is None else _ANCESTORS.size)

    def __repr__(self) -> str:
        return (
            f"<segment {self.sequence}: {self.readings} {self.signal.name.lower()} of boot {self.boot}, "
            f"{self.first_ns} to {self.last_ns} ns, {self.front_bytes + self.body_bytes} bytes, "
            f"after {self.previous_hash.hex()[:8]}>"
        )


@dataclass(frozen=True, slots=True)
class Pressed:
    """A segment that has no place yet: its columns, compressed, and what its header will say of them.

    `series` are the numbers of all series in it, each once and in order. `readable` is what `decode_metrics` would make
    of it, where that was at hand.
    """

    signal: Signal
    readings: int
    first_ns: int
    last_ns: int
    columns_bytes: int
    body: bytes
    series: npt.NDArray[np.uint32]
    readable: Batch | None = None
    form: Form = Form.COLUMNS
    origin: int = 0

    def seal(self, *, sequence: int, boot: BootId, previous_hash: bytes, ancestors: Ancestors | None = None) -> bytes:
        """Return the segment at its place in the chain; with `ancestors` in that of those that it stands for."""
        assert sequence >= 1, sequence
        assert len(previous_hash) == HASH_BYTES, previous_hash
        form, told = self.form, b""
        if ancestors is not None:
            assert form is Form.COLUMNS
            form, told = Form.REWRITTEN, _ANCESTORS.pack(*astuple(ancestors))
        head = _LAYOUT.pack(
            *(
                MAGIC,
                ORIGIN_VERSION if self.origin else FORMAT_VERSION,
                self.signal,
                form,
                sequence,
                boot,
                self.readings,
                self.first_ns,
                self.last_ns,
            ),
            *(previous_hash, self.columns_bytes, len(self.body)),
        )
        if self.origin:
            head += _ORIGIN.pack(self.origin)
        rest = told + self.body
        return b"".join((head, _CRC.pack(zlib.crc32(rest, zlib.crc32(head))), rest))


def press_metrics(batch: Batch, *, level: int = LEVEL) -> Pressed:
    """Compress 1 to READINGS_MAX readings, in any order; what comes back is `batch.sorted()`, bit by bit."""
    assert 1 <= len(batch) <= READINGS_MAX, len(batch)
    few = handful.encode(batch) if len(batch) <= handful.READINGS_MAX else None
    if few is not None:
        body = zstd.compress(few.content, level=level)
        series = np.array(few.series, np.uint32)
        times = few.first_ns, few.last_ns
        ordered = batch.take(np.array(few.order))
        size = len(few.content)
        return Pressed(Signal.METRICS, len(batch), *times, size, body, series, ordered, origin=batch.origin)
    batch = batch.sorted()
    times = int(batch.time_ns.min()), int(batch.time_ns.max())
    body, content_bytes = _compress(columns.encode(batch), level=level)
    series = distinct(batch.series, is_ordered=True)
    return Pressed(Signal.METRICS, len(batch), *times, content_bytes, body, series, origin=batch.origin)


def encode_metrics(batch: Batch, *, sequence: int, boot: BootId, previous_hash: bytes, level: int = LEVEL) -> bytes:
    """Press and seal in one go."""
    return press_metrics(batch, level=level).seal(sequence=sequence, boot=boot, previous_hash=previous_hash)


def encode_logs(records: LogRecords, *, sequence: int, boot: BootId, previous_hash: bytes, level: int = LEVEL) -> bytes:
    """Press and seal in one go."""
    return press_logs(records, level=level).seal(sequence=sequence, boot=boot, previous_hash=previous_hash)


def press_logs(records: LogRecords, *, level: int = LEVEL) -> Pressed:
    """Compress 1 to READINGS_MAX log records of LOG_BYTES_MAX bytes together, in their order."""
    assert 1 <= len(records) <= READINGS_MAX, len(records)
    assert sum(map(len, records.bodies)) <= LOG_BYTES_MAX, "too many bytes of log records for one segment"
    writer = Writer()
    writer.signed(records.series.astype(np.int64))
    writer.signed(records.time_ns)
    writer.unsigned(np.fromiter(map(len, records.bodies), np.uint64, len(records)))
    writer.raw(b"".join(records.bodies))
    times = int(records.time_ns.min()), int(records.time_ns.max())
    body, content_bytes = _compress(writer.parts, level=level)
    series = distinct(records.series)
    return Pressed(Signal.LOGS, len(records), *times, content_bytes, body, series, origin=records.origin)


def press_records(records: ResourceRecords, *, level: int = LEVEL) -> Pressed:
    """Compress OTLP messages of 1 to READINGS_MAX readings and LOG_BYTES_MAX bytes together, in their order."""
    readings = len(records)
    assert 1 <= readings <= READINGS_MAX, readings
    assert records.counts.min() >= 1, "a message without a reading is nothing to keep"
    assert records.size_bytes <= LOG_BYTES_MAX, "too many bytes of messages for one segment"
    writer = Writer()
    writer.varint(len(records.bodies))
    writer.unsigned(records.counts.astype(np.uint64))
    writer.signed(records.time_ns)
    writer.unsigned(np.fromiter(map(len, records.bodies), np.uint64, len(records.bodies)))
    writer.raw(b"".join(records.bodies))
    times = int(records.time_ns.min()), int(records.time_ns.max())
    body, content_bytes = _compress(writer.parts, level=level)
    return Pressed(records.signal, readings, *times, content_bytes, body, records.series, form=Form.MESSAGES)


def read_header(data: bytes) -> SegmentHeader:
    """Return what stands before the columns, without checking these; raise SegmentError."""
    if len(data) < HEADER_BYTES:
        raise SegmentError(f"a segment has at least {HEADER_BYTES} bytes, this has {len(data)}")
    fields = _LAYOUT.unpack_from(data)
    magic, version, signal, form, sequence, boot, readings, first, last, previous, size, stored = fields
    if magic != MAGIC:
        raise SegmentError(f"not a segment: it begins with {magic!r} instead of {MAGIC!r}")
    if version not in {FORMAT_VERSION, ORIGIN_VERSION}:
        raise SegmentError(f"this segment has format version {version}, and only 1 and 2 are known here")
    if (form, signal) not in _KNOWN:
        raise SegmentError(f"a segment of signal {signal} is not known here in form {form}")
    if not 1 <= readings <= READINGS_MAX:
        raise SegmentError(f"a segment has 1 to {READINGS_MAX} readings, this says {readings}")
    if sequence < 1:
        raise SegmentError("the sequence of segments starts at 1, this says 0")
    (crc32,) = _CRC.unpack_from(data, _LAYOUT.size)
    origin = 0
    if version == ORIGIN_VERSION:
        if len(data) < HEADER_BYTES_MAX:
            raise SegmentError(f"a segment with an origin has at least {HEADER_BYTES_MAX} bytes, this has {len(data)}")
        origin, (crc32,) = crc32, _CRC.unpack_from(data, HEADER_BYTES)
        if not origin:
            raise SegmentError("this segment is to tell its origin, and tells none")
    start = HEADER_BYTES_MAX if origin else HEADER_BYTES
    return SegmentHeader(
        *(Signal(signal), sequence, BootId(boot), readings, first, last, previous, size, stored, crc32, Form(form)),
        origin=origin,
        ancestors=_read_ancestors(data, start, sequence, readings) if form == Form.REWRITTEN else None,
    )


def _read_ancestors(data: bytes, start: int, sequence: int, readings: int) -> Ancestors:
    least = start + _ANCESTORS.size
    if len(data) < least:
        raise SegmentError(f"a segment that was written anew has at least {least} bytes, this has {len(data)}")
    ancestors = Ancestors(*_ANCESTORS.unpack_from(data, start))
    if ancestors.number < 1 or ancestors.last_sequence < sequence or ancestors.readings < readings:
        raise SegmentError(f"segment {sequence} cannot stand for what it says that it does")
    if not ancestors.step_s and ancestors.readings != readings:
        raise SegmentError(f"segment {sequence} has {readings} readings and says that {ancestors.readings} are there")
    return ancestors


def decode(data: bytes) -> Batch | LogRecords | ResourceRecords:
    """Return what a segment holds, whatever that is; raise SegmentError for any damage."""
    header = read_header(data)
    if header.form is Form.MESSAGES:
        return decode_records(data)
    return decode_logs(data) if header.signal is Signal.LOGS else decode_metrics(data)


def decode_metrics(data: bytes) -> Batch:
    """Return the readings of a segment in sorted order; raise SegmentError for any damage."""
    header = read_header(data)
    form = header.form if header.form in _READINGS_FORMS else Form.COLUMNS
    content = _unseal(data, header, Signal.METRICS, form=form, bytes_max=(header.readings + 1) * _COLUMN_BYTES_MAX)
    return columns.decode(content, readings=header.readings)


def decode_logs(data: bytes) -> LogRecords:
    """Return the log records of a segment in their order; raise SegmentError for any damage."""
    header = read_header(data)
    bytes_max = (header.readings + 1) * _COLUMN_BYTES_MAX + LOG_BYTES_MAX
    reader = Reader(_unseal(data, header, Signal.LOGS, bytes_max=bytes_max))
    series = reader.signed(header.readings)
    if series.min() < 0 or series.max() > columns.SERIES_MAX:
        raise SegmentError("a log record has a series out of range")
    time_ns = reader.signed(header.readings)
    lengths = reader.unsigned(header.readings)
    if lengths.max() > LOG_BYTES_MAX or int(lengths.sum()) > LOG_BYTES_MAX:
        raise SegmentError(f"the log records have more than {LOG_BYTES_MAX} bytes")
    bodies = bytes(reader.raw(int(lengths.sum())))
    reader.close()
    return LogRecords(series.astype(np.uint32), time_ns, _cut(bodies, lengths))


def decode_records(data: bytes) -> ResourceRecords:
    """Return the OTLP messages of a segment in their order; raise SegmentError for any damage."""
    header = read_header(data)
    bytes_max = (header.readings + 1) * _COLUMN_BYTES_MAX + LOG_BYTES_MAX
    reader = Reader(_unseal(data, header, header.signal, form=Form.MESSAGES, bytes_max=bytes_max))
    messages = reader.varint()
    if not 1 <= messages <= header.readings:
        raise SegmentError(f"{header.readings} readings cannot stand in {messages} messages")
    counts = reader.unsigned(messages)
    # One by one first: their sum may be more than fits.
    if counts.min() < 1 or counts.max() > READINGS_MAX or int(counts.sum()) != header.readings:
        raise SegmentError(f"the messages do not hold the {header.readings} readings that the header says")
    time_ns = reader.signed(messages)
    lengths = reader.unsigned(messages)
    if lengths.max() > LOG_BYTES_MAX or int(lengths.sum()) > LOG_BYTES_MAX:
        raise SegmentError(f"the messages have more than {LOG_BYTES_MAX} bytes")
    bodies = bytes(reader.raw(int(lengths.sum())))
    reader.close()
    return ResourceRecords(header.signal, counts.astype(np.int64), time_ns, _cut(bodies, lengths))


def _cut(bodies: bytes, lengths: npt.NDArray[np.uint64]) -> tuple[bytes, ...]:
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    starts = [0, *ends[:-1]]
    return tuple(bodies[start:end] for start, end in zip(starts, ends, strict=True))


def segment_hash(data: bytes) -> bytes:
    """Return the hash of a segment's bytes, which the next one that is written carries as `previous_hash`."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def link_hash(data: bytes, header: SegmentHeader) -> bytes:
    """Return what the segment after this one carries as `previous_hash`, written anew or not."""
    return segment_hash(data) if header.ancestors is None else header.ancestors.hash


def check_link(previous_hash: bytes, data: bytes) -> None:
    """Raise SegmentError unless `data` is whole and follows the segment of that hash.

    `previous_hash` is `segment_hash` of the one before, or FIRST_HASH.
    """
    header = read_header(data)
    _check_whole(data, header)
    if header.previous_hash != previous_hash:
        raise SegmentError(
            f"segment {header.sequence} follows {header.previous_hash.hex()}, "
            f"and what stands before it is {previous_hash.hex()}"
        )


def _compress(parts: Sequence[Part], *, level: int) -> tuple[bytes, int]:
    """Return one frame, and how many bytes it holds. Large parts have codes of their own."""
    content = b"".join(parts)
    joined: list[bytes] = []
    start = end = 0
    for part in parts:
        if len(part) >= _PART_BYTES_MIN:
            if start < end:
                joined.append(content[start:end])
            joined.append(content[end : end + len(part)])
            start = end + len(part)
        end += len(part)
    joined.append(content[start:])
    body = zstd.compress_parts(joined, level=level)
    if len(content) <= _TRY_BYTES_MAX:
        body = min(body, zstd.compress(content, level=level), key=len)
    return body, len(content)


def _check_whole(data: bytes, header: SegmentHeader) -> None:
    start, promised = header.header_bytes, header.front_bytes + header.body_bytes
    if len(data) != promised:
        raise SegmentError(f"segment {header.sequence} has {len(data)} bytes where its header says {promised}")
    view = memoryview(data)
    if zlib.crc32(view[start:], zlib.crc32(view[: start - _CRC.size])) != header.crc32:
        raise SegmentError(f"segment {header.sequence} is damaged: its checksum does not match")


def _unseal(data: bytes, header: SegmentHeader, signal: Signal, *, bytes_max: int, form: Form = Form.COLUMNS) -> bytes:
    """Check everything that can be checked before the columns are read; return them."""
    if header.signal is not signal:
        raise SegmentError(f"segment {header.sequence} holds {header.signal.name.lower()}, not {signal.name.lower()}")
    if header.form is not form:
        raise SegmentError(f"segment {header.sequence} holds {header.form.name.lower()}, not {form.name.lower()}")
    _check_whole(data, header)
    if header.columns_bytes > bytes_max:
        raise SegmentError(f"segment {header.sequence} says that it holds {header.columns_bytes} bytes of columns")
    try:
        content = zstd.decompress(data[header.front_bytes :], bytes_max=header.columns_bytes)
    except ValueError as error:
        raise SegmentError(f"segment {header.sequence} cannot be decompressed: {error}") from error
    if len(content) != header.columns_bytes:
        raise SegmentError(
            f"segment {header.sequence} holds {len(content)} bytes of columns, not {header.columns_bytes}"
        )
    return content
