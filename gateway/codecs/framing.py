"""Cuts the bytes of a serial line into frames or lines, and reads what frames say. Must not do I/O.

A frame on the wire is COBS(body + CRC32 of the body) + 0x00. COBS (Cheshire and Baker, "Consistent Overhead
Byte Stuffing", 1999) leaves no zero inside, so after any garbage the next 0x00 is the next start. A sender
may put a 0x00 in front to end what came before; empty frames are ignored. The CRC is that of zlib, PNG and
Ethernet. All integers are little-endian, the CRC too. The first byte of a body says what it is:

| first byte | is    | from    | what follows the first byte                                                 |
| ---------- | ----- | ------- | --------------------------------------------------------------------------- |
| >= 0x20    | plain | device  | the body is a payload as it is (CBOR map or array, JSON, text); no answer   |
| 0x01       | DATA  | device  | session u32, sequence u16, topic length u8, topic, payload                  |
| 0x02       | ACK   | gateway | session u32, sequence u16: that DATA is on disk, the device may forget it   |
| 0x03       | NAK   | gateway | session u32, sequence u16, after_ms u16: not kept, send it again then       |
| 0x04       | HELLO | device  | version u8 (1), session u32, device id (UTF-8, at most 64 bytes)            |
| 0x05       | TIME  | gateway | session u32, Unix time in ms u64, quality u8 (0 synced, 1 unsynced, 4 none) |

The session is a random number that a device draws at each start; the sequence counts its DATA frames modulo
65,536, at most OUTSTANDING_MAX of them unacknowledged. A DATA frame that is sent again has the same session
and sequence; what depends on the moment of sending may differ in its payload.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, Protocol, TypeAlias

from gateway.core.contracts import MalformedError

PROTOCOL_VERSION: Final = 1
PLAIN_MIN: Final = 0x20
SEQUENCES: Final = 1 << 16
OUTSTANDING_MAX: Final = 64
TOPIC_BYTES_MAX: Final = 255
DEVICE_ID_BYTES_MAX: Final = 64
AFTER_MS_MAX: Final = 65_535

CRC_BYTES: Final = 4
# What a CRC32 becomes when its own little-endian bytes are run through it too.
CRC_RESIDUE: Final = 0x2144DF1C
COBS_RUN_MAX: Final = 254
# A device restarts now and then, and a bus may carry several.
SESSIONS_MAX: Final = 16
# Four times what may be outstanding: a repeated frame is always among them.
COMMITTED_MAX: Final = 4 * OUTSTANDING_MAX

_CODES: Final = [bytes([code]) for code in range(256)]
_DATA: Final = struct.Struct("<BIHB")
_ACK: Final = struct.Struct("<BIH")
_NAK: Final = struct.Struct("<BIHH")
_HELLO: Final = struct.Struct("<BBI")
_TIME: Final = struct.Struct("<BIQB")


class Kind(IntEnum):
    """The first byte of a body that is more than a plain payload."""

    DATA = 1
    ACK = 2
    NAK = 3
    HELLO = 4
    TIME = 5


@dataclass(frozen=True, slots=True)
class Plain:
    """A payload that nobody acknowledges."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """A payload that the device keeps until it is acknowledged."""

    session: int
    sequence: int
    topic: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """The DATA with this session and sequence is on disk."""

    session: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Nak:
    """The DATA was not kept: send it again after `after_ms`."""

    session: int
    sequence: int
    after_ms: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A device says who it is and asks for the time."""

    version: int
    session: int
    device_id: str


@dataclass(frozen=True, slots=True)
class Time:
    """The gateway's wall clock; `quality` as in core.clock.Quality."""

    session: int
    unix_ms: int
    quality: int


Message: TypeAlias = "Plain | Data | Ack | Nak | Hello | Time"


def cobs_encode(data: bytes) -> bytes:
    r"""Return `data` without zeros: one byte more, and another for each full 254 bytes without a zero.

    >>> cobs_encode(b"a\0bc").hex(" ")
    '02 61 03 62 63'
    """
    parts: list[bytes] = []
    run = b""
    for run in data.split(b"\0"):
        rest = run
        while len(rest) >= COBS_RUN_MAX:
            parts += (_CODES[255], rest[:COBS_RUN_MAX])
            rest = rest[COBS_RUN_MAX:]
        parts += (_CODES[len(rest) + 1], rest)
    if run and not parts[-1]:
        # A full run at the very end needs no code behind it.
        del parts[-2:]
    return b"".join(parts)


def cobs_decode(block: bytes) -> bytes:
    r"""Return what `cobs_encode` was given; raise MalformedError ("cobs") for anything else.

    One step per code, that is per zero of the data, never per byte.

    >>> cobs_decode(bytes.fromhex("02 61 03 62 63"))
    b'a\x00bc'
    """
    if not block or 0 in block:
        raise MalformedError("cobs", "a frame is not empty and has no zero inside")
    out = bytearray(block)
    end = len(out)
    at = 0
    joints: list[int] = []
    while at < end:
        code = out[at]
        out[at] = 0
        at += code
        if code == 255:  # a full run: no zero follows it, so the next code's place is taken out
            joints.append(at)
    if at != end:
        raise MalformedError("cobs", f"the last code points past the frame's end, by {at - end}")
    for joint in reversed(joints):
        del out[joint : joint + 1]
    return bytes(out[1:])


def encode_frame(body: bytes) -> bytes:
    """Return the wire form of a body, its closing 0x00 included.

    >>> decode_frame(encode_frame(b"{}")[:-1])
    b'{}'
    """
    return cobs_encode(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")) + b"\0"


def decode_frame(block: bytes) -> bytes:
    """Return the body of what stood between two 0x00.

    Raises MalformedError: "cobs" (codes that don't add up), "short" (no room for a body), "crc".
    """
    decoded = cobs_decode(block)
    if len(decoded) <= CRC_BYTES:
        raise MalformedError(
            "short", f"no room for a body and its CRC32: {len(decoded)} of at least {CRC_BYTES + 1} bytes"
        )
    if zlib.crc32(decoded) != CRC_RESIDUE:
        raise MalformedError("crc", f"the CRC32 of a frame of {len(decoded)} bytes does not match")
    return decoded[:-CRC_BYTES]


def encode_plain(payload: bytes) -> bytes:
    """Return the wire form of a payload that nobody acknowledges; its first byte must be 0x20 or more."""
    if not payload or payload[0] < PLAIN_MIN:
        raise ValueError(f"a plain payload begins with {PLAIN_MIN:#x} or more, got {payload[:1]!r}")
    return encode_frame(payload)


def encode_data(payload: bytes, *, session: int, sequence: int, topic: bytes = b"") -> bytes:
    """Return the wire form of a payload that is kept until its ACK."""
    if len(topic) > TOPIC_BYTES_MAX:
        raise ValueError(f"a topic has at most {TOPIC_BYTES_MAX} bytes, got {len(topic)}")
    return encode_frame(_DATA.pack(Kind.DATA, session, sequence, len(topic)) + topic + payload)


def encode_ack(session: int, sequence: int) -> bytes:
    """Return the wire form of an ACK."""
    return encode_frame(_ACK.pack(Kind.ACK, session, sequence))


def encode_nak(session: int, sequence: int, *, after_ms: int) -> bytes:
    """Return the wire form of a NAK; `after_ms` is at most AFTER_MS_MAX, more is cut to that."""
    return encode_frame(_NAK.pack(Kind.NAK, session, sequence, min(after_ms, AFTER_MS_MAX)))


def encode_hello(session: int, device_id: str, *, version: int = PROTOCOL_VERSION) -> bytes:
    """Return the wire form of a HELLO."""
    name = device_id.encode()
    if len(name) > DEVICE_ID_BYTES_MAX:
        raise ValueError(f"a device id has at most {DEVICE_ID_BYTES_MAX} bytes, got {len(name)}")
    return encode_frame(_HELLO.pack(Kind.HELLO, version, session) + name)


def encode_time(session: int, *, unix_ms: int, quality: int) -> bytes:
    """Return the wire form of a TIME."""
    return encode_frame(_TIME.pack(Kind.TIME, session, unix_ms, quality))


def read_message(body: bytes) -> Message:
    """Return what a body says.

    Raises MalformedError: "kind" (noise, or a later version's), "header" (too short for its kind).
    """
    kind = body[0] if body else 0
    if kind >= PLAIN_MIN:
        return Plain(body)
    try:
        if kind == Kind.DATA:
            return _read_data(body)
        if kind == Kind.ACK:
            return Ack(*_ACK.unpack(body)[1:])
        if kind == Kind.NAK:
            return Nak(*_NAK.unpack(body)[1:])
        if kind == Kind.HELLO:
            _, version, session = _HELLO.unpack_from(body)
            name = body[_HELLO.size : _HELLO.size + DEVICE_ID_BYTES_MAX]
            return Hello(version, session, name.decode(errors="replace"))
        if kind == Kind.TIME:
            return Time(*_TIME.unpack(body)[1:])
    except struct.error as error:
        raise MalformedError("header", f"{len(body)} bytes are no {Kind(kind).name}: {error}") from error
    raise MalformedError("kind", f"a first byte of {kind:#04x} means nothing in version {PROTOCOL_VERSION}")


def _read_data(body: bytes) -> Data:
    _, session, sequence, topic_bytes = _DATA.unpack_from(body)
    start = _DATA.size + topic_bytes
    if start > len(body):
        raise MalformedError("header", f"a DATA of {len(body)} bytes has no room for a topic of {topic_bytes} bytes")
    return Data(session, sequence, body[_DATA.size : start], body[start:])


class Reader(Protocol):
    """Turns a byte stream into payloads. `held_bytes` of an unfinished one wait for the rest."""

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished frame or line is held."""
        ...

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return what it completed."""
        ...

    def abandon(self) -> None:
        """Forget an unfinished one: the stream has broken off."""
        ...

    def take_held(self) -> bytes:
        """Return an unfinished one, for who reads on in the same stream, and forget it."""
        ...

    def take_rejected(self) -> dict[str, int]:
        """Return how many were dropped since the last call, by reason."""
        ...


class _Cutter:
    """Cuts a stream at a delimiter; pieces of more than `bytes_max` bytes are dropped whole and counted."""

    def __init__(self, delimiter: bytes, bytes_max: int) -> None:
        self.rejected: Counter[str] = Counter()
        self._delimiter = delimiter
        self._bytes_max = bytes_max
        self._held = bytearray()
        self._overlong = False
        self._is_late = False

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def join_late(self) -> None:
        self._is_late = True

    def cut(self, data: bytes) -> list[bytes]:
        """Return the pieces that `data` completed, without empty ones."""
        *pieces, rest = data.split(self._delimiter)
        if pieces:
            self._hold(pieces[0])
            pieces[0] = bytes(self._held)
            self._held.clear()
            self._overlong = False
            if self._is_late:
                self._is_late = False
                self.rejected["cut_off"] += bool(pieces[0])
                pieces[0] = b""
            if max(map(len, pieces)) > self._bytes_max:
                self.rejected["overlong"] += sum(len(piece) > self._bytes_max for piece in pieces)
                pieces = [piece for piece in pieces if len(piece) <= self._bytes_max]
        self._hold(rest)
        return [piece for piece in pieces if piece]

    def abandon(self) -> None:
        """Forget an unfinished piece and count it."""
        self.rejected["cut_off"] += bool(self._held)
        self._held.clear()
        self._overlong = self._is_late = False

    def take_held(self) -> bytes:
        """Return the unfinished piece and forget it."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def take_rejected(self) -> dict[str, int]:
        """Return the counts and begin anew."""
        rejected = {reason: count for reason, count in self.rejected.items() if count}
        self.rejected.clear()
        return rejected

    def _hold(self, part: bytes) -> None:
        if self._overlong:
            return
        if len(self._held) + len(part) > self._bytes_max:
            # Counted once, now: a sender that never ends its frames should show up all the same.
            self.rejected["overlong"] += 1
            self._overlong = True
            self._held.clear()
        else:
            self._held += part


class FrameReader:
    """Turns a byte stream into the bodies of its frames; see the module for the format.

    `frame_bytes_max` bounds a frame as it stands between two 0x00. What is dropped is counted by reason:
    "overlong", "cobs", "short", "crc", "cut_off"; the next frame is read as usual.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self._cutter = _Cutter(b"\0", frame_bytes_max)

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return self._cutter.held_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the bodies it completed, none of them empty."""
        bodies: list[bytes] = []
        for block in self._cutter.cut(data):
            try:
                bodies.append(decode_frame(block))
            except MalformedError as error:
                self._cutter.rejected[error.reason] += 1
        return bodies

    def abandon(self) -> None:
        """Forget half a frame: the stream has broken off."""
        self._cutter.abandon()

    def take_held(self) -> bytes:
        """Return half a frame, for who reads on in the same stream, and forget it."""
        return self._cutter.take_held()

    def take_rejected(self) -> dict[str, int]:
        """Return how many frames were dropped since the last call, by reason."""
        return self._cutter.take_rejected()


class LineReader:
    """Turns a byte stream into lines that end in LF or CRLF; empty ones are left out.

    `line_bytes_max` bounds a line without its LF. What is dropped is counted: "overlong", "cut_off".
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._cutter = _Cutter(b"\n", line_bytes_max)

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished line is held."""
        return self._cutter.held_bytes

    def join_late(self) -> None:
        """Take what comes next for the end of a line that began unheard: up to its LF it is dropped and counted."""
        self._cutter.join_late()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the lines it completed."""
        lines = self._cutter.cut(data)
        if b"\r" not in data and not any(line.endswith(b"\r") for line in lines[:1]):
            return lines
        return [bare for line in lines if (bare := line.removesuffix(b"\r"))]

    def abandon(self) -> None:
        """Forget half a line: the stream has broken off."""
        self._cutter.abandon()

    def take_held(self) -> bytes:
        """Return half a line, for who reads on in the same stream, and forget it."""
        return self._cutter.take_held()

    def take_rejected(self) -> dict[str, int]:
        """Return how many lines were dropped since the last call, by reason."""
        return self._cutter.take_rejected()


class Verdict(Enum):
    """What to do with a DATA frame."""

    NEW = "take it"
    PENDING = "it is being taken: say nothing yet"
    COMMITTED = "it was taken before: acknowledge it again"


@dataclass(slots=True)
class _Session:
    committed: OrderedDict[int, None] = field(default_factory=OrderedDict)
    pending: set[int] = field(default_factory=set)


class Sessions:
    """Which DATA frames of which sessions are on disk or on their way there, so that none is taken twice.

    Remembers the newest COMMITTED_MAX sequences of the SESSIONS_MAX sessions heard last. Lives as long as the
    process: a frame whose ACK was lost before a restart is taken a second time after it.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def judge(self, session: int, sequence: int) -> Verdict:
        """Say what to do with a frame that came; a NEW one is pending from now on."""
        known = self._sessions.get(session)
        if known is None:
            known = self._sessions[session] = _Session()
            if len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session)
        if sequence in known.committed:
            return Verdict.COMMITTED
        if sequence in known.pending:
            return Verdict.PENDING
        known.pending.add(sequence)
        return Verdict.NEW

    def commit(self, session: int, sequence: int) -> None:
        """Note that a pending frame is on disk."""
        known = self._sessions.get(session)
        if known is None:  # so many others were heard since that it is forgotten
            return
        known.pending.discard(sequence)
        known.committed[sequence] = None
        if len(known.committed) > COMMITTED_MAX:
            known.committed.popitem(last=False)

    def release(self, session: int, sequence: int) -> None:
        """Note that a pending frame was not kept: when it comes again it is new."""
        known = self._sessions.get(session)
        if known is not None:
            known.pending.discard(sequence)
