"""The buffer alone: what goes in comes out, once, bounded, and whoever waits is told."""

from __future__ import annotations

import linecache
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gateway.client import buffer
from gateway.client.buffer import PIECE_BYTES, READING_BYTES, SERIES_BYTES, SORTS, Buffer, Stream
from gateway.client.errors import ClientError
from gateway.core.batch import ValueKind
from gateway.core.contracts import FullError, Priority, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_MAX = 64 << 10
DOUBLES = next(at for at, sort in enumerate(SORTS) if sort == (Priority.NORMAL, ValueKind.DOUBLE, True))


class Rig:
    """A buffer and what it said to whom it wakes."""

    def __init__(self, *, bytes_max: int = BYTES_MAX, wait_s: float = 0.0, raises: bool = True) -> None:
        self.woken: list[bool] = []
        self.buffer = Buffer(
            bytes_max=bytes_max,
            wait_s=wait_s,
            raises=raises,
            make=lambda *words: Stream(*words),
            wake=self.woken.append,
        )

    def add(self, value: float = 1.0, name: str = "a") -> None:
        self.buffer.add((name,), (name, "", "gauge", ()), value, 5, DOUBLES)

    def add_many(self, count: int) -> None:
        times = np.arange(count)
        words = ("m", "", "gauge", ())
        self.buffer.add_many(("m",), words, times * 0.5, times, priority=Priority.BULK, sent_ns=7)

    def add_record(self, value: int) -> None:
        sort = {"priority": Priority.NORMAL, "signal": Signal.LOGS}
        self.buffer.add_record(b"%d" % value, **sort, time_ns=value, sent_ns=value)

    def fill(self) -> int:
        """Add until there is no room; return how many went in."""
        for number in range(BYTES_MAX):
            try:
                self.add()
            except FullError:
                return number
        raise AssertionError


def test_what_goes_in_comes_out_once() -> None:
    """With the name of each series noted once a parcel; what comes later is in the next one."""
    rig = Rig()
    rig.add(1.5)
    rig.add(2.5, "b")
    rig.add(3.5)
    rig.add_many(3)
    rig.buffer.add_record(b"xyz", priority=Priority.NORMAL, signal=Signal.LOGS, time_ns=1, sent_ns=2)
    parcel = rig.buffer.take()
    assert parcel is not None
    assert [stream.name for stream in parcel.streams] == ["a", "b", "m"]
    (columns,) = parcel.columns.values()
    assert (columns.series.tolist(), columns.values.tolist()) == ([0, 1, 0], [1.5, 2.5, 3.5])
    assert columns.times.tolist() == [5, 5, 5]
    (samples,) = parcel.samples
    assert (samples.series, samples.values.tolist(), samples.sent_ns) == (2, [0, 0.5, 1], 7)
    (found,) = parcel.records.values()
    assert (found.bodies, found.times.tolist(), found.sent.tolist()) == ([b"xyz"], [1], [2])
    assert parcel.size_bytes == 3 * SERIES_BYTES + 6 * READING_BYTES + PIECE_BYTES + 64 + 3
    rig.add(9.0)
    assert rig.buffer.take() is parcel, "until it is kept it is all that there is"
    assert rig.buffer.waiting == 8
    rig.buffer.kept(parcel)
    following = rig.buffer.take()
    assert following is not None
    assert following.columns[DOUBLES].values.tolist() == [9.0]
    rig.buffer.kept(following)
    assert rig.buffer.take() is None
    assert (rig.buffer.waiting, rig.buffer.size_bytes) == (0, 0)
    assert rig.buffer.totals.sent == {Signal.METRICS: 7, Signal.LOGS: 1, Signal.TRACES: 0}


def test_who_takes_is_woken_once_and_once_more_when_it_is_much() -> None:
    """And again for what comes while a parcel is on its way."""
    rig = Rig()
    rig.add()
    rig.add()
    assert rig.woken == [False]
    for _ in range(BYTES_MAX // 2 // READING_BYTES):
        rig.add()
    assert rig.woken == [False, True]
    assert rig.buffer.is_urgent
    parcel = rig.buffer.take()
    assert parcel is not None
    assert not rig.buffer.is_urgent
    rig.add()
    assert rig.woken == [False, True, False]
    rig.buffer.kept(parcel)
    assert rig.woken == [False, True, False]


def test_it_is_bounded_also_by_what_is_under_way() -> None:
    """In bytes; there is room again when the parcel is kept."""
    rig = Rig()
    assert (BYTES_MAX - SERIES_BYTES) // READING_BYTES <= rig.fill() <= BYTES_MAX // READING_BYTES + 1
    parcel = rig.buffer.take()
    assert parcel is not None
    with pytest.raises(FullError, match="the disk is slower"):
        rig.add()
    rig.buffer.trouble = "no disk"
    with pytest.raises(FullError, match="no disk"):
        rig.add_many(1)
    with pytest.raises(FullError, match="no disk"):
        rig.buffer.add_record(b"", priority=Priority.NORMAL, signal=Signal.LOGS, sent_ns=0)
    rig.buffer.kept(parcel)
    assert rig.buffer.trouble == ""
    rig.add()
    assert rig.buffer.totals.pushed_back == 4


def test_many_names_take_room_too() -> None:
    """A program that makes up names is bounded as any other."""
    rig = Rig()
    with pytest.raises(FullError):
        for number in range(BYTES_MAX // SERIES_BYTES + 1):
            rig.add(name=f"n{number}")


def test_what_is_dropped_is_counted_with_the_next_parcel() -> None:
    """Of an array what has no room, of a record one."""
    rig = Rig(raises=False)
    rig.add_many(50_000)
    assert rig.buffer.totals.dropped == 50_000 - rig.buffer.waiting > 0
    rig.add()
    rig.buffer.add_record(b"", priority=Priority.NORMAL, signal=Signal.TRACES, sent_ns=0)
    parcel = rig.buffer.take()
    assert parcel is not None
    assert parcel.dropped == rig.buffer.totals.dropped == 50_002 - parcel.readings
    rig.add_many(50_000)
    assert rig.buffer.totals.dropped == parcel.dropped + 50_000
    rig.buffer.kept(parcel)
    following = rig.buffer.take()
    assert following is not None
    assert (following.readings, following.dropped) == (0, 50_000)


def test_an_array_that_does_not_fit_says_how_much_of_it_did() -> None:
    """The rest may be sent again."""
    rig = Rig()
    with pytest.raises(FullError, match=r"of 50000 readings the first \d+ are taken") as caught:
        rig.add_many(50_000)
    taken = int(str(caught.value).split()[-3])
    assert rig.buffer.waiting == taken > 0
    parcel = rig.buffer.take()
    assert parcel is not None
    assert np.concatenate([s.times for s in parcel.samples]).tolist() == list(range(taken))


def test_who_waits_for_room_gets_it() -> None:
    """As soon as a parcel is kept."""
    rig = Rig(wait_s=20)

    def keep() -> None:
        parcel = rig.buffer.take()
        assert parcel is not None
        rig.buffer.kept(parcel)

    for _ in range(3000):
        rig.add()
    began_s = time.monotonic()
    threading.Timer(0.05, keep).start()
    for _ in range(1000):
        rig.add()
    assert 0.05 <= time.monotonic() - began_s < 10


def test_a_flush_waits_for_what_was_sent_before_it() -> None:
    """And not for what comes later; it has it taken at once."""
    rig = Rig()
    assert rig.buffer.flush(0)
    rig.add()
    assert not rig.buffer.flush(0.01)
    assert rig.woken == [False, True]
    parcel = rig.buffer.take()
    assert parcel is not None
    rig.add()
    threading.Timer(0.02, rig.buffer.kept, [parcel]).start()
    assert not rig.buffer.flush(0.3)
    following = rig.buffer.take()
    assert following is not None
    threading.Timer(0.02, rig.buffer.kept, [following]).start()
    assert rig.buffer.flush(10)


def test_after_its_end_nothing_goes_in_and_nobody_waits() -> None:
    """What is there can still be taken."""
    rig = Rig(wait_s=20, raises=False)
    rig.add()
    rig.buffer.close("it is over")
    for call in (rig.add, lambda: rig.add_many(1)):
        with pytest.raises(ClientError, match="it is over"):
            call()
    with pytest.raises(ClientError, match="it is over"):
        rig.buffer.add_record(b"", priority=Priority.NORMAL, signal=Signal.LOGS, sent_ns=0)
    assert rig.buffer.take() is not None
    threading.Timer(0.02, rig.buffer.is_over).start()
    assert not rig.buffer.flush(20)


def test_a_value_that_no_column_holds_leaves_no_trace() -> None:
    """Columns of one length, whatever came between."""
    rig = Rig()
    rig.add(1.0)
    with pytest.raises(TypeError):
        rig.add("x")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        rig.buffer.add(("a",), ("a", "", "gauge", ()), 1.0, 1 << 70, DOUBLES)
    rig.add(2.0)
    parcel = rig.buffer.take()
    assert parcel is not None
    columns = parcel.columns[DOUBLES]
    assert columns.values.tolist() == [1.0, 2.0]
    assert len(columns.times) == len(columns.series) == parcel.readings == 2


def test_what_went_another_way_is_counted() -> None:
    """With the others."""
    rig = Rig()
    rig.buffer.passed(Signal.TRACES, 5)
    assert rig.buffer.totals.sent[Signal.TRACES] == 5


def test_who_drops_waits_once_until_there_is_room_again() -> None:
    """A control loop must not stand still for a second with each reading that nobody can store."""
    rig = Rig(wait_s=1.0, raises=False)

    def fill() -> float:
        """Add until something is dropped; return how long that took."""
        before = rig.buffer.totals.dropped
        while rig.buffer.totals.dropped == before:
            began_s = time.monotonic()
            rig.add()
        return time.monotonic() - began_s

    assert fill() >= 1.0
    # One of them may meet a moment in which the machine is busy.
    assert sorted(fill() for _ in range(5))[3] < 1.0
    parcel = rig.buffer.take()
    assert parcel is not None
    rig.buffer.kept(parcel)
    assert fill() >= 1.0


class InterruptedHereError(Exception):
    """What the handler of a signal raises."""


def interrupt(work: Callable[[], None], at: set[int]) -> bool:
    """Do it, and raise at these lines of the buffer, counted as they come; return whether it came to its end."""
    lines = 0

    def look(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != buffer.__file__:
            return None
        # No signal comes between the end of a block and the lock's own.
        is_step = event == "line" and not linecache.getline(buffer.__file__, frame.f_lineno).strip().startswith("with ")
        lines += is_step
        if is_step and lines in at:
            raise InterruptedHereError
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        work()
    except InterruptedHereError:
        return False
    finally:
        sys.settrace(before)
    return True


@pytest.mark.parametrize("first", range(1, 20))
def test_interrupts_between_any_two_steps_leave_columns_even(first: int) -> None:
    """Two of them, the second one while what the first one left is made good, here or by the next who comes."""
    for second in range(1, 20):
        rig = Rig()
        for value, at in enumerate(({first, first + second}, {second}, set[int]())):
            interrupt(partial(rig.add, value, "b"), at)
            interrupt(partial(rig.add_record, value), at)
        rig.add(50.0)
        rig.add_record(51)
        parcel = rig.buffer.take()
        assert parcel is not None
        (columns,) = parcel.columns.values()
        assert len(columns.series) == len(columns.values) == len(columns.times)
        assert columns.values[-2:].tolist() == [2.0, 50.0]
        (records,) = parcel.records.values()
        assert [int(body) for body in records.bodies] == records.times.tolist() == records.sent.tolist()
        assert records.times[-2:].tolist() == [2, 51]
