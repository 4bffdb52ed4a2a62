"""The registry against dicts: series come, are used, committed or not, forgotten, and found again after a restart.

The model plays everybody who has numbers: a shelf that holds segments, a disk with rows, readings that wait. Whatever
happens, a number that somebody has names the series that it was given for.
"""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.batch import Series, distinct
from gateway.store.series import SeriesBounds, SeriesRegistry, decode_series
from gateway.store.uses import ONCE_IDLE_S

OWNERS = ("a", "b")
NAMES = st.integers(0, 30)
SERIES_MAX = 16
BYTES_MAX = 16 * 330
IDLE_S = 4000
ROWS_MAX = 2


class RegistryMachine(RuleBasedStateMachine):
    """One registry, its disk, and all who use it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: dict[int, bytes] = {}
        self.next_on_disk = 1
        self.given: dict[int, str] = {}
        self.latest: dict[str, int] = {}
        self.used_s: dict[int, int] = {}
        self.sequence = 1
        self.segments: list[tuple[int, set[int]]] = []
        self.pending: set[int] = set()
        self.waiting: list[set[int]] = []
        self.now_s = 100
        self.start()

    def start(self) -> None:
        self.one = SeriesRegistry(
            sorted(self.disk.items()),
            series_max=SERIES_MAX,
            bounds=SeriesBounds(BYTES_MAX, OWNERS, IDLE_S),
            next_number=self.next_on_disk,
            held_to=self.sequence - 1,
            now_s=self.now_s,
        )
        self.known = set(self.disk)
        self.latest = {self.given[number]: number for number in sorted(self.disk)}
        self.used_s = dict.fromkeys(self.disk, self.now_s)

    def resolve(self, name: str, owner: str) -> int | None:
        highest = max(self.given, default=0)
        before = self.one.status()
        number = self.one.resolve(Series((), name), owner)
        if name in self.latest:
            assert number == self.latest[name], "a known series keeps its number"
        elif number is None:
            assert sum(self.one.status()["series_refused"].values()) == sum(before["series_refused"].values()) + 1
        else:
            assert number not in self.given or number > max(self.disk, default=0), "given twice"
            assert number > highest or number >= self.next_on_disk
            self.given[number], self.latest[name] = name, number
            self.known.add(number)
            self.used_s[number] = self.one._now_s
        return number

    @rule(names=st.lists(NAMES, max_size=8), owner=st.sampled_from((*OWNERS, "")), long=st.booleans())
    def arrive(self, names, owner, long) -> None:
        """Readings come and wait for the next commit."""
        for name in names:
            number = self.resolve(f"{name}" + "x" * 60 * long, owner)
            if number is not None:
                self.pending.add(number)

    @rule(does_fail=st.booleans(), has_looked=st.booleans(), late=st.lists(NAMES, max_size=3))
    def commit(self, does_fail, has_looked, late) -> None:
        """Plan in one step, write, take effect; what arrives while it is written waits for the next."""
        sealed, self.pending = self.pending, set()
        if has_looked:
            self.forget(sealed)
        leaving, unsaved = self.one.leaving(ROWS_MAX), self.one.unsaved()
        next_number = self.one.next_number
        self.arrive(late, "a", False)
        if does_fail:
            self.waiting.append(sealed)
            return
        for number in leaving:
            del self.disk[number]
        self.disk.update(unsaved)
        self.next_on_disk = next_number
        if sealed:
            self.segments.append((self.sequence, sealed))
            self.sequence += 1
        self.one.saved(len(unsaved))
        self.one.left(len(leaving))
        self.one.note(np.array(sorted(sealed), np.uint32), held_to=self.sequence - 1, now_s=self.now_s)
        self.used_s.update(dict.fromkeys(sealed, self.now_s))

    def forget(self, sealed: set[int]) -> None:
        in_hand = sealed.union(self.pending, *self.waiting)
        held_from = self.segments[0][0] if self.segments else self.sequence
        before = set(self.known)
        gone = self.one.forget(
            held_from=held_from, in_use=np.array(sorted(in_hand), np.uint32), now_s=self.now_s
        ).tolist()
        assert gone == sorted(set(gone) & before)
        for number in gone:
            idle_s = self.now_s - self.used_s.pop(number)
            assert idle_s >= ONCE_IDLE_S
            self.known.discard(number)
            if self.latest.get(self.given[number]) == number:
                del self.latest[self.given[number]]
        assert not [number for number in before & self.known - in_hand if self.is_lapsed(number, held_from)]

    def is_lapsed(self, number: int, held_from: int) -> bool:
        """Whether it should have gone: long idle, in no segment since the oldest."""
        is_held = any(number in numbers for sequence, numbers in self.segments if sequence >= held_from)
        is_old = number in self.old
        return self.now_s - self.used_s[number] >= IDLE_S and not is_held and not is_old

    @property
    def old(self) -> set[int]:
        """Those of which the registry knows only that they were there at its start."""
        uses = self.one._uses
        oldest = self.segments[0][0] if self.segments else self.sequence
        return set(uses["number"][uses["held_to"] >= oldest].tolist())

    @rule(which=st.integers(0, 5))
    def retry(self, which) -> None:
        """A source offers again what found no room."""
        if which < len(self.waiting):
            self.pending |= self.waiting.pop(which)

    @rule(which=st.integers(0, 5))
    def give_up(self, which) -> None:
        """A source that ended takes its readings with it."""
        if which < len(self.waiting):
            self.waiting.pop(which)

    @rule(count=st.integers(1, 4))
    def deliver(self, count) -> None:
        """The oldest segments leave the shelf."""
        del self.segments[:count]

    @rule(seconds=st.sampled_from([1, 300, ONCE_IDLE_S, 2000, IDLE_S]))
    def advance(self, seconds) -> None:
        self.now_s += seconds

    @rule()
    def restart(self) -> None:
        """Only what is on the disk is left."""
        self.pending, self.waiting = set(), []
        for number in [*self.given]:
            if number not in self.disk and number >= self.next_on_disk:
                del self.given[number]
        self.start()

    @invariant()
    def who_has_a_number_finds_its_series(self) -> None:
        in_hand = self.pending.union(*self.waiting, *(numbers for _, numbers in self.segments))
        assert in_hand <= self.known
        for number in in_hand:
            assert self.one.series(number).name == self.given[number]

    @invariant()
    def what_the_shelf_holds_has_its_row(self) -> None:
        for _, numbers in self.segments:
            assert {number: decode_series(self.disk[number]).name for number in numbers} == {
                number: self.given[number] for number in numbers
            }

    @invariant()
    def what_is_counted_is_there(self) -> None:
        uses, one = self.one._uses, self.one
        assert set(uses["number"].tolist()) == self.known
        assert (distinct(uses["number"]) == uses["number"]).all()
        assert len(one) == len(self.known) == one._counts.total
        assert one._bytes.total == uses["size"].sum()
        for owner in range(len(OWNERS) + 1):
            assert one._counts.taken(owner) == (uses["owner"] == owner).sum()
            assert one._bytes.taken(owner) == uses["size"][uses["owner"] == owner].sum()
        assert len(one) <= max(SERIES_MAX, len(self.disk))


RegistryMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRegistry = RegistryMachine.TestCase
