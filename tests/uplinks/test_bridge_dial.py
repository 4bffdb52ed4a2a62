"""How a connection comes about: what is asked for, and what is never shown. The rest is in test_bridge.py."""

from __future__ import annotations

import socket
import threading

import msgspec
import pytest

from gateway.control.reading import decode_hook
from gateway.core.clock import SystemClock
from gateway.core.contracts import TryLaterError
from gateway.net.deadline import Deadline
from gateway.net.mqtt import VERSION_UNKNOWN, Packet, PublishScanner
from gateway.net.mqtt_packets import read_connect
from gateway.uplinks.bridge_dial import Dialler
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.guards import UnreachableError
from hil.children import wait_until
from hil.scripted_broker import Script, ScriptedBroker


def dialler(port: int, **table) -> Dialler:
    full = {"type": "mqtt", "name": "b", "url": f"mqtt://127.0.0.1:{port}", "timeout": "20s", **table}
    settings = msgspec.convert(full, MqttUplinkSettings, dec_hook=decode_hook)
    return Dialler(settings, url=settings.url, client_id="us", clock=SystemClock())


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_session_of_its_own(protocol: str) -> None:
    """A clean start that the broker forgets, and no keep-alive of MQTT's: the kernel asks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = dialler(listener.getsockname()[1], protocol=protocol)
        said: list[bytes] = []

        def answer() -> None:
            stream, _ = listener.accept()
            with stream:
                said.append(stream.recv(1000))
                stream.sendall(bytes.fromhex("2003000000" if protocol == "5" else "20020000"))
                said.append(stream.recv(1000))

        helper = threading.Thread(target=answer)
        helper.start()
        line = one.dial(Deadline.after(60))
        options = (socket.SO_KEEPALIVE, socket.SOL_SOCKET), (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP)
        assert [one.client._dialled.getsockopt(level, name) for name, level in options] == [1, 300]
        line.say_goodbye()
        helper.join()
        line.client.drop()
    (packet,) = PublishScanner(packet_bytes_max=1000, version=VERSION_UNKNOWN).feed(said[0])
    assert isinstance(packet, Packet)
    connect = read_connect(packet.body)
    assert (connect.client_id, connect.clean_start, connect.keep_alive_s, connect.session_expiry_s) == (
        b"us",
        True,
        0,
        0,
    )
    assert said[1] == b"\xe0\x00"
    assert one.attempts == 1
    assert one.asked_ns is None


def test_it_is_ended_while_it_waits_for_the_answer() -> None:
    """By whoever stops."""
    with ScriptedBroker(Script(connack=None)) as broker:
        one = dialler(broker.port, timeout="20s")

        def end() -> None:
            wait_until(lambda: broker.versions, "the CONNECT")
            one.is_aborted = True
            one.client.abandon()

        helper = threading.Thread(target=end)
        helper.start()
        with pytest.raises(TryLaterError):
            one.dial(Deadline.after(20))
        helper.join()
        one.client.drop()


def test_one_that_nobody_waits_for_any_more() -> None:
    """Says so, and no broker is blamed."""
    one = dialler(1)
    one.is_aborted = True
    with pytest.raises(TryLaterError, match="the uplink is stopping"):
        one.dial(Deadline.after(1))
    one.is_aborted, one.is_cut = False, True
    with pytest.raises(UnreachableError, match="no connection to 127.0.0.1:1 within 20 s"):
        one.dial(Deadline.after(1))


def test_it_leaves_by_the_device_that_is_given() -> None:
    """One that is not there reaches no broker, and that is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = dialler(listener.getsockname()[1])
        with pytest.raises(UnreachableError, match="No such device"):
            one.dial(Deadline.after(2), device="wwan9nothere")
