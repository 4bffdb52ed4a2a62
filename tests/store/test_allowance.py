"""No more is leased between two commits than the state row says, whichever of them a dead process leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from gateway.store.allowance import ASK_SHARE, READINGS_MAX, READINGS_MIN, Allowance


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def allowance(asked) -> Allowance:
    allowance = Allowance(lambda: asked.append(1))
    allowance.rest(0.0)
    return allowance


def commit(allowance: Allowance, *, by_s: float = 0.0) -> int:
    allowed = allowance.plan(by_s=by_s)
    allowance.written()
    return allowed


async def test_before_the_first_commit_nothing_is_allowed(allowance) -> None:
    """What the last process left on the disk is counted already."""
    assert allowance.left == 0
    assert not allowance.covers(1)
    allowance.take(0)
    assert commit(allowance) == READINGS_MIN == allowance.left


async def test_while_a_commit_is_under_way_both_rows_count(allowance) -> None:
    """The old one may be what is found, or the new one."""
    commit(allowance)
    allowance.take(READINGS_MIN - 10)
    allowance.plan(by_s=0.0)
    assert allowance.left == 10
    allowance.take(4)
    assert allowance.left == 6
    allowance.written()
    assert allowance.left == 4 * (READINGS_MIN - 10) - 4


async def test_after_a_commit_that_failed_both_rows_count(allowance) -> None:
    """Nobody knows which is there, until one is written."""
    commit(allowance)
    stamp = allowance.take(READINGS_MIN - 10)
    allowance.plan(by_s=0.0)
    assert allowance.left == 10
    size = allowance.plan(by_s=0.0)
    assert allowance.left == 10
    allowance.give_back(5, stamp)
    assert allowance.left == 10
    allowance.written()
    assert allowance.left == size


async def test_what_is_given_back_counts_where_it_was_taken(allowance) -> None:
    """A commit that was planned later knew of it as leased."""
    commit(allowance)
    stamp = allowance.take(100)
    allowance.plan(by_s=0.0)
    allowance.give_back(100, stamp)
    assert allowance.left == READINGS_MIN
    allowance.written()
    assert allowance.left == READINGS_MIN


async def test_a_fast_road_is_allowed_more_and_a_slow_one_less_again(allowance) -> None:
    """Four times what it took since the last commit, up to a bound."""
    sizes = []
    for _ in range(8):
        sizes.append(commit(allowance))
        allowance.take(allowance.left)
    assert sizes == [min(READINGS_MIN << 2 * k, READINGS_MAX) for k in range(8)]
    for _ in range(30):
        sizes.append(commit(allowance))
    assert sizes[-30:] == sorted(sizes[-30:], reverse=True)
    assert sizes[-1] == READINGS_MIN


async def test_a_commit_is_asked_for_before_all_is_used_up(allowance, asked) -> None:
    """And not while there is enough."""
    commit(allowance)
    allowance.take(READINGS_MIN - READINGS_MIN // ASK_SHARE)
    assert asked == []
    allowance.take(1)
    assert asked == [1]


async def test_what_is_wanted_is_not_forgotten_until_it_is_there(allowance) -> None:
    """Not by commits that fail, nor by one that others have asked for: who waits would have to wait again."""
    commit(allowance)
    large = 10 * READINGS_MIN
    assert not allowance.covers(large)
    for _ in range(3):
        allowance.plan(by_s=0.0)
    assert commit(allowance) == commit(allowance) == 2 * large
    assert allowance.covers(large)
    for _ in range(30):
        commit(allowance)
    assert allowance.left == READINGS_MIN


async def test_who_rests_is_allowed_nothing(allowance) -> None:
    """Until a commit after which the rest may be over before the next one; who has leased nothing yet rests too."""
    allowance.rest(10.0)
    assert commit(allowance, by_s=9.9) == 0
    assert commit(allowance, by_s=10.0) == READINGS_MIN
    assert commit(Allowance(lambda: None), by_s=1e9) == 0


async def test_doubt_ends_with_a_commit_that_was_planned_after_it(allowance) -> None:
    """The one under way does not know yet that something may be sent twice."""
    commit(allowance)
    stamp = allowance.take(5)
    allowance.plan(by_s=0.0)
    allowance.doubt()
    allowance.give_back(5, stamp)
    assert allowance.is_in_doubt
    allowance.written()
    assert allowance.is_in_doubt
    assert not allowance.covers(1)
    commit(allowance)
    assert not allowance.is_in_doubt
    assert allowance.covers(1)


async def test_where_the_disk_takes_nothing_for_long_data_leaves(allowance, asked) -> None:
    """Until it takes something again."""
    waiting = asyncio.ensure_future(allowance.wait())
    await asyncio.sleep(0)
    allowance.mute()
    assert await waiting
    assert allowance.covers(1 << 40)
    allowance.take(1 << 40)
    allowance.doubt()
    assert not allowance.is_in_doubt
    assert asked == [1]
    commit(allowance)
    assert not allowance.covers(1 << 40)


async def test_at_the_end_nobody_waits(allowance) -> None:
    """There is no commit but the last."""
    waiting = asyncio.ensure_future(allowance.wait())
    await asyncio.sleep(0)
    allowance.close()
    assert not await waiting
    assert not await allowance.wait()
