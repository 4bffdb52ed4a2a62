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
| 5xx                          | when other data was taken after it            | nothing                          |

What was taken of a lease before says the same of a 4xx, so that a road that begins to refuse all in the middle of one
costs the rest of it. A server that fails must have taken something since.

A server's own error may be over in a moment, or come of the data whenever they are sent. They are put off, so that
others go meanwhile; when one of them was taken it is not the server, and who shares a request with the guilty is not to
wait with them:

    WHOLE ─ other data was taken ─→ CUT ─ only small parts are left ─→ ALONE ─ failed often enough ─→ LAST
      whole again, later              halves of what fails                one of them, ever later       each once more

Only then are they given up. A try counts unless the server has failed at other data since the one before and taken
none, so that no outage does that.

A connection that breaks, or on which no answer comes, is a matter of the road, and is tried again. Where it breaks at
the same lease time and again while others are taken, or would be if they had their turn, it may be for what is in it: a
broker hangs up on a packet that it does not like, and a filter in between on a word. Then it goes the same way, down to
the guilty; but a road may break as often by itself, so they have many more tries, which take hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import HoldError

if TYPE_CHECKING:
    from random import Random

    from gateway.uplinks.guards import StatusRefusedError

REFUSED_MAX: Final = 3
# How often the same data meets a server's own error until it counts as its cause; with the waits that is some minutes.
TRIES_MAX: Final = 8
# And where the server took something lately that it had failed at by itself before, within so many of such tries: one
# that fails at every second request, whatever is in it, fails at the same eight times in a row, too.
TRIES_IN_DOUBT_MAX: Final = 24
DOUBT_MAX: Final = 64
# And where so much of it waits that there is hardly room for more; that is a quarter of a minute.
TRIES_HURRIED_MAX: Final = 4
# For how long others go first, at first and at most; at random a bit less.
PUT_OFF_S: Final = 2.0
PUT_OFF_S_MAX: Final = 60.0
PUT_OFF_LEAST: Final = 0.75
# So many failures in a row, with nothing taken between them, are not of parts of one lease: it may be the server.
ROW_MAX: Final = 12
LEASES_KEPT: Final = 1024
# A lease is cut in so many parts at most: what shares one with the guilty is given up with it.
PARTS_MAX: Final = 256
# What a server failed at is cut so often to the single reading, and then only to such a part.
CUTS_MAX: Final = 256
# So many requests of one lease are refused in a row until it seems that no part of it is taken; of a road that is shut
# the whole and one part.
REFUSALS_MAX: Final = 48
SHOWN_MAX: Final = 2
# How often a connection breaks at the same lease until it may be for what is in it.
BREAKS_MAX: Final = 3
# And how often at the guilty alone, until they are given up; the second where much waits for its last try.
TRIES_BROKEN_MAX: Final = 96
TRIES_BROKEN_HURRIED_MAX: Final = 24


class Stage(IntEnum):
    """How far it is known what in a lease makes a server fail."""

    WHOLE = 0  # whether it is the data at all
    CUT = 1  # it is in one of the parts that are left
    ALONE = 2  # no more than that is left
    LAST = 3  # and it is given up with the next failure


class NothingTakenError(HoldError):
    """It may be the road: the lease goes back, until something else was taken."""


@dataclass(slots=True)
class Met:
    """What is known of a lease that was refused: how much had been taken by then, and what the server failed at.

    `failures` are those that count, `tries` all of them; `seen` is how much had been taken at the last one, and
    `failed` how often it had failed at others.
    """

    taken: int
    seen: int = 0
    failed: int = 0
    failures: int = 0
    tries: int = 0


@dataclass(slots=True)
class Broke:
    """How often a connection broke at a lease, and how much had been taken when it did last."""

    times: int = 0
    taken: int = -1


class Verdicts:
    """What one road has refused of one signal since it last took anything of it."""

    def __init__(self, random: Random) -> None:
        self.in_a_row = 0
        self._random = random
        self._failed_in_a_row = self._failed = 0
        self._alone_in_a_row = DOUBT_MAX
        self._taken = 0
        self._met: dict[int, Met] = {}  # by the first segment of the lease
        self._broke: dict[int, Broke] = {}  # the same

    def took(self, stage: Stage = Stage.WHOLE) -> None:
        """Take note that a request was taken: the road is one."""
        if stage is Stage.ALONE:
            self._alone_in_a_row = 0
        self.in_a_row = self._failed_in_a_row = 0
        self._taken += 1

    def refused(self, *, first_id: int, is_begun: bool = False) -> None:
        """Take note that a request was refused: it is to be sent in parts.

        `first_id` is the row id of the lease's first segment: by it the same data is known again. `is_begun` says that
        a part of the lease was taken before: who took that and refuses this says no to the data.
        """
        met = self._of(first_id)
        if is_begun:
            met.taken = min(met.taken, self._taken - 1)

    def broke(self, *, first_id: int, is_waited_for: bool) -> bool:
        """Take note that a connection broke at a lease; return whether that may be for what is in it.

        Where others had been taken since it did so last, or have no turn before this one, that counts.
        """
        broke = self._broke.setdefault(first_id, Broke())
        while len(self._broke) > LEASES_KEPT:
            del self._broke[next(iter(self._broke))]
        broke.times += self._taken > broke.taken or is_waited_for
        broke.taken = self._taken
        return broke.times >= BREAKS_MAX

    def failed(
        self, error: TryLaterError | StatusRefusedError, stage: Stage, *, first_id: int, is_hurried: bool = False
    ) -> Stage:
        """Take note that a server failed at a request of a lease, or the connection broke; return how that is to go on.

        One that `is_hurried` has fewer tries, since others wait for its place. Raises TryLaterError where it is to be
        put off: a server may have taken all of it before it failed.
        """
        met = self._of(first_id)
        self._failed_in_a_row += 1
        is_known = met.tries > 0
        if stage in {Stage.WHOLE, Stage.ALONE}:
            met.tries += 1
            do_others_go = self._taken > met.seen or (stage is Stage.ALONE and self._failed == met.failed)
            met.failures += do_others_go or not is_known
            self._failed += stage is Stage.WHOLE
            met.seen, met.failed = self._taken, self._failed
        if stage is Stage.WHOLE and is_known and self._taken > met.taken:
            stage = Stage.CUT
        elif stage is Stage.WHOLE or (stage is Stage.CUT and self._failed_in_a_row > ROW_MAX):
            answer_lost = error.answer_lost if isinstance(error, TryLaterError) else True
            raise TryLaterError(str(error), answer_lost=answer_lost, put_off_s=self.put_off_s(first_id))
        elif stage is Stage.ALONE:
            self._alone_in_a_row += 1
            if met.failures >= self._tries_max(is_broken=isinstance(error, TryLaterError), is_hurried=is_hurried):
                stage = Stage.LAST
        return stage

    def _tries_max(self, *, is_broken: bool, is_hurried: bool) -> int:
        if is_broken:
            return TRIES_BROKEN_HURRIED_MAX if is_hurried else TRIES_BROKEN_MAX
        if self._alone_in_a_row <= DOUBT_MAX:
            return TRIES_IN_DOUBT_MAX
        return TRIES_HURRIED_MAX if is_hurried else TRIES_MAX

    def put_off_s(self, first_id: int) -> float:
        """Return for how long others go before what a server failed at: each time for longer."""
        doublings = min(self._of(first_id).tries, TRIES_MAX) - 1
        return min(PUT_OFF_S_MAX, PUT_OFF_S * float(2 ** max(doublings, 0))) * self._random.uniform(PUT_OFF_LEAST, 1.0)

    def has_failed(self, first_id: int) -> bool:
        """Whether a server failed at a lease before."""
        return first_id in self._met and self._met[first_id].tries > 0

    def refusals_max(self, first_id: int) -> int:
        """Return how many requests of a lease are refused in a row until it seems that no part of it is taken."""
        return SHOWN_MAX if self.in_a_row >= REFUSED_MAX and not self.is_about_data(first_id) else REFUSALS_MAX

    def is_about_data(self, first_id: int) -> bool:
        """Whether something was taken since the lease was first refused."""
        met = self._met.get(first_id)
        return met is not None and self._taken > met.taken

    def conclude(self, reason: str, *, first_id: int, parts: int) -> None:
        """Return where the parts of a lease that were refused are given up; raise HoldError where they are not."""
        if self.is_about_data(first_id):
            self.forget(first_id)
            return
        self.in_a_row += 1
        if parts > REFUSED_MAX or self.in_a_row > REFUSED_MAX:
            raise _nothing_taken(reason)

    def forget(self, first_id: int) -> None:
        """Take note that a lease is settled."""
        self._met.pop(first_id, None)
        self._broke.pop(first_id, None)

    def _of(self, first_id: int) -> Met:
        met = self._met.setdefault(first_id, Met(self._taken))
        while len(self._met) > LEASES_KEPT:
            del self._met[next(iter(self._met))]
        return met


def _nothing_taken(reason: str) -> NothingTakenError:
    return NothingTakenError(
        f"{reason}; nothing was taken since then and nothing more is given up for it: correct the endpoint, or see why "
        "the receiver refuses",
        after_s=0.0,
    )
