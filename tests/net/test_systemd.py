"""systemd hears what it asked for, and nobody minds where it does not listen."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.net import systemd
from gateway.net.systemd import ask_for_patience, keep_quiet, notify, runtime_directory


def test_notify_speaks_to_abstract_sockets_and_forgives_dead_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd may use either; nobody there is no error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0tidegate-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@tidegate-test-notify")
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


@pytest.mark.parametrize(
    ("value", "found"), [("", None), ("/run/tidegate", Path("/run/tidegate")), ("/run/one:/run/two", Path("/run/one"))]
)
def test_the_folder_in_memory_is_the_first_that_systemd_names(
    monkeypatch: pytest.MonkeyPatch, value: str, found: Path | None
) -> None:
    """Elsewhere there is none."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", value)
    assert runtime_directory() == found
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert runtime_directory() is None


async def test_patience_is_asked_for_again_and_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three times as much time as passes until it is asked for again."""
    monkeypatch.setattr(systemd, "PATIENCE_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        task = asyncio.create_task(ask_for_patience())
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            heard = [await loop.sock_recv(listener, 1000) for _ in range(2)]
        task.cancel()
    assert heard[0].startswith(b"EXTEND_TIMEOUT_USEC=30000\n")


def test_who_is_part_of_a_program_keeps_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the program's service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        keep_quiet("READY=1")
        with pytest.raises(BlockingIOError):
            heard.recv(100)
