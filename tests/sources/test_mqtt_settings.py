"""Settings say what is wrong with them, and never show a secret."""

from __future__ import annotations

import ssl
from typing import Any

import msgspec
import pytest

from gateway.control.reading import decode_hook
from gateway.sources.mqtt_settings import (
    MqttSettings,
    MqttTlsSettings,
    check_filter,
    subscriptions,
    tls_context,
)


def read(**table: Any) -> MqttSettings:
    full = {"type": "mqtt", "name": "plant", "url": "mqtt://broker", "topics": ["plant/#"], **table}
    return msgspec.convert(full, MqttSettings, dec_hook=decode_hook)


def test_the_shortest_configuration() -> None:
    """Name, URL and topics are enough; the session is persistent, QoS 1, MQTT 5."""
    settings = read()
    assert (settings.qos, settings.clean, settings.protocol, settings.keepalive) == (1, False, "5", 30)
    assert subscriptions(settings) == [("plant/#", 1)]


def test_topics_with_a_qos_of_their_own() -> None:
    """Strings and tables may be mixed."""
    settings = read(topics=["a", {"topic": "b", "qos": 2}], qos=0)
    assert subscriptions(settings) == [("a", 0), ("b", 2)]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://h", "write mqtt://, mqtts://, ws:// or wss:// and a host"),
        ("mqtt://", "and a host"),
        ("broker.example", "and a host"),
        ("mqtt://h:99999", "[Pp]ort"),
        ("mqtt://h:0", "port 0"),
        ("mqtt://h/plant/x", "topics belong into topics"),
        ("mqtt://user:hunter2@h", "username = … and password"),
    ],
)
def test_wrong_urls_are_refused_with_what_is_right(url: str, sentence: str) -> None:
    """And a password in one is not repeated in the message."""
    with pytest.raises(msgspec.ValidationError, match=sentence) as caught:
        read(url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("topic", ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a"])
def test_a_group_has_a_name_and_topics(topic: str) -> None:
    """Else a broker would refuse it, or take it for a topic that nobody publishes to."""
    with pytest.raises(ValueError, match="write \\$share/<name of the group>/<topics>"):
        check_filter(topic)


def test_topics_of_otlp_say_which_signal() -> None:
    """By a level of theirs."""
    assert read(otlp=["tidegate/+/{signal}"]).otlp == ("tidegate/+/{signal}",)
    for topic, words in (("tidegate/#", "write {signal} for that level"), ("a{b", "is no level")):
        with pytest.raises(msgspec.ValidationError, match=words):
            read(otlp=[topic])


def test_a_shared_subscription_wants_a_session_that_stays() -> None:
    """What a broker has given to a gateway it gives to no other: a mosquitto loses it with the session."""
    topics = ["$share/gateways/plant/#"]
    assert read(topics=topics).warnings() == []
    assert read(clean=True).warnings() == []
    (said,) = read(topics=topics, clean=True).warnings()
    assert said.startswith("clean: what a shared subscription has given to this gateway is lost with its session")
    (said,) = read(topics=[{"topic": topics[0]}], session_expiry="5m").warnings()
    assert said.startswith("session_expiry: ")


@pytest.mark.parametrize(
    "topic", ["a", "a/b", "+/a/+", "#", "a/#", "/", "a//b", "$share/g/a/#", "$share/g/#", "sp ace/ü"]
)
def test_good_filters(topic: str) -> None:
    """What MQTT allows."""
    check_filter(topic)


@pytest.mark.parametrize("topic", ["", "a/#/b", "a#", "a/b+", "+a", "a\0b", "x" * 65536])
def test_bad_filters(topic: str) -> None:
    """What it does not."""
    with pytest.raises(ValueError, match="is empty, too long|must be"):
        check_filter(topic)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"topics": []}, "length >= 1"),
        ({"topics": ["a#"]}, "must be the last level"),
        ({"qos": 3}, "qos"),
        ({"protocol": "3.1"}, "protocol"),
        ({"password": {"env": "X"}}, "a password needs a username"),
        ({"tls": {"ca_file": "x"}}, "does not use TLS"),
        ({"url": "mqtts://h", "tls": {"cert_file": "x"}}, "belong together"),
        ({"keepalive": "0s"}, "keepalive"),
        ({"packet_max": "12B"}, "packet_max"),
        ({"reconnect_min": "2h"}, "reconnect_min"),
        ({"receive_maximum": 0}, "receive_maximum"),
        ({"name": ""}, "name"),
    ],
)
def test_what_is_wrong_is_named(table: dict[str, Any], sentence: str) -> None:
    """Each with its setting."""
    with pytest.raises(msgspec.ValidationError, match=sentence):
        read(**table)


def test_certificate_files_that_are_wrong_are_named(tmp_path, authority) -> None:
    """Missing, not PEM, or not belonging together."""
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    ours, other = authority.issue("a"), authority.issue("b")
    for settings, sentence in [
        (MqttTlsSettings(ca_file="/gone.pem"), r"tls.ca_file /gone.pem: No such file"),
        (MqttTlsSettings(ca_file=str(nonsense)), "tls.ca_file .*nonsense.pem: not PEM"),
        (
            MqttTlsSettings(cert_file="/gone", key_file="/gone"),
            "tls.cert_file /gone and key_file: No such file",
        ),
        (MqttTlsSettings(cert_file=str(ours.certificate), key_file=str(other.key)), "belong together"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            tls_context(settings)


def test_a_broker_is_always_checked(authority) -> None:
    """No setting turns it off."""
    ours = authority.issue()
    context = tls_context(
        MqttTlsSettings(ca_file=str(authority.certificate), cert_file=str(ours.certificate), key_file=str(ours.key))
    )
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
