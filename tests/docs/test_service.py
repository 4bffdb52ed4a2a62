"""The systemd unit is sound, keeps the gateway in, and never gives it up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway import app
from hil.fixtures import skip_because
from hil.needs import find_tool

ROOT = Path(__file__).resolve().parent.parent.parent
UNIT = ROOT / "docs/tidegate.service"
# What systemd would also close, and why it stays open.
OPEN = {
    "DeviceAllow=": "serial ports",
    "IPAddressDeny=": "the collector may be anywhere",
    "PrivateDevices=": "serial ports",
    "PrivateNetwork=": "it is a gateway",
    "PrivateUsers=": "the group of the serial ports",
    "ProcSubset=": "the boot's id and the board's name are in /proc",
    "ProtectClock=": "asking whether the clock is synchronised is adjtimex(2)",
    "RestrictAddressFamilies=~AF_(INET|INET6)": "it is a gateway",
    "RestrictAddressFamilies=~AF_NETLINK": "the kernel says there when a network comes up",
    "RestrictAddressFamilies=~AF_UNIX": "sd_notify(3)",
    "RootDirectory=/RootImage=": "it runs from its folder",
    "SupplementaryGroups=": "dialout",
    "SystemCallFilter=~@clock": "adjtimex(2)",
    "SystemCallFilter=~@privileged": "adjtimex(2)",
}


@pytest.fixture(scope="module")
def analyze() -> str:
    """systemd-analyze, which needs no systemd to be running."""
    found = find_tool("systemd-analyze")
    skip_because(
        "" if found else "systemd-analyze is not installed (Debian: apt-get install systemd)", can_be_installed=True
    )
    return str(found)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there: verify looks."""
    program = tmp_path / "opt/.venv/bin/tidegate"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "tidegate.service"
    path.write_text(UNIT.read_text().replace("/opt/tidegate/", f"{tmp_path}/opt/"))
    return path


def test_systemd_finds_nothing_to_complain_about(analyze: str, unit: Path) -> None:
    """No unknown key, no value that is ignored, in the oldest systemd that we run on."""
    done = subprocess.run([analyze, "verify", unit], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verify_would_find_a_mistake(analyze: str, unit: Path) -> None:
    """Or the test above would be for nothing."""
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtektSystem=strict"))
    done = subprocess.run([analyze, "verify", unit], check=False, capture_output=True, text=True)
    assert "ProtektSystem" in done.stderr


def test_what_is_open_is_open_for_a_reason(analyze: str, unit: Path) -> None:
    """Everything that systemd knows to close is closed, but for what the gateway needs."""
    command = [analyze, "security", "--offline=true", "--json=short", "--threshold=20", unit]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, "the exposure is more than 2.0"
    checks: list[dict[str, Any]] = json.loads(done.stdout)
    found = {check["name"] for check in checks if check["set"] is False}
    assert found <= OPEN.keys()


def setting(name: str) -> list[str]:
    """Return the values of a key, which may stand several times."""
    lines = (line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return [value for key, value in lines if key == name]


def test_it_is_started_again_whatever_happens() -> None:
    """No limit that a full disk could reach, and housekeeping, which feeds the watchdog, has ten turns in its time."""
    assert setting("StartLimitIntervalSec") == ["0"]
    assert (setting("Restart"), setting("Type")) == (["always"], ["notify"])
    (watchdog_s,) = setting("WatchdogSec")
    assert int(watchdog_s) >= 10 * app.HOUSEKEEPING_S


def test_only_serial_ports_can_be_opened_and_also_those_that_come_later() -> None:
    """systemd knows a kind of device only when its driver is loaded: the drivers of USB adapters are asked for."""
    assert setting("DevicePolicy") == ["closed"]
    assert all(value.startswith("char-tty") and value.endswith(" rw") for value in setting("DeviceAllow"))
    for key in ("Wants", "After"):
        assert "modprobe@usbserial.service modprobe@cdc_acm.service" in setting(key)


def test_the_user_and_its_folder() -> None:
    """Not root, and nobody else reads what devices said."""
    assert setting("User") == ["tidegate"]
    assert (setting("StateDirectory"), setting("StateDirectoryMode")) == (["tidegate"], ["0700"])
    assert (setting("RuntimeDirectory"), setting("RuntimeDirectoryMode")) == (["tidegate"], ["0700"])
    # What is noted there is for the next process, also after a stop.
    assert setting("RuntimeDirectoryPreserve") == ["yes"]
    assert setting("UMask") == ["0077"]
