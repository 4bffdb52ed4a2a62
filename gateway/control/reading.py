"""Reads tables into settings classes and finds every problem at once. Must not know any setting by name.

msgspec stops at the first thing that is wrong. A person with a new configuration wants all of it in one go,
so the table is walked beside its classes, each leaf converted alone. What has no problem is built; of the rest the
parts that could be read are kept, for the checks of its class and for whoever looks at several tables together.
"""

from __future__ import annotations

import re
import types
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT

from gateway.core.checks import UNREAD, Partly, Problem, below, problems_of
from gateway.core.units import Duration, Rate, Size
from gateway.net.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")

PROBLEMS_MAX: Final = 100
SHOWN_MAX: Final = 60
PLACES_OF_SECRETS: Final = 'write { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }'

_AT: Final = re.compile(r"^(?P<what>.*) - at `\$(?P<path>.*)`$", re.DOTALL)
_EXPECTED: Final = re.compile(r"^Expected `(?P<wanted>[^`]*)`(?P<bound>[^,]*)(, got `(?P<got>[^`]*)`)?$")
_STEP: Final = re.compile(r'\[(?P<index>\d+)\]|"(?P<quoted>[^"]*)"|(?P<key>[A-Za-z0-9_-]+)')
_WORDS: Final = {
    "str": "a text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list [ … ]",
    "object": "a table { … }",
    "null": "nothing",
    "datetime": "a date",
    "bytes": "a text in quotes",
}


@dataclass(frozen=True, slots=True)
class Later:
    """Keys and values that the design names and this version does not have, with what to do instead.

    `keys` is by path without indexes ("uplinks.budget"), `values` by path and value ("sources.type", "otlp").
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading `table`: a settings object, or as much of one as could be read, and what is wrong."""

    value: Any
    problems: list[Problem]
    table: object

    def is_fine(self, path: str) -> bool:
        """Whether nothing is wrong at `path`, nor below it."""
        return not self.problems_at(path)

    def problems_at(self, path: str) -> list[Problem]:
        """Return what is wrong at `path` and below it."""
        return [
            problem
            for problem in self.problems
            if problem.path.startswith(path) and problem.path[len(path) : len(path) + 1] in {"", ".", "["}
        ]

    def in_order(self, more: Iterable[Problem] = ()) -> list[str]:
        """Return the problems and what others found, each once, in the order of the file as far as that is known."""
        every = dict.fromkeys(islice(chain(self.problems, more), PROBLEMS_MAX))
        ordered = sorted(every, key=lambda problem: _places(self.table, problem.path))
        return [f"{path or 'configuration'}: {what}" for path, what in ordered]


def decode_hook(wanted: type, value: Any) -> Any:
    """Build what msgspec does not know: durations, sizes and rates, from text with a unit."""
    if wanted is Duration:
        return Duration.parse(value)
    if wanted is Size:
        return Size.parse(value)
    if wanted is Rate:
        return Rate.parse(value)
    raise NotImplementedError(wanted)


def read(table: object, wanted: type[T], *, later: Later | None = None) -> tuple[T | None, list[str]]:
    """Return `table` as a `wanted`, or None and sentences `path: what is wrong, what would be right`.

    Of those there are PROBLEMS_MAX at most.
    """
    reading = read_parts(table, wanted, later=later)
    return (None, reading.in_order()) if reading.problems else (reading.value, [])


def read_parts(table: object, wanted: type, *, later: Later | None = None) -> Reading:
    """Return `table` as a `wanted`, or `Partly` as one where something is wrong with it.

    Past PROBLEMS_MAX problems nothing more is read.
    """
    walk = _Walk(later or Later())
    value = walk.read(table, wanted, "")
    return Reading(value, walk.problems, table)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint: the nearest known word, or all of them.

    >>> did_you_mean("lisen", ["listen", "name"])
    'did you mean "listen"?'
    """
    import difflib  # noqa: PLC0415  only for who has mistyped

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known here: {', '.join(known)}" if known else "nothing is known here"


def plain(wanted: Any) -> Any:
    """Return a type without its annotations."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    return wanted


def alternatives(wanted: Any) -> tuple[Any, ...]:
    """Return the plain types of a union, or the one type there is."""
    wanted = plain(wanted)
    if get_origin(wanted) in {Union, types.UnionType}:
        return tuple(inner for part in get_args(wanted) for inner in alternatives(part))
    return (wanted,)


def structs_of(wanted: Any) -> list[type[msgspec.Struct]]:
    """Return the settings classes among the alternatives."""
    return [
        part
        for part in alternatives(wanted)
        if get_origin(part) is None and isinstance(part, type) and issubclass(part, msgspec.Struct)
    ]


def choices_of(wanted: Any) -> list[Any]:
    """Return the values that may be chosen from, where a type lists them."""
    return [choice for part in alternatives(wanted) if get_origin(part) is Literal for choice in get_args(part)]


def description_of(wanted: Any) -> str:
    """Return what a field's annotation says about it, or nothing."""
    if get_origin(wanted) is Annotated:
        for meta in get_args(wanted)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.description:
                return str(meta.description)
    return ""


def tag_of(struct: type[msgspec.Struct]) -> tuple[str, str] | None:
    """Return the tag's key and value, like ("type", "serial"), or None."""
    config = struct.__struct_config__
    return None if config.tag_field is None else (config.tag_field, str(config.tag))


def walk_settings(settings: object, path: str = "") -> Iterator[tuple[str, msgspec.Struct]]:
    """Yield every settings object inside `settings` with its path, outermost first; those that are whole."""
    if isinstance(settings, Partly):
        for name, value in vars(settings).items():
            yield from walk_settings(value, below(path, name))
    elif isinstance(settings, msgspec.Struct):
        yield path, settings
        for item in msgspec.structs.fields(settings):
            yield from walk_settings(getattr(settings, item.name), below(path, item.encode_name))
    elif isinstance(settings, dict):
        for key, value in settings.items():
            yield from walk_settings(value, below(path, str(key)))
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from walk_settings(value, below(path, index))


class _Walk:
    """One walk along a table and its classes."""

    def __init__(self, later: Later) -> None:
        self.problems: list[Problem] = []
        self._later = later

    def read(self, value: object, wanted: Any, path: str) -> Any:
        """Return `value` as a `wanted`, note what is wrong with it: then it is the parts of it, or UNREAD."""
        if len(self.problems) >= PROBLEMS_MAX:
            return UNREAD
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            # TOML's own bound; past it a number fits in no column, nor in OTLP. Its digits may be too many to show.
            what = f"a whole number has 64 bits at most, not {value.bit_length() + 1}; where a text will do, quote it"
            return self._note(path, what)
        structs = structs_of(wanted)
        later = self._later.values.get((_bare(path), value)) if isinstance(value, str) else None
        if later is not None:
            return self._note(path, later)
        if Secret in structs and isinstance(value, str) and str not in alternatives(wanted):
            return self._note(path, f"a secret does not stand in the file itself; {PLACES_OF_SECRETS}")
        if structs and isinstance(value, dict):
            return self._read_table(value, structs, path)
        before = len(self.problems)
        inside = self._read_inside(value, wanted, path)
        return self._convert(value, wanted, path) if len(self.problems) == before else inside

    def _read_inside(self, value: object, wanted: Any, path: str) -> Any:
        """Return what could be read of a list or a dictionary."""
        for part in alternatives(wanted):
            origin, inner = get_origin(part), get_args(part)
            if origin in {list, tuple} and isinstance(value, list):
                items = tuple(self.read(item, inner[0], below(path, index)) for index, item in enumerate(value))
                return items if self._has_length(value, wanted, path) else UNREAD
            if origin is dict and isinstance(value, dict):
                pairs = {key: self.read(item, inner[1], below(path, key)) for key, item in value.items()}
                known = {key: item for key, item in pairs.items() if item is not UNREAD}
                return known if self._has_length(value, wanted, path) else UNREAD
        return UNREAD

    def _has_length(self, value: list[Any] | dict[str, Any], wanted: Any, path: str) -> bool:
        """Whether so many elements may stand here, whatever they are."""
        bounds = get_args(wanted)[1:] if get_origin(wanted) is Annotated else ()
        kind: Any = list[Any] if isinstance(value, list) else dict[str, Any]
        return not bounds or self._convert(value, Annotated[(kind, *bounds)], path) is not UNREAD

    def _read_table(self, table: dict[str, Any], structs: list[type[msgspec.Struct]], path: str) -> Any:
        struct = self._choose(table, structs, path)
        if struct is None:
            return UNREAD
        before = len(self.problems)
        fields = {item.encode_name: item for item in msgspec.structs.fields(struct)}
        tag = tag_of(struct)
        known = [*([tag[0]] if tag else []), *fields]
        unknown: list[str] = []
        planned: list[str] = []
        made = Partly()
        for key, value in table.items():
            if len(self.problems) >= PROBLEMS_MAX:
                return made
            place = below(path, key)
            later = self._later.keys.get(_bare(place)) or getattr(struct, "NOT_HERE", {}).get(key)
            if later is not None:
                self._note(place, later)
                planned.append(key)
            elif key in fields:
                part = self.read(value, fields[key].type, place)
                if part is not UNREAD:
                    setattr(made, fields[key].name, part)
            elif key not in known:
                self._note(place, f"unknown key; {did_you_mean(key, known)}")
                unknown.append(key)
        absent = [key for key in fields if key not in table]
        meant, near = _meant(unknown, planned, absent)
        for key in absent:
            item = fields[key]
            if item.required and key not in near:
                self._note(below(path, key), f"is missing; {description_of(item.type) or 'it has no default'}")
            elif not item.required and key not in meant:
                setattr(made, item.name, item.default if item.default_factory is NODEFAULT else item.default_factory())
        for problem in islice(problems_of(made, struct), PROBLEMS_MAX - len(self.problems)):
            self._note(_joined(path, problem.path), problem.what)
        return self._convert(table, struct, path) if len(self.problems) == before else made

    def _choose(
        self, table: dict[str, Any], structs: list[type[msgspec.Struct]], path: str
    ) -> type[msgspec.Struct] | None:
        """Return the settings class that the table's tag names."""
        by_tag = {tag[1]: struct for struct in structs if (tag := tag_of(struct))}
        if not by_tag:
            return structs[0]
        key = next(tag[0] for struct in structs if (tag := tag_of(struct)))
        place, given = below(path, key), table.get(key)
        if given is None:
            self._note(place, f"is missing; one of {_quoted(by_tag)}")
        elif not isinstance(given, str):
            self._note(place, f"expected one of {_quoted(by_tag)}")
        elif given not in by_tag:
            self._note(place, self._unknown_value(place, given, list(by_tag)))
        else:
            return by_tag[given]
        return None

    def _convert(self, value: object, wanted: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, wanted, dec_hook=decode_hook)
        except msgspec.ValidationError as error:
            match = _AT.match(str(error))
            what, inside = (match["what"], match["path"]) if match else (str(error), "")
            place = (path + inside).lstrip(".")
            return self._note(place, self._in_words(what, value, wanted, place))

    def _in_words(self, what: str, value: object, wanted: Any, place: str) -> str:
        choices = choices_of(wanted)
        if what.startswith("Invalid enum value") and isinstance(value, str):
            return self._unknown_value(place, value, [str(choice) for choice in choices])
        if choices and not all(isinstance(choice, str) for choice in choices):
            # Numbers: without quotes, and who wrote some is told that they are too much.
            got = ", got a text in quotes" if isinstance(value, str) else ""
            return f"expected {', '.join(map(str, choices[:-1]))} or {choices[-1]}{got}"
        if choices and not isinstance(value, str):
            return f"expected one of {_quoted(choices)}"
        match = _EXPECTED.match(what)
        if match is None:
            return what
        kinds = [kind.strip() for kind in match["wanted"].split("|")]
        words = " or ".join(_WORDS.get(kind, kind) for kind in kinds if kind != "null")
        got = f", got {_WORDS.get(match['got'], match['got'])}" if match["got"] else ""
        shown = f", got {value}" if not got and isinstance(value, int | float) else ""
        return f"expected {words}{_bound(match['bound'])}{got}{shown}"

    def _unknown_value(self, place: str, given: str, known: list[str]) -> str:
        later = self._later.values.get((_bare(place), given))
        if later is not None:
            return later
        import difflib  # noqa: PLC0415  only for who has mistyped

        near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        return f'"{given[:SHOWN_MAX]}" is not known here; one of {_quoted(known)}{hint}'

    def _note(self, path: str, what: str) -> Any:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(path, what))
        return UNREAD


def _meant(unknown: list[str], planned: list[str], absent: list[str]) -> tuple[set[str], set[str]]:
    """Return which absent keys may have been meant by what is there, and which of them are spelled alike.

    Their defaults say nothing of what the table is to be, and those that are spelled alike are not missing.
    """
    if not unknown and not planned:
        return set(), set()
    import difflib  # noqa: PLC0415  only for who has mistyped

    near = {key: difflib.get_close_matches(key, absent, n=3, cutoff=0.6) for key in (*unknown, *planned)}
    alike = {key for keys in near.values() for key in keys}
    return (alike if all(near[key] for key in unknown) else set(absent)), alike


def _joined(path: str, more: str) -> str:
    return f"{path}.{more}" if path and more else path or more


def _places(table: object, path: str) -> list[int]:
    """Return where `path` stands in the file: its place in each table on the way. What is not there comes last."""
    places: list[int] = []
    for step in _STEP.finditer(path):
        key, index = step["key"] or step["quoted"], step["index"]
        if isinstance(table, list) and index is not None and int(index) < len(table):
            places.append(int(index))
            table = table[int(index)]
        elif isinstance(table, dict) and key in table:
            places.append(list(table).index(key))
            table = table[key]
        else:
            return [*places, 1 << 62]
    return places


def _bound(text: str) -> str:
    text = text.strip()
    text = text.replace(">=", "of at least").replace("<=", "of at most").replace(">", "above").replace("<", "below")
    text = text.replace("of length of", "with a length of").replace("matching regex", "like")
    return f" {text}" if text else ""


def _bare(path: str) -> str:
    """Return a path without its indexes.

    >>> _bare("sources[2].type")
    'sources.type'
    """
    return re.sub(r"\[\d+\]", "", path)


def _quoted(words: Any) -> str:
    return ", ".join(f'"{word}"' for word in words)
