"""One request as messages that a stream answers one by one: what is next, under way, stored, refused. Must not send.

    waiting → under way → stored
       │              ├→ refused
       └──────────────┴→ unheard

| messages                            | and the connection | comes to                                                  |
| ----------------------------------- | ------------------ | --------------------------------------------------------- |
| all stored                          |                    | an answer                                                 |
| none stored                         | stands             | what the answer says that most of them got                |
| some stored                         | stands             | those come off, the others go again                       |
| some stored, of others we may not   | stands             | an answer: those are rejected, as an MQTT bridge has it   |
| some stored, others heard by nobody | stands             | an answer, which says what is left and for how long       |
| heard by nobody, all of them        | stands             | put off, where the road is one (nats_silence.py); where   |
|                                     |                    | it is all of a signal that is held back                   |
| under way                           | broke              | they go again under their ids, and the stream knows them  |
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.contracts import Signal, TryLaterError
from gateway.core.words import plural
from gateway.net.nats import NotStored, Stored
from gateway.uplinks.guards import Answer, HoldError, Left, UnheardError
from gateway.uplinks.nats_pieces import SomeStoredError
from gateway.uplinks.nats_reasons import FORBIDDEN, decide, is_of_subject, is_unheard

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.uplinks.nats_pieces import Publications
    from gateway.uplinks.nats_silence import Silence

WAITING: Final = 0
UNDER_WAY: Final = 1
STORED: Final = 2
REFUSED: Final = 3
UNHEARD: Final = 4
# So many are refused until it seems that none is taken.
REFUSED_MAX: Final = 64


class Shipment:
    """The messages of one request, of which `window` may be under way.

    To a subject that is known to be silent none goes, or one that asks, and the others when that one was stored.
    """

    def __init__(self, body: Publications, *, window: int, silence: Silence) -> None:
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
        self._silence = silence
        self._asking: dict[int, bool] = {}  # silent subjects of which one message may ask, and whether one does
        self._new = 0  # subjects that have turned out to be silent
        if silence.subjects:
            self._keep_back()

    def _keep_back(self) -> None:
        quiet = [number for number, subject in enumerate(self.body.subjects) if self._silence.is_quiet(subject)]
        used = set(np.unique(self.body.subject_of).tolist())
        self._asking = {
            number: False for number in quiet if number in used and self._silence.may_ask(self.body.subjects[number])
        }
        kept = [number for number in quiet if number not in self._asking]
        self._states[np.isin(self.body.subject_of, kept)] = UNHEARD

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
        refused = sum(count for one, count in self._reasons.items() if not is_unheard(one))
        is_nobodys = refused >= REFUSED_MAX or self._new >= self._silence.new_max
        return any(not is_of_subject(one) for one in self._reasons) or (not self._stored and is_nobodys)

    def pop(self) -> int | None:
        """Return the next message to leave, under way from here on; None where the window is full or none is left."""
        while self._next < len(self) and not self._is_next(self._next):
            self._next += 1
        if self._next == len(self) or self.under_way >= self._window or self._is_over:
            return None
        message, self._next = self._next, self._next + 1
        if (subject := int(self.body.subject_of[message])) in self._asking:
            self._asking[subject] = True
        self._states[message] = UNDER_WAY
        self.under_way += 1
        return message

    def _is_next(self, message: int) -> bool:
        is_waiting = self._states[message] == WAITING
        return bool(is_waiting and not (self._asking and self._asking.get(int(self.body.subject_of[message]), False)))

    def not_sent(self, message: int) -> None:
        """Take note that nothing of a message that was popped has left."""
        if self._states[message] == UNDER_WAY:
            self._states[message] = WAITING
            self.under_way -= 1
            self._next = min(self._next, message)
            if (subject := int(self.body.subject_of[message])) in self._asking:
                self._asking[subject] = False

    def answered(self, message: int, answer: Stored | NotStored) -> None:
        """Take note of an answer; a second one to the same message says nothing."""
        if not 0 <= message < len(self) or self._states[message] != UNDER_WAY:
            return
        self.under_way -= 1
        subject = int(self.body.subject_of[message])
        has_asked = self._asking.pop(subject, None) is not None
        if is_unheard(answer):
            self._nobody(subject, message, answer, is_new=not has_asked)
            return
        if has_asked:
            # What had to wait for this one may stand before it.
            self._silence.heard(self.body.subjects[subject])
            self._next = 0
        if isinstance(answer, Stored):
            self._states[message] = STORED
            self._stored += 1
            self.stream = answer.stream
            self.duplicates += int(self.body.counts[message]) * answer.is_duplicate
        else:
            self._refuse(message, answer)

    def _nobody(self, subject: int, message: int, answer: NotStored, *, is_new: bool) -> None:
        """Keep what was to go to a subject at which nobody listens."""
        self._refuse(message, answer)
        self._states[message] = UNHEARD
        name = self.body.subjects[subject]
        if is_new and self._silence.is_quiet(name):
            # Of those that were under way together the first one has said it for all.
            return
        self._new += is_new
        self._silence.unheard(name)
        self._states[(self.body.subject_of == subject) & (self._states == WAITING)] = UNHEARD

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
        if stored.any():
            self._silence.stored()
        if stored.all():
            return Answer()
        others = Counter({one: count for one, count in self._reasons.items() if not is_unheard(one)})
        if not others and not stored.any():
            raise self._nobody_at_all()
        rejected, left = 0, ~stored
        said, error = "", None
        if others:
            worst, _ = others.most_common(1)[0]
            error = decide(worst, subject=self._subject_of[worst])
            if not stored.any():
                raise error
        if all(one.code == FORBIDDEN for one in others):
            rejected = int(self.body.counts[self._states == REFUSED].sum())
            left = self._states <= UNDER_WAY
            said = f"{plural(rejected, 'reading')} not taken: {error}" if rejected else ""
        if error is None or not left.any():
            unheard = self._states == UNHEARD
            return Answer(rejected=rejected, message=said, left=self._left(unheard) if unheard.any() else None)
        if rejected:
            left |= self._states == UNHEARD
        raise self._partly(error, left, rejected=rejected, said=said) from error

    def _left(self, mask: npt.NDArray[np.bool_]) -> Left:
        """Return what nobody hears, and for how long it is put off."""
        subjects = [self.body.subjects[number] for number in np.unique(self.body.subject_of[mask]).tolist()]
        why = self._silence.why(subjects)
        return Left(self.body.left(mask), why, self._silence.left_s(subjects))

    def _nobody_at_all(self) -> TryLaterError:
        """Return what to do where nobody hears any of it: others may go, if the road is one."""
        self._silence.nothing_stored()
        left = self._left(self._states != STORED)
        if (self._states == WAITING).any():
            # Of these nobody knows yet whether they are heard.
            left = left._replace(wait_s=self._silence.first_s)
        if self._silence.is_road and self.body.signal is not Signal.METRICS:
            # There is one subject for all of the signal.
            return HoldError(left.why, left.wait_s)
        if self._silence.is_road:
            return UnheardError(left)
        return TryLaterError(left.why, put_off_s=left.wait_s)

    def broken(self, error: TryLaterError) -> TryLaterError:
        """Return what it comes to when the connection breaks, or is given up, because of `error`."""
        stored = self._states == STORED
        maybe = int(self.body.counts[self._states == UNDER_WAY].sum())
        if not stored.any():
            error.answer_lost = maybe > 0
            return error
        self._silence.stored()
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
