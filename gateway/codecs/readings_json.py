"""Readings as JSON, a message of its own for each, with its topic; made in columns, some bytes for all. Does no I/O.

    {"value":20.5,"ts":1790000000000,"unit":"Cel"}

| key          | is                                                                                     |
| ------------ | -------------------------------------------------------------------------------------- |
| `value`      | a number, true or false; what is no number in JSON as text: "NaN", "Infinity"           |
| `ts`         | Unix time in whole units                                                               |
| `metric`     | its name, where the topic does not have it                                             |
| `unit`       | its unit, where it has one; `kind` is "sum" where it only counts up                    |
| `attributes` | those of the point; `resource` those of who it is of, as far as they are not in the topic |
| `backfill`, `diluted`, `time_quality`, `time_rejected` | marks, where there are some: see `otlp.Marks` |

What is the same for all readings of a series is written once and copied, so that a reading costs the digits of its
time and value, and the moving of its bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from gateway.codecs.otlp import merge_resource
from gateway.core.batch import KIND_MASK, Batch, ValueKind
from gateway.core.ragged import gather, starts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import Attributes, AttributeValue, Series
    from gateway.core.ragged import Numbers, Text

# What has a shorter name in a topic.
METRIC: Final = "metric"
SHORT_NAMES: Final = {"device": "device.id", "gateway": "tidegate.gateway.id"}
# What is remembered of series, in number and in bytes.
PLANS_MAX: Final = 4096
PLANS_BYTES_MAX: Final = 2 * 1024 * 1024
PLAN_BYTES: Final = 300
# A packet's head and id, and its answer in a packet of its own.
MESSAGE_BYTES: Final = 64

_VALUE: Final = b'{"value":'
_TIME: Final = b',"ts":'
_COMMA: Final = ord(",")
_HOLE: Final = re.compile(r"\{([^{}]*)\}")
# What means something in a topic, and controls and noncharacters, which brokers may refuse (MQTT 5.0, 1.5.4).
_ODD: Final = re.compile(r"[%/+#\0-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


class Messages(bytes):
    """Payloads of many messages, one behind the other: message k ends at `ends[k]`.

    Message k has the topic `topics[t]` where `topic_of[k]` is t, and is about reading k of `groups`. Beside them
    `overhead_bytes` go over the wire, with topics and the packets of their answers.
    """

    ends: Numbers
    topics: list[bytes]
    topic_of: Numbers
    groups: Sequence[tuple[Batch, Marks]]
    overhead_bytes: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is always the same when a reading of a series is written."""

    topic: bytes
    tail: bytes


class ReadingsEncoder:
    """Writes batches as messages. For one thread.

    `template` is a topic with names in braces: see `level`, and `level_of` where topics are not MQTT's.
    `time_unit_ns` is what `ts` counts.
    """

    def __init__(
        self,
        template: str,
        *,
        time_unit_ns: int,
        series: Callable[[int], Series],
        gateway_attributes: Attributes,
        level_of: Callable[[AttributeValue], str] | None = None,
    ) -> None:
        self._template = template
        self._level_of = level_of
        self._names = frozenset(_HOLE.findall(template))
        self._time_unit_ns = time_unit_ns
        self._series = series
        self._gateway_attributes = gateway_attributes
        self._plans: dict[int, _Plan] = {}
        self._plans_bytes = 0

    def encode(self, groups: Sequence[tuple[Batch, Marks]]) -> Messages:
        """Return a message for each reading of `groups`, in their order; times before 1970 are written as 0."""
        groups = [(batch, marks) for batch, marks in groups if len(batch)]
        topics: list[bytes] = []
        tails: list[bytes] = []
        counts: list[Numbers] = []
        for batch, marks in groups:
            starts = batch.run_starts()
            end = _marks(marks)
            for number in batch.series[starts].tolist():
                plan = self._plans.get(number) or self._plan(number)
                topics.append(plan.topic)
                tails.append(plan.tail + end)
            counts.append(np.diff(starts, append=len(batch)))
        whole = Batch.join([batch for batch, _ in groups])
        run_of = np.repeat(np.arange(len(tails)), np.concatenate(counts)) if counts else np.empty(0, np.int64)
        tail_lengths = np.fromiter(map(len, tails), np.int64, len(tails))
        times, time_starts, time_lengths = _digits((np.maximum(whole.time_ns, 0) // self._time_unit_ns).tolist())
        values, value_starts, value_lengths = _values(whole)
        places = starts_of(np.array([len(_VALUE), len(_TIME), len(values), len(times)]))
        source = np.frombuffer(b"".join((_VALUE, _TIME, values, times, *tails)), np.uint8)
        tails_at = int(places[-1]) + len(times)
        shape = np.ones(len(whole), np.int64)
        columns = [
            (0 * shape, len(_VALUE) * shape),
            (value_starts + places[2], value_lengths),
            (places[1] * shape, len(_TIME) * shape),
            (time_starts + places[3], time_lengths),
            (starts_of(tail_lengths)[run_of] + tails_at, tail_lengths[run_of]),
        ]
        messages = Messages(b"".join(gather(source, [at for at, _ in columns], [size for _, size in columns])))
        messages.ends = np.cumsum(sum(size for _, size in columns))
        messages.topics = topics
        messages.topic_of = run_of
        messages.groups = groups
        topic_lengths = np.fromiter(map(len, topics), np.int64, len(topics))
        messages.overhead_bytes = int(topic_lengths[run_of].sum()) + MESSAGE_BYTES * len(whole)
        return messages

    def _plan(self, number: int) -> _Plan:
        if len(self._plans) >= PLANS_MAX or self._plans_bytes >= PLANS_BYTES_MAX:
            self._plans.clear()
            self._plans_bytes = 0
        series = self._series(number)
        topic = topic_of(self._template, series, self._gateway_attributes, level_of=self._level_of)
        said: dict[str, object] = {}
        if METRIC not in self._names:
            said[METRIC] = _text(series.name)
        if series.unit:
            said["unit"] = _text(series.unit)
        if series.kind == "sum":
            said["kind"] = "sum"
        in_topic = {SHORT_NAMES.get(name, name) for name in self._names if name != METRIC}
        for key, attributes in (("attributes", series.attributes), ("resource", series.resource)):
            rest = {_text(name): _value(value) for name, value in attributes if name not in in_topic}
            if rest:
                said[key] = rest
        plan = self._plans[number] = _Plan(topic, b"".join(b",%b" % part for part in _members(said)))
        self._plans_bytes += PLAN_BYTES + len(plan.topic) + len(plan.tail)
        return plan


def topic_of(
    template: str,
    series: Series,
    gateway_attributes: Attributes,
    *,
    level_of: Callable[[AttributeValue], str] | None = None,
) -> bytes:
    """Return the topic of a series' readings: its names replaced by what is the series' own, "-" where it has none.

    >>> from gateway.core.batch import Series
    >>> topic_of("site/{device}/{metric}/{room}", Series((("device.id", "a/b"),), "temp"), ())
    b'site/a%2Fb/temp/-'
    """
    known = {**dict(merge_resource(series.resource, gateway_attributes)), **dict(series.attributes)}
    known |= {name: known.get(key, "") for name, key in SHORT_NAMES.items()} | {METRIC: series.name}
    write = level if level_of is None else level_of
    topic = _HOLE.sub(lambda hole: write(known.get(hole[1], "")), template)
    return (f"%24{topic[1:]}" if topic.startswith("$") else topic).encode("utf-8", "replace")


def level(value: AttributeValue) -> str:
    """Return a value as a level of a topic; two that differ stay different.

    >>> level("1.5 °C"), level("a/+#%"), level(True), level(""), level("-")
    ('1.5 °C', 'a%2F%2B%23%25', 'true', '-', '%2D')
    """
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    if text in {"", "-"}:
        return "%2D" if text else "-"
    return _ODD.sub(lambda odd: "".join(f"%{byte:02X}" for byte in odd[0].encode()), text)


def _members(said: dict[str, object]) -> list[bytes]:
    return [msgspec.json.encode(key) + b":" + msgspec.json.encode(value) for key, value in said.items()]


def _marks(marks: Marks) -> bytes:
    """Return the end of a payload."""
    said: dict[str, object] = {}
    if marks.backfill:
        said["backfill"] = True
    if marks.diluted_s:
        said["diluted"] = marks.diluted_s
    if marks.time_quality:
        said["time_quality"] = marks.time_quality
    if marks.time_rejected:
        said["time_rejected"] = True
    return b"".join([*(b",%b" % part for part in _members(said)), b"}"])


def _values(batch: Batch) -> tuple[bytes, Numbers, Numbers]:
    """Return the JSON of all values, and where each stands in it."""
    kinds = batch.flags & KIND_MASK
    starts, lengths = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
    texts: list[bytes] = []
    at = 0
    for kind in ValueKind:
        chosen = kinds == kind
        if not chosen.any():
            continue
        bits = batch.bits[chosen]
        if kind is ValueKind.DOUBLE:
            numbers: list[object] = list(_doubles(bits.view(np.float64)))
        else:
            numbers = (bits != 0).tolist() if kind is ValueKind.BOOL else bits.tolist()
        text, begin, size = _digits(numbers)
        texts.append(text)
        starts[chosen], lengths[chosen] = begin + at, size
        at += len(text)
    return b"".join(texts), starts, lengths


def _doubles(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[object]:
    numbers: list[object] = values.tolist()
    for index in np.flatnonzero(~np.isfinite(values)).tolist():
        numbers[index] = _number(float(values[index]))
    return numbers


def _digits(numbers: Sequence[object]) -> tuple[bytes, Numbers, Numbers]:
    """Return the JSON of numbers one behind the other, and where each stands in it.

    >>> _digits([20.5, -1, True])
    (b'20.5,-1,true', array([0, 5, 8]), array([4, 2, 4]))
    """
    text = msgspec.json.encode(numbers)[1:-1]
    letters: Text = np.frombuffer(text, np.uint8)
    ends = np.append(np.flatnonzero(letters == _COMMA), len(text)) if numbers else np.empty(0, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: len(ends)]
    return text, starts, ends - starts


def _value(value: AttributeValue) -> object:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return _number(value)
    # A larger one than anybody reads is written as its digits, as in OTLP.
    return value if -(2**63) <= value < 2**63 else str(value)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()
