"""What a serial line would make of bytes that it is shown."""

from __future__ import annotations

from typing import Any

from gateway.codecs import framing
from gateway.core.units import Size
from gateway.sources.serial_explain import explain_bytes
from gateway.sources.serial_settings import SerialSettings


def settings(**changes: Any) -> SerialSettings:
    """Make settings that differ from a plain line's in `changes`."""
    return SerialSettings(**{"name": "line1", "port": "/dev/ttyUSB0", **changes})


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
