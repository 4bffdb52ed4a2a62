"""What an HTTP/1.1 request is made of: its head, and its body as it comes. Must not answer anything.

RFC 9112, strictly: a head that two readers might understand differently is refused.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from gateway.core.timeouts import timeout_at

BODY_READ_BYTES: Final = 64 * 1024
HEADERS_MAX: Final = 64
# Of a chunk's size and its extensions, and of each line of what may follow the last chunk.
LINE_BYTES_MAX: Final = 1024
TRAILERS_MAX: Final = 16
# When a client that had to make room may come again.
GIVEN_UP_S: Final = 1.0
_DIGITS_MAX: Final = 15
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?\r?\n")
# Of which there may be one: a second that says something else would be another request to another reader.
_SINGLE: Final = frozenset({"host", "content-length", "transfer-encoding", "content-type", "content-encoding"})


class RequestError(Exception):
    """A request cannot be had: an HTTP status, a countable reason, and a sentence.

    Behind one that `is_end` nobody knows where the next request begins.
    """

    def __init__(self, status: int, reason: str, sentence: str, *, after_s: float = 0.0, is_end: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.after_s = after_s
        self.is_end = is_end


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head. Names of headers are lower case; `path` is without what follows a question mark."""

    method: str
    path: str
    headers: dict[str, str]
    peer: str
    is_newest: bool = True
    """Whether it is HTTP/1.1, and not 1.0."""
    has_certificate: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether another request may follow on the connection."""
        said = {word.strip().lower() for word in self.headers.get("connection", "").split(",")}
        return self.is_newest and "close" not in said

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body."""
        return self.is_newest and self.headers.get("expect", "").lower() == "100-continue"

    @property
    def length(self) -> int | None:
        """How many bytes the body has; None where that shows at its end."""
        return None if "transfer-encoding" in self.headers else int(self.headers.get("content-length", "0"))


def read_head(head: bytes, *, peer: str, has_certificate: bool = False) -> Request:
    """Return a request's head, which ends with an empty line; raise RequestError."""
    try:
        first, *lines = head.decode("ascii").split("\r\n")[:-2]
    except UnicodeDecodeError:
        raise _bad("a request's head is ASCII") from None
    words = first.split(" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not first.isprintable():
        raise _bad("not an HTTP/1 request")
    method, target, version = words
    if not target.startswith("/") or version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise _bad("not an HTTP/1 request")
    if len(lines) > HEADERS_MAX:
        raise RequestError(431, "head_too_large", f"more than {HEADERS_MAX} headers", is_end=True)
    request = Request(
        method, target.partition("?")[0], _read_fields(lines), peer, version == "HTTP/1.1", has_certificate
    )
    _check_framing(request)
    return request


def _read_fields(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name) or not (value.isprintable() or "\t" in value):
            raise _bad("not a header")
        name = name.lower()
        if name in headers:
            if name in _SINGLE:
                raise _bad(f"more than one header {name}")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _check_framing(request: Request) -> None:
    headers = request.headers
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and (not length.isascii() or not length.isdigit() or len(length) > _DIGITS_MAX):
        raise _bad("a Content-Length is a number")
    if coding is not None and (length is not None or not request.is_newest):
        raise _bad("a body has a Content-Length or comes in chunks")
    if coding is not None and coding.lower() != "chunked":
        raise RequestError(501, "bad_request", "of transfer codings only chunked is known here", is_end=True)
    if request.is_newest and "host" not in headers:
        raise _bad("a request names its Host")


def _bad(sentence: str) -> RequestError:
    return RequestError(400, "bad_request", sentence, is_end=True)


class Body:
    """The body of one request, read as it comes. `begin` with the head.

    `is_lost` says that nobody knows any more where it ends, and the next request begins.
    """

    def __init__(self, reader: asyncio.StreamReader, *, bytes_max: int, within_s: float) -> None:
        self.has_begun = False
        self.is_lost = False
        self._reader = reader
        self._bytes_max = bytes_max
        self._within_s = within_s
        self._until_s = float("inf")
        self._waiting: asyncio.Timeout | None = None
        self._has_given_up = False
        self._left: int | None = 0  # of the body, or of a chunk; None before a chunk's size
        self._is_chunked = False
        self._is_over = True
        self._size_bytes = 0

    def begin(self, request: Request) -> None:
        """Take note of how the body ends; raise RequestError where it says that it is too large."""
        length = request.length
        self._is_chunked = length is None
        self._left = length
        self._is_over = length == 0
        if length is not None and length > self._bytes_max:
            raise self._too_large()

    def begin_time(self) -> None:
        """From now on it may take so long to come."""
        self._until_s = asyncio.get_running_loop().time() + self._within_s

    def give_up(self) -> None:
        """Do not wait for it any longer: `read` raises RequestError."""
        self._has_given_up = True
        self._until_s = asyncio.get_running_loop().time()
        if self._waiting is not None:
            self._waiting.reschedule(self._until_s)

    async def read(self) -> bytes:
        """Return what has come of it, b"" at its end; raise RequestError."""
        if self._is_over:
            return b""
        self.has_begun = True
        try:
            async with timeout_at(self._until_s) as self._waiting:
                data = await (self._read_chunked() if self._is_chunked else self._read_some())
        except TimeoutError:
            self.is_lost = True
            if self._has_given_up:
                why = "it came too slowly, and made room for others"
                raise RequestError(503, "made_room", why, after_s=GIVEN_UP_S, is_end=True) from None
            why = f"not all of it came in {self._within_s:g} s"
            raise RequestError(408, "too_slow", why, is_end=True) from None
        except asyncio.IncompleteReadError:
            self.is_lost = True
            raise
        except (asyncio.LimitOverrunError, ValueError) as error:
            self.is_lost = True
            raise _bad(f"a chunk that is none: {error}") from error
        finally:
            self._waiting = None
        self._size_bytes += len(data)
        if self._size_bytes > self._bytes_max:
            raise self._too_large()
        if not self._is_chunked and not self._left:
            self._is_over = True
        return data

    async def _read_some(self) -> bytes:
        assert self._left
        data = await self._reader.read(min(self._left, BODY_READ_BYTES))
        if not data:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(data)
        return data

    async def _read_chunked(self) -> bytes:
        # What has come already is read without waiting: a buffer of chunks of a byte would be seconds for all others.
        await asyncio.sleep(0)
        if self._left is None:
            line = await self._reader.readuntil(b"\n")
            match = _CHUNK.fullmatch(line) if len(line) <= LINE_BYTES_MAX else None
            if match is None:
                raise ValueError("a chunk begins with its size")
            self._left = int(match[1], 16)
            if not self._left:
                await self._read_trailers()
                self._is_over = True
                return b""
        data = await self._read_some()
        if not self._left:
            if await self._reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk ends with its line")
            self._left = None
        return data

    async def _read_trailers(self) -> None:
        for _ in range(TRAILERS_MAX):
            line = await self._reader.readuntil(b"\n")
            if line in {b"\r\n", b"\n"}:
                return
            if len(line) > LINE_BYTES_MAX:
                break
        raise ValueError("too much behind the last chunk")

    def _too_large(self) -> RequestError:
        self.is_lost = True
        return RequestError(413, "too_large", f"a body of more than {self._bytes_max} bytes", is_end=True)
