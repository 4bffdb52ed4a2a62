"""What left while nothing could be written: noted beside the disk, so that the next process does not send it again.

A disk that takes no writes cannot be told what was sent. So whoever closes such a shelf notes it in a folder that
outlives the process (systemd's RuntimeDirectory, in memory), and the next start writes it down, as one commit. A note
goes on from one state row, to the byte; where the disk holds another it means nothing. A reboot takes it along, and a
process that is killed leaves none: what left is sent again then, and nobody can count it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.net.files import read_file, write_file
from gateway.store.accounts import NOBODY, Accounts, Change, DamagedStateError, Entry, decode_state, encode_state
from gateway.store.records import STATE_ID
from gateway.store.writer import Transaction, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import aiosqlite

    from gateway.store.accounts import Share, State

log = logging.getLogger("tidegate.store")

NAME: Final = "unwritten-"
_MAGIC: Final = b"TGu1"


class Unwritten(msgspec.Struct, array_like=True):
    """What a commit would have written: made by `note_of`."""

    before: bytes  # the state row that it goes on from
    after: bytes
    done: dict[int, int]
    removed: list[int]
    ledger: list[tuple[str, str, Entry]]


def note_of(
    before: bytes,
    shares: Iterable[Share],
    *,
    done: Mapping[int, int],
    ledger: Mapping[tuple[str, str], Entry],
    removed: Iterable[int] = (),
) -> Unwritten:
    """Return what to note: the disk has the state row `before`, true are these shares, and of the rest what changed."""
    shares = [msgspec.structs.replace(share, leased=[], allowed=0) for share in shares]
    state = decode_state(before)
    # An uplink may have come since: one that comes after it must not be given its slot.
    slots = state.slots | {share.name: share.slot for share in shares if share.name != NOBODY}
    after = encode_state(msgspec.structs.replace(state, shares=shares, slots=slots))
    return Unwritten(before, after, dict(done), list(removed), [(*key, entry) for key, entry in ledger.items()])


def notes_of(
    states: Iterable[tuple[State, Change]],
    accounts: Accounts,
    *,
    done: Mapping[int, int],
    written: Mapping[tuple[str, str], Entry],
) -> list[Unwritten]:
    """Return what to note for each state that the disk may have, and what it brought that `accounts` do not know.

    `written` is the ledger on the disk.
    """
    notes = []
    for state, change in states:
        after = accounts.copy()
        after.apply(change)
        ledger = {key: entry for key, entry in after.ledger.items() if written.get(key) != entry}
        notes.append(note_of(encode_state(state), after.shares.values(), done=done, ledger=ledger))
    return notes


def path_of(notes_dir: Path | None, state_dir: Path) -> Path | None:
    """Return where it is noted what a shelf does not know; of several that are used in turn each has its own."""
    if notes_dir is None:
        return None
    return notes_dir / f"{NAME}{zlib.crc32(os.fsencode(state_dir.absolute())):08x}"


def leave(path: Path | None, notes: Sequence[Unwritten]) -> bool:
    """Note them for the next start; return whether that was possible."""
    body = msgspec.msgpack.encode(notes)
    try:
        if path is not None:
            write_file(path, _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror)
        return False
    return path is not None


def forget(path: Path | None) -> None:
    """Remove the note: it is written down, or of another time."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


async def write_down(connection: aiosqlite.Connection, path: Path | None) -> None:
    """Write what is noted there, where it goes on from what the shelf holds; raise sqlite3.Error."""
    notes = [] if path is None else _read(path)
    rows = await connection.execute_fetchall("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)) if notes else []
    note = next((note for note in notes for (body,) in rows if body == note.before), None)
    if note is None:
        return
    before, after = decode_state(note.before), decode_state(note.after)
    accounts = Accounts(after.shares, {}, accepted=after.accepted)
    work = Transaction(
        note.after,
        active=accounts.active,
        kept=[(share.bit, removal.sequence) for share, removal in accounts.kept],
        done=note.done,
        removed=note.removed,
        ledger={(uplink, reason): entry for uplink, reason, entry in note.ledger},
    )
    await write(connection, work)
    sent = accounts.delivered_since(before.shares)
    log.warning("%d readings that were sent while nothing could be written are not sent again", sent)


def _read(path: Path) -> list[Unwritten]:
    try:
        data = read_file(path)
        if data[:4] != _MAGIC or zlib.crc32(data[8:]).to_bytes(4, "little") != data[4:8]:
            return []
        notes = msgspec.msgpack.decode(data[8:], type=list[Unwritten])
        for note in notes:
            decode_state(note.before), decode_state(note.after)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, DamagedStateError):
        return []
    return notes
