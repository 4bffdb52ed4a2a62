"""OTLP in, through the shelf and out again: what programs say of all three signals, in requests of a thousand.

Data points without a detector and with one: what watching costs is the difference.

Gateway, load and receiver are processes of their own on the same cores; costs are what /proc says of the gateway's.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

from gateway.bench.end_to_end import LOAD_S, UPLINK, check_all_arrived, run_steadily, start_gateway, start_sink
from gateway.bench.processes import Workshop
from gateway.bench.report import Figure, Skipped
from gateway.control.extras import EXTRAS
from gateway.net.ports import free_port
from gateway.uplinks.settings import GRPC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.bench.processes import GatewayUnderTest, SinkUnderTest
    from gateway.bench.report import Result

RECEIVER: Final = """\
[[sources]]
type = "otlp"
name = "local"
http = "127.0.0.1:{port}"
"""
GRPC_RECEIVER: Final = RECEIVER + 'grpc = "127.0.0.1:{grpc_port}"\n'
GRPC_UPLINK: Final = UPLINK + 'protocol = "grpc"\n'
NOUNS: Final = {"logs": "log records", "traces": "spans"}
DETECTOR: Final = '[[detectors]]\ntype = "zscore"\n'
# A signal with what is said of it, and what stands beside the receiver in the configuration.
LOADS: Final = (
    *((signal, noun, "") for signal, noun in NOUNS.items()),
    ("metrics", "data points", ""),
    ("metrics", "data points, watched", DETECTOR),
)


def through(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure log records, spans, then data points, from a program's socket to a receiver, durable in between."""
    for signal, noun, more in LOADS:
        port = free_port()
        load = ("--port", str(port), "--signal", signal)
        with Workshop.open() as shop:
            sink = start_sink(shop)
            gateway = start_gateway(shop, source=RECEIVER.format(port=port) + more, endpoint=sink.endpoint)
            yield from _measure(shop, gateway, sink, load=load, noun=noun, quick=quick)


def through_grpc(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure the same where both sides speak gRPC."""
    if missing := [name for name in EXTRAS[GRPC] if importlib.util.find_spec(name) is None]:
        yield Skipped("OTLP over gRPC, in and out", f"{missing[0]} is not installed: pip install tidegate[{GRPC}]")
        return
    for signal in NOUNS:
        port, http_port = free_port(), free_port()
        load = ("--port", str(port), "--signal", signal, "--grpc")
        with Workshop.open() as shop:
            sink = start_sink(shop, with_grpc=True)
            source = GRPC_RECEIVER.format(port=http_port, grpc_port=port)
            gateway = start_gateway(shop, source=source, endpoint=sink.endpoint, uplink=GRPC_UPLINK)
            noun = f"{NOUNS[signal]} over gRPC"
            yield from _measure(shop, gateway, sink, load=load, noun=noun, quick=quick)


def _measure(
    shop: Workshop, gateway: GatewayUnderTest, sink: SinkUnderTest, *, load: tuple[str, ...], noun: str, quick: bool
) -> Iterator[Result]:
    seconds, module = 2.0 if quick else LOAD_S, "gateway.bench.otlp_load"
    seen = run_steadily(shop, gateway, sink, seconds=seconds, load=load, module=module)
    check_all_arrived(gateway, sink)
    yield Figure(
        f"{noun} in as OTLP, kept and out again", seen.arrived / 1e3, "k/s", floor=100, better="more",
        note=f"1,000 a request, counted there; {seen.accepted / 1e3:.0f} k/s acknowledged meanwhile",
    )  # fmt: skip
    yield Figure(f"CPU for each of the {noun}", seen.cpu_s_each * 1e6, "µs")
    yield Figure(f"RSS under {noun}", seen.rss_mb, "MB", floor=64, note=f"median; peak {gateway.rss_peak_mb():.1f}")
