"""Many messages to a broker at once: PUBLISHes made of columns, and their PUBACKs read as columns. Does no I/O.

The other way round is `mqtt.PublishScanner`. A message costs here what moving its bytes costs, and no object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from gateway.core.batch import distinct
from gateway.core.ragged import gather, starts_of
from gateway.net.mqtt import Packet
from gateway.net.mqtt_fields import (
    ANSWER_PROPERTIES,
    VERSION_5,
    PacketType,
    Property,
    ProtocolError,
    ReasonCode,
    malformed,
    read_integer,
    read_properties,
    read_variable_integer,
    write_variable_integer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

from gateway.core.ragged import Numbers

Ids: TypeAlias = "npt.NDArray[np.uint16]"

# What a broker answers has some bytes; a reason in words may be as long as a text can be.
PACKET_BYTES_MAX: Final = 256 * 1024
# From so many in a row on PUBACKs are a run, and its end is looked for.
ALIKE_MIN: Final = 64
HEADER_BYTES_MAX: Final = 5
# From here on a message is moved by itself: an index of its bytes would be eight times as large.
LARGE_BYTES: Final = 2048
# So few are sooner put together one by one.
FEW_MESSAGES: Final = 64

_PUBLISH: Final = PacketType.PUBLISH << 4
_PUBACK: Final = PacketType.PUBACK << 4
_ID_BYTES: Final = 2
# Where a remaining length takes one byte more.
_LENGTH_STEPS: Final = np.array([128, 16_384, 2_097_152])


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Messages to be published: `payloads` stand one behind the other, that of message k ends at `ends[k]`.

    The topic of message k is `topics[topic_of[k]]`. `properties` are those of every message, with their length
    (MQTT 5 section 2.2.2); 3.1.1 has none.
    """

    payloads: bytes
    ends: Numbers
    topics: list[bytes]
    topic_of: Numbers
    properties: bytes = b"\0"

    @classmethod
    def one(cls, topic: bytes, payload: bytes, properties: bytes = b"\0") -> Outgoing:
        """Return a single message."""
        return cls(payload, np.array([len(payload)]), [topic], np.zeros(1, np.int64), properties)

    def __len__(self) -> int:
        return len(self.ends)


class Packets:
    """Outgoing messages as PUBLISHes of one version and QoS; `sizes[k]` is how long that of message k is."""

    def __init__(self, messages: Outgoing, *, version: int, qos: int) -> None:
        self._messages = messages
        self._first = _PUBLISH | qos << 1
        self._id_size = _ID_BYTES if qos else 0
        self._properties = messages.properties if version == VERSION_5 else b""
        self._lengths = np.diff(messages.ends, prepend=0)
        topic_lengths = np.fromiter(map(len, messages.topics), np.int64, len(messages.topics))
        fixed = 2 + self._id_size + len(self._properties)
        # The remaining length of each (section 2.1.4).
        self._inside = topic_lengths[messages.topic_of] + self._lengths + fixed
        self.sizes = self._inside + _header_lengths(self._inside)

    def __len__(self) -> int:
        return len(self.sizes)

    def topic(self, message: int) -> bytes:
        """Return the topic of a message."""
        return self._messages.topics[int(self._messages.topic_of[message])]

    def topic_number(self, message: int) -> int:
        """Return the place of its topic among the topics."""
        return int(self._messages.topic_of[message])

    def has_topic(self, number: int) -> npt.NDArray[np.bool_]:
        """Return which messages have the same topic as the one of that place."""
        topics = self._messages.topics
        same = np.array([topic == topics[number] for topic in topics])
        return same[self._messages.topic_of]

    def write(self, which: Numbers, ids: Ids) -> Iterator[bytes | memoryview[int]]:
        """Yield the packets of messages `which`, each with its id (QoS 0 has none), in pieces one behind the other."""
        lengths = self._lengths[which]
        if len(which) > FEW_MESSAGES and int(lengths.max()) <= LARGE_BYTES:
            yield from self._pack(which, ids)
            return
        messages = self._messages
        starts = messages.ends[which] - lengths
        topic_of, inside = messages.topic_of[which], self._inside[which]
        rows = zip(topic_of.tolist(), ids.tolist(), inside.tolist(), starts.tolist(), lengths.tolist(), strict=True)
        small: list[bytes] = []
        for number, packet_id, size, start, length in rows:
            topic = messages.topics[number]
            small += [bytes((self._first,)), write_variable_integer(size), len(topic).to_bytes(2, "big"), topic]
            small += [packet_id.to_bytes(_ID_BYTES, "big") if self._id_size else b"", self._properties]
            if length <= LARGE_BYTES:
                small.append(messages.payloads[start : start + length])
                continue
            yield b"".join(small)
            small = []
            yield memoryview(messages.payloads)[start : start + length]
        if small:
            yield b"".join(small)

    def _pack(self, which: Numbers, ids: Ids) -> Iterator[bytes]:
        """Put together what each packet is made of, all of them at once."""
        messages, lengths = self._messages, self._lengths[which]
        starts, topic_of = messages.ends[which] - lengths, messages.topic_of[which]
        headers, header_lengths = _headers(self._first, self._inside[which])
        used = distinct(topic_of)
        topics = [len(topic).to_bytes(2, "big") + topic for topic in map(messages.topics.__getitem__, used.tolist())]
        topic_lengths = np.fromiter(map(len, topics), np.int64, len(topics))
        topic_of = np.searchsorted(used, topic_of)
        base, top = int(starts.min()), int((starts + lengths).max())
        id_bytes = ids.astype(">u2").tobytes()
        parts = [headers.tobytes(), id_bytes, self._properties, b"".join(topics), messages.payloads[base:top]]
        at = starts_of(np.array([len(part) for part in parts])).tolist()
        rows = np.arange(len(which))
        yield from gather(
            np.frombuffer(b"".join(parts), np.uint8),
            [
                rows * HEADER_BYTES_MAX,
                starts_of(topic_lengths)[topic_of] + at[3],
                rows * _ID_BYTES + at[1],
                0 * rows + at[2],
                starts - base + at[4],
            ],
            [
                header_lengths,
                topic_lengths[topic_of],
                0 * rows + self._id_size,
                0 * rows + len(self._properties),
                lengths,
            ],
        )


def _headers(first: int, inside: Numbers) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """Return the fixed header of each packet in a row of its own, and how long it is."""
    table = np.zeros((len(inside), HEADER_BYTES_MAX), np.uint8)
    table[:, 0] = first
    left = inside
    for column in range(1, HEADER_BYTES_MAX):
        left, low = left >> 7, left & 0x7F
        table[:, column] = low | (left > 0) * 0x80
    return table, _header_lengths(inside)


def _header_lengths(inside: Numbers) -> Numbers:
    return 2 + np.searchsorted(_LENGTH_STEPS, inside, side="right")


@dataclass(frozen=True, slots=True)
class Acks:
    """PUBACKs as they came: the id of each, and its reason code (section 3.4.2.1)."""

    ids: Ids
    codes: npt.NDArray[np.uint8]


def _alike(rows: npt.NDArray[np.uint8]) -> int:
    """Return how many rows are a PUBACK of that width, from the first on."""
    is_one = (rows[:, 0] == _PUBACK) & (rows[:, 1] == rows.shape[1] - 2)
    return len(rows) if is_one.all() else int(is_one.argmin())


@dataclass(slots=True)
class AckScanner:
    """Cuts what a broker sends to a publisher into packets; PUBACKs come out in runs, all else one by one.

    `said` is the reason that the last PUBACK gave in words. Raises ProtocolError for what MQTT does not allow.
    """

    version: int
    said: str = field(default="", init=False)
    _partial: bytes = field(default=b"", init=False)

    def feed(self, data: bytes) -> list[Acks | Packet]:
        """Return what is complete now."""
        data = self._partial + data
        found: list[Acks | Packet] = []
        position = 0
        while position < len(data):
            after, item = self._take(data, position)
            if item is None:
                break
            found.append(item)
            position = after
        self._partial = data[position:]
        return found

    def _take(self, data: bytes, position: int) -> tuple[int, Acks | Packet | None]:
        """Return what begins at `position` and where it ends; None for what is not whole."""
        end = len(data)
        if data[position] == _PUBACK and position + 1 < end and data[position + 1] in {2, 3}:
            width = 2 + data[position + 1]
            rows = np.frombuffer(data, np.uint8, (end - position) // width * width, position).reshape(-1, width)
            # All are looked at only where some are alike: short and long ones by turns would be a look at all each.
            count = _alike(rows[:ALIKE_MIN])
            if count == ALIKE_MIN:
                count += _alike(rows[ALIKE_MIN:])
            if not count:
                return position, None
            return position + count * width, self._plain(rows[:count])
        if all(byte > 0x7F for byte in data[position + 1 : position + HEADER_BYTES_MAX]) and (
            position + HEADER_BYTES_MAX > end
        ):
            return position, None
        size, body = read_variable_integer(data, position + 1, end)
        if body + size - position > PACKET_BYTES_MAX:
            raise ProtocolError(ReasonCode.PACKET_TOO_LARGE, f"a packet of {size} bytes to a publisher")
        if body + size > end:
            return position, None
        packet = Packet(data[position], data[body : body + size])
        return body + size, self._wordy(packet.body) if data[position] == _PUBACK else packet

    def _plain(self, rows: npt.NDArray[np.uint8]) -> Acks:
        if rows.shape[1] > 4 and self.version != VERSION_5:
            raise malformed("a PUBACK with a reason code, which 3.1.1 does not have")
        ids = np.ascontiguousarray(rows[:, 2:4]).view(">u2").ravel().astype(np.uint16)
        return Acks(ids, rows[:, 4] if rows.shape[1] > 4 else np.zeros(len(rows), np.uint8))

    def _wordy(self, body: bytes) -> Acks:
        if self.version != VERSION_5:
            raise malformed("a PUBACK of another version")
        packet_id, position = read_integer(body, 0, len(body), _ID_BYTES)
        code, position = read_integer(body, position, len(body), 1)
        properties, position = read_properties(body, position, len(body), ANSWER_PROPERTIES)
        if position != len(body):
            raise malformed("a PUBACK with bytes behind its end")
        said = properties.get(Property.REASON_STRING, b"")
        assert isinstance(said, bytes)
        self.said = said.decode()
        return Acks(np.array([packet_id], np.uint16), np.array([code], np.uint8))
