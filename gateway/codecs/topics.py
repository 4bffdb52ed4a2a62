"""Topic patterns with captures, and texts that are filled in from them. Must not know payloads or metrics.

A pattern is levels divided by "/", as in MQTT 3.1.1 (section 4.7), with names:

| level      | takes                                                            |
| ---------- | ---------------------------------------------------------------- |
| `climate`  | the same word                                                    |
| `+`        | any one level                                                    |
| `{name}`   | any one level, and calls it `name`                               |
| `#`        | the rest, which may be nothing; only at the end                  |
| `{name#}`  | the rest, which may be nothing, and calls it `name`; at the end  |

Unlike a subscription, a wildcard takes topics that begin with "$" too: who subscribed to them wants them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# Every pattern's captures have these besides their own.
GIVEN_NAMES: Final = frozenset({"topic", "source"})
LEVELS_MAX: Final = 128
# Each may be as long as a topic, which devices choose.
HOLES_MAX: Final = 16

_NAMED_LEVEL: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(#?)\}")
_HOLE: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pattern: `word` for itself, or a wildcard with a `name` ("" if it has none)."""

    word: str | None = None
    name: str = ""
    takes_rest: bool = False


class Pattern:
    """A `match` of a mapping, read once.

    >>> Pattern("plant/{device}/climate").match("plant/d1/climate")
    {'device': 'd1'}
    """

    def __init__(self, text: str) -> None:
        """Read `text`; raise ValueError that says what would be right."""
        self.text = text
        self.levels = tuple(_read_level(word, text) for word in text.split("/"))
        if len(self.levels) > LEVELS_MAX:
            raise ValueError(f"{text[:60]!r}… has {len(self.levels)} levels; write at most {LEVELS_MAX}")
        if any(level.takes_rest for level in self.levels[:-1]):
            raise ValueError(f"{text!r}: # takes the rest, so it stands at the end")
        self.names = tuple(level.name for level in self.levels if level.name)
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise ValueError(f"{text!r} has {{{min(twice)}}} twice; give each capture a name of its own")
        taken = GIVEN_NAMES.intersection(self.names)
        if taken:
            raise ValueError(f"{text!r}: {{{min(taken)}}} is always there; give the capture another name")

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def match(self, topic: str) -> dict[str, str] | None:
        """Return what the names captured, or None if `topic` does not fit."""
        words = topic.split("/")
        captures: dict[str, str] = {}
        for position, level in enumerate(self.levels):
            if level.takes_rest:
                if level.name:
                    captures[level.name] = "/".join(words[position:])
                return captures
            if position == len(words) or level.word not in {None, words[position]}:
                return None
            if level.name:
                captures[level.name] = words[position]
        return captures if len(words) == len(self.levels) else None

    def covers(self, other: Pattern) -> bool:
        """Whether this pattern takes every topic that `other` takes.

        >>> Pattern("plant/#").covers(Pattern("plant/{device}/climate")), Pattern("plant/+").covers(Pattern("plant/#"))
        (True, False)
        """
        for mine, theirs in zip(self.levels, other.levels, strict=False):
            if mine.takes_rest:
                return True
            if theirs.takes_rest:
                # A rest may be nothing, but a topic has one level at least: +/# takes all that # does.
                return mine.word is None and len(other.levels) == 1 and self._takes_what_ends_at(1)
            if mine.word not in {None, theirs.word}:
                return False
        return len(self.levels) == len(other.levels) or self._takes_what_ends_at(len(other.levels))

    def meets(self, other: Pattern) -> bool:
        """Whether there is a topic that both patterns take.

        >>> Pattern("plant/+/climate").meets(Pattern("+/d1/#")), Pattern("plant/+").meets(Pattern("plant/a/b"))
        (True, False)
        """
        for mine, theirs in zip(self.levels, other.levels, strict=False):
            if mine.takes_rest or theirs.takes_rest:
                return True
            if None not in {mine.word, theirs.word} and mine.word != theirs.word:
                return False
        mine_count, their_count = len(self.levels), len(other.levels)
        return (
            mine_count == their_count or self._takes_what_ends_at(their_count) or other._takes_what_ends_at(mine_count)
        )

    def _takes_what_ends_at(self, count: int) -> bool:
        """Whether nothing but the rest, which may be nothing, is wanted of a topic behind its first `count` levels."""
        return len(self.levels) == count + 1 and self.levels[-1].takes_rest

    def why_not(self, topic: str) -> str:
        """Say in a few words why `topic` does not fit; "" if it does."""
        if self.match(topic) is not None:
            return ""
        words = topic.split("/")
        for number, (level, word) in enumerate(zip(self.levels, words, strict=False), 1):
            if level.word is not None and level.word != word:
                return f"level {number} is {word!r}, not {level.word!r}"
        wanted = len(self.levels) - self.levels[-1].takes_rest
        least = "at least " if self.levels[-1].takes_rest else ""
        return f"the topic has {_levels(len(words))}, the pattern takes {least}{wanted}"


class Template:
    """A text with {captures} in it.

    >>> Template("dev-{device}", known=["device"]).fill({"device": "d1"})
    'dev-d1'
    """

    def __init__(self, text: str, *, known: Collection[str]) -> None:
        """Read `text`; raise ValueError for a name that the pattern does not capture, and for too many names."""
        self.text = text
        self.names = tuple(_HOLE.findall(text))
        if len(self.names) > HOLES_MAX:
            raise ValueError(f"{text[:60]!r}… has {len(self.names)} captures in it; write at most {HOLES_MAX}")
        for name in self.names:
            if name not in known and name not in GIVEN_NAMES:
                names = ", ".join(f"{{{other}}}" for other in (*known, *sorted(GIVEN_NAMES)))
                raise ValueError(f"{text!r} wants {{{name}}}; there is {names}")

    def fill(self, captures: Mapping[str, str]) -> str:
        """Return the text with its holes filled."""
        return _HOLE.sub(lambda hole: captures[hole[1]], self.text) if self.names else self.text


def topic_problem(topic: str) -> str:
    """Say why no message can have `topic` (MQTT 3.1.1, sections 3.3.2.1, 4.7.1 and 4.7.3), "" if one can.

    >>> topic_problem("plant/+/climate"), topic_problem("plant/d1/climate")
    ("the topic has + in it, which only a subscription's can have", '')
    """
    if not topic:
        return "the topic is empty, which no message's is"
    for wildcard in "+#":
        if wildcard in topic:
            return f"the topic has {wildcard} in it, which only a subscription's can have"
    return "the topic has a NUL in it, which no message's can have" if "\0" in topic else ""


def _read_level(word: str, text: str) -> Level:
    if word in {"+", "#"}:
        return Level(takes_rest=word == "#")
    named = _NAMED_LEVEL.fullmatch(word)
    if named is not None:
        return Level(name=named[1], takes_rest=bool(named[2]))
    if set("+#{}").intersection(word):
        raise ValueError(
            f"{text!r}: {word!r} is no level; a wildcard takes a whole one: +, {{name}}, or # and {{name#}} at the end"
        )
    return Level(word=word)


def _levels(count: int) -> str:
    return "1 level" if count == 1 else f"{count} levels"
