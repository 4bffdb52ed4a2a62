"""Probes of links: somebody who takes connections, somebody who does not, somebody who never answers."""

from __future__ import annotations

import socket

import pytest

from gateway.core.units import Duration
from gateway.net.devices import bind_to
from gateway.uplinks.link_probe import PROBE_BYTES, ask
from gateway.uplinks.link_settings import LinkSettings


def link(port: int, **given: object) -> LinkSettings:
    return LinkSettings(name="lte", probe=f"tcp://127.0.0.1:{port}", **given)


async def test_who_takes_a_connection_is_there() -> None:
    """It has cost some packets, no more than is reckoned with."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = await ask(link(server.getsockname()[1]), "")
    assert found.why == ""
    assert 0 < found.wire_bytes <= PROBE_BYTES


async def test_who_refuses_is_not() -> None:
    """Its words are the system's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = await ask(link(port), "")
    assert found.why == f"tcp://127.0.0.1:{port}: Connection refused"


async def test_who_does_not_answer_is_waited_for_so_long() -> None:
    """A full listener: the kernel drops what comes then."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as first, socket.socket() as more:
        where = server.getsockname()
        first.connect(where)
        more.setblocking(False)
        more.connect_ex(where)
        found = await ask(link(where[1], probe_timeout=Duration(0.2)), "")
    assert found.why == f"tcp://127.0.0.1:{where[1]} does not answer within 200ms"


async def test_it_is_asked_by_the_links_device() -> None:
    """One that is not there carries nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        try:
            with socket.socket() as one:
                bind_to(one, "lo")
        except PermissionError as error:
            pytest.skip(f"this kernel lets nobody but root bind to a device ({error})")
        assert (await ask(link(port), "lo")).why == ""
        assert (await ask(link(port), "wwan9nothere")).why.endswith("No such device")
