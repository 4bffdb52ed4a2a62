"""Every problem at once, each with its path and what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from gateway.control.reading import PROBLEMS_MAX, Later, decode_hook, did_you_mean, read, read_parts, walk_settings
from gateway.core.checks import Checked, Partly, Problem, check
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator


class Part(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    width: int
    height: Annotated[int, Meta(ge=1, le=9)] = 1

    @check("width", "height")
    def _is_wide(self) -> Iterator[Problem]:
        if self.width < self.height:
            yield Problem("", "width is at least height")

    @check("width")
    def _width_is_even(self) -> None:
        if self.width % 2 and self.width > 9:
            raise ValueError("is even")


class Red(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="red"):
    name: Annotated[str, Meta(description="What it is called.", min_length=1)]
    wait: Duration = Duration(5)


class Blue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="blue"):
    size: Size | None = None
    token: Secret | None = None
    headers: dict[str, str | Secret] = {}


class Whole(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    level: Literal["low", "high"] = "low"
    qos: Literal[0, 1] = 1
    parts: tuple[Part, ...] = ()
    colours: Annotated[tuple[Red | Blue, ...], Meta(max_length=3)] = ()
    named: dict[str, Part] = {}
    mode: str = "a"


LATER = Later(
    keys={"alerts": "not yet", "mode": "no modes yet"},
    values={("level", "huge"): "huge comes later", ("colours.type", "green"): "no green yet"},
)


def problems(table: object) -> list[str]:
    whole, found = read(table, Whole, later=LATER)
    assert (whole is None) == bool(found)
    return found


def test_what_is_right_is_built() -> None:
    """Durations and sizes from text, the class by its tag."""
    whole, found = read(
        {
            "parts": [{"width": 3}],
            "colours": [
                {"type": "red", "name": "r", "wait": "2s"},
                {"type": "blue", "size": "1KiB", "headers": {"a": {"env": "X"}}},
            ],
        },
        Whole,
    )
    assert found == []
    assert whole == Whole(
        parts=(Part(width=3),),
        colours=(Red(name="r", wait=Duration(2)), Blue(size=Size(1024), headers={"a": Secret(env="X")})),
    )


def test_all_problems_come_at_once() -> None:
    """In the order of the file."""
    assert problems(
        {
            "level": "hihg",
            "parts": [{"width": "3"}, {"height": 10, "width": 20}],
            "colours": [{"type": "red"}],
            "colour": 1,
        }
    ) == [
        'level: "hihg" is not known here; one of "low", "high" (did you mean "high"?)',
        "parts[0].width: expected a whole number, got a text in quotes",
        "parts[1].height: expected a whole number of at most 9, got 10",
        "colours[0].name: is missing; What it is called.",
        'colour: unknown key; did you mean "colours"?',
    ]


def test_a_wrong_field_hides_no_other_problem_of_its_table() -> None:
    """The table's own checks are made with what could be read; too many of a kind is said beside what they lack."""
    assert problems({"parts": [{"height": "1", "width": 11}]}) == [
        "parts[0].height: expected a whole number, got a text in quotes",
        "parts[0].width: is even",
    ]
    assert problems({"parts": [{"width": 11, "height": 20}, {"width": 1, "height": 2}]}) == [
        "parts[0].width: is even",
        "parts[0].height: expected a whole number of at most 9, got 20",
        "parts[1]: width is at least height",
    ]
    assert problems({"colours": [{"type": "blue", "size": "1"}] * 3 + [{"type": "blue"}]})[0] == (
        "colours: expected a list [ … ] with a length of at most 3"
    )


def test_a_mistyped_key_is_not_missing_too() -> None:
    """Nor is anything said of what its place might be empty for."""
    assert problems({"parts": [{"widht": 3}]}) == ['parts[0].widht: unknown key; did you mean "width"?']
    assert problems({"parts": [{"zzz": 3}]}) == [
        "parts[0].zzz: unknown key; known here: width, height",
        "parts[0].width: is missing; it has no default",
    ]
    assert problems({"parts": [{"width": 0, "heigth": 1}]}) == ['parts[0].heigth: unknown key; did you mean "height"?']
    assert problems({"parts": [{"width": 0, "zzz": 1}]}) == ["parts[0].zzz: unknown key; known here: width, height"]


def test_what_could_be_read_is_kept() -> None:
    """For whoever looks at several tables together."""
    reading = read_parts({"parts": [{"width": 3}, 5], "level": "x", "named": {"a": 1, "b": {"width": 4}}}, Whole)
    assert isinstance(reading.value, Partly)
    assert reading.value.parts[0] == Part(width=3)
    assert reading.value.named == {"b": Part(width=4)}
    assert reading.value.qos == 1
    assert not hasattr(reading.value, "level")
    assert (reading.is_fine("parts[0]"), reading.is_fine("parts[1]"), reading.is_fine("parts")) == (True, False, False)
    assert [path for path, _ in walk_settings(reading.value)] == ["parts[0]", "named.b"]


def test_problems_stand_in_the_order_of_the_file() -> None:
    """Those that others found among them, each once."""
    table = {"mode": 1, "parts": [{"width": 2}, {"width": "x"}], "level": "x"}
    reading = read_parts(table, Whole)
    more = [
        Problem("parts[0].width", "is taken"),
        Problem("parts[0].width", "is taken"),
        Problem("nowhere.x", "is odd"),
    ]
    assert [line.split(":")[0] for line in reading.in_order(more)] == [
        "mode",
        "parts[0].width",
        "parts[1].width",
        "level",
        "nowhere.x",
    ]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ([], "configuration: expected a table { … }, got a list [ … ]"),
        ({"colours": [{}]}, 'colours[0].type: is missing; one of "red", "blue"'),
        ({"colours": [{"type": 3}]}, 'colours[0].type: expected one of "red", "blue"'),
        (
            {"colours": [{"type": "bleu"}]},
            'colours[0].type: "bleu" is not known here; one of "red", "blue" (did you mean "blue"?)',
        ),
        (
            {"colours": [{"type": "red", "name": ""}]},
            "colours[0].name: expected a text in quotes with a length of at least 1",
        ),
        ({"colours": [3]}, "colours[0]: expected a table { … }, got a whole number"),
        ({"colours": {"type": "red"}}, "colours: expected a list [ … ], got a table { … }"),
        ({"colours": [{"type": "blue"}] * 4}, "colours: expected a list [ … ] with a length of at most 3"),
        (
            {"colours": [{"type": "red", "name": "a", "wait": 5}]},
            'colours[0].wait: 5 is not a duration; write a string with its unit, like "5s"',
        ),
        (
            {"colours": [{"type": "blue", "size": "5 potatoes"}]},
            (
                "colours[0].size: '5 potatoes' is not a size; write a number with one of "
                'B, KB, MB, GB, KiB, MiB, GiB, TiB, like "512MiB"'
            ),
        ),
        ({"parts": [{"width": 1, "height": 2}]}, "parts[0]: width is at least height"),
        ({"parts": [{}]}, "parts[0].width: is missing; it has no default"),
        (
            {"named": {"a b": {"width": True}}},
            'named."a b".width: expected a whole number, got true or false',
        ),
        ({"qos": 2}, "qos: expected 0 or 1"),
        ({"qos": "1"}, "qos: expected 0 or 1, got a text in quotes"),
        ({"level": 3}, 'level: expected one of "low", "high"'),
        ({"zzz": 1}, "zzz: unknown key; known here: level, qos, parts, colours, named, mode"),
    ],
)
def test_one_problem(table: object, problem: str) -> None:
    """What is wrong, and what would be right."""
    assert problems(table) == [problem]


def test_what_is_planned_is_not_just_unknown() -> None:
    """Keys and values of later versions say so, also where the class would take them."""
    assert problems({"alerts": {}, "level": "huge", "colours": [{"type": "green"}], "mode": "b"}) == [
        "alerts: not yet",
        "level: huge comes later",
        "colours[0].type: no green yet",
        "mode: no modes yet",
    ]


def test_a_secret_in_the_file_is_refused_without_repeating_it() -> None:
    """Where only a secret may stand, and where one may."""
    (found,) = problems({"colours": [{"type": "blue", "token": "hunter2"}]})
    assert found.startswith("colours[0].token: a secret does not stand in the file itself; write { env")
    assert "hunter2" not in found
    assert problems({"colours": [{"type": "blue", "headers": {"a": "plain", "b": {"evn": "X"}}}]}) == [
        'colours[0].headers.b.evn: unknown key; did you mean "env"?'
    ]
    assert problems({"colours": [{"type": "blue", "token": {}}]}) == [
        'colours[0].token: a secret is { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }'
    ]


def test_problems_are_bounded() -> None:
    """A file of rubbish gives a page, not a book; long words are cut."""
    found = problems({f"key{number}" + "x" * 1000: 1 for number in range(5 * PROBLEMS_MAX)} | {"level": "x" * 1000})
    assert len(found) == PROBLEMS_MAX
    assert len(problems({"parts": [{"width": "x"}] * 1000})) == PROBLEMS_MAX
    assert len(problems({"level": "x" * 1000})[0]) < 200


def test_settings_can_be_walked() -> None:
    """Each settings object with its path, as it stands in the file."""
    whole = Whole(parts=(Part(width=1),), colours=(Blue(headers={"x": Secret(env="A")}),))
    assert [path for path, _ in walk_settings(whole)] == [
        "",
        "parts[0]",
        "colours[0]",
        "colours[0].headers.x",
    ]


def test_hints() -> None:
    """The nearest word, all of them, or none."""
    assert did_you_mean("lisen", ["listen", "name"]) == 'did you mean "listen"?'
    assert did_you_mean("q", ["listen", "name"]) == "known here: listen, name"
    assert did_you_mean("q", []) == "nothing is known here"
    with pytest.raises(NotImplementedError):
        decode_hook(complex, "1")
