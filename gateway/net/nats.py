"""NATS on the wire: what a server says, taken apart, and what a publisher says to it. Does no I/O.

Lines with a payload behind some of them, as the protocol is described at docs.nats.io ("Client Protocol"):

    server: INFO {…} · PING · PONG · +OK · -ERR 'why' · MSG subject sid [reply] size · HMSG … headers size
    client: CONNECT {…} · PING · PONG · SUB subject sid · HPUB subject reply headers size

Whoever talks to a server cannot be sure that it is one: lines, headers and payloads have limits, and what is no NATS is
an error at its first line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

# A server's own limit for what clients say in a line is 4 KiB; INFO names all servers of a cluster.
LINE_BYTES_MAX: Final = 64 * 1024
# What a publisher is sent are answers of some hundred bytes.
PAYLOAD_BYTES_MAX: Final = 64 * 1024
EVENTS_MAX: Final = 100_000
# What a server takes that was told nothing else.
MESSAGE_BYTES_MAX: Final = 1 << 20
SHOWN_MAX: Final = 60

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
HEADERS: Final = b"NATS/1.0"
NO_RESPONDERS: Final = 503

_STATUS: Final = re.compile(rb"NATS/1\.0[ \t]+(\d{3})\b")
_SIZE_DIGITS_MAX: Final = 9
# The last of them where it is nested too deeply.
_NO_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class NatsError(Exception):
    """What came is no NATS, or more of it than any server says; the message is fit to follow a colon."""


class Info(msgspec.Struct, frozen=True):
    """What a server says of itself, as far as it matters here. `ldm`: it is about to shut down.

    `connect_urls` are all servers of its cluster, host and port of each.
    """

    version: str = ""
    headers: bool = False
    max_payload: int = MESSAGE_BYTES_MAX
    tls_required: bool = False
    tls_available: bool = False
    auth_required: bool = False
    nonce: str = ""
    ldm: bool = False
    connect_urls: tuple[str, ...] | None = None

    @property
    def message_bytes_max(self) -> int:
        """How large a message may be with its headers; one that is said to be nothing, or less, is not said at all."""
        return self.max_payload if self.max_payload > 0 else MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Message:
    """What came to a subscription; `status` is that of its headers, 0 where they have none."""

    subject: bytes
    payload: bytes
    status: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server says with -ERR."""

    reason: str


class Word(msgspec.Struct, frozen=True):
    """PING, PONG or +OK."""

    word: str


Event: TypeAlias = "Info | Message | Refusal | Word"


class Scanner:
    """Takes a server's bytes apart, whatever pieces they come in."""

    def __init__(self) -> None:
        self._held = b""
        self._message: tuple[bytes, int, int] | None = None  # subject, bytes of headers, of all

    @property
    def is_empty(self) -> bool:
        """Whether nothing has begun that is not whole."""
        return not self._held and self._message is None

    def feed(self, data: bytes) -> list[Event]:
        """Return what is whole by now; raise NatsError."""
        self._held += data
        at = 0
        found: list[Event] = []
        while True:
            if self._message is not None:
                subject, headers, size = self._message
                if len(self._held) - at < size + 2:
                    break
                found.append(_message(subject, self._held[at : at + size], headers))
                if self._held[at + size : at + size + 2] != b"\r\n":
                    raise NatsError("a message is longer than was said")
                at += size + 2
                self._message = None
                continue
            end = self._held.find(b"\n", at)
            if end < 0:
                if len(self._held) - at > LINE_BYTES_MAX:
                    raise NatsError("a line without an end")
                break
            if end - at > LINE_BYTES_MAX:
                raise NatsError("a line without an end")
            line, at = self._held[at:end].rstrip(b"\r"), end + 1
            event = self._read(line)
            if event is not None:
                found.append(event)
            if len(found) > EVENTS_MAX:
                raise NatsError("more than anybody asked for")
        self._held = self._held[at:]
        return found

    def _read(self, line: bytes) -> Event | None:
        """Return what a line says by itself; take note of what follows it."""
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        if verb in {b"MSG", b"HMSG"}:
            self._message = _announced(rest.split(), has_headers=verb == b"HMSG")
            return None
        if verb in {b"PING", b"PONG", b"+OK"}:
            return Word(verb.decode())
        if verb == b"INFO":
            return _info(rest)
        if verb == b"-ERR":
            return Refusal(rest.strip().strip(b"'").decode("utf-8", "replace"))
        raise NatsError(f"{line[:SHOWN_MAX].decode('latin-1')!r} is no NATS")


def _announced(words: Sequence[bytes], *, has_headers: bool) -> tuple[bytes, int, int]:
    """Return subject, bytes of headers and of all of it, as a line says them."""
    counts = 2 if has_headers else 1
    if not 2 + counts <= len(words) <= 3 + counts:
        raise NatsError("a message whose line is none")
    sizes = words[-counts:]
    if not all(size.isdigit() and len(size) <= _SIZE_DIGITS_MAX for size in sizes):
        raise NatsError("a message without a size")
    headers, size = (int(sizes[0]) if has_headers else 0), int(sizes[-1])
    if size > PAYLOAD_BYTES_MAX or headers > size:
        raise NatsError(f"an answer of {size} bytes")
    return words[0], headers, size


def _message(subject: bytes, data: bytes, headers: int) -> Message:
    status = _STATUS.match(data[:headers])
    return Message(subject, data[headers:], int(status[1]) if status else 0)


def _info(text: bytes) -> Info:
    try:
        return msgspec.json.decode(text, type=Info)
    except _NO_JSON as error:
        raise NatsError("an INFO that is none") from error


def write_connect(options: dict[str, Any]) -> bytes:
    """Return the line that begins what a client has to say; `options` are who it is and how it proves that."""
    said = {
        "verbose": False,
        "pedantic": False,
        "lang": "python",
        "protocol": 1,
        "echo": False,
        "headers": True,
        "no_responders": True,
        **options,
    }
    return b"CONNECT %b\r\n" % msgspec.json.encode(said)


def write_publication(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    r"""Return one message; `headers` are lines that end in CR LF.

    >>> write_publication(b"a", b"r", b"Nats-Msg-Id: 1\r\n", b"x")
    b'HPUB a r 28 29\r\nNATS/1.0\r\nNats-Msg-Id: 1\r\n\r\nx\r\n'
    """
    head = len(HEADERS) + 4 + len(headers)
    return b"HPUB %b %b %d %d\r\n%b\r\n%b\r\n%b\r\n" % (
        subject, reply, head, head + len(payload), HEADERS, headers, payload,
    )  # fmt: skip


class _Trouble(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Trouble | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A stream has a message; `is_duplicate` where it had it already, by its id."""

    stream: str
    sequence: int
    is_duplicate: bool


@dataclass(frozen=True, slots=True)
class NotStored:
    """A stream has not taken a message, and says why: an HTTP status, its own number, and in words."""

    code: int
    error: int
    description: str


def read_answer(message: Message) -> Stored | NotStored | None:
    """Return what JetStream says to a publication; None where this is nobody's who keeps anything.

    >>> read_answer(Message(b"r", b'{"stream":"S","seq":7,"duplicate":true}'))
    Stored(stream='S', sequence=7, is_duplicate=True)
    """
    if message.status:
        return NotStored(message.status, 0, "")
    try:
        answer = msgspec.json.decode(message.payload, type=_PubAck)
    except _NO_JSON:
        return None
    if answer.error is not None:
        trouble = answer.error
        return NotStored(trouble.code, trouble.err_code, trouble.description)
    if not answer.stream or answer.seq <= 0:
        return None
    return Stored(answer.stream, answer.seq, answer.duplicate)
