"""Arrays as bytes: what was packed comes back, anything else is refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.saved import SavedError, pack, unpack

ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3),
    "b/c": np.array([-(2**63), 2**63 - 1]),
    "empty": np.empty((0, 4)),
    "id": np.array([2**64 - 1], np.uint64),
}
DATA = pack(ARRAYS)


def test_arrays_come_back_as_they_were_and_may_be_written() -> None:
    """Names, shapes, dtypes and every bit."""
    back = unpack(DATA)
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].tolist() == array.tolist()
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert back[name].flags.writeable


def test_nothing_is_something_too() -> None:
    """No array at all."""
    assert unpack(pack({})) == {}


def test_an_array_that_is_not_contiguous_is_packed_as_it_reads() -> None:
    """A view of every second row."""
    assert unpack(pack({"a": np.arange(10.0)[::2]}))["a"].tolist() == [0, 2, 4, 6, 8]


@given(st.integers(0, len(DATA) * 8 - 1))
def test_a_flipped_bit_is_seen(bit: int) -> None:
    """Wherever it is."""
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SavedError):
        unpack(bytes(damaged))


@given(st.integers(0, len(DATA) - 1))
def test_half_a_file_is_seen(length: int) -> None:
    """A power cut while it was written."""
    with pytest.raises(SavedError):
        unpack(DATA[:length])


@pytest.mark.parametrize("more", [1, 2, 1 << 40])
def test_a_table_that_promises_more_than_there_is_is_not_believed(more: int) -> None:
    """By one number too: the checksum is no part of the last array."""
    data = pack({"a": np.arange(3.0)})[:-4].replace(b"[3]", f"[{3 + more}]".encode())
    table_bytes = len(data) - 10 - 24
    data = data[:6] + table_bytes.to_bytes(4, "little") + data[10:]
    with pytest.raises(SavedError, match="a is cut off"):
        unpack(data + zlib.crc32(data).to_bytes(4, "little"))


@given(st.binary(max_size=200))
def test_bytes_with_a_right_checksum_are_not_believed_for_that(body: bytes) -> None:
    """Odd heads, tables and sizes raise SavedError and nothing else."""
    for head in (b"", b"TGDS\x01\x00", b"TGDS\x01\x00" + len(body).to_bytes(4, "little")):
        data = head + body
        with pytest.raises(SavedError):
            unpack(data + zlib.crc32(data).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "table",
    [
        b'[["a","<f8",[9999999999]]]',
        b'[["a","|O",[1]]]',
        b'[["a","<f8",[-1]]]',
        b'[["a","<f8",[-1,-1]]]',
        b'[["a","<f8",[0,9223372036854775808]]]',
        b'[["a","<f8",[' + b"1," * 70 + b"1]]]",
        b'[["\xff","<f8",[1]]]',
        b"{}",
    ],
)
def test_a_table_of_contents_is_checked(table: bytes) -> None:
    """More than there is, objects, sizes and numbers of them that cannot be, another shape of JSON, what is no text."""
    data = b"TGDS\x01\x00" + len(table).to_bytes(4, "little") + table + bytes(16)
    with pytest.raises(SavedError):
        unpack(data + zlib.crc32(data).to_bytes(4, "little"))


def test_another_version_is_refused() -> None:
    """Rather than guessed at."""
    data = b"TGDS\x02\x00" + DATA[6:-4]
    with pytest.raises(SavedError, match="version 1"):
        unpack(data + zlib.crc32(data).to_bytes(4, "little"))
