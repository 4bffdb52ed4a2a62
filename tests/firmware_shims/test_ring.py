"""The device's ring keeps the newest records, in order, and counts what it let go."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_shims.ring import Ring


def put(ring: Ring, number: int) -> None:
    """Write one record."""
    struct.pack_into("<I", ring.buffer, ring.free(), number)
    ring.push()


def get(ring: Ring) -> list[int]:
    """Read all records, oldest first."""
    return [struct.unpack_from("<I", ring.buffer, ring.offset(k))[0] for k in range(ring.count)]


@given(st.integers(1, 5), st.lists(st.one_of(st.just("put"), st.integers(0, 5))))
def test_a_ring_is_a_bounded_queue(records: int, actions: list[str | int]) -> None:
    """Compared with a deque: the same records, the same number let go."""
    ring, model, dropped, number = Ring(4, records), deque[int](), 0, 0
    for action in actions:
        if action == "put":
            number += 1
            put(ring, number)
            model.append(number)
            if len(model) > records:
                model.popleft()
                dropped += 1
        else:
            count = min(int(action), len(model))
            ring.pop(count)
            for _ in range(count):
                model.popleft()
        assert get(ring) == list(model)
        assert ring.dropped == dropped
    assert len(ring.buffer) == 4 * (records + 1)


def test_what_is_written_and_not_pushed_costs_nothing() -> None:
    """A sample that fails half way leaves the full ring as it was."""
    ring = Ring(4, 2)
    put(ring, 1)
    put(ring, 2)
    struct.pack_into("<I", ring.buffer, ring.free(), 99)
    assert get(ring) == [1, 2]
    assert ring.dropped == 0


def test_mistakes_are_refused() -> None:
    """No empty ring, and no more is let go than is held."""
    with pytest.raises(ValueError, match="at least one record"):
        Ring(4, 0)
    with pytest.raises(ValueError, match="not hold that many"):
        Ring(4, 1).pop(1)
