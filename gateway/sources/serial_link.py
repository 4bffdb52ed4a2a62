"""An open serial port on the event loop: buffers in, answers out, bounded. Must not know framing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from gateway.core.timeouts import timeout
from gateway.sources import serial_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.sources.serial_port import Port

READ_BYTES: Final = 65_536
# What the device does not read is dropped past this: it sends again, and is answered again.
UNSENT_BYTES_MAX: Final = 16_384
DRAIN_CHECK_S: Final = 0.01
# A reload on a slow card and a slow road takes so long at most. Who is not there by then does not come.
LEFT_OPEN_S: Final = 60.0


class SerialLink:
    """Reads `port` whenever it has something, from `resume` on. `on_gone` is called once, with a sentence.

    After `on_gone` nothing is read or written any more; `close` is still to be called.
    """

    def __init__(self, port: Port, *, on_data: Callable[[bytes], None], on_gone: Callable[[str], None]) -> None:
        self.port = port
        self.is_reading = False
        self._on_data = on_data
        self._on_gone = on_gone
        self.is_gone = False
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()

    def pause(self) -> None:
        """Read no more; what comes waits in the kernel."""
        if self.is_reading:
            self._loop.remove_reader(self.port.fd)
            self.is_reading = False

    def resume(self) -> None:
        """Read on."""
        if not self.is_reading and not self.is_gone:
            self._loop.add_reader(self.port.fd, self._read)
            self.is_reading = True

    def send(self, data: bytes) -> bool:
        """Write `data` as soon as the port takes it; return False where it was dropped instead."""
        if self.is_gone or len(self._unsent) > UNSENT_BYTES_MAX:
            return False
        was_empty = not self._unsent
        self._unsent += data
        if was_empty:
            self._write()
        return True

    def give_up(self, why: str) -> None:
        """End it from this side, as if the port had gone."""
        if not self.is_gone:
            self.is_gone = True
            self.pause()
            self._loop.remove_writer(self.port.fd)
            self._unsent.clear()
            self._on_gone(why)

    async def drain(self, *, within_s: float) -> None:
        """Wait until everything has left, as far as the driver can tell, or for `within_s`."""
        with contextlib.suppress(TimeoutError):
            async with timeout(within_s):
                while self._unsent or serial_port.unsent_bytes(self.port):  # noqa: ASYNC110  the kernel has no event for it
                    await asyncio.sleep(DRAIN_CHECK_S)

    async def close(self) -> None:
        """Let go of the port."""
        self._let_go()
        await asyncio.to_thread(serial_port.close_port, self.port)

    def leave_open(self, *, rest: bytes) -> None:
        """Let go of the port without closing it, for who comes next in this process; `rest` was read and is not cut."""
        self._let_go()
        serial_port.leave_open(self.port, rest=rest)
        self._loop.call_later(LEFT_OPEN_S, serial_port.close_left_open, self.port)

    def _let_go(self) -> None:
        self.is_gone = True
        self.pause()
        self._loop.remove_writer(self.port.fd)

    def _read(self) -> None:
        try:
            data = os.read(self.port.fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.give_up(f"{self.port.path} is gone: {error.strerror}")
            return
        if data:
            self._on_data(data)
        else:
            self.give_up(f"{self.port.path} is gone: it was unplugged")

    def _write(self) -> None:
        try:
            del self._unsent[: os.write(self.port.fd, self._unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            self.give_up(f"{self.port.path} is gone: {error.strerror}")
            return
        if self._unsent:
            self._loop.add_writer(self.port.fd, self._write)
        else:
            self._loop.remove_writer(self.port.fd)
