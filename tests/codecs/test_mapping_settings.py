"""What can be written in [[mappings]], and what is refused with a sentence."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest

from gateway.codecs.mapping_settings import ExampleSettings, MapLimits, MappingSettings, default_mappings


def mapping(**options: Any) -> MappingSettings:
    """Read one mapping as from a file."""
    return msgspec.convert({"match": "a/{x}", **options}, MappingSettings)


def test_the_mappings_of_the_design_are_read() -> None:
    """As they stand there."""
    table = tomllib.loads(
        """
        [[mappings]]
        match = "plant/{device}/climate"
        payload = "json"
        resource = { "device.id" = "{device}" }
        time = { field = "ts", unit = "ms" }
        metrics = [ { field = "temp", name = "temperature", unit = "Cel" } ]
        class = "critical"
        examples = [ { topic = "plant/d1/climate", payload = '{"temp":20.5}', gives = { temperature = 20.5 } } ]
        [[mappings]]
        match = "bulk/{device}/wave"
        payload = "cbor"
        time = { start = "t0", step = "dt", unit = "ns" }
        fields = "v"
        """
    )
    first, second = msgspec.convert(table["mappings"], list[MappingSettings])
    assert (first.class_, first.metrics[0].name, first.examples[0].gives) == (
        "critical",
        "temperature",
        {"temperature": 20.5},
    )
    assert (second.fields, second.class_, second.drop) == ("v", "normal", False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"match": "a/#/b"}, "stands at the end"),
        ({"resource": {"": "{x}"}}, 'resource."": an attribute has a name'),
        ({"attributes": {"a": 1, "": True}}, 'attributes."": an attribute has a name'),
        ({"resource": {"device.id": "{device}"}}, r"wants \{device\}"),
        ({"attributes": {"a": "{device}"}}, r"wants \{device\}"),
        ({"attributes": {"a": "x" * 1025}}, "length <= 1024"),
        ({"resource": {"a": "{x}" * 17}}, "17 captures in it; write at most 16"),
        ({"metrics": [{"field": "a", "name": "{x}" * 17}]}, "17 captures in it; write at most 16"),
        ({"payload": "csv", "delimiter": "\n"}, "no line end"),
        ({"metrics": [{"field": "a", "name": "{device}"}]}, r"wants \{device\}"),
        ({"metrics": [{"field": "a..b"}]}, "is not a path"),
        ({"metrics": [{"unit": "Cel"}]}, "a field or a name"),
        ({"metrics": [{"field": "a"}], "fields": "v"}, "one of them"),
        ({"metrics": [{"field": "a"}, {"field": "b", "name": "a"}]}, "'a' twice"),
        ({"payload": "csv", "columns": ["a", "", "b", "", "a"]}, "'a' twice"),
        ({"metrics": [{"field": "a", "name": "tidegate.held.readings"}]}, "metrics.0.*the gateway's own"),
        ({"metrics": [{"field": "tidegate.quarantined"}]}, "metrics.0.*the gateway's own"),
        ({"metrics": [{"field": "a", "scale": 0}]}, "other than 0"),
        ({"metrics": [{"field": "a", "offset": float("inf")}]}, "offset: is inf; write a finite number"),
        ({"metrics": [{"field": "a", "scale": 2, "type": "int"}]}, "cannot be scaled"),
        ({"metrics": [{"field": "a", "kind": "histogram"}]}, "Invalid enum"),
        ({"fields": "v["}, "is not a path"),
        ({"each": ".v"}, "is not a path"),
        ({"payload": "senml"}, "Invalid enum"),
        ({"payload": "text", "each": "a"}, "has no paths"),
        ({"payload": "csv", "fields": "a"}, "has no paths"),
        ({"payload": "text", "time": {"field": "ts"}}, "one value"),
        ({"payload": "text", "metrics": [{"name": "a"}, {"name": "b"}]}, "one value"),
        ({"payload": "csv", "time": {"step": "dt"}}, "takes field"),
        ({"time": {}}, "time takes"),
        ({"time": {"field": "a", "start": "b"}}, "time takes"),
        ({"time": {"start": "b"}}, "time takes"),
        ({"time": {"ticks": "b"}}, "time takes"),
        ({"time": {"step": "b", "unit": "iso8601"}}, "goes with field"),
        ({"time": {"field": "a["}}, "is not a path"),
        (
            {"time": {"field": "a", "unit": "iso8601", "zone": "Europe/Atlantis"}},
            "Europe/Atlantis.*no time zone.*tzdata",
        ),
        ({"time": {"field": "a", "unit": "iso8601", "zone": "../../etc/passwd"}}, "no time zone"),
        ({"time": {"field": "a", "unit": "iso8601", "zone": ""}}, "no time zone"),
        ({"time": {"field": "a", "zone": "local"}}, "zone goes with"),
        ({"time": {"field": "a", "unit": "min"}}, "Invalid enum"),
        ({"examples": [{"topic": "a"}]}, "one of them"),
        ({"examples": [{"topic": "a", "payload": "1", "payload_hex": "31"}]}, "one of them"),
        ({"examples": [{"topic": "a", "payload_hex": "3"}]}, "hexadecimal"),
        ({"delimiter": "::"}, "length"),
        ({"mach": "a"}, "unknown field"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    """The sentence says what would be right."""
    with pytest.raises(msgspec.ValidationError, match=words):
        mapping(**options)


def test_an_example_is_text_or_hexadecimal() -> None:
    """Either way bytes."""
    assert ExampleSettings(topic="a", payload="ä").data == b"\xc3\xa4"
    assert ExampleSettings(topic="a", payload_hex="a1 61 61 01").data == b"\xa1aa\x01"


def test_texts_and_tables_need_no_metrics() -> None:
    """A text is its value, a CSV has columns."""
    assert mapping(payload="text").metrics == ()
    assert mapping(payload="csv", columns=["a"], fields="*").columns == ("a",)
    assert mapping(payload="text", metrics=[{"unit": "Cel"}]).metrics[0].unit == "Cel"


def test_attributes_may_be_numbers_and_booleans() -> None:
    """Only texts are filled in."""
    assert mapping(attributes={"line": 5, "spare": True, "name": "{x}"}).attributes["line"] == 5


def test_the_default_takes_everything() -> None:
    """Under its path, with the topic on the resource."""
    (only,) = default_mappings()
    assert (only.match, only.payload, only.resource) == ("#", "auto", {"mqtt.topic": "{topic}"})


def test_every_limit_is_described() -> None:
    """The manual is made from these sentences."""
    for field in msgspec.inspect.type_info(MapLimits).fields:
        assert field.type.extra_json_schema["description"]
