"""Messages that are laid out as one before. What they are read as is held against the official classes beside."""

from __future__ import annotations

import pytest

from gateway.codecs.otlp_layouts import LAYOUTS_MAX, RESOURCE_BYTES_MAX, Found, Layouts, columns_of
from gateway.core.batch import UNKEPT

WHOSE = b"a program"
POINT = b"\x0a\x12\x19" + bytes(8) + b"\x21" + bytes(8)


def found_in(body: bytes) -> Found:
    """As if POINTs alone had been found in a message."""
    found = Found()
    for k in range(len(body) // len(POINT)):
        found.numbers.append(UNKEPT + k)
        found.starts.append(k * len(POINT) + 2)
    return found


def filled(*pairs: tuple[int, int]) -> bytes:
    return b"".join(
        b"\x0a\x12\x19" + time_ns.to_bytes(8, "little") + b"\x21" + bits.to_bytes(8, "little")
        for time_ns, bits in pairs
    )


def noted(layouts: Layouts, body: bytes, *, times: int = 2) -> None:
    for _ in range(times):
        layouts.note(WHOSE, body, found_in(body))


def test_the_second_of_its_like_is_the_last_that_is_walked() -> None:
    """The next one is only looked at for its times and values."""
    layouts, body = Layouts(bytes_max=1 << 20), filled((1, 2), (3, 4))
    assert layouts.find(WHOSE, body) is None
    noted(layouts, body, times=1)
    assert layouts.find(WHOSE, body) is None
    noted(layouts, body, times=1)
    batch = layouts.find(WHOSE, filled((5, 6), (7, 8)))
    assert batch is not None
    assert (batch.series.tolist(), batch.time_ns.tolist()) == ([UNKEPT, UNKEPT + 1], [5, 7])
    assert batch.bits.tolist() == [6, 8]


@pytest.mark.parametrize("at", [0, 1, 2, 11, 20])
def test_one_that_differs_is_walked(at: int) -> None:
    """By any byte that is no time and no value; its layout is forgotten, and may come back."""
    layouts, body = Layouts(bytes_max=1 << 20), filled((1, 2), (3, 4))
    noted(layouts, body)
    other = bytearray(body)
    other[at] ^= 0x40
    assert layouts.find(b"another program", body) is None
    assert len(layouts) == 1
    assert layouts.find(WHOSE, bytes(other)) is None
    assert (len(layouts), layouts.size_bytes) == (0, 0)
    noted(layouts, body)
    assert layouts.find(WHOSE, body) is not None


def test_what_is_not_regular_is_walked_each_time() -> None:
    """What is in it differs, and what does not fit at all would be all that is kept."""
    layouts, body = Layouts(bytes_max=1 << 20), filled((1, 2))
    for _ in range(3):
        found = found_in(body)
        found.is_regular = False
        layouts.note(WHOSE, body, found)
    small = Layouts(bytes_max=4 * len(body) - 1)
    noted(small, body)
    assert len(layouts) == len(small) == 0


def test_what_is_kept_is_bounded() -> None:
    """By bytes and by number; what was used last stays."""
    layouts = Layouts(bytes_max=1 << 20)
    bodies = [filled(*[(1, 2)] * (k + 1)) for k in range(LAYOUTS_MAX + 5)]
    for body in bodies:
        noted(layouts, body)
        assert layouts.find(WHOSE, bodies[0]) is not None
    assert len(layouts) == LAYOUTS_MAX
    small = Layouts(bytes_max=20_000)
    for body in bodies:
        noted(small, body)
        assert small.size_bytes <= 20_000
    assert 1 < len(small) < LAYOUTS_MAX
    small.clear()
    assert (len(small), small.size_bytes, small.find(WHOSE, bodies[-1])) == (0, 0, None)


def test_of_messages_that_came_once_only_the_last_are_remembered() -> None:
    """As many as there may be layouts."""
    layouts = Layouts(bytes_max=1 << 20)
    bodies = [filled(*[(1, 2)] * (k + 1)) for k in range(LAYOUTS_MAX + 1)]
    for body in [*bodies, bodies[0]]:
        noted(layouts, body, times=1)
    assert len(layouts) == 0
    noted(layouts, bodies[-1], times=1)
    assert len(layouts) == 1


def test_who_says_very_much_of_itself_is_not_remembered() -> None:
    """Sixty-four programs with a quarter of a megabyte each were 15 MB beside all bounds."""
    layouts, body = Layouts(bytes_max=1 << 20), filled((1, 2))
    for resource, is_known in ((b"a" * RESOURCE_BYTES_MAX, True), (b"b" * (RESOURCE_BYTES_MAX + 1), False)):
        for _ in range(2):
            layouts.note(resource, body, found_in(body))
        assert (layouts.find(resource, body) is not None) is is_known
    assert not layouts._seen


def test_a_message_without_points() -> None:
    """Is one whose points are none."""
    assert len(columns_of(b"x", Found())) == 0
