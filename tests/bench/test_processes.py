"""What the benchmark reads of its children."""

from __future__ import annotations

import sys
import time

import pytest

from gateway.bench.processes import Child, SinkUnderTest, Workshop


def test_a_child_that_works_costs_cpu_and_is_ended() -> None:
    """User and system time go up; the workshop ends what it was given."""
    with Workshop.open() as shop:
        child = Child(sys.executable, "-c", "while True: pass")
        shop.add(child)
        before = child.cost()
        time.sleep(0.3)
        spent = child.cost().since(before)
        assert 0.02 < spent.cpu_s <= spent.at_s + 0.05
        assert 1 < child.rss_mb() <= child.rss_peak_mb()
    assert child.process.poll() is not None


@pytest.mark.parametrize(("after", "is_held"), [("", True), ("del held", False)])
def test_memory_is_what_a_child_has_now_and_its_peak_what_it_had(after: str, is_held: bool) -> None:
    """In MB of a million bytes: 100 of them, kept or given back."""
    code = f"held = b'1' * 100_000_000\n{after}\nprint('there', flush=True)\nimport time; time.sleep(60)"
    with Workshop.open() as shop:
        plain = Child(sys.executable, "-c", "print('there', flush=True)\nimport time; time.sleep(60)", pipe=True)
        child = Child(sys.executable, "-c", code, pipe=True)
        for one in (plain, child):
            shop.add(one)
            assert one.line() == "there\n"
        assert child.rss_mb() - plain.rss_mb() == pytest.approx(100 * is_held, abs=1.5)
        assert child.rss_peak_mb() - plain.rss_mb() == pytest.approx(100, abs=1.5)


def test_a_sink_says_where_it_listens() -> None:
    """On a port of its own."""
    with Workshop.open() as shop:
        sink = SinkUnderTest()
        shop.add(sink)
        assert sink.endpoint == f"http://127.0.0.1:{sink.port}"
