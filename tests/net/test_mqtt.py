"""Checks for the scanner that cuts MQTT packets from a byte stream."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.net.mqtt import (
    ALIAS_BYTES,
    PROPERTY_BLOCKS_KNOWN_MAX,
    TOPICS_KNOWN_MAX,
    Item,
    Packet,
    ProtocolError,
    Publishes,
    PublishScanner,
    ReasonCode,
    puback_bytes,
)
from gateway.net.mqtt_fields import Property
from gateway.net.mqtt_oversize import GLIMPSE_BYTES
from gateway.net.mqtt_packets import connect_bytes, packet_bytes, publish_bytes

Row = tuple[int, bytes, bytes, bytes]


def flat(items: list[Item]) -> list[Row]:
    """Return (first byte, topic, packet id, payload or body) for each packet, however they were grouped."""
    rows: list[Row] = []
    for item in items:
        if isinstance(item, Packet):
            rows.append((item.first_byte, b"", b"", item.body))
        else:
            rows += zip(item.first_bytes, item.topics, item.packet_ids, item.payloads, strict=True)
    return rows


def scan(
    pieces: list[bytes],
    *,
    version: int = 4,
    packet_bytes_max: int = 1 << 20,
    alias_max: int = 0,
    skips_oversize: bool = False,
):
    """Feed `pieces`; return the rows and the reason the stream broke, if it did."""
    scanner = PublishScanner(
        packet_bytes_max=packet_bytes_max, version=version, topic_alias_max=alias_max, skips_oversize=skips_oversize
    )
    rows: list[Row] = []
    for piece in pieces:
        try:
            rows += flat(scanner.feed(piece))
        except ProtocolError as error:
            return rows + flat(error.before), error.code
    return rows, None


TOPICS = st.sampled_from([b"a", b"plant/d1/climate", b"x" * 127, b"y" * 300, "grün/°".encode()])
PAYLOADS = st.binary(max_size=20) | st.sampled_from([b"z" * size for size in (100, 122, 128, 16_384, 20_000)])


@st.composite
def packets(draw: st.DrawFn, version: int) -> tuple[bytes, Row]:
    """Draw one packet as bytes, and the row it must become."""
    if draw(st.integers(0, 4)) == 0:
        first, body = draw(st.sampled_from([0xC0, 0xD0, 0xE0, 0x40, 0x62, 0x82])), draw(st.binary(max_size=200))
        return packet_bytes(first, body), (first, b"", b"", body)
    qos, topic, payload = draw(st.integers(0, 2)), draw(TOPICS), draw(PAYLOADS)
    packet_id = draw(st.integers(1, 65535)) if qos else 0
    properties = draw(
        st.sampled_from([(), ((Property.MESSAGE_EXPIRY, 60),), ((Property.CONTENT_TYPE, b"application/json"),)])
    )
    duplicate = bool(qos) and draw(st.booleans())
    data = publish_bytes(
        topic,
        payload,
        qos=qos,
        packet_id=packet_id,
        version=version,
        is_duplicate=duplicate,
        properties=properties if version == 5 else (),
    )
    return data, (data[0], topic, packet_id.to_bytes(2, "big") if qos else b"", payload)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([4, 5]))
def test_packets_do_not_depend_on_how_bytes_were_cut(data: st.DataObject, version: int) -> None:
    """Fed whole, in random pieces, or byte by byte, the same packets come out, each with what it held."""
    drawn = data.draw(st.lists(packets(version), max_size=12))
    stream = b"".join(raw for raw, _ in drawn)
    expected = [row for _, row in drawn]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert scan([stream], version=version) == (expected, None)
    assert scan(pieces, version=version) == (expected, None)
    if len(stream) < 4000:
        assert scan([bytes([byte]) for byte in stream], version=version) == (expected, None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5), st.sampled_from([0, 4, 5]))
def test_noise_is_refused_the_same_way_however_it_is_cut(noise: bytes, cuts: list[int], version: int) -> None:
    """Random bytes give packets or a ProtocolError, never anything else."""
    cuts = sorted(min(cut, len(noise)) for cut in cuts)
    pieces = [noise[a:b] for a, b in zip([0, *cuts], [*cuts, len(noise)], strict=True)]
    if version:
        assert scan([noise], version=version) == scan(pieces, version=version)
        assert scan([noise], version=version) == scan([bytes([b]) for b in noise], version=version)
    else:
        scan(pieces, version=0)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([4, 5]))
def test_a_damaged_stream_is_refused_the_same_way_however_it_is_cut(data: st.DataObject, version: int) -> None:
    """One wrong byte among good packets gives the same packets before it and the same reason."""
    stream = bytearray(b"".join(raw for raw, _ in data.draw(st.lists(packets(version), min_size=1, max_size=5))))
    del stream[2000:]
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] = data.draw(st.integers(0, 255))
    whole = bytes(stream)
    cut = data.draw(st.integers(0, len(whole)))
    for skips in (False, True):
        expected = scan([whole], version=version, packet_bytes_max=1000, skips_oversize=skips)
        for pieces in ([whole[:cut], whole[cut:]], [bytes([byte]) for byte in whole]):
            assert scan(pieces, version=version, packet_bytes_max=1000, skips_oversize=skips) == expected


def test_consecutive_publishes_are_one_item() -> None:
    """A buffer of publishes with a ping among them is three items, in wire order."""
    one, two = (publish_bytes(b"t", b"%d" % k, qos=k % 3, packet_id=k) for k in (1, 2))
    items = PublishScanner(packet_bytes_max=1000).feed(one + two + b"\xc0\x00" + one)
    assert [type(item) for item in items] == [Publishes, Packet, Publishes]
    first = items[0]
    assert isinstance(first, Publishes)
    assert (len(first), first.qos, first.size_bytes) == (2, b"\x01\x02", 2)
    assert items[1].type.name == "PINGREQ"


def test_equal_topics_are_one_object() -> None:
    """Whoever looks topics up in a dictionary finds them by identity."""
    scanner = PublishScanner(packet_bytes_max=1000)
    topics = [scanner.feed(publish_bytes(b"some/topic", b""))[0].topics[0] for _ in range(3)]
    assert topics[0] is topics[1] is topics[2]


def test_a_large_packet_byte_by_byte_takes_linear_time() -> None:
    """Twice the bytes take about twice the time, not four times."""

    def seconds(size: int) -> float:
        pieces = [bytes([byte]) for byte in publish_bytes(b"t", bytes(size), qos=1, packet_id=1)]
        scanner = PublishScanner(packet_bytes_max=size + 100)
        # Its own time: a machine that has something else to do in between says nothing of it.
        started = time.thread_time()
        taken = [item for piece in pieces for item in scanner.feed(piece)]
        assert len(taken[0].payloads[0]) == size
        return time.thread_time() - started

    small, large = min(seconds(1 << 17) for _ in range(3)), min(seconds(1 << 20) for _ in range(3))
    assert large < small * 8 * 3


@pytest.mark.parametrize("version", [4, 5])
def test_a_packet_over_the_limit_is_refused_at_its_header(version: int) -> None:
    """The length is enough: none of the body is waited for or held."""
    whole = publish_bytes(b"t", bytes(996), version=version)
    scanner = PublishScanner(packet_bytes_max=1000, version=version)
    with pytest.raises(ProtocolError, match="at most 1000 are taken") as caught:
        scanner.feed(whole[:3])
    assert caught.value.code is ReasonCode.PACKET_TOO_LARGE
    assert caught.value.reason == "packet_too_large"
    assert scan([whole], version=version, packet_bytes_max=1000) == ([], ReasonCode.PACKET_TOO_LARGE)
    assert scan([publish_bytes(b"t", bytes(990), version=version)], packet_bytes_max=1000)[1] is None


def test_what_is_held_is_never_more_than_a_packet() -> None:
    """`bytes_held` says how much of the unfinished packet is here."""
    scanner = PublishScanner(packet_bytes_max=1000)
    whole = publish_bytes(b"t", bytes(900))
    scanner.feed(whole + whole[:500])
    assert scanner.bytes_held == 500
    scanner.feed(whole[500:])
    assert scanner.bytes_held == 0


def test_a_broken_stream_stays_broken() -> None:
    """What came before the mistake is in the error, once; after it nothing is read."""
    scanner = PublishScanner(packet_bytes_max=1000)
    good = publish_bytes(b"t", b"21", qos=1, packet_id=7)
    with pytest.raises(ProtocolError) as caught:
        scanner.feed(good + b"\x36\x00" + good)
    assert [row[3] for row in flat(caught.value.before)] == [b"21"]
    with pytest.raises(ProtocolError) as again:
        scanner.feed(good)
    assert again.value.before == []


BAD = {
    "type 0": (b"\x00\x00", ReasonCode.MALFORMED_PACKET),
    "flags of PINGREQ": (b"\xc1\x00", ReasonCode.MALFORMED_PACKET),
    "flags of SUBSCRIBE": (b"\x80\x00", ReasonCode.MALFORMED_PACKET),
    "QoS 3": (b"\x36\x05\x00\x01t\x00\x01", ReasonCode.MALFORMED_PACKET),
    "DUP with QoS 0": (b"\x38\x03\x00\x01t", ReasonCode.MALFORMED_PACKET),
    "length of five bytes": (b"\x30\xff\xff\xff\xff\x01", ReasonCode.MALFORMED_PACKET),
    "no topic length": (b"\x30\x01\x00", ReasonCode.MALFORMED_PACKET),
    "topic longer than packet": (b"\x30\x04\x00\x05ab", ReasonCode.MALFORMED_PACKET),
    "no packet id": (b"\x32\x04\x00\x01t\x00", ReasonCode.MALFORMED_PACKET),
    "packet id 0": (b"\x32\x05\x00\x01t\x00\x00", ReasonCode.PROTOCOL_ERROR),
    "packet id 0 at QoS 2": (b"\x34\x05\x00\x01t\x00\x00", ReasonCode.PROTOCOL_ERROR),
    "empty topic": (b"\x30\x02\x00\x00", ReasonCode.PROTOCOL_ERROR),
    "topic with +": (publish_bytes(b"a/+", b""), ReasonCode.TOPIC_NAME_INVALID),
    "topic with #": (publish_bytes(b"#", b""), ReasonCode.TOPIC_NAME_INVALID),
    "topic with NUL": (publish_bytes(b"a\0b", b""), ReasonCode.TOPIC_NAME_INVALID),
    "topic not UTF-8": (publish_bytes(b"\xff", b""), ReasonCode.MALFORMED_PACKET),
    "topic with a surrogate": (publish_bytes(b"\xed\xa0\x80", b""), ReasonCode.MALFORMED_PACKET),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_packet_may_be(name: str) -> None:
    """Each is refused with its reason, alone and behind a good packet, which is kept."""
    raw, code = BAD[name]
    good = publish_bytes(b"t", b"21", qos=1, packet_id=7)
    assert scan([raw]) == ([], code)
    rows, reason = scan([good + good + raw])
    assert (len(rows), reason) == (2, code)


BAD_5 = {
    "properties past the end": (b"\x30\x04\x00\x01t\x05", ReasonCode.MALFORMED_PACKET),
    "no properties at all": (b"\x30\x03\x00\x01t", ReasonCode.MALFORMED_PACKET),
    "property of CONNECT": (b"\x30\x09\x00\x01t\x05\x11\x00\x00\x00\x01", ReasonCode.MALFORMED_PACKET),
    "expiry twice": (b"\x30\x0e\x00\x01t\x0a" + b"\x02\x00\x00\x00\x01" * 2, ReasonCode.PROTOCOL_ERROR),
    "alias over what was announced": (b"\x30\x07\x00\x01t\x03\x23\x00\x03", ReasonCode.TOPIC_ALIAS_INVALID),
    "alias 0": (b"\x30\x07\x00\x01t\x03\x23\x00\x00", ReasonCode.TOPIC_ALIAS_INVALID),
    "alias never set": (b"\x30\x06\x00\x00\x03\x23\x00\x01", ReasonCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", BAD_5)
def test_what_no_packet_may_be_in_version_5(name: str) -> None:
    """Properties that are wrong are refused with their reason."""
    raw, code = BAD_5[name]
    assert scan([raw], version=5, alias_max=2) == ([], code)


def test_topic_aliases() -> None:
    """An alias stands for the topic it was last set to."""

    def publish(topic: bytes, alias: int) -> bytes:
        return publish_bytes(topic, b"", version=5, properties=[(Property.TOPIC_ALIAS, alias)])

    stream = (
        publish(b"a", 1) + publish(b"b", 2) + publish(b"", 1) + publish(b"c", 1) + publish(b"", 1) + publish(b"", 2)
    )
    rows, _ = scan([stream], version=5, alias_max=2)
    assert [row[1] for row in rows] == [b"a", b"b", b"a", b"c", b"c", b"b"]


def test_version_unknown_gives_one_packet_at_a_time() -> None:
    """A client that publishes right behind its CONNECT is read in the version that the CONNECT names."""
    scanner = PublishScanner(packet_bytes_max=1000, version=0)
    stream = connect_bytes(b"d1", version=5) + publish_bytes(b"t", b"21", qos=1, packet_id=7, version=5)
    items = scanner.feed(stream)
    assert [item.first_byte for item in items] == [0x10]
    scanner.version = 5
    assert flat(scanner.feed(b"")) == [(0x32, b"t", b"\x00\x07", b"21")]


def test_known_topics_are_bounded() -> None:
    """A flood of topics costs time, not memory."""
    topics: dict[bytes, bytes] = {}
    scanner = PublishScanner(packet_bytes_max=1000, topics=topics)
    for k in range(TOPICS_KNOWN_MAX + 10):
        scanner.feed(publish_bytes(b"t/%d" % k, b""))
    assert len(topics) == 10
    scanner.feed(publish_bytes(b"l" * 300, b""))
    assert len(topics) == 10


def test_property_blocks_are_bounded() -> None:
    """Blocks that differ each time are read each time; a long one is not remembered."""
    scanner = PublishScanner(packet_bytes_max=1000, version=5)
    for k in range(PROPERTY_BLOCKS_KNOWN_MAX + 10):
        scanner.feed(publish_bytes(b"t", b"", version=5, properties=[(Property.MESSAGE_EXPIRY, k)]))
    assert len(scanner._blocks) == 10
    scanner.feed(publish_bytes(b"t", b"", version=5, properties=[(Property.CONTENT_TYPE, b"x" * 300)]))
    assert len(scanner._blocks) == 10


def test_a_block_that_another_connection_brought_is_no_promise() -> None:
    """Blocks are shared, and how many aliases there are is each connection's own."""
    blocks: dict[bytes, int] = {}
    many, none = (
        PublishScanner(packet_bytes_max=1000, version=5, topic_alias_max=most, blocks=blocks) for most in (16, 0)
    )
    publish = publish_bytes(b"t", b"1", version=5, properties=[(Property.TOPIC_ALIAS, 1)])
    assert flat(many.feed(publish)) == [(0x30, b"t", b"", b"1")]
    with pytest.raises(ProtocolError) as caught:
        none.feed(publish)
    assert caught.value.code is ReasonCode.TOPIC_ALIAS_INVALID


def test_what_aliases_take_is_known() -> None:
    """By their topics; one that is set anew takes what its new topic does, and nothing is left at the end."""
    scanner = PublishScanner(packet_bytes_max=1000, version=5, topic_alias_max=16)
    for topic, alias, count, taken in (
        (b"a" * 10, 1, 1, 10),
        (b"b" * 20, 2, 2, 30),
        (b"c" * 30, 1, 2, 50),
        (b"", 1, 2, 50),
    ):
        scanner.feed(publish_bytes(topic, b"", version=5, properties=[(Property.TOPIC_ALIAS, alias)]))
        assert scanner.aliases_bytes == taken + count * ALIAS_BYTES
    scanner.close()
    assert scanner.aliases_bytes == 0


# What is too large or too long: one message is lost, and the stream goes on.


def losing(pieces: list[bytes], **options: object) -> tuple[list[Row], list[tuple[int, str, str]]]:
    """Feed `pieces`; return the rows, and which of them are lost."""
    scanner = PublishScanner(packet_bytes_max=1000, skips_oversize=True, **options)
    rows: list[Row] = []
    lost: list[tuple[int, str, str]] = []
    for piece in pieces:
        for item in scanner.feed(piece):
            lost += [one._replace(at=one.at + len(rows)) for one in getattr(item, "lost", ())]
            rows += flat([item])
    assert scanner.bytes_held == 0
    assert not scanner.is_skipping
    return rows, [(one.at, one.reason, one.sentence) for one in lost]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([4, 5]))
def test_what_is_too_large_is_read_past(data: st.DataObject, version: int) -> None:
    """It comes out in its place, lost, with a glimpse; what stands around it comes out whole, however it was cut."""
    drawn = data.draw(st.lists(packets(version), min_size=1, max_size=6))
    stream = b"".join(raw for raw, _ in drawn)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    rows, lost = losing([stream], version=version)
    assert losing(pieces, version=version) == (rows, lost)
    if len(stream) < 50_000:
        assert losing([bytes([byte]) for byte in stream], version=version) == (rows, lost)
    too_large = [k for k, (raw, _) in enumerate(drawn) if len(raw) > 1000]
    assert lost == [
        (k, "oversize", f"a packet of {len(drawn[k][0])} bytes; at most 1000 are taken (packet_bytes_max)")
        for k in too_large
    ]
    for k, (row, (_, expected)) in enumerate(zip(rows, drawn, strict=True)):
        if k in too_large:
            assert row[:3] == expected[:3]
            assert len(row[3]) >= GLIMPSE_BYTES - 30
            assert expected[3].startswith(row[3])
        else:
            assert row == expected


def test_reading_past_takes_no_memory() -> None:
    """As large as a packet can be, it is held no more than its beginning."""
    head = publish_bytes(b"t", b"", qos=1, packet_id=7)[2:]
    scanner = PublishScanner(packet_bytes_max=1000, skips_oversize=True)
    assert scanner.feed(b"\x32\xff\xff\xff\x7f" + head) == []
    left = 268_435_455 - len(head)
    megabyte = bytes(1 << 20)
    while left > len(megabyte):
        assert scanner.feed(megabyte) == []
        left -= len(megabyte)
        assert scanner.is_skipping
        assert scanner.bytes_held < GLIMPSE_BYTES + 20
    assert flat(scanner.feed(bytes(left) + publish_bytes(b"t", b"21"))) == [
        (0x32, b"t", b"\0\x07", bytes(GLIMPSE_BYTES)),
        (0x30, b"t", b"", b"21"),
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_what_no_large_packet_may_be_is_refused_at_its_head(version: int) -> None:
    """A stream that has lost its step is not read past for hundreds of megabytes."""
    for topic, qos, code in (
        (b"a/#", 1, ReasonCode.TOPIC_NAME_INVALID),
        (b"", 0, ReasonCode.PROTOCOL_ERROR),
        (b"t", 3, ReasonCode.MALFORMED_PACKET),
    ):
        whole = bytearray(publish_bytes(topic, bytes(5000), qos=min(qos, 2), packet_id=1, version=version))
        whole[0] |= qos << 1
        pieces = [bytes(whole[at : at + 700]) for at in range(0, 2100, 700)]
        assert scan(pieces, version=version, packet_bytes_max=1000, skips_oversize=True) == ([], code)


def test_a_large_packet_with_id_0_breaks_the_stream() -> None:
    """What stands before it is taken."""
    large, small = (publish_bytes(b"t", bytes(size), qos=1, packet_id=1) for size in (2000, 1))
    stream = large + small + large.replace(b"\0\x01t\0\x01", b"\0\x01t\0\0") + small
    scanner = PublishScanner(packet_bytes_max=1000, skips_oversize=True)
    with pytest.raises(ProtocolError) as caught:
        scanner.feed(stream)
    (before,) = caught.value.before
    assert isinstance(before, Publishes)
    assert (len(before), [one.at for one in before.lost]) == (2, [0])


def test_only_messages_are_read_past() -> None:
    """Nobody answers a SUBSCRIBE that was not read."""
    with pytest.raises(ProtocolError) as caught:
        PublishScanner(packet_bytes_max=1000, skips_oversize=True).feed(packet_bytes(0x82, bytes(2000)))
    assert caught.value.code is ReasonCode.PACKET_TOO_LARGE


def test_a_closed_scanner_holds_nothing() -> None:
    """Whatever it was reading past."""
    scanner = PublishScanner(packet_bytes_max=1000, skips_oversize=True)
    scanner.feed(publish_bytes(b"t", bytes(2000))[:1000])
    assert scanner.bytes_held
    scanner.close()
    assert not scanner.bytes_held
    assert not scanner.is_skipping


@pytest.mark.parametrize("version", [4, 5])
def test_a_topic_that_is_too_long_costs_its_message(version: int) -> None:
    """It is not remembered, and comes back lost each time; a packet that is too large as well is lost for that."""
    topics: dict[bytes, bytes] = {}
    long, large = (
        publish_bytes(b"0123456789a", bytes(size), qos=1, packet_id=2, version=version) for size in (1, 2000)
    )
    good = publish_bytes(b"0123456789", b"", qos=1, packet_id=1, version=version)
    rows, lost = losing([good + long + long + large + good], version=version, topic_bytes_max=10, topics=topics)
    assert [row[1] for row in rows] == [b"0123456789", *[b"0123456789a"] * 3, b"0123456789"]
    why = "a topic of 11 bytes; at most 10 are taken (topic_bytes_max)"
    assert lost[:2] == [(1, "bad_topic", why), (2, "bad_topic", why)]
    assert [reason for _, reason, _ in lost[2:]] == ["oversize"]
    assert list(topics) == [b"0123456789"]


def test_an_alias_of_a_topic_that_is_too_long_is_too_long() -> None:
    """Nothing else would be heard of it; and only what shows that is kept."""

    def publish(topic: bytes, alias: int) -> bytes:
        return publish_bytes(topic, b"", version=5, properties=[(Property.TOPIC_ALIAS, alias)])

    scanner = PublishScanner(packet_bytes_max=1000, version=5, topic_alias_max=2, topic_bytes_max=10)
    (run,) = scanner.feed(publish(b"x" * 500, 1) + publish(b"", 1) + publish(b"good", 1) + publish(b"", 1))
    assert isinstance(run, Publishes)
    assert [one.at for one in run.lost] == [0, 1]
    assert run.topics == [b"x" * 500, b"x" * 11, b"good", b"good"]
    scanner.feed(publish(b"x" * 500, 2))
    assert scanner.aliases_bytes == 4 + 11 + 2 * ALIAS_BYTES


def test_pubacks_of_no_ids_are_no_bytes() -> None:
    """Nothing to say is nothing to send."""
    assert puback_bytes([], 5) == b""
    assert puback_bytes([b"\0\1"], 5) == b"\x40\x02\0\1"
