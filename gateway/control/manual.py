"""Pages made from the code: JSON Schema, example, docs/CONFIGURATION.md, docs/METRICS.md. Must not hold facts itself.

`python -m gateway.control.manual docs` rewrites the pages in the directory `docs`.
"""

from __future__ import annotations

import functools
import json
import operator
import sys
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from gateway.control.instruments import SECTIONS, Instrument
from gateway.control.profiles import HardwareProfile
from gateway.control.reading import alternatives, choices_of, description_of, plain, structs_of, tag_of
from gateway.control.settings import Config
from gateway.core.units import DURATION_UNITS, RATE_UNITS, SIZE_UNITS, Duration, Rate, Size
from gateway.net.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION: Final = "CONFIGURATION.md"
METRICS: Final = "METRICS.md"
COLUMNS: Final = 100
# What stands in the example where a key has no default of its own and its type says too little.
SAMPLES: Final = {
    "url": '"mqtt://127.0.0.1:1883"',
    "topics": '["plant/#"]',
    "listen": '"127.0.0.1:1884"',
    "http": '"127.0.0.1:4318"',
    "port": '"/dev/serial/by-id/usb-…"',
    "endpoint": '"https://otel.example:4318"',
    "match": '"plant/{device}/climate"',
}


def _text(units: dict[str, Any], example: str) -> Any:
    pattern = rf"^\s*[0-9]{{1,15}}(\.[0-9]{{1,9}})?\s*({'|'.join(units)})\s*$"
    return Annotated[str, msgspec.Meta(pattern=pattern, examples=[example])]


_AS_TEXT: Final[dict[Any, Any]] = {
    Duration: _text(DURATION_UNITS, "5s"),
    Size: _text(SIZE_UNITS, "64MiB"),
    Rate: _text(RATE_UNITS, "64kbit/s"),
}


# JSON Schema


def schema_of(root: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of `root`, durations, sizes and rates as texts with their pattern."""
    schema = msgspec.json.schema(_Twins().of(root))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "tidegate.toml", **schema}


class _Twins:
    """Classes like the settings' own in which a duration is a text, as it is in the file.

    msgspec's schema maker takes custom types but not their default values.
    """

    def __init__(self) -> None:
        self._made: dict[type[msgspec.Struct], Any] = {}

    def of(self, wanted: Any) -> Any:
        """Return what stands in the file where the settings have `wanted`."""
        if wanted in _AS_TEXT:
            return _AS_TEXT[wanted]
        if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
            return self._struct(wanted)
        origin, inner = get_origin(wanted), get_args(wanted)
        if origin is None or origin is Literal:
            return wanted
        if origin is Annotated:
            return Annotated[(self.of(inner[0]), *wanted.__metadata__)]
        twins = tuple(part if part is Ellipsis else self.of(part) for part in inner)
        if origin in {Union, UnionType}:
            return functools.reduce(operator.or_, twins)
        return origin[twins]

    def _struct(self, struct: type[msgspec.Struct]) -> Any:
        if struct not in self._made:
            fields: list[tuple[str, Any, Any]] = []
            for item in msgspec.structs.fields(struct):
                default = _plain_default(item)
                fields.append((item.encode_name, self.of(item.type), *default))
            config = struct.__struct_config__
            self._made[struct] = msgspec.defstruct(
                struct.__name__,
                fields,
                tag_field=config.tag_field,
                tag=config.tag,
                kw_only=True,
                forbid_unknown_fields=True,
                namespace={"__doc__": struct.__doc__},
            )
        return self._made[struct]


def _plain_default(item: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
    if item.required:
        return ()
    if item.default is msgspec.NODEFAULT:
        return (msgspec.field(default_factory=item.default_factory),)
    if isinstance(item.default, Duration | Size | Rate):
        return (str(item.default),)
    if isinstance(item.default, msgspec.Struct):
        # A table whose keys all have defaults of their own.
        return (msgspec.field(default_factory=dict),)
    return (item.default,)


# The example


def example_of(root: type[msgspec.Struct]) -> str:
    """Return a whole TOML file: every key with its description; what has a default is commented out."""
    lines = [
        "# Every setting there is. A key behind a # shows its default; take the # away to change it.",
        '# Durations and sizes are texts with a unit. Secrets stand elsewhere: { env = "NAME" },',
        '# { file = "PATH" } or { credential = "NAME" }.',
        "",
    ]
    tables: list[str] = []
    for item in msgspec.structs.fields(root):
        listed, structs = _listed(item.type), structs_of(item.type)
        if not listed and not structs:
            lines += _key(item, needed=item.required)
        elif listed:
            tables += ["", "", *_comment(description_of(item.type))]
        else:
            tables += ["", ""]
        for struct in listed or structs:
            tables += ["", *_table(item.encode_name, struct, many=bool(listed))]
    return "\n".join([*lines, *tables]) + "\n"


def _table(name: str, struct: type[msgspec.Struct], *, many: bool) -> Iterator[str]:
    tag = tag_of(struct)
    # A part that is one of many must be there on purpose: shown whole as a comment.
    mark = "# " if many else ""
    yield from _comment(_first_sentence(struct))
    yield f"{mark}[[{name}]]" if many else f"[{name}]"
    if tag:
        yield f'{mark}{tag[0]} = "{tag[1]}"'
    for item in msgspec.structs.fields(struct):
        yield from _key(item, needed=item.required and not many)


def _key(item: msgspec.structs.FieldInfo, *, needed: bool) -> Iterator[str]:
    yield from _comment(_sentence_with_choices(item))
    yield f"{'' if needed else '# '}{item.encode_name} = {_default(item, sample=True)}"


def _default(item: msgspec.structs.FieldInfo, *, sample: bool) -> str:
    """Return a key's default as TOML; without one a sample, or nothing."""
    if item.required:
        return SAMPLES.get(item.encode_name, _sample(item.type)) if sample else ""
    value = item.default_factory() if item.default is msgspec.NODEFAULT else item.default
    if value is None:
        return _sample(item.type) if sample else ""
    if value == "" and sample:
        # What may be left out for something else has no default that anybody would write.
        return SAMPLES.get(item.encode_name, _toml(value))
    if isinstance(value, msgspec.Struct):
        return "{}"
    return _toml(value)


def _sample(wanted: Any) -> str:
    """Return something that may stand for a value of this type."""
    for part in alternatives(wanted):
        origin = get_origin(part)
        if part in _SAMPLES_BY_TYPE:
            return _SAMPLES_BY_TYPE[part]
        if origin is Literal:
            return _toml(get_args(part)[0])
        if origin in {list, tuple}:
            # Where it may be left out an empty one is something else, and mostly wrong.
            return f"[{_sample(get_args(part)[0])}]"
        if origin is dict or structs_of(part):
            return "{}"
    return '""'


_SAMPLES_BY_TYPE: Final[dict[Any, str]] = {
    Secret: '{ env = "NAME" }',
    Duration: '"5s"',
    Size: '"64KiB"',
    Rate: '"64kbit/s"',
    int: "1",
    float: "1.0",
    bool: "false",
    str: '"…"',
}


def _toml(value: Any) -> str:
    if isinstance(value, Duration | Size | Rate):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + 1 + len(word) > COLUMNS and line != "#":
            yield line
            line = "#"
        line += f" {word}"
    if line != "#":
        yield line


# The pages


def configuration_page() -> str:
    """Return docs/CONFIGURATION.md."""
    return page_of(Config) + "\n" + profile_sections()


def page_of(root: type[msgspec.Struct]) -> str:
    """Return the page about a whole configuration file."""
    items = msgspec.structs.fields(root)
    top = [item for item in items if not structs_of(item.type) and not _listed(item.type)]
    parts = [HEAD, "## Above all tables\n\n" + "\n".join(_rows(top)) + "\n"]
    shown: dict[str, type[msgspec.Struct]] = {}
    for item in items:
        listed = _listed(item.type)
        brackets = f"`[[{item.encode_name}]]`" if listed else f"`[{item.encode_name}]`"
        for struct in listed or structs_of(item.type):
            tag = tag_of(struct)
            title = brackets + (f' with `{tag[0]} = "{tag[1]}"`' if tag else "")
            about = description_of(item.type) if listed and struct is listed[0] else ""
            parts.append(_section(title, struct, about=about))
            shown[title] = struct
    parts += [_section(title, inner, about="") for title, inner in _inside(shown)]
    return "\n".join(parts)


def _inside(shown: dict[str, type[msgspec.Struct]]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Return the tables inside of those that are shown, each once, named by all that have it; then what is in those."""
    titles: dict[type[msgspec.Struct], str] = {}
    for owner, struct in shown.items():
        for item in msgspec.structs.fields(struct):
            for inner in _inner_structs(item.type):
                if inner is not Secret and inner not in shown.values():
                    before = f"{titles[inner]}, and " if inner in titles else ""
                    titles[inner] = f"{before}`{item.encode_name}` in {owner}"
    for inner, title in titles.items():
        yield title, inner
    if titles:
        yield from _inside({title: inner for inner, title in titles.items()})


def profile_sections() -> str:
    """Return the part about hardware profiles, which are files of their own."""
    # Its name is the file's.
    items = [item for item in msgspec.structs.fields(HardwareProfile) if item.encode_name != "name"]
    inner = [_section(*one, about="") for one in _inside({"a hardware profile": HardwareProfile})]
    return "\n".join([PROFILES, *_rows(items), "", *inner])


def metrics_page() -> str:
    """Return docs/METRICS.md."""
    parts = [METRICS_HEAD]
    for title, section in SECTIONS.items():
        parts += [f"## {title}\n", "| metric | type | labels | is |", "| --- | --- | --- | --- |"]
        parts += [*map(_metric, section), ""]
    return "\n".join(parts)


def _metric(one: Instrument) -> str:
    labels = ", ".join(f"`{label}`" for label in one.labels)
    return f"| `{one.shown_name}` | {one.kind} | {labels} | {_cell(one.about)} |"


HEAD: Final = """\
# Configuration

Made from the settings classes by `make docs`; do not edit it here. `tidegate check -c FILE` says every
problem of a configuration at once, `tidegate schema` prints the same as a JSON Schema for editors, and
`tidegate init --full` writes all of it as a commented file.

What `check` calls a problem (exit code 2) would not start or not work: a key that nobody knows, a certificate that is
not there, a source whose topics no mapping takes. What it notes works and is perhaps not meant: devices thrown together
in one series, a mapping behind one that takes all, a password in the clear.

Durations are texts with a unit (`"250ms"`, `"5s"`, `"10m"`, `"2h"`, `"30d"`), and so are sizes (`"64KB"`,
`"512MiB"`) and rates of links (`"9.6kbit/s"`, `"10Mbit/s"`).
Secrets never stand in the file: `{ env = "NAME" }` names an environment variable, `{ file = "PATH" }` a file,
`{ credential = "NAME" }` a systemd credential. The service has an environment, credentials and rights of its own: a
secret that is not to be had where `check` is typed is a note there, and one that is not there for `run`, or is empty,
keeps it from starting.
"""

PROFILES: Final = """\
## A hardware profile

A file of its own, like those in `hw_profiles/`: what a gateway may use on one kind of board. `[gateway] hw_profile` is
the name of one of them or the path of another; settings in tidegate.toml go before it. For a board or a card of your
own copy the nearest one and change what is different.
"""

METRICS_HEAD: Final = """\
# Metrics

Made from `gateway/control/instruments.py` by `make docs`; do not edit it here. This is what `/metrics` of the
`[control]` port has, for Prometheus to scrape. Counters count since the gateway's start, but for those of readings that
were accepted, delivered (perhaps twice) or put into the ledger, which go on over restarts. What the gateway says of
itself upstream, as OTLP, stands in [OPERATING.md](OPERATING.md#what-a-gateway-says-of-itself-upstream).
"""


def _section(title: str, struct: type[msgspec.Struct], *, about: str) -> str:
    said = " ".join(part for part in (about, _first_sentence(struct)) if part)
    return f"## {title}\n\n{said}\n\n" + "\n".join(_rows(list(msgspec.structs.fields(struct)))) + "\n"


def _rows(items: list[msgspec.structs.FieldInfo]) -> Iterator[str]:
    yield "| key | kind | default | what it does |"
    yield "| --- | --- | --- | --- |"
    for item in items:
        default = "**needed**" if item.required else f"`{_default(item, sample=False)}`".replace("``", "")
        about = _cell(description_of(item.type))
        yield f"| `{item.encode_name}` | {_kind(item.type)} | {default} | {about} |"


def _kind(wanted: Any) -> str:
    words = []
    for part in alternatives(wanted):
        origin = get_origin(part)
        if part is type(None):
            continue
        if origin is Literal:
            words += [f"`{_toml(choice)}`" for choice in get_args(part)]
        elif origin in {list, tuple}:
            words.append(f"list of {_kind(get_args(part)[0])}")
        elif origin is dict:
            words.append(f"table of {_kind(get_args(part)[1])}")
        else:
            words.append(_NAMES.get(part, "table"))
    return " or ".join(dict.fromkeys(words))


_NAMES: Final[dict[Any, str]] = {
    Duration: "duration",
    Size: "size",
    Rate: "rate",
    Secret: "secret",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "boolean",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _sentence_with_choices(item: msgspec.structs.FieldInfo) -> str:
    choices = choices_of(item.type)
    shown = f" ({' | '.join(map(str, choices))})" if choices else ""
    return description_of(item.type).removesuffix(".") + shown


def _first_sentence(struct: type[msgspec.Struct]) -> str:
    return " ".join((struct.__doc__ or "").strip().split("\n\n")[0].split())


def _listed(wanted: Any) -> list[type[msgspec.Struct]]:
    """Return the settings classes of a list's items."""
    return [
        struct
        for part in alternatives(wanted)
        if get_origin(part) in {list, tuple}
        for struct in structs_of(get_args(part)[0])
    ]


def _inner_structs(wanted: Any) -> list[type[msgspec.Struct]]:
    inside = [
        struct
        for part in alternatives(wanted)
        if get_origin(part) is dict
        for struct in structs_of(plain(get_args(part)[1]))
    ]
    return [*structs_of(wanted), *_listed(wanted), *inside]


def main(arguments: list[str]) -> int:
    """Write the pages into the directory that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gateway.control.manual DIR\n")
        return 2
    for page, text in ((CONFIGURATION, configuration_page()), (METRICS, metrics_page())):
        Path(arguments[0], page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
