"""Objects that look alike are decoded as one class, and give exactly what a walk gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs.mapping import Mapper, default_mappings
from gateway.codecs.mapping_settings import MappingSettings, TimeSettings
from gateway.codecs.shapes import LEAVES_MAX, LOOKS_MAX, SHAPES_MAX, form_of
from gateway.core.contracts import Arrivals

NOW_MS = 1_789_999_000_000
WALL_NS = 1_790_000_000 * 10**9


def shapes_of(at: Any) -> list[Any]:
    """Return what a default mapping has learnt."""
    return at.mapper._plans[0]._shapes._shapes


def topics_by_form(at: Any) -> list[int]:
    """Return how many topics each form has."""
    return [len(shape) for shape in shapes_of(at)]


@pytest.mark.parametrize(
    ("document", "form"),
    [
        ({"b": 1, "a": {"c": 2.5}}, ((("a", "c"), True), (("b",), True))),
        ({"a": "x", "b": True}, ((("a",), False), (("b",), True))),
        ({"a": None}, None),
        ({"a": [1]}, None),
        ({"a": {}}, None),
        ({}, None),
        ([1], None),
        (5, None),
        ({"a": {"a": {"a": {"a": {"a": 1}}}}}, None),
        ({"a": {"b": [1]}}, None),
        ({"a.b": 1, "a": {"b": 2}}, None),
        ({f"f{k}": k for k in range(LEAVES_MAX + 1)}, None),
    ],
)
def test_a_form_is_keys_and_kinds(document: Any, form: Any) -> None:
    """Of objects of numbers and texts; names must be different."""
    assert form_of(document) == form


def test_a_topics_second_payload_is_learnt_from(desk: Any) -> None:
    """And topics of the same form share one class."""
    at = desk()
    assert shapes_of(at) == []
    at.map(("a", b'{"x":1,"y":{"z":2}}'))
    assert shapes_of(at) == []
    at.map(("a", b'{"x":1,"y":{"z":2}}'), ("b", b'{"x":1,"y":{"z":2}}'), ("b", b'{"y":{"z":2},"x":1}'))
    assert len(shapes_of(at)) == 1
    rows, _ = at.map(("a", b'{"x":3,"y":{"z":4}}'), ("b", b'{"x":5,"y":{"z":6}}'), ("c", b'{"x":7}'))
    found = {(dict(row.series.resource)["mqtt.topic"], row.name, row.value) for row in rows}
    assert found == {("a", "x", 3), ("a", "y.z", 4), ("b", "x", 5), ("b", "y.z", 6), ("c", "x", 7)}


def test_what_the_class_does_not_take_is_walked(desk: Any) -> None:
    """A key more, a text, a list, a null object, something that is no JSON; keys may be missing."""
    at = desk()
    for _ in range(3):
        at.map(("a", b'{"x":1.5,"t":"u","y":{"z":2}}'))
    assert len(shapes_of(at)) == 1
    found = at.values(
        ("a", b'{"x":1,"t":"u","y":{"z":2},"new":3}'),
        ("a", b'{"x":"text","y":{"z":4}}'),
        ("a", b'{"x":[5,6]}'),
        ("a", b'{"x":7,"y":null}'),
        ("a", b'{"t":8}'),
        ("a", b"9"),
        ("a", b"{"),
        ("a", b'{"x":null}'),
        ("a", b'{"t":"u"}'),
        ("a", b'{"x":10}'),
    )
    assert sorted(found["x"]) == [1.0, 7.0, 10.0]
    assert sorted(found["y.z"]) == [2, 4]
    assert (found["new"], found["x[0]"], found["x[1]"], found["t"], found["a"]) == ([3], [5], [6], [8], [9])
    assert found["lost"] == [(6, "malformed_json"), (8, "no_readings")]


def test_one_whose_time_is_not_sure_is_walked(desk: Any) -> None:
    """Alone; the others are not."""
    at = desk()
    for _ in range(3):
        at.map(("a", b'{"ts":%d,"x":1}' % NOW_MS))
    assert len(shapes_of(at)) == 1
    rows, _ = at.map(("a", b'{"ts":%d,"x":2}' % NOW_MS), ("a", b'{"ts":5,"x":3}'), ("a", b'{"x":4}'))
    found = {(row.name, row.value, row.flags) for row in rows}
    assert found == {("x", 2, 0), ("ts", 5, 4), ("x", 3, 4), ("x", 4, 4)}
    rows, _ = at.map(("a", b'{"ts":5,"x":3}'))
    assert {(row.name, row.value) for row in rows} == {("ts", 5), ("x", 3)}


@pytest.mark.parametrize(
    "payload",
    [
        b'{"ts":5,"x":1}',
        b'{"ts":%d,"time":5,"x":1}' % NOW_MS,
        b'{"ts":"2023-11-14","x":1}',
        b"5",
        b"[1]",
        b'{"a":1',
        b'{"a":[1]}',
    ],
)
def test_forms_whose_time_depends_on_the_value_are_not_learnt(desk: Any, payload: bytes) -> None:
    """Nor is what has none; it is not looked at for ever."""
    at = desk()
    for _ in range(LOOKS_MAX + 2):
        at.map(("a", payload))
    assert shapes_of(at) == []
    assert at.mapper._plans[0]._shapes._looks[0] == LOOKS_MAX


@pytest.mark.parametrize("limit", [{"name_length_max": 2}, {"fields_per_payload_max": 1}, {"depth_max": 1}])
def test_forms_beyond_a_limit_are_not_learnt(desk: Any, limit: dict[str, int]) -> None:
    """The walk counts what is lost."""
    at = desk(limits=limit)
    for _ in range(4):
        at.map(("a", b'{"long":1,"o":{"p":2}}'))
    assert shapes_of(at) == []


def test_there_are_so_many_forms(desk: Any) -> None:
    """What comes later is walked."""
    at = desk()
    for k in range(SHAPES_MAX + 3):
        for _ in range(3):
            assert at.values((f"t{k}", b'{"f%d":%d}' % (k, k))) == {f"f{k}": [k]}
    assert len(shapes_of(at)) == SHAPES_MAX


def test_so_much_is_looked_at_in_one_go(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest the next time."""
    monkeypatch.setattr("gateway.codecs.shapes.LOOKS_AT_ONCE_MAX", 1)
    at = desk()
    for _ in range(3):
        at.map(("a", b'{"x":1}'), ("b", b'{"x":1}'))
    assert at.mapper._plans[0]._shapes._shape_of[:2].tolist() == [0, 0]


def test_many_topics_share_a_form(desk: Any) -> None:
    """More than the tables begin with; topics that are dropped leave it."""
    at = desk(limits={"routes_max": 200})
    messages = [(f"t{k}", b'{"x":%d}' % k) for k in range(150)]
    for _ in range(4):
        assert at.values(*messages) == {"x": list(range(150))}
    assert topics_by_form(at) == [150]
    for _ in range(2):
        rows, _ = at.map(*((f"u{k}", b'{"x":%d}' % k) for k in range(150)))
        assert {(dict(row.series.resource)["mqtt.topic"], row.value) for row in rows} == {
            (f"u{k}", k) for k in range(150)
        }
    assert 0 < topics_by_form(at)[0] <= 175


def test_a_form_that_no_topic_has_makes_room(desk: Any) -> None:
    """A flood of odd forms does not keep the next device on the slow path for ever."""
    at = desk(limits={"routes_max": SHAPES_MAX})
    for k in range(SHAPES_MAX):
        for _ in range(3):
            at.map((f"t{k}", b'{"f%d":1}' % k))
    assert topics_by_form(at) == [1] * SHAPES_MAX
    for k in range(20):
        at.map((f"flood{k}", b"1"))
    assert 0 in topics_by_form(at)
    for _ in range(3):
        assert at.values(("new", b'{"new":1}')) == {"new": [1]}
    assert (("new",), True) in [shape.form[0] for shape in shapes_of(at)]
    assert len(shapes_of(at)) == SHAPES_MAX


def test_a_mappings_own_time_field_is_read_in_a_form_too(desk: Any) -> None:
    """Numbers or text, and where it is missing arrival."""
    at = desk({"match": "#", "payload": "json", "fields": "*", "time": {"field": "meta.at", "unit": "iso8601"}})
    for _ in range(4):
        rows, _ = at.map(("a", b'{"meta":{"at":"2023-11-14T22:13:20Z"},"x":1}'), ("b", b'{"x":2}'))
        found = {(row.name, row.value, row.time_ns, row.flags) for row in rows}
        assert found == {("x", 1, 1_700_000_000 * 10**9, 0), ("x", 2, 5000 * 10**9, 4)}
    assert len(shapes_of(at)) == 2


def test_a_mappings_time_zone_is_read_in_a_form_too(desk: Any) -> None:
    """The first time they are walked, then they are read as forms; in lists, one by one and in items too."""
    zoned = {"field": "at", "unit": "iso8601", "zone": "Asia/Kolkata"}
    at = desk({"match": "#", "payload": "json", "fields": "*", "time": zoned})
    for _ in range(4):
        rows, _ = at.map(("a", b'{"at":"2023-11-15T03:43:20","x":1}'), ("a", b'{"at":"2023-11-14T22:13:20Z","x":1}'))
        assert {(row.time_ns, row.flags) for row in rows} == {(1_700_000_000 * 10**9, 0)}
    declared = [{"field": "x", "name": "x"}]
    lists = desk({"match": "#", "payload": "json", "metrics": declared, "time": zoned})
    rows, _ = lists.map(("a", b'{"at":["2023-11-15T03:43:20","2023-11-15T03:43:20"],"x":[1,2]}'))
    assert [row.time_ns for row in rows] == [1_700_000_000 * 10**9] * 2
    each = desk({"match": "#", "payload": "json", "each": "*", "metrics": declared, "time": zoned})
    rows, _ = each.map(("a", b'[{"at":"2023-11-15T03:43:20","x":1}]'))
    assert [row.time_ns for row in rows] == [1_700_000_000 * 10**9]


def test_a_mapping_of_json_without_a_time_has_arrival(desk: Any) -> None:
    """Only auto looks for a time."""
    at = desk({"match": "#", "payload": "json"})
    for _ in range(4):
        assert at.values(("a", b'{"ts":%d}' % NOW_MS)) == {"ts": [NOW_MS]}
    assert len(shapes_of(at)) == 1


VALUES = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([NOW_MS, NOW_MS // 1000, 5, 2**53 + 1, 2**70, None, "x", "2023-11-14T22:13:20Z", True, [1, 2]]),
    st.floats(allow_nan=False, allow_infinity=False),
)
OBJECTS = st.dictionaries(
    st.sampled_from(["a", "b", "ts", "time", "o"]),
    st.one_of(VALUES, st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2)),
    max_size=4,
)


def map_all(mapper: Mapper, names: list[Any], documents: list[Any]) -> Any:
    """Return readings as a sorted list, and what is lost."""
    payloads = [json.dumps(document).encode() for document in documents]
    topics = [b"t%d" % (k % 2) for k in range(len(payloads))]
    mapped = mapper.map(Arrivals("s", topics, payloads, 10**12), wall_ns=WALL_NS)
    readings = sorted(
        (str(names[int(batch.series[k])]), int(batch.time_ns[k]), int(batch.bits[k]), int(batch.flags[k]))
        for _, batch in mapped.pieces
        for k in range(len(batch))
    )
    return readings, sorted(mapped.malformed)


@given(
    st.lists(OBJECTS, min_size=1, max_size=4), st.lists(OBJECTS, max_size=6), st.sampled_from(["own", "field", "none"])
)
@settings(max_examples=150, deadline=None)
def test_a_mapper_that_has_learnt_forms_finds_what_one_that_has_not_finds(
    teachers: list[Any], documents: list[Any], kind: str
) -> None:
    """Readings, times, types and losses, whatever came before."""
    mappings = {
        "own": default_mappings(),
        "field": (MappingSettings(match="#", fields="*", time=TimeSettings(field="o.a", unit="ms")),),
        "none": (MappingSettings(match="#", payload="json"),),
    }[kind]
    found = []
    for does_learn in (True, False):
        names: list[Any] = []

        def resolve(series: Any, _: str, names: list[Any] = names) -> int:
            if series not in names:
                names.append(series)
            return names.index(series)

        mapper = Mapper(mappings, resolve=resolve)
        if not does_learn:
            mapper._plans[0]._shapes = None
        # Whether a metric has had a double is remembered on both sides; so both see the same.
        map_all(mapper, names, [{"a": 0.5, "b": 0.5, "o": {"a": 0.5, "b": 0.5}, "ts": 0.5, "time": 0.5}])
        map_all(mapper, names, [{"o": 0.5}] + [{f"{key}[{k}]": 0.5 for k in range(2)} for key in ("a", "b")])
        for _ in range(3):
            map_all(mapper, names, teachers)
        found.append(map_all(mapper, names, documents))
    assert found[0] == found[1]
