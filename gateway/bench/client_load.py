"""A program with a client inside: sends single readings, then arrays, and prints as JSON what that took.

`python -m gateway.bench.client_load --endpoint URL --state-dir DIR --seconds S`. Must not be taken for an example: it
sends as fast as it can and waits where there is no room.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway import Client

BURST: Final = 1000
ARRAY_READINGS: Final = 10_000
SETTLE_S: Final = 0.5
DRAIN_S: Final = 60.0


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    bare_bytes = rss_bytes()
    from gateway import Client  # noqa: PLC0415  after the first look at memory

    with Client(options.endpoint, state_dir=options.state_dir, wait=DRAIN_S) as client:
        time.sleep(SETTLE_S)
        opened_bytes = rss_bytes()
        found = measure(client, seconds=options.seconds)
        found["rss_added_mb"] = (opened_bytes - bare_bytes) / 1e6
        found["rss_added_under_load_mb"] = (rss_bytes() - bare_bytes) / 1e6
    print(json.dumps(found), flush=True)  # noqa: T201  that is what it is for


def rss_bytes() -> int:
    """Return what is resident of this process (proc(5)); by hand, so that looking brings nothing in."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  as cheap as it gets
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(client: Client, *, seconds: float) -> dict[str, Any]:
    """Return times of calls in µs, rates, and the process's time for each reading."""
    began_s = time.process_time()
    plain = rate_of(lambda: client.send_metric("plain", 20.5), seconds)
    attributes = {"device.id": "d1"}
    described = rate_of(lambda: client.send_metric("described", 20.5, unit="Cel", attributes=attributes), seconds)
    is_delivered = client.drain(DRAIN_S)
    status: Any = client.status()
    delivered = sum(uplink["delivered"] for uplink in status["uplinks"].values())
    cpu_s = time.process_time() - began_s
    if not is_delivered or delivered < plain.calls + described.calls:
        raise RuntimeError(f"{delivered} of {plain.calls + described.calls} readings were delivered")
    arrays, array_cpu_s, array_s = send_arrays(client, seconds)
    return {
        "call_us": plain.cpu_us,
        "calls_per_s": plain.per_s,
        "call_with_attributes_us": described.cpu_us,
        "cpu_us": cpu_s * 1e6 / delivered,
        "delivered": delivered,
        "array_readings_per_s": arrays * ARRAY_READINGS / array_s,
        "array_cpu_ns": array_cpu_s * 1e9 / (arrays * ARRAY_READINGS),
    }


class Rate:
    """How often something was called in how long, and what of the thread's own time each call took."""

    def __init__(self, calls: int, took_s: float, cpu_s: float) -> None:
        self.calls = calls
        self.per_s = calls / took_s
        self.cpu_us = cpu_s * 1e6 / calls


def rate_of(call: Callable[[], None], seconds: float) -> Rate:
    """Call it for so long."""
    calls = 0
    began_s, cpu_s = time.perf_counter(), time.thread_time()
    while (took_s := time.perf_counter() - began_s) < seconds:
        for _ in range(BURST):
            call()
        calls += BURST
    return Rate(calls, took_s, time.thread_time() - cpu_s)


def send_arrays(client: Client, seconds: float) -> tuple[int, float, float]:
    """Send arrays for so long; return how many, and the process's and the wall's seconds until they are on the disk."""
    import numpy as np  # noqa: PLC0415  the client has brought it by now

    from gateway.core.clock import SystemClock  # noqa: PLC0415  the same

    values = np.round(np.sin(np.arange(ARRAY_READINGS) / 50), 3)
    start_ns = SystemClock().wall_ns()
    arrays = 0
    cpu_s, began_s = time.process_time(), time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        client.send_metric("array", values, time=start_ns + arrays * ARRAY_READINGS * 1_000, step=1e-6)
        arrays += 1
    client.flush(DRAIN_S)
    return arrays, time.process_time() - cpu_s, time.perf_counter() - began_s


if __name__ == "__main__":
    main()
