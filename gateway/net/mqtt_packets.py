"""MQTT packets beside PUBLISH, read and written: CONNECT, SUBSCRIBE, DISCONNECT and the answers. Does no I/O.

Sections are those of the OASIS standard MQTT 5.0. A server reads what clients send and writes what answers
them; the few packets that a client writes are here too, for simulated devices and load generators.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt_fields import (
    ANSWER_PROPERTIES,
    CONNECT_PROPERTIES,
    DISCONNECT_PROPERTIES,
    SUBSCRIBE_PROPERTIES,
    UNSUBSCRIBE_PROPERTIES,
    VERSION_3_1,
    VERSION_3_1_1,
    VERSION_5,
    WILL_PROPERTIES,
    PacketType,
    Property,
    PropertyValue,
    ProtocolError,
    ReasonCode,
    check_topic,
    malformed,
    protocol_error,
    read_binary,
    read_integer,
    read_properties,
    read_string,
    write_properties,
    write_variable_integer,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.net.mqtt_fields import Properties

CLIENT_ID_BYTES_MAX: Final = 256
FILTERS_MAX: Final = 256
# A session that never expires (section 3.1.2.11.2).
EXPIRY_NEVER: Final = 0xFFFF_FFFF
PINGREQ_BYTES: Final = b"\xc0\x00"
PINGRESP_BYTES: Final = b"\xd0\x00"

# 3.1.1 knows five refusals (section 3.2.2.3 there); the others end a connection without a word.
_RETURN_CODE_OF: Final = {
    ReasonCode.SUCCESS: 0,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_ID_NOT_VALID: 2,
    ReasonCode.SERVER_UNAVAILABLE: 3,
    ReasonCode.SERVER_BUSY: 3,
    ReasonCode.QUOTA_EXCEEDED: 3,
    ReasonCode.CONNECTION_RATE_EXCEEDED: 3,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: 4,
    ReasonCode.NOT_AUTHORIZED: 5,
}

_CLEAN: Final = 0x02
_WILL: Final = 0x04
_WILL_BITS: Final = 0x38
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80


@dataclass(frozen=True, slots=True)
class Will:
    """What a client wants said when its connection ends without a goodbye."""

    topic: bytes
    payload: bytes
    qos: int
    delay_s: int = 0


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT (section 3.1). `session_expiry_s` is 0 or EXPIRY_NEVER in 3.1.1, as `clean session` says."""

    version: int
    client_id: bytes
    clean_start: bool
    keep_alive_s: int
    session_expiry_s: int = 0
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    authentication_method: bytes | None = None


def read_connect(body: bytes, *, topic_bytes_max: int = 65535) -> Connect:
    """Read a CONNECT. Raises ProtocolError; with UNSUPPORTED_PROTOCOL_VERSION it may be answered."""
    end = len(body)
    name, position = read_binary(body, 0, end)
    version, position = read_integer(body, position, end, 1)
    if name == b"MQIsdp" and version == VERSION_3_1:
        raise ProtocolError(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, "MQTT 3.1; only 3.1.1 and 5.0 are spoken")
    if name != b"MQTT":
        raise malformed("a CONNECT of another protocol")
    if version not in {VERSION_3_1_1, VERSION_5}:
        raise ProtocolError(
            ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, f"MQTT protocol level {version}; 4 and 5 are spoken"
        )
    flags, position = read_integer(body, position, end, 1)
    _check_connect_flags(flags, version)
    keep_alive_s, position = read_integer(body, position, end, 2)
    properties: Properties = {}
    if version == VERSION_5:
        properties, position = read_properties(body, position, end, CONNECT_PROPERTIES)
    client_id, position = read_string(body, position, end)
    clean_start = bool(flags & _CLEAN)
    if len(client_id) > CLIENT_ID_BYTES_MAX or (version == VERSION_3_1_1 and not client_id and not clean_start):
        raise ProtocolError(
            ReasonCode.CLIENT_ID_NOT_VALID,
            f"a client id has 1 to {CLIENT_ID_BYTES_MAX} bytes, got {len(client_id)}",
        )
    will = None
    if flags & _WILL:
        will, position = _read_will(body, position, flags, version, topic_bytes_max)
    username = password = None
    if flags & _USERNAME:
        raw, position = read_string(body, position, end)
        username = raw.decode()
    if flags & _PASSWORD:
        password, position = read_binary(body, position, end)
    if position != end:
        raise malformed("a CONNECT with bytes behind its end")
    if version == VERSION_5:
        session_expiry_s = _integer(properties, Property.SESSION_EXPIRY, 0)
    else:
        session_expiry_s = 0 if clean_start else EXPIRY_NEVER
    method = properties.get(Property.AUTHENTICATION_METHOD)
    assert not isinstance(method, int)
    if method is None and Property.AUTHENTICATION_DATA in properties:
        raise protocol_error("authentication data without a method")
    return Connect(
        version=version,
        client_id=client_id,
        clean_start=clean_start,
        keep_alive_s=keep_alive_s,
        session_expiry_s=session_expiry_s,
        username=username,
        password=password,
        will=will,
        authentication_method=method,
    )


def connect_version(body: bytes) -> int:
    """Return in which version a CONNECT that could not be read wants its answer."""
    return VERSION_5 if body[:7] == b"\0\4MQTT\5" else VERSION_3_1_1


def _integer(properties: Properties, which: Property, default: int) -> int:
    value = properties.get(which, default)
    assert isinstance(value, int)
    return value


def _check_connect_flags(flags: int, version: int) -> None:
    if flags & 0x01:
        raise malformed("a CONNECT with its reserved flag set")
    if not flags & _WILL and flags & _WILL_BITS:
        raise malformed("a CONNECT with a will's QoS or RETAIN and no will")
    if flags >> 3 & 3 == 3:
        raise malformed("a will with QoS 3")
    if version == VERSION_3_1_1 and flags & _PASSWORD and not flags & _USERNAME:
        raise malformed("a CONNECT with a password and no user name")


def _read_will(body: bytes, position: int, flags: int, version: int, topic_bytes_max: int) -> tuple[Will, int]:
    end = len(body)
    properties: Properties = {}
    if version == VERSION_5:
        properties, position = read_properties(body, position, end, WILL_PROPERTIES)
    topic, position = read_binary(body, position, end)
    check_topic(topic, topic_bytes_max=topic_bytes_max)
    payload, position = read_binary(body, position, end)
    delay_s = _integer(properties, Property.WILL_DELAY, 0)
    return Will(topic, payload, flags >> 3 & 3, delay_s), position


def read_filters(body: bytes, version: int, kind: PacketType) -> tuple[bytes, list[bytes]]:
    """Return the packet id and the filters of a SUBSCRIBE or UNSUBSCRIBE (sections 3.8, 3.10)."""
    end = len(body)
    packet_id, position = read_integer(body, 0, end, 2)
    if packet_id == 0:
        raise protocol_error(f"a {kind.name} with packet id 0")
    is_subscribe = kind is PacketType.SUBSCRIBE
    if version == VERSION_5:
        allowed = SUBSCRIBE_PROPERTIES if is_subscribe else UNSUBSCRIBE_PROPERTIES
        _, position = read_properties(body, position, end, allowed)
    filters: list[bytes] = []
    while position < end:
        name, position = read_string(body, position, end)
        if is_subscribe:
            options, position = read_integer(body, position, end, 1)
            if options & 3 == 3 or options & (0xC0 if version == VERSION_5 else 0xFC):
                raise malformed("a SUBSCRIBE with options that do not exist")
        if not name:
            raise protocol_error(f"a {kind.name} with an empty filter")
        filters.append(name)
        if len(filters) > FILTERS_MAX:
            raise ProtocolError(ReasonCode.QUOTA_EXCEEDED, f"more than {FILTERS_MAX} filters in one {kind.name}")
    if not filters:
        raise protocol_error(f"a {kind.name} with no filter")
    return packet_id.to_bytes(2, "big"), filters


def read_answer(body: bytes, version: int) -> tuple[bytes, int]:
    """Return the packet id and reason code of a PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7)."""
    end = len(body)
    if end < 2 or body[:2] == b"\0\0" or (version != VERSION_5 and end != 2):
        raise malformed("an answer with no packet id of its own")
    code, position = 0, 2
    if end > position:
        code, position = read_integer(body, position, end, 1)
    if end > position:
        _, position = read_properties(body, position, end, ANSWER_PROPERTIES)
    if position != end:
        raise malformed("an answer with bytes behind its end")
    return body[:2], code


def read_disconnect(body: bytes, version: int) -> tuple[int, int | None]:
    """Return the reason code of a DISCONNECT, and the session expiry in seconds if it names one (3.14)."""
    end = len(body)
    if version != VERSION_5:
        if body:
            raise malformed("a DISCONNECT with a body")
        return 0, None
    code, position = 0, 0
    properties: Properties = {}
    if end > position:
        code, position = read_integer(body, position, end, 1)
    if end > position:
        properties, position = read_properties(body, position, end, DISCONNECT_PROPERTIES)
    if position != end:
        raise malformed("a DISCONNECT with bytes behind its end")
    expiry_s = properties.get(Property.SESSION_EXPIRY)
    assert not isinstance(expiry_s, bytes)
    return code, expiry_s


def packet_bytes(first_byte: int, body: bytes) -> bytes:
    """Return a whole packet.

    >>> packet_bytes(0x40, bytes([0, 7])).hex()
    '40020007'
    """
    return bytes((first_byte,)) + write_variable_integer(len(body)) + body


def connack_bytes(
    *,
    version: int,
    code: ReasonCode,
    session_present: bool = False,
    properties: Iterable[tuple[Property, PropertyValue]] = (),
) -> bytes:
    """Return a CONNACK, or nothing where the version has no word for `code` (section 3.2)."""
    if version == VERSION_5:
        return packet_bytes(0x20, bytes((session_present, code)) + write_properties(properties))
    return_code = _RETURN_CODE_OF.get(code)
    return b"" if return_code is None else bytes((0x20, 2, session_present, return_code))


def answer_bytes(kind: PacketType, packet_id: bytes, *, code: int = 0, version: int = VERSION_3_1_1) -> bytes:
    """Return a PUBACK, PUBREC, PUBREL or PUBCOMP; a `code` can only be said in 5.0.

    >>> answer_bytes(PacketType.PUBREL, bytes([0, 7])).hex()
    '62020007'
    """
    first_byte = kind << 4 | (0x02 if kind is PacketType.PUBREL else 0)
    return packet_bytes(first_byte, packet_id + bytes((code,)) if code and version == VERSION_5 else packet_id)


def suback_bytes(packet_id: bytes, codes: Sequence[int], *, version: int) -> bytes:
    """Return a SUBACK with one code for each filter; 3.1.1 knows one failure, 0x80 (section 3.9)."""
    if version == VERSION_5:
        return packet_bytes(0x90, packet_id + b"\0" + bytes(codes))
    return packet_bytes(0x90, packet_id + bytes(min(code, 0x80) for code in codes))


def unsuback_bytes(packet_id: bytes, codes: Sequence[int], *, version: int) -> bytes:
    """Return an UNSUBACK; 3.1.1 has no codes in it (section 3.11)."""
    return packet_bytes(0xB0, packet_id + b"\0" + bytes(codes) if version == VERSION_5 else packet_id)


def disconnect_bytes(*, version: int, code: ReasonCode) -> bytes:
    """Return a server's DISCONNECT, or nothing in 3.1.1, where only clients say it (section 3.14)."""
    return bytes((0xE0, 1, code)) if version == VERSION_5 else b""


def connect_bytes(
    client_id: bytes,
    *,
    version: int = VERSION_3_1_1,
    clean_start: bool = True,
    keep_alive_s: int = 0,
    username: bytes | None = None,
    password: bytes | None = None,
    will: Will | None = None,
    properties: Iterable[tuple[Property, PropertyValue]] = (),
) -> bytes:
    """Return a client's CONNECT."""
    flags = _CLEAN * clean_start
    fields = [client_id]
    if will is not None:
        flags |= _WILL | will.qos << 3
        fields += [will.topic, will.payload]
    if username is not None:
        flags |= _USERNAME
        fields.append(username)
    if password is not None:
        flags |= _PASSWORD
        fields.append(password)
    written = [len(part).to_bytes(2, "big") + part for part in fields]
    if version == VERSION_5 and will is not None:
        delay = [(Property.WILL_DELAY, will.delay_s)] if will.delay_s else []
        written.insert(1, write_properties(delay))
    head = b"\0\4MQTT" + bytes((version, flags)) + keep_alive_s.to_bytes(2, "big")
    head += write_properties(properties) if version == VERSION_5 else b""
    return packet_bytes(0x10, head + b"".join(written))


def publish_bytes(
    topic: bytes,
    payload: bytes,
    *,
    qos: int = 0,
    packet_id: int = 0,
    version: int = VERSION_3_1_1,
    is_duplicate: bool = False,
    properties: Iterable[tuple[Property, PropertyValue]] = (),
) -> bytes:
    """Return a PUBLISH as a client sends it (section 3.3).

    >>> publish_bytes(b"t", b"21", qos=1, packet_id=7).hex()
    '320700017400073231'
    """
    first_byte = PacketType.PUBLISH << 4 | is_duplicate << 3 | qos << 1
    body = len(topic).to_bytes(2, "big") + topic
    if qos:
        body += packet_id.to_bytes(2, "big")
    if version == VERSION_5:
        body += write_properties(properties)
    return packet_bytes(first_byte, body + payload)
