"""What a gateway publishes and takes in again is found before it goes round for ever."""

from __future__ import annotations

import pytest

from gateway.control.check import check
from gateway.control.loops import look_for_loops
from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_auth import MqttUser
from gateway.sources.mqtt_server_settings import MqttServerSettings
from gateway.sources.mqtt_settings import MqttSettings
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.settings import OtlpUplinkSettings


def subscriber(*topics: str, url: str = "mqtt://broker") -> MqttSettings:
    return MqttSettings(name="plant", url=url, topics=topics)


def bridge(**settings) -> MqttUplinkSettings:
    return MqttUplinkSettings(
        **{"name": "up", "url": "mqtt://broker:1883", "payload": "json", "topic": "site/{device}/{metric}", **settings}
    )


@pytest.mark.parametrize(
    ("topics", "taken"),
    [
        (("#",), "#"),
        (("plant/#", "site/+/temp"), "site/+/temp"),
        (("$share/group/site/#",), "site/#"),
        (("tidegate/+/metrics",), "tidegate/+/metrics"),
        (("plant/#",), None),
        (("site/+",), None),
        (("{odd",), None),
    ],
)
def test_topics_that_overlap_at_one_broker(topics: tuple[str, ...], taken: str | None) -> None:
    """Whatever is filled in; where the readings go, and where all else goes."""
    found = list(look_for_loops([subscriber(*topics)], [bridge()]))
    assert [what.path for what in found] == ["uplinks[0].topic"] * (taken is not None)
    assert all(
        f'sources[0] subscribes to "{taken}" at the same broker: it would come in and leave again' in what.what
        for what in found
    )


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("mqtt://broker", "mqtts://broker:1883", True),
        ("mqtt://Broker", "mqtt://broker", True),
        ("mqtt://127.0.0.1", "mqtt://localhost", True),
        ("mqtt://broker", "mqtt://broker:1884", False),
        ("mqtt://broker", "mqtt://other", False),
    ],
)
def test_brokers_are_the_same_by_host_and_port(one: str, other: str, is_same: bool) -> None:
    """However their address is written."""
    assert bool(list(look_for_loops([subscriber("#", url=one)], [bridge(url=other)]))) is is_same


@pytest.mark.parametrize(
    ("listen", "url", "is_own"),
    [
        ("127.0.0.1:1884", "mqtt://localhost:1884", True),
        ("0.0.0.0:1884", "mqtt://127.0.0.1:1884", True),
        ("192.0.2.7:1884", "mqtt://192.0.2.7:1884", True),
        ("192.0.2.7:1884", "mqtt://127.0.0.1:1884", False),
        ("127.0.0.1:1884", "mqtt://localhost:1883", False),
    ],
)
def test_a_gateway_is_no_broker_to_itself(listen: str, url: str, is_own: bool) -> None:
    """Its own MQTT server would take what it publishes."""
    user = MqttUser(name="a", password=Secret(env="A"), topics=("#",))
    server = MqttServerSettings(name="direct", listen=listen, users=(user,))
    found = list(look_for_loops([server], [OtlpUplinkSettings(name="c", endpoint="http://x"), bridge(url=url)]))
    assert [what.path for what in found] == ["uplinks[1].topic"] * is_own


def test_the_check_says_so(tmp_path) -> None:
    """As a warning: an access list may keep them apart."""
    path = tmp_path / "tidegate.toml"
    path.write_text(
        f'[gateway]\nid = "g"\nstate_dir = "{tmp_path}"\n'
        '[[sources]]\ntype = "mqtt"\nname = "plant"\nurl = "mqtt://127.0.0.1"\ntopics = ["tidegate/#"]\n'
        '[[uplinks]]\ntype = "mqtt"\nname = "up"\nurl = "mqtt://localhost"\n'
    )
    assert [note for note in check(path).notes if note.startswith("uplinks[0].topic: sources[0] subscribes")]
