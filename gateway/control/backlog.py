"""What is still held in a state directory that is left for another: nobody sends it from there. Must not change it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gateway.control.settings import STATE_DIR
from gateway.core.words import plural
from gateway.store.files import DATABASE
from gateway.store.pagefile import held_in

log = logging.getLogger("tidegate")


def warn_of_backlog(old: Path, new: Path) -> None:
    """Say what is held in `old`, if it is not `new`, and how to get it out."""
    held = {} if old == new else held_in(old)
    if held:
        most = ", ".join(f"{plural(count, 'reading')} for {name or 'nobody'}" for name, count in held.items())
        log.warning(
            "state_dir is %s now: %s are still held in %s, and nobody sends them from there; get them out with "
            "`tidegate export -c CONFIG --state-dir %s --out FILE`, or set state_dir back",
            new,
            most,
            old,
            old,
        )


def look_for_old_shelf(state_dir: Path) -> None:
    """Where a shelf is about to be made: say so if one with something in it stands where it usually does.

    After a restart nobody knows what state_dir was before.
    """
    if not os.access(state_dir / DATABASE, os.F_OK):
        places = [STATE_DIR, *os.environ.get("STATE_DIRECTORY", "").split(":")]
        for place in dict.fromkeys(place for place in places if place):
            warn_of_backlog(Path(place), state_dir)
