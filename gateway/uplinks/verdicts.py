"""Whether what was refused is given up: a refusal may be about the data, or about a road that takes nothing. No I/O.

By OTLP's rules each refusal is final for the data in it. But one bad device would take the readings of all others with
it, and a receiver out of memory that answers 500, a wrong port or a proxy with a limit of its own refuse whatever
comes: by the rules a week's backlog would be in the ledger within seconds. So what was refused is sent in halves, down
to small parts: those that are taken show that the road is one, and then the rest is about the data. Where no part is
taken nothing is given up, but for a few readings, until something else was taken. A road that has taken nothing of
some leases is shut: of each further one it is shown the whole and one small part, so that it costs little, and so that
the guilty who are in every lease do not keep it shut when it is one again.

| answer                       | sent in parts                                 | given up where nothing was taken |
| ---------------------------- | --------------------------------------------- | -------------------------------- |
| 4xx, and 413 for one reading | at once                                       | 3 leases of 3 parts at most      |
| 5xx                          | when the same data met it again and again     | nothing                          |

Data that meets a server's own error is put off each time for longer, so that others are taken meanwhile if they can be.
What was taken of a lease before says the same of a 4xx, so that a road that begins to refuse all in the middle of one
costs the rest of it. A server that fails must have taken something since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import SERVER_ERROR, HoldError

REFUSED_MAX: Final = 3
# How often the same data meets a server's own error until it counts as its cause; with back-off that is some minutes.
TRIES_MAX: Final = 8
# For how long others go first, at first and at most.
PUT_OFF_S: Final = 2.0
PUT_OFF_S_MAX: Final = 60.0
LEASES_KEPT: Final = 64
# A lease is cut in so many parts at most: what shares one with the guilty is given up with it.
PARTS_MAX: Final = 256
# So many requests of one lease are refused in a row until it seems that no part of it is taken; of a road that is shut
# the whole and one part.
REFUSALS_MAX: Final = 48
SHOWN_MAX: Final = 2


class NothingTakenError(HoldError):
    """It may be the road: the lease goes back, until something else was taken."""


@dataclass(slots=True)
class Met:
    """What is known of a lease that was refused: how much had been taken by then, and how often the server failed."""

    taken: int
    failures: int = 0


class Verdicts:
    """What one road has refused of one signal since it last took anything of it."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._taken = 0
        self._met: dict[int, Met] = {}  # by the first segment of the lease

    def took(self) -> None:
        """Take note that a request was taken: the road is one."""
        self.in_a_row = 0
        self._taken += 1

    def met(self, reason: str, *, status: int, first_id: int, is_begun: bool = False) -> None:
        """Take note that a request was refused; return where it is to be sent in parts, raise what to do instead.

        `first_id` is the row id of the lease's first segment: by it the same data is known again. `is_begun` says that
        a part of the lease was taken before: who took that and refuses this says no to the data, but a server that
        fails may have begun to fail.
        """
        met = self._met.setdefault(first_id, Met(self._taken))
        while len(self._met) > LEASES_KEPT:
            del self._met[next(iter(self._met))]
        if status < SERVER_ERROR:
            if is_begun:
                met.taken = min(met.taken, self._taken - 1)
            return
        met.failures += 1
        if met.failures < TRIES_MAX:
            # It may have taken all of it before it failed. And it may be this data: the others are not to wait for it,
            # not at all where the road has taken some of them since this one failed first.
            error = TryLaterError(reason, answer_lost=True, put_off_s=self._put_off_s(met))
            error.at_once = self._taken > met.taken
            raise error
        if met.failures == TRIES_MAX:
            met.taken = self._taken

    @staticmethod
    def _put_off_s(met: Met) -> float:
        return min(PUT_OFF_S_MAX, PUT_OFF_S * float(2 ** (met.failures - 1)))

    def refusals_max(self, first_id: int) -> int:
        """Return how many requests of a lease are refused in a row until it seems that no part of it is taken."""
        return SHOWN_MAX if self.in_a_row >= REFUSED_MAX and not self.is_about_data(first_id) else REFUSALS_MAX

    def is_about_data(self, first_id: int) -> bool:
        """Whether something was taken since the lease was first refused."""
        met = self._met.get(first_id)
        return met is not None and self._taken > met.taken

    def conclude(self, reason: str, *, status: int, first_id: int, parts: int) -> None:
        """Return where the parts of a lease that were refused are given up; raise HoldError where they are not."""
        if self.is_about_data(first_id):
            del self._met[first_id]
            return
        self.in_a_row += 1
        if status >= SERVER_ERROR or parts > REFUSED_MAX or self.in_a_row > REFUSED_MAX:
            raise _nothing_taken(reason)


def _nothing_taken(reason: str) -> NothingTakenError:
    return NothingTakenError(
        f"{reason}; nothing was taken since then and nothing more is given up for it: correct the endpoint, or see why "
        "the receiver refuses",
        after_s=0.0,
    )
