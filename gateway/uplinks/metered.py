"""A sender that holds a sender: nothing leaves that is not paid, nor faster than it may. Must not choose what goes.

Before a request goes, what it may cost at most is taken from the budget, and afterwards what it has cost by the
kernel's count is settled. While its body is written, what the line makes more of it (packets that go a second time)
is taken as it comes, and so is what the far side answers; where nothing is left the connection is cut. A rate is kept
from piece to piece of a body.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.uplinks.budget import UnwrittenError
from gateway.uplinks.guards import TooLargeError
from gateway.uplinks.pacer import Pacer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.guards import Answer, MeteredWire, Packed
    from gateway.uplinks.purse import Paying

# Packets' headers and acknowledgements add a twelfth; the rest is for what is lost on the way.
COST_OF_BYTE: Final = 1.2
# The answer, and a keep-alive's probes.
COST_OF_REQUEST: Final = 4 * 1024
# Packets of opening and closing; TLS shows certificates.
COST_OF_CONNECTION: Final = 2 * 1024
COST_OF_HANDSHAKE: Final = 10 * 1024
# One more piece of a body, with what the kernel holds unsent before it.
STEP_BYTES: Final = 32 * 1024


@dataclass(slots=True)
class Metered:
    """Spends `budget` on what `wire` sends, at `rate` bytes a second at most; both may be None.

    It stands between compression and the wire: see `guards.Wire`. `now_s` is a steady clock. A line that others use
    too may have a rate of its own: see `share`.
    """

    wire: MeteredWire
    budget: Paying | None
    rate: float | None = field(kw_only=True)
    now_s: Callable[[], float] = field(kw_only=True)
    last_cost: int = field(default=0, init=False)
    _taken_bytes: int = field(default=0, init=False)
    _settled_bytes: int = field(default=0, init=False)  # what the wire had cost when that was settled last
    _pacers: tuple[Pacer, ...] = field(default=(), init=False)
    _own_pacers: tuple[Pacer, ...] = field(default=(), init=False)
    _piece_bytes_max: int = field(default=0, init=False)
    _paced_bytes: int = field(default=0, init=False)
    _may_overdraw: bool = field(default=False, init=False)  # for the request under way

    def __post_init__(self) -> None:
        """Have a word with each piece of a body, and with each connection that was not counted on."""
        self.wire.before_piece = self._before_piece
        self.wire.before_another = self._before_another
        self._settled_bytes = self.wire.wire_bytes
        self._piece_bytes_max = self.wire.piece_bytes_max
        self._own_pacers = () if self.rate is None else (Pacer(self.rate),)
        self.share(None)

    def share(self, pacer: Pacer | None) -> None:
        """Keep the rate of a line, too, that others use with us; None: it has none."""
        self._pacers = self._own_pacers if pacer is None else (*self._own_pacers, pacer)
        if self._pacers:
            self.wire.piece_bytes_max = min(one.piece_bytes for one in self._pacers)
        else:
            self.wire.piece_bytes_max = self._piece_bytes_max

    def send(self, packed: Packed, /) -> Answer:
        """Send as the wire does; raise OverBudgetError or UnwrittenError with nothing sent."""
        self._paced_bytes = 0
        self._may_overdraw = packed.may_overdraw
        self._take(self.cost_of(packed), is_probe=packed.is_probe)
        try:
            # A connection costs too: its packets wait for their turn as pieces do.
            self._wait_for_turn()
            return self.wire.send(packed)
        finally:
            self._settle()

    def _take(self, cost: int, *, is_probe: bool) -> None:
        self.last_cost = cost
        if self.budget is not None:
            if cost > self.budget.largest_bytes:
                raise TooLargeError("one request would cost more than a whole window's budget")
            self.budget.take(cost, is_probe=is_probe, may_overdraw=self._may_overdraw)
            self._taken_bytes = cost

    def _settle(self) -> None:
        """Have all of it paid that went since the last time: what hung up in between is in it."""
        wire_bytes = self.wire.wire_bytes
        spent_bytes, self._settled_bytes = wire_bytes - self._settled_bytes, wire_bytes
        if self.budget is not None:
            taken, self._taken_bytes = self._taken_bytes, 0
            self.budget.settle(taken, spent_bytes)
        self._pace(spent_bytes - self._paced_bytes)

    def cost_of(self, packed: Packed) -> int:
        """Return what a request costs, in bytes on the wire, unless the line loses much of it."""
        # Many messages have as many heads and answers.
        body_bytes = len(packed.body) + int(getattr(packed.body, "overhead_bytes", 0))
        cost = int(COST_OF_BYTE * (body_bytes + self.wire.head_bytes)) + COST_OF_REQUEST
        if not self.wire.is_connected:
            cost += COST_OF_CONNECTION + COST_OF_HANDSHAKE * self.wire.is_encrypted
        return cost

    def _before_another(self) -> None:
        """Take what a connection to one more receiver costs at most, with what went to those before."""
        self._pay(COST_OF_CONNECTION + COST_OF_HANDSHAKE * self.wire.is_encrypted)

    def _before_piece(self, piece_bytes: int) -> None:
        if not piece_bytes:
            # What an answer costs beyond that has come by now: to have the request sent again would cost it twice.
            with suppress(UnwrittenError):
                self._pay(0)
            return
        self._pay(piece_bytes)
        self._wait_for_turn()
        self._pace(piece_bytes)

    def _wait_for_turn(self) -> None:
        if self._pacers:
            now_s = self.now_s()
            self.wire.pause(max(pacer.left_s(now_s) for pacer in self._pacers))

    def _pace(self, size_bytes: int) -> None:
        """Take note that the line is busy with so much more."""
        if self._pacers and size_bytes > 0:
            for pacer in self._pacers:
                pacer.sent(size_bytes, self.now_s())
            self._paced_bytes += size_bytes

    def _pay(self, piece_bytes: int) -> None:
        """Take more where what went and what is still with the kernel is more than was taken for all of it."""
        if self.budget is None:
            return
        spent = self.wire.wire_bytes - self._settled_bytes
        self.budget.go_on(spent, may_overdraw=self._may_overdraw)
        spent += piece_bytes
        if spent > self._taken_bytes:
            more = spent - self._taken_bytes + STEP_BYTES
            self.budget.take(more, may_overdraw=self._may_overdraw)
            self._taken_bytes += more

    @property
    def requests(self) -> int:
        """Requests that were begun."""
        return self.wire.requests

    @property
    def bytes_sent(self) -> int:
        """Bodies and headers, as they left."""
        return self.wire.bytes_sent

    def told(self) -> dict[str, Any]:
        """Return where it leads and how that is."""
        return self.wire.told()

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self.wire.open()

    def is_overdue(self) -> bool:
        """Whether the answer should have been here by now."""
        return self.wire.is_overdue()

    def abort(self) -> None:
        """End the request under way."""
        self.wire.abort()

    def stop(self) -> None:
        """End the request under way and refuse further ones."""
        self.wire.stop()

    def close(self) -> None:
        """Let go of connections; to close one costs too."""
        self.wire.close()
        self._settle()
