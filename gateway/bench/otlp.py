"""OTLP in, through the shelf and out again: log records and spans of programs, in requests of a thousand.

Gateway, load and receiver are processes of their own on the same cores; costs are what /proc says of the gateway's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.bench.end_to_end import LOAD_S, check_all_arrived, run_steadily, start_gateway, start_sink
from gateway.bench.processes import Workshop
from gateway.bench.report import Figure
from gateway.net.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.bench.report import Result

RECEIVER: Final = """\
[[sources]]
type = "otlp"
name = "local"
http = "127.0.0.1:{port}"
"""


def through(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure log records, then spans, from a program's socket to a receiver, durable in between."""
    for signal, noun in (("logs", "log records"), ("traces", "spans")):
        port = free_port()
        load = ("--port", str(port), "--signal", signal)
        with Workshop.open() as shop:
            sink = start_sink(shop)
            gateway = start_gateway(shop, source=RECEIVER.format(port=port), endpoint=sink.endpoint)
            seen = run_steadily(
                shop, gateway, sink, seconds=2.0 if quick else LOAD_S, load=load, module="gateway.bench.otlp_load"
            )
            check_all_arrived(gateway, sink)
            yield Figure(
                f"{noun} in as OTLP, kept and out again", seen.arrived / 1e3, "k/s", floor=100, better="more",
                note=f"1,000 a request, counted there; {seen.accepted / 1e3:.0f} k/s acknowledged meanwhile",
            )  # fmt: skip
            yield Figure(f"CPU for each of the {noun}", seen.cpu_s_each * 1e6, "µs")
            yield Figure(
                f"RSS under {noun}", seen.rss_mb, "MB", floor=64, note=f"median; peak {gateway.rss_peak_mb():.1f}"
            )
