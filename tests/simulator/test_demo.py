"""The demo, told for real once, and with each promise broken."""

from __future__ import annotations

import io
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.simulator import demo as demo_module
from gateway.simulator.demo import Demo, demo
from gateway.simulator.desk import BrokenPromiseError, Story
from hil.children import Child, python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def tell_quickly(folder: Path, *, seconds: float = 0.0) -> tuple[Demo, io.StringIO]:
    out = io.StringIO()
    return Demo(folder, Story(out=out), seconds=seconds), out


@pytest.mark.slow
def test_the_whole_story_holds(tmp_path: Path) -> None:
    """Outage, kill, recovery, anomaly: every line of it true, and nothing left running.

    Shorter, and what was held when the gateway was killed would still pass for fresh.
    """
    before = set(threading.enumerate())
    story, out = tell_quickly(tmp_path, seconds=24)
    assert story.run(keep=False) == 0, out.getvalue()
    text = " ".join(out.getvalue().split())
    for part in ("kill -9", "pump-3", "The link is back", "Fresh readings go first", "lost 0", "0 of them are missing"):
        assert part in text
    assert "✗" not in text
    assert all(len(line) < 80 for line in out.getvalue().splitlines())
    assert story._gateway.process is not None
    assert story._gateway.process.poll() == 0
    wait_until(lambda: set(threading.enumerate()) <= before, "threads to end")


class FakeGateway:
    """Says what it is told to say."""

    control_url = "http://127.0.0.1:1"

    def __init__(self, *, code: int = 0, **numbers: Any) -> None:
        self.numbers = {"accepted": 5, "delivered": 5, "held": 0, "maybe_twice": 0, "ledger": {}} | numbers
        self.code = code
        self.process = self
        self.ended: list[signal.Signals] = []

    def poll(self) -> int | None:
        return self.code if self.ended else None

    def uplink(self) -> dict[str, Any]:
        return self.numbers

    def status(self) -> dict[str, Any]:
        return {"accepted": self.numbers["accepted"], "uplinks": {"cloud": self.numbers}}

    def end(self, number: signal.Signals) -> tuple[float, int]:
        self.ended.append(number)
        return 0.1, self.code

    def last_words(self) -> list[str]:
        return ["WARNING something odd"]


class FakeDevice:
    """Has had its acknowledgements."""

    name = "boiler"

    def __init__(self, acknowledged: Any = (), *, unacknowledged: int = 0) -> None:
        self.acknowledged = acknowledged
        self.talks = False
        self._unacknowledged = unacknowledged

    def pause(self, *, wait_s: float) -> int:
        return self._unacknowledged

    def resume(self) -> None:
        self.talks = True

    def stop(self) -> None:
        self.talks = False


@pytest.fixture
def end_of_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Build a demo that is only told from the settling on, with fakes for everything that moves."""
    for act in ("_begin", "_go_offline", "_kill", "_come_back"):
        monkeypatch.setattr(Demo, act, lambda _: None)

    def build(*, seen: dict[int, int], acknowledged: set[int], unacknowledged: int = 0, **numbers: Any):
        story, out = tell_quickly(tmp_path)
        story._plant.stop()
        story._serial.stop()
        story._plant = FakeDevice({"d1": acknowledged}, unacknowledged=unacknowledged)  # type: ignore[assignment]
        story._serial = FakeDevice(set())  # type: ignore[assignment]
        story._gateway = FakeGateway(**numbers)  # type: ignore[assignment]
        story._collector.readings.update({("d1", "n", n): times for n, times in seen.items()})
        return story, out

    return build


def test_a_story_without_a_fault_ends_well(end_of_story) -> None:
    """Exit code 0; what came twice and was announced is no fault."""
    story, out = end_of_story(seen={1: 1, 2: 2}, acknowledged={1, 2}, maybe_twice=1)
    assert story.run(keep=False) == 0
    assert "There twice: 1 of them" in " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"acknowledged": {1, 2, 3}}, "1 acknowledged message missing at the collector"),
        ({"seen": {1: 1, 2: 3}}, "2 messages came twice, of which only 0 can be explained"),
        ({"accepted": 6}, "the gateway's own numbers don't add up"),
        ({"accepted": 6, "ledger": {"malformed": 1}}, "1 reading lost: {'malformed': 1}"),
        ({"unacknowledged": 2}, "2 messages not acknowledged"),
        ({"held": 1, "accepted": 6}, "the backlog did not drain"),
        ({"code": 1}, "the gateway ended with exit code 1"),
    ],
)
def test_each_broken_promise_is_said(
    end_of_story, broken: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, with what was promised and what the gateway logged."""
    monkeypatch.setattr(demo_module, "DRAIN_S_MAX", 0.05)
    story, out = end_of_story(**({"seen": {1: 1, 2: 1}, "acknowledged": {1, 2}} | broken))
    assert story.run(keep=False) == 1
    text = " ".join(out.getvalue().split())
    assert sentence in text
    assert "the gateway said: WARNING something odd" in text
    assert "That is the promise" not in text


def test_kept_running_until_ctrl_c(end_of_story, monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices talk again; Ctrl-C is the way out, so it is exit code 0, and everything is stopped."""
    story, out = end_of_story(seen={1: 1}, acknowledged={1})

    def press(_: float) -> None:
        assert story._plant.talks
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module.time, "sleep", press)
    assert story.run(keep=True) == 0
    assert "tidegate status --url http://127.0.0.1:1" in out.getvalue()
    assert "Ctrl-C ends it" in out.getvalue()
    assert story._gateway.ended[0] is signal.SIGTERM


def test_a_gateway_that_dies_while_kept_running_is_noticed(end_of_story) -> None:
    """Not waited for for ever."""
    story, out = end_of_story(seen={1: 1}, acknowledged={1}, code=3)
    story._gateway.ended.append(signal.SIGKILL)
    assert story.run(keep=True) == 1
    assert "exit code 3" in out.getvalue()


def test_stale_first_data_is_a_broken_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh first: what comes first after the outage must not be a minute old; and the backlog says what it is."""
    story, _ = tell_quickly(tmp_path)
    monkeypatch.setattr(demo_module, "DRAIN_S_MAX", 0.05)
    story._gateway = FakeGateway()  # type: ignore[assignment]
    now_ns = demo_module.CLOCK.wall_ns()

    def back() -> None:
        story._collector.first_after_open = (time.monotonic(), 5, now_ns - 60_000_000_000)

    monkeypatch.setattr(story._collector, "open", back)
    story._come_back()
    story._collector.close()
    story._plant.stop()
    story._serial.stop()
    assert story._failures == [
        "the first readings after the outage were 60 s old, not fresh",
        "nothing of the backlog was marked as backfill",
        "the anomaly of pump-3 was not reported",
    ]


def test_a_gateway_that_does_not_start_is_the_end_of_the_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and why."""

    def fail(_: object) -> float:
        raise BrokenPromiseError("the gateway ended with exit code 1")

    monkeypatch.setattr("gateway.simulator.desk.Gateway.start", fail)
    assert demo(seconds=1, keep=False) == 1
    assert "the gateway ended with exit code 1" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing_behind(
    make_child: Callable[..., Child], tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, kill, a closed terminal: exit code 130, no gateway, no folder."""
    child = make_child(python("-m", "gateway", "demo", "--seconds", "60"), env={"TMPDIR": str(tmp_path)})
    child.wait_for("The gateway is ready")
    gateways = [path for path in Path("/proc").iterdir() if path.name.isdigit() and is_gateway_in(tmp_path, path)]
    assert len(gateways) == 1
    child.send(number)
    assert child.wait() == 130
    assert "Traceback" not in child.output
    assert not is_gateway_in(tmp_path, gateways[0])
    assert list(tmp_path.iterdir()) == []


def is_gateway_in(folder: Path, process: Path) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
    except OSError:
        return False
    return str(folder).encode() in command and b"run" in command.split(b"\0")
