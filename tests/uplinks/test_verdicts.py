"""A few refusals in a row are about the data; more of them, with nothing taken in between, about the road."""

from __future__ import annotations

import pytest

from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import HoldError
from gateway.uplinks.verdicts import FAILED_MAX, LEASES_KEPT, REFUSED_MAX, TOO_LARGE_MAX, TRIES_MAX, Verdicts


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts()


def fail(verdicts: Verdicts, first_id: int, times: int = TRIES_MAX) -> None:
    """Meet a server's own error until the data counts as its cause."""
    for _ in range(times - 1):
        with pytest.raises(TryLaterError) as caught:
            verdicts.refuse("status 500", status=500, first_id=first_id)
        assert not isinstance(caught.value, HoldError)
    verdicts.refuse("status 500", status=500, first_id=first_id)


def test_a_few_refusals_are_about_the_data(verdicts) -> None:
    """Then nothing is given up until something is taken."""
    for k in range(REFUSED_MAX):
        verdicts.refuse("status 400: bad name", status=400, first_id=k)
    for k in range(10):
        with pytest.raises(HoldError, match="status 400: bad name; nothing was taken since") as caught:
            verdicts.refuse("status 400: bad name", status=400, first_id=k)
        assert caught.value.after_s == 0
    verdicts.took()
    verdicts.refuse("status 400: bad name", status=400, first_id=0)


def test_a_servers_own_error_is_tried_again_and_again(verdicts) -> None:
    """The same data that meets it each time is its cause, if something else was taken."""
    fail(verdicts, 1)
    for _ in range(FAILED_MAX):
        with pytest.raises(HoldError):
            fail(verdicts, 2)
    with pytest.raises(HoldError):
        verdicts.refuse("status 500", status=500, first_id=2)
    verdicts.took()
    verdicts.refuse("status 500", status=500, first_id=2)


def test_of_much_that_failed_little_is_remembered(verdicts) -> None:
    """The oldest is forgotten: it is tried as often again."""
    for first_id in range(LEASES_KEPT + 1):
        with pytest.raises(TryLaterError):
            verdicts.refuse("status 500", status=500, first_id=first_id)
    fail(verdicts, 0)


def test_readings_that_are_too_large_alone_are_few(verdicts) -> None:
    """A proxy with a limit below one reading would cost everything, one by one."""
    for _ in range(TOO_LARGE_MAX):
        verdicts.too_large("status 413")
    with pytest.raises(HoldError, match="status 413"):
        verdicts.too_large("status 413")
