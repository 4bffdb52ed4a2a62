"""OTLP over gRPC at the receiver's door: calls become requests as they come over HTTP, and answers become statuses.

Must not keep, open or judge anything: that is the receiver's (`otlp.py`), whichever way a request has come. A message
is known to be too long by its first bytes, and who may not send is told so before any of it is read.

| what the receiver says                    | as gRPC says it                                       |
| ----------------------------------------- | ----------------------------------------------------- |
| kept, or kept in part                     | OK, with `partial_success` where a part is not kept   |
| 429: full, or who guesses                 | RESOURCE_EXHAUSTED with RetryInfo                     |
| 413: too large                            | RESOURCE_EXHAUSTED without: not as it is, ever        |
| 503: too much is on its way               | UNAVAILABLE with RetryInfo                            |
| 400: cannot be read                       | INVALID_ARGUMENT                                      |
| 404, 415: another method, an encoding     | UNIMPLEMENTED                                         |
| 401; 421                                  | UNAUTHENTICATED; PERMISSION_DENIED                    |
| 408: it did not come in time              | DEADLINE_EXCEEDED                                     |
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from gateway.codecs.content_encoding import ENCODINGS
from gateway.codecs.grpc import CONTENT_TYPE, METHODS, Code, Unframer, is_grpc, prefix, write_status
from gateway.codecs.otlp_replies import PROTOBUF
from gateway.core.text import sentence
from gateway.net.http2_server import Reply
from gateway.net.http_requests import RequestError

if TYPE_CHECKING:
    from gateway.core.contracts import Signal
    from gateway.net.http2_requests import StreamBody
    from gateway.net.http_requests import Request
    from gateway.net.http_server import Answer

SIGNALS: Final[dict[str, Signal]] = {method: signal for signal, method in METHODS.items()}
_HEADERS: Final = (("content-type", CONTENT_TYPE),)
_ACCEPTS: Final = ("grpc-accept-encoding", ",".join(("identity", *ENCODINGS)))
_CODES: Final = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    404: Code.UNIMPLEMENTED,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.UNIMPLEMENTED,
    421: Code.PERMISSION_DENIED,
    429: Code.RESOURCE_EXHAUSTED,
    431: Code.INVALID_ARGUMENT,
    503: Code.UNAVAILABLE,
}
# What clients of gRPC look for, to know that less at once would do.
_TOO_LARGE: Final = "received message larger than max: "
BAD_TYPE: Final = "bad_type"
TYPE_STATUS: Final = 415


class Receiver(Protocol):
    """The receiver behind the door, as it is asked over HTTP."""

    async def admit(self, request: Request) -> Answer | None:
        """Look at a request before its body is read."""
        ...

    async def answer(self, request: Request, body: Message) -> Answer:
        """Take a request; return when it is on disk, or why it is not."""
        ...

    def count_refusal(self, request: Request | None, error: RequestError) -> None:
        """Take note that a request is refused."""
        ...

    def turned_away(self, reason: str, why: str) -> None:
        """Count a connection that ended without an answer."""
        ...

    def connections_changed(self, count: int) -> None:
        """Show how many connections there are."""
        ...


class Message:
    """The message of a call as it comes, without its prefix: `begin` reads that."""

    def __init__(self, body: StreamBody, *, bytes_max: int) -> None:
        self._body = body
        self._bytes_max = bytes_max
        self._unframer = Unframer(bytes_max=bytes_max)
        self._first = b""

    @property
    def is_compressed(self) -> bool:
        """Whether it says so."""
        return self._unframer.is_compressed

    def give_up(self) -> None:
        """Do not wait for it any longer: `read` raises RequestError."""
        self._body.give_up()

    async def begin(self) -> None:
        """Read what stands before it; raise RequestError where there is none, or where it is too long."""
        while self._unframer.size_bytes is None:
            if not (piece := await self._body.read()):
                raise RequestError(400, "malformed", "there is no message in this call")
            self._first = self._feed(piece)

    async def read(self) -> bytes:
        """Return what has come of it, b"" at its end; raise RequestError."""
        data, self._first = self._first, b""
        while not data and (piece := await self._body.read()):
            data = self._feed(piece)
        if not data and not self._unframer.is_whole:
            raise RequestError(400, "malformed", "the message ends in the middle")
        return data

    def _feed(self, piece: bytes) -> bytes:
        try:
            return self._unframer.feed(piece)
        except OverflowError as error:
            what = f"a request of more than {self._bytes_max} bytes; send smaller ones"
            raise RequestError(413, "too_large", what) from error
        except ValueError as error:
            raise RequestError(400, "malformed", str(error)) from error


class GrpcDoor:
    """What the server of HTTP/2 asks, and what it hears."""

    def __init__(self, receiver: Receiver, *, paths: dict[Signal, str], bytes_max: int) -> None:
        self._receiver = receiver
        self._paths = paths
        self._bytes_max = bytes_max

    async def admit(self, request: Request, /) -> Reply | None:
        """Look at a call before its message is read."""
        answer = await self._receiver.admit(self._as_http(request, is_compressed=True))
        return None if answer is None else _reply(answer)

    async def answer(self, request: Request, body: StreamBody, /) -> Reply:
        """Take a call; return when it is on disk, or why it is not."""
        message = Message(body, bytes_max=self._bytes_max)
        await message.begin()
        if message.is_compressed and not request.headers.get("grpc-encoding"):
            raise RequestError(400, "malformed", "a compressed message, and no word of how")
        return _reply(await self._receiver.answer(self._as_http(request, is_compressed=message.is_compressed), message))

    def refuse(self, request: Request | None, problem: RequestError, /) -> Reply:
        """Say no in the way that the client understands."""
        self._receiver.count_refusal(request, problem)
        if problem.reason == BAD_TYPE:
            return Reply(TYPE_STATUS)
        code = _CODES.get(problem.status, Code.INTERNAL)
        said = sentence(str(problem))
        text = f"{_TOO_LARGE}{said}" if problem.status == 413 else said
        trailers = write_status(code, text, problem.after_s or None)
        if problem.reason == "bad_encoding":
            trailers.append(_ACCEPTS)
        return Reply(200, _HEADERS, b"", tuple(trailers))

    def turned_away(self, reason: str, why: str) -> None:
        """Count a connection that ended without an answer."""
        self._receiver.turned_away(reason, why)

    def connections_changed(self, count: int) -> None:
        """Show how many connections there are."""
        self._receiver.connections_changed(count)

    def _as_http(self, request: Request, *, is_compressed: bool) -> Request:
        """Return a call as the request that it would be over HTTP; what is not OTLP stays as it is."""
        headers = dict(request.headers)
        signal = SIGNALS.get(request.path)
        headers.pop("content-encoding", None)
        headers.pop("content-length", None)
        if is_grpc(headers.get("content-type", "")):
            headers["content-type"] = PROTOBUF
        else:
            headers["content-type"] = ""
        if is_compressed and (encoding := headers.get("grpc-encoding")):
            headers["content-encoding"] = encoding
        return replace(request, path=request.path if signal is None else self._paths[signal], headers=headers)


def _reply(answer: Answer) -> Reply:
    message = prefix(len(answer.body), is_compressed=False) + answer.body
    return Reply(200, _HEADERS, message, tuple(write_status(Code.OK)))
