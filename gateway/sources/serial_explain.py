"""What a serial line would make of bytes that someone shows it. Must not open a port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.codecs.framing import Data, Plain, decode_frame, read_message
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.sources.serial_settings import SerialSettings


def explain_bytes(settings: SerialSettings, data: bytes) -> Iterator[str | tuple[str, bytes]]:
    """Say what a line that carried `data` would have brought: (topic, payload), or a sentence.

    The delimiter at the end may be left out.
    """
    if settings.framing != "cobs":
        yield from _explain_lines(settings, data)
        return
    bound = f"frame_bytes_max is {settings.frame_bytes_max}"
    for number, block in enumerate((block for block in data.split(b"\0") if block), start=1):
        if len(block) > settings.frame_bytes_max:
            yield f"frame {number}: refused (overlong): {len(block)} bytes, {bound}"
            continue
        try:
            message = read_message(decode_frame(block))
        except MalformedError as error:
            yield f"frame {number}: refused ({error.reason}): {error}"
            continue
        if isinstance(message, Plain):
            yield settings.name, message.payload
        elif isinstance(message, Data):
            yield f"frame {number}: DATA, session {message.session:08x}, sequence {message.sequence}"
            topic = message.topic.decode(errors="replace")
            yield (f"{settings.name}/{topic}" if topic else settings.name), message.payload
        else:
            yield f"frame {number}: {message}, no payload"


def _explain_lines(settings: SerialSettings, data: bytes) -> Iterator[str | tuple[str, bytes]]:
    reader = settings.reader()
    for line in reader.feed(data if data.endswith(b"\n") else data + b"\n"):
        yield settings.name, line
    for reason, count in reader.take_rejected().items():
        yield f"{count} lines refused ({reason}): frame_bytes_max is {settings.frame_bytes_max}"
