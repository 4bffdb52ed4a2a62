"""OTLP requests that come as messages of a broker: kept as they are, past the mappings. Must not talk to a broker.

Stands before the pipeline's door, and is one itself: what comes on other topics goes on as it came. A message that is
no request is lost as any other that cannot be read, with its reason, and is seen in the quarantine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from gateway.codecs.content_encoding import Opener
from gateway.codecs.otlp_intake import Taken, TooManyError, open_request
from gateway.codecs.topics import Pattern
from gateway.core.batch import ResourceRecords
from gateway.core.contracts import OVERSIZE, Accepted, Arrivals, Lost, Messages, Signal
from gateway.core.turns import Turn
from gateway.core.units import Size
from gateway.sources.mqtt_settings import OTLP_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.contracts import Accept, AcceptMessages

MALFORMED: Final = "malformed"
SIGNALS: Final = {signal.name.lower(): signal for signal in Signal}
# How large one is read at once without a thread: a byte may take a microsecond and more.
HERE_BYTES_MAX: Final = 16 * 1024
# So much of them is open before it is kept, and what the last of them adds.
AT_ONCE_BYTES: Final = 256 * 1024
TOPICS_KNOWN_MAX: Final = 4096
# A longer topic is looked at each time: a broker's may have 64 KB, and so many of them are all of a board's memory.
KNOWN_BYTES_MAX: Final = 256
# No request begins so: its first field is that of a resource.
_MAGIC: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b\x08": "gzip"}


class _TooLargeError(Exception):
    """It would be more than is taken when it is opened."""


class _Request(NamedTuple):
    """A message that should be a request, and its place among the arrivals."""

    at: int
    payload: bytes
    signal: Signal


@dataclass(slots=True)
class Parted:
    """Arrivals that are being dealt with: requests that are still to be kept, what was lost, and all else."""

    arrivals: Arrivals
    others: dict[int, bytes]  # payloads that go on, by their place
    lost: dict[int, Lost]
    requests: deque[_Request] = field(default_factory=deque)
    readings: int = 0
    rest: Arrivals | None = None  # once nothing is added to it
    places: list[int] = field(default_factory=list)


class OtlpTopics:
    """See `Accept` for the contract. `patterns` are topics in which {signal} is metrics, logs or traces.

    `bytes_max` is how large a request may be, before and after it is unpacked.
    """

    def __init__(
        self, patterns: Sequence[str], *, bytes_max: int, accept: Accept, accept_messages: AcceptMessages
    ) -> None:
        self._bytes_max = bytes_max
        self._patterns = [Pattern(text) for text in patterns]
        self._accept = accept
        self._accept_messages = accept_messages
        self._known: dict[bytes, Signal | None] = {}
        # One at a time has requests open: packed they may be a ten-thousandth of what they are then.
        self._turn = asyncio.Lock()

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        """Take `arrivals`; what was kept before a FullError is not kept again when they come back."""
        if not isinstance(arrivals.prepared, Parted):
            if all(self._signal_of(topic) is None for topic in arrivals.topics):
                return await self._accept(arrivals)
            arrivals.prepared = self._part(arrivals)
            arrivals.payloads = ()
        parted = arrivals.prepared
        assert isinstance(parted, Parted)
        while parted.requests:
            async with self._turn:
                await self._keep_some(parted)
        rest = self._rest_of(parted)
        accepted = Accepted(0)
        if parted.places or arrivals.dropped:
            accepted = await self._accept(rest)
        malformed = [lost._replace(at=parted.places[lost.at]) for lost in accepted.malformed]
        return Accepted(parted.readings + accepted.readings, malformed)

    def _part(self, arrivals: Arrivals) -> Parted:
        parted = Parted(arrivals, {}, {one.at: one for one in arrivals.lost})
        for at, (topic, payload) in enumerate(zip(arrivals.topics, arrivals.payloads, strict=True)):
            signal = self._signal_of(topic)
            if signal is None or at in parted.lost:
                parted.others[at] = payload
            else:
                parted.requests.append(_Request(at, payload, signal))
        return parted

    def _rest_of(self, parted: Parted) -> Arrivals:
        """Return what goes on: what is no OTLP, and what should be and is not."""
        if parted.rest is None:
            arrivals, places = parted.arrivals, sorted(parted.others)
            parted.places = places
            parted.rest = Arrivals(
                arrivals.source,
                [arrivals.topics[at] for at in places],
                [parted.others[at] for at in places],
                arrivals.arrived_ns,
                lost=[parted.lost[at]._replace(at=number) for number, at in enumerate(places) if at in parted.lost],
                dropped=arrivals.dropped,
                is_last=arrivals.is_last,
                on_prepared=arrivals.on_prepared,
            )
            parted.others = {}
        return parted.rest

    async def _keep_some(self, parted: Parted) -> None:
        """Open and keep the next requests of one signal, as many as are not much together: they share a commit."""
        signal, size_bytes = parted.requests[0].signal, 0
        opened: list[Taken] = []
        done: list[_Request] = []
        for request in parted.requests:
            if request.signal is not signal or size_bytes >= AT_ONCE_BYTES:
                break
            done.append(request)
            if request.at in parted.lost:
                continue
            try:
                opened.append(await _open(request, bytes_max=self._bytes_max))
            except (TooManyError, _TooLargeError) as error:
                parted.lost[request.at] = Lost(request.at, OVERSIZE, str(error))
            except ValueError as error:
                what = f"this is no request of {signal.name.lower()} in protobuf: {error}"
                parted.lost[request.at] = Lost(request.at, MALFORMED, what)
            else:
                size_bytes += sum(map(len, opened[-1].bodies))
        if opened:
            await self._accept_messages(_together(parted.arrivals, signal, opened))
        parted.readings += sum(sum(taken.counts) for taken in opened)
        for request in done:
            parted.requests.popleft()
            if request.at in parted.lost:
                parted.others[request.at] = request.payload

    def _signal_of(self, topic: bytes) -> Signal | None:
        """Return what a topic's messages are requests of, None where they are none."""
        try:
            return self._known[topic]
        except KeyError:
            pass
        signal = _match(self._patterns, topic.decode("utf-8", "replace"))
        if len(topic) > KNOWN_BYTES_MAX:
            return signal
        if len(self._known) >= TOPICS_KNOWN_MAX:
            self._known.clear()
        self._known[topic] = signal
        return signal


def signal_of(patterns: Sequence[str], topic: str) -> Signal | None:
    """Return what a topic's messages are requests of, None where they are none.

    >>> signal_of(["tidegate/+/{signal}"], "tidegate/a/logs"), signal_of(["tidegate/+/{signal}"], "tidegate/a/b")
    (<Signal.LOGS: 1>, None)
    """
    return _match([Pattern(text) for text in patterns], topic)


def try_request(payload: bytes, signal: Signal, *, bytes_max: int) -> tuple[str, bool]:
    """Return what a message holds, or why it is no request, in words; and whether all of it can be kept."""
    try:
        taken = _read(payload, signal, bytes_max)
    except (TooManyError, _TooLargeError) as error:
        return str(error), False
    except ValueError as error:
        return f"this is no request of {signal.name.lower()} in protobuf: {error}", False
    if taken.oversize:
        return f"{len(taken)} that are kept, and {taken.oversize} that are too large", False
    return str(len(taken)), True


def _match(patterns: Sequence[Pattern], topic: str) -> Signal | None:
    found = (pattern.match(topic) for pattern in patterns)
    signals = (SIGNALS.get(captures["signal"]) for captures in found if captures is not None)
    return next((one for one in signals if one is not None), None)


async def _open(request: _Request, *, bytes_max: int) -> Taken:
    payload = request.payload
    if len(payload) > HERE_BYTES_MAX or _is_packed(payload):
        return await asyncio.to_thread(_read, payload, request.signal, bytes_max)
    async with Turn():
        return _read(payload, request.signal, bytes_max)


def _together(arrivals: Arrivals, signal: Signal, opened: Sequence[Taken]) -> Messages:
    counts = np.array([count for taken in opened for count in taken.counts], np.int64)
    bodies = tuple(body for taken in opened for body in taken.bodies)
    records = ResourceRecords(signal, counts, np.zeros(len(counts), np.int64), bodies)
    oversize = sum(taken.oversize for taken in opened)
    return Messages(
        arrivals.source, records, OTLP_PRIORITY, arrivals.arrived_ns, {OVERSIZE: oversize} if oversize else {}
    )


def _is_packed(payload: bytes) -> str:
    return next((name for magic, name in _MAGIC.items() if payload.startswith(magic)), "")


def _read(payload: bytes, signal: Signal, bytes_max: int) -> Taken:
    encoding = _is_packed(payload)
    if len(payload) > bytes_max:
        raise _TooLargeError(f"a request of {len(payload)} bytes; otlp_max is {Size(bytes_max)}")
    if not encoding:
        return open_request(payload, signal)
    opener = Opener(encoding)
    body = bytearray()
    for piece in opener.feed(payload):
        # No more of it is unpacked than that.
        if len(body) + len(piece) > bytes_max:
            raise _TooLargeError(
                f"a request of {len(payload)} bytes that is more than otlp_max ({Size(bytes_max)}) when it is "
                "unpacked; have its sender make smaller ones"
            )
        body += piece
    opener.close()
    return open_request(bytes(body), signal)
