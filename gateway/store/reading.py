"""Looking at a shelf from outside: `verify` and `read_held`. Must not change a byte of it, nor lock it, gateway or not.

What was closed in order is opened where it is, as immutable: nothing is locked and nothing is written. Where a log
lies beside it (a gateway runs, or died) a copy of both is made first (store/snapshots.py), so that even a gateway
that starts in this moment is not in the way, nor we in its.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
import numpy as np

from gateway.core.clock import BootTimes, Timeline
from gateway.core.contracts import BootId, Signal
from gateway.store.accounts import NOBODY, Accounts, DamagedStateError, Entry, State, decode_state
from gateway.store.connection import APPLICATION_ID, DATABASE, schemas
from gateway.store.opening import decode_boot
from gateway.store.records import SEQUENCE_END, SHELVES, STATE_ID, LeasedSegment, StoreError, place, where_from
from gateway.store.salvage import log_is_broken
from gateway.store.segments import SegmentError, decode_logs, decode_metrics, read_header, segment_hash
from gateway.store.series import decode_series, lost_series
from gateway.store.snapshots import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from gateway.core.batch import Series

PROBLEMS_MAX: Final = 100


LOG_LOOKS: Final = 3
LOG_LOOK_S: Final = 0.05


@dataclass(slots=True)
class VerifyReport:
    """What `verify` found. Counts are readings, log records included; `problems` are at most PROBLEMS_MAX sentences."""

    state_dir: str
    segments: int = 0
    readings: int = 0
    accepted: int = 0
    uplinks: dict[str, dict[str, int]] = field(default_factory=dict)
    series: int = 0
    problems: list[str] = field(default_factory=list)
    problems_left_out: int = 0

    def problem(self, sentence: str) -> None:
        """Add a problem."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(sentence)
        else:
            self.problems_left_out += 1

    def as_dict(self) -> dict[str, object]:
        """Return all of it for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line for people."""
        held = f"{self.segments:,} segments with {self.readings:,} readings of {self.series:,} series"
        count = len(self.problems) + self.problems_left_out
        return f"{held}: {'all is well' if not count else f'{count} problems'}"


class Held:
    """What a shelf holds, oldest first. Iterate over it for segments; close it, or use it in a `with`."""

    def __init__(self, state_dir: Path) -> None:
        path = state_dir / DATABASE
        if not path.exists():
            raise StoreError(f"there is no {path}; is this the gateway's state_dir?")
        self._copy = Snapshot.of(path)
        try:
            self._connection = open_outside(path if self._copy is None else self._copy.path)
        except StoreError:
            self._drop_copy()
            raise
        try:
            self._connection.execute("BEGIN")
            self.state = _read_state(self._connection)
            self.segments: int
            (self.segments,) = self._connection.execute(
                "SELECT count(*) FROM shelf WHERE id < ?", (STATE_ID,)
            ).fetchone()
            self._series, self.series_damaged = _read_series(self._connection)
            self.timeline = _read_timeline(self._connection, self.state)
        except sqlite3.Error as error:
            self.close()
            raise _unreadable(path, error) from error
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        """Return every held segment in order of sequence, each as it was found, damaged or not; raise StoreError."""
        try:
            for row_id, _, readings, boot, body in self.rows():
                priority, signal, sequence = where_from(row_id)
                yield LeasedSegment(sequence, BootId(boot), signal, priority, readings, body)
        except sqlite3.Error as error:
            raise StoreError(f"{DATABASE} cannot be read to its end: {error}") from error

    def rows(self) -> Iterator[tuple[int, int, int, int, bytes]]:
        """Return (id, done, readings, boot, body) of every segment in order of sequence."""
        return heapq.merge(
            *(self._shelf(shelf) for shelf in range(len(SHELVES))), key=lambda row: row[0] & (SEQUENCE_END - 1)
        )

    def _shelf(self, shelf: int) -> Iterator[tuple[int, int, int, int, bytes]]:
        bounds = place(*SHELVES[shelf], 0), place(*SHELVES[shelf], SEQUENCE_END)
        yield from self._connection.execute(
            "SELECT id, done, readings, boot, body FROM shelf WHERE id >= ? AND id < ? ORDER BY id", bounds
        )

    def ledger(self) -> dict[tuple[str, str], Entry]:
        """Return the ledger by uplink and reason."""
        rows = self._connection.execute(
            "SELECT uplink, reason, readings, first_ns, last_ns, since_ns, until_ns FROM ledger"
        )
        return {(uplink, reason): Entry(*numbers) for uplink, reason, *numbers in rows}

    def quick_check(self) -> list[str]:
        """Return what SQLite itself finds wrong."""
        rows = self._connection.execute(f"PRAGMA quick_check({PROBLEMS_MAX})").fetchall()
        return [text for (text,) in rows if text != "ok"]


def open_outside(path: Path) -> sqlite3.Connection:
    """Open a database to look at it; raise StoreError."""
    with contextlib.ExitStack() as undo:
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?immutable=1", uri=True, isolation_level=None
            )
            undo.callback(connection.close)
            connection.execute("PRAGMA query_only = ON")
            (owner,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise _unreadable(path, error) from error
        if owner != APPLICATION_ID or not 1 <= version <= len(schemas()):
            raise StoreError(f"{path} is not a shelf that this version of tidegate knows")
        undo.pop_all()
        return connection


def _unreadable(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(f"{path} cannot be read: {error}; the gateway salvages what it can when it is started")


def _read_state(connection: sqlite3.Connection) -> State:
    row = connection.execute("SELECT body FROM shelf WHERE id = ?", (STATE_ID,)).fetchone()
    try:
        return decode_state(row[0]) if row else State()
    except DamagedStateError as error:
        raise StoreError(f"{error}; the gateway mends it when it is started") from error


def _read_series(connection: sqlite3.Connection) -> tuple[dict[int, Series], list[str]]:
    series: dict[int, Series] = {}
    damaged: list[str] = []
    for table in ("series_copy", "series"):
        for number, body in connection.execute(f"SELECT number, body FROM {table}"):  # noqa: S608  our own two names
            try:
                series[number] = decode_series(body)
            except ValueError as error:
                damaged.append(f"series {number} in {table}: {error}")
    return series, damaged


def _read_timeline(connection: sqlite3.Connection, state: State) -> Timeline:
    boots: list[BootTimes] = []
    for row in connection.execute("SELECT number, uuid, body FROM boots ORDER BY number"):
        with contextlib.suppress(msgspec.DecodeError):
            boots.append(decode_boot(*row, state=state))
    current = BootId(state.boot)
    if all(times.boot != current for times in boots):
        boots.append(BootTimes(current, ""))
    return Timeline(boots, current=current)


def read_held(state_dir: Path) -> Held:
    """Open what is held for reading, as of one moment; raise StoreError."""
    return Held(state_dir)


def verify(state_dir: Path) -> VerifyReport:
    """Check every segment, the chain between neighbours, the series and the accounts.

    Raises StoreError where there is no shelf. What cannot be read at all is a problem in the report, not an error.
    """
    report = VerifyReport(str(state_dir))
    if not (state_dir / DATABASE).exists():
        raise StoreError(f"there is no {state_dir / DATABASE}; is this the gateway's state_dir?")
    if _log_stays_broken(state_dir / DATABASE):
        report.problem("the write-ahead log is damaged before its end; the next start salvages what can be read")
    try:
        with Held(state_dir) as held:
            for sentence in (*held.quick_check(), *held.series_damaged):
                report.problem(sentence)
            _verify(held, report)
    except StoreError as error:
        report.problem(str(error))
    except sqlite3.Error as error:
        report.problem(f"{DATABASE} cannot be read to its end: {error}")
    return report


def _log_stays_broken(path: Path) -> bool:
    """Whether the log is damaged at every look: a gateway that writes it meanwhile may be seen half way once."""
    for _ in range(LOG_LOOKS):
        if not log_is_broken(path):
            return False
        time.sleep(LOG_LOOK_S)
    return True


def _verify(held: Held, report: VerifyReport) -> None:
    known = held.series_known
    report.series = len(known)
    counted = {share.name: 0 for share in held.state.shares}
    before = (0, b"")
    for row_id, done, readings, boot, body in held.rows():
        report.segments += 1
        report.readings += readings
        for share in held.state.shares:
            counted[share.name] += 0 if done & share.bit else readings
        for sentence in _wrong(row_id, readings, boot, body, before=before, known=known):
            report.problem(sentence)
        before = (where_from(row_id)[2], segment_hash(body))
    if before[0] >= held.state.sequence:
        report.problem(f"segment {before[0]} is newer than the state row, which expects {held.state.sequence} next")
    elif before[1] and before[0] + 1 == held.state.sequence and before[1] != held.state.previous_hash:
        report.problem(f"the chain breaks after segment {before[0]}: the state row knows another hash")
    _verify_accounts(held, counted, report)


def _wrong(
    row_id: int, readings: int, boot: int, body: bytes, *, before: tuple[int, bytes], known: set[int]
) -> Iterator[str]:
    """Return what is wrong with one segment. `before` is sequence and hash of the one in front of it."""
    _, signal, sequence = where_from(row_id)
    try:
        header = read_header(body)
        columns = decode_metrics(body) if signal is Signal.METRICS else decode_logs(body)
    except SegmentError as error:
        yield f"segment {sequence}: {error}"
        return
    if (header.sequence, header.readings, header.boot, header.signal) != (sequence, readings, boot, signal):
        yield f"segment {sequence}: its row and its header disagree"
    if before[0] + 1 == sequence and before[1] and header.previous_hash != before[1]:
        yield f"segment {sequence}: it does not follow segment {before[0]}, the chain is broken"
    if missing := set(np.unique(columns.series).tolist()) - known:
        yield f"segment {sequence}: nobody knows its series {sorted(missing)[:8]}"


def _verify_accounts(held: Held, counted: dict[str, int], report: VerifyReport) -> None:
    report.accepted = held.state.accepted
    if not held.state.shares:
        if report.segments:
            report.problem("the state row is gone: nobody knows what was accepted and delivered")
        return
    accounts = Accounts(held.state.shares, held.ledger(), accepted=held.state.accepted)
    for name, share in accounts.shares.items():
        who = name or "nobody"
        lost = sum(entry.readings for entry in accounts.lost(name).values())
        if name != NOBODY:
            report.uplinks[name] = {"delivered": share.delivered, "held": share.held, "ledger": lost}
        if counted[name] != share.held:
            report.problem(f"{who}: {share.held} readings should be held, {counted[name]} are")
        if gap := accounts.gap(name):
            report.problem(f"{who}: accepted - delivered - held - ledger is {gap}, not 0")
