"""What to do after each status of gRPC: the same decisions as `guards.py` makes after HTTP's. Must not send or sleep.

| status                                    | decision                                                       |
| ----------------------------------------- | -------------------------------------------------------------- |
| OK                                        | delivered                                                      |
| UNAVAILABLE, ABORTED                      | try later, RetryInfo first                                     |
| RESOURCE_EXHAUSTED with RetryInfo         | the same                                                       |
| CANCELLED, DEADLINE_EXCEEDED, DATA_LOSS   | the same, and less at once; it may have been taken             |
| OUT_OF_RANGE                              | the same, and less at once                                     |
| RESOURCE_EXHAUSTED or OUT_OF_RANGE that   | split                                                          |
| says that the message is too large        |                                                                |
| UNIMPLEMENTED or INTERNAL, about the      | another compression, then none, then hold                      |
| compression                               |                                                                |
| UNIMPLEMENTED, NOT_FOUND,                 | hold: try again each minute, and say so                        |
| UNAUTHENTICATED, PERMISSION_DENIED        |                                                                |
| INVALID_ARGUMENT, RESOURCE_EXHAUSTED,     | refused, as with 4xx: set aside, counted (verdicts.py)         |
| FAILED_PRECONDITION, ALREADY_EXISTS       |                                                                |
| INTERNAL, UNKNOWN, and what nobody knows  | refused, as with 5xx: a server's own error                     |
| none, but a status of HTTP                | what `guards.py` makes of that                                 |

OTLP's specification (protocol/otlp, "Failures") names those that may be retried. An UNAVAILABLE is a receiver's own
word before it takes anything, unless it says that a proxy's connection broke under the request.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.codecs.grpc import Code, Status
from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import (
    MEDIA_TYPE_STATUS,
    RETRY_AFTER_S_MAX,
    SERVER_ERROR,
    HoldError,
    PassedOnError,
    StatusRefusedError,
    TooLargeError,
)

HOLD: Final = {
    Code.UNAUTHENTICATED: "the token or certificate was not accepted",
    Code.PERMISSION_DENIED: "this token may not write there",
    Code.NOT_FOUND: "there is nobody of that name to write to",
    Code.UNIMPLEMENTED: "there is no OTLP receiver of this signal",
}
TRY_LATER: Final = frozenset((Code.UNAVAILABLE, Code.ABORTED, Code.RESOURCE_EXHAUSTED))
MAYBE_TAKEN: Final = frozenset((Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.DATA_LOSS))
# What an answer in HTTP would have said: refusals by these are handled as that would be.
REFUSED: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 412,
    Code.RESOURCE_EXHAUSTED: 429,
}
_SIZES: Final = frozenset((Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE))
# How gRPC's implementations say it: "received message larger than max", "decoded message length too large", "exceeds
# the maximum configured message size".
_TOO_LARGE: Final = re.compile(
    r"larger than|too (large|big|long)|exceeds?\b.{0,40}\b(size|length|maximum)", re.IGNORECASE
)
_ENCODING: Final = re.compile(r"compress|encoding|gzip|zstd", re.IGNORECASE)
# Envoy's words for an upstream that went away under a request.
_BROKE: Final = re.compile(r"disconnect/reset|connection termination|reset reason", re.IGNORECASE)


def check_status(status: Status, *, encoding: str = "", accepts: str | None = None) -> None:
    """Return where the request was taken, else raise the decision.

    `encoding` is how it was compressed, "" for not at all; `accepts` what the answer says can be taken, if it does.
    """
    code, after_s = status.code, min(status.retry_s or 0.0, RETRY_AFTER_S_MAX)
    if code == Code.OK:
        return
    # Else a wait of an hour looks like a gateway that has given up.
    asks = f": asks to wait {after_s:.0f} s" if after_s else ""
    said = f": {status.message}" if status.message else ""
    sentence = f"{status.name}{asks}{said}"
    if code == Code.RESOURCE_EXHAUSTED and status.retry_s is not None:
        raise TryLaterError(sentence, after_s)
    if code in _SIZES and _TOO_LARGE.search(status.message):
        raise TooLargeError(sentence)
    if code in MAYBE_TAKEN:
        raise PassedOnError(sentence, after_s, answer_lost=True)
    if code == Code.OUT_OF_RANGE:
        raise PassedOnError(sentence, after_s)
    if code in TRY_LATER and code not in REFUSED:
        raise TryLaterError(sentence, after_s, answer_lost=_BROKE.search(status.message) is not None)
    if _is_about_encoding(status, encoding, accepts):
        raise StatusRefusedError(sentence, MEDIA_TYPE_STATUS)
    for known, why in HOLD.items():
        if code == known:
            raise HoldError(f"{status.name}, {why}{said}")
    raise StatusRefusedError(sentence, next((number for name, number in REFUSED.items() if code == name), SERVER_ERROR))


def _is_about_encoding(status: Status, encoding: str, accepts: str | None) -> bool:
    if not encoding:
        return False
    if status.code == Code.INTERNAL:
        # gRPC's own library in C has no other word for an encoding that it does not know.
        return "grpc-encoding" in status.message
    if status.code != Code.UNIMPLEMENTED:
        return False
    if accepts is not None and encoding not in {word.strip() for word in accepts.split(",")}:
        return True
    return _ENCODING.search(status.message) is not None
