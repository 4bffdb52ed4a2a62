"""The process around a gateway: signals, logging, memory manners. Must not know any part of the gateway by name.

SIGTERM and SIGINT end it when all is on disk. SIGHUP reads the configuration again: a broken file changes nothing;
a good one stops the parts and starts new ones; one that reads well and does not start gives way to the old one.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gateway.app import Gateway, StartError, StillError, log
from gateway.control.backlog import warn_of_backlog
from gateway.control.config import ConfigError
from gateway.control.footprint import read_memory_limit, within
from gateway.control.profiles import ProfileError
from gateway.control.profiles import load as load_profile
from gateway.core.clock import SystemClock
from gateway.core.text import sentence
from gateway.hangups import hear_hangups
from gateway.net.systemd import notify
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gateway.control.config import Config

FINE: Final = 0
FOUND: Final = 1
USAGE: Final = 2

# mallopt(3): one arena for all threads. glibc's default gives each thread its own, which on a small box
# holds tens of megabytes that no one uses.
M_ARENA_MAX: Final = -8
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
MADV_DONTNEED: Final = 4
MMAP_BYTES: Final = 4 * 1024 * 1024
# A commit's working memory comes and goes twenty times a second: giving back what is above this costs nothing that can
# be measured, and above 4 MiB it is a megabyte more that nobody uses.
TRIM_BYTES: Final = 1024 * 1024
# How often to look whether malloc holds much that is free; a trim takes a millisecond or two.
GIVE_BACK_S: Final = 2.0
FREE_BYTES_MIN: Final = 3 * 1024 * 1024
# By then what the start needed for a moment is garbage.
SETTLE_S: Final = 1.0

# Room for all problems of a configuration; whatever the world sent was cut before, at its door.
LOG_CHARS_MAX: Final = 4000

# sd-daemon(3): the journal takes a line's priority from its first three letters.
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def tame_malloc() -> None:
    """Ask glibc to keep one arena and to give memory back; elsewhere (musl) do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)


def settle() -> None:
    """Give back what only the start needed, and spare what stays the garbage collector's visits."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    let_go_of_files()


class MallocInfo(ctypes.Structure):
    """mallinfo2(3): what malloc holds, in bytes."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def give_back(*, free_bytes_min: int = FREE_BYTES_MIN) -> bool:
    """Hand free memory back where there is much of it; return whether there was. Where glibc is not, do nothing.

    After a burst, what is in use lies scattered among what is free, and malloc by itself returns only the end.
    """
    libc = ctypes.CDLL(None)
    look, trim = getattr(libc, "mallinfo2", None), getattr(libc, "malloc_trim", None)
    if look is None or trim is None:
        return False
    look.restype = MallocInfo
    if look().fordblks < free_bytes_min:
        return False
    trim(0)
    return True


def let_go_of_files(smaps: str = "/proc/self/smaps") -> int:
    """Hand back the pages of libraries and interpreter that only the start has touched; return how many bytes.

    They are code and constants, read again from the page cache if they are ever needed (madvise(2), MADV_DONTNEED).
    The kernel would take them as well, but late: pages that a process has mapped are the last that it gives up, and
    on a board of half a gigabyte that is memory that somebody else waits for.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None:
        return 0
    freed_bytes = 0
    try:
        with open(smaps, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  as cheap as it gets
            found = list(clean_mappings(file))
    except OSError:
        return 0
    for start, end, resident_bytes in found:
        if advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0:
            freed_bytes += resident_bytes
    return freed_bytes


def clean_mappings(smaps: Iterable[str]) -> Iterator[tuple[int, int, int]]:
    """Return start, end and resident bytes of each mapping of a file that cannot be written and never was.

    What the linker has filled in and then protected (RELRO) is not writable either, but its pages are this process's
    own: "Anonymous" says so, and "Swap" of those that were put away (proc(5)). "Private_Dirty" would not do: it counts
    the pages of a library as well that was installed a moment ago and is not on the disk yet.

    >>> text = "1000-3000 r-xp 0 08:01 7 /lib/x.so", "Rss: 8 kB", "Anonymous: 0 kB", "Swap: 0 kB", "VmFlags: rd"
    >>> list(clean_mappings(text))
    [(4096, 12288, 8192)]
    """
    start = end = resident = 0
    is_candidate = False
    for line in smaps:
        key, *rest = line.split()
        if key == "Rss:":
            resident = int(rest[0]) * 1024
        elif key in {"Anonymous:", "Swap:"}:
            is_candidate = is_candidate and rest[0] == "0"
        elif key == "VmFlags:":
            if is_candidate and resident:
                yield start, end, resident
        elif not key.endswith(":"):
            start, end = (int(bound, 16) for bound in key.split("-"))
            is_candidate = "w" not in rest[0] and len(rest) > 4 and rest[4].startswith("/")


class LineFormatter(logging.Formatter):
    """One line for each record, whatever the world had a part in writing; a traceback's lines are indented below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the record without its traceback."""
        record.message = sentence(record.message, LOG_CHARS_MAX)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        """Return the traceback."""
        return "\n".join(f"  {sentence(line)}" for line in super().formatException(ei).splitlines())


class JournalFormatter(LineFormatter):
    """Lines as the journal wants them: a priority in front of each, no time, which it has itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        mark = f"<{_PRIORITIES.get(record.levelno, 5)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


def is_journal() -> bool:
    """Whether stderr goes to the journal (JOURNAL_STREAM, as systemd sets it)."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def set_up_logging() -> None:
    """Log to stderr, for the journal where that is what listens there."""
    handler = logging.StreamHandler(sys.stderr)
    if is_journal():
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])


def run_daemon(config: Config, *, reload: Callable[[], Config], log_level: str | None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. `reload` reads the file again, or raises ConfigError."""
    # What devices said is nobody else's business, whatever umask we were started with.
    os.umask(0o077)
    tame_malloc()
    set_up_logging()
    try:
        asyncio.run(Daemon(config, reload=reload, log_level=log_level).run())
    except ProfileError as error:
        return _say(f"gateway.hw_profile: {error}", USAGE)
    except (StoreError, StartError, StillError) as error:
        return _say(str(error), FOUND)
    return FINE


async def _give_back_for_ever() -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        give_back()


def _say(text: str, code: int) -> int:
    print(f"tidegate: {sentence(text, LOG_CHARS_MAX)}", file=sys.stderr)  # noqa: T201  the process' last word is for people
    return code


def build(config: Config) -> Gateway:
    """Return a gateway on this machine; raise ProfileError."""
    profile = within(load_profile(config.gateway.hw_profile), read_memory_limit())
    return Gateway(config, profile, clock=SystemClock())


class Soon:
    """The handler of a signal: has the event loop act on it, once for all that came by then.

    A loop's own handlers go through a pipe that a few hundred signals fill: a SIGTERM behind as many SIGHUPs is lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
        self._loop = loop
        self._act = act
        self._is_due = False

    def __call__(self, *_: object) -> None:
        """Take one signal."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._do)

    def _do(self) -> None:
        self._is_due = False
        self._act()


class Daemon:
    """One gateway after another, each with the configuration of its day."""

    def __init__(
        self,
        config: Config,
        *,
        reload: Callable[[], Config],
        log_level: str | None = None,
        build: Callable[[Config], Gateway] = build,
    ) -> None:
        self._config = config
        self._log_level = log_level
        self._reload = reload
        self._build = build
        self._fallback: Config | None = None
        self._next: Config | None = None
        self._gateway: Gateway | None = None
        self._is_ending = False
        self._refused = ""

    async def run(self) -> None:
        """Serve until a signal ends it; raise what keeps a gateway from starting."""
        loop = asyncio.get_running_loop()
        stop, numbers = Soon(loop, self.stop), (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        hangup = hear_hangups()
        hangup.act = Soon(loop, self.reload)
        try:
            if hangup.came:
                self.reload()
                self._config, self._next = self._next or self._config, None
            await self._live_on()
        finally:
            hangup.act = None
            for number in numbers:
                signal.signal(number, before[number])

    async def _live_on(self) -> None:
        while not self._is_ending:
            try:
                gateway = await self._live()
            except (StoreError, StartError, ProfileError) as error:
                if self._fallback is None:
                    raise
                if self._next is not None:
                    # It was corrected while it failed to start.
                    self._config, self._next = self._next, None
                    continue
                log.error("the new configuration does not start, the old one comes back: %s", error)
                self._config, self._fallback = self._fallback, None
                self._refused = str(error)
                continue
            if self._next is not None:
                old, new = (Path(config.gateway.state_dir) for config in (self._config, self._next))
                await asyncio.to_thread(warn_of_backlog, old, new)
                self._fallback, self._config, self._next = self._config, self._next, None
            elif gateway.wants_anew:
                self._fallback = None
            else:
                break
        log.info("stopped; everything accepted is on disk")

    async def _live(self) -> Gateway:
        logging.getLogger().setLevel((self._log_level or self._config.log_level).upper())
        gateway = self._gateway = self._build(self._config)
        gateway.config_refused = self._refused
        settling = asyncio.get_running_loop().call_later(SETTLE_S, settle)
        giving = asyncio.create_task(_give_back_for_ever(), name="memory")
        try:
            await gateway.run()
        finally:
            settling.cancel()
            giving.cancel()
            self._gateway = None
        return gateway

    def stop(self) -> None:
        """End: doors, roads, shelf. Also where a reload is under way."""
        self._is_ending = True
        notify("STOPPING=1")
        if self._gateway is not None:
            self._gateway.stop()

    def reload(self) -> None:
        """Read the configuration again and start anew with it, if it is good."""
        if self._is_ending:
            return
        try:
            fresh = self._reload()
            # Looked at before anything is stopped: a broken file must not stop what works.
            load_profile(fresh.gateway.hw_profile)
        except (ConfigError, ProfileError) as error:
            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            self._refused = "; ".join(problems)
            log.error("not reloaded, the old configuration stays: %s", self._refused)
            if self._gateway is not None:
                self._gateway.config_refused = self._refused
            return
        log.info("reloading")
        self._refused = ""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._next = fresh
        if self._gateway is not None:
            self._gateway.stop()
