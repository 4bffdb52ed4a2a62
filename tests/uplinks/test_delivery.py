"""Checks for the delivery loop: a fake store and wire in virtual time, then the real thread and real HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import MONOTONIC, Batch, LogRecords
from gateway.core.clock import WALL_FLOOR_NS, FakeClock, Quality, Sample, SystemClock
from gateway.core.contracts import BootId, Priority, Signal, TryLaterError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.store.segments import decode_metrics, encode_metrics
from gateway.uplinks import delivery
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    PassedOnError,
    StatusRefusedError,
    TooLargeError,
    UnreachableError,
)
from gateway.uplinks.settings import OtlpUplinkSettings, RetrySettings
from gateway.uplinks.verdicts import PARTS_MAX, TRIES_MAX
from hil.link_proxy import Mode
from hil.otlp_readings import parse_metrics
from hil.otlp_sink import Behaviour
from hil.virtual_time import run

NOW_NS = 1_790_000_000 * 10**9
LATER = TryLaterError("status 503")
REFUSED = StatusRefusedError("status 400: bad name", 400)


def test_what_is_held_is_delivered_and_let_go(make_road, make_readings, make_records) -> None:
    """Metrics and logs leave with the gateway's name, and are acknowledged to the store."""

    async def main() -> None:
        road = make_road()
        road.store.add(make_readings(10))
        road.store.add(make_records(2))
        await road.run_for(5)
        assert [r.value for r in road.wire.readings()] == list(range(10))
        assert [line.body for line in road.wire.logs()] == ["0", "1"]
        assert road.store.kinds() == ["lease", "ack", "lease", "ack"]
        assert (road.store.delivered, road.store.held) == (12, 0)
        status = road.uplink.status()
        assert (status["readings_sent"], status["requests"], status["compression"]) == (12, 2, "zstd")
        assert status["bytes_sent"] == road.wire.bytes_sent
        assert road.telemetry.value("tidegate_uplink_readings_sent", uplink="cloud") == 12
        assert road.telemetry.value("tidegate_uplink_requests", uplink="cloud") == 2

    run(main())


def test_fresh_data_waits_to_be_sent_together(make_road, make_readings) -> None:
    """A commit every quarter second and a batch interval of ten make one request in ten seconds."""

    async def main() -> None:
        road = make_road(batch_interval=Duration(10))
        task = await road.start()
        for k in range(400):
            road.store.add(make_readings(1, start=k))
            await asyncio.sleep(0.25)
        await road.stop(task)
        assert len(road.wire.sent) <= 14
        assert road.store.delivered == 400
        gaps = np.diff(road.wire.times()[4:-1])
        assert gaps.min() >= 9.9

    run(main())


def test_each_class_has_its_turn_in_each_interval(make_road, make_readings, make_records) -> None:
    """Three shelves and an interval of a minute: every one of them leaves every minute."""

    async def main() -> None:
        road = make_road(batch_interval=Duration(60))
        task = await road.start()
        for k in range(600):
            for priority in Priority:
                road.store.add(make_readings(1, start=k, series=int(priority)), priority=priority)
            road.store.add(make_records(1))
            await asyncio.sleep(1)
        await road.stop(task)
        for series in ("temperature", "humidity"):
            late = [
                at_s - (r.time_ns - NOW_NS) / 10**9
                for at_s, packed, body in road.wire.sent
                if packed.signal is Signal.METRICS
                for r in parse_metrics(body)
                if r.metric == series
            ]
            assert max(late) <= 62
        assert len(road.wire.sent) <= 10 * 5 + 20

    run(main())


def test_what_fills_half_a_request_does_not_wait(make_road, make_readings) -> None:
    """However long the interval is, a flood is sent as it comes."""

    async def main() -> None:
        road = make_road(batch_interval=Duration(60))
        task = await road.start()
        for k in range(60):
            road.store.add(make_readings(1000, start=1000 * k))
            await asyncio.sleep(1)
        assert road.store.held < 30_000
        await road.stop(task)

    run(main())


def test_after_a_pause_fresh_data_goes_at_once(make_road, make_readings) -> None:
    """Waiting is for what follows; a lone reading after an hour of silence does not wait."""

    async def main() -> None:
        road = make_road(batch_interval=Duration(60))
        task = await road.start()
        for k in range(5):
            road.store.add(make_readings(1, start=k))
            await asyncio.sleep(120)
        await asyncio.sleep(3600)
        asked_s = asyncio.get_running_loop().time()
        road.store.add(make_readings(1, start=9))
        await asyncio.sleep(1)
        assert road.wire.times()[-1] == asked_s
        await road.stop(task)

    run(main())


def test_a_backlog_does_not_wait(make_road, make_readings) -> None:
    """Full leases follow each other, whatever the batch interval."""

    async def main() -> None:
        road = make_road(batch_interval=Duration(60))
        for k in range(40):
            road.store.add(make_readings(1000, start=1000 * k), lane="backlog")
        await road.run_for(1)
        assert road.store.delivered == 40_000
        assert len(road.wire.sent) < 10

    run(main())


def test_failures_wait_longer_and_never_end(make_road, make_readings) -> None:
    """Full jitter to a minute; the lease goes back before each wait; the first success clears the slate."""

    async def main() -> None:
        road = make_road(*[TryLaterError("no connection")] * 200)
        road.store.add(make_readings(5))
        task = await road.start()
        await asyncio.sleep(3600)
        times = road.wire.times()
        waits = np.diff(times)
        assert all(wait <= min(60, 2**k) + 1e-6 for k, wait in enumerate(waits))
        assert 60 < len(times) < 200
        assert road.store.kinds()[:5] == ["lease", "link_up", "release", "lease", "release"]
        assert road.store.kinds().count("link_up") == 1
        status = road.uplink.status()
        assert (status["state"], status["reason"]) == ("waiting", "no connection")
        assert status["attempt"] == len(times)
        road.wire.script.clear()
        await asyncio.sleep(61)
        assert road.store.delivered == 5
        assert road.uplink.status()["attempt"] == 0
        assert road.store.maybe_twice == 0
        await road.stop(task)

    run(main())


class Longest:
    """Dice that always show the longest wait."""

    def uniform(self, _: float, most: float) -> float:
        return most


def test_waits_are_as_the_settings_bound_them(make_road, make_readings, monkeypatch) -> None:
    """The first up to `initial`, then up to twice as long each time, none over `max`."""

    async def main() -> None:
        road = make_road(*[LATER] * 7, retry=RetrySettings(initial=Duration(3), max=Duration(20)))
        monkeypatch.setattr(road.uplink._outages.backoff, "random", Longest())
        road.store.add(make_readings(5))
        await road.run_for(200)
        assert np.diff(road.wire.times()).tolist() == pytest.approx([3, 6, 12, 20, 20, 20, 20], abs=0.01)

    run(main())


def test_who_cannot_be_reached_is_tried_more_often(make_road, make_readings, monkeypatch) -> None:
    """A try at a connection costs some packets: the end of an outage is not waited for a minute."""

    async def main() -> None:
        retry = RetrySettings(initial=Duration(3), max=Duration(60), unreachable_max=Duration(10))
        road = make_road(*[UnreachableError("no connection")] * 4, LATER, retry=retry)
        monkeypatch.setattr(road.uplink._outages.backoff, "random", Longest())
        road.store.add(make_readings(5))
        await road.run_for(200)
        assert np.diff(road.wire.times()).tolist() == pytest.approx([3, 6, 10, 10, 48], abs=0.01)

    run(main())


@pytest.mark.parametrize("error", [UnreachableError("no connection"), InTransitError("broke")])
def test_a_network_that_comes_ends_the_wait(make_road, make_readings, error: Exception) -> None:
    """What is fresh leaves at once, whatever the back-off had come to; the least pause is kept all the same."""

    async def main() -> None:
        road = make_road(*[error] * 20, retry=RetrySettings(initial=Duration(3600), max=Duration(3600)))
        road.store.add(make_readings(5))
        task = await road.start(0.5)
        assert len(road.wire.times()) == 1
        for _ in range(10):
            road.uplink.network_up()
            await asyncio.sleep(0.01)
        assert len(road.wire.times()) == 1
        await asyncio.sleep(1)
        assert len(road.wire.times()) == 2
        road.wire.script.clear()
        await asyncio.sleep(2)
        road.uplink.network_up()
        await asyncio.sleep(0.1)
        assert road.store.delivered == 5
        await road.stop(task)

    run(main())


def test_a_network_that_comes_in_the_middle_of_a_try_ends_the_wait_after_it(make_road, make_readings) -> None:
    """A resolver that began without a network says no long after there is one."""

    async def main() -> None:
        long = Duration(3600)
        retry = RetrySettings(initial=long, max=long, unreachable_max=long)
        road = make_road(*[UnreachableError("no connection")] * 2, takes_s=10.0, retry=retry)
        road.store.add(make_readings(5))
        task = await road.start(5)
        road.uplink.network_up()
        await asyncio.sleep(17)
        assert np.diff(road.wire.times()).tolist() == pytest.approx([11], abs=0.1)
        await road.stop(task)

    run(main())


@pytest.mark.parametrize("error", [TryLaterError("busy", 120), LATER, HoldError("wrong token")])
def test_a_network_that_comes_hurries_nobody_who_was_asked_to_wait(make_road, make_readings, error: Exception) -> None:
    """What a server said holds on whatever way it is asked."""

    async def main() -> None:
        road = make_road(error, retry=RetrySettings(initial=Duration(3600), max=Duration(3600)))
        road.store.add(make_readings(5))
        task = await road.start(5)
        road.uplink.network_up()
        await asyncio.sleep(20)
        assert len(road.wire.times()) == 1
        await road.stop(task)

    run(main())


def test_retry_after_is_kept(make_road, make_readings) -> None:
    """What the server asks for is the least that it gets."""

    async def main() -> None:
        road = make_road(TryLaterError("status 429", 120))
        road.store.add(make_readings(5))
        await road.run_for(200)
        first_s, second_s = road.wire.times()
        assert 120 <= second_s - first_s <= 121
        assert road.telemetry.value("tidegate_uplink_failures", uplink="cloud", kind="throttled") == 1

    run(main())


def test_the_first_success_after_failures_says_that_the_link_is_up(make_road, make_readings) -> None:
    """What came during the outage becomes backlog behind what is fresh, and is marked as sent late."""

    async def main() -> None:
        road = make_road(LATER)
        road.store.add(make_readings(5))
        task = await road.start()
        for k in range(20):
            road.store.add(make_readings(1000, start=10 + 1000 * k))
        await asyncio.sleep(5)
        await road.stop(task)
        kinds = road.store.kinds()
        # What came before the road closed is backlog at once: of what comes since the newest is sent first.
        assert kinds.count("link_up") == 2
        assert kinds[:5] == ["lease", "link_up", "release", "lease", "link_up"]
        late = [b"tidegate.backfill" in body for _, _, body in road.wire.sent]
        assert late[:2] == [False, False]
        assert all(late[2:])
        assert road.store.delivered == 20_005

    run(main())


def test_a_lost_answer_is_counted_as_maybe_twice(make_road, make_readings) -> None:
    """Released with the doubt said; sent again."""

    async def main() -> None:
        road = make_road(InTransitError("no answer", answer_lost=True))
        road.store.add(make_readings(5))
        await road.run_for(5)
        assert road.store.maybe_twice == 5
        assert len(road.wire.readings()) == 10

    run(main())


def refusing(*values: float, status: int = 400):
    """Return what answers 400, or another status, to each request that holds one of these values, as a picky receiver does."""

    def judge(signal: Signal, body: bytes) -> Answer | Exception:
        is_bad = signal is Signal.METRICS and any(r.value in values for r in parse_metrics(body))
        return StatusRefusedError(f"status {status}: bad name", status) if is_bad else Answer()

    return judge


def test_a_refusal_sets_aside_and_the_next_goes_on(make_road, make_readings) -> None:
    """Refused data neither blocks nor comes again; the reason stands in the ledger."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = refusing(1)
        road.store.add(make_readings(1, start=1))
        task = await road.start(0.1)
        road.store.add(make_readings(3, start=100))
        await asyncio.sleep(3)
        await road.stop(task)
        assert road.store.events[1] == ("refuse", 1, "refused", "status 400: bad name")
        assert road.store.ledger == {"refused": 1}
        assert road.store.delivered == 3
        assert road.uplink.status()["last_error"] == "status 400: bad name"
        assert "link_up" not in road.store.kinds()

    run(main())


def test_a_receiver_that_fails_for_a_while_costs_nothing(make_road, make_readings) -> None:
    """500 says nothing about the data until the same data has met it many times."""

    async def main() -> None:
        road = make_road(*[StatusRefusedError("status 500: out of memory", 500)] * 6, compression="zstd")
        for k in range(5):
            road.store.add(make_readings(5, start=5 * k), lane="backlog")
        await road.run_for(200)
        assert not road.store.ledger
        assert road.store.delivered == 25

    run(main())


def test_data_that_makes_the_server_fail_keeps_nobody_waiting(make_road, make_readings) -> None:
    """Between its tries the others go, and what is fresh is fresh; in the end it is in the ledger, alone."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = refusing(3, status=500)
        road.store.add(make_readings(5))
        task = await road.start(0.5)
        assert road.uplink.status()["state"] == "waiting"
        for k in range(1, 120):
            road.store.add(make_readings(5, start=5 * k))
            await asyncio.sleep(4)
            assert road.store.delivered >= 5 * (k - 1)
        await asyncio.sleep(300)
        assert (road.store.delivered, road.store.ledger) == (599, {"refused": 1})
        tries = [body for _, _, body in road.wire.sent if any(r.value == 3 for r in parse_metrics(body))]
        # The whole, halves of it, and the reading by itself: each may have been taken before the server failed.
        assert road.store.maybe_twice >= sum(len(parse_metrics(body)) for body in tries[:-1])
        assert TRIES_MAX <= len(tries) <= TRIES_MAX + 3
        await road.stop(task)

    run(main())


def test_a_part_that_makes_the_server_fail_keeps_nobody_waiting(make_road, make_readings) -> None:
    """Though others of its lease were taken: it is the rest that waits, and the other parts and leases go on."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100)
        road.wire.judge = refusing(150, status=500)
        road.store.add(make_readings(1000))
        task = await road.start(20)
        assert road.uplink.status()["in_hand_taken"] == 999
        assert road.uplink.status()["put_off"] == {
            "leases": 1,
            "readings": 1,
            "overflowed": 0,
            "unheard": 0,
            "gives_way": 0,
        }
        for k in range(1, 120):
            road.store.add(make_readings(5, start=1000 * k))
            await asyncio.sleep(4)
            assert road.store.delivered >= 5 * (k - 1)
        await asyncio.sleep(300)
        assert road.store.ledger == {"refused": 1}
        assert road.store.delivered == 1000 + 5 * 119 - 1
        await road.stop(task)

    run(main())


def test_parts_that_make_the_server_fail_in_each_of_some_leases_keep_nobody_waiting(make_road, make_readings) -> None:
    """That other parts are taken shows that the road is one, long before any of these leases is settled."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100)
        road.wire.judge = refusing(*(1000 * k + at for k in range(20) for at in (150, 750)), status=500)
        task = await road.start(0.1)
        for k in range(20):
            road.store.add(make_readings(1000, start=1000 * k))
            await asyncio.sleep(8)
            # Of each all but the two parts, and the newest may be under way.
            assert len(road.wire.readings()) >= 780 * k
        await asyncio.sleep(600)
        assert road.store.delivered == 20_000 - road.store.ledger["refused"]
        await road.stop(task)

    run(main())


def test_data_that_is_put_off_makes_no_small_requests(make_road, make_readings) -> None:
    """It is held, and fills no request: what is fresh is sent together as ever."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_interval=Duration(20))
        road.wire.judge = refusing(3, status=500)
        road.store.add(make_readings(4000))
        task = await road.start(1)
        for k in range(100):
            road.store.add(make_readings(5, start=4000 + 5 * k))
            await asyncio.sleep(1)
        taken = [parse_metrics(body) for _, _, body in road.wire.sent]
        fresh = [len(readings) for readings in taken if readings[0].value >= 4000]
        assert len(fresh) <= 6
        assert sum(fresh) >= 400
        await road.stop(task)

    run(main())


def test_one_bad_device_costs_the_others_nothing(make_road, make_readings) -> None:
    """What a receiver refuses is sent in halves, until the guilty are alone."""

    async def main() -> None:
        road = make_road(compression="zstd")
        bad = {7, 300, 301, 302, 4000}
        road.wire.judge = refusing(*bad)
        road.store.add(make_readings(5000))
        await road.run_for(60)
        lost = road.store.ledger["refused"]
        assert road.store.delivered == 5000 - lost
        assert len(bad) <= lost <= 5 * (5000 // PARTS_MAX + 1)
        assert len(road.wire.sent) < 100

    run(main())


def test_a_road_that_refuses_all_is_held(make_road, make_readings) -> None:
    """A wrong port answers 400 to everything: nothing is given up, and it waits for who mends it, costing little."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100)
        road.wire.judge = lambda signal, body: REFUSED
        for k in range(50):
            road.store.add(make_readings(100, start=100 * k), lane="backlog")
        task = await road.start(1000)
        assert not road.store.ledger
        assert road.uplink.status()["state"] == "holding"
        assert "correct the endpoint" in road.uplink.status()["reason"]
        assert "correct the endpoint" in road.uplink.status()["held_back"]["metrics"]
        before = len(road.wire.sent)
        await asyncio.sleep(1000)
        assert len(road.wire.sent) - before < 100
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(1000)
        assert road.store.delivered == 5000
        assert not road.uplink.status()["held_back"]
        await road.stop(task)

    run(main())


def test_a_path_that_is_not_there_keeps_only_its_own_signal(make_road, make_readings, make_records) -> None:
    """A receiver without logs takes metrics; the logs wait, and the status says so."""

    async def main() -> None:
        road = make_road(compression="zstd")
        lost = HoldError("status 404, there is no OTLP receiver at this path")
        road.wire.judge = lambda signal, body: lost if signal is Signal.LOGS else Answer()
        road.store.add(make_records(2), priority=Priority.CRITICAL)
        task = await road.start()
        for k in range(300):
            road.store.add(make_readings(1, start=k))
            await asyncio.sleep(1)
        assert road.store.delivered >= 298
        assert road.uplink.status()["held_back"] == {"logs": str(lost)}
        assert len([packed for _, packed, _ in road.wire.sent if packed.signal is Signal.LOGS]) <= 6
        assert "link_up" not in road.store.kinds()
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(70)
        assert (road.store.held, road.uplink.status()["held_back"]) == (0, {})
        await road.stop(task)

    run(main())


def test_a_part_that_is_refused_is_set_aside(make_road, make_readings, make_records) -> None:
    """As a segment that a person can look at, of readings and of log records."""

    async def main() -> None:
        road = make_road(compression="zstd")
        picky = refusing(5, 6)
        road.wire.judge = lambda signal, body: REFUSED if signal is Signal.LOGS else picky(signal, body)
        road.store.add(make_readings(10))
        road.store.add(make_records(1), priority=Priority.CRITICAL)
        await road.run_for(30)
        assert road.store.ledger == {"refused": 3}
        assert [readings for _, readings, _ in road.store.aside] == [1, 1]
        values = [value for *_, body in road.store.aside for value in decode_metrics(body).values().tolist()]
        assert sorted(values) == [5, 6]

    run(main())


def test_a_wrong_token_costs_nothing(make_road, make_readings, caplog) -> None:
    """Held for a minute each, said once in the log and all the time in the status."""

    async def main() -> None:
        road = make_road(*[HoldError("status 401, the token was not accepted")] * 10)
        road.store.add(make_readings(5))
        task = await road.start(300)
        status = road.uplink.status()
        assert (status["state"], status["reason"]) == ("holding", "status 401, the token was not accepted")
        assert 0 < status["retry_in_s"] <= 61
        assert len(road.wire.sent) == 5
        assert not road.store.ledger
        await asyncio.sleep(600)
        assert road.store.delivered == 5
        await road.stop(task)

    with caplog.at_level(logging.INFO, "tidegate.uplinks"):
        run(main())
    assert [r.message for r in caplog.records] == [
        "uplink cloud: metrics are held back: status 401, the token was not accepted",
        "uplink cloud: is back",
    ]


def test_413_splits_until_it_fits(make_road, make_readings) -> None:
    """Halves are sent in order, each once; the next lease is smaller from the start."""

    async def main() -> None:
        road = make_road(TooLargeError("413"), TooLargeError("413"))
        road.store.add(make_readings(1000))
        task = await road.start(2)
        taken = [r.value for r in road.wire.readings()][1500:]
        assert taken == list(range(1000))
        assert [kind for kind in road.store.kinds() if kind != "lease"] == ["ack"]
        assert road.uplink.status()["batch_readings"] <= 820
        await road.stop(task)

    run(main())


def test_a_reading_that_is_too_large_alone_is_set_aside(make_road, make_readings) -> None:
    """Split down to one, that one is refused and nothing else."""

    async def main() -> None:
        road = make_road(*[TooLargeError("413")] * 3)
        road.store.add(make_readings(4))
        await road.run_for(2)
        assert road.store.ledger == {"too_large": 1}
        assert road.store.delivered == 3

    run(main())


@pytest.mark.parametrize("limit_bytes", [1024, 4096])
def test_a_request_over_our_own_limit_is_split_before_it_is_sent(make_road, make_readings, limit_bytes: int) -> None:
    """`request_bytes_max` counts before compression, and the names count too."""

    async def main() -> None:
        road = make_road(request_bytes_max=Size(limit_bytes))
        road.store.add(make_readings(50))
        task = await road.start()
        await asyncio.sleep(2)
        road.store.add(make_readings(1000, start=50))
        await asyncio.sleep(2)
        await road.stop(task)
        assert road.store.delivered == 1050
        assert all(len(body) <= limit_bytes for _, _, body in road.wire.sent)
        assert [r.value for r in road.wire.readings()] == list(range(1050))

    run(main())


def test_a_lease_is_no_larger_than_a_request_may_be(make_road) -> None:
    """Else a backlog of large records would all be in memory at once, before it is known how large they are."""

    async def main() -> None:
        road, dice = make_road(request_bytes_max=Size(4096)), random.Random(1)
        for _ in range(50):
            body = encode_log_record(
                time_ns=NOW_NS, observed_ns=NOW_NS, severity_number=13, severity_text="WARN",
                body=dice.randbytes(200).hex(), attributes=(),
            )  # fmt: skip
            road.store.add(LogRecords(np.array([3], np.uint32), np.array([NOW_NS]), (body,)), lane="backlog")
        await road.run_for(60)
        assert road.store.delivered == 50
        assert all(sum(lease) <= 4096 for lease in road.store.leases)
        assert max(map(len, road.store.leases)) > 1

    run(main())


def test_a_partial_success_is_never_sent_again(make_road, make_readings) -> None:
    """What the receiver rejected is in the ledger, the rest delivered; more than was sent is not believed."""

    async def main() -> None:
        road = make_road(Answer(rejected=2, message="too old"), Answer(rejected=99))
        road.store.add(make_readings(5))
        task = await road.start(1)
        road.store.add(make_readings(5, start=5))
        await asyncio.sleep(2)
        await road.stop(task)
        assert road.store.events[1] == ("ack", 5, 2)
        assert road.store.ledger == {"rejected": 7}
        assert len(road.wire.readings()) == 10
        assert road.uplink.status()["readings_rejected"] == 7

    run(main())


def test_after_requests_that_broke_on_their_way_smaller_ones_are_tried(make_road, make_readings) -> None:
    """A line that drops what is long may let through what is short; one that only says "later" wants no less."""

    async def sizes(error: TryLaterError) -> list[int]:
        road = make_road(*[error] * 6, retry=RetrySettings(initial=Duration(0.1), max=Duration(0.1)))
        for start in range(0, 4000, 100):
            road.store.add(make_readings(100, start=start), lane="backlog")
        await road.run_for(60)
        assert road.store.delivered == 4000
        return [len(parse_metrics(body)) for _, _, body in road.wire.sent]

    async def main() -> None:
        broken, put_off = await sizes(InTransitError("cut")), await sizes(LATER)
        assert broken[6] <= 100 < put_off[6]

    run(main())


def test_a_warning_is_shown(make_road, make_readings) -> None:
    """Rejected 0 with a message: delivered, and people see what was said."""

    async def main() -> None:
        road = make_road(Answer(rejected=0, message="deprecated"))
        road.store.add(make_readings(5))
        await road.run_for(1)
        assert road.store.delivered == 5
        assert road.uplink.status()["last_error"] == "deprecated"

    run(main())


def test_a_link_that_breaks_between_two_halves_sends_no_half_twice(make_road, make_readings) -> None:
    """The lease is kept in hand: what was taken is not sent again when the link is back."""

    async def main() -> None:
        road = make_road(TooLargeError("413"), Answer(), LATER, LATER)
        road.store.add(make_readings(10))
        await road.run_for(20)
        assert road.store.kinds() == ["lease", "link_up", "link_up", "ack"]
        assert [r.value for r in road.wire.readings()][10:] == [
            *range(5),
            *range(5, 10),
            *range(5, 10),
            *range(5, 10),
        ]

    run(main())


def test_what_was_taken_of_a_large_lease_is_said(make_road, make_readings) -> None:
    """The store settles it as a whole; on a slow road a person sees that it moves."""

    async def main() -> None:
        road = make_road(TooLargeError("413"), Answer(), *[LATER] * 50)
        assert road.uplink.status()["in_hand_taken"] == 0
        road.store.add(make_readings(10))
        task = await road.start(20)
        assert road.uplink.status()["in_hand_taken"] == 5
        await road.stop(task)
        assert road.uplink.status()["in_hand_taken"] == 0

    run(main())


def test_stopping_between_two_halves_says_the_doubt(make_road, make_readings) -> None:
    """The store knows leases only whole: what was half taken goes back as possibly sent."""

    async def main() -> None:
        road = make_road(TooLargeError("413"), Answer(), HoldError("status 401"))
        road.store.add(make_readings(10))
        await road.run_for(5)
        assert road.store.events[-1] == ("release", 10, True)

    run(main())


def test_a_damaged_segment_goes_to_the_ledger(make_road, make_readings) -> None:
    """Alone it is set aside without a request; beside others they are delivered."""

    async def main() -> None:
        road = make_road()
        road.store.add(make_readings(5), body=b"damaged")
        task = await road.start(1)
        assert not road.wire.sent
        assert road.store.events[-1][:3] == ("refuse", 5, "damaged")
        road.store.add(make_readings(4), body=b"damaged")
        road.store.add(make_readings(3))
        await asyncio.sleep(2)
        await road.stop(task)
        assert road.store.ledger == {"damaged": 9}
        assert road.store.delivered == 3

    run(main())


def test_without_a_clock_it_waits_and_goes_on_when_there_is_one(make_road) -> None:
    """A box in 1970 holds its own stamps, says so, and sends them repaired within a second of knowing."""

    async def main() -> None:
        road = make_road(wall=5)
        road.store.add(Batch.of(0, [2_000 * 10**9], np.ones(1), flags=MONOTONIC))
        task = await road.start(60)
        status = road.uplink.status()
        assert (status["state"], status["attempt"]) == ("waiting for the clock", 0)
        assert not road.wire.sent
        road.store.timeline.add(Sample(3_000 * 10**9, WALL_FLOOR_NS, Quality.SYNCED))
        await asyncio.sleep(1.1)
        (reading,) = road.wire.readings()
        assert reading.time_ns == WALL_FLOOR_NS + 2_000 * 10**9
        await road.stop(task)

    run(main())


def test_a_receiver_may_tell_the_time(make_road) -> None:
    """While data waits for a clock, an empty request a minute asks for a Date, if anybody listens."""

    async def main() -> None:
        date = Answer(server_time_s=1_790_000_000)
        road = make_road(LATER, date, Answer(), wall=5, hear_time=True)
        road.store.add(Batch.of(0, [2_000 * 10**9], np.ones(1), flags=MONOTONIC))
        await road.run_for(150)
        assert road.server_times == [1_790_000_000]
        assert [body for _, _, body in road.wire.sent] == [b""] * 3

    run(main())


def test_stopping_while_it_asks_for_the_time(make_road) -> None:
    """An empty request under way is nothing to wait for."""

    async def main() -> None:
        road = make_road(takes_s=100, wall=5, hear_time=True)
        road.store.add(Batch.of(0, [2_000 * 10**9], np.ones(1), flags=MONOTONIC))
        task = await road.start(103)
        await road.stop(task)
        assert road.wire.stopped
        assert asyncio.get_running_loop().time() < 104
        assert road.store.held == 1

    run(main())


def test_a_stored_segment_may_be_larger_than_what_the_link_should_get(make_road, make_readings) -> None:
    """It goes in pieces, each as large as requests are at the moment, in order."""

    async def main() -> None:
        road = make_road()
        road.store.add(make_readings(30_000))
        await road.run_for(1)
        sizes = [len(body) // 20 for _, _, body in road.wire.sent]
        assert sizes == sorted(sizes)
        assert max(sizes) <= 15_005
        assert [r.value for r in road.wire.readings()] == list(range(30_000))
        assert road.store.kinds() == ["lease", "ack"]

    run(main())


def test_every_answer_tells_the_time(make_road, make_readings) -> None:
    """The Date of ordinary answers is heard too."""

    async def main() -> None:
        road = make_road(Answer(server_time_s=1_790_000_000), hear_time=True)
        road.store.add(make_readings(1))
        await road.run_for(1)
        assert road.server_times == [1_790_000_000]

    run(main())


def test_stopping_lets_the_request_under_way_finish(make_road, make_readings) -> None:
    """An answer within five seconds counts; what is fresh by then is sent as well."""

    async def main() -> None:
        road = make_road(takes_s=1.5)
        road.store.add(make_readings(5))
        task = await road.start(0.1)
        road.store.add(make_readings(3, start=10))
        await road.stop(task)
        assert road.store.delivered == 8
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    run(main())


def test_stopping_does_not_wait_for_ever(make_road, make_readings) -> None:
    """A request without an answer is cut after five seconds; its lease goes back with the doubt said."""

    async def main() -> None:
        road = make_road(takes_s=100)
        road.store.add(make_readings(5))
        task = await road.start(0.1)
        await road.stop(task)
        assert asyncio.get_running_loop().time() < 7
        assert road.wire.stopped
        assert road.store.events[-1] == ("release", 5, True)

    run(main())


def test_a_failure_while_stopping_gives_the_lease_back(make_road, make_readings) -> None:
    """Whether the answer was lost is said as always."""

    async def main() -> None:
        for lost in (False, True):
            road = make_road(InTransitError("cut", answer_lost=lost), takes_s=1)
            road.store.add(make_readings(5))
            task = await road.start(0.1)
            await road.stop(task)
            assert road.store.events[1] == ("release", 5, lost)

    run(main())


def test_the_last_flush_takes_fresh_data_only(make_road, make_readings) -> None:
    """The backlog is kept anyway; stopping must not take as long as it is."""

    async def main() -> None:
        road = make_road(takes_s=1)
        for k in range(100):
            road.store.add(make_readings(5000, start=5000 * k), lane="backlog")
        task = await road.start(2.5)
        await road.stop(task)
        assert road.store.held > 400_000
        assert asyncio.get_running_loop().time() < 6

    run(main())


def test_stopping_while_the_link_is_down_is_quick(make_road, make_readings) -> None:
    """No flush is tried on a road that is known to be closed; nor with a grace of nothing."""

    async def main() -> None:
        road = make_road(HoldError("status 401"))
        road.store.add(make_readings(5))
        await road.run_for(1)
        assert (len(road.wire.sent), asyncio.get_running_loop().time()) == (1, 1)
        road = make_road(stop_grace=Duration(0))
        task = await road.start(1)
        road.store.add(make_readings(5))
        await road.stop(task)
        assert not road.wire.sent

    run(main())


def test_a_flush_on_a_link_that_breaks_ends_with_the_grace(make_road, make_readings) -> None:
    """What cannot be sent in the grace is held."""

    async def main() -> None:
        road = make_road(HoldError("status 401"))
        task = await road.start(1)
        road.store.add(make_readings(5))
        await road.stop(task)
        assert road.store.held == 5
        assert asyncio.get_running_loop().time() <= 3.1

    run(main())


def test_our_own_mistake_gives_the_lease_back(make_road, make_readings) -> None:
    """An error that is no decision ends `run` with the data held; it may be run again."""

    async def main() -> None:
        road = make_road(ZeroDivisionError("bug"))
        road.store.add(make_readings(5))
        with pytest.raises(ZeroDivisionError):
            await road.uplink.run()
        road.store.check()
        assert road.store.held == 5
        await road.run_for(1)
        assert road.store.delivered == 5

    run(main())


def test_a_lease_that_is_empty_handed_does_not_spin(make_road, make_readings) -> None:
    """The store may say that there is something and give nothing: that costs a few turns a second."""

    async def main() -> None:
        road = make_road()
        calls = []

        async def lease(uplink, *, readings_max, bytes_max, may_wait, terms):
            calls.append(readings_max)

        road.store.lease = lease
        road.store.add(make_readings(1))
        await road.run_for(10)
        assert len(calls) <= 42

    run(main())


def test_an_answer_that_is_overdue_is_cut(make_road, make_readings) -> None:
    """The loop watches what the thread cannot see while it reads."""

    async def main() -> None:
        road = make_road(takes_s=5)
        road.wire.overdue = True
        road.store.add(make_readings(1))
        task = await road.start(3.5)
        assert road.wire.aborted == 3
        await road.stop(task)

    run(main())


def test_compression_can_be_chosen(make_road, make_readings) -> None:
    """gzip and none are honoured, and named in the status."""

    async def main() -> None:
        for mode, encoding in (("gzip", "gzip"), ("none", ""), ("zstd", "zstd")):
            road = make_road(compression=mode)
            road.store.add(make_readings(5))
            road.wire.readings = list
            await road.run_for(1)
            assert road.wire.sent[0][1].encoding == encoding
            assert road.uplink.status()["compression"] == mode

    run(main())


answers = st.one_of(
    st.just(Answer()),
    st.integers(1, 3).map(lambda n: Answer(rejected=n)),
    st.sampled_from(
        [
            TryLaterError("503"),
            TryLaterError("429", 5),
            InTransitError("cut"),
            InTransitError("lost", answer_lost=True),
            HoldError("401"),
            TooLargeError("413"),
            StatusRefusedError("400", 400),
            StatusRefusedError("500", 500),
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(answers, max_size=12), st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0, 100))
def test_whatever_is_answered_the_sums_agree(make_road, make_readings, script, lengths, stop_s) -> None:
    """Accepted = delivered + held + ledger at the end, and nothing answered in full is sent again."""

    async def main() -> None:
        road = make_road(*script)
        task = await road.start()
        start = 0
        for length in lengths:
            road.store.add(make_readings(length, start=start))
            start += length
            await asyncio.sleep(stop_s / len(lengths))
        await road.stop(task)

    run(main())


def real_uplink(store, endpoint: str, **settings) -> Uplink:
    return Uplink(
        OtlpUplinkSettings(
            **{
                "name": "cloud",
                "endpoint": endpoint,
                "timeout": Duration(20),
                "batch_interval": Duration(0.05),
                **settings,
            }
        ),
        store=store,
        gateway_attributes=(),
        version="0.1.0",
        clock=SystemClock(),
        telemetry=Telemetry(),
        random=random.Random(1),
    )


async def until(condition, *, within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def end(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_over_real_http_through_every_fault(no_threads_left, make_store, make_readings, otlp_sink) -> None:
    """Unknown encoding, throttling, cuts, refusals, a portal: every reading is delivered or counted."""
    store = make_store(FakeClock())
    otlp_sink.always = Behaviour(refuse_encoding="zstd", refuses=lambda reading: reading.value == 777, message="bad")
    otlp_sink.behave(
        Behaviour(refuse_encoding="zstd"),
        Behaviour(status=503),
        Behaviour(cut="before_read"),
        Behaviour(cut="after_read"),
        Behaviour(answer=b"<html>", content_type="text/html", takes=False),
    )
    uplink = real_uplink(store, otlp_sink.url, timeout=Duration(30))
    uplink._outages.backoff.max_s = 0.05
    task = asyncio.create_task(uplink.run())
    for k in range(20):
        store.add(make_readings(50, start=50 * k))
        await asyncio.sleep(0.03)
    await until(lambda: not store.held)
    await end(task)
    store.check()
    assert uplink.status()["compression"] == "gzip"
    assert otlp_sink.unexplained_duplicates() == []
    assert len(otlp_sink.readings()) == store.delivered == 1000 - store.ledger.total()
    assert set(store.ledger) == {"refused"}
    assert store.maybe_twice


async def test_stopping_in_the_middle_of_a_silent_request(
    no_threads_left, make_store, make_readings, otlp_sink, make_link, monkeypatch
) -> None:
    """The connection is cut, the thread ends, the data is held."""
    link = make_link(otlp_sink.address)
    link.mode = Mode.STALL
    store = make_store(FakeClock())
    store.add(make_readings(5))
    uplink = real_uplink(store, f"http://127.0.0.1:{link.port}", timeout=Duration(60))
    task = asyncio.create_task(uplink.run())
    await until(lambda: uplink.status()["requests"] == 1)
    monkeypatch.setattr(delivery, "FINISH_S", 0.2)
    await end(task)
    store.check()
    assert store.held == 5


async def test_an_unknown_boot_does_not_stop_the_road(make_store, make_readings, otlp_sink) -> None:
    """Stamps that nobody can place are counted, the next segment goes."""
    store = make_store(FakeClock())
    store.add(Batch.of(0, [1, 2], np.ones(2), flags=MONOTONIC), boot=BootId(9))
    store.add(make_readings(3))
    task = asyncio.create_task(real_uplink(store, otlp_sink.url).run())
    await until(lambda: not store.held)
    await end(task)
    assert store.ledger == {"time_lost": 2}
    assert store.delivered == 3


def test_the_status_names_what_it_does(make_road, make_readings) -> None:
    """Idle with nothing held, combining between rounds, sending, stopped at the end."""

    async def main() -> None:
        road = make_road(takes_s=1)
        assert road.uplink.status()["state"] == "stopped"
        task = await road.start(1)
        assert road.uplink.status()["state"] == "idle"
        road.store.add(make_readings(1))
        await asyncio.sleep(0.5)
        assert road.uplink.status()["state"] == "sending"
        await road.stop(task)
        assert road.uplink.status()["state"] == "stopped"

    run(main())


QUICK = {"takes_s": 0.01, "batch_readings_max": 1000}


async def most_in_hand(road, readings: int) -> int:
    """Wait until so many are delivered; return how many leases were in hand at most."""
    most = 0
    while road.store.delivered < readings:
        await asyncio.sleep(0.001)
        most = max(most, len(road.store.leased))
    return most


def test_where_answers_come_at_once_the_next_request_stands_ready(make_road, make_readings) -> None:
    """Two leases in hand at most; all arrive in order, once each, and the doors hear that this road keeps up."""

    async def main() -> None:
        road = make_road(**QUICK)
        for k in range(40):
            road.store.add(make_readings(1000, start=1000 * k))
        task = await road.start()
        assert await most_in_hand(road, 40_000) == 2
        assert [r.value for r in road.wire.readings()] == list(range(40_000))
        await road.stop(task)
        assert road.store.maybe_twice == 0

    run(main())


def test_a_slow_road_has_one_lease_in_hand(make_road, make_readings) -> None:
    """What is freshest then is chosen when its turn comes."""

    async def main() -> None:
        road = make_road(takes_s=0.5, batch_readings_max=1000)
        for k in range(10):
            road.store.add(make_readings(1000, start=1000 * k))
        task = await road.start()
        assert await most_in_hand(road, 10_000) == 1
        assert road.store.events_of_speed == []
        await road.stop(task)

    run(main())


def test_what_takes_too_long_for_who_stands_in_between_is_sent_in_less(make_road, make_readings) -> None:
    """A receiver takes a while for each reading and its proxy has no patience: the same request would fail for ever."""

    async def main() -> None:
        road = make_road()

        def judge(signal, body):
            if len(parse_metrics(body)) > 300:
                return PassedOnError("status 504", answer_lost=True)
            return Answer(seconds=1.5)

        road.wire.judge = judge
        for k in range(20):
            road.store.add(make_readings(200, start=200 * k))
        await road.run_for(600)
        assert road.store.delivered == 4000

    run(main())


def test_little_is_sent_twice_through_a_proxy_that_gives_up_on_large_requests(make_road, make_readings) -> None:
    """What gets through is soon about as large as may be, and something larger is tried less and less often."""
    allowed_bytes, takes_s, hour_s = 20_000, 3.0, 3600

    async def main() -> None:
        road = make_road(takes_s=takes_s, compression="none")
        taken: list[int] = []

        def judge(signal: Signal, body: bytes) -> Answer | Exception:
            road.wire.sent.clear()
            if len(body) > allowed_bytes:
                return PassedOnError("status 504", answer_lost=True)
            taken.append(len(body))
            return Answer(seconds=takes_s)

        async def fill() -> None:
            body = encode_metrics(make_readings(100), sequence=1, boot=BootId(1), previous_hash=bytes(16))
            while True:
                while road.store.held < 6_000:
                    road.store.add(make_readings(100), lane="backlog", body=body)
                await asyncio.sleep(1)

        road.wire.judge = judge
        filling = asyncio.create_task(fill())
        await road.run_for(hour_s)
        filling.cancel()
        assert road.store.maybe_twice < 20_000
        assert sum(taken) > 0.75 * len(taken) * allowed_bytes
        assert len(taken) > 0.95 * hour_s / takes_s

    run(main())


def test_nothing_stands_ready_behind_a_request_that_is_large_for_its_road(make_road, make_readings) -> None:
    """A handful is answered at once on a slow line, too; what is fresh by then does not wait for two large ones."""

    async def main() -> None:
        road = make_road(takes_s=0.01, batch_readings_max=1000)
        road.wire.judge = lambda signal, body: Answer(seconds=len(parse_metrics(body)) * 0.002)
        road.store.add(make_readings(10, start=0))
        for k in range(1, 10):
            road.store.add(make_readings(1000, start=1000 * k), lane="backlog")
        task = await road.start()
        assert await most_in_hand(road, 9_010) == 1
        await road.stop(task)

    run(main())


@pytest.mark.parametrize("answer_lost", [False, True])
def test_what_stood_ready_behind_a_failure_goes_back_for_certain(make_road, make_readings, answer_lost: bool) -> None:
    """Only the one that failed may have arrived; nothing is lost or doubled without being said."""

    async def main() -> None:
        road = make_road(*[Answer(seconds=0.01)] * 5, InTransitError("cut", answer_lost=answer_lost), **QUICK)
        for k in range(40):
            road.store.add(make_readings(1000, start=1000 * k))
        await road.run_for(30)
        releases = [event for event in road.store.events if event[0] == "release"]
        assert sorted(releases) == [("release", 1000, False), ("release", 1000, answer_lost)]
        assert road.store.delivered == 40_000
        assert road.store.maybe_twice == 1000 * answer_lost
        assert road.store.events_of_speed[:2] == [True, False]

    run(main())


@pytest.mark.parametrize("answer", [TooLargeError("413"), REFUSED])
def test_what_stood_ready_behind_a_refusal_is_sent_in_its_turn(make_road, make_readings, answer: Exception) -> None:
    """A request that is cut or refused is brought to its end first."""

    async def main() -> None:
        road = make_road(*[Answer(seconds=0.01)] * 5, answer, compression="zstd", **QUICK)
        for k in range(20):
            road.store.add(make_readings(1000, start=1000 * k))
        await road.run_for(30)
        assert (road.store.delivered, road.store.ledger.total()) == (20_000, 0)
        values = [r.value for r in road.wire.readings()]
        assert values[:6000] == list(range(6000))
        assert len(values) == 21_000
        assert road.store.maybe_twice == 0

    run(main())


@pytest.mark.parametrize("after_s", [0.001, 0.0125, 0.035, 0.055])
def test_stopping_with_one_ready_behind_the_other(make_road, make_readings, after_s: float) -> None:
    """Both are settled or given back; what was answered in time counts, and nothing is said to be in doubt."""

    async def main() -> None:
        road = make_road(stop_grace=Duration(0), **QUICK)
        for k in range(40):
            road.store.add(make_readings(1000, start=1000 * k))
        await road.run_for(after_s)
        assert road.store.delivered == len(road.wire.readings())
        assert road.store.maybe_twice == 0

    run(main())


def test_a_mistake_while_looking_ahead_waits_for_its_turn(make_road, make_readings, monkeypatch) -> None:
    """The request under way is brought to its end; the lease goes back, and goes wrong where everybody sees it."""

    async def main() -> None:
        road = make_road(**QUICK)
        for k in range(3):
            road.store.add(make_readings(1000, start=1000 * k))
        begin, begun = road.uplink._sending.begin, []

        def fail_third(hand, **how):
            begun.append(hand)
            if hand.lease.segments[0].sequence == 3:
                raise ZeroDivisionError
            return begin(hand, **how)

        monkeypatch.setattr(road.uplink._sending, "begin", fail_third)
        with pytest.raises(ZeroDivisionError):
            await road.uplink.run()
        assert road.store.delivered == 2000
        assert road.store.held == 1000
        road.store.check()

    run(main())


def test_a_road_keeps_up_only_while_it_takes_things_away(make_road, make_readings) -> None:
    """One that waits for more, or for anything at all, is nobody whom the doors should wait for."""

    async def main() -> None:
        road = make_road(**QUICK, batch_interval=Duration(60))
        for k in range(5):
            road.store.add(make_readings(1000, start=1000 * k))
        task = await road.start(1)
        assert road.store.events_of_speed == [True, False]
        road.store.add(make_readings(1, start=5000))
        await asyncio.sleep(30)
        assert road.uplink.status()["state"] == "combining"
        assert road.store.events_of_speed[-1] is False
        await road.stop(task)

    run(main())


def test_what_is_refused_while_it_stops_is_not_taken_for_delivered(make_road, make_readings) -> None:
    """The last part is refused when nobody waits any more; whether that is about the data is not known yet."""

    async def main() -> None:
        road = make_road(compression="zstd", takes_s=0.5)
        road.wire.judge = lambda signal, body: REFUSED
        road.store.add(make_readings(4))
        for stop_s in (1.2, 2.7, 3.2, 3.7):
            await road.run_for(stop_s)
            assert (road.store.delivered, road.store.held) == (0, 4)

    run(main())


def test_the_rest_of_a_lease_that_is_refused_is_not_taken_for_delivered(make_road, make_readings) -> None:
    """Its first part was taken before anything of it was refused."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=5)
        road.wire.judge = refusing(*range(5, 10))
        road.store.add(make_readings(10))
        await road.run_for(100)
        assert road.store.delivered == 5
        assert road.store.ledger == {"refused": 5}

    run(main())


def test_a_server_that_fails_from_the_middle_of_a_lease_on_costs_nothing(make_road, make_readings) -> None:
    """A 500 says nothing about the data until something is taken after it."""

    async def main() -> None:
        road = make_road(Answer(), compression="zstd", batch_readings_max=5)
        road.store.add(make_readings(10))
        road.wire.judge = lambda signal, body: StatusRefusedError("status 500", 500)
        task = await road.start(5000)
        assert road.store.held == 10
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(1000)
        await road.stop(task)
        assert road.store.delivered == 10

    run(main())


def test_a_road_that_was_shut_opens_though_the_guilty_are_in_every_lease(make_road, make_readings) -> None:
    """One small part of a lease is enough to see that it takes something."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=5000)
        road.wire.judge = lambda signal, body: REFUSED
        for k in range(20):
            road.store.add(make_readings(5000, start=5000 * k), lane="backlog")
        task = await road.start(1000)
        assert not road.store.ledger
        bad = {5000 * k + 2500 for k in range(20)}
        road.wire.judge = refusing(*bad)
        await asyncio.sleep(1000)
        await road.stop(task)
        assert road.store.held == 0
        assert 20 <= road.store.ledger["refused"] <= 20 * (5000 // PARTS_MAX + 1)

    run(main())


def test_the_guilty_may_be_everywhere_in_a_lease(make_road, make_readings) -> None:
    """Every fifth reading: no large part of it is taken."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = refusing(*range(0, 250, 5))
        road.store.add(make_readings(250))
        await road.run_for(200)
        assert road.store.delivered == 200
        assert road.store.ledger == {"refused": 50}

    run(main())


def test_what_is_too_large_keeps_nobody_else_waiting(make_road, make_readings, make_records) -> None:
    """Some of it is given up, and no more while nothing of its signal is taken."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = lambda signal, body: TooLargeError("413") if signal is Signal.LOGS else Answer()
        road.store.add(make_records(20))
        task = await road.start(10)
        road.store.add(make_readings(5))
        await asyncio.sleep(100)
        assert road.store.delivered == 5
        assert road.store.maybe_twice == 0
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(100)
        await road.stop(task)
        assert road.store.delivered == 25

    run(main())


def test_what_is_refused_beside_what_is_too_large_is_not_taken_for_delivered(make_road, make_readings) -> None:
    """Whichever of them is answered last."""

    async def main() -> None:
        for large, refused in ((0, 1), (1, 0)):
            road = make_road(compression="none", batch_readings_max=1)
            answers = {large: TooLargeError("413"), refused: REFUSED}
            road.wire.judge = lambda signal, body, answers=answers: answers[int(parse_metrics(body)[0].value)]
            road.store.add(make_readings(2))
            await road.run_for(100)
            assert road.store.delivered == 0
            assert road.store.ledger == {"refused+too_large": 2}

    run(main())


def test_one_reading_that_is_too_large_in_every_lease_keeps_no_road_shut(make_road, make_readings) -> None:
    """However long nothing at all was taken before."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100)
        road.wire.judge = lambda signal, body: TooLargeError("413")
        for k in range(20):
            road.store.add(make_readings(100, start=100 * k), lane="backlog")
        task = await road.start(1000)
        assert road.store.held == 2000
        large = set(range(0, 2000, 100))
        road.wire.judge = lambda signal, body: (
            TooLargeError("413") if large & {r.value for r in parse_metrics(body)} else Answer()
        )
        await asyncio.sleep(1000)
        await road.stop(task)
        assert road.store.ledger == {"too_large": 20}
        assert road.store.held == 0

    run(main())


def test_a_server_that_fails_for_a_while_costs_nothing_beside_the_guilty(make_road, make_readings) -> None:
    """While the lease of one bad device is cut: its refusals are no failures of the server."""

    async def main() -> None:
        road = make_road(compression="zstd")
        picky, fails = refusing(0, 100, 200), [0]

        def judge(signal: Signal, body: bytes) -> Answer | Exception:
            if 20 <= len(road.wire.sent) and fails[0] < 7:
                fails[0] += 1
                return StatusRefusedError("status 500", 500)
            return picky(signal, body)

        road.wire.judge = judge
        road.store.add(make_readings(250))
        await road.run_for(1000)
        assert fails == [7]
        assert road.store.ledger == {"refused": 3}
        assert road.store.delivered == 247

    run(main())


def test_what_a_failing_server_took_all_the_same_is_counted_with_each_part(make_road, make_readings) -> None:
    """It keeps what it answers with 500, and gets it in halves of halves; that is never more than is said."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100)
        picky, taken = refusing(7), Counter()

        def judge(signal: Signal, body: bytes) -> Answer | Exception:
            taken.update(r.value for r in parse_metrics(body))
            refused = isinstance(picky(signal, body), Exception)
            return StatusRefusedError("status 500", 500) if refused else Answer()

        road.wire.judge = judge
        for k in range(3):
            road.store.add(make_readings(100, start=100 * k))
        await road.run_for(5000)
        assert road.store.ledger == {"refused": 1}
        assert taken.total() - len(taken) <= road.store.maybe_twice

    run(main())


def test_what_is_sent_again_in_another_encoding_is_counted(make_road, make_readings) -> None:
    """A server that fails may have taken it; one that says that it does not know the encoding has not."""

    async def main() -> None:
        for status, is_doubled in ((500, True), (400, False)):
            road = make_road(StatusRefusedError("no", status), Answer())
            road.store.add(make_readings(5))
            await road.run_for(10)
            assert [packed.encoding for _, packed, _ in road.wire.sent] == ["zstd", "gzip"]
            assert (road.store.delivered, road.store.maybe_twice) == (5, 5 * is_doubled)

    run(main())


def test_nothing_is_begun_behind_one_that_failed_while_it_was_leased(make_road, make_readings) -> None:
    """The thread is free by then and would send it at once, while its lease goes back as not sent."""

    async def main() -> None:
        road = make_road(*[Answer(seconds=0.01)] * 3, InTransitError("cut"), **QUICK)
        lease = road.store.lease

        async def lease_slowly(uplink, **how):
            found = await lease(uplink, **how)
            if not how["may_wait"]:
                await asyncio.sleep(0.05)
            # Whatever is put into the thread after that is sent before the loop has its next turn.
            road.wire.takes_s = 0.01 if how["may_wait"] or len(road.wire.sent) < 4 else 0.0
            return found

        road.store.lease = lease_slowly
        for k in range(20):
            road.store.add(make_readings(1000, start=1000 * k))
        await road.run_for(30)
        assert road.store.delivered == 20_000
        assert len(road.wire.readings()) == 21_000
        assert road.store.maybe_twice == 0

    run(main())


def test_our_own_mistake_while_a_request_is_under_way_says_that_it_may_arrive(make_road, make_readings) -> None:
    """Nobody waits for its answer any more."""

    async def main() -> None:
        road = make_road(*[Answer(seconds=0.01)] * 30, **QUICK)
        lease = road.store.lease

        async def fail_ahead(uplink, **how):
            if not how["may_wait"]:
                raise ZeroDivisionError
            return await lease(uplink, **how)

        road.store.lease = fail_ahead
        for k in range(20):
            road.store.add(make_readings(1000, start=1000 * k))
        with pytest.raises(ZeroDivisionError):
            await road.uplink.run()
        await asyncio.sleep(1)
        road.store.check()
        assert len(road.wire.readings()) - road.store.delivered <= road.store.maybe_twice

    run(main())


def test_a_stop_that_gives_up_a_request_sends_nothing_behind_it(make_road, make_readings) -> None:
    """The thread is still busy with a part of a lease; what would stand behind it fails with it."""

    async def main() -> None:
        road = make_road(TooLargeError("413"), takes_s=2.0, stop_grace=Duration(10))
        road.store.add(make_readings(10))
        task = await road.start(3)
        road.wire.takes_s = 20.0
        before_s = asyncio.get_running_loop().time()
        await road.stop(task)
        assert asyncio.get_running_loop().time() - before_s < 8
        assert road.store.events[-1] == ("release", 10, True)

    run(main())


def test_an_answer_that_is_lost_while_a_cut_lease_is_stopped_is_said(make_road, make_readings) -> None:
    """Nothing of it was taken for certain, and a part of it perhaps."""

    async def main() -> None:
        road = make_road(
            TooLargeError("413"), InTransitError("lost", answer_lost=True), takes_s=2.0, stop_grace=Duration(0)
        )
        road.store.add(make_readings(10))
        await road.stop(await road.start(3))
        assert road.store.events[-1] == ("release", 10, True)

    run(main())


def test_what_is_held_back_does_not_hurry_the_others(make_road, make_readings, make_records) -> None:
    """However much of it there is: what may be sent is sent together, about once in each interval."""

    async def main() -> None:
        road = make_road(batch_interval=Duration(60), batch_readings_max=100)
        road.wire.judge = lambda signal, body: HoldError("status 404") if signal is Signal.LOGS else Answer()
        road.store.add(make_records(100))
        task = await road.start(1)
        for k in range(600):
            road.store.add(make_readings(1, start=k))
            await asyncio.sleep(1)
        assert len([packed for _, packed, _ in road.wire.sent if packed.signal is Signal.METRICS]) <= 22
        await road.stop(task)

    run(main())


def test_who_finds_nothing_to_send_does_not_say_that_it_sends(make_road, make_readings, make_records) -> None:
    """The store knows only by looking whether there is more."""

    async def main() -> None:
        road = make_road()
        road.wire.judge = lambda signal, body: HoldError("status 404") if signal is Signal.LOGS else Answer()
        road.store._look = lambda: None
        road.store.add(make_readings(5))
        task = await road.start(0.1)
        assert (road.store.delivered, road.uplink.status()["state"]) == (5, "idle")
        road.store.add(make_records(5))
        await asyncio.sleep(2.1)
        assert road.uplink.status()["state"] == "holding"
        assert road.uplink.status()["reason"] == "status 404"
        await road.stop(task)

    run(main())


def test_a_path_that_goes_in_the_middle_of_a_lease_keeps_only_its_own_signal(
    make_road, make_readings, make_records
) -> None:
    """What is left of it waits in the hand, and nothing that was taken is sent again."""

    async def main() -> None:
        road = make_road(Answer(), HoldError("status 404"), batch_readings_max=5)
        road.wire.judge = lambda signal, body: HoldError("status 404") if signal is Signal.LOGS else Answer()
        road.store.add(make_records(10))
        task = await road.start(10)
        for k in range(3):
            road.store.add(make_readings(5, start=5 * k))
            await asyncio.sleep(100)
        assert road.store.delivered == 15
        assert [*road.uplink.status()["held_back"]] == ["logs"]
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(200)
        assert road.store.delivered == 25
        assert road.store.maybe_twice == 0
        road.wire.script = [Answer(), HoldError("status 404")]
        road.store.add(make_records(10))
        await asyncio.sleep(10)
        await road.stop(task)
        assert road.store.events[-1] == ("release", 10, True)

    run(main())


def test_what_was_held_back_in_the_middle_of_a_lease_has_its_turn_in_a_flood(
    make_road, make_readings, make_records
) -> None:
    """A road that always has the next request ready behind the one under way comes back to it all the same."""

    async def main() -> None:
        road = make_road(Answer(), HoldError("status 401"), takes_s=0.05, batch_readings_max=5)
        road.store.add(make_readings(10))
        task = await road.start(1)
        assert [*road.uplink.status()["held_back"]] == ["metrics"]
        for _ in range(2000):
            road.store.add(make_records(5))
        await asyncio.sleep(65)
        assert road.uplink.status()["held_back"] == {}
        assert road.store.held > 1000
        assert len(road.wire.readings()) == 15
        await road.stop(task)

    run(main())


def test_two_leases_of_a_signal_that_is_held_back_in_the_middle_of_each(make_road, make_readings, make_records) -> None:
    """One that was leased while the other waited goes back, and takes nothing away from it."""

    async def main() -> None:
        road = make_road(Answer(), HoldError("status 401"), batch_readings_max=5)
        road.store.add(make_readings(10))
        task = await road.start(1)
        lease = road.store.lease

        async def wait_for_a_commit(*args: object, **options: object) -> object:
            await asyncio.sleep(100)
            road.store.lease = lease
            return await lease(*args, **options)

        road.store.lease = wait_for_a_commit
        road.store.add(make_records(1))
        await asyncio.sleep(5)
        road.store.add(make_readings(10, start=10), priority=Priority.CRITICAL)
        road.store.lanes["live"].reverse()
        road.wire.script = [Answer(), HoldError("status 401")]
        await asyncio.sleep(100)
        assert road.store.events[-4:] == [
            ("lease", "live", 10),
            ("release", 10, True),
            ("lease", "live", 1),
            ("ack", 1, 0),
        ]
        assert len(road.store.leased) == 1
        await asyncio.sleep(300)
        assert (road.store.delivered, road.store.maybe_twice) == (21, 10)
        await road.stop(task)

    run(main())


def test_a_look_that_finds_nothing_hides_no_hand_whose_wait_ended_meanwhile(make_road, make_readings) -> None:
    """Where nothing more arrives nobody would ask for it again."""

    async def main() -> None:
        road = make_road(Answer(), HoldError("status 401"), batch_readings_max=5)
        road.store.add(make_readings(10))
        task = await road.start(1)

        async def look_for_long(*_: object, **__: object) -> None:
            await asyncio.sleep(100)
            road.store._held.clear()

        road.store.lease = look_for_long
        road.store._held.set()
        await asyncio.sleep(200)
        assert road.store.delivered == 10
        await road.stop(task)

    run(main())


def breaking(*values: float, is_lost: bool = True):
    """Return what breaks the connection at each request that holds one of these values, as a picky broker does."""

    def judge(signal: Signal, body: bytes) -> Answer | Exception:
        is_bad = signal is Signal.METRICS and any(r.value in values for r in parse_metrics(body))
        return InTransitError("the connection broke", answer_lost=is_lost) if is_bad else Answer()

    return judge


@pytest.mark.parametrize("is_begun", [True, False])
def test_data_at_which_connections_break_keeps_nobody_waiting(make_road, make_readings, is_begun: bool) -> None:
    """In the middle of a lease or at its beginning: soon it is alone, and all else goes as ever."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=1000 if is_begun else 100)
        bad = 2503 if is_begun else 3
        road.wire.judge = breaking(bad)
        for k in range(6):
            road.store.add(make_readings(1000 if is_begun else 50, start=1000 * k), lane="backlog")
        task = await road.start(120)
        for k in range(100):
            road.store.add(make_readings(5, start=10_000 + 5 * k))
            await asyncio.sleep(4)
            # What is freshest may wait for one try.
            assert len({r.value for r in road.wire.readings() if r.value >= 10_000}) >= 5 * (k - 1)
        assert road.uplink.status()["put_off"]["readings"] == 1
        assert not road.store.ledger
        tries = [body for _, _, body in road.wire.sent if any(r.value == bad for r in parse_metrics(body))]
        assert road.store.maybe_twice >= sum(len(parse_metrics(body)) for body in tries[:-1])
        assert len(tries) < 60
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(70)
        assert road.store.delivered == road.store.accepted
        await road.stop(task)

    run(main())


@pytest.mark.parametrize("each", [5, 50])
def test_data_at_which_connections_break_is_found_among_what_is_fresh(make_road, make_readings, each: int) -> None:
    """Where it is in the only lease there is, and nothing else shows that the road takes anything: a small part does."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = breaking(103)
        task = await road.start(1)
        for k in range(90):
            road.store.add(make_readings(each, start=each * k))
            await asyncio.sleep(1)
        assert len({r.value for r in road.wire.readings()}) >= 85 * each
        assert road.uplink.status()["put_off"]["readings"] == 1
        assert not road.store.ledger
        await road.stop(task)

    run(main())


def test_what_breaks_all_connections_for_hours_is_given_up(make_road, make_readings) -> None:
    """With others taken before each of its tries: then it is in the ledger, and a person can see it."""

    async def main() -> None:
        road = make_road(compression="zstd")
        road.wire.judge = breaking(3)
        road.store.add(make_readings(5), lane="backlog")
        task = await road.start(0.5)
        for k in range(1, 300):
            road.store.add(make_readings(5, start=5 * k))
            await asyncio.sleep(30)
            assert not road.store.ledger or k > 120
        assert (road.store.delivered, road.store.ledger) == (1499, {"refused": 1})
        assert [(why, count) for why, count, _ in road.store.aside] == [("the connection broke", 1)]
        await road.stop(task)

    run(main())


@pytest.mark.parametrize("is_lost", [True, False])
def test_an_outage_in_the_middle_of_a_lease_is_one(make_road, make_readings, is_lost: bool) -> None:
    """Whatever is in it: when it is over all goes, what is freshest first, and nothing is given up."""

    async def main() -> None:
        road = make_road(compression="zstd", batch_readings_max=100, retry=RetrySettings(max=Duration(60)))
        requests = 0

        def judge(signal: Signal, body: bytes) -> Answer | Exception:
            nonlocal requests
            requests += 1
            return Answer() if requests < 4 else InTransitError("the connection broke", answer_lost=is_lost)

        road.wire.judge = judge
        road.store.add(make_readings(1000), lane="backlog")
        task = await road.start(10)
        for k in range(60):
            road.store.add(make_readings(5, start=10_000 + 5 * k))
            await asyncio.sleep(60)
        tried = road.wire.requests
        assert tried < 200
        road.wire.judge = lambda signal, body: Answer()
        await asyncio.sleep(70)
        assert road.store.delivered == 1300
        assert not road.store.ledger
        await road.stop(task)

    run(main())
