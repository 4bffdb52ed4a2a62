"""A mapping that takes every number it finds: payloads to columns, metrics named by their paths. Must not decode.

| what stands there                                            | becomes                                             |
| ------------------------------------------------------------ | --------------------------------------------------- |
| a number, true or false                                      | a reading of the metric of its path: `a.b`, `a[0]`  |
| the payload itself, where it is one                          | a reading named by the topic's last level           |
| a list of numbers, where `time` has steps or a list of times | a reading for each, under the list's path           |
| another list                                                 | its elements, if they are at most `elements_max`    |
| text, null, bytes                                            | nothing                                             |

Where nothing is said about time and the payload's form either, a key `ts`, `timestamp` or `time` that can only
be a time is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import numpy as np

from gateway.codecs.arrays import Gatherer, count_values
from gateway.codecs.columns import BOOL, DOUBLE, EXACT_MAX, INT, ValueReader, fit_integer, pack_doubles
from gateway.codecs.device_time import read_times
from gateway.codecs.documents import Cutter
from gateway.codecs.mapping_settings import OWN_NAME, is_own_name
from gateway.codecs.paths import ABSENT, path_text, read_path
from gateway.codecs.payloads import shown
from gateway.codecs.routing import NO_SERIES_LEFT, PRIORITIES, Naming, Rows
from gateway.codecs.series_table import UNRESOLVED
from gateway.codecs.shapes import Shape, Shapes, ShapeTime, own_shape_time
from gateway.codecs.structs import is_plain_key
from gateway.codecs.timing import LISTS, Timing
from gateway.codecs.topics import Pattern
from gateway.codecs.walking import NULLS, NUMBERS, SILENT, Walk, leaf_name, own_time
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gateway.codecs.device_time import Times
    from gateway.codecs.documents import Cut
    from gateway.codecs.mapping_settings import MapLimits, MappingSettings
    from gateway.codecs.routing import Resolve, Topic, Work
    from gateway.core.contracts import Priority


# A leaf, its place in a dict, the head of its name, and its part of the name's reader.
LEAF_BYTES: Final = 256
# A row, its empty dict, and its places in the tables of shapes.
ROW_BYTES: Final = 256


@dataclass(slots=True)
class _Leaf:
    """A metric of a topic that its payloads named."""

    reader: ValueReader
    series: int


@dataclass(slots=True)
class _Row:
    """A topic and the leaves seen in it; `root_name` is that of a number that is not in an object."""

    topic: Topic
    root_name: str
    leaves: dict[str, _Leaf] = field(default_factory=dict)


class _Scalars:
    """Single values of one kind from many items; three parallel lists."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.leaves: list[_Leaf] = []
        self.items: list[int] = []

    def add(self, value: float, leaf: _Leaf, item: int) -> None:
        """Take one value of item number `item`."""
        self.values.append(value)
        self.leaves.append(leaf)
        self.items.append(item)


class LeavesPlan:
    """A mapping with `fields`, or with neither that nor `metrics`."""

    def __init__(self, settings: MappingSettings, *, resolve: Resolve, limits: MapLimits) -> None:
        self._limits = limits
        self._resolve = resolve
        self._priority: Priority = PRIORITIES[settings.class_]
        self._naming = Naming(settings, known=Pattern(settings.match).names)
        is_each = settings.each is not None
        self._timing = Timing(settings.time, is_each=is_each or settings.payload == "csv")
        self._base = read_path(settings.fields or "")
        self._has_own_time = settings.payload == "auto" and settings.time is None and not self._base
        paths = self._timing.item_paths if is_each else self._timing.paths
        inside = [path[len(self._base) :] for path in paths if path[: len(self._base)] == self._base]
        self._skip = frozenset(map(leaf_name, inside))
        self._cutter = Cutter(
            settings,
            limits=limits,
            item_paths=[self._base, *self._timing.item_paths],
            document_paths=self._timing.document_paths,
        )
        is_flat = not self._base and settings.each is None and settings.payload in {"auto", "json"}
        self._time = settings.time
        can_shape = is_flat and (settings.time is None or settings.time.field is not None)
        self._rows: Rows[_Row] = Rows()
        self._shapes = Shapes(self._make_shape, topics=lambda row: self._rows[row].topic) if can_shape else None
        self._readers: WeakValueDictionary[str, ValueReader] = WeakValueDictionary()
        self._leaves = 0
        self._leaves_bytes = 0
        self.row_bytes = ROW_BYTES

    def add_topic(self, topic: Topic) -> int:
        """Take a topic; return its row."""
        root_name = str(self._base[-1]) if self._base else topic.last_level
        row = self._rows.add(_Row(topic, root_name))
        if self._shapes is not None:
            self._shapes.cover(row)
        return row

    def drop_topics(self, rows: Sequence[int]) -> None:
        """Let go of topics."""
        for row in rows:
            self._drop_leaves(self._rows[row])
        self._rows.drop(rows)
        if self._shapes is not None:
            self._shapes.drop_topics(rows)

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers."""
        gone = frozenset(numbers.tolist())
        for row in self._rows.values():
            names = [name for name, leaf in row.leaves.items() if leaf.series in gone]
            for name in names:
                self._count_leaf(name, -1)
                del row.leaves[name]
        if self._shapes is not None:
            self._shapes.forget_series(numbers)

    def map(self, work: Work) -> None:
        """Turn the payloads into readings."""
        if self._leaves > self._limits.leaves_max or self._leaves_bytes > self._limits.leaves_bytes_max:
            self._forget_leaves()
        left = work if self._shapes is None else self._shapes.map(work)
        for cut in [] if left is None else self._cutter.cut(left):
            for part, is_array in self._timing.split(cut):
                if is_array:
                    self._map_arrays(part, work)
                else:
                    self._map_items(part, work)

    def _make_shape(self, form: Any, document: Any) -> Shape | None:
        """Return what maps objects of a form, None if they must be looked at each."""
        limits = self._limits
        if len(form) > limits.fields_per_payload_max or max(len(path) for path, _ in form) > limits.depth_max:
            return None
        # One name at a time: a long key in front of many would be many long names.
        if any(name_problem(leaf_name(path), letters_max=limits.name_length_max) for path, _ in form):
            return None
        if not all(is_plain_key(step) for path, _ in form for step in path):
            return None
        try:
            time = own_shape_time(document) if self._has_own_time else None
        except ValueError:
            return None
        if self._time is not None:
            time = ShapeTime(self._time, next(iter(self._skip)))
        return Shape(form, time=time, reader_of=self._reader_of, resolve=self._resolve_leaf, priority=self._priority)

    def _reader_of(self, name: str) -> ValueReader:
        return self._readers.setdefault(name, ValueReader(name))

    def _resolve_leaf(self, topic: Topic, name: str, owner: str) -> int | None:
        return self._resolve(self._naming.series(topic, name), owner)

    def _forget_leaves(self) -> None:
        """Let go of half of the leaves, of those topics that have most: one with ever new names begins with itself."""
        leaves, size_bytes = self._leaves // 2, self._leaves_bytes // 2
        for row in sorted(self._rows.values(), key=lambda row: -len(row.leaves)):
            if self._leaves <= leaves and self._leaves_bytes <= size_bytes:
                break
            self._drop_leaves(row)

    def _drop_leaves(self, row: _Row) -> None:
        for name in row.leaves:
            self._count_leaf(name, -1)
        row.leaves = {}

    def _count_leaf(self, name: str, count: int) -> None:
        self._leaves += count
        self._leaves_bytes += count * (LEAF_BYTES + len(name))

    def _map_items(self, cut: Cut, work: Work) -> None:
        """Map items that have one time for all their values."""
        times, keep = self._timing.item_times(cut, work)
        if keep is not None:
            cut = cut.keep_items(keep)
        bases = cut.item_readers[0](cut.items)
        skips = [self._skip] * len(bases)
        if self._has_own_time:
            own = [own_time(base) for base in bases]
            times = read_times([ns for _, ns in own], unit="ns", moment=work.moment, owners=cut.owners)
            skips = [frozenset({key}) if key else self._skip for key, _ in own]
        doubles, integers, bools = _Scalars(), _Scalars(), _Scalars()
        rows = [self._rows[row] for row in cut.item_rows.tolist()]
        positions = cut.item_positions.tolist()
        for k, base in enumerate(bases):
            found = _known_leaves(base, rows[k], skips[k], most=self._limits.fields_per_payload_max)
            if not found:
                found = self._leaves_of(base, rows[k], skips[k], positions[k], work, has_times=False)
            for leaf, value in found:
                kind = type(value)
                if kind is float:
                    leaf.reader.is_double = True
                    doubles.add(value, leaf, k)
                elif kind is bool:
                    bools.add(value, leaf, k)
                elif not leaf.reader.is_double and -EXACT_MAX <= value <= EXACT_MAX:
                    integers.add(value, leaf, k)
                else:
                    held = fit_integer(value, prefer_double=leaf.reader.is_double)
                    if held is None:
                        sentence = f"{leaf.reader.label} is {shown(value)}, too large for 64 bits"
                        work.lose(positions[k], "out_of_range", sentence)
                    else:
                        (doubles if type(held) is float else integers).add(held, leaf, k)
        self._add_doubles(doubles, times, positions, work)
        for scalars, kind_of_all in ((integers, INT), (bools, BOOL)):
            self._add(scalars, np.array(scalars.values, np.int64), kind_of_all, times, work)

    def _add_doubles(self, scalars: _Scalars, times: Times, positions: list[int], work: Work) -> None:
        values = pack_doubles(scalars.values)
        assert values is not None, "a double fits a double"
        finite = np.isfinite(values)
        if not finite.all():
            for at in np.flatnonzero(~finite).tolist():
                sentence = f"{scalars.leaves[at].reader.label} is not a finite number"
                work.lose(positions[scalars.items[at]], "not_finite", sentence)
            kept = np.flatnonzero(finite).tolist()
            scalars.leaves = [scalars.leaves[at] for at in kept]
            scalars.items = [scalars.items[at] for at in kept]
            values = values[finite]
        self._add(scalars, values.view(np.int64), DOUBLE, times, work)

    def _add(self, scalars: _Scalars, bits: Any, kind: int, times: Times, work: Work) -> None:
        if len(bits):
            series = np.array([leaf.series for leaf in scalars.leaves], np.int64)
            taken = times.take(np.array(scalars.items, np.intp))
            work.output.add(self._priority, series=series, times=taken, bits=bits, kinds=kind)

    def _map_arrays(self, cut: Cut, work: Work) -> None:
        """Map documents in which lists have a time for each of their values."""
        clock = self._timing.array_times(cut, work.moment)
        gatherer = Gatherer()
        rows, positions = cut.rows.tolist(), cut.positions.tolist()
        most = self._limits.readings_per_payload_max
        for k, base in enumerate(cut.item_readers[0](cut.items)):
            leaves = self._leaves_of(base, self._rows[rows[k]], self._skip, positions[k], work, has_times=True)
            for leaf, value in leaves:
                try:
                    count = count_values(value, label=leaf.reader.label, most=most)
                    times = clock.of(k, count, leaf.reader.label)
                except MalformedError as error:
                    work.lose(positions[k], error.reason, str(error))
                else:
                    gatherer.add(leaf.reader, value, series=leaf.series, times=times, position=positions[k])
        gatherer.finish(work.output, self._priority)

    def _leaves_of(
        self, base: Any, row: _Row, skip: frozenset[str], position: int, work: Work, *, has_times: bool
    ) -> list[tuple[_Leaf, Any]]:
        """Return the numbers of one item with their leaves; what should be a number and is none is lost."""
        if type(base) in NULLS:
            return []
        before = work.output.lost
        found: list[tuple[_Leaf, Any]] = []
        most = self._limits.fields_per_payload_max
        numbers = 0

        def lose(reason: str, sentence: str) -> None:
            work.lose(position, reason, sentence)

        walk = Walk(self._limits, skip, has_times, lose)
        try:
            for name, value in walk.numbers(base, row.root_name):
                numbers += 1
                if numbers > most:
                    lose("too_many_fields", f"the payload has more than {most} numbers")
                    break
                leaf = row.leaves.get(name) or self._new_leaf(row, name, position, work)
                if leaf is None:
                    continue
                if leaf.series == UNRESOLVED:
                    readings = len(value) if type(value) in LISTS else 1
                    work.lose(position, "max_series", NO_SERIES_LEFT, readings=readings)
                else:
                    found.append((leaf, value))
        except MalformedError as error:
            work.lose(position, error.reason, str(error))
        if not numbers and work.output.lost == before and not walk.has_seen_null:
            work.lose(position, "no_readings", self._nothing_found(base))
        return found

    def _new_leaf(self, row: _Row, name: str, position: int, work: Work) -> _Leaf | None:
        """Return the leaf of a name, UNRESOLVED if the store has no series left, None if no metric can have it."""
        wrong = name_problem(name, letters_max=self._limits.name_length_max)
        if wrong:
            work.lose(position, "bad_name", wrong)
            return None
        number = self._resolve_leaf(row.topic, name, work.owners.of(position))
        if number is None:
            return _Leaf(ValueReader(name), UNRESOLVED)
        self._count_leaf(name, 1)
        leaf = row.leaves[name] = _Leaf(self._reader_of(name), number)
        return leaf

    def _nothing_found(self, base: Any) -> str:
        if base is ABSENT:
            return f"the payload has nothing at {path_text(self._base)}"
        return "there is no number in the payload" + (f" at {path_text(self._base)}" if self._base else "")


def _known_leaves(base: Any, row: _Row, skip: frozenset[str], *, most: int) -> list[tuple[_Leaf, Any]]:
    """Return the numbers of an item whose every number has been seen before; empty if there is more to it."""
    leaves = row.leaves
    found: list[tuple[_Leaf, Any]] = []
    if type(base) in NUMBERS:
        leaf = leaves.get(row.root_name)
        return found if leaf is None else [(leaf, base)]
    if type(base) is not dict or len(base) > most:
        return found
    for key, value in base.items():
        kind = type(value)
        if kind in NUMBERS and key not in skip:
            leaf = leaves.get(key)
            if leaf is None:
                return []
            found.append((leaf, value))
        elif kind not in SILENT and kind not in NUMBERS:
            return []
    return found


def name_problem(name: str, *, letters_max: int) -> str:
    """Say what keeps `name` from being a metric's name, "" if nothing does.

    >>> name_problem("a.b", letters_max=9), name_problem("", letters_max=9)
    ('', 'the name of a metric is empty')
    """
    if not name:
        return "the name of a metric is empty"
    if is_own_name(name):
        return f"{shown(name)} is no metric of a device: {OWN_NAME}"
    if len(name) > letters_max:
        return f"the name of a metric is longer than {letters_max} letters: {shown(name)}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"the name of a metric is not UTF-8: {name[:60]!a}"
    return ""
