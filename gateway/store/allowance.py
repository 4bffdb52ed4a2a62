"""Allowance: how many readings an uplink may lease before the next commit, as the state row on the disk says it.

A process that dies can tell nobody what it sent since its last commit, and the far side may have it. So each commit
says how much may be leased until the next one, no more is leased than that, and the next start counts it as possibly
sent twice: what is announced is never less than what comes twice. It costs no commits where data flows; where the
allowance runs out one is asked for. Does no I/O.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.core.words import span

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from typing import Protocol

    class HasAllowance(Protocol):
        """Whoever leases."""

        allowance: Allowance


log = logging.getLogger("tidegate.store")

# Two full segments go without asking; a fast road is given what it takes in four commits, so that it never stands still
# for one, up to a bound on what a kill makes come twice. Beyond that it asks for commits: one in so many readings costs
# next to nothing.
READINGS_MIN: Final = 49_152
READINGS_MAX: Final = 786_432
# With less than this share left the next commit is asked for, so that it is there when the rest is used up.
ASK_SHARE: Final = 8
# How long a disk takes no commit until data leaves uncounted: what a dying card still holds is worth more than that.
# One that fails or turned read-only is not waited for: it seldom comes back, and may soon not be readable either.
MUTE_S: Final = 60.0
_NOTHING: Final = -(1 << 62)


@dataclass(slots=True)
class Limit:
    """What a state row that may be on the disk allows, less what has been leased since it was planned."""

    number: int
    left: int


class Allowance:
    """One uplink's allowance. `ask()` asks for a commit now.

    While a commit is under way, and after one that failed, a process that dies leaves either the state row from before
    or the new one: no more is leased than both of them allow.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self.is_mute = False  # the disk takes nothing: data leaves all the same
        self._ask = ask
        self._limits: list[Limit] = []
        self._number = 0
        self._size = READINGS_MIN
        self._used = 0
        self._wanted = 0
        self._rests_until_s = float("inf")
        self._is_closing = False
        self.is_awaited = False  # somebody waits for the next commit
        self._changed = asyncio.Event()

    @property
    def left(self) -> int:
        """How many readings may be leased now."""
        return min((limit.left for limit in self._limits), default=0)

    def covers(self, readings: int) -> bool:
        """Whether so many readings may be leased now; if not, the next commits allow them until they are leased."""
        if self.is_mute or readings <= self.left:
            self._wanted = 0
            return True
        self._wanted = max(self._wanted, readings)
        return False

    def take(self, readings: int) -> int:
        """Take note that so many are leased; return what `give_back` wants to know."""
        self._used += readings
        for limit in self._limits:
            limit.left -= readings
        if self._limits and self.left < self._size // ASK_SHARE and not self.is_mute:
            self._ask()
        return self._number

    def give_back(self, readings: int, number: int) -> None:
        """Take note that what `take` returned `number` for has certainly not reached the far side."""
        self._used = max(0, self._used - readings)
        for limit in self._limits:
            if limit.number <= number:
                limit.left += readings

    def doubt(self) -> None:
        """Take note that something may be sent a second time: not before a commit has counted that."""
        for limit in self._limits:
            limit.left = _NOTHING

    @property
    def is_in_doubt(self) -> bool:
        """Whether what was last counted as possibly sent twice is not on the disk yet."""
        return not self.is_mute and self.left < _NOTHING // 2

    def rest(self, until_s: float) -> None:
        """Take note that nothing is leased until then, in the loop's time; at first, for ever."""
        self._rests_until_s = until_s

    async def wait(self) -> bool:
        """Ask for a commit, and return when there was one; False where there will be none."""
        if self._is_closing:
            return False
        self._changed.clear()
        self._ask()
        self.is_awaited = True
        try:
            await self._changed.wait()
        finally:
            self.is_awaited = False
        return not self._is_closing

    # Around each commit.

    def plan(self, *, by_s: float) -> int:
        """Return what a commit allows until the next one, which is expected by `by_s` in the loop's time."""
        if self._rests_until_s > by_s:
            size = 0
        else:
            size = max(READINGS_MIN, min(READINGS_MAX, 4 * self._used), self._size * 7 // 8, 2 * self._wanted)
            self._size = size
        # Of an earlier plan that was never written nobody knows whether it is on the disk.
        if self._limits:
            self._limits = [Limit(self._number, self.left)]
        self._number += 1
        self._limits.append(Limit(self._number, size))
        self._used = 0
        return size

    def written(self) -> None:
        """Take note that what was planned last is on the disk."""
        self._limits = self._limits[-1:]
        self.is_mute = False
        self._changed.set()

    def mute(self) -> None:
        """Let data leave: the disk has not taken anything for long."""
        self.is_mute = True
        self._changed.set()

    def close(self) -> None:
        """Let those who wait go: there is no other commit but the last."""
        self._is_closing = True
        self._changed.set()


def allow_all(desks: Mapping[str, HasAllowance], *, next_s: float, called: Container[str]) -> dict[str, int]:
    """Return what a commit allows each uplink until the next one, by `next_s`; who is `called` leases at once."""
    return {name: desk.allowance.plan(by_s=float("inf") if name in called else next_s) for name, desk in desks.items()}


def mute_all(allowances: Iterable[Allowance], *, failing_s: float) -> None:
    """Let data leave although nothing can be written for so long now: what is sent is forgotten if the process dies."""
    quiet = [allowance for allowance in allowances if not allowance.is_mute]
    if quiet:
        log.warning(
            "nothing can be written%s: what is held is sent all the same, and may be sent again after a restart",
            f" since {span(round(failing_s))}" if failing_s >= 1 else "",
        )
    for allowance in quiet:
        allowance.mute()
