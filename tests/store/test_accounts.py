"""Counting: the identity holds, the state row survives, the ledger stays small."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.accounts import (
    REASONS_MAX,
    STATE_MAGIC,
    Accounts,
    Change,
    DamagedStateError,
    Entry,
    Share,
    State,
    decode_state,
    encode_state,
)


def test_the_state_row_survives() -> None:
    """What was written is read."""
    state = State(7, 10, 3, b"h" * 16, 2, 99, False, 5, [Share("a", 1, 5, 4, 1, [(3, 9)])], {"a": 1})
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


def test_a_state_of_another_shape_is_refused() -> None:
    """Right checksum, wrong content."""
    import zlib

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
        change.add_held(name, 10)
        change.lose(name, "syntax", Entry(2))
    copy = accounts.copy()
    accounts.apply(change)
    accounts.deliver("a", 4)
    accounts.deliver("b", 4, lost=("rejected", Entry(3)))
    accounts.deliver("b", 1, lost=("rejected", Entry(0)))
    assert accounts.gap("a") == accounts.gap("b") == copy.gap("a") == 0
    assert accounts.lost("b") == {"syntax": Entry(2), "rejected": Entry(3)}
    assert accounts.active == 6
    assert copy.accepted == 0


def test_a_damaged_row_cannot_deliver_more_than_was_held() -> None:
    """The account still adds up."""
    accounts = Accounts([Share("a", 1, held=3)], {}, accepted=3)
    accounts.deliver("a", 10, lost=("damaged", Entry(10)))
    assert accounts.gap("a") == 0
    assert accounts.lost("a") == {"damaged": Entry(3)}


def test_the_ledger_has_a_bounded_number_of_reasons() -> None:
    """The rest stands under one name."""
    accounts = Accounts([Share("a", 1)], {}, accepted=0)
    for number in range(REASONS_MAX + 10):
        accounts.lose("a", f"reason {number}", Entry(1))
    assert len(accounts.ledger) == REASONS_MAX
    assert accounts.lost("a")["other"].readings == 11
