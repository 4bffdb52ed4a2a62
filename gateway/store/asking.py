"""Answers about single segments and payloads, over the connection that cannot write. Must not change anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store.membership import account_of, removed_accounts
from gateway.store.opening import fetch
from gateway.store.records import Quarantined, SetAside, where_from
from gateway.store.taking import OWN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

    import aiosqlite

    from gateway.core.clock import Timeline
    from gateway.store.accounts import Accounts, Share
    from gateway.store.leases import Desk
    from gateway.store.records import UplinkStatus


async def whereabouts(
    reader: aiosqlite.Connection,
    ids: Sequence[int],
    *,
    desks: Mapping[str, Desk],
    shares: Mapping[str, Share],
    origins_of: Callable[[Sequence[int]], Awaitable[dict[int, int]]],
) -> dict[int, dict[str, str]]:
    """Say where segments (not many) are now, for each uplink; see `Store.whereabouts`.

    Of what has left the shelf nobody knows any more which mapping made it: that is gone for all.
    """
    marks = ", ".join("?" * len(ids))
    rows = await fetch(reader, f"SELECT id, done FROM shelf WHERE id IN ({marks})", ids)  # noqa: S608  marks alone
    done: dict[int, int] = dict(rows)
    origins = await origins_of(list(done)) if any(desk.takes.origins is not None for desk in desks.values()) else {}
    found: dict[int, dict[str, str]] = {segment_id: {} for segment_id in ids}
    for segment_id, words in found.items():
        for name, desk in desks.items():
            if not desk.takes.has(where_from(segment_id)[:2], origins.get(segment_id, OWN)):
                words[name] = "left_out"
            elif desk.is_leased(segment_id):
                words[name] = "sending"
            elif segment_id not in done:
                words[name] = "gone"
            elif done[segment_id] & shares[name].bit:
                words[name] = "settled"
            else:
                words[name] = "thinned" if segment_id in desk.thinned else "held"
    return found


def accounts_of(
    accounts: Accounts,
    desks: Mapping[str, Desk],
    timeline: Timeline,
    *,
    forgotten: Container[str],
    grace_s: float,
    now_ns: Callable[[], int],
) -> dict[str, UplinkStatus]:
    """Return the accounts of all uplinks, also of those that are configured no more; see `Store.status`."""
    found = {name: account_of(accounts, name, leased=desk.leased_readings) for name, desk in desks.items()}
    for name, desk in desks.items():
        if desk.takes.number:
            found[name]["takes"] = desk.takes.told()
    return found | removed_accounts(accounts, forgotten, timeline, grace_s=grace_s, now_ns=now_ns)


async def quarantined(reader: aiosqlite.Connection, *, limit: int) -> list[Quarantined]:
    """Return the last payloads of which not all could be used, the newest first."""
    rows = await fetch(
        reader,
        "SELECT at_ns, source, topic, payload, reason, message FROM quarantine ORDER BY id DESC LIMIT ?",
        (limit,),
    )
    return [Quarantined(at_ns, SetAside(*what)) for at_ns, *what in rows]
