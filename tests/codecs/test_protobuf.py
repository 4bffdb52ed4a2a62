"""Checks for the hand-written protobuf, against the official runtime where it can be asked."""

from __future__ import annotations

import pytest
from google.protobuf.internal import decoder, encoder, wire_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from gateway.codecs import protobuf


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_what_the_official_runtime_writes(value: int) -> None:
    """Every unsigned 64-bit value has the same bytes here and there."""
    assert protobuf.varint(value) == encoder._VarintBytes(value)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_signed_integer_comes_back(value: int) -> None:
    """An int64 field is read by the official class, and by our own reader."""
    data = protobuf.integer(3, value)
    assert AnyValue.FromString(data).int_value == value
    assert [(n, protobuf.signed(v)) for n, _, v in protobuf.fields(data)] == [(3, value)]


@given(st.integers(1, 2**29 - 1), st.sampled_from([0, 1, 2, 5]))
def test_a_tag_is_what_the_official_runtime_writes(field: int, wire_type: int) -> None:
    """Field numbers and wire types share one varint."""
    assert protobuf.tag(field, wire_type) == encoder.TagBytes(field, wire_type)
    assert wire_format.UnpackTag(decoder._DecodeVarint(protobuf.tag(field, wire_type), 0)[0]) == (
        field,
        wire_type,
    )


@given(st.floats(allow_nan=False))
def test_a_double_comes_back(value: float) -> None:
    """A double field keeps its bits."""
    assert AnyValue.FromString(protobuf.double(4, value)).double_value == value


@given(st.text(max_size=300))
def test_a_string_comes_back(value: str) -> None:
    """Strings longer than one length byte can say too."""
    assert AnyValue.FromString(protobuf.text(1, value)).string_value == value


def test_a_lone_surrogate_does_not_stop_a_batch() -> None:
    """What UTF-8 cannot say becomes a question mark instead of an error."""
    assert AnyValue.FromString(protobuf.text(1, "a\ud800b")).string_value == "a?b"


def test_every_wire_type_is_read() -> None:
    """Varint, 64-bit, bytes and 32-bit fields come out in their order."""
    data = protobuf.integer(1, 5) + protobuf.fixed64(2, 6) + protobuf.delimited(3, b"xy") + b"\x25\x07\0\0\0"
    assert list(protobuf.fields(data)) == [(1, 0, 5), (2, 1, 6), (3, 2, b"xy"), (4, 5, 7)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "does not end"),
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x0a\x05ab", "has only 2 left"),
        (b"\x09\x01", "has only 1 left"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x01", "field number 0"),
    ],
)
def test_what_is_not_protobuf_is_refused_with_a_sentence(data: bytes, message: str) -> None:
    """Truncated and impossible fields raise ValueError."""
    with pytest.raises(ValueError, match=message):
        list(protobuf.fields(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """The reader ends with fields or with ValueError, whatever it is fed."""
    try:
        for number, _, _ in protobuf.fields(data):
            assert number > 0
    except ValueError:
        pass
