"""How a serial port is named and set; what of it can be known without looking for one. Must not do I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

USB_PREFIX: Final = "usb:"
USB_SHAPE: Final = '"usb:VID:PID" or "usb:VID:PID:SERIAL", with VID and PID in hexadecimal, like "usb:2e8a:0005"'


@dataclass(frozen=True, slots=True)
class PortOptions:
    """How a line is set; the words of the settings."""

    baud: int
    parity: str
    stopbits: int
    bytesize: int
    rtscts: bool
    xonxoff: bool


def check_name(port: str) -> None:
    """Raise ValueError for a name that can never be found."""
    if port.startswith(USB_PREFIX):
        parse_usb(port)
    elif not port.startswith("/"):
        raise ValueError(
            f'{port!r} is neither a path like "/dev/serial/by-id/usb-…" nor {USB_SHAPE}; '
            "`ls -l /dev/serial/by-id` shows what is there"
        )


def parse_usb(port: str) -> tuple[int, int, str]:
    """Return the vendor, the product and the serial number, which may be empty; raise ValueError."""
    parts = port.removeprefix(USB_PREFIX).split(":", 2)
    try:
        vendor, product = (int(part, 16) for part in parts[:2])
    except ValueError:
        raise ValueError(f"port {port!r} is not {USB_SHAPE}") from None
    return vendor, product, parts[2] if len(parts) > 2 else ""
