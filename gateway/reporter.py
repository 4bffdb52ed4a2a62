"""Says what was lost, in the log here and upstream, and sends the gateway's own numbers. Must not decide losses.

The ledger is the store's. What it has gained since the last look is said once, at most every LOOK_S seconds and
reason: to whoever reads this box's log, and as OTLP log records to whoever reads the far side's. As OTLP metrics the
totals of the ledger leave too, with what an operator of many gateways wants to know of each; on change, at most every
`report_s` seconds.

Both leave through the shelf and are readings there like all others: they outlive outages, and are accepted, held,
delivered or lost. What our own records do to the counts is never a reason to send more of their kind: a log record of
ours that is lost makes no log record (`Told`), and neither it nor a metric makes metrics (`Memory`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import MONOTONIC, Batch, LogRecords, Series
from gateway.core.contracts import DROPPED_BY_MAPPING, FullError, Priority, Signal
from gateway.core.text import printable
from gateway.core.timeouts import timeout
from gateway.core.words import plural
from gateway.store.accounts import WHILE_REMOVED
from gateway.store.planning import BEFORE, EVICTED, EXPIRED
from gateway.store.segments import SegmentError, decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from gateway.core.batch import Attributes
    from gateway.core.clock import Clock
    from gateway.store.database import Store
    from gateway.store.records import Lease, UplinkStatus

    Ledger: TypeAlias = dict[tuple[str, str], int]  # by uplink and reason, in readings
    Stream: TypeAlias = tuple[str, Attributes]

log = logging.getLogger("tidegate.ledger")

LOOK_S: Final = 30.0
# At the stop the last word may take so long: on a disk that takes nothing it stays in this box's log.
LAST_S_MAX: Final = 4.0
# What was not meant for an uplink, or is not wanted, stands in its ledger so that the sums are right; it is no loss.
NO_LOSSES: Final = frozenset({BEFORE, WHILE_REMOVED, DROPPED_BY_MAPPING})
# OTLP logs data model, SeverityNumber WARN.
SEVERITY_WARN: Final = 13
REASON_CHARS_MAX: Final = 100
# In each of our records, and in none of a device's: nobody else's attributes begin like that.
OWN_MARK: Final = b"tidegate.ledger.total"


class Point(NamedTuple):
    """One number of ours as a metric."""

    name: str
    unit: str
    kind: Literal["gauge", "sum"]
    attributes: Attributes
    value: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """The counts of one moment, in readings where nothing else is said. `others` were accepted and are not ours.

    `own_lost` has by uplink how many log records of ours were lost on its road since the start.
    """

    accepted: int
    others: int
    quarantined: int  # payloads
    used_bytes: int
    uplinks: dict[str, UplinkStatus]
    own_lost: dict[str, int] = field(default_factory=dict)

    def ledger(self) -> Ledger:
        """Return the whole ledger."""
        return {(name, reason): n for name, uplink in self.uplinks.items() for reason, n in uplink["ledger"].items()}

    def losses(self) -> Ledger:
        """Return what of it is lost."""
        return {key: n for key, n in self.ledger().items() if key[1] not in NO_LOSSES}

    def gains(self, name: str, since: Numbers) -> dict[str, int]:
        """Return by reason how much more one uplink has lost."""
        before = since.uplinks[name]["ledger"] if name in since.uplinks else {}
        now = self.uplinks[name]["ledger"]
        return {reason: total - before.get(reason, 0) for reason, total in now.items() if reason not in NO_LOSSES}

    def without(self, lost: Ledger) -> Numbers:
        """Return the counts as they were before these were lost."""
        uplinks: dict[str, UplinkStatus] = {}
        for name, uplink in self.uplinks.items():
            ledger = {reason: n - lost.get((name, reason), 0) for reason, n in uplink["ledger"].items()}
            uplinks[name] = {**uplink, "ledger": ledger}
        return replace(self, uplinks=uplinks)

    def points(self) -> Iterator[Point]:
        """Return all of it as metrics; for each uplink accepted = delivered + held + ledger + left_out."""
        yield Point("tidegate.accepted.readings", "{reading}", "sum", (), self.accepted)
        yield Point("tidegate.quarantined", "{payload}", "gauge", (), self.quarantined)
        yield Point("tidegate.store.used", "By", "gauge", (), self.used_bytes)
        for name, uplink in self.uplinks.items():
            whose: Attributes = (("tidegate.uplink", name),)
            yield Point("tidegate.delivered.readings", "{reading}", "sum", whose, uplink["delivered"])
            yield Point("tidegate.held.readings", "{reading}", "gauge", whose, uplink["held"])
            if uplink["left_out"]:
                yield Point("tidegate.left_out.readings", "{reading}", "sum", whose, uplink["left_out"])
            yield Point("tidegate.maybe_twice.readings", "{reading}", "sum", whose, uplink["maybe_twice"])
        for (name, reason), readings in self.ledger().items():
            why = printable(reason, REASON_CHARS_MAX)
            both: Attributes = (("tidegate.reason", why), ("tidegate.uplink", name))
            yield Point("tidegate.ledger.readings", "{reading}", "sum", both, readings)


class Told:
    """What the log records said last.

    Whatever the ledger gains is news but our own records: who refuses them would be told so for ever. Which of what
    an uplink lost they are is known, so a loss of others counts however small it is, and whatever we wrote meanwhile.
    """

    def __init__(self, said: Numbers) -> None:
        self.said = said
        self._records = 0

    def spoke(self, said: Numbers, *, records: int) -> None:
        """Take note that `said` is on the shelf, in so many records."""
        self.said = said
        self._records = records

    def is_news(self, name: str, now: Numbers) -> bool:
        """Whether an uplink's ledger gained more than our own records."""
        own = now.own_lost.get(name, 0) - self.said.own_lost.get(name, 0)
        gains = now.gains(name, self.said)
        if now.others != self.said.others:
            return sum(gains.values()) > own
        # While nobody else brings anything, what had to make room made it for us, and our last records grow old too.
        gains.pop(EVICTED, 0)
        expired = gains.pop(EXPIRED, 0)
        return sum(gains.values()) > own or expired > self._records


class Memory:
    """What the metrics said last, and how much of what changed since may be the doing of our own records.

    A receiver that refuses them puts each into the ledger, and a full shelf lets others go for them: taken for
    news, that would make the next record, for ever. So as many readings as we wrote count for nothing, until they
    are known to be settled.
    """

    def __init__(self, said: Numbers) -> None:
        self.said = said
        self._ours = 0
        self._accepted_behind = 0
        self._settled: set[str] = set()

    def spoke(self, said: Numbers) -> None:
        """Take note that `said` is on the shelf."""
        self.said = said
        self._ours = 0

    def wrote(self, count: int, *, accepted: int) -> None:
        """Take note of `count` records of ours; `accepted` is the gateway's count behind them."""
        self._ours += count
        self._accepted_behind = accepted
        self._settled.clear()

    def has_lost(self, name: str, now: Numbers) -> bool:
        """Whether an uplink's ledger gained more than our own records explain."""
        uplink = now.uplinks[name]
        gains = now.gains(name, self.said)
        if now.others == self.said.others:
            # While nobody else brings anything, what had to make room made it for us.
            gains.pop(EVICTED, 0)
        gained = sum(gains.values())
        settled = uplink["delivered"] + sum(uplink["ledger"].values()) + uplink["left_out"]
        if gained <= 0 and settled >= self._accepted_behind:
            self._settled.add(name)
        return gained > (0 if name in self._settled else self._ours)

    def has_moved(self, name: str, now: Numbers) -> bool:
        """Whether what is held for an uplink changed by more than our own records, or to nothing."""
        held = now.uplinks[name]["held"]
        said = self.said.uplinks[name]["held"] if name in self.said.uplinks else 0
        return abs(held - said) > self._ours or (not held and said > 0)


class Reporter:
    """Compares the counts with what it said before. `report_s` of 0 sends no metrics."""

    def __init__(self, *, store: Store, clock: Clock, report_s: float) -> None:
        self._store = store
        self._clock = clock
        self._report_s = report_s
        self._ours = 0
        self._own_lost: Counter[str] = Counter()
        store.settling.on_lost = self._lost
        # What earlier runs lost was said by them; the totals go with every record all the same.
        now = self._look()
        before = now.without(store.lost_at_start)
        self._logged = before.losses()
        self._logs = Told(before)
        self._metrics = Memory(before)
        self._began_ns = clock.monotonic_ns()
        self._at_start = {(point.name, point.attributes): point.value for point in now.points()}
        self._starts: dict[Stream, int] = {
            (series.name, series.attributes): series.start_ns
            for series in store.started_series()
            if not series.resource
        }

    async def run(self) -> None:
        """Look and report until cancelled; then look once more: whoever starts next knows not what was not said."""
        try:
            await self._live()
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):
                async with timeout(LAST_S_MAX):
                    await self.look()
            raise

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        looked_s = reported_s = loop.time()
        tick_s = min(LOOK_S, self._report_s or LOOK_S)
        while True:
            await asyncio.sleep(tick_s)
            if loop.time() - looked_s >= LOOK_S:
                looked_s = loop.time()
                await self.look()
            if self._report_s and loop.time() - reported_s >= self._report_s and await self.report():
                reported_s = loop.time()

    def _look(self) -> Numbers:
        status = self._store.status()
        quarantined, used_bytes = (status["store"].get(key) for key in ("quarantined", "used_bytes"))
        assert isinstance(quarantined, int)
        assert isinstance(used_bytes, int)
        accepted = status["accepted"]
        others = accepted - self._ours
        return Numbers(accepted, others, quarantined, used_bytes, status["uplinks"], dict(self._own_lost))

    def _wrote(self, count: int) -> None:
        """Take note of `count` records of ours that are on the shelf."""
        self._ours += count
        self._metrics.wrote(count, accepted=self._store.status()["accepted"])

    def _lost(self, lease: Lease, lost: int) -> None:
        """Count the log records of ours in what is lost; where only some of a lease is, they are taken for it."""
        if lease.signal is Signal.LOGS:
            self._own_lost[lease.uplink] += min(lost, _own_records(lease))

    # Logs.

    async def look(self) -> None:
        """Say what is new; what the shelf has no room for now is said upstream the next time."""
        now = self._look()
        totals = now.losses()
        for key, total in totals.items():
            if total > self._logged.get(key, 0):
                log.warning("uplink %s: %s", key[0], _sentence(key[1], total, since=self._logged.get(key, 0)))
        self._logged = totals
        if not any(self._logs.is_news(name, now) for name in now.uplinks):
            return
        try:
            count = await self._send(totals)
        except FullError as error:
            log.warning("the ledger's news stay here for now: %s", error)
            return
        self._logs.spoke(now, records=count)
        self._wrote(count)

    async def _send(self, totals: Ledger) -> int:
        """Put what is new on the shelf; return how many records that made."""
        number = self._store.resolve(Series(resource=(), name="", kind="log"), is_own=True)
        if number is None:
            log.warning("the ledger's news cannot be sent: max_series is reached")
            return 0
        observed_ns = self._clock.wall_ns()
        time_ns = self._store.timeline.wall_from(self._clock.monotonic_ns()) or observed_ns
        said = self._logs.said.ledger()
        bodies = tuple(
            _record(key, total, since=said.get(key, 0), time_ns=time_ns, observed_ns=observed_ns)
            for key, total in totals.items()
            if total > said.get(key, 0)
        )
        numbers = np.full(len(bodies), number, np.uint32)
        times = np.full(len(bodies), time_ns, np.int64)
        await self._store.append([], logs=LogRecords(numbers, times, bodies, self._store.own_origin))
        return len(bodies)

    # Metrics.

    async def report(self) -> bool:
        """Put our numbers on the shelf if any of them is news; return whether it was done."""
        monotonic_ns = self._clock.monotonic_ns()
        wall_ns = self._store.timeline.wall_from(monotonic_ns)
        now = self._look()
        # Without a clock nobody could say since when the sums count; they lose nothing by coming later.
        if wall_ns is None or not self._is_news(now):
            return False
        numbers: list[int] = []
        values: list[int] = []
        for point in now.points():
            number = self._store.resolve(self._series(point, wall_ns), is_own=True)
            if number is not None:
                numbers.append(number)
                values.append(point.value)
        # Normal like most readings: of one class with what else is committed now, they share its segment.
        batch = Batch.of(numbers, monotonic_ns, np.array(values, np.int64), flags=MONOTONIC)
        batch = replace(batch, origin=self._store.own_origin)
        try:
            await self._store.append([(Priority.NORMAL, batch)])
        except FullError:
            return False
        self._metrics.spoke(now)
        self._wrote(len(batch))
        return True

    def _is_news(self, now: Numbers) -> bool:
        memory = self._metrics
        if now.others != memory.said.others or now.quarantined != memory.said.quarantined:
            return True
        return any(memory.has_lost(name, now) or memory.has_moved(name, now) for name in now.uplinks)

    def _series(self, point: Point, now_ns: int) -> Series:
        start_ns = self._start_ns((point.name, point.attributes), now_ns) if point.kind == "sum" else 0
        return Series((), point.name, point.unit, point.kind, point.attributes, start_ns=start_ns)

    def _start_ns(self, stream: Stream, now_ns: int) -> int:
        """Return since when a sum counts (OTLP metrics data model, "Resets and gaps").

        It is kept with the series, so that a restart goes on with the same. What stood at nothing when we began has
        counted since then; of what did not, nobody knows when it did, and its first point says so by starting then.
        """
        start_ns = self._starts.get(stream, 0)
        if not 0 < start_ns <= now_ns:
            began_ns = None if self._at_start.get(stream) else self._store.timeline.wall_from(self._began_ns)
            start_ns = self._starts[stream] = min(began_ns or now_ns, now_ns)
        return start_ns


def _own_records(lease: Lease) -> int:
    found = 0
    for segment in lease.segments:
        # What cannot be read is nobody's.
        with contextlib.suppress(SegmentError):
            if isinstance(logs := decode(segment.body), LogRecords):
                found += sum(OWN_MARK in body for body in logs.bodies)
    return found


def _sentence(reason: str, total: int, *, since: int) -> str:
    lost = plural(total - since, "reading")
    return f"{lost} will not be delivered: {printable(reason, REASON_CHARS_MAX)} ({total:,} in all)"


def _record(key: tuple[str, str], total: int, *, since: int, time_ns: int, observed_ns: int) -> bytes:
    uplink, reason = key
    return encode_log_record(
        time_ns=time_ns,
        observed_ns=observed_ns,
        severity_number=SEVERITY_WARN,
        severity_text="WARN",
        body=f"uplink {uplink}: {_sentence(reason, total, since=since)}",
        attributes=(
            ("tidegate.ledger.readings", total - since),
            ("tidegate.ledger.reason", printable(reason, REASON_CHARS_MAX)),
            ("tidegate.ledger.total", total),
            ("tidegate.ledger.uplink", uplink),
        ),
    )
