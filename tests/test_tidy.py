"""The shape of the house: lengths, a test file for each module, first sentences, and the map.

`python tests/test_tidy.py` rewrites the map in gateway/__init__.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gateway"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
LINES_MAX = 500
FUNCTION_LINES_MAX = 60
MAP_NAMES_WIDTH = 28

# In the order that data flows; what is not listed comes behind, by name.
FLOW = [
    "__main__",
    "hangups",
    "cli",
    "arguments",
    "daemon",
    "simulator",
    "bench",
    "client",
    "app",
    "pipeline",
    "reporter",
    "tracing",
]
FLOW += ["sources", "codecs", "detect", "store", "uplinks", "control", "net", "core"]


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=[.!?])\s|\n\n", text.strip(), maxsplit=1)[0]
    return " ".join(sentence.split()).rstrip(".")


def drawn_map() -> str:
    """Return the map: every module with its first sentence."""
    lines: list[str] = []

    def rank(path: Path) -> tuple[int, str]:
        name = path.stem
        return (FLOW.index(name) if name in FLOW else len(FLOW), name)

    def draw(folder: Path, indent: int) -> None:
        entries = [
            p
            for p in folder.iterdir()
            if (p / "__init__.py").exists() or (p.suffix == ".py" and p.name != "__init__.py")
        ]
        for path in sorted(entries, key=rank):
            pad = " " * indent
            if path.is_dir():
                lines.append(
                    f"{pad}{path.name + '/':<{MAP_NAMES_WIDTH - indent}}{first_sentence(path / '__init__.py')}"
                )
                draw(path, indent + 2)
            else:
                lines.append(f"{pad}{path.name:<{MAP_NAMES_WIDTH - indent}}{first_sentence(path)}")

    draw(PACKAGE, 0)
    return "\n".join(lines)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_it_is(path: Path) -> None:
    """At most 500 lines, functions of at most 60, and a first sentence."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_MAX, "split it"
    assert len(first_sentence(path)) > 10
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            body_start = node.body[1].lineno if len(node.body) > 1 and ast.get_docstring(node) else node.lineno
            assert node.end_lineno - body_start < FUNCTION_LINES_MAX, f"{node.name} is long: split it"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if not p.name.startswith("__")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_module_has_a_test_file(path: Path) -> None:
    """tests/ mirrors gateway/."""
    inside = path.relative_to(PACKAGE)
    wanted = ROOT / "tests" / inside.parent / f"test_{inside.name}"
    assert wanted.exists(), f"{wanted.relative_to(ROOT)} is missing"


def test_the_map_is_true() -> None:
    """gateway/__init__.py shows the tree as it is."""
    from gateway import __doc__ as shown

    assert drawn_map() in (shown or ""), "run: python tests/test_tidy.py"


def test_the_map_can_be_read() -> None:
    """Each name stands apart from its sentence."""
    assert [line for line in drawn_map().splitlines() if not re.match(r" *\w+(\.py|/) ", line)] == []


def test_everything_in_the_log_is_the_gateways() -> None:
    """One name for all of it: who sets a level for `tidegate` leaves nobody out."""
    loggers = {p.name: re.findall(r"getLogger\(([^)]+)\)", p.read_text(encoding="utf-8")) for p in MODULES}
    assert [name for name, found in loggers.items() if not all(one.startswith('"tidegate') for one in found)] == []


def test_nobody_asks_the_wall_clock_but_the_clock() -> None:
    """time.time, time_ns, datetime.now and utcnow stand in core/clock alone."""
    asks = re.compile(r"\btime\.time(_ns)?\(|datetime\.(now|utcnow|today)\(|\bdate\.today\(")
    guilty = [p.name for p in MODULES if p.name != "clock.py" and asks.search(p.read_text(encoding="utf-8"))]
    assert not guilty


def test_nothing_dangerous_is_called() -> None:
    """No eval, exec, pickle, shell or unverified TLS anywhere in the package."""
    calls = re.compile(r"\b(eval|exec)\(|\bimport pickle|allow_pickle=True|shell=True|CERT_NONE|_create_unverified")
    guilty = {p.name: m[0] for p in MODULES if (m := calls.search(p.read_text(encoding="utf-8")))}
    assert not guilty


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of one machine in code, docs or tests."""
    odd = re.compile(r"/(root|home/\w+|Users/\w+|work/\w+)/")
    files = [p for suffix in ("py", "md", "toml", "sh") for p in ROOT.rglob(f"*.{suffix}")]
    mine = [p for p in files if ".venv" not in p.parts and "node_modules" not in p.parts and p != Path(__file__)]
    guilty = [str(p.relative_to(ROOT)) for p in mine if odd.search(p.read_text(encoding="utf-8"))]
    assert not guilty


def rewrite_map() -> None:
    """Put the map into gateway/__init__.py."""
    path = PACKAGE / "__init__.py"
    text = path.read_text(encoding="utf-8")
    _, _, code = text.partition('\n"""\n')
    assert "__version__" in code
    head = "Tidegate: a store-and-forward telemetry gateway. Start reading at pipeline.py."
    path.write_text(f'"""{head}\n\n{drawn_map()}\n"""\n{code}', encoding="utf-8")


if __name__ == "__main__":
    rewrite_map()
