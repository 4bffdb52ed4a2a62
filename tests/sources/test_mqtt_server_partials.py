"""Checks for the count of unfinished packets."""

from __future__ import annotations

from typing import NamedTuple

from gateway.sources.mqtt_server_partials import PACKET_BYTES_PER_S_MIN, PACKET_S, Partials


class Someone(NamedTuple):
    """A connection, as far as it matters here."""

    name: str
    owner: tuple[str, str]


def test_many_small_ones_of_one_owner_do_not_push_out_anothers_large_one() -> None:
    """The largest of whoever holds most in all."""
    partials = Partials()
    small, larger = Someone("1", ("mallory", "")), Someone("2", ("mallory", ""))
    large = Someone("3", ("alice", ""))
    partials.weigh(small, 70, fed=70)
    partials.weigh(larger, 80, fed=80)
    partials.weigh(large, 100, fed=100)
    assert partials.largest({}) == larger
    partials.weigh(larger, 0)
    assert partials.largest({}) == large


def test_who_holds_most_is_found_strangers_first() -> None:
    """However little a stranger holds."""
    partials = Partials()
    a, b, s = (Someone(name, (name, "")) for name in "abs")
    partials.weigh(a, 100, fed=100)
    partials.weigh(b, 300, fed=300)
    partials.weigh(s, 2, fed=2)
    assert partials.total == 402
    assert partials.largest({s: None, "other": None}) == s
    assert partials.largest({}) == b
    partials.weigh(b, 0)
    assert partials.total == 102
    assert partials.largest({}) == a


def test_a_packet_has_its_time_from_its_first_byte() -> None:
    """More bytes of it prolong that a little; its end, and not being read, begin anew."""
    partials = Partials()
    partials.weigh("a", 10, fed=10, now_s=0)
    partials.weigh("a", 20, fed=10, now_s=50)
    assert not partials.is_late("a", now_s=PACKET_S)
    assert partials.is_late("a", now_s=PACKET_S + 1)
    partials.weigh("a", 20, fed=10, now_s=55)
    assert not partials.is_late("a", now_s=PACKET_S + 55)
    assert partials.is_late("a", now_s=PACKET_S + 56)
    partials.restart("a", now_s=100)
    partials.restart("b", now_s=100)
    assert not partials.is_late("a", now_s=PACKET_S + 100)
    partials.weigh("a", 10 * PACKET_BYTES_PER_S_MIN, fed=10 * PACKET_BYTES_PER_S_MIN - 20, now_s=101)
    assert not partials.is_late("a", now_s=PACKET_S + 109)
    assert partials.is_late("a", now_s=PACKET_S + 111)
    assert not partials.is_late("b", now_s=1000)
