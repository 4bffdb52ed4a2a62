"""Each reason code has one decision, and a sentence that says what to do."""

from __future__ import annotations

import pytest

from gateway.core.contracts import TryLaterError
from gateway.uplinks.bridge_reasons import decide, decide_connection, decide_end, is_later, words_of
from gateway.uplinks.guards import HoldError, InTransitError, StatusRefusedError, TooLargeError


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (0x97, TryLaterError, 0),
        (0x93, TryLaterError, 0),
        (0x89, TryLaterError, 0),
        (0x95, TooLargeError, 0),
        (0x87, HoldError, 0),
        (0x9B, HoldError, 0),
        (0x90, StatusRefusedError, 400),
        (0x99, StatusRefusedError, 400),
        (0x80, StatusRefusedError, 500),
        (0x83, StatusRefusedError, 500),
        (0xF0, StatusRefusedError, 500),
    ],
)
def test_what_a_message_is_answered_with(code: int, kind: type[Exception], status: int) -> None:
    """The kinds that HTTP's answers come to as well; the topic and the broker's own words stand in the sentence."""
    error = decide(code, what="site/d1/temp", said="line\nend")
    assert type(error) is kind
    assert getattr(error, "status", 0) == status
    assert str(error).startswith(f"the broker refuses site/d1/temp: {words_of(code)} (line\\nend)")
    assert is_later(code) == (kind is TryLaterError)


@pytest.mark.parametrize("code", [0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8E, 0x98, 0x9C, 0x9D])
def test_who_we_are_is_for_a_person(code: int) -> None:
    """A connection that is refused for that is held, and so is one that is ended for it."""
    assert isinstance(decide_connection(code, what="the broker refuses g1"), HoldError)


@pytest.mark.parametrize("code", [0x00, 0x80, 0x88, 0x8B, 0x8D, 0x95, 0x97, 0x9F, 0xA0])
def test_what_passes_is_tried_again(code: int) -> None:
    """Of a connection: all else."""
    assert type(decide_connection(code, what="the broker ended the connection")) is TryLaterError


@pytest.mark.parametrize("code", [0x80, 0x81, 0x82, 0x83, 0x90, 0x95, 0x99])
def test_an_end_that_is_about_a_packet_may_come_again_with_it(code: int) -> None:
    """So it is as if the connection broke; what is too large, and alone, goes in parts at once."""
    for is_one in (False, True):
        kind = TooLargeError if is_one and code == 0x95 else InTransitError
        error = decide_end(code, said="no", is_one=is_one)
        assert type(error) is kind
        assert str(error) == f"the broker ended the connection: {words_of(code)} (no)"
    assert type(decide_end(0x8B, is_one=True)) is TryLaterError
    assert isinstance(decide_end(0x8E), HoldError)
