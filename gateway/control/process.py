"""What the kernel says of this process, under the names that every Prometheus exporter uses. Must not judge it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from gateway.control.instruments import family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.core.telemetry import Family

# Fields of /proc/PID/stat (proc(5)), counted from 0 after the command's name in brackets.
UTIME: Final = 11
STIME: Final = 12
START_TIME: Final = 19
VSIZE: Final = 20
RSS: Final = 21


def process_families(proc: str = "/proc") -> Iterator[Family]:
    """Yield memory, CPU, start and files of this process; what the kernel does not say is left out."""
    try:
        booted_s = _number_after(f"{proc}/stat", b"btime ", 1)
        with open(f"{proc}/self/stat", "rb") as file:  # noqa: PTH123  as cheap as it gets
            # The name is the program's to choose, brackets included.
            fields = file.read().rpartition(b")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        rss_bytes = float(fields[RSS]) * os.sysconf("SC_PAGE_SIZE")
        started_s = booted_s + float(fields[START_TIME]) / ticks
        cpu_s = float(fields[UTIME]) / ticks + float(fields[STIME]) / ticks
        vsize_bytes = float(fields[VSIZE])
    except (OSError, ValueError, IndexError):
        pass
    else:
        yield family("process_virtual_memory_bytes", {(): vsize_bytes})
        yield family("process_resident_memory_bytes", {(): rss_bytes})
        yield family("process_start_time_seconds", {(): started_s})
        yield family("process_cpu_seconds", {(): cpu_s})
    with contextlib.suppress(OSError, ValueError, IndexError):
        open_files = len(os.listdir(f"{proc}/self/fd"))  # noqa: PTH208  how many, not which
        yield family("process_open_fds", {(): open_files})
        files_max = _number_after(f"{proc}/self/limits", b"Max open file", 3)
        yield family("process_max_fds", {(): files_max})


def _number_after(path: str, beginning: bytes, word: int) -> float:
    """Return the number that stands as `word` (from 0) on the line with that beginning; ValueError where none does."""
    with open(path, "rb") as file:  # noqa: PTH123  as cheap as it gets
        for line in file:
            if line.startswith(beginning):
                return float(line.split()[word])
    raise ValueError(f"{path} has no line that begins with {beginning!r}")
