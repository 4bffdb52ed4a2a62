"""What the assembly asks of its parts, and of a program that has a gateway inside of it. Must not hold behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import asyncio

    from gateway.pipeline import Pipeline
    from gateway.store.database import Store


class Part(Protocol):
    """A source or an uplink."""

    name: str

    async def run(self) -> None:
        """Serve until cancelled."""
        ...

    def status(self) -> dict[str, object]:
        """Say how it is."""
        ...


@runtime_checkable
class Listener(Protocol):
    """A part that says when it listens."""

    listening: asyncio.Event


@runtime_checkable
class NetworkUser(Protocol):
    """A part that may be waiting for a network."""

    def network_up(self) -> None:
        """Take note that there may be one again."""
        ...


class Program(Protocol):
    """A program in whose process a gateway lives: systemd, memory and disk are its own affair, and it has a door."""

    def door(self, pipeline: Pipeline, store: Store) -> Part:
        """Return the source by which it brings what it has."""
        ...
