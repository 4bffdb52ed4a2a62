"""Foreign text made fit for one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.text import SENTENCE_CHARS_MAX, harmless, printable, sentence


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


@given(st.text(st.characters(), max_size=30), st.integers(2, 20))
def test_a_sentence_says_that_it_was_cut(text: str, most: int) -> None:
    """It ends with … if and only if more would have come."""
    whole, found = printable(text, 1000), sentence(text, most)
    assert found.isprintable()
    assert found == (whole if len(whole) <= most else whole[: most - 1] + "…")


def test_every_text_of_a_status_is_made_harmless() -> None:
    """Keys and values, however deep; numbers stay what they are."""
    nasty = "\x1b[2J\u202e\n" + "n" * 10_000
    found = harmless({nasty: [nasty, {"a": (nasty, 1, 2.5, True, None)}]})
    (key,) = found
    first, second = found[key]
    assert first == second["a"][0] == key
    assert key.isprintable()
    assert len(key) == SENTENCE_CHARS_MAX
    assert second["a"][1:] == [1, 2.5, True, None]
