"""From a lease in hand to the far side: encode, then compress and post in the thread. Must not retry, wait or lease.

Encoding is short and all Python: in the thread it would only take turns with everything else, call by call. Compressing
and sockets run beside it. A second request may be begun while the first is under way; the thread takes it up the
moment the first was answered, and leaves it alone when that one failed.

    hand → Request ─┐                            ┌→ landed: taken off the hand
                    └ (thread: compress → post) ─┘
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.codecs import zstd
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Signal
from gateway.uplinks.guards import (
    SERVER_ERROR,
    TOO_LARGE_STATUS,
    Compressing,
    HoldError,
    InTransitError,
    Request,
    StatusRefusedError,
    TooLargeError,
    UnheardError,
)
from gateway.uplinks.pacing import FAST_LEVEL, HARD_LEVEL, REQUEST_S, BatchSize, Effort
from gateway.uplinks.partly import PartlyTakenError
from gateway.uplinks.parts import Closed
from gateway.uplinks.requests import REJECTED
from gateway.uplinks.settings import GRPC, PROTOCOLS
from gateway.uplinks.speed import Speeds
from gateway.uplinks.suspects import Suspects
from gateway.uplinks.verdicts import CUTS_MAX, PARTS_MAX, SHOWN_MAX, Stage, Verdicts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from random import Random

    from gateway.core.clock import Clock
    from gateway.core.contracts import Priority
    from gateway.store.database import Lease
    from gateway.uplinks.guards import Answer, Wire
    from gateway.uplinks.requests import Hand, RequestBuilder
    from gateway.uplinks.terms import Terms
    from gateway.uplinks.worker import Worker

GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31


class NotBegunError(Exception):
    """The request in front of this one failed, so nothing of it has left."""


@dataclass(slots=True, eq=False)
class Flight:
    """A request that was handed to the thread; one that is not `wanted` any more is not begun."""

    request: Request
    turn: int
    wanted: bool = True
    failures: int = 0
    size_bytes: int = 0
    answer: asyncio.Future[Answer] = field(init=False)


class Ahead(NamedTuple):
    """What is with the thread behind the request under way."""

    hand: Hand
    flight: Flight


class Sending:
    """What one uplink sends with. All of it runs in the event loop, but for `_send`."""

    def __init__(
        self,
        settings: Terms,
        *,
        wire: Wire,
        builder: RequestBuilder,
        start_worker: Callable[[str], Worker],
        clock: Clock,
        random: Random,
    ) -> None:
        self.size = BatchSize(
            settings.batch_readings_max,
            settings.request_bytes_max,
            # An answer that may take as long as is waited for is soon one that comes too late.
            request_s=min(REQUEST_S, float(settings.timeout) / 2),
        )
        self._bytes_max = int(settings.request_bytes_max)
        # Which classes may go beyond an allowance; over links that depends on the one that is used.
        self.overdraws: Callable[[], frozenset[Priority]] = settings.budget.overdraws
        self._builder = builder
        self._clock = clock
        self._random = random
        self.speeds = Speeds()
        # Where bytes are counted every one of them is worth the work.
        is_counted = bool(settings.budget.allowances()) or settings.budget.rate is not None
        self._effort = Effort(saves_min=0.0) if is_counted else Effort()
        self._sender = Compressing(
            wire,
            self._compress,
            settings.compression,
            now_s=lambda: clock.monotonic_ns() / NS_PER_S,
            # gRPC's receivers know gzip, and hardly any of them zstd.
            first="gzip" if settings.protocol == GRPC else "zstd",
            empty=builder.empty if settings.protocol in PROTOCOLS else None,
        )
        self._wire = wire
        self._name = settings.name
        self._start_worker = start_worker
        self._worker: Worker | None = None
        self._turn = 0
        # That logs are taken says nothing of a path for metrics that is none.
        self._suspects = Suspects()
        self._verdicts: defaultdict[Signal, Verdicts] = defaultdict(lambda: Verdicts(random))

    def open(self) -> None:
        """Start the thread."""
        self._wire.open()
        self._worker = self._start_worker(f"uplink {self._name}")

    def close(self) -> None:
        """End what is under way and let go of the thread; one that is stuck is not waited for."""
        assert self._worker is not None
        self._wire.stop()
        if self._worker.close():
            self._wire.close()
        self._worker = None

    @property
    def encoding(self) -> str:
        """How the last request was compressed, "" for not at all."""
        return self._sender.encoding

    def begin(self, hand: Hand, *, behind: Flight | None = None, in_haste: bool = False) -> Flight | None:
        """Send what is next of `hand`; None where nothing is left of it. Raises NoClockError with nothing changed.

        It is not begun where the one `behind` which it stands has failed. `in_haste` says that what follows is waiting
        already, so that compressing must not take long.
        """
        request = self._next(hand, in_haste=in_haste)
        return None if request is None else self.post(request, behind=behind)

    def probe(self) -> Flight:
        """Send a request that asks for nothing."""
        return self.post(Request(Signal.METRICS, self._builder.empty[Signal.METRICS], 0))

    def post(self, request: Request, *, behind: Flight | None = None) -> Flight:
        """Hand a request to the thread."""
        assert self._worker is not None
        flight = Flight(request, self._turn if behind is None else behind.turn)
        flight.answer = self._worker.submit(lambda: self._send(flight))
        return flight

    def land(self, hand: Hand, flight: Flight) -> Answer | None:
        """Take off `hand` what was answered.

        Raises TryLaterError where it is to be sent again, and what else went wrong; None where it was not taken as it
        was, and what to do instead is done.
        """
        assert hand.parts
        request = flight.request
        hand.maybe_taken += request.readings * flight.failures
        hand.waits_for = ""
        answer: Answer | None = None
        try:
            answer = flight.answer.result()
        except TooLargeError as error:
            self.size.was_too_large(len(request.body))
            if request.readings > 1:
                self._open(hand)
                hand.split()
                return None
            self._refused(hand, request, StatusRefusedError(str(error), TOO_LARGE_STATUS))
        except StatusRefusedError as error:
            hand.maybe_taken += error.maybe
            if error.status >= SERVER_ERROR:
                self._failed(hand, request, error)
            else:
                self._refused(hand, request, error)
        except InTransitError as error:
            self._broke(hand, request, error)
        except UnheardError as error:
            self._unheard(hand, error)
        else:
            self._took(hand, request, answer)
            if answer.left is not None:
                hand.unheard.append(answer.left)
            self.speeds.sent(flight.size_bytes, answer)
            if hand.stage in {Stage.WHOLE, Stage.ALONE}:
                self._suspects.clear(hand.parts[0])
            hand.lease.sent_bytes += flight.size_bytes
            hand.parts.popleft()
            hand.refusals = 0
            self._end_parts(hand)
            if not hand.parts and answer.on_settled is not None:
                answer.on_settled()
        return answer

    def has_failed(self, lease: Lease) -> bool:
        """Whether a server failed at a lease before."""
        return self._verdicts[lease.signal].has_failed(lease.segments[0].id)

    def lead(self, hand: Hand) -> None:
        """Have a small part of `hand` go first: whether the road takes anything is then known at little cost."""
        if hand.stage is not Stage.WHOLE or hand.is_thinned:
            return
        self._open(hand)
        least = _least(hand)
        if hand.parts and len(hand.parts[0]) > least:
            hand.lead(self._random, readings_max=least)

    def _refused(self, hand: Hand, request: Request, error: StatusRefusedError) -> None:
        """Have it sent in parts, and give up those that are refused by themselves; raise what to do instead."""
        verdicts, first_id = self._verdicts[request.signal], hand.lease.segments[0].id
        verdicts.refused(first_id=first_id, is_begun=hand.is_taken)
        self._open(hand)
        assert hand.parts
        hand.refusals += 1
        refusals_max, least = verdicts.refusals_max(first_id), _least(hand)
        if request.readings <= least:
            hand.doubt(error)
        elif refusals_max == SHOWN_MAX:
            hand.sample(self._random, readings_max=least)
        else:
            hand.part(self._random)
        if hand.parts and (hand.refusals < refusals_max or verdicts.is_about_data(first_id)):
            return
        parts = len(hand.parts) + len(hand.doubted)
        try:
            verdicts.conclude(str(error), first_id=first_id, parts=parts)
        except HoldError:
            # Nothing is known of them: they are still to be sent.
            hand.take_back()
            raise
        if hand.stage is not Stage.CUT:
            hand.give_up()
        self._end_parts(hand)

    def _broke(self, hand: Hand, request: Request, error: InTransitError) -> None:
        """Have what connections break at sent in parts, or later; raise `error` where that is the road's affair."""
        verdicts, is_partly = self._verdicts[request.signal], isinstance(error, PartlyTakenError)
        if isinstance(error, PartlyTakenError):
            error.settle(hand)
            if error.taken or error.is_held:
                if error.taken:
                    verdicts.took()
                raise error
        is_waited_for = hand.is_begun and not hand.is_thinned
        is_about_it = verdicts.broke(first_id=hand.lease.segments[0].id, is_waited_for=is_waited_for)
        if not (is_about_it or hand.is_suspect) or not hand.parts:
            raise error
        # What of it may have been taken in part is counted already.
        self._failed(hand, request, error, is_counted=is_partly or not error.answer_lost)

    def _failed(
        self,
        hand: Hand,
        request: Request,
        error: StatusRefusedError | InTransitError,
        *,
        is_counted: bool = False,
    ) -> None:
        """Have what a server failed at sent in parts, or later, or given up; raise what to do instead."""
        verdicts = self._verdicts[request.signal]
        first_id = hand.lease.segments[0].id
        hand.stage = verdicts.failed(error, hand.stage, first_id=first_id, is_hurried=hand.is_hurried)
        self._open(hand)
        assert hand.parts
        if not is_counted:
            hand.count_failed(request.readings)
        if isinstance(error, InTransitError):
            error = StatusRefusedError(str(error), SERVER_ERROR)
        hand.trouble, hand.is_suspect, hand.pause_s = str(error), True, 0.0
        if hand.stage is Stage.ALONE:
            # One stands for all of them.
            hand.put_last()
            hand.pause_s = verdicts.put_off_s(first_id)
        elif not hand.is_at_end(request.readings, 1 if hand.cuts < CUTS_MAX else _least(hand)):
            hand.cuts += 1
            hand.part(self._random)
        else:
            self._suspects.blame(hand.parts[0])
            hand.doubt(error)
        self._end_parts(hand)

    def _unheard(self, hand: Hand, error: UnheardError) -> None:
        """Have the others go, and keep what nobody hears; raise `error` where nothing of the lease was taken."""
        assert hand.parts
        hand.parts.popleft()
        hand.unheard.append(error.left)
        if not hand.parts and not hand.is_begun:
            _lay_by(hand)
            raise error
        self._end_parts(hand)

    def _end_parts(self, hand: Hand) -> None:
        """Where no other part is left, give up those that were laid aside, or have them sent by themselves, later."""
        verdicts, first_id = self._verdicts[hand.lease.signal], hand.lease.segments[0].id
        if not hand.parts:
            hand.give_up()
            if hand.parts:
                hand.pause_s = verdicts.put_off_s(first_id)
            elif hand.unheard and not hand.is_thinned:
                hand.pause_s = _lay_by(hand)
            else:
                verdicts.forget(first_id)
        elif hand.stage is Stage.CUT and hand.pause_s is None:
            hand.pause_s = 0.0

    def _next(self, hand: Hand, *, in_haste: bool) -> Request | None:
        self._open(hand)
        assert hand.parts is not None
        while hand.parts:
            part = hand.parts[0]
            assert not isinstance(part, Closed)
            readings = len(part)
            if hand.stage is Stage.WHOLE and self._is_readied(hand):
                continue
            # One stored segment may be larger than what this link should be given at once.
            if readings > self.size.readings and part.may_be_cut:
                hand.split()
                continue
            if hand.lease.is_late:
                # An outage may have come since it was opened.
                part.mark_late()
            body = self._builder.encode(part)
            self.size.measured(readings, len(body))
            if len(body) > self._bytes_max and readings > 1:
                hand.split()
                continue
            hand.close()
            may_overdraw = hand.lease.segments[0].priority in self.overdraws()
            return Request(part.signal, body, readings, in_haste, may_overdraw)
        return None

    def _is_readied(self, hand: Hand) -> bool:
        """Have what a server fails at go apart, where that is known; return whether it changed the parts."""
        assert hand.parts
        part = hand.parts[0]
        if not hand.is_suspect:
            halves = None if hand.is_thinned else self._suspects.apart(part)
            if halves is not None:
                hand.parts.popleft()
                hand.parts.appendleft(halves[0])
                hand.parts.append(halves[1])
            return halves is not None
        if not self._verdicts[hand.lease.signal].is_about_data(hand.lease.segments[0].id):
            return False
        is_known = not hand.is_thinned and all(map(self._suspects.are_all, hand.parts))
        hand.stage = Stage.ALONE if is_known else Stage.CUT
        if is_known or len(part) <= _least(hand) or not part.may_be_cut:
            return False
        hand.part(self._random)
        return True

    def _open(self, hand: Hand) -> None:
        if hand.parts is None or (hand.parts and isinstance(hand.parts[0], Closed)):
            self._builder.open(hand)

    def _send(self, flight: Flight) -> Answer:
        """Compress and post. Runs in the thread."""
        if not flight.wanted or flight.turn != self._turn:
            raise NotBegunError
        try:
            return self._sender.send(flight.request)
        except BaseException:
            # Not what stands behind this one.
            self._turn += 1
            raise
        finally:
            flight.failures, flight.size_bytes = self._sender.failures, self._sender.size_bytes

    def _took(self, hand: Hand, request: Request, answer: Answer) -> None:
        self._verdicts[request.signal].took(hand.stage)
        readings = request.readings - (0 if answer.left is None else len(answer.left.part))
        rejected = min(answer.rejected, readings)
        hand.delivered += readings - rejected
        hand.maybe_taken += answer.maybe_twice
        hand.reject(rejected, REJECTED, answer.message)
        hand.message = answer.message or hand.message
        hand.server_time_s = answer.server_time_s
        hand.rtt_s = answer.rtt_s
        self.size.succeeded(request.readings, answer.seconds)
        self._effort.sent(len(request.body), answer.seconds)

    def _compress(self, request: Request, encoding: str) -> bytes:
        body = request.body
        if not encoding:
            return body
        each = getattr(body, "each", None)
        if each is not None:
            # Many messages: each can be read by itself.
            packed: bytes = each(lambda payload: self._pack(payload, encoding, in_haste=request.in_haste))
            return packed
        return self._pack(body, encoding, in_haste=request.in_haste)

    def _pack(self, body: bytes, encoding: str, *, in_haste: bool) -> bytes:
        if encoding == "gzip":
            import zlib  # noqa: PLC0415  only where a receiver wants it

            return zlib.compress(body, GZIP_LEVEL, _GZIP_WINDOW)
        started_ns = self._clock.monotonic_ns()
        level = FAST_LEVEL if in_haste else self._effort.level(len(body), now_s=started_ns / NS_PER_S)
        packed = zstd.compress(body, level=level)
        self._effort.spent(len(body), level, (self._clock.monotonic_ns() - started_ns) / NS_PER_S)
        if level == HARD_LEVEL and self._effort.is_to_be_compared(len(body)):
            fast = zstd.compress(body, level=FAST_LEVEL)
            self._effort.compared(len(body), hard_bytes=len(packed), fast_bytes=len(fast))
        return packed


def _lay_by(hand: Hand) -> float:
    """Have what nobody hears be what is left of a lease; return for how long it waits, in seconds."""
    assert hand.parts is not None
    first, *more = hand.unheard
    hand.parts.append(first.part.joined([left.part for left in more]))
    hand.waits_for, hand.unheard = first.why, []
    return min(left.wait_s for left in (first, *more))


def _least(hand: Hand) -> int:
    """Return how small a part of a lease is not cut any further."""
    return max(1, hand.lease.readings // PARTS_MAX)
