"""A bar where somebody looks, and nothing where nobody does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gateway.core.progress import no_progress, progress

if TYPE_CHECKING:
    import pytest


def test_progress_is_drawn_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pipes and logs it would be noise."""
    assert list(progress(range(3), total=3, what="work")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(200), total=200, what="work")) == list(range(200))
    drawn = capsys.readouterr().err
    assert "work" in drawn
    assert drawn.endswith("100 %\n")
    assert drawn.count("\r") <= 102


def test_where_nobody_waits_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """The items alone."""
    assert list(no_progress(range(3), total=3, what="work")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
