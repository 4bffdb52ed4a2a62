"""Secrets by reference: an environment variable, a file, a systemd credential. Must not show one in any repr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.core.checks import Checked, Problem, check

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotHereError(ValueError):
    """A secret that this process has no way to see; one that is started as another user or by systemd may."""


class Secret(Checked, msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ credential = "NAME" }`; one of them."""

    env: str = ""
    file: str = ""
    credential: str = ""

    @check("env", "file", "credential")
    def _is_in_one_place(self) -> Iterator[Problem]:
        if sum(map(bool, (self.env, self.file, self.credential))) != 1:
            yield Problem("", 'a secret is { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }')

    def read(self) -> str:
        """Return the secret, never ""; raise ValueError, or NotHereError, that names the place and not the content."""
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
