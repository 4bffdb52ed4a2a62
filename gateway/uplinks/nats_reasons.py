"""What a stream's answer, or a server's -ERR, means for a publisher: later, hold, split, refuse. Must not send.

| said                                            | decision                                                       |
| ----------------------------------------------- | -------------------------------------------------------------- |
| stored, a duplicate or not                      | delivered                                                      |
| 503 without a word: no stream listens there     | put off, and others go (nats_silence.py); the sentence says so |
| full, out of resources, no leader, busy (5xx)   | try later                                                      |
| the account has no room left (400)              | try later: it is full, though it sounds as if it were us       |
| message too large, for the server or the stream | split; a single reading is refused                             |
| not allowed, another stream, sealed             | hold: a person's work                                          |
| any other 4xx                                   | refused, as an HTTP 400 is (verdicts.py)                       |
| -ERR of who we are, or of what we may           | hold                                                           |
| -ERR of anything else                           | try later                                                      |

JetStream says no to a message before it keeps anything of it, so what was answered with an error is not there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeGuard

from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.net.nats import NO_RESPONDERS, NotStored
from gateway.uplinks.guards import HoldError, StatusRefusedError, TooLargeError

if TYPE_CHECKING:
    from gateway.net.nats import Stored

SAID_CHARS_MAX: Final = 160
SERVER_ERROR: Final = 500
TOO_MANY: Final = 429
FORBIDDEN: Final = 403
BAD_REQUEST: Final = 400

# JetStream's own numbers (its server's errors.json).
MESSAGE_TOO_LARGE: Final = frozenset({10054, 10097})
NOT_ENABLED: Final = frozenset({10039, 10076})
OTHER_STREAM: Final = 10060
SEALED: Final = 10109
IN_PROCESS: Final = 10158
ACCOUNT_FULL: Final = 10002
NO_LIMITS: Final = 10120
_LATER: Final = frozenset({IN_PROCESS, ACCOUNT_FULL})
_HOLD: Final = {
    **dict.fromkeys(NOT_ENABLED, "have somebody turn JetStream on there, for this account"),
    OTHER_STREAM: "correct stream or subject",
    SEALED: "name another stream",
    NO_LIMITS: "have somebody give this account room for JetStream",
}

# As Go quotes it: what is printable stands there as it is, but for these two.
_SUBJECT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r'\\(["\\])')
_ACCOUNT: Final = ("authorization", "authentication", "user authentication", "account")


def decide(answer: NotStored, *, subject: str) -> Exception:
    """Return what to do about a message to `subject` that was not stored.

    >>> from gateway.net.nats import NotStored
    >>> decide(NotStored(503, 10077, "maximum messages exceeded"), subject="a.b")
    TryLaterError('the stream does not take a.b: maximum messages exceeded')
    """
    subject = printable(subject, SAID_CHARS_MAX)
    if is_unheard(answer):
        return TryLaterError(nobody_at(subject))
    said = printable(answer.description, SAID_CHARS_MAX) or f"error {answer.code}"
    sentence = f"the stream does not take {subject}: {said}"
    if answer.code == FORBIDDEN:
        return HoldError(f"the server does not let us publish to {subject}: {said}; give the user that right")
    if answer.error in MESSAGE_TOO_LARGE:
        return TooLargeError(sentence)
    if answer.error in _HOLD:
        return HoldError(f"{sentence}; {_HOLD[answer.error]}")
    is_about_us = BAD_REQUEST <= answer.code < SERVER_ERROR and answer.code != TOO_MANY
    if not is_about_us or answer.error in _LATER:
        return TryLaterError(sentence)
    return StatusRefusedError(f"{sentence} (error {answer.code})", answer.code)


def nobody_at(subject: str, others: int = 0) -> str:
    """Return the sentence that no stream listens at a subject, and at so many others.

    >>> nobody_at("a.b", 2)
    'no stream listens at a.b and 2 other subjects; is there one, and does it have them?'
    """
    if others:
        return f"no stream listens at {subject} and {others} other subjects; is there one, and does it have them?"
    return f"no stream listens at {subject}; is there one, and does it have that subject?"


def is_of_subject(answer: NotStored) -> bool:
    """Whether messages to other subjects may be taken all the same."""
    return answer.code == FORBIDDEN or is_unheard(answer) or "per subject" in answer.description


def is_unheard(answer: Stored | NotStored) -> TypeGuard[NotStored]:
    """Whether no stream listens at a subject."""
    return isinstance(answer, NotStored) and answer.code == NO_RESPONDERS and not answer.error


def denied_subject(reason: str) -> str:
    """Return the subject that we may not publish to, by the words of an -ERR; "" where it says something else.

    >>> denied_subject('Permissions Violation for Publish to "a.b"')
    'a.b'
    """
    found = _SUBJECT.search(reason)
    is_denied = reason.lower().startswith("permissions violation for publish")
    return _ESCAPED.sub(r"\1", found[1]) if is_denied and found is not None else ""


def decide_error(reason: str, *, host: str) -> Exception:
    """Return what to do about a server's -ERR."""
    said, lowered = printable(reason, SAID_CHARS_MAX), reason.lower()
    if lowered.startswith("authorization violation"):
        return HoldError(f"{host} does not know us: {said}; are username, password, token or certificate right?")
    if lowered.startswith("permissions violation for subscription"):
        return HoldError(f"{host} lets us hear no answers: {said}; let the user subscribe below inbox")
    if lowered.startswith("permissions violation"):
        return HoldError(f"{host} does not let us publish: {said}; give the user that right")
    if "timeout" not in lowered and lowered.startswith(_ACCOUNT):
        return HoldError(f"{host} wants nothing of us any more: {said}; give the uplink another user or token")
    if lowered.startswith("maximum payload"):
        return TooLargeError(f"{host}: {said}")
    return TryLaterError(f"{host} ended the connection: {said}")
