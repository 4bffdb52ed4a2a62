"""Small rounds of the OTLP benchmarks, with bounds that a busy machine keeps too."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_encoding_ten_thousand_readings_takes_under_a_millisecond() -> None:
    """P99 of the thread's own time, in ten series and in a thousand; many times quicker than by objects."""
    found = load("otlp_bench").measure(rounds=100)
    for shape in ("10 x 1000", "1000 x 10", "10000 x 1"):
        assert found[shape]["steady_p99_cpu_us"] < 1000
        assert found[shape]["times_peer"] > 3


def test_minute_batches_stay_under_their_bytes() -> None:
    """At the level that a minute batch gets: whole seconds under 2 bytes, own milliseconds under 2.7."""
    found = load("wire_bench").measure()
    assert found["whole seconds"]["zstd_17"] < 2
    assert found["jittered milliseconds"]["zstd_17"] < 2.7
    assert found["whole seconds"]["zstd_3"] < 2.5
    for clock in found.values():
        assert clock["peer"] > 3 * clock["zstd_17"]
