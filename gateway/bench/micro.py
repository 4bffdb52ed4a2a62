"""The parts of the data path by themselves: encoding, wire, segments. Must not start processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.bench import encoding, segments, wire
from gateway.bench.report import Figure, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

P99_US_MAX: Final = 1000
SHAPES: Final = {"10 x 1000": "10 series", "1000 x 10": "1,000 series", "10000 x 1": "10,000 series"}


def encode(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure the encoding of 10,000 readings as OTLP."""
    found = encoding.measure(rounds=100 if quick else 400)
    for shape, name in SHAPES.items():
        row = found[shape]
        yield Figure(
            f"P99 of encoding 10,000 readings in {name}", row["steady_p99_cpu_us"], "µs", floor=P99_US_MAX,
            note=f"of the thread's own time; wall P50 {row['steady_p50_us']:.0f}, wall P99 {row['steady_p99_us']:.0f}; "
            f"{row['times_peer']:.0f} times as fast as protobuf objects",
        )  # fmt: skip


def on_the_wire(quick: bool) -> Iterator[Result]:  # noqa: ARG001, FBT001  the suite's one switch
    """Measure bytes on the wire for 1 Hz telemetry in minute batches."""
    for clock, row in wire.measure().items():
        yield Figure(
            f"wire bytes per reading, 1 Hz, minute batches, device clocks on {clock}", row["zstd_17"], "bytes",
            floor=2.5, goal=2,
            note=f"{row['zstd_3']} at the quick level; {row['peer']} as gzip, a request a timestamp",
        )  # fmt: skip
        yield Figure(
            f"the same against gzip OTLP with attributes per point, device clocks on {clock}",
            100 * row["zstd_17"] / row["peer_together"], "%", floor=50,
            note=f"of {row['peer_together']} bytes, all points of the minute in one request; "
            f"{100 * row['zstd_3'] / row['peer_together']:.0f} % at the quick level; "
            f"{100 * row['zstd_17'] / row['peer']:.0f} % of a request for each timestamp",
        )  # fmt: skip


def shelf(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure segments: bytes per reading, readings a second in and out."""
    for name, row in segments.measure(seconds=0.05 if quick else 0.3).items():
        yield Figure(
            f"segment, {name}", row["bytes_per_reading"], "bytes/reading",
            note=f"encode {row['encode_mreadings_per_s']:.1f} M/s, decode {row['decode_mreadings_per_s']:.1f} M/s",
        )  # fmt: skip
