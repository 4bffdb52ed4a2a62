"""Loads a configuration and says all that is wrong with it at once. Must not start or write anything.

Where a table is not right the rest is looked at all the same, what stands between tables too: a `Draft` is as much
of a configuration as could be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.control.environment import fill
from gateway.control.extras import check_extras
from gateway.control.later import LATER
from gateway.control.linked import unknown_links
from gateway.control.reading import Reading, read, read_parts, walk_settings
from gateway.control.settings import Config, ControlSettings
from gateway.control.taken import unknown_mappings
from gateway.core.checks import Problem, below, parts
from gateway.core.words import amount
from gateway.net.addresses import split_address
from gateway.net.mqtt_address import parse_url
from gateway.net.secrets import NotHereError, Secret
from gateway.store import disks
from gateway.store.files import DATABASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Config",
    "ConfigError",
    "Draft",
    "draft",
    "example",
    "load",
    "load_control",
    "parse_config",
    "parse_table",
    "read_table",
    "schema",
]

CONFIG_BYTES_MAX: Final = 1024 * 1024
MACHINE_ID_PATHS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
# The machine id is confidential (machine-id(5)): what leaves is made from it and from this application's id.
APPLICATION_ID: Final = uuid.UUID("5f0ddf9e-8d5c-4a3b-9a34-6e3d2c9f7b11")


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` are lines `path: what is wrong, what is right`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration as far as it could be read, and what is wrong in its tables, between them and on this machine.

    `not_here` is what this process cannot have and another may: for who is about to run, that is wrong too.
    `filled` says what was taken from the environment.
    """

    reading: Reading
    found: list[Problem]
    not_here: list[Problem]
    filled: list[str]

    def finish(self, more: Iterable[Problem] = ()) -> Config:
        """Return the configuration; raise ConfigError with what is wrong, and with what others have found."""
        problems = self.reading.in_order([*self.found, *more])
        if problems:
            raise ConfigError(problems)
        config: Config = self.reading.value
        if not config.gateway.id:
            config = msgspec.structs.replace(config, gateway=msgspec.structs.replace(config.gateway, id=machine_name()))
        return config


class _ControlOnly(msgspec.Struct):
    """The one table of the file that finding a running gateway takes."""

    control: ControlSettings | None = None


def load(path: Path, *, offline: bool = False, to_run: bool = False) -> Config:
    """Read the file at `path`; raise ConfigError with all of its problems. Options as for `draft`."""
    return _finish(draft(path, offline=offline, to_run=to_run))


def draft(path: Path, *, offline: bool = False, to_run: bool = False) -> Draft:
    """Read the file at `path` as far as it can be read; raise ConfigError where it is no TOML at all.

    `offline` leaves out what depends on this machine and user: readable secrets, a usable state directory, and where
    the service's environment would have an uplink send to. `to_run` lets a state directory pass that cannot be written
    and holds a shelf: what is in it can still be sent.
    """
    return _parse(_text(path), name=str(path), offline=offline, to_run=to_run)


def load_control(path: Path) -> ControlSettings | None:
    """Read `[control]` of the file at `path` alone; raise ConfigError where that cannot be used.

    The gateway that runs may have refused the rest of this file, and must be found all the same.
    """
    table = _table(_text(path), name=str(path)).get("control")
    if table is None:
        return None
    found, problems = read({"control": table}, _ControlOnly)
    if found is None:
        raise ConfigError(problems)
    return found.control


def read_table(path: Path) -> dict[str, Any]:
    """Return the tables of the file at `path`, not looked at any further; raise ConfigError where it is no TOML."""
    return _table(_text(path), name=str(path))


def parse_table(table: dict[str, Any]) -> Config:
    """Read a configuration that a program brings, to run it here; raise ConfigError with all of its problems."""
    return _finish(_parse_table(table, offline=False, to_run=True))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; `tidegate init --out {path}` writes one"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}); check its owner and mode"]) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError([f"{path}: larger than {CONFIG_BYTES_MAX} bytes; that is no configuration"])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}: line {line} is not UTF-8; save the file as UTF-8"]) from error


def parse_config(text: str, *, name: str = "configuration", offline: bool = False, to_run: bool = False) -> Config:
    """Read a configuration from TOML text; raise ConfigError with all of its problems."""
    return _finish(_parse(text, name=name, offline=offline, to_run=to_run))


def _finish(draft: Draft) -> Config:
    return draft.finish(draft.not_here)


def _parse(text: str, *, name: str, offline: bool, to_run: bool) -> Draft:
    return _parse_table(_table(text, name=name), offline=offline, to_run=to_run)


def _parse_table(given: dict[str, Any], *, offline: bool, to_run: bool) -> Draft:
    table, found, notes = fill(given, os.environ, anywhere=offline)
    reading = read_parts(table, Config, later=LATER)
    found += [*_check_names(reading), *_check_addresses(reading), *_check_ports(reading), *_check_sessions(reading)]
    found += [*unknown_mappings(reading), *unknown_links(reading)]
    not_here: list[Problem] = []
    if not offline:
        found += [*check_extras(reading), *_check_secrets(reading, not_here)]
        found += _check_state_dir(reading, to_run=to_run)
    return Draft(reading, found, not_here, notes)


def _table(text: str, *, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{name}: not TOML: {error}"]) from error
    except ValueError as error:
        # The one thing that tomllib lets through as Python says it.
        raise ConfigError([f"{name}: not TOML: a whole number has 64 bits at most, one here has thousands"]) from error
    except RecursionError as error:
        raise ConfigError([f"{name}: not TOML: nested too deeply"]) from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the whole configuration, for editors."""
    from gateway.control.manual import schema_of  # noqa: PLC0415  only one command needs it

    return schema_of(Config)


def example() -> str:
    """Return the full commented configuration: every key with what it does, defaults commented out."""
    from gateway.control.manual import example_of  # noqa: PLC0415  only one command needs it

    return example_of(Config)


def machine_name() -> str:
    """Return a name made from the machine id, or the host's name without one.

    As sd_id128_get_machine_app_specific(3) does it, so that the id itself stays where it is.
    """
    for path in MACHINE_ID_PATHS:
        try:
            machine = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
        if machine:
            digest = hmac.new(machine, APPLICATION_ID.bytes, hashlib.sha256).digest()
            return uuid.UUID(bytes=digest[:16], version=4).hex
    return socket.gethostname()


def _check_names(reading: Reading) -> Iterator[Problem]:
    for section in ("sources", "links", "uplinks", "detectors"):
        seen: dict[str, int] = {}
        for path, index, name in _given(reading, section, "name"):
            if not name or not reading.is_fine(path):
                continue
            if name in seen:
                yield Problem(path, f'"{name}" is taken by {section}[{seen[name]}]; names must differ')
            seen.setdefault(name, index)


def _check_addresses(reading: Reading) -> Iterator[Problem]:
    listeners = [
        (path, listen)
        for key in ("listen", "http", "grpc")
        for path, _, listen in _given(reading, "sources", key)
        if listen
    ]
    window = getattr(getattr(reading.value, "control", None), "listen", None)
    if window is not None:
        listeners.append(("control.listen", window))
    taken: dict[tuple[str, int], str] = {}
    for path, listen in listeners:
        try:
            host, port = split_address(listen)
        except ValueError:
            # That is said already. One that is refused because others reach it is taken all the same.
            continue
        if port and (host, port) in taken:
            yield Problem(path, f"{listen} is taken by {taken[host, port]}; give it another port")
        taken.setdefault((host, port), path)


def _check_ports(reading: Reading) -> Iterator[Problem]:
    """Say where two sources have one port: the second would wait for ever for the first to let go."""
    taken: dict[str, int] = {}
    for path, index, port in _given(reading, "sources", "port"):
        if reading.is_fine(path) and taken.setdefault(port, index) != index:
            yield Problem(path, f"{port} is read by sources[{taken[port]}]; a port has one source")


def _check_sessions(reading: Reading) -> Iterator[Problem]:
    """Say where two parts have one session at a broker, which ends the one whenever the other comes."""
    taken: dict[tuple[str, int, str], str] = {}
    for section in ("sources", "uplinks"):
        for path, index, client_id in _given(reading, section, "client_id"):
            part = below(section, index)
            url = getattr(getattr(reading.value, section)[index], "url", "")
            if not (client_id and url) or not (reading.is_fine(path) and reading.is_fine(below(part, "url"))):
                continue
            broker = parse_url(url)
            first = taken.setdefault((broker.host, broker.port, client_id), part)
            if first != part:
                what = f'"{client_id}" is the session of {first} at this broker'
                yield Problem(path, f"{what}; give each its own, or leave it out")


def _given(reading: Reading, section: str, key: str) -> Iterator[tuple[str, int, Any]]:
    """Yield what could be read under `key` in the tables of a section, each with its path and its table's place."""
    for index, part in parts(getattr(reading.value, section, ()), key):
        yield below(section, index, key), index, getattr(part, key)


def _check_secrets(reading: Reading, not_here: list[Problem]) -> Iterator[Problem]:
    for path, settings in walk_settings(reading.value):
        if isinstance(settings, Secret):
            try:
                settings.read()
            except NotHereError as error:
                not_here.append(Problem(path, str(error)))
            except ValueError as error:
                yield Problem(path, str(error))


def _check_state_dir(reading: Reading, *, to_run: bool) -> Iterator[Problem]:
    """Say why nothing could be kept in the state directory; nothing is left there."""
    place = "gateway.state_dir"
    given = getattr(getattr(reading.value, "gateway", None), "state_dir", None)
    if given is None or not reading.is_fine(place):
        return
    path = Path(given)
    if not path.is_absolute():
        yield Problem(place, f'"{path}" depends on where the gateway is started; write an absolute one')
        return
    here = _nearest(path)
    if not here.is_dir():
        yield Problem(place, f"{here} is a file; name a directory")
        return
    if to_run and os.access(path / DATABASE, os.R_OK):
        return
    what = "cannot be written" if here == path else f"cannot be made in {here}"
    if not os.access(here, os.W_OK | os.X_OK) and not disks.is_mounted_read_only(here):
        yield Problem(place, f"{path} {what} by this user; run as its owner, or choose another directory")
    elif why := disks.when_unusable(here):
        yield Problem(place, f"{path} {what}: {why}")


def look_at_disk(config: Config) -> list[str]:
    """Return what is allowed and perhaps not meant on the disk of this machine, as sentences."""
    path = Path(config.gateway.state_dir)
    here = _nearest(path)
    whole_bytes, most_bytes = disks.whole_bytes(here), int(config.store.max_bytes)
    if not 0 < whole_bytes < most_bytes:
        return []
    disk = f"{amount(whole_bytes)}, mounted at {disks.mount_of(here)}"
    said = f"{config.store.max_bytes} is more than the whole disk has ({disk})"
    return [f"store.max_bytes: {said}; the store is full when the disk is, so give it less than that"]


def _nearest(path: Path) -> Path:
    """Return the part of `path` that is there, as far as this user can see."""
    for parent in (path, *path.parents):
        with contextlib.suppress(OSError):
            if parent.exists():
                return parent
    return Path(path.anchor)
