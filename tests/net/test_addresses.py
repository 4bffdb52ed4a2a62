"""Checks for addresses as people write them."""

from __future__ import annotations

import errno
import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.net.addresses import cannot_listen, is_loopback, packed_address, split_address


@pytest.mark.parametrize("address", ["127.0.0.1", ":80", "host:", "host:http", "host:70000", "::1:80", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    """With a sentence that shows one."""
    with pytest.raises(ValueError, match="like"):
        split_address(address)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EADDRINUSE, "Address already in use (while attempting to bind …)"),
            "Address already in use; another",
        ),
        (OSError(errno.EADDRNOTAVAIL, "no"), "Cannot assign requested address; this machine has no such address"),
        (OSError(errno.EACCES, "no"), "Permission denied; ports below 1024"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("odd"), "odd"),
    ],
)
def test_why_an_address_cannot_be_had(error: OSError, words: str) -> None:
    """In one sentence, with what to do where it is known; its number stays."""
    trouble = cannot_listen("127.0.0.1:80", error)
    assert str(trouble.strerror).startswith(f"cannot listen on 127.0.0.1:80: {words}")
    assert trouble.errno == error.errno


@pytest.mark.parametrize(
    ("host", "answer"),
    [("localhost", True), ("127.9.9.9", True), ("::1", True), ("::", False), ("10.0.0.1", False), ("box", False)],
)
def test_what_only_this_machine_reaches(host: str, answer: bool) -> None:
    """A name that must be looked up is not trusted to be here."""
    assert is_loopback(host) is answer


PIECES = st.one_of(
    st.ip_addresses().map(str), st.sampled_from([":", ".", "0", "01", "ff", "%", "%lo", "/", "\0", "é", "\ud800"])
)


@given(st.lists(PIECES, max_size=4).map("".join))
@example("127.0.0.01")
@example("::1%lo")
@example("::1%")
@example("::1%lo%")
@example("::1%lo/0")
@example("10.0.0.1%lo")
@example("::ffff:127.0.0.1")
def test_addresses_are_those_that_the_standard_library_knows(text: str) -> None:
    """Which a daemon does without; and what is loopback is so for both."""
    try:
        known = ipaddress.ip_address(text)
    except ValueError:
        assert packed_address(text) == b""
        assert not is_loopback(text)
    else:
        assert packed_address(text) == known.packed
        assert is_loopback(text) is (known.packed[:1] == b"\x7f" if known.version == 4 else int(known) == 1)
