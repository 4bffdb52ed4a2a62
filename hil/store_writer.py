"""A process that fills a real store and says, outside of its disk, what it was promised: a victim for the rigs.

    with Writers() as writers:
        writer = writers.start(rig.path / "state", seed=1, first=0)
        ...
        rig.cut(writer)                  # it has what the rig asks of a process: pid and wait
        writer.said()                    # what was kept, sent and refused by then

A writer is forked by a process that has imported everything, so that a round costs milliseconds. Its readings
are numbers that are used once. Must not judge what is found on the disk afterwards: that is the test's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from gateway.core.batch import MONOTONIC, Batch, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import FullError, Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.store.database import Lease, Loss, SetAside, Store, StoreSettings
from gateway.store.segments import decode_metrics
from hil.children import Child, python

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

UPLINKS: Final = ("cloud", "spare")
"""The writer delivers to the first; the second never takes anything, so its shelf runs over."""
MAX_BYTES: Final = 1 << 20
COMMIT_S: Final = 0.002
APPENDERS: Final = 3
APPEND_READINGS_MAX: Final = 60
END_S: Final = 60.0


class BootClock(SystemClock):
    """The machine's clocks in a boot of their own."""

    def __init__(self, boot: str) -> None:
        super().__init__()
        self._boot = boot

    def boot_uuid(self) -> str:
        """Return what was given."""
        return self._boot


async def open_store(state_dir: Path, boot: str) -> Store:
    """Open the store as every writer has it: small, with short commits, so that much happens in little time."""
    return await Store.open(
        state_dir=state_dir,
        settings=StoreSettings(max_bytes=Size(MAX_BYTES)),
        clock=BootClock(boot),
        uplinks=UPLINKS,
        max_series=1000,
        telemetry=Telemetry(),
        commit_interval_s=COMMIT_S,
    )


def numbers_in(lease: Lease) -> list[int]:
    """Return the readings' numbers of a lease, in order."""
    found = [decode_metrics(segment.body).bits for segment in lease.segments]
    return sorted(np.concatenate(found).tolist())


@dataclass(slots=True)
class Said:
    """What a writer said: `kept` was appended and the append had returned, `sent` was in a request that was taken."""

    opened: bool = False
    offered: int = 0
    kept: set[int] = field(default_factory=set)
    sent: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    lost: int = 0


class Writer:
    """One writing process, as the power-cut rig takes it."""

    def __init__(self, pool: Child, pid: int) -> None:
        self.pid = pid
        self._pool = pool
        self._lines: list[str] = []
        self._is_over = False

    def wait(self, timeout: float = END_S) -> int:
        """Read on until it has ended."""
        while not self._is_over:
            self._read(timeout)
        return 0

    def wait_for(self, word: str) -> None:
        """Read on until it says `word`, or ends."""
        while not self._is_over and not any(line.startswith(word) for line in self._lines):
            self._read(END_S)

    def _read(self, timeout: float) -> None:
        line = self._pool.next_line(within_s=timeout)
        if line is None:
            raise RuntimeError(f"the writers' process ended:\n{self._pool.tail()}")
        self._is_over = line == f"ended {self.pid}"
        self._lines.append(line)

    def said(self) -> Said:
        """Return what it said; a line that was cut by the end does not count."""
        said = Said()
        for line in self._lines:
            if line.startswith("Traceback"):
                raise RuntimeError("\n".join(self._lines))
            if not line.endswith(" ."):
                continue
            word, *rest = line.removesuffix(" .").split()
            if word == "opened":
                said.opened = True
            elif word == "offered":
                said.offered = int(rest[0])
            elif word == "lost":
                said.lost += int(rest[0])
            else:
                getattr(said, word).update(_numbers(rest))
        return said


class Writers:
    """The process that writers are forked from. One writer at a time."""

    def __init__(self) -> None:
        self._child = Child(python("-m", "hil.store_writer"), env={"OPENBLAS_NUM_THREADS": "1"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()

    def start(self, state_dir: Path, *, seed: int, first: int) -> Writer:
        """Start a writer whose numbers begin at `first`."""
        self._child.write_line(json.dumps({"state_dir": str(state_dir), "seed": seed, "first": first}))
        line = self._child.wait_for("started")
        return Writer(self._child, int(line.split()[1]))


# From here on, the process that writes.


def _say(word: str, *rest: object) -> None:
    # Straight to the pipe: what stands in a buffer dies with the process.
    os.write(1, f"{word} {' '.join(map(str, rest))} .\n".encode())


def _ranges(numbers: Iterable[int]) -> list[str]:
    """Return sorted numbers as short text.

    >>> _ranges([1, 2, 3, 7]), sorted(_numbers(["1-3", "7-7"]))
    (['1-3', '7-7'], [1, 2, 3, 7])
    """
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        runs.append(f"{found[0]}-{found[-1]}")
    return runs


def _numbers(ranges: Iterable[str]) -> set[int]:
    found: set[int] = set()
    for text in ranges:
        first, last = text.split("-")
        found.update(range(int(first), int(last) + 1))
    return found


class _Load:
    """Appends, delivers, loses and refuses, as fast as the store goes along."""

    def __init__(self, store: Store, *, seed: int, first: int) -> None:
        self._store = store
        self._dice = random.Random(seed)
        self._next = first

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(APPENDERS):
                tasks.create_task(self._append(number))
            tasks.create_task(self._deliver())

    async def _append(self, device: int) -> None:
        dice, store = self._dice, self._store
        while True:
            count = dice.randint(1, APPEND_READINGS_MAX)
            first, self._next = self._next, self._next + count
            # Said before it is offered: what is on the disk and was never promised is still not from nowhere.
            _say("offered", self._next)
            pieces = []
            for start in range(first, first + count, 20):
                series = store.resolve(Series((("device.id", f"d{device}-{dice.randint(0, 50)}"),), "n"))
                numbers = np.arange(start, min(start + 20, first + count))
                batch = Batch.of(series or 1, SystemClock().monotonic_ns() + numbers, numbers, flags=MONOTONIC)
                pieces.append((dice.choice(list(Priority)), batch))
            losses, set_aside = [], []
            if dice.random() < 0.1:
                losses.append(Loss("malformed", 1))
                set_aside.append(SetAside("line", b"t", b"x" * dice.randint(1, 3000), "malformed", "no number"))
            while True:
                try:
                    await store.append(pieces, losses=losses, set_aside=set_aside)
                except FullError as error:
                    await asyncio.sleep(error.after_s)
                else:
                    break
            _say("kept", f"{first}-{first + count - 1}")
            if losses:
                _say("lost", 1)
            if dice.random() < 0.2:
                await asyncio.sleep(dice.uniform(0, 0.01))

    async def _deliver(self) -> None:
        dice, store = self._dice, self._store
        while True:
            await store.wait_held(UPLINKS[0])
            lease = await store.lease(UPLINKS[0], readings_max=dice.randint(1, 500), bytes_max=1 << 20)
            if lease is None:
                continue
            await asyncio.sleep(dice.uniform(0, 0.01))
            fate = dice.random()
            if fate < 0.1:
                store.release(lease, maybe_delivered=False)
            elif fate < 0.15:
                _say("refused", *_ranges(numbers_in(lease)))
                store.refuse(lease, "refused", "not today")
            else:
                _say("sent", *_ranges(numbers_in(lease)))
                store.ack(lease)


async def _write(order: dict[str, Any]) -> None:
    store = await open_store(Path(order["state_dir"]), f"boot-{order['first']}-{order['seed']}")
    _say("opened")
    await _Load(store, seed=order["seed"], first=order["first"]).run()


def main() -> None:
    """Fork a writer for each line of stdin and say when it has ended."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            asyncio.run(_write(json.loads(line)))
            os._exit(0)
        os.write(1, b"started %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"\nended %d\n" % pid)


if __name__ == "__main__":
    main()
