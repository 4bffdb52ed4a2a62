"""A real gateway that writes files, killed and cut off at random moments: what it acknowledged is in them, and once."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gateway.control.asking import fetch_status
from gateway.net.files import sync_folder
from gateway.net.ports import free_port
from hil.children import Child, python, wait_until
from hil.otlp_files import readings_in
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.disks import LoopDisk
    from hil.power_cut import PowerCutRig

CONFIG = """\
[gateway]
id = "killed"
state_dir = {state}
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:{mqtt}"
[[mappings]]
match = "plant/{{device}}/count"
payload = "json"
resource = {{ "device.id" = "{{device}}" }}
metrics = [ {{ field = "n", name = "n", type = "int" }} ]
[store]
commit_interval = "20ms"
[[uplinks]]
type = "file"
name = "stick"
directory = {stick}
{more}
format = "{format}"
compression = "{compression}"
rotate_bytes = "64KiB"
batch_interval = "20ms"
[uplinks.retry]
initial = "50ms"
max = "200ms"
[control]
listen = "127.0.0.1:{control}"
"""


class Bench:
    """One gateway that is started again and again on the same ports, state and stick."""

    def __init__(
        self,
        folder: Path,
        stick: Path,
        make_child: Callable[..., Child],
        *,
        kind: str = "json",
        packing: str = "none",
        more: str = "",
    ) -> None:
        self.mqtt, control = free_port(), free_port()
        self.url = f"http://127.0.0.1:{control}"
        self.stick = stick
        self._make_child = make_child
        self.config = folder / "tidegate.toml"
        text = CONFIG.format(
            state=json.dumps(str(folder / "state")),
            stick=json.dumps(str(stick)),
            mqtt=self.mqtt,
            control=control,
            more=more,
            format=kind,
            compression=packing,
        )
        self.config.write_text(text, encoding="utf-8")

    def start(self) -> Child:
        child = self._make_child(python("-m", "gateway", "run", "-c", self.config, "--log-level", "warning"))
        wait_until(lambda: self.answers() or not child.is_running, "the gateway to be ready")
        assert child.is_running, child.tail()
        return child

    def answers(self) -> bool:
        try:
            self.status()
        except (OSError, ValueError):
            return False
        return True

    def status(self) -> dict:
        return fetch_status(self.url, token="", timeout_s=60)

    def finish(self, acknowledged: set[int]) -> Counter[int]:
        """Let it write all that is held, hold it to account, and return how often each number is in the files."""
        child = self.start()
        wait_until(lambda: self.status()["uplinks"]["stick"]["held"] == 0, "everything to be written")
        status = self.status()
        account = status["uplinks"]["stick"]
        assert child.terminate() == 0
        assert status["accepted"] == account["delivered"] + sum(account["ledger"].values())
        found: Counter[int] = Counter()
        for reading, times in readings_in(self.stick).items():
            found[int(reading.value)] += times
        assert acknowledged - found.keys() == set(), f"{len(acknowledged - found.keys())} acknowledged are missing"
        twice = sum(times - 1 for times in found.values())
        assert twice <= account["maybe_twice"]
        return found


def kill_again_and_again(bench: Bench, *, rounds: int, seed: int) -> None:
    """Kill it `rounds` times at random moments: nothing is missing, nothing is there twice."""
    dice = random.Random(seed)
    bench.stick.mkdir(exist_ok=True)
    with Publisher(port=bench.mqtt) as publisher:
        for _ in range(rounds):
            child = bench.start()
            time.sleep(dice.uniform(0.02, 0.5))
            child.kill()
    found = bench.finish(publisher.acknowledged)
    assert len(publisher.acknowledged) > rounds, "nothing was tested"
    assert {number: times for number, times in found.items() if times > 1} == {}, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "packing"), [("json", "none"), ("protobuf", "zstd")])
def test_after_kills_each_is_there_once(
    tmp_path: Path, make_child: Callable[..., Child], kind: str, packing: str
) -> None:
    """Five kills, with text and with bytes."""
    bench = Bench(tmp_path, tmp_path / "stick", make_child, kind=kind, packing=packing)
    kill_again_and_again(bench, rounds=5, seed=20)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_after_hundreds_of_kills_each_is_there_once(
    tmp_path: Path, make_child: Callable[..., Child], seed: int
) -> None:
    """Twenty times twenty-five kills."""
    kind, packing = [("json", "none"), ("json", "gzip"), ("protobuf", "none"), ("protobuf", "zstd")][seed % 4]
    kill_again_and_again(
        Bench(tmp_path, tmp_path / "stick", make_child, kind=kind, packing=packing), rounds=25, seed=seed
    )


def cut_again_and_again(bench: Bench, rig: PowerCutRig, *, rounds: int, seed: int) -> None:
    """Cut the power of the gateway and its stick `rounds` times; the card keeps what it was told to keep."""
    dice = random.Random(seed)
    bench.stick.mkdir()
    # The folder is the person's, who has it on the stick long before.
    sync_folder(rig.path)
    with Publisher(port=bench.mqtt) as publisher:
        for _ in range(rounds):
            child = bench.start()
            time.sleep(dice.uniform(0.05, 0.4))
            rig.cut(child.process)
    found = bench.finish(publisher.acknowledged)
    rig.check()
    assert {number: times for number, times in found.items() if times > 1} == {}, f"seed {seed}"


@pytest.mark.slow
def test_after_power_cuts_each_is_there_once(
    tmp_path: Path, power_cut: PowerCutRig, make_child: Callable[..., Child]
) -> None:
    """The stick is an ext4 that forgets what was not synced; three cuts."""
    bench = Bench(tmp_path, power_cut.path / "out", make_child, kind="json", packing="none")
    cut_again_and_again(bench, power_cut, rounds=3, seed=7)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_after_many_power_cuts_each_is_there_once(
    tmp_path: Path, power_cut: PowerCutRig, make_child: Callable[..., Child], seed: int
) -> None:
    """Ten times twenty."""
    packing = ("none", "zstd")[seed % 2]
    bench = Bench(tmp_path, power_cut.path / "out", make_child, kind="json", packing=packing)
    cut_again_and_again(bench, power_cut, rounds=20, seed=seed)


def trouble(disk: LoopDisk, dice: random.Random) -> None:
    """Do to a stick what happens to sticks, for a moment, and have it be well again.

    Not that it turns read-only in the middle of a sync: ext4 then says now and then that all went well.
    """
    what = dice.choice(["full", "pulled", "unmounted"])
    if what == "full":
        disk.fill(leave_bytes=16 * 1024)
        time.sleep(dice.uniform(0.1, 0.4))
        disk.free()
        return
    if what == "pulled":
        disk.shut_down()
    time.sleep(dice.uniform(0.1, 0.4))
    disk.unmount()
    time.sleep(dice.uniform(0.1, 0.4))
    assert list(disk.path.iterdir()) == [], "something was written below the mount point"
    disk.mount()


def plague(bench: Bench, disk: LoopDisk, *, rounds: int, seed: int) -> None:
    """Let a gateway run while its stick is filled, pulled, unmounted and turned read-only, now and then killed."""
    dice = random.Random(seed)
    # All of it has to find room on the stick in the end: at full speed a quick machine brings more than that has.
    with Publisher(port=bench.mqtt, pause_s=0.04) as publisher:
        child = bench.start()
        for _ in range(rounds):
            time.sleep(dice.uniform(0.1, 0.3))
            trouble(disk, dice)
            if dice.random() < 0.3:
                child.kill()
                child = bench.start()
        publisher.stop()
        status = bench.status()
        account = status["uplinks"]["stick"]
        assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
        assert "Traceback" not in child.output
        child.kill()
    found = bench.finish(publisher.acknowledged)
    assert len(publisher.acknowledged) > rounds
    assert {number: times for number, times in found.items() if times > 1} == {}, f"seed {seed}"


@pytest.mark.slow
def test_a_stick_that_comes_and_goes_has_each_once(
    tmp_path: Path, loop_disk: LoopDisk, make_child: Callable[..., Child]
) -> None:
    """Six times something happens to it, in a gateway that is killed in between."""
    more = f"mount_point = {json.dumps(str(loop_disk.path))}"
    plague(Bench(tmp_path, loop_disk.path / "out", make_child, more=more), loop_disk, rounds=6, seed=11)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_a_stick_that_comes_and_goes_often_has_each_once(
    tmp_path: Path, loop_disk: LoopDisk, make_child: Callable[..., Child], seed: int
) -> None:
    """Ten times forty."""
    more = f"mount_point = {json.dumps(str(loop_disk.path))}"
    bench = Bench(tmp_path, loop_disk.path / "out", make_child, packing=("none", "zstd")[seed % 2], more=more)
    plague(bench, loop_disk, rounds=40, seed=seed)
