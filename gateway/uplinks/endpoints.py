"""Several receivers as one: a wire of wires, each with its own connection, breaker and health. Must not retry or wait.

    packed → order (balance.py, health.py) → first ─ taken ──────────────────────────────→ answer
                                               │
                                               ├─ nothing was taken, or refused ─→ the next one, in the same attempt
                                               └─ nobody knows, or it broke under way ─→ back to whoever sends

A refusal is about the data where all who can be asked agree. Where another one takes what was refused, it is held
against the one that refused: a wrong port among several must not have data given up that the others take.

What a receiver may have taken is not sent to another in the same attempt: whoever sends has to count it first. It is
told that another way is there, so that it need not wait (`at_once`), and the next request goes that way.

No byte goes to find out how a receiver is: one that was left out is tried with a request that is due anyway. Where
none is left the one that is soonest to be tried again is asked at once: how often, is for whoever sends to decide. When
that one is back, what kept all of them away may be over, and each of the others is tried next.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Signal, TryLaterError
from gateway.net.deadline import Deadline
from gateway.uplinks.balance import KINDS
from gateway.uplinks.breaker import Breaker, State
from gateway.uplinks.guards import (
    ENCODING_STATUSES,
    SERVER_ERROR,
    WAITING,
    HoldError,
    InTransitError,
    MeteredWire,
    NotYetError,
    StatusRefusedError,
    UnheardError,
)
from gateway.uplinks.health import Health
from gateway.uplinks.senders import HttpSender
from gateway.uplinks.settings import GRPC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from gateway.core.clock import Clock
    from gateway.uplinks.endpoint_settings import ReceiverSettings
    from gateway.uplinks.guards import Answer, Packed
    from gateway.uplinks.settings import OtlpUplinkSettings

log = logging.getLogger("tidegate.uplinks")


class EndpointWire(MeteredWire, Protocol):
    """A wire to one receiver."""

    device: str
    """The network device by which connections are made from now on; "": as the kernel's routes have it."""

    def send(self, packed: Packed, /, *, until: Deadline = ...) -> Answer:
        """Return when taken, at the latest `until`; raise as `Wire.send` does."""
        ...

    def recycle(self) -> None:
        """Let go of a connection that is too old or was idle for too long."""
        ...


@dataclass(slots=True, eq=False)
class Endpoint:
    """One receiver."""

    url: str
    weight: int
    wire: EndpointWire
    health: Health
    was_good: bool = True
    said: dict[Signal, str] = field(default_factory=dict)  # why a signal is held back, as people were told

    def told(self, now_s: float, *, is_current: bool) -> dict[str, Any]:
        """Return this as `tidegate status` shows it."""
        return {
            "endpoint": self.url,
            "weight": self.weight,
            "is_current": is_current,
            **self.health.told(now_s),
            "is_connected": self.wire.is_connected,
            "requests": self.wire.requests,
            "bytes_sent": self.wire.bytes_sent,
        }


Met: TypeAlias = "tuple[Endpoint, TryLaterError | StatusRefusedError]"


class Endpoints:
    """See `Wire` and `MeteredWire` for the contract. A request goes to one receiver after the other, in one thread."""

    def __init__(
        self, settings: ReceiverSettings, wires: Sequence[EndpointWire], *, clock: Clock, random: Random
    ) -> None:
        self._name = settings.name
        self._clock = clock
        self._falls_back = settings.compression == "auto"
        self._whole_s = None if settings.operation_timeout is None else float(settings.operation_timeout)
        limits = settings.breaker.limits()
        self._all = [
            Endpoint(target.url, target.weight, wire, Health(Breaker(limits, random)))
            for target, wire in zip(settings.targets(), wires, strict=True)
        ]
        self._balance = KINDS[settings.balance]([one.weight for one in self._all])
        self._current = self._all[0]
        self._late: Endpoint | None = None
        self._avoided: Endpoint | None = None
        self._is_stopped = False
        self._were_all_out = False
        self.before_another: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, settings: OtlpUplinkSettings, *, version: str, clock: Clock, random: Random) -> Endpoints:
        """Return the receivers of an uplink, each with a connection of its own."""
        sender: Callable[..., EndpointWire] = HttpSender
        if settings.protocol == GRPC:
            from gateway.uplinks.grpc_sender import GrpcSender  # noqa: PLC0415  HTTP/2, only where it is used

            sender = GrpcSender
        wires = [sender(settings, endpoint=one.url, version=version, clock=clock) for one in settings.targets()]
        return cls(settings, wires, clock=clock, random=random)

    # What each of them has, together.

    @property
    def requests(self) -> int:
        """Requests that were begun."""
        return sum(one.wire.requests for one in self._all)

    @property
    def bytes_sent(self) -> int:
        """Bodies and headers, as they left."""
        return sum(one.wire.bytes_sent for one in self._all)

    @property
    def wire_bytes(self) -> int:
        """What went over the wire so far, to and from all of them."""
        return sum(one.wire.wire_bytes for one in self._all)

    @property
    def head_bytes(self) -> int:
        """How long the head of a request is, about."""
        return max(one.wire.head_bytes for one in self._all)

    @property
    def is_connected(self) -> bool:
        """Whether the one that is first at the next request has a connection."""
        return self.order(Signal.METRICS)[0].wire.is_connected

    @property
    def is_encrypted(self) -> bool:
        """Whether a new connection begins with TLS: to all of them, or to none."""
        return self._all[0].wire.is_encrypted

    @property
    def before_piece(self) -> Callable[[int], None]:
        """Called before each piece of a body, whoever it goes to."""
        return self._all[0].wire.before_piece

    @before_piece.setter
    def before_piece(self, call: Callable[[int], None]) -> None:
        for one in self._all:
            one.wire.before_piece = call

    @property
    def piece_bytes_max(self) -> int:
        """The size of a piece at most."""
        return self._all[0].wire.piece_bytes_max

    @piece_bytes_max.setter
    def piece_bytes_max(self, size: int) -> None:
        for one in self._all:
            one.wire.piece_bytes_max = size

    @property
    def device(self) -> str:
        """The network device by which connections are made, whoever they go to."""
        return self._all[0].wire.device

    @device.setter
    def device(self, device: str) -> None:
        for one in self._all:
            one.wire.device = device

    def told(self) -> dict[str, Any]:
        """Return who is sent to, and how each of them is."""
        now_s, current = self._now_s(), self._current
        each = [one.told(now_s, is_current=one is current) for one in self._all]
        if len(each) == 1:
            # When it is tried again is what the uplink itself says.
            each[0]["retry_in_s"] = 0.0
        told = current.wire.told()
        return {"endpoint": current.url, **{key: told[key] for key in WAITING if key in told}, "endpoints": each}

    # From the event loop.

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self._is_stopped = False
        for one in self._all:
            one.wire.open()

    def is_overdue(self) -> bool:
        """Whether the answer should have been here by now."""
        current = self._current
        self._late = current if current.wire.is_overdue() else None
        return self._late is not None

    def abort(self) -> None:
        """End the request that was found overdue, or else whichever is under way."""
        late, self._late = self._late, None
        (late or self._current).wire.abort()

    def stop(self) -> None:
        """End the request under way and refuse further ones."""
        self._is_stopped = True
        for one in self._all:
            one.wire.stop()

    # From the thread.

    def pause(self, seconds: float) -> None:
        """Wait, unless the request is ended meanwhile."""
        self._current.wire.pause(seconds)

    def close(self) -> None:
        """Let go of connections."""
        for one in self._all:
            one.wire.close()

    def send(self, packed: Packed, /) -> Answer:
        """Send to whoever is first, and to the next one where nothing was taken; raise what all of them come to."""
        until, met, refused = Deadline.after(self._whole_s), list[Met](), list[Met]()
        order = self.order(packed.signal)
        self._were_all_out |= all(one.health.breaker.state is not State.CLOSED for one in self._all)
        self._avoided = None
        for one in self._all:
            one.wire.recycle()
        for one in order:
            if one.health.is_asked(self._now_s()) or (refused and until.is_over):
                continue
            try:
                answer = self._send_to(one, packed, among=order, until=until, is_another=bool(met or refused))
            except TryLaterError as error:
                met.append((one, error))
                if not self._may_go_on(error) or until.is_over:
                    self._look_elsewhere(one, packed.signal, error)
                    raise
            except StatusRefusedError as error:
                if not self._may_be_its_own(error, packed):
                    if error.status >= SERVER_ERROR:
                        self._look_elsewhere(one, packed.signal, error)
                    raise
                refused.append((one, error))
            else:
                self._blame(refused, packed.signal)
                return answer
        raise self._verdict(packed.signal, met, refused)

    def _may_be_its_own(self, error: StatusRefusedError, packed: Packed) -> bool:
        """Whether a refusal may be about a receiver and not about the data, so that another is to see them, too.

        Who does not take zstd is offered gzip first.
        """
        is_packing = self._falls_back and packed.encoding == "zstd" and error.status in ENCODING_STATUSES
        return len(self._all) > 1 and error.status < SERVER_ERROR and not is_packing and not self._is_stopped

    def _blame(self, refused: list[Met], signal: Signal) -> None:
        """Hold it against those who refused what another one has taken."""
        now_s = self._now_s()
        for one, error in refused:
            one.health.blamed(error, now_s=now_s)
            self._say(one, signal, now_s)

    def _verdict(self, signal: Signal, met: list[Met], refused: list[Met]) -> Exception:
        """Return what it comes to where nobody has taken it.

        A refusal is one where all who could be asked agree. Whoever has refused what another took, or was not well,
        says nothing of the data by itself: they are kept until somebody else can be asked.
        """
        now_s, asked = self._now_s(), [one for one, _ in (*met, *refused)]
        others = [one for one in self._all if one not in asked]
        do_agree = bool(refused) and not met and not any(one.health.allows(signal, now_s) for one in others)
        if do_agree and (len(refused) > 1 or not refused[0][0].health.breaker.failures):
            for one, _ in refused:
                one.health.breaker.succeeded(now_s)
            return refused[0][1]
        waiting = [one.health.why_not(signal, now_s) for one in others]
        errors = [error for _, error in met if isinstance(error, TryLaterError)]
        # Whoever may take it soonest decides when it is tried again: who is to be waited for longer hides nobody.
        return min((*errors, *waiting), key=lambda error: (error.after_s, isinstance(error, HoldError)))

    def order(self, signal: Signal) -> list[Endpoint]:
        """Return who is to be asked, in turn; never nobody, though it may be one that asks to wait."""
        now_s = self._now_s()
        ready = [number for number, one in enumerate(self._all) if one.health.allows(signal, now_s)]
        order = [self._all[number] for number in self._balance.order(ready, now_s)]
        if self._avoided in order[:-1]:
            order.remove(self._avoided)
            order.append(self._avoided)
        if order:
            return order

        def rank(one: Endpoint) -> tuple[bool, bool, float]:
            is_held, is_asked = one.health.is_held(signal, now_s), one.health.is_asked(now_s)
            return is_held, is_asked, one.health.soonest_s(signal, now_s)

        return [min(self._all, key=rank)]

    def _send_to(
        self, one: Endpoint, packed: Packed, *, among: list[Endpoint], until: Deadline, is_another: bool
    ) -> Answer:
        if is_another:
            self.before_another()
        self._current, began_s = one, self._now_s()
        one.health.begin(began_s)
        answer: Answer | Exception = NotYetError("it was ended")
        try:
            answer = one.wire.send(packed, until=until)
        except Exception as error:
            answer = error
            raise
        finally:
            now_s = self._now_s()
            numbers = [self._all.index(other) for other in among]
            self._balance.sent(self._all.index(one), numbers, busy_s=now_s - began_s, now_s=now_s)
            self._note(one, packed, answer, now_s)
        return answer

    def _note(self, one: Endpoint, packed: Packed, answer: Answer | Exception, now_s: float) -> None:
        """Take note of how it ended, and have people hear when a receiver is left out and taken again."""
        health = one.health
        if not isinstance(answer, Exception):
            one.said.pop(packed.signal, None)
            if self._were_all_out:
                self._were_all_out = False
                for other in self._all:
                    other.health.breaker.forgive(now_s)
            wall_s = self._clock.wall_ns() // NS_PER_S
            health.answered(packed.signal, answer, size_bytes=len(packed.body), now_s=now_s, wall_s=wall_s)
        elif self._is_stopped:
            health.breaker.left()
        else:
            health.failed(packed.signal, answer, now_s=now_s)
        if len(self._all) > 1:
            self._say(one, packed.signal, now_s)

    def _say(self, one: Endpoint, signal: Signal, now_s: float) -> None:
        health, state = one.health, one.health.breaker.state
        is_good = state is State.CLOSED and not health.is_asked(now_s)
        if is_good and not one.was_good:
            log.info("uplink %s: %s is sent to again", self._name, one.url)
        elif not is_good and one.was_good:
            log.warning("uplink %s: %s is left out for a while: %s", self._name, one.url, health.last_error)
        one.was_good = is_good
        if health.is_held(signal, now_s) and one.said.get(signal) != health.last_error:
            one.said[signal] = health.last_error
            what = signal.name.lower()
            log.warning("uplink %s: %s are held back from %s: %s", self._name, what, one.url, health.last_error)

    def _may_go_on(self, error: TryLaterError) -> bool:
        """Whether nothing was taken, so that another may be asked at once."""
        is_theirs = not isinstance(error, NotYetError | InTransitError | UnheardError)
        return is_theirs and not error.answer_lost and not self._is_stopped

    def _look_elsewhere(self, one: Endpoint, signal: Signal, error: TryLaterError | StatusRefusedError) -> None:
        """Say that what `one` has not answered, or failed at, may be sent again at once where another one is well."""
        if isinstance(error, NotYetError | UnheardError) or self._is_stopped:
            return
        self._avoided, now_s = one, self._now_s()
        others = [other.health for other in self._all if other is not one]
        error.at_once = any(health.allows(signal, now_s) and not health.breaker.failures for health in others)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S
