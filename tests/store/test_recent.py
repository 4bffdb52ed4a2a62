"""What came last is in memory, bounded in bytes, and what left is forgotten."""

from __future__ import annotations

from gateway.core.contracts import Priority, Signal
from gateway.store.recent import ORDER_SPARE, Recent, Row
from gateway.store.records import SEQUENCE_END, place

METRICS = (Priority.NORMAL, Signal.METRICS)


def test_memory_keeps_the_newest() -> None:
    """Beyond its bytes the oldest go; below the floor the disk has to be asked."""
    body = bytes(100)
    recent = Recent(bytes_max=3 * len(body), floor=1)
    rows = [Row(place(*METRICS, sequence), 1, 1, len(body)) for sequence in range(1, 6)]
    recent.add([(row, body, None) for row in rows])
    assert recent.floor == 3
    assert recent.size_bytes == 3 * len(body)
    everything = {"lacking": 2, "limit": 10}
    assert recent.rows(0, 1 << 63, **everything, newest=False) == rows[2:]
    assert recent.rows(0, 1 << 63, lacking=2, limit=1, newest=True) == rows[-1:]
    recent.settle(rows[2].id, 2, all_of=6)
    recent.settle(rows[3].id, 6, all_of=6)
    recent.settle(rows[0].id, 6, all_of=6)
    assert recent.rows(0, 1 << 63, **everything, newest=False) == rows[4:]
    recent.remove(rows[2].id)
    recent.add([])
    assert recent.body(rows[3].id) is None
    assert recent.size_bytes == len(body)


def test_what_left_behind_one_that_stays_is_forgotten() -> None:
    """A segment that nobody takes for a month must not make a list of all the others."""
    recent = Recent(bytes_max=1 << 20, floor=1)
    rows = [Row(place(*METRICS, number), 1, 1, 10) for number in range(1, 3000)]
    for row in rows:
        recent.add([(row, b"body", None)])
        if row is not rows[0]:
            recent.remove(row.id)
    assert len(recent._order) <= ORDER_SPARE + 2
    assert recent.rows(0, SEQUENCE_END << 4, lacking=1, limit=10, newest=False) == rows[:1]


def test_what_an_uplink_does_not_take_is_not_its_own() -> None:
    """And what nobody takes is not kept at hand at all; the end is behind it all the same."""
    recent = Recent(bytes_max=1 << 20, floor=1)
    rows = [Row(place(*METRICS, sequence), 1, 1, 10) for sequence in (1, 2, 3)]
    recent.add([(row, b"body", None) for row in rows], left_out={rows[0].id: 2, rows[2].id: 6}, all_of=6)
    every = {"limit": 10, "newest": False}
    assert recent.rows(0, SEQUENCE_END << 4, lacking=2, **every) == [rows[1]]
    assert recent.rows(0, SEQUENCE_END << 4, lacking=4, **every) == rows[:2]
    assert recent.body(rows[2].id) is None
    assert recent.end == 4
    recent.leave({rows[0].id: 4}, [rows[1].id], all_of=6)
    assert recent.size_bytes == 0
