"""Of the servers that a cluster tells of only those are gone to that the configuration allows."""

from __future__ import annotations

import pytest

from gateway.net.line import Address
from gateway.uplinks.nats_discovery import AT_ONCE_MAX, OTHERS_MAX, Discovery, Place


def test_who_is_not_allowed_is_counted_and_not_gone_to() -> None:
    """Nor is who is named already, nor what is no address."""
    known = Discovery(["10.0.0.0/24"], ["nats://10.0.0.1", "nats://10.0.0.2"])
    told = [
        "10.0.0.1:4222",
        "10.0.0.2:4222",
        "10.0.0.3:4222",
        "10.0.1.4:4222",
        "evil.example:4222",
        "u:p@10.0.0.5:1",
        "",
    ]
    known.heard(told, by="10.0.0.1")
    assert known.others() == [Place(Address("10.0.0.3", 4222), "10.0.0.3")]
    assert known.told() == {"servers": ["10.0.0.3:4222"], "not_allowed": ["10.0.1.4:4222", "evil.example:4222"]}


@pytest.mark.parametrize(
    ("url", "by", "told", "name"),
    [
        ("tls://a.nats.example", "a.nats.example", "10.0.0.3:4222", "a.nats.example"),
        ("tls://10.0.0.1", "10.0.0.1", "10.0.0.3:4222", "10.0.0.3"),
        ("tls://a.nats.example", "a.nats.example", "b.nats.example:4222", "b.nats.example"),
        ("tls://a.nats.example", "a.nats.example", "[fd00::3]:4222", "a.nats.example"),
    ],
)
def test_whose_certificate_it_must_have(url: str, by: str, told: str, name: str) -> None:
    """Its own, and that of who has told of it where it is one of many addresses."""
    known = Discovery(["10.0.0.0/24", "*.nats.example", "fd00::/64"], [url])
    known.heard([told], by=by)
    assert [place.name for place in known.others()] == [name]


def test_who_was_told_last_comes_first_and_who_failed_last() -> None:
    """There is a bound to how many are known; the last server of a cluster knows of nobody any more."""
    known = Discovery(["10.0.0.0/16"], ["nats://10.1.0.1"])
    known.heard([f"10.0.0.{number}:4222" for number in range(1, 4)], by="10.1.0.1")
    known.failed(known.others()[0])
    assert [place.to.host for place in known.others()] == ["10.0.0.2", "10.0.0.3", "10.0.0.1"]
    known.failed(Place(Address("10.0.0.99", 4222), ""))
    known.heard(["10.0.0.9:4222", "10.0.0.1:4222"], by="10.1.0.1")
    assert known.told()["servers"] == [f"10.0.0.{number}:4222" for number in (9, 1, 2, 3)]
    assert len(known.others()) == AT_ONCE_MAX
    known.heard([f"10.0.1.{number}:4222" for number in range(100)], by="10.1.0.1")
    assert len(known._others) == OTHERS_MAX
    assert all(to.host.startswith("10.0.1.") for to in known._others)
