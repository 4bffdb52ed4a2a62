"""Checks for the settings of the MQTT server: who may be let in, what cannot be meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.codecs.mapping_settings import MapLimits
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_auth import MqttCertificate, MqttUser
from gateway.sources.mqtt_server_settings import MqttServerSettings, tls_context
from gateway.sources.server_tls import ServerTls

if TYPE_CHECKING:
    from pathlib import Path

ENV = "TIDEGATE_TEST_PASSWORD"


@pytest.fixture
def users(monkeypatch) -> tuple[MqttUser, ...]:
    monkeypatch.setenv(ENV, "right")
    return (MqttUser(name="pump", password=Secret(env=ENV), topics=("plant/{user}/#", "common/+")),)


def settings(**fields: object) -> MqttServerSettings:
    return MqttServerSettings(**({"name": "direct"} | fields))


@pytest.mark.parametrize("listen", ["0.0.0.0:1884", "[::]:1884", "192.0.2.1:1884", "gateway.local:1884"])
def test_listening_beyond_loopback_wants_users(listen: str, users) -> None:
    """Nobody opens a gateway to the network by accident."""
    with pytest.raises(ValueError, match=r"name users or certificates, or listen on 127\.0\.0\.1"):
        settings(listen=listen)
    with pytest.raises(ValueError, match="anonymous clients are let in on loopback only"):
        settings(listen=listen, users=users, anonymous=True)
    assert not settings(listen=listen, users=users).lets_anyone_in


def test_anonymous_clients_are_let_in_as_long_as_nobody_is_named(users) -> None:
    """Naming users shuts the door to the others, unless it is said to be open."""
    assert settings().lets_anyone_in
    assert not settings(users=users).lets_anyone_in
    assert settings(users=users, anonymous=True).lets_anyone_in
    assert not settings(anonymous=False).lets_anyone_in


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"listen": "1884"}, "HOST:PORT"),
        ({"anonymous_topics": ("a#",)}, "not a topic pattern"),
        ({"certificates": (MqttCertificate(common_name="a", topics=("#",)),)}, "client_ca_file"),
        ({"packet_bytes_max": Size(100)}, "packet_bytes_max: is 256"),
        ({"packet_bytes_max": Size(1 << 30)}, "at most in_flight_bytes_max"),
        ({"users": (MqttUser(name="a", password=Secret(env=ENV), topics=("#",)),) * 2}, "'a' is named twice"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields: dict[str, object], sentence: str) -> None:
    """With a sentence that says what would be right."""
    with pytest.raises(ValueError, match=sentence):
        settings(**fields)


def test_settings_come_from_toml() -> None:
    """As people write them, with the type as tag."""

    def hook(kind: type, value: object) -> object:
        assert kind in {Duration, Size}
        return kind.parse(value)

    text = """
    type = "mqtt_server"
    name = "direct"
    connect_timeout = "5s"
    packet_bytes_max = "64KiB"
    users = [{ name = "a", password = { env = "A" }, topics = ["a/#"] }]
    """
    read = msgspec.toml.decode(text, type=MqttServerSettings, dec_hook=hook)
    assert (read.connect_timeout, read.packet_bytes_max, read.users[0].name) == (5.0, 65536, "a")


def test_no_longer_topics_are_taken_than_a_mapping_takes() -> None:
    """They would be acknowledged and lost, whatever the setting said."""
    text = 'type = "mqtt_server"\nname = "direct"\ntopic_bytes_max = '
    assert msgspec.toml.decode(f"{text}1024", type=MqttServerSettings).topic_bytes_max == MapLimits().topic_bytes_max
    with pytest.raises(msgspec.ValidationError, match=r"<= 1024"):
        msgspec.toml.decode(f"{text}1025", type=MqttServerSettings)


def test_files_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    """A gateway that cannot keep its promise of TLS does not start."""
    cert = tmp_path / "server.pem"
    wanted = settings(tls=ServerTls(cert_file=str(cert), key_file=str(cert)))
    with pytest.raises(ValueError, match=r"there is no file .*server\.pem"):
        tls_context(wanted)
    cert.write_text("no certificate")
    with pytest.raises(ValueError, match="tls: cannot use"):
        tls_context(wanted)
