"""A power cut loses what was not synced, and only that."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from hil.children import Child, python

if TYPE_CHECKING:
    from pathlib import Path

# Appends numbers to a file on the disk and says on stdout (a pipe, outside the disk) which ones are done.
WRITER = """
import os, sys
folder, sync = sys.argv[1], sys.argv[2] == "sync"
file = os.open(folder + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
if sync:
    os.fsync(os.open(folder, os.O_RDONLY))
for number in range(10**9):
    os.write(file, b"%08d\\n" % number)
    if sync:
        os.fsync(file)
    print(number, flush=True)
"""


def sync(path: Path) -> None:
    """Have a file or a folder written."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_and_cut(power_cut, mode: str, *, acknowledged: int) -> tuple[int, list[bytes]]:
    """Return the last number that was acknowledged before the cut, and what the disk holds after it."""
    with Child(python("-c", WRITER, power_cut.path, mode)) as writer:
        for _ in range(acknowledged):
            writer.next_line()
        power_cut.cut(writer.process)
        writer.wait()
        last = int(writer.lines[-1])
    log = power_cut.path / "log"
    return last, log.read_bytes().splitlines() if log.exists() else []


def test_what_was_not_synced_is_lost(power_cut) -> None:
    """Thousands of writes that came back fine are gone."""
    last, lines = write_and_cut(power_cut, "lazy", acknowledged=2000)
    assert last >= 1999
    assert lines == []


def test_what_was_synced_is_there(power_cut) -> None:
    """Every acknowledged write survives, in order, and nothing else but at most the one under way."""
    last, lines = write_and_cut(power_cut, "sync", acknowledged=100)
    assert [int(line) for line in lines[: last + 1]] == list(range(last + 1))
    assert len(lines) <= last + 2
    power_cut.check()


def test_it_goes_on_after_a_cut(power_cut) -> None:
    """Rounds follow each other on the same disk, at about a tenth of a second each."""
    started_s = time.monotonic()
    for number in range(5):
        kept = power_cut.path / f"kept-{number}"
        kept.write_bytes(b"x")
        # Not `sync`: that is for all disks, those of tests beside this one as well.
        for path in (kept, power_cut.path):
            sync(path)
        (power_cut.path / f"lost-{number}").write_bytes(b"x")
        power_cut.cut()
    took_s = (time.monotonic() - started_s) / 5
    assert sorted(path.name for path in power_cut.path.glob("*-*")) == [f"kept-{n}" for n in range(5)]
    assert power_cut.cuts == 5
    assert took_s < 10


def test_who_has_all_mounts_in_a_namespace_of_its_own_keeps_no_disk_alive(power_cut) -> None:
    """As `ip netns exec` and containers do: after the cut the disk can be written."""
    with Child(["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo here; exec sleep 60"]) as other:
        assert other.next_line() == "here"
        power_cut.cut()
        (power_cut.path / "file").write_bytes(b"x")
        other.process.kill()
        other.wait()


@pytest.mark.nightly
def test_hundreds_of_cuts(power_cut) -> None:
    """The same promise at hundreds of random moments."""
    for round_ in range(300):
        (power_cut.path / "log").unlink(missing_ok=True)
        last, lines = write_and_cut(power_cut, "sync", acknowledged=1 + round_ % 37)
        assert [int(line) for line in lines[: last + 1]] == list(range(last + 1))
