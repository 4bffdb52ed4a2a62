"""Writing the file of names (store/names): after the commit that brought them, without a sync of its own.

It is a third copy. What a power cut takes from it the next start finds missing and adds; a disk that does not take it
costs a warning that is counted, and it is tried again. What was forgotten stays in it until that is half of it: then it
is written anew. Must not keep names in memory: they are the registry's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, SupportsInt

from gateway.net.files import create, sync_folder
from gateway.store import disks
from gateway.store.names import ANCHOR, FORGOTTEN, HEAD_BYTES, HEADER, NAME, NAMES, VERSION, encode_record, may_have

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gateway.store.accounts import State
    from gateway.store.names import Comparison
    from gateway.store.series import SeriesRegistry
    from gateway.store.surroundings import Surroundings

log = logging.getLogger("tidegate.store")

# Where the state row is lost, a segment that is held has to tell whose names these are: one of so many is noted.
ANCHOR_SEGMENTS: Final = 64
# A file that is not longer than this is not written anew for what is forgotten.
WASTE_BYTES_MIN: Final = 16 << 10
# The disk keeps so much for what is to be accepted.
ROOM_LEFT_BYTES: Final = 64 << 10
BATCH_BYTES: Final = 64 << 10


class Naming:
    """The file of one open shelf."""

    def __init__(self, around: Surroundings, found: Comparison, registry: SeriesRegistry) -> None:
        self._path = around.room.state_dir / NAMES
        self._new = self._path.with_name(f"{NAMES}.new")
        self._registry = registry
        self._telemetry = around.telemetry
        self._is_off = bool(around.closed)
        self._id = found.id
        self._size_bytes = found.size_bytes
        self._anchored = found.anchored
        self._missing = found.missing
        self._is_behind = found.has_to_be_written
        self._is_unsynced = self._was_said = False
        self._state: State | None = None

    async def begin(self, state: State) -> None:
        """Bring the file in line with the tables, on the medium."""
        self._state = state
        if not self._is_off:
            with suppress(OSError):
                # Of a start that ended half way.
                self._new.unlink()
        await self.tend()
        await _in_thread(self._sync)

    def committed(self, series: Sequence[tuple[int, bytes]], left: Sequence[int], state: State) -> None:
        """Take note of a commit that is on the medium."""
        self._state = state
        if not self._is_off and not self._is_behind and (series or left or self._is_far(state)):
            named = (encode_record(NAME, number, body) for number, body in series if may_have(body))
            self._append([*named, *(encode_record(FORGOTTEN, number) for number in left)], state)

    def _is_far(self, state: State) -> bool:
        # An older copy of the database has not come so far.
        return not self._anchored <= state.sequence - 1 < self._anchored + ANCHOR_SEGMENTS

    async def tend(self) -> None:
        """Add what the start found missing, or write the file anew where it has to be."""
        state = self._state
        if self._is_off or state is None:
            return
        missing, self._missing = self._missing, []
        if missing and not self._is_behind:
            self._append(self._names(missing), state)
        if self._is_behind or self._is_wasteful():
            await _in_thread(self._rewrite, self._registry.saved_numbers(), state)

    def _is_wasteful(self) -> bool:
        return self._size_bytes > 2 * self._wanted_bytes() + WASTE_BYTES_MIN

    def _wanted_bytes(self) -> int:
        return self._registry.names_bytes + len(self._registry) * HEAD_BYTES

    async def close(self) -> None:
        """Have all of it on the medium."""
        state = self._state
        if not self._is_off and not self._is_behind and state is not None and state.sequence - 1 != self._anchored:
            self._append([], state)
        await _in_thread(self._sync)

    # The file.

    def _sync(self) -> None:
        """Have the medium take what was appended."""
        if not self._is_unsynced:
            return
        with suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
            self._is_unsynced = False

    def _names(self, numbers: Iterable[SupportsInt]) -> Iterator[bytes]:
        for number in map(int, numbers):
            body = self._registry.body(number)
            if body is not None and may_have(body):
                yield encode_record(NAME, number, body)

    @staticmethod
    def _anchor(state: State) -> bytes:
        return encode_record(ANCHOR, state.sequence - 1, state.previous_hash)

    def _append(self, records: Iterable[bytes], state: State) -> None:
        try:
            data = b"".join([*records, self._anchor(state)])
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                written = os.write(file, data)
            finally:
                os.close(file)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  like any other
        except OSError as error:
            self._failed(error)
            return
        self._size_bytes += len(data)
        self._anchored = state.sequence - 1
        self._is_unsynced = True

    def _rewrite(self, numbers: Iterable[SupportsInt], state: State) -> None:
        new = self._new
        try:
            if disks.free_bytes(self._path.parent) < self._wanted_bytes() + ROOM_LEFT_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  like any other
            with os.fdopen(create(new), "wb", buffering=BATCH_BYTES) as file:
                file.write(encode_record(HEADER, VERSION, self._id))
                for record in self._names(numbers):
                    file.write(record)
                file.write(self._anchor(state))
                file.flush()
                os.fsync(file.fileno())
                size_bytes = file.tell()
            new.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            self._failed(error)
            return
        self._size_bytes, self._anchored = size_bytes, state.sequence - 1
        self._is_behind = self._is_unsynced = self._was_said = False

    def _failed(self, error: OSError) -> None:
        self._is_behind = True
        self._telemetry.count("tidegate_store_series_file_errors")
        if not self._was_said:
            self._was_said = True
            why = disks.why(error, self._path)
            log.warning("the copy of the series' names in %s cannot be written, it is tried again: %s", self._path, why)


async def _in_thread(work: Callable[..., None], *arguments: object) -> None:
    try:
        await asyncio.to_thread(work, *arguments)
    except RuntimeError:
        # The interpreter ends, and begins no threads any more.
        work(*arguments)
