"""What can only be wrong with settings as a whole: checks that name the fields they look at. Must not know any setting.

A settings class states what its types cannot, each check by itself, beside the fields it is about:

    class Wait(Checked, msgspec.Struct):
        least: float
        most: float

        @check("least", "most")
        def _least_is_least(self) -> None:
            if self.least > self.most:
                raise ValueError("must not exceed most")

Who builds one in code is refused with the first problem. Who reads a file collects them all, also from a table that
could be read in part: a check is left out where one of its fields could not be read or is wrong by itself, since
what it would say then follows from what is said already.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KEY_CHARS_MAX: Final = 60
UNREAD: Final = object()
"""Stands in a list where an element could not be read, so that those behind it keep their places."""

_PLAIN_KEY: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{KEY_CHARS_MAX}}}")


class Problem(NamedTuple):
    """What is wrong at `path`, and what would be right; a path of "" is the table itself."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


class Partly(SimpleNamespace):
    """A table that is not right: it has the attributes that could be read, and no others."""


Found: TypeAlias = "Iterator[str | Problem] | None"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: it raises ValueError, or yields what it finds; a plain sentence is about the first of `fields`."""

    fields: tuple[str, ...]
    function: Callable[[Any], Found]

    def run(self, settings: object) -> Iterator[Problem]:
        """Yield the problems, each with its path below the table."""
        try:
            for found in self.function(settings) or ():
                yield found if isinstance(found, Problem) else Problem(self.fields[0], found)
        except ValueError as error:
            yield Problem(self.fields[0], str(error))
        except AttributeError:
            # It came upon something that could not be read, about which it has nothing to say. The settings that
            # are whole have all attributes: there it is a mistake of ours.
            if not isinstance(settings, Partly):
                raise


def check(*fields: str) -> Callable[[Callable[[Any], Found]], Check]:
    """Make a method a check of these fields. Other attributes of its table it must not look at."""
    return lambda function: Check(fields, function)


class Checked:
    """Settings with checks; building them raises ValueError with the first problem."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Refuse what a check finds."""
        for problem in problems_of(self, type(self)):
            raise ValueError(str(problem))


def problems_of(settings: object, kind: type) -> Iterator[Problem]:
    """Yield what the checks of `kind` find in `settings`, which may be `Partly` there."""
    wrong: set[str] = set()
    for one in checks_of(kind):
        if wrong.isdisjoint(one.fields) and all(hasattr(settings, field) for field in one.fields):
            for problem in one.run(settings):
                wrong.add(problem.path)
                yield problem


@functools.cache
def checks_of(kind: type) -> tuple[Check, ...]:
    """Return the checks of a settings class in their order, those of its bases first."""
    return tuple(one for base in reversed(kind.__mro__) for one in vars(base).values() if isinstance(one, Check))


def parts(items: Iterable[Any], *names: str) -> Iterator[tuple[int, Any]]:
    """Yield the items that could be read, as far as `names` are concerned, each with its place.

    >>> list(parts([UNREAD, "a"]))
    [(1, 'a')]
    """
    for index, item in enumerate(items):
        if item is not UNREAD and all(hasattr(item, name) for name in names):
            yield index, item


def below(path: str, *steps: str | int) -> str:
    """Return the path that leads from `path` over keys and indexes.

    >>> below("uplinks", 0, "headers", "a b")
    'uplinks[0].headers."a b"'
    """
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        key = step if _PLAIN_KEY.fullmatch(step) else f'"{step[:KEY_CHARS_MAX]}"'
        path = f"{path}.{key}" if path else key
    return path
