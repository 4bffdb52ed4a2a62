"""Random damage to a shelf whose truth is known: what a salvage says is lost is what is lost, or lies around it.

A seed makes a shelf (uplinks that come and go, classes, deliveries and refusals in between, so that free pages and
older versions of pages hold what was delivered), another one damages it. Some have been full, and much of what they
hold was written anew.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.store.accounts import decode_state
from gateway.store.connection import DATABASE, PAGE_BYTES
from gateway.store.pagefile import PageFile
from gateway.store.pages import FRAME_HEADER_BYTES, leaves_of, rows_of
from gateway.store.reading import verify
from gateway.store.records import STATE_ID, where_from
from gateway.store.salvage import salvage
from gateway.store.taking import origin_of

if TYPE_CHECKING:
    from pathlib import Path

LOG = f"{DATABASE}-wal"
UPLINKS = ("cloud", "backup", "third")


async def put_steadily(shelves, store, rng: random.Random, count: int) -> None:
    """So many readings of two series, one a second each, that can be thinned; one of two mappings made them."""
    shelves.clock.advance(count * NS_PER_S)
    numbers = [store.resolve(Series((), f"steady{k}")) for k in range(2)]
    times = np.tile(shelves.clock.wall_ns() - np.arange(count, 0, -1) * NS_PER_S, 2)
    values = np.random.default_rng(rng.randrange(10**6)).integers(0, 10**6, 2 * count) / 100
    batch = Batch.of(np.repeat(np.array(numbers, np.uint32), count), times, values)
    made_by = origin_of(rng.choice(["x", "y"]))
    await store.append([(rng.choice(list(Priority)), replace(batch, origin=made_by))])


async def fill_up(shelves, store, rng: random.Random) -> None:
    """Until some has been written anew."""
    for _ in range(400):
        if store.status()["store"]["rewritten"] >= 4:
            return
        await put_steadily(shelves, store, rng, rng.choice([5, 5, 5, 3000]))
    pytest.fail("nothing was written anew")


async def make(shelves, rng: random.Random, tmp_path: Path, *, is_diluted: bool) -> Path:
    """Let a gateway live on a shelf; return what it leaves behind, in order or as if it had died."""
    uplinks = UPLINKS[: rng.randint(1, 3)]
    settings = {"max_bytes": 1 << 20, "when_full": "dilute" if is_diluted else "drop_oldest"}
    store = await shelves.open(uplinks=uplinks, **settings)
    if is_diluted:
        await fill_up(shelves, store, rng)
    for _ in range(rng.randint(30, 150)):
        match rng.randrange(12 if is_diluted else 10):
            case 10 | 11:
                await put_steadily(shelves, store, rng, rng.choice([5, 5, 3000]))
            case 0:
                await shelves.put_noise(store, rng.randint(100, 6000), priority=rng.choice(list(Priority)))
            case 1 | 2 | 3 | 4:
                await shelves.put(store, rng.choice([3, 20, 20, 20, 200]), priority=rng.choice(list(Priority)))
            case 5 | 6 | 7 | 8:
                name = rng.choice(uplinks)
                lease = await shelves.lease(store, name, readings_max=rng.choice([1, 100, 2000]))
                if lease is not None and rng.random() < 0.1:
                    store.refuse(lease, "odd", "told to")
                elif lease is not None:
                    store.ack(lease)
                await shelves.put(store, 1)
            case _ if rng.random() < 0.3:
                await shelves.close()
                uplinks = UPLINKS[: rng.randint(1, 3)]
                store = await shelves.open(uplinks=uplinks, **settings)
    left = tmp_path / f"left-{rng.random()}"
    if rng.random() < 0.6:
        await store.append([])
        shutil.copytree(shelves.state_dir, left)
        await shelves.close()
    else:
        await shelves.close()
        shutil.copytree(shelves.state_dir, left)
    return left


@dataclass
class Truth:
    """What a shelf holds before it is damaged: of each uplink the segments, of each segment where its bytes are."""

    held: dict[str, dict[int, int]]
    bits: dict[str, int]
    places: dict[int, list[tuple[str, int, int]]]

    @classmethod
    def of(cls, state_dir: Path) -> Truth:
        places: dict[int, list[tuple[str, int, int]]] = {}
        rows: dict[int, tuple] = {}
        with PageFile(state_dir / DATABASE) as pages:

            def place(number: int) -> tuple[str, int, int]:
                if number in pages.log.newest:
                    start = pages.log.newest[number]
                    return LOG, start - FRAME_HEADER_BYTES, start + PAGE_BYTES
                return DATABASE, (number - 1) * PAGE_BYTES, number * PAGE_BYTES

            for leaf in leaves_of(pages.page, pages.roots()["shelf"]):
                read: list[int] = []

                def page(number: int, read: list[int] = read) -> bytes | None:
                    read.append(number)
                    return pages.page(number)

                for row_id, values in rows_of(pages.page(leaf) or b"", leaf, page):
                    places[row_id] = [place(number) for number in [leaf, *read]]
                    rows[row_id] = values
                    read.clear()
        state = decode_state(rows.pop(STATE_ID)[-1])
        held = {
            share.name: {
                row_id: values[2]
                for row_id, values in rows.items()
                if share.wants(where_from(row_id)[2]) and not values[1] & share.bit
            }
            for share in state.shares
        }
        for share in state.shares:
            assert sum(held[share.name].values()) == share.held
        return cls(held, {share.name: share.bit for share in state.shares}, places)


def hurt(state_dir: Path, rng: random.Random) -> list[tuple[str, int, int]]:
    """Damage a shelf; return where.

    A page that stands in another's place is told by that which is the same, or not at all: so that stays unhurt.
    """
    hurts: list[tuple[str, int, int]] = []
    names = [name for name in (DATABASE, LOG) if (state_dir / name).exists() and (state_dir / name).stat().st_size]
    for left in reversed(range(rng.choice([1, 1, 1, 2, 3, 8]))):
        name = rng.choice(names)
        path = state_dir / name
        data = bytearray(path.read_bytes())
        unit = PAGE_BYTES if name == DATABASE else PAGE_BYTES + FRAME_HEADER_BYTES
        base = 0 if name == DATABASE else 32
        count = max((len(data) - base) // unit, 1)
        at = base + rng.randrange(count) * unit
        match rng.randrange(6):
            case 0:
                at, new = rng.randrange(len(data)), rng.randbytes(1)
            case 1:
                new = rng.randbytes(unit)
            case 2:
                new = bytes(unit)
            case 3:
                at = rng.randrange(len(data)) // PAGE_BYTES * PAGE_BYTES
                new = bytes(PAGE_BYTES * rng.randint(1, 8))
            case 4 if not left:
                other = base + rng.randrange(count) * unit
                new = bytes(data[other : other + unit])
            case _:
                at = rng.randrange(len(data)) // PAGE_BYTES * PAGE_BYTES
                new = rng.randbytes(PAGE_BYTES * rng.randint(1, 8))
        new = new[: len(data) - at]
        data[at : at + len(new)] = new
        path.write_bytes(data)
        hurts.append((name, at, at + len(new)))
    return hurts


def found_in(state_dir: Path, bits: dict[str, int]) -> dict[str, dict[int, int]]:
    """Return by uplink which segments it can still get, and how many readings are in each."""
    with contextlib.closing(sqlite3.connect(state_dir / DATABASE)) as connection:
        rows = connection.execute("SELECT id, done, readings FROM shelf WHERE id < ?", (STATE_ID,)).fetchall()
    return {name: {row: readings for row, done, readings in rows if not done & bit} for name, bit in bits.items()}


def check(state_dir: Path, truth: Truth, hurts: list[tuple[str, int, int]]) -> str:
    """Salvage; everything that is said is true. Return how well that was known."""
    salvaged = salvage(state_dir, wall_ns=10**18)
    sentence = salvaged.sentence("a test")
    # Names of series and all counters may be lost: then that is said elsewhere.
    known = ("nobody knows its series", "nobody knows what was accepted" if not salvaged.state_found else "series")
    assert [text for text in verify(state_dir).problems if not any(what in text for what in known)] == []
    found = found_in(state_dir, truth.bits)
    assert salvaged.state_found or "how much is not known" in sentence
    lost_any = False
    for name, held in truth.held.items():
        # A segment that grew when others became part of it may be back as it was before: that is a loss, too.
        readings = sum(max(readings - found[name].get(row, 0), 0) for row, readings in held.items())
        lost_any |= bool(readings)
        if salvaged.is_newest:
            least, most = salvaged.lost[name]
            assert least <= readings <= most, (name, readings, sentence)
        for row in held.keys() - found[name].keys():
            assert any(
                file == name and start < end_hurt and begin_hurt < end
                for file, start, end in truth.places[row]
                for name, begin_hurt, end_hurt in hurts
            ), f"{where_from(row)} was not touched: {sentence}"
    if lost_any:
        assert "lost: nothing;" not in sentence
    if not salvaged.state_found:
        return "unknown"
    if not salvaged.is_newest:
        return "older"
    return "exact" if all(one.least == one.most for one in salvaged.lost.values()) else "range"


async def damage_often(shelves, tmp_path: Path, *, seed: int, rounds: int, is_diluted: bool = False) -> dict[str, int]:
    left = await make(shelves, random.Random(seed), tmp_path, is_diluted=is_diluted)
    truth = Truth.of(left)
    known: dict[str, int] = {}
    for number in range(rounds):
        work = tmp_path / "work"
        shutil.copytree(left, work)
        hurts = hurt(work, random.Random(f"{seed}-{number}"))
        try:
            how = check(work, truth, hurts)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, round {number}, hurt at {hurts}: {error}") from error
        known[how] = known.get(how, 0) + 1
        shutil.rmtree(work)
    return known


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_lost_is_said(shelves, tmp_path, seed) -> None:
    """Some of what `test_what_is_lost_is_said_whatever_happens` does."""
    known = await damage_often(shelves, tmp_path, seed=seed, rounds=20)
    assert sum(known.values()) == 20


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_lost_of_a_shelf_that_was_diluted_is_said(shelves, tmp_path, seed) -> None:
    """What became part of something else does not come back beside it, and the books go on with what it became."""
    known = await damage_often(shelves, tmp_path, seed=seed, rounds=10, is_diluted=True)
    assert sum(known.values()) == 10


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(200, 300))
async def test_what_is_lost_of_a_shelf_that_was_diluted_is_said_whatever_happens(shelves, tmp_path, seed) -> None:
    """The same at length."""
    known = await damage_often(shelves, tmp_path, seed=seed, rounds=40, is_diluted=True)
    assert sum(known.values()) == 40


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 200))
async def test_what_is_lost_is_said_whatever_happens(shelves, tmp_path, seed) -> None:
    """Bytes, pages, frames, in the file and in its log: nothing is shown as less than it is, nothing unhurt is lost."""
    known = await damage_often(shelves, tmp_path, seed=seed, rounds=100)
    assert sum(known.values()) == 100
