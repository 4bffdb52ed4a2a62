"""How many bytes the shelf writes to flash for each reading, as the kernel counts them (/proc/self/io, write_bytes).

1,000 readings a second (1,000 sensors, decimal values, device clocks in jittered milliseconds: 2.6 bytes a reading
as a segment), a commit a second, one uplink that acks each second's segment before the next comes. The seconds
are not waited for unless `--wait 1` says so: what counts is what a commit writes.

The kernel counts whole pages of 4 KiB, and a commit begins in the page in which the last one ended. So a commit
costs 4,096 bytes and what it appends to the log: frames of 24 bytes and a page of the database. Bytes a reading:

| page, bytes | 512  | 1024 | 2048  | 4096 | of it                                                          |
| ----------- | ---- | ---- | ----- | ---- | -------------------------------------------------------------- |
| as it is    | 7.84 | 8.29 | 10.30 | 8.20 | 512: 7 frames: segment 5, its leaf with the state 1, page 1    |
| 1.3 KB body | 6.8  | 7.2  | 6.2   | 8.2  | whole-second clocks; at 2048 it fits beside the state          |
| state apart | +0.6 | +1.1 | +2.1  | +4.3 | a table of its own for the counters: one page more             |
| psow=0      | +0.4 | +0   | +2    | +0.2 | SQLite then writes all pages of a 4 KiB sector, and pads       |
| -shm file   | +2.4 |      |       | +0.7 | in real time: the kernel writes the mapped index back; hence the VFS unix-excl |

What was tried and left: secure_delete (some builds have it on) doubles what a drain writes; deleting only every
few commits makes the file grow and saves nothing, since page 1 is written for each page taken or freed; without
page 1 (bodies overwritten in place, all of one size) it would be 7.3. Less than 4.1 is not to be had at a commit
a second: each sync writes a page of the kernel's at least. In real time (`--wait 1`) it is 8.1 while the log grows
for the first time: the file system's own blocks count too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.store import connection
from gateway.store.database import Store, StoreSettings

SERIES = 1000


def write_bytes() -> int:
    """Return what this process has made the kernel write so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, number = line.partition(": ")
        if name == "write_bytes":
            return int(number)
    raise OSError("/proc/self/io has no write_bytes")


async def flash_bench(
    folder: Path, *, seconds: int = 600, readings: int = 1000, wait_s: float = 0.0
) -> dict[str, float]:
    """Return bytes a reading for `seconds` commits of `readings` each, and what the parts of it are."""
    clock = FakeClock()
    store = await Store.open(
        state_dir=folder,
        settings=StoreSettings(),
        clock=clock,
        uplinks=["cloud"],
        max_series=SERIES,
        telemetry=Telemetry(),
        commit_interval_s=0.0,
    )
    numbers = [store.resolve(Series((("device.id", f"d{k}"),), "temperature", "Cel")) for k in range(SERIES)]
    series = np.array(numbers, np.uint32)[np.arange(readings) % SERIES]
    random = np.random.default_rng(1)
    level = np.round(random.uniform(15, 30, SERIES), 2)
    written, stored = 0, 0
    warm = max(20, seconds // 10)
    for second in range(warm + seconds):
        if second == warm:
            written, stored = write_bytes(), 0
        level = np.round(level + random.normal(0, 0.05, SERIES), 2)
        times = clock.wall_ns() + random.integers(0, 50, readings) * 1_000_000
        await store.append([(Priority.NORMAL, Batch.of(series, times, level[np.arange(readings) % SERIES]))])
        clock.advance(NS_PER_S)
        await asyncio.sleep(wait_s)
        while lease := await store.lease("cloud", readings_max=100_000, bytes_max=1 << 20):
            stored += lease.size_bytes
            store.ack(lease)
    written = write_bytes() - written
    await store.close()
    return {
        "bytes_per_reading": round(written / seconds / readings, 3),
        "bytes_per_commit": round(written / seconds, 1),
        "segment_bytes_per_reading": round(stored / seconds / readings, 3),
        "page_bytes": connection.PAGE_BYTES,
        "commits": seconds,
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=int, default=600)
    options.add_argument("--readings", type=int, default=1000)
    options.add_argument("--page", type=int, default=connection.PAGE_BYTES)
    options.add_argument("--folder", type=Path, default=None)
    options.add_argument("--wait", type=float, default=0.0)
    wanted = options.parse_args()
    for module in (connection, __import__("gateway.store.room", fromlist=["room"])):
        module.PAGE_BYTES = wanted.page
    folder = Path(tempfile.mkdtemp(dir=wanted.folder))
    try:
        print(
            json.dumps(
                asyncio.run(flash_bench(folder, seconds=wanted.seconds, readings=wanted.readings, wait_s=wanted.wait))
            )
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
