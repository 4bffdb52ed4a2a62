"""What docs/CLIENT.md and README show of the client is run, against a receiver on loopback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway import Client
from gateway.client import client as module

if TYPE_CHECKING:
    from collections.abc import Callable

    from hil.otlp_sink import OtlpSink

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "CLIENT.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, otlp_sink: OtlpSink) -> Callable[[str], str]:
    """Give a block the names of this place for those of the page."""
    names = {
        "https://otel.example:4318": otlp_sink.url,
        "http://127.0.0.1:4318": otlp_sink.url,
        "/var/lib/pump-monitor": str(tmp_path / "state"),
        "127.0.0.1:8181": "127.0.0.1:0",
    }

    def put(block: str) -> str:
        for shown, real in names.items():
            block = block.replace(shown, real)
        return block

    return put


def test_five_lines_are_five_lines(here: Callable[[str], str], otlp_sink: OtlpSink) -> None:
    """The same on the page as in README, and they do what is said."""
    (shown,) = blocks(README)
    assert len([line for line in shown.splitlines() if line.strip()]) <= 5
    exec(here(shown), {})
    assert [(r.metric, r.value) for r in otlp_sink.readings()] == [("temperature", 20.5)]
    exec(here(blocks(PAGE)[0]), {})
    assert otlp_sink.readings().total() == 2


def test_every_block_of_the_page_runs(
    here: Callable[[str], str], otlp_sink: OtlpSink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, as somebody would who types them; where one ends the client the next gets another."""
    names: dict[str, Any] = {"Client": Client}
    made = []
    for block in blocks(PAGE):
        if "client" not in names or names["client"]._gone:
            names["client"] = Client(otlp_sink.url, state_dir=tmp_path / f"other-{len(made)}")
            made.append(names["client"])
        exec(here(block), names)
    for client in made:
        client._at_exit()
    assert capsys.readouterr().out in {"", "no link yet: it leaves later\n"}
    found = {reading.metric for reading in otlp_sink.readings()}
    assert found >= {"temperature", "level", "flow.total", "pressure", "vibration", "refills"}
    assert {request.signal for request in otlp_sink.requests} == {"metrics", "logs", "traces"}


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    """As they stand in its table."""
    assert f"up to `buffer_bytes` ({module.BUFFER_BYTES >> 20} MiB) wait in memory" in PAGE
    assert f"waits `wait` seconds ({module.WAIT_S:g}) and raises FullError" in PAGE
