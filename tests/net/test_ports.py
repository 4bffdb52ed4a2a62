"""Free ports."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from gateway.net import ports
from gateway.net.ports import KERNELS, free_port

if TYPE_CHECKING:
    from pathlib import Path


def test_a_free_port_can_be_listened_on() -> None:
    """At once, and by us."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()


def test_it_is_none_that_the_kernel_gives_to_somebody_else() -> None:
    """Whoever connects somewhere gets a port of the kernel's own; before it is listened on this one is nobody's."""
    first, _ = map(int, KERNELS.read_text(encoding="ascii").split())
    assert all(ports.FIRST <= free_port() < first for _ in range(50))


@pytest.mark.parametrize("said", ["16384\t60999\n", "1024\t60999\n", "", None])
def test_where_the_kernel_leaves_none_it_is_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    """Or says nothing of what it leaves."""
    monkeypatch.setattr(ports, "KERNELS", tmp_path / "range")
    if said is not None:
        (tmp_path / "range").write_text(said, encoding="ascii")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()


def test_one_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for another one."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        tried = iter([port - ports.FIRST, port - ports.FIRST])
        monkeypatch.setattr(ports.secrets, "randbelow", lambda bound: next(tried, bound - 1))
        assert free_port() != port
