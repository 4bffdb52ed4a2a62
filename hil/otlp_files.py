"""Reads files of OTLP as whoever gets the stick does: by `zstd`, `gzip` and the official classes. Not by our own code.

A record that was cut, at the end of a file, is left out, as the page for whoever reads them says.
"""

from __future__ import annotations

import io
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Final

from google.protobuf import proto
from google.protobuf.message import DecodeError

from hil.needs import require_tool
from hil.otlp_readings import REQUESTS, LogLine, Reading, json_to_protobuf, parse_logs, parse_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOOLS: Final = {".zst": ("zstd", "-dcqf"), ".gz": ("gzip", "-dcf")}


def unpacked(path: Path) -> bytes:
    """Return what a file holds, as far as its tool reads it."""
    tool = TOOLS.get(path.suffix)
    if tool is None:
        return path.read_bytes()
    command: list[str | Path] = [require_tool(tool[0], package=tool[0]), *tool[1:], path]
    return subprocess.run(command, capture_output=True, check=False).stdout


def requests_in(path: Path) -> Iterator[bytes]:
    """Return the requests of a file, as protobuf."""
    data = unpacked(path)
    if ".jsonl" in path.name:
        *whole, _ = data.split(b"\n")
        for line in whole:
            yield json_to_protobuf(signal_of(path), line)
        return
    stream, kind = io.BytesIO(data), REQUESTS[signal_of(path)]
    while stream.tell() < len(data):
        try:
            request = proto.parse_length_prefixed(kind, stream)
        except (DecodeError, ValueError):
            return
        yield request.SerializeToString()


def signal_of(path: Path) -> str:
    """Return the signal that a file's name says."""
    return path.name.split("_")[-3]


def files_in(folder: Path) -> list[Path]:
    """Return the files, the oldest first."""
    files = [path for path in folder.rglob("*") if ".jsonl" in path.name or ".binpb" in path.name]
    return sorted(files, key=lambda path: path.name.split("_")[-2])


def readings_in(folder: Path) -> Counter[Reading]:
    """Return how often each reading is there."""
    found: Counter[Reading] = Counter()
    for path in files_in(folder):
        if signal_of(path) == "metrics":
            for request in requests_in(path):
                found.update(parse_metrics(request))
    return found


def log_lines_in(folder: Path) -> Counter[LogLine]:
    """Return how often each log record is there."""
    found: Counter[LogLine] = Counter()
    for path in files_in(folder):
        if signal_of(path) == "logs":
            for request in requests_in(path):
                found.update(parse_logs(request))
    return found
