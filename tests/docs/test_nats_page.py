"""What the page on streams shows is so: the configuration loads, and the stream is made as it is typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from gateway.control.config import parse_config
from gateway.uplinks.nats_settings import NatsUplinkSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "OPERATING.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Streams of NATS") : PAGE.index("## Programs that send OTLP")]


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return found


def test_the_configuration_loads_and_nothing_is_to_be_said_of_it() -> None:
    """No warning; the subjects are those that the stream has."""
    head = '[gateway]\nid = "site-7"\nstate_dir = "/x"\n[[sources]]\ntype = "mqtt_server"\nname = "d"\n'
    config = parse_config(f'{head}listen = "127.0.0.1:1884"\n{block("toml")}', offline=True)
    assert config.warnings() == []
    (uplink,) = config.uplinks
    assert isinstance(uplink, NatsUplinkSettings)
    assert uplink.subject_of_requests().startswith("tidegate.")


def test_the_stream_is_made_as_it_is_typed(make_nats) -> None:
    """But for the port."""
    server = make_nats()
    command = block("bash").replace("/4222", f"/{server.port}")
    said = subprocess.run(["bash", "-eu", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert "stream_create_response" in said.stdout
    with server.client() as client:
        config = client.ask("$JS.API.STREAM.INFO.TIDEGATE")["config"]
    assert (config["subjects"], config["duplicate_window"]) == (["tidegate.>"], 86_400 * 10**9)
