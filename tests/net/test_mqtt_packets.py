"""Checks for MQTT packets beside PUBLISH."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.mqtt import PacketType, ProtocolError, ReasonCode
from gateway.net.mqtt_fields import Property
from gateway.net.mqtt_packets import (
    EXPIRY_NEVER,
    Connect,
    Will,
    answer_bytes,
    connack_bytes,
    connect_bytes,
    connect_version,
    disconnect_bytes,
    packet_bytes,
    read_answer,
    read_connect,
    read_disconnect,
    read_filters,
    suback_bytes,
    unsuback_bytes,
)

HEAD_4 = b"\0\4MQTT\4"


def body(packet: bytes) -> bytes:
    assert packet[1] < 128
    return packet[2:]


@given(
    st.sampled_from([4, 5]),
    st.binary(min_size=1, max_size=9).filter(lambda b: b.isascii() and b"\0" not in b),
    st.booleans(),
    st.integers(0, 65535),
    st.none() | st.just(Will(b"state", b"gone", 2)),
    st.booleans(),
)
def test_a_connect_survives(version, client_id, clean_start, keep_alive_s, will, named) -> None:
    """What a client writes is what a server reads."""
    login = {"username": "grün".encode(), "password": b"\0\xff"} if named else {}
    packet = connect_bytes(
        client_id, version=version, clean_start=clean_start, keep_alive_s=keep_alive_s, will=will, **login
    )
    expiry_s = EXPIRY_NEVER if version == 4 and not clean_start else 0
    assert read_connect(body(packet)) == Connect(
        version=version,
        client_id=client_id,
        clean_start=clean_start,
        keep_alive_s=keep_alive_s,
        session_expiry_s=expiry_s,
        username="grün" if named else None,
        password=b"\0\xff" if named else None,
        will=will,
    )


def test_a_connect_of_version_5_has_properties() -> None:
    """Session expiry, a will's delay, an authentication method."""
    packet = connect_bytes(
        b"d",
        version=5,
        will=Will(b"t", b"", 0, delay_s=9),
        properties=[(Property.SESSION_EXPIRY, 70), (Property.AUTHENTICATION_METHOD, b"x")],
    )
    connect = read_connect(body(packet))
    assert (connect.session_expiry_s, connect.authentication_method) == (70, b"x")
    assert connect.will is not None
    assert connect.will.delay_s == 9
    assert connect_version(body(packet)) == 5


def test_a_password_is_not_shown() -> None:
    """Not in a log, not in a traceback."""
    assert "hush" not in repr(read_connect(body(connect_bytes(b"d", username=b"u", password=b"hush"))))


BAD_CONNECTS = {
    "password without a name": (HEAD_4 + b"\x42\0\0\0\1d\0\1p", ReasonCode.MALFORMED_PACKET),
    "will's QoS without a will": (HEAD_4 + b"\x0a\0\0\0\1d", ReasonCode.MALFORMED_PACKET),
    "will's RETAIN without a will": (HEAD_4 + b"\x22\0\0\0\1d", ReasonCode.MALFORMED_PACKET),
    "will of QoS 3": (HEAD_4 + b"\x1e\0\0\0\1d\0\1t\0\0", ReasonCode.MALFORMED_PACKET),
    "reserved flag": (HEAD_4 + b"\x03\0\0\0\1d", ReasonCode.MALFORMED_PACKET),
    "bytes behind": (HEAD_4 + b"\x02\0\0\0\1d!", ReasonCode.MALFORMED_PACKET),
    "cut": (HEAD_4 + b"\x02\0", ReasonCode.MALFORMED_PACKET),
    "data without a method": (b"\0\4MQTT\5\2\0\0\4\x16\0\1x\0\1d", ReasonCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", BAD_CONNECTS)
def test_connects_that_may_not_be(name: str) -> None:
    """Each is refused with its reason."""
    data, code = BAD_CONNECTS[name]
    with pytest.raises(ProtocolError) as caught:
        read_connect(data)
    assert caught.value.code is code


@given(st.sampled_from([b"", HEAD_4, b"\0\4MQTT\5"]), st.binary(max_size=40))
def test_noise_is_a_packet_or_a_protocol_error(head: bytes, noise: bytes) -> None:
    """Never anything else."""
    for version in (4, 5):
        for read in (
            read_connect,
            lambda data, v=version: read_answer(data, v),
            lambda data, v=version: read_disconnect(data, v),
            lambda data, v=version: read_filters(data, v, PacketType.SUBSCRIBE),
            lambda data, v=version: read_filters(data, v, PacketType.UNSUBSCRIBE),
        ):
            with contextlib.suppress(ProtocolError):
                read(head + noise)


def test_filters() -> None:
    """The id and the filters, options aside."""
    assert read_filters(b"\0\7\0\1a\1\0\1b\2", 4, PacketType.SUBSCRIBE) == (b"\0\7", [b"a", b"b"])
    assert read_filters(b"\0\7\0\0\1a\x2d", 5, PacketType.SUBSCRIBE) == (b"\0\7", [b"a"])
    assert read_filters(b"\0\7\0\1a", 4, PacketType.UNSUBSCRIBE) == (b"\0\7", [b"a"])


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\1a\0", b"\0\1", b"\0\1\0\0\0", b"\0\1\0\1a\3", b"\0\1\0\1a\4", b"\0\1\0\1a", b"\0\1" + b"\0\1a\0" * 300],
)
def test_filters_that_may_not_be(data: bytes) -> None:
    """Id 0, none, empty, QoS 3, options of 5.0 in 3.1.1, none at all, too many."""
    with pytest.raises(ProtocolError):
        read_filters(data, 4, PacketType.SUBSCRIBE)


def test_answers() -> None:
    """With a reason in 5.0, without in 3.1.1."""
    assert read_answer(b"\0\7", 4) == (b"\0\7", 0)
    assert read_answer(b"\0\7\x92", 5) == (b"\0\7", 0x92)
    assert read_answer(b"\0\7\x92\0", 5) == (b"\0\7", 0x92)
    for data, version in ((b"\0", 4), (b"\0\0", 4), (b"\0\7\x92", 4), (b"\0\7\x92\0\0", 5)):
        with pytest.raises(ProtocolError):
            read_answer(data, version)
    assert answer_bytes(PacketType.PUBACK, b"\0\7", code=0x87, version=4) == b"\x40\2\0\7"


def test_disconnects() -> None:
    """Nothing in 3.1.1; a reason and a session expiry in 5.0."""
    assert read_disconnect(b"", 4) == (0, None)
    assert read_disconnect(b"", 5) == (0, None)
    assert read_disconnect(b"\x04", 5) == (4, None)
    assert read_disconnect(b"\0\5\x11\0\0\0\7", 5) == (0, 7)
    for data, version in ((b"\0", 4), (b"\0\0\0", 5)):
        with pytest.raises(ProtocolError):
            read_disconnect(data, version)


def test_what_a_server_says() -> None:
    """Each version in its own words."""
    assert connack_bytes(version=4, code=ReasonCode.SUCCESS, session_present=True) == b"\x20\2\1\0"
    assert connack_bytes(version=4, code=ReasonCode.BAD_USER_NAME_OR_PASSWORD) == b"\x20\2\0\4"
    assert connack_bytes(version=4, code=ReasonCode.MALFORMED_PACKET) == b""
    assert connack_bytes(version=5, code=ReasonCode.MALFORMED_PACKET) == b"\x20\3\0\x81\0"
    assert suback_bytes(b"\0\7", [0x87, 1], version=4) == b"\x90\4\0\7\x80\1"
    assert suback_bytes(b"\0\7", [0x87], version=5) == b"\x90\4\0\7\0\x87"
    assert unsuback_bytes(b"\0\7", [0x11], version=4) == b"\xb0\2\0\7"
    assert unsuback_bytes(b"\0\7", [0x11], version=5) == b"\xb0\4\0\7\0\x11"
    assert disconnect_bytes(version=4, code=ReasonCode.SERVER_SHUTTING_DOWN) == b""
    assert disconnect_bytes(version=5, code=ReasonCode.SERVER_SHUTTING_DOWN) == b"\xe0\1\x8b"
    assert len(packet_bytes(0x30, bytes(200))) == 203


def test_a_subscribe_has_one_subscription_identifier() -> None:
    """Section 3.8.2.1.2. In a PUBLISH there may be many; here 256 KiB of them took a fifth of a second to read."""
    once = packet_bytes(0x82, b"\0\7\2\x0b\1\0\1a\0")[2:]
    assert read_filters(once, 5, PacketType.SUBSCRIBE) == (b"\0\7", [b"a"])
    with pytest.raises(ProtocolError, match="0x0b is there twice") as caught:
        read_filters(b"\0\7\4\x0b\1\x0b\1\0\1a\0", 5, PacketType.SUBSCRIBE)
    assert caught.value.code is ReasonCode.PROTOCOL_ERROR
