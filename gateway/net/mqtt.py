"""MQTT packets cut from a byte stream, PUBLISHes in bulk as columns. Must not do I/O or know sessions.

A packet is (MQTT 3.1.1 section 2, MQTT 5.0 section 2)

| bytes | field                                                                                |
| ----- | ------------------------------------------------------------------------------------ |
| 1     | type in the high four bits, flags in the low four (PUBLISH: DUP, two of QoS, RETAIN) |
| 1-4   | remaining length, seven bits a byte, lowest first                                    |
| …     | body; of a PUBLISH: topic, packet id if QoS > 0, properties (5.0 only), payload      |

A gateway reads millions of small PUBLISHes, so they never become objects: the consecutive ones of a buffer
come out as one `Publishes`, parallel lists filled by one plain loop over local variables (`_cut_publishes`).
Whatever that loop does not understand at a glance it leaves to `PublishScanner._take_publish`, which reads
one packet with all the care the standard asks for.

A message that is too large is no reason to end a session: whoever sent it would come back with it. Where the
peer was told no limit it is read past, and comes out as a PUBLISH like all others, to be answered, but lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.core.contracts import BAD_TOPIC, OVERSIZE, Lost
from gateway.net.mqtt_fields import (
    PUBLISH_PROPERTIES,
    VERSION_3_1_1,
    VERSION_5,
    PacketType,
    Property,
    ProtocolError,
    ReasonCode,
    check_topic,
    malformed,
    protocol_error,
    read_binary,
    read_properties,
    read_variable_integer,
    topic_too_long,
)
from gateway.net.mqtt_oversize import Oversize

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "VERSION_3_1_1",
    "VERSION_5",
    "VERSION_UNKNOWN",
    "Item",
    "Packet",
    "PacketType",
    "ProtocolError",
    "PublishScanner",
    "Publishes",
    "ReasonCode",
    "puback_bytes",
]

VERSION_UNKNOWN: Final = 0

# Below this the hot loop would have to compare one-byte lengths with the limit too.
PACKET_BYTES_MIN: Final = 256
REMAINING_LENGTH_MAX: Final = 268_435_455  # seven bits in each of four bytes
HEADER_BYTES_MAX: Final = 5
# What was checked and is remembered; past that all is forgotten and learnt anew.
TOPICS_KNOWN_MAX: Final = 4096
PROPERTY_BLOCKS_KNOWN_MAX: Final = 512
KNOWN_BYTES_MAX: Final = 256
# What a topic alias takes beside its topic.
ALIAS_BYTES: Final = 96

_PUBLISH: Final = PacketType.PUBLISH << 4
_NO_ID: Final = b"\0\0"
_UNKNOWN: Final = -1
_ID_BYTES: Final = 2
_DUP: Final = 0x08
# First byte of a PUBLISH → its QoS.
_QOS_OF: Final = bytes(first >> 1 & 3 for first in range(256))
# First bytes that the hot loop may take: no QoS 3, and no DUP with QoS 0.
_PLAIN: Final = frozenset({0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B, 0x34, 0x35, 0x3C, 0x3D})
# Packet type → the flags it must have; MQTT 5.0 section 2.1.3. PUBLISH has its own.
_FLAGS_OF: Final = (-1, 0, 0, -1, 0, 0, 2, 0, 2, 0, 2, 0, 0, 0, 0, 0)


@dataclass(slots=True)
class Publishes:
    """Consecutive PUBLISHes as parallel columns, in the order they came.

    `packet_ids[k]` has two bytes, or none for QoS 0. `first_bytes` has one byte for each message: DUP, QoS
    and RETAIN as on the wire. Equal topics are one object where the scanner knows them, so that dictionaries
    find them at once. `lost` says which of them are too large or have a topic that is too long: those are to be
    answered and not to be used, and of what is too large the payload is only a glimpse.
    """

    topics: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    packet_ids: list[bytes] = field(default_factory=list)
    first_bytes: bytearray = field(default_factory=bytearray)
    lost: list[Lost] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def qos(self) -> bytes:
        """One byte for each message: 0, 1 or 2. The quick question is `qos.count(1) == len(qos)`."""
        return bytes(self.first_bytes.translate(_QOS_OF))

    @property
    def size_bytes(self) -> int:
        """Bytes of payloads."""
        return sum(map(len, self.payloads))


@dataclass(slots=True)
class Packet:
    """Any other packet: its first byte (type and flags) and what follows the remaining length."""

    first_byte: int
    body: bytes

    @property
    def type(self) -> PacketType:
        """What kind of packet it is."""
        return PacketType(self.first_byte >> 4)


Item: TypeAlias = "Publishes | Packet"


class PublishScanner:
    """Cuts a byte stream into MQTT packets; PUBLISHes come out as parallel lists, bulk, the rest one by one.

    `version` is 4 (3.1.1) or 5 (5.0). On the server's side it may be 0, not known yet: then `feed` returns
    at most one packet (the CONNECT) and keeps the rest until `version` is set and `feed(b"")` is called.
    Holds at most one unfinished packet of at most `packet_bytes_max`, which people know as `limit_name`. With
    `skips_oversize` a larger PUBLISH does not end the stream: not together with topic aliases, since the properties of
    what is skipped are not looked at. `topics` and `blocks` remember topics and blocks of properties that were checked;
    the connections of one server share them. `topic_alias_max` is what was announced to the peer, `aliases_bytes` what
    its aliases take.
    """

    def __init__(
        self,
        *,
        packet_bytes_max: int,
        limit_name: str = "packet_bytes_max",
        version: int = VERSION_3_1_1,
        skips_oversize: bool = False,
        topic_bytes_max: int = 65535,
        topic_alias_max: int = 0,
        topics: dict[bytes, bytes] | None = None,
        blocks: dict[bytes, int] | None = None,
    ) -> None:
        assert PACKET_BYTES_MIN <= packet_bytes_max <= REMAINING_LENGTH_MAX + HEADER_BYTES_MAX
        self.version = version
        self.packet_bytes_max = packet_bytes_max
        self.skips_oversize = skips_oversize
        self.topic_alias_max = topic_alias_max
        self._limit_name = limit_name
        self._topic_bytes_max = topic_bytes_max
        self._topics = {} if topics is None else topics
        self._blocks = {} if blocks is None else blocks
        self.aliases_bytes = 0
        self._aliases: dict[int, bytes] = {}
        self._partial = bytearray()
        self._bytes_wanted = 0
        self._oversize: Oversize | None = None
        self._broken: ProtocolError | None = None

    @property
    def bytes_held(self) -> int:
        """Bytes held of a packet that has begun and not ended."""
        return len(self._partial) if self._oversize is None else self._oversize.bytes_held

    @property
    def is_skipping(self) -> bool:
        """Whether what comes next belongs to a PUBLISH that is too large."""
        return self._oversize is not None

    def close(self) -> None:
        """Let go of the unfinished packet and the aliases; nothing will be fed any more."""
        self._partial = bytearray()
        self._oversize = None
        self._aliases = {}
        self.aliases_bytes = 0

    def feed(self, data: bytes) -> list[Item]:
        """Take what arrived; return what it completed, in wire order; consecutive PUBLISHes are one item.

        Raises ProtocolError at the first packet that is wrong; `error.before` holds what was complete before
        it. Nothing can be read from this stream any more then, and every later call raises the same.
        """
        if self._broken is not None:
            self._broken.before = []
            raise self._broken
        if self._partial:
            # Gathered until the packet is whole, joined once: a large packet in small pieces stays cheap.
            if len(self._partial) + len(data) < self._bytes_wanted:
                self._partial += data
                return []
            data = b"".join((self._partial, data))
            self._partial.clear()
        items: list[Item] = []
        run = Publishes()
        try:
            try:
                position = self._read(data, items, run)
            finally:
                # A packet id of 0 before another mistake is the earlier mistake, and replaces it.
                _close_run(run, items)
        except ProtocolError as error:
            error.before = items
            self._broken = error
            raise
        if position < len(data):
            self._partial += data[position:]
        return items

    def _read(self, data: bytes, items: list[Item], run: Publishes) -> int:
        """Take every whole packet of `data`; return where the unfinished one begins."""
        position = 0 if self._oversize is None else self._skip(data, 0, run)
        end = len(data)
        while position < end:
            first = data[position]
            is_publish = first & 0xF0 == _PUBLISH and self.version != VERSION_UNKNOWN
            if is_publish and first in _PLAIN:
                position = self._cut_run(data, position, run)
                if position == end or data[position] != first:
                    continue
            span = self._span(data, position)
            if span is None:
                if self._oversize is None:
                    break
                position = self._skip(data, position, run)
                continue
            body, packet_end = span
            if is_publish:
                self._take_publish(data, first, body, packet_end, run)
            else:
                _close_run(run, items)
                _check_flags(first)
                items.append(Packet(first, data[body:packet_end]))
            position = packet_end
            if self.version == VERSION_UNKNOWN:
                self._bytes_wanted = 0
                break
        return position

    def _cut_run(self, data: bytes, position: int, run: Publishes) -> int:
        """Take the plain PUBLISHes that begin like the one at `position`; return where they end."""
        first = data[position]
        before = len(run.payloads)
        after = _cut_publishes(
            data,
            position,
            id_bytes=_ID_BYTES if first & 0x06 else 0,
            is_version_5=self.version == VERSION_5,
            length_max=self.packet_bytes_max - HEADER_BYTES_MAX,
            known=self._topics,
            run=run,
        )
        run.first_bytes += bytes((first,)) * (len(run.payloads) - before)
        return after

    def _span(self, data: bytes, position: int) -> tuple[int, int] | None:
        """Return where the body of the packet at `position` begins and ends; None until it is whole, or to skip it."""
        end = len(data)
        if position + HEADER_BYTES_MAX > end and all(byte > 0x7F for byte in data[position + 1 : end]):
            self._bytes_wanted = end - position + 1
            return None
        length, body = read_variable_integer(data, position + 1, end)
        packet_bytes = body + length - position
        if packet_bytes > self.packet_bytes_max:
            if not self.skips_oversize or data[position] & 0xF0 != _PUBLISH:
                raise ProtocolError(ReasonCode.PACKET_TOO_LARGE, self._too_large(packet_bytes))
            self._oversize = Oversize(packet_bytes=packet_bytes, body=body - position)
            return None
        if body + length > end:
            self._bytes_wanted = packet_bytes
            return None
        return body, body + length

    def _too_large(self, packet_bytes: int) -> str:
        # As a number, which a size of the settings is not when it is shown.
        return f"a packet of {packet_bytes} bytes; at most {int(self.packet_bytes_max)} are taken ({self._limit_name})"

    def _skip(self, data: bytes, position: int, run: Publishes) -> int:
        """Read past what is at `position` of a PUBLISH that is too large; return where that ends."""
        oversize = self._oversize
        assert oversize is not None
        was_known = oversize.is_known
        after = oversize.take(data, position)
        if not was_known and oversize.is_known:
            # What must not be at all is refused now, and not when hundreds of megabytes have come.
            self._take_glimpse(oversize, Publishes())
        if not oversize.left:
            self._oversize = None
            self._take_glimpse(oversize, run)
        return after

    def _take_glimpse(self, oversize: Oversize, run: Publishes) -> None:
        lost = len(run.lost)
        head, body, end = oversize.glimpse(has_properties=self.version == VERSION_5)
        self._take_publish(head, head[0], body, end, run)
        # One reason is enough, if its topic is too long as well.
        run.lost[lost:] = [Lost(len(run.payloads) - 1, OVERSIZE, self._too_large(oversize.packet_bytes))]

    def _take_publish(self, data: bytes, first: int, body: int, end: int, run: Publishes) -> None:
        """Read one PUBLISH with care (MQTT 5.0 section 3.3)."""
        qos = _QOS_OF[first]
        if qos == 3:
            raise malformed("a PUBLISH with QoS 3")
        if qos == 0 and first & _DUP:
            raise malformed("a PUBLISH of QoS 0 that says it is sent again")
        topic, position = read_binary(data, body, end)
        packet_id = b""
        if qos:
            packet_id = data[position : position + _ID_BYTES]
            position += _ID_BYTES
            if position > end:
                raise malformed("a PUBLISH that ends before its packet id")
        alias = 0
        if self.version == VERSION_5:
            alias, position = self._read_alias(data, position, end)
        run.topics.append(self._name(topic, alias, run))
        run.packet_ids.append(packet_id)
        run.payloads.append(data[position:end])
        run.first_bytes.append(first)

    def _read_alias(self, data: bytes, position: int, end: int) -> tuple[int, int]:
        """Check the properties at `position`; return the topic alias, or 0, and where they end.

        Devices send the same block with each message, so a block that was right is remembered.
        """
        length, start = read_variable_integer(data, position, end)
        block = data[start : start + length]
        alias = self._blocks.get(block, _UNKNOWN)
        after = start + length
        if alias == _UNKNOWN or after > end:
            properties, after = read_properties(data, position, end, PUBLISH_PROPERTIES)
            found = properties.get(Property.TOPIC_ALIAS, 0)
            assert isinstance(found, int)
            alias = found
            if length <= KNOWN_BYTES_MAX:
                if len(self._blocks) >= PROPERTY_BLOCKS_KNOWN_MAX:
                    self._blocks.clear()
                self._blocks[block] = alias
        # Others of this server may have been promised more.
        if alias > self.topic_alias_max:
            raise ProtocolError(
                ReasonCode.TOPIC_ALIAS_INVALID,
                f"topic alias {alias}; at most {self.topic_alias_max} was announced",
            )
        return alias, after

    def _name(self, topic: bytes, alias: int, run: Publishes) -> bytes:
        """Return the topic of the next message of `run`, checked, by name or by alias."""
        if not topic and alias:
            try:
                named = self._aliases[alias]
            except KeyError:
                raise protocol_error(f"topic alias {alias} was never set") from None
            if len(named) > self._topic_bytes_max:
                self._lose_topic(named, run)
            return named
        known = self._topics.get(topic)
        if known is None:
            known = topic
            check_topic(topic)
            if len(topic) > self._topic_bytes_max:
                self._lose_topic(topic, run)
            elif len(topic) <= KNOWN_BYTES_MAX:
                if len(self._topics) >= TOPICS_KNOWN_MAX:
                    self._topics.clear()
                self._topics[topic] = topic
        if alias:
            # Of one that is too long so much that it is too long again.
            named = known[: self._topic_bytes_max + 1]
            before = self._aliases.get(alias)
            self.aliases_bytes += len(named) - len(before) if before is not None else len(named) + ALIAS_BYTES
            self._aliases[alias] = named
        return known

    def _lose_topic(self, topic: bytes, run: Publishes) -> None:
        why = f"{topic_too_long(topic, self._topic_bytes_max)} (topic_bytes_max)"
        run.lost.append(Lost(len(run.payloads), BAD_TOPIC, why))


def _cut_publishes(
    data: bytes,
    position: int,
    *,
    id_bytes: int,
    is_version_5: bool,
    length_max: int,
    known: dict[bytes, bytes],
    run: Publishes,
) -> int:
    """Append PUBLISHes to `run` while they begin like the first one and are plain; return where they end.

    Plain is: whole, shorter than 16 KiB, a topic in `known`, no properties. The first that is not stays where
    it is. This loop runs once for each message of a gateway: no call, no attribute, no check that can wait.
    """
    topics, packet_ids, payloads = run.topics, run.packet_ids, run.payloads
    first = data[position]
    end = len(data)
    gap = id_bytes + is_version_5
    try:
        while data[position] == first:
            length = data[position + 1]
            body = position + 2
            if length > 127:
                high = data[body]
                length += (high << 7) - 128
                if high > 127 or length > length_max:
                    break
                body += 1
            packet_end = body + length
            topic_end = body + 2 + (data[body] << 8) + data[body + 1]
            payload_at = topic_end + gap
            if packet_end > end or payload_at > packet_end or (is_version_5 and data[payload_at - 1]):
                break
            # The lookup comes first: a topic that is not known must leave the columns as they are.
            topics.append(known[data[body + 2 : topic_end]])
            packet_ids.append(data[topic_end : topic_end + id_bytes])
            payloads.append(data[payload_at:packet_end])
            position = packet_end
    except (IndexError, KeyError):  # the buffer ends inside a header; a topic is new
        pass
    return position


def _close_run(run: Publishes, items: list[Item]) -> None:
    """Move what `run` has gathered to `items`; packet ids are looked at here, all at once."""
    if not run.payloads:
        return
    closed = Publishes(run.topics, run.payloads, run.packet_ids, run.first_bytes)
    run.topics, run.payloads, run.packet_ids, run.first_bytes = [], [], [], bytearray()
    if run.lost:
        closed.lost, run.lost = run.lost, []
    if _NO_ID not in closed.packet_ids:
        items.append(closed)
        return
    count = closed.packet_ids.index(_NO_ID)
    if count:
        for column in (closed.topics, closed.payloads, closed.packet_ids, closed.first_bytes):
            del column[count:]
        closed.lost = [lost for lost in closed.lost if lost.at < count]
        items.append(closed)
    raise protocol_error("a PUBLISH with packet id 0")


def _check_flags(first: int) -> None:
    """Refuse a first byte that no version of MQTT has."""
    # A PUBLISH comes here only where no version is known yet, and whoever asked will refuse it.
    if first & 0xF0 != _PUBLISH and first & 0x0F != _FLAGS_OF[first >> 4]:
        raise malformed(f"a packet cannot begin with {first:#04x}")


def puback_bytes(packet_ids: Sequence[bytes], version: int = VERSION_3_1_1) -> bytes:
    """Return one PUBACK for each id, in their order; ids of no bytes (QoS 0) must have been left out.

    >>> puback_bytes([bytes([0, 7]), bytes([0, 8])], version=4).hex(" ", 4)
    '40020007 40020008'
    """
    # With reason code 0 and no properties, 5.0 leaves both out: the same four bytes (section 3.4.2.1).
    assert version in {VERSION_3_1_1, VERSION_5}
    return b"\x40\x02" + b"\x40\x02".join(packet_ids) if packet_ids else b""
