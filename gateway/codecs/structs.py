"""Wanted paths become a msgspec class that decodes them alone, and readers of whole columns. Must not read values.

Decoding into a class skips what nobody asked for and makes no dict: half the time of a general decoder. The class
knows where values stand, not what they are: a value of the wrong type must not cost its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from gateway.codecs.paths import ABSENT, follow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.codecs.paths import Step

Reader: TypeAlias = Callable[[list[Any]], list[Any]]

_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')


@dataclass(slots=True)
class _Node:
    """A key on the way to what is wanted; `type` is what is decoded here, None where only deeper keys are wanted."""

    type: Any = None
    keys: dict[str, _Node] = field(default_factory=dict)


def compile_struct(
    paths: Sequence[tuple[Step, ...]],
    *,
    types: Mapping[tuple[Step, ...], Any] | None = None,
    is_strict: bool = False,
) -> tuple[Any, list[Reader]] | None:
    """Return a class with all of `paths`, and for each path what reads it out of a list of its objects.

    `types` are those of paths that are more than a value. None where no such class can be: a path that is the
    whole document, one that leads into what has a type of its own, or a key that JSON writes with an escape. A strict
    class takes no other keys.
    """
    types = types or {}
    if not all(map(_keys, paths)) or not all(_stands_alone(path, paths) for path in types):
        return None
    if not all(is_plain_key(key) for path in paths for key in _keys(path)):
        return None
    root = _Node()
    for path in paths:
        node = root
        for key in _keys(path):
            node = node.keys.setdefault(key, _Node())
        node.type = types.get(path, Any)
    return _build(root, is_strict=is_strict), [_reader(*_place(root, path)) for path in paths]


def is_plain_key(key: str) -> bool:
    r"""Whether a key stands in JSON as it is, which msgspec wants of its classes' fields.

    >>> is_plain_key("größe"), is_plain_key("a\nb"), is_plain_key('"')
    (True, False, False)
    """
    return _ESCAPED.search(key) is None


def _keys(path: tuple[Step, ...]) -> tuple[str, ...]:
    """Return the keys of a path up to its first index."""
    keys: list[str] = []
    for step in path:
        if isinstance(step, int):
            break
        keys.append(step)
    return tuple(keys)


def _stands_alone(path: tuple[Step, ...], paths: Sequence[tuple[Step, ...]]) -> bool:
    """Whether `path` is keys alone and no other path leads to it or through it."""
    others = [_keys(other) for other in paths if other != path]
    return _keys(path) == path and not any(
        other[: len(path)] == path or path[: len(other)] == other for other in others
    )


def _place(root: _Node, path: tuple[Step, ...]) -> tuple[list[str], tuple[Step, ...]]:
    """Return the attributes that lead to what is decoded for `path`, and the steps from there."""
    node = root
    names: list[str] = []
    for position, step in enumerate(path):
        if node.type is not None:
            return names, path[position:]
        assert isinstance(step, str), "an index stands only behind what is decoded"
        names.append(f"f{list(node.keys).index(step)}")
        node = node.keys[step]
    return names, ()


def _build(node: _Node, *, is_strict: bool) -> Any:
    fields: list[tuple[str, Any, Any]] = []
    renamed: dict[str, str] = {}
    for number, (key, child) in enumerate(node.keys.items()):
        name = f"f{number}"
        renamed[name] = key
        if child.type is Any:
            fields.append((name, Any, ABSENT))
        elif child.type is not None:
            fields.append((name, child.type | msgspec.UnsetType, ABSENT))
        else:
            inner = _build(child, is_strict=is_strict)
            fields.append((name, inner | None, msgspec.field(default_factory=inner)))
    # Nothing decoded from JSON refers back to itself, so the collector needs not look.
    return msgspec.defstruct("Document", fields, rename=renamed, gc=False, forbid_unknown_fields=is_strict)


def _reader(names: list[str], rest: tuple[Step, ...]) -> Reader:
    get = attrgetter(".".join(names))

    def reach(row: Any) -> Any:
        for name in names:
            row = getattr(row, name, ABSENT)
        return row

    def read(rows: list[Any]) -> list[Any]:
        try:
            return list(map(get, rows))
        except AttributeError:  # a null stands where an object is expected
            return list(map(reach, rows))

    return read if not rest else lambda rows: [follow(value, rest) for value in read(rows)]
