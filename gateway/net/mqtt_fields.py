"""What MQTT packets are made of: reason codes, errors, numbers, texts, properties. Does no I/O.

Sections are those of the OASIS standard MQTT 5.0; what 3.1.1 has is the same there. Everything here is a
function of bytes; what a packet means is not decided here.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.net.mqtt import Item

VERSION_3_1: Final = 3
VERSION_3_1_1: Final = 4
VERSION_5: Final = 5


class PacketType(IntEnum):
    """The high four bits of a packet's first byte (MQTT 5.0 section 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class ReasonCode(IntEnum):
    """What MQTT 5.0 says in one byte (section 2.4); the names in lower case are the words we count by."""

    SUCCESS = 0x00
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_IN_USE = 0x91
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0


class ProtocolError(Exception):
    """The peer sent what MQTT does not allow. `code` is the reason, the message a sentence.

    `before` holds what was complete in the same bytes before the mistake.
    """

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.before: list[Item] = []

    @property
    def reason(self) -> str:
        """A short countable word."""
        return self.code.name.lower()


class Property(IntEnum):
    """Identifiers of MQTT 5.0 properties (section 2.2.2.2)."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_IDS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


PropertyValue: TypeAlias = "int | bytes"
Properties: TypeAlias = "dict[int, PropertyValue]"

# Identifier → bytes of a fixed-size integer; the rest are named one by one.
_INTEGER_BYTES: Final = {
    Property.PAYLOAD_FORMAT: 1,
    Property.REQUEST_PROBLEM: 1,
    Property.REQUEST_RESPONSE: 1,
    Property.MAXIMUM_QOS: 1,
    Property.RETAIN_AVAILABLE: 1,
    Property.WILDCARD_AVAILABLE: 1,
    Property.SUBSCRIPTION_IDS_AVAILABLE: 1,
    Property.SHARED_AVAILABLE: 1,
    Property.SERVER_KEEP_ALIVE: 2,
    Property.RECEIVE_MAXIMUM: 2,
    Property.TOPIC_ALIAS_MAXIMUM: 2,
    Property.TOPIC_ALIAS: 2,
    Property.MESSAGE_EXPIRY: 4,
    Property.SESSION_EXPIRY: 4,
    Property.WILL_DELAY: 4,
    Property.MAXIMUM_PACKET_SIZE: 4,
}
_BINARY: Final = frozenset({Property.CORRELATION_DATA, Property.AUTHENTICATION_DATA})
_BOOLEAN: Final = frozenset({Property.PAYLOAD_FORMAT, Property.REQUEST_PROBLEM, Property.REQUEST_RESPONSE})
_NOT_ZERO: Final = frozenset(
    {Property.RECEIVE_MAXIMUM, Property.MAXIMUM_PACKET_SIZE, Property.TOPIC_ALIAS, Property.SUBSCRIPTION_ID}
)
# These may be there by the ten thousand, and nobody looks at them: they are passed over in one step, or few.
_USER: Final = int(Property.USER)
# Not with ++, which takes too much in Python before 3.11.5 (gh-106052); and bounded, since each round takes memory.
_SUBSCRIPTION_IDS: Final = re.compile(rb"(?:\x0b[\x80-\xff]{0,3}[\x01-\x7f]){1,1024}")

PUBLISH_PROPERTIES: Final = frozenset(
    {
        Property.PAYLOAD_FORMAT,
        Property.MESSAGE_EXPIRY,
        Property.TOPIC_ALIAS,
        Property.RESPONSE_TOPIC,
        Property.CORRELATION_DATA,
        Property.USER,
        Property.SUBSCRIPTION_ID,
        Property.CONTENT_TYPE,
    }
)
CONNECT_PROPERTIES: Final = frozenset(
    {
        Property.SESSION_EXPIRY,
        Property.RECEIVE_MAXIMUM,
        Property.MAXIMUM_PACKET_SIZE,
        Property.TOPIC_ALIAS_MAXIMUM,
        Property.REQUEST_RESPONSE,
        Property.REQUEST_PROBLEM,
        Property.USER,
        Property.AUTHENTICATION_METHOD,
        Property.AUTHENTICATION_DATA,
    }
)
WILL_PROPERTIES: Final = frozenset(
    {
        Property.WILL_DELAY,
        Property.PAYLOAD_FORMAT,
        Property.MESSAGE_EXPIRY,
        Property.CONTENT_TYPE,
        Property.RESPONSE_TOPIC,
        Property.CORRELATION_DATA,
        Property.USER,
    }
)
SUBSCRIBE_PROPERTIES: Final = frozenset({Property.SUBSCRIPTION_ID, Property.USER})
UNSUBSCRIBE_PROPERTIES: Final = frozenset({Property.USER})
ANSWER_PROPERTIES: Final = frozenset({Property.REASON_STRING, Property.USER})
DISCONNECT_PROPERTIES: Final = frozenset(
    {Property.SESSION_EXPIRY, Property.SERVER_REFERENCE, Property.REASON_STRING, Property.USER}
)


def malformed(message: str) -> ProtocolError:
    """Return the error for bytes that cannot be read."""
    return ProtocolError(ReasonCode.MALFORMED_PACKET, message)


def protocol_error(message: str) -> ProtocolError:
    """Return the error for a packet that can be read and must not be sent."""
    return ProtocolError(ReasonCode.PROTOCOL_ERROR, message)


def read_variable_integer(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the value at `position` and where it ends (section 1.5.5).

    >>> read_variable_integer(bytes([0xC1, 0x02]), 0, 2)
    (321, 2)
    """
    value = 0
    for shift in (0, 7, 14, 21):
        if position >= end:
            raise malformed("a length runs past the end of its packet")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise malformed("a length takes more than four bytes")


def write_variable_integer(value: int) -> bytes:
    """Return `value` in as few bytes as it takes.

    >>> write_variable_integer(321).hex()
    'c102'
    """
    assert 0 <= value < 1 << 28
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_integer(data: bytes, position: int, end: int, size: int) -> tuple[int, int]:
    """Return the big-endian integer of `size` bytes at `position` and where it ends."""
    after = position + size
    if after > end:
        raise malformed("a number runs past the end of its packet")
    return int.from_bytes(data[position:after], "big"), after


def read_binary(data: bytes, position: int, end: int) -> tuple[bytes, int]:
    """Return the bytes behind a two-byte length (section 1.5.6) and where they end."""
    size, position = read_integer(data, position, end, 2)
    after = position + size
    if after > end:
        raise malformed("a field runs past the end of its packet")
    return data[position:after], after


def read_string(data: bytes, position: int, end: int) -> tuple[bytes, int]:
    """Return UTF-8 text behind a two-byte length, as bytes that have been checked (section 1.5.4)."""
    text, position = read_binary(data, position, end)
    check_text(text)
    return text, position


def check_text(text: bytes) -> None:
    """Refuse what is not UTF-8 or holds U+0000."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("a text is not valid UTF-8") from None
    if b"\0" in text:
        raise malformed("a text holds U+0000")


def check_topic(topic: bytes, *, topic_bytes_max: int = 65535) -> None:
    """Refuse a topic that no message can have (MQTT 5.0 section 4.7): empty, wildcards, U+0000, not UTF-8."""
    if not topic:
        raise protocol_error("a PUBLISH with no topic")
    if len(topic) > topic_bytes_max:
        raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, topic_too_long(topic, topic_bytes_max))
    try:
        topic.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("a topic is not valid UTF-8") from None
    if b"+" in topic or b"#" in topic or b"\0" in topic:
        raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, "a topic of a message holds +, # or U+0000")


def topic_too_long(topic: bytes, topic_bytes_max: int) -> str:
    """Return what is wrong with a topic that is longer than it may be."""
    return f"a topic of {len(topic)} bytes; at most {topic_bytes_max} are taken"


def read_properties(data: bytes, position: int, end: int, allowed: frozenset[Property]) -> tuple[Properties, int]:
    """Return the properties at `position`, and where they end; user properties are checked and left out.

    So are subscription identifiers of a PUBLISH, since nobody asks a broker for them.

    Raises ProtocolError for one that is unknown, not `allowed` here, twice, or has a value it must not have.
    """
    length, position = read_variable_integer(data, position, end)
    stop = position + length
    if stop > end:
        raise malformed("properties run past the end of their packet")
    properties: Properties = {}
    may_repeat_id = allowed is PUBLISH_PROPERTIES
    while position < stop:
        if data[position] == _USER:
            position = _pass_user_property(data, position + 1, stop)
            continue
        if may_repeat_id and (passed := _SUBSCRIPTION_IDS.match(data, position, stop)) is not None:
            position = passed.end()
            continue
        identifier, position = read_variable_integer(data, position, stop)
        if identifier not in allowed:
            raise malformed(f"property {identifier:#04x} does not belong in this packet")
        if identifier in properties:
            raise protocol_error(f"property {identifier:#04x} is there twice")
        value, position = _read_value(identifier, data, position, stop)
        properties[identifier] = value
    return properties, stop


def _pass_user_property(data: bytes, position: int, stop: int) -> int:
    """Return where a name and a value end, checked as `read_string` would."""
    for _ in range(2):
        start = position + 2
        end = start + (data[position] << 8 | data[position + 1]) if start <= stop else start
        if end > stop:
            raise malformed("a field runs past the end of its packet")
        text = data[start:end]
        if not text.isascii() or 0 in text:
            check_text(text)
        position = end
    return position


def _read_value(identifier: int, data: bytes, position: int, stop: int) -> tuple[PropertyValue, int]:
    value: PropertyValue
    size = _INTEGER_BYTES.get(Property(identifier))
    if size is not None:
        value, position = read_integer(data, position, stop, size)
        if identifier in _BOOLEAN and value > 1:
            raise protocol_error(f"property {identifier:#04x} is 0 or 1, got {value}")
    elif identifier == Property.SUBSCRIPTION_ID:
        value, position = read_variable_integer(data, position, stop)
    elif identifier in _BINARY:
        return read_binary(data, position, stop)
    else:
        return read_string(data, position, stop)
    if value == 0 and identifier in _NOT_ZERO:
        is_alias = identifier == Property.TOPIC_ALIAS
        code = ReasonCode.TOPIC_ALIAS_INVALID if is_alias else ReasonCode.PROTOCOL_ERROR
        raise ProtocolError(code, f"property {identifier:#04x} must not be 0")
    return value, position


def write_properties(properties: Iterable[tuple[Property, PropertyValue]]) -> bytes:
    """Return the length and the properties; bytes are written with a two-byte length."""
    out = bytearray()
    for identifier, value in properties:
        out.append(identifier)
        if isinstance(value, int):
            out += value.to_bytes(_INTEGER_BYTES[identifier], "big")
        else:
            out += len(value).to_bytes(2, "big") + value
    return write_variable_integer(len(out)) + out
