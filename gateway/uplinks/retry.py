"""How long to wait after failures: four schedules, and who counts along one of them. Must not sleep or ask a clock.

| strategy              | the wait after failure n (0 is the first)                                        |
| --------------------- | -------------------------------------------------------------------------------- |
| `full_jitter`         | at random, up to `initial` by 2ⁿ                                                 |
| `decorrelated_jitter` | at random, from `initial` up to three times the wait before                      |
| `exponential`         | `initial` by 2ⁿ                                                                  |
| `fixed`               | `initial`                                                                        |

None is longer than `max`, and they go on without an end. The jitter is what keeps a fleet from coming back in one
second ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.uplinks.settings import RetrySettings

Strategy = Literal["full_jitter", "decorrelated_jitter", "exponential", "fixed"]
FULL_JITTER: Final = "full_jitter"

_DOUBLINGS_MAX: Final = 30
_GROWTH: Final = 3.0


class Step(NamedTuple):
    """Where on a schedule one stands: failures before this one, the last wait, the first bound and the longest."""

    failures: int
    last_s: float
    initial_s: float
    max_s: float

    @property
    def bound_s(self) -> float:
        """The first bound, doubled with each failure.

        >>> [Step(n, 0, 1, 60).bound_s for n in (0, 1, 5, 6, 10**9)]
        [1.0, 2.0, 32.0, 60, 60]
        """
        return min(self.max_s, self.initial_s * float(1 << min(self.failures, _DOUBLINGS_MAX)))


def full_jitter(step: Step, random: Random) -> float:
    """Return anything up to a bound that doubles."""
    return random.uniform(0, step.bound_s)


def decorrelated_jitter(step: Step, random: Random) -> float:
    """Return anything from the first bound up to three times the wait before."""
    return min(step.max_s, random.uniform(step.initial_s, max(step.initial_s, _GROWTH * step.last_s)))


def exponential(step: Step, _: Random) -> float:
    """Return a wait that doubles."""
    return step.bound_s


def fixed(step: Step, _: Random) -> float:
    """Return the same wait each time."""
    return min(step.initial_s, step.max_s)


SCHEDULES: Final[dict[Strategy, Callable[[Step, Random], float]]] = {
    "full_jitter": full_jitter,
    "decorrelated_jitter": decorrelated_jitter,
    "exponential": exponential,
    "fixed": fixed,
}


@dataclass(slots=True)
class Backoff:
    """Counts failures in a row, and says how long to wait after each.

    What the server asks for is the least, plus jitter, lest it has all at once again whom it asked.
    """

    initial_s: float
    max_s: float
    random: Random
    failures: int = 0
    strategy: Strategy = FULL_JITTER
    last_s: float = 0.0

    @classmethod
    def of(cls, settings: RetrySettings, random: Random) -> Backoff:
        """Return one as the settings say."""
        return cls(float(settings.initial), float(settings.max), random, strategy=settings.strategy)

    def failed(self, after_s: float = 0.0, *, bound_s: float = float("inf")) -> float:
        """Count a failure; return the seconds to wait, not over `bound_s` where the server asked for none."""
        step = Step(self.failures, self.last_s, self.initial_s, min(bound_s, self.max_s))
        self.failures += 1
        if after_s > 0:
            return after_s + self.random.uniform(0, min(self.initial_s, self.max_s))
        self.last_s = SCHEDULES[self.strategy](step, self.random)
        return self.last_s

    def succeeded(self) -> bool:
        """Start over; return whether there had been failures."""
        had_failed = self.failures > 0
        self.failures, self.last_s = 0, 0.0
        return had_failed
