"""Doubles as integers: which runs of doubles are decimals, singles or neither. Must not lose a bit of any.

A sensor's 20.51 is the integer 2051 and the exponent 2; what is kept of it is 2051, and `2051 / 10**2` is
again the very double that was read, because IEEE 754 division of two exact numbers is correctly rounded. That
is checked bit by bit before a form is chosen, so that NaN, -0.0 and the odd value out become exceptions.

| form  | a reading is                                                    |
| ----- | --------------------------------------------------------------- |
| 0-15  | integer / 10^form, as a double (integers and booleans: form 0)  |
| 16-25 | integer / 10^(form - 16), rounded to a single                   |
| 32    | the bits of a single, ordered                                   |
| 33    | the bits of a double, ordered                                   |
| 34    | its rank among the distinct values of the segment               |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from gateway.core.batch import distinct

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles: TypeAlias = npt.NDArray[np.float64]
    Signed: TypeAlias = npt.NDArray[np.int64]
    Bools: TypeAlias = npt.NDArray[np.bool_]
    Index: TypeAlias = npt.NDArray[np.intp]

SINGLE: Final = 16
SINGLE_BITS: Final = 32
DOUBLE_BITS: Final = 33
RANKS: Final = 34
DECIMAL_EXPONENT_MAX: Final = 15
SINGLE_EXPONENT_MAX: Final = 9
# Exact, as powers of ten are up to 10^22; what pow() makes of them is the C library's own affair.
POWERS: Final = np.array([float(10**exponent) for exponent in range(DECIMAL_EXPONENT_MAX + 1)])

# Almost any double has a decimal of 16 digits and any single one of 8, which saves nothing:
# fewer are asked for.
WHOLE_MAX: Final = 2.0**53
DECIMAL_MAX: Final = 2.0**47
_SINGLE_MAX: Final = 2.0**21
# An exponent is guessed from this many readings of a run and then checked on all of them.
_SAMPLES: Final = 8
# A run whose readings need more digits than the samples showed is tried this often.
_TRIES_MAX: Final = 4
# One reading in eight may be an exception (9 to 10 bytes); more, and the run is kept as bits.
_EXCEPTIONS_SHIFT: Final = 3
_NONE: Final = 99
LIFT_COUNT_MAX: Final = 4


def is_known(forms: npt.NDArray[np.uint64]) -> Bools:
    """Return for each form whether it is one of the table.

    >>> is_known(np.array([0, 15, 16, 25, 26, 31, 32, 34, 35], np.uint64)).tolist()
    [True, True, True, True, False, False, True, True, False]
    """
    decimal = forms <= SINGLE + SINGLE_EXPONENT_MAX
    return decimal | ((forms >= SINGLE_BITS) & (forms <= RANKS))


def ordered(bits: Signed) -> Signed:
    """Turn a double's bits into an integer that grows with its value, and back: it is its own inverse.

    >>> ordered(np.array([-1.0, -0.5, 0.5]).view(np.int64)).argsort().tolist()
    [0, 1, 2]
    """
    return bits ^ ((bits >> 63) & 0x7FFF_FFFF_FFFF_FFFF)


def to_doubles(integers: Signed | Doubles, form: int) -> Signed:
    """Return the bits of the doubles that `integers` stand for in a decimal form (0 to 25).

    >>> to_doubles(np.array([2051]), 2).view(np.float64).tolist()
    [20.51]
    """
    if form < SINGLE:
        doubles: Doubles = integers / POWERS[form]
        return doubles.view(np.int64)
    doubles = (integers / POWERS[form - SINGLE]).astype(np.float32).astype(np.float64)
    return doubles.view(np.int64)


def from_single_bits(integers: Signed) -> Signed:
    """Return the bits of the doubles that ordered single bits stand for; integers over 32 bits are cut."""
    singles = ordered_single(integers.astype(np.int32)).view(np.float32)
    with np.errstate(invalid="ignore"):
        return singles.astype(np.float64).view(np.int64)


def ordered_single(bits: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Do what `ordered` does, for singles."""
    return bits ^ ((bits >> 31) & 0x7FFF_FFFF)


def to_integers(bits: Signed, form: int) -> tuple[Signed, Bools]:
    """Return the integers that `form` makes of doubles, and where they are not the doubles, bit by bit.

    >>> to_integers(np.array([20.51, -0.0, 0.1 + 0.2]).view(np.int64), 2)
    (array([2051,    0,   30]), array([False,  True,  True]))
    """
    with np.errstate(all="ignore"):
        if form == SINGLE_BITS:
            singles = bits.view(np.float64).astype(np.float32).view(np.int32)
            integers = ordered_single(singles).astype(np.int64)
            return integers, from_single_bits(integers) != bits
        exponent, limit = form, DECIMAL_MAX if form else WHOLE_MAX
        if form >= SINGLE:
            exponent, limit = form - SINGLE, _SINGLE_MAX
        whole = bits.view(np.float64) * POWERS[exponent]
        np.rint(whole, out=whole)
        # Of NaN neither is true.
        if whole.min(initial=0.0) > -limit and whole.max(initial=0.0) < limit:
            # -0.0 is no integer.
            whole += 0.0
            return whole.astype(np.int64), to_doubles(whole, form) != bits
        fits = np.abs(whole) < limit
        # Casting NaN or what does not fit is undefined, and differs between processors.
        integers = np.where(fits, whole, 0.0).astype(np.int64)
        return integers, (to_doubles(integers, form) != bits) | ~fits


def smallest_forms(bits: Signed, first: int, last: int) -> npt.NDArray[np.int64]:
    """Return for each double the first form of `first` … `last` that holds it exactly, 99 where none does.

    >>> smallest_forms(np.array([7.0, 20.51, 0.1 + 0.2]).view(np.int64), 0, 15).tolist()
    [0, 2, 99]
    """
    found = np.full(len(bits), _NONE, np.int64)
    left = np.arange(len(bits))
    for form in range(first, last + 1):
        wrong = to_integers(bits[left], form)[1]
        found[left[~wrong]] = form
        left = left[wrong]
        if not len(left):
            break
    return found


def choose(bits: Signed, starts: Index, counts: Index) -> tuple[npt.NDArray[np.int64], Signed, Bools]:
    """Choose a form for each run of doubles.

    `bits` are all readings of the runs, one run behind the other. Returns the forms (runs,), the integers and
    where they are exceptions (readings,).
    """
    forms = np.full(len(starts), DOUBLE_BITS, np.int64)
    integers = np.empty(len(bits), np.int64)
    exceptions = np.zeros(len(bits), np.bool_)
    spread = np.arange(min(_SAMPLES, int(counts.max())))
    where = starts[:, None] + spread * (counts[:, None] - 1) // max(1, len(spread) - 1)
    samples = bits[where.ravel()]
    for first, last in (
        (0, DECIMAL_EXPONENT_MAX),
        (SINGLE, SINGLE + SINGLE_EXPONENT_MAX),
        (SINGLE_BITS, SINGLE_BITS),
    ):
        left = np.flatnonzero(forms == DOUBLE_BITS)
        if not len(left):
            break
        if first:
            # Without a single among the samples there is nothing to look for.
            single = (samples.reshape(len(starts), -1)[left] & 0x1FFF_FFFF) == 0
            left = left[single.all(axis=1)]
            if not len(left):
                break
        rows = samples.reshape(len(starts), -1)[left]
        guesses = smallest_forms(rows.ravel(), first, last).reshape(rows.shape)
        # One sample in four may be an exception.
        known = guesses < _NONE
        likely = known.sum(axis=1) * 4 >= rows.shape[1] * 3
        guess = np.where(known, guesses, -1).max(axis=1)
        _verify(bits, starts, counts, left[likely], guess[likely], last, out=(forms, integers, exceptions))
    neither = np.flatnonzero(forms == DOUBLE_BITS)
    if len(neither):
        rest = readings_of(starts[neither], counts[neither])
        integers[rest] = ordered(bits[rest])
    return forms, integers, exceptions


def _verify(
    bits: Signed,
    starts: Index,
    counts: Index,
    runs: Index,
    guess: npt.NDArray[np.int64],
    last: int,
    *,
    out: tuple[npt.NDArray[np.int64], Signed, Bools],
) -> None:
    """Check each run's guess on all of its readings; write what holds, try the next form for the rest."""
    forms, integers, exceptions = out
    for _ in range(_TRIES_MAX):
        failed: list[Index] = []
        for form in distinct(guess).tolist():
            mine = runs[guess == form]
            length = counts[mine]
            where: Index | slice = readings_of(starts[mine], length)
            made, wrong = to_integers(bits[where], form)
            if not wrong.any():
                good = np.ones(len(mine), np.bool_)
            else:
                wrongs = np.add.reduceat(wrong, np.cumsum(length) - length, dtype=np.int64)
                good = wrongs <= length >> _EXCEPTIONS_SHIFT
            forms[mine[good]] = form
            if good.all():
                integers[where], exceptions[where] = made, wrong
                continue
            chosen = np.repeat(good, length)
            where = np.arange(len(bits))[where][chosen]
            integers[where], exceptions[where] = made[chosen], wrong[chosen]
            failed.append(np.flatnonzero(guess == form)[~good])
        if not failed:
            return
        again = np.concatenate(failed)
        again = again[guess[again] < last]
        runs, guess = runs[again], guess[again] + 1
        if not len(runs):
            return


def lift(forms: npt.NDArray[np.int64], integers: Signed, starts: Index, counts: Index) -> None:
    """Give short runs the exponent that most of them have, in place, where that is likely to be shorter.

    One reading in ten of a sensor with two decimals has only one: 20.5 is better kept as 2050 among others.
    """
    short = (counts <= LIFT_COUNT_MAX) & (forms <= DECIMAL_EXPONENT_MAX)
    if not short.any():
        return
    found = np.bincount(forms[short], minlength=DECIMAL_EXPONENT_MAX + 1)
    most = int(found.argmax())
    lower = np.flatnonzero(short & (forms < most))
    if not len(lower):
        return
    # The forms' entropy, against half of the digits that are added: half, as these are all alike.
    some = found[found > 0]
    saved_bits = -(some * np.log2(some / some.sum())).sum()
    added_bits = (found[:most] * np.arange(most, 0, -1)).sum() * np.log2(10) / 2
    if saved_bits <= added_bits:
        return
    where = readings_of(starts[lower], counts[lower])
    powers = np.repeat(10 ** (most - forms[lower]), counts[lower])
    fits = np.logical_and.reduceat(
        np.abs(integers[where]) < DECIMAL_MAX / powers, np.cumsum(counts[lower]) - counts[lower]
    )
    chosen = np.repeat(fits, counts[lower])
    integers[where] *= np.where(chosen, powers, 1)
    forms[lower[fits]] = most


def readings_of(starts: Index, counts: Index) -> Index | slice:
    """Return the positions of all readings of these runs, as a slice where they are one piece.

    >>> readings_of(np.array([0, 5]), np.array([2, 1])).tolist()
    [0, 1, 5]
    """
    ends = starts + counts
    if len(starts) and (starts[1:] == ends[:-1]).all():
        return slice(int(starts[0]), int(ends[-1]))
    offsets = np.cumsum(counts) - counts
    return np.repeat(starts - offsets, counts) + np.arange(int(counts.sum()))
