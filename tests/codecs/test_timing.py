"""A mapping's `time`, over documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.codecs.device_time import Moment
from gateway.codecs.documents import Cutter
from gateway.codecs.mapping_settings import MapLimits, MappingSettings, TimeSettings
from gateway.codecs.routing import Work
from gateway.codecs.timing import Timing
from gateway.core.contracts import MalformedError

MOMENT = Moment(10**12, 0, 2 * 10**18)


def cut(time: TimeSettings | None, *payloads: bytes, each: str | None = None) -> tuple[Timing, Any, Work]:
    """Cut JSON payloads as a mapping with this time does."""
    timing = Timing(time, is_each=each is not None)
    settings = MappingSettings(match="#", payload="json", each=each, time=time)
    cutter = Cutter(
        settings, limits=MapLimits(), item_paths=[("v",), *timing.item_paths], document_paths=timing.document_paths
    )
    everything = np.arange(len(payloads))
    work = Work(list(payloads), everything, everything, MOMENT)
    (found,) = cutter.cut(work)
    return timing, found, work


def test_paths_are_wanted_where_they_stand() -> None:
    """Field and ticks in each item, the rest around them."""
    timing = Timing(TimeSettings(ticks="t", now="meta.now"), is_each=True)
    assert (timing.item_paths, timing.document_paths) == ([("t",)], [("meta", "now")])
    assert timing.paths == [("t",), ("meta", "now")]
    assert Timing(None, is_each=False).paths == []


@pytest.mark.parametrize(
    ("time", "payloads", "each", "parts"),
    [
        (None, [b"{}"], None, [(1, False)]),
        (TimeSettings(field="t"), [b'{"t":1}', b'{"t":2}'], None, [(2, False)]),
        (TimeSettings(field="t"), [b'{"t":[1]}', b'{"t":[2]}'], None, [(2, True)]),
        (TimeSettings(field="t"), [b'{"t":1}', b'{"t":[2]}', b"{}"], None, [(1, True), (2, False)]),
        (TimeSettings(step="t"), [b'{"t":1}'], None, [(1, True)]),
        (TimeSettings(step="t"), [b'{"t":1,"s":[{}]}'], "s", [(1, False)]),
    ],
)
def test_documents_with_a_time_for_each_value_go_apart(time: Any, payloads: Any, each: Any, parts: Any) -> None:
    """Steps, or a list where the time is."""
    timing, found, _ = cut(time, *payloads, each=each)
    assert [(len(part.documents), is_array) for part, is_array in timing.split(found)] == parts


def test_times_of_arrays_are_made_once_for_arrays_of_a_length() -> None:
    """A document's channels share them."""
    timing, found, _ = cut(TimeSettings(start="t0", step="dt", unit="ns"), b'{"t0":5,"dt":10}')
    clock = timing.array_times(found, MOMENT)
    first = clock.of(0, 3, "a")
    assert first.ns.tolist() == [5, 15, 25]
    assert clock.of(0, 3, "b") is first
    assert clock.of(0, 2, "b").ns.tolist() == [5, 15]
    assert clock.of(0, None, "c").ns.tolist() == [5]


def test_there_must_be_as_many_times_as_values() -> None:
    """One value beside them has the last of them."""
    timing, found, _ = cut(TimeSettings(field="t", unit="ns"), b'{"t":[5,7]}')
    ((part, _),) = timing.split(found)
    clock = timing.array_times(part, MOMENT)
    assert clock.of(0, 2, "a").ns.tolist() == [5, 7]
    assert clock.of(0, None, "a").ns.tolist() == [7]
    with pytest.raises(MalformedError, match="a has 3 values and there are 2 times"):
        clock.of(0, 3, "a")


def test_items_in_steps_that_have_no_step_are_lost() -> None:
    """The others keep their times."""
    time = TimeSettings(step="dt", unit="ns")
    timing, found, work = cut(time, b'{"s":[{},{}]}', b'{"dt":5,"s":[{},{}]}', each="s")
    times, keep = timing.item_times(found, work)
    assert keep is not None
    assert keep.tolist() == [False, False, True, True]
    assert times.ns.tolist() == [10**12 - 5, 10**12]
    assert work.output.malformed[0][:2] == (0, "bad_step")
