"""`tidegate status` for people: fetch the running gateway's status and lay it out. Must not change anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateway.control.sizing import amount, span

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS_BYTES_MAX: Final = 4 * 1024 * 1024
BOLD, RED, GREEN, YELLOW, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


def fetch_status(url: str, *, token: str, timeout_s: float) -> dict[str, Any]:
    """Return the status of the gateway at `url`; raise OSError or ValueError."""
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415  7 MB that other commands don't pay

    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is not http://HOST:PORT")
    connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", "/status", headers={"authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        body = response.read(STATUS_BYTES_MAX)
    except HTTPException as error:
        raise ValueError(f"not a gateway: {type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"answered {response.status}")
    status = json.loads(body)
    if not isinstance(status, dict):
        raise ValueError("answered something else than a status")  # noqa: TRY004  the caller prints both alike
    return status


def render(status: dict[str, Any], *, colour: bool) -> str:
    """Return the status as lines for a terminal."""
    text = "\n".join(_lines(status))
    if colour:
        return text
    for code in (BOLD, RED, GREEN, YELLOW, PLAIN):
        text = text.replace(code, "")
    return text


def _lines(status: dict[str, Any]) -> Iterator[str]:
    well = f"{GREEN}healthy{PLAIN}" if status.get("healthy") else f"{RED}NOT healthy{PLAIN}"
    yield (
        f"{BOLD}{status['gateway']}{PLAIN}  tidegate {status['version']}, {well}, up {span(status['uptime_s'])}, "
        f"profile {status['hw_profile']}"
    )
    yield f"accepted {status['accepted']:,} readings; shelf {_shelf(status)}"
    for event in status.get("events", []):
        yield f"{YELLOW}! {event}{PLAIN}"
    yield f"{BOLD}sources{PLAIN}"
    for name, source in status["sources"].items():
        yield f"  {name}: {_state(source)}  {_rest(source)}"
    yield f"{BOLD}uplinks{PLAIN}"
    for name, uplink in status["uplinks"].items():
        yield f"  {name}: {_state(uplink)}"
        ledger = uplink.get("ledger", {})
        lost = ", ".join(f"{reason} {count:,}" for reason, count in ledger.items()) or "nothing lost"
        yield f"    delivered {uplink.get('delivered', 0):,}, held {uplink.get('held', 0):,}, ledger: {lost}"
        if uplink.get("maybe_twice"):
            yield f"    possibly sent twice {uplink['maybe_twice']:,}"
        if eta := uplink.get("backlog_eta_s"):
            yield f"    backlog gone in about {span(eta)}"
        if error := uplink.get("last_error"):
            yield f"    last error: {error}"


def _shelf(status: dict[str, Any]) -> str:
    store = status.get("store", {})
    return f"{amount(store.get('used_bytes', 0))} of {amount(store.get('max_bytes', 0))}"


def _state(part: dict[str, Any]) -> str:
    state = str(part.get("state", "?"))
    good = state in {"connected", "listening", "open", "idle", "sending"}
    return f"{GREEN if good else YELLOW}{state}{PLAIN}"


def _rest(part: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in part.items() if key != "state" and value not in ({}, "", None))
