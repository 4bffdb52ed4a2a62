"""What an uplink with a budget may send just now, and why: measured, then decided by `allocate`. Does no I/O.

    what came in, what it cost ─→ needs ─┐
    what is left of each window ─────────┴→ allocate → who may go now, whole or at which step; else from when on

Seconds are of one steady clock, bytes those on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from gateway.core.contracts import Priority
from gateway.core.words import span
from gateway.store.policy import ALL, CLASS_NAMES, NO_BOUND, Lane, Terms
from gateway.uplinks.allocation import REQUEST_BYTES, SAFETY, STRETCHED_S, TURN_S, Allocation, Part, allocate
from gateway.uplinks.flow import LOOK_S_MIN, Apart, Flow

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.store.spots import Outlook
    from gateway.uplinks.flow import Sent

# Until so much time was looked at, nothing seems to come in, or little, from devices that have something to say each
# minute, the first time perhaps a minute after the start: what is left over then is not the backlog's.
KNOWN_S: Final = 120.0
# Of a rate that is set so much is for what is planned.
RATE_SHARE: Final = 0.95
# A class of which nothing came lately has such a part for what may come.
IDLE_SHARE: Final = 0.05
# What came in around findings has such a part, and so long's of it at once.
EVIDENCE_SHARE: Final = 0.25
EVIDENCE_BURST_S: Final = 3600.0
# One request may cost what its class's part is in so long, or the backlog's: a larger one would keep its class, and
# near a window's end all others, from sending for as long as it takes to be paid. Very small ones are not worth it.
LEASE_S: Final = 300.0
LEASE_REQUESTS: Final = 4.0
# Less than this is not worth a request of the backlog's.
SURPLUS_BYTES_MIN: Final = 16 * 1024
LEAST_BYTES_S: Final = 0.01
# What is left may be more by then than was expected.
WAIT_S_MAX: Final = 60.0
NEVER_S: Final = float("inf")
LANES: Final = tuple(Lane)
Most: TypeAlias = tuple[tuple[int, ...], ...]
CLASSES: Final = len(Priority)
_EACH: Final = (True,) * CLASSES
_NONE: Final = (False,) * CLASSES


class WindowLeft(NamedTuple):
    """What is left of one window, and for how long."""

    name: str
    left_bytes: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What may be leased now; where that is nothing of what is held, in how many seconds something may be. And why."""

    terms: Terms = ALL
    wait_s: float = 0.0
    why: str = ""


_UNBOUND: Final = Decision()


@dataclass(slots=True)
class Scheduler:
    """One uplink's."""

    interval_s: float
    flows: list[Flow] = field(init=False)
    allocation: Allocation | None = None
    why: str = ""
    request_bytes: float = REQUEST_BYTES
    # Classes that overdraw: they go whole and as they come, whatever is planned for the others.
    overdraws: frozenset[Priority] = frozenset()
    _steps: tuple[tuple[float, ...], ...] = ALL.step_s
    _bounds: tuple[Most, Most] | None = None  # of leases, while nothing is spent or planned anew
    _allocated_s: float = float("-inf")
    _lanes: set[Lane] = field(default_factory=set)
    _backlog_free_s: float = float("-inf")
    _backlog_paid_s: float = 0.0
    _evidence_bytes: float = 0.0  # spent, and not yet made up for
    _evidence_s: float = 0.0
    _since_s: float | None = None
    _is_known: bool = False  # what comes in

    def __post_init__(self) -> None:
        """Begin with nothing known."""
        self.flows = [Flow(Apart(self.interval_s), Apart(max(self.interval_s, STRETCHED_S[one]))) for one in Priority]

    def observe(self, arrived: Sequence[int], now_s: float) -> None:
        """Take note how many readings came in of each class so far."""
        if self._since_s is None:
            self._since_s = now_s
        for flow, count in zip(self.flows, arrived, strict=True):
            flow.look(count, now_s)

    def rest(self) -> None:
        """Take note that nothing is held until something comes in."""
        for flow in self.flows:
            flow.rest()

    def decide(self, now_s: float, *, windows: Sequence[WindowLeft], rate: float | None, outlook: Outlook) -> Decision:
        """Return what may be leased; `windows` are those whose end is known."""
        self.observe(outlook.arrived, now_s)
        lanes = {lane for lane, _ in outlook.spots}
        if now_s >= self._allocated_s + LOOK_S_MIN or lanes != self._lanes:
            self._allocated_s, self._lanes = now_s, lanes
            self._allocate(windows, rate, outlook)
        allocation = self.allocation
        if allocation is None:
            return _UNBOUND
        live_s = [
            self._live_wait_s(flow, part, now_s) for flow, part in zip(self.flows, allocation.classes, strict=True)
        ]
        backlog_s, thinned_s = self._later_wait_s(allocation, windows, now_s)
        later_s = (backlog_s, thinned_s, self._evidence_wait_s(allocation, now_s))
        may = (
            tuple([wait_s <= 0.0 for wait_s in live_s]),
            *[_EACH if wait_s <= 0.0 else _NONE for wait_s in later_s],
        )
        waits_s = dict(zip(LANES, (live_s, *[[wait_s] * CLASSES for wait_s in later_s]), strict=True))
        least_s = min([waits_s[lane][priority] for lane, priority in outlook.spots], default=0.0)
        by_class = [
            # By turns, where some of it may go whole.
            0.0 if flow.owed > 0.0 and part.whole_share else part.step_s
            for flow, part in zip(self.flows, allocation.classes, strict=True)
        ]
        steps_s = (tuple(by_class), *self._steps[1:])
        if self._bounds is None or steps_s != self._steps:
            self._steps = steps_s
            self._bounds = self._most(allocation, windows)
        terms = Terms(may, steps_s, *self._bounds)
        return Decision(terms, min(least_s, WAIT_S_MAX), self.why)

    def _most(self, allocation: Allocation, windows: Sequence[WindowLeft]) -> tuple[Most, Most]:
        """Return how many readings one lease may take by lane and class: of what goes whole, and of what is thinned."""
        is_paced = self._is_paced(allocation)
        later_bytes = LEASE_S * (allocation.backlog.bytes_s or 0.0) if is_paced else self._surplus(allocation, windows)
        live_bytes = [
            LEASE_S * allocation.may_s
            if part.bytes_s is None
            else (TURN_S if part.step_s and not step_s else LEASE_S) * _share(part, allocation)
            for part, step_s in zip(allocation.classes, self._steps[0], strict=True)
        ]
        evidence_bytes = EVIDENCE_SHARE * allocation.may_s * EVIDENCE_BURST_S
        by_lane = (live_bytes, *([size_bytes] * CLASSES for size_bytes in (later_bytes, later_bytes, evidence_bytes)))
        whole = tuple(
            [
                tuple([self._whole_in(size, flow) for size, flow in zip(sizes, self.flows, strict=True)])
                for sizes in by_lane
            ]
        )
        thinned = tuple(
            [
                tuple([self._thinned_in(*what) for what in zip(sizes, self.flows, steps_s, strict=True)])
                for sizes, steps_s in zip(by_lane, self._steps, strict=True)
            ]
        )
        return whole, thinned

    def _is_paced(self, allocation: Allocation) -> bool:
        """Whether the backlog has a share, and not all that is left over."""
        return allocation.is_short or not self._is_known

    def _for_readings(self, size_bytes: float) -> float:
        """Return what is left of so many bytes for readings; very small requests are not worth their cost."""
        return max(size_bytes - self.request_bytes, (LEASE_REQUESTS - 1) * self.request_bytes)

    def _whole_in(self, size_bytes: float, flow: Flow) -> int:
        """Return how many readings go for so many bytes."""
        return NO_BOUND if size_bytes == NEVER_S else max(1, int(self._for_readings(size_bytes) / flow.whole_bytes))

    def _thinned_in(self, size_bytes: float, flow: Flow, step_s: float) -> int:
        """Return of how many readings what stands for them goes for so many bytes; those of a whole step at least."""
        if size_bytes == NEVER_S or not step_s:
            return NO_BOUND
        points = self._for_readings(size_bytes) / flow.thinned_bytes
        need = flow.need(self.request_bytes)
        left_s = need.points_s(step_s)
        return max(1, int(max(points * need.readings_s / left_s, step_s * need.readings_s) if left_s else points))

    @staticmethod
    def _surplus(allocation: Allocation, windows: Sequence[WindowLeft]) -> float:
        """Return how many bytes are left over where all fits."""
        wanted_s = SAFETY * allocation.wanted_s
        return min([window.left_bytes - wanted_s * window.left_s for window in windows], default=NEVER_S)

    def _allocate(self, windows: Sequence[WindowLeft], rate: float | None, outlook: Outlook) -> None:
        self._bounds = None
        may_s = [self._may_s(window) for window in windows]
        may_s += [] if rate is None else [RATE_SHARE * rate]
        if not may_s:
            self.allocation, self.why = None, ""
            return
        needs = [flow.need(self.request_bytes) for flow in self.flows]
        before = self.allocation

        def share_out(later_readings: int) -> Allocation:
            return allocate(
                min(may_s),
                needs,
                interval_s=self.interval_s,
                backlog_readings=later_readings,
                backlog_share=outlook.backlog_share,
                before=before,
                now_s=self._allocated_s,
            )

        self._is_known = self._allocated_s - (self._since_s or 0.0) >= KNOWN_S
        if Lane.BACKLOG in self._lanes:
            allocation = share_out(max(1, outlook.backlog_readings))
        else:
            allocation = share_out(int(Lane.THINNED in self._lanes))
            if allocation.is_thinning:
                # Nothing is thinned so that what was thinned before can go whole.
                allocation = share_out(0)
        if not (self._is_known or allocation.is_short):
            bytes_s = outlook.backlog_share * allocation.may_s
            allocation = replace(allocation, backlog=Part(bytes_s, allocation.backlog.step_s))
        by_class = tuple(part.step_s for part in allocation.classes)
        self._steps = (by_class, (allocation.backlog.step_s,) * CLASSES, (0.0,) * CLASSES, (0.0,) * CLASSES)
        self.allocation, self.why = allocation, explain(allocation, windows, overdraws=self.overdraws)

    def _may_s(self, window: WindowLeft) -> float:
        """Return what may be spent a second until a window ends.

        What was spent for seconds that are still to come counts as left: else each request would seem to leave too
        little for all others, and the wait for the next one too much.
        """
        for_s = [(flow.free_s - self._allocated_s, flow.paid_s) for flow in self.flows]
        for_s.append((self._backlog_free_s - self._allocated_s, self._backlog_paid_s))
        paid = sum([min(seconds, window.left_s) * bytes_s for seconds, bytes_s in for_s if seconds > 0])
        return (window.left_bytes + paid) / max(1.0, window.left_s)

    def _later_wait_s(self, allocation: Allocation, windows: Sequence[WindowLeft], now_s: float) -> tuple[float, float]:
        """Return in how many seconds backlog may go, and what was sent thinned."""
        if self._is_paced(allocation):
            wait_s = max(0.0, self._backlog_free_s - now_s)
            has_share = Lane.BACKLOG not in self._lanes and allocation.backlog.bytes_s
            return wait_s, wait_s if has_share else NEVER_S
        wait_s = 0.0 if self._surplus(allocation, windows) >= SURPLUS_BYTES_MIN else NEVER_S
        return wait_s, NEVER_S if Lane.BACKLOG in self._lanes else wait_s

    def _evidence_wait_s(self, allocation: Allocation, now_s: float) -> float:
        """Return in how many seconds evidence may go: what an hour's part of it allows at once, then by and by."""
        return max(
            0.0, self._evidence_bytes / _evidence_share(allocation) - EVIDENCE_BURST_S - (now_s - self._evidence_s)
        )

    def _sent_evidence(self, wire_bytes: float, allocation: Allocation, now_s: float) -> None:
        made_up_bytes = _evidence_share(allocation) * (now_s - self._evidence_s)
        self._evidence_bytes = max(0.0, self._evidence_bytes - made_up_bytes) + wire_bytes
        self._evidence_s = now_s

    @staticmethod
    def _live_wait_s(flow: Flow, part: Part, now_s: float) -> float:
        if part.bytes_s is None:
            return 0.0
        # A step that has begun is worth waiting for: each lease gives four readings of it.
        step_left_s = flow.thinned_s + part.step_s - now_s if part.step_s else 0.0
        return max(0.0, flow.free_s - now_s, step_left_s)

    def sent(self, sent: Sent, now_s: float) -> None:
        """Take note what a lease has cost."""
        self._bounds = None
        flow = self.flows[sent.priority]
        self.request_bytes = flow.cost(sent, self.request_bytes)
        if sent.step_s and sent.lane == Lane.LIVE:
            # One that could not take all there is has no whole step to wait for.
            covered_s = sent.held / flow.readings_s if flow.readings_s else sent.step_s
            flow.thinned_s = now_s - max(0.0, sent.step_s - covered_s)
        allocation = self.allocation
        if allocation is None:
            return
        if sent.lane == Lane.EVIDENCE:
            self._sent_evidence(sent.wire_bytes, allocation, now_s)
            return
        if sent.lane != Lane.LIVE:
            if self._is_paced(allocation):
                bytes_s = max(LEAST_BYTES_S, allocation.backlog.bytes_s or 0.0)
                self._backlog_free_s, self._backlog_paid_s = _paid(
                    self._backlog_free_s, self._backlog_paid_s, sent.wire_bytes, bytes_s, now_s
                )
            return
        part = allocation.classes[sent.priority]
        flow.turn(sent, part.whole_share)
        if part.bytes_s is not None:
            share_s = _share(part, allocation)
            flow.free_s, flow.paid_s = _paid(flow.free_s, flow.paid_s, sent.wire_bytes, share_s, now_s)

    def begin_window(self) -> None:
        """Take note that a new window has begun: what was spent in the one before is no reason to wait."""
        self._allocated_s = float("-inf")
        self._backlog_free_s = float("-inf")
        for flow in self.flows:
            flow.free_s = float("-inf")

    def told(self) -> dict[str, object]:
        """Return what was decided last, as `tidegate status` shows it."""
        allocation = self.allocation
        if allocation is None:
            return {}
        by_class = [
            Part(None) if priority in self.overdraws else part
            for priority, part in zip(Priority, allocation.classes, strict=True)
        ]
        parts = zip(CLASS_NAMES, by_class, self.flows, strict=True)
        return {
            "why": self.why,
            "request_bytes": round(self.request_bytes),
            "wanted_bytes_s": round(allocation.wanted_s, 1),
            "may_bytes_s": round(allocation.may_s, 1),
            "classes": {
                name: {
                    "readings_s": round(flow.readings_s, 2),
                    "step_s": part.step_s,
                    "whole_share": round(part.whole_share, 2),
                    "bytes_s": None if part.bytes_s is None else round(part.bytes_s, 1),
                }
                for name, part, flow in parts
                if flow.readings_s
            },
            "backlog": {
                "step_s": allocation.backlog.step_s,
                "bytes_s": round(allocation.backlog.bytes_s or 0.0, 1),
            },
        }


def _paid(free_s: float, paid_s: float, wire_bytes: float, share_s: float, now_s: float) -> tuple[float, float]:
    """Return until when what was spent is paid for, and what that is a second."""
    left_s = max(0.0, free_s - now_s)
    again_s = left_s + wire_bytes / share_s
    return now_s + again_s, (left_s * paid_s + wire_bytes) / again_s if again_s else 0.0


def _share(part: Part, allocation: Allocation) -> float:
    """Return what a class may spend in bytes a second, where it has a bound."""
    return max(LEAST_BYTES_S, part.bytes_s or 0.0, IDLE_SHARE * allocation.may_s)


def _evidence_share(allocation: Allocation) -> float:
    """Return what evidence may spend in bytes a second."""
    return max(LEAST_BYTES_S, EVIDENCE_SHARE * allocation.may_s)


def explain(
    allocation: Allocation, windows: Sequence[WindowLeft], *, overdraws: Collection[Priority] = frozenset()
) -> str:
    """Say in a clause what goes and why; what `overdraws` goes whole all the same."""
    if not allocation.is_short:
        bound = "the allowance" if windows else "the rate"
        return f"all that comes in fits {bound}, and the rest has what is left over"
    tightest = min(windows, key=lambda window: window.left_bytes / max(1.0, window.left_s), default=None)
    left = "the rate"
    if tightest is not None:
        left = f"what is left of the {tightest.name}, which lasts for {span(round(tightest.left_s))}"
    steps = ", ".join(
        f"{name} readings thinned to four a series in {span(round(part.step_s))}{_turns(part)}"
        for priority, part, name in zip(Priority, allocation.classes, CLASS_NAMES, strict=True)
        if part.step_s and priority not in overdraws
    )
    whole = " and ".join(CLASS_NAMES[priority] for priority in sorted(overdraws))
    beyond = f"; {whole} readings go whole, beyond it where they must" if whole else ""
    return f"{steps or 'all goes whole, less often and more at once'}, to fit {left}{beyond}"


def _turns(part: Part) -> str:
    """Say how much of a class goes whole all the same."""
    percent = round(100 * part.whole_share)
    return f" but for {percent} % that go whole by turns" if percent else ""
