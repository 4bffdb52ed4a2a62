"""Subjects at which no stream listens: what goes there waits, and how often it is tried again. Must not send or wait.

| a subject is                  | what goes there                                                                  |
| ----------------------------- | -------------------------------------------------------------------------------- |
| not known here                | is sent; where nobody listens the rest of it is kept, and not sent in vain        |
| silent, its time has not come | is kept                                                                          |
| silent, its time has come     | one message of it asks; all of it goes once a stream has that one                |

Each time that nobody answers the next one is later. Where thousands are silent a few of them ask at a time; when a
stream has answered one of those, there may be one for all of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.core.text import printable
from gateway.uplinks.nats_reasons import nobody_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.uplinks.settings import RetrySettings

log = logging.getLogger("tidegate.uplinks")

# So many are known, the longest known is forgotten first: it then asks once more.
SUBJECTS_MAX: Final = 4096
# So many ask within so long, until one of them was answered: for so long all may.
ASKS_MAX: Final = 16
ASKS_S: Final = 10.0
OPEN_S: Final = 60.0
# The longest wait, whatever the settings say for a road that is none: this one is.
WAIT_S_MAX: Final = 60.0
# So many new ones in one request show that nobody listens at all, where none was stored; then twice as many, and so on.
NEW_MAX: Final = 64
DOUBLINGS_MAX: Final = 6
# A stream has stored something so lately that it is not the road.
HEARD_S: Final = 600.0
# The log hears of new ones so often at most.
SAID_S: Final = 60.0
SHOWN_MAX: Final = 8
SUBJECT_CHARS_MAX: Final = 100


class Quiet(NamedTuple):
    """A silent subject: how often in a row nobody answered, and when the next message may ask."""

    failures: int
    until_s: float


class Silence:
    """What one uplink knows of it, whichever server it asked. `now_s` is a steady clock."""

    def __init__(self, uplink: str, retry: RetrySettings, *, now_s: Callable[[], float]) -> None:
        self._uplink = uplink
        self._initial_s = float(retry.initial)
        self._most_s = min(float(retry.max), WAIT_S_MAX)
        self._now_s = now_s
        self._quiet: dict[bytes, Quiet] = {}
        self._heard_s = self._open_s = self._asking_s = self._said_s = float("-inf")
        self._asks = self._in_vain = 0

    @property
    def subjects(self) -> int:
        """How many are silent."""
        return len(self._quiet)

    @property
    def is_road(self) -> bool:
        """Whether a stream has stored something lately: what nobody hears then says nothing of the road."""
        return self._now_s() - self._heard_s < HEARD_S

    @property
    def first_s(self) -> float:
        """The first wait, in seconds."""
        return min(self._initial_s, self._most_s)

    @property
    def new_max(self) -> int:
        """How many subjects may turn out to be silent in one request of which nothing was stored."""
        return NEW_MAX << min(self._in_vain, DOUBLINGS_MAX)

    def is_quiet(self, subject: bytes) -> bool:
        """Whether nobody listened there when it was tried last."""
        return subject in self._quiet

    def may_ask(self, subject: bytes) -> bool:
        """Whether one message to a silent subject may ask now."""
        now_s = self._now_s()
        if now_s < self._quiet[subject].until_s:
            return False
        if now_s < self._open_s:
            return True
        if now_s - self._asking_s >= ASKS_S:
            self._asking_s, self._asks = now_s, 0
        self._asks += 1
        return self._asks <= ASKS_MAX

    def unheard(self, subject: bytes) -> None:
        """Take note that nobody listens at a subject."""
        before = self._quiet.pop(subject, None)
        failures = 0 if before is None else before.failures
        wait_s = min(self._most_s, self._initial_s * float(1 << min(failures, 30)))
        self._quiet[subject] = Quiet(failures + 1, self._now_s() + wait_s)
        while len(self._quiet) > SUBJECTS_MAX:
            del self._quiet[next(iter(self._quiet))]
        if before is None and self.is_road and self._now_s() - self._said_s >= SAID_S:
            self._said_s = self._now_s()
            log.warning("uplink %s: %s", self._uplink, self.told()["reason"])

    def heard(self, subject: bytes) -> None:
        """Take note that a stream listens at a subject that was silent."""
        if self._quiet.pop(subject, None) is not None:
            self._open_s = self._now_s() + OPEN_S

    def stored(self) -> None:
        """Take note that a stream has stored something of a request."""
        self._heard_s, self._in_vain = self._now_s(), 0

    def nothing_stored(self) -> None:
        """Take note that nobody listened at any subject of a request."""
        self._in_vain += 1

    def left_s(self, subjects: Sequence[bytes]) -> float:
        """Return in how many seconds the first of some subjects may ask, at least the first wait.

        Where too many are silent to ask at once, those who come in vain come less often.
        """
        now_s = self._now_s()
        known = [self._quiet[subject].until_s for subject in subjects if subject in self._quiet]
        least_s = self.first_s
        if len(self._quiet) > ASKS_MAX and now_s >= self._open_s:
            least_s = max(least_s, min(self._most_s, ASKS_S * (len(self._quiet) // ASKS_MAX)))
        return max(least_s, min(known) - now_s) if known else least_s

    def why(self, subjects: Sequence[bytes]) -> str:
        """Return the sentence that says of which subjects it is."""
        silent = [subject for subject in subjects if subject in self._quiet] or subjects
        return nobody_at(_printable(silent[0]), len(silent) - 1)

    def told(self) -> dict[str, Any]:
        """Return what is silent, as `tidegate status` shows it; from another thread, too."""
        quiet = list(self._quiet.items())
        if not quiet:
            return {"subjects": 0, "some": [], "reason": "", "next_try_in_s": 0.0}
        next_s = min(one.until_s for _, one in quiet) - self._now_s()
        return {
            "subjects": len(quiet),
            "some": [_printable(subject) for subject, _ in quiet[-SHOWN_MAX:]],
            "reason": nobody_at(_printable(quiet[-1][0]), len(quiet) - 1),
            "next_try_in_s": round(max(0.0, next_s), 1),
        }


def _printable(subject: bytes) -> str:
    return printable(subject.decode("utf-8", "replace"), SUBJECT_CHARS_MAX)
