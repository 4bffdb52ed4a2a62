"""A road to a receiver that loses requests and answers, throttles, refuses and lies, by dice; and its thread.

Takes the place of the network through the uplink's own seams. What it hands over has been taken by the far side,
whether or not the answer says so. Must not decide what is right: `FarSide` does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.codecs import zstd
from gateway.core.contracts import Signal, TryLaterError
from gateway.net.line import NEVER
from gateway.uplinks.guards import NOT_TAKEN, Answer, InTransitError, Packed, Reply, TooLargeError, check_reply
from hil.plant_model import read_points

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.net.deadline import Deadline
    from hil.plant_model import Point

T = TypeVar("T")
BODY_BYTES_MAX: Final = 64 << 20
OVERDUE_S: Final = 10.0
PASSED_ON_SHARE: Final = 0.5


@dataclass(slots=True)
class Weather:
    """How a road is now. `trouble` is the share of requests that meet some fate while it is up."""

    is_up: bool = True
    trouble: float = 0.0
    delay_s: float = 0.05
    readings_max: int = 1 << 30


class BadRoad:
    """A `Wire` in bad weather. `deliver(points)` is called with what the far side takes."""

    def __init__(
        self,
        random: Random,
        weather: Weather,
        *,
        deliver: Callable[[list[Point]], None],
        now_s: Callable[[], float],
        unix_s: Callable[[], int],
    ) -> None:
        self.bytes_sent = self.requests = 0
        self.fates: dict[str, int] = {}
        self.is_dead = False
        self.rejected = 0
        self._random = random
        self.weather = weather
        self._deliver = deliver
        self._now_s = now_s
        self._unix_s = unix_s
        self._since_s: float | None = None
        self._is_stalled = False
        self._is_aborted = False
        self._is_stopped = False

    def open(self) -> None:
        """Take requests."""
        self._is_stopped = False

    def send(self, packed: Packed, /) -> Answer:
        """Do as the dice say."""
        if self.is_dead or self._is_stopped:
            raise TryLaterError("the road is closed")
        self.requests += 1
        self.bytes_sent += len(packed.body)
        fate = self._fate()
        points = self._points(packed)
        act = getattr(self, f"_{fate}")
        try:
            answer: Answer = act(points)
        finally:
            # Behind it: what was taken came before its answer was lost.
            self.fates[fate] = self.fates.get(fate, 0) + 1
        return answer

    def _fate(self) -> str:
        if self._is_aborted:
            self._is_aborted = False
            return self._random.choice(["lost_before", "lost_after"])
        if not self.weather.is_up:
            return self._random.choice(["unreachable", "lost_before", "portal"])
        if self._random.random() >= self.weather.trouble:
            return "fine"
        return self._random.choice(
            ["lost_before", "lost_after", "busy", "throttled", "bad", "partial", "portal", "login", "error"]
        )

    @property
    def failures(self) -> int:
        """How many requests did not go through."""
        return sum(count for fate, count in self.fates.items() if fate not in {"fine", "partial"})

    def _points(self, packed: Packed) -> list[Point]:
        assert packed.signal is Signal.METRICS
        body = packed.body
        if packed.encoding == "zstd":
            body = zstd.decompress(body, bytes_max=BODY_BYTES_MAX)
        elif packed.encoding == "gzip":
            import zlib  # noqa: PLC0415  only where a refusal made it fall back

            body = zlib.decompress(body, 31)
        return read_points(body)

    def _take(self, points: list[Point]) -> None:
        if points:
            self._deliver(points)

    def _perhaps_take(self, points: list[Point], status: int) -> None:
        """Take them where what stands in between may have passed them on before it answered by itself."""
        if status not in NOT_TAKEN and self.weather.is_up and self._random.random() < PASSED_ON_SHARE:
            self._take(points)

    # One method for each fate.

    def _fine(self, points: list[Point]) -> Answer:
        if len(points) > self.weather.readings_max:
            raise TooLargeError("status 413")
        self._take(points)
        return Answer(seconds=self.weather.delay_s, rtt_s=self.weather.delay_s, server_time_s=self._unix_s())

    def _partial(self, points: list[Point]) -> Answer:
        rejected = self._random.randint(0, len(points))
        self.rejected += rejected
        self._take(points[rejected:])
        return Answer(rejected=rejected, message="some of these are odd", seconds=self.weather.delay_s)

    def _lost_before(self, _: list[Point]) -> Answer:
        raise InTransitError("the connection broke")

    def _lost_after(self, points: list[Point]) -> Answer:
        self._take(points)
        raise InTransitError("no answer within 10 s", answer_lost=True)

    def _unreachable(self, _: list[Point]) -> Answer:
        raise TryLaterError("no connection")

    def _busy(self, points: list[Point]) -> Answer:
        status = self._random.choice([408, 502, 503, 504])
        self._perhaps_take(points, status)
        return self._reply(Reply(status))

    def _throttled(self, _: list[Point]) -> Answer:
        return self._reply(Reply(429, retry_after_s=self._random.choice([0.0, 5.0, 120.0])))

    def _bad(self, _: list[Point]) -> Answer:
        return self._reply(Reply(400, message="cannot decode"))

    def _error(self, _: list[Point]) -> Answer:
        return self._reply(Reply(self._random.choice([500, 422])))

    def _login(self, _: list[Point]) -> Answer:
        return self._reply(Reply(self._random.choice([401, 403, 302])))

    def _portal(self, points: list[Point]) -> Answer:
        self._perhaps_take(points, 200)
        return self._reply(Reply(200, "text/html", is_page=True))

    @staticmethod
    def _reply(reply: Reply) -> Answer:
        check_reply(reply)
        raise AssertionError("these replies raise")

    # What the event loop calls.

    def is_overdue(self) -> bool:
        """Whether the answer should have been here by now."""
        return self._since_s is not None and self._now_s() - self._since_s > OVERDUE_S

    def began(self, *, is_stalled: bool) -> None:
        """Note when a call was begun; one that stalls goes nowhere before it is aborted."""
        self._since_s, self._is_stalled, self._is_aborted = self._now_s(), is_stalled, False

    def ended(self) -> None:
        """Note that no call is under way."""
        self._since_s = None

    @property
    def is_stalled(self) -> bool:
        """Whether the call under way waits for an answer that does not come."""
        return self._is_stalled and not self.is_dead and not self._is_stopped

    def abort(self) -> None:
        """End the request under way."""
        self._is_aborted |= self._is_stalled
        self._is_stalled = False

    def stop(self) -> None:
        """End the request under way and refuse further ones."""
        self._is_stopped = True

    def close(self) -> None:
        """Nothing is held open."""

    def told(self) -> dict[str, Any]:
        """Nothing is known of where it leads."""
        return {}


class Lane:
    """One of several receivers at the end of one bad road: each request meets its own fate there."""

    def __init__(self, road: BadRoad) -> None:
        self._road = road
        self.requests = self.bytes_sent = self.wire_bytes = self.head_bytes = 0
        self.is_connected = self.is_encrypted = False
        self.piece_bytes_max = BODY_BYTES_MAX
        self.device = ""
        self.before_piece: Callable[[int], None] = lambda _: None
        self.before_another: Callable[[], None] = lambda: None

    def send(self, packed: Packed, /, *, until: Deadline = NEVER) -> Answer:  # noqa: ARG002  time is the road's
        """Do as the dice say."""
        self.requests += 1
        self.bytes_sent += len(packed.body)
        return self._road.send(packed)

    def pause(self, seconds: float) -> None:
        """Nobody is in a hurry here."""

    def recycle(self) -> None:
        """Nothing is held open."""

    def told(self) -> dict[str, Any]:
        """Nothing is known of where it leads."""
        return {}

    def open(self) -> None:
        """Take requests."""
        self._road.open()

    def is_overdue(self) -> bool:
        """Whether the answer should have been here by now."""
        return self._road.is_overdue()

    def abort(self) -> None:
        """End the request under way."""
        self._road.abort()

    def stop(self) -> None:
        """End the request under way and refuse further ones."""
        self._road.stop()

    def close(self) -> None:
        """Nothing is held open."""


class InlineWorker:
    """The uplink's thread, in the loop: a call takes the road's time, half of it before and half after it acts."""

    def __init__(self, road: BadRoad, random: Random) -> None:
        self._road = road
        self._random = random
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Start `call`; the future has its result or error."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._act(future, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _act(self, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        async with self._turn:
            if not future.cancelled():
                await self._call(future, call)

    async def _call(self, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        weather = self._road.weather
        self._road.began(is_stalled=self._random.random() < weather.trouble / 10)
        await asyncio.sleep(self._random.uniform(0, weather.delay_s))
        while self._road.is_stalled:  # noqa: ASYNC110  virtual time makes a poll cost nothing
            await asyncio.sleep(1.0)
        result: Any = None
        failure: Exception | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001  as the thread hands every error over
            failure = error
        await asyncio.sleep(self._random.uniform(0, weather.delay_s))
        self._road.ended()
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)

    def close(self) -> bool:
        """Nothing to wait for."""
        return True
