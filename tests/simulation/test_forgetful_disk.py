"""Recorded runs of the store with a power cut at any moment: what was promised is on the disk (P1, P2, P7).

What was synced is there, and of what was under way none, some, torn, or each write by its own fate (hil/apsw_disk).
Each such disk is opened by the store as it ships: what had been promised by then is there, the accounts add up, and
nothing is called damage.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, Batch, Series
from gateway.core.clock import FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.store import names, room
from gateway.store.database import BoardLimits, Loss, Store, StoreSettings
from gateway.store.reading import verify
from gateway.store.segments import decode_metrics
from hil.apsw_disk import Recorder
from hil.virtual_threads import Disk, inline_sqlite, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from gateway.store.records import Lease
    from hil.apsw_disk import Image, Kind

KINDS = ("synced", "some", "torn", "each")


class Site(NamedTuple):
    """How a shelf is kept, and what comes at a time."""

    uplinks: tuple[str, ...]
    settings: StoreSettings
    board: BoardLimits
    counts: tuple[int, ...]
    step_ns: int = 1  # from one reading to the next


# One uplink never takes anything, so that all stays until it is too much.
FILLING = Site(
    ("cloud", "spare"), StoreSettings(max_bytes=Size(1 << 20), when_full="drop_oldest"), BoardLimits(), (3, 30, 900)
)
# And much of it is written anew before that.
DILUTING = FILLING._replace(
    settings=StoreSettings(max_bytes=Size(1 << 20), when_full="dilute"), counts=(30, 9000, 15000), step_ns=500_000_000
)
# What was sent leaves, and the log goes into the database again and again.
CHANGING = Site(("cloud",), StoreSettings(recent_bytes=0), BoardLimits(log_bytes_max=16 << 10), (1, 5, 40, 400))


@dataclass
class Promise:
    """What had been promised when the disk had seen `ops` operations, and what had left for the last uplink."""

    ops: int
    kept: int = 0
    lost: int = 0
    sent: set[int] = field(default_factory=set)
    rewritten: int = 0  # segments that had been written anew


@dataclass
class Run:
    """What was done to a shelf and to its disk, from before there was one."""

    site: Site
    recorder: Recorder
    promises: list[Promise]

    def promise_at(self, ops: int) -> Promise:
        return max((known for known in self.promises if known.ops <= ops), key=lambda known: known.ops)


async def open_store(folder: Path, site: Site, boot: str = "boot-1") -> Store:
    return await Store.open(
        state_dir=folder,
        settings=site.settings,
        clock=FakeClock(boot=boot),
        uplinks=site.uplinks,
        max_series=1000,
        telemetry=Telemetry(),
        commit_interval_s=0.0,
        board=site.board,
    )


async def play(folder: Path, recorder: Recorder, site: Site, *, commits: int, seed: int) -> list[Promise]:
    """Append, deliver, release and refuse by dice, with checkpoints and a log that begins anew on the way."""
    dice = random.Random(seed)
    promises = [Promise(0)]
    store = await open_store(folder, site)
    promises.append(Promise(len(recorder.ops)))
    number = lost = 0
    for _ in range(commits):
        # Doubles that don't compress, so that the log is full after some commits and begins anew.
        count = dice.choice(site.counts)
        device = store.resolve(Series((("device.id", f"d{dice.randint(0, 20)}"),), "n"))
        noise = np.array([dice.getrandbits(20) for _ in range(count)]) << 40
        values = noise | np.arange(number, number + count)
        batch = Batch.of(device, 10**12 + np.arange(count) * site.step_ns, values, flags=MONOTONIC)
        losses = [Loss("malformed", 2)] if dice.random() < 0.2 else []
        await store.append([(dice.choice(list(Priority)), batch)], losses=losses)
        number, lost = number + count, lost + 2 * len(losses)
        rewritten = store.status()["store"]["rewritten"]
        promises.append(Promise(len(recorder.ops), number, lost, set(promises[-1].sent), rewritten))
        if dice.random() < 0.6:
            lease = await store.lease("cloud", readings_max=dice.choice([1, 2000]), bytes_max=1 << 20)
            if lease is not None:
                fate = dice.random()
                if fate < 0.2:
                    store.release(lease, maybe_delivered=True)
                    continue
                if site.uplinks[-1] == "cloud":
                    promises[-1].sent.update(numbers_of(lease).tolist())
                if fate < 0.3:
                    store.refuse(lease, "refused", "no")
                else:
                    store.ack(lease)
    await store.close()
    promises.append(Promise(len(recorder.ops), number, lost, promises[-1].sent))
    return promises


def numbers_of(lease: Lease) -> npt.NDArray[np.int64]:
    """Return the readings' numbers without the noise above them."""
    bits = np.concatenate([decode_metrics(segment.body).bits for segment in lease.segments])
    return bits.astype(np.int64) & 0xFFFFFFFFFF


async def look(folder: Path, image: Image, run_: Run) -> None:
    """Open an image with the real store and hold it against what had been promised."""
    hint = f"{image.kind} after operation {image.ops}"
    promise, last = run_.promise_at(image.ops), run_.site.uplinks[-1]
    store = await open_store(folder, run_.site, "boot-2")
    status = store.status()
    leased = [np.zeros(0, np.int64)]
    while (lease := await store.lease(last, readings_max=1 << 30, bytes_max=1 << 30)) is not None:
        leased.append(numbers_of(lease))
    await store.close()
    damage = [event for event in status["events"] if "damaged" in event]
    assert not damage or not promise.kept, f"{hint}: {damage}"
    for name in run_.site.uplinks:
        account = status["uplinks"][name]
        gap = status["accepted"] - account["delivered"] - account["held"] - sum(account["ledger"].values())
        assert gap == 0, f"{hint}: {gap} readings are nowhere"
        assert account["ledger"].get("malformed", 0) >= promise.lost, f"{hint}: {promise.lost} losses were promised"
    assert promise.kept + promise.lost <= status["accepted"], f"{hint}: {promise} of {status['accepted']}"
    account = status["uplinks"][last]
    numbers = np.concatenate(leased)
    assert len(numbers) == account["held"], f"{hint}: {account['held']} should be held"
    assert not len(numbers) or 0 <= numbers.min() <= numbers.max() < run_.promises[-1].kept, hint
    is_there = np.zeros(run_.promises[-1].kept, np.bool_)
    is_there[numbers] = True
    is_there[list(promise.sent)] = True
    missing = np.flatnonzero(~is_there[: promise.kept])
    gone = account["ledger"].get("evicted_full", 0) + account["ledger"].get("diluted", 0)
    assert len(missing) <= gone, f"{hint}: {len(missing)} of them are missing"
    assert status["store"]["rewritten"] >= promise.rewritten, hint


def record(folder: Path, site: Site, *, commits: int, seed: int) -> Run:
    recorder = Recorder()
    with recorder.installed():
        promises = run(play(folder, recorder, site, commits=commits, seed=seed))
    assert len(recorder.syncs()) > commits, "not every commit was synced"
    return Run(site, recorder, promises)


def play_back(folder: Path, run_: Run, moments: Sequence[int], kinds: Sequence[Kind], dice: random.Random) -> int:
    """Open the images of a run after so many operations each; return how many that were."""
    disk = Disk.still()
    # The images have no copy of the series' names, for which verify would look again a moment later.
    with inline_sqlite(lambda: disk), patch.object(names, "LOOK_S", 0.0):
        for at in moments:
            for kind in kinds:
                image = run_.recorder.image(at, kind, dice)
                image.write_to(folder)
                if run_.promise_at(at).kept:
                    report = verify(folder)
                    assert not report.problems, f"{kind} after operation {at}: {report.problems}"
                run(look(folder, image, run_))
                shutil.rmtree(folder)
    return len(moments) * len(kinds)


def around_syncs(run_: Run, dice: random.Random) -> list[int]:
    """Return moments at every sync, just before it, and in between, from where there is a shelf."""
    first = run_.promises[1].ops
    moments = [at for sync in run_.recorder.syncs() for at in (sync - 1, sync) if at >= first]
    return moments + [dice.randint(first, len(run_.recorder.ops)) for _ in range(len(moments) // 2)]


@pytest.mark.slow
def test_any_sync_may_be_the_last(tmp_path: Path) -> None:
    """Cut at some moments at and around syncs; all that was promised is there."""
    dice = random.Random(3)
    run_ = record(tmp_path / "run", FILLING, commits=80, seed=3)
    moments = sorted(dice.sample(around_syncs(run_, dice), 20))
    assert play_back(tmp_path / "image", run_, moments, KINDS, dice) == 80


def while_rewriting(run_: Run) -> list[int]:
    """Return all moments in commits that wrote something anew."""
    return [
        at
        for before, after in pairwise(run_.promises)
        if after.rewritten > before.rewritten
        for at in range(before.ops, after.ops + 1)
    ]


@pytest.mark.slow
def test_any_moment_while_it_is_diluted_may_be_the_last(tmp_path: Path) -> None:
    """It is as it was, or all of it is written anew and in the ledger of those who lacked it."""
    dice = random.Random(3)
    run_ = record(tmp_path / "run", DILUTING, commits=80, seed=3)
    moments = while_rewriting(run_)
    assert run_.promises[-2].rewritten > 10
    syncs = set(run_.recorder.syncs())
    around = [at for at in moments if {at, at + 1} & syncs]
    chosen = sorted({*dice.sample(moments, 4), *dice.sample(around, 6)})
    assert play_back(tmp_path / "image", run_, chosen, KINDS, dice) == 4 * len(chosen)


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of sixty commits with more checkpoints than a log of the usual size would bring."""
    monkeypatch.setattr(room, "LOG_BYTES_MIN", 16 << 10)
    run_ = record(tmp_path / "run", CHANGING, commits=60, seed=3)
    assert sum(op.act == "sync" and op.file == "tidegate.db" for op in run_.recorder.ops) > 3
    assert run_.promises[-1].sent
    return run_


@pytest.mark.slow
def test_every_sync_may_be_the_last(changing: Run, tmp_path: Path) -> None:
    """Just before each of them, when most is under way, those by which the shelf is made among them."""
    syncs = [after - 1 for after in changing.recorder.syncs()]
    assert play_back(tmp_path / "image", changing, syncs, ["each"], random.Random(7)) > 60


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(5))
def test_any_moment_may_be_the_last(tmp_path: Path, seed: int) -> None:
    """Five runs, each cut at every sync, just before it, and in between."""
    dice = random.Random(seed)
    run_ = record(tmp_path / "run", FILLING, commits=400, seed=seed)
    play_back(tmp_path / "image", run_, sorted(around_syncs(run_, dice)), KINDS, dice)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(3))
def test_every_moment_while_it_is_diluted_may_be_the_last(tmp_path: Path, seed: int) -> None:
    """The same at every operation of three runs."""
    dice = random.Random(seed)
    run_ = record(tmp_path / "run", DILUTING, commits=100, seed=seed)
    play_back(tmp_path / "image", run_, while_rewriting(run_), ["each"], dice)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(4))
def test_any_operation_may_be_the_last(changing: Run, tmp_path: Path, seed: int) -> None:
    """Between any two, with several fates of what was under way."""
    moments = range(len(changing.recorder.ops) + 1)
    play_back(tmp_path / "image", changing, moments, ["each"], random.Random(seed))
