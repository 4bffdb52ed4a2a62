"""What is said to people of the box's clock. Must not load numpy: a command that only asks needs it not."""

from __future__ import annotations

from typing import Final

from gateway.core.words import span

CLOCKS: Final = {
    "synced": "right",
    "unsynced": "set, but no time server has confirmed it",
    "unknown": "not known",
}
CLOCK_MISSING: Final = (
    "the time is not known since this boot: readings with no time of their own are kept until it is; "
    "check the time server, or the clock's battery"
)


def clock_astray(astray_s: float, *, is_doubted: bool) -> str:
    """Say how far the clock is ahead of what receivers say (or behind, if negative), and what to do about it.

    `is_doubted` is whether their time is taken instead of its.

    >>> clock_astray(-3600, is_doubted=False)[:55]
    'the clock of this box is 1 h behind what receivers say,'
    """
    way = "ahead of" if astray_s > 0 else "behind"
    whose = "theirs, for they have shown certificates" if is_doubted else "its time"
    return (
        f"the clock of this box is {span(abs(astray_s))} {way} what receivers say, and no time server has confirmed "
        f"it: readings with no time of their own leave with {whose}; set it, or let the box reach a time server"
    )
