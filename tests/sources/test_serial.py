"""The serial door over real ptys: kept before acknowledged, never twice, whatever the wire does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import termios
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from gateway.codecs import framing
from gateway.codecs.framing import Ack, FrameReader, Nak, Time
from gateway.core.clock import NS_PER_S, FakeClock, Quality
from gateway.core.contracts import Accepted, Arrivals, FullError, Lost
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.sources import serial as serial_module
from gateway.sources import serial_port
from gateway.sources.serial import SerialSettings, SerialSource
from gateway.sources.serial_watch import NOISE_MIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hil.serial_lines import SerialLine

DEADLINE_S = 60.0
# asm-generic/termbits.h, which Python's termios leaves out: the parity bit is always 1, or always 0.
CMSPAR = 0o10000000000
S = 0x0BADCAFE


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; fail after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.002)


@dataclass
class Shelf:
    """What takes arrivals: keeps them, when told later, or has no room for the next `full` offers."""

    offers: list[Arrivals] = field(default_factory=list)
    kept: list[Arrivals] = field(default_factory=list)
    full: int = 0
    after_s: float = 0.05
    error: BaseException | None = None
    malformed: int = 0
    reason: str = "bad"  # why all of them are lost, if they are
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def accept(self, arrivals: Arrivals, /) -> Accepted:
        self.offers.append(arrivals)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        if self.full:
            self.full -= 1
            raise FullError("the shelf is full", self.after_s)
        self.kept.append(arrivals)
        lost = [Lost(at, self.reason, "no good", self.malformed) for at in range(len(arrivals)) if self.malformed]
        return Accepted(len(arrivals.payloads), lost)

    @property
    def payloads(self) -> list[bytes]:
        """Everything kept."""
        return [payload for arrivals in self.kept for payload in arrivals.payloads]

    @property
    def topics(self) -> list[bytes]:
        """The topics of everything kept."""
        return [topic for arrivals in self.kept for topic in arrivals.topics]


class Rig:
    """A source on a virtual line, a shelf behind it, and the device's end in the test's hand."""

    def __init__(self, line: SerialLine, **settings: Any) -> None:
        self.line = line
        self.shelf = Shelf()
        self.clock = FakeClock()
        self.telemetry = Telemetry()
        self.settings = SerialSettings(
            **{"name": "line1", "port": str(line.path), "reopen_delay": Duration(0.02), **settings}
        )
        self.source = self.new_source()
        self.task: asyncio.Task[None] | None = None
        self._reader = FrameReader(4096)

    def new_source(self) -> SerialSource:
        """Make a source with this rig's shelf behind it."""
        return SerialSource(self.settings, accept=self.shelf.accept, clock=self.clock, telemetry=self.telemetry)

    async def start(self, *, state: str = "reading") -> None:
        """Run the source; return when it is in `state`."""
        self.task = asyncio.create_task(self.source.run())
        await until(lambda: self.status["state"] == state)

    async def stop(self) -> None:
        """Cancel it, as the gateway does at its end."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    @property
    def status(self) -> dict[str, Any]:
        """What the source says of itself."""
        return self.source.status()

    def heard(self) -> list[framing.Message]:
        """Return the answers that have come to the device since the last look."""
        data = self.line.read(within_s=0)
        return [framing.read_message(body) for body in self._reader.feed(data)]

    async def hear(self, count: int = 1) -> list[framing.Message]:
        """Wait for `count` answers."""
        answers: list[framing.Message] = []

        def enough() -> bool:
            answers.extend(self.heard())
            return len(answers) >= count

        await until(enough)
        return answers


@pytest.fixture
async def make_rig(serial_line: SerialLine) -> AsyncIterator[Callable[..., Rig]]:
    """Make a rig that is stopped at the end of the test."""
    made: list[Rig] = []

    def make(**settings: Any) -> Rig:
        made.append(Rig(serial_line, **settings))
        return made[-1]

    yield make
    for rig in made:
        rig.shelf.open.set()
        await rig.stop()
    for port in [*serial_port._left_open.values()]:
        serial_port.close_left_open(port)
    serial_module._known_frames.clear()


@pytest.fixture
async def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Give a source that reads COBS frames."""
    made = make_rig()
    await made.start()
    return made


def data(sequence: int, payload: bytes = b"{}", *, topic: bytes = b"", session: int = S) -> bytes:
    """Return a DATA frame."""
    return framing.encode_data(payload, session=session, sequence=sequence, topic=topic)


# what arrives


async def test_plain_frames_have_the_source_as_topic(rig: Rig) -> None:
    """CBOR, JSON and text, in one buffer or several, none of them acknowledged."""
    payloads = [b"\xa1at\x01", b'{"t":1}', b"20.5", b"\xff"]
    rig.line.write(b"".join(map(framing.encode_plain, payloads)))
    await until(lambda: rig.shelf.payloads == payloads)
    assert rig.shelf.topics == [b"line1"] * 4
    assert rig.shelf.kept[0].source == "line1"
    assert rig.shelf.kept[0].arrived_ns == rig.clock.monotonic
    assert rig.heard() == []


async def test_what_one_read_brought_is_one_offer(make_rig: Callable[..., Rig]) -> None:
    """A task and a commit for the buffer, not for each message."""
    rig = make_rig()
    rig.clock.monotonic = 77
    await rig.start()
    rig.source._take(b"".join(framing.encode_plain(b"{}") for _ in range(100)) + data(1) + data(2))
    await until(lambda: len(rig.shelf.payloads) == 102)
    assert [len(arrivals.payloads) for arrivals in rig.shelf.kept] == [100, 2]
    assert {arrivals.arrived_ns for arrivals in rig.shelf.kept} == {77}


async def test_lines_have_the_source_as_topic(make_rig: Callable[..., Rig]) -> None:
    """LF or CRLF; a line too long is dropped and counted."""
    rig = make_rig(framing="lines", frame_bytes_max=Size(16))
    await rig.start()
    rig.line.write(b"one\r\ntwo\n" + b"x" * 20 + b"\nthree\nhal")
    await until(lambda: rig.shelf.payloads == [b"one", b"two", b"three"])
    assert set(rig.shelf.topics) == {b"line1"}
    assert rig.status["rejected"] == {"overlong": 1}
    assert rig.telemetry.value("tidegate_serial_rejected", source="line1", reason="overlong") == 1


async def test_a_line_of_which_only_the_end_was_heard_is_no_line(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wire is opened at any moment, and 625 is the end of 12345.625; after a silence it is a line from its beginning."""
    monkeypatch.setattr(serial_port, "PSEUDO_PREFIX", "/nowhere/")
    rig = make_rig(framing="lines", payload="text")
    await rig.start()
    rig.line.write(b"625\n")
    await until(lambda: rig.status["rejected"] == {"cut_off": 1})
    rig.line.write(b"12345.625\n")
    await until(lambda: rig.shelf.payloads == [b"12345.625"])
    assert rig.status["rejected"] == {"cut_off": 1}


@pytest.mark.parametrize(("baud", "pause_s"), [(115200, 0.03), (300, 20 * 10 / 300)])
async def test_a_line_after_a_silence_is_heard_from_its_beginning(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, baud: int, pause_s: float
) -> None:
    """At a low rate the bytes of a line are far apart themselves."""
    monkeypatch.setattr(serial_port, "PSEUDO_PREFIX", "/nowhere/")
    rig = make_rig(framing="lines", payload="text", baud=baud)
    await rig.start()
    rig.clock.advance(int(pause_s * NS_PER_S) + 1)
    rig.line.write(b"20.5\n")
    await until(lambda: rig.shelf.payloads == [b"20.5"])
    assert rig.status["rejected"] == {}


async def test_data_frames_name_their_topic_below_the_source(rig: Rig) -> None:
    """And have the source's own where they name none."""
    rig.line.write(data(1, b"a", topic=b"boiler/top") + data(2, b"b"))
    assert await rig.hear(2) == [Ack(S, 1), Ack(S, 2)]
    assert rig.shelf.topics == [b"line1/boiler/top", b"line1"]
    assert rig.shelf.payloads == [b"a", b"b"]


async def test_damaged_frames_are_counted_by_reason_and_cost_themselves_alone(rig: Rig) -> None:
    """Noise, a later version's frame, a header cut short, our own echo; then a good one."""
    noise = b"rst:0x1 (POWERON)\r\n\0" + framing.encode_frame(b"\x1fwhat") + framing.encode_frame(b"\x01abc")
    rig.line.write(noise + framing.encode_ack(S, 1) + framing.encode_plain(b"{}"))
    await until(lambda: rig.shelf.payloads == [b"{}"])
    assert rig.status["rejected"] == {"cobs": 1, "kind": 1, "header": 1, "echo": 1}


# acknowledgement


async def test_the_answer_comes_after_the_commit_and_not_before(rig: Rig) -> None:
    """P1: nothing is acknowledged that is not on disk."""
    rig.shelf.open.clear()
    rig.line.write(data(1))
    await until(lambda: rig.shelf.offers)
    await asyncio.sleep(0.05)
    assert rig.heard() == []
    assert rig.status["pending_bytes"] > 0
    rig.shelf.open.set()
    assert await rig.hear() == [Ack(S, 1)]
    assert (rig.status["acknowledged"], rig.status["on_disk"], rig.status["pending_bytes"]) == (1, 1, 0)


async def test_reading_goes_on_while_a_commit_is_awaited(rig: Rig) -> None:
    """Several offers are under way at once."""
    rig.shelf.open.clear()
    for sequence in range(3):
        rig.line.write(data(sequence))
        await until(lambda wanted=sequence + 1: len(rig.shelf.offers) == wanted)
    rig.shelf.open.set()
    assert sorted(ack.sequence for ack in await rig.hear(3)) == [0, 1, 2]


async def test_no_room_is_a_nak_and_the_device_offers_again(rig: Rig) -> None:
    """The gateway holds nothing of it; after_ms is what the shelf asked for."""
    rig.shelf.full, rig.shelf.after_s = 1, 1.5
    rig.line.write(data(1))
    assert await rig.hear() == [Nak(S, 1, 1500)]
    assert rig.status["pending_bytes"] == 0
    assert "the shelf is full" in rig.status["last_error"]
    rig.line.write(data(1))
    assert await rig.hear() == [Ack(S, 1)]
    assert len(rig.shelf.kept) == 1
    assert rig.status["put_off"] == 1


async def test_a_frame_that_comes_again_is_not_taken_twice(rig: Rig) -> None:
    """While its commit is awaited nothing is said; later it is acknowledged again."""
    rig.shelf.open.clear()
    rig.line.write(data(1) + data(1))
    await until(lambda: rig.status["repeated"] == 1)
    rig.shelf.open.set()
    assert await rig.hear() == [Ack(S, 1)]
    rig.line.write(data(1, b"the payload may differ"))
    assert await rig.hear() == [Ack(S, 1)]
    assert rig.shelf.payloads == [b"{}"]
    assert rig.status["repeated"] == 2
    rig.line.write(data(1, session=S + 1))
    assert await rig.hear() == [Ack(S + 1, 1)]
    assert len(rig.shelf.payloads) == 2


async def test_a_frame_is_known_after_the_port_was_reopened(rig: Rig) -> None:
    """Its ACK was lost with the cable; it is acknowledged again and not taken twice."""
    rig.shelf.open.clear()
    rig.line.write(data(1))
    await until(lambda: rig.shelf.offers)
    rig.line.unplug()
    await until(lambda: rig.status["state"] == "waiting for port")
    rig.shelf.open.set()
    await until(lambda: rig.status["answers_dropped"] == 1)
    rig.line.plug()
    await until(lambda: rig.status["state"] == "reading")
    rig.line.write(data(1))
    assert await rig.hear() == [Ack(S, 1)]
    assert len(rig.shelf.kept) == 1


@pytest.mark.parametrize("is_unplugged", [False, True])
async def test_a_frame_is_known_after_a_reload(rig: Rig, is_unplugged: bool) -> None:
    """The line stays open then, or was gone; either way who never heard the ACK sends it to the next source."""
    rig.line.write(data(1))
    assert await rig.hear() == [Ack(S, 1)]
    if is_unplugged:
        rig.line.unplug()
        await until(lambda: rig.status["state"] == "waiting for port")
    await rig.stop()
    rig.source = rig.new_source()
    if is_unplugged:
        rig.line.plug()
    await rig.start()
    rig.line.write(data(1) + data(2))
    assert set(await rig.hear(2)) == {Ack(S, 1), Ack(S, 2)}
    assert len(rig.shelf.payloads) == 2
    assert rig.status["repeated"] == 1


async def test_malformed_payloads_are_acknowledged_and_counted(rig: Rig) -> None:
    """They are in the quarantine; sent again they would block the device for ever."""
    rig.shelf.malformed = 3
    rig.line.write(data(1))
    assert await rig.hear() == [Ack(S, 1)]
    assert rig.status["malformed"] == 3


# time and names


@pytest.mark.parametrize(
    ("wall_ns", "synced", "unix_ms", "quality"),
    [
        (1_790_000_000_123_456_789, True, 1_790_000_000_123, Quality.SYNCED),
        (1_790_000_000_123_456_789, False, 1_790_000_000_123, Quality.UNSYNCED),
        (5 * NS_PER_S, False, 0, Quality.UNKNOWN),
    ],
)
async def test_a_hello_is_answered_with_the_time(
    rig: Rig, wall_ns: int, synced: bool, unix_ms: int, quality: int
) -> None:
    """And with how good it is; a clock that was never set gives none."""
    rig.clock.wall, rig.clock.synced = wall_ns, synced
    rig.line.write(framing.encode_hello(S, "e661"))
    assert await rig.hear() == [Time(S, unix_ms, quality)]
    assert rig.status["devices"] == ["e661"]


async def test_only_the_devices_heard_last_are_listed(rig: Rig) -> None:
    """A board that restarts all day does not fill the status."""
    for session in range(serial_module.DEVICES_MAX + 5):
        rig.source._meet(framing.Hello(1, session, f"d{session}"))
    assert len(rig.status["devices"]) == serial_module.DEVICES_MAX
    assert rig.status["devices"][-1] == f"d{serial_module.DEVICES_MAX + 4}"


async def test_a_board_that_restarts_all_day_does_not_fill_the_log(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The first devices are said, then one in a while, with how many there were; noise draws sessions too."""
    caplog.set_level(logging.INFO)
    for session in range(500):
        rig.source._meet(framing.Hello(1, session, f"d{session}"))
    greetings = [message for message in caplog.messages if "device d" in message]
    assert greetings[:2] == [
        "line1: device d0, protocol version 1",
        "line1: device d1, protocol version 1 (2 sessions since the start)",
    ]
    assert len(greetings) == serial_module.GREETED_MAX
    rig.clock.advance(301 * NS_PER_S)
    for session in range(500, 600):
        rig.source._meet(framing.Hello(1, session, f"d{session}"))
    assert caplog.messages[-1] == "line1: device d500, protocol version 1 (501 sessions since the start)"
    assert len(caplog.messages) == len(greetings) + 1


async def test_a_devices_name_fits_one_line(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """In the log and in the status, whatever the firmware, or the noise, calls itself."""
    caplog.set_level(logging.INFO)
    rig.source._meet(framing.Hello(1, 7, "\x1b[2J\u202e\n" + "n" * 10_000))
    for text in (caplog.messages[-1], rig.status["devices"][-1]):
        assert text.isprintable()
        assert len(text) < 120


# ports that come and go


async def test_a_port_that_is_not_there_yet_is_awaited(make_rig: Callable[..., Rig]) -> None:
    """The state says so, and since when."""
    rig = make_rig()
    rig.line.unplug()
    await rig.start(state="waiting for port")
    assert "is not there" in rig.status["last_error"]
    rig.clock.advance(90 * NS_PER_S)
    assert rig.status["since_s"] == 90
    rig.line.plug()
    await until(lambda: rig.status["state"] == "reading")
    assert rig.status["last_error"] == ""
    rig.line.write(data(1))
    assert await rig.hear() == [Ack(S, 1)]


async def test_an_unplugged_port_is_reopened_when_it_is_back(rig: Rig) -> None:
    """Under the same name, though it is another device; half a frame is dropped and counted."""
    first = rig.status["device"]
    rig.line.write(data(1) + data(2)[:5])
    await rig.hear()
    await until(lambda: rig.source._reader.held_bytes == 5)
    rig.line.unplug()
    await until(lambda: rig.status["state"] == "waiting for port")
    assert (rig.status["unplugged"], rig.status["rejected"]) == (1, {"cut_off": 1})
    rig.line.plug()
    await until(lambda: rig.status["state"] == "reading")
    rig.line.write(data(2))
    assert await rig.hear() == [Ack(S, 2)]
    assert rig.status["opened"] == 2
    assert rig.status["device"] == first == str(rig.line.path)
    assert rig.telemetry.value("tidegate_serial_unplugged", source="line1") == 1


async def test_an_adapter_that_comes_and_goes_is_said_once_in_a_while(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A loose plug must not fill the log; the status counts each time, and no acknowledged frame is lost."""
    for turn in range(1, 13):
        rig.line.write(data(turn))
        await rig.hear()
        rig.line.write(data(turn + 1)[: turn % 5])
        rig.line.replug()
        await until(lambda turn=turn: rig.status["opened"] == turn + 1)
    assert rig.status["unplugged"] == 12
    assert len(rig.shelf.payloads) == 12
    assert len(caplog.records) == 1
    rig.clock.advance(301 * NS_PER_S)
    rig.line.replug()
    await until(lambda: rig.status["opened"] == 14)
    assert "(13 times since the start)" in caplog.text


async def test_noise_floods_neither_log_nor_shelf_and_is_explained(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a wrong baud rate brings: counted by reason, nothing offered, one line in the log; then a good frame."""
    monkeypatch.setattr(serial_module, "MOVED_CHECK_S", 0.01)
    await rig.stop()
    await rig.start()
    noise = random.Random(1).randbytes(200_000)
    await asyncio.to_thread(rig.line.write, noise)
    await until(lambda: rig.status["bytes"] == len(noise))
    await until(lambda: "nearly all frames are damaged" in caplog.text)
    assert sum(rig.status["rejected"].values()) > 500
    assert rig.shelf.offers == []
    assert "115200 baud" in rig.status["advice"]
    await asyncio.sleep(0.05)
    assert len(caplog.records) == 1
    rig.line.write(b"\0" + data(1))
    assert await rig.hear() == [Ack(S, 1)]


@pytest.mark.parametrize(
    ("reason", "is_damage"),
    [("malformed_text", True), ("malformed_cbor", True)]
    + [(reason, False) for reason in ("max_series", "no_mapping", "dropped_by_mapping", "no_readings", "bad_step")],
)
async def test_lines_are_damaged_where_nobody_can_read_them(
    make_rig: Callable[..., Rig], reason: str, is_damage: bool
) -> None:
    """What is lost for want of a mapping or of a series came whole: no cable is to blame."""
    rig = make_rig(framing="lines")
    await rig.start()
    rig.shelf.malformed, rig.shelf.reason = 2, reason
    rig.line.write(b"x\n" * (NOISE_MIN + 1))
    await until(lambda: rig.status["on_disk"] == NOISE_MIN + 1)
    assert bool(rig.status["advice"]) == is_damage
    # What is dropped as somebody wishes is not wrong.
    assert rig.status["malformed"] == (0 if reason == "dropped_by_mapping" else 2 * (NOISE_MIN + 1))


async def test_frames_whose_crc_is_right_are_not_damaged(rig: Rig) -> None:
    """Whatever they are refused for: a payload, a later version, an echo, no room."""
    rig.shelf.malformed, rig.shelf.reason = 1, "malformed_json"
    many = NOISE_MIN + 1
    rig.line.write(b"".join(framing.encode_plain(b"{") for _ in range(many)))
    await until(lambda: rig.status["malformed"] == many)
    assert rig.status["advice"] == ""
    rig.line.write(framing.encode_frame(b"\x1fwhat") + framing.encode_frame(b"\x01abc") + framing.encode_ack(S, 1))
    await until(lambda: rig.status["rejected"] == {"kind": 1, "header": 1, "echo": 1})
    assert rig.status["advice"] == ""
    assert rig.source._watch is not None
    assert rig.source._watch._damaged == 0


async def test_a_line_that_never_ends_costs_one_line_of_memory(make_rig: Callable[..., Rig]) -> None:
    """It is dropped and counted while it still comes, the status says what it may be, and the next line is read."""
    rig = make_rig(framing="lines", frame_bytes_max=Size(1000))
    await rig.start()
    for _ in range(50):
        rig.line.write(b"x" * 1000)
        await asyncio.sleep(0)
        assert rig.source._reader.held_bytes <= 1000
    await until(lambda: rig.status["bytes"] == 50_000)
    assert rig.source._reader.held_bytes == 0
    assert rig.status["rejected"] == {"overlong": 1}
    assert 'framing = "cobs" meant' in rig.status["advice"]
    rig.line.write(b"end\n{}\n")
    await until(lambda: rig.shelf.payloads == [b"{}"])
    assert rig.status["advice"] == ""


async def test_a_device_that_says_nothing_is_explained(rig: Rig) -> None:
    """The port is open and nothing comes: after a minute the status says what to look at."""
    assert rig.status["advice"] == ""
    rig.clock.advance(60 * NS_PER_S)
    assert "are TX and RX crossed" in rig.status["advice"]
    rig.line.write(data(1))
    await rig.hear()
    assert rig.status["advice"] == ""


async def test_who_sends_nothing_more_before_its_answer_is_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, window_of_two: type
) -> None:
    """Each device by itself; what was put off is answered too, and waits no more."""
    monkeypatch.setattr(serial_module, "Window", window_of_two)
    rig.shelf.open.clear()
    rig.line.write(data(1))
    await until(lambda: rig.status["received"] == 1)
    rig.line.write(data(1, session=7) + data(2))
    await until(lambda: rig.status["received"] == 3)
    rig.shelf.open.set()
    await rig.hear(3)
    rig.shelf.full = 1
    rig.line.write(data(3) + data(4))
    await rig.hear(2)
    rig.line.write(data(3))
    await rig.hear()
    assert [arrivals.is_last for arrivals in rig.shelf.offers] == [False, True, True, False]


async def test_a_link_that_leads_elsewhere_is_followed(
    rig: Rig, make_serial_line: Callable[..., SerialLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any hang-up: the adapter was renamed while it was open."""
    monkeypatch.setattr(serial_module, "MOVED_CHECK_S", 0.02)
    await rig.stop()
    await rig.start()
    other = make_serial_line(name="other")
    rig.line.path.unlink()
    rig.line.path.symlink_to(other.path.readlink())
    await until(lambda: rig.status["opened"] == 3)
    other.write(framing.encode_plain(b"{}"))
    await until(lambda: rig.shelf.payloads == [b"{}"])


@pytest.mark.parametrize(
    ("settings", "control", "input_flags"),
    [
        ({}, termios.CS8, 0),
        ({"parity": "even"}, termios.CS8 | termios.PARENB, 0),
        ({"parity": "odd"}, termios.CS8 | termios.PARENB | termios.PARODD, 0),
        ({"parity": "mark"}, termios.CS8 | termios.PARENB | termios.PARODD | CMSPAR, 0),
        ({"parity": "space"}, termios.CS8 | termios.PARENB | CMSPAR, 0),
        ({"bytesize": 7, "framing": "lines"}, termios.CS7, 0),
        ({"bytesize": 5, "framing": "lines"}, termios.CS5, 0),
        ({"stopbits": 2}, termios.CS8 | termios.CSTOPB, 0),
        ({"rtscts": True}, termios.CS8 | termios.CRTSCTS, 0),
        ({"xonxoff": True, "framing": "lines"}, termios.CS8, termios.IXON | termios.IXOFF),
    ],
)
async def test_the_line_is_set_as_it_is_said(
    make_rig: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    control: int,
    input_flags: int,
) -> None:
    """In what the kernel is asked for: a pty takes part of it only."""
    asked: list[list[Any]] = []
    real = termios.tcsetattr

    def ask(fd: int, when: int, attributes: list[Any]) -> None:
        asked.append(attributes)
        real(fd, when, attributes)

    monkeypatch.setattr(termios, "tcsetattr", ask)
    await make_rig(**settings).start()
    of_data = termios.CSIZE | termios.CSTOPB | termios.PARENB | termios.PARODD | CMSPAR | termios.CRTSCTS
    assert asked[-1][2] & of_data == control
    assert asked[-1][0] & (termios.IXON | termios.IXOFF) == input_flags


async def test_a_port_is_opened_by_one_program_only(make_rig: Callable[..., Rig]) -> None:
    """The second one says why it waits, and gets it when the first lets go."""
    rig, second = make_rig(), make_rig(name="line2")
    await rig.start()
    await second.start(state="waiting for port")
    assert "in use by another program" in second.status["last_error"]
    rig.line.write(data(1))
    await rig.hear()
    await rig.stop()
    await until(lambda: second.status["state"] == "reading")
    assert rig.status["state"] == "stopped"


async def test_it_is_read_again_when_half_of_what_may_be_pending_is_on_the_disk(rig: Rig) -> None:
    """Not with each message that gets there: that would be a pause for each."""
    most = int(rig.settings.pending_max)
    for pending, state in [
        (most - 1, "reading"),
        (most, "full, not reading"),
        (most - 1, "full, not reading"),
        (most // 2 + 1, "full, not reading"),
        (most // 2, "reading"),
        (most - 1, "reading"),
        (0, "reading"),
    ]:
        rig.source._pending_bytes = pending
        rig.source._read_if_room()
        assert (rig.status["state"], rig.source._link.is_reading) == (state, state == "reading")


async def test_waits_grow_for_a_port_that_does_not_open_and_not_for_one_that_is_missing(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `reopen_delay` on, up to half a minute, never in step with others."""
    rig = make_rig(reopen_delay=Duration(1.5))
    for attempts, longest_s in [(1, 1.5), (2, 3), (5, 24), (6, 30), (1000, 30)]:
        waits = {rig.source._wait_s(attempts) for _ in range(20)}
        assert 0.7 * longest_s <= min(waits) < max(waits) <= longest_s
    asked: list[int] = []

    def fail(*_: object) -> None:
        raise serial_port.PortError("no", is_missing=len(asked) >= 3)

    monkeypatch.setattr(serial_port, "open_port", fail)
    monkeypatch.setattr(rig.source, "_wait_s", lambda attempts: asked.append(attempts) or 0)
    await rig.start(state="waiting for port")
    await until(lambda: len(asked) >= 6)
    assert asked[:6] == [1, 2, 3, 1, 1, 1]


async def test_waits_grow_for_a_port_that_opens_and_goes_again_without_a_word(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter on a hub without power is not opened in a circle; one that brought something is, at once."""
    rig = make_rig()
    asked: list[int] = []

    async def go(port: serial_port.Port) -> None:
        rig.source._counts["bytes"] += len(asked) == 3
        serial_port.close_port(port)

    monkeypatch.setattr(rig.source, "_serve", go)
    monkeypatch.setattr(rig.source, "_wait_s", lambda attempts: asked.append(attempts) or 0)
    rig.task = asyncio.create_task(rig.source.run())
    await until(lambda: len(asked) >= 5)
    await rig.stop()
    assert asked[:5] == [1, 2, 3, 1, 2]


async def test_what_opens_after_the_stop_is_closed(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that opens a slow port cannot be stopped; what it brings is let go."""
    rig = make_rig()
    opening, go_on, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def open_slowly(port: str, options: serial_port.PortOptions) -> serial_port.Port:
        loop.call_soon_threadsafe(opening.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(DEADLINE_S)
        return serial_port.Port(port, -1, None, options)

    monkeypatch.setattr(serial_port, "open_port", open_slowly)
    monkeypatch.setattr(serial_port, "close_port", lambda port: closed.set())
    rig.task = asyncio.create_task(rig.source.run())
    await opening.wait()
    await rig.stop()
    assert rig.status["state"] == "stopped"
    go_on.set()
    async with asyncio.timeout(DEADLINE_S):
        await closed.wait()


# no room


async def test_lines_are_held_and_offered_again(make_rig: Callable[..., Rig]) -> None:
    """The same arrivals, with their own time, until there is room."""
    rig = make_rig(framing="lines")
    rig.shelf.full = 3
    await rig.start()
    rig.line.write(b"one\n")
    await until(lambda: rig.shelf.payloads == [b"one"])
    assert len(rig.shelf.offers) == 4
    assert len({id(offer) for offer in rig.shelf.offers}) == 1
    assert rig.status["put_off"] == 3


async def test_reading_stops_at_the_bound_and_goes_on_below_half_of_it(make_rig: Callable[..., Rig]) -> None:
    """Memory stays bounded whatever the device sends; nothing of what was read is lost."""
    rig = make_rig(framing="lines", pending_max=Size(8192), frame_bytes_max=Size(2048))
    rig.shelf.open.clear()
    await rig.start()
    lines = [b"%03d" % n + b"x" * 500 for n in range(60)]
    for line in lines[:10]:
        rig.line.write(line + b"\n")
        await asyncio.sleep(0.002)
    await until(lambda: rig.status["state"] == "full, not reading")
    held = rig.status["pending_bytes"]
    assert 8192 <= held <= 8192 + 4096 + serial_module.OFFER_BYTES
    rig.line.write(lines[10] + b"\n")
    await asyncio.sleep(0.03)
    assert rig.status["pending_bytes"] == held
    rig.shelf.open.set()
    for line in lines[11:]:
        rig.line.write(line + b"\n")
    await until(lambda: rig.shelf.payloads == lines)
    assert rig.status["state"] == "reading"


async def test_a_port_that_comes_back_is_not_read_while_there_is_no_room(
    make_rig: Callable[..., Rig],
) -> None:
    """The bound holds across an unplug."""
    rig = make_rig(framing="lines", pending_max=Size(4096), frame_bytes_max=Size(2048))
    rig.shelf.open.clear()
    await rig.start()
    rig.line.write(b"x" * 1500 + b"\n")
    await until(lambda: rig.status["pending_bytes"])
    rig.line.replug()
    await until(lambda: rig.status["opened"] == 2)
    rig.source._take(b"x" * 1500 + b"\n")
    assert rig.status["state"] == "full, not reading"
    rig.source._read_if_room()
    assert not rig.source._link.is_reading
    rig.shelf.open.set()
    await until(lambda: rig.status["state"] == "reading")


async def test_answers_that_the_device_does_not_read_are_bounded(rig: Rig) -> None:
    """Past the bound they are dropped and counted; the device will ask again."""
    rig.line.unplug()
    await until(lambda: rig.status["state"] == "waiting for port")
    rig.source._send([b"x"] * 5)
    assert rig.status["answers_dropped"] == 5


# the end


async def test_a_stop_lets_what_is_under_way_be_kept_and_acknowledged(rig: Rig) -> None:
    """It reads no more, waits for the commit, answers, closes."""
    rig.shelf.open.clear()
    rig.line.write(data(1))
    await until(lambda: rig.shelf.offers)
    assert rig.task is not None
    rig.task.cancel()
    await asyncio.sleep(0.02)
    rig.line.write(data(2))
    rig.shelf.open.set()
    with pytest.raises(asyncio.CancelledError):
        await rig.task
    assert await rig.hear() == [Ack(S, 1)]
    assert len(rig.shelf.offers) == 1
    assert rig.status["state"] == "stopped"


async def test_what_comes_between_a_stop_and_the_next_start_is_read_then(make_rig: Callable[..., Rig]) -> None:
    """As at a reload: a line that was cut by it comes whole, and none is missing."""
    rig = make_rig(framing="lines")
    await rig.start()
    rig.line.write(b"one\ntw")
    await until(lambda: rig.status["bytes"] == 6)
    rig.shelf.open.clear()
    rig.line.write(b"o\nth")
    await until(lambda: rig.status["bytes"] == 10)
    assert rig.task is not None
    rig.task.cancel()
    await asyncio.sleep(0.02)
    rig.line.write(b"ree\nfour\n")
    rig.shelf.open.set()
    with pytest.raises(asyncio.CancelledError):
        await rig.task
    rig.line.write(b"five\n")
    rejected = rig.status["rejected"]
    rig.source = rig.new_source()
    await rig.start()
    await until(lambda: len(rig.shelf.payloads) == 5)
    assert rig.shelf.payloads == [b"one", b"two", b"three", b"four", b"five"]
    assert rejected == rig.status["rejected"] == {}


@pytest.mark.parametrize("is_full_for_all", [False, True])
async def test_a_stop_does_not_wait_for_room_for_ever(
    make_rig: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_full_for_all: bool,
) -> None:
    """What found no room by then is lost: that is said, and counted where the shelf takes that."""
    monkeypatch.setattr(serial_module, "STOP_S_MAX", 0.05)
    rig = make_rig(framing="lines")
    rig.shelf.full = 1000
    rig.shelf.after_s = 60.0
    await rig.start()
    rig.line.write(b"one\ntwo\n")
    await until(lambda: rig.status["put_off"] == 2)
    rig.shelf.full = int(is_full_for_all)
    await rig.stop()
    assert "line1: 2 messages found no room before the stop: they are lost" in caplog.text
    assert [arrivals.dropped for arrivals in rig.shelf.kept] == ([] if is_full_for_all else [{"no_room": 2}])
    assert rig.shelf.payloads == []


async def test_what_waits_for_room_at_the_stop_is_lost_as_well(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is just being offered or waits to be offered again makes no difference: nobody has it."""
    monkeypatch.setattr(serial_module, "STOP_S_MAX", 0.05)
    rig = make_rig(framing="lines")
    await rig.start()
    rig.shelf.open.clear()
    rig.line.write(b"one\ntwo\n")
    await until(lambda: sum(map(len, rig.shelf.offers)) == 2)
    asyncio.get_running_loop().call_later(0.2, rig.shelf.open.set)
    await rig.stop()
    assert [arrivals.dropped for arrivals in rig.shelf.kept] == [{"no_room": 2}]


async def test_what_was_let_in_before_the_stop_is_not_lost(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes to the disk without the source, which must not count it a second time."""
    monkeypatch.setattr(serial_module, "STOP_S_MAX", 0.05)
    rig = make_rig(framing="lines")
    await rig.start()
    rig.shelf.open.clear()
    rig.line.write(b"one\ntwo\n")
    await until(lambda: sum(map(len, rig.shelf.offers)) == 2)
    for arrivals in rig.shelf.offers:
        # Who lets them in has made columns of them.
        arrivals.payloads = ()
    asyncio.get_running_loop().call_later(0.2, rig.shelf.open.set)
    await rig.stop()
    assert [arrivals.dropped for arrivals in rig.shelf.kept] == []
    assert "found no room" not in caplog.text


async def test_a_failure_behind_the_door_ends_the_source_and_it_can_be_started_again(rig: Rig) -> None:
    """Whoever supervises it sees the error; the frame was not kept, so it is new when it comes again."""
    rig.shelf.error = RuntimeError("a mistake of ours")
    rig.line.write(data(1))
    assert rig.task is not None
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await rig.task
    assert rig.status["state"] == "stopped"
    rig.shelf.error = None
    await rig.start()
    rig.line.write(data(1))
    assert await rig.hear() == [Ack(S, 1)]


# one contract, five wires


def perfect(line: SerialLine) -> None:
    """Leave the line as it is."""


def lossy(line: SerialLine) -> None:
    """One byte in 300 is lost, both ways."""
    line.to_host.drop = line.to_device.drop = 1 / 300


def noisy(line: SerialLine) -> None:
    """One byte in 300 is changed, both ways."""
    line.to_host.garble = line.to_device.garble = 1 / 300


def slow(line: SerialLine) -> None:
    """Every chunk takes its time, and comes in small pieces."""
    line.to_host.delay_s = line.to_device.delay_s = 0.02
    line.to_host.bytes_per_s = 20_000


class KeepingDevice:
    """A device with a window of four that keeps what it sent until it is acknowledged."""

    def __init__(self, line: SerialLine, payloads: list[bytes], *, one_by_one: bool) -> None:
        self._line = line
        self._waiting = dict(enumerate(payloads))
        self._due = dict.fromkeys(self._waiting, 0.0)
        self._one_by_one = one_by_one
        self._reader = FrameReader(256)

    async def run(self) -> None:
        """Send until all is acknowledged."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(50):
            while self._waiting:
                for sequence in list(self._waiting)[:4]:
                    if self._due[sequence] <= loop.time():
                        self._due[sequence] = loop.time() + 0.15
                        await self._send(b"\0" + data(sequence, self._waiting[sequence], topic=b"d"))
                await asyncio.sleep(0.002)
                self._listen(loop.time())

    def _listen(self, now_s: float) -> None:
        for body in self._reader.feed(self._line.read(within_s=0)):
            answer = framing.read_message(body)
            if isinstance(answer, Ack):
                self._waiting.pop(answer.sequence, None)
            else:
                assert isinstance(answer, Nak)
                self._due[answer.sequence] = now_s + answer.after_ms / 1000

    async def _send(self, wire: bytes) -> None:
        if not self._one_by_one:
            self._line.write(wire)
            return
        for at in range(len(wire)):
            self._line.write(wire[at : at + 1])
            await asyncio.sleep(0)


@pytest.mark.parametrize("hurt", [perfect, lossy, noisy, slow])
@pytest.mark.parametrize("one_by_one", [False, True], ids=["at once", "byte by byte"])
async def test_every_payload_is_kept_exactly_once(
    make_rig: Callable[..., Rig], hurt: Callable[[SerialLine], None], one_by_one: bool
) -> None:
    """Over any wire, with a shelf that is full now and then and an adapter that falls out half way."""
    rig = make_rig()
    await rig.start()
    hurt(rig.line)
    payloads = [json.dumps({"n": n, "pad": "x" * (n % 60)}).encode() for n in range(80)]
    device = asyncio.create_task(KeepingDevice(rig.line, payloads, one_by_one=one_by_one).run())
    await until(lambda: len(rig.shelf.payloads) > 20)
    rig.shelf.full = 2
    await until(lambda: len(rig.shelf.payloads) > 40)
    rig.line.replug()
    await device
    assert sorted(rig.shelf.payloads) == sorted(payloads)
    assert set(rig.shelf.topics) == {b"line1/d"}
    assert rig.status["unplugged"] == 1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
async def test_every_payload_is_kept_exactly_once_for_long(
    make_serial_line: Callable[..., SerialLine], make_rig: Callable[..., Rig], seed: int
) -> None:
    """Loss, noise and delay together, from a seed; the adapter falls out again and again."""
    line = make_serial_line(name=f"seed{seed}", seed=seed)
    rig = make_rig(port=str(line.path))
    await rig.start()
    for hurt in (lossy, noisy, slow):
        hurt(line)
    payloads = [json.dumps({"n": n, "pad": "x" * (n % 200)}).encode() for n in range(150)]
    device = asyncio.create_task(KeepingDevice(line, payloads, one_by_one=False).run())
    while not device.done():
        await asyncio.sleep(1)
        rig.shelf.full = 3
        line.replug()
    await device
    assert sorted(rig.shelf.payloads) == sorted(payloads)
