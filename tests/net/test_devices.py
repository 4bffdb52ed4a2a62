"""What the kernel says of devices and routes: of the loopback, of tables as it writes them, and of real cables."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from gateway.net import devices
from gateway.net.devices import Route, bind_to, default_route, is_device_name, is_there, mark_of, route_by, why_down
from hil.two_ways import FAR, WAYS, TwoWays

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
NET = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
ZEROS = "0" * 32


def v4(device: str, gateway: str, *, metric: int, flags: str = "0003") -> str:
    raw = socket.inet_aton(gateway)[::-1].hex().upper()
    return f"{device}\t00000000\t{raw}\t{flags}\t0\t0\t{metric}\t00000000\t0\t0\t0\n"


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the kernel's tables are."""
    monkeypatch.setattr(devices, "PROC", tmp_path)
    return tmp_path


def test_the_loopback_is_up() -> None:
    """It has an address and a carrier."""
    assert (why_down("lo"), is_there("lo")) == ("", True)


def test_a_device_that_is_not_there() -> None:
    """Modems come and go: that is said, and nothing fails."""
    assert mark_of("wwan9nothere") == ""
    assert why_down("wwan9nothere") == "there is no interface wwan9nothere just now"
    assert not is_there("wwan9nothere")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a:1", "..", "sixteen-letters.", "ä" * 8])
def test_names_that_no_device_has(name: str) -> None:
    """So that nothing else is asked of the kernel."""
    assert not is_device_name(name)


def test_the_default_route_is_that_of_the_least_metric(tables: Path) -> None:
    """Whatever stands first; nets of their own, and what is not up, are no default."""
    rows = NET + v4("wwan0", "192.168.8.1", metric=700) + v4("eth0", "192.168.1.1", metric=100)
    (tables / "route").write_text(HEAD + rows + v4("dead", "10.0.0.1", metric=0, flags="0002"))
    assert default_route(is_v6=False) == Route("192.168.1.1", "eth0")
    assert route_by("192.168.1.1") == ("eth0", "")
    assert route_by("192.168.8.1") == ("", "the default route leads to 192.168.1.1")


def test_a_route_without_a_gateway(tables: Path) -> None:
    """A modem's own: it leads into the device."""
    (tables / "route").write_text(HEAD + v4("ppp0", "0.0.0.0", metric=0, flags="0001"))
    assert route_by("192.168.8.1") == ("", "the default route leads into ppp0")


def test_default_routes_of_ipv6(tables: Path) -> None:
    """The one that turns everything away is none."""
    router = "fe800000000000000000000000000001"
    row = "{} 00 {} 00 {} {} 00000001 00000000 {} {:>8}\n"
    text = row.format(ZEROS, ZEROS, ZEROS, "ffffffff", "00200200", "lo")
    text += row.format(ZEROS, ZEROS, router, "00000400", "00000003", "eth0")
    (tables / "ipv6_route").write_text(text)
    assert default_route(is_v6=True) == Route("fe80::1", "eth0")
    assert route_by("fe80::1") == ("eth0", "")


def test_no_table_is_no_route(tables: Path) -> None:
    """Nor is one that is cut off in the middle of a line."""
    assert route_by("192.168.8.1") == ("", "there is no default route")
    (tables / "route").write_text(HEAD + v4("eth0", "192.168.8.1", metric=1)[:-1])
    assert route_by("192.168.8.1") == ("", "there is no default route")


def test_what_is_bound_to_a_device_leaves_by_no_other() -> None:
    """The loopback's address is not to be had by a device that is not it."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as one:
        try:
            bind_to(one, "lo")
        except PermissionError as error:
            pytest.skip(f"this kernel lets nobody but root bind to a device ({error})")
        one.connect(server.getsockname())
    with socket.socket() as other, pytest.raises(OSError, match="No such device"):
        bind_to(other, "wwan9nothere")


def test_real_devices(ways: TwoWays) -> None:
    """Both are up; the better route leads over one, and what is bound to the other leaves by that all the same."""
    with ways.far(lambda: socket.create_server((FAR, 0))) as server:

        def connect() -> str:
            with socket.socket() as one:
                one.settimeout(5)
                bind_to(one, "wwan9")
                one.connect(server.getsockname())
                one.sendall(bytes(8192))
                return str(one.getsockname()[0])

        assert ways.box(lambda: [why_down(name) for name in WAYS]) == ["", ""]
        assert ways.box(lambda: route_by("10.66.1.1")) == ("eth9", "")
        before = ways.carried("eth9")
        assert ways.box(connect) == "10.66.2.2"
        assert ways.carried("eth9") - before < 4096, "the kernel's own, if anything"
        mark = ways.box(lambda: mark_of("wwan9"))
        assert mark.endswith(" 10.66.2.2")
        ways.give_address("wwan9", "10.66.2.3", instead_of="10.66.2.2")
        assert ways.box(lambda: (why_down("wwan9"), mark_of("wwan9"))) == ("", mark[:-1] + "3")
        ways.give_address("wwan9", "169.254.7.8", instead_of="10.66.2.3")
        assert ways.box(lambda: why_down("wwan9")) == "wwan9 has no address but one that it gave itself (169.254.7.8)"
        ways.give_address("wwan9", "10.66.2.2")
        assert ways.box(lambda: why_down("wwan9")) == ""
        ways.unplug("wwan9")
        until_s = time.monotonic() + 20
        while not (why := ways.box(lambda: why_down("wwan9"))) and time.monotonic() < until_s:
            time.sleep(0.05)
        assert why == "wwan9 has no carrier"
