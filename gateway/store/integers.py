"""Integers in few bytes: differences, common divisors, byte planes. Must not know what the integers mean.

A column is written without its length: whoever reads it knows how many there are. All is little-endian.

| column   | bytes                                                                                      |
| -------- | ------------------------------------------------------------------------------------------ |
| varint   | LEB128 of an unsigned 64-bit number, 1 to 10 bytes                                         |
| bits     | numpy's packbits: the first flag is the highest bit of the first byte                      |
| planes   | `width` planes of one byte per integer, the lowest byte's plane first                      |
| unsigned | 1 byte: width 0 to 8, with 16 added where a varint follows by which all were divided; planes  |
| signed   | 1 byte: 0 offsets, 1 differences; varint: the smallest, or the first, zigzag; unsigned:    |
|          | what each is above the smallest, or the zigzag steps from each to the next, one fewer      |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Unsigned: TypeAlias = npt.NDArray[np.uint64]
    Signed: TypeAlias = npt.NDArray[np.int64]
    Planes: TypeAlias = npt.NDArray[np.uint8]
    Part: TypeAlias = bytes | memoryview

WIDTH_MAX: Final = 8
DIVIDED: Final = 16
_OFFSETS: Final = 0
_DIFFERENCES: Final = 1
_ONE: Final = np.uint64(1)
U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
# Enough to see that there is no common divisor; a suspected one is checked on all.
_DIVISOR_SAMPLE: Final = 32
# Enough to tell which of two ways is shorter where it matters.
_MEAN_SAMPLE: Final = 1 << 11


class SegmentError(ValueError):
    """These bytes are not a whole, undamaged segment of a known version. The message is a sentence."""


def zigzag(values: Signed) -> Unsigned:
    """Fold signs into the lowest bit, so that what is near zero is small.

    >>> zigzag(np.array([0, -1, 1, -2])).tolist()
    [0, 1, 2, 3]
    """
    folded: Signed = values >> 63
    folded ^= values << 1
    return folded.view(np.uint64)


def unzigzag(values: Unsigned) -> Signed:
    """Undo `zigzag`.

    >>> unzigzag(np.array([0, 1, 2, 3], np.uint64)).tolist()
    [0, -1, 1, -2]
    """
    signs = values & _ONE
    np.negative(signs, out=signs)
    signs ^= values >> _ONE
    return signs.view(np.int64)


def byte_width(value: int) -> int:
    """Return how many bytes an unsigned integer needs.

    >>> [byte_width(value) for value in (0, 1, 255, 256)]
    [0, 1, 1, 2]
    """
    return (value.bit_length() + 7) // 8


def byte_widths(values: Unsigned) -> npt.NDArray[np.int64]:
    """Return how many bytes each integer needs.

    >>> byte_widths(np.array([0, 1, 255, 256, 2**64 - 1], np.uint64)).tolist()
    [0, 1, 1, 2, 8]
    """
    limits = np.uint64(1) << np.arange(0, 64, 8, dtype=np.uint64)
    return np.searchsorted(limits, values, side="right").astype(np.int64)


def to_planes(values: Unsigned, width: int) -> Planes:
    """Return the `width` low bytes of all integers, plane by plane: the high ones are long runs of zeros.

    >>> to_planes(np.array([0x0102, 0x0304], np.uint64), 2).tobytes().hex()
    '02040103'
    """
    if width == 1:
        return values.astype(np.uint8).reshape(1, -1)
    return np.ascontiguousarray(values.view(np.uint8).reshape(-1, 8)[:, :width].T)


def from_planes(planes: Planes) -> Unsigned:
    """Undo `to_planes`; `planes` has a row of bytes for each plane."""
    width, count = planes.shape
    if width == 1:
        return np.asarray(planes[0], np.uint64)
    values = np.zeros(count, np.uint64)
    octets = values.view(np.uint8).reshape(count, 8)
    for place in range(width):
        octets[:, place] = planes[place]
    return values


def mean_bits(values: Unsigned) -> float:
    """Return the mean of the bits that the integers take, as an estimate of what coding them costs."""
    if not len(values):
        return 0.0
    some = values[:: -(-len(values) // _MEAN_SAMPLE)]
    return float(np.log2(some.astype(np.float64) + 1.0).sum()) / len(some)


def common_divisor(values: Unsigned) -> int:
    """Return the greatest common divisor, 1 where there is none (or nothing but zeros).

    >>> common_divisor(np.array([0, 3000, 5000], np.uint64))
    1000
    """
    sample = values[:: max(1, len(values) // _DIVISOR_SAMPLE)]
    divisor = int(np.gcd.reduce(sample))
    if divisor > 1 and len(sample) < len(values):
        each = np.uint64(divisor)
        if (values // each * each != values).any():
            divisor = int(np.gcd.reduce(values))
    return max(divisor, 1)


def put_varint(out: bytearray, value: int) -> None:
    """Append an unsigned number, seven bits to the byte."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


class Writer:
    """Collects columns. `parts` is what was written, each plane a part of its own."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.parts.append(data)

    def varint(self, value: int) -> None:
        """Write one unsigned number."""
        out = bytearray()
        put_varint(out, value)
        self.parts.append(bytes(out))

    def bits(self, flags: npt.NDArray[np.bool_]) -> None:
        """Write booleans, eight to the byte."""
        self.parts.append(np.packbits(flags).tobytes())

    def planes(self, values: Unsigned, width: int) -> None:
        """Write the `width` low bytes of each integer."""
        self.parts += [memoryview(plane) for plane in to_planes(values, width)]

    def unsigned(self, values: Unsigned) -> None:
        """Write integers divided by what divides them all, as wide as the largest."""
        largest = int(values.max()) if len(values) else 0
        divisor = common_divisor(values) if largest else 1
        width = byte_width(largest // divisor)
        if divisor > 1:
            self.parts.append(bytes([width | DIVIDED]))
            self.varint(divisor)
            values = values // np.uint64(divisor)
        else:
            self.parts.append(bytes([width]))
        if width:
            self.planes(values, width)

    def signed(self, values: Signed) -> None:
        """Write integers as offsets from the smallest or as steps, whichever looks shorter."""
        if not len(values):
            return
        smallest = values.min()
        offsets = (values - smallest).view(np.uint64)
        steps = zigzag(values[1:] - values[:-1])
        differs = len(values) > 2 and mean_bits(steps) < mean_bits(offsets)
        self.parts.append(bytes([_DIFFERENCES if differs else _OFFSETS]))
        base = int(values[0] if differs else smallest)
        self.varint((base << 1 ^ base >> 63) & U64_MAX)
        self.unsigned(steps if differs else offsets)


class Reader:
    """Reads columns back, never past the end, and says SegmentError where something cannot be."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def raw(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise SegmentError(f"a column wants {count} bytes where {len(self._data) - self._at} are left")
        data = self._data[self._at : end]
        self._at = end
        return data

    def varint(self) -> int:
        """Return one unsigned 64-bit number."""
        value = shift = 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            if value > U64_MAX or shift > 63:
                raise SegmentError("a number has more than 64 bits")
            if byte < 0x80:
                return value
            shift += 7

    def bits(self, count: int) -> npt.NDArray[np.bool_]:
        """Return `count` booleans."""
        data = np.frombuffer(self.raw((count + 7) // 8), np.uint8)
        return np.unpackbits(data, count=count).view(np.bool_)

    def planes(self, count: int, width: int) -> Unsigned:
        """Return `count` integers of `width` bytes, 1 to 8."""
        return from_planes(np.frombuffer(self.raw(count * width), np.uint8).reshape(width, count))

    def unsigned(self, count: int) -> Unsigned:
        """Return `count` integers."""
        head = self.raw(1)[0]
        divisor = self.varint() if head & DIVIDED else 1
        width = head & ~DIVIDED
        if width > WIDTH_MAX:
            raise SegmentError(f"a column says that its integers have {width} bytes; there are 8 at most")
        if not width:
            return np.zeros(count, np.uint64)
        values = self.planes(count, width)
        if divisor != 1:
            values *= np.uint64(divisor)
        return values

    def signed(self, count: int) -> Signed:
        """Return `count` integers."""
        if not count:
            return np.empty(0, np.int64)
        way = self.raw(1)[0]
        base = unzigzag(np.array([self.varint()], np.uint64))
        if way == _OFFSETS:
            return self.unsigned(count).view(np.int64) + base
        if way != _DIFFERENCES:
            raise SegmentError(f"a column is written in a way ({way}) that this version does not know")
        values = np.empty(count, np.int64)
        values[0] = base[0]
        values[1:] = unzigzag(self.unsigned(count - 1))
        return np.cumsum(values, out=values)

    def close(self) -> None:
        """Say that nothing may be left."""
        if self._at != len(self._data):
            raise SegmentError(f"{len(self._data) - self._at} bytes are left behind the last column")
