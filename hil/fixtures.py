"""The rigs as pytest fixtures: each skips with its reason where it cannot work. Holds no rig itself.

In CI (`CI=true`) a missing broker or openssl fails instead: nothing is skipped there for want of an install.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from hil import disks, virtual_time
from hil.broker import Broker, why_no_broker
from hil.certificates import Authority
from hil.children import Child
from hil.collector import WHY_NOT, Collector, find_collector
from hil.link_proxy import LinkProxy
from hil.nats_server import NatsCluster, NatsServer, why_no_nats
from hil.needs import NotHereError, find_tool
from hil.otlp_sink import OtlpSink
from hil.power_cut import PowerCutRig
from hil.serial_lines import SerialLine
from hil.two_ways import TwoWays

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from hil.grpc_sink import GrpcSink

T = TypeVar("T")
ENDS_S: Final = 20.0


def skip_because(reason: str, *, can_be_installed: bool) -> None:
    """Skip the test for `reason`, if there is one; fail it in CI when an install would have helped."""
    if not reason:
        return
    if can_be_installed and os.environ.get("CI") == "true":
        pytest.fail(f"in CI nothing is skipped for want of an install: {reason}")
    pytest.skip(reason)


@pytest.fixture
def rigs() -> Iterator[contextlib.ExitStack]:
    """Give a stack that closes at the end of the test; the makers below put their rigs on it."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def serial_line(rigs: contextlib.ExitStack, tmp_path: Path) -> SerialLine:
    """Give a virtual serial line, plugged in."""
    return rigs.enter_context(SerialLine(tmp_path))


@pytest.fixture
def make_serial_line(rigs: contextlib.ExitStack, tmp_path: Path) -> Callable[..., SerialLine]:
    """Make more lines: `make_serial_line(name="b", seed=1)`."""
    return lambda **options: rigs.enter_context(SerialLine(tmp_path, **options))


@pytest.fixture
def make_link(rigs: contextlib.ExitStack) -> Callable[..., LinkProxy]:
    """Make a bad link: `make_link(sink.address)`."""
    return lambda target, **options: rigs.enter_context(LinkProxy(target, **options))


@pytest.fixture
def ways(rigs: contextlib.ExitStack) -> TwoWays:
    """Give a box with two ways out of it."""
    try:
        return rigs.enter_context(TwoWays())
    except NotHereError as error:
        skip_because(str(error), can_be_installed=False)
        raise


@pytest.fixture
def otlp_sink(rigs: contextlib.ExitStack) -> OtlpSink:
    """Give an OTLP receiver that keeps what it gets."""
    return rigs.enter_context(OtlpSink())


@pytest.fixture
def make_otlp_sink(rigs: contextlib.ExitStack) -> Callable[..., OtlpSink]:
    """Make more receivers: `make_otlp_sink(mode="count")`."""
    return lambda **options: rigs.enter_context(OtlpSink(**options))


@pytest.fixture
def make_grpc_sink(rigs: contextlib.ExitStack) -> Callable[..., GrpcSink]:
    """Make OTLP/gRPC receivers: `make_grpc_sink(identity=…)`."""
    why = "" if importlib.util.find_spec("grpc") else "grpcio is not installed (pip install grpcio)"
    skip_because(why, can_be_installed=True)
    from hil.grpc_sink import GrpcSink  # noqa: PLC0415  only where grpcio is

    return lambda **options: rigs.enter_context(GrpcSink(**options))


@pytest.fixture
def grpc_sink(make_grpc_sink: Callable[..., GrpcSink]) -> GrpcSink:
    """Give an OTLP/gRPC receiver that keeps what it gets."""
    return make_grpc_sink()


@pytest.fixture
def make_broker(rigs: contextlib.ExitStack, tmp_path: Path) -> Callable[..., Broker]:
    """Make a mosquitto: `make_broker(users={"gateway": "secret"})`."""
    skip_because(why_no_broker(), can_be_installed=True)
    made: list[Broker] = []

    def make(**options: Any) -> Broker:
        made.append(rigs.enter_context(Broker(tmp_path / f"broker-{len(made)}", **options)))
        return made[-1]

    return make


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    """Give a mosquitto for anonymous clients."""
    return make_broker()


@pytest.fixture
def make_nats(rigs: contextlib.ExitStack, tmp_path: Path) -> Callable[..., NatsServer]:
    """Make a nats-server: `make_nats(lines=("max_payload: 4KB",))`."""
    skip_because(why_no_nats(), can_be_installed=True)
    made: list[NatsServer] = []

    def make(**options: Any) -> NatsServer:
        made.append(rigs.enter_context(NatsServer(tmp_path / f"nats-{len(made)}", **options)))
        return made[-1]

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the collector be named that takes what leaves."""
    parser.addoption("--collector", default="", metavar="PATH", help="an OTLP server to test against, like otelcol")


@pytest.fixture
def make_collector(
    rigs: contextlib.ExitStack, tmp_path: Path, pytestconfig: pytest.Config
) -> Callable[[str], Collector]:
    """Make a real collector that passes on what it takes: `make_collector(sink.url)`."""
    path = str(pytestconfig.getoption("--collector"))
    why = f"--collector {path}: there is no such program" if path else WHY_NOT
    skip_because("" if find_collector(path) else why, can_be_installed=True)
    return lambda url: rigs.enter_context(Collector(tmp_path / "collector", passes_on_to=url, path=path))


@pytest.fixture
def make_cluster(rigs: contextlib.ExitStack, tmp_path: Path) -> Callable[..., NatsCluster]:
    """Make nats-servers that hold streams together: `make_cluster(count=3)`."""
    skip_because(why_no_nats(), can_be_installed=True)
    return lambda **options: rigs.enter_context(NatsCluster(tmp_path / "cluster", **options))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Give a certificate authority."""
    skip_because("" if find_tool("openssl") else "openssl is not installed", can_be_installed=True)
    return Authority(tmp_path / "authority")


@pytest.fixture
def make_child(rigs: contextlib.ExitStack) -> Callable[..., Child]:
    """Start a process that ends with the test: `make_child(python("-m", "gateway", "run"))`."""
    return lambda command, **options: rigs.enter_context(Child(command, **options))


@pytest.fixture
def power_cut(rigs: contextlib.ExitStack) -> PowerCutRig:
    """Give an ext4 disk whose power can be cut."""
    skip_because(disks.why_no_loop_disk(), can_be_installed=False)
    return rigs.enter_context(PowerCutRig())


@pytest.fixture
def loop_disk(rigs: contextlib.ExitStack) -> disks.LoopDisk:
    """Give an ext4 disk that can turn read-only under open files."""
    skip_because(disks.why_no_loop_disk(), can_be_installed=False)
    return rigs.enter_context(disks.LoopDisk())


@pytest.fixture
def make_small_disk(rigs: contextlib.ExitStack) -> Callable[[int], disks.TmpfsDisk]:
    """Make a small disk to be filled: `make_small_disk(2 << 20)`."""
    skip_because(disks.why_no_tmpfs(), can_be_installed=False)
    return lambda size_bytes: rigs.enter_context(disks.TmpfsDisk(size_bytes))


@pytest.fixture
def run_virtual() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine in virtual time: `run_virtual(main())` in a test that is not async itself."""
    return virtual_time.run


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Fail a test that leaves a thread running. One that is at its end has a while to get there."""
    before = set(threading.enumerate())
    yield
    until_s = time.monotonic() + ENDS_S
    while left := [thread.name for thread in threading.enumerate() if thread not in before and thread.is_alive()]:
        assert time.monotonic() < until_s, f"threads left: {left}"
        time.sleep(0.01)
