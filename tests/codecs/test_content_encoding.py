"""What a sender has compressed: opened piece by piece, bounded by whoever asks for the next."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import zstd
from gateway.codecs.content_encoding import PIECE_BYTES, Opener

PACK = {"gzip": gzip.compress, "zstd": zstd.compress, "": bytes}


def open_all(encoding: str, data: bytes, *, step: int) -> bytes:
    opener = Opener(encoding)
    found = b"".join(piece for at in range(0, len(data), step) for piece in opener.feed(data[at : at + step]))
    opener.close()
    return found


@pytest.mark.parametrize("encoding", ["gzip", "zstd", ""])
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_what_was_packed_comes_out(encoding: str, step: int) -> None:
    """However it comes in."""
    data = b"tide gate " * 500 + bytes(range(256))
    assert open_all(encoding, PACK[encoding](data), step=step) == data
    assert list(Opener(encoding).feed(b"")) == []


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_opened_only_as_far_as_is_asked(encoding: str) -> None:
    """Sixty-four megabytes out of some kilobytes: after the first piece nobody wants more, and no more is made."""
    bomb = PACK[encoding](bytes(64 << 20))
    tracemalloc.start()
    try:
        pieces = Opener(encoding).feed(bomb)
        assert len(next(pieces)) <= PIECE_BYTES
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert sum(map(len, pieces)) > 60 << 20


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_is_cut_or_goes_on_is_refused(encoding: str) -> None:
    """At every length; and bytes behind the end, in the same piece or the next."""
    packed = PACK[encoding](b"x" * 300)
    for end in range(len(packed)):
        with pytest.raises(ValueError, match="ends in the middle"):
            open_all(encoding, packed[:end], step=1 << 20)
    for step in (1 << 20, 1):
        with pytest.raises(ValueError, match="bytes behind the end"):
            open_all(encoding, packed + packed, step=step)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "zstd"]), st.integers(1, 60))
def test_odd_bytes_are_refused(data: bytes, encoding: str, step: int) -> None:
    """Whatever they are, alone or behind the right beginning."""
    for start in (b"", PACK[encoding](b"abc")[:10]):
        with contextlib.suppress(ValueError):
            open_all(encoding, start + data, step=step)


def test_a_window_that_takes_much_memory_is_refused() -> None:
    """Of zstd, whose frames say themselves how much of the past they need."""
    frame = bytes.fromhex("28b52ffd") + bytes([0x00, (27 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(ValueError, match="not a zstd frame"):
        open_all("zstd", frame, step=100)
