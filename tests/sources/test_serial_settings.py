"""A serial line's settings: what goes together, and what the line would make of bytes it is shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.codecs import framing
from gateway.core.units import Duration, Size
from gateway.sources.serial_settings import SerialSettings, explain_bytes


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


def test_explaining_frames_gives_their_payloads_and_topics() -> None:
    """As the source would hand them on; with and without the 0x00 at the end."""
    frame = framing.encode_data(b"\xa0", session=0xABC, sequence=7, topic=b"boiler")
    bare = framing.encode_data(b"\xa1", session=1, sequence=8)
    assert list(explain_bytes(settings(), frame + bare + framing.encode_plain(b"{}")[:-1])) == [
        "frame 1: DATA, session 00000abc, sequence 7",
        ("line1/boiler", b"\xa0"),
        "frame 2: DATA, session 00000001, sequence 8",
        ("line1", b"\xa1"),
        ("line1", b"{}"),
    ]


def test_explaining_what_is_no_frame_says_why() -> None:
    """Too long, damaged, of no meaning, without a payload."""
    long = framing.encode_plain(b"x" * 5000)
    wire = b"garbage\0" + long + framing.encode_frame(b"\x1f") + framing.encode_hello(5, "e661")
    found = list(explain_bytes(settings(), wire))
    assert [str(item).split(":")[0] for item in found] == ["frame 1", "frame 2", "frame 3", "frame 4"]
    assert "refused (cobs)" in str(found[0])
    assert "refused (overlong): 5024 bytes, frame_bytes_max is 4KiB" in str(found[1])
    assert "refused (kind)" in str(found[2])
    assert "device_id='e661'" in str(found[3])
    assert "no payload" in str(found[3])


def test_explaining_lines() -> None:
    """The LF at the end may be left out; a line too long says so."""
    lines = settings(framing="lines", frame_bytes_max=Size(16))
    assert list(explain_bytes(lines, b"one\r\n" + b"x" * 17 + b"\ntwo")) == [
        ("line1", b"one"),
        ("line1", b"two"),
        "1 lines refused (overlong): frame_bytes_max is 16B",
    ]
