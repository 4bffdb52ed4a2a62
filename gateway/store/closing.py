"""Closing a store: what this process forgets is said, or noted where the next one finds it. Must not commit."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from gateway.store.connection import close_keeping_log
from gateway.store.unwritten import leave

if TYPE_CHECKING:
    import aiosqlite

    from gateway.store.committer import Committer
    from gateway.store.frozen import Frozen
    from gateway.store.surroundings import Surroundings

log = logging.getLogger("tidegate.store")


def held_by(committer: Committer) -> int:
    """Return how many readings are held for the uplink that has most of them."""
    return max((share.held for share in committer.accounts.configured), default=0)


async def write_down(committer: Committer, frozen: Frozen | None, around: Surroundings) -> None:
    """Say what is forgotten with this process; bring it to the disk where that can be written again."""
    note_path = around.note_path
    unsaved = committer.accounts.delivered_since(committer.state.shares)
    notes = committer.unwritten() if committer.settling.done else []
    if frozen is not None:
        why = await frozen.write_down(around.room)
        unsaved = sum(frozen.sent.values()) if why else 0
        notes = await frozen.unwritten() if unsaved else []
    is_noted = bool(notes) and leave(note_path, notes)
    presence = committer.trouble.presence
    if presence is not None and (held := held_by(committer)) and not presence.has_database:
        log.error("%d readings that were not sent are in the file that was taken away, or gone with it", held)
    if unsaved:
        then = f"that is noted in {note_path} until the next boot" if is_noted else "they are sent again"
        log.warning("%d readings were sent and that could not be written down: %s", unsaved, then)


async def end(
    committer: Committer, writer: aiosqlite.Connection, reader: aiosqlite.Connection, frozen: Frozen | None
) -> None:
    """Close the files, with a log where the next start is to find one."""
    presence = committer.trouble.presence
    with contextlib.nullcontext() if presence is None else presence.spare_others():
        if committer.state.clean and not committer.is_damaged:
            await reader.close()
            await writer.close()
        else:
            # The next start is to find what the state on the disk says: a log. A salvage reads both, each as it is.
            await close_keeping_log(writer, reader)
    if frozen is not None:
        await frozen.close()
