"""The peer takes messages with paho's own loop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gateway.bench.end_to_end import run_load
from gateway.bench.processes import Child

if TYPE_CHECKING:
    from hil.broker import Broker


def test_the_peer_counts_its_own_cpu(broker: Broker) -> None:
    """It says when it is ready and what the messages cost."""
    command = (sys.executable, "-m", "gateway.bench.paho_peer", "--port", str(broker.port), "--messages", "500")
    peer = Child(*command, pipe=True)
    try:
        assert peer.line() == "ready\n"
        run_load(broker.port, "--messages", "500", "--seconds", "20", "--window", "500")
        assert 0 < float(peer.line()) < 5
    finally:
        peer.end()
