"""A real gateway, killed at random moments under load: what it acknowledged arrives, whatever happens (P1, P2)."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from gateway.control.asking import fetch_status
from gateway.net.ports import free_port
from hil.children import Child, python, wait_until
from hil.otlp_sink import Behaviour
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.otlp_sink import OtlpSink

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
type = "otlp"
name = "cloud"
endpoint = "{endpoint}"
batch_interval = "50ms"
[uplinks.retry]
initial = "50ms"
max = "200ms"
[control]
listen = "127.0.0.1:{control}"
"""


class Bench:
    """One gateway that is started again and again on the same ports and state."""

    def __init__(self, folder: Path, sink: OtlpSink, make_child: Callable[..., Child]) -> None:
        self.folder = folder
        self.mqtt, control = free_port(), free_port()
        self.url = f"http://127.0.0.1:{control}"
        self._make_child = make_child
        self.config = folder / "tidegate.toml"
        self.config.write_text(
            CONFIG.format(state=json.dumps(str(folder / "state")), mqtt=self.mqtt, endpoint=sink.url, control=control),
            encoding="utf-8",
        )

    def start(self) -> Child:
        child = self._make_child(python("-m", "gateway", "run", "-c", self.config, "--log-level", "warning"))
        wait_until(lambda: self.answers() or not child.is_running, "the gateway to be ready")
        assert child.is_running, child.tail()
        return child

    def answers(self) -> bool:
        try:
            fetch_status(self.url, token="", timeout_s=60)
        except (OSError, ValueError):
            return False
        return True

    def account(self) -> tuple[int, int, int, int, int]:
        """Accepted, delivered, held, ledger, possibly twice."""
        status = fetch_status(self.url, token="", timeout_s=60)
        uplink = status["uplinks"]["cloud"]
        ledger = sum(uplink["ledger"].values())
        return status["accepted"], uplink["delivered"], uplink["held"], ledger, uplink["maybe_twice"]


MOODS: Final = (Behaviour(), Behaviour(), Behaviour(status=503), Behaviour(cut="after_read"))


def poisoned(one_of: int, *, takes: bool) -> Behaviour:
    """Return how a receiver answers 500 for one reading of so many, whether or not it has taken it."""
    return Behaviour(refuses=lambda r: r.value % one_of == one_of // 2, refuses_with=500, takes_refused=takes)


def kill_again_and_again(
    bench: Bench,
    sink: OtlpSink,
    *,
    rounds: int,
    seed: int,
    moods: tuple[Behaviour, ...] = MOODS,
    seconds_max: float = 0.5,
) -> int:
    """Kill it `rounds` times at random moments, upstream up and down, hold it to account; return how many came twice."""
    dice = random.Random(seed)
    with Publisher(port=bench.mqtt) as publisher:
        for _ in range(rounds):
            child = bench.start()
            sink.always = dice.choice(moods)
            time.sleep(dice.uniform(0.02, seconds_max))
            child.kill()
        sink.always = Behaviour()
        child = bench.start()
    wait_until(lambda: bench.account()[2] == 0, "everything to be delivered")
    accepted, delivered, held, ledger, maybe_twice = bench.account()
    assert child.terminate() == 0
    arrived = {int(reading.value): times for reading, times in sink.readings().items()}
    missing = publisher.acknowledged - arrived.keys()
    assert not missing, f"seed {seed}: {len(missing)} of {len(publisher.acknowledged)} acknowledged are missing"
    assert len(publisher.acknowledged) > rounds, "nothing was tested"
    assert arrived.keys() <= set(range(publisher.sent))
    assert (accepted, ledger) == (delivered + held, 0)
    assert accepted == len(arrived)
    twice = sum(times - 1 for times in arrived.values())
    assert twice <= maybe_twice, f"seed {seed}: {twice} doubled, {maybe_twice} said"
    verdict = subprocess.run(
        [sys.executable, "-m", "gateway", "verify", "--state-dir", str(bench.folder / "state")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verdict.returncode == 0, verdict.stdout
    return twice


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kills(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """Eight kills: all that was acknowledged arrives, the numbers add up, and what came twice was announced."""
    kill_again_and_again(Bench(tmp_path, otlp_sink, make_child), otlp_sink, rounds=8, seed=20)


@pytest.mark.slow
def test_what_a_receiver_fails_at_is_counted_through_kills(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """It takes what it answers with 500, whole and in ever smaller parts; what came twice was announced."""
    moods = (poisoned(500, takes=True), poisoned(5000, takes=True), poisoned(2000, takes=False))
    bench = Bench(tmp_path, otlp_sink, make_child)
    assert kill_again_and_again(bench, otlp_sink, rounds=4, seed=21, moods=moods, seconds_max=5.0) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_nothing_acknowledged_is_lost_by_hundreds_of_kills(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], seed: int
) -> None:
    """Twenty times twenty-five kills."""
    kill_again_and_again(Bench(tmp_path, otlp_sink, make_child), otlp_sink, rounds=25, seed=seed)


@pytest.mark.slow
def test_a_clean_stop_loses_nothing_and_is_quick(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """SIGTERM in the middle of a flood: what was acknowledged is on disk, and the end comes in seconds."""
    bench = Bench(tmp_path, otlp_sink, make_child)
    otlp_sink.always = Behaviour(status=503)
    with Publisher(port=bench.mqtt) as publisher:
        child = bench.start()
        wait_until(lambda: len(publisher.acknowledged) > 1000, "some load")
        began_s = time.monotonic()
        child.send(signal.SIGTERM)
        assert child.wait() == 0
        took_s = time.monotonic() - began_s
    assert took_s < 40
    otlp_sink.always = Behaviour()
    child = bench.start()
    wait_until(lambda: bench.account()[2] == 0, "everything to be delivered")
    assert child.terminate() == 0
    assert publisher.acknowledged <= {int(reading.value) for reading in otlp_sink.readings()}
