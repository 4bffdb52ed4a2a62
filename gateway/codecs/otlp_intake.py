"""A request that a program sends: is it well-formed, what can be kept of it. For who has such a source; does no I/O.

Whatever is taken must be takeable by everybody upstream, for it leaves as it came. So the official classes read it
first: that costs half a microsecond for a log record, UTF-8 included, and five megabytes when they are imported. What
they make of it is thrown away. Two bytes may stand for an object of a hundred, so large messages are read a part at a
time: any run of a message's fields is a message of the same kind.
"""

from __future__ import annotations

import codecs
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.codecs import protobuf
from gateway.codecs.otlp_messages import PATHS, count, cut_to_fit
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

_DESCRIPTORS: Final[dict[Signal, Descriptor]] = {
    Signal.METRICS: ExportMetricsServiceRequest.DESCRIPTOR,
    Signal.LOGS: ExportLogsServiceRequest.DESCRIPTOR,
    Signal.TRACES: ExportTraceServiceRequest.DESCRIPTOR,
}
# So much is read at a time: at worst it becomes seventy times as much.
READ_BYTES_MAX: Final = 128 * 1024
# As deep as the official classes read.
DEPTH_MAX: Final = 100
# What is kept as one message, and what of it may stand beside its readings: a resource is on every piece of it.
MESSAGE_BYTES_MAX: Final = 1 << 20
MESSAGE_READINGS_MAX: Final = 1 << 16
READINGS_MAX: Final = 1 << 17
MESSAGES_MAX: Final = 1 << 14
BESIDE_BYTES_MAX: Final = 64 * 1024


class TooManyError(Exception):
    """A request holds more readings than are taken at once."""


@dataclass(slots=True)
class Taken:
    """What can be kept of a request: whole messages, how many readings each holds, and how many are too large."""

    bodies: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    oversize: int = 0

    def __len__(self) -> int:
        return sum(self.counts)


def open_request(body: bytes, signal: Signal) -> Taken:
    """Return what can be kept of an export request in protobuf; raise ValueError where it is not well-formed.

    Raises TooManyError for more readings or resources than anybody has to send at once: of two bytes each they would
    be millions.

    Fields of the request itself beside its messages are of no version so far, and would have nowhere to stand.
    """
    path = PATHS[signal]
    if (messages := protobuf.count(body, 0, len(body), 1)) > MESSAGES_MAX:
        raise TooManyError(f"{messages} resources in one request; at most {MESSAGES_MAX} are taken")
    readings = array("L", (count(message, path) for message in protobuf.messages(body, 1)))
    if sum(readings) > READINGS_MAX:
        raise TooManyError(f"{sum(readings)} in one request; at most {READINGS_MAX} are taken")
    _read(_DESCRIPTORS[signal], body, 0, len(body), DEPTH_MAX)
    taken = Taken()
    for message, holds in zip(protobuf.messages(body, 1), readings, strict=True):
        if not holds:
            # There is nothing in it that anybody would account for.
            continue
        if holds <= MESSAGE_READINGS_MAX and len(message) <= MESSAGE_BYTES_MAX:
            taken.bodies.append(message)
            taken.counts.append(holds)
            continue
        pieces = cut_to_fit(
            message,
            path,
            bytes_max=MESSAGE_BYTES_MAX,
            readings_max=MESSAGE_READINGS_MAX,
            beside_bytes_max=BESIDE_BYTES_MAX,
        )
        taken.oversize += pieces.oversize
        taken.bodies += [piece.body for piece in pieces.kept]
        taken.counts += [piece.readings for piece in pieces.kept]
    return taken


def _read(kind: Descriptor, data: bytes, at: int, end: int, depth: int) -> None:
    """Read a message by its class and forget it; raise ValueError."""
    if end - at <= READ_BYTES_MAX:
        _read_whole(kind, data[at:end])
        return
    if not depth:
        raise ValueError(f"more than {DEPTH_MAX} messages inside each other")
    for start, stop in protobuf.runs(data, at, end, READ_BYTES_MAX):
        if stop - start <= READ_BYTES_MAX:
            _read_whole(kind, data[start:stop])
            continue
        number, wire_type, _, inside, _ = next(protobuf.spans(data, start, stop))
        if wire_type == protobuf.LENGTH_DELIMITED:
            _read_field(kind.fields_by_number.get(number), data, inside, stop, depth - 1)


def _read_field(known: FieldDescriptor | None, data: bytes, at: int, end: int, depth: int) -> None:
    if known is None or known.type == FieldDescriptor.TYPE_BYTES:
        return
    if known.message_type is not None:
        _read(known.message_type, data, at, end, depth)
    elif known.type == FieldDescriptor.TYPE_STRING:
        _read_text(data, at, end)
    else:
        # Numbers, packed: eight bytes each at most.
        assert known.containing_type is not None, "no extension"
        _read_whole(known.containing_type, protobuf.delimited(known.number, data[at:end]))


def _read_text(data: bytes, at: int, end: int) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while at < end:
        stop = min(at + READ_BYTES_MAX, end)
        decoder.decode(data[at:stop], final=stop == end)
        at = stop


def _read_whole(kind: Descriptor, data: bytes) -> None:
    try:
        GetMessageClass(kind).FromString(data)
    except DecodeError as error:
        raise ValueError(f"this is no {kind.name} of opentelemetry-proto: {error}") from error
