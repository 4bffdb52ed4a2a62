"""What the suite measures, in order. Must not measure anything itself."""

from __future__ import annotations

from typing import Final

from gateway.bench import allowance, client, end_to_end, micro, nats, otlp, outage, roads
from gateway.bench.report import Bench

SUITE: Final = [
    Bench("single", end_to_end.single, "single JSON messages, QoS 1, durable, to OTLP"),
    Bench("mosquitto", end_to_end.through_mosquitto, "the same through a broker"),
    Bench("nats", nats.through_nats, "batched readings and JSON messages into a stream of NATS JetStream"),
    Bench("batched", end_to_end.batched, "CBOR arrays of 800 readings, to OTLP"),
    Bench("backlog", end_to_end.backlog, "ten million readings held, then the link comes"),
    Bench("otlp", otlp.through, "log records, spans and data points of programs, in and out as OTLP"),
    Bench("otlp-grpc", otlp.through_grpc, "the same over gRPC, in and out"),
    Bench("client", client.calls, "a Python program with a client inside"),
    Bench("idle", end_to_end.idle, "CPU at 100 readings/s"),
    Bench("flash", end_to_end.flash, "bytes to flash at 1,000 readings/s"),
    Bench("encode", micro.encode, "10,000 readings as OTLP"),
    Bench("wire", micro.on_the_wire, "bytes on the wire in minute batches"),
    Bench("allowance", allowance.allowance, "two days over an allowance, simulated: the bill, and every reading"),
    Bench("month", allowance.month, "thirty days of that, in the better part of an hour", is_long=True),
    Bench(
        "outage", outage.outage, "a day offline, then 64 kbit/s, simulated: what is fresh, and what share the rest has"
    ),
    Bench("roads", roads.hanging, "three uplinks, one of which hangs"),
    Bench("decisions", roads.decisions, "what breakers, waits and the choice of a receiver take"),
    Bench("segments", micro.shelf, "segments by themselves"),
]
