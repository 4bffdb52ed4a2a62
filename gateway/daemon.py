"""The process around a gateway: signals, logging, memory manners. Must not know any part of the gateway by name."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
from typing import TYPE_CHECKING, Final

from gateway.app import Gateway, log, notify
from gateway.control.profiles import load as load_profile
from gateway.core.clock import SystemClock
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.control.config import Config

# mallopt(3): one arena for all threads. glibc's default gives each thread its own, which on a small box
# holds tens of megabytes that no one uses.
M_ARENA_MAX: Final = -8
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
TRIM_BYTES: Final = 4 * 1024 * 1024


def tame_malloc() -> None:
    """Ask glibc to keep one arena and to give memory back; elsewhere (musl) do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        mallopt(M_MMAP_THRESHOLD, TRIM_BYTES)


def run_daemon(config: Config, *, reload: Callable[[], Config], log_level: str | None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    tame_malloc()
    logging.basicConfig(
        level=(log_level or config.log_level).upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(_serve(config, reload))
    except StoreError as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: Config, reload: Callable[[], Config]) -> None:
    loop = asyncio.get_running_loop()
    wanted = {"reload": True}
    while wanted["reload"]:
        wanted["reload"] = False
        gateway = Gateway(config, load_profile(config.gateway.hw_profile), clock=SystemClock())
        fresh: list[Config] = []

        def read_again(gateway: Gateway = gateway, fresh: list[Config] = fresh) -> None:
            # A broken file must not stop what works: the old configuration stays.
            try:
                fresh.append(reload())
            except Exception as error:  # noqa: BLE001  whatever is wrong with the file, the gateway goes on
                log.error("not reloaded, the old configuration stays: %s", error)  # noqa: TRY400  the sentence is enough
                return
            wanted["reload"] = True
            notify("RELOADING=1")
            gateway.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, gateway.stop)
        loop.add_signal_handler(signal.SIGHUP, read_again)
        await gateway.run()
        config = fresh[-1] if fresh else config
    log.info("stopped; everything accepted is on disk")
