"""The power-cut rig: a writer on an ext4 of its own, and its disk as a power cut leaves it.

    with PowerCutRig() as rig:
        writer = Child([..., rig.path])
        ...                            # it writes, syncs, and says outside the disk what it acknowledged
        rig.cut(writer.process)        # SIGSTOP, shut the disk down without its log, kill, mount again
        ...                            # look at rig.path: what was synced is there, the rest may be gone

What ext4 had written by itself (after about 5 s, or under memory pressure) stays, as on a real disk; a drive
that lies about flushes is not simulated. A round takes about 0.1 s. Must not touch a disk that anybody needs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from hil.disks import LoopDisk

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

STOP_S: Final = 30.0


class PowerCutRig:
    """A disk of `size_bytes` at `path`, and the switch."""

    def __init__(self, size_bytes: int = 64 << 20) -> None:
        self._disk = LoopDisk(size_bytes)
        self.path = self._disk.path
        self.cuts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disk.close()

    def cut(self, *processes: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
        """Cut the power of `processes` and of the disk in the same moment, then switch on again."""
        for process in processes:
            stop(process.pid)
        self._disk.shut_down()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
        self._disk.unmount()
        self._disk.mount()
        self.cuts += 1

    def check(self) -> None:
        """Raise OSError when the file system itself is damaged; unmounts for the look and mounts again."""
        self._disk.unmount()
        self._disk.check()
        self._disk.mount()


def stop(pid: int) -> None:
    """Send SIGSTOP and return when every thread of `pid` stands still (or it has ended)."""
    os.kill(pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + STOP_S
    while time.monotonic() < deadline_s:
        try:
            states = [
                task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
                for task in Path(f"/proc/{pid}/task").iterdir()
            ]
        except FileNotFoundError:
            if not Path(f"/proc/{pid}").exists():
                return
            continue
        # D: in an fsync that will never return to it once the disk is shut down, which is just as good.
        if all(state in "TtZXD" for state in states):
            return
        time.sleep(0.001)
    raise TimeoutError(f"process {pid} did not stop")
