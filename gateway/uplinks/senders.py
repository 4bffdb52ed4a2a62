"""The sender of OTLP/HTTP: packed requests go out over one kept connection. Must not retry or choose what goes.

What is common to all senders stands in `wires.py`; what statuses mean in `guards.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.otlp_answers import NoResponseError, read_response, read_status_message
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Signal, TryLaterError
from gateway.core.text import printable
from gateway.net.http import HttpConnection, Response
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    Reply,
    check_reply,
    read_http_date,
    read_retry_after,
)
from gateway.uplinks.settings import HTTP_JSON, HTTP_PROTOBUF
from gateway.uplinks.wires import KeptWire

if TYPE_CHECKING:
    from gateway.core.clock import Clock
    from gateway.net.deadline import Deadline
    from gateway.uplinks.guards import Packed
    from gateway.uplinks.settings import OtlpUplinkSettings

PATHS: Final = {Signal.METRICS: "/v1/metrics", Signal.LOGS: "/v1/logs", Signal.TRACES: "/v1/traces"}
CONTENT_TYPES: Final = {HTTP_PROTOBUF: "application/x-protobuf", HTTP_JSON: "application/json"}
# A request line, and the headers that every request has.
HEAD_BYTES: Final = 200
BAD_REQUEST: Final = 400
RESPONSE_BYTES_MAX: Final = 64 * 1024
QUOTED_BYTES_MAX: Final = 80
UTF8_BYTES_MAX: Final = 4
_GZIP: Final = frozenset(("gzip", "x-gzip"))
_GZIP_WINDOW: Final = 31
_PAGE_TYPES: Final = ("text/html", "application/xhtml")
_PAGE_STARTS: Final = (b"<!doctype html", b"<html")
# What servers (nginx and Apache; Go's) answer in plain words to who does not begin with TLS.
_WANTS_TLS: Final = (b"plain http", b"to an https server")


class HttpSender(KeptWire[HttpConnection]):
    """One road's HTTP side. See `Wire` for the contract."""

    def __init__(self, settings: OtlpUplinkSettings, *, version: str, clock: Clock, endpoint: str = "") -> None:
        super().__init__(settings, version=version, clock=clock, endpoint=endpoint)
        # The status of what no receiver would say, and what was said of it.
        self._said_strange = (0, "")

    @property
    def head_bytes(self) -> int:
        """How long the head of a request is, about."""
        return HEAD_BYTES + len(self._path) + sum(len(name) + len(text) + 4 for name, text in self._headers.items())

    def _new(self, **options: Any) -> HttpConnection:
        return HttpConnection(**options)

    def _post(self, connection: HttpConnection, packed: Packed, started_ns: int, until: Deadline) -> Answer:
        headers = {**self._headers, "Content-Type": CONTENT_TYPES[self._settings.protocol]}
        if packed.encoding:
            headers["Content-Encoding"] = packed.encoding
        self.requests += 1
        response = _unpacked(
            connection.post(
                self._path + PATHS[packed.signal],
                headers=headers,
                size_bytes=len(packed.body),
                pieces=self._pieces(packed.body),
                answer_bytes_max=RESPONSE_BYTES_MAX,
                until=until,
            )
        )
        self._note_answer()
        # Whoever shows what it was sent does so before anything of it is cut off.
        hidden = self._hidden
        headers = hidden.out_of_headers(response.headers)
        response = Response(response.status, headers, hidden.out_of_bytes(response.body))
        reply = self._read(response)
        if reply.status == BAD_REQUEST and any(words in response.body.lower() for words in _WANTS_TLS):
            raise HoldError(f"status 400: {self._host()} speaks TLS at this port: the endpoint begins with https://")
        check_reply(reply)
        try:
            is_cut = len(response.body) >= RESPONSE_BYTES_MAX
            partial = read_response(response.body, content_type=reply.content_type, is_cut=is_cut)
        except NoResponseError:
            raise TryLaterError(self._strange(response), reply.retry_after_s, answer_lost=True) from None
        self._said_strange = (0, "")
        return self._answer(partial, started_ns=started_ns, date=response.headers.get("date", ""))

    def _strange(self, response: Response) -> str:
        """Say that this is no receiver's answer, and how it begins if that is text.

        In the same words until something is taken: an answer with the time in it would be news at each attempt.
        """
        status, sentence = self._said_strange
        if status != response.status:
            start = "" if _is_packed(response) else _beginning(response.body)
            what = f"an answer that no OTLP receiver gives{': ' if start else ''}{start}"
            sentence = f"status {response.status} with {what}; is the endpoint right?"
            self._said_strange = (response.status, sentence)
        return sentence

    def _read(self, response: Response) -> Reply:
        headers, body = response.headers, response.body
        content_type = printable(headers.get("content-type", "").lower(), 100)
        now_s = read_http_date(headers.get("date", ""))
        is_page = content_type.startswith(_PAGE_TYPES) or body.lstrip()[:20].lower().startswith(_PAGE_STARTS)
        return Reply(
            status=response.status,
            content_type=content_type,
            message="" if is_page or _is_packed(response) else read_status_message(body, content_type=content_type),
            # The server's own clock, where it says it, is the one that its date is meant by.
            retry_after_s=read_retry_after(
                headers.get("retry-after", ""),
                now_s=self._clock.wall_ns() / NS_PER_S if now_s is None else now_s,
            ),
            location=printable(headers.get("location", ""), 200),
            is_page=is_page,
        )


def _unpacked(response: Response) -> Response:
    """Return an answer that came as gzip as it was meant; nobody asked for one, and a proxy may make it all the same.

    What is broken, or packed otherwise, stays as it is.
    """
    if response.headers.get("content-encoding", "").strip().lower() not in _GZIP:
        return response
    import zlib  # noqa: PLC0415  only where a receiver wants it

    reader = zlib.decompressobj(_GZIP_WINDOW)
    try:
        body = reader.decompress(response.body, RESPONSE_BYTES_MAX)
    except zlib.error:
        return response
    is_whole = reader.eof or len(body) == RESPONSE_BYTES_MAX
    return Response(response.status, response.headers | {"content-encoding": ""}, body) if is_whole else response


def _is_packed(response: Response) -> bool:
    return response.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}


def _beginning(body: bytes) -> str:
    """Return how a text begins, printable; "" where it is none."""
    start = body[:QUOTED_BYTES_MAX]
    # What was cut may have been in the middle of a letter.
    text = start.decode("utf-8", "ignore" if len(body) > len(start) else "replace")
    is_text = len(text.encode()) > len(start) - UTF8_BYTES_MAX and all(c.isprintable() or c.isspace() for c in text)
    return printable(text.strip(), QUOTED_BYTES_MAX) if is_text and "\ufffd" not in text else ""
