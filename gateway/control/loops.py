"""Whether what an uplink publishes to a broker comes in again by a source of the same gateway. Must not ask a resolver.

It would be sent and taken in for ever. MQTT's own remedy, "no local", is about one client; source and uplink are two.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.topics import Pattern
from gateway.control.reach import PREFIX_LEVELS
from gateway.core.checks import Problem, below
from gateway.net.addresses import is_loopback, split_address
from gateway.net.mqtt_address import parse_url
from gateway.sources.mqtt_server_settings import MqttServerSettings
from gateway.sources.mqtt_settings import MqttSettings, subscriptions
from gateway.uplinks.bridge_settings import MqttUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ADVICE: Final = "it would come in and leave again for ever; publish elsewhere, or take in less"


def look_for_loops(sources: Sequence[Any], uplinks: Sequence[Any]) -> Iterator[Problem]:
    """Yield what an uplink publishes and a source takes in, each once for an uplink and a source."""
    for index, uplink in enumerate(uplinks):
        if not isinstance(uplink, MqttUplinkSettings):
            continue
        path = below("uplinks", index, "topic")
        brokers = {_place(one.url) for one in uplink.targets()}
        published = [Pattern(text) for text in uplink.filters()]
        for number, source in enumerate(sources):
            if isinstance(source, MqttServerSettings):
                if any(_is_own(source.listen, *broker) for broker in brokers):
                    yield Problem(path, f"the broker is sources[{number}] of this gateway itself: {ADVICE}")
            elif isinstance(source, MqttSettings) and _place(source.url) in brokers:
                taken = next((text for text in _filters(source) if _meets(text, published)), None)
                if taken is not None:
                    yield Problem(path, f'sources[{number}] subscribes to "{taken}" at the same broker: {ADVICE}')


def _place(url: str) -> tuple[str, int]:
    broker = parse_url(url)
    return "localhost" if is_loopback(broker.host) else broker.host.lower(), broker.port


def _is_own(listen: str, host: str, port: int) -> bool:
    """Whether a broker's address is the one that a server of this gateway listens at."""
    own, own_port = split_address(listen)
    is_everywhere = own in {"::", socket.inet_ntoa(bytes(4))}
    return port == own_port and (host == own or (is_loopback(host) and (is_everywhere or is_loopback(own))))


def _filters(source: MqttSettings) -> Iterator[str]:
    for text, _ in subscriptions(source):
        yield text.split("/", PREFIX_LEVELS.get(text.partition("/")[0], 0))[-1]


def _meets(text: str, published: Sequence[Pattern]) -> bool:
    try:
        taken = Pattern(text)
    except ValueError:
        # With a brace in it, which is a letter to MQTT.
        return False
    return any(taken.meets(pattern) for pattern in published)
