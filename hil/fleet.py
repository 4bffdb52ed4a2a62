"""Gateways side by side, each with its configuration and in its own process. Knows their outside face alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from gateway.control.asking import fetch_status
from gateway.net.ports import free_port
from hil.children import Child, python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START_S: Final = 60.0
DRAIN_S: Final = 60.0

HEAD: Final = """\
[gateway]
id = "{name}"
state_dir = {state_dir}
report_interval = "0s"
[store]
commit_interval = "20ms"
[control]
listen = "127.0.0.1:{control}"
"""


class Member:
    """One gateway of several. `parts` are its sources, mappings and uplinks, the last of which is called "up"."""

    def __init__(self, folder: Path, name: str, parts: str, *, make_child: Callable[..., Child]) -> None:
        self.name = name
        self.state_dir = folder / name
        control = free_port()
        self.url = f"http://127.0.0.1:{control}"
        self.config = folder / f"{name}.toml"
        head = HEAD.format(name=name, state_dir=json.dumps(str(self.state_dir)), control=control)
        self.config.write_text(head + parts, encoding="utf-8")
        self._make_child = make_child
        self.child: Child | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        command = python("-m", "gateway", "run", "-c", self.config, "--log-level", "warning")
        child = self.child = self._make_child(command, env={"OPENBLAS_NUM_THREADS": "1"})
        wait_until(lambda: self._answers() or not child.is_running, f"{self.name} to be ready", within_s=START_S)
        if not child.is_running:
            raise RuntimeError(f"{self.name} did not start:\n{child.tail()}")

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.child is not None
        self.child.kill()

    def stop(self) -> None:
        """End it as a service manager does."""
        assert self.child is not None
        self.child.terminate()

    def status(self) -> dict[str, Any]:
        """Return /status."""
        return dict(fetch_status(self.url, token="", timeout_s=60))

    def account(self) -> dict[str, Any]:
        """Return the account of its uplink, which adds up."""
        status = self.status()
        account = dict(status["uplinks"]["up"])
        accounted = account["delivered"] + account["held"] + sum(account["ledger"].values())
        assert status["accepted"] == accounted, account
        return {**account, "accepted": status["accepted"]}

    def drain(self) -> dict[str, Any]:
        """Wait until all is delivered; return the account then."""
        try:
            wait_until(lambda: not self.account()["held"], f"{self.name} to have delivered all", within_s=DRAIN_S)
        except TimeoutError as error:
            error.add_note(f"status: {self.status()}")
            raise
        return self.account()

    def _answers(self) -> bool:
        try:
            self.status()
        except (OSError, ValueError):
            return False
        return True
