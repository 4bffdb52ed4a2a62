"""Child processes under test: started, read line by line, killed, waited for. Must not leave one behind."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

WAIT_S: Final = 60.0
STARTS_MAX: Final = 5
LINES_MAX: Final = 200_000
PathOrText: TypeAlias = "str | Path"


class Child:
    """One process in a group of its own; stdout and stderr come as one stream of lines.

    `lines` holds what it has said (the newest LINES_MAX); `wait_for` finds a line, said or still to come.
    """

    def __init__(
        self,
        command: Sequence[PathOrText],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.command = [str(part) for part in command]
        self.lines: list[str] = []
        self._unread: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"child {self.pid}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id, which is the group's too."""
        return self.process.pid

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has had resident (proc(5), VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """Everything said so far."""
        return "\n".join(self.lines)

    def next_line(self, *, within_s: float = WAIT_S) -> str | None:
        """Return the next unread line, or None at the end of the output."""
        try:
            line = self._unread.get(timeout=within_s)
        except queue.Empty:
            raise TimeoutError(f"{self!r} said nothing for {within_s} s; before:\n{self.tail()}") from None
        if line is None:
            self._unread.put(None)
        return line

    def wait_for(self, text: str, *, within_s: float = WAIT_S) -> str:
        """Return the next unread line that holds `text`."""
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                line = self.next_line(within_s=left_s)
            except TimeoutError:
                break
            if line is None:
                raise RuntimeError(f"{self!r} ended without saying {text!r}:\n{self.tail()}")
            if text in line:
                return line
        raise TimeoutError(f"{self!r} did not say {text!r} within {within_s} s:\n{self.tail()}")

    def write_line(self, text: str) -> None:
        """Send a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the whole group at once, as the OOM killer or a power cut would (SIGKILL), and collect it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)

    def terminate(self, *, within_s: float = WAIT_S) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(within_s=within_s)

    def wait(self, *, within_s: float = WAIT_S) -> int:
        """Return its exit code; raise TimeoutError, with what it said last, when it takes longer."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self!r} still runs after {within_s} s:\n{self.tail()}") from None
        self._reader.join(WAIT_S)
        return code

    def cpu_s(self) -> float:
        """CPU seconds of user and kernel that it has used (proc(5), stat fields 14 and 15)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Resident memory now (proc(5), statm field 2)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def tail(self, count: int = 30) -> str:
        """Return the last lines, for messages."""
        return "\n".join(self.lines[-count:])

    def close(self) -> None:
        """End it if it runs; collect it; close the pipes."""
        self.kill()
        self._reader.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended with {self.process.returncode}"
        return f"<child {self.pid} {' '.join(self.command)[:80]} {state}>"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.rstrip("\n")
            self.lines.append(text)
            if len(self.lines) > LINES_MAX:
                del self.lines[: LINES_MAX // 2]
            self._unread.put(text)
        self._unread.put(None)


def python(*arguments: PathOrText) -> list[PathOrText]:
    """Return the command that runs this interpreter with `arguments`."""
    return [sys.executable, *arguments]


def start_somewhere(start: Callable[[], None]) -> None:
    """Call `start`, which chooses free ports and raises OSError with what its child said; again where one was in use.

    Between a look for a free port and the child's bind somebody else may take it.
    """
    for attempt in range(STARTS_MAX):
        try:
            start()
        except OSError as error:
            if "in use" not in str(error) or attempt == STARTS_MAX - 1:
                raise
        else:
            return


def wait_until(condition: Callable[[], object], what: str, *, within_s: float = WAIT_S) -> None:
    """Poll until `condition()` holds; raise TimeoutError naming `what`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(0.005)
