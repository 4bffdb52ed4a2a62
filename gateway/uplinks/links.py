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
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.core.clock import NS_PER_S
from gateway.core.timeouts import timeout
from gateway.net.devices import mark_of, route_by, why_down
from gateway.uplinks.allocation import share_out
from gateway.uplinks.guards import NoLinkError, NotYetError
from gateway.uplinks.link_probe import PROBE_BYTES, Found, ask
from gateway.uplinks.pacer import Pacer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from random import Random

    from gateway.core.clock import Clock
    from gateway.store.database import Store
    from gateway.uplinks.budget import Budget
    from gateway.uplinks.link_notes import LinkNotes
    from gateway.uplinks.link_settings import LinkSettings
    from gateway.uplinks.ration import Ration
    from gateway.uplinks.terms import Terms

log = logging.getLogger("tidegate.uplinks")

LOOK_S: Final = 1.0
# So much later than it may be, at most, is a probe sent: a fleet that lost its network together comes back together.
JITTER: Final = 0.2
# Nobody waits so long: one that comes up is news.
NO_LINK_S: Final = 60.0
# What even who sends nothing now may plan with, of what all others want.
SHARE_MIN: Final = 0.05
# Who was thinned needs more than what it wants to be whole again.
HEADROOM: Final = 1.25
# Who has said nothing for so long wants nothing.
WANTED_S: Final = 600.0
# How soon it is tried again to write what is spent, where the disk took it not.
WRITE_AGAIN_S: Final = 60.0


class Seen(NamedTuple):
    """What the kernel says: by which device what uses the link leaves ("": as routes have it), and why it cannot.

    Where `mark` is another one, it leaves otherwise than before: see `devices.mark_of`.
    """

    device: str
    why: str = ""
    mark: str = ""


async def _nothing_to_write() -> bool:
    return True


def look_at(settings: LinkSettings) -> Seen:
    """Ask the kernel how a link is."""
    device = settings.interface
    if device and (why := why_down(device)):
        return Seen(device, why)
    if not settings.gateway:
        return Seen(device, "", mark_of(device) if device else "")
    by, why = route_by(settings.gateway)
    if not why and device and by != device:
        why = f"the default route leads over {by}"
    return Seen(device or by, why or why_down(by), mark_of(device or by))


class Link:
    """One link. It is looked at in the event loop; threads may read what is found, and say that they doubt it."""

    def __init__(self, settings: LinkSettings, *, random: Random) -> None:
        self.settings = settings
        self.budget: Budget | None = None
        self.ration: Ration | None = None
        self.write_note: Callable[[], Awaitable[bool]] = _nothing_to_write
        self.pacer = None if settings.budget.rate is None else Pacer(settings.budget.rate)
        # What those that use it now would send in a second, and when they said so, by who they are.
        self._wanted: dict[str, tuple[float, float]] = {}
        self.name = settings.name
        self.is_up = False
        self.why = "not looked at yet"
        self.device = self._mark = ""
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
        self._has_answered = False  # well, when it was asked last

    def look(self, seen: Seen, now_s: float) -> None:
        """Take note of what the kernel says."""
        if seen.why:
            self._answer = None
        if seen.mark != self._mark and self.is_up:
            self.turn += 1
        self._mark = seen.mark
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

    def wants(self, uplink: str, bytes_s: float, now_s: float) -> None:
        """Take note how much an uplink that uses it would send in a second."""
        if uplink in self._wanted:
            self._wanted[uplink] = bytes_s, now_s

    def share_of(self, uplink: str, now_s: float, *, may_s: float) -> float:
        """Return which part of the `may_s` bytes a second that it may carry is for an uplink to plan with.

        Where all that its uplinks want fits, that is as much as it wants of it. Else they have the same each, but for
        those that want less: what they leave is the others' (max-min fairness).
        """
        wanted = {name: bytes_s for name, (bytes_s, at_s) in self._wanted.items() if now_s < at_s + WANTED_S}
        total, count = sum(wanted.values()), max(1, len(self._wanted))
        if not total:
            return 1 / count
        part = wanted.get(uplink, 0.0) / total
        if 0 < may_s < total:
            needs = {name: HEADROOM * bytes_s for name, bytes_s in wanted.items()}
            parts = share_out(may_s, [*needs.values()], [1.0] * len(needs))
            part = dict(zip(needs, parts, strict=True)).get(uplink, 0.0) / may_s
        return (part + SHARE_MIN) / (1 + SHARE_MIN * count)

    def used_by(self, uplink: str, *, is_used: bool) -> None:
        """Take note that an uplink uses it, or does no more."""
        if is_used:
            self._wanted[uplink] = 0.0, float("-inf")
        else:
            self._wanted.pop(uplink, None)

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

    def trust(self, now_s: float) -> None:
        """Have it count as up where the kernel says so, and its server has answered and may not be asked again yet."""
        if self.why == self._why_by_probe() and self._answer is None and not self._is_asking and self._has_answered:
            self._answer = ""
            self._set(self.device, "", now_s)

    def asks(self, now_s: float) -> None:
        """Take note that its probe is on the way."""
        interval_s = float(self.settings.probe_interval)
        self._is_asking, self.is_doubted = True, False
        self._ask_s = now_s + interval_s * (1 + JITTER * self._random.random())

    def hold_back(self, until_s: float) -> None:
        """Have its probe wait: it has cost what it may for now."""
        self._ask_s = max(self._ask_s, until_s)

    def answered(self, found: Found | None, now_s: float) -> None:
        """Take note of what the probe found; None: it came to no end."""
        self._is_asking = False
        if found is None:
            return
        self._has_answered = not found.why
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
            **self._budget_told(),
            **({} if self.ration is None else self.ration.told(now_s)),
        }

    def _budget_told(self) -> dict[str, Any]:
        windows: dict[str, dict[str, Any]] = {} if self.budget is None else self.budget.told()
        for window in windows.values():
            if "limit_bytes" in window:
                window["left_bytes"] = max(0, window["limit_bytes"] - window["spent_bytes"])
        rate = {} if self.pacer is None else {"rate_bit_s": round(self.pacer.rate * 8)}
        return {"budget": rate | windows} if rate or windows else {}


class Road:
    """The links of one uplink, in the order in which it wants them.

    `on_lost` is called when the one in use is gone, `on_found` when there is another one to use.
    """

    def __init__(self, uplink: str, links: Sequence[Link], *, doubted: Callable[[], None]) -> None:
        self.uplink = uplink
        self.links = links
        self.current: Link | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_found: Callable[[], None] = lambda: None
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
            if before is not None:
                before.used_by(self.uplink, is_used=False)
            if found is not None:
                found.used_by(self.uplink, is_used=True)
        elif found is None and not self._is_said and not any(link.is_unsure(now_s) for link in self.links):
            self._is_said = True
            log.warning("uplink %s: %s", self.uplink, self.why_none())
        self.current, self._turn = found, 0 if found is None else found.turn
        if is_lost:
            self.on_lost()
        if found is not before:
            self._changed.set()
            if found is not None:
                self.on_found()

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
        if self.current is None:
            await self.sleep(seconds)
        return self.current is not None

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or when another link is to be used, or has been since the last time."""
        with contextlib.suppress(TimeoutError):
            async with timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    @property
    def is_limited(self) -> bool:
        """Whether one of them has a budget of its own."""
        return any(link.budget is not None or link.pacer is not None for link in self.links)

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
        store: Store | None = None,
        folder: Path | None = None,
        look: Callable[[LinkSettings], Seen] = look_at,
        ask: Callable[[LinkSettings, str], Awaitable[Found]] = ask,
    ) -> None:
        self._links = {one.name: Link(one, random=random) for one in settings}
        self._notes: LinkNotes | None = None
        self._write_s = float("-inf")
        if any(one.budget.allowances() for one in settings):
            assert store is not None
            assert folder is not None
            self._open_budgets(store, folder, clock)
        self._roads: list[Road] = []
        self._clock = clock
        self._look = look
        self._ask = ask
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._probes: set[asyncio.Task[None]] = set()

    def _open_budgets(self, store: Store, folder: Path, clock: Clock) -> None:
        from gateway.uplinks.link_notes import NAME, Known, LinkNotes  # noqa: PLC0415  only for who has allowances
        from gateway.uplinks.purse import budget_of  # noqa: PLC0415  the same
        from gateway.uplinks.ration import Ration  # noqa: PLC0415  the same
        from gateway.uplinks.spending import moment_of  # noqa: PLC0415  the same

        self._notes = notes = LinkNotes(folder / NAME)
        for name, link in self._links.items():
            now, note = partial(moment_of, store, clock), notes.last(name)
            if notes.known is not Known.ALL:
                from gateway.uplinks.lost_notes import note_in_doubt  # noqa: PLC0415  as good as never

                is_lost = notes.known is Known.NOTHING
                note = note_in_doubt(link.settings.budget, note, now(), is_lost=is_lost)
            link.budget = budget_of(link.settings.budget, now=now, note=note, where=f" on {name}")
            if link.budget is not None:
                link.write_note = notes.write
                link.ration = Ration(link.budget, link.settings.budget)
                notes.keep(name, link.budget)

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
                await self._write_notes()
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
            if self._notes is not None:
                # Nothing leaves any more: what was set aside for that is given back.
                await self._notes.write(is_last=True)

    async def _write_notes(self) -> None:
        """Begin with a note of what a process that died has left; later write it again where the disk took none."""
        now_s = self._now_s()
        budgets = [link.budget for link in self._links.values() if link.budget is not None]
        is_first = self._write_s == float("-inf")
        is_due = is_first or (now_s >= self._write_s and any(budget.is_mute for budget in budgets))
        if self._notes is not None and is_due:
            self._write_s = now_s + WRITE_AGAIN_S
            await self._notes.write()

    def look(self) -> None:
        """Look at each link, have each uplink choose, and send what probes are due."""
        now_s = self._now_s()
        for link in self._links.values():
            link.look(self._look(link.settings), now_s)
        for link in self._links.values():
            if link.may_ask(now_s) and any(road.wants(link) for road in self._roads) and self._is_paid(link, now_s):
                link.asks(now_s)
                probe = asyncio.create_task(self._probe(link), name=f"link {link.name}: probe")
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
        for road in self._roads:
            # One that comes and goes is used while it is there, where there is no other way.
            if not any(link.is_up or link.is_unsure(now_s) for link in road.links):
                for link in road.links:
                    link.trust(now_s)
            road.choose(now_s)

    def _is_paid(self, link: Link, now_s: float) -> bool:
        """Take what a probe costs at most; where there is not so much left that is why the link is not used."""
        if link.ration is None:
            return True
        if (wait_s := link.ration.wait_s(now_s)) > 0:
            link.hold_back(now_s + wait_s)
            return False
        try:
            link.ration.take()
        except NotYetError as error:
            if error.after_s:
                link.asks(now_s)
                link.answered(Found(str(error), 0), now_s)
            else:
                self._write_s = float("-inf")
            return False
        return True

    async def _probe(self, link: Link) -> None:
        found: Found | None = None
        try:
            found = await self._ask(link.settings, link.device)
        finally:
            if link.ration is not None:
                link.ration.settle(PROBE_BYTES if found is None else found.wire_bytes)
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
