"""A real gateway under load, from the devices' socket to a receiver's: what it takes, costs and leaves behind.

Gateway, load and receiver are processes of their own on the same cores; costs are what /proc says of the gateway's.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.bench.processes import Child, Cost, GatewayUnderTest, SinkUnderTest, Workshop
from gateway.bench.report import Figure, Result, Skipped
from gateway.net.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gateway.bench.processes import Cost

LOAD_S: Final = 8.0
# How long a load runs before it is measured, and after.
SETTLE_S: Final = 1.0
DRAIN_S_MAX: Final = 300.0
BACKLOG_READINGS: Final = 10_000_000
READINGS_PER_BATCH: Final = 800
# Messages in flight on each of four connections: what a commit each 50 ms has to answer, and not much more.
SINGLE_WINDOW: Final = "15000"
BATCHED_WINDOW: Final = "100"
MOSQUITTO: Final = "mosquitto"
PAHO_MESSAGES_MAX: Final = 50_000

CONFIG: Final = """\
[gateway]
id = "bench"
state_dir = {state}

{source}

[[mappings]]
match = "plant/{{device}}/climate"
payload = "json"
resource = {{ "device.id" = "{{device}}" }}
time = {{ field = "ts", unit = "ms" }}
metrics = [
  {{ field = "temp", name = "temperature", unit = "Cel" }},
  {{ field = "hum", name = "humidity", unit = "%" }},
]

[[mappings]]
match = "bulk/{{device}}/wave"
payload = "cbor"
resource = {{ "device.id" = "{{device}}" }}
time = {{ start = "t0", step = "dt", unit = "ns" }}
fields = "v"

[store]
max_bytes = "2GiB"

{uplink}

[control]
listen = "127.0.0.1:{control}"
"""

SERVER: Final = """\
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:{port}"
"""

SUBSCRIBER: Final = """\
[[sources]]
type = "mqtt"
name = "broker"
url = "mqtt://127.0.0.1:{port}"
topics = ["plant/#"]
qos = 1
"""

UPLINK: Final = """\
[[uplinks]]
type = "otlp"
name = "cloud"
endpoint = "{endpoint}"
"""


def start_gateway(shop: Workshop, *, source: str, endpoint: str, uplink: str = UPLINK) -> GatewayUnderTest:
    """Start a gateway with one source and one uplink, and nothing set that a user has not to set."""
    control = free_port()
    config = CONFIG.format(
        state=json.dumps(str(shop.folder / "state")),
        source=source,
        uplink=uplink.format(endpoint=endpoint),
        control=control,
    )
    gateway = GatewayUnderTest(shop.folder, config, control_port=control)
    shop.add(gateway)
    return gateway


def start_sink(shop: Workshop, *, port: int = 0, with_grpc: bool = False) -> SinkUnderTest:
    """Start the counting receiver."""
    sink = SinkUnderTest(port=port, with_grpc=with_grpc)
    shop.add(sink)
    return sink


def counts(sink: SinkUnderTest) -> dict[str, Any]:
    """Return what the receiver has counted."""
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=30)
    try:
        connection.request("GET", "/")
        read: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return read


def run_load(port: int, *options: str) -> dict[str, float]:
    """Run the load generator to its end; return what it did."""
    command = [sys.executable, "-m", "gateway.bench.load", "--port", str(port), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own module
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1:]}")
    read: dict[str, float] = json.loads(done.stdout)
    return read


@dataclass(frozen=True, slots=True)
class Steady:
    """What was measured while a load ran: between two looks, with neither its start nor the emptying at its end."""

    arrived: float  # readings a second at the receiver
    accepted: float  # readings a second on the shelf
    cost: Cost
    readings: int
    rss_mb: float  # the median of looks
    cpu_s_each: float  # of a reading from the device to the receiver's answer, what was held at the end included


def run_steadily(
    shop: Workshop,
    gateway: GatewayUnderTest,
    sink: SinkUnderTest,
    *,
    seconds: float,
    load: Sequence[str],
    module: str = "gateway.bench.load",
) -> Steady:
    """Run a load somewhat longer than `seconds` and look at both ends once it flows."""
    command = [sys.executable, "-m", module, *load, "--seconds", str(seconds + 2 * SETTLE_S)]
    child = Child(*command, pipe=True)
    shop.add(child)
    began = gateway.status()["accepted"]
    while gateway.status()["accepted"] == began:
        time.sleep(0.02)
    time.sleep(SETTLE_S)
    accepted, points, before = gateway.status()["accepted"], counts(sink)["points"], gateway.cost()
    sizes = []
    while time.monotonic() - before.at_s < seconds:
        time.sleep(min(0.25, seconds))
        sizes.append(gateway.rss_mb())
    arrived = counts(sink)["points"] - points
    cost = gateway.cost().since(before)
    first, accepted = accepted, gateway.status()["accepted"] - accepted
    if not child.line():
        raise RuntimeError("the load generator failed")
    check_all_arrived(gateway, sink)
    each_s = gateway.cost().since(before).cpu_s / (gateway.status()["accepted"] - first)
    rss_mb = sorted(sizes)[len(sizes) // 2]
    return Steady(arrived / cost.at_s, accepted / cost.at_s, cost, arrived, rss_mb, each_s)


def _rss(seen: Steady, gateway: GatewayUnderTest) -> Figure:
    peak = f"median; peak {gateway.rss_peak_mb():.1f}"
    return Figure("RSS under that load", seen.rss_mb, "MB", floor=50, note=peak)


def check_all_arrived(gateway: GatewayUnderTest, sink: SinkUnderTest) -> None:
    """Hold the figures to account: what was accepted is what the receiver counted."""
    gateway.wait_delivered(timeout_s=DRAIN_S_MAX)
    accepted, points = gateway.status()["accepted"], counts(sink)["points"]
    if accepted != points:
        raise RuntimeError(f"accepted {accepted} readings, the receiver counted {points}")


def single(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure single JSON messages, QoS 1, durable, straight into mqtt_server, to OTLP."""
    seconds = 2.0 if quick else LOAD_S
    port = free_port()
    with Workshop.open() as shop:
        sink = start_sink(shop)
        gateway = start_gateway(shop, source=SERVER.format(port=port), endpoint=sink.endpoint)
        run_load(port, "--seconds", "1", "--window", SINGLE_WINDOW)
        check_all_arrived(gateway, sink)
        seen = run_steadily(shop, gateway, sink, seconds=seconds, load=("--port", str(port), "--window", SINGLE_WINDOW))
        yield Figure(
            "single JSON messages acknowledged after the commit", seen.accepted / 1e3, "k/s",
            floor=100, goal=200, better="more",
            note=f"4 connections, one reading each; {seen.arrived / 1e3:.0f} k/s at the receiver, all delivered",
        )  # fmt: skip
        yield Figure("CPU per message, all the way to OTLP", seen.cpu_s_each * 1e6, "µs", floor=5, goal=2.5)
        yield Figure(
            "RSS under that load", seen.rss_mb, "MB", floor=50, note=f"median; peak {gateway.rss_peak_mb():.1f}"
        )


def through_mosquitto(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure the same through a broker: the broker is the ceiling."""
    name = "single JSON messages through mosquitto"
    broker_path = shutil.which(MOSQUITTO) or shutil.which(MOSQUITTO, path="/usr/sbin")
    if broker_path is None:
        yield Skipped(name, "mosquitto is not installed")
        return
    port = free_port()
    messages = 20_000 if quick else 600_000
    with Workshop.open() as shop:
        config = shop.folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n"
            "set_tcp_nodelay true\nlog_type error\n",
            encoding="utf-8",
        )
        shop.add(Child(broker_path, "-c", str(config)))
        time.sleep(0.5)
        sink = start_sink(shop)
        gateway = start_gateway(shop, source=SUBSCRIBER.format(port=port), endpoint=sink.endpoint)
        wait_connected(gateway)
        before = gateway.cost()
        load = run_load(port, "--messages", str(messages), "--seconds", "60", "--window", "2000")
        deadline = time.monotonic() + DRAIN_S_MAX
        while gateway.status()["accepted"] < messages and time.monotonic() < deadline:
            time.sleep(0.05)
        took = gateway.cost().since(before)
        check_all_arrived(gateway, sink)
        ours_us = gateway.cost().since(before).cpu_s / load["acknowledged"] * 1e6
        gateway.end()
        paho_us = _paho_us(shop, port, messages)
        per_second = load["acknowledged"] / took.at_s
        yield Figure(name, per_second / 1e3, "k/s", better="more", note="of broker, publisher and gateway together")
        yield Figure("CPU per message through mosquitto, all the way to OTLP", ours_us, "µs")
        yield Figure(
            "paho's own loop against that, acknowledging only", paho_us / ours_us, "times", floor=5, better="more",
            note=f"paho {paho_us:.1f} µs a message in the same run",
        )  # fmt: skip


def _paho_us(shop: Workshop, port: int, messages: int) -> float:
    """Measure what the same messages from the same broker cost paho's own loop."""
    count = min(messages, PAHO_MESSAGES_MAX)
    command = (sys.executable, "-m", "gateway.bench.paho_peer", "--port", str(port), "--messages", str(count))
    peer = Child(*command, pipe=True)
    shop.add(peer)
    if peer.line().strip() != "ready":
        raise RuntimeError("the paho peer did not subscribe")
    run_load(port, "--messages", str(count), "--seconds", "120", "--window", "2000")
    return float(peer.line()) / count * 1e6


def wait_connected(gateway: GatewayUnderTest) -> None:
    """Wait until the subscriber has its subscription."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (source,) = gateway.status()["sources"].values()
        if source.get("state") == "connected":
            return
        time.sleep(0.05)
    raise RuntimeError("the gateway did not connect to the broker")


def batched(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure CBOR typed arrays, 800 readings a message, end to end to a local receiver."""
    seconds = 2.0 if quick else LOAD_S
    port = free_port()
    with Workshop.open() as shop:
        sink = start_sink(shop)
        gateway = start_gateway(shop, source=SERVER.format(port=port), endpoint=sink.endpoint)
        run_load(port, "--kind", "cbor", "--seconds", "1", "--window", BATCHED_WINDOW)
        check_all_arrived(gateway, sink)
        load = ("--port", str(port), "--kind", "cbor", "--window", BATCHED_WINDOW)
        seen = run_steadily(shop, gateway, sink, seconds=seconds, load=load)
        yield Figure(
            "batched readings, from socket to receiver", seen.arrived / 1e6, "M/s",
            floor=3, goal=5, better="more",
            note=f"800 a message, counted there; {seen.accepted / 1e6:.2f} M/s acknowledged meanwhile",
        )  # fmt: skip
        yield Figure("CPU per batched reading", seen.cpu_s_each * 1e9, "ns")
        yield Figure(
            "RSS under that load", seen.rss_mb, "MB", floor=50, note=f"median; peak {gateway.rss_peak_mb():.1f}"
        )


def backlog(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure ten million readings held, then the link: the first fresh one, how fast the rest goes, what memory."""
    readings = 500_000 if quick else BACKLOG_READINGS
    port, upstream = free_port(), free_port()
    with Workshop.open() as shop:
        gateway = start_gateway(shop, source=SERVER.format(port=port), endpoint=f"http://127.0.0.1:{upstream}")
        run_load(
            port,
            "--kind",
            "cbor",
            "--messages",
            str(readings // READINGS_PER_BATCH),
            "--seconds",
            "300",
            "--window",
            "400",
        )
        held = gateway.uplink()["held"]
        folder = shop.folder / "state"
        shelf = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        trickle = Child(
            sys.executable, "-m", "gateway.bench.load", "--port", str(port), "--connections", "1", "--rate", "100",
            "--seconds", "600",
        )  # fmt: skip
        shop.add(trickle)
        time.sleep(2)
        began_s = time.monotonic()
        sink = start_sink(shop, port=upstream)
        yield _first_fresh(sink, began_s)
        drains_s = time.monotonic()
        while gateway.uplink()["held"] > readings // 1000:
            time.sleep(0.1)
        drain_s = time.monotonic() - drains_s
        yield Figure("backlog drained", held / drain_s / 1e6, "M/s", better="more", note=f"{held:,} readings held")
        yield Figure("store per reading of the backlog", shelf / held, "bytes", note="CBOR doubles in steps of 0.01")
        yield Figure(
            "RSS after the backlog has drained",
            gateway.rss_mb(),
            "MB",
            floor=50,
            note=f"at its end; peak {gateway.rss_peak_mb():.1f}",
        )
        trickle.end()


def _first_fresh(sink: SinkUnderTest, began_s: float) -> Result:
    """Wait for the first request; the receiver notes the age of the freshest reading in it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = counts(sink)
        if seen["requests"]:
            return Figure(
                "freshest reading in the first request after link-up", seen["first_age_s"], "s old", floor=3,
                note=f"{seen['first_points']:,} readings, {seen['first_s'] - began_s:.2f} s after the receiver came",
            )  # fmt: skip
        time.sleep(0.02)
    raise RuntimeError("nothing arrived within a minute of the link coming up")


def idle(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure CPU at 100 readings a second."""
    seconds = 5.0 if quick else 30.0
    port = free_port()
    with Workshop.open() as shop:
        sink = start_sink(shop)
        gateway = start_gateway(shop, source=SERVER.format(port=port), endpoint=sink.endpoint)
        readings, cost = run_trickle(shop, gateway, port, messages_per_s=50, seconds=seconds)
        yield Figure(
            "CPU at 100 readings/s",
            cost.cpu_s / cost.at_s * 100,
            "% of a core",
            floor=1,
            note=f"measured at {readings / cost.at_s:.0f}/s, one device",
        )
        yield Figure("RSS at 100 readings/s", gateway.rss_mb(), "MB", floor=50)


def run_trickle(
    shop: Workshop, gateway: GatewayUnderTest, port: int, *, messages_per_s: int, seconds: float
) -> tuple[int, Cost]:
    """Have a device send so many messages of two readings a second; return what was accepted in that time, and cost."""
    device = ("--connections", "1", "--rate", str(messages_per_s), "--fields", "2", "--seconds", str(seconds + 5))
    shop.add(Child(sys.executable, "-m", "gateway.bench.load", "--port", str(port), *device))
    time.sleep(3)
    accepted, before = gateway.status()["accepted"], gateway.cost()
    time.sleep(seconds)
    cost = gateway.cost().since(before)
    return gateway.status()["accepted"] - accepted, cost


def flash(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure what 1,000 readings a second cost the card at one commit a second."""
    seconds = 5.0 if quick else 60.0
    port = free_port()
    with Workshop.open() as shop:
        sink = start_sink(shop)
        gateway = start_gateway(shop, source=SERVER.format(port=port), endpoint=sink.endpoint)
        if not gateway.cost().flash_bytes and not _counts_flash(shop.folder):
            yield Skipped("flash bytes per reading", "this file system does not count writes in /proc/PID/io")
            return
        readings, cost = run_trickle(shop, gateway, port, messages_per_s=500, seconds=seconds)
        yield Figure(
            "bytes to flash per reading at 1,000/s, commit every second", cost.flash_bytes / readings, "bytes",
            floor=8, goal=4, note=f"measured at {readings / cost.at_s:.0f}/s, one uplink acknowledging",
        )  # fmt: skip


def _counts_flash(folder: Path) -> bool:
    code = "import os,sys; f=os.open(sys.argv[1], os.O_CREAT|os.O_WRONLY); os.write(f, bytes(8192)); os.fsync(f);"
    code += "print(open('/proc/self/io').read())"
    command = [sys.executable, "-c", code, str(folder / "probe")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  our own code
    return "\nwrite_bytes: 0\n" not in done.stdout
