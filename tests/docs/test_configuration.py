"""The pages that list every setting and every metric are what the code says."""

from __future__ import annotations

from pathlib import Path

from gateway.control.manual import CONFIGURATION, METRICS, configuration_page, metrics_page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_pages_are_up_to_date() -> None:
    """`make docs` rewrites them."""
    assert (DOCS / CONFIGURATION).read_text(encoding="utf-8") == configuration_page(), "run: make docs"
    assert (DOCS / METRICS).read_text(encoding="utf-8") == metrics_page(), "run: make docs"


def test_each_heading_stands_once() -> None:
    """A link to a table leads to that one."""
    headings = [line for line in configuration_page().splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)


def test_every_setting_says_what_it_does() -> None:
    """No row without a sentence."""
    rows = [line for line in configuration_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.endswith("|  |")] == []
