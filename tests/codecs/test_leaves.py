"""Mappings that take every number they find."""

from __future__ import annotations

import json
import math
from typing import Any

import cbor2
import pytest

from gateway.codecs.leaves import LEAF_BYTES, name_problem
from gateway.codecs.payloads import DEAR_ITEMS_MAX, JSON_BYTES_UNBOUNDED
from gateway.core.batch import DEVICE_TIME_REJECTED, MONOTONIC, Series

NOW_MS = 1_789_999_000_000
ARRIVED = 5000 * 10**9


def test_without_a_mapping_every_number_is_a_metric(desk: Any) -> None:
    """Named by its path, with the topic on the resource."""
    rows, mapped = desk().map(("a/b", b'{"temp":20.5,"env":{"hum":40,"on":true},"id":"x","list":[1,2]}'))
    resource = (("mqtt.topic", "a/b"),)
    assert {(row.series, row.value) for row in rows} == {
        (Series(resource, "temp"), 20.5),
        (Series(resource, "env.hum"), 40),
        (Series(resource, "env.on"), True),
        (Series(resource, "list[0]"), 1),
        (Series(resource, "list[1]"), 2),
    }
    assert {(row.time_ns, row.flags) for row in rows} == {(ARRIVED, MONOTONIC)}
    assert mapped.malformed == []


@pytest.mark.parametrize(
    "document",
    [
        {"\x1b[2J\n": 1},
        {'"': 1, "\\": 2},
        {"\ud800": 1},
        {"a": {"\x00": 1}, "b": 2},
        {"": 1},
        {"\x7f\x85\u2028\u202e": 1},
    ],
)
def test_whatever_keys_are_made_of_each_object_is_read_or_lost_by_name(desk: Any, document: dict[str, Any]) -> None:
    """The tenth like the first: an object that comes again and again is decoded another way than the first."""
    at = desk()
    answers = [at.values(("a", json.dumps(document).encode())) for _ in range(10)]
    assert all(answer == answers[0] for answer in answers)
    (first, *_) = document
    lost = bool(name_problem(first, letters_max=255))
    assert ("lost" in answers[0]) == lost
    assert (first in answers[0] or "a.\x00" in answers[0]) != lost


@pytest.mark.parametrize("payload", [b"20.5", b"[20.5]", cbor2.dumps(20.5), b'{"x":[{"y":20.5}]}'])
def test_without_a_mapping_any_format_is_read(desk: Any, payload: bytes) -> None:
    """Text, JSON, CBOR; what is no object is called by the topic's last level."""
    names = {b"20.5": "temp", b"[20.5]": "temp[0]", b'{"x":[{"y":20.5}]}': "x[0].y"}
    assert desk().values(("a/temp", payload)) == {names.get(payload, "temp"): [20.5]}


def test_a_csv_with_a_line_of_names_is_read_without_a_mapping(desk: Any) -> None:
    """One without says what is missing."""
    assert desk().values(("a", b"t,h\n1,2\n3,4"), ("a", b"1,2")) == {
        "t": [1, 3],
        "h": [2, 4],
        "lost": [(1, "malformed_csv")],
    }


@pytest.mark.parametrize("repeats", [1, 5])
def test_a_time_that_can_be_nothing_else_is_the_time(desk: Any, repeats: int) -> None:
    """And no metric; a counter by the name of time is a metric."""
    at = desk()
    for _ in range(repeats):
        rows, _ = at.map(
            ("a", b'{"ts":%d,"v":1}' % NOW_MS),
            ("b", b'{"time":55,"v":2}'),
            ("c", b'{"ts":"2023-11-14T22:13:20Z","v":3}'),
        )
        found = {(row.name, row.value, row.time_ns, row.flags) for row in rows}
        assert found == {
            ("v", 1, NOW_MS * 10**6, 0),
            ("v", 2, ARRIVED, MONOTONIC),
            ("time", 55, ARRIVED, MONOTONIC),
            ("v", 3, 1_700_000_000 * 10**9, 0),
        }


def test_a_time_that_is_sure_but_not_sane_is_rejected(desk: Any) -> None:
    """Fifty years ahead of this box's clock."""
    at = desk()
    for _ in range(4):
        rows, _ = at.map(("a", b'{"ts":3400000000,"v":1}'))
        assert [(row.name, row.time_ns, row.flags) for row in rows] == [
            ("v", ARRIVED, MONOTONIC | DEVICE_TIME_REJECTED)
        ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty_payload"),
        (b"hello", "malformed_text"),
        (b"{}", "no_readings"),
        (b'{"a":"x"}', "no_readings"),
        (b"[]", "no_readings"),
        (b'{"ts":1789999000}', "no_readings"),
        (b'{"":1}', "bad_name"),
        (b'{"' + b"x" * 300 + b'":1}', "bad_name"),
        (b'{"a":1e400}', "not_finite"),
        (b'{"a":%s}' % (b"9" * 30), "out_of_range"),
        (b'{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}', "too_deep"),
        (json.dumps({"a": list(range(65))}).encode(), "array_without_time"),
        (cbor2.dumps(cbor2.CBORTag(35, "x")), "wrong_type"),
        (b'{"a":NaN,"\\ud800":1}', "bad_name"),
    ],
)
def test_a_payload_that_gives_nothing_says_why(desk: Any, payload: bytes, reason: str) -> None:
    """With one reason, each time; the next message is not the worse for it."""
    at = desk(limits={"depth_max": 4})
    for _ in range(5):
        found = at.values(("a", payload), ("a", b'{"z":1}'))
        assert (0, reason) in found.pop("lost")
        assert found == {"z": [1]}


def test_nulls_alone_are_no_loss(desk: Any) -> None:
    """A sensor without a value now."""
    at = desk()
    for _ in range(5):
        assert at.values(("a", b'{"temp":null}')) == {}
        assert at.values(("b", b'{"temp":1}'), ("b", b'{"temp":null}')) == {"temp": [1]}
    assert desk({"match": "#", "fields": "v"}).values(("a", b'{"v":null}')) == {}
    assert desk().values(("a", cbor2.dumps({"temp": cbor2.undefined})), ("a", b"\xf6\xff"[:1])) == {
        "lost": [(1, "malformed_text")]
    }


def test_a_metric_that_had_a_double_makes_doubles_of_integers(desk: Any) -> None:
    """By name, whoever sent it; big ones stay what they are."""
    at = desk()
    big = 2**53 + 1
    for _ in range(5):
        at.map(("a", b'{"v":20.5}'))
        values = [row.value for row in at.map(("b", b'{"v":21}'), ("b", b'{"v":%d}' % big))[0]]
        assert sorted(map(repr, values)) == ["21.0", str(big)]


def test_too_many_numbers_in_one_payload_are_cut(desk: Any) -> None:
    """Each time, whether their names are known or not."""
    at = desk(limits={"fields_per_payload_max": 3})
    payload = json.dumps({f"f{k}": k for k in range(5)}).encode()
    for _ in range(5):
        assert at.values(("a", payload))["lost"] == [(0, "too_many_fields")]
        assert len(at.map(("a", payload))[0]) == 3


def test_fields_is_a_path(desk: Any) -> None:
    """Names begin below it; what is not there is said."""
    at = desk({"match": "#", "payload": "json", "fields": "v"})
    assert at.values(("a", b'{"v":{"x":1,"y":{"z":2}},"w":3}')) == {"x": [1], "y.z": [2]}
    assert at.values(("a", b'{"v":7}')) == {"v": [7]}
    rows, mapped = at.map(("a", b'{"w":3}'), ("a", b'{"v":{"x":"t"}}'))
    assert [lost.sentence for lost in mapped.malformed] == [
        "the payload has nothing at v",
        "there is no number in the payload at v",
    ]
    assert rows == []


def test_the_times_paths_are_no_metrics(desk: Any) -> None:
    """Wherever they stand."""
    at = desk({"match": "#", "payload": "json", "fields": "v", "time": {"field": "v.ts", "unit": "ms"}})
    rows, _ = at.map(("a", b'{"v":{"x":1,"ts":%d}}' % NOW_MS))
    assert [(row.name, row.time_ns) for row in rows] == [("x", NOW_MS * 10**6)]
    ticks = desk({"match": "#", "fields": "*", "time": {"ticks": "t", "now": "now", "unit": "ms"}})
    assert ticks.values(("a", b'{"t":5,"now":9,"x":1}')) == {"x": [1]}


WAVE = {"match": "#", "time": {"start": "t0", "step": "dt", "unit": "ms"}, "fields": "v"}


@pytest.mark.parametrize("encode", [lambda d: json.dumps(d).encode(), cbor2.dumps])
def test_lists_are_readings_in_steps(desk: Any, encode: Any) -> None:
    """Under their names, of any kind and length; what is one value is at the start."""
    document = {"t0": NOW_MS, "dt": 10, "v": {"a": [1.5, 2.5], "b": {"c": [1, None, 3]}, "d": 7, "e": "x"}}
    rows, mapped = desk(WAVE).map(("a", encode(document)), ("b", encode(document)))
    found = sorted((row.name, (row.time_ns - NOW_MS * 10**6) // 10**6, row.value) for row in rows)
    assert found == sorted([("a", 0, 1.5), ("a", 10, 2.5), ("b.c", 0, 1), ("b.c", 20, 3), ("d", 0, 7)] * 2)
    assert mapped.malformed == []


def test_a_typed_array_is_readings_in_steps(desk: Any) -> None:
    """The bulk path."""
    array = cbor2.CBORTag(85, b"\x00\x00\x80\x3f" * 800)
    rows, _ = desk(WAVE).map(("a", cbor2.dumps({"t0": NOW_MS, "dt": 1, "v": {"ch1": array}})))
    assert [row.time_ns for row in rows] == [(NOW_MS + k) * 10**6 for k in range(800)]
    assert {(row.name, row.value) for row in rows} == {("ch1", 1.0)}


def test_a_list_that_cannot_be_timed_is_lost_alone(desk: Any) -> None:
    """One entry; the value beside it is kept."""
    found = desk(WAVE).values(("a", b'{"t0":1,"v":{"a":[1,2],"b":3}}'))
    assert found == {"b": [3], "lost": [(0, "bad_step")]}


def test_readings_without_a_series_left_are_lost(desk: Any) -> None:
    """One by one, or an array's all."""
    assert desk(series_max=1).values(("a", b'{"x":1,"y":2}')) == {"x": [1], "lost": [(0, "max_series")]}
    assert desk(WAVE, series_max=0).values(("a", b'{"dt":1,"v":{"a":[1,2]}}')) == {"lost": [(0, "max_series")] * 2}
    at = desk(series_max=1)
    for _ in range(5):
        assert at.values(("a", b'{"x":1,"y":2}')) == {"x": [1], "lost": [(0, "max_series")]}


def test_each_element_names_its_own_metrics(desk: Any) -> None:
    """With its own time, or in steps."""
    at = desk({"match": "#", "each": "s", "fields": "*", "time": {"field": "ts", "unit": "ms"}})
    rows, _ = at.map(("a", b'{"s":[{"ts":%d,"x":1},{"x":2,"y":3}]}' % NOW_MS))
    assert [(row.name, row.value, row.flags) for row in rows] == [("x", 1, 0), ("x", 2, 4), ("y", 3, 4)]
    steps = desk({"match": "#", "each": "s", "time": {"step": "dt", "unit": "ms"}})
    assert steps.values(("a", b'{"s":[{"x":1},{"x":2}]}'), ("a", b'{"dt":1,"s":[{"x":1},{"x":2}]}')) == {
        "x": [1, 2],
        "lost": [(0, "bad_step")],
    }


def test_what_is_remembered_of_names_is_bounded(desk: Any) -> None:
    """Past leaves_max half of it is forgotten, and found again."""
    at = desk(limits={"leaves_max": 20})
    for k in range(60):
        assert at.values(("a", b'{"f%d":%d,"g":1}' % (k, k)))[f"f{k}"] == [k]
        assert len(at.mapper._plans[0]._readers) <= 24
    plain = desk({"match": "#", "fields": "v"}, limits={"leaves_max": 2})
    for k in range(9):
        assert plain.values(("a", b'{"v":{"f%d":1}}' % k)) == {f"f{k}": [1]}


def test_ever_new_names_cost_their_own_topic(desk: Any) -> None:
    """In number or in bytes: the one with most names begins with itself, the others are not asked for anew."""
    for limits in ({"leaves_max": 200}, {"leaves_bytes_max": 200 * 300}):
        at = desk({"match": "#", "fields": "v"}, limits=limits)
        honest = [(f"h{k}", b'{"v":{"a":1,"b":2}}') for k in range(10)]
        at.map(*honest)
        asked = at.asked
        for k in range(50):
            names = ",".join(f'"{k}-{j}":1' for j in range(20))
            at.map(("flood", b'{"v":{%s}}' % names.encode()))
            at.map(*honest)
            assert at.mapper._plans[0]._leaves < 240
        assert at.asked - asked == 50 * 20


def test_leaves_are_counted_as_they_come_and_go(desk: Any) -> None:
    """With their topics, with their series, and all at once; readers of names that nobody has are gone too."""
    at = desk({"match": "#", "fields": "v"}, limits={"routes_max": 8})
    plan = at.mapper._plans[0]
    for k in range(40):
        at.map((f"t{k}", b'{"v":{"m%d":1,"same":2}}' % k))
        leaves = [name for row in plan._rows.values() for name in row.leaves]
        assert plan._leaves == len(leaves) <= 16
        assert plan._leaves_bytes == sum(LEAF_BYTES + len(name) for name in leaves)
        assert set(plan._readers) == set(leaves)
    at.forget("same")
    assert plan._leaves == sum(len(row.leaves) for row in plan._rows.values()) <= 8
    assert "same" not in plan._readers


def test_values_that_are_not_finite_are_lost_alone(desk: Any) -> None:
    """CBOR can say them."""
    payload = cbor2.dumps({"a": math.nan, "b": 1.5, "c": math.inf})
    at = desk()
    for _ in range(3):
        assert at.values(("t", payload)) == {"b": [1.5], "lost": [(0, "not_finite")] * 2}


def test_large_json_is_read_with_care_and_costs_its_neighbours_nothing(desk: Any) -> None:
    """Of nothing but objects it is refused, whatever stands beside it; one that is large for its texts is read."""
    hostile = b"[" + b",".join([b"{}"] * DEAR_ITEMS_MAX) + b"]"
    large = b'{"a":2,"text":"' + b"x" * JSON_BYTES_UNBOUNDED + b'"}'
    at = desk({"match": "#", "fields": "*"})
    for _ in range(6):
        found = at.values(("t", b'{"a":1}'), ("t", hostile), ("u", large), ("t", b'{"a":3}'))
        assert sorted(found.pop("a")) == [1, 2, 3]
        assert found == {"lost": [(1, "too_many_items")]}


def test_a_device_cannot_send_the_gateways_own_numbers(desk: Any) -> None:
    """Without a resource they would be the same series; what a device says of itself is its own affair."""
    at = desk({"match": "#"})
    for _ in range(4):
        found = at.values(("t", b'{"tidegate":{"held":{"readings":1}},"tidegate.device.dropped":2}'))
        assert found == {"tidegate.device.dropped": [2], "lost": [(0, "bad_name")]}
        assert at.values(("a/tidegate.quarantined", b"7"))["lost"] == [(0, "bad_name")]


def test_a_name_must_be_text_that_can_be_sent() -> None:
    """Lone surrogates cannot."""
    assert "UTF-8" in name_problem("a\ud800", letters_max=9)
    assert "longer" in name_problem("a" * 10, letters_max=9)
    assert name_problem("a", letters_max=9) == ""
