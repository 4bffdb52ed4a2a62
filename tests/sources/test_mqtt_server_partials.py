"""Checks for the count of unfinished packets."""

from __future__ import annotations

from gateway.sources.mqtt_server_partials import PACKET_BYTES_PER_S_MIN, PACKET_S, Partials


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


def test_what_is_read_past_has_time_as_long_as_it_comes() -> None:
    """No more of it is held than its beginning, and it may be as large as a packet can be."""
    partials = Partials()
    for now_s in range(0, 600, 50):
        partials.weigh("a", 1000, fed=1000, now_s=now_s)
        assert not partials.is_late("a", now_s=now_s + PACKET_S)
    assert partials.is_late("a", now_s=550 + PACKET_S + 1)
