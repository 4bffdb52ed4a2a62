"""The accounts after a salvage: what is missing lies between two numbers, and the books add up with either."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.core.contracts import Priority, Signal
from gateway.store.accounts import Accounts, Entry, Removal, Share, Stage, State, decode_state
from gateway.store.connection import schemas
from gateway.store.planning import DAMAGED
from gateway.store.reckoning import DOUBTED_MAX, UNSURE, Known, Missing, Reckoned, is_all_there, reckon
from gateway.store.records import DONE_BY_NOBODY, STATE_ID, place


@pytest.fixture
def shelf():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for text in schemas():
        connection.executescript(text)
    yield connection
    connection.close()


def put(connection, sequence: int, readings: int, *, priority=Priority.NORMAL, done: int = 0) -> None:
    row = place(priority, Signal.METRICS, sequence), DONE_BY_NOBODY | done, readings
    connection.execute("INSERT INTO shelf VALUES (?, ?, ?, 3, 0, 0, 0, x'00')", row)


def book(connection, uplink: str, reason: str, readings: int) -> None:
    connection.execute("INSERT INTO ledger VALUES (NULL, ?, ?, ?, 0, 0, 0, 0)", (uplink, reason, readings))


def settled(connection, known: Known) -> tuple[Reckoned, Accounts]:
    """Reckon; the books add up, and hold what is there."""
    result = reckon(connection, known)
    ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
    state = decode_state(body)
    ledger = {
        (uplink, reason): Entry(readings)
        for uplink, reason, readings in connection.execute("SELECT uplink, reason, readings FROM ledger")
    }
    accounts = Accounts(state.shares, ledger, accepted=state.accepted)
    for share in state.shares:
        assert accounts.gap(share.name) == 0
        before = share.removal.sequence if share.removal is not None else 1 << 59
        ((held,),) = connection.execute(
            "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id < ? AND done & ? = 0 AND id & ? < ?",
            (STATE_ID, share.bit, (1 << 59) - 1, before),
        )
        assert share.held == sum(share.held_by_class) == (held if share.wants(0) else 0)
    assert not connection.execute("SELECT 1 FROM shelf WHERE id < ? AND done & ?", (STATE_ID, UNSURE)).fetchall()
    return result, accounts


def state(*shares: Share, accepted: int = 1000, sequence: int = 100) -> State:
    return State(commit=5, accepted=accepted, sequence=sequence, shares=list(shares), slots={"a": 1, "b": 2})


def test_what_is_there_for_certain_is_not_missing(shelf) -> None:
    """Then nothing is lost and nothing came back."""
    put(shelf, 1, 30)
    put(shelf, 2, 50, done=0b10)
    known = Known(state(Share("a", 1, 970, 30, held_by_class=(0, 30, 0)), Share("b", 2, 920, 80)), is_newest=True)
    assert is_all_there(shelf, known)
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(0, 0), "b": Missing(0, 0)}
    assert result.is_newest
    assert (accounts.accepted, accounts.ledger) == (1000, {})


def test_what_came_back_does_not_make_up_for_what_is_lost(shelf) -> None:
    """The balance of both says nothing: 50 of 80 are lost for certain known, and 60 may be back."""
    put(shelf, 1, 30)
    put(shelf, 2, 60, done=UNSURE)
    known = Known(state(Share("a", 1, 920, 80, held_by_class=(0, 80, 0))), is_newest=True)
    assert not is_all_there(shelf, known)
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(0, 50)}
    assert str(result.lost["a"]) == "between 0 and 50 readings"
    share = accounts.shares["a"]
    assert (share.delivered, share.maybe_twice, share.held) == (860, 60, 90)
    assert accounts.ledger == {("a", DAMAGED): Entry(50)}


def test_of_what_class_something_is_tells_more(shelf) -> None:
    """What is back of another class is nothing that was held."""
    put(shelf, 1, 30)
    put(shelf, 2, 60, done=UNSURE, priority=Priority.BULK)
    known = Known(state(Share("a", 1, 920, 80, held_by_class=(10, 70, 0))), is_newest=True)
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(50, 50)}
    assert str(result.lost["a"]) == "50 readings"
    assert accounts.shares["a"].held_by_class == (0, 30, 60)


def test_no_more_is_back_than_ever_left(shelf) -> None:
    """Of 100 that were accepted 95 were held: so at most 5 of those found came back."""
    put(shelf, 1, 60, done=UNSURE)
    known = Known(state(Share("a", 1, 5, 95, held_by_class=(0, 95, 0)), accepted=100), is_newest=True)
    result, _ = settled(shelf, known)
    assert result.lost == {"a": Missing(35, 40)}


def test_what_is_back_may_have_been_lost_before(shelf) -> None:
    """Then the ledger has it no more: what made most is reduced first."""
    put(shelf, 1, 60, done=UNSURE)
    book(shelf, "a", "evicted_full", 50)
    book(shelf, "a", "odd", 20)
    book(shelf, "b", "odd", 500)
    known = Known(state(Share("a", 1, 10, 20, held_by_class=(0, 20, 0)), accepted=100), is_newest=True)
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(0, 20)}
    share = accounts.shares["a"]
    assert (share.delivered, share.maybe_twice, share.held) == (0, 60, 60)
    assert accounts.ledger == {
        ("a", DAMAGED): Entry(20),
        ("a", "odd"): Entry(20),
        ("b", "odd"): Entry(500),
    }


@pytest.mark.parametrize(("doubted", "most"), [(0, 0), (20, 20), (DOUBTED_MAX, 80)])
def test_pages_that_may_be_outdated_widen_the_range(shelf, doubted, most) -> None:
    """By what is on them; where nobody knows which they are, to everything."""
    put(shelf, 1, 80)
    known = Known(state(Share("a", 1, 920, 80, held_by_class=(0, 80, 0))), is_newest=True, doubted=doubted)
    assert is_all_there(shelf, known) == (most == 0)
    assert settled(shelf, known)[0].lost == {"a": Missing(0, most)}


def test_more_than_was_held_where_it_belongs_makes_nothing_certain(shelf) -> None:
    """A page that is outdated is in its place, and the others may be so as well."""
    put(shelf, 1, 90)
    put(shelf, 2, 10, done=2)
    known = Known(state(Share("a", 1, 920, 80), Share("b", 2, 900, 100, held_by_class=(0, 100, 0))), is_newest=True)
    assert settled(shelf, known)[0].lost == {"a": Missing(0, 80), "b": Missing(0, 100)}


def test_rows_that_uplinks_have_which_never_were(shelf) -> None:
    """A bit has turned, and nobody knows which: it is sent again."""
    put(shelf, 1, 80, done=1 << 40)
    put(shelf, 2, 20, done=2)
    known = Known(state(Share("a", 1, 920, 80, held_by_class=(0, 80, 0))), is_newest=True)
    assert not is_all_there(shelf, known)
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(0, 80)}
    assert accounts.shares["a"].maybe_twice == 80


def test_what_came_after_the_counters_is_accepted_and_theirs_is_all_unsure(shelf) -> None:
    """Some of what they held may have been delivered since; what uplinks have of the newer is delivered."""
    put(shelf, 1, 30, done=4)
    put(shelf, 100, 7)
    put(shelf, 101, 8, done=2)
    known = Known(state(Share("a", 1, 950, 50, held_by_class=(0, 50, 0)), Share("b", 2, 1000)), is_newest=True)
    assert not is_all_there(shelf, known)
    result, accounts = settled(shelf, known)
    assert not result.is_newest
    assert result.lost["a"] == Missing(0, 20)
    assert accounts.accepted == 1015
    assert (accounts.shares["a"].delivered, accounts.shares["a"].held) == (958, 37)


def test_a_ledger_that_is_newer_than_the_counters(shelf) -> None:
    """What it says is gone may be what is missing."""
    put(shelf, 1, 30)
    book(shelf, "a", "evicted_full", 15)
    book(shelf, "b", "evicted_full", 60)
    known = Known(state(Share("a", 1, 950, 50), Share("b", 2, 950, 50)))
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(0, 5), "b": Missing(0, 0)}
    assert accounts.ledger == {
        ("a", "evicted_full"): Entry(15),
        ("a", DAMAGED): Entry(5),
        ("b", "evicted_full"): Entry(20),
    }


def test_rows_of_the_ledger_that_are_gone(shelf) -> None:
    """How much is known, why no longer; that is no loss of today."""
    known = Known(state(Share("a", 1, 950), accepted=1000), is_newest=True)
    result, accounts = settled(shelf, known)
    assert result.lost == {"a": Missing(0, 0)}
    assert accounts.ledger == {("a", DAMAGED): Entry(50)}


def test_uplinks_that_are_configured_no_more(shelf) -> None:
    """What came later was never theirs; one that was let go holds nothing."""
    put(shelf, 1, 30)
    put(shelf, 60, 70, done=UNSURE)
    kept = Share("a", 1, 10, 40, held_by_class=(0, 40, 0), removal=Removal(1, 0, 50, 50))
    gone = Share("b", 2, 50, removal=Removal(1, 0, 50, 50, Stage.SWEPT))
    result, accounts = settled(shelf, Known(state(kept, gone, Share("c", 3, 930, 70)), is_newest=True))
    assert result.lost == {"a": Missing(10, 10), "b": Missing(0, 0), "c": Missing(0, 40)}
    assert (accounts.shares["a"].held, accounts.shares["c"].held) == (30, 100)


@pytest.mark.parametrize("removal", [None, Removal(1, 0, 100, 20)])
def test_more_is_there_than_ever_came(shelf, removal) -> None:
    """Then more had come: the accounts of others have that in their ledgers."""
    put(shelf, 1, 300, done=4)
    known = Known(state(Share("a", 1, 0, 20, removal=removal), Share("b", 2, 20), accepted=20), is_newest=True)
    _, accounts = settled(shelf, known)
    assert accounts.shares["a"].held == 300
    assert accounts.accepted == 300


def test_without_counters_everything_is_anybodys(shelf) -> None:
    """Whoever is configured starts with what is there."""
    put(shelf, 7, 300, done=2 | UNSURE)
    book(shelf, "a", "odd", 3)
    assert not is_all_there(shelf, Known(None))
    result = reckon(shelf, Known(None))
    assert (result.lost, result.segments, result.readings) == ({}, 1, 300)
    assert not shelf.execute("SELECT * FROM ledger").fetchall()
    assert shelf.execute("SELECT done FROM shelf").fetchall() == [(DONE_BY_NOBODY,), (0,)]
    ((body,),) = shelf.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
    left = decode_state(body)
    assert (left.accepted, left.shares, left.slots, left.sequence, left.boot) == (300, [], {}, 8, 3)
