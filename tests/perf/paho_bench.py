"""CPU per message of our subscriber beside paho's own receive loop: one broker, one flood, one run.

`python tests/perf/paho_bench.py [--messages N] [--payload BYTES] [--rounds N]` prints a table and JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.core.clock import SystemClock
from gateway.core.contracts import Accepted, Arrivals
from gateway.core.telemetry import Telemetry
from gateway.net.mqtt_packets import connect_bytes, publish_bytes
from gateway.sources.mqtt import MqttSettings, MqttSource
from hil.broker import Broker
from hil.children import Child, python

COMMIT_S = 0.05
PAYLOAD = b'{"ts":1790000000000,"temp":20.51}'
WAIT_S = 60.0


def flood(port: int, messages: int, payload_bytes: int, rate: float) -> None:
    """Publish `messages` at QoS 1 from 50 topics, `rate` a second (0: as fast as the broker takes them)."""
    payload = PAYLOAD.ljust(payload_bytes, b" ")
    topics = [b"plant/d%02d/climate" % number for number in range(50)]
    packets = [
        publish_bytes(topics[number % 50], payload, qos=1, packet_id=number % 60000 + 1) for number in range(6000)
    ]
    step = 500
    with socket.create_connection(("127.0.0.1", port)) as broker:
        broker.sendall(connect_bytes(b"flood"))
        broker.recv(4)
        heard = threading.Thread(target=_swallow, args=(broker, 4 * messages))
        heard.start()
        started_s = time.perf_counter()
        for sent in range(0, messages, step):
            if rate:
                time.sleep(max(0.0, started_s + sent / rate - time.perf_counter()))
            at = sent % len(packets)
            broker.sendall(b"".join(packets[at : at + min(step, messages - sent)]))
        heard.join(WAIT_S)


def _swallow(broker: socket.socket, size: int) -> None:
    while size > 0 and (data := broker.recv(65536)):
        size -= len(data)


@contextlib.contextmanager
def flooding(port: int, messages: int, payload_bytes: int, rate: float) -> Any:
    """Run `flood` in a process of its own."""
    arguments = [
        "--flood",
        str(port),
        "--messages",
        str(messages),
        "--payload",
        str(payload_bytes),
        "--rate",
        str(rate),
    ]
    with Child(python(__file__, *arguments)) as child:
        yield child


def measure_ours(broker: Broker, messages: int, payload_bytes: int, rate: float) -> tuple[float, float]:
    """Return CPU seconds and wall seconds that our source takes."""

    async def main() -> tuple[float, float]:
        done = asyncio.Event()
        count = 0

        async def accept(arrivals: Arrivals, /) -> Accepted:
            nonlocal count
            await asyncio.sleep(COMMIT_S)
            count += len(arrivals.payloads)
            if count >= messages:
                done.set()
            return Accepted(len(arrivals.payloads))

        source = MqttSource(
            MqttSettings(name="bench", url=f"mqtt://127.0.0.1:{broker.port}", topics=("plant/#",), clean=True),
            gateway_id="bench",
            accept=accept,
            clock=SystemClock(),
            telemetry=Telemetry(),
            dice=random.Random(1),
        )
        task = asyncio.create_task(source.run())
        while source.status()["state"] != "connected":
            await asyncio.sleep(0.01)
        with flooding(broker.port, messages, payload_bytes, rate):
            while not source.status()["received"]:
                await asyncio.sleep(0.001)
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            async with asyncio.timeout(WAIT_S):
                await done.wait()
            spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
        task.cancel()
        await asyncio.wait({task})
        return spent

    return asyncio.run(main())


def measure_paho(broker: Broker, messages: int, payload_bytes: int, rate: float) -> tuple[float, float]:
    """Return CPU seconds and wall seconds that paho's loop takes, doing nothing but to acknowledge."""
    started, done, subscribed = threading.Event(), threading.Event(), threading.Event()
    payloads: list[bytes] = []

    def on_message(client: Client, _: object, message: Any) -> None:
        if not payloads:
            started.set()
        payloads.append(message.payload)
        client.ack(message.mid, message.qos)
        if len(payloads) >= messages:
            done.set()

    client = Client(CallbackAPIVersion.VERSION2, "paho", protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 32768
    client.connect("127.0.0.1", broker.port, properties=properties)
    client.subscribe("plant/#", 1)
    client.loop_start()
    subscribed.wait(WAIT_S)
    with flooding(broker.port, messages, payload_bytes, rate):
        started.wait(WAIT_S)
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        if not done.wait(WAIT_S):
            raise TimeoutError(f"{len(payloads)} of {messages}")
        spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
    client.disconnect()
    client.loop_stop()
    return spent


def compare(*, messages: int, payload_bytes: int, rounds: int, rate: float) -> dict[str, float]:
    """Return µs of CPU per message for both, as medians of rounds in turn, and their ratio."""
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "paho": []}
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
        for _ in range(rounds):
            found["ours"].append(measure_ours(broker, messages, payload_bytes, rate))
            found["paho"].append(measure_paho(broker, messages, payload_bytes, rate))
    result = {"messages": float(messages), "payload_bytes": float(payload_bytes)}
    for name, spent in found.items():
        result[f"{name}_us"] = round(1e6 * statistics.median(cpu for cpu, _ in spent) / messages, 3)
        result[f"{name}_per_s"] = round(messages / statistics.median(wall for _, wall in spent))
    result["ratio"] = round(result["paho_us"] / result["ours_us"], 1)
    return result


def main() -> None:
    """Measure, or be the flood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--payload", type=int, default=len(PAYLOAD))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second; 0: as fast as it goes")
    parser.add_argument("--flood", type=int, default=0, help="the broker's port; used for the child")
    options = parser.parse_args()
    if options.flood:
        flood(options.flood, options.messages, options.payload, options.rate)
        return
    result = compare(messages=options.messages, payload_bytes=options.payload, rounds=options.rounds, rate=options.rate)
    for name in ("ours", "paho"):
        print(f"{name}: {result[f'{name}_us']:7.2f} us CPU each, {result[f'{name}_per_s']:9,.0f} messages/s")
    print(f"ratio: {result['ratio']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
