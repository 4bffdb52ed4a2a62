"""A whole gateway on a disk that fails it: it goes on, says so in a sentence, pushes back, and loses nothing (P1, P7)."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from gateway.net.ports import free_port
from gateway.store.connection import PAGE_BYTES
from gateway.store.evidence import look
from hil.children import Child, wait_until
from hil.gateway_child import Site
from hil.otlp_sink import Behaviour
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.disks import LoopDisk, TmpfsDisk
    from hil.otlp_sink import OtlpSink


def acknowledges(publisher: Publisher) -> bool:
    """Whether PUBACKs still come."""
    before = len(publisher.acknowledged)
    time.sleep(0.3)
    return len(publisher.acknowledged) > before


def ask(site: Site, page: str) -> tuple[int, str]:
    """Return status and text of one of the pages for monitoring."""
    try:
        with urllib.request.urlopen(f"{site.url}/{page}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def settle(site: Site, child: Child, publisher: Publisher, sink: OtlpSink) -> None:
    """With a good disk and a good link again: whatever was acknowledged is delivered or in the ledger."""
    sink.always = Behaviour()
    publisher.stop()
    account = site.drain()
    assert site.status()["store"]["trouble"] == ""
    assert account.gap == 0
    assert child.terminate() == 0
    arrived = {int(reading.value) for reading in sink.readings()}
    missing = publisher.acknowledged - arrived
    assert len(missing) <= sum(account.ledger.values()), f"{len(missing)} are missing, {account}"
    assert len(publisher.acknowledged) > 100
    assert site.verify()[0] == 0, site.verify()[1]
    assert "Traceback" not in child.output


def stop_well(site: Site, child: Child) -> None:
    """Have it stop, without a traceback all along, and leave a shelf without a fault."""
    assert child.terminate() == 0
    assert "Traceback" not in child.output, child.tail(40)
    assert site.verify()[0] == 0, site.verify()[1]


@pytest.mark.slow
@pytest.mark.parametrize("when_full", ["refuse", "drop_oldest"])
def test_a_disk_that_others_fill(
    make_small_disk: Callable[[int], TmpfsDisk],
    tmp_path: Path,
    otlp_sink: OtlpSink,
    make_child: Callable[..., Child],
    when_full: str,
) -> None:
    """Not a byte left: no PUBACK with refuse, the oldest go with drop_oldest; room again, and it goes on by itself."""
    disk = make_small_disk(8 << 20)
    site = Site(
        tmp_path,
        endpoint=otlp_sink.url,
        make_child=make_child,
        state_dir=disk.path / "state",
        store=f'when_full = "{when_full}"\nmax_bytes = "64MiB"',
    )
    otlp_sink.always = Behaviour(status=503)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        disk.fill()
        if when_full == "refuse":
            wait_until(lambda: site.status()["sources"]["direct"]["state"] == "full", "the gateway to push back")
            wait_until(lambda: not acknowledges(publisher), "the device to hear no more")
            status = site.status()
            words = status["store"]["trouble"] + status["sources"]["direct"]["last_error"]
            assert "full" in words, status
            assert status["sources"]["direct"]["state"] == "full", status["sources"]
            assert status["healthy"], status
        else:
            time.sleep(1.0)
            # What comes may be more than all that could make way for it; then it is said, and nobody thinks all is well.
            status = site.status()
            assert status["healthy"] or "the disk is full: 0 B left where" in status["store"]["trouble"], status
        assert child.is_running
        disk.free()
        wait_until(lambda: acknowledges(publisher), "the gateway to go on")
        settle(site, child, publisher, otlp_sink)


@pytest.mark.slow
def test_a_disk_that_turns_read_only(
    loop_disk: LoopDisk, tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """As a worn card does: no PUBACK from then on, a sentence, no crash; what it says on stopping is a sentence too."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, state_dir=loop_disk.path / "state")
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        otlp_sink.always = Behaviour(status=503)
        wait_until(lambda: site.account().held > 500, "some of it to be held")
        before = site.account().delivered
        loop_disk.go_read_only()
        wait_until(lambda: not acknowledges(publisher), "the gateway to push back")
        kept = set(publisher.acknowledged)
        wait_until(lambda: "written" in site.status()["store"]["trouble"], "a sentence in the status")
        assert not site.status()["healthy"]
        for page in ("healthz", "readyz"):
            code, said = ask(site, page)
            assert code == 503
            assert f"the disk is read-only (mounted at {loop_disk.path}); make it writable" in said
        assert "commit failed, trying again" in child.output
        assert child.is_running
        publisher.stop()
    began_s = time.monotonic()
    child.send(15)
    child.wait()
    assert time.monotonic() - began_s < 45
    assert "Traceback" not in child.output, child.tail(40)
    # Started again it cannot write a byte, but it can read, and send what it holds.
    second = site.start()
    status = site.status()
    assert not status["healthy"]
    assert f"the disk is read-only (mounted at {loop_disk.path})" in status["store"]["trouble"]
    assert "What is held is sent, nothing new is taken" in second.output
    for page in ("healthz", "readyz"):
        code, said = ask(site, page)
        assert code == 503
        assert "the disk is read-only" in said
    otlp_sink.always = Behaviour()
    site.drain()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: "read-only" in site.status()["sources"]["direct"]["last_error"], "the door to be closed")
        assert publisher.acknowledged == set()
        publisher.stop()
    assert kept <= {int(reading.value) for reading in otlp_sink.readings()}
    assert site.account().maybe_twice >= len(kept) - before
    assert second.terminate() == 0
    assert "could not be written down: they are sent again" in second.output
    assert "Traceback" not in second.output, second.tail(40)
    # Somebody puts it into a good reader: everything acknowledged is still there.
    loop_disk.unmount()
    loop_disk.mount()
    third = site.start()
    site.drain()
    assert site.status()["healthy"]
    assert third.terminate() == 0
    assert site.verify()[0] == 0, site.verify()[1]


@pytest.mark.slow
def test_a_disk_that_can_be_written_again(
    make_small_disk: Callable[[int], TmpfsDisk], tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """Mounted read-only by mistake, remounted while it runs: it goes on by itself, and nothing arrives twice."""
    disk = make_small_disk(64 << 20)
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, state_dir=disk.path / "state")
    otlp_sink.always = Behaviour(status=503)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        publisher.stop()
    assert child.terminate() == 0
    disk.read_only()
    child = site.start()
    otlp_sink.always = Behaviour()
    site.drain()
    with Publisher(port=site.mqtt) as later:
        disk.read_only(on=False)
        wait_until(lambda: later.acknowledged, "the door to open")
        later.stop()
    assert f"{site.state_dir} can be written again: starting anew" in child.output
    account = site.drain()
    assert site.status()["healthy"]
    assert (account.gap, account.maybe_twice) == (0, 0)
    arrived = [int(reading.value) for reading in otlp_sink.readings()]
    assert len(arrived) == account.delivered
    assert publisher.acknowledged <= set(arrived)
    stop_well(site, child)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["files", "directory"])
def test_a_database_that_is_taken_away_while_it_runs(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], what: str
) -> None:
    """No PUBACK for what a deleted file would hold; what it holds is sent, then it goes on with a new one by itself."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child)
    otlp_sink.always = Behaviour(status=503)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        if what == "files":
            for file in site.state_dir.iterdir():
                file.unlink()
        else:
            site.state_dir.rename(tmp_path / "moved")
        # Who hears nothing for a moment may have a busy machine: what the gateway says of itself comes first.
        wait_until(lambda: ask(site, "healthz")[0] == 503, "the gateway to notice")
        wait_until(lambda: not acknowledges(publisher), "the device to hear no more")
        for page in ("healthz", "readyz"):
            code, said = ask(site, page)
            assert code == 503
            assert "was deleted, moved away or replaced" in said
        otlp_sink.always = Behaviour()
        wait_until(lambda: acknowledges(publisher), "the gateway to go on")
        publisher.stop()
    site.drain()
    assert publisher.acknowledged <= {int(reading.value) for reading in otlp_sink.readings()}
    assert site.status()["healthy"]
    stop_well(site, child)


@pytest.mark.slow
def test_a_directory_that_is_gone_when_it_stops(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """It says in sentences what that means."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child)
    otlp_sink.always = Behaviour(status=503)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        site.state_dir.rename(tmp_path / "moved")
        wait_until(lambda: not acknowledges(publisher), "the gateway to push back")
        publisher.stop()
    assert child.terminate() == 0
    assert "in the file that was taken away" in child.output
    assert "Traceback" not in child.output, child.tail(40)


@pytest.mark.slow
def test_a_full_disk_at_the_start(
    make_small_disk: Callable[[int], TmpfsDisk], tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """With nothing to send: one sentence that names the disk, exit code 1. With something: it starts and sends it."""
    disk = make_small_disk(8 << 20)
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, state_dir=disk.path / "state")
    disk.fill()
    child = site.launch()
    assert child.wait() == 1, child.output
    assert len(child.lines) == 1, child.output
    assert child.lines[0].startswith("tidegate: ")
    assert f"mounted at {disk.path}; free some room there" in child.lines[0]
    disk.free()
    otlp_sink.always = Behaviour(status=503)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 500, "some load")
        publisher.stop()
    child.kill()
    disk.fill()
    otlp_sink.always = Behaviour()
    child = site.start()
    site.drain()
    assert publisher.acknowledged <= {int(reading.value) for reading in otlp_sink.readings()}
    assert f"mounted at {disk.path}; free some room there" in site.status()["store"]["trouble"]
    assert child.terminate() == 0
    assert "Traceback" not in child.output, child.tail(40)


@pytest.mark.slow
def test_a_damaged_shelf_on_a_read_only_disk(
    make_small_disk: Callable[[int], TmpfsDisk], tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """Nothing can be salvaged there: one sentence about both, exit code 1, not a byte changed."""
    disk = make_small_disk(8 << 20)
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, state_dir=disk.path / "state")
    assert site.start().terminate() == 0
    path = site.state_dir / "tidegate.db"
    path.write_bytes(path.read_bytes()[:2048])
    disk.read_only()
    child = site.launch()
    assert child.wait() == 1, child.output
    said = child.lines[-1]
    assert said.startswith(f"tidegate: {path} is damaged (the file is cut short), and salvaging it failed: ")
    assert f"the disk is read-only (mounted at {disk.path})" in said
    assert "Traceback" not in child.output, child.output
    assert len(path.read_bytes()) == 2048


@pytest.mark.slow
def test_a_second_gateway_on_the_same_directory(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """It is told whose directory that is and what to do, and the first does not notice."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child)
    first = site.start()
    other = tmp_path / "other"
    other.mkdir()
    intruder = Site(other, endpoint=otlp_sink.url, make_child=make_child, state_dir=site.state_dir)
    second = intruder.launch()
    assert second.wait() == 1, second.output
    assert f"pid {first.pid}" in second.output
    assert "state_dir" in second.output
    assert "Traceback" not in second.output, second.output
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 200, "the first to go on")
        settle(site, first, publisher, otlp_sink)


DAMAGES = ["flipped bits", "half a file", "somebody else's file", "no file", "zeros"]


def damage(state_dir: Path, kind: str, dice: random.Random) -> None:
    """Do to the database what disks and people do."""
    path = state_dir / "tidegate.db"
    log = state_dir / "tidegate.db-wal"
    data = bytearray(path.read_bytes())
    if kind == "flipped bits":
        for _ in range(30):
            data[dice.randrange(100, len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
    elif kind == "half a file":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "somebody else's file":
        path.write_bytes(json.dumps({"not": "ours"}).encode() * 1000)
    elif kind == "no file":
        path.unlink()
    else:
        start = dice.randrange(len(data) // 2)
        data[start : start + len(data) // 4] = bytes(len(data[start : start + len(data) // 4]))
        path.write_bytes(data)
    if log.exists() and dice.random() < 0.5:
        log.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_database(tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], kind: str) -> None:
    """It starts all the same, keeps the damaged file, says what was lost, counts it, and takes new data."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child)
    otlp_sink.always = Behaviour(status=503)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 3000, "some load")
        child.terminate()
        before = len(publisher.acknowledged)
        damage(site.state_dir, kind, random.Random(kind))
        otlp_sink.always = Behaviour()
        child = site.start()
        wait_until(lambda: len(publisher.acknowledged) > before + 200, "new data to be taken")
        status = site.status()
        publisher.stop()
        account = site.drain()
    assert account.gap == 0
    arrived = {int(reading.value) for reading in otlp_sink.readings()}
    missing = publisher.acknowledged - arrived
    if missing and kind != "no file":
        assert any("damaged" in event for event in status["events"]), status["events"]
        # Where the counters are gone too, the event says that nobody knows how much.
        known = not any("not known" in event for event in status["events"])
        assert not known or len(missing) <= account.ledger.get("damaged", 0), (len(missing), account, status["events"])
        assert any(".damaged-" in file.name for file in site.state_dir.iterdir())
    assert "Traceback" not in child.output, child.tail(40)
    assert child.terminate() == 0
    assert site.verify()[0] == 0, site.verify()[1]


@pytest.mark.slow
def test_a_database_that_is_damaged_while_the_gateway_is_dead(tmp_path: Path, make_child: Callable[..., Child]) -> None:
    """What `tidegate verify` says can be salvaged is what is salvaged: file and log are read as the kill left them."""
    site = Site(tmp_path, endpoint=f"http://127.0.0.1:{free_port()}", make_child=make_child)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        wait_until(lambda: len(publisher.acknowledged) > 5000, "some load")
        assert child.terminate() == 0
        child = site.start()
        path, log = site.state_dir / "tidegate.db", site.state_dir / "tidegate.db-wal"
        wait_until(lambda: log.stat().st_size > 40_000, "more of it, in the log")
        child.kill()
        publisher.stop()
    data = bytearray(path.read_bytes())
    for eighth in range(5, 8):
        start = len(data) * eighth // 8 // PAGE_BYTES * PAGE_BYTES
        data[start : start + 64] = bytes(byte ^ 0xFF for byte in data[start : start + 64])
    path.write_bytes(data)
    assert look(path) is None, "it only shows where SQLite reads it"
    code, said = site.verify()
    assert code == 1
    child = site.start()
    events = site.status()["events"]
    assert not any("-wal" in event or "came last" in event for event in events), events
    (event,) = (event for event in events if " was damaged (" in event)
    found, lost = event[event.rindex("): ") + 3 :].split("; the damaged file")[0].split(" were salvaged, ")
    assert f"{found} can be salvaged, {lost};" in said, (said, event)
    account = site.account()
    assert account.gap == 0
    assert 0 < account.ledger["damaged"] < account.accepted
    stop_well(site, child)
