"""What was lost is said once, here and upstream; the gateway's own numbers leave as metrics, and make no news of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway import reporter as module
from gateway.codecs.otlp import ProtobufEncoder, encode_log_record
from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import DROPPED_BY_MAPPING, FullError, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.reporter import Memory, Numbers, Reporter
from gateway.store.database import Loss, Store, StoreSettings
from gateway.uplinks.requests import Hand, RequestBuilder
from hil import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

CUMULATIVE = 2
LINE = encode_log_record(
    time_ns=1, observed_ns=1, severity_number=9, severity_text="INFO", body="a device's own", attributes=()
)
OURS = 6
"""Points of a report while the ledger is empty."""


class Box:
    """A real shelf with one uplink, a reporter, and a far side that takes or refuses what it is told to."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock = FakeClock()
        self.store: Store
        self.reporter: Reporter
        self.metrics: list[Any] = []
        self.records: list[Any] = []

    async def start(self, *, max_series: int = 100, uplinks: tuple[str, ...] = ("cloud",), **settings: Any) -> None:
        self.store = await Store.open(
            state_dir=self.state_dir,
            settings=StoreSettings(**settings),
            clock=self.clock,
            uplinks=uplinks,
            max_series=max_series,
            telemetry=Telemetry(),
            commit_interval_s=0,
        )
        self.reporter = Reporter(store=self.store, clock=self.clock, report_s=60)

    async def restart(self, **changes: Any) -> None:
        await self.store.close()
        await self.start(**changes)

    async def devices(self, count: int = 1, *, lost: int = 0) -> None:
        """Let devices send readings, and payloads that nobody understands."""
        number = self.store.resolve(Series((("device.id", "d1"),), "t"))
        assert number is not None
        batch = Batch.of(number, self.clock.wall_ns(), np.arange(count))
        losses = [Loss("malformed_json", lost)] if lost else []
        await self.store.append([(Priority.NORMAL, batch)] if count else [], losses=losses)

    async def send(self, *, refuse: tuple[Signal, ...] = (), reject: int = 0) -> None:
        """Deliver all that is held, as an uplink would, but what the far side refuses, or rejects of each request."""
        while (lease := await self.store.lease("cloud", readings_max=10_000, bytes_max=1 << 20)) is not None:
            if lease.signal in refuse:
                self.store.refuse(lease, "refused", "we take none of these")
                continue
            hand = Hand(lease)
            builder = RequestBuilder(
                timeline=self.store.timeline,
                encoder=ProtobufEncoder(series=self.store.series, gateway_attributes=(), version="1"),
            )
            builder.open(hand)
            for part in hand.parts or ():
                body = builder.encode(part)
                if lease.signal is Signal.METRICS:
                    self.metrics += [
                        metric
                        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
                        for scope in resource.scope_metrics
                        for metric in scope.metrics
                        if metric.name.startswith("tidegate.")
                    ]
                else:
                    self.records += [
                        record
                        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
                        for scope in resource.scope_logs
                        for record in scope.log_records
                    ]
            self.store.ack(lease, rejected=reject)

    async def report(self) -> bool:
        """Let a minute pass and report."""
        self.clock.advance(60 * NS_PER_S)
        return await self.reporter.report()

    def points(self) -> dict[tuple[str, str], Any]:
        """Return the newest point of each metric that arrived, by name and its reason (or uplink)."""
        found: dict[tuple[str, str], Any] = {}
        for metric in self.metrics:
            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                keys = {pair.key: pair.value.string_value for pair in point.attributes}
                key = metric.name, keys.get("tidegate.reason") or keys.get("tidegate.uplink", "")
                if key not in found or found[key].time_unix_nano <= point.time_unix_nano:
                    found[key] = point
        return found

    def values(self) -> dict[tuple[str, str], int]:
        return {key: point.as_int for key, point in self.points().items()}


@pytest.fixture
async def new_box(tmp_path: Path) -> AsyncIterator[Box]:
    """Give a box that is not started yet."""
    made = Box(tmp_path)
    yield made
    await made.store.close()


@pytest.fixture
async def box(new_box: Box) -> Box:
    await new_box.start()
    return new_box


# Logs.


async def test_what_a_mapping_drops_on_purpose_is_no_news(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the metrics of the ledger, so that the sums are right; nobody is warned of what they wished for."""
    await box.store.append([], losses=[Loss(DROPPED_BY_MAPPING, 30)])
    with caplog.at_level(logging.WARNING):
        await box.reporter.look()
    assert await box.report()
    await box.send()
    assert (box.records, caplog.messages) == ([], [])
    assert box.values()["tidegate.ledger.readings", DROPPED_BY_MAPPING] == 30


async def test_a_loss_is_said_here_and_upstream_once(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """With what is new and the total; a second look at the same says nothing."""
    await box.devices(lost=3)
    await box.restart()
    await box.devices(lost=2)
    with caplog.at_level(logging.WARNING):
        await box.reporter.look()
        await box.reporter.look()
    await box.send()
    (record,) = box.records
    assert record.body.string_value == "uplink cloud: 2 readings will not be delivered: malformed_json (5 in all)"
    numbers = {pair.key: pair.value.int_value for pair in record.attributes}
    assert (numbers["tidegate.ledger.readings"], numbers["tidegate.ledger.total"]) == (2, 5)
    assert caplog.messages.count(record.body.string_value) == 1


async def test_nothing_new_is_not_said(box: Box) -> None:
    """What stood in the ledger at the start was said by an earlier run."""
    await box.devices(lost=3)
    await box.restart()
    await box.reporter.look()
    await box.send()
    assert box.records == []


async def test_what_the_start_itself_lost_is_said(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """A salvage, an uplink that was let go: no earlier run could say it."""
    await box.devices(4, lost=3)
    await box.store.close()
    with sqlite3.connect(box.state_dir / "tidegate.db") as connection:
        connection.execute("UPDATE shelf SET readings = 99 WHERE readings = 4")
    connection.close()
    await box.start()
    assert box.store.lost_at_start == {("cloud", "damaged"): 4}
    await box.reporter.look()
    await box.send()
    (record,) = box.records
    assert record.body.string_value == "uplink cloud: 4 readings will not be delivered: damaged (4 in all)"


async def test_what_came_while_an_uplink_was_not_configured_is_no_loss(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    """It grows with all that comes, our own records too, and is never a reason to send any."""
    await box.restart(uplinks=("cloud", "old"))
    await box.devices(5)
    await box.restart(uplinks=("cloud",))
    await box.devices(7)
    assert await box.report()
    await box.reporter.look()
    assert box.store.status()["uplinks"]["old"]["ledger"]["while_removed"] >= 7
    assert not await box.report()
    await box.send()
    assert box.records == []
    assert "will not be delivered" not in caplog.text
    assert box.values()["tidegate.held.readings", "old"] == 5


async def test_on_a_full_shelf_it_is_said_again_later(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The local line comes at once and once, the record when there is room."""
    await box.devices(lost=1)
    with monkeypatch.context() as patch:
        patch.setattr(box.store, "append", full)
        await box.reporter.look()
        await box.reporter.look()
    await box.reporter.look()
    await box.send()
    assert len(box.records) == 1
    assert sum("will not be delivered" in message for message in caplog.messages) == 1


async def full(*_: object, **__: object) -> None:
    raise FullError("no room")


async def test_a_far_side_that_takes_no_logs_is_not_told_so_for_ever(box: Box) -> None:
    """Each refused record is a loss, and would be the next record's news."""
    await box.devices(lost=1)
    for _ in range(10):
        await box.reporter.look()
        await box.send(refuse=(Signal.LOGS,))
        await box.devices()
    assert box.store.status()["uplinks"]["cloud"]["ledger"]["refused"] == 1


async def test_a_loss_behind_our_own_is_still_said(box: Box) -> None:
    """One reading that the far side rejected, while an own record is on its way and after it arrived."""
    await box.devices(lost=1)
    await box.reporter.look()
    await box.send()
    await box.reporter.look()
    await box.devices()
    await box.send(refuse=(Signal.METRICS,))
    await box.reporter.look()
    await box.send()
    assert [record.body.string_value for record in box.records][1:] == [
        "uplink cloud: 1 reading will not be delivered: refused (1 in all)"
    ]


def said(box: Box) -> list[str]:
    """Return what arrived of each loss, without the uplink's name."""
    return [record.body.string_value.removeprefix("uplink cloud: ") for record in box.records]


async def test_small_losses_behind_reports_are_each_said_once(box: Box) -> None:
    """A report adds many readings of ours to the shelf, and none of them explains what others lose."""
    for _ in range(5):
        await box.devices()
        assert await box.report()
        await box.send()
        await box.reporter.look()
    await box.devices(0, lost=5)
    await box.reporter.look()
    await box.send()
    await box.devices(6)
    assert await box.report()
    await box.send(reject=4)
    await box.reporter.look()
    await box.devices(3)
    await box.send(refuse=(Signal.METRICS,))
    assert await box.report()
    for _ in range(3):
        await box.reporter.look()
        await box.send()
    assert said(box) == [
        "5 readings will not be delivered: malformed_json (5 in all)",
        "4 readings will not be delivered: rejected (4 in all)",
        "3 readings will not be delivered: refused (3 in all)",
    ]


async def test_a_loss_in_front_of_a_report_waits_for_no_other(box: Box) -> None:
    """It comes first, then the report, then the look."""
    await box.devices(0, lost=1)
    assert await box.report()
    await box.reporter.look()
    await box.send()
    assert said(box) == ["1 reading will not be delivered: malformed_json (1 in all)"]


async def test_a_loss_beside_a_record_that_is_refused_is_said(box: Box) -> None:
    """Only the record itself counts for nothing; what is said next has it in its total."""
    await box.devices(0, lost=1)
    await box.reporter.look()
    await box.send(refuse=(Signal.LOGS,))
    await box.devices(0, lost=1)
    for _ in range(3):
        await box.reporter.look()
    await box.send()
    assert sorted(said(box)) == [
        "1 reading will not be delivered: malformed_json (2 in all)",
        "1 reading will not be delivered: refused (1 in all)",
    ]


@pytest.mark.parametrize("is_rejected", [False, True])
async def test_records_of_ours_that_are_lost_after_a_restart_are_known_too(box: Box, is_rejected: bool) -> None:
    """They say themselves whose they are: one that waited for the link makes no other."""
    await box.devices(0, lost=1)
    await box.reporter.look()
    await box.restart()
    await (box.send(reject=1) if is_rejected else box.send(refuse=(Signal.LOGS,)))
    accepted = box.store.status()["accepted"]
    for _ in range(3):
        await box.reporter.look()
    assert box.store.status()["accepted"] == accepted


async def test_a_far_side_that_takes_nothing_of_ours_is_left_alone(box: Box) -> None:
    """The loss of a report is said in a record, and the loss of that in nothing."""
    await box.devices(5)
    accepted = []
    for _ in range(20):
        await box.report()
        await box.send(refuse=(Signal.METRICS, Signal.LOGS))
        await box.reporter.look()
        accepted.append(box.store.status()["accepted"])
    assert accepted[-1] == accepted[5]


async def test_logs_of_devices_that_are_refused_are_said(box: Box) -> None:
    """Of a lease with records of ours and of theirs, the theirs."""
    await box.devices(0, lost=1)
    await box.reporter.look()
    number = box.store.resolve(Series((("device.id", "d1"),), "", kind="log"))
    assert number is not None
    numbers, times = np.array([number], np.uint32), np.array([box.clock.wall_ns()])
    await box.store.append([], logs=LogRecords(numbers, times, (LINE,)))
    await box.send(refuse=(Signal.LOGS,))
    for _ in range(3):
        await box.reporter.look()
        await box.send()
    assert said(box) == ["2 readings will not be delivered: refused (2 in all)"]


async def test_records_that_grow_too_old_make_no_others(new_box: Box) -> None:
    """While the link is down and nobody brings anything; what others lose that way is said."""
    box = new_box
    await box.start(max_age=Duration(3600))
    await box.devices(5, lost=1)
    accepted = []
    for _ in range(10):
        await box.reporter.look()
        box.clock.advance(3601 * NS_PER_S)
        await box.store.tend()
        accepted.append(box.store.status()["accepted"])
    assert box.store.status()["uplinks"]["cloud"]["ledger"]["expired_age"] > 5
    assert accepted[-1] == accepted[3]
    assert accepted[-1] > accepted[0]


async def test_what_is_new_at_the_stop_is_said_then(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever starts next does not know it any more, and says it no second time."""
    task = asyncio.create_task(box.reporter.run())
    await asyncio.sleep(0)
    await box.devices(0, lost=2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await box.restart()
    await box.reporter.look()
    await box.send()
    assert said(box) == ["2 readings will not be delivered: malformed_json (2 in all)"]
    assert caplog.messages.count(box.records[0].body.string_value) == 1


async def test_a_stop_does_not_wait_for_a_disk_that_takes_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost then was said in this box's log."""
    monkeypatch.setattr(module, "LAST_S_MAX", 0.01)
    task = asyncio.create_task(box.reporter.run())
    await asyncio.sleep(0)
    await box.devices(0, lost=2)
    monkeypatch.setattr(box.store, "append", lambda *_, **__: asyncio.get_running_loop().create_future())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_reason_from_elsewhere_fits_one_line(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """Reasons are read from the disk, where damage may have made them into anything."""
    reason = "\x1b[2J\u202e\n" + "x" * 10_000
    await box.store.append([], losses=[Loss(reason, 1)])
    await box.reporter.look()
    await box.report()
    await box.send()
    texts = [box.records[0].body.string_value, *caplog.messages]
    texts += [pair.value.string_value for pair in box.records[0].attributes]
    texts += [name for _, name in box.points()]
    assert len(texts) > 8
    assert all(text.isprintable() and len(text) < 250 for text in texts), texts


# Metrics.


async def test_the_ledger_leaves_as_a_cumulative_monotonic_sum_with_its_start(box: Box) -> None:
    """For each uplink and reason, since the shelf began."""
    began_ns = box.clock.wall_ns()
    await box.devices(3, lost=2)
    await box.report()
    await box.devices(lost=5)
    await box.report()
    await box.send()
    found = [metric for metric in box.metrics if metric.name == "tidegate.ledger.readings"]
    points = sorted((p for metric in found for p in metric.sum.data_points), key=lambda p: p.time_unix_nano)
    assert {(m.unit, m.sum.is_monotonic, m.sum.aggregation_temporality) for m in found} == {
        ("{reading}", True, CUMULATIVE)
    }
    assert [point.as_int for point in points] == [2, 7]
    assert {point.start_time_unix_nano for point in points} == {began_ns}
    assert [point.time_unix_nano - began_ns for point in points] == [60 * NS_PER_S, 120 * NS_PER_S]
    attributes = [(pair.key, pair.value.string_value) for pair in points[0].attributes]
    assert attributes == [("tidegate.reason", "malformed_json"), ("tidegate.uplink", "cloud")]


async def test_what_an_operator_wants_to_know_leaves_too(box: Box) -> None:
    """Sums with a start, gauges without; and in one report accepted = delivered + held + ledger."""
    await box.devices(5)
    await box.send()
    await box.devices(4, lost=1)
    await box.report()
    await box.send()
    found, values = box.points(), box.values()
    assert values["tidegate.accepted.readings", ""] == 10
    parts = [("tidegate.delivered.readings", "cloud"), ("tidegate.held.readings", "cloud")]
    assert [values[part] for part in parts] == [5, 4]
    assert values["tidegate.ledger.readings", "malformed_json"] == 1
    assert values["tidegate.maybe_twice.readings", "cloud"] == values["tidegate.quarantined", ""] == 0
    assert values["tidegate.store.used", ""] > 1000
    kinds = {metric.name: metric.WhichOneof("data") for metric in box.metrics}
    gauges = {"tidegate.held.readings", "tidegate.quarantined", "tidegate.store.used"}
    assert {name for name, kind in kinds.items() if kind == "gauge"} == gauges
    assert {name for (name, _), point in found.items() if not point.start_time_unix_nano} == gauges


async def test_a_report_counts_like_any_readings(box: Box) -> None:
    """The books balance with it, before and after it leaves."""
    await box.devices(5, lost=1)
    await box.report()
    status = box.store.status()
    cloud = status["uplinks"]["cloud"]
    assert status["accepted"] == 6 + OURS + 1 == cloud["held"] + 1
    await box.send()
    cloud = box.store.status()["uplinks"]["cloud"]
    assert (cloud["delivered"], cloud["held"]) == (status["accepted"] - 1, 0)


async def test_without_change_nothing_is_reported(box: Box) -> None:
    """A gateway at rest costs the link nothing."""
    assert not await box.report()
    await box.devices()
    assert await box.report()
    await box.send()
    reports = [await box.report() for _ in range(20)]
    assert sum(reports) <= 1


@pytest.mark.parametrize("road", ["open", "closed", "refuses metrics", "opens later"])
async def test_a_report_is_no_news_for_the_next(box: Box, road: str) -> None:
    """Whatever becomes of it: delivered, held or refused, it must not go on by itself."""
    await box.devices(50)
    reports = 0
    for minute in range(40):
        reports += await box.report()
        await box.reporter.look()
        if road == "open" or (road == "opens later" and minute > 20):
            await box.send()
        elif road == "refuses metrics":
            await box.send(refuse=(Signal.METRICS,))
    # The devices' readings came, and later were gone: no more than that is news.
    assert reports <= 3
    if road != "closed":
        assert not await box.report()


async def test_the_last_report_says_that_nothing_is_held(box: Box) -> None:
    """Or the far side would believe in a backlog for as long as the devices are silent."""
    await box.devices(3)
    await box.report()
    await box.send()
    await box.report()
    await box.send()
    assert box.values()["tidegate.held.readings", "cloud"] == 0


async def test_a_full_shelf_does_not_make_room_for_reports_for_ever(new_box: Box) -> None:
    """What is let go for a report of a loss is a loss too."""
    box = new_box
    await box.start(max_bytes=1 << 20)
    number = box.store.resolve(Series((), "noise"))
    assert number is not None
    rng = np.random.default_rng(1)
    while not box.store.status()["uplinks"]["cloud"]["ledger"]:
        noise = rng.integers(-(2**62), 2**62, 2000)
        await box.store.append([(Priority.NORMAL, Batch.of(number, box.clock.wall_ns(), noise))])
    reports = 0
    for _ in range(200):
        reports += await box.report()
        await box.reporter.look()
    assert reports <= 2


@pytest.mark.parametrize(("others", "is_news"), [(100, False), (101, True)])
def test_what_made_room_for_our_own_records_is_no_news(others: int, is_news: bool) -> None:
    """One record may push out a segment of thousands: as long as nobody else brought anything, it was ours that did."""

    def numbers(others: int, evicted: int) -> Numbers:
        account: Any = {
            "delivered": 0,
            "held": 50,
            "left_out": 0,
            "maybe_twice": 0,
            "ledger": {"evicted_full": evicted},
        }
        return Numbers(accepted=others + 1, others=others, quarantined=0, used_bytes=0, uplinks={"cloud": account})

    memory = Memory(numbers(100, 0))
    memory.wrote(1, accepted=101)
    assert memory.has_lost("cloud", numbers(others, 2000)) is is_news


async def test_a_restart_goes_on_with_the_same_sum(box: Box) -> None:
    """The value and its start: no reset for whoever adds up."""
    began_ns = box.clock.wall_ns()
    await box.devices(3, lost=2)
    await box.report()
    box.clock.advance(3600 * NS_PER_S)
    await box.restart()
    await box.devices(1, lost=1)
    await box.report()
    await box.send()
    point = box.points()["tidegate.ledger.readings", "malformed_json"]
    assert (point.as_int, point.start_time_unix_nano) == (3, began_ns)


async def test_a_sum_of_unknown_age_starts_with_its_first_point(box: Box) -> None:
    """A shelf that was filled by a version that did not report: what it counted is no rate of today."""
    await box.devices(3, lost=2)
    box.clock.advance(3600 * NS_PER_S)
    await box.restart()
    await box.devices(1)
    await box.report()
    await box.send()
    point = box.points()["tidegate.ledger.readings", "malformed_json"]
    assert (point.as_int, point.start_time_unix_nano) == (2, point.time_unix_nano)


async def test_a_start_from_a_clock_that_was_ahead_is_given_up(box: Box) -> None:
    """A sum that starts in the future would be refused for ever."""
    await box.devices(lost=1)
    await box.report()
    await box.send()
    box.metrics.clear()
    box.clock.reboot("boot-2", wall=box.clock.wall_ns() - 86_400 * NS_PER_S, synced=True)
    await box.restart()
    await box.devices()
    await box.report()
    await box.send()
    point = box.points()["tidegate.ledger.readings", "malformed_json"]
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano < FakeClock().wall


async def test_without_a_clock_it_waits(new_box: Box) -> None:
    """Nobody could say since when the sums count; with a clock all is said."""
    box = new_box
    box.clock = FakeClock(wall=5 * NS_PER_S, synced=False)
    await box.start()
    await box.devices(0, lost=4)
    assert not await box.report()
    box.clock.wall, box.clock.synced = FakeClock().wall, True
    box.store.look_at_clock()
    assert await box.report()
    await box.send()
    assert box.values()["tidegate.ledger.readings", "malformed_json"] == 4


async def test_devices_that_took_every_series_are_told_on(new_box: Box) -> None:
    """It is the ledger's numbers that say so, so there are series for them."""
    box = new_box
    await box.start(max_series=1)
    await box.devices(0, lost=1)
    assert box.store.resolve(Series((), "another")) is None
    await box.reporter.look()
    assert await box.report()
    await box.send()
    assert len(box.records) == 1
    assert box.values()["tidegate.ledger.readings", "malformed_json"] == 1


async def test_beyond_those_too_it_is_said_here_alone(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And that it could not be sent."""
    monkeypatch.setattr(box.store, "resolve", lambda *_, **__: None)
    await box.store.append([], losses=[Loss("malformed_json", 1)])
    await box.reporter.look()
    await box.send()
    assert box.records == []
    assert "max_series is reached" in caplog.text


async def test_a_report_without_room_comes_later(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushed back like everybody; nothing of it is lost, since it counts from the start."""
    await box.devices()
    with monkeypatch.context() as patch:
        patch.setattr(box.store, "append", full)
        assert not await box.report()
    assert await box.report()


class Counting(Reporter):
    """Counts its looks and reports; `news` says what reports find."""

    def __init__(self, report_s: float) -> None:
        self._report_s = report_s
        self.times: list[tuple[str, float]] = []
        self.news: Callable[[float], bool] = lambda _: True

    async def look(self) -> None:
        self.times.append(("look", asyncio.get_running_loop().time()))

    async def report(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        found = self.news(now_s)
        if found:
            self.times.append(("report", now_s))
        return found

    def live(self, seconds: float) -> list[tuple[str, float]]:
        async def main() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.run()

        virtual_time.run(main())
        return self.times


@pytest.mark.parametrize(("report_s", "reports"), [(300, 2), (60, 10), (10, 64), (0, 0)])
def test_reports_come_as_often_as_they_may(report_s: float, reports: int) -> None:
    """At most every `report_s` seconds, 0 is never; the ledger is looked at every LOOK_S in any case, and at the end."""
    times = Counting(report_s).live(645)
    assert sum(what == "report" for what, _ in times) == reports
    assert sum(what == "look" for what, _ in times) == 645 // module.LOOK_S + 1


def test_news_after_a_long_silence_wait_for_no_interval() -> None:
    """They leave at the next look."""
    reporter = Counting(300)
    reporter.news = lambda now_s: now_s > 1000
    reports = [when for what, when in reporter.live(1100) if what == "report"]
    assert reports == [1020]
