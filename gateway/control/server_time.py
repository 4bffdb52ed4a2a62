"""What receivers' answers say of the time of day, where no time server vouches for the clock. Must not set a clock.

Where the time is not known at all it is taken from them: coarse, but of this century. A clock that may be right is
believed, whatever they say; but where it is far from what they say, that is said: a board without a battery begins
where it was switched off, and what it stamps from then on may be hours astray.
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


class ServerTime:
    """What was heard last. `astray_s` is by how many seconds the clock is ahead of it, 0 where that may be nothing."""

    def __init__(self, timeline: Callable[[], Timeline], clock: Clock) -> None:
        self._timeline = timeline
        self._clock = clock
        self._astray_s = 0

    @property
    def astray_s(self) -> int:
        """By how many seconds the clock was ahead (or behind, if negative); 0 since it is confirmed."""
        return 0 if self._timeline().quality is Quality.SYNCED else self._astray_s

    def heard(self, server_time_s: int, rtt_s: float) -> None:
        """Take note of an answer that said Unix time `server_time_s`, and of how long it took."""
        timeline = self._timeline()
        # Upstream may have booted without a clock as well, or be nobody to believe.
        if not is_plausible(server_time_s * NS_PER_S) or timeline.quality is Quality.SYNCED:
            return
        monotonic_ns = self._clock.monotonic_ns()
        wall_ns = server_time_s * NS_PER_S + int(rtt_s * NS_PER_S / 2)
        own_ns = timeline.wall_from(monotonic_ns)
        if timeline.quality is Quality.UNKNOWN or own_ns is None:
            timeline.add(Sample(monotonic_ns, wall_ns - monotonic_ns, Quality.UNSYNCED))
            return
        was_said, astray_s = self._astray_s != 0, round((own_ns - wall_ns) / NS_PER_S)
        self._astray_s = astray_s if abs(astray_s) >= ASTRAY_S_MIN + rtt_s else 0
        if self._astray_s and not was_said:
            log.warning("%s", clock_astray(self._astray_s))
