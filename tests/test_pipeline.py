"""The data path, with a real mapper and a shelf that can be told what to do."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from gateway.codecs.mapping import Mapper, MappingSettings, default_mappings
from gateway.codecs.mapping_settings import MetricSettings, TimeSettings
from gateway.core.batch import Batch, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, WALL_CEILING_NS, FakeClock, Quality
from gateway.core.contracts import Arrivals, FullError, Lost, Messages, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.text import SENTENCE_CHARS_MAX
from gateway.detect.engine import Engine
from gateway.detect.settings import Match, ZScoreSettings
from gateway.pipeline import FEW_BYTES, FEW_MESSAGES, Pipeline
from gateway.store.records import Loss


@dataclass
class FakeTimeline:
    """Knows the time of day, or not."""

    offset_ns: int | None = 1_790_000_000_000_000_000
    quality: Quality = Quality.SYNCED

    def wall_from(self, monotonic_ns: int) -> int | None:
        return None if self.offset_ns is None else monotonic_ns + self.offset_ns


@dataclass
class FakeStore:
    """Keeps what it is given, unless it is full."""

    max_series: int = 1000
    full: int = 0
    timeline: FakeTimeline = field(default_factory=FakeTimeline)
    kept: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    holders: list[Any] = field(default_factory=list)
    deferred: list[Any] | None = None
    refusing: bool = False
    findings: int = 0

    @property
    def evidence(self) -> FakeStore:
        return self

    def found(self) -> None:
        self.findings += 1

    def add_holder(self, holder) -> None:
        self.holders.append(holder)

    def owner(self, number: int) -> str:
        return self.owners[number]

    def resolve(self, series, owner="", *, is_own=False) -> int | None:
        if series not in self.numbers and len(self.numbers) >= self.max_series:
            return None
        number = self.numbers.setdefault(series, len(self.numbers) + 1)
        self.owners.setdefault(number, owner)
        return number

    def series(self, number: int):
        return next(series for series, known in self.numbers.items() if known == number)

    async def wait_for_room(self) -> None:
        pass

    def defer(self, come, *, is_last=False) -> bool:
        if self.deferred is None:
            return False
        self.deferred.append(come)
        return True

    def append(self, pieces, *, logs=None, records=(), losses=(), set_aside=(), is_last=False) -> asyncio.Future[None]:
        if self.full or self.refusing:
            self.full -= not self.refusing
            raise FullError("the shelf is full", 2.0)
        self.kept.append(
            {
                "pieces": pieces,
                "logs": logs,
                "records": records,
                "losses": losses,
                "set_aside": set_aside,
                "is_last": is_last,
            }
        )
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @property
    def values(self) -> list[float]:
        return [v for kept in self.kept for _, batch in kept["pieces"] for v in batch.values().tolist()]


def build(store: FakeStore, *, watch: bool = False) -> tuple[Pipeline, Telemetry]:
    telemetry = Telemetry()
    engine = None
    if watch:
        settings = [ZScoreSettings(match=Match(metric="temp"), threshold=6.0, warmup=20)]
        engine = Engine(settings, series=store.series)
    mapper = Mapper(default_mappings(), resolve=store.resolve)
    return Pipeline(mapper=mapper, engine=engine, store=store, clock=FakeClock(), telemetry=telemetry), telemetry


def arrivals(*payloads: bytes, topic: bytes = b"plant/d1", arrived_ns: int = 1_000_000_000) -> Arrivals:
    return Arrivals("direct", [topic] * len(payloads), list(payloads), arrived_ns)


async def test_what_is_accepted_is_kept_and_counted() -> None:
    """The readings are on the shelf when accept returns, the messages in the telemetry."""
    store = FakeStore()
    pipeline, telemetry = build(store)
    accepted = await pipeline.accept(arrivals(b'{"temp": 20.5}', b'{"temp": 21.5}'))
    assert (accepted.readings, accepted.malformed) == (2, [])
    assert store.values == [20.5, 21.5]
    assert telemetry.value("tidegate_messages_accepted", source="direct") == 2


async def test_what_nobody_understands_is_lost_by_reason_and_set_aside() -> None:
    """The good message beside it is kept; the bad one is counted once and can be looked at."""
    store = FakeStore()
    pipeline, _ = build(store)
    accepted = await pipeline.accept(arrivals(b'{"temp": 20.5}', b'{"temp": '))
    assert accepted.readings == 1
    ((index, reason, sentence, _),) = accepted.malformed
    assert index == 1
    (loss,) = store.kept[0]["losses"]
    assert (loss.reason, loss.readings, loss.first_ns) == (reason, 1, 1_000_000_000 + FakeTimeline().offset_ns)
    (aside,) = store.kept[0]["set_aside"]
    assert (aside.source, aside.topic, aside.payload, aside.message) == ("direct", b"plant/d1", b'{"temp": ', sentence)


async def test_a_payload_that_loses_several_readings_counts_them_all_and_is_set_aside_once() -> None:
    """Though they are one entry."""
    store = FakeStore(max_series=1)
    pipeline, _ = build(store)
    accepted = await pipeline.accept(arrivals(b'{"a": 1, "b": 2, "c": 3}'))
    assert [(lost.reason, lost.readings) for lost in accepted.malformed] == [("max_series", 2)]
    assert [(loss.reason, loss.readings) for loss in store.kept[0]["losses"]] == [("max_series", 2)]
    assert len(store.kept[0]["set_aside"]) == 1


async def test_a_mistake_of_our_own_costs_one_message(caplog) -> None:
    """Nobody's neighbour is pushed back for it, and it does not come back for ever: it is set aside, and said."""
    store = FakeStore()
    pipeline, telemetry = build(store)
    real = pipeline.mapper.map

    def stumbles(what: Arrivals, *, wall_ns):
        if b"odd" in what.payloads:
            raise RecursionError("too deep")
        return real(what, wall_ns=wall_ns)

    pipeline.mapper.map = stumbles
    accepted = await pipeline.accept(arrivals(b'{"temp": 20.5}', b"odd", b'{"temp": 21.5}'))
    assert accepted.readings == 2
    assert [(index, reason) for index, reason, *_ in accepted.malformed] == [(1, "mapping_failed")]
    assert store.values == [20.5, 21.5]
    assert [aside.payload for aside in store.kept[0]["set_aside"]] == [b"odd"]
    assert telemetry.value("tidegate_mapping_mistakes") == 1
    assert "a buffer of 3 messages cannot be mapped" in caplog.text


async def test_why_a_payload_is_set_aside_fits_one_line() -> None:
    """The sentence holds names that the device chose, on a topic that it chose."""
    store = FakeStore()
    pipeline, _ = build(store)
    nasty = "\x1b[2J\u202e\n" + "n" * 10_000
    await pipeline.accept(
        arrivals(b'{"%s": {"a": "x"}, "b": {}}' % nasty.encode("unicode_escape"), topic=nasty.encode())
    )
    (aside,) = store.kept[0]["set_aside"]
    assert aside.topic == nasty.encode()
    assert aside.message.isprintable()
    assert len(aside.message) <= SENTENCE_CHARS_MAX


async def test_losses_of_one_reason_are_one_line() -> None:
    """Many bad messages in one buffer cost one entry of the ledger."""
    store = FakeStore()
    pipeline, _ = build(store)
    await pipeline.accept(arrivals(*[b"{"] * 50))
    assert [loss.readings for loss in store.kept[0]["losses"]] == [50]


async def test_what_a_source_dropped_is_a_loss() -> None:
    """Beside what could not be understood, and with nothing else in the arrivals."""
    store = FakeStore()
    pipeline, telemetry = build(store)
    one = arrivals(b"{")
    one.dropped = {"will_dropped": 3}
    await pipeline.accept(one)
    assert {loss.reason: loss.readings for loss in store.kept[0]["losses"]} == {"will_dropped": 3, "malformed_json": 1}
    alone = arrivals()
    alone.dropped = {"will_dropped": 2}
    await pipeline.accept(alone)
    assert [(loss.reason, loss.readings) for loss in store.kept[1]["losses"]] == [("will_dropped", 2)]
    assert telemetry.value("tidegate_messages_accepted", source="direct") == 1


async def test_what_a_source_lost_is_a_loss_and_set_aside() -> None:
    """Among others, and alone; nothing is made of what there is of it."""
    store = FakeStore()
    pipeline, _ = build(store)
    one = arrivals(b'{"temp": 20.5}', b'{"temp": 1}', b"{")
    one.lost = [Lost(1, "oversize", "too large")]
    accepted = await pipeline.accept(one)
    assert (accepted.readings, store.values) == (1, [20.5])
    assert {loss.reason: loss.readings for loss in store.kept[0]["losses"]} == {"oversize": 1, "malformed_json": 1}
    asides = {aside.reason: (aside.payload, aside.message) for aside in store.kept[0]["set_aside"]}
    assert asides["oversize"] == (b'{"temp": 1}', "too large")
    alone = arrivals(b"x")
    alone.lost = [Lost(0, "oversize", "too large")]
    assert (await pipeline.accept(alone)).malformed == alone.lost
    assert store.kept[1]["pieces"] == []


async def test_the_shelf_hears_that_nothing_more_comes() -> None:
    """From the source, untouched."""
    store = FakeStore()
    pipeline, _ = build(store)
    for is_last in (False, True):
        one = arrivals(b'{"temp": 1}')
        one.is_last = is_last
        await pipeline.accept(one)
    assert [kept["is_last"] for kept in store.kept] == [False, True]


async def test_without_a_clock_a_loss_has_no_time() -> None:
    """0 stands for: not known."""
    store = FakeStore(timeline=FakeTimeline(offset_ns=None))
    pipeline, _ = build(store)
    await pipeline.accept(arrivals(b"{"))
    assert store.kept[0]["losses"][0].first_ns == 0


async def test_a_full_shelf_keeps_nothing_and_takes_the_same_arrivals_later() -> None:
    """The error goes to the source; offered again, the same is kept, and no detector has seen it twice."""
    store = FakeStore()
    pipeline, telemetry = build(store, watch=True)
    store.full = 3
    one = arrivals(b'{"temp": 20.5}', b"{")
    for _ in range(3):
        with pytest.raises(FullError) as caught:
            await pipeline.accept(one)
        assert caught.value.after_s == 2.0
    assert telemetry.value("tidegate_messages_accepted", source="direct") == 0
    accepted = await pipeline.accept(one)
    assert (accepted.readings, len(accepted.malformed)) == (1, 1)
    assert len(store.kept) == 1
    assert store.kept[0]["set_aside"][0].payload == b"{"
    assert pipeline.engine is not None
    assert sum(watch["readings"] for watch in pipeline.engine.status().values()) == 1
    assert telemetry.value("tidegate_messages_accepted", source="direct") == 2


async def steady_then_hot(pipeline: Pipeline, *, count: int = 60) -> None:
    for k in range(count):
        payload = b'{"temp": %d.%d}' % (20, k % 10)
        await pipeline.accept(arrivals(payload, arrived_ns=1_000_000_000 * (k + 1)))
    await pipeline.accept(arrivals(b'{"temp": 95.0}', arrived_ns=1_000_000_000 * (count + 1)))


async def test_a_finding_is_a_log_record_of_the_device_it_is_about() -> None:
    """Time, severity, text and numbers stand in it; its stream is the device's own."""
    store = FakeStore()
    pipeline, telemetry = build(store, watch=True)
    await steady_then_hot(pipeline)
    logs = [records for kept in store.kept for records in kept["logs"]]
    assert len(logs) == 1
    assert store.findings == 1
    record = LogRecord.FromString(logs[0].bodies[0])
    attributes = {item.key: item.value for item in record.attributes}
    assert attributes["tidegate.finding.metric"].string_value == "temp"
    assert attributes["tidegate.finding.value"].double_value == 95.0
    assert attributes["tidegate.finding.score"].double_value > attributes["tidegate.finding.threshold"].double_value
    assert "95" in record.body.string_value
    assert record.severity_text == "WARN"
    # The reading was stamped at arrival by the monotonic clock; the record carries the time of day.
    assert record.time_unix_nano == logs[0].time_ns[0] == 61_000_000_000 + FakeTimeline().offset_ns
    stream = store.series(int(logs[0].series[0]))
    assert (stream.kind, stream.name) == ("log", "")
    assert ("mqtt.topic", "plant/d1") in stream.resource
    assert telemetry.value("tidegate_findings") == 1


async def test_what_is_found_is_of_the_mapping_that_made_the_readings() -> None:
    """So that an uplink which does not take these does not get what was found in them."""
    store = FakeStore()
    pipeline, _ = build(store, watch=True)
    mappings = [MappingSettings(match=f"{name}/#", resource={"id": "{topic}"}, fields="*") for name in ("plant", "lab")]
    pipeline.mapper = Mapper(mappings, resolve=store.resolve, origins=[7, 0])
    for k in range(61):
        payload = b'{"temp": %d.%d}' % (20 if k < 60 else 95, k % 10)
        both = Arrivals("direct", [b"plant/d1", b"lab/d2"], [payload] * 2, 1_000_000_000 * (k + 1))
        await pipeline.accept(both)
    found = [records for kept in store.kept for records in kept["logs"]]
    assert sorted((records.origin, len(records)) for records in found) == [(0, 1), (7, 1)]
    assert {batch.origin for kept in store.kept for _, batch in kept["pieces"]} == {0, 7}


async def test_a_finding_without_a_clock_has_the_time_it_was_seen() -> None:
    """The best that there is, until the wall clock is known."""
    store = FakeStore(timeline=FakeTimeline(offset_ns=None))
    pipeline, _ = build(store, watch=True)
    await steady_then_hot(pipeline)
    (logs,) = [records for kept in store.kept for records in kept["logs"]]
    assert logs.time_ns[0] == FakeClock().wall_ns()


async def test_a_finding_with_no_series_left_is_counted() -> None:
    """The reading is kept, the finding is not, and somebody can see that."""
    store = FakeStore(max_series=1)
    pipeline, telemetry = build(store, watch=True)
    await steady_then_hot(pipeline)
    assert store.values[-1] == 95.0
    assert all(not kept["logs"] for kept in store.kept)
    assert telemetry.value("tidegate_findings_lost", reason="max_series") == 1


async def test_what_waits_for_room_keeps_its_numbers() -> None:
    """As long as a source has it in hand; when it is kept, or the source is gone, nobody needs them here."""
    store = FakeStore()
    pipeline, _ = build(store)
    assert store.holders == [pipeline]
    store.full = 2
    one, other = arrivals(b'{"temp": 20.5}'), arrivals(b'{"temp": 1}', topic=b"plant/d2")
    for held in (one, other):
        with pytest.raises(FullError):
            await pipeline.accept(held)

    def in_use() -> list[int]:
        return sorted(number for part in pipeline.series_in_use() for number in part.tolist())

    assert in_use() == [1, 2]
    await pipeline.accept(one)
    assert in_use() == [2]
    del other, held
    gc.collect()
    assert in_use() == []


async def test_what_is_with_the_shelf_is_under_way() -> None:
    """From the moment it is mapped: a commit that fails plans the next before its source hears of it."""
    store = FakeStore()
    pipeline, _ = build(store)
    seen: list[list[int]] = []

    async def append(pieces, **_: Any) -> None:
        seen.append([number for part in pipeline.series_in_use() for number in part.tolist()])

    store.append = append
    await pipeline.accept(arrivals(b'{"temp": 20.5}'))
    assert seen == [[1]]


async def test_a_forgotten_series_gets_a_new_number_and_is_still_known() -> None:
    """The mapper asks again, and the detector judges by what it has learnt."""
    store = FakeStore()
    pipeline, telemetry = build(store, watch=True)
    for k in range(60):
        await pipeline.accept(arrivals(b'{"temp": %d.%d}' % (20, k % 10), arrived_ns=10**9 * (k + 1)))
    (series,) = store.numbers
    store.numbers.clear()
    store.numbers[Series((), "between")] = 1
    pipeline.forget_series(np.array([1], np.uint32))
    await pipeline.accept(arrivals(b'{"temp": 95.0}', arrived_ns=10**9 * 61))
    (_, batch) = store.kept[-1]["pieces"][0]
    assert store.series(int(batch.series[0])) == series
    assert batch.series[0] == 2
    assert telemetry.value("tidegate_findings") == 1


async def test_a_finding_counts_for_the_owner_of_its_device() -> None:
    """Its stream of log records is a series too."""
    store = FakeStore()
    pipeline, _ = build(store, watch=True)
    await steady_then_hot(pipeline)
    assert store.owners == {1: "direct", 2: "direct"}


async def test_what_is_dropped_on_purpose_is_counted_and_not_set_aside() -> None:
    """It is in the ledger; the quarantine is for what somebody should look at, each payload once."""
    store = FakeStore()
    mappings = [
        MappingSettings(match="noise/#", drop=True),
        MappingSettings(match="#", metrics=(MetricSettings(field="a"), MetricSettings(field="b"))),
    ]
    mapper = Mapper(mappings, resolve=store.resolve)
    pipeline = Pipeline(mapper=mapper, engine=None, store=store, clock=FakeClock(), telemetry=Telemetry())
    await pipeline.accept(arrivals(b"1", topic=b"noise/x"))
    await pipeline.accept(arrivals(b'{"a":"x","b":[]}'))
    dropped, wrong = store.kept
    assert [(loss.reason, loss.readings) for loss in dropped["losses"]] == [("dropped_by_mapping", 1)]
    assert dropped["set_aside"] == []
    assert sum(loss.readings for loss in wrong["losses"]) == 2
    assert len(wrong["set_aside"]) == 1


async def test_of_those_that_find_no_series_one_a_minute_can_be_looked_at() -> None:
    """All are in the ledger; what nobody understands beside them is set aside as ever."""
    store = FakeStore(max_series=0)
    pipeline, _ = build(store)
    for second in (1, 2, 60, 61):
        await pipeline.accept(arrivals(b'{"a":1}', b'{"b":1}', b"{", arrived_ns=second * NS_PER_S))
    assert [{loss.reason: loss.readings for loss in kept["losses"]} for kept in store.kept] == [
        {"max_series": 2, "malformed_json": 1}
    ] * 4
    assert [sorted(aside.reason for aside in kept["set_aside"]) for kept in store.kept] == [
        ["malformed_json", "max_series"],
        ["malformed_json"],
        ["malformed_json"],
        ["malformed_json", "max_series"],
    ]


@pytest.mark.parametrize(("quality", "kept_ns"), [(Quality.UNSYNCED, 1), (Quality.SYNCED, 0)])
async def test_a_saved_clock_does_not_contradict_devices_that_know_better(quality: Quality, kept_ns: int) -> None:
    """Half a year ahead of an unconfirmed clock is believed; ahead of a confirmed one it is not."""
    store = FakeStore()
    store.timeline.quality = quality
    ahead_ns = store.timeline.offset_ns + 180 * 86_400 * NS_PER_S
    settings = MappingSettings(
        match="#", metrics=(MetricSettings(field="a"),), time=TimeSettings(field="ts", unit="ns")
    )
    mapper = Mapper([settings], resolve=store.resolve)
    pipeline = Pipeline(mapper=mapper, engine=None, store=store, clock=FakeClock(), telemetry=Telemetry())
    await pipeline.accept(arrivals(b'{"a":1,"ts":%d}' % ahead_ns))
    (_, batch) = store.kept[0]["pieces"][0]
    assert (batch.time_ns[0] == ahead_ns) == bool(kept_ns)


async def test_few_messages_are_mapped_when_their_commit_begins() -> None:
    """Together with others, in their order; each has its own answer."""
    store = FakeStore(deferred=[])
    pipeline, _ = build(store)
    mapped: list[int] = []
    first, second = arrivals(b'{"temp": 20.5}'), arrivals(b'{"temp": 21.5}')
    first.on_prepared = second.on_prepared = lambda _: mapped.append(len(store.deferred))
    waiting = [asyncio.ensure_future(pipeline.accept(each)) for each in (first, second)]
    await asyncio.sleep(0)
    assert (mapped, store.values) == ([], [])
    for come in store.deferred:
        come()
    assert [(await each).readings for each in waiting] == [1, 1]
    assert store.values == [20.5, 21.5]
    assert len(mapped) == 2


async def test_many_messages_are_mapped_at_once() -> None:
    """So much work is not left for one moment; nor are large ones."""
    store = FakeStore(deferred=[])
    pipeline, _ = build(store)
    await pipeline.accept(arrivals(*[b'{"temp": 20.5}'] * (FEW_MESSAGES + 1)))
    await pipeline.accept(arrivals(b'{"temp": 20.5' + b" " * FEW_BYTES + b"}"))
    assert not store.deferred
    assert len(store.values) == FEW_MESSAGES + 2


async def test_a_shelf_that_is_full_when_the_commit_begins_pushes_back() -> None:
    """What was made of the messages is kept for the next offer."""
    store = FakeStore(deferred=[])
    pipeline, _ = build(store)
    few = arrivals(b'{"temp": 20.5}')
    waiting = asyncio.ensure_future(pipeline.accept(few))
    await asyncio.sleep(0)
    store.refusing = True
    store.deferred.pop()()
    with pytest.raises(FullError):
        await waiting
    store.refusing = False
    assert not few.payloads
    assert (await pipeline.accept(few)).readings == 1


async def test_who_has_gone_when_the_commit_begins_leaves_nothing() -> None:
    """Nobody would acknowledge it."""
    store = FakeStore(deferred=[])
    pipeline, _ = build(store)
    waiting = asyncio.ensure_future(pipeline.accept(arrivals(b'{"temp": 20.5}')))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    store.deferred.pop()()
    assert store.values == []


def messages(*bodies: bytes, dropped: dict[str, int] | None = None) -> Messages:
    counts = np.full(len(bodies), 3, np.int64)
    records = ResourceRecords(Signal.TRACES, counts, np.zeros(len(bodies), np.int64), bodies)
    return Messages("local", records, Priority.BULK, 1_000_000_000, dropped or {})


@pytest.mark.parametrize("offset_ns", [1_790_000_000_000_000_000, None])
async def test_otlp_messages_are_kept_as_they_came(offset_ns: int | None) -> None:
    """With when they came, if there is a clock; what cannot be kept of their request is in the ledger."""
    store = FakeStore(timeline=FakeTimeline(offset_ns))
    pipeline, telemetry = build(store)
    await pipeline.accept_messages(messages(b"a", b"b", dropped={"oversize": 2}))
    (kept,) = store.kept
    ((priority, records),) = kept["records"]
    when_ns = 0 if offset_ns is None else offset_ns + 1_000_000_000
    assert (priority, records.bodies, records.time_ns.tolist()) == (Priority.BULK, (b"a", b"b"), [when_ns] * 2)
    assert [(loss.reason, loss.readings, loss.first_ns) for loss in kept["losses"]] == [("oversize", 2, when_ns)]
    assert (kept["pieces"], kept["is_last"]) == ([], True)
    assert telemetry.value("tidegate_messages_accepted", source="local") == 1


async def test_a_request_of_which_nothing_can_be_kept_is_in_the_ledger() -> None:
    """And nowhere else."""
    store = FakeStore()
    await build(store)[0].accept_messages(messages(dropped={"oversize": 2}))
    assert (store.kept[0]["records"], store.kept[0]["losses"][0].readings) == ([], 2)


async def test_what_waits_for_room_waits_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """From devices and from programs: columns are several times the size of some payloads."""
    store, room = FakeStore(), asyncio.Event()
    monkeypatch.setattr(store, "wait_for_room", room.wait)
    pipeline, _ = build(store)
    one = arrivals(b'{"temp": 20.5}')
    waiting = [pipeline.accept(one), pipeline.accept_messages(messages(b"a"))]
    tasks = [asyncio.create_task(each) for each in waiting]
    await asyncio.sleep(0.01)
    assert (store.kept, one.prepared) == ([], None)
    room.set()
    await asyncio.gather(*tasks)
    assert len(store.kept) == 2


async def test_a_full_shelf_pushes_back_on_programs_too() -> None:
    """Nothing is counted as accepted."""
    pipeline, telemetry = build(FakeStore(full=1))
    with pytest.raises(FullError):
        await pipeline.accept_messages(messages(b"a"))
    assert telemetry.value("tidegate_messages_accepted", source="local") == 0


def metrics(*values: float, program: str = "shop", name: str = "temp") -> Messages:
    """What a program measured second by second, as it sends it."""
    message = ResourceMetrics()
    message.resource.attributes.add(key="service.name").value.string_value = program
    message.resource.attributes.add(key="args").value.array_value.values.add(string_value="-v")
    message.resource.dropped_attributes_count = 3
    points = message.scope_metrics.add().metrics.add(name=name, unit="Cel").gauge.data_points
    for k, value in enumerate(values):
        points.add(as_double=value, time_unix_nano=(1_790_000_000 + k) * NS_PER_S)
    body = message.SerializeToString()
    records = ResourceRecords(Signal.METRICS, np.array([len(values)]), np.zeros(1, np.int64), (body,))
    return Messages("local", records, Priority.BULK, 1_000_000_000)


STEADY = [20.0 + k % 5 for k in range(60)]


async def test_what_programs_measure_is_watched_too() -> None:
    """The finding is a log of the program, which names itself as it did; the message stays as it came."""
    store = FakeStore()
    pipeline, telemetry = build(store, watch=True)
    assert pipeline.status() == {}
    one = metrics(*STEADY, 500.0)
    await pipeline.accept_messages(one)
    kept, beside = store.kept
    ((priority, records),) = kept["records"]
    assert (priority, records.bodies, kept["is_last"]) == (Priority.BULK, one.records.bodies, True)
    ((priority, logs),) = beside["records"]
    assert (priority, logs.signal, len(logs), len(logs.bodies)) == (Priority.CRITICAL, Signal.LOGS, 1, 1)
    message = ResourceLogs.FromString(logs.bodies[0])
    assert message.resource == ResourceMetrics.FromString(one.records.bodies[0]).resource
    (scope,) = message.scope_logs
    (record,) = scope.log_records
    assert scope.scope.name == "tidegate"
    assert record.time_unix_nano == (1_790_000_000 + 60) * NS_PER_S
    assert record.body.string_value.startswith("temp of ")
    assert record.attributes[0].value.string_value == "zscore"
    assert telemetry.value("tidegate_findings") == 1
    assert (store.findings, store.numbers) == (1, {})
    assert pipeline.status()["watched_otlp"]["series"] == 1


async def test_findings_of_several_programs_go_as_their_own() -> None:
    """In one segment; at the moment of arrival where their time is none."""
    store = FakeStore()
    pipeline, _ = build(store, watch=True)
    both = [metrics(*STEADY, *[500.0] * 200, program=name).records for name in ("shop", "bank")]
    odd = metrics(*STEADY)
    odd.records = ResourceRecords.join(both)
    await pipeline.accept_messages(odd)
    ((_, logs),) = store.kept[1]["records"]
    names = [ResourceLogs.FromString(body).resource.attributes[0].value.string_value for body in logs.bodies]
    assert (names, logs.counts.tolist()) == (["shop", "bank"], [1, 1])


@pytest.mark.parametrize("offset_ns", [1_790_000_000_000_000_000, None])
async def test_a_finding_without_a_time_is_of_when_it_came(offset_ns: int | None) -> None:
    """Or of now, where nobody knows when that was."""
    store = FakeStore(timeline=FakeTimeline(offset_ns))
    pipeline, _ = build(store, watch=True)
    message = ResourceMetrics()
    points = message.scope_metrics.add().metrics.add(name="temp").gauge.data_points
    for value in [*STEADY, 500.0]:
        points.add(as_double=value)
    records = ResourceRecords(Signal.METRICS, np.array([61]), np.zeros(1, np.int64), (message.SerializeToString(),))
    await pipeline.accept_messages(Messages("local", records, Priority.BULK, 1_000_000_000))
    ((_, logs),) = store.kept[1]["records"]
    (record,) = ResourceLogs.FromString(logs.bodies[0]).scope_logs[0].log_records
    assert record.time_unix_nano == (FakeClock().wall if offset_ns is None else offset_ns + 1_000_000_000)


async def test_what_is_pushed_back_is_watched_when_it_is_kept() -> None:
    """Its sender brings it again: watched twice it would count twice."""
    store = FakeStore(full=1)
    pipeline, telemetry = build(store, watch=True)
    with pytest.raises(FullError):
        await pipeline.accept_messages(metrics(*STEADY, 500.0))
    assert (pipeline.status(), store.findings) == ({}, 0)
    await pipeline.accept_messages(metrics(*STEADY, 500.0))
    assert pipeline.status()["watched_otlp"]["points"] == 61
    assert telemetry.value("tidegate_findings") == 1


@pytest.mark.parametrize("is_late", [True, False])
async def test_findings_that_find_no_room_are_counted(monkeypatch, is_late: bool) -> None:
    """At once or when the commit fails; the message is kept all the same."""
    store = FakeStore()
    pipeline, telemetry = build(store, watch=True)
    append = store.append

    def refuses(pieces, *, records=(), **more) -> asyncio.Future[None]:
        if records and records[0][1].signal is Signal.LOGS:
            if not is_late:
                raise FullError("the shelf is full")
            future = asyncio.get_running_loop().create_future()
            future.set_exception(FullError("the disk is full"))
            return future
        return append(pieces, records=records, **more)

    monkeypatch.setattr(store, "append", refuses)
    await pipeline.accept_messages(metrics(*STEADY, 500.0))
    await asyncio.sleep(0)
    assert telemetry.value("tidegate_findings_lost", reason="full") == 1
    assert telemetry.value("tidegate_messages_accepted", source="local") == 1


async def test_a_mistake_of_a_watchers_costs_its_sender_nothing(caplog) -> None:
    """The message is kept and acknowledged; the next one is watched again."""
    store = FakeStore()
    pipeline, telemetry = build(store, watch=True)
    await pipeline.accept_messages(metrics(*STEADY))
    real = pipeline.engine.watch
    pipeline.engine.watch = None
    await pipeline.accept_messages(metrics(*STEADY))
    assert telemetry.value("tidegate_watching_mistakes") == 1
    assert "local: OTLP metrics cannot be watched" in caplog.text
    pipeline.engine.watch = real
    await pipeline.accept_messages(metrics(500.0))
    assert (store.findings, telemetry.value("tidegate_messages_accepted", source="local")) == (1, 3)


async def test_without_a_detector_nothing_is_loaded_for_it() -> None:
    """Nor for logs and spans; and who never sends OTLP does not pay for that."""
    command = (
        "import asyncio, sys; sys.path.insert(0, '.'); from tests import test_pipeline as t; "
        "store = t.FakeStore(); plain, _ = t.build(store); watched, _ = t.build(store, watch=True); "
        "asyncio.run(plain.accept_messages(t.metrics(1.0))); asyncio.run(watched.accept_messages(t.messages(b'a'))); "
        "print([m for m in ('gateway.otlp_watch', 'gateway.codecs.otlp_points') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_what_needs_no_mapping_is_watched_once_and_kept_with_what_comes_beside_it() -> None:
    """However often it is put; as long as it waits its series are in use."""
    store = FakeStore()
    pipeline, _ = build(store, watch=True)
    number = store.resolve(Series((("device.id", "d1"),), "temp"), "client")
    values = np.array([20.0 + k % 5 for k in range(60)] + [500.0])
    batch = Batch.of(number, np.arange(61) * NS_PER_S + 1_790_000_000 * NS_PER_S, values)
    prepared = pipeline.prepare_pieces([(Priority.BULK, batch)], [Loss("no_room", 3)])
    assert next(numbers.tolist() for numbers in pipeline.series_in_use()) == [number] * 61
    assert store.findings == 1
    store.full = 2
    messages = ResourceRecords(Signal.LOGS, np.array([1]), np.array([0]), (b"x",))
    for _ in range(2):
        with pytest.raises(FullError):
            pipeline.put_prepared(prepared, records=[(Priority.NORMAL, messages)])
    await pipeline.put_prepared(prepared, records=[(Priority.NORMAL, messages)], is_last=True)
    (kept,) = store.kept
    assert (kept["pieces"], kept["is_last"]) == ([(Priority.BULK, batch)], True)
    assert len(kept["logs"]) == 1
    assert [loss.readings for loss in kept["losses"]] == [3]
    assert store.findings == 1


def test_between_which_times_a_reading_is_believed() -> None:
    """The same as with devices: a little ahead of a clock that is right, far ahead of one that may be wrong."""
    store = FakeStore()
    pipeline, _ = build(store)
    arrived_ns = 5 * NS_PER_S
    moment = pipeline.moment(arrived_ns)
    store.timeline.quality = Quality.UNSYNCED
    assert moment.arrived_ns == arrived_ns
    assert moment.ceiling_ns < pipeline.moment(arrived_ns).ceiling_ns
    store.timeline.offset_ns = None
    assert pipeline.moment(arrived_ns).ceiling_ns == WALL_CEILING_NS
