"""A disk that forgets what was not synced and tears pages: every write of SQLite is recorded, any moment played back.

    recorder = Recorder()
    with recorder.installed():           # connections of InlineConnection's kind, on apsw with a VFS of our own
        run(script())
    for image in recorder.images(dice, …):
        image.write_to(folder)           # open it with the real thing

What was synced is on every image; of what was not, none, some, some with one page half old and half new, or each
write by a fate of its own, truncations too. The order of what was not synced means nothing to a disk. Must not know
what the database is for.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import apsw

from hil.virtual_threads import Disk, InlineConnection, inline_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

Kind = Literal["synced", "some", "torn", "each"]
VFS: Final = "tidegate-recorder"
BASE_VFS: Final = "unix-excl"
# Disks write a sector whole or not at all; pages are larger.
SECTOR_BYTES: Final = 512
# Where each write has a fate of its own: how many are lost, and how many reach the disk in part.
LOST_SHARE: Final = 0.4
TORN_SHARE: Final = 0.2


class Op(NamedTuple):
    """What happened to one file: write at an offset, truncate to a size, sync, delete."""

    file: str
    act: Literal["write", "truncate", "sync", "delete"]
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Image:
    """The files as a power cut after `ops` operations may leave them."""

    ops: int
    kind: Kind
    files: dict[str, bytearray] = field(default_factory=dict)

    def write_to(self, folder: Path) -> None:
        """Put the files there."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)

    def apply(self, op: Op, data: bytes | None = None) -> None:
        """Do what `op` says, or only this part of its data."""
        if op.act == "delete":
            self.files.pop(op.file, None)
            return
        file = self.files.setdefault(op.file, bytearray())
        if op.act == "truncate":
            del file[op.offset :]
            file.extend(bytes(op.offset - len(file)))
        elif op.act == "write":
            data = op.data if data is None else data
            file.extend(bytes(max(0, op.offset - len(file))))
            file[op.offset : op.offset + len(data)] = data


class Recorder:
    """What SQLite did to its files, in order."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let aiosqlite's place be taken by connections that are recorded."""
        vfs = _RecordingVFS(self.ops)
        disk = Disk.still()
        try:
            with inline_sqlite(lambda: disk, ApswConnection):
                yield
        finally:
            vfs.unregister()

    def syncs(self) -> list[int]:
        """Return after how many operations something had just been synced."""
        return [number for number, op in enumerate(self.ops, start=1) if op.act == "sync"]

    def image(self, ops: int, kind: Kind, dice: Random) -> Image:
        """Return the disk after a power cut when `ops` operations had been done."""
        image = Image(ops, kind)
        done = self.ops[:ops]
        last_sync: dict[str, int] = {}
        for number, op in enumerate(done):
            if op.act == "sync":
                last_sync[op.file] = number
        loose: list[Op] = []
        for number, op in enumerate(done):
            # Names of files and their sizes are the journal's: a file system keeps those in order. To some it happens
            # that a size is late.
            in_order = {"delete"} if kind == "each" else {"delete", "truncate"}
            if op.act in in_order or number < last_sync.get(op.file, -1):
                if kind == "each" and op.act == "delete":
                    loose = [other for other in loose if other.file != op.file]
                image.apply(op)
            elif op.act != "sync":
                loose.append(op)
        if kind == "synced":
            return image
        if kind == "each":
            for op in loose:
                _by_fate(image, op, dice)
            return image
        kept = [op for op in loose if dice.random() < 0.5]
        torn = dice.choice(loose) if loose and kind == "torn" else None
        for op in dice.sample(kept, len(kept)):
            if op is not torn:
                image.apply(op)
        if torn is not None:
            image.apply(torn, _half(torn, dice))
        return image


def _by_fate(image: Image, op: Op, dice: Random) -> None:
    """Have nothing of it reach the disk, its first sectors, or all."""
    fate = dice.random()
    if fate >= LOST_SHARE + TORN_SHARE or (fate >= LOST_SHARE and op.act == "truncate"):
        image.apply(op)
    elif fate >= LOST_SHARE:
        image.apply(op, op.data[: dice.randrange(0, max(len(op.data), 1), SECTOR_BYTES)])


def _half(op: Op, dice: Random) -> bytes:
    """Return the part of a write that reached the disk: whole sectors, as they lie on it."""
    end = op.offset + len(op.data)
    edges = list(range((op.offset // SECTOR_BYTES + 1) * SECTOR_BYTES, end, SECTOR_BYTES))
    return op.data[: dice.choice(edges) - op.offset] if edges else op.data


class _RecordingFile(apsw.VFSFile):
    def __init__(self, name: str, filename: Any, flags: list[int], ops: list[Op]) -> None:
        super().__init__(BASE_VFS, filename, flags)
        self._name = name
        self._ops = ops

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._ops.append(Op(self._name, "write", offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._ops.append(Op(self._name, "truncate", newsize))

    def xSync(self, flags: int) -> None:
        # Noted and not done: what would be lost without it is what the images are about.
        self._ops.append(Op(self._name, "sync"))


class _RecordingVFS(apsw.VFS):
    def __init__(self, ops: list[Op]) -> None:
        super().__init__(VFS, BASE_VFS)
        self._ops = ops

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        file = Path(path or "temporary").name
        self._ops.append(Op(file, "write"))
        return _RecordingFile(file, name, flags, self._ops)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001  SQLite's own signature
        super().xDelete(filename, syncdir)
        self._ops.append(Op(Path(filename).name, "delete"))


class ApswConnection(InlineConnection):
    """A connection that SQLite's files are recorded of."""

    syncs = True

    @staticmethod
    def _open_database(database: str, _: dict[str, Any]) -> Any:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        # A VFS that the name asks for would be taken instead of ours, which stands on it.
        return apsw.Connection(database.replace(f"&vfs={BASE_VFS}", ""), flags=flags, vfs=VFS)

    async def executescript(self, sql: str) -> Any:
        """Run several statements."""
        return await self.execute_fetchall(sql)
