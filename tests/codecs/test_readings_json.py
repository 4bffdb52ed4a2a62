"""Readings as messages: JSON that anybody reads, topics that any broker takes, nothing lost on the way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import readings_json
from gateway.codecs.otlp import NO_MARKS, Marks
from gateway.codecs.readings_json import Messages, ReadingsEncoder, level, topic_of
from gateway.core.batch import Batch, Series

SERIES = [
    Series((("device.id", "a"),), "temp", "Cel"),
    Series((("device.id", "b"), ("room", "k 1")), "count", kind="sum", attributes=(("phase", 2), ("on", True))),
    Series((), "odd/name+#"),
]
NOW_NS = 1_790_000_000 * 10**9


def encoder(template: str = "site/{device}/{metric}", *, unit: int = 10**6, gateway=()) -> ReadingsEncoder:
    return ReadingsEncoder(template, time_unit_ns=unit, series=SERIES.__getitem__, gateway_attributes=gateway)


def rows(messages: Messages) -> list[tuple[str, dict]]:
    starts = [0, *messages.ends[:-1].tolist()]
    payloads = [messages[start:end] for start, end in zip(starts, messages.ends.tolist(), strict=True)]
    topics = [messages.topics[number].decode() for number in messages.topic_of.tolist()]
    return [(topic, json.loads(payload)) for topic, payload in zip(topics, payloads, strict=True)]


def test_a_reading_is_a_message_with_its_topic() -> None:
    """Value, time and unit; a message for each, in the order of the readings."""
    batch = Batch.of(0, [NOW_NS, NOW_NS + 10**9], np.array([20.5, -1.0]))
    messages = encoder().encode([(batch, NO_MARKS)])
    assert rows(messages) == [
        ("site/a/temp", {"value": 20.5, "ts": 1_790_000_000_000, "unit": "Cel"}),
        ("site/a/temp", {"value": -1.0, "ts": 1_790_000_001_000, "unit": "Cel"}),
    ]
    assert messages.startswith(b'{"value":20.5,"ts":1790000000000,"unit":"Cel"}')
    assert messages.overhead_bytes > 2 * len("site/a/temp")


def test_kinds_and_series_are_mixed_and_keep_their_order() -> None:
    """Doubles, integers, booleans of several series, in one request; message k is about reading k."""
    batch = Batch.join(
        [
            Batch.of(0, [1_000_000], np.array([1.5])),
            Batch.of(1, [2_000_000, 3_000_000], np.array([7, -(2**62)])),
            Batch.of(2, [4_000_000, 5_000_000], np.array([True, False])),
            Batch.of(2, [6_000_000], np.array([0.25])),
        ]
    )
    found = rows(encoder().encode([(batch, NO_MARKS), (Batch.empty(), NO_MARKS)]))
    assert [(topic, row["value"], row["ts"]) for topic, row in found] == [
        ("site/a/temp", 1.5, 1),
        ("site/b/count", 7, 2),
        ("site/b/count", -(2**62), 3),
        ("site/-/odd%2Fname%2B%23", True, 4),
        ("site/-/odd%2Fname%2B%23", False, 5),
        ("site/-/odd%2Fname%2B%23", 0.25, 6),
    ]
    assert found[1][1] == {
        "value": 7, "ts": 2, "kind": "sum", "attributes": {"phase": 2, "on": True}, "resource": {"room": "k 1"},
    }  # fmt: skip


def test_what_is_not_in_the_topic_stands_in_the_message() -> None:
    """The metric's name, and the attributes of whose it is."""
    batch = Batch.of(1, [NOW_NS], np.array([7]))
    ((topic, row),) = rows(encoder("all").encode([(batch, NO_MARKS)]))
    assert topic == "all"
    assert row["metric"] == "count"
    assert row["resource"] == {"device.id": "b", "room": "k 1"}
    ((topic, row),) = rows(encoder("{room}/{device.id}/{metric}/{phase}").encode([(batch, NO_MARKS)]))
    assert topic == "k 1/b/count/2"
    assert "resource" not in row
    assert row["attributes"] == {"on": True}


def test_marks_stand_in_each_message() -> None:
    """As the scope has them in OTLP; each group has its own."""
    late = Marks(backfill=True, time_quality="repaired", time_rejected=True, diluted_s=60)
    batch = Batch.of(0, [NOW_NS], np.array([1.0]))
    first, second = rows(encoder().encode([(batch, NO_MARKS), (batch, late)]))
    assert not {"backfill", "diluted", "time_quality", "time_rejected"} & set(first[1])
    assert second[1]["backfill"] is True
    assert (second[1]["diluted"], second[1]["time_quality"]) == (60, "repaired")
    assert second[1]["time_rejected"] is True


def test_numbers_that_json_does_not_have_are_text() -> None:
    """As proto3's JSON has them; the neighbours are numbers."""
    batch = Batch.of(0, [NOW_NS] * 4, np.array([math.nan, math.inf, -math.inf, 1.0]))
    assert [row["value"] for _, row in rows(encoder().encode([(batch, NO_MARKS)]))] == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.0,
    ]


@pytest.mark.parametrize(("unit", "ts"), [(10**9, 1), (10**6, 1500), (10**3, 1_500_000), (1, 1_500_000_000)])
def test_times_are_whole_numbers_of_the_unit(unit: int, ts: int) -> None:
    """And those before 1970 are 0, as in OTLP."""
    batch = Batch.of(0, [1_500_000_000, -5], np.array([1.0, 2.0]))
    assert [row["ts"] for _, row in rows(encoder(unit=unit).encode([(batch, NO_MARKS)]))] == [ts, 0]


def test_no_readings_are_no_messages() -> None:
    """An empty request."""
    messages = encoder().encode([])
    assert messages == b""
    assert len(messages.ends) == 0
    assert messages.topics == []


def test_attributes_that_json_has_no_word_for() -> None:
    """Integers past 64 bits and numbers that are none are text; broken letters become question marks."""
    series = Series((("big", 2**70), ("nan", math.nan), ("x", 0.5), ("bad", "a\ud800")), "m\ud800")
    one = ReadingsEncoder("{nan}", time_unit_ns=1, series=lambda _: series, gateway_attributes=())
    ((topic, row),) = rows(one.encode([(Batch.of(0, [1], np.array([1.0])), NO_MARKS)]))
    assert topic == "nan"
    assert row["metric"] == "m?"
    assert row["resource"] == {"big": str(2**70), "x": 0.5, "bad": "a?"}


def test_the_gateways_own_attributes_can_be_in_the_topic_and_are_not_repeated() -> None:
    """They are the same in all messages of a gateway."""
    gateway = (("tidegate.gateway.id", "site 7"), ("deployment.environment.name", "prod"))
    one = encoder("{gateway}/{deployment.environment.name}/{device}/{metric}", gateway=gateway)
    ((topic, row),) = rows(one.encode([(Batch.of(0, [1], np.array([1.0])), NO_MARKS)]))
    assert topic == "site 7/prod/a/temp"
    assert "resource" not in row


def test_a_topic_does_not_begin_with_a_dollar() -> None:
    """Brokers keep those for themselves."""
    assert topic_of("{metric}", Series((), "$SYS"), ()) == b"%24SYS"


@given(st.text(), st.text())
def test_levels_are_levels_and_stay_apart(one: str, other: str) -> None:
    """No wildcard, no divider, no control; and two names never share a topic."""
    text = level(one)
    assert text
    assert not set(text) & set("/+#\0\n\x1f\x7f\x85\uffff")
    assert (text == level(other)) == (one == other)


def test_what_is_remembered_of_series_is_bounded(monkeypatch) -> None:
    """By number and by bytes; what was forgotten is written the same."""
    batch = Batch.join([Batch.of(number, [NOW_NS], np.array([1.0])) for number in range(3)])
    whole = encoder().encode([(batch, NO_MARKS)])
    monkeypatch.setattr(readings_json, "PLANS_MAX", 1)
    one = encoder()
    assert one.encode([(batch, NO_MARKS)]) == whole
    assert len(one._plans) == 1
    monkeypatch.setattr(readings_json, "PLANS_MAX", 100)
    monkeypatch.setattr(readings_json, "PLANS_BYTES_MAX", 1)
    one = encoder()
    assert one.encode([(batch, NO_MARKS)]) == whole
    assert len(one._plans) == 1
