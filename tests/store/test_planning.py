"""What a commit changes is worked out before it happens."""

from __future__ import annotations

from gateway.core.clock import BootTimes, Quality, Sample, Timeline
from gateway.core.contracts import Priority, Signal
from gateway.store.accounts import Accounts, Entry, Removal, Share, State
from gateway.store.opening import decode_boot
from gateway.store.planning import LEASED_SPANS_MAX, encode_boot, make_change, next_state
from gateway.store.recent import Row
from gateway.store.records import Loss, place
from gateway.store.room import Candidate
from gateway.store.writer import NewSegment, Sealed

NOTHING = Sealed([], 1, b"")


def timeline(*samples: Sample) -> Timeline:
    return Timeline([BootTimes(1, "a", 50, list(samples))], current=1)


def test_a_victim_is_lost_by_those_who_lack_it() -> None:
    """Who has it, or has just acked it, loses nothing."""
    accounts = Accounts([Share("a", 1, held=5), Share("b", 2), Share("c", 3)], {}, accepted=5)
    number = place(Priority.BULK, Signal.METRICS, 9)
    victim = Candidate(number, 1 << 2, 5, 1, 10, 100, 200, 50)
    change = make_change(
        accounts,
        sealed=NOTHING,
        losses=[],
        victims=[("full", victim)],
        done={number: 1 << 3},
        timeline=timeline(),
        now_ns=7,
    )
    assert change.lost == [("a", "full", Entry(5, 100, 200, 7, 7))]
    assert change.held == {("a", Priority.BULK): -5}


def test_a_victim_that_was_sent_thinned_is_diluted() -> None:
    """For who had it so."""
    number = place(Priority.BULK, Signal.METRICS, 9)
    shares = [Share("a", 1, held=5, thinned=[(number - 3, number)]), Share("b", 2, held=5, thinned=[(1, number - 1)])]
    victim = Candidate(number, 0, 5, 1, 10, 100, 200, 50)
    change = make_change(
        Accounts(shares, {}, accepted=5),
        sealed=NOTHING,
        losses=[],
        victims=[("full", victim)],
        done={},
        timeline=timeline(),
        now_ns=7,
    )
    assert [(name, reason) for name, reason, _ in change.lost] == [("a", "diluted"), ("b", "full")]


def test_what_comes_is_held_for_every_uplink_that_there_is() -> None:
    """Of each class as much as its segments have; one that is configured no more gets nothing."""
    accounts = Accounts([Share("a", 1), Share("b", 2), Share("gone", 3, removal=Removal(1, 0, 1, 0))], {}, accepted=0)
    segments = [
        NewSegment(Row(place(priority, signal, number), readings, 1, 50), 0, 0, b"")
        for number, (priority, signal, readings) in enumerate(
            [
                (Priority.CRITICAL, Signal.LOGS, 2),
                (Priority.CRITICAL, Signal.METRICS, 3),
                (Priority.BULK, Signal.METRICS, 7),
            ]
        )
    ]
    sealed = Sealed(segments, 4, b"")
    change = make_change(accounts, sealed=sealed, losses=[], victims=[], done={}, timeline=timeline(), now_ns=7)
    assert change.accepted == 12
    assert change.held == {(name, part): n for name in "ab" for part, n in ((Priority.CRITICAL, 5), (Priority.BULK, 7))}


def test_a_victim_without_times_is_placed_where_it_was_stored() -> None:
    """By the clock that is known now; 0 without one."""
    accounts = Accounts([Share("a", 1, held=5)], {}, accepted=5)
    victim = Candidate(place(Priority.NORMAL, Signal.METRICS, 9), 0, 5, 1, 10, 0, 0, 50)

    def lost(*samples: Sample) -> Entry:
        change = make_change(
            accounts,
            sealed=NOTHING,
            losses=[],
            victims=[("full", victim)],
            done={},
            timeline=timeline(*samples),
            now_ns=7,
        )
        return change.lost[0][2]

    assert lost() == Entry(5, 0, 0, 7, 7)
    assert lost(Sample(0, 1000, Quality.SYNCED)) == Entry(5, 1010, 1010, 7, 7)


def test_a_loss_is_everybodys() -> None:
    """It was accepted, and nobody will get it."""
    accounts = Accounts([Share("a", 1), Share("b", 2)], {}, accepted=0)
    change = make_change(
        accounts, sealed=NOTHING, losses=[Loss("syntax", 2, 3, 4)], victims=[], done={}, timeline=timeline(), now_ns=7
    )
    assert change.accepted == 2
    assert [name for name, _, _ in change.lost] == ["a", "b"]


def test_a_boot_can_be_read_back() -> None:
    """With all of its samples; the state knows better how long the current one lasts."""
    times = BootTimes(3, "uuid", 50, [Sample(1, 2, Quality.SYNCED), Sample(5, -6, Quality.UNKNOWN)])
    assert decode_boot(*encode_boot(times), state=State()) == times
    assert decode_boot(*encode_boot(times), state=State(boot=3, boot_last_ns=99)).last_ns == 99


class FullDesk:
    """A desk with many leases in hand."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self.spans = spans
        self.thinned: list[tuple[int, int]] = []

    def note(self, before: bytes, *, is_last: bool) -> bytes:
        return before

    def unsent_evidence(self, before: int, after: int) -> list[tuple[int, int]]:
        return []


def test_many_leases_stand_together_in_the_state_row() -> None:
    """It has to fit a page: of many leases the nearest stand as one, with what lies between them."""
    few = [(10 * k, 10 * k + 3) for k in range(LEASED_SPANS_MAX)]
    many = [(10 * k, 10 * k + 3) for k in range(4 * LEASED_SPANS_MAX)]
    for spans, kept in ((few, few), (many, None)):
        state = next_state(
            State(),
            Accounts([Share("cloud", 1)], {}, accepted=0),
            sealed=Sealed([], 1, bytes(16)),
            timeline=timeline(),
            desks={"cloud": FullDesk(spans)},
            series_next=1,
            log_bytes=1,
            allowed={"cloud": 0},
        )
        leased = state.shares[0].leased
        assert kept is None or leased == kept
        assert len(leased) == LEASED_SPANS_MAX
        assert all(any(first <= a and b <= last for first, last in leased) for a, b in spans)
