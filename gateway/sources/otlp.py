"""The OTLP receiver: programs here and nearby send their metrics, logs and traces. Must not change what they send.

OTLP over HTTP, protobuf and JSON (https://opentelemetry.io/docs/specs/otlp/#otlphttp), and over gRPC (`otlp_grpc`). A
200, or OK, leaves when what was sent is on disk; what cannot be kept is answered so that a client knows whether to send
it again. Here requests are read, opened and handed on. Beside it: `otlp_settings`, who may send (`otlp_auth`), what is
counted (`otlp_counts`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.content_encoding import ENCODINGS, PIECE_BYTES, Opener
from gateway.codecs.grpc import PREFIX_BYTES
from gateway.codecs.otlp_intake import Taken, TooManyError, open_request
from gateway.codecs.otlp_replies import JSON, PROTOBUF, failure, success
from gateway.core.batch import ResourceRecords
from gateway.core.contracts import OVERSIZE, FullError, Messages, Signal
from gateway.core.text import sentence
from gateway.core.turns import Turn
from gateway.core.words import plural
from gateway.net.addresses import names_this_machine
from gateway.net.connections import HttpLimits
from gateway.net.http_requests import RequestError
from gateway.net.http_server import Answer, HttpServer
from gateway.sources.mqtt_server_auth import Attempts
from gateway.sources.otlp_auth import Doorkeeper, claimed_name
from gateway.sources.otlp_counts import Counts
from gateway.sources.otlp_settings import STORE_PART, tls_context
from gateway.sources.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.clock import Clock
    from gateway.core.contracts import AcceptMessages
    from gateway.core.telemetry import Telemetry
    from gateway.net.connections import ConnectionServer
    from gateway.net.http_requests import Body, Request
    from gateway.sources.otlp_grpc import Message
    from gateway.sources.otlp_settings import OtlpSettings

SIGNALS: Final = {"/v1/metrics": Signal.METRICS, "/v1/logs": Signal.LOGS, "/v1/traces": Signal.TRACES}
STOP_S_MAX: Final = 5.0
# Larger ones are opened in a thread, one at a time: for as long the event loop has others to serve. A byte may take a
# microsecond and more (fields of two bytes, groups), and compressed it costs its sender nothing.
HERE_BYTES_MAX: Final = 16 * 1024
JSON_HERE_BYTES_MAX: Final = 8 * 1024
# Every object, list and value in a JSON body takes about a hundred bytes, and again as much as a message.
JSON_ITEMS_MAX: Final = 200_000
BUSY_S: Final = 1.0
GUESSING_S: Final = 5.0
# There is nothing wrong with these, and they may come again.
PUSHED_BACK: Final = frozenset({"full", "busy"})
OVERSIZE_SENTENCE: Final = "larger than the 1 MiB that is kept as one, or with more than 64 KiB of resource or scope"


class OtlpSource:
    """The receiver. `run` listens until it is cancelled; `address` says where, once `listening` is set.

    `store_bytes_max` is how much the store holds at most. A request that would need most of it can be told for ever
    that there is no room just now: it is too large instead, so that its sender makes smaller ones.
    """

    def __init__(
        self,
        settings: OtlpSettings,
        *,
        accept: AcceptMessages,
        clock: Clock,
        telemetry: Telemetry,
        store_bytes_max: int | None = None,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._request_bytes_max = int(settings.request_bytes_max)
        if store_bytes_max is not None:
            self._request_bytes_max = min(self._request_bytes_max, store_bytes_max // STORE_PART)
        self._accept = accept
        self._clock = clock
        self._doorkeeper = Doorkeeper(settings)
        self._attempts = Attempts()
        self._refusals = Refusals(
            settings.name,
            telemetry=telemetry,
            now_s=lambda: asyncio.get_running_loop().time(),
            log=logging.getLogger("tidegate.otlp"),
        )
        self._counts = Counts(
            settings.name,
            telemetry=telemetry,
            bytes_max=int(settings.in_flight_bytes_total),
            now_s=lambda: asyncio.get_running_loop().time(),
        )
        self._opening, self._opening_here = asyncio.Lock(), asyncio.Lock()
        self._state = "stopped"
        self._last_error = ""
        limits = HttpLimits(
            connections_max=settings.connections_max,
            body_bytes_max=self._request_bytes_max,
            request_s=float(settings.timeout),
            idle_s=float(settings.keep_alive),
        )
        self._server = HttpServer(
            self,
            address=settings.http,
            limits=limits,
            tls=None if settings.tls is None else tls_context(settings),
            name=settings.name,
        )
        self._servers: list[ConnectionServer] = [self._server]
        if settings.grpc:
            self._servers.append(self._over_grpc(limits))

    def _over_grpc(self, limits: HttpLimits) -> ConnectionServer:
        from gateway.net.http2_server import WINDOW_BYTES, Http2Server  # noqa: PLC0415  only where it is used
        from gateway.sources.otlp_grpc import GrpcDoor  # noqa: PLC0415  the same

        settings, paths = self._settings, {signal: path for path, signal in SIGNALS.items()}
        return Http2Server(
            GrpcDoor(self, paths=paths, bytes_max=limits.body_bytes_max),
            address=settings.grpc,
            # A message that is too long says so in its first bytes, which come with some of the rest.
            limits=limits._replace(body_bytes_max=limits.body_bytes_max + PREFIX_BYTES + WINDOW_BYTES),
            tls=None if settings.tls is None else tls_context(settings),
            name=f"{settings.name} (gRPC)",
        )

    @property
    def listening(self) -> asyncio.Event:
        """Whether it does."""
        return self._server.listening

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._server.address

    @property
    def grpc_address(self) -> tuple[str, int]:
        """Where it listens for gRPC, if it does."""
        return self._servers[-1].address

    async def _serve(self) -> None:
        """Serve on all ports until cancelled, or until one of them cannot be had."""
        tasks = [asyncio.create_task(server.serve(stop_s=STOP_S_MAX), name=self.name) for server in self._servers]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def run(self) -> None:
        """Serve until cancelled; then answer what is under way, within STOP_S_MAX, and close."""
        self._state, self._last_error = "listening", ""
        try:
            await self._serve()
        except OSError as error:
            self._state, self._last_error = "failed", str(error.strerror)
            raise
        except asyncio.CancelledError:
            self._state = "stopped"
            raise

    def status(self) -> dict[str, object]:
        """Return what people want to know of it."""
        host, port = self._server.address
        grpc_host, grpc_port = self.grpc_address
        at_grpc = f"{grpc_host}:{grpc_port}" if grpc_port else self._settings.grpc
        state = "full" if self._counts.is_full and self._state == "listening" else self._state
        return {
            "state": state,
            "address": f"{host}:{port}" if port else self._settings.http,
            **({"grpc_address": at_grpc} if self._settings.grpc else {}),
            "tls": self._settings.tls is not None,
            "connections": sum(server.connections for server in self._servers),
            **self._counts.status(),
            **self._refusals.status(),
            "last_error": self._last_error or self._counts.last_pushed_back or self._refusals.last_sentence,
        }

    # What the server asks.

    async def admit(self, request: Request) -> Answer | None:
        """Look at a request before its body is read."""
        await self._check_who(request)
        if request.path not in SIGNALS:
            raise RequestError(404, "not_found", f"there is nothing at {request.path}; OTLP has {', '.join(SIGNALS)}")
        if request.method != "POST":
            raise RequestError(405, "bad_method", "requests of OTLP are sent by POST")
        if _kind_of(request) not in {PROTOBUF, JSON}:
            raise RequestError(415, "bad_type", f"the Content-Type of a request is {PROTOBUF} or {JSON}")
        if _encoding_of(request) not in {"", *ENCODINGS}:
            raise RequestError(415, "bad_encoding", f"of Content-Encodings {' and '.join(ENCODINGS)} are known here")
        if (request.length or 0) > self._bytes_max(request):
            raise self._too_large(request)
        return None

    async def answer(self, request: Request, body: Body | Message) -> Answer:
        """Take a request; return when it is on disk, or why it is not."""
        arrived_ns = self._clock.monotonic_ns()
        signal, kind = SIGNALS[request.path], _kind_of(request)
        self._counts.came(signal)
        with self._counts.hold(body.give_up) as held:
            data = bytearray()
            opener = Opener(_encoding_of(request))
            try:
                while piece := await body.read():
                    for part in opener.feed(piece):
                        if len(data) + len(part) > self._bytes_max(request):
                            raise self._too_large(request)
                        held.grow(len(data) + len(part))
                        data += part
                        if len(part) >= PIECE_BYTES:
                            # A few bytes may stand for all that is taken: others have their turn between two pieces.
                            await asyncio.sleep(0)
                opener.close()
            except ValueError as error:
                raise RequestError(400, "malformed", str(error)) from error
            held.has_come()
            whole = bytes(data)
            del data
            taken = await self._open(whole, signal, kind)
            del whole
            await self._keep(taken, signal, arrived_ns)
        message = f"{plural(taken.oversize, 'record')} {OVERSIZE_SENTENCE}" if taken.oversize else ""
        if taken.oversize:
            self._refusals.note("oversize", f"{request.peer}: {message}")
        return Answer(200, kind, success(signal, kind, rejected=taken.oversize, message=message))

    def refuse(self, request: Request | None, error: RequestError) -> Answer:
        """Say no in the way that the client understands."""
        self.count_refusal(request, error)
        headers: list[tuple[str, str]] = []
        if error.after_s:
            headers.append(("Retry-After", str(max(1, math.ceil(error.after_s)))))
        if error.status == 401:
            headers.append(("WWW-Authenticate", self._doorkeeper.challenge or "Bearer"))
        if error.status == 405:
            headers.append(("Allow", "POST"))
        kind = JSON if request is not None and _kind_of(request) == JSON else PROTOBUF
        return Answer(error.status, kind, failure(error.status, kind, sentence(str(error))), tuple(headers))

    def count_refusal(self, request: Request | None, error: RequestError) -> None:
        """Take note that a request is refused."""
        peer = "" if request is None else f"{request.peer}: "
        if error.reason in PUSHED_BACK:
            self._counts.pushed_back(str(error))
        else:
            self._refusals.note(error.reason, f"{peer}{error}")

    def turned_away(self, reason: str, why: str) -> None:
        """Count a connection that ended without an answer."""
        self._refusals.note(reason, why)

    def connections_changed(self, _: int) -> None:
        """Show how many connections there are, to all ports."""
        self._counts.connected(sum(server.connections for server in self._servers))

    # What it does.

    async def _check_who(self, request: Request) -> None:
        """Raise RequestError for who may not send, after a while for who guesses."""
        if self._doorkeeper.lets_anyone_in and not names_this_machine(request.headers.get("host", "")):
            # A page in a browser on this machine may have made its own name point here.
            raise RequestError(421, "bad_host", "without a token only who asks by address is answered")
        loop, name = asyncio.get_running_loop(), claimed_name(request)
        if self._attempts.is_held(request.peer, name, now_s=loop.time()):
            raise RequestError(429, "too_many_guesses", "too many wrong tokens or passwords", after_s=GUESSING_S)
        if self._doorkeeper.knows(request):
            return
        wait_s = self._attempts.failed(request.peer, name, now_s=loop.time())
        if wait_s:
            # Its place in the queue is taken for so long even if nobody waits for the answer any more: who takes a
            # guess back must not guess faster.
            loop.call_later(wait_s, self._attempts.answered, request.peer, name)
            await asyncio.sleep(wait_s)
        raise RequestError(401, "not_authorized", "a token, a name and password or a certificate is needed")

    async def _open(self, body: bytes, signal: Signal, kind: str) -> Taken:
        """Return what can be kept of a body; raise RequestError."""
        try:
            if kind == JSON:
                return await self._run(_open_json, body, signal, here_bytes_max=JSON_HERE_BYTES_MAX)
            return await self._run(open_request, body, signal, here_bytes_max=HERE_BYTES_MAX)
        except TooManyError as error:
            raise RequestError(413, "too_large", f"{error}; send smaller requests") from error
        except ValueError as error:
            what = f"this is no request of {signal.name.lower()} in {'JSON' if kind == JSON else 'protobuf'}: {error}"
            raise RequestError(400, "malformed", what) from error

    async def _run(
        self, work: Callable[[bytes, Signal], Taken], body: bytes, signal: Signal, *, here_bytes_max: int
    ) -> Taken:
        if len(body) > here_bytes_max:
            async with self._opening:
                return await asyncio.to_thread(work, body, signal)
        async with self._opening_here, Turn():
            return work(body, signal)

    async def _keep(self, taken: Taken, signal: Signal, arrived_ns: int) -> None:
        """Return when all is on disk; raise RequestError where there is no room."""
        if not taken.bodies and not taken.oversize:
            return
        counts = np.array(taken.counts, np.int64)
        records = ResourceRecords(signal, counts, np.zeros(len(counts), np.int64), tuple(taken.bodies))
        dropped = {OVERSIZE: taken.oversize} if taken.oversize else {}
        try:
            await self._accept(Messages(self.name, records, self._settings.priority, arrived_ns, dropped))
        except FullError as error:
            raise RequestError(429, "full", str(error), after_s=max(error.after_s, BUSY_S)) from error
        self._counts.kept(signal, len(records))

    def _bytes_max(self, request: Request) -> int:
        is_json = _kind_of(request) == JSON
        return min(int(self._settings.json_bytes_max), self._request_bytes_max) if is_json else self._request_bytes_max

    def _too_large(self, request: Request) -> RequestError:
        most = self._bytes_max(request)
        # Its bytes are still coming, and nobody wants them.
        return RequestError(413, "too_large", f"a request of more than {most} bytes; send smaller ones", is_end=True)


def _open_json(body: bytes, signal: Signal) -> Taken:
    from gateway.codecs.otlp_messages_json import from_json  # noqa: PLC0415  for who sends JSON

    if sum(map(body.count, (b"{", b"[", b","))) > JSON_ITEMS_MAX:
        raise TooManyError(f"more than {JSON_ITEMS_MAX} values in a JSON body")
    return open_request(from_json(body, signal), signal)


def _kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _encoding_of(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding
