"""Which mapping takes which message, and that the columns are what one message at a time would give."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs.mapping import MapLimits, Mapped, Mapper, MappingSettings, default_mappings
from gateway.core.batch import DEVICE_TIME_REJECTED, KIND_MASK, MONOTONIC, Series, ValueKind
from gateway.core.clock import WALL_FLOOR_NS
from gateway.core.contracts import Arrivals, Lost, Priority

T = {"metrics": [{"field": "t"}]}
NOW_S = 1_789_999_000


def topics_of(rows: list[Any]) -> dict[str, Any]:
    """Return which topic a value came from, by value."""
    return {row.value: dict(row.series.resource).get("m") for row in rows}


# Which mapping


def test_the_first_mapping_that_matches_takes_the_message(desk: Any) -> None:
    """In the order of the file, for all messages of a buffer at once."""
    at = desk(
        {"match": "a/special", "resource": {"m": "1"}, **T},
        {"match": "a/{x}", "resource": {"m": "2"}, **T},
        {"match": "#", "resource": {"m": "3"}, **T},
    )
    for _ in range(2):
        rows, _ = at.map(("a/special", b'{"t":1}'), ("a/b", b'{"t":2}'), ("c", b'{"t":3}'), ("a/special", b'{"t":4}'))
        assert topics_of(rows) == {1: "1", 2: "2", 3: "3", 4: "1"}


@pytest.mark.parametrize("what", [{"metrics": [{"field": "v"}]}, {"fields": "*"}])
def test_lines_of_csv_are_no_arrays(desk: Any, what: dict[str, Any]) -> None:
    """Where steps are wanted they have none, and say so; whoever shares the buffer keeps its own values."""
    at = desk({"match": "{m}", "resource": {"m": "{m}"}, "time": {"step": "dt"}, **what})
    rows, mapped = at.map(("a", b"v,w\n1,2\n3,4\n"), ("b", b'{"v":[7],"dt":1}'), ("c", b"v,w\n5\n"))
    assert topics_of(rows) == {7: "b"}
    assert [index for index, *_ in mapped.malformed] == [2, 0]


def test_a_mapping_may_be_one_sources(desk: Any) -> None:
    """The same topic from another source goes on to the next; {source} is its name."""
    at = desk(
        {"match": "t", "source": "line1", "resource": {"m": "1"}, **T},
        {"match": "#", "resource": {"m": "{source}"}, **T},
    )
    for _ in range(2):
        assert topics_of(at.map(("t", b'{"t":1}'), source="line1")[0]) == {1: "1"}
        assert topics_of(at.map(("t", b'{"t":2}'), source="direct")[0]) == {2: "direct"}


def test_a_message_that_no_mapping_takes_says_what_there_is(desk: Any) -> None:
    """Eight patterns, and how many more."""
    at = desk(*({"match": f"m{k}", **T} for k in range(10)))
    _, mapped = at.map(("x", b'{"t":1}'), ("m1", b'{"t":1}'))
    assert mapped.readings == 1
    assert mapped.malformed == [
        (0, "no_mapping", 'no mapping takes the topic "x"; there are m0, m1, m2, m3, m4, m5, m6, m7 and 2 more', 1)
    ]
    assert "and" not in desk({"match": "m", **T}).map(("x", b""))[1].malformed[0][2]


@pytest.mark.parametrize(
    ("mapping", "element", "reason"),
    [
        ({"metrics": [{"field": "x"}]}, b"{}", "no_readings"),
        ({"metrics": [{"field": "x"}]}, b'{"x":"y"}', "wrong_type"),
        ({"metrics": [{"field": "x"}]}, b'{"x":1}', "max_series"),
        ({"metrics": [{"field": "x"}]}, b"5", "wrong_type"),
        ({"fields": "*"}, b"{}", "no_readings"),
        ({"fields": "*"}, b'{"x":1}', "max_series"),
    ],
)
def test_a_list_of_what_cannot_be_used_is_few_entries_that_count(
    desk: Any, mapping: dict[str, Any], element: bytes, reason: str
) -> None:
    """A small message must not become a hundred thousand entries, each with its place in memory."""
    at = desk({"match": "#", "payload": "json", "each": "*", **mapping}, series_max=0)
    _, mapped = at.map(("a", b"[" + b",".join([element] * 1000) + b"]"), ("b", b"[" + element + b"]"))
    assert len(mapped.malformed) <= 3
    assert at.lost(mapped) == [(0, reason)] * 1000 + [(1, reason)]


def test_a_message_may_be_dropped_on_purpose(desk: Any) -> None:
    """Counted by a reason of its own."""
    at = desk({"match": "debug/#", "drop": True}, {"match": "#", **T})
    assert at.values(("debug/x", b"{"), ("a", b'{"t":1}')) == {"t": [1], "lost": [(0, "dropped_by_mapping")]}


@pytest.mark.parametrize("metric", [{"name": "{name}"}, {}])
def test_a_topic_cannot_name_the_gateways_own_numbers(desk: Any, metric: dict[str, Any]) -> None:
    """Without a resource they would be the same series; the rest of the buffer is fine."""
    at = desk({"match": "a/{name}", "payload": "text", "metrics": [metric]})
    for _ in range(2):
        rows, mapped = at.map(("a/tidegate.store.used", b"1"), ("a/tidegate.device.used", b"2"), ("a/t", b"3"))
        assert [(row.name, row.value) for row in rows] == [("tidegate.device.used", 2), ("t", 3)]
        ((index, reason, sentence, _),) = mapped.malformed
        assert (index, reason) == (0, "bad_name")
        assert "the gateway's own" in sentence


@pytest.mark.parametrize("topic", [b"a" * 41, b"/".join([b"a"] * 11), b"a/\xff", b"\xff" * 50])
def test_a_topic_that_cannot_be_is_malformed(desk: Any, topic: bytes) -> None:
    """Too long, too many levels, not UTF-8; the rest of the buffer is fine."""
    at = desk({"match": "#", **T}, limits={"topic_bytes_max": 40, "topic_levels_max": 10})
    for _ in range(2):
        assert at.values((topic, b'{"t":1}'), ("ok", b'{"t":2}')) == {"t": [2], "lost": [(0, "bad_topic")]}


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        (b"a" * 41, "longer than 40 bytes or of more than 10 levels"),
        ("a" + "é" * 20, "longer than 40 bytes or of more than 10 levels"),
        (b"/".join([b"a"] * 11), "longer than 40 bytes or of more than 10 levels"),
        (b"a/\xff", "not UTF-8"),
    ],
)
def test_what_a_topic_may_be_is_said(desk: Any, topic: bytes | str, problem: str) -> None:
    """With the numbers, and of a long one no letter is said to be wrong that was cut in two here."""
    at = desk({"match": "#", **T}, limits={"topic_bytes_max": 40, "topic_levels_max": 10})
    _, mapped = at.map((topic, b'{"t":1}'))
    assert mapped.malformed[0].sentence.endswith(f" is {problem}")


def test_an_odd_topic_is_a_topic(desk: Any) -> None:
    """Empty, with empty levels, with wildcards and braces in it, a dollar, a zero byte."""
    at = desk({"match": "#", "resource": {"m": "{topic}"}, **T})
    topics = ["", "/", "a//b", "a/#", "+/{x}", "$SYS/x", "a\0b", "ä/€", " "]
    rows, mapped = at.map(*((topic, b'{"t":%d}' % k) for k, topic in enumerate(topics)))
    assert topics_of(rows) == dict(enumerate(topics))
    assert mapped.malformed == []


def test_topics_that_are_remembered_are_bounded(desk: Any) -> None:
    """Past routes_max the least used go; a buffer with more than that is mapped all the same."""
    at = desk({"match": "#", "resource": {"m": "{topic}"}, **T}, limits={"routes_max": 10})
    for start in range(0, 60, 6):
        expected = {k: f"t{k}" for k in range(start, start + 6)}
        assert topics_of(at.map(*((f"t{k}", b'{"t":%d}' % k) for k in expected))[0]) == expected
        assert len(at.mapper._routes) <= 10
        assert len(at.mapper._plans[0]._topics) == len(at.mapper._routes)
    many = {k: f"t{k}" for k in range(100)}
    assert topics_of(at.map(*((f"t{k}", b'{"t":%d}' % k) for k in many))[0]) == many
    assert topics_of(at.map(("t5", b'{"t":5}'))[0]) == {5: "t5"}


def test_dropping_topics_reaches_every_kind_of_plan(desk: Any) -> None:
    """Those that refuse too."""
    at = desk(
        {"match": "a/#", "drop": True},
        {"match": "b/#", "payload": "json"},
        {"match": "c/#", **T},
        {"match": "e/#", "fields": "v"},
        limits={"routes_max": 5},
    )
    for k in range(5):
        found = at.values(
            (f"a/{k}", b"1"), (f"b/{k}", b"2"), (f"c/{k}", b'{"t":3}'), (f"d/{k}", b"4"), (f"e/{k}", b'{"v":5}')
        )
        assert found == {str(k): [2], "t": [3], "v": [5], "lost": [(0, "dropped_by_mapping"), (3, "no_mapping")]}


EVERY_WAY: list[tuple[dict[str, Any], bytes]] = [
    ({"match": "#", "metrics": [{"field": "a"}, {"field": "b"}]}, b'{"a":1,"b":2}'),
    ({"match": "#", "payload": "json"}, b'{"a":1,"b":2}'),
    ({"match": "#", "payload": "json"}, b'{"a":1,"b":2,"odd":[]}'),
    ({"match": "#", "fields": "v"}, b'{"v":{"a":1,"b":2}}'),
    ({"match": "#", "payload": "cbor"}, cbor2.dumps({"a": 1, "b": 2})),
    ({"match": "#", "metrics": [{"field": "a"}, {"field": "b"}], "time": {"step": "d"}}, b'{"d":1,"a":[1],"b":[2]}'),
]


@pytest.mark.parametrize(("mapping", "payload"), EVERY_WAY)
def test_a_forgotten_number_is_not_given_again(desk: Any, mapping: dict[str, Any], payload: bytes) -> None:
    """Whatever way the payload takes, its series is asked for anew, and the other one is not."""
    at = desk(mapping)
    for _ in range(5):
        assert at.values(("t", payload)) == {"a": [1], "b": [2]}
    asked = at.asked
    at.forget("a")
    for _ in range(5):
        assert at.values(("t", payload)) == {"a": [1], "b": [2]}
    assert at.asked == asked + 1
    assert [series is None for series in at.series] == [True, False, False]


def test_new_series_are_counted_for_whoever_brings_them(desk: Any) -> None:
    """Runs of messages say whose they are; without them it is the source."""
    at = desk({"match": "#", "payload": "json"})
    topics = [(f"t{k}", b'{"m%d":1}' % k) for k in range(4)]
    at.map(*topics, users=[(1, "a"), (2, "b")])
    at.map(("t5", b'{"m5":1}'))
    assert at.owners == {"m0": "direct/a", "m1": "direct/b", "m2": "direct/b", "m3": "direct", "m5": "direct"}


@pytest.mark.parametrize(("mapping", "payload"), EVERY_WAY)
def test_who_speaks_first_on_a_topic_pays_for_nobody_else(desk: Any, mapping: dict[str, Any], payload: bytes) -> None:
    """Whatever way the payload takes, a new series is its sender's; what is there already is found by everybody."""
    at = desk(mapping)
    # The key "b" is another one: in JSON, and in CBOR, where its length (0x61) stands before it.
    without_b = payload.replace(b'"b"', b'"z"').replace(b"ab", b"az")
    for _ in range(3):
        at.map(("t", without_b), ("u", without_b), users=[(2, "eve")])
    at.refused.add("direct/eve")
    for _ in range(3):
        assert at.values(("t", payload), users=[(1, "bob")])["b"] == [2]
    assert at.owners["a"] == "direct/eve"
    assert at.owners["b"] == "direct/bob"
    at.forget("a", "b")
    at.refused.add("line1")
    for _ in range(3):
        assert at.values(("t", payload), source="line1") == {"lost": [(0, "max_series")] * 2}
        assert at.values(("t", payload), users=[(1, "eve")]) == {"lost": [(0, "max_series")] * 2}
    assert at.values(("t", payload), users=[(1, "carl")]) == {"a": [1], "b": [2]}
    assert at.values(("t", payload), users=[(1, "eve")]) == {"a": [1], "b": [2]}
    assert (at.owners["a"], at.owners["b"]) == ("direct/carl", "direct/carl")


def test_a_flood_of_topics_stays_in_its_memory_and_costs_others_nothing() -> None:
    """A thousand a minute of 1 KB that come once, ten honest ones: what they are is asked for once."""
    asked = 0

    def resolve(series: Series, _: str) -> int:
        nonlocal asked
        asked += dict(series.resource)["mqtt.topic"].startswith("plant")
        return 1

    mapper = Mapper(default_mappings(), resolve=resolve, limits=MapLimits(routes_bytes_max=1 << 20))
    honest = [b"plant/d%d" % k for k in range(10)]
    payload = b'{"t":1.5,"u":2}'

    def show(topics: list[bytes], second: int) -> None:
        mapper.map(Arrivals("s", topics, [payload] * len(topics), second * 10**9), wall_ns=None)

    tracemalloc.start()
    for second in range(180):
        show(honest, second)
        for k in range(0, 100, 20):
            show([b"flood/%d/%d/" % (second, k + j) + b"x" * 1000 for j in range(20)], second)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2 << 20
    # Twice each: once for the walk, once for the form that is learnt of its second payload.
    assert asked <= 2 * 2 * len(honest)


def test_nothing_is_nothing() -> None:
    """An empty buffer has no pieces."""
    mapper = Mapper([], resolve=lambda *_: 1)
    assert mapper.map(Arrivals("s", [], [], 0), wall_ns=None) == Mapped()


def test_pieces_are_by_class(desk: Any) -> None:
    """Most important first."""
    at = desk({"match": "a", "class": "bulk", **T}, {"match": "b", "class": "critical", **T}, {"match": "c", **T})
    _, mapped = at.map(("a", b'{"t":1}'), ("b", b'{"t":2}'), ("c", b'{"t":3}'), ("a", b'{"t":4}'))
    assert [(priority, len(batch)) for priority, batch in mapped.pieces] == [
        (Priority.CRITICAL, 1),
        (Priority.NORMAL, 1),
        (Priority.BULK, 2),
    ]


@pytest.mark.parametrize("what", [T, {"fields": "*"}, {"payload": "json", "fields": "*"}])
@pytest.mark.parametrize("name", ["critical", "normal", "bulk"])
@pytest.mark.parametrize("times", [1, 9])
def test_the_class_is_that_of_the_mapping(desk: Any, what: dict[str, Any], name: str, times: int) -> None:
    """Whichever way it names its metrics, and for what comes again and again too."""
    at = desk({"match": "a", "class": name, **what})
    for _ in range(times):
        _, mapped = at.map(("a", b'{"t":1}'))
        assert [priority for priority, _ in mapped.pieces] == [Priority[name.upper()]]


# Which clock


@pytest.mark.parametrize(
    ("wall_ns", "ts", "flags"),
    [
        (NOW_S * 10**9, NOW_S, 0),
        (NOW_S * 10**9, NOW_S + 86_400, 0),
        (NOW_S * 10**9, NOW_S + 86_401, MONOTONIC | DEVICE_TIME_REJECTED),
        (NOW_S * 10**9, 1_500_000_000, 0),
        (NOW_S * 10**9, 946_684_799, MONOTONIC | DEVICE_TIME_REJECTED),
        (None, NOW_S + 86_401, 0),
        (None, 4_102_444_801, MONOTONIC | DEVICE_TIME_REJECTED),
        (WALL_FLOOR_NS - 1, NOW_S, 0),
        (0, NOW_S, 0),
    ],
)
def test_a_devices_time_is_sane_by_our_clock_if_there_is_one(desk: Any, wall_ns: Any, ts: int, flags: int) -> None:
    """A clock from before this software was made was never set."""
    rows, _ = desk({"match": "#", "time": {"field": "ts"}, **T}).map(("a", b'{"ts":%d,"t":1}' % ts), wall_ns=wall_ns)
    assert rows[0].flags == flags


# What one message at a time would give


MAPPINGS = [
    {
        "match": "flat/{device}",
        "payload": "json",
        "resource": {"device.id": "{device}"},
        "time": {"field": "ts", "unit": "ms"},
        "metrics": [
            {"field": "a"},
            {"field": "o.b", "type": "double"},
            {"field": "c", "type": "int"},
            {"field": "d", "scale": 0.1, "offset": -5, "type": "double"},
            {"field": "l[1]", "type": "bool"},
        ],
    },
    {
        "match": "each/{device}",
        "payload": "cbor",
        "each": "s",
        "resource": {"device.id": "{device}"},
        "time": {"field": "ts", "unit": "ms"},
        "metrics": [{"field": "a"}, {"field": "o.b", "type": "double"}],
    },
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**53 + 1, 2**63, 2**64 + 1, "20.5", "on", "n/a", [1], {"b": 1}]),
    st.floats(allow_nan=False),
)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "ts": st.sampled_from([NOW_S * 1000, 5, None, "x", NOW_S * 1000.0, 2**70]),
        "a": SCALARS,
        "o": st.one_of(SCALARS, st.fixed_dictionaries({}, optional={"b": SCALARS})),
        "c": SCALARS,
        "d": SCALARS,
        "l": st.lists(SCALARS, max_size=3),
    },
)
MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["flat/1", "flat/2", "none/3"]), st.one_of(ITEMS, ITEMS, SCALARS)),
        st.tuples(
            st.just("each/1"),
            st.one_of(
                SCALARS,
                st.fixed_dictionaries({}, optional={"s": st.lists(st.one_of(ITEMS, ITEMS, SCALARS), max_size=3)}),
            ),
        ),
    ),
    max_size=8,
)


class Naive:
    """The rules in the fewest words, one value at a time; a metric that has a double anywhere has had one."""

    def __init__(self, mappings: list[dict[str, Any]]) -> None:
        self.mappings = mappings

    def map(self, messages: list[tuple[str, Any]]) -> tuple[list[Any], list[Any]]:
        """Return readings (device, metric, value, ns or None) and losses (index, reason)."""
        readings: list[Any] = []
        lost: list[Any] = []
        for index, (topic, document) in enumerate(messages):
            kind, device = topic.split("/")
            mapping = {"flat": self.mappings[0], "each": self.mappings[1]}.get(kind)
            if mapping is None:
                lost.append((index, "no_mapping"))
                continue
            items = [document]
            if "each" in mapping:
                found = document.get("s") if isinstance(document, dict) else None
                if found is None:
                    lost.append((index, "no_readings"))
                    continue
                items = [item for item in found if isinstance(item, dict)]
                lost += [(index, "wrong_type")] * (len(found) - len(items))
            for item in items:
                self._map_item(index, device, mapping, item, readings, lost)
        return readings, lost

    def _map_item(self, index: int, device: str, mapping: Any, item: Any, readings: Any, lost: Any) -> None:
        is_there = False
        for metric in mapping["metrics"]:
            value = self._find(item, metric["field"])
            is_there |= value is not ...
            if value is ... or value is None:
                continue
            try:
                readings.append((device, metric["field"], self._read(value, metric), self._ns(self._find(item, "ts"))))
            except ValueError as error:
                lost.append((index, str(error)))
        if not is_there:
            lost.append((index, "no_readings"))

    @staticmethod
    def _find(item: Any, path: str) -> Any:
        if not isinstance(item, dict):
            return ...
        if path == "o.b":
            return item["o"].get("b", ...) if isinstance(item.get("o"), dict) else ...
        if path == "l[1]":
            return item["l"][1] if len(item.get("l", [])) > 1 else ...
        return item.get(path, ...)

    @staticmethod
    def _ns(ts: Any) -> int | None:
        if isinstance(ts, int | float) and 946_684_800_000 <= ts < (NOW_S + 86_400) * 1000:
            return int(ts) * 10**6
        return None

    @staticmethod
    def _read(value: Any, metric: dict[str, Any]) -> Any:
        kind = metric.get("type", "auto")
        if isinstance(value, str) and kind != "auto":
            value = {"20.5": 20.5, "on": True}.get(value, value)
        if isinstance(value, str | list | dict):
            raise ValueError("wrong_type")
        if kind == "bool":
            if value not in (0, 1):
                raise ValueError("wrong_type")
            return bool(value)
        if kind == "int":
            if isinstance(value, float) and not value.is_integer():
                raise ValueError("wrong_type")
            value = int(value)
        if kind == "double":
            value = float(value) * metric.get("scale", 1) + metric.get("offset", 0)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("not_finite")
            return value
        if isinstance(value, int) and not -(2**63) <= value < 2**63 and int(float(value)) != value:
            raise ValueError("out_of_range")
        return value


def columnar(messages: list[tuple[str, Any]], *, buffers: int) -> tuple[list[Any], list[Any]]:
    """Map messages with the real mapper, cut into so many buffers."""
    series: list[Series] = []

    def resolve(one: Series, _: str) -> int:
        if one not in series:
            series.append(one)
        return series.index(one)

    settings_of_all = [MappingSettings(**_structs(mapping)) for mapping in MAPPINGS]
    mapper = Mapper(settings_of_all, resolve=resolve, limits=MapLimits())
    readings: list[Any] = []
    lost: list[Any] = []
    size = -(-len(messages) // buffers) or 1
    for start in range(0, len(messages), size):
        part = messages[start : start + size]
        payloads = [
            cbor2.dumps(document) if topic.startswith("each") else json.dumps(document).encode()
            for topic, document in part
        ]
        arrivals = Arrivals("s", [topic.encode() for topic, _ in part], payloads, 0)
        mapped = mapper.map(arrivals, wall_ns=NOW_S * 10**9)
        lost += [(start + one.at, one.reason) for one in mapped.malformed for _ in range(one.readings)]
        for _, batch in mapped.pieces:
            for k in range(len(batch)):
                about, flags = series[int(batch.series[k])], int(batch.flags[k])
                kind = ValueKind(flags & KIND_MASK)
                value: Any = int(batch.bits[k])
                if kind is ValueKind.DOUBLE:
                    value = float(batch.bits[k : k + 1].view("f8")[0])
                ns = None if flags & MONOTONIC else int(batch.time_ns[k])
                readings.append(
                    (
                        dict(about.resource)["device.id"],
                        about.name,
                        bool(value) if kind is ValueKind.BOOL else value,
                        ns,
                    )
                )
    return readings, lost


def _structs(mapping: dict[str, Any]) -> dict[str, Any]:
    import msgspec

    read = msgspec.convert(mapping, MappingSettings)
    return {name: getattr(read, name) for name in MappingSettings.__struct_fields__}


def comparable(readings: list[Any]) -> list[Any]:
    """Return readings in an order of their own; whole doubles and integers are the same, booleans are not."""
    return sorted(
        (
            device,
            name,
            repr(value) if isinstance(value, bool) else repr(float(value) if abs(value) <= 2**53 else value),
            str(ns),
        )
        for device, name, value, ns in readings
    )


@given(MESSAGES, st.sampled_from([1, 2, 99]))
@settings(max_examples=300)
def test_columns_are_what_one_message_at_a_time_gives(messages: list[tuple[str, Any]], buffers: int) -> None:
    """Readings, times and losses of every message, whatever stands beside it."""
    readings, lost = columnar(messages, buffers=buffers)
    expected, expected_lost = Naive(MAPPINGS).map(messages)
    assert sorted(lost) == sorted(expected_lost)
    assert [row[:2] + row[3:] for row in comparable(readings)] == [row[:2] + row[3:] for row in comparable(expected)]
    for got, wanted in zip(comparable(readings), comparable(expected), strict=True):
        assert got == wanted or float(got[2]) == float(wanted[2])


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=40)), max_size=6))
def test_any_topics_and_payloads_are_mapped_or_malformed(messages: list[tuple[bytes, bytes]]) -> None:
    """By the default mapping, twice, so that what was learnt is used."""
    from gateway.codecs.mapping import default_mappings

    mapper = Mapper(default_mappings(), resolve=lambda *_: 1)
    arrivals = Arrivals("s", [topic for topic, _ in messages], [payload for _, payload in messages], 0)
    for _ in range(3):
        mapped = mapper.map(arrivals, wall_ns=None)
        lost = {index for index, *_ in mapped.malformed}
        assert lost <= set(range(len(messages)))
        assert mapped.readings == sum(len(batch) for _, batch in mapped.pieces)
        # A payload that neither gives a reading nor loses one has said null: in JSON, in CBOR, in a cell of CSV.
        silent = [p for k, (_, p) in enumerate(messages) if k not in lost]
        nulls = (b"null", b"\xf6", b"\xf7", b",", b";")
        assert mapped.readings or all(any(null in p for null in nulls) for p in silent)


@pytest.mark.parametrize("bad", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_what_the_source_has_lost_is_not_mapped(desk: Any, bad: list[int]) -> None:
    """It comes back with the source's reason; all others are mapped, each for its own sender."""
    at = desk({"match": "a", **T}, {"match": "#", **T})
    messages = [("a", b'{"t":1}'), ("b", b'{"t":2}'), ("a", b'{"t":3}')]
    lost = [Lost(k, "oversize", "too large") for k in bad]
    rows, mapped = at.map(*messages, users=[(1, "u0"), (1, "u1"), (1, "u2")], lost=lost)
    assert sorted(row.value for row in rows) == [k + 1 for k in range(3) if k not in bad]
    assert mapped.malformed == lost
    assert set(at.owners.values()) <= {f"direct/u{k}" for k in range(3) if k not in bad}
