"""What can be set about mappings, and their limits. Must not map anything.

`match`, `source` say which messages; `payload`, `each` how they are cut; `time`, `metrics`, `fields` what is in
them; `resource`, `attributes`, `class` whose it is and how much it matters; `examples` that it is right.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.codecs.paths import read_path
from gateway.codecs.topics import Pattern, Template
from gateway.core.clock import NS_PER_S

TEXT_LENGTH_MAX: Final = 1024
"""As long as a topic. A point's attributes leave with each of its points, thousands in a request."""

AttributeValue: TypeAlias = Annotated[str, Meta(max_length=TEXT_LENGTH_MAX)] | bool | int | float
Format: TypeAlias = Literal["auto", "json", "cbor", "csv", "text"]
ValueType: TypeAlias = Literal["auto", "double", "int", "bool"]
Unit: TypeAlias = Literal["s", "ms", "us", "ns", "iso8601"]

UNIT_NS: Final = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}
NAME_LENGTH_MAX: Final = 255


class TimeSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """When a reading was taken, by the device's own word. One of: field; step with or without start; ticks with now."""

    field: Annotated[str | None, Meta(description="Path of the time; or of a list, one time for each value.")] = None
    start: Annotated[str | None, Meta(description="Path of the time of an array's first value.")] = None
    step: Annotated[
        str | None,
        Meta(description="Path of the time between an array's values. Without `start` the last one is at arrival."),
    ] = None
    ticks: Annotated[
        str | None,
        Meta(
            description="Path of a device's own clock (any zero, wraps at 2^30) when the value was taken; or of a list."
        ),
    ] = None
    now: Annotated[str | None, Meta(description="Path of the same clock when the message was sent.")] = None
    unit: Annotated[Unit, Meta(description="What the numbers count since 1970, or iso8601 for text.")] = "s"

    def __post_init__(self) -> None:
        """Check what can only be wrong together."""
        given = {name for name in ("field", "start", "step", "ticks", "now") if getattr(self, name) is not None}
        if given not in ({"field"}, {"step"}, {"start", "step"}, {"ticks", "now"}):
            raise ValueError("time takes field, or start and step, or step alone, or ticks and now")
        if self.unit == "iso8601" and "field" not in given:
            raise ValueError('unit = "iso8601" goes with field; write s, ms, us or ns')
        for name in given:
            read_path(getattr(self, name))


class MetricSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One metric and where its value stands in the payload."""

    field: Annotated[str, Meta(description='Path of the value, like a.b[0].c; "" is the whole payload.')] = ""
    name: Annotated[
        str,
        Meta(
            description="What it is called upstream; may hold {captures}. The field's path if not given.",
            max_length=NAME_LENGTH_MAX,
        ),
    ] = ""
    unit: Annotated[str, Meta(description="Its unit in UCUM, like Cel, %, kW.", max_length=63)] = ""
    kind: Annotated[Literal["gauge", "sum"], Meta(description="sum for what only counts up, gauge for the rest.")] = (
        "gauge"
    )
    type: Annotated[
        ValueType,
        Meta(
            description="auto takes numbers, true and false as they come; the others convert, text included, "
            "and refuse what does not fit."
        ),
    ] = "auto"
    scale: Annotated[float, Meta(description="The value is multiplied by this …")] = 1.0
    offset: Annotated[float, Meta(description="… and this is added; what comes out is a double.")] = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether the value changes at all."""
        return self.scale != 1 or self.offset != 0

    def __post_init__(self) -> None:
        """Check what can only be wrong together."""
        read_path(self.field)
        if not math.isfinite(self.scale) or self.scale == 0 or not math.isfinite(self.offset):
            raise ValueError("scale is a number other than 0, offset is a number")
        if self.is_scaled and self.type in {"int", "bool"}:
            raise ValueError(f'type = "{self.type}" cannot be scaled; leave type out')


class ExampleSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A message and what must come out of it; `tidegate check` tries it."""

    topic: Annotated[str, Meta(description="The message's topic.", min_length=1)]
    payload: Annotated[str | None, Meta(description="The payload as text.")] = None
    payload_hex: Annotated[str | None, Meta(description="The payload as hexadecimal digits.")] = None
    gives: Annotated[
        dict[str, float | int | bool | tuple[float | int | bool, ...]],
        Meta(description="Each metric's value, or its values in order. Nothing: no reading comes out."),
    ] = {}

    def __post_init__(self) -> None:
        """Check what can only be wrong together."""
        if (self.payload is None) == (self.payload_hex is None):
            raise ValueError("an example has a payload or a payload_hex, one of them")
        try:
            bytes.fromhex(self.payload_hex or "")
        except ValueError as error:
            raise ValueError("payload_hex takes pairs of hexadecimal digits") from error

    @property
    def data(self) -> bytes:
        """The payload's bytes."""
        return self.payload.encode() if self.payload is not None else bytes.fromhex(self.payload_hex or "")


class MappingSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How messages of some topics become readings. The first that matches takes the message."""

    match: Annotated[
        str,
        Meta(
            description="Topic pattern: {name} captures one level, + takes one, # or {name#} at the end take the rest.",
            min_length=1,
        ),
    ]
    source: Annotated[str | None, Meta(description="Only messages of the source of this name.")] = None
    payload: Annotated[Format, Meta(description="What the payload is written in; auto looks at the bytes.")] = "auto"
    columns: Annotated[
        tuple[str, ...],
        Meta(description="csv: what the columns are called. Without them the first line says it.", max_length=1024),
    ] = ()
    delimiter: Annotated[str, Meta(description="csv: what divides the columns.", min_length=1, max_length=1)] = ","
    each: Annotated[
        str | None,
        Meta(description='Path of a list of objects, each mapped as a message of its own; "*" if the payload is one.'),
    ] = None
    resource: Annotated[
        dict[str, AttributeValue],
        Meta(description="Whose readings these are; texts may hold {captures}, {topic}, {source}.", max_length=64),
    ] = {}
    attributes: Annotated[
        dict[str, AttributeValue], Meta(description="Attributes of each point, filled in the same way.", max_length=64)
    ] = {}
    time: Annotated[
        TimeSettings | None, Meta(description="The device's own time; without it readings have that of arrival.")
    ] = None
    metrics: Annotated[
        tuple[MetricSettings, ...], Meta(description="The values that are wanted.", max_length=1024)
    ] = ()
    fields: Annotated[
        str | None,
        Meta(
            description="Instead of metrics: every number below this path is a metric named by its keys; "
            '"*" for the whole payload.'
        ),
    ] = None
    class_: Annotated[
        Literal["critical", "normal", "bulk"],
        Meta(description="critical is sent first and let go last, bulk the other way round."),
    ] = msgspec.field(default="normal", name="class")
    drop: Annotated[bool, Meta(description="Throw these messages away, counted as dropped_by_mapping.")] = False
    examples: Annotated[
        tuple[ExampleSettings, ...], Meta(description="Messages and what comes out of them.", max_length=256)
    ] = ()

    def __post_init__(self) -> None:
        """Check what can only be wrong together."""
        captures = Pattern(self.match).names
        for text in (*self.resource.values(), *self.attributes.values(), *(metric.name for metric in self.metrics)):
            if isinstance(text, str):
                Template(text, known=captures)
        if self.metrics and self.fields is not None:
            raise ValueError("metrics and fields: one of them; fields takes every number there is")
        for path in (self.each, self.fields):
            read_path(path or "")
        if self.payload in {"text", "csv"}:
            self._check_text()
        names = [metric.name or metric.field for metric in self.metrics]
        twice = sorted(name for name in names if names.count(name) > 1)
        if twice:
            raise ValueError(f"there is {twice[0]!r} twice in metrics; give each a name of its own")
        for metric in self.metrics:
            if not metric.name and not read_path(metric.field) and self.payload != "text":
                raise ValueError("a metric has a field or a name")

    def _check_text(self) -> None:
        if self.each is not None or (self.fields is not None and read_path(self.fields)):
            raise ValueError(f'payload = "{self.payload}" has no paths; leave each and fields out')
        if self.payload == "text" and (len(self.metrics) > 1 or self.time is not None):
            raise ValueError('payload = "text" is one value: one metric, and no time')
        if self.delimiter in "\r\n":
            raise ValueError("delimiter divides the columns of a line, so it is no line end")
        if self.payload == "csv" and self.time is not None and self.time.field is None:
            raise ValueError('payload = "csv": every line has its own time, so time takes field')


class MapLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What mapping may cost. Reaching a limit is counted by its reason."""

    topic_bytes_max: Annotated[int, Meta(description="Longest topic.", ge=1)] = 1024
    topic_levels_max: Annotated[int, Meta(description="Levels in a topic.", ge=1)] = 64
    routes_max: Annotated[
        int, Meta(description="Topics remembered with their mapping; past that the least used are forgotten.", ge=1)
    ] = 16_384
    routes_bytes_max: Annotated[int, Meta(description="Memory for these topics.", ge=1)] = 8 << 20
    leaves_max: Annotated[int, Meta(description="Names remembered of metrics that payloads name themselves.", ge=1)] = (
        131_072
    )
    leaves_bytes_max: Annotated[int, Meta(description="Memory for these names, of one mapping.", ge=1)] = 8 << 20
    depth_max: Annotated[int, Meta(description="How deep a payload is nested.", ge=1, le=200)] = 32
    readings_per_payload_max: Annotated[int, Meta(description="Readings in one payload.", ge=1)] = 1_000_000
    fields_per_payload_max: Annotated[
        int, Meta(description="Metrics that one payload (of a list: one of its elements) may name itself.", ge=1)
    ] = 4096
    elements_max: Annotated[int, Meta(description="Longest list whose elements become metrics of their own.", ge=1)] = (
        64
    )
    name_length_max: Annotated[int, Meta(description="Longest name of a metric, in letters.", ge=1)] = 255
    device_time_min: Annotated[int, Meta(description="Unix time in ns before which no device time is believed.")] = (
        946_684_800 * NS_PER_S
    )  # 2000-01-01
    device_time_ahead_max: Annotated[
        int, Meta(description="How many ns a device may be ahead of this box's clock.", ge=0)
    ] = 86_400 * NS_PER_S


def default_mappings() -> tuple[MappingSettings, ...]:
    """Return what maps when nothing is configured: every number under its path, the topic as `mqtt.topic`."""
    return (MappingSettings(match="#", resource={"mqtt.topic": "{topic}"}, fields="*"),)
