"""zstd behind one door: the standard library's from Python 3.14 on, its backport below. Does no I/O.

Compressors are kept per thread and level, since small frames cost more in setting one up than in compressing.
What is decompressed is bounded twice, in output and in window, because it may come from outside.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:  # pragma: no cover  the same names, on Python 3.14 and later
    from compression import zstd

ZstdError = zstd.ZstdError
ZstdDecompressor = zstd.ZstdDecompressor

LEVEL: Final = 3
HARD_LEVEL_MIN: Final = 13
# RFC 8878 recommends that decoders take windows up to 8 MiB.
WINDOW_LOG_MAX: Final = 23

_kept = threading.local()


def compress(data: bytes, *, level: int = LEVEL) -> bytes:
    """Return `data` as one frame, its window and tables held small at every level."""
    return _compressor(level).compress(data, zstd.ZstdCompressor.FLUSH_FRAME)


def compress_parts(parts: Sequence[bytes | memoryview], *, level: int = LEVEL) -> bytes:
    """Return all `parts`, one behind the other, as one frame in which each part is coded for itself.

    Columns of different nature do not then share one code. Worth it for parts of some hundred bytes or more.

    >>> decompress(compress_parts([b"tide", b"gate"]), bytes_max=64)
    b'tidegate'
    """
    compressor = _compressor(level)
    compressor.set_pledged_input_size(sum(map(len, parts)))
    blocks = [compressor.compress(part, zstd.ZstdCompressor.FLUSH_BLOCK) for part in parts]
    blocks.append(compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME))
    return b"".join(blocks)


def decompress(data: bytes, *, bytes_max: int) -> bytes:
    """Return what one frame holds; raise ValueError for damage, a rest behind it, or more than `bytes_max`.

    >>> decompress(compress(b"tide" * 9), bytes_max=64)[:8]
    b'tidetide'
    """
    reader = new_decompressor()
    try:
        content = reader.decompress(data, max_length=bytes_max + 1)
    except zstd.ZstdError as error:
        raise ValueError(f"not a zstd frame, or a damaged one: {error}") from error
    if len(content) > bytes_max:
        raise ValueError(f"a zstd frame holds more than the {bytes_max} bytes that are taken")
    if not reader.eof or reader.unused_data:
        raise ValueError("a zstd frame that is cut, or has bytes behind it")
    return content


def new_decompressor() -> ZstdDecompressor:
    """Return what opens one frame, its window bounded; how much comes out of it is for the caller to bound."""
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
    return ZstdDecompressor(options=options)


def _compressor(level: int) -> zstd.ZstdCompressor:
    if level >= HARD_LEVEL_MIN:
        # Rare and slow by nature; its tables are given back rather than kept.
        return zstd.ZstdCompressor(options=_options(level))
    kept: dict[int, zstd.ZstdCompressor] | None = getattr(_kept, "compressors", None)
    if kept is None:
        kept = _kept.compressors = {}
    found = kept.get(level)
    if found is None:
        found = kept[level] = zstd.ZstdCompressor(options=_options(level))
    return found


def _options(level: int) -> dict[int, int]:
    """Return parameters with tables that fit the processor's nearest caches, a fraction of the level's own.

    On telemetry (gateway/bench/wire.py and segments.py) that costs half a per cent of the bytes at most, is a third
    quicker, and takes 0.5, 1.0 and 1.8 MB for the three where the levels' own take up to 8. What is hard to compress is
    parsed once, whatever its size: of 16 KiB and less the hard levels look twice, at all of their time once more, for
    0.1 to 2 % of the bytes. A quiet gateway sends such a request each second.
    """
    name = zstd.CompressionParameter
    tables: dict[int, int]
    if level <= 1:
        window, tables = 16, {name.hash_log: 14}
    elif level < HARD_LEVEL_MIN:
        window, tables = 17, {name.hash_log: 15, name.chain_log: 14}
    else:
        # Matches of three bytes want a table of their own and, among numbers, are no gain.
        window, tables = 17, {name.hash_log: 16, name.chain_log: 17, name.min_match: 4}
        tables[name.strategy] = zstd.Strategy.btultra
    return {name.compression_level: level, name.window_log: window, **tables}
