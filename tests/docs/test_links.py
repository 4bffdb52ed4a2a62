"""The page on budgets: its example of a cable and a modem is a configuration, and says what the text says of it."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.control.config import parse_config
from gateway.control.ways import NEVER_S, ways_of
from gateway.uplinks.link_settings import LinkSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "OPERATING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### A cable first, and a modem that costs")[2].partition("\n## ")[0]


def test_the_example_is_a_configuration() -> None:
    """The cable first and free; the modem with its day, and what critical data may take beyond."""
    (block,) = re.findall(r"^```toml\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    config = parse_config('[gateway]\nid = "box"\nstate_dir = "/var/lib/tidegate"\n' + block, offline=True)
    (uplink,) = config.uplinks
    ethernet, lte = ways_of(config, uplink)
    assert uplink.links == ("ethernet", "lte")
    assert (ethernet.day_bytes, lte.day_bytes) == (NEVER_S, 20 << 20)
    assert [link.metered for link in config.links] == [False, True]


def test_the_text_names_what_there_is() -> None:
    """Each way to recognise a link, and its defaults."""
    link = LinkSettings(name="a", interface="b")
    assert {"interface", "gateway", "probe"} <= set(re.findall(r"^- `(\w+)`:", SECTION, re.MULTILINE))
    assert f"`settle` ({link.settle:.0f} s)" in SECTION
