"""Thinning: of each series and step of time the first, least, greatest and last reading stand for all. Does no I/O.

What is left are real readings, and a line drawn through them at a pixel a step is the same line as through all of them
(Jugel, Jerzak, Hackenbroich, Markl: "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 2014). Steps
begin at multiples of their length, so that thinning parts and then what is left of them gives what thinning the whole
does: however the readings come, a long span of time needs no more memory than its parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gateway.core.batch import Batch, distinct

if TYPE_CHECKING:
    import numpy.typing as npt

KEPT_MAX = 4
"""What is kept of a series in one step at most."""


def thin(batch: Batch, step_ns: int) -> Batch:
    """Return what stands for `batch` at steps of `step_ns`, in order of series, flags and time.

    Values of different kinds in one series are looked at each for themselves. What is no number is neither least nor
    greatest, unless there is nothing else.

    >>> batch = Batch.of(7, range(6), np.array([3.0, 9.0, 1.0, 4.0, 5.0, 5.0]))
    >>> thin(batch, 100).values().tolist()
    [3.0, 9.0, 1.0, 5.0]
    """
    assert step_ns > 0
    if not len(batch):
        return batch
    order = np.lexsort((batch.time_ns, batch.flags, batch.series))
    batch = batch.take(order)
    steps = batch.time_ns // step_ns
    changes = (
        (batch.series[1:] != batch.series[:-1]) | (batch.flags[1:] != batch.flags[:-1]) | (steps[1:] != steps[:-1])
    )
    starts = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(changes) + 1])
    counts = np.diff(starts, append=len(batch))
    values = batch.values()
    missing = np.isnan(values)
    least = _where_least(np.where(missing, np.inf, values), starts, counts)
    greatest = _where_least(np.where(missing, np.inf, -values), starts, counts)
    return batch.take(distinct(np.concatenate([starts, least, greatest, starts + counts - 1])))


def _where_least(
    values: npt.NDArray[np.float64], starts: npt.NDArray[np.intp], counts: npt.NDArray[Any]
) -> npt.NDArray[np.intp]:
    """Return where the first of the least values of each group stands."""
    least = np.minimum.reduceat(values, starts)
    found = np.flatnonzero(values == np.repeat(least, counts))
    group = np.repeat(np.arange(len(starts)), counts)[found]
    is_first = np.ones(len(found), np.bool_)
    is_first[1:] = group[1:] != group[:-1]
    return found[is_first]
