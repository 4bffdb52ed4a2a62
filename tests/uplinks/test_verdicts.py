"""What is refused is given up where the road takes something else; where it takes nothing, next to nothing is."""

from __future__ import annotations

import pytest

from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import HoldError
from gateway.uplinks.verdicts import (
    LEASES_KEPT,
    REFUSALS_MAX,
    REFUSED_MAX,
    SHOWN_MAX,
    TRIES_MAX,
    NothingTakenError,
    Verdicts,
)


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts()


def meet(verdicts: Verdicts, status: int, first_id: int = 1) -> None:
    verdicts.met(f"status {status}", status=status, first_id=first_id)


def conclude(verdicts: Verdicts, status: int, first_id: int = 1, *, parts: int = 1) -> None:
    verdicts.conclude(f"status {status}", status=status, first_id=first_id, parts=parts)


def fail(verdicts: Verdicts, first_id: int = 1) -> None:
    """Meet a server's own error until the data counts as its cause."""
    for _ in range(TRIES_MAX - 1):
        with pytest.raises(TryLaterError) as caught:
            meet(verdicts, 500, first_id)
        assert caught.value.answer_lost
        assert not isinstance(caught.value, HoldError)
    meet(verdicts, 500, first_id)


def test_a_few_parts_are_given_up_though_nothing_is_taken(verdicts) -> None:
    """After some of these the road is shut: little is shown to it, and nothing given up, until something is taken."""
    for first_id in range(REFUSED_MAX):
        meet(verdicts, 400, first_id)
        assert verdicts.refusals_max(first_id) == REFUSALS_MAX
        conclude(verdicts, 400, first_id, parts=REFUSED_MAX)
    for first_id in range(10):
        meet(verdicts, 400, first_id)
        assert verdicts.refusals_max(first_id) == SHOWN_MAX
        with pytest.raises(NothingTakenError, match="status 400; nothing was taken since then") as caught:
            conclude(verdicts, 400, first_id)
        assert caught.value.after_s == 0
    verdicts.took()
    meet(verdicts, 400, 0)
    assert verdicts.refusals_max(0) == REFUSALS_MAX
    conclude(verdicts, 400, 0, parts=100)


def test_a_lease_of_which_a_part_was_taken_is_refused_for_its_data(verdicts) -> None:
    """A server's own error says less: it may have begun after that."""
    verdicts.took()
    verdicts.met("status 400", status=400, first_id=1, is_begun=True)
    conclude(verdicts, 400, parts=100)
    for _ in range(TRIES_MAX - 1):
        with pytest.raises(TryLaterError):
            verdicts.met("status 500", status=500, first_id=2, is_begun=True)
    verdicts.met("status 500", status=500, first_id=2, is_begun=True)
    with pytest.raises(NothingTakenError):
        conclude(verdicts, 500, 2)


def test_many_parts_are_not_given_up_where_nothing_is_taken(verdicts) -> None:
    """A road that takes no part of a lease may be the wrong one."""
    meet(verdicts, 400)
    with pytest.raises(HoldError):
        conclude(verdicts, 400, parts=REFUSED_MAX + 1)
    meet(verdicts, 400)
    verdicts.took()
    meet(verdicts, 400)
    conclude(verdicts, 400, parts=REFUSED_MAX + 1)


def test_what_was_taken_before_says_nothing(verdicts) -> None:
    """It was before the first refusal."""
    verdicts.took()
    meet(verdicts, 400)
    assert not verdicts.is_about_data(1)
    verdicts.took()
    assert verdicts.is_about_data(1)
    assert not verdicts.is_about_data(2)


def test_a_servers_own_error_is_tried_again_and_again(verdicts) -> None:
    """The same data that meets it each time is its cause only if something else was taken meanwhile."""
    fail(verdicts)
    with pytest.raises(HoldError):
        conclude(verdicts, 500)
    meet(verdicts, 500)
    verdicts.took()
    conclude(verdicts, 500)
    with pytest.raises(TryLaterError):
        meet(verdicts, 500)


def test_of_much_that_failed_little_is_remembered(verdicts) -> None:
    """The oldest is forgotten: it is tried as often again."""
    for first_id in range(LEASES_KEPT + 1):
        with pytest.raises(TryLaterError):
            meet(verdicts, 500, first_id)
    fail(verdicts, 0)


def test_refusals_are_no_failures_of_the_server(verdicts) -> None:
    """And who is tried again because it failed must take something after that."""
    verdicts.met("status 400", status=400, first_id=1)
    verdicts.took()
    for _ in range(20):
        meet(verdicts, 400)
    fail(verdicts)
    assert not verdicts.is_about_data(1)
    with pytest.raises(NothingTakenError):
        conclude(verdicts, 500)
    verdicts.took()
    meet(verdicts, 500)
    conclude(verdicts, 500)


def test_nobody_waits_where_others_are_taken_while_the_same_data_fails(verdicts) -> None:
    """A server that has taken nothing since is waited for: it may fail at all."""

    def met() -> bool:
        with pytest.raises(TryLaterError) as caught:
            verdicts.met("status 500", status=500, first_id=1)
        return caught.value.at_once

    assert not met()
    assert not met()
    verdicts.took()
    assert met()
    assert met()
