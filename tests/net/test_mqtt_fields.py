"""Checks for what MQTT packets are made of."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.mqtt_fields import (
    CONNECT_PROPERTIES,
    PUBLISH_PROPERTIES,
    Property,
    ProtocolError,
    ReasonCode,
    check_topic,
    read_properties,
    read_string,
    read_variable_integer,
    topic_too_long,
    write_properties,
    write_variable_integer,
)


@given(st.integers(0, (1 << 28) - 1))
def test_lengths_survive(value: int) -> None:
    """Every length is read as it was written, in at most four bytes."""
    data = write_variable_integer(value)
    assert len(data) <= 4
    assert read_variable_integer(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff\xff\xff\x01"])
def test_lengths_that_do_not_end_are_refused(data: bytes) -> None:
    """Cut short or too long."""
    with pytest.raises(ProtocolError):
        read_variable_integer(data, 0, len(data))


@pytest.mark.parametrize("text", [b"\xff", b"a\0b", b"\xed\xa0\x80"])
def test_texts_are_utf_8_without_nul(text: bytes) -> None:
    """As the standard asks."""
    with pytest.raises(ProtocolError):
        read_string(len(text).to_bytes(2, "big") + text, 0, len(text) + 2)


def test_properties_survive() -> None:
    """Each kind of value; user properties are checked and left out, and subscription identifiers that nobody asked for."""
    written = [
        (Property.PAYLOAD_FORMAT, 1),
        (Property.MESSAGE_EXPIRY, 60),
        (Property.TOPIC_ALIAS, 7),
        (Property.CONTENT_TYPE, b"text/plain"),
        (Property.CORRELATION_DATA, b"\0\xff"),
    ]
    data = bytearray(write_properties(written))
    data += b"\x26\0\1k\0\1v" * 2 + b"\x0b\x81\x01" + b"\x0b\x05"
    data[0] = len(data) - 1
    properties, end = read_properties(bytes(data), 0, len(data), PUBLISH_PROPERTIES)
    assert properties == dict(written)
    assert end == len(data)


BAD = {
    "not here": (b"\x05\x11\0\0\0\1", ReasonCode.MALFORMED_PACKET),
    "unknown": (b"\x01\x7e", ReasonCode.MALFORMED_PACKET),
    "twice": (b"\x04\x01\x00\x01\x00", ReasonCode.PROTOCOL_ERROR),
    "not a boolean": (b"\x02\x01\x02", ReasonCode.PROTOCOL_ERROR),
    "subscription id 0": (b"\x02\x0b\x00", ReasonCode.PROTOCOL_ERROR),
    "alias 0": (b"\x03\x23\x00\x00", ReasonCode.TOPIC_ALIAS_INVALID),
    "past the end": (b"\x7f\x01\x00", ReasonCode.MALFORMED_PACKET),
    "number cut": (b"\x02\x02\x00", ReasonCode.MALFORMED_PACKET),
    "text cut": (b"\x04\x03\x00\x05a", ReasonCode.MALFORMED_PACKET),
    "later subscription id 0": (b"\x04\x0b\x01\x0b\x00", ReasonCode.PROTOCOL_ERROR),
    "subscription id cut": (b"\x04\x0b\x01\x0b\x80", ReasonCode.MALFORMED_PACKET),
    "subscription ids elsewhere": (b"\x06\x0b\x01\x01\x00\x11\x00", ReasonCode.MALFORMED_PACKET),
    "user name cut": (b"\x04\x26\0\3k", ReasonCode.MALFORMED_PACKET),
    "user value cut": (b"\x05\x26\0\1k\0", ReasonCode.MALFORMED_PACKET),
    "user name with NUL": (b"\x07\x26\0\1\0\0\1v", ReasonCode.MALFORMED_PACKET),
    "user value not UTF-8": (b"\x07\x26\0\1k\0\1\xff", ReasonCode.MALFORMED_PACKET),
}


@pytest.mark.parametrize("name", BAD)
def test_properties_that_may_not_be(name: str) -> None:
    """Each is refused with its reason."""
    data, code = BAD[name]
    with pytest.raises(ProtocolError) as caught:
        read_properties(data, 0, len(data), PUBLISH_PROPERTIES)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("one", "calls_max"), [(b"\x26\0\0\0\0", 1.1), (b"\x0b\x01", 0.01), (b"\x0b\xff\xff\xff\x7f", 0.01)]
)
def test_properties_that_nobody_looks_at_are_passed_quickly(one: bytes, calls_max: float) -> None:
    """A packet holds ten thousands of them, and nobody else is heard while they are read: counted in Python's calls."""
    count = 10_000
    data = write_variable_integer(count * len(one)) + count * one
    calls = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        found = read_properties(data, 0, len(data), PUBLISH_PROPERTIES)
    finally:
        sys.setprofile(before)
    assert found == ({}, len(data))
    assert calls <= calls_max * count


@given(st.binary(max_size=40))
def test_noise_as_properties(noise: bytes) -> None:
    """Properties or a ProtocolError, never anything else."""
    for allowed in (PUBLISH_PROPERTIES, CONNECT_PROPERTIES):
        try:
            _, end = read_properties(noise, 0, len(noise), allowed)
        except ProtocolError:
            continue
        assert end <= len(noise)


def test_a_topic_has_a_longest_length() -> None:
    """Longer ones are refused by name."""
    with pytest.raises(ProtocolError, match="at most 10 are taken") as caught:
        check_topic(b"12345678901", topic_bytes_max=10)
    assert str(caught.value) == topic_too_long(b"12345678901", 10)
    assert caught.value.code is ReasonCode.TOPIC_NAME_INVALID
    check_topic(b"1234567890", topic_bytes_max=10)
    check_topic(b"x" * 65_535)
