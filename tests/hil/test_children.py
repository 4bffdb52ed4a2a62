"""Children are read, killed and always ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from hil.children import STARTS_MAX, Child, python, start_somewhere, wait_until

ECHO = "import sys\nprint('ready')\nfor line in sys.stdin: print('got', line.strip())"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\ntime.sleep(600)"


def test_lines_are_read_as_they_come(make_child) -> None:
    """What a child says can be waited for, and it can be spoken to."""
    child = make_child(python("-c", ECHO))
    child.wait_for("ready")
    child.write_line("hello")
    assert child.wait_for("got") == "got hello"
    assert "ready" in child.output


def test_the_most_memory_that_a_child_had_is_known(make_child) -> None:
    """What it has let go of counts too."""
    child = make_child(python("-c", "x = bytearray(50_000_000); del x; print('ready'); input()"))
    child.wait_for("ready")
    assert 50_000_000 < child.peak_bytes < 100_000_000


def test_waiting_in_vain_names_what_was_said(make_child) -> None:
    """A timeout and an early end both show the output."""
    child = make_child(python("-c", ECHO))
    child.wait_for("ready")
    with pytest.raises(TimeoutError, match="did not say 'never'"):
        child.wait_for("never", within_s=0.05)
    ended = make_child(python("-c", "print('last words')"))
    with pytest.raises(RuntimeError, match="last words"):
        ended.wait_for("never")


def test_a_child_that_ignores_sigterm_is_killed_at_the_end() -> None:
    """Nothing survives the context."""
    with Child(python("-c", STUBBORN)) as child:
        child.wait_for("ready")
        with pytest.raises(TimeoutError, match="still runs"):
            child.terminate(within_s=0.1)
    assert child.process.returncode == -signal.SIGKILL


def test_grandchildren_go_with_the_child() -> None:
    """The whole process group ends."""
    start = "import subprocess, time\np = subprocess.Popen(['sleep', '600'])\n"
    with Child(python("-c", start + "print(p.pid)\ntime.sleep(600)")) as child:
        grandchild = int(child.next_line() or 0)
    # Until it is collected by init a killed process is a zombie.
    wait_until(lambda: _state(grandchild) in {"gone", "Z"}, "the grandchild has ended")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_memory_and_cpu_are_seen(make_child) -> None:
    """RSS is more than nothing, CPU is not negative."""
    child = make_child(python("-c", ECHO))
    child.wait_for("ready")
    assert child.rss_bytes() > 1 << 20
    assert child.cpu_s() >= 0
    assert "running" in repr(child)


@pytest.mark.parametrize(("said", "calls"), [("bind: Address already in use", STARTS_MAX), ("no such option", 1)])
def test_a_port_that_somebody_else_took_is_no_reason_to_give_up(said: str, calls: int) -> None:
    """But for ever; what is wrong otherwise is said at once."""
    called = []

    def start() -> None:
        called.append(said)
        raise OSError(said)

    with pytest.raises(OSError, match=said):
        start_somewhere(start)
    assert len(called) == calls
    left = ["in use", "in use", ""]

    def start_in_the_end() -> None:
        if what := left.pop(0):
            raise OSError(what)

    start_somewhere(start_in_the_end)
    assert left == []
