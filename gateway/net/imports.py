"""What a daemon loads of libraries: not what only people read of numpy, nor a second `typing`. Must not write.

A daemon's memory is small, and of numpy 1.2 MB are docstrings. Python can compile a library without them, and the
installation does so beside what it compiles anyway (COMPILE_LEAN in the Makefile); but Python reads such files only
where it leaves out all assertions as well, and ours are worth more than that. So numpy's are looked for here.
Where there is none, or one of another source, or of another Python, Python loads what it always does.
"""

from __future__ import annotations

import importlib
import marshal
import os
import struct
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER, cache_from_source
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

LEAN: Final = frozenset(("numpy",))
# Of these msgspec wants two names that Python's own `typing` has from 3.11 on; it looks there where they are missing.
SECOND_TYPING: Final = "typing_extensions"
_U32: Final = 0xFFFF_FFFF
# PEP 552: no flags, when the source was changed last, and its size.
_HEAD: Final = struct.Struct("<4sIII")


class LeanLoader(SourceFileLoader):
    """Loads a module without its docstrings where it was compiled so."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return its code."""
        return compiled(self.get_filename(fullname)) or super().get_code(fullname)


class LeanFinder:
    """Finds what Python finds, and has LeanLoader load the packages of LEAN."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return how to load a module; None where that is for somebody else to say."""
        if name.partition(".")[0] not in LEAN:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = LeanLoader(spec.loader.name, spec.loader.path)
        return spec


def compiled(path: str) -> CodeType | None:
    """Return the code of a source file without docstrings, None where that is not there or not of this source."""
    try:
        with open(cache_from_source(path, optimization=2), "rb") as file:  # noqa: PTH123  as cheap as it gets
            data = file.read()
        source = os.stat(path)  # noqa: PTH116  the same
    except (OSError, NotImplementedError):
        return None
    if data[: _HEAD.size] != _HEAD.pack(MAGIC_NUMBER, 0, int(source.st_mtime) & _U32, source.st_size & _U32):
        return None
    try:
        code = marshal.loads(data[_HEAD.size :])  # noqa: S302  as Python's own import does, of the same folder
    except (ValueError, EOFError, TypeError):
        return None
    return code if isinstance(code, CodeType) else None


def spare_memory() -> None:
    """Have numpy and msgspec take less from here on; where they are loaded already, nothing changes."""
    if LeanFinder not in sys.meta_path:
        sys.meta_path.insert(0, LeanFinder)
    if SECOND_TYPING in sys.modules or "msgspec" in sys.modules:
        return
    sys.modules[SECOND_TYPING] = None  # type: ignore[assignment]
    try:
        importlib.import_module("msgspec")
    finally:
        del sys.modules[SECOND_TYPING]
