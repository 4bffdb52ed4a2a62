"""The process around a gateway: signals, reload and its ways back, exit codes, what systemd hears."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gateway import daemon
from gateway.app import StartError, StillError
from gateway.control.asking import fetch_status
from gateway.control.config import Config, ConfigError, parse_config
from gateway.control.profiles import ProfileError
from gateway.control.settings import GatewaySettings
from gateway.core.batch import Batch, Series
from gateway.core.clock import FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.daemon import Daemon, JournalFormatter, LineFormatter, run_daemon
from gateway.hangups import hear_hangups
from gateway.net.ports import free_port
from gateway.store.database import Store, StoreError, StoreSettings
from hil.children import Child, python, wait_until
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 60.0


class FakeGateway:
    """Lives until it is stopped, or fails to start."""

    def __init__(self, config: Config, failure: Exception | None, began: asyncio.Event) -> None:
        self.config = config
        self.wants_anew = False
        self.config_refused = ""
        self._failure = failure
        self._began = began
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        self._began.set()
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure
        await self._stopped.wait()


class Desk:
    """A daemon whose gateways are fakes. `lives` are the names of the configurations that were started."""

    def __init__(self, *, failures: dict[str, Exception] | None = None, next_one: Any = None) -> None:
        self.lives: list[str] = []
        self.next_one = next_one
        self._failures = failures or {}
        self._began = asyncio.Event()
        self.daemon = Daemon(named("first"), reload=self._reload, build=self._build)

    def _reload(self) -> Config:
        if isinstance(self.next_one, Exception):
            raise self.next_one
        return named(self.next_one)

    def _build(self, config: Config) -> Any:
        name = config.gateway.id
        failure = self._failures.get(name)
        if isinstance(failure, ProfileError):
            raise failure
        self.lives.append(name)
        return FakeGateway(config, failure, self._began)

    async def until_lives(self, *names: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.lives != list(names):
                await asyncio.sleep(0.002)
            await self._began.wait()
        await asyncio.sleep(0.005)


def named(name: str) -> Config:
    return Config(gateway=GatewaySettings(id=name))


@pytest.fixture
def hear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stand in for systemd; return what was heard so far."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        heard: list[str] = []

        def read() -> list[str]:
            try:
                while True:
                    first, *rest = listener.recv(1000).decode().splitlines()
                    heard.append(first)
                    if first == "RELOADING=1":
                        # sd_notify(3) wants the moment, by the clock that it has itself, or takes the reload for none.
                        (when,) = rest
                        assert 0 <= time.monotonic() - int(when.removeprefix("MONOTONIC_USEC=")) / 1e6 < 60
            except BlockingIOError:
                return heard

        yield read


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(number: signal.Signals, hear) -> None:
    """And systemd hears that this is meant."""
    desk = Desk()
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    os.kill(os.getpid(), number)
    async with asyncio.timeout(WAIT_S):
        await task
    assert hear() == ["STOPPING=1"]


async def test_the_end_is_heard_behind_any_number_of_hangups(hear, caplog: pytest.LogCaptureFixture) -> None:
    """Those that came together are one reload, and no pipe is full of them."""
    caplog.set_level(logging.INFO)
    desk = Desk(next_one="second")
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    for _ in range(5000):
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(WAIT_S):
        await task
    assert hear() == ["RELOADING=1", "STOPPING=1"]
    assert (caplog.messages.count("reloading"), desk.lives) == (1, ["first"])


async def test_a_good_reload_starts_anew(hear, caplog: pytest.LogCaptureFixture) -> None:
    """With the new configuration; systemd hears RELOADING and not STOPPING, which would get us killed."""
    desk = Desk(next_one="second")
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    os.kill(os.getpid(), signal.SIGHUP)
    await desk.until_lives("first", "second")
    assert hear() == ["RELOADING=1"]
    desk.daemon.stop()
    await task


async def test_a_hangup_that_came_before_it_is_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    """The file may have changed since it was read. Where it is broken by now, what was read runs."""
    for next_one, lives in (("second", "second"), (ConfigError(["a: wrong"]), "first")):
        before = signal.getsignal(signal.SIGHUP)
        hear_hangups()
        os.kill(os.getpid(), signal.SIGHUP)
        desk = Desk(next_one=next_one)
        task = asyncio.create_task(desk.daemon.run())
        await desk.until_lives(lives)
        desk.daemon.stop()
        await task
        signal.signal(signal.SIGHUP, before)
    assert "not reloaded, the old configuration stays: a: wrong" in caplog.text


@pytest.mark.parametrize("why", [ConfigError(["a: wrong", "b: wrong too"]), ProfileError("no such board")])
async def test_a_broken_file_changes_nothing(why: Exception, hear, caplog: pytest.LogCaptureFixture) -> None:
    """The gateway goes on as it was; the log says why, in one line."""
    desk = Desk(next_one=why)
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    os.kill(os.getpid(), signal.SIGHUP)
    async with asyncio.timeout(WAIT_S):
        while not caplog.records:
            await asyncio.sleep(0.002)
    assert desk.lives == ["first"]
    assert hear() == []
    (record,) = caplog.records
    assert record.getMessage().startswith("not reloaded, the old configuration stays: ")
    assert "\n" not in record.getMessage()
    assert record.getMessage().endswith(desk.daemon._gateway.config_refused)
    assert desk.daemon._gateway.config_refused
    desk.daemon.stop()
    await task


async def test_an_unknown_board_in_a_reload_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is looked at before anything is stopped."""
    desk = Desk()
    toaster = Config(gateway=GatewaySettings(hw_profile="toaster"))
    desk.daemon._reload = lambda: toaster
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    assert "there is no hardware profile 'toaster'" in caplog.text
    assert desk.lives == ["first"]
    desk.daemon.stop()
    await task


@pytest.mark.parametrize("why", [StartError("source direct: no"), StoreError("the disk"), ProfileError("gone")])
async def test_a_reload_that_does_not_start_gives_way_to_the_old_one(
    why: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A box in the field must not be dead because of a typo that no check could see."""
    desk = Desk(next_one="second", failures={"second": why})
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    await desk.until_lives(*["first", "second", "first"] if not isinstance(why, ProfileError) else ["first", "first"])
    assert f"the new configuration does not start, the old one comes back: {why}" in caplog.text
    assert desk.daemon._gateway.config_refused == str(why)
    desk.daemon.stop()
    await task


async def test_a_second_reload_after_a_failed_one_works() -> None:
    """The old one came back whole."""
    desk = Desk(next_one="second", failures={"second": StartError("no")})
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    await desk.until_lives("first", "second", "first")
    desk.next_one = "third"
    desk.daemon.reload()
    await desk.until_lives("first", "second", "first", "third")
    assert desk.daemon._gateway.config_refused == ""
    desk.daemon.stop()
    await task


async def test_a_file_that_is_corrected_while_it_fails_to_start_is_what_runs() -> None:
    """And one that does not start either gives way to the one that did."""
    desk = Desk(next_one="second", failures=dict.fromkeys(("second", "fourth"), StartError("no")))
    build = desk.daemon._build

    def correct(config: Config) -> Any:
        if config.gateway.id == "second":
            desk.next_one = "third"
            asyncio.get_running_loop().call_soon(desk.daemon.reload)
        return build(config)

    desk.daemon._build = correct
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    await desk.until_lives("first", "second", "third")
    assert desk.daemon._next is None
    desk.next_one = "fourth"
    desk.daemon.reload()
    await desk.until_lives("first", "second", "third", "fourth", "third")
    desk.daemon.stop()
    await task


async def test_what_does_not_start_at_all_ends_the_process() -> None:
    """systemd starts it again, and people see why."""
    desk = Desk(failures={"first": StoreError("the disk")})
    with pytest.raises(StoreError):
        await desk.daemon.run()


async def test_where_the_old_one_does_not_start_either_the_process_ends() -> None:
    """Never dead and silent."""
    desk = Desk(next_one="second", failures={"second": StartError("no")})
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk._failures["first"] = StoreError("the disk is gone")
    desk.daemon.reload()
    with pytest.raises(StoreError, match="the disk is gone"):
        await task


async def test_a_shelf_that_stands_still_ends_the_process() -> None:
    """No going back to an old configuration for that: a new start helps."""
    desk = Desk(next_one="second", failures={"second": StillError("damaged")})
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    with pytest.raises(StillError):
        await task


async def test_a_gateway_that_wants_to_begin_anew_does(caplog: pytest.LogCaptureFixture) -> None:
    """With the configuration that it had: the disk can be written again."""
    desk = Desk()
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    gateway: Any = desk.daemon._gateway
    gateway.wants_anew = True
    gateway.stop()
    await desk.until_lives("first", "first")
    desk.daemon.stop()
    await task
    assert desk.lives == ["first", "first"]


async def test_one_that_begins_anew_and_cannot_does_not_go_back_to_yesterday() -> None:
    """The configuration of an earlier reload is no answer to a disk that fails."""
    desk = Desk(next_one="second")
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    await desk.until_lives("first", "second")
    desk._failures["second"] = StoreError("the disk is gone")
    gateway: Any = desk.daemon._gateway
    gateway.wants_anew = True
    gateway.stop()
    with pytest.raises(StoreError, match="the disk is gone"):
        await task
    assert desk.lives == ["first", "second", "second"]


async def test_a_reload_that_leaves_a_backlog_behind_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """How much, for whom, where, and how to get it out; not where there is none, or the place is the same."""
    old, new, none = (str(tmp_path / name) for name in ("old", "new", "none"))
    store = await fill(Path(old))
    await store.close()
    desk = Desk()
    desk.daemon._config = Config(gateway=GatewaySettings(id="first", state_dir=old))
    following = [Config(gateway=GatewaySettings(id="next", state_dir=place)) for place in (old, new, none)]
    desk.daemon._reload = lambda: following.pop(0)
    task = asyncio.create_task(desk.daemon.run())
    for count in range(3):
        await desk.until_lives("first", *["next"] * count)
        desk.daemon.reload()
    await desk.until_lives("first", "next", "next", "next")
    desk.daemon.stop()
    await task
    said = [record.getMessage() for record in caplog.records if "held" in record.getMessage()]
    assert said == [
        f"state_dir is {new} now: 3 readings for cloud are still held in {old}, and nobody sends them from there; "
        f"get them out with `tidegate export -c CONFIG --state-dir {old} --out FILE`, or set state_dir back"
    ]


async def fill(state_dir: Path) -> Store:
    """Return a shelf that holds three readings for one uplink."""
    store = await Store.open(
        state_dir=state_dir,
        settings=StoreSettings(),
        clock=FakeClock(),
        uplinks=["cloud"],
        max_series=10,
        telemetry=Telemetry(),
        commit_interval_s=0,
    )
    number = store.resolve(Series((), "m"))
    assert number is not None
    await store.append([(Priority.NORMAL, Batch.of(number, 1, np.arange(3)))])
    return store


async def test_an_end_during_a_reload_is_an_end() -> None:
    """SIGTERM right after SIGHUP: the new one is not even started."""
    desk = Desk(next_one="second")
    task = asyncio.create_task(desk.daemon.run())
    await desk.until_lives("first")
    desk.daemon.reload()
    desk.daemon.stop()
    desk.daemon.reload()
    async with asyncio.timeout(WAIT_S):
        await task
    assert desk.lives == ["first"]


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """1 for what is wrong here, 2 for a configuration that cannot be; one sentence each."""
    monkeypatch.setattr(daemon, "set_up_logging", lambda: None)
    for failure, code in (
        (StoreError("in use"), 1),
        (StartError("no"), 1),
        (StillError("x"), 1),
        (ProfileError("y"), 2),
    ):

        async def run(_: Daemon, failure: Exception = failure) -> None:
            raise failure

        monkeypatch.setattr(Daemon, "run", run)
        assert run_daemon(named("x"), reload=lambda: named("x"), log_level=None) == code
        assert capsys.readouterr().err.count("\n") == 1


def test_the_log_goes_to_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time in front, or for the journal with a priority."""
    made: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda handlers: made.extend(handlers))
    daemon.set_up_logging()
    monkeypatch.setattr(daemon, "is_journal", lambda: True)
    daemon.set_up_logging()
    record = logging.LogRecord("tidegate", logging.WARNING, "", 1, "hot", None, None)
    plain, journal = (handler.format(record) for handler in made)
    assert plain.endswith(" WARNING tidegate: hot")
    assert plain[:2] == "20"
    assert journal == "<4>tidegate: hot"


def test_memory_manners_need_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has neither mallopt nor malloc_trim; what the start left is collected either way."""

    class Musl:
        """A C library with nothing to tune."""

    daemon.tame_malloc()
    daemon.settle()
    monkeypatch.setattr(daemon.ctypes, "CDLL", lambda _: Musl())
    daemon.tame_malloc()
    daemon.settle()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_much_that_is_free_is_given_back() -> None:
    """Free pieces between pieces in use go too; little is not worth the while."""
    code = """
import os
from gateway.daemon import give_back, tame_malloc
tame_malloc()
pages = lambda: int(open("/proc/self/statm").read().split()[1])
blocks = [bytearray(100_000) for _ in range(400)]
del blocks[::2]
before = pages()
assert give_back()
print((before - pages()) * os.sysconf("SC_PAGE_SIZE") > 10_000_000, give_back(free_bytes_min=1 << 40))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True False\n", done.stderr


SMAPS = """\
1000-3000 r-xp 00000000 08:01 7                          /lib/code.so
Rss:                   8 kB
Private_Dirty:         8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
3000-4000 r--p 00002000 08:01 7                          /lib/relocated.so
Rss:                   4 kB
Private_Dirty:         4 kB
Anonymous:             4 kB
Swap:                  0 kB
VmFlags: rd mr mw me
9000-b000 r--p 00002000 08:01 7                          /lib/relocated-and-swapped.so
Rss:                   4 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  4 kB
VmFlags: rd mr mw me
4000-5000 rw-p 00003000 08:01 7                          /lib/data.so
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr
5000-6000 r--p 00000000 00:00 0                          [vvar]
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd
6000-7000 r--p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd
7000-9000 r--p 00000000 08:01 9                          /lib/a file (deleted)
Rss:                   0 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd
"""


def test_only_what_can_be_read_again_is_let_go() -> None:
    """Not what the linker has written, even if swapped out, not what may be written, not what is no file, not what is not there."""
    assert list(daemon.clean_mappings(SMAPS.splitlines())) == [(0x1000, 0x3000, 8192)]


def test_pages_of_files_come_back_when_they_are_needed() -> None:
    """Megabytes go, and the process goes on as if nothing had happened."""
    code = """
import numpy, sqlite3, hashlib
from gateway.daemon import let_go_of_files
assert let_go_of_files() > 4 << 20
assert let_go_of_files("/nonexistent") == 0
assert numpy.arange(9).sum() == 36 and sqlite3.connect(":memory:").execute("SELECT 1").fetchone() == (1,)
print(hashlib.blake2b(b"x", digest_size=2).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == hashlib.blake2b(b"x", digest_size=2).hexdigest() + "\n", done.stderr


async def test_a_real_gateway_is_built_for_this_board() -> None:
    """By the profile that the configuration names."""
    config = Config(gateway=GatewaySettings(hw_profile="pi-4"))
    assert daemon.build(config).profile.name == "pi-4"


def test_journal_lines_carry_their_priority() -> None:
    """Every line of a traceback too, so that `journalctl -p err` shows all of it."""
    try:
        raise ValueError("inside")
    except ValueError:
        record = logging.LogRecord("tidegate", logging.ERROR, "", 1, "failed", None, sys.exc_info())
    lines = JournalFormatter("%(name)s: %(message)s").format(record).splitlines()
    assert lines[0] == "<3>tidegate: failed"
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize("kind", [LineFormatter, JournalFormatter])
def test_a_record_cannot_be_made_into_two(kind: type[logging.Formatter]) -> None:
    """Whatever a device sent into it: no line of its own, no command to a terminal, no 10 kB."""
    nasty = "\x1b[2J\u202e\x85\r\n2026-01-01 00:00:00 ERROR tidegate: fake" + "n" * 10_000
    try:
        raise ValueError(nasty)
    except ValueError:
        record = logging.LogRecord("tidegate", logging.ERROR, "", 1, "topic %s", (nasty,), sys.exc_info())
    lines = kind("%(levelname)s %(message)s").format(record).split("\n")
    assert lines[0].removeprefix("<3>").startswith("ERROR topic \\x1b[2J\\u202e\\x85\\r\\n2026-01-01")
    assert all(line.isprintable() and len(line) < 5000 for line in lines)
    assert all(line.removeprefix("<3>").startswith("  ") for line in lines[1:])


def test_the_journal_is_known_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell started by a service inherits the variable and not the stream."""
    with Path(os.devnull).open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stderr", file)
        stat = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        assert daemon.is_journal()
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        assert not daemon.is_journal()
    assert not daemon.is_journal()


# From here on: the command in a process of its own.


class Site:
    """A configuration file and the gateways started with it."""

    def __init__(self, folder: Path, make_child: Callable[..., Child]) -> None:
        self.folder = folder
        self.file = folder / "tidegate.toml"
        self.ports = {"mqtt": free_port(), "control": free_port()}
        self._make_child = make_child
        self.write()

    def write(self, *, gateway_id: str = "here", extra: str = "", mqtt: int | None = None) -> None:
        state = json.dumps(str(self.folder / "state"))
        self.file.write_text(
            f'[gateway]\nid = "{gateway_id}"\nstate_dir = {state}\n'
            f'[control]\nlisten = "127.0.0.1:{self.ports["control"]}"\n'
            f'[[sources]]\ntype = "mqtt_server"\nname = "direct"\nlisten = "127.0.0.1:{mqtt or self.ports["mqtt"]}"\n'
            f"{extra}",
            encoding="utf-8",
        )
        parse_config(self.file.read_text(encoding="utf-8"), offline=True)

    def launch(self, **environment: str) -> Child:
        return self._make_child(python("-m", "gateway", "run", "-c", self.file), env=environment)

    def start(self) -> Child:
        child = self.launch()
        child.wait_for("running: 1 source")
        return child

    def status(self) -> dict[str, Any]:
        return fetch_status(f"http://127.0.0.1:{self.ports['control']}", token="", timeout_s=60)


@pytest.fixture
def site(tmp_path: Path, make_child: Callable[..., Child]) -> Site:
    return Site(tmp_path, make_child)


def test_sigterm_ends_it_with_everything_on_disk(site: Site) -> None:
    """Exit code 0; what was acknowledged is there when it starts again."""
    child = site.start()
    with Publisher(port=site.ports["mqtt"]) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        assert child.terminate() == 0
    assert "stopped; everything accepted is on disk" in child.output
    child = site.start()
    assert site.status()["accepted"] >= len(publisher.acknowledged)
    assert child.terminate() == 0


def test_what_devices_said_is_nobody_else_s_to_read(site: Site) -> None:
    """Neither the directory nor a file in it, whatever umask it was started with; a log and what is set aside too."""
    before = os.umask(0)
    try:
        child = site.start()
        with Publisher(port=site.ports["mqtt"]) as publisher:
            wait_until(lambda: publisher.acknowledged, "some load")
    finally:
        os.umask(before)
    state = site.folder / "state"
    modes = {path.name: path.stat().st_mode & 0o077 for path in (state, *state.rglob("*"))}
    assert {"state", "tidegate.db", "tidegate.db-wal", "lock"} <= set(modes)
    assert set(modes.values()) == {0}, modes
    assert child.terminate() == 0


def test_sigterm_at_any_moment_of_the_start_is_heard(site: Site) -> None:
    """Before Python has set its handlers the signal's own default ends it; after, it ends in order. It never hangs."""
    for k in range(6):
        child = site.launch()
        if k >= 3:
            wait_until((site.folder / "state" / "lock").exists, "the shelf to be opened")
        else:
            looks = iter(range(20 * k + 1))
            wait_until(lambda looks=looks: next(looks, None) is None, "a moment")
        code = child.terminate()
        assert code in {0, -signal.SIGTERM}
        assert "Traceback" not in child.output
    child = site.start()
    assert child.terminate() == 0


def test_sighup_at_any_moment_is_no_end(site: Site) -> None:
    """It is heard before anything else is loaded, and until the process has ended."""
    child = site.launch()
    wait_until(lambda: hears(child.pid, signal.SIGHUP), "a handler")
    assert "numpy" not in Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8")

    def reloads() -> bool:
        child.send(signal.SIGHUP)
        return "reloading" in child.output

    wait_until(reloads, "the first reload")
    child.wait_for("running: 1 source")
    child.send(signal.SIGTERM)

    def ends() -> bool:
        child.send(signal.SIGHUP)
        return not child.is_running

    wait_until(ends, "the end")
    assert child.wait() == 0
    assert "Traceback" not in child.output


def hears(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)


def test_reload_over_a_real_gateway(site: Site) -> None:
    """A broken file changes nothing, a good one does; the shelf and its counts stay."""
    child = site.start()
    with Publisher(port=site.ports["mqtt"]) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 100, "some load")
    good = site.file.read_text(encoding="utf-8")
    site.file.write_text(good + "typo = 1\n", encoding="utf-8")
    child.send(signal.SIGHUP)
    said = child.wait_for("not reloaded")
    assert "unknown key" in said
    assert site.status()["gateway"] == "here"
    assert "unknown key" in site.status()["config_refused"]
    site.write(gateway_id="there")
    child.send(signal.SIGHUP)
    child.wait_for("reloading")
    child.wait_for("running: 1 source")
    status = site.status()
    assert status["gateway"] == "there"
    assert status["config_refused"] == ""
    assert status["accepted"] >= len(publisher.acknowledged)
    assert child.terminate() == 0


def test_metrics_are_served_where_openssl_was_left_out(site: Site) -> None:
    """The library that writes them asks for it."""
    child = site.start()
    assert "libssl" not in Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8")
    for _ in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{site.ports['control']}/metrics", timeout=60) as answer:
            assert b"tidegate_healthy 1.0" in answer.read()
    assert child.terminate() == 0


def test_a_reload_loads_openssl_where_it_is_wanted(site: Site) -> None:
    """In the same process; before, it is not in memory."""
    child = site.start()
    maps = Path(f"/proc/{child.pid}/maps")
    assert "libssl" not in maps.read_text(encoding="utf-8")
    site.write(extra='[[uplinks]]\ntype = "otlp"\nname = "away"\nendpoint = "https://127.0.0.1:1"\n')
    child.send(signal.SIGHUP)
    child.wait_for("running: 1 source, 1 uplink")
    assert "libssl" in maps.read_text(encoding="utf-8")
    assert child.terminate() == 0


def test_a_reload_that_cannot_start_comes_back(site: Site) -> None:
    """A certificate that is none is found when the new gateway is built; the old configuration serves on."""
    child = site.start()
    (site.folder / "cert.pem").write_text("none", encoding="utf-8")
    tls = f'tls = {{ cert_file = "{site.folder}/cert.pem", key_file = "{site.folder}/cert.pem" }}\n'
    site.write(gateway_id="there", extra=tls)
    child.send(signal.SIGHUP)
    said = child.wait_for("does not start, the old one comes back")
    assert "source direct: " in said
    child.wait_for("running: 1 source")
    assert site.status()["gateway"] == "here"
    with Publisher(port=site.ports["mqtt"]) as publisher:
        wait_until(lambda: publisher.acknowledged, "the door to be open again")
    assert child.terminate() == 0


def test_a_reload_onto_a_port_in_use_keeps_trying(site: Site) -> None:
    """No traceback, no end: a sentence, and the door opens as soon as the port is free."""
    child = site.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.write(mqtt=port)
        child.send(signal.SIGHUP)
        said = child.wait_for("Address already in use")
        assert "source direct: cannot listen on" in said
    with Publisher(port=port) as publisher:
        wait_until(lambda: publisher.acknowledged, "the door to open")
    assert "Traceback" not in child.output
    assert child.terminate() == 0


def test_a_reload_onto_another_directory_names_what_stays_behind(site: Site) -> None:
    """In the real gateway: accepted, held for nobody, and named with the way to get it out."""
    child = site.start()
    with Publisher(port=site.ports["mqtt"]) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 100, "some load")
    old = site.folder / "state"
    site.file.write_text(site.file.read_text(encoding="utf-8").replace(f'{old}"', f'{old}-2"'), encoding="utf-8")
    child.send(signal.SIGHUP)
    said = child.wait_for(f"`tidegate export -c CONFIG --state-dir {old} --out FILE`")
    assert f"state_dir is {old}-2 now: " in said
    child.wait_for("running: 1 source")
    assert child.terminate() == 0


def test_a_second_instance_says_one_sentence(site: Site) -> None:
    """Exit code 1, who has it, and what to do; the first one does not notice."""
    first = site.start()
    second = site.launch()
    assert second.wait() == 1
    assert second.lines == [
        (
            f"tidegate: another gateway (pid {first.pid}) uses {site.folder / 'state'}; stop it or give this one a "
            "state_dir of its own"
        )
    ]
    assert site.status()["healthy"]
    assert first.terminate() == 0


def test_a_state_dir_that_cannot_be_is_one_sentence(site: Site) -> None:
    """Before anything is started: exit code 2, as for anything else that is wrong in the file."""
    (site.folder / "state").write_text("a file", encoding="utf-8")
    child = site.launch()
    assert child.wait() == 2
    assert "gateway.state_dir: " in child.output
    assert "is a file; name a directory" in child.output
    assert "Traceback" not in child.output


def test_a_state_dir_that_cannot_be_made_is_one_sentence(site: Site) -> None:
    """Where no check could see it, the shelf says so: exit code 1, so that systemd tries again."""
    text = site.file.read_text(encoding="utf-8").replace(str(site.folder / "state"), "/proc/tidegate")
    site.file.write_text(text, encoding="utf-8")
    child = site.launch()
    assert child.wait() in {1, 2}
    assert len(child.lines) <= 2
    assert "/proc/tidegate" in child.output
    assert "Traceback" not in child.output
