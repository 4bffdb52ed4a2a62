"""Looking at a shelf from outside: `verify` and `read_held`. Must not change a byte of it, nor lock it, gateway or not.

What was closed in order is opened where it is, as immutable: nothing is locked and nothing is written. Where a log
lies beside it (a gateway runs, or died) a copy of both is made first (store/snapshots.py), so that even a gateway
that starts in this moment is not in the way, nor we in its. One that starts while a file is read where it is may move
pages under the reader: what was read then is of no one moment, which is seen by the file's time at the end, and all is
read once more.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np

from gateway.core.clock import BootTimes, Timeline
from gateway.core.contracts import BootId, Priority
from gateway.core.progress import no_progress
from gateway.store.accounts import NOBODY, Accounts, DamagedStateError, Entry, State, decode_state
from gateway.store.connection import APPLICATION_ID, DATABASE, Guarded, body_at, schemas
from gateway.store.evidence import DamagedError, check_tables, wrong_with_log
from gateway.store.lineage import Lineage, known_hash, next_carries
from gateway.store.names import note_on, spare_names
from gateway.store.opening import decode_boot
from gateway.store.pagefile import PageFile, find
from gateway.store.reached import read_reached
from gateway.store.records import SEQUENCE_END, SHELVES, STATE_ID, LeasedSegment, StoreError, place, where_from
from gateway.store.salvage import salvage_into
from gateway.store.segments import SegmentError, decode, read_header
from gateway.store.series import decode_series, encode_series, lost_series
from gateway.store.snapshots import Snapshot, stamp_of
from gateway.store.starting import is_damage
from gateway.store.verdict import PROBLEMS_MAX, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from gateway.core.batch import Series
    from gateway.core.progress import Progress

_T = TypeVar("_T")

# The second look finds the log of the gateway that disturbed the first, and makes a copy.
LOOKS_MAX: Final = 5
LOG_LOOKS: Final = 3
LOG_LOOK_S: Final = 0.05


class DamagedShelfError(StoreError):
    """The database is damaged: as it lies it can be read in part or not at all. `why` is what is wrong with it."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path} cannot be read: {why}; the gateway salvages what it can when it is started")
        self.why = str(why)


class ChangedError(StoreError):
    """A gateway has written to the shelf while it was read where it lies: what was read is of no one moment."""


class HeldRow(NamedTuple):
    """A row of the shelf."""

    id: int
    done: int
    readings: int
    boot: int
    body: bytes


class Held:
    """What a shelf holds, oldest first. Iterate over it for segments, in a `with`.

    Its end raises ChangedError where what was read meanwhile, or could not be, counts for nothing. `damage` is what
    people should know of a shelf that had to be salvaged to be read.
    """

    def __init__(self, state_dir: Path, *, damage: str = "") -> None:
        self.damage = damage
        self._path = path = find(state_dir)
        try:
            self._stamp = stamp_of(path)
            self._copy = Snapshot.of(path)
        except OSError as error:
            raise StoreError(_unreadable(path, error)) from error
        try:
            self._open(path)
        except StoreError as error:
            self._check_unchanged(error)
            raise

    def _open(self, path: Path) -> None:
        try:
            self._connection = open_outside(path if self._copy is None else self._copy.path, called=path)
        except StoreError:
            self._drop_copy()
            raise
        try:
            self._connection.execute("BEGIN")
            self.state = _read_state(self._connection, path)
            self.segments: int
            (self.segments,) = self._connection.execute(
                "SELECT count(*) FROM shelf WHERE id < ?", (STATE_ID,)
            ).fetchone()
            self._series, self.series_damaged = _read_series(self._connection)
            self.series_rows = [(number, encode_series(series)) for number, series in sorted(self._series.items())]
            hash_of = partial(known_hash, partial(body_at, self._connection))
            self._series |= spare_names(path.parent, self.series_rows, self.state, hash_of=hash_of)
            self.timeline = _read_timeline(self._connection, self.state)
        except sqlite3.Error as error:
            self.close()
            raise _sqlite_error(path, error) from error
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
        if kind is None or issubclass(kind, sqlite3.Error | StoreError):
            self._check_unchanged(error)

    def _check_unchanged(self, error: BaseException | None) -> None:
        """Raise ChangedError, with what it may have led to, where the file is another than when it was opened."""
        if self._copy is None and not self._is_as_it_was():
            raise ChangedError(
                f"a gateway has written to {self._path} while it was read; try again, best while no gateway starts"
            ) from error

    def _is_as_it_was(self) -> bool:
        try:
            return stamp_of(self._path) == self._stamp
        except OSError:
            return False

    def __len__(self) -> int:
        return self.segments

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()
        self._drop_copy()

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()

    def series(self, number: int) -> Series:
        """Return the series that has `number`, or what stands for one that was lost."""
        return self._series.get(number) or lost_series(number)

    @property
    def series_known(self) -> set[int]:
        """The numbers of all series that are there."""
        return set(self._series)

    def __iter__(self) -> Iterator[LeasedSegment]:
        """Return every held segment in order of sequence, each as it was found, damaged or not; raise StoreError.

        What no uplink takes is among them.
        """
        try:
            for row in self.rows():
                if self.is_wanted(row) or self.is_left_out(row):
                    priority, signal, sequence = where_from(row.id)
                    yield LeasedSegment(sequence, BootId(row.boot), signal, priority, row.readings, row.body)
        except sqlite3.Error as error:
            raise _sqlite_error(self._path, error) from error

    def is_wanted(self, row: HeldRow) -> bool:
        """Whether anybody is still to get it: what was let go leaves the shelf bit by bit."""
        shares = self.state.shares
        sequence = where_from(row.id)[2]
        return not shares or any(share.wants(sequence) and not row.done & share.bit for share in shares)

    def is_left_out(self, row: HeldRow) -> bool:
        """Whether no uplink took it, so that it stays for whoever comes (store/unwanted)."""
        sequence = where_from(row.id)[2]
        return not (self.is_wanted(row) or any(share.left(sequence, row.done) for share in self.state.shares))

    def rows(self) -> Iterator[HeldRow]:
        """Return every segment in order of sequence; one whose row holds other types than it should has no body."""
        return heapq.merge(
            *(self._shelf(shelf) for shelf in range(len(SHELVES))), key=lambda row: row.id & (SEQUENCE_END - 1)
        )

    def _shelf(self, shelf: int) -> Iterator[HeldRow]:
        bounds = place(*SHELVES[shelf], 0), place(*SHELVES[shelf], SEQUENCE_END)
        before = 0
        for row in self._connection.execute(
            "SELECT id, done, readings, boot, body FROM shelf WHERE id >= ? AND id < ? ORDER BY id", bounds
        ):
            if row[0] <= before:
                raise sqlite3.DatabaseError("the table of segments leads in circles")
            before = row[0]
            *numbers, body = row
            if all(isinstance(number, int) for number in numbers) and isinstance(body, bytes):
                yield HeldRow(*row)
            else:
                yield HeldRow(before, 0, 0, 0, b"")

    def ledger(self) -> dict[tuple[str, str], Entry]:
        """Return the ledger by uplink and reason; raise DamagedStateError."""
        rows = self._connection.execute(
            "SELECT uplink, reason, readings, first_ns, last_ns, since_ns, until_ns FROM ledger"
        ).fetchall()
        if not all(isinstance(number, int) for row in rows for number in row[2:]) or not all(
            isinstance(name, str) for row in rows for name in row[:2]
        ):
            raise DamagedStateError("a row of the ledger holds other types than it should")
        return {(uplink, reason): Entry(*numbers) for uplink, reason, *numbers in rows}

    def quick_check(self) -> None:
        """Raise DamagedShelfError where SQLite itself finds something wrong."""
        rows = self._connection.execute(f"PRAGMA quick_check({PROBLEMS_MAX})").fetchall()
        # One row may be a list of many lines, under a headline.
        lines = [line for (text,) in rows if text != "ok" for line in text.splitlines() if not line.startswith("***")]
        if lines:
            raise DamagedShelfError(self._path, lines[0] + (f" and {len(lines) - 1} more" if lines[1:] else ""))


def open_outside(path: Path, *, called: Path) -> sqlite3.Connection:
    """Open a database to look at it, for people `called` so; raise StoreError.

    It may be anybody's: first the tables are held against ours, without SQLite, and nothing that a file brings along
    is run.
    """
    try:
        with PageFile(path) as pages:
            _check_whose(pages, called)
    except DamagedError as error:
        raise DamagedShelfError(called, error) from error
    except OSError as error:
        raise StoreError(_unreadable(called, error)) from error
    with contextlib.ExitStack() as undo:
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?immutable=1", uri=True, isolation_level=None, factory=Guarded
            )
            undo.callback(connection.close)
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
        except sqlite3.Error as error:
            raise _sqlite_error(called, error) from error
        undo.pop_all()
        return connection


def _check_whose(pages: PageFile, called: Path) -> None:
    owner, version = pages.versions
    if not pages.is_database:
        raise DamagedError("this is no SQLite database")
    if owner != APPLICATION_ID or not 1 <= version <= len(schemas()):
        raise StoreError(f"{called} is not a store that this version of tidegate knows")
    check_tables(pages)


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}; look at it as the user that runs the gateway"


def _sqlite_error(path: Path, error: sqlite3.Error) -> StoreError:
    return DamagedShelfError(path, error) if is_damage(error) else StoreError(f"{path} cannot be read: {error}")


def _read_state(connection: sqlite3.Connection, path: Path) -> State:
    row = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchone()
    try:
        return decode_state(row[0]) if row else State()
    except DamagedStateError as error:
        raise DamagedShelfError(path, error) from error


def _read_series(connection: sqlite3.Connection) -> tuple[dict[int, Series], list[str]]:
    series: dict[int, Series] = {}
    damaged: list[str] = []
    for table in ("series_copy", "series"):
        for number, body in connection.execute(f"SELECT number, body FROM {table}"):  # noqa: S608  our own two names
            try:
                series[number] = decode_series(body)
            except (ValueError, msgspec.MsgspecError) as error:
                damaged.append(f"series {number} in {table}: {error}")
    return series, damaged


def _read_timeline(connection: sqlite3.Connection, state: State) -> Timeline:
    boots: list[BootTimes] = []
    for row in connection.execute("SELECT number, uuid, body FROM boots ORDER BY number"):
        with contextlib.suppress(msgspec.MsgspecError, TypeError):
            boots.append(decode_boot(*row, state=state))
    current = BootId(state.boot)
    if all(times.boot != current for times in boots):
        boots.append(BootTimes(current, ""))
    return Timeline(boots, current=current)


def read_held(state_dir: Path) -> Held:
    """Open what is held for reading, as of one moment; raise StoreError."""
    return Held(state_dir)


def look_at_held(state_dir: Path, look: Callable[[Held], _T]) -> _T:
    """Return what `look` makes of what is held, as of one moment; it may be called more than once. Raise StoreError.

    Of a damaged shelf it is shown what the gateway would salvage.
    """
    looks = 0
    while True:
        looks += 1
        try:
            with Held(state_dir) as held:
                return look(held)
        except ChangedError:
            if looks == LOOKS_MAX:
                raise
        except DamagedShelfError as error:
            return _look_at_salvaged(state_dir, look, error.why)


def _look_at_salvaged(state_dir: Path, look: Callable[[Held], _T], why: str) -> _T:
    with contextlib.ExitStack() as undo:
        try:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-look-")))
            damage = salvage_into(folder / DATABASE, find(state_dir)).outlook(why)
        except (OSError, sqlite3.Error) as error:
            what = f"{state_dir / DATABASE} is damaged ({why}), and what can be salvaged finds no place: {error}"
            raise StoreError(f"{what}; set TMPDIR to a disk with room for it, or start the gateway") from error
        with Held(folder, damage=damage) as held:
            return look(held)


def verify(state_dir: Path, *, progress: Progress = no_progress) -> VerifyReport:
    """Check every segment, the chain between neighbours, the series and the accounts.

    Raises StoreError where there is no shelf. What cannot be read at all is a problem in the report, not an error.
    """
    log = _wrong_with_log(find(state_dir))
    wrong = f"the write-ahead log {log}; the next start keeps what can be read and says what is missing" if log else ""
    try:
        return look_at_held(state_dir, lambda held: _report_on(held, state_dir, wrong, progress))
    except StoreError as error:
        report = VerifyReport(str(state_dir), problems=[wrong] if wrong else [])
        report.problem(str(error))
        return report


def _report_on(held: Held, state_dir: Path, wrong: str, progress: Progress) -> VerifyReport:
    report = VerifyReport(str(state_dir), problems=[sentence for sentence in (wrong, held.damage) if sentence])
    try:
        held.quick_check()
        for sentence in held.series_damaged:
            report.problem(sentence)
        _verify(held, report, progress)
        if not held.damage and (note := note_on(state_dir, held.series_rows, held.state)):
            report.notes.append(note)
    except sqlite3.Error as error:
        raise _sqlite_error(state_dir / DATABASE, error) from error
    return report


def _wrong_with_log(path: Path) -> str:
    """Return what is wrong with the log at every look: a gateway that writes it meanwhile may be seen half way once."""
    wrong = ""
    for look in range(LOG_LOOKS):
        if look:
            time.sleep(LOG_LOOK_S)
        try:
            # Before the files: what is committed meanwhile must not be missed in them.
            reached = read_reached(path.parent)
            with PageFile(path) as pages:
                wrong = wrong_with_log(pages, reached=reached)
        except OSError as error:
            raise StoreError(_unreadable(path, error)) from error
        if not wrong:
            break
    return wrong


def _verify(held: Held, report: VerifyReport, progress: Progress) -> None:
    known = held.series_known
    report.series = len(held.series_rows)
    counted = {share.name: [0] * len(Priority) for share in held.state.shares}
    before, lineage = (0, b""), Lineage()
    for row in progress(held.rows(), total=held.segments, what="verifying"):
        priority, _, sequence = where_from(row.id)
        if held.is_wanted(row):
            report.segments += 1
            report.readings += row.readings
        elif held.is_left_out(row):
            report.left_out += row.readings
        for share in held.state.shares:
            if share.wants(sequence) and not row.done & share.bit:
                counted[share.name][priority] += row.readings
        for sentence in _wrong(row, lineage, before=before, known=known):
            report.problem(sentence)
        before = (sequence, next_carries(row.body))
    for sentence in lineage.close(held.state.dilution):
        report.problem(sentence)
    report.rewritten = lineage.segments
    report.diluted, report.diluted_from = lineage.diluted, lineage.diluted_from
    if before[0] >= held.state.sequence:
        report.problem(f"segment {before[0]} is newer than the state row, which expects {held.state.sequence} next")
    elif before[1] and before[0] + 1 == held.state.sequence and before[1] != held.state.previous_hash:
        report.problem(f"the chain breaks after segment {before[0]}: the state row knows another hash")
    _verify_accounts(held, counted, report)


def _wrong(row: HeldRow, lineage: Lineage, *, before: tuple[int, bytes], known: set[int]) -> Iterator[str]:
    """Return what is wrong with one segment. `before` is sequence and hash of the one in front of it."""
    _, signal, sequence = where_from(row.id)
    body = row.body
    if not body:
        yield f"segment {sequence}: its row holds other types than it should"
        return
    try:
        header = read_header(body)
        columns = decode(body)
    except SegmentError as error:
        yield f"segment {sequence}: {error}"
        return
    if (header.sequence, header.readings, header.boot, header.signal) != (sequence, row.readings, row.boot, signal):
        yield f"segment {sequence}: its row and its header disagree"
    if before[0] + 1 == sequence and before[1] and header.previous_hash != before[1]:
        yield f"segment {sequence}: it does not follow segment {before[0]}, the chain is broken"
    yield from lineage.look(row.id, body, header, columns)
    if missing := set(np.unique(columns.series).tolist()) - known:
        yield f"segment {sequence}: nobody knows its series {sorted(missing)[:8]}"


def _verify_accounts(held: Held, counted: dict[str, list[int]], report: VerifyReport) -> None:
    report.accepted = held.state.accepted
    if not held.state.shares:
        if report.segments:
            report.problem("the state row is gone: nobody knows what was accepted and delivered")
        return
    try:
        accounts = Accounts(held.state.shares, held.ledger(), accepted=held.state.accepted)
    except DamagedStateError as error:
        report.problem(str(error))
        return
    for name, share in accounts.shares.items():
        who = name or "nobody"
        lost = sum(entry.readings for entry in accounts.lost(name).values())
        if name != NOBODY:
            report.uplinks[name] = {"delivered": share.delivered, "held": share.held, "ledger": lost}
            if share.left_out:
                report.uplinks[name]["left_out"] = share.left_out
            if share.removal is not None:
                report.uplinks[name]["removed"] = True
        there = counted[name]
        if sum(there) != share.held:
            report.problem(f"{who}: {share.held} readings should be held, {sum(there)} are")
        elif sum(share.held_by_class) == share.held and there != list(share.held_by_class):
            report.problem(f"{who}: by class {list(share.held_by_class)} readings should be held, {there} are")
        if gap := accounts.gap(name):
            report.problem(f"{who}: accepted - delivered - held - ledger - left_out is {gap}, not 0")
