"""Checks for the answers to packets."""

from __future__ import annotations

import pytest

from gateway.core.contracts import Lost
from gateway.net.mqtt import Packet, ProtocolError, Publishes, PublishScanner
from gateway.net.mqtt_packets import publish_bytes
from gateway.sources.mqtt_server_auth import Grant
from gateway.sources.mqtt_server_replies import SortedOut, reply, sort_out
from gateway.sources.mqtt_server_session import PacketIdSet, Session


def publishes(*rows: tuple[bytes, int]) -> Publishes:
    """Return messages with these topics and QoS, with the ids 1, 2, …."""
    raw = b"".join(publish_bytes(topic, b"", qos=qos, packet_id=k + 1) for k, (topic, qos) in enumerate(rows))
    (item,) = PublishScanner(packet_bytes_max=1000).feed(raw)
    assert isinstance(item, Publishes)
    return item


def sort(version: int, *rows: tuple[bytes, int]) -> tuple[SortedOut, Session]:
    session = Session(("u", b"d"))
    return sort_out(publishes(*rows), grant=Grant("u", ["a"]), session=session, version=version), session


def test_what_is_allowed_is_handed_in_and_answered() -> None:
    """In order, each in its own words."""
    out, session = sort(4, (b"a", 1), (b"a", 0), (b"a", 2))
    assert out.topics == [b"a"] * 3
    assert out.answers == [b"\x40\2\0\1", b"\x50\2\0\3"]
    assert (out.unacknowledged, out.exactly_once, out.must_hang_up) == (2, [b"\0\3"], False)
    assert session.offered == {b"\0\3"}


def test_what_is_forbidden_ends_3_1_1_and_is_said_in_5() -> None:
    """QoS 0 is dropped in both."""
    out, _ = sort(4, (b"a", 1), (b"b", 0), (b"b", 1), (b"a", 1))
    assert (out.topics, out.forbidden, out.must_hang_up) == ([b"a"], [b"b", b"b"], True)
    out, _ = sort(5, (b"a", 1), (b"b", 0), (b"b", 1), (b"b", 2), (b"a", 1))
    assert out.answers == [b"\x40\2\0\1", b"\x40\3\0\3\x87", b"\x50\3\0\4\x87", b"\x40\2\0\5"]
    assert not out.must_hang_up


def test_a_pubrel_releases_its_id() -> None:
    """Once."""
    kept = PacketIdSet()
    kept.add(b"\0\7")
    assert reply(Packet(0x62, b"\0\7"), kept=kept, version=5) == b"\x70\2\0\7"
    assert reply(Packet(0x62, b"\0\7"), kept=kept, version=5) == b"\x70\3\0\7\x92"


@pytest.mark.parametrize("first_byte", [0x20, 0x40, 0x50, 0x70, 0x90, 0xB0, 0xD0, 0xF0, 0x10])
def test_packets_that_no_client_sends(first_byte: int) -> None:
    """A server that never publishes is not answered."""
    with pytest.raises(ProtocolError, match="that nobody asked for"):
        reply(Packet(first_byte, b"\0\1"), kept=PacketIdSet(), version=4)


def test_what_is_lost_keeps_its_place_among_those_handed_in() -> None:
    """What is forbidden, or known already, is not handed in."""
    item = publishes((b"b", 0), (b"a", 2), (b"a", 1), (b"b", 0), (b"a", 2))
    item.lost = [Lost(k, "oversize", "") for k in (0, 2, 4)]
    session = Session(("u", b"d"))
    session.kept.add(b"\0\2")
    out = sort_out(item, grant=Grant("u", ["a"]), session=session, version=4)
    assert out.topics == [b"a", b"a"]
    assert out.lost == [Lost(0, "oversize", ""), Lost(1, "oversize", "")]
    assert out.answers == [b"\x50\2\0\2", b"\x40\2\0\3", b"\x50\2\0\5"]
