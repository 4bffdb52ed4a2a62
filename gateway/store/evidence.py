"""What a database file and its log say of each other, looked at before SQLite opens them. Must not change a byte.

SQLite takes a log that is gone, cut or zeroed for one with nothing in it, applies one that belongs to another day,
and runs whatever views and triggers a file brings along. What can be told against that:

- The tables are those of the schema files, to the letter, and there is nothing beside them.
- Each commit writes the state row, with its number. The log goes on where the file ends: its first commit is at most
  one ahead of the file's, its last is not behind it. (Not where a checkpoint was under way: PageFile.is_half_moved.)
- Each commit notes how long the log was by then (`log_bytes`), which never grows shorter, and no frame in it is
  zeros. Closed in order there is no log, and the note says 0.
- While a log grows for the first time, a file beside it says from time to time how far the commits have come
  (store/reached).
- The same note says of a file that was closed in order that another one had come further: a backup was put back; and
  where there is no file, that there was one.

The first commit of a run is moved into the file at once (`Committer.begin`), so that a file without a log says
whether it ought to have one. What cannot be told: that the end of a log is cut or zeroed which came after the last
note, less than an eighth of it (in a log of some kilobytes a little more), before the log has begun anew once; nor that
a log is cut whose note is gone as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.core.clock import NS_PER_S, Quality
from gateway.net.files import read_file
from gateway.store.accounts import State
from gateway.store.connection import APPLICATION_ID, DATABASE, expected_schema, newer_schema, schemas
from gateway.store.pagefile import LOG_BYTES_MAX, SQLITE_MAGIC, PageFile
from gateway.store.pages import TreeError, leaves_of
from gateway.store.reached import read_reached
from gateway.store.room import wall_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.core.clock import Timeline

SUSPECT: Final = f"{DATABASE}.suspect"
# Its rows are looked at one by one, and only as many as are asked for.
LARGE: Final = "shelf"


class DamagedError(Exception):
    """The database is not whole; the message says what is wrong, in a few words."""


@dataclass(frozen=True, slots=True)
class LogLoss:
    """A log that is not what it was: `what` says so, `known` is the newest commit that is left."""

    what: str
    known: State
    is_stale: bool = False
    is_missing: bool = False
    is_older: bool = False  # it is the file that is not what it was: it was closed in order, before others were
    is_gone: bool = False  # it is the file that is not there, nor a log
    commits: int = 0  # so many are missing at least

    def sentence(self, timeline: Timeline, now_ns: int, *, aside: str = "") -> str:
        """Say what may be missing, as far as that can be known; `now_ns` is this boot's monotonic clock."""
        if self.is_gone:
            return (
                f"{DATABASE} {self.what}: what it still held is not sent (how many readings nobody knows), and all "
                "counts begin anew. Where a repair of the disk has put it into lost+found, stop the gateway and move "
                "it back"
            )
        text = f"{DATABASE} {self.what}" if self.is_older else f"{DATABASE}-wal {self.what}"
        if aside:
            text += f" and was set aside as {aside}"
        if not self.known.log_bytes and not self.is_older:
            return f"{text}; nothing is missing, the gateway had been stopped in order"
        wall_ns = wall_of(timeline, self.known.boot_last_ns, self.known.boot)
        after = "the last commit that is left"
        if wall_ns:
            after = f"{datetime.fromtimestamp(wall_ns // NS_PER_S, UTC):%Y-%m-%dT%H:%M:%SZ}"
        span_ns = self._span_ns(timeline, wall_ns, now_ns)
        most = "" if span_ns is None else f", up to {max(span_ns, 0) // NS_PER_S + 1:,} s of it"
        least = f"at least {self.commits:,} commits, " if self.commits else ""
        # SQLite moves a log into the file when it is closed, whoever closes it.
        may_be_moved = self.is_missing and not self.commits
        unless = "unless another program has opened the database since, " if may_be_moved else ""
        why = "" if self.is_older else ", and the gateway had not been stopped in order"
        return (
            f"{text}{why}: {unless}what was accepted after {after} may be missing{most} "
            f"({least}how many readings nobody knows), and what was sent since then is sent again"
        )

    def _span_ns(self, timeline: Timeline, wall_ns: int, now_ns: int) -> int | None:
        if self.known.boot == timeline.current.boot:
            return now_ns - self.known.boot_last_ns
        now_wall_ns = timeline.wall_from(now_ns)
        if timeline.quality is Quality.SYNCED and wall_ns and now_wall_ns is not None:
            return now_wall_ns - wall_ns
        return None


def look(path: Path) -> LogLoss | None:
    """Look at the files; raise DamagedError where SQLite would not notice, or only later, StoreError for newer ones."""
    suspect = path.with_name(SUSPECT)
    if suspect.exists():
        why = read_file(suspect).decode("utf-8", "replace").strip()
        raise DamagedError(why or "it failed while it was used")
    log_path = path.with_name(f"{DATABASE}-wal")
    log_bytes = log_path.stat().st_size if log_path.exists() else 0
    if not path.exists() or not path.stat().st_size:
        if path.exists() or log_bytes:
            raise DamagedError("the file is empty")
        commits = read_reached(path.parent)
        return LogLoss("is gone, which was here before", State(), is_gone=True, commits=commits) if commits else None
    with path.open("rb") as file:
        head = file.read(100)
    if not head.startswith(SQLITE_MAGIC):
        raise DamagedError("this is no SQLite database")
    page_bytes = int.from_bytes(head[16:18], "big")
    if not log_bytes and path.stat().st_size < int.from_bytes(head[28:32], "big") * page_bytes:
        raise DamagedError("the file is cut short")
    reached = read_reached(path.parent)
    with PageFile(path) as pages:
        if pages.log.is_broken:
            raise DamagedError("the write-ahead log is damaged before its end")
        check_tables(pages)
        return find_loss(pages, reached=reached)


def check_tables(pages: PageFile) -> None:
    """Raise DamagedError where the file holds other tables than it should, StoreError for those of a newer version."""
    owner, version = pages.versions
    if owner == APPLICATION_ID and version > len(schemas()):
        raise newer_schema(version)
    try:
        schema = pages.schema()
        if not schema:
            return
        if owner != APPLICATION_ID:
            raise DamagedError("it is some other program's database")
        found = {(kind, name, table, text) for kind, name, table, _, text in schema}
        if odd := sorted({str(row[1]) for row in found ^ expected_schema(version)}):
            raise DamagedError(f"its tables are not those of a store: {', '.join(odd)[:100]}")
        for name, root in pages.roots().items():
            if name != LARGE:
                # Small ones are read as a whole: one that leads in circles would be read for ever.
                for _ in leaves_of(pages.page, root):
                    pass
    except TreeError as error:
        raise DamagedError(str(error)) from error


def find_loss(pages: PageFile, *, reached: int = 0) -> LogLoss | None:
    """Return what is wrong with the log as far as file and log tell; raise DamagedError where commits lie between.

    `reached` is the number of a commit that is known to have been there.
    """
    in_file = pages.state_of_file()
    in_log = pages.states_of_log()
    if in_file is not None and in_log is not None:
        first, last = in_log
        if first.commit > in_file.commit + 1 and not pages.is_half_moved(commit=first.commit - 1):
            between = first.commit - in_file.commit - 1
            raise DamagedError(f"{between} commits between the file and its log are missing")
        if last.commit < in_file.commit:
            return LogLoss("is of an earlier time than the database", in_file, is_stale=True)
    newest = in_log[1] if in_log is not None else in_file
    noted = max((state.log_bytes for state in (newest, in_file) if state is not None), default=0)
    return None if newest is None else loss_after(pages, newest, noted_bytes=noted, reached=reached)


def loss_after(pages: PageFile, newest: State, *, noted_bytes: int, reached: int) -> LogLoss | None:
    """Return what is missing after `newest`, as far as is known; the log was at least `noted_bytes` long by then."""
    commits = max(reached - newest.commit, 0)
    if not (newest.log_bytes or commits):
        return None
    if not newest.log_bytes:
        # Closed in order it needs no log; but another had come further.
        older = "is another one than was here last, or an older copy of it"
        return LogLoss(older, newest, is_older=True, commits=commits)
    if not pages.log.data:
        return LogLoss("is missing", newest, is_missing=True, commits=commits)
    noted = min(noted_bytes, LOG_BYTES_MAX)
    is_cut = len(pages.log.data) < noted
    has_holes = pages.log.has_holes(noted)
    if not (is_cut or has_holes or commits):
        return None
    what = "was overwritten with zeros" if has_holes and not is_cut else "was cut short"
    return LogLoss(what, newest, commits=commits)


def wrong_with_log(pages: PageFile, *, reached: int = 0) -> str:
    """Return in a few words what is wrong with the log, "" for nothing; for who looks from outside."""
    if pages.log.is_broken:
        return "is damaged before its end"
    try:
        loss = find_loss(pages, reached=reached)
    except DamagedError as error:
        return f"does not go on where the file ends: {error}"
    return "" if loss is None or loss.is_older else loss.what
