"""Power cuts at every sync of a recorded run, with writes that were under way lost, torn or reordered (P1, P2, P7).

The store runs over a SQLite whose VFS writes down what it does to which file. A cut leaves of each file what had
been synced, and of every write since then, by the throw of a die, all, nothing or the first sectors. Each such disk is
opened by the store as it ships: what had been promised by then is there, the accounts add up, and nothing is
called damage.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.store import connection, room, starting
from gateway.store.connection import Steps
from gateway.store.database import BoardLimits, Loss, Store, StoreSettings
from gateway.store.reading import verify
from gateway.store.segments import decode_metrics
from hil.virtual_threads import step_by_step

SECTOR_BYTES = 512
APPENDS = 60


@dataclass
class Journal:
    """What happened, in order: ("write", file, offset, data), ("sync", file), …, and ("promise", …) in between."""

    events: list[tuple] = field(default_factory=list)

    def cut(self, at: int, rng: random.Random) -> dict[str, bytes]:
        """Return the files as a cut after the first `at` events leaves them."""
        files: dict[str, bytearray] = {}
        waiting: dict[str, list[tuple]] = {}
        for kind, name, *rest in self.events[:at]:
            if kind == "delete":
                # SQLite syncs the directory too, at once.
                files.pop(name, None)
                waiting.pop(name, None)
            elif kind in {"write", "truncate"}:
                waiting.setdefault(name, []).append((kind, *rest))
            elif kind == "sync":
                for change in waiting.pop(name, []):
                    apply(files.setdefault(name, bytearray()), *change)
        for name, changes in waiting.items():
            data = files.setdefault(name, bytearray())
            for kind, *rest in changes:
                fate = rng.random()
                if fate < 0.4:
                    continue
                if fate < 0.6 and kind == "write":
                    offset, written = rest
                    apply(data, kind, offset, written[: rng.randrange(0, len(written), SECTOR_BYTES)])
                else:
                    apply(data, kind, *rest)
        return {name: bytes(data) for name, data in files.items()}


def apply(data: bytearray, kind: str, *rest) -> None:
    """Do to `data` what was done to the file."""
    if kind == "truncate":
        del data[rest[0] :]
        data.extend(bytes(rest[0] - len(data)))
        return
    offset, written = rest
    data.extend(bytes(max(offset + len(written) - len(data), 0)))
    data[offset : offset + len(written)] = written


class RecordingFile(apsw.VFSFile):
    """A file whose changes are written down."""

    def __init__(self, name, flags, journal: Journal) -> None:
        super().__init__("unix", name, flags)
        self._journal = journal
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name).name

    def xWrite(self, data, offset) -> None:  # noqa: N802  SQLite calls it so
        self._journal.events.append(("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size) -> None:  # noqa: N802  SQLite calls it so
        self._journal.events.append(("truncate", self._name, size))
        super().xTruncate(size)

    def xSync(self, flags) -> None:  # noqa: N802  SQLite calls it so
        super().xSync(flags)
        self._journal.events.append(("sync", self._name))


class RecordingVfs(apsw.VFS):
    """The system's files, written down in a journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__("recording", "unix")
        self._journal = journal

    def xDelete(self, name, sync_directory) -> None:  # noqa: N802  SQLite calls it so
        super().xDelete(name, sync_directory)
        self._journal.events.append(("delete", Path(name).name))

    def xOpen(self, name, flags) -> RecordingFile:  # noqa: N802  SQLite calls it so
        return RecordingFile(name, flags, self._journal)


class Shim:
    """What the store uses of an aiosqlite connection, over apsw."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), vfs="recording")
        # The index of the log in memory, as with unix-excl.
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")

    async def execute_fetchall(self, sql: str, values=()) -> list[tuple]:
        if isinstance(sql, Steps):
            return await step_by_step(self, sql)
        return list(self._connection.execute(sql, tuple(values)))

    async def executemany(self, sql: str, rows) -> None:
        self._connection.executemany(sql, rows)

    async def executescript(self, sql: str) -> None:
        self._connection.execute(sql)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    async def close(self) -> None:
        self._connection.close()


async def open_store(state_dir: Path, clock: FakeClock) -> Store:
    return await Store.open(
        state_dir=state_dir,
        settings=StoreSettings(recent_bytes=0),
        clock=clock,
        uplinks=("cloud",),
        max_series=10,
        telemetry=Telemetry(),
        commit_interval_s=0.0,
        board=BoardLimits(log_bytes_max=16 << 10),
    )


@pytest.fixture
async def journal(tmp_path, monkeypatch):
    """A run of appends and acks, with checkpoints in between."""
    found = Journal()
    vfs = RecordingVfs(found)
    shims: list[Shim] = []

    async def connect(path, **_) -> Shim:
        shims.append(Shim(path))
        return shims[-1]

    async def open_reader(_: Path) -> Shim:
        return shims[-1]

    with monkeypatch.context() as patch:
        patch.setattr(connection.aiosqlite, "connect", lambda *_, **__: connect(tmp_path / "run" / "tidegate.db"))
        patch.setattr(starting, "open_reader", open_reader)
        patch.setattr(room, "LOG_BYTES_MIN", 16 << 10)
        clock = FakeClock()
        store = await open_store(tmp_path / "run", clock)
        rng = random.Random(3)
        number = 0
        for turn in range(APPENDS):
            count = rng.choice([1, 5, 40, 400])
            series = store.resolve(Series((), f"m{turn % 5}"))
            ids = np.arange(number, number + count)
            number += count
            priority = Priority(rng.randrange(3))
            await store.append([(priority, Batch.of(series, clock.wall_ns(), ids))], losses=[Loss("syntax", turn % 2)])
            found.events.append(("promise", ids.tolist(), turn % 2))
            clock.advance(NS_PER_S)
            if turn > 20 and rng.random() < 0.7:
                lease = await store.lease("cloud", readings_max=300, bytes_max=1 << 20)
                if lease is not None:
                    sent = [n for segment in lease.segments for n in decode_metrics(segment.body).bits.tolist()]
                    found.events.append(("sent", sent))
                    store.ack(lease)
        await store.close()
    vfs.unregister()
    return found


async def check(journal: Journal, at: int, folder: Path, rng: random.Random) -> None:
    """Open what a cut leaves; hold it against what had been promised."""
    promised, sent, lost = set(), set(), 0
    for kind, *rest in journal.events[:at]:
        if kind == "promise":
            promised.update(rest[0])
            lost += rest[1]
        elif kind == "sent":
            sent.update(rest[0])
    folder.mkdir()
    for name, data in journal.cut(at, rng).items():
        (folder / name).write_bytes(data)
    if not (folder / "tidegate.db").exists():
        assert not promised
        return
    report = verify(folder) if promised else None
    assert report is None or report.problems == [], at
    store = await open_store(folder, FakeClock())
    assert not [event for event in store.events if "damaged" in event] or not promised, (at, store.events)
    uplink = store.status()["uplinks"]["cloud"]
    held = set()
    while (lease := await store.lease("cloud", readings_max=10**6, bytes_max=1 << 26)) is not None:
        held.update(n for segment in lease.segments for n in decode_metrics(segment.body).bits.tolist())
    assert promised <= held | sent, at
    assert len(held) == uplink["held"]
    assert uplink["ledger"].get("syntax", 0) >= lost
    assert store.status()["accepted"] == uplink["delivered"] + uplink["held"] + sum(uplink["ledger"].values())
    await store.close()


@pytest.mark.slow
async def test_what_was_promised_survives_a_cut_at_every_sync(journal, tmp_path) -> None:
    """Just before each sync, when most is under way."""
    rng = random.Random(7)
    syncs = [at for at, event in enumerate(journal.events) if event[0] == "sync"]
    assert len(syncs) > APPENDS
    assert sum(event[0] == "sync" and event[1] == "tidegate.db" for event in journal.events) > 3
    for at in syncs:
        await check(journal, at, tmp_path / f"cut-{at}", rng)


@pytest.mark.nightly
async def test_what_was_promised_survives_a_cut_anywhere(journal, tmp_path) -> None:
    """Between any two events, with several fates of what was under way."""
    for at in range(len(journal.events) + 1):
        for seed in range(4):
            await check(journal, at, tmp_path / f"cut-{at}-{seed}", random.Random(seed))
