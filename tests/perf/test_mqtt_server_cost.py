"""A small run of the MQTT server's benchmark: nothing is lost, and the cost has not grown by a class."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.net.mqtt import PublishScanner
from gateway.net.mqtt_packets import publish_bytes

HERE = Path(__file__).parent


@pytest.mark.alone
def test_scanning_costs_a_few_slices_a_message() -> None:
    """The scanner takes less than eight times what cutting three slices a message in a loop takes."""
    messages = 4000
    one = publish_bytes(b"plant/d1/climate", b'{"ts":1790000000000,"temp":20.51}', qos=1, packet_id=7)
    data = one * messages
    scanner = PublishScanner(packet_bytes_max=1 << 20)

    def bare() -> None:
        rows = []
        for start in range(0, len(data), len(one)):
            rows.append((data[start + 4 : start + 20], data[start + 20 : start + 22], data[start + 22 : start + 55]))

    def seconds(work) -> float:
        times = []
        for _ in range(7):
            began_s = time.perf_counter()
            work()
            times.append(time.perf_counter() - began_s)
        return min(times)

    assert seconds(lambda: scanner.feed(data)) < 8 * seconds(bare)


@pytest.mark.alone
@pytest.mark.slow
def test_a_second_of_load_is_acknowledged_to_the_last_message() -> None:
    """Four connections with tens of thousands in flight; the bound is loose, machines differ."""
    command = [sys.executable, str(HERE / "mqtt_bench.py"), "--rounds", "1", "--seconds", "1"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout)
    assert figures["lost"] == 0
    assert figures["messages_per_offer"] > 500
    assert figures["us_per_message"] < 5
