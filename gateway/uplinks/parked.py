"""Leases in hand whose rest has to wait while others go. Must not send, lease or wait itself.

The store knows leases only whole: one that is begun and given back would be sent twice in part. So it stays in hand,
for as long as its signal is held back, or until the data in it that made a server fail may be tried again. Such tries
have a share of the time where anything else waits, and all of it where nothing does: however much there is of what a
server fails at, what is fresh is fresh.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.uplinks.state import CLOCK_STEP_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.core.contracts import Signal
    from gateway.uplinks.requests import Hand
    from gateway.uplinks.state import Holding

# Leases that are put off, and the memory for what is left of them and for what stands for them on the disk.
PUT_OFF_MAX: Final = 128
PUT_OFF_BYTES_MAX: Final = 6 << 20
READING_BYTES: Final = 21
# From so many on each has fewer tries, so that there is room for others.
CROWDED: Final = 96
# So many that nobody hears are enough to be written anew together.
UNHEARD_MANY: Final = 64
# Which part of the time goes into tries of what a server failed at while others wait: as much as a backlog has.
TRIES_SHARE: Final = 0.3


class PutOff(NamedTuple):
    """A lease that is put off, and what is left of it, which does not change meanwhile; `gives_way`: to fresh data."""

    until_s: float
    hand: Hand
    readings: int
    gives_way: bool

    @property
    def size_bytes(self) -> int:
        """How much memory it takes, about."""
        return self.hand.lease.size_bytes + READING_BYTES * self.readings


class Parked:
    """What one uplink has in hand and cannot go on with. Seconds are of one steady clock."""

    def __init__(self, holding: Holding) -> None:
        self.overflowed = 0  # how often there was no room since the start
        self._holding = holding
        self._held: dict[Signal, Hand] = {}  # with their signals: one of each
        self._put_off: list[PutOff] = []
        self._others_until_s = float("-inf")

    def __iter__(self) -> Iterator[Hand]:
        yield from self._held.values()
        yield from (item.hand for item in self._put_off)

    @property
    def has_room(self) -> bool:
        """Whether one more may be put off."""
        size_bytes = sum(item.size_bytes for item in self._put_off)
        return len(self._put_off) < PUT_OFF_MAX and size_bytes < PUT_OFF_BYTES_MAX

    @property
    def is_crowded(self) -> bool:
        """Whether there will soon be no room."""
        return len(self._put_off) >= CROWDED

    @property
    def unheard(self) -> list[Hand]:
        """What waits since nobody hears it where it goes, where there is much of it, or no room for more."""
        found = [item.hand for item in self._put_off if item.hand.waits_for]
        return found if len(found) >= UNHEARD_MANY or not self.has_room else []

    def unheard_s(self, now_s: float) -> float:
        """Return in how many seconds the last of that is due."""
        return max((item.until_s - now_s for item in self._put_off if item.hand.waits_for), default=0.0)

    @property
    def leased_readings(self) -> int:
        """How many readings their leases are of, of which most may be taken."""
        return sum(hand.lease.readings for hand in self)

    def finds_room(self) -> bool:
        """Return whether there is room for one that comes now; that there is none is counted."""
        has_room = self.has_room
        self.overflowed += not has_room
        return has_room

    def hold(self, hand: Hand) -> bool:
        """Keep `hand` until its signal is no longer held back; return False where there is one of it already."""
        return self._held.setdefault(hand.lease.signal, hand) is hand

    def put_off(self, hand: Hand, *, until_s: float, gives_way: bool = False) -> bool:
        """Keep `hand` until then; return False where there are too many. `gives_way`: nothing is wrong with it."""
        if not self.finds_room():
            return False
        # What its columns are stands in the bodies, too.
        hand.lease.segments = [replace(segment, readable=None) for segment in hand.lease.segments]
        self._put_off.append(PutOff(until_s, hand, sum(map(len, hand.parts or ())), gives_way))
        return True

    def tried(self, seconds: float, *, now_s: float) -> None:
        """Take note that a try of what a server failed at took so long: others have theirs now, if there are any."""
        self._others_until_s = now_s + seconds * (1 / TRIES_SHARE - 1)

    def is_turn(self, now_s: float) -> bool:
        """Whether what was put off may be tried though others wait."""
        return now_s >= self._others_until_s

    def has_due(self, now_s: float) -> bool:
        """Whether there is one to go on with."""
        return bool(self._due(now_s))

    def pop_due(self, now_s: float, *, may_be_suspect: bool = True) -> Hand | None:
        """Return one to go on with, None where there is none; one that failed by itself only if that is asked for."""
        due = (hand for hand in self._due(now_s) if may_be_suspect or not (hand.is_suspect or hand.waits_for))
        return next((self._remove(hand) for hand in due), None)

    def remove(self, hand: Hand) -> None:
        """Let go of one that is settled."""
        self._remove(hand)

    def pop(self) -> Hand | None:
        """Return any of them, None where there is none."""
        return next((self._remove(hand) for hand in self), None)

    def left_s(self, now_s: float) -> float | None:
        """Return in how many seconds the next of those that are put off is due, None where none will be."""
        waiting = [item.until_s for item in self._put_off if self._may_go(item.hand, now_s)]
        return max(0.0, min(waiting) - now_s) if waiting else None

    def told(self) -> dict[str, Any]:
        """Return what is put off, as `tidegate status` shows it."""
        failing = [item for item in self._put_off if not item.gives_way]
        return {
            "leases": len(failing),
            "readings": sum(item.readings for item in failing),
            "overflowed": self.overflowed,
            "unheard": sum(bool(item.hand.waits_for) for item in failing),
            "gives_way": sum(item.readings for item in self._put_off if item.gives_way),
        }

    def _due(self, now_s: float) -> list[Hand]:
        """Return them, the one that has been due for longest first."""
        may_go = self._holding.over(self._held, now_s)
        put_off = [item for item in self._put_off if now_s >= item.until_s - CLOCK_STEP_S]
        put_off.sort(key=lambda item: item.until_s)
        return [self._held[signal] for signal in may_go] + [
            item.hand for item in put_off if self._may_go(item.hand, now_s)
        ]

    def _may_go(self, hand: Hand, now_s: float) -> bool:
        return not self._holding.is_held(hand.lease.signal, now_s)

    def _remove(self, hand: Hand) -> Hand:
        self._held = {signal: other for signal, other in self._held.items() if other is not hand}
        self._put_off = [item for item in self._put_off if item.hand is not hand]
        return hand
