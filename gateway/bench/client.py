"""A program with a client inside: what a call takes, how many readings go through, what memory it adds."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from gateway.bench.end_to_end import start_sink
from gateway.bench.processes import Child, Workshop
from gateway.bench.report import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.bench.report import Result


def calls(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure a client's calls in a process of their own, with a receiver in another."""
    with Workshop.open() as shop:
        sink = start_sink(shop)
        seconds = "0.5" if quick else "3"
        command = ("--endpoint", sink.endpoint, "--state-dir", str(shop.folder / "client"), "--seconds", seconds)
        child = Child(sys.executable, "-m", "gateway.bench.client_load", *command, pipe=True)
        shop.add(child)
        found: dict[str, Any] = json.loads(child.line())
    yield Figure(
        "client: CPU of a send_metric", found["call_us"], "µs",
        note=f"{found['calls_per_s'] / 1e3:.0f} k/s; {found['call_with_attributes_us']:.2f} with attributes",
    )  # fmt: skip
    yield Figure(
        "client: CPU of the whole process for each, all the way to OTLP", found["cpu_us"], "µs",
        note=f"{found['delivered']:,} delivered",
    )  # fmt: skip
    yield Figure(
        "client: arrays of 10,000 readings, until they are on the disk", found["array_readings_per_s"] / 1e6, "M/s",
        better="more", note=f"{found['array_cpu_ns']:.0f} ns of CPU a reading",
    )  # fmt: skip
    yield Figure(
        "client: added to a bare interpreter", found["rss_added_mb"], "MB",
        note=f"RSS, open and idle, numpy included; {found['rss_added_under_load_mb']:.1f} under load",
    )  # fmt: skip
