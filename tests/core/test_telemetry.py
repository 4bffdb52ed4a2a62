"""The gateway's own counters."""

from __future__ import annotations

import pytest

from gateway.core.telemetry import LABEL_SETS_MAX, OTHER, Telemetry


def test_counters_add_up_and_gauges_are_set() -> None:
    """By name and labels; what was never counted is 0."""
    telemetry = Telemetry()
    telemetry.count("a")
    telemetry.count("a", 2)
    telemetry.count("a", 5, source="x")
    telemetry.gauge("b", 7)
    telemetry.gauge("b", 3)
    assert telemetry.value("a") == 3
    assert telemetry.value("a", source="x") == 5
    assert telemetry.value("b") == 3
    assert telemetry.value("c") == 0
    assert telemetry.value("a", source="y") == 0


def test_families_come_by_name() -> None:
    """What they mean is said elsewhere."""
    telemetry = Telemetry()
    telemetry.count("b")
    telemetry.gauge("a", 1)
    assert [(family.name, family.kind, family.help) for family in telemetry.families()] == [
        ("a", "gauge", ""),
        ("b", "counter", ""),
    ]


def test_the_order_of_labels_does_not_matter() -> None:
    """They are a set."""
    telemetry = Telemetry()
    telemetry.count("a", x="1", y="2")
    telemetry.count("a", y="2", x="1")
    assert telemetry.value("a", x="1", y="2") == 2


def test_a_flood_of_labels_ends_in_one_bucket() -> None:
    """Past the bound they are counted together, and nothing is lost."""
    telemetry = Telemetry()
    for number in range(LABEL_SETS_MAX + 10):
        telemetry.count("a", topic=str(number))
    telemetry.count("a", topic="0")
    assert telemetry.value("a", topic=OTHER) == 10
    assert telemetry.value("a", topic="0") == 2
    assert len(telemetry.families()[0].values) == LABEL_SETS_MAX + 1


def test_a_counter_is_no_gauge() -> None:
    """One name, one kind: anything else is our mistake."""
    telemetry = Telemetry()
    telemetry.count("a")
    with pytest.raises(AssertionError, match="a is a counter"):
        telemetry.gauge("a", 1)
