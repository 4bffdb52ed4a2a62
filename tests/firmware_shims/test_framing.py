"""The device's frames and the gateway's are the same bytes, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_shims import framing as device
from gateway.codecs import framing as gateway

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/framing.json").read_text(encoding="utf-8"))

runs = st.one_of(st.binary(max_size=20), st.integers(250, 260).map(lambda n: b"\x07" * n))
bodies = st.lists(runs, min_size=1, max_size=8).map(b"".join).filter(bool)


class Heard:
    """A device that remembers what it heard."""

    def __init__(self, bytes_max: int = 64) -> None:
        self.bodies: list[bytes] = []
        self.receiver = device.Receiver(lambda body, length: self.bodies.append(bytes(body[:length])), bytes_max)

    def hear(self, data: bytes) -> list[bytes]:
        """Feed `data`; return what came out of it."""
        self.bodies.clear()
        self.receiver.feed(data, len(data))
        return list(self.bodies)


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["kind"])
def test_vectors_both_ways(vector: dict[str, str]) -> None:
    """Each message of the shared vectors, with the 0x00 that the device puts in front."""
    wire = bytes.fromhex(vector["wire"])
    (body,) = gateway.FrameReader(4096).feed(wire)
    assert device.frame(body) == b"\0" + wire
    assert Heard(1024).hear(wire) == [body]


@pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda vector: vector["name"])
def test_damaged_frames_are_counted(vector: dict[str, str]) -> None:
    """What the gateway refuses the device refuses too."""
    heard = Heard()
    assert heard.hear(bytes.fromhex(vector["wire"])) == []
    assert heard.receiver.rejected == 1


@given(bodies)
def test_a_device_frame_is_a_gateway_frame(body: bytes) -> None:
    """The same bytes, within the room that was asked for."""
    wire = device.frame(body)
    assert wire == b"\0" + gateway.encode_frame(body)
    assert len(wire) <= device.wire_bytes(len(body))


@given(st.lists(bodies, max_size=4), st.binary(max_size=30), st.integers(1, 40))
def test_the_device_hears_what_the_gateway_says(wanted: list[bytes], noise: bytes, step: int) -> None:
    """After any noise, cut anywhere."""
    wire = noise + b"\0" + b"".join(gateway.encode_frame(body) for body in wanted)
    heard = Heard(4096)
    found = [body for at in range(0, len(wire), step) for body in heard.hear(wire[at : at + step])]
    assert found[len(found) - len(wanted) :] == wanted


@given(st.binary(max_size=300))
def test_any_bytes_are_a_body_or_counted(data: bytes) -> None:
    """No exception, and the gateway's reader agrees."""
    reader = gateway.FrameReader(64)
    heard = Heard(64)
    assert heard.hear(data) == reader.feed(data)
    rejected = reader.take_rejected()
    unfinished_overlong = len(data.split(b"\0")[-1]) > 64
    assert heard.receiver.rejected == sum(rejected.values()) - unfinished_overlong


def test_a_frame_too_long_for_the_device_is_dropped_and_the_next_is_heard() -> None:
    """Its buffer never grows."""
    heard = Heard(16)
    assert heard.hear(gateway.encode_frame(b"x" * 100) + gateway.encode_frame(b"good")) == [b"good"]
    assert heard.receiver.rejected == 1
