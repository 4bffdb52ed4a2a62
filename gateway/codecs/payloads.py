"""Payloads become documents: JSON, CBOR, text, CSV, from bytes that anyone may have sent. Must not know metrics.

A document is made of dict, list, str, bytes, int, float, bool, None, one-dimensional (or, tag 40 and 1040, wider)
numpy arrays, and `Opaque` for CBOR that means something this gateway has no use for. Nothing is evaluated,
compiled or constructed from what a payload says. Each decoder takes one payload, raises MalformedError and
nothing else, and needs at most about 20 times the payload's size and another few MB, which sources bound.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import cbor2
import msgspec
import numpy as np

from gateway.codecs.cbor_items import has_more_items, has_plain_keys
from gateway.core.contracts import MalformedError
from gateway.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FormatFound: TypeAlias = Literal["json", "cbor", "text", "csv"]
Scalar: TypeAlias = "int | float | bool"

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Longer than any number that fits a double and was written by a device.
NUMBER_LETTERS_MAX: Final = 64
BIGNUM_BYTES_MAX: Final = 64
EXPONENT_MAX: Final = 400
SHAPE_MAX: Final = 8
# Lists, maps, tags and the like in one payload: a byte each at the least, in JSON two, and up to a microsecond and two
# hundred bytes of memory. A message of that many objects is one of a mapping with `each`.
DEAR_ITEMS_MAX: Final = 32 * 1024
JSON_BYTES_UNBOUNDED: Final = 2 * DEAR_ITEMS_MAX
# Items of any kind in one where maps have numbers as keys: looking costs more than decoding.
LOOKED_AT_MAX: Final = 64 * 1024
# Up to here a map may have keys of any kind: too few fit in to cost much, however they are chosen.
ANY_KEYS_BYTES_MAX: Final = 8 * 1024
SHOWN_MAX: Final = 60
# Lines and cells of CSV in one payload: each costs microseconds, and bytes alone would allow 100,000 of them.
LINES_MAX: Final = 10_000
CELLS_MAX: Final = 20_000
# Lines of another length that are told each; the others are told in one sentence.
ODD_LINES_SHOWN: Final = 16

JSON_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?\d+", re.ASCII)
_DIGITS: Final = frozenset("0123456789")
_BOOLS: Final = {"on": True, "true": True, "off": False, "false": False}
_NOT_FINITE: Final = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "-infinity": -math.inf,
}

decode_any_json: Final[Callable[[bytes | str], Any]] = msgspec.json.Decoder().decode


class Opaque:
    """A CBOR item with a tag that is not a number, a text or a list. Says its tag."""

    __slots__ = ("tag",)

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def __repr__(self) -> str:
        return f"CBOR tag {self.tag}"


def detect_format(payload: bytes) -> FormatFound:
    r"""Tell JSON, CBOR and text (a number, a switch's state, a line of CSV) apart by the first byte.

    JSON objects and lists begin with a brace or bracket; CBOR maps, lists and tagged items with 0x80 to 0xdb,
    which no ASCII text does, and its bare floats with 0xf9 to 0xfb; a byte order mark means JSON.

    >>> [detect_format(data) for data in (b' {"a":1}', b"\xa1aa\x01", b"20.5", b"1,2")]
    ['json', 'cbor', 'text', 'csv']
    """
    if payload.startswith(BYTE_ORDER_MARK):
        return "json"
    start = payload[:SHOWN_MAX].lstrip(b" \t\r\n")[:1]
    if start in {b"{", b"["}:
        return "json"
    if payload[:1] >= b"\x80" and (payload[0] < 0xDC or 0xF9 <= payload[0] <= 0xFB):
        return "cbor"
    return "csv" if b"," in payload or b";" in payload else "text"


def shown(value: object) -> str:
    """Return `value` for a sentence: what it is if that is short, otherwise its kind and length."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.size}"
    if isinstance(value, list | dict | bytes):
        what = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "bytes"
        return f"{what} of {len(value)}"
    if isinstance(value, str):
        return f'"{printable(value, SHOWN_MAX)}"' + ("…" if len(value) > SHOWN_MAX else "")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**SHOWN_MAX:
        return f"a whole number of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    return printable(repr(value), 2 * SHOWN_MAX)


# JSON


def decode_json(payload: bytes) -> Any:
    """Return a JSON document (RFC 8259). Of keys that come twice the last one counts.

    What Python's own json writes beyond the RFC (NaN, Infinity), and numbers too large for a double, come out
    as floats that are not finite, so that the rest of the payload is not lost with them.
    """
    if len(payload) > JSON_BYTES_UNBOUNDED and payload.count(b"[") + payload.count(b"{") > DEAR_ITEMS_MAX:
        raise MalformedError("too_many_items", f"there are more than {DEAR_ITEMS_MAX} lists and objects in the JSON")
    try:
        return decode_any_json(payload)
    except RecursionError as error:
        raise MalformedError("too_deep", "the JSON is nested too deeply") from error
    except JSON_ERRORS as error:
        return _decode_odd_json(payload, error)


def _decode_odd_json(payload: bytes, error: Exception) -> Any:
    if not payload.strip():
        raise MalformedError("empty_payload", "the payload is empty") from error
    if payload.startswith(BYTE_ORDER_MARK) and not payload.startswith(BYTE_ORDER_MARK * 2):
        # One: a payload of nothing else must not be looked at once for each.
        return decode_json(payload[len(BYTE_ORDER_MARK) :])
    if b"NaN" in payload or b"Infinity" in payload or "out of range" in str(error):
        try:
            return json.loads(payload, parse_int=_read_long_int)
        except RecursionError as deep:
            raise MalformedError("too_deep", "the JSON is nested too deeply") from deep
        except ValueError:
            pass
    text = str(error).removeprefix("JSON is malformed: ")
    raise MalformedError("malformed_json", f"not JSON: {text}") from error


def _read_long_int(digits: str) -> Scalar:
    return int(digits) if len(digits) <= EXPONENT_MAX else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


# CBOR


def decode_cbor(payload: bytes, *, depth_max: int) -> Any:
    """Return a CBOR document (RFC 8949) with typed arrays (RFC 8746) as numpy arrays over the payload's own bytes.

    Indefinite lengths are taken; of keys that come twice the last one counts. Numbers as bignum, decimal
    fraction, bigfloat or rational come out as numbers, dates as their number or text.
    """
    if not payload:
        raise MalformedError("empty_payload", "the payload is empty")
    if len(payload) > DEAR_ITEMS_MAX and has_more_items(payload, DEAR_ITEMS_MAX):
        raise MalformedError("too_many_items", f"there are more than {DEAR_ITEMS_MAX} lists, maps and tags in the CBOR")
    try:
        # The decoder stops after one item and doesn't say where. In a list of two whose second is our own end
        # mark, whatever is left over stands where the mark should.
        data = b"\x82" + payload + _END
        try:
            pair = _load_cbor(data, depth_max, is_strict=len(payload) > ANY_KEYS_BYTES_MAX)
        except cbor2.CBORDecodeError:
            # Numbers as keys are fine too, and looking takes longer than decoding.
            if len(payload) <= ANY_KEYS_BYTES_MAX or not has_plain_keys(
                payload, depth_max=depth_max, items_max=LOOKED_AT_MAX
            ):
                raise
            pair = _load_cbor(data, depth_max, is_strict=False)
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        text = str(error)
        if "depth" in text or isinstance(error, RecursionError):
            raise MalformedError("too_deep", f"the CBOR is nested more than {depth_max} deep") from error
        raise MalformedError("malformed_cbor", f"not CBOR: {text[:200]}") from error
    if not isinstance(pair[1], bytes) or pair[1] != _END_MARK:
        raise MalformedError("malformed_cbor", "not CBOR: bytes follow the first item")
    return pair[0]


def _load_cbor(data: bytes, depth_max: int, *, is_strict: bool) -> Any:
    return cbor2.loads(
        data,
        tag_hook=_unknown,
        semantic_decoders=_SEMANTIC,
        max_depth=depth_max + 1,
        strict_hashable_types=is_strict,
    )


# An item that no payload has behind it by chance.
_END_MARK: Final = b"tidegate: end of payload"
_END: Final = cbor2.dumps(_END_MARK)

# RFC 8746, section 2.1: bytes of numbers, by tag. Floats of 128 bits (83, 87) have no home in numpy.
_TYPED_ARRAYS: Final = {
    64: ">u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: ">u1", 69: "<u2", 70: "<u4", 71: "<u8",
    72: ">i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip


def _typed_array(dtype: np.dtype[Any], value: Any, _immutable: bool) -> Any:  # noqa: FBT001  cbor2's signature
    # What is no byte string, or not of whole numbers, raises: cbor2 turns that into its own error.
    return np.frombuffer(value, dtype)


def _unknown(tag: Any, _immutable: bool) -> Opaque:  # noqa: FBT001  cbor2's signature
    """Return what a tagged item is that nobody has a decoder for."""
    return Opaque(tag.tag)


def _shape(order: Literal["C", "F"], value: Any, _immutable: bool) -> Any:  # noqa: FBT001  cbor2's signature
    dimensions, elements = value
    if not 0 < len(dimensions) <= SHAPE_MAX or not all(type(size) is int and size >= 0 for size in dimensions):
        raise ValueError("an array has up to 8 dimensions, each a whole number")
    if math.prod(dimensions) != len(elements):
        raise ValueError("an array has as many elements as its dimensions say")
    if len(dimensions) == 1:
        return elements
    if isinstance(elements, np.ndarray):
        return elements.reshape(dimensions, order=order)
    return Opaque(40 if order == "C" else 1040)


def _as_it_is(value: Any, _immutable: bool) -> Any:  # noqa: FBT001  cbor2's signature
    # A tag that ends the payload takes our end mark for its item.
    return Opaque(0) if isinstance(value, bytes) and value == _END_MARK else value


def _bignum(value: Any, *, negative: bool) -> Any:
    if not isinstance(value, bytes) or len(value) > BIGNUM_BYTES_MAX:
        return Opaque(3 if negative else 2)
    number = int.from_bytes(value, "big")
    return -1 - number if negative else number


def _scaled(value: Any, *, base: int) -> Any:
    """Return mantissa · base^exponent as the nearest double, without making the power itself."""
    exponent, mantissa = value
    if type(exponent) is not int or type(mantissa) is not int or mantissa.bit_length() > 8 * BIGNUM_BYTES_MAX:
        return Opaque(4 if base == 10 else 5)
    exponent = max(-10 * EXPONENT_MAX, min(exponent, 10 * EXPONENT_MAX))
    try:
        return float(f"{mantissa}e{exponent}") if base == 10 else math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf if mantissa > 0 else -math.inf


def _ratio(value: Any, _immutable: bool) -> Any:  # noqa: FBT001  cbor2's signature
    above, below = value
    if type(above) is not int or type(below) is not int or below <= 0:
        return Opaque(30)
    try:
        return above / below
    except OverflowError:
        return math.inf if above > 0 else -math.inf


# Every tag that cbor2 has a decoder of its own for gets one of ours. References (25, 29) could make a small
# payload a huge or an endless document; patterns, mails and addresses are of no use here. And what is left to the
# tag_hook would have tuples in the place of lists.
_SEMANTIC: Final[dict[int, Callable[[Any, bool], Any]]] = {
    0: _as_it_is,
    1: _as_it_is,
    2: lambda value, _: _bignum(value, negative=False),
    3: lambda value, _: _bignum(value, negative=True),
    4: lambda value, _: _scaled(value, base=10),
    5: lambda value, _: _scaled(value, base=2),
    28: _as_it_is,
    30: _ratio,
    40: functools.partial(_shape, "C"),
    41: _as_it_is,
    1040: functools.partial(_shape, "F"),
    256: _as_it_is,
    258: _as_it_is,
    55799: _as_it_is,
    **{tag: functools.partial(_typed_array, np.dtype(code)) for tag, code in _TYPED_ARRAYS.items()},
    **{
        tag: functools.partial(lambda tag, _value, _immutable: Opaque(tag), tag)
        for tag in (25, 29, 35, 36, 37, 52, 54, 100, 260, 261, 1004, 43000)
    },
}


# Text and CSV


def parse_number(text: str) -> Scalar | None:
    """Return the number or the switch's state that `text` says, None if it says neither.

    >>> [parse_number(text) for text in ("20", "-.5e3", "ON", "false", "NaN", "1_0", "20 C")]
    [20, -500.0, True, False, nan, None, None]
    """
    text = text.strip()
    if len(text) > NUMBER_LETTERS_MAX:
        return None
    if text[:1] in _DIGITS:
        # Most numbers are JSON's too, and its decoder is quicker than looking and converting.
        try:
            return decode_any_json(text)  # type: ignore[no-any-return]  # what begins with a digit is a number
        except msgspec.MsgspecError:
            pass
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    word = text.lower()
    return _BOOLS[word] if word in _BOOLS else _NOT_FINITE.get(word)


def decode_text(payload: bytes) -> Scalar:
    """Return the one value that a payload of text is."""
    text = _decode_utf8(payload)
    value = parse_number(text)
    if value is None:
        raise MalformedError("malformed_text", f"{shown(text.strip())} is not a number and not ON, OFF, true or false")
    return value


def _decode_utf8(payload: bytes) -> str:
    if not payload.strip():
        raise MalformedError("empty_payload", "the payload is empty")
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedError("malformed_text", f"not text: byte {error.start} is not UTF-8") from error


def decode_cell(text: str) -> Scalar | str | None:
    """Return a CSV cell's value: a number, a state, None where it is empty, otherwise the text."""
    value = parse_number(text)
    return value if value is not None else text.strip() or None


def decode_csv(
    payload: bytes, *, columns: tuple[str, ...], delimiter: str, lines_max: int
) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
    """Return one object per line, and sentences about lines that have not as many cells as there are columns.

    With each sentence goes the number of lines it is about. A line of nothing but empty cells says nothing.
    Without `columns` the first line names them, each differently; with them, a first line that repeats the names is
    left out.
    """
    text = _decode_utf8(payload)
    rows = text.splitlines()
    if len(rows) > lines_max:
        raise MalformedError("too_many_readings", f"more than {lines_max} lines")
    if text.count(delimiter) + len(rows) > CELLS_MAX:
        raise MalformedError("too_many_readings", f"more than {CELLS_MAX} cells")
    try:
        cells = _cells(rows, delimiter) if '"' in text else csv.reader(rows, delimiter=delimiter)
        lines = [line for line in cells if line]
    except csv.Error as error:
        raise MalformedError("malformed_csv", f"not CSV: {error}") from error
    if not lines:
        raise MalformedError("empty_payload", "there is no line in the payload")
    first = tuple(cell.strip() for cell in lines[0])
    if not columns and any(isinstance(decode_cell(cell), str) for cell in first):
        columns = first
    if not columns:
        raise MalformedError("malformed_csv", 'the columns have no names; write columns = ["ts", "temp", …]')
    if first == columns:
        del lines[0]
    if not lines:
        raise MalformedError("no_readings", "there is a line of names and none of values")
    if len(set(columns)) < len(columns):
        _check_names(columns)
    objects = [
        dict(zip(columns, map(decode_cell, line), strict=True))
        for line in lines
        if len(line) == len(columns) and any(map(str.strip, line))
    ]
    return objects, _tell_odd([line for line in lines if len(line) != len(columns)], len(columns), delimiter)


def _check_names(columns: tuple[str, ...]) -> None:
    """Raise MalformedError where two columns have the same name; those that have none are for nobody."""
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise MalformedError(
                "malformed_csv", f"{count} columns are called {shown(name)}; give each a name of its own"
            )


def _cells(rows: list[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the cells of each line; of one with a quote that is not closed the line itself, as it is.

    A cell with a line end in it would be somebody's text, and no reading is one. A quote too many must not take all
    lines behind it for the rest of its cell.
    """
    for row in rows:
        reader = csv.reader((row, ""), delimiter=delimiter)
        line = next(reader)
        # Who has looked for the end of a cell in the next line has not found it in this one.
        yield line if reader.line_num == 1 else [row]


def _tell_odd(lines: list[list[str]], wanted: int, delimiter: str) -> list[tuple[str, int]]:
    told = []
    for line in lines[:ODD_LINES_SHOWN]:
        is_open = len(line) == 1 and line[0].count('"') % 2 == 1
        wrong = "a quote that is not closed" if is_open else f"{len(line)} cells, not {wanted}"
        told.append((f"{shown(delimiter.join(line))} has {wrong}", 1))
    more = len(lines) - len(told)
    return [*told, (f"another {more} lines have not {wanted} cells", more)] if more else told
