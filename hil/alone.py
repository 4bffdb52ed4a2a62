"""Tests in several processes at once (pytest-xdist), but nothing beside a test that is marked `alone`.

Most tests wait more than they compute, and two at a time disturb nobody. Some are judged by the clock, by CPU time or
by memory: before such a test begins those of the other processes come to their end, and none begins before it is over.
The time that a test waits for that is none of its own, and its timeout does not run meanwhile. A pytest plugin; must
not do anything where there is one process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

TURNS: Final = pytest.StashKey["Turns"]()


class Turns:
    """Who may run now, among the processes that have `folder` in common: any number, or one that is alone."""

    def __init__(self, folder: Path) -> None:
        self._door = (folder / "door.lock").open("w")
        self._room = (folder / "room.lock").open("w")

    @contextlib.contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Wait until this one may run, and hold the others off as long as it does."""
        # Whoever waits to be alone stands in the door: those who come later would have it wait for ever otherwise.
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files."""
        self._door.close()
        self._room.close()


@pytest.hookimpl
def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the folder that pytest-xdist's processes have in common."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]  # noqa: SLF001  before any test there is no fixture
        session.config.stash[TURNS] = Turns(factory.getbasetemp().parent)


@pytest.hookimpl
def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the files."""
    if (turns := config.stash.get(TURNS, None)) is not None:
        turns.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test when it may."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.taken(alone=item.get_closest_marker("alone") is not None):
        return (yield)
