"""What an uplink takes is told by class, signal and mapping, and by a number that stays the same."""

from __future__ import annotations

import pytest

from gateway.core.contracts import Priority, Signal
from gateway.store.records import SHELVES
from gateway.store.taking import ANY, EVERYTHING, OWN, Takes, left_out, origin_of, taking

METRICS = (Priority.NORMAL, Signal.METRICS)


def test_what_names_nothing_takes_everything() -> None:
    """Its number is 0, which is that of a state row from before there were any."""
    assert taking() == EVERYTHING == Takes()
    assert EVERYTHING.number == 0
    assert all(EVERYTHING.has(shelf, origin) for shelf in SHELVES for origin in (ANY, OWN, origin_of("x")))


@pytest.mark.parametrize(
    ("takes", "shelves"),
    [
        (taking(classes=["critical"]), {shelf for shelf in SHELVES if shelf[0] is Priority.CRITICAL}),
        (taking(signals=["logs"]), {shelf for shelf in SHELVES if shelf[1] is Signal.LOGS}),
        (taking(signals=["metrics"], classes=["normal"]), {METRICS}),
        (taking(mappings=["x"]), set(SHELVES)),
    ],
)
def test_shelves_are_taken_by_class_and_signal(takes, shelves) -> None:
    """A mapping's readings may be on any of them."""
    assert {shelf for shelf in SHELVES if takes.has_shelf(shelf)} == shelves


def test_mappings_are_taken_by_name() -> None:
    """And what the gateway says of itself, where class and signal are taken; not what nobody tells apart."""
    takes = taking(mappings=["x", "y"], classes=["normal"])
    assert [takes.has(METRICS, origin) for origin in (origin_of("x"), origin_of("y"), OWN)] == [True] * 3
    assert [takes.has(METRICS, origin) for origin in (origin_of("z"), ANY)] == [False] * 2
    assert not takes.has((Priority.BULK, Signal.METRICS), OWN)


def test_numbers_differ_with_what_is_taken() -> None:
    """They stand on the disk: these are the ones of all versions."""
    some = [
        taking(),
        taking(classes=["critical"]),
        taking(classes=["normal"]),
        taking(signals=["logs"]),
        taking(mappings=["x"]),
        taking(mappings=["x", "y"]),
    ]
    assert len({one.number for one in some}) == len(some)
    assert taking(mappings=["y", "x"]).number == taking(mappings=["x", "y"]).number
    assert (origin_of("climate"), taking(classes=["critical"]).number) == (1_837_477_417, 790_936_318)
    assert all(1 < origin_of(name) < 1 << 32 for name in ("", "x", "climate"))


def test_who_leaves_out_is_told_by_bits() -> None:
    """Nobody, one, or all."""
    takes = {2: taking(classes=["critical"]), 4: taking(signals=["metrics"], mappings=["x"])}
    assert left_out(takes, (Priority.CRITICAL, Signal.METRICS), origin_of("x")) == 0
    assert left_out(takes, METRICS, origin_of("x")) == 2
    assert left_out(takes, (Priority.CRITICAL, Signal.METRICS), ANY) == 4
    assert left_out(takes, (Priority.BULK, Signal.TRACES), ANY) == 6


def test_it_is_told_in_the_words_of_the_configuration() -> None:
    """In the order in which they stand there in full."""
    takes = taking(classes=["bulk", "critical"], mappings=["y", "x"])
    assert takes.told() == {
        "classes": ["critical", "bulk"],
        "signals": ["metrics", "logs", "traces"],
        "mappings": ["x", "y"],
    }
