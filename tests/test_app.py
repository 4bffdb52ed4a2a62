"""A whole gateway in this process: how it starts, what restarts in it, and in which order it ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import socket
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from gateway import app, supervision
from gateway.app import Gateway, NetworkUser, StartError, StillError
from gateway.control import web
from gateway.control.config import parse_config
from gateway.control.draining import Draining, Outlook
from gateway.control.live import follow
from gateway.control.metrics import SOURCE_NUMBERS, SOURCE_NUMBERS_COUNTED
from gateway.control.profiles import load as load_profile
from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S, FakeClock, Quality, SystemClock
from gateway.core.contracts import Arrivals, Priority
from gateway.daemon import LineFormatter
from gateway.net.mqtt_packets import connect_bytes, publish_bytes
from gateway.net.ports import free_port
from gateway.store.database import Store, StoreError
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from hil.certificates import Authority
    from hil.otlp_sink import OtlpSink

WAIT_S = 60.0


async def until(condition: Callable[[], object], what: str = "it") -> None:
    """Poll until `condition()` holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Gateway]:
    """Build a gateway from lines of TOML."""

    def build(
        toml: str = "",
        *,
        kind: type[Gateway] = Gateway,
        clock: Any = None,
        report_interval: str = "5m",
        series_idle: str = "7d",
        commit_interval: str = "20ms",
    ) -> Gateway:
        head = f'[gateway]\nid = "here"\nstate_dir = {json.dumps(str(tmp_path / "state"))}\n'
        head += f'report_interval = "{report_interval}"\nseries_idle = "{series_idle}"\n'
        head += f'[store]\ncommit_interval = "{commit_interval}"\n'
        config = parse_config(head + toml)
        return kind(config, load_profile("x86-64"), clock=clock or SystemClock(), seed=1)

    return build


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Gateway]:
    """Run it until the end of the block, and see that it ends well."""
    task = asyncio.create_task(gateway.run())
    ready = asyncio.create_task(gateway.ready.wait())
    await asyncio.wait([task, ready], timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if task.done():
            await task
        yield gateway
    finally:
        gateway.stop()
        async with asyncio.timeout(WAIT_S):
            await task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a whole second."""
    monkeypatch.setattr(app, "HOUSEKEEPING_S", 0.02)
    monkeypatch.setattr(supervision, "RESTART_WAIT_S", 0.02)
    monkeypatch.setattr(app, "OPEN_S_MAX", WAIT_S)


def server(port: int, name: str = "direct") -> str:
    return f'[[sources]]\ntype = "mqtt_server"\nname = "{name}"\nlisten = "127.0.0.1:{port}"\n'


def uplink(url: str) -> str:
    return f'[[uplinks]]\ntype = "otlp"\nname = "cloud"\nendpoint = "{url}"\nbatch_interval = "50ms"\n'


async def test_a_network_that_comes_up_is_told_to_who_waits(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel says ends an uplink's wait of an hour and a subscriber's; a server waits for nobody."""
    said: list[Callable[[], None]] = []

    class Watch:
        def __init__(self, on_up: Callable[[], None]) -> None:
            said.append(on_up)

        def open(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(app, "NetworkWatch", Watch)
    port = free_port()
    hour = 'retry = { initial = "1h", max = "1h", unreachable_max = "1h" }\n'
    broker = f'[[sources]]\ntype = "mqtt"\nname = "plant"\nurl = "mqtt://127.0.0.1:{free_port()}"\ntopics = ["#"]\n'
    broker += 'reconnect_min = "10m"\nreconnect_max = "10m"\n'
    toml = server(port) + broker + uplink(f"http://127.0.0.1:{free_port()}") + hour
    async with running(make(toml)) as gateway:
        with Publisher(port=port) as publisher:
            await until(lambda: publisher.acknowledged)
            await asyncio.to_thread(publisher.stop)
        tried = [part for part in (*gateway._uplinks, *gateway._sources) if isinstance(part, NetworkUser)]
        assert [part.name for part in tried] == ["cloud", "plant"]
        await until(lambda: gateway._uplinks[0].status()["attempt"] == 1)
        said[0]()
        await until(lambda: gateway._uplinks[0].status()["attempt"] == 2)


async def test_from_a_device_to_the_collector(make: Callable[..., Gateway], otlp_sink: OtlpSink) -> None:
    """What is acknowledged is accepted, what is accepted is delivered, and the status says so."""
    port = free_port()
    async with running(make(server(port) + uplink(otlp_sink.url))) as gateway:
        publisher = Publisher(port=port)
        with publisher:
            await until(lambda: len(publisher.acknowledged) > 200)
            await asyncio.to_thread(publisher.stop)
        await until(lambda: gateway.status()["uplinks"]["cloud"]["held"] == 0)  # type: ignore[index]
        status: Any = gateway.status()
        cloud = status["uplinks"]["cloud"]
        assert status["accepted"] == cloud["delivered"] >= len(publisher.acknowledged)
        assert (status["gateway"], status["hw_profile"], status["healthy"]) == ("here", "x86-64", True)
        assert status["sources"]["direct"]["state"] == "listening"
        assert json.dumps(status)
        assert gateway.is_ready()
    assert publisher.acknowledged <= {int(reading.value) for reading in otlp_sink.readings()}
    assert not gateway.is_ready()


# What scripts read of `tidegate status --json`: keys may come, and none may go or have another name.
STATUS_KEYS = {
    "": "version gateway hw_profile uptime_s healthy restarts config_refused accepted uplinks store clock events memory "
    "flash detectors sources",
    "uplinks.cloud": "delivered held held_by_class ledger left_out maybe_twice leased losses type endpoint state reason retry_in_s "
    "last_error last_success_unix_s readings_sent readings_rejected rtt_ms attempt held_back put_off requests bytes_sent "
    "in_hand_taken compression batch_readings last_success_age_s backlog_eta_s backlog_change_per_s",
    "store": "used_bytes max_bytes pending_bytes quarantined refused commits trouble series max_series series_bytes "
    "max_series_bytes series_refused series_forgotten series_lost read_only state_dir when_full",
    "clock": "quality steps boot",
    "memory": "rss_bytes max_bytes bounds_bytes advice",
    "flash": "written_bytes bytes_per_day bytes_per_day_max bytes_per_reading commit_interval_s early_commit_gap_s "
    "is_stretched advice",
    "detectors.zscore": "series readings findings findings_over_limit series_over_limit not_finite",
    "sources.direct": "state address tls clients connections sessions received acknowledged in_flight_bytes refused "
    "refused_last last_error",
    "sources.plant": "state url client_id protocol session_present connects received acknowledged delivered_again "
    "unacknowledged window advice bytes_pending messages_held held_back topics refused refused_last last_error",
    "sources.line1": "state since_s port device received acknowledged on_disk malformed repeated put_off answers_dropped "
    "rejected bytes pending_bytes opened unplugged devices line_errors advice last_error",
}


async def test_the_status_has_what_scripts_read(make: Callable[..., Gateway]) -> None:
    """Every key under its name, whatever is configured."""
    toml = server(free_port()) + uplink("http://127.0.0.1:1")
    toml += '[[sources]]\ntype = "mqtt"\nname = "plant"\nurl = "mqtt://127.0.0.1:1"\ntopics = ["a"]\n'
    toml += '[[sources]]\ntype = "serial"\nname = "line1"\nport = "/nowhere"\n[[detectors]]\ntype = "zscore"\n'
    async with running(make(toml)) as gateway:
        status: Any = json.loads(json.dumps(gateway.status()))
    for path, keys in STATUS_KEYS.items():
        part = status
        for name in path.split(".") if path else ():
            part = part[name]
        assert set(keys.split()) - set(part) == set(), path


async def test_the_status_says_how_it_is_and_not_how_it_should_be(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was configured, what was refused, and that the loop has stood still."""
    gateway = make('when_full = "refuse"\n')
    gateway.profile = msgspec.structs.replace(gateway.profile, name="mine")
    async with running(gateway):
        # A loop of a busy machine may have been late just now.
        monkeypatch.setattr(gateway, "_heartbeat_ns", gateway._clock.monotonic_ns())
        status: Any = gateway.status()
        assert (status["hw_profile"], status["store"]["when_full"]) == ("mine", "refuse")
        assert (status["healthy"], status["config_refused"]) == (True, "")
        gateway.config_refused = "sources: there are none"
        monkeypatch.setattr(gateway, "_heartbeat_ns", gateway._heartbeat_ns - 3600 * NS_PER_S)
        assert not gateway.is_alive()
        status = gateway.status()
        assert (status["healthy"], status["config_refused"]) == (False, "sources: there are none")


async def test_series_are_bounded_by_the_board_and_shared_between_sources(make: Callable[..., Gateway]) -> None:
    """In number by the profile; in bytes by an eighth of the shelf, where that is less; each source has its part."""
    async with running(make(server(free_port()) + server(free_port(), "other"))) as gateway:
        store: Any = gateway.status()["store"]
        assert (store["max_series"], store["max_series_bytes"]) == (200_000, 64 << 20)
        assert gateway._store is not None
        assert [*gateway._store._registry._owners] == ["direct", "other"]


async def test_the_backlog_has_the_share_that_its_uplink_says(make: Callable[..., Gateway]) -> None:
    """Or the one of the store, for those who say nothing."""
    toml = "backlog_share = 0.6\n" + server(free_port()) + uplink("http://127.0.0.1:9") + "backlog_share = 0.1\n"
    toml += uplink("http://127.0.0.1:9").replace("cloud", "archive")
    async with running(make(toml)) as gateway:
        assert gateway._store is not None
        shares = {name: desk.scheduler.backlog_share for name, desk in gateway._store._desks.items()}
        assert shares == {"cloud": 0.1, "archive": 0.6}


async def test_ready_means_that_the_door_is_open(make: Callable[..., Gateway]) -> None:
    """Who is told "ready" may connect at once."""
    port = free_port()
    async with running(make(server(port))):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(connect_bytes(b"early"))
        assert (await reader.readexactly(4))[0] == 0x20
        writer.close()
        await writer.wait_closed()


async def test_the_gateways_own_numbers_arrive_at_the_collector(
    make: Callable[..., Gateway], otlp_sink: OtlpSink
) -> None:
    """As metrics of the gateway itself, beside what the devices sent."""
    port = free_port()
    async with running(make(server(port) + uplink(otlp_sink.url), report_interval="50ms")) as gateway:
        publisher = Publisher(port=port)
        with publisher:
            await until(lambda: len(publisher.acknowledged) > 20)
            await asyncio.to_thread(publisher.stop)
        await until(lambda: "tidegate.delivered.readings" in {reading.metric for reading in otlp_sink.readings()})
        await until(lambda: gateway.status()["uplinks"]["cloud"]["held"] == 0)  # type: ignore[index]


async def test_a_backlog_is_watched_while_it_drains(
    make: Callable[..., Gateway], otlp_sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is reckoned from what is held and what has been taken of it; for people the shelf is named, too."""
    seen: list[tuple[int, int, bool]] = []

    def look(_: object, _now_s: float, held: int, *, came: int, is_moving: bool) -> None:
        seen.append((held, came, is_moving))

    monkeypatch.setattr(Draining, "look", look)
    monkeypatch.setattr("gateway.app.LOOK_S", 0.0)
    monkeypatch.setattr(Draining, "outlook", lambda _: Outlook(-5.0, 12.5))
    port = free_port()
    async with running(make(server(port) + uplink(otlp_sink.url))) as gateway:
        with Publisher(port=port) as publisher:
            await until(lambda: len(publisher.acknowledged) > 20)
            await asyncio.to_thread(publisher.stop)
        await until(lambda: gateway.status()["uplinks"]["cloud"]["held"] == 0)  # type: ignore[index]
        status: Any = gateway.status()
        await until(lambda: seen[-1][::2] == (0, True))
    assert seen[-1][1] >= 20
    cloud = status["uplinks"]["cloud"]
    assert (cloud["backlog_eta_s"], cloud["backlog_change_per_s"], cloud["in_hand_taken"]) == (12.5, -5.0, 0)
    assert 0 <= cloud["last_success_age_s"] < 60
    assert status["store"]["state_dir"].endswith("/state")
    assert status["store"]["when_full"] == "dilute"


NASTY = "\x1b[2J\u202e\n2026-01-01 00:00:00 ERROR tidegate: fake "


async def test_nothing_that_a_device_sends_leaves_its_line(make: Callable[..., Gateway], otlp_sink: OtlpSink) -> None:
    """Names of 10 kB with escapes and line ends, as client id, user, topic, keys and texts: log, status, findings."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    port = free_port()
    doors = server(port) + 'users = [{ name = "d", password = { env = "PATH" }, topics = ["ok/#"] }]\n'
    doors += '[[detectors]]\ntype = "zscore"\nwarmup = 20\n'
    long = (NASTY + "n" * 10_000).encode()
    try:
        async with running(make(doors + uplink(otlp_sink.url), report_interval="50ms")) as gateway:
            source: Any = lambda: gateway.status()["sources"]["direct"]  # type: ignore[index]  # noqa: E731
            for client, user in ((long, b"d"), (b"c", long), (b"c", b"d")):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                password = os.environ["PATH"].encode() if user == b"d" else b"wrong"
                writer.write(connect_bytes(client.replace(b"\n", b"\x85"), username=user, password=password))
                writer.write(publish_bytes(("not ok/" + NASTY).encode(), b"1"))
                for k in range(60):
                    value = b'{"%s": %d}' % (b"\\u001b[2J\\n" + b"n" * 200, 1000 * (k == 50) + k % 3)
                    writer.write(publish_bytes(("ok/" + NASTY).encode(), value))
                writer.write(publish_bytes(b"ok/x", b'{"%s": 1}' % (b"\\u001b" + b"n" * 10_000)))
                writer.write(publish_bytes(b"ok/y", long, qos=1, packet_id=1))
                await reader.read(100)
                writer.close()
            await until(lambda: gateway.status()["store"]["quarantined"])  # type: ignore[index]
            await until(lambda: source()["refused"] and source()["last_error"])
            await until(lambda: any("expected about" in line.body for line in otlp_sink.logs()))
            status = gateway.status()
    finally:
        logging.getLogger().removeHandler(handler)
    said_upstream = [text for line in otlp_sink.logs() for text in (line.body, *dict(line.attributes).values())]
    for text in (*texts_of(status), *(text for text in said_upstream if isinstance(text, str))):
        assert text.isprintable()
        assert len(text) <= 1000
    for line in said.getvalue().splitlines():
        assert line.isprintable()
        assert re.match(r"20\d\d-|  ", line)
        assert "ERROR tidegate: fake" not in line[:60]


def texts_of(value: object) -> Iterator[str]:
    """Return every text in a status, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (*texts_of(key), *texts_of(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


async def test_a_message_is_traced_in_a_whole_gateway(make: Callable[..., Gateway], otlp_sink: OtlpSink) -> None:
    """Asked over the window, from the PUBLISH to the collector; and afterwards nothing is left of it."""
    port, window = free_port(), free_port()
    control = f'[control]\nlisten = "127.0.0.1:{window}"\n'
    async with running(make(server(port) + uplink(otlp_sink.url) + control)) as gateway:
        asked = {"topic": "plant/+/count", "count": 2, "seconds": 60}
        url = f"http://127.0.0.1:{window}"

        def trace() -> list[str]:
            return list(follow(url, token="", asked=asked, timeout_s=60, sleep=lambda _: time.sleep(0.02)))

        tracing = asyncio.create_task(asyncio.to_thread(trace))
        await until(lambda: gateway._pipeline.tracer is not None)  # type: ignore[union-attr]
        with Publisher(port=port) as publisher:
            await until(lambda: len(publisher.acknowledged) > 10)
            await asyncio.to_thread(publisher.stop)
        blocks = await tracing
        assert len(blocks) == 2
        assert "  taken by mappings[0], match = '#'" in blocks[0]
        assert re.search(r"\n  reading  n = \d+ \(int\) at 20", blocks[0])
        assert re.search(r"\n  on disk  [\d.]+ s after it arrived, in segment \d+ \(normal\)\n", blocks[0])
        assert re.search(r"\n  cloud    delivered [\d.]+ s after it arrived$", blocks[0])


class FakePart:
    """A part that notes when it ends, and can be made to fail."""

    def __init__(self, name: str, ends: list[str], failures: list[Exception | None] | None = None) -> None:
        self.name = name
        self.runs = 0
        self._ends = ends
        self._failures = failures or []

    async def run(self) -> None:
        self.runs += 1
        if self._failures:
            failure = self._failures.pop(0)
            if failure is None:
                return
            raise failure
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.02)
            self._ends.append(self.name)

    def status(self) -> dict[str, object]:
        return {"state": "fake"}


def faked(*, ends: list[str], failures: list[Exception | None] | None = None) -> type[Gateway]:
    """Return a gateway whose parts are fakes; the first source has the failures."""

    class Faked(Gateway):
        def _build_source(self, settings: Any) -> Any:
            return FakePart(settings.name, ends, failures)

        def _build_uplink(self, settings: Any, store: Any) -> Any:
            return FakePart(settings.name, ends)

        def _build_control(self) -> Any:
            window: Any = FakePart("control", ends)
            window.started = asyncio.Event()
            window.started.set()
            return window

        async def _save_detectors(self) -> None:
            ends.append("detectors")
            assert self._store is not None
            assert self._store.is_moving()

    return Faked


async def test_whatever_a_part_says_of_itself_fits_one_line(make: Callable[..., Gateway]) -> None:
    """A part that forgot to look what a device wrote into its sentences does not become everybody's trouble."""

    class Talking(FakePart):
        def status(self) -> dict[str, object]:
            return {"state": "fake", "last_error": NASTY + "n" * 10_000, "devices": [NASTY], "rejected": {NASTY: 1}}

    class Faked(Gateway):
        def _build_source(self, settings: Any) -> Any:
            return Talking(settings.name, [])

    async with running(make(server(1), kind=Faked)) as gateway:
        found = list(texts_of(gateway.status()))
    assert sum("fake " in text for text in found) == 3
    assert all(text.isprintable() and len(text) <= 500 for text in found)


async def test_doors_close_before_roads_and_the_shelf_comes_last(make: Callable[..., Gateway]) -> None:
    """Doors may still wait for their commit, roads for their answer: each needs what ends after it."""
    ends: list[str] = []
    toml = server(1) + server(2, "other") + uplink("http://127.0.0.1:1")
    async with running(make(toml, kind=faked(ends=ends))) as gateway:
        pass
    assert set(ends[:2]) == {"direct", "other"}
    assert ends[2:] == ["cloud", "control", "detectors"]
    with pytest.raises((sqlite3.Error, ValueError)):
        await gateway._store._connection.execute("SELECT 1")  # type: ignore[union-attr]


async def test_a_part_that_fails_is_started_again(
    make: Callable[..., Gateway], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is logged with its traceback; a part that just ends is started again too; both are counted."""
    failures = [ZeroDivisionError("our mistake"), None]
    async with running(make(server(1), kind=faked(ends=[], failures=failures))) as gateway:
        await until(lambda: gateway._sources[0].runs == 3)  # type: ignore[attr-defined]
        assert gateway.status()["restarts"] == {"source direct": 2}
        assert gateway.telemetry.value("tidegate_part_restarts", part="source direct") == 2
    assert "Traceback" in caplog.text
    assert "source direct ended by itself" in caplog.text


async def test_a_port_in_use_is_one_sentence_and_is_tried_again(
    make: Callable[..., Gateway], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback; as soon as the port is free the door opens, and nothing else has suffered."""
    monkeypatch.setattr(app, "OPEN_S_MAX", 0.2)
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = make(server(port))
        task = asyncio.create_task(gateway.run())
        await until(lambda: "Address already in use" in caplog.text)
        await until(gateway.ready.is_set)
        assert not gateway.is_ready()
    await until(lambda: gateway.status()["sources"]["direct"]["state"] == "listening")  # type: ignore[index]
    gateway.stop()
    await task
    said = next(record.getMessage() for record in caplog.records if "in use" in record.getMessage())
    assert said.startswith(
        f"source direct: cannot listen on 127.0.0.1:{port}: Address already in use; another program has"
    )
    assert "; trying again in " in said
    assert "Traceback" not in caplog.text


async def test_who_is_told_ready_finds_an_open_window(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its address takes."""
    real = web.listen

    async def slowly(address: str) -> list[socket.socket]:
        await asyncio.sleep(0.2)
        return await real(address)

    monkeypatch.setattr(web, "listen", slowly)
    port = free_port()
    gateway = make(f'[control]\nlisten = "127.0.0.1:{port}"\n')
    task = asyncio.create_task(gateway.run())
    await gateway.ready.wait()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    gateway.stop()
    await task


async def test_a_control_port_in_use_is_one_sentence_too(
    make: Callable[..., Gateway], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window is not worth a traceback, nor the gateway, which says soon that it runs."""
    monkeypatch.setattr(app, "OPEN_S_MAX", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        toml = f'[control]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n'
        async with running(make(toml)):
            await until(lambda: "control: cannot listen on 127.0.0.1:" in caplog.text)
    assert "Address already in use; another program has this port" in caplog.text
    assert "Traceback" not in caplog.text


async def test_what_no_check_could_see_is_a_start_error(make: Callable[..., Gateway], tmp_path: Path) -> None:
    """A certificate that is none, found while the parts are built: which part, and why. The shelf is closed again."""
    (tmp_path / "cert.pem").write_text("not a certificate")
    tls = f'tls = {{ cert_file = "{tmp_path}/cert.pem", key_file = "{tmp_path}/cert.pem" }}\n'
    gateway = make(server(free_port()) + tls)
    with pytest.raises(StartError, match="source direct: "):
        await gateway.run()
    async with running(make()):
        pass


async def test_a_stop_does_not_wait_for_a_rare_commit(make: Callable[..., Gateway]) -> None:
    """Nor gives up what waits for one, which a serial line would not send again: all that was read is on the disk."""
    port = free_port()
    async with running(make(server(port), commit_interval="1m")) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(connect_bytes(b"d") + publish_bytes(b"t", b'{"n":1}', qos=1, packet_id=7))
        await until(lambda: gateway.status()["sources"]["direct"]["received"] == 1)  # type: ignore[index]
    assert b"\x40\x02\x00\x07" in await reader.read()
    writer.close()


async def test_a_stop_before_the_start_is_over_is_kept(make: Callable[..., Gateway]) -> None:
    """SIGTERM while the shelf is opened: no door opens any more."""
    ends: list[str] = []
    gateway = make(server(1), kind=faked(ends=ends))
    task = asyncio.create_task(gateway.run())
    await asyncio.sleep(0)
    gateway.stop()
    async with asyncio.timeout(WAIT_S):
        await task
    assert not gateway.ready.is_set()
    assert ends == []


async def test_a_second_gateway_on_the_same_shelf_is_refused(make: Callable[..., Gateway]) -> None:
    """With a sentence that says what to do."""
    async with running(make()):
        with pytest.raises(StoreError, match=r"another gateway .* uses .*; stop it or give this one"):
            await make().run()


async def test_a_shelf_that_stands_still_ends_the_gateway(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a new start can salvage: with the reason, and with everything closed in order."""
    monkeypatch.setattr(app, "STILL_S_MAX", 0.05)
    gateway = make()
    task = asyncio.create_task(gateway.run())
    async with asyncio.timeout(WAIT_S):
        await gateway.ready.wait()
    monkeypatch.setattr(gateway._store, "is_moving", lambda: False)
    assert not gateway.is_healthy()
    with pytest.raises(StillError, match="the disk does not answer; ending"):
        await task


async def test_an_uplink_gets_only_what_its_mapping_makes(make: Callable[..., Gateway], otlp_sink: OtlpSink) -> None:
    """With what was found in it; another one that is down holds all of it, and what it says of itself comes too."""
    mappings = "".join(
        f'[[mappings]]\nname = "{name}"\nmatch = "{name}/{{device}}"\nfields = "*"\nclass = "{word}"\n'
        f'resource = {{ "device.id" = "{name}-{{device}}" }}\n'
        for name, word in (("boiler", "critical"), ("wave", "bulk"))
    )
    detector = '[[detectors]]\ntype = "zscore"\nmatch = { metric = "t" }\nwarmup = 20\n'
    vendor = uplink(otlp_sink.url).replace("cloud", "vendor") + 'mappings = ["boiler"]\n'
    toml = server(free_port()) + mappings + detector + uplink(f"http://127.0.0.1:{free_port()}") + vendor
    async with running(make(toml, report_interval="100ms")) as gateway:
        assert gateway._pipeline is not None
        for k in range(61):
            payload = b'{"t": %d.%d}' % (20 if k < 60 else 95, k % 10)
            topics = [b"boiler/1", b"wave/2"]
            await gateway._pipeline.accept(Arrivals("direct", topics, [payload] * 2, gateway._clock.monotonic_ns()))
        await until(lambda: gateway.status()["uplinks"]["vendor"]["held"] == 0)  # type: ignore[index]
        await until(lambda: any(one.metric.startswith("tidegate.") for one in otlp_sink.readings()))
        status: Any = gateway.status()
        for account in status["uplinks"].values():
            known = account["delivered"] + account["held"] + sum(account["ledger"].values())
            assert status["accepted"] == known + account["left_out"]
        assert status["uplinks"]["vendor"]["left_out"] == 62
        assert status["uplinks"]["vendor"]["takes"]["mappings"] == ["boiler"]
        assert status["uplinks"]["cloud"]["left_out"] == status["uplinks"]["cloud"]["delivered"] == 0
    of_devices = [one for one in otlp_sink.readings() if one.metric == "t"]
    assert len(of_devices) == 61
    assert {one.device for one in of_devices} == {"boiler-1"}
    (finding,) = [line for line in otlp_sink.logs() if "tidegate.finding.metric" in dict(line.attributes)]
    assert dict(finding.resource)["device.id"] == "boiler-1"


async def test_an_uplink_that_is_configured_no_more_is_in_the_status(make: Callable[..., Gateway]) -> None:
    """With its account, its state and the time that is left; the sums are right."""
    async with running(make(uplink("http://127.0.0.1:1"), kind=faked(ends=[]))) as gateway:
        await put(gateway, 5)
    async with running(make()) as gateway:
        status: Any = gateway.status()
        cloud = status["uplinks"]["cloud"]
        assert (cloud["state"], cloud["removed"], cloud["held"]) == ("removed", True, 5)
        assert cloud["held_by_class"] == {"critical": 0, "normal": 5, "bulk": 0}
        assert cloud["let_go_in_s"] > 6 * 86400
        assert status["accepted"] == cloud["delivered"] + cloud["held"] + sum(cloud["ledger"].values())
        assert any("cloud is configured no more: the 5 readings" in event for event in status["events"])
        assert json.dumps(status)


async def put(gateway: Gateway, count: int) -> None:
    """Append readings past the doors."""
    store = gateway._store
    assert store is not None
    number = store.resolve(Series((), "m"))
    assert number is not None
    await store.append([(Priority.NORMAL, Batch.of(number, 1, np.arange(count)))])


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody open a shelf to write."""

    async def refuse(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"
        raise error

    monkeypatch.setattr("gateway.store.starting.open_writer", refuse)
    monkeypatch.setattr("gateway.store.frozen.open_writer", refuse)


async def test_a_shelf_that_can_only_be_read_is_run_with_closed_doors(
    make: Callable[..., Gateway], request: pytest.FixtureRequest
) -> None:
    """It lives, which the watchdog asks, and is neither healthy nor ready, which monitoring asks; both say why."""
    async with running(make()) as gateway:
        await put(gateway, 5)
    request.getfixturevalue("read_only")
    async with running(make()) as gateway:
        await until(gateway.is_alive)
        assert not gateway.is_healthy()
        assert not gateway.is_ready()
        assert gateway._why_not().startswith("nothing can be written: ")
        assert not gateway.wants_anew


async def test_a_door_whose_port_another_program_has_is_not_open(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ready until it is: the others go on meanwhile, and the data path moves."""
    monkeypatch.setattr(app, "OPEN_S_MAX", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with running(make(server(port))) as gateway:
            await until(lambda: gateway.status()["sources"]["direct"]["state"] == "failed")  # type: ignore[index]
            assert not gateway.is_ready()
            assert gateway.is_healthy()
            other.close()
            await until(gateway.is_ready)


async def test_a_shelf_that_takes_nothing_is_not_ready(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told on the page that load balancers ask; whether the data path moves is another question."""
    async with running(make()) as gateway:
        assert gateway.is_ready()
        monkeypatch.setattr(Store, "is_taking", False)
        assert not gateway.is_ready()
        assert gateway.is_healthy()


async def test_a_shelf_that_can_be_written_again_is_opened_anew(
    make: Callable[..., Gateway], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway ends by itself and says that it wants to."""
    monkeypatch.setattr(app, "THAW_LOOK_S", 0.05)
    async with running(make()) as gateway:
        await put(gateway, 5)
    request.getfixturevalue("read_only")
    gateway = make()
    async with asyncio.timeout(WAIT_S):
        await gateway.run()
    assert gateway.wants_anew


async def test_a_new_shelf_beside_one_with_something_in_it(
    make: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restart nobody knows what state_dir was before: it is looked for where it usually is."""
    async with running(make()) as gateway:
        await put(gateway, 5)
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/none:{tmp_path}/state")
    other = parse_config(f'[gateway]\nstate_dir = "{tmp_path}/other"\n')
    for _ in range(2):
        async with running(Gateway(other, load_profile("x86-64"), clock=SystemClock())):
            pass
    assert caplog.text.count(f"5 readings for nobody are still held in {tmp_path}/state") == 1


async def test_what_the_detectors_have_learnt_outlives_a_restart(make: Callable[..., Gateway], tmp_path: Path) -> None:
    """Saved at the end, read at the start."""
    port = free_port()
    toml = server(port) + '[[detectors]]\ntype = "zscore"\n'
    async with running(make(toml)) as gateway:
        with Publisher(port=port) as publisher:
            await until(lambda: len(publisher.acknowledged) > 20)
            await asyncio.to_thread(publisher.stop)
    assert (tmp_path / "state" / app.DETECTOR_STATE_FILE).stat().st_size > 0
    async with running(make(toml)) as gateway:
        assert gateway.status()["detectors"]["zscore"]["series"] == 1  # type: ignore[index]


@pytest.mark.parametrize("ruin", ["garbage", "folder"])
async def test_a_damaged_detector_state_is_only_a_warning(
    make: Callable[..., Gateway], tmp_path: Path, caplog: pytest.LogCaptureFixture, ruin: str
) -> None:
    """The detectors learn again; at the end, what cannot be saved is a warning too."""
    path = tmp_path / "state" / app.DETECTOR_STATE_FILE
    path.parent.mkdir()
    if ruin == "garbage":
        path.write_bytes(b"garbage")
    else:
        path.mkdir()
    async with running(make('[[detectors]]\ntype = "zscore"\n')):
        pass
    assert "the detectors learn anew" in caplog.text


async def test_detectors_are_saved_now_and_then(
    make: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut costs an hour of learning, not all of it."""
    monkeypatch.setattr(app, "DETECTOR_SAVE_S", 0.05)
    async with running(make('[[detectors]]\ntype = "zscore"\n')):
        await until((tmp_path / "state" / app.DETECTOR_STATE_FILE).exists)


async def test_a_box_without_a_clock_learns_the_time_from_upstream(make: Callable[..., Gateway]) -> None:
    """Coarse, and marked as never confirmed; a box that has a clock believes its own."""
    clock = FakeClock(wall=5 * NS_PER_S, synced=False)
    async with running(make(clock=clock)) as gateway:
        timeline = gateway._store.timeline  # type: ignore[union-attr]
        assert timeline.quality is Quality.UNKNOWN
        for odd_s in (600, -62_135_596_800, 10_413_792_000, 253_402_300_799):
            gateway._server_time.heard(odd_s, 2.0)
            assert timeline.quality is Quality.UNKNOWN
        gateway._server_time.heard(1_790_000_000, 2.0)
        assert timeline.wall_from(clock.monotonic_ns()) == 1_790_000_001 * NS_PER_S
        assert timeline.quality is Quality.UNSYNCED
        gateway._server_time.heard(1_800_000_000, 0.0)
        assert gateway.status()["clock"]["astray_s"] == -9_999_999
        assert timeline.wall_from(clock.monotonic_ns()) == 1_790_000_001 * NS_PER_S


class SavedClock(SystemClock):
    """It was saved when the box was switched off, two hours ago, and no time server is to be had."""

    def wall_ns(self) -> int:
        return super().wall_ns() - 7200 * NS_PER_S

    def is_synced(self) -> bool:
        return False


@pytest.mark.parametrize("is_secure", [True, False])
async def test_a_clock_that_was_saved_is_overruled_by_receivers_with_certificates(
    make: Callable[..., Gateway], make_otlp_sink: Callable[..., OtlpSink], authority: Authority, is_secure: bool
) -> None:
    """From the third answer on readings arrive with the right time; where anybody may be the receiver they do not."""
    port = free_port()
    sink = make_otlp_sink(identity=authority.issue() if is_secure else None)
    trust = f'tls = {{ ca_file = "{authority.certificate}" }}\n' if is_secure else ""
    async with running(make(server(port) + uplink(sink.url) + trust, clock=SavedClock())) as gateway:
        with Publisher(port=port, pause_s=0.02) as publisher:
            await until(lambda: gateway.status()["clock"]["astray_s"])
            if is_secure:
                await until(lambda: gateway.status()["clock"]["is_doubted"])
            at = publisher.sent
            await until(lambda: any(reading.value > at + 500 for reading in sink.readings()))
        off_s = max(sink.readings(), key=lambda reading: reading.value).time_ns / NS_PER_S - time.time()
        clock = gateway.status()["clock"]
    assert off_s == pytest.approx(0 if is_secure else -7200, abs=WAIT_S)
    assert (clock["is_doubted"], clock["quality"]) == (is_secure, "unsynced")
    assert clock["astray_s"] == pytest.approx(-7200, abs=3)


@pytest.mark.parametrize("hours", [2, 200])
async def test_a_series_is_forgotten_when_it_is_as_idle_as_is_said(make: Callable[..., Gateway], hours: int) -> None:
    """Not a second before: nothing is held of it, and there is room for many more."""
    clock = FakeClock()
    async with running(make(clock=clock, report_interval="0s", series_idle=f"{hours}h")) as gateway:
        store: Any = gateway._store
        assert store.resolve(Series((), "m"))
        await store.append([])
        for seconds, forgotten in ((hours * 3600 - 1, 0), (1, 1)):
            clock.advance(seconds * NS_PER_S)
            await store.tend()
            await store.append([])
            assert store.status()["store"]["series_forgotten"] == forgotten


async def test_systemd_hears_ready_and_the_watchdog(
    make: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience while the shelf opens, READY when the doors are open, then a beat each turn while the data path moves.

    Not STOPPING: a gateway that ends may be one that is reloaded.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        turns: list[None] = []
        async with running(make()) as gateway:
            store: Any = gateway._store
            look_at_clock = store.look_at_clock
            monkeypatch.setattr(store, "look_at_clock", lambda: turns.append(look_at_clock()))
            await until(lambda: len(turns) >= 3)
        listener.setblocking(False)
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(listener.recv(1000).decode())
    assert heard[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert any(message.startswith("READY=1") for message in heard)
    assert heard[-1] == "WATCHDOG=1"
    assert heard.count("WATCHDOG=1") >= len(turns)
    assert not any("STOPPING" in message for message in heard)


async def test_the_watchdog_hears_nothing_while_the_shelf_stands_still(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the loop turns: systemd starts anew what nobody else can. It hears again of one that moves again."""
    heard: list[str] = []
    turns: list[None] = []
    monkeypatch.setattr(app, "notify", heard.append)
    async with running(make()) as gateway:
        store: Any = gateway._store
        look_at_clock = store.look_at_clock
        monkeypatch.setattr(store, "look_at_clock", lambda: turns.append(look_at_clock()))
        await until(lambda: "WATCHDOG=1" in heard)
        for is_moving in (False, True):
            monkeypatch.setattr(store, "is_moving", lambda is_moving=is_moving: is_moving)
            before = len(turns)
            heard.clear()
            await until(lambda before=before: len(turns) >= before + 3)
            assert ("WATCHDOG=1" in heard) == is_moving


async def test_every_kind_of_source_is_built(make: Callable[..., Gateway], tmp_path: Path) -> None:
    """MQTT, MQTT server, serial and OTLP, each with its own status, though nobody is there for them."""
    toml = server(free_port())
    toml += '[[sources]]\ntype = "mqtt"\nname = "plant"\nurl = "mqtt://127.0.0.1:1"\ntopics = ["#"]\n'
    toml += f'[[sources]]\ntype = "serial"\nname = "line1"\nport = "{tmp_path}/none"\n'
    toml += f'[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:{free_port()}"\n'
    async with running(make(toml)) as gateway:
        sources: Any = gateway.status()["sources"]
        assert set(sources) == {"direct", "plant", "line1", "local"}
        assert all(source["state"] for source in sources.values())
        # Whatever is a number there is on /metrics too, under a name that says what it is.
        numbers = {key for source in sources.values() for key, value in source.items() if type(value) in {int, float}}
        assert numbers == SOURCE_NUMBERS.keys() | SOURCE_NUMBERS_COUNTED


async def test_a_line_with_the_wrong_baud_rate_does_not_fill_the_quarantine(
    make: Callable[..., Gateway], make_serial_line: Callable[..., Any]
) -> None:
    """Every line of noise is in the ledger; a few are set aside, and the card is spared the rest."""
    line = make_serial_line()
    toml = f'[[sources]]\ntype = "serial"\nname = "line1"\nport = "{line.path}"\nframing = "lines"\npayload = "json"\n'
    async with running(make(toml + uplink("http://127.0.0.1:9"))) as gateway:
        # What came before the port was open is thrown away, and rightly so.
        await until(lambda: gateway.status()["sources"]["line1"]["state"] == "reading")  # type: ignore[index]
        for number in range(40):
            line.write(b"".join(b"\xfe%d\x80\x00\n" % (25 * number + k) for k in range(25)))
            await asyncio.sleep(0.005)
        status: Any = gateway.status()
        await until(lambda: sum(gateway.status()["uplinks"]["cloud"]["ledger"].values()) == 1000)  # type: ignore[index]
        status = gateway.status()
        assert 0 < status["store"]["quarantined"] <= 20
        assert "115200 baud" in status["sources"]["line1"]["advice"]


async def test_what_is_learnt_is_not_saved_where_no_thread_begins_any_more(
    make: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As in a program whose interpreter ends: that is said, and the store is closed all the same."""

    async def refuse(work: Callable[..., object], *arguments: object) -> object:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    async with running(make('[[detectors]]\nmatch = { metric = "temp" }\ntype = "zscore"\n')):
        monkeypatch.setattr(app.asyncio, "to_thread", refuse)
    assert "begins no threads any more" in caplog.text
    assert not (tmp_path / "state" / "detectors.state").exists()


class Guest:
    """A program with a gateway inside."""

    name = "guest"

    def __init__(self) -> None:
        self.was_cancelled = False

    def door(self, pipeline: object, store: object) -> Guest:
        return self

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.was_cancelled = True

    def status(self) -> dict[str, object]:
        return {"state": "open"}


async def test_a_program_has_its_own_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a source as any other; and what another gateway on this box holds is not asked for."""

    def ask(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(app, "look_for_old_shelf", ask)
    config = parse_config(f"[gateway]\nstate_dir = {json.dumps(str(tmp_path / 'state'))}\n")
    guest: Any = Guest()
    gateway = Gateway(config, load_profile("x86-64"), clock=SystemClock(), program=guest)
    async with running(gateway):
        assert gateway.status()["sources"] == {"guest": {"state": "open"}}
        assert gateway.held() == {}
    assert guest.was_cancelled
