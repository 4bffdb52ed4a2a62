"""What a broker's answers and failures mean, in words for people. Must not connect to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.text import sentence as one_line
from gateway.net.mqtt_fields import VERSION_5, ReasonCode
from gateway.net.tls import certificate_advice, is_tls_error
from gateway.sources.mqtt_link import LinkClosed

if TYPE_CHECKING:
    import ssl

REFUSED_QOS: Final = 0x80
# What waiting does not mend; tried again all the same, at the longest wait.
NEEDS_A_PERSON: Final = frozenset(
    {
        ReasonCode.CLIENT_ID_NOT_VALID,
        ReasonCode.BAD_USER_NAME_OR_PASSWORD,
        ReasonCode.NOT_AUTHORIZED,
        ReasonCode.BAD_AUTHENTICATION_METHOD,
    }
)


class Refused(Exception):  # noqa: N818  the broker's decision, not our error
    """The broker or its certificate says no, and will again until a person changes something."""


class Unsupported(Exception):  # noqa: N818  the broker's decision, not our error
    """The broker does not speak this version of MQTT."""


def granted_text(code: int | None) -> str:
    """Return what the broker said to a subscription.

    >>> granted_text(1), granted_text(0x87), granted_text(None)
    ('QoS 1', 'refused', 'not yet')
    """
    if code is None:
        return "not yet"
    return f"QoS {code}" if code < REFUSED_QOS else "refused"


def tls_trouble(error: ssl.SSLError) -> Exception:
    """Return what a failed handshake means: an alert or a plain port stay wrong, a cut may pass."""
    if why := getattr(error, "verify_message", ""):
        advice = certificate_advice(why, named="the broker in url", whose="source")
        return Refused(f"the broker's certificate is not trusted: {why}; {advice}")
    reason = error.reason or str(error)
    if "ALERT" in reason or reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}:
        return Refused(f"TLS with the broker failed: {reason.lower().replace('_', ' ')}")
    return error


def sentence(error: BaseException, *, broker: str) -> str:
    """Return what went wrong, in words, with nothing that should not be in a log."""
    if isinstance(error, LinkClosed | TimeoutError):
        return one_line(str(error)) or "no answer in time"
    if is_tls_error(error):
        return one_line(f"TLS failed: {error.reason or error}")
    assert isinstance(error, OSError)
    return one_line(f"cannot connect to {broker}: {error.strerror or error}")


def window_advice(size: int, *, version: int, receive_maximum: int) -> str:
    """Say that the number of messages under way is what makes a broker slow, and what to do about it."""
    if version == VERSION_5 and size >= receive_maximum:
        remedy = "raise receive_maximum of this source"
    else:
        remedy = "raise max_inflight_messages in its configuration (mosquitto's name; EMQX: mqtt.max_inflight)"
        if version != VERSION_5:
            remedy += ', or write protocol = "5" here'
    messages = "one message" if size == 1 else f"{size} messages"
    return f"the broker lets only {messages} wait for a commit, and then sends no more until it is done: {remedy}"
