"""A state directory that is left for another is named, with what is held there and how to get it out."""

from __future__ import annotations

import pytest

from gateway.control import backlog
from gateway.control.backlog import look_for_old_shelf, warn_of_backlog


@pytest.fixture
def shelves(monkeypatch):
    """Say what is held where, without any shelf."""
    held: dict[str, dict[str, int]] = {}
    monkeypatch.setattr("gateway.control.backlog.held_in", lambda path: held.get(str(path), {}))
    return held


def test_what_is_left_is_said_with_the_way_out(shelves, tmp_path, caplog) -> None:
    """For whom, how much, where; nothing where nothing is held, or the place is the same."""
    shelves["/old"] = {"cloud": 1234, "": 5}
    warn_of_backlog(tmp_path / "empty", tmp_path)
    old = tmp_path.joinpath("/old")
    warn_of_backlog(old, old)
    assert caplog.messages == []
    warn_of_backlog(old, tmp_path)
    assert caplog.messages == [
        f"state_dir is {tmp_path} now: 1,234 readings for cloud, 5 readings for nobody are still held in /old, and "
        "nobody sends them from there; get them out with `tidegate export -c CONFIG --state-dir /old --out FILE`, or set "
        "state_dir back"
    ]


def test_a_shelf_that_is_about_to_be_made_is_compared_with_the_usual_places(
    shelves, tmp_path, caplog, monkeypatch
) -> None:
    """The default, and what systemd gave; not once there is a shelf of its own."""
    monkeypatch.setattr(backlog, "STATE_DIR", "/usual")
    shelves |= {"/usual": {"cloud": 1}, "/given": {"cloud": 2}}
    look_for_old_shelf(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", "/given:/usual")
    look_for_old_shelf(tmp_path)
    found = [message.split("still held in ")[1].split(",")[0] for message in caplog.messages]
    assert found == ["/usual", "/usual", "/given"]
    (tmp_path / "tidegate.db").write_bytes(b"")
    look_for_old_shelf(tmp_path)
    assert len(caplog.messages) == 3
