"""Checks for several receivers as one: who is sent to, what goes to the next one, what comes back to whoever sends."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.clock import NS_PER_S, FakeClock, SystemClock
from gateway.core.contracts import RefusedError, Signal, TryLaterError
from gateway.core.units import Duration
from gateway.uplinks.budget import Budget, OverBudgetError
from gateway.uplinks.endpoint_settings import BreakerSettings
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    Left,
    NotYetError,
    Packed,
    StatusRefusedError,
    TooLargeError,
    UnheardError,
    UnreachableError,
)
from gateway.uplinks.metered import COST_OF_CONNECTION, COST_OF_HANDSHAKE, Metered
from gateway.uplinks.nats_pieces import PiecesPart
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.windows import Moment
from hil.link_proxy import Mode
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from gateway.net.deadline import Deadline

METRICS = Packed(Signal.METRICS, b"metrics", "")
LOGS = Packed(Signal.LOGS, b"logs", "")
NOON = 1_789_948_800 + 43_200


def lost() -> InTransitError:
    return InTransitError("no answer within 10 s", answer_lost=True)


def away() -> UnreachableError:
    return UnreachableError("no connection")


UNHEARD = UnheardError(Left(PiecesPart([], Signal.METRICS), "no stream listens", 1.0))


@dataclass
class FakeWire:
    """One receiver: answers by its script, and then takes all, or always fails by `always`."""

    clock: FakeClock
    script: list = field(default_factory=list)
    always: object = None
    takes_s: float = 0.0
    requests: int = 0
    bytes_sent: int = 0
    wire_bytes: int = 0
    head_bytes: int = 100
    is_connected: bool = False
    is_encrypted: bool = True
    piece_bytes_max: int = 8192
    recycled: int = 0
    overdue: bool = False
    calls: list = field(default_factory=list)
    untils: list = field(default_factory=list)
    waits: dict = field(default_factory=dict)
    before_piece: object = lambda _: None

    def send(self, packed: Packed, /, *, until: Deadline) -> Answer:
        self.requests += 1
        self.untils.append(until.left_s())
        self.clock.advance(int(self.takes_s * NS_PER_S))
        self.wire_bytes += 500
        outcome = self.script.pop(0) if self.script else (self.always() if self.always else Answer(seconds=0.1))
        if isinstance(outcome, Exception):
            raise outcome
        self.before_piece(len(packed.body))
        self.bytes_sent += len(packed.body)
        self.wire_bytes += len(packed.body)
        self.is_connected = True
        return outcome

    def recycle(self) -> None:
        self.recycled += 1

    def is_overdue(self) -> bool:
        return self.overdue

    def told(self) -> dict[str, object]:
        return {"endpoint": "as it knows it", **self.waits}

    def pause(self, seconds: float) -> None:
        self.calls.append(("pause", seconds))

    def __getattr__(self, name: str):
        if name in {"open", "abort", "stop", "close"}:
            return lambda: self.calls.append(name)
        raise AttributeError(name)


@dataclass
class Group:
    """Receivers `a`, `b`, … as one, with their clock."""

    endpoints: Endpoints
    wires: list[FakeWire]
    clock: FakeClock

    def send(self, packed: Packed = METRICS) -> Answer:
        return self.endpoints.send(packed)

    def fails(self, kind: type[Exception] = TryLaterError, packed: Packed = METRICS) -> Exception:
        with pytest.raises(kind) as caught:
            self.send(packed)
        assert type(caught.value) is kind
        return caught.value

    def wait(self, seconds: float) -> None:
        self.clock.advance(int(seconds * NS_PER_S))

    def counts(self) -> list[int]:
        return [wire.requests for wire in self.wires]

    def states(self) -> list[str]:
        return [one["state"] for one in self.endpoints.told()["endpoints"]]


def group(*scripts: list, breaker: dict | None = None, **options) -> Group:
    clock = FakeClock()
    wires = [FakeWire(clock, list(script)) for script in scripts]
    made = OtlpUplinkSettings(
        name="cloud",
        endpoints=tuple(f"https://{chr(97 + k)}" for k in range(len(scripts))),
        breaker=BreakerSettings(**(breaker or {})),
        **options,
    )
    return Group(Endpoints(made, wires, clock=clock, random=random.Random(1)), wires, clock)


def test_the_first_that_is_well_takes_all() -> None:
    """The others cost nothing, not a connection either."""
    all_ = group([], [], [])
    for _ in range(5):
        all_.send()
    assert all_.counts() == [5, 0, 0]


def test_where_nothing_was_taken_the_next_one_is_asked_at_once() -> None:
    """In the same attempt: whoever sends does not notice."""
    for error in (away(), TryLaterError("status 503"), TryLaterError("TLS failed"), HoldError("status 401")):
        all_ = group([error], [away()], [])
        all_.send()
        assert all_.counts() == [1, 1, 1]
        assert all_.endpoints.told()["endpoint"] == "https://c"


def test_who_fails_is_left_out_and_tried_again_with_what_is_due() -> None:
    """After three failures nothing goes there for a while; then one request, and all of them once it takes that."""
    all_ = group([away()] * 4, [])
    for _ in range(5):
        all_.send()
    assert (all_.counts(), all_.states()) == ([3, 5], ["open", "closed"])
    all_.wait(10)
    all_.send()
    assert (all_.counts(), all_.states()) == ([4, 6], ["open", "closed"])
    all_.wait(15)
    all_.send()
    assert all_.counts() == [4, 7]
    all_.wait(5)
    for _ in range(3):
        all_.send()
    assert (all_.counts(), all_.states()) == ([7, 7], ["closed", "closed"])


def test_one_that_comes_and_goes_does_not_take_the_traffic_each_time() -> None:
    """It is left out for longer and longer: over an hour it costs a handful of failures, not hundreds."""
    all_ = group([], [], breaker={"failures": 1})
    for _ in range(3600):
        # A second after it is back it is gone again.
        is_well = all_.states()[0] == "half-open" or all_.wires[0].requests % 2 == 0
        all_.wires[0].always = None if is_well else lost
        try:
            all_.send()
        except TryLaterError:
            all_.send()
        all_.wait(1)
    told = all_.endpoints.told()["endpoints"]
    assert told[0]["opened"] < 30
    assert told[1]["failures"] == 0


def test_what_may_have_been_taken_goes_back_to_be_counted() -> None:
    """To another it goes when whoever sends has counted it, without a wait; and then the first has its turn again."""
    all_ = group([lost()], [])
    error = all_.fails(InTransitError)
    assert (error.answer_lost, error.at_once, all_.counts()) == (True, True, [1, 0])
    all_.send()
    assert all_.counts() == [1, 1]
    all_.send()
    assert all_.counts() == [2, 1]


def test_what_broke_under_way_goes_back_to_be_made_smaller() -> None:
    """It costs the line another body, so that it is not written anew at once; but no wait, either."""
    all_ = group([InTransitError("broke")], [])
    error = all_.fails(InTransitError)
    assert (error.answer_lost, error.at_once, all_.counts()) == (False, True, [1, 0])


def test_nobody_is_hurried_where_no_other_is_well() -> None:
    """Each that fails makes one less to go to at once, so that it ends in a wait."""
    all_ = group([lost(), lost(), lost()], [lost(), lost()])
    seen = [all_.fails(InTransitError).at_once for _ in range(5)]
    assert seen[0] is True
    assert seen[1:] == [False] * 4


def test_who_asks_to_wait_is_left_alone_and_the_others_are_not() -> None:
    """Retry-After is about one receiver; where all of them ask for it, it is the shortest that is waited for."""
    all_ = group([TryLaterError("status 429: asks to wait 60 s", 60.0)], [], balance="round_robin")
    for _ in range(4):
        all_.send()
    assert all_.counts() == [1, 4]
    all_.wires[1].script = [TryLaterError("status 503: asks to wait 5 s", 5.0)]
    assert all_.fails().after_s == 5
    all_.wait(2)
    error = all_.fails()
    assert (error.after_s, str(error), all_.counts()) == (3, "status 503: asks to wait 5 s", [1, 5])
    assert all_.states() == ["asked to wait"] * 2
    all_.wait(4)
    all_.send()
    assert all_.counts() == [1, 6]


def test_who_asks_to_wait_keeps_nobody_from_an_attempt_elsewhere() -> None:
    """One asks for a minute, the other is not there: that one may be back any moment."""
    all_ = group([TryLaterError("status 429", 60.0)], [away()])
    assert all_.fails(UnreachableError).after_s == 0


def test_who_asks_for_an_hour_hides_no_wrong_way_elsewhere() -> None:
    """That one may be put right within the hour: its signal is held back for a minute, and nobody waits longer."""
    all_ = group([TryLaterError("status 503: asks to wait 3600 s", 3600.0)], [HoldError("status 404")])
    assert all_.fails(HoldError).after_s == 60
    all_.wait(61)
    all_.send()
    assert all_.counts() == [1, 2]


def test_a_wrong_way_holds_back_its_signal_there_alone() -> None:
    """Whose path for logs is wrong still gets the metrics; where it is wrong everywhere the signal is held back."""
    all_ = group([HoldError("status 404")], [])
    all_.send(LOGS)
    all_.send(METRICS)
    all_.send(LOGS)
    assert all_.counts() == [2, 2]
    all_.wires[1].script = [HoldError("status 403")]
    error = all_.fails(HoldError, LOGS)
    assert 0 < error.after_s <= 60
    all_.send(METRICS)


def test_a_wrong_way_here_and_nobody_there_is_no_hold() -> None:
    """The one that is not there may be right, and is waited for as usual."""
    all_ = group([HoldError("status 404")], [away()] * 2)
    all_.fails(UnreachableError)
    all_.fails(UnreachableError)
    assert all_.counts() == [1, 2]


def test_when_all_are_away_each_attempt_asks_one() -> None:
    """Whoever sends decides how often; the one that is due soonest is asked, so that the end of an outage shows."""
    all_ = group([], [], [])
    for wire in all_.wires:
        wire.always = away
    for _ in range(3):
        all_.fails(UnreachableError)
    assert (all_.counts(), all_.states()) == ([3, 3, 3], ["open"] * 3)
    for _ in range(30):
        all_.wait(1)
        all_.fails(UnreachableError)
    assert sum(all_.counts()) == 39
    assert min(all_.counts()) >= 8
    for wire in all_.wires:
        wire.always = None
    all_.send()
    assert sum(all_.counts()) == 40


@pytest.mark.parametrize("error", [TooLargeError("413"), NotYetError("budget", 9), UNHEARD])
def test_what_is_about_the_data_or_this_side_is_nobody_elses(error: Exception) -> None:
    """As with one receiver."""
    all_ = group([error], [])
    all_.fails(type(error))
    assert (all_.counts(), all_.states()) == ([1, 0], ["closed", "closed"])


def refusal() -> StatusRefusedError:
    return StatusRefusedError("status 400: bad name", 400)


def test_a_refusal_is_one_where_all_agree() -> None:
    """Then it is about the data, and says nothing against anybody."""
    all_ = group([refusal()] * 5, [refusal()] * 5)
    for _ in range(5):
        assert all_.fails(StatusRefusedError).status == 400
    assert (all_.counts(), all_.states()) == ([5, 5], ["closed", "closed"])


def test_who_refuses_what_another_takes_is_left_out() -> None:
    """A wrong port among several costs no data: it is shown three requests, and what is wrong with it is said."""
    all_ = group([refusal()] * 9, [])
    for _ in range(6):
        all_.send()
    assert (all_.counts(), all_.states()) == ([3, 6], ["open", "closed"])
    assert all_.endpoints.told()["endpoints"][0]["last_error"] == "status 400: bad name; another one took it"


def test_who_is_not_trusted_gives_nothing_up_alone() -> None:
    """It refused what another took; while that one is away what it refuses is kept."""
    all_ = group([refusal()] * 9, [Answer(seconds=0.1), away()])
    all_.send()
    error = all_.fails(UnreachableError)
    assert not error.answer_lost
    for _ in range(2):
        all_.wires[1].script = [away()]
        all_.wires[0].script = [refusal()]
        all_.fails(UnreachableError)
    # Only the one that refuses may be asked now: still nothing is given up for it.
    assert all_.states()[1] == "open"
    all_.wires[0].script = [refusal()]
    all_.fails()
    # When it takes something it is trusted again.
    all_.wires[0].script = []
    all_.send()
    all_.wires[0].script = [refusal()]
    all_.fails(StatusRefusedError)


def test_who_takes_no_zstd_is_offered_gzip_first() -> None:
    """That it is offered is for whoever compresses; another one is asked where the user wants zstd alone."""
    packed = Packed(Signal.METRICS, b"metrics", "zstd")
    auto = group([refusal()], [])
    auto.fails(StatusRefusedError, packed)
    assert auto.counts() == [1, 0]
    fixed = group([refusal()], [], compression="zstd")
    fixed.send(packed)
    assert fixed.counts() == [1, 1]


def test_one_receiver_alone_refuses_as_ever() -> None:
    """Nobody else could be asked."""
    alone = group([away(), refusal()])
    alone.fails(UnreachableError)
    alone.fails(StatusRefusedError)


def test_when_an_outage_of_all_is_over_each_of_them_is_tried() -> None:
    """What kept them away was the line: the preferred one is not left out for minutes since it was tried in vain."""
    all_ = group([], [])
    for wire in all_.wires:
        wire.always = away
    for _ in range(400):
        all_.fails(UnreachableError)
        all_.wait(15)
    told = all_.endpoints.told()["endpoints"]
    assert max(one["retry_in_s"] for one in told) > 60
    for wire in all_.wires:
        wire.always = None
    for _ in range(3):
        all_.send()
    assert all_.states() == ["closed", "half-open"]
    assert all_.endpoints.told()["endpoint"] == "https://a"


def test_a_server_that_fails_at_all_it_gets_is_left_out() -> None:
    """500 may be about the data, and the next one is asked once that is counted. Three in a row are about the server."""
    all_ = group([StatusRefusedError("status 500", 500)] * 3, [])
    for _ in range(3):
        assert all_.fails(StatusRefusedError).at_once
        all_.send()
    all_.send()
    assert all_.counts() == [3, 4]


def test_a_failure_at_all_of_them_is_nobodys() -> None:
    """Then whoever sends has to part it, and no other one is left."""
    all_ = group([StatusRefusedError("status 500", 500)], [StatusRefusedError("status 500", 500)])
    assert all_.fails(StatusRefusedError).at_once
    assert not all_.fails(StatusRefusedError).at_once
    assert all_.counts() == [1, 1]


def test_a_whole_operation_has_one_time() -> None:
    """Each attempt is handed what is left, and where nothing is left no other begins."""
    clock = SystemClock()
    wires = [FakeWire(FakeClock(), [away()]), FakeWire(FakeClock(), [away()])]
    made = OtlpUplinkSettings(name="c", endpoints=("https://a", "https://b"), operation_timeout=Duration(0.05))
    both = Endpoints(made, wires, clock=clock, random=random.Random(1))
    with pytest.raises(UnreachableError):
        both.send(METRICS)
    assert wires[1].untils[0] < wires[0].untils[0] <= 0.05
    wires[0].script = [away()]
    wires[0].send = lambda _, until: time.sleep(0.06) or FakeWire.send(wires[0], METRICS, until=until)
    with pytest.raises(UnreachableError):
        both.send(METRICS)
    assert [wire.requests for wire in wires] == [2, 1]


def test_one_receiver_behaves_as_if_it_were_alone() -> None:
    """Its breaker only watches: when it is tried is for whoever sends to decide, and each failure is as it was."""
    errors = [away(), lost(), TryLaterError("status 503"), HoldError("status 404"), away(), away(), away()]
    alone = group(list(errors))
    for error in errors:
        met = alone.fails(type(error))
        assert met is error
        assert not met.at_once
        alone.wait(60)
    assert alone.counts() == [7]
    alone.send()


def test_what_it_has_sent_is_the_sum() -> None:
    """A budget pays for all of them, whoever it was."""
    all_ = group([away()] * 2, [])
    all_.send()
    all_.send()
    assert all_.endpoints.requests == 4
    assert all_.endpoints.bytes_sent == 14
    assert all_.endpoints.wire_bytes == 2014
    assert all_.endpoints.is_encrypted
    assert all_.endpoints.head_bytes == 100


def test_whether_there_is_a_connection_is_asked_of_the_next() -> None:
    """A budget sets aside what that one costs."""
    all_ = group([], [])
    all_.send()
    assert all_.endpoints.is_connected
    all_.wires[0].script = [lost()]
    all_.fails(InTransitError)
    assert not all_.endpoints.is_connected


def test_a_budget_pays_for_the_way_to_another_before_it_is_gone() -> None:
    """Where there is no room for one more connection, none is made."""
    spent = []
    for limit_bytes in (65_536, 1_000_000):
        all_ = group([away()], [])
        all_.wires[0].is_connected = True
        all_.wires[0].wire_bytes = 0
        budget = Budget({"day": limit_bytes}, now=lambda: Moment("boot", 0.0, NOON, True))
        budget.covers(limit_bytes)
        budget.plan()
        budget.written()
        paid = Metered(all_.endpoints, budget, rate=None, now_s=lambda: 0.0)
        if limit_bytes == 65_536:
            budget.take(limit_bytes - 5000)
            all_.wires[0].always = lambda wire=all_.wires[0]: setattr(wire, "wire_bytes", 5000) or away()
            all_.wires[0].script = []
            with pytest.raises((OverBudgetError, NotYetError)):
                paid.send(METRICS)
            assert all_.counts() == [1, 0]
        else:
            paid.send(METRICS)
            assert all_.counts() == [1, 1]
            spent.append(budget.told()["per_day"]["spent_bytes"])
            assert spent == [all_.endpoints.wire_bytes]
    assert COST_OF_CONNECTION + COST_OF_HANDSHAKE > 4096


def test_a_piece_is_paid_whoever_it_goes_to() -> None:
    """What is set for all of them is set for each."""
    all_ = group([away()], [])
    pieces = []
    all_.endpoints.before_piece, all_.endpoints.piece_bytes_max = pieces.append, 512
    all_.send()
    assert pieces == [7]
    assert [wire.piece_bytes_max for wire in all_.wires] == [512, 512]
    assert (all_.endpoints.before_piece, all_.endpoints.piece_bytes_max) == (pieces.append, 512)


def test_what_is_overdue_is_cut_and_nobody_else() -> None:
    """Though another one's turn has begun in the meantime."""
    all_ = group([], [])
    all_.wires[0].overdue = True
    assert all_.endpoints.is_overdue()
    all_.endpoints._current = all_.endpoints._all[1]
    all_.endpoints.abort()
    assert (all_.wires[0].calls, all_.wires[1].calls) == (["abort"], [])
    all_.endpoints.abort()
    assert all_.wires[1].calls == ["abort"]


def test_the_end_is_everybodys() -> None:
    """Nothing goes to the next one after it, and it says nothing of anybody's health."""
    all_ = group([], [])

    def end():
        all_.endpoints.stop()
        return TryLaterError("the uplink is stopping")

    all_.wires[0].always = end
    assert not all_.fails().at_once
    assert all_.counts() == [1, 0]
    assert all_.endpoints.told()["endpoints"][0]["failures"] == 0
    all_.endpoints.open()
    all_.endpoints.pause(3)
    all_.endpoints.close()
    assert all_.wires[0].calls == ["stop", "open", ("pause", 3), "close"]
    assert all_.wires[1].calls == ["stop", "open", "close"]


def test_a_mistake_of_ours_leaves_nothing_behind() -> None:
    """The next request goes as if it had not been."""
    all_ = group([ValueError("ours")], [], breaker={"failures": 1})
    with pytest.raises(ValueError, match="ours"):
        all_.send()
    all_.send()
    assert (all_.counts(), all_.states()) == ([2, 0], ["closed", "closed"])


def test_connections_that_nobody_uses_are_renewed_too() -> None:
    """Whoever was stood in for is asked with each request whether its connection is too old."""
    all_ = group([], [])
    all_.send()
    assert [wire.recycled for wire in all_.wires] == [1, 1]


def test_status_says_how_each_of_them_is() -> None:
    """Who is sent to, who is left out, why and for how long."""
    all_ = group([away()] * 3, [])
    for _ in range(3):
        all_.send()
    told = all_.endpoints.told()
    first, second = told["endpoints"]
    assert told["endpoint"] == second["endpoint"] == "https://b"
    assert (first["state"], first["is_current"], first["last_error"]) == ("open", False, "no connection")
    assert 7 < first["retry_in_s"] <= 10
    assert (first["failures_in_a_row"], first["opened"], first["requests"], first["weight"]) == (3, 1, 3, 1)
    assert (second["state"], second["is_current"], second["is_connected"], second["bytes_sent"]) == (
        "closed",
        True,
        True,
        21,
    )


def test_status_says_what_the_one_that_is_asked_is_waited_for() -> None:
    """Of that one alone; nothing where a kind of wire does not say it."""
    all_ = group([], [])
    assert "waiting_for" not in all_.endpoints.told()
    waits = {"waiting_for": "an answer", "waiting_s": 3.0, "waiting_s_max": 10.0}
    all_.wires[0].waits, all_.wires[1].waits = waits, {**waits, "waiting_s": 0.0}
    assert {key: value for key, value in all_.endpoints.told().items() if key in waits} == waits
    assert all_.endpoints.told()["endpoint"] == "https://a"


def test_people_hear_of_a_change_once(caplog: pytest.LogCaptureFixture) -> None:
    """Left out, and taken again; a signal that is held back there, while the reason is the same."""
    caplog.set_level(logging.INFO, "tidegate.uplinks")
    all_ = group([away()] * 5, [])
    for _ in range(5):
        all_.send()
    all_.wait(10)
    all_.send()
    all_.wait(20)
    all_.wires[0].script = []
    for _ in range(3):
        all_.send()
    assert [record.getMessage() for record in caplog.records] == [
        "uplink cloud: https://a is left out for a while: no connection",
        "uplink cloud: https://a is sent to again",
    ]
    caplog.clear()
    for _ in range(3):
        all_.wires[0].script = [HoldError("status 404")]
        all_.send(LOGS)
        all_.wait(61)
    assert [record.getMessage() for record in caplog.records] == [
        "uplink cloud: logs are held back from https://a: status 404"
    ]


def outcome(kind: str) -> Answer | Exception:
    """Make one way in which a request ends."""
    return {
        "taken": lambda: Answer(seconds=0.1),
        "away": away,
        "lost": lost,
        "broke": lambda: InTransitError("broke"),
        "busy": lambda: TryLaterError("status 503"),
        "asks": lambda: TryLaterError("status 429: asks to wait", 20.0),
        "held": lambda: HoldError("status 404"),
        "refused": lambda: StatusRefusedError("status 422", 422),
        "fails": lambda: StatusRefusedError("status 500", 500),
        "ours": lambda: NotYetError("over budget", 1.0),
    }[kind]()


GOES_ON = {"away", "busy", "asks", "held"}
ENDS = st.sampled_from(["taken", "taken", *sorted(GOES_ON), "lost", "broke", "refused", "fails", "ours"])


@given(
    st.sampled_from(["failover", "round_robin", "weighted", "least_outstanding"]),
    st.lists(st.tuples(st.lists(ENDS, min_size=3, max_size=3), st.floats(0, 30), st.booleans()), max_size=40),
)
@settings(deadline=None)
def test_whatever_happens_a_request_ends_once(balance: str, rounds: list) -> None:
    """It goes on only where nothing was taken, to nobody twice, and to nobody who asked to be left alone; whoever is
    well is asked, and what comes back is what one of them said.
    """
    all_, asked_s = group([], [], [], balance=balance), [float("-inf")] * 3
    for kinds, wait_s, is_log in rounds:
        packed, now_s, ends = LOGS if is_log else METRICS, all_.clock.monotonic / NS_PER_S, []
        for k, kind in enumerate(kinds):
            all_.wires[k].always = lambda k=k, kind=kind, ends=ends: ends.append((k, kind)) or outcome(kind)
        well = {k for k, one in enumerate(all_.endpoints._all) if one.health.allows(packed.signal, now_s)}
        result: object = None
        try:
            all_.send(packed)
        except (TryLaterError, StatusRefusedError) as error:
            result = error
        tried, met = [k for k, _ in ends], [kind for _, kind in ends]
        assert len(set(tried)) == len(tried)
        assert all(now_s >= asked_s[k] for k in tried)
        assert set(tried) <= well if well else len(tried) <= 1
        assert set(met[:-1]) <= {*GOES_ON, "refused"}
        if result is None:
            assert met[-1] == "taken"
        elif isinstance(result, StatusRefusedError):
            assert met[-1] == "fails" or set(met) == {"refused"}
        else:
            assert "taken" not in met
            assert set(tried) == well or met[-1] not in {*GOES_ON, "refused"} or not well
            assert result.answer_lost == ("lost" in met)
            assert not (result.at_once and result.after_s)
        for k, kind in ends:
            asked_s[k] = now_s + 20 if kind == "asks" else asked_s[k]
        all_.wait(wait_s)


@pytest.mark.parametrize("balance", ["failover", "round_robin", "weighted", "least_outstanding"])
def test_choosing_takes_no_time(balance: str) -> None:
    """Under 20 µs among three, the best of some rounds on a box that others use."""
    all_ = group([], [], [], balance=balance)
    rounds = []
    for _ in range(20):
        began_ns = time.perf_counter_ns()
        for _ in range(100):
            all_.endpoints.order(Signal.METRICS)
        rounds.append((time.perf_counter_ns() - began_ns) / 100)
    assert min(rounds) < 20_000


# Over real sockets.


@pytest.fixture
def connect(rigs):
    """Make receivers over HTTP: `connect(url, url, balance="weighted")`."""

    def make(*urls: str, **options) -> Endpoints:
        made = OtlpUplinkSettings(name="cloud", endpoints=urls, **{"timeout": Duration(20), **options})
        all_ = Endpoints.of(made, version="0.1.0", clock=SystemClock(), random=random.Random(1))
        rigs.callback(all_.close)
        return all_

    return make


EMPTY = Packed(Signal.METRICS, b"", "")


def test_a_budget_pays_for_all_receivers_as_a_judge_counts(make_otlp_sink, make_link, connect) -> None:
    """Through failures, stand-ins and returns: what is settled is what went over both links."""
    sinks = [make_otlp_sink(), make_otlp_sink()]
    links = [make_link(sink.address) for sink in sinks]
    both = connect(*(link.url for link in links), breaker=BreakerSettings(open_for=Duration(0.01)))
    budget = Budget({"day": 10_000_000}, now=lambda: Moment("boot", 0.0, NOON, True))
    budget.covers(5_000_000)
    budget.plan()
    budget.written()
    paid = Metered(both, budget, rate=None, now_s=time.monotonic)
    noise = random.Random(3).randbytes(40_000)
    for k in range(24):
        if k % 8 == 3:
            links[0].down_for_good()
        elif k % 8 == 6:
            links[0].mode = Mode.UP
        with contextlib.suppress(TryLaterError, RefusedError):
            paid.send(Packed(Signal.METRICS, noise, ""))
        time.sleep(0.01)
    paid.close()
    assert min(sink.totals.requests for sink in sinks) >= 6
    spent, counts = budget.told()["per_day"]["spent_bytes"], [link.counts() for link in links]
    assert spent == both.wire_bytes
    assert sum(count.up + count.down for count in counts) < spent
    assert spent < 1.5 * sum(count.up_wire + count.down_wire for count in counts)


def test_real_receivers_stand_in_for_each_other(make_otlp_sink, make_link, connect) -> None:
    """The first one's link goes and comes; each has a connection of its own, and what was sent is the sum."""
    first, second = make_otlp_sink(), make_otlp_sink()
    link = make_link(first.address)
    both = connect(link.url, second.url, headers={"x-site": "7"})
    both.send(EMPTY)
    both.close()
    link.down_for_good()
    both.send(EMPTY)
    link.mode = Mode.UP
    both.send(EMPTY)
    assert (first.totals.requests, second.totals.requests) == (2, 1)
    assert {request.headers["x-site"] for request in (*first.requests, *second.requests)} == {"7"}
    assert both.requests == 4
    assert both.wire_bytes > both.bytes_sent > 0


def test_a_receiver_that_says_503_sends_it_to_the_next(make_otlp_sink, connect) -> None:
    """It has said that it took nothing; a lost answer comes back first."""
    first, second = make_otlp_sink(), make_otlp_sink()
    both = connect(first.url, second.url)
    first.behave(Behaviour(status=503, retry_after="30"))
    both.send(EMPTY)
    both.send(EMPTY)
    assert (first.totals.requests, second.totals.requests) == (1, 2)
    second.behave(Behaviour(cut="after_read"))
    with pytest.raises(InTransitError) as caught:
        both.send(EMPTY)
    assert caught.value.answer_lost
    assert not caught.value.at_once


def test_stopping_ends_whoever_hangs(make_otlp_sink, make_link, connect) -> None:
    """And nothing is sent to the next one after it."""
    hanging, other = make_otlp_sink(), make_otlp_sink()
    hanging.always = Behaviour(delay_s=30)
    both = connect(hanging.url, other.url)
    threading.Timer(0.1, both.stop).start()
    began_s = time.monotonic()
    with pytest.raises(TryLaterError, match="stopping"):
        both.send(EMPTY)
    assert time.monotonic() - began_s < 20
    assert other.totals.requests == 0
