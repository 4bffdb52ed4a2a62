r"""Foreign text made fit for one line of a log or a terminal. Must not know where the text is from or goes to."""

from __future__ import annotations


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
