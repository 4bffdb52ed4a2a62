"""Looks into single tables of a shelf that may be in use, without a copy of it. Must not write or lock anything.

What `verify` and `export` read is the whole shelf, for which a copy is made first (store/snapshots.py). A few rows are
not worth that: their pages are read by hand, each from the log where the log has it, else from the file. Then the log
is read again. Where it grew meanwhile, a checkpoint may have changed pages of the file that were read before or after
it; all of those are in the longer log, so once more through it, with the pages that were read, is as of one moment.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from gateway.core.clock import BootTimes, Timeline
from gateway.core.contracts import BootId
from gateway.store.accounts import DamagedStateError, State, decode_state
from gateway.store.connection import APPLICATION_ID, DATABASE, PAGE_BYTES
from gateway.store.files import check_file
from gateway.store.lineage import known_hash
from gateway.store.names import spare_names
from gateway.store.opening import decode_boot
from gateway.store.pagefile import read_log_bytes
from gateway.store.pages import HEADER_BYTES, LOG_HEADER_BYTES, TABLE_LEAF, children_of, read_log, rows_of
from gateway.store.records import STATE_ID, Quarantined, SetAside, StoreError
from gateway.store.segments import decode, read_header
from gateway.store.series import decode_series, lost_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
    from gateway.store.pages import Value

_T = TypeVar("_T")

ATTEMPTS_MAX: Final = 20
# SQLite's trees are not deeper than this, whatever they hold.
DEPTH_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Refused:
    """A segment that an uplink refused for good. `at_ns` is Unix time, 0: no clock then."""

    at_ns: int
    uplink: str
    reason: str
    message: str
    readings: int
    body: bytes

    def open(self) -> tuple[Batch | LogRecords | ResourceRecords, BootId]:
        """Return what it holds and in which boot it was made; raise SegmentError."""
        return decode(self.body), read_header(self.body).boot


class Tables:
    """The tables of a database, pages of the log before those of the file. Damaged rows are left out."""

    def __init__(self, file: int, log: bytes, pages: dict[int, bytes], *, state_dir: Path) -> None:
        self.has_read = False
        self._state_dir = state_dir
        self._spare: dict[int, Series] | None = None
        self._file = file
        self._log = read_log(log, page_bytes=PAGE_BYTES)
        self._pages = pages
        self._roots: dict[str, int] = {}
        head = self.page(1) or b""
        self._check(head)
        for _, values in self._rows(1, newest_first=False):
            kind, name, _, root, *_ = (*values, None, None, None, None)
            if kind == "table" and isinstance(name, str) and isinstance(root, int):
                self._roots[name] = root

    @staticmethod
    def _check(head: bytes) -> None:
        if len(head) < HEADER_BYTES or int.from_bytes(head[68:72], "big") != APPLICATION_ID:
            raise StoreError(f"{DATABASE} is not a store that this version of tidegate knows")

    def page(self, number: int) -> bytes | None:
        """Return a page, None where there is none."""
        place = self._log.newest.get(number)
        if place is not None:
            return self._log.page(place)
        if number not in self._pages:
            self.has_read = True
            data = os.pread(self._file, PAGE_BYTES, (number - 1) * PAGE_BYTES) if number > 0 else b""
            if len(data) < PAGE_BYTES:
                return None
            self._pages[number] = data
        return self._pages[number]

    def rows(self, table: str, *, newest_first: bool = False) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Return (id, values) of every row, the values without the id; by id, or from the highest down."""
        for row_id, values in self._rows(self._roots.get(table, 0), newest_first=newest_first):
            yield row_id, values[1:]

    def count(self, table: str) -> int:
        """Return how many rows there are."""
        pages = self._leaves(self._roots.get(table, 0), set(), newest_first=False)
        return sum(int.from_bytes(page[3:5], "big") for _, page in pages)

    def row(self, table: str, row_id: int) -> tuple[Value, ...] | None:
        """Return the values of one row, None where there is no such row."""
        number = self._roots.get(table, 0)
        for _ in range(DEPTH_MAX):
            page = self.page(number)
            if page is None:
                return None
            children = children_of(page, number)
            if not children:
                found = (values[1:] for known, values in rows_of(page, number, self.page) if known == row_id)
                return next(found, None)
            number = next(child for child, last in children if last is None or row_id <= last)
        return None

    def _rows(self, root: int, *, newest_first: bool) -> Iterator[tuple[int, tuple[Value, ...]]]:
        for number, page in self._leaves(root, set(), newest_first=newest_first):
            rows = rows_of(page, number, self.page)
            yield from reversed(list(rows)) if newest_first else rows

    def _leaves(self, number: int, seen: set[int], *, newest_first: bool) -> Iterator[tuple[int, bytes]]:
        """Return number and content of each leaf; a damaged tree that leads back to itself ends there."""
        page = self.page(number)
        if page is None or number in seen:
            return
        seen.add(number)
        if page[HEADER_BYTES if number == 1 else 0] == TABLE_LEAF:
            yield number, page
        children = children_of(page, number)
        for child, _ in reversed(children) if newest_first else children:
            yield from self._leaves(child, seen, newest_first=newest_first)

    def series(self, number: int) -> Series:
        """Return the series that has `number`, or what stands for one that was lost."""
        for table in ("series", "series_copy"):
            values = self.row(table, number)
            with contextlib.suppress(ValueError):
                if values and isinstance(values[0], bytes):
                    return decode_series(values[0])
        if self._spare is None:
            hash_of = partial(known_hash, self._body_at)
            self._spare = spare_names(self._state_dir, [], self._state(), hash_of=hash_of)
        return self._spare.get(number) or lost_series(number)

    def _body_at(self, row_id: int) -> object:
        values = self.row("shelf", row_id)
        return values[-1] if values else None

    def _state(self) -> State:
        values = self.row("shelf", STATE_ID)
        with contextlib.suppress(DamagedStateError):
            return decode_state(values[-1]) if values else State()
        return State()

    def timeline(self) -> Timeline:
        """Return what is known of the boots' clocks."""
        state = self._state()
        current = BootId(state.boot)
        boots: list[BootTimes] = []
        for number, row in self.rows("boots"):
            match row:
                case str(uuid), bytes(body):
                    with contextlib.suppress(msgspec.DecodeError):
                        boots.append(decode_boot(number, uuid, body, state=state))
        if all(times.boot != current for times in boots):
            boots.append(BootTimes(current, ""))
        return Timeline(boots, current=current)


def peek(state_dir: Path, look: Callable[[Tables], _T]) -> _T:
    """Return what `look` makes of the tables, as of one moment; it may be called more than once. Raise StoreError."""
    path = state_dir / DATABASE
    for name in (DATABASE, f"{DATABASE}-wal"):
        check_file(state_dir / name)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _peek(path, file, look)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(file)


def _peek(path: Path, file: int, look: Callable[[Tables], _T]) -> _T:
    pages: dict[int, bytes] = {}
    before, written_ns = read_log_bytes(path), os.fstat(file).st_mtime_ns
    for _ in range(ATTEMPTS_MAX):
        tables = Tables(file, before, pages, state_dir=path.parent)
        found = look(tables)
        if not tables.has_read:
            return found
        after = read_log_bytes(path)
        # No log before and after says little: a gateway may have been started and stopped in between.
        was_written = not after and written_ns != (written_ns := os.fstat(file).st_mtime_ns)
        if after == before and not was_written:
            return found
        if after[:LOG_HEADER_BYTES] != before[:LOG_HEADER_BYTES] or was_written:
            # The log began anew: what was in it is in the file now, and was not when we looked.
            pages.clear()
        before = after
    raise StoreError(f"{path} changes faster than it can be read; try again later")


def newest_quarantined(tables: Tables, *, limit: int) -> list[tuple[int, Quarantined]]:
    """Return up to `limit` payloads of which not all could be used, each with its number, the newest first."""
    rows = ((number, _quarantined(values)) for number, values in tables.rows("quarantine", newest_first=True))
    return list(itertools.islice(((number, row) for number, row in rows if row is not None), limit))


def one_quarantined(tables: Tables, number: int) -> Quarantined | None:
    """Return the payload with this number, None where there is none (any more)."""
    return _quarantined(tables.row("quarantine", number) or ())


def newest_refused(tables: Tables, *, limit: int) -> list[tuple[int, Refused]]:
    """Return up to `limit` segments that an uplink refused for good, each with its number, the newest first."""
    rows = ((number, _refused(values)) for number, values in tables.rows("refused", newest_first=True))
    return list(itertools.islice(((number, row) for number, row in rows if row is not None), limit))


def _quarantined(values: tuple[Value, ...]) -> Quarantined | None:
    match values:
        case int(at_ns), str(source), str(reason), str(message), bytes(topic), bytes(payload):
            return Quarantined(at_ns, SetAside(source, topic, payload, reason, message))
    return None


def _refused(values: tuple[Value, ...]) -> Refused | None:
    match values:
        case int(at_ns), str(uplink), str(reason), str(message), int(readings), bytes(body):
            return Refused(at_ns, uplink, reason, message, readings, body)
    return None
