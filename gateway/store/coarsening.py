"""Segments that follow each other become one of half their size at most: joined, and thinned no more than that needs.

Half is what bounds all of it. Each time that a byte is written anew the shelf gets as much smaller, so that in its life
no more is written anew than came in, and nothing is written again and again for next to nothing. Does no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from gateway.core.batch import Batch, distinct
from gateway.core.clock import NS_PER_S
from gateway.core.thinning import KEPT_MAX, thin
from gateway.store.segments import FRONT_BYTES_MAX, SegmentError, decode_metrics, press_metrics
from gateway.store.writer import ROW_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.store.segments import Pressed

STEPS_S: Final = (10, 60, 300, 900, 3600, 21_600, 86_400)
"""Each is a multiple of the one before, so that thinning what was thinned is thinning the whole; and 3 to 6 times that,
so that each more than halves what comes more often than once a step. Ten seconds still show how a machine starts, a day
still shows that it ran, and its highest and lowest."""
READINGS_MAX: Final = 49_152
"""Readings in what becomes of some segments: two full ones, as many as may be leased without asking."""
DECODED_MAX: Final = 32_768
"""Readings that are decoded at once on the way to being thinned."""
PIECES_MAX: Final = 8
PARTS_MAX: Final = 8
"""Where there are more series than one segment may have of each what stands for a step, it becomes so many, each with
the next of the series. Of more nothing is thinned."""
WIDE_SERIES: Final = READINGS_MAX // KEPT_MAX
GAIN_BYTES_MIN: Final = 4096
"""A commit that writes something anew touches some pages of 512 bytes more: less is not worth that."""


class Coarse(NamedTuple):
    """What became of the first `members` segments, at which step; no `pressed`: nothing that would be worth it.

    `more` are the next ones, where one is too little for all series. There are `series` of them then; 0: one is enough.
    """

    members: int
    pressed: Pressed | None = None
    step_s: int = 0
    more: tuple[Pressed, ...] = ()
    series: int = 0


def size_on_disk(body_bytes: int) -> int:
    """Return about how much of the disk a segment takes."""
    return body_bytes + ROW_BYTES


def is_worth(old_bytes: int, new_bytes: int) -> bool:
    """Whether it is worth writing so much in place of so much.

    >>> is_worth(100_000, 50_000), is_worth(100_000, 50_001), is_worth(6000, 3000)
    (True, False, False)
    """
    return 2 * new_bytes <= old_bytes and old_bytes - new_bytes >= GAIN_BYTES_MIN


def steps_from(step_s: int) -> list[int]:
    """Return at which steps what is there at one of `step_s` may be thinned, that one included.

    >>> steps_from(0)[:2], steps_from(900)
    ([10, 60], [900, 3600, 21600, 86400])
    """
    return [step for step in STEPS_S if not step_s or (step >= step_s and step % step_s == 0)]


def join(bodies: Sequence[bytes]) -> Coarse:
    """Make one segment of many small ones, with all of their readings."""
    batches = [*_decode(bodies)]
    if not batches or sum(map(len, batches)) > READINGS_MAX:
        return Coarse(len(batches))
    pressed = press_metrics(Batch.join(batches))
    is_good = is_worth(_sum_of(bodies[: len(batches)]), size_on_disk(_sealed_bytes(pressed)))
    return Coarse(len(batches), pressed if is_good else None)


def coarsen(bodies: Sequence[bytes], *, step_s: int) -> Coarse:
    """Make one segment of some, thinned at the least step that is worth it; `step_s` is the coarsest of theirs.

    Of more than WIDE_SERIES it makes several, no more than there were.
    """
    count = readings = 0
    kept: list[Batch] = []
    steps = steps_from(step_s)
    if not steps:
        return Coarse(len(bodies))
    for batches in _portions(bodies):
        count += len(batches)
        readings += sum(map(len, batches))
        kept.append(thin(Batch.join(batches), steps[0] * NS_PER_S))
        if len(kept) > PIECES_MAX:
            kept = [thin(Batch.join(kept), steps[0] * NS_PER_S)]
    if not count:
        return Coarse(0)
    batch, tried, old_bytes = Batch.join(kept), -1, _sum_of(bodies[:count])
    series = len(distinct(batch.series))
    parts_max = min(PARTS_MAX, count) if series > WIDE_SERIES else 1
    for step in steps:
        batch = thin(batch, step * NS_PER_S)
        parts = _parts_of(batch)
        if len(parts) > parts_max or len(batch) == tried:
            continue
        tried = len(batch)
        pressed, *more = [press_metrics(part) for part in parts]
        if is_worth(old_bytes, sum(size_on_disk(_sealed_bytes(part)) for part in [pressed, *more])):
            return Coarse(count, pressed, step if step_s or tried < readings else 0, tuple(more))
    return Coarse(count, series=series if series > WIDE_SERIES else 0)


def _parts_of(batch: Batch) -> list[Batch]:
    """Cut a batch in order of series into such of READINGS_MAX at most, between two series where one ends in time."""
    starts = np.append(np.flatnonzero(batch.series[1:] != batch.series[:-1]) + 1, len(batch))
    parts: list[Batch] = []
    begin = 0
    while begin < len(batch):
        end = int(starts[np.searchsorted(starts, begin + READINGS_MAX, side="right") - 1])
        end = end if end > begin else begin + READINGS_MAX
        parts.append(batch.take(slice(begin, end)))
        begin = end
    return parts


def _sum_of(bodies: Sequence[bytes]) -> int:
    return sum(size_on_disk(len(body)) for body in bodies)


def _sealed_bytes(pressed: Pressed) -> int:
    return FRONT_BYTES_MAX + len(pressed.body)


def _decode(bodies: Sequence[bytes]) -> Iterator[Batch]:
    """Return the readings of each segment up to the first that is damaged."""
    for body in bodies:
        try:
            yield decode_metrics(body)
        except SegmentError:
            return


def _portions(bodies: Sequence[bytes]) -> Iterator[list[Batch]]:
    """Return the same, about DECODED_MAX readings at a time."""
    portion: list[Batch] = []
    readings = 0
    for batch in _decode(bodies):
        if portion and readings + len(batch) > DECODED_MAX:
            yield portion
            portion, readings = [], 0
        portion.append(batch)
        readings += len(batch)
    if portion:
        yield portion
