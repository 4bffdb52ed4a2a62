"""Wanted paths become a class."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.codecs.paths import ABSENT, read_path
from gateway.codecs.structs import compile_struct


def read(paths: list[str], *documents: bytes, **options: Any) -> list[list[Any]]:
    """Decode documents into the class of `paths`; return a column for each path."""
    compiled = compile_struct([read_path(path) for path in paths], **options)
    assert compiled is not None
    rows = [msgspec.json.decode(document, type=compiled[0]) for document in documents]
    return [reader(rows) for reader in compiled[1]]


def test_keys_at_any_depth_are_columns() -> None:
    """What is not wanted is skipped."""
    documents = (b'{"a":1,"b":{"c":2,"x":[]},"y":0}', b'{"b":{"c":"text"}}', b"{}")
    assert read(["a", "b.c"], *documents) == [[1, ABSENT, ABSENT], [2, "text", ABSENT]]


def test_a_null_on_the_way_is_nothing() -> None:
    """Nor does it cost the others."""
    assert read(["b.c.d", "a"], b'{"b":null,"a":1}', b'{"b":{"c":{"d":5}},"a":2}') == [[ABSENT, 5], [1, 2]]


def test_behind_an_index_values_are_read_one_by_one() -> None:
    """The list comes out whole."""
    assert read(["a[1].b", "a[0]"], b'{"a":[7,{"b":8}]}', b'{"a":5}') == [[8, ABSENT], [7, ABSENT]]


@pytest.mark.parametrize("paths", [["a", "a.b"], ["a.b", "a"]])
def test_a_value_may_be_wanted_whole_and_in_part(paths: list[str]) -> None:
    """In whatever order."""
    found = dict(zip(paths, read(paths, b'{"a":{"b":5}}'), strict=True))
    assert found == {"a": [{"b": 5}], "a.b": [5]}


def test_odd_keys_are_keys() -> None:
    """Whatever JSON takes."""
    assert read(['["temp-1.x"]', "class"], b'{"temp-1.x":1,"class":2}') == [[1], [2]]


@pytest.mark.parametrize(
    ("paths", "types"),
    [
        (["a", ""], {}),
        (["[0].a"], {}),
        (["s", "s.x"], {("s",): list[int]}),
        (["s.x", "s"], {("s", "x"): list[int]}),
        (["s[0]"], {("s", 0): list[int]}),
        (['["a\\nb"]'], {}),
    ],
)
def test_where_no_class_can_be_there_is_none(paths: list[str], types: Any) -> None:
    """The whole document, or a way through what has a type of its own."""
    assert compile_struct([read_path(path) for path in paths], types=types) is None


def test_a_path_may_have_a_type() -> None:
    """Then what is of another is not decoded; missing it may be."""
    options = {"types": {("s",): list[int]}}
    assert read(["s", "t"], b'{"s":[1],"t":2}', b"{}", **options) == [[[1], ABSENT], [2, ABSENT]]
    with pytest.raises(msgspec.ValidationError):
        read(["s"], b'{"s":["x"]}', **options)


def test_a_strict_class_takes_no_other_keys() -> None:
    """At no depth."""
    assert read(["a.b"], b'{"a":{"b":1}}', is_strict=True) == [[1]]
    for document in (b'{"a":{"b":1,"c":2}}', b'{"x":1}'):
        with pytest.raises(msgspec.ValidationError):
            read(["a.b"], document, is_strict=True)
