"""A sender that holds a sender: what it sends leaves by the link that the uplink uses now. Must not choose the link.

Between two requests it goes over to another link: connections are closed, and the next are made by that one's device.
A request whose link goes down meanwhile is cut; whoever sends tries it again, over the link that is up then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from gateway.uplinks.guards import InTransitError, UnreachableError, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.guards import Answer, Packed
    from gateway.uplinks.links import Link, Road


class BoundWire(Wire, Protocol):
    """A wire whose connections can be made by one device."""

    device: str
    """By which connections are made from now on; "": as the kernel's routes have it."""

    @property
    def wire_bytes(self) -> int:
        """What went over the wire so far, in both directions, with all headers."""
        ...


class Linked:
    """See `Wire` for the contract. `outer` is `wire`, or a sender around it that is to be closed in its stead.

    `pay_for` hears which link is sent over from now on, when all that went over another one is settled.
    """

    def __init__(
        self, outer: Wire, *, wire: BoundWire, road: Road, pay_for: Callable[[Link], None] = lambda _: None
    ) -> None:
        self._outer = outer
        self._pay_for = pay_for
        self._wire = wire
        self._road = road
        self._link: Link | None = None
        self._turn = 0
        self._counted_bytes = 0
        self._is_sending = False
        road.on_lost = self._lost

    def send(self, packed: Packed, /) -> Answer:
        """Send as the wire does; raise NoLinkError with nothing sent where no link is up."""
        link = self._begin()
        try:
            return replace(self._outer.send(packed), link=link.name)
        except (UnreachableError, InTransitError) as error:
            self._road.doubt(link)
            # Whatever failed did so since the link has: it is not the far side that is to be waited for.
            error.at_once |= not self._road.is_good(link, self._turn)
            raise
        finally:
            self._is_sending = False
            self._count()

    def _begin(self) -> Link:
        while True:
            link = self._road.take()
            self._go_over(link)
            self._is_sending = True
            # Else it went while connections were closed, and nobody was told to cut anything.
            if self._road.is_good(link, self._turn):
                return link
            self._is_sending = False

    def _go_over(self, link: Link) -> None:
        turn, device = link.turn, link.device
        if link is self._link and turn == self._turn:
            return
        if self._link is not None:
            self._outer.close()
        self._count()
        self._link, self._turn, self._wire.device = link, turn, device
        self._pay_for(link)

    def _count(self) -> None:
        """Have it stand with the link what has gone since the last time."""
        wire_bytes = self._wire.wire_bytes
        if self._link is not None:
            self._link.carried(wire_bytes - self._counted_bytes)
        self._counted_bytes = wire_bytes

    def _lost(self) -> None:
        if self._is_sending:
            self._outer.abort()

    @property
    def requests(self) -> int:
        """Requests that were begun."""
        return self._outer.requests

    @property
    def bytes_sent(self) -> int:
        """Bodies and headers, as they left."""
        return self._outer.bytes_sent

    def told(self) -> dict[str, Any]:
        """Return where it leads, and over which link."""
        return {**self._outer.told(), **self._road.told()}

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self._outer.open()

    def is_overdue(self) -> bool:
        """Whether the answer should have been here by now."""
        return self._outer.is_overdue()

    def abort(self) -> None:
        """End the request under way."""
        self._outer.abort()

    def stop(self) -> None:
        """End the request under way and refuse further ones."""
        self._outer.stop()

    def close(self) -> None:
        """Let go of connections."""
        self._outer.close()
        self._count()
