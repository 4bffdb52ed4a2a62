"""Arrays as bytes and back, for state that survives a restart. Must not trust what it reads, nor unpickle it.

| bytes | field                                                                             |
| ----- | --------------------------------------------------------------------------------- |
| 4     | magic, always b"TGDS"                                                             |
| 2     | version, little-endian like all that follows                                      |
| 4     | length of the table of contents                                                   |
| …     | table of contents: JSON list of [name, dtype, shape]                              |
| …     | each array's elements in C order, one array after the other                      |
| 4     | CRC-32 of everything before                                                       |
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]

MAGIC: Final = b"TGDS"
VERSION: Final = 1
DTYPES: Final = frozenset({"<f8", "<i8", "<u8"})
_HEAD: Final = struct.Struct("<4sHI")
_CRC: Final = struct.Struct("<I")


class SavedError(ValueError):
    """These bytes are not what `pack` wrote."""


def pack(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return `arrays` as bytes; their dtypes must be among DTYPES."""
    contents: list[tuple[str, str, tuple[int, ...]]] = []
    parts: list[bytes] = []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<").str
        assert dtype in DTYPES, (name, dtype)
        contents.append((name, dtype, array.shape))
        parts.append(np.ascontiguousarray(array, dtype).tobytes())
    table = msgspec.json.encode(contents)
    body = b"".join([_HEAD.pack(MAGIC, VERSION, len(table)), table, *parts])
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes) -> Arrays:
    """Return what `pack` was given, as arrays that may be written; raise SavedError for anything else."""
    if len(data) < _HEAD.size + _CRC.size or zlib.crc32(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise SavedError("the checksum does not match")
    magic, version, length = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise SavedError(f"not detector state of version {VERSION}")
    try:
        contents = msgspec.json.decode(
            data[_HEAD.size : _HEAD.size + length], type=list[tuple[str, str, tuple[int, ...]]]
        )
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SavedError("the table of contents cannot be read") from error
    arrays: Arrays = {}
    at, end = _HEAD.size + length, len(data) - _CRC.size
    for name, dtype, shape in contents:
        if dtype not in DTYPES or any(size < 0 for size in shape):
            raise SavedError(f"{name} is of no known kind")
        count = math.prod(shape)
        if count * 8 > end - at:
            raise SavedError(f"{name} is cut off")
        try:
            arrays[name] = np.frombuffer(data, dtype, count, at).reshape(shape).astype(dtype[1:], copy=True)
        except (ValueError, OverflowError) as error:
            raise SavedError(f"{name} has a shape that is none") from error
        at += count * 8
    return arrays
