"""Fake devices: MQTT clients and one on a serial line. They remember what was acknowledged to them, nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import select
import termios
import threading
import time
import tty
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import cbor2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gateway.codecs.framing import Ack, FrameReader, encode_data, read_message
from gateway.core.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

CLOCK: Final = SystemClock()
FRAME_BYTES_MAX: Final = 4096
SAMPLES_PER_FRAME: Final = 10
RESEND_S: Final = 0.4


class MqttPlant:
    """Several devices behind one MQTT session, QoS 1: `acknowledged[device]` holds the counters that got a PUBACK."""

    def __init__(self, *, port: int, devices: list[str], per_second: float) -> None:
        self.acknowledged: dict[str, set[int]] = {device: set() for device in devices}
        self.published = 0
        self.anomaly_on: str | None = None
        self._per_second = per_second
        self._stop = threading.Event()
        self._waiting: dict[int, tuple[str, int]] = {}
        self._lock = threading.Lock()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="plant", protocol=paho.MQTTv311, clean_session=False
        )
        self._client.max_inflight_messages_set(1000)
        self._client.reconnect_delay_set(0.2, 0.5)
        self._client.on_publish = self._on_publish
        self._client.connect_async("127.0.0.1", port, keepalive=10)
        self._thread = threading.Thread(target=self._publish, name="plant", daemon=True)

    def start(self) -> None:
        """Connect and publish."""
        self._client.loop_start()
        self._thread.start()

    def stop(self, *, wait_s: float) -> int:
        """Stop publishing, wait for what is on the way; return how many messages were never acknowledged."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + wait_s
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.05)
        self._client.disconnect()
        self._client.loop_stop()
        return len(self._waiting)

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        with self._lock:
            sent = self._waiting.pop(mid, None)
        if sent is not None:
            self.acknowledged[sent[0]].add(sent[1])

    def _publish(self) -> None:
        numbers = dict.fromkeys(self.acknowledged, 0)
        noise = random.Random(7)
        while not self._stop.wait(1 / self._per_second):
            for device, n in numbers.items():
                numbers[device] = n + 1
                with self._lock:
                    info = self._client.publish(f"plant/{device}/climate", self._payload(device, n, noise), qos=1)
                    self._waiting[info.mid] = (device, n)
                self.published += 1

    def _payload(self, device: str, n: int, noise: random.Random) -> str:
        temperature = 20 + 2 * math.sin(n / 40) + noise.gauss(0, 0.05)
        if device == self.anomaly_on:
            temperature += 60
        ts = CLOCK.wall_ns() // 1_000_000
        return json.dumps({"ts": ts, "temp": round(temperature, 2), "hum": round(45 + noise.gauss(0, 1), 1), "n": n})


class SerialDevice:
    """A device on a pty: CBOR in COBS frames with CRC, each kept until the gateway's ACK, as the firmware does."""

    def __init__(self, *, link: Path, per_second: float) -> None:
        self.acknowledged: set[int] = set()
        self.name = "boiler"
        self._per_second = per_second
        self._stop = threading.Event()
        self._near, far = os.openpty()
        tty.setraw(far, termios.TCSANOW)
        os.set_blocking(self._near, False)
        self._far = far  # kept open: a pty whose far end closes would hang up on the gateway
        link.symlink_to(os.ttyname(far))
        self._session = random.getrandbits(32)
        self._unacknowledged: deque[tuple[int, range]] = deque()
        self._thread = threading.Thread(target=self._run, name="boiler", daemon=True)

    def start(self) -> None:
        """Begin to talk."""
        self._thread.start()

    def stop(self, *, wait_s: float) -> int:
        """Stop measuring, wait for what is on the way; return how many frames were never acknowledged."""
        self._stop.set()
        self._thread.join(wait_s)
        return len(self._unacknowledged)

    def _run(self) -> None:
        reader = FrameReader(FRAME_BYTES_MAX)
        sequence = n = 0
        began_s = measured_s = sent_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if self._stop.is_set() and not self._unacknowledged:
                return
            if not self._stop.is_set() and now_s - measured_s >= SAMPLES_PER_FRAME / self._per_second:
                measured_s = now_s
                numbers = range(n, n + SAMPLES_PER_FRAME)
                n += SAMPLES_PER_FRAME
                self._unacknowledged.append((sequence, numbers))
                sequence = (sequence + 1) % 65536
            # One frame at a time, sent again until its ACK comes: what the firmware does with a window of one.
            if self._unacknowledged and now_s - sent_s > RESEND_S:
                sent_s = now_s
                self._send(*self._unacknowledged[0], ticks_ms=int((now_s - began_s) * 1000))
            if select.select([self._near], [], [], 0.02)[0]:
                for body in reader.feed(os.read(self._near, 4096)):
                    message = read_message(body)
                    if isinstance(message, Ack) and self._unacknowledged:
                        if message.sequence == self._unacknowledged[0][0]:
                            self.acknowledged.update(self._unacknowledged.popleft()[1])
                        sent_s = 0.0

    def _send(self, sequence: int, numbers: range, *, ticks_ms: int) -> None:
        step_ms = 1000 / self._per_second
        payload = cbor2.dumps(
            {
                "now": ticks_ms,
                "t": [int(k * step_ms) for k in numbers],
                "pressure": [round(1.4 + 0.1 * math.sin(k / 50), 3) for k in numbers],
                "n": list(numbers),
            }
        )
        frame = encode_data(payload, session=self._session, sequence=sequence, topic=self.name.encode())
        with contextlib.suppress(BlockingIOError):
            os.write(self._near, frame)
