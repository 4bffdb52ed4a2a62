"""The virtual serial line passes, hurts, delays and vanishes as it claims."""

from __future__ import annotations

import time

import pytest
import serial

from hil.children import wait_until


@pytest.fixture
def host(serial_line):
    with serial.Serial(str(serial_line.path), 115200, timeout=20) as port:
        yield port


def test_bytes_pass_both_ways_unchanged(serial_line, host) -> None:
    """All 256 values, control characters included: the line is raw."""
    everything = bytes(range(256)) * 40
    serial_line.write(everything)
    assert host.read(len(everything)) == everything
    host.write(everything)
    assert serial_line.read_exactly(len(everything)) == everything


def test_the_devices_end_waits_for_nothing_that_does_not_come(serial_line, monkeypatch) -> None:
    """Where select promises too much, a read ends all the same; a line that stands still is named by a write."""
    monkeypatch.setattr("hil.serial_lines.select.select", lambda read, write, _, __: (read, write, []))
    assert serial_line.read(within_s=0) == b""
    assert serial_line.read(within_s=0.01) == b""
    monkeypatch.undo()
    monkeypatch.setattr("hil.serial_lines.WRITE_S_MAX", 0.2)
    with serial_line._lock, pytest.raises(TimeoutError, match=r"of 1000000 bytes, and none for 0\.2 s"):
        serial_line.write(bytes(1_000_000))


def test_a_program_can_play_the_device(serial_line, host) -> None:
    """The device's end is a path too."""
    with serial.Serial(str(serial_line.device_path), 115200, timeout=20) as device:
        host.write(b"ping")
        assert device.read(4) == b"ping"
        device.write(b"pong")
        assert host.read(4) == b"pong"


def test_dropped_bytes_are_gone_and_counted(serial_line, host) -> None:
    """`drop_next` takes exactly that many."""
    serial_line.to_host.drop_next = 3
    serial_line.write(b"abcdef")
    assert host.read(3) == b"def"
    assert serial_line.to_host.dropped == 3


def test_garbled_bytes_have_one_bit_flipped(serial_line, host) -> None:
    """`garble_next` hurts exactly that many and keeps the length."""
    serial_line.to_host.garble_next = 2
    serial_line.write(b"abcdef")
    got = host.read(6)
    assert [(a ^ b).bit_count() for a, b in zip(got, b"abcdef", strict=True)] == [1, 1, 0, 0, 0, 0]


def test_random_faults_follow_the_seed(make_serial_line) -> None:
    """The same seed hurts the same bytes."""
    seen = []
    for name in ("one", "two"):
        line = make_serial_line(name=name, seed=7)
        line.to_host.drop = 0.2
        with serial.Serial(str(line.path), timeout=20) as host:
            line.write(b"x" * 200)
            way = line.to_host
            wait_until(lambda way=way: way.passed + way.dropped == 200, "all to have gone one way or the other")
            seen.append((len(host.read(way.passed)), way.dropped))
    assert seen[0] == seen[1]
    assert 10 < seen[0][1] < 80


def test_delay_holds_bytes_back(serial_line, host) -> None:
    """Nothing arrives before its time."""
    serial_line.to_host.delay_s = 0.15
    started_s = time.monotonic()
    serial_line.write(b"late")
    assert host.read(4) == b"late"
    assert time.monotonic() - started_s >= 0.15


def test_a_baud_rate_is_kept(serial_line, host) -> None:
    """200 bytes at 1000 bytes a second take a fifth of a second."""
    serial_line.to_host.bytes_per_s = 1000
    started_s = time.monotonic()
    serial_line.write(bytes(200))
    assert len(host.read(200)) == 200
    assert time.monotonic() - started_s >= 0.18


def test_unplugging_hangs_up_and_replugging_brings_a_new_device(serial_line) -> None:
    """The reader gets an error, the link goes away, and the new device behind it works."""
    with serial.Serial(str(serial_line.path), timeout=20) as host:
        before = serial_line.path.resolve()
        serial_line.unplug()
        assert not serial_line.path.exists()
        with pytest.raises((serial.SerialException, OSError)):
            host.read(1)
        serial_line.write(b"into the void")
        # While the old one is still open the kernel gives the new one another number.
        serial_line.plug()
        assert serial_line.path.resolve() != before
    with serial.Serial(str(serial_line.path), timeout=20) as host:
        serial_line.write(b"back")
        assert host.read(4)[-4:] == b"back"


def test_a_reader_that_never_comes_costs_bounded_memory(serial_line) -> None:
    """Past the line's room bytes are lost and counted."""
    serial_line.to_host.bytes_per_s = 10
    for _ in range(5):
        serial_line.write(bytes(300_000))
    deadline_s = time.monotonic() + 60
    while not serial_line.to_host.overrun and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert serial_line.to_host.overrun > 0
