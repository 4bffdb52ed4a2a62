"""Readings into a real nats-server: from the devices' socket to what a stream holds. Must not be imported by a gateway.

What was delivered is counted in the stream afterwards, by a client that knows nothing of the gateway's own.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Self

from gateway.bench.end_to_end import BATCHED_WINDOW, LOAD_S, SERVER, SINGLE_WINDOW, run_load, start_gateway
from gateway.bench.processes import Child, Workshop
from gateway.bench.report import Figure, Result, Skipped
from gateway.bench.sink import count_points
from gateway.net.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from gateway.bench.processes import GatewayUnderTest

PROGRAM: Final = "nats-server"
STREAM: Final = "BENCH"
START_S: Final = 20.0
DRAIN_S: Final = 300.0
# Readings of one message each cost a head and an answer each: that is what JSON is measured for.
JSON_RATE: Final = "5000"
# As the page on NATS has it.
STREAM_SETTINGS: Final = {
    "name": STREAM,
    "subjects": ["tidegate.>"],
    "storage": "file",
    "duplicate_window": 86_400 * 10**9,
}
UPLINK: Final = """\
[[uplinks]]
type = "nats"
name = "cloud"
url = "{{endpoint}}"
stream = "BENCH"
payload = "{payload}"
"""


class Looker:
    """One connection that asks a server one thing after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self._socket.sendall(b'CONNECT {"verbose":false}\r\nSUB _INBOX.look 1\r\n')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, what: str, **question: Any) -> dict[str, Any]:
        """Return what JetStream's API answers; raise RuntimeError for an error."""
        body = json.dumps(question).encode()
        self._socket.sendall(b"PUB $JS.API.%b _INBOX.look %d\r\n%b\r\n" % (what.encode(), len(body), body))
        while True:
            words = self._file.readline().split()
            if not words:
                raise RuntimeError("nats-server hung up")
            if words[0] == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif words[0] == b"MSG":
                answer: dict[str, Any] = json.loads(self._file.read(int(words[-1]) + 2))
                if "error" in answer:
                    raise RuntimeError(f"{what}: {answer['error']}")
                return answer

    def state(self) -> dict[str, int]:
        """Return how many messages and bytes the stream holds."""
        state: dict[str, int] = self.ask(f"STREAM.INFO.{STREAM}")["state"]
        return state

    def points(self) -> int:
        """Return how many readings the stream's messages of OTLP have in them."""
        state = self.state()
        found = 0
        for sequence in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            message = self.ask(f"STREAM.MSG.GET.{STREAM}", seq=sequence)["message"]
            found += count_points(base64.b64decode(message.get("data", "")))
        return found


def through_nats(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure batched readings as OTLP, and single ones as JSON, into a stream on the disk."""
    name = "readings into NATS JetStream"
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin")
    if program is None:
        yield Skipped(name, f"{PROGRAM} is not installed")
        return
    seconds = 2.0 if quick else LOAD_S
    batched = ("--kind", "cbor", "--window", BATCHED_WINDOW)
    for payload, load in (("otlp", batched), ("json", ("--rate", JSON_RATE, "--window", SINGLE_WINDOW))):
        yield from _measure(program, payload, load=load, seconds=seconds)


def _measure(program: str, payload: str, *, load: tuple[str, ...], seconds: float) -> Iterator[Result]:
    port, server = free_port(), free_port()
    with Workshop.open() as shop:
        config = shop.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{server}"\nlog_file: "{shop.folder}/nats.log"\n'
            f'jetstream {{ store_dir: "{shop.folder}/js" }}\n'
        )
        shop.add(Child(program, "-c", str(config)))
        with _look(server) as looker:
            looker.ask(f"STREAM.CREATE.{STREAM}", **STREAM_SETTINGS)
            source, uplink = SERVER.format(port=port), UPLINK.format(payload=payload)
            gateway = start_gateway(shop, source=source, endpoint=f"nats://127.0.0.1:{server}", uplink=uplink)
            _wait_listening(gateway)
            before = gateway.cost()
            run_load(port, "--seconds", str(seconds), *load)
            gateway.wait_delivered(timeout_s=DRAIN_S)
            took = gateway.cost().since(before)
            accepted, state = gateway.status()["accepted"], looker.state()
            stored = state["messages"] if payload == "json" else looker.points()
            if stored != accepted:
                raise RuntimeError(f"accepted {accepted} readings, the stream holds {stored}")
    messages = f"{state['messages']} messages, {state['bytes'] / accepted:.1f} bytes a reading in the stream"
    if payload == "otlp":
        yield Figure(
            "batched readings into a JetStream stream, each once", accepted / took.at_s / 1e6, "M/s", better="more",
            note=f"{messages}; counted there, its start and the emptying at its end included",
        )  # fmt: skip
        yield Figure("CPU per batched reading, all the way to NATS", took.cpu_s / accepted * 1e9, "ns")
    else:
        yield Figure(
            "CPU per message, JSON to JSON, all the way to NATS", took.cpu_s / accepted * 1e6, "µs",
            note=f"{accepted / took.at_s / 1e3:.1f} k/s of {int(JSON_RATE) / 1e3:g} asked for; {messages}",
        )  # fmt: skip


def _wait_listening(gateway: GatewayUnderTest) -> None:
    until_s = time.monotonic() + START_S
    while (state := next(iter(gateway.status()["sources"].values()))["state"]) != "listening":
        if time.monotonic() > until_s:
            raise RuntimeError(f"the gateway takes no connections: {state}")
        time.sleep(0.02)


def _look(port: int) -> Looker:
    until_s = time.monotonic() + START_S
    while True:
        try:
            looker = Looker(port)
            looker.ask("INFO")
        except (OSError, RuntimeError):
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return looker
