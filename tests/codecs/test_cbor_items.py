"""What CBOR is made of, counted without decoding it."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.cbor_items import has_more_items, has_plain_keys
from gateway.codecs.payloads import decode_cbor
from gateway.core.contracts import MalformedError

LONG = 24  # as many bytes of a string have a length of their own

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=40),
        st.binary(max_size=300),
        st.builds(cbor2.CBORSimpleValue, st.one_of(st.integers(0, 19), st.integers(32, 255))),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=30),
        st.dictionaries(st.text(max_size=40), inner, max_size=4),
        st.builds(cbor2.CBORTag, st.integers(64, 70_000), inner),
    ),
    max_leaves=30,
)


def count_dear(value: Any) -> int:
    """Count what `has_more_items` counts, in what was encoded."""
    kind = type(value)
    if kind is list:
        return 1 + sum(map(count_dear, value))
    if kind is dict:
        return 1 + sum(count_dear(key) + count_dear(inner) for key, inner in value.items())
    if kind is cbor2.CBORTag:
        return 1 + count_dear(value.value)
    if kind in {str, bytes}:
        return len(value.encode() if kind is str else value) >= LONG
    return kind is cbor2.CBORSimpleValue


@given(value=VALUES, is_endless=st.booleans())
def test_dear_items_are_counted(value: Any, is_endless: bool) -> None:
    """Exactly, but for a payload that has so few bytes that could begin one that nobody looks."""
    data = cbor2.dumps([b"\xff" * 400, value], indefinite_containers=is_endless)
    dear = 2 + count_dear(value)
    assert has_more_items(data, dear - 1)
    assert not has_more_items(data, dear)


def test_where_few_bytes_could_begin_one_nothing_is_looked_at() -> None:
    """Strings are none that cost: they need not be found."""
    assert not has_more_items(b"\x83" + b"\x78\x18" * 3 + b"x" * 72, 1)


@pytest.mark.parametrize("size", [10, 300, 70_000])
def test_bytes_of_strings_are_no_items(size: int) -> None:
    """Whatever they are, an array of numbers for instance."""
    numbers = np.full(size, -1.0).tobytes()
    assert not has_more_items(cbor2.dumps({"t0": 1, "v": cbor2.CBORTag(86, numbers)}), 4)


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_are_counted(data: bytes, most: int) -> None:
    """The look ends, with an answer, also in a string that says that it is longer than all there is."""
    assert has_more_items(data, most) in {True, False}
    assert not has_more_items(b"\x5b" + b"\xff" * 8 + b"\xa0" * 9, 1)


@given(st.binary(max_size=60))
def test_keys_are_looked_at_in_any_bytes(data: bytes) -> None:
    """The look ends, with an answer; what the decoder takes with numbers and texts as keys has plain ones."""
    is_plain = has_plain_keys(data, depth_max=32, items_max=100)
    try:
        decode_cbor(data, depth_max=32)
    except MalformedError:
        return
    if not is_plain:
        with pytest.raises(cbor2.CBORDecodeError):
            cbor2.loads(data, strict_hashable_types=True, tag_hook=lambda tag, _: tag.tag)


def test_deeper_than_allowed_is_not_looked_through() -> None:
    """One bound for this look and for the decoder."""
    assert has_plain_keys(b"\x82" * 7 + b"\x01" * 8, depth_max=8, items_max=100)
    assert not has_plain_keys(b"\x82" * 9 + b"\x01" * 10, depth_max=8, items_max=100)


def test_more_items_than_allowed_are_not_looked_through() -> None:
    """Where the last one is one too many the look ends."""
    assert has_plain_keys(b"\x83\x01\x02\x03", depth_max=8, items_max=4)
    assert not has_plain_keys(b"\x83\x01\x02\x03", depth_max=8, items_max=3)
