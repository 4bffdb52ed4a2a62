"""Checks for the value column."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.integers import Reader, SegmentError, Writer
from gateway.store.runs import Runs
from gateway.store.values import read_values, write_values

ODD = [float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 5e-324, 1.7976931348623157e308, 2.0**53 + 2]
signalling_nan = struct.unpack("<q", bytes.fromhex("010000000000f07f"))[0]


def bits_of(values: object) -> np.ndarray:
    """Return the bits of doubles."""
    return np.asarray(values, np.float64).view(np.int64)


def written(runs: list[tuple[bool, np.ndarray]]) -> bytes:
    """Return a value column."""
    writer = Writer()
    places = Runs.of_counts(np.array([len(bits) for _, bits in runs]))
    write_values(writer, places, np.concatenate([bits for _, bits in runs]), np.array([double for double, _ in runs]))
    return b"".join(writer.parts)


def check(*runs: tuple[bool, np.ndarray]) -> int:
    """Write and read a value column, compare bits; return its size in bytes."""
    data = written([*runs])
    reader = Reader(data)
    places = Runs.of_counts(np.array([len(bits) for _, bits in runs]))
    bits = read_values(reader, places, np.array([double for double, _ in runs]))
    reader.close()
    assert bits.tolist() == np.concatenate([bits for _, bits in runs]).tolist()
    return len(data)


int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-99, 99), st.just(signalling_nan))
decimal = st.builds(lambda whole, exponent: whole / 10**exponent, st.integers(-9999, 9999), st.integers(0, 4))
double = st.one_of(decimal, st.sampled_from(ODD), st.floats(), st.floats(width=32))
a_run = st.one_of(
    st.tuples(st.just(False), st.lists(int64, min_size=1, max_size=40).map(lambda v: np.array(v, np.int64))),
    st.tuples(st.just(True), st.lists(int64, min_size=1, max_size=40).map(lambda v: np.array(v, np.int64))),
    st.tuples(st.just(True), st.lists(double, min_size=1, max_size=40).map(bits_of)),
    st.tuples(st.just(True), st.lists(decimal, min_size=1, max_size=40).map(bits_of)),
)


@given(st.lists(a_run, min_size=1, max_size=8))
def test_every_bit_comes_back(runs: list[tuple[bool, np.ndarray]]) -> None:
    """Any integers, any doubles, any bits at all, side by side."""
    check(*runs)


@given(st.integers(1, 400), st.integers(0, 2**32), st.sampled_from(["walk", "noise", "volts", "gaps", "singles"]))
def test_long_runs_come_back(count: int, seed: int, kind: str) -> None:
    """What sensors send: walks, noise, converters' volts, decimals with gaps, singles."""
    random = np.random.default_rng(seed)
    columns = {
        "walk": np.round(20 + np.cumsum(random.integers(-3, 4, count)) / 100, 2),
        "noise": random.normal(size=count),
        "volts": random.integers(0, 9, count) * 3.3 / 4096,
        "gaps": np.where(random.random(count) < 0.05, np.nan, np.round(random.normal(20, 3, count), 1)),
        "singles": random.normal(size=count).astype(np.float32).astype(np.float64),
    }
    check((True, bits_of(columns[kind])), (True, bits_of(columns["volts"])), (False, np.arange(count)))


def test_converters_volts_are_ranked() -> None:
    """Volts are no decimals, but cost what their few distinct values cost."""
    random = np.random.default_rng(1)
    counts = (2048 + 500 * np.sin(np.arange(20_000) / 300) + random.normal(size=20_000) * 4).astype(np.int64)
    assert check((True, bits_of(counts * 3.3 / 4096))) < 2.0 * check((False, counts))


def test_values_that_rarely_recur_are_not_ranked() -> None:
    """A few doublets among noise do not make a dictionary."""
    noise = np.random.default_rng(1).normal(size=4000)
    noise[::16] = 0.1 + 0.2
    assert check((True, bits_of(noise))) > 7 * 4000


def test_noise_is_kept_as_offsets_and_a_walk_as_steps() -> None:
    """Each way where it is shorter: 200 levels of noise and a walk over thousands of levels both take a byte."""
    random = np.random.default_rng(1)
    noise, walk = random.integers(1000, 1200, 500), np.cumsum(random.integers(-90, 90, 500))
    assert check((False, noise), (False, walk)) < 1050


def test_steps_are_divided_by_what_divides_them_all() -> None:
    """A sensor of 1/16 degree has steps of 625 ten-thousandths; what is left of them fits a byte."""
    walk = 20 + np.cumsum(np.random.default_rng(1).integers(-9, 9, 20_000)) / 16
    assert check((True, bits_of(walk))) < 20_100
    walk[12_345] += 0.0001
    assert check((True, bits_of(walk))) > 40_000


def test_runs_of_different_widths_stand_apart() -> None:
    """A wide run does not widen its neighbours; a constant one takes nothing."""
    random = np.random.default_rng(1)
    narrow, wide = np.cumsum(random.integers(-9, 9, 1000)), random.integers(-(2**40), 2**40, 1000)
    assert check((False, narrow), (False, wide), (False, np.full(1000, 7)), (False, narrow)) < 8100


# Two runs of one integer each: nothing for forms, firsts as offsets from 0, no runs of bits, no exceptions.
SHORT = b"\x00" + b"\x00\x00\x00"


@pytest.mark.parametrize(
    ("counts", "is_double", "data", "says"),
    [
        ([1, 1], True, b"\x01\x02\x23", "does not know"),
        ([1], True, b"\x01\x22" + b"\x02", "more distinct values"),
        ([1], True, b"\x01\x22" + b"\x00", "more distinct values"),
        ([1], True, b"\x01\x22" + b"\x01\x00\x00\x00" + b"\x00\x02\x00" + b"\x00", "value's rank"),
        ([1], True, b"\x01\x22" + b"\x01\x00\x00\x00" + b"\x00\x01\x00" + b"\x00", "value's rank"),
        ([1, 1], False, SHORT + b"\x03", "more exceptions"),
        ([1, 1], False, SHORT + b"\x01" + b"\x00\x04\x00" + b"\x00\x00\x00", "behind the last"),
        ([1, 1], False, SHORT + b"\x01" + b"\x00\x01\x00" + b"\x00\x00\x00", "behind the last"),
        ([2], False, SHORT + b"\x00" + b"\x00" + b"\x00" + b"\x01\x09", "more than 8 bytes"),
    ],
)
def test_values_that_cannot_be_are_refused(counts: list[int], is_double: bool, data: bytes, says: str) -> None:
    """Whatever does not fit raises SegmentError."""
    with pytest.raises(SegmentError, match=says):
        read_values(Reader(data), Runs.of_counts(np.array(counts)), np.full(len(counts), is_double))
