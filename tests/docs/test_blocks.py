"""Every configuration that a page shows can be pasted: it is whole, and its mappings keep devices apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.control.check import check

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "firmware_shims" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    (str(page.relative_to(ROOT)), number, text)
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
]


def test_there_are_blocks_on_the_pages() -> None:
    """The list below is not empty for want of a pattern that finds them."""
    assert {"README.md", "docs/OPERATING.md", "docs/SERIAL_PROTOCOL.md", "firmware_shims/README.md"} <= {
        page for page, _, _ in SHOWN
    }


@pytest.mark.parametrize(("page", "number", "text"), SHOWN, ids=[f"{page}-{number}" for page, number, _ in SHOWN])
def test_what_is_shown_can_be_pasted(page: str, number: int, text: str, tmp_path: Path) -> None:
    """`tidegate check` takes it, and has nothing to say of its mappings."""
    path = tmp_path / "tidegate.toml"
    path.write_text(text.replace("/var/lib/tidegate", str(tmp_path)), encoding="utf-8")
    notes = check(path).notes
    assert [note for note in notes if note.startswith("mappings[")] == [], (page, number)
