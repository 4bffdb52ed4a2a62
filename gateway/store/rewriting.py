"""What takes the place of segments on the shelf: what it says of them, and what is remembered of it. Does no I/O.

What was written anew stands where the first of those stood that it was made of, as if the others had been delivered: in
the order of leases, in the hash chain, and for whoever asks which series are still held. Where there are too many for
one, several stand where the first ones stood, each with some of the series (store/forgetting is told).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import BootId, Priority
from gateway.store.accounts import STRETCHES_MAX, Dilution, Entry, Stretch
from gateway.store.coarsening import size_on_disk
from gateway.store.connection import PAGE_BYTES
from gateway.store.recent import Row
from gateway.store.records import where_from
from gateway.store.room import wall_of
from gateway.store.segments import FIRST_HASH, FRONT_BYTES_MAX, Ancestors, link_hash, segment_hash
from gateway.store.writer import PAGE_ROOM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.core.clock import Timeline
    from gateway.store.room import Candidate
    from gateway.store.segments import Pressed, SegmentHeader


class Member(NamedTuple):
    """A segment that is to become part of another; `done` is who needs it no more, unwritten acks included."""

    row: Candidate
    header: SegmentHeader
    done: int


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Segments of one class that follow each other, and what they become at a step of so many seconds; 0: all of it.

    `first_body` is that of the first one. Where they become several, of some series each, `more` are the next ones:
    they take the places of the next members, the last one that of all that are left.
    """

    members: Sequence[Member]
    pressed: Pressed
    step_s: int
    first_body: bytes
    is_evidence: bool = False
    more: Sequence[tuple[Pressed, bytes]] = ()  # each with the body of the member whose place it takes

    @property
    def parts(self) -> list[tuple[Sequence[Member], Pressed, bytes]]:
        """Each segment that they become, with whose place it takes, and the body of the first of these."""
        pairs = [(self.pressed, self.first_body), *self.more]
        places = [self.members[at : at + 1] for at in range(len(pairs) - 1)] + [self.members[len(pairs) - 1 :]]
        return [(members, *pair) for members, pair in zip(places, pairs, strict=True)]

    @property
    def came(self) -> list[int]:
        """How many readings each part stands for, as they came: its own, and the last one for all that are left out."""
        all_came = sum(
            member.row.readings if member.header.ancestors is None else member.header.ancestors.readings
            for member in self.members
        )
        of_parts = [pressed.readings for _, pressed, _ in self.parts]
        return [*of_parts[:-1], all_came - sum(of_parts[:-1])]

    @property
    def id(self) -> int:
        """The row id of the first one, and of what it becomes."""
        return self.members[0].row.id

    @property
    def ids(self) -> list[int]:
        """The row ids of all."""
        return [member.row.id for member in self.members]

    @property
    def old_bytes(self) -> int:
        """About how many bytes of the disk they take."""
        return sum(size_on_disk(member.row.size_bytes) for member in self.members)

    @property
    def new_bytes(self) -> int:
        """How many bytes of the disk what they become takes at most."""
        return sum(
            -(-size_on_disk(FRONT_BYTES_MAX + len(pressed.body)) // PAGE_ROOM_BYTES) * PAGE_BYTES
            for _, pressed, _ in self.parts
        )

    @property
    def lost(self) -> int:
        """How many readings are left out."""
        return sum(member.row.readings for member in self.members) - sum(of.readings for _, of, _ in self.parts)

    def times(self, timeline: Timeline) -> tuple[int, int]:
        """Return Unix ns of the first and last reading, as well as they are known; 0: not at all."""
        found = [_times_of(member.row, timeline) for member in self.members]
        return min((first for first, _ in found if first), default=0), max(last for _, last in found)

    def entry(self, timeline: Timeline, *, now_ns: int) -> Entry:
        """Return what the ledger says of the readings that are left out."""
        return Entry(self.lost, *self.times(timeline), now_ns, now_ns)


def _times_of(row: Candidate, timeline: Timeline) -> tuple[int, int]:
    if row.first_ns:
        return row.first_ns, row.last_ns
    wall_ns = wall_of(timeline, row.stored_ns, row.boot)
    return wall_ns, wall_ns


class Rewritten(NamedTuple):
    """A row that takes the place of those in `replaced`, of which its own id is the first."""

    row: Row
    done: int
    stored_ns: int
    first_ns: int
    last_ns: int
    body: bytes
    replaced: Sequence[int]


def seal_again(
    rewritings: Iterable[Rewriting], before: Dilution, *, timeline: Timeline
) -> tuple[list[Rewritten], Dilution]:
    """Return the rows that take the place of segments, and how far all is then."""
    rows: list[Rewritten] = []
    count, chain, stretches = before.count, before.hash, list(before.stretches)
    for rewriting in rewritings:
        known = [member.row for member in rewriting.members if member.row.first_ns]
        times = min((row.first_ns for row in known), default=0), max((row.last_ns for row in known), default=0)
        for (members, pressed, first_body), readings in zip(rewriting.parts, rewriting.came, strict=True):
            count += 1
            first = members[0]
            ancestors = Ancestors(
                hash=link_hash(first_body, first.header),
                previous_hash=chain or FIRST_HASH,
                number=count,
                last_sequence=_last_of(members[-1]),
                readings=readings,
                step_s=rewriting.step_s,
            )
            body = pressed.seal(
                sequence=first.row.sequence,
                boot=BootId(first.row.boot),
                previous_hash=first.header.previous_hash,
                ancestors=ancestors,
            )
            chain = segment_hash(body)
            row = Row(first.row.id, pressed.readings, first.row.boot, len(body))
            ids = [member.row.id for member in members]
            rows.append(Rewritten(row, first.done, first.row.stored_ns, *times, body, ids))
            if rewriting.step_s:
                stretches = widen(stretches, _stretch_of(rewriting, ancestors, timeline))
    return rows, msgspec.structs.replace(before, count=count, hash=chain, stretches=stretches)


def _last_of(member: Member) -> int:
    ancestors = member.header.ancestors
    return member.row.sequence if ancestors is None else ancestors.last_sequence


def _stretch_of(rewriting: Rewriting, ancestors: Ancestors, timeline: Timeline) -> Stretch:
    first_ns, last_ns = rewriting.times(timeline)
    priority = where_from(rewriting.id)[0]
    return Stretch(priority, rewriting.step_s, first_ns // NS_PER_S, -(-last_ns // NS_PER_S), ancestors.last_sequence)


def widen(stretches: Iterable[Stretch], new: Stretch) -> list[Stretch]:
    """Return what is diluted, and at which step, after one more stretch of a class was.

    It is done from the oldest on: what was there at a finer step begins after it.

    >>> [*widen([Stretch(1, 10, 0, 900, 7)], Stretch(1, 60, 0, 300, 3))]
    [Stretch(priority=1, step_s=60, first_s=0, last_s=300, last_sequence=3), \
Stretch(priority=1, step_s=10, first_s=300, last_s=900, last_sequence=7)]
    """
    found = [new]
    for old in stretches:
        if old.priority != new.priority or old.step_s > new.step_s:
            found.append(old)
        elif old.step_s == new.step_s:
            found[0] = msgspec.structs.replace(
                new,
                first_s=min(old.first_s, new.first_s),
                last_s=max(old.last_s, new.last_s),
                last_sequence=max(old.last_sequence, new.last_sequence),
            )
        elif old.last_sequence > new.last_sequence:
            found.append(msgspec.structs.replace(old, first_s=max(old.first_s, new.last_s)))
    return sorted(found, key=lambda stretch: (stretch.priority, -stretch.step_s))[:STRETCHES_MAX]


def still_held(stretches: Iterable[Stretch], oldest: Mapping[Priority, Candidate]) -> list[Stretch]:
    """Return what is left of them where `oldest` is the oldest segment of each class that has any."""
    found = []
    for stretch in stretches:
        head = oldest.get(Priority(stretch.priority))
        if head is not None and stretch.last_sequence >= head.sequence:
            found.append(msgspec.structs.replace(stretch, first_s=max(stretch.first_s, head.first_ns // NS_PER_S)))
    return found


def describe(stretches: Iterable[Stretch]) -> list[dict[str, object]]:
    """Return them as `status` says it: class, step in seconds, Unix ns of the first and last reading, 0: not known."""
    return [
        {
            "class": Priority(stretch.priority).name.lower(),
            "step_s": stretch.step_s,
            "first_ns": stretch.first_s * NS_PER_S,
            "last_ns": stretch.last_s * NS_PER_S,
        }
        for stretch in stretches
    ]
