"""An uplink to a real broker on the real store: killed, stalled, refusing, over budget; and the accounts agree."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from gateway.codecs.otlp import encode_log_record
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.net.mqtt_fields import Property
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.bridge import seams_of
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.delivery import Uplink
from hil.link_proxy import Mode
from hil.otlp_readings import parse_logs, parse_metrics
from hil.scripted_broker import Script, ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CLOCK = SystemClock()
GATEWAY = (("tidegate.gateway.id", "g1"),)


class Site:
    """A store with one uplink to a broker."""

    def __init__(self, store: Store, **table: Any) -> None:
        quick = {"timeout": "20s", "batch_interval": "50ms", "retry": {"initial": "50ms", "max": "50ms"}}
        full = {"type": "mqtt", "name": "cloud", **quick, **table}
        settings = msgspec.convert(full, MqttUplinkSettings, dec_hook=decode_hook)
        shared: dict[str, Any] = {
            "gateway_attributes": GATEWAY, "version": "1", "clock": CLOCK, "random": random.Random(1)
        }  # fmt: skip
        self.store = store
        self.telemetry = Telemetry()
        self.uplink = Uplink(
            settings,
            store=store,
            telemetry=self.telemetry,
            seams=seams_of(settings, series=store.series, **shared),
            **shared,
        )
        self.task = asyncio.create_task(self.uplink.run())

    async def append(self, start: int, count: int, *, devices: int = 4) -> None:
        numbers = np.arange(start, start + count)
        series = [self.store.resolve(Series((("device.id", f"d{k}"),), "n")) for k in range(devices)]
        batch = Batch.of(np.array(series)[numbers % devices], CLOCK.wall_ns() + numbers, numbers).sorted()
        await self.store.append([(Priority.NORMAL, batch)])

    def account(self) -> dict[str, Any]:
        status = self.store.status()
        account = status["uplinks"]["cloud"]
        assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
        return account

    async def until(self, condition, *, within_s: float = 60.0) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    if self.task.done() and not self.task.cancelled():
                        self.task.result()
                    self.account()
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            error.add_note(f"{self.uplink.status()} {self.account()}")
            raise

    async def drain(self) -> dict[str, Any]:
        await self.until(lambda: not self.account()["held"])
        return self.account()

    async def end(self) -> None:
        if not self.task.done():
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[Any]:
    """Open a store and start its uplink."""
    made: list[Site] = []

    async def make(**table: Any) -> Site:
        store = await Store.open(
            state_dir=tmp_path / "state",
            settings=StoreSettings(),
            clock=CLOCK,
            uplinks=["cloud"],
            max_series=1000,
            telemetry=Telemetry(),
            commit_interval_s=0.01,
        )
        made.append(Site(store, **table))
        return made[-1]

    yield make
    for site in made:
        await site.end()
        await site.store.close()


class Ear:
    """A subscriber with a session that the broker keeps: what was acknowledged to the publisher, it hears."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="ear", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = lambda _client, _data, message: self.heard.append((message.topic, message.payload))
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        assert self._subscribed.wait(60)

    def values(self) -> Counter[float]:
        return Counter(
            msgspec.json.decode(payload)["value"] for topic, payload in list(self.heard) if "/otlp" not in topic
        )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def listen(rigs) -> Iterator[Any]:
    """Make a subscriber."""

    def make(port: int) -> Ear:
        ear = Ear(port)
        rigs.callback(ear.close)
        return ear

    return make


async def test_readings_and_logs_leave_each_in_their_own_way(make_site, broker, listen) -> None:
    """A message for each reading, OTLP for what is no number; status says who it is and how it goes."""
    ear = listen(broker.port)
    site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload="json")
    await site.append(0, 1000)
    stream = site.store.resolve(Series((("device.id", "d0"),), "", kind="log"))
    record = encode_log_record(
        time_ns=CLOCK.wall_ns(), observed_ns=0, severity_number=9, severity_text="", body="hello", attributes=()
    )
    logs = LogRecords(np.array([stream], np.uint32), np.array([CLOCK.wall_ns()]), (record,))
    await site.store.append([], logs=logs)
    account = await site.drain()
    await site.until(lambda: len(ear.heard) == 1001)
    (log_line,) = [payload for topic, payload in ear.heard if topic == "tidegate/g1/logs"]
    assert [line.body for line in parse_logs(log_line)] == ["hello"]
    readings = [msgspec.json.decode(payload)["value"] for topic, payload in ear.heard if topic != "tidegate/g1/logs"]
    assert sorted(readings) == list(range(1000))
    assert (account["delivered"], account["maybe_twice"]) == (1001, 0)
    status = site.uplink.status()
    assert status["type"] == "mqtt"
    assert status["readings_sent"] == 1001
    assert status["compression"] == "none"


async def test_requests_leave_packed_as_messages(make_site, broker, listen) -> None:
    """As an OTLP receiver would get them."""
    from gateway.codecs import zstd

    ear = listen(broker.port)
    site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", compression="zstd")
    await site.append(0, 1000)
    await site.drain()
    await site.until(lambda: ear.heard)
    readings = [r for _, payload in ear.heard for r in parse_metrics(zstd.decompress(payload, bytes_max=1 << 24))]
    assert sorted(reading.value for reading in readings) == list(range(1000))


@pytest.mark.parametrize("payload", ["json", "otlp"])
async def test_a_broker_that_is_killed_again_and_again_loses_nothing_of_ours(make_site, payload: str) -> None:
    """Cut under way at many moments: each reading was acknowledged once at least; never more came than is said."""
    broker = ScriptedBroker(Script(terms=[(Property.RECEIVE_MAXIMUM, 20)]))
    with broker:
        site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload=payload)
        dice = random.Random(5)
        for start in range(0, 10_000, 500):
            await site.append(start, 500)
            before = len(broker.messages)
            await site.until(lambda before=before: len(broker.messages) > before)
            await asyncio.sleep(dice.random() * 0.01)
            broker.hang_up()
        account = await site.drain()
        await site.end()
    if payload == "json":
        found = Counter(msgspec.json.decode(message.payload)["value"] for message in broker.messages)
    else:
        found = Counter(reading.value for m in broker.messages for reading in parse_metrics(m.payload))
    assert set(found) == set(range(10_000))
    assert account["delivered"] == 10_000
    assert broker.connections > 15
    assert found.total() - 10_000 <= account["maybe_twice"]
    if payload == "json":
        # A window for each cut, and not a request.
        assert account["maybe_twice"] <= 20 * broker.connections


async def test_a_real_broker_stopped_and_started_again_in_mid_flow(make_site, broker, listen) -> None:
    """What it had acknowledged is its own to keep; what it had not comes again, and all of it once at least."""
    site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload="json", inflight_max=50)
    ear = listen(broker.port)
    for round_ in range(3):
        await site.append(round_ * 4000, 4000)
        await site.until(
            lambda before=round_: (
                site.account()["delivered"] > before * 4000 or site.uplink.status()["requests"] > before
            )
        )
        # As a service manager does it: what it has acknowledged it saves.
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(broker.start)
        await site.drain()
    account = site.account()
    assert account["delivered"] == 12_000
    await site.until(lambda: len(ear.values()) == 12_000)
    # What the subscriber hears twice is the broker's own affair: it had not acknowledged that.
    assert account["maybe_twice"] <= 3 * 50


async def test_a_link_that_stalls_costs_a_window_and_no_more(make_site, broker, make_link, listen) -> None:
    """Half a second without an answer, then another way is tried; only what was under way may be there twice."""
    link = make_link(broker.address)
    ear = listen(broker.port)
    site = await make_site(
        url=f"mqtt://127.0.0.1:{link.port}", payload="json", timeout="1s", connect_timeout="20s", inflight_max=40
    )
    await site.append(0, 400)
    await site.drain()
    link.mode = Mode.STALL
    await site.append(400, 2000)
    await site.until(lambda: "does not answer" in site.uplink.status()["last_error"])
    assert site.account()["held"] == 2000
    link.mode = Mode.UP
    link.cut()
    account = await site.drain()
    await site.until(lambda: len(ear.values()) == 2400)
    assert 0 < account["maybe_twice"] <= 40 * 6
    assert ear.values().total() - 2400 <= account["maybe_twice"]


async def test_what_an_access_list_refuses_is_in_the_ledger(make_site, make_broker, listen) -> None:
    """And the others are delivered; where all is refused it is held, and goes when that is mended."""
    broker = make_broker(access="topic readwrite tidegate/+/d1/#\ntopic readwrite tidegate/+/d2/#\n")
    site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload="json")
    await site.append(0, 400)
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (200, {"rejected": 200})
    assert "not authorized" in site.uplink.status()["last_error"]


async def test_where_nothing_may_be_published_all_is_held(make_site, make_broker) -> None:
    """Whoever wrote the list mends it: nothing is given up."""
    broker = make_broker(access="topic readwrite other/#\n")
    site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}")
    await site.append(0, 400)
    await site.until(lambda: site.uplink.status()["held_back"])
    assert "give it the right to publish there" in site.uplink.status()["held_back"]["metrics"]
    account = site.account()
    assert (account["held"], account["ledger"], account["maybe_twice"]) == (400, {}, 0)


async def test_a_quota_holds_back_what_is_over_it(make_site) -> None:
    """What was taken of a request is not sent again."""
    taken: list[int] = []

    def answer(_message: Any) -> int:
        taken.append(1)
        return 0 if len(taken) <= 150 or len(taken) > 400 else 0x97

    with ScriptedBroker(Script(answer=answer, terms=[(Property.RECEIVE_MAXIMUM, 100)])) as broker:
        site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload="json")
        await site.append(0, 1000)
        account = await site.drain()
        await site.end()
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (1000, {}, 0)
    assert len(broker.messages) == 1000 + 250


async def test_a_request_that_is_refused_for_what_is_in_it(make_site) -> None:
    """In OTLP: cut down to the guilty, which are set aside; the others arrive."""

    def answer(message: Any) -> int:
        return 0x99 if any(reading.value == 77 for reading in parse_metrics(message.payload)) else 0

    with ScriptedBroker(Script(answer=answer)) as broker:
        site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}")
        await site.append(1000, 100)
        await site.drain()
        await site.append(0, 200)
        account = await site.drain()
        await site.end()
    assert account["ledger"] == {"refused": 1}
    assert account["delivered"] == 299


def is_guilty(message: Any) -> bool:
    """Whether it holds the reading 77."""
    if message.topic.endswith("/metrics"):
        return any(reading.value == 77 for reading in parse_metrics(message.payload))
    return msgspec.json.decode(message.payload)["value"] == 77


@pytest.mark.slow
@pytest.mark.parametrize(("payload", "end_code"), [("otlp", None), ("json", 0x82), ("otlp", 0x95)])
async def test_a_broker_that_hangs_up_on_some_data_takes_all_else(make_site, payload: str, end_code) -> None:
    """Without a word, or with one that is about the packet: before long the guilty reading waits alone."""

    def answer(message: Any) -> int:
        if is_guilty(message):
            if end_code is not None:
                broker.say(bytes((0xE0, 2, end_code, 0)))
            raise ConnectionResetError("there it is")
        return 0

    with ScriptedBroker(Script(answer=answer)) as broker:
        site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload=payload, inflight_max=20)
        await site.append(0, 400)
        told = site.uplink.status
        if end_code == 0x95:
            # Where it is one message that is too large, there is no doubt which.
            assert (await site.drain())["ledger"] == {"too_large": 1}
            await site.end()
            return
        await site.until(lambda: told()["in_hand_taken"] == 399 and told()["put_off"]["readings"] == 1)
        for k in range(1, 20):
            await site.append(1000 * k, 10)
            await site.until(lambda k=k: site.account()["delivered"] >= 10 * k)
        account = site.account()
        assert (account["held"], account["ledger"]) == (400, {})
        broker.script.answer = lambda _: 0
        account = await site.drain()
        assert (account["delivered"], account["ledger"]) == (400 + 190, {})
        await site.end()
    seen = Counter(int(reading.value) for message in broker.messages for reading in readings_of(message))
    assert account["maybe_twice"] >= sum(count - 1 for count in seen.values())
    assert len(seen) == 400 + 190


def readings_of(message: Any) -> list[Any]:
    """Return the readings of a message of either kind."""
    if message.topic.endswith("/metrics"):
        return parse_metrics(message.payload)
    return [SimpleNamespace(value=msgspec.json.decode(message.payload)["value"])]


@pytest.mark.slow
@pytest.mark.parametrize(("payload", "code"), [("otlp", 0x80), ("json", 0x83)])
async def test_a_broker_that_fails_at_some_data_takes_all_else(make_site, payload: str, code: int) -> None:
    """As a server's 500: what is one message is cut down to the guilty reading; of many it is the one."""
    with ScriptedBroker(Script(answer=lambda message: code if is_guilty(message) else 0)) as broker:
        site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload=payload)
        await site.append(0, 400)
        taken = site.uplink.status
        await site.until(lambda: taken()["in_hand_taken"] >= 399 or site.account()["ledger"])
        for k in range(1, 20):
            await site.append(1000 * k, 10)
            await site.until(lambda k=k: site.account()["delivered"] >= 10 * k)
        account = site.account()
        if payload == "json":
            account = await site.drain()
            assert account["ledger"] == {"rejected": 1}
        else:
            assert (account["held"], account["ledger"]) == (400, {})
        await site.end()


async def test_a_budget_is_kept_through_many_messages(make_site, broker, make_link) -> None:
    """Counted at a proxy: heads, acknowledgements and connections are in it; the rest waits for the next window."""
    link = make_link(broker.address)
    budget = {"per_day": "128KiB"}
    site = await make_site(url=f"mqtt://127.0.0.1:{link.port}", payload="json", budget=budget)
    for start in range(0, 6000, 500):
        await site.append(start, 500)
        await asyncio.sleep(0.02)
    await site.until(lambda: site.uplink.status()["state"] in {"over budget", "pacing"})
    await asyncio.sleep(0.3)
    counts = link.counts()
    assert counts.up_wire + counts.down_wire <= 128 * 1024
    spent = site.uplink.status()["budget"]["per_day"]["spent_bytes"]
    assert spent <= 128 * 1024
    assert site.account()["held"] > 0
    assert site.account()["delivered"] > 100


async def test_a_stop_brings_to_its_end_what_is_under_way(make_site, broker, listen) -> None:
    """Nothing is left half counted; the next run sends the rest."""
    site = await make_site(url=f"mqtt://127.0.0.1:{broker.port}", payload="json")
    ear = listen(broker.port)
    await site.append(0, 20_000)
    await site.until(lambda: site.uplink.status()["requests"] > 0)
    await site.end()
    account = site.account()
    assert site.uplink.status()["state"] == "stopped"
    await site.until(lambda: ear.values().total() >= account["delivered"])
    assert ear.values().total() - account["delivered"] <= account["maybe_twice"]
    assert set(ear.values().values()) <= {1, 2}
