"""Opens what a sender has compressed, piece by piece as it comes. Must not hold more than a piece; does no I/O.

Whoever reads a body decides after each piece whether the next is still wanted: a few bytes may stand for gigabytes.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from gateway.codecs.zstd import ZstdError, new_decompressor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.codecs.zstd import ZstdDecompressor

PIECE_BYTES: Final = 64 * 1024
# zlib's own number for a gzip header and trailer around 32 KiB of window.
_GZIP_WINDOW: Final = 31
ENCODINGS: Final = ("gzip", "zstd")


class Opener:
    """One body: `feed` it what came, then `close` it. `encoding` is "gzip", "zstd", or "" for what is not compressed.

    >>> opener = Opener("")
    >>> list(opener.feed(b"as it is"))
    [b'as it is']
    """

    def __init__(self, encoding: str) -> None:
        self._gzip = zlib.decompressobj(_GZIP_WINDOW) if encoding == "gzip" else None
        self._zstd = new_decompressor() if encoding == "zstd" else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what is in it, PIECE_BYTES at a time; raise ValueError for what is no such stream."""
        if self._gzip is not None:
            yield from self._feed_gzip(self._gzip, data)
        elif self._zstd is not None:
            yield from self._feed_zstd(self._zstd, data)
        elif data:
            yield data

    @staticmethod
    def _feed_gzip(stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
        while data:
            if stream.eof:
                raise ValueError("there are bytes behind the end of the gzip stream")
            try:
                piece = stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise ValueError(f"not a gzip stream: {error}") from error
            data = stream.unconsumed_tail or stream.unused_data
            if piece:
                yield piece

    @staticmethod
    def _feed_zstd(stream: ZstdDecompressor, data: bytes) -> Iterator[bytes]:
        while True:
            if stream.eof:
                if data or stream.unused_data:
                    raise ValueError("there are bytes behind the end of the zstd frame")
                return
            try:
                piece = stream.decompress(data, PIECE_BYTES)
            except ZstdError as error:
                raise ValueError(f"not a zstd frame: {error}") from error
            data = b""
            if piece:
                yield piece
            if stream.needs_input:
                return

    def close(self) -> None:
        """Raise ValueError where the end is missing."""
        for stream in (self._gzip, self._zstd):
            if stream is not None and not stream.eof:
                raise ValueError("the compressed body ends in the middle")
