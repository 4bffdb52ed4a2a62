"""What the configuration leaves out of an OTLP uplink, from OpenTelemetry's own variables. Must not show a header.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/ names them. They belong together: whoever sets a token means
the receiver that stands beside it. So they are taken by an uplink without an endpoint, by one with just that endpoint
and no others (they would get the token, too), and, where the environment names none, by the only uplink there is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.core.checks import Problem, below
from gateway.net.secrets import entries_of
from gateway.uplinks.settings import GRPC, is_header_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

PREFIX: Final = "OTEL_EXPORTER_OTLP_"
ENDPOINT: Final = f"{PREFIX}ENDPOINT"
HEADERS: Final = f"{PREFIX}HEADERS"
INSECURE: Final = f"{PREFIX}INSECURE"
PROTOCOL: Final = f"{PREFIX}PROTOCOL"
OURS: Final = "otlp"
# What it may say of one signal alone, which an uplink cannot do.
OF_ONE_SIGNAL: Final = re.compile(
    rf"{PREFIX}(METRICS|LOGS|TRACES)_(ENDPOINT|HEADERS|PROTOCOL|COMPRESSION|TIMEOUT|INSECURE|"
    "CERTIFICATE|CLIENT_CERTIFICATE|CLIENT_KEY)"
)
# OpenTelemetry's own default.
ANYWHERE: Final = "http://localhost:4318"


class Filled(NamedTuple):
    """A table with what was left out, what is wrong with the variables, and what came from them."""

    table: dict[str, Any]
    problems: list[Problem]
    notes: list[str]


def fill(table: dict[str, Any], environment: Mapping[str, str], *, anywhere: bool = False) -> Filled:
    """Return `table`, its uplinks filled. What is given stands; an empty variable is none.

    With `anywhere` no endpoint is missing: for who only reads the rest of a configuration, in another environment.
    """
    found = Filled(dict(table), [], [])
    given = {name: value.strip() for name, value in environment.items() if name.startswith(PREFIX) and value.strip()}
    if anywhere:
        given.setdefault(ENDPOINT, ANYWHERE)
    uplinks = table.get("uplinks")
    if not given or not isinstance(uplinks, list):
        return found
    ours = [index for index, uplink in enumerate(uplinks) if isinstance(uplink, dict) and uplink.get("type") == OURS]
    found.table["uplinks"] = list(uplinks)
    if (unread := sorted(filter(OF_ONE_SIGNAL.fullmatch, given))) and ours:
        are = "is" if len(unread) == 1 else "are"
        found.notes.append(
            f"uplinks: {', '.join(unread)} {are} not read here, since an uplink has one way for all that it takes; a "
            'signal with a way of its own has an uplink of its own, with signals = ["…"]'
        )
    for index in ours:
        addresses = _addresses_of(uplinks[index])
        # Without an address of its own, or with nothing but the one that is meant: a token goes to nobody else.
        is_meant = all(one == given[ENDPOINT] for one in addresses) if ENDPOINT in given else len(ours) == 1
        if is_meant:
            _fill_one(found, index, given, but=(ENDPOINT,) if addresses else ())
    return found


def _with_scheme(address: str, given: Mapping[str, str], protocol: object) -> str:
    """Return an address as it is meant: for gRPC it may stand without a scheme, and INSECURE says which one it has."""
    if protocol != GRPC or "://" in address:
        return address
    return f"{'http' if given.get(INSECURE, '').lower() == 'true' else 'https'}://{address}"


def _addresses_of(uplink: dict[str, Any]) -> list[object]:
    """Return where an uplink leads, as far as its table says, right or wrong."""
    many = uplink.get("endpoints")
    each = [one.get("url") if isinstance(one, dict) else one for one in many] if isinstance(many, list) else [many]
    return [address for address in (uplink.get("endpoint"), *each) if address is not None]


def _fill_one(found: Filled, index: int, given: Mapping[str, str], *, but: Collection[str]) -> None:
    uplink = dict(found.table["uplinks"][index])
    path = below("uplinks", index)
    taken = []
    protocol = uplink.get("protocol", given.get(PROTOCOL, "").lower())
    for name, (keys, read) in _VARIABLES.items():
        # What is no table is for its own check to say.
        where = uplink if len(keys) == 1 else uplink.get(keys[0], {})
        if name not in given or name in but or not isinstance(where, dict) or keys[-1] in where:
            continue
        try:
            value = _with_scheme(given[name], given, protocol) if name == ENDPOINT else read(given[name])
        except ValueError as error:
            found.problems.append(Problem(below(path, *keys), f"{name} {error}"))
            continue
        uplink[keys[0]] = value if len(keys) == 1 else {**where, keys[1]: value}
        taken.append(name)
    if HEADERS in given and (problem := _fill_headers(uplink, given[HEADERS], taken)):
        found.problems.append(Problem(below(path, "headers"), problem))
    if taken:
        found.notes.append(f"{path}: what it leaves out is taken from {', '.join(taken)}")
    found.table["uplinks"][index] = uplink


def _fill_headers(uplink: dict[str, Any], text: str, taken: list[str]) -> str:
    """Refer to each header that is not given; return what is wrong with the variable, or ""."""
    headers = uplink.get("headers", {})
    if not isinstance(headers, dict):
        return ""
    try:
        names = entries_of(text)
    except ValueError as error:
        return f"{HEADERS} {error}"
    # A token that stands there as in a header, or alone, looks like a name where it ends with "=": neither is shown.
    for number, (name, value) in enumerate(names.items(), start=1):
        if not value or not is_header_name(name):
            return f"{HEADERS} is a list name=value,name=value; its entry {number} is none"
    own = {name.lower() for name in headers}
    more = {name: {"env": HEADERS, "entry": name} for name in names if name.lower() not in own}
    if more:
        uplink["headers"] = {**headers, **more}
        taken.append(HEADERS)
    return ""


def _one_of(*known: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.lower() not in known:
            raise ValueError(f"is none of {', '.join(known)}")
        return value.lower()

    return read


def _milliseconds(value: str) -> str:
    if not (value.isascii() and value.isdigit()):
        raise ValueError("is no whole number of milliseconds, like 10000")
    return f"{value}ms"


_VARIABLES: Final[dict[str, tuple[tuple[str, ...], Callable[[str], str]]]] = {
    ENDPOINT: (("endpoint",), str),
    # What this version does not speak is for the settings to say.
    PROTOCOL: (("protocol",), str.lower),
    f"{PREFIX}COMPRESSION": (("compression",), _one_of("gzip", "none")),
    f"{PREFIX}TIMEOUT": (("timeout",), _milliseconds),
    f"{PREFIX}CERTIFICATE": (("tls", "ca_file"), str),
    f"{PREFIX}CLIENT_CERTIFICATE": (("tls", "cert_file"), str),
    f"{PREFIX}CLIENT_KEY": (("tls", "key_file"), str),
}
