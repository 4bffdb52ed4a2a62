"""How far long work is, for whoever waits at a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_T = TypeVar("_T")


class Progress(Protocol):
    """Passes items on and shows how far it is."""

    def __call__(self, items: Iterable[_T], *, total: int, what: str) -> Iterable[_T]:
        """Return the items of `items`, of which there are about `total`."""
        ...


def no_progress(items: Iterable[_T], *, total: int, what: str) -> Iterable[_T]:  # noqa: ARG001  nothing is shown
    """Pass `items` on where nobody waits."""
    return items


def progress(items: Iterable[_T], *, total: int, what: str) -> Iterator[_T]:
    """Pass `items` on; on a terminal, draw how far it is."""
    shown = -1
    for done, item in enumerate(items):
        percent = done * 100 // max(total, 1)
        if sys.stderr.isatty() and percent != shown:
            shown = percent
            bar = "█" * (percent // 4) + "░" * (25 - percent // 4)
            sys.stderr.write(f"\r{what} {bar} {percent} %")
            sys.stderr.flush()
        yield item
    if shown >= 0:
        sys.stderr.write(f"\r{what} {'█' * 25} 100 %\n")
