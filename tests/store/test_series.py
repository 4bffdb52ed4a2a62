"""Series keep their numbers as long as anybody needs them, and what nobody needs is forgotten."""

from __future__ import annotations

import gc
import tracemalloc
import zlib

import msgspec
import numpy as np
import pytest

from gateway.core.batch import Series
from gateway.store.series import (
    NUMBER_MAX,
    OWN_MAX,
    SERIES_BYTES,
    SeriesBounds,
    SeriesRegistry,
    decode_series,
    encode_series,
    lost_series,
)
from gateway.store.uses import BACK_IDLE_S, CAME_BACK_S, ONCE_IDLE_S

NOTHING = np.empty(0, np.uint32)
LONG_IDLE_S = 10**6


def registry(*known: tuple[int, str], series_max: int = 100, **options) -> SeriesRegistry:
    bounds = SeriesBounds(
        **{"idle_s": LONG_IDLE_S, **{k: options.pop(k) for k in [*options] if k in SeriesBounds.__slots__}}
    )
    rows = [(number, encode_series(Series((), name))) for number, name in known]
    return SeriesRegistry(rows, series_max=series_max, bounds=bounds, **options)


def add(one: SeriesRegistry, *names: str, owner: str = "") -> list[int | None]:
    return [one.resolve(Series((), name), owner) for name in names]


def save(one: SeriesRegistry) -> None:
    one.saved(len(one.unsaved()))


def forget(one: SeriesRegistry, *, now_s: int, held_from: int = 10**9, in_use=()) -> list[int]:
    return one.forget(held_from=held_from, in_use=np.array(in_use, np.uint32), now_s=now_s).tolist()


def test_numbers_rise_and_stay() -> None:
    """A new series is new once."""
    one = registry((3, "a"))
    assert add(one, "a", "b", "b") == [3, 4, 4]
    assert (len(one), one.series(4).name) == (2, "b")


def test_there_are_so_many_and_no_more() -> None:
    """Whoever is turned away is counted; what is known is found as ever."""
    one = registry((3, "a"), series_max=2)
    assert add(one, "b", "c", "c", "a") == [4, None, None, 3]
    status = one.status()
    assert (status["series"], status["max_series"], status["series_refused"]) == (2, 2, {"max_series": 2})


def test_their_bytes_are_bounded() -> None:
    """Long names are fewer; in status stands what they take and what they may take."""
    one = registry(bytes_max=10 * (SERIES_BYTES + 1100))
    numbers = add(one, *(f"{k}" + "x" * 1000 for k in range(20)))
    assert 10 <= len([number for number in numbers if number]) <= 11
    status = one.status()
    assert status["series_refused"] == {"series_bytes": numbers.count(None)}
    assert status["series_bytes"] <= status["max_series_bytes"] == 10 * (SERIES_BYTES + 1100)


@pytest.mark.parametrize("letters", [5, 300, 1000])
def test_what_is_counted_is_what_they_take(letters: int) -> None:
    """Of memory, with room to grow: not less than is used, and not much more."""
    names = [f"{k:06}" + "x" * letters for k in range(5600)]
    gc.collect()
    tracemalloc.start()
    one = registry(series_max=10**6, bytes_max=1 << 30)
    for name in names:
        one.resolve(Series((("device.id", name),), "temperature", "Cel"))
    save(one)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = one.status()["series_bytes"]
    assert isinstance(counted, int)
    assert 0.95 * taken < counted < 1.4 * taken + 100 * len(names)


def test_the_gateways_own_words_find_room() -> None:
    """Beyond the bound, a few: what was lost is said even where a flood has taken all."""
    one = registry(series_max=1)
    add(one, "flood")
    own = [one.resolve(Series((), f"own{k}"), is_own=True) for k in range(OWN_MAX + 1)]
    assert own.count(None) == 1
    assert add(one, "other") == [None]


def test_one_owner_cannot_take_all() -> None:
    """Half and its part of the other half, in number; the other owners find theirs."""
    one = registry(series_max=40, owners=("a", "b"))
    taken = add(one, *(f"a{k}" for k in range(40)), owner="a")
    assert len([number for number in taken if number]) == 30
    assert one.status()["series_refused"] == {"share": 10}
    assert None not in add(one, *(f"b{k}" for k in range(10)), owner="b")
    assert add(one, "b10", owner="b") == [None]


def test_one_owner_cannot_take_all_bytes() -> None:
    """With a few long names as little as with many."""
    one = registry(bytes_max=40 * (SERIES_BYTES + 1100), owners=("a", "b"))
    taken = add(one, *(f"a{k}" + "x" * 1000 for k in range(60)), owner="a")
    assert 30 <= len([number for number in taken if number]) <= 33
    assert None not in add(one, *(f"b{k}" + "x" * 1000 for k in range(9)), owner="b")


def test_whose_a_series_is_shows_when_it_is_asked_for() -> None:
    """After a restart: then it is counted for its owner, once."""
    one = registry(*((k + 1, f"a{k}") for k in range(20)), series_max=40, owners=("a", "b"))
    assert one.owner(1) == ""
    for _ in range(2):
        add(one, *(f"a{k}" for k in range(20)), owner="a")
    assert (one.owner(1), one.owner(99)) == ("a", "")
    assert len([n for n in add(one, *(f"new{k}" for k in range(40)), owner="a") if n]) == 10
    assert None not in add(one, *(f"b{k}" for k in range(10)), owner="b")


def test_numbers_end_somewhere() -> None:
    """Nobody gets one twice, not even after four billion of them."""
    one = registry(next_number=NUMBER_MAX)
    assert add(one, "last", "none", "last") == [NUMBER_MAX, None, NUMBER_MAX]
    assert one.status()["series_refused"] == {"numbers": 1}


def test_sums_that_know_their_start_are_found_again() -> None:
    """In the order of their numbers; what knows none is left out."""
    first, second = Series((), "a", kind="sum", start_ns=1), Series((), "a", kind="sum", start_ns=2)
    rows = [(1, encode_series(first)), (2, encode_series(Series((), "b")))]
    one = SeriesRegistry(rows, series_max=9, bounds=SeriesBounds())
    one.resolve(second)
    assert one.started() == [first, second]
    assert decode_series(encode_series(second)).start_ns == 2


def test_a_series_of_an_earlier_version_is_read() -> None:
    """One that was written before sums could know their start."""
    body = msgspec.msgpack.encode(
        {"resource": [["k", 1]], "name": "m", "unit": "", "kind": "sum", "attributes": [], "scope": ""}
    )
    row = zlib.crc32(body).to_bytes(4, "little") + body
    assert decode_series(row) == Series((("k", 1),), "m", kind="sum")


def test_new_ones_wait_for_a_commit() -> None:
    """What came while it ran waits for the next."""
    one = registry(next_number=7)
    add(one, "a")
    ((number, body),) = one.unsaved()
    assert (number, decode_series(body).name) == (7, "a")
    assert one.unsaved_bytes == 2 * len(body)
    add(one, "b")
    one.saved(1)
    assert [number for number, _ in one.unsaved()] == [8]


def test_names_that_are_lost_are_said_once_and_counted(monkeypatch, caplog) -> None:
    """Their readings leave under another name: who looks for them should know."""
    monkeypatch.setattr("gateway.store.series.LOST_MAX", 2)
    one = registry((1, "a"))
    assert one.series(1).name == "a"
    assert (one.status()["series_lost"], caplog.text) == (0, "")
    for number in (7, 8, 7, 9):
        assert one.series(number) == lost_series(number)
    assert one.status()["series_lost"] == 2
    assert caplog.text.count("names of series are lost to damage: their readings leave as tidegate.lost_series") == 1


def test_what_is_idle_for_long_is_forgotten() -> None:
    """Its row leaves the disk, its number is not given again; what was used meanwhile stays."""
    one = registry((1, "a"), (2, "b"), idle_s=86_400.0)
    one.note(np.array([2], np.uint32), held_to=5, now_s=80_000)
    assert forget(one, now_s=86_399) == []
    assert forget(one, now_s=86_400) == [1]
    assert (len(one), one.forgotten, one.leaving(9)) == (1, 1, [1])
    assert one.series(1) == lost_series(1)
    one.left(1)
    assert one.leaving(9) == []
    assert add(one, "a", "b") == [3, 2]


def test_what_the_shelf_holds_is_not_forgotten() -> None:
    """Nor what waits for a commit, or with somebody for room."""
    one = registry(*((k, f"s{k}") for k in range(1, 5)), held_to=7, idle_s=10.0)
    one.note(np.array([2], np.uint32), held_to=8, now_s=0)
    assert forget(one, now_s=100, held_from=7) == []
    assert forget(one, now_s=100, held_from=8, in_use=[3, 99]) == [1, 4]
    assert forget(one, now_s=100, held_from=9) == [2, 3]


def test_a_rehearsal_forgets_nothing() -> None:
    """It says what would go."""
    one = registry((1, "a"), idle_s=10.0)
    assert one.forget(held_from=9, in_use=NOTHING, now_s=10, is_rehearsal=True).tolist() == [1]
    assert (len(one), one.leaving(1)) == (1, [])


def test_what_was_never_saved_leaves_no_row() -> None:
    """It is taken from those that wait."""
    one = registry(idle_s=10.0)
    add(one, "a", "b")
    one.saved(1)
    assert forget(one, now_s=10) == [1, 2]
    assert (one.unsaved(), one.leaving(9)) == ([], [1])


def test_a_flood_is_forgotten_before_what_comes_back() -> None:
    """Pressed, it goes after ten minutes, as much as is needed; who comes back is given an hour."""
    one = registry(series_max=100)
    add(one, *(f"steady{k}" for k in range(20)))
    for now_s in (0, CAME_BACK_S):
        one.note(np.arange(1, 21, dtype=np.uint32), held_to=1, now_s=now_s)
    flood = add(one, *(f"flood{k}" for k in range(80)))
    assert add(one, "more") == [None]
    assert forget(one, now_s=CAME_BACK_S + ONCE_IDLE_S - 1) == []
    gone = forget(one, now_s=CAME_BACK_S + ONCE_IDLE_S)
    # A quarter is free; of those that came at once the last ones go.
    assert gone == flood[-25:]
    assert forget(one, now_s=CAME_BACK_S + ONCE_IDLE_S) == []
    assert add(one, "more") == [101]


def test_under_pressure_the_longest_idle_go_first() -> None:
    """Where all of them are such as come back."""
    one = registry(series_max=8)
    numbers = np.arange(1, 9, dtype=np.uint32)
    add(one, *"abcdefgh")
    one.note(numbers, held_to=1, now_s=CAME_BACK_S)
    for k in range(8):
        one.note(numbers[k : k + 1], held_to=1, now_s=CAME_BACK_S + 8 - k)
    assert forget(one, now_s=CAME_BACK_S + BACK_IDLE_S + 20) == [7, 8]


def test_a_sum_that_knows_since_when_it_counts_is_never_forgotten() -> None:
    """Found on the disk or new: they are the gateway's own, and few."""
    since = Series((), "sum", kind="sum", start_ns=5)
    one = SeriesRegistry([(3, encode_series(since))], series_max=9, bounds=SeriesBounds(idle_s=10.0))
    later = Series((), "later", kind="sum", start_ns=7)
    assert one.resolve(later, is_own=True) == 4
    add(one, "start_ns", "other")
    assert one.started() == [since, later]
    assert forget(one, now_s=10**9) == [5, 6]
    assert one.resolve(since) == 3


def test_so_many_go_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest the next time."""
    monkeypatch.setattr("gateway.store.series.ROUND_MAX", 3)
    one = registry(*((k, f"s{k}") for k in range(1, 6)), idle_s=10.0)
    assert forget(one, now_s=10) == [1, 2, 3]
    assert forget(one, now_s=10) == [4, 5]


def test_without_pressure_nobody_goes_early() -> None:
    """With an eighth free there is none."""
    one = registry(series_max=8)
    add(one, *"abcdefg")
    assert forget(one, now_s=5 * BACK_IDLE_S) == []
    add(one, "h")
    assert len(forget(one, now_s=10 * BACK_IDLE_S)) == 2


def test_under_pressure_those_give_who_have_more_than_their_part() -> None:
    """However short a time the others' are idle."""
    one = registry(series_max=80, owners=("flood", "honest"))
    add(one, *(f"h{k}" for k in range(20)), owner="honest")
    add(one, *(f"f{k}" for k in range(60)), owner="flood")
    one.note(np.arange(21, 81, dtype=np.uint32), held_to=1, now_s=30)
    gone = forget(one, now_s=30 + ONCE_IDLE_S)
    assert len(gone) == 20
    assert min(gone) > 20


def test_an_owner_at_its_share_is_helped_from_its_own() -> None:
    """While there is room for the others."""
    one = registry(series_max=80, owners=("flood", "honest"))
    add(one, *(f"h{k}" for k in range(5)), owner="honest")
    add(one, *(f"f{k}" for k in range(70)), owner="flood")
    assert one.status()["series_refused"] == {"share": 10}
    gone = forget(one, now_s=ONCE_IDLE_S)
    assert len(gone) == 15
    assert min(gone) > 5


def test_memory_heals() -> None:
    """After a flood the registry takes what it took before."""

    def taken() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    one = registry(series_max=10**6, bytes_max=1 << 30, idle_s=100.0)
    before = taken()
    for k in range(20_000):
        one.resolve(Series((("mqtt.topic", f"{k}"),), "x"))
    save(one)
    flooded = taken()
    while forget(one, now_s=100):
        one.left(len(one.leaving(10**6)))
    healed = taken()
    tracemalloc.stop()
    assert flooded - before > 5 << 20
    assert healed - before < 64 << 10


def test_two_numbers_of_one_series_are_both_forgotten() -> None:
    """As a salvage may bring them back: the later one is given out, and neither is left behind."""
    one = registry((1, "a"), (5, "a"), idle_s=10.0)
    assert add(one, "a") == [5]
    one.note(np.array([1], np.uint32), held_to=1, now_s=20)
    assert forget(one, now_s=20) == [5]
    assert add(one, "a") == [6]
    assert forget(one, now_s=40) == [1, 6]
    assert (len(one), one.status()["series_bytes"]) == (0, 0)


def test_a_series_whose_row_is_lost_says_so() -> None:
    """Its readings still leave."""
    assert registry().series(9).resource == (("tidegate.series.lost", 9),)


@pytest.mark.parametrize("value", [True, 1, 1.5, "x", float("nan"), 2**63 - 1])
def test_a_series_can_be_read_back(value) -> None:
    """With every kind of attribute, and the kind kept."""
    series = Series((("a", value),), "name", "Cel", "sum", (("b", value),), "scope")
    found = decode_series(encode_series(series))
    assert repr(found) == repr(series)


def test_attributes_that_python_calls_equal_are_different_series() -> None:
    """1 is not true, and a number that is none is itself."""
    one = registry()
    numbers = [one.resolve(Series((("a", value),), "m")) for value in (1, True, 1.0, float("nan"), float("nan"))]
    assert numbers == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_flipped_bit_is_noticed(place: int) -> None:
    """Wherever it is."""
    body = bytearray(encode_series(Series((("a", "b"),), "a name that is long enough")))
    body[place % len(body)] ^= 1
    with pytest.raises(ValueError):
        decode_series(bytes(body))


@pytest.mark.parametrize("value", [5, None, "text"])
def test_what_is_no_blob_is_no_series(value) -> None:
    """Whatever stands in the column."""
    with pytest.raises(ValueError, match="no blob"):
        decode_series(value)
