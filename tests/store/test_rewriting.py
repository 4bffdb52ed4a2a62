"""What takes the place of segments says of which, and what is remembered of it stays small and true."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gateway.core.batch import Batch
from gateway.core.clock import NS_PER_S, BootTimes, Quality, Sample, Timeline
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.accounts import STRETCHES_MAX, Dilution, Stretch
from gateway.store.forgetting import Forgetter
from gateway.store.records import place
from gateway.store.rewriting import Member, Rewriting, describe, seal_again, still_held, widen
from gateway.store.room import Candidate
from gateway.store.segments import FIRST_HASH, decode_metrics, encode_metrics, link_hash, press_metrics, read_header
from gateway.store.segments import segment_hash as hash_of


def timeline(offset_ns: int | None = None) -> Timeline:
    samples = [] if offset_ns is None else [Sample(0, offset_ns, Quality.SYNCED)]
    return Timeline([BootTimes(BootId(1), "b", 10**12, samples)], current=BootId(1))


def member(sequence: int, batch: Batch, *, body: bytes = b"", first_s: int = 0) -> tuple[Member, bytes]:
    body = body or encode_metrics(batch, sequence=sequence, boot=BootId(1), previous_hash=bytes([sequence]) * 16)
    times = (first_s * NS_PER_S, (first_s + 50) * NS_PER_S) if first_s else (0, 0)
    segment_id = place(Priority.NORMAL, Signal.METRICS, sequence)
    row = Candidate(segment_id, 4, len(batch), 1, 7 * NS_PER_S + sequence, *times, len(body))
    return Member(row, read_header(body), 4), body


def some(first: int = 3, count: int = 3, *, step_s: int = 60, left: int = 8, first_s: int = 1000) -> Rewriting:
    batch = Batch.of(1, np.arange(20), np.arange(20))
    members = [member(first + k, batch, first_s=first_s and first_s + 100 * k) for k in range(count)]
    pressed = press_metrics(batch.take(slice(0, left)))
    return Rewriting([of for of, _ in members], pressed, step_s, members[0][1])


def test_it_stands_in_the_place_of_the_first_and_says_up_to_which() -> None:
    """With the first one's clock, age, neighbours and those who need it no more."""
    rewriting = some()
    ((row, done, stored_ns, first_ns, last_ns, body, replaced),), after = seal_again(
        [rewriting], Dilution(), timeline=timeline()
    )
    header = read_header(body)
    first = rewriting.members[0]
    assert (row.id, row.readings, row.boot, row.size_bytes) == (first.row.id, 8, 1, len(body))
    assert (done, stored_ns, replaced) == (4, first.row.stored_ns, rewriting.ids)
    assert (first_ns, last_ns) == (1000 * NS_PER_S, 1250 * NS_PER_S)
    assert (header.sequence, header.previous_hash, header.boot) == (3, bytes([3]) * 16, 1)
    assert link_hash(body, header) == hash_of(rewriting.first_body)
    assert (header.ancestors.last_sequence, header.ancestors.readings, header.step_s) == (5, 60, 60)
    assert (header.ancestors.number, header.ancestors.previous_hash) == (1, FIRST_HASH)
    assert len(decode_metrics(body)) == 8
    assert (after.count, after.hash) == (1, hash_of(body))
    assert after.stretches == [Stretch(Priority.NORMAL, 60, 1000, 1250, 5)]


def parted() -> Rewriting:
    """Three of 20 readings each, of which two become: one of series 7, one of series 8 and 9."""
    members = [member(3 + k, Batch.of(7, np.arange(20), np.arange(20)), first_s=1000 + 100 * k) for k in range(3)]
    first = press_metrics(Batch.of(7, np.arange(24), np.arange(24)))
    more = press_metrics(Batch.of([8, 9], np.arange(2), np.arange(2)))
    return Rewriting([of for of, _ in members], first, 60, members[0][1], more=[(more, members[1][1])])


def test_several_stand_in_the_places_of_the_first_ones_each_for_itself() -> None:
    """The last one for all that are left; together they stand for all that came, and none for less than it holds."""
    rewriting = parted()
    assert rewriting.lost == 60 - 26
    rows, after = seal_again([rewriting], Dilution(), timeline=timeline())
    assert [row.replaced for row in rows] == [rewriting.ids[:1], rewriting.ids[1:]]
    assert [row.row.readings for row in rows] == [24, 2]
    assert {(row.first_ns, row.last_ns) for row in rows} == {(1000 * NS_PER_S, 1250 * NS_PER_S)}
    headers = [read_header(row.body) for row in rows]
    assert [header.sequence for header in headers] == [3, 4]
    assert [header.ancestors.last_sequence for header in headers] == [3, 5]
    assert [header.ancestors.readings for header in headers] == [24, 36]
    assert [header.ancestors.number for header in headers] == [1, 2]
    assert headers[1].ancestors.previous_hash == hash_of(rows[0].body)
    assert link_hash(rows[1].body, headers[1]) == hash_of(rewriting.more[0][1])
    assert (after.count, after.hash) == (2, hash_of(rows[1].body))
    assert after.stretches == [Stretch(Priority.NORMAL, 60, 1000, 1250, 5)]


def test_series_that_moved_into_a_newer_segment_are_held_as_long_as_that() -> None:
    """Or nobody would know any more whose readings they are that are still to be sent."""
    noted = []
    registry = SimpleNamespace(hold=lambda numbers, *, held_to: noted.append((numbers.tolist(), held_to)))
    Forgetter(registry, clock=None, telemetry=None).moved([some(), parted()])
    assert noted == [([8, 9], 4)]


def test_what_is_written_anew_once_more_stands_for_the_first_ones_still() -> None:
    """However often: the next segment knows the hash of what came."""
    once, after = seal_again([some(), some(9)], Dilution(), timeline=timeline())
    bodies = [row.body for row in once]
    again = [
        member(sequence, decode_metrics(body), body=body, first_s=1000)[0]
        for sequence, body in zip((3, 9), bodies, strict=True)
    ]
    rewriting = Rewriting(again, press_metrics(decode_metrics(bodies[0])), 300, bodies[0])
    ((_, _, _, _, _, body, _),), last = seal_again([rewriting], after, timeline=timeline())
    ancestors = read_header(body).ancestors
    assert ancestors.hash == read_header(bodies[0]).ancestors.hash
    assert (ancestors.last_sequence, ancestors.readings, ancestors.number) == (11, 120, 3)
    assert ancestors.previous_hash == hash_of(bodies[1]) == after.hash
    assert last.count == 3


def test_joining_is_no_dilution() -> None:
    """All of it is there: nothing is lost, and status has nothing to say."""
    rewriting = some(step_s=0, left=20, count=1)
    _, after = seal_again([rewriting], Dilution(), timeline=timeline())
    assert (rewriting.lost, after.stretches, after.count) == (0, [], 1)


@pytest.mark.parametrize(("offset_ns", "wall_ns"), [(None, 0), (5000 * NS_PER_S, 5007 * NS_PER_S + 3)])
def test_times_that_the_rows_do_not_know_are_those_of_the_commits(offset_ns, wall_ns) -> None:
    """As well as the clock is known by now."""
    rewriting = some(count=1, first_s=0)
    entry = rewriting.entry(timeline(offset_ns), now_ns=9)
    assert (entry.readings, entry.first_ns, entry.last_ns) == (12, wall_ns, wall_ns)
    assert (entry.since_ns, entry.until_ns) == (9, 9)


def test_a_coarser_step_takes_over_from_a_finer_one() -> None:
    """All of a finer stretch that a coarser one has reached is gone; other classes are others'."""
    bulk = Stretch(2, 10, 0, 50, 3)
    found = [bulk]
    for stretch in (Stretch(1, 10, 0, 100, 10), Stretch(1, 10, 100, 200, 20), Stretch(1, 60, 0, 150, 15)):
        found = widen(found, stretch)
    assert found == [Stretch(1, 60, 0, 150, 15), Stretch(1, 10, 150, 200, 20), bulk]
    assert widen(found, Stretch(1, 60, 150, 200, 20)) == [Stretch(1, 60, 0, 200, 20), bulk]
    many = [Stretch(1, step, 0, 9, 99) for step in range(100, 200)]
    assert len(widen(many, Stretch(1, 1, 0, 9, 99))) == STRETCHES_MAX


def test_what_has_left_is_forgotten() -> None:
    """By the oldest that is still there."""
    stretches = [Stretch(1, 60, 100, 200, 20), Stretch(1, 10, 200, 300, 30), Stretch(2, 10, 0, 9, 9)]
    head, _ = member(25, Batch.of(1, [1], np.array([1])), first_s=250)
    assert still_held(stretches, {Priority.NORMAL: head.row}) == [Stretch(1, 10, 250, 300, 30)]
    assert describe(stretches[:1]) == [
        {"class": "normal", "step_s": 60, "first_ns": 100 * NS_PER_S, "last_ns": 200 * NS_PER_S}
    ]
