"""The URL of a NATS server says where it is and whether it is spoken to by TLS, or what would be right."""

from __future__ import annotations

import pytest

from gateway.net.nats_address import NatsAddress, parse_url


def test_a_url_says_where() -> None:
    """With the usual port where it names none."""
    assert parse_url("nats://[::1]:4333/") == NatsAddress("::1", 4333, is_tls=False)
    assert parse_url("tls://nats.example") == NatsAddress("nats.example", 4222, is_tls=True)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://a", "is not a NATS server's; write nats:// or tls:// and a host"),
        ("nats://", "write nats:// or tls://"),
        ("nats://a:0", "has port 0"),
        ("nats://a:x", "is not a NATS server's"),
        ("nats://me:secret@a", "holds credentials"),
        ("nats://a/b", "has a path"),
    ],
)
def test_what_is_no_address_says_what_would_be(url: str, said: str) -> None:
    """And shows no secret."""
    with pytest.raises(ValueError, match=said.replace("(", r"\(")) as error:
        parse_url(url)
    assert "secret" not in str(error.value)
