"""What a daemon loads of libraries: not what only people read, nor what nothing that runs ever asks. Must not write.

A daemon's memory is small, and of numpy 1.2 MB are docstrings. Python can compile a library without them, and the
installation does so beside what it compiles anyway (COMPILE_LEAN in the Makefile); but Python reads such files only
where it leaves out all assertions as well, and ours are worth more than that. So numpy's are looked for here.
Where there is none, or one of another source, or of another Python, Python loads what it always does.

Some modules are imported by others only for what a daemon never does: they are read when they are first asked for
something. Each one that is read leaves its words in Python's table of names, which doubles from half a megabyte to one
at the 21,846th.
"""

from __future__ import annotations

import importlib
import marshal
import os
import struct
import sys
import threading
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER, cache_from_source
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader

LEAN: Final = frozenset(("numpy",))
# numpy reads these to give what is written in C its docstrings.
UNREAD: Final = frozenset(("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars"))
# Who imports them wants them for text of other programs (subprocess), dumps (numpy), a traceback's lines (linecache),
# URLs in brackets (urllib), schemas (msgspec), and for messages that not everybody sends (we).
LATER: Final = frozenset(("csv", "ipaddress", "locale", "msgspec.inspect", "pickle", "tokenize"))
# Of these msgspec wants two names that Python's own `typing` has from 3.11 on; it looks there where they are missing.
SECOND_TYPING: Final = "typing_extensions"
_U32: Final = 0xFFFF_FFFF
# PEP 552: no flags, when the source was changed last, and its size.
_HEAD: Final = struct.Struct("<4sIII")
_reading: Final = threading.RLock()
_begun: Final[set[str]] = set()


class LeanLoader(SourceFileLoader):
    """Loads a module without its docstrings where it was compiled so."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return its code."""
        return compiled(self.get_filename(fullname)) or super().get_code(fullname)


class Later(ModuleType):
    """A module that is read when it is first asked for what it does not have yet; from then on it is like any other.

    importlib's LazyLoader reads at the second import already, and a second thread that asks meanwhile is told that
    there is no such thing. This one waits.
    """

    def __getattr__(self, name: str) -> Any:
        with _reading:
            if type(self) is Later and self.__name__ not in _begun:
                assert self.__spec__ is not None
                loader = self.__spec__.loader
                assert isinstance(loader, LaterLoader)
                _begun.add(self.__name__)
                try:
                    loader.now.exec_module(self)
                    self.__spec__.loader = self.__loader__ = loader.now
                    self.__class__ = ModuleType
                finally:
                    _begun.discard(self.__name__)
        return ModuleType.__getattribute__(self, name)


class LaterLoader:
    """Loads a module as one that is read later, by the loader `now`."""

    def __init__(self, now: Loader) -> None:
        self.now = now

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave that to the other."""
        return self.now.create_module(spec)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Read nothing yet."""
        module.__class__ = Later


class UnreadLoader:
    """Loads a module that is for people only as an empty one."""

    @staticmethod
    def create_module(_: ModuleSpec) -> None:
        """Leave that to Python."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Read nothing."""


class LeanFinder:
    """Finds what Python finds, and has it loaded lean: the packages of LEAN, UNREAD and LATER."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return how to load a module; None where that is for somebody else to say."""
        if name.partition(".")[0] not in LEAN and name not in LATER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return spec
        # importlib.abc, which has the names of what loaders are, would be loaded for that alone.
        if name in UNREAD:
            spec.loader = UnreadLoader()  # type: ignore[assignment]
        elif name in LATER:
            spec.loader = LaterLoader(spec.loader)  # type: ignore[assignment]
        else:
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


def load_lean() -> None:
    """Have what is loaded from here on take less."""
    if LeanFinder not in sys.meta_path:
        sys.meta_path.insert(0, LeanFinder)


def spare_memory() -> None:
    """Do so, and have msgspec do without a second `typing`; where they are loaded already, nothing changes."""
    load_lean()
    if SECOND_TYPING in sys.modules or "msgspec" in sys.modules:
        return
    sys.modules[SECOND_TYPING] = None  # type: ignore[assignment]
    try:
        importlib.import_module("msgspec")
    finally:
        del sys.modules[SECOND_TYPING]
