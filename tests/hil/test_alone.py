"""Who may run beside whom, of several processes that run tests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from hil.alone import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Other:
    """Another process, which asks for its turn in a thread: `is_in` while it has it, until it is let `go`."""

    def __init__(self, turns: Turns, *, alone: bool = False) -> None:
        self.is_in, self.go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(turns, alone))
        self._thread.start()

    def end(self) -> None:
        self.go.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _run(self, turns: Turns, alone: bool) -> None:
        with turns.taken(alone=alone):
            self.is_in.set()
            self.go.wait(20)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Turns]]:
    found = [Turns(tmp_path) for _ in range(3)]
    yield found
    for turns in found:
        turns.close()


def test_most_run_beside_each_other(three: list[Turns]) -> None:
    """Nobody waits for anybody."""
    others = [Other(turns) for turns in three]
    assert all(other.is_in.wait(20) for other in others)
    for other in others:
        other.end()


def test_nobody_runs_beside_one_that_is_alone(three: list[Turns]) -> None:
    """Neither one of the many nor a second that is to be alone."""
    first = Other(three[0], alone=True)
    assert first.is_in.wait(20)
    second, third = Other(three[1]), Other(three[2], alone=True)
    assert not second.is_in.wait(0.1)
    assert not third.is_in.is_set()
    first.end()
    for other in (second, third):
        other.go.set()
        assert other.is_in.wait(20)
        other.end()


def test_one_that_is_alone_waits_for_those_who_are_there_and_not_for_those_who_come(three: list[Turns]) -> None:
    """With many that come and go it would never have its turn otherwise."""
    there = Other(three[0])
    assert there.is_in.wait(20)
    alone = Other(three[1], alone=True)
    assert not alone.is_in.wait(0.1)
    late = Other(three[2])
    assert not late.is_in.wait(0.1)
    there.end()
    assert alone.is_in.wait(20)
    assert not late.is_in.is_set()
    alone.end()
    assert late.is_in.wait(20)
    late.end()
