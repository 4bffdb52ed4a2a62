"""Group commit: everything that waits becomes one transaction, then all return. Must not decide what to keep.

A commit is planned in one step of the event loop, written in SQLite's own thread, and only then takes effect in
memory; one that fails leaves both as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from gateway.core.batch import MONOTONIC, Batch, LogRecords, ResourceRecords, distinct
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.accounts import Dilution
from gateway.store.connection import PAGE_BYTES, Steps, transact
from gateway.store.drawer import NOTHING, Filing
from gateway.store.recent import Row
from gateway.store.records import DONE_BY_NOBODY, SEQUENCE_END, STATE_ID, place
from gateway.store.segments import Form, press_logs, press_metrics, press_records, segment_hash
from gateway.store.taking import ANY, left_out

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import aiosqlite
    import numpy.typing as npt

    from gateway.store.accounts import Entry
    from gateway.store.apart import Moving
    from gateway.store.records import Loss, SetAside
    from gateway.store.rewriting import Rewritten
    from gateway.store.segments import Pressed
    from gateway.store.taking import Takes

    Numbers: TypeAlias = npt.NDArray[np.uint32]

# Columns of this length stay below malloc's threshold for mappings of their own, so that their memory is used again
# instead of given back and faulted in anew, and a segment's working set is a few megabytes.
SEGMENT_READINGS_MAX: Final = 24_576
SEGMENT_LOG_BYTES_MAX: Final = 1 << 20
# What findings and alerts are: the reason why somebody reads the rest.
LOG_PRIORITY: Final = Priority.CRITICAL
# A row's columns, its cell and its share of the page's header.
ROW_BYTES: Final = 64
# A page of a row that has several ends with the number of the next.
PAGE_ROOM_BYTES: Final = PAGE_BYTES - 4
READING_BYTES: Final = 21
EVERYBODY: Final[Mapping[int, Takes]] = {}
NO_DILUTION: Final = Dilution()


class Part(NamedTuple):
    """What becomes a segment, compressed. Times are as in `time_range`."""

    priority: Priority
    pressed: Pressed
    times: tuple[int, int]


@dataclass(slots=True)
class Pending:
    """What waits for the next commit. `parts` come before the `pieces` of the same priority."""

    pieces: list[tuple[Priority, Batch]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    logs: list[LogRecords] = field(default_factory=list)
    records: list[tuple[Priority, ResourceRecords]] = field(default_factory=list)
    apart: list[Moving] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    size_bytes: int = 0
    readings: int = 0
    loose: int = 0  # of these, in the pieces
    records_bytes: int = 0  # of those in `records`

    def take_full(self, *, readings_max: int) -> list[tuple[Priority, list[Batch]]]:
        """Take out of the pieces what fills segments of `readings_max`, by priority and origin; the rest stays.

        They are not joined yet: whoever brought them keeps them until they are on the disk, and a copy that waits
        would be memory for nothing.
        """
        found: list[tuple[Priority, list[Batch]]] = []
        for (priority, origin), mine in sorted(by_origin(self.pieces).items()):
            parts, rest = _fill(mine, readings_max)
            if not parts:
                continue
            self.pieces = [piece for piece in self.pieces if (piece[0], piece[1].origin) != (priority, origin)]
            self.pieces += [(priority, batch) for batch in rest]
            found += [(priority, batches) for batches in parts]
        return found


def by_origin(pieces: Iterable[tuple[Priority, Batch]]) -> dict[tuple[Priority, int], list[Batch]]:
    """Return the batches of each priority and origin that there are, in their order: they share no segment."""
    found: dict[tuple[Priority, int], list[Batch]] = {}
    for priority, batch in pieces:
        found.setdefault((priority, batch.origin), []).append(batch)
    return found


def press_apart(records: Sequence[tuple[Priority, ResourceRecords]]) -> Iterator[Part]:
    """Compress OTLP messages: segments of one class and signal, of about SEGMENT_LOG_BYTES_MAX each, in their order."""
    for priority in Priority:
        for signal in Signal:
            mine = [some for wanted, some in records if wanted is priority and some.signal is signal]
            for some in _cut_records(ResourceRecords.join(mine)) if mine else []:
                known = some.time_ns[some.time_ns != 0]
                times = (int(known.min()), int(known.max())) if len(known) else (0, 0)
                yield Part(priority, press_records(some), times)


def press(priority: Priority, batches: Sequence[Batch], offset_ns: int | None) -> Part:
    """Compress batches that are to be a segment. Pure, and about a millisecond for a full one."""
    batch = Batch.join(batches)
    return Part(priority, press_metrics(batch), time_range(batch, offset_ns))


@dataclass(frozen=True, slots=True)
class Sealed:
    """Encoded segments, and where the chain stands after them."""

    segments: list[NewSegment]
    sequence: int
    previous_hash: bytes
    series: Numbers = field(default_factory=lambda: np.empty(0, np.uint32))
    """The numbers of all series in them, each once and in order."""
    apart: Sequence[Moving] = ()
    dilution: Dilution = NO_DILUTION  # how far all is with those among them that say they were written anew

    @property
    def size_bytes(self) -> int:
        """How much of the disk they take, each with pages of its own, at most."""
        return sum(-(-(len(segment.body) + ROW_BYTES) // PAGE_ROOM_BYTES) * PAGE_BYTES for segment in self.segments)

    @property
    def readings(self) -> int:
        """Readings and log records in all of them that came just now."""
        return sum(segment.row.readings for segment in self.segments if not segment.is_apart)

    def settled(self, done: dict[int, int]) -> dict[int, int]:
        """Return the bits of who has settled segments with the commit: `done`, and what is kept apart of some."""
        if not self.apart:
            return done
        return {**done, **{row_id: bits for of in self.apart for row_id, bits in of.settled(done).items()}}


class NewSegment(NamedTuple):
    """A segment to be written."""

    row: Row
    first_ns: int
    last_ns: int
    body: bytes
    readable: Batch | None = None
    form: Form = Form.COLUMNS
    left_out: int = 0  # the bits of those that do not take it
    origin: int = ANY
    is_apart: bool = False  # of readings that were held before (store/apart)
    stored: tuple[int, int] | None = None  # boot, monotonic ns, where that is not now

    @property
    def is_columns(self) -> bool:
        """Whether the mappings made it, and not somebody who sent OTLP."""
        return self.form is Form.COLUMNS


@dataclass(slots=True)
class Transaction:
    """Everything that one commit writes."""

    state: bytes
    segments: Sequence[NewSegment] = ()
    stored: tuple[int, int] = (0, 0)  # boot, monotonic ns
    active: int = 0  # the bits of all uplinks that are configured
    kept: Sequence[tuple[int, int]] = ()  # the bit of each that is not any more, and before which sequence
    done: dict[int, int] = field(default_factory=dict)  # row id → bits of the uplinks that need it no more
    removed: Sequence[int] = ()
    rewritten: Sequence[Rewritten] = ()
    series: Sequence[tuple[int, bytes]] = ()
    series_left: Sequence[int] = ()
    ledger: dict[tuple[str, str], Entry] = field(default_factory=dict)
    boots: Sequence[tuple[int, str, bytes]] = ()
    boots_from: int = 0
    quarantine: Filing = NOTHING
    refused: Filing = NOTHING

    def needed(self, segment_id: int) -> int:
        """Return the bits that `done` must have before a segment goes."""
        bits = self.active
        for bit, before in self.kept:
            bits |= bit if segment_id & (SEQUENCE_END - 1) < before else 0
        return bits


def seal(
    pending: Pending,
    *,
    sequence: int,
    previous_hash: bytes,
    boot: BootId,
    offset_ns: int | None,
    takes: Mapping[int, Takes] = EVERYBODY,
    dilution: Dilution = NO_DILUTION,
) -> Sealed:
    """Encode what is pending: one segment for each priority, signal and origin, large ones cut, what was pressed first.

    `offset_ns` is what Unix time is ahead of this boot's monotonic clock, None where no clock is known. `takes` has by
    bit what those uplinks take that leave out something; `dilution` is how far all was before. Pure.
    """
    segments: list[NewSegment] = []
    series: list[Numbers] = []
    chain = previous_hash

    def add(part: Part, moving: Moving | None = None, *, boot: BootId = boot, step_s: int = 0) -> None:
        nonlocal chain, sequence, dilution
        priority, pressed, times = part
        body = pressed.seal(sequence=sequence, boot=boot, previous_hash=chain)
        chain = segment_hash(body)
        if moving is not None:
            pressed, body, dilution = moving.thinned(pressed, body, step_s, dilution)
        row = Row(place(priority, pressed.signal, sequence), pressed.readings, boot, len(body))
        new = NewSegment(row, *times, body, pressed.readable, pressed.form, origin=pressed.origin)
        if moving is not None:
            new = moving.take(new)
        else:
            new = new._replace(left_out=left_out(takes, (priority, pressed.signal), pressed.origin))
        segments.append(new)
        series.append(pressed.series)
        sequence += 1

    for priority in Priority:
        for part in pending.parts:
            if part.priority is priority:
                add(part)
        mine = by_origin(piece for piece in pending.pieces if piece[0] is priority)
        for _, some in sorted(mine.items()):
            for batches in cut(some):
                add(press(priority, batches, offset_ns))
    for moving in pending.apart:
        for piece in moving.parts(boot, offset_ns):
            add(piece.part, moving, boot=piece.boot, step_s=piece.step_s)
    for part in press_apart(pending.records):
        add(part)
    for origin in sorted({some.origin for some in pending.logs}):
        for records in _cut(LogRecords.join(some for some in pending.logs if some.origin == origin)):
            pressed = press_logs(records)
            add(Part(LOG_PRIORITY, pressed, (pressed.first_ns, pressed.last_ns)))
    numbers = series[0] if len(series) == 1 else _all_of(series)
    return Sealed(segments, sequence, chain, numbers, pending.apart, dilution)


def _all_of(parts: Iterable[Numbers]) -> Numbers:
    numbers: Numbers = distinct(np.concatenate([np.empty(0, np.uint32), *parts]))
    return numbers


def cut(batches: Iterable[Batch], *, readings_max: int = SEGMENT_READINGS_MAX) -> Iterator[list[Batch]]:
    """Yield `batches`, cut where needed and in their order, in groups of `readings_max`; the last may have fewer.

    >>> five = Batch.of(1, range(5), np.arange(5))
    >>> [[len(batch) for batch in group] for group in cut([five, five], readings_max=4)]
    [[4], [1, 3], [2]]
    """
    waiting: list[Batch] = []
    room = readings_max
    for batch in batches:
        start = 0
        while len(batch) - start >= room:
            yield [*waiting, batch.take(slice(start, start + room))]
            start, room = start + room, readings_max
            waiting = []
        if start < len(batch):
            waiting.append(batch.take(slice(start, None)))
            room -= len(batch) - start
    if waiting:
        yield waiting


def _fill(batches: Sequence[Batch], readings_max: int) -> tuple[list[list[Batch]], Sequence[Batch]]:
    """Return groups that fill a segment each, and the rest.

    One is full as well when it is nearly so and one more like the last would be too much: a segment costs about the
    same whatever its size, and what is cut off here is one more of them at the end.

    >>> some = [Batch.of(1, range(48), np.arange(48))] * 5
    >>> [[sum(map(len, group)) for group in _fill(some[:n], 100)[0]] for n in (1, 2, 5)]
    [[], [96], [100, 100]]
    """
    readings = sum(map(len, batches))
    if len(batches) > 1 and readings <= readings_max < readings + len(batches[-1]) and 4 * readings >= 3 * readings_max:
        return [list(batches)], []
    if readings < readings_max:
        return [], batches
    parts = list(cut(batches, readings_max=readings_max))
    rest = parts.pop() if sum(map(len, parts[-1])) < readings_max else []
    return parts, rest


def _cut(records: LogRecords) -> list[LogRecords]:
    """Cut log records into parts of about SEGMENT_LOG_BYTES_MAX."""
    parts: list[LogRecords] = []
    start = size_bytes = 0
    for end, body in enumerate(records.bodies, start=1):
        size_bytes += len(body)
        if size_bytes >= SEGMENT_LOG_BYTES_MAX or end == len(records):
            columns = records.series[start:end], records.time_ns[start:end], records.bodies[start:end]
            parts.append(LogRecords(*columns, records.origin))
            start, size_bytes = end, 0
    return parts


def _cut_records(records: ResourceRecords) -> Iterator[ResourceRecords]:
    """Cut OTLP messages where a segment has about SEGMENT_LOG_BYTES_MAX bytes or SEGMENT_READINGS_MAX readings."""
    start = size_bytes = readings = 0
    for end, (body, count) in enumerate(zip(records.bodies, records.counts.tolist(), strict=True), start=1):
        size_bytes += len(body)
        readings += count
        if size_bytes >= SEGMENT_LOG_BYTES_MAX or readings >= SEGMENT_READINGS_MAX or end == len(records.bodies):
            yield records.take(slice(start, end))
            start, size_bytes, readings = end, 0, 0


def time_range(batch: Batch, offset_ns: int | None) -> tuple[int, int]:
    """Return Unix ns of the first and last reading; (0, 0) where the times of all wait for a clock.

    >>> time_range(Batch.of(1, [5, 9], np.array([1, 2])), None)
    (5, 9)
    """
    monotonic = (batch.flags & MONOTONIC) != 0
    if not monotonic.any():
        return int(batch.time_ns.min()), int(batch.time_ns.max())
    times = (
        batch.time_ns[~monotonic]
        if offset_ns is None
        else np.where(monotonic, batch.time_ns + offset_ns, batch.time_ns)
    )
    return (int(times.min()), int(times.max())) if len(times) else (0, 0)


async def write(connection: aiosqlite.Connection, work: Transaction) -> tuple[int, int]:
    """Write one transaction; return when it is on the medium, with how many pages the file has and how many are free.

    Raises sqlite3.Error with nothing kept.
    """
    steps = Steps()
    _write_shelf(steps, work)
    _write_aside(steps, work)
    return await transact(connection, steps)


def _write_shelf(steps: Steps, work: Transaction) -> None:
    # What goes makes room first: its pages are taken again by what comes, and the file's list of free pages
    # stays as it was.
    gone = list(work.removed)
    kept = []
    for segment_id, bits in work.done.items():
        needed = work.needed(segment_id)
        if bits & needed == needed:
            gone.append(segment_id)
        else:
            kept.append((segment_id, bits, needed))
    if kept:
        steps.add("UPDATE shelf SET done = done | ? WHERE id = ?", *((b, i) for i, b, _ in kept))
        steps.add("DELETE FROM shelf WHERE id = ? AND done & ? = ?", *((i, n, n) for i, _, n in kept))
    if gone:
        steps.add("DELETE FROM shelf WHERE id = ?", *((segment_id,) for segment_id in gone))
    if work.rewritten:
        replaced = [segment_id for new in work.rewritten for segment_id in new.replaced]
        steps.add("DELETE FROM shelf WHERE id = ?", *((segment_id,) for segment_id in replaced))
        steps.add(
            "INSERT INTO shelf VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(
                (row.id, done, row.readings, row.boot, stored_ns, first_ns, last_ns, body)
                for row, done, stored_ns, first_ns, last_ns, body, _ in work.rewritten
            ),
        )
    if work.segments:
        steps.add(
            "INSERT INTO shelf VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(
                (
                    *(new.row.id, DONE_BY_NOBODY | new.left_out, new.row.readings),
                    *(new.stored or work.stored),
                    *(new.first_ns, new.last_ns, new.body),
                )
                for new in work.segments
            ),
        )
    steps.add("UPDATE shelf SET body = ? WHERE id = ?", (work.state, STATE_ID))


def _write_aside(steps: Steps, work: Transaction) -> None:
    for table in ("series", "series_copy"):
        if work.series_left:
            steps.add(f"DELETE FROM {table} WHERE number = ?", *((number,) for number in work.series_left))  # noqa: S608  our own two names
        if work.series:
            steps.add(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", *work.series)  # noqa: S608  our own two names
    if work.ledger:
        keys = list(work.ledger)
        steps.add("DELETE FROM ledger WHERE uplink = ? AND reason = ?", *keys)
        steps.add("INSERT INTO ledger VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", *((*key, *work.ledger[key]) for key in keys))
    if work.boots:
        steps.add("INSERT OR REPLACE INTO boots VALUES (?, ?, ?)", *work.boots)
    if work.boots_from:
        steps.add("DELETE FROM boots WHERE number < ?", (work.boots_from,))
    for table, filing in (("quarantine", work.quarantine), ("refused", work.refused)):
        if filing.rows:
            steps.add(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?)", *filing.rows)  # noqa: S608  our own two names
        if filing.first_kept:
            steps.add(f"DELETE FROM {table} WHERE id < ?", (filing.first_kept,))  # noqa: S608  our own two names


def answer(pending: Pending, failure: Exception | None = None) -> None:
    """Tell everybody who waits for this commit; whoever has given up meanwhile is left alone."""
    for waiter in pending.waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
