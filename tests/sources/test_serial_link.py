"""An open port on the event loop: buffers in, answers out, one end."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from gateway.sources import serial_link, serial_port
from gateway.sources.serial_link import UNSENT_BYTES_MAX, SerialLink
from gateway.sources.serial_names import PortOptions
from gateway.sources.serial_port import open_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OPTIONS = PortOptions(baud=115_200, parity="none", stopbits=1, bytesize=8, rtscts=False, xonxoff=False)
DEADLINE_S = 60.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; fail after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.002)


class Ends:
    """A link on a bare pty, whose other end is in the test's hand."""

    def __init__(self, folder: Path) -> None:
        self.master, self._slave = os.openpty()
        os.set_blocking(self.master, False)
        self.read: list[bytes] = []
        self.gone: list[str] = []
        port = open_port(os.ttyname(self._slave), OPTIONS)
        self.link = SerialLink(port, on_data=self.read.append, on_gone=self.gone.append)

    def vanish(self) -> None:
        """Unplug it."""
        if self.master >= 0:
            os.close(self.master)
            os.close(self._slave)
            self.master = -1

    def drain(self) -> bytes:
        """Read all that the link wrote."""
        try:
            return os.read(self.master, 1 << 16)
        except BlockingIOError:
            return b""


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    """Give a link that is closed at the end."""
    made = Ends(tmp_path)
    yield made
    await made.link.close()
    made.vanish()


async def test_it_reads_only_from_resume_to_pause(ends: Ends) -> None:
    """Both may be said twice."""
    os.write(ends.master, b"early")
    await asyncio.sleep(0.01)
    assert ends.read == []
    ends.link.resume()
    ends.link.resume()
    await until(lambda: b"".join(ends.read) == b"early")
    ends.link.pause()
    ends.link.pause()
    os.write(ends.master, b"late")
    await asyncio.sleep(0.01)
    assert b"".join(ends.read) == b"early"


async def test_a_wake_up_without_bytes_is_no_hang_up(ends: Ends) -> None:
    """Somebody flushed the buffer between the event and the read."""
    ends.link._read()
    assert ends.gone == []


async def test_an_unplugged_port_is_told_once_and_not_used_again(ends: Ends) -> None:
    """No reading, no writing, no second word."""
    ends.link.resume()
    ends.vanish()
    await until(lambda: ends.gone)
    ends.link.resume()
    assert not ends.link.is_reading
    assert not ends.link.send(b"hello")
    ends.link.give_up("again")
    assert len(ends.gone) == 1
    assert "is gone" in ends.gone[0]


async def test_a_write_to_an_unplugged_port_tells_too(ends: Ends) -> None:
    """Even where nothing is being read."""
    ends.vanish()
    ends.link.send(b"hello")
    assert "is gone" in ends.gone[0]


async def test_a_read_that_fails_tells_why(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that reports an error instead of an end."""

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(serial_link.os, "read", fail)
    ends.link._read()
    monkeypatch.undo()
    assert ends.gone[0].endswith("is gone: Input/output error")


async def test_what_the_port_does_not_take_now_it_is_given_later_up_to_a_bound(ends: Ends) -> None:
    """Everything that was promised arrives, in order; past the bound nothing is promised."""
    promised = b""
    number = 0
    while ends.link.send(piece := b"%06d" % number * 100):
        promised += piece
        number += 1
        assert len(promised) < 1 << 20
    assert len(ends.link._unsent) <= UNSENT_BYTES_MAX + 600
    received = b""

    def all_there() -> bool:
        nonlocal received
        received += ends.drain()
        return len(received) >= len(promised)

    await until(all_there)
    assert received == promised
    assert ends.link.send(b"more")


async def test_what_waits_to_be_written_when_it_is_given_up_is_not_waited_for(ends: Ends) -> None:
    """The event loop must not look at a port that is about to be closed, whose number is soon another's."""
    while ends.link.send(b"x" * 4096):
        pass
    ends.link.give_up("it leads elsewhere now")
    assert ends.gone == ["it leads elsewhere now"]
    assert not ends.link._unsent
    assert not asyncio.get_running_loop().remove_writer(ends.link.port.fd)


async def test_a_port_that_is_left_open_and_not_taken_up_is_closed_after_a_while(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives at it would be heard by nobody, and another program could not have it."""
    monkeypatch.setattr(serial_link, "LEFT_OPEN_S", 0.05)
    ends.link.leave_open(rest=b"")
    assert ends.link.port.handle.is_open
    await until(lambda: not ends.link.port.handle.is_open)


async def test_drain_waits_until_all_is_out_but_not_for_ever(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that does not read must not hold up the stop."""
    while ends.link.send(b"x" * 4096):
        pass
    await ends.link.drain(within_s=0.02)
    assert ends.link._unsent
    draining = asyncio.create_task(ends.link.drain(within_s=DEADLINE_S))
    await until(lambda: ends.drain() == b"" and draining.done())
    assert not ends.link._unsent
    unsent = iter([5, 0])
    monkeypatch.setattr(serial_port, "unsent_bytes", lambda _: next(unsent))
    await ends.link.drain(within_s=DEADLINE_S)
    assert next(unsent, None) is None
