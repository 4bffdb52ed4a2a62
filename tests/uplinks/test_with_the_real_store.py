"""Checks for an uplink on the real store: what was accepted arrives once, and the accounts agree."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import MONOTONIC, Batch, LogRecords, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.settings import OtlpUplinkSettings
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CLOCK = SystemClock()


@pytest.fixture
async def open_store(tmp_path) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    """Open the store, and once more after it was closed; a test that fails leaves none open, whose threads would stay."""
    opened = []

    async def open_one() -> Store:
        opened.append(
            await Store.open(
                state_dir=tmp_path,
                settings=StoreSettings(),
                clock=CLOCK,
                uplinks=["cloud"],
                max_series=1000,
                telemetry=Telemetry(),
                commit_interval_s=0.01,
            )
        )
        return opened[-1]

    yield open_one
    if opened:
        with contextlib.suppress(Exception):
            await opened[-1].close()


def uplink_of(store: Store, endpoint: str, **settings) -> Uplink:
    settings = {"timeout": Duration(2), "batch_interval": Duration(0.05), **settings}
    uplink = Uplink(
        OtlpUplinkSettings(name="cloud", endpoint=endpoint, **settings),
        store=store,
        gateway_attributes=(("tidegate.gateway.id", "site-7"),),
        version="0.1.0",
        clock=CLOCK,
        telemetry=Telemetry(),
        random=random.Random(1),
    )
    for patience in (uplink._outages.backoff, *uplink._outages.holding._patience.values()):
        patience.initial_s = patience.max_s = 0.05
    return uplink


def counted(store: Store, start: int, count: int, device: str = "a") -> Batch:
    number = store.resolve(Series((("device.id", device),), "n"))
    return Batch.of(number, CLOCK.monotonic_ns() + np.arange(count), np.arange(start, start + count), flags=MONOTONIC)


def log_lines(store: Store, count: int) -> LogRecords:
    number, now_ns = store.resolve(Series((("device.id", "a"),), "", kind="log")), CLOCK.wall_ns()
    records = [
        encode_log_record(
            time_ns=now_ns, observed_ns=0, severity_number=9, severity_text="", body=str(k), attributes=()
        )
        for k in range(count)
    ]
    return LogRecords(np.full(count, number, np.uint32), np.full(count, now_ns), tuple(records))


def balance(store: Store) -> dict:
    status = store.status()
    account = status["uplinks"]["cloud"]
    assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
    return account


async def until_sent(store: Store, *, within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while balance(store)["held"]:
            await asyncio.sleep(0.01)


async def end(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_everything_arrives_once_through_an_outage(open_store, otlp_sink) -> None:
    """Metrics of two devices and logs, with refused connections, cuts and throttling on the way."""
    store = await open_store()
    otlp_sink.behave(*[Behaviour(status=503)] * 3, Behaviour(cut="before_read"), Behaviour(status=429, retry_after="0"))
    task = asyncio.create_task(uplink_of(store, otlp_sink.url).run())
    log = store.resolve(Series((("device.id", "a"),), "", kind="log"))
    for k in range(20):
        record = encode_log_record(
            time_ns=CLOCK.wall_ns(),
            observed_ns=0,
            severity_number=9,
            severity_text="",
            body=str(k),
            attributes=(),
        )
        logs = LogRecords(np.array([log], np.uint32), np.array([CLOCK.wall_ns()]), (record,))
        pieces = [
            (Priority.NORMAL, counted(store, 100 * k, 100)),
            (Priority.BULK, counted(store, 100 * k, 100, "b")),
        ]
        await store.append(pieces, logs=logs)
    await until_sent(store)
    await end(task)
    account = balance(store)
    await store.close()
    assert account["delivered"] == 20 * 201
    readings = otlp_sink.readings()
    assert set(readings.values()) == {1}
    assert sorted((r.device, r.value) for r in readings) == [(d, k) for d in "ab" for k in range(2000)]
    assert sorted(int(line.body) for line in otlp_sink.logs()) == list(range(20))


async def test_what_was_held_at_a_stop_is_sent_by_the_next_run(open_store, otlp_sink) -> None:
    """Stopped while the receiver is away, opened again: all of it, with Unix times.

    A request that is under way at the stop may be taken by the receiver that is well again: that is said.
    """
    store = await open_store()
    otlp_sink.always = Behaviour(status=503)
    task = asyncio.create_task(uplink_of(store, otlp_sink.url).run())
    before_ns = CLOCK.wall_ns()
    await store.append([(Priority.NORMAL, counted(store, 0, 500))])
    await asyncio.to_thread(otlp_sink.wait_for_requests, 1)
    await end(task)
    assert balance(store)["held"] == 500
    await store.close()
    otlp_sink.always = Behaviour()
    store = await open_store()
    task = asyncio.create_task(uplink_of(store, otlp_sink.url).run())
    await until_sent(store)
    await end(task)
    maybe_twice = balance(store)["maybe_twice"]
    await store.close()
    readings = otlp_sink.readings()
    assert sorted(r.value for r in readings) == list(range(500))
    assert readings.total() - 500 <= maybe_twice
    assert all(abs(r.time_ns - before_ns) < 600 * 10**9 for r in readings)


async def test_a_class_that_is_refused_waits_until_another_is_taken(open_store, otlp_sink) -> None:
    """Where nothing at all was taken it may be the road, and nothing is given up; nobody is kept waiting for it."""
    store = await open_store()
    otlp_sink.always = Behaviour(refuses=lambda reading: reading.value < 100, message="bad name")
    uplink = uplink_of(store, otlp_sink.url)
    task = asyncio.create_task(uplink.run())
    await store.append([(Priority.CRITICAL, counted(store, 0, 100))])
    async with asyncio.timeout(60):
        while uplink.status()["state"] != "holding":
            await asyncio.sleep(0.01)
    assert balance(store)["held"] == 100
    await store.append([(Priority.NORMAL, counted(store, 100, 50))])
    await until_sent(store)
    await end(task)
    assert (balance(store)["delivered"], balance(store)["ledger"]) == (50, {"refused": 100})
    await store.close()


async def test_a_receiver_without_logs_takes_metrics(open_store, otlp_sink) -> None:
    """However much more important the logs are; they wait, and leave when their path is there."""
    store = await open_store()
    otlp_sink.always = Behaviour(knows_not="logs")
    uplink = uplink_of(store, otlp_sink.url)
    task = asyncio.create_task(uplink.run())
    await store.append([], logs=log_lines(store, 1))
    for k in range(10):
        await store.append([(Priority.NORMAL, counted(store, 10 * k, 10))])
    async with asyncio.timeout(60):
        while balance(store)["delivered"] < 100:
            await asyncio.sleep(0.01)
    assert balance(store)["held"] == 1
    assert [*uplink.status()["held_back"]] == ["logs"]
    store._desks["cloud"]._go_on_with(Signal.LOGS)
    otlp_sink.always = Behaviour()
    await until_sent(store)
    await end(task)
    await store.close()


async def test_refusals_and_rejections_are_in_the_ledger(open_store, otlp_sink) -> None:
    """Refused whole, rejected in part: the account on disk says so, and nothing of it comes again."""
    store = await open_store()
    otlp_sink.always = Behaviour(refuses=lambda reading: reading.value < 50, message="bad name")
    task = asyncio.create_task(uplink_of(store, otlp_sink.url).run())
    await store.append([(Priority.NORMAL, counted(store, 0, 3))])
    await until_sent(store)
    otlp_sink.always = Behaviour(rejected=7, message="too old")
    await store.append([(Priority.NORMAL, counted(store, 50, 50))])
    await until_sent(store)
    await end(task)
    await store.close()
    store = await open_store()
    assert balance(store)["ledger"] == {"refused": 3, "rejected": 7}
    assert balance(store)["delivered"] == 43
    await store.close()


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
async def test_a_receiver_without_the_chosen_compression_costs_no_reading(open_store, otlp_sink, protocol) -> None:
    """It answers 400 as to bad data: a lone first reading is held, and said is what to set."""
    store = await open_store()
    otlp_sink.always = Behaviour(refuse_encoding="zstd")
    uplink = uplink_of(store, otlp_sink.url, compression="zstd", protocol=protocol)
    task = asyncio.create_task(uplink.run())
    await store.append([(Priority.NORMAL, counted(store, 0, 1))])
    async with asyncio.timeout(60):
        while uplink.status()["state"] != "holding":
            await asyncio.sleep(0.01)
    said = uplink.status()["held_back"]["metrics"]
    assert said.startswith("status 400: unknown encoding zstd; a request for nothing is taken there")
    assert 'compression = "auto"' in said
    assert (balance(store)["held"], balance(store)["ledger"], otlp_sink.totals.readings) == (1, {}, 0)
    await end(task)
    await store.close()
    store = await open_store()
    task = asyncio.create_task(uplink_of(store, otlp_sink.url, protocol=protocol).run())
    await until_sent(store)
    await end(task)
    assert (balance(store)["delivered"], balance(store)["ledger"]) == (1, {})
    assert list(otlp_sink.readings().values()) == [1]
    await store.close()


async def test_a_long_stretch_of_refused_data_hides_nothing_behind_it(open_store, otlp_sink) -> None:
    """More of one bad device than fits in a lease, in the same class: what came after it shows that the road is one."""
    store = await open_store()
    otlp_sink.always = Behaviour(refuses=lambda reading: reading.value < 60, message="bad name")
    for k in range(6):
        await store.append([(Priority.NORMAL, counted(store, 10 * k, 10))])
    uplink = uplink_of(store, otlp_sink.url, batch_readings_max=40)
    task = asyncio.create_task(uplink.run())
    async with asyncio.timeout(60):
        while "metrics" not in uplink.status()["held_back"]:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        while balance(store)["ledger"] != {"refused": 60}:
            await store.append([(Priority.NORMAL, counted(store, 60, 1, "b"))])
            await asyncio.sleep(0.1)
    await until_sent(store)
    await end(task)
    await store.close()


async def test_a_receiver_of_json_is_sent_json(open_store, otlp_sink) -> None:
    """All of it, whatever its kind, and what it rejects or throttles counts as with protobuf."""
    store = await open_store()
    otlp_sink.always = Behaviour(takes_type="application/json")
    otlp_sink.behave(Behaviour(status=503, retry_after="0"), Behaviour(rejected=7, message="too old"))
    task = asyncio.create_task(uplink_of(store, otlp_sink.url, protocol="http/json").run())
    number = store.resolve(Series((("device.id", "a"),), "x", attributes=(("axis", "z"),)))
    doubles = Batch.of(number, CLOCK.monotonic_ns() + np.arange(50), np.arange(50) / 8, flags=MONOTONIC)
    await store.append([(Priority.NORMAL, counted(store, 0, 500)), (Priority.NORMAL, doubles)])
    await until_sent(store)
    await store.append([], logs=log_lines(store, 3))
    await until_sent(store)
    await end(task)
    account = balance(store)
    assert (account["delivered"], account["ledger"]) == (546, {"rejected": 7})
    readings = otlp_sink.readings()
    assert sorted(r.value for r in readings if r.metric == "n") == list(range(500))
    assert sorted(r.value for r in readings if r.metric == "x") == [k / 8 for k in range(50)]
    assert [line.body for line in otlp_sink.logs()] == ["0", "1", "2"]
    assert {request.headers["Content-Type"] for request in otlp_sink.requests} == {"application/json"}
    assert {request.encoding for request in otlp_sink.requests} == {"zstd"}


async def test_a_receiver_of_json_alone_holds_protobuf_back(open_store, otlp_sink) -> None:
    """It says 415 to whatever encoding: nothing is given up, and the sentence names what to change."""
    store = await open_store()
    otlp_sink.always = Behaviour(takes_type="application/json")
    uplink = uplink_of(store, otlp_sink.url)
    task = asyncio.create_task(uplink.run())
    await store.append([(Priority.NORMAL, counted(store, 0, 50))])
    async with asyncio.timeout(60):
        while uplink.status()["state"] != "holding":
            await asyncio.sleep(0.01)
    assert "protocol" in uplink.status()["reason"]
    await end(task)
    assert balance(store)["held"] == 50


async def test_a_shelf_that_is_known_to_be_empty_is_not_asked_again(open_store, otlp_sink, monkeypatch) -> None:
    """Each look by itself is a wake-up; what comes next goes when it is there, however long such a look would wait."""
    monkeypatch.setattr("gateway.uplinks.delivery.EMPTY_WAIT_S", 3600.0)
    store = await open_store()
    task = asyncio.create_task(uplink_of(store, otlp_sink.url).run())
    for k in range(5):
        await store.append([(Priority.NORMAL, counted(store, 10 * k, 10))])
        await until_sent(store)
        # The road has seen by now that nothing is left.
        await asyncio.sleep(0.1)
    await end(task)
    await store.close()
