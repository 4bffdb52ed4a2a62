"""Arrays out of payloads become readings, with numpy calls per metric and not per array. Must not find or time them.

Arrays are gathered from all payloads of a mapping first. Those of floats need no type of their own and are
joined across metrics; so a payload of a hundred short arrays costs about what one of a long one does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway.codecs.columns import Column, ValueReader, pack_doubles
from gateway.codecs.device_time import Times
from gateway.codecs.payloads import shown
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.codecs.routing import Output
    from gateway.core.contracts import Priority


def count_values(value: Any, *, label: str, most: int) -> int | None:
    """Return how many readings an array or a list is, None for what is one value; raise MalformedError."""
    if not isinstance(value, list | np.ndarray):
        return None
    if isinstance(value, np.ndarray) and value.ndim != 1:
        raise MalformedError("wrong_type", f"{label} is {shown(value)} in {value.ndim} dimensions; send one per metric")
    if len(value) > most:
        raise MalformedError("too_many_readings", f"{label} has {len(value)} values, more than {most}")
    return len(value)


@dataclass(slots=True)
class _Group:
    """Arrays that are read together, shared by several metrics or of one; the lists are parallel."""

    reader: ValueReader
    is_shared: bool = False
    arrays: list[Any] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    series: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    times: list[Times] = field(default_factory=list)


class Gatherer:
    """Takes arrays as they are found, gives columns at the end."""

    def __init__(self) -> None:
        self._floats = _Group(ValueReader("a value"), is_shared=True)
        self._groups: dict[tuple[int, str], _Group] = {}

    def add(self, reader: ValueReader, values: Any, *, series: int, times: Times, position: int) -> None:
        """Take one array, list or single value of a payload with its times, one for each value."""
        if not isinstance(values, list | np.ndarray):
            values = [values]
        if isinstance(values, list) and reader.is_plain and set(map(type, values)) == {float}:
            packed = pack_doubles(values)
            assert packed is not None, "a double fits a double"
            values = packed
        if isinstance(values, list):
            group = self._groups.setdefault((id(reader), "list"), _Group(reader))
        elif values.dtype.kind == "f" and reader.is_plain:
            reader.is_double = True
            group = self._floats
        else:
            group = self._groups.setdefault((id(reader), values.dtype.str), _Group(reader))
        group.arrays.append(values)
        group.labels.append(reader.label)
        group.series.append(series)
        group.positions.append(position)
        group.times.append(times)

    def finish(self, output: Output, priority: Priority) -> None:
        """Hand over all readings and problems."""
        for group in (self._floats, *self._groups.values()):
            if group.arrays:
                _finish(group, output, priority)


def _finish(group: _Group, output: Output, priority: Priority) -> None:
    counts = np.array([len(array) for array in group.arrays], np.intp)
    column = _read(group)
    if column.problems:
        places = np.array([at for at, _, _ in column.problems], np.intp)
        parts = np.searchsorted(np.cumsum(counts), places, side="right").tolist()
        for part, (_, reason, sentence) in zip(parts, column.problems, strict=True):
            said = sentence.replace(group.reader.label, group.labels[part], 1) if group.is_shared else sentence
            output.lose(group.positions[part], reason, said)
    series = np.repeat(np.array(group.series, np.uint32), counts)
    times = _join_times(group.times, counts)
    if column.which is not None:
        series = series[column.which]
        times = times.take(column.which)
    output.add(priority, series=series, times=times, bits=column.bits, kinds=column.kinds)


def _read(group: _Group) -> Column:
    if isinstance(group.arrays[0], list):
        return group.reader.read(list(chain.from_iterable(group.arrays)))
    return group.reader.read_array(np.concatenate(group.arrays))


def _join_times(parts: list[Times], counts: npt.NDArray[np.intp]) -> Times:
    ns = np.concatenate([part.ns for part in parts])
    first = parts[0].flags
    if isinstance(first, int) and all(isinstance(part.flags, int) and part.flags == first for part in parts):
        return Times(ns, first)
    if all(isinstance(part.flags, int) for part in parts):
        return Times(ns, np.repeat(np.array([part.flags for part in parts], np.uint8), counts))
    flags = [np.broadcast_to(np.asarray(part.flags, np.uint8), len(part.ns)) for part in parts]
    return Times(ns, np.concatenate(flags))
