"""What receivers' answers say of the time of day, where no time server vouches for the clock. Must not set a clock.

Where the time is not known at all it is taken from them: coarse, but of this century. A clock that may be right is
believed; but where it is far from what they say, that is said: a board without a battery begins where it was switched
off, and what it stamps from then on may be hours astray. Where those who say so have shown a certificate, and say it
again and again, their time is taken and the clock is not: it is wrong by more than any answer can be late.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gateway.control.clocks import clock_astray
from gateway.core.clock import NS_PER_S, Quality, Sample, is_plausible

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.clock import Clock, Timeline

log = logging.getLogger("tidegate")

# An answer's Date is in seconds, and may have lain in a proxy; links are slow.
ASTRAY_S_MIN: Final = 120
# So many answers in a row, and none of them off from the one before by more than this, are believed.
AGREEING: Final = 3
AGREE_S: Final = 5
# What they say next is told apart from their own coarseness by this.
COARSE_S: Final = 2


class ServerTime:
    """What was heard last. `astray_s` is by how many seconds the clock is ahead of it, 0 where that may be nothing."""

    def __init__(self, timeline: Callable[[], Timeline], clock: Clock) -> None:
        self._timeline = timeline
        self._clock = clock
        self._astray_s = 0
        self._agreeing = 0  # answers in a row that were vouched for and said that it is astray
        self._told_ns = 0  # by how much the last of them was ahead of the monotonic clock

    @property
    def astray_s(self) -> int:
        """By how many seconds the clock was ahead (or behind, if negative); 0 since it is confirmed."""
        return 0 if self._timeline().quality is Quality.SYNCED else self._astray_s

    def heard(self, server_time_s: int, rtt_s: float, *, is_vouched: bool = False) -> None:
        """Take note of an answer that said Unix time `server_time_s`, and of how long it took.

        `is_vouched` is whether whoever says it has shown a certificate that was found good.
        """
        timeline = self._timeline()
        # Upstream may have booted without a clock as well, or be nobody to believe.
        if not is_plausible(server_time_s * NS_PER_S) or timeline.quality is Quality.SYNCED:
            return
        monotonic_ns = self._clock.monotonic_ns()
        wall_ns = server_time_s * NS_PER_S + int(rtt_s * NS_PER_S / 2)
        told = Sample(monotonic_ns, wall_ns - monotonic_ns, Quality.UNSYNCED)
        own_ns = self._clock.wall_ns() if timeline.is_doubted else timeline.wall_from(monotonic_ns)
        if timeline.quality is Quality.UNKNOWN or own_ns is None:
            timeline.add(told)
            return
        was_said, astray_s = self._astray_s != 0, round((own_ns - wall_ns) / NS_PER_S)
        self._astray_s = astray_s if abs(astray_s) >= ASTRAY_S_MIN + rtt_s else 0
        if self._astray_s and not was_said:
            log.warning("%s", clock_astray(self._astray_s, is_doubted=timeline.is_doubted))
        if is_vouched:
            self._weigh(timeline, told, rtt_s)

    def _weigh(self, timeline: Timeline, told: Sample, rtt_s: float) -> None:
        """Go by what was `told`, or by the clock."""
        if not self._astray_s:
            self._agreeing = 0
            if timeline.is_doubted:
                timeline.trust()
                log.info("the clock of this box says what receivers say again: it is believed")
            return
        last_ns, self._told_ns = self._told_ns, told.offset_ns
        agrees = self._agreeing and abs(told.offset_ns - last_ns) <= (AGREE_S + rtt_s) * NS_PER_S
        self._agreeing = self._agreeing + 1 if agrees else 1
        if self._agreeing < AGREEING:
            return
        if not timeline.is_doubted:
            timeline.doubt(told)
            if timeline.is_doubted:
                log.warning("%s", clock_astray(self._astray_s, is_doubted=True))
            return
        by_ns = timeline.wall_from(told.monotonic_ns)
        if by_ns is None or abs(by_ns - told.monotonic_ns - told.offset_ns) > (COARSE_S + rtt_s) * NS_PER_S:
            timeline.add(told)
