"""Reads tables into settings classes and finds every problem at once. Must not know any setting by name.

msgspec stops at the first thing that is wrong. A person with a new configuration wants all of it in one go,
so the table is walked beside its classes first, each leaf converted alone; only what has no problem is built.
"""

from __future__ import annotations

import re
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

T = TypeVar("T")

PROBLEMS_MAX: Final = 100
SHOWN_MAX: Final = 60
PLACES_OF_SECRETS: Final = 'write { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }'

_AT: Final = re.compile(r"^(?P<what>.*) - at `\$(?P<path>.*)`$", re.DOTALL)
_EXPECTED: Final = re.compile(r"^Expected `(?P<wanted>[^`]*)`(?P<bound>[^,]*)(, got `(?P<got>[^`]*)`)?$")
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


def decode_hook(wanted: type, value: Any) -> Any:
    """Build what msgspec does not know: durations and sizes, from text with a unit."""
    if wanted is Duration:
        return Duration.parse(value)
    if wanted is Size:
        return Size.parse(value)
    raise NotImplementedError(wanted)


def read(table: object, wanted: type[T], *, later: Later | None = None) -> tuple[T | None, list[str]]:
    """Return `table` as a `wanted`, or None and sentences `path: what is wrong, what would be right`.

    Of those there are PROBLEMS_MAX at most.
    """
    walk = _Walk(later or Later())
    walk.check(table, wanted, "")
    if walk.problems:
        return None, walk.problems[:PROBLEMS_MAX]
    return msgspec.convert(table, wanted, dec_hook=decode_hook), []


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
    """Yield every settings object inside `settings` with its path, outermost first."""
    if isinstance(settings, msgspec.Struct):
        yield path, settings
        for item in msgspec.structs.fields(settings):
            yield from walk_settings(getattr(settings, item.name), _below(path, item.encode_name))
    elif isinstance(settings, dict):
        for key, value in settings.items():
            yield from walk_settings(value, _below(path, str(key)))
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from walk_settings(value, f"{path}[{index}]")


class _Walk:
    """One walk along a table and its classes."""

    def __init__(self, later: Later) -> None:
        self.problems: list[str] = []
        self._later = later

    def check(self, value: object, wanted: Any, path: str) -> None:
        """Note everything that is wrong with `value` at `path`."""
        if len(self.problems) >= PROBLEMS_MAX:
            return
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            # TOML's own bound; past it a number fits in no column, nor in OTLP. Its digits may be too many to show.
            self._note(
                path,
                f"a whole number has 64 bits at most, not {value.bit_length() + 1}; where a text will do, quote it",
            )
            return
        before = len(self.problems)
        structs = structs_of(wanted)
        later = self._later.values.get((_bare(path), value)) if isinstance(value, str) else None
        if later is not None:
            self._note(path, later)
        elif Secret in structs and isinstance(value, str) and str not in alternatives(wanted):
            self._note(path, f"a secret does not stand in the file itself; {PLACES_OF_SECRETS}")
        elif structs and isinstance(value, dict):
            self._check_table(value, structs, path)
        else:
            self._check_inside(value, wanted, path)
        if len(self.problems) == before:
            self._check_whole(value, wanted, path)

    def _check_inside(self, value: object, wanted: Any, path: str) -> None:
        for part in alternatives(wanted):
            origin, inner = get_origin(part), get_args(part)
            if origin in {list, tuple} and isinstance(value, list):
                for index, item in enumerate(value):
                    self.check(item, inner[0], f"{path}[{index}]")
            elif origin is dict and isinstance(value, dict):
                for key, item in value.items():
                    self.check(item, inner[1], _below(path, key))

    def _check_table(self, table: dict[str, Any], structs: list[type[msgspec.Struct]], path: str) -> None:
        struct = self._choose(table, structs, path)
        if struct is None:
            return
        fields = {item.encode_name: item for item in msgspec.structs.fields(struct)}
        tag = tag_of(struct)
        known = [*([tag[0]] if tag else []), *fields]
        for key, value in table.items():
            place = _below(path, key)
            later = self._later.keys.get(_bare(place))
            if later is not None:
                self._note(place, later)
            elif key in fields:
                self.check(value, fields[key].type, place)
            elif key not in known:
                self._note(place, f"unknown key; {did_you_mean(key, known)}")
        for key, item in fields.items():
            if item.required and key not in table:
                self._note(_below(path, key), f"is missing; {description_of(item.type) or 'it has no default'}")

    def _choose(
        self, table: dict[str, Any], structs: list[type[msgspec.Struct]], path: str
    ) -> type[msgspec.Struct] | None:
        """Return the settings class that the table's tag names."""
        by_tag = {tag[1]: struct for struct in structs if (tag := tag_of(struct))}
        if not by_tag:
            return structs[0]
        key = next(tag[0] for struct in structs if (tag := tag_of(struct)))
        place, given = _below(path, key), table.get(key)
        if given is None:
            self._note(place, f"is missing; one of {_quoted(by_tag)}")
        elif not isinstance(given, str):
            self._note(place, f"expected one of {_quoted(by_tag)}")
        elif given not in by_tag:
            self._note(place, self._unknown_value(place, given, list(by_tag)))
        else:
            return by_tag[given]
        return None

    def _check_whole(self, value: object, wanted: Any, path: str) -> None:
        try:
            msgspec.convert(value, wanted, dec_hook=decode_hook)
        except msgspec.ValidationError as error:
            match = _AT.match(str(error))
            what, inside = (match["what"], match["path"]) if match else (str(error), "")
            place = (path + inside).lstrip(".")
            self._note(place, self._in_words(what, value, wanted, place))

    def _in_words(self, what: str, value: object, wanted: Any, place: str) -> str:
        choices = choices_of(wanted)
        if what.startswith("Invalid enum value") and isinstance(value, str):
            return self._unknown_value(place, value, [str(choice) for choice in choices])
        if choices and not isinstance(value, str):
            return f"expected one of {_quoted(map(str, choices))}"
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

    def _note(self, path: str, what: str) -> None:
        self.problems.append(f"{path or 'configuration'}: {what}")


def _bound(text: str) -> str:
    text = text.strip()
    text = text.replace(">=", "of at least").replace("<=", "of at most").replace(">", "above").replace("<", "below")
    text = text.replace("of length of", "with a length of").replace("matching regex", "like")
    return f" {text}" if text else ""


def _below(path: str, key: str) -> str:
    bare = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key[:SHOWN_MAX]}"'
    return f"{path}.{bare}" if path else bare


def _bare(path: str) -> str:
    """Return a path without its indexes.

    >>> _bare("sources[2].type")
    'sources.type'
    """
    return re.sub(r"\[\d+\]", "", path)


def _quoted(words: Any) -> str:
    return ", ".join(f'"{word}"' for word in words)
