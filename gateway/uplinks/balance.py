"""Which of several receivers is next: failover, round robin, weighted, least outstanding. Must not send or ask a clock.

| balance             | who is first                                                                             |
| ------------------- | ---------------------------------------------------------------------------------------- |
| `failover`          | the one that stands first in the configuration                                           |
| `round_robin`       | the one behind the last                                                                  |
| `weighted`          | the one that is furthest behind its part; in between the others, not all in a row        |
| `least_outstanding` | the one that had requests outstanding for the shortest time of late                      |

An uplink has one request under way at a time, so none of its receivers ever has more outstanding than another at the
moment when somebody is chosen. What differs is for how long: whoever takes three seconds for an answer has three times
as much outstanding, on average, as who takes one, and whoever hangs has most. That is what `least_outstanding` evens
out, over about a minute. Which of them may be asked at all is for health.py to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Kind = Literal["failover", "round_robin", "weighted", "least_outstanding"]
FAILOVER: Final = "failover"
# Half of what was outstanding is forgotten in this time.
HALF_LIFE_S: Final = 20.0


class Balance(Protocol):
    """Orders receivers, which are numbers here, and hears who was sent to."""

    def order(self, among: Sequence[int], now_s: float) -> list[int]:
        """Return `among`, whoever is to be asked first in front; nothing is changed by it."""
        ...

    def sent(self, one: int, among: Sequence[int], *, busy_s: float, now_s: float) -> None:
        """Take note that `one` of `among` was sent to, and that it took so long until that had ended."""
        ...


class Failover:
    """In the order of the configuration."""

    def __init__(self, _: Sequence[int]) -> None: ...

    def order(self, among: Sequence[int], now_s: float) -> list[int]:  # noqa: ARG002
        """Return them as they stand there."""
        return sorted(among)

    def sent(self, one: int, among: Sequence[int], *, busy_s: float, now_s: float) -> None:
        """Nothing is to be remembered."""


class RoundRobin:
    """One after the other."""

    def __init__(self, weights: Sequence[int]) -> None:
        self._many = len(weights)
        self._last = self._many - 1

    def order(self, among: Sequence[int], now_s: float) -> list[int]:  # noqa: ARG002
        """Return them from the one behind the last."""
        return sorted(among, key=lambda one: (one - self._last - 1) % self._many)

    def sent(self, one: int, among: Sequence[int], *, busy_s: float, now_s: float) -> None:  # noqa: ARG002
        """Remember the last."""
        self._last = one


class Weighted:
    """Smooth weighted round robin, as nginx has it: each turn everybody gains its weight, and who is sent to pays all.

    >>> balance, sent = Weighted([3, 1]), []
    >>> for _ in range(8):
    ...     sent.append(balance.order([0, 1], 0.0)[0])
    ...     balance.sent(sent[-1], [0, 1], busy_s=0.0, now_s=0.0)
    >>> sent
    [0, 0, 1, 0, 0, 0, 1, 0]
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._owed = [0] * len(weights)

    def order(self, among: Sequence[int], now_s: float) -> list[int]:  # noqa: ARG002
        """Return them by what they are owed."""
        return sorted(among, key=lambda one: (-self._owed[one] - self._weights[one], one))

    def sent(self, one: int, among: Sequence[int], *, busy_s: float, now_s: float) -> None:  # noqa: ARG002
        """Let everybody gain, and the one pay."""
        for other in among:
            self._owed[other] += self._weights[other]
        self._owed[one] -= sum(self._weights[other] for other in among)


class LeastOutstanding:
    """By the seconds for which each had a request outstanding, of which half is forgotten every `HALF_LIFE_S`."""

    def __init__(self, weights: Sequence[int]) -> None:
        self._busy_s = [0.0] * len(weights)
        self._at_s = [0.0] * len(weights)

    def outstanding_s(self, one: int, now_s: float) -> float:
        """Return the seconds, as far as they are remembered."""
        past_s = max(0.0, now_s - self._at_s[one])
        return float(self._busy_s[one] * 0.5 ** (past_s / HALF_LIFE_S))

    def order(self, among: Sequence[int], now_s: float) -> list[int]:
        """Return them by what they had outstanding."""
        return sorted(among, key=lambda one: (self.outstanding_s(one, now_s), one))

    def sent(self, one: int, among: Sequence[int], *, busy_s: float, now_s: float) -> None:  # noqa: ARG002
        """Add what it had outstanding."""
        self._busy_s[one] = self.outstanding_s(one, now_s) + busy_s
        self._at_s[one] = now_s


KINDS: Final[dict[Kind, Callable[[Sequence[int]], Balance]]] = {
    "failover": Failover,
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "least_outstanding": LeastOutstanding,
}
