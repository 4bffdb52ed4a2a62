"""What became of a request that went as messages: an answer, or what to do next. Must not send.

| messages                       | and the connection | comes to                                                       |
| ------------------------------ | ------------------ | -------------------------------------------------------------- |
| all taken                      |                    | an answer                                                      |
| some taken, the others refused | stands             | an answer: those are rejected                                  |
| refused, none taken            | stands             | what their reason says (bridge_reasons.py)                     |
| some asked for later           | stands             | the others come off, these go again                            |
| none under way, none taken     | broke              | why it broke: nothing of it has left                           |
| under way                      | broke              | they go again, and may be there twice; those taken come off    |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.codecs.readings_json import Messages
from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.core.words import plural
from gateway.uplinks.bridge_reasons import decide, most_frequent, words_of
from gateway.uplinks.bridge_shipment import LATER, REFUSED, TAKEN, UNDER_WAY, WAITING
from gateway.uplinks.guards import HoldError, StatusRefusedError
from gateway.uplinks.partly import PartlyTakenError

if TYPE_CHECKING:
    from gateway.uplinks.bridge_shipment import Shipment

TOPIC_CHARS_MAX: Final = 100


def rejected_of(shipment: Shipment, body: bytes, *, said: str) -> tuple[int, str]:
    """Return how many messages are to be given up of those that all have their answer, and why.

    Raises what to do instead, where it is not that.
    """
    taken = shipment.among(TAKEN)
    if taken.all():
        return 0, ""
    error = decide(most_frequent(shipment.reasons), what=_named(shipment), said=said)
    if not (isinstance(body, Messages) and taken.any()):
        raise _doubted(shipment, body, error)
    rejected, sentence = int(shipment.among(REFUSED).sum()), _sentence(shipment)
    left = shipment.among(LATER, WAITING)
    if not left.any():
        return rejected, sentence
    raise PartlyTakenError(
        str(error), groups=body.groups, left=left, maybe=shipment.perhaps, rejected=rejected, said=sentence
    ) from error


def broken(shipment: Shipment, body: bytes, error: TryLaterError) -> TryLaterError:
    """Return what it comes to when the connection breaks, or is given up, because of `error`."""
    under_way = int(shipment.among(UNDER_WAY).sum())
    if shipment.is_refused and not shipment.among(TAKEN).any():
        # Whoever refuses may hang up as well, and that is the less to be said of it.
        refusal = decide(most_frequent(shipment.reasons), what=_named(shipment))
        error = refusal if isinstance(refusal, TryLaterError) else error
    if not isinstance(body, Messages):
        error.answer_lost = under_way > 0
        return error
    taken = shipment.among(TAKEN)
    maybe = under_way + shipment.perhaps
    if not maybe and not taken.any():
        return error
    # What was refused is about the data only where others were taken.
    left = shipment.among(WAITING, UNDER_WAY, LATER) if taken.any() else ~taken
    said = _sentence(shipment)
    outcome = PartlyTakenError(
        f"{error}; {said}" if said and taken.any() else str(error),
        groups=body.groups,
        left=left,
        maybe=maybe,
        rejected=len(left) - int(left.sum()) - int(taken.sum()),
        said=said,
        after_s=error.after_s,
    )
    outcome.is_held = isinstance(error, HoldError)
    return outcome


def _doubted(shipment: Shipment, body: bytes, error: Exception) -> Exception:
    """Return why nothing was taken, and how much of it is there perhaps, since connections broke meanwhile."""
    if not shipment.perhaps or not isinstance(body, Messages):
        return error
    if isinstance(error, StatusRefusedError):
        error.maybe = shipment.perhaps
        return error
    all_of_it = ~shipment.among(TAKEN)
    outcome = PartlyTakenError(str(error), groups=body.groups, left=all_of_it, maybe=shipment.perhaps)
    outcome.is_held = isinstance(error, HoldError)
    return outcome


def _named(shipment: Shipment) -> str:
    topic = printable(shipment.topic(shipment.last_refused).decode("utf-8", "replace"), TOPIC_CHARS_MAX)
    return topic if sum(shipment.reasons.values()) == 1 else f"messages like {topic}"


def _sentence(shipment: Shipment) -> str:
    """Say what was refused and why, or nothing where nothing was."""
    if not shipment.reasons:
        return ""
    counts = ", ".join(f"{plural(count, 'message')}: {words_of(code)}" for code, count in shipment.reasons.items())
    return f"the broker refuses {counts}; the last one to {_named(shipment).removeprefix('messages like ')}"
