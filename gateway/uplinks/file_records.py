"""Requests as records of a file: each is whole by itself, and a reader finds where the next one begins. No I/O.

| protocol      | a record                                                                                          |
| ------------- | ------------------------------------------------------------------------------------------------- |
| file/json     | one line of OTLP JSON, as `tidegate export` and the OpenTelemetry Collector's file exporter write it |
| file/protobuf | its length as a varint, then an Export…ServiceRequest: what protobuf's libraries call delimited   |

Compressed, each record is a gzip member or a zstd frame of its own. One behind the other they are a file that `zcat` or
`zstdcat` reads to the end, and one that was cut is read up to the last whole record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.codecs.protobuf import varint
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import LogRecords, ResourceRecords
    from gateway.uplinks.parts import Groups
    from gateway.uplinks.requests import Encoder

FILE_JSON: Final = "file/json"
FILE_PROTOBUF: Final = "file/protobuf"


def line(request: bytes) -> bytes:
    r"""Return a request as a line.

    >>> line(b'{"resourceMetrics":[]}')
    b'{"resourceMetrics":[]}\n'
    """
    return request + b"\n"


def delimited(request: bytes) -> bytes:
    r"""Return a request with its length before it.

    >>> delimited(b"abc")
    b'\x03abc'
    """
    return varint(len(request)) + request


FRAMES: Final[dict[str, Callable[[bytes], bytes]]] = {FILE_JSON: line, FILE_PROTOBUF: delimited}


class RecordEncoder:
    """An `Encoder` whose requests are records."""

    def __init__(self, encoder: Encoder, frame: Callable[[bytes], bytes]) -> None:
        self._encoder = encoder
        self._frame = frame
        # Nobody answers to an empty one.
        self.empty = dict.fromkeys(Signal, b"")
        self.messages_bytes_max = encoder.messages_bytes_max

    def metrics(self, groups: Groups, /) -> bytes:
        """Return one record of readings, in order of series and kind."""
        return self._frame(self._encoder.metrics(groups))

    def logs(self, records: LogRecords, marks: Marks, /) -> bytes:
        """Return one record of log records."""
        return self._frame(self._encoder.logs(records, marks))

    def records(self, records: ResourceRecords, marks: Marks, /) -> bytes:
        """Return one record of OTLP messages that are passed on."""
        return self._frame(self._encoder.records(records, marks))

    def check(self, records: ResourceRecords, /) -> None:
        """Raise ValueError for messages of which no request can be made."""
        self._encoder.check(records)
