"""Clients on a directory of the test's own, with a receiver that keeps what it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway import Client
from hil.client_script import quick

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hil.otlp_sink import OtlpSink


@pytest.fixture
def make_client(tmp_path: Path, rigs: contextlib.ExitStack) -> Iterator[Callable[..., Client]]:
    """Make clients: `make_client(config)`; those that still run are shut down in the end, before the rigs are."""
    made: list[Client] = []

    def make(config: dict[str, Any] | None = None, **options: Any) -> Client:
        options = {"state_dir": tmp_path / "state", **options}
        made.append(Client(config=config, **options))
        return made[-1]

    yield make
    for client in made:
        client._at_exit()


@pytest.fixture
def client(make_client: Callable[..., Client], otlp_sink: OtlpSink) -> Client:
    """A client of the receiver `otlp_sink`."""
    return make_client(quick(otlp_sink.url))
