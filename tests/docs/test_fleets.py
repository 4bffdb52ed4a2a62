"""What docs/FLEETS.md shows is done as it stands there: a broker, two gateways, messages, and each has a part."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gateway.control.asking import fetch_status
from gateway.control.config import parse_config
from gateway.control.loops import look_for_loops
from gateway.net.ports import free_port
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from hil.broker import why_no_broker
from hil.children import wait_until
from hil.fixtures import skip_because
from hil.needs import find_tool

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "FLEETS.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_the_configurations_load_and_nothing_is_to_be_said_of_them(number: int) -> None:
    """No warning, and no loop."""
    assert len(blocks("toml")) == 3
    config = parse_config(blocks("toml")[number], offline=True)
    assert config.warnings() == []
    assert list(look_for_loops(config.sources, config.uplinks)) == []


def test_one_publishes_what_the_other_takes() -> None:
    """The topics of the edge are those that the centre maps."""
    edge, centre = (parse_config(text, offline=True) for text in blocks("toml")[1:])
    (uplink,) = edge.uplinks
    assert isinstance(uplink, MqttUplinkSettings)
    assert uplink.topic == centre.mappings[0].match
    assert centre.sources[0].topics == ("site/#",)


@pytest.mark.slow
def test_two_gateways_take_a_part_each(tmp_path: Path, make_child, otlp_sink) -> None:
    """As it is typed, but for ports, directories and who starts what."""
    skip_because(why_no_broker(), can_be_installed=True)
    skip_because("" if find_tool("mosquitto_pub") else "mosquitto-clients is not installed", can_be_installed=True)
    ports = {name: str(free_port()) for name in ("1883", "8181", "8182")}
    names = {
        **ports,
        "http://127.0.0.1:4318": otlp_sink.url,
        "/var/lib/": f"{tmp_path}/",
        "tidegate run": "python -m gateway run",
        "tidegate status": "python -m gateway status",
    }

    def here(text: str) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    (tmp_path / "mosquitto").mkdir()
    broker = here(blocks("conf")[0]) + "user root\n"
    (tmp_path / "plant-broker.conf").write_text(broker)
    (tmp_path / "one.toml").write_text(here(blocks("toml")[0]))
    copy, story = blocks("sh")
    subprocess.run(["sh", "-c", here(copy)], cwd=tmp_path, check=True)
    env = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    said: list[str] = []
    for line in here(story).splitlines():
        words = line.split()
        if words[0] == "mosquitto" or "run" in words:
            program = str(find_tool("mosquitto")) if words[0] == "mosquitto" else _python()
            make_child([program, *words[1:]], cwd=tmp_path, env=env)
            continue
        if words[0] == "for":
            wait_until(lambda: all(_is_connected(ports[name]) for name in ("8181", "8182")), "both to be connected")
        done = subprocess.run(
            ["sh", "-c", line.replace("python -m", f"{_python()} -m")],
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin:/usr/sbin", **env}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        wait_until(lambda: sum(otlp_sink.readings().values()) >= 8, "all eight to arrive")
    parts = [int(match[1]) for text in said if (match := re.search(r"accepted (\d+) reading", text))]
    assert len(parts) == 2
    assert sum(parts) == 8
    assert min(parts) > 0
    assert {reading.device for reading in otlp_sink.readings()} == {f"d{n}" for n in range(1, 9)}


def _python() -> str:
    import sys

    return sys.executable


def _is_connected(port: str) -> bool:
    try:
        status = fetch_status(f"http://127.0.0.1:{port}", token="", timeout_s=60)
    except (OSError, ValueError):
        return False
    return bool(status["sources"]["plant"]["state"] == "connected")
