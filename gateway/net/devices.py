"""This box's network devices: is one up, does it have an address, where does the default route lead. Must not send.

The kernel is asked without a library: netdevice(7) for flags and addresses, /proc for routes and what has IPv6. All
of it is of the network namespace that this process is in. Elsewhere than on Linux nothing is known of any device.
"""

from __future__ import annotations

import array
import errno
import ipaddress
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC: Final = Path("/proc/thread-self/net")
# linux/sockios.h, linux/if.h, linux/route.h; a name has a NUL behind it.
SIOCGIFFLAGS: Final = 0x8913
SIOCGIFADDR: Final = 0x8915
SIOCGIFCONF: Final = 0x8912
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
NAME_BYTES_MAX: Final = 15
RTF_UP: Final = 0x1
RTF_GATEWAY: Final = 0x2
RTF_REJECT: Final = 0x200
# Not named by Python on every system.
SO_BINDTODEVICE: Final = 25
# Of an IPv6 address that is good for its own link alone.
SCOPE_LINK: Final = 0x20
# What is read of a table: a box with a whole internet of routes has its default route at the beginning.
TABLE_BYTES_MAX: Final = 256 * 1024
ADDRESSES_MAX: Final = 256
_REQUEST: Final = struct.Struct("16sH22x")
_ADDRESS: Final = slice(20, 24)
_LIST: Final = struct.Struct("iP")
_NAME: Final = re.compile(r"[^\s/:\x00-\x20\x7f]{1,15}")


class Route(NamedTuple):
    """A default route: by which gateway, and over which device."""

    gateway: str
    device: str


def is_device_name(name: str) -> bool:
    """Whether a device can be called so.

    >>> is_device_name("wwan0"), is_device_name("a name"), is_device_name("sixteen-letters.")
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= NAME_BYTES_MAX and name not in {".", ".."}


def is_there(device: str) -> bool:
    """Whether there is such a device just now."""
    try:
        _flags(device)
    except OSError as error:
        return error.errno != errno.ENODEV
    return True


def why_down(device: str) -> str:
    """Say in a few words why nothing can leave by a device, "" where it can."""
    try:
        flags = _flags(device)
    except OSError as error:
        what = f"there is no interface {device}" if error.errno == errno.ENODEV else f"{device}: {error.strerror}"
        return f"{what} just now" if error.errno == errno.ENODEV else what
    if not flags & IFF_UP:
        return f"{device} is switched off"
    if not flags & IFF_RUNNING:
        return f"{device} has no carrier"
    return _why_no_address(device)


def mark_of(device: str) -> str:
    """Return what is another one when connections from before lead nowhere any more; "" where there is no device.

    That is which device has the name, since a modem that was pulled out may be back under it, and its IPv4 address.
    """
    try:
        index = socket.if_nametoindex(device)
    except OSError:
        return ""
    return f"{index} {_address_v4(device)}"


def default_route(*, is_v6: bool) -> Route | None:
    """Return the default route that is used, which is the one with the least metric; None where there is none."""
    routes = sorted(_routes_v6() if is_v6 else _routes_v4(), key=lambda found: found[0])
    return routes[0][1] if routes else None


def route_by(gateway: str) -> tuple[str, str]:
    """Return over which device the default route leads to `gateway`, and else "" and why it does not."""
    address = ipaddress.ip_address(gateway)
    route = default_route(is_v6=address.version == 6)
    if route is None:
        return "", "there is no default route"
    if not route.gateway or ipaddress.ip_address(route.gateway) != address:
        return "", f"the default route leads {f'to {route.gateway}' if route.gateway else f'into {route.device}'}"
    return route.device, ""


def bind_to(connection: socket.socket, device: str) -> None:
    """Have a socket that is not connected yet send by this device and no other; raise OSError.

    Before Linux 5.7 that takes CAP_NET_RAW.
    """
    connection.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode() + b"\0")


def _flags(device: str) -> int:
    return int(_REQUEST.unpack(_ask(SIOCGIFFLAGS, device))[1])


def _why_no_address(device: str) -> str:
    own = _address_v4(device)
    if own and not ipaddress.ip_address(own).is_link_local:
        return ""
    if any(fields[5] == device and int(fields[3], 16) != SCOPE_LINK for fields in _table("if_inet6", 6)):
        return ""
    if not own:
        return f"{device} has no address"
    # It stands first where it was there first.
    if any(not ipaddress.ip_address(one).is_link_local for one in _addresses_v4(device)):
        return ""
    return f"{device} has no address but one that it gave itself ({own})"


def _address_v4(device: str) -> str:
    """Return a device's first IPv4 address, "" where it has none."""
    try:
        return socket.inet_ntoa(_ask(SIOCGIFADDR, device)[_ADDRESS])
    except OSError:
        return ""


def _addresses_v4(device: str) -> list[str]:
    import fcntl  # noqa: PLC0415  not on every system, but where there is an address

    found = array.array("B", bytes(ADDRESSES_MAX * _REQUEST.size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        said = fcntl.ioctl(asking, SIOCGIFCONF, _LIST.pack(len(found), found.buffer_info()[0]))
    data = found.tobytes()[: _LIST.unpack(said)[0]]
    rows = [data[at : at + _REQUEST.size] for at in range(0, len(data), _REQUEST.size)]
    # A label has the device's name before a colon.
    named = device.encode()
    return [socket.inet_ntoa(row[_ADDRESS]) for row in rows if row[:16].split(b"\0")[0].partition(b":")[0] == named]


def _ask(request: int, device: str) -> bytes:
    try:
        import fcntl  # noqa: PLC0415  not on every system
    except ImportError:
        raise OSError(errno.ENOSYS, "only Linux says how its interfaces are") from None

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        return fcntl.ioctl(asking, request, _REQUEST.pack(device.encode(), 0))


def _routes_v4() -> Iterator[tuple[int, Route]]:
    for device, destination, gateway, flags, _, _, metric, mask in _table("route", 8):
        if int(destination, 16) or int(mask, 16) or not int(flags, 16) & RTF_UP:
            continue
        # As the kernel keeps it, in the order of this machine's bytes.
        raw = struct.pack("=I", int(gateway, 16))
        has_gateway = int(flags, 16) & RTF_GATEWAY
        yield int(metric), Route(str(ipaddress.IPv4Address(raw)) if has_gateway else "", device)


def _routes_v6() -> Iterator[tuple[int, Route]]:
    for destination, length, _, _, gateway, metric, _, _, flags, device in _table("ipv6_route", 10):
        bits = int(flags, 16)
        if int(destination, 16) or int(length, 16) or not bits & RTF_UP or bits & RTF_REJECT:
            continue
        address = str(ipaddress.IPv6Address(bytes.fromhex(gateway)))
        yield int(metric, 16), Route(address if bits & RTF_GATEWAY else "", device)


def _table(name: str, columns: int) -> Iterator[list[str]]:
    """Yield the rows of a table of the kernel's that have so many columns at least, cut to these."""
    try:
        with (PROC / name).open(encoding="ascii", errors="replace") as file:
            text = file.read(TABLE_BYTES_MAX)
    except OSError:
        return
    # The last line may be cut off.
    for line in text.rpartition("\n")[0].splitlines():
        fields = line.split()
        if len(fields) >= columns and not line.startswith("Iface"):
            yield fields[:columns]
