"""Every sync of a recorded run of the store, with a power cut there: what was promised is on the disk (P1, P7)."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, Batch, Series
from gateway.core.clock import FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.store.database import Loss, Store, StoreSettings
from gateway.store.reading import verify
from hil.apsw_disk import Recorder
from hil.store_writer import numbers_in
from hil.virtual_threads import Disk, inline_sqlite, run

if TYPE_CHECKING:
    from pathlib import Path

    from hil.apsw_disk import Image

UPLINKS = ("cloud", "spare")
MAX_BYTES = 1 << 20


@dataclass
class Promise:
    """What had been promised when the disk had seen `ops` operations."""

    ops: int
    kept: int
    lost: int


async def open_store(folder: Path, boot: str = "boot-1") -> Store:
    return await Store.open(
        state_dir=folder,
        settings=StoreSettings(max_bytes=Size(MAX_BYTES)),
        clock=FakeClock(boot=boot),
        uplinks=UPLINKS,
        max_series=1000,
        telemetry=Telemetry(),
        commit_interval_s=0.0,
    )


async def play(folder: Path, recorder: Recorder, *, commits: int, seed: int) -> list[Promise]:
    """Append, deliver, release and refuse by dice, with checkpoints and a log that begins anew on the way."""
    dice = random.Random(seed)
    store = await open_store(folder)
    promises = [Promise(len(recorder.ops), 0, 0)]
    number = lost = 0
    for _ in range(commits):
        # Doubles that don't compress, so that the log is full after some commits and begins anew.
        count = dice.choice([3, 30, 900])
        device = store.resolve(Series((("device.id", f"d{dice.randint(0, 20)}"),), "n"))
        noise = np.array([dice.getrandbits(20) for _ in range(count)]) << 40
        values = noise | np.arange(number, number + count)
        batch = Batch.of(device, 10**12 + np.arange(count), values, flags=MONOTONIC)
        losses = [Loss("malformed", 2)] if dice.random() < 0.2 else []
        await store.append([(dice.choice(list(Priority)), batch)], losses=losses)
        number, lost = number + count, lost + 2 * len(losses)
        promises.append(Promise(len(recorder.ops), number, lost))
        if dice.random() < 0.6:
            lease = await store.lease("cloud", readings_max=dice.choice([1, 2000]), bytes_max=1 << 20)
            if lease is not None:
                fate = dice.random()
                if fate < 0.2:
                    store.release(lease, maybe_delivered=True)
                elif fate < 0.3:
                    store.refuse(lease, "refused", "no")
                else:
                    store.ack(lease)
    await store.close()
    promises.append(Promise(len(recorder.ops), number, lost))
    return promises


async def look(folder: Path, image: Image, promise: Promise, offered: int) -> None:
    """Open an image with the real store and hold it against what had been promised."""
    hint = f"{image.kind} after operation {image.ops}"
    store = await open_store(folder, "boot-2")
    status = store.status()
    numbers: list[int] = []
    while (lease := await store.lease("spare", readings_max=1 << 30, bytes_max=1 << 30)) is not None:
        numbers += [value & 0xFFFFFFFFFF for value in numbers_in(lease)]
    await store.close()
    damage = [event for event in status["events"] if "damaged" in event]
    assert not damage or not promise.kept, f"{hint}: {damage}"
    for name in UPLINKS:
        account = status["uplinks"][name]
        gap = status["accepted"] - account["delivered"] - account["held"] - sum(account["ledger"].values())
        assert gap == 0, f"{hint}: {gap} readings are nowhere"
    assert promise.kept + promise.lost <= status["accepted"], f"{hint}: {promise} of {status['accepted']}"
    evicted = status["uplinks"]["spare"]["ledger"].get("evicted_full", 0)
    missing = set(range(promise.kept)).difference(numbers)
    assert len(missing) <= evicted, f"{hint}: {len(missing)} of {promise} are missing"
    assert set(numbers) <= set(range(offered)), hint


def play_back(tmp_path: Path, *, commits: int, seed: int, images: int) -> int:
    """Record a run; open `images` images of it, all kinds, at sync boundaries and in between. Return how many."""
    recorder = Recorder()
    with recorder.installed():
        promises = run(play(tmp_path / "recorded", recorder, commits=commits, seed=seed))
    dice = random.Random(seed)
    syncs = recorder.syncs()
    assert len(syncs) > commits, "not every commit was synced"
    first = promises[0].ops
    moments = [at for sync in syncs for at in (sync - 1, sync) if at >= first]
    moments += [dice.randint(first, len(recorder.ops)) for _ in range(len(moments) // 2)]
    chosen = sorted(dice.sample(moments, min(images // 3, len(moments))))
    disk = Disk.still()
    folder = tmp_path / "image"
    with inline_sqlite(lambda: disk):
        for at in chosen:
            promise = max((known for known in promises if known.ops <= at), key=lambda known: known.ops)
            for kind in ("synced", "some", "torn"):
                image = recorder.image(at, kind, dice)
                image.write_to(folder)
                if promise.kept:
                    report = verify(folder)
                    assert not report.problems, f"{kind} after operation {at}: {report.problems}"
                run(look(folder, image, promise, promises[-1].kept))
                shutil.rmtree(folder)
    return 3 * len(chosen)


@pytest.mark.slow
def test_any_sync_may_be_the_last(tmp_path: Path) -> None:
    """Cut at some moments at and around syncs: nothing unsynced, some of it, some torn; all that was promised is there."""
    assert play_back(tmp_path, commits=80, seed=3, images=75) >= 75


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_any_moment_may_be_the_last(tmp_path: Path, seed: int) -> None:
    """Five runs, each cut at every sync, just before it, and in between."""
    play_back(tmp_path, commits=400, seed=seed, images=10**9)
