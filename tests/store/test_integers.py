"""Checks for integers in few bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.integers import (
    Reader,
    SegmentError,
    Writer,
    byte_width,
    byte_widths,
    common_divisor,
    from_planes,
    mean_bits,
    to_planes,
    unzigzag,
    zigzag,
)

unsigned = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(0, 99).map(lambda n: n * 1000))
signed = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300))


def written(writer: Writer) -> Reader:
    """Return a reader of what was written."""
    return Reader(b"".join(writer.parts))


@given(st.lists(unsigned, max_size=80))
def test_unsigned_columns_come_back(values: list[int]) -> None:
    """Whatever the width and the common divisor."""
    writer = Writer()
    writer.unsigned(np.array(values, np.uint64))
    reader = written(writer)
    assert reader.unsigned(len(values)).tolist() == values
    reader.close()


@given(st.lists(signed, max_size=80))
def test_signed_columns_come_back(values: list[int]) -> None:
    """As offsets or as steps, to the ends of 64 bits."""
    writer = Writer()
    writer.signed(np.array(values, np.int64))
    reader = written(writer)
    assert reader.signed(len(values)).tolist() == values
    reader.close()


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_varints_come_back(values: list[int]) -> None:
    """One behind the other."""
    writer = Writer()
    for value in values:
        writer.varint(value)
    reader = written(writer)
    assert [reader.varint() for _ in values] == values
    reader.close()


@given(st.lists(st.booleans(), max_size=40))
def test_bits_come_back(flags: list[bool]) -> None:
    """Also where they don't fill the last byte."""
    writer = Writer()
    writer.bits(np.array(flags, np.bool_))
    reader = written(writer)
    assert reader.bits(len(flags)).tolist() == flags
    reader.close()


@given(st.lists(signed))
def test_zigzag_agrees_with_its_definition(values: list[int]) -> None:
    """Negative numbers become odd ones; the way back is exact."""
    column = np.array(values, np.int64)
    assert zigzag(column).tolist() == [2 * v if v >= 0 else -2 * v - 1 for v in values]
    assert unzigzag(zigzag(column)).tolist() == values


@given(st.lists(unsigned, min_size=1), st.integers(1, 8))
def test_planes_keep_the_low_bytes(values: list[int], width: int) -> None:
    """A plane holds one byte of each integer."""
    column = np.array(values, np.uint64)
    planes = to_planes(column, width)
    assert planes.shape == (width, len(values))
    assert from_planes(planes).tolist() == [v % 2 ** (8 * width) for v in values]


@given(st.lists(unsigned))
def test_widths_agree_one_by_one(values: list[int]) -> None:
    """The column answer is the one-by-one answer."""
    assert byte_widths(np.array(values, np.uint64)).tolist() == [byte_width(v) for v in values]


def test_a_divisor_that_only_the_sample_has_is_found_out() -> None:
    """One odd integer among many even ones halves nothing; what all share is still found."""
    values = np.arange(1000, dtype=np.uint64) * np.uint64(2000)
    assert common_divisor(values) == 2000
    values[333] += np.uint64(500)
    assert common_divisor(values) == 500
    values[333] += np.uint64(1)
    assert common_divisor(values) == 1


def test_no_integers_take_no_bits() -> None:
    """The mean of nothing is 0, without a warning."""
    assert mean_bits(np.empty(0, np.uint64)) == 0.0


def test_steps_are_chosen_where_they_are_shorter() -> None:
    """A rising column is written as steps, a scattered one as offsets."""
    rising, scattered = Writer(), Writer()
    rising.signed(np.arange(10**6, 10**6 + 100))
    scattered.signed(np.array([5, 900, 3, 870, 10, 950]))
    assert (rising.parts[0], scattered.parts[0]) == (b"\x01", b"\x00")


@pytest.mark.parametrize(
    ("data", "read", "says"),
    [
        (b"", lambda r: r.raw(1), "wants 1 bytes where 0 are left"),
        (b"\x08", lambda r: r.unsigned(1), "wants 8 bytes"),
        (b"\x09" + bytes(9), lambda r: r.unsigned(1), "9 bytes; there are 8 at most"),
        (b"\x28" + bytes(9), lambda r: r.unsigned(1), "bytes; there are 8 at most"),
        (b"\xff" * 10, lambda r: r.varint(), "more than 64 bits"),
        (b"\x80" * 9 + b"\x02", lambda r: r.varint(), "more than 64 bits"),
        (b"\x80" * 11, lambda r: r.varint(), "more than 64 bits"),
        (b"\x02\x00\x00", lambda r: r.signed(1), "does not know"),
        (b"\x00", lambda r: r.close(), "1 bytes are left behind"),
    ],
)
def test_what_cannot_be_is_said(data: bytes, read: object, says: str) -> None:
    """A column that is cut, too wide, or of another version raises SegmentError."""
    with pytest.raises(SegmentError, match=says):
        read(Reader(data))
