"""Has the number points of OTLP metrics watched as devices' readings are. Must not keep or change a message.

Points are read where they stand in the messages (codecs/otlp_points), in columns, and go through the same detectors as
everything else; their series have numbers that the shelf knows nothing of. Their times are the programs' own where
these are sane, else that of arrival. One request at a time: what is much is read in a thread, and watched a part at a
time.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.device_time import keep_sane
from gateway.codecs.otlp_points import Points
from gateway.core.batch import Batch
from gateway.core.clock import NS_PER_S
from gateway.core.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.codecs.device_time import Moment
    from gateway.core.clock import Clock
    from gateway.core.telemetry import Telemetry
    from gateway.detect.engine import Engine, Finding

log = logging.getLogger("tidegate")

# More is read in a thread, where it is not laid out as before; so many readings are watched before others have a turn.
# A byte may take ten microseconds, where each point is a new series of a program that says much of itself.
HERE_BYTES_MAX: Final = 8 * 1024
AT_ONCE_READINGS: Final = 2048
# How often it is looked who can be forgotten where there is no room.
ROOM_S: Final = 60


class OtlpWatch:
    """`look` at what came. `points` know the series, within `bytes_max` and as many as one detector watches."""

    def __init__(self, engine: Engine, *, clock: Clock, telemetry: Telemetry, bytes_max: int) -> None:
        self.points = Points(
            wants_named=engine.wants_named, wants=engine.wants, series_max=engine.series_max, bytes_max=bytes_max
        )
        engine.name_unkept(self.points.series)
        self._engine = engine
        self._clock = clock
        self._telemetry = telemetry
        self._one = asyncio.Lock()
        self._room_s = -ROOM_S
        self._readings = 0

    def status(self) -> dict[str, int]:
        """Return what there is, what there may be, and how many points found no room."""
        points = self.points
        return {
            "series": len(points),
            "max_series": points.series_max,
            "bytes": points.size_bytes,
            "max_bytes": points.bytes_max,
            "points": self._readings,
            "points_over_limit": points.over_limit,
        }

    async def look(self, bodies: Sequence[bytes], moment: Moment) -> list[Finding]:
        """Show ResourceMetrics messages that arrived at `moment` to all detectors; return what they found."""
        async with self._one, Turn():
            now_s = self._clock.monotonic_ns() // NS_PER_S
            self._make_room(now_s)
            before = self.points.over_limit
            batch = _in_time(await self._read(bodies, now_s), moment)
            self._readings += len(batch)
            if (left_out := self.points.over_limit - before) > 0:
                self._leave_out(left_out, is_first=not before)
            found: list[Finding] = []
            for at in range(0, len(batch), AT_ONCE_READINGS):
                if at:
                    await asyncio.sleep(0)
                found += self._engine.watch(batch.take(slice(at, at + AT_ONCE_READINGS)))
            return found

    async def _read(self, bodies: Sequence[bytes], now_s: int) -> Batch:
        read = partial(self.points.read, bodies, now_s=now_s)
        if sum(map(len, bodies)) <= HERE_BYTES_MAX:
            return read()
        if (batch := self.points.read_known(bodies, now_s=now_s)) is not None:
            return batch
        reading = asyncio.ensure_future(asyncio.to_thread(read))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            # The thread goes on, and nobody else may meanwhile.
            await asyncio.wait([reading])
            raise

    def _make_room(self, now_s: int) -> None:
        if self.points.is_full and now_s - self._room_s >= ROOM_S:
            self._room_s = now_s
            if len(gone := self.points.make_room(now_s=now_s)):
                self._engine.forget_series(gone)

    def _leave_out(self, points: int, *, is_first: bool) -> None:
        self._telemetry.count("tidegate_otlp_points_unwatched", points)
        if is_first:
            log.warning(
                "OTLP metrics have more series than are watched: %d, with %d bytes; what is above that is kept and "
                "sent unwatched (see series_max and match of [[detectors]], and series_bytes in [gateway])",
                len(self.points),
                self.points.size_bytes,
            )


def _in_time(batch: Batch, moment: Moment) -> Batch:
    """Return readings with the time of arrival where their own cannot be right."""
    ns = batch.time_ns
    if not len(ns) or (ns.min() >= moment.floor_ns and ns.max() <= moment.ceiling_ns):
        return batch
    times = keep_sane(ns, np.ones(len(ns), np.bool_), [0] * len(ns), moment=moment)
    return Batch(batch.series, times.ns, batch.bits, batch.flags | np.asarray(times.flags, np.uint8))
