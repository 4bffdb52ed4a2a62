"""What is wrong with settings as a whole: found one by one, refused with the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.core.checks import KEY_CHARS_MAX, UNREAD, Checked, Partly, Problem, below, check, parts, problems_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class Wait(Checked, msgspec.Struct, kw_only=True, frozen=True):
    least: float = 1.0
    most: float = 2.0
    words: tuple[str, ...] = ()
    inner: Wait | None = None

    @check("most")
    def _most_has_an_end(self) -> None:
        if self.most > 60:
            raise ValueError("is at most 60")

    @check("least", "most")
    def _least_is_least(self) -> None:
        if self.least > self.most:
            raise ValueError("must not exceed most")

    @check("words")
    def _words_are_short(self) -> Iterator[Problem | str]:
        for index, word in parts(self.words):
            if len(word) > 3:
                yield Problem(below("words", index), "is long")
        if len(self.words) > 2:
            yield "are many"

    @check("inner", "most")
    def _inner_is_quick(self) -> None:
        if self.inner is not None and self.inner.most > 10:
            raise ValueError("is slow")


def found(**values: object) -> list[str]:
    return [str(problem) for problem in problems_of(Partly(**values), Wait)]


def test_who_builds_nonsense_is_refused_with_the_first_problem() -> None:
    """With the field's name."""
    assert Wait().most == 2
    with pytest.raises(ValueError, match="^most: is at most 60$"):
        Wait(most=61, words=("long",))
    with pytest.raises(msgspec.ValidationError, match="must not exceed most"):
        msgspec.convert({"least": 3}, Wait)


def test_all_problems_are_found_of_a_table_that_could_be_read_in_part() -> None:
    """What looks at a field that is not there is left out, and nothing else."""
    assert found(words=("a", "long", "longer")) == ["words[1]: is long", "words[2]: is long", "words: are many"]
    assert found(least=3.0, words=("long",)) == ["words[0]: is long"]
    assert found(least=3.0, most=2.0) == ["least: must not exceed most"]
    assert found(inner=Partly(most=11.0), most=2.0) == ["inner: is slow"]
    assert found(inner=Partly(most=11.0)) == [], "it names what its sentence depends on, looked at or not"


def test_what_follows_from_a_problem_is_not_said() -> None:
    """A bound that is wrong by itself is nothing to compare with."""
    assert found(least=100.0, most=61.0) == ["most: is at most 60"]


def test_what_could_not_be_read_keeps_its_place() -> None:
    """In a list."""
    assert found(words=(UNREAD, "long")) == ["words[1]: is long"]
    assert list(parts([Partly(a=1), UNREAD, Partly(b=1), Partly(a=2)], "a")) == [(0, Partly(a=1)), (3, Partly(a=2))]


def test_a_check_that_comes_upon_what_could_not_be_read_says_nothing() -> None:
    """Deeper than its own fields. Where everything is there, a missing attribute is a mistake of ours."""
    assert found(inner=Partly(least=1.0), most=2.0, words=("long",)) == ["words[0]: is long"]

    class Wrong(Checked, msgspec.Struct):
        a: int

        @check("a")
        def _looks_elsewhere(self) -> None:
            self.b  # type: ignore[attr-defined]  # noqa: B018  the mistake

    with pytest.raises(AttributeError):
        Wrong(a=1)


def test_paths_are_short() -> None:
    """Keys are whatever somebody wrote; a long one is cut, an odd one stands in quotes."""
    assert below("", "a", 2, "b-c") == "a[2].b-c"
    assert below("a", "b.c") == 'a."b.c"'
    assert below("a", "x" * 1000) == f'a."{"x" * KEY_CHARS_MAX}"'
