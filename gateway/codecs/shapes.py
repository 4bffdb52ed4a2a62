"""JSON objects that look alike are decoded as one class: the fast path behind `fields`. Must not guess.

What a topic sent twice it will send again. The form of its objects (their keys, and which of them hold numbers or
text) becomes a class that takes nothing else: not a key more, not a text where a number was. A payload that the
class does not take, or of which it is not sure that a walk would find the same, is left to the walk in `leaves`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from gateway.codecs.device_time import Times, at_arrival, keep_sane, read_times
from gateway.codecs.mapping_settings import read_zone
from gateway.codecs.paths import ABSENT
from gateway.codecs.payloads import JSON_ERRORS, decode_any_json
from gateway.codecs.routing import Rows
from gateway.codecs.series_table import ROWS_FIRST, SeriesTable
from gateway.codecs.structs import compile_struct
from gateway.codecs.walking import NUMBERS, TIME_KEYS, leaf_name, own_time, sure_times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from gateway.codecs.columns import ValueReader
    from gateway.codecs.mapping_settings import TimeSettings
    from gateway.codecs.paths import Step
    from gateway.codecs.routing import Topic, Work
    from gateway.codecs.structs import Reader
    from gateway.core.contracts import Priority

SHAPES_MAX: Final = 16
LEAVES_MAX: Final = 64
BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 4
# The second payload of a topic is looked at, and if it was an odd one, two more.
LOOK_AT_FIRST: Final = 2
LOOKS_MAX: Final = 4
# Looking costs as much as mapping: so much of it in one go.
LOOKS_AT_ONCE_MAX: Final = 256

_NUMBER: Final = int | float | bool | None
_TEXT: Final = str | None
_NOWHERE: Final = -1


def form_of(document: Any) -> tuple[tuple[tuple[Step, ...], bool], ...] | None:
    """Return the paths of an object's values and whether each is a number, in order; None if there is more to it.

    >>> form_of({"temp": 20.5, "unit": "C"})
    ((('temp',), True), (('unit',), False))
    """
    leaves: list[tuple[tuple[Step, ...], bool]] = []
    if type(document) is not dict or not _list_leaves(document, (), leaves) or not leaves:
        return None
    names = {leaf_name(path) for path, _ in leaves}
    return tuple(sorted(leaves)) if len(names) == len(leaves) else None


def _list_leaves(document: dict[Any, Any], path: tuple[Step, ...], leaves: list[tuple[tuple[Step, ...], bool]]) -> bool:
    for key, value in document.items():
        inner = (*path, key)
        if type(value) is dict and value and len(inner) < DEPTH_MAX:
            if not _list_leaves(value, inner, leaves):
                return False
        elif (type(value) in NUMBERS or type(value) is str) and len(leaves) < LEAVES_MAX:
            leaves.append((inner, type(value) is not str))
        else:
            return False
    return True


@dataclass(slots=True)
class ShapeTime:
    """Where objects have their time: by the mapping's word, or (`settings` None) where it can only be one."""

    settings: TimeSettings | None
    name: str = ""

    def times(self, values: list[Any], work: Work) -> tuple[Times, npt.NDArray[np.bool_] | None]:
        """Return the times of objects, and which of them the walk must look at."""
        if self.settings is not None:
            zone = read_zone(self.settings.zone)
            return read_times(values, unit=self.settings.unit, moment=work.moment, zone=zone), None
        ns, is_sure = sure_times(values)
        return keep_sane(ns, is_sure, values, moment=work.moment), None if is_sure.all() else ~is_sure


class Shape:
    """One form, ready to decode. `resolve` makes a series of a topic and a leaf's name, brought by an owner."""

    def __init__(
        self,
        form: tuple[tuple[tuple[Step, ...], bool], ...],
        *,
        time: ShapeTime | None,
        reader_of: Callable[[str], ValueReader],
        resolve: Callable[[Topic, str, str], int | None],
        priority: Priority,
    ) -> None:
        types = {path: _NUMBER if is_number else _TEXT for path, is_number in form}
        compiled = compile_struct(list(types), types=types, is_strict=True)
        assert compiled is not None, "a form's leaves are values with keys"
        self._decode = msgspec.json.Decoder(compiled[0]).decode
        readers = {leaf_name(path): reader for path, reader in zip(types, compiled[1], strict=True)}
        self._time = time
        self._read_time: Reader | None = None if time is None else readers.get(time.name)
        self._names = [leaf_name(path) for path, is_number in form if is_number]
        self._names = [name for name in self._names if time is None or name != time.name]
        self._columns = [(readers[name], reader_of(name)) for name in self._names]
        self._priority = priority
        self.form = form
        self._topics: Rows[Topic] = Rows()
        self._resolve = resolve
        self._series = SeriesTable(len(self._names), resolve=self._resolve_one)

    def _resolve_one(self, number: int, row: int, owner: str) -> int | None:
        return self._resolve(self._topics[row], self._names[number], owner)

    def __len__(self) -> int:
        """Return how many topics have this form."""
        return len(self._topics)

    def add_topic(self, topic: Topic) -> int:
        """Take a topic; return its row."""
        row = self._topics.add(topic)
        self._series.cover(row)
        return row

    def drop_topics(self, rows: Sequence[int]) -> None:
        """Let go of topics."""
        self._topics.drop(rows)
        self._series.drop(rows)

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers."""
        self._series.forget_series(numbers)

    def map(self, work: Work) -> list[int]:
        """Map what has this form; return the indexes of the payloads that are left to the walk."""
        documents, kept, odd = self._decode_all(work)
        times, unsure = at_arrival(len(documents), work.moment), None
        if self._time is not None and documents:
            missing = [ABSENT] * len(documents)
            times, unsure = self._time.times(
                self._read_time(documents) if self._read_time is not None else missing, work
            )
        columns = [reader.read(read(documents)) for read, reader in self._columns] if unsure is None else []
        # What has no number at all is for the walk to judge.
        silent = np.ones(len(documents), np.bool_) if unsure is None else unsure
        for column in columns:
            silent[slice(None) if column.which is None else column.which] = False
            silent[[at for at, _, _ in column.problems]] = False
        if silent.any():
            odd += kept[silent].tolist()
        if unsure is not None:
            rest = self.map(work.take(kept[~unsure])) if not unsure.all() else []
            return odd + [int(kept[~unsure][k]) for k in rest]
        rows, positions = work.rows[kept], work.positions[kept]
        for number, column in enumerate(columns):
            self._series.hand_over(
                number, column, work, priority=self._priority, rows=rows, positions=positions, times=times
            )
        return odd

    def _decode_all(self, work: Work) -> tuple[list[Any], npt.NDArray[np.intp], list[int]]:
        """Return documents, the indexes of their payloads, and the indexes of those that are none of this form."""
        try:
            documents = list(map(self._decode, work.payloads))
            return documents, np.arange(len(documents)), []
        except JSON_ERRORS:
            documents = []
        kept: list[int] = []
        odd: list[int] = []
        for k, payload in enumerate(work.payloads):
            try:
                documents.append(self._decode(payload))
                kept.append(k)
            except JSON_ERRORS:
                odd.append(k)
        return documents, np.array(kept, np.intp), odd


class Shapes:
    """The shapes of a mapping's topics. `make` builds one for a form and an object that has it.

    `topics` are the mapping's, by row. A form that no topic has any more makes room for another.
    """

    def __init__(self, make: Callable[[Any, Any], Shape | None], *, topics: Callable[[int], Topic]) -> None:
        self._make = make
        self._topic = topics
        self._shapes: list[Shape] = []
        self._numbers: dict[Any, int] = {}
        # By topic: how often it was looked at, the number of its shape, and its row there.
        self._looks = np.zeros(ROWS_FIRST, np.int8)
        self._shape_of = np.full(ROWS_FIRST, _NOWHERE, np.intp)
        self._row_of = self._shape_of.copy()

    def cover(self, row: int) -> None:
        """Make room for a topic's row."""
        while row >= len(self._shape_of):
            more = np.full_like(self._shape_of, _NOWHERE)
            self._shape_of = np.concatenate([self._shape_of, more])
            self._row_of = np.concatenate([self._row_of, more])
            self._looks = np.concatenate([self._looks, np.zeros_like(self._looks)])

    def drop_topics(self, rows: Sequence[int]) -> None:
        """Let go of topics."""
        dropped = np.array(rows, np.intp)
        numbers = self._shape_of[dropped]
        for number in set(numbers.tolist()) - {_NOWHERE}:
            self._shapes[number].drop_topics(self._row_of[dropped[numbers == number]].tolist())
        self._shape_of[dropped] = _NOWHERE
        self._looks[dropped] = 0

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers."""
        for shape in self._shapes:
            shape.forget_series(numbers)

    def map(self, work: Work) -> Work | None:
        """Map what has a known shape; return what is left, None if nothing is."""
        if not self._shapes:
            self._look(work)
            return work
        numbers = self._shape_of[work.rows]
        left = np.flatnonzero(numbers == _NOWHERE).tolist()
        for number in set(numbers.tolist()) - {_NOWHERE}:
            index = np.flatnonzero(numbers == number)
            part = work.take(index) if len(index) < len(numbers) else work
            odd = self._shapes[number].map(replace(part, rows=self._row_of[part.rows]))
            left += index[odd].tolist()
        if not left:
            return None
        rest = work.take(np.array(sorted(left), np.intp))
        self._look(rest)
        return rest

    def _look(self, work: Work) -> None:
        """Look at payloads of topics that have no shape yet."""
        looks = 0
        for payload, row in zip(work.payloads, work.rows.tolist(), strict=True):
            if self._shape_of[row] != _NOWHERE or self._looks[row] >= LOOKS_MAX or looks == LOOKS_AT_ONCE_MAX:
                continue
            self._looks[row] += 1
            if self._looks[row] >= LOOK_AT_FIRST and payload[:1] == b"{" and len(payload) <= BYTES_MAX:
                looks += 1
                number = self._shape_number(payload)
                if number != _NOWHERE:
                    self._shape_of[row] = number
                    self._row_of[row] = self._shapes[number].add_topic(self._topic(row))

    def _shape_number(self, payload: bytes) -> int:
        try:
            document = decode_any_json(payload)
        except JSON_ERRORS:
            return _NOWHERE
        form = form_of(document)
        if form is None:
            return _NOWHERE
        number = self._numbers.get(form)
        if number is None:
            number = next((k for k, shape in enumerate(self._shapes) if not len(shape)), len(self._shapes))
            shape = self._make(form, document) if number < SHAPES_MAX else None
            if shape is None:
                return _NOWHERE
            if number == len(self._shapes):
                self._shapes.append(shape)
            else:
                del self._numbers[self._shapes[number].form]
                self._shapes[number] = shape
            self._numbers[form] = number
        return number


def own_shape_time(document: Any) -> ShapeTime | None:
    """Return where an object's own time is; raise ValueError where other objects of its form may differ in that."""
    candidates = [key for key in TIME_KEYS if key in document]
    if not candidates:
        return None
    name, _ = own_time(document)
    if len(candidates) > 1 or not name or isinstance(document[name], str):
        raise ValueError("the walk must look at each")
    return ShapeTime(None, name)
