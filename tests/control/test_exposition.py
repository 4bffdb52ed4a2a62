"""Prometheus text, read back by Prometheus' own parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.control.exposition import exposition, number
from gateway.core.telemetry import Family

# Anything that can be said in a label: line ends of all kinds, quotes, backslashes, what stands between labels.
ODD = [
    'a"b',
    "a\\",
    "\\n",
    "a\nb",
    "a\r\nb",
    '",x="',
    "}",
    "{a=1}",
    "a,b",
    "# TYPE x gauge",
    "",
    " ",
    "°C 😀",
    "\x00\x1b[2J",
]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(ODD) | st.text('\\"\n{},= #', max_size=8)
NUMBERS = st.floats() | st.integers(-(1 << 63), 1 << 64)


def read_back(page: bytes) -> dict[str, tuple[str, str, dict[tuple, float]]]:
    """Return what a scraper understands: name → type, help, labels → value."""
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        assert family.name not in found, "a name comes twice"
        values = {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}
        assert len(values) == len(family.samples), "a label set comes twice"
        found[family.name] = (family.type, family.documentation, values)
    return found


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


@pytest.mark.parametrize("text", ODD)
def test_odd_labels_come_back_as_they_were(text: str) -> None:
    """Whoever chooses a name can neither begin a line nor end a label."""
    labels = (("source", text), ("z", "plain"))
    page = exposition(
        [Family("tidegate_x", "X.", "gauge", {labels: 1.5}), Family("tidegate_y", "Y.", "gauge", {(): 2})]
    )
    assert read_back(page) == {
        "tidegate_x": ("gauge", "X.", {labels: 1.5}),
        "tidegate_y": ("gauge", "Y.", {(): 2}),
    }


@pytest.mark.parametrize("text", ['What "came"\nin.', "a\\b", "a\\nb", "# HELP x y", "°C"])
def test_odd_help_comes_back_as_it_was(text: str) -> None:
    """On one line; quotes are left alone there."""
    assert read_back(exposition([Family("tidegate_x", text, "gauge", {(): 1})]))["tidegate_x"][1] == text


@given(
    kind=st.sampled_from(["counter", "gauge", "untyped"]),
    values=st.dictionaries(
        st.dictionaries(st.sampled_from(["source", "reason", "uplink"]), TEXTS).map(lambda d: tuple(sorted(d.items()))),
        NUMBERS,
        min_size=1,
    ),
    about=TEXTS.map(str.strip).filter(bool),
)
def test_what_is_put_in_comes_out(kind: str, values: dict, about: str) -> None:
    """Every kind, label and number, whatever it is made of."""
    ending = "unknown" if kind == "untyped" else kind
    shown = read_back(exposition([Family("tidegate_x", about, kind, values)]))
    found_kind, found_help, found = shown["tidegate_x"]
    assert (found_kind, found_help, list(shown)) == (ending, about, ["tidegate_x"])
    assert found.keys() == values.keys()
    assert all(same(found[labels], float(value)) for labels, value in values.items())


def test_numbers_that_are_none_are_said_in_the_formats_words() -> None:
    """NaN, +Inf, -Inf; and a number is as long as it must be."""
    shown = [number(value) for value in (math.nan, math.inf, -math.inf, 0.1, 1 << 60, -2.5e-300)]
    assert shown == ["NaN", "+Inf", "-Inf", "0.1", "1.152921504606847e+18", "-2.5e-300"]


def test_a_counters_name_ends_in_total_once() -> None:
    """Both lines and the samples, whether its name did or not."""
    for name in ("tidegate_x", "tidegate_x_total"):
        page = exposition([Family(name, "X.", "counter", {(): 1})])
        assert page == b"# HELP tidegate_x_total X.\n# TYPE tidegate_x_total counter\ntidegate_x_total 1.0\n"


def test_a_family_without_samples_is_announced() -> None:
    """So that a graph can be drawn before the first loss."""
    page = exposition([Family("tidegate_x", "X.", "gauge")])
    assert page == b"# HELP tidegate_x X.\n# TYPE tidegate_x gauge\n"


def test_labels_stand_by_name_and_families_as_they_come() -> None:
    """The same numbers are the same bytes, whoever counted them first."""
    family = Family("b", "B.", "gauge", {(("z", "1"), ("a", "2")): 1})
    page = exposition([family, Family("a", "A.", "gauge", {(): 1})])
    assert page.splitlines()[2:] == [b'b{a="2",z="1"} 1.0', b"# HELP a A.", b"# TYPE a gauge", b"a 1.0"]
    assert page == exposition([family, Family("a", "A.", "gauge", {(): 1})])


def test_a_name_that_comes_twice_is_one_family() -> None:
    """Two TYPE lines for a name are an error to who reads them, and so are two samples with the same labels."""
    first = Family("tidegate_x", "First.", "gauge", {(("source", "a"),): 1})
    again = Family("tidegate_x", "Again.", "untyped", {(("source", "a"),): 7, (("source", "b"),): 2})
    page = exposition([first, Family("tidegate_y", "Y.", "gauge", {(): 3}), again])
    assert read_back(page)["tidegate_x"] == ("gauge", "First.", {(("source", "a"),): 1, (("source", "b"),): 2})
    assert first.values == {(("source", "a"),): 1}


def test_letters_that_names_may_not_have_are_lines() -> None:
    """A key of a status is no reason to lose the page."""
    page = exposition([Family("9tide-gate.x", "X.", "gauge", {(("a-b", "c"), ("9", "d")): 1})])
    assert page.splitlines()[2] == b'_tide_gate_x{_="d",a_b="c"} 1.0'


def test_a_letter_without_bytes_is_a_question_mark() -> None:
    """Half of a surrogate pair in a name of a file: the rest of the page is as it was."""
    assert (
        exposition([Family("x", "X.", "gauge", {(("file", "a\udc80b"),): 1})]).splitlines()[2] == b'x{file="a?b"} 1.0'
    )
