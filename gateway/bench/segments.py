"""How fast segments are made and read, and how small they are: `tidegate bench --only segments`.

`measure` returns the figures; medians, since a machine has other things to do. Times are of one thread. Must not be
imported by the gateway.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.batch import MONOTONIC, Batch
from gateway.core.contracts import BootId
from gateway.store.segments import FIRST_HASH, decode_metrics, encode_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

T0: Final = 1_790_000_000 * 10**9
SECOND: Final = 10**9
FLASH: Final = "1,000 readings of a second: "


def walk(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Return decimals that wander by up to 0.03 from reading to reading."""
    return np.round(20 + np.cumsum(random.integers(-3, 4, shape), axis=-1) / 100, 2)


def batches() -> dict[str, Batch]:
    """Return batches as they come from devices, by name."""
    random = np.random.default_rng(1)
    beat = T0 + np.arange(100_000) * SECOND
    waves = np.repeat(T0 + np.arange(25) * 800 * 10**6, 4000) + np.tile(np.arange(800) * 10**6, 125)
    counts = (2048 + 500 * np.sin(np.arange(100_000) / 300) + random.normal(size=100_000) * 4).astype(np.int64)
    ten = np.tile(T0 + np.arange(10) * SECOND, 1000)
    phases = random.integers(0, 1000, 1000) * 10**6
    twenty = np.tile(T0 + np.arange(20) * SECOND // 20, 50)
    stamps = np.sort(random.integers(0, SECOND, 100)).repeat(10)
    step = np.round(20 + np.cumsum(random.choice([-0.01, 0.01], 10_000)), 2)
    return {
        "CBOR arrays: 125 messages of 800, 5 series": Batch.of(
            np.tile(np.repeat(np.arange(5), 800), 25), waves, walk(random, 125, 800).ravel()
        ),
        "CBOR arrays: 125 series of 800": Batch.of(
            np.arange(125).repeat(800), np.tile(waves[:800], 125), walk(random, 125, 800).ravel()
        ),
        "one series of 100,000": Batch.of(1, beat, walk(random, 100_000)),
        "converter counts, 100,000": Batch.of(1, beat, counts),
        "converter volts, 100,000": Batch.of(1, beat, counts * 3.3 / 4096),
        "noise, doubles, 100,000": Batch.of(1, beat, random.normal(size=100_000)),
        "noise, singles, 100,000": Batch.of(1, beat, random.normal(size=100_000).astype(np.float32).astype(np.float64)),
        "constant, 100,000": Batch.of(1, beat, np.full(100_000, 7.25)),
        "decimal column: steps of 0.01 at 1 Hz, 10,000": Batch.of(1, beat[:10_000], step),
        "the same, times jitter by ms": Batch.of(1, beat[:10_000] + random.integers(0, 40, 10_000) * 10**6, step),
        "1,000 series of 10, one beat": Batch.of(np.arange(1000).repeat(10), ten, walk(random, 1000, 10).ravel()),
        "1,000 series of 10, own phase": Batch.of(
            np.arange(1000).repeat(10), ten + phases.repeat(10), walk(random, 1000, 10).ravel()
        ),
        "10,000 series of 1": Batch.of(np.arange(10_000), T0, np.round(random.normal(20, 3, 10_000), 2)),
        FLASH + "50 series of 20": Batch.of(np.arange(50).repeat(20), twenty, walk(random, 50, 20).ravel()),
        FLASH + "1,000 series of 1, one time": Batch.of(np.arange(1000), T0, np.round(random.normal(20, 3, 1000), 2)),
        FLASH + "1,000 series of 1, 100 arrivals in order": Batch.of(
            np.arange(1000), stamps, np.round(random.normal(20, 3, 1000), 1), flags=MONOTONIC
        ),
        FLASH + "1,000 series of 1, 100 arrivals, no order": Batch.of(
            random.permutation(1000), stamps, np.round(random.normal(20, 3, 1000), 1), flags=MONOTONIC
        ),
        "25 readings of 5 series": Batch.of(np.arange(5).repeat(5), ten[:25], walk(random, 5, 5).ravel()),
    }


def median_s(act: Callable[[], object], *, seconds: float) -> float:
    """Return the median time of `act` over about `seconds`."""
    act()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(*, seconds: float = 0.3) -> dict[str, dict[str, float]]:
    """Return for each batch its readings, segment bytes, bytes per reading, and million readings a second."""
    figures: dict[str, dict[str, float]] = {}
    for name, batch in batches().items():
        data = encode_metrics(batch, sequence=1, boot=BootId(1), previous_hash=FIRST_HASH)
        encode_s = median_s(
            partial(encode_metrics, batch, sequence=1, boot=BootId(1), previous_hash=FIRST_HASH),
            seconds=seconds,
        )
        decode_s = median_s(partial(decode_metrics, data), seconds=seconds)
        figures[name] = {
            "readings": len(batch),
            "bytes": len(data),
            "bytes_per_reading": len(data) / len(batch),
            "encode_mreadings_per_s": len(batch) / encode_s / 1e6,
            "decode_mreadings_per_s": len(batch) / decode_s / 1e6,
        }
    return figures
