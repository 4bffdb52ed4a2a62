"""OTLP requests that come as messages of a broker: kept as they are, past the mappings. Must not talk to a broker.

Stands before the pipeline's door, and is one itself: what comes on other topics goes on as it came. A message that is
no request is lost as any other that cannot be read, with its reason, and is seen in the quarantine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.content_encoding import Opener
from gateway.codecs.otlp_intake import Taken, TooManyError, open_request
from gateway.codecs.topics import Pattern
from gateway.core.batch import ResourceRecords
from gateway.core.contracts import OVERSIZE, Accepted, Arrivals, Lost, Messages, Priority, Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.contracts import Accept, AcceptMessages

MALFORMED: Final = "malformed"
SIGNALS: Final = {signal.name.lower(): signal for signal in Signal}
# What one request may become when it is opened, and how large one is read at once without a thread.
OPENED_BYTES_MAX: Final = 16 << 20
HERE_BYTES_MAX: Final = 64 * 1024
TOPICS_KNOWN_MAX: Final = 4096
# No request begins so: its first field is that of a resource.
_MAGIC: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b\x08": "gzip"}


class _TooLargeError(Exception):
    """It would be more than is taken when it is opened."""


@dataclass(slots=True)
class Parted:
    """Arrivals that are dealt with: requests that are still to be kept, all else, and where that stood."""

    rest: Arrivals
    places: list[int]
    requests: deque[Messages] = field(default_factory=deque)
    readings: int = 0


class OtlpTopics:
    """See `Accept` for the contract. `patterns` are topics in which {signal} is metrics, logs or traces."""

    def __init__(self, patterns: Sequence[str], *, accept: Accept, accept_messages: AcceptMessages) -> None:
        self._patterns = [Pattern(text) for text in patterns]
        self._accept = accept
        self._accept_messages = accept_messages
        self._known: dict[bytes, Signal | None] = {}

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        """Take `arrivals`; what was kept before a FullError is not kept again when they come back."""
        if not isinstance(arrivals.prepared, Parted):
            if all(self._signal_of(topic) is None for topic in arrivals.topics):
                return await self._accept(arrivals)
            arrivals.prepared = await self._part(arrivals)
            arrivals.payloads = ()
        parted = arrivals.prepared
        assert isinstance(parted, Parted)
        while parted.requests:
            await self._accept_messages(parted.requests[0])
            parted.readings += len(parted.requests.popleft().records)
        accepted = Accepted(0)
        if parted.places or arrivals.dropped:
            accepted = await self._accept(parted.rest)
        malformed = [lost._replace(at=parted.places[lost.at]) for lost in accepted.malformed]
        return Accepted(parted.readings + accepted.readings, malformed)

    async def _part(self, arrivals: Arrivals) -> Parted:
        """Open what is OTLP; what cannot be opened is among the rest, as lost."""
        lost = {one.at: one for one in arrivals.lost}
        requests: deque[Messages] = deque()
        places: list[int] = []
        for at, (topic, payload) in enumerate(zip(arrivals.topics, arrivals.payloads, strict=True)):
            signal = self._signal_of(topic)
            if signal is not None and at not in lost:
                try:
                    requests.append(await self._open(arrivals, payload, signal))
                except (TooManyError, _TooLargeError) as error:
                    lost[at] = Lost(at, OVERSIZE, str(error))
                except ValueError as error:
                    what = f"this is no request of {signal.name.lower()} in protobuf: {error}"
                    lost[at] = Lost(at, MALFORMED, what)
                else:
                    continue
            places.append(at)
        rest = Arrivals(
            arrivals.source,
            [arrivals.topics[at] for at in places],
            [arrivals.payloads[at] for at in places],
            arrivals.arrived_ns,
            lost=[lost[at]._replace(at=number) for number, at in enumerate(places) if at in lost],
            dropped=arrivals.dropped,
            is_last=arrivals.is_last,
            on_prepared=arrivals.on_prepared,
        )
        return Parted(rest, places, requests)

    async def _open(self, arrivals: Arrivals, payload: bytes, signal: Signal) -> Messages:
        if len(payload) > HERE_BYTES_MAX:
            taken = await asyncio.to_thread(_read, payload, signal)
        else:
            taken = _read(payload, signal)
        counts = np.array(taken.counts, np.int64)
        records = ResourceRecords(signal, counts, np.zeros(len(counts), np.int64), tuple(taken.bodies))
        dropped = {OVERSIZE: taken.oversize} if taken.oversize else {}
        return Messages(arrivals.source, records, Priority.NORMAL, arrivals.arrived_ns, dropped)

    def _signal_of(self, topic: bytes) -> Signal | None:
        """Return what a topic's messages are requests of, None where they are none."""
        try:
            return self._known[topic]
        except KeyError:
            pass
        text = topic.decode("utf-8", "replace")
        found = (pattern.match(text) for pattern in self._patterns)
        signals = (SIGNALS.get(captures["signal"]) for captures in found if captures is not None)
        signal = next((one for one in signals if one is not None), None)
        if len(self._known) >= TOPICS_KNOWN_MAX:
            self._known.clear()
        self._known[topic] = signal
        return signal


def _read(payload: bytes, signal: Signal) -> Taken:
    encoding = next((name for magic, name in _MAGIC.items() if payload.startswith(magic)), "")
    if not encoding:
        return open_request(payload, signal)
    opener = Opener(encoding)
    body = bytearray()
    for piece in opener.feed(payload):
        body += piece
        if len(body) > OPENED_BYTES_MAX:
            raise _TooLargeError(f"a request of more than {OPENED_BYTES_MAX} bytes when it is opened")
    opener.close()
    return open_request(bytes(body), signal)
