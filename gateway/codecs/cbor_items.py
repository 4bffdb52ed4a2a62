"""What a CBOR payload is made of, looked at without decoding it (RFC 8949, section 3). Must not make any of it.

CBOR needs no counting of brackets to be read: heads stand one behind the other, and only a string's bytes lie between
two of them. An item is a head and what belongs to it; what contains other items is just in front of them.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

# Numbers, true, false, null, short texts, ends: they take the decoder a moment, and a few times their bytes of memory.
_CHEAP: Final = b"|".join(
    [
        rb"\xfb.{8}|\xfa.{4}|[\x00-\x17\x20-\x37\x5f\x7f\xf4-\xf7\xff]",
        rb"[\x18\x38].|[\x19\x39\xf9]..|[\x1a\x3a].{4}|[\x1b\x3b].{8}",
        *(rb"[\x%02x\x%02x].{%d}" % (0x40 | size, 0x60 | size, size) for size in range(24)),
    ]
)
# A list, a map or a tag, a value that only CBOR knows, or a string whose length does not fit into its head.
_DEAR: Final = b"|".join(
    [
        rb"[\x80-\x97\x9f\xa0-\xb7\xbf\xc0-\xd7\xe0-\xf3]",
        rb"[\x98\xb8\xd8\xf8].|[\x99\xb9\xd9]..|[\x9a\xba\xda].{4}|[\x9b\xbb\xdb].{8}",
        rb"[\x58\x78](.)|[\x59\x79](..)|[\x5a\x7a](.{4})|[\x5b\x7b](.{8})",
    ]
)
# More items than any payload has, in pairs.
_ENDLESS: Final = 1 << 70
# Not with *+, which goes wrong in Python before 3.11.5 (gh-106052); and bounded, since each round takes memory.
_CHEAP_ONES: Final = re.compile(rb"(?:%b){1,1024}" % _CHEAP, re.DOTALL)
_DEAR_ONE: Final = re.compile(_DEAR, re.DOTALL)


def has_more_items(payload: bytes, most: int) -> bool:
    """Whether there are more than `most` lists, maps, tags, odd values and long strings. What is no CBOR is not judged.

    Each of them may be one byte here, and takes the decoder up to a microsecond and two hundred bytes. Where there are
    not so many bytes from 0x80 on, with which all but the strings begin, nothing is looked at closely.

    >>> has_more_items(bytes.fromhex("83a080c100"), 3), has_more_items(bytes.fromhex("83a080c100"), 4)
    (True, False)
    """
    if np.count_nonzero(np.frombuffer(payload, np.int8) < 0) <= most:
        return False
    at = count = 0
    while True:
        while (passed := _CHEAP_ONES.match(payload, at)) is not None:
            at = passed.end()
        if (found := _DEAR_ONE.match(payload, at)) is None:
            return False
        count += 1
        if count > most:
            return True
        at = found.end()
        if found.lastindex is not None:
            at = min(at + int.from_bytes(found[found.lastindex], "big"), len(payload))


def has_plain_keys(payload: bytes, *, depth_max: int, items_max: int) -> bool:
    """Whether all keys of all maps are numbers, texts or simple values, which can hardly be chosen to collide.

    Large numbers, lists and maps can: Python hashes them without a secret, and a map of n keys of one hash takes n²
    steps. False also for what is no CBOR, and for more than `items_max` items, each of which takes a while to look at.

    >>> look = lambda data: has_plain_keys(bytes.fromhex(data), depth_max=8, items_max=100)
    >>> look("a10102"), look("a1810102")
    (True, False)
    """
    at = count = 0
    containers = [(1, False)]  # items that are left in each, of a map every second one a key
    try:
        while containers:
            left, is_map = containers.pop()
            count += 1
            kind, info = payload[at] >> 5, payload[at] & 31
            at += 1
            if kind == 7 and info == 31:  # the end of an indefinite one
                continue
            size = 1 << info - 24 if 24 <= info < 28 else 0
            value = int.from_bytes(payload[at : at + size], "big") if size else info
            at += size
            if is_map and left % 2 == 0 and kind in {4, 5, 6}:
                return False
            # A tag has its item behind it.
            if left > 1 or kind == 6:
                containers.append((left - (kind != 6), is_map))
            if kind in {2, 3} and info != 31:
                at += value
            elif 2 <= kind <= 5 and (value or info == 31):
                items = _ENDLESS if info == 31 else value * (1 + (kind == 5))
                containers.append((items, kind == 5))
            if len(containers) > depth_max or count > items_max:
                return False
    except IndexError:
        return False
    return at == len(payload)
