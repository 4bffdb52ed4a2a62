"""An answer is waited for, cut when it is overdue, and says whether answers come at once."""

from __future__ import annotations

import asyncio

import pytest

from gateway.uplinks.guards import Answer
from gateway.uplinks.watching import QUICK_S, TURN_S, WATCH_S, Watching
from hil.virtual_time import run


class Line:
    """The part of a wire that is asked whether an answer is overdue."""

    def __init__(self) -> None:
        self.overdue = False
        self.aborted = 0

    def is_overdue(self) -> bool:
        return self.overdue

    def abort(self) -> None:
        self.aborted += 1


@pytest.fixture
def line() -> Line:
    return Line()


def test_an_answer_is_waited_for(line) -> None:
    """And cut once it is overdue, until it comes."""

    async def main() -> None:
        watching = Watching(line, on_speed=lambda is_quick: None)
        answer = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(watching.watch(answer))
        await asyncio.sleep(2.5 * WATCH_S)
        assert line.aborted == 0
        line.overdue = True
        await asyncio.sleep(2 * WATCH_S)
        assert line.aborted == 2
        # It comes with the look that finds it overdue: what was answered is not cut any more.
        asyncio.get_running_loop().call_later(WATCH_S / 4, answer.set_result, Answer())
        await task
        assert line.aborted == 2

    run(main())


def test_what_is_quick_is_said_when_it_changes(line) -> None:
    """An answer that is not there soon ends it before it is there."""

    async def main() -> None:
        said: list[bool] = []
        watching = Watching(line, on_speed=said.append)
        for seconds in (QUICK_S / 2, QUICK_S / 3):
            watching.heard(Answer(seconds=seconds))
        assert said == [True]
        answer = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(watching.watch(answer))
        await asyncio.sleep(1.5 * QUICK_S)
        assert said == [True, False]
        answer.set_result(Answer())
        await task
        watching.heard(None)
        assert said == [True, False]

    run(main())


def test_others_have_their_turn_between_answers_that_are_there_at_once(line) -> None:
    """Not at each of them: that costs more than the answer."""

    async def main() -> None:
        watching = Watching(line, on_speed=lambda is_quick: None)
        turns: list[int] = []
        done = asyncio.get_running_loop().create_future()
        done.set_result(Answer())
        asyncio.get_running_loop().call_soon(turns.append, 1)
        await watching.watch(done)
        assert turns == [1]
        asyncio.get_running_loop().call_soon(turns.append, 2)
        await watching.watch(done)
        assert turns == [1]
        await asyncio.sleep(2 * TURN_S)
        asyncio.get_running_loop().call_soon(turns.append, 3)
        await watching.watch(done)
        assert turns == [1, 2, 3]

    run(main())
