"""What the MQTT server costs by itself: its CPU per message with a door that only waits. `python mqtt_bench.py`.

The server runs in a process of its own behind an `accept` that returns after `--commit-ms`; the load comes from
another process. CPU is what /proc says of the server's process, the kernel's share for it included.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway.core.clock import SystemClock
from gateway.core.contracts import Accepted, Arrivals
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.sources.mqtt_server import MqttServerSource
from gateway.sources.mqtt_server_settings import MqttServerSettings

ROOT = Path(__file__).parents[2]


class Door:
    """An accept that waits like a commit and counts."""

    def __init__(self, wait_s: float) -> None:
        self.messages = 0
        self.offers = 0
        self._wait_s = wait_s

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        self.offers += 1
        self.messages += len(arrivals.payloads)
        await asyncio.sleep(self._wait_s)
        return Accepted(len(arrivals.payloads))


async def serve(commit_s: float, in_flight: int) -> None:
    """Serve until stdin closes; print the port first and the figures last."""
    door = Door(commit_s)
    settings = MqttServerSettings(
        name="direct",
        listen="127.0.0.1:0",
        in_flight_bytes_max=Size(in_flight),
        in_flight_bytes_total=Size(4 * in_flight),
    )
    source = MqttServerSource(settings, accept=door, clock=SystemClock(), telemetry=Telemetry())
    task = asyncio.create_task(source.run())
    await source.listening.wait()
    print(source.address[1], flush=True)
    loop = asyncio.get_running_loop()
    before = resource.getrusage(resource.RUSAGE_SELF)
    profiler = cProfile.Profile() if os.environ.get("PROFILE") else None
    if profiler:
        profiler.enable()
    await loop.run_in_executor(None, sys.stdin.read)
    if profiler:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(18)
    after = resource.getrusage(resource.RUSAGE_SELF)
    task.cancel()
    await asyncio.wait([task])
    print(
        json.dumps(
            {
                "messages": door.messages,
                "offers": door.offers,
                "user_s": after.ru_utime - before.ru_utime,
                "system_s": after.ru_stime - before.ru_stime,
                "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
            }
        )
    )


def once(arguments: argparse.Namespace) -> dict[str, float]:
    """One server, one load; return the figures of both."""
    command = [
        sys.executable,
        __file__,
        "--serve",
        "--commit-ms",
        str(arguments.commit_ms),
        "--in-flight-mib",
        str(arguments.in_flight_mib),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline().strip()
        load = subprocess.run(
            [
                sys.executable, "-m", "gateway.bench.load", "--port", port, "--seconds", str(arguments.seconds),
                "--version", str(arguments.version), "--window", str(arguments.window),
                "--connections", str(arguments.connections), "--payload-bytes", str(arguments.payload_bytes),
            ],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        server.stdin.close()
        cost = json.loads(server.stdout.read())
    if load.returncode:
        raise SystemExit(load.stderr)
    sent = json.loads(load.stdout)
    messages = cost["messages"]
    return {
        "per_second": round(sent["per_second"]),
        "us_per_message": round((cost["user_s"] + cost["system_s"]) / messages * 1e6, 3),
        "user_us": round(cost["user_s"] / messages * 1e6, 3),
        "system_us": round(cost["system_s"] / messages * 1e6, 3),
        "messages_per_offer": round(messages / cost["offers"]),
        "generator_us": round(sent["cpu_s"] / messages * 1e6, 3),
        "rss_mb": round(cost["rss_mb"], 1),
        "lost": sent["sent"] - sent["acknowledged"],
    }


def main() -> None:
    """Measure a few times and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--commit-ms", type=float, default=50.0)
    parser.add_argument("--in-flight-mib", type=float, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--window", type=int, default=60_000)
    parser.add_argument("--version", type=int, choices=(4, 5), default=4)
    parser.add_argument("--payload-bytes", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.commit_ms / 1000, int(arguments.in_flight_mib * (1 << 20))))
        return
    rounds = [once(arguments) for _ in range(arguments.rounds)]
    print(json.dumps({key: statistics.median(r[key] for r in rounds) for key in rounds[0]}, indent=2))


if __name__ == "__main__":
    main()
