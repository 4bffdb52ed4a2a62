"""HTTP/1.1 as an uplink speaks it: one POST at a time over one kept connection. Must not know OTLP, or retry.

Over a `Line`; a proxy in between is asked for a tunnel where there is TLS, and given the absolute form where not.
Written here because a client library costs five megabytes of memory that a small board has better uses for, and all
that is needed of RFC 9112 is this: a request with a Content-Length, and an answer that is bounded in every direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.net.line import BESIDE_BYTES_MAX, NEVER, BrokenError, Line, StalledError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.net.deadline import Deadline

_DIGITS_MAX: Final = 15
_NO_BODY: Final = frozenset((204, 304))


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: status, headers by lower-case name (the first of a name counts), and the first part of the body."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True, kw_only=True)
class HttpConnection(Line):
    """A line to a server of HTTP/1.1."""

    def post(
        self,
        path: str,
        *,
        headers: Mapping[str, str],
        size_bytes: int,
        pieces: Iterable[bytes],
        answer_bytes_max: int,
        until: Deadline = NEVER,
    ) -> Response:
        """Send one request and return its answer; raise HttpError, and OSError only where `pieces` raises it.

        All of it is over `until` then, however much moves.
        """
        if self._socket is not None and self._was_dropped():
            self.close()
        is_plain_proxied = self.proxy is not None and self.context is None
        target = f"http://{self.to}{path}" if is_plain_proxied else path
        lines = [f"POST {target} HTTP/1.1", f"Host: {self._host()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {size_bytes}", "", ""]
        # Who is asked for a way is heard within the same.
        self._left_bytes = answer_bytes_max + BESIDE_BYTES_MAX
        try:
            if self._socket is None:
                self._connect(until.within(self.connect_timeout_s or self.timeout_s))
            self._set_wait(self.timeout_s)
            self._until = until
            # The head leaves together with the first piece: in one packet where that is all there is.
            head = "\r\n".join(lines).encode("latin-1")
            is_sent = True
            for piece in pieces:
                is_sent = self._send(head + piece)
                head = b""
                if not is_sent:
                    break
            if head:
                is_sent = self._send(head)
            self._until, self._is_first = until.within(self.timeout_s), True
            return self._receive(answer_bytes_max, is_sent=is_sent)
        except BaseException:
            self._cut()
            raise

    # Receiving.

    def _receive(self, bytes_max: int, *, is_sent: bool) -> Response:
        try:
            status, version, headers = self._read_head()
        except StalledError:
            raise
        except BrokenError as error:
            if not is_sent:
                raise BrokenError("the other side takes no more and says nothing") from error
            raise
        if not is_sent and 200 <= status < 300:
            # Whoever says so has not read what it is about.
            raise BrokenError(f"status {status} before the whole request was sent")
        try:
            body, is_at_end = self._read_body(status, headers, bytes_max)
        except BrokenError:
            # An error's status says all that is needed. Who took something finishes the sentence.
            if 200 <= status < 300:
                raise
            body, is_at_end = b"", False
        said = headers.get("connection", "").lower()
        is_kept = "keep-alive" in said if version == "HTTP/1.0" else "close" not in said
        if not (is_sent and is_at_end and is_kept):
            self.close()
        return Response(status, headers, body)

    def _read_body(self, status: int, headers: dict[str, str], bytes_max: int) -> tuple[bytes, bool]:
        """Return at most `bytes_max` of the body, and whether the next answer would begin behind it."""
        if status in _NO_BODY:
            return b"", True
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise BrokenError("the answer's coding is not known")
            return self._read_chunks(bytes_max)
        length = headers.get("content-length")
        if length is None:
            return self._read_to_end(bytes_max), False
        if not (length.isascii() and length.isdigit() and len(length) <= _DIGITS_MAX):
            raise BrokenError("the answer's length is no number")
        return self._read(min(int(length), bytes_max)), int(length) <= bytes_max

    def _read_to_end(self, bytes_max: int) -> bytes:
        while len(self._unread) < bytes_max and self._fill():
            pass
        return self._unread[:bytes_max]

    def _read_chunks(self, bytes_max: int) -> tuple[bytes, bool]:
        body = b""
        while len(body) <= bytes_max:
            digits = self._read_line().partition(";")[0].strip()
            try:
                size = int(digits, 16) if 0 < len(digits) <= _DIGITS_MAX else -1
            except ValueError:
                size = -1
            if size < 0:
                raise BrokenError("the answer's chunks are broken")
            if not size:
                self._read_headers()
                return body, True
            body += self._read(min(size, bytes_max + 1 - len(body)))
            if len(body) <= bytes_max and self._read_line():
                raise BrokenError("the answer's chunks are broken")
        return body[:bytes_max], False

    def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            if not self._fill():
                raise BrokenError("the answer broke off")
        data, self._unread = self._unread[:size], self._unread[size:]
        return data
