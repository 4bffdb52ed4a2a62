"""Values out of many payloads become one typed column, exactly. Must not know topics, paths or formats.

A column keeps what each value was: doubles, integers and booleans are told apart. One exception keeps a series
from flipping its type: once a metric has had a double, its integers are doubles from then on, unless that would
change them. What is no reading is either nothing (null, absent) or a problem with its reason.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import cbor2
import numpy as np

from gateway.codecs.paths import ABSENT
from gateway.codecs.payloads import parse_number, shown
from gateway.core.batch import ValueKind
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.codecs.mapping_settings import ValueType

Problem: TypeAlias = "tuple[int, str, str]"

DOUBLE: Final = int(ValueKind.DOUBLE)
INT: Final = int(ValueKind.INT)
BOOL: Final = int(ValueKind.BOOL)

INT64_MAX: Final = (1 << 63) - 1
EXACT_MAX: Final = 1 << 53
"""Up to here every integer is a double too."""

# Sentences cost more than readings; a flood of wrong values gets so many in one go.
SENTENCES_MAX: Final = 256

_NUMBERS: Final = frozenset({int, float, bool})
_FITS_AS_IT_IS: Final = {
    "auto": _NUMBERS,
    "double": _NUMBERS,
    "int": frozenset({int}),
    "bool": frozenset({bool}),
}


@dataclass(slots=True)
class Column:
    """Readings of one metric.

    | field    | is                                                                                    |
    | -------- | ------------------------------------------------------------------------------------- |
    | bits     | int64 (k,), as in `Batch`                                                             |
    | kinds    | their ValueKind: one for all, or uint8 (k,)                                           |
    | which    | intp (k,): the positions that the readings had among the values; None: all, in order  |
    | problems | (position, reason, sentence) of the values that are no readings and should be          |
    | absent   | positions of the values that were not there at all (a null is there)                  |
    """

    bits: npt.NDArray[np.int64]
    kinds: int | npt.NDArray[np.uint8]
    which: npt.NDArray[np.intp] | None = None
    problems: list[Problem] = field(default_factory=list)
    absent: list[int] = field(default_factory=list)


class ValueReader:
    """Reads values of one metric, called `label` in sentences, as its `type` says.

    `is_double` is what it has learnt: this metric has had a double.
    """

    # Readers of names that payloads bring live as long as somebody uses them.
    __slots__ = ("__weakref__", "_fits", "_is_forced_double", "_offset", "_scale", "is_double", "label", "type")

    def __init__(
        self,
        label: str,
        *,
        type: ValueType = "auto",  # noqa: A002  the setting's name
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        self.label = label
        self.type = type
        self.is_double = False
        self._scale = scale
        self._offset = offset
        self._is_forced_double = type == "double" or scale != 1 or offset != 0
        self._fits = _FITS_AS_IT_IS[type]

    @property
    def is_plain(self) -> bool:
        """Whether doubles pass as they are."""
        return self.type in {"auto", "double"} and self._scale == 1 and self._offset == 0

    def read(self, values: list[Any]) -> Column:
        """Return the column of `values`, each what a document held."""
        types = set(map(type, values))
        if types <= self._fits:
            return self._pack(values, types, None)
        which: list[int] = []
        clean: list[Any] = []
        problems: list[Problem] = []
        absent: list[int] = []
        for position, value in enumerate(values):
            if type(value) in self._fits:
                which.append(position)
                clean.append(value)
            elif value is ABSENT:
                absent.append(position)
            elif value is not None and value is not cbor2.undefined:
                number = self._convert(value)
                if number is None:
                    problems.append((position, "wrong_type", self._sentence(value, len(problems))))
                else:
                    clean.append(number)
                    which.append(position)
        column = self._pack(clean, set(map(type, clean)), np.array(which, np.intp))
        column.problems += problems
        column.absent = absent
        return column

    def read_array(self, array: npt.NDArray[Any]) -> Column:
        """Return the column of a one-dimensional array of numbers."""
        letter = array.dtype.kind
        if letter == "f" and self.type in {"auto", "double"}:
            self.is_double = True
            return self._finish_doubles(array.astype(np.float64, copy=False), None)
        is_small = letter != "u" or not len(array) or int(array.max()) <= INT64_MAX
        if letter in "iu" and self.type != "bool" and is_small:
            integers = array.astype(np.int64)
            if not self.is_double and not self._is_forced_double:
                return Column(integers, INT)
            if not len(integers) or max(int(integers.max()), -int(integers.min())) <= EXACT_MAX:
                return self._finish_doubles(integers.astype(np.float64), None)
        return self.read(array.tolist())

    def _pack(self, values: list[Any], types: set[type], which: npt.NDArray[np.intp] | None) -> Column:
        """Return the column of numbers that came from the positions `which`."""
        if self._is_forced_double:
            doubles = pack_doubles(values)
            return self._pack_each(values, which) if doubles is None else self._finish_doubles(doubles, which)
        if types == {bool}:
            return Column(np.array(values, np.int64), BOOL, which)
        if types == {int} and not self.is_double:
            integers = pack_integers(values)
            return self._pack_each(values, which) if integers is None else Column(integers, INT, which)
        self.is_double = self.is_double or float in types
        if bool not in types:
            doubles = pack_doubles(values)
            # Integers from 2^53 are looked at one by one: as doubles they might be other numbers.
            if doubles is not None and (int not in types or not (np.abs(doubles) >= EXACT_MAX).any()):
                return self._finish_doubles(doubles, which)
        return self._pack_each(values, which)

    def _finish_doubles(self, doubles: npt.NDArray[np.float64], which: npt.NDArray[np.intp] | None) -> Column:
        if not self.is_plain:
            with np.errstate(over="ignore", invalid="ignore"):
                doubles = doubles * self._scale + self._offset
        # A sum is finite only if everything in it is; the other way round it may just be too large.
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(doubles.sum()):
                return Column(doubles.view(np.int64), DOUBLE, which)
        finite = np.isfinite(doubles)
        positions = np.arange(len(doubles)) if which is None else which
        sentence = f"{self.label} is not a finite number"
        problems = [(position, "not_finite", sentence) for position in positions[~finite].tolist()]
        return Column(doubles[finite].view(np.int64), DOUBLE, positions[finite], problems)

    def _pack_each(self, values: list[Any], which: npt.NDArray[np.intp] | None) -> Column:
        """Return the column of numbers that numpy would round or mix up: one by one."""
        positions = range(len(values)) if which is None else which.tolist()
        kept: list[int] = []
        bits: list[int] = []
        kinds: list[int] = []
        problems: list[Problem] = []
        for position, value in zip(positions, values, strict=True):
            try:
                kind, word = self._pack_one(value)
            except MalformedError as error:
                problems.append((position, error.reason, str(error)))
            else:
                kept.append(position)
                kinds.append(kind)
                bits.append(word)
        return Column(np.array(bits, np.int64), np.array(kinds, np.uint8), np.array(kept, np.intp), problems)

    def _pack_one(self, value: Any) -> tuple[int, int]:
        if self._is_forced_double:
            try:
                value = float(value) * self._scale + self._offset
            except OverflowError as error:
                raise self._too_large(value) from error
        elif isinstance(value, int) and not isinstance(value, bool):
            held = fit_integer(value, prefer_double=self.is_double)
            if held is None:
                raise self._too_large(value)
            value = held
        if isinstance(value, float):
            if value - value != 0:
                raise MalformedError("not_finite", f"{self.label} is not a finite number")
            return DOUBLE, double_bits(value)
        return (BOOL if isinstance(value, bool) else INT), int(value)

    def _too_large(self, value: object) -> MalformedError:
        return MalformedError("out_of_range", f"{self.label} is {shown(value)}, too large for 64 bits")

    def _convert(self, value: Any) -> Any:
        """Return a value that is not yet of the wanted type as a number that is, None if it cannot be one."""
        number = parse_number(value) if isinstance(value, str) and self.type != "auto" else value
        if type(number) in self._fits:
            return number
        if self.type == "int" and (isinstance(number, bool) or (isinstance(number, float) and number.is_integer())):
            return int(number)
        if self.type == "bool" and isinstance(number, int | float) and number in {0, 1}:
            return bool(number)
        return None

    def _sentence(self, value: object, said: int) -> str:
        """Say what is wrong with a value; after `said` others like it in one column only that there are more."""
        if said >= SENTENCES_MAX:
            return f"{self.label} is of a wrong type in many readings at once"
        return f"{self.label} is {shown(value)}, {self._what_instead(value)}"

    def _what_instead(self, value: object) -> str:
        if isinstance(value, list | np.ndarray):
            return (
                f"not one value; take one by index like {self.label}[0], "
                "or say time = { start, step } if its values follow each other"
            )
        if self.type == "int":
            return "not a whole number"
        if self.type == "bool":
            return "not true or false"
        if self.type == "auto" and isinstance(value, str) and parse_number(value) is not None:
            return 'a text; type = "double" reads numbers from text'
        return "not a number"


def fit_integer(value: int, *, prefer_double: bool) -> int | float | None:
    """Return `value` as what holds it exactly: an int of 64 bits or a double; None if neither does.

    >>> fit_integer(5, prefer_double=True), fit_integer(2**53 + 1, prefer_double=True)
    (5.0, 9007199254740993)
    >>> fit_integer(2**64, prefer_double=False), fit_integer(2**64 + 1, prefer_double=False)
    (1.8446744073709552e+19, None)
    """
    fits = -INT64_MAX - 1 <= value <= INT64_MAX
    if prefer_double or not fits:
        try:
            double = float(value)
        except OverflowError:
            return None
        if int(double) == value:
            return double
    return value if fits else None


def double_bits(value: float) -> int:
    """Return the IEEE bits of a double as a signed integer."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def pack_doubles(values: list[Any]) -> npt.NDArray[np.float64] | None:
    """Return numbers as doubles, rounded where they must be; None if one is too large for any double."""
    # Half the time of numpy's own conversion, which looks at each object first.
    buffer = bytearray(8 * len(values))
    try:
        struct.pack_into(f"{len(values)}d", buffer, 0, *values)
    except struct.error:
        return None
    return np.frombuffer(buffer, np.float64)


def pack_integers(values: list[Any]) -> npt.NDArray[np.int64] | None:
    """Return integers as they are; None if one does not fit 64 bits."""
    buffer = bytearray(8 * len(values))
    try:
        struct.pack_into(f"{len(values)}q", buffer, 0, *values)
    except struct.error:
        return None
    return np.frombuffer(buffer, np.int64)
