"""Probes of links: somebody who takes connections, somebody who does not, somebody who never answers."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time

import pytest

from gateway.core.units import Duration
from gateway.net.devices import bind_to
from gateway.uplinks import link_probe
from gateway.uplinks.link_probe import LOOK_UPS_MAX, PROBE_BYTES, ask
from gateway.uplinks.link_settings import LinkSettings
from gateway.uplinks.worker import TooManyThreadsError


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


async def test_names_that_are_not_resolved_hold_up_nobody(monkeypatch) -> None:
    """A resolver without a network: whatever else is done in threads goes on, and what waits for it is bounded."""
    answered, asked = threading.Event(), []
    real = socket.getaddrinfo

    def silent(host, *more, **options):
        if host == "192.0.2.7" or "flags" in options:
            return real(host, *more, **options)
        asked.append(host)
        answered.wait(60)
        return real("127.0.0.1", *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    settings = LinkSettings(name="lte", probe="tcp://otel.example:1", probe_timeout=Duration(0.02))
    try:
        before = threading.active_count()
        whys = [(await ask(settings, "")).why for _ in range(40)]
        assert whys[0] == "tcp://otel.example:1 does not answer within 20ms"
        assert whys[-1] == "tcp://otel.example:1: names are not resolved any more"
        assert len(asked) == LOOK_UPS_MAX
        assert threading.active_count() <= before + LOOK_UPS_MAX
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 20) == 7
    finally:
        answered.set()
    until_s = time.monotonic() + 20
    while (why := (await ask(settings, "")).why).endswith("any more") and time.monotonic() < until_s:
        await asyncio.sleep(0.01)
    assert not why.endswith("any more")


async def test_an_address_that_the_link_does_not_lead_to_is_passed_over(monkeypatch) -> None:
    """A name may have one of IPv6 and one of IPv4, and a link only one of them."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        family, kind, number, name, where = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0]
        found = [(family, kind, number, name, ("192.0.2.7", port)), (family, kind, number, name, where)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        real = loop.sock_connect

        async def connect(connection, to) -> None:
            if to[0] == "192.0.2.7":
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            await real(connection, to)

        monkeypatch.setattr(loop, "sock_connect", connect)
        assert (await ask(link(port), "")).why == ""
        del found[1]
        assert (await ask(link(port), "")).why == f"tcp://127.0.0.1:{port}: Network is unreachable"


async def test_a_name_that_cannot_be_one_is_no_mistake_of_ours() -> None:
    """The resolver's module has errors of its own for it."""
    settings = LinkSettings(name="lte", probe=f"tcp://{'x' * 70}.example:1")
    assert (await ask(settings, "")).why


async def test_a_name_is_not_looked_up_where_there_is_no_thread_for_it(monkeypatch) -> None:
    """And later it is."""
    settings = LinkSettings(name="lte", probe="tcp://localhost:1")

    def full(name: str) -> None:
        raise TooManyThreadsError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(link_probe, "Worker", full)
        for _ in range(LOOK_UPS_MAX + 1):
            assert (await ask(settings, "")).why == "tcp://localhost:1: no more"
    assert (await ask(settings, "")).why == "tcp://localhost:1: Connection refused"
