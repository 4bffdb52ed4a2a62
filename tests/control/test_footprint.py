"""What the process takes of the machine is measured, shown, and said once when it is too much."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway.control.footprint import (
    Footprint,
    read_memory_limit,
    read_rss_bytes,
    read_written_bytes,
    within,
)
from gateway.control.profiles import load
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


class Machine:
    """What the kernel would say, and a footprint that looks at it every ten seconds."""

    def __init__(self, **limits: Any) -> None:
        self.written: int | None = 5_000_000
        self.rss: int | None = 40 * MIB
        self.now_s = 0.0
        self.telemetry = Telemetry()
        profile = msgspec.structs.replace(load("pi-zero-2w"), **limits)
        self.footprint = Footprint(
            profile,
            base_interval_s=1.0,
            bounds_bytes=7 * MIB,
            telemetry=self.telemetry,
            read_written=lambda: self.written,
            read_rss=lambda: self.rss,
        )

    def run(self, seconds: float, *, bytes_per_s: float = 0.0) -> Any:
        for _ in range(int(seconds / 10)):
            self.now_s += 10
            if self.written is not None:
                self.written += int(bytes_per_s * 10)
            pace = self.footprint.look(self.now_s, readings=int(self.now_s) * 100)
        return pace

    @property
    def flash(self) -> dict[str, Any]:
        return self.footprint.status()["flash"]

    @property
    def memory(self) -> dict[str, Any]:
        return self.footprint.status()["memory"]


def test_the_kernel_says_what_was_written_and_what_is_resident() -> None:
    """Of this very process."""
    before = read_written_bytes()
    assert before is not None
    assert before >= 0
    rss = read_rss_bytes()
    assert rss is not None
    assert 5 * MIB < rss < 5000 * MIB


@pytest.mark.parametrize("text", ["", "rchar: many\n", "write_bytes: many\n"])
def test_a_kernel_that_does_not_say_is_no_failure(tmp_path: Path, text: str) -> None:
    """Nothing is known then, as where /proc is hidden."""
    (tmp_path / "io").write_text(text)
    assert read_written_bytes(str(tmp_path / "io")) is None
    assert read_rss_bytes(str(tmp_path / "io")) is None
    assert read_written_bytes(str(tmp_path / "gone")) is None
    assert read_rss_bytes(str(tmp_path / "gone")) is None


def test_what_is_written_is_shown_by_the_day_and_by_the_reading() -> None:
    """From the start of the gateway on, not of the process: a reload must not bring its past along."""
    machine = Machine()
    machine.run(120, bytes_per_s=600)
    assert machine.flash == {
        "written_bytes": 72_000,
        "bytes_per_day": 600 * 86400,
        "bytes_per_day_max": 512 * MIB,
        "bytes_per_reading": 6.0,
        "commit_interval_s": 1.0,
        "early_commit_gap_s": 0.025,
        "is_stretched": False,
        "advice": "",
    }
    value = machine.telemetry.value
    assert value("tidegate_flash_bytes_per_day") == 600 * 86400
    assert value("tidegate_flash_bytes_per_day_max") == 512 * MIB
    assert value("tidegate_flash_commit_interval_seconds") == 1.0


def test_too_much_is_said_once_with_its_remedy_and_commits_become_rarer(caplog) -> None:
    """And once more when it is over."""
    machine = Machine()
    with caplog.at_level(logging.INFO):
        pace = machine.run(7200, bytes_per_s=60_000)
        assert pace == (5.0, 5.0)
        assert (machine.flash["is_stretched"], machine.flash["commit_interval_s"]) == (True, 5.0)
        assert "commit_interval" in machine.flash["advice"]
        assert caplog.text.count("than the 512 MiB that pi-zero-2w allows") == 1
        machine.run(7200)
    assert caplog.text.count("than the 512 MiB") == 1
    assert caplog.text.count("within the day's allowance again") == 1
    assert (machine.flash["is_stretched"], machine.flash["advice"]) == (False, "")


def test_where_nothing_is_known_nothing_is_stretched() -> None:
    """A status with gaps, and the pace that was configured."""
    machine = Machine()
    machine.written = machine.rss = None
    assert machine.run(100) == (1.0, 0.025)
    assert (machine.flash["bytes_per_day"], machine.memory["rss_bytes"]) == (None, None)


def test_memory_is_shown_against_its_limit() -> None:
    """With what all bounds together may take."""
    machine = Machine()
    machine.run(10)
    assert machine.memory == {"rss_bytes": 40 * MIB, "max_bytes": 64 * MIB, "bounds_bytes": 7 * MIB, "advice": ""}
    assert machine.telemetry.value("tidegate_memory_rss_bytes") == 40 * MIB
    assert machine.telemetry.value("tidegate_memory_max_bytes") == 64 * MIB


def test_too_much_memory_is_said_once(caplog) -> None:
    """Not again for every page more or less."""
    machine = Machine(memory_max=Size(50 * MIB))
    for rss in (49, 51, 49, 52, 51):
        machine.rss = rss * MIB
        machine.run(10)
    assert caplog.text.count("memory: ") == 1
    assert "51 MiB is resident" in caplog.text
    assert "pending_bytes" in machine.memory["advice"]
    machine.rss = 40 * MIB
    machine.run(10)
    assert machine.memory["advice"] == ""


def groups(root: Path, membership: str, limits: dict[str, str]) -> Path:
    """Return a file system whose kernel says that."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/system.slice/tidegate.service\n", {"system.slice/tidegate.service/memory.max": "100663296\n"}, 96 * MIB),
        ("0::/system.slice/tidegate.service\n", {"system.slice/tidegate.service/memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "5000\n", "memory.max": "9000\n"}, 5000),
        ("0::/\n", {"memory.max": "7000\n"}, 7000),
        ("5:memory:/a\n4:cpu,cpuacct:/b\n", {"memory/a/memory.limit_in_bytes": "6000\n"}, 6000),
        (
            "5:memory:/a\n4:cpu,cpuacct:/b\n",
            {"memory/a/memory.limit_in_bytes": "6000\n", "memory/b/memory.limit_in_bytes": "5000\n"},
            6000,
        ),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/gone\n", {}, None),
        ("", {}, None),
    ],
)
def test_a_limit_of_the_control_group_is_found(
    tmp_path: Path, membership: str, limits: dict[str, str], expected: int | None
) -> None:
    """Of either version of control groups, of the group itself or one around it."""
    assert read_memory_limit(groups(tmp_path, membership, limits)) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    """As on a kernel that was built without."""
    assert read_memory_limit(tmp_path) is None


def test_what_the_service_may_use_goes_before_the_profile() -> None:
    """If it is less: with a tenth for the kernel."""
    profile = load("x86-64")
    assert within(profile, None) == within(profile, 1 << 40) == profile
    assert within(profile, 96 * MIB).memory_max == int(96 * MIB * 0.9)


def test_of_a_process_that_others_share_nothing_is_known() -> None:
    """What is ours of it nobody can tell: no warning, and no commit that waits for it."""
    footprint = Footprint(load("x86-64"), base_interval_s=1.0, bounds_bytes=0, telemetry=Telemetry(), is_shared=True)
    pace = footprint.look(100.0, readings=5)
    assert pace.interval_s == 1.0
    status = footprint.status()
    assert (status["memory"]["rss_bytes"], status["flash"]["written_bytes"]) == (None, None)
    assert (status["memory"]["advice"], status["flash"]["advice"]) == ("", "")
