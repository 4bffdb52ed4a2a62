"""Room on the disk: what is used, what may be used, and who has to go. Must not delete anything itself.

What counts is the smaller of `max_bytes` and what the disk really has: a disk that others have filled is a
quota that is reached. A ballast file keeps back what SQLite needs to let something go on a disk with no byte left.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from gateway.core.clock import NS_PER_S, Quality, Timeline
from gateway.core.contracts import BootId, Priority
from gateway.core.units import Size
from gateway.net.files import create
from gateway.store.connection import DATABASE, PAGE_BYTES, count_pages
from gateway.store.disks import free_bytes, when_full
from gateway.store.pages import FRAME_HEADER_BYTES
from gateway.store.policy import Summary, choose_evictions
from gateway.store.records import SEQUENCE_END, SHELVES, place, where_from
from gateway.store.settings import ANY_BOARD
from gateway.store.writer import ROW_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import aiosqlite

    from gateway.store.settings import StoreSettings

BALLAST: Final = "ballast"
# Whatever a board's profile says: each start reads the log through.
LOG_BYTES_MAX: Final = 64 << 20
LOG_BYTES_MIN: Final = 128 << 10
LOG_SHARE: Final = 8
LOG_DISK_SHARE: Final = 32
SLACK_SHARE: Final = 64
# What a commit writes beside segments and series: pages above the rows, the ledger, the state.
COMMIT_BYTES: Final = 16 * PAGE_BYTES
# Rows looked at in one commit and shelf.
LOOK_MAX: Final = 256
# Times that a disciplined clock of the same boot tells.
CONFIRMED: Final = {Quality.SYNCED, Quality.REPAIRED}
# Let go with one commit, or more where what comes needs as much; what is still over then goes with the next.
EVICT_MAX: Final = 4096


class Candidate(NamedTuple):
    """A segment that could go. `stored_ns` is the monotonic time of `boot` at which it was committed."""

    id: int
    done: int
    readings: int
    boot: int
    stored_ns: int
    first_ns: int
    last_ns: int
    size_bytes: int

    @property
    def disk_bytes(self) -> int:
        """About how much of the disk it takes; `size_bytes` is its body alone."""
        return self.size_bytes + ROW_BYTES

    @property
    def sequence(self) -> int:
        """Its sequence, which is the last part of its id."""
        return self.id & (SEQUENCE_END - 1)


class Room:
    """The disk space of one shelf, in bytes."""

    def __init__(
        self, state_dir: Path, settings: StoreSettings, *, log_bytes_max: int = ANY_BOARD.log_bytes_max
    ) -> None:
        self.used_bytes = 0
        self.free_bytes = 0
        self.log_size_bytes = 0
        self.state_dir = state_dir
        self.is_frozen = False  # whether the connection that is measured stands for files that cannot be written
        self._promised_bytes = 0
        self._path = state_dir / DATABASE
        self._log = state_dir / f"{DATABASE}-wal"
        self._max_bytes = int(settings.max_bytes)
        share = min(self._max_bytes // LOG_SHARE, free_bytes(state_dir) // LOG_DISK_SHARE)
        # What is acked before the log begins anew never reaches the database file. 1,000 readings a second cost the
        # card 7 % more with a log of 1 MiB than with one of 8 where an uplink acks once a minute, 21 % every ten.
        self.log_bytes = max(min(share, log_bytes_max, LOG_BYTES_MAX), LOG_BYTES_MIN)
        # On a disk with nothing left, all that is in the log must still find room in the database file: only
        # then can the log begin anew and say what goes.
        self.ballast_bytes = self.log_bytes * 3 // 2

    async def measure(self, connection: aiosqlite.Connection) -> None:
        """Look how much is used: pages that hold something, and the log."""
        self.note(*await count_pages(connection))

    def note(self, pages: int, free: int) -> None:
        """Take note how many pages the file has and how many of them are free; the log is looked at."""
        self.log_size_bytes = _size(self._log)
        if self.is_frozen:
            self.used_bytes = _size(self._path) + self.log_size_bytes
            return
        self.free_bytes = free * PAGE_BYTES
        self.used_bytes = (pages - free) * PAGE_BYTES + self.log_size_bytes
        growth_bytes = max(pages * PAGE_BYTES - _size(self._path), 0)
        self._promised_bytes = growth_bytes + max(self.log_bytes - self.log_size_bytes, 0)

    @property
    def limit_bytes(self) -> int:
        """How much may be used: `max_bytes`, or less where the disk has less."""
        # What the log has still to move into the file, and the log itself, must not run out of room: that could
        # not be mended by letting something go.
        spendable = max(free_bytes(self.state_dir) - self._promised_bytes, 0)
        return min(self._max_bytes, self.used_bytes + self.free_bytes + spendable)

    def lacking(self, incoming_bytes: int) -> int:
        """Return how many bytes have to go before `incoming_bytes` more fit."""
        used_bytes = self.used_bytes + incoming_bytes
        over = max(used_bytes - self.limit_bytes, used_bytes + self._log_growth(incoming_bytes) - self._max_bytes)
        return over + self.slack_bytes if over > 0 else 0

    def _log_growth(self, incoming_bytes: int) -> int:
        """Return how much longer the log may get by what comes, which it has once more: it never gets shorter."""
        if not incoming_bytes:
            return 0
        pages = (incoming_bytes + COMMIT_BYTES) // PAGE_BYTES
        return COMMIT_BYTES + max(self.log_bytes + pages * (PAGE_BYTES + FRAME_HEADER_BYTES) - self.log_size_bytes, 0)

    @property
    def is_disk_short(self) -> bool:
        """Whether it is the disk that bounds the shelf, and not `max_bytes`."""
        return self.limit_bytes < self._max_bytes

    @property
    def slack_bytes(self) -> int:
        """How much more than needed is made free at once, so that a full shelf does not evict at each commit."""
        return self.limit_bytes // SLACK_SHARE

    @property
    def cause(self) -> str:
        """Say what bounds the shelf where it is full, and what to do about it."""
        if self.is_disk_short:
            return when_full(self.state_dir)
        return f"[store] max_bytes ({Size(self._max_bytes)}) is reached; raise it, or see why so much is held"

    def shortage(self) -> str:
        """Return a sentence where the disk has next to nothing left for a shelf that may grow; else ""."""
        is_short = self.is_disk_short and free_bytes(self.state_dir) < self.ballast_bytes
        return when_full(self.state_dir) if is_short else ""

    def keep_ballast(self) -> None:
        """Take the ballast aboard where there is plenty of room."""
        path = self.state_dir / BALLAST
        with contextlib.suppress(OSError):
            if path.exists() or free_bytes(self.state_dir) < 4 * self.ballast_bytes:
                return
            file = create(path, os.O_WRONLY)
            try:
                os.posix_fallocate(file, 0, self.ballast_bytes)
            finally:
                os.close(file)

    def drop_ballast(self) -> None:
        """Give the ballast back to a disk that has no room left."""
        with contextlib.suppress(OSError):
            (self.state_dir / BALLAST).unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def oldest(connection: aiosqlite.Connection, shelf: int, *, limit: int, first: int = 0) -> list[Candidate]:
    """Return the oldest segments of one of SHELVES, from the sequence `first` on."""
    priority, signal = SHELVES[shelf]
    rows = await connection.execute_fetchall(
        "SELECT id, done, readings, boot, stored_ns, first_ns, last_ns, length(body) FROM shelf"
        " WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (place(priority, signal, first), place(priority, signal, SEQUENCE_END), limit),
    )
    return [Candidate(*row) for row in rows]


async def find_heads(connection: aiosqlite.Connection) -> list[Candidate]:
    """Return the oldest segment of each of SHELVES that holds any."""
    return [row for shelf in range(len(SHELVES)) for row in await oldest(connection, shelf, limit=1)]


async def find_unneeded(
    connection: aiosqlite.Connection, shelf: int, *, first: int, before: int, has: int, limit: int
) -> list[Candidate]:
    """Return the oldest segments of one of SHELVES whose `done` has all of `has`.

    Their ids are `first` or more, their sequences below `before`.
    """
    rows = await connection.execute_fetchall(
        "SELECT id, done, readings, boot, stored_ns, first_ns, last_ns, length(body) FROM shelf"
        " WHERE id >= ? AND id < ? AND done & ? = ? ORDER BY id LIMIT ?",
        (first, place(*SHELVES[shelf], before), has, has, limit),
    )
    return [Candidate(*row) for row in rows]


async def find_settled(
    connection: aiosqlite.Connection, done: Mapping[int, int], *, needed: Callable[[int], int]
) -> dict[int, int]:
    """Return about how much of the disk each segment takes that all who need it have once `done` is written.

    `needed(sequence)` has the bits of those who want a segment.
    """
    settled: dict[int, int] = {}
    ids = list(done)
    for start in range(0, len(ids), LOOK_MAX):
        part = ids[start : start + LOOK_MAX]
        rows = await connection.execute_fetchall(
            f"SELECT id, done, length(body) FROM shelf WHERE id IN ({', '.join('?' * len(part))})",  # noqa: S608  marks alone
            part,
        )
        settled |= {
            segment_id: size_bytes + ROW_BYTES
            for segment_id, bits, size_bytes in rows
            if not needed(where_from(segment_id)[2]) & ~(bits | done[segment_id])
        }
    return settled


async def find_evictions(
    connection: aiosqlite.Connection, *, bytes_over: int, incoming_bytes: int, may_go: Callable[[int], bool]
) -> tuple[list[Candidate], bool]:
    """Return who goes so that `bytes_over` bytes become free, fewer where less may go; and whether more may go later.

    More than EVICT_MAX are only found as long as that is less than `incoming_bytes`.
    """
    chosen: list[Candidate] = []
    freed = 0
    for priority in reversed(Priority):
        first: int | None = 0
        while first is not None:
            rows, first = await _oldest_of(connection, priority, first)
            stored = {row.sequence: row for row in rows if may_go(row.id)}
            summaries = choose_evictions(map(_summary, stored.values()), bytes_over=bytes_over - freed)
            chosen += [stored[summary.sequence] for summary in summaries]
            freed += sum(summary.size_bytes for summary in summaries)
            if freed >= bytes_over:
                return chosen, False
            if len(chosen) >= EVICT_MAX and freed >= incoming_bytes:
                return chosen, True
    return chosen, False


async def _oldest_of(
    connection: aiosqlite.Connection, priority: Priority, first: int
) -> tuple[list[Candidate], int | None]:
    """Return the oldest segments of a class from a sequence on, in order, and where to go on; None: that was all."""
    shelves = [shelf for shelf, (of, _) in enumerate(SHELVES) if of is priority]
    rows = [await oldest(connection, shelf, limit=EVICT_MAX, first=first) for shelf in shelves]
    return merge_signals(rows, limit=EVICT_MAX)


def merge_signals(rows: Sequence[Sequence[Candidate]], *, limit: int) -> tuple[list[Candidate], int | None]:
    """Return the next segments of a class in order, from those of each signal, and the sequence to go on from.

    A signal with `limit` of them may have more: beyond its last one nothing can be said of the class. None: that was
    all.
    """
    end = min((of[-1].sequence + 1 for of in rows if len(of) == limit), default=None)
    found = [row for of in rows for row in of if end is None or row.sequence < end]
    return sorted(found, key=lambda row: row.sequence), end


def _summary(row: Candidate) -> Summary:
    priority, _, sequence = where_from(row.id)
    return Summary(sequence, priority, row.disk_bytes, row.readings, row.first_ns, row.last_ns)


async def find_expired(
    connection: aiosqlite.Connection,
    timeline: Timeline,
    *,
    now_ns: int,
    max_age_s: float,
    may_go: Callable[[int], bool],
) -> list[Candidate]:
    """Return what was stored longer than `max_age_s` ago. `now_ns` is this boot's monotonic clock."""
    expired: list[Candidate] = []
    for shelf in range(len(SHELVES)):
        for row in await oldest(connection, shelf, limit=LOOK_MAX):
            if age_ns(timeline, row, now_ns=now_ns) <= max_age_s * NS_PER_S:
                break
            if may_go(row.id):
                expired.append(row)
    return expired


def age_ns(timeline: Timeline, row: Candidate, *, now_ns: int) -> int:
    """Return how long ago `row` was stored, at least."""
    return age_of(timeline, row.boot, row.stored_ns, now_ns=now_ns)


def age_of(timeline: Timeline, boot: int, at_ns: int, *, now_ns: int) -> int:
    """Return how long ago a moment of `boot` was, at least.

    Within a boot that is exact. Across boots only disciplined wall clocks are believed, then and now: one that a flat
    battery sets to 2090 must not empty the shelf, nor one that had its image's date until a link came. Without them
    the time that the box was off does not count.
    """
    current = timeline.current.boot
    if boot == current:
        return now_ns - at_ns
    lasted = {int(times.boot): times.last_ns for times in timeline.boots}
    at_least = now_ns + sum(lasted[between] for between in lasted if boot < between < current)
    at_least += max(lasted.get(boot, 0) - at_ns, 0)
    wall_ns, quality = timeline.repair(np.array([at_ns], np.int64), BootId(boot))
    now = timeline.wall_from(now_ns)
    if timeline.quality is Quality.SYNCED and quality in CONFIRMED and now is not None:
        return max(at_least, now - int(wall_ns[0]))
    return at_least


def wall_of(timeline: Timeline, monotonic_ns: int, boot: int) -> int:
    """Return Unix ns for a moment of `boot` as well as it is known, 0 where it is not."""
    wall_ns, quality = timeline.repair(np.array([monotonic_ns], np.int64), BootId(boot))
    return 0 if quality is Quality.UNKNOWN else int(wall_ns[0])
