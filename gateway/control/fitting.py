"""Makes the bounds of memory fit a board: what waits for the disk, and what is kept at hand. Must not measure anything.

    memory_max ≥ the core + the caches + what series may take + what each uplink sends + share · the rest

The rest is `pending_bytes` and `recent_bytes` of the store and what each source may hold. As the settings have them
each is reasonable by itself; a board of half a gigabyte with three sources would need them all to stay empty. So they
are scaled down together until the sum fits, and nothing is scaled up. TLS connections stand beside that: there must be
as many clients before they take anything. Where nobody has said how many there may be, they get a part of the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from gateway.control.taken import brings_otlp
from gateway.core.units import Size
from gateway.sources.mqtt_server_settings import CONNECTIONS_MAX, MqttServerSettings
from gateway.sources.otlp_settings import OtlpSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.control.profiles import HardwareProfile
    from gateway.control.settings import Config, SourceSettings
    from gateway.store.settings import StoreSettings

# The interpreter, numpy and our own code with one source and one uplink and nothing in them (`tidegate bench --only
# idle`), with room for what a commit and a request need while they are made.
CORE_BYTES: Final = 46 << 20
# A request under way: the readings, the request, and the compressed request, of a typical size each.
UPLINK_BYTES: Final = 2 << 20
# A client's TLS connection to the MQTT server, measured with six hundred; what OpenSSL holds is the larger part.
TLS_CONNECTION_BYTES: Final = 60 << 10
# What all of them may take of memory_max where their number is not given; where it is, more should be known.
TLS_SHARE: Final = 4
# Series that come as OTLP and are watched have beside that of all others this part of it.
WATCHED_SHARE: Final = 4
STORE_BOUNDS: Final = {"pending_bytes": 256 << 10, "recent_bytes": 128 << 10}
SOURCE_BOUNDS: Final = ("buffer_max", "in_flight_bytes_total", "pending_max")
SOURCE_BOUND_MIN: Final = 64 << 10
SOURCE_LARGEST: Final = ("packet_bytes_max", "frame_bytes_max", "request_bytes_max")


class Fit(NamedTuple):
    """A configuration whose bounds fit; all bounds together in bytes, and what share is left of those that scale."""

    config: Config
    bounds_bytes: int
    share: float

    def notes(self, profile: HardwareProfile) -> list[str]:
        """Return what a person should know of it, as sentences."""
        available = max(int(profile.memory_max) - CORE_BYTES, 0)
        said: list[str] = []
        if self.share < 1:
            said.append(
                f"memory: bounds of store and sources are held to {self.share:.0%} of what they say, so that all fit "
                f"into the {profile.memory_max} of {profile.name}; "
                f"pending_bytes is {self.config.store.pending_bytes}"
            )
        if self.bounds_bytes > available:
            needed = Size((CORE_BYTES + self.bounds_bytes) >> 20 << 20)
            said.append(
                f"memory: with everything full, {needed} would be needed, and {profile.name} has {profile.memory_max}; "
                "fewer sources or series, or a larger board"
            )
        for source in self.config.sources:
            size_bytes = _tls_bytes(source)
            if size_bytes > int(profile.memory_max) // TLS_SHARE:
                said.append(
                    f"memory: {size_bytes // TLS_CONNECTION_BYTES} TLS connections to {source.name} would take "
                    f"{Size(size_bytes >> 20 << 20)} beside that, of the {profile.memory_max} of {profile.name}; "
                    "connections_max bounds them, and a quarter of it those of strangers"
                )
        return said


def fit(config: Config, profile: HardwareProfile) -> Fit:
    """Return `config` with bounds that fit `profile`; floors are kept even where nothing fits then."""
    store = msgspec.structs.replace(config.store, pending_bytes=min(config.store.pending_bytes, profile.pending_bytes))
    series_bytes = int(config.gateway.series_bytes or profile.series_bytes)
    config = msgspec.structs.replace(config, sources=_bound_tls(config.sources, profile))
    if config.detectors and any(map(brings_otlp, config.sources)):
        series_bytes += series_bytes // WATCHED_SHARE
    fixed = int(profile.cache_bytes) + series_bytes + len(config.uplinks) * UPLINK_BYTES
    wanted = _bytes_of(store) + sum(map(_held_by, config.sources))
    available = int(profile.memory_max) - CORE_BYTES - fixed
    share = min(1.0, max(available, 0) / wanted)
    if share < 1:
        store = _scale_store(store, share)
        config = msgspec.structs.replace(
            config, sources=tuple(_scale_source(source, share) for source in config.sources)
        )
    config = msgspec.structs.replace(config, store=store)
    return Fit(config, fixed + _bytes_of(store) + sum(map(_held_by, config.sources)), share)


def _bytes_of(store: StoreSettings) -> int:
    return int(store.pending_bytes) + int(store.recent_bytes)


def _scale_store(store: StoreSettings, share: float) -> StoreSettings:
    return msgspec.structs.replace(
        store, **{name: _scaled(getattr(store, name), share, floor) for name, floor in STORE_BOUNDS.items()}
    )


def _held_by(source: SourceSettings) -> int:
    return sum(int(getattr(source, name, 0)) for name in SOURCE_BOUNDS)


def _bound_tls(sources: Sequence[SourceSettings], profile: HardwareProfile) -> tuple[SourceSettings, ...]:
    """Say how many TLS connections there may be where nobody has."""
    unsaid = [s for s in sources if isinstance(s, MqttServerSettings) and s.tls is not None and not s.connections_max]
    share = int(profile.memory_max) // TLS_SHARE // TLS_CONNECTION_BYTES // max(len(unsaid), 1)
    bound = {"connections_max": min(CONNECTIONS_MAX, max(share, 1))}
    return tuple(msgspec.structs.replace(s, **bound) if s in unsaid else s for s in sources)


def _tls_bytes(source: SourceSettings) -> int:
    """Return what the connections of clients may take where they come over TLS."""
    if isinstance(source, MqttServerSettings | OtlpSettings) and source.tls is not None:
        ports = 2 if isinstance(source, OtlpSettings) and source.grpc else 1
        return ports * (source.connections_max or CONNECTIONS_MAX) * TLS_CONNECTION_BYTES
    return 0


def _scale_source(source: SourceSettings, share: float) -> SourceSettings:
    """Scale what a source may hold, but so that its largest packet, frame or request still fits."""
    floor = max(SOURCE_BOUND_MIN, *(int(getattr(source, name, 0)) for name in SOURCE_LARGEST))
    bounds: dict[str, Any] = {
        name: _scaled(getattr(source, name), share, floor) for name in SOURCE_BOUNDS if hasattr(source, name)
    }
    return msgspec.structs.replace(source, **bounds)


def _scaled(bound: Size, share: float, floor: int) -> Size:
    return Size(max(int(bound * share), min(floor, int(bound))))
