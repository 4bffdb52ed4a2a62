"""The device's end of the line: what it sends, what it keeps, when it sends again, what it says it lost."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_shims.uplink import Uplink, new_session
from gateway.codecs import framing
from gateway.codecs.framing import Data, FrameReader, Hello, Sessions, Verdict

DROPPED = "tidegate.device.dropped"
SESSION = b"\x78\x56\x34\x12"
SESSION_NUMBER = 0x12345678
TICKS = 1 << 30
KINDS = {70: "<u4", 78: "<i4", 85: "<f4", 86: "<f8", 64: "u1"}


def columns(payload: bytes) -> dict[str, Any]:
    """Decode a batch: numbers, and typed arrays as lists; what is nested by its path."""
    found: dict[str, Any] = {}
    todo = list(cbor2.loads(payload).items())
    while todo:
        path, value = todo.pop(0)
        if isinstance(value, dict):
            todo += [(f"{path}.{key}", inner) for key, inner in value.items()]
        else:
            found[path] = np.frombuffer(value.value, KINDS[value.tag]).tolist() if hasattr(value, "tag") else value
    return found


@dataclass
class FakePort:
    """A wire that a test holds in its hand. `takes` bytes go out in one write."""

    takes: int = 10_000
    sent: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)

    def any(self) -> int:
        return len(self.waiting)

    def readinto(self, buffer: bytearray) -> int | None:
        count = min(len(buffer), len(self.waiting))
        buffer[:count] = self.waiting[:count]
        del self.waiting[:count]
        return count or None

    def write(self, data: bytes) -> int | None:
        self.sent += data[: self.takes]
        return min(len(data), self.takes) or None


class Desk:
    """A device, its port and its clock."""

    def __init__(self, *, start: int = 0, takes: int = 10_000, greets: bool = True, **options: Any) -> None:
        self.ticks = start % TICKS
        self.port = FakePort(takes)
        self.times: list[tuple[int, int]] = []
        options = {"fields": (("temp", "f"), ("n", "i")), "session": SESSION, "topic": "boiler", **options}
        self.uplink = Uplink(
            self.port, ticks=lambda: self.ticks, on_time=lambda *time: self.times.append(time), **options
        )
        self._reader = FrameReader(4096)
        if greets:
            self._greet()

    def _greet(self) -> None:
        assert isinstance(self.talk()[0], Hello)
        self.hear(framing.encode_time(SESSION_NUMBER, unix_ms=1_790_000_000_123, quality=0))

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.ticks = (self.ticks + ms) % TICKS

    def hear(self, wire: bytes) -> None:
        """Let the device hear `wire`."""
        self.port.waiting += wire
        self.uplink.poll()

    def talk(self, polls: int = 3) -> list[framing.Message]:
        """Let the device work; return what it said since the last time."""
        for _ in range(polls):
            self.uplink.poll()
        wire = bytes(self.port.sent)
        self.port.sent.clear()
        return [framing.read_message(body) for body in self._reader.feed(wire)]

    def sample(self, *numbers: int) -> None:
        """Take samples, 100 ms apart."""
        for n in numbers:
            self.uplink.sample([n + 0.5, n])
            self.wait(100)


def test_a_batch_is_a_map_of_columns_with_ticks() -> None:
    """Times count from the oldest sample; `now` is the moment of sending on the same scale."""
    desk = Desk()
    desk.sample(1, 2, 3)
    desk.wait(1000)
    (data,) = desk.talk()
    assert isinstance(data, Data)
    assert (data.session, data.sequence, data.topic) == (SESSION_NUMBER, 0, b"boiler")
    assert columns(data.payload) == {"now": 1300, "t": [0, 100, 200], "temp": [1.5, 2.5, 3.5], "n": [1, 2, 3]}


def test_samples_wait_for_company_but_not_long() -> None:
    """A batch leaves when it is full, or when its oldest sample is `flush_ms` old."""
    desk = Desk(flush_ms=1000)
    desk.sample(1)
    desk.wait(800)
    assert desk.talk() == []
    desk.wait(100)
    assert len(desk.talk()) == 1
    desk = Desk(flush_ms=60_000)
    while not (said := desk.talk()):
        desk.sample(1)
    assert len(framing.encode_data(said[0].payload, session=1, sequence=1, topic=b"boiler")) <= 256
    assert len(columns(said[0].payload)["t"]) == 17


def test_an_acknowledged_batch_is_forgotten() -> None:
    """It is counted and not sent again; another device's ACK and a stale one change nothing."""
    desk = Desk()
    desk.sample(1, 2)
    desk.wait(1000)
    desk.talk()
    assert desk.uplink.pending == 2
    desk.hear(framing.encode_ack(SESSION_NUMBER + 1, 0) + framing.encode_ack(SESSION_NUMBER, 7))
    assert desk.uplink.pending == 2
    desk.hear(framing.encode_ack(SESSION_NUMBER, 0))
    assert (desk.uplink.pending, desk.uplink.acknowledged) == (0, 2)
    desk.wait(100_000)
    assert desk.talk() == []


def test_a_batch_without_an_answer_is_sent_again_later_and_later() -> None:
    """Same session and sequence, same samples, a new `now`; waits double up to half a minute."""
    desk = Desk(ack_ms=3000)
    desk.sample(5)
    desk.wait(900)
    (first,) = desk.talk()
    waits = []
    for _ in range(6):
        waited_ms = 0
        while not (said := [item for item in desk.talk() if isinstance(item, Data)]):
            desk.wait(100)
            waited_ms += 100
        waits.append(waited_ms)
        again = columns(said[0].payload)
        assert (said[0].session, said[0].sequence) == (first.session, first.sequence)
        assert {**again, "now": 0} == {**columns(first.payload), "now": 0}
        assert again["now"] == 1000 + sum(waits)
    assert [round(wait / 1000) for wait in waits] == [3, 6, 12, 24, 30, 30]
    assert desk.uplink.resent == 6


def test_devices_that_lost_the_same_gateway_do_not_come_back_in_step() -> None:
    """Each waits a little longer than asked, by its session."""
    waits = set()
    for first in range(0, 256, 5):
        session = bytes([first]) + SESSION[1:]
        desk = Desk(ack_ms=3000, session=session, greets=False)
        desk.sample(5)
        desk.wait(900)
        assert any(isinstance(item, Data) for item in desk.talk())
        waited_ms = 0
        while not any(isinstance(item, Data) for item in desk.talk()):
            desk.wait(1)
            waited_ms += 1
        waits.add(waited_ms)
    assert 3000 <= min(waits) < 3010
    assert 3050 < max(waits) <= 3063
    assert len(waits) > 30


def test_at_most_a_window_of_batches_is_on_its_way() -> None:
    """The rest waits in the ring; an ACK out of order frees its own slot."""
    desk = Desk(window=2, flush_ms=0, records=100)
    for n in range(4):
        desk.sample(n)
        desk.talk()
    assert desk.uplink.ring.count == 2
    desk.hear(framing.encode_ack(SESSION_NUMBER, 1))
    (data,) = desk.talk()
    assert (data.sequence, columns(data.payload)["n"]) == (2, [2, 3])
    assert desk.uplink.pending == 3


def test_a_nak_is_honoured_for_every_batch() -> None:
    """Nothing is sent before the gateway said, then what it did not keep comes again."""
    desk = Desk(window=2, flush_ms=0)
    desk.sample(1)
    desk.talk()
    desk.hear(framing.encode_nak(SESSION_NUMBER, 0, after_ms=10_000))
    desk.sample(2)
    desk.wait(9000)
    assert desk.talk() == []
    desk.wait(1000)
    assert [item.sequence for item in desk.talk()] == [0, 1]
    assert desk.uplink.put_off == 1


def test_what_the_ring_let_go_is_told_until_it_is_acknowledged() -> None:
    """The count since the start is a column of its own; without a loss it is left out."""
    desk = Desk(records=4, window=1, flush_ms=0)
    desk.sample(0)
    desk.talk()
    desk.sample(*range(1, 8))
    assert desk.uplink.dropped == 3
    desk.hear(framing.encode_ack(SESSION_NUMBER, 0))
    (data,) = desk.talk()
    assert columns(data.payload)[DROPPED] == [3, 3, 3, 3]
    assert columns(data.payload)["n"] == [4, 5, 6, 7]
    desk.hear(framing.encode_ack(SESSION_NUMBER, 1))
    desk.sample(8)
    (data,) = desk.talk()
    assert DROPPED not in columns(data.payload)


def test_batches_on_their_way_are_safe_from_a_full_ring() -> None:
    """Whatever comes in meanwhile, what was sent can be sent again."""
    desk = Desk(records=2, window=1, flush_ms=0)
    desk.sample(1)
    desk.talk()
    desk.sample(*range(2, 50))
    desk.wait(5000)
    (data,) = [item for item in desk.talk() if isinstance(item, Data)]
    assert columns(data.payload)["n"] == [1]


def test_a_hello_is_repeated_until_the_time_is_known_and_then_seldom() -> None:
    """Waits double from one second to one minute; the answer goes to `on_time`."""
    desk = Desk(device_id="e661")
    assert desk.times == [(1_790_000_000_123, 0)]
    # How good it is is told too: a device sets its clock by a gateway that knows the time, and by no other.
    for unix_ms, quality in ((1_790_000_001_000, 1), (0, 4)):
        desk.hear(framing.encode_time(SESSION_NUMBER, unix_ms=unix_ms, quality=quality))
        assert desk.times.pop() == (unix_ms, quality)
    desk.wait(599_000)
    assert desk.talk() == []
    desk.wait(1000)
    assert desk.talk() == [Hello(1, SESSION_NUMBER, "e661")]
    waits = []
    for _ in range(8):
        waited_s = 0
        while not desk.talk():
            desk.wait(1000)
            waited_s += 1
        waits.append(waited_s)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_ticks_that_go_round_change_nothing() -> None:
    """A board's tick counter wraps every 12 days; the batch does not notice."""
    desk = Desk(start=-150)
    desk.sample(1, 2, 3)
    desk.wait(1000)
    (data,) = desk.talk()
    assert columns(data.payload)["t"] == [0, 100, 200]
    assert columns(data.payload)["now"] == 1300


def test_a_batch_keeps_its_age_over_days_without_a_gateway() -> None:
    """Polled all the while, `now` counts on past what one tick difference can tell."""
    desk = Desk()
    desk.sample(1)
    desk.wait(900)
    desk.talk()
    day_ms = 86_400_000
    for _ in range(20):
        desk.wait(day_ms)
        said = desk.talk()
    assert columns(said[-1].payload)["now"] == 1000 + 20 * day_ms


def test_a_slow_port_gets_a_frame_in_pieces() -> None:
    """What the port does not take now it is given later, and no other frame comes between."""
    desk = Desk()
    desk.port.takes = 7
    desk.sample(*range(10))
    desk.wait(1000)
    said = desk.talk(polls=60)
    assert [columns(item.payload)["n"] for item in said] == [list(range(10))]


def test_a_port_that_takes_nothing_is_tried_again() -> None:
    """A full port answers None."""
    desk = Desk(flush_ms=0)
    desk.port.takes = 0
    desk.sample(1)
    assert desk.talk() == []
    desk.port.takes = 100
    assert len(desk.talk()) == 1


def test_noise_and_foreign_frames_are_passed_over() -> None:
    """Bad frames are counted; frames of other kinds and lengths mean nothing to a device."""
    desk = Desk()
    echo = framing.encode_hello(SESSION_NUMBER, "me")
    short = framing.encode_frame(b"\x02" + SESSION)
    desk.hear(b"noise\0" + echo + short + framing.encode_plain(b"{}") + framing.encode_frame(b"\x05" + SESSION))
    desk.hear(framing.encode_frame(b"\x03" + SESSION + b"\0\0") + framing.encode_frame(b"\x02\x01"))
    desk.hear(framing.encode_nak(SESSION_NUMBER, 9, after_ms=1))
    assert desk.uplink.rejected == 1
    assert desk.uplink.put_off == 0


def test_every_letter_of_struct_can_be_a_field() -> None:
    """Each column is a typed array of its kind."""
    codes = "bBhHiIqQfd"
    desk = Desk(fields=[(code, code) for code in codes], flush_ms=0)
    desk.uplink.sample([1] * len(codes))
    (data,) = desk.talk()
    tags = {code: cbor2.loads(data.payload)[code].tag for code in codes}
    assert tags == {"b": 72, "B": 64, "h": 77, "H": 69, "i": 78, "I": 70, "q": 79, "Q": 71, "f": 85, "d": 86}


def test_many_fields_have_a_longer_head() -> None:
    """More than 23 entries in the map."""
    names = [f"f{k}" for k in range(30)]
    desk = Desk(fields=[(name, "B") for name in names], frame_bytes=512, flush_ms=0)
    desk.uplink.sample(list(range(30)))
    (data,) = desk.talk()
    assert {name: columns(data.payload)[name] for name in names} == {f"f{k}": [k] for k in range(30)}


@given(st.integers(60, 600), st.integers(1, 6), st.booleans())
def test_a_full_batch_fits_its_frame(frame_bytes: int, fields: int, has_lost: bool) -> None:
    """The frame on the wire is never longer than was asked for, and one sample more would not fit."""
    try:
        desk = Desk(
            fields=[(f"field {k}", "d") for k in range(fields)],
            frame_bytes=frame_bytes,
            records=200,
            window=1,
        )
    except ValueError as error:
        assert "too small" in str(error)  # noqa: PT017  frames that hold no sample are refused, and that is all
        return
    for k in range(200 + 50 * has_lost):
        desk.uplink.sample([k] * fields)
    (data,) = desk.talk()
    wire = framing.encode_data(data.payload, session=data.session, sequence=data.sequence, topic=data.topic)
    sample_bytes = 4 + 8 * fields + 4 * has_lost
    assert frame_bytes - sample_bytes - 8 * (fields + 2) < len(wire) <= frame_bytes


def test_mistakes_are_refused_by_name() -> None:
    """Names that are taken, doubled fields, frames that hold nothing, a window out of bounds."""
    for fields in ([("t", "f")], [("now", "f")], [("tidegate", "I")], [("a", "f"), ("a", "f")]):
        with pytest.raises(ValueError, match="field names"):
            Uplink(FakePort(), fields)
    with pytest.raises(ValueError, match="too small"):
        Uplink(FakePort(), [("a", "f")], frame_bytes=32)
    with pytest.raises(ValueError, match="window"):
        Uplink(FakePort(), [("a", "f")], window=5)


def test_a_sample_that_cannot_be_packed_is_not_half_taken() -> None:
    """The mistake is the caller's; the ring stays as it was."""
    desk = Desk()
    with pytest.raises(struct.error):
        desk.uplink.sample([1.5, "two"])
    assert desk.uplink.pending == 0


def test_sessions_differ() -> None:
    """Four random bytes."""
    assert len({new_session() for _ in range(20)}) == 20
    assert len(new_session()) == 4


@given(st.integers(0, 2**32), st.integers(1, 4), st.floats(0, 0.6), st.integers(5, 60))
def test_every_sample_arrives_exactly_once_or_is_counted(seed: int, window: int, loss: float, records: int) -> None:
    """Frames and answers lost at random, NAKs, late answers: the gateway's rule sees each sample once."""
    dice = random.Random(seed)
    desk = Desk(records=records, window=window, flush_ms=300, frame_bytes=128)
    sessions, seen, answers = Sessions(), [], []
    for n in range(150):
        if n < 100:
            desk.sample(n)
        else:
            desk.wait(2000)
            loss = 0  # the line heals, so that it ends
        for item in desk.talk():
            if not isinstance(item, Data) or dice.random() < loss:
                continue
            key = (item.session, item.sequence)
            verdict = sessions.judge(*key)
            if verdict is Verdict.NEW and dice.random() < loss / 2:
                sessions.release(*key)
                answers.append(framing.encode_nak(*key, after_ms=dice.randrange(2000)))
                continue
            if verdict is Verdict.NEW:
                seen += columns(item.payload)["n"]
                lost = max(columns(item.payload).get(DROPPED, [0]))
                assert lost <= desk.uplink.dropped
            sessions.commit(*key)
            answers.append(framing.encode_ack(*key))
        dice.shuffle(answers)
        while answers and dice.random() < 0.7:
            answer = answers.pop()
            if dice.random() >= loss:
                desk.hear(answer)
    assert desk.uplink.pending == 0
    assert len(seen) == len(set(seen)) == desk.uplink.acknowledged
    assert len(seen) + desk.uplink.dropped == 100
