"""The device's CBOR is what everybody else reads, in the shortest form it knows."""

from __future__ import annotations

import array
import math

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_shims import cbor

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=30),
    st.binary(max_size=300),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=30), st.dictionaries(st.text(max_size=5), inner)),
    max_leaves=40,
)


@given(values)
def test_a_decoder_reads_what_was_encoded(value: object) -> None:
    """Every kind of value, nested."""
    assert cbor2.loads(cbor.encode(value)) == value


@given(st.one_of(st.integers(-(2**64), 2**64 - 1), st.text(max_size=300), st.lists(st.booleans(), max_size=300)))
def test_heads_are_as_short_as_can_be(value: object) -> None:
    """Byte for byte what the reference encoder makes (RFC 8949, 4.2.1)."""
    assert cbor.encode(value) == cbor2.dumps(value)


def test_floats_take_four_bytes_where_that_loses_nothing() -> None:
    """Halves are exact in single precision, tenths are not; infinities and NaN are short."""
    assert cbor.encode(20.5).hex() == "fa41a40000"
    assert cbor.encode(0.1)[0] == 0xFB
    assert cbor.encode(1e300)[0] == 0xFB
    assert cbor.encode(math.inf)[0] == 0xFA
    assert math.isnan(cbor2.loads(cbor.encode(math.nan)))


@pytest.mark.parametrize("code", "bBhHiIqQfd")
def test_arrays_are_typed_arrays(code: str) -> None:
    """RFC 8746: the tag says the type, the bytes are the array's own."""
    data = array.array(code, [1, 2, 3])
    tagged = cbor2.loads(cbor.encode({"v": data}))["v"]
    kinds = {64: "u1", 69: "<u2", 70: "<u4", 71: "<u8", 72: "i1", 77: "<i2", 78: "<i4", 79: "<i8"}
    kinds |= {85: "<f4", 86: "<f8"}
    assert np.frombuffer(tagged.value, kinds[tagged.tag]).tolist() == [1, 2, 3]


def test_a_long_of_c_has_the_length_it_has() -> None:
    """l and L are 4 bytes on a board and 8 on a workstation."""
    tagged = cbor2.loads(cbor.encode(array.array("l", [-1])))
    assert (tagged.tag, len(tagged.value)) in {(78, 4), (79, 8)}


@given(values)
def test_a_buffer_that_is_too_short_is_never_overrun(value: object) -> None:
    """Whatever the room, it fits, or IndexError says so and nothing grows."""
    wanted = cbor.encode(value)
    for size in {0, len(wanted) // 2, len(wanted) - 1}:
        buffer = bytearray(size)
        with pytest.raises(IndexError):
            cbor.encode_into(buffer, 0, value)
        assert len(buffer) == size


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1])
def test_an_integer_of_more_than_64_bits_is_refused(value: int) -> None:
    """Nothing on a board counts that far."""
    with pytest.raises(ValueError, match="64 bits"):
        cbor.encode(value)


def test_what_is_too_large_for_a_payload_is_refused() -> None:
    """A bound, so that a mistake does not eat the heap."""
    with pytest.raises(IndexError):
        cbor.encode("x" * 300_000)


def test_other_things_are_refused() -> None:
    """A range can be cut like an array, and is none."""
    with pytest.raises(TypeError, match="cannot encode"):
        cbor.encode(range(3))
