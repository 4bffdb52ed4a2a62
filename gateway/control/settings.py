"""The whole configuration as one class, composed of the rooms' own. Must not read files or ask the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.codecs.mapping_settings import AttributeValue, MappingSettings, attributes_have_names, default_mappings
from gateway.core.checks import Checked, check
from gateway.core.units import Duration, Size
from gateway.detect.settings import DetectorSettings
from gateway.net.addresses import is_loopback, split_address
from gateway.net.mqtt_address import parse_url
from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_settings import MqttServerSettings
from gateway.sources.mqtt_settings import MqttSettings
from gateway.sources.otlp_settings import OtlpSettings
from gateway.sources.serial_settings import SerialSettings
from gateway.store.settings import StoreSettings
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.link_settings import LinkSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.core.batch import Attributes

SourceSettings: TypeAlias = MqttServerSettings | MqttSettings | SerialSettings | OtlpSettings
UplinkSettings: TypeAlias = OtlpUplinkSettings | MqttUplinkSettings | FileUplinkSettings | NatsUplinkSettings

STATE_DIR: Final = "/var/lib/tidegate"
SERIES_IDLE_MIN: Final = Duration(3600)


class GatewaySettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Who this gateway is and where it keeps what it holds."""

    id: Annotated[
        str,
        Meta(description="Its name upstream, tidegate.gateway.id; made from the machine id if not given."),
    ] = ""
    state_dir: Annotated[
        str, Meta(description="Directory of the database and all else that is kept.", min_length=1)
    ] = STATE_DIR
    hw_profile: Annotated[
        str, Meta(description='Limits for this board: a file name in hw_profiles/; "auto" looks what it is.')
    ] = "auto"
    attributes: Annotated[
        dict[str, AttributeValue],
        Meta(description="Resource attributes that everything leaves with.", max_length=64),
    ] = {}
    max_series: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="How many series are told apart; the hardware profile's number if not given. Readings of a new "
            "one beyond it go to the ledger as max_series. Half of them are for whoever comes first; the other half is "
            "divided evenly among the sources, where each user and certificate of an mqtt_server counts like a source "
            "and all clients without a name like one: nobody who floods the gateway with topics can take them all."
        ),
    ] = None
    series_bytes: Annotated[
        Size | None,
        Meta(
            description="Memory for series, shared out like max_series; the hardware profile's if not given, and an "
            "eighth of store.max_bytes at most, since on the disk each stands twice, and once more in "
            "tidegate.series beside it."
        ),
    ] = None
    series_idle: Annotated[
        Duration,
        Meta(
            description="A series of which nothing is held is forgotten after so long without a reading, or since the "
            "start; where series are scarce sooner: after 10 minutes one that never came back, after an hour others, "
            "the one that is idle for longest first. One that comes back is a new series here, and the same upstream."
        ),
    ] = Duration(7 * 86400)
    report_interval: Annotated[
        Duration,
        Meta(
            description="How often the gateway's own numbers (accepted, delivered, held, lost by reason, disk used) "
            "leave as metrics at most; only if they changed. 0s: never."
        ),
    ] = Duration(300)

    _attributes_have_names = attributes_have_names("attributes")

    @check("state_dir")
    def _state_dir_is_a_path(self) -> None:
        if "\0" in self.state_dir:
            raise ValueError("has a NUL in it, which no path can have")

    @check("series_idle")
    def _series_may_come_back(self) -> None:
        if self.series_idle < SERIES_IDLE_MIN:
            raise ValueError(f"is {self.series_idle}; give a series an hour or more to come back")


class ControlSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The port for people and monitoring, read-only: /healthz, /readyz, /metrics, /status and /trace."""

    listen: Annotated[str, Meta(description="Address and port. Beyond loopback a token is needed.")] = "127.0.0.1:8181"
    token: Annotated[
        Secret | None,
        Meta(description="What clients send as `Authorization: Bearer …`; /healthz and /readyz need none."),
    ] = None
    connections_max: Annotated[
        int, Meta(description="Connections served at once; more are turned away.", ge=1, le=1024)
    ] = 16
    timeout: Annotated[Duration, Meta(description="How long a client may take to ask and to read the answer.")] = (
        Duration(5)
    )
    request_max: Annotated[Size, Meta(description="How large a request may be.")] = Size(8192)

    @check("listen")
    def _listen_is_an_address(self) -> None:
        split_address(self.listen)

    @check("listen", "token")
    def _is_not_shown_to_everybody(self) -> None:
        if self.token is None and not is_loopback(split_address(self.listen)[0]):
            raise ValueError(
                f'is {self.listen}, which other machines reach: add token = {{ env = "NAME" }}, or listen on 127.0.0.1'
            )

    @check("timeout")
    def _timeout_is_some_time(self) -> None:
        if self.timeout <= 0:
            raise ValueError('is over zero, like "5s"')

    @check("request_max")
    def _requests_have_room(self) -> None:
        if self.request_max < 256:
            raise ValueError("is 256 bytes or more: browsers send that much")


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Everything in a tidegate.toml."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="How much is said on stderr. Stands above all tables."),
    ] = "info"
    gateway: Annotated[GatewaySettings, Meta(description="Who this gateway is.")] = GatewaySettings()
    sources: Annotated[
        tuple[SourceSettings, ...], Meta(description="Sources: where bytes arrive.", max_length=256)
    ] = ()
    mappings: Annotated[
        tuple[MappingSettings, ...],
        Meta(
            description="How payloads become readings; the first that matches takes the message. "
            "Without any, every numeric leaf of a JSON or CBOR payload becomes a metric named by its path.",
            max_length=4096,
        ),
    ] = ()
    store: Annotated[StoreSettings, Meta(description="The store: what is kept until it is delivered.")] = (
        StoreSettings()
    )
    detectors: Annotated[tuple[DetectorSettings, ...], Meta(description="The watchers.", max_length=64)] = ()
    links: Annotated[
        tuple[LinkSettings, ...],
        Meta(description="Links: ways out of this box that uplinks name, each with a budget of its own.", max_length=8),
    ] = ()
    uplinks: Annotated[
        tuple[UplinkSettings, ...],
        Meta(description="Uplinks: where readings are delivered.", max_length=16),
    ] = ()
    control: Annotated[
        ControlSettings | None, Meta(description="The port for people and monitoring; closed if the table is left out.")
    ] = None

    def identity(self) -> Attributes:
        """Return the resource attributes that everything leaves with: who this gateway is."""
        return tuple(sorted({"tidegate.gateway.id": self.gateway.id, **self.gateway.attributes}.items()))

    def effective_mappings(self) -> tuple[MappingSettings, ...]:
        """Return the mappings as they apply: the file's, then what serial lines say of theirs, then the default."""
        lines = tuple(
            MappingSettings(match="#", source=source.name, payload=source.payload)
            for source in self.sources
            if isinstance(source, SerialSettings) and source.payload is not None
        )
        return (*self.mappings, *lines, *(() if self.mappings else default_mappings()))

    def owners(self) -> tuple[str, ...]:
        """Return who shares what is scarce: the sources, and of an MQTT server its users."""
        return tuple(
            owner
            for source in self.sources
            for owner in (source.owners if isinstance(source, MqttServerSettings) else (source.name,))
        )

    def warnings(self) -> list[str]:
        """Return what is allowed and perhaps not meant, as sentences."""
        said: list[str] = []
        if not self.sources:
            said.append("sources: there are none, so nothing comes in; add [[sources]]")
        if not self.uplinks:
            said.append(
                f"uplinks: there are none, so nothing leaves; readings are kept for {self.store.max_age} "
                f"and up to {self.store.max_bytes}"
            )
        for index, source in enumerate(self.sources):
            said += [f"sources[{index}].{what}" for what in _bare_passwords(source)]
            if isinstance(source, MqttSettings):
                said += [f"sources[{index}].{what}" for what in source.warnings()]
        for index, uplink in enumerate(self.uplinks):
            said += [f"uplinks[{index}].{what}" for what in uplink.warnings()]
        if self.control is not None and not is_loopback(split_address(self.control.listen)[0]):
            said.append("control.listen: the token travels unencrypted; put a TLS proxy before it")
        return said


def _bare_passwords(source: SourceSettings) -> Iterator[str]:
    """Say which passwords others can read on their way to or from other machines."""
    if isinstance(source, MqttServerSettings):
        if source.users and source.tls is None and not is_loopback(split_address(source.listen)[0]):
            where = f"unencrypted to {source.listen}"
            yield f"users: passwords travel {where}; give it tls = {{ cert_file = …, key_file = … }}"
    elif isinstance(source, OtlpSettings):
        if (source.users or source.token) and source.tls is None and not is_loopback(split_address(source.http)[0]):
            what = "users: passwords travel" if source.users else "token: it travels"
            yield f"{what} unencrypted to {source.http}; give it tls = {{ cert_file = …, key_file = … }}"
    elif isinstance(source, MqttSettings) and source.password is not None:
        broker = parse_url(source.url)
        if not broker.is_tls and not is_loopback(broker.host):
            yield f"password: it travels unencrypted to {source.url}; use mqtts:// or wss://"
