"""A segment that was written anew is told from one that was tampered with, and from one that was forged as such."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import BootId, Priority
from gateway.core.thinning import thin
from gateway.store.connection import DATABASE
from gateway.store.lineage import known_hash, next_carries
from gateway.store.reading import verify
from gateway.store.records import SEQUENCE_END, STATE_ID, where_from
from gateway.store.segments import Ancestors, decode_metrics, press_metrics, read_header, segment_hash

MIB = 1 << 20


@pytest.fixture
async def diluted(shelves):
    """A shelf with some segments that were written anew, closed."""
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    rng = np.random.default_rng(2)
    number = store.resolve(Series((), "m"))
    while store.status()["store"]["rewritten"] < 5:
        shelves.clock.advance(3000 * NS_PER_S)
        times = shelves.clock.wall_ns() - np.arange(3000, 0, -1) * NS_PER_S
        await store.append([(Priority.NORMAL, Batch.of(number, times, rng.integers(0, 10**6, 3000) / 100))])
    await shelves.close()
    return shelves.state_dir


class Shelf:
    """The rows of segments in a closed database, to be changed."""

    def __init__(self, state_dir) -> None:
        self.state_dir = state_dir

    def run(self, sql: str, *values: object) -> list[tuple]:
        connection = sqlite3.connect(self.state_dir / DATABASE)
        try:
            with connection:
                return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def rows(self) -> list[tuple[int, bytes]]:
        return self.run("SELECT id, body FROM shelf WHERE id < ? ORDER BY id", STATE_ID)

    def rewritten(self) -> list[tuple[int, bytes]]:
        return [(number, body) for number, body in self.rows() if read_header(body).ancestors is not None]

    def put(self, number: int, body: bytes) -> None:
        self.run("UPDATE shelf SET body = ?, readings = ? WHERE id = ?", body, read_header(body).readings, number)

    def problems(self) -> str:
        return " / ".join(verify(self.state_dir).problems)


def forge(body: bytes, batch: Batch, **change: object) -> bytes:
    """Return what somebody makes who knows the format, with right checksums."""
    header = read_header(body)
    ancestors = header.ancestors or Ancestors(segment_hash(body), bytes(16), 1, header.sequence, header.readings, 10)
    return press_metrics(batch).seal(
        sequence=header.sequence,
        boot=BootId(header.boot),
        previous_hash=header.previous_hash,
        ancestors=replace(ancestors, **change),
    )


def other_values(body: bytes) -> Batch:
    """Return its readings with another value in one of them."""
    batch = decode_metrics(body)
    bits = batch.bits.copy()
    bits[3] += 1
    return Batch(batch.series, batch.time_ns, bits, batch.flags)


async def test_the_chain_goes_through_it(diluted) -> None:
    """What stands behind the first of those that became one still follows it."""
    shelf = Shelf(diluted)
    report = verify(diluted)
    assert report.problems == []
    assert report.rewritten == len(shelf.rewritten()) >= 5
    bodies = {where_from(number)[2]: body for number, body in shelf.rows()}
    links = [
        (read_header(body).previous_hash, next_carries(bodies[sequence - 1]))
        for sequence, body in bodies.items()
        if sequence - 1 in bodies
    ]
    assert links
    assert all(before == after for before, after in links)


async def test_a_byte_that_changed_is_damage(diluted) -> None:
    """Its checksum covers what it says of the others, too."""
    shelf = Shelf(diluted)
    number, body = shelf.rewritten()[1]
    for at in (70, 90, 126, len(body) - 5):
        changed = bytearray(body)
        changed[at] ^= 1
        shelf.run("UPDATE shelf SET body = ? WHERE id = ?", bytes(changed), number)
        assert f"segment {where_from(number)[2]}: " in shelf.problems()
    assert next_carries(b"nothing of ours") == segment_hash(b"nothing of ours")


@pytest.mark.parametrize("which", [0, 2, -1])
async def test_another_value_with_a_right_checksum_breaks_its_chain(diluted, which) -> None:
    """The one that was written anew after it knows its hash, and the state row that of the last."""
    shelf = Shelf(diluted)
    number, body = shelf.rewritten()[which]
    shelf.put(number, forge(body, other_values(body)))
    said = shelf.problems()
    assert ("that chain is broken" in said) or ("another hash of what was written anew last" in said)


async def test_one_that_only_says_that_it_was_written_anew_is_found(diluted) -> None:
    """It has no place in that chain."""
    shelf = Shelf(diluted)
    plain = [(number, body) for number, body in shelf.rows() if read_header(body).ancestors is None]
    number, body = plain[3]
    left = thin(other_values(body), 10 * NS_PER_S)
    for count, sentence in [
        (99, "the state row does not know that it was written anew"),
        (3, "another one says that it was number 3"),
    ]:
        shelf.put(number, forge(body, left, number=count, last_sequence=read_header(body).sequence))
        assert sentence in shelf.problems()


async def test_it_holds_no_more_than_is_left_at_its_step(diluted) -> None:
    """Nor stands beside what it took the place of."""
    shelf = Shelf(diluted)
    number, body = shelf.rewritten()[2]
    header = read_header(body)
    assert header.ancestors.last_sequence > header.sequence
    shelf.put(number, forge(body, decode_metrics(body), step_s=3600))
    assert "it holds more than is left at a step of 3600 s" in shelf.problems()
    shelf.put(number, forge(body, decode_metrics(body), last_sequence=header.sequence + 10**6))
    assert f"segment {header.sequence} says that it stands for it, and both are there" in shelf.problems()


async def test_what_stood_between_two_may_be_gone(diluted, shelves) -> None:
    """As with all that was delivered: only neighbours are held against each other."""
    before = verify(diluted).rewritten
    store = await shelves.open(max_bytes=MIB, when_full="dilute")
    store.ack(await shelves.lease(store, readings_max=1))
    for _ in range(3):
        store.ack(await shelves.lease(store, readings_max=1))
    await shelves.close()
    report = verify(diluted)
    assert report.problems == []
    assert report.rewritten < before


def test_the_hash_of_a_segment_is_known_by_itself_or_by_the_one_after(diluted):
    """Where that is whole, and as it was written first: what is damaged or took another's place says nothing."""
    rows = dict(Shelf(diluted).rows())
    plain = {where_from(number)[2]: number for number, body in rows.items() if read_header(body).ancestors is None}
    first = next(sequence for sequence in plain if sequence + 1 in plain)
    own = segment_hash(rows[plain[first]])
    assert known_hash(rows.get, first) == own
    del rows[plain[first]]
    assert known_hash(rows.get, first) == own
    rows[plain[first + 1]] = rows[plain[first + 1]][:-1] + b"?"
    assert known_hash(rows.get, first) is None
    rewritten = {where_from(number)[2] for number, _ in Shelf(diluted).rewritten()}
    assert known_hash(dict(Shelf(diluted).rewritten()).get, min(rewritten)) is None
    assert known_hash(rows.get, SEQUENCE_END) is None
