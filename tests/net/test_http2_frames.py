"""Frames by their heads: all bytes come out again, however they come in, and nothing that is endless does."""

from __future__ import annotations

import random

import pytest

from gateway.net.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    head,
)
from gateway.net.http2_frames import (
    CHATTER_FRAMES_MAX,
    FRAMES_AT_ONCE,
    IDLE_FRAMES_MAX,
    FloodError,
    Frames,
    FrameSizeError,
)


@pytest.mark.parametrize("seed", range(5))
def test_all_bytes_come_out_as_they_came(seed: int) -> None:
    """However they are cut, and a few frames at a time."""
    dice = random.Random(seed)
    frames = [frame(DATA, 0, 1, bytes(dice.choice([0, 1, 9, 300, 16_384]))) for _ in range(400)]
    data = PREFACE + b"".join(frames)
    frames, at, out = Frames(), 0, b""
    while at < len(data):
        size = dice.choice([1, 5, 9, 1000, 65_536])
        for some in frames.cut(data[at : at + size]):
            assert some.count(head(0, DATA, 0, 1)) <= FRAMES_AT_ONCE + 1
            out += some
        at += size
    assert out == data


def test_a_read_of_many_frames_is_acted_on_in_parts() -> None:
    """What is made of one part is all that stands in memory."""
    pings = frame(PING, 0, 0, bytes(8)) * 1000
    parts = list(Frames().cut(PREFACE + pings))
    assert b"".join(parts) == PREFACE + pings
    assert len(parts) == -(-1000 // FRAMES_AT_ONCE)
    assert list(Frames().cut(PREFACE)) == [PREFACE]


@pytest.mark.parametrize(
    ("before", "too_much", "why"),
    [
        (b"", head(1 << 24 - 1, DATA, 0, 1), "a frame of"),
        (frame(HEADERS, 0, 1, bytes(9000)), frame(CONTINUATION, 0, 1, bytes(9000)), "bytes of headers"),
        (frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, b"") * 2000, "bytes of headers"),
        (frame(DATA, 0, 1, b"a") * IDLE_FRAMES_MAX, frame(DATA, 0, 1, b"a"), "next to nothing"),
        (frame(DATA, 0, 1, b"") * IDLE_FRAMES_MAX, frame(SETTINGS, 0, 0, b""), "bring next to nothing"),
    ],
)
def test_what_is_endless_ends(before: bytes, too_much: bytes, why: str) -> None:
    """What came before it comes out first."""
    out = b""
    with pytest.raises((FloodError, FrameSizeError), match=why):
        for some in Frames().cut(PREFACE + before + too_much):
            out += some
    assert out.startswith(PREFACE + before)
    assert len(out) < len(PREFACE + before + too_much)


def test_who_says_much_that_brings_nothing_chatters() -> None:
    """Or asks for what nobody gets; not who is let in, or sends, beside it."""
    frames = Frames()
    list(frames.cut(PREFACE + frame(PING, 0, 0, bytes(8)) * CHATTER_FRAMES_MAX))
    assert not frames.is_chatter
    list(frames.cut(frame(PING, 0, 0, bytes(8))))
    assert frames.is_chatter
    frames.admitted = 1
    assert not frames.is_chatter
    list(frames.cut(frame(HEADERS, END_HEADERS, 1, bytes(8)) * 20))
    assert frames.is_chatter


def test_a_body_in_crumbs_is_chatter() -> None:
    """A frame costs what it costs, however little is in it."""
    crumbs, pieces = Frames(), Frames()
    for frames, size_bytes in ((crumbs, 64), (pieces, 256)):
        for some in frames.cut(PREFACE + frame(DATA, 0, 1, bytes(size_bytes)) * 1000):
            for _ in range(some.count(head(size_bytes, DATA, 0, 1))):
                frames.brought(size_bytes)
    assert crumbs.is_chatter
    assert not pieces.is_chatter


@pytest.mark.parametrize(
    "more",
    [
        frame(RST_STREAM, 0, 1, bytes(4)),
        frame(DATA, 0, 1, bytes(9000)),
        frame(DATA, END_STREAM, 1, bytes(9000)),
        frame(DATA, END_STREAM, 1, b""),
    ],
    ids=["resets", "data", "ends", "empty ends"],
)
def test_what_nobody_waits_for_brings_nothing(more: bytes) -> None:
    """One request is ended once, and taken back once."""
    frames = Frames()
    list(frames.cut(PREFACE + frame(HEADERS, END_HEADERS, 1, bytes(8)) + more * (CHATTER_FRAMES_MAX - 1)))
    assert not frames.is_chatter
    with pytest.raises(FloodError):
        list(frames.cut(more * (IDLE_FRAMES_MAX + 2)))
    assert frames.is_chatter


def test_who_asks_and_sends_may_say_more() -> None:
    """A client asks for PINGs and opens windows as it sends and hears; ends of requests and of headers are none."""
    frames = Frames()
    list(frames.cut(PREFACE + frame(HEADERS, END_HEADERS, 1, bytes(9000)) * 100))
    list(frames.cut((frame(RST_STREAM, 0, 1, bytes(4)) + frame(DATA, END_STREAM, 1, b"")) * 100))
    list(frames.cut(frame(DATA, 0, 1, bytes(10_240))))
    frames.brought(10_240)
    frames.answered += 1
    pings = frame(PING, 0, 0, bytes(8))
    list(frames.cut(pings * (IDLE_FRAMES_MAX + 110)))
    with pytest.raises(FloodError):
        list(frames.cut(pings))
