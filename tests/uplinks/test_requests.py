"""Checks for what becomes of a lease before it is sent."""

from __future__ import annotations

import json
from collections import Counter, deque
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs.otlp import ProtobufEncoder
from gateway.codecs.otlp_json import JsonEncoder
from gateway.codecs.otlp_messages import PATHS, count
from gateway.core.batch import DEVICE_TIME_REJECTED, MONOTONIC, Batch, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, WALL_FLOOR_NS, FakeClock, Quality, Sample
from gateway.core.contracts import BootId, Priority, Signal
from gateway.core.thinning import thin
from gateway.store.policy import Lane, Terms
from gateway.store.records import Lease, LeasedSegment
from gateway.store.segments import Ancestors, decode, press_metrics
from gateway.uplinks import requests
from gateway.uplinks.guards import StatusRefusedError
from gateway.uplinks.requests import Hand, NoClockError, RequestBuilder
from gateway.uplinks.verdicts import Stage
from hil.otlp_readings import parse_logs, parse_metrics

STAMPED = MONOTONIC
SERIES = [Series((("device.id", name),), "t") for name in "abc"]


@pytest.fixture
def store(make_store):
    return make_store(FakeClock())


@pytest.fixture
def builder(store) -> RequestBuilder:
    return RequestBuilder(
        timeline=store.timeline, encoder=ProtobufEncoder(series=store.series, gateway_attributes=(), version="1")
    )


async def lease(store):
    return await store.lease("cloud", readings_max=10**6, bytes_max=10**9)


def qualities(builder: RequestBuilder, hand: Hand) -> Counter:
    """How many points leave under which marks."""
    found: Counter = Counter()
    for part in hand.parts or ():
        for resource in ExportMetricsServiceRequest.FromString(builder.encode(part)).resource_metrics:
            for scope in resource.scope_metrics:
                marks = {
                    p.key: p.value.string_value or p.value.bool_value or p.value.int_value
                    for p in scope.scope.attributes
                }
                found[tuple(sorted(marks.items()))] += sum(len(m.gauge.data_points) for m in scope.metrics)
    return found


async def test_segments_of_one_lease_become_one_request(store, builder, make_readings) -> None:
    """Readings of several segments stand together by series, each series in the order of its times."""
    store.add(make_readings(5, series=1))
    store.add(make_readings(5, series=0))
    store.add(make_readings(5, series=1, start=5))
    hand = Hand(await lease(store))
    builder.open(hand)
    (part,) = hand.parts
    readings = parse_metrics(builder.encode(part))
    assert [(r.metric, r.value) for r in readings] == [
        *(("temperature", float(k)) for k in range(5)),
        *(("humidity", float(k)) for k in range(10)),
    ]


async def test_what_comes_from_the_backlog_says_so(store, builder, make_readings, make_records) -> None:
    """Backfill stands on the scope, of metrics and of logs."""
    store.add(make_readings(3), lane="backlog")
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(("tidegate.backfill", True),): 3}
    store.add(make_records(2), lane="backlog")
    hand = Hand(await lease(store))
    builder.open(hand)
    assert b"tidegate.backfill" in builder.encode(hand.parts[0])
    assert [line.body for line in parse_logs(builder.encode(hand.parts[0]))] == ["0", "1"]


async def test_arrival_stamps_become_unix_time(store, builder) -> None:
    """With a synced clock the boot's time is moved, and nothing needs to be said."""
    store.add(Batch.of(0, [1_000 * 10**9], np.ones(1), flags=STAMPED))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(): 1}
    assert parse_metrics(builder.encode(hand.parts[0]))[0].time_ns == store.clock.wall


async def test_each_quality_has_its_word(store, builder) -> None:
    """A rejected device time and a repaired stamp say so; the device's own time does not."""
    own = Batch.of(0, [WALL_FLOOR_NS], np.ones(1))
    rejected = Batch.of(0, [1_000 * 10**9], np.ones(1), flags=STAMPED | DEVICE_TIME_REJECTED)
    early = Batch.of(1, [5 * 10**9, 6 * 10**9], np.ones(2), flags=STAMPED)
    for batch in (
        own,
        rejected,
        early,
        Batch.join([own, rejected, Batch.of(1, [1001 * 10**9], np.ones(1), flags=STAMPED)]),
    ):
        store.add(batch)
    hand = Hand(await lease(store))
    builder.open(hand)
    word = "tidegate.time.quality"
    arrival = ((word, "arrival"), ("tidegate.time.rejected", True))
    assert qualities(builder, hand) == {(): 3, arrival: 2, ((word, "repaired"),): 2}


@pytest.mark.parametrize(
    ("quality", "word"),
    [
        (Quality.SYNCED, ""),
        (Quality.UNSYNCED, "unsynced"),
        (Quality.REPAIRED, "repaired"),
        (Quality.ESTIMATED, "estimated"),
    ],
)
async def test_how_good_a_time_is_leaves_with_it(store, builder, monkeypatch, quality: Quality, word: str) -> None:
    """Under the names that stand in the documents; a good one says nothing."""
    monkeypatch.setattr(store.timeline, "repair", lambda moments, _boot: (moments + WALL_FLOOR_NS, quality))
    store.add(Batch.of(0, [5 * 10**9], np.ones(1), flags=STAMPED))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(("tidegate.time.quality", word),) if word else (): 1}


@pytest.mark.parametrize("step_s", [0, 60])
@pytest.mark.parametrize(
    ("quality", "word"),
    [
        (Quality.SYNCED, "arrival"),
        (Quality.UNSYNCED, "unsynced"),
        (Quality.REPAIRED, "repaired"),
        (Quality.ESTIMATED, "estimated"),
    ],
)
async def test_a_device_time_that_was_rejected_is_told_whatever_the_clock(
    store, builder, monkeypatch, quality: Quality, word: str, step_s: int
) -> None:
    """Beside how good the time is that stands for it, thinned too; what had no time of its own says nothing of it."""
    monkeypatch.setattr(store.timeline, "repair", lambda moments, _boot: (moments + WALL_FLOOR_NS, quality))
    store.add(Batch.of(0, [5 * 10**9], np.ones(1), flags=STAMPED | DEVICE_TIME_REJECTED))
    store.add(Batch.of(0, [6 * 10**9] * 2, np.ones(2), flags=STAMPED))
    store.add(Batch.of(0, [WALL_FLOOR_NS + 7 * 10**9], np.ones(1)))
    leased = await lease(store)
    leased.step_s = step_s
    hand = Hand(leased)
    builder.open(hand)
    found = qualities(builder, hand)
    diluted = (("tidegate.diluted", step_s),) if step_s else ()
    rejected = (("tidegate.time.quality", word), ("tidegate.time.rejected", True))
    assert found.pop((*diluted, *rejected)) == 1
    assert not any(key == "tidegate.time.rejected" for marks in found for key, _ in marks)
    own = (*diluted, ("tidegate.time.quality", word)) if quality else diluted
    assert found[own] >= 1
    assert set(found) == {diluted, own}


async def test_without_a_clock_stamped_readings_wait(make_store, make_readings) -> None:
    """A box in 1970 sends no reading of its own stamping; what has its device's time goes."""
    store = make_store(FakeClock(wall=5))
    builder = RequestBuilder(
        timeline=store.timeline, encoder=ProtobufEncoder(series=store.series, gateway_attributes=(), version="1")
    )
    store.add(Batch.of(0, [1], np.ones(1), flags=STAMPED))
    hand = Hand(await lease(store))
    with pytest.raises(NoClockError):
        builder.open(hand)
    assert hand == Hand(hand.lease)
    store.add(make_readings(3))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(): 3}
    assert store.timeline.quality is Quality.UNKNOWN


async def test_a_clock_that_comes_later_repairs_what_waited(make_store) -> None:
    """Once the hour is known, the stamps before it are rewritten and marked."""
    store = make_store(FakeClock(wall=5))
    builder = RequestBuilder(
        timeline=store.timeline, encoder=ProtobufEncoder(series=store.series, gateway_attributes=(), version="1")
    )
    store.add(Batch.of(0, [2_000 * 10**9], np.ones(1), flags=STAMPED))
    store.timeline.add(Sample(3_000 * 10**9, WALL_FLOOR_NS, Quality.SYNCED))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(("tidegate.time.quality", "repaired"),): 1}
    assert parse_metrics(builder.encode(hand.parts[0]))[0].time_ns == WALL_FLOOR_NS + 2_000 * 10**9


async def test_a_forgotten_boot_does_not_block(store, builder) -> None:
    """Stamps of a boot that nobody remembers are counted; what stands beside them goes."""
    batch = Batch.join([Batch.of(0, [WALL_FLOOR_NS], np.ones(1)), Batch.of(0, [1, 2], np.ones(2), flags=STAMPED)])
    store.add(batch, boot=BootId(9))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(): 1}
    assert hand.rejected == {"time_lost": 2}
    assert "boot 9" in hand.message
    assert not hand.is_begun


async def test_a_damaged_segment_does_not_block(store, builder, make_readings) -> None:
    """It is counted whole, the others go; nothing but damage leaves nothing to send."""
    store.add(make_readings(4), body=b"damage")
    store.add(make_readings(3))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert qualities(builder, hand) == {(): 3}
    assert (hand.rejected, hand.lost, hand.reason()) == ({"damaged": 4}, 4, "damaged")
    store.add(make_readings(2), body=b"")
    hand = Hand(await lease(store))
    builder.open(hand)
    assert (list(hand.parts), hand.rejected) == ([], {"damaged": 2})


async def test_log_records_are_halved_too(store, builder, make_records) -> None:
    """Three records become one and two."""
    store.add(make_records(3))
    hand = Hand(await lease(store))
    builder.open(hand)
    (part,) = hand.parts
    assert [[line.body for line in parse_logs(builder.encode(half))] for half in part.halves()] == [
        ["0"],
        ["1", "2"],
    ]


def test_a_hand_is_begun_when_the_far_side_has_said_something() -> None:
    """Our own reasons don't count, since sending again doubles nothing."""
    hand = Hand(SimpleNamespace(), parts=deque())
    hand.reject(0, "refused")
    hand.reject(2, "damaged", "crc")
    assert (hand.is_begun, hand.message) == (False, "crc")
    hand.reject(1, "refused")
    assert (hand.is_begun, hand.lost, hand.reason(), hand.message) == (True, 3, "damaged+refused", "crc")


async def test_what_is_thinned_is_four_of_each_step(store, builder, monkeypatch) -> None:
    """Of all segments together, decoded a few at a time; it says so, and is what thinning all at once gives."""
    monkeypatch.setattr(requests, "DECODED_MAX", 100)
    monkeypatch.setattr(requests, "THINNED_PIECES_MAX", 2)
    dice = np.random.default_rng(5)
    batches = []
    for minute in range(10):
        times = 1_790_000_040 * NS_PER_S + (np.arange(60) + 60 * minute) * NS_PER_S
        for series in (0, 1):
            batches.append(Batch.of(series, times, dice.normal(size=60)))
            store.add(batches[-1])
    terms = Terms(step_s=((60.0,) * 3,) * 4)
    hand = Hand(await store.lease("cloud", readings_max=1, bytes_max=1, terms=terms))
    assert (hand.lease.readings, hand.is_thinned) == (1200, True)
    builder.open(hand)
    (part,) = hand.parts
    expected = thin(Batch.join(batches), 60 * NS_PER_S)
    readings = parse_metrics(builder.encode(part))
    assert [(r.time_ns, r.value) for r in readings] == [*zip(expected.time_ns, expected.values(), strict=True)]
    assert len(readings) <= 4 * 2 * 10
    assert qualities(builder, hand) == {(("tidegate.diluted", 60),): len(readings)}


def diluted(batch: Batch, sequence: int, step_s: int) -> LeasedSegment:
    """Return a segment as a full shelf leaves it."""
    ancestors = Ancestors(bytes(16), bytes(16), sequence, sequence, len(batch) + 1, step_s)
    body = press_metrics(batch).seal(sequence=sequence, boot=BootId(1), previous_hash=bytes(16), ancestors=ancestors)
    return LeasedSegment(sequence, BootId(1), Signal.METRICS, Priority.NORMAL, len(batch), body)


async def test_what_the_shelf_has_diluted_says_so(store, builder, make_readings) -> None:
    """Beside what is whole; and of two steps that it went through the coarser one."""
    store.add(make_readings(7, series=0))
    whole = (await lease(store)).segments
    segments = [*whole, diluted(make_readings(5, series=1), 8, 60), diluted(make_readings(3, series=1), 9, 900)]
    hand = Hand(Lease("cloud", Lane.LIVE, segments, Signal.METRICS))
    builder.open(hand)
    assert qualities(builder, hand) == {(): 7, (("tidegate.diluted", 60),): 5, (("tidegate.diluted", 900),): 3}
    hand = Hand(Lease("cloud", Lane.LIVE, segments, Signal.METRICS, step_s=300.0))
    builder.open(hand)
    assert set(qualities(builder, hand)) == {(("tidegate.diluted", 300),), (("tidegate.diluted", 900),)}


async def test_series_are_counted_for_who_asks(store, make_readings) -> None:
    """It costs a look at each reading."""
    encoder = ProtobufEncoder(series=store.series, gateway_attributes=(), version="1")
    for counts, expected in ((True, 2), (False, 0)):
        store.add(make_readings(5, series=1))
        store.add(make_readings(5, series=0))
        hand = Hand(await lease(store))
        RequestBuilder(timeline=store.timeline, encoder=encoder, counts_series=counts).open(hand)
        assert hand.series == expected


def spans(*names: str, device: str = "d") -> bytes:
    message = ResourceSpans()
    message.resource.attributes.add(key="device.id").value.string_value = device
    scope = message.scope_spans.add()
    for name in names:
        scope.spans.add(name=name)
    return message.SerializeToString()


def messages(*bodies: bytes, signal: Signal = Signal.TRACES, counts: list[int] | None = None) -> ResourceRecords:
    found = [count(body, PATHS[signal]) for body in bodies] if counts is None else counts
    return ResourceRecords(signal, np.array(found, np.int64), np.zeros(len(bodies), np.int64), bodies)


def names_of(builder: RequestBuilder, *parts) -> list[str]:
    return [
        span.name
        for part in parts
        for resource in ExportTraceServiceRequest.FromString(builder.encode(part)).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def test_otlp_messages_of_one_lease_become_one_request(store, builder) -> None:
    """In their order; halved down to single spans, each with its resource."""
    store.add(messages(spans("a", "b"), spans("c")))
    store.add(messages(spans("d", "e", "f")))
    hand = Hand(await lease(store))
    builder.open(hand)
    (part,) = hand.parts
    assert (part.signal, len(part)) == (Signal.TRACES, 6)
    assert names_of(builder, part) == list("abcdef")
    whole = [part]
    while any(len(one) > 1 for one in whole):
        whole = [half for one in whole for half in (one.halves() if len(one) > 1 else [one])]
    assert names_of(builder, *whole) == list("abcdef")
    assert all(b"device.id" in builder.encode(one) for one in whole)


async def test_as_json_little_is_written_in_one_go(store) -> None:
    """It takes long, and everybody else in the event loop waits."""
    encoder = JsonEncoder(series=store.series, gateway_attributes=(), version="1")
    encoder.messages_bytes_max = 50
    builder = RequestBuilder(timeline=store.timeline, encoder=encoder)
    store.add(messages(spans(*"abcdefghij"), spans("x" * 500)))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert len(hand.parts) == 3
    assert sum(map(len, hand.parts)) == 11
    bodies = [json.loads(builder.encode(part))["resourceSpans"] for part in hand.parts]
    names = [s["name"] for body in bodies for r in body for scope in r["scopeSpans"] for s in scope["spans"]]
    assert names == [*"abcdefghij", "x" * 500]


async def test_what_came_as_otlp_leaves_beside_what_the_mappings_made(store, builder, make_readings) -> None:
    """A lease of one signal may hold both; late ones say so, each in its place."""
    message = ResourceMetrics()
    message.scope_metrics.add().metrics.add(name="m").gauge.data_points.add(as_int=7)
    store.add(make_readings(3), lane="backlog")
    store.add(messages(message.SerializeToString(), signal=Signal.METRICS), lane="backlog")
    hand = Hand(await lease(store))
    builder.open(hand)
    sent = [ExportMetricsServiceRequest.FromString(builder.encode(part)).resource_metrics for part in hand.parts]
    passed_on, mapped = sent
    assert [len(part) for part in hand.parts] == [1, 3]
    assert passed_on[0].scope_metrics == message.scope_metrics
    assert [p.key for p in passed_on[0].resource.attributes] == ["tidegate.backfill"]
    assert [p.key for p in mapped[0].scope_metrics[0].scope.attributes] == ["tidegate.backfill"]


async def test_otlp_messages_that_are_damaged_are_counted(store, builder) -> None:
    """Those of the other segments leave; a segment whose header is wrong is one too."""
    store.add(messages(spans("a")))
    store.add(messages(spans("c")), body=b"TGS1" + bytes(64))
    store.add(messages(spans("b"), counts=[5]))
    hand = Hand(await lease(store))
    builder.open(hand)
    assert names_of(builder, *hand.parts) == ["a"]
    assert hand.rejected == {"damaged": 6}
    assert hand.message.startswith("segment 2: this segment has format version 0")


async def test_otlp_messages_that_were_given_up_can_be_looked_at(store, builder) -> None:
    """As a segment, like all else."""
    store.add(messages(spans("a", "b")))
    hand = Hand(await lease(store))
    builder.open(hand)
    hand.split()
    hand.doubt(StatusRefusedError("no", 400))
    hand.give_up()
    ((message, readings, body),) = hand.aside()
    assert (message, readings) == ("no", 1)
    assert [span.name for span in ResourceSpans.FromString(decode(body).bodies[0]).scope_spans[0].spans] == ["a"]


@pytest.mark.parametrize("seed", range(4))
async def test_a_few_readings_may_go_first(store, builder, make_readings, seed: int) -> None:
    """From one of two places, so that a guilty one does not hide all others; nothing is lost by it."""
    store.add(make_readings(100))
    hand = Hand(await lease(store))
    builder.open(hand)
    hand.lead(Random(seed), readings_max=3)
    assert len(hand.parts[0]) == 3
    times = sorted(t for part in hand.parts for batch, _ in part.groups for t in batch.time_ns.tolist())
    assert len(times) == len(set(times)) == 100
    hand.lead(Random(seed), readings_max=3)
    assert 1 <= len(hand.parts[0]) <= 3
    assert sum(map(len, hand.parts)) == 100


async def test_what_a_server_failed_at_is_not_given_up_with_what_it_refused(store, builder, make_readings) -> None:
    """While the lease is cut: by itself it may be taken yet."""
    store.add(make_readings(4))
    hand = Hand(await lease(store), stage=Stage.CUT)
    builder.open(hand)
    hand.split()
    hand.doubt(StatusRefusedError("status 400", 400))
    hand.doubt(StatusRefusedError("status 500", 500))
    hand.give_up()
    assert (hand.stage, hand.rejected, [len(part) for part in hand.parts]) == (Stage.ALONE, {"refused": 2}, [2])
    hand.stage = Stage.LAST
    hand.doubt(StatusRefusedError("status 500", 500))
    hand.give_up()
    assert (hand.rejected, len(hand.parts)) == ({"refused": 4}, 0)


async def test_what_was_put_last_comes_after_all_others(store, builder, make_readings) -> None:
    """When it failed at all of them each is suspect."""
    store.add(make_readings(4))
    hand = Hand(await lease(store))
    builder.open(hand)
    hand.split()
    assert hand.put_last()
    assert not hand.is_suspect
    assert not hand.put_last()
    assert hand.is_suspect


def test_what_a_cut_may_double_is_counted_at_once() -> None:
    """Never less than what failed, and not much more."""
    hand = Hand(lease=None, stage=Stage.CUT)
    for failed, counted in ((256, 512), (128, 0), (64, 0), (32, 0), (16, 0), (8, 0), (4, 0), (2, 0), (1, 0), (64, 128)):
        hand.maybe_taken = 0
        hand.count_failed(failed)
        assert hand.maybe_taken == counted
    hand.stage, hand.maybe_taken = Stage.ALONE, 0
    hand.count_failed(1)
    assert hand.maybe_taken == 1
