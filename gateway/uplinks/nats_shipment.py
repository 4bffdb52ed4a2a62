"""One request as messages that a stream answers one by one: what is next, under way, stored, refused. Must not send.

    waiting → under way → stored
                      └→ refused

| messages                            | and the connection | comes to                                                  |
| ----------------------------------- | ------------------ | --------------------------------------------------------- |
| all stored                          |                    | an answer                                                 |
| none stored                         | stands             | what the answer says that most of them got                |
| some stored                         | stands             | those come off, the others go again                       |
| some stored, of others we may not   | stands             | an answer: those are rejected, as an MQTT bridge has it   |
| under way                           | broke              | they go again under their ids, and the stream knows them  |
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.contracts import TryLaterError
from gateway.core.words import plural
from gateway.net.nats import NotStored, Stored
from gateway.uplinks.guards import Answer, HoldError
from gateway.uplinks.nats_pieces import SomeStoredError
from gateway.uplinks.nats_reasons import FORBIDDEN, decide, is_of_subject

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.uplinks.nats_pieces import Publications

WAITING: Final = 0
UNDER_WAY: Final = 1
STORED: Final = 2
REFUSED: Final = 3
# So many are refused until it seems that none is taken.
REFUSED_MAX: Final = 64


class Shipment:
    """The messages of one request, of which `window` may be under way."""

    def __init__(self, body: Publications, *, window: int) -> None:
        self.body = body
        self.under_way = 0
        self.duplicates = 0  # readings that the stream had already
        self.stream = ""
        self._window = window
        self._states: npt.NDArray[np.uint8] = np.zeros(len(body.ends), np.uint8)
        self._next = 0
        self._reasons: Counter[NotStored] = Counter()
        self._subject_of: dict[NotStored, str] = {}  # the last of each
        self._stored = 0

    def __len__(self) -> int:
        return len(self._states)

    @property
    def is_done(self) -> bool:
        """Whether nothing is under way and nothing more is to leave."""
        return not self.under_way and (self._next == len(self) or self._is_over)

    @property
    def may_go(self) -> bool:
        """Whether one more may leave now: half of a window at a time, so that they leave together."""
        left, room = len(self) - self._next, self._window - self.under_way
        return left > 0 and room > 0 and room >= min(left, self._window // 2) and not self._is_over

    @property
    def _is_over(self) -> bool:
        refused = self._reasons.total()
        return any(not is_of_subject(one) for one in self._reasons) or (not self._stored and refused >= REFUSED_MAX)

    def pop(self) -> int | None:
        """Return the next message to leave, under way from here on; None where the window is full or none is left."""
        while self._next < len(self) and self._states[self._next] != WAITING:
            self._next += 1
        if self._next == len(self) or self.under_way >= self._window or self._is_over:
            return None
        message, self._next = self._next, self._next + 1
        self._states[message] = UNDER_WAY
        self.under_way += 1
        return message

    def not_sent(self, message: int) -> None:
        """Take note that nothing of a message that was popped has left."""
        if self._states[message] == UNDER_WAY:
            self._states[message] = WAITING
            self.under_way -= 1
            self._next = min(self._next, message)

    def answered(self, message: int, answer: Stored | NotStored) -> None:
        """Take note of an answer; a second one to the same message says nothing."""
        if not 0 <= message < len(self) or self._states[message] != UNDER_WAY:
            return
        self.under_way -= 1
        if isinstance(answer, Stored):
            self._states[message] = STORED
            self._stored += 1
            self.stream = answer.stream
            self.duplicates += int(self.body.counts[message]) * answer.is_duplicate
        else:
            self._refuse(message, answer)

    def denied(self, subject: str, reason: str) -> bool:
        """Take note that nothing may go to `subject`; return whether any of it is about that."""
        answer = NotStored(FORBIDDEN, 0, reason)
        name = subject.encode()
        numbers = [number for number, one in enumerate(self.body.subjects) if one == name]
        found = np.flatnonzero(np.isin(self.body.subject_of, numbers) & (self._states <= UNDER_WAY))
        for message in found.tolist():
            self.under_way -= int(self._states[message] == UNDER_WAY)
            self._refuse(message, answer)
        return bool(numbers)

    def _refuse(self, message: int, answer: NotStored) -> None:
        self._states[message] = REFUSED
        self._reasons[answer] += 1
        self._subject_of[answer] = self.body.subject(message).decode("utf-8", "replace")

    # What it comes to.

    def answer(self) -> Answer:
        """Return that all of it was taken, or is never to be; raise what to do instead."""
        stored = self._states == STORED
        if stored.all():
            return Answer()
        worst, _ = self._reasons.most_common(1)[0]
        error = decide(worst, subject=self._subject_of[worst])
        if not stored.any():
            raise error
        rejected, left = 0, ~stored
        said = ""
        if all(one.code == FORBIDDEN for one in self._reasons):
            rejected = int(self.body.counts[self._states == REFUSED].sum())
            left = self._states <= UNDER_WAY
            said = f"{plural(rejected, 'reading')} not taken: {error}"
        if not left.any():
            return Answer(rejected=rejected, message=said)
        raise self._partly(error, left, rejected=rejected, said=said) from error

    def broken(self, error: TryLaterError) -> TryLaterError:
        """Return what it comes to when the connection breaks, or is given up, because of `error`."""
        stored = self._states == STORED
        maybe = int(self.body.counts[self._states == UNDER_WAY].sum())
        if not stored.any():
            error.answer_lost = maybe > 0
            return error
        return self._partly(error, ~stored, maybe=maybe)

    def _partly(
        self, error: Exception, left: npt.NDArray[np.bool_], *, maybe: int = 0, rejected: int = 0, said: str = ""
    ) -> SomeStoredError:
        outcome = SomeStoredError(
            str(error),
            left=self.body.left(left),
            taken=int(self.body.counts[self._states == STORED].sum()),
            maybe=maybe,
            rejected=rejected,
            said=said,
            after_s=error.after_s if isinstance(error, TryLaterError) and not isinstance(error, HoldError) else 0.0,
        )
        outcome.is_held = isinstance(error, HoldError)
        return outcome
