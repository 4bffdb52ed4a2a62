"""Watches batches: which detector sees which series, what it found. Must not do I/O or loop over readings."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.core.batch import MONOTONIC, UNKEPT, distinct, is_among
from gateway.core.clock import NS_PER_S
from gateway.core.text import sentence
from gateway.detect.gate import Gate
from gateway.detect.rows import UNSEEN, RowTable
from gateway.detect.saved import SavedError, pack, unpack
from gateway.detect.settings import DetectorSettings, IqrSettings, Match, ZScoreSettings
from gateway.detect.statistics import InterquartileRange, ZScore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from gateway.core.batch import Batch, Series
    from gateway.detect.statistics import Detector

__all__ = ["DetectorSettings", "Engine", "Finding"]

# In the table from series numbers to rows.
UNWATCHED: Final = -2
OVER_LIMIT: Final = -3
ATTRIBUTES_SHOWN: Final = 4
NAME_CHARS_MAX: Final = 100
UNIT_CHARS_MAX: Final = 20

MEASURES: Final = {
    "zscore": "standard deviations from its mean",
    "iqr": "interquartile ranges outside its quartiles",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One reading that a detector thinks odd; `flags` are the reading's, MONOTONIC tells whose time it is."""

    detector: str
    series: int
    time_ns: int
    flags: int
    value: float
    score: float
    threshold: float
    expected: float
    text: str


@dataclass(slots=True)
class Counts:
    """What became of what one detector was shown."""

    readings: int = 0
    not_finite: int = 0
    findings: int = 0
    findings_over_limit: int = 0
    series_over_limit: int = 0


class Engine:
    """All detectors of a gateway. Not for several threads at once.

    What it saves is never as large as `saved_bytes_max`: a larger file is none of ours.
    """

    saved_bytes_max: Final = 128 << 20

    def __init__(self, settings: Sequence[DetectorSettings], *, series: Callable[[int], Series]) -> None:
        names = _names(settings)
        self._series = self._unkept = series
        self._watches = [_Watch(one, name=name, series=self.series) for one, name in zip(settings, names, strict=True)]
        self.states_refused = 0

    def series(self, number: int) -> Series:
        """Return the series that has a number."""
        return self._series(number) if number < UNKEPT else self._unkept(number)

    def name_unkept(self, series: Callable[[int], Series]) -> None:
        """Have `series` name the numbers from UNKEPT on."""
        self._unkept = series

    def wants(self, series: Series) -> bool:
        """Whether some detector watches a series."""
        return any(watch.wants(series) for watch in self._watches)

    def wants_named(self, name: str, unit: str) -> bool:
        """Whether some detector may watch series of such a name and unit: which, their attributes say."""
        return any(watch.wants_named(name, unit) for watch in self._watches)

    @property
    def series_max(self) -> int:
        """How many series the detector watches that watches most."""
        return max((watch.settings.series_max for watch in self._watches), default=0)

    def watch(self, batch: Batch) -> list[Finding]:
        """Show a batch, readings of a series in order of time, to every detector; return what they found."""
        if not len(batch):
            return []
        values = batch.values()
        return [finding for watch in self._watches for finding in watch.look(batch, values)]

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers, distinct and in order. What was learnt stays until its row is needed."""
        for watch in self._watches:
            watch.forget_series(numbers)

    def status(self) -> dict[str, dict[str, int]]:
        """Return the counts of each detector, by its name."""
        return {
            watch.name: {
                "series": watch.rows_used,
                "readings": watch.counts.readings,
                "findings": watch.counts.findings,
                "findings_over_limit": watch.counts.findings_over_limit,
                "series_over_limit": watch.counts.series_over_limit,
                "not_finite": watch.counts.not_finite,
            }
            for watch in self._watches
        }

    def save(self) -> bytes:
        """Return everything learnt: a copy, to be made where `watch` is called, and written anywhere."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for watch in self._watches:
            arrays |= {f"{watch.key}/{name}": array for name, array in watch.state().items()}
        return pack(arrays)

    def restore(self, data: bytes) -> bool:
        """Take up what `save` returned; return whether all of it could be used.

        What is damaged or belongs to detectors that are now set otherwise is left: those start fresh.
        """
        try:
            arrays = unpack(data)
        except SavedError:
            self.states_refused += 1
            return False
        taken = [watch.restore(arrays) for watch in self._watches]
        self.states_refused += taken.count(False)
        return all(taken)


@dataclass(slots=True)
class _Watch:
    """One detector, its rows, its gate."""

    settings: DetectorSettings
    name: str
    series: Callable[[int], Series]
    counts: Counts = field(default_factory=Counts)
    rows_used: int = 0
    detector: Detector = field(init=False)
    gate: Gate = field(init=False)
    kind: str = field(init=False)
    wants: Callable[[Series], bool] = field(init=False)
    wants_named: Callable[[str, str], bool] = field(init=False)
    _row_of: RowTable = field(default_factory=RowTable)
    _identity: list[int] = field(default_factory=list)
    # Rows of series that have no number now, by identity, from the one that is without for longest: restored ones
    # that have not spoken yet, and forgotten ones. Only forgotten ones are given away.
    _unnumbered: dict[int, int] = field(default_factory=dict)
    _may_give_away: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self.kind = str(settings.__struct_config__.tag)
        self.detector = build(settings)
        self.gate = Gate(
            threshold=settings.threshold,
            habituation=settings.habituation,
            silence_ns=round(settings.silence * NS_PER_S),
            findings_max=settings.findings_max,
        )
        self.wants, self.wants_named = matcher(settings.match), name_matcher(settings.match)

    @property
    def key(self) -> str:
        """What the state is saved under."""
        return f"{self.kind}/{self.name}"

    def look(self, batch: Batch, values: npt.NDArray[np.float64]) -> list[Finding]:
        """Score what concerns this detector."""
        index = self._rows(batch.series)
        mine = index >= 0
        if not mine.all():
            kept = np.flatnonzero(mine)
            if not len(kept):
                return []
            batch, values, index = batch.take(kept), values[kept], index[kept]
        finite = np.isfinite(values)
        if not finite.all():
            self.counts.not_finite += int(len(values) - finite.sum())
            batch, values, index = batch.take(finite), values[finite], index[finite]
        self.counts.readings += len(values)
        seen = self.detector.seen(np.arange(self.rows_used))
        scores = self.detector.update(values, index, batch.time_ns)
        passed = self.gate.judge(scores, index, batch.time_ns, clock=batch.flags & np.uint8(MONOTONIC), seen=seen)
        self.counts.findings += len(passed.positions)
        self.counts.findings_over_limit += passed.over_limit
        expected = self.detector.expected(index[passed.positions]) if passed.positions else np.empty(0)
        return [
            self._finding(batch, position, float(values[position]), float(scores[position]), level, float(usual))
            for position, level, usual in zip(passed.positions, passed.levels, expected, strict=True)
        ]

    def _finding(
        self, batch: Batch, position: int, value: float, score: float, level: float, expected: float
    ) -> Finding:
        number = int(batch.series[position])
        about = self.series(number)
        text = (
            f"{_title(about)} is {_shown(value, about.unit)}, {score:.3g} {MEASURES[self.kind]} "
            f"(threshold {level:.3g}; expected about {_shown(_as_rough(expected, value), about.unit)})"
        )
        return Finding(
            detector=self.name,
            series=number,
            time_ns=int(batch.time_ns[position]),
            flags=int(batch.flags[position]),
            value=value,
            score=score,
            threshold=level,
            expected=expected,
            text=text,
        )

    def _rows(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        """Return the row of each series number, less than 0 where there is none."""
        rows = self._row_of.find(numbers)
        unseen = rows == UNSEEN
        if unseen.any():
            for number in distinct(numbers[unseen]).tolist():
                self._row_of.set(number, self._enter(number))
            rows = self._row_of.find(numbers)
        return rows.astype(np.intp)

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of numbers. Their rows stay known by identity, should the series come back."""
        table = self._row_of
        gone = is_among(table.numbers, numbers)
        for row in table.rows[gone & (table.rows >= 0)].tolist():
            self._unnumbered[self._identity[row]] = row
        # Who found no row may find one now. What was restored and has not spoken since is as idle as these.
        waiting = table.rows == OVER_LIMIT
        self.counts.series_over_limit -= int(waiting.sum())
        self._may_give_away = True
        table.drop(gone | waiting)

    def _enter(self, number: int) -> int:
        """Return the row for a series that is seen for the first time in this run."""
        series = self.series(number)
        if not self.wants(series):
            return UNWATCHED
        identity = identify(series)
        known = self._unnumbered.pop(identity, None)
        if known is not None:
            return known
        if self.rows_used >= self.settings.series_max:
            if not self._unnumbered or not self._may_give_away:
                self.counts.series_over_limit += 1
                return OVER_LIMIT
            return self._give_away(identity)
        row = self.rows_used
        self.rows_used += 1
        self.detector.grow(self.rows_used)
        self._identity.append(identity)
        return row

    def _give_away(self, identity: int) -> int:
        """Return the row of the series that is forgotten for longest, empty, for another."""
        row = self._unnumbered.pop(next(iter(self._unnumbered)))
        for column in self.detector.state().values():
            column[row] = 0
        self.gate.forget(row)
        self._identity[row] = identity
        return row

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what was learnt, with the series' identities: numbers may be given anew after a salvage."""
        used = self.rows_used
        return {
            "identity": np.array(self._identity, np.uint64),
            "gate": self.gate.state(),
            **{f"row/{name}": array[:used] for name, array in self.detector.state().items()},
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> bool:
        """Take up what `state` returned if it is of this detector's shape; call it before the first batch."""
        mine = {name.removeprefix(f"{self.key}/"): a for name, a in arrays.items() if name.startswith(f"{self.key}/")}
        identity, gate = mine.get("identity"), mine.get("gate")
        own = self.detector.state()
        if identity is None or gate is None or self.rows_used or identity.ndim != 1 or identity.dtype != np.uint64:
            return False
        used = len(identity)
        rows = {name: mine.get(f"row/{name}") for name in own}
        self.detector.complete(rows, used)
        for name, array in rows.items():
            if array is None or array.shape != (used, *own[name].shape[1:]) or array.dtype != own[name].dtype:
                return False
            if not np.isfinite(array).all():
                return False
        if used > self.settings.series_max or gate.shape[1:] != (4,) or not np.isfinite(gate).all():
            return False
        self.detector.grow(used)
        own = self.detector.state()
        for name, array in rows.items():
            assert array is not None
            own[name][:used] = array
        self.rows_used = used
        self._identity = identity.tolist()
        self._unnumbered = {value: row for row, value in enumerate(self._identity)}
        self.gate.restore(gate[gate[:, 0] < used])
        return True


def build(settings: DetectorSettings) -> Detector:
    """Return the detector that the settings ask for."""
    if isinstance(settings, ZScoreSettings):
        return ZScore(warmup=settings.warmup, span=settings.span, scale_min=settings.scale_min)
    assert isinstance(settings, IqrSettings)
    return InterquartileRange(
        warmup=settings.warmup, window=settings.window, stride=settings.stride, scale_min=settings.scale_min
    )


def matcher(match: Match) -> Callable[[Series], bool]:
    """Return whether a series fits; a point's attribute hides its resource's of the same name.

    >>> from gateway.core.batch import Series
    >>> matcher(Match(metric="temp*"))(Series(resource=(), name="temperature"))
    True
    """
    is_named = name_matcher(match)
    wanted = {key: re.compile(translate(glob)) for key, glob in match.attributes.items()}

    def fits(series: Series) -> bool:
        if series.kind == "log" or not is_named(series.name, series.unit):
            return False
        has = dict(series.resource) | dict(series.attributes)
        return all(key in has and glob.match(_attribute(has[key])) for key, glob in wanted.items())

    return fits


def name_matcher(match: Match) -> Callable[[str, str], bool]:
    """Return whether a metric's name and unit fit.

    >>> name_matcher(Match(metric="temp*", unit="Cel"))("temperature", "Cel")
    True
    """
    metric, unit = re.compile(translate(match.metric)), re.compile(translate(match.unit))
    return lambda name, of: bool(metric.match(name) and unit.match(of))


def identify(series: Series) -> int:
    """Return 64 bits that stay the same for a series from run to run."""
    text = repr((series.resource, series.name, series.unit, series.kind, series.attributes, series.scope))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _names(settings: Sequence[DetectorSettings]) -> list[str]:
    """Return each detector's name: its own, or its type, numbered from the second on."""
    names: list[str] = []
    for one in settings:
        base = one.name or str(one.__struct_config__.tag)
        name, number = base, 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def _attribute(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else sentence(str(value), NAME_CHARS_MAX)


def _title(series: Series) -> str:
    attributes = (*series.attributes, *series.resource)[:ATTRIBUTES_SHOWN]
    shown = ", ".join(f"{key}={_attribute(value)}" for key, value in attributes)
    name = sentence(series.name, NAME_CHARS_MAX)
    return f"{name} of {shown}" if shown else name


def _as_rough(expected: float, value: float) -> float:
    """Return what was expected, to a hundredth of how far off the value is: more digits say nothing of it.

    >>> _as_rough(20.0371, 80.14), _as_rough(20.0371, 20.11), _as_rough(20.0371, math.inf)
    (20.0, 20.0371, 20.0371)
    """
    away = abs(value - expected)
    return round(expected, 2 - math.floor(math.log10(away))) if 0 < away < math.inf else expected


def _shown(value: float, unit: str) -> str:
    return f"{value:.6g} {sentence(unit, UNIT_CHARS_MAX)}".rstrip()
