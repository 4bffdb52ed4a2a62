"""Assembly: build each part, run all in one place, stop in order, feed the watchdog. Must not hold logic of a part.

Order of life: store, then uplinks, then the doors; order of death: doors (each acknowledges what is under way),
then uplinks (each finishes its request), then the store (which commits what is pending).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.codecs.mapping import MapLimits, Mapper
from gateway.control.backlog import look_for_old_shelf
from gateway.control.draining import LOOK_S, Draining
from gateway.control.fitting import WATCHED_SHARE, fit
from gateway.control.footprint import Footprint
from gateway.control.server_time import ServerTime
from gateway.control.taken import origins_of, takes_of
from gateway.core.clock import NS_PER_S
from gateway.core.telemetry import Telemetry
from gateway.core.text import harmless
from gateway.core.threads import threads_of
from gateway.core.timeouts import timeout
from gateway.core.words import plural
from gateway.net.files import read_file, replace_file
from gateway.net.interfaces import NetworkWatch
from gateway.net.systemd import ask_for_patience, keep_quiet, notify, runtime_directory
from gateway.parts import Listener, NetworkUser
from gateway.pipeline import Pipeline
from gateway.reporter import Reporter
from gateway.roads import Ground, build_road
from gateway.sources.otlp_settings import STORE_PART
from gateway.store.database import BoardLimits, SeriesBounds, Store
from gateway.supervision import Supervisor, end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.control.config import Config
    from gateway.control.profiles import HardwareProfile
    from gateway.control.web import ControlServer
    from gateway.core.clock import Clock, Timeline
    from gateway.detect.engine import Engine
    from gateway.parts import Part, Program
    from gateway.store.records import UplinkStatus
    from gateway.tracing import Tracer
    from gateway.uplinks.links import Links

log = logging.getLogger("tidegate")

HOUSEKEEPING_S = 1.0
FOOTPRINT_S = 10.0
# What the detectors have learnt is worth little flash: an hour of learning is soon learnt again.
DETECTOR_SAVE_S = 3600.0
# How long a start waits for listeners to listen before it says that it is ready all the same.
OPEN_S_MAX = 2.0
# A shelf that stands still for so long is started anew; until then it may be a slow card.
STILL_S_MAX = 10.0
# An uplink in one of these makes way with its backlog, if there is any.
MOVING_STATES = frozenset({"sending", "combining", "idle"})
# How often it is looked whether a shelf that is closed can be written.
THAW_LOOK_S = 10.0
DETECTOR_STATE_FILE = "detectors.state"


class StartError(Exception):
    """The gateway cannot start with this configuration; the message says why."""


class StillError(Exception):
    """The shelf stands still and only a new start helps; the message says why."""


class Gateway:
    """One gateway from one config. `run` returns after a clean stop."""

    def __init__(
        self,
        config: Config,
        profile: HardwareProfile,
        *,
        clock: Clock,
        seed: int | None = None,
        program: Program | None = None,
    ) -> None:
        self._fit = fit(config, profile)
        self.config = self._fit.config
        self.profile = profile
        self.telemetry = Telemetry()
        self._footprint = Footprint(
            profile,
            base_interval_s=self._commit_interval_s,
            bounds_bytes=self._fit.bounds_bytes,
            telemetry=self.telemetry,
            is_shared=program is not None,
        )
        self._program = program
        self._notify = notify if program is None else keep_quiet
        self.ready = asyncio.Event()
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311  jitter, not a secret
        self._stopping = asyncio.Event()
        self._started_ns = clock.monotonic_ns()
        self._heartbeat_ns = self._started_ns
        self._sources: list[Part] = []
        self._uplinks: list[Part] = []
        self._links: Links | None = None
        self._supervisor = Supervisor(self.telemetry)
        self._draining: dict[str, Draining] = {}
        self._store: Store | None = None
        self._server_time = ServerTime(self._timeline, clock)
        self._pipeline: Pipeline | None = None
        self._control: ControlServer | None = None
        self._still_s = 0.0
        self._end_reason = ""
        # Whether it ended because a new start would do better: a disk that can be written again.
        self.wants_anew = False
        self.config_refused = ""  # why what is in the configuration file by now is not what runs

    def stop(self) -> None:
        """Ask for a clean stop; `run` returns when all is on disk."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`. Raise StoreError or StartError where it cannot start, StillError where it must anew."""
        asyncio.get_running_loop().set_default_executor(
            threads_of(self.profile.threads, is_guest=self._program is not None)
        )
        for note in self._fit.notes(self.profile):
            log.info("%s", note)
        store = self._store = await self._open_store()
        try:
            if not self._stopping.is_set():
                self._build(store)
                await self._serve()
        finally:
            await store.close()
        if self._end_reason:
            raise StillError(self._end_reason)

    async def _open_store(self) -> Store:
        config = self.config
        if self._program is None:
            await asyncio.to_thread(look_for_old_shelf, Path(config.gateway.state_dir))
        patience = asyncio.create_task(ask_for_patience(self._notify), name="patience")
        try:
            return await Store.open(
                state_dir=Path(config.gateway.state_dir),
                settings=config.store,
                clock=self._clock,
                uplinks=[uplink.name for uplink in config.uplinks],
                max_series=config.gateway.max_series or self.profile.max_series,
                telemetry=self.telemetry,
                commit_interval_s=self._commit_interval_s,
                series=SeriesBounds(self._series_bytes, config.owners(), float(config.gateway.series_idle)),
                board=BoardLimits(log_bytes_max=self.profile.wal_bytes, cache_bytes=self.profile.cache_bytes),
                notes_dir=runtime_directory(),
                takes=takes_of(config.uplinks),
            )
        finally:
            patience.cancel()

    @property
    def _series_bytes(self) -> int:
        return int(self.config.gateway.series_bytes or self.profile.series_bytes)

    @property
    def _commit_interval_s(self) -> float:
        wanted = self.config.store.commit_interval
        return float(self.profile.commit_interval if wanted is None else wanted)

    def _build(self, store: Store) -> None:
        what = "the mappings"
        try:
            self._pipeline = self._build_pipeline(store)
            if self.config.links:
                from gateway.uplinks.links import Links  # noqa: PLC0415  only where links are named

                where: dict[str, Any] = {"store": store, "folder": Path(self.config.gateway.state_dir)}
                self._links = Links(self.config.links, clock=self._clock, random=self._random, **where)
            for uplink in self.config.uplinks:
                what = f"uplink {uplink.name}"
                self._uplinks.append(self._build_uplink(uplink, store))
                self._draining[uplink.name] = Draining()
            for source in self.config.sources:
                what = f"source {source.name}"
                self._sources.append(self._build_source(source))
            if self._program is not None:
                self._sources.append(self._program.door(self._pipeline, store))
            what = "control"
            self._control = self._build_control()
        except (OSError, ValueError, ImportError) as error:
            # What the configuration's check could not see: an unreadable certificate, a missing library.
            raise StartError(f"{what}: {error}") from error

    async def _serve(self) -> None:
        assert self._store is not None
        reporter = Reporter(store=self._store, clock=self._clock, report_s=float(self.config.gateway.report_interval))
        start, network = self._supervisor.start, NetworkWatch(self._tell_of_network)
        windows = [start("housekeeping", self._keep_house), start("reporter", reporter.run)]
        if self._control is not None:
            windows.append(start("control", self._control.run))
        windows += [] if self._links is None else [start("links", self._links.run)]
        roads = [start(f"uplink {part.name}", part.run) for part in self._uplinks]
        doors = [start(f"source {part.name}", part.run) for part in self._sources]
        try:
            network.open()
            await self._wait_open()
            if not self._stopping.is_set():
                self.ready.set()
                self._notify("READY=1\nSTATUS=running")
                parts = f"{plural(len(doors), 'source')}, {plural(len(roads), 'uplink')}"
                log.info("running: %s, state in %s", parts, self.config.gateway.state_dir)
            await self._stopping.wait()
        finally:
            network.close()
            log.info("stopping: sources first, then uplinks, then the store")
            # Sources wait for a commit, and before a rare one they would give up: what a serial line brought were lost.
            self._store.hurry()
            for group in (doors, roads, windows):
                await end(group)
            await self._save_detectors()

    def _tell_of_network(self) -> None:
        for part in (self._links, *self._sources, *self._uplinks):
            if isinstance(part, NetworkUser):
                part.network_up()

    async def _wait_open(self) -> None:
        """Wait a moment for the listeners, so that who is told "ready" finds an open door."""
        listening = [part.listening.wait() for part in self._sources if isinstance(part, Listener)]
        if self._control is not None:
            listening.append(self._control.started.wait())
        with contextlib.suppress(TimeoutError):
            async with timeout(OPEN_S_MAX):
                await asyncio.gather(*listening)

    def _build_pipeline(self, store: Store) -> Pipeline:
        config = self.config
        # What is remembered of topics costs about as much as their series.
        limits = MapLimits(
            routes_bytes_max=min(MapLimits().routes_bytes_max, self._series_bytes), leaves_bytes_max=self._series_bytes
        )
        mappings = config.effective_mappings()
        mapper = Mapper(mappings, resolve=store.resolve, limits=limits, origins=origins_of(mappings, config.uplinks))
        engine = None
        if config.detectors:
            from gateway.detect.engine import Engine  # noqa: PLC0415  only where something is watched

            engine = Engine(config.detectors, series=store.series)
        more: dict[str, Any] = {"telemetry": self.telemetry, "watched_bytes": self._series_bytes // WATCHED_SHARE}
        pipeline = Pipeline(mapper=mapper, engine=engine, store=store, clock=self._clock, **more)
        if engine is not None:
            self._restore_detectors(engine)
        return pipeline

    def _restore_detectors(self, engine: Engine) -> None:
        path = Path(self.config.gateway.state_dir) / DETECTOR_STATE_FILE
        try:
            if not engine.restore(read_file(path, bytes_max=engine.saved_bytes_max)):
                log.warning("%s cannot be used (damaged, or of another version): the detectors learn anew", path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s cannot be read (%s): the detectors learn anew", path, error.strerror)

    def _build_source(self, settings: Any) -> Part:
        # Imported when configured: paho, ssl and pyserial are memory that other boxes should not pay.
        assert self._pipeline is not None
        shared: dict[str, Any] = {"accept": self._pipeline.accept, "clock": self._clock, "telemetry": self.telemetry}
        kind = type(settings).__name__
        store_bytes_max = int(self.config.store.max_bytes)
        if kind == "MqttServerSettings":
            from gateway.sources.mqtt_server import MqttServerSource  # noqa: PLC0415

            source: Part = MqttServerSource(settings, **shared)
        elif kind == "OtlpSettings":
            from gateway.sources.otlp import OtlpSource  # noqa: PLC0415

            shared["accept"] = self._pipeline.accept_messages
            source = OtlpSource(settings, **shared, store_bytes_max=store_bytes_max)
        elif kind == "SerialSettings":
            from gateway.sources.serial import SerialSource  # noqa: PLC0415

            source = SerialSource(settings, **shared)
        else:
            from gateway.sources.mqtt import MqttSource  # noqa: PLC0415

            if settings.otlp:
                from gateway.sources.mqtt_otlp import OtlpTopics  # noqa: PLC0415  the same

                pipeline = self._pipeline
                shared["accept"] = OtlpTopics(
                    settings.otlp,
                    bytes_max=min(int(settings.otlp_max), store_bytes_max // STORE_PART),
                    accept=pipeline.accept,
                    accept_messages=pipeline.accept_messages,
                )
            state_dir = Path(self.config.gateway.state_dir)
            source = MqttSource(settings, gateway_id=self.config.gateway.id, state_dir=state_dir, **shared)
        return source

    def _build_uplink(self, settings: Any, store: Store) -> Part:
        ground = Ground(
            store=store,
            telemetry=self.telemetry,
            gateway_id=self.config.gateway.id,
            attributes=self.config.identity(),
            links=self._links,
            on_server_time=self._server_time.heard,
            clock=self._clock,
            random=self._random,
        )
        return build_road(settings, ground)

    def _timeline(self) -> Timeline:
        assert self._store is not None
        return self._store.timeline

    def _build_control(self) -> ControlServer | None:
        if self.config.control is None:
            return None
        from gateway.control.web import ControlServer  # noqa: PLC0415  microdot only where it is used

        tracer: Tracer | None = None

        async def trace(asked: Mapping[str, str]) -> dict[str, Any]:
            nonlocal tracer
            if tracer is None:
                tracer = self._build_tracer()
            return await tracer.answer(asked)

        return ControlServer(
            self.config.control,
            status=self.status,
            telemetry=self.telemetry,
            healthy=self.is_healthy,
            ready=self.is_ready,
            trace=trace,
            why_not=self._why_not,
        )

    def _build_tracer(self) -> Tracer:
        from gateway.tracing import Tracer  # noqa: PLC0415  only where somebody asks

        assert self._pipeline is not None
        assert self._store is not None
        return Tracer(store=self._store, clock=self._clock, attach=partial(setattr, self._pipeline, "tracer"))

    async def _keep_house(self) -> None:
        """Beat the watchdog while the data path moves; save the detectors' state now and then."""
        assert self._store is not None
        saved_ns = measured_ns = thawed_ns = held_ns = self._clock.monotonic_ns()
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            now_ns = self._clock.monotonic_ns()
            self._heartbeat_ns = now_ns
            self._store.look_at_clock()
            self._store.look_at_files()
            if now_ns - measured_ns >= FOOTPRINT_S * NS_PER_S:
                measured_ns = now_ns
                self._measure(now_ns)
            if self.is_alive():
                self._notify("WATCHDOG=1")
            self._watch_shelf()
            if now_ns - held_ns >= LOOK_S * NS_PER_S:
                held_ns = now_ns
                self._look_at_backlogs(now_ns / NS_PER_S)
            if self._store.is_closed and now_ns - thawed_ns >= THAW_LOOK_S * NS_PER_S:
                thawed_ns = now_ns
                await self._thaw()
            if now_ns - saved_ns >= DETECTOR_SAVE_S * NS_PER_S:
                saved_ns = now_ns
                await self._save_detectors()

    def _measure(self, now_ns: int) -> None:
        """Look what this process takes of the machine, and let the shelf commit as often as the card allows."""
        assert self._store is not None
        pace = self._footprint.look(now_ns / NS_PER_S, readings=self._store.accepted)
        if not self._stopping.is_set():
            self._store.pace(interval_s=pace.interval_s, gap_s=pace.gap_s)

    def _watch_shelf(self) -> None:
        """End where the shelf will not move again by itself: a damaged one is salvaged by the next start."""
        assert self._store is not None
        self._still_s = 0.0 if self._store.is_moving() else self._still_s + HOUSEKEEPING_S
        if self._still_s >= STILL_S_MAX and not self._end_reason:
            trouble = self._store.status()["store"].get("trouble")
            self._end_reason = f"{trouble or 'the disk does not answer'}; ending, so that a new start can help"
            log.error("%s", self._end_reason)
            self.stop()

    def _look_at_backlogs(self, now_s: float) -> None:
        assert self._store is not None
        accounts = self._store.status()["uplinks"]
        for uplink in self._uplinks:
            status = self._uplink_status(uplink, account := accounts[uplink.name])
            held, came = account["held"] - int(status["in_hand_taken"]), account["held"] + account["delivered"]
            self._draining[uplink.name].look(now_s, held, came=came, is_moving=status.get("state") in MOVING_STATES)

    def _uplink_status(self, uplink: Part, account: UplinkStatus) -> dict[str, Any]:
        """Return one uplink's numbers: its account, what it says of itself, and what is to be expected."""
        status: dict[str, Any] = uplink.status()
        change_per_s, eta_s = self._draining[uplink.name].outlook()
        last_s = status.get("last_success_unix_s")
        return {
            **account,
            **status,
            "in_hand_taken": min(status.get("in_hand_taken", 0), account["leased"]),
            "last_success_age_s": max(self._clock.wall_ns() // NS_PER_S - last_s, 0) if last_s else None,
            "backlog_eta_s": eta_s,
            "backlog_change_per_s": change_per_s,
        }

    async def _thaw(self) -> None:
        """End where the shelf was closed and need not be any more: what was sent is noted, and the doors open."""
        assert self._store is not None
        if await self._store.can_be_written():
            log.warning("%s can be written again: starting anew", self.config.gateway.state_dir)
            self.wants_anew = True
            self.stop()

    async def _save_detectors(self) -> None:
        if self._pipeline is None or self._pipeline.engine is None:
            return
        path = Path(self.config.gateway.state_dir) / DETECTOR_STATE_FILE
        try:
            await asyncio.to_thread(replace_file, path, self._pipeline.engine.save())
        except RuntimeError:
            log.warning("detector state not saved in %s: the interpreter ends, and begins no threads any more", path)
        except OSError as error:
            # The detectors learn again; nothing that was accepted depends on this file.
            log.warning("detector state not saved in %s: %s", path, error.strerror)

    def held(self) -> dict[str, int]:
        """Return how many readings are held for each uplink that is configured."""
        assert self._store is not None
        accounts = self._store.status()["uplinks"]
        return {uplink.name: accounts[uplink.name]["held"] for uplink in self._uplinks}

    def is_healthy(self) -> bool:
        """Whether the data path moves: it is alive, and what comes can be written. Not whether anyone listens."""
        return self.is_alive() and (self._store is None or self._store.is_writing)

    def is_alive(self) -> bool:
        """Whether the loop turns and the writer is not stuck: else a new start helps, which the watchdog sees to."""
        beat_s = (self._clock.monotonic_ns() - self._heartbeat_ns) / NS_PER_S
        return beat_s < 10 * HOUSEKEEPING_S and (self._store is None or self._store.is_moving())

    def is_ready(self) -> bool:
        """Whether the doors are open, and what comes is taken."""
        is_open = self._store is not None and self._store.is_taking
        is_open = is_open and not any(source.status().get("state") == "failed" for source in self._sources)
        return is_open and self.ready.is_set() and not self._stopping.is_set()

    def _why_not(self) -> str:
        """Say what keeps the data path from moving; "" where only the loop or the disk stands still."""
        return str(self._store.status()["store"]["trouble"]) if self._store is not None else ""

    def status(self) -> dict[str, object]:
        """Return what `tidegate status --json` prints; numbers are readings unless they say otherwise.

        Whatever the world had a part in writing is made fit for one line here, for all who read it.
        """
        assert self._store is not None
        store = self._store.status()
        engine = None if self._pipeline is None else self._pipeline.engine
        status: dict[str, object] = {
            "version": __version__,
            "gateway": self.config.gateway.id,
            "hw_profile": self.profile.name,
            "uptime_s": round((self._clock.monotonic_ns() - self._started_ns) / NS_PER_S, 1),
            "healthy": self.is_healthy(),
            "restarts": dict(self._supervisor.restarts),
            "config_refused": self.config_refused,
            **store,
            "clock": {**store["clock"], "astray_s": self._server_time.astray_s},
            "store": {
                **store["store"],
                "state_dir": self.config.gateway.state_dir,
                "when_full": self.config.store.when_full,
            },
            **self._footprint.status(),
            "detectors": {} if engine is None else engine.status(),
            **({} if self._pipeline is None else self._pipeline.status()),
            "links": {} if self._links is None else self._links.told(),
            "sources": {source.name: source.status() for source in self._sources},
            "uplinks": {
                **{name: {**account, "state": "removed"} for name, account in store["uplinks"].items()},
                **{uplink.name: self._uplink_status(uplink, store["uplinks"][uplink.name]) for uplink in self._uplinks},
            },
        }
        found: dict[str, object] = harmless(status)
        return found
