"""Leases of which a part was taken, and whose rest has to wait while others go. Must not send, lease or wait itself.

The store knows leases only whole: one that is begun and given back would be sent twice in part. So it stays in hand,
for as long as its signal is held back, or until the data in it that made a server fail may be tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.uplinks.state import CLOCK_STEP_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.core.contracts import Signal
    from gateway.uplinks.requests import Hand
    from gateway.uplinks.state import Holding

# Leases that are put off, and the readings that are left of them, 21 bytes each. Of more at once it is not about the
# data of each.
PUT_OFF_MAX: Final = 32
PUT_OFF_READINGS_MAX: Final = 256 * 1024


class Parked:
    """What one uplink has begun and cannot go on with. Seconds are of one steady clock."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._held: dict[Signal, Hand] = {}  # with their signals: one of each
        self._put_off: list[tuple[float, Hand]] = []
        self._is_others_turn = False

    def __iter__(self) -> Iterator[Hand]:
        yield from self._held.values()
        yield from (hand for _, hand in self._put_off)

    def hold(self, hand: Hand) -> bool:
        """Keep `hand` until its signal is no longer held back; return False where there is one of it already."""
        return self._held.setdefault(hand.lease.signal, hand) is hand

    def put_off(self, hand: Hand, *, until_s: float) -> bool:
        """Keep `hand` until then, others have their turn first; return False where there are too many."""
        readings = sum(_readings(other) for other in (hand, *(other for _, other in self._put_off)))
        if self._put_off and (len(self._put_off) >= PUT_OFF_MAX or readings > PUT_OFF_READINGS_MAX):
            return False
        self._is_others_turn = True
        self._put_off.append((until_s, hand))
        return True

    def has_due(self, now_s: float) -> bool:
        """Whether there is one to go on with."""
        return bool(self._due(now_s))

    def pop_due(self, now_s: float) -> Hand | None:
        """Return one to go on with, None where there is none, or where one was put off since the last time.

        Of many that fail again and again there is always one that is due.
        """
        is_others_turn, self._is_others_turn = self._is_others_turn, False
        due = [] if is_others_turn else self._due(now_s)
        return self._remove(due[0]) if due else None

    def pop(self) -> Hand | None:
        """Return any of them, None where there is none."""
        return next((self._remove(hand) for hand in self), None)

    def left_s(self, now_s: float) -> float | None:
        """Return in how many seconds the next of those that are put off is due, None where none is."""
        return min((max(0.0, until_s - now_s) for until_s, _ in self._put_off), default=None)

    def _due(self, now_s: float) -> list[Hand]:
        may_go = self._holding.over(self._held, now_s)
        put_off = [hand for until_s, hand in self._put_off if now_s >= until_s - CLOCK_STEP_S]
        return [self._held[signal] for signal in may_go] + [
            hand for hand in put_off if not self._holding.is_held(hand.lease.signal, now_s)
        ]

    def _remove(self, hand: Hand) -> Hand:
        self._held = {signal: other for signal, other in self._held.items() if other is not hand}
        self._put_off = [(until_s, other) for until_s, other in self._put_off if other is not hand]
        return hand


def _readings(hand: Hand) -> int:
    return sum(map(len, hand.parts or ()))
