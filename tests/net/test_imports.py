"""A daemon loads numpy without its docstrings where that was compiled, and what Python always loads where not."""

from __future__ import annotations

import compileall
import importlib
import os
import subprocess
import sys
import threading
from importlib.machinery import SourceFileLoader
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from gateway.net import imports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = '"""For people."""\n\n\ndef ours():\n    """Read."""\n    assert False, "said"\n    return 7\n'


@pytest.fixture
def load(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """A package of our own in the place of numpy; what comes back loads it anew."""
    folder = tmp_path / "readme_less"
    folder.mkdir()
    (folder / "__init__.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "LEAN", frozenset(("readme_less",)))
    monkeypatch.setattr(sys, "meta_path", [imports.LeanFinder, *sys.meta_path])

    def anew() -> object:
        sys.modules.pop("readme_less", None)
        importlib.invalidate_caches()
        return importlib.import_module("readme_less")

    yield anew
    sys.modules.pop("readme_less", None)


def compile_lean(folder: Path) -> Path:
    """Do as the installation does; return the file that it made."""
    assert compileall.compile_dir(folder, quiet=2, optimize=2)
    return Path(cache_from_source(str(folder / "__init__.py"), optimization=2))


def test_what_was_compiled_lean_is_loaded_so(load, tmp_path) -> None:
    """Without docstrings; what it does is the same."""
    compile_lean(tmp_path / "readme_less")
    found = load()
    assert (found.__doc__, found.ours.__doc__, found.ours()) == (None, None, 7)


def test_what_was_not_is_loaded_as_ever(load) -> None:
    """With all that stands in it, and nothing is written beside it."""
    found = load()
    assert (found.__doc__, found.ours.__doc__) == ("For people.", "Read.")
    assert not Path(cache_from_source(found.__file__, optimization=2)).exists()


@pytest.mark.parametrize("damage", ["source", "time", "magic", "cut", "no_code"])
def test_what_is_not_of_this_source_is_not_loaded(load, tmp_path, damage: str) -> None:
    """An update of the library, another Python, half a file: Python's own way is always there."""
    lean = compile_lean(tmp_path / "readme_less")
    source, data = tmp_path / "readme_less/__init__.py", lean.read_bytes()
    if damage == "source":
        source.write_text(SOURCE + "\n# newer\n", encoding="utf-8")
    elif damage == "time":
        os.utime(source, (1, 1))
    elif damage == "magic":
        lean.write_bytes(b"ours" + data[4:])
    elif damage == "cut":
        lean.write_bytes(data[: len(data) // 2])
    else:
        lean.write_bytes(data[:16] + b"N")
    assert load().__doc__ == "For people."


def test_a_module_that_is_not_there_is_not_there(load) -> None:
    """It is said by whoever always says so; and who else is asked for is none of its business."""
    load()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("readme_less.missing")
    assert imports.LeanFinder.find_spec("json") is None


def test_without_a_place_for_compiled_files_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some Pythons keep none."""

    def refuse(_: str, **__: object) -> str:
        raise NotImplementedError("sys.implementation.cache_tag is None")

    monkeypatch.setattr(imports, "cache_from_source", refuse)
    assert imports.compiled(__file__) is None


def test_msgspec_does_without_a_second_typing() -> None:
    """And whoever wants it later gets it; asked twice, nothing is done twice. In a process of its own."""
    code = (
        "import sys; from gateway.net.imports import LeanFinder, spare_memory; spare_memory(); spare_memory();"
        "assert sys.meta_path.count(LeanFinder) == 1; import msgspec, numpy;"
        "assert 'typing_extensions' not in sys.modules;"
        "from typing import NotRequired, TypedDict;"
        "T = TypedDict('T', {'a': int, 'b': NotRequired[str]});"
        "print(msgspec.json.decode(b'{\"a\": 1}', type=T), numpy.arange(3).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'a': 1} 3\n"


LATE = """
import threading
assert threading.current_thread() is not threading.main_thread(), "read before it was asked"
began.set()
assert may_go_on.wait(30)
import readme_late
assert not hasattr(readme_late, "answer")
answer = 7
"""


@pytest.fixture
def late(tmp_path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A module with the source that is asked for, imported as one that is read later."""
    (tmp_path / "readme_late.py").write_text(request.param, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "LATER", frozenset(("readme_late",)))
    monkeypatch.setattr(sys, "meta_path", [imports.LeanFinder, *sys.meta_path])
    importlib.invalidate_caches()
    yield importlib.import_module("readme_late")
    sys.modules.pop("readme_late", None)


@pytest.mark.parametrize("late", [LATE], indirect=True, ids=["waits"])
def test_what_nothing_asks_is_read_when_somebody_does(late) -> None:
    """Imported twice or taken from its package it is not; a second thread waits for the first, then it is like any."""
    assert importlib.import_module("readme_late") is late
    assert type(late) is imports.Later
    late.began, late.may_go_on = threading.Event(), threading.Event()
    answers: list[int] = []
    askers = [threading.Thread(target=lambda: answers.append(late.answer)) for _ in range(3)]
    askers[0].start()
    assert late.began.wait(30)
    for asker in askers[1:]:
        asker.start()
    assert not answers
    late.may_go_on.set()
    for asker in askers:
        asker.join(30)
    assert answers == [7, 7, 7]
    assert type(late) is ModuleType
    assert type(late.__loader__) is type(late.__spec__.loader) is SourceFileLoader
    with pytest.raises(AttributeError, match=r"module 'readme_late' has no attribute 'more'"):
        late.more  # noqa: B018  to ask is what is done


@pytest.mark.parametrize("late", ["raise ImportError('half of it is missing')"], indirect=True, ids=["fails"])
def test_what_cannot_be_read_says_so_each_time(late) -> None:
    """As an import of it would."""
    for _ in range(2):
        with pytest.raises(ImportError, match="half of it is missing"):
            late.answer  # noqa: B018  to ask is what is done


def test_a_daemon_reads_nothing_that_is_for_later(tmp_path: Path) -> None:
    """Nor numpy's words for people: it starts, serves, and has not asked for any of it."""
    (tmp_path / "tidegate.toml").write_text(
        f"""
        [gateway]
        state_dir = "{tmp_path}/state"
        [control]
        listen = "127.0.0.1:0"
        [[sources]]
        name = "devices"
        type = "mqtt_server"
        listen = "127.0.0.1:0"
        [[uplinks]]
        name = "cloud"
        type = "otlp"
        endpoint = "http://127.0.0.1:9"
        """,
        encoding="utf-8",
    )
    code = (
        "import os, signal, sys; from gateway.net import imports; imports.load_lean(); from gateway import __main__, daemon;"
        "settle = daemon.settle;"
        "daemon.settle = lambda: (settle(), os.kill(os.getpid(), signal.SIGTERM));"
        f"sys.argv = ['tidegate', 'run', '--config', {str(tmp_path / 'tidegate.toml')!r}];"
        "code = __main__.main();"
        "print(code, sorted(name for name in imports.LATER if type(sys.modules.get(name)) is not imports.Later),"
        "sys.modules['numpy._core._add_newdocs'].__doc__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0 [] None\n", done.stderr
