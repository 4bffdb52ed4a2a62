"""gRPC's own words around OTLP: a message's prefix, statuses with their details, deadlines. Must not know HTTP/2.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md says what stands in headers and in front of a message,
google/rpc/status.proto and error_details.proto what may stand in `grpc-status-details-bin`:

    message   flag (1 byte: 1 is compressed) │ length (4 bytes, the highest first) │ the message
    details   google.rpc.Status { 1: code, 2: message, 3: Any … }
              Any { 1: type_url, 2: RetryInfo { 1: Duration { 1: seconds, 2: nanos } } }
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gateway.codecs import protobuf
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Mapping

METHODS: Final = {
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
CONTENT_TYPE: Final = "application/grpc"
PREFIX_BYTES: Final = 5
RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
DETAILS: Final = "grpc-status-details-bin"
# The same RetryInfo by itself: OpenTelemetry's SDK for Python looks nowhere else.
RETRY_ALONE: Final = "google.rpc.retryinfo-bin"
# What a server sends in one header at most; a longer one is none of ours.
DETAILS_CHARS_MAX: Final = 16 * 1024
MESSAGE_CHARS_MAX: Final = 1024
_PREFIX: Final = struct.Struct(">BI")
_TYPE: Final = re.compile(r"application/grpc(\+proto)?")
_CODE: Final = re.compile(r"[0-9]{1,3}")
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_NS_PER_S: Final = 1_000_000_000
# Of a percent-encoded message what stands for itself: all that can be seen but the percent sign.
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Code(IntEnum):
    """google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended. `retry_s` is what RetryInfo asks to wait, None where it says nothing."""

    code: int
    message: str = ""
    retry_s: float | None = None

    @property
    def name(self) -> str:
        """What people call the code."""
        return Code(self.code).name if self.code in Code._value2member_map_ else f"status {self.code}"


def prefix(size_bytes: int, *, is_compressed: bool) -> bytes:
    """Return what stands before a message.

    >>> prefix(300, is_compressed=True).hex()
    '010000012c'
    """
    return _PREFIX.pack(is_compressed, size_bytes)


class Unframer:
    """Reads the one message of a unary call, piece by piece as it comes. `size_bytes` is its length once that is known.

    >>> unframer, sent = Unframer(bytes_max=10), prefix(2, is_compressed=False) + b"hi"
    >>> [unframer.feed(piece) for piece in (sent[:3], sent[3:6], sent[6:])], unframer.is_whole
    ([b'', b'h', b'i'], True)
    """

    def __init__(self, *, bytes_max: int) -> None:
        self.is_compressed = False
        self.size_bytes: int | None = None
        self._bytes_max = bytes_max
        self._head = b""
        self._left = 0

    def feed(self, piece: bytes) -> bytes:
        """Return what of the message is in it; raise ValueError for what is no message, OverflowError for a long one.

        That is known by its first bytes, before any of it is there.
        """
        if self.size_bytes is None:
            missing = PREFIX_BYTES - len(self._head)
            self._head += piece[:missing]
            piece = piece[missing:]
            if len(self._head) < PREFIX_BYTES:
                return b""
            flag, size_bytes = _PREFIX.unpack(self._head)
            if flag > 1:
                raise ValueError(f"a message begins with 0 or 1, not with {flag}")
            self.is_compressed, self.size_bytes, self._left = bool(flag), size_bytes, size_bytes
            if size_bytes > self._bytes_max:
                raise OverflowError(f"a message of {size_bytes} bytes, {self._bytes_max} at most")
        if len(piece) > self._left:
            raise ValueError("there is more than one message")
        self._left -= len(piece)
        return piece

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return self.size_bytes is not None and not self._left


def is_grpc(content_type: str) -> bool:
    """Return whether a Content-Type is gRPC's, with messages in protobuf.

    >>> is_grpc("application/grpc+proto"), is_grpc("application/grpc+json"), is_grpc("application/grpc-web")
    (True, False, False)
    """
    return _TYPE.fullmatch(content_type.partition(";")[0].strip().lower()) is not None


def read_status(headers: Mapping[str, str]) -> Status | None:
    """Return the status in trailers; None where there is none.

    Details are believed where they can be read: an answer is no worse for what is odd in them.

    >>> read_status({"grpc-status": "14", "grpc-message": "try%20later"})
    Status(code=14, message='try later', retry_s=None)
    """
    code = headers.get("grpc-status", "").strip()
    if not _CODE.fullmatch(code):
        return None
    message = unquote_to_bytes(headers.get("grpc-message", "")[: 3 * MESSAGE_CHARS_MAX]).decode("utf-8", "replace")
    return Status(int(code), _one_line(message), _retry_s(headers.get(DETAILS, "")))


def write_status(code: Code, message: str = "", retry_s: float | None = None) -> list[tuple[str, str]]:
    """Return the trailers for a status.

    >>> write_status(Code.OK)
    [('grpc-status', '0')]
    """
    trailers = [("grpc-status", str(int(code)))]
    if message:
        said = message[:MESSAGE_CHARS_MAX]
        trailers.append(("grpc-message", quote_from_bytes(said.encode("utf-8", "replace"), safe=_PLAIN)))
    if retry_s is not None:
        nanos = round(max(retry_s, 0.0) * _NS_PER_S)
        duration = protobuf.integer(1, nanos // _NS_PER_S) + protobuf.integer(2, nanos % _NS_PER_S)
        alone = protobuf.delimited(1, duration)
        retry_info = protobuf.text(1, RETRY_INFO) + protobuf.delimited(2, alone)
        details = protobuf.integer(1, int(code)) + protobuf.text(2, message[:MESSAGE_CHARS_MAX])
        details += protobuf.delimited(3, retry_info)
        trailers += [(name, _in_base64(value)) for name, value in ((DETAILS, details), (RETRY_ALONE, alone))]
    return trailers


def _in_base64(value: bytes) -> str:
    """Return what stands in a header of bytes, without its padding, as the protocol prefers it."""
    return base64.b64encode(value).decode("ascii").rstrip("=")


def _retry_s(text: str) -> float | None:
    """Return the seconds of a RetryInfo among a status' details."""
    # Headers of one name may come joined by commas; a status is said once.
    text = text.partition(",")[0].strip()
    if not text or len(text) > DETAILS_CHARS_MAX:
        return None
    try:
        details = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
        for packed in protobuf.messages(details, 3):
            kind = b"".join(protobuf.messages(packed, 1))
            if kind.endswith(b"/google.rpc.RetryInfo"):
                return _seconds(b"".join(protobuf.messages(b"".join(protobuf.messages(packed, 2)), 1)))
    except (ValueError, binascii.Error):
        pass
    return None


def _seconds(duration: bytes) -> float:
    found = {1: 0, 2: 0}
    for number, wire_type, value in protobuf.fields(duration):
        if number in found and wire_type == protobuf.VARINT and isinstance(value, int):
            found[number] = protobuf.signed(value)
    return max(0.0, found[1] + found[2] / _NS_PER_S)


def timeout_header(seconds: float) -> str:
    """Return a deadline as `grpc-timeout` has it: eight digits at most, never nothing.

    >>> timeout_header(1.5), timeout_header(0), timeout_header(1e9)
    ('1500m', '1m', '99999999S')
    """
    milliseconds = max(1, int(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(int(seconds), 10**8 - 1)}S"


def read_timeout(value: str) -> float | None:
    """Return the seconds of a `grpc-timeout`; None where it says none.

    >>> read_timeout("250m"), read_timeout("soon")
    (0.25, None)
    """
    found = _TIMEOUT.fullmatch(value.strip())
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def _one_line(message: str) -> str:
    """Return what the far side says, printable: it goes into status, logs and the drawer of what was refused."""
    return " ".join("".join(c if c.isprintable() else " " for c in message[:MESSAGE_CHARS_MAX]).split())
