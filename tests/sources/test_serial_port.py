"""Ports are found by path, pattern and USB ids, and a port that does not open says in a sentence why."""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from serial.tools import list_ports

from gateway.sources import serial_port
from gateway.sources.serial_names import PortOptions
from gateway.sources.serial_port import PortError, find, open_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from hil.serial_lines import SerialLine

OPTIONS = PortOptions(baud=9600, parity="none", stopbits=2, bytesize=8, rtscts=False, xonxoff=False)


def usb(device: str, vid: int | None, pid: int | None, serial_number: str | None) -> SimpleNamespace:
    """Make what pyserial says of a port."""
    return SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=serial_number)


PORTS = [
    usb("/dev/ttyS0", None, None, None),
    usb("/dev/ttyACM1", 0x2E8A, 0x0005, "E6614103"),
    usb("/dev/ttyACM0", 0x2E8A, 0x0005, None),
    usb("/dev/ttyUSB0", 0x0403, 0x6001, "A9"),
]


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("usb:2e8a:0005", ["/dev/ttyACM0", "/dev/ttyACM1"]),
        ("usb:2E8A:5:e6614103", ["/dev/ttyACM1"]),
        ("usb:0403:6001", ["/dev/ttyUSB0"]),
        ("usb:0403:6001:other", []),
    ],
)
def test_usb_ids_pick_devices(name: str, devices: list[str]) -> None:
    """In hexadecimal, the serial number in any case."""
    assert serial_port.pick_usb(name, PORTS) == devices


def test_usb_ids_are_looked_up_among_the_ports_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By pyserial; one that is there is found, none or two say so."""
    device = tmp_path / "ttyACM0"
    device.touch()
    monkeypatch.setattr(list_ports, "comports", lambda: [usb(str(device), 1, 2, "x")])
    assert find("usb:1:2") == str(device)
    with pytest.raises(PortError, match="usb:1:3 is not there") as caught:
        find("usb:1:3")
    assert caught.value.is_missing
    monkeypatch.setattr(list_ports, "comports", lambda: [usb("/a", 1, 2, "x"), usb("/b", 1, 2, "y")])
    with pytest.raises(PortError, match=r"could be /a or /b; name one .*by-path where both have the same id") as caught:
        find("usb:1:2")
    assert not caught.value.is_missing


def test_a_pattern_finds_one_port(tmp_path: Path) -> None:
    """Two names of the same device are one; two devices are not guessed between."""
    (tmp_path / "ttyUSB0").touch()
    assert find(f"{tmp_path}/ttyUSB*") == f"{tmp_path}/ttyUSB0"
    (tmp_path / "ttyUSB-link").symlink_to(tmp_path / "ttyUSB0")
    assert find(f"{tmp_path}/ttyUSB*") == f"{tmp_path}/ttyUSB-link"
    (tmp_path / "ttyUSB1").touch()
    with pytest.raises(PortError, match="could be"):
        find(f"{tmp_path}/ttyUSB*")
    with pytest.raises(PortError, match="is not there"):
        find(f"{tmp_path}/ttyACM*")


def test_a_port_in_a_folder_that_is_not_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is there cannot be said; what would help can."""

    def forbid(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbid)
    with pytest.raises(PortError, match=r"see whether /locked/tty is there; .* into each folder above it") as caught:
        find("/locked/tty")
    assert not caught.value.is_missing


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "no"), "into the group dialout, like `sudo usermod -aG dialout"),
        (OSError(errno.EBUSY, "busy"), "is in use by another program"),
        (OSError(errno.EAGAIN, "locked"), "is in use by another program"),
        (OSError(errno.ENOENT, "none"), "is not there; waiting"),
        (OSError(errno.EISDIR, "folder"), "is not a serial port"),
        (termios.error(25, "Inappropriate ioctl for device"), "is not a serial port"),
        (OSError(errno.EIO, "Input/output error"), "cannot be opened: .*Input/output error"),
        (ValueError("Invalid baud rate: 1"), "does not take these settings, .*Invalid baud rate"),
        (termios.error(22, "Invalid argument"), "does not take these settings, check baud, parity"),
    ],
)
def test_every_failure_says_what_to_do(error: Exception, sentence: str) -> None:
    """One sentence a person can act on."""
    with pytest.raises(PortError, match=sentence):
        raise PortError(serial_port.explain(error, "/dev/none"))


def test_permission_names_the_group_that_the_port_belongs_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dialout on Debian, another one elsewhere; never root's own."""
    port = tmp_path / "tty"
    port.touch()
    monkeypatch.setattr(serial_port.grp, "getgrgid", lambda _: SimpleNamespace(gr_name="uucp"))
    assert "group uucp" in serial_port.explain(PermissionError(errno.EACCES, "no"), str(port))
    monkeypatch.setattr(serial_port.grp, "getgrgid", lambda _: SimpleNamespace(gr_name="root"))
    assert "group dialout" in serial_port.explain(PermissionError(errno.EACCES, "no"), str(port))


def test_a_port_is_opened_raw_and_locked(serial_line: SerialLine) -> None:
    """With the line's settings, without waiting; a second one finds it in use until it is closed."""
    port = open_port(str(serial_line.path), OPTIONS)
    attributes = termios.tcgetattr(port.fd)
    assert attributes[2] & termios.CSTOPB
    assert attributes[4] == termios.B9600
    assert not attributes[3] & (termios.ICANON | termios.ECHO)
    with pytest.raises(BlockingIOError):
        os.read(port.fd, 1)
    with pytest.raises(PortError, match="in use"):
        open_port(str(serial_line.path), OPTIONS)
    serial_port.close_port(port)
    serial_port.close_port(open_port(str(serial_line.path), OPTIONS))


def test_what_is_no_port_is_refused(tmp_path: Path) -> None:
    """A file, a folder, nothing."""
    (tmp_path / "file").touch()
    for name in ("file", "."):
        with pytest.raises(PortError, match="is not a serial port"):
            open_port(str(tmp_path / name), OPTIONS)
    with pytest.raises(PortError, match="is not there") as caught:
        open_port(str(tmp_path / "none"), OPTIONS)
    assert caught.value.is_missing


def test_a_link_that_vanishes_between_look_and_open_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for again soon, as if it had not been seen."""
    monkeypatch.setattr(serial_port, "find", lambda port: port)
    with pytest.raises(PortError) as caught:
        open_port(str(tmp_path / "none"), OPTIONS)
    assert caught.value.is_missing


def test_a_vanished_port_can_be_closed(serial_line: SerialLine) -> None:
    """Whatever the kernel says to it; twice too."""
    port = open_port(str(serial_line.path), OPTIONS)
    serial_line.unplug()
    serial_port.close_port(port)
    serial_port.close_port(port)


def test_closing_throws_away_only_what_is_still_unsent(
    serial_line: SerialLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would wait for it; what has left is not touched."""
    flushed: list[int] = []
    monkeypatch.setattr(serial_port.termios, "tcflush", lambda _, queue: flushed.append(queue))
    for unsent, wanted in ((0, []), (5, [termios.TCOFLUSH])):
        port = open_port(str(serial_line.path), OPTIONS)
        flushed.clear()
        monkeypatch.setattr(serial_port, "unsent_bytes", lambda _, unsent=unsent: unsent)
        serial_port.close_port(port)
        assert flushed == wanted


def test_a_port_that_is_left_open_hears_what_comes_meanwhile(
    serial_line: SerialLine, make_serial_line: Callable[..., SerialLine]
) -> None:
    """Who opens it next as it is set takes it up, with what was read of it; else it is closed, now or later."""
    name = str(serial_line.path)
    port = open_port(name, OPTIONS)
    serial_port.leave_open(port, rest=b"half")
    again = open_port(name, OPTIONS)
    assert again is port
    assert again.rest == b"half"
    serial_port.close_left_open(port)
    assert os.fstat(port.fd)
    serial_port.leave_open(port, rest=b"")
    other = open_port(name, dataclasses.replace(OPTIONS, baud=19_200))
    assert other is not port
    assert not port.handle.is_open
    serial_port.leave_open(other, rest=b"")
    serial_line.path.unlink()
    serial_line.path.symlink_to(make_serial_line(name="other").path.readlink())
    third = open_port(name, other.options)
    assert third is not other
    assert not other.handle.is_open
    serial_port.leave_open(third, rest=b"")
    serial_port.close_left_open(third)
    assert not third.handle.is_open
    serial_port.close_left_open(third)


def test_what_was_left_open_is_taken_up_under_another_name(serial_line: SerialLine) -> None:
    """A reload may have changed how the port is called: under its old name it is still locked."""
    port = open_port(str(serial_line.path), OPTIONS)
    serial_port.leave_open(port, rest=b"")
    name = str(serial_line.path.readlink())
    assert open_port(name, OPTIONS) is port
    assert port.path == name
    serial_port.leave_open(port, rest=b"")
    other = open_port(str(serial_line.path), dataclasses.replace(OPTIONS, baud=19_200))
    assert not port.handle.is_open
    serial_port.close_port(other)


def test_a_link_that_leads_elsewhere_has_moved(
    serial_line: SerialLine, make_serial_line: Callable[..., SerialLine]
) -> None:
    """The same device has not, nor has one whose link is gone, nor one found by USB ids."""
    name = str(serial_line.path)
    port = open_port(name, OPTIONS)
    assert not serial_port.has_moved(name, port)
    assert not serial_port.has_moved("usb:1:2", port)
    serial_line.path.unlink()
    assert not serial_port.has_moved(name, port)
    serial_line.path.symlink_to(make_serial_line(name="other").path.readlink())
    assert serial_port.has_moved(name, port)
    serial_port.close_port(port)


def test_the_driver_is_asked_for_lost_bytes(serial_line: SerialLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named counts of what is not 0; a driver that keeps none, as a pty's, says nothing."""
    port = open_port(str(serial_line.path), OPTIONS)
    assert serial_port.line_errors(port) == {}
    counters = struct.pack("20i", *range(6), 3, 4, 0, 1, 2, *[0] * 9)
    monkeypatch.setattr(serial_port.fcntl, "ioctl", lambda *_: counters)
    assert serial_port.line_errors(port) == {"frame": 3, "overrun": 4, "break": 1, "buffer_overrun": 2}
    monkeypatch.undo()
    assert serial_port.unsent_bytes(port) == 0
    serial_port.close_port(port)


def test_what_cannot_say_how_much_is_unsent_has_sent_all(tmp_path: Path) -> None:
    """A stop does not wait for it."""
    with (tmp_path / "file").open("wb") as file:
        assert serial_port.unsent_bytes(serial_port.Port("x", file.fileno(), None, OPTIONS)) == 0
