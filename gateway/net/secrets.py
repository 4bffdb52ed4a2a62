"""Secrets by reference: an environment variable, a file, a systemd credential. Must not show one in any repr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from gateway.core.checks import Checked, Problem, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class NotHereError(ValueError):
    """A secret that this process has no way to see; one that is started as another user or by systemd may."""


class Secret(Checked, msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ credential = "NAME" }`; one of them.

    With `entry` it is one value of a list there, name=value with a comma between, as OTEL_EXPORTER_OTLP_HEADERS has it.
    """

    env: str = ""
    file: str = ""
    credential: str = ""
    entry: str = ""

    @check("env", "file", "credential")
    def _is_in_one_place(self) -> Iterator[Problem]:
        if sum(map(bool, (self.env, self.file, self.credential))) != 1:
            yield Problem("", 'a secret is { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }')

    def read(self) -> str:
        """Return the secret, never ""; raise ValueError, or NotHereError, that names the place and not the content."""
        content = self._content()
        if not self.entry:
            return content
        place = self.env or self.file or self.credential
        try:
            found = entries_of(content)
        except ValueError as error:
            raise ValueError(f"{place} {error}") from error
        if not found.get(self.entry):
            raise ValueError(f"{place} has no entry {self.entry!r}, or an empty one")
        return found[self.entry]

    def _content(self) -> str:
        if self.env:
            value = os.environ.get(self.env)
            if not value:
                what = "is not set" if value is None else "is empty, and no secret is"
                raise NotHereError(f"the environment variable {self.env} {what}")
            return value
        path = Path(self.file)
        if self.credential:
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if folder is None:
                raise NotHereError(f"no systemd credentials here (LoadCredential={self.credential}:… is missing)")
            path = Path(folder) / self.credential
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            # What Python says of bytes that are no text has one of them in it.
            why = error.strerror if isinstance(error, OSError) else "it is not text (UTF-8)"
            what = f"cannot read the secret {path}: {why}"
            raise (NotHereError if isinstance(error, PermissionError) else ValueError)(what) from error
        if not value:
            # Taken for a secret it would let everybody in: a file that a power cut has emptied too.
            raise ValueError(f"the secret {path} is empty, and no secret is")
        return value


# A shorter word of a secret is one like "Bearer", or none that anybody could use.
WORD_LENGTH_MIN: Final = 8


class Hidden:
    """Takes secrets out of what a far side says: one that shows what it was sent would have them in logs and status.

    >>> Hidden(["Bearer abcdefgh"]).out_of("no abcdefgh here")
    'no ******** here'
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {word for secret in secrets for word in (secret, *secret.split()) if len(word) >= WORD_LENGTH_MIN}
        # The longer ones first: they may have others in them.
        self._words = sorted(found, key=len, reverse=True)

    def out_of(self, text: str) -> str:
        """Return a text with stars where a secret, or a word of it, stands, or begins: it may have been cut off."""
        for word in self._words:
            text = _without(text, word)
        return text

    def out_of_bytes(self, data: bytes) -> bytes:
        """Return the same of bytes; it is as long as it was, so that who takes it apart finds what is behind it."""
        return self.out_of(data.decode("latin-1")).encode("latin-1") if self._words else data

    def out_of_headers(self, headers: dict[str, str]) -> dict[str, str]:
        """Return the same of headers."""
        return {name: self.out_of(value) for name, value in headers.items()} if self._words else headers


def _without(text: str, word: str) -> str:
    start, done = word[:WORD_LENGTH_MIN], 0
    pieces: list[str] = []
    while (at := text.find(start, done)) >= 0:
        end = at + len(start)
        while end < len(text) and text[end] == word[end - at : end - at + 1]:
            end += 1
        pieces += [text[done:at], "*" * (end - at)]
        done = end
    return "".join((*pieces, text[done:]))


def entries_of(text: str) -> dict[str, str]:
    """Return the values of a list name=value, with commas between, percent-encoded; raise ValueError without content.

    This is W3C Baggage without properties, as OpenTelemetry's variables for headers have it.

    >>> entries_of("authorization=Bearer%20x, tenant = 7,")
    {'authorization': 'Bearer x', 'tenant': '7'}
    """
    found: dict[str, str] = {}
    for number, item in enumerate(filter(str.strip, text.split(",")), start=1):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"is a list name=value,name=value; its entry {number} is none")
        found[unquote(name.strip())] = unquote(value.strip())
    return found
