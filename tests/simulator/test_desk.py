"""The demo's desk: its configuration is right, its story fits a terminal, its gateway is started and ended."""

from __future__ import annotations

import io
import signal
from typing import TYPE_CHECKING

import pytest

from gateway.codecs.mapping import Mapper
from gateway.control.config import load
from gateway.net.ports import free_port
from gateway.simulator import desk
from gateway.simulator.desk import BrokenPromiseError, Gateway, Story, wait_until, write_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    control = free_port()
    config = tmp_path / "tidegate.toml"
    write_config(
        config,
        state=tmp_path / "state",
        line=tmp_path / "tty",
        mqtt=free_port(),
        control=control,
        endpoint="http://127.0.0.1:1",
    )
    return Gateway(config, f"http://127.0.0.1:{control}", tmp_path / "gateway.log")


def test_the_demos_configuration_is_right(gateway: Gateway) -> None:
    """It loads without a warning, and its examples are true."""
    config = load(gateway.config)
    numbers = iter(range(1000))
    assert Mapper(config.mappings, resolve=lambda *_: next(numbers)).check() == []
    assert config.warnings() == []


def test_the_gateway_is_started_asked_and_ended(gateway: Gateway) -> None:
    """Ready means that the door is open; a clean end is exit code 0."""
    assert 0 < gateway.start() < desk.START_S_MAX
    assert gateway.uplink()["held"] == 0
    assert 10 < gateway.memory_mib() < 200
    _, code = gateway.end(signal.SIGTERM)
    assert code == 0
    assert gateway.end(signal.SIGTERM)[1] == 0


def test_a_gateway_that_cannot_start_says_why(gateway: Gateway) -> None:
    """The story ends with a reason, and the gateway's own words are there."""
    gateway.config.write_text("nonsense = 1\n", encoding="utf-8")
    with pytest.raises(BrokenPromiseError, match="exit code 2"):
        gateway.start()
    assert any("nonsense" in line for line in gateway.last_words())


def test_a_gateway_that_was_never_started_ends_at_once(gateway: Gateway) -> None:
    """And has said nothing."""
    assert gateway.end(signal.SIGTERM) == (0.0, 0)
    assert gateway.last_words() == []


def test_a_gateway_that_does_not_get_ready_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded."""
    monkeypatch.setattr(desk, "START_S_MAX", 0.05)
    with pytest.raises(BrokenPromiseError, match="not ready"):
        gateway.start()
    gateway.end(signal.SIGKILL)


def test_a_gateway_that_does_not_end_is_killed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left running."""
    monkeypatch.setattr(desk, "END_S_MAX", 0.05)
    gateway.start()
    assert gateway.end(signal.SIGCONT)[1] == -signal.SIGKILL


@pytest.mark.parametrize(("columns", "width"), [("40", 60), ("80", 80), ("200", 100)])
def test_the_story_fits_the_terminal(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sentences go on below where they began."""
    monkeypatch.setenv("COLUMNS", columns)
    out = io.StringIO()
    Story(out=out).tell("word " * 50, "✓")
    lines = out.getvalue().splitlines()
    assert len(lines) > 2
    assert all(len(line) < width for line in lines)
    assert lines[0].split("✓")[1].startswith(" word")
    assert lines[1].index("word") == lines[0].index("word")
    assert "\x1b" not in out.getvalue()


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for those who have not said NO_COLOR."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    Story(out=out).tell("well", "✓")
    assert "\x1b[32m" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    Story(out=out).tell("well", "✓")
    assert "\x1b" not in out.getvalue()


def test_waiting_has_an_end() -> None:
    """With the reason."""
    wait_until(lambda: True, "never", within_s=1)
    with pytest.raises(BrokenPromiseError, match="it did not come"):
        wait_until(lambda: False, "it did not come", within_s=0.01)
