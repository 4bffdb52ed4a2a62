"""A mapping's `time`, ready to use: the paths it wants, and the times of items and of arrays. Must not read values."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.codecs.device_time import Times, at_arrival, list_times, read_times, step_times, tick_times
from gateway.codecs.mapping_settings import read_zone
from gateway.codecs.paths import read_path
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.codecs.device_time import Moment
    from gateway.codecs.documents import Cut
    from gateway.codecs.mapping_settings import TimeSettings
    from gateway.codecs.paths import Step
    from gateway.codecs.routing import Work

LISTS: Final = frozenset({list, np.ndarray})


class Timing:
    """Reads device times as one mapping's `time` says.

    With `each`, `field` and `ticks` stand in each item; `start`, `step` and `now` in the document around them.
    Every cut has the paths' readers last, in the order of `item_paths` and `document_paths`.
    """

    def __init__(self, settings: TimeSettings | None, *, is_each: bool) -> None:
        self.unit: Any = "ns" if settings is None else settings.unit
        self._zone = read_zone("UTC" if settings is None else settings.zone)
        self._is_each = is_each
        self._item_names = [name for name in ("field", "ticks") if getattr(settings, name, None) is not None]
        self._names = [name for name in ("start", "step", "now") if getattr(settings, name, None) is not None]
        self.item_paths = [read_path(getattr(settings, name)) for name in self._item_names]
        self.document_paths = [read_path(getattr(settings, name)) for name in self._names]
        self.paths: list[tuple[Step, ...]] = [*self.item_paths, *self.document_paths]

    def split(self, cut: Cut) -> list[tuple[Cut, bool]]:
        """Return the documents whose values have a time each, with True, and those with one time for all."""
        if self._item_names:
            cut.time_values = cut.item_readers[-1](cut.items)
        in_arrays = self._in_arrays(cut)
        if in_arrays is None:
            return [(cut, False)]
        if in_arrays.all():
            return [(cut, True)]
        return [(cut.take(np.flatnonzero(in_arrays)), True), (cut.take(np.flatnonzero(~in_arrays)), False)]

    def _in_arrays(self, cut: Cut) -> npt.NDArray[np.bool_] | None:
        # Lines of CSV are items, whatever else the mapping expects.
        if self._is_each or cut.owners is not None:
            return None
        if "step" in self._names:
            return np.ones(len(cut.documents), np.bool_)
        if not self._item_names:
            return None
        if LISTS.isdisjoint(map(type, cut.time_values)):
            return None
        return np.array([type(value) in LISTS for value in cut.time_values], np.bool_)

    def item_times(self, cut: Cut, work: Work) -> tuple[Times, npt.NDArray[np.bool_] | None]:
        """Return a time for each item, and which items have one where not all do (those are lost)."""
        moment = work.moment
        if "step" in self._names:
            return self._stepped(cut, work)
        if not self._item_names:
            return at_arrival(len(cut.items), moment), None
        values = cut.time_values
        if self._item_names == ["field"]:
            return read_times(values, unit=self.unit, moment=moment, owners=cut.owners, zone=self._zone), None
        (now,) = self._document_values(cut)
        if cut.owners is not None:
            now = [now[owner] for owner in cut.owners.tolist()]
        return tick_times(values, now, unit=self.unit, moment=moment), None

    def array_times(self, cut: Cut, moment: Moment) -> ArrayTimes:
        """Return what gives the times of arrays in the documents of `cut`."""
        named: dict[str, list[Any]] = dict(zip(self._names, self._document_values(cut), strict=True))
        if self._item_names:
            named[self._item_names[0]] = cut.time_values
        return ArrayTimes(named, unit=self.unit, moment=moment, zone=self._zone)

    def _document_values(self, cut: Cut) -> list[list[Any]]:
        count = len(self._names)
        return [read(cut.documents) for read in cut.document_readers[len(cut.document_readers) - count :]]

    def _stepped(self, cut: Cut, work: Work) -> tuple[Times, npt.NDArray[np.bool_] | None]:
        """Return the times of lists of items: item k of a document is at its start + k·step."""
        assert cut.owners is not None, "without each, steps are those of arrays"
        clock = self.array_times(cut, work.moment)
        counts = np.bincount(cut.owners, minlength=len(cut.documents))
        keep = np.ones(len(cut.items), np.bool_)
        ns, flags = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
        for k, count in enumerate(counts.tolist()):
            try:
                times = clock.of(k, count, "the list")
            except MalformedError as error:
                work.lose(int(cut.positions[k]), error.reason, str(error))
                keep[cut.owners == k] = False
            else:
                ns.append(times.ns)
                flags.append(np.full(count, times.flags, np.uint8))
        return Times(np.concatenate(ns), np.concatenate(flags)), None if keep.all() else keep


class ArrayTimes:
    """Times of the arrays in some documents; `named` are the documents' start, step, now, field, ticks."""

    def __init__(
        self, named: dict[str, list[Any]], *, unit: Any, moment: Moment, zone: dt.tzinfo | None = dt.UTC
    ) -> None:
        self._named = named
        self._zone = zone
        self._unit = unit
        self._moment = moment
        self._last: tuple[int, int | None, Times] | None = None

    def of(self, k: int, count: int | None, label: str) -> Times:
        """Return the times of `count` values in document `k`; None is one value that is no array.

        Raises MalformedError where document k has not so many times.
        """
        if self._last is None or self._last[:2] != (k, count):
            self._last = (k, count, self._times(k, count, label))
        return self._last[2]

    def _times(self, k: int, count: int | None, label: str) -> Times:
        named = self._named
        if "step" in named:
            start = named["start"][k] if "start" in named else None
            many = 1 if count is None else count
            return step_times(start, named["step"][k], many, unit=self._unit, moment=self._moment)
        if "field" in named:
            times = list_times(named["field"][k], unit=self._unit, moment=self._moment, zone=self._zone)
        else:
            ticks = named["ticks"][k]
            ticks = ticks.tolist() if isinstance(ticks, np.ndarray) else ticks
            times = tick_times(ticks, [named["now"][k]] * len(ticks), unit=self._unit, moment=self._moment)
        if count is None:  # what is said once beside arrays was measured with the last of their values
            return times.take(np.array([-1])) if len(times.ns) else at_arrival(1, self._moment)
        if count != len(times.ns):
            raise MalformedError("length_mismatch", f"{label} has {count} values and there are {len(times.ns)} times")
        return times
