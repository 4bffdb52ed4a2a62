"""What is planned says so, and nothing that works is called planned."""

from __future__ import annotations

import pytest

from gateway.control.config import ConfigError, parse_config
from gateway.control.later import LATER, NOT_YET

TABLES = ("sources", "mappings")


def test_every_sentence_says_what_to_do_instead() -> None:
    """Not in this version; then a way that is."""
    for sentence in [*LATER.keys.values(), *LATER.values.values()]:
        assert NOT_YET in sentence
        assert ";" in sentence


def test_a_payload_is_planned_wherever_one_is_named() -> None:
    """A line's and a mapping's are the same word."""
    kinds = {table: {kind for place, kind in LATER.values if place == f"{table}.payload"} for table in TABLES}
    assert kinds["sources"] == kinds["mappings"] == {"senml", "sparkplug", "influx"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[[mappings]]\nmatch = "#"\npayload = "sparkplug"', "mappings[0].payload"),
        (
            '[[sources]]\ntype = "serial"\nname = "a"\nport = "/dev/null"\npayload = "sparkplug"',
            "sources[0].payload",
        ),
        ('[[detectors]]\ntype = "forecast"', "detectors[0].type"),
        (
            '[[sources]]\ntype = "serial"\nname = "a"\nport = "/dev/null"\nframing = "modbus"',
            "sources[0].framing",
        ),
        ("[alerts]", "alerts"),
    ],
)
def test_the_design_s_later_words(text: str, path: str) -> None:
    """Each is refused by name, alone."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, offline=True)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    assert NOT_YET in problem
