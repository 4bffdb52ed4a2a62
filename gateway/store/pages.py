"""SQLite's file format, read by hand: pages, rows and log frames of a file that SQLite itself gives up on. Does no I/O.

Sources: sqlite.org/fileformat2.html, sections 1.3 (header), 1.5 (freelist), 1.6 (b-tree pages), 2.1 (records), 4
(the write-ahead log). Nothing that is read is believed: whatever does not fit is left out, never an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

Value: TypeAlias = "int | float | str | bytes | None"
GetPage: TypeAlias = "Callable[[int], bytes | None]"

HEADER_BYTES: Final = 100
TABLE_LEAF: Final = 0x0D
TABLE_INTERIOR: Final = 0x05
# A tree of the largest possible file, with two children a page, would not be deeper.
DEPTH_MAX: Final = 32
LOG_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
LOG_MAGIC: Final = 0x377F0682  # the last bit says that checksums are of big-endian words
PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 17))
COLUMNS_MAX: Final = 32
VALUE_BYTES_MAX: Final = 64 << 20
# More than a record's header and eight numbers take.
HEAD_BYTES_MAX: Final = 128
ROW_ID_MIN: Final = -(1 << 63)
ROW_ID_MAX: Final = (1 << 63) - 1


class TreeError(ValueError):
    """These pages are no table."""


def leaves_of(get_page: GetPage, root: int, *, first: int = ROW_ID_MIN, last: int = ROW_ID_MAX) -> Iterator[int]:
    """Return the numbers of a table's leaf pages, by rising row id, that may hold rows from `first` to `last`.

    Raises TreeError where these pages are no tree.
    """
    seen: set[int] = set()
    waiting = [(root, 0)]
    while waiting:
        number, depth = waiting.pop()
        page = get_page(number)
        start = HEADER_BYTES if number == 1 else 0
        if page is None or len(page) < start + 12:
            raise TreeError(f"page {number} is missing")
        if page[start] == TABLE_LEAF:
            yield number
            continue
        if page[start] != TABLE_INTERIOR or number in seen or depth == DEPTH_MAX:
            raise TreeError(f"page {number} does not belong to a table")
        # Each page that leads on is visited once: so the walk ends, whatever the pages say.
        seen.add(number)
        inside: list[int] = []
        before = ROW_ID_MIN
        for child, highest in children_of(page, number):
            if before <= last and (highest is None or highest >= first):
                inside.append(child)
            before = ROW_ID_MIN if highest is None else highest + 1
        waiting += [(child, depth + 1) for child in reversed(inside)]


class Head(NamedTuple):
    """A row without its last value, of which only the size is known, and where on its page the row stands."""

    row_id: int
    values: tuple[Value, ...]
    last_bytes: int
    offset: int


def heads_of(page: bytes, get_page: GetPage) -> Iterator[Head]:
    """Return the head of each whole row of a table's leaf page; nothing for any other page (or the first)."""
    for offset in _cells(page, 0):
        payload, row_id, _ = _payload(page, offset, get_page, bytes_max=HEAD_BYTES_MAX)
        head = None if payload is None else _read_record(payload, without_last=True)
        if head is not None:
            yield Head(row_id, head[0], head[1], offset)


def last_value(page: bytes, offset: int, get_page: GetPage) -> Value:
    """Return the last value of the row that stands at `offset` of a leaf page, None where it cannot be read."""
    row = _read_cell(page, offset, get_page)
    return row[1][-1] if row is not None and row[1] else None


def rows_of(page: bytes, number: int, get_page: GetPage) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """Return (row id, values) of each whole row of a table's leaf page; nothing for any other page."""
    for offset in _cells(page, HEADER_BYTES if number == 1 else 0):
        row = _read_cell(page, offset, get_page)
        if row is not None:
            yield row


def _cells(page: bytes, start: int) -> Iterator[int]:
    """Return where the rows of a leaf page begin; `start` is where the page's own header stands."""
    if len(page) < start + 8 or page[start] != TABLE_LEAF:
        return
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    for cell in range(min(cells, len(page) // 4)):
        at = start + 8 + 2 * cell
        offset = int.from_bytes(page[at : at + 2], "big")
        if start + 8 <= offset < len(page):
            yield offset


def children_of(page: bytes, number: int) -> list[tuple[int, int | None]]:
    """Return the children of a table's interior page in order, each with the last row id in it; none of any other page.

    Nobody says what the last one ends with: None.
    """
    start = HEADER_BYTES if number == 1 else 0
    if len(page) < start + 12 or page[start] != TABLE_INTERIOR:
        return []
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    children: list[tuple[int, int | None]] = []
    for cell in range(min(cells, len(page) // 4)):
        at = start + 12 + 2 * cell
        offset = int.from_bytes(page[at : at + 2], "big")
        if start + 12 <= offset < len(page) - 4:
            last, _ = _varint(page, offset + 4)
            children.append((int.from_bytes(page[offset : offset + 4], "big"), _signed(last)))
    return [*children, (int.from_bytes(page[start + 8 : start + 12], "big"), None)]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _read_cell(page: bytes, offset: int, get_page: GetPage) -> tuple[int, tuple[Value, ...]] | None:
    payload, row_id, is_whole = _payload(page, offset, get_page, bytes_max=VALUE_BYTES_MAX)
    record = _read_record(payload) if payload is not None and is_whole else None
    return None if record is None else (row_id, record[0])


def _payload(page: bytes, offset: int, get_page: GetPage, *, bytes_max: int) -> tuple[bytes | None, int, bool]:
    """Return up to about `bytes_max` of a row's record, None if they are not there; its id; whether that is all."""
    payload_bytes, offset = _varint(page, offset)
    row_id, offset = _varint(page, offset)
    row_id = _signed(row_id)
    if not 0 < payload_bytes <= VALUE_BYTES_MAX:
        return None, row_id, False
    local = _local_bytes(payload_bytes, len(page))
    payload = page[offset : offset + local]
    if len(payload) < local:
        return None, row_id, False
    wanted = min(payload_bytes, bytes_max)
    if local < wanted:
        rest = _overflow(page[offset + local : offset + local + 4], wanted - local, get_page)
        if rest is None:
            return None, row_id, False
        payload += rest
    return payload, row_id, wanted == payload_bytes


def _local_bytes(payload_bytes: int, page_bytes: int) -> int:
    """Return how much of a payload stands on the leaf page itself (section 1.6)."""
    most = page_bytes - 35
    if payload_bytes <= most:
        return payload_bytes
    least = (page_bytes - 12) * 32 // 255 - 23
    wanted = least + (payload_bytes - least) % (page_bytes - 4)
    return wanted if wanted <= most else least


def _overflow(pointer: bytes, wanted: int, get_page: GetPage) -> bytes | None:
    parts: list[bytes] = []
    while wanted > 0:
        page = get_page(int.from_bytes(pointer, "big"))
        if page is None:
            return None
        # A chain that runs in a circle ends here too: each page takes from `wanted`.
        part = page[4 : 4 + wanted]
        parts.append(part)
        wanted -= len(part)
        pointer = page[:4]
    return b"".join(parts)


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(data[offset : offset + 9], start=1):
        if count == 9:
            return (value << 8) | byte, offset + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, offset + count
    return 0, len(data)


def _read_record(payload: bytes, *, without_last: bool = False) -> tuple[tuple[Value, ...], int] | None:
    """Return the values of a record and the size of the last, with `without_last` all values but that one."""
    head_bytes, at = _varint(payload, 0)
    if not at <= head_bytes <= len(payload):
        return None
    values: list[Value] = []
    offset = head_bytes
    size = 0
    while at < head_bytes:
        kind, at = _varint(payload, at)
        size = _sizes[kind] if kind < len(_sizes) else (kind - 12) // 2
        if without_last and at >= head_bytes:
            break
        part = payload[offset : offset + size]
        if len(part) < size or len(values) == COLUMNS_MAX:
            return None
        values.append(_value(kind, part))
        offset += size
    return tuple(values), size


_sizes: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)


def _value(kind: int, part: bytes) -> Value:
    if kind >= 12:
        return part.decode("utf-8", "replace") if kind % 2 else part
    if kind == 7:
        (number,) = struct.unpack(">d", part)
        return float(number)
    if kind in {8, 9}:
        return kind - 8
    return int.from_bytes(part, "big", signed=True) if part else None


# Checked together: enough for numpy, and little memory.
FRAMES_AT_ONCE: Final = 1024
# One transaction behind a break may have been under way when the power went; of two, the first was synced.
COMMITS_BEHIND_BREAK_MIN: Final = 2
# A log that has begun anew so often is not the same one.
GENERATIONS_MAX: Final = 1 << 24


@dataclass(slots=True)
class Log:
    """What a write-ahead log says: the newest version of each page, and whether SQLite would read all of it.

    `frames` lists page and place in `data` of every frame that is whole, in order, later generations of the
    same page included; `newest` those of committed transactions. `is_broken` is true where SQLite would stop
    reading before the last commit that is there. Of the damaged frames before that, `broken` has for each page the
    place of the last, where none that is whole is newer, and `unknown` counts those that may be any page's. `has_rest`
    tells that something was begun behind it, or hurt that was not. `loose` has what page each says to be that belongs
    nowhere, by its place.
    """

    data: bytes
    page_bytes: int
    frames: list[tuple[int, int]] = field(default_factory=list)
    newest: dict[int, int] = field(default_factory=dict)
    is_broken: bool = False
    broken: dict[int, int] = field(default_factory=dict)
    unknown: int = 0
    loose: dict[int, int] = field(default_factory=dict)
    has_rest: bool = False

    def page(self, offset: int) -> bytes:
        """Return the page at a place that `frames` or `newest` gives."""
        return self.data[offset : offset + self.page_bytes]

    def place(self, index: int) -> int:
        """Return where the page of a frame is; its header stands before that."""
        return LOG_HEADER_BYTES + index * (FRAME_HEADER_BYTES + self.page_bytes) + FRAME_HEADER_BYTES

    def is_end(self, offset: int) -> bool:
        """Whether the frame of the page at `offset` is the last of a transaction (section 4.1)."""
        head = offset - FRAME_HEADER_BYTES
        return any(self.data[head + 4 : head + 8])

    def has_holes(self, until: int) -> bool:
        """Whether something before the offset `until`, all of which was written once, is zeros or not there."""
        count = max(until - LOG_HEADER_BYTES, 0) // (FRAME_HEADER_BYTES + self.page_bytes)
        if len(self.data) < until or not any(self.data[:LOG_HEADER_BYTES]):
            return True
        # A frame begins with the number of its page, and there is no page 0.
        frames = np.frombuffer(self.data, np.uint8, count * (FRAME_HEADER_BYTES + self.page_bytes), LOG_HEADER_BYTES)
        return not frames.reshape(count, FRAME_HEADER_BYTES + self.page_bytes)[:, :4].any(axis=1).all()


def read_log(data: bytes, *, page_bytes: int) -> Log:
    """Read a log. Frames of an earlier generation, which carry another salt, are left out.

    `page_bytes` holds where the log's own header does not say it.
    """
    head_is_good = _is_log_head(data[:LOG_HEADER_BYTES])
    if head_is_good:
        page_bytes = int.from_bytes(data[8:12], "big")
    log = Log(data, page_bytes)
    frame_bytes = FRAME_HEADER_BYTES + page_bytes
    count = (len(data) - LOG_HEADER_BYTES) // frame_bytes
    if count < 1:
        log.is_broken = 0 < len(data) < LOG_HEADER_BYTES and any(data)
        return log
    raw = np.frombuffer(data, np.uint8, count * frame_bytes, LOG_HEADER_BYTES).reshape(count, frame_bytes)
    heads = np.ascontiguousarray(raw[:, :FRAME_HEADER_BYTES]).view(">u4").astype(np.uint32)
    head = np.frombuffer(data, ">u4", LOG_HEADER_BYTES // 4).astype(np.uint32)
    big = head_is_good and bool(head[0] & 1)
    # Each frame's checksum goes on from the one before: where one is damaged, the next is checked against what
    # the damaged one says that its own is.
    seeds = np.concatenate([head[6:8].reshape(1, 2), heads[:-1, 4:6]])
    whole = np.zeros(count, bool)
    for start in range(0, count, FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        content = np.concatenate([raw[part, :8], raw[part, FRAME_HEADER_BYTES:]], axis=1)
        whole[part] = (_checksums(content, seeds[part], big=big) == heads[part, 4:6]).all(axis=1)
    follows = whole.copy()
    # Those of the log stand before what is left of earlier ones.
    salts = head[4:6] if head_is_good else heads[int(whole.argmax()), 2:4]
    is_ours = (heads[:, 2:4] == salts).all(axis=1)
    whole &= is_ours
    if not head_is_good and whole.any():
        # The first frame's seed went with the header; the others say that this is a log.
        whole[0] = is_ours[0]
    commits = np.flatnonzero(whole & (heads[:, 1] != 0))
    breaks = np.flatnonzero(~whole)
    if head_is_good and len(breaks) and _ends_behind(heads, salts, commits, int(breaks[0])) < COMMITS_BEHIND_BREAK_MIN:
        # Each transaction is synced before the next begins: one alone behind the break was never finished.
        commits = commits[commits < breaks[0]]
    last = int(commits[-1]) + 1 if len(commits) else 0
    # A log that has bytes and nothing to read in it was overwritten; zeros are a file that was never synced.
    log.is_broken = not (head_is_good and whole[:last].all()) if last else not head_is_good and bool(raw.any())
    for index in np.flatnonzero(whole).tolist():
        place = log.place(index)
        number = int(heads[index, 0])
        log.frames.append((number, place))
        if index < last:
            log.newest[number] = place
    if not (head_is_good or whole[0]):
        # Nothing says whose the first frames are: what was read may be what is left of an earlier log.
        log.has_rest = True
    _sort_out(log, heads, salts, whole, follows, last)
    return log


def _sort_out(
    log: Log,
    heads: npt.NDArray[np.uint32],
    salts: npt.NDArray[np.uint32],
    whole: npt.NDArray[np.bool_],
    follows: npt.NDArray[np.bool_],
    last: int,
) -> None:
    """Take note of the frames that are damaged, or come behind the `last` commit, and of no earlier generation.

    Those carry a first salt that is a little lower, and each that `follows` goes on from the one before.
    """
    is_earlier = salts[0] - heads[:, 2] - np.uint32(1) < GENERATIONS_MAX
    is_earlier[1:] &= follows[1:] | (heads[1:, 2:4] != heads[:-1, 2:4]).any(axis=1)
    is_odd = ~is_earlier & ~(whole & (np.arange(len(heads)) < last))
    log.has_rest |= bool(is_odd[last:].any())
    # One that says of itself what another says is a copy of that, or that of it where neither can be checked.
    sums = (heads[:, 4].astype(np.uint64) << np.uint64(32)) | heads[:, 5]
    _, where = np.unique(sums, return_inverse=True)
    taken = np.bincount(where, weights=whole) > 0
    first: dict[int, int] = {}
    for index in np.flatnonzero(is_odd).tolist():
        place = log.place(index)
        content = hash(log.data[place - FRAME_HEADER_BYTES : place + log.page_bytes])
        taken[where[index]] |= first.setdefault(int(where[index]), content) != content
    is_ours = (heads[:, 2:4] == salts).all(axis=1)
    log.unknown = int((is_earlier & ~whole)[:last].sum())
    for index in np.flatnonzero(is_odd).tolist():
        place = log.place(index)
        number = int(heads[index, 0])
        if index >= last:
            log.loose[place] = number
        elif not (is_ours[index] and not taken[where[index]] and _fits_between(heads, whole, index)):
            log.unknown += 1
            log.loose[place] = number
        else:
            taken[where[index]] = True
            if log.newest.get(number, -1) < place:
                log.broken[number] = place


def _is_log_head(head: bytes) -> bool:
    """Whether a log's own header is whole (section 4.1)."""
    words = np.frombuffer(head, ">u4").astype(np.uint32) if len(head) == LOG_HEADER_BYTES else np.zeros(8, np.uint32)
    content = np.frombuffer(head[:24].ljust(24, b"\0"), np.uint8).reshape(1, 24)
    sums = _checksums(content, np.zeros((1, 2), np.uint32), big=bool(words[0] & 1))
    is_log = int(words[0]) | 1 == LOG_MAGIC | 1 and int(words[2]) in PAGE_SIZES
    return is_log and sums.tolist() == [words[6:8].tolist()]


def _fits_between(heads: npt.NDArray[np.uint32], whole: npt.NDArray[np.bool_], index: int) -> bool:
    """Whether a frame may be of the page that it says: in a transaction they come by rising number."""
    number = heads[index, 0]
    is_behind = not index or not whole[index - 1] or heads[index - 1, 1] != 0 or heads[index - 1, 0] < number
    is_before = not whole[index + 1] or heads[index, 1] != 0 or number < heads[index + 1, 0]
    return bool(number and is_behind and is_before)


def _ends_behind(
    heads: npt.NDArray[np.uint32], salts: npt.NDArray[np.uint32], commits: npt.NDArray[np.intp], first_break: int
) -> int:
    """Return how many transactions end at the first damaged frame or behind it; the damaged one may be such an end."""
    is_end = heads[first_break, 1] != 0 and bool((heads[first_break, 2:4] == salts).all())
    return int((commits > first_break).sum()) + is_end


def _checksums(content: npt.NDArray[np.uint8], seeds: npt.NDArray[np.uint32], *, big: bool) -> npt.NDArray[np.uint32]:
    """Return the two checksum words (section 4.2) of each row of `content` going on from `seeds`.

    The sums s0 += x + s1; s1 += x' + s0 are a Fibonacci sequence with the words added in: each word counts with
    the Fibonacci number of its distance from the end, modulo 2^32, so that all rows are summed at once.
    """
    words = np.ascontiguousarray(content).view(">u4" if big else "<u4").astype(np.uint32)
    count = words.shape[1]
    fibonacci = [0, 1]
    for _ in range(count + 1):
        fibonacci.append((fibonacci[-1] + fibonacci[-2]) & 0xFFFFFFFF)
    series = np.array(fibonacci, np.uint32)
    last = words @ series[count:0:-1] + seeds[:, 0] * series[count] + seeds[:, 1] * series[count + 1]
    before = words[:, :-1] @ series[count - 1 : 0 : -1] + seeds[:, 0] * series[count - 1] + seeds[:, 1] * series[count]
    return np.stack([before, last], axis=1)
