"""What becomes of one message, in words for people, and whether a mapping's examples are right. Must not map itself.

An explanation is what a mapper made of the message, a fresh one with the same settings; so it can neither differ
from what would really happen nor change what happens next.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.codecs.payloads import detect_format
from gateway.codecs.topics import topic_problem
from gateway.core.batch import DEVICE_TIME_REJECTED, KIND_MASK, MONOTONIC, ValueKind
from gateway.core.contracts import Arrivals, Priority
from gateway.core.text import printable
from gateway.core.words import plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.codecs.mapping import Mapped, Mapper
    from gateway.codecs.mapping_settings import ExampleSettings, MappingSettings
    from gateway.core.batch import Attributes, Batch, Series
    from gateway.core.contracts import Lost

READINGS_SHOWN: Final = 32
PROBLEMS_SHOWN: Final = 16
LINE_CHARS_MAX: Final = 4096
DROPPED: Final = "dropped  on purpose: this mapping says drop = true; the ledger counts it as dropped_by_mapping"
# A buffer that an explanation pretends to arrive in.
ARRIVED_NS: Final = 1 << 60

# Digits of a second, and the nanoseconds that the last of them counts.
_DIGITS: Final = ((0, 1_000_000_000), (3, 1_000_000), (6, 1000), (9, 1))
_TYPES: Final = {ValueKind.DOUBLE: "double", ValueKind.INT: "int", ValueKind.BOOL: "bool"}


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """One reading for people. `time` is ISO 8601 in UTC, "" where no clock is known; `time_from` says whose."""

    metric: str
    value: float | int | bool
    unit: str
    type: str
    time: str
    time_from: str
    resource: Attributes
    attributes: Attributes
    class_: str


@dataclass(slots=True)
class Explanation:
    """What becomes of a message.

    `mapping` is (index, match) of the one that takes it, None if none does; `tried` are the ones before it with
    what kept them from it; `problems` are sentences, each about something that is lost. `is_dropped` is true of a
    message that the mapping throws away as it is told to, which is no problem.
    """

    topic: str
    format: str
    mapping: tuple[int, str] | None = None
    tried: list[tuple[str, str]] = field(default_factory=list)
    readings: list[ReadingRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_dropped: bool = False

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """Return the explanation as lines of text, in which topics and payloads cannot begin lines of their own."""
        lines = [f"topic    {self.topic}", f"payload  {self.format}"]
        lines += [f"skipped  {match}: {why}" for match, why in self.tried]
        if self.mapping is not None:
            lines.append(f"taken by mappings[{self.mapping[0]}], match = {self.mapping[1]!r}")
        lines += [DROPPED] if self.is_dropped else render_readings(self.readings)
        lines += [f"problem  {problem}" for problem in self.problems[:PROBLEMS_SHOWN]]
        if len(self.problems) > PROBLEMS_SHOWN:
            lines.append(f"problem  … and {len(self.problems) - PROBLEMS_SHOWN} more")
        return "\n".join(printable(line, LINE_CHARS_MAX) for line in lines)


def render_readings(readings: Sequence[ReadingRow]) -> list[str]:
    """Return lines about readings, the first READINGS_SHOWN of them."""
    lines: list[str] = []
    shared: tuple[Any, ...] = ()
    for row in readings[:READINGS_SHOWN]:
        if (row.resource, row.attributes, row.class_) != shared:
            shared = (row.resource, row.attributes, row.class_)
            pairs = ", ".join(f"{key}={value}" for key, value in (*row.resource, *row.attributes))
            lines.append(f"for      {pairs or 'no attributes'}; class {row.class_}")
        unit = f" {row.unit}" if row.unit else ""
        value = str(row.value).lower() if isinstance(row.value, bool) else repr(row.value)
        when = f"{row.time}, {row.time_from}" if row.time else row.time_from
        lines.append(f"reading  {row.metric} = {value}{unit} ({row.type}) at {when}")
    if len(readings) > READINGS_SHOWN:
        lines.append(f"reading  … and {len(readings) - READINGS_SHOWN} more")
    return lines or ["reading  none"]


def explain(mapper: Mapper, topic: str, payload: bytes, *, wall_ns: int | None, source: str | None) -> Explanation:
    """Return what becomes of one message in a mapper like `mapper`."""
    problem = topic_problem(topic)
    if problem:
        return Explanation(topic, _describe(payload, None), problems=[problem])
    number, tried = mapper.find(topic, source)
    taken = None if number is None else mapper.mappings[number]
    found = Explanation(
        topic,
        _describe(payload, taken),
        None if number is None or taken is None else (number, taken.match),
        [(mapper.mappings[before].match, why) for before, why in tried],
    )
    if taken is not None and taken.drop:
        found.is_dropped = True
        return found
    asked = source if source is not None or taken is None else taken.source
    mapped, series = _map_alone(mapper, topic, payload, wall_ns=wall_ns, source=asked or "any source")
    for priority, batch in mapped.pieces:
        found.readings += rows_of(batch, series, taken, priority, wall_ns=wall_ns)
    found.problems = list(map(problem_text, mapped.malformed))
    return found


def problem_text(lost: Lost) -> str:
    """Return the sentence about what is lost, with how often it is true of one payload."""
    return lost.sentence if lost.readings == 1 else f"{lost.sentence} ({lost.readings} times)"


def _map_alone(
    mapper: Mapper, topic: str, payload: bytes, *, wall_ns: int | None, source: str
) -> tuple[Mapped, list[Series]]:
    """Map one message in a fresh mapper; return what came out and its series by number."""
    series: list[Series] = []

    def resolve(one: Series, _: str) -> int:
        series.append(one)
        return len(series) - 1

    fresh = type(mapper)(mapper.mappings, resolve=resolve, limits=mapper.limits)
    arrivals = Arrivals(source, [topic.encode(errors="surrogateescape")], [payload], ARRIVED_NS)
    return fresh.map(arrivals, wall_ns=wall_ns), series


def _describe(payload: bytes, taken: MappingSettings | None) -> str:
    found = detect_format(payload) if payload else "nothing"
    wanted = "auto" if taken is None else taken.payload
    said = f"{found}, by its first byte" if wanted == "auto" else f"{wanted}, as the mapping says"
    return f"{plural(len(payload), 'byte')} of {said}" if payload else "empty"


def rows_of(
    batch: Batch,
    series: Sequence[Series] | Mapping[int, Series],
    taken: MappingSettings | None,
    priority: Priority,
    *,
    wall_ns: int | None,
    arrived_ns: int = ARRIVED_NS,
) -> list[ReadingRow]:
    """Return readings for people. `wall_ns` is the Unix time of `arrived_ns`, the moment of arrival, if known."""
    rows: list[ReadingRow] = []
    doubles = batch.bits.view(np.float64)
    for k in range(len(batch)):
        about, flags = series[int(batch.series[k])], int(batch.flags[k])
        kind = ValueKind(flags & KIND_MASK)
        value = float(doubles[k]) if kind is ValueKind.DOUBLE else int(batch.bits[k])
        ns: int | None = int(batch.time_ns[k])
        if flags & MONOTONIC:
            ns = None if wall_ns is None or ns is None else wall_ns + ns - arrived_ns
        rows.append(
            ReadingRow(
                about.name,
                bool(value) if kind is ValueKind.BOOL else value,
                about.unit,
                _TYPES[kind],
                "" if ns is None else iso_text(ns),
                _time_from(flags, taken),
                about.resource,
                about.attributes,
                priority.name.lower(),
            )
        )
    return rows


def _time_from(flags: int, taken: MappingSettings | None) -> str:
    time = None if taken is None else taken.time
    if flags & DEVICE_TIME_REJECTED:
        return "time of arrival, because the device's own is not believed"
    if time is not None and time.ticks is not None:
        return f"arrival less the age that {time.ticks} and {time.now} tell"
    if flags & MONOTONIC:
        return "time of arrival"
    if time is None:
        return "from the payload"
    said = f"{time.start} and {time.step}" if time.step is not None else time.field
    zone = f", {time.zone} where it names no zone" if time.unit == "iso8601" else ""
    return f"from {said} ({time.unit}{zone})"


def iso_text(ns: int) -> str:
    """Return Unix ns as ISO 8601 in UTC, with as many digits as there are.

    >>> iso_text(1700000000123000000), iso_text(1700000000000000001)
    ('2023-11-14T22:13:20.123Z', '2023-11-14T22:13:20.000000001Z')
    """
    seconds, below = divmod(ns, 1_000_000_000)
    text = (dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)).isoformat()  # noqa: DTZ001  UTC by its Z
    digits = next(digits for digits, step in _DIGITS if below % step == 0)
    return f"{text}.{below // 10 ** (9 - digits):0{digits}d}Z" if digits else f"{text}Z"


def check_examples(mapper: Mapper) -> list[str]:
    """Return sentences about the examples that do not give what they say, each with its path."""
    problems: list[str] = []
    for number, mapping in enumerate(mapper.mappings):
        for index, example in enumerate(mapping.examples):
            path = f"mappings[{number}].examples[{index}]"
            problems += [f"{path}: {problem}" for problem in check_example(mapper, number, example)]
    return problems


def check_example(mapper: Mapper, number: int, example: ExampleSettings) -> list[str]:
    """Return sentences about what mapping `number` makes of an example, other than the example says."""
    mapping = mapper.mappings[number]
    problem = topic_problem(example.topic)
    if problem:
        return [problem]
    takes, tried = mapper.find(example.topic, mapping.source)
    if takes != number:
        why = dict(tried).get(number)
        if why is not None:
            return [f"the topic {example.topic!r} does not match {mapping.match!r}: {why}"]
        return [f"mappings[{takes}] takes the topic {example.topic!r} first; put this mapping before it"]
    mapped, series = _map_alone(
        mapper, example.topic, example.data, wall_ns=None, source=mapping.source or "any source"
    )
    got: dict[str, list[Any]] = {}
    for priority, batch in mapped.pieces:
        for row in rows_of(batch, series, mapping, priority, wall_ns=None):
            got.setdefault(row.metric, []).append(row.value)
    problems = [_compare(name, wanted, got.pop(name, [])) for name, wanted in example.gives.items()]
    problems += [f"{name} is {_text(values)} and not in gives" for name, values in got.items()]
    if not mapping.drop:
        problems += map(problem_text, mapped.malformed)
    return [problem for problem in problems if problem]


def _compare(name: str, wanted: Any, got: list[Any]) -> str:
    """Say what is wrong with one metric, "" if nothing is."""
    expected = list(wanted) if isinstance(wanted, tuple | list) else [wanted]
    if len(expected) == len(got) and all(_is_same(one, other) for one, other in zip(expected, got, strict=True)):
        return ""
    return f"{name} should be {_text(expected)}, is {_text(got)}"


def _is_same(wanted: Any, got: Any) -> bool:
    """Whether a value is what was wanted: 40 and 40.0 are, true and 1 are not."""
    return isinstance(wanted, bool) == isinstance(got, bool) and bool(wanted == got)


def _text(values: list[Any]) -> str:
    if not values:
        return "missing"
    texts = [str(value).lower() if isinstance(value, bool) else repr(value) for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
