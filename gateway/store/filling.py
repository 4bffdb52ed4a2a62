"""Rows of a damaged database into a new one: those that are held for certain first, then those that only may be.

Rows are recognised by their shape, segments by their own checksums. A segment that may have been delivered and deleted
long ago is kept as well, as long as it may be one that is held and lost its place: it carries UNSURE in `done` until
the accounts are made. Must not count: that is store/reckoning's.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.store.accounts import BOOT_MAX, SERIES_MAX, State
from gateway.store.evidence import loss_after
from gateway.store.opening import decode_boot
from gateway.store.pagefile import state_in
from gateway.store.reckoning import DOUBTED_MAX, UNSURE, Known, is_all_there
from gateway.store.records import SEQUENCE_END, STATE_ID, place, where_from
from gateway.store.rivals import drop_rivals
from gateway.store.segments import SegmentError, check_link, read_header, segment_hash
from gateway.store.series import decode_series
from gateway.store.survey import SHELF, Ranges, Survey
from gateway.store.triage import Triage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.store.pagefile import PageFile
    from gateway.store.pages import Value

log = logging.getLogger("tidegate.store")

BATCH_ROWS: Final = 256
# More in one line of the ledger is no number of ours; all lines of all uplinks together stay within 63 bits.
READINGS_MAX: Final = 1 << 48

_KINDS: Final = {int: "i", str: "s", bytes: "b", type(None): "n"}
_SEGMENT: Final = "iiiiiiib"
_LEDGER: Final = "issiiiii"
_BOOT: Final = "isb"
_HELD: Final = "INSERT OR REPLACE INTO shelf VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_MAYBE_HELD: Final = "INSERT OR IGNORE INTO shelf VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_OTHER_TABLES: Final = {
    # Of two lines with one reason the first that is found is the one that a tree leads to.
    _LEDGER: "INSERT OR IGNORE INTO ledger SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8"
    " WHERE NOT EXISTS (SELECT 1 FROM ledger WHERE uplink = ?2 AND reason = ?3)",
    "iisssbb": "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)",
    "iisssib": "INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?, ?, ?, ?)",
}


class Filling:
    """Fills one new database, which has its tables.

    `reached` is the number of a commit that is known to have been, `room_bytes` how much the disk has left, where
    that may not be enough.
    """

    def __init__(
        self, connection: sqlite3.Connection, pages: PageFile, *, reached: int, room_bytes: int | None
    ) -> None:
        self.is_complete = True  # whether all that was readable found room on the disk
        self.damaged_segments = 0
        self.older_boots: dict[int, tuple[Value, ...]] = {}  # from pages that are outdated
        self._rewritten = (0, b"")  # the last number of those that were written anew, and the hash
        # What these took the place of, by origin: their first one's place is theirs, and what others made lies between.
        self._replaced: defaultdict[int, Ranges] = defaultdict(Ranges)
        self._connection = connection
        pages.leave_older_log()
        self._pages = pages
        self._reached = reached
        self._room_bytes = room_bytes
        self._survey = Survey(pages)
        self._gaps = self._survey.trees[SHELF].gaps  # of the table of segments: whose page is not there
        self._torn = Ranges()  # whose page has rows that cannot be read
        self._are_free_known = self._survey.is_free_known
        # Pages of which a newer version may be lost.
        self._doubtful = pages.log.unknown + self._survey.misfits + self._survey.copies()
        self._most_on_leaf = 0
        self._later = array("q")
        self._is_stopped = self._is_anywhere = False
        self._state: tuple[State, int] | None = None  # whose page is known to be in use, and that
        self._states: list[State] = []
        self._waiting: list[tuple[str, tuple[object, ...]]] = []

    def fill(self) -> Known:
        """Take all that is there and return what the accounts can go by; raise sqlite3.Error."""
        self._run(self._take_sure)
        if self._doubtful and self._replaced:
            self._run(self._drop_rivals)
        known = self._know()
        if not self._is_stopped and not is_all_there(self._connection, known):
            self._run(lambda: self._take_unsure(State() if known.state is None else known.state))
            if self._replaced:
                self._run(self._drop_rivals)
        return known

    def _run(self, take: Callable[[], None]) -> None:
        try:
            take()
            self._flush()
        except sqlite3.OperationalError as error:
            log.error("salvage stops: %s", error)  # noqa: TRY400  the sentence is enough
            self.is_complete, self._is_stopped = False, True
            # Some errors have ended the transaction already.
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("ROLLBACK")

    def _take_sure(self) -> None:
        self._take_small_tables()
        if self._doubtful or not self._survey.is_free_known:
            self._survey.forget_free()
        tree = self._survey.trees[SHELF]
        leaves: Iterable[tuple[int, int, int]] = tree.leaves()
        unseen: Iterable[int] = self._survey.unseen()
        if self._room_bytes is not None:
            unseen = array("q", unseen)
            triage = self._rank(self._room_bytes, tree.numbers, unseen)
            leaves = (tree.leaf(at) for at in triage.kept(tree.numbers))
            unseen = [unseen[at] for at in triage.kept(unseen)]
        for number, first, last in leaves:
            self._take_leaf(number, first, last)
        for number in unseen:
            self._take_unseen(number)

    def _drop_rivals(self) -> None:
        drop_rivals(self._connection, is_doubtful=bool(self._doubtful))

    def _rank(self, room_bytes: int, *parts: Iterable[int]) -> Triage:
        """Find out what goes first where the disk has not room for all."""
        triage = Triage()
        for numbers, is_sure in zip(parts, (True, False), strict=True):
            for number in numbers:
                triage.rank(number, self._pages.last(number) or b"", self._pages.last, is_sure=is_sure)
        self.is_complete = triage.choose(room_bytes)
        return triage

    # Page by page.

    def _take_small_tables(self) -> None:
        for name, tree in self._survey.trees.items():
            for number in tree.numbers if name != SHELF else ():
                for row_id, values in self._pages.rows_at(number):
                    self._take_small(_row_of(row_id, values))

    def _take_leaf(self, number: int, first: int, last: int) -> None:
        """Take the rows of a page of segments that the tree leads to; what is not of its range is another page's."""
        rows = int.from_bytes((self._pages.last(number) or b"")[3:5], "big")
        readings = 0
        has_strays = False
        for row_id, values in self._pages.rows_at(number):
            row = _row_of(row_id, values)
            if row_id == STATE_ID:
                rows -= self._take_state(row, number if first <= row_id <= last else None)
            elif self._is_segment(row):
                rows -= 1
                if first <= row_id <= last:
                    readings += _int(row[2])
                    self._add(_HELD, row)
                else:
                    self._torn.add(row_id, row_id)
                    has_strays = True
        self._most_on_leaf = max(self._most_on_leaf, readings)
        is_broken = number in self._pages.log.broken
        if rows or is_broken:
            self._torn.add(first, last)
        if has_strays:
            self._gaps.add(first, last)
            self._later.append(number)
            self._doubtful += is_broken

    def _take_unseen(self, number: int) -> None:
        """Take the rows of a page that nothing leads to, segments only where something that leads to one is gone."""
        has_segments = False
        is_known = self._survey.is_free_known and not self._doubtful
        for row_id, values in self._pages.rows_at(number):
            row = _row_of(row_id, values)
            if row_id == STATE_ID:
                self._take_state(row, number if is_known and row_id in self._gaps else None)
            elif not _is_like_segment(row):
                self._take_small(row)
            elif self._is_segment(row):
                has_segments = True
                if is_known and row_id in self._gaps:
                    self._add(_HELD, row)
        if has_segments:
            self._later.append(number)
            # Or it is another page's, and that page's last version is lost.
            self._doubtful += number in self._pages.log.broken

    def _take_unsure(self, state: State) -> None:
        """Take what may be held, though it may be of long ago as well."""
        # A page that is neither free nor led to should not be. Where free pages are not known, a tree that is whole but
        # for some ranges tells what is not held; not where pages may be outdated, or something is missing nowhere.
        is_tree = self._state is not None and not self._doubtful and bool(self._gaps or self._torn)
        self._is_anywhere = self._are_free_known or not (is_tree or not self.is_complete)
        for number in self._later:
            for row_id, values in self._pages.rows_at(number):
                self._take_segment_unsure(_row_of(row_id, values))
        for number in self._pages.log.broken:
            for row_id, values in self._pages.older_rows_at(number):
                self._take_segment_unsure(_row_of(row_id, values))
        # What the log has and no page: after the last commit that is whole may have been one, damaged since.
        for row_id, values in self._pages.loose_rows():
            row = _row_of(row_id, values)
            if _is_like_segment(row) and row_id < STATE_ID and row_id & (SEQUENCE_END - 1) < state.sequence:
                self._take_segment_unsure(row)
            elif self._is_segment(row):
                self._add(_MAYBE_HELD, row)

    # Row by row.

    def _take_segment_unsure(self, row: tuple[Value, ...]) -> None:
        """Take a segment whose place is one where something may be missing."""
        if not self._is_segment(row):
            return
        row_id = _int(row[0])
        if row_id in self._replaced.get(read_header(_bytes(row[-1])).origin, Ranges()):
            return
        if self._is_anywhere or row_id in self._gaps or row_id in self._torn:
            self._add(_MAYBE_HELD, (row_id, _int(row[1]) | UNSURE, *row[2:]))

    def _take_state(self, row: tuple[Value, ...], number: int | None) -> bool:
        """Take note of a state; return whether it is one. `number` is its page, where it is known to be in use."""
        state = state_in(row) if row else None
        if state is not None:
            self._states.append(state)
            if number is not None and (self._state is None or self._state[0].commit < state.commit):
                self._state = state, number
        return state is not None

    def _take_small(self, row: tuple[Value, ...]) -> None:
        """Take a row of any table but that of segments."""
        kinds = _kinds_of(row)
        if kinds == "ib" and 0 < _int(row[0]) < SERIES_MAX:
            with contextlib.suppress(ValueError, msgspec.DecodeError):
                decode_series(_bytes(row[1]))
                self._add("INSERT OR IGNORE INTO series VALUES (?, ?)", row)
                self._add("INSERT OR IGNORE INTO series_copy VALUES (?, ?)", row)
        elif kinds == _BOOT:
            if is_boot(row):
                self._add("INSERT OR IGNORE INTO boots VALUES (?, ?, ?)", row)
        elif kinds in _OTHER_TABLES and (kinds != _LEDGER or 0 <= _int(row[3]) < READINGS_MAX):
            self._add(_OTHER_TABLES[kinds], row)

    def _is_segment(self, row: tuple[Value, ...]) -> bool:
        """Whether a row is one of the shelf's and its segment is whole."""
        if not _is_like_segment(row):
            return False
        body = _bytes(row[-1])
        try:
            _, signal, sequence = where_from(_int(row[0]))
            header = read_header(body)
            check_link(header.previous_hash, body)
        except (SegmentError, ValueError):
            self.damaged_segments += 1
            return False
        is_ours = (header.signal, header.sequence, header.readings, header.boot) == (signal, sequence, *row[2:4])
        is_ours &= header.boot <= BOOT_MAX
        self.damaged_segments += not is_ours
        if is_ours and header.ancestors is not None:
            self._rewritten = max(self._rewritten, (header.ancestors.number, segment_hash(body)))
            if header.ancestors.last_sequence > sequence:
                priority, signal, _ = where_from(_int(row[0]))
                last = place(priority, signal, header.ancestors.last_sequence)
                self._replaced[header.origin].add(_int(row[0]) + 1, last)
        return is_ours

    def _add(self, sql: str, row: tuple[object, ...]) -> None:
        self._waiting.append((sql, row))
        if len(self._waiting) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        self._connection.execute("BEGIN")
        for sql, row in waiting:
            self._connection.execute(sql, row)
        self._connection.execute("COMMIT")

    # What that says.

    def _know(self) -> Known:
        pages = self._pages
        found = self._state if self._state is not None and pages.has_last_commit(self._state[1]) else None
        # The newest state may be damaged, and what stands in the file be of long ago: the log has all in between. The
        # same goes for boots, of which the last version that is whole is as good as any.
        for row_id, values in pages.older_rows():
            row = _row_of(row_id, values)
            if row_id == STATE_ID and found is None:
                self._take_state(row, None)
            elif is_boot(row):
                self.older_boots[row_id] = row
        state = found[0] if found is not None else max(self._states, key=lambda state: state.commit, default=None)
        known = Known(state, is_newest=found is not None and not pages.log.has_rest, rewritten=self._rewritten)
        if state is not None:
            known.loss = loss_after(pages, state, noted_bytes=state.log_bytes, reached=self._reached)
        known.is_newest &= known.loss is None
        if self._doubtful:
            # One page more or less is a leaf, if all that leads to leaves fits together.
            is_leaf = self._doubtful == 1 and self._are_free_known and not self._gaps
            known.doubted = self._most_on_leaf if is_leaf else DOUBTED_MAX
        return known


def _row_of(row_id: int, values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return a row of one of our tables, its id first; nothing for what is none."""
    return (row_id, *values[1:]) if values and values[0] is None else ()


def _kinds_of(row: tuple[Value, ...]) -> str:
    return "".join(_KINDS.get(type(value), "?") for value in row)


def _is_like_segment(row: tuple[Value, ...]) -> bool:
    return _kinds_of(row) == _SEGMENT


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def is_boot(row: tuple[Value, ...]) -> bool:
    """Whether a row is one of the table of boots and can be read."""
    match row:
        case int(number), str(uuid), bytes(body):
            try:
                decode_boot(number, uuid, body, state=State())
            except msgspec.DecodeError:
                return False
            return True
    return False
