"""A handful of readings as columns, number by number: what store/columns writes, without its cost for few. No numpy.

A quiet gateway commits some dozens of readings at a time, each time after a pause in which others had the caches. A
hundred short calls into numpy then cost ten times what they cost in a loop, and that was most of its processor time.
The columns are those that store/columns draws and reads; plain integers and decimals only, without exceptions, and of
two ways to write a column perhaps the longer. For anything else the answer is None.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.core.batch import KIND_MASK, ValueKind
from gateway.store.decimals import DECIMAL_MAX, LIFT_COUNT_MAX, POWERS, WHOLE_MAX
from gateway.store.integers import DIVIDED, U64_MAX, put_varint
from gateway.store.times import RANKED_MIN
from gateway.store.values import OFFSETS_COUNT_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.batch import Batch

# Above this, numpy is quicker even when it is cold.
READINGS_MAX: Final = 128
_SIGN: Final = 1 << 63
_POWERS: Final[list[float]] = POWERS.tolist()
# Added to a smaller double and taken away again, it leaves the nearest integer, ties to even (IEEE 754).
_ROUND: Final = 1.5 * 2.0**52


class Handful(NamedTuple):
    """The columns of a sorted batch, and what its segment's header says of them."""

    content: bytes
    first_ns: int
    last_ns: int
    series: list[int]  # each once and in order
    order: list[int]  # where in the batch each reading stood


def encode(batch: Batch) -> Handful | None:
    """Return the columns of 1 to READINGS_MAX readings, in any order; None where they are not for this module."""
    series, flags = batch.series.tolist(), batch.flags.tolist()
    times, bits = batch.time_ns.tolist(), batch.bits.tolist()
    keys = [number << 4 | flag for number, flag in zip(series, flags, strict=True)]
    order = sorted(range(len(keys)), key=lambda k: (keys[k], times[k]))
    keys = [keys[k] for k in order]
    times = [times[k] for k in order]
    starts = [k for k in range(len(keys)) if not k or keys[k] != keys[k - 1]]
    spans = list(zip(starts, [*starts[1:], len(keys)], strict=True))
    flags = [keys[start] & 15 for start in starts]
    values = _Values([bits[k] for k in order], spans)
    is_double = [flag & KIND_MASK == ValueKind.DOUBLE for flag in flags]
    doubles = batch.bits.view("f8").tolist()
    if not values.choose(is_double, [doubles[k] for k in order]):
        return None
    out = bytearray()
    numbers = [keys[start] >> 4 for start in starts]
    put_varint(out, len(spans))
    _signed(out, numbers)
    _unsigned(out, flags)
    _unsigned(out, [stop - start - 1 for start, stop in spans])
    _write_times(out, times, spans)
    values.write(out)
    return Handful(bytes(out), min(times), max(times), sorted(set(numbers)), order)


# Columns of store/integers.


def _bits(out: bytearray, flags: Sequence[bool]) -> None:
    size = (len(flags) + 7) // 8
    digits = "".join(["1" if flag else "0" for flag in flags])
    out += int(digits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


def _planes(out: bytearray, values: Sequence[int], width: int) -> None:
    if width == 1:
        out += bytes(values)
        return
    octets = struct.pack(f"<{len(values)}Q", *values)
    for place in range(width):
        out += octets[place::8]


def _unsigned(out: bytearray, values: Sequence[int]) -> None:
    largest = max(values, default=0)
    divisor = max(1, math.gcd(*values)) if largest else 1
    width = ((largest // divisor).bit_length() + 7) // 8
    out.append(width | DIVIDED if divisor > 1 else width)
    if divisor > 1:
        put_varint(out, divisor)
        values = [value // divisor for value in values]
    if width:
        _planes(out, values, width)


def _signed(out: bytearray, values: Sequence[int]) -> None:
    smallest = min(values)
    offsets = [value - smallest for value in values]
    steps = [(step << 1 ^ step >> 63) & U64_MAX for step in _steps(values)]
    differs = len(values) > 2 and sum(map(int.bit_length, steps)) < sum(map(int.bit_length, offsets))
    out.append(differs)
    put_varint(out, _zigzag(values[0] if differs else smallest))
    _unsigned(out, steps if differs else offsets)


def _zigzag(value: int) -> int:
    return (value << 1 ^ value >> 63) & U64_MAX


def _steps(values: Sequence[int]) -> list[int]:
    """Return what each is more than the one before, modulo 2^64."""
    return [(after - before + _SIGN & U64_MAX) - _SIGN for before, after in itertools.pairwise(values)]


# Times.

Spans = list[tuple[int, int]]


def _write_times(out: bytearray, times: Sequence[int], spans: Spans) -> None:
    runs = [times[start:stop] for start, stop in spans]
    shared = [bool(k) and run == runs[k - 1] for k, run in enumerate(runs)]
    _bits(out, shared)
    own = [run for run, is_shared in zip(runs, shared, strict=True) if not is_shared]
    count = sum(map(len, own))
    if len(own) > 1 and count >= RANKED_MIN:
        distinct = sorted({time for run in own for time in run})
        # A rank takes a byte; what it takes to tell many times apart without them is more.
        if len(distinct) * 4 <= count:
            rank = {time: place for place, time in enumerate(distinct)}
            put_varint(out, len(distinct))
            _write_steps(out, [distinct])
            _write_steps(out, [[rank[time] for time in run] for run in own])
            return
    put_varint(out, 0)
    _write_steps(out, own)


def _write_steps(out: bytearray, runs: Sequence[Sequence[int]]) -> None:
    _signed(out, [run[0] for run in runs])
    least: list[int] = []
    above: list[int] = []
    for run in runs:
        if len(run) > 1:
            steps = [step & U64_MAX for step in _steps(run)]
            least.append(min(steps))
            above += [step - least[-1] for step in steps]
    if least:
        _unsigned(out, least)
        _unsigned(out, above)


# Values.


class _Values:
    def __init__(self, bits: list[int], spans: Spans) -> None:
        self._bits = bits
        self._spans = spans
        self._forms: list[int] = []
        self._runs: list[list[int]] = []

    def choose(self, is_double: Sequence[bool], doubles: Sequence[float]) -> bool:
        """Turn all into integers; return False where that cannot be without exceptions. `doubles` are in order, too."""
        bits, spans = self._bits, self._spans
        if not all(is_double):
            mine = [k for span, double in zip(spans, is_double, strict=True) if double for k in range(*span)]
            doubles, bits = [doubles[k] for k in mine], [bits[k] for k in mine]
        found = _smallest(doubles, bits)
        if found is None:
            return False
        exponents, integers = found
        at = 0
        for (start, stop), double in zip(spans, is_double, strict=True):
            if not double:
                self._runs.append(self._bits[start:stop])
                continue
            end = at + stop - start
            exponent, run = exponents[at], integers[at:end]
            if end - at > 1:
                exponent = max(exponents[at:end])
                if min(exponents[at:end]) < exponent and not (run := _at(exponent, doubles[at:end])):
                    return False
            self._forms.append(exponent)
            self._runs.append(run)
            at = end
        if self._forms:
            self._lift([k for k, double in enumerate(is_double) if double])
        return True

    def _lift(self, doubles: Sequence[int]) -> None:
        """Give short runs the exponent that most of them have."""
        short = [place for place, k in enumerate(doubles) if len(self._runs[k]) <= LIFT_COUNT_MAX]
        if not short:
            return
        forms = [self._forms[place] for place in short]
        most = max(sorted(set(forms)), key=forms.count)
        if 2 * forms.count(most) < len(forms):
            return
        for place in short:
            k, power = doubles[place], 10 ** max(0, most - self._forms[place])
            if power > 1 and all(abs(value) * power < DECIMAL_MAX for value in self._runs[k]):
                self._runs[k] = [value * power for value in self._runs[k]]
                self._forms[place] = most

    def write(self, out: bytearray) -> None:
        """Write the value column."""
        _unsigned(out, self._forms)
        _signed(out, [run[0] for run in self._runs])
        long = [run for run in self._runs if len(run) > 1]
        if long:
            self._write_inside(out, long)
        # There are no exceptions.
        put_varint(out, 0)

    @staticmethod
    def _write_inside(out: bytearray, runs: Sequence[list[int]]) -> None:
        by_offset: list[bool] = []
        below: list[int] = []
        divisors: list[int] = []
        by_width: dict[int, list[int]] = {}
        widths: list[int] = []
        for run in runs:
            inside, smallest = _steps(run), min(run)
            scatters = len(run) >= OFFSETS_COUNT_MIN and _scatters(run, inside)
            if scatters:
                inside = [value - smallest for value in run[1:]]
                below.append(run[0] - smallest)
            divisor = math.gcd(*inside)
            # 0 divides nothing, and the magnitude of the lowest integer is none.
            if not 1 < divisor < _SIGN:
                divisor = 1
            else:
                inside = [value // divisor for value in inside]
            if not scatters:
                inside = [_zigzag(step) for step in inside]
            width = (max(inside).bit_length() + 7) // 8
            by_offset.append(scatters)
            divisors.append(divisor - 1)
            widths.append(width)
            by_width.setdefault(width, []).extend(inside)
        _bits(out, by_offset)
        _unsigned(out, below)
        _unsigned(out, divisors)
        _unsigned(out, widths)
        for width in sorted(by_width):
            if width:
                _planes(out, by_width[width], width)


def _scatters(run: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether values stay nearer to their mean than to the one before: noise, not a walk."""
    if max(run) - min(run) >= _SIGN:
        # Offsets would have to be signed then.
        return False
    mean = sum(run) / len(run)
    away = sum(abs(value - mean) for value in run) / len(run)
    return away < sum(map(abs, steps)) / len(steps)


def _smallest(doubles: Sequence[float], bits: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Return for each double the smallest exponent of ten by which it is an integer, and that; None where one has none.

    One loop for all of them, since most runs of a quiet gateway have one reading, and a call for each costs more.
    """
    exponents: list[int] = []
    integers: list[int] = []
    for value, bit in zip(doubles, bits, strict=True):
        if not -DECIMAL_MAX < value < DECIMAL_MAX:
            if not (-WHOLE_MAX < value < WHOLE_MAX and value.is_integer()):
                return None
            exponent, whole = 0, value
        else:
            exponent, power = 0, 1.0
            whole = value + _ROUND - _ROUND
            while whole / power != value:
                exponent += 1
                if exponent >= len(_POWERS):
                    # No decimal of 15 digits.
                    return None
                power = _POWERS[exponent]
                whole = value * power + _ROUND - _ROUND
                if not -DECIMAL_MAX < whole < DECIMAL_MAX:
                    return None
            # Minus zero is the one that equals what it is not.
            if bit and not whole:
                return None
        exponents.append(exponent)
        integers.append(int(whole))
    return exponents, integers


def _at(exponent: int, doubles: Sequence[float]) -> list[int]:
    """Return doubles as integers by this exponent of ten, none where one of them is none: more digits may spoil it."""
    power = _POWERS[exponent]
    integers: list[int] = []
    for value in doubles:
        whole = value * power + _ROUND - _ROUND
        if whole / power != value or not -DECIMAL_MAX < whole < DECIMAL_MAX:
            return []
        integers.append(int(whole))
    return integers
