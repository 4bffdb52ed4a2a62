"""The value column of a segment: every value an integer in few bits. Must not lose a bit of any value.

Doubles become integers as store/decimals says. Integers are then kept as steps, or where they scatter around
a level as offsets from the smallest; divided by what divides all of a run; and as wide as the run's widest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.batch import distinct as each_once
from gateway.store import decimals
from gateway.store.integers import WIDTH_MAX, SegmentError, byte_widths, unzigzag, zigzag
from gateway.store.runs import Runs, counts_of, read_steps, write_steps

if TYPE_CHECKING:
    from gateway.store.integers import Reader, Signed, Unsigned, Writer
    from gateway.store.runs import Bools

# What is only estimated, or guessed and then checked, is so from about this many readings of all runs, and of one
# that is not short from this many.
_SAMPLE: Final = 1 << 11
_SAMPLE_OF_RUN: Final = 32
# Offsets need the smallest too, so they are for runs of some length.
OFFSETS_COUNT_MIN: Final = 32
# Distinct values are looked for in long runs that repeat some among a sample of so many, and kept as ranks if
# a value recurs this often on average.
_RANK_SAMPLES: Final = 256
_RANK_RECURS_MIN: Final = 4


def write_values(writer: Writer, runs: Runs, bits: Signed, is_double: Bools) -> None:
    """Write the values of all runs; drawn in store/columns. `is_double` is of runs."""
    forms, integers, exceptions = _choose_forms(runs, bits, is_double)
    distinct, integers = _rank(runs, bits, forms, integers)
    writer.unsigned(forms[is_double].astype(np.uint64))
    if len(distinct):
        writer.varint(len(distinct))
        write_steps(writer, Runs.of_counts(np.array([len(distinct)])), distinct)
    firsts = integers[runs.starts]
    for family in _families(forms):
        writer.signed(firsts[family])
    is_long, inside = runs.long()
    if len(inside):
        every = len(inside) == len(runs)
        _write_inside(writer, runs.take(is_long), inside, integers if every else integers[runs.readings_of(is_long)])
    writer.varint(len(exceptions))
    writer.signed(exceptions)
    writer.signed(decimals.ordered(bits[exceptions]))


def read_values(reader: Reader, runs: Runs, is_double: Bools) -> Signed:
    """Return the bits of all values; raise SegmentError."""
    forms = np.zeros(len(runs), np.uint64)
    forms[is_double] = reader.unsigned(int(is_double.sum()))
    if not decimals.is_known(forms).all():
        raise SegmentError("a run of doubles has a form that this version does not know")
    distinct = _read_distinct(reader, runs, forms)
    firsts = np.empty(len(runs), np.int64)
    for family in _families(forms):
        firsts[family] = reader.signed(int(family.sum()))
    is_long, inside = runs.long()
    if len(inside) == len(runs):
        integers = _read_inside(reader, runs, inside, firsts)
    elif len(inside):
        integers = np.empty(runs.readings, np.int64)
        integers[runs.readings_of(~is_long)] = firsts[~is_long]
        integers[runs.readings_of(is_long)] = _read_inside(reader, runs.take(is_long), inside, firsts[is_long])
    else:
        integers = firsts
    bits = _from_forms(runs, integers, forms, is_double, distinct)
    count = reader.varint()
    if count > runs.readings:
        raise SegmentError("there are more exceptions than readings")
    where, what = reader.signed(count), reader.signed(count)
    if count:
        if where.min() < 0 or where.max() >= runs.readings:
            raise SegmentError("an exception stands behind the last reading")
        bits[where] = decimals.ordered(what)
    return bits


# Forms.


def _choose_forms(runs: Runs, bits: Signed, is_double: Bools) -> tuple[Signed, Signed, Signed]:
    """Return the form of each run, the integers of all readings, and the positions of exceptions."""
    forms = np.zeros(len(runs), np.int64)
    if not is_double.any():
        return forms, bits, np.empty(0, np.int64)
    if is_double.all():
        forms, integers, wrong = decimals.choose(bits, runs.starts, runs.counts)
        decimals.lift(forms, integers, runs.starts, runs.counts)
    else:
        mine, doubles = runs.readings_of(is_double), runs.take(is_double)
        chosen, integers_of_doubles, wrong_of_doubles = decimals.choose(bits[mine], doubles.starts, doubles.counts)
        decimals.lift(chosen, integers_of_doubles, doubles.starts, doubles.counts)
        integers, wrong = bits.copy(), np.zeros(len(bits), np.bool_)
        forms[is_double], integers[mine], wrong[mine] = chosen, integers_of_doubles, wrong_of_doubles
    exceptions = np.flatnonzero(wrong).astype(np.int64, copy=False)
    if len(exceptions):
        # An exception repeats what stands before it, and so costs nothing in the run itself.
        before = np.arange(len(bits))
        before[exceptions] = 0
        integers = integers[np.maximum.accumulate(before)]
    return forms, integers, exceptions


def _families(forms: Signed | Unsigned) -> tuple[Bools, Bools, Bools]:
    """Return the runs of single bits, of double bits, and of all that are smaller numbers."""
    single, double = forms == decimals.SINGLE_BITS, forms == decimals.DOUBLE_BITS
    return ~(single | double), single, double


def _from_forms(runs: Runs, integers: Signed, forms: Unsigned, is_double: Bools, distinct: Signed) -> Signed:
    present = each_once(forms[is_double]).tolist()
    if is_double.all() and len(present) == 1:
        return _from_form(integers, present[0], distinct)
    bits = integers.copy()
    for form in present:
        mine = runs.readings_of((forms == form) & is_double)
        bits[mine] = _from_form(integers[mine], form, distinct)
    return bits


def _from_form(integers: Signed, form: int, distinct: Signed) -> Signed:
    if form == decimals.RANKS:
        if integers.min() < 0 or integers.max() >= len(distinct):
            raise SegmentError("a value's rank is out of range")
        return decimals.ordered(distinct)[integers]
    if form == decimals.DOUBLE_BITS:
        return decimals.ordered(integers)
    if form == decimals.SINGLE_BITS:
        return decimals.from_single_bits(integers)
    return decimals.to_doubles(integers, form)


# Ranks: a converter's readings in volts are no decimals, but there are only so many different ones.


def _rank(runs: Runs, bits: Signed, forms: Signed, integers: Signed) -> tuple[Signed, Signed]:
    """Turn runs of bits that keep recurring into ranks, in `forms` too; return distinct bits and integers."""
    none = np.empty(0, np.int64)
    likely = (forms >= decimals.SINGLE_BITS) & (runs.counts >= _RANK_SAMPLES)
    if not likely.any():
        return none, integers
    likely[likely] = _recurs(runs, likely, bits)
    mine = runs.readings_of(likely)
    distinct, ranks = np.unique(decimals.ordered(bits[mine]), return_inverse=True)
    if not len(distinct) or len(distinct) * _RANK_RECURS_MIN > len(ranks):
        return none, integers
    forms[likely] = decimals.RANKS
    integers = integers.copy()
    integers[mine] = ranks
    return distinct, integers


def _recurs(runs: Runs, likely: Bools, bits: Signed) -> Bools:
    """Return for each likely run whether a sample of its values has some twice."""
    counts = runs.counts[likely][:, None]
    where = runs.starts[likely][:, None] + np.arange(_RANK_SAMPLES) * counts // _RANK_SAMPLES
    samples = np.sort(bits[where], axis=1)
    return np.asarray((samples[:, 1:] == samples[:, :-1]).sum(axis=1) > 1, np.bool_)


def _read_distinct(reader: Reader, runs: Runs, forms: Unsigned) -> Signed:
    if not (forms == decimals.RANKS).any():
        return np.empty(0, np.int64)
    count = reader.varint()
    if not 1 <= count <= runs.readings:
        raise SegmentError("there are more distinct values than values, or none")
    return read_steps(reader, Runs.of_counts(np.array([count])))


# Integers.


def _write_inside(writer: Writer, runs: Runs, inside: Runs, integers: Signed) -> None:
    """Write the integers of long runs but for the first of each."""
    steps = runs.steps(integers)
    by_offset = _scatters(runs, inside, integers, steps)
    below = np.empty(0, np.int64)
    if by_offset.any():
        smallest = np.minimum.reduceat(integers, runs.starts)
        below = (integers[runs.starts] - smallest)[by_offset]
        mine = inside.readings_of(by_offset)
        steps = np.where(mine, integers[runs.inside()] - inside.spread(smallest), steps)
    divisors = _common_divisors(inside, steps)
    if (divisors > 1).any():
        steps = steps // inside.spread(divisors)
    folded = zigzag(steps)
    if by_offset.any():
        folded = np.where(mine, steps.view(np.uint64), folded)
    widths = byte_widths(np.maximum.reduceat(folded, inside.starts))
    writer.bits(by_offset)
    writer.unsigned(below.view(np.uint64))
    writer.unsigned((divisors - 1).view(np.uint64))
    writer.unsigned(widths.astype(np.uint64))
    for width in each_once(widths).tolist():
        if width:
            writer.planes(folded[_of_width(inside, widths, width)], width)


def _read_inside(reader: Reader, runs: Runs, inside: Runs, firsts: Signed) -> Signed:
    by_offset = reader.bits(len(runs))
    below = reader.unsigned(int(by_offset.sum())).view(np.int64)
    divisors = reader.unsigned(len(runs)).view(np.int64) + 1
    widths = reader.unsigned(len(runs))
    if widths.max() > WIDTH_MAX:
        raise SegmentError("a run says that its integers have more than 8 bytes")
    present = each_once(widths).tolist()
    if len(present) == 1 and present[0]:
        folded = reader.planes(inside.readings, present[0])
    else:
        folded = np.zeros(inside.readings, np.uint64)
        for width in present:
            if width:
                length = int(inside.counts[widths == width].sum())
                folded[_of_width(inside, widths, width)] = reader.planes(length, width)
    steps = unzigzag(folded)
    mine = inside.readings_of(by_offset)
    if by_offset.any():
        steps = np.where(mine, folded.view(np.int64), steps)
    if (divisors != 1).any():
        steps *= inside.spread(divisors)
    if not by_offset.any():
        return runs.accumulate(firsts, steps)
    values = runs.accumulate(firsts, np.where(mine, 0, steps))
    within = np.arange(runs.readings)[runs.inside()][mine]
    values[within] = steps[mine] + np.repeat(firsts[by_offset] - below, inside.counts[by_offset])
    return values


def _of_width(inside: Runs, widths: Signed | Unsigned, width: int) -> Bools | slice:
    mine = widths == width
    return slice(None) if mine.all() else inside.readings_of(mine)


def _scatters(runs: Runs, inside: Runs, integers: Signed, steps: Signed) -> Bools:
    """Return which runs stay nearer to their mean than to the reading before: noise, not a walk."""
    scatters = np.asarray(runs.counts >= OFFSETS_COUNT_MIN, np.bool_)
    if not scatters.any():
        return scatters
    stride = _stride(inside)
    some, bounds = runs.sampled(stride)
    sample = integers[::stride].astype(np.float64)
    counts = counts_of(bounds, len(sample))
    means = np.add.reduceat(sample, bounds) / counts
    away = np.full(len(runs), np.inf)
    away[some] = np.add.reduceat(np.abs(sample - np.repeat(means, counts)), bounds) / counts
    some, bounds = inside.sampled(stride)
    sample = np.abs(steps[::stride].astype(np.float64))
    moved = np.zeros(len(runs))
    moved[some] = np.add.reduceat(sample, bounds) / counts_of(bounds, len(sample))
    return scatters & (away < moved)


def _stride(inside: Runs) -> int:
    """Return how far apart the readings are that a sample of these runs takes."""
    readings = inside.readings
    return max(1, min(readings // _SAMPLE, readings // (_SAMPLE_OF_RUN * len(inside))))


def _common_divisors(inside: Runs, steps: Signed) -> Signed:
    """Return what divides all integers of each run; 1 where nothing does, or it was not looked for."""
    stride = _stride(inside)
    some, bounds = inside.sampled(stride)
    divisors = np.ones(len(inside), np.int64)
    divisors[some] = np.gcd.reduceat(steps[::stride], bounds)
    # 0 divides nothing, and the magnitude of the lowest integer is none.
    np.maximum(divisors, 1, out=divisors)
    if stride > 1 and (divisors > 1).any():
        each = inside.spread(divisors)
        odd = steps // each * each != steps
        divisors[np.logical_or.reduceat(odd, inside.starts)] = 1
    return divisors
