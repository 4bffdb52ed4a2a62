"""What README shows is true: its configuration loads, its commands exist, its files are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway import cli
from gateway.codecs.mapping import Mapper
from gateway.control.check import check
from gateway.control.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return every command of the shell blocks, as words."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [
        shlex.split(part, comments=True)
        for line in lines
        for part in line.split("&&")
        if shlex.split(part, comments=True)
    ]


def test_the_configuration_loads_and_its_examples_are_right() -> None:
    """As `tidegate check` would see it on the box it is for."""
    configs = blocks("toml")
    assert configs
    for text in configs:
        config = parse_config(text, offline=True)
        numbers = iter(range(1 << 20))
        assert Mapper(config.mappings, resolve=lambda *_, numbers=numbers: next(numbers)).check() == []
        assert config.warnings() == []
    assert any(len(parse_config(text, offline=True).sources) == 4 for text in configs)


def test_the_check_has_nothing_to_say_of_it_but_where_the_token_is(tmp_path: Path, monkeypatch) -> None:
    """The token is in the service's unit, and README has the check before that is written."""
    monkeypatch.delenv("OTLP_TOKEN", raising=False)
    path = tmp_path / "tidegate.toml"
    path.write_text(blocks("toml")[0].replace("/var/lib/tidegate", str(tmp_path)), encoding="utf-8")
    found = [note for note in check(path).notes if note.startswith(("sources[", "mappings[", "uplinks["))]
    assert len(found) == 1
    assert found[0].startswith("uplinks[0].headers.authorization: the environment variable OTLP_TOKEN is not set")


def test_make_knows_every_target_that_is_named() -> None:
    """`make -n` finds each."""
    targets = {words[words.index("make") + 1] for words in commands() if "make" in words[:2]}
    assert {"demo", "test", "install"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_commands_that_are_named_exist_and_take_these_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `tidegate …` line can be parsed."""
    found = [
        words[index + 1 :] for words in commands() for index, word in enumerate(words) if word.endswith("tidegate")
    ]
    typed = [
        words
        for words in found
        if words and words[0] in {"init", "check", "run", "status", "explain", "verify", "export"}
    ]
    assert {words[0] for words in typed} >= {"init", "check", "status", "explain"}
    for words in typed:
        assert cli.parser().parse_args(words).command is not None


def test_files_that_are_named_exist() -> None:
    """In the table of promises and in the links."""
    named = set(re.findall(r"`((?:tests|docs|gateway|firmware_shims|hw_profiles|hil)/[\w./]*)`", TEXT))
    named |= set(re.findall(r"\]\(((?!http)[^)]+)\)", TEXT))
    assert named
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing


def test_what_is_installed_is_typed_by_its_name() -> None:
    """`make install` puts it on the PATH, for root too."""
    assert not any(word.endswith(".venv/bin/tidegate") for words in commands() for word in words)
    assert "usr/local/bin/tidegate" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_promise_names_a_test() -> None:
    """A file or a folder of them, beside the command that shows it."""
    (table,) = re.findall(r"^\| promise \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    rows = [row.strip("|").split("|") for row in table.splitlines()]
    assert len(rows) >= 7
    without = [promise for promise, _, tests in rows if not re.search(r"`tests/[\w/]+(\.py|/)`", tests)]
    assert not without


def test_the_unit_starts_what_make_install_installs() -> None:
    """The same folder as in README, the same configuration, and a reload that the daemon hears."""
    unit = (ROOT / "docs" / "tidegate.service").read_text(encoding="utf-8")
    assert "ExecStart=/opt/tidegate/.venv/bin/tidegate run -c /etc/tidegate/tidegate.toml" in unit
    assert "git clone" in TEXT
    assert "/opt/tidegate" in TEXT
    assert "/etc/tidegate/tidegate.toml" in TEXT
    assert "Type=notify\n" in unit
    assert "kill -HUP" in unit
    # ProtectClock= refuses clock_adjtime(2), by which the gateway asks whether its time is good.
    assert "\nProtectClock" not in unit
    assert "clock_adjtime" in unit


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_install_can_be_run_twice(tmp_path: Path) -> None:
    """Into a DESTDIR: the unit points to this folder, the configuration's directory is there, no configuration is."""
    folder = tmp_path / "checkout"
    (folder / "docs").mkdir(parents=True)
    (folder / ".venv").mkdir()
    for name in ("Makefile", "pyproject.toml", "docs/tidegate.service"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / ".installed").touch()
    root = tmp_path / "root"
    for _ in range(2):
        done = subprocess.run(
            ["make", "install", f"DESTDIR={root}"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    unit = (root / "etc/systemd/system/tidegate.service").read_text(encoding="utf-8")
    assert f"ExecStart={folder}/.venv/bin/tidegate run" in unit
    command = root / "usr/local/bin/tidegate"
    assert command.readlink() == folder / ".venv/bin/tidegate"
    assert list((root / "etc/tidegate").iterdir()) == []
    assert "next: tidegate init" in done.stdout
    command.unlink()
    command.write_text("somebody's own")
    subprocess.run(["make", "install", f"DESTDIR={root}"], cwd=folder, capture_output=True, check=True)
    assert command.read_text() == "somebody's own"
