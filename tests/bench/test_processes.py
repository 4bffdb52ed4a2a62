"""What the benchmark reads of its children."""

from __future__ import annotations

import sys
import time

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


def test_a_sink_says_where_it_listens() -> None:
    """On a port of its own."""
    with Workshop.open() as shop:
        sink = SinkUnderTest()
        shop.add(sink)
        assert sink.endpoint == f"http://127.0.0.1:{sink.port}"
