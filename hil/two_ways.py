"""Two ways out of a box that are real: network namespaces, and a cable between them for each way. Needs root.

    box ── eth9, 10.66.1.0/24, the better route ── far: 10.66.9.9, where servers listen
     └──── wwan9, 10.66.2.0/24 ──────────────────┘

    with TwoWays() as ways:
        proxy = ways.far(lambda: LinkProxy(target, host=FAR))   # threads that are begun there stay there
        ways.box(lambda: socket.create_connection(...))
        ways.unplug("eth9")

Nothing of it is seen outside, nor is anything outside seen there.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from hil.needs import NotHereError, require_root, require_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

FAR: Final = "10.66.9.9"
WAYS: Final = {"eth9": "10.66.1", "wwan9": "10.66.2"}
CLONE_NEWNET: Final = 0x40000000
# What the kernel counts of each packet on a cable, and nobody bills.
ETHERNET_BYTES: Final = 14
_FOLDER: Final = "/run/netns"


class TwoWays:
    """Both namespaces, as long as it is entered; raises NotHereError where the machine has none."""

    def __init__(self) -> None:
        require_root()
        self._ip = require_tool("ip", package="iproute2")
        word = secrets.token_hex(3)
        self._far, self._box = f"tgf{word}", f"tgb{word}"

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _build(self) -> None:
        for name in (self._far, self._box):
            try:
                self._run("netns", "add", name)
            except subprocess.CalledProcessError as error:
                raise NotHereError(f"there are no network namespaces here: {error.stderr.strip()}") from error
            self._run("-n", name, "link", "set", "lo", "up")
        self._run("-n", self._far, "address", "add", f"{FAR}/32", "dev", "lo")
        for metric, (device, net) in enumerate(WAYS.items(), 1):
            other = f"f{device}"
            self._run("-n", self._far, "link", "add", other, "type", "veth", "peer", "name", device, "netns", self._box)
            for where, end, host in ((self._far, other, 1), (self._box, device, 2)):
                self._run("-n", where, "address", "add", f"{net}.{host}/24", "dev", end)
                # One packet is one packet, and not many at once that are cut up in the end.
                self._run("-n", where, "link", "set", end, "gso_max_segs", "1")
                self._run("-n", where, "link", "set", end, "up")
            route = ("route", "add", "default", "via", f"{net}.1", "dev", device, "metric", str(100 * metric))
            self._run("-n", self._box, *route)

    def _end(self) -> None:
        for name in (self._far, self._box):
            subprocess.run([self._ip, "netns", "delete", name], capture_output=True, check=False)

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], capture_output=True, text=True, check=True)

    def unplug(self, device: str) -> None:
        """Have the box's device lose its carrier."""
        self._run("-n", self._far, "link", "set", f"f{device}", "down")

    def plug_in(self, device: str) -> None:
        """Have it back."""
        self._run("-n", self._far, "link", "set", f"f{device}", "up")

    def lead_nowhere(self, device: str) -> None:
        """Have nobody there where the box's device leads to, though it has a carrier."""
        self._run("-n", self._far, "address", "delete", f"{WAYS[device]}.1/24", "dev", f"f{device}")

    def lead_there(self, device: str) -> None:
        """Have it lead to the far side again."""
        self._run("-n", self._far, "address", "add", f"{WAYS[device]}.1/24", "dev", f"f{device}")

    def give_address(self, device: str, address: str, *, instead_of: str = "") -> None:
        """Have the box's device get an address, and lose another one."""
        if instead_of:
            self._run("-n", self._box, "address", "delete", f"{instead_of}/24", "dev", device)
        self._run("-n", self._box, "address", "add", f"{address}/24", "dev", device)

    def forget_route(self, device: str) -> None:
        """Take away the box's default route by a device, as its network manager does."""
        self._run("-n", self._box, "route", "delete", "default", "dev", device)

    def carried(self, device: str) -> int:
        """Return how many bytes of IP went over the box's device, both ways."""
        text: str = self.box(_read_counts)
        fields = next(line for line in text.splitlines() if line.strip().startswith(f"{device}:")).split(":")[1].split()
        numbers = list(map(int, fields))
        return numbers[0] + numbers[8] - ETHERNET_BYTES * (numbers[1] + numbers[9])

    def far(self, call: Callable[[], T]) -> T:
        """Return what `call` does on the far side, in a thread of its own."""
        return _in_namespace(f"{_FOLDER}/{self._far}", call)

    def box(self, call: Callable[[], T]) -> T:
        """Return what `call` does on the box."""
        return _in_namespace(f"{_FOLDER}/{self._box}", call)

    def on_box(self) -> list[str | Path]:
        """Return what stands before a command that is to run on the box."""
        return [self._ip, "netns", "exec", self._box]


def _read_counts() -> str:
    # That of the thread: /proc/net is the process's, which is elsewhere.
    return Path("/proc/thread-self/net/dev").read_text(encoding="ascii")


def _in_namespace(path: str, call: Callable[[], T]) -> T:
    found: list[Any] = []
    failed: list[BaseException] = []

    def act() -> None:
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle, CLONE_NEWNET):
                    raise NotHereError(f"{path}: {os.strerror(ctypes.get_errno())}")
            finally:
                os.close(handle)
            found.append(call())
        except BaseException as error:  # noqa: BLE001  handed to the one who asked
            failed.append(error)

    thread = threading.Thread(target=act, name="elsewhere")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    result: T = found[0]
    return result
