"""The links of this box: which of them are up, which one each uplink uses, and why. Must not send, but for probes.

    the kernel's word, once a second, and at once when a network comes up ─┐
    a probe, where an uplink may come to use the link, or fails over it    ├→ Link → Road: the first one that is up
    how long it has been up                                                ─┘

| the link in use | another one                               | then                                          |
| --------------- | ----------------------------------------- | --------------------------------------------- |
| is up           | stands before it, and is up since `settle` | between two requests it goes over the other    |
| is down         | is up                                     | the request under way is cut; over the other   |
| is down         | none is up                                | nothing is sent; one that comes up is taken    |

One link may be used by several uplinks: it is one modem, and one bill.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.core.clock import NS_PER_S
from gateway.core.timeouts import timeout
from gateway.net.devices import route_by, why_down
from gateway.uplinks.guards import NoLinkError
from gateway.uplinks.link_probe import Found, ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from gateway.core.clock import Clock
    from gateway.uplinks.link_settings import LinkSettings
    from gateway.uplinks.terms import Terms

log = logging.getLogger("tidegate.uplinks")

LOOK_S: Final = 1.0
# So much later than it may be, at most, is a probe sent: a fleet that lost its network together comes back together.
JITTER: Final = 0.2
# Nobody waits so long: one that comes up is news.
NO_LINK_S: Final = 60.0


class Seen(NamedTuple):
    """What the kernel says: by which device what uses the link leaves ("": as routes have it), and why it cannot."""

    device: str
    why: str = ""


def look_at(settings: LinkSettings) -> Seen:
    """Ask the kernel how a link is."""
    device = settings.interface
    if device and (why := why_down(device)):
        return Seen(device, why)
    if not settings.gateway:
        return Seen(device)
    by, why = route_by(settings.gateway)
    if not why and device and by != device:
        why = f"the default route leads over {by}"
    return Seen(device or by, why or why_down(by))


class Link:
    """One link. It is looked at in the event loop; threads may read what is found, and say that they doubt it."""

    def __init__(self, settings: LinkSettings, *, random: Random) -> None:
        self.settings = settings
        self.name = settings.name
        self.is_up = False
        self.why = "not looked at yet"
        self.device = ""
        # Of what leaves by another device, or after it was down, a connection from before is no good.
        self.turn = 0
        self.changed_s = float("-inf")
        self.wire_bytes = 0
        self._lock = threading.Lock()
        self.is_doubted = False
        self._random = random
        self._is_asking = False
        # Why the last probe failed, "" where it did not; None: it was not asked since the kernel says that it is up.
        self._answer: str | None = None
        self._ask_s = float("-inf")  # when it may be asked again

    def look(self, seen: Seen, now_s: float) -> None:
        """Take note of what the kernel says."""
        if seen.why:
            self._answer = None
        self._set(seen.device, seen.why or self._why_by_probe(), now_s)

    def _why_by_probe(self) -> str:
        if not self.settings.probe:
            return ""
        return f"{self.settings.probe} was not asked yet" if self._answer is None else self._answer

    def _set(self, device: str, why: str, now_s: float) -> None:
        is_up = not why
        if is_up and (not self.is_up or device != self.device):
            self.turn += 1
        if is_up != self.is_up or self.changed_s == float("-inf"):
            self.changed_s = now_s
        self.device, self.is_up, self.why = device, is_up, why

    def carried(self, wire_bytes: int) -> None:
        """Count what went over it. From any thread."""
        with self._lock:
            self.wire_bytes += wire_bytes

    def doubt(self) -> None:
        """Take note that something failed that was sent over it."""
        self.is_doubted = bool(self.settings.probe)

    def may_ask(self, now_s: float) -> bool:
        """Whether its probe may be sent now, as far as the kernel has no other answer."""
        is_open = self.is_up or self.why == self._why_by_probe()
        return bool(self.settings.probe) and is_open and not self._is_asking and now_s >= self._ask_s

    def is_unsure(self, now_s: float) -> bool:
        """Whether its probe was not answered yet, and will be soon."""
        return not self.is_up and self._answer is None and (self._is_asking or self.may_ask(now_s))

    def asks(self, now_s: float) -> None:
        """Take note that its probe is on the way."""
        interval_s = float(self.settings.probe_interval)
        self._is_asking, self.is_doubted = True, False
        self._ask_s = now_s + interval_s * (1 + JITTER * self._random.random())

    def answered(self, found: Found | None, now_s: float) -> None:
        """Take note of what the probe found; None: it came to no end."""
        self._is_asking = False
        if found is None:
            return
        self.carried(found.wire_bytes)
        if self.is_up or self.why == self._why_by_probe():
            self._answer = found.why
            self._set(self.device, self._why_by_probe(), now_s)

    def told(self, now_s: float, *, used_by: Sequence[str]) -> dict[str, Any]:
        """Return this as `tidegate status` shows it."""
        keys = ("interface", "gateway", "probe")
        return {
            "state": "up" if self.is_up else "down",
            "reason": self.why,
            "since_s": round(max(0.0, now_s - self.changed_s)) if self.changed_s > float("-inf") else 0,
            **{key: given for key in keys if (given := getattr(self.settings, key))},
            "device": self.device,
            "metered": self.settings.metered,
            "used_by": list(used_by),
            "wire_bytes": self.wire_bytes,
        }


class Road:
    """The links of one uplink, in the order in which it wants them. `on_lost` is called when the one in use is gone."""

    def __init__(self, uplink: str, links: Sequence[Link], *, doubted: Callable[[], None]) -> None:
        self.uplink = uplink
        self.links = links
        self.current: Link | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self._doubted = doubted
        self._turn = 0
        self._is_said = False
        self._changed = asyncio.Event()

    def take(self) -> Link:
        """Return the link to send over; raise NoLinkError."""
        link = self.current
        if link is None:
            raise NoLinkError(self.why_none(), NO_LINK_S)
        return link

    def why_none(self) -> str:
        """Say why none of them can be used."""
        return f"no link of {self.uplink} is up: {'; '.join(f'{link.name}: {link.why}' for link in self.links)}"

    def doubt(self, link: Link) -> None:
        """Have a link asked whether it carries anything, since something failed over it. From any thread."""
        link.doubt()
        if link.is_doubted:
            self._doubted()

    def is_good(self, link: Link, turn: int) -> bool:
        """Whether what goes over a link, and went since `turn`, still does."""
        return link is self.current and link.is_up and link.turn == turn

    def choose(self, now_s: float) -> None:
        """Take the link that is to be used now."""
        before, found = self.current, self._find(now_s)
        is_lost = before is not None and (not before.is_up or (found is before and before.turn != self._turn))
        if found is not before:
            self._say(before, found)
        elif found is None and not self._is_said and not any(link.is_unsure(now_s) for link in self.links):
            self._is_said = True
            log.warning("uplink %s: %s", self.uplink, self.why_none())
        self.current, self._turn = found, 0 if found is None else found.turn
        if is_lost:
            self.on_lost()
        if found is not before:
            self._changed.set()

    def _find(self, now_s: float) -> Link | None:
        current = self.current
        if current is None or not current.is_up:
            # Which stands first is not known while one before it is being asked.
            found = next((link for link in self.links if link.is_up or link.is_unsure(now_s)), None)
            return found if found is not None and found.is_up else None
        before = self.links[: self.links.index(current)]
        settled = [link for link in before if link.is_up and now_s - link.changed_s >= link.settings.settle]
        return settled[0] if settled else current

    def _say(self, before: Link | None, found: Link | None) -> None:
        self._is_said = found is None
        if found is None:
            log.warning("uplink %s: %s", self.uplink, self.why_none())
            return
        why = "" if before is None or before.is_up else f"; {before.name}: {before.why}"
        log.info("uplink %s: goes over %s%s", self.uplink, found.name, why)

    def wants(self, link: Link) -> bool:
        """Whether it matters to this uplink how a link is, beyond what the kernel says."""
        if link not in self.links or link is self.current:
            return link is self.current and link.is_doubted
        return self.current is None or self.links.index(link) < self.links.index(self.current)

    async def wait(self, seconds: float) -> bool:
        """Return whether there is a link to use, when that changes or after so many seconds."""
        self._changed.clear()
        if self.current is None:
            with contextlib.suppress(TimeoutError):
                async with timeout(seconds):
                    await self._changed.wait()
        return self.current is not None

    def told(self) -> dict[str, Any]:
        """Return which link is used, as `tidegate status` shows it."""
        link = self.current
        return {"link": None if link is None else link.name, "links": [one.name for one in self.links]}


class Links:
    """All of them. `run` looks at them until it is cancelled; a road of an uplink is good from the first look on."""

    def __init__(
        self,
        settings: Sequence[LinkSettings],
        *,
        clock: Clock,
        random: Random,
        look: Callable[[LinkSettings], Seen] = look_at,
        ask: Callable[[LinkSettings, str], Awaitable[Found]] = ask,
    ) -> None:
        self._links = {one.name: Link(one, random=random) for one in settings}
        self._roads: list[Road] = []
        self._clock = clock
        self._look = look
        self._ask = ask
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._probes: set[asyncio.Task[None]] = set()

    def road(self, settings: Terms) -> Road | None:
        """Return the links that an uplink names, None where it names none."""
        names = getattr(settings, "links", ())
        if not names:
            return None
        road = Road(settings.name, [self._links[name] for name in names], doubted=self._hear)
        self._roads.append(road)
        return road

    def network_up(self) -> None:
        """Look at once: something came up."""
        self._news.set()

    def _hear(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Look at the links until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self.look()
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with timeout(LOOK_S):
                        await self._news.wait()
        finally:
            for probe in self._probes:
                probe.cancel()
            if self._probes:
                await asyncio.wait(self._probes)

    def look(self) -> None:
        """Look at each link, have each uplink choose, and send what probes are due."""
        now_s = self._now_s()
        for link in self._links.values():
            link.look(self._look(link.settings), now_s)
        for link in self._links.values():
            if link.may_ask(now_s) and any(road.wants(link) for road in self._roads):
                link.asks(now_s)
                probe = asyncio.create_task(self._probe(link), name=f"link {link.name}: probe")
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
        for road in self._roads:
            road.choose(now_s)

    async def _probe(self, link: Link) -> None:
        found: Found | None = None
        try:
            found = await self._ask(link.settings, link.device)
        finally:
            link.answered(found, self._now_s())
            self._news.set()

    def told(self) -> dict[str, dict[str, Any]]:
        """Return how each of them is, as `tidegate status` shows it."""
        now_s = self._now_s()
        return {
            name: link.told(now_s, used_by=[road.uplink for road in self._roads if road.current is link])
            for name, link in self._links.items()
        }

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S
