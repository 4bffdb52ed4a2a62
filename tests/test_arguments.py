"""What is typed ends up where the commands look for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import cli
from gateway.arguments import CONFIG_DEFAULT


def parse(line: str):
    return cli.parser().parse_args(line.split())


def test_a_configuration_has_a_place() -> None:
    """Where nothing is said, it is the one that `make install` prepares."""
    assert parse("check").config == Path(CONFIG_DEFAULT)
    assert parse("check -c a.toml").config == parse("check --config a.toml").config == Path("a.toml")


def test_a_shelf_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    """By its directory or by a configuration; both might disagree."""
    assert parse("quarantine --state-dir d").state_dir == Path("d")
    with pytest.raises(SystemExit):
        parse("quarantine --state-dir d -c a.toml")
    assert "not allowed with" in capsys.readouterr().err
