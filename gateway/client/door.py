"""The door of a program that has its gateway inside: what threads have put into the buffer goes to the shelf from here.

One parcel at a time, so that the order stays and memory is bounded. It goes with the commit that is due anyway, or at
once where somebody waits for it or much is there. What finds no room stays and is offered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from gateway.client import records
from gateway.client.buffer import SORTS
from gateway.codecs import protobuf
from gateway.codecs.apart import MAPPING_FAILED
from gateway.codecs.device_time import Times, keep_sane
from gateway.codecs.otlp import NO_MARKS, encode_resource, encode_scope
from gateway.core.batch import MONOTONIC, Batch, ResourceRecords, Series, ValueKind, to_bits
from gateway.core.contracts import NO_ROOM, FullError, Signal
from gateway.core.text import sentence
from gateway.core.timeouts import timeout
from gateway.store.database import Loss

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.client.buffer import Buffer, Columns, Parcel, Records, Samples, Sort
    from gateway.codecs.device_time import Moment
    from gateway.core.batch import Attributes
    from gateway.core.clock import Clock
    from gateway.core.contracts import Messages, Priority
    from gateway.pipeline import Pipeline, Prepared
    from gateway.store.database import Store

log = logging.getLogger("tidegate.client")

NAME: Final = "client"
NO_SERIES: Final = "max_series"
# At the end the disk has so long to take what is left; the assembly waits a little longer.
FINISH_S: Final = 6.0
AGAIN_S_MAX: Final = 1.0


class Ready(NamedTuple):
    """A parcel as the shelf takes it."""

    parcel: Parcel
    prepared: Prepared
    records: list[tuple[Priority, ResourceRecords]]


class Door:
    """A source of the gateway. `resource` is the program's own, for whoever needs to know whose it is."""

    name = NAME

    def __init__(
        self, buffer: Buffer, *, resource: Attributes, version: str, pipeline: Pipeline, store: Store, clock: Clock
    ) -> None:
        self._buffer = buffer
        self._resource = resource
        self._pipeline = pipeline
        self._store = store
        self._clock = clock
        self._head = protobuf.delimited(1, encode_resource(resource, ()))
        self._scope = protobuf.delimited(1, encode_scope("", NO_MARKS, version=version))
        self._some, self._now = asyncio.Event(), asyncio.Event()
        # Of an earlier gateway there may be something left.
        self._some.set()
        self._ready: Ready | None = None
        self._future: asyncio.Future[None] | None = None
        self._turn: asyncio.Event | None = None
        self._state = "open"

    def hear(self, *, now: bool) -> None:
        """Take note that something is in the buffer; `now`: that it should be taken at once. On the event loop."""
        self._some.set()
        if now:
            self._now.set()

    async def run(self) -> None:
        """Bring what comes until cancelled; then what is there by then."""
        self._state = "open"
        try:
            while True:
                await self._some.wait()
                await self._bring()
        except asyncio.CancelledError:
            self._state = "stopped"
            with contextlib.suppress(TimeoutError):
                async with timeout(FINISH_S):
                    # What is under way, then what came behind it.
                    await self._bring()
                    await self._bring()
            raise

    async def keep(self, messages: Messages) -> None:
        """Keep OTLP messages as they are; return when they are on the disk, or raise FullError."""
        await self._pipeline.accept_messages(messages)
        self._buffer.passed(messages.records.signal, len(messages.records))

    def status(self) -> dict[str, object]:
        """Return what people want to know of it."""
        totals = self._buffer.totals
        return {
            "type": NAME,
            "state": "full" if self._buffer.trouble and self._state == "open" else self._state,
            "waiting": self._buffer.waiting,
            "bytes_pending": self._buffer.size_bytes,
            "data_points": totals.sent[Signal.METRICS],
            "log_records": totals.sent[Signal.LOGS],
            "spans": totals.sent[Signal.TRACES],
            "pushed_back": totals.pushed_back,
            "dropped": totals.dropped,
            "last_error": sentence(self._buffer.trouble),
        }

    async def _bring(self) -> None:
        """Bring what is there; return when it is on the disk, however long that takes."""
        if self._future is None and not self._buffer.is_urgent:
            await self._put_with_others()
        while True:
            try:
                if self._future is None:
                    await self._store.wait_for_room()
                    self._put(is_last=True)
                if self._future is not None:
                    # Whoever cancels this wait comes back to it, and the shelf's answer is the same.
                    await asyncio.shield(self._future)
                break
            except FullError as error:
                self._future = None
                self._buffer.trouble = str(error)
                await asyncio.sleep(min(error.after_s, AGAIN_S_MAX))
        if self._ready is not None:
            self._buffer.kept(self._ready.parcel)
        self._future = self._ready = None

    async def _put_with_others(self) -> None:
        """Put what is there to the next commit when that begins; return then, or when it is wanted at once."""
        turn = self._turn = asyncio.Event()

        def come() -> None:
            if self._turn is turn:
                turn.set()
                with contextlib.suppress(FullError):
                    self._put(is_last=False)

        if not self._store.defer(come):
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (turn, self._now)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._turn = None
            for wait in waits:
                wait.cancel()

    def _put(self, *, is_last: bool) -> None:
        """Hand what is there to the shelf, which answers by `_future`; raise FullError."""
        self._some.clear()
        self._now.clear()
        parcel = self._buffer.take()
        if parcel is None:
            return
        if self._ready is None:
            self._ready = self._make_ready_or_lose(parcel)
        assert self._ready.parcel is parcel
        self._future = self._pipeline.put_prepared(self._ready.prepared, records=self._ready.records, is_last=is_last)

    def _make_ready_or_lose(self, parcel: Parcel) -> Ready:
        try:
            return self._make_ready(parcel)
        except Exception:
            # It would come back for ever, and nothing behind it would ever be kept.
            log.exception("what was sent cannot be used, which is a mistake of the client's own; please report it")
        lost = Loss(MAPPING_FAILED, parcel.readings + parcel.dropped)
        return Ready(parcel, self._pipeline.prepare_pieces([], [lost]), [])

    def _make_ready(self, parcel: Parcel) -> Ready:
        now_ns = self._clock.monotonic_ns()
        wall_ns = self._store.timeline.wall_from(now_ns)
        pieces, losses = self._pieces(parcel, self._pipeline.moment(now_ns))
        if parcel.dropped:
            losses[NO_ROOM] = parcel.dropped
        found = [Loss(reason, count, wall_ns or 0, wall_ns or 0) for reason, count in losses.items()]
        kept = [
            (priority, self._messages(some, signal, wall_ns, now_ns))
            for (priority, signal), some in parcel.records.items()
        ]
        return Ready(parcel, self._pipeline.prepare_pieces(pieces, found), kept)

    def _pieces(self, parcel: Parcel, moment: Moment) -> tuple[list[tuple[Priority, Batch]], dict[str, int]]:
        """Return readings as batches, one a class, and how many of them find no series."""
        resolve = self._store.resolve
        series = [Series(self._resource, name, unit, kind, more) for name, unit, kind, more in parcel.streams]
        numbers = np.array([resolve(one, NAME) or 0 for one in series], np.uint32)
        batches: dict[Priority, list[Batch]] = {}
        for index, columns in parcel.columns.items():
            sort = SORTS[index]
            batches.setdefault(sort.priority, []).append(_of_columns(sort, columns, numbers, moment))
        for samples in parcel.samples:
            batches.setdefault(samples.priority, []).append(_of_samples(samples, numbers, moment))
        joined = {priority: Batch.join(some) for priority, some in batches.items()}
        lost = sum(int((batch.series == 0).sum()) for batch in joined.values())
        pieces = [(priority, batch.take(batch.series != 0) if lost else batch) for priority, batch in joined.items()]
        return pieces, {NO_SERIES: lost} if lost else {}

    def _messages(self, some: Records, signal: Signal, wall_ns: int | None, now_ns: int) -> ResourceRecords:
        """Return records as OTLP messages; a log record without a time gets that of its sending, where it is known."""
        bodies = some.bodies
        if signal is Signal.LOGS:
            ahead_ns = None if wall_ns is None else wall_ns - now_ns
            sent = [0 if ahead_ns is None else sent_ns + ahead_ns for sent_ns in some.sent]
            timed = zip(bodies, some.times, sent, strict=True)
            bodies = [records.with_times(body, time_ns or sent_ns, sent_ns) for body, time_ns, sent_ns in timed]
        made = list(records.messages(self._head, self._scope, bodies))
        counts = np.array([count for count, _ in made], np.int64)
        return ResourceRecords(
            signal, counts, np.full(len(made), wall_ns or 0, np.int64), tuple(body for _, body in made)
        )


def _of_columns(sort: Sort, columns: Columns, numbers: npt.NDArray[np.uint32], moment: Moment) -> Batch:
    series = numbers[np.asarray(columns.series)]
    ns = np.asarray(columns.times, np.int64)
    times = Times(ns, MONOTONIC) if sort.is_stamped else _sane(ns, moment)
    bits = np.asarray(columns.values).view(np.int64)
    return Batch(series, times.ns, bits, _flags(times, sort.kind, len(series)))


def _of_samples(samples: Samples, numbers: npt.NDArray[np.uint32], moment: Moment) -> Batch:
    times = _sane(samples.times, replace(moment, arrived_ns=samples.sent_ns), of_one=True)
    kind, bits = to_bits(samples.values)
    return Batch(np.full(len(bits), numbers[samples.series], np.uint32), times.ns, bits, _flags(times, kind, len(bits)))


def _sane(ns: npt.NDArray[np.int64], moment: Moment, *, of_one: bool = False) -> Times:
    """Return times where they can be right, as with devices; else that of sending, with the spacing of an array."""
    if not len(ns) or (ns.min() >= moment.floor_ns and ns.max() <= moment.ceiling_ns):
        return Times(ns, 0)
    owners = np.zeros(len(ns), np.intp) if of_one else None
    return keep_sane(ns, np.ones(len(ns), np.bool_), [0] * len(ns), moment=moment, owners=owners)


def _flags(times: Times, kind: ValueKind, count: int) -> npt.NDArray[np.uint8]:
    if isinstance(times.flags, int):
        return np.full(count, times.flags | kind, np.uint8)
    return times.flags | np.uint8(kind)
