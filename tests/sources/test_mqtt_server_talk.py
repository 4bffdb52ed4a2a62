"""Checks for the line in which those stand that say much and publish nothing, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sources.mqtt_server_line import Pause
from gateway.sources.mqtt_server_talk import TALK_GAP_S, TALK_SHARE, TURN_S_MAX, Talkers
from hil import virtual_time


class Talker:
    """Somebody who talks for `look_s` each time he is read; remembers when."""

    def __init__(self, talkers: Talkers, *, look_s: float = 0.0) -> None:
        self.talkers = talkers
        self.look_s = look_s
        self.heard_s: list[float] = []
        self.is_read = True

    def pause(self, why: Pause) -> None:
        assert (why, self.is_read) == (Pause.TALK, True)
        self.is_read = False

    def resume(self, why: Pause) -> None:
        assert (why, self.is_read) == (Pause.TALK, False)
        self.is_read = True
        self.talk()

    def talk(self) -> None:
        self.heard_s.append(asyncio.get_running_loop().time())
        if self.look_s:
            self.talkers.wait(self, took_s=self.look_s)


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_all_of_them_together_get_a_part_of_the_time(count: int) -> None:
    """However many they are; one after the other, so that each gets as much."""

    async def play() -> list[Talker]:
        talkers = Talkers()
        everybody = [Talker(talkers, look_s=0.002) for _ in range(count)]
        for one in everybody:
            one.talk()
        await asyncio.sleep(100)
        return everybody

    everybody = virtual_time.run(play())
    looks = [len(one.heard_s) for one in everybody]
    assert sum(looks) * 0.002 == pytest.approx(100 * TALK_SHARE, rel=0.05)
    assert max(looks) - min(looks) <= 1


def test_who_says_no_more_holds_nobody_up() -> None:
    """Hundreds that were read and are silent now; nor does one who has gone."""

    async def play() -> float:
        talkers = Talkers()
        silent = [Talker(talkers) for _ in range(100)]
        for one in silent:
            one.pause(Pause.TALK)
            one.is_read = True
            talkers.wait(one, took_s=0.0)
        gone, last = Talker(talkers), Talker(talkers)
        talkers.wait(gone, took_s=0.0)
        talkers.wait(last, took_s=0.0)
        talkers.forget(gone)
        assert len(talkers) == 101
        while not last.heard_s:
            await asyncio.sleep(TALK_GAP_S)
        assert not gone.heard_s
        return last.heard_s[0]

    assert virtual_time.run(play()) < 300 * TALK_GAP_S


def test_one_turn_of_the_loop_hears_so_much_of_them() -> None:
    """Then looks are short, until the next turn."""

    async def play() -> list[bool]:
        talkers = Talkers()
        said = []
        for _ in range(2):
            talkers.wait(Talker(talkers), took_s=0.6 * TURN_S_MAX)
            said.append(talkers.is_enough)
        await asyncio.sleep(0)
        said.append(talkers.is_enough)
        talkers.wait(Talker(talkers), took_s=0.6 * TURN_S_MAX)
        return [*said, talkers.is_enough]

    assert virtual_time.run(play()) == [False, True, False, False]
