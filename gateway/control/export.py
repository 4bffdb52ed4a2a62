"""`tidegate export`: what is held, as OTLP JSON lines in a file. Must not change the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gateway import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Progress(Protocol):
    """Passes items on and shows how far it is."""

    def __call__(self, items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
        """Pass `items` on."""
        ...


@dataclass(slots=True)
class Exported:
    """What went into the file."""

    lines: int = 0
    readings: int = 0
    records: int = 0
    damaged: int = 0


def export(state_dir: Path, out: Path, *, gateway_id: str, progress: Progress) -> Exported:
    """Write every held segment of `state_dir` to `out`, one OTLP request a line; raise OSError."""
    raise NotImplementedError
