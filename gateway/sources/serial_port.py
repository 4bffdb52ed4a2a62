"""Finds, opens and closes serial ports, and says why one cannot be opened. Must not know framing.

Everything here may block for a while (a driver that hangs, a scan of all USB devices): call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import grp
import os
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.sources.serial_names import USB_PREFIX, parse_usb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.sources.serial_names import PortOptions

PSEUDO_PREFIX: Final = "/dev/pts/"

# linux/serial.h: struct serial_icounter_struct is cts, dsr, rng, dcd, rx, tx, frame, overrun, parity, brk,
# buf_overrun and nine reserved, all int.
TIOCGICOUNT: Final = 0x545D
_COUNTERS: Final = struct.Struct("20i")
_LINE_ERRORS: Final = {"frame": 6, "overrun": 7, "parity": 8, "break": 9, "buffer_overrun": 10}


class PortError(OSError):
    """The port cannot be used now; the message is a sentence that says what would help.

    `is_missing` is true where nothing is there yet and looking again costs nothing.
    """

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


@dataclass(slots=True)
class Port:
    """An open port: `fd` is non-blocking, raw, and locked against other programs that ask (flock).

    `rest` is what was read of it by who left it open, and was not yet a whole message. Where it `goes_on`, what is read
    first belongs to that, or begins a message; elsewhere it may be the end of one.
    """

    path: str
    fd: int
    handle: Any
    options: PortOptions
    rest: bytes = b""
    goes_on: bool = False


# Ports that were left open for who comes next in this process, by their paths.
_left_open: dict[str, Port] = {}


def find(port: str) -> str:
    """Return the path of the one device that `port` names; raise PortError for none, or several."""
    if port.startswith(USB_PREFIX):
        found = _find_usb(port)
    elif glob.has_magic(port):
        found = sorted(glob.glob(port))  # noqa: PTH207  an absolute pattern, which Path.glob refuses
    else:
        try:
            found = [port] if Path(port).exists() else []
        except PermissionError as error:
            raise PortError(
                f"no permission to see whether {port} is there; let the gateway's user into each folder above it"
            ) from error
    if not found:
        raise PortError(f"{port} is not there; waiting for it to be plugged in", is_missing=True)
    if len({os.path.realpath(path) for path in found}) > 1:
        raise PortError(
            f"{port} could be {' or '.join(found)}; name one of them, best by its path in /dev/serial/by-id, "
            "or in /dev/serial/by-path where both have the same id"
        )
    return found[0]


def open_port(port: str, options: PortOptions) -> Port:
    """Find and open, or take up what was left open; raise PortError."""
    import serial  # noqa: PLC0415  only a gateway with a serial line pays for pyserial

    path = find(port)
    for left in [left for left in _left_open.values() if left.path == path or _is_same(path, left)]:
        del _left_open[left.path]
        if left.options == options and not has_moved(port, left):
            # It may have another name by now.
            left.path = path
            return left
        close_port(left)
    handle = serial.Serial(
        baudrate=options.baud,
        parity=options.parity[0].upper(),
        stopbits=options.stopbits,
        bytesize=options.bytesize,
        rtscts=options.rtscts,
        xonxoff=options.xonxoff,
        timeout=0,
        write_timeout=0,
        # Asks for VMIN = 1: with 0 an empty read and a hang-up would look the same.
        inter_byte_timeout=0,
        exclusive=True,
    )
    handle.port = path
    try:
        handle.open()
    except (OSError, ValueError, termios.error) as error:
        # pyserial reports with its own OSError, ValueError for a baud rate, and termios.error unwrapped.
        raise PortError(explain(error, path), is_missing=_number(error) == errno.ENOENT) from error
    return Port(path, handle.fileno(), handle, options, goes_on=_is_pseudo(path))


def _is_pseudo(path: str) -> bool:
    """Whether it is no wire but a pseudo-terminal, into which some program writes whole lines."""
    return os.path.realpath(path).startswith(PSEUDO_PREFIX)


def close_port(port: Port) -> None:
    """Close; what is still unsent is thrown away, since the kernel would wait half a minute for it."""
    _forget_unsent(port)
    with contextlib.suppress(OSError, termios.error):
        port.handle.close()


def leave_open(port: Port, *, rest: bytes) -> None:
    """Leave it to who opens it next in this process: what arrives meanwhile waits in the kernel.

    A port that is closed hears nothing, and what has no acknowledgement is sent once. At the end of the process the
    kernel closes it.
    """
    _forget_unsent(port)
    port.rest, port.goes_on = rest, True
    _left_open[port.path] = port


def close_left_open(port: Port) -> None:
    """Close what `leave_open` has left, unless somebody has taken it up."""
    if _left_open.get(port.path) is port:
        close_port(_left_open.pop(port.path))


def _forget_unsent(port: Port) -> None:
    # Only then: flushing a pty takes away what the far end has not read yet.
    if unsent_bytes(port):
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(port.fd, termios.TCOFLUSH)


def has_moved(port: str, open_port: Port) -> bool:
    """Whether `port` now names another device than the one that is open: a link was pointed elsewhere."""
    if port.startswith(USB_PREFIX):
        return False  # a scan is dear, and a device whose ids change has been unplugged
    try:
        return os.stat(find(port)).st_rdev != os.fstat(open_port.fd).st_rdev  # noqa: PTH116  beside fstat
    except OSError:
        # Nothing better to go to; whether the open one still lives shows when it is read.
        return False


def _is_same(path: str, open_port: Port) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(path).st_rdev == os.fstat(open_port.fd).st_rdev  # noqa: PTH116  beside fstat
    return False


def unsent_bytes(port: Port) -> int:
    """Return what the kernel has still to send; 0 where it cannot say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(port.fd, termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


def line_errors(port: Port) -> dict[str, int]:
    """Return the driver's counts of bytes that were lost or damaged before anyone could read them.

    Empty where the driver keeps none, and without those that are 0.
    """
    try:
        counters = _COUNTERS.unpack(fcntl.ioctl(port.fd, TIOCGICOUNT, bytes(_COUNTERS.size)))
    except OSError:
        return {}
    return {name: counters[index] for name, index in _LINE_ERRORS.items() if counters[index]}


def explain(error: Exception, path: str) -> str:
    """Return a sentence that says why `path` could not be opened, and what to do."""
    number = _number(error)
    if number in {errno.EACCES, errno.EPERM}:
        group = _group_of(path)
        return (
            f"no permission to open {path}; let the gateway's user into the group {group}, like "
            f"`sudo usermod -aG {group} tidegate`, and start it again"
        )
    if number in {errno.EAGAIN, errno.EBUSY}:
        return f"{path} is in use by another program, or by another source here; `fuser -v {path}` names it"
    if number == errno.ENOENT:
        return f"{path} is not there; waiting for it to be plugged in"
    if number in {errno.ENOTTY, errno.EISDIR} or "Inappropriate ioctl" in str(error):
        return f"{path} is not a serial port; `ls -l /dev/serial/by-id` shows what is there"
    if number == errno.EINVAL or isinstance(error, ValueError):
        return f"{path} does not take these settings, check baud, parity, stopbits and bytesize ({error})"
    return f"{path} cannot be opened: {error}"


def _number(error: Exception) -> int | None:
    # A termios.error has its number as the first argument only.
    number = error.args[0] if isinstance(error, termios.error) else getattr(error, "errno", None)
    return number if isinstance(number, int) else None


def _group_of(path: str) -> str:
    """Return the group that may open `path`: dialout on Debian, uucp elsewhere."""
    try:
        name = grp.getgrgid(Path(path).stat().st_gid).gr_name
    except (OSError, KeyError):
        return "dialout"
    return "dialout" if name == "root" else name


def _find_usb(port: str) -> list[str]:
    from serial.tools import list_ports  # noqa: PLC0415  only where ports are named by USB ids

    return pick_usb(port, list_ports.comports())


def pick_usb(port: str, infos: Iterable[Any]) -> list[str]:
    """Return the devices among pyserial's `infos` that have the ids of `port`."""
    vendor, product, serial_number = parse_usb(port)
    return sorted(
        info.device
        for info in infos
        if info.vid == vendor
        and info.pid == product
        and (not serial_number or (info.serial_number or "").lower() == serial_number.lower())
    )
