"""A serial line's settings: what goes together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.codecs import framing
from gateway.core.units import Duration, Size
from gateway.sources.serial_settings import SerialSettings


def settings(**changes: Any) -> SerialSettings:
    """Make settings that differ from a plain line's in `changes`."""
    return SerialSettings(**{"name": "line1", "port": "/dev/ttyUSB0", **changes})


def test_a_name_and_a_port_are_enough() -> None:
    """COBS at 115,200 8N1, and its type in the configuration is serial."""
    plain = msgspec.convert({"type": "serial", "name": "line1", "port": "/dev/ttyUSB0"}, SerialSettings)
    assert plain == settings()
    assert (plain.framing, plain.baud, plain.parity, plain.stopbits) == ("cobs", 115_200, "none", 1)
    assert plain.payload is None
    assert settings(payload="cbor").payload == "cbor"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "a/b"}, "stands in topics"),
        ({"name": ""}, "stands in topics"),
        ({"port": "ttyUSB0"}, "neither a path"),
        ({"bytesize": 7}, "bytesize = 8 and xonxoff = false"),
        ({"xonxoff": True}, "bytesize = 8 and xonxoff = false"),
        ({"frame_bytes_max": Size(8)}, "frame_bytes_max: must be from"),
        ({"frame_bytes_max": Size(2 << 20)}, "frame_bytes_max: must be from"),
        ({"pending_max": Size(100)}, "must hold one frame"),
        ({"reopen_delay": Duration(0)}, "reopen_delay: must be"),
        ({"reopen_delay": Duration(31)}, "reopen_delay: must be"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    """Each with what would be right."""
    with pytest.raises(ValueError, match=sentence):
        settings(**changes)


def test_lines_may_have_seven_bits_and_xonxoff() -> None:
    """They are text."""
    assert settings(framing="lines", bytesize=7, xonxoff=True, parity="even").options.bytesize == 7


@pytest.mark.parametrize("framing_name", ["nmea", "modbus", "slip"])
def test_other_framings_are_refused(framing_name: str) -> None:
    """They come with a later version."""
    with pytest.raises(msgspec.ValidationError, match="framing"):
        msgspec.convert({"type": "serial", "name": "l", "port": "/dev/x", "framing": framing_name}, SerialSettings)


def test_the_reader_is_the_framings() -> None:
    """One for each word of the setting."""
    assert isinstance(settings().reader(), framing.FrameReader)
    assert isinstance(settings(framing="lines").reader(), framing.LineReader)


@pytest.mark.parametrize("kind", ["cobs", "lines"])
def test_the_reader_is_bounded_as_the_settings_say(kind: str) -> None:
    """One byte more than `frame_bytes_max` is dropped and counted, in either framing."""
    reader = settings(framing=kind, frame_bytes_max=Size(64)).reader()
    end = b"\n" if kind == "lines" else b"\0"
    assert list(reader.feed(b"x" * 65 + end)) == []
    assert reader.take_rejected() == {"overlong": 1}
