"""What the page on files shows for reading a stick reads one."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateway.codecs import zstd
from gateway.control.config import parse_config
from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal
from gateway.uplinks.file_records import delimited, line
from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.file_wire import FileWire
from gateway.uplinks.guards import Packed
from hil.fixtures import skip_because
from hil.needs import find_tool
from hil.otlp_readings import REQUESTS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "OPERATING.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Files on a stick") : PAGE.index("## When there are too many series")]


class NoNotes:
    """A store that knows of nothing."""

    is_sure = True

    def last(self, _: str) -> bytes:
        return b""

    def keep(self, *_: object) -> None:
        pass

    def delivered(self, _: str) -> int:
        return 0


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def stick(tmp_path):
    """Files of both formats, two records in each."""
    skip_because("" if find_tool("zstdcat") else "zstd is not installed", can_be_installed=True)
    request = REQUESTS["metrics"]()
    request.resource_metrics.add()
    for kind, record in (
        ("json", line(b'{"resourceMetrics":[{}]}')),
        ("protobuf", delimited(request.SerializeToString())),
    ):
        settings = FileUplinkSettings(name="stick", directory=str(tmp_path), format=kind)
        wire = FileWire(settings, gateway_id="a", notes=NoNotes(), clock=SystemClock(), random=random.Random(1))
        for _ in range(2):
            wire.send(Packed(Signal.METRICS, zstd.compress(record), "zstd"))
    return tmp_path


def test_the_command_reads_lines(stick) -> None:
    """Each is a request."""
    done = subprocess.run(["sh", "-c", block("sh")], cwd=stick, capture_output=True, text=True, check=True)
    assert [json.loads(text) for text in done.stdout.splitlines()] == [{"resourceMetrics": [{}]}] * 2


def test_the_script_reads_requests(stick) -> None:
    """With the official classes, to the end of the file."""
    files = [str(path) for path in stick.glob("*.binpb.zst")]
    done = subprocess.run(
        [sys.executable, "-c", block("python"), *files], cwd=stick, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]


def test_the_configuration_is_one() -> None:
    """As it stands there."""
    config = parse_config(block("toml"), offline=True)
    assert isinstance(config.uplinks[0], FileUplinkSettings)
    assert msgspec.structs.asdict(config.uplinks[0])["mount_point"] == "/media/stick"
