"""The sender of OTLP/gRPC: packed requests go out as unary calls over one kept connection. Must not retry or choose.

HTTP/2 is spoken over a socket of our own (`net/http2.py`), and bodies are the bytes that were encoded and compressed
for HTTP as well. A budget is a bill: what a request costs has to be known before and after it, its pieces are paced,
and whether a call that broke may have been taken shows in what has left. gRPC's own library keeps its socket to itself,
compresses by itself, and takes nine megabytes for it.

What is common to all senders stands in `wires.py`; what statuses mean in `grpc_statuses.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.grpc import CONTENT_TYPE, METHODS, PREFIX_BYTES, Code, Unframer, is_grpc, prefix, read_status
from gateway.codecs.grpc import timeout_header as deadline_of
from gateway.codecs.otlp_answers import NoResponseError, PartialSuccess, read_response
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.net.http2 import ALPN, Http2Connection, NotHttp2Error, Response, StreamResetError, UnprocessedError
from gateway.uplinks.grpc_statuses import check_status
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    Reply,
    StatusRefusedError,
    TooLargeError,
    check_reply,
    read_retry_after,
)
from gateway.uplinks.wires import KeptWire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from gateway.net.deadline import Deadline
    from gateway.uplinks.guards import Packed

# Frames' heads, the pseudo-headers and what every call has; what is said again takes less, by HPACK.
HEAD_BYTES: Final = 300
RESPONSE_BYTES_MAX: Final = 64 * 1024
HTTP_OK: Final = 200


class GrpcSender(KeptWire[Http2Connection]):
    """One road's gRPC side. See `Wire` for the contract."""

    speaks = "gRPC"

    @property
    def head_bytes(self) -> int:
        """How long the head of a request is, about."""
        return HEAD_BYTES + sum(len(name) + len(text) + 4 for name, text in self._headers.items())

    def _new(self, **options: Any) -> Http2Connection:
        return Http2Connection(**options)

    def _build_context(self) -> ssl.SSLContext:
        context = super()._build_context()
        context.set_alpn_protocols([ALPN])
        return context

    def _post(self, connection: Http2Connection, packed: Packed, started_ns: int, until: Deadline) -> Answer:
        headers = [("te", "trailers"), ("content-type", CONTENT_TYPE), ("grpc-accept-encoding", "identity")]
        if packed.encoding:
            headers.append(("grpc-encoding", packed.encoding))
        if until.at_s != float("inf"):
            headers.append(("grpc-timeout", deadline_of(until.left_s())))
        headers += [(name.lower(), text) for name, text in self._headers.items()]
        self.requests += 1
        response = connection.call(
            METHODS[packed.signal],
            headers=headers,
            size_bytes=PREFIX_BYTES + len(packed.body),
            pieces=self._framed(packed),
            answer_bytes_max=RESPONSE_BYTES_MAX,
            until=until,
        )
        self._note_answer()
        hidden = self._hidden
        response = replace(
            response,
            headers=hidden.out_of_headers(response.headers),
            trailers=hidden.out_of_headers(response.trailers),
            body=hidden.out_of_bytes(response.body),
        )
        partial = self._judge(response, packed)
        return self._answer(partial, started_ns=started_ns, date=response.headers.get("date", ""))

    def _framed(self, packed: Packed) -> Iterator[bytes]:
        """Yield the message with its prefix; that leaves in the first packet."""
        start = prefix(len(packed.body), is_compressed=bool(packed.encoding))
        for piece in self._pieces(packed.body):
            yield start + piece
            start = b""
        if start:
            yield start

    def _judge(self, response: Response, packed: Packed) -> PartialSuccess:
        """Return what was not taken of what was; raise what to do where it was not taken."""
        headers, status = response.headers, read_status(response.trailers)
        if status is None:
            raise self._no_status(response)
        check_status(status, encoding=packed.encoding, accepts=headers.get("grpc-accept-encoding"))
        if self._written_ns is None:
            # Whoever says so has not read what it is about.
            raise TryLaterError(f"{Code.OK.name} before the whole request was sent")
        try:
            return _read_message(response)
        except (ValueError, OverflowError) as error:
            what = "OK with an answer that no OTLP receiver gives; is the endpoint right?"
            raise TryLaterError(what, answer_lost=True) from error

    def _no_status(self, response: Response) -> Exception:
        """Return what to do about an answer that is none of gRPC's: a proxy's, or of who speaks something else."""
        headers = response.headers
        content_type = printable(headers.get("content-type", "").lower(), 100)
        now_s = self._clock.wall_ns() / NS_PER_S
        retry_after_s = read_retry_after(headers.get("retry-after", ""), now_s=now_s)
        is_lost = self._written_ns is not None
        if is_grpc(content_type) and response.status == HTTP_OK:
            return InTransitError(f"{self._host()} ended the call without a status", answer_lost=is_lost)
        if response.status == HTTP_OK:
            what = "status 200 with an answer that no gRPC receiver gives: a captive portal or a wrong address answered"
            return TryLaterError(what, retry_after_s, answer_lost=is_lost)
        try:
            location = printable(headers.get("location", ""), 200)
            check_reply(
                Reply(response.status, content_type, retry_after_s=retry_after_s, location=location, is_page=True)
            )
        except (TryLaterError, StatusRefusedError, TooLargeError) as error:
            return error
        return TryLaterError(f"status {response.status} without one of gRPC", retry_after_s, answer_lost=is_lost)

    def _explain(self, error: Exception) -> TryLaterError:
        if isinstance(error, UnprocessedError) and not self._is_aborted:
            return TryLaterError(printable(str(error), 200))
        if isinstance(error, StreamResetError) and not self._is_aborted:
            return InTransitError(f"{self._host()}: {error}", answer_lost=self._written_ns is not None)
        if isinstance(error, NotHttp2Error):
            tls = "the endpoint begins with https://" if "TLS" in str(error) else ""
            advice = tls or "OTLP over gRPC has a port of its own, mostly 4317"
            return HoldError(f"{self._host()} speaks no gRPC here: {error}; {advice}")
        return super()._explain(error)


def _read_message(response: Response) -> PartialSuccess:
    """Return what an answer says; raise ValueError for what is no answer of OTLP, OverflowError for one without end."""
    if not response.body:
        return PartialSuccess()
    unframer = Unframer(bytes_max=1 << 30)
    message = unframer.feed(response.body)
    if unframer.is_compressed or not (unframer.is_whole or response.is_cut):
        raise NoResponseError("nobody has offered to read that")
    return read_response(message, is_cut=response.is_cut)
