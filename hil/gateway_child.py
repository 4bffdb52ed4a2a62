"""A whole gateway in a process of its own, on ports and a state directory that stay when it is started again.

    site = Site(folder, endpoint=sink.url, make_child=make_child)
    child = site.start()                   # ready when this returns
    site.account()["held"]                 # what /status says now

Knows the outside face alone: the command, the config file, /status. Must not look into the gateway's own files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.control.asking import fetch_status
from gateway.net.ports import free_port
from hil.children import Child, python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START_S: Final = 60.0
DRAIN_S: Final = 60.0

CONFIG: Final = """\
[gateway]
id = "under-test"
state_dir = {state_dir}
{gateway}
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:{mqtt}"
{source}
[[mappings]]
match = "plant/{{device}}/count"
payload = "json"
resource = {{ "device.id" = "{{device}}" }}
metrics = [ {{ field = "n", name = "n", type = "int" }} ]
{mappings}
[store]
commit_interval = "20ms"
{store}
[[uplinks]]
type = "otlp"
name = "cloud"
endpoint = "{endpoint}"
batch_interval = "50ms"
[uplinks.retry]
initial = "50ms"
max = "200ms"
[control]
listen = "127.0.0.1:{control}"
"""


class Account(NamedTuple):
    """What /status counts, in readings."""

    accepted: int
    delivered: int
    held: int
    ledger: dict[str, int]
    maybe_twice: int

    @property
    def gap(self) -> int:
        """What is accounted for nowhere; 0, or a promise is broken."""
        return self.accepted - self.delivered - self.held - sum(self.ledger.values())


class Site:
    """One gateway's place. `gateway`, `source`, `store` and `mappings` are more lines of its config."""

    def __init__(
        self,
        folder: Path,
        *,
        endpoint: str,
        make_child: Callable[..., Child],
        state_dir: Path | None = None,
        gateway: str = "",
        source: str = "",
        store: str = "",
        mappings: str = "",
    ) -> None:
        self.state_dir = state_dir or folder / "state"
        self.mqtt, control = free_port(), free_port()
        self.url = f"http://127.0.0.1:{control}"
        self.config = folder / "tidegate.toml"
        self.config.write_text(
            CONFIG.format(
                state_dir=json.dumps(str(self.state_dir)),
                mqtt=self.mqtt,
                control=control,
                endpoint=endpoint,
                gateway=gateway,
                source=source,
                store=store,
                mappings=mappings,
            ),
            encoding="utf-8",
        )
        self._make_child = make_child

    def start(self, *options: str) -> Child:
        """Start it and wait until it is ready; raise RuntimeError with what it said when it ends instead."""
        child = self.launch(*options)
        wait_until(lambda: self.answers() or not child.is_running, "the gateway to be ready", within_s=START_S)
        if not child.is_running:
            raise RuntimeError(f"it did not start:\n{child.tail()}")
        return child

    def launch(self, *options: str) -> Child:
        """Start it and don't wait."""
        command = python("-m", "gateway", "run", "-c", self.config, "--log-level", "warning", *options)
        return self._make_child(command, env={"OPENBLAS_NUM_THREADS": "1"})

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            self.status()
        except (OSError, ValueError):
            return False
        return True

    def status(self) -> dict[str, Any]:
        """Return /status."""
        return dict(fetch_status(self.url, token="", timeout_s=60))

    def account(self) -> Account:
        """Return the counts of its uplink."""
        status = self.status()
        uplink = status["uplinks"]["cloud"]
        return Account(status["accepted"], uplink["delivered"], uplink["held"], uplink["ledger"], uplink["maybe_twice"])

    def drain(self) -> Account:
        """Wait until all is delivered; return the counts then."""
        try:
            wait_until(lambda: self.account().held == 0, "everything to be delivered", within_s=DRAIN_S)
        except TimeoutError as error:
            error.add_note(f"status: {self.status()}")
            raise
        return self.account()

    def verify(self) -> tuple[int, str]:
        """Run `tidegate verify`; return its exit code and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "verify", "--state-dir", str(self.state_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr
