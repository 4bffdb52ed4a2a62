"""Runs: readings of one series with the same flags, side by side. Must not know times from values.

A run is *long* if it has two readings or more. What is *inside* a long run is all of it but its first
reading; so the inside of all long runs is itself a list of runs, each one reading shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np

from gateway.store.integers import mean_bits

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.store.integers import Reader, Signed, Unsigned, Writer

    Bools: TypeAlias = npt.NDArray[np.bool_]
    Index: TypeAlias = npt.NDArray[np.intp]
    EvenSteps: TypeAlias = tuple[Unsigned, Unsigned]

Item = TypeVar("Item", bound=np.generic)

# Runs of this mean length or more are copied one by one; of shorter ones each reading is looked at.
_PIECES_COUNT_MIN: Final = 64


@dataclass(frozen=True, slots=True)
class Runs:
    """Where each run begins and how many readings it has, at least one; (runs,) each."""

    starts: Index
    counts: Index

    @classmethod
    def of_counts(cls, counts: Index) -> Runs:
        """Place runs one behind the other."""
        return cls(np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def readings(self) -> int:
        """How many readings all runs have."""
        return int(self.starts[-1] + self.counts[-1]) if len(self.starts) else 0

    def take(self, chosen: Bools) -> Runs:
        """Return some of the runs as if the others had never been."""
        return Runs.of_counts(self.counts[chosen])

    def readings_of(self, chosen: Bools) -> Bools:
        """Return which readings belong to the chosen runs; (readings,)."""
        return np.repeat(chosen, self.counts)

    def spread(self, each: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """Return what stands for each run once for each of its readings; once where there is but one run."""
        return each if len(each) == 1 else np.repeat(each, self.counts)

    def inside(self) -> Bools | slice:
        """Return which readings are inside their run; (readings,)."""
        if len(self) == 1:
            return slice(1, None)
        inside = np.ones(self.readings, np.bool_)
        inside[self.starts] = False
        return inside

    def long(self) -> tuple[Bools, Runs]:
        """Return which runs are long, and the runs that their insides make."""
        is_long = self.counts > 1
        return is_long, Runs.of_counts(self.counts[is_long] - 1)

    def steps(self, values: Signed) -> Signed:
        """Return what each reading inside a run is more than the one before, modulo 2^64.

        >>> Runs.of_counts(np.array([2, 1, 3])).steps(np.array([1, 3, 7, 7, 7, 8])).tolist()
        [2, 0, 1]
        """
        steps = values[1:] - values[:-1]
        if len(self) == 1:
            return steps
        if len(values) < len(self) * _PIECES_COUNT_MIN:
            inside = self.inside()
            assert not isinstance(inside, slice)
            return steps[inside[1:]]
        starts = self.starts.tolist()
        return np.concatenate([steps[start : end - 1] for start, end in pairwise([*starts, len(values)])])

    def accumulate(self, firsts: Signed, steps: Signed) -> Signed:
        """Undo `steps`: return the values of runs that begin with `firsts`. One sum over all of them.

        >>> Runs.of_counts(np.array([2, 1, 3])).accumulate(np.array([1, 7, 7]), np.array([2, 0, 1])).tolist()
        [1, 3, 7, 7, 7, 8]
        """
        values = np.empty(self.readings, np.int64)
        values[self.inside()] = steps
        values[self.starts] = firsts
        if len(self) > 1:
            # Each run begins where the one before has ended, so that is taken off its first.
            values[self.starts[1:]] -= np.add.reduceat(values, self.starts)[:-1]
        return np.cumsum(values, out=values)

    def sampled(self, stride: int) -> tuple[Bools, Index]:
        """Return which runs have one of every `stride`-th reading, and where theirs begin among these.

        >>> Runs.of_counts(np.array([5, 1, 4])).sampled(4)
        (array([ True, False,  True]), array([0, 2]))
        """
        bounds = -(-self.starts // stride)
        some = counts_of(bounds, -(-self.readings // stride)) > 0
        return some, bounds[some]


def counts_of(starts: Index, readings: int) -> Index:
    """Return how many readings each run has of those that begin there. What np.diff does with more ado.

    >>> counts_of(np.array([0, 2]), 5).tolist()
    [2, 3]
    """
    counts = np.empty_like(starts)
    counts[:-1] = starts[1:] - starts[:-1]
    counts[-1:] = readings - starts[-1:]
    return counts


# Steps as a column: signed, the first of each run; unsigned, the smallest step inside each long run;
# unsigned, what each step is above that. Short where values rise evenly, as times do.


def write_steps(writer: Writer, runs: Runs, values: Signed, even: EvenSteps | None = None) -> None:
    """Write values that mostly rise by the same step in each run. `even` are their even steps, where known."""
    writer.signed(values[runs.starts])
    least, above = even_steps(runs, values) if even is None else even
    if len(least):
        writer.unsigned(least)
        writer.unsigned(above)


def read_steps(reader: Reader, runs: Runs) -> Signed:
    """Return what `write_steps` was given."""
    firsts = reader.signed(len(runs))
    _, inside = runs.long()
    if not len(inside):
        return firsts
    least = reader.unsigned(len(inside))
    steps = reader.unsigned(inside.readings)
    steps += inside.spread(least)
    return runs.accumulate(firsts, steps.view(np.int64))


def bits_of_steps(runs: Runs, values: Signed, even: EvenSteps | None = None) -> float:
    """Estimate in how many bits `write_steps` puts these values."""
    firsts = values[runs.starts]
    _, above = even_steps(runs, values) if even is None else even
    return len(firsts) * mean_bits((firsts - firsts.min()).view(np.uint64)) + len(above) * mean_bits(above)


def even_steps(runs: Runs, values: Signed) -> EvenSteps:
    """Return the smallest step inside each long run, and what each step is above that."""
    _, inside = runs.long()
    if not len(inside):
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    steps = runs.steps(values).view(np.uint64)
    least = np.minimum.reduceat(steps, inside.starts)
    steps -= inside.spread(least)
    return least, steps
