"""Power cuts at random moments on a real file system: what was promised is there, whatever was under way (P1, P2, P7)."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest

from gateway.store.reading import verify
from hil.gateway_child import Site
from hil.otlp_sink import Behaviour
from hil.publisher import Publisher
from hil.store_writer import MAX_BYTES, UPLINKS, Said, Writers, numbers_in, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hil.children import Child
    from hil.otlp_sink import OtlpSink
    from hil.power_cut import PowerCutRig


class Memory:
    """What all writers of a disk have said so far, and what the disk said after each cut."""

    def __init__(self) -> None:
        self.kept: set[int] = set()
        self.offered = 0
        self.sent: set[int] = set()
        self.refused: set[int] = set()
        self.lost = 0
        self.accepted = 0
        self.commits = 0

    def add(self, said: Said) -> None:
        self.kept |= said.kept
        self.offered = max(self.offered, said.offered)
        self.sent |= said.sent
        self.refused |= said.refused
        self.lost += said.lost


async def look(state_dir: Path, memory: Memory, hint: str, *, names: Sequence[str] = UPLINKS) -> None:
    """Open the store after a cut and hold what it has for `names` against what was said."""
    store = await open_store(state_dir, hint)
    try:
        status = store.status()
        held = {name: await held_by(store, name) for name in names}
        events = [
            event for event in store.events if "just before the process ended" not in event and "is new" not in event
        ]
    finally:
        await store.close()
    assert not events, f"{hint}: {events}"
    for name, numbers in held.items():
        account = status["uplinks"][name]
        assert account["held"] == len(numbers), hint
        assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values()), hint
        assert set(numbers) <= set(range(memory.offered)), hint
        assert len(set(numbers)) == len(numbers), f"{hint}: something is held twice"
    assert memory.accepted <= status["accepted"] <= memory.offered + memory.lost + 100, hint
    assert memory.commits <= status["store"]["commits"], f"{hint}: commits went backward"
    assert len(memory.kept) + memory.lost <= status["accepted"], hint
    for name, numbers in held.items():
        missing = memory.kept.difference(numbers)
        if name == "cloud":
            missing -= memory.sent | memory.refused
        ledger = status["uplinks"][name]["ledger"]
        assert len(missing) <= ledger.get("evicted_full", 0) + ledger.get("diluted", 0), (
            f"{hint}: {len(missing)} acknowledged readings are missing for {name}"
        )
    assert status["uplinks"]["cloud"]["delivered"] <= len(memory.sent), hint
    assert status["uplinks"]["spare"]["delivered"] == 0, hint
    memory.accepted, memory.commits = status["accepted"], status["store"]["commits"]


async def held_by(store, name: str) -> list[int]:
    """Return the numbers of everything that is held for an uplink, and leave it held."""
    leases = []
    while (lease := await store.lease(name, readings_max=1 << 30, bytes_max=1 << 30)) is not None:
        leases.append(lease)
    numbers = [number for lease in leases for number in numbers_in(lease)]
    for lease in leases:
        store.release(lease, maybe_delivered=False)
    return numbers


def cut_again_and_again(rig: PowerCutRig, *, rounds: int, seed: int) -> Memory:
    """Let writers write on one disk and cut the power `rounds` times; look after each."""
    dice = random.Random(seed)
    memory = Memory()
    state_dir = rig.path / "state"
    with Writers() as writers:
        for number in range(rounds):
            hint = f"seed {seed}, round {number}"
            writer = writers.start(state_dir, seed=dice.getrandbits(32), first=memory.offered)
            # Now and then before it has opened the shelf; else while it writes.
            if dice.random() < 0.8:
                writer.wait_for("kept")
            time.sleep(dice.expovariate(1 / 0.06))
            rig.cut(writer)
            memory.add(writer.said())
            if not state_dir.exists():
                continue
            if number % 4 == 3:
                report = verify(state_dir)
                assert not report.problems, f"{hint}: {report.problems}"
            asyncio.run(look(state_dir, memory, hint, names=UPLINKS if number % 4 == 3 else UPLINKS[:1]))
    used = sum(file.stat().st_size for file in state_dir.iterdir())
    assert used < 4 * MAX_BYTES, f"{used} bytes on the disk"
    rig.check()
    return memory


@pytest.mark.slow
def test_nothing_promised_is_lost_by_power_cuts(power_cut) -> None:
    """Twenty cuts: everything that an append returned for is there, the sums add up, the shelf verifies."""
    memory = cut_again_and_again(power_cut, rounds=20, seed=1)
    # How much that is says how busy the machine is: some of it has to be there at all.
    assert len(memory.kept) > 500
    assert len(memory.sent) > 100


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(10))
def test_nothing_promised_is_lost_by_thousands_of_power_cuts(power_cut, seed: int) -> None:
    """Ten disks with three hundred cuts each."""
    cut_again_and_again(power_cut, rounds=300, seed=seed)


def cut_the_gateway(site: Site, rig: PowerCutRig, sink: OtlpSink, *, rounds: int, seed: int) -> None:
    """Cut the power of a whole gateway under load, upstream up and down, then let it deliver what it held."""
    dice = random.Random(seed)
    with Publisher(port=site.mqtt) as publisher:
        for _ in range(rounds):
            child = site.start()
            sink.always = dice.choice([Behaviour(), Behaviour(status=503), Behaviour(cut="after_read")])
            time.sleep(dice.uniform(0.05, 0.6))
            rig.cut(child.process)
        sink.always = Behaviour()
        child = site.start()
    account = site.drain()
    assert child.terminate() == 0
    arrived = {int(reading.value) for reading in sink.readings()}
    missing = publisher.acknowledged - arrived
    assert not missing, f"seed {seed}: {len(missing)} of {len(publisher.acknowledged)} acknowledged are missing"
    assert len(publisher.acknowledged) > 100 * rounds, "nothing was tested"
    assert (account.gap, account.ledger, account.accepted) == (0, {}, len(arrived)), f"seed {seed}"
    assert site.verify()[0] == 0, site.verify()[1]


@pytest.mark.slow
def test_a_gateway_keeps_what_it_acknowledged_through_power_cuts(
    power_cut: PowerCutRig, tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """From PUBACK to the receiver: three cuts, and every acknowledged message arrives."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, state_dir=power_cut.path / "state")
    cut_the_gateway(site, power_cut, otlp_sink, rounds=3, seed=5)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_a_gateway_keeps_what_it_acknowledged_through_many_power_cuts(
    power_cut: PowerCutRig, tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], seed: int
) -> None:
    """Five disks with forty cuts each."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, state_dir=power_cut.path / "state")
    cut_the_gateway(site, power_cut, otlp_sink, rounds=40, seed=seed)
