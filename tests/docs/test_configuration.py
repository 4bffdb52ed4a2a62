"""The page that lists every setting is what the settings classes say."""

from __future__ import annotations

from pathlib import Path

from gateway.control.manual import PAGE, page_of
from gateway.control.settings import Config

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    """`make docs` rewrites it."""
    assert (DOCS / PAGE).read_text(encoding="utf-8") == page_of(Config), "run: make docs"


def test_every_setting_says_what_it_does() -> None:
    """No row without a sentence."""
    rows = [line for line in page_of(Config).splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.endswith("|  |")] == []
