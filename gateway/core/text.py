r"""Foreign text made fit for one line of a log or a terminal. Must not know where the text is from or goes to."""

from __future__ import annotations

from typing import Any, Final

SENTENCE_CHARS_MAX: Final = 500
"""Enough to say what is wrong and where; names that the world chose can be as long as a payload."""


def printable(text: str, chars_max: int) -> str:
    r"""Return the first `chars_max` letters of `text`, with what cannot be printed as Python's escapes.

    Line ends, control characters, marks that turn the direction of writing, and lone surrogates: whoever chose
    the text can neither begin a line of output with it, nor command a terminal, nor keep it from being encoded.

    >>> printable("21 °C\x1b[2J\r\nok", 40)
    '21 °C\\x1b[2J\\r\\nok'
    """
    text = text[:chars_max]
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)[:chars_max]


def sentence(text: str, chars_max: int = SENTENCE_CHARS_MAX) -> str:
    r"""Return `text` for a log, a status or an attribute: printable, on one line, and with … where it was cut.

    >>> sentence("no mapping takes the topic a\nb"), sentence("abcdef", 4)
    ('no mapping takes the topic a\\nb', 'abc…')
    """
    shown = printable(text, chars_max + 1)
    return shown if len(shown) <= chars_max else shown[: chars_max - 1] + "…"


def system_text(error: OSError) -> str:
    """Return what the system says, with the file that it says it of.

    >>> system_text(PermissionError(13, "Permission denied", "/srv")), system_text(OSError("odd"))
    ('/srv: Permission denied', 'odd')
    """
    text = error.strerror or str(error)
    return text if error.filename is None else f"{error.filename}: {text}"


def harmless(value: Any) -> Any:
    r"""Return what JSON can say with every text in it, keys too, as a `sentence`.

    >>> harmless({"last_error": "a\x1b[2J", "ids": ["b", 5]})
    {'last_error': 'a\\x1b[2J', 'ids': ['b', 5]}
    """
    if isinstance(value, str):
        return sentence(value)
    if isinstance(value, dict):
        return {sentence(key) if isinstance(key, str) else key: harmless(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [harmless(inner) for inner in value]
    return value
