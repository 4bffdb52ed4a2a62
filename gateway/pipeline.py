"""The data path on one screen: arrive, decode, map, detect, append. Must not do I/O of its own or loop over readings.

    bytes → Arrivals → Batch → Segment → Lease → answer → Ack
            sources    codecs  store     uplinks

Start reading here: `accept` is what every source calls, and it returns when what it was given is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np

from gateway import __version__
from gateway.codecs.apart import map_apart
from gateway.codecs.mapping import Mapped
from gateway.codecs.otlp import encode_log_record, encode_resource_logs
from gateway.core.batch import MONOTONIC, LogRecords, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, Quality
from gateway.core.contracts import DROPPED_BY_MAPPING, Accepted, FullError, Signal
from gateway.core.text import sentence
from gateway.store.database import Loss, SetAside
from gateway.store.writer import LOG_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from gateway.codecs.device_time import Moment
    from gateway.codecs.mapping import Mapper
    from gateway.core.batch import Batch
    from gateway.core.clock import Clock
    from gateway.core.contracts import Arrivals, Messages, Priority
    from gateway.core.telemetry import Telemetry
    from gateway.detect.engine import Engine, Finding
    from gateway.otlp_watch import OtlpWatch
    from gateway.store.database import Store
    from gateway.tracing import Noted, Tracer

log = logging.getLogger("tidegate")

# Who brings more than this is mapped at once: so much work is not to be done all at one time.
FEW_MESSAGES = 32
FEW_BYTES = 4096
# OTLP logs data model, SeverityNumber WARN.
SEVERITY_WARN = 13
NO_SERIES = "max_series"
# There is nothing wrong with a payload that found no series: one now and then shows whose they are.
NO_SERIES_SHOWN_NS = 60 * NS_PER_S
# What may be remembered of the series that come as OTLP and are watched, where nobody says.
WATCHED_BYTES = 4 << 20
UNSYNCED_BEHIND_NS_MAX = 400 * 86_400 * NS_PER_S


@dataclass(slots=True, weakref_slot=True, eq=False)
class Prepared:
    """What arrivals became, ready for the shelf."""

    mapped: Mapped
    losses: list[Loss]
    set_aside: list[SetAside]
    logs: Sequence[LogRecords]
    noted: Noted | None = None


class Pipeline:
    """From arrivals to the shelf. One for all sources."""

    def __init__(
        self,
        *,
        mapper: Mapper,
        engine: Engine | None,
        store: Store,
        clock: Clock,
        telemetry: Telemetry,
        watched_bytes: int = WATCHED_BYTES,
    ) -> None:
        self.mapper = mapper
        self.engine = engine
        self._otlp: OtlpWatch | None = None  # from the first OTLP metrics on, where something is watched
        self._watched_bytes = watched_bytes  # what may be remembered of their series
        self.tracer: Tracer | None = None  # as long as somebody traces messages
        self._store = store
        self._clock = clock
        self._telemetry = telemetry
        # What is on its way to the shelf, or with a source that waits for room: it names series by their numbers.
        self._under_way: WeakSet[Prepared] = WeakSet()
        self._no_series_shown_ns = -NO_SERIES_SHOWN_NS
        store.add_holder(self)

    async def accept(self, arrivals: Arrivals, /) -> Accepted:
        """Take `arrivals`; return when the commit that holds them is on disk. The contract is `Accept`."""
        # A FullError brings the same arrivals back: watched twice, a detector would count them twice.
        kept: asyncio.Future[None] | None = None
        try:
            if not isinstance(arrivals.prepared, Prepared):
                # What waits for room waits as it came: columns are several times the size of some payloads.
                await self._store.wait_for_room()
                # Whoever traces messages sees them as they come.
                if self.tracer is None and len(arrivals) <= FEW_MESSAGES and arrivals.size_bytes <= FEW_BYTES:
                    kept = await self._put_with_others(arrivals)
            await (self._put(arrivals) if kept is None else kept)
        except FullError as error:
            if isinstance(arrivals.prepared, Prepared) and arrivals.prepared.noted is not None:
                arrivals.prepared.noted.put_off(str(error))
            raise
        prepared, arrivals.prepared = arrivals.prepared, None
        assert isinstance(prepared, Prepared)
        mapped = prepared.mapped
        if prepared.noted is not None:
            prepared.noted.kept()
        self._telemetry.count("tidegate_messages_accepted", len(arrivals), source=arrivals.source)
        return Accepted(mapped.readings, mapped.malformed)

    async def accept_messages(self, messages: Messages, /) -> None:
        """Take OTLP messages as they are; return when they are on disk. The contract is `AcceptMessages`.

        Nothing is mapped. Gauges and sums are watched (`otlp_watch`) once there is room for their message.
        """
        await self._store.wait_for_room()
        wall_ns = self._store.timeline.wall_from(messages.arrived_ns) or 0
        records = replace(messages.records, time_ns=np.full(len(messages.records.bodies), wall_ns, np.int64))
        kept = self._store.append(
            [],
            records=[(messages.priority, records)] if records.bodies else [],
            losses=[Loss(reason, count, wall_ns, wall_ns) for reason, count in messages.dropped.items()],
            # Whoever sends the next request on this connection has this one's answer first.
            is_last=True,
        )
        try:
            if self.engine is not None and messages.records.signal is Signal.METRICS:
                await self._watch_messages(messages, self.engine)
        finally:
            await kept
        self._telemetry.count("tidegate_messages_accepted", source=messages.source)

    def status(self) -> dict[str, object]:
        """Return what people want to know of the OTLP metrics that are watched, if there were any."""
        return {} if self._otlp is None else {"watched_otlp": self._otlp.status()}

    def moment(self, arrived_ns: int) -> Moment:
        """Return between which times readings that arrived then are believed to have been taken."""
        return self.mapper.moment(arrived_ns, self._latest_ns(self._store.timeline.wall_from(arrived_ns)))

    def prepare_pieces(self, pieces: list[tuple[Priority, Batch]], losses: list[Loss]) -> Prepared:
        """Watch readings that need no mapping; what comes back is for `put_prepared`, as often as it takes."""
        mapped = Mapped(pieces, readings=sum(len(batch) for _, batch in pieces))
        prepared = Prepared(mapped, losses, [], self._watch(mapped))
        self._under_way.add(prepared)
        return prepared

    def put_prepared(
        self, prepared: Prepared, *, records: Sequence[tuple[Priority, ResourceRecords]] = (), is_last: bool = False
    ) -> asyncio.Future[None]:
        """Hand `prepared` and OTLP messages to the shelf as one; as `Store.append` does, raise FullError or later."""
        return self._store.append(
            prepared.mapped.pieces,
            logs=prepared.logs,
            records=records,
            losses=prepared.losses,
            is_last=is_last,
        )

    def _put(self, arrivals: Arrivals) -> asyncio.Future[None]:
        """Map arrivals that were not, and hand them to the shelf; raise FullError."""
        prepared = arrivals.prepared
        if not isinstance(prepared, Prepared):
            began_ns = self._clock.monotonic_ns()
            prepared = arrivals.prepared = self._prepare(arrivals)
            arrivals.payloads = ()
            if arrivals.on_prepared is not None:
                arrivals.on_prepared((self._clock.monotonic_ns() - began_ns) / NS_PER_S)
            self._under_way.add(prepared)
        return self._store.append(
            prepared.mapped.pieces,
            logs=prepared.logs,
            losses=prepared.losses,
            set_aside=prepared.set_aside,
            is_last=arrivals.is_last,
        )

    async def _put_with_others(self, arrivals: Arrivals) -> asyncio.Future[None] | None:
        """Put a few messages when the commit that they wait for begins, together with all others of that moment.

        On a quiet gateway mapping one buffer finds its caches cold, and the next one at once finds them warm. Returns
        None where there is nothing to wait for.
        """
        turn: asyncio.Future[asyncio.Future[None]] = asyncio.get_running_loop().create_future()

        def come() -> None:
            if turn.done():
                # Whoever brought them has gone.
                return
            try:
                turn.set_result(self._put(arrivals))
            except Exception as error:  # noqa: BLE001  it belongs to whoever waits
                turn.set_exception(error)

        return await turn if self._store.defer(come, is_last=arrivals.is_last) else None

    def series_in_use(self) -> Iterator[npt.NDArray[np.uint32]]:
        """Return the numbers that stand in what is under way."""
        for prepared in self._under_way:
            yield from (batch.series for _, batch in prepared.mapped.pieces)
            yield from (records.series for records in prepared.logs)

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers, distinct and in order, wherever they are remembered."""
        self.mapper.forget_series(numbers)
        if self.engine is not None:
            self.engine.forget_series(numbers)

    def _prepare(self, arrivals: Arrivals) -> Prepared:
        wall_ns = self._store.timeline.wall_from(arrivals.arrived_ns)
        latest_ns = self._latest_ns(wall_ns)
        mapped = self._map(arrivals, latest_ns)
        noted = None if self.tracer is None else self.tracer.note(arrivals, mapper=self.mapper, wall_ns=latest_ns)
        losses, set_aside = self._losses(mapped, arrivals.dropped, wall_ns or 0), self._quarantine(arrivals, mapped)
        return Prepared(mapped, losses, set_aside, self._watch(mapped), noted)

    def _map(self, arrivals: Arrivals, latest_ns: int | None) -> Mapped:
        try:
            return self.mapper.map(arrivals, wall_ns=latest_ns)
        except Exception:
            log.exception("%s: a buffer of %d messages cannot be mapped; looking which", arrivals.source, len(arrivals))
        mapped = Mapped()
        errors = map_apart(lambda part: self.mapper.map(part, wall_ns=latest_ns), arrivals, mapped)
        self._telemetry.count("tidegate_mapping_mistakes", len(errors))
        return mapped

    def _latest_ns(self, wall_ns: int | None) -> int | None:
        """Return the time after which a device's own is not believed; None while there is no clock to tell by."""
        if wall_ns is None or self._store.timeline.quality is Quality.SYNCED:
            return wall_ns
        # A saved clock stands where the box was switched off: devices that know better may be far ahead of it.
        return wall_ns + UNSYNCED_BEHIND_NS_MAX

    def _losses(self, mapped: Mapped, dropped: Mapping[str, int], wall_ns: int) -> list[Loss]:
        if not mapped.malformed and not dropped:
            return []
        by_reason = dict(dropped)
        for lost in mapped.malformed:
            by_reason[lost.reason] = by_reason.get(lost.reason, 0) + lost.readings
        return [Loss(reason, count, wall_ns, wall_ns) for reason, count in by_reason.items()]

    def _quarantine(self, arrivals: Arrivals, mapped: Mapped) -> list[SetAside]:
        """Return each payload that could not be used, once, with its first reason; not what was dropped on purpose."""
        first: dict[int, tuple[str, str]] = {}
        for index, reason, message, _ in mapped.malformed:
            if reason == NO_SERIES:
                if arrivals.arrived_ns - self._no_series_shown_ns < NO_SERIES_SHOWN_NS:
                    continue
                self._no_series_shown_ns = arrivals.arrived_ns
            if reason != DROPPED_BY_MAPPING:
                first.setdefault(index, (reason, message))
        return [
            SetAside(arrivals.source, arrivals.topics[index], arrivals.payloads[index], reason, sentence(message))
            for index, (reason, message) in first.items()
        ]

    def _watch(self, mapped: Mapped) -> Sequence[LogRecords]:
        if self.engine is None:
            return ()
        found: dict[int, list[Finding]] = {}
        for _, batch in mapped.pieces:
            if findings := self.engine.watch(batch):
                # Who does not get the readings does not get what was found in them.
                found.setdefault(batch.origin, []).extend(findings)
        if not found:
            return ()
        self._telemetry.count("tidegate_findings", sum(map(len, found.values())))
        # What led to it is to be there with it.
        self._store.evidence.found()
        logs = [self._as_logs(findings, origin) for origin, findings in found.items()]
        return [records for records in logs if len(records)]

    async def _watch_messages(self, messages: Messages, engine: Engine) -> None:
        """Have the number points of OTLP messages watched; what is found stands beside them on the shelf."""
        if self._otlp is None:
            from gateway.otlp_watch import OtlpWatch  # noqa: PLC0415  only where OTLP comes and something is watched

            self._otlp = OtlpWatch(engine, clock=self._clock, telemetry=self._telemetry, bytes_max=self._watched_bytes)
        try:
            findings = await self._otlp.look(messages.records.bodies, self.moment(messages.arrived_ns))
        except Exception:
            # The messages are kept; a mistake of ours must not have their sender bring them again.
            log.exception("%s: OTLP metrics cannot be watched", messages.source)
            self._telemetry.count("tidegate_watching_mistakes")
            return
        if findings:
            self._telemetry.count("tidegate_findings", len(findings))
            self._store.evidence.found()
            self._keep_findings(findings, self._otlp)

    def _keep_findings(self, findings: list[Finding], otlp: OtlpWatch) -> None:
        """Put findings on the shelf as logs of the programs that they are about, which name themselves as they do."""
        by_resource: dict[bytes, list[bytes]] = {}
        observed_ns = self._clock.wall_ns()
        for finding in findings:
            about = otlp.points.series(finding.series)
            record = _as_record(finding, about, time_ns=self._time_of(finding, observed_ns), observed_ns=observed_ns)
            by_resource.setdefault(otlp.points.resource(finding.series), []).append(record)
        bodies = tuple(
            encode_resource_logs(resource, records, version=__version__) for resource, records in by_resource.items()
        )
        counts = np.array([len(records) for records in by_resource.values()], np.int64)
        logs = ResourceRecords(Signal.LOGS, counts, np.full(len(bodies), observed_ns, np.int64), bodies)
        try:
            self._store.append([], records=[(LOG_PRIORITY, logs)]).add_done_callback(self._count_lost(len(findings)))
        except FullError:
            self._telemetry.count("tidegate_findings_lost", len(findings), reason="full")

    def _count_lost(self, findings: int) -> Callable[[asyncio.Future[None]], None]:
        def done(kept: asyncio.Future[None]) -> None:
            if not kept.cancelled() and kept.exception() is not None:
                self._telemetry.count("tidegate_findings_lost", findings, reason="full")

        return done

    def _time_of(self, finding: Finding, observed_ns: int) -> int:
        """Return when a finding was, by the wall clock as far as it is known."""
        if not finding.flags & MONOTONIC:
            return finding.time_ns
        return self._store.timeline.wall_from(finding.time_ns) or observed_ns

    def _as_logs(self, findings: list[Finding], origin: int) -> LogRecords:
        """Return the findings as log records of the device that they are about."""
        numbers: list[int] = []
        times: list[int] = []
        bodies: list[bytes] = []
        observed_ns = self._clock.wall_ns()
        for finding in findings:
            about = self._store.series(finding.series)
            stream = Series(resource=about.resource, name="", kind="log")
            number = self._store.resolve(stream, self._store.owner(finding.series))
            if number is None:
                self._telemetry.count("tidegate_findings_lost", reason="max_series")
                continue
            time_ns = self._time_of(finding, observed_ns)
            numbers.append(number)
            times.append(time_ns)
            bodies.append(_as_record(finding, about, time_ns=time_ns, observed_ns=observed_ns))
        return LogRecords(np.array(numbers, np.uint32), np.array(times, np.int64), tuple(bodies), origin)


def _as_record(finding: Finding, about: Series, *, time_ns: int, observed_ns: int) -> bytes:
    """Return a finding as a LogRecord message."""
    return encode_log_record(
        time_ns=time_ns,
        observed_ns=observed_ns,
        severity_number=SEVERITY_WARN,
        severity_text="WARN",
        body=finding.text,
        attributes=(
            ("tidegate.finding.detector", finding.detector),
            ("tidegate.finding.metric", sentence(about.name)),
            ("tidegate.finding.score", float(finding.score)),
            ("tidegate.finding.threshold", float(finding.threshold)),
            ("tidegate.finding.value", float(finding.value)),
        ),
    )
