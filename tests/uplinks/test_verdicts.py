"""What is refused is given up where the road takes something else; where it takes nothing, next to nothing is."""

from __future__ import annotations

from random import Random

import pytest

from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import HoldError, InTransitError, StatusRefusedError
from gateway.uplinks.verdicts import (
    BREAKS_MAX,
    DOUBT_MAX,
    LEASES_KEPT,
    PUT_OFF_LEAST,
    PUT_OFF_S,
    PUT_OFF_S_MAX,
    REFUSALS_MAX,
    REFUSED_MAX,
    ROW_MAX,
    SHOWN_MAX,
    TRIES_BROKEN_HURRIED_MAX,
    TRIES_BROKEN_MAX,
    TRIES_HURRIED_MAX,
    TRIES_IN_DOUBT_MAX,
    TRIES_MAX,
    NothingTakenError,
    Stage,
    Verdicts,
)


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts(Random(1))


def refuse(verdicts: Verdicts, first_id: int = 1) -> None:
    verdicts.refused(first_id=first_id)


def conclude(verdicts: Verdicts, first_id: int = 1, *, parts: int = 1) -> None:
    verdicts.conclude("status 400", first_id=first_id, parts=parts)


def fail(verdicts: Verdicts, stage: Stage = Stage.WHOLE, first_id: int = 1) -> Stage:
    return verdicts.failed(StatusRefusedError("status 500", 500), stage, first_id=first_id)


def put_off(verdicts: Verdicts, stage: Stage = Stage.WHOLE, first_id: int = 1) -> float:
    """Return for how long what a server failed at is put off."""
    with pytest.raises(TryLaterError, match="status 500") as caught:
        fail(verdicts, stage, first_id)
    assert caught.value.answer_lost
    assert not isinstance(caught.value, HoldError)
    return caught.value.put_off_s


def test_a_few_parts_are_given_up_though_nothing_is_taken(verdicts) -> None:
    """After some of these the road is shut: little is shown to it, and nothing given up, until something is taken."""
    for first_id in range(REFUSED_MAX):
        refuse(verdicts, first_id)
        assert verdicts.refusals_max(first_id) == REFUSALS_MAX
        conclude(verdicts, first_id, parts=REFUSED_MAX)
    for first_id in range(10):
        refuse(verdicts, first_id)
        assert verdicts.refusals_max(first_id) == SHOWN_MAX
        with pytest.raises(NothingTakenError, match="status 400; nothing was taken since then") as caught:
            conclude(verdicts, first_id)
        assert caught.value.after_s == 0
    verdicts.took()
    refuse(verdicts, 0)
    assert verdicts.refusals_max(0) == REFUSALS_MAX
    conclude(verdicts, 0, parts=100)


def test_a_lease_of_which_a_part_was_taken_is_refused_for_its_data(verdicts) -> None:
    """A server's own error says less: it may have begun after that."""
    verdicts.took()
    verdicts.refused(first_id=1, is_begun=True)
    conclude(verdicts, parts=100)
    put_off(verdicts, first_id=2)
    assert not verdicts.is_about_data(2)


def test_many_parts_are_not_given_up_where_nothing_is_taken(verdicts) -> None:
    """A road that takes no part of a lease may be the wrong one."""
    refuse(verdicts)
    with pytest.raises(HoldError):
        conclude(verdicts, parts=REFUSED_MAX + 1)
    refuse(verdicts)
    verdicts.took()
    refuse(verdicts)
    conclude(verdicts, parts=REFUSED_MAX + 1)


def test_what_was_taken_before_says_nothing(verdicts) -> None:
    """It was before the first refusal."""
    verdicts.took()
    refuse(verdicts)
    assert not verdicts.is_about_data(1)
    verdicts.took()
    assert verdicts.is_about_data(1)
    assert not verdicts.is_about_data(2)


def test_while_nothing_is_taken_a_lease_stays_whole(verdicts) -> None:
    """However often the server fails: that is an outage, and says nothing of any data."""
    for _ in range(100):
        put_off(verdicts)
    verdicts.took()
    assert fail(verdicts) is Stage.CUT
    assert fail(verdicts, Stage.ALONE) is Stage.ALONE


def test_what_fails_when_others_were_taken_is_cut(verdicts) -> None:
    """Not the first time: what is over in a moment costs one more request, and not many small ones."""
    verdicts.took()
    put_off(verdicts)
    verdicts.took()
    assert verdicts.has_failed(1)
    assert not verdicts.has_failed(2)
    assert fail(verdicts) is Stage.CUT
    assert fail(verdicts, Stage.CUT) is Stage.CUT


def test_parts_that_fail_in_a_row_are_put_off(verdicts) -> None:
    """It may be the server; one that takes anything in between is none that fails."""
    put_off(verdicts)
    verdicts.took()
    for _ in range(3):
        for _ in range(ROW_MAX):
            assert fail(verdicts, Stage.CUT) is Stage.CUT
        put_off(verdicts, Stage.CUT)
        put_off(verdicts, Stage.CUT)
        verdicts.took()


def test_what_is_left_alone_is_given_up_at_the_last_of_many_tries(verdicts) -> None:
    """Whether others were taken meanwhile, or there were none."""
    put_off(verdicts)
    for k in range(TRIES_MAX - 2):
        if k % 2:
            verdicts.took()
        assert fail(verdicts, Stage.ALONE) is Stage.ALONE
    assert fail(verdicts, Stage.ALONE) is Stage.LAST
    assert fail(verdicts, Stage.LAST) is Stage.LAST


def test_where_many_wait_each_has_fewer_tries(verdicts) -> None:
    """Else a device whose data are never taken would keep the places of all others."""
    put_off(verdicts)
    for _ in range(TRIES_HURRIED_MAX - 2):
        assert verdicts.failed(StatusRefusedError("500", 500), Stage.ALONE, first_id=1, is_hurried=True) is Stage.ALONE
    assert verdicts.failed(StatusRefusedError("500", 500), Stage.ALONE, first_id=1, is_hurried=True) is Stage.LAST


def test_a_server_that_fails_at_random_is_given_more_tries(verdicts) -> None:
    """Where it takes some of what it had failed at by itself; no longer than that lasts."""
    put_off(verdicts)
    for _ in range(TRIES_MAX + 4):
        verdicts.took(Stage.ALONE)
        assert fail(verdicts, Stage.ALONE) is Stage.ALONE
    tries = TRIES_MAX + 5
    while fail(verdicts, Stage.ALONE) is Stage.ALONE:
        tries += 1
    assert tries + 1 == TRIES_IN_DOUBT_MAX
    put_off(verdicts, first_id=2)
    for _ in range(DOUBT_MAX):
        fail(verdicts, Stage.ALONE, first_id=3)
    for _ in range(TRIES_MAX - 2):
        assert fail(verdicts, Stage.ALONE, first_id=2) is Stage.ALONE
    assert fail(verdicts, Stage.ALONE, first_id=2) is Stage.LAST


def test_no_try_counts_while_others_fail(verdicts) -> None:
    """However long that lasts; it does again when one of them was taken."""
    put_off(verdicts)
    for other in range(50):
        put_off(verdicts, first_id=100 + other)
        assert fail(verdicts, Stage.ALONE) is Stage.ALONE
    for other in range(TRIES_MAX - 2):
        put_off(verdicts, first_id=200 + other)
        verdicts.took()
        assert fail(verdicts, Stage.ALONE) is Stage.ALONE
    assert fail(verdicts, Stage.ALONE) is Stage.LAST


def test_others_go_first_for_longer_each_time(verdicts) -> None:
    """At random a bit less, so that what failed together is not tried together; up to a minute."""
    waits_s = [put_off(verdicts) for _ in range(20)]
    assert PUT_OFF_LEAST * PUT_OFF_S <= waits_s[0] <= PUT_OFF_S
    assert PUT_OFF_LEAST * 4 * PUT_OFF_S <= waits_s[2] <= 4 * PUT_OFF_S
    assert all(PUT_OFF_LEAST * PUT_OFF_S_MAX <= wait_s <= PUT_OFF_S_MAX for wait_s in waits_s[5:])
    assert len(set(waits_s)) == 20


def test_of_much_that_failed_little_is_remembered(verdicts) -> None:
    """The oldest is forgotten: it is tried as often again. So is what is settled."""
    for first_id in range(LEASES_KEPT + 1):
        put_off(verdicts, first_id=first_id)
    verdicts.took()
    put_off(verdicts, first_id=0)
    assert verdicts.has_failed(LEASES_KEPT)
    verdicts.forget(LEASES_KEPT)
    assert not verdicts.has_failed(LEASES_KEPT)


def test_refusals_are_no_failures_of_the_server(verdicts) -> None:
    """Data that was refused may still make it fail, and is then put off like others."""
    refuse(verdicts)
    verdicts.took()
    for _ in range(20):
        refuse(verdicts)
    assert not verdicts.has_failed(1)
    put_off(verdicts)


def test_a_connection_that_breaks_is_about_the_data_where_others_are_taken(verdicts) -> None:
    """Or where others have no turn before it; an outage is not, however long it lasts."""
    for _ in range(10 * BREAKS_MAX):
        assert not verdicts.broke(first_id=1, is_waited_for=False)
    for left in range(BREAKS_MAX - 1, 0, -1):
        verdicts.took()
        assert verdicts.broke(first_id=1, is_waited_for=False) is (left == 1)
    for left in range(BREAKS_MAX, 0, -1):
        assert verdicts.broke(first_id=2, is_waited_for=True) is (left == 1)
    verdicts.forget(1)
    assert not verdicts.broke(first_id=1, is_waited_for=False)
    for first_id in range(LEASES_KEPT + 5):
        verdicts.broke(first_id=first_id, is_waited_for=False)
    assert len(verdicts._broke) == LEASES_KEPT


@pytest.mark.parametrize(("is_hurried", "most"), [(False, TRIES_BROKEN_MAX), (True, TRIES_BROKEN_HURRIED_MAX)])
def test_what_breaks_connections_has_many_tries(verdicts, is_hurried: bool, most: int) -> None:
    """A road may do that by itself; each with something taken since the one before."""
    error = InTransitError("the connection broke")
    with pytest.raises(TryLaterError, match="the connection broke") as caught:
        verdicts.failed(error, Stage.WHOLE, first_id=1)
    # Nothing of it had left.
    assert not caught.value.answer_lost
    assert caught.value.put_off_s > 0
    for _ in range(most - 2):
        verdicts.took()
        assert verdicts.failed(error, Stage.ALONE, first_id=1, is_hurried=is_hurried) is Stage.ALONE
    verdicts.took()
    assert verdicts.failed(error, Stage.ALONE, first_id=1, is_hurried=is_hurried) is Stage.LAST
