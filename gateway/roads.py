"""Builds each uplink of a configuration, with the wire that its kind needs and no other loaded. Must not run any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway import __version__
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.core.batch import Attributes
    from gateway.core.clock import Clock
    from gateway.core.telemetry import Telemetry
    from gateway.parts import Part
    from gateway.store.database import Store
    from gateway.uplinks.links import Links


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all uplinks of a gateway stand on.

    `on_server_time` gets Unix seconds and the round trip of an answer, and whether a certificate vouches for it.
    """

    store: Store
    telemetry: Telemetry
    gateway_id: str
    attributes: Attributes
    links: Links | None
    on_server_time: Callable[..., None]
    clock: Clock
    random: Random


def build_road(settings: Any, ground: Ground) -> Part:
    """Return the uplink that some settings are of, ready to be run; raise OSError, ValueError or ImportError."""
    from gateway.uplinks.delivery import Uplink  # noqa: PLC0415  an HTTP client and TLS: only where used
    from gateway.uplinks.worker import Seams  # noqa: PLC0415  the same

    store = ground.store
    store.evidence.keep(settings.name, float(settings.evidence))
    if settings.backlog_share is not None:
        store.share_backlog(settings.name, settings.backlog_share)
    shared: dict[str, Any] = {"clock": ground.clock, "random": ground.random}
    road = None if ground.links is None else ground.links.road(settings)
    written: dict[str, Any] = {"gateway_attributes": ground.attributes, "version": __version__}
    heard = partial(ground.on_server_time, is_vouched=shows_certificates(settings))
    seams = Seams(on_server_time=heard, road=road)
    if isinstance(settings, FileUplinkSettings):
        from gateway.uplinks.file_wire import FileWire  # noqa: PLC0415  the same

        seams = Seams(wire=FileWire(settings, gateway_id=ground.gateway_id, notes=store.notes, **shared))
    elif isinstance(settings, MqttUplinkSettings):
        from gateway.uplinks.bridge import seams_of  # noqa: PLC0415  the same

        seams = seams_of(settings, series=store.series, road=road, **written, **shared)
    elif isinstance(settings, NatsUplinkSettings):
        from gateway.uplinks.nats import seams_of as seams_of_nats  # noqa: PLC0415  the same

        seams = seams_of_nats(settings, series=store.series, road=road, **written, **shared)
    return Uplink(settings, store=store, telemetry=ground.telemetry, seams=seams, **written, **shared)


def shows_certificates(settings: Any) -> bool:
    """Whether every receiver of an uplink is one that has to."""
    targets = settings.targets() if isinstance(settings, OtlpUplinkSettings) else []
    return bool(targets) and all(urlsplit(target.url).scheme == "https" for target in targets)
