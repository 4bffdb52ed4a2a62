"""The broker that answers by script does what its script says."""

from __future__ import annotations

import socket

from gateway.net.mqtt_packets import connect_bytes, publish_bytes
from hil.children import wait_until
from hil.scripted_broker import Script, ScriptedBroker


def test_it_answers_by_script_and_keeps_what_came() -> None:
    """CONNACK, PUBACK with a code, DISCONNECT, and the end."""
    script = Script(answer=lambda message: 0x97 if message.topic == "b" else 0, ends_after=2, end_code=0x8B)
    with ScriptedBroker(script) as broker, socket.create_connection(("127.0.0.1", broker.port), 5) as stream:
        stream.sendall(connect_bytes(b"c", version=5))
        assert stream.recv(100) == bytes.fromhex("2003000000")
        for number, topic in enumerate((b"a", b"b"), 1):
            stream.sendall(publish_bytes(topic, b"x", qos=1, packet_id=number, version=5, is_duplicate=number == 2))
        said = b""
        while part := stream.recv(100):
            said += part
        assert said == bytes.fromhex("40020001 4003000297 e0018b")
        assert [(m.topic, m.payload, m.qos, m.is_duplicate) for m in broker.messages] == [
            ("a", b"x", 1, False),
            ("b", b"x", 1, True),
        ]


def test_one_that_does_not_know_mqtt_5_says_so_in_its_own_words() -> None:
    """A CONNACK of 3.1.1, and the end."""
    with ScriptedBroker(Script(knows_5=False)) as broker:
        with socket.create_connection(("127.0.0.1", broker.port), 5) as stream:
            stream.sendall(connect_bytes(b"c", version=5))
            assert stream.recv(100) == b"\x20\x02\x00\x01"
            assert stream.recv(100) == b""
        wait_until(lambda: broker.versions == [5], "the connection to be noted")
