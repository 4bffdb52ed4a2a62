"""A rate, alone and shared."""

from __future__ import annotations

from gateway.uplinks.pacer import PIECE_BYTES_MIN, Pacer


def test_a_line_is_busy_for_as_long_as_it_takes() -> None:
    """What two have sent over it is carried one after the other."""
    pacer = Pacer(1000.0)
    assert pacer.left_s(5.0) == 0
    pacer.sent(500, 5.0)
    pacer.sent(500, 5.0)
    assert (pacer.left_s(5.0), pacer.left_s(5.75), pacer.left_s(9.0)) == (1.0, 0.25, 0.0)
    pacer.sent(1000, 9.0)
    assert pacer.left_s(9.0) == 1.0


def test_pieces_take_a_quarter_of_a_second() -> None:
    """But are not smaller than is worth a packet."""
    assert (Pacer(8000.0).piece_bytes, Pacer(40.0).piece_bytes) == (2000, PIECE_BYTES_MIN)
