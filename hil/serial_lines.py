"""A virtual serial line on two ptys: plug, unplug, drop, garble, delay. Must not know any framing.

    device end  ⇄  pty  ⇄  pump thread (faults)  ⇄  pty  ⇄  host end, what a gateway opens

Both ends are paths. A test may play the device itself through `write` and `read`, or let a program open
`device_path`. Like a USB adapter's, the host's path is a link that vanishes on unplug and points to another
device after a replug; whoever had it open gets the kernel's hang-up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import threading
import time
import tty
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

CHUNK_BYTES: Final = 4096
# What waits in the line for a reader that does not come; past it bytes are lost as on a real UART.
WAITING_BYTES_MAX: Final = 1 << 20
# A line that takes no byte of the device for so long is a mistake of the rig's.
WRITE_S_MAX: Final = 10.0


@dataclass(slots=True)
class Way:
    """One direction: its faults, which may be changed at any time, and its counts.

    `drop` and `garble` are probabilities per byte; `drop_next` and `garble_next` are exact: that many of the
    next bytes. `delay_s` holds every chunk back; `bytes_per_s` is the baud rate over ten (0: no limit).
    """

    drop: float = 0.0
    garble: float = 0.0
    drop_next: int = 0
    garble_next: int = 0
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    passed: int = 0
    dropped: int = 0
    garbled: int = 0
    overrun: int = 0
    _waiting: deque[tuple[float, bytes]] = field(default_factory=deque, repr=False)
    _waiting_bytes: int = 0
    _free_at_s: float = 0.0

    def take(self, data: bytes, *, now_s: float, dice: random.Random) -> None:
        """Bytes have come in at one end: hurt them and queue them for the other."""
        data = self._hurt(data, dice)
        if self._waiting_bytes + len(data) > WAITING_BYTES_MAX:
            self.overrun += len(data)
            return
        self._waiting_bytes += len(data)
        # At a baud rate bytes come one after the other; chunks of a hundredth of a second are near enough.
        step = max(1, int(self.bytes_per_s / 100)) if self.bytes_per_s else max(1, len(data))
        for start in range(0, len(data), step):
            part = data[start : start + step]
            self._free_at_s = max(self._free_at_s, now_s)
            if self.bytes_per_s:
                self._free_at_s += len(part) / self.bytes_per_s
            self._waiting.append((self._free_at_s + self.delay_s, part))

    def due(self, now_s: float) -> bytes | None:
        """Return the next piece whose time has come."""
        if self._waiting and self._waiting[0][0] <= now_s:
            return self._waiting[0][1]
        return None

    def sent(self, count: int) -> None:
        """`count` bytes of what was due have gone out."""
        when_s, part = self._waiting.popleft()
        self.passed += count
        self._waiting_bytes -= count
        if count < len(part):
            self._waiting.appendleft((when_s, part[count:]))

    def next_due_s(self) -> float | None:
        """Return when the next piece is due."""
        return self._waiting[0][0] if self._waiting else None

    def forget(self) -> None:
        """Lose what is on its way, as an unplugged adapter does."""
        self.dropped += self._waiting_bytes
        self._waiting.clear()
        self._waiting_bytes = 0

    def _hurt(self, data: bytes, dice: random.Random) -> bytes:
        if self.drop_next:
            gone = min(self.drop_next, len(data))
            self.drop_next -= gone
            self.dropped += gone
            data = data[gone:]
        if not (self.drop or self.garble or self.garble_next):
            return data
        out = bytearray()
        for byte in data:
            if dice.random() < self.drop:
                self.dropped += 1
                continue
            hit = self.garble_next > 0 or dice.random() < self.garble
            self.garble_next -= self.garble_next > 0
            self.garbled += hit
            out.append(byte ^ (1 << dice.randrange(8)) if hit else byte)
        return bytes(out)


class _Pty:
    """A raw pty whose slave stays open here, so that its master never reports a hang-up of ours."""

    def __init__(self, link: Path) -> None:
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.link = link
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._slave))

    def close(self) -> None:
        self.link.unlink(missing_ok=True)
        os.close(self.master)
        os.close(self._slave)


class SerialLine:
    """A line between a device and a host. `to_host` and `to_device` are its two ways."""

    def __init__(self, folder: Path, *, name: str = "line", seed: int = 0) -> None:
        self.path = folder / f"tty-{name}"
        self.device_path = folder / f"tty-{name}-device"
        self.to_host = Way()
        self.to_device = Way()
        self._dice = random.Random(seed)
        self._lock = threading.RLock()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._stopping = False
        self._device = _Pty(self.device_path)
        # The test plays the device through the slave, exactly as a program would.
        # Nobody here waits in the kernel: where select promises too much, a test should fail and not hang.
        self._end = os.open(self.device_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._host: _Pty | None = None
        self.plug()
        self._thread = threading.Thread(target=self._pump, name=f"serial line {name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_plugged(self) -> bool:
        """Whether the host sees the adapter."""
        return self._host is not None

    def plug(self) -> None:
        """Make the adapter appear to the host; the link then points to a new pty."""
        with self._lock:
            if self._host is None:
                # What the device said to nobody is gone, also where the pump has not come to it yet.
                while data := _read(self._device.master):
                    self.to_host.dropped += len(data)
                self._host = _Pty(self.path)
        self._wake()

    def unplug(self) -> None:
        """Take the adapter away from the host: what was on its way is lost."""
        with self._lock:
            if self._host is not None:
                self._host.close()
                self._host = None
            self.to_host.forget()
            self.to_device.forget()
        self._wake()

    def replug(self) -> None:
        """Unplug and plug in again."""
        self.unplug()
        self.plug()

    def write(self, data: bytes) -> None:
        """Play the device: send `data` to the host. While unplugged it goes nowhere, as on a real wire.

        Raises TimeoutError where the line takes nothing more.
        """
        view = memoryview(data)
        while view:
            if not select.select([], [self._end], [], WRITE_S_MAX)[1]:
                raise TimeoutError(
                    f"the line took {len(data) - len(view)} of {len(data)} bytes, and none for {WRITE_S_MAX} s"
                )
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._end, view[:1024]) :]

    def read(self, bytes_max: int = CHUNK_BYTES, *, within_s: float = 20.0) -> bytes:
        """Play the device: return what the host sent, at least one byte, or b"" after `within_s`."""
        deadline_s = time.monotonic() + within_s
        while select.select([self._end], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            with contextlib.suppress(BlockingIOError):
                return os.read(self._end, bytes_max)
            if time.monotonic() >= deadline_s:
                break
        return b""

    def read_exactly(self, count: int, *, within_s: float = 20.0) -> bytes:
        """Play the device: return `count` bytes of what the host sent; raise TimeoutError."""
        deadline_s = time.monotonic() + within_s
        data = b""
        while len(data) < count:
            more = self.read(count - len(data), within_s=max(0.0, deadline_s - time.monotonic()))
            if not more:
                raise TimeoutError(f"{len(data)} of {count} bytes within {within_s} s: {data!r}")
            data += more
        return data

    def close(self) -> None:
        """End the pump and take both links away."""
        if self._stopping:
            return
        self._stopping = True
        self._wake()
        self._thread.join(5)
        self.unplug()
        os.close(self._end)
        self._device.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    def _pump(self) -> None:
        while not self._stopping:
            wait_s = 1.0
            with self._lock:
                host = self._host.master if self._host else None
                now_s = time.monotonic()
                writers = []
                for way, master in ((self.to_host, host), (self.to_device, self._device.master)):
                    when_s = way.next_due_s()
                    if when_s is None or master is None:
                        continue
                    if when_s <= now_s:
                        writers.append(master)
                    else:
                        wait_s = min(wait_s, when_s - now_s)
                readers = [self._wake_read, self._device.master, *([host] if host is not None else [])]
            with contextlib.suppress(OSError, ValueError):  # an unplug may close a pty while we wait on it
                readable, _, _ = select.select(readers, writers, [], wait_s)
                self._turn(set(readable))

    def _turn(self, readable: set[int]) -> None:
        if self._wake_read in readable:
            os.read(self._wake_read, CHUNK_BYTES)
        with self._lock:
            host = self._host.master if self._host else None
            now_s = time.monotonic()
            if self._device.master in readable:
                data = _read(self._device.master)
                if host is not None:
                    self.to_host.take(data, now_s=now_s, dice=self._dice)
                else:
                    self.to_host.dropped += len(data)
            if host is not None and host in readable:
                self.to_device.take(_read(host), now_s=now_s, dice=self._dice)
            if host is not None:
                _write(self.to_host, host, now_s)
            _write(self.to_device, self._device.master, now_s)


def _read(master: int) -> bytes:
    try:
        return os.read(master, CHUNK_BYTES)
    except OSError as error:
        if error.errno in {errno.EIO, errno.EAGAIN}:
            return b""
        raise


def _write(way: Way, master: int, now_s: float) -> None:
    while (part := way.due(now_s)) is not None:
        try:
            way.sent(os.write(master, part))
        except BlockingIOError:
            return
