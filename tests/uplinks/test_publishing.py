"""What holds wherever it is published: addresses beside each other, and names that are filled in."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from gateway.net import mqtt_address, nats_address
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.endpoint_settings import EndpointSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.publishing import bare_of, check_names, fill, in_the_open, names_of, problems_of_urls, targets_of

SHARED = ["balance", "time_unit", "breaker", "connect_timeout", "mappings", "backlog_share", "budget", "stop_grace"]


@pytest.mark.parametrize("key", SHARED)
def test_what_is_called_the_same_is_the_same(key: str) -> None:
    """With the same words and bounds."""
    kinds = [get_type_hints(kind, include_extras=True)[key] for kind in (MqttUplinkSettings, NatsUplinkSettings)]
    assert kinds[0] == kinds[1]


def test_addresses_are_looked_at_one_by_one_and_together() -> None:
    """Wrong ones, the same twice, and with and without TLS."""
    urls = ["nats://a", EndpointSettings(url="nats://a:4222"), "http://b", "tls://c"]
    found = problems_of_urls(urls, parse=nats_address.parse_url, what="server", mixed="nats:// and tls://")
    said = [str(problem) for problem in found]
    assert len(said) == 3
    assert "urls[1].url" in said[0]
    assert "the same server as urls[0]" in said[0]
    assert said[1].startswith("urls[2]")
    assert "nats:// and tls:// are not mixed" in said[2]


def test_what_can_be_read_on_the_way_is_said() -> None:
    """Not of this box's own addresses, and not with TLS."""

    def said(*urls: str) -> str:
        return in_the_open(targets_of("", urls), parse=mqtt_address.parse_url, what="data", safe="mqtts://")

    assert said("mqtt://127.0.0.1", "mqtt://localhost") == said("mqtts://a", "mqtts://b") == ""
    assert said("mqtt://a") == "mqtt://a is not encrypted, data can be read on the way; mqtts:// would protect them"
    assert said("mqtt://a", "mqtt://127.0.0.1", "mqtt://b").startswith("mqtt://a, mqtt://b are not encrypted")


def test_names_are_filled_in() -> None:
    """And what stands around them is looked at without them."""
    assert names_of("a/{b}-{c}/{}") == ["b", "c", ""]
    assert fill("a/{b}-{c}", {"b": "1", "c": "2"}) == "a/1-2"
    assert (bare_of("a/{b}"), bare_of("a/{b}", "x")) == ("a/", "a/x")
    with pytest.raises(ValueError, match="a brace that belongs to no name"):
        bare_of("a/{b")
    check_names("{gateway}/{signal}", is_otlp=True, what="a request")
    for template, is_otlp, why in [
        ("{}", False, "what is to be filled in"),
        ("{signal}/{device}", True, "a request is of many"),
        ("{gateway}", True, "nobody can tell"),
        ("{signal}", False, "is for OTLP"),
    ]:
        with pytest.raises(ValueError, match=why):
            check_names(template, is_otlp=is_otlp, what="a request")
