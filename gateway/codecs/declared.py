"""A mapping whose metrics are listed: payloads to columns. The fast path of the gateway; must not decode anything.

Values of one metric out of all payloads are one list, then one numpy column; series are looked up by a table
`series[metric][row]`, so a buffer with a thousand different topics costs as many numpy calls as one with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.codecs.arrays import Gatherer, count_values
from gateway.codecs.columns import ValueReader
from gateway.codecs.documents import Cutter
from gateway.codecs.mapping_settings import OWN_NAME, MetricSettings, is_own_name
from gateway.codecs.paths import ABSENT, path_text, read_path
from gateway.codecs.routing import NO_SERIES_LEFT, PRIORITIES, Naming, Rows
from gateway.codecs.series_table import UNRESOLVED, SeriesTable
from gateway.codecs.timing import Timing
from gateway.codecs.topics import Pattern, Template
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from gateway.codecs.documents import Cut
    from gateway.codecs.mapping_settings import MapLimits, MappingSettings
    from gateway.codecs.routing import Resolve, Topic, Work

NAMES_SHOWN: Final = 8


class DeclaredPlan:
    """A mapping with `metrics`, or a text's one value."""

    def __init__(self, settings: MappingSettings, *, resolve: Resolve, limits: MapLimits) -> None:
        names = Pattern(settings.match).names
        self._resolve = resolve
        self._priority = PRIORITIES[settings.class_]
        self._naming = Naming(settings, known=names)
        self._limits = limits
        # A text is its one value, which needs no name but the topic's; it has no paths either.
        is_text = settings.payload == "text"
        self._metrics = settings.metrics or (MetricSettings(),)
        paths = [() if is_text else read_path(metric.field) for metric in self._metrics]
        self._names = [Template(metric.name, known=names) for metric in self._metrics]
        self._labels = [path_text(path) for path in paths]
        # Those that a topic has a say in.
        self._named_by_topic = [
            k
            for k, (name, label) in enumerate(zip(self._names, self._labels, strict=True))
            if name.names or not (name.text or label)
        ]
        self._readers = [
            ValueReader(label or metric.name or "the value", type=metric.type, scale=metric.scale, offset=metric.offset)
            for metric, label in zip(self._metrics, self._labels, strict=True)
        ]
        self._timing = Timing(settings.time, is_each=settings.each is not None or settings.payload == "csv")
        self._cutter = Cutter(
            settings,
            limits=limits,
            item_paths=[*paths, *self._timing.item_paths],
            document_paths=self._timing.document_paths,
        )
        self._topics: Rows[Topic] = Rows()
        self._nothing_found = _nothing_found([reader.label for reader in self._readers])
        self._series = SeriesTable(len(paths), resolve=self._resolve_one)

    def _resolve_one(self, number: int, row: int, owner: str) -> int | None:
        topic = self._topics[row]
        return self._resolve(self._naming.series(topic, self._name(number, topic), self._metrics[number]), owner)

    def _name(self, number: int, topic: Topic) -> str:
        return self._names[number].fill(topic.captures) or self._labels[number] or topic.last_level

    def add_topic(self, topic: Topic) -> int:
        """Take a topic; return its row. Raise MalformedError for one that makes a metric's name the gateway's own."""
        if any(is_own_name(self._name(number, topic)) for number in self._named_by_topic):
            raise MalformedError("bad_name", OWN_NAME)
        row = self._topics.add(topic)
        self._series.cover(row)
        return row

    @property
    def row_bytes(self) -> int:
        """How much memory the table of series takes for one topic."""
        return self._series.row_bytes

    def drop_topics(self, rows: Sequence[int]) -> None:
        """Let go of topics."""
        self._topics.drop(rows)
        self._series.drop(rows)

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers."""
        self._series.forget_series(numbers)

    def map(self, work: Work) -> None:
        """Turn the payloads into readings."""
        for cut in self._cutter.cut(work):
            for part, is_array in self._timing.split(cut):
                if is_array:
                    self._map_arrays(part, work)
                else:
                    self._map_items(part, work)

    def _map_items(self, cut: Cut, work: Work) -> None:
        """Map items that have one time and one value for each metric."""
        times, keep = self._timing.item_times(cut, work)
        if keep is not None:
            cut = cut.keep_items(keep)
        rows, positions = cut.item_rows, cut.item_positions
        missing: set[int] | None = None
        for number, reader in enumerate(self._readers):
            column = reader.read(cut.item_readers[number](cut.items))
            missing = set(column.absent) if missing is None else missing and missing.intersection(column.absent)
            self._series.hand_over(
                number, column, work, priority=self._priority, rows=rows, positions=positions, times=times
            )
        if missing:
            work.lose_each(positions[sorted(missing)], "no_readings", self._nothing_found)

    def _map_arrays(self, cut: Cut, work: Work) -> None:
        """Map documents in which a metric is an array, with a time for each of its values."""
        clock = self._timing.array_times(cut, work.moment)
        gatherer = Gatherer()
        columns = [read(cut.items) for read in cut.item_readers[: len(self._readers)]]
        rows, positions = cut.rows.tolist(), cut.positions.tolist()
        for k, position in enumerate(positions):
            found = 0
            for number, reader in enumerate(self._readers):
                value = columns[number][k]
                found += value is not ABSENT
                if value is None or value is ABSENT:
                    continue
                try:
                    count = count_values(value, label=reader.label, most=self._limits.readings_per_payload_max)
                    times = clock.of(k, count, reader.label)
                except MalformedError as error:
                    work.lose(position, error.reason, str(error))
                    continue
                series = self._series.one(number, rows[k], position=position, owners=work.owners)
                if series == UNRESOLVED:
                    work.lose(position, "max_series", NO_SERIES_LEFT, readings=len(times.ns))
                    continue
                gatherer.add(reader, value, series=series, times=times, position=position)
            if not found:
                work.lose(position, "no_readings", self._nothing_found)
        gatherer.finish(work.output, self._priority)


def _nothing_found(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"the payload has nothing at {', '.join(names[:NAMES_SHOWN])}{more}"
