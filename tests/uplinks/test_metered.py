"""Checks for a wire that is paid: nothing leaves over the budget, nor faster than the rate, by a judge's count."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass, field

import pytest

from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal, TryLaterError
from gateway.core.units import Duration
from gateway.uplinks.budget import Budget, OverBudgetError, UnwrittenError
from gateway.uplinks.guards import Answer, HoldError, InTransitError, NotYetError, Packed, TooLargeError
from gateway.uplinks.metered import (
    COST_OF_CONNECTION,
    COST_OF_HANDSHAKE,
    COST_OF_REQUEST,
    Metered,
)
from gateway.uplinks.pacer import PIECE_BYTES_MIN, Pacer
from gateway.uplinks.senders import HttpSender
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.windows import Moment
from gateway.uplinks.wires import UNREAD_BYTES_MAX
from hil.otlp_sink import Behaviour

NOON = 1_789_948_800 + 43_200


@dataclass
class MeteredFake:
    """Writes pieces of `piece_bytes_max`, each of which costs `costs` times its length, and 100 bytes an answer."""

    costs: float = 1.0
    now_s: float = 0.0
    requests: int = 0
    bytes_sent: int = 0
    wire_bytes: int = 0
    head_bytes: int = 100
    is_connected: bool = False
    is_encrypted: bool = False
    piece_bytes_max: int = 8192
    before_piece: object = None
    script: list = field(default_factory=list)

    def send(self, packed: Packed) -> Answer:
        self.requests += 1
        self.is_connected = True
        for start in range(0, len(packed.body), self.piece_bytes_max):
            piece = packed.body[start : start + self.piece_bytes_max]
            self.before_piece(len(piece))
            self.bytes_sent += len(piece)
            self.wire_bytes += int(len(piece) * self.costs)
        self.wire_bytes += 100
        if self.script:
            raise self.script.pop(0)
        return Answer()

    def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def is_overdue(self) -> bool:
        return False

    def open(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self.wire_bytes += 208
        self.is_connected = False


def packed(size_bytes: int) -> Packed:
    return Packed(Signal.METRICS, bytes(size_bytes), "zstd")


def funded(limit_bytes: int, *, covered: bool = True) -> Budget:
    budget = Budget({"day": limit_bytes}, now=lambda: Moment("boot", 0.0, NOON, True))
    if covered:
        budget.covers(limit_bytes // 2)
    budget.plan()
    budget.written()
    return budget


def metered(wire, budget: Budget | None = None, *, rate: float | None = None) -> Metered:
    return Metered(wire, budget, rate=rate, now_s=lambda: wire.now_s)


def spent(budget: Budget) -> int:
    return budget.told()["per_day"]["spent_bytes"]


def test_a_request_costs_what_the_wire_says() -> None:
    """However much was taken for it before; closing the connection costs too."""
    wire, budget = MeteredFake(costs=1.5), funded(1_000_000)
    sender = metered(wire, budget)
    assert sender.send(packed(10_000)) == Answer()
    assert spent(budget) == wire.wire_bytes == 15_100
    sender.close()
    assert spent(budget) == wire.wire_bytes == 15_308


def test_what_it_may_cost_is_taken_before_it_goes() -> None:
    """Its bytes with room for losses, the answer, and a connection with its handshake where there is none."""
    wire = MeteredFake(is_encrypted=True)
    sender = metered(wire, funded(1_000_000))
    one = int(1.2 * 1100) + COST_OF_REQUEST
    assert sender.cost_of(packed(1000)) == one + COST_OF_CONNECTION + COST_OF_HANDSHAKE
    wire.is_encrypted = False
    assert sender.cost_of(packed(1000)) == one + COST_OF_CONNECTION
    wire.is_connected = True
    assert sender.cost_of(packed(1000)) == one


def test_what_the_budget_does_not_hold_does_not_leave() -> None:
    """Nor what no note covers; nothing is spent by that."""
    wire = MeteredFake()
    with pytest.raises(UnwrittenError):
        metered(wire, funded(1_000_000, covered=False)).send(packed(60_000))
    budget = funded(100_000)
    sender = metered(wire, budget)
    sender.send(packed(20_000))
    sender.send(packed(20_000))
    before = spent(budget)
    with pytest.raises(OverBudgetError):
        sender.send(packed(60_000))
    assert (wire.requests, spent(budget)) == (2, before)


def test_a_request_larger_than_any_window_is_split() -> None:
    """To wait for the next one would not help."""
    with pytest.raises(TooLargeError):
        metered(MeteredFake(), funded(100_000)).send(packed(100_000))


def test_a_line_that_loses_much_is_paid_as_it_goes() -> None:
    """More is taken while the body is written; where there is no more the request is cut, within the budget."""
    wire, budget = MeteredFake(costs=3.0), funded(300_000)
    sender = metered(wire, budget)
    sender.send(packed(30_000))
    assert spent(budget) == wire.wire_bytes == 90_100
    budget.plan()
    budget.written()
    with pytest.raises((OverBudgetError, UnwrittenError)):
        sender.send(packed(100_000))
    assert spent(budget) == wire.wire_bytes < 300_000


@pytest.mark.parametrize("error", [InTransitError("broke", answer_lost=True), TryLaterError("429")])
def test_what_fails_is_paid_too(error: Exception) -> None:
    """The bytes have gone."""
    wire, budget = MeteredFake(script=[error]), funded(1_000_000)
    with pytest.raises(type(error)):
        metered(wire, budget).send(packed(5000))
    assert spent(budget) == wire.wire_bytes == 5100


@pytest.mark.parametrize(("rate", "costs"), [(1200.0, 1.0), (8000.0, 1.3), (1_000_000.0, 1.0)])
def test_the_rate_is_kept(rate: float, costs: float) -> None:
    """Over several requests, by what they really cost, in pieces that leave the line to others now and then."""
    wire = MeteredFake(costs=costs)
    sender = metered(wire, rate=rate)
    for size in (30_000, 100, 5000, 20_000):
        sender.send(packed(size))
    assert wire.piece_bytes_max == max(PIECE_BYTES_MIN, rate / 4)
    # The last piece goes the moment the line is free for it.
    assert wire.now_s == pytest.approx((wire.wire_bytes - costs * wire.piece_bytes_max) / rate, abs=1.0)


def test_a_line_that_was_quiet_is_not_sent_twice_as_much() -> None:
    """What was not used of a rate is gone."""
    wire = MeteredFake()
    sender = metered(wire, rate=1000.0)
    sender.send(packed(4000))
    wire.now_s += 3600
    began_s = wire.now_s
    sender.send(packed(4000))
    assert wire.now_s - began_s > 3


def test_the_rest_is_the_wires_own() -> None:
    """Counters and ends go through."""
    wire = MeteredFake()
    sender = metered(wire, rate=1e9)
    sender.open()
    sender.send(packed(10))
    sender.abort()
    sender.stop()
    assert (sender.requests, sender.bytes_sent, sender.is_overdue()) == (1, 10, False)


@pytest.fixture
def make_real(make_link, otlp_sink):
    """A real sender through a link that counts, with a budget."""
    made = []

    def make(budget: Budget | None, **more) -> tuple[Metered, object]:
        link = make_link(otlp_sink.address)
        settings = OtlpUplinkSettings(name="cloud", endpoint=link.url, timeout=Duration(20))
        wire = HttpSender(settings, version="0.1.0", clock=SystemClock())
        made.append(Metered(wire, budget, **{"rate": None, "now_s": time.monotonic, **more}))
        return made[-1], link

    yield make
    for one in made:
        one.close()


def noise(size_bytes: int) -> Packed:
    """A request that the receiver refuses to read, which is all the same here."""
    return Packed(Signal.METRICS, random.Random(1).randbytes(size_bytes), "")


def test_what_is_spent_is_no_less_than_a_judge_counts(make_real, otlp_sink) -> None:
    """By a link in between, in both directions; and not much more."""
    budget = funded(10_000_000)
    sender, link = make_real(budget)
    otlp_sink.always = Behaviour(status=429)
    for size in (10, 1000, 300_000, 20_000):
        with pytest.raises(TryLaterError):
            sender.send(noise(size))
    sender.close()
    counts = link.counts()
    assert counts.up + counts.down > 321_000
    assert counts.up + counts.down < spent(budget)
    assert 0.8 * (counts.up_wire + counts.down_wire) < spent(budget) < 1.5 * (counts.up_wire + counts.down_wire)


def test_what_goes_between_two_requests_is_paid_with_the_next(make_real, otlp_sink) -> None:
    """Who hangs up does so when nobody asks any more."""
    budget = funded(10_000_000)
    sender, link = make_real(budget)
    otlp_sink.always = Behaviour(status=429)
    for _ in range(6):
        with pytest.raises(TryLaterError):
            sender.send(noise(1000))
        link.cut()
        time.sleep(0.02)
    sender.close()
    assert spent(budget) == sender.wire.wire_bytes


def test_a_handshake_that_fails_is_paid_too(authority, make_link, make_otlp_sink) -> None:
    """Who is not accepted has shown certificates by then, and does so at each attempt."""
    link = make_link(make_otlp_sink(identity=authority.issue()).address)
    settings = OtlpUplinkSettings(name="cloud", endpoint=link.url.replace("http:", "https:"), timeout=Duration(20))
    budget = funded(10_000_000)
    sender = Metered(
        HttpSender(settings, version="0.1.0", clock=SystemClock()), budget, rate=None, now_s=time.monotonic
    )
    for _ in range(3):
        with pytest.raises(HoldError):
            sender.send(noise(10))
    sender.close()
    counts = link.counts()
    assert 2000 < counts.up + counts.down < spent(budget)


def test_a_budget_that_is_spent_sends_nothing_at_all(make_real, otlp_sink) -> None:
    """Not one byte more, as the judge counts it."""
    budget = funded(200_000)
    sender, link = make_real(budget)
    otlp_sink.always = Behaviour(status=429)
    for _ in range(20):
        budget.plan()
        budget.written()
        with pytest.raises(TryLaterError):
            sender.send(noise(20_000))
    sender.close()
    assert 100_000 < link.counts().up + link.counts().down <= spent(budget) <= 200_000


def test_a_real_line_is_sent_no_more_than_its_rate(make_real, otlp_sink) -> None:
    """Forty kilobytes at a hundred a second, on a line that would take all of it at once."""
    sender, _ = make_real(None, rate=100_000.0)
    otlp_sink.always = Behaviour(status=429)
    began_s = time.monotonic()
    with pytest.raises(TryLaterError):
        sender.send(noise(60_000))
    assert 0.3 < time.monotonic() - began_s < 10


@pytest.mark.parametrize("end", ["stop", "abort"])
def test_a_pause_ends_with_its_request(end: str) -> None:
    """A stop does not wait for a slow rate."""
    settings = OtlpUplinkSettings(name="cloud", endpoint="http://127.0.0.1:1")
    wire = HttpSender(settings, version="0.1.0", clock=SystemClock())
    waiting = threading.Thread(target=wire.pause, args=(60,), daemon=True)
    waiting.start()
    getattr(wire, end)()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_rate_that_is_shared_holds_for_all_of_them() -> None:
    """Two who take turns on one line need as long as it takes to carry both; alone it is theirs again."""
    first, second = MeteredFake(), MeteredFake()
    clock = [0.0]
    pacer = Pacer(1000.0)
    senders = []
    for wire in (first, second):
        wire.pause = lambda seconds: clock.__setitem__(0, clock[0] + seconds)
        sender = Metered(wire, None, rate=None, now_s=lambda: clock[0])
        sender.share(pacer)
        senders.append(sender)
    for _ in range(10):
        for sender in senders:
            sender.send(packed(900))
    carried = first.wire_bytes + second.wire_bytes
    assert carried == 20_000
    assert carried / 1000.0 - 2.0 <= clock[0] <= carried / 1000.0
    assert first.piece_bytes_max == 256
    senders[0].share(None)
    before = clock[0]
    senders[0].send(packed(100_000))
    assert (clock[0], first.piece_bytes_max) == (before, 8192)


@pytest.fixture
def serve_flood():
    """Return a wire to a server that answers its first connection by `answer(connection)`."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(answer) -> HttpSender:
        def run() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    answer(connection)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[0].start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = OtlpUplinkSettings(name="cloud", endpoint=url, timeout=Duration(20))
        return HttpSender(settings, version="0.1.0", clock=SystemClock())

    yield start
    listener.close()
    threads[0].join(20)


def flood(connection: socket.socket) -> None:
    """Read a request and say a hundred megabytes to it."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = (b"1;" + b"x" * 500 + b"\r\na\r\n") * 20
    for _ in range(10_000):
        connection.sendall(piece)


def test_an_answer_that_no_note_covers_is_heard_all_the_same(serve_flood) -> None:
    """It has come: to cut it off would have the request sent again, and the answer come again."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 7000 + b"\r\nY: " + b"y" * 7000)
        connection.sendall(b"\r\nContent-Length: 0\r\n\r\n")
        connection.recv(1)

    budget, made = funded(1_000_000, covered=False), serve_flood(answer)
    sender = Metered(made, budget, rate=None, now_s=time.monotonic)
    assert budget.covers(9_000)
    assert not budget.covers(60_000)
    assert sender.send(packed(1000)).rejected == 0
    sender.close()
    assert spent(budget) == made.wire_bytes > 15_000


def test_an_answer_is_paid_as_it_comes(serve_flood) -> None:
    """Whoever answers without an end is cut off where the budget ends, and the request may have been taken."""
    budget, made = funded(100_000), serve_flood(flood)
    sender = Metered(made, budget, rate=None, now_s=time.monotonic)
    with pytest.raises(NotYetError) as caught:
        sender.send(packed(1000))
    assert caught.value.answer_lost
    sender.close()
    # What had come by then and was not read yet, as much as the kernel takes.
    assert spent(budget) == made.wire_bytes <= 100_000 + 4 * UNREAD_BYTES_MAX
