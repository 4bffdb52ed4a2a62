"""Checks for runs and the columns of steps."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.integers import Reader, Writer
from gateway.store.runs import Runs, bits_of_steps, read_steps, write_steps

int64 = st.integers(-(2**63), 2**63 - 1)
columns = st.lists(st.lists(st.one_of(int64, st.integers(0, 50)), min_size=1, max_size=12), min_size=1, max_size=12)


def flat(rows: list[list[int]]) -> tuple[Runs, np.ndarray]:
    """Return lists of lists as runs and a column."""
    runs = Runs.of_counts(np.array([len(row) for row in rows]))
    return runs, np.array([value for row in rows for value in row], np.int64)


@given(columns)
def test_steps_come_back(rows: list[list[int]]) -> None:
    """Modulo 2^64, so that not even the ends of 64 bits overflow."""
    runs, values = flat(rows)
    writer = Writer()
    write_steps(writer, runs, values)
    reader = Reader(b"".join(writer.parts))
    assert read_steps(reader, runs).tolist() == values.tolist()
    reader.close()


@given(columns)
def test_accumulate_undoes_steps(rows: list[list[int]]) -> None:
    """However long the runs are, one reading or many."""
    runs, values = flat(rows)
    assert runs.accumulate(values[runs.starts], runs.steps(values)).tolist() == values.tolist()


@given(columns, st.integers(1, 9))
def test_a_sample_takes_every_nth_reading(rows: list[list[int]], stride: int) -> None:
    """Bounds say where the sampled readings of each run begin."""
    runs, _ = flat(rows)
    of_run = np.repeat(np.arange(len(runs)), runs.counts)[::stride]
    some, bounds = runs.sampled(stride)
    assert np.flatnonzero(some).tolist() == sorted(set(of_run.tolist()))
    assert of_run[bounds].tolist() == sorted(set(of_run.tolist()))


def test_runs_know_their_readings() -> None:
    """Which readings are theirs, which are inside, and what stands for each."""
    runs = Runs.of_counts(np.array([2, 1, 3]))
    chosen = np.array([True, False, True])
    assert runs.readings == 6
    assert runs.readings_of(chosen).tolist() == [True, True, False, True, True, True]
    assert runs.take(chosen).starts.tolist() == [0, 2]
    assert runs.spread(np.array([7, 8, 9])).tolist() == [7, 7, 8, 9, 9, 9]
    is_long, inside = runs.long()
    assert is_long.tolist() == [True, False, True]
    assert (inside.starts.tolist(), inside.counts.tolist()) == ([0, 1], [1, 2])


def test_even_steps_take_few_bits() -> None:
    """A run that rises evenly costs its first value; one that does not costs more."""
    runs = Runs.of_counts(np.array([100]))
    even = np.arange(100) * 10**9
    assert bits_of_steps(runs, even) == 0.0
    assert bits_of_steps(runs, even + np.arange(100) % 7) > 100.0
