"""Foreign text made fit for one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("21 °C, 20 µm", "21 °C, 20 µm"),
        ("a\x1b[2J\r\nb\x85", "a\\x1b[2J\\r\\nb\\x85"),
        ("a\u2028\u202e\udcff", "a\\u2028\\u202e\\udcff"),
        ("", ""),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, shown: str) -> None:
    """The rest stays as it is."""
    assert printable(text, 40) == shown


@given(st.text(st.characters(), max_size=30), st.integers(0, 20))
def test_any_text_is_one_short_line_that_can_be_encoded(text: str, most: int) -> None:
    """Whatever the letters are."""
    found = printable(text, most)
    assert found.isprintable()
    assert len(found) <= most
    assert found.encode().decode() == found
