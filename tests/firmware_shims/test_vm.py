"""The compiled modules in real MicroPython VMs: the same bytes, and no allocation where none is promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.codecs import framing

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from hil.children import Child

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/framing.json").read_text(encoding="utf-8"))
BODIES = [framing.decode_frame(bytes.fromhex(vector["wire"])[:-1]).hex() for vector in VECTORS["messages"]]

# Frames every body of the vectors and reads the wire of each back.
FRAMES = f"""
from binascii import hexlify, unhexlify
from tidegate import framing

wires = {[vector["wire"] for vector in VECTORS["messages"]]!r}
bodies = {BODIES!r}
heard = []
receiver = framing.Receiver(lambda body, length: heard.append(hexlify(bytes(body[:length])).decode()), 1024)
for wire, body in zip(wires, bodies):
    assert hexlify(framing.frame(unhexlify(body))).decode() == "00" + wire, body
    data = unhexlify(wire)
    receiver.feed(data, len(data))
assert heard == bodies, heard
for wire in {[vector["wire"] for vector in VECTORS["rejected"]]!r}:
    data = unhexlify(wire)
    receiver.feed(data, len(data))
assert receiver.rejected == {len(VECTORS["rejected"])}
"""

CBOR = """
import array
from binascii import hexlify
from tidegate import cbor

def shows(value, wanted):
    found = hexlify(cbor.encode(value)).decode()
    assert found == wanted, (value, found)

# RFC 8949, appendix A, and RFC 8746
shows(0, "00")
shows(23, "17")
shows(24, "1818")
shows(1000, "1903e8")
shows(1000000, "1a000f4240")
shows(1000000000000, "1b000000e8d4a51000")
shows(18446744073709551615, "1bffffffffffffffff")
shows(-1, "20")
shows(-1000, "3903e7")
shows(-18446744073709551616, "3bffffffffffffffff")
shows(1.5, "fa3fc00000")
shows(100000.0, "fa47c35000")
shows([False, True, None], "83f4f5f6")
shows("IETF", "6449455446")
shows("\\u6c34", "63e6b0b4")
shows(b"\\x01\\x02\\x03\\x04", "4401020304")
shows({"a": [1, (2, 3)]}, "a16161820182" + "0203")
shows(array.array("H", [1, 2]), "d8454401000200")
shows(array.array("i", [-1]), "d84e44ffffffff")
shows(array.array("f", [1.0]), "d855440000803f")
assert len(cbor.encode("x" * 5000)) == 5003
"""

# A sensor's loop at work while the heap is locked: the first allocation would raise MemoryError.
NO_ALLOCATION = """
import gc, micropython
from tidegate.uplink import Uplink

class Port:
    def any(self):
        return 0
    def write(self, data):
        return len(data)

def work(uplink, values):
    micropython.heap_lock()
    try:
        for k in range(1000):
            values[1] = k
            uplink.sample(values)
    finally:
        micropython.heap_unlock()

uplink = Uplink(Port(), (("temp", "f"), ("n", "i")), records=100)
work(uplink, [21.5, 0])
assert uplink.pending == 100 and uplink.dropped == 900
"""

# What is used is printed, for the README's table.
MEMORY = """
import gc
gc.collect()
before = gc.mem_alloc()
from tidegate.uplink import Uplink
gc.collect()
code = gc.mem_alloc() - before

class Port:
    def any(self):
        return 0
    def write(self, data):
        return len(data)

def fill(uplink):
    for k in range(20000):
        uplink.sample(values)
        if k % 7 == 0:
            uplink.poll()

values = [21.5, 0]
uplink = Uplink(Port(), (("temp", "f"), ("n", "i")), records=1024, frame_bytes=512, window=4)
gc.collect()
link = gc.mem_alloc() - before - code
fill(uplink)
gc.collect()
print(code, link, gc.mem_alloc() - before, gc.mem_free())
"""


@pytest.mark.parametrize("source", [FRAMES, CBOR, NO_ALLOCATION], ids=["frames", "cbor", "no allocation"])
def test_in_the_web_assembly_vm(start_vm: Callable[..., Child], source: str) -> None:
    """Compiled by mpy-cross, 32 bits."""
    child = start_vm(source)
    assert child.wait() == 0, child.output


@pytest.mark.parametrize("source", [FRAMES, CBOR, NO_ALLOCATION], ids=["frames", "cbor", "no allocation"])
def test_in_the_unix_port(start_unix_port: Callable[..., subprocess.Popen[bytes]], source: str) -> None:
    """Compiled by mpy-cross, with a heap of 64 KiB."""
    child = start_unix_port(source, heap="64k", stderr=-1)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said


def test_memory_stays_as_it_is(start_unix_port: Callable[..., subprocess.Popen[bytes]]) -> None:
    """20,000 samples in a heap of 64 KiB of a 64-bit VM; the code takes about half on 32 bits."""
    child = start_unix_port(MEMORY, heap="64k", stdout=-1, stderr=-1)
    said, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    code, link, in_use, _ = map(int, said.split())
    assert code < 20_000
    ring_bytes, frames_bytes = 1025 * 12, 5 * 512
    assert link < ring_bytes + frames_bytes + 4096
    assert in_use < code + link + 2048
