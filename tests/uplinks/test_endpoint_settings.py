"""Checks for what may be said of receivers: several of them, their weights, and when one is left out."""

from __future__ import annotations

import re

import pytest

from gateway.core.units import Duration
from gateway.uplinks.endpoint_settings import BreakerSettings, EndpointSettings, is_loopback
from gateway.uplinks.settings import OtlpUplinkSettings


def make(*endpoints: str | EndpointSettings, **settings) -> OtlpUplinkSettings:
    return OtlpUplinkSettings(**{"name": "cloud", "endpoints": endpoints, **settings})


def test_one_receiver_is_one_of_many() -> None:
    """Whoever looks for receivers finds them in the same place."""
    assert OtlpUplinkSettings(name="cloud", endpoint="https://a").targets() == (EndpointSettings(url="https://a"),)
    weighted = EndpointSettings(url="https://b", weight=3)
    assert make("https://a", weighted).targets() == (EndpointSettings(url="https://a"), weighted)


@pytest.mark.parametrize(
    ("endpoints", "sentence"),
    [
        (("https://a", "https://a:443/"), r"endpoints\[1\]: is the same receiver as endpoints\[0\]"),
        (("https://a/x", EndpointSettings(url="https://A/x")), r"endpoints\[1\].url: is the same receiver"),
        (("https://a", "http://b"), "endpoints: http:// and https:// are not mixed"),
        (("https://a", "https://b/v1/logs"), r"endpoints\[1\]: this is the base address"),
        (("https://a", "b:4318"), r"endpoints\[1\]: 'b:4318' is not an address"),
        ((), "endpoint: is missing; write endpoint = .*OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_what_cannot_be_meant_is_said(endpoints: tuple, sentence: str) -> None:
    """With the place where it stands."""
    with pytest.raises(ValueError, match=sentence):
        make(*endpoints)


def test_one_receiver_is_named_once() -> None:
    """By one key or by the other."""
    with pytest.raises(ValueError, match="endpoints: endpoint names one receiver already"):
        make("https://a", endpoint="https://b")


def test_a_password_in_an_address_is_not_repeated() -> None:
    """A refusal ends up in logs."""
    with pytest.raises(ValueError, match="must not hold a user or password") as caught:
        make("https://a", "https://user:hunter2@b")
    assert "hunter2" not in str(caught.value)


def test_two_paths_or_ports_of_one_host_are_two_receivers() -> None:
    """They are told apart by all that a request sees."""
    assert len(make("https://a/one", "https://a/two", "https://a:4318").targets()) == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (make("https://a", balance="weighted"), "balance: there is one receiver"),
        (
            make("https://a", EndpointSettings(url="https://b", weight=2)),
            'endpoints: weights are those of balance = "w',
        ),
        (
            make("http://a.lan", "http://127.0.0.1:1", "http://b.lan"),
            r"endpoints: http://a.lan, http://b.lan are not enc",
        ),
    ],
)
def test_what_is_perhaps_not_meant_is_said(settings: OtlpUplinkSettings, sentence: str) -> None:
    """It works all the same."""
    (warning,) = settings.warnings()
    assert re.match(sentence, warning)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": Duration(0.5)}, 'window: is 500ms; it is at least "1s"'),
        ({"open_for": Duration(600)}, "open_for: is 10m; it must be over zero and not exceed open_max"),
        ({"open_for": Duration(0)}, "open_for: is 0s"),
    ],
)
def test_a_breaker_has_times(settings: dict, sentence: str) -> None:
    """Without them it would never open, or never close."""
    with pytest.raises(ValueError, match=sentence):
        BreakerSettings(**settings)


def test_a_breaker_takes_what_is_set() -> None:
    """Under the breaker's own names."""
    limits = BreakerSettings(failures=5, window=Duration(30), open_for=Duration(2), probes=4).limits()
    assert (limits.failures, limits.window_s, limits.open_s, limits.open_s_max, limits.probes) == (5, 30, 2, 300, 4)


@pytest.mark.parametrize(
    ("host", "is_here"), [("localhost", True), ("127.9.9.9", True), ("::1", True), ("a.lan", False)]
)
def test_what_is_this_box(host: str, is_here: bool) -> None:
    """What is said to it nobody else hears."""
    assert is_loopback(host) is is_here
