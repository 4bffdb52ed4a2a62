"""What /proc says of this process, as every exporter names it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from gateway.control.process import process_families

if TYPE_CHECKING:
    from pathlib import Path

STAT = "7 (a) b) c) S " + " ".join(str(number) for number in range(4, 53))
LIMITS = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one process, whose fields are their own numbers (proc(5) counts from 1)."""
    (tmp_path / "self/fd").mkdir(parents=True)
    (tmp_path / "self/fd/0").touch()
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1700000000\n")
    (tmp_path / "self/stat").write_text(STAT)
    (tmp_path / "self/limits").write_text(LIMITS)
    return tmp_path


def values(proc: Path) -> dict[str, float]:
    return {family.name: family.values[()] for family in process_families(str(proc))}


def test_the_fields_of_proc_are_read(proc: Path) -> None:
    """CPU and start in ticks, memory in pages, a name with brackets in it."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert values(proc) == {
        "process_virtual_memory_bytes": 23,
        "process_resident_memory_bytes": 24 * page,
        "process_start_time_seconds": 1_700_000_000 + 22 / ticks,
        "process_cpu_seconds": pytest.approx((14 + 15) / ticks),
        "process_open_fds": 1,
        "process_max_fds": 1024,
    }


def test_they_are_named_as_everywhere() -> None:
    """The same names, kinds, words and order as Prometheus' own client; its numbers, as far as they stand still."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs = list(registry.collect())
    ours = list(process_families())
    assert [(f.name.removesuffix("_total"), f.help, f.kind) for f in ours] == [
        (family.name, family.documentation, family.type) for family in theirs
    ]
    for name in ("process_start_time_seconds", "process_max_fds"):
        (our,) = [f.values[()] for f in ours if f.name == name]
        assert our == registry.get_sample_value(name)


@pytest.mark.parametrize(
    ("file", "text", "left"),
    [
        ("stat", "cpu 1\n", {"process_open_fds", "process_max_fds"}),
        ("self/stat", "7 (a) S 1", {"process_open_fds", "process_max_fds"}),
        ("self/limits", LIMITS.replace("1024", "unlimited"), {"process_open_fds", "rest"}),
    ],
)
def test_what_the_kernel_does_not_say_is_left_out(proc: Path, file: str, text: str, left: set[str]) -> None:
    """A kernel without it, a container that hides it, no limit at all: the rest is shown."""
    (proc / file).write_text(text)
    assert {n if n.endswith("fds") else "rest" for n in values(proc)} == left


def test_no_proc_is_no_error(tmp_path: Path) -> None:
    """Nothing is said then."""
    assert values(tmp_path / "none") == {}
