"""Every number in a document, with its name: the walk behind `fields`. Bounded; must not know series or times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cbor2
import numpy as np

from gateway.codecs.columns import pack_doubles, pack_integers
from gateway.codecs.device_time import read_iso8601
from gateway.codecs.mapping_settings import UNIT_NS
from gateway.codecs.payloads import Opaque, shown
from gateway.core.clock import NS_PER_S, WALL_CEILING_NS
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from gateway.codecs.mapping_settings import MapLimits
    from gateway.codecs.paths import Step

# Keys of an object that are its time, if what stands there can be nothing else.
TIME_KEYS: Final = ("ts", "timestamp", "time")
_TIME_KEYS: Final = frozenset(TIME_KEYS)
YEAR_2000_NS: Final = 946_684_800 * NS_PER_S

NUMBERS: Final = frozenset({int, float, bool})
# What is no number but nothing wrong either.
NULLS: Final = frozenset({type(None), type(cbor2.undefined)})
SILENT: Final = frozenset({str, bytes, *NULLS})


@dataclass(slots=True)
class Walk:
    """How documents are walked. `lose` takes a reason and a sentence for what should have been a reading.

    `has_times` says that lists of numbers are readings one after the other; otherwise their elements are metrics.
    `skip` are names that are not metrics, as those of times. `has_seen_null`: a value is there and has no value now.
    """

    limits: MapLimits
    skip: frozenset[str]
    has_times: bool
    lose: Callable[[str, str], None]
    has_seen_null: bool = False
    visited: int = 0

    def numbers(self, document: Any, name: str) -> Iterator[tuple[str, Any]]:
        """Yield name and value of what is a number (or, with times, a list or an array of them).

        An object's own name is not part of its leaves' names. Raises MalformedError where it goes too deep, and
        where there is too much that is no number: empty objects cost time too.
        """
        return self._walk(document, "" if type(document) is dict else name, 0)

    def _walk(self, value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
        kind = type(value)
        if kind in NUMBERS:
            yield name, value
            return
        self._count()
        if depth > self.limits.depth_max:
            raise MalformedError("too_deep", f"the payload is nested more than {self.limits.depth_max} deep")
        if len(name) > self.limits.name_length_max:
            # Whatever is inside has a longer name yet, and making each is what costs.
            self.lose("bad_name", f"the name of a metric is longer than {self.limits.name_length_max}: {shown(name)}")
        elif kind is dict:
            yield from self._walk_object(value, name, depth)
        elif kind is list or kind is np.ndarray:
            yield from self._walk_list(value, name, depth)
        elif kind is Opaque:
            self.lose("wrong_type", f"{name} is {value!r}, which is no number here")

    def _count(self) -> None:
        self.visited += 1
        most = self.limits.fields_per_payload_max
        if self.visited > most:
            raise MalformedError("too_many_fields", f"the payload has more than {most} objects, lists and odd values")

    def _walk_object(self, value: dict[Any, Any], name: str, depth: int) -> Iterator[tuple[str, Any]]:
        before = f"{name}." if name or depth else ""
        for key, inner in value.items():
            if type(inner) in SILENT:
                self.has_seen_null = self.has_seen_null or type(inner) in NULLS
                continue
            if not isinstance(key, str | int):
                self._count()
                self.lose("bad_name", f"{name or 'the payload'} has a key that is no text: {shown(key)[:80]}")
                continue
            full = before + (key if isinstance(key, str) else str(key))
            if full in self.skip:
                continue
            if type(inner) in NUMBERS:
                yield full, inner
            else:
                yield from self._walk(inner, full, depth + 1)

    def _walk_list(self, value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
        is_array = type(value) is np.ndarray
        if self.has_times and (is_array or any(type(inner) in NUMBERS for inner in value)):
            yield name, value
        elif len(value) > self.limits.elements_max:
            self.lose(
                "array_without_time",
                f"{name} is {shown(value)}; say when its values were taken with time = {{ start, step }}, "
                "or for a list of objects each",
            )
        else:
            for index, inner in enumerate(value.tolist() if is_array else value):
                yield from self._walk(inner, f"{name}[{index}]", depth + 1)


def leaf_name(steps: tuple[Step, ...]) -> str:
    """Return what a walk calls the leaf at `steps`.

    >>> leaf_name(("a", 0, "b"))
    'a[0].b'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def own_time(document: Any) -> tuple[str, int | None]:
    """Return the key of an object's time and the time in Unix ns; "" and None if there is none for sure.

    >>> own_time({"ts": 1700000000, "temp": 20.5}), own_time({"time": 1234})
    (('ts', 1700000000000000000), ('', None))
    """
    if type(document) is dict and not _TIME_KEYS.isdisjoint(document):
        for key in TIME_KEYS:
            value = document.get(key)
            if value is not None and (ns := _sure_time(value)) is not None:
                return key, ns
    return "", None


def sure_times(values: list[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return many times in Unix ns, as `own_time` finds them, and which of the values are times for sure."""
    types = set(map(type, values))
    numbers: npt.NDArray[Any] | None = None
    if types == {int}:
        numbers = pack_integers(values)
    elif types == {float}:
        numbers = pack_doubles(values)
    if numbers is not None:
        least, most = numbers.min(), numbers.max()
        for scale in UNIT_NS.values():
            if YEAR_2000_NS // scale <= least and most < WALL_CEILING_NS // scale:
                if types == {int}:
                    return numbers * scale, np.ones(len(values), np.bool_)
                return np.rint(numbers * (scale / 1000)).astype(np.int64) * 1000, np.ones(len(values), np.bool_)
    found = [_sure_time(value) for value in values]
    was_sure = np.array([ns is not None for ns in found], np.bool_)
    return np.array([0 if ns is None else ns for ns in found], np.int64), was_sure


def _sure_time(value: Any) -> int | None:
    """Return the Unix time in ns that a value between the years 2000 and 2100 must be, in whatever unit."""
    if isinstance(value, str):
        ns = read_iso8601(value) if "-" in value else None
        return ns if ns is not None and YEAR_2000_NS <= ns < WALL_CEILING_NS else None
    if type(value) not in {int, float}:
        return None
    # A hundred years in one unit are long before the year 2000 in the next finer one.
    for scale in UNIT_NS.values():
        if YEAR_2000_NS // scale <= value < WALL_CEILING_NS // scale:
            return value * scale if isinstance(value, int) else round(value * (scale / 1000)) * 1000
    return None
