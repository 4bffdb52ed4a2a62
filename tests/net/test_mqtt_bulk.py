"""Messages made in bulk are what our own scanner, and so a broker, reads; PUBACKs are read however they are cut."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.net.mqtt import Packet, Publishes, PublishScanner
from gateway.net.mqtt_bulk import FEW_MESSAGES, LARGE_BYTES, Acks, AckScanner, Outgoing, Packets
from gateway.net.mqtt_fields import VERSION_3_1_1, VERSION_5, PacketType, Property, ProtocolError, write_properties
from gateway.net.mqtt_packets import answer_bytes, packet_bytes, publish_bytes

VERSIONS = (VERSION_3_1_1, VERSION_5)


def outgoing(payloads: list[bytes], topics: list[bytes], topic_of: list[int], **more) -> Outgoing:
    ends = np.cumsum([len(payload) for payload in payloads])
    return Outgoing(b"".join(payloads), ends, topics, np.array(topic_of, np.int64), **more)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("most", [40, 300, LARGE_BYTES + 500])
@pytest.mark.parametrize("count", [1, 2, FEW_MESSAGES + 1, 700])
def test_packets_are_read_as_they_were_meant(version: int, qos: int, most: int, count: int) -> None:
    """Payloads of nothing to some kilobytes, in one go and one by one; and each is as long as was said."""
    dice = np.random.default_rng(count + most)
    payloads = [dice.integers(0, 256, size, dtype=np.uint8).tobytes() for size in dice.integers(0, most, count)]
    topics = [b"t/%d" % number for number in range(9)]
    topic_of = np.sort(dice.integers(0, 9, count)).tolist()
    packets = Packets(outgoing(payloads, topics, topic_of), version=version, qos=qos)
    ids = np.arange(1, count + 1).astype(np.uint16)
    pieces = [bytes(piece) for piece in packets.write(np.arange(count), ids)]
    data = b"".join(pieces)
    assert len(data) == packets.sizes.sum()
    (found,) = PublishScanner(packet_bytes_max=1 << 20, version=version).feed(data)
    assert isinstance(found, Publishes)
    assert found.payloads == payloads
    assert found.topics == [topics[number] for number in topic_of]
    assert found.qos == bytes((qos,)) * count
    assert not qos or found.packet_ids == [number.to_bytes(2, "big") for number in ids.tolist()]
    assert len(packets) == count
    assert packets.topic(count - 1) == topics[topic_of[-1]]


@pytest.mark.parametrize("count", [3, FEW_MESSAGES + 9])
def test_some_of_them_can_be_written(count: int) -> None:
    """In any order, as if each were alone."""
    payloads = [b"p%d" % number for number in range(count)]
    packets = Packets(outgoing(payloads, [b"a", b"b"], [number % 2 for number in range(count)]), version=5, qos=1)
    which = np.arange(count - 1, -1, -1)
    data = b"".join(packets.write(which, (which + 1).astype(np.uint16)))
    assert data == b"".join(
        publish_bytes(b"ab"[k % 2 : k % 2 + 1], payloads[k], qos=1, packet_id=k + 1, version=5) for k in which.tolist()
    )


@pytest.mark.parametrize("count", [1, FEW_MESSAGES + 1])
def test_properties_go_with_each_where_there_are_any(count: int) -> None:
    """3.1.1 has none."""
    written = write_properties([(Property.CONTENT_TYPE, b"x/y")])
    messages = outgoing([b"p"] * count, [b"t"], [0] * count, properties=written)
    ids = np.ones(count, np.uint16)
    for version in VERSIONS:
        data = b"".join(Packets(messages, version=version, qos=1).write(np.arange(count), ids))
        assert data.count(written) == (count if version == VERSION_5 else 0)


def test_a_single_message() -> None:
    """Of any size, which is not copied."""
    payload = bytes(3 << 20)
    packets = Packets(Outgoing.one(b"t", payload), version=5, qos=1)
    head, body = packets.write(np.zeros(1, np.int64), np.array([7], np.uint16))
    assert isinstance(body, memoryview)
    assert bytes(head) + bytes(body) == publish_bytes(b"t", payload, qos=1, packet_id=7, version=5)


ANSWERS = st.lists(st.tuples(st.integers(1, 65535), st.sampled_from([0, 0x10, 0x87]), st.booleans()), max_size=30)


@settings(max_examples=60)
@given(ANSWERS, st.data())
def test_pubacks_are_read_however_they_are_cut(answers: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """With code or without, with a reason in words or without, and other packets in between."""
    said = write_properties([(Property.REASON_STRING, b"no")])
    text = b""
    for packet_id, code, is_wordy in answers:
        number = packet_id.to_bytes(2, "big")
        if is_wordy:
            text += packet_bytes(0x40, number + bytes((code,)) + said) + b"\xd0\x00"
        else:
            text += answer_bytes(PacketType.PUBACK, number, code=code, version=5)
    cut = data.draw(st.integers(0, len(text)))
    scanner = AckScanner(VERSION_5)
    items = scanner.feed(text[:cut]) + scanner.feed(text[cut:])
    acks = [item for item in items if isinstance(item, Acks)]
    found = [pair for one in acks for pair in zip(one.ids.tolist(), one.codes.tolist(), strict=True)]
    assert found == [(packet_id, code) for packet_id, code, _ in answers]
    pongs = [item for item in items if isinstance(item, Packet)]
    assert len(pongs) == sum(is_wordy for *_, is_wordy in answers)
    assert scanner.said == ("no" if pongs else "")


def test_byte_by_byte() -> None:
    """A packet is there when it is whole."""
    scanner = AckScanner(VERSION_3_1_1)
    text = bytes.fromhex("40020007 d000 40020008")
    found = [item for byte in text for item in scanner.feed(bytes((byte,)))]
    assert [item.ids.tolist() if isinstance(item, Acks) else item.first_byte for item in found] == [[7], 0xD0, [8]]


def test_short_and_long_ones_by_turns_take_linear_time() -> None:
    """Each was a look at all that stood behind it: 64 KB of them from a broker took a third of a second."""

    def seconds(count: int) -> float:
        data = (b"\x40\x02\0\7" + b"\x40\x03\0\7\0") * count
        # Its own time: a machine that has something else to do in between says nothing of it.
        started = time.thread_time()
        assert len(AckScanner(VERSION_5).feed(data)) == 2 * count
        return time.thread_time() - started

    small, large = min(seconds(2_000) for _ in range(3)), min(seconds(32_000) for _ in range(3))
    assert large < small * 16 * 3


def test_many_are_one_run() -> None:
    """No object for each."""
    text = b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in range(1, 1001))
    (acks,) = AckScanner(VERSION_5).feed(text)
    assert isinstance(acks, Acks)
    assert acks.ids.tolist() == list(range(1, 1001))
    assert not acks.codes.any()


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (VERSION_3_1_1, "4003000787"),
        (VERSION_3_1_1, "400400078700"),
        (VERSION_5, "4000"),
        (VERSION_5, "40010a"),
        (VERSION_5, "400500078700ff"),
        (VERSION_5, "d0ffffffff"),
        (VERSION_5, "d0ffffff7f"),
        (VERSION_5, "40060007870226ff"),
    ],
)
def test_what_is_none_ends_it(version: int, text: str) -> None:
    """Too long, too short, of another version, with properties that cannot be."""
    with pytest.raises(ProtocolError):
        AckScanner(version).feed(bytes.fromhex(text))
