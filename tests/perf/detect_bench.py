"""Time per reading of each detector: `python tests/perf/detect_bench.py [--data NAB_DIR]`. Prints medians.

With `--data` (the Numenta Anomaly Benchmark's data/ and labels/) also in how many of its labelled windows the
default configuration says something, and how often it speaks outside of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from pathlib import Path

import numpy as np

from gateway.core.batch import Batch, Series
from gateway.core.units import Duration
from gateway.detect.engine import Engine, build
from gateway.detect.settings import IqrSettings, ZScoreSettings

KINDS = {"zscore": ZScoreSettings(), "iqr": IqrSettings()}
SHAPES = [(1000, 1), (1000, 4), (1000, 10), (1000, 100), (100, 10), (10, 1000), (1, 10_000)]
ROUNDS = 30
PROBATION = 0.15


def measure(kind: str, series: int, readings: int) -> tuple[float, float]:
    """Return µs a reading: the detector alone, and the whole engine."""
    random = np.random.default_rng(1)
    index = np.tile(np.arange(series), readings)
    detector = build(KINDS[kind])
    detector.grow(series)
    engine = Engine([KINDS[kind]], series=lambda number: Series(resource=(("n", number),), name="t"))
    alone: list[float] = []
    whole: list[float] = []
    for number in range(ROUNDS):
        values = random.normal(20.0, 0.5, len(index))
        batch = Batch.of(index, np.full(len(index), number), values)
        started = time.perf_counter()
        detector.update(values, index, batch.time_ns)
        alone.append(time.perf_counter() - started)
        started = time.perf_counter()
        engine.watch(batch)
        whole.append(time.perf_counter() - started)
    per_reading = 1e6 / len(index)
    return statistics.median(alone) * per_reading, statistics.median(whole) * per_reading


def judge(kind: str, folder: Path) -> tuple[int, int, int]:
    """Return windows hit, windows there are, and findings outside of any, over all files."""
    windows = json.loads((folder / "labels" / "combined_windows.json").read_text())
    hit = there = outside = 0
    for path in sorted((folder / "data").glob("*/*.csv")):
        with path.open(newline="") as file:
            rows = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(file)]
        start = min(int(PROBATION * len(rows)), 750)
        settings = type(KINDS[kind])(silence=Duration(0))
        engine = Engine([settings], series=lambda _: Series(resource=(), name="t"))
        values = np.array([value for _, value in rows])
        found = engine.watch(Batch.of(1, np.arange(len(rows)), values))
        moments = [rows[one.time_ns][0] for one in found if one.time_ns >= start]
        spans = [(a.split(".")[0], b.split(".")[0]) for a, b in windows[f"{path.parent.name}/{path.name}"]]
        there += len(spans)
        hit += sum(any(a <= moment <= b for moment in moments) for a, b in spans)
        outside += sum(not any(a <= moment <= b for a, b in spans) for moment in moments)
    return hit, there, outside


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the Numenta Anomaly Benchmark")
    options = parser.parse_args()
    print(f"{'detector':10}{'series':>8}{'readings each':>15}{'µs/reading':>12}{'with engine':>13}")
    for kind in KINDS:
        for series, readings in SHAPES:
            alone, whole = measure(kind, series, readings)
            print(f"{kind:10}{series:8}{readings:15}{alone:12.3f}{whole:13.3f}")
    if options.data is None:
        print("windows of the Numenta Anomaly Benchmark: skipped, no --data")
        return
    for kind in KINDS:
        hit, there, outside = judge(kind, options.data)
        print(f"{kind}: {hit} of {there} windows, {outside} findings outside")


if __name__ == "__main__":
    main()
