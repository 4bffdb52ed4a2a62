"""What mapping costs by itself, in one process with no I/O. `python mapping_bench.py` prints it as JSON."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cbor2
import msgspec
import numpy as np

from gateway.codecs.mapping import Mapper, MappingSettings, default_mappings
from gateway.core.contracts import Arrivals

WALL_NS = 1_790_000_000 * 10**9
# Topics are looked up and forms learnt in the first rounds.
WARM_UP = 8
CLIMATE = {
    "match": "plant/{device}/climate",
    "payload": "json",
    "resource": {"device.id": "{device}"},
    "time": {"field": "ts", "unit": "ms"},
    "metrics": [
        {"field": "temp", "name": "temperature", "unit": "Cel"},
        {"field": "hum", "name": "humidity", "unit": "%"},
    ],
}
NESTED = {
    **CLIMATE,
    "metrics": [{"field": "env.temp", "name": "temperature"}, {"field": "env.hum", "name": "humidity"}],
}
WAVE = {
    "match": "bulk/{device}/wave",
    "payload": "cbor",
    "resource": {"device.id": "{device}"},
    "time": {"start": "t0", "step": "dt", "unit": "ns"},
    "fields": "v",
}
SAMPLES = {**CLIMATE, "each": "samples"}


def measure(
    mappings: list[dict[str, Any]] | None, topics: list[bytes], payloads: list[bytes], *, rounds: int
) -> dict[str, float]:
    """Return µs per message and million readings per second, medians over `rounds`."""
    numbers = itertools.count(1)
    known: dict[Any, int] = {}

    def resolve(series: Any, _: str) -> int:
        return known.setdefault(series, next(numbers))

    settings = msgspec.convert(mappings, list[MappingSettings]) if mappings else default_mappings()
    mapper = Mapper(settings, resolve=resolve)
    # Buffers have their own bytes each time: no hash is known beforehand, as from a socket.
    times = []
    readings = 0
    for _ in range(WARM_UP + rounds):
        fresh = [bytes(bytearray(topic)) for topic in topics]
        arrivals = Arrivals("direct", fresh, payloads, 10**12)
        start = time.perf_counter()
        mapped = mapper.map(arrivals, wall_ns=WALL_NS)
        times.append(time.perf_counter() - start)
        readings = mapped.readings
        assert not mapped.malformed, mapped.malformed[:3]
    seconds = statistics.median(times[WARM_UP:])
    return {
        "us_per_message": round(seconds / len(payloads) * 1e6, 3),
        "readings_per_s": round(readings / seconds),
        "readings": readings,
    }


def climate_payloads(count: int, *, nested: bool = False) -> list[bytes]:
    """Return small JSON messages with two readings."""
    random = np.random.default_rng(7)
    documents = []
    for k in range(count):
        values = {
            "temp": round(float(random.normal(20, 3)), 2) + 0.001,
            "hum": round(float(random.normal(45, 5)), 1) + 0.01,
        }
        documents.append({"ts": 1_789_999_000_000 + k, **({"env": values} if nested else values)})
    return [json.dumps(document).encode() for document in documents]


def bench(rounds: int = 30) -> dict[str, dict[str, float]]:
    """Return every figure by name."""
    small = climate_payloads(4000)
    nested = climate_payloads(4000, nested=True)
    one = [b"plant/d1/climate"] * 4000
    thousand = [b"plant/d%d/climate" % (k % 1000) for k in range(4000)]
    typed = cbor2.dumps(
        {
            "t0": 1_789_999_000 * 10**9,
            "dt": 1_000_000,
            "v": {f"ch{c}": cbor2.CBORTag(85, np.arange(200, dtype="<f4").tobytes()) for c in range(4)},
        }
    )
    plain = cbor2.dumps(
        {
            "t0": 1_789_999_000 * 10**9,
            "dt": 1_000_000,
            "v": {f"ch{c}": [float(x) + 0.5 for x in range(200)] for c in range(4)},
        }
    )
    samples = json.dumps({"samples": [json.loads(payload) for payload in small[:100]]}).encode()
    packed = cbor2.dumps({"samples": [json.loads(payload) for payload in small[:100]]})
    waves = [b"bulk/d%d/wave" % (k % 4) for k in range(16)]
    second = {**CLIMATE, "match": "hall/{device}/climate"}
    mixed = [b"hall/x/climate" if k % 2 else b"plant/d1/climate" for k in range(4000)]
    return {
        "json, 1 topic, 4000 messages": measure([CLIMATE], one, small, rounds=rounds),
        "json, 1000 topics, 4000 messages": measure([CLIMATE], thousand, small, rounds=rounds),
        "json, 2 mappings, 4000 messages": measure([CLIMATE, second], mixed, small, rounds=rounds),
        "json, 40 messages": measure([CLIMATE], thousand[:40], small[:40], rounds=10 * rounds),
        "json, 1 message": measure([CLIMATE], one[:1], small[:1], rounds=10 * rounds),
        "json nested, 1000 topics, 4000 messages": measure([NESTED], thousand, nested, rounds=rounds),
        "json default mapping, 1000 topics, 4000 messages": measure(None, thousand, small, rounds=rounds),
        "json default mapping, 40 messages": measure(None, thousand[:40], small[:40], rounds=10 * rounds),
        "json each, 40 lists of 100": measure([SAMPLES], thousand[:40], [samples] * 40, rounds=rounds),
        "cbor each, 40 lists of 100": measure(
            [{**SAMPLES, "payload": "cbor"}], thousand[:40], [packed] * 40, rounds=rounds
        ),
        "cbor small maps, 4000 messages": measure(
            [{**CLIMATE, "payload": "cbor"}], thousand, [cbor2.dumps(json.loads(p)) for p in small], rounds=rounds
        ),
        "cbor typed arrays, 16 of 4x200": measure([WAVE], waves, [typed] * 16, rounds=10 * rounds),
        "cbor typed arrays, 1 of 4x200": measure([WAVE], waves[:1], [typed], rounds=10 * rounds),
        "cbor plain arrays, 16 of 4x200": measure([WAVE], waves, [plain] * 16, rounds=rounds),
        "json arrays, 16 of 4x200": measure(
            [{**WAVE, "payload": "json"}], waves, [json.dumps(cbor2.loads(plain)).encode()] * 16, rounds=rounds
        ),
    }


if __name__ == "__main__":
    print(json.dumps(bench(), indent=1))
