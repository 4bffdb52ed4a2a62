"""What a commit changes is worked out before it happens."""

from __future__ import annotations

from gateway.core.clock import BootTimes, Quality, Sample, Timeline
from gateway.store.accounts import Accounts, Entry, Share, State
from gateway.store.opening import decode_boot
from gateway.store.planning import encode_boot, make_change
from gateway.store.records import Loss
from gateway.store.room import Candidate
from gateway.store.writer import Sealed

NOTHING = Sealed([], 1, b"")


def timeline(*samples: Sample) -> Timeline:
    return Timeline([BootTimes(1, "a", 50, list(samples))], current=1)


def test_a_victim_is_lost_by_those_who_lack_it() -> None:
    """Who has it, or has just acked it, loses nothing."""
    accounts = Accounts([Share("a", 1, held=5), Share("b", 2), Share("c", 3)], {}, accepted=5)
    victim = Candidate(9, 1 << 2, 5, 1, 10, 100, 200, 50)
    change = make_change(
        accounts, sealed=NOTHING, losses=[], victims=[("full", victim)], done={9: 1 << 3}, timeline=timeline(), now_ns=7
    )
    assert change.lost == [("a", "full", Entry(5, 100, 200, 7, 7))]
    assert change.held == {"a": -5, "b": 0, "c": 0}


def test_a_victim_without_times_is_placed_where_it_was_stored() -> None:
    """By the clock that is known now; 0 without one."""
    accounts = Accounts([Share("a", 1, held=5)], {}, accepted=5)
    victim = Candidate(9, 0, 5, 1, 10, 0, 0, 50)

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
