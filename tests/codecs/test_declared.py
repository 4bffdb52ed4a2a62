"""Mappings that list their metrics."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.mapping import MappingSettings
from gateway.core.batch import DEVICE_TIME_REJECTED, MONOTONIC, Series
from gateway.core.contracts import Priority

CLIMATE: dict[str, Any] = {
    "match": "plant/{device}/climate",
    "payload": "json",
    "resource": {"device.id": "{device}"},
    "attributes": {"line": 5, "from": "{source}"},
    "time": {"field": "ts", "unit": "ms"},
    "metrics": [
        {"field": "temp", "name": "temperature", "unit": "Cel"},
        {"field": "env.hum", "name": "humidity", "unit": "%", "kind": "sum"},
    ],
    "class": "critical",
}
T = "plant/d1/climate"
NOW_MS = 1_789_999_000_000


def test_a_message_becomes_readings_with_all_that_the_mapping_says(desk: Any) -> None:
    """Names, units, kinds, whose they are, when, and how much they matter."""
    (temperature, humidity), mapped = desk(CLIMATE).map((T, b'{"ts":%d,"temp":20.5,"env":{"hum":40}}' % NOW_MS))
    resource, attributes = (("device.id", "d1"),), (("from", "direct"), ("line", 5))
    assert temperature.series == Series(resource, "temperature", "Cel", "gauge", attributes)
    assert humidity.series == Series(resource, "humidity", "%", "sum", attributes)
    assert (temperature.value, humidity.value) == (20.5, 40)
    assert (temperature.time_ns, temperature.flags, temperature.priority) == (NOW_MS * 10**6, 0, Priority.CRITICAL)
    assert mapped.malformed == []


def test_cbor_and_json_give_the_same(desk: Any) -> None:
    """By their own decoders, and with auto for both in one buffer."""
    document = {"ts": NOW_MS, "temp": 20.5, "env": {"hum": 40}}
    packed, text = cbor2.dumps(document), json.dumps(document).encode()
    expected = desk(CLIMATE).map((T, text))[0]
    assert desk({**CLIMATE, "payload": "cbor"}).map((T, packed))[0] == expected
    auto = desk({**CLIMATE, "payload": "auto"})
    assert auto.map((T, packed))[0] == expected
    assert auto.map((T, text))[0] == expected
    assert sorted(row.value for row in auto.map((T, packed), (T, text))[0]) == [20.5, 20.5, 40, 40]


def test_one_wrong_field_costs_no_other(desk: Any) -> None:
    """Neither in its message nor in the buffer."""
    found = desk(CLIMATE).values(
        (T, b'{"temp":"n/a","env":{"hum":40}}'), (T, b'{"temp":20.5,"env":5}'), (T, b"{"), (T, b'{"temp":21.5}')
    )
    assert found == {
        "temperature": [21.5, 20.5],
        "humidity": [40],
        "lost": [(0, "wrong_type"), (2, "malformed_json")],
    }


def test_a_null_or_missing_field_is_no_loss_but_nothing_at_all_is(desk: Any) -> None:
    """A message in which no field is there says so: its sender and its mapping disagree."""
    rows, mapped = desk(CLIMATE).map((T, b'{"temp":null}'), (T, b'{"temp":1.5}'), (T, b'{"x":1}'), (T, b"[1]"))
    assert [row.value for row in rows] == [1.5]
    assert [(index, reason) for index, reason, *_ in mapped.malformed] == [(2, "no_readings"), (3, "no_readings")]
    assert mapped.malformed[0][2] == "the payload has nothing at temp, env.hum"


def test_a_sentence_about_many_fields_stays_short(desk: Any) -> None:
    """Eight are named."""
    many = {"match": "#", "metrics": [{"field": f"f{k}"} for k in range(10)]}
    _, mapped = desk(many).map(("a", b"{}"))
    assert mapped.malformed[0][2].endswith("f6, f7 and 2 more")


def test_a_metric_without_a_name_has_its_path_and_names_may_hold_captures(desk: Any) -> None:
    """As the payload is built, or as the topic says."""
    mapping = {"match": "a/{x}", "metrics": [{"field": "v.a[0]"}, {"field": "b", "name": "{x}.b"}]}
    assert desk(mapping).values(("a/9", b'{"v":{"a":[1]},"b":2}')) == {"v.a[0]": [1], "9.b": [2]}


def test_times_are_the_devices_or_arrival(desk: Any) -> None:
    """Missing, not sane, or without a mapping's word."""
    rows, _ = desk(CLIMATE).map((T, b'{"ts":5,"temp":1}'), (T, b'{"temp":2}'), (T, b'{"ts":%d,"temp":3}' % NOW_MS))
    assert [(row.time_ns, row.flags) for row in rows] == [
        (5000 * 10**9, MONOTONIC | DEVICE_TIME_REJECTED),
        (5000 * 10**9, MONOTONIC),
        (NOW_MS * 10**6, 0),
    ]
    rows, _ = desk({**CLIMATE, "time": None}).map((T, b'{"ts":%d,"temp":1}' % NOW_MS))
    assert [(row.time_ns, row.flags) for row in rows] == [(5000 * 10**9, MONOTONIC)]


def test_ticks_of_many_messages_are_ages(desk: Any) -> None:
    """Each by its own now."""
    mapping = {"match": "#", "time": {"ticks": "t", "now": "now", "unit": "ms"}, "metrics": [{"field": "v"}]}
    rows, _ = desk(mapping).map(("a", b'{"t":90,"now":100,"v":1}'), ("a", b'{"t":5,"now":5,"v":2}'), ("a", b'{"v":3}'))
    assert [5000 * 10**9 - row.time_ns for row in rows] == [10 * 10**6, 0, 0]
    assert {row.flags for row in rows} == {MONOTONIC}


# Series


def test_many_topics_have_rows_of_their_own(desk: Any) -> None:
    """More than a table begins with, in one buffer and in the next."""
    at = desk(CLIMATE)
    messages = [(f"plant/d{k % 150}/climate", b'{"temp":%d}' % (k % 150)) for k in range(300)]
    for _ in range(2):
        rows, _ = at.map(*messages)
        assert [f"d{row.value}" for row in rows] == [dict(row.series.resource)["device.id"] for row in rows]
    assert len(at.series) == 150, "no series of a metric that was never sent"


def test_a_reading_without_a_series_left_is_lost_alone(desk: Any) -> None:
    """And finds one once there is room."""
    at = desk(CLIMATE, series_max=1)
    messages = [(f"plant/d{k}/climate", b'{"temp":%d}' % k) for k in (1, 2, 1)]
    assert at.values(*messages) == {"temperature": [1, 1], "lost": [(1, "max_series")]}
    assert at.values(*messages, (T, b'{"temp":true}'), (T, b'{"temp":2.5}'))["lost"] == [(1, "max_series")]
    at.series_max = 2
    assert at.values(*messages) == {"temperature": [1, 2, 1]}


# each


SAMPLES = {**CLIMATE, "each": "samples"}


@pytest.mark.parametrize("encode", [lambda d: json.dumps(d).encode(), cbor2.dumps])
def test_each_element_of_a_list_is_a_message_of_its_own(desk: Any, encode: Any) -> None:
    """With its own time; what is wrong in one is lost alone."""
    document = {"samples": [{"ts": NOW_MS, "temp": 1}, {"ts": NOW_MS + 1, "temp": "x"}, {"env": {"hum": 5}}, {"z": 1}]}
    other = {"samples": [{"temp": 7}, 5, None]}
    mapping = {**SAMPLES, "payload": "auto"}
    rows, mapped = desk(mapping).map((T, encode(document)), ("plant/d2/climate", encode(other)))
    found = {(dict(row.series.resource)["device.id"], row.name, row.value, row.flags) for row in rows}
    assert found == {
        ("d1", "temperature", 1, 0),
        ("d1", "humidity", 5, MONOTONIC),
        ("d2", "temperature", 7, MONOTONIC),
    }
    assert sorted((lost.at, lost.reason, lost.readings) for lost in mapped.malformed) == [
        (0, "no_readings", 1),
        (0, "wrong_type", 1),
        (1, "wrong_type", 2),
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{}", "no_readings"),
        (b'{"samples":null}', "no_readings"),
        (b'{"samples":5}', "wrong_type"),
        (b'{"samples":{"temp":1}}', "wrong_type"),
        (b"[]", "no_readings"),
        (b'{"samples":[{},{},{},{}]}', "too_many_readings"),
    ],
)
def test_a_payload_without_its_list_is_lost_whole(desk: Any, payload: bytes, reason: str) -> None:
    """One entry; its neighbour in the buffer is kept."""
    at = desk(SAMPLES, limits={"readings_per_payload_max": 3})
    good = (T, b'{"samples":[{"temp":1}]}')
    assert at.values((T, payload), good) == {"temperature": [1], "lost": [(0, reason)]}
    assert at.values(good, (T, b'{"samples":[]}')) == {"temperature": [1]}


def test_the_payload_itself_may_be_the_list(desk: Any) -> None:
    """In JSON and in CBOR."""
    at = desk({**SAMPLES, "each": "*", "payload": "auto"})
    assert at.values((T, b'[{"temp":1},{"temp":2}]'), (T, cbor2.dumps([{"temp": 3}]))) == {"temperature": [1, 2, 3]}
    assert at.values((T, b'[{"temp":1},5]')) == {"temperature": [1], "lost": [(0, "wrong_type")]}
    assert at.values((T, b'{"temp":1}')) == {"lost": [(0, "wrong_type")]}


def test_a_list_may_hang_behind_an_index(desk: Any) -> None:
    """Then it is found document by document."""
    at = desk({**SAMPLES, "each": "s[1]"})
    assert at.values((T, b'{"s":[0,[{"temp":1},{"temp":2}]]}')) == {"temperature": [1, 2]}


def test_elements_without_a_time_of_their_own_follow_each_other_in_steps(desk: Any) -> None:
    """From the document's start; without a step the document is lost."""
    mapping = {**SAMPLES, "time": {"start": "t0", "step": "dt", "unit": "ms"}, "payload": "auto"}
    good = {"t0": NOW_MS, "dt": 5, "samples": [{"temp": 1}, {"temp": 2}]}
    bad = {"t0": NOW_MS, "samples": [{"temp": 3}, {"temp": 4}]}
    for encode in (lambda d: json.dumps(d).encode(), cbor2.dumps):
        rows, mapped = desk(mapping).map((T, encode(good)), (T, encode(bad)), (T, encode(good)))
        assert [(row.value, row.time_ns - NOW_MS * 10**6) for row in rows] == [(1, 0), (2, 5 * 10**6)] * 2
        assert [(index, reason) for index, reason, *_ in mapped.malformed] == [(1, "bad_step")]
        assert desk(mapping).map((T, encode(good)))[1].malformed == []


def test_elements_may_have_ticks_against_the_documents_now(desk: Any) -> None:
    """As a device with a ring sends them."""
    mapping = {**SAMPLES, "time": {"ticks": "t", "now": "now", "unit": "ms"}}
    rows, _ = desk(mapping).map((T, b'{"now":100,"samples":[{"t":90,"temp":1},{"t":100,"temp":2}]}'))
    assert [5000 * 10**9 - row.time_ns for row in rows] == [10 * 10**6, 0]


# Arrays


WAVE = {
    "match": "w",
    "time": {"start": "t0", "step": "dt", "unit": "ms"},
    "metrics": [{"field": "v.a"}, {"field": "v.b", "scale": 2.0}, {"field": "n", "type": "int"}],
}


@pytest.mark.parametrize("typed", [True, False])
def test_arrays_are_readings_in_steps(desk: Any, typed: bool) -> None:
    """Lists and typed arrays; what is one value is at the start."""
    first: Any = cbor2.CBORTag(85, b"\x00\x00\x80\x3f\x00\x00\x00\x40") if typed else [1.0, 2.0]
    second: Any = cbor2.CBORTag(64, b"\x05\x06\x07") if typed else [5, 6, 7]
    rows, mapped = desk(WAVE).map(("w", cbor2.dumps({"t0": NOW_MS, "dt": 10, "v": {"a": first, "b": second}, "n": 3})))
    assert [(row.name, row.value, (row.time_ns - NOW_MS * 10**6) // 10**6) for row in rows] == [
        ("v.a", 1.0, 0),
        ("v.a", 2.0, 10),
        ("v.b", 10.0, 0),
        ("v.b", 12.0, 10),
        ("v.b", 14.0, 20),
        ("n", 3, 0),
    ]
    assert mapped.malformed == []


def test_what_is_wrong_in_an_array_is_lost_alone(desk: Any) -> None:
    """One entry for each value, or one for an array that has no times."""
    found = desk(WAVE).values(
        ("w", b'{"t0":1,"dt":10,"v":{"a":[1,"x",2],"b":null},"n":[1,2.5]}'),
        ("w", b'{"t0":1,"v":{"a":[1,2],"b":7}}'),
        ("w", b'{"t0":1,"dt":1,"z":0}'),
        ("w", cbor2.dumps({"dt": 1, "v": {"a": cbor2.CBORTag(40, [[1, 2], cbor2.CBORTag(64, b"ab")])}})),
        ("w", cbor2.dumps({"dt": 1, "v": {"a": cbor2.CBORTag(86, b"\x00" * 14 + b"\xf8\x7f")}})),
    )
    assert sorted(found["v.a"]) == [0.0, 1, 2]
    assert found["v.b"] == [14.0]
    assert found["n"] == [1]
    assert found["lost"] == [
        (0, "wrong_type"),
        (0, "wrong_type"),
        (1, "bad_step"),
        (2, "no_readings"),
        (3, "wrong_type"),
        (4, "not_finite"),
    ]


def test_sentences_about_joined_arrays_name_the_right_metric(desk: Any) -> None:
    """Though they were read together."""
    metrics = [{"field": "a"}, {"field": "b"}]
    nan = cbor2.CBORTag(86, b"\x00" * 6 + b"\xf8\x7f")
    _, mapped = desk({**WAVE, "metrics": metrics}).map(("w", cbor2.dumps({"a": cbor2.CBORTag(86, bytes(8)), "b": nan})))
    assert mapped.malformed == [(0, "not_finite", "b is not a finite number", 1)]


def test_an_array_is_bounded_and_an_empty_one_is_fine(desk: Any) -> None:
    """By readings_per_payload_max."""
    at = desk({**WAVE, "metrics": [{"field": "a"}]}, limits={"readings_per_payload_max": 3})
    assert at.values(("w", b'{"dt":1,"a":[1,2,3,4]}'), ("w", b'{"dt":1,"a":[]}')) == {
        "lost": [(0, "too_many_readings")]
    }


def test_an_array_without_a_series_left_loses_all_its_readings(desk: Any) -> None:
    """In one entry that counts them."""
    at = desk({**WAVE, "metrics": [{"field": "a"}]}, series_max=0)
    assert at.values(("w", b'{"dt":1,"a":[1,2]}')) == {"lost": [(0, "max_series")] * 2}


def test_a_list_of_times_goes_with_lists_of_values(desk: Any) -> None:
    """Messages with one time may come in the same buffer."""
    mapping = {"match": "w", "time": {"field": "ts", "unit": "ms"}, "metrics": [{"field": "a"}, {"field": "b"}]}
    rows, mapped = desk(mapping).map(
        ("w", b'{"ts":[%d,%d],"a":[1,2],"b":7}' % (NOW_MS, NOW_MS + 5)),
        ("w", b'{"ts":%d,"a":3}' % NOW_MS),
        ("w", b'{"ts":[%d],"a":[1,2]}' % NOW_MS),
        ("w", b'{"ts":[],"b":8}'),
    )
    found = sorted((row.name, row.value, (row.time_ns - NOW_MS * 10**6) // 10**6, row.flags) for row in rows)
    assert found[:4] == [("a", 1, 0, 0), ("a", 2, 5, 0), ("a", 3, 0, 0), ("b", 7, 5, 0)]
    assert found[4][:2] == ("b", 8)
    assert found[4][3] == MONOTONIC
    assert [(index, reason) for index, reason, *_ in mapped.malformed] == [(2, "length_mismatch")]


@pytest.mark.parametrize("encode", [lambda d: json.dumps(d).encode(), cbor2.dumps])
def test_a_list_of_ticks_goes_with_lists_of_values(desk: Any, encode: Any) -> None:
    """As the firmware's batches do; their flags may differ from value to value."""
    mapping = {"match": "w", "time": {"ticks": "t", "now": "now", "unit": "ms"}, "metrics": [{"field": "a"}]}
    rows, _ = desk(mapping).map(("w", encode({"t": [90, -1], "now": 100, "a": [1, 2]})))
    assert [(row.value, (5000 * 10**9 - row.time_ns) // 10**6, row.flags) for row in rows] == [
        (1, 10, MONOTONIC),
        (2, 0, MONOTONIC | DEVICE_TIME_REJECTED),
    ]
    ticks = cbor2.dumps({"t": cbor2.CBORTag(64, b"\x5a\x5b"), "now": 100, "a": [1, 2]})
    rows, _ = desk(mapping).map(("w", ticks))
    assert [(5000 * 10**9 - row.time_ns) // 10**6 for row in rows] == [10, 9]


# Text and CSV


def test_a_text_is_its_value(desk: Any) -> None:
    """Called by the metric's name, or the topic's last level."""
    assert desk({"match": "#", "payload": "text"}).values(("a/temp", b"20.5"), ("a/door", b"ON")) == {
        "temp": [20.5],
        "door": [True],
    }
    named = desk({"match": "#", "payload": "text", "metrics": [{"name": "t", "field": "x", "scale": 2.0}]})
    assert named.values(("a", b"20"), ("a", b"n/a")) == {"t": [40.0], "lost": [(1, "malformed_text")]}
    assert desk({"match": "#", "payload": "text"}).values(("a/", b"1")) == {"a/": [1]}


def test_a_line_of_csv_is_a_message(desk: Any) -> None:
    """With a time of its own; payloads and lines that are none are lost alone."""
    mapping = {
        "match": "w",
        "payload": "csv",
        "columns": ["ts", "t", "h"],
        "time": {"field": "ts", "unit": "s"},
        "metrics": [{"field": "t"}, {"field": "h"}],
    }
    for payload in ("csv", "auto"):
        rows, mapped = desk({**mapping, "payload": payload}).map(
            ("w", b"1789999000,1.5,2\n1789999001,1.25,\n1,2\n1789999002,x,3"), ("w", b"\xff"), ("w", b"1789999009,9,9")
        )
        found = sorted((row.name, row.time_ns // 10**9 - 1789999000, row.value) for row in rows)
        assert found == [("h", 0, 2), ("h", 2, 3), ("h", 9, 9), ("t", 0, 1.5), ("t", 1, 1.25), ("t", 9, 9.0)]
        assert sorted((index, reason) for index, reason, *_ in mapped.malformed) == [
            (0, "malformed_csv"),
            (0, "wrong_type"),
            (1, "malformed_text"),
        ]


def test_columns_are_divided_as_the_mapping_says(desk: Any) -> None:
    """With another sign a comma is a letter like others."""
    mapping = {"match": "w", "payload": "csv", "columns": ["t", "h"], "metrics": [{"field": "t"}, {"field": "h"}]}
    for delimiter in ";", "\t", "|":
        found = desk({**mapping, "delimiter": delimiter}).values(("w", b"1.5%b2" % delimiter.encode()), ("w", b"1,2"))
        assert found == {"t": [1.5], "h": [2], "lost": [(1, "malformed_csv")]}


def test_csv_is_bounded_in_lines(desk: Any) -> None:
    """Ten thousand; each costs microseconds, and the bytes of a payload would allow many more."""
    at = desk({"match": "w", "payload": "csv", "columns": ["t"], "metrics": [{"field": "t"}]})
    assert len(at.values(("w", b"1\n" * 10_000))["t"]) == 10_000
    assert at.values(("w", b"1\n" * 10_001)) == {"lost": [(0, "too_many_readings")]}


@given(st.lists(st.binary(max_size=20), max_size=4), st.sampled_from(["json", "cbor", "text", "csv", "auto"]))
def test_any_bytes_map_or_are_malformed(payloads: list[bytes], payload: str) -> None:
    """One entry at least for each payload that gives no reading, none for one that does not exist."""
    from gateway.codecs.mapping import Mapper
    from gateway.core.contracts import Arrivals

    settings = MappingSettings(match="#", payload=payload, columns=("a", "b") if payload == "csv" else ())
    mapped = Mapper([settings], resolve=lambda *_: 1).map(
        Arrivals("s", [b"t"] * len(payloads), payloads, 1), wall_ns=None
    )
    assert {index for index, *_ in mapped.malformed} <= set(range(len(payloads)))
