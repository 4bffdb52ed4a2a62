"""Answers about single segments and payloads, over the connection that cannot write. Must not change anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store.opening import fetch
from gateway.store.records import Quarantined, SetAside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import aiosqlite

    from gateway.store.accounts import Share
    from gateway.store.leases import Desk


async def whereabouts(
    reader: aiosqlite.Connection, ids: Sequence[int], *, desks: Mapping[str, Desk], shares: Mapping[str, Share]
) -> dict[int, dict[str, str]]:
    """Say where segments (not many) are now, for each uplink; see `Store.whereabouts`."""
    marks = ", ".join("?" * len(ids))
    rows = await fetch(reader, f"SELECT id, done FROM shelf WHERE id IN ({marks})", ids)  # noqa: S608  marks alone
    done: dict[int, int] = dict(rows)
    found: dict[int, dict[str, str]] = {segment_id: {} for segment_id in ids}
    for segment_id, words in found.items():
        for name, desk in desks.items():
            if desk.is_leased(segment_id):
                words[name] = "sending"
            elif segment_id not in done:
                words[name] = "gone"
            elif done[segment_id] & shares[name].bit:
                words[name] = "settled"
            else:
                words[name] = "thinned" if segment_id in desk.thinned else "held"
    return found


async def quarantined(reader: aiosqlite.Connection, *, limit: int) -> list[Quarantined]:
    """Return the last payloads of which not all could be used, the newest first."""
    rows = await fetch(
        reader,
        "SELECT at_ns, source, topic, payload, reason, message FROM quarantine ORDER BY id DESC LIMIT ?",
        (limit,),
    )
    return [Quarantined(at_ns, SetAside(*what)) for at_ns, *what in rows]
