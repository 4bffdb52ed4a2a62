"""What all senders have: held against each of them by test_senders and test_grpc_sender; here what neither can show."""

from __future__ import annotations

import socket
import threading

import pytest

from gateway.core.clock import NS_PER_S, FakeClock, SystemClock
from gateway.core.contracts import Signal, TryLaterError
from gateway.core.units import Duration
from gateway.uplinks.grpc_sender import GrpcSender
from gateway.uplinks.guards import Packed, UnreachableError
from gateway.uplinks.senders import HttpSender
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.wires import KeptWire
from hil.children import wait_until


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


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", [HttpSender, GrpcSender])
def test_a_wire_says_what_it_waits_for(kind: type[KeptWire], scheme: str) -> None:
    """Since when, and for how long at most; nothing before and after. Who never answers takes no TLS either."""
    awaited = "an answer" if scheme == "http" else "a connection"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = OtlpUplinkSettings(
            name="cloud",
            endpoint=f"{scheme}://127.0.0.1:{silent.getsockname()[1]}",
            timeout=Duration(60),
            connect_timeout=Duration(50),
        )
        clock = FakeClock()
        wire = kind(settings, version="1", clock=clock)
        assert (wire.told()["waiting_for"], wire.told()["waiting_s"]) == ("", 0.0)
        errors: list[Exception] = []

        def send() -> None:
            try:
                wire.send(Packed(Signal.METRICS, b"x", ""))
            except TryLaterError as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            wait_until(lambda: wire.told()["waiting_for"] == awaited, "the wire to say so")
            clock.advance(7 * NS_PER_S)
            told = wire.told()
            assert (told["waiting_for"], told["waiting_s"]) == (awaited, 7.0)
            assert told["waiting_s_max"] == (60.0 if scheme == "http" else 50.0)
        finally:
            wire.stop()
            thread.join(60)
        assert errors
        assert (wire.told()["waiting_for"], wire.told()["waiting_s"]) == ("", 0.0)
        wire.close()
