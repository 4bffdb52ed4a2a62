"""Checks for addresses as people write them."""

from __future__ import annotations

import pytest

from gateway.net.addresses import is_loopback, split_address


@pytest.mark.parametrize("address", ["127.0.0.1", ":80", "host:", "host:http", "host:70000", "::1:80", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    """With a sentence that shows one."""
    with pytest.raises(ValueError, match="like"):
        split_address(address)


@pytest.mark.parametrize(
    ("host", "answer"),
    [("localhost", True), ("127.9.9.9", True), ("::1", True), ("::", False), ("10.0.0.1", False), ("box", False)],
)
def test_what_only_this_machine_reaches(host: str, answer: bool) -> None:
    """A name that must be looked up is not trusted to be here."""
    assert is_loopback(host) is answer
