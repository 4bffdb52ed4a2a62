"""What a request of HTTP/2 is made of: its head, and its body as it comes. Must not answer anything, or know frames.

The client may send more of a body only as it is read: `taken` is how the window opens again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.core.timeouts import timeout_at
from gateway.net.http_requests import GIVEN_UP_S, HEADERS_MAX, Request, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class StreamBody:
    """The body of one request, read as it comes. `taken` is told how many bytes of the window are free again."""

    def __init__(self, *, bytes_max: int, within_s: float, taken: Callable[[int], None]) -> None:
        self._bytes_max = bytes_max
        self._within_s = within_s
        self._taken = taken
        self._until_s = float("inf")
        # In one piece, since a client may cut it into bytes.
        self._data = bytearray()
        self._window_bytes = 0
        self._changed = asyncio.Event()
        self._is_over = False
        self._is_gone = False
        self._has_given_up = False
        self._is_wanted = True
        self._waiting: asyncio.Timeout | None = None
        self._size_bytes = 0

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return self._is_over

    def put(self, piece: bytes, window_bytes: int) -> None:
        """Take what has come."""
        if not self._is_wanted or not piece:
            self._taken(window_bytes)
            return
        self._data += piece
        self._window_bytes += window_bytes
        self._changed.set()

    def end(self) -> None:
        """Take note that this was all."""
        self._is_over = True
        self._changed.set()

    def lose(self) -> None:
        """Take note that no more comes: the client is gone, or has thought better of it."""
        self._is_gone = True
        self._changed.set()

    def leave(self) -> None:
        """Want no more of it."""
        self._is_wanted = False
        self._take()

    def _take(self) -> bytes:
        data, window_bytes = bytes(self._data), self._window_bytes
        self._data.clear()
        self._window_bytes = 0
        self._taken(window_bytes)
        return data

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
        """Return what has come of it, b"" at its end; raise RequestError, IncompleteReadError where no more comes."""
        try:
            async with timeout_at(self._until_s) as self._waiting:
                while not (self._data or self._is_over or self._is_gone):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if self._has_given_up:
                why = "it came too slowly, and made room for others"
                raise RequestError(503, "made_room", why, after_s=GIVEN_UP_S) from None
            raise RequestError(408, "too_slow", f"not all of it came in {self._within_s:g} s") from None
        finally:
            self._waiting = None
        if not self._data and not self._is_over:
            raise asyncio.IncompleteReadError(b"", None)
        piece = self._take()
        self._size_bytes += len(piece)
        if self._size_bytes > self._bytes_max:
            raise RequestError(413, "too_large", f"a body of more than {self._bytes_max} bytes")
        return piece


def request_of(headers: Sequence[tuple[bytes | str, bytes | str]], *, peer: str, has_certificate: bool) -> Request:
    """Return a request's head; raise RequestError."""
    if len(headers) > HEADERS_MAX:
        raise RequestError(431, "head_too_large", f"more than {HEADERS_MAX} headers")
    fields: dict[str, str] = {}
    for name, value in ((_text(name), _text(value)) for name, value in headers):
        if not value.isprintable():
            raise RequestError(400, "bad_request", f"a header {name[:40]!r} that cannot be printed")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    method, path = fields.pop(":method", ""), fields.pop(":path", "")
    fields.pop(":scheme", "")
    fields["host"] = fields.pop(":authority", "") or fields.get("host", "")
    return Request(method, path.partition("?")[0], fields, peer, has_certificate=has_certificate)


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else data.decode("latin-1")
