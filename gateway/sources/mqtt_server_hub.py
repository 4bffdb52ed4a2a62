"""What the connections of the MQTT server share, and the states that one can be in. Must not read or write.

A will is handed in from here, since the connection that left it is gone by then.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.sources.mqtt_server_intake import MESSAGE_BYTES, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.net.mqtt_packets import Will
    from gateway.sources.mqtt_server_admission import Limits
    from gateway.sources.mqtt_server_auth import Attempts, Doorkeeper
    from gateway.sources.mqtt_server_connection import Connection
    from gateway.sources.mqtt_server_intake import Intake
    from gateway.sources.mqtt_server_session import Session, SessionKey, Sessions

READ_BYTES: Final = 256 * 1024


class State(enum.Enum):
    """How far a connection is."""

    NEW = "new"  # nothing known; waits for CONNECT
    REFUSED = "refused"  # the answer to a wrong password waits
    OPEN = "open"
    ENDING = "ending"  # reads no more; what was taken is still acknowledged
    CLOSING = "closing"  # all is said; waits for the other side to hang up
    CLOSED = "closed"


class Pause(enum.IntFlag):
    """Why nothing is read from a connection now."""

    NONE = 0
    OWN = 1  # it has enough in flight
    SHARED = 2  # the gateway is full, or all connections together have enough in flight
    WRITE = 4  # it does not read its answers
    ENDING = 8


@dataclass(slots=True, kw_only=True, eq=False)
class Hub:
    """What the connections of one server share, handed to each of them."""

    limits: Limits
    intake: Intake
    sessions: Sessions
    doorkeeper: Doorkeeper
    attempts: Attempts
    refuse: Callable[[str, str], None]
    """Count a reason; the sentence is the last error."""
    is_stopping: bool = False
    is_pressed: bool = False
    partial_bytes: int = 0
    topics: dict[bytes, bytes] = field(default_factory=dict)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    connections: dict[Connection, None] = field(default_factory=dict)
    connecting: dict[Connection, None] = field(default_factory=dict)
    all_gone: asyncio.Event = field(default_factory=asyncio.Event)
    by_session: dict[SessionKey, Connection] = field(default_factory=dict)

    def now_s(self) -> float:
        """Return the event loop's time; waits and silences are measured by it."""
        return asyncio.get_running_loop().time()

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self.connections.pop(connection, None)
        self.connecting.pop(connection, None)
        if not self.connections:
            self.all_gone.set()

    def settle(self) -> None:
        """Nobody waits for an answer to a will."""

    def fail(self) -> None:
        """Nobody waits for an answer to a will."""

    def publish_will(self, will: Will) -> None:
        """Hand a will in as an ordinary message."""
        size = len(will.payload) + MESSAGE_BYTES
        self.intake.put(Receipt(self, b"", 1, size), [will.topic], [will.payload])

    def wake_will(self, session: Session) -> None:
        """Hand in a will that has waited, once."""
        will, session.will = session.will, None
        if session.will_timer is not None:
            session.will_timer.cancel()
            session.will_timer = None
        if will is not None:
            self.publish_will(will)
