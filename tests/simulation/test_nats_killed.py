"""A real gateway that publishes to a real nats-server, killed at random moments: the stream holds each reading once."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gateway.net.ports import free_port
from hil.fleet import Member
from hil.otlp_readings import parse_metrics
from hil.publisher import Publisher

if TYPE_CHECKING:
    from hil.nats_server import NatsServer

PARTS = """\
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:{mqtt}"
[[mappings]]
match = "plant/{{device}}/count"
payload = "json"
resource = {{ "device.id" = "{{device}}" }}
metrics = [ {{ field = "n", name = "n", type = "int" }} ]
[[uplinks]]
type = "nats"
name = "up"
url = "{url}"
stream = "PLANT"
payload = "{payload}"
batch_interval = "20ms"
retry = {{ initial = "50ms", max = "200ms" }}
"""


def numbers(server: NatsServer) -> Counter[int]:
    """Return how often each number is in the stream."""
    found: Counter[int] = Counter()
    for message in server.stored("PLANT"):
        if message.subject.endswith(".metrics"):
            found.update(int(reading.value) for reading in parse_metrics(message.data))
        else:
            found[int(json.loads(message.data)["value"])] += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("payload", ["otlp", "json"])
def test_after_kills_each_is_there_once(tmp_path, make_child, make_nats, make_link, payload: str) -> None:
    """What was acknowledged is there, and once, however often the gateway died before it knew; so is what was cut."""
    server = make_nats()
    server.make_stream("PLANT", "tidegate.>")
    link = make_link(server.address)
    mqtt, dice = free_port(), random.Random(20)
    parts = PARTS.format(mqtt=mqtt, url=f"nats://127.0.0.1:{link.port}", payload=payload)
    member = Member(tmp_path, "killed", parts, make_child=make_child)
    with Publisher(port=mqtt) as publisher:
        for _ in range(4):
            # Answers take their time, so that a kill finds some of them on the way.
            link.down.delay_s = 0.05
            member.start()
            time.sleep(dice.uniform(0.05, 0.5))
            link.cut()
            time.sleep(dice.uniform(0.05, 0.3))
            member.kill()
    link.down.delay_s = 0.0
    member.start()
    account = member.drain()
    member.stop()
    found = numbers(server)
    assert publisher.acknowledged - found.keys() == set()
    assert len(publisher.acknowledged) > 50
    assert {number: times for number, times in found.items() if times > 1} == {}
    assert account["ledger"] == {}
