"""From arguments to a configuration."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from gateway.client import assembly
from gateway.control.config import ConfigError


def configure(endpoint: object = None, **options: object):
    given = {"state_dir": None, "headers": None, "config": None, "control": None, "service": "pump"}
    return assembly.configure(endpoint, **{**given, **options})


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/opt/pump/monitor.py", "-v"], "monitor"),
        (["-c"], "python"),
        ([""], "python"),
        (["-"], "python"),
        ([], "python"),
    ],
)
def test_a_program_has_a_name(monkeypatch: pytest.MonkeyPatch, argv: list[str], name: str) -> None:
    """That of its script, where the environment says no other."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setattr("sys.argv", argv)
    assert assembly.service_name() == name
    monkeypatch.setenv("OTEL_SERVICE_NAME", " other ")
    assert assembly.service_name() == "other"


def test_a_directory_is_where_the_program_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every path in Python; a ~ is the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert configure("http://127.0.0.1:1", state_dir="state").gateway.state_dir == str(tmp_path / "state")
    assert configure("http://127.0.0.1:1", state_dir=Path("~/s")).gateway.state_dir == str(tmp_path / "home" / "s")


def test_tables_of_a_program_are_left_as_they_are(tmp_path: Path) -> None:
    """What is not for a client is left out, the rest holds, and the dict is the program's own."""
    tables = {
        "log_level": "nonsense",
        "sources": "nonsense",
        "control": {"listen": "127.0.0.1:1"},
        "gateway": {"state_dir": str(tmp_path / "a"), "id": "mine"},
        "store": {"max_bytes": "3MiB"},
    }
    before = copy.deepcopy(tables)
    found = configure(config=tables)
    assert (found.gateway.state_dir, found.gateway.id) == (str(tmp_path / "a"), "mine")
    assert (found.sources, found.control, int(found.store.max_bytes)) == ((), None, 3 << 20)
    assert tables == before
    other = configure(config=tables, state_dir=tmp_path / "b", control="127.0.0.1:8182")
    assert (other.gateway.state_dir, other.control.listen) == (str(tmp_path / "b"), "127.0.0.1:8182")
    with pytest.raises(ConfigError, match=r"control.listen: .*other machines reach"):
        configure(config=tables, control="0.0.0.0:8182")


def test_two_programs_of_a_box_have_two_names(tmp_path: Path) -> None:
    """And neither has that of the gateway on it: their numbers would be taken for one's."""
    names = {configure("http://127.0.0.1:1", state_dir=tmp_path, service=name).gateway.id for name in ("a", "b")}
    assert len(names) == 2
    assert {name.rpartition("/")[2] for name in names} == {"a", "b"}


def test_a_secret_that_is_given_is_not_shown() -> None:
    """Not by itself, and not by what it is part of."""
    secret = assembly.GivenSecret(value="hush")
    assert secret.read() == "hush"
    config = configure("http://127.0.0.1:1", state_dir="/tmp/x", headers={"x-key": "hush"})
    for shown in (repr(secret), str(secret), repr(config), str(config.uplinks[0].headers)):
        assert "hush" not in shown


def test_no_headers_are_none() -> None:
    """An empty dict says nothing."""
    assert configure("http://127.0.0.1:1", state_dir="/tmp/x", headers={}).uplinks[0].headers == {}
    with pytest.raises(ValueError, match="the value of a is no text"):
        configure("http://127.0.0.1:1", state_dir="/tmp/x", headers={"a": ""})
