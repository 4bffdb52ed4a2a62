"""Columns about series: found by number, kept in order, and who goes first."""

from __future__ import annotations

import numpy as np

from gateway.store.uses import BACK_IDLE_S, CAME_BACK_S, ONCE_IDLE_S, ROWS_FIRST, Uses, first_enough


def filled(count: int, *, now_s: int = 0) -> Uses:
    """Return series 10, 20, 30 and so on, with sizes 1, 2, 3."""
    uses = Uses()
    for k in range(1, count + 1):
        uses.add(10 * k, owner=k % 2, size=k, now_s=now_s)
    return uses


def numbers(*found: int) -> np.ndarray:
    return np.array(found, np.uint32)


def test_rows_are_found_by_number() -> None:
    """Those that are not there are left out, below, between and above."""
    uses = filled(3 * ROWS_FIRST)
    assert len(uses) == 3 * ROWS_FIRST
    assert uses.places(numbers(5, 10, 15, 30, 10 * 3 * ROWS_FIRST, 2**32 - 1)).tolist() == [0, 2, 3 * ROWS_FIRST - 1]
    assert uses.places(numbers()).tolist() == []
    assert Uses().places(numbers(1, 2)).tolist() == []


def test_a_commit_is_noted_for_what_it_holds() -> None:
    """When, and up to which segment; the others stay."""
    uses = filled(3)
    uses.note(numbers(10, 30, 40), held_to=7, now_s=99)
    assert uses["held_to"].tolist() == [7, 0, 7]
    assert uses["used_s"].tolist() == [99, 0, 99]
    assert uses["born_s"].tolist() == [0, 0, 0]


def test_what_has_moved_into_a_newer_segment_is_held_as_long_as_that() -> None:
    """What a newer one holds still is held for that."""
    uses = filled(3)
    uses.note(numbers(10, 30), held_to=7, now_s=99)
    uses.note(numbers(20), held_to=12, now_s=99)
    uses.hold(numbers(10, 20, 40), held_to=9)
    assert uses["held_to"].tolist() == [9, 12, 7]
    assert uses["used_s"].tolist() == [99, 99, 99]


def test_the_same_series_are_noted_again_wherever_they_stand_now() -> None:
    """After new ones came, and after others went."""
    uses = filled(3)
    uses.note(numbers(20, 40), held_to=1, now_s=1)
    uses.add(40, owner=0, size=1, now_s=2)
    uses.note(numbers(20, 40), held_to=3, now_s=3)
    assert uses["held_to"].tolist() == [0, 3, 0, 3]
    uses.drop(uses["number"] == 10)
    uses.note(numbers(20, 40), held_to=4, now_s=4)
    assert uses["held_to"].tolist() == [4, 0, 4]


def test_it_may_begin_with_many() -> None:
    """And goes on from there."""
    uses = Uses()
    count = 2 * ROWS_FIRST
    uses.fill(np.arange(1, count + 1, dtype=np.uint32), owner=0, sizes=np.full(count, 9), now_s=5, held_to=3)
    uses.add(count + 5, owner=1, size=8, now_s=6)
    assert uses["held_to"].tolist() == [3] * count + [0]
    assert uses["size"].tolist() == [9] * count + [8]


def test_what_is_dropped_gives_its_memory_back() -> None:
    """The rest stays in order."""
    uses = filled(10 * ROWS_FIRST)
    uses.drop(uses["number"] > 30)
    assert uses["number"].tolist() == [10, 20, 30]
    assert uses["size"].tolist() == [1, 2, 3]
    assert len(uses._columns["number"]) == ROWS_FIRST
    uses.add(35, owner=0, size=1, now_s=0)
    assert uses.places(numbers(20, 35)).tolist() == [1, 3]


def test_who_may_go_and_who_first() -> None:
    """Long idle ones anyway; else what never came back, then what is idle for longest, of equals the youngest."""
    uses = filled(6)
    uses["used_s"][:] = [0, CAME_BACK_S, CAME_BACK_S + 5, 10, 10, CAME_BACK_S]
    free = np.array([True] * 5 + [False])
    now_s = CAME_BACK_S + 5 + BACK_IDLE_S
    lapsed, others = uses.ripe(free, now_s=now_s, idle_s=now_s)
    assert lapsed.tolist() == [True] + [False] * 5
    assert others.tolist() == [4, 3, 1, 2]
    _, others = uses.ripe(free, now_s=ONCE_IDLE_S + 9, idle_s=10**9)
    assert others.tolist() == [0]


def test_as_many_as_make_up_for_both() -> None:
    """Count and bytes; nothing where nothing is needed, all where all is too little."""
    sizes = np.array([4, 4, 4], np.int64)
    assert [first_enough(sizes, count=c, size=s) for c, s in ((0, 0), (1, 0), (0, 4), (0, 5), (1, 9), (9, 0), (0, 99))] == [
        0, 1, 1, 2, 3, 3, 3,
    ]  # fmt: skip
