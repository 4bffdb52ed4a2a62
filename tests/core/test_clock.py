"""Time and its repair: boots in 1970, jumps, drift, reboots before the first sync."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import clock as module
from gateway.core.clock import (
    NS_PER_S,
    SAMPLES_PER_BOOT_MAX,
    STA_UNSYNC,
    STEP_NS_MIN,
    TIME_ERROR,
    WALL_FLOOR_NS,
    BootTimes,
    FakeClock,
    Quality,
    Sample,
    SystemClock,
    Timeline,
)
from gateway.core.contracts import BootId

NOW = 1_790_000_000 * NS_PER_S
HOUR = 3600 * NS_PER_S
ONE = BootId(1)
TWO = BootId(2)
THREE = BootId(3)


def timeline(*boots: BootTimes, current: int | None = None) -> Timeline:
    known = list(boots) or [BootTimes(ONE, "boot-1")]
    return Timeline(known, current=BootId(current or known[-1].boot))


def ns(*seconds: float) -> np.ndarray:
    return np.array([round(s * NS_PER_S) for s in seconds], np.int64)


def test_a_boot_in_1970_gives_no_time_until_the_clock_is_set() -> None:
    """Times come back as they are, marked UNKNOWN, and are repaired once the clock is known."""
    clock = FakeClock(wall=3 * NS_PER_S, synced=False, monotonic=5 * NS_PER_S)
    line = timeline()
    assert line.observe(clock)
    assert line.quality is Quality.UNKNOWN
    assert line.wall_from(clock.monotonic) is None
    times, quality = line.repair(ns(1), ONE)
    assert (times.tolist(), quality) == (ns(1).tolist(), Quality.UNKNOWN)

    clock.advance(60 * NS_PER_S)
    clock.wall, clock.synced = NOW, True
    assert line.observe(clock)

    times, quality = line.repair(ns(5, 65), ONE)
    assert times.tolist() == [NOW - 60 * NS_PER_S, NOW]
    assert quality is Quality.REPAIRED
    assert line.repair(ns(65, 70), ONE)[1] is Quality.SYNCED
    assert line.wall_from(clock.monotonic) == NOW


def test_a_wall_clock_before_this_program_was_written_was_never_set() -> None:
    """The floor and the ceiling bound what is plausible."""
    line = timeline()
    line.observe(FakeClock(wall=WALL_FLOOR_NS - 1))
    assert line.quality is Quality.UNKNOWN
    line.observe(FakeClock(wall=5_000_000_000 * NS_PER_S))
    assert line.quality is Quality.UNKNOWN


@pytest.mark.parametrize("year_s", [-62_135_596_800, 0, 4_102_444_800, 253_402_300_799])
@pytest.mark.parametrize("quality", [Quality.SYNCED, Quality.UNSYNCED])
def test_a_time_that_cannot_be_is_not_taken_from_anybody(year_s: int, quality: Quality) -> None:
    """The years 1, 1970, 2100 and 9999, as the answer of a far side may say them: what was known stays known."""
    line = timeline()
    assert not line.add(Sample(HOUR, year_s * NS_PER_S - HOUR, quality))
    assert (line.quality, line.current.samples) == (Quality.UNKNOWN, [])
    assert line.repair(ns(1), ONE)[1] is Quality.UNKNOWN
    assert line.add(Sample(HOUR, NOW - HOUR, Quality.UNSYNCED))
    assert not line.add(Sample(2 * HOUR, year_s * NS_PER_S - 2 * HOUR, quality))
    assert line.wall_from(HOUR) == NOW
    assert line.repair(ns(3600), ONE)[0].tolist() == [NOW]
    assert line.steps == 0


def test_setting_the_clock_is_counted_and_drift_is_not() -> None:
    """A second is a step; 30 ms in a quarter of an hour is drift, worth a sample but no step."""
    clock = FakeClock()
    line = timeline()
    line.observe(clock)
    clock.advance(900 * NS_PER_S)
    clock.wall += 30_000_000
    assert line.observe(clock)
    assert line.steps == 0
    clock.wall += NS_PER_S
    assert line.observe(clock)
    assert line.steps == 1


def test_drift_is_interpolated() -> None:
    """Half-way between two looks, half of the drift is applied."""
    clock = FakeClock(monotonic=0)
    line = timeline()
    line.observe(clock)
    clock.advance(HOUR)
    clock.wall += 40_000_000
    line.observe(clock)
    times, quality = line.repair(np.array([0, HOUR // 2, HOUR, 2 * HOUR]), ONE)
    assert (times - times[0]).tolist() == [
        0,
        HOUR // 2 + 20_000_000,
        HOUR + 40_000_000,
        2 * HOUR + 40_000_000,
    ]
    assert quality is Quality.SYNCED


def test_a_jump_between_two_synced_looks_does_not_smear_or_turn_time_around() -> None:
    """A jump tells that the earlier clock was wrong: the later one is believed for all, the spacing kept."""
    clock = FakeClock(monotonic=0)
    line = timeline()
    line.observe(clock)
    clock.advance(HOUR)
    clock.wall -= 2 * HOUR
    line.observe(clock)
    times, quality = line.repair(np.array([0, HOUR - 1, HOUR, HOUR + 1]), ONE)
    assert np.diff(times).tolist() == [HOUR - 1, 1, 1]
    assert times[2] == clock.wall
    assert quality is Quality.REPAIRED


@pytest.mark.parametrize(("span_ns", "moved_ns"), [(HOUR, 600 * NS_PER_S), (10_000_000, -STEP_NS_MIN)])
def test_what_drift_cannot_explain_is_a_jump(span_ns: int, moved_ns: int) -> None:
    """Ten minutes in an hour are none, nor twice as much as there was time for: the spacing is kept."""
    clock = FakeClock(monotonic=0)
    line = timeline()
    line.observe(clock)
    clock.advance(span_ns)
    clock.wall += moved_ns
    assert line.observe(clock)
    times, quality = line.repair(np.array([0, span_ns // 2, span_ns]), ONE)
    assert (times - clock.wall).tolist() == [-span_ns, -span_ns // 2, 0]
    assert quality is Quality.REPAIRED


def test_what_was_stamped_before_and_after_the_time_server_was_lost_is_as_good_as_the_rest_of_it() -> None:
    """The last of several moments decides as well as the first."""
    clock = FakeClock(monotonic=0)
    line = timeline()
    line.observe(clock)
    clock.advance(HOUR)
    clock.synced = False
    assert line.observe(clock)
    for moments, expected in (
        ([HOUR - 2, HOUR], Quality.SYNCED),
        ([HOUR - 1, HOUR + 1], Quality.UNSYNCED),
        ([HOUR + 1, HOUR + 2], Quality.UNSYNCED),
    ):
        assert line.repair(np.array(moments), ONE)[1] is expected


def test_a_passing_wrong_time_is_overruled_by_what_stands_on_both_sides() -> None:
    """Right, wrong, right again: the wrong look is left out, the right ones on both sides count."""
    clock = FakeClock(monotonic=0)
    line = timeline()
    line.observe(clock)
    right = clock.wall
    for offset in (HOUR, -HOUR):
        clock.advance(HOUR)
        clock.wall += offset
        line.observe(clock)
    times, quality = line.repair(np.array([0, HOUR, 2 * HOUR]), ONE)
    assert times.tolist() == [right, right + HOUR, right + 2 * HOUR]
    assert quality is Quality.SYNCED


def test_a_synced_look_wins_over_plausible_ones_before_and_after() -> None:
    """What nobody confirmed moves no time, and takes the mark SYNCED only from what came after it."""
    line = timeline()
    line.add(Sample(0, NOW + HOUR, Quality.UNSYNCED))
    assert line.repair(ns(0), ONE) == (NOW + HOUR, Quality.UNSYNCED)
    line.add(Sample(HOUR, NOW, Quality.SYNCED))
    line.add(Sample(2 * HOUR, NOW + HOUR, Quality.UNSYNCED))
    times, quality = line.repair(np.array([HOUR, 2 * HOUR]), ONE)
    assert times.tolist() == [NOW + HOUR, NOW + 2 * HOUR]
    assert quality is Quality.SYNCED
    assert line.repair(np.array([2 * HOUR + 1]), ONE)[1] is Quality.UNSYNCED
    assert line.quality is Quality.UNSYNCED


def test_a_clock_that_is_doubted_is_not_believed_until_it_is_confirmed_or_trusted_again() -> None:
    """What was stamped in this boot so far has the time that was told as well."""
    clock = FakeClock(wall=NOW - HOUR, synced=False)
    line = timeline()
    line.observe(clock)
    began = clock.monotonic
    clock.advance(10 * NS_PER_S)
    line.doubt(Sample(clock.monotonic, NOW + 10 * NS_PER_S - clock.monotonic, Quality.UNSYNCED))
    for _ in range(3):
        clock.advance(NS_PER_S)
        line.observe(clock)
    assert (line.is_doubted, line.quality) == (True, Quality.UNSYNCED)
    times, quality = line.repair(np.array([began, clock.monotonic], np.int64), ONE)
    assert (times.tolist(), quality) == ([NOW, NOW + 13 * NS_PER_S], Quality.UNSYNCED)

    again = timeline(line.current)
    again.observe(clock)
    assert again.is_doubted, "a process of the same boot begins where the one before ended"
    assert again.wall_from(clock.monotonic) == NOW + 13 * NS_PER_S

    again.trust()
    again.observe(clock)
    assert (again.is_doubted, again.wall_from(clock.monotonic)) == (False, clock.wall)

    clock.wall, clock.synced = NOW + 15 * NS_PER_S, True
    line.observe(clock)
    assert (line.is_doubted, line.quality) == (False, Quality.SYNCED)
    assert line.repair(np.array([began], np.int64), ONE)[1] is Quality.REPAIRED


def test_a_clock_that_was_confirmed_in_this_boot_is_not_doubted() -> None:
    """Its time server is out of reach; since then the monotonic clock counts on."""
    clock = FakeClock(wall=NOW)
    line = timeline()
    line.observe(clock)
    clock.synced = False
    clock.advance(HOUR)
    line.observe(clock)
    line.doubt(Sample(clock.monotonic, NOW + 3 * HOUR - clock.monotonic, Quality.UNSYNCED))
    assert not line.is_doubted
    assert line.wall_from(clock.monotonic) == NOW + HOUR


def test_a_clock_of_1970_needs_no_doubt() -> None:
    """A new process knows it by itself."""
    clock = FakeClock(wall=5 * NS_PER_S, synced=False)
    line = timeline()
    line.observe(clock)
    assert not timeline(line.current).is_doubted


def test_two_reboots_before_the_first_sync_keep_their_order() -> None:
    """Boots without any clock are laid end to end before the first that has one."""
    line = timeline(BootTimes(ONE, "a", last_ns=HOUR), BootTimes(TWO, "b", last_ns=2 * HOUR), BootTimes(THREE, "c"))
    assert line.repair(ns(0), ONE)[1] is Quality.UNKNOWN
    line.observe(FakeClock(monotonic=HOUR, wall=NOW))
    began = NOW - HOUR
    assert line.repair(np.array([0, 2 * HOUR]), TWO) == _same([began - 2 * HOUR, began], Quality.ESTIMATED)
    assert line.repair(np.array([0, HOUR]), ONE) == _same([began - 3 * HOUR, began - 2 * HOUR], Quality.ESTIMATED)


def test_a_clock_that_was_saved_at_the_last_shutdown_does_not_begin_before_its_end() -> None:
    """A box without RTC restores an old time: plausible, and known to be too early."""
    first = BootTimes(ONE, "a", last_ns=10 * HOUR, samples=[Sample(0, NOW, Quality.SYNCED)])
    line = timeline(first, BootTimes(TWO, "b"))
    line.add(Sample(0, NOW + 9 * HOUR, Quality.UNSYNCED))
    assert line.repair(np.array([0, HOUR]), TWO) == _same([NOW + 10 * HOUR, NOW + 11 * HOUR], Quality.ESTIMATED)
    line.add(Sample(HOUR, NOW + 20 * HOUR, Quality.SYNCED))
    assert line.repair(np.array([0]), TWO) == _same([NOW + 20 * HOUR], Quality.REPAIRED)


def test_an_unconfirmed_boot_ends_before_the_next_confirmed_one_begins() -> None:
    """A clock that ran ahead is not believed; one that leaves room is."""
    ahead = BootTimes(ONE, "a", last_ns=HOUR, samples=[Sample(0, NOW + 50 * HOUR, Quality.UNSYNCED)])
    line = timeline(ahead, BootTimes(TWO, "b"))
    line.add(Sample(0, NOW, Quality.SYNCED))
    assert line.repair(np.array([0, HOUR]), ONE) == _same([NOW - HOUR, NOW], Quality.ESTIMATED)

    room = replace(ahead, samples=[Sample(0, NOW - 50 * HOUR, Quality.UNSYNCED)])
    line = timeline(room, BootTimes(TWO, "b"))
    line.add(Sample(0, NOW, Quality.SYNCED))
    assert line.repair(np.array([0]), ONE) == _same([NOW - 50 * HOUR], Quality.UNSYNCED)


def test_a_clockless_boot_between_two_known_ones_ends_where_the_second_begins() -> None:
    """Placed against its neighbour, not against a confirmed boot further away."""
    line = timeline(
        BootTimes(ONE, "a", last_ns=HOUR, samples=[Sample(0, NOW, Quality.SYNCED)]),
        BootTimes(TWO, "b", last_ns=HOUR),
        BootTimes(THREE, "c", last_ns=HOUR, samples=[Sample(0, NOW, Quality.UNSYNCED)]),
        BootTimes(BootId(4), "d", samples=[Sample(0, NOW + 90 * HOUR, Quality.SYNCED)]),
    )
    assert line.repair(np.array([0]), THREE) == _same([NOW + 2 * HOUR], Quality.ESTIMATED)
    assert line.repair(np.array([0]), TWO) == _same([NOW + HOUR], Quality.ESTIMATED)


def test_two_confirmed_boots_that_overlap_stand_where_they_say() -> None:
    """Whoever of the time servers was wrong: neither is moved, and both say that they are confirmed."""
    line = timeline(
        BootTimes(ONE, "a", last_ns=2 * HOUR, samples=[Sample(0, NOW, Quality.SYNCED)]),
        BootTimes(TWO, "b", samples=[Sample(0, NOW + HOUR, Quality.SYNCED)]),
    )
    assert line.repair(np.array([0, 2 * HOUR]), ONE) == _same([NOW, NOW + 2 * HOUR], Quality.SYNCED)
    assert line.repair(np.array([0]), TWO) == _same([NOW + HOUR], Quality.SYNCED)


def test_a_reading_later_than_the_last_look_moves_its_boot_back() -> None:
    """`saw` tells that the boot ran longer than the clocks were looked at."""
    line = timeline(BootTimes(ONE, "a", last_ns=HOUR), BootTimes(TWO, "b"))
    line.observe(FakeClock(monotonic=0, wall=NOW))
    assert line.repair(np.array([HOUR]), ONE) == _same([NOW], Quality.ESTIMATED)
    line.saw(ONE, 2 * HOUR)
    line.saw(ONE, HOUR)
    line.saw(BootId(9), HOUR)
    assert line.repair(np.array([2 * HOUR]), ONE) == _same([NOW], Quality.ESTIMATED)


def test_what_is_not_known_stays_as_it_is() -> None:
    """A forgotten boot is UNKNOWN; nothing to repair is as good as it gets."""
    line = timeline(BootTimes(ONE, "a"), BootTimes(TWO, "b"))
    line.observe(FakeClock())
    line.forget_before(TWO)
    assert [times.boot for times in line.boots] == [TWO]
    assert line.repair(ns(1), ONE)[1] is Quality.UNKNOWN
    assert line.repair(ns(), ONE)[1] is Quality.SYNCED


def test_a_fresh_timeline_knows_nothing() -> None:
    """No look yet: UNKNOWN."""
    line = timeline()
    assert line.quality is Quality.UNKNOWN
    assert line.wall_from(1) is None


def test_what_another_thread_made_of_older_looks_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks while the clock becomes known: taken for unknown after that, readings would be given up as without time."""
    line = timeline()
    is_asking, may_end = threading.Event(), threading.Event()
    placed = module._placed

    def slowly(boots: list[BootTimes]) -> object:
        found = placed(boots)
        if threading.current_thread() is asking:
            is_asking.set()
            may_end.wait(0.3)
        return found

    monkeypatch.setattr(module, "_placed", slowly)
    asking = threading.Thread(target=line.wall_from, args=(HOUR,))
    asking.start()
    assert is_asking.wait(60)
    line.add(Sample(HOUR, NOW, Quality.SYNCED))
    may_end.set()
    asking.join(60)
    assert line.wall_from(HOUR) == NOW + HOUR
    assert line.repair(ns(3600), ONE)[1] is Quality.SYNCED


def test_a_look_from_before_the_last_one_says_nothing() -> None:
    """The monotonic clock does not go back; who says so is not believed."""
    line = timeline()
    assert line.add(Sample(HOUR, NOW, Quality.SYNCED))
    assert not line.add(Sample(0, 0, Quality.UNKNOWN))


def test_samples_are_bounded_and_each_quality_survives_thinning() -> None:
    """A clock that keeps losing its time source loses neither its first nor its last confirmed sample."""
    line = timeline()
    for number in range(20 * SAMPLES_PER_BOOT_MAX):
        quality = Quality.UNSYNCED if number % 2 else Quality.SYNCED
        line.add(Sample(number * NS_PER_S, NOW, quality))
        assert len(line.current.samples) <= SAMPLES_PER_BOOT_MAX
    assert line.current.samples[0] == Sample(0, NOW, Quality.SYNCED)
    assert {sample.quality for sample in line.current.samples} == {Quality.SYNCED, Quality.UNSYNCED}
    assert line.current.samples == sorted(line.current.samples)


def test_the_quickest_of_several_looks_counts() -> None:
    """A process put aside between two clocks takes the look again."""

    class Slow(FakeClock):
        delays = [NS_PER_S, NS_PER_S, 50_000]  # noqa: RUF012  a script for one test

        def wall_ns(self) -> int:
            self.advance(self.delays.pop(0))
            return self.wall

    clock = Slow()
    line = timeline()
    line.observe(clock)
    assert abs(line.current.samples[0].offset_ns - (clock.wall - clock.monotonic)) <= 50_000
    assert clock.delays == []


def test_a_machine_that_is_always_slow_is_looked_at_all_the_same() -> None:
    """After a few tries the best one is taken."""

    class Slow(FakeClock):
        def wall_ns(self) -> int:
            self.advance(NS_PER_S)
            return self.wall

    line = timeline()
    assert line.observe(Slow())
    assert line.quality is Quality.SYNCED


def test_a_clock_that_becomes_right_while_it_is_read_is_not_taken_for_confirmed() -> None:
    """Synced is asked first: the old wall time must not carry the new flag."""

    class Racing(FakeClock):
        def wall_ns(self) -> int:
            self.synced = True
            return self.wall

    line = timeline()
    line.observe(Racing(synced=False))
    assert line.quality is Quality.UNSYNCED


samples = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.integers(-(10**6), 10**6),
        st.sampled_from([Quality.SYNCED, Quality.UNSYNCED, Quality.UNKNOWN]),
    ),
    max_size=12,
)
MS = 1_000_000


def _fed(looks: list[tuple[int, int, Quality]]) -> Timeline:
    line = timeline()
    at = 0
    for gap_ms, offset_ms, quality in looks:
        at += gap_ms * MS
        line.add(Sample(at, NOW + offset_ms * MS, quality))
    return line


@given(samples, st.lists(st.integers(0, 13 * 10**6 * MS), min_size=2, max_size=20))
def test_order_and_quality_within_a_boot(looks: list[tuple[int, int, Quality]], moments: list[int]) -> None:
    """Whatever the clock did, earlier stays earlier; one at a time or together gives the same."""
    line = _fed(looks)
    times, quality = line.repair(np.array(sorted(moments), np.int64), ONE)
    assert np.all(np.diff(times) >= 0)
    alone = [line.repair(np.array([moment], np.int64), ONE) for moment in sorted(moments)]
    assert [int(one[0]) for one, _ in alone] == times.tolist()
    assert max(one for _, one in alone) == quality
    if quality is not Quality.UNKNOWN:
        assert [line.wall_from(moment) for moment in sorted(moments)] == times.tolist()


@given(samples, samples)
def test_looks_that_nobody_confirmed_move_nothing_once_one_was(
    looks: list[tuple[int, int, Quality]], more: list[tuple[int, int, Quality]]
) -> None:
    """A synced sample wins whatever else is seen, before or after."""
    confirmed = [look for look in looks if look[2] is Quality.SYNCED]
    at = sum(gap for gap, *_ in looks)
    line = _fed(looks)
    moments = np.array([0, at * MS, 2 * at * MS], np.int64)
    before, _ = line.repair(moments, ONE)
    later = at
    for gap, offset, quality in more:
        later += gap
        line.add(Sample(later * MS, NOW + offset * MS, min(Quality.UNSYNCED, quality) if quality else Quality.UNSYNCED))
    if confirmed:
        assert line.repair(moments, ONE)[0].tolist() == before.tolist()


@given(samples)
def test_the_same_look_twice_says_nothing_new(looks: list[tuple[int, int, Quality]]) -> None:
    """Adding is idempotent, and a timeline made from what was stored repairs the same."""
    line = _fed(looks)
    if line.current.samples:
        assert not line.add(line.current.samples[-1])
    again = timeline(BootTimes(ONE, "a", line.current.last_ns, list(reversed(line.current.samples))))
    moments = ns(0, 1, 1000)
    assert again.repair(moments, ONE)[0].tolist() == line.repair(moments, ONE)[0].tolist()


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1000),
            st.sampled_from([None, Quality.SYNCED, Quality.UNSYNCED]),
            st.integers(-5000, 5000),
        ),
        min_size=2,
        max_size=7,
    )
)
def test_boots_keep_their_order_where_confirmed_clocks_do(
    boots: list[tuple[int, Quality | None, int]],
) -> None:
    """Confirmed boots stand where they say; all others are placed so that no boot begins before one ends."""
    made: list[BootTimes] = []
    at = 0
    for number, (length, quality, odd) in enumerate(boots, 1):
        at += length + 6000 if quality is Quality.SYNCED else length
        offset = NOW + (at if quality is Quality.SYNCED else odd) * NS_PER_S
        looks = [] if quality is None else [Sample(0, offset, quality)]
        made.append(BootTimes(BootId(number), str(number), length * NS_PER_S, looks))
    # Room is left between confirmed boots for all that lie between them.
    total = sum(length for length, *_ in boots) + 6000
    for times in made:
        for sample in times.samples:
            if sample.quality is Quality.SYNCED:
                sample.offset_ns += times.boot * 2 * total * NS_PER_S
    line = Timeline(made, current=made[-1].boot)
    spans = []
    for times in made:
        (began, ended), quality = line.repair(np.array([0, times.last_ns]), times.boot)
        if quality in {Quality.SYNCED, Quality.ESTIMATED}:
            spans.append((int(began), int(ended)))
    assert spans == sorted(spans)
    last_sure = max((i for i, t in enumerate(made) if t.samples and t.samples[0].quality is Quality.SYNCED), default=-1)
    assert all(line.repair(ns(0), t.boot)[1] is not Quality.UNKNOWN for t in made[: last_sure + 1])


def test_the_machine_has_clocks(tmp_path) -> None:
    """The real clock: monotonic as clock_gettime has it, wall as time has it, the kernel's boot id."""
    clock = SystemClock()
    assert abs(clock.monotonic_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < NS_PER_S
    assert abs(clock.wall_ns() - time.time_ns()) < NS_PER_S
    assert len(clock.boot_uuid()) == 36
    (tmp_path / "id").write_text("abc\n")
    assert SystemClock(boot_id_path=tmp_path / "id").boot_uuid() == "abc"


@pytest.mark.parametrize(
    ("state", "status", "synced"),
    [(0, 0, True), (0, STA_UNSYNC, False), (TIME_ERROR, 0, False), (-1, 0, False)],
)
def test_synced_is_what_the_kernel_says(state: int, status: int, synced: bool) -> None:
    """adjtimex(2): an error, TIME_ERROR or STA_UNSYNC each mean no."""

    class Libc:
        def adjtimex(self, timex) -> int:
            ctypes.cast(timex, ctypes.POINTER(type(timex._obj))).contents.status = status
            return state

    clock = SystemClock()
    assert clock.is_synced() in {True, False}
    clock._libc = Libc()
    assert clock.is_synced() is synced


def test_a_fake_clock_does_as_it_is_told() -> None:
    """It stands still, advances and reboots."""
    clock = FakeClock()
    before = (clock.monotonic_ns(), clock.wall_ns())
    clock.advance(7)
    assert (clock.monotonic_ns(), clock.wall_ns()) == (before[0] + 7, before[1] + 7)
    clock.reboot("boot-2", wall=0)
    assert (clock.boot_uuid(), clock.wall_ns(), clock.is_synced()) == ("boot-2", 0, False)


def test_small_moves_are_no_news() -> None:
    """Below STEP_NS_MIN nothing is kept."""
    clock = FakeClock()
    line = timeline()
    assert line.observe(clock)
    clock.wall += STEP_NS_MIN - 1
    assert not line.observe(clock)


class _same:  # noqa: N801  reads as a word where it stands
    """Equal to what `repair` returns."""

    def __init__(self, times: list[int], quality: Quality) -> None:
        self.times, self.quality = times, quality

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, tuple)
        return other[0].tolist() == self.times and other[1] is self.quality

    __hash__ = None  # type: ignore[assignment]


def test_what_is_reckoned_with_a_doubtful_clock_is_as_doubtful() -> None:
    """A box without a battery that nobody has told the time: earlier moments are no better known than later ones."""
    clock = FakeClock(synced=False, monotonic=100 * NS_PER_S)
    line = timeline()
    assert line.observe(clock)
    assert line.repair(ns(50), ONE)[1] is Quality.UNSYNCED
    assert line.repair(ns(100), ONE)[1] is Quality.UNSYNCED
    clock.synced = True
    clock.advance(60 * NS_PER_S)
    assert line.observe(clock)
    assert line.repair(ns(50), ONE)[1] is Quality.REPAIRED
