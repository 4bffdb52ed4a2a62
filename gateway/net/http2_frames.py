"""What a client's bytes are cut into, seen before they are taken apart: a few frames at a time, none of them endless.

h2 waits for the whole of a frame before it says that it is too long, and for the whole of a block of headers; and what
it makes of one read stands in memory all at once. So frames are counted first, by their heads alone. Must not look at
what is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.net.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_MAX,
    HEAD_BYTES,
    HEADERS,
    PREFACE,
    RST_STREAM,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is acted on before others have their turn.
FRAMES_AT_ONCE: Final = 64
HEADERS_BYTES_MAX: Final = 16 * 1024
# Frames that bring next to nothing (PING, SETTINGS, some bytes of DATA, or any that nobody waits for …): so many for
# nothing, for each request that is answered, and for each so many bytes of bodies.
SMALL_BYTES: Final = 64
IDLE_FRAMES_MAX: Final = 2000
IDLE_FRAMES_PER_ANSWER: Final = 100
IDLE_FRAME_BYTES: Final = 1024
# From so many of these and of headers on, and a few more for each request that is let in, it is chatter.
CHATTER_FRAMES_MAX: Final = 64
CHATTER_FRAMES_PER_REQUEST: Final = 16
# A body in smaller pieces than that is chatter, too: what a frame costs does not depend on its size.
CHATTER_FRAME_BYTES: Final = 256


class FloodError(Exception):
    """The client sends what no program sends that has something to say."""


class FrameSizeError(Exception):
    """A frame is longer than was agreed."""


class Frames:
    """The frames of one connection, by their heads."""

    def __init__(self) -> None:
        self.answered = 0
        self.admitted = 0
        self._left = len(PREFACE)  # bytes until the next head
        self._head = b""  # the beginning of one
        self._block_bytes = 0  # of headers that have begun
        self._idle = 0
        self._asked = 0
        self._ends = self._resets = 0  # of requests
        self._body_frames = self._body_bytes = 0

    @property
    def is_chatter(self) -> bool:
        """Whether most of what comes brings next to nothing."""
        free = CHATTER_FRAMES_MAX + CHATTER_FRAMES_PER_REQUEST * self.admitted + self._body_bytes // CHATTER_FRAME_BYTES
        return self._idle + self._asked + self._body_frames > free

    def brought(self, size_bytes: int) -> None:
        """Take note of a frame of DATA that somebody waits for, and is not the last."""
        if size_bytes >= SMALL_BYTES:
            self._idle -= 1
            self._body_frames += 1
            self._body_bytes += size_bytes

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Yield `data`, a few frames at a time; raise FloodError, FrameSizeError behind what came before it."""
        begin, at, count = 0, 0, 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            if count >= FRAMES_AT_ONCE:
                yield data[begin:at]
                begin, count = at, 0
            part = data[at : at + HEAD_BYTES - len(self._head)]
            self._head += part
            at += len(part)
            if len(self._head) < HEAD_BYTES:
                break
            head, self._head = self._head, b""
            self._left = int.from_bytes(head[:3], "big")
            try:
                self._look(self._left, head[3], head[4])
            except (FloodError, FrameSizeError):
                yield data[begin : at - len(part)]
                raise
            count += 1
        yield data[begin:at]

    def _look(self, size_bytes: int, kind: int, flags: int) -> None:
        if size_bytes > FRAME_BYTES_MAX:
            raise FrameSizeError(f"a frame of {size_bytes} bytes")
        if kind in {HEADERS, CONTINUATION}:
            self._asked += 1
            self._block_bytes += size_bytes + HEAD_BYTES
            if self._block_bytes > HEADERS_BYTES_MAX:
                raise FloodError(f"more than {HEADERS_BYTES_MAX} bytes of headers")
            if flags & END_HEADERS:
                self._block_bytes = 0
            return
        # Each request ends once, and may be taken back: those that are taken back are counted as such.
        if kind == DATA and flags & END_STREAM and self._ends < self._asked:
            self._ends += 1
        elif kind == RST_STREAM and self._resets < self._asked:
            self._resets += 1
        else:
            self._idle += 1
            free = IDLE_FRAMES_MAX + IDLE_FRAMES_PER_ANSWER * self.answered + self._body_bytes // IDLE_FRAME_BYTES
            if self._idle > free:
                raise FloodError("it sends frames that bring next to nothing, again and again")
