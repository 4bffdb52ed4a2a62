"""What a broker says and does, in words for people."""

from __future__ import annotations

import ssl

import pytest

from gateway.net.mqtt_fields import VERSION_3_1_1, VERSION_5
from gateway.sources.mqtt_link import LinkClosed
from gateway.sources.mqtt_words import Refused, sentence, tls_trouble, window_advice


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LinkClosed("the broker closed the connection"), "the broker closed the connection"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "cannot connect to box:1883: Connection refused"),
        (OSError("odd"), "cannot connect to box:1883: odd"),
    ],
)
def test_a_failure_is_a_sentence(error: BaseException, words: str) -> None:
    """Whatever the operating system calls it."""
    assert sentence(error, broker="box:1883") == words


@pytest.mark.parametrize(
    ("reason", "is_final"),
    [("TLSV1_ALERT_UNKNOWN_CA", True), ("WRONG_VERSION_NUMBER", True), ("UNEXPECTED_EOF", False)],
)
def test_an_alert_stays_and_a_cut_may_pass(reason: str, is_final: bool) -> None:
    """Only the first wants a person."""
    error = ssl.SSLError()
    error.reason = reason
    assert isinstance(tls_trouble(error), Refused) == is_final


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("certificate has expired", "clock right"),
        ("certificate is not yet valid", "clock right"),
        ("Hostname mismatch, certificate is not valid for 'b'.", "in url as its certificate does"),
        ("unable to get local issuer certificate", "with tls.ca_file of this source"),
        ("self-signed certificate", "with tls.ca_file of this source"),
    ],
)
def test_a_certificate_that_is_not_trusted_says_what_to_do(why: str, words: str) -> None:
    """Each reason wants something else of a person."""
    error = ssl.SSLCertVerificationError()
    error.verify_message = why
    assert f"not trusted: {why}; " in str(tls_trouble(error))
    assert words in str(tls_trouble(error))


@pytest.mark.parametrize(
    ("size", "version", "words"),
    [
        (20, VERSION_3_1_1, ["only 20 messages", "max_inflight_messages", 'protocol = "5"']),
        (20, VERSION_5, ["only 20 messages", "max_inflight_messages"]),
        (1, VERSION_5, ["only one message ", "max_inflight_messages"]),
        (100, VERSION_5, ["raise receive_maximum of this source"]),
    ],
)
def test_a_window_that_limits_is_named_with_its_remedy(size: int, version: int, words: list[str]) -> None:
    """The broker's setting, ours, or a newer protocol."""
    advice = window_advice(size, version=version, receive_maximum=100)
    assert all(word in advice for word in words)
    assert ("receive_maximum" in advice) == (size == 100)
