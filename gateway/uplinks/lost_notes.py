"""What a link is taken to have spent whose notes are damaged: rather too much than a bill twice. Does no I/O.

| lost is           | then spent is                                                                                |
| ----------------- | -------------------------------------------------------------------------------------------- |
| the last note     | what the one before says, all that it covered, and as much again, which the lost one covered |
| all of it         | of each window the part that has passed: a plan spends it evenly, so that is about right     |
| and no clock runs | each window, but for what is kept to ask for the time: nobody knows how much of it is over   |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.uplinks.budget import Note, decode_note, kept_for_probes
from gateway.uplinks.windows import UTC, Spent, calendar_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.uplinks.budget_settings import BudgetSettings
    from gateway.uplinks.windows import Calendar, Moment


def note_in_doubt(budget: BudgetSettings, note: bytes, now: Moment, *, is_lost: bool) -> bytes:
    """Return what is taken to have been spent where the last note is damaged; `is_lost`: the one before is, too."""
    if is_lost:
        return note_of_lost(budget.allowances(), now, calendar=calendar_of(budget))
    return note_after(note)


def note_after(note: bytes) -> bytes:
    """Return what is known by `note`, which was written before one that is lost."""
    known = decode_note(note)
    if known is None:
        return b""
    return msgspec.msgpack.encode(msgspec.structs.replace(known, ahead_bytes=2 * known.ahead_bytes))


def note_of_lost(limits: Mapping[str, int], now: Moment, *, calendar: Calendar = UTC) -> bytes:
    """Return what is to be noted of windows of which nothing is known."""
    windows = []
    for window, limit in limits.items():
        if now.wall_s is None:
            windows.append(Spent(window, spent_bytes=limit - kept_for_probes(limit)))
            continue
        start_s = calendar.start_of(window, now.wall_s)
        share = (now.wall_s - start_s) / (calendar.end_of(window, start_s) - start_s)
        windows.append(Spent(window, start_s, int(limit * share), start_s if now.is_sure else 0))
    return msgspec.msgpack.encode(Note(0, windows, now))
