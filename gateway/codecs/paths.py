"""Where in a document a value stands: paths like a.b[0].c. Must not know formats, metrics or topics."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Step: TypeAlias = "str | int"

# What a path finds where there is nothing; a null that was sent is None.
ABSENT: Final = msgspec.UNSET
STEPS_MAX: Final = 32
WHOLE: Final = frozenset({"", "*"})

_STEP: Final = re.compile(r'\.?(?:\[(\d{1,7})\]|\["([^"]+)"\]|([^.\[\]"]+))')


def read_path(text: str) -> tuple[Step, ...]:
    """Return the steps of `text`; "" and "*" are the whole document. Raise ValueError that says what is right.

    >>> read_path('a.b[0].c'), read_path('["a.b"].c')
    (('a', 'b', 0, 'c'), ('a.b', 'c'))
    """
    steps: list[Step] = []
    position = 0
    whole = text in WHOLE
    while not whole and position < len(text):
        found = _STEP.match(text, position)
        if found is None or (position == 0 and text[0] == "."):
            raise ValueError(f'{text!r} is not a path; write keys and indexes like a.b[0].c, odd keys as ["a.b"]')
        index, quoted, key = found.groups()
        if key is not None and position > 0 and text[position] != ".":
            raise ValueError(f"{text!r} is not a path; a dot stands before {key!r}")
        steps.append(int(index) if index is not None else quoted or key)
        position = found.end()
    if len(steps) > STEPS_MAX:
        raise ValueError(f"{text[:60]!r}… has {len(steps)} steps; write at most {STEPS_MAX}")
    return tuple(steps)


def path_text(steps: Iterable[Step]) -> str:
    """Return steps as people write them.

    >>> path_text(("a", 0, "b.c"))
    'a[0]["b.c"]'
    """
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif set('.[]"').intersection(step):
            text += f'["{step}"]'
        else:
            text += f".{step}" if text else step
    return text


def follow(document: Any, steps: tuple[Step, ...]) -> Any:
    """Return what stands at `steps`; ABSENT where the document does not go that way.

    CBOR knows whole numbers as keys: a step "7" finds those too.
    """
    for step in steps:
        if type(document) is dict:
            found = document.get(step, ABSENT)
            if found is ABSENT and isinstance(step, str) and step.isdecimal():
                found = document.get(int(step), ABSENT)
            document = found
        elif isinstance(step, int) and isinstance(document, list | np.ndarray):
            document = document[step] if step < len(document) else ABSENT
        else:
            return ABSENT
    return document.item() if isinstance(document, np.generic) else document


def column_reader(steps: tuple[Step, ...]) -> Callable[[list[Any]], list[Any]]:
    """Return what reads the value at `steps` out of many documents at once."""
    if not steps:
        return lambda documents: documents
    if len(steps) == 1 and isinstance(steps[0], str) and not steps[0].isdecimal():
        key = steps[0]

        def read_key(documents: list[Any]) -> list[Any]:
            if set(map(type, documents)) == {dict}:
                return [document.get(key, ABSENT) for document in documents]
            return [follow(document, steps) for document in documents]

        return read_key
    return lambda documents: [follow(document, steps) for document in documents]
