"""Who has taken long lets others have their turn."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.turns import TURN_S_MAX, Turn


@pytest.mark.parametrize(("seconds", "others"), [(1.5 * TURN_S_MAX, 1), (0.0, 0)])
@pytest.mark.parametrize("fails", [False, True])
async def test_others_have_their_turn_behind_what_took_long(
    seconds: float, others: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ended; behind what did not, nobody waits for them."""
    now_s, had = 0.0, 0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)

    def other() -> None:
        nonlocal had
        had += 1

    asyncio.get_running_loop().call_soon(other)
    try:
        async with Turn():
            now_s += seconds
            if fails:
                raise ValueError("no message")
    except ValueError:
        assert fails
    assert had == others
