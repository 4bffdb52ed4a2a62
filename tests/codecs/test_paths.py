"""Paths into documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.paths import ABSENT, STEPS_MAX, column_reader, follow, path_text, read_path


@pytest.mark.parametrize("text", [".a", "a..b", "a[", "a[x]", "a.", "[1]b", "a]", 'a["'])
def test_what_is_no_path_is_refused(text: str) -> None:
    """A sentence shows how one is written."""
    with pytest.raises(ValueError, match="is not a path"):
        read_path(text)


def test_a_path_is_bounded() -> None:
    """STEPS_MAX steps."""
    assert len(read_path(".".join("a" * STEPS_MAX))) == STEPS_MAX
    with pytest.raises(ValueError, match="at most"):
        read_path(".".join("a" * (STEPS_MAX + 1)))


@given(st.lists(st.one_of(st.text("ab. []", min_size=1), st.integers(0, 99)), max_size=5))
def test_a_path_is_read_as_it_is_written(steps: list[Any]) -> None:
    """path_text and read_path are each other's inverse."""
    assert read_path(path_text(steps)) == tuple(steps)


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        ({"a": {"b": [{"c": 5}]}}, "a.b[0].c", 5),
        ({"a": 1}, "a.b", ABSENT),
        ({"a": [1]}, "a[1]", ABSENT),
        ({"a": None}, "a", None),
        ({"a": None}, "a.b", ABSENT),
        ({"a.b": 1}, '["a.b"]', 1),
        ({7: 1}, "7", 1),
        ({"7": 2, 7: 1}, "7", 2),
        ([1, 2], "[1]", 2),
        (5, "", 5),
        (5, "*", 5),
        ({"a": np.array([1.5, 2.5])}, "a[1]", 2.5),
        ("text", "[0]", ABSENT),
    ],
)
def test_a_path_is_followed(document: Any, path: str, value: Any) -> None:
    """Where the document goes another way there is nothing; columns say the same."""
    assert follow(document, read_path(path)) == value
    assert column_reader(read_path(path))([document]) == [value]


def test_a_column_is_read_from_objects_and_others() -> None:
    """One that is no object has nothing, the rest have."""
    read = column_reader(("a",))
    assert read([{"a": 1}, {"b": 1}]) == [1, ABSENT]
    assert read([{"a": 1}, [1]]) == [1, ABSENT]
