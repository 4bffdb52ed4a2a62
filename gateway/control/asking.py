"""Ask a running gateway for one of its pages of JSON, as commands do. Must not change anything."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlsplit

STATUS_BYTES_MAX: Final = 4 * 1024 * 1024


class AskedWrongError(Exception):
    """The gateway is there and says what is wrong with the question."""


def fetch_status(url: str, *, token: str, timeout_s: float) -> dict[str, Any]:
    """Return the status of the gateway at `url`; raise OSError or ValueError."""
    try:
        return fetch(url, "/status", token=token, timeout_s=timeout_s, wanted=("gateway",))
    except AskedWrongError as error:
        # There is nothing to ask wrongly here: whoever says so is something else, like a port that expects TLS.
        raise ValueError("answered 400: not a gateway, or not at this port") from error


def fetch(url: str, page: str, *, token: str, timeout_s: float, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return what a page of the gateway at `url` says; raise OSError, ValueError, or AskedWrongError.

    `wanted` are keys of the answer without which it is another program's.
    """
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415  7 MB that other commands don't pay

    parts = urlsplit(url)
    if not is_address(url):
        raise ValueError(f"{url!r} is not http://HOST:PORT")
    assert parts.hostname
    connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", page, headers={"authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        body = response.read(STATUS_BYTES_MAX)
    except HTTPException as error:
        raise ValueError(f"not a gateway: {type(error).__name__}") from error
    finally:
        connection.close()
    if response.status == 401:
        if token:
            raise ValueError("it wants another token than this configuration's")
        raise ValueError("it wants its token: name its configuration with -c FILE")
    if response.status == 400:
        raise AskedWrongError(body.decode(errors="replace").strip())
    if response.status != 200:
        raise ValueError(f"answered {response.status}")
    status = json.loads(body)
    if not isinstance(status, dict) or not all(key in status for key in wanted):
        raise ValueError("answered something else than was asked: not a gateway, or not at this port")
    return status


def is_address(url: str) -> bool:
    """Whether a gateway can be asked there.

    >>> is_address("http://127.0.0.1:8181"), is_address("127.0.0.1:8181"), is_address("http://127.0.0.1:port")
    (True, False, False)
    """
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
