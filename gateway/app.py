"""Assembly: build each part, run all in one place, stop in order, feed the watchdog. Must not hold logic of a part.

Order of life: store, then uplinks, then the doors; order of death: doors (each acknowledges what is under way),
then uplinks (each finishes its request), then the store (which commits what is pending).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gateway import __version__
from gateway.codecs.mapping import Mapper, default_mappings
from gateway.core.clock import NS_PER_S, Quality, Sample
from gateway.core.telemetry import Telemetry
from gateway.detect.engine import Engine
from gateway.pipeline import Pipeline
from gateway.store.database import Store
from gateway.uplinks.delivery import Seams, Uplink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from gateway.control.config import Config
    from gateway.control.profiles import HardwareProfile
    from gateway.core.batch import Attributes
    from gateway.core.clock import Clock

log = logging.getLogger("tidegate")

HOUSEKEEPING_S = 1.0
# What the detectors have learnt is worth little flash: an hour of learning is soon learnt again.
DETECTOR_SAVE_S = 3600.0
# A part that fails is started again, later and later, so that a fault in one never spins or ends the rest.
RESTART_WAIT_S = 1.0
RESTART_WAIT_S_MAX = 60.0
STOP_S_MAX = 15.0
DETECTOR_STATE_FILE = "detectors.state"


class Part(Protocol):
    """A source or an uplink."""

    name: str

    async def run(self) -> None:
        """Serve until cancelled."""
        ...

    def status(self) -> dict[str, object]:
        """Say how it is."""
        ...


class Gateway:
    """One gateway from one config. `run` returns after a clean stop."""

    def __init__(self, config: Config, profile: HardwareProfile, *, clock: Clock, seed: int | None = None) -> None:
        self.config = config
        self.profile = profile
        self.telemetry = Telemetry()
        self.ready = asyncio.Event()
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311  jitter, not a secret
        self._stopping = asyncio.Event()
        self._started_ns = clock.monotonic_ns()
        self._heartbeat_ns = self._started_ns
        self._sources: list[Part] = []
        self._uplinks: list[Part] = []
        self._restarts: dict[str, int] = {}
        self._store: Store | None = None
        self._pipeline: Pipeline | None = None

    def stop(self) -> None:
        """Ask for a clean stop; `run` returns when all is on disk."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`."""
        config = self.config
        store = self._store = await Store.open(
            state_dir=Path(config.gateway.state_dir),
            settings=config.store,
            clock=self._clock,
            uplinks=[uplink.name for uplink in config.uplinks],
            max_series=config.gateway.max_series or self.profile.max_series,
            telemetry=self.telemetry,
            commit_interval_s=float(config.store.commit_interval or self.profile.commit_interval),
        )
        try:
            self._pipeline = self._build_pipeline(store)
            self._uplinks = [self._build_uplink(settings, store) for settings in config.uplinks]
            self._sources = [self._build_source(settings) for settings in config.sources]
            await self._serve()
        finally:
            await store.close()
            notify("STOPPING=1")

    async def _serve(self) -> None:
        windows = [asyncio.create_task(self._supervise("housekeeping", self._keep_house), name="housekeeping")]
        control = self._build_control()
        if control is not None:
            windows.append(asyncio.create_task(self._supervise("control", control), name="control"))
        roads = [asyncio.create_task(self._supervise(p.name, p.run), name=f"uplink {p.name}") for p in self._uplinks]
        doors = [asyncio.create_task(self._supervise(p.name, p.run), name=f"source {p.name}") for p in self._sources]
        self.ready.set()
        notify("READY=1")
        log.info("running: %d sources, %d uplinks, state in %s", len(doors), len(roads), self.config.gateway.state_dir)
        try:
            await self._stopping.wait()
        finally:
            log.info("stopping: doors first, then roads, then the shelf")
            for group in (doors, roads, windows):
                await _end(group)
            await self._save_detectors()

    def _build_pipeline(self, store: Store) -> Pipeline:
        config = self.config
        mapper = Mapper(config.mappings or default_mappings(), resolve=store.resolve)
        engine = Engine(config.detectors, series=store.series) if config.detectors else None
        pipeline = Pipeline(mapper=mapper, engine=engine, store=store, clock=self._clock, telemetry=self.telemetry)
        if engine is not None:
            path = Path(config.gateway.state_dir) / DETECTOR_STATE_FILE
            with contextlib.suppress(FileNotFoundError):
                if not engine.restore(path.read_bytes()):
                    log.warning("%s cannot be used (damaged, or of another version): the detectors learn anew", path)
        return pipeline

    def _build_source(self, settings: Any) -> Part:
        # Imported when configured: paho, ssl and pyserial are memory that other boxes should not pay.
        assert self._pipeline is not None
        shared = {"accept": self._pipeline.accept, "clock": self._clock, "telemetry": self.telemetry}
        kind = type(settings).__name__
        source: Part
        if kind == "MqttServerSettings":
            from gateway.sources.mqtt_server import MqttServerSource  # noqa: PLC0415

            source = MqttServerSource(settings, **shared)
        elif kind == "SerialSettings":
            from gateway.sources.serial import SerialSource  # noqa: PLC0415

            source = SerialSource(settings, **shared)
        else:
            from gateway.sources.mqtt import MqttSource  # noqa: PLC0415

            source = MqttSource(settings, gateway_id=self.config.gateway.id, **shared)
        return source

    def _build_uplink(self, settings: Any, store: Store) -> Part:
        return Uplink(
            settings,
            store=store,
            gateway_attributes=self._gateway_attributes(),
            version=__version__,
            clock=self._clock,
            telemetry=self.telemetry,
            random=self._random,
            seams=Seams(on_server_time=self._learn_time),
        )

    def _learn_time(self, server_time_s: int, rtt_s: float) -> None:
        """Take the time of day from an upstream's answer where there is no other clock: coarse, but of this century."""
        assert self._store is not None
        if self._store.timeline.quality is Quality.UNKNOWN:
            monotonic_ns = self._clock.monotonic_ns()
            wall_ns = server_time_s * NS_PER_S + int(rtt_s * NS_PER_S / 2)
            self._store.timeline.add(Sample(monotonic_ns, wall_ns - monotonic_ns, Quality.UNSYNCED))

    def _gateway_attributes(self) -> Attributes:
        own = {"tidegate.gateway.id": self.config.gateway.id, **self.config.gateway.attributes}
        return tuple(sorted(own.items()))

    def _build_control(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        if self.config.control is None:
            return None
        from gateway.control.web import ControlServer  # noqa: PLC0415  microdot only where it is used

        server = ControlServer(
            self.config.control,
            status=self.status,
            telemetry=self.telemetry,
            healthy=self.is_healthy,
            ready=self.is_ready,
        )
        return server.run

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part for as long as the gateway lives; a crash is logged, counted and started again."""
        wait_s = RESTART_WAIT_S
        while True:
            try:
                await run()
            except Exception:
                log.exception("%s failed; starting it again in %.0f s", name, wait_s)
                self._restarts[name] = self._restarts.get(name, 0) + 1
                self.telemetry.count("tidegate_part_restarts", help="Parts that failed and were restarted.", part=name)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RESTART_WAIT_S_MAX)

    async def _keep_house(self) -> None:
        """Beat the watchdog while the data path moves; save the detectors' state now and then."""
        saved_ns = self._clock.monotonic_ns()
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            now_ns = self._clock.monotonic_ns()
            self._heartbeat_ns = now_ns
            if self.is_healthy():
                notify("WATCHDOG=1")
            if now_ns - saved_ns >= DETECTOR_SAVE_S * NS_PER_S:
                saved_ns = now_ns
                await self._save_detectors()

    async def _save_detectors(self) -> None:
        if self._pipeline is None or self._pipeline.engine is None:
            return
        path = Path(self.config.gateway.state_dir) / DETECTOR_STATE_FILE
        try:
            await asyncio.to_thread(replace_file, path, self._pipeline.engine.save())
        except OSError as error:
            # The detectors learn again; nothing that was accepted depends on this file.
            log.warning("detector state not saved in %s: %s", path, error.strerror)

    def is_healthy(self) -> bool:
        """Whether the data path moves: the loop turns and the writer is not stuck. Not whether anyone listens."""
        beat_s = (self._clock.monotonic_ns() - self._heartbeat_ns) / NS_PER_S
        return beat_s < 10 * HOUSEKEEPING_S and (self._store is None or self._store.is_moving())

    def is_ready(self) -> bool:
        """Whether the doors are open."""
        return self.ready.is_set() and not self._stopping.is_set()

    def status(self) -> dict[str, object]:
        """Return what `tidegate status --json` prints; numbers are readings unless they say otherwise."""
        assert self._store is not None
        store = self._store.status()
        engine = None if self._pipeline is None else self._pipeline.engine
        return {
            "version": __version__,
            "gateway": self.config.gateway.id,
            "hw_profile": self.profile.name,
            "uptime_s": round((self._clock.monotonic_ns() - self._started_ns) / NS_PER_S, 1),
            "healthy": self.is_healthy(),
            "restarts": dict(self._restarts),
            **store,
            "detectors": {} if engine is None else engine.status(),
            "sources": {source.name: source.status() for source in self._sources},
            "uplinks": {
                uplink.name: {**store["uplinks"].get(uplink.name, {}), **uplink.status()} for uplink in self._uplinks
            },
        }


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel `tasks` and wait for them, bounded: what is stuck must not keep the rest from being saved."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=STOP_S_MAX)
        for task in stuck:
            log.warning("%s did not stop within %.0f s", task.get_name(), STOP_S_MAX)


def notify(message: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3)); elsewhere do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(message.encode(), address)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` so that a power cut leaves the old file or the new one, never half of one."""
    new = path.with_suffix(path.suffix + ".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
