"""Topics that are used again and again keep their place, whatever floods by."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs.routes import MINUTE_NS, MINUTES, ROUTE_BYTES, Owners, Routes


class Table:
    """Routes whose plan is 0 and whose row is a number of its own, as a mapper would use them."""

    def __init__(self, *, count_max: int = 10**6, bytes_max: int = 10**9) -> None:
        self.routes = Routes(count_max=count_max, bytes_max=bytes_max)
        self.rows = 0
        self.dropped: set[int] = set()

    def use(self, *topics: str, minute: int = 0, source: str = "") -> int:
        """Show one buffer of topics; return how many of them were not known."""
        known = self.routes.of(source)
        raw = [topic.encode() for topic in topics]
        missing = [topic for topic in dict.fromkeys(raw) if topic not in known]
        for topic in missing:
            self.routes.add(source, topic, plan=self.rows % 3, row=self.rows, texts=(), row_bytes=0)
            self.rows += 1
        self.routes.note(np.array([known[topic] for topic in raw], np.intp), minute * MINUTE_NS)
        if self.routes.is_over:
            for plan, rows in self.routes.evict():
                assert rows
                assert all(row % 3 == plan for row in rows)
                assert not self.dropped.intersection(rows)
                self.dropped.update(rows)
        return len(missing)

    def knows(self, topic: str, source: str = "") -> bool:
        return topic.encode() in self.routes.of(source)


def test_a_topic_keeps_its_slot() -> None:
    """Through growth; another source's topic of the same name is another."""
    table = Table()
    table.use(*(f"t{k}" for k in range(300)))
    table.use("t7", source="other")
    slots = [table.routes.of(source)[b"t7"] for source in ("", "other")]
    assert table.routes.rows[slots].tolist() == [7, 300]
    assert table.routes.plans[slots].tolist() == [1, 0]
    assert len(table.routes) == 301


def test_bytes_are_bounded_too() -> None:
    """Long topics are fewer; what they take is counted as it is."""
    table = Table(bytes_max=100 * (ROUTE_BYTES + 1000))
    for k in range(300):
        table.use(f"{k:05}" + "x" * 995)
        assert table.routes.size_bytes <= 100 * (ROUTE_BYTES + 1000)
    assert 80 <= len(table.routes) <= 100
    assert table.routes.size_bytes == len(table.routes) * (ROUTE_BYTES + sys.getsizeof(b"x" * 1000))
    assert table.rows - len(table.dropped) == len(table.routes)


def test_a_flood_does_not_push_out_who_has_sent_for_a_while() -> None:
    """A thousand topics a minute that come once or in bursts, ten that come each minute: these are never missing."""
    table = Table(count_max=200)
    honest = [f"h{k}" for k in range(10)]
    table.use(*honest, minute=0)
    misses = 0
    for minute in range(1, 40):
        misses += table.use(*honest, minute=minute)
        for k in range(100):
            flood = [f"f{minute}/{k}/{j}" for j in range(10)]
            for _ in range(3):
                table.use(*flood, minute=minute)
    assert misses == 0
    assert all(table.knows(topic) for topic in honest)


def test_who_was_there_before_it_became_narrow_is_kept() -> None:
    """Even if it says nothing while the flood goes by."""
    table = Table(count_max=200)
    honest = [f"h{k}" for k in range(90)]
    table.use(*honest)
    for k in range(100):
        table.use(*(f"f{k}/{j}" for j in range(10)))
    assert table.use(*honest) == 0


def test_in_its_first_minute_who_comes_back_is_kept() -> None:
    """Before what comes once, of which a flood is made."""
    table = Table(count_max=200)
    honest = [f"h{k}" for k in range(10)]
    misses = [table.use(*honest)]
    for k in range(100):
        table.use(*(f"f{k}/{j}" for j in range(10)))
        misses.append(table.use(*honest))
    assert misses == [10] + [0] * 100


def test_who_comes_during_a_flood_gets_a_place() -> None:
    """Of those that have come once the choice is by chance, so the one that comes again stays in the end."""
    table = Table(count_max=200)
    missed = []
    for minute in range(30):
        for k in range(60):
            missed.append(table.use("new", minute=minute))
            table.use(*(f"f{minute}/{k}/{j}" for j in range(50)), minute=minute)
    assert sum(missed[-300:]) == 0


def test_who_is_gone_makes_room() -> None:
    """After a quarter of an hour what was used all the time is no better than what is new."""
    table = Table(count_max=100)
    for minute in range(30):
        table.use(*(f"old{k}" for k in range(90)), minute=minute)
    for minute in range(30, 30 + 2 * MINUTES):
        table.use(*(f"new{k}" for k in range(90)), minute=minute)
    assert sum(table.knows(f"new{k}") for k in range(90)) == 90


def test_a_pause_makes_nobody_worse() -> None:
    """While nothing arrives nothing is forgotten: only minutes in which something came count."""
    table = Table(count_max=100)
    for minute in range(5):
        table.use("steady", minute=minute)
    table.use(*(f"f{k}" for k in range(150)), minute=100_000)
    assert table.knows("steady")


@settings(max_examples=60)
@given(
    count_max=st.integers(1, 20),
    bytes_max=st.integers(1, 20 * ROUTE_BYTES),
    buffers=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=30), max_size=30),
)
def test_the_table_stays_in_its_bounds_and_true(count_max: int, bytes_max: int, buffers: list[list[int]]) -> None:
    """Whatever comes: within bounds after each buffer, each topic's row its own, no row dropped twice or kept."""
    table = Table(count_max=count_max, bytes_max=bytes_max)
    rows: dict[str, int] = {}
    for minute, buffer in enumerate(buffers):
        before = table.rows
        topics = [f"t{k}" for k in buffer]
        known = {topic for topic in topics if table.knows(topic)}
        table.use(*topics, minute=minute // 3)
        rows |= {topic: before + k for k, topic in enumerate(t for t in dict.fromkeys(topics) if t not in known)}
        assert len(table.routes) <= count_max
        assert table.routes.size_bytes <= bytes_max
        kept = {topic.decode(): slot for topic, slot in table.routes.of("").items()}
        assert {topic: int(table.routes.rows[slot]) for topic, slot in kept.items()} == {t: rows[t] for t in kept}
        assert set(range(table.rows)) - table.dropped == {rows[topic] for topic in kept}


@pytest.mark.parametrize(("position", "owner"), [(0, "s/a"), (1, "s/a"), (2, "s/b"), (4, "s/b"), (5, "s")])
def test_whose_message_it_is_stands_in_runs(position: int, owner: str) -> None:
    """Behind the last run, and without any, it is the source's."""
    assert Owners("s", [(2, "a"), (3, "b")]).of(position) == owner
    assert Owners("s", []).of(position) == "s"
