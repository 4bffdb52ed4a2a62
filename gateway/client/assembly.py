"""From what a program says to a gateway's configuration. Must not start anything, nor let a secret into any repr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.control.config import machine_name, parse_table, read_table
from gateway.net.secrets import Secret
from gateway.uplinks.settings import OtlpUplinkSettings, is_header_name, is_header_value

if TYPE_CHECKING:
    from gateway.control.settings import Config

UPLINK: Final = "upstream"
# What a file for `tidegate run` may say and a program has no use for: it is the one source there is.
LEFT_OUT: Final = ("sources", "control", "log_level")
SERVICE: Final = "service.name"


class GivenSecret(Secret, frozen=True, kw_only=True):
    """A secret that a program has in its hands: where it took it from is its own affair."""

    value: str

    def __post_init__(self) -> None:
        """Ask for no place."""

    def __repr__(self) -> str:
        return "GivenSecret(…)"

    def read(self) -> str:
        """Return the secret."""
        return self.value


def service_name() -> str:
    """Return OTEL_SERVICE_NAME, or what the program is called, where it is told nothing else."""
    script = Path(sys.argv[0]).stem if sys.argv else ""
    return os.environ.get("OTEL_SERVICE_NAME", "").strip() or (script if script not in {"", "-", "-c"} else "python")


def configure(
    endpoint: Any,
    *,
    state_dir: Any,
    headers: Any,
    config: Any,
    control: str | None,
    service: str,
) -> Config:
    """Return the configuration of a client's gateway; raise ConfigError with all of its problems, or TypeError.

    `config` is the path of a TOML file or its tables as a dict; of it all holds but LEFT_OUT.
    """
    table = _tables(config)
    if config is None:
        table["uplinks"] = [
            {"type": "otlp", "name": UPLINK, **({"endpoint": endpoint} if endpoint is not None else {})}
        ]
    elif endpoint is not None or headers is not None:
        raise ValueError("config says where to send with its [[uplinks]]; leave endpoint and headers out")
    gateway = dict(table.get("gateway") or {})
    if state_dir is not None:
        gateway["state_dir"] = str(Path(state_dir).expanduser().absolute())
    elif "state_dir" not in gateway:
        raise ValueError(
            'state_dir is missing; give a directory of this program\'s own, like state_dir="/var/lib/pump-monitor"'
        )
    # Two gateways of one name would be taken for one: the one that may run on this box has the machine's.
    gateway.setdefault("id", f"{machine_name()}/{service}")
    table["gateway"] = gateway
    if control is not None:
        table["control"] = {"listen": control}
    found = parse_table(table)
    return found if not headers else _with_headers(found, headers)


def _tables(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, str | os.PathLike):
        tables = read_table(Path(config).expanduser())
    elif isinstance(config, Mapping):
        tables = dict(config)
    else:
        raise TypeError(
            f"config is a {type(config).__name__}; give the path of a tidegate.toml, or its tables as a dict"
        )
    return {key: value for key, value in tables.items() if key not in LEFT_OUT}


def _with_headers(config: Config, headers: Any) -> Config:
    """Return the configuration with headers on its one uplink. Whatever their names, none is ever shown."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers is a {type(headers).__name__}; give a dict like {{'authorization': 'Bearer …'}}")
    for name, value in headers.items():
        if not isinstance(name, str) or not is_header_name(name):
            raise ValueError(f"headers: {name!r} is not a header's name")
        if not isinstance(value, str) or not value or not is_header_value(value):
            raise ValueError(f"headers: the value of {name} is no text that a header can have")
    (uplink,) = config.uplinks
    assert isinstance(uplink, OtlpUplinkSettings)  # headers are given with an endpoint only
    own = {name.lower() for name in headers}
    given = {name: value for name, value in uplink.headers.items() if name.lower() not in own}
    secrets = {name: GivenSecret(value=value) for name, value in headers.items()}
    uplink = msgspec.structs.replace(uplink, headers={**given, **secrets})
    return msgspec.structs.replace(config, uplinks=(uplink,))
