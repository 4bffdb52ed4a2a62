"""The errors that cross rooms, and arrivals."""

from __future__ import annotations

from gateway.core.contracts import (
    Accepted,
    Arrivals,
    FullError,
    MalformedError,
    Priority,
    Signal,
    TryLaterError,
)


def test_errors_say_what_to_do_next() -> None:
    """A wait, a countable word, whether the answer was lost."""
    assert FullError("full").after_s == 1.0
    later = TryLaterError("busy", 7, answer_lost=True)
    assert (str(later), later.after_s, later.answer_lost) == ("busy", 7, True)
    assert not TryLaterError("busy").answer_lost
    malformed = MalformedError("json", "no JSON at byte 3")
    assert (malformed.reason, str(malformed)) == ("json", "no JSON at byte 3")


def test_arrivals_know_their_size() -> None:
    """Payload bytes, for the queues' bounds."""
    assert Arrivals("plant", [b"t", b"t"], [b"abc", b""], 5).size_bytes == 3


def test_what_the_pipeline_made_of_arrivals_is_not_part_of_them() -> None:
    """Neither equality nor a repr shows it."""
    assert Arrivals("a", [], [], 0, prepared=1) == Arrivals("a", [], [], 0)
    assert "prepared" not in repr(Arrivals("a", [], [], 0, prepared=1))


def test_accepted_starts_without_malformed_ones() -> None:
    """Each has a list of its own."""
    assert Accepted(3).malformed == []
    assert Accepted(3).malformed is not Accepted(3).malformed


def test_what_is_first_sorts_first() -> None:
    """Numbers stand in the database: they don't change."""
    assert list(Priority) == [0, 1, 2]
    assert Priority.CRITICAL < Priority.NORMAL < Priority.BULK
    assert list(Signal) == [0, 1, 2]
