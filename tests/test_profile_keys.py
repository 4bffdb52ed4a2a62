"""Every key of a hardware profile has an effect on a gateway, and no key is without a check here."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import app
from gateway.app import Gateway
from gateway.cli import main
from gateway.control.config import parse_config
from gateway.control.profiles import HardwareProfile, load
from gateway.core.batch import Series
from gateway.core.clock import FakeClock
from gateway.core.units import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

MIB = 1 << 20
KEYS: dict[str, Callable[..., Awaitable[None]]] = {}
# What only names a board and says how it is known; tests/control/test_profiles.py looks at these.
DESCRIBING = {"name", "description", "detect"}


def key(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Note the check of a key, which has its name."""
    KEYS[function.__name__] = function
    return function


def test_every_key_has_a_check() -> None:
    """A new one without any effect would be a promise that nobody keeps."""
    assert {field.name for field in msgspec.structs.fields(HardwareProfile)} - DESCRIBING == set(KEYS)


class Site:
    """Makes gateways in one folder and hands out the running one's parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()

    async def run(self, look: Callable[[Gateway], Awaitable[Any]], *, toml: str = "", **limits: Any) -> Any:
        """Run a gateway with these limits until `look` has returned; return what it did."""
        head = f'[gateway]\nid = "here"\nstate_dir = {json.dumps(str(self.folder / "state"))}\n'
        profile = msgspec.structs.replace(load("x86-64"), **limits)
        gateway = Gateway(parse_config(head + toml), profile, clock=self.clock, seed=1)
        running = asyncio.create_task(gateway.run())
        try:
            async with asyncio.timeout(60):
                await gateway.ready.wait()
                return await look(gateway)
        finally:
            gateway.stop()
            await running


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@key
async def memory_max(site: Site, _: Any) -> None:
    async def bounds(gateway: Gateway) -> tuple[int, int]:
        status: Any = gateway.status()
        return gateway.config.store.pending_bytes, status["memory"]["max_bytes"]

    small, large = [await site.run(bounds, memory_max=Size(mib * MIB), max_series=1000) for mib in (48, 256)]
    assert small[0] < large[0]
    assert (small[1], large[1]) == (48 * MIB, 256 * MIB)


@key
async def commit_interval(site: Site, _: Any) -> None:
    async def interval_s(gateway: Gateway) -> float:
        status: Any = gateway.status()
        return status["flash"]["commit_interval_s"]

    assert await site.run(interval_s, commit_interval=Duration(0.7)) == 0.7
    assert await site.run(interval_s, commit_interval=Duration(0.7), toml='[store]\ncommit_interval = "0s"') == 0


@key
async def flash_bytes_per_day(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr(app, "FOOTPRINT_S", 0.0)

    async def interval_s(gateway: Gateway) -> float:
        # Every look finds a mebibyte more, and ten seconds gone.
        looks = itertools.count()
        looked = 0

        def read_written() -> int:
            nonlocal looked
            looked = next(looks)
            return looked * MIB

        gateway._footprint._read_written = read_written
        gateway._footprint._written_first = 0
        while looked < 20:
            site.clock.advance(10 * 10**9)
            before = looked
            while looked == before:
                await asyncio.sleep(0.001)
        return gateway._store._committer.pace.interval_s

    assert await site.run(interval_s, flash_bytes_per_day=Size(1 << 40)) == 1.0
    assert await site.run(interval_s, flash_bytes_per_day=Size(10 * MIB)) == 5.0


@key
async def wal_bytes(site: Site, _: Any) -> None:
    async def pages(gateway: Gateway) -> int:
        ((found,),) = await gateway._store._connection.execute_fetchall("PRAGMA wal_autocheckpoint")
        return found

    assert await site.run(pages, wal_bytes=Size(2 * MIB)) == 2 * MIB // 512
    assert await site.run(pages, wal_bytes=Size(MIB)) == MIB // 512


@key
async def cache_bytes(site: Site, _: Any) -> None:
    async def kib(gateway: Gateway) -> int:
        store = gateway._store
        sizes = [await one.execute_fetchall("PRAGMA cache_size") for one in (store._connection, store._reader)]
        return -sum(size for ((size,),) in sizes)

    assert await site.run(kib, cache_bytes=Size(3 * MIB)) == 3 * 1024
    assert await site.run(kib, cache_bytes=Size(MIB)) == 1024


@key
async def pending_bytes(site: Site, _: Any) -> None:
    async def bound(gateway: Gateway) -> int:
        return gateway._store._committer._settings.pending_bytes

    toml = '[store]\npending_bytes = "5MiB"'
    assert await site.run(bound, pending_bytes=Size(MIB), toml=toml) == MIB
    assert await site.run(bound, pending_bytes=Size(64 * MIB), toml=toml) == 5 * MIB


@key
async def threads(site: Site, _: Any) -> None:
    async def most_at_once(gateway: Gateway) -> int:
        lock, go = threading.Lock(), threading.Event()
        here = most = 0

        def block() -> None:
            nonlocal here, most
            with lock:
                here += 1
                most = max(most, here)
                if here == gateway.profile.threads:
                    go.set()
            go.wait(60)
            with lock:
                here -= 1

        await asyncio.gather(*[asyncio.to_thread(block) for _ in range(12)])
        return most

    assert await site.run(most_at_once, threads=2) == 2
    assert await site.run(most_at_once, threads=5) == 5


@key
async def max_series(site: Site, _: Any) -> None:
    async def told_apart(gateway: Gateway) -> int:
        numbers = [gateway._store.resolve(Series((), f"m{k}")) for k in range(10)]
        return sum(number is not None for number in numbers)

    assert await site.run(told_apart, max_series=3) == 3
    assert await site.run(told_apart, max_series=7) == 7


@key
async def series_bytes(site: Site, _: Any) -> None:
    async def told_apart(gateway: Gateway) -> int:
        numbers = [gateway._store.resolve(Series((), f"m{k}" + "x" * 1000)) for k in range(10)]
        return sum(number is not None for number in numbers)

    assert await site.run(told_apart, series_bytes=Size(5000)) == 3
    assert await site.run(told_apart, series_bytes=Size(9000)) == 6


@pytest.mark.parametrize("name", sorted(KEYS))
async def test_a_key_has_its_effect(name: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gateway does is another with another value."""
    await KEYS[name](site, monkeypatch)


async def test_the_status_names_the_profile(site: Site) -> None:
    """By its file's name."""

    async def name(gateway: Gateway) -> object:
        return gateway.status()["hw_profile"]

    assert await site.run(name, name="mine") == "mine"


def test_check_says_what_memory_does_to_the_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    path = tmp_path / "tidegate.toml"
    path.write_text(
        f'[gateway]\nstate_dir = {json.dumps(str(tmp_path))}\nhw_profile = "pi-zero-2w"\n'
        '[[sources]]\ntype = "mqtt_server"\nname = "direct"\n'
        '[[sources]]\ntype = "mqtt_server"\nname = "beside"\nlisten = "127.0.0.1:1885"\n'
        '[[sources]]\ntype = "mqtt"\nname = "broker"\nurl = "mqtt://127.0.0.1"\ntopics = ["#"]\n'
    )
    assert main(["check", "-c", str(path)]) == 0
    assert "note: memory: bounds of store and sources are held to" in capsys.readouterr().out
