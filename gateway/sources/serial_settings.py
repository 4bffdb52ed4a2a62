"""How a serial line is set. Must not open a port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, check
from gateway.core.units import Duration, Size
from gateway.sources.serial_names import PortOptions, check_name

if TYPE_CHECKING:
    from gateway.codecs.framing import Reader

REOPEN_S_MAX: Final = 30.0
FRAME_BYTES_MIN: Final = 16
FRAME_BYTES_CEILING: Final = 1 << 20


class SerialSettings(
    Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="serial"
):
    """A serial line: a UART, a USB adapter, or a board that is one itself."""

    name: Annotated[str, Meta(description="Its name; also the topic of what it brings.")]
    port: Annotated[
        str,
        Meta(
            description="A path, best one of /dev/serial/by-id; a pattern with * that fits one port; "
            "or usb:VID:PID[:SERIAL]."
        ),
    ]
    baud: Annotated[int, Meta(description="Bits per second.", ge=50, le=12_000_000)] = 115_200
    parity: Annotated[Literal["none", "even", "odd", "mark", "space"], Meta(description="The parity bit.")] = "none"
    stopbits: Annotated[Literal[1, 2], Meta(description="Stop bits.")] = 1
    bytesize: Annotated[Literal[5, 6, 7, 8], Meta(description="Data bits; cobs needs 8.")] = 8
    rtscts: Annotated[bool, Meta(description="Flow control by the RTS and CTS wires.")] = False
    xonxoff: Annotated[bool, Meta(description="Flow control by XON and XOFF bytes; lines only.")] = False
    framing: Annotated[
        Literal["cobs", "lines"],
        Meta(description="cobs: frames with CRC, acknowledged when kept. lines: text that ends in LF."),
    ] = "cobs"
    payload: Annotated[
        Literal["json", "cbor", "text", "csv", "auto"] | None,
        Meta(description="What the payloads are, where no mapping matches this line's topics."),
    ] = None
    frame_bytes_max: Annotated[
        Size, Meta(description="The longest frame or line on the wire; longer ones are dropped and counted.")
    ] = Size(4096)
    pending_max: Annotated[Size, Meta(description="What may be read and not yet on disk before reading stops.")] = Size(
        256 * 1024
    )
    reopen_delay: Annotated[
        Duration,
        Meta(description="How long to wait for a port that is gone; grows to 30 s if it cannot be opened."),
    ] = Duration(1)

    @check("name")
    def _name_can_stand_in_topics(self) -> None:
        if not self.name or any(character in self.name for character in "/+#\0"):
            raise ValueError(f"the name {self.name!r} stands in topics: not empty, and no /, + or #")

    @check("port")
    def _port_can_be_found(self) -> None:
        check_name(self.port)

    @check("framing", "bytesize", "xonxoff")
    def _frames_have_all_bytes(self) -> None:
        if self.framing == "cobs" and (self.bytesize != 8 or self.xonxoff):
            raise ValueError('framing "cobs" uses every byte value: bytesize = 8 and xonxoff = false go with it')

    @check("frame_bytes_max")
    def _frames_are_bounded(self) -> None:
        if not FRAME_BYTES_MIN <= self.frame_bytes_max <= FRAME_BYTES_CEILING:
            raise ValueError('must be from "16B" to "1MiB"')

    @check("pending_max", "frame_bytes_max")
    def _frames_have_room(self) -> None:
        if self.pending_max < self.frame_bytes_max:
            raise ValueError(f"is {self.pending_max}; it must hold one frame ({self.frame_bytes_max})")

    @check("reopen_delay")
    def _reopens_soon(self) -> None:
        if not 0 < self.reopen_delay <= REOPEN_S_MAX:
            raise ValueError('must be more than "0s" and at most "30s"')

    @property
    def options(self) -> PortOptions:
        """How the port is to be set."""
        return PortOptions(self.baud, self.parity, self.stopbits, self.bytesize, self.rtscts, self.xonxoff)

    def reader(self) -> Reader:
        """Return a new reader for this line."""
        from gateway.codecs.framing import FrameReader, LineReader  # noqa: PLC0415  only where there is a line

        if self.framing == "cobs":
            return FrameReader(self.frame_bytes_max)
        return LineReader(self.frame_bytes_max)
