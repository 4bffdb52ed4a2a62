"""Looks at TLS files as `run` will. Must not connect, nor load OpenSSL where no file is named.

A certificate that is missing keeps an MQTT server from starting, and a subscriber or an uplink from connecting: both
are found on site otherwise, with nobody at the terminal. What this user may not read is no problem, since the service's
user may.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.core.checks import Problem, below
from gateway.sources import mqtt_server_settings, mqtt_settings, otlp_settings
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.control.reading import Reading


def look_at_certificates(reading: Reading) -> tuple[list[Problem], list[Problem]]:
    """Return what is wrong with the files of parts that are right otherwise, and what cannot be known here."""
    wrong: list[Problem] = []
    not_here: list[Problem] = []
    for path, settings, load in _parts_with_tls(reading.value):
        files = {name: file for name, file in msgspec.structs.asdict(settings).items() if file}
        before = len(wrong) + len(not_here)
        for name, file in files.items():
            place = below(path, name)
            try:
                Path(file).open("rb").close()
            except PermissionError:
                not_here.append(Problem(place, f"this user may not read {file}"))
            except FileNotFoundError:
                wrong.append(Problem(place, f"there is no file {file}"))
            except OSError as error:
                wrong.append(Problem(place, f"{file} is not a file that can be read: {error.strerror}"))
        if files and len(wrong) + len(not_here) == before:
            try:
                load()
            except OSError as error:
                what = getattr(error, "reason", None) or error.strerror
                wrong.append(Problem(path, f"{', '.join(files.values())}: not PEM files that belong together ({what})"))
            except ValueError as error:
                wrong.append(Problem(path, str(error).removeprefix("tls").lstrip(":. ")))
    return wrong, not_here


def _parts_with_tls(config: Any) -> Iterator[tuple[str, msgspec.Struct, Callable[[], object]]]:
    """Yield the path and settings of each part's TLS, where it has a use, and what `run` makes of them."""
    for index, source in enumerate(getattr(config, "sources", ())):
        path = below("sources", index, "tls")
        if isinstance(source, mqtt_server_settings.MqttServerSettings) and source.tls is not None:
            yield path, source.tls, partial(mqtt_server_settings.tls_context, source)
        elif isinstance(source, otlp_settings.OtlpSettings) and source.tls is not None:
            yield path, source.tls, partial(otlp_settings.tls_context, source)
        elif isinstance(source, mqtt_settings.MqttSettings):
            yield path, source.tls, partial(mqtt_settings.tls_context, source.tls)
    for index, uplink in enumerate(getattr(config, "uplinks", ())):
        if isinstance(uplink, OtlpUplinkSettings | MqttUplinkSettings | NatsUplinkSettings) and uplink.is_encrypted:
            yield below("uplinks", index, "tls"), uplink.tls, partial(_uplink_context, uplink)


def _uplink_context(uplink: OtlpUplinkSettings | MqttUplinkSettings | NatsUplinkSettings) -> object:
    from gateway.uplinks.wires import tls_context  # noqa: PLC0415  an HTTP client, only where it is used

    return tls_context(uplink.tls)
