"""Every command that README and the pages show is run, against a gateway with README's own configuration."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pytest

from gateway import cli
from gateway.control import live
from gateway.control.asking import fetch_status
from gateway.control.config import parse_config
from gateway.core.clock import FakeClock
from gateway.core.units import Duration
from gateway.net.ports import free_port
from gateway.reporter import Reporter
from hil.children import Child, python, wait_until
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What would take minutes, or for ever; that it can be typed is checked all the same.
NOT_RUN = {"run", "demo", "bench"}
# A message that is shown because it is wrong: a text for a number.
WRONG = ("n/a",)


class Shown(NamedTuple):
    """A command as a page shows it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: tidegate {shlex.join(self.words)}"


@functools.cache
def shown() -> list[Shown]:
    """Return every tidegate command of the shell blocks, and those in running text that have options."""
    found: list[Shown] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [
            line
            for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
            for line in block.splitlines()
        ]
        lines += re.findall(r"`(tidegate \w+ -[^`]+)`", text)
        for line in lines:
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                names = [index for index, word in enumerate(words) if word.endswith("tidegate") and "/etc" not in word]
                if names and len(words) > names[-1] + 1 and words[names[-1] + 1] in COMMANDS:
                    found.append(Shown(page.name, tuple(words[names[-1] + 1 :])))
    return found


COMMANDS = {
    "demo", "init", "check", "run", "explain", "status", "trace", "quarantine", "verify", "export", "size", "schema",
    "bench",
}  # fmt: skip


class Place(NamedTuple):
    """Where the commands are run: a directory with README's configuration, whose gateway runs."""

    folder: Path
    url: str
    state_dir: Path

    def words(self, typed: tuple[str, ...]) -> list[str]:
        """Return a command's words with this place's names for those of the page."""
        new = self.folder / "new.toml" if typed[0] == "init" else self.folder / "tidegate.toml"
        names = {
            "/etc/tidegate/tidegate.toml": str(new), "/var/lib/tidegate": str(self.state_dir),
            "/var/lib/pump-monitor": str(self.state_dir),
            "http://127.0.0.1:8181": self.url, "http://127.0.0.1:8182": self.url, "FILE": str(new),
        }  # fmt: skip
        return [names.get(word, word) for word in typed]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """README's configuration on free ports and in a directory of its own, with devices that publish."""
    folder = tmp_path_factory.mktemp("place")
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    mqtt, control = free_port(), free_port()
    text = text.replace('"/var/lib/tidegate"', f'"{folder / "state"}"').replace("127.0.0.1:1884", f"127.0.0.1:{mqtt}")
    text = text.replace("127.0.0.1:8181", f"127.0.0.1:{control}").replace(
        "https://otel.example:4318", "http://127.0.0.1:1"
    )
    (folder / "tidegate.toml").write_text(text, encoding="utf-8")
    url = f"http://127.0.0.1:{control}"
    command = python("-m", "gateway", "run", "-c", folder / "tidegate.toml")
    with Child(command, env={"OTLP_TOKEN": "secret"}) as child:
        wait_until(lambda: not child.is_running or answers(url), "the gateway to be ready", within_s=60)
        with Publisher(port=mqtt, topic=b"plant/d1/climate"):
            wait_until(lambda: fetch_status(url, token="", timeout_s=60)["store"]["quarantined"], "a message")
            yield Place(folder, url, folder / "state")


def answers(url: str) -> bool:
    try:
        fetch_status(url, token="", timeout_s=60)
    except (OSError, ValueError):
        return False
    return True


@pytest.mark.parametrize("command", shown(), ids=str)
def test_a_command_that_is_shown_does_what_is_said(
    command: Shown,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """It can be typed, and says something; a message that is shown because it is wrong is told to be."""
    words = place.words(command.words)
    assert cli.parser().parse_args(words).command is not None
    if words[0] in NOT_RUN:
        return
    monkeypatch.chdir(place.folder if words[0] != "init" else tmp_path)
    monkeypatch.setenv("OTLP_TOKEN", "secret")
    monkeypatch.setattr(cli, "URL_DEFAULT", place.url)
    # The link is down here: what is held is shown soon.
    monkeypatch.setattr(live, "HOLD_S", 0.1)
    monkeypatch.setattr(live, "ASK_S", 0.05)
    if words[0] == "init":
        words.append("--yes")
    code = cli.main(words)
    said = capsys.readouterr()
    assert code == any(wrong in word for wrong in WRONG for word in words), said.err
    assert said.out
    assert "Traceback" not in said.err


def test_every_command_that_looks_is_shown_somewhere() -> None:
    """In README or on a page."""
    assert {command.words[0] for command in shown()} >= {"init", "check", "explain", "status", "trace", "quarantine"}


def test_the_metrics_that_are_listed_are_those_that_leave() -> None:
    """Name, kind, unit and attributes of each, as docs/OPERATING.md has them."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (\w+) \| `([^`]+)` \|([^|]*)\|", (ROOT / "docs/OPERATING.md").read_text(), re.MULTILINE
    )
    listed = {(name, kind, unit, tuple(sorted(re.findall(r"`([\w.]+)`", keys)))) for name, kind, unit, keys in rows}
    uplink = {"delivered": 1, "held": 1, "left_out": 1, "maybe_twice": 1, "ledger": {"malformed": 1}}
    status = {"accepted": 1, "store": {"quarantined": 1, "used_bytes": 1}, "uplinks": {"cloud": uplink}}

    class Store:
        lost_at_start: ClassVar[dict[tuple[str, str], int]] = {}
        settling: ClassVar[SimpleNamespace] = SimpleNamespace(on_lost=None)

        def status(self) -> dict[str, object]:
            return status

        def started_series(self) -> list[object]:
            return []

    points = Reporter(store=Store(), clock=FakeClock(), report_s=1)._look().points()  # type: ignore[arg-type]
    assert listed == {(p.name, p.kind, p.unit, tuple(sorted(key for key, _ in p.attributes))) for p in points}


def test_the_interval_that_is_named_is_a_setting() -> None:
    """With the default that the page of settings has, and another where another is said."""
    assert "`[gateway] report_interval`" in (ROOT / "docs/OPERATING.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/CONFIGURATION.md").read_text(encoding="utf-8")
    (default,) = re.findall(r'^\| `report_interval` \| duration \| `"(\w+)"` \|', page, re.MULTILINE)

    def interval(line: str = "") -> Duration:
        return parse_config(f'[gateway]\nstate_dir = "/x"\n{line}', offline=True).gateway.report_interval

    assert interval() == Duration.parse(default)
    assert interval('report_interval = "0s"') == 0
