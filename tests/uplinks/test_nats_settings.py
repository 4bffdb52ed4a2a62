"""An uplink to NATS says what is wrong with its settings, and what would be right; it never shows a secret."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.control.reading import decode_hook, read
from gateway.uplinks.nats_settings import NatsUplinkSettings, token_of
from gateway.uplinks.publishing import fill


def settings(**table: Any) -> NatsUplinkSettings:
    full = {"type": "nats", "name": "s", "url": "nats://127.0.0.1", **table}
    full = {key: value for key, value in full.items() if value is not None}
    return msgspec.convert(full, NatsUplinkSettings, dec_hook=decode_hook)


def problems(**table: Any) -> list[str]:
    full = {"type": "nats", "name": "s", "url": "nats://127.0.0.1", **table}
    return read({key: value for key, value in full.items() if value is not None}, NatsUplinkSettings)[1]


def test_name_and_url_are_enough() -> None:
    """OTLP to subjects of the gateway's own; nothing to warn of on loopback."""
    found = settings()
    assert (found.payload, found.compression, found.protocol) == ("otlp", "none", "nats")
    assert found.topic_of_readings() == found.subject_of_requests() == "tidegate.{gateway}.{signal}"
    assert found.warnings() == []
    assert [one.url for one in found.targets()] == ["nats://127.0.0.1"]
    found = settings(payload="json", subject="x.{device}", otlp_subject="y.{signal}")
    assert (found.topic_of_readings(), found.subject_of_requests()) == ("x.{device}", "y.{signal}")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"url": None}, 'url: is missing; write url = "tls://…", or urls = ["tls://…", …]'),
        ({"url": "http://h"}, "url: 'http://h' is not a NATS server's; write nats:// or tls:// and a host"),
        ({"urls": ["nats://a"]}, "urls: url names one server already; give url or urls"),
        ({"url": None, "urls": ["nats://a", "tls://b"]}, "urls: nats:// and tls:// are not mixed"),
        ({"url": None, "urls": ["nats://a", {"url": "nats://a:4222"}]}, "urls[1].url: is the same server as urls[0]"),
        ({"url": None, "urls": ["x"]}, "urls[0]: 'x' is not a NATS server's"),
        ({"url": None, "urls": [7]}, "urls[0]: expected"),
        ({"subject": "a.{device}"}, "subject: 'a.{device}' wants {device}, but a message is of many"),
        ({"subject": "a"}, "subject: 'a': add {signal}, or nobody can tell metrics from logs and traces"),
        ({"subject": "a.*.{signal}"}, "subject: 'a.*.{signal}' has '*' in it, which only a subscription's can have"),
        ({"subject": "a.{signal}.>"}, "has '>' in it"),
        ({"subject": "a b.{signal}"}, "subject: 'a b.{signal}' has a space in it, which ends a subject"),
        ({"subject": "a..{signal}"}, "subject: 'a..{signal}' has an empty part between its dots"),
        ({"subject": ".{signal}"}, "has an empty part"),
        ({"subject": "$JS.{signal}"}, "subject: '$JS.{signal}' begins with what servers keep for themselves"),
        ({"subject": "{signal}.{"}, "subject: '{signal}.{' has a brace that belongs to no name"),
        ({"subject": "{}.{signal}"}, "subject: '{}.{signal}' has {} in it"),
        ({"payload": "json", "subject": "a.{signal}"}, "subject: 'a.{signal}': {signal} is for OTLP"),
        ({"payload": "json", "otlp_subject": "a"}, "otlp_subject: 'a': add {signal}"),
        ({"otlp_subject": "b.{signal}"}, 'otlp_subject: is for payload = "json"; here write subject = "…"'),
        ({"payload": "json", "compression": "zstd"}, "compression: messages of one reading each become no smaller"),
        ({"password": {"env": "P"}}, "password: a password needs a username"),
        ({"username": "u", "token": {"env": "T"}}, "token: stands instead of username; give one of both"),
        ({"nkey": {"env": "N"}, "credentials": {"env": "C"}}, "credentials: stands instead of nkey; give one of both"),
        ({"tls": {"ca_file": "/x"}}, "tls: tls is set, but the server's address does not use TLS; write tls://"),
        ({"stream": "a.b"}, "stream: 'a.b' is no stream's name"),
        ({"inbox": "a b"}, "inbox: 'a b' has a space in it"),
        ({"inbox": ""}, "inbox: '' has an empty part"),
        ({"timeout": "0s"}, "timeout: is 0s"),
        ({"request_bytes_max": "1B"}, "request_bytes_max: is at least"),
        ({"inflight_max": 0}, "inflight_max"),
        ({"discover": ["10.0.0.0/8", "*"]}, "discover[1]: '*' is no host; write a name, *.name.example, an address"),
        ({"discover": ["10.0.0.1/8"]}, "discover[0]: '10.0.0.1/8' has more in it than 8 bits"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(table: dict[str, Any], said: str) -> None:
    """With what would be right."""
    found = problems(**table)
    assert any(said in problem for problem in found), found


def test_what_can_be_read_on_the_way_is_said() -> None:
    """With what it is; and a weight that means nothing."""
    (said,) = settings(url="nats://far", token={"env": "T"}).warnings()
    assert said == "url: nats://far is not encrypted, token and data can be read on the way; tls:// would protect them"
    (said,) = settings(url=None, urls=("nats://a", "nats://b"), username="u", password={"env": "P"}).warnings()
    assert said.startswith("urls: nats://a, nats://b are not encrypted, password and data can be read")
    assert settings(url="tls://far", discover=("far", "*.far.example")).warnings() == []
    (said,) = settings(discover=("10.0.0.0/8",), username="u", password={"env": "P"}).warnings()
    assert said.startswith("discover: without TLS password and data can be read on the way there")
    assert "balance" in settings(balance="weighted").warnings()[0]


def test_what_is_filled_in_stays_one_token() -> None:
    """And two that differ stay different."""
    values = ["a.b", "a b", "a*", "a>", "a%2Eb", "", "-", "\t", "ü"]
    tokens = [token_of(value) for value in values]
    assert len(set(tokens)) == len(values)
    assert not any(set(". *>\t") & set(token) for token in tokens)
    assert fill("x.{gateway}", {"gateway": token_of("site.7")}) == "x.site%2E7"
