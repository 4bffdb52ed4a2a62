"""Keeps parts running: one that fails is started again, one that does not stop keeps nobody waiting. Knows no part."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.core.text import system_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.core.telemetry import Telemetry

log = logging.getLogger("tidegate")

# Later and later, so that a fault in one part never spins or ends the rest.
RESTART_WAIT_S: Final = 1.0
RESTART_WAIT_S_MAX: Final = 60.0
# Doors, roads and windows one after the other: all of it within systemd's TimeoutStopSec of 30 s.
STOP_S_MAX: Final = 8.0


class Supervisor:
    """Runs parts, each in a task of its own. `restarts` counts by name how often one was started again."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.restarts: Counter[str] = Counter()
        self._telemetry = telemetry

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run a part until its task is cancelled; a crash is logged, counted and started again."""
        return asyncio.create_task(self._supervise(name, run), name=name)

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        wait_s = RESTART_WAIT_S
        while True:
            began_s = loop.time()
            try:
                await run()
                log.error("%s ended by itself; starting it again in %.0f s", name, wait_s)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Something that it waited for was cancelled, and not this part: it would end without a word.
                log.exception("%s waited for something that was cancelled; starting it again in %.0f s", name, wait_s)
            except OSError as error:
                # The world's doing, like a port in use: a sentence says it all, and it may pass.
                log.error("%s: %s; trying again in %.0f s", name, system_text(error), wait_s)  # noqa: TRY400
                log.debug("%s failed here:", name, exc_info=True)
            except Exception:
                log.exception("%s failed; starting it again in %.0f s", name, wait_s)
            self.restarts[name] += 1
            self._telemetry.count("tidegate_part_restarts", part=name)
            if loop.time() - began_s > RESTART_WAIT_S_MAX:
                wait_s = RESTART_WAIT_S
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RESTART_WAIT_S_MAX)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel `tasks` and wait for them, bounded: what is stuck must not keep the rest from being saved."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=STOP_S_MAX)
        for task in stuck:
            log.warning("%s did not stop within %.0f s", task.get_name(), STOP_S_MAX)
