"""Checks for one connection to the MQTT server, over a real socket with a client that sends bytes."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.units import Duration, Size
from gateway.net.mqtt_fields import Property, write_properties
from gateway.net.mqtt_packets import Will, connect_bytes, packet_bytes, publish_bytes
from gateway.sources.mqtt_server_connection import Connection, State
from gateway.sources.mqtt_server_intake import EXACTLY_ONCE_BYTES, MESSAGE_BYTES, RECEIPT_BYTES
from gateway.sources.mqtt_server_line import READ_BYTES_FIRST, WRITE_BYTES_MAX, Pause
from gateway.sources.mqtt_server_talk import SKIPPED_BYTES, TALK_MAX

PING, PONG = b"\xc0\x00", b"\xd0\x00"
GOODBYE = b"\xe0\x00"
DISCONNECT_5 = b"\xe0\x01"


def publish(k: int, *, qos: int = 1, topic: bytes = b"t", version: int = 4, **fields: object) -> bytes:
    return publish_bytes(topic, b"%d" % k, qos=qos, packet_id=k, version=version, **fields)


def ack(kind: int, k: int) -> bytes:
    return bytes((kind, 2)) + k.to_bytes(2, "big")


async def test_a_puback_comes_after_the_commit(mqtt_server) -> None:
    """Nothing is acknowledged while the door has not said that it is kept."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect()
    await client.send(publish(1), PING)
    assert await client.packet() == PONG
    await rig.until(lambda: rig.door.offers)
    rig.door.opened.set()
    assert await client.packet() == ack(0x40, 1)
    assert rig.door.messages == [(b"t", b"1")]
    assert rig.door.arrivals[0].source == "direct"
    assert rig.door.arrivals[0].arrived_ns == rig.clock.monotonic
    status = rig.source.status()
    assert (status["received"], status["acknowledged"], status["in_flight_bytes"]) == (1, 1, 0)


async def test_pubacks_leave_in_the_order_of_arrival(mqtt_server) -> None:
    """A later commit that is quicker waits for the earlier one."""
    rig = await mqtt_server.start()
    rig.door.full_times = 1
    client = await rig.connect()
    await client.send(publish(1))
    await rig.until(lambda: rig.door.offers)
    await client.send(publish(2))
    assert [await client.packet() for _ in range(2)] == [ack(0x40, 1), ack(0x40, 2)]


async def test_who_waits_for_answers_asks_for_an_early_commit(mqtt_server, monkeypatch, window_of_two) -> None:
    """Each connection by itself, of QoS 1 and 2 alike; a message without an answer says nothing."""
    monkeypatch.setattr("gateway.sources.mqtt_server_connection.Window", window_of_two)
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    one, two = await rig.connect(b"one"), await rig.connect(b"two")

    async def publish(client, payload: bytes, qos: int, packet_id: int = 0) -> None:
        before = rig.door.offers
        await client.send(publish_bytes(b"t", payload, qos=qos, packet_id=packet_id))
        await rig.until(lambda: rig.door.offers == before + 1)

    await publish(one, b"1", 1, 1)
    await publish(two, b"2", 1, 1)
    await publish(one, b"3", 0)
    await publish(one, b"4", 2, 2)
    rig.door.opened.set()
    assert await one.packet() == b"\x40\x02\0\1"
    assert await one.packet() == b"\x50\x02\0\2"
    await publish(one, b"5", 1, 3)
    assert await one.packet() == b"\x40\x02\0\3"
    lasts = {arrivals.payloads[0]: arrivals.is_last for arrivals in rig.door.arrivals}
    assert lasts == {b"1": False, b"2": False, b"3": False, b"4": True, b"5": False}


async def test_a_buffer_of_mixed_qos_is_answered_in_order(mqtt_server) -> None:
    """QoS 0 has no answer, QoS 1 a PUBACK, QoS 2 a PUBREC."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    await client.send(publish(1), publish(2, qos=0), publish(3, qos=2), publish(4))
    assert [await client.packet() for _ in range(3)] == [ack(0x40, 1), ack(0x50, 3), ack(0x40, 4)]
    assert rig.door.payloads == [b"1", b"2", b"3", b"4"]


async def test_qos_0_is_kept_without_an_answer(mqtt_server) -> None:
    """It goes the same way."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    await client.send(publish(1, qos=0), publish(2, qos=0))
    await rig.until(lambda: rig.door.payloads == [b"1", b"2"])
    await client.send(PING)
    assert await client.packet() == PONG


@pytest.mark.parametrize("version", [4, 5])
async def test_qos_2_is_taken_once_until_it_is_released(mqtt_server, version: int) -> None:
    """Sent again before PUBREL it is only answered; after PUBCOMP the same id is a new message."""
    rig = await mqtt_server.start()
    client = await rig.connect(version=version)
    one = publish(7, qos=2, version=version)
    await client.send(one)
    assert await client.packet() == ack(0x50, 7)
    await client.send(one)
    assert await client.packet() == ack(0x50, 7)
    await client.send(ack(0x62, 7))
    assert await client.packet() == ack(0x70, 7)
    await client.send(one)
    assert await client.packet() == ack(0x50, 7)
    assert rig.door.payloads == [b"7", b"7"]


async def test_an_unknown_pubrel_is_completed_all_the_same(mqtt_server) -> None:
    """MQTT 5 says that the id was not found."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    await client.send(ack(0x62, 9))
    assert await client.packet() == ack(0x70, 9)
    client = await rig.connect(b"d2", version=5)
    await client.send(ack(0x62, 9))
    assert await client.packet() == b"\x70\x03\x00\x09\x92"


async def test_qos_2_survives_a_reconnect(mqtt_server) -> None:
    """A resumed session remembers what was kept and not released."""
    rig = await mqtt_server.start()
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2))
    assert await client.packet() == ack(0x50, 7)
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["clients"] == 0)
    client = await rig.open()
    await client.send(connect_bytes(b"d1", clean_start=False), publish(7, qos=2, is_duplicate=True))
    assert await client.packet() == b"\x20\x02\x01\x00"
    assert await client.packet() == ack(0x50, 7)
    assert rig.door.payloads == [b"7"]


async def test_qos_2_sent_again_by_a_new_connection_while_it_is_on_its_way(mqtt_server) -> None:
    """It is offered once, and the new connection gets the PUBREC."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2))
    await rig.until(lambda: rig.door.offers)
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["clients"] == 0)
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2, is_duplicate=True), publish(7, qos=2, is_duplicate=True), PING)
    assert await client.packet() == PONG
    rig.door.opened.set()
    assert await client.packet() == ack(0x50, 7)
    assert rig.door.payloads == [b"7"]


async def test_qos_2_sent_again_by_two_connections_is_answered_to_the_last_when_that_has_sent_it(mqtt_server) -> None:
    """One PUBREC: an early one lets the client use the id for another message, which a second one would confirm."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2))
    await rig.until(lambda: rig.door.offers)
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2, is_duplicate=True), PING)
    assert await client.packet() == PONG
    client = await rig.connect(clean_start=False)
    rig.door.opened.set()
    await rig.until(lambda: rig.source.status()["acknowledged"] == 1)
    await client.send(PING, publish(7, qos=2, is_duplicate=True), PING, ack(0x62, 7))
    assert sorted([await client.packet() for _ in range(4)]) == sorted([PONG, PONG, ack(0x50, 7), ack(0x70, 7)])
    await client.send(PING)
    assert await client.packet() == PONG
    assert rig.door.payloads == [b"7"]


async def test_who_sent_qos_2_again_hears_that_it_was_not_kept(mqtt_server, caplog) -> None:
    """Its own copy was not offered, so it waits for an answer that would never come: it has to send it once more."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2))
    await rig.until(lambda: rig.door.offers)
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["clients"] == 0)
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2, is_duplicate=True), PING)
    assert await client.packet() == PONG
    rig.door.failure = RuntimeError("a mistake")
    rig.door.opened.set()
    assert await client.rest() == b""
    assert "messages could not be taken" in caplog.text
    rig.door.failure = None
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2, is_duplicate=True))
    assert await client.packet() == ack(0x50, 7)
    assert rig.door.payloads == [b"7"]


async def test_a_clean_start_forgets(mqtt_server) -> None:
    """The same id is a new message then."""
    rig = await mqtt_server.start()
    client = await rig.connect(clean_start=False)
    await client.send(publish(7, qos=2))
    await client.packet()
    client = await rig.open()
    await client.send(connect_bytes(b"d1", clean_start=True), publish(7, qos=2))
    assert await client.packet() == b"\x20\x02\x00\x00"
    assert await client.packet() == ack(0x50, 7)
    assert rig.door.payloads == [b"7", b"7"]


async def test_a_connack_of_version_5_says_what_differs(mqtt_server) -> None:
    """An assigned client id, the longest session, the keep alive, and the limits."""
    rig = await mqtt_server.start(
        session_expiry_max=Duration(60), keep_alive_max=Duration(30), receive_maximum=5, packet_bytes_max=Size(1000)
    )
    client = await rig.open()
    await client.send(connect_bytes(b"", version=5, properties=[(Property.SESSION_EXPIRY, 600)]))
    connack = await client.packet()
    assert connack[2:4] == b"\0\0"
    properties = connack[5:]
    for identifier, value in (
        (Property.MAXIMUM_PACKET_SIZE, 1000),
        (Property.RECEIVE_MAXIMUM, 5),
        (Property.SESSION_EXPIRY, 60),
        (Property.SERVER_KEEP_ALIVE, 30),
    ):
        assert write_properties([(identifier, value)])[1:] in properties
    assert b"\x12\x00\x19tidegate-" in properties


async def test_a_client_that_publishes_behind_its_connect_is_read(mqtt_server) -> None:
    """All in one segment, in either version."""
    rig = await mqtt_server.start()
    for version in (4, 5):
        client = await rig.open()
        await client.send(connect_bytes(b"d%d" % version, version=version), publish(version, version=version), PING)
        assert (await client.packet())[0] == 0x20
        assert {await client.packet(), await client.packet()} == {PONG, ack(0x40, version)}
    assert rig.door.payloads == [b"4", b"5"]


async def test_subscribing_is_refused_and_the_connection_stays(mqtt_server) -> None:
    """Each filter gets its failure code; it is counted."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    await client.send(packet_bytes(0x82, b"\0\1\0\1a\0\0\1b\1"), packet_bytes(0xA2, b"\0\2\0\1a"))
    assert await client.packet() == b"\x90\x04\0\1\x80\x80"
    assert await client.packet() == b"\xb0\x02\0\2"
    client = await rig.connect(b"d2", version=5)
    await client.send(packet_bytes(0x82, b"\0\1\0\0\1a\0"), packet_bytes(0xA2, b"\0\2\0\0\1a"), PING)
    assert await client.packet() == b"\x90\x04\0\1\0\x87"
    assert await client.packet() == b"\xb0\x04\0\2\0\x11"
    assert await client.packet() == PONG
    assert rig.refused == {"subscribe": 2}


async def test_the_same_client_id_takes_over(mqtt_server) -> None:
    """The earlier connection is told and closed; what it had sent is acknowledged first."""
    rig = await mqtt_server.start()
    first = await rig.connect(version=5)
    await first.send(publish(1, version=5))
    second = await rig.connect(version=5)
    assert await first.rest() == ack(0x40, 1) + DISCONNECT_5 + b"\x8e"
    await second.send(publish(2, version=5))
    assert await second.packet() == ack(0x40, 2)
    assert rig.source.status()["clients"] == 1


async def test_a_will_is_an_ordinary_message_when_the_end_is_abnormal(mqtt_server) -> None:
    """Not after DISCONNECT; after a reset, a half close and DISCONNECT with will it is."""
    rig = await mqtt_server.start()
    will = Will(b"state/d1", b"offline", 1)
    client = await rig.connect(will=will)
    await client.send(GOODBYE)
    assert await client.rest() == b""
    client = await rig.connect(will=will)
    client.writer.transport.abort()
    await rig.until(lambda: rig.door.messages == [(b"state/d1", b"offline")])
    client = await rig.connect(will=will, version=5)
    await client.send(DISCONNECT_5 + b"\x04")
    await rig.until(lambda: len(rig.door.messages) == 2)
    client = await rig.connect(will=will)
    client.writer.write_eof()
    await rig.until(lambda: len(rig.door.messages) == 3)


@pytest.mark.parametrize("code", [b"", b"\0", b"\x04", b"\x80", b"\x81", b"\x98"])
async def test_only_a_normal_disconnect_takes_the_will_back(mqtt_server, code) -> None:
    """A client of MQTT 5 that leaves because of an error has left abnormally (section 3.14.4)."""
    rig = await mqtt_server.start()
    client = await rig.connect(will=Will(b"state/d1", b"offline", 1), version=5)
    await client.send(packet_bytes(0xE0, code))
    assert await client.rest() == b""
    await rig.until(lambda: rig.source.status()["connections"] == 0)
    # What is said after it was received after it: no will is still to come then.
    other = await rig.connect(b"d2")
    await other.send(publish(9))
    assert await other.packet() == ack(0x40, 9)
    assert rig.door.payloads == ([b"9"] if code in {b"", b"\0"} else [b"offline", b"9"])


async def test_a_delayed_will_is_taken_back_by_a_resumed_session(mqtt_server) -> None:
    """A clean start says it at once instead."""
    rig = await mqtt_server.start()
    fields = {
        "version": 5,
        "will": Will(b"state", b"offline", 0, delay_s=60),
        "properties": [(Property.SESSION_EXPIRY, 100)],
    }
    client = await rig.connect(**fields)
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["clients"] == 0)
    client = await rig.connect(**fields, clean_start=False)
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["clients"] == 0)
    assert rig.door.messages == []
    await rig.connect(**fields)
    await rig.until(lambda: rig.door.messages == [(b"state", b"offline")])


async def test_what_waits_for_the_commit_is_weighed_with_its_ids(mqtt_server) -> None:
    """Each message of QoS 2 is remembered by its id on its way, beside what one of QoS 1 takes."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    for qos, extra in ((1, 0), (2, EXACTLY_ONCE_BYTES)):
        before = rig.source.status()["in_flight_bytes"]
        client = await rig.connect(b"d%d" % qos)
        packet = publish(1, qos=qos)
        await client.send(packet)
        size = len(packet) + MESSAGE_BYTES + RECEIPT_BYTES + extra
        await rig.until(lambda before=before, size=size: rig.source.status()["in_flight_bytes"] == before + size)


async def test_a_half_closed_client_still_gets_its_pubacks(mqtt_server) -> None:
    """A device that sends, shuts its writing side and reads on."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect()
    await client.send(publish(1))
    client.writer.write_eof()
    await rig.until(lambda: rig.door.offers)
    rig.door.opened.set()
    assert await client.rest() == ack(0x40, 1)


async def test_a_client_that_vanishes_in_a_message_leaves_nothing(mqtt_server) -> None:
    """What was whole is kept, the half is dropped with its memory."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    await client.send(publish(1), publish(2)[:4])
    assert await client.packet() == ack(0x40, 1)
    assert rig.source._hub.partials.total == 4
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["connections"] == 0)
    assert rig.door.payloads == [b"1"]
    assert rig.source._hub.partials.total == 0


MISTAKES_BEFORE = {
    "publish first": (publish(1), b"", "protocol_error"),
    "garbage": (b"GET / HTTP/1.1\r\n\r\n" + bytes(80), b"", "malformed_packet"),
    "wrong protocol name": (packet_bytes(0x10, b"\0\4MQTX\4\2\0\0\0\1a"), b"", "malformed_packet"),
    "MQTT 3.1": (packet_bytes(0x10, b"\0\6MQIsdp\3\2\0\0\0\1a"), b"\x20\2\0\1", "unsupported_protocol_version"),
    "MQTT 6": (packet_bytes(0x10, b"\0\4MQTT\6\2\0\0\0\1a"), b"\x20\2\0\1", "unsupported_protocol_version"),
    "empty id, session kept": (connect_bytes(b"", clean_start=False), b"\x20\2\0\2", "client_id_not_valid"),
    "long id": (connect_bytes(b"x" * 300, version=5), b"\x20\3\0\x85\0", "client_id_not_valid"),
    "reserved flag, version 5": (packet_bytes(0x10, b"\0\4MQTT\5\3\0\0\0\0\1a"), b"\x20\3\0\x81\0", "malformed_packet"),
    "huge CONNECT": (b"\x10\xff\xff\x7f", b"", "packet_too_large"),
    "CONNECT over 16 KiB": (b"\x10\x81\x80\x01", b"", "packet_too_large"),
    "will with a wildcard": (connect_bytes(b"a", will=Will(b"#", b"", 0)), b"", "topic_name_invalid"),
    "other authentication": (
        connect_bytes(b"a", version=5, properties=[(Property.AUTHENTICATION_METHOD, b"SCRAM-SHA-1")]),
        b"\x20\3\0\x8c\0",
        "authentication_method",
    ),
}


@pytest.mark.parametrize("name", MISTAKES_BEFORE)
async def test_what_is_refused_before_a_client_is_known(mqtt_server, name: str) -> None:
    """Each is answered as its version allows, counted, and disturbs nobody else."""
    sent, answer, reason = MISTAKES_BEFORE[name]
    rig = await mqtt_server.start()
    other = await rig.connect(b"other")
    client = await rig.open()
    await client.send(sent)
    assert await client.rest() == answer
    assert rig.refused == {reason: 1}
    assert rig.source.status()["last_error"]
    await other.send(PING)
    assert await other.packet() == PONG


MISTAKES_AFTER = {
    "second CONNECT": (connect_bytes(b"d1", version=5), 0x82),
    "wildcard topic": (publish(2, topic=b"a/#", version=5), 0x90),
    "oversize": (publish_bytes(b"t", bytes(2000), version=5), 0x95),
    "garbage": (b"\x00\x00", 0x81),
    "PUBACK": (ack(0x40, 1), 0x82),
    "AUTH": (b"\xf0\x00", 0x82),
    "PINGREQ with a body": (b"\xc0\x01x", 0x81),
    "empty SUBSCRIBE": (packet_bytes(0x82, b"\0\1\0"), 0x82),
    "session prolonged at the end": (b"\xe0\x07\0\x05\x11\0\0\0\x05", 0x82),
    "alias over the maximum": (publish(2, version=5, properties=[(Property.TOPIC_ALIAS, 99)]), 0x94),
}


@pytest.mark.parametrize("name", MISTAKES_AFTER)
async def test_a_mistake_ends_the_connection_with_its_reason(mqtt_server, name: str) -> None:
    """What came before it is acknowledged first; 3.1.1 hears nothing but the end."""
    sent, code = MISTAKES_AFTER[name]
    rig = await mqtt_server.start(packet_bytes_max=Size(1000))
    client = await rig.connect(version=5)
    await client.send(publish(1, version=5), sent, publish(3, version=5))
    assert await client.rest() == ack(0x40, 1) + DISCONNECT_5 + bytes((code,))
    assert rig.door.payloads == [b"1"]
    assert sum(rig.refused.values()) == 1


async def test_a_mistake_in_3_1_1_ends_without_a_word(mqtt_server) -> None:
    """Only clients say DISCONNECT there."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    await client.send(publish(1), b"\x00\x00")
    assert await client.rest() == ack(0x40, 1)


LARGE = b"x" * 300_000
TOO_LARGE = "a packet of {} bytes; at most 1000 are taken (packet_bytes_max), on the topic t"


@pytest.mark.parametrize("piece_bytes", [1 << 20, 70_000, 1])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_that_is_too_large_costs_itself(mqtt_server, qos: int, piece_bytes: int) -> None:
    """In 3.1.1, where nobody was told a limit: handed in as lost, answered when that is kept, and the next is taken."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000))
    client = await rig.connect()
    large = publish_bytes(b"t", LARGE if piece_bytes > 1 else LARGE[:3000], qos=qos, packet_id=1)
    rig.door.opened.clear()
    stream = large + publish(2)
    for at in range(0, len(stream), piece_bytes):
        await client.send(stream[at : at + piece_bytes])
    await client.send(PING)
    assert await client.packet() == PONG
    rig.door.opened.set()
    if qos:
        assert await client.packet() == ack(0x40 if qos == 1 else 0x50, 1)
    assert await client.packet() == ack(0x40, 2)
    if qos == 2:
        await client.send(ack(0x62, 1))
        assert await client.packet() == ack(0x70, 1)
    assert [len(payload) > 1000 for payload in rig.door.payloads] == [True, False]
    assert len(rig.door.payloads[0]) < 1100
    assert rig.lost == [(b"t", "oversize", TOO_LARGE.format(len(large)).partition(", on")[0])]
    assert rig.refused == {"oversize": 1}
    assert rig.source.status()["last_error"].endswith(TOO_LARGE.format(len(large)))
    assert rig.source._hub.partials.total == 0


async def test_a_packet_larger_than_was_announced_ends_version_5(mqtt_server) -> None:
    """As the standard has it (section 3.2.2.3.6); what came before it is answered, and the reason is the true one."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000))
    client = await rig.connect(version=5)
    await client.send(publish(1, version=5), publish_bytes(b"t", LARGE, qos=1, packet_id=2, version=5)[:1100])
    assert await client.rest() == ack(0x40, 1) + DISCONNECT_5 + b"\x95"
    assert rig.refused == {"packet_too_large": 1}
    assert "bytes; at most 1000 are taken (packet_bytes_max)" in rig.source.status()["last_error"]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_topic_that_is_too_long_costs_its_message(mqtt_server, qos: int, version: int) -> None:
    """Handed in as lost, answered like any other, and the next is taken."""
    rig = await mqtt_server.start(topic_bytes_max=10)
    client = await rig.connect(version=version)
    await client.send(publish(1, qos=qos, topic=b"0123456789a", version=version), publish(2, version=version))
    if qos:
        assert await client.packet() == ack(0x40 if qos == 1 else 0x50, 1)
    assert await client.packet() == ack(0x40, 2)
    why = "a topic of 11 bytes; at most 10 are taken (topic_bytes_max)"
    assert rig.lost == [(b"0123456789a", "bad_topic", why)]
    assert rig.refused == {"bad_topic": 1}
    assert f"{why}, on the topic 0123456789a" in rig.source.status()["last_error"]


async def test_what_is_too_large_is_still_not_for_everybody(mqtt_server) -> None:
    """Where one may not publish, the size does not matter."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000), anonymous_topics=("open/#",))
    client = await rig.connect()
    await client.send(*(publish_bytes(topic, LARGE, qos=1, packet_id=1) for topic in (b"open/t", b"shut")))
    assert await client.rest() == ack(0x40, 1)
    assert [topic for topic, *_ in rig.lost] == [b"open/t"]
    assert rig.refused == {"oversize": 1, "not_authorized": 1}


async def test_a_message_that_is_too_large_and_breaks_off_is_nobody_s(mqtt_server) -> None:
    """It was not answered for: the client sends it again."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000))
    client = await rig.connect()
    await client.send(publish_bytes(b"t", LARGE, qos=1, packet_id=1)[:-1])
    await rig.until(lambda: rig.source._hub.partials.total)
    await client.close()
    await rig.until(lambda: not rig.source._hub.connections)
    assert rig.door.offers == 0
    assert rig.source._hub.partials.total == 0


async def test_who_sends_what_is_read_past_does_not_keep_others_waiting(mqtt_server) -> None:
    """Ten that send as much as they can stand in line; who has something to say is heard meanwhile."""
    rig = await mqtt_server.start()
    floods = [await rig.connect(b"f%d" % k) for k in range(10)]
    body = bytes(1 << 20)

    async def flood(client) -> None:
        for _ in range(200):
            await client.send(body)

    for client in floods:
        await client.send(b"\x30\xff\xff\xff\x7f\0\1t")
    tasks = [asyncio.create_task(flood(client)) for client in floods]
    honest = await rig.connect(b"honest")
    await rig.until(lambda: len(rig.source._hub.talkers) > 1)
    for k in range(1, 50):
        await honest.send(publish(k))
        assert await honest.packet() == ack(0x40, k)
    assert rig.source._hub.partials.total < 10 * 1100
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_more_unacknowledged_than_announced_is_refused(mqtt_server) -> None:
    """Receive Maximum is a promise of the client."""
    rig = await mqtt_server.start(receive_maximum=3)
    rig.door.opened.clear()
    client = await rig.connect(version=5)
    await client.send(*(publish(k, version=5) for k in range(1, 5)))
    await rig.until(lambda: "receive_maximum_exceeded" in rig.refused)
    rig.door.opened.set()
    assert (await client.rest())[-1] == 0x93


async def test_a_connection_is_not_read_beyond_its_bytes_in_flight(mqtt_server) -> None:
    """TCP holds the client back until commits have made room; nothing is lost."""
    rig = await mqtt_server.start(in_flight_bytes_max=Size(2000), packet_bytes_max=Size(1000))
    rig.door.opened.clear()
    client = await rig.connect()
    total = 20_000
    block = b"".join(publish_bytes(b"t", bytes(900), qos=1, packet_id=k % 65535 + 1) for k in range(total))

    async def write() -> None:
        client.writer.write(block)
        await client.writer.drain()

    writing = asyncio.create_task(write())
    await rig.until(lambda: rig.door.offers)
    (connection,) = rig.source._hub.connections
    await rig.until(lambda: connection._pause)
    held = rig.source.status()["in_flight_bytes"]
    assert held < 2000 + 300_000
    rig.door.opened.set()
    async with asyncio.timeout(60):
        acknowledged = 0
        while acknowledged < total * 4:
            acknowledged += len(await client.reader.read(65536))
    await writing
    assert len(rig.door.payloads) == total


async def test_no_connection_is_read_beyond_the_bytes_of_all(mqtt_server) -> None:
    """However little each has under way, and whoever comes then; all go on when a commit has made room."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000), in_flight_bytes_total=Size(24_000))
    hub, status = rig.source._hub, rig.source.status
    rig.door.opened.clear()
    rig.door.lets_in = True
    clients = []
    while status()["in_flight_bytes"] < 24_000:
        assert not hub.is_pressed
        clients.append(await rig.connect(b"d%d" % len(clients)))
        await clients[-1].send(publish_bytes(b"t", bytes(900), qos=1, packet_id=1))
        await rig.until(lambda: rig.door.offers == len(clients))
    assert hub.is_pressed
    assert 15 < len(clients) < 25
    late = await rig.connect(b"late")
    await late.send(publish_bytes(b"t", b"", qos=1, packet_id=1))
    assert all(connection._pause & Pause.SHARED for connection in hub.connections)
    rig.door.opened.set()
    for client in (*clients, late):
        assert await client.packet() == ack(0x40, 1)
    assert not hub.is_pressed


async def test_what_waits_at_the_door_is_a_part_of_the_bytes_of_all(mqtt_server) -> None:
    """More would be memory for nothing: the next commits take no more."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000), in_flight_bytes_total=Size(16 * 2000))
    rig.door.opened.clear()
    client = await rig.connect()
    await client.send(publish_bytes(b"t", bytes(900), qos=1, packet_id=1))
    await rig.until(lambda: rig.door.offers)
    assert not rig.source._hub.is_pressed
    await client.send(publish_bytes(b"t", bytes(900), qos=1, packet_id=2))
    await rig.until(lambda: rig.source._hub.is_pressed)


async def test_a_full_gateway_is_offered_the_same_again(mqtt_server) -> None:
    """Nothing is dropped or acknowledged meanwhile, and nobody is read."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    rig.door.full_times = 5
    await client.send(publish(1), publish(2))
    await rig.until(lambda: rig.source.status()["state"] == "full")
    assert rig.source._hub.is_pressed
    assert [await client.packet() for _ in range(2)] == [ack(0x40, 1), ack(0x40, 2)]
    assert rig.door.offers == 6
    assert rig.source.status()["state"] == "listening"
    assert rig.telemetry.value("tidegate_source_full", source="direct") == 5


async def test_an_offer_that_fails_ends_the_connection_unanswered(mqtt_server, caplog) -> None:
    """The client must send it again; a QoS 2 id is free again."""
    rig = await mqtt_server.start()
    rig.door.failure = RuntimeError("a mistake")
    client = await rig.connect(clean_start=False)
    await client.send(publish(1), publish(2, qos=2))
    assert await client.rest() == b""
    assert "messages could not be taken" in caplog.text
    rig.door.failure = None
    client = await rig.connect(clean_start=False)
    await client.send(publish(2, qos=2))
    assert await client.packet() == ack(0x50, 2)
    assert rig.telemetry.value("tidegate_source_failed", source="direct") == 1


async def narrow(rig):
    """Return a client that does not read for now, with little room in the kernel, and its connection."""
    client = await rig.connect()
    client.writer.transport.pause_reading()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    (connection,) = rig.source._hub.connections
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    return client, connection


async def test_a_client_that_does_not_read_its_answers_is_not_read(mqtt_server, monkeypatch) -> None:
    """What waits to be written is bounded; it is let go after a while."""
    monkeypatch.setattr("gateway.sources.mqtt_server_talk.TALK_SHARE", 1.0)
    rig = await mqtt_server.start()
    client, connection = await narrow(rig)
    client.writer.write(PING * 500_000)
    await rig.until(lambda: connection._pause & Pause.WRITE)
    assert connection._transport.get_write_buffer_size() < WRITE_BYTES_MAX + READ_BYTES_FIRST
    now_s = asyncio.get_running_loop().time()
    connection.tick(now_s + 30)
    assert "answers_not_read" not in rig.refused
    connection.tick(now_s + 61)
    assert rig.refused == {"answers_not_read": 1}
    await rig.until(lambda: rig.source.status()["connections"] == 0)


async def test_a_client_that_reads_again_is_read_again(mqtt_server, monkeypatch) -> None:
    """All pings are answered in the end, however often it had to stand in line for them."""
    monkeypatch.setattr("gateway.sources.mqtt_server_talk.TALK_SHARE", 1.0)
    rig = await mqtt_server.start()
    client, connection = await narrow(rig)
    client.writer.write(PING * 250_000)
    await rig.until(lambda: connection._pause & Pause.WRITE)
    client.writer.transport.resume_reading()
    async with asyncio.timeout(60):
        received = 0
        while received < 500_000:
            received += len(await client.reader.read(1 << 18))


TALK = {
    "pings": PING * (TALK_MAX + 1),
    "long SUBSCRIBEs": packet_bytes(0x82, b"\0\1\0" + b"\0\1a\0" * 250) * 5,
    "PUBRELs of nothing": ack(0x62, 9) * (TALK_MAX + 1),
    "messages that are not allowed": publish(1, qos=0, topic=b"shut", version=5) * (TALK_MAX + 1),
}
READ_PAST = publish_bytes(b"open/t", bytes(5 * TALK_MAX * SKIPPED_BYTES))[: 2 * TALK_MAX * SKIPPED_BYTES]


@pytest.mark.parametrize("name", [*TALK, "what is read past"])
async def test_who_says_much_and_publishes_nothing_stands_in_line(mqtt_server, name: str, monkeypatch) -> None:
    """A first time at once; whatever it is that is answered without a commit. Its turn comes."""
    monkeypatch.setattr("gateway.sources.mqtt_server_talk.TALK_GAP_S", 3600.0)
    monkeypatch.setattr("gateway.sources.mqtt_server.TICK_S", 3600.0)
    rig = await mqtt_server.start(anonymous_topics=("open/#",))
    client = await rig.connect(version=5 if name in TALK else 4)
    (connection,) = rig.source._hub.connections
    await client.send(TALK.get(name, READ_PAST))
    await rig.until(lambda: connection._pause & Pause.TALK)
    assert len(rig.source._hub.talkers) == 1
    rig.source._hub.talkers._free_at_s = 0.0
    rig.source._hub.talkers._next()
    assert not connection._pause & Pause.TALK


async def test_who_publishes_much_and_pings_sometimes_does_not_stand_in_line(mqtt_server) -> None:
    """With QoS 2 every message has a PUBREL; and what was said before the clock was looked at is forgotten."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    hub = rig.source._hub
    (connection,) = hub.connections
    turns = []
    for _ in range(3):
        await client.send(*(publish(k, qos=2) for k in range(1, TALK_MAX + 1)))
        assert [(await client.packet())[0] for _ in range(TALK_MAX)] == [0x50] * TALK_MAX
        await client.send(*(ack(0x62, k) for k in range(1, TALK_MAX + 1)), PING * TALK_MAX)
        assert [(await client.packet())[0] for _ in range(TALK_MAX)] == [0x70] * TALK_MAX
        assert [await client.packet() for _ in range(TALK_MAX)] == [PONG] * TALK_MAX
        turns.append(len(hub.talkers))
        connection.tick(hub.now_s())
    assert turns == [0, 0, 0]


async def test_silence_beyond_the_keep_alive_ends_the_connection(mqtt_server) -> None:
    """One and a half times; a client that is not being read is not blamed."""
    rig = await mqtt_server.start()
    client = await rig.connect(version=5, keep_alive_s=10)
    (connection,) = rig.source._hub.connections
    now_s = asyncio.get_running_loop().time()
    connection.tick(now_s + 14)
    rig.source._press(True)
    connection.tick(now_s + 100)
    rig.source._press(False)
    assert rig.refused == {}
    connection.tick(now_s + 16)
    assert await client.rest() == DISCONNECT_5 + b"\x8d"
    assert rig.refused == {"keep_alive_timeout": 1}


async def test_silence_before_connect_ends_the_connection(mqtt_server) -> None:
    """Half a CONNECT is silence too."""
    rig = await mqtt_server.start(connect_timeout=Duration(3))
    client = await rig.open()
    await client.send(connect_bytes(b"d1")[:5])
    await rig.until(lambda: rig.source._hub.connections)
    (connection,) = rig.source._hub.connections
    now_s = asyncio.get_running_loop().time()
    connection.tick(now_s + 2)
    assert rig.refused == {}
    connection.tick(now_s + 4)
    assert await client.rest() == b""
    assert rig.refused == {"connect_timeout": 1}


async def test_who_was_told_to_go_and_stays_is_cut_off(mqtt_server) -> None:
    """The server waits for the other side to hang up, briefly."""
    rig = await mqtt_server.start()
    client = await rig.connect(version=5)
    (connection,) = rig.source._hub.connections
    await client.send(b"\x00\x00", PING)
    assert await client.packet() == DISCONNECT_5 + b"\x81"
    assert rig.source.status()["connections"] == 1
    connection.tick(asyncio.get_running_loop().time() + 3)
    await rig.until(lambda: rig.source.status()["connections"] == 0)


async def test_who_leaves_while_the_gateway_is_stuck_is_cut_off(mqtt_server) -> None:
    """An acknowledgement that does not come is waited for so long."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect()
    await client.send(publish(1), GOODBYE)
    await rig.until(lambda: rig.door.offers)
    (connection,) = rig.source._hub.connections
    connection.tick(asyncio.get_running_loop().time() + 6)
    await rig.until(lambda: rig.source.status()["connections"] == 0)
    rig.door.opened.set()
    await rig.until(lambda: rig.door.payloads == [b"1"])


async def test_answers_that_nobody_reads_are_bounded_for_all_connections(mqtt_server) -> None:
    """Who lets most of them wait goes, as one that does so for a minute would; the others stay."""
    rig = await mqtt_server.start(
        packet_bytes_max=Size(1000), in_flight_bytes_max=Size(200_000), in_flight_bytes_total=Size(400_000)
    )
    hub = rig.source._hub
    clients = []
    for number in range(24):
        client = await rig.connect(b"c%d" % number)
        client.writer.transport.pause_reading()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        newest = next(reversed(hub.connections))
        newest._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        clients.append(client)
    flood = b"".join(publish(packet_id) for packet_id in range(1, 15_001))
    for client in clients:
        client.writer.write(flood)
    await rig.until(lambda: "answers_not_read" in rig.refused)
    await rig.until(lambda: len(hub.connections) < 24)
    waiting = [connection._transport.get_write_buffer_size() for connection in hub.connections]
    assert sum(waiting) <= 4 * hub.limits.unread_bytes_max
    assert 0 < hub.unread.total <= hub.limits.unread_bytes_max == 128 * 1024
    assert hub.write_bytes_max < WRITE_BYTES_MAX
    for connection in list(hub.connections):
        connection.abort()
    await rig.until(lambda: not hub.connections)
    assert hub.unread.total == 0


async def test_unfinished_packets_of_all_connections_are_bounded(mqtt_server) -> None:
    """The one that holds most is ended, not the newest."""
    rig = await mqtt_server.start(
        packet_bytes_max=Size(60_000), in_flight_bytes_max=Size(60_000), in_flight_bytes_total=Size(100_000)
    )
    half = publish_bytes(b"t", bytes(59_000), version=5)[:50_000]
    first = await rig.connect(b"a", version=5)
    await first.send(half)
    await rig.until(lambda: rig.source._hub.partials.total == 50_000)
    second = await rig.connect(b"b", version=5)
    await second.send(half[:20_000])
    assert await first.rest() == DISCONNECT_5 + b"\x97"
    assert rig.refused == {"partial_packets": 1}
    second_half = publish_bytes(b"t", bytes(59_000), qos=0, version=5)[20_000:]
    await second.send(second_half)
    await rig.until(lambda: rig.door.payloads == [bytes(59_000)])
    assert rig.source._hub.partials.total == 0


async def test_a_packet_that_does_not_end_ends_the_connection(mqtt_server) -> None:
    """However often a byte of it comes; a client that is not being read is not blamed."""
    rig = await mqtt_server.start()
    client = await rig.connect(version=5, keep_alive_s=600)
    (connection,) = rig.source._hub.connections
    await client.send(publish(1, version=5)[:-1])
    await rig.until(lambda: rig.source._hub.partials.total)
    now_s = asyncio.get_running_loop().time()
    rig.source._press(True)
    connection.tick(now_s + 90)
    rig.source._press(False)
    connection.tick(now_s + 59)
    assert rig.refused == {}
    connection.tick(now_s + 65)
    assert await client.rest() == DISCONNECT_5 + b"\x80"
    assert rig.refused == {"packet_timeout": 1}


async def test_what_is_read_past_may_take_long_but_has_to_come(mqtt_server) -> None:
    """As slowly as a bad line does; silence ends it like that of any packet."""
    rig = await mqtt_server.start(packet_bytes_max=Size(1000))
    client = await rig.connect(keep_alive_s=600)
    (connection,) = rig.source._hub.connections
    await client.send(publish_bytes(b"t", LARGE, qos=1, packet_id=1)[:5000])
    await rig.until(lambda: rig.source._hub.partials.total > 1000)
    partials, now_s = rig.source._hub.partials, rig.source._hub.now_s()
    partials._since_s[connection] = now_s - 1000
    await client.send(b"x")
    await rig.until(lambda: partials._since_s[connection] >= now_s)
    connection.tick(now_s + 55)
    assert rig.refused == {}
    connection.tick(now_s + 65)
    assert await client.rest() == b""
    assert rig.refused == {"packet_timeout": 1}


async def test_a_reset_connection_is_forgotten(mqtt_server) -> None:
    """RST instead of FIN, with answers under way."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    client = await rig.connect()
    await client.send(publish(1))
    await rig.until(lambda: rig.door.offers)
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["connections"] == 0)
    rig.door.opened.set()
    await rig.until(lambda: rig.source.status()["in_flight_bytes"] == 0)
    assert "anyone" in repr((await rig.connect()) and next(iter(rig.source._hub.connections)))


async def test_a_client_can_connect_while_the_gateway_is_full(mqtt_server) -> None:
    """It is let in, its message waits with the others, and none is lost."""
    rig = await mqtt_server.start()
    rig.door.full_times = 20
    first = await rig.connect(b"a")
    await first.send(publish(1))
    await rig.until(lambda: rig.source.status()["state"] == "full")
    second = await rig.connect(b"b")
    await second.send(publish(2))
    assert await first.packet() == ack(0x40, 1)
    assert await second.packet() == ack(0x40, 2)
    assert rig.door.payloads == [b"1", b"2"]


class Wire(asyncio.Transport):
    """A transport without a wire: remembers what is written and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high=None, low=None) -> None:
        assert high

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


WORDS = [
    connect_bytes(b"d1"),
    connect_bytes(b"d1", version=5, clean_start=False, will=Will(b"w", b"", 1)),
    publish(1),
    publish(2, qos=2),
    publish(3, qos=0, topic=b"x/y"),
    publish(4, version=5),
    publish(2, qos=2, version=5),
    ack(0x62, 2),
    packet_bytes(0x82, b"\0\1\0\1a\0"),
    PING,
    GOODBYE,
]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_client_says(mqtt_server_rig, data: st.DataObject) -> None:
    """Words of MQTT in any order, damaged or not, cut anywhere: the connection serves, ends, and never breaks.

    Every message that was handed in is acknowledged or its connection is closed, and no memory stays behind.
    """

    async def play() -> None:
        rig = mqtt_server_rig().build()
        hub = rig.source._hub
        connections = []
        for _ in range(data.draw(st.integers(1, 3))):
            connection = Connection(hub, address="192.0.2.1")
            connection.connection_made(Wire())
            connections.append(connection)
        for _ in range(data.draw(st.integers(1, 4))):
            connection = data.draw(st.sampled_from(connections))
            said = bytearray(b"".join(data.draw(st.lists(st.sampled_from(WORDS), max_size=5))))
            if said and data.draw(st.booleans()):
                said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
            if connection.state is not State.CLOSED:
                cut = data.draw(st.integers(0, len(said)))
                for piece in (said[:cut], said[cut:]):
                    hub.buffer[: len(piece)] = piece
                    connection.buffer_updated(len(piece))
            if data.draw(st.integers(0, 5)) == 0 and connection.state is not State.CLOSED:
                connection.connection_lost(None)
            if data.draw(st.booleans()):
                await asyncio.sleep(0)
        await rig.until(lambda: hub.intake.bytes_held == 0)
        for connection in connections:
            if connection.state is not State.CLOSED:
                connection.connection_lost(None)
        await rig.until(lambda: hub.intake.bytes_held == 0)
        assert hub.partials.total == 0
        assert not hub.connections
        assert not hub.connecting
        assert not hub.by_session
        assert hub.intake.acknowledged == hub.intake.received == len(rig.door.payloads)

    asyncio.run(play())
