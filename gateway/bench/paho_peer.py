"""The peer for the subscriber: paho's own loop, acknowledging and doing nothing else. Must not use our code paths.

`python -m gateway.bench.paho_peer --port N --messages M` prints "ready" when it is subscribed and its CPU seconds
when it has had M messages.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WAIT_S: Final = 300.0
RECEIVE_MAXIMUM: Final = 32768


def receive(port: int, messages: int) -> float:
    """Take `messages` at QoS 1; return the CPU seconds that took."""
    done, subscribed = threading.Event(), threading.Event()
    seen = [0, 0.0]

    def on_message(client: Client, _: object, message: Any) -> None:
        if not seen[0]:
            seen[1] = time.process_time()
        client.ack(message.mid, message.qos)
        seen[0] += 1
        if seen[0] >= messages:
            done.set()

    client = Client(CallbackAPIVersion.VERSION2, "paho-peer", protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    client.connect("127.0.0.1", port, properties=properties)
    client.subscribe("plant/#", 1)
    client.loop_start()
    subscribed.wait(WAIT_S)
    print("ready", flush=True)  # noqa: T201  the parent reads it
    if not done.wait(WAIT_S):
        raise TimeoutError(f"{seen[0]} of {messages} messages came")
    spent_s = time.process_time() - seen[1]
    client.disconnect()
    client.loop_stop()
    return spent_s


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--messages", type=int, required=True)
    options = arguments.parse_args()
    print(receive(options.port, options.messages), flush=True)  # noqa: T201  the parent reads it
