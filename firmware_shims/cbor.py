"""A small CBOR encoder (RFC 8949) that writes into a buffer of the caller's. Decodes nothing.

Knows None, bool, int, float, str, bytes, list, tuple, dict and array.array (a typed array of RFC 8746).
"""

import struct
import sys

# RFC 8746, little-endian, by the letter of struct and array. Every board that MicroPython runs on is.
TAGS = {"B": 64, "H": 69, "I": 70, "Q": 71, "b": 72, "h": 77, "i": 78, "q": 79, "f": 85, "d": 86}
# In an array these two are as long as the C compiler likes.
TAGS["L"] = TAGS["I" if struct.calcsize("L") == 4 else "Q"]
TAGS["l"] = TAGS["i" if struct.calcsize("l") == 4 else "q"]

UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG = 0, 0x20, 0x40, 0x60, 0x80, 0xA0, 0xC0


def head_bytes(number):
    """Return how long a head with `number` is.

    >>> head_bytes(23), head_bytes(24), head_bytes(1000)
    (1, 2, 3)
    """
    return 1 if number < 24 else 2 if number < 0x100 else 3 if number < 0x10000 else 9 if number >> 32 else 5


def head_into(buffer, at, major, number):
    """Write a head, like (TEXT, length) or (UINT, value), at `buffer[at]`; return where it ends."""
    if number >> 64:
        raise ValueError("an integer has at most 64 bits")
    end = at + head_bytes(number)
    if end > len(buffer):
        raise IndexError("the buffer is full")
    if number < 24:
        buffer[at] = major | number
    elif number < 0x100:
        buffer[at] = major | 24
        buffer[at + 1] = number
    elif number < 0x10000:
        buffer[at] = major | 25
        struct.pack_into(">H", buffer, at + 1, number)
    elif number >> 32:
        buffer[at] = major | 27
        struct.pack_into(">Q", buffer, at + 1, number)
    else:
        buffer[at] = major | 26
        struct.pack_into(">I", buffer, at + 1, number)
    return end


def raw_into(buffer, at, data):
    """Copy `data` to `buffer[at]`; return where it ends. IndexError when it does not fit."""
    end = at + len(data)
    if end > len(buffer):
        raise IndexError("the buffer is full")
    buffer[at:end] = data
    return end


def text_into(buffer, at, text):
    """Write a text string; return where it ends."""
    data = text.encode()
    return raw_into(buffer, head_into(buffer, at, TEXT, len(data)), data)


def typed_head_into(buffer, at, code, data_bytes):
    """Write what stands before the `data_bytes` of a typed array of `code`; return where they begin."""
    return head_into(buffer, head_into(buffer, at, TAG, TAGS[code]), BYTES, data_bytes)


def encode_into(buffer, at, value):
    """Write `value` at `buffer[at]`; return where it ends. IndexError when it does not fit."""
    if value is None or value is True or value is False:
        buffer[at] = 0xF6 if value is None else 0xF5 if value else 0xF4
        return at + 1
    if isinstance(value, int):
        return head_into(buffer, at, UINT, value) if value >= 0 else head_into(buffer, at, NEGATIVE, -1 - value)
    if isinstance(value, float):
        return _float_into(buffer, at, value)
    if isinstance(value, str):
        return text_into(buffer, at, value)
    if isinstance(value, (list, tuple)):
        at = head_into(buffer, at, ARRAY, len(value))
        for item in value:
            at = encode_into(buffer, at, item)
        return at
    if isinstance(value, dict):
        at = head_into(buffer, at, MAP, len(value))
        for key in value:
            at = encode_into(buffer, encode_into(buffer, at, key), value[key])
        return at
    if isinstance(value, (bytes, bytearray)):
        return raw_into(buffer, head_into(buffer, at, BYTES, len(value)), value)
    return _array_into(buffer, at, value)


def encode(value):
    """Return `value` as CBOR.

    >>> encode({"t": 20.5}).hex()
    'a16174fa41a40000'
    """
    size = 64
    while True:
        buffer = bytearray(size)
        try:
            end = encode_into(buffer, 0, value)
        except IndexError:
            if size > 0x10000:
                raise
            size *= 4
        else:
            return bytes(memoryview(buffer)[:end])


def _float_into(buffer, at, value):
    """Four bytes where they hold the value exactly, else eight."""
    if at + 9 > len(buffer):
        raise IndexError("the buffer is full")
    try:
        struct.pack_into(">f", buffer, at + 1, value)
        exact = value != value or struct.unpack_from(">f", buffer, at + 1)[0] == value
    except OverflowError:
        exact = False
    if exact:
        buffer[at] = 0xFA
        return at + 5
    buffer[at] = 0xFB
    struct.pack_into(">d", buffer, at + 1, value)
    return at + 9


def _array_into(buffer, at, value):
    """An array.array. MicroPython's has no typecode; an empty one shows it: array('f')."""
    shown = repr(value[:0])
    if not shown.startswith("array('") or sys.byteorder != "little":
        raise TypeError("cannot encode " + shown[:40])
    code = shown[7]
    data = bytes(value)
    return raw_into(buffer, typed_head_into(buffer, at, code, len(data)), data)
