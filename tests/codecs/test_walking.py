"""Every number in a document, with its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.mapping_settings import MapLimits
from gateway.codecs.paths import follow, read_path
from gateway.codecs.payloads import Opaque
from gateway.codecs.walking import NUMBERS, Walk, own_time, sure_times
from gateway.core.contracts import MalformedError

NOW_S = 1_790_000_000
DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc", max_size=2), inner, max_size=4)
    ),
    max_leaves=15,
)


def walk(
    document: Any, *, skip: set[str] = frozenset(), has_times: bool = False, **limits: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the numbers by name and the reasons of what is lost."""
    lost: list[str] = []
    walking = Walk(MapLimits(**limits), frozenset(skip), has_times, lambda reason, _: lost.append(reason))
    try:
        return dict(walking.numbers(document, "root")), lost
    except MalformedError as error:
        return {}, [*lost, error.reason]


def test_numbers_are_named_by_their_path() -> None:
    """Text, null and bytes are none."""
    document = {"a": 1, "b": {"c": 2.5, "d": "x", "e": None}, "f": [True, {"g": 3}], 7: 4, "h": b"x"}
    assert walk(document) == ({"a": 1, "b.c": 2.5, "f[0]": True, "f[1].g": 3, "7": 4}, [])


def test_what_is_no_object_has_the_name_it_is_given() -> None:
    """A bare number, a list, an array."""
    assert walk(5) == ({"root": 5}, [])
    assert walk([5, 6]) == ({"root[0]": 5, "root[1]": 6}, [])
    assert walk(np.array([1.5])) == ({"root[0]": 1.5}, [])
    assert walk("text") == ({}, [])


@given(DOCUMENTS)
def test_a_name_is_the_path_to_its_number(document: Any) -> None:
    """So it can be copied into a mapping's field."""
    found, lost = walk(document)
    assert lost == [] or "bad_name" in lost or "too_deep" in lost
    for name, value in found.items():
        if "" not in name.replace("[", ".").split(".") and isinstance(document, dict):
            assert follow(document, read_path(name)) == value


def test_a_list_is_readings_where_there_are_times_for_them() -> None:
    """A list of numbers, that is: one of objects is walked."""
    array = np.array([1, 2])
    found, _ = walk({"a": [1, 2], "b": [None, 2], "c": [{"d": 5}], "e": ["x"], "f": array}, has_times=True)
    assert found == {"a": [1, 2], "b": [None, 2], "c[0].d": 5, "f": array}


def test_a_long_list_without_times_is_lost_as_one() -> None:
    """Hundreds of metrics of one device are nobody's wish."""
    assert walk({"a": list(range(5)), "b": 1}, elements_max=4) == ({"b": 1}, ["array_without_time"])


def test_what_cannot_be_a_name_or_a_number_is_lost_alone() -> None:
    """CBOR has keys and values that nothing can be called or measured by."""
    assert walk({b"k": 1, "a": 2, (1, 2): 3}) == ({"a": 2}, ["bad_name", "bad_name"])
    assert walk({"a": Opaque(35), "b": 2}) == ({"b": 2}, ["wrong_type"])
    assert walk({"a": 1 + 2j, "b": 2}) == ({"b": 2}, [])


def test_depth_is_bounded() -> None:
    """By depth_max."""
    document: Any = 1
    for _ in range(9):
        document = {"a": document}
    assert walk(document, depth_max=9)[0] == {"a.a.a.a.a.a.a.a.a": 1}
    assert walk({"x": {"a": document}}, depth_max=9)[1] == ["too_deep"]


def test_names_that_are_times_are_skipped() -> None:
    """At any depth."""
    assert walk({"ts": 1, "a": {"ts": 2}}, skip={"ts"})[0] == {"a.ts": 2}
    assert walk({"ts": 1, "a": {"ts": 2}}, skip={"a.ts"})[0] == {"ts": 1}


def test_a_null_is_seen() -> None:
    """Then a document without a number is not wrong."""
    walking = Walk(MapLimits(), frozenset(), has_times=False, lose=lambda *_: None)
    assert list(walking.numbers({"a": "x"}, "")) == []
    assert not walking.has_seen_null
    assert list(walking.numbers({"a": None, "b": "x"}, "")) == []
    assert walking.has_seen_null


@pytest.mark.parametrize(
    ("document", "key", "ns"),
    [
        ({"ts": NOW_S}, "ts", NOW_S * 10**9),
        ({"timestamp": NOW_S * 1000}, "timestamp", NOW_S * 10**9),
        ({"time": NOW_S * 10**6}, "time", NOW_S * 10**9),
        ({"ts": NOW_S * 10**9 + 1}, "ts", NOW_S * 10**9 + 1),
        ({"ts": NOW_S + 0.5}, "ts", NOW_S * 10**9 + 5 * 10**8),
        ({"ts": "2023-11-14T22:13:20Z"}, "ts", 1_700_000_000 * 10**9),
        ({"ts": 1234, "time": NOW_S}, "time", NOW_S * 10**9),
        ({"ts": 1234}, "", None),
        ({"ts": "12:30"}, "", None),
        ({"ts": "1999-01-01"}, "", None),
        ({"ts": True}, "", None),
        ({"ts": None}, "", None),
        ({"ts": [NOW_S]}, "", None),
        ({"ts": float("nan")}, "", None),
        ({"t": NOW_S}, "", None),
        ([NOW_S], "", None),
    ],
)
def test_a_time_is_taken_for_one_only_if_it_can_be_nothing_else(document: Any, key: str, ns: int | None) -> None:
    """Its key, and a number of this century in some unit."""
    assert own_time(document) == (key, ns)


@given(
    st.one_of(
        st.lists(st.integers(946_684_000, 4_102_445_000), min_size=1),
        st.lists(st.floats(9e8, 5e18), min_size=1),
        st.lists(st.one_of(st.integers(0, 2**63), st.floats(), st.booleans(), st.none()), min_size=1),
    )
)
def test_many_times_are_found_as_each_alone(values: list[Any]) -> None:
    """A column and a look at each agree."""
    ns, is_sure = sure_times(values)
    for value, one, sure in zip(values, ns.tolist(), is_sure.tolist(), strict=True):
        key, expected = own_time({"ts": value})
        assert sure == (key == "ts")
        assert not sure or one == expected
        assert type(value) in NUMBERS or not sure


def test_below_a_name_that_is_too_long_nothing_is_looked_at() -> None:
    """Each name inside would be as long again; a long key in front of 10,000 objects held everybody up."""
    many = {str(k): {} for k in range(10_000)}
    assert walk({"k" * 256: many, "l" * 256: [1, 2], "a": 1}) == ({"a": 1}, ["bad_name", "bad_name"])
    assert walk({"k" * 253: {"a": 1}}) == ({"k" * 253 + ".a": 1}, [])


@pytest.mark.parametrize(
    "document", [{"a": {str(k): {} for k in range(20)}}, {"a": [[]] * 20}, {k + 0.5: 1 for k in range(20)}]
)
def test_what_is_no_number_is_bounded_too(document: Any) -> None:
    """Empty objects, empty lists, keys that are no text."""
    assert walk(document, fields_per_payload_max=19)[1][-1] == "too_many_fields"
    assert "too_many_fields" not in walk(document, fields_per_payload_max=22)[1]


def test_a_time_key_may_hold_what_is_no_time() -> None:
    """A list, an object, a switch's state: looked for elsewhere."""
    assert own_time({"ts": [NOW_S], "timestamp": True, "time": NOW_S}) == ("time", NOW_S * 10**9)


def test_times_with_a_fraction_are_read_together() -> None:
    """To the microsecond, which is what a double holds."""
    ns, was_sure = sure_times([NOW_S + 0.5, NOW_S + 0.25])
    assert ns.tolist() == [NOW_S * 10**9 + 500_000_000, NOW_S * 10**9 + 250_000_000]
    assert was_sure.all()
