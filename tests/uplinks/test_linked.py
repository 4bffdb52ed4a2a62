"""Sending over links: which device, when connections are closed, and what becomes of a request whose link goes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from gateway.core.contracts import Signal
from gateway.uplinks.budget import Budget
from gateway.uplinks.guards import Answer, InTransitError, NoLinkError, Packed, UnreachableError
from gateway.uplinks.link_settings import LinkSettings
from gateway.uplinks.linked import Linked
from gateway.uplinks.links import Link, Road, Seen
from gateway.uplinks.metered import Metered
from gateway.uplinks.pacer import Pacer
from gateway.uplinks.purse import Purse
from gateway.uplinks.windows import Moment

PACKED = Packed(Signal.METRICS, b"body", "")


@dataclass
class Wire:
    """Notes by which device it sends; `during` is what happens meanwhile."""

    device: str = ""
    wire_bytes: int = 0
    requests: int = 0
    bytes_sent: int = 0
    log: list[str] = field(default_factory=list)
    during: object = None
    script: list[Exception] = field(default_factory=list)

    def send(self, packed: Packed) -> Answer:
        self.requests += 1
        self.bytes_sent += len(packed.body)
        self.wire_bytes += 100
        self.log.append(f"send by {self.device}")
        if self.during is not None:
            self.during()
        if self.script:
            raise self.script.pop(0)
        return Answer()

    def close(self) -> None:
        self.wire_bytes += 8
        self.log.append("close")

    def abort(self) -> None:
        self.log.append("abort")

    def stop(self) -> None:
        self.log.append("stop")

    def open(self) -> None:
        self.log.append("open")

    def is_overdue(self) -> bool:
        return True

    def told(self) -> dict:
        return {"endpoint": "there"}


@dataclass
class Desk:
    """Two links, a road over them, and the wire."""

    wire: Wire = field(default_factory=Wire)
    links: list[Link] = field(default_factory=list)
    doubts: list[int] = field(default_factory=list)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        for name, device, probe in (("ethernet", "eth0", ""), ("lte", "wwan0", "tcp://192.0.2.1:1")):
            self.links.append(Link(LinkSettings(name=name, interface=device, probe=probe), random=random.Random(1)))
        self.road = Road("cloud", self.links, doubted=lambda: self.doubts.append(1))
        self.linked = Linked(self.wire, wire=self.wire, road=self.road)

    def see(self, ethernet: str = "", lte: str = "") -> None:
        self.now_s += 100
        for link, why in zip(self.links, (ethernet, lte), strict=True):
            link.look(Seen(link.settings.interface, why), self.now_s)
            if link.settings.probe and not why and not link.is_up:
                link._answer = ""
                link.look(Seen(link.settings.interface), self.now_s)
        self.road.choose(self.now_s)


def test_it_sends_by_the_device_of_the_link() -> None:
    """And over another link with new connections; what closing costs is the one's that is left."""
    desk = Desk()
    desk.see(ethernet="no carrier")
    desk.linked.send(PACKED)
    desk.linked.send(PACKED)
    desk.see()
    desk.see()
    desk.linked.send(PACKED)
    assert desk.wire.log == ["send by wwan0", "send by wwan0", "close", "send by eth0"]
    assert [link.wire_bytes for link in desk.links] == [100, 208]
    assert desk.linked.told() == {"endpoint": "there", "link": "ethernet", "links": ["ethernet", "lte"]}
    desk.linked.close()
    assert [link.wire_bytes for link in desk.links] == [108, 208]


def test_nothing_is_sent_where_no_link_is_up() -> None:
    """It says which are down and why."""
    desk = Desk()
    desk.see(ethernet="no carrier", lte="gone")
    with pytest.raises(NoLinkError, match="ethernet: no carrier; lte: gone"):
        desk.linked.send(PACKED)
    assert desk.wire.log == []


def test_a_request_whose_link_goes_is_cut_and_may_be_tried_at_once() -> None:
    """What is between two requests has nothing to be cut."""
    desk = Desk()
    desk.see()
    desk.wire.during = lambda: desk.see(ethernet="no carrier")
    desk.wire.script = [InTransitError("the connection broke", answer_lost=True)]
    with pytest.raises(InTransitError) as error:
        desk.linked.send(PACKED)
    assert (desk.wire.log, error.value.at_once, error.value.answer_lost) == (["send by eth0", "abort"], True, True)
    desk.wire.during = None
    desk.linked.send(PACKED)
    assert desk.wire.log[2:] == ["close", "send by wwan0"]
    desk.see(lte="gone", ethernet="no carrier")
    assert desk.wire.log[4:] == []


def test_what_fails_while_the_link_is_up_is_the_far_side_or_behind_it() -> None:
    """It waits as ever; a link that can be asked is."""
    desk = Desk()
    desk.see()
    desk.wire.script = [UnreachableError("no connection"), UnreachableError("no connection")]
    with pytest.raises(UnreachableError) as error:
        desk.linked.send(PACKED)
    assert (error.value.at_once, desk.doubts) == (False, [])
    desk.see(ethernet="no carrier")
    with pytest.raises(UnreachableError) as error:
        desk.linked.send(PACKED)
    assert (error.value.at_once, desk.doubts, desk.links[1].is_doubted) == (False, [1], True)


def test_a_link_that_goes_while_connections_are_closed() -> None:
    """Nobody was there to be cut: it looks once more before it sends."""
    desk = Desk()
    desk.see(ethernet="no carrier")
    desk.linked.send(PACKED)
    desk.see()
    desk.see()
    close = desk.wire.close

    def close_slowly() -> None:
        close()
        desk.wire.close = close
        desk.see(ethernet="no carrier")

    desk.wire.close = close_slowly
    desk.linked.send(PACKED)
    assert desk.wire.log == ["send by wwan0", "close", "close", "send by wwan0"]


def test_all_else_is_the_wires() -> None:
    """As of any wire."""
    desk = Desk()
    desk.see()
    desk.linked.open()
    desk.linked.send(PACKED)
    desk.linked.abort()
    desk.linked.stop()
    assert desk.wire.log == ["open", "send by eth0", "abort", "stop"]
    assert (desk.linked.requests, desk.linked.bytes_sent, desk.linked.is_overdue()) == (1, 4, True)


def test_what_closing_costs_is_paid_by_the_link_that_is_left() -> None:
    """And the next request by the other one's budget, which is nobody's where that link is free."""
    desk = Desk()
    budget = Budget({"day": 1_000_000}, now=lambda: Moment("boot", 0.0, 1_789_992_000.0, True))
    budget.covers(100_000)
    budget.plan()
    budget.written()
    ethernet, lte = desk.links
    ethernet.settings = LinkSettings(name="ethernet", interface="eth0", metered=False)
    lte.budget = budget
    lte.pacer = Pacer(1e9)
    wire = desk.wire
    wire.before_piece, wire.piece_bytes_max, wire.head_bytes = None, 8192, 10
    wire.is_connected = wire.is_encrypted = False
    wire.pause = lambda seconds: None
    purse = Purse(desk.road, None, overdraws=frozenset(), now_s=lambda: 0.0)
    metered = Metered(wire, purse, rate=None, now_s=lambda: 0.0)

    def pay_for(link: Link) -> None:
        purse.use(link)
        metered.share(link.pacer)

    linked = Linked(metered, wire=wire, road=desk.road, pay_for=pay_for)
    desk.see(ethernet="no carrier")
    linked.send(PACKED)
    assert (budget.told()["per_day"]["spent_bytes"], wire.piece_bytes_max) == (100, 250_000_000)
    desk.see()
    desk.see()
    linked.send(PACKED)
    assert budget.told()["per_day"]["spent_bytes"] == 108
    assert (wire.log, wire.piece_bytes_max) == (["send by wwan0", "close", "send by eth0"], 8192)
    linked.close()
    assert budget.told()["per_day"]["spent_bytes"] == 108
