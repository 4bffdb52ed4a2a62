"""SIGHUP from a daemon's first moment to its last: acted on while somebody can, else noted, and never its end.

Its default ends the process, and what a daemon needs takes the better part of a second to load. Must not load anything
itself.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Hangup:
    """The handler of SIGHUP. `came` says whether there was one, `act` is called with each once somebody has set it."""

    def __init__(self) -> None:
        self.came = False
        self.act: Callable[[], object] | None = None

    def __call__(self, _number: int, _frame: object) -> None:
        """Take one signal."""
        self.came = True
        if self.act is not None:
            self.act()


def hear_hangups() -> Hangup:
    """Return the handler that is there, or put one there."""
    there = signal.getsignal(signal.SIGHUP)
    if isinstance(there, Hangup):
        return there
    handler = Hangup()
    signal.signal(signal.SIGHUP, handler)
    return handler


def ignore_hangups() -> None:
    """Leave SIGHUP unheard: handlers have their default again when the interpreter ends, and this stays."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
