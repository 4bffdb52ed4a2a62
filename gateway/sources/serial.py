"""The serial door: frames or lines from a port that may come and go. Must not decode payloads.

What was read in one go is offered as one `Arrivals`. DATA frames are acknowledged when their commit is on
disk; while there is no room they are answered with NAK and the device keeps them. Plain frames and lines have
nobody who keeps them: they are held here, up to `pending_max`, and offered again; past that nothing is read,
which stops a device that has flow control, and loses bytes in the kernel for one that has none (`line_errors`
of the status counts them where the driver does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random as random_module
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from gateway.codecs import framing
from gateway.codecs.framing import Data, Hello, LineReader, Plain, Sessions, Verdict
from gateway.core.clock import NS_PER_S, Quality, is_plausible
from gateway.core.contracts import DROPPED_BY_MAPPING, NO_ROOM, Accepted, Arrivals, FullError, MalformedError
from gateway.core.text import sentence
from gateway.core.timeouts import timeout
from gateway.sources import serial_port
from gateway.sources.serial_link import SerialLink
from gateway.sources.serial_port import PortError
from gateway.sources.serial_settings import REOPEN_S_MAX, SerialSettings
from gateway.sources.serial_watch import LineWatch
from gateway.sources.window import Window

if TYPE_CHECKING:
    from gateway.core.clock import Clock
    from gateway.core.contracts import Accept
    from gateway.core.telemetry import Telemetry
    from gateway.sources.serial_port import Port

__all__ = ["SerialSettings", "SerialSource"]

log = logging.getLogger("tidegate.serial")

# What an offer costs beside its bytes, so that a trickle of tiny messages is bounded too.
OFFER_BYTES: Final = 1_024
DEVICES_MAX: Final = framing.SESSIONS_MAX
DEVICE_CHARS_MAX: Final = 64
# A FullError that names no time must not become a loop.
RETRY_S_MIN: Final = 0.05
# A line that was heard from its beginning has come after so long a silence; adapters hand over each 16 ms.
PAUSE_S: Final = 0.03
PAUSE_BYTES: Final = 20
BITS_PER_BYTE: Final = 10
STOP_S_MAX: Final = 5.0
GIVE_UP_S_MAX: Final = 1.0
# How often a link is looked at that may have been pointed to another device.
MOVED_CHECK_S: Final = 5.0
# An adapter that comes and goes, or advice that comes back, is said this often in the log; the status has it all along.
SAY_S: Final = 300.0
KINDS_MAX: Final = 32
# How the reasons begin that bytes in disorder have: readings may be lost for others that are the settings' or nobody's.
UNREADABLE: Final = "malformed_"
# So many devices are greeted one by one; a bus has no more, and a board that starts again and again has no end.
GREETED_MAX: Final = 8

# What sources that were stopped know of their devices' frames, by port, for who comes next in this process.
_known_frames: dict[str, Sessions] = {}

READING: Final = "reading"
WAITING: Final = "waiting for port"
HOLDING: Final = "full, not reading"
STOPPED: Final = "stopped"


class SerialSource:
    """One serial line. `run` serves until cancelled, and may be called again after it failed.

    | state             | means                                                                 |
    | ----------------- | --------------------------------------------------------------------- |
    | waiting for port  | not there, in use, or not ours: `last_error` says which               |
    | reading           | open                                                                  |
    | full, not reading | `pending_max` is reached; goes on when half of it is on disk          |
    | stopped           | not running                                                           |
    """

    def __init__(
        self,
        settings: SerialSettings,
        *,
        accept: Accept,
        clock: Clock,
        telemetry: Telemetry,
        random: random_module.Random | None = None,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self._accept = accept
        self._clock = clock
        self._telemetry = telemetry
        self._random = random or random_module.Random()  # noqa: S311  jitter, not a secret
        self._topic = settings.name.encode()
        self._is_framed = settings.framing == "cobs"
        self._reader = settings.reader()
        self._sessions = Sessions()
        self._devices: OrderedDict[int, str] = OrderedDict()
        self._windows: OrderedDict[int, Window] = OrderedDict()
        self._watch: LineWatch | None = None
        self._opened_s: float | None = None  # until something comes: when it may be the end of a line
        self._said: dict[str, float] = {}
        self._link: SerialLink | None = None
        self._offers: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0
        self._outside = 0  # messages that found no room and that nobody else has
        self._ended = asyncio.Event()  # the port hung up, or an offer failed
        self._failure: BaseException | None = None
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._last_error = ""
        self._state = STOPPED
        self._since_ns = clock.monotonic_ns()

    def status(self) -> dict[str, object]:
        """Say how it is: counts of messages since the start, `since_s` seconds in this state."""
        port = self._link.port if self._link is not None else None
        return {
            "state": self._state,
            "since_s": round((self._clock.monotonic_ns() - self._since_ns) / NS_PER_S, 1),
            "port": self.settings.port,
            "device": port.path if port is not None else "",
            "received": self._counts["received"],
            "acknowledged": self._counts["acknowledged"],
            "on_disk": self._counts["on_disk"],
            "malformed": self._counts["malformed"],
            "repeated": self._counts["repeated"],
            "put_off": self._counts["put_off"],
            "answers_dropped": self._counts["answers_dropped"],
            "rejected": dict(self._rejected),
            "bytes": self._counts["bytes"],
            "pending_bytes": self._pending_bytes,
            "opened": self._counts["opened"],
            "unplugged": self._counts["unplugged"],
            "devices": list(self._devices.values()),
            "line_errors": serial_port.line_errors(port) if port is not None else {},
            "advice": self._watch.advice(self._now_s()) if self._watch is not None else "",
            "last_error": self._last_error,
        }

    async def run(self) -> None:
        """Serve until cancelled; then let what is on its way be kept and acknowledged, and close."""
        self._failure = None
        # A frame whose ACK was lost may come again after a reload.
        self._sessions = _known_frames.pop(self.settings.port, self._sessions)
        attempts = 0
        try:
            while self._failure is None:
                if attempts:
                    await asyncio.sleep(self._wait_s(attempts))
                try:
                    port = await self._open()
                except PortError as error:
                    self._note_missing(error)
                    # What is not there costs a look; what is there and does not open is left alone longer.
                    attempts = 1 if error.is_missing else attempts + 1
                    continue
                before = self._counts["bytes"]
                await self._serve(port)
                # A port that opens and says nothing before it goes again is not to be tried in a circle.
                attempts = 1 if self._counts["bytes"] > before else attempts + 1
        finally:
            await self._stop()
        raise self._failure

    def _wait_s(self, attempts: int) -> float:
        wait_s = min(self.settings.reopen_delay * 2.0 ** min(attempts - 1, 10), REOPEN_S_MAX)
        return wait_s * self._random.uniform(0.7, 1.0)

    def _note_missing(self, error: PortError) -> None:
        if str(error) != self._last_error:
            self._say(logging.WARNING, str(error), str(error))
        self._last_error = str(error)
        self._enter(WAITING)

    async def _open(self) -> Port:
        opening = asyncio.ensure_future(
            asyncio.to_thread(serial_port.open_port, self.settings.port, self.settings.options)
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread cannot be stopped: what it opens later is closed then.
            opening.add_done_callback(_close_late)
            raise

    async def _serve(self, port: Port) -> None:
        """Read until the port is gone or an offer fails."""
        self._link = link = SerialLink(port, on_data=self._take, on_gone=self._note_gone)
        self._ended.clear()
        self._counts["opened"] += 1
        self._telemetry.count("tidegate_serial_opened", source=self.name)
        self._last_error = ""
        self._watch = LineWatch(self.settings, now_s=self._now_s())
        self._reader.feed(port.rest)
        self._opened_s = None if port.goes_on else self._now_s()
        self._say(logging.INFO, "reading", f"reading {port.path}")
        self._read_if_room()
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with timeout(MOVED_CHECK_S):
                    await self._ended.wait()
            if advice := self._watch.advice(self._now_s()):
                self._say(logging.WARNING, advice[:20], advice)
            if not self._ended.is_set() and serial_port.has_moved(self.settings.port, port):
                link.give_up(
                    f"{self.settings.port} now leads to another device; where two have the same id, "
                    "name them by their place in /dev/serial/by-path"
                )
        if self._failure is None:
            await self._close()
            self._enter(WAITING)

    def _say(self, level: int, kind: str, sentence: str) -> None:
        """Log it, unless the same kind was said a short while ago."""
        now_s = self._now_s()
        if now_s - self._said.get(kind, -SAY_S) >= SAY_S:
            if len(self._said) >= KINDS_MAX:
                self._said.clear()
            self._said[kind] = now_s
            log.log(level, "%s: %s", self.name, sentence)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    def _note_gone(self, why: str) -> None:
        self._say(logging.WARNING, "gone", f"{why} ({self._counts['unplugged'] + 1} times since the start)")
        self._last_error = why
        self._counts["unplugged"] += 1
        self._telemetry.count("tidegate_serial_unplugged", source=self.name)
        self._ended.set()

    def _read_if_room(self) -> None:
        """Go on reading, or stop, by what is pending. Between half and the bound it stays as it is."""
        if self._link is None or self._ended.is_set():
            return
        if self._pending_bytes >= self.settings.pending_max:
            self._link.pause()
            self._enter(HOLDING)
        elif self._state != HOLDING or self._pending_bytes <= self.settings.pending_max // 2:
            self._link.resume()
            self._enter(READING)

    def _take(self, data: bytes) -> None:
        """One buffer: cut it, offer what it completed, answer what needs no commit."""
        arrived_ns = self._clock.monotonic_ns()
        self._counts["bytes"] += len(data)
        assert self._watch is not None
        self._watch.heard(len(data))
        if self._opened_s is not None:
            # The bytes of a line follow each other at once: what comes after a pause is the beginning of one.
            pause_s = max(PAUSE_S, PAUSE_BYTES * BITS_PER_BYTE / self.settings.baud)
            if isinstance(self._reader, LineReader) and self._now_s() - self._opened_s < pause_s:
                self._reader.join_late()
            self._opened_s = None
        bodies = self._reader.feed(data)
        self._count_rejected(self._reader.take_rejected())
        if not bodies:
            return
        if self._is_framed:
            # Their CRC is right: whatever they say, or are refused for, is no fault of the line.
            self._watch.cut(whole=len(bodies))
        plain, kept = self._sort(bodies) if self._is_framed else (bodies, [])
        if plain:
            self._offer(Arrivals(self.name, [self._topic] * len(plain), plain, arrived_ns), [])
        if kept:
            topics = [self._topic + b"/" + item.topic if item.topic else self._topic for item in kept]
            arrivals = Arrivals(self.name, topics, [item.payload for item in kept], arrived_ns)
            arrivals.is_last = self._wait_for_answers(kept)
            self._offer(arrivals, kept)

    def _sort(self, bodies: list[bytes]) -> tuple[list[bytes], list[Data]]:
        """Return the plain payloads and the DATA frames that are new; answer the rest."""
        plain: list[bytes] = []
        kept: list[Data] = []
        answers: list[bytes] = []
        for body in bodies:
            if body[0] >= framing.PLAIN_MIN:
                plain.append(body)
                continue
            try:
                message = framing.read_message(body)
            except MalformedError as error:
                self._count_rejected({error.reason: 1}, is_damage=False)
                continue
            if isinstance(message, Data):
                verdict = self._sessions.judge(message.session, message.sequence)
                if verdict is Verdict.NEW:
                    kept.append(message)
                    continue
                self._counts["repeated"] += 1
                self._telemetry.count("tidegate_serial_repeated", source=self.name)
                if verdict is Verdict.COMMITTED:
                    answers.append(framing.encode_ack(message.session, message.sequence))
            elif isinstance(message, Hello):
                self._meet(message)
                answers.append(self._time_for(message.session))
            else:
                # Our own answers: a half-duplex adapter hears what it sends.
                assert not isinstance(message, Plain)
                self._count_rejected({"echo": 1}, is_damage=False)
        self._send(answers)
        return plain, kept

    def _wait_for_answers(self, frames: list[Data]) -> bool:
        """Note that devices wait for these; return whether one of them sends nothing more before its answer."""
        loop_s = asyncio.get_running_loop().time()
        are_full = []
        for session, count in Counter(frame.session for frame in frames).items():
            window = self._windows.setdefault(session, Window(now_s=loop_s))
            self._windows.move_to_end(session)
            are_full.append(window.came(count, now_s=loop_s))
        while len(self._windows) > DEVICES_MAX:
            self._windows.popitem(last=False)
        return any(are_full)

    def _note_answered(self, frames: list[Data]) -> None:
        loop_s = asyncio.get_running_loop().time()
        for session, count in Counter(frame.session for frame in frames).items():
            if (window := self._windows.get(session)) is not None:
                window.answered(min(count, window.waiting), now_s=loop_s)

    def _meet(self, hello: Hello) -> None:
        device = sentence(hello.device_id, DEVICE_CHARS_MAX)
        if hello.session not in self._devices:
            self._counts["sessions"] += 1
            sessions = self._counts["sessions"]
            greeting = f"device {device or '?'}, protocol version {hello.version}"
            if sessions > 1:
                greeting += f" ({sessions} sessions since the start)"
            self._say(logging.INFO, f"session {min(sessions, GREETED_MAX)}", greeting)
        self._devices[hello.session] = device
        self._devices.move_to_end(hello.session)
        if len(self._devices) > DEVICES_MAX:
            self._devices.popitem(last=False)

    def _time_for(self, session: int) -> bytes:
        wall_ns = self._clock.wall_ns()
        quality = Quality.SYNCED if self._clock.is_synced() else Quality.UNSYNCED
        if not is_plausible(wall_ns):
            wall_ns, quality = 0, Quality.UNKNOWN
        return framing.encode_time(session, unix_ms=wall_ns // 1_000_000, quality=quality)

    def _offer(self, arrivals: Arrivals, frames: list[Data]) -> None:
        """Take `arrivals` to the disk in a task of their own; `frames` are the DATA they came in, if any."""
        size_bytes = arrivals.size_bytes + OFFER_BYTES
        self._counts["received"] += len(arrivals)
        self._pending_bytes += size_bytes
        self._read_if_room()
        task = asyncio.create_task(
            self._keep_or_put_off(arrivals, frames) if frames else self._keep(arrivals),
            name=f"{self.name}: accept",
        )
        self._offers.add(task)
        task.add_done_callback(lambda done: self._finish(done, size_bytes))

    async def _keep(self, arrivals: Arrivals) -> None:
        """Offer until there is room: nobody else has these."""
        while True:
            try:
                self._count_kept(arrivals, await self._accept(arrivals))
            except FullError as error:
                self._put_off(arrivals, error)
                self._outside += len(arrivals)
                await asyncio.sleep(max(error.after_s, RETRY_S_MIN))
                self._outside -= len(arrivals)
            except asyncio.CancelledError:
                # Once it was let in its payloads are gone, and it comes to the disk without us.
                self._outside += len(arrivals) if arrivals.payloads else 0
                raise
            else:
                return

    async def _keep_or_put_off(self, arrivals: Arrivals, frames: list[Data]) -> None:
        """Offer once, then acknowledge, or leave them with the device."""
        keys = [(frame.session, frame.sequence) for frame in frames]
        is_kept = False
        try:
            accepted = await self._accept(arrivals)
            is_kept = True
        except FullError as error:
            self._put_off(arrivals, error)
            after_ms = round(max(error.after_s, RETRY_S_MIN) * 1000)
            self._send([framing.encode_nak(*key, after_ms=after_ms) for key in keys])
            return
        finally:
            note = self._sessions.commit if is_kept else self._sessions.release
            for key in keys:
                note(*key)
            self._note_answered(frames)
        self._count_kept(arrivals, accepted)
        self._counts["acknowledged"] += len(keys)
        self._send([framing.encode_ack(*key) for key in keys])

    def _count_kept(self, arrivals: Arrivals, accepted: Accepted) -> None:
        self._counts["on_disk"] += len(arrivals)
        self._counts["malformed"] += sum(
            lost.readings for lost in accepted.malformed if lost.reason != DROPPED_BY_MAPPING
        )
        # A frame has a CRC; a line shows what became of it on the way only by what cannot be read in it.
        if self._watch is not None and not self._is_framed:
            damaged = len({lost.at for lost in accepted.malformed if lost.reason.startswith(UNREADABLE)})
            self._watch.cut(whole=len(arrivals) - damaged, damaged=damaged)

    def _put_off(self, arrivals: Arrivals, error: FullError) -> None:
        self._counts["put_off"] += len(arrivals)
        self._last_error = f"no room: {error}"
        self._telemetry.count("tidegate_serial_put_off", len(arrivals), source=self.name)

    def _finish(self, task: asyncio.Task[None], size_bytes: int) -> None:
        self._offers.discard(task)
        self._pending_bytes -= size_bytes
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not of the line's making: whoever supervises this source has to see it.
            self._failure = error
            self._ended.set()
        else:
            self._read_if_room()

    def _count_rejected(self, rejected: dict[str, int], *, is_damage: bool = True) -> None:
        for reason, count in rejected.items():
            self._rejected[reason] += count
            if self._watch is not None and is_damage:
                self._watch.cut(damaged=count)
            self._telemetry.count("tidegate_serial_rejected", count, source=self.name, reason=reason)

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._since_ns = self._clock.monotonic_ns()

    def _send(self, frames: list[bytes]) -> None:
        """Write answers, in front of them a 0x00 that ends whatever noise the device heard before."""
        if frames and (self._link is None or not self._link.send(b"\0" + b"".join(frames))):
            self._counts["answers_dropped"] += len(frames)

    async def _close(self) -> None:
        """Let go of the port; half a frame that it left behind is dropped and counted."""
        link, self._link = self._link, None
        if link is not None:
            self._reader.abandon()
            self._count_rejected(self._reader.take_rejected())
            self._watch = None
            await link.close()

    async def _stop(self) -> None:
        """Read no more, keep and acknowledge what is on its way, and close; bounded."""
        self._ended.set()
        if self._link is not None:
            self._link.pause()
        if self._offers:
            await asyncio.wait(self._offers, timeout=STOP_S_MAX)
        left = list(self._offers)
        for task in left:
            task.cancel()
        if left:
            log.warning("%s: %d buffers were not on the disk yet at the stop", self.name, len(left))
            await asyncio.wait(left, timeout=1)
        if self._outside:
            await self._give_up()
        if self._link is not None:
            await self._link.drain(within_s=1)
        if self._link is not None and not self._link.is_gone:
            link, self._link = self._link, None
            link.leave_open(rest=self._reader.take_held())
        await self._close()
        if self._is_framed:
            _known_frames[self.settings.port] = self._sessions
        self._enter(STOPPED)

    async def _give_up(self) -> None:
        """Have what found no room before the stop counted as lost: for that there is room on a full shelf too."""
        lost, self._outside = self._outside, 0
        log.warning("%s: %d messages found no room before the stop: they are lost", self.name, lost)
        dropped = Arrivals(self.name, [], [], self._clock.monotonic_ns(), dropped={NO_ROOM: lost})
        with contextlib.suppress(FullError, TimeoutError):
            async with timeout(GIVE_UP_S_MAX):
                await self._accept(dropped)


def _close_late(opening: asyncio.Future[Port]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        serial_port.close_port(opening.result())
