"""Protobuf by hand: varints, tags and fields, written and read. Must not know any message, and does no I/O.

Encoding as in https://protobuf.dev/programming-guides/encoding/. Only the wire types that OTLP uses are
written; all that exist are read, so that a newer peer's unknown fields are skipped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    Span: TypeAlias = "tuple[int, int, int, int, int]"

Value: TypeAlias = "int | bytes"

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5
# A group and its end, gone from protobuf for a decade: only `spans` knows where one ends.
GROUP: Final = 3
GROUP_END: Final = 4
GROUPS_DEPTH_MAX: Final = 100

VARINT_BYTES_MAX: Final = 10
# A field's number with its wire type.
KEY_MAX: Final = 2**32 - 1
KEY_BYTES_MAX: Final = 5
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}
_UINT64_MASK: Final = 2**64 - 1
# One byte covers nearly every length and tag that is written, so those come from a table.
_SMALL: Final = tuple(bytes([value]) for value in range(128))


def varint(value: int) -> bytes:
    """Return `value` (0 to 2^64 - 1, or a negative int64 in two's complement) as a varint.

    >>> varint(300).hex(), varint(-1).hex()
    ('ac02', 'ffffffffffffffffff01')
    """
    if 0 <= value < 128:
        return _SMALL[value]
    assert -(2**63) <= value <= _UINT64_MASK, value
    value &= _UINT64_MASK
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(field: int, wire_type: int) -> bytes:
    """Return the bytes before a field's value.

    >>> tag(1, LENGTH_DELIMITED).hex()
    '0a'
    """
    return varint(field << 3 | wire_type)


def delimited(field: int, value: bytes) -> bytes:
    """Return a string, bytes or message field.

    >>> delimited(2, b"hi").hex()
    '12026869'
    """
    return tag(field, LENGTH_DELIMITED) + varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """Return a string field. What UTF-8 cannot say (a lone surrogate) becomes a question mark.

    A string that raised here would keep its whole batch from ever leaving.
    """
    return delimited(field, value.encode("utf-8", "replace"))


def integer(field: int, value: int) -> bytes:
    """Return an int64, uint64, bool or enum field."""
    return tag(field, VARINT) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    """Return a fixed64 field; `value` from 0 to 2^64 - 1.

    >>> fixed64(1, 1).hex()
    '090100000000000000'
    """
    return tag(field, FIXED64) + value.to_bytes(8, "little")


def double(field: int, value: float) -> bytes:
    """Return a double field."""
    return tag(field, FIXED64) + struct.pack("<d", value)


def fields(data: bytes, *, is_cut: bool = False) -> Iterator[tuple[int, int, Value]]:
    """Yield (field number, wire type, value) of a message; raise ValueError where the bytes are not one.

    Values are ints for varints (unsigned) and fixed fields, and bytes for length-delimited ones. Of a message that
    `is_cut` the last of those has what is there. Groups, gone from protobuf for a decade, are refused.

    >>> list(fields(bytes.fromhex("089601" "12026869")))
    [(1, 0, 150), (2, 2, b'hi')]
    """
    at = 0
    while at < len(data):
        key, at = _read_key(data, at)
        number, wire_type = key >> 3, key & 7
        if not number:
            raise ValueError("field number 0 does not exist in protobuf")
        value: Value
        if wire_type == VARINT:
            value, at = _read_varint(data, at)
        elif wire_type == LENGTH_DELIMITED:
            length, at = _read_varint(data, at)
            length = min(length, len(data) - at) if is_cut else length
            value, at = _read(data, at, length), at + length
        elif wire_type in _FIXED_BYTES:
            length = _FIXED_BYTES[wire_type]
            value, at = int.from_bytes(_read(data, at, length), "little"), at + length
        else:
            raise ValueError(f"wire type {wire_type} is not used by protobuf 3")
        yield number, wire_type, value


def spans(data: bytes, at: int = 0, end: int | None = None) -> Iterator[Span]:
    """Yield (field number, wire type, where it begins, where its value starts, where it ends) of a message's fields.

    Nothing is copied or read. Only length-delimited values are sure to start and end where that is said; of others the
    whole field is. Raises ValueError where the bytes from `at` to `end` are no message.

    >>> list(spans(bytes.fromhex("089601" "12026869")))
    [(1, 0, 0, 1, 3), (2, 2, 3, 5, 7)]
    """
    stop = len(data) if end is None else end
    while at < stop:
        begin = at
        key = data[at]
        at += 1
        if key > 0x7F:
            key, at = _read_key(data, begin)
        number, wire_type = key >> 3, key & 7
        if not number:
            raise ValueError("field number 0 does not exist in protobuf")
        start = at
        if wire_type == LENGTH_DELIMITED:
            # Most lengths have one byte or two; a call for each would be half of the time.
            length = data[at] if at + 1 < stop else 0x80
            if length < 0x80:
                start += 1
            elif at + 1 < stop and data[at + 1] < 0x80:
                length, start = length & 0x7F | data[at + 1] << 7, at + 2
            else:
                length, start = _read_varint(data, at)
            at = start + length
        else:
            at = _skip(data, at, wire_type, number)
        if at > stop:
            raise ValueError(f"a field ends {at - stop} bytes behind its message")
        yield number, wire_type, begin, start, at


def count(data: bytes, at: int, end: int, field: int) -> int:
    """Return how many length-delimited fields of a small number there are, as `spans` would tell in four times as long.

    >>> data = text(2, "hi") + integer(1, 5) + text(2, "")
    >>> count(data, 0, len(data), 2)
    2
    """
    wanted = field << 3 | LENGTH_DELIMITED
    assert wanted < 0x80, field
    found = 0
    # So that two bytes can be looked at wherever there is one.
    last = end - 2
    while at < end:
        if at < last and data[at] == wanted:
            length = data[at + 1]
            if length < 0x80:
                at += 2 + length
                found += 1
                continue
            if (high := data[at + 2]) < 0x80:
                at += 3 + (length & 0x7F | high << 7)
                found += 1
                continue
        number, kind, _, _, at = next(spans(data, at, end))
        found += number == field and kind == LENGTH_DELIMITED
    if at > end:
        raise ValueError(f"a field ends {at - end} bytes behind its message")
    return found


def inside(data: bytes, at: int, end: int, numbers: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Yield where the values of length-delimited fields of these numbers start and end, as `spans` would tell.

    >>> list(inside(text(2, "hi") + integer(1, 5) + text(3, "") + text(2, "x"), 0, 11, frozenset({2, 3})))
    [(2, 4), (8, 8), (10, 11)]
    """
    last = end - 2
    while at < end:
        key = data[at]
        if at < last and 7 < key < 0x80 and key & 7 == LENGTH_DELIMITED and (length := data[at + 1]) < 0x80:
            number, kind, start = key >> 3, LENGTH_DELIMITED, at + 2
            at = start + length
            if at > end:
                raise ValueError(f"a field ends {at - end} bytes behind its message")
        elif at < last and 7 < key < 0x80 and key & 7 == VARINT and data[at + 1] < 0x80:
            at += 2
            continue
        else:
            number, kind, _, start, at = next(spans(data, at, end))
        if kind == LENGTH_DELIMITED and number in numbers:
            yield start, at


def runs(data: bytes, at: int, end: int, bytes_max: int) -> Iterator[tuple[int, int]]:
    """Yield where runs of whole fields begin and end, as long as `bytes_max` allows; a longer field is one by itself.

    >>> list(runs(text(2, "hi") * 3 + text(2, "longer"), 0, 20, 8))
    [(0, 8), (8, 12), (12, 20)]
    """
    run = at
    last = end - 2
    while at < end:
        begin, key = at, data[at]
        if at < last and key < 0x80 and key & 7 == LENGTH_DELIMITED and key > 7 and data[at + 1] < 0x80:
            at += 2 + data[at + 1]
        elif at < last and key < 0x80 and key & 7 == LENGTH_DELIMITED and key > 7 and data[at + 2] < 0x80:
            at += 3 + (data[at + 1] & 0x7F | data[at + 2] << 7)
        elif at < last and 7 < key < 0x80 and key & 7 == VARINT and data[at + 1] < 0x80:
            at += 2
        else:
            *_, at = next(spans(data, at, end))
        if at > end:
            raise ValueError(f"a field ends {at - end} bytes behind its message")
        if at - run > bytes_max:
            if begin > run:
                yield run, begin
            run = begin
            if at - begin > bytes_max:
                yield begin, at
                run = at
    if run < end:
        yield run, end


def _skip(data: bytes, at: int, wire_type: int, number: int) -> int:
    """Return where the value of a field ends that is not length-delimited."""
    if wire_type == VARINT:
        return _read_varint(data, at)[1]
    if wire_type in _FIXED_BYTES:
        return at + _FIXED_BYTES[wire_type]
    if wire_type != GROUP:
        raise ValueError(f"wire type {wire_type} is not used by protobuf 3")
    groups = [number]
    while groups:
        key, at = _read_key(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == GROUP:
            groups.append(number)
        elif wire_type == GROUP_END:
            if groups.pop() != number:
                raise ValueError("a group that ends as another one")
        elif wire_type == LENGTH_DELIMITED:
            length, at = _read_varint(data, at)
            at += length
        else:
            at = _skip(data, at, wire_type, number)
        if len(groups) > GROUPS_DEPTH_MAX:
            raise ValueError(f"more than {GROUPS_DEPTH_MAX} groups inside each other")
    return at


def messages(data: bytes, field: int) -> Iterator[bytes]:
    """Yield what each occurrence of a string, bytes or message field holds; raise ValueError as `spans` does.

    >>> list(messages(text(1, "a") + integer(2, 5) + text(1, "b"), 1))
    [b'a', b'b']
    """
    for number, wire_type, _, start, stop in spans(data):
        if number == field and wire_type == LENGTH_DELIMITED:
            yield data[start:stop]


def signed(value: int) -> int:
    """Return an unsigned varint's value as the int64 it was.

    >>> signed(2**64 - 1)
    -1
    """
    return value - 2**64 if value >= 2**63 else value


def _read(data: bytes, at: int, length: int) -> bytes:
    if length > len(data) - at:
        raise ValueError(f"a field of {length} bytes has only {len(data) - at} left")
    return data[at : at + length]


def _read_key(data: bytes, at: int) -> tuple[int, int]:
    """Read a field's number and wire type, which have 32 bits together, and where its value starts."""
    key, end = _read_varint(data, at)
    if key > KEY_MAX or end - at > KEY_BYTES_MAX:
        raise ValueError("a field number of more than 29 bits does not exist in protobuf")
    return key, end


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & _UINT64_MASK, at + index + 1
    raise ValueError("a varint that does not end")
