"""What links have spent, in a file of its own: a link belongs to no uplink, and outlives each. Must not know budgets.

| offset | bytes | what                                                    |
| ------ | ----- | ------------------------------------------------------- |
| 0      | 4     | `TGl1`                                                  |
| 4      | 4     | CRC-32 of the rest, little endian                       |
| 8      |       | MessagePack: what each link's budget noted, by its name |

It is written when what is to be spent is more than it covers: some sixty times in the shortest window of a budget. A
link that is configured no more keeps what it noted, so that nobody has a new allowance by leaving it out for an hour.
The one before stays beside it, for a card that loses bits must not double the month's bill:

| the file is            | the one before is | what was spent is                                              |
| ---------------------- | ----------------- | -------------------------------------------------------------- |
| whole                  |                   | known                                                          |
| not there              | whole             | known: a power cut came between the two names                  |
| damaged                | whole             | what that says, and what the damaged one may have covered      |
| damaged, or not there  | damaged           | not known: see lost_notes.py                                   |
| not there              | not there         | nothing: this is a new gateway, or somebody wants to begin anew |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.net.files import read_file, replace_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.store.notebook import Notebook

log = logging.getLogger("tidegate.uplinks")

NAME: Final = "links.state"
BEFORE: Final = ".before"
MAGIC: Final = b"TGl1"
# Of links that there are, or ever were: of more, those that are not configured are forgotten.
LINKS_MAX: Final = 64


class Known(Enum):
    """How well it is known what links have spent."""

    ALL = "all"
    """It stands in the file."""
    ALL_BUT_THE_LAST = "all but the last"
    """The last note is lost, and what was spent between the one before and that one."""
    NOTHING = "nothing"
    """There was a file, and none of it can be read."""


class LinkNotes:
    """The file at `path`, and the notebooks of links that write it. `known` says what it is worth."""

    def __init__(self, path: Path) -> None:
        self._path, self._before = path, path.with_suffix(path.suffix + BEFORE)
        self._notes, self.known = _read_either(self._path, self._before)
        self._notebooks: dict[str, Notebook] = {}
        self._lock = asyncio.Lock()
        self._has_failed = False
        self._turn = 0
        self._writing: set[asyncio.Task[bool]] = set()

    def last(self, link: str) -> bytes:
        """Return what was written last of a link, nothing where nothing ever was."""
        return self._notes.get(link, b"")

    def keep(self, link: str, notebook: Notebook) -> None:
        """From now on have each write hold what `notebook` says."""
        self._notebooks[link] = notebook

    async def write(self, *, is_last: bool = False) -> bool:
        """Return when the file holds what all of them say now; False where the disk does not take it."""
        # Who does not wait for it any more must not have it run beside the next one.
        writing = asyncio.create_task(self._write(self._turn, is_last=is_last), name="links: notes")
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    async def _write(self, turn: int, *, is_last: bool) -> bool:
        async with self._lock:
            if self._turn > turn and not is_last:
                # Somebody else's was begun since, and has ended.
                return not self._has_failed
            self._turn += 1
            notes = dict(list(self._notes.items())[-LINKS_MAX:])
            notes |= {link: notebook.plan(is_last=is_last) for link, notebook in self._notebooks.items()}
            try:
                await asyncio.to_thread(self._put, notes)
            except (OSError, RuntimeError) as error:
                if not self._has_failed:
                    log.warning("%s cannot be written: %s; links are used all the same", self._path, error)
                self._has_failed = True
                return False
            self._has_failed, self._notes = False, notes
            for notebook in self._notebooks.values():
                notebook.written()
            return True

    def _put(self, notes: Mapping[str, bytes]) -> None:
        body = msgspec.msgpack.encode(notes)
        replace_file(self._path, MAGIC + zlib.crc32(body).to_bytes(4, "little") + body, before=self._before)
        # After a power cut it must not be the old one again.
        sync_folder(self._path.parent)


def _read_either(path: Path, before: Path) -> tuple[dict[str, bytes], Known]:
    """Return what is known, and how well."""
    found, is_there = _read(path)
    if found is not None:
        return found, Known.ALL
    older, was_there = _read(before)
    if older is not None:
        if is_there:
            log.warning("%s: what links have spent is taken from the note before that one", path)
        return older, Known.ALL_BUT_THE_LAST if is_there else Known.ALL
    if not (is_there or was_there):
        return {}, Known.ALL
    log.warning(
        "%s: what links have spent is not known; of each allowance that part is taken for spent whose time is over",
        path,
    )
    return {}, Known.NOTHING


def _read(path: Path) -> tuple[dict[str, bytes] | None, bool]:
    """Return what stands in a file, None where nothing can be read, and whether there is one."""
    try:
        data = read_file(path)
    except FileNotFoundError:
        return None, False
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error.strerror)
        return None, True
    if data[:4] == MAGIC and zlib.crc32(data[8:]).to_bytes(4, "little") == data[4:8]:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return msgspec.msgpack.decode(data[8:], type=dict[str, bytes]), True
    log.warning("%s is damaged", path)
    return None, True
