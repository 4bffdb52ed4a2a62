"""A PUBLISH that is too large leaves a glimpse, however it comes."""

from __future__ import annotations

import pytest

from gateway.net.mqtt_fields import Property, ProtocolError
from gateway.net.mqtt_oversize import GLIMPSE_BYTES, Oversize
from gateway.net.mqtt_packets import publish_bytes


def taken(whole: bytes, piece_bytes: int, *, body: int) -> Oversize:
    """Return a packet that has come in pieces, and more behind it."""
    oversize = Oversize(packet_bytes=len(whole), body=body)
    stream = whole + b"next"
    for at in range(0, len(whole), piece_bytes):
        piece = stream[at : at + piece_bytes]
        left = oversize.left
        assert oversize.take(piece, 0) == min(left, len(piece))
    assert not oversize.left
    return oversize


@pytest.mark.parametrize("piece_bytes", [1, 4, 5, 1000, 1 << 20])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 5])
def test_the_glimpse_is_the_beginning(piece_bytes: int, qos: int, version: int) -> None:
    """Topic, packet id and a part of the payload; properties are left out."""
    properties = [(Property.CONTENT_TYPE, b"c" * 300)] if version == 5 else ()
    whole = publish_bytes(b"a/b", b"x" * 20_000, qos=qos, packet_id=7, version=version, properties=properties)
    oversize = taken(whole, piece_bytes, body=4)
    assert oversize.is_known
    head, body, end = oversize.glimpse(has_properties=version == 5)
    shown = len(head) - len(publish_bytes(b"a/b", b"", qos=qos, packet_id=7, version=version)) - 2
    expected = publish_bytes(b"a/b", b"x" * shown, qos=qos, packet_id=7, version=version)
    assert (head[0], head[body:end]) == (expected[0], expected[3 if shown > 120 else 2 :])
    assert GLIMPSE_BYTES - 310 < shown <= GLIMPSE_BYTES + 2
    assert oversize.bytes_held <= 4 + 2 + 3 + 2 + GLIMPSE_BYTES


def test_nothing_is_known_before_its_topic_is_there() -> None:
    """The length of the topic says how much is looked at."""
    whole = publish_bytes(b"t" * 5000, b"x" * 3000, qos=1, packet_id=7)
    oversize = Oversize(packet_bytes=len(whole), body=3)
    assert oversize.take(whole[:4], 0) == 4
    assert not oversize.is_known
    assert oversize.take(whole[: 4 + 5003], 4) == 4 + 5003
    assert not oversize.is_known
    oversize.take(whole, 4 + 5003)
    assert oversize.is_known


def test_properties_larger_than_the_glimpse_leave_no_payload() -> None:
    """They are not held for it."""
    properties = [(Property.CONTENT_TYPE, b"c" * 5000)]
    whole = publish_bytes(b"t", b"x", qos=1, packet_id=7, version=5, properties=properties)
    oversize = taken(whole, 1000, body=3)
    head, body, end = oversize.glimpse(has_properties=True)
    assert head[body:end] == b"\0\x01t\0\x07\0"


def test_a_topic_longer_than_its_packet_is_malformed() -> None:
    """Not a glimpse of something else."""
    oversize = Oversize(packet_bytes=1000, body=3)
    oversize.take(b"\x30\xe5\x07\xff\xff" + bytes(995), 0)
    assert oversize.is_known
    with pytest.raises(ProtocolError):
        oversize.glimpse(has_properties=True)
