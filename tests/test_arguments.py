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


@pytest.mark.parametrize("command", ["quarantine", "verify"])
def test_a_shelf_is_named_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By its directory or by a configuration; both might disagree."""
    assert parse(f"{command} --state-dir d").state_dir == Path("d")
    with pytest.raises(SystemExit):
        parse(f"{command} --state-dir d -c a.toml")
    assert "not allowed with" in capsys.readouterr().err


def test_a_shelf_that_was_left_behind_is_exported_as_whose_it_is() -> None:
    """The place is its own, the gateway's attributes are still in its configuration."""
    options = parse("export --state-dir d -c a.toml --out f")
    assert (options.state_dir, options.config) == (Path("d"), Path("a.toml"))
