"""What to do after each answer: fine, later, hold, split, refuse. Must not send or sleep.

| answer                                    | decision                                                      |
| ----------------------------------------- | ------------------------------------------------------------- |
| 2xx                                       | delivered                                                     |
| 2xx with what no OTLP receiver says       | try later: a captive portal answered, or half an answer came; |
|                                           | it may have been taken                                        |
| 429, 503                                  | try later, Retry-After first                                  |
| 408, 502, 504, no answer                  | the same, and less at once; it may have been taken            |
| 520 to 527, 530: a CDN without an origin  | the same; it may have been taken                              |
| 413                                       | split                                                         |
| 415                                       | another compression, then none, then hold                     |
| 3xx, 401, 403, 404, 405 … (`HOLD`)        | hold: try again each minute, and say so                       |
| other 4xx and 5xx                         | refused: set aside, counted, the next goes on (verdicts.py)   |

OTLP's specification (protocol/otlp, "Failures") calls everything but 429, 502, 503 and 504 not retryable,
for a client that has the choice between retrying and dropping. A gateway has a third one. A wrong token,
path or certificate says nothing about the data: refusing by it would set aside the whole backlog within
minutes, while whoever can mend it sleeps. So what points at the way and not at the data is held. 408 is a
slow line's answer.

429 and 503 are a receiver's own words before it takes anything. What stands in between says the others when it has
passed the request on and got no answer it could use: nobody knows what became of it, as when none came at all.
"""

from __future__ import annotations

import datetime as dt
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import RefusedError, TryLaterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.core.contracts import Signal
    from gateway.uplinks.nats_pieces import PiecesPart
    from gateway.uplinks.settings import RetrySettings

# 52x and 530 are Cloudflare's: it is there, and the receiver behind it is down, slow or not to be found.
TRY_LATER: Final = frozenset((408, 429, 502, 503, 504, *range(520, 528), 530))
NOT_TAKEN: Final = frozenset((429, 503))
HOLD: Final = {
    401: "the token or certificate was not accepted",
    402: "the account is out of quota",
    403: "this token may not write there",
    404: "there is no OTLP receiver at this path",
    405: "this address does not take POST",
    407: "the proxy wants to know who we are",
    410: "this address was given up",
    421: "this host does not answer for that name",
    426: "the receiver wants another protocol",
    451: "the receiver may not take this for legal reasons",
    501: "this address does not take POST",
    505: "the receiver does not speak HTTP/1.1",
    511: "a network login (captive portal) stands in between",
}
# What a receiver may mean by an encoding that it does not know; the second can mean nothing else than how it is said.
ENCODING_STATUSES: Final = frozenset((400, 415))
# How long to stay with a lesser compression before the better one is offered again: at first, and at most.
OFFER_AGAIN_S: Final = 3600.0
OFFER_AGAIN_S_MAX: Final = 86_400.0
MEDIA_TYPE_STATUS: Final = 415
TOO_LARGE_STATUS: Final = 413
# From here on it is the server's own, which may have come after it took the data.
SERVER_ERROR: Final = 500

HOLD_S: Final = 60.0
# What a wire tells of a request under way that waits.
WAITING: Final = ("waiting_for", "waiting_s", "waiting_s_max")
RETRY_AFTER_S_MAX: Final = 3600.0
_HTTP_DATE: Final = re.compile(r"[A-Za-z]{3,9}, (\d\d?)[ -]([A-Za-z]{3})[ -](\d{4}) (\d\d):(\d\d):(\d\d) (?:GMT|UTC)")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class HoldError(TryLaterError):
    """The way is wrong and not the data: keep all, try again slowly, and tell people `reason`."""

    def __init__(self, reason: str, after_s: float = HOLD_S) -> None:
        super().__init__(reason, after_s)


class InTransitError(TryLaterError):
    """The request or its answer broke on the way: smaller ones may get through where this one did not."""


class PassedOnError(TryLaterError):
    """What stands in between has passed it on and got no answer in time: one to a smaller request may come in time."""


class UnreachableError(TryLaterError):
    """No connection could be made: to try again costs some packets, and is how the end of an outage shows."""


class NotYetError(TryLaterError):
    """Nothing is wrong with the way: what keeps it waiting is on this side."""


class NoLinkError(NotYetError):
    """No link that the uplink may use is up."""


def wait_bound_s(error: TryLaterError, retry: RetrySettings) -> float:
    """Return how long to wait at most before the next attempt, where the far side did not ask for a time."""
    if error.at_once:
        return 0.0
    return float(retry.unreachable_max if isinstance(error, UnreachableError) else retry.max)


class Left(NamedTuple):
    """What of a request waits though others of it were taken: what is left of it, why, and for how long at least."""

    part: PiecesPart
    why: str
    wait_s: float


class UnheardError(TryLaterError):
    """Nobody takes any of this where it goes, which says nothing of the road: others may go."""

    def __init__(self, left: Left) -> None:
        super().__init__(left.why, put_off_s=left.wait_s)
        self.left = left


class TooLargeError(Exception):
    """The same data may be taken in smaller requests."""


class StatusRefusedError(RefusedError):
    """Refused by an HTTP status."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status
        self.at_once = False  # whether another receiver may be asked
        self.maybe = 0  # readings of it that are there perhaps all the same


@dataclass(frozen=True, slots=True)
class Request:
    """An Export*ServiceRequest, not yet compressed. Others wait behind one that is `in_haste`.

    One that `may_overdraw` goes though an allowance is spent.
    """

    signal: Signal
    body: bytes
    readings: int
    in_haste: bool = False
    may_overdraw: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """A request's body as it goes on the wire. `encoding` is its Content-Encoding, "" for none.

    One that `is_probe` carries nothing and is only there to be answered.
    """

    signal: Signal
    body: bytes
    encoding: str
    is_probe: bool = False
    may_overdraw: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A request was taken, except for `rejected` readings that must never be sent again.

    `on_settled` is called in the event loop when nothing is left of the lease that it belongs to, in the step in which
    the store hears the same: what a wire notes by it goes with what the next commit knows to be delivered.
    `maybe_twice` of them went twice on the way there, as connections broke. `round_trip_s` is the kernel's, 0 where it
    does not say; `link` is the link it went over, where the uplink names any. `left` of it was not taken and waits.
    """

    rejected: int = 0
    message: str = ""
    seconds: float = 0.0
    rtt_s: float = 0.0
    server_time_s: int | None = None
    on_settled: Callable[[], None] | None = None
    maybe_twice: int = 0
    round_trip_s: float = 0.0
    link: str = ""
    left: Left | None = None


class Wire(Protocol):
    """What carries packed requests: HTTP, or a list in a test. Called in the uplink's thread, except as said."""

    @property
    def requests(self) -> int:
        """Requests that were begun."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bodies and headers, as they left."""
        ...

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        ...

    def send(self, packed: Packed, /) -> Answer:
        """Return when taken; raise TryLaterError, HoldError, TooLargeError or RefusedError."""
        ...

    def is_overdue(self) -> bool:
        """Whether the answer should have been here by now; called from the event loop."""
        ...

    def abort(self) -> None:
        """End the request under way; called from the event loop."""
        ...

    def stop(self) -> None:
        """End the request under way and refuse further ones; called from the event loop."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...

    def told(self) -> dict[str, Any]:
        """Return where it leads and how that is, as `tidegate status` shows it; called from the event loop."""
        ...


class MeteredWire(Wire, Protocol):
    """A wire that knows what it costs."""

    before_piece: Callable[[int], None]
    """Called in the thread before so many bytes of a body are written; what it raises ends the request.

    With 0 it is called where some of an answer has come.
    """
    piece_bytes_max: int
    before_another: Callable[[], None]
    """Called in the thread before a request goes to one more receiver; what it raises ends the request."""

    @property
    def wire_bytes(self) -> int:
        """What went over the wire so far, in both directions, with all headers."""
        ...

    @property
    def head_bytes(self) -> int:
        """How long the head of a request is, about."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether the next request finds a connection, as far as is known."""
        ...

    @property
    def is_encrypted(self) -> bool:
        """Whether a new connection begins with TLS."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait in the thread, unless the request is ended meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What an HTTP server answered, as far as decisions need it; `message` is its own sentence or empty."""

    status: int
    content_type: str = ""
    message: str = ""
    retry_after_s: float = 0.0
    location: str = ""
    is_page: bool = False


def check_reply(reply: Reply) -> None:
    """Return where the request was taken, else raise the decision. The one place that knows statuses."""
    said = f": {reply.message}" if reply.message else ""
    if 200 <= reply.status < 300:
        if reply.is_page:
            raise TryLaterError(
                f"status {reply.status} with a web page: a captive portal or a wrong address answered",
                reply.retry_after_s,
                answer_lost=True,
            )
    elif reply.status < 400:
        to = f" to {reply.location}" if reply.location else ""
        raise HoldError(f"status {reply.status}: a redirect{to}, which is not followed; correct the endpoint")
    elif reply.status in TRY_LATER:
        # Else a wait of an hour looks like a gateway that has given up.
        asks = f": asks to wait {reply.retry_after_s:.0f} s" if reply.retry_after_s else ""
        sentence = f"status {reply.status}{asks}{said}"
        if reply.status in NOT_TAKEN:
            raise TryLaterError(sentence, reply.retry_after_s)
        raise PassedOnError(sentence, reply.retry_after_s, answer_lost=True)
    elif reply.status == TOO_LARGE_STATUS:
        raise TooLargeError(f"status 413{said}")
    elif reply.status in HOLD:
        raise HoldError(f"status {reply.status}, {HOLD[reply.status]}{said}")
    else:
        raise StatusRefusedError(f"status {reply.status}{said}", reply.status)


def told_of_wait(awaited: str, since_ns: int | None, *, now_ns: int, seconds_max: float) -> dict[str, Any]:
    """Return what a request under way waits for and for how long by now, as `tidegate status` shows it.

    >>> told_of_wait("an answer", 1_000_000_000, now_ns=8_000_000_000, seconds_max=10.0)
    {'waiting_for': 'an answer', 'waiting_s': 7.0, 'waiting_s_max': 10.0}
    """
    waiting_s = 0.0 if since_ns is None else round((now_ns - since_ns) / NS_PER_S, 1)
    return dict(zip(WAITING, ("" if since_ns is None else awaited, waiting_s, seconds_max), strict=True))


def read_retry_after(value: str, *, now_s: float) -> float:
    """Return the seconds of a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 for anything else.

    `now_s` is Unix time as the server sees it. The result is capped at an hour: a server that says "next
    week" is asked again before that.

    >>> read_retry_after("120", now_s=0), read_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now_s=50)
    (120.0, 10.0)
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Longer than any sane number; int() of megabytes of digits would not end.
        return min(float(value[:12]), RETRY_AFTER_S_MAX)
    date_s = read_http_date(value)
    return 0.0 if date_s is None else min(max(float(date_s - now_s), 0.0), RETRY_AFTER_S_MAX)


def read_http_date(value: str) -> int | None:
    """Return the Unix time of an HTTP date (RFC 9110, 5.6.7: the form that everybody sends), None for anything else.

    >>> read_http_date("Sun, 06 Nov 1994 08:49:37 GMT")
    784111777
    """
    found = _HTTP_DATE.fullmatch(value.strip())
    if found is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    try:
        # A leap second is the last of its minute.
        moment = dt.datetime(
            int(year), _MONTHS.index(month.lower()) + 1, int(day), int(hour), int(minute), min(int(second), 59),
            tzinfo=dt.UTC,
        )  # fmt: skip
    except ValueError:
        return None
    return int(moment.timestamp())


@dataclass(slots=True)
class Compressing:
    """A sender that holds a wire: compresses, and falls back from zstd to gzip where a receiver refuses it.

    While no zstd body was ever taken, any refusal makes it offer the same data as gzip, since receivers
    answer an unknown encoding with 400, 415 and sometimes 500; afterwards only 400 and 415 do. Who answers gzip
    with 415 is offered it plain. It stays with what is taken, and offers the better one again after an hour, then two,
    then less and less often: what refused it may have been a bad moment, or is replaced by now, and until the next
    restart may be a year of larger bills. A server's own error goes to another receiver once, where there is one that
    is well: what one of them fails at the other may take.

    A refusal that persists is about the data, but for 415, which never is: that is held. It may be about the encoding,
    since the receiver is new or was replaced: now and then two requests for nothing, packed and plain, tell. A chosen
    encoding that is not taken holds all, since no data goes in one that nobody chose.
    """

    wire: Wire
    compress: Callable[[Request, str], bytes]
    mode: str
    now_s: Callable[[], float]  # of a steady clock
    empty: Mapping[Signal, bytes] | None = None  # requests for nothing; None: they would say nothing
    failures: int = 0  # so often the last request met a server's own error before it was sent again
    size_bytes: int = 0  # of the last body, as it left
    first: str = "zstd"  # what "auto" begins with
    encoding: str = field(init=False)
    _proven: set[str] = field(default_factory=set)  # encodings in which something was taken
    _again_s: float = OFFER_AGAIN_S  # how long it stays with less than the best
    _again_at_s: float = 0.0
    _ask_at_s: float = float("-inf")  # not before then whether it knows an encoding

    def __post_init__(self) -> None:
        """Start with the better one."""
        self.encoding = self._best

    @property
    def _best(self) -> str:
        return {"auto": self.first, "none": ""}.get(self.mode, self.mode)

    def send(self, request: Request) -> Answer:
        """Send as `Wire.send` does."""
        encoding, self.failures = self._choose(), 0
        while True:
            try:
                answer = self._send_as(request, encoding)
            except StatusRefusedError as error:
                is_elsewhere = error.at_once and not self.failures
                following = encoding if is_elsewhere else self._instead_of(encoding, error.status)
                if following is None and error.status < SERVER_ERROR and self._is_unknown(encoding, request):
                    following = self._plain(encoding, error)
                if following is None and error.status == MEDIA_TYPE_STATUS:
                    raise HoldError(
                        f"{error}: not taken in any encoding; correct endpoint, protocol or compression"
                    ) from error
                if following is None:
                    raise
                self.failures += error.status >= SERVER_ERROR
                encoding = following
            else:
                self._settle(encoding)
                return answer

    def _choose(self) -> str:
        if self.encoding == self._best or self.now_s() < self._again_at_s:
            return self.encoding
        # Taken note of before it is tried: a request that fails for another reason is not the next one to try it.
        self._again_s = min(2 * self._again_s, OFFER_AGAIN_S_MAX)
        self._again_at_s = self.now_s() + self._again_s
        return self._best

    def _settle(self, encoding: str) -> None:
        """Stay with what was taken."""
        if encoding == self._best:
            self._again_s = OFFER_AGAIN_S
        elif self.encoding == self._best:
            self._again_at_s = self.now_s() + self._again_s
        self.encoding = encoding
        self._proven.add(encoding)

    def _is_unknown(self, encoding: str, request: Request) -> bool:
        """Whether a receiver takes nothing at all in `encoding` which it takes as it is."""
        if self.empty is None or not encoding or self.now_s() < self._ask_at_s:
            return False
        nothing = Request(request.signal, self.empty[request.signal], 0, may_overdraw=request.may_overdraw)
        try:
            self._send_as(nothing, encoding)
        except StatusRefusedError:
            with suppress(StatusRefusedError):
                self._send_as(nothing, "")
                return True
            # Who takes nothing at all is not asked with each request.
            self._ask_at_s = self.now_s() + HOLD_S
        else:
            # Tomorrow it may be another one.
            self._proven.add(encoding)
            self._ask_at_s = self.now_s() + OFFER_AGAIN_S
        return False

    def _plain(self, encoding: str, error: StatusRefusedError) -> str:
        """Return how to send to who does not know `encoding`; raise HoldError where only that was chosen."""
        if self.mode == "auto":
            return ""
        raise HoldError(
            f"{error}; a request for nothing is taken there as it is and not in {encoding}: set compression = "
            '"auto", which finds what it takes'
        ) from error

    def _instead_of(self, encoding: str, status: int) -> str | None:
        """Return in which encoding to try once more, None where `status` is not about that."""
        if self.mode == "auto" and encoding == "zstd":
            return "gzip" if status in ENCODING_STATUSES or encoding not in self._proven else None
        return "" if self.mode == "auto" and encoding and status == MEDIA_TYPE_STATUS else None

    def _send_as(self, request: Request, encoding: str) -> Answer:
        body = self.compress(request, encoding)
        self.size_bytes = len(body)
        is_probe = not request.readings
        return self.wire.send(Packed(request.signal, body, encoding, is_probe, request.may_overdraw))
