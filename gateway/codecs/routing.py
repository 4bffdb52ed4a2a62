"""What the parts of mapping hand each other: topics that were looked up, work to do, and what came out of it.

Must not decode or map anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import numpy as np

from gateway.codecs.routes import Owners
from gateway.codecs.topics import Template
from gateway.core.batch import Batch, Series, distinct
from gateway.core.contracts import Lost, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from gateway.codecs.device_time import Moment, Times
    from gateway.codecs.mapping_settings import MappingSettings, MetricSettings
    from gateway.core.batch import Attributes, AttributeValue

    Resolve = Callable[[Series, str], int | None]

PRIORITIES: Final = {"critical": Priority.CRITICAL, "normal": Priority.NORMAL, "bulk": Priority.BULK}

NO_SERIES_LEFT: Final = "no series is left: max_series, series_bytes or its owner's share of them is reached"

# One payload can lose a hundred thousand readings, each with words of its own: nobody reads more of one reason.
SENTENCES_MAX: Final = 8
MORE_LOST: Final = "more is lost for the same reason"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic with what its mapping's pattern captured; `captures` has "topic" and "source" too."""

    text: str
    captures: Mapping[str, str]

    @property
    def last_level(self) -> str:
        """What a bare number is called."""
        return self.text.rsplit("/", 1)[-1] or self.text or "value"


class Output:
    """What one `map` makes: columns by priority and origin, and what is lost, `lost` readings in all.

    What is added is of `origin`, a number for the mapping that works just now, or 0.
    """

    def __init__(self) -> None:
        self.lost = self.origin = 0
        self._columns: dict[tuple[Priority, int], tuple[list[Any], list[Any], list[Any], list[Any]]] = {}
        # Readings by payload, reason and sentence, and how many sentences there are by payload and reason.
        self._lost: dict[tuple[int, str, str], int] = {}
        self._sentences: dict[tuple[int, str], int] = {}

    def lose(self, position: int, reason: str, sentence: str, readings: int = 1) -> None:
        """Note that readings of the payload at `position` of the arrivals are lost."""
        self.lost += readings
        key = (position, reason, sentence)
        if key not in self._lost:
            said = self._sentences.get(key[:2], 0)
            self._sentences[key[:2]] = said + 1
            if said >= SENTENCES_MAX:
                key = (position, reason, MORE_LOST)
        self._lost[key] = self._lost.get(key, 0) + readings

    @property
    def malformed(self) -> list[Lost]:
        """What is lost, in the order in which it was found: few entries for a payload, however much it loses."""
        return [Lost(*key, readings) for key, readings in self._lost.items()] if self._lost else []

    def add(
        self,
        priority: Priority,
        *,
        series: npt.NDArray[np.int64] | npt.NDArray[np.uint32],
        times: Times,
        bits: npt.NDArray[np.int64],
        kinds: int | npt.NDArray[np.uint8],
    ) -> None:
        """Take readings, all columns of one length (flags and kinds may be one for all)."""
        flags = times.flags | kinds
        columns = self._columns.get((priority, self.origin))
        if columns is None:
            columns = self._columns[priority, self.origin] = ([], [], [], [])
        columns[0].append(series)
        columns[1].append(times.ns)
        columns[2].append(bits)
        columns[3].append(flags)

    def pieces(self) -> list[tuple[Priority, Batch]]:
        """Return one batch for each priority and origin that has readings, most important first."""
        pieces: list[tuple[Priority, Batch]] = []
        for priority, origin in sorted(self._columns):
            all_series, all_times, all_bits, all_flags = self._columns[priority, origin]
            series, times, bits = map(_join, (all_series, all_times, all_bits))
            flags = _join_flags(all_flags, [len(part) for part in all_bits])
            if len(series):
                pieces.append((priority, Batch(series.astype(np.uint32, copy=False), times, bits, flags, origin)))
        return pieces


def _join(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _join_flags(parts: list[int | npt.NDArray[np.uint8]], counts: list[int]) -> npt.NDArray[np.uint8]:
    """Return flags of parts, some of them one for all of their readings, as one column."""
    if set(map(type, parts)) == {int} and len(set(parts)) == 1:
        return np.full(sum(counts), parts[0], np.uint8)
    return np.concatenate(
        [np.broadcast_to(np.asarray(part, np.uint8), count) for part, count in zip(parts, counts, strict=True)]
    )


@dataclass(slots=True)
class Work:
    """What one mapping has to do with one Arrivals.

    `positions[k]` is where `payloads[k]` stands in the arrivals, `rows[k]` the mapping's number for its topic.
    `owners` says by position who sent it: a new series is counted for whoever brings its first reading, not for who
    spoke first on the topic, since topics may be several people's.
    """

    payloads: Sequence[bytes]
    positions: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    moment: Moment
    owners: Owners = field(default_factory=lambda: Owners("", ()))
    output: Output = field(default_factory=Output)

    def take(self, index: npt.NDArray[np.intp]) -> Work:
        """Return the part of the work that is `payloads[k]` for each k in `index`."""
        payloads = [self.payloads[k] for k in index.tolist()]
        return Work(payloads, self.positions[index], self.rows[index], self.moment, self.owners, self.output)

    def lose(self, position: int, reason: str, sentence: str, *, readings: int = 1) -> None:
        """Note that readings of the payload at `position` of the arrivals are lost."""
        self.output.lose(position, reason, sentence, readings)

    def lose_each(self, positions: npt.NDArray[np.intp], reason: str, sentence: str) -> None:
        """Note that for each of `positions`, which may come again, a reading of its payload is lost."""
        ordered = np.sort(positions)
        found = distinct(ordered, is_ordered=True)
        counts = np.diff(np.searchsorted(ordered, found), append=len(ordered))
        for position, readings in zip(found.tolist(), counts.tolist(), strict=True):
            self.output.lose(position, reason, sentence, readings)


class Rows(Generic[_T]):
    """Things by small numbers, their rows. What is let go makes room for the next."""

    def __init__(self) -> None:
        self._things: list[_T | None] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._things) - len(self._free)

    def __getitem__(self, row: int) -> _T:
        thing = self._things[row]
        assert thing is not None, f"row {row} was let go"
        return thing

    def add(self, thing: _T) -> int:
        """Take a thing; return its row."""
        if self._free:
            row = self._free.pop()
            self._things[row] = thing
        else:
            row = len(self._things)
            self._things.append(thing)
        return row

    def drop(self, rows: Iterable[int]) -> None:
        """Let go of rows."""
        for row in rows:
            assert self._things[row] is not None, f"row {row} was let go before"
            self._things[row] = None
            self._free.append(row)

    def values(self) -> list[_T]:
        """Return all things."""
        return [thing for thing in self._things if thing is not None]


class Plan(Protocol):
    """A mapping that is ready to work."""

    def add_topic(self, topic: Topic) -> int:
        """Take a topic that is the mapping's; return its row. Raise MalformedError where nothing can come of it."""
        ...

    @property
    def row_bytes(self) -> int:
        """How much memory the plan's tables take for one topic."""
        ...

    def drop_topics(self, rows: Sequence[int]) -> None:
        """Let go of topics: their rows are given to others."""
        ...

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers, distinct and in order: whose series they were is asked for again."""
        ...

    def map(self, work: Work) -> None:
        """Turn the payloads into readings in `work.output`."""
        ...


class RefusingPlan:
    """Every message is lost for one reason; `sentence` says it of a topic."""

    def __init__(self, reason: str, sentence: Callable[[str], str]) -> None:
        self._reason = reason
        self._sentence = sentence
        self._topics: Rows[Topic] = Rows()
        self.row_bytes = 0

    def add_topic(self, topic: Topic) -> int:
        """Take a topic; return its row."""
        return self._topics.add(topic)

    def drop_topics(self, rows: Sequence[int]) -> None:
        """Let go of topics."""
        self._topics.drop(rows)

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Do nothing: there are none here."""

    def map(self, work: Work) -> None:
        """Lose every payload."""
        for position, row in zip(work.positions.tolist(), work.rows.tolist(), strict=True):
            work.lose(position, self._reason, self._sentence(self._topics[row].text))


class Naming:
    """Makes series for a mapping's topics."""

    def __init__(self, settings: MappingSettings, *, known: Sequence[str]) -> None:
        self._resource = _templates(settings.resource, known)
        self._attributes = _templates(settings.attributes, known)

    def series(self, topic: Topic, name: str, metric: MetricSettings | None = None) -> Series:
        """Return the series of the metric `name` of `topic`."""
        return Series(
            resource=_fill(self._resource, topic),
            name=name,
            unit="" if metric is None else metric.unit,
            kind="gauge" if metric is None else metric.kind,
            attributes=_fill(self._attributes, topic),
        )


def _templates(
    attributes: Mapping[str, AttributeValue], known: Sequence[str]
) -> list[tuple[str, Template | AttributeValue]]:
    return [
        (key, Template(value, known=known) if isinstance(value, str) else value)
        for key, value in sorted(attributes.items())
    ]


def _fill(parts: list[tuple[str, Template | AttributeValue]], topic: Topic) -> Attributes:
    return tuple((key, part.fill(topic.captures) if isinstance(part, Template) else part) for key, part in parts)
