"""What is said of the box's clock, and that who asks for it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.control.clocks import clock_astray


@pytest.mark.parametrize(
    ("astray_s", "words"), [(-3600, "is 1 h behind what receivers say"), (86400 * 730, "is 730 days ahead of what")]
)
def test_which_way_it_is_astray(astray_s: int, words: str) -> None:
    """And by how much, with what to do."""
    text = clock_astray(astray_s, is_doubted=False)
    assert words in text
    assert "leave with its time" in text
    assert "leave with theirs" in clock_astray(astray_s, is_doubted=True)
    assert "set it, or let the box reach a time server" in text


def test_its_words_need_no_numpy() -> None:
    """`tidegate status` on a small board is there at once."""
    code = "import sys; import gateway.control.clocks; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
