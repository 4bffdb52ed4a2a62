"""A database file and its log as pages and rows, read without SQLite. Must not write, nor believe what it reads.

The log's newest pages stand before the file's, as for SQLite; where the log is damaged, what is whole behind the
damage stands before it too.
"""

from __future__ import annotations

import os
from collections import ChainMap
from typing import TYPE_CHECKING, Final

from gateway.store.accounts import DamagedStateError, State, decode_state
from gateway.store.asides import interrupted
from gateway.store.connection import DATABASE, PAGE_BYTES
from gateway.store.files import check_file
from gateway.store.pages import PAGE_SIZES, TABLE_LEAF, Log, TreeError, leaves_of, read_log, rows_of
from gateway.store.records import STATE_ID, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from gateway.store.pages import Value

# Longer than any log that the gateway lets grow; what is behind is nobody's memory's worth.
LOG_BYTES_MAX: Final = 128 << 20
SQLITE_MAGIC: Final = b"SQLite format 3\0"
SCHEMA_ROWS_MAX: Final = 256


class PageFile:
    """The pages of a database file and its log. Close it, or use it in a `with`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        said = int.from_bytes(os.pread(self._file, 2, 16), "big")
        self.page_bytes = said if said in PAGE_SIZES else PAGE_BYTES
        self.log = read_log(read_log_bytes(path), page_bytes=self.page_bytes)
        self._file_pages = os.fstat(self._file).st_size // self.page_bytes
        # Each page of a whole file belongs to one row: who reads many more of them has been led in circles.
        self._pages_left = 4 * (self._file_pages + len(self.log.frames)) + 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def page(self, number: int) -> bytes | None:
        """Return a page, or None where there is none."""
        if number in self.log.newest:
            return self.log.page(self.log.newest[number])
        return self.page_of_file(number)

    def last(self, number: int) -> bytes | None:
        """Return a page as it was written last, be it damaged, or None where there is none."""
        place = self.log.broken.get(number)
        return self.page(number) if place is None else self.log.page(place)

    @property
    def page_count(self) -> int:
        """How many pages file and log have together, those on paper included."""
        return max([self._file_pages, *self.log.newest, *self.log.broken])

    def page_of_file(self, number: int) -> bytes | None:
        """Return a page as it is without the log, or None where there is none."""
        if not 1 <= number <= self._file_pages:
            return None
        # Not mapped: what is read of a large file would count as this process's memory.
        page = os.pread(self._file, self.page_bytes, (number - 1) * self.page_bytes)
        return page if len(page) == self.page_bytes else None

    def _page_behind(self, number: int) -> bytes | None:
        """Return a page that a row goes on in, as long as that may be believed."""
        self._pages_left -= 1
        return self.page(number) if self._pages_left >= 0 else None

    def _last_behind(self, number: int) -> bytes | None:
        self._pages_left -= 1
        return self.last(number) if self._pages_left >= 0 else None

    @property
    def is_database(self) -> bool:
        """Whether the file begins as SQLite's files do."""
        return (self.page_of_file(1) or b"").startswith(SQLITE_MAGIC)

    # Rows, wherever they lead from.

    def rows_at(self, number: int) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Return the rows of a leaf page as it was written last; nothing for any other page."""
        return rows_of(self.last(number) or b"", number, self._last_behind)

    def older_rows_at(self, number: int) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Return the rows of a leaf page as the last version has it that is not known to be damaged."""
        return rows_of(self.page(number) or b"", number, self._page_behind)

    def loose_rows(self) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Return the rows of pages in the log that may be no page's, or of a commit that did not come to its end."""
        places = {number: place for place, number in self.log.loose.items()}

        def page(number: int) -> bytes | None:
            return self.log.page(places[number]) if number in places else self._last_behind(number)

        for place, number in self.log.loose.items():
            yield from rows_of(self.log.page(place), number, page)

    def leave_older_log(self) -> None:
        """Pass over a log of an earlier time than the file: its pages are newer there."""
        in_file, in_log = self.state_of_file(), self.states_of_log()
        if in_file is not None and in_log is not None and in_log[1].commit < in_file.commit:
            self.log = Log(b"", self.page_bytes)

    def has_last_commit(self, number: int) -> bool:
        """Whether a page is as the last commit of the log has left it; any is where the log holds none."""
        log = self.log
        end = max(log.newest.values(), default=-1)
        before = max((place for _, place in log.frames if place < end and log.is_end(place)), default=-1)
        return end < 0 or log.broken.get(number, log.newest.get(number, -1)) > before

    def written_pages(self) -> Iterator[int]:
        """Return the numbers of all pages; those that the file has only on paper (holes) are left out."""
        size = self._file_pages * self.page_bytes
        end = 0
        while end < size:
            try:
                start = os.lseek(self._file, end, os.SEEK_DATA)
                end = os.lseek(self._file, start, os.SEEK_HOLE)
            except OSError:
                # No more data.
                break
            yield from range(start // self.page_bytes + 1, min(-(-end // self.page_bytes), self._file_pages) + 1)
        yield from sorted(
            number
            for number in {*self.log.newest, *self.log.broken}
            if number > self._file_pages or self._is_hole(number)
        )

    def _is_hole(self, number: int) -> bool:
        page = self.page_of_file(number)
        return page is not None and not any(page)

    def older_rows(self) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Return the rows of every page that the log has, outdated ones too, from those of the file below it on."""
        for number in sorted(self.log.newest):
            yield from rows_of(self.page_of_file(number) or b"", number, self._page_behind)
        for number, place in self.log.frames:
            yield from rows_of(self.log.page(place), number, self._page_behind)

    # Tables, as the tree leads to them.

    @property
    def versions(self) -> tuple[int, int]:
        """PRAGMA application_id and user_version; zeros where there is no first page."""
        head = self.page(1) or b""
        return int.from_bytes(head[68:72], "big"), int.from_bytes(head[60:64], "big", signed=True)

    def schema(self) -> list[tuple[Value, ...]]:
        """Return (type, name, table, root, sql) of all that the file says it holds; raise TreeError."""
        rows: list[tuple[Value, ...]] = []
        if self.page(1) is None:
            return rows
        for _, row in self.table(1):
            rows.append(row)
            if len(row) != 5 or len(rows) > SCHEMA_ROWS_MAX:
                raise TreeError("the table of tables is none")
        return rows

    def table(self, root: int) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Return the rows of the table whose tree begins at `root`; raise TreeError."""
        for number in leaves_of(self.page, root):
            page = self.page(number)
            assert page is not None
            yield from rows_of(page, number, self._page_behind)

    def roots(self) -> dict[Value, int]:
        """Return where the trees of the tables begin, by name; raise TreeError."""
        return {name: root for kind, name, _, root, _ in self.schema() if kind == "table" and isinstance(root, int)}

    # The state row, wherever it stands.

    def state(self) -> State | None:
        """Return the state as SQLite would read it, None where it cannot be found; raise TreeError."""
        root = self.roots().get("shelf", 0)
        for leaf in leaves_of(self.page, root, first=STATE_ID, last=STATE_ID):
            for row_id, values in rows_of(self.page(leaf) or b"", leaf, self._page_behind):
                if row_id == STATE_ID:
                    return state_in(values)
        return None

    def state_of_file(self) -> State | None:
        """Return the state as the file has it without the log, None where it cannot be found."""
        try:
            leaves = list(leaves_of(self.page_of_file, self.roots().get("shelf", 0), first=STATE_ID, last=STATE_ID))
        except TreeError:
            # In the middle of a checkpoint only log and file together are a tree.
            return None
        for leaf in leaves:
            rows = dict(rows_of(self.page_of_file(leaf) or b"", leaf, self.page_of_file))
            if STATE_ID in rows:
                return state_in(rows[STATE_ID])
        return None

    def states_of_log(self) -> tuple[State, State] | None:
        """Return the states of the first and the last commit in the log, None where it holds none."""
        # A long state goes on in pages that later commits write anew: each is read as the log was at its end.
        transactions = list(self._transactions())
        by_then: dict[int, int] = {}
        first = last = None
        for frames in transactions:
            by_then.update(frames)
            if (first := self._newest_state(frames, by_then)) is not None:
                break
        for frames in reversed(transactions):
            if (last := self._newest_state(frames, ChainMap(dict(frames), self.log.newest))) is not None:
                break
        return None if first is None or last is None else (first, last)

    def is_half_moved(self, *, commit: int) -> bool:
        """Whether the file has something of the log by now, or the state of `commit`, the one before it.

        In the middle of a checkpoint the inner pages of the file alone may lead to a page that was given up long ago.
        But one of the pages that the log's first commit wrote had the state before, and has it still, or what the log
        has for it. That inner pages are as in the log says nothing: they stay the same for long.
        """
        for number, _ in next(self._transactions(), ()):
            page = self.page_of_file(number) or b""
            rows = rows_of(page, number, self.page_of_file)
            states = [state_in(values) for row_id, values in rows if row_id == STATE_ID]
            if any(state is not None and state.commit == commit for state in states):
                return True
            copies = (self.log.page(place) for other, place in self.log.frames if other == number)
            if page[:1] == bytes([TABLE_LEAF]) and page in copies:
                return True
        return False

    def _transactions(self) -> Iterator[list[tuple[int, int]]]:
        """Return the frames of each transaction that was committed, in order."""
        end = max(self.log.newest.values(), default=-1)
        frames: list[tuple[int, int]] = []
        for number, place in self.log.frames:
            if place > end:
                return
            frames.append((number, place))
            if self.log.is_end(place):
                yield frames
                frames = []

    def _newest_state(self, frames: Iterable[tuple[int, int]], places: Mapping[int, int]) -> State | None:
        """Return the state that a transaction wrote: where rows moved, pages that it left have an earlier one still.

        `places` says where in the log pages were by then.
        """
        found: State | None = None

        def page(number: int) -> bytes | None:
            self._pages_left -= 1
            found = self.log.page(places[number]) if number in places else self.page_of_file(number)
            return found if self._pages_left >= 0 else None

        for number, place in frames:
            for row_id, values in rows_of(self.log.page(place), number, page):
                state = state_in(values) if row_id == STATE_ID else None
                if state is not None and (found is None or state.commit > found.commit):
                    found = state
        return found


def state_in(values: tuple[Value, ...]) -> State | None:
    """Return the state that a row of the shelf holds, or None."""
    try:
        return decode_state(values[-1] if values else None)
    except DamagedStateError:
        return None


def read_log_bytes(path: Path) -> bytes:
    """Return the log of the database at `path`, or as much of it as is ever looked at; nothing where there is none."""
    try:
        with path.with_name(path.name + "-wal").open("rb") as file:
            return file.read(LOG_BYTES_MAX)
    except FileNotFoundError:
        return b""


def find(state_dir: Path) -> Path:
    """Return the database in `state_dir`; raise StoreError where there is none, or only a link to one."""
    path = state_dir / DATABASE
    for file in (path, path.with_name(f"{DATABASE}-wal")):
        check_file(file)
    if not path.exists():
        raise StoreError(interrupted(path) or f"there is no {path}; is this the gateway's state_dir?")
    return path


def held_in(state_dir: Path) -> dict[str, int]:
    """Return how many readings a shelf holds for each uplink as its state row says; nothing where none can be read."""
    try:
        with PageFile(find(state_dir)) as pages:
            state = pages.state()
    except (StoreError, OSError, TreeError):
        return {}
    return {} if state is None else {share.name: share.held for share in state.shares if share.held}
