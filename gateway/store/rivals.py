"""After a salvage: of a segment that was written anew and what it stands for, which was there before it, one stays.

Where the last version of a page is lost, an older one may still have what has become part of another segment since.
Must not leave readings twice; what is dropped is missing for the accounts, as all that is not there (store/reckoning).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from gateway.store.reckoning import UNSURE
from gateway.store.records import STATE_ID, where_from
from gateway.store.segments import read_header

if TYPE_CHECKING:
    import sqlite3

    from gateway.core.contracts import Priority, Signal


def drop_rivals(connection: sqlite3.Connection, *, is_doubtful: bool) -> int:
    """Leave of each two the one that was written anew; return how many segments are gone. Raise sqlite3.Error.

    Where what it stands for was found where it belongs and it was not itself, it is of no commit, or of one that went
    before: then it goes. Not with `is_doubtful`, where pages that are led to may be outdated.
    """
    count = 0
    is_refuted = True
    while is_refuted:
        # What went for the sake of one that goes itself has been kept, and may have rivals of its own.
        dropped, is_refuted = _find(connection, is_doubtful=is_doubtful)
        connection.execute("BEGIN")
        connection.executemany("DELETE FROM shelf WHERE id = ?", zip(dropped, strict=True))
        connection.execute("COMMIT")
        count += len(dropped)
    return count


def _find(connection: sqlite3.Connection, *, is_doubtful: bool) -> tuple[list[int], bool]:
    """Return the row ids of what has to go, and whether one of them was written anew and goes for what it stood for."""
    gone, by_whom = array("q"), array("q")
    # By shelf and origin: how far the one reaches that was written anew last, and its row id where it may have to go.
    reach: dict[tuple[Priority, Signal, int], tuple[int, int]] = {}
    refuted: set[int] = set()
    rows = connection.execute("SELECT id, done, body FROM shelf WHERE id < ? ORDER BY id", (STATE_ID,))
    for row_id, done, body in rows:
        priority, signal, sequence = where_from(row_id)
        header = read_header(body)
        shelf = priority, signal, header.origin
        last, by = reach.get(shelf, (0, 0))
        is_sure = not done & UNSURE
        if sequence <= last and not (is_sure and by):
            gone.append(row_id)
            by_whom.append(by)
            continue
        if sequence <= last:
            refuted.add(by)
            reach.pop(shelf)
        if header.ancestors is not None:
            reach[shelf] = header.ancestors.last_sequence, 0 if is_sure or is_doubtful else row_id
    dropped = [row_id for row_id, by in zip(gone, by_whom, strict=True) if by not in refuted]
    return dropped + sorted(refuted), bool(refuted)
