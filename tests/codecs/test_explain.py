"""What becomes of a message, in words; and whether examples are right."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.device_time import read_iso8601
from gateway.codecs.explain import PROBLEMS_SHOWN, READINGS_SHOWN, Explanation, iso_text
from gateway.codecs.routing import MORE_LOST, SENTENCES_MAX

WALL_NS = 1_790_000_000 * 10**9
CLIMATE: dict[str, Any] = {
    "match": "plant/{device}/climate",
    "payload": "json",
    "source": "direct",
    "resource": {"device.id": "{device}"},
    "attributes": {"line": 5},
    "time": {"field": "ts", "unit": "ms"},
    "metrics": [{"field": "temp", "name": "temperature", "unit": "Cel"}, {"field": "on"}, {"field": "n"}],
}
OTHER = {"match": "plant/{device}/power", "metrics": [{"field": "w"}]}


def lines(at: Any, topic: str, payload: bytes, **options: Any) -> list[str]:
    """Return an explanation's lines."""
    return str(at.mapper.explain(topic, payload, **{"wall_ns": WALL_NS, **options})).splitlines()


def test_an_explanation_says_what_came_out_and_how(desk: Any) -> None:
    """The mappings that did not match, the one that did, readings, whose, when, and what is lost."""
    at = desk(OTHER, CLIMATE)
    payload = b'{"ts":1789999000000,"temp":20.5,"on":true,"n":"x"}'
    assert lines(at, "plant/d1/climate", payload) == [
        "topic    plant/d1/climate",
        "payload  50 bytes of json, as the mapping says",
        "skipped  plant/{device}/power: level 3 is 'climate', not 'power'",
        "taken by mappings[1], match = 'plant/{device}/climate'",
        "for      device.id=d1, line=5; class normal",
        "reading  temperature = 20.5 Cel (double) at 2026-09-21T13:56:40Z, from ts (ms)",
        "reading  on = true (bool) at 2026-09-21T13:56:40Z, from ts (ms)",
        'problem  n is "x", not a number',
    ]


def test_what_is_dropped_on_purpose_is_no_problem(desk: Any) -> None:
    """The mapping does what it says."""
    found = desk({"match": "noise/#", "drop": True}).mapper.explain("noise/a", b"1", wall_ns=WALL_NS, source="direct")
    assert (found.is_dropped, found.problems, found.readings) == (True, [], [])
    assert str(found).splitlines()[2:] == [
        "taken by mappings[0], match = 'noise/#'",
        "dropped  on purpose: this mapping says drop = true; the ledger counts it as dropped_by_mapping",
    ]


def test_it_is_said_how_a_time_without_a_zone_is_read(desk: Any) -> None:
    """Who sees that can set another zone."""
    text = b'{"Time":"2026-09-21T15:56:40","x":1}'
    for options, said in [({}, "UTC"), ({"zone": "Europe/Berlin"}, "Europe/Berlin")]:
        time = {"field": "Time", "unit": "iso8601", **options}
        at = desk({"match": "#", "payload": "json", "metrics": [{"field": "x"}], "time": time})
        assert f"from Time (iso8601, {said} where it names no zone)" in "\n".join(lines(at, "t", text))


def test_an_explanation_can_be_read_by_programs(desk: Any) -> None:
    """The same as fields."""
    found = desk(CLIMATE).mapper.explain("plant/d1/climate", b'{"temp":20,"n":null}', wall_ns=WALL_NS, source="direct")
    (row,) = found.readings
    assert (found.mapping, found.problems) == ((0, "plant/{device}/climate"), [])
    assert (row.metric, row.value, row.unit, row.type, row.class_) == ("temperature", 20, "Cel", "int", "normal")
    assert (row.time, row.time_from) == ("2026-09-21T14:13:20Z", "time of arrival")


def test_a_message_that_nobody_takes_says_why_each_does_not(desk: Any) -> None:
    """By its topic or by its source."""
    at = desk(OTHER, CLIMATE)
    found = lines(at, "plant/d1/climate", b"{}", source="line1")
    assert found[2:] == [
        "skipped  plant/{device}/power: level 3 is 'climate', not 'power'",
        "skipped  plant/{device}/climate: the source is 'line1', not 'direct'",
        "reading  none",
        (
            'problem  no mapping takes the topic "plant/d1/climate"; '
            "there are plant/{device}/power, plant/{device}/climate"
        ),
    ]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"a":1}', "7 bytes of json, by its first byte"),
        (cbor2.dumps({"a": 1}), "4 bytes of cbor, by its first byte"),
        (b"5", "1 byte of text, by its first byte"),
        (b"", "empty"),
    ],
)
def test_the_format_is_named(desk: Any, payload: bytes, text: str) -> None:
    """And how it was found."""
    assert lines(desk(), "a", payload)[1] == f"payload  {text}"


@pytest.mark.parametrize(
    ("time", "payload", "text"),
    [
        (None, b'{"w":1}', "2026-09-21T14:13:20Z, time of arrival"),
        (
            {"field": "t"},
            b'{"w":1,"t":5}',
            "2026-09-21T14:13:20Z, time of arrival, because the device's own is not believed",
        ),
        ({"field": "t"}, b'{"w":1,"t":1789999000}', "2026-09-21T13:56:40Z, from t (s)"),
        (
            {"ticks": "t", "now": "n", "unit": "ms"},
            b'{"w":1,"t":5,"n":1005}',
            "2026-09-21T14:13:19Z, arrival less the age that t and n tell",
        ),
        (
            {"start": "t", "step": "d", "unit": "ms"},
            b'{"w":[1],"t":1789999000500,"d":1}',
            "2026-09-21T13:56:40.500Z, from t and d (ms)",
        ),
    ],
)
def test_where_a_time_comes_from_is_said(desk: Any, time: Any, payload: bytes, text: str) -> None:
    """And without any clock only that."""
    at = desk({**OTHER, "time": time})
    assert lines(at, "plant/d1/power", payload)[-1].split(" at ", 1)[1] == text
    if "arrival" in text:
        unknown = lines(at, "plant/d1/power", payload, wall_ns=None)[-1].split(" at ", 1)[1]
        assert unknown == text.split("Z, ", 1)[1]


def test_a_time_that_was_recognised_is_said(desk: Any) -> None:
    """In the default mapping."""
    assert lines(desk(), "a", b'{"ts":1789999000,"w":1}')[-1].endswith("2026-09-21T13:56:40Z, from the payload")
    assert lines(desk(OTHER), "plant/d1/power", b'{"w":1}')[-2] == "for      no attributes; class normal"


def test_an_explanation_stays_short(desk: Any) -> None:
    """Of many readings and problems the first are shown and the rest counted."""
    many = b"{" + b",".join(b'"f%d":%d' % (k, k) for k in range(READINGS_SHOWN + 3)) + b"}"
    assert lines(desk(), "a", many)[-1] == "reading  … and 3 more"
    at = desk({**OTHER, "each": "s", "class": "bulk"})
    found = lines(at, "plant/d1/power", b'{"s":[' + b",".join([b'{"w":"x"}'] * 50) + b"]}")
    assert found[-2:] == ["reading  none", 'problem  w is "x", not a number (50 times)']
    found = lines(at, "plant/d1/power", b'{"s":[' + b",".join(b'{"w":"x%d"}' % k for k in range(50)) + b"]}")
    assert found[-1] == f"problem  {MORE_LOST} ({50 - SENTENCES_MAX} times)"
    many_problems = Explanation("a", "json", problems=["x"] * (PROBLEMS_SHOWN + 2))
    assert many_problems.render().splitlines()[-1] == "problem  … and 2 more"


def test_an_explanation_changes_nothing(desk: Any) -> None:
    """No series is made, no type learnt."""
    at = desk({"match": "#", "metrics": [{"field": "w"}]})
    at.mapper.explain("a", b'{"w":20.5}', wall_ns=None)
    assert at.series == []
    assert repr(at.values(("a", b'{"w":20}'))) == "{'w': [20]}"


@given(st.text(max_size=20), st.binary(max_size=40))
def test_any_message_can_be_explained(topic: str, payload: bytes) -> None:
    """Lone surrogates and all."""
    from gateway.codecs.mapping import Mapper, default_mappings

    found = Mapper(default_mappings(), resolve=lambda *_: 1).explain(topic, payload, wall_ns=WALL_NS)
    # Nulls say nothing and lose nothing: JSON's, CBOR's, an empty cell of CSV.
    assert found.readings or found.problems or any(null in payload for null in (b"null", b"\xf6", b"\xf7", b",", b";"))
    assert str(found).startswith("topic")


def test_a_topic_from_a_command_line_may_be_no_text(desk: Any) -> None:
    """Bytes that are not UTF-8 come as surrogates from there."""
    assert "not UTF-8" in desk().mapper.explain("a\udcff", b"1", wall_ns=None).problems[0]


@pytest.mark.parametrize(
    ("topic", "problem"), [("", "is empty"), ("a/+", "has + in it"), ("a/#", "has # in it"), ("a\0", "has a NUL")]
)
def test_a_topic_that_no_message_has_is_a_problem(desk: Any, topic: str, problem: str) -> None:
    """Readings would promise what never comes; an example of a mapping is refused the same."""
    found = desk().mapper.explain(topic, b"1", wall_ns=None)
    assert (found.mapping, found.readings) == (None, [])
    assert problem in found.problems[0]
    if topic:
        at = desk({**OTHER, "examples": [{"topic": topic, "payload": "1", "gives": {}}]})
        assert problem in at.mapper.check()[0]


def test_a_message_cannot_write_lines_of_its_own(desk: Any) -> None:
    """Neither by its topic nor by its keys, texts or captures."""
    found = lines(desk(), "a\nreading  forged", b'{"b\\u001b[2J\\nproblem  none":1}')
    assert found[0] == "topic    a\\nreading  forged"
    assert [line.split()[0] for line in found] == ["topic", "payload", "taken", "for", "reading"]
    assert "\x1b" not in "".join(found)


# Examples


def example(
    gives: Any = None, payload: str = '{"temp":20.5,"on":true}', topic: str = "plant/d1/climate"
) -> dict[str, Any]:
    """Return an example of the climate mapping."""
    return {"topic": topic, "payload": payload, "gives": {} if gives is None else gives}


SHORT = "the topic 'plant/x' does not match 'plant/{device}/climate': the topic has 2 levels, the pattern takes 3"


@pytest.mark.parametrize(
    ("one", "problems"),
    [
        (example({"temperature": 20.5, "on": True}), []),
        (example({"temperature": 20.4, "on": True}), ["temperature should be 20.4, is 20.5"]),
        (example({"temperature": 20.5, "on": 1}), ["on should be 1, is true"]),
        (example({"temperature": 20.5}), ["on is true and not in gives"]),
        (example({"temperature": 20.5, "on": True, "n": 1}), ["n should be 1, is missing"]),
        (example({"temperature": 20}, '{"temp":20.0}'), []),
        (example({}, '{"temp":null}'), []),
        (example({}, '{"temp":"x"}'), ['temp is "x", not a number']),
        (example({"w": 1}, topic="plant/x"), [SHORT]),
    ],
)
def test_examples_are_tried(desk: Any, one: dict[str, Any], problems: list[str]) -> None:
    """Each says what should be and what is."""
    found = desk(OTHER, {**CLIMATE, "examples": [example({"temperature": 20.5, "on": True}), one]}).mapper.check()
    assert found == [f"mappings[1].examples[1]: {problem}" for problem in problems]


def test_an_example_that_another_mapping_takes_first_is_wrong(desk: Any) -> None:
    """The order of the file decides."""
    at = desk(
        {"match": "#", "metrics": [{"field": "w"}]},
        {**OTHER, "examples": [{"topic": "plant/1/power", "payload": "{}"}]},
    )
    assert at.mapper.check() == [
        "mappings[1].examples[0]: mappings[0] takes the topic 'plant/1/power' first; put this mapping before it"
    ]


def test_examples_of_lists_and_of_what_is_dropped(desk: Any) -> None:
    """Several values in order; none at all."""
    listed = {"match": "l", "time": {"step": "dt"}, "fields": "v"}
    packed = cbor2.dumps({"dt": 1, "v": {"a": [1, 2]}}).hex()
    at = desk(
        {**listed, "examples": [{"topic": "l", "payload_hex": packed, "gives": {"a": [1, 2]}}]},
        {"match": "d", "drop": True, "examples": [{"topic": "d", "payload": "1"}]},
    )
    assert at.mapper.check() == []
    wrong = desk({**listed, "examples": [{"topic": "l", "payload_hex": packed, "gives": {"a": [1, 3]}}]})
    assert wrong.mapper.check() == ["mappings[0].examples[0]: a should be [1, 3], is [1, 2]"]


@pytest.mark.parametrize(
    "ns", [0, 1, -1, 1_700_000_000_123_456_789, 1_700_000_000_123_456_000, 253_402_300_799 * 10**9]
)
def test_times_are_written_as_they_are_read(ns: int) -> None:
    """To the nanosecond."""
    assert read_iso8601(iso_text(ns)) == ns
