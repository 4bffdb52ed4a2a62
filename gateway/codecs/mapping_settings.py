"""What can be set about mappings, and their limits. Must not map anything.

`match`, `source` say which messages; `payload`, `each` how they are cut; `time`, `metrics`, `fields` what is in
them; `resource`, `attributes`, `class` whose it is and how much it matters; `examples` that it is right.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.codecs.paths import WHOLE, read_path
from gateway.codecs.topics import Pattern, Template
from gateway.core.checks import Check, Checked, Problem, below, check, parts
from gateway.core.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TOPIC_BYTES_MAX: Final = 1024
"""What no mapping takes a longer topic than."""
TEXT_LENGTH_MAX: Final = TOPIC_BYTES_MAX
"""As long as a topic. A point's attributes leave with each of its points, thousands in a request."""

AttributeValue: TypeAlias = Annotated[str, Meta(max_length=TEXT_LENGTH_MAX)] | bool | int | float
Format: TypeAlias = Literal["auto", "json", "cbor", "csv", "text"]
ValueType: TypeAlias = Literal["auto", "double", "int", "bool"]
Unit: TypeAlias = Literal["s", "ms", "us", "ns", "iso8601"]

UNIT_NS: Final = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}
NAME_LENGTH_MAX: Final = 255


def read_zone(name: str) -> dt.tzinfo | None:
    """Return the time zone of this name, None for the box's own, which is "local".

    Raises ValueError where there is no such zone.
    """
    if name in {"UTC", "local"}:
        return dt.UTC if name == "UTC" else None
    # Where all is UTC nobody needs it.
    from zoneinfo import ZoneInfo  # noqa: PLC0415

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f'"{name}" is no time zone that this box knows; write UTC, local, or a name like Europe/Berlin, '
            "for which tzdata has to be installed"
        ) from error


def is_own_name(name: str) -> bool:
    """Whether a metric's name is one of those that the gateway's own numbers have, whoever's reading it would be.

    >>> is_own_name("tidegate.held.readings"), is_own_name("tidegate.device.dropped"), is_own_name("temp")
    (True, False, False)
    """
    return name.startswith("tidegate.") and not name.startswith("tidegate.device.")


OWN_NAME: Final = "the gateway's own numbers are called tidegate.…; of those a device may send tidegate.device.… only"


def _is_path(field: str) -> Check:
    """Return the check that a field, where it is given, is a path."""

    def read(settings: Any) -> None:
        read_path(getattr(settings, field) or "")

    return Check((field,), read)


def attributes_have_names(field: str) -> Check:
    """Return the check that no attribute of a table is without a name: OTLP knows none, and receivers refuse it."""

    def look(settings: Any) -> Iterator[Problem]:
        if "" in getattr(settings, field):
            yield Problem(below(field, ""), 'an attribute has a name, like "device.id"')

    return Check((field,), look)


def _unfilled(texts: Iterable[tuple[str, object]], *, match: str) -> Iterator[Problem]:
    """Yield those of the texts, each with its path, that cannot be filled in from what `match` captures."""
    captures = Pattern(match).names
    for path, text in texts:
        if isinstance(text, str):
            try:
                Template(text, known=captures)
            except ValueError as error:
                yield Problem(path, str(error))


class TimeSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
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
    zone: Annotated[
        str,
        Meta(
            description="Time zone of texts that name none, as a Tasmota's do: UTC, local for this box's own, or "
            "one like Europe/Berlin. In the hour that comes twice the first is meant."
        ),
    ] = "UTC"

    _field_is_path = _is_path("field")
    _start_is_path = _is_path("start")
    _step_is_path = _is_path("step")
    _ticks_is_path = _is_path("ticks")
    _now_is_path = _is_path("now")

    @check("field", "start", "step", "ticks", "now")
    def _is_one_kind(self) -> Iterator[Problem]:
        given = {name for name in ("field", "start", "step", "ticks", "now") if getattr(self, name) is not None}
        if given not in ({"field"}, {"step"}, {"start", "step"}, {"ticks", "now"}):
            yield Problem("", "time takes field, or start and step, or step alone, or ticks and now")

    @check("unit", "field", "start", "step", "ticks", "now")
    def _unit_fits(self) -> None:
        numbers = (self.start, self.step, self.ticks, self.now)
        if self.unit == "iso8601" and self.field is None and numbers != (None,) * 4:
            raise ValueError('unit = "iso8601" goes with field; write s, ms, us or ns')

    @check("zone", "unit")
    def _zone_is_known(self) -> None:
        read_zone(self.zone)
        if self.zone != "UTC" and self.unit != "iso8601":
            raise ValueError('zone goes with unit = "iso8601"; numbers count in UTC')


class MetricSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
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

    _field_is_path = _is_path("field")

    @check("scale")
    def _scale_is_number(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ValueError(f"is {self.scale}; write a number other than 0")

    @check("offset")
    def _offset_is_number(self) -> None:
        if not math.isfinite(self.offset):
            raise ValueError(f"is {self.offset}; write a finite number")

    @check("type", "scale", "offset")
    def _type_can_be_scaled(self) -> None:
        if (self.scale != 1 or self.offset != 0) and self.type in {"int", "bool"}:
            raise ValueError(f'type = "{self.type}" cannot be scaled; leave type out')


class ExampleSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A message and what must come out of it; `tidegate check` tries it."""

    topic: Annotated[str, Meta(description="The message's topic.", min_length=1)]
    payload: Annotated[str | None, Meta(description="The payload as text.")] = None
    payload_hex: Annotated[str | None, Meta(description="The payload as hexadecimal digits.")] = None
    gives: Annotated[
        dict[str, float | int | bool | tuple[float | int | bool, ...]],
        Meta(description="Each metric's value, or its values in order. Nothing: no reading comes out."),
    ] = {}

    @check("payload", "payload_hex")
    def _has_one_payload(self) -> Iterator[Problem]:
        if (self.payload is None) == (self.payload_hex is None):
            yield Problem("", "an example has a payload or a payload_hex, one of them")

    @check("payload_hex")
    def _payload_hex_is_hexadecimal(self) -> None:
        try:
            bytes.fromhex(self.payload_hex or "")
        except ValueError as error:
            raise ValueError("takes pairs of hexadecimal digits") from error

    @property
    def data(self) -> bytes:
        """The payload's bytes."""
        return self.payload.encode() if self.payload is not None else bytes.fromhex(self.payload_hex or "")


class MappingSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How messages of some topics become readings. The first that matches takes the message."""

    match: Annotated[
        str,
        Meta(
            description="Topic pattern: {name} captures one level, + takes one, # or {name#} at the end take the rest.",
            min_length=1,
        ),
    ]
    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)] | None,
        Meta(description="What uplinks call it that take only what some mappings make; several may have one name."),
    ] = None
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

    _each_is_path = _is_path("each")
    _fields_is_path = _is_path("fields")
    _resource_has_names = attributes_have_names("resource")
    _attributes_have_names = attributes_have_names("attributes")

    @check("match")
    def _match_is_pattern(self) -> None:
        Pattern(self.match)

    @check("resource", "match")
    def _resource_can_be_filled(self) -> Iterator[Problem]:
        yield from _unfilled(((below("resource", key), text) for key, text in self.resource.items()), match=self.match)

    @check("attributes", "match")
    def _attributes_can_be_filled(self) -> Iterator[Problem]:
        texts = ((below("attributes", key), text) for key, text in self.attributes.items())
        yield from _unfilled(texts, match=self.match)

    @check("metrics", "match")
    def _names_can_be_filled(self) -> Iterator[Problem]:
        texts = ((below("metrics", index, "name"), metric.name) for index, metric in parts(self.metrics, "name"))
        yield from _unfilled(texts, match=self.match)

    @check("metrics", "fields")
    def _wants_metrics_or_fields(self) -> Iterator[Problem]:
        if self.metrics and self.fields is not None:
            yield Problem("", "metrics and fields: one of them; fields takes every number there is")

    @check("metrics")
    def _names_differ(self) -> Iterator[str]:
        names = [metric.name or metric.field for _, metric in parts(self.metrics, "name", "field")]
        for name, count in Counter(names).items():
            if name and count > 1:
                yield f"there is {name!r} twice in metrics; give each a name of its own"

    @check("metrics")
    def _names_are_not_the_gateways(self) -> Iterator[Problem]:
        for index, metric in parts(self.metrics, "name", "field"):
            if is_own_name(metric.name or metric.field):
                yield Problem(below("metrics", index), OWN_NAME)

    @check("metrics", "payload")
    def _metrics_have_names(self) -> Iterator[Problem]:
        for index, metric in parts(self.metrics, "name", "field"):
            if not metric.name and metric.field in WHOLE and self.payload != "text":
                yield Problem(below("metrics", index), "a metric has a field or a name")

    @check("payload", "each", "fields")
    def _lines_have_no_paths(self) -> None:
        if self.payload in {"text", "csv"} and (self.each is not None or self.fields not in {None, *WHOLE}):
            raise ValueError(f'payload = "{self.payload}" has no paths; leave each and fields out')

    @check("payload", "metrics", "time")
    def _text_is_one_value(self) -> None:
        if self.payload == "text" and (len(self.metrics) > 1 or self.time is not None):
            raise ValueError('payload = "text" is one value: one metric, and no time')

    @check("columns")
    def _columns_differ(self) -> Iterator[str]:
        for name, count in Counter(self.columns).items():
            if name and count > 1:
                yield f"there is {name!r} twice in columns; give each a name of its own"

    @check("delimiter", "payload")
    def _delimiter_is_no_line_end(self) -> None:
        if self.payload in {"text", "csv"} and self.delimiter in "\r\n":
            raise ValueError("delimiter divides the columns of a line, so it is no line end")

    @check("time", "payload")
    def _lines_have_their_own_times(self) -> None:
        if self.payload == "csv" and self.time is not None and (self.time.step, self.time.ticks) != (None, None):
            raise ValueError('payload = "csv": every line has its own time, so time takes field')


class MapLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What mapping may cost. Reaching a limit is counted by its reason."""

    topic_bytes_max: Annotated[int, Meta(description="Longest topic.", ge=1)] = TOPIC_BYTES_MAX
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
