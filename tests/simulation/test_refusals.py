"""Receivers that refuse by a rule of their own: what becomes of each reading, from one seed, in virtual time.

The world's road (hil/world) refuses by dice, whatever is in a request. Here the same readings are refused each time,
alone or with whom they share a request, beside answers that are lost and hours in which nothing is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from gateway.codecs import zstd
from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.contracts import Priority, Signal, TryLaterError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.guards import Answer, InTransitError, Packed, Reply, check_reply
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.verdicts import REFUSED_MAX
from gateway.uplinks.worker import Seams
from hil.bad_road import BadRoad, InlineWorker, Weather
from hil.otlp_readings import parse_logs, parse_metrics
from hil.virtual_threads import Disk, inline_sqlite, run
from hil.world_plan import BoxClock, true_ns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HOUR_S: Final = 3600.0
# Numbers from here on are nobody's fault.
INNOCENT: Final = 1_000_000
# Below 512 readings a 256th of a lease is one reading: then no innocent shares a part with the guilty.
LEASE_MAX: Final = 500
MOODS: Final = ("fine", "fine", "refuses", "fails", "too_large", "login", "no_logs", "no_metrics", "away")


class Receiver(BadRoad):
    """A `Wire` that refuses what is guilty, by the same rule each time, and all of it in some moods."""

    def __init__(self, dice: Random) -> None:
        super().__init__(dice, Weather(delay_s=dice.choice([0.001, 0.2, 3.0])), deliver=lambda _: None, now_s=now_s,
                         unix_s=lambda: 0)  # fmt: skip
        self.dice = dice
        self.mood = "fine"
        self.copies: Counter[int] = Counter()
        self.trouble = dice.choice([0.0, 0.02, 0.2])
        self.readings_max = dice.choice([1 << 30, 1 << 30, 37, 3])
        self.bad = dice.choice([0.0, 0.01, 0.3, 1.0])
        self.bad_devices = set(dice.sample(range(6), dice.choice([0, 1, 1, 3])))
        self.status = dice.choice([400, 422, 400, 500])
        self.takes_and_fails = dice.random() < 0.5
        self.moods: list[str] = []

    def is_guilty(self, number: int) -> bool:
        return number < INNOCENT and number % 6 in self.bad_devices and Random(number).random() < self.bad

    def is_monster(self, number: int) -> bool:
        return number < INNOCENT and self.readings_max == 37 and Random(-number).random() < 0.05

    def send(self, packed: Packed, /) -> Answer:
        if self._is_stopped:
            raise TryLaterError("the road is closed")
        self.requests += 1
        self.bytes_sent += len(packed.body)
        numbers = read_numbers(packed)
        if self._is_aborted:
            self._is_aborted = False
            self.take(numbers if self.dice.random() < 0.5 else [])
            raise InTransitError("no answer", answer_lost=True)
        if self.mood == "away":
            raise TryLaterError("no connection")
        reply = self.judge(packed.signal, numbers)
        check_reply(reply)
        if self.dice.random() < self.trouble:
            return self.stumble(numbers)
        rejected = self.dice.randint(0, len(numbers)) if self.dice.random() < self.trouble / 4 else 0
        self.rejected += rejected
        self.take(numbers[rejected:])
        return Answer(rejected=rejected, seconds=self.weather.delay_s, rtt_s=self.weather.delay_s)

    def stumble(self, numbers: list[int]) -> Answer:
        fate = self.dice.choice(["lost_after", "lost_before", "throttled", "error", "proxy"])
        if fate == "lost_after" or (fate in {"error", "proxy"} and self.dice.random() < 0.5):
            self.take(numbers)
        if fate == "lost_after":
            raise InTransitError("no answer", answer_lost=True)
        if fate == "lost_before":
            raise InTransitError("broke")
        check_reply(Reply({"throttled": 429, "error": 500, "proxy": 502}[fate], retry_after_s=self.dice.choice([0, 7])))
        raise AssertionError

    def judge(self, signal: Signal, numbers: list[int]) -> Reply:
        everything = {"refuses": 400, "fails": 500, "too_large": 413, "login": 401}
        if self.mood in everything:
            return Reply(everything[self.mood])
        if self.mood == {Signal.LOGS: "no_logs", Signal.METRICS: "no_metrics"}[signal]:
            return Reply(404)
        if len(numbers) > self.readings_max or any(map(self.is_monster, numbers)):
            return Reply(413)
        if any(map(self.is_guilty, numbers)):
            if self.status == 500 and self.takes_and_fails:
                self.take(numbers)
            return Reply(self.status)
        return Reply(200)

    def take(self, numbers: Iterable[int]) -> None:
        self.copies.update(numbers)

    @property
    def doubled(self) -> int:
        return sum(count - 1 for count in self.copies.values())


def read_numbers(packed: Packed) -> list[int]:
    body = packed.body
    if packed.encoding == "zstd":
        body = zstd.decompress(body, bytes_max=1 << 26)
    elif packed.encoding == "gzip":
        body = zlib.decompress(body, 31)
    if packed.signal is Signal.LOGS:
        return [int(str(line.body)) for line in parse_logs(body)]
    return [int(reading.value) for reading in parse_metrics(body)]


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Life:
    """One uplink on a real store, and a receiver with moods."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.dice = Random(seed)
        self.receiver = Receiver(self.dice)
        self.number = 0
        self.innocent = -2
        self.store: Store
        self.uplink: Uplink
        self.bad_moods = 0
        self.restarts = 0

    async def live(self) -> None:
        with inline_sqlite(Disk.still):
            await self.open()
            task = asyncio.create_task(self.uplink.run())
            for _ in range(self.dice.randint(2, 6)):
                self.receiver.mood = self.dice.choice(MOODS)
                self.receiver.moods.append(self.receiver.mood)
                self.bad_moods += self.receiver.mood not in {"fine", "away", "login"}
                for _ in range(self.dice.randint(1, 12)):
                    await self.append()
                    await asyncio.sleep(self.dice.expovariate(1 / self.dice.choice([0.1, 3, 60])))
                    self.check(task)
                if self.dice.random() < 0.2:
                    await self.stop(task)
                    await self.store.close()
                    await self.open()
                    task = asyncio.create_task(self.uplink.run())
                    self.restarts += 1
            self.receiver.mood, self.receiver.trouble = "fine", 0.0
            await self.drain(task)
            await self.stop(task)
            self.settle()
            await self.store.close()

    async def open(self) -> None:
        clock = BoxClock("boot", 0.0, 0.0, 0, synced=True)
        self.store = await Store.open(
            state_dir=self.folder,
            settings=StoreSettings(recent_bytes=Size(self.dice.choice([2 << 20, 5000]))),
            clock=clock,
            uplinks=["cloud"],
            max_series=100,
            telemetry=Telemetry(),
            commit_interval_s=0.02,
        )
        receiver = self.receiver
        self.uplink = Uplink(
            OtlpUplinkSettings(
                name="cloud",
                endpoint="http://127.0.0.1:1",
                batch_interval=Duration(self.dice.choice([0.0, 1.0])),
                batch_readings_max=self.dice.choice([LEASE_MAX, 100, 20]),
                compression=self.dice.choice(["auto", "none"]),
            ),
            store=self.store,
            gateway_attributes=(),
            version="0",
            clock=clock,
            telemetry=Telemetry(),
            random=self.dice,
            seams=Seams(wire=receiver, start_worker=lambda _: InlineWorker(receiver, self.dice)),
        )

    async def append(self) -> None:
        count = self.dice.choice([1, 2, 5, 60, 300])
        numbers = np.arange(self.number, self.number + count)
        self.number += count
        if self.dice.random() < 0.3:
            await self.store.append([], logs=self.records(numbers))
            return
        pieces = []
        for device in range(6):
            mine = numbers[numbers % 6 == device]
            series = self.store.resolve(Series((("device.id", str(device)),), "n"))
            pieces.append(Batch.of(series, true_ns() + np.arange(len(mine)), mine.astype(np.float64)))
        priority = self.dice.choice([Priority.NORMAL, Priority.NORMAL, Priority.CRITICAL, Priority.BULK])
        await self.store.append([(priority, Batch.join(pieces))])

    def account(self) -> dict[str, Any]:
        return dict(self.store.status()["uplinks"]["cloud"])

    def check(self, task: asyncio.Task[None]) -> None:
        if task.done():
            task.result()
        account, receiver = self.account(), self.receiver
        assert self.store.accepted == account["delivered"] + account["held"] + sum(account["ledger"].values())
        assert account["delivered"] <= len(receiver.copies), "more is said to be delivered than was taken"
        in_hand = self.uplink._hand.lease.readings if self.uplink._hand else 0
        assert receiver.doubled <= account["maybe_twice"] + in_hand

    async def drain(self, task: asyncio.Task[None]) -> None:
        until_s, requests = now_s() + 12 * HOUR_S, self.receiver.requests
        while self.account()["held"]:
            assert now_s() < until_s, f"after half a day still held: {self.account()}, {self.uplink.status()}"
            await self.append_innocent()
            await asyncio.sleep(60.0)
            self.check(task)
        assert self.receiver.requests - requests < 40_000

    async def append_innocent(self) -> None:
        """Whoever waits for something to be taken sees something."""
        self.innocent += 2
        n = INNOCENT + self.innocent
        series = self.store.resolve(Series((("device.id", "good"),), "n"))
        batch = Batch.of(series, np.full(1, true_ns()), np.full(1, float(n)))
        await self.store.append([(Priority.NORMAL, batch)], logs=self.records([n + 1]))

    def records(self, numbers: Iterable[int]) -> LogRecords:
        log = self.store.resolve(Series((), "", kind="log"))
        bodies = tuple(
            encode_log_record(time_ns=true_ns(), observed_ns=0, severity_number=9, severity_text="", body=str(n),
                              attributes=()) for n in numbers
        )  # fmt: skip
        return LogRecords(np.full(len(bodies), log, np.uint32), np.full(len(bodies), true_ns()), bodies)

    async def stop(self, task: asyncio.Task[None]) -> None:
        before_s = now_s()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert now_s() - before_s < 20

    def settle(self) -> None:
        account, receiver = self.account(), self.receiver
        assert receiver.doubled <= account["maybe_twice"], f"{receiver.doubled} doubled: {account}"
        missing = set(range(self.number)) - set(receiver.copies)
        innocent = {n for n in missing if not receiver.is_guilty(n) and not receiver.is_monster(n)}
        lost = sum(account["ledger"].values())
        assert len(missing) <= lost
        assert account["delivered"] + lost == self.store.accepted
        # A road that begins to refuse all costs a few small leases, and the rest of one that it had begun to take.
        bound = 2 * (REFUSED_MAX * REFUSED_MAX * (1 + self.restarts) + LEASE_MAX) * self.bad_moods
        assert len(innocent) - receiver.rejected <= bound, (len(innocent), receiver.rejected, bound)


def live(folder: Path, seed: int) -> None:
    """Live through one seed."""
    life = Life(folder, seed)
    try:
        run(life.live())
    except BaseException as error:
        what = life.receiver
        error.add_note(f"seed {seed}: {what.moods}, {what.status} for {what.bad}, at most {what.readings_max}")
        raise


@pytest.mark.parametrize("seed", [4, 5, 16, 22, 31, 47])
def test_whatever_is_refused_the_sums_agree(tmp_path: Path, seed: int) -> None:
    """Each reading is taken or in the ledger, nothing is doubled that is not counted, and nothing waits for ever."""
    live(tmp_path, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_hundreds_of_receivers_refuse_by_rules_of_their_own(tmp_path: Path, seed: int) -> None:
    """The same, each time with another receiver."""
    live(tmp_path, seed)
