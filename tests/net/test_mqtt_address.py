"""A broker's URL says where it is, or what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.net.mqtt_address import parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://h", ("h", 1883, False, False, "")),
        ("mqtts://h", ("h", 8883, True, False, "")),
        ("ws://h", ("h", 80, False, True, "/mqtt")),
        ("wss://h:444/a/b?c=d", ("h", 444, True, True, "/a/b?c=d")),
        ("mqtt://[::1]:1884/", ("::1", 1884, False, False, "")),
    ],
)
def test_urls(url: str, expected: tuple[Any, ...]) -> None:
    """Scheme, host, port and path, with the usual defaults."""
    address = parse_url(url)
    assert (address.host, address.port, address.is_tls, address.is_websocket, address.path) == expected


@pytest.mark.parametrize(
    "url", ["http://h", "mqtt://", "mqtt://h:0", "mqtt://h/plant", "mqtt://u:hunter2@h", "mqtt://[x"]
)
def test_what_is_no_broker_is_refused(url: str) -> None:
    """Without repeating a password."""
    with pytest.raises(ValueError) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)
