"""Checks for who holds how much."""

from __future__ import annotations

from typing import NamedTuple

from gateway.sources.mqtt_server_holdings import Holdings


class Someone(NamedTuple):
    """A connection, as far as it matters here."""

    name: str
    owner: tuple[str, str]


def test_many_small_ones_of_one_owner_do_not_push_out_anothers_large_one() -> None:
    """The largest of whoever holds most in all."""
    holdings = Holdings()
    small, larger = Someone("1", ("mallory", "")), Someone("2", ("mallory", ""))
    large = Someone("3", ("alice", ""))
    for who, held in ((small, 70), (larger, 80), (large, 100)):
        holdings.weigh(who, held)
    assert holdings.largest() == larger
    holdings.weigh(larger, 0)
    assert holdings.largest() == large


def test_who_holds_most_is_found_strangers_first() -> None:
    """However little a stranger holds."""
    holdings = Holdings()
    a, b, s = (Someone(name, (name, "")) for name in "abs")
    for who, held in ((a, 10), (b, 300), (s, 2), (a, 100)):
        holdings.weigh(who, held)
    assert holdings.total == 402
    assert holdings.largest({s: None, "other": None}) == s
    assert holdings.largest() == b
    holdings.weigh(b, 0)
    holdings.weigh(b, 0)
    assert holdings.total == 102
    assert holdings.largest() == a
