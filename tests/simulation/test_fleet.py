"""Several gateways and a broker, each in a process of its own: nothing that was acknowledged is lost between them."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gateway.net.ports import free_port
from hil.children import wait_until
from hil.fleet import Member
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 200
SHARED = """\
[[sources]]
type = "mqtt"
name = "plant"
url = "mqtt://127.0.0.1:{broker}"
topics = ["$share/gateways/plant/#"]
receive_maximum = {window}
reconnect_max = "1s"
[[mappings]]
match = "plant/{{device}}/count"
payload = "json"
resource = {{ "device.id" = "{{device}}" }}
metrics = [ {{ field = "n", name = "n", type = "int" }} ]
[[uplinks]]
type = "otlp"
name = "up"
endpoint = "{sink}"
batch_interval = "50ms"
retry = {{ initial = "50ms", max = "200ms" }}
"""
EDGE = """\
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
type = "mqtt"
name = "up"
url = "mqtt://127.0.0.1:{broker}"
payload = "json"
topic = "site/{{gateway}}/{{device}}/{{metric}}"
batch_interval = "50ms"
retry = {{ initial = "50ms", max = "200ms" }}
timeout = "2s"
"""
CENTRE = """\
[[sources]]
{source}
[[mappings]]
match = "site/{{gateway}}/{{device}}/{{metric}}"
payload = "json"
resource = {{ "device.id" = "{{device}}", "site" = "{{gateway}}" }}
time = {{ field = "ts", unit = "ms" }}
metrics = [ {{ field = "value", name = "{{metric}}" }} ]
[[uplinks]]
type = "otlp"
name = "up"
endpoint = "{sink}"
batch_interval = "50ms"
"""


@pytest.fixture
def make_member(tmp_path, make_child) -> Callable[[str, str], Member]:
    """Make a gateway and start it."""

    def make(name: str, parts: str) -> Member:
        member = Member(tmp_path, name, parts, make_child=make_child)
        member.start()
        return member

    return make


def values(sink) -> Counter[float]:
    """Return how often each number arrived."""
    found: Counter[float] = Counter()
    for reading, times in sink.readings().items():
        found[reading.value] += times
    return found


@pytest.mark.slow
def test_two_gateways_take_one_brokers_load_and_one_of_them_is_killed(make_broker, make_member, otlp_sink) -> None:
    """Each has a part of it. What the one that died had not acknowledged is its own still, and comes when it is back."""
    broker = make_broker()
    parts = SHARED.format(broker=broker.port, window=WINDOW, sink=otlp_sink.url)
    one, other = make_member("one", parts), make_member("other", parts)
    with Publisher(port=broker.port) as publisher:
        wait_until(lambda: min(member.status()["accepted"] for member in (one, other)) > 300, "both to have a part")
        other.kill()
        sent = publisher.sent
        wait_until(lambda: publisher.sent > sent + 3000, "some more")
        other.start()
        wait_until(lambda: other.status()["sources"]["plant"]["state"] == "connected", "the other to be back")
        sent = publisher.sent
        wait_until(lambda: publisher.sent > sent + 1000, "some more still")
    wait_until(lambda: set(values(otlp_sink)) >= publisher.acknowledged, "all of it to arrive")
    accounts = [member.drain() for member in (one, other)]
    found = values(otlp_sink)
    assert set(found) >= publisher.acknowledged
    assert len(publisher.acknowledged) > 4000
    # Twice came what was under way at the moment of the kill: to the gateway, or from it.
    twice = found.total() - len(found)
    assert twice <= 2 * WINDOW + sum(account["maybe_twice"] for account in accounts)
    assert all(account["delivered"] > 500 for account in accounts)


@pytest.mark.slow
def test_a_spare_takes_over_what_a_dead_gateway_had(make_broker, make_member, otlp_sink) -> None:
    """By its name at the broker: the box is gone with all that it held, and had delivered that; its share is there."""
    broker = make_broker()
    parts = SHARED.format(broker=broker.port, window=WINDOW, sink=otlp_sink.url)

    def called(name: str) -> str:
        return parts.replace("reconnect_max", f'client_id = "{name}"\nreconnect_max')

    one, other = make_member("one", called("plant-1")), make_member("other", called("plant-2"))
    with Publisher(port=broker.port) as publisher:
        wait_until(lambda: min(member.account()["delivered"] for member in (one, other)) > 300, "both to have a part")
    # What it takes after that it has is gone with it.
    wait_until(
        lambda: sum(m.account()["accepted"] for m in (one, other)) >= len(publisher.acknowledged), "all to be in"
    )
    other.drain()
    other.kill()
    with Publisher(port=broker.port, topic=b"plant/d2/count") as more:
        wait_until(lambda: more.sent > 2000, "some more")
    one.drain()
    before = {reading.value for reading in otlp_sink.readings() if reading.device == "d2"}
    assert not more.acknowledged <= before
    spare = make_member("spare", called("plant-2"))

    def arrived() -> bool:
        readings = otlp_sink.readings()
        found = {device: {r.value for r in readings if r.device == device} for device in ("d1", "d2")}
        return found["d1"] >= publisher.acknowledged and found["d2"] >= more.acknowledged

    wait_until(arrived, "all of it to arrive")
    assert spare.drain()["delivered"] > 300


@pytest.mark.slow
def test_an_edge_bridges_otlp_to_a_centre_that_shares_it_with_another(make_broker, make_member, otlp_sink) -> None:
    """Requests as they are, packed, from one gateway through a broker to two, one of which is killed meanwhile."""
    broker, mqtt = make_broker(), free_port()
    topics = 'topics = ["$share/centres/tidegate/#"]\notlp = ["tidegate/+/{signal}"]\nreconnect_max = "1s"'
    source = f'type = "mqtt"\nname = "in"\nurl = "mqtt://127.0.0.1:{broker.port}"\n{topics}'
    centres = [make_member(name, CENTRE.format(source=source, sink=otlp_sink.url)) for name in ("one", "other")]
    for centre in centres:
        wait_until(lambda centre=centre: centre.status()["sources"]["in"]["state"] == "connected", "both to subscribe")
    json = 'payload = "json"\ntopic = "site/{{gateway}}/{{device}}/{{metric}}"'
    parts = EDGE.replace(json, 'payload = "otlp"\ncompression = "zstd"')
    assert parts != EDGE
    edge = make_member("edge", parts.format(mqtt=mqtt, broker=broker.port))
    with Publisher(port=mqtt) as publisher:
        wait_until(lambda: min(centre.status()["accepted"] for centre in centres) > 300, "both to have a part")
        centres[1].kill()
        sent = publisher.sent
        wait_until(lambda: publisher.sent > sent + 3000, "some more")
        centres[1].start()
    account = edge.drain()
    wait_until(lambda: set(values(otlp_sink)) >= publisher.acknowledged, "all of it to arrive")
    assert account["ledger"] == {}
    assert {(reading.device, reading.metric) for reading in otlp_sink.readings()} == {("d1", "n")}
    assert all(centre.drain()["ledger"] == {} for centre in centres)


@pytest.mark.slow
@pytest.mark.parametrize("is_peer", [False, True])
def test_an_edge_bridges_to_a_centre(make_broker, make_member, otlp_sink, is_peer: bool) -> None:
    """By a broker that is killed and started meanwhile, or straight into the centre's own MQTT server."""
    broker = None if is_peer else make_broker()
    port = free_port() if broker is None else broker.port
    source = (
        f'type = "mqtt_server"\nname = "in"\nlisten = "127.0.0.1:{port}"'
        if is_peer
        else f'type = "mqtt"\nname = "in"\nurl = "mqtt://127.0.0.1:{port}"\ntopics = ["site/#"]\nreconnect_max = "1s"'
    )
    centre = make_member("centre", CENTRE.format(source=source, sink=otlp_sink.url))
    mqtt = free_port()
    edge = make_member("edge", EDGE.format(mqtt=mqtt, broker=port))
    if broker is not None:
        wait_until(lambda: centre.status()["sources"]["in"]["state"] == "connected", "the centre to subscribe")
    with Publisher(port=mqtt) as publisher:
        wait_until(lambda: edge.account()["delivered"] > 500, "the first of it to be bridged")
        if broker is not None:
            broker.stop()
            time.sleep(0.3)
            broker.start()
        else:
            centre.kill()
            centre.start()
        sent = publisher.sent
        wait_until(lambda: publisher.sent > sent + 1000, "some more")
    account = edge.drain()
    wait_until(lambda: set(values(otlp_sink)) >= publisher.acknowledged, "all of it to arrive")
    assert account["ledger"] == {}
    readings = otlp_sink.readings()
    assert {(reading.device, dict(reading.resource)["site"], reading.metric) for reading in readings} == {
        ("d1", "edge", "n")
    }
    assert edge.status()["uplinks"]["up"]["unheard"] == 0
    assert edge.status()["uplinks"]["up"]["type"] == "mqtt"
