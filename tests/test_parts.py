"""What the assembly asks of its parts."""

from __future__ import annotations

import asyncio

from gateway.parts import Listener, NetworkUser


def test_a_part_is_what_it_can() -> None:
    """Nobody has to say so: whoever has the method or the event is asked."""

    class Server:
        def __init__(self) -> None:
            self.listening = asyncio.Event()

    class Road:
        def network_up(self) -> None: ...

    assert isinstance(Server(), Listener)
    assert isinstance(Road(), NetworkUser)
    assert not isinstance(Road(), Listener)
    assert not isinstance(Server(), NetworkUser)
