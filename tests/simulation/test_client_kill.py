"""A script with a client, killed at random moments: what it flushed arrives, exactly or announced (P1, P2)."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from gateway import Client
from hil.children import Child, python
from hil.client_script import quick
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.otlp_sink import OtlpSink


def script(folder: Path, sink: OtlpSink, *options: object) -> list[str]:
    return python(
        "-m", "hil.client_script", "--state-dir", folder / "state", "--endpoint", sink.url, *map(str, options)
    )


def settle(folder: Path, sink: OtlpSink) -> dict:
    """Start a client on what a script left, have all of it delivered, and return the accounts."""
    with Client(state_dir=folder / "state", config=quick(sink.url)) as client:
        assert client.drain(60)
        status = client.status()
    verdict = subprocess.run(
        [sys.executable, "-m", "gateway", "verify", "--state-dir", folder / "state", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict.returncode == 0, verdict.stdout
    assert json.loads(verdict.stdout)["problems"] == []
    return status


def kill_again_and_again(
    folder: Path, sink: OtlpSink, make_child: Callable[..., Child], *, rounds: int, seed: int
) -> None:
    """Kill it `rounds` times at random moments, upstream up and down, then hold it to account."""
    dice = random.Random(seed)
    flushed: set[int] = set()
    first = 0
    for _ in range(rounds):
        sink.always = dice.choice([Behaviour(), Behaviour(), Behaviour(status=503), Behaviour(cut="after_read")])
        child = make_child(script(folder, sink, "--first", first))
        child.wait_for("open")
        time.sleep(dice.uniform(0.02, 0.4))
        child.kill()
        said = [int(found[1]) for line in child.lines if (found := re.fullmatch(r"flushed (\d+)", line))]
        last = max(said, default=first)
        flushed.update(range(first, last))
        first += 1_000_000
    sink.always = Behaviour()
    status = settle(folder, sink)
    cloud = status["uplinks"]["cloud"]
    arrived = {int(reading.value): times for reading, times in sink.readings().items()}
    missing = flushed - arrived.keys()
    assert not missing, f"seed {seed}: {len(missing)} of {len(flushed)} that were flushed are missing"
    assert len(flushed) > rounds, "nothing was tested"
    assert (cloud["held"], cloud["ledger"]) == (0, {})
    assert status["accepted"] == cloud["delivered"] == len(arrived)
    twice = sum(times - 1 for times in arrived.values())
    assert twice <= cloud["maybe_twice"], f"seed {seed}: {twice} doubled, {cloud['maybe_twice']} said"


@pytest.mark.slow
def test_nothing_flushed_is_lost_by_kills(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """Eight kills."""
    kill_again_and_again(tmp_path, otlp_sink, make_child, rounds=8, seed=3)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_nothing_flushed_is_lost_by_hundreds_of_kills(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], seed: int
) -> None:
    """Twenty times twenty-five kills."""
    kill_again_and_again(tmp_path, otlp_sink, make_child, rounds=25, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["shutdown", "exit", "raise", "thread"])
def test_what_one_run_leaves_the_next_delivers(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], end: str
) -> None:
    """However the script ends, with the receiver away all of it stays, and leaves with the next one."""
    otlp_sink.always = Behaviour(status=503)
    child = make_child(script(tmp_path, otlp_sink, "--count", 3000 if end != "shutdown" else 50, "--end", end))
    assert child.wait() == (1 if end == "raise" else 0), child.tail()
    assert "Traceback" not in child.output
    otlp_sink.always = Behaviour()
    status = settle(tmp_path, otlp_sink)
    count = 3000 if end != "shutdown" else 50
    assert otlp_sink.readings().total() == count == status["uplinks"]["cloud"]["delivered"]
    assert sorted(int(reading.value) for reading in otlp_sink.readings()) == list(range(count))
