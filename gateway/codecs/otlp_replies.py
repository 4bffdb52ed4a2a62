"""What a receiver of OTLP answers, in protobuf or JSON: taken, taken in part, or why not. Does no I/O.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response: an Export*ServiceResponse with a 200, and a
google.rpc.Status with all else, in the content type of the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.codecs import protobuf
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_REJECTED: Final = {
    Signal.METRICS: "rejectedDataPoints",
    Signal.LOGS: "rejectedLogRecords",
    Signal.TRACES: "rejectedSpans",
}
# The codes of google/rpc/code.proto that an HTTP status stands for.
INVALID_ARGUMENT: Final = 3
INTERNAL: Final = 13
_CODES: Final[Mapping[int, int]] = {
    401: 16,  # UNAUTHENTICATED
    404: 12,  # UNIMPLEMENTED
    405: 12,
    408: 4,  # DEADLINE_EXCEEDED
    413: 8,  # RESOURCE_EXHAUSTED
    429: 8,
    501: 12,
    503: 14,  # UNAVAILABLE
}


def success(signal: Signal, content_type: str, *, rejected: int = 0, message: str = "") -> bytes:
    """Return the answer to a request that was taken, but for `rejected` readings of it.

    >>> success(Signal.LOGS, JSON, rejected=2, message="too large").decode()
    '{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too large"}}'
    """
    if content_type == JSON:
        partial = {_REJECTED[signal]: str(rejected), "errorMessage": message}
        return msgspec.json.encode({"partialSuccess": partial} if rejected else {})
    if not rejected:
        return b""
    return protobuf.delimited(1, protobuf.integer(1, rejected) + protobuf.text(2, message))


def failure(status: int, content_type: str, message: str) -> bytes:
    """Return a google.rpc.Status for an HTTP status that is no success.

    >>> failure(400, JSON, "no").decode()
    '{"code":3,"message":"no"}'
    """
    code = _CODES.get(status, INVALID_ARGUMENT if status < 500 else INTERNAL)
    if content_type == JSON:
        return msgspec.json.encode({"code": code, "message": message})
    return protobuf.integer(1, code) + protobuf.text(2, message)
