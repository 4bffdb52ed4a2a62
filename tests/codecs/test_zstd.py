"""Checks for the one door to zstd."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.wire import encode, simulate
from gateway.codecs import zstd


@given(st.binary(max_size=2000), st.sampled_from([1, 3, 9, 17, 19]))
def test_what_goes_in_comes_out(data: bytes, level: int) -> None:
    """Every level makes a frame that is read back."""
    assert zstd.decompress(zstd.compress(data, level=level), bytes_max=2000) == data


@given(st.lists(st.binary(max_size=300), max_size=9), st.sampled_from([1, 3, 19]))
def test_parts_come_out_as_one(parts: list[bytes], level: int) -> None:
    """Also where there are none, or empty ones; and the next frame is none the worse for it."""
    assert zstd.decompress(zstd.compress_parts(parts, level=level), bytes_max=3000) == b"".join(parts)
    assert zstd.decompress(zstd.compress(b"next", level=level), bytes_max=9) == b"next"


@pytest.mark.parametrize("clock", ["whole seconds", "jittered milliseconds"])
def test_a_small_body_is_pressed_nearly_as_hard_as_can_be(clock: str) -> None:
    """Parsed once: a few per cent above what the library's highest levels make of it, and well below a quick one."""
    body = encode(simulate(clock)[:2])
    assert len(body) < 16 * 1024
    hard, hardest = (len(zstd.compress(body, level=17)), len(zstd.zstd.compress(body, 22)))
    assert hard <= 1.03 * hardest
    assert hard < 0.92 * len(zstd.compress(body))


def test_parts_have_codes_of_their_own() -> None:
    """Two columns of different letters are smaller apart."""
    noise = [bytes(b % 7 for b in os.urandom(3000)), bytes(100 + b % 11 for b in os.urandom(3000))]
    assert len(zstd.compress_parts(noise)) < len(zstd.compress(b"".join(noise)))


def test_a_bomb_is_refused() -> None:
    """A small frame that holds more than is taken is refused without holding it."""
    bomb = zstd.compress(bytes(50_000_000))
    with pytest.raises(ValueError, match="more than the 1000 bytes"):
        zstd.decompress(bomb, bytes_max=1000)


def test_a_cut_frame_is_refused() -> None:
    """Neither half a frame nor one with a rest behind it passes."""
    frame = zstd.compress(os.urandom(500))
    for damaged in (frame[:-3], frame + b"x", b""):
        with pytest.raises(ValueError, match="cut"):
            zstd.decompress(damaged, bytes_max=1000)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Damage raises ValueError, nothing else."""
    with contextlib.suppress(ValueError):
        zstd.decompress(b"\x28\xb5\x2f\xfd" + data, bytes_max=10_000)


def test_a_wide_window_is_refused() -> None:
    """A frame cannot ask for more memory than RFC 8878 recommends."""
    wide = bytes.fromhex("28b52ffd") + bytes([0x00, (30 - 10) << 3]) + bytes.fromhex("010000")
    with pytest.raises(ValueError, match="zstd frame"):
        zstd.decompress(wide, bytes_max=10_000)


def test_threads_have_compressors_of_their_own() -> None:
    """A compressor is kept per level, and not shared between threads."""
    mine = zstd._compressor(3)
    assert zstd._compressor(3) is mine
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(zstd._compressor(3)))
    thread.start()
    thread.join()
    assert theirs[0] is not mine
