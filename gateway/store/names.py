"""The names of series once more, in a file apart from the database: how it is laid out, and reading it.

Both tables of the database lie side by side on the disk, and one bad block takes rows of both. So each name is in a
file of its own as well, `tidegate.series`: records, one after the other.

    2 bytes  marker
    1        kind: 0 header, 1 name, 2 forgotten, 3 anchor
    4        length of the body
    8        number: version of the format, number of the series twice, sequence of a segment
    4        CRC-32 of all of the record but this
    ...      body: id of the database, name as in the tables, nothing, hash of that segment

All numbers are little endian. What is damaged is passed over up to the next record that is whole. The file is believed
where its id is the one in the state row; where no state row is left, where an anchor is a segment that is there. Never
where it calls a series otherwise than the tables do, nor where an anchor is another segment than the one that is there:
two copies of a state directory that have gone their own ways have one id, and other names under one number. Must not
write: that is store/naming's.
"""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.store.accounts import NAMES_ID_BYTES, SERIES_MAX
from gateway.store.series import decode_series, encode_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gateway.core.batch import Series
    from gateway.store.accounts import State

NAMES: Final = "tidegate.series"
VERSION: Final = 1
MARKER: Final = b"\xf5N"
HEADER, NAME, FORGOTTEN, ANCHOR, DAMAGED = range(5)
_HEAD: Final = struct.Struct("<2sBIQ")
HEAD_BYTES: Final = _HEAD.size + 4
# A name that is longer stands in the tables alone. The file is at most twice as long as what series may take, and some.
BODY_BYTES_MAX: Final = 64 << 10
FILE_BYTES_MAX: Final = 128 << 20
CHUNK_BYTES: Final = 64 << 10
# What a bad block is read in, so that only that is lost.
BLOCK_BYTES: Final = 4096
# A gateway that runs writes a name a moment after the commit that brought it.
LOOKS: Final = 3
LOOK_S: Final = 0.05
# So many of the newest anchors are held against the shelf, if names are needed.
ANCHORS_MAX: Final = 1024
# Of a file where so often no record is where one seems to begin the rest is not read: it may be made to take long.
TRIES_MAX: Final = 4096


class Record(NamedTuple):
    """One record; of a DAMAGED one only that it is."""

    kind: int
    number: int
    body: bytes


def encode_record(kind: int, number: int, body: bytes = b"") -> bytes:
    """Return the bytes of one record."""
    head = _HEAD.pack(MARKER, kind, len(body), number)
    return head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + body


def records_in(read: Callable[[int], bytes]) -> Iterator[Record]:
    """Return the records of a file of which `read` returns what stands at an offset, nothing at its end.

    >>> data = encode_record(NAME, 1, b"one") + b"???" + encode_record(FORGOTTEN, 2)
    >>> [(record.kind == DAMAGED, record.number) for record in records_in(lambda offset: data[offset:])]
    [(False, 1), (True, 0), (False, 2)]
    """
    data, start, offset, tries = b"", 0, 0, 0
    is_lost = is_end = False
    while tries <= TRIES_MAX:
        record, size = _record_at(data, start)
        if record is None and size and not is_end:
            chunk = read(offset) if offset < FILE_BYTES_MAX else b""
            data, start, offset, is_end = data[start:] + chunk, 0, offset + len(chunk), not chunk
        elif record is not None:
            start, is_lost = start + size, False
            yield record
        elif start >= len(data):
            return
        else:
            tries += 1
            if not is_lost:
                is_lost = True
                yield Record(DAMAGED, 0, b"")
            at = data.find(MARKER, start + 1)
            # Half a marker may stand at the end of what was read.
            start = at if at >= 0 else max(start + 1, len(data) - (not is_end))


def _record_at(data: bytes, start: int) -> tuple[Record | None, int]:
    """Return the record that begins there and how long it is; None and 0 where there is none, None and 1 for more."""
    if len(data) - start < HEAD_BYTES:
        return None, int(data[start : start + 2] in {MARKER, MARKER[:1], b""})
    marker, kind, length, number = _HEAD.unpack_from(data, start)
    if marker != MARKER or kind >= DAMAGED or length > BODY_BYTES_MAX:
        return None, 0
    end = start + HEAD_BYTES + length
    if end > len(data):
        return None, 1
    head = zlib.crc32(data[start : start + _HEAD.size])
    body = data[start + HEAD_BYTES : end]
    if zlib.crc32(body, head).to_bytes(4, "little") != data[start + _HEAD.size : start + HEAD_BYTES]:
        return None, 0
    return Record(kind, number, body), end - start


def read_records(state_dir: Path) -> Iterator[Record]:
    """Return the records of the file in a state directory; none where there is none, or where it cannot be opened."""
    try:
        file = os.open(state_dir / NAMES, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode):
            yield from records_in(lambda offset: _read(file, offset, status.st_size))
    finally:
        os.close(file)


def _read(file: int, offset: int, size: int) -> bytes:
    if offset >= size:
        return b""
    try:
        return os.pread(file, CHUNK_BYTES, offset)
    except OSError:
        # A bad block: what is around it may be read.
        count = BLOCK_BYTES - offset % BLOCK_BYTES
        try:
            return os.pread(file, count, offset)
        except OSError:
            return bytes(min(count, size - offset))


@dataclass(slots=True)
class Comparison:
    """What the file says beside the tables."""

    id: bytes = b""  # as the state row is to have it
    is_theirs: bool = False  # whether it is the file of these tables
    damaged: int = 0
    size_bytes: int = 0
    missing: list[int] = field(default_factory=list)  # numbers that the tables have and the file has not
    forgotten: int = 0  # those of them that it has, as forgotten
    found: dict[int, bytes] = field(default_factory=dict)  # names that only the file has
    next_number: int = 1  # higher than all in it
    anchored: int = 0  # the last segment that it knows
    has_to_be_written: bool = False

    def note(self) -> str:
        """Say what is wrong with the file, "" if nothing is."""
        then = "nothing is lost by that, the next start mends it"
        if not self.size_bytes and not self.is_theirs:
            return f"{NAMES}, the copy of the series' names, is missing or cannot be read; {then}"
        if not self.is_theirs:
            return f"{NAMES}, the copy of the series' names, is that of another database; {then}"
        if self.damaged:
            return f"{NAMES}, the copy of the series' names, is damaged in {self.damaged} places; {then}"
        if self.found:
            return f"{len(self.found)} of the series' names are only left in {NAMES}; {then}"
        # A gateway that runs may have forgotten some since the tables were read, and says so here at once.
        if lacking := len(self.missing) - self.forgotten:
            return f"{NAMES}, the copy of the series' names, lacks {lacking} of them; {then}"
        return ""


def compare(state_dir: Path, known: Sequence[tuple[int, bytes]], *, names_id: bytes, before: int) -> Comparison:
    """Compare the file with what the tables have, in order of number; of what they lack, numbers below `before`."""
    result = Comparison(names_id)
    seen = bytearray(len(known))
    for at, record in enumerate(read_records(state_dir)):
        result.size_bytes += HEAD_BYTES + len(record.body)
        if at == 0:
            result.is_theirs = names_id != b"" and is_header(record) and record.body == names_id
            if not result.is_theirs:
                return result
        elif record.kind == DAMAGED:
            result.damaged += 1
        elif record.kind == ANCHOR:
            result.anchored = record.number
        elif not 0 < record.number < SERIES_MAX:
            result.damaged += 1
        elif not _look(record, known, seen, result, before=before):
            result.is_theirs = False
            result.found.clear()
            result.next_number = 1
            return result
    missing = [(number, was) for (number, body), was in zip(known, seen, strict=True) if was != NAME and may_have(body)]
    result.missing = [number for number, _ in missing]
    result.forgotten = sum(was == FORGOTTEN for _, was in missing)
    return result


def _look(
    record: Record, known: Sequence[tuple[int, bytes]], seen: bytearray, result: Comparison, *, before: int
) -> bool:
    """Look at one series; return whether that may be of these tables."""
    number = record.number
    result.next_number = max(result.next_number, number + 1)
    place = bisect_left(known, number, key=itemgetter(0))
    is_known = place < len(known) and known[place][0] == number
    if is_known:
        # An older copy of the database may have what was forgotten since.
        seen[place] = record.kind
        return record.kind != NAME or known[place][1] == record.body
    if record.kind == FORGOTTEN:
        result.found.pop(number, None)
    elif number < before:
        result.found[number] = record.body
    return True


def is_header(record: Record) -> bool:
    """Whether a record may be the first of a file."""
    return record.kind == HEADER and record.number == VERSION and len(record.body) == NAMES_ID_BYTES


def may_have(body: bytes) -> bool:
    """Whether the file has such a name."""
    return len(body) <= BODY_BYTES_MAX


def as_now(body: bytes) -> bytes:
    """Return a name as this version writes it, nothing for what is none."""
    try:
        return encode_series(decode_series(body))
    except ValueError:
        return b""


def names_beside(
    state_dir: Path,
    *,
    names_id: bytes,
    body_of: Callable[[int], bytes | None],
    is_there: Callable[[int, bytes], bool],
) -> Iterator[tuple[int, bytes]]:
    """Return number and body of the names that the tables lack, of a file that is theirs.

    `body_of` is what the tables say of a number. Where no id is known, `is_there` says whether a segment with a
    sequence and a hash is, or is known to one that is.
    """
    forgotten: set[int] = set()
    is_theirs = False
    for at, record in enumerate(read_records(state_dir)):
        if at == 0:
            if not is_header(record) or (names_id and record.body != names_id):
                return
            is_theirs = names_id != b""
        elif record.kind == ANCHOR:
            is_theirs = is_theirs or (record.number > 0 and is_there(record.number, record.body))
        elif record.kind == FORGOTTEN:
            forgotten.add(record.number)
        elif record.kind == NAME:
            forgotten.discard(record.number)
            if not _is_same(body_of(record.number), record.body):
                return
    if not is_theirs:
        return
    for record in read_records(state_dir):
        number = record.number
        is_one = record.kind == NAME and 0 < number < SERIES_MAX and number not in forgotten
        if is_one and body_of(number) is None and as_now(record.body):
            yield number, record.body


def _is_same(known: bytes | None, body: bytes) -> bool:
    return known is None or known == body or as_now(known) == as_now(body)


def newest_anchors(state_dir: Path) -> list[tuple[int, bytes]]:
    """Return sequence and hash of the last segments that the file knows, the newest first."""
    anchors = (record for record in read_records(state_dir) if record.kind == ANCHOR)
    return [(anchor.number, anchor.body) for anchor in reversed(deque(anchors, ANCHORS_MAX))]


def is_of_another_branch(state_dir: Path, hash_of: Callable[[int], bytes | None]) -> bool:
    """Whether the last segment that both the file and the shelf know is not the same; for a file with the right id.

    `hash_of` returns the hash of a segment, None where that is not known.
    """
    known = ((hash_of(number), own_hash) for number, own_hash in newest_anchors(state_dir))
    return next((there != own_hash for there, own_hash in known if there is not None), False)


def spare_names(
    state_dir: Path, known: Sequence[tuple[int, bytes]], state: State, *, hash_of: Callable[[int], bytes | None]
) -> dict[int, Series]:
    """Return the series that only the file has, for who looks from outside; `known` is what the tables have."""
    rows = dict(known)
    if not state.names_id:
        return {}
    names = names_beside(state_dir, names_id=state.names_id, body_of=rows.get, is_there=lambda *_: False)
    found = {number: decode_series(body) for number, body in names if number not in rows and number < state.series_next}
    return {} if found and is_of_another_branch(state_dir, hash_of) else found


def note_on(state_dir: Path, known: Sequence[tuple[int, bytes]], state: State) -> str:
    """Say what is wrong with the file, "" if nothing is, or if there is to be none yet; for who looks from outside."""
    note = ""
    for look in range(LOOKS if state.names_id else 0):
        if look:
            time.sleep(LOOK_S)
        note = compare(state_dir, known, names_id=state.names_id, before=state.series_next).note()
        if not note:
            break
    return note
