"""The URL of a NATS server says where it is and whether it is spoken to by TLS, or what would be right."""

from __future__ import annotations

import pytest

from gateway.net.nats_address import NatsAddress, parse_pattern, parse_url


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


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("nats.example", ["nats.example", "NATS.example."], ["a.nats.example", "nats.example.org", "10.0.0.1"]),
        ("*.nats.example", ["a.nats.example"], ["nats.example", "a.b.nats.example", ".nats.example", "anats.example"]),
        ("n_1", ["n_1"], ["n_2"]),
        ("10.0.0.5", ["10.0.0.5"], ["10.0.0.6", "::ffff:10.0.0.5", "10.0.0.5.example"]),
        ("10.20.0.0/14", ["10.20.0.0", "10.23.255.255"], ["10.24.0.0", "10.19.255.255", "167772160"]),
        ("fd00::/9", ["fd00::1", "fd7f::1"], ["fd80::1", "10.0.0.1"]),
    ],
)
def test_a_pattern_allows_hosts(pattern: str, yes: list[str], no: list[str]) -> None:
    """And none beside them."""
    allows = parse_pattern(pattern).allows
    assert all(allows(host) for host in yes)
    assert not any(allows(host) for host in no)


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "*.example", "a b", "a/24", "a..b", "*.*.a", "10.0.0.0/0", "10.0.0.0/33", "10.0.0.0/x", "10.0.0.1/24",
     "nats://a", "a:4222", "ä.example"],
)  # fmt: skip
def test_what_would_lead_anywhere_is_no_pattern(text: str) -> None:
    """Nor what is no host."""
    with pytest.raises(ValueError, match="is no|has more in it"):
        parse_pattern(text)
