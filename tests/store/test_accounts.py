"""Counting: the identity holds, the state row survives, the ledger stays small."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import Priority, Signal
from gateway.store.accounts import (
    REASONS_MAX,
    STATE_MAGIC,
    Accounts,
    Change,
    DamagedStateError,
    Dilution,
    Entry,
    Removal,
    Share,
    State,
    Stretch,
    decode_state,
    encode_state,
)
from gateway.store.taking import taking


def test_the_state_row_survives() -> None:
    """What was written is read."""
    state = State(
        7, 10, 3, b"h" * 16, 2, 99, False, 5, [Share("a", 1, 5, 4, 1, [(3, 9)], None, 7, (1, 2, 1))], {"a": 1}
    )
    assert decode_state(encode_state(state)) == state


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_in_the_state_row_is_noticed(place, bit) -> None:
    """Wherever it is."""
    data = bytearray(encode_state(State(shares=[Share("a", 1)])))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(DamagedStateError):
        decode_state(bytes(data))


@pytest.mark.parametrize("data", [b"", None, 5, "text"])
def test_other_things_are_no_state(data) -> None:
    """Whatever a damaged row holds."""
    with pytest.raises(DamagedStateError):
        decode_state(data)


def test_a_state_that_is_no_text_is_refused() -> None:
    """Its checksum is right all the same: it says that the row is whole, and not who wrote it."""
    state = encode_state(State(shares=[Share("cloud", 1)]))
    body = state[8:].replace(b"cloud", b"\xffloud")
    with pytest.raises(DamagedStateError, match="cannot be read"):
        decode_state(state[:4] + zlib.crc32(body).to_bytes(4, "little") + body)


def test_a_state_of_another_shape_is_refused() -> None:
    """Right checksum, wrong content."""
    body = msgspec.msgpack.encode({"not": "a state"})
    with pytest.raises(DamagedStateError, match="cannot be read"):
        decode_state(STATE_MAGIC + zlib.crc32(body).to_bytes(4, "little") + body)


def test_entries_add_up() -> None:
    """Counts are summed, ranges joined, an unknown time does not count as early."""
    assert Entry(1, 0, 0, 5, 5).add(Entry(2, 7, 9, 3, 8)) == Entry(3, 7, 9, 3, 8)
    assert Entry(1, 4, 4, 5, 5).add(Entry(2, 7, 9, 3, 8)) == Entry(3, 4, 9, 3, 8)


def test_the_identity_holds_whatever_happens() -> None:
    """accepted = delivered + held + ledger after each step, and a copy changes on its own."""
    accounts = Accounts([Share("a", 1), Share("b", 2)], {}, accepted=0)
    change = Change(accepted=12)
    for name in "ab":
        change.add_held(name, 10, priority=Priority.NORMAL)
        change.lose(name, "syntax", Entry(2))
    copy = accounts.copy()
    accounts.apply(change)
    accounts.deliver("a", 4, priority=Priority.NORMAL)
    accounts.deliver("b", 4, priority=Priority.NORMAL, lost=("rejected", Entry(3)))
    accounts.deliver("b", 1, priority=Priority.NORMAL, lost=("rejected", Entry(0)))
    assert accounts.gap("a") == accounts.gap("b") == copy.gap("a") == 0
    assert accounts.lost("b") == {"syntax": Entry(2), "rejected": Entry(3)}
    assert accounts.active == 6
    assert copy.accepted == 0


def test_a_damaged_row_cannot_deliver_more_than_was_held() -> None:
    """The account still adds up."""
    accounts = Accounts([Share("a", 1, held=3, held_by_class=(2, 0, 1))], {}, accepted=3)
    accounts.deliver("a", 10, priority=Priority.BULK, lost=("damaged", Entry(10)))
    assert accounts.gap("a") == 0
    assert accounts.lost("a") == {"damaged": Entry(3)}
    assert accounts.shares["a"].held_by_class == (0, 0, 0)


def test_what_is_held_is_known_by_class() -> None:
    """Arrivals, deliveries and evictions are of a class each, and a copy keeps its own numbers."""
    accounts = Accounts([Share("a", 1)], {}, accepted=0)
    change = Change(accepted=17)
    for priority, readings in zip(Priority, (2, 5, 10), strict=True):
        change.add_held("a", readings, priority=priority)
    change.add_held("a", -4, priority=Priority.BULK)
    accounts.apply(change)
    copy = accounts.copy()
    accounts.deliver("a", 2, priority=Priority.CRITICAL)
    accounts.deliver("a", 1, priority=Priority.NORMAL, lost=("rejected", Entry(1)))
    share = accounts.shares["a"]
    assert (share.held, share.held_by_class) == (10, (0, 4, 6))
    assert copy.shares["a"].held_by_class == (2, 5, 6)


def test_the_classes_make_up_what_is_held_whatever_a_damaged_row_says() -> None:
    """More of a class than was ever held of it is taken from the others."""
    share = Share("a", 1, held=6, held_by_class=(1, 2, 3))
    share.hold(-5, priority=Priority.NORMAL)
    assert (share.held, share.held_by_class) == (1, (0, 0, 1))


def test_what_is_let_go_is_held_in_no_class() -> None:
    """All of it is in the ledger."""
    share = Share("a", 1, held=6, held_by_class=(1, 2, 3), removal=Removal(1, 0, 6, 6))
    accounts = Accounts([share], {}, accepted=6)
    accounts.let_go("a", Entry(0))
    assert (share.held, share.held_by_class) == (0, (0, 0, 0))


def test_a_state_row_of_an_earlier_version_is_read() -> None:
    """It ends before what is held by class, a note, what was sent thinned, what is left out, and evidence."""
    state = State(
        7, 10, 3, b"h" * 16, 2, 99, False, 5, [Share("a", 1, 5, 4, 1, [(3, 9)], None, 7, (1, 2, 1))], {"a": 1}
    )
    fields = msgspec.msgpack.decode(encode_state(state)[8:])
    assert [fields[8][0].pop() for _ in range(8)] == [[0, 0], [], 0, 0, 0, [], b"", [1, 2, 1]]
    body = msgspec.msgpack.encode(fields)
    read = decode_state(STATE_MAGIC + zlib.crc32(body).to_bytes(4, "little") + body)
    assert read.shares == [Share("a", 1, 5, 4, 1, [(3, 9)], None, 7, (0, 0, 0))]


def test_the_ledger_has_a_bounded_number_of_reasons() -> None:
    """The rest stands under one name."""
    accounts = Accounts([Share("a", 1)], {}, accepted=0)
    for number in range(REASONS_MAX + 10):
        accounts.lose("a", f"reason {number}", Entry(1))
    assert len(accounts.ledger) == REASONS_MAX
    assert accounts.lost("a")["other"].readings == 11


def test_what_is_left_out_is_no_loss() -> None:
    """It is held no more, or never was, and the account adds up; a row may say more than is held."""
    accounts = Accounts([Share("a", 1), Share("b", 2)], {}, accepted=0)
    change = Change(accepted=9)
    change.add_held("a", 9, priority=Priority.NORMAL)
    change.leave_out("b", 4)
    change.leave_out("b", 5)
    accounts.apply(change)
    assert not accounts.may_be_unwanted
    accounts.leave_out("a", 7, priority=Priority.NORMAL)
    assert [(share.held, share.left_out) for share in accounts.shares.values()] == [(2, 7), (0, 9)]
    accounts.leave_out("a", 5, priority=Priority.NORMAL)
    assert accounts.shares["a"].left_out == 9
    assert [accounts.gap(name) for name in "ab"] == [0, 0]
    assert accounts.may_be_unwanted
    assert accounts.ledger == {}


def test_a_shelf_that_nobody_takes_is_known() -> None:
    """Of all uplinks that are configured none takes anything of that class and signal."""
    accounts = Accounts([Share("a", 1), Share("b", 2)], {}, accepted=0)
    bulk, normal = ((priority, Signal.METRICS) for priority in (Priority.BULK, Priority.NORMAL))
    assert not accounts.takes_none_of(bulk)
    accounts.takes = {2: taking(classes=["normal"])}
    assert not accounts.takes_none_of(bulk)
    accounts.takes[4] = taking(classes=["critical", "normal"])
    assert accounts.takes_none_of(bulk)
    assert not accounts.takes_none_of(normal)


def test_how_far_a_shelf_is_diluted_survives() -> None:
    """And takes next to no room where it is not."""
    dilution = Dilution(7, b"h" * 16, [Stretch(1, 60, 5, 9, 3)], [(4, 6)], [1, 2, 3])
    assert decode_state(encode_state(State(dilution=dilution))).dilution == dilution
    assert decode_state(encode_state(State())).dilution == Dilution()
    assert len(msgspec.msgpack.encode(Dilution())) < 8


@pytest.mark.parametrize(
    "dilution",
    [
        Dilution(-1),
        Dilution(1, b"short"),
        Dilution(stretches=[Stretch(3, 60, 5, 9, 3)]),
        Dilution(stretches=[Stretch(1, 0, 5, 9, 3)]),
        Dilution(stretches=[Stretch(1, 60, -5, 9, 3)]),
        Dilution(evidence=[(4, -6)]),
        Dilution(places=[1, 2, 3, 4]),
    ],
)
def test_what_cannot_be_said_of_dilution_is_damage(dilution) -> None:
    """A checksum is soon made."""
    with pytest.raises(DamagedStateError, match="says what cannot be"):
        decode_state(encode_state(State(dilution=dilution)))
