"""Checks for budgets: never a byte over, whatever dies, and whatever the clock does."""

from __future__ import annotations

import random
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.uplinks.budget import (
    AHEAD_BYTES_MAX,
    AHEAD_BYTES_MIN,
    EDGE_S,
    PROBES_SHARE,
    UNKNOWN_WAIT_S,
    Budget,
    OverBudgetError,
    UnwrittenError,
    decode_note,
)
from gateway.uplinks.budget_settings import DAY, HOUR, MONTH
from gateway.uplinks.free import FreeHours, read_hours
from gateway.uplinks.windows import UTC, Calendar, Moment

# Noon of a day in the middle of a month.
NOON = 1_789_948_800 + 43_200
LIMITS = {HOUR: 1_000_000, DAY: 3_000_000}


class Time:
    """A wall clock beside one that never steps."""

    def __init__(self) -> None:
        self.boot = "first"
        self.wall_s: float | None = float(NOON)
        self.steady_s = 0.0
        self.is_sure = True

    def __call__(self) -> Moment:
        return Moment(self.boot, self.steady_s, self.wall_s, self.is_sure)

    def pass_by(self, seconds: float) -> None:
        self.steady_s += seconds
        if self.wall_s is not None:
            self.wall_s += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def opened(time: Time, limits: dict[str, int] = LIMITS, note: bytes = b"", **settings) -> Budget:
    """A budget whose first note is on the disk."""
    budget = Budget(limits, now=time, note=note, **settings)
    commit(budget)
    return budget


def commit(budget: Budget, *, is_last: bool = False) -> bytes:
    note = budget.plan(is_last=is_last)
    budget.written()
    return note


def spend(budget: Budget, size_bytes: int) -> None:
    """In pieces that a note covers, with a commit before each."""
    while size_bytes:
        piece = min(size_bytes, AHEAD_BYTES_MIN)
        commit(budget)
        budget.take(piece)
        budget.settle(piece, piece)
        size_bytes -= piece


def spent(budget: Budget, window: str = HOUR) -> int:
    return budget.told()[f"per_{window}"]["spent_bytes"]


def test_a_first_note_that_is_not_written_yet_covers_nothing(time) -> None:
    """A process that dies in its first commit leaves the note of the one before."""
    budget = Budget(LIMITS, now=time, note=commit(opened(time)))
    budget.plan()
    with pytest.raises(UnwrittenError):
        budget.take(1)
    budget.plan()
    budget.written()
    budget.take(1)


def test_what_is_over_the_least_window_waits_for_its_end(time) -> None:
    """The sentence says which it is, and when the next begins."""
    budget = opened(time)
    time.pass_by(600)
    spend(budget, 990_000)
    with pytest.raises(OverBudgetError, match=r"budget of .* per hour is spent; the next begins in 50 min") as caught:
        budget.take(10_001)
    assert caught.value.after_s == 3000
    budget.take(10_000)
    budget.settle(10_000, 10_000)
    time.pass_by(3000)
    commit(budget)
    budget.take(10_001)
    assert (spent(budget, HOUR), spent(budget, DAY)) == (10_001, 1_010_001)


def test_the_largest_window_holds_too(time) -> None:
    """Three full hours are the day."""
    budget = opened(time)
    for _ in range(3):
        spend(budget, 1_000_000)
        time.pass_by(3600)
    with pytest.raises(OverBudgetError, match="per day is spent; the next begins in 9 h"):
        budget.take(1)


def test_what_was_not_needed_is_given_back(time) -> None:
    """And what it cost more is spent."""
    budget = opened(time)
    budget.take(30_000)
    assert spent(budget) == 30_000
    budget.settle(30_000, 12_000)
    assert spent(budget) == 12_000
    budget.take(10_000)
    budget.settle(10_000, 11_000)
    assert spent(budget) == 23_000


def test_no_byte_leaves_that_no_note_covers(time) -> None:
    """Before the first commit none; between two commits so much as the first one said; more is asked for."""
    budget = Budget(LIMITS, now=time)
    with pytest.raises(UnwrittenError):
        budget.take(1)
    commit(budget)
    assert budget.covers(AHEAD_BYTES_MIN)
    budget.take(AHEAD_BYTES_MIN)
    with pytest.raises(UnwrittenError):
        budget.take(100_000)
    commit(budget)
    assert budget.covers(200_000)
    assert not budget.covers(200_001)
    commit(budget)
    assert budget.covers(400_002)


def test_a_note_that_is_being_written_allows_what_both_allow(time) -> None:
    """If the process dies now, one of the two is on the disk; of one that failed nobody knows."""
    budget = opened(time)
    budget.take(20_000)
    budget.plan()
    assert (budget.covers(AHEAD_BYTES_MIN - 20_000), budget.covers(AHEAD_BYTES_MIN - 19_999)) == (True, False)
    budget.plan()
    assert not budget.covers(AHEAD_BYTES_MIN - 19_999)
    budget.written()
    assert budget.covers(AHEAD_BYTES_MIN)


@pytest.mark.parametrize(
    ("limit", "ahead"),
    [(10_000, 10_000), (1 << 20, AHEAD_BYTES_MIN), (64 << 20, 1 << 20), (1 << 40, AHEAD_BYTES_MAX)],
)
def test_a_kill_costs_a_small_share(time, limit: int, ahead: int) -> None:
    """A sixty-fourth of the allowance, within bounds, and never more than is left of it."""
    note = opened(time, {DAY: limit}).plan()
    assert spent(Budget({DAY: limit}, now=time, note=note), DAY) == ahead


def test_a_stop_in_order_costs_nothing(time) -> None:
    """The last note covers nothing more."""
    budget = opened(time)
    budget.take(5000)
    budget.settle(5000, 5000)
    note = commit(budget, is_last=True)
    with pytest.raises(UnwrittenError):
        budget.take(1)
    assert spent(Budget(LIMITS, now=time, note=note)) == 5000


def test_what_a_dead_process_may_have_spent_counts_in_the_next_window_too(time) -> None:
    """Nobody knows when it died. The window after that begins with nothing."""
    note = opened(time).plan()
    time.pass_by(3600)
    budget = opened(time, note=note)
    assert spent(budget) == AHEAD_BYTES_MIN
    time.pass_by(3600)
    assert spent(budget) == 0


def test_what_is_under_way_counts_in_the_window_that_begins(time) -> None:
    """It may still leave in it."""
    budget = opened(time)
    budget.take(20_000)
    time.pass_by(3600)
    assert spent(budget) == 20_000
    budget.settle(20_000, 18_000)
    assert spent(budget) == 18_000


def test_a_clock_that_is_set_back_gives_nothing_back(time) -> None:
    """Neither then nor when the hour comes again; the next one is a new one."""
    budget = opened(time)
    spend(budget, 900_000)
    time.wall_s -= 86_400
    assert spent(budget) == spent(budget, DAY) == 900_000
    time.pass_by(3600)
    assert (spent(budget), spent(budget, DAY)) == (0, 900_000)


@pytest.mark.parametrize("behind_s", [3600, 86_400, 40 * 86_400])
def test_a_clock_that_starts_behind_and_is_set_right_gives_nothing(time, behind_s: int) -> None:
    """A box without a battery for its clock begins where that was saved, or its image made, until a server is heard."""
    budget = opened(time, {HOUR: 1_000_000, DAY: 3_000_000, MONTH: 4_000_000})
    spend(budget, 800_000)
    note = commit(budget, is_last=True)
    time.boot, time.steady_s, time.is_sure = "second", 20.0, False
    time.wall_s -= behind_s
    budget = opened(time, {HOUR: 1_000_000, DAY: 3_000_000, MONTH: 4_000_000}, note)
    assert (spent(budget, HOUR), spent(budget, MONTH)) == (800_000, 800_000)
    note = commit(budget)
    time.pass_by(60)
    time.wall_s += behind_s
    time.is_sure = True
    assert [spent(budget, window) for window in (HOUR, DAY, MONTH)] == [800_000] * 3
    time.pass_by(3600)
    assert (spent(budget, HOUR), spent(budget, DAY)) == (0, 800_000)
    assert decode_note(note).windows[0].sure_s < decode_note(commit(budget)).windows[0].sure_s


def test_a_clock_that_jumps_forwards_without_a_reason_gives_nothing(time) -> None:
    """What was spent stays with the window that it is now, and goes with its end."""
    time.is_sure = False
    budget = opened(time)
    spend(budget, 900_000)
    time.wall_s += 10 * 86_400
    assert spent(budget) == spent(budget, DAY) == 900_000
    time.pass_by(3600)
    assert (spent(budget), spent(budget, DAY)) == (0, 900_000)


def test_a_restart_believes_no_jump_either_and_a_new_boot_does(time) -> None:
    """The note knows when it was written, by both clocks; how long a box was off is only for its clock to say."""
    time.is_sure = False
    budget = opened(time)
    spend(budget, 900_000)
    note = commit(budget, is_last=True)
    time.wall_s += 86_400
    assert spent(Budget(LIMITS, now=time, note=note)) == 900_000
    time.boot, time.steady_s = "second", 5.0
    assert spent(Budget(LIMITS, now=time, note=note)) == 0


def test_a_time_server_is_believed(time) -> None:
    """The clock was wrong before, and it is another day, which has begun since anything went."""
    time.is_sure = False
    budget = opened(time)
    spend(budget, 900_000)
    time.pass_by(2 * 3600)
    time.wall_s += 10 * 86_400 - 13 * 3600
    time.is_sure = True
    assert spent(budget) == spent(budget, DAY) == 0


def test_without_a_clock_what_is_spent_stays_spent(time) -> None:
    """Until nothing went for as long as its window lasts, and a little for drift: then that must have ended."""
    time.wall_s = None
    budget = opened(time)
    most = 1_000_000 - 1_000_000 // PROBES_SHARE
    spend(budget, most)
    time.pass_by(3600)
    with pytest.raises(OverBudgetError, match="no clock says when the next begins") as caught:
        budget.take(1)
    assert (caught.value.after_s, caught.value.is_end_known) == (UNKNOWN_WAIT_S, False)
    assert budget.told()["per_hour"]["ends_in_s"] is None
    time.wall_s = NOON
    assert spent(budget) == most
    time.wall_s = None
    time.pass_by(100)
    assert (spent(budget, HOUR), spent(budget, DAY)) == (0, most)
    budget.take(1000)
    time.pass_by(86_400 + 2000)
    # What is under way may still leave.
    assert (spent(budget, HOUR), spent(budget, DAY)) == (1000, 1000)


def test_what_an_earlier_boot_spent_is_over_when_this_one_is_as_old(time) -> None:
    """A process that starts again in the same boot knows no more than when it started."""
    time.wall_s = None
    budget = opened(time)
    spend(budget, 900_000)
    note = commit(budget, is_last=True)
    time.pass_by(3000)
    again = opened(time, note=note)
    time.pass_by(3000)
    assert spent(again) == 900_000
    time.boot, time.steady_s = "second", 10.0
    rebooted = opened(time, note=commit(again, is_last=True))
    assert spent(rebooted) == 900_000
    time.pass_by(3700)
    assert (spent(rebooted, HOUR), spent(rebooted, DAY)) == (0, 900_000)


def test_without_a_clock_no_hour_has_more_than_its_own(time) -> None:
    """Wherever it begins: what is spent in a burst is not spent again within an hour of it."""
    time.wall_s = None
    budget, went, dice = opened(time, {HOUR: 200_000}), [], random.Random(5)
    for _ in range(3000):
        time.pass_by(dice.choice([1, 60, 600, 3900]))
        size = dice.randrange(1, 30_000)
        commit(budget)
        try:
            budget.take(size)
        except OverBudgetError:
            continue
        budget.settle(size, size)
        went.append((time.steady_s, size))
    assert len(went) > 500
    for at_s, _ in went:
        assert sum(size for when_s, size in went if at_s <= when_s < at_s + 3600) <= 200_000


def test_a_little_is_kept_to_ask_for_the_time(time) -> None:
    """Where no time server stands behind the clock; nothing of the limit is kept where one does."""
    time.is_sure = False
    budget = opened(time)
    spend(budget, 1_000_000 - 1_000_000 // PROBES_SHARE)
    commit(budget)
    with pytest.raises(OverBudgetError) as caught:
        budget.take(1)
    assert caught.value.left_bytes == 0
    budget.take(20_000, is_probe=True)
    budget.settle(20_000, 20_000)
    with pytest.raises(OverBudgetError):
        budget.take(20_000, is_probe=True)
    time.is_sure = True
    budget.take(11_250)
    assert spent(budget) == 1_000_000


def test_drift_is_no_jump(time) -> None:
    """A clock that nobody corrects, a little fast: its hours end all the same."""
    time.is_sure = False
    budget = opened(time)
    spend(budget, 900_000)
    time.pass_by(3540)
    assert spent(budget) == 900_000
    time.pass_by(60)
    time.wall_s += 0.5
    assert spent(budget) == 0
    spend(budget, 900_000)
    time.pass_by(3000)
    time.wall_s += 600
    assert spent(budget) == 900_000


def test_a_note_that_is_no_text_is_none() -> None:
    """It may have stood in a file whose checksum is right."""
    budget = Budget(LIMITS, now=Time())
    note = budget.plan(is_last=False)
    assert HOUR.encode() in note
    assert decode_note(note.replace(HOUR.encode(), b"\xff" * len(HOUR))) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_a_note_or_none(data: bytes) -> None:
    """A note of a version to come, or a damaged one, is none: nothing was spent that anybody could tell."""
    note = decode_note(data)
    assert note is None or note.ahead_bytes >= 0
    Budget(LIMITS, now=Time(), note=data)


def test_a_limit_that_is_new_knows_what_went_before(time) -> None:
    """Who takes one out for an hour, or finds in the middle of a month that it wants one, has no new allowance."""
    budget = opened(time, {HOUR: 1_000_000})
    spend(budget, 500_000)
    other = opened(time, {DAY: 700_000}, note=commit(budget, is_last=True))
    assert other.told() == {"per_day": {"limit_bytes": 700_000, "spent_bytes": 500_000, "ends_in_s": 43_200}}
    spend(other, 100_000)
    again = opened(time, {HOUR: 1_000_000, MONTH: 2_000_000}, note=commit(other, is_last=True))
    assert (spent(again, HOUR), spent(again, MONTH)) == (600_000, 600_000)


@pytest.mark.parametrize(("before", "after"), [(1, 15), (15, 1), (22, 21)])
def test_a_month_that_begins_on_another_day_gives_nothing(time, before: int, after: int) -> None:
    """Somebody reads the bill again, and restarts the gateway: what went still stands on it."""
    limits = {MONTH: 1_000_000}
    budget = opened(time, limits, calendar=Calendar(month_begins=before))
    spend(budget, 900_000)
    again = opened(time, limits, commit(budget, is_last=True), calendar=Calendar(month_begins=after))
    assert spent(again, MONTH) == 900_000
    time.pass_by(32 * 86_400)
    assert spent(again, MONTH) == 0


@pytest.mark.parametrize("is_first_sure", [True, False])
def test_a_clock_that_starts_a_month_ahead_gives_nothing(time, is_first_sure: bool) -> None:
    """A clock with an empty battery starts anywhere: until a server is heard, what went before is only put aside."""
    limits = {DAY: 1_000_000, MONTH: 1_000_000}
    time.is_sure = is_first_sure
    budget = opened(time, limits)
    spend(budget, 600_000)
    for boot in ("second", "third"):
        time.boot, time.steady_s, time.is_sure = boot, 20.0, False
        time.wall_s += 31 * 86_400
        budget = opened(time, limits, commit(budget, is_last=True))
        assert spent(budget, MONTH) == 0
        spend(budget, 100_000)
    time.wall_s -= 62 * 86_400
    time.is_sure = True
    assert (spent(budget, DAY), spent(budget, MONTH)) == (800_000, 800_000)
    time.pass_by(31 * 86_400)
    assert (spent(budget, DAY), spent(budget, MONTH)) == (0, 0)


def test_what_went_before_the_clock_was_set_is_of_the_day_that_it_is(time) -> None:
    """A box begins where the time was saved, the evening before: what it sends until a server is heard goes today."""
    limits = {DAY: 1_000_000, MONTH: 3_000_000}
    budget = opened(time, limits)
    spend(budget, 300_000)
    time.boot, time.steady_s, time.is_sure = "second", 20.0, False
    time.wall_s += 4 * 3600
    budget = opened(time, limits, commit(budget, is_last=True))
    spend(budget, 500_000)
    time.pass_by(600)
    time.wall_s += 12 * 3600
    time.is_sure = True
    budget = opened(time, limits, commit(budget, is_last=True))
    assert (spent(budget, DAY), spent(budget, MONTH)) == (500_000, 800_000)
    time.pass_by(86_400)
    assert (spent(budget, DAY), spent(budget, MONTH)) == (0, 800_000)


def test_what_went_before_the_true_midnight_is_not_of_the_day_that_it_is(time) -> None:
    """By the steady clock it was yesterday, though nobody knew."""
    time.is_sure = False
    budget = opened(time, {DAY: 1_000_000})
    spend(budget, 500_000)
    time.pass_by(3 * 3600)
    time.wall_s += 10 * 3600
    time.is_sure = True
    assert spent(budget, DAY) == 0


def test_what_went_in_two_days_that_nobody_stands_behind_may_be_of_one(time) -> None:
    """Its midnight was no midnight."""
    time.is_sure = False
    time.wall_s += 11 * 3600
    budget = opened(time, {DAY: 1_000_000})
    spend(budget, 500_000)
    time.pass_by(2 * 3600)
    spend(budget, 100_000)
    time.is_sure = True
    time.wall_s += 30 * 3600
    assert spent(budget, DAY) == 600_000


def test_a_step_back_over_midnight_has_the_day_back_that_was_left(time) -> None:
    """A server corrects a clock that was a second ahead: the day before is full, and not over yet."""
    budget = opened(time, {DAY: 1_000_000})
    spend(budget, 950_000)
    time.pass_by(43_200)
    spend(budget, 10_000)
    assert spent(budget, DAY) == 10_000
    time.wall_s -= 1
    assert spent(budget, DAY) == 960_000
    time.pass_by(1)
    assert spent(budget, DAY) == 0


def test_a_clock_that_begins_before_the_last_midnight_brings_nothing_of_that_day(time) -> None:
    """A box saves the time once an hour, and begins there: a server had said that the day before is over."""
    budget = opened(time, {DAY: 1_000_000})
    spend(budget, 950_000)
    time.pass_by(43_200 + 600)
    spend(budget, 10_000)
    time.boot, time.steady_s, time.is_sure = "second", 20.0, False
    time.wall_s -= 3600
    budget = opened(time, {DAY: 1_000_000}, commit(budget, is_last=True))
    assert spent(budget, DAY) == 10_000
    time.wall_s += 3700
    time.is_sure = True
    assert spent(budget, DAY) == 10_000


def test_a_clock_that_stays_astray_brings_no_day_sooner(time) -> None:
    """What it was before it jumped may have been right."""
    budget = opened(time, {DAY: 800_000})
    spend(budget, 700_000)
    time.is_sure = False
    time.wall_s += 8 * 3600
    assert spent(budget, DAY) == 700_000
    for _ in range(40):
        # Its midnight comes after four hours, the true one after twelve.
        time.pass_by(15 * 60)
        assert spent(budget, DAY) == 700_000
    time.pass_by(2 * 3600 + 60)
    assert spent(budget, DAY) == 0


# Of the days of `Time`, which begins at noon.
NIGHT = FreeHours((read_hours("22:00-06:00"),))


def test_what_goes_in_free_hours_is_in_no_window(time) -> None:
    """It is counted by itself, over restarts too; what goes before and after is counted as ever."""
    budget = opened(time, free=NIGHT)
    spend(budget, 1_000_000)
    with pytest.raises(OverBudgetError):
        budget.take(1)
    time.pass_by(10 * 3600)
    budget.take(5_000_000)
    assert budget.windows() == []
    assert budget.lacking(5_000_000) is None
    assert budget.covers(5_000_000)
    budget.settle(5_000_000, 4_000_000)
    assert (spent(budget, HOUR), spent(budget, DAY)) == (0, 1_000_000)
    told = budget.told()["free"]
    assert told == {"is_free": True, "ends_in_s": 8 * 3600, "begins_in_s": None, "spent_bytes": 4_000_000}
    note = commit(budget, is_last=True)
    time.pass_by(9 * 3600)
    budget = opened(time, note=note, free=NIGHT)
    assert budget.told()["free"] == {
        "is_free": False,
        "ends_in_s": None,
        "begins_in_s": 15 * 3600,
        "spent_bytes": 4_000_000,
    }
    spend(budget, 70_000)
    assert (spent(budget, HOUR), budget.told()["free"]["spent_bytes"]) == (70_000, 4_000_000)
    assert len(budget.windows()) == 2


def test_who_waits_is_told_of_the_free_hours(time) -> None:
    """Where they begin before the next window does."""
    time.pass_by(9.75 * 3600)
    budget = opened(time, {DAY: 1_000_000}, free=NIGHT)
    spend(budget, 1_000_000)
    with pytest.raises(OverBudgetError, match="is spent; free hours begin in 15 min") as caught:
        budget.take(1)
    assert (caught.value.after_s, caught.value.is_end_known) == (900, True)
    time.is_sure = False
    assert "the next begins in" in str(budget.lacking(1))


def test_a_clock_that_is_not_right_makes_nothing_free(time) -> None:
    """Neither one that nobody stands behind nor none at all."""
    budget = opened(time, free=NIGHT)
    spend(budget, 900_000)
    time.is_sure = False
    time.pass_by(11 * 3600)
    budget.told()
    assert not budget.told()["free"]["is_free"]
    spend(budget, 70_000)
    assert (spent(budget, HOUR), budget.told()["free"]["spent_bytes"]) == (70_000, 0)
    time.wall_s = None
    assert budget.told()["free"] == {"is_free": False, "ends_in_s": None, "begins_in_s": None, "spent_bytes": 0}


def test_what_begins_at_the_very_end_is_not_free(time) -> None:
    """It may take until after that."""
    time.pass_by(18 * 3600 - EDGE_S)
    budget = opened(time, free=NIGHT)
    budget.take(10_000)
    budget.settle(10_000, 9_000)
    assert (spent(budget, HOUR), budget.told()["free"]["spent_bytes"]) == (9_000, 0)
    assert budget.told()["free"]["is_free"] is False


def test_what_is_under_way_when_they_end_pays_from_there(time) -> None:
    """What went by then was free; the rest is taken, or the request ends there."""
    time.pass_by(18 * 3600 - EDGE_S - 1)
    budget = opened(time, free=NIGHT)
    budget.take(50_000)
    budget.go_on(10_000)
    time.pass_by(EDGE_S + 1)
    budget.go_on(30_000)
    assert spent(budget, HOUR) == 20_000
    budget.go_on(40_000)
    assert spent(budget, HOUR) == 20_000
    budget.settle(50_000, 45_000)
    assert (spent(budget, HOUR), budget.told()["free"]["spent_bytes"]) == (15_000, 30_000)
    time.pass_by(16 * 3600)
    budget = opened(time, {DAY: 100_000}, free=NIGHT)
    budget.take(500_000)
    time.pass_by(8 * 3600)
    with pytest.raises(OverBudgetError):
        budget.go_on(100_000)


def test_what_may_overdraw_finds_room_beyond_the_limit(time) -> None:
    """So much more in each window and no byte more; everybody else finds none, and status says how much that is."""
    budget = opened(time, {HOUR: 100_000}, overdraw_bytes=50_000)
    spend(budget, 90_000)
    commit(budget)
    with pytest.raises(OverBudgetError, match="per hour is spent"):
        budget.take(10_001)
    budget.take(30_000, may_overdraw=True)
    budget.settle(30_000, 25_000)
    assert budget.told()["per_hour"]["overdrawn_bytes"] == 15_000
    assert budget.lacking(1) is not None
    assert budget.lacking(35_000, may_overdraw=True) is None
    commit(budget)
    with pytest.raises(OverBudgetError, match="per hour, and .* beyond it, is spent") as caught:
        budget.take(35_001, may_overdraw=True)
    assert (caught.value.left_bytes, caught.value.may_overdraw) == (35_000, True)
    assert [window.left_bytes for window in budget.windows()] == [0]
    time.pass_by(3600)
    commit(budget)
    budget.take(32_000)
    assert (spent(budget), budget.told()["per_hour"]["overdrawn_bytes"]) == (32_000, 0)


def test_a_note_covers_what_is_overdrawn_too(time) -> None:
    """Else it would wait for a commit for ever; a kill leaves no more as spent than may be."""
    budget = opened(time, {HOUR: 100_000}, overdraw_bytes=50_000)
    spend(budget, 100_000)
    commit(budget)
    budget.take(AHEAD_BYTES_MIN, may_overdraw=True)
    budget.settle(AHEAD_BYTES_MIN, AHEAD_BYTES_MIN)
    note = budget.plan()
    again = Budget({HOUR: 100_000}, now=time, note=note, overdraw_bytes=50_000)
    assert spent(again) == 150_000


def test_who_has_no_overdraft_has_no_word_of_it(time) -> None:
    """Status is as it was."""
    assert "overdrawn_bytes" not in opened(time).told()["per_hour"]


class BudgetMachine(RuleBasedStateMachine):
    """Requests, commits that succeed or fail, kills, and time: counted from outside, in true hours and days."""

    limits: ClassVar = {HOUR: 300_000, DAY: 800_000, MONTH: 3_000_000}
    free = FreeHours()
    overdraw_bytes = 0
    may_overdraw = False

    @initialize()
    def begin(self) -> None:
        self.time = Time()
        self.on_disk = [b""]  # of these notes one is
        self.budget = Budget(self.limits, now=self.time, free=self.free, overdraw_bytes=self.overdraw_bytes)
        self.under_way: int | None = None
        self.sent: Counter = Counter()
        self.astray_s = 0  # by how much the clock is wrong
        self.believed: Counter = Counter()

    def send(self, size_bytes: int) -> None:
        for window in self.limits:
            self.sent[window, UTC.start_of(window, self.time.wall_s - self.astray_s)] += size_bytes

    @rule(size=st.integers(1, 120_000))
    def take(self, size: int) -> None:
        if self.under_way is None:
            try:
                self.budget.take(size, may_overdraw=self.may_overdraw)
            except (OverBudgetError, UnwrittenError):
                return
            self.under_way = size
            if not (self.may_overdraw or self.free.left_s(self.time.wall_s, is_sure=True)):
                for window, limit in self.limits.items():
                    assert self.sent[window, UTC.start_of(window, self.time.wall_s)] + size <= limit

    @rule(requests=st.integers(1, 12))
    def go_on(self, requests: int) -> None:
        """Requests and commits by turns, as on any day."""
        for _ in range(requests):
            self.take(AHEAD_BYTES_MIN)
            self.settle(1.0)
            self.commit("written")

    @rule(share=st.floats(0, 1))
    def settle(self, share: float) -> None:
        if self.under_way is None:
            return
        cost = int(self.under_way * share)
        self.send(cost)
        self.budget.settle(self.under_way, cost)
        self.under_way = None

    @rule(outcome=st.sampled_from(["written", "failed"]))
    def commit(self, outcome: str) -> None:
        self.on_disk.append(self.budget.plan())
        if outcome == "written":
            self.budget.written()
            self.on_disk = self.on_disk[-1:]

    @rule(which=st.integers(0, 100), share=st.floats(0, 1))
    def die(self, which: int, share: float) -> None:
        self.send(int((self.under_way or 0) * share))
        self.under_way = None
        self.on_disk = [self.on_disk[which % len(self.on_disk)]]
        self.time.pass_by(1)
        more = {"free": self.free, "overdraw_bytes": self.overdraw_bytes}
        self.budget = Budget(self.limits, now=self.time, note=self.on_disk[0], **more)

    @rule(minutes=st.integers(1, 600))
    def wait(self, minutes: int) -> None:
        self.time.pass_by(60 * minutes)

    @rule(hours=st.integers(1, 100))
    def jump_and_come_back(self, hours: int) -> None:
        """An unsure clock goes astray and comes back: what it says in between gives nothing."""
        self.time.is_sure = False
        self.time.wall_s += 3600 * hours
        self.budget.told()
        self.time.wall_s -= 3600 * hours
        self.time.is_sure = True

    @rule(hours=st.integers(-1000, 1000), requests=st.integers(0, 4))
    def boot_astray(self, hours: int, requests: int) -> None:
        """A clock with an empty battery begins anywhere, and what it says is paid as what it is until a server says so."""
        self.settle(1.0)
        self.time.pass_by(60)
        self.time.boot, self.time.steady_s, self.time.is_sure = f"{self.time.boot}'", 5.0, False
        self.time.wall_s += 3600 * hours
        self.astray_s = 3600 * hours
        self.die(0, 1.0)
        for _ in range(requests):
            self.commit("written")
            try:
                self.budget.take(AHEAD_BYTES_MIN)
            except (OverBudgetError, UnwrittenError):
                break
            self.send(AHEAD_BYTES_MIN)
            # Nobody knows how long the box was off: what such a clock says is believed until a server says otherwise.
            for window in self.limits:
                self.believed[window, UTC.start_of(window, self.time.wall_s - self.astray_s)] += AHEAD_BYTES_MIN
            self.budget.settle(AHEAD_BYTES_MIN, AHEAD_BYTES_MIN)
        self.time.wall_s -= self.astray_s
        self.astray_s, self.time.is_sure = 0, True

    @invariant()
    def nothing_is_over(self) -> None:
        for (window, start_s), size in getattr(self, "sent", {}).items():
            assert size <= self.limits[window] + self.overdraw_bytes + self.believed[window, start_s]


class FreeBudgetMachine(BudgetMachine):
    """The same with free hours: what truly goes in these is in no window, whatever the clock says, and all else is."""

    free = FreeHours((read_hours("22:00-06:00"), read_hours("12:30-13:00")))

    def send(self, size_bytes: int) -> None:
        assert self.time.wall_s is not None
        if not self.free.left_s(self.time.wall_s, is_sure=True):
            super().send(size_bytes)

    @rule(minutes=st.integers(1, 600))
    def wait(self, minutes: int) -> None:
        """What is under way ends before; how that goes on is below."""
        self.settle(1.0)
        super().wait(minutes)

    @rule(minutes=st.integers(0, 40), share=st.floats(0, 1))
    def go_on_slowly(self, minutes: int, share: float) -> None:
        """A request takes its time; if it may not go on it ends there."""
        if self.under_way is None:
            return
        first = int(self.under_way * share)
        self.send(first)
        self.time.pass_by(60 * minutes)
        try:
            self.budget.go_on(first)
        except (OverBudgetError, UnwrittenError):
            self.budget.settle(self.under_way, first)
        else:
            rest = self.under_way - first
            self.send(rest)
            self.budget.settle(self.under_way, self.under_way)
        self.under_way = None

    @rule(size=st.integers(50_000, 290_000), share=st.floats(0, 1), requests=st.integers(0, 12))
    def cross(self, size: int, share: float, requests: int) -> None:
        """A large request is under way when the night ends, and then it is a day like any other."""
        self.settle(1.0)
        assert self.time.wall_s is not None
        self.time.pass_by(self.free.begin_in_s(self.time.wall_s, is_sure=True) or 0)
        self.time.pass_by(self.free.left_s(self.time.wall_s, is_sure=True) - EDGE_S - 1)
        self.take(size)
        self.commit("written")
        self.go_on_slowly(3, share)
        self.go_on(requests)

    @rule(hours=st.integers(1, 30))
    def astray(self, hours: int) -> None:
        """A clock that nobody stands behind says that it is night: that makes nothing free."""
        self.time.is_sure = False
        self.time.wall_s += 3600 * hours
        assert not self.budget.told()["free"]["is_free"]
        self.time.wall_s -= 3600 * hours
        self.time.is_sure = True


class OverdrawnBudgetMachine(BudgetMachine):
    """Some requests may overdraw: all together never more than that, and the others never more than the limits."""

    overdraw_bytes = 70_000

    @rule(may=st.booleans())
    def next_may(self, may: bool) -> None:
        self.may_overdraw = may


BudgetMachine.TestCase.settings = OverdrawnBudgetMachine.TestCase.settings = FreeBudgetMachine.TestCase.settings = (
    settings(max_examples=150, stateful_step_count=60, deadline=None)
)
TestBudget = BudgetMachine.TestCase
TestFreeBudget = FreeBudgetMachine.TestCase
TestOverdrawnBudget = OverdrawnBudgetMachine.TestCase


def test_several_who_pay_have_each_their_own_request_under_way(time) -> None:
    """What one of them has taken in free hours is not settled with another's, nor given back with it."""
    time.wall_s = NOON + 11 * 3600
    budget = opened(time, free=NIGHT)
    assert budget.take(40_000, payer="a")
    assert budget.take(50_000, payer="b")
    budget.give_back(10_000, is_free=True, payer="b")
    budget.settle(40_000, 30_000, payer="a")
    assert (spent(budget, HOUR), budget.told()["free"]["spent_bytes"]) == (0, 30_000)
    budget.settle(40_000, 45_000, payer="b")
    assert (spent(budget, HOUR), budget.told()["free"]["spent_bytes"]) == (5_000, 70_000)


def test_what_was_taken_and_goes_nowhere_is_given_back(time) -> None:
    """In the window, and of what the note covers."""
    budget = opened(time)
    budget.covers(60_000)
    budget.plan()
    budget.written()
    assert not budget.take(60_000, payer="a")
    budget.give_back(60_000, is_free=False, payer="a")
    assert spent(budget, HOUR) == 0
    assert budget.covers(60_000)
