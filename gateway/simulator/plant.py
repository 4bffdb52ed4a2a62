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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
STOP_S: Final = 5.0


class MqttPlant:
    """Several devices behind one MQTT session, QoS 1: `acknowledged[device]` holds the counters that got a PUBACK."""

    def __init__(self, *, port: int, devices: list[str], per_second: float) -> None:
        self.acknowledged: dict[str, set[int]] = {device: set() for device in devices}
        self.published = 0
        self.anomaly_on: str | None = None
        self._per_second = per_second
        self._stop = threading.Event()
        self._talking = threading.Event()
        self._quiet = threading.Event()
        # Held for a moment only and never while paho is called: paho calls back with locks of its own in hand.
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[str, int]] = {}
        self._early: set[int] = set()  # acknowledged before publish() had said its number
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="plant", protocol=paho.MQTTv311, clean_session=False
        )
        self._client.max_inflight_messages_set(1000)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect_async("127.0.0.1", port, keepalive=10)
        self._thread = threading.Thread(target=self._publish, name="plant", daemon=True)

    def start(self) -> None:
        """Connect and publish."""
        self._talking.set()
        self._client.loop_start()
        self._thread.start()

    def pause(self, *, wait_s: float) -> int:
        """Publish no more for now, wait for what is on the way; return how many messages are not acknowledged."""
        deadline = time.monotonic() + wait_s
        self._quiet.clear()
        self._talking.clear()
        self._quiet.wait(wait_s)
        while self.unacknowledged and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.unacknowledged

    def resume(self) -> None:
        """Publish again."""
        self._talking.set()

    def stop(self) -> None:
        """Fall silent for good."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
            self._client.disconnect()
            self._client.loop_stop()

    @property
    def unacknowledged(self) -> int:
        """How many messages are on the way."""
        with self._lock:
            return len(self._waiting)

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        with self._lock:
            sent = self._waiting.pop(mid, None)
            if sent is None:
                self._early.add(mid)
        if sent is not None:
            self.acknowledged[sent[0]].add(sent[1])

    def _publish(self) -> None:
        numbers = dict.fromkeys(self.acknowledged, 0)
        noise = random.Random(7)
        while not self._stop.wait(1 / self._per_second):
            if not self._talking.is_set():
                self._quiet.set()
                continue
            for device, n in numbers.items():
                numbers[device] = n + 1
                info = self._client.publish(f"plant/{device}/climate", self._payload(device, n, noise), qos=1)
                with self._lock:
                    is_early = info.mid in self._early
                    self._early.discard(info.mid)
                    if not is_early:
                        self._waiting[info.mid] = (device, n)
                if is_early:
                    self.acknowledged[device].add(n)
                self.published += 1

    def _payload(self, device: str, n: int, noise: random.Random) -> str:
        temperature = 20 + 2 * math.sin(n / 40) + noise.gauss(0, 0.05)
        if device == self.anomaly_on:
            temperature += 60
        ts = CLOCK.wall_ns() // 1_000_000
        return json.dumps({"ts": ts, "temp": round(temperature, 2), "hum": round(45 + noise.gauss(0, 1), 1), "n": n})


class _Frame(NamedTuple):
    """Readings on their way: their numbers, and the device's own clock at the last of them."""

    sequence: int
    numbers: range
    ticks_ms: int


class SerialDevice:
    """A device on a pty: CBOR in COBS frames with CRC, each kept until the gateway's ACK, as the firmware does."""

    def __init__(self, *, link: Path, per_second: float) -> None:
        self.acknowledged: set[int] = set()
        self.name = "boiler"
        self._per_second = per_second
        self._stop = threading.Event()
        self._talking = threading.Event()
        self._quiet = threading.Event()
        self._near, far = os.openpty()
        tty.setraw(far, termios.TCSANOW)
        os.set_blocking(self._near, False)
        self._far = far  # kept open: a pty whose far end closes would hang up on the gateway
        link.symlink_to(os.ttyname(far))
        self._session = random.getrandbits(32)
        self._unacknowledged: deque[_Frame] = deque()
        self._thread = threading.Thread(target=self._run, name="boiler", daemon=True)

    def start(self) -> None:
        """Begin to talk."""
        self._talking.set()
        self._thread.start()

    def pause(self, *, wait_s: float) -> int:
        """Measure no more for now, wait for what is on the way; return how many readings are not acknowledged."""
        deadline = time.monotonic() + wait_s
        self._quiet.clear()
        self._talking.clear()
        self._quiet.wait(wait_s)
        while self.unacknowledged and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.unacknowledged

    def resume(self) -> None:
        """Measure again."""
        self._talking.set()

    @property
    def unacknowledged(self) -> int:
        """How many readings are on the way."""
        return sum(len(frame.numbers) for frame in self._unacknowledged.copy())

    def stop(self) -> None:
        """Fall silent for good and unplug the line."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if not self._thread.is_alive():
            os.close(self._near)
            os.close(self._far)

    def _run(self) -> None:
        reader = FrameReader(FRAME_BYTES_MAX)
        sequence = n = 0
        began_s = measured_s = sent_s = time.monotonic()
        while not self._stop.is_set():
            now_s = time.monotonic()
            if not self._talking.is_set():
                self._quiet.set()
            elif now_s - measured_s >= SAMPLES_PER_FRAME / self._per_second:
                measured_s = now_s
                numbers = range(n, n + SAMPLES_PER_FRAME)
                n += SAMPLES_PER_FRAME
                self._unacknowledged.append(_Frame(sequence, numbers, int((now_s - began_s) * 1000)))
                sequence = (sequence + 1) % 65536
            # One frame at a time, sent again until its ACK comes: what the firmware does with a window of one.
            if self._unacknowledged and now_s - sent_s > RESEND_S:
                sent_s = now_s
                self._send(self._unacknowledged[0], ticks_ms=int((now_s - began_s) * 1000))
            if select.select([self._near], [], [], 0.02)[0]:
                for body in reader.feed(os.read(self._near, 4096)):
                    message = read_message(body)
                    if isinstance(message, Ack) and self._unacknowledged:
                        if message.sequence == self._unacknowledged[0].sequence:
                            self.acknowledged.update(self._unacknowledged.popleft().numbers)
                        sent_s = 0.0

    def _send(self, frame: _Frame, *, ticks_ms: int) -> None:
        step_ms = 1000 / self._per_second
        last = frame.numbers[-1]
        payload = cbor2.dumps(
            {
                "now": ticks_ms,
                "t": [max(0, frame.ticks_ms - round((last - n) * step_ms)) for n in frame.numbers],
                "pressure": [round(1.4 + 0.1 * math.sin(n / 50), 3) for n in frame.numbers],
                "n": list(frame.numbers),
            }
        )
        data = encode_data(payload, session=self._session, sequence=frame.sequence, topic=self.name.encode())
        # What does not fit the line is cut off; the gateway drops half a frame, and it is sent again.
        with contextlib.suppress(BlockingIOError):
            os.write(self._near, data)
