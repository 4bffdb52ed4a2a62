"""What receivers answer to OTLP: what was not taken, a no that comes as success, an error's sentence. Does no I/O.

A gateway lets go of what a 200 says was taken, so whatever stands there must be able to come from a receiver. Much does
not: a captive portal answers in JSON too (RFC 8908), gateways of APIs say "unauthenticated" with status 200, and who
translates gRPC may put a google.rpc.Status there. Sending again costs a double; believing them would cost the data.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.codecs import protobuf

MESSAGE_CHARS_MAX: Final = 500

# What homemade receivers answer who took it.
_YES: Final = frozenset((b"", b"null", b"{}", b"ok", b'"ok"', b"true", b"success", b"accepted"))
# How words begin that say no as a `status`, whatever their end: error, errored; unauthorized, unauthenticated.
_NO_STEMS: Final = (
    "abort", "cancel", "denied", "err", "exceed", "expire", "fail", "fatal", "forbid", "internal", "invalid", "not_",
    "not ", "permission", "reject", "resource_exhausted", "throttl", "timeout", "unauth", "unavailable",
)  # fmt: skip
# Codes that mean yes: gRPC's, HTTP's.
_CODES_OF_YES: Final = frozenset((0, *range(200, 300)))
_COUNTS: Final = (
    "rejectedDataPoints", "rejectedLogRecords", "rejectedSpans",
    "rejected_data_points", "rejected_log_records", "rejected_spans",
)  # fmt: skip
# Where a JSON text has a string, with its end unless it was cut, or a value ends or begins.
_MARKS: Final = re.compile(r""""(?:[^"\\]+|\\u[0-9a-fA-F]{4}|\\[^u])*(?P<end>"?)|[][{},]""", re.DOTALL)
_CLOSERS: Final = {"{": "}", "[": "]"}
# So much stands between a value and the message behind it, its name and all; what does not end is not looked through
# for each string in it.
NEXT_CHARS_MAX: Final = 1024
_MESSAGE_NEXT: Final = re.compile(r"""[,\s]*"(?:errorMessage|error_message)"\s*:\s*""")


class NoResponseError(ValueError):
    """Nothing that an OTLP receiver says who took it."""


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """What the far side says it did not take of a request that it took; 0 with a message is a warning."""

    rejected: int = 0
    message: str = ""


def read_response(body: bytes, *, content_type: str = "", is_cut: bool = False) -> PartialSuccess:
    """Read an Export*ServiceResponse, protobuf or JSON; the three signals share its numbers.

    Nothing at all, null or a word like "ok" mean that all was taken; a negative count, which nobody may send, counts
    as none. One that `is_cut`, which is what a sentence for each reading is too long for, is a partial success from
    that word on, and says how many were not taken where that stands before the sentence. Raises NoResponseError for
    what else stands there: a login page, somebody's error or no, garbage.
    """
    text = body.strip().lower()
    if text in _YES:
        return PartialSuccess()
    try:
        if "json" in content_type or text[:1] == b"{":
            rejected, message = _read_json_response(body, is_cut=is_cut)
        elif body[:1].isascii() and body[:1].decode("ascii").isprintable():
            raise NoResponseError("words")
        else:
            rejected, message = _read_protobuf_response(body, is_cut=is_cut)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise NoResponseError("this is no answer of an OTLP receiver") from error
    return PartialSuccess(max(rejected, 0), _one_line(message))


def _read_protobuf_response(body: bytes, *, is_cut: bool) -> tuple[int, str]:
    rejected, message = 0, ""
    for field, _, partial in protobuf.fields(body, is_cut=is_cut):
        if field != 1:
            continue
        if not isinstance(partial, bytes):
            raise NoResponseError("the code of a google.rpc.Status")
        # It was one so far: what is odd in it changes nothing about what was taken.
        with contextlib.suppress(ValueError):
            for number, _, value in protobuf.fields(partial, is_cut=is_cut):
                if number == 1 and isinstance(value, int):
                    rejected = protobuf.signed(value)
                elif number == 2 and isinstance(value, bytes):
                    message = value.decode("utf-8", "replace")
    return rejected, message


def _read_json_response(body: bytes, *, is_cut: bool) -> tuple[int, str]:
    try:
        answer = json.loads(body)
    except ValueError:
        if not is_cut:
            raise
        answer = json.loads(_closed(codecs.utf_8_decode(body)[0]))
        if not {"partialSuccess", "partial_success"} & answer.keys():
            # It may have gone on with a no.
            raise
    if _says_no(answer):
        raise NoResponseError("a no")
    # The names of proto3's JSON, and those of the .proto files, which its parsers take as well.
    partial = answer.get("partialSuccess") or answer.get("partial_success") or {}
    counts = (partial.get(name) for name in _COUNTS)
    rejected = 0
    # It is one: what is odd in it changes nothing about what was taken.
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        rejected = int(next((count for count in counts if count), 0))
    return rejected, str(partial.get("errorMessage") or partial.get("error_message") or "")


def _closed(text: str) -> str:
    """Return the beginning of a JSON text closed behind its last value that is whole, or in the midst of the message.

    >>> _closed('{"a":[1,2')
    '{"a":[1]}'
    >>> _closed('{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too o')
    '{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too o"}}'
    """
    closers: list[str] = []
    whole = 0
    for mark in _MARKS.finditer(text):
        sign = mark[0]
        if sign in _CLOSERS:
            closers.append(_CLOSERS[sign])
            whole = mark.end()
        elif sign in {"]", "}"}:
            del closers[-1:]
            whole = mark.end()
        elif sign == ",":
            whole = mark.start()
        elif mark.start() - whole < NEXT_CHARS_MAX and _MESSAGE_NEXT.fullmatch(text, whole, mark.start()):
            if not mark["end"]:
                closers.append('"')
            whole = mark.end()
    return text[:whole] + "".join(reversed(closers))


def _says_no(answer: dict[str, Any]) -> bool:
    """Whether a JSON answer says in any of the usual ways that this was no success, whatever the HTTP status was.

    >>> _says_no({"code": 16, "message": "unauthenticated"}), _says_no({"status": "ok"}), _says_no({"success": False})
    (True, False, True)
    """
    if answer.get("error") or answer.get("errors") or answer.get("captive"):
        return True
    if any(_is_false(answer[key]) for key in ("success", "ok") if key in answer):
        return True
    status = answer.get("status")
    if isinstance(status, dict):
        return _says_no(status)
    return _is_no_code(answer.get("code")) or _is_no_code(status)


def _is_false(value: object) -> bool:
    return value is not None and (not value or str(value).strip().lower() in {"false", "no", "0"})


def _is_no_code(value: object) -> bool:
    """Whether a `code` or `status`, a number or a word, is not one of success; a word that nobody knows is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value not in _CODES_OF_YES
    word = str(value or "").strip().lower()
    if word.isascii() and word.isdigit():
        # Longer than any code; int() of megabytes of digits would not end.
        return int(word[:9]) not in _CODES_OF_YES
    return word.startswith(_NO_STEMS)


def read_status_message(body: bytes, *, content_type: str = "") -> str:
    """Return the sentence in the body of an error (google.rpc.Status in protobuf or JSON, or plain text).

    >>> read_status_message(protobuf.integer(1, 3) + protobuf.text(2, "bad name"))
    'bad name'
    """
    message = ""
    try:
        if "json" in content_type:
            message = str(json.loads(body).get("message") or "")
        elif content_type.startswith("text/"):
            message = body.decode("utf-8", "replace")
        else:
            message = next((value.decode("utf-8", "replace") for value in protobuf.messages(body, 2)), "")
    except (ValueError, AttributeError, RecursionError):
        pass
    return _one_line(message)


def _one_line(message: str) -> str:
    """Return what the far side says, printable: it goes into status, logs and the drawer of what was refused."""
    return " ".join("".join(c if c.isprintable() else " " for c in message[:MESSAGE_CHARS_MAX]).split())
