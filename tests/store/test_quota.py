"""Nobody can take what another is sure of."""

from __future__ import annotations

from copy import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.quota import NOBODY, Quota


@pytest.mark.parametrize("owners", [0, 1])
def test_who_is_alone_can_have_all(owners: int) -> None:
    """With one owner, or none named, the bound is the bound."""
    stock = Quota(101, owners=owners)
    assert stock.room(owners) == 101
    stock.add(owners, 101)
    assert stock.room(owners) == 0


def test_a_flood_leaves_the_others_their_part() -> None:
    """The common half and its own part, no more; who comes late still finds an equal part."""
    stock = Quota(80, owners=4)
    stock.add(1, stock.room(1))
    assert stock.taken(1) == 50
    assert [stock.room(owner) for owner in (1, 2, 3, 4, NOBODY)] == [0, 10, 10, 10, 0]


def test_what_nobody_owns_is_taken_from_the_common_half() -> None:
    """And can be given to an owner when it is known."""
    stock = Quota(80, owners=2)
    stock.add(NOBODY, 40)
    assert (stock.room(NOBODY), stock.room(1)) == (0, 20)
    stock.add(NOBODY, -15)
    stock.add(1, 15)
    assert (stock.total, stock.room(1), stock.room(2)) == (40, 20, 35)


def test_more_than_the_bounds_allow_is_counted() -> None:
    """After a restart under a smaller bound there is less than no room."""
    stock = Quota(10, owners=1)
    stock.add(NOBODY, 25)
    assert stock.room(1) == -15


def test_a_copy_is_a_stock_of_its_own() -> None:
    """What is tried on it changes nothing."""
    stock = Quota(10, owners=1)
    stock.add(1, 4)
    twin = copy(stock)
    twin.add(1, 5)
    assert (stock.room(1), twin.room(1), stock.taken(1)) == (6, 1, 4)


@given(
    most=st.integers(0, 60),
    owners=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(-8, 8)), max_size=60),
)
def test_every_owner_can_have_its_part_at_any_time(most: int, owners: int, steps: list[tuple[int, int]]) -> None:
    """However the others take and give back, as long as they keep to their room."""
    stock = Quota(most, owners=owners)
    for owner, amount in steps:
        number = owner % (owners + 1)
        stock.add(number, max(min(amount, stock.room(number)), -stock.taken(number)))
        assert 0 <= stock.total <= most
        assert all(stock.room(one) >= stock.part - stock.taken(one) for one in range(1, owners + 1))
    assert stock.total == sum(stock.taken(one) for one in range(owners + 1))
