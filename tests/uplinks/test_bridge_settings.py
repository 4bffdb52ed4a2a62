"""An uplink to a broker says what is wrong with its settings, and what would be right; it never shows a secret."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.control.reading import decode_hook, read
from gateway.uplinks.bridge_settings import MqttUplinkSettings, fill, names_of


def settings(**table: Any) -> MqttUplinkSettings:
    full = {"type": "mqtt", "name": "broker", "url": "mqtt://127.0.0.1", **table}
    return msgspec.convert(full, MqttUplinkSettings, dec_hook=decode_hook)


def problems(**table: Any) -> list[str]:
    full = {"type": "mqtt", "name": "broker", "url": "mqtt://127.0.0.1", **table}
    return read({key: value for key, value in full.items() if value is not None}, MqttUplinkSettings)[1]


def test_name_and_url_are_enough() -> None:
    """OTLP, QoS 1, MQTT 5, to topics of the gateway's own; nothing to warn of on loopback."""
    found = settings()
    assert (found.payload, found.qos, found.protocol, found.compression) == ("otlp", 1, "5", "none")
    assert found.topic_of_readings() == found.topic_of_requests() == "tidegate/{gateway}/{signal}"
    assert found.filters() == ["tidegate/+/+"]
    assert found.warnings() == []
    assert [one.url for one in found.targets()] == ["mqtt://127.0.0.1"]


def test_readings_one_by_one_have_a_topic_beside_that_of_all_else() -> None:
    """And a topic of one's own takes its place."""
    found = settings(payload="json")
    assert found.topic_of_readings() == "tidegate/{gateway}/{device}/{metric}"
    assert found.filters() == ["tidegate/+/+/+", "tidegate/+/+"]
    found = settings(payload="json", topic="site/{device}/{metric}", otlp_topic="site/otlp/{signal}")
    assert found.filters() == ["site/+/+", "site/otlp/+"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"url": None}, 'url: is missing; write url = "mqtts://…", or urls = ["mqtts://…", …]'),
        ({"url": "http://h"}, "url: 'http://h' is not a broker's; write mqtt://, mqtts://, ws:// or wss:// and a host"),
        ({"urls": ["mqtt://a"]}, "urls: url names one broker already; give url or urls"),
        ({"url": None, "urls": ["mqtt://a", "mqtts://b"]}, "urls: mqtt:// and mqtts:// are not mixed"),
        ({"url": None, "urls": ["mqtt://a", {"url": "mqtt://a:1883"}]}, "urls[1].url: is the same broker as urls[0]"),
        ({"url": None, "urls": ["x"]}, "urls[0]: 'x' is not a broker's"),
        ({"url": None, "urls": [7]}, "urls[0]: expected"),
        ({"topic": "a/{device}"}, "topic: 'a/{device}' wants {device}, but a request is of many"),
        ({"topic": "a"}, "topic: 'a': add {signal}, or nobody can tell metrics from logs and traces"),
        ({"topic": "a/+/{signal}"}, "topic: 'a/+/{signal}' has '+' in it, which only a subscription's can have"),
        ({"topic": "$SYS/{signal}"}, "topic: '$SYS/{signal}' begins with $, which brokers keep for themselves"),
        ({"topic": "{signal}/{"}, "topic: '{signal}/{' has a brace that belongs to no name"),
        ({"topic": "{}/{signal}"}, "topic: '{}/{signal}' has {} in it"),
        ({"payload": "json", "topic": "a/{signal}"}, "topic: 'a/{signal}': {signal} is for OTLP"),
        ({"payload": "json", "otlp_topic": "a"}, "otlp_topic: 'a': add {signal}"),
        ({"otlp_topic": "a/{signal}"}, 'otlp_topic: is for payload = "json"; here write topic = "…"'),
        ({"payload": "json", "unheard": "hold"}, "unheard: where each reading has a topic some of them have no subscr"),
        ({"qos": 0, "unheard": "hold"}, "unheard: a broker says it in MQTT 5 and with qos = 1 alone"),
        ({"protocol": "3.1.1", "unheard": "hold"}, "unheard: a broker says it in MQTT 5 and with qos = 1 alone"),
        ({"payload": "json", "compression": "zstd"}, "compression: messages of one reading each become no smaller"),
        ({"qos": 2}, "qos: expected 0 or 1"),
        ({"inflight_max": 0}, "inflight_max: expected"),
        ({"keepalive": "0s"}, "keepalive: is 0s; it must be from 1s to"),
        ({"password": {"env": "X"}}, "password: a password needs a username"),
        ({"password": "hunter2", "username": "u"}, "password: a secret does not stand in the file itself"),
        ({"tls": {"ca_file": "/x"}}, "tls: tls is set, but the broker's address does not use TLS"),
        ({"timeout": "0s"}, "timeout: is 0s; it is over zero"),
        ({"connect_timeout": "0s"}, "connect_timeout: is 0s; it is over zero"),
        ({"batch_interval": "-1s"}, "batch_interval: "),
        ({"stop_grace": "-1s"}, "stop_grace: "),
        ({"request_bytes_max": "1B"}, 'request_bytes_max: is at least "1KiB"'),
        ({"endpoint": "http://x"}, "endpoint: unknown key"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(table: dict[str, Any], said: str) -> None:
    """Each by its key, and once."""
    found = problems(**table)
    assert len(found) == 1
    assert found[0].startswith(said)
    assert "hunter2" not in found[0]


def test_several_brokers_are_those_of_one_cluster() -> None:
    """With weights, as receivers have them."""
    found = settings(url="", urls=["mqtts://a", {"url": "mqtts://b", "weight": 3}], balance="weighted")
    assert [(one.url, one.weight) for one in found.targets()] == [("mqtts://a", 1), ("mqtts://b", 3)]
    assert found.is_encrypted
    assert found.warnings() == []


def test_what_works_and_should_be_thought_about() -> None:
    """Data in the clear, messages without an answer, refusals without a word."""
    found = settings(url="mqtt://far", username="u", password={"env": "X"}, protocol="3.1.1")
    assert [what.partition(":")[0] for what in found.warnings()] == ["url", "protocol"]
    assert "password and data can be read on the way" in found.warnings()[0]
    assert [what.partition(":")[0] for what in settings(qos=0).warnings()] == ["qos"]
    (said,) = settings(url="", urls=["mqtt://far", "mqtt://away"]).warnings()
    assert said.startswith("urls: mqtt://far, mqtt://away are not encrypted, data can be read")
    (said,) = settings(balance="weighted").warnings()
    assert said.startswith("balance: ")


def test_topics_are_filled_in() -> None:
    """Each name once or more; a topic never begins with $."""
    assert names_of("a/{x}/{y.z}") == ["x", "y.z"]
    assert fill("a/{x}/{x}", {"x": "1"}) == "a/1/1"
    assert fill("{x}/a", {"x": "$SYS"}) == "%24SYS/a"
