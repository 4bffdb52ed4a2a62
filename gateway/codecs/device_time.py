"""Devices' own times become columns, or arrival stands in for them and says so. Must not read a clock.

A time is kept when it is sane: not before `floor_ns`, not after `ceiling_ns`. Where it is not, the reading has
the time of arrival on the boot's monotonic clock with the flags MONOTONIC and, if the device did give a time,
DEVICE_TIME_REJECTED. Of several readings in one payload the newest has arrived then, and the spacing that the
device gave is kept: a device that counts from its own start still tells what came after what.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.codecs.columns import pack_integers
from gateway.codecs.mapping_settings import UNIT_NS
from gateway.codecs.paths import ABSENT
from gateway.codecs.payloads import parse_number, shown
from gateway.core.batch import DEVICE_TIME_REJECTED, MONOTONIC
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.codecs.mapping_settings import Unit

REJECTED: Final = MONOTONIC | DEVICE_TIME_REJECTED

# MicroPython's ticks_ms, ticks_us count modulo 2^30.
TICKS_PERIOD: Final = 1 << 30
# A tick may be a little ahead of the `now` it is compared with: taken on another core, or just after.
TICKS_AHEAD_NS: Final = 60 * NS_PER_S
# A spacing or an age beyond this is not believed.
AGE_NS_MAX: Final = 366 * 86_400 * NS_PER_S
NS_MAX: Final = 1 << 62
ISO_LETTERS_MAX: Final = 40

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_BELOW_MICROSECONDS: Final = re.compile(r"[.,]\d{6}(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Moment:
    """When a buffer arrived (boot's monotonic ns), and between which Unix times in ns a device is believed."""

    arrived_ns: int
    floor_ns: int
    ceiling_ns: int


@dataclass(frozen=True, slots=True)
class Times:
    """int64 (n,) times in ns, with the time flags of a `Batch`: one for all, or uint8 (n,)."""

    ns: npt.NDArray[np.int64]
    flags: int | npt.NDArray[np.uint8]

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Times:
        """Return the times that `index` picks."""
        return Times(self.ns[index], self.flags if isinstance(self.flags, int) else self.flags[index])


def at_arrival(count: int, moment: Moment) -> Times:
    """Return `count` times of arrival, as for a device that gives none."""
    return Times(np.full(count, moment.arrived_ns, np.int64), MONOTONIC)


def read_times(
    values: list[Any],
    *,
    unit: Unit,
    moment: Moment,
    owners: npt.NDArray[np.intp] | None = None,
    zone: dt.tzinfo | None = dt.UTC,
) -> Times:
    """Return Unix times out of what documents held; `owners` (n,) says which of them share a payload.

    `zone` is that of texts which name none; None is the box's own.
    """
    if unit != "iso8601" and set(map(type, values)) == {int}:
        numbers = pack_integers(values)
        scale = UNIT_NS[unit]
        if numbers is not None and moment.floor_ns <= int(numbers.min()) * scale:  # noqa: SIM102  one test a line
            if int(numbers.max()) * scale <= moment.ceiling_ns:
                return Times(numbers * scale, 0)
    ns, was_read = read_numbers(values, unit) or _read_each(values, unit, zone)
    return keep_sane(ns, was_read, values, moment=moment, owners=owners)


def keep_sane(
    ns: npt.NDArray[np.int64],
    was_read: npt.NDArray[np.bool_],
    values: list[Any],
    *,
    moment: Moment,
    owners: npt.NDArray[np.intp] | None = None,
) -> Times:
    """Return Unix times where they are sane, arrival where not; `values` are what they were read from."""
    sane = was_read & (ns >= moment.floor_ns) & (ns <= moment.ceiling_ns)
    if sane.all():
        return Times(ns, 0)
    flags = np.where(sane, 0, np.where(_was_given(values), REJECTED, MONOTONIC)).astype(np.uint8)
    ages = _ages(ns, was_read & ~sane, owners)
    return Times(np.where(sane, ns, moment.arrived_ns - ages), flags)


def read_numbers(values: list[Any], unit: Unit) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Return times in ns and which of them are times at all; None where the values are not all of one kind."""
    types = set(map(type, values))
    scale = UNIT_NS.get(unit, 0)
    if not scale or types not in ({int}, {float}):
        return None
    if types == {int}:
        numbers = pack_integers(values)
        if numbers is None:
            return None
        # Not by its magnitude: that of the least integer is the least integer.
        was_read = (numbers > -(NS_MAX // scale)) & (numbers < NS_MAX // scale)
        return np.where(was_read, numbers, 0) * scale, was_read
    doubles = np.array(values, np.float64)
    was_read = np.abs(doubles) < NS_MAX // scale
    return np.rint(np.where(was_read, doubles, 0) * (scale / 1000)).astype(np.int64) * 1000, was_read


def _read_each(
    values: list[Any], unit: Unit, zone: dt.tzinfo | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    read = [to_ns(value, unit, zone) for value in values]
    was_read = np.array([ns is not None for ns in read], np.bool_)
    return np.array([0 if ns is None else ns for ns in read], np.int64), was_read


def _was_given(values: list[Any]) -> npt.NDArray[np.bool_]:
    return np.array([value is not None and value is not ABSENT for value in values], np.bool_)


def _ages(
    ns: npt.NDArray[np.int64], stray: npt.NDArray[np.bool_], owners: npt.NDArray[np.intp] | None
) -> npt.NDArray[np.int64]:
    """Return how much older each stray time is than the newest stray time of the same payload."""
    ages = np.zeros(len(ns), np.int64)
    if owners is None or not stray.any():
        return ages
    newest = np.full(int(owners.max()) + 1, -NS_MAX, np.int64)
    np.maximum.at(newest, owners[stray], ns[stray])
    found = newest[owners[stray]] - ns[stray]
    ages[stray] = np.where(found <= AGE_NS_MAX, found, 0)
    return ages


def to_ns(value: Any, unit: Unit, zone: dt.tzinfo | None = dt.UTC) -> int | None:
    """Return a Unix time in ns, None for what is none. Fractions are taken to the microsecond.

    >>> to_ns(1700000000.123, "s"), to_ns("2023-11-14T22:13:20.5Z", "iso8601")
    (1700000000123000000, 1700000000500000000)
    """
    if isinstance(value, str):
        value = read_iso8601(value, zone) if unit == "iso8601" else parse_number(value)
    elif unit == "iso8601":
        return None
    scale = UNIT_NS.get(unit, 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) < NS_MAX // scale:
        return None
    # A double of seconds since 1970 holds a quarter of a microsecond: more digits would be noise.
    return value * scale if isinstance(value, int) else round(value * (scale / 1000)) * 1000


def read_iso8601(text: str, zone: dt.tzinfo | None = dt.UTC) -> int | None:
    """Return Unix time in ns of a date and time (of `zone` if it names none), None for other text."""
    if len(text) > ISO_LETTERS_MAX:
        return None
    try:
        moment = dt.datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            # Without a zone of its own it is the box's to `astimezone`, with that day's summer time.
            moment = moment.replace(tzinfo=zone).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    since = moment - _EPOCH
    finer = _BELOW_MICROSECONDS.search(text)
    below_ns = int(finer[1].ljust(3, "0")) if finer else 0
    return (since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1000 + below_ns


def step_times(start: Any, step: Any, count: int, *, unit: Unit, moment: Moment) -> Times:
    """Return the times of an array's values, value k at start + k·step.

    Raises MalformedError where `step` does not say how far apart several values are.
    """
    scale = UNIT_NS[unit]
    step_ns = _step_ns(step, count, scale)
    start_ns = to_ns(start, unit)
    # A whole step is exact; a fraction of a nanosecond would add up if it were rounded first.
    offsets = None if isinstance(step_ns, int) else np.rint(np.arange(count) * step_ns).astype(np.int64)
    last = max(0, count - 1) * int(step_ns) if offsets is None else int(offsets[-1])
    if start_ns is not None:
        ends = (start_ns, start_ns + last)
        if moment.floor_ns <= min(ends) and max(ends) <= moment.ceiling_ns:
            return Times(_stepped(start_ns, int(step_ns), count) if offsets is None else start_ns + offsets, 0)
    if offsets is None:
        offsets = _stepped(0, int(step_ns), count)
    ages = max(0, last) - offsets
    if abs(last) > AGE_NS_MAX:
        ages = np.zeros(count, np.int64)
    return Times(moment.arrived_ns - ages, MONOTONIC if start is None or start is ABSENT else REJECTED)


def _stepped(start_ns: int, step_ns: int, count: int) -> npt.NDArray[np.int64]:
    if not step_ns:
        return np.full(count, start_ns, np.int64)
    return np.arange(start_ns, start_ns + count * step_ns, step_ns, dtype=np.int64)


def _step_ns(step: Any, count: int, scale: int) -> int | float:
    if count <= 1:
        return 0
    if isinstance(step, int | float) and not isinstance(step, bool) and abs(step) < NS_MAX / scale / count:
        return step * scale
    said = "missing" if step is None or step is ABSENT else shown(step)
    raise MalformedError("bad_step", f"the time between values is {said}, so {count} values have no times")


def list_times(values: Any, *, unit: Unit, moment: Moment, zone: dt.tzinfo | None = dt.UTC) -> Times:
    """Return the times that a list or an array in the payload gives, one for each value."""
    items = values.tolist() if isinstance(values, np.ndarray) else values
    return read_times(items, unit=unit, moment=moment, owners=np.zeros(len(items), np.intp), zone=zone)


def tick_times(ticks: list[Any], now: list[Any], *, unit: Unit, moment: Moment) -> Times:
    """Return times on our monotonic clock of readings taken at `ticks` on a device's, sent when it said `now`.

    Reading k is as old as now[k] - ticks[k]. Both clocks wrap at 2^30 where both are below it.
    """
    scale = UNIT_NS[unit]
    taken, sent = _clock(ticks), _clock(now)
    both = (taken >= 0) & (sent >= 0)
    ages = sent - taken
    wraps = both & (taken < TICKS_PERIOD) & (sent < TICKS_PERIOD)
    ages = np.where(wraps, ages % TICKS_PERIOD, ages)
    ahead = min(TICKS_AHEAD_NS // scale, TICKS_PERIOD // 16)
    ages = np.where(wraps & (ages >= TICKS_PERIOD - ahead), 0, ages)
    ages = np.where(~wraps & (ages < 0) & (ages >= -ahead), 0, ages)
    sane = both & (ages >= 0) & (ages <= AGE_NS_MAX // scale)
    flags = np.where(sane | ~_was_given(ticks), MONOTONIC, REJECTED).astype(np.uint8)
    return Times(moment.arrived_ns - np.where(sane, ages, 0) * scale, flags)


def _clock(values: list[Any]) -> npt.NDArray[np.int64]:
    """Return a device's clock as int64, -1 where it says nothing that a clock could say."""
    if set(map(type, values)) == {int}:
        numbers = pack_integers(values)
        if numbers is not None:
            return numbers
    return np.array(
        [round(value) if _is_clock(value) else -1 for value in values],
        np.int64,
    )


def _is_clock(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < NS_MAX
