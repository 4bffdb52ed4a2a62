"""How far the commits have come is noted rarely, and never more than is true."""

from __future__ import annotations

import pytest

from gateway.store.reached import GROWN_BYTES_MIN, REACHED, Reached, forget_reached, read_reached


@pytest.fixture
def reached(tmp_path):
    found = Reached(tmp_path)
    found.begin(5, log_bytes=1000)
    return found


def test_a_start_is_noted(reached, tmp_path) -> None:
    """Whatever an earlier database had reached."""
    assert read_reached(tmp_path) == 5
    Reached(tmp_path).begin(2, log_bytes=0)
    assert read_reached(tmp_path) == 2


def test_it_is_noted_when_the_log_has_grown(reached, tmp_path) -> None:
    """By a few kilobytes at first, then by an eighth; a log that grows no more is noted no more."""
    for commit, log_bytes, noted in (
        (6, 1000 + GROWN_BYTES_MIN - 1, 5),
        (7, 1000 + GROWN_BYTES_MIN, 7),
        (8, 800_000, 8),
        (9, 899_999, 8),
        (10, 900_000, 10),
        (11, 900_000, 10),
    ):
        reached.note(commit, log_bytes=log_bytes)
        assert read_reached(tmp_path) == noted


def test_a_full_log_took_some_dozens_of_notes(reached, tmp_path) -> None:
    """They are no burden for a card."""
    noted = set()
    for commit in range(6, 8000):
        reached.note(commit, log_bytes=commit << 10)
        noted.add(read_reached(tmp_path))
    assert len(noted) < 80


def test_a_shelf_that_was_not_begun_notes_nothing(tmp_path) -> None:
    """One that can only be read, or has no room."""
    Reached(tmp_path).note(7, log_bytes=1 << 20)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_gone(reached, tmp_path) -> None:
    """It says less then; nothing fails."""
    tmp_path.rename(tmp_path.with_name("moved"))
    reached.note(7, log_bytes=1 << 20)
    reached.begin(8, log_bytes=0)
    forget_reached(tmp_path)
    assert read_reached(tmp_path) == 0
    tmp_path.with_name("moved").rename(tmp_path)
    assert read_reached(tmp_path) == 5


@pytest.mark.parametrize("data", [b"", b"x", b"00000000000000000005 00000000\n", b"5"])
def test_a_damaged_note_is_none(reached, tmp_path, data) -> None:
    """It has a checksum."""
    (tmp_path / REACHED).write_bytes(data)
    assert read_reached(tmp_path) == 0


def test_it_is_forgotten(reached, tmp_path) -> None:
    """With the database that it was of."""
    forget_reached(tmp_path)
    assert read_reached(tmp_path) == 0
    forget_reached(tmp_path)
