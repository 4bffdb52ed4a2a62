"""What needs a package that is not installed says so before anything starts, and what to type."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest

from gateway import cli
from gateway.control.config import ConfigError, parse_config

if TYPE_CHECKING:
    from pathlib import Path

OUT = '[[uplinks]]\ntype = "otlp"\nname = "cloud"\nendpoint = "http://127.0.0.1:4317"\nprotocol = "grpc"\n'
IN = '[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:0"\ngrpc = "127.0.0.1:0"\n'
WHAT = "OTLP over gRPC needs a package that is not installed; pip install tidegate[grpc]"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"h2", "hpack"} else find(name))


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))


@pytest.mark.usefixtures("missing")
def test_who_configures_it_is_told_what_to_install() -> None:
    """Each place by its path; who only reads the rest of a configuration needs none of it."""
    with pytest.raises(ConfigError) as caught:
        parse_config(IN + OUT)
    assert caught.value.problems == [f"sources[0].grpc: {WHAT}", f"uplinks[0].protocol: {WHAT}"]
    assert parse_config(IN + OUT, offline=True).uplinks[0].protocol == "grpc"
    assert parse_config(OUT.replace('"grpc"', '"http/json"'))


def test_keys_of_nats_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """User and password need none."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cryptography" else find(name))
    uplink = '[[uplinks]]\ntype = "nats"\nname = "s"\nurl = "nats://127.0.0.1"\n'
    monkeypatch.setenv("SEED", "x")
    with pytest.raises(ConfigError) as caught:
        parse_config(f'{uplink}nkey = {{ env = "SEED" }}\n')
    what = "an NKey needs a package that is not installed; pip install tidegate[nats]"
    assert caught.value.problems == [f"uplinks[0].nkey: {what}"]
    assert parse_config(f'{uplink}username = "u"\npassword = {{ env = "SEED" }}\n')


@pytest.mark.usefixtures("missing")
def test_check_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code of a configuration that does not work."""
    path = tmp_path / "tidegate.toml"
    path.write_text(OUT)
    assert cli.main(["check", "-c", str(path)]) == 2
    assert f"uplinks[0].protocol: {WHAT}" in capsys.readouterr().err


def test_it_is_loaded_where_it_is_configured_and_nowhere_else() -> None:
    """A gateway that speaks HTTP alone has no room for HTTP/2."""
    import subprocess

    text = (
        "import sys, gateway.app, gateway.sources.otlp, gateway.uplinks.delivery\n"
        "assert not {'h2', 'hpack', 'grpc', 'gateway.net.http2'} & sys.modules.keys()\n"
        "assert not {'gateway.net.nats', 'gateway.uplinks.nats', 'cryptography'} & sys.modules.keys()\n"
        "import gateway.uplinks.grpc_sender\n"
        "assert {'hpack'} <= sys.modules.keys() and not {'h2', 'grpc'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", text], check=True, timeout=60)
