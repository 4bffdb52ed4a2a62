"""What all senders have: held against each of them by test_senders and test_grpc_sender; here what neither can show."""

from __future__ import annotations

import pytest

from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal
from gateway.uplinks.grpc_sender import GrpcSender
from gateway.uplinks.guards import Packed, UnreachableError
from gateway.uplinks.senders import HttpSender
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.wires import KeptWire


@pytest.mark.parametrize("kind", [HttpSender, GrpcSender])
def test_every_sender_is_a_wire_that_knows_what_it_costs(kind: type[KeptWire]) -> None:
    """Before anything was sent, and after it could not be."""
    settings = OtlpUplinkSettings(name="cloud", endpoint="http://127.0.0.1:1", headers={"x-site": "7"})
    wire = kind(settings, version="1", clock=SystemClock())
    assert (wire.bytes_sent, wire.wire_bytes, wire.requests) == (0, 0, 0)
    assert not any((wire.is_connected, wire.is_encrypted, wire.is_overdue()))
    head = wire.head_bytes
    with pytest.raises(UnreachableError):
        wire.send(Packed(Signal.METRICS, b"x", ""))
    assert wire.head_bytes > 0
    assert (wire.bytes_sent, head > 0) == (0, True)
    assert wire.wire_bytes > 0
    wire.close()


def test_a_kind_of_wire_says_how_it_sends() -> None:
    """There is none that does not."""
    with pytest.raises(TypeError, match="abstract"):
        KeptWire(OtlpUplinkSettings(name="a", endpoint="http://b"), version="1", clock=SystemClock())
