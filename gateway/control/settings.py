"""The whole configuration as one class, composed of the rooms' own settings. Must not read files or check the world."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from gateway.codecs.mapping import MappingSettings
from gateway.core.units import Duration, Size
from gateway.detect.settings import DetectorSettings
from gateway.net.secrets import Secret
from gateway.sources.mqtt import MqttSettings
from gateway.sources.mqtt_server import MqttServerSettings
from gateway.sources.serial import SerialSettings
from gateway.store.database import StoreSettings
from gateway.uplinks.delivery import OtlpUplinkSettings

SourceSettings: TypeAlias = MqttServerSettings | MqttSettings | SerialSettings
UplinkSettings: TypeAlias = OtlpUplinkSettings
AttributeValue: TypeAlias = str | bool | int | float

STATE_DIR: Final = "/var/lib/tidegate"


def _about(text: str, **bounds: int) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class GatewaySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Who this gateway is and where it keeps what it holds."""

    id: Annotated[
        str, _about("Its name upstream, as tidegate.gateway.id. Without it: made from the machine id.")
    ] = ""
    state_dir: Annotated[
        str, _about("Directory of the database and everything else that is kept.", min_length=1)
    ] = STATE_DIR
    hw_profile: Annotated[
        str, _about("Limits for the board: a file name in hw_profiles/, or auto to look.")
    ] = "auto"
    attributes: Annotated[
        dict[str, AttributeValue], _about("Resource attributes that everything leaves with.", max_length=64)
    ] = {}
    max_series: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        _about("How many different series are kept apart; the hardware profile's if not given."),
    ] = None


class ControlSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The window for people and monitoring: /healthz, /readyz, /metrics and /status, read-only."""

    listen: Annotated[str, _about("Address and port. Beyond loopback a token is needed.")] = "127.0.0.1:8181"
    token: Annotated[
        Secret | None,
        _about("What a client must send as `Authorization: Bearer …`; /healthz and /readyz need none."),
    ] = None
    connections_max: Annotated[
        int, _about("Connections served at once; more are turned away.", ge=1, le=1024)
    ] = 16
    timeout: Annotated[Duration, _about("How long a client may take to ask, and to read the answer.")] = (
        Duration(5)
    )
    request_max: Annotated[Size, _about("How large a request may be, headers included.")] = Size(8192)


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Everything in a tidegate.toml."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _about("How much is said on stderr. Stands above all tables."),
    ] = "info"
    gateway: Annotated[GatewaySettings, _about("Who this gateway is.")] = GatewaySettings()
    sources: Annotated[
        tuple[SourceSettings, ...], _about("The doors: where bytes arrive.", max_length=256)
    ] = ()
    mappings: Annotated[
        tuple[MappingSettings, ...],
        _about(
            "How payloads become readings; the first that matches takes the message. Without any, every numeric leaf "
            "of a JSON or CBOR payload becomes a metric named by its path.",
            max_length=4096,
        ),
    ] = ()
    store: Annotated[StoreSettings, _about("The shelf: what is kept until it has been delivered.")] = (
        StoreSettings()
    )
    detectors: Annotated[tuple[DetectorSettings, ...], _about("The watchers.", max_length=64)] = ()
    uplinks: Annotated[
        tuple[UplinkSettings, ...], _about("The roads: where readings are delivered.", max_length=16)
    ] = ()
    control: Annotated[
        ControlSettings | None, _about("The window for people and monitoring; closed if left out.")
    ] = None
