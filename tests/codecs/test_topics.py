"""Topic patterns and texts with holes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.topics import LEVELS_MAX, Pattern, Template, topic_problem

LEVEL = st.sampled_from(["a", "b", "", "$SYS", "ä"])


@pytest.mark.parametrize(
    ("pattern", "topic", "captures"),
    [
        ("a/b", "a/b", {}),
        ("a/b", "a/c", None),
        ("a/b", "a", None),
        ("a/b", "a/b/c", None),
        ("a/+/c", "a/x/c", {}),
        ("a/+", "a/", {}),
        ("a/{x}/c/{y}", "a/1/c/2", {"x": "1", "y": "2"}),
        ("#", "a/b/c", {}),
        ("#", "$SYS/broker", {}),
        ("a/#", "a", {}),
        ("a/#", "a/b/c", {}),
        ("a/#", "b", None),
        ("a/{rest#}", "a/b/c", {"rest": "b/c"}),
        ("a/{rest#}", "a", {"rest": ""}),
    ],
)
def test_a_pattern_takes_and_captures(pattern: str, topic: str, captures: dict[str, str] | None) -> None:
    """Levels are compared one by one; a wildcard at the end takes what is left, even nothing."""
    assert Pattern(pattern).match(topic) == captures


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a/#/b", "stands at the end"),
        ("a/{x}/{x}", "twice"),
        ("a/{topic}", "another name"),
        ("dev-{x}/b", "whole one"),
        ("a/b+", "whole one"),
        ("{}", "whole one"),
        ("{a b}", "whole one"),
        ("/".join("a" * (LEVELS_MAX + 1)), "at most"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_with_what_would_be_right(pattern: str, words: str) -> None:
    """The sentence names the rule."""
    with pytest.raises(ValueError, match=words):
        Pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "topic", "why"),
    [
        ("a/b/c", "a/x/c", "level 2 is 'x', not 'b'"),
        ("a/b", "a", "the topic has 1 level, the pattern takes 2"),
        ("a/b/#", "a", "the topic has 1 level, the pattern takes at least 2"),
        ("a", "a/b/c", "the topic has 3 levels, the pattern takes 1"),
        ("a/#", "a/b", ""),
    ],
)
def test_a_pattern_says_why_a_topic_does_not_fit(pattern: str, topic: str, why: str) -> None:
    """The first level that differs, or the number of levels."""
    assert Pattern(pattern).why_not(topic) == why


@given(st.lists(st.one_of(LEVEL, st.just("+"))), st.booleans(), st.lists(LEVEL, min_size=1))
def test_matching_agrees_with_the_rule_of_mqtt(levels: list[str], takes_rest: bool, words: list[str]) -> None:
    """A level equals its word or is +; # is everything behind, the level before it included."""
    pattern = [*levels, "#"] if takes_rest else levels or ["a"]
    wanted = pattern[:-1] if takes_rest else pattern
    long_enough = len(words) >= len(wanted) if takes_rest else len(words) == len(wanted)
    expected = long_enough and all(p in {"+", w} for p, w in zip(wanted, words, strict=False))
    read = Pattern("/".join(pattern))
    assert (read.match("/".join(words)) is not None) == expected
    assert (read.why_not("/".join(words)) == "") == expected
    assert repr(read) == f"Pattern({'/'.join(pattern)!r})"


def test_a_template_is_filled() -> None:
    """Captures, and the names that are always there."""
    template = Template("{source}:{device}", known=["device"])
    assert template.fill({"device": "d1", "source": "line1"}) == "line1:d1"
    assert Template("plain", known=[]).fill({}) == "plain"


def test_a_capture_with_braces_is_not_filled_again() -> None:
    """What a topic says is text."""
    assert Template("{device}", known=["device"]).fill({"device": "{source}"}) == "{source}"


def test_a_template_with_an_unknown_name_is_refused() -> None:
    """The sentence lists what there is."""
    with pytest.raises(ValueError, match=r"wants \{devise\}; there is \{device\}, \{source\}, \{topic\}"):
        Template("{devise}", known=["device"])


def test_a_message_has_a_topic_without_wildcards() -> None:
    """Nor an empty one, nor one with a NUL; a name with a dollar is fine."""
    assert [bool(topic_problem(topic)) for topic in ("", "a/+", "#", "a\0b", "a//b", "$SYS/x")] == [True] * 4 + [
        False
    ] * 2


@pytest.mark.parametrize(
    ("first", "second", "covers", "meets"),
    [
        ("#", "a/{x}", True, True),
        ("a/{x}", "#", False, True),
        ("a/+/c", "a/{x}/c", True, True),
        ("a/b/c", "a/{x}/c", False, True),
        ("a/b/c", "a/x/c", False, False),
        ("a/#", "a", True, True),
        ("a", "a/#", False, True),
        ("a/b/#", "a", False, False),
        ("a", "a/b/#", False, False),
        ("a/+", "a/#", False, True),
        ("a", "a/+", False, False),
        ("+/b", "a/#", False, True),
        ("{x#}", "{y#}", True, True),
        ("+/#", "#", True, True),
        ("{x}/{y#}", "#", True, True),
        ("+/+/#", "#", False, True),
        ("a/#", "#", False, True),
        ("a/+/#", "a/#", False, True),
    ],
)
def test_patterns_are_compared_with_each_other(first: str, second: str, covers: bool, meets: bool) -> None:
    """Whether the one takes all that the other does, and whether there is a topic for both."""
    one, other = Pattern(first), Pattern(second)
    assert one.covers(other) is covers
    assert one.meets(other) is other.meets(one) is meets


PATTERN = st.tuples(st.lists(st.sampled_from(["a", "b", "+"]), max_size=3), st.sampled_from([[], ["#"]])).map(
    lambda parts: "/".join([*parts[0], *parts[1]])
)
TOPICS = ["/".join(levels) for n in range(1, 6) for levels in itertools.product("abc", repeat=n)]


@given(PATTERN, PATTERN)
def test_a_comparison_is_what_trying_every_topic_would_say(first: str, second: str) -> None:
    """All topics of up to five levels, with one word more than the patterns have."""
    one, other = Pattern(first), Pattern(second)
    taken, others = ({topic for topic in TOPICS if p.match(topic) is not None} for p in (one, other))
    if first and second:
        assert one.meets(other) is bool(taken & others)
        assert one.covers(other) is (others <= taken)
