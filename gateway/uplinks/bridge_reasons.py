"""What a broker's reason codes mean for a publisher: fine, later, hold, split, refuse. Must not send.

| code                                          | decision                                                    |
| --------------------------------------------- | ----------------------------------------------------------- |
| 0x00, 0x10 (nobody subscribes)                | delivered; the second is counted, and said, or held         |
| 0x88, 0x89, 0x8B, 0x93, 0x96, 0x97, 0x9F …    | try later: busy, shutting down, too many, over quota        |
| 0x95 packet too large                         | split                                                       |
| 0x85 to 0x87, 0x8A, 0x8C, 0x8E, 0x98, 0x9A …   | hold: who we are, where to, or what we may; a person's work |
| 0x90 topic, 0x99 payload format               | refused, as an HTTP 400 is (verdicts.py)                    |
| 0x80, 0x83 and what nobody knows, of a message | as an HTTP 500: in parts, after some tries                  |

A broker that ends the connection for one of the reasons that are about a packet does so at each try: what is under way
is taken for the cause, as where it hangs up without a word (verdicts.py).

Where many messages go at once the broker answers each by itself (MQTT 5.0 section 3.4). What it refuses of them while
it takes others is about those: they are rejected, as a part of an OTLP request may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.net.mqtt_fields import ReasonCode
from gateway.uplinks.guards import HoldError, InTransitError, StatusRefusedError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED_FROM: Final = 0x80
# What HTTP would say.
BAD_REQUEST: Final = 400
SERVER_FAILED: Final = 500
SAID_CHARS_MAX: Final = 120

LATER: Final = frozenset(
    {
        ReasonCode.SERVER_UNAVAILABLE,
        ReasonCode.SERVER_BUSY,
        ReasonCode.SERVER_SHUTTING_DOWN,
        ReasonCode.KEEP_ALIVE_TIMEOUT,
        ReasonCode.PACKET_ID_IN_USE,
        ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
        ReasonCode.MESSAGE_RATE_TOO_HIGH,
        ReasonCode.QUOTA_EXCEEDED,
        ReasonCode.CONNECTION_RATE_EXCEEDED,
        ReasonCode.MAXIMUM_CONNECT_TIME,
    }
)
HOLD: Final = {
    ReasonCode.CLIENT_ID_NOT_VALID: "give it another client_id",
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: "is username and password right?",
    ReasonCode.NOT_AUTHORIZED: "give it the right to publish there",
    ReasonCode.BANNED: "the broker wants nothing of us",
    ReasonCode.BAD_AUTHENTICATION_METHOD: "is username and password right?",
    ReasonCode.SESSION_TAKEN_OVER: "another client has our client_id; give each its own",
    ReasonCode.ADMINISTRATIVE_ACTION: "somebody there has ended it",
    ReasonCode.RETAIN_NOT_SUPPORTED: "correct the broker",
    ReasonCode.QOS_NOT_SUPPORTED: "write another qos",
    ReasonCode.USE_ANOTHER_SERVER: "correct the url",
    ReasonCode.SERVER_MOVED: "correct the url",
}
REFUSED: Final = frozenset({ReasonCode.TOPIC_NAME_INVALID, ReasonCode.PAYLOAD_FORMAT_INVALID})
ABOUT_PACKETS: Final = REFUSED | {
    ReasonCode.UNSPECIFIED_ERROR,
    ReasonCode.MALFORMED_PACKET,
    ReasonCode.PROTOCOL_ERROR,
    ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
    ReasonCode.PACKET_TOO_LARGE,
}


def is_later(code: int) -> bool:
    """Whether a message with this answer is to be sent again as it is."""
    return code in LATER


def words_of(code: int) -> str:
    """Return a reason code in words.

    >>> words_of(0x87), words_of(0xF0)
    ('not authorized', 'reason 0xf0')
    """
    try:
        return ReasonCode(code).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {code:#04x}"


def decide(code: int, *, what: str, said: str = "") -> Exception:
    """Return what to do about a message that was answered with `code`; `what` was refused, `said` is the broker's word.

    >>> decide(0x87, what="site/d1/temp")
    HoldError('the broker refuses site/d1/temp: not authorized; give it the right to publish there')
    """
    sentence = f"the broker refuses {what}: {_said(code, said)}"
    if code == ReasonCode.NO_MATCHING_SUBSCRIBERS:
        # Whoever is to subscribe may do so in a moment.
        return HoldError(f"nobody subscribes to {what}; it is held, since the broker would throw it away", after_s=0.0)
    if code in LATER:
        return TryLaterError(sentence)
    if code == ReasonCode.PACKET_TOO_LARGE:
        return TooLargeError(sentence)
    if code in HOLD:
        return HoldError(f"{sentence}; {HOLD[ReasonCode(code)]}")
    return StatusRefusedError(sentence, BAD_REQUEST if code in REFUSED else SERVER_FAILED)


def decide_connection(code: int, *, what: str, said: str = "") -> TryLaterError:
    """Return what to do about a connection that the broker has refused or ended."""
    sentence = f"{what}: {_said(code, said)}"
    if code in HOLD:
        return HoldError(f"{sentence}; {HOLD[ReasonCode(code)]}")
    return TryLaterError(sentence)


def decide_end(code: int, *, said: str = "", is_one: bool = False) -> Exception:
    """Return what to do about a connection that the broker has ended under a request; `is_one`: under one message.

    >>> decide_end(0x95, is_one=True)
    TooLargeError('the broker ended the connection: packet too large')
    """
    what = "the broker ended the connection"
    if code == ReasonCode.PACKET_TOO_LARGE and is_one:
        return TooLargeError(f"{what}: {_said(code, said)}")
    if code in ABOUT_PACKETS:
        return InTransitError(f"{what}: {_said(code, said)}")
    return decide_connection(code, what=what, said=said)


def most_frequent(reasons: Mapping[int, int]) -> int:
    """Return the reason that most messages were refused by, the first of those that are as many.

    >>> most_frequent({0x87: 2, 0x90: 5})
    144
    """
    return max(reasons, key=reasons.__getitem__)


def _said(code: int, said: str) -> str:
    return f"{words_of(code)}{f' ({printable(said, SAID_CHARS_MAX)})' if said else ''}"
