"""Checks for the hand-written protobuf, against the official runtime where it can be asked."""

from __future__ import annotations

import contextlib

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


def test_spans_are_the_fields_without_a_copy() -> None:
    """The same fields, whatever their types and however long their lengths."""
    message = b"".join(
        (
            protobuf.integer(1, 2**63),
            protobuf.text(2, "a"),
            protobuf.text(3, "b" * 200),
            protobuf.text(400, "c" * 20_000),
            protobuf.fixed64(5, 7),
            protobuf.tag(6, protobuf.FIXED32) + bytes(4),
            protobuf.text(7, ""),
        )
    )
    spans = list(protobuf.spans(message))
    fields = list(protobuf.fields(message))
    assert [(number, wire_type) for number, wire_type, *_ in spans] == [(n, w) for n, w, _ in fields]
    assert [message[start:stop] for _, wire_type, _, start, stop in spans if wire_type == 2] == [
        value for _, wire_type, value in fields if wire_type == 2
    ]
    assert b"".join(message[begin:stop] for _, _, begin, _, stop in spans) == message
    inside = list(protobuf.spans(b"xx" + message + b"yy", 2, 2 + len(message)))
    assert [(*what, begin - 2, start - 2, stop - 2) for *what, begin, start, stop in inside] == spans


def test_a_group_is_skipped_as_a_whole() -> None:
    """Nothing writes them any more, and an unknown field of another age may be one."""
    group = (
        b"\x1b"
        + protobuf.text(1, "x")
        + b"\x23"
        + protobuf.integer(3, 300)
        + b"\x24"
        + bytes([0x11])
        + bytes(8)
        + b"\x1c"
    )
    assert [(number, wire_type, begin, stop) for number, wire_type, begin, _, stop in protobuf.spans(group * 2)] == [
        (3, protobuf.GROUP, 0, len(group)),
        (3, protobuf.GROUP, len(group), 2 * len(group)),
    ]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("02 00", "field number 0"),
        ("0f", "wire type 7 is not used"),
        ("0c", "wire type 4 is not used"),
        ("0a", "does not end"),
        ("0a 05 61", "2|4 bytes behind"),
        ("0a 85 01 61", "bytes behind"),
        ("0a 85 81 01 61", "bytes behind"),
        ("08", "does not end"),
        ("09 00", "bytes behind"),
        ("80", "does not end"),
        ("0b 14", "ends as another one"),
        ("0b 0a 7f", "does not end"),
        ("0b" * 102, "100 groups inside each other"),
        ("0b 0f", "wire type 7"),
    ],
)
def test_what_is_no_message_has_no_spans(message: str, says: str) -> None:
    """And no count."""
    data = bytes.fromhex(message)
    with pytest.raises(ValueError, match=says):
        list(protobuf.spans(data))
    with pytest.raises(ValueError, match=says):
        protobuf.count(data, 0, len(data), 1)
    with pytest.raises(ValueError, match=says):
        list(protobuf.inside(data, 0, len(data), frozenset({1})))


@given(st.lists(st.tuples(st.sampled_from([2, 3]), st.integers(0, 300)), max_size=20), st.integers(0, 9))
def test_fields_are_counted_as_spans_would_tell(parts: list[tuple[int, int]], cut: int) -> None:
    """Whatever stands between them, and wherever the message is cut."""
    whole = b"".join(protobuf.delimited(number, bytes(size)) + protobuf.integer(2, size) for number, size in parts)
    data = whole[: len(whole) - cut]
    try:
        expected = sum(number == 2 and wire_type == 2 for number, wire_type, *_ in protobuf.spans(data))
    except ValueError:
        with pytest.raises(ValueError):
            protobuf.count(data, 0, len(data), 2)
        with pytest.raises(ValueError):
            list(protobuf.inside(data, 0, len(data), frozenset({2})))
    else:
        assert protobuf.count(data, 0, len(data), 2) == expected
        values = [(start, stop) for number, kind, _, start, stop in protobuf.spans(data) if (number, kind) == (2, 2)]
        assert list(protobuf.inside(data, 0, len(data), frozenset({2}))) == values


@given(st.binary(max_size=40))
def test_any_bytes_have_spans_or_none(data: bytes) -> None:
    """Nothing but ValueError; what `fields` reads has them."""
    try:
        fields = list(protobuf.fields(data))
    except ValueError:
        with contextlib.suppress(ValueError):
            list(protobuf.spans(data))
    else:
        assert [(n, w) for n, w, *_ in protobuf.spans(data)] == [(n, w) for n, w, _ in fields]


@given(st.lists(st.tuples(st.sampled_from([1, 2, 30]), st.integers(0, 300)), max_size=20), st.integers(1, 400))
def test_runs_are_whole_fields_one_behind_the_other(parts: list[tuple[int, int]], bytes_max: int) -> None:
    """As long as is allowed; a longer field is one by itself; what is cut is no message."""
    data = b"".join(protobuf.delimited(number, bytes(size)) + protobuf.integer(2, size) for number, size in parts)
    found = list(protobuf.runs(data, 0, len(data), bytes_max))
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert (found[0][0], found[-1][1]) == (0, len(data)) if found else not data
    spans = {(begin, stop) for _, _, begin, _, stop in protobuf.spans(data)}
    ends = {stop for _, stop in spans}
    for run in found:
        assert run[1] in ends
        assert run[1] - run[0] <= bytes_max or run in spans
    if data:
        with pytest.raises(ValueError):
            list(protobuf.runs(data[:-1] + b"\x80", 0, len(data), bytes_max))
    with pytest.raises(ValueError, match="behind its message"):
        list(protobuf.runs(b"\x0a\x05abc", 0, 5, bytes_max))


@pytest.mark.parametrize("key", ["ed80808010", "8a808080a000", "8a80808080 00"])
def test_a_field_number_has_29_bits(key: str) -> None:
    """The official classes take no larger one, nor one in more bytes than that takes."""
    data = bytes.fromhex(key) + bytes(9)
    for read in (protobuf.fields, protobuf.spans):
        with pytest.raises(ValueError, match="more than 29 bits"):
            list(read(data))
    assert next(protobuf.spans(protobuf.tag(2**29 - 1, protobuf.FIXED64) + bytes(8)))[0] == 2**29 - 1
